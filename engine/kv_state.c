/* States of layers that keep one of fixed size (engine/recurrent.h).
 *
 * A state is of one position and cannot be taken back, so a few stay at hand to go back to: of the last
 * multiple of 64 before the newest prompt, before its answer, and behind. Pages begin there, too. A pass
 * reads one state and writes another; what was written and is wanted stays where it is, so that nothing is
 * copied. Single tokens of an answer change a state in place that nobody else wants: half the bytes. Lines
 * that share a beginning share states. */
#include <assert.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/kv_impl.h"

uint64_t kv_state_bytes(const struct kv_shape *s)
{
    return (uint64_t)s->n_state_layer * (uint64_t)s->state_floats * sizeof(float);
}

static enum status state_new(struct kv_pool *p, struct kv_state **ret, struct err *e)
{
    uint64_t size = kv_state_bytes(&p->shape);
    if (p->used_bytes + size > p->budget_bytes)
        return kv_full(p, size, e);
    struct kv_state *s = mem_calloc(1, sizeof *s);
    s->n_ref = 1;
    s->dev = p->kern->ops->alloc(p->kern, size);
    if (!s->dev) {
        free(s);
        return err_set(e, ERR_MEMORY, "out of memory: no %llu bytes for a state of the model",
                       (unsigned long long)size);
    }
    p->used_bytes += size;
    *ret = s;
    return OK;
}

static void state_free(struct kv_pool *p, struct kv_state **s)
{
    if (!*s)
        return;
    p->kern->ops->free(p->kern, (*s)->dev);
    p->used_bytes -= kv_state_bytes(&p->shape);
    free(*s);
    *s = NULL;
}

/* What nobody else has is for the line's next pass. */
static void drop(struct kv_line *l, struct kv_state **s)
{
    struct kv_states *t = &l->states;
    struct kv_state *old = *s;
    *s = NULL;
    if (!old || --old->n_ref > 0)
        return;
    struct kv_state **place = !t->next ? &t->next : !t->mid ? &t->mid : NULL;
    if (!place) {
        state_free(l->pool, &old);
        return;
    }
    *old = (struct kv_state){.n_ref = 1, .dev = old->dev};
    *place = old;
}

static void take(struct kv_line *l, struct kv_state **place, struct kv_state *s)
{
    if (s)
        s->n_ref++;
    drop(l, place);
    *place = s;
}

uint64_t kv_states_reserve_bytes(const struct kv_line *l)
{
    const struct kv_states *t = &l->states;
    return (uint64_t)(!t->now + !t->next + !t->mid) * kv_state_bytes(&l->pool->shape);
}

enum status kv_states_reserve(struct kv_line *l, struct err *e)
{
    struct kv_pool *p = l->pool;
    struct kv_states *t = &l->states;
    if (p->shape.n_state_layer == 0)
        return OK;
    if (!t->now) { /* nothing was read yet */
        TRY(state_new(p, &t->now, e));
        p->kern->ops->clear(p->kern, t->now->dev, kv_state_bytes(&p->shape));
    }
    if (!t->next)
        TRY(state_new(p, &t->next, e));
    return t->mid ? OK : state_new(p, &t->mid, e);
}

struct kv_pass kv_pass(struct kv_line *l, int32_t n_tok, bool prompt_end, bool certain)
{
    struct kv_states *t = &l->states;
    if (l->pool->shape.n_state_layer == 0)
        return (struct kv_pass){0};
    assert(t->now && t->next && t->now->n_tok == l->n_tok);
    /* The answer may be asked for once more: its prompt's last token is read again then. */
    int32_t last = (l->n_tok + n_tok - 1) / KERN_BLOCK_TOK * KERN_BLOCK_TOK;
    if (n_tok > 1 && t->answering) /* a new prompt */
        take(l, &t->before_prompt, t->newest);
    t->answering = n_tok == 1;
    t->prompt_end = prompt_end;
    t->in_place = certain && n_tok == 1 && t->now->n_ref == 1;
    if (t->in_place)
        return (struct kv_pass){.before = t->now->dev, .after = t->now->dev};
    t->next->n_tok = l->n_tok + n_tok;
    t->n_mid = prompt_end && last > l->n_tok ? last - l->n_tok : 0;
    return (struct kv_pass){t->now->dev, t->n_mid > 0 ? t->mid->dev : NULL, t->next->dev, t->n_mid};
}

/* The state that was written becomes the line's; what it was may be for the next pass. */
static void turn_over(struct kv_line *l)
{
    struct kv_states *t = &l->states;
    if (t->n_mid > 0) {
        t->mid->n_tok = t->now->n_tok + t->n_mid;
        take(l, &t->newest, t->mid);
        drop(l, &t->mid);
        t->n_mid = 0;
    }
    if (t->prompt_end)
        take(l, &t->before_answer, t->newest);
    struct kv_state *old = t->now;
    t->now = t->next;
    t->next = NULL;
    drop(l, &old);
}

void kv_states_commit(struct kv_line *l)
{
    struct kv_states *t = &l->states;
    if (t->in_place) {
        t->now->n_tok = l->n_tok;
        t->now->kept = false;
        t->in_place = false;
    } else if (t->next && t->next->n_tok == l->n_tok) {
        turn_over(l);
    } else {
        return;
    }
    if (t->now->n_tok % KERN_BLOCK_TOK == 0)
        take(l, &t->newest, t->now);
    /* Tokens that were reserved together may come one by one. */
    if (!t->next) {
        t->next = t->mid;
        t->mid = NULL;
    }
    t->prompt_end = false;
}

static struct kv_state **places(struct kv_states *t, int32_t i)
{
    struct kv_state **all[KV_STATE_PLACES] = {&t->before_prompt, &t->before_answer, &t->newest};
    return all[i];
}

struct kv_state *kv_states_at(const struct kv_line *l, int32_t i)
{
    return *places((struct kv_states *)&l->states, i);
}

bool kv_states_here(const struct kv_line *l)
{
    return l->pool->shape.n_state_layer == 0 || l->n_tok == 0 ||
           (l->states.now && l->states.now->n_tok == l->n_tok);
}

int32_t kv_states_back(const struct kv_line *l, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 0; i < KV_STATE_PLACES; i++) {
        const struct kv_state *s = kv_states_at(l, i);
        if (s && s->n_tok <= n && s->n_tok > best)
            best = s->n_tok;
    }
    return best;
}

void kv_states_cut(struct kv_line *l, int32_t n)
{
    struct kv_states *t = &l->states;
    if (t->now && t->now->n_tok != n)
        drop(l, &t->now);
    for (int32_t i = 0; i < KV_STATE_PLACES; i++) {
        struct kv_state **s = places(t, i);
        if (*s && (*s)->n_tok > n)
            drop(l, s);
        else if (*s && (*s)->n_tok == n)
            take(l, &t->now, *s);
    }
    if (!t->newest)
        take(l, &t->newest, t->before_answer ? t->before_answer : t->before_prompt);
    t->answering = t->in_place = false;
    if (t->next)
        t->next->n_tok = 0; /* of a pass that came to nothing */
}

void kv_states_filled(struct kv_line *l)
{
    l->states.now->n_tok = l->n_tok;
    if (l->n_tok % KERN_BLOCK_TOK == 0)
        take(l, &l->states.newest, l->states.now);
}

void kv_states_copy(struct kv_line *l, const struct kv_line *src)
{
    take(l, &l->states.now, src->states.now);
    for (int32_t i = 0; i < KV_STATE_PLACES; i++)
        take(l, places(&l->states, i), kv_states_at(src, i));
}

void kv_states_free(struct kv_line *l)
{
    struct kv_states *t = &l->states;
    drop(l, &t->now);
    for (int32_t i = 0; i < KV_STATE_PLACES; i++)
        drop(l, places(t, i));
    state_free(l->pool, &t->next);
    state_free(l->pool, &t->mid);
}

void kv_states_repeat(struct kv_line *l)
{
    struct kv_states *t = &l->states;
    if (l->pool->shape.n_state_layer == 0)
        return;
    l->pool->kern->ops->copy(l->pool->kern, t->next->dev, t->now->dev, kv_state_bytes(&l->pool->shape));
    t->next->n_tok = l->n_tok;
    t->prompt_end = false;
    kv_states_commit(l);
}

uint64_t kv_states_bytes(const struct kv_line *l)
{
    const struct kv_states *t = &l->states;
    const struct kv_state *all[] = {t->now, t->next, t->mid, t->before_prompt, t->before_answer, t->newest};
    enum { N = sizeof all / sizeof *all };
    uint64_t n = 0;
    for (int32_t i = 0; i < N; i++) {
        bool seen = !all[i];
        for (int32_t j = 0; j < i; j++)
            seen |= all[j] == all[i];
        n += !seen;
    }
    return n * kv_state_bytes(&l->pool->shape);
}
