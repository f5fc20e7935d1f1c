/* One warp's attention for up to 8 pairs of row and head, read straight from where it lies: f16 rows
 * or packed pages of any depth, through registers into the matrix units, with no shared memory.
 *
 * A fragment has 16 rows and we have at most 8: each float of q and of p is handed over as two f16,
 * the second holding what the first lost, in rows g and g + 8; their products are added. So nothing
 * is lost against float32. Scales of a page are folded into q and p, codes are exact in f16. Powers of
 * two keep q and p inside f16's range.
 *
 * Which channel or token stands in which row of a fragment is free as long as both sides agree:
 * it is chosen so that a lane reads whole neighbouring words of a page (g = lane / 4, b = lane % 4):
 *   scores:  channel of step (J, i), place s of lane b:  16 (4 J + b) + 4 i + s
 *            token of column g of tile j:                16 (g / 2) + 8 (g % 2) + j
 *   values:  token of step i, place s of lane b:         16 b + 4 i + s
 *            channel of column g of tile (G, jj):        32 G + 4 g + jj
 *            of latents, whose words hold channels:      64 (G / 2) + 8 g + 4 (G % 2) + jj */
#ifndef KERNELS_CUDA_ATTN_ROWS_CUH
#define KERNELS_CUDA_ATTN_ROWS_CUH

#include "kernels/cuda/attn.cuh"

/* Bits of a where the mask has them, of b elsewhere: one instruction. */
DEVICE uint32_t bits_of(uint32_t mask, uint32_t a, uint32_t b)
{
    return (a & mask) | (b & ~mask);
}

/* Codes of one word of each plane, as fragments. P: places for planes, 2 or 4; where a page has one
 * less, the last is 0, codes are 4 times as large and `cut_of` makes up for it: half as many kernels to
 * compile, and the same bytes read.
 * A code becomes f16 by being left where it is: as the bits of a subnormal it is code * 2^-24, exactly,
 * and the matrix units take those like others. Where two codes share a byte, the upper one is 16 times
 * as much; `code_lift` makes up for both. */
template <int P> struct codes {
    uint32_t x[P]; /* P = 2: pairs of bits 0 and 2, 1 and 3. P = 4: pairs 0 to 3 */
};

template <int P> DEVICE void codes_merge(codes<P> *c, const uint32_t *word)
{
    uint32_t n[P];
#pragma unroll
    for (int p = 0; p < P; p += 2) { /* two planes: nibbles */
        uint32_t upper = word[4 * p], lower = word[4 * (p + 1)];
        n[p] = bits_of(0x33333333, lower, upper << 2);
        n[p + 1] = bits_of(0x33333333, lower >> 2, upper);
    }
#pragma unroll
    for (int i = 0; i < P; i++)
        if constexpr (P == 2)
            c->x[i] = n[i];
        else
            c->x[i] = i < 2 ? bits_of(0x0f0f0f0f, n[2 + i], n[i] << 4)
                            : bits_of(0x0f0f0f0f, n[i] >> 4, n[i - 2]);
}

/* Pair of bits i of each byte: bytes 0 and 2 in b0, 1 and 3 in b1. */
template <int P> DEVICE void codes_of(const codes<P> &c, int i, uint32_t *b0, uint32_t *b1)
{
    uint32_t x = c.x[i % P], mask = P == 4 ? 0x00ff00ff : i < 2 ? 0x000f000f : 0x00f000f0;
    *b0 = x & mask;
    *b1 = x >> 8 & mask;
}

/* What codes of pair i are multiplied by when `up` is meant. */
template <int P> DEVICE float code_lift(int i, float up)
{
    return P == 2 && i >= 2 ? up / 16 : up;
}

/* What sums of products with codes are multiplied by, once `up` is taken out. */
DEVICE float cut_of(int32_t place, int32_t n_plane)
{
    return place > n_plane ? 0x1p22f : 0x1p24f;
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

/* Channel of column `col` of tile (G, 0). */
template <bool LATENT> DEVICE int32_t value_channel(int G, int32_t col)
{
    return LATENT ? 64 * (G / 2) + 8 * col + 4 * (G % 2) : 32 * G + 4 * col;
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

/* Splits four floats into the two row halves of a fragment: x0 and x1 for what is in b0, the others
 * for b1. */
DEVICE void split_rows(uint32_t a[4], float x0, float x1, float x2, float x3)
{
    a[0] = half_pair(x0, x1);
    a[1] = half_pair_rest(x0, x1, a[0]);
    a[2] = half_pair(x2, x3);
    a[3] = half_pair_rest(x2, x3, a[2]);
}

/* Adds the products of rows a, one fragment for each pair of bits, with the codes of a word of each
 * plane, words 4 apart. */
template <int P> DEVICE void codes_mma(float acc[4], const uint32_t a[4][4], const uint32_t *word)
{
    codes<P> c;
    codes_merge<P>(&c, word);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t b0, b1;
        codes_of<P>(c, i, &b0, &b1);
        mma_f16(acc, a[i], b0, b1);
    }
}

/* A power of two that brings x to about 2^14. */
DEVICE float lift(float x)
{
    return 16384 / power_under(x);
}

/* s[j][e]: score of token 16 b + 8 e + j for row g. Channels go 64 at a time, each with its own lift. */
template <int P>
DEVICE void page_scores_at(const float *q, const kern_page *p, int32_t g, int32_t b, float s[8][2])
{
    int32_t d = p->head_dim, n_plane = p->bits_k / 2;
    const uint16_t *scale = page_k_scale(p), *lo = scale + d;
    float beta = 0, cut = cut_of(P, n_plane);
    for (int j = 0; j < 8; j++)
        s[j][0] = s[j][1] = 0;
    const uint8_t *plane[P];
    for (int x = 0; x < P; x++)
        plane[x] = page_plane_of(p, false, x);
#pragma unroll 1
    for (int J = 0; J < (d + 63) / 64; J++) {
        int32_t ct = 4 * J + b;
        bool there = 16 * ct < d;
        float x[4][4], most = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 v = rows_q(q, J, i, b);
            float qs[4] = {v.x, v.y, v.z, v.w}, by[4] = {0, 0, 0, 0}, from[4] = {0, 0, 0, 0};
            if (there) {
                load_halves(by, scale + q_channel(b, J, i, 0));
                load_halves(from, lo + q_channel(b, J, i, 0));
            }
            for (int y = 0; y < 4; y++) {
                x[i][y] = qs[y] * by[y];
                most = fmaxf(most, fabsf(x[i][y]));
                beta += qs[y] * from[y];
            }
        }
        float up = lift(quad_max(most)), down = cut / up;
        uint32_t a[4][4];
        for (int i = 0; i < 4; i++) {
            float by = code_lift<P>(i, up);
            split_rows(a[i], x[i][0] * by, x[i][2] * by, x[i][1] * by, x[i][3] * by);
        }
#pragma unroll
        for (int y = 0; y < 8; y += 4) {
            uint32_t word[P][4];
#pragma unroll
            for (int i = 0; i < P; i++) {
                word[i][0] = word[i][1] = word[i][2] = word[i][3] = 0;
                if (there && i < n_plane)
                    load_words(word[i],
                               plane[i] + (g / 2) * 4 * d + ct * 64 + (g % 2) * 32 + 4 * y);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float acc[4] = {0, 0, 0, 0};
                codes_mma<P>(acc, a, &word[0][j]);
                for (int e = 0; e < 2; e++)
                    s[y + j][e] += (acc[e] + acc[2 + e]) * down;
            }
        }
    }
    beta = quad_sum(beta);
    for (int j = 0; j < 8; j++)
        for (int e = 0; e < 2; e++)
            s[j][e] += beta;
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
        for (int i = 0; i < 4; i++) {
            float by = code_lift<P>(i, up);
            split_rows(a[i], pp[4 * i] * by, pp[4 * i + 2] * by, pp[4 * i + 1] * by,
                       pp[4 * i + 3] * by);
        }
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
                codes_mma<P>(acc[jj], a, &word[0][jj]);
                for (int e = 0; e < 2; e++)
                    w->x[G][jj][e] += (acc[jj][e] + acc[jj][2 + e]) * down + all_lo;
            }
        }
    }
}

/* The same of a latent's page, from its keys: a word holds 16 channels of a token, of which columns 2 i and 2 i + 1
 * take 8 each. */
template <int D64, int P>
DEVICE void latent_values_at(row_out<D64> *w, const kern_page *p, int32_t n_value, int32_t g, int32_t b,
                             const float s[8][2])
{
    const float up = 32768;
    int32_t d = p->head_dim, n_plane = p->bits_k / 2;
    const uint16_t *scale = page_k_scale(p), *lo = scale + d;
    float down = cut_of(P, n_plane) / up, all = 0;
    const uint8_t *plane[P];
    for (int x = 0; x < P; x++)
        plane[x] = page_plane_of(p, false, x);
    uint32_t a[4][4];
    for (int i = 0; i < 4; i++) {
        int j = 4 * i % 8, e = i / 2; /* tokens 4 i .. 4 i + 3 */
        split_rows(a[i], s[j][e] * up, s[j + 1][e] * up, s[j + 2][e] * up, s[j + 3][e] * up);
        all += s[j][e] + s[j + 1][e] + s[j + 2][e] + s[j + 3][e];
    }
    all = quad_sum(all);
#pragma unroll
    for (int D = 0; D < D64; D++) {
        if (64 * D >= n_value)
            break;
        int32_t ct = 4 * D + g / 2;
        float acc[2][4][4];
        for (int x = 0; x < 32; x++)
            acc[x / 16][x / 4 % 4][x % 4] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t word[P][4];
            codes<P> c[4]; /* of tokens 4 i .. 4 i + 3 */
#pragma unroll
            for (int x = 0; x < P; x++) {
                word[x][0] = word[x][1] = word[x][2] = word[x][3] = 0;
                if (16 * ct < d && x < n_plane)
                    load_words(word[x], plane[x] + b * 4 * d + ct * 64 + 16 * i);
            }
#pragma unroll
            for (int y = 0; y < 4; y++)
                codes_merge<P>(&c[y], &word[0][y]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t x[4], mask = P == 4 ? 0x00ff00ff : 0x000f000f;
#pragma unroll
                for (int y = 0; y < 4; y++)
                    if constexpr (P == 4)
                        x[y] = g % 2 ? c[y].x[2 + h] : c[y].x[h];
                    else
                        x[y] = c[y].x[h] >> (g % 2 ? 4 : 0);
#pragma unroll
                for (int jj = 0; jj < 4; jj++) {
                    unsigned two = (unsigned)(jj | (4 + jj) << 8); /* byte jj of each */
                    mma_f16(acc[h][jj], a[i], __byte_perm(x[0], x[1], two) & mask,
                            __byte_perm(x[2], x[3], two) & mask);
                }
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int32_t c = value_channel<true>(2 * D + h, 2 * b + e);
                float by[4] = {0, 0, 0, 0}, from[4] = {0, 0, 0, 0};
                if (c < d) {
                    load_halves(by, scale + c);
                    load_halves(from, lo + c);
                }
#pragma unroll
                for (int jj = 0; jj < 4; jj++)
                    w->x[2 * D + h][jj][e] += (acc[h][jj][e] + acc[h][jj][2 + e]) * down * by[jj] + all * from[jj];
            }
    }
}

template <int D64>
DEVICE void latent_values(row_out<D64> *w, const kern_page *p, int32_t n_value, int32_t g, int32_t b,
                          const float s[8][2])
{
    if (p->bits_k <= 4)
        latent_values_at<D64, 2>(w, p, n_value, g, b, s);
    else
        latent_values_at<D64, 4>(w, p, n_value, g, b, s);
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

/* From rows; what lies behind n_tok is not taken: it may be NaN. Four tokens of four channels at a time: words of two
 * channels of a token, or of two tokens of a latent's channel. */
template <int D64, bool LATENT>
DEVICE void f16_values(row_out<D64> *w, const seg &rows, int32_t n_tok, int32_t n_value, int32_t g, int32_t b,
                       const float s[8][2])
{
    const float up = 32768, down = 1 / up;
    uint32_t a[4][4];
    for (int i = 0; i < 4; i++) {
        int j = 4 * i % 8, e = i / 2; /* tokens 4 i .. 4 i + 3 */
        split_rows(a[i], s[j][e] * up, s[j + 1][e] * up, s[j + 2][e] * up, s[j + 3][e] * up);
    }
#pragma unroll
    for (int G = 0; G < 2 * D64; G++) {
        int32_t c = value_channel<LATENT>(G, g);
        if (value_channel<LATENT>(G, 0) >= n_value)
            break;
        float acc[4][4];
        for (int jj = 0; jj < 4; jj++)
            for (int x = 0; x < 4; x++)
                acc[jj][x] = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t t = 16 * b + 4 * i;
            uint32_t word[4][2];
            for (int x = 0; x < 4; x++) {
                uint2 two = {0, 0};
                if constexpr (LATENT) {
                    if (t < n_tok && c < n_value)
                        two = *(const uint2 *)(rows.k + (size_t)(c + x) * rows.k_stride + t);
                    two.x = t + 1 < n_tok ? two.x : two.x & 0xffff;
                    two.y = t + 3 < n_tok ? two.y : t + 2 < n_tok ? two.y & 0xffff : 0;
                } else if (t + x < n_tok && c < n_value) {
                    two = *(const uint2 *)(rows.v + (size_t)(t + x) * n_value + c);
                }
                word[x][0] = two.x;
                word[x][1] = two.y;
            }
#pragma unroll
            for (int jj = 0; jj < 4; jj++)
                if constexpr (LATENT)
                    mma_f16(acc[jj], a[i], word[jj][0], word[jj][1]);
                else
                    mma_f16(acc[jj], a[i], half_of_each(word[0], word[1], jj), half_of_each(word[2], word[3], jj));
        }
        for (int jj = 0; jj < 4; jj++)
            for (int e = 0; e < 2; e++)
                w->x[G][jj][e] += (acc[jj][e] + acc[jj][2 + e]) * down;
    }
}

#endif
