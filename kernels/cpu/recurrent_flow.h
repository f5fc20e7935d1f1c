/* Layers that keep a state, at 8 or 16 lanes: included by elementwise_avx2.c and elementwise_avx512.c.
 * Every number comes of the same operations in the same order, however tokens are cut into calls and
 * whatever the number of threads. */
#include "kernels/cpu/elementwise_flow.h"

/* ---- convolution ---- */

enum { CONV_CHANS = 128 }; /* channels of a unit, which has all tokens: what it reads again lies in L1 */

/* Row t of the rows before and then those of x; t from 0 on. */
ATTN_INLINE const float *conv_row(const struct kern_conv *c, int32_t t)
{
    int32_t n_before = c->n_tap - 1;
    return t < n_before ? c->before + (size_t)t * c->n_chan : c->x + (size_t)(t - n_before) * c->n_chan;
}

/* One token's n channels from the rows y; always the same order of sums. */
ATTN_INLINE void conv_token(float *dst, const float *const *y, const float *weight, const float *bias,
                            size_t n_chan, int32_t n_tap, int32_t n, bool silu)
{
    for (int32_t i = 0; i < n; i += VL) {
        bool whole = i + VL <= n;
        vf sum = !bias ? VF_ZERO() : whole ? VF_LOAD(bias + i) : load_some(bias + i, n - i);
        for (int32_t j = 0; j < n_tap; j++) {
            const float *w = weight + (size_t)j * n_chan + i, *x = y[j] + i;
            sum = whole ? VF_FMA(VF_LOAD(w), VF_LOAD(x), sum)
                        : VF_FMA(load_some(w, n - i), load_some(x, n - i), sum);
        }
        if (silu)
            sum = activate(sum, VF_SET1(1.0f), KERN_ACT_SILU);
        if (whole)
            VF_STORE(dst + i, sum);
        else
            store_some(dst + i, sum, n - i);
    }
}

/* All tokens of a unit, with the number of taps known where it is a usual one. */
ATTN_INLINE void conv_tokens(const struct kern_conv *c, int32_t n_tap, bool silu, int32_t chan, int32_t n)
{
    for (int32_t t = 0; t < c->n_tok; t++) {
        const float *y[KERN_CONV_TAPS];
        for (int32_t j = 0; j < n_tap; j++)
            y[j] = conv_row(c, t + j) + chan;
        conv_token(c->out + (size_t)t * c->n_chan + chan, y, c->weight + chan, c->bias ? c->bias + chan : NULL,
                   (size_t)c->n_chan, n_tap, n, silu);
    }
}

static void conv_units(void *ctx, int part, int n_part, int thread)
{
    const struct kern_conv *c = ctx;
    int32_t n_unit = (c->n_chan + CONV_CHANS - 1) / CONV_CHANS, last = part_row(n_unit, part + 1, n_part);
    for (int32_t u = part_row(n_unit, part, n_part); u < last; u++) {
        int32_t chan = u * CONV_CHANS, n = c->n_chan - chan < CONV_CHANS ? c->n_chan - chan : CONV_CHANS;
        if (c->n_tap == 4 && c->silu)
            conv_tokens(c, 4, true, chan, n);
        else if (c->n_tap == 3 && !c->silu)
            conv_tokens(c, 3, false, chan, n);
        else
            conv_tokens(c, c->n_tap, c->silu, chan, n);
        for (int32_t j = 0; j < c->n_tap - 1; j++) /* upwards, for the same place */
            memmove(c->after + (size_t)j * c->n_chan + chan, conv_row(c, c->n_tok + j) + chan,
                    (size_t)n * sizeof *c->after);
    }
}

static void flow_conv(struct kern *k, const struct kern_conv *c)
{
    assert(c->n_tap >= 2 && c->n_tap <= KERN_CONV_TAPS && c->n_tok > 0);
    flow_run(k, (c->n_chan + CONV_CHANS - 1) / CONV_CHANS, CONV_CHANS * c->n_tok, conv_units, (void *)c);
}

/* ---- states of heads ---- */

/* Columns of a state never meet, so a unit of work is a head's block of columns with all tokens of the
 * call; within it sums run over the rows in turn, and neither the width of a block nor where a call begins
 * shows in a result. */
enum {
    STATE_TOKS = 64,     /* tokens whose gates, q and k are laid out at once */
    STATE_ROWS = 256,    /* most rows of a state */
    STATE_L1 = 32 << 10, /* bytes of state that a block keeps near */
    STATE_WIDTH = 4      /* vectors of a block: their sums stay in registers */
};

struct state_job {
    struct kern *kern;
    const void *op;
    int32_t n_tok, n_head, n_row, n_col; /* rows and columns of a head's state */
    /* Columns col..end of head h, blocks of `width` vectors, for all tokens. */
    void (*columns)(const struct state_job *j, void *scratch, int32_t h, int32_t col, int32_t end);
    int32_t width, n_block; /* vectors of a block, blocks of a head */
};

static void state_units(void *ctx, int part, int n_part, int thread)
{
    const struct state_job *j = ctx;
    int32_t end = part_row(j->n_head * j->n_block, part + 1, n_part);
    for (int32_t u = part_row(j->n_head * j->n_block, part, n_part), next; u < end; u = next) {
        int32_t h = u / j->n_block, col = u % j->n_block * j->width * VL;
        next = end < (h + 1) * j->n_block ? end : (h + 1) * j->n_block; /* what this part has of the head */
        int32_t last = (next - h * j->n_block) * j->width * VL;
        j->columns(j, cpu_scratch(j->kern, thread), h, col, last < j->n_col ? last : j->n_col);
    }
}

static void state_run(struct state_job *j)
{
    j->width = STATE_WIDTH;
    while (j->n_row * j->width * VL * (int32_t)sizeof(float) > STATE_L1)
        j->width /= 2;
    /* Narrower where some threads would have nothing to do. */
    while (j->width > 1 && j->n_head * (j->n_col / VL) / j->width < pool_threads(cpu_of(j->kern)->pool))
        j->width /= 2;
    j->n_block = (j->n_col + j->width * VL - 1) / (j->width * VL);
    int32_t values = j->n_row * j->width * VL;
    flow_run(j->kern, j->n_head * j->n_block, j->n_tok < 64 ? j->n_tok * values : 64 * values, state_units, j);
}

/* Columns of a state, or of a copy of them: rows `stride` floats apart. */
struct state_cols {
    float *at;
    size_t stride;
};

/* to = decay * from + key write; sum = q to; and already seen = next to, what the next token's keys will
 * see (next NULL: there is none). from may be to. */
ATTN_INLINE void state_step(vf *sum, vf *seen, struct state_cols to, struct state_cols from, float decay,
                            const float *key, const vf *write, const float *q, const float *next,
                            int32_t dim, const int width)
{
    vf keep = VF_SET1(decay);
#pragma GCC unroll 4
    for (int c = 0; c < width; c++)
        sum[c] = seen[c] = VF_ZERO();
    for (int32_t i = 0; i < dim; i++) {
        vf k0 = VF_SET1(key[i]), q0 = VF_SET1(q[i]), k1 = next ? VF_SET1(next[i]) : VF_ZERO();
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            vf s = VF_MUL(keep, VF_LOAD(from.at + (size_t)i * from.stride + c * VL));
            s = VF_FMA(k0, write[c], s);
            VF_STORE(to.at + (size_t)i * to.stride + c * VL, s);
            sum[c] = VF_FMA(q0, s, sum[c]);
            if (next)
                seen[c] = VF_FMA(k1, s, seen[c]);
        }
    }
}

/* log(1 + e^x), also where it is tiny: what decays slowly is told apart only by that. */
ATTN_INLINE vf softplus(vf x)
{
    vf e = vf_exp2(VF_MUL(VF_ABS(x), VF_SET1(-1.44269504f)));
    /* log(1 + e) = 2 atanh(e / (2 + e)), whose argument is at most 1/3 */
    vf t = VF_DIV(e, VF_ADD(e, VF_SET1(2.0f))), tt = VF_MUL(t, t);
    vf y = VF_SET1(2.0f / 13);
    y = VF_FMA(y, tt, VF_SET1(2.0f / 11));
    y = VF_FMA(y, tt, VF_SET1(2.0f / 9));
    y = VF_FMA(y, tt, VF_SET1(2.0f / 7));
    y = VF_FMA(y, tt, VF_SET1(2.0f / 5));
    y = VF_FMA(y, tt, VF_SET1(2.0f / 3));
    y = VF_FMA(y, tt, VF_SET1(2.0f));
    return VF_FMA(y, t, VF_MAX(x, VF_ZERO()));
}

/* ---- gated delta rule ---- */

/* What a head needs of a run of tokens. q and k are copied, not scaled: rows as far apart as those of a
 * call share few sets of a cache, and each block of columns reads them again. */
struct delta_run {
    float q[STATE_TOKS][STATE_ROWS], k[STATE_TOKS][STATE_ROWS];
    float decay[STATE_TOKS]; /* of the state */
    float seen[STATE_TOKS];  /* of k S, S not yet decayed */
    float write[STATE_TOKS]; /* of what k is to write */
    float out[STATE_TOKS];   /* of q S */
    float near[STATE_L1 / sizeof(float)];
};

_Static_assert(sizeof(struct delta_run) <= CPU_SCRATCH_BYTES, "a run must fit the scratch");

/* Copies x; what makes it one long. */
ATTN_INLINE float take_length(float *dst, const float *x, int32_t n, float eps)
{
    vf sum[2] = {VF_ZERO(), VF_ZERO()};
    for (int32_t i = 0; i < n; i += VL) {
        vf v = VF_LOAD(x + i);
        VF_STORE(dst + i, v);
        sum[i / VL % 2] = VF_FMA(v, v, sum[i / VL % 2]);
    }
    return 1 / sqrtf(vf_hsum(VF_ADD(sum[0], sum[1])) + eps);
}

static void delta_take(struct delta_run *g, const struct kern_delta *d, int32_t h, int32_t t0, int32_t n)
{
    int32_t dim = d->head_dim;
    size_t at = (size_t)kern_delta_key(d, h) * dim;
    float own = 1 / sqrtf((float)dim), k_scale[STATE_TOKS];
    for (int32_t i = 0; i < n; i++) {
        size_t gate = (size_t)(t0 + i) * d->n_head + h;
        g->decay[i] = d->alpha[gate] + d->dt[h];
        g->write[i] = d->beta[gate];
        k_scale[i] = take_length(g->k[i], d->k + (size_t)(t0 + i) * d->stride + at, dim, d->eps);
        g->out[i] = own * take_length(g->q[i], d->q + (size_t)(t0 + i) * d->stride + at, dim, d->eps);
    }
    for (int32_t i = n; i % VL; i++)
        g->decay[i] = g->write[i] = k_scale[i] = 0;
    vf power = VF_SET1(d->a[h] * 1.44269504f);
    for (int32_t i = 0; i < n; i += VL) {
        vf scale = VF_LOAD(k_scale + i);
        vf decay = vf_exp2(VF_MIN(VF_MUL(power, softplus(VF_LOAD(g->decay + i))), VF_SET1(126.0f)));
        VF_STORE(g->decay + i, decay);
        VF_STORE(g->seen + i, VF_MUL(decay, scale));
        VF_STORE(g->write + i, activate(VF_LOAD(g->write + i), scale, KERN_ACT_SIGMOID));
    }
}

/* sum = key S */
ATTN_INLINE void delta_look(vf *sum, const float *state, size_t stride, const float *key, int32_t dim,
                            const int width)
{
#pragma GCC unroll 4
    for (int c = 0; c < width; c++)
        sum[c] = VF_ZERO();
    for (int32_t i = 0; i < dim; i++) {
        vf x = VF_SET1(key[i]);
#pragma GCC unroll 4
        for (int c = 0; c < width; c++)
            sum[c] = VF_FMA(x, VF_LOAD(state + (size_t)i * stride + c * VL), sum[c]);
    }
}

/* Tokens t0.. of a block of columns, n of them: first from `before`, then in near memory, at last into
 * `after`. */
ATTN_INLINE void delta_tokens(const struct kern_delta *d, struct delta_run *g, const float *before,
                              int32_t h, int32_t col, int32_t t0, int32_t n, const int width)
{
    int32_t dim = d->head_dim;
    size_t own = (size_t)h * dim + col, start = (size_t)h * dim * dim + col;
    const float *v = d->v + (size_t)t0 * d->stride + own;
    float *out = d->out + (size_t)t0 * d->n_head * dim + own;
    struct state_cols from = {(float *)before + start, dim}, kept = {g->near, width * VL};
    struct state_cols after = {d->after + start, dim};
    vf seen[STATE_WIDTH], sum[STATE_WIDTH], write[STATE_WIDTH];
    delta_look(seen, from.at, dim, g->k[0], dim, width);
    for (int32_t i = 0; i < n; i++, v += d->stride) {
        bool last = i + 1 == n;
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            write[c] = VF_FNMA(VF_SET1(g->seen[i]), seen[c], VF_LOAD(v + c * VL));
            write[c] = VF_MUL(VF_SET1(g->write[i]), write[c]);
            if (!last) /* too far off for the processor to foresee */
                _mm_prefetch((const char *)(v + d->stride + c * VL), _MM_HINT_T0);
        }
        if (last)
            state_step(sum, seen, after, from, g->decay[i], g->k[i], write, g->q[i], NULL, dim, width);
        else
            state_step(sum, seen, kept, from, g->decay[i], g->k[i], write, g->q[i], g->k[i + 1], dim, width);
#pragma GCC unroll 4
        for (int c = 0; c < width; c++)
            VF_STORE(out + c * VL, VF_MUL(VF_SET1(g->out[i]), sum[c]));
        out += (size_t)d->n_head * dim;
        from = kept;
    }
}

static void delta_columns(const struct state_job *j, void *scratch, int32_t h, int32_t first, int32_t end)
{
    const struct kern_delta *d = j->op;
    struct delta_run *g = scratch;
    for (int32_t t = 0; t < d->n_tok; t += STATE_TOKS) {
        int32_t n = d->n_tok - t < STATE_TOKS ? d->n_tok - t : STATE_TOKS, col = first;
        const float *before = t ? d->after : d->before;
        delta_take(g, d, h, t, n);
        for (; j->width >= 4 && end - col >= 4 * VL; col += 4 * VL)
            delta_tokens(d, g, before, h, col, t, n, 4);
        for (; j->width >= 2 && end - col >= 2 * VL; col += 2 * VL)
            delta_tokens(d, g, before, h, col, t, n, 2);
        for (; col < end; col += VL)
            delta_tokens(d, g, before, h, col, t, n, 1);
    }
}

static void flow_delta(struct kern *k, const struct kern_delta *d)
{
    assert(d->n_tok > 0 && d->head_dim % 16 == 0 && d->head_dim <= STATE_ROWS);
    struct state_job j = {k, d, d->n_tok, d->n_head, d->head_dim, d->head_dim, delta_columns};
    state_run(&j);
}

/* ---- selective state space: what is written does not depend on the state ---- */

struct scan_run {
    float decay[STATE_TOKS], step[STATE_TOKS];
    float near[STATE_L1 / sizeof(float)];
};

static void scan_take(struct scan_run *g, const struct kern_scan *s, int32_t h, int32_t t0, int32_t n)
{
    vf bias = VF_SET1(s->dt_bias[h]), power = VF_SET1(s->a[h] * 1.44269504f);
    for (int32_t i = 0; i < STATE_TOKS; i++)
        g->step[i] = i < n ? s->dt[(size_t)(t0 + i) * s->n_head + h] : 0;
    for (int32_t i = 0; i < n; i += VL) {
        vf step = softplus(VF_ADD(VF_LOAD(g->step + i), bias));
        VF_STORE(g->step + i, step);
        VF_STORE(g->decay + i, vf_exp2(VF_MIN(VF_MUL(power, step), VF_SET1(126.0f))));
    }
}

/* As delta_tokens. */
ATTN_INLINE void scan_tokens(const struct kern_scan *s, struct scan_run *g, const float *before, int32_t h,
                             int32_t col, int32_t t0, int32_t n, const int width)
{
    size_t own = (size_t)h * s->head_dim + col, start = (size_t)h * s->n_state * s->head_dim + col;
    size_t group = (size_t)(h / (s->n_head / s->n_group)) * s->n_state;
    struct state_cols from = {(float *)before + start, s->head_dim}, kept = {g->near, width * VL};
    struct state_cols after = {s->after + start, s->head_dim};
    vf own_share = VF_SET1(s->d[h]), sum[STATE_WIDTH], unseen[STATE_WIDTH], write[STATE_WIDTH];
    for (int32_t i = 0; i < n; i++) {
        size_t row = (size_t)(t0 + i) * s->stride;
        const float *x = s->x + row + own;
        float *out = s->out + (size_t)(t0 + i) * s->n_head * s->head_dim + own;
        bool last = i + 1 == n;
#pragma GCC unroll 4
        for (int c = 0; c < width; c++) {
            write[c] = VF_MUL(VF_SET1(g->step[i]), VF_LOAD(x + c * VL));
            if (!last) /* too far off for the processor to foresee */
                _mm_prefetch((const char *)(x + s->stride + c * VL), _MM_HINT_T0);
        }
        state_step(sum, unseen, last ? after : kept, from, g->decay[i], s->b + row + group, write,
                   s->c + row + group, NULL, s->n_state, width);
#pragma GCC unroll 4
        for (int c = 0; c < width; c++)
            VF_STORE(out + c * VL, VF_FMA(own_share, VF_LOAD(x + c * VL), sum[c]));
        from = kept;
    }
}

static void scan_columns(const struct state_job *j, void *scratch, int32_t h, int32_t first, int32_t end)
{
    const struct kern_scan *s = j->op;
    struct scan_run *g = scratch;
    for (int32_t t = 0; t < s->n_tok; t += STATE_TOKS) {
        int32_t n = s->n_tok - t < STATE_TOKS ? s->n_tok - t : STATE_TOKS, col = first;
        const float *before = t ? s->after : s->before;
        scan_take(g, s, h, t, n);
        for (; j->width >= 4 && end - col >= 4 * VL; col += 4 * VL)
            scan_tokens(s, g, before, h, col, t, n, 4);
        for (; j->width >= 2 && end - col >= 2 * VL; col += 2 * VL)
            scan_tokens(s, g, before, h, col, t, n, 2);
        for (; col < end; col += VL)
            scan_tokens(s, g, before, h, col, t, n, 1);
    }
}

static void flow_scan(struct kern *k, const struct kern_scan *s)
{
    assert(s->n_tok > 0 && s->n_head % s->n_group == 0 && s->head_dim % 16 == 0 && s->n_state <= STATE_ROWS);
    struct state_job j = {k, s, s->n_tok, s->n_head, s->n_state, s->head_dim, scan_columns};
    state_run(&j);
}
