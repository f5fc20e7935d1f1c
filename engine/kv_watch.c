/* What attention tells about tokens, for presets that weigh them: sums of the probability that fell
 * on each, the last queries, the largest query of each channel. Rows are recomputed plainly from
 * the keys and the log-sum-exp that the attention kernel returns; a device's come to the host for it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kv_impl.h"

enum { TOK = KERN_BLOCK_TOK };

bool kv_watches(const struct kv_line *l)
{
    const struct preset *p = &l->pool->preset;
    return p->tier_share > 0 || p->k.balance == BALANCE_QUERY ||
           p->evict.score == EVICT_WINDOW || p->evict.score == EVICT_SUM;
}

static bool sums(const struct preset *p)
{
    return p->tier_share > 0 || p->evict.score == EVICT_SUM;
}

static bool rings(const struct preset *p)
{
    return p->evict.score == EVICT_WINDOW;
}

/* ---- state ---- */

static size_t n_head_row(const struct kv_line *l)
{
    return (size_t)l->pool->shape.n_head;
}

static size_t n_channel(const struct kv_line *l)
{
    return (size_t)l->pool->shape.n_chan;
}

/* Of the layers before this one. */
static size_t ring_floats(const struct kv_line *l, int32_t layer)
{
    size_t sum = 0;
    for (int32_t i = 0; i < layer; i++)
        sum += (size_t)(l->pool->shape.heads[i].dim + 1);
    return sum * (size_t)l->pool->preset.evict.window * (size_t)l->watch.n_head;
}

void kv_watch_grow(struct kv_line *l, int32_t old_cap, int32_t cap)
{
    if (!sums(&l->pool->preset))
        return;
    float *sum = mem_calloc(n_head_row(l) * (size_t)cap * TOK, sizeof *sum);
    for (size_t i = 0; i < n_head_row(l) && l->watch.sum; i++)
        memcpy(sum + i * (size_t)cap * TOK, l->watch.sum + i * (size_t)old_cap * TOK,
               (size_t)old_cap * TOK * sizeof *sum);
    free(l->watch.sum);
    l->watch.sum = sum;
}

void kv_watch_reset(struct kv_line *l)
{
    if (l->watch.sum)
        memset(l->watch.sum, 0, n_head_row(l) * (size_t)l->block_cap * TOK * sizeof(float));
    if (l->watch.q_max)
        memset(l->watch.q_max, 0, n_channel(l) * sizeof(float));
}

static float *copy_of(const float *src, size_t n)
{
    if (!src)
        return NULL;
    float *copy = mem_alloc(n * sizeof *copy);
    memcpy(copy, src, n * sizeof *copy);
    return copy;
}

void kv_watch_copy(struct kv_line *l, const struct kv_line *from)
{
    kv_watch_free(l);
    l->watch = from->watch;
    l->watch.sum = NULL;
    l->watch.ring = copy_of(from->watch.ring, ring_floats(from, from->pool->shape.n_layer));
    l->watch.q_max = copy_of(from->watch.q_max, n_channel(from));
    kv_watch_grow(l, 0, l->block_cap);
    for (size_t i = 0; i < n_head_row(l) && l->watch.sum; i++)
        memcpy(l->watch.sum + i * (size_t)l->block_cap * TOK,
               from->watch.sum + i * (size_t)from->block_cap * TOK,
               (size_t)from->n_block * TOK * sizeof(float));
}

void kv_watch_free(struct kv_line *l)
{
    free(l->watch.sum);
    free(l->watch.ring);
    free(l->watch.q_max);
    l->watch = (struct kv_watch){0};
}

/* ---- rows of attention ---- */

/* Keys of one block as float [head_dim][64]; at: number of the block among r->keys. */
static void keys_of(const struct kv_line *l, int32_t layer, int32_t head, int32_t j,
                    const struct kv_rows *r, int32_t at, float *k)
{
    const struct kern_kv_block *b =
        &l->layer[layer].block[(size_t)head * (size_t)l->block_cap + (size_t)j];
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    size_t n = (size_t)of->dim * TOK;
    const uint16_t *from = b->k;
    if (r->keys)
        from = r->keys + ((size_t)at * (size_t)of->n + (size_t)head) * n;
    if (!from) {
        page_unpack_k(b->page, k);
        return;
    }
    for (size_t i = 0; i < n; i++)
        k[i] = kern_f16_to_f32(from[i]);
}

void kv_score_block(const struct kv_query *w, const float *k, int32_t j, uint64_t dropped,
                    float ret[TOK])
{
    int32_t behind = w->pos - j * TOK + 1, before = w->window > 0 ? behind - w->window : 0;
    memset(ret, 0, TOK * sizeof *ret);
    for (int32_t c = 0; c < w->head_dim; c++)
        for (int32_t t = 0; t < TOK; t++)
            ret[t] += w->q[c] * k[c * TOK + t];
    for (int32_t t = 0; t < TOK; t++) {
        ret[t] *= w->scale;
        if (w->softcap > 0)
            ret[t] = w->softcap * tanhf(ret[t] / w->softcap);
        if (t >= behind || t < before || dropped >> t & 1)
            ret[t] = -INFINITY;
    }
}

void kv_watch_rows(const struct kv_line *l, int32_t layer, int32_t head, const struct kv_rows *r,
                   int32_t first_block, float *sum)
{
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    int32_t group = r->n_head / of->n, end = r->pos0 + r->n;
    float k[PAGE_HEAD_DIM_MAX * TOK], score[TOK];
    struct kv_query w = {.head_dim = of->dim, .window = r->window, .scale = r->scale,
                         .softcap = r->softcap};
    for (int32_t j = first_block; j * TOK < end; j++) {
        uint64_t dropped =
            l->layer[layer].block[(size_t)head * (size_t)l->block_cap + (size_t)j].dropped;
        if (dropped == UINT64_MAX)
            continue;
        keys_of(l, layer, head, j, r, j - first_block, k);
        for (int32_t i = 0; i < r->n; i++) {
            w.pos = r->pos0 + i;
            int32_t slot = r->period ? w.pos % r->period : i;
            int32_t n = w.pos - j * TOK + 1 < TOK ? w.pos - j * TOK + 1 : TOK;
            for (int32_t g = 0; g < group && n > 0; g++) {
                size_t at = (size_t)slot * (size_t)r->n_head + (size_t)(head * group + g);
                w.q = r->q + at * (size_t)of->dim;
                kv_score_block(&w, k, j, dropped, score);
                for (int32_t t = 0; t < n; t++)
                    sum[j * TOK + t] += score[t] > -INFINITY ? expf(score[t] - r->lse[at]) : 0;
            }
        }
    }
}

/* ---- after each attention ---- */

struct watch_job {
    struct kv_line *l;
    int32_t layer, first_block;
    struct kv_rows rows;
};

/* One part is one KV head. */
static void watch_part(void *ctx, int head, int n_part)
{
    const struct watch_job *job = ctx;
    struct kv_line *l = job->l;
    size_t row = (size_t)(l->pool->shape.heads[job->layer].first + head);
    kv_watch_rows(l, job->layer, head, &job->rows, job->first_block,
                  l->watch.sum + row * (size_t)l->block_cap * TOK);
}

/* The last rows, each at its position modulo the window. */
static void keep_ring(struct kv_line *l, int32_t layer, const struct kern_attn *a)
{
    int32_t w = l->pool->preset.evict.window, d = a->kv->head_dim;
    size_t n_q = (size_t)a->n_head * (size_t)d;
    struct kv_rows r = kv_watch_ring(l, layer);
    for (int32_t i = a->n_tok > w ? a->n_tok - w : 0; i < a->n_tok; i++) {
        int32_t slot = (a->pos0 + i) % w;
        memcpy((float *)r.q + (size_t)slot * n_q, a->q + (size_t)i * n_q, n_q * sizeof(float));
        memcpy((float *)r.lse + (size_t)slot * (size_t)a->n_head,
               a->lse + (size_t)i * (size_t)a->n_head, (size_t)a->n_head * sizeof(float));
    }
}

struct kv_rows kv_watch_ring(const struct kv_line *l, int32_t layer)
{
    const struct kv_watch *w = &l->watch;
    int32_t n = l->pool->preset.evict.window;
    size_t n_q = (size_t)n * (size_t)w->n_head * (size_t)l->pool->shape.heads[layer].dim;
    float *at = w->ring + ring_floats(l, layer);
    struct kv_rows r = w->how;
    r.q = at;
    r.lse = at + n_q;
    r.period = n;
    r.n = n < l->n_tok ? n : l->n_tok;
    r.pos0 = l->n_tok - r.n;
    r.window = w->layer_window[layer];
    return r;
}

static void keep_largest(struct kv_line *l, int32_t layer, const struct kern_attn *a)
{
    int32_t d = a->kv->head_dim, group = a->n_head / a->kv->n_head_kv;
    float *q_max = l->watch.q_max + l->pool->shape.heads[layer].chan;
    for (int32_t i = 0; i < a->n_tok * a->n_head; i++)
        for (int32_t c = 0; c < d; c++) {
            float *most = &q_max[i % a->n_head / group * d + c];
            *most = fmaxf(*most, fabsf(a->q[(size_t)i * (size_t)d + (size_t)c]));
        }
}

/* A device's keys of the blocks [first, end), one behind the other. */
static uint16_t *keys_near(struct kv_line *l, int32_t layer, int32_t first, int32_t end)
{
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    size_t n = (size_t)of->n * (size_t)of->dim * TOK;
    uint16_t *keys = mem_alloc((size_t)(end - first) * n * sizeof *keys);
    for (int32_t j = first; j < end; j++)
        memcpy(keys + (size_t)(j - first) * n, kv_layer_get(l->pool, l->block[j], layer),
               n * sizeof *keys);
    return keys;
}

static void watch(struct kv_line *l, int32_t layer, const struct kern_attn *a)
{
    const struct preset *p = &l->pool->preset;
    struct kv_watch *w = &l->watch;
    if (!w->n_head) {
        w->n_head = a->n_head;
        w->how = (struct kv_rows){
            .n_head = a->n_head, .scale = a->scale, .softcap = a->softcap};
        w->layer_window = l->pool->layer_window;
        if (rings(p))
            w->ring = mem_calloc(ring_floats(l, l->pool->shape.n_layer), sizeof(float));
        if (p->k.balance == BALANCE_QUERY)
            w->q_max = mem_calloc(n_channel(l), sizeof(float));
    }
    w->layer_window[layer] = a->window;
    if (w->ring)
        keep_ring(l, layer, a);
    if (w->q_max)
        keep_largest(l, layer, a);
    if (w->sum) {
        struct watch_job job = {.l = l, .layer = layer, .rows = w->how};
        job.rows.q = a->q;
        job.rows.lse = a->lse;
        job.rows.n = a->n_tok;
        job.rows.pos0 = a->pos0;
        job.rows.window = a->window;
        /* Formats ask for the blocks that are not coded yet. */
        job.first_block = p->tier_share > 0 ? l->first_rows : 0;
        uint16_t *keys = NULL;
        if (l->pool->kern->device)
            job.rows.keys = keys =
                keys_near(l, layer, job.first_block, kv_blocks_for(a->pos0 + a->n_tok));
        kern_parallel(l->pool->kern, a->kv->n_head_kv, watch_part, &job);
        free(keys);
    }
}

void kv_watch(struct kv_line *l, int32_t layer, const struct kern_attn *a)
{
    struct kern *k = l->pool->kern;
    if (!k->device) {
        watch(l, layer, a);
        return;
    }
    size_t n_lse = (size_t)a->n_tok * (size_t)a->n_head;
    size_t n_q = n_lse * (size_t)a->kv->head_dim;
    struct kern_attn near = *a;
    float *q = mem_alloc((n_q + n_lse) * sizeof *q);
    k->ops->download(k, q, a->q, n_q * sizeof *q);
    k->ops->download(k, q + n_q, a->lse, n_lse * sizeof *q);
    near.q = q;
    near.lse = q + n_q;
    watch(l, layer, &near);
    free(q);
}
