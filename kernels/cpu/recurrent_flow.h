/* Layers that keep a state, at 8 or 16 lanes: included by elementwise_avx2.c and elementwise_avx512.c.
 *
 * Channels of the convolution, and columns of the delta rule's states, know nothing of each other: a part
 * of the work is a few of them for all tokens of the call, so that what it keeps stays in the first level
 * of the cache. Every number comes of the same operations in the same order, however tokens are cut into
 * calls and whatever the number of threads. */
#include "kernels/cpu/elementwise_flow.h"

/* ---- convolution ---- */

enum { CONV_BLOCK = 4 * VL }; /* channels of a part's unit */

/* Row t of the rows before and then those of x. */
ATTN_INLINE const float *conv_row(const struct kern_conv *c, int32_t t)
{
    int32_t n_before = c->n_tap - 1;
    return t < n_before ? c->before + (size_t)t * (size_t)c->n_chan
                        : c->x + (size_t)(t - n_before) * (size_t)c->n_chan;
}

ATTN_INLINE vf conv_sum(const struct kern_conv *c, int32_t t, int32_t i, int32_t n)
{
    vf sum = VF_ZERO();
    for (int32_t j = 0; j < c->n_tap; j++) {
        const float *w = c->weight + (size_t)j * (size_t)c->n_chan + i, *y = conv_row(c, t + j) + i;
        sum = n == VL ? VF_FMA(VF_LOAD(w), VF_LOAD(y), sum)
                      : VF_FMA(load_some(w, n), load_some(y, n), sum);
    }
    return c->silu ? activate(sum, VF_SET1(1.0f), KERN_ACT_SILU) : sum;
}

static void conv_part(void *ctx, int part, int n_part, int thread)
{
    const struct kern_conv *c = ctx;
    int32_t n_block = (c->n_chan + CONV_BLOCK - 1) / CONV_BLOCK;
    int32_t begin = part_row(n_block, part, n_part) * CONV_BLOCK;
    int32_t end = part_row(n_block, part + 1, n_part) * CONV_BLOCK;
    end = end < c->n_chan ? end : c->n_chan;
    if (begin >= end)
        return;
    for (int32_t t = 0; t < c->n_tok; t++) {
        float *out = c->out + (size_t)t * (size_t)c->n_chan;
        int32_t i = begin;
        for (; i + VL <= end; i += VL)
            VF_STORE(out + i, conv_sum(c, t, i, VL));
        if (i < end)
            store_some(out + i, conv_sum(c, t, i, end - i), end - i);
    }
    /* Upwards: where the state is changed in place, a row goes to where an older one was. */
    for (int32_t j = 0; j < c->n_tap - 1; j++)
        memmove(c->after + (size_t)j * (size_t)c->n_chan + begin, conv_row(c, c->n_tok + j) + begin,
                (size_t)(end - begin) * sizeof(float));
}

static void flow_conv(struct kern *k, const struct kern_conv *c)
{
    assert(c->n_tap >= 2 && c->n_tap <= KERN_CONV_TAPS && c->n_tok > 0);
    flow_run(k, (c->n_chan + CONV_BLOCK - 1) / CONV_BLOCK, CONV_BLOCK * c->n_tap * c->n_tok, conv_part,
             (void *)c);
}

/* ---- gated delta rule ---- */

enum {
    DELTA_TOK = 64,                  /* tokens made ready at a time */
    DELTA_DIM = 256,                 /* most channels of a head */
    DELTA_VECS = VL == 16 ? 4 : 2,   /* of columns side by side: sums of all fit the registers */
};

/* What a head's tokens bring, ready for all columns. */
struct delta_tile {
    float q[DELTA_TOK][DELTA_DIM], k[DELTA_TOK][DELTA_DIM];
    float decay[DELTA_TOK], share[DELTA_TOK];
};

/* to = x, one long, times scale. */
ATTN_INLINE void delta_unit(float *to, const float *x, int32_t n, float eps, float scale)
{
    vf sum = VF_ZERO();
    for (int32_t i = 0; i < n; i += VL)
        sum = VF_FMA(VF_LOAD(x + i), VF_LOAD(x + i), sum);
    vf by = VF_SET1(scale / sqrtf(vf_hsum(sum) + eps));
    for (int32_t i = 0; i < n; i += VL)
        VF_STORE(to + i, VF_MUL(VF_LOAD(x + i), by));
}

static void delta_ready(const struct kern_delta *d, int32_t h, int32_t t0, int32_t n_tok,
                        struct delta_tile *tile)
{
    int32_t n = d->head_dim;
    float scale = 1 / sqrtf((float)n);
    for (int32_t t = 0; t < n_tok; t++) {
        size_t row = (size_t)(t0 + t) * (size_t)d->stride + (size_t)(h % d->n_head_k) * (size_t)n;
        size_t gate = (size_t)(t0 + t) * (size_t)d->n_head + (size_t)h;
        delta_unit(tile->q[t], d->q + row, n, d->eps, scale);
        delta_unit(tile->k[t], d->k + row, n, d->eps, 1);
        float x = d->alpha[gate] + d->dt[h];
        tile->decay[t] = expf(d->a[h] * (x > 20 ? x : log1pf(expf(x))));
        tile->share[t] = 1 / (1 + expf(-d->beta[gate]));
    }
}

/* The tile's tokens over n_vec vectors of columns of one head; n_vec is a constant. s is what is read, to
 * what is written, maybe the same; v and out are of the first token. What a token sees of the state that the
 * one before it leaves is summed up while that is written. */
ATTN_INLINE void delta_columns(const struct kern_delta *d, const struct delta_tile *tile, int32_t n_tok,
                               const float *s, float *to, const float *v, float *out, int n_vec)
{
    size_t n = (size_t)d->head_dim, out_stride = (size_t)d->n_head * n;
    vf seen[DELTA_VECS], add[DELTA_VECS], sum[DELTA_VECS];
    for (int i = 0; i < n_vec; i++)
        seen[i] = VF_ZERO();
    for (size_t r = 0; r < n; r++)
        for (int i = 0; i < n_vec; i++)
            seen[i] = VF_FMA(VF_SET1(tile->k[0][r]), VF_LOAD(s + r * n + (size_t)i * VL), seen[i]);
    for (int32_t t = 0; t < n_tok; t++, s = to, v += d->stride, out += out_stride) {
        const float *q = tile->q[t], *key = tile->k[t], *next = tile->k[t + 1 < n_tok ? t + 1 : t];
        vf decay = VF_SET1(tile->decay[t]);
        for (int i = 0; i < n_vec; i++) {
            vf new = VF_FNMA(decay, seen[i], VF_LOAD(v + (size_t)i * VL));
            add[i] = VF_MUL(VF_SET1(tile->share[t]), new);
            sum[i] = seen[i] = VF_ZERO();
        }
        for (size_t r = 0; r < n; r++) {
            vf k_r = VF_SET1(key[r]), q_r = VF_SET1(q[r]), next_r = VF_SET1(next[r]);
            for (int i = 0; i < n_vec; i++) {
                size_t at = r * n + (size_t)i * VL;
                vf x = VF_FMA(k_r, add[i], VF_MUL(decay, VF_LOAD(s + at)));
                VF_STORE(to + at, x);
                sum[i] = VF_FMA(q_r, x, sum[i]);
                seen[i] = VF_FMA(next_r, x, seen[i]);
            }
        }
        for (int i = 0; i < n_vec; i++)
            VF_STORE(out + (size_t)i * VL, sum[i]);
    }
}

static void delta_part(void *ctx, int part, int n_part, int thread)
{
    const struct {
        struct kern *k;
        const struct kern_delta *d;
    } *j = ctx;
    const struct kern_delta *d = j->d;
    struct delta_tile *tile = (struct delta_tile *)(void *)cpu_scratch(j->k, thread);
    size_t n = (size_t)d->head_dim;
    int32_t end = part_row(d->n_head, part + 1, n_part);
    for (int32_t h = part_row(d->n_head, part, n_part); h < end; h++)
        for (int32_t t0 = 0; t0 < d->n_tok; t0 += DELTA_TOK) {
            int32_t n_tok = d->n_tok - t0 < DELTA_TOK ? d->n_tok - t0 : DELTA_TOK;
            float *to = d->after + (size_t)h * n * n;
            const float *s = t0 == 0 ? d->before + (size_t)h * n * n : to;
            const float *v = d->v + (size_t)t0 * (size_t)d->stride + (size_t)h * n;
            float *out = d->out + ((size_t)t0 * (size_t)d->n_head + (size_t)h) * n;
            delta_ready(d, h, t0, n_tok, tile);
            size_t c = 0;
            for (; c + DELTA_VECS * VL <= n; c += DELTA_VECS * VL)
                delta_columns(d, tile, n_tok, s + c, to + c, v + c, out + c, DELTA_VECS);
            for (; c < n; c += VL)
                delta_columns(d, tile, n_tok, s + c, to + c, v + c, out + c, 1);
        }
}

static void flow_delta(struct kern *k, const struct kern_delta *d)
{
    struct {
        struct kern *k;
        const struct kern_delta *d;
    } job = {k, d};
    assert(d->n_tok > 0 && d->head_dim % 16 == 0 && d->head_dim <= DELTA_DIM);
    _Static_assert(sizeof(struct delta_tile) <= CPU_SCRATCH_BYTES, "scratch");
    flow_run(k, d->n_head, d->head_dim * d->head_dim * d->n_tok, delta_part, &job);
}
