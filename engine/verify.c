#include "engine/verify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/compare.h"
#include "engine/base/mem.h"
#include "engine/room.h"

#define EVENT_PERIOD_S 0.1

/* So far a third pass shows what rounding alone makes of a difference that means nothing. Which one hardly
 * matters. KL and top-1 of SmolLM2-135M on 600 tokens of WikiText-2: Q4_1 .0022, 96.8 % for 1e-5 and .0024,
 * 97.7 % for 1e-3, where 8/8 pages show .0019, 97.4 %; F16 3e-7 for 1.5e-5, 1e-6 for 1e-3. */
enum { ROUNDING_TOK = 1024 };
#define NUDGE (1.0f / 65536)

struct verify *verify_new(int64_t timeline, const int32_t *ids, int32_t n, uint64_t number)
{
    struct verify *v = mem_calloc(1, sizeof *v);
    *v = (struct verify){number, timeline, mem_calloc((size_t)n + 1, sizeof *ids), n};
    if (n > 0)
        memcpy(v->ids, ids, (size_t)n * sizeof *ids);
    return v;
}

void verify_free(struct verify *v)
{
    if (!v)
        return;
    free(v->ids);
    free(v);
}

/* ---- a running one ---- */

struct run {
    struct local *l;
    const struct verify *v;
    struct kv_line *held; /* the timeline; its pages are lent to `packed` */
    struct kv_line *exact, *packed, *nudged;
    struct forward *forward_exact, *forward_nudged; /* with their own scratch: all passes' rows are at hand at once */
    struct compare compare, rounding;
    struct stats_agree *agree; /* [n] of the positions compared */
    int32_t n; /* tokens to be read: not a last one that was chosen when the context was full */
    int32_t at, now,
        pass, n_pass; /* the chunk being read: its place, its length, which of the passes */
    double start_s, told_s;
};

static void tell(struct run *r, double n_done)
{
    double now = clock_s();
    if (now - r->told_s < EVENT_PERIOD_S)
        return;
    r->told_s = now;
    struct stats *s = &r->l->stats;
    pthread_mutex_lock(&r->l->lock);
    s->phase = STATS_VERIFY;
    s->n_verify_done = (int32_t)n_done;
    s->n_verify_total = r->n;
    s->eta_s = n_done > 0 ? (now - r->start_s) * (r->n - n_done) / n_done : NAN;
    pthread_mutex_unlock(&r->l->lock);
    struct engine_event *ev = local_event_new(r->v->number, ENGINE_EV_VERIFY);
    ev->n_tok_done = (int32_t)n_done;
    ev->n_tok_total = r->n;
    queue_push(r->l->events, ev);
}

static bool go_on(void *ctx, int32_t layer)
{
    struct run *r = ctx;
    double n_layer = r->l->model->p.n_layer;
    tell(r, r->at + r->now * (r->pass * n_layer + layer) / (r->n_pass * n_layer));
    return !atomic_load(&r->l->cancel);
}

struct rows {
    const struct run *r;
    const float *exact, *packed, *nudged; /* nudged: or NULL */
    int32_t at; /* position of the first */
    struct compare_row row[FORWARD_HEAD_ROWS], rounding[FORWARD_HEAD_ROWS];
};

static void compare_part(void *ctx, int part, int n_part)
{
    struct rows *w = ctx;
    const struct verify *v = w->r->v;
    size_t n_vocab = (size_t)w->r->l->info.n_vocab;
    int32_t next = w->at + part + 1;
    w->row[part] =
        compare_logits(w->exact + (size_t)part * n_vocab, w->packed + (size_t)part * n_vocab,
                       (int32_t)n_vocab, next < v->n ? v->ids[next] : -1);
    if (w->nudged)
        w->rounding[part] = compare_logits(w->exact + (size_t)part * n_vocab,
                                           w->nudged + (size_t)part * n_vocab, (int32_t)n_vocab, -1);
}

static enum status read_chunk(struct run *r, struct err *e)
{
    const int32_t *ids = r->v->ids + r->at;
    r->pass = 0;
    r->n_pass = r->at < ROUNDING_TOK ? 3 : 2;
    TRY(kv_reserve(r->exact, r->now, e));
    TRY(forward_run(r->forward_exact, r->exact, ids, r->now, FORWARD_ALL, go_on, r, e));
    r->pass = 1;
    TRY(kv_reserve(r->packed, r->now, e));
    kv_lend(r->held, r->packed, r->at + r->now);
    TRY(forward_run(r->l->forward, r->packed, ids, r->now, FORWARD_ALL, go_on, r, e));
    r->pass = 2;
    if (r->pass < r->n_pass) {
        TRY(kv_reserve(r->nudged, r->now, e));
        TRY(forward_run(r->forward_nudged, r->nudged, ids, r->now, FORWARD_ALL, go_on, r, e));
    }
    for (int32_t i = 0; i < r->now; i += FORWARD_HEAD_ROWS) {
        int32_t n_row = r->now - i < FORWARD_HEAD_ROWS ? r->now - i : FORWARD_HEAD_ROWS;
        struct rows w = {.r = r, .at = r->at + i};
        TRY(forward_head(r->forward_exact, i, n_row, &w.exact, e));
        TRY(forward_head(r->l->forward, i, n_row, &w.packed, e));
        if (r->pass < r->n_pass)
            TRY(forward_head(r->forward_nudged, i, n_row, &w.nudged, e));
        kern_parallel(r->l->kern, n_row, compare_part, &w);
        for (int32_t k = 0; k < n_row; k++) {
            r->agree[r->compare.n] = (struct stats_agree){(float)w.row[k].kl, w.row[k].same};
            compare_add(&r->compare, &w.row[k]);
            if (w.nudged)
                compare_add(&r->rounding, &w.rounding[k]);
        }
        if (atomic_load(&r->l->cancel))
            return err_set(e, ERR_CANCELLED, "cancelled");
    }
    return OK;
}

static enum status read_all(struct run *r, struct kv_pool *exact, struct kv_pool *packed,
                            struct err *e)
{
    struct local *l = r->l;
    const struct verify *v = r->v;
    lines_keep(l->lines, &l->keep, v->timeline); /* any of them may have to leave memory */
    r->held = lines_take(l->lines, v->timeline, v->ids, r->n);
    room_load(l, v->timeline, r->held, v->ids, r->n);
    int32_t most = forward_n_chunk(l->forward);
    most = most < PLAN_CHUNK ? most : PLAN_CHUNK; /* both read it */
    TRY(forward_new(l->model, PLAN_CHUNK, &r->forward_exact, e));
    enum status s = forward_new(l->model, PLAN_CHUNK, &r->forward_nudged, e);
    if (s != OK) {
        forward_free(r->forward_exact);
        return s;
    }
    forward_set_nudge(r->forward_nudged, NUDGE);
    r->exact = kv_line_new(exact, l->plan.n_ctx);
    r->nudged = kv_line_new(exact, l->plan.n_ctx);
    r->packed = kv_line_new(packed, l->plan.n_ctx);
    policy_begin(l->policy, 1, r->n); /* the next turn begins with its own */
    for (r->at = 0; r->at < r->n && s == OK; r->at += r->now) {
        r->now = r->n - r->at < most ? r->n - r->at : most;
        s = read_chunk(r, e);
    }
    kv_line_free(r->packed);
    kv_line_free(r->exact);
    kv_line_free(r->nudged);
    forward_free(r->forward_exact);
    forward_free(r->forward_nudged);
    return s;
}

static enum status check(const struct run *r, const struct kv_shape *shape, struct err *e)
{
    const struct local *l = r->l;
    int32_t n = r->n;
    TRY(local_check_ids(l, r->v->ids, r->v->n, e));
    if (n < 2)
        return err_set(e, ERR_USAGE, "there is nothing to verify: the conversation has %d tokens",
                       n);
    char a[32], b[32], c[32];
    if (r->v->n > l->plan.n_ctx + 1)
        return err_set(e, ERR_USAGE,
                       "the conversation has %s tokens, but the context holds %s; raise -c",
                       err_count_text((uint64_t)r->v->n, a), err_count_text((uint64_t)l->plan.n_ctx, b));
    int32_t n_rounding = n < ROUNDING_TOK + PLAN_CHUNK ? n : ROUNDING_TOK + PLAN_CHUNK;
    uint64_t need = kv_most_bytes(shape, presets_find("exact"), n, PLAN_CHUNK) +
                    kv_most_bytes(shape, presets_find("exact"), n_rounding, PLAN_CHUNK) +
                    2 * forward_bytes(&l->model->p, PLAN_CHUNK);
    uint64_t free_bytes = plan_available();
    if (need > free_bytes)
        return err_set(e, ERR_MEMORY,
                       "verifying %s tokens needs %s for exact caches, %s are free; close other "
                       "programs",
                       err_count_text((uint64_t)n, c), err_size_text(need, a), err_size_text(free_bytes, b));
    return OK;
}

static struct engine_fidelity result(const struct run *r)
{
    const struct compare *c = &r->compare;
    return (struct engine_fidelity){
        .n_tok = r->n,
        .n = c->n,
        .first_divergence = c->first_differs - 1,
        .kl_mean = compare_kl_mean(c),
        .kl_p99 = compare_kl_p99(c),
        .top1 = compare_top1(c),
        .nll = compare_nll(c),
        .nll_exact = compare_nll_exact(c),
        .kl_rounding = compare_kl_mean(&r->rounding),
        .top1_rounding = compare_top1(&r->rounding),
        .n_rounding = r->rounding.n,
    };
}

/* Back to rest, with what was found. */
static void tell_end(struct run *r, const struct engine_fidelity *f)
{
    struct stats *s = &r->l->stats;
    pthread_mutex_lock(&r->l->lock);
    s->phase = STATS_IDLE;
    s->n_verify_done = s->n_verify_total = -1;
    s->eta_s = NAN;
    if (f->n > 0 && s->timeline != r->v->timeline) {
        stats_forget_chat(s);
        s->timeline = r->v->timeline;
    }
    pthread_mutex_unlock(&r->l->lock);
    if (f->n == 0)
        return;
    local_walk(r->l, r->v->timeline, r->held, false); /* the pages that it holds for */
    pthread_mutex_lock(&r->l->lock);
    s->verified = (struct stats_verified){
        .kl = f->kl_mean,
        .kl_p99 = f->kl_p99,
        .top1 = f->top1,
        .nll_difference = f->nll - f->nll_exact,
        .first_divergence = f->first_divergence,
        .kl_rounding = f->kl_rounding,
        .top1_rounding = f->top1_rounding,
        .n = f->n,
        .at_s = clock_s(),
    };
    pthread_mutex_unlock(&r->l->lock);
}

struct engine_event *verify_run(struct local *l, const struct verify *v)
{
    int32_t n = v->n < l->plan.n_ctx ? v->n : l->plan.n_ctx;
    struct run r = {.l = l, .v = v, .n = n, .start_s = clock_s()};
    const struct kv_shape shape = local_kv_shape(l);
    struct err err;
    enum status s = check(&r, &shape, &err);
    if (s == OK) {
        room_need_depths(l, n);
        /* What they take is bounded by the length, which was checked. */
        struct kv_pool *exact = kv_pool_new(l->kern, &shape, NULL, UINT64_MAX);
        struct kv_pool *packed = room_pool(l, UINT64_MAX);
        r.agree = mem_calloc((size_t)n, sizeof *r.agree);
        s = read_all(&r, exact, packed, &err);
        kv_pool_free(exact);
        kv_pool_free(packed);
    }
    bool ok = s == OK || s == ERR_CANCELLED;
    struct engine_event *ev = local_event_new(r.v->number, ok ? ENGINE_EV_VERIFIED : ENGINE_EV_FAILED);
    ev->fidelity = result(&r);
    ev->agree = r.agree;
    ev->stop = s == OK ? ENGINE_STOP_EOS : ENGINE_STOP_CANCEL;
    ev->n_tok_done = r.compare.n;
    ev->n_tok_total = n;
    if (!ok)
        ev->err = err;
    tell_end(&r, &ev->fidelity);
    compare_fini(&r.compare);
    compare_fini(&r.rounding);
    return ev;
}
