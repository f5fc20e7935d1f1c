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

/* n terms with zeros behind them. */
ATTN_INLINE int32_t amx_depth(int32_t n)
{
    return (n + AMX_DEPTH - 1) / AMX_DEPTH * AMX_DEPTH;
}

/* Upper halves: the large part, by cutting, and the small part, rounded. */
ATTN_INLINE vi amx_large(vf x)
{
    return VI_AND(_mm512_castps_si512(x), VI_SET1((int)0xffff0000));
}

ATTN_INLINE vi amx_small(vf x, vi large)
{
    return VI_ADD(_mm512_castps_si512(VF_SUB(x, VF_OF_BITS(large))), VI_SET1(0x8000));
}

/* 16 pairs of terms, each in its large and its small part, to a row of a left or of a right side. The terms
 * of a pair are 16 apart on both: that takes no shuffling. */
ATTN_INLINE void amx_put(uint8_t *to, vf low, vf high)
{
    const vi top = VI_SET1((int)0xffff0000);
    vi large[2] = {amx_large(low), amx_large(high)};
    vi small[2] = {amx_small(low, large[0]), amx_small(high, large[1])};
    VI_STORE(to, VI_OR(large[1], VI_SHR(large[0], 16)));
    VI_STORE(to + AMX_TILE_BYTES, VI_SELECT(top, small[1], VI_SHR(small[0], 16)));
}

/* Where row i of a left side of n_step tiles of depth begins. */
ATTN_INLINE uint8_t *amx_left_row(uint8_t *left, int32_t i, int32_t n_step)
{
    return left + (size_t)(i / AMX_ROWS * n_step) * AMX_PAIR_BYTES + i % AMX_ROWS * 64;
}

/* Left side: m rows of depth floats to [m / 16][depth / 32] pairs of tiles of 16 rows by 32 terms. */
static void amx_left(const float *a, size_t a_stride, int32_t m, int32_t depth, uint8_t *dst)
{
    int32_t n_step = depth / AMX_DEPTH;
    for (int32_t i = 0; i < m; i++) {
        const float *from = a + i * a_stride;
        uint8_t *to = amx_left_row(dst, i, n_step);
        for (int32_t k = 0; k < n_step; k++)
            amx_put(to + (size_t)k * AMX_PAIR_BYTES, VF_LOAD(from + k * AMX_DEPTH),
                    VF_LOAD(from + k * AMX_DEPTH + VL));
    }
}

/* Right side: depth rows of n_col f16 or floats, `live` of them read, to [depth / 32][n_col / 16] pairs
 * of tiles whose rows are two terms of 16 columns. ahead: bytes wanted soon, as many as are read here;
 * or NULL. */
ATTN_INLINE void amx_right(const void *b, size_t b_stride, int half, int32_t live, int32_t depth,
                           int32_t n_col, uint8_t *dst, const char *ahead)
{
    for (int32_t k = 0; k < depth / 2; k++) {
        int32_t low = k / VL * AMX_DEPTH + k % VL; /* the pair of term low + 16 */
        uint8_t *row = dst + (size_t)(k / VL * (n_col / 16)) * AMX_PAIR_BYTES + k % VL * 64;
        for (int32_t c = 0; c < n_col; c += 16, row += AMX_PAIR_BYTES) {
            vf x[2];
            if (ahead) {
                _mm_prefetch(ahead, _MM_HINT_T0);
                ahead += 64;
            }
            for (int i = 0; i < 2; i++) {
                int32_t term = low + i * VL;
                size_t at = (size_t)term * b_stride + (size_t)c;
                x[i] = term >= live ? VF_ZERO()
                       : half       ? VF_HALF((const uint16_t *)b + at)
                                    : VF_LOAD((const float *)b + at);
            }
            amx_put(row, x[0], x[1]);
        }
    }
}

/* Lane i of the result: the maximum, or the sum, of row i; sums in the order of vf_hsum. */
ATTN_INLINE vf amx_fold(const vf row[AMX_ROWS], bool sum)
{
    vf four[4], two[2];
#define FOLD(a, b) (sum ? VF_ADD(a, b) : VF_MAX(a, b))
#define FOLD_128(a, b, m, n) FOLD(_mm512_shuffle_f32x4(a, b, m), _mm512_shuffle_f32x4(a, b, n))
#define FOLD_32(a, b, m, n) FOLD(_mm512_shuffle_ps(a, b, m), _mm512_shuffle_ps(a, b, n))
    for (int i = 0; i < 4; i++) {
        vf ab = FOLD_128(row[i], row[4 + i], 0x44, 0xee);
        vf cd = FOLD_128(row[8 + i], row[12 + i], 0x44, 0xee);
        four[i] = FOLD_128(ab, cd, 0x88, 0xdd);
    }
    for (int i = 0; i < 2; i++)
        two[i] = FOLD_32(four[2 * i], four[2 * i + 1], 0x44, 0xee);
    return FOLD_32(two[0], two[1], 0x88, 0xdd);
#undef FOLD
#undef FOLD_128
#undef FOLD_32
}

/* Turns m rows of n_key scores, `stride` apart, into probabilities against each row's running maximum:
 * a left side of `depth` terms, zero behind n_key. keep: what is left of everything before. sums: of
 * these probabilities. All arrays have room for m rounded up to 16, and so has s. */
static void amx_softmax(const float *s, size_t stride, int32_t m, int32_t n_key, int32_t depth,
                        float *top, float *sum, float *keep, float *sums, uint8_t *left)
{
    int32_t n_step = depth / AMX_DEPTH;
    for (int32_t i = 0; i < m; i += AMX_ROWS) {
        vf part[AMX_ROWS];
        for (int r = 0; r < AMX_ROWS; r++) {
            const float *x = s + (size_t)(i + r) * stride;
            part[r] = VF_LOAD(x);
            for (int32_t j = VL; j < n_key; j += VL)
                part[r] = VF_MAX(part[r], VF_LOAD(x + j));
        }
        vf before = VF_LOAD(top + i), now = VF_MAX(before, amx_fold(part, false));
        vf kept = vf_exp2(VF_SUB(before, now));
        VF_STORE(top + i, now);
        VF_STORE(keep + i, kept);
        for (int r = 0; r < AMX_ROWS; r++) {
            const float *x = s + (size_t)(i + r) * stride;
            uint8_t *to = amx_left_row(left, i + r, n_step);
            vf at = VF_SET1(top[i + r]);
            part[r] = VF_ZERO();
            for (int32_t k = 0; k < depth; k += AMX_DEPTH, to += AMX_PAIR_BYTES) {
                vf low = vf_exp2(VF_SUB(VF_LOAD(x + k), at)), high = VF_ZERO();
                part[r] = VF_ADD(part[r], low);
                if (k + VL < n_key) {
                    high = vf_exp2(VF_SUB(VF_LOAD(x + k + VL), at));
                    part[r] = VF_ADD(part[r], high);
                }
                amx_put(to, low, high);
            }
        }
        vf all = amx_fold(part, true);
        VF_STORE(sums + i, all);
        VF_STORE(sum + i, VF_ADD(VF_MUL(VF_LOAD(sum + i), kept), all));
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
