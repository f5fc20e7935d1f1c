/* An answer's token ids to its text: what detok.h does, and the marks by which some models tell
 * their thoughts from the answer proper. Whatever the model's marks, thoughts come out as
 * <think>...</think> before the answer. Plain data in the caller's storage; borrows the template
 * and the tokenizer; nothing to free; one thread at a time. */
#ifndef ENGINE_ANSWER_H
#define ENGINE_ANSWER_H

#include "engine/detok.h"
#include "engine/template.h"

struct answer {
    const struct template *template; /* NULL: marks mean nothing */
    struct detok detok;
    bool owes_think; /* the head of the answer already began the thoughts */
    bool thinking;
    bool said;   /* a part of the answer has begun */
    bool final;  /* the last part has */
    bool header; /* what comes names the next part */
    bool unsure; /* ... if it begins as a name does: the head of the answer ended before it */
    bool line;   /* ... or the thoughts, up to the end of the line */
    int n_name;
    char name[32]; /* the beginning of that name */
};

/* path[0..n): the ids that the answer follows. fresh: an answer begins there; otherwise it does so
 * only if the path ends with the head of one, and goes on within the path's last if not. tp NULL:
 * no format, the ids are a text like any other. */
void answer_init(struct answer *a, const struct template *tp, const struct tokenizer *t,
                 const int32_t *path, int32_t n, bool fresh);
/* Appends to *out what the token completes; may append nothing. */
void answer_push(struct answer *a, int32_t id, struct str *out);
/* Whether the token, which is not pushed, ends the answer. Some models end the last part only. */
bool answer_is_over(const struct answer *a, int32_t id);
/* The end of the text, as detok_flush. */
void answer_flush(struct answer *a, struct str *out);

#endif
