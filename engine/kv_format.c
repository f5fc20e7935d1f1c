/* Rows of a timeline in a simulated number format (engine/simulate.h), in place. CPU only. */
#include <stdlib.h>
#include <string.h>

#include "engine/simulate.h"
#include "engine/kv_impl.h"

enum { TOK = KERN_BLOCK_TOK };

/* ---- tokens of one head ---- */

struct token {
    float score;
    int32_t at; /* in the block */
};

static int by_score(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->at - y->at;
}

static int by_place(const void *a, const void *b)
{
    return ((const struct token *)a)->at - ((const struct token *)b)->at;
}

static int32_t n_in_tier(const struct preset *p, int32_t n)
{
    return (int32_t)(p->tier_share * (float)n + 0.5f);
}

/* Keys or values of the listed tokens out, through the format, and in again. */
static void code_tensor(const struct preset_format *f, int32_t bits, uint16_t *rows, bool keys,
                        int32_t d, const struct token *tok, int32_t n, const float *q_max)
{
    float x[SIMULATE_TOK_MAX * SIMULATE_DIM_MAX];
    for (int32_t i = 0; i < n; i++)
        for (int32_t c = 0; c < d; c++)
            x[i * d + c] = kern_f16_to_f32(rows[keys ? c * TOK + tok[i].at : tok[i].at * d + c]);
    simulate_apply(f, bits, x, n, d, q_max);
    for (int32_t i = 0; i < n; i++)
        for (int32_t c = 0; c < d; c++)
            rows[keys ? c * TOK + tok[i].at : tok[i].at * d + c] = kern_f32_to_f16(x[i * d + c]);
}

/* Tokens [t0, t1) of block j of one head. */
static void code_head(const struct kv_line *l, int32_t j, int32_t layer, int32_t head, int32_t t0,
                      int32_t t1)
{
    const struct kv_shape *s = &l->pool->shape;
    const struct preset *p = &l->pool->preset;
    size_t row = (size_t)(layer * s->n_head_kv + head);
    const struct kern_kv_block *b =
        &l->layer[layer].block[(size_t)head * (size_t)l->block_cap + (size_t)j];
    const float *q_max = l->watch.q_max ? l->watch.q_max + row * (size_t)s->head_dim : NULL;
    const float *sum =
        l->watch.sum ? l->watch.sum + (row * (size_t)l->block_cap + (size_t)j) * TOK : NULL;
    struct token tok[TOK];
    int32_t n = 0;
    for (int32_t t = t0; t < t1; t++) {
        int32_t pos = j * TOK + t;
        if (pos < p->n_sink)
            continue;
        float score = sum ? sum[t] : 0;
        tok[n++] = (struct token){p->tier_mean ? score / (float)(l->n_tok - pos) : score, t};
    }
    int32_t high = n_in_tier(p, n);
    if (high > 0)
        qsort(tok, (size_t)n, sizeof *tok, by_score);
    qsort(tok, (size_t)high, sizeof *tok, by_place);
    qsort(tok + high, (size_t)(n - high), sizeof *tok, by_place);
    for (int32_t tier = 0; tier < 2; tier++) {
        const struct token *part = tier ? tok + high : tok;
        int32_t n_part = tier ? n - high : high, bits = p->tier_bits;
        code_tensor(&p->k, tier ? p->k.bits : bits, b->k, true, s->head_dim, part, n_part, q_max);
        code_tensor(&p->v, tier ? p->v.bits : bits, b->v, false, s->head_dim, part, n_part, NULL);
    }
}

/* ---- when ---- */

struct code_job {
    const struct kv_line *l;
    int32_t layer; /* at_write */
    int32_t from, end; /* positions */
};

/* One part is one KV head: the tokens just written. */
static void write_part(void *ctx, int head, int n_part)
{
    const struct code_job *job = ctx;
    for (int32_t at = job->from; at < job->end; at++)
        code_head(job->l, at / TOK, job->layer, head, at % TOK, at % TOK + 1);
}

void kv_code_written(struct kv_line *l, int32_t layer, int32_t n_tok_end)
{
    struct code_job job = {.l = l, .layer = layer, .from = l->n_tok, .end = n_tok_end};
    if (preset_simulated(&l->pool->preset) && l->pool->preset.at_write)
        kern_parallel(l->pool->kern, l->pool->shape.n_head_kv, write_part, &job);
}

/* One part is one head of a layer: block `from`. */
static void block_part(void *ctx, int part, int n_part)
{
    const struct code_job *job = ctx;
    int32_t n_kv = job->l->pool->shape.n_head_kv;
    code_head(job->l, job->from, part / n_kv, part % n_kv, 0, TOK);
}

/* Blocks before this one are read coded by the position after n_tok - 1 and all after it. */
static int32_t coded_end(int32_t n_tok)
{
    int32_t next = n_tok / TOK;
    return next > 0 ? next - 1 : 0;
}

bool kv_codes_blocks(const struct kv_pool *p)
{
    return preset_simulated(&p->preset) && !p->preset.at_write;
}

void kv_code_blocks(struct kv_line *l)
{
    struct kv_pool *p = l->pool;
    for (int32_t j = l->first_rows; kv_codes_blocks(p) && j < coded_end(l->n_tok); j++) {
        struct kv_block *b = l->block[j];
        struct code_job job = {.l = l, .from = j};
        if (!b->thawed) {
            if (b->n_ref > 1)
                return; /* another line may end here and read the rows: kv_reserve makes a copy */
            kern_parallel(p->kern, p->shape.n_layer * p->shape.n_head_kv, block_part, &job);
            b->thawed = true;
        }
        l->first_rows = j + 1;
    }
}

enum status kv_code_reserve(struct kv_line *l, int32_t n_tok_end, struct err *e)
{
    for (int32_t j = l->first_rows; j < l->n_block && j < coded_end(n_tok_end); j++)
        if (kv_codes_blocks(l->pool) && !l->block[j]->thawed && l->block[j]->n_ref > 1)
            TRY(kv_unshare(l, j, e));
    return OK;
}

/* ---- bytes ---- */

static uint64_t block_bytes(const struct preset *p, int32_t d, int32_t n_f16, int32_t n)
{
    int32_t high = n_in_tier(p, n);
    uint64_t sum = 4 * (uint64_t)d * (uint64_t)n_f16;
    sum += simulate_bytes(&p->k, p->tier_bits, high, d);
    sum += simulate_bytes(&p->v, p->tier_bits, high, d);
    sum += simulate_bytes(&p->k, p->k.bits, n - high, d);
    sum += simulate_bytes(&p->v, p->v.bits, n - high, d);
    return sum + (p->tier_share > 0 ? (uint64_t)n / 8 : 0); /* which tier: one bit each */
}

uint64_t kv_format_bytes(const struct kv_line *l)
{
    const struct kv_shape *s = &l->pool->shape;
    const struct preset *p = &l->pool->preset;
    uint64_t one = 0, heads = (uint64_t)s->n_layer * (uint64_t)s->n_head_kv;
    for (int32_t j = 0; j < l->n_block; j++) {
        int32_t n = l->n_tok - j * TOK < TOK ? l->n_tok - j * TOK : TOK;
        int32_t sinks = p->n_sink - j * TOK > 0 ? p->n_sink - j * TOK : 0;
        sinks = sinks < n ? sinks : n;
        if (p->at_write)
            one += block_bytes(p, s->head_dim, sinks, 0) +
                   (uint64_t)(n - sinks) * block_bytes(p, s->head_dim, 0, 1);
        else
            one += l->block[j]->thawed ? block_bytes(p, s->head_dim, sinks, n - sinks)
                                       : block_bytes(p, s->head_dim, n, 0);
    }
    return one * heads;
}
