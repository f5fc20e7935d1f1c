/* The exact oracle "ref32": the plain ops over a cache of float32 rows, so that what is left to
 * compare with float64 arithmetic is the arithmetic. Reads no pages and no lists, tells no masses. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/ops.h"
#include "kernels/page.h"

static float *row32(uint16_t *rows)
{
    return (float *)(void *)rows;
}

static void ref32_kv_write(struct kern *k, const struct kern_kv *kv, const float *key,
                           const float *value, int32_t stride, int32_t n_tok, int32_t pos0)
{
    int32_t d = kv->head_dim;
    for (int32_t t = 0; t < n_tok; t++) {
        int32_t b = (pos0 + t) / KERN_BLOCK_TOK, slot = (pos0 + t) % KERN_BLOCK_TOK;
        assert(b < kv->n_block_cap);
        for (int32_t h = 0; h < kv->n_head_kv; h++) {
            const struct kern_kv_block *block = &kv->block[(size_t)h * kv->n_block_cap + b];
            for (int32_t c = 0; c < d; c++) {
                size_t from = (size_t)t * stride + (size_t)h * d + c;
                row32(block->k)[(size_t)c * KERN_BLOCK_TOK + slot] = key[from];
                if (!kv->n_latent)
                    row32(block->v)[(size_t)slot * d + c] = value[from];
            }
        }
    }
}

/* One query head at one position: softmax in two walks over the keys, all in double. */
static void attend_one(const struct kern_attn *a, int32_t row, int32_t head)
{
    const struct kern_kv *kv = a->kv;
    int32_t d = kv->head_dim, pos = a->pos0 + row, h = head / (a->n_head / kv->n_head_kv);
    int32_t first = a->window > 0 && pos - a->window + 1 > 0 ? pos - a->window + 1 : 0;
    const float *q = a->q + ((size_t)row * a->n_head + head) * d;
    float *out = a->out + ((size_t)row * a->n_head + head) * d;
    double most = -INFINITY, sum = 0, o[PAGE_HEAD_DIM_MAX] = {0};
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t at = first; at <= pos; at++) {
            const struct kern_kv_block *block =
                &kv->block[(size_t)h * kv->n_block_cap + at / KERN_BLOCK_TOK];
            int32_t slot = at % KERN_BLOCK_TOK;
            double score = 0;
            for (int32_t c = 0; c < d; c++)
                score += (double)q[c] * row32(block->k)[(size_t)c * KERN_BLOCK_TOK + slot];
            score *= a->scale;
            if (a->softcap > 0)
                score = a->softcap * tanh(score / a->softcap);
            if (pass == 0) {
                most = fmax(most, score);
                continue;
            }
            double p = exp(score - most);
            sum += p;
            for (int32_t c = 0; c < kern_value_dim(kv); c++)
                o[c] += p * (kv->n_latent ? row32(block->k)[(size_t)c * KERN_BLOCK_TOK + slot]
                                        : row32(block->v)[(size_t)slot * d + c]);
        }
    }
    for (int32_t c = 0; c < d; c++)
        out[c] = (float)(o[c] / sum);
    if (a->lse)
        a->lse[(size_t)row * a->n_head + head] = (float)(most + log(sum));
}

static void attend_head(void *ctx, int part, int n_part)
{
    const struct kern_attn *a = ctx;
    for (int32_t row = 0; row < a->n_tok; row++)
        attend_one(a, row, part);
}

static void ref32_attend(struct kern *k, const struct kern_attn *a)
{
    assert(a->kv->head_dim <= PAGE_HEAD_DIM_MAX && !a->list && !a->mass);
    kern_parallel(k, a->n_head, attend_head, (void *)a);
}

void ref32_ops(struct kern_ops *ret)
{
    *ret = ops_ref;
    ret->kv_write = ref32_kv_write;
    ret->attend = ref32_attend;
}
