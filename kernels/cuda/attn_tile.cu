/* Attention of many rows: a block of threads takes 16 pairs per warp of one KV head and walks its
 * segments; keys and values of a segment are put into shared memory as f16 (pages decoded, rotated
 * values left so) and go through the matrix units with an online softmax. q is handed over as two
 * f16, so that large keys (models with biases) lose nothing by its rounding. */
#include "kernels/cuda/attn_impl.h"

enum {
    TILE_CHANNELS = 256,     /* of a head at most: sums take half as many registers of a lane */
    K_STRIDE = PAGE_TOK + 8, /* halves of a row of keys: rows fall on different banks */
    PAD = 8                  /* halves after a row of q or of values */
};

/* Shared memory: q [2][pairs][dp + PAD], keys [dp][K_STRIDE], values [64][dp + PAD], all f16; dp is
 * head_dim padded to D16 * 16. */
static size_t shared_bytes(int32_t n_warp, int32_t d)
{
    size_t row = (size_t)(d + PAD);
    return 2 * (2 * 16 * (size_t)n_warp * row + (size_t)d * K_STRIDE + PAGE_TOK * row);
}

/* One word of each plane: 16 codes of one token (keys) or one channel (values). */
DEVICE void word_codes(const uint8_t *const *plane, int32_t n_plane, int32_t at, int code[16])
{
    for (int i = 0; i < 16; i++)
        code[i] = 0;
    for (int32_t p = 0; p < n_plane; p++) {
        uint32_t w = *(const uint32_t *)(plane[p] + at);
        for (int i = 0; i < 16; i++) /* element i: byte i % 4, bits 2 * (i / 4) */
            code[i] = code[i] << 2 | (w >> (8 * (i % 4) + 2 * (i / 4)) & 3);
    }
}

/* Token t of channel c to key[c * chan_step + t * tok_step]. */
DEVICE void page_keys(const kern_page *p, uint16_t *key, int32_t chan_step, int32_t tok_step)
{
    int32_t d = p->head_dim, n_plane = p->bits_k / 2;
    const uint16_t *scale = page_k_scale(p), *lo = scale + d;
    const uint8_t *plane[PAGE_PLANES];
    for (int32_t x = 0; x < n_plane; x++)
        plane[x] = page_plane_of(p, false, x);
    for (int32_t i = (int32_t)threadIdx.x; i < d / 16 * PAGE_TOK; i += (int32_t)blockDim.x) {
        int32_t ct = i / PAGE_TOK, t = i % PAGE_TOK;
        int code[16];
        word_codes(plane, n_plane, t / 16 * 4 * d + ct * 64 + t % 16 * 4, code);
        for (int x = 0; x < 16; x++) {
            int32_t c = 16 * ct + x;
            key[c * chan_step + t * tok_step] =
                half_of(half_value(lo[c]) + half_value(scale[c]) * (float)code[x]);
        }
    }
}

DEVICE void page_tokens(const kern_page *p, uint16_t *value)
{
    int32_t d = p->head_dim, n_plane = p->bits_v / 2, n_group = (d + PAGE_GROUP - 1) / PAGE_GROUP;
    const uint16_t *scale = page_v_scale(p), *lo = scale + PAGE_TOK * n_group;
    const uint8_t *plane[PAGE_PLANES];
    for (int32_t x = 0; x < n_plane; x++)
        plane[x] = page_plane_of(p, true, x);
    for (int32_t i = (int32_t)threadIdx.x; i < PAGE_TOK / 16 * d; i += (int32_t)blockDim.x) {
        int32_t tt = i / d, c = i % d, group = c / PAGE_GROUP * PAGE_TOK;
        int code[16];
        word_codes(plane, n_plane, tt * 4 * d + c / 16 * 64 + c % 16 * 4, code);
        for (int x = 0; x < 16; x++) {
            int32_t t = 16 * tt + x;
            value[t * (d + PAD) + c] =
                half_of(half_value(lo[group + t]) + half_value(scale[group + t]) * (float)code[x]);
        }
    }
}

/* Rows as they are; tokens from n_tok on become zeros, since memory there may hold anything. */
DEVICE void f16_rows(const seg &s, int32_t n_tok, int32_t d, uint16_t *key, uint16_t *value)
{
    if (s.v && s.k_stride == PAGE_TOK && n_tok == PAGE_TOK) {
        for (int32_t i = (int32_t)threadIdx.x; i < d * PAGE_TOK / 8; i += (int32_t)blockDim.x) {
            int32_t c = i / (PAGE_TOK / 8), t = i % (PAGE_TOK / 8) * 8;
            *(uint4 *)(key + c * K_STRIDE + t) = *(const uint4 *)(s.k + c * PAGE_TOK + t);
            int32_t row = i / (d / 8), col = i % (d / 8) * 8;
            *(uint4 *)(value + row * (d + PAD) + col) = *(const uint4 *)(s.v + row * d + col);
        }
        return;
    }
    for (int32_t i = (int32_t)threadIdx.x; i < d * PAGE_TOK; i += (int32_t)blockDim.x) {
        int32_t c = i / PAGE_TOK, t = i % PAGE_TOK;
        key[c * K_STRIDE + t] = t < n_tok ? s.k[c * s.k_stride + t] : (uint16_t)0;
        int32_t row = i / d, col = i % d;
        uint16_t v = 0;
        if (row < n_tok)
            v = s.v ? s.v[row * d + col] : s.k[col * s.k_stride + row];
        value[row * (d + PAD) + col] = v;
    }
}

/* page_rotate on the sums of a lane's two pairs: channel bit 0 is bit 0 of out[n][x], 1 and 2 are b,
 * the others n. d is a multiple of 16. */
template <int D16> DEVICE void out_rotate(float out[2 * D16][4], int32_t d)
{
    constexpr int n_x = 8 * D16;
    float *x = &out[0][0];
    int32_t n = d & -d;
    turn_registers<n_x>(x, 1);
    turn_lanes<n_x>(x, 1);
    turn_lanes<n_x>(x, 2);
#pragma unroll
    for (int i = 1; D16 % i == 0; i *= 2) /* runs are as wide as D16 allows, at most */
        if (8 * i < n)
            turn_registers<n_x>(x, 4 * i);
    float norm = 1 / sqrtf((float)n);
#pragma unroll
    for (int i = 0; i < n_x; i++)
        x[i] *= norm;
}

/* D16: head_dim / 16, rounded up to one of the sizes below; channels past head_dim are zeros in q
 * and are not stored. */
template <int D16>
static __global__ void __launch_bounds__(256, 1)
    attend_tile(struct attn_args a, int32_t rows, int32_t n_chunk)
{
    DYNAMIC_SHARED(memory);
    const int32_t d = a.head_dim, n_pair = (int32_t)blockDim.x / 2, row_len = d + PAD;
    uint16_t *q = (uint16_t *)memory;
    uint16_t *key = q + 2 * n_pair * row_len, *value = key + d * K_STRIDE;
    int32_t warp = (int32_t)threadIdx.x / 32, lane = (int32_t)threadIdx.x % 32;
    int32_t g = lane / 4, b = lane % 4;
    int32_t head_kv = (int32_t)blockIdx.y / n_chunk, chunk = (int32_t)blockIdx.y % n_chunk;
    /* later tiles are longer: they go first */
    int32_t index = (int32_t)(gridDim.x - 1 - blockIdx.x);
    tile t = tile_make(a, index, head_kv, chunk, rows, n_pair);
    for (int32_t i = (int32_t)threadIdx.x; i < n_pair * d; i += (int32_t)blockDim.x) {
        int32_t pair = i / d, c = i % d, row = t.base + pair / t.n_head;
        int32_t head = t.head0 + pair % t.n_head;
        bool there = row >= t.row0 && row < t.row1;
        float x = there ? a.q[((size_t)row * a.n_head + head) * d + c] * a.factor : 0;
        uint16_t high = half_of(x);
        q[pair * row_len + c] = high;
        q[(n_pair + pair) * row_len + c] = half_of(x - half_value(high));
    }
    float out[2 * D16][4], top[2] = {LOWEST, LOWEST}, sum[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < 2 * D16; i++)
#pragma unroll
        for (int x = 0; x < 4; x++)
            out[i][x] = 0;
    int32_t row[2]; /* of the lane's two pairs; -1 = none */
#pragma unroll
    for (int x = 0; x < 2; x++) {
        row[x] = t.base + (16 * warp + g + 8 * x) / t.n_head;
        row[x] = row[x] >= t.row0 && row[x] < t.row1 ? row[x] : -1;
    }
    bool turned = false; /* out holds sums of rotated values */
    for (int32_t i = 0; i <= t.n_seg; i++) { /* behind the last segment they are turned back */
        seg s = {};
        if (i < t.n_seg)
            s = tile_seg(a, t, i);
        bool rotated = s.kind == SEG_PAGE && s.page->flags & PAGE_V_ROTATED;
        if (rotated != turned && i > 0)
            out_rotate<D16>(out, d);
        turned = rotated;
        int32_t lo, n_tok;
        if (s.kind == SEG_NONE)
            continue;
        seen_of(a, s, t.row1 - 1, &lo, &n_tok);
        if (n_tok <= 0)
            continue;
        __syncthreads(); /* the segment before is done with */
        if (s.kind == SEG_PAGE) {
            page_keys(s.page, key, K_STRIDE, 1);
            if (a.latent)
                page_keys(s.page, value, 1, d + PAD);
            else
                page_tokens(s.page, value);
        } else {
            f16_rows(s, n_tok, d, key, value);
        }
        __syncthreads();
        float score[8][4];
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int x = 0; x < 4; x++)
                score[j][x] = 0;
#pragma unroll
        for (int k = 0; k < D16; k++) {
            if (16 * k >= d)
                break;
            uint32_t high[4], rest[4];
#pragma unroll
            for (int x = 0; x < 4; x++) { /* a[x]: rows + 8 for odd x, columns + 8 for x >= 2 */
                int32_t at = (16 * warp + g + 8 * (x % 2)) * row_len + 16 * k + 2 * b + 8 * (x / 2);
                high[x] = *(const uint32_t *)(q + at);
                rest[x] = *(const uint32_t *)(q + n_pair * row_len + at);
            }
#pragma unroll
            for (int j = 0; j < 8; j += 2) { /* two columns of tiles: keys 8 j .. 8 j + 15 */
                uint32_t r[4];
                load_turned(r, key + (16 * k + lane % 16) * K_STRIDE + 8 * j + 8 * (lane / 16));
                mma_f16(score[j], high, r[0], r[1]);
                mma_f16(score[j], rest, r[0], r[1]);
                mma_f16(score[j + 1], high, r[2], r[3]);
                mma_f16(score[j + 1], rest, r[2], r[3]);
            }
        }
        float keep[2];
#pragma unroll
        for (int x = 0; x < 2; x++) {
            int32_t from, to;
            seen_of(a, s, row[x] < 0 ? t.row0 : row[x], &from, &to);
            to = row[x] < 0 ? 0 : to;
            float most = LOWEST, all = 0;
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float *v = &score[j][2 * x + e];
                    int32_t at = 8 * j + 2 * b + e;
                    if (a.softcap > 0)
                        *v = a.softcap * tanhf(*v / a.softcap);
                    *v = at >= from && at < to ? *v : -INFINITY;
                    most = fmaxf(most, *v);
                }
            most = fmaxf(quad_max(most), top[x]);
            keep[x] = exp2f(top[x] - most);
            top[x] = most;
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float *v = &score[j][2 * x + e];
                    *v = exp2f(*v - most);
                    all += *v;
                }
            sum[x] = sum[x] * keep[x] + all;
        }
        if (keep[0] != 1 || keep[1] != 1)
#pragma unroll
            for (int n = 0; n < 2 * D16; n++)
#pragma unroll
                for (int x = 0; x < 4; x++)
                    out[n][x] *= keep[x / 2];
#pragma unroll
        for (int k = 0; k < 4; k++) { /* 16 tokens each: scores' columns are the product's rows */
            uint32_t p[4] = {half_pair(score[2 * k][0], score[2 * k][1]),
                             half_pair(score[2 * k][2], score[2 * k][3]),
                             half_pair(score[2 * k + 1][0], score[2 * k + 1][1]),
                             half_pair(score[2 * k + 1][2], score[2 * k + 1][3])};
#pragma unroll
            for (int n = 0; n < 2 * D16; n += 2) {
                if (8 * n >= a.n_value)
                    break;
                uint32_t r[4];
                load_turned(r, value + (16 * k + lane % 16) * row_len + 8 * n + 8 * (lane / 16));
                mma_f16(out[n], p, r[0], r[1]);
                mma_f16(out[n + 1], p, r[2], r[3]);
            }
        }
    }
#pragma unroll
    for (int x = 0; x < 2; x++) {
        float all = quad_sum(sum[x]), inv = 1 / all;
        if (row[x] < 0)
            continue;
        int32_t head = t.head0 + (16 * warp + g + 8 * x) % t.n_head;
        float *to = a.out + ((size_t)row[x] * a.n_head + head) * d;
#pragma unroll
        for (int n = 0; n < 2 * D16; n++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (8 * n + 2 * b + e < d)
                    to[8 * n + 2 * b + e] = out[n][2 * x + e] * inv;
        if (a.lse && b == 0)
            a.lse[(size_t)row[x] * a.n_head + head] = top[x] * LN2 + logf(all);
    }
}

template <int D16>
static void tile_launch(struct kern_cuda *c, const struct attn_args &a, int32_t n_warp)
{
    int32_t n_pair = 16 * n_warp, rows = 1, n_chunk = (a.group + n_pair - 1) / n_pair;
    while (2 * rows * a.group <= n_pair && 2 * rows <= PAGE_TOK)
        rows *= 2;
    int32_t n_tile = (a.pos0 + a.n_tok - 1) / rows - a.pos0 / rows + 1;
    launch(attend_tile<D16>, dim3((unsigned)n_tile, (unsigned)(a.n_head_kv * n_chunk)),
           32 * (unsigned)n_warp, shared_bytes(n_warp, a.head_dim), c, a, rows, n_chunk);
}

bool attn_tile_launch(struct kern_cuda *c, const struct attn_args &a)
{
    int32_t n_warp = 8;
    while (n_warp > 1 && shared_bytes(n_warp, a.head_dim) > c->shared_most)
        n_warp /= 2;
    if (a.head_dim > TILE_CHANNELS || shared_bytes(n_warp, a.head_dim) > c->shared_most)
        return false;
    switch ((a.head_dim + 31) / 32) {
    case 1: tile_launch<2>(c, a, n_warp); break;
    case 2: tile_launch<4>(c, a, n_warp); break;
    case 3: tile_launch<6>(c, a, n_warp); break;
    case 4: tile_launch<8>(c, a, n_warp); break;
    case 5:
    case 6: tile_launch<12>(c, a, n_warp); break;
    default: tile_launch<16>(c, a, n_warp);
    }
    return true;
}
