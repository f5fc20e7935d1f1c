/* Layers that keep a state. A token follows the other; what runs side by side are channels, and heads with
 * the columns of their states. Every number comes of the same operations in the same order, however tokens
 * are cut into calls. */
#include "kernels/cuda/backend.h"

#include <assert.h>

/* ---- convolution: one thread per channel and stretch of tokens ---- */

enum { CONV_THREADS = 64, CONV_TOK = 64 };

struct conv_args {
    const float *x, *weight, *before, *bias;
    float *out;
    int32_t n_tok, n_chan, n_tap, silu;
};

/* Channel i of row t of the rows before and then those of x. */
DEVICE float conv_value(const float *x, const float *before, int32_t n_chan, int32_t n_before, int32_t t,
                        int32_t i)
{
    return t < n_before ? before[(size_t)t * n_chan + i] : x[(size_t)(t - n_before) * n_chan + i];
}

static __global__ void conv_rows(struct conv_args a)
{
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), t0 = (int32_t)blockIdx.y * CONV_TOK;
    if (i >= a.n_chan)
        return;
    for (int32_t t = t0; t < t0 + CONV_TOK && t < a.n_tok; t++) {
        float sum = a.bias ? a.bias[i] : 0;
        for (int32_t j = 0; j < a.n_tap; j++)
            sum += a.weight[(size_t)j * a.n_chan + i] *
                   conv_value(a.x, a.before, a.n_chan, a.n_tap - 1, t + j, i);
        a.out[(size_t)t * a.n_chan + i] = a.silu ? sum / (1 + expf(-sum)) : sum;
    }
}

/* The last n_before rows; upwards, for the same place. */
static __global__ void conv_last(float *after, const float *x, const float *before, int32_t n_tok,
                                 int32_t n_chan, int32_t n_before)
{
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    for (int32_t j = 0; i < n_chan && j < n_before; j++)
        after[(size_t)j * n_chan + i] = conv_value(x, before, n_chan, n_before, n_tok + j, i);
}

void cuda_conv(struct kern *k, const struct kern_conv *c)
{
    assert(c->n_tap >= 2 && c->n_tap <= KERN_CONV_TAPS && c->n_tok > 0);
    struct conv_args a = {c->x,     c->weight, c->before, c->bias, c->out,
                          c->n_tok, c->n_chan, c->n_tap,  c->silu};
    unsigned wide = (unsigned)((c->n_chan + CONV_THREADS - 1) / CONV_THREADS);
    launch(conv_rows, dim3(wide, (unsigned)((c->n_tok + CONV_TOK - 1) / CONV_TOK)), CONV_THREADS, 0,
           cuda_of(k), a);
    launch(conv_last, dim3(wide), CONV_THREADS, 0, cuda_of(k), c->after, c->x, c->before, c->n_tok, c->n_chan,
           c->n_tap - 1);
}

/* ---- states of heads: one block per head and STATE_COLS columns ---- */

enum { STATE_COLS = 16, STATE_LANES = 8, STATE_THREADS = STATE_COLS * STATE_LANES, STATE_ROWS = 256 };

DEVICE float softplus(float x)
{
    return x > 20 ? x : log1pf(expf(x));
}

/* The sum of a column's lanes, which are neighbours, to each of them. */
DEVICE float lanes_sum(float x)
{
    for (int32_t i = STATE_LANES / 2; i > 0; i /= 2)
        x += __shfl_xor_sync(FULL_WARP, x, i);
    return x;
}

/* A thread has every STATE_LANES-th row of one column, of n rows `stride` floats apart. */
typedef float state_rows[STATE_ROWS / STATE_LANES];

DEVICE void rows_load(state_rows &s, const float *from, int32_t n, int32_t stride, int32_t lane)
{
#pragma unroll
    for (int32_t r = 0; r < STATE_ROWS / STATE_LANES; r++)
        s[r] = r * STATE_LANES + lane < n ? from[(size_t)(r * STATE_LANES + lane) * stride] : 0;
}

DEVICE void rows_store(float *to, const state_rows &s, int32_t n, int32_t stride, int32_t lane)
{
#pragma unroll
    for (int32_t r = 0; r < STATE_ROWS / STATE_LANES; r++)
        if (r * STATE_LANES + lane < n)
            to[(size_t)(r * STATE_LANES + lane) * stride] = s[r];
}

/* s = decay s + key write; the column's ask s, to each of its lanes. */
DEVICE float rows_step(state_rows &s, float decay, const float *key, float write, const float *ask, int32_t n,
                       int32_t lane)
{
    float sum = 0;
#pragma unroll
    for (int32_t r = 0; r < STATE_ROWS / STATE_LANES; r++)
        if (r * STATE_LANES < n) {
            s[r] = decay * s[r] + key[r * STATE_LANES + lane] * write;
            sum += ask[r * STATE_LANES + lane] * s[r];
        }
    return lanes_sum(sum);
}

/* ---- gated delta rule ---- */

struct delta_args {
    const float *q, *k, *v, *alpha, *beta, *a, *dt, *before;
    float *after, *out;
    int32_t n_tok, n_head, n_head_k, per_key, head_dim, stride; /* per_key 0 = heads take keys by turns */
    float eps;
};

/* Queries and keys are made ready by all threads. */
static __global__ void delta_columns(struct delta_args a)
{
    __shared__ float q[STATE_ROWS], key[STATE_ROWS], part[2][STATE_THREADS / 32];
    state_rows s;
    int32_t n = a.head_dim, h = (int32_t)blockIdx.x, lane = (int32_t)threadIdx.x % STATE_LANES;
    int32_t col = (int32_t)blockIdx.y * STATE_COLS + (int32_t)threadIdx.x / STATE_LANES;
    size_t start = (size_t)h * n * n + col;
    rows_load(s, a.before + start, n, n, lane);
    for (int32_t t = 0; t < a.n_tok; t++) {
        size_t row = (size_t)t * a.stride;
        size_t head = row + (size_t)(a.per_key > 0 ? h / a.per_key : h % a.n_head_k) * n;
        size_t gate = (size_t)t * a.n_head + h;
        float squares_q = 0, squares_k = 0;
        __syncthreads(); /* all have done with the token before */
        for (int32_t i = (int32_t)threadIdx.x; i < n; i += STATE_THREADS) {
            q[i] = a.q[head + i];
            key[i] = a.k[head + i];
            squares_q += q[i] * q[i];
            squares_k += key[i] * key[i];
        }
        squares_q = warp_sum(squares_q);
        squares_k = warp_sum(squares_k);
        if (threadIdx.x % 32 == 0) {
            part[0][threadIdx.x / 32] = squares_q;
            part[1][threadIdx.x / 32] = squares_k;
        }
        __syncthreads();
        squares_q = squares_k = 0;
        for (int32_t i = 0; i < STATE_THREADS / 32; i++) {
            squares_q += part[0][i];
            squares_k += part[1][i];
        }
        float by_q = 1 / sqrtf((squares_q + a.eps) * (float)n), by_k = 1 / sqrtf(squares_k + a.eps);
        float decay = expf(a.a[h] * softplus(a.alpha[gate] + a.dt[h])), share = 1 / (1 + expf(-a.beta[gate]));
        float seen = 0;
#pragma unroll
        for (int32_t r = 0; r < STATE_ROWS / STATE_LANES; r++)
            if (r * STATE_LANES < n)
                seen += key[r * STATE_LANES + lane] * s[r];
        float add = share * by_k * (a.v[row + (size_t)h * n + col] - decay * by_k * lanes_sum(seen));
        float sum = rows_step(s, decay, key, add, q, n, lane);
        if (lane == 0)
            a.out[((size_t)t * a.n_head + h) * n + col] = by_q * sum;
    }
    rows_store(a.after + start, s, n, n, lane);
}

void cuda_delta(struct kern *k, const struct kern_delta *d)
{
    assert(d->n_tok > 0 && d->head_dim % STATE_COLS == 0 && d->head_dim <= STATE_ROWS);
    int32_t per_key = d->neighbours ? d->n_head / d->n_head_k : 0;
    struct delta_args a = {d->q,      d->k,     d->v,   d->alpha, d->beta,   d->a,        d->dt,
                           d->before, d->after, d->out, d->n_tok, d->n_head, d->n_head_k, per_key,
                           d->head_dim, d->stride, d->eps};
    launch(delta_columns, dim3((unsigned)d->n_head, (unsigned)(d->head_dim / STATE_COLS)), STATE_THREADS, 0,
           cuda_of(k), a);
}

/* ---- selective state space ---- */

struct scan_args {
    const float *x, *b, *c, *dt, *a, *dt_bias, *d, *before;
    float *after, *out;
    int32_t n_tok, n_head, n_group, n_state, head_dim, stride;
};

/* A token's b and c are fetched by all threads while the token before is computed. */
static __global__ void scan_columns(struct scan_args a)
{
    __shared__ float b[2][STATE_ROWS], c[2][STATE_ROWS];
    state_rows s;
    int32_t n = a.n_state, h = (int32_t)blockIdx.x, lane = (int32_t)threadIdx.x % STATE_LANES;
    int32_t col = (int32_t)blockIdx.y * STATE_COLS + (int32_t)threadIdx.x / STATE_LANES;
    size_t group = (size_t)(h / (a.n_head / a.n_group)) * n, start = (size_t)h * n * a.head_dim + col;
    rows_load(s, a.before + start, n, a.head_dim, lane);
    for (int32_t t = 0; t < a.n_tok; t++) {
        size_t row = (size_t)t * a.stride, gate = (size_t)t * a.n_head + h;
        float *key = b[t % 2], *ask = c[t % 2];
        for (int32_t i = (int32_t)threadIdx.x; i < n; i += STATE_THREADS) {
            key[i] = a.b[row + group + i];
            ask[i] = a.c[row + group + i];
        }
        float step = softplus(a.dt[gate] + a.dt_bias[h]), decay = expf(a.a[h] * step);
        float x = a.x[row + (size_t)h * a.head_dim + col], write = step * x;
        __syncthreads(); /* once a token: the other halves are still read */
        float sum = rows_step(s, decay, key, write, ask, n, lane);
        if (lane == 0)
            a.out[gate * a.head_dim + col] = sum + a.d[h] * x;
    }
    rows_store(a.after + start, s, n, a.head_dim, lane);
}

void cuda_scan(struct kern *k, const struct kern_scan *s)
{
    assert(s->n_tok > 0 && s->n_head % s->n_group == 0 && s->head_dim % STATE_COLS == 0 &&
           s->n_state % STATE_LANES == 0 && s->n_state <= STATE_ROWS);
    struct scan_args a = {s->x,      s->b,     s->c,   s->dt,    s->a,      s->dt_bias, s->d,       s->before,
                          s->after,  s->out,   s->n_tok, s->n_head, s->n_group, s->n_state, s->head_dim, s->stride};
    launch(scan_columns, dim3((unsigned)s->n_head, (unsigned)(s->head_dim / STATE_COLS)), STATE_THREADS, 0,
           cuda_of(k), a);
}
