/* Register-blocked products for attention: c[m][n] (+)= a[m][k] * b[k][n], all row-major.
 *
 * Both products of attention have this form, scores = Q * K^T with K stored channel-major and
 * out = P * V. The right side is f16 as it lies in the cache, widened inside the register tile
 * (measured faster than widening a block once, for 1 to 128 rows), or f32 (widened pages).
 * Compiled for 8 or 16 lanes. */
#ifndef KERNELS_CPU_ATTN_TILE_H
#define KERNELS_CPU_ATTN_TILE_H

#include "kernels/cpu/attn_vec.h"

enum {
    TILE_M = 6,                 /* rows of one register tile */
    TILE_N = VL == 16 ? 4 : 2,  /* vectors of one register tile: 24 or 12 accumulators */
    PANEL = TILE_N * VL         /* columns of one register tile: 64 or 16 */
};

/* One register tile of m rows and n vectors (constants after inlining). keep: NULL starts from
 * zero, else c[m] * keep[m] is the start. ahead: bytes wanted soon, as many as b gives here; or
 * NULL. */
ATTN_INLINE void tile_step(int m, int n, const float *a, size_t a_stride, const void *b,
                           size_t b_stride, int half, int32_t depth, float *c, size_t c_stride,
                           const float *keep, const char *ahead)
{
    vf acc[TILE_M][8];
#pragma GCC unroll 8
    for (int i = 0; i < m; i++) {
        vf k = keep ? VF_SET1(keep[i]) : VF_ZERO();
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            acc[i][j] = keep ? VF_MUL(k, VF_LOAD(c + i * c_stride + j * VL)) : VF_ZERO();
    }
    for (int32_t p = 0; p < depth; p++) {
        vf right[8];
        if (half && ahead)
            for (int j = 0; j < 2 * n * VL; j += 64)
                _mm_prefetch(ahead + (size_t)p * 2 * n * VL + j, _MM_HINT_T1);
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            right[j] = half ? VF_HALF((const uint16_t *)b + p * b_stride + j * VL)
                            : VF_LOAD((const float *)b + p * b_stride + j * VL);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            vf left = VF_SET1(a[i * a_stride + p]);
#pragma GCC unroll 8
            for (int j = 0; j < n; j++)
                acc[i][j] = VF_FMA(left, right[j], acc[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 8
        for (int j = 0; j < n; j++)
            VF_STORE(c + i * c_stride + j * VL, acc[i][j]);
}

/* Any m <= TILE_M; n vectors, n a constant. */
ATTN_INLINE void tile_rows(int32_t m, int n, const float *a, size_t a_stride, const void *b,
                           size_t b_stride, int half, int32_t depth, float *c, size_t c_stride,
                           const float *keep, const char *ahead)
{
    switch (m) {
    case 1:
        tile_step(1, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    case 2:
        tile_step(2, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    case 3:
        tile_step(3, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    case 4:
        tile_step(4, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    case 5:
        tile_step(5, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    default:
        tile_step(6, n, a, a_stride, b, b_stride, half, depth, c, c_stride, keep, ahead);
        break;
    }
}

/* Columns of a panel: 16, 32, 48 or 64, i.e. 2 vectors of 8 or 1..4 of 16. */
ATTN_INLINE void tile_panel(int32_t m, int32_t n_col, const float *a, size_t a_stride,
                            const void *b, size_t b_stride, int half, int32_t depth, float *c,
                            size_t c_stride, const float *keep, const char *ahead)
{
    int32_t n_step = (m + TILE_M - 1) / TILE_M;
    for (int32_t step = 0; step < n_step; step++) {
        /* equal shares: a sliver of one or two rows would leave the multipliers waiting */
        int32_t i = m * step / n_step, rows = m * (step + 1) / n_step - i;
        ahead = step == 0 ? ahead : NULL;
        const float *ai = a + i * a_stride, *ki = keep ? keep + i : NULL;
        float *ci = c + i * c_stride;
#if defined(__AVX512F__)
        switch (n_col / VL) {
        case 1:
            tile_rows(rows, 1, ai, a_stride, b, b_stride, half, depth, ci, c_stride, ki, ahead);
            break;
        case 2:
            tile_rows(rows, 2, ai, a_stride, b, b_stride, half, depth, ci, c_stride, ki, ahead);
            break;
        case 3:
            tile_rows(rows, 3, ai, a_stride, b, b_stride, half, depth, ci, c_stride, ki, ahead);
            break;
        default:
            tile_rows(rows, 4, ai, a_stride, b, b_stride, half, depth, ci, c_stride, ki, ahead);
            break;
        }
#else
        tile_rows(rows, 2, ai, a_stride, b, b_stride, half, depth, ci, c_stride, ki, ahead);
#endif
    }
}

/* c[m][n_col] from f32 b. One function, so that each register tile exists once per source. */
static __attribute__((noinline, unused)) void tile_f32(int32_t m, int32_t n_col, const float *a,
                                               size_t a_stride, const float *b, size_t b_stride,
                                               int32_t depth, float *c, size_t c_stride,
                                               const float *keep)
{
    tile_panel(m, n_col, a, a_stride, b, b_stride, 0, depth, c, c_stride, keep, NULL);
}

/* The same from f16 b; ahead: 2 * depth * n_col bytes to fetch into the cache meanwhile. */
static __attribute__((noinline, unused)) void tile_f16(int32_t m, int32_t n_col, const float *a,
                                               size_t a_stride, const uint16_t *b, size_t b_stride,
                                               int32_t depth, float *c, size_t c_stride,
                                               const float *keep, const char *ahead)
{
#if !defined(__AVX512F__)
    /* One or two rows of 8 lanes give too few independent sums: take twice the columns. */
    if (m <= 2 && n_col == 32) {
        if (m == 1)
            tile_step(1, 4, a, a_stride, b, b_stride, 1, depth, c, c_stride, keep, ahead);
        else
            tile_step(2, 4, a, a_stride, b, b_stride, 1, depth, c, c_stride, keep, ahead);
        return;
    }
#endif
    tile_panel(m, n_col, a, a_stride, b, b_stride, 1, depth, c, c_stride, keep, ahead);
}

/* n_chan rows of n_tok halves to n_tok rows of n_chan, strides in halves. n_chan is a multiple of 8; n_tok is rounded
 * up to one, on both sides. */
static __attribute__((unused)) void transpose_half(const uint16_t *src, size_t stride, int32_t n_chan, int32_t n_tok,
                                                   uint16_t *dst, size_t dst_stride)
{
    for (int32_t c = 0; c < n_chan; c += 8)
        for (int32_t t = 0; t < n_tok; t += 8) {
            __m128i x[8], y[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++)
                x[i] = _mm_loadu_si128((const __m128i *)(src + (size_t)(c + i) * stride + t));
#pragma GCC unroll 4
            for (int i = 0; i < 8; i += 2) { /* two channels, then four, then all eight beside each other */
                y[i] = _mm_unpacklo_epi16(x[i], x[i + 1]);
                y[i + 1] = _mm_unpackhi_epi16(x[i], x[i + 1]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                int at = i / 2 * 4 + i % 2;
                x[2 * i] = _mm_unpacklo_epi32(y[at], y[at + 2]);
                x[2 * i + 1] = _mm_unpackhi_epi32(y[at], y[at + 2]);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                uint16_t *to = dst + (size_t)(t + 2 * i) * dst_stride + c;
                _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi64(x[i], x[4 + i]));
                _mm_storeu_si128((__m128i *)(to + dst_stride), _mm_unpackhi_epi64(x[i], x[4 + i]));
            }
        }
}

/* Widens depth rows of n_col halves (stride apart) into a packed panel. */
ATTN_INLINE void panel_from_f16(const uint16_t *src, size_t stride, int32_t depth, int32_t n_col,
                                float *panel)
{
    for (int32_t p = 0; p < depth; p++)
        for (int32_t j = 0; j < n_col; j += VL)
            VF_STORE(panel + p * n_col + j, VF_HALF(src + p * stride + j));
}

#endif
