/* Attention written plainly: the oracle. One row and one KV head at a time, everything in double,
 * pages dequantised, softmax online so that no length limits it. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/attn.h"
#include "kernels/page.h"

enum { HEAD_STEP = 8 }; /* query heads of a group handled at once */

struct row_state {
    double m[HEAD_STEP], l[HEAD_STEP]; /* running maximum and sum of exponentials */
    double o[HEAD_STEP][PAGE_HEAD_DIM_MAX];
};

/* One block as float: k [head_dim][64], v [64][head_dim]. v NULL: values are the keys. */
struct block_rows {
    float k[PAGE_HEAD_DIM_MAX * PAGE_TOK];
    float v[PAGE_TOK * PAGE_HEAD_DIM_MAX];
};

static void rows_from_f16(struct block_rows *r, const uint16_t *k, const uint16_t *v,
                          int32_t head_dim, int32_t tok0, int32_t tok1, int32_t k_stride)
{
    for (int32_t t = tok0; t < tok1; t++) {
        for (int32_t c = 0; c < head_dim; c++) {
            r->k[c * PAGE_TOK + t] = kern_f16_to_f32(k[c * k_stride + t]);
            r->v[t * head_dim + c] = v ? kern_f16_to_f32(v[t * head_dim + c]) : r->k[c * PAGE_TOK + t];
        }
    }
}

/* Is block j, older than b-1, read by rows of position block b? */
static bool block_listed(const struct kern_attn *a, int32_t head_kv, int32_t b, int32_t j)
{
    if (!a->list) {
        return true;
    }
    int32_t b0 = a->pos0 / PAGE_TOK;
    int32_t n_row_block = (a->pos0 + a->n_tok - 1) / PAGE_TOK - b0 + 1;
    const int32_t *first = a->list->first + (size_t)head_kv * (n_row_block + 1) + (b - b0);
    for (int32_t i = first[0]; i < first[1]; i++) {
        if (a->list->index[i] == j) {
            return true;
        }
    }
    return false;
}

/* Fetches what a row of block b reads of block j: positions [*ret_tok0, *ret_tok1) of it. */
static bool block_fetch(const struct kern_attn *a, int32_t head_kv, int32_t b, int32_t j,
                        struct block_rows *r, int32_t *ret_tok0, int32_t *ret_tok1)
{
    const struct kern_kv *kv = a->kv;
    const struct kern_kv_block *blk = &kv->block[(size_t)head_kv * kv->n_block_cap + j];
    int32_t d = kv->head_dim;
    bool older = j + 1 < b;
    bool whole = !older || (block_listed(a, head_kv, b, j) && (blk->page || blk->k));
    *ret_tok0 = 0;
    *ret_tok1 = whole ? PAGE_TOK : KERN_SINK_TOK;
    if (older && (blk->page || !whole) && j == 0 && kv->sink_k) {
        if (whole) {
            page_unpack_k(blk->page, r->k);
            page_unpack_v(blk->page, r->v);
        }
        rows_from_f16(r, kv->sink_k + (size_t)head_kv * d * KERN_SINK_PAD,
                      kv->sink_v ? kv->sink_v + (size_t)head_kv * KERN_SINK_PAD * d : NULL, d, 0, KERN_SINK_TOK,
                      KERN_SINK_PAD);
        return true;
    }
    if (!whole && j != 0) {
        return false;
    }
    if (older && whole && blk->page) {
        page_unpack_k(blk->page, r->k);
        page_unpack_v(blk->page, r->v);
        return true;
    }
    if (!blk->k) {
        assert(older); /* rows of the present and the previous block must be there */
        return false;
    }
    rows_from_f16(r, blk->k, blk->v, d, 0, *ret_tok1, PAGE_TOK);
    return true;
}

struct ref_job {
    const struct kern_attn *a;
};

static void attend_row(const struct kern_attn *a, int32_t head_kv, int32_t row)
{
    const struct kern_kv *kv = a->kv;
    int32_t d = kv->head_dim, n_value = kern_value_dim(kv), group = a->n_head / kv->n_head_kv;
    int32_t asks = a->row ? a->row[row] : row, pos = a->pos0 + asks, b = pos / PAGE_TOK;
    int32_t first_pos = a->window > 0 && pos - a->window + 1 > 0 ? pos - a->window + 1 : 0;
    struct block_rows rows;
    for (int32_t g0 = 0; g0 < group; g0 += HEAD_STEP) {
        int32_t n_g = group - g0 < HEAD_STEP ? group - g0 : HEAD_STEP;
        struct row_state s;
        memset(&s, 0, sizeof s);
        for (int32_t g = 0; g < n_g; g++) {
            s.m[g] = -INFINITY;
        }
        /* The last head's final maximum and sum are known only at the end, so mass takes a second
         * walk: pass 0 computes, pass 1 only adds up p. */
        for (int pass = 0; pass < (a->mass ? 2 : 1); pass++) {
            for (int32_t j = first_pos / PAGE_TOK; j <= b; j++) {
                int32_t tok0, tok1;
                if (!block_fetch(a, head_kv, b, j, &rows, &tok0, &tok1)) {
                    continue;
                }
                uint64_t dropped = kv->block[(size_t)head_kv * kv->n_block_cap + j].dropped;
                for (int32_t t = tok0; t < tok1; t++) {
                    int32_t at = j * PAGE_TOK + t;
                    if (at < first_pos || at > pos || (dropped >> t & 1)) {
                        continue;
                    }
                    for (int32_t g = 0; g < n_g; g++) {
                        int32_t head = head_kv * group + g0 + g;
                        const float *q = a->q + ((size_t)asks * a->n_head + head) * d;
                        double score = 0;
                        for (int32_t c = 0; c < d; c++) {
                            score += (double)q[c] * rows.k[c * PAGE_TOK + t];
                        }
                        score *= a->scale;
                        if (a->softcap > 0) {
                            score = a->softcap * tanh(score / a->softcap);
                        }
                        if (pass == 1) {
                            a->mass[(size_t)head_kv * kv->n_block_cap + j] +=
                                (float)(exp(score - s.m[g]) / s.l[g]);
                            continue;
                        }
                        if (score > s.m[g]) {
                            double shrink = exp(s.m[g] - score);
                            s.m[g] = score;
                            s.l[g] *= shrink;
                            for (int32_t c = 0; c < d; c++) {
                                s.o[g][c] *= shrink;
                            }
                        }
                        double p = exp(score - s.m[g]);
                        s.l[g] += p;
                        for (int32_t c = 0; c < n_value; c++) {
                            s.o[g][c] += p * rows.v[t * d + c];
                        }
                    }
                }
            }
        }
        for (int32_t g = 0; g < n_g; g++) {
            int32_t head = head_kv * group + g0 + g;
            float *out = a->out + ((size_t)row * a->n_head + head) * d;
            for (int32_t c = 0; c < d; c++) {
                out[c] = (float)(s.o[g][c] / s.l[g]);
            }
            if (a->lse) {
                a->lse[(size_t)row * a->n_head + head] = (float)(s.m[g] + log(s.l[g]));
            }
        }
    }
}

/* One part is one KV head: parts share no output and no entry of mass. */
static void attend_head(void *ctx, int part, int n_part)
{
    const struct kern_attn *a = ((struct ref_job *)ctx)->a;
    for (int32_t row = 0; row < a->n_tok; row++) {
        attend_row(a, part, row);
    }
}

void attn_ref_attend(struct kern *k, const struct kern_attn *a)
{
    assert(a->kv->head_dim % 2 == 0 && a->kv->head_dim <= PAGE_HEAD_DIM_MAX);
    assert(a->n_head % a->kv->n_head_kv == 0);
    struct ref_job job = {a};
    kern_parallel(k, a->kv->n_head_kv, attend_head, &job);
}
