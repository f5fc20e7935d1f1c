/* Products. Few tokens: every matrix is read once, in its own type, one warp per row,
 * against inputs of 15 bits per 32 values (F16 and wider types: against the floats themselves).
 * Many tokens: tiles of the matrix become f16 in scratch and go through the matrix units
 * (gemm.cu). A matrix kept in the host's memory is multiplied there when tokens are few, and brought
 * over tile by tile when they are many: reading it is slower than the bus then. */
#include "kernels/cuda/quant.cuh"
#include "kernels/cuda/weight.cuh"

#include <assert.h>

enum {
    GEMV_WARPS = 4,
    GEMV_ROWS = 2, /* of a warp */
    KEPT_TOK = 32 /* up to so many tokens the host multiplies what it keeps */
};

template <int type> DEVICE row_at row_of(const matrix &m, int32_t r)
{
    size_t block = (size_t)r * (size_t)(m.n_col / quant<type>::block);
    return {m.body + block * quant<type>::body, m.d + block * quant<type>::d_bytes};
}

/* Element i of a row of a plain type. */
template <int type> DEVICE float plain_value(const uint8_t *row, int32_t i)
{
    if (type == KERN_F32)
        return ((const float *)row)[i];
    uint16_t h = ((const uint16_t *)row)[i];
    return type == KERN_F16 ? half_value(h) : bf16_value(h);
}

template <int type> DEVICE const uint8_t *plain_row(const matrix &m, int32_t r)
{
    return m.body + (size_t)r * (size_t)m.n_col * (type == KERN_F32 ? 4 : 2);
}

static bool is_plain(enum kern_type type)
{
    return type == KERN_F32 || type == KERN_F16 || type == KERN_BF16;
}

/* ---- few tokens ---- */

/* Inputs as value = scale * (254 * code + rest): codes and rests [n_tok][n_col], scale
 * [n_tok][n_col / 32]. Eight bits alone move logits by more than the gap between two answers. */
struct input8 {
    const int8_t *code, *rest;
    const float *scale, *sum; /* sum [n_tok][n_col / 16]: of 254 * code + rest */
    int64_t n_col;
};

/* One warp per 32 values. */
static __global__ void round_input(const float *x, int32_t x_stride, int32_t n_col, int8_t *code,
                                   int8_t *rest, float *scale, float *sum)
{
    int32_t g = (int32_t)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
    int32_t lane = (int32_t)threadIdx.x % 32, t = (int32_t)blockIdx.y, n_group = n_col / 32;
    if (g >= n_group)
        return;
    float v = x[(size_t)t * x_stride + 32 * g + lane], top = fabsf(v);
    for (int i = 16; i > 0; i /= 2)
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, i));
    float inv = top > 1e-30f ? 127 / top : 0; /* a subnormal's inverse is infinite */
    size_t at = (size_t)t * n_col + 32 * g + lane;
    float whole = rintf(v * inv);
    code[at] = (int8_t)whole;
    float part = rintf(254 * (v * inv - whole)); /* at most half a step: 127 */
    rest[at] = (int8_t)part;
    float both = 254 * whole + part;
    for (int i = 8; i > 0; i /= 2) /* whole numbers: exact */
        both += __shfl_xor_sync(FULL_WARP, both, i);
    if (lane % 16 == 0)
        sum[(size_t)t * (n_col / 16) + 2 * g + lane / 16] = both;
    if (lane == 0)
        scale[(size_t)t * n_group + g] = inv > 0 ? top / (127 * 254) : 0;
}

struct product {
    struct matrix m;
    const float *bias;
    float *dst;
    int32_t dst_stride;
    uint32_t add : 1, x_col : 31; /* no padding: port.h */
};

/* Matrices of one type over the same rows of inputs: one launch. */
struct products {
    struct product p[KERN_MATS];
};

static struct matrix part_of(const struct kern_mat *m)
{
    return weight_rows(m->w, m->row0, m->n_row ? m->n_row : m->w->n_row);
}

DEVICE int dot_16(const uint32_t q[4], uint4 v)
{
    int dot = __dp4a((int)q[0], (int)v.x, 0);
    dot = __dp4a((int)q[1], (int)v.y, dot);
    dot = __dp4a((int)q[2], (int)v.z, dot);
    return __dp4a((int)q[3], (int)v.w, dot);
}

DEVICE void product_store(const product &p, int32_t r, int32_t t, float sum)
{
    float *dst = p.dst + (size_t)t * p.dst_stride + r;
    *dst = sum + (p.bias ? p.bias[r] : 0) + (p.add ? *dst : 0);
}

/* Inputs of a unit are four times the bytes of weights of 4 bits: they are read once for GEMV_ROWS rows,
 * so that neither the first cache nor instructions keep weights from coming at the memory's pace. */
template <int type, int n_tok>
static __global__ void __launch_bounds__(32 * GEMV_WARPS)
    gemv_quant(struct products all, struct input8 x)
{
    typedef quant<type> format;
    const struct product &p = all.p[blockIdx.y];
    int32_t r0 = (int32_t)(blockIdx.x * GEMV_WARPS + threadIdx.x / 32) * GEMV_ROWS;
    uint32_t lane = threadIdx.x % 32, n_unit = (uint32_t)p.m.n_col / 32;
    if (r0 >= p.m.n_row)
        return;
    row_at row[GEMV_ROWS];
    for (int i = 0; i < GEMV_ROWS; i++) /* what lies behind the last row is the last row again */
        row[i] = row_of<type>(p.m, r0 + i < p.m.n_row ? r0 + i : p.m.n_row - 1);
    float sum[GEMV_ROWS][n_tok];
    for (int i = 0; i < GEMV_ROWS; i++)
        for (int t = 0; t < n_tok; t++)
            sum[i][t] = 0;
    uint32_t u = lane % 8; /* the same of every superblock: said so that the compiler sees it */
#pragma unroll(n_tok == 1 ? 2 : 1)
    for (uint32_t b = lane / 8; 8 * b + u < n_unit; b += 4) {
        unit w[GEMV_ROWS];
        for (int i = 0; i < GEMV_ROWS; i++)
            format::read(row[i], b, u, &w[i]);
        for (uint32_t t = 0; t < n_tok; t++) {
            uint32_t first = t * (uint32_t)x.n_col + p.x_col + 256 * b + format::first(u);
            const uint4 *code = (const uint4 *)(x.code + first);
            const uint4 *rest = (const uint4 *)(x.rest + first);
            const float *scale = x.scale + first / 32, *x_sum = x.sum + first / 16;
            for (uint32_t run = 0; run < 2; run++) {
                uint32_t ahead = run * format::step / 16;
                uint4 c = code[ahead], d = rest[ahead];
                float s = scale[ahead / 2], total = format::has_min ? x_sum[ahead] : 0;
                for (int i = 0; i < GEMV_ROWS; i++) {
                    int dot = 254 * dot_16(w[i].q[run], c) + dot_16(w[i].q[run], d);
                    sum[i][t] += s * (w[i].scale[run] * (float)dot - w[i].min[run] * total);
                }
            }
        }
    }
    for (int i = 0; i < GEMV_ROWS; i++)
        for (int t = 0; t < n_tok; t++) {
            float v = warp_sum(sum[i][t]);
            if (lane == 0 && r0 + i < p.m.n_row)
                product_store(p, r0 + i, t, v);
        }
}

/* Eight neighbours at once where rows are 16-byte aligned. */
template <int type> DEVICE void plain_8(const uint8_t *row, int32_t i, float w[8])
{
    if (type == KERN_F32) {
        float4 a = *(const float4 *)(row + 4 * (size_t)i);
        float4 b = *(const float4 *)(row + 4 * (size_t)i + 16);
        w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w;
        w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
        return;
    }
    uint4 v = load16(row + 2 * (size_t)i);
    uint32_t u[4] = {v.x, v.y, v.z, v.w};
    for (int j = 0; j < 8; j++) {
        uint16_t h = (uint16_t)(u[j / 2] >> 16 * (j % 2));
        w[j] = type == KERN_F16 ? half_value(h) : bf16_value(h);
    }
}

template <int type, int n_tok>
static __global__ void __launch_bounds__(32 * GEMV_WARPS)
    gemv_plain(struct products all, const float *x, int32_t x_stride)
{
    const struct product &p = all.p[blockIdx.y];
    int32_t r = (int32_t)(blockIdx.x * GEMV_WARPS + threadIdx.x / 32), n = p.m.n_col;
    int32_t lane = (int32_t)threadIdx.x % 32;
    if (r >= p.m.n_row)
        return;
    const uint8_t *row = plain_row<type>(p.m, r);
    x += p.x_col;
    float sum[n_tok];
    for (int t = 0; t < n_tok; t++)
        sum[t] = 0;
    if (n % 8 == 0 && x_stride % 4 == 0 && p.x_col % 4 == 0) {
#pragma unroll 2
        for (int32_t i = 8 * lane; i < n; i += 256) {
            float w[8];
            plain_8<type>(row, i, w);
            for (int t = 0; t < n_tok; t++) {
                const float4 *v = (const float4 *)(x + (size_t)t * x_stride + i);
                float4 a = v[0], b = v[1];
                sum[t] += w[0] * a.x + w[1] * a.y + w[2] * a.z + w[3] * a.w + w[4] * b.x +
                          w[5] * b.y + w[6] * b.z + w[7] * b.w;
            }
        }
    } else {
        for (int32_t i = lane; i < n; i += 32)
            for (int t = 0; t < n_tok; t++)
                sum[t] += plain_value<type>(row, i) * x[(size_t)t * x_stride + i];
    }
    for (int t = 0; t < n_tok; t++) {
        sum[t] = warp_sum(sum[t]);
        if (lane == 0)
            product_store(p, r, t, sum[t]);
    }
}

template <int type, int n_tok>
static void gemv_launch(struct kern_cuda *c, int n_mat, const struct products &all,
                        const struct input8 &x8, const float *x, int32_t x_stride)
{
    int32_t most = 0; /* the shorter ones have blocks that do nothing */
    for (int i = 0; i < n_mat; i++)
        most = all.p[i].m.n_row > most ? all.p[i].m.n_row : most;
    const bool plain = type == KERN_F32 || type == KERN_F16 || type == KERN_BF16;
    int32_t n_row = plain ? GEMV_WARPS : GEMV_WARPS * GEMV_ROWS;
    dim3 grid((unsigned)((most + n_row - 1) / n_row), (unsigned)n_mat);
    if constexpr (plain)
        launch(gemv_plain<type, n_tok>, grid, 32 * GEMV_WARPS, 0, c, all, x, x_stride);
    else
        launch(gemv_quant<type, n_tok>, grid, 32 * GEMV_WARPS, 0, c, all, x8);
}

template <int type>
static void gemv_tokens(struct kern_cuda *c, int n_mat, struct products all, struct input8 x8,
                        const float *x, int32_t x_stride, int32_t n_tok)
{
    size_t n_col = (size_t)x8.n_col;
    while (n_tok > 0) { /* 1, 2, 4 or 8 at once: few kernels, and one reading for up to 8 */
        int32_t n = n_tok >= 8 ? 8 : n_tok >= 4 ? 4 : n_tok >= 2 ? 2 : 1;
        switch (n) {
        case 8: gemv_launch<type, 8>(c, n_mat, all, x8, x, x_stride); break;
        case 4: gemv_launch<type, 4>(c, n_mat, all, x8, x, x_stride); break;
        case 2: gemv_launch<type, 2>(c, n_mat, all, x8, x, x_stride); break;
        default: gemv_launch<type, 1>(c, n_mat, all, x8, x, x_stride);
        }
        n_tok -= n;
        x += (size_t)n * x_stride;
        x8.code += (size_t)n * n_col;
        x8.rest += (size_t)n * n_col;
        x8.scale += (size_t)n * (n_col / 32);
        x8.sum += (size_t)n * (n_col / 16);
        for (int i = 0; i < n_mat; i++)
            all.p[i].dst += (size_t)n * all.p[i].dst_stride;
    }
}

/* The first matrix and those of its type, which leave `mats`; returns how many stay. */
static int gemv(struct kern_cuda *c, int n_mat, struct kern_mat *mats, const struct input8 &x8,
                const float *x, int32_t x_stride, int32_t n_tok)
{
    enum kern_type type = mats[0].w->type;
    struct products all = {};
    int n = 0, left = 0;
    for (int i = 0; i < n_mat; i++) {
        struct kern_mat *m = &mats[i];
        if (m->w->type == type)
            all.p[n++] = {part_of(m), m->bias, m->dst, m->dst_stride, m->add, (uint32_t)m->x_col};
        else
            mats[left++] = *m;
    }
    switch (type) {
    case KERN_F32: gemv_tokens<KERN_F32>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_F16: gemv_tokens<KERN_F16>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_BF16: gemv_tokens<KERN_BF16>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_Q4_0: gemv_tokens<KERN_Q4_0>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_MXFP4: gemv_tokens<KERN_MXFP4>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_Q8_0: gemv_tokens<KERN_Q8_0>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_Q4_K: gemv_tokens<KERN_Q4_K>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_Q5_K: gemv_tokens<KERN_Q5_K>(c, n, all, x8, x, x_stride, n_tok); break;
    case KERN_Q6_K: gemv_tokens<KERN_Q6_K>(c, n, all, x8, x, x_stride, n_tok); break;
    default: assert(!"a type the device does not keep");
    }
    return left;
}

/* ---- many tokens ---- */

/* A tile is whole rows, and rows lie one behind the other: its units are counted through, one thread
 * each, so that neither narrow nor tall matrices meet a limit of the grid. */
template <int type>
static __global__ void tile_quant(struct matrix m, int32_t n_unit, uint16_t *dst)
{
    uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, u = at % 8;
    if (at >= (uint32_t)n_unit)
        return;
    unit w;
    quant<type>::read(row_of<type>(m, 0), at / 8, u, &w);
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t pair[8];
        for (int j = 0; j < 8; j++)
            pair[j] = half_pair(w.scale[i] * (float)unit_code(&w, i, 2 * j) - w.min[i],
                                w.scale[i] * (float)unit_code(&w, i, 2 * j + 1) - w.min[i]);
        uint4 a = {pair[0], pair[1], pair[2], pair[3]}, b = {pair[4], pair[5], pair[6], pair[7]};
        uint4 *to = (uint4 *)(dst + at / 8 * 256 + quant<type>::first(u) + i * quant<type>::step);
        to[0] = a;
        to[1] = b;
    }
}

/* One thread per element. */
template <int type>
static __global__ void tile_plain(struct matrix m, int32_t n, uint16_t *dst)
{
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n)
        return;
    float v = plain_value<type>(m.body, i);
    dst[i] = half_of(fminf(fmaxf(v, -65504.0f), 65504.0f));
}

template <int type>
static void tile_launch(struct kern_cuda *c, const struct matrix &m, uint16_t *dst)
{
    int32_t n = m.n_row * m.n_col; /* of a tile: at most a quarter of scratch's bytes */
    if constexpr (type == KERN_F32 || type == KERN_F16 || type == KERN_BF16)
        launch(tile_plain<type>, dim3((unsigned)((n + 127) / 128)), 128, 0, c, m, n, dst);
    else
        launch(tile_quant<type>, dim3((unsigned)((n / 32 + 63) / 64)), 64, 0, c, m, n / 32,
               dst);
}

static void tile_f16(struct kern_cuda *c, enum kern_type type, const struct matrix &m, uint16_t *dst)
{
    switch (type) {
    case KERN_F32: tile_launch<KERN_F32>(c, m, dst); break;
    case KERN_BF16: tile_launch<KERN_BF16>(c, m, dst); break;
    case KERN_Q4_0: tile_launch<KERN_Q4_0>(c, m, dst); break;
    case KERN_MXFP4: tile_launch<KERN_MXFP4>(c, m, dst); break;
    case KERN_Q8_0: tile_launch<KERN_Q8_0>(c, m, dst); break;
    case KERN_Q4_K: tile_launch<KERN_Q4_K>(c, m, dst); break;
    case KERN_Q5_K: tile_launch<KERN_Q5_K>(c, m, dst); break;
    case KERN_Q6_K: tile_launch<KERN_Q6_K>(c, m, dst); break;
    default: assert(!"f16 is used as it lies");
    }
}

/* The largest input, as the bits of a float (which order like the numbers). */
static __global__ void input_top(const float *x, int32_t x_stride, int32_t n_col, uint32_t *top)
{
    __shared__ float part[8];
    const float *row = x + (size_t)blockIdx.x * x_stride;
    float most = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < n_col; i += (int32_t)blockDim.x)
        most = fmaxf(most, fabsf(row[i]));
    for (int i = 16; i > 0; i /= 2)
        most = fmaxf(most, __shfl_xor_sync(FULL_WARP, most, i));
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = most;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (unsigned i = 1; i < blockDim.x / 32; i++)
        most = fmaxf(most, part[i]);
    uint32_t bits;
    memcpy(&bits, &most, 4);
    atomicMax(top, bits);
}

/* Inputs as f16; where the largest would not fit, all are made smaller by a power of two, which
 * the product is multiplied by again (alpha). */
static __global__ void input_f16(const float *x, int32_t x_stride, int32_t n_col,
                                 const uint32_t *top, uint16_t *dst, float *alpha)
{
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), t = (int32_t)blockIdx.y;
    float most;
    memcpy(&most, top, 4);
    float up = most > 32768 ? power_under(most) / 16384 : 1;
    if (i == 0 && t == 0)
        *alpha = up;
    if (i < n_col)
        dst[(size_t)t * n_col + i] = half_of(x[(size_t)t * x_stride + i] / up);
}

static __global__ void add_bias(float *dst, int32_t dst_stride, const float *bias, int32_t n_row)
{
    int32_t r = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (r < n_row)
        dst[(size_t)blockIdx.y * dst_stride + r] += bias[r];
}

/* Room for inputs of `width` columns and `n_tok` tokens, a tile, and the tile as the file has it when it is kept there;
 * 0 rows when scratch is too small. */
struct gemm_room {
    uint16_t *x, *tile;
    float *alpha;
    uint32_t *top;
    int32_t tile_rows;
    uint8_t *kept;
};

static struct gemm_room gemm_room(struct kern_cuda *c, int32_t n_col, int32_t width, int32_t n_tok, bool kept)
{
    struct cuda_cut cut = cuda_cut_begin(c);
    struct gemm_room g = {};
    g.alpha = (float *)cuda_cut_take(&cut, sizeof(float));
    g.top = (uint32_t *)cuda_cut_take(&cut, sizeof(uint32_t));
    g.x = (uint16_t *)cuda_cut_take(&cut, sizeof(uint16_t) * (size_t)n_tok * (size_t)width);
    size_t left = cuda_cut_left(&cut), row = sizeof(uint16_t) * (size_t)n_col;
    if (kept)
        left /= 4; /* float32 in the file is twice f16 */
    left = left < c->scratch_bytes / 2 ? left : c->scratch_bytes / 2;
    g.tile_rows = g.x ? (int32_t)(left / row) : 0;
    if (g.tile_rows > 128)
        g.tile_rows -= g.tile_rows % 128;
    g.tile = (uint16_t *)cuda_cut_take(&cut, row * (size_t)g.tile_rows);
    g.kept = cut.at;
    return g;
}

/* n_row rows of a matrix as they lie when they are F32 or F16, else as f16 in the tile. */
static const void *rows_for(struct kern_cuda *c, const struct gemm_room *g,
                            const struct kern_weight *w, int32_t row0, int32_t n_row)
{
    assert(!w->kept || g->kept + weight_bring_bytes(w, n_row) <= c->scratch + c->scratch_bytes);
    struct matrix m = w->kept ? weight_bring(c, w, row0, n_row, g->kept) : weight_rows(w, row0, n_row);
    if (w->type == KERN_F16 || w->type == KERN_F32)
        return m.body;
    tile_f16(c, w->type, m, g->tile);
    return g->tile;
}

static bool any_kept(int n_mat, const struct kern_mat *mats)
{
    for (int i = 1; i < n_mat; i++) /* all or none */
        assert(!mats[i].w->kept == !mats[0].w->kept);
    return n_mat > 0 && mats[0].w->kept;
}

/* Matrices of F32 stay so, inputs too: they are routers of experts, where a rounded sum chooses
 * another expert, and vectors' worth beside the rest. */
static void gemm(struct kern_cuda *c, int n_mat, const struct kern_mat *mats, const float *x,
                 int32_t x_stride, int32_t width, int32_t n_tok)
{
    int32_t n_col = mats[0].w->n_col, most = n_tok;
    bool kept = any_kept(n_mat, mats);
    struct gemm_room g = gemm_room(c, n_col, width, most, kept);
    while (g.tile_rows < 64 && most > 64) /* long inputs: some tokens at a time */
        g = gemm_room(c, n_col, width, most = (most + 1) / 2, kept);
    assert(g.tile_rows > 0);
    for (int32_t t0 = 0; t0 < n_tok; t0 += most) {
        int32_t n = n_tok - t0 < most ? n_tok - t0 : most;
        const float *from = x + (size_t)t0 * x_stride;
        cuda_fill(c, g.top, 0, 1);
        launch(input_top, dim3((unsigned)n), 256, 0, c, from, x_stride, width, g.top);
        launch(input_f16, dim3((unsigned)((width + 255) / 256), (unsigned)n), 256, 0, c,
               from, x_stride, width, g.top, g.x, g.alpha);
        for (int i = 0; i < n_mat; i++) {
            const struct kern_mat *m = &mats[i];
            float *dst = m->dst + (size_t)t0 * m->dst_stride;
            bool exact = m->w->type == KERN_F32, lies = (exact || m->w->type == KERN_F16) && !m->w->kept;
            int32_t all = part_of(m).n_row, step = lies ? all : g.tile_rows;
            for (int32_t r = 0; r < all; r += step) {
                int32_t n_row = all - r < step ? all - r : step;
                const void *w = rows_for(c, &g, m->w, m->row0 + r, n_row);
                const struct gemm_call product =
                    exact ? gemm_call{KERN_F32, w, from + m->x_col, n_row, n_col, n, x_stride, NULL}
                          : gemm_call{KERN_F16, w, g.x + m->x_col, n_row, n_col, n, width, g.alpha};
                gemm_run(c, &product, dst + r, m->dst_stride, m->add);
            }
            if (m->bias)
                launch(add_bias, dim3((unsigned)((all + 127) / 128), (unsigned)n), 128, 0, c, dst,
                       m->dst_stride, m->bias, all);
        }
    }
}

/* ---- kept in the host's memory ---- */

/* dst = (add ? dst : 0) + bias + y, one thread per element of y [n_tok][n_row]. */
static __global__ void store_rows(struct product p, const float *y)
{
    int32_t r = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), t = (int32_t)blockIdx.y;
    if (r < p.m.n_row)
        product_store(p, r, t, y[(size_t)t * p.m.n_row + r]);
}

/* Multiplied by the host: inputs go there, answers come back. */
static void matmul_kept(struct kern_cuda *c, int n_mat, const struct kern_mat *mats, const float *x,
                        int32_t x_stride, int32_t width, int32_t n_tok)
{
    struct kern *h = c->base.host;
    size_t n_x = (size_t)(n_tok - 1) * (size_t)x_stride + (size_t)width, n_y = 0;
    for (int i = 0; i < n_mat; i++)
        n_y += (size_t)n_tok * (size_t)part_of(&mats[i]).n_row;
    float *in = (float *)cuda_near(c, (n_x + n_y) * sizeof(float)), *y = in + n_x;
    struct kern_mat near_mat[KERN_MATS];
    struct cuda_cut cut = cuda_cut_begin(c);
    float *dev = (float *)cuda_cut_take(&cut, n_y * sizeof(float));
    if (!in || !dev) {
        cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
        return;
    }
    cuda_get(c, in, x, n_x * sizeof(float));
    for (int i = 0; i < n_mat; i++) {
        int32_t n_row = part_of(&mats[i]).n_row;
        near_mat[i] = {mats[i].w->kept, NULL, y, n_row, false, mats[i].row0, n_row, mats[i].x_col};
        y += (size_t)n_tok * (size_t)n_row;
    }
    h->ops->matmul(h, n_mat, near_mat, in, x_stride, n_tok);
    cuda_put(c, dev, in + n_x, n_y * sizeof(float));
    for (int i = 0; i < n_mat; i++) {
        struct product p = {part_of(&mats[i]), mats[i].bias, mats[i].dst, mats[i].dst_stride,
                            mats[i].add, 0};
        launch(store_rows, dim3((unsigned)((p.m.n_row + 127) / 128), (unsigned)n_tok), 128, 0,
               c, p, (const float *)dev + (near_mat[i].dst - (in + n_x)));
    }
}

/* The same for as many tokens as there are, in pieces whose answers fit scratch. */
static void matmul_kept_all(struct kern_cuda *c, int n_mat, const struct kern_mat *mats,
                            const float *x, int32_t x_stride, int32_t width, int32_t n_tok)
{
    for (int32_t t = 0; t < n_tok; t += KEPT_TOK) {
        int32_t n = n_tok - t < KEPT_TOK ? n_tok - t : KEPT_TOK;
        struct kern_mat part[KERN_MATS] = {};
        for (int i = 0; i < n_mat; i++) {
            part[i] = mats[i];
            part[i].dst += (size_t)t * (size_t)mats[i].dst_stride;
        }
        matmul_kept(c, n_mat, part, x + (size_t)t * (size_t)x_stride, x_stride, width, n);
    }
}

void cuda_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                 int32_t x_stride, int32_t n_tok)
{
    struct kern_cuda *c = cuda_of(k);
    int32_t n_col = mats[0].w->n_col, first = mats[0].x_col, last = first;
    assert(n_mat >= 1 && n_mat <= KERN_MATS);
    for (int i = 1; i < n_mat; i++) {
        first = mats[i].x_col < first ? mats[i].x_col : first;
        last = mats[i].x_col > last ? mats[i].x_col : last;
    }
    bool kept = any_kept(n_mat, mats), come = true, rounded = false, groups = true;
    struct kern_mat left[KERN_MATS] = {};
    for (int i = 0; i < n_mat; i++) {
        left[i] = mats[i];
        left[i].x_col -= first;
        rounded = rounded || !is_plain(mats[i].w->type);
        groups = groups && left[i].x_col % 32 == 0;
    }
    if (rounded && !groups && !kept) { /* inputs are not rounded in the same groups */
        for (int i = 0; i < n_mat; i++)
            cuda_matmul(k, 1, mats + i, x, x_stride, n_tok);
        return;
    }
    mats = left;
    x += first;
    int32_t width = last - first + n_col;
    for (int i = 0; i < n_mat; i++)
        assert(mats[i].w->n_col == n_col && mats[i].row0 % KERN_ROW_STEP == 0 &&
               mats[i].row0 + part_of(&mats[i]).n_row <= mats[i].w->n_row);
    for (int i = 0; kept && i < n_mat; i++)
        come = come && weight_can_come(mats[i].w);
    if (n_tok > (kept ? (int)KEPT_TOK : (int)CUDA_GEMV_TOK) && c->gemm && come) {
        gemm(c, n_mat, mats, x, x_stride, width, n_tok);
        return;
    }
    if (kept) {
        matmul_kept_all(c, n_mat, mats, x, x_stride, width, n_tok);
        return;
    }
    struct cuda_cut cut = cuda_cut_begin(c);
    struct input8 x8 = {NULL, NULL, NULL, NULL, width};
    if (rounded) {
        int8_t *code = (int8_t *)cuda_cut_take(&cut, (size_t)n_tok * (size_t)width);
        int8_t *rest = (int8_t *)cuda_cut_take(&cut, (size_t)n_tok * (size_t)width);
        float *scale = (float *)cuda_cut_take(&cut, sizeof(float) * (size_t)n_tok * (width / 32));
        float *sum = (float *)cuda_cut_take(&cut, sizeof(float) * (size_t)n_tok * (width / 16));
        assert(code && rest && scale && sum);
        launch(round_input, dim3((unsigned)((width / 32 + 3) / 4), (unsigned)n_tok), 128, 0,
               c, x, x_stride, width, code, rest, scale, sum);
        x8 = {code, rest, scale, sum, width};
    }
    while (n_mat > 0)
        n_mat = gemv(c, n_mat, left, x8, x, x_stride, n_tok);
}

/* ---- rows of embeddings ---- */

template <int type>
static __global__ void embed_quant(struct matrix m, const int32_t *ids, float scale, float *dst)
{
    uint32_t at = blockIdx.x * blockDim.x + threadIdx.x, u = at % 8;
    if (at >= (uint32_t)m.n_col / 32)
        return;
    unit w;
    quant<type>::read(row_of<type>(m, ids[blockIdx.y]), at / 8, u, &w);
    dst += (size_t)blockIdx.y * (size_t)m.n_col + at / 8 * 256 + quant<type>::first(u);
    for (uint32_t i = 0; i < 2; i++)
        for (int j = 0; j < 16; j++)
            dst[i * quant<type>::step + j] =
                scale * (w.scale[i] * (float)unit_code(&w, i, j) - w.min[i]);
}

template <int type>
static __global__ void embed_plain(struct matrix m, const int32_t *ids, float scale, float *dst)
{
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), t = (int32_t)blockIdx.y;
    if (i < m.n_col)
        dst[(size_t)t * m.n_col + i] = scale * plain_value<type>(plain_row<type>(m, ids[t]), i);
}

template <int type>
static void embed_launch(struct kern_cuda *c, const struct matrix &m, const int32_t *ids,
                         int32_t n_tok, float scale, float *dst)
{
    if constexpr (type == KERN_F32 || type == KERN_F16 || type == KERN_BF16)
        launch(embed_plain<type>, dim3((unsigned)((m.n_col + 127) / 128), (unsigned)n_tok), 128, 0,
               c, m, ids, scale, dst);
    else
        launch(embed_quant<type>, dim3((unsigned)((m.n_col / 32 + 31) / 32), (unsigned)n_tok), 32,
               0, c, m, ids, scale, dst);
}

void cuda_embed(struct kern *k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok,
                float scale, float *dst)
{
    struct kern_cuda *c = cuda_of(k);
    struct cuda_cut cut = cuda_cut_begin(c);
    int32_t *at = (int32_t *)cuda_cut_take(&cut, sizeof(int32_t) * (size_t)n_tok);
    const int32_t *from = at;
    struct matrix m = weight_rows(w, 0, w->n_row);
    for (int32_t t = 0; t < n_tok; t++)
        assert(ids[t] >= 0 && ids[t] < w->n_row);
    if (w->kept) {
        size_t n = (size_t)n_tok * (size_t)w->n_col;
        float *x = (float *)cuda_near(c, n * sizeof(float));
        if (!x) {
            cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
            return;
        }
        k->host->ops->embed(k->host, w->kept, ids, n_tok, scale, x);
        cuda_put(c, dst, x, n * sizeof(float));
        return;
    }
    const int32_t *step = n_tok == 1 ? step_begin(c, ids[0]) : NULL;
    if (step)
        from = step;
    else
        cuda_put(c, at, ids, sizeof(int32_t) * (size_t)n_tok);
    switch (w->type) {
    case KERN_F32: embed_launch<KERN_F32>(c, m, from, n_tok, scale, dst); break;
    case KERN_F16: embed_launch<KERN_F16>(c, m, from, n_tok, scale, dst); break;
    case KERN_BF16: embed_launch<KERN_BF16>(c, m, from, n_tok, scale, dst); break;
    case KERN_Q4_0: embed_launch<KERN_Q4_0>(c, m, from, n_tok, scale, dst); break;
    case KERN_MXFP4: embed_launch<KERN_MXFP4>(c, m, from, n_tok, scale, dst); break;
    case KERN_Q8_0: embed_launch<KERN_Q8_0>(c, m, from, n_tok, scale, dst); break;
    case KERN_Q4_K: embed_launch<KERN_Q4_K>(c, m, from, n_tok, scale, dst); break;
    case KERN_Q5_K: embed_launch<KERN_Q5_K>(c, m, from, n_tok, scale, dst); break;
    case KERN_Q6_K: embed_launch<KERN_Q6_K>(c, m, from, n_tok, scale, dst); break;
    default: assert(!"a type the device does not keep");
    }
}
