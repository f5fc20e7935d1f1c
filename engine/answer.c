#include "engine/answer.h"

#include <string.h>

static void add_name(struct answer *a, int32_t id)
{
    size_t n, room = sizeof a->name - (size_t)a->n_name;
    const char *s = tokenizer_piece(a->detok.tokenizer, id, &n);
    n = n < room ? n : room;
    if (s)
        memcpy(a->name + a->n_name, s, n);
    a->n_name += (int)n;
}

/* The token that ends the line ends with it: vocabularies have no others. */
static bool skip_line(struct answer *a, int32_t id)
{
    size_t n;
    const char *s = tokenizer_piece(a->detok.tokenizer, id, &n);
    a->line = !s || !memchr(s, '\n', n);
    return true;
}

static void begin_part(struct answer *a, bool thoughts, struct str *out)
{
    a->header = a->unsure = a->line = false;
    answer_flush(a, out);
    if (thoughts != a->thinking)
        str_adds(out, thoughts ? "<think>" : "</think>");
    else if (a->said)
        str_adds(out, "\n\n");
    a->thinking = thoughts;
    a->said = true;
}

/* Adds the token to the next part's name. False where a name might stand, but this is none: then what was taken
 * for its beginning is text. */
static bool is_name(struct answer *a, int32_t id, struct str *out)
{
    int before = a->n_name;
    add_name(a, id);
    const char *lead = a->unsure ? template_name_lead(a->template) : "";
    size_t n = strlen(lead) < (size_t)a->n_name ? strlen(lead) : (size_t)a->n_name;
    if (memcmp(a->name, lead, n) == 0)
        return true;
    str_add(out, a->name, (size_t)before);
    a->header = a->unsure = false;
    return false;
}

/* False when the token is text. */
static bool take_mark(struct answer *a, int32_t id, struct str *out)
{
    switch (template_mark(a->template, id)) {
    case TEMPLATE_THINK:
        begin_part(a, true, out);
        return true;
    case TEMPLATE_THINK_NAMED:
        begin_part(a, true, out);
        a->line = true;
        return true;
    case TEMPLATE_ANSWER:
        begin_part(a, false, out);
        return true;
    case TEMPLATE_HEADER:
        a->header = true;
        a->unsure = false;
        a->n_name = 0;
        return true;
    case TEMPLATE_BODY: {
        enum template_part part = template_part(a->template, a->name, (size_t)a->n_name);
        begin_part(a, part == TEMPLATE_PART_THOUGHTS, out);
        a->final = part == TEMPLATE_PART_LAST;
        return true;
    }
    case TEMPLATE_PART_END:
        return true;
    case TEMPLATE_TEXT:
        break;
    }
    if (a->header && !is_name(a, id, out))
        return false;
    if (a->line)
        return skip_line(a, id);
    return a->header;
}

void answer_init(struct answer *a, const struct template *tp, const struct tokenizer *t,
                 const int32_t *path, int32_t n, bool fresh)
{
    struct str ignored = {0};
    fresh = fresh || (tp && template_awaits_answer(tp, path, n)); /* the question is asked again */
    *a = (struct answer){.template = tp};
    detok_init(&a->detok, t, false, fresh);
    if (!tp)
        return;
    for (int32_t i = 0; i < n; i++) {
        take_mark(a, path[i], &ignored);
        if (template_is_stop(tp, path[i])) /* an answer that was cut off in its thoughts */
            a->thinking = a->said = a->final = false;
        str_clear(&ignored);
    }
    str_fini(&ignored);
    if (fresh) {
        /* a model may write no marks */
        a->thinking = a->said = a->final = a->line = false;
        a->header = a->unsure = template_name_lead(tp) != NULL;
        a->n_name = 0;
        a->owes_think = template_begins_thinking(tp);
    }
}

void answer_push(struct answer *a, int32_t id, struct str *out)
{
    if (a->owes_think)
        str_adds(out, "<think>");
    a->owes_think = false;
    if (!a->template || !take_mark(a, id, out))
        detok_push(&a->detok, id, out);
}

bool answer_is_over(const struct answer *a, int32_t id)
{
    return a->template && (template_is_stop(a->template, id) ||
                           (a->final && template_mark(a->template, id) == TEMPLATE_PART_END));
}

void answer_flush(struct answer *a, struct str *out)
{
    detok_flush(&a->detok, out);
}
