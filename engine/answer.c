#include "engine/answer.h"

#include <string.h>

/* Of a part whose name a format writes before it. */
static bool is_named(const struct answer *a, const char *name)
{
    size_t n = strlen(name);
    return (size_t)a->n_name >= n && memcmp(a->name, name, n) == 0;
}

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
    a->header = a->line = false;
    answer_flush(a, out);
    if (thoughts != a->thinking)
        str_adds(out, thoughts ? "<think>" : "</think>");
    else if (a->said)
        str_adds(out, "\n\n");
    a->thinking = thoughts;
    a->said = true;
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
        a->n_name = 0;
        return true;
    case TEMPLATE_BODY:
        begin_part(a, is_named(a, "analysis"), out);
        a->final = is_named(a, "final");
        return true;
    case TEMPLATE_PART_END:
        return true;
    case TEMPLATE_TEXT:
        break;
    }
    if (a->header)
        add_name(a, id);
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
        a->thinking = a->said = a->final = a->header = a->line = false;
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
