/* One warp's attention for up to 8 pairs of row and head, read straight from where it lies: f16 rows
 * or packed pages of any depth, through registers into the matrix units, with no shared memory.
 *
 * A fragment has 16 rows and we have at most 8: each float of q and of p is handed over as two f16,
 * the second holding what the first lost, in rows g and g + 8; their products are added. So nothing
 * is lost against float32. Scales of a page are folded into q and p; codes are small integers,
 * exact in f16. Powers of two keep q and p inside f16's range.
 *
 * Which channel or token stands in which row of a fragment is free as long as both sides agree:
 * it is chosen so that a lane reads whole neighbouring words of a page (g = lane / 4, b = lane % 4):
 *   scores:  channel of step (J, i), place s of lane b:  16 (4 J + b) + 4 i + s
 *            token of column g of tile j:                16 (g / 2) + 8 (g % 2) + j
 *   values:  token of step i, place s of lane b:         16 b + 4 i + s
 *            channel of column g of tile (G, jj):        32 G + 4 g + jj */
#ifndef KERNELS_CUDA_ATTN_ROWS_CUH
#define KERNELS_CUDA_ATTN_ROWS_CUH

#include "kernels/cuda/attn.cuh"

/* Bytes 2 half and 2 half + 1 of x, codes below 256, as a pair of f16. */
DEVICE uint32_t code_pair(uint32_t x, int half)
{
#ifdef CUDA_SHIM
    x >>= 16 * half;
    return half_pair((float)(x & 0xff), (float)(x >> 8 & 0xff));
#else
    uint32_t with = __byte_perm(x, 0x64646464, half ? 0x4342 : 0x4140), base = 0x64006400;
    __half2 h = __hsub2(*(__half2 *)&with, *(__half2 *)&base); /* 1024 + code, exactly */
    return *(uint32_t *)&h;
#endif
}

/* Pair of bits i of each byte of each plane's word: four codes, as two pairs of f16. P: places for
 * planes, 2 or 4; where a page has one less, the last is 0, codes are 4 times as large and `cut_of`
 * makes up for it: half as many kernels to compile, and the same bytes read. */
template <int P>
DEVICE void codes_of(const uint32_t *word, int stride, int i, uint32_t *b0, uint32_t *b1)
{
    uint32_t x = 0;
#pragma unroll
    for (int p = 0; p < P; p++)
        x = x << 2 | (word[p * stride] >> 2 * i & 0x03030303);
    *b0 = code_pair(x, 0);
    *b1 = code_pair(x, 1);
}

DEVICE float cut_of(int32_t place, int32_t n_plane)
{
    return place > n_plane ? 0.25f : 1;
}

/* Halves number i of two registers-full of f16, as a pair. */
DEVICE uint32_t half_of_each(const uint32_t *x, const uint32_t *y, int i)
{
    return __byte_perm(x[i / 2], y[i / 2], i % 2 ? 0x7632 : 0x5410);
}

DEVICE void load_words(uint32_t w[4], const void *p)
{
    uint4 v = *(const uint4 *)p;
    w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}

/* Four f16, from where they lie together. */
DEVICE void load_halves(float v[4], const uint16_t *at)
{
    uint2 two = *(const uint2 *)at;
    v[0] = half_value((uint16_t)two.x), v[1] = half_value((uint16_t)(two.x >> 16));
    v[2] = half_value((uint16_t)two.y), v[3] = half_value((uint16_t)(two.y >> 16));
}

/* Floats of one pair's q in shared memory: zeros behind head_dim; 4 more against bank conflicts. */
static inline __host__ __device__ int32_t rows_q_len(int32_t d)
{
    return (d + 63) / 64 * 64 + 4;
}

struct row_state {
    float top, sum; /* of row g; sum: of this lane's tokens */
};

/* Sums of values, of heads up to 64 D64 channels. */
template <int D64> struct row_out {
    float x[2 * D64][4][2];
};

DEVICE int32_t q_channel(int32_t b, int J, int i, int s)
{
    return 16 * (4 * J + b) + 4 * i + s;
}

template <int D64> DEVICE void out_scale(row_out<D64> *w, float by)
{
    for (int G = 0; G < 2 * D64; G++)
        for (int jj = 0; jj < 4; jj++)
            for (int e = 0; e < 2; e++)
                w->x[G][jj][e] *= by;
}

/* page_rotate on the sums of all 8 pairs: from plain to rotated and back. Channel bits 0 and 1 are
 * jj, 2 is e, 3 and 4 are b, the others G. d is a multiple of 16; channels behind it may hold
 * anything, they only meet each other. */
template <int D64> DEVICE void out_rotate(row_out<D64> *w, int32_t d)
{
    constexpr int n_x = 16 * D64;
    float *x = &w->x[0][0][0];
    int32_t n = d & -d;
    turn_registers<n_x>(x, 2);
    turn_registers<n_x>(x, 4);
    turn_registers<n_x>(x, 1);
    turn_lanes<n_x>(x, 1);
    if (n > 16)
        turn_lanes<n_x>(x, 2);
#pragma unroll
    for (int G = 1; G < 2 * D64; G *= 2)
        if (32 * G < n)
            turn_registers<n_x>(x, 8 * G);
    out_scale(w, 1 / sqrtf((float)n));
}

/* One pair's q, times factor, to shared memory by the four lanes of its row; NULL = zeros. */
DEVICE void rows_load(float *to, const float *q, int32_t d, float factor, int32_t b)
{
    for (int32_t c = b; c < rows_q_len(d) - 4; c += 4)
        to[c] = q && c < d ? q[c] * factor : 0;
}

DEVICE float4 rows_q(const float *q, int J, int i, int32_t b)
{
    return *(const float4 *)(q + q_channel(b, J, i, 0));
}

/* Splits four floats into the two row halves of a fragment. */
DEVICE void split_rows(uint32_t a[4], float x0, float x1, float x2, float x3)
{
    a[0] = half_pair(x0, x1);
    a[1] = half_pair_rest(x0, x1, a[0]);
    a[2] = half_pair(x2, x3);
    a[3] = half_pair_rest(x2, x3, a[2]);
}

/* A power of two that brings x to about 2^14. */
DEVICE float lift(float x)
{
    return 16384 / power_under(x);
}

/* s[j][e]: score of token 16 b + 8 e + j for row g. */
template <int P>
DEVICE void page_scores_at(const float *q, const kern_page *p, int32_t g, int32_t b, float s[8][2])
{
    int32_t d = p->head_dim, n_plane = p->bits_k / 2;
    const uint16_t *scale = page_k_scale(p), *lo = scale + d;
    float most = 0, beta = 0;
#pragma unroll 1
    for (int32_t c0 = 16 * b; c0 < d; c0 += 64)
        for (int i = 0; i < 4; i++) {
            float4 v = rows_q(q, c0 / 64, i, b);
            float x[4] = {v.x, v.y, v.z, v.w}, by[4], from[4];
            load_halves(by, scale + c0 + 4 * i);
            load_halves(from, lo + c0 + 4 * i);
            for (int y = 0; y < 4; y++) {
                most = fmaxf(most, fabsf(x[y] * by[y]));
                beta += x[y] * from[y];
            }
        }
    beta = quad_sum(beta);
    float up = lift(quad_max(most)), down = cut_of(P, n_plane) / up;
    float acc[8][4];
    for (int j = 0; j < 8; j++)
        for (int x = 0; x < 4; x++)
            acc[j][x] = 0;
    const uint8_t *plane[P];
    for (int x = 0; x < P; x++)
        plane[x] = page_plane_of(p, false, x);
#pragma unroll 1
    for (int J = 0; J < (d + 63) / 64; J++) {
        int32_t ct = 4 * J + b;
        bool there = 16 * ct < d;
        uint32_t word[P][8];
#pragma unroll
        for (int x = 0; x < P; x++) {
            const uint8_t *at = plane[x] + (g / 2) * 4 * d + ct * 64 + (g % 2) * 32;
            for (int y = 0; y < 8; y++)
                word[x][y] = 0;
            if (there && x < n_plane) {
                load_words(word[x], at);
                load_words(word[x] + 4, at + 16);
            }
        }
#pragma unroll 1
        for (int i = 0; i < 4; i++) {
            float4 v = rows_q(q, J, i, b);
            float x[4] = {v.x, v.y, v.z, v.w}, by[4] = {0, 0, 0, 0};
            if (there)
                load_halves(by, scale + q_channel(b, J, i, 0));
            for (int y = 0; y < 4; y++)
                x[y] *= by[y] * up;
            uint32_t a[4];
            split_rows(a, x[0], x[1], x[2], x[3]);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                uint32_t b0, b1;
                codes_of<P>(&word[0][j], 8, i, &b0, &b1);
                mma_f16(acc[j], a, b0, b1);
            }
        }
    }
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 2; e++)
            s[j][e] = (acc[j][e] + acc[j][2 + e]) * down + beta;
}

DEVICE void page_scores(const float *q, const kern_page *p, int32_t g, int32_t b, float s[8][2])
{
    if (p->bits_k <= 4)
        page_scores_at<2>(q, p, g, b, s);
    else
        page_scores_at<4>(q, p, g, b, s);
}

/* The same from f16 rows k [d][stride]; tokens from n_tok on may be anything. */
DEVICE void f16_scores(const float *q, const uint16_t *k, int32_t stride, int32_t d, int32_t g,
                       int32_t b, float s[8][2])
{
    int32_t tok = 8 * g;
    float most = 0;
    for (int32_t at = b; at < rows_q_len(d) - 4; at += 4)
        most = fmaxf(most, fabsf(q[at]));
    float up = lift(quad_max(most)), down = 1 / up;
    float acc[8][4];
    for (int j = 0; j < 8; j++)
        for (int x = 0; x < 4; x++)
            acc[j][x] = 0;
    bool there = tok < stride;
#pragma unroll 1
    for (int J = 0; J < (d + 63) / 64; J++)
#pragma unroll 1
        for (int i = 0; i < 4; i++) {
            uint32_t word[4][4], a[4];
            for (int x = 0; x < 4; x++) {
                int32_t c = q_channel(b, J, i, x);
                for (int y = 0; y < 4; y++)
                    word[x][y] = 0;
                if (there && c < d)
                    load_words(word[x], k + (size_t)c * stride + tok);
            }
            float4 v = rows_q(q, J, i, b);
            split_rows(a, v.x * up, v.y * up, v.z * up, v.w * up);
#pragma unroll
            for (int j = 0; j < 8; j++)
                mma_f16(acc[j], a, half_of_each(word[0], word[1], j),
                        half_of_each(word[2], word[3], j));
        }
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 2; e++)
            s[j][e] = (acc[j][e] + acc[j][2 + e]) * down;
}

/* Caps and masks scores and makes them probabilities against the row's running maximum. Returns this
 * lane's sum; ret_keep: what sums so far must be multiplied by. */
DEVICE float rows_softmax(row_state *w, float s[8][2], int32_t b, int32_t lo, int32_t hi,
                          float softcap, float *ret_keep)
{
    float top = LOWEST;
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 2; e++) {
            int32_t t = 16 * b + 8 * e + j;
            if (softcap > 0)
                s[j][e] = softcap * tanhf(s[j][e] / softcap);
            s[j][e] = t >= lo && t < hi ? s[j][e] : -INFINITY;
            top = fmaxf(top, s[j][e]);
        }
    top = fmaxf(quad_max(top), w->top);
    float keep = exp2f(w->top - top), sum = 0;
    w->top = top;
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 2; e++) {
            s[j][e] = exp2f(s[j][e] - top);
            sum += s[j][e];
        }
    w->sum = w->sum * keep + sum;
    *ret_keep = keep;
    return sum;
}

template <int D64, int P>
DEVICE void page_values_at(row_out<D64> *w, const kern_page *p, int32_t g, int32_t b,
                           const float s[8][2])
{
    int32_t d = p->head_dim, n_group = (d + PAGE_GROUP - 1) / PAGE_GROUP, n_plane = p->bits_v / 2;
    const uint16_t *scale = page_v_scale(p), *lo = scale + PAGE_TOK * n_group;
    const uint8_t *plane[P];
    for (int x = 0; x < P; x++)
        plane[x] = page_plane_of(p, true, x);
#pragma unroll
    for (int D = 0; D < D64; D++) { /* one scale per token for every 64 channels */
        if (64 * D >= d)
            break;
        float pp[16], most = 0, all_lo = 0;
        for (int i = 0; i < 4; i++) {
            float by[4], from[4];
            load_halves(by, scale + 64 * D + 16 * b + 4 * i);
            load_halves(from, lo + 64 * D + 16 * b + 4 * i);
            for (int y = 0; y < 4; y++) {
                int t = 4 * i + y;
                float prob = s[t % 8][t / 8];
                pp[t] = prob * by[y];
                all_lo += prob * from[y];
                most = fmaxf(most, pp[t]);
            }
        }
        all_lo = quad_sum(all_lo);
        float up = lift(quad_max(most)), down = cut_of(P, n_plane) / up;
        uint32_t a[4][4];
        for (int i = 0; i < 4; i++)
            split_rows(a[i], pp[4 * i] * up, pp[4 * i + 1] * up, pp[4 * i + 2] * up,
                       pp[4 * i + 3] * up);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int G = 2 * D + h;
            int32_t ct = 2 * G + g / 4;
            uint32_t word[P][4];
            float acc[4][4];
#pragma unroll
            for (int x = 0; x < P; x++) {
                for (int y = 0; y < 4; y++)
                    word[x][y] = 0;
                if (16 * ct < d && x < n_plane)
                    load_words(word[x], plane[x] + b * 4 * d + ct * 64 + g % 4 * 16);
            }
#pragma unroll
            for (int jj = 0; jj < 4; jj++) {
                for (int x = 0; x < 4; x++)
                    acc[jj][x] = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    uint32_t b0, b1;
                    codes_of<P>(&word[0][jj], 4, i, &b0, &b1);
                    mma_f16(acc[jj], a[i], b0, b1);
                }
                for (int e = 0; e < 2; e++)
                    w->x[G][jj][e] += (acc[jj][e] + acc[jj][2 + e]) * down + all_lo;
            }
        }
    }
}

template <int D64>
DEVICE void page_values(row_out<D64> *w, const kern_page *p, int32_t g, int32_t b,
                        const float s[8][2])
{
    if (p->bits_v <= 4)
        page_values_at<D64, 2>(w, p, g, b, s);
    else
        page_values_at<D64, 4>(w, p, g, b, s);
}

/* From rows v [n_tok][d]; what lies behind n_tok is not read: it may be NaN. */
template <int D64>
DEVICE void f16_values(row_out<D64> *w, const uint16_t *v, int32_t n_tok, int32_t d, int32_t g,
                       int32_t b, const float s[8][2])
{
    const float up = 32768, down = 1 / up;
    uint32_t a[4][4];
    for (int i = 0; i < 4; i++) {
        int j = 4 * i % 8, e = i / 2; /* tokens 4 i .. 4 i + 3 */
        split_rows(a[i], s[j][e] * up, s[j + 1][e] * up, s[j + 2][e] * up, s[j + 3][e] * up);
    }
#pragma unroll
    for (int G = 0; G < 2 * D64; G++) {
        int32_t c = 32 * G + 4 * g;
        if (32 * G >= d)
            break;
        float acc[4][4];
        for (int jj = 0; jj < 4; jj++)
            for (int x = 0; x < 4; x++)
                acc[jj][x] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t word[4][2];
            for (int x = 0; x < 4; x++) {
                int32_t t = 16 * b + 4 * i + x;
                uint2 two = {0, 0};
                if (t < n_tok && c < d)
                    two = *(const uint2 *)(v + (size_t)t * d + c);
                word[x][0] = two.x;
                word[x][1] = two.y;
            }
#pragma unroll
            for (int jj = 0; jj < 4; jj++)
                mma_f16(acc[jj], a[i], half_of_each(word[0], word[1], jj),
                        half_of_each(word[2], word[3], jj));
        }
        for (int jj = 0; jj < 4; jj++)
            for (int e = 0; e < 2; e++)
                w->x[G][jj][e] += (acc[jj][e] + acc[jj][2 + e]) * down;
    }
}

#endif
