/* Norms, positions, activations, and the way into the cache. */
#include "kernels/cuda/backend.h"

#include <assert.h>

enum { THREADS = 256 };

/* How many groups of `per` cover n. */
static unsigned groups(size_t n, size_t per)
{
    return (unsigned)((n + per - 1) / per);
}

/* ---- norms: one block per row ---- */

/* The sum over a block's threads, to each of them. */
DEVICE float block_sum(float x)
{
    __shared__ float part[32];
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0);
}

enum { NORM_THREADS = 512 }; /* at most */

static unsigned norm_threads(int32_t n_col)
{
    return n_col <= 128 ? 32 : n_col <= 1024 ? 128 : NORM_THREADS;
}

static __global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_rows(float *dst, const float *x, const float *gain, int32_t n_col, int32_t stride, float eps)
{
    const float *a = x + (size_t)blockIdx.x * stride;
    float *d = dst + (size_t)blockIdx.x * stride;
    float sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < n_col; i += (int32_t)blockDim.x)
        sum += a[i] * a[i];
    float scale = 1 / sqrtf(block_sum(sum) / (float)n_col + eps);
    for (int32_t i = (int32_t)threadIdx.x; i < n_col; i += (int32_t)blockDim.x)
        d[i] = a[i] * scale * gain[i];
}

void cuda_rmsnorm(struct kern *k, float *dst, const float *x, const float *gain, int32_t n_row,
                  int32_t n_col, int32_t stride, float eps)
{
    launch(rmsnorm_rows, dim3((unsigned)n_row), norm_threads(n_col), 0, cuda_of(k), dst, x, gain,
           n_col, stride, eps);
}

static __global__ void __launch_bounds__(NORM_THREADS)
    center_rows(float *dst, const float *x, int32_t n_col)
{
    const float *a = x + (size_t)blockIdx.x * n_col;
    float *d = dst + (size_t)blockIdx.x * n_col;
    float sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < n_col; i += (int32_t)blockDim.x)
        sum += a[i];
    float mean = block_sum(sum) / (float)n_col;
    for (int32_t i = (int32_t)threadIdx.x; i < n_col; i += (int32_t)blockDim.x)
        d[i] = a[i] - mean;
}

void cuda_center(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col)
{
    launch(center_rows, dim3((unsigned)n_row), norm_threads(n_col), 0, cuda_of(k), dst, x, n_col);
}

/* ---- rope: one thread per token and pair of channels, all heads ---- */

static __global__ void rope_pairs(float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
                                  int32_t stride, int32_t pos0, const int32_t *place,
                                  const float *freq, int32_t half, bool pairs, float mscale)
{
    int32_t at = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), t = at / half, i = at % half;
    if (t >= n_tok)
        return;
    pos0 += place ? *place : 0;
    double angle = (double)(pos0 + t) * (double)freq[i];
    float c = (float)cos(angle) * mscale, s = (float)sin(angle) * mscale;
    for (int32_t h = (int32_t)blockIdx.y; h < n_head; h += (int32_t)gridDim.y) {
        float *v = x + (size_t)t * stride + (size_t)h * head_dim;
        float *a = v + (pairs ? 2 * i : i), *b = v + (pairs ? 2 * i + 1 : i + half);
        float va = *a, vb = *b;
        *a = va * c - vb * s;
        *b = va * s + vb * c;
    }
}

/* The device's copy of the frequencies, which a model keeps unchanged for its life. */
static const float *rope_freq(struct kern_cuda *c, const struct kern_rope *r)
{
    int32_t n = r->n_rot / 2;
    assert(n > 0 && n <= CUDA_ROPE_MAX / 2);
    for (int32_t i = 0; i < CUDA_ROPE_TABLES; i++)
        if (c->rope[i].n == n && memcmp(c->rope[i].freq, r->freq, sizeof(float) * (size_t)n) == 0)
            return c->rope[i].dev;
    int32_t i = c->rope_next++ % CUDA_ROPE_TABLES;
    memcpy(c->rope[i].freq, r->freq, sizeof(float) * (size_t)n);
    c->rope[i].n = n;
    cuda_put(c, c->rope[i].dev, r->freq, sizeof(float) * (size_t)n);
    return c->rope[i].dev;
}

void cuda_rope(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
               int32_t stride, int32_t pos0, const struct kern_rope *r)
{
    struct kern_cuda *c = cuda_of(k);
    const float *freq = rope_freq(c, r);
    int32_t half = r->n_rot / 2;
    const int32_t *place = step_place(c, n_tok, &pos0);
    /* Few tokens alone would not fill the device: heads side by side then. */
    unsigned beside = n_tok < 16 ? (unsigned)n_head : 1;
    launch(rope_pairs, dim3(groups((size_t)n_tok * (size_t)half, 64), beside), 64, 0, c, x, n_tok,
           n_head, head_dim, stride, pos0, place, freq, half, r->mode == KERN_ROPE_PAIRS, r->mscale);
}

/* ---- keys and values into blocks ---- */

struct write_args {
    const struct kern_kv_block *block;
    int32_t n_head_kv, head_dim, n_block_cap, stride, n_tok, pos0;
    uint16_t *sink_k, *sink_v;
    const int32_t *place; /* dev: to be added to pos0, or NULL */
    int64_t latent;       /* an even number of words: port.h */
};

/* One block of threads per token and head. Keys are stored channel by channel. */
static __global__ void write_rows(struct write_args w, const float *key, const float *value)
{
    int32_t t = (int32_t)blockIdx.x, h = (int32_t)blockIdx.y, d = w.head_dim;
    int32_t pos = w.pos0 + (w.place ? *w.place : 0) + t;
    int32_t slot = pos % KERN_BLOCK_TOK;
    const struct kern_kv_block *b = &w.block[(size_t)h * w.n_block_cap + pos / KERN_BLOCK_TOK];
    const float *ks = key + (size_t)t * w.stride + (size_t)h * d;
    const float *vs = w.latent ? NULL : value + (size_t)t * w.stride + (size_t)h * d;
    bool sink = pos < KERN_SINK_TOK && w.sink_k;
    for (int32_t i = (int32_t)threadIdx.x; i < d; i += (int32_t)blockDim.x) {
        uint16_t kh = half_of(ks[i]);
        b->k[(size_t)i * KERN_BLOCK_TOK + slot] = kh;
        if (sink)
            w.sink_k[((size_t)h * d + i) * KERN_SINK_PAD + pos] = kh;
        if (!vs)
            continue;
        uint16_t vh = half_of(vs[i]);
        b->v[(size_t)slot * d + i] = vh;
        if (sink)
            w.sink_v[((size_t)h * KERN_SINK_PAD + pos) * d + i] = vh;
    }
}

void cuda_kv_write(struct kern *k, const struct kern_kv *kv, const float *key, const float *value,
                   int32_t stride, int32_t n_tok, int32_t pos0)
{
    struct kern_cuda *c = cuda_of(k);
    assert(pos0 >= 0 && (pos0 + n_tok - 1) / KERN_BLOCK_TOK < kv->n_block_cap);
    const struct kern_kv_block *table = cuda_table_of(c, kv); /* may end the step */
    const int32_t *place = step_place(c, n_tok, &pos0);
    struct write_args w = {table, kv->n_head_kv, kv->head_dim, kv->n_block_cap, stride, n_tok, pos0,
                           kv->sink_k, kv->sink_v, place, kv->n_latent};
    launch(write_rows, dim3((unsigned)n_tok, (unsigned)kv->n_head_kv), 64, 0, c, w, key,
           value);
}

/* ---- activations, sums ---- */

static __global__ void fill_words(uint32_t *dst, uint32_t word, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        dst[i] = word;
}

void cuda_fill(struct kern_cuda *c, void *dev, uint32_t word, size_t n)
{
    if (n > 0)
        launch(fill_words, dim3(groups(n, THREADS)), THREADS, 0, c, (uint32_t *)dev, word, n);
}

/* Rows in the first dimension of the grid, here and below: the others hold 65535 blocks, and
 * experts have more rows than that. */
static __global__ void glu_all(float *dst, int32_t dst_stride, const float *gate, const float *up,
                               int32_t stride, int32_t n, enum kern_act act)
{
    int32_t i = (int32_t)(blockIdx.y * blockDim.x + threadIdx.x), t = (int32_t)blockIdx.x;
    if (i >= n)
        return;
    float g = gate[(size_t)t * stride + i], u = up[(size_t)t * stride + i], a;
    if (act == KERN_ACT_SILU) {
        a = g / (1 + expf(-g));
    } else if (act == KERN_ACT_GELU_TANH) {
        a = 0.5f * g * (1 + tanhf(0.79788456080286536f * (g + 0.044715f * g * g * g)));
    } else if (act == KERN_ACT_SIGMOID) {
        a = 1 / (1 + expf(-g));
    } else if (act == KERN_ACT_RELU) {
        a = fmaxf(g, 0);
    } else if (act == KERN_ACT_NONE) {
        a = g;
    } else {
        g = g < 7 ? g : 7;
        a = g / (1 + expf(-1.702f * g));
        u = fminf(fmaxf(u, -7), 7) + 1;
    }
    dst[(size_t)t * dst_stride + i] = a * u;
}

void cuda_glu(struct kern *k, float *dst, int32_t dst_stride, const float *gate, const float *up,
              int32_t stride, int32_t n_tok, int32_t n, enum kern_act act)
{
    launch(glu_all, dim3((unsigned)n_tok, groups((size_t)n, THREADS)), THREADS, 0, cuda_of(k), dst,
           dst_stride, gate, up, stride, n, act);
}

static __global__ void add_all(float *dst, const float *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        dst[i] += x[i];
}

void cuda_add(struct kern *k, float *dst, const float *x, size_t n)
{
    launch(add_all, dim3(groups(n, THREADS)), THREADS, 0, cuda_of(k), dst, x, n);
}

static __global__ void sink_all(float *out, const float *lse, const float *sink, size_t n,
                                int32_t n_head, int32_t head_dim)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x, head = i / (size_t)head_dim;
    if (i < n)
        out[i] *= 1 / (1 + expf(sink[head % (size_t)n_head] - lse[head]));
}

void cuda_sink(struct kern *k, float *out, const float *lse, const float *sink, int32_t n_tok,
               int32_t n_head, int32_t head_dim)
{
    size_t n = (size_t)n_tok * (size_t)n_head * (size_t)head_dim;
    launch(sink_all, dim3(groups(n, THREADS)), THREADS, 0, cuda_of(k), out, lse, sink, n, n_head,
           head_dim);
}

/* ---- rows of experts ---- */

/* dst[t] = src[row[t]], or += the weighted sum of n_each rows. */
static __global__ void gather_rows(float *dst, const float *src, const int32_t *row,
                                   const float *weight, int32_t n_each, int32_t n_col)
{
    int32_t i = (int32_t)(blockIdx.y * blockDim.x + threadIdx.x), t = (int32_t)blockIdx.x;
    if (i >= n_col)
        return;
    float *to = dst + (size_t)t * n_col + i, sum = weight ? *to : 0;
    for (int32_t j = 0; j < n_each; j++) {
        size_t at = (size_t)t * n_each + j;
        float v = src[(size_t)row[at] * n_col + i];
        sum = weight ? sum + weight[at] * v : v;
    }
    *to = sum;
}

/* The host's lists go to scratch: what was there before has been read when they come, and what
 * takes scratch next comes behind the launch. */
static void gather(struct kern *k, float *dst, const float *src, const int32_t *row,
                   const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col)
{
    struct kern_cuda *c = cuda_of(k);
    struct cuda_cut cut = cuda_cut_begin(c);
    size_t size = sizeof *row * (size_t)n_tok * (size_t)n_each;
    int32_t *row_dev = (int32_t *)cuda_cut_take(&cut, size);
    float *weight_dev = weight ? (float *)cuda_cut_take(&cut, size) : NULL;
    assert(row_dev && !weight == !weight_dev);
    cuda_put(c, row_dev, row, size);
    if (weight)
        cuda_put(c, weight_dev, weight, size);
    launch(gather_rows, dim3((unsigned)n_tok, groups((size_t)n_col, THREADS)), THREADS, 0, c, dst, src,
           row_dev, weight_dev, n_each, n_col);
}

void cuda_take_rows(struct kern *k, float *dst, const float *src, const int32_t *row, int32_t n,
                    int32_t n_col)
{
    gather(k, dst, src, row, NULL, n, 1, n_col);
}

void cuda_add_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                   const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col)
{
    gather(k, dst, src, row, weight, n_tok, n_each, n_col);
}

static __global__ void scale_all(float *x, size_t n, float by)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] *= by;
}

void cuda_scale(struct kern *k, float *x, size_t n, float by)
{
    launch(scale_all, dim3(groups(n, THREADS)), THREADS, 0, cuda_of(k), x, n, by);
}

static __global__ void softcap_all(float *x, size_t n, float cap)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = cap * tanhf(x[i] / cap);
}

void cuda_softcap(struct kern *k, float *x, size_t n, float cap)
{
    launch(softcap_all, dim3(groups(n, THREADS)), THREADS, 0, cuda_of(k), x, n, cap);
}
