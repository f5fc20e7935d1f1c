/* Dropping tokens for good, as published: StreamingLLM, SnapKV, PyramidKV, H2O, L2-norm, LagKV.
 * Every layer and KV head drops on its own; positions stay what they were. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kv_impl.h"

enum {
    TOK = KERN_BLOCK_TOK,
    EVICT_LEAST = 64 /* tokens that always fit: methods are made for caches of hundreds */
};

static struct kern_kv_block *blocks_of(const struct kv_line *l, int32_t layer, int32_t head)
{
    return l->layer[layer].block + (size_t)head * (size_t)l->block_cap;
}

static bool dropped(const struct kern_kv_block *b, int32_t pos)
{
    return b[pos / TOK].dropped >> pos % TOK & 1;
}

static void drop(struct kern_kv_block *b, int32_t pos)
{
    b[pos / TOK].dropped |= UINT64_C(1) << pos % TOK;
}

bool kv_kept(const struct kv_line *l, int32_t layer, int32_t head, int32_t pos)
{
    return !dropped(blocks_of(l, layer, head), pos);
}

/* ---- how many stay ---- */

int32_t kv_evict_quota(const struct preset_evict *e, int32_t layer, int32_t n_layer, int32_t n_tok)
{
    int32_t least = e->n_sink + e->window + 1;
    least = least > EVICT_LEAST ? least : EVICT_LEAST;
    int32_t keep = (int32_t)ceilf(e->keep * (float)n_tok);
    keep = keep > least ? keep : least;
    if (layer < e->skip_layer || keep >= n_tok)
        return n_tok;
    int32_t base = keep - e->window, older = n_tok - e->window;
    if (e->slope <= 0 || n_layer < 2 || n_tok < 2 * base)
        return keep;
    int32_t lo = (int32_t)((float)base / e->slope), hi = 2 * base - lo;
    if (hi > older) {
        hi = older;
        lo = 2 * base - hi;
    }
    return e->window + hi - layer * ((hi - lo) / (n_layer - 1));
}

/* ---- scores ---- */

struct ranked {
    float score;
    int32_t pos;
};

/* Falling score; the older of equals first. */
static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->pos - y->pos;
}

static float key_norm(const struct kern_kv_block *b, int32_t d, int32_t pos)
{
    float sum = 0;
    for (int32_t c = 0; c < d; c++) {
        float x = kern_f16_to_f32(b[pos / TOK].k[c * TOK + pos % TOK]);
        sum += x * x;
    }
    return sqrtf(sum);
}

/* Means over `pool` neighbours of x[0..n); what lies outside counts as 0. */
static void pool_mean(float *x, int32_t n, int32_t pool)
{
    if (pool < 2)
        return;
    float *old = mem_alloc((size_t)n * sizeof *old);
    memcpy(old, x, (size_t)n * sizeof *old);
    for (int32_t i = 0; i < n; i++) {
        float sum = 0;
        for (int32_t j = i - pool / 2; j <= i + pool / 2; j++)
            sum += j >= 0 && j < n ? old[j] : 0;
        x[i] = sum / (float)pool;
    }
    free(old);
}

/* score[0..n): what each token is worth to this head. */
static void score_tokens(const struct kv_line *l, int32_t layer, int32_t head, int32_t n,
                         float *score)
{
    const struct kv_shape *s = &l->pool->shape;
    const struct preset_evict *e = &l->pool->preset.evict;
    const struct kern_kv_block *b = blocks_of(l, layer, head);
    size_t row = (size_t)(s->heads[layer].first + head);
    switch (e->score) {
    case EVICT_WINDOW: {
        struct kv_rows r = kv_watch_ring(l, layer);
        kv_watch_rows(l, layer, head, &r, 0, score);
        pool_mean(score, n - e->window, e->pool);
        break;
    }
    case EVICT_SUM:
        memcpy(score, l->watch.sum + row * (size_t)l->block_cap * TOK, (size_t)n * sizeof *score);
        break;
    case EVICT_KEY_NORM:
        for (int32_t i = 0; i < n; i++)
            score[i] = dropped(b, i) ? 0 : -key_norm(b, s->heads[layer].dim, i);
        break;
    case EVICT_NONE:
    case EVICT_OLDEST:
    case EVICT_LAG:
        break;
    }
}

/* ---- one head ---- */

struct evict_job {
    struct kv_line *l;
    int32_t from; /* of EVICT_LAG: the chunk to decide on */
};

/* Drops what exceeds the quota, least score first. */
static void evict_part(void *ctx, int part, int n_part)
{
    const struct evict_job *job = ctx;
    struct kv_line *l = job->l;
    const struct preset_evict *e = &l->pool->preset.evict;
    const struct kv_shape *s = &l->pool->shape;
    int32_t layer = kv_layer_of(s, part), head = part - s->heads[layer].first, n = l->n_tok;
    struct kern_kv_block *b = blocks_of(l, layer, head);
    int32_t quota = kv_evict_quota(e, layer, s->n_layer, l->evict_base);
    int32_t recent = (int32_t)(e->recent * (float)quota);
    recent = recent > e->window ? recent : e->window;
    recent = recent < quota - e->n_sink ? recent : quota - e->n_sink;
    int32_t room = quota - e->n_sink - recent, n_rank = 0;
    if (n <= quota)
        return;
    struct ranked *rank = mem_alloc((size_t)n * sizeof *rank);
    float *score = mem_calloc(((size_t)n + TOK), sizeof *score);
    for (int32_t i = e->n_sink; i < n - recent; i++)
        if (!dropped(b, i))
            rank[n_rank++] = (struct ranked){.pos = i};
    if (n_rank > room) {
        score_tokens(l, layer, head, n, score);
        for (int32_t i = 0; i < n_rank; i++)
            rank[i].score = score[rank[i].pos];
        qsort(rank, (size_t)n_rank, sizeof *rank, by_score);
        for (int32_t i = room; i < n_rank; i++)
            drop(b, rank[i].pos);
    }
    free(score);
    free(rank);
}

/* ---- LagKV ---- */

/* Spread over channels of each token of [from, from + n) after the reference range of the tokens
 * behind it, as shares: softmax over the tokens, added to ret. value: of V, not K. */
static void lag_scores(const struct kern_kv_block *b, int32_t d, int32_t from, int32_t n,
                       bool value, float *ret)
{
    float lo[PAGE_HEAD_DIM_MAX], hi[PAGE_HEAD_DIM_MAX], most = 0, sum = 0;
    float *spread = mem_alloc((size_t)n * sizeof *spread);
    for (int32_t i = n; i-- > -n;) { /* first the reference, tokens n..2n-1 behind from */
        int32_t pos = i >= 0 ? from + n + i : from - i - 1;
        double mean = 0, square = 0;
        for (int32_t c = 0; c < d; c++) {
            const struct kern_kv_block *at = &b[pos / TOK];
            uint16_t half = value && at->v ? at->v[pos % TOK * d + c] : at->k[c * TOK + pos % TOK];
            float x = kern_f16_to_f32(half);
            if (i >= 0) {
                lo[c] = i == n - 1 ? x : fminf(lo[c], x);
                hi[c] = i == n - 1 ? x : fmaxf(hi[c], x);
                continue;
            }
            double y = hi[c] > lo[c] ? (double)((x - lo[c]) / (hi[c] - lo[c])) : 0;
            mean += y;
            square += y * y;
        }
        if (i < 0) {
            double var = square / d - mean / d * (mean / d);
            spread[pos - from] = var > 0 ? (float)sqrt(var) : 0;
        }
    }
    for (int32_t i = 0; i < n; i++)
        most = fmaxf(most, spread[i]);
    for (int32_t i = 0; i < n; i++)
        sum += expf(spread[i] - most);
    for (int32_t i = 0; i < n; i++)
        ret[i] += expf(spread[i] - most) / sum;
    free(spread);
}

static void lag_part(void *ctx, int part, int n_part)
{
    const struct evict_job *job = ctx;
    const struct kv_shape *s = &job->l->pool->shape;
    const struct preset_evict *e = &job->l->pool->preset.evict;
    int32_t layer = kv_layer_of(s, part), d = s->heads[layer].dim;
    struct kern_kv_block *b = blocks_of(job->l, layer, part - s->heads[layer].first);
    int32_t n = e->chunk, keep = (int32_t)ceilf(e->keep * (float)n);
    float *score = mem_calloc((size_t)n, sizeof *score);
    struct ranked *rank = mem_alloc((size_t)n * sizeof *rank);
    lag_scores(b, d, job->from, n, false, score);
    lag_scores(b, d, job->from, n, true, score);
    for (int32_t i = 0; i < n; i++)
        rank[i] = (struct ranked){score[i], job->from + i};
    qsort(rank, (size_t)n, sizeof *rank, by_score);
    for (int32_t i = keep; i < n; i++)
        drop(b, rank[i].pos);
    free(rank);
    free(score);
}

/* ---- when ---- */

void kv_evict(struct kv_line *l, bool prompt_end)
{
    const struct preset_evict *e = &l->pool->preset.evict;
    int32_t n_part = l->pool->shape.n_head;
    struct evict_job job = {.l = l};
    if (e->score == EVICT_NONE)
        return;
    if (e->score == EVICT_LAG) {
        if (l->evict_base < e->n_sink)
            l->evict_base = e->n_sink; /* here: the first token that is not decided on */
        for (; l->evict_base + 2 * e->chunk <= l->n_tok; l->evict_base += e->chunk) {
            job.from = l->evict_base;
            kern_parallel(l->pool->kern, n_part, lag_part, &job);
        }
        return;
    }
    if (prompt_end)
        l->evict_base = l->n_tok;
    if (prompt_end || (e->each_step && l->evict_base > 0))
        kern_parallel(l->pool->kern, n_part, evict_part, &job);
}

uint64_t kv_evict_bytes(const struct kv_line *l)
{
    const struct kv_shape *s = &l->pool->shape;
    /* key, value, and what has to be remembered of each token */
    uint64_t beside = l->pool->preset.evict.score == EVICT_SUM ? sizeof(float) : 0, sum = 0;
    for (int32_t i = 0; i < s->n_layer; i++)
        for (int32_t h = 0; h < s->heads[i].n; h++) {
            const struct kern_kv_block *b = blocks_of(l, i, h);
            uint64_t one = 4 * (uint64_t)s->heads[i].dim + beside;
            for (int32_t at = 0; at < l->n_tok; at++)
                sum += dropped(b, at) ? 0 : one;
        }
    return sum;
}
