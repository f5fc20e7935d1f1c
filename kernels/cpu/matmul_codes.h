/* What the AVX-512 and AMX matrix products share: how codes and scales come out of a tile, and which
 * form of the input a type takes. Included by matmul_avx512.c and matmul_amx.c.
 */
#ifndef KERNELS_CPU_MATMUL_CODES_H
#define KERNELS_CPU_MATMUL_CODES_H

#include "kernels/cpu/matmul_flow.h"

INLINE __m512i load(const void *p)
{
    return _mm512_loadu_si512(p);
}

INLINE __m512i broadcast32(const void *p)
{
    int v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

INLINE __m512 load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE __m512 load_s8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

INLINE __m512 load_u8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

/* Bits shift.. of every byte; shifting 16 at a time is right because of the mask. */
INLINE __m512i field(__m512i v, int shift, int mask)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, (unsigned)shift), _mm512_set1_epi8((char)mask));
}

/* Vector j (0..7): one code per byte. */
INLINE __m512i load_codes(const uint8_t *code, struct family f, int j)
{
    if (f.bits == 8)
        return load(code + j * TILE_VEC);
    __m512i v;
    int low = f.bits >= 4 ? 4 : 2;
    if (low == 4)
        v = field(load(code + j % 4 * TILE_VEC), j / 4 * 4, 15);
    else
        v = field(load(code + j / 4 * TILE_VEC), j % 4 * 2, 3);
    code += low * TILE_VEC;
    if (f.bits - low == 2) {
        __m512i high = field(load(code + j / 4 * TILE_VEC), j % 4 * 2, 3);
        v = _mm512_or_si512(v, _mm512_slli_epi16(high, (unsigned)low));
    } else if (f.bits - low == 1) {
        __m512i high = field(load(code), j, 1);
        v = _mm512_or_si512(v, _mm512_slli_epi16(high, (unsigned)low));
    }
    if (f.table)
        v = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(unsigned_table(f)), v);
    return v;
}

/* Real scale and minimum of group g of a block. The products are exact: 11 bits times 8. */
INLINE __m512 group_scale(const uint8_t *scale, struct family f, int g)
{
    __m512 d = load_f16(scale);
    if (f.unit != 0)
        d = _mm512_mul_ps(d, _mm512_set1_ps(f.unit));
    if (!f.is_super)
        return d;
    const uint8_t *sub = scale + (has_min(f) ? 4 : 2) * TILE_ROWS;
    return _mm512_mul_ps(d, load_s8(sub + g * TILE_ROWS));
}

INLINE __m512 group_min(const uint8_t *scale, struct family f, int g)
{
    __m512 d = load_f16(scale + 2 * TILE_ROWS);
    if (!f.is_super)
        return d;
    const uint8_t *sub = scale + (4 + PANEL_COLS / f.group) * TILE_ROWS;
    return _mm512_mul_ps(d, load_u8(sub + g * TILE_ROWS));
}

/* Low bits of an input in two parts, of 14 in all: the sum of 32 products with bytes then fits the 24 bits of
 * a float, but for groups of nearly nothing but extremes. The parts share a scale per panel: scaling is
 * half of the time of the product on tile registers. */
enum { PART_BITS = 6 };

/* Whether a type takes its input in two parts: with a scale of its own per 32 columns and no minimum.
 * Those are the types for which an input of 8 bits errs by more than the codes do, or by too much (Q4_0:
 * the loss on trained tiny models is off by 0.0036, with 13 bits by 0.00003); not those with points of a grid. */
INLINE int act_parts(struct family f)
{
    return f.group == 32 && !has_min(f) && !(f.table && f.shift) ? 2 : 1;
}

static inline bool uses_two_parts(const struct quant_type *t)
{
    return t->group == 32 && !t->has_min && !quant_is_grid(t);
}

/* The largest input of the panel that begins here, n_col columns before the end. */
INLINE float panel_max(const float *x, int32_t n_col)
{
    return max_abs(x, n_col < PANEL_COLS ? n_col : PANEL_COLS);
}

#endif
