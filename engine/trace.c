#include "engine/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/kv_impl.h"
#include "engine/room.h"

enum {
    TOK = KERN_BLOCK_TOK,
    MOST_READ = 4 * TOK,       /* tokens: kv_truncate goes back by less than three blocks, */
    MOST_READ_STATE = 1 << 10, /* but where layers keep a state to the last one at hand */
};

struct trace *trace_new(int64_t timeline, const int32_t *ids, int32_t n, int32_t pos)
{
    struct trace *t = mem_calloc(1, sizeof *t);
    *t = (struct trace){timeline, mem_calloc((size_t)n + 1, sizeof *ids), n, pos};
    if (n > 0)
        memcpy(t->ids, ids, (size_t)n * sizeof *ids);
    return t;
}

void trace_free(struct trace *t)
{
    if (!t)
        return;
    free(t->ids);
    free(t);
}

struct look {
    struct local *l;
    const struct kv_line *line;
    int32_t pos;
    int32_t n_head_kv; /* most of a layer */
    float *q;       /* host [n_head, head_dim] */
    float *score;   /* [n_head][pos + 1] */
    double *weight; /* [n_head_kv][pos + 1] over the layers so far; room for most heads */
    double *rows;   /* [n_head_kv]: what of it fell on f16 rows */
    const struct kern_attn *a;
    int32_t layer; /* of the cache */
};

/* n channels of f16 rows, stride apart on the device, as columns of k [n][64]. */
static void fetch(struct kern *kern, const uint16_t *dev, int32_t n, int32_t stride, int32_t n_col,
                  float *k)
{
    uint16_t half[PAGE_HEAD_DIM_MAX * TOK];
    kern->ops->download(kern, half, dev, (size_t)(n * stride) * sizeof *half);
    for (int32_t c = 0; c < n; c++)
        for (int32_t t = 0; t < n_col; t++)
            k[c * TOK + t] = kern_f16_to_f32(half[c * stride + t]);
}

/* Keys of block j as the query at pos reads them (struct kern_kv). Returns whether they are of a
 * page, whose first *ret_sink tokens come from rows all the same. */
static bool keys_of(const struct look *w, int32_t head, int32_t j, float *k, int32_t *ret_sink)
{
    const struct kern_kv *kv = w->a->kv;
    const struct kern_kv_block *b = &kv->block[head * kv->n_block_cap + j];
    struct kern *kern = w->l->kern;
    int32_t d = kv->head_dim;
    *ret_sink = 0;
    if (!b->page || j + 1 >= w->pos / TOK) {
        fetch(kern, b->k, d, TOK, TOK, k);
        return false;
    }
    page_unpack_k(w->line->block[j]->page[w->line->pool->shape.heads[w->layer].first + head], k);
    if (j == 0 && kv->sink_k) {
        *ret_sink = KERN_SINK_TOK;
        fetch(kern, kv->sink_k + (size_t)head * (size_t)(d * KERN_SINK_PAD), d, KERN_SINK_PAD,
              KERN_SINK_TOK, k);
    }
    return true;
}

/* Adds the softmax of the scores of one query head; rows: 1 where the position is an f16 row. */
static void add_head(struct look *w, int32_t head, const float *score, const uint8_t *rows)
{
    int32_t n = w->pos + 1;
    double *weight = w->weight + (size_t)head * (size_t)n, sum = 0;
    float most = -INFINITY;
    for (int32_t i = 0; i < n; i++)
        most = fmaxf(most, score[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp((double)(score[i] - most));
    for (int32_t i = 0; i < n && sum > 0; i++) {
        double p = exp((double)(score[i] - most)) / sum;
        weight[i] += p;
        w->rows[head] += rows[i] ? p : 0;
    }
}

/* One part is one KV head with its query heads. */
static void look_part(void *ctx, int head, int n_part)
{
    struct look *w = ctx;
    const struct kern_attn *a = w->a;
    int32_t d = a->kv->head_dim, group = a->n_head / n_part, n = w->pos + 1;
    float k[PAGE_HEAD_DIM_MAX * TOK], one[TOK];
    float *score = w->score + (size_t)(head * group) * (size_t)n;
    uint8_t *rows = mem_calloc((size_t)n, 1);
    struct kv_query query = {.head_dim = d, .pos = w->pos, .window = a->window, .scale = a->scale,
                             .softcap = a->softcap};
    for (int32_t j = 0; j * TOK < n; j++) {
        int32_t sink, most = n - j * TOK < TOK ? n - j * TOK : TOK;
        bool page = keys_of(w, head, j, k, &sink);
        for (int32_t t = 0; t < most; t++)
            rows[j * TOK + t] = !page || t < sink;
        for (int32_t g = 0; g < group; g++) {
            query.q = w->q + (size_t)(head * group + g) * (size_t)d;
            kv_score_block(&query, k, j, a->kv->block[head * a->kv->n_block_cap + j].dropped, one);
            memcpy(score + (size_t)g * (size_t)n + (size_t)(j * TOK), one,
                   (size_t)most * sizeof *one);
        }
    }
    for (int32_t g = 0; g < group; g++)
        add_head(w, head, score + (size_t)g * (size_t)n, rows);
    free(rows);
}

static void look(void *ctx, const struct model_layer *l, const struct kern_attn *a)
{
    struct look *w = ctx;
    struct kern *k = w->l->kern;
    k->ops->attend(k, a);
    k->ops->download(k, w->q, a->q, (size_t)a->n_head * (size_t)a->kv->head_dim * sizeof *w->q);
    w->a = a;
    w->layer = l->kv;
    kern_parallel(k, a->kv->n_head_kv, look_part, w);
}

static bool go_on(void *ctx, int32_t layer)
{
    struct local *l = ctx;
    (void)layer;
    return !atomic_load(&l->busy) && !atomic_load(&l->closing);
}

/* Reads ids up to pos - 1 into the fork, then pos with its query written down. */
static enum status read_up_to(struct local *l, const struct trace *t, struct kv_line *fork,
                              struct look *w, struct err *e)
{
    TRY(kv_reserve(fork, t->pos + 1 - kv_n_tok(fork), e));
    policy_begin(l->policy, 1, t->n); /* dense; the next turn begins with its own */
    for (int32_t at; (at = kv_n_tok(fork)) < t->pos;) {
        int32_t n = t->pos - at, most = forward_n_chunk(l->forward);
        TRY(forward_run(l->forward, fork, t->ids + at, n < most ? n : most, FORWARD_NONE, go_on, l,
                        e));
    }
    forward_set_answer(l->forward, look, w);
    enum status s = forward_run(l->forward, fork, t->ids + t->pos, 1, FORWARD_LAST, go_on, l, e);
    forward_set_answer(l->forward, NULL, NULL);
    return s;
}

/* The timeline up to pos, as far as it is held: what is not in memory is taken up from disk. NULL =
 * what is held is another path's, which only a turn may replace. */
static struct kv_line *fork_before(struct local *l, const struct trace *t)
{
    struct kv_line *line = lines_find(l->lines, t->timeline);
    int32_t n = line ? kv_n_tok(line) : 0;
    if (line && kv_common(line, t->ids, t->pos) < (n < t->pos ? n : t->pos))
        return NULL;
    if (!line || n < t->pos) {
        lines_keep(l->lines, &l->keep, t->timeline); /* any of them may have to leave memory */
        line = lines_take(l->lines, t->timeline, t->ids, t->n);
        room_load(l, t->timeline, line, t->ids, t->n);
        n = kv_n_tok(line);
    }
    return kv_line_fork(line, n < t->pos ? n : t->pos);
}

static void put(struct local *l, const struct trace *t, const struct look *w, double start_s)
{
    const struct model_params *p = &l->model->p;
    struct stats_trace got = {.timeline = t->timeline, .pos = t->pos, .on_rows = NAN};
    if (w) {
        double rows = 0, all = (double)p->n_head * p->n_layer_attn;
        got.n = t->pos + 1;
        got.weight = mem_calloc((size_t)got.n, sizeof *got.weight);
        for (int32_t h = 0; h < w->n_head_kv; h++) {
            rows += w->rows[h] / all;
            for (int32_t i = 0; i < got.n; i++)
                got.weight[i] += (float)(w->weight[(size_t)h * (size_t)got.n + (size_t)i] / all);
        }
        got.on_rows = (float)rows;
    }
    got.at_s = clock_s();
    got.took_s = got.at_s - start_s;
    pthread_mutex_lock(&l->lock);
    free(l->trace.weight);
    l->trace = got;
    pthread_mutex_unlock(&l->lock);
}

void trace_run(struct local *l, const struct trace *t)
{
    struct err e;
    double start = clock_s();
    const struct model_params *p = &l->model->p;
    bool asked = t->pos >= 0 && t->pos < t->n && t->n <= l->plan.n_ctx &&
                 local_check_ids(l, t->ids, t->n, &e) == OK;
    struct kv_line *fork = asked ? fork_before(l, t) : NULL;
    int32_t most = p->n_tap > 0 ? MOST_READ_STATE : MOST_READ;
    if (!fork || t->pos - kv_n_tok(fork) > most) {
        kv_line_free(fork);
        put(l, t, NULL, start);
        return;
    }
    size_t n = (size_t)t->pos + 1;
    struct look w = {.l = l, .line = fork, .pos = t->pos};
    w.n_head_kv = model_most_head_kv(p);
    w.q = mem_alloc((size_t)p->n_head * (size_t)model_most_head_dim(p) * sizeof *w.q);
    w.score = mem_alloc((size_t)p->n_head * n * sizeof *w.score);
    w.weight = mem_calloc((size_t)w.n_head_kv * n, sizeof *w.weight);
    w.rows = mem_calloc((size_t)w.n_head_kv, sizeof *w.rows);
    /* A few blocks for a moment: nothing need step down or leave for them. */
    uint64_t budget = kv_pool_budget(l->pool);
    kv_pool_set_budget(l->pool, UINT64_MAX);
    enum status s = read_up_to(l, t, fork, &w, &e);
    kv_line_free(fork);
    kv_pool_set_budget(l->pool, budget);
    if (kv_pool_bytes(l->pool) > budget)
        kv_pool_trim(l->pool);
    if (s != ERR_CANCELLED)
        put(l, t, s == OK ? &w : NULL, start);
    free(w.q);
    free(w.score);
    free(w.weight);
    free(w.rows);
}
