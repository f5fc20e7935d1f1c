/* The products of attention in tile registers: c[m][n] (+)= a[m][k] * b[k][n] for 16 rows and more.
 *
 * Every number is the sum of two BF16 numbers, exactly for f16 (11 bits of mantissa in 8 and 3), but
 * for 2^-17 of it for float32; three products of parts, in float sums, leave out only that of the two
 * small ones, another 2^-17. An f16 cache is rounded to 2^-11. Three products of tiles take about a
 * third of the time of float32 multiply-adds. Internal to attention. */
#ifndef KERNELS_CPU_ATTN_AMX_H
#define KERNELS_CPU_ATTN_AMX_H

#include "kernels/cpu/attn_vec.h"
#include "kernels/cpu/tile_regs.h"

enum {
    AMX_ROWS = 16,  /* of a tile */
    AMX_DEPTH = 32, /* terms of a product of tiles */
    AMX_TILE_BYTES = 1024,
    AMX_PAIR_BYTES = 2 * AMX_TILE_BYTES /* a tile of large parts, then one of small parts */
};

/* Upper halves: the large part, by cutting, and the small part, rounded. */
ATTN_INLINE vi amx_large(vf x)
{
    return VI_AND(_mm512_castps_si512(x), VI_SET1((int)0xffff0000));
}

ATTN_INLINE vi amx_small(vf x, vi large)
{
    return VI_ADD(_mm512_castps_si512(VF_SUB(x, VF_OF_BITS(large))), VI_SET1(0x8000));
}

/* Left side: m rows of depth floats, `live` of them read, to [m / 16][depth / 32] pairs of tiles of 16
 * rows by 32 terms. What is not live is zero. */
static void amx_left(const float *a, size_t a_stride, int32_t m, int32_t live, int32_t depth,
                     uint8_t *dst)
{
    int32_t n_step = depth / AMX_DEPTH;
    for (int32_t i = 0; i < m; i++) {
        uint8_t *row = dst + (size_t)(i / AMX_ROWS * n_step) * AMX_PAIR_BYTES + i % AMX_ROWS * 64;
        for (int32_t k = 0; k < depth; k += VL) {
            uint8_t *to = row + (size_t)(k / AMX_DEPTH) * AMX_PAIR_BYTES + k % AMX_DEPTH * 2;
            vf x = k < live ? VF_LOAD(a + i * a_stride + k) : VF_ZERO();
            vi large = amx_large(x), small = amx_small(x, large);
            _mm256_store_si256((__m256i *)to, _mm512_cvtepi32_epi16(VI_SHR(large, 16)));
            _mm256_store_si256((__m256i *)(to + AMX_TILE_BYTES),
                               _mm512_cvtepi32_epi16(VI_SHR(small, 16)));
        }
    }
}

/* Right side: depth rows of n_col f16 or floats, `live` of them read, to [depth / 32][n_col / 16] pairs
 * of tiles whose rows are two terms of 16 columns. ahead: bytes wanted soon, as many as are read here;
 * or NULL. */
ATTN_INLINE void amx_right(const void *b, size_t b_stride, int half, int32_t live, int32_t depth,
                           int32_t n_col, uint8_t *dst, const char *ahead)
{
    const vi top = VI_SET1((int)0xffff0000);
    for (int32_t k = 0; k < depth; k += 2) {
        uint8_t *row = dst + (size_t)(k / AMX_DEPTH * (n_col / 16)) * AMX_PAIR_BYTES +
                       k % AMX_DEPTH / 2 * 64;
        for (int32_t c = 0; c < n_col; c += 16, row += AMX_PAIR_BYTES) {
            vf x[2];
            vi large[2], small[2];
            if (ahead)
                _mm_prefetch(ahead + ((size_t)k * n_col + 2 * c) * 2, _MM_HINT_T0);
            for (int i = 0; i < 2; i++) {
                size_t at = (size_t)(k + i) * b_stride + (size_t)c;
                x[i] = k + i >= live ? VF_ZERO()
                       : half        ? VF_HALF((const uint16_t *)b + at)
                                     : VF_LOAD((const float *)b + at);
                large[i] = amx_large(x[i]);
                small[i] = amx_small(x[i], large[i]);
            }
            VI_STORE(row, VI_OR(large[1], VI_SHR(large[0], 16)));
            VI_STORE(row + AMX_TILE_BYTES, VI_SELECT(top, small[1], VI_SHR(small[0], 16)));
        }
    }
}

static void amx_begin(void)
{
    const struct tile_shape whole = {AMX_ROWS, 64};
    tile_configure(
        (struct tile_shape[TILE_REGS]){whole, whole, whole, whole, whole, whole, whole, whole});
}

/* One or two tiles of rows times one or two of columns; registers 0 to 3 hold sums, 4 and 5 the left
 * side, 6 and 7 the right side. */
ATTN_INLINE void amx_dots(int n_m, int n_n)
{
    TILE_DOT_BF16(0, 4, 6);
    if (n_n == 2)
        TILE_DOT_BF16(1, 4, 7);
    if (n_m == 2)
        TILE_DOT_BF16(2, 5, 6);
    if (n_m == 2 && n_n == 2)
        TILE_DOT_BF16(3, 5, 7);
}

ATTN_INLINE void amx_load_left(int n_m, const uint8_t *a, size_t to_next)
{
    TILE_LOAD(4, a, 64);
    if (n_m == 2)
        TILE_LOAD(5, a + to_next, 64);
}

ATTN_INLINE void amx_load_right(int n_n, const uint8_t *b)
{
    TILE_LOAD(6, b, 64);
    if (n_n == 2)
        TILE_LOAD(7, b + AMX_PAIR_BYTES, 64);
}

ATTN_INLINE void amx_block(int n_m, int n_n, const uint8_t *a, const uint8_t *b, int32_t n_step,
                           size_t b_step, float *c, size_t c_stride, bool onto)
{
    size_t a_next = (size_t)n_step * AMX_PAIR_BYTES, row = c_stride * sizeof *c;
    float *low = c + AMX_ROWS * c_stride;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    if (onto) {
        TILE_LOAD(0, c, row);
        if (n_n == 2)
            TILE_LOAD(1, c + 16, row);
        if (n_m == 2)
            TILE_LOAD(2, low, row);
        if (n_m == 2 && n_n == 2)
            TILE_LOAD(3, low + 16, row);
    }
    for (int32_t k = 0; k < n_step; k++, a += AMX_PAIR_BYTES, b += b_step) {
        amx_load_right(n_n, b);
        amx_load_left(n_m, a + AMX_TILE_BYTES, a_next);
        amx_dots(n_m, n_n);
        amx_load_left(n_m, a, a_next);
        amx_dots(n_m, n_n);
        amx_load_right(n_n, b + AMX_TILE_BYTES);
        amx_dots(n_m, n_n);
    }
    TILE_STORE(0, c, row);
    if (n_n == 2)
        TILE_STORE(1, c + 16, row);
    if (n_m == 2)
        TILE_STORE(2, low, row);
    if (n_m == 2 && n_n == 2)
        TILE_STORE(3, low + 16, row);
}

/* c[m][n_col] (+)= both sides as made above; c has room for m rounded up to 16. */
static void amx_product(const uint8_t *a, const uint8_t *b, int32_t m, int32_t n_col, int32_t depth,
                        float *c, size_t c_stride, bool onto)
{
    int32_t n_step = depth / AMX_DEPTH, n_n = n_col / 16, n_m = (m + AMX_ROWS - 1) / AMX_ROWS;
    size_t b_step = (size_t)n_n * AMX_PAIR_BYTES;
    for (int32_t j = 0; j < n_n; j += 2)
        for (int32_t i = 0; i < n_m; i += 2) {
            const uint8_t *ai = a + (size_t)(i * n_step) * AMX_PAIR_BYTES;
            const uint8_t *bj = b + (size_t)j * AMX_PAIR_BYTES;
            float *cij = c + (size_t)(i * AMX_ROWS) * c_stride + (size_t)(j * 16);
            if (i + 1 < n_m && j + 1 < n_n)
                amx_block(2, 2, ai, bj, n_step, b_step, cij, c_stride, onto);
            else if (i + 1 < n_m)
                amx_block(2, 1, ai, bj, n_step, b_step, cij, c_stride, onto);
            else if (j + 1 < n_n)
                amx_block(1, 2, ai, bj, n_step, b_step, cij, c_stride, onto);
            else
                amx_block(1, 1, ai, bj, n_step, b_step, cij, c_stride, onto);
        }
}

#endif
