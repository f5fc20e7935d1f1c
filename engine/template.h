/* Chat formats: messages to token ids in the form a model was trained on.
 *
 * The model's Jinja template is not run; it is recognised by its markers, and one of our own
 * formats renders the messages. Control tokens come from the format alone: the texts of messages
 * never become control tokens, whatever they contain. Rendering is incremental: the tokens already
 * fed stay as they are, and only what is new is rendered after them.
 *
 * Threads: immutable after opening. Errors: enum status + struct err. */
#ifndef ENGINE_TEMPLATE_H
#define ENGINE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/str.h"
#include "engine/engine.h" /* struct engine_message */
#include "engine/tokenizer.h"

struct gguf;
struct template;

/* Whether the model is to write down thoughts before it answers. */
enum template_reasoning {
    TEMPLATE_REASONING_AUTO, /* as the template does unasked */
    TEMPLATE_REASONING_ON,
    TEMPLATE_REASONING_OFF,
    TEMPLATE_REASONINGS
};
/* By its name, "auto", "on" or "off"; NULL = auto. */
enum status template_reasoning_find(const char *name, enum template_reasoning *ret, struct err *e);

/* Looks at the model's own template (tokenizer.chat_template). *ret is never NULL on OK: a model
 * without a template, or with one that is not recognised, gets a template whose name is "" and
 * which concatenates the texts. t is borrowed and must outlive it. */
enum status template_open(const struct gguf *g, const struct tokenizer *t, enum template_reasoning reasoning,
                          struct template **ret, struct err *e);
/* The same from the template's source; t may be NULL, then only template_text works. */
enum status template_recognise(const char *source, size_t len, const char *bos, const char *eos,
                               const struct tokenizer *t, enum template_reasoning reasoning,
                               struct template **ret, struct err *e);
void template_free(struct template *tp); /* NULL is fine */

const char *template_name(const struct template *tp); /* "chatml", "llama3", ...; "" = none */
/* True when the model brought a template that we do not know: worth a notice to the user. */
bool template_is_unknown(const struct template *tp);

/* Whether two of the same source make the model answer in the same way: its format has no switch. */
bool template_alike(const struct template *a, const struct template *b);

/* Renders new messages after prefix[0..n_prefix), the ids of the path as fed (0 = a new
 * conversation: bos and the model's default system prompt come first), and then what makes the
 * model answer. An answer at the end of the prefix is closed first: with the whole end-of-turn
 * sequence, or with what is missing of it when its first tokens were fed. n_message = 0 renders
 * nothing: the model goes on where it is. raw: no format at all, the texts are concatenated (bos
 * first when the prefix is empty). Appends to *out. */
enum status template_render(const struct template *tp, const int32_t *prefix, int32_t n_prefix,
                            const struct engine_message *messages, int32_t n_message, bool raw,
                            struct tok_list *out, struct err *e);

/* The text that template_render would encode, without ids: for tests and `--verbose`. `generate`
 * adds the head of the assistant's answer. *ret_ranges (malloc'ed, may be NULL when not wanted)
 * are the parts written by the format. */
enum status template_text(const struct template *tp, bool first,
                          const struct engine_message *messages, int32_t n_message, bool generate,
                          struct str *out, struct tok_range **ret_ranges, size_t *ret_n_range,
                          struct err *e);

/* Some formats write the date into the system prompt. Fixes it ("2024-07-26") for results that can
 * be repeated; NULL or "" = the local date when rendering. Not while another thread renders. */
void template_set_today(struct template *tp, const char *today);

/* Whether generation stops at this token: the tokenizer's ends and the format's own, but for one
 * that ends a part of an answer only. */
bool template_is_stop(const struct template *tp, int32_t id);
/* What a token inside an answer means for the text that is shown of it (see answer.h). */
enum template_mark {
    TEMPLATE_TEXT,        /* nothing: it is part of the text */
    TEMPLATE_THINK,       /* thoughts begin */
    TEMPLATE_THINK_NAMED, /* ... after the end of the line, which is not text */
    TEMPLATE_ANSWER,      /* thoughts end */
    TEMPLATE_HEADER,      /* the next part's name follows, which is not text */
    TEMPLATE_BODY,        /* ... and ends */
    TEMPLATE_PART_END,    /* a part of the answer ends; another follows */
};
enum template_mark template_mark(const struct template *tp, int32_t id);
/* Which part of an answer has the name that stands between TEMPLATE_HEADER and TEMPLATE_BODY. */
enum template_part { TEMPLATE_PART_ANY, TEMPLATE_PART_THOUGHTS, TEMPLATE_PART_LAST };
enum template_part template_part(const struct template *tp, const char *name, size_t n);
/* How the first part's name begins, where the head of an answer ends just before it; else NULL. */
const char *template_name_lead(const struct template *tp);
/* Whether the ids end with a question and the head of its answer. */
bool template_awaits_answer(const struct template *tp, const int32_t *ids, int32_t n);
/* Whether the head of an answer ends with <think>, so that the model does not write it. */
bool template_begins_thinking(const struct template *tp);
/* Formats without an end token (Alpaca, Vicuna, ...) also stop where the model begins to write the
 * user's next turn. NULL-terminated list, empty when the tokens suffice; borrowed. */
const char *const *template_stop_texts(const struct template *tp);

#endif
