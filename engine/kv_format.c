/* Rows of a timeline in a simulated number format (engine/simulate.h), in place; a device's rows come to
 * the host for it and go back. */
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

/* Tokens [t0, t1) of block j of one head; rows: of the layer (kv_layer_get). */
static void code_head(const struct kv_line *l, uint16_t *rows, int32_t j, int32_t layer,
                      int32_t head, int32_t t0, int32_t t1)
{
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    const struct preset *p = &l->pool->preset;
    size_t row = (size_t)(of->first + head), one = (size_t)TOK * (size_t)of->dim;
    uint16_t *k = rows + (size_t)head * one, *v = k + (size_t)of->n * one; /* of a latent there is none */
    const float *q_max = l->watch.q_max ? l->watch.q_max + of->chan + head * of->dim : NULL;
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
        code_tensor(&p->k, tier ? p->k.bits : bits, k, true, of->dim, part, n_part, q_max);
        if (!of->n_latent)
            code_tensor(&p->v, tier ? p->v.bits : bits, v, false, of->dim, part, n_part, NULL);
    }
}

/* ---- when ---- */

struct code_job {
    const struct kv_line *l;
    uint16_t *rows;
    int32_t layer, from, end; /* positions of one block */
};

/* One part is one KV head. */
static void code_part(void *ctx, int head, int n_part)
{
    const struct code_job *job = ctx;
    bool each = job->l->pool->preset.at_write;
    int32_t j = job->from / TOK, n = job->end - j * TOK;
    for (int32_t t = job->from - j * TOK; t < n; t = each ? t + 1 : n)
        code_head(job->l, job->rows, j, job->layer, head, t, each ? t + 1 : n);
}

static void code_layer(const struct kv_line *l, int32_t layer, int32_t from, int32_t end)
{
    struct kv_pool *p = l->pool;
    struct kv_block *b = l->block[from / TOK];
    struct code_job job = {l, kv_layer_get(p, b, layer), layer, from, end};
    kern_parallel(p->kern, p->shape.heads[layer].n, code_part, &job);
    kv_layer_put(p, b, layer, job.rows);
}

void kv_code_written(struct kv_line *l, int32_t layer, int32_t n_tok_end)
{
    const struct preset *p = &l->pool->preset;
    for (int32_t at = l->n_tok, end; preset_simulated(p) && p->at_write && at < n_tok_end; at = end) {
        end = (at / TOK + 1) * TOK < n_tok_end ? (at / TOK + 1) * TOK : n_tok_end;
        code_layer(l, layer, at, end);
    }
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
        if (!b->thawed) {
            if (b->n_ref > 1)
                return; /* another line may end here and read the rows: kv_reserve makes a copy */
            for (int32_t i = 0; i < p->shape.n_layer; i++)
                code_layer(l, i, j * TOK, (j + 1) * TOK);
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

static uint64_t tensor_bytes(const struct preset_format *f, int32_t tier_bits, int32_t d, int32_t n_f16, int32_t high,
                             int32_t n)
{
    return 2 * (uint64_t)d * (uint64_t)n_f16 + simulate_bytes(f, tier_bits, high, d) +
           simulate_bytes(f, f->bits, n - high, d);
}

static uint64_t block_bytes(const struct preset *p, const struct kv_heads *of, int32_t n_f16, int32_t n)
{
    int32_t high = n_in_tier(p, n);
    uint64_t sum = tensor_bytes(&p->k, p->tier_bits, of->dim, n_f16, high, n);
    if (!of->n_latent)
        sum += tensor_bytes(&p->v, p->tier_bits, of->dim, n_f16, high, n);
    return sum + (p->tier_share > 0 ? (uint64_t)n / 8 : 0); /* which tier: one bit each */
}

static uint64_t head_bytes(const struct kv_line *l, const struct kv_heads *of)
{
    const struct preset *p = &l->pool->preset;
    uint64_t one = 0;
    for (int32_t j = 0; j < l->n_block; j++) {
        int32_t n = l->n_tok - j * TOK < TOK ? l->n_tok - j * TOK : TOK;
        int32_t sinks = p->n_sink - j * TOK > 0 ? p->n_sink - j * TOK : 0;
        sinks = sinks < n ? sinks : n;
        if (p->at_write)
            one += block_bytes(p, of, sinks, 0) + (uint64_t)(n - sinks) * block_bytes(p, of, 0, 1);
        else
            one += l->block[j]->thawed ? block_bytes(p, of, sinks, n - sinks) : block_bytes(p, of, n, 0);
    }
    return one;
}

uint64_t kv_format_bytes(const struct kv_line *l)
{
    const struct kv_shape *s = &l->pool->shape;
    uint64_t sum = 0;
    for (int32_t i = 0; i < s->n_layer; i++)
        sum += (uint64_t)s->heads[i].n * head_bytes(l, &s->heads[i]);
    return sum;
}
