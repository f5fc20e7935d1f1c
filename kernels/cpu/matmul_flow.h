/* What the inner loops of the matrix product share between instruction sets: the families of
 * types, and the quantised input. Included by matmul_avx2.c and matmul_avx512.c; needs AVX2. */
#ifndef KERNELS_CPU_MATMUL_FLOW_H
#define KERNELS_CPU_MATMUL_FLOW_H

#include "kernels/cpu/matmul.h"
#include "kernels/quant_iq.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* What a family needs to know about a type, all compile-time constants. */
struct family {
    int bits, group;
    int shift; /* log2 of the offset; 0 when the type has a minimum, or its table needs 8 bits */
    bool is_super;
    const int8_t *table; /* as in quant.h */
    float unit;          /* likewise; 0 = 1 */
};

INLINE bool has_min(struct family f)
{
    return !f.shift && !f.table;
}

/* log2 of what makes codes, or their table's values, unsigned. */
INLINE int offset_shift(struct family f)
{
    return f.table && !f.shift ? 7 : f.shift;
}

/* The table, unsigned. */
INLINE __m128i unsigned_table(struct family f)
{
    return _mm_add_epi8(_mm_loadu_si128((const __m128i *)f.table), _mm_set1_epi8((char)(1 << offset_shift(f))));
}

/* How far ahead of a walk through the weights memory is asked for them. */
enum { PREFETCH_BYTES = 4096 };

/* To the second cache: the first one keeps account of too few lines on their way to fill the time that memory
 * takes (decode is 7 % faster). */
INLINE void prefetch(const uint8_t *p, int n_vec)
{
    for (int i = 0; i < n_vec; i++)
        _mm_prefetch(p + i * TILE_VEC, _MM_HINT_T1);
}

/* Bytes of the scales of one block of a tile. */
INLINE size_t scale_block_bytes(struct family f)
{
    if (!f.is_super)
        return (has_min(f) ? 4 : 2) * TILE_ROWS;
    return (size_t)((has_min(f) ? 4 : 2) + PANEL_COLS / f.group * (has_min(f) ? 2 : 1)) * TILE_ROWS;
}

/* Asks for the scales of so many blocks of the next tile: they lie behind all of its codes, where no walk comes
 * by in time (decode: another 6 %). scale: those of this tile. */
INLINE void prefetch_scales(const uint8_t *scale, size_t tile_bytes, int n_block, struct family f)
{
    prefetch(scale + tile_bytes, (int)(n_block * scale_block_bytes(f) + TILE_VEC - 1) / TILE_VEC);
}

/* Calls F with the constants of each block type. */
#define EACH_FAMILY(type, F, ...)                                                                  \
    switch (type) {                                                                                \
    case KERN_Q4_0:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 3, false, NULL}));                                  \
        break;                                                                                     \
    case KERN_Q4_1:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 0, false, NULL}));                                  \
        break;                                                                                     \
    case KERN_Q5_0:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 4, false, NULL}));                                  \
        break;                                                                                     \
    case KERN_Q5_1:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 0, false, NULL}));                                  \
        break;                                                                                     \
    case KERN_Q8_0:                                                                                \
        F(__VA_ARGS__, ((struct family){8, 32, 7, false, NULL}));                                  \
        break;                                                                                     \
    case KERN_Q2_K:                                                                                \
        F(__VA_ARGS__, ((struct family){2, 16, 0, true, NULL}));                                   \
        break;                                                                                     \
    case KERN_Q3_K:                                                                                \
        F(__VA_ARGS__, ((struct family){3, 16, 2, true, NULL}));                                   \
        break;                                                                                     \
    case KERN_Q4_K:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 0, true, NULL}));                                   \
        break;                                                                                     \
    case KERN_Q5_K:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 0, true, NULL}));                                   \
        break;                                                                                     \
    case KERN_Q6_K:                                                                                \
        F(__VA_ARGS__, ((struct family){6, 16, 5, true, NULL}));                                   \
        break;                                                                                     \
    case KERN_IQ4_NL:                                                                              \
        F(__VA_ARGS__, ((struct family){4, 32, 0, false, quant_iq4_values}));                      \
        break;                                                                                     \
    case KERN_IQ4_XS:                                                                              \
        F(__VA_ARGS__, ((struct family){4, 32, 0, true, quant_iq4_values}));                       \
        break;                                                                                     \
    case KERN_IQ2_XXS:                                                                             \
        F(__VA_ARGS__, ((struct family){3, 32, 6, true, quant_iq2_values, 0.125f}));               \
        break;                                                                                     \
    case KERN_IQ2_XS:                                                                              \
        F(__VA_ARGS__, ((struct family){3, 16, 6, true, quant_iq2_values, 0.125f}));               \
        break;                                                                                     \
    case KERN_IQ2_S:                                                                               \
        F(__VA_ARGS__, ((struct family){3, 16, 6, true, quant_iq2_values, 0.125f}));               \
        break;                                                                                     \
    case KERN_IQ3_XXS:                                                                             \
        F(__VA_ARGS__, ((struct family){4, 32, 5, true, quant_iq3_xxs_values, 0.5f}));             \
        break;                                                                                     \
    case KERN_IQ3_S:                                                                               \
        F(__VA_ARGS__, ((struct family){4, 32, 4, true, quant_iq3_s_values}));                     \
        break;                                                                                     \
    case KERN_IQ1_S:                                                                               \
        F(__VA_ARGS__, ((struct family){3, 32, 4, true, quant_iq1_values, 0.125f}));               \
        break;                                                                                     \
    case KERN_IQ1_M:                                                                               \
        F(__VA_ARGS__, ((struct family){3, 16, 4, true, quant_iq1_values, 0.125f}));               \
        break;                                                                                     \
    case KERN_MXFP4:                                                                               \
        F(__VA_ARGS__, ((struct family){4, 32, 0, false, quant_fp4_values}));                      \
        break;                                                                                     \
    case KERN_F32:                                                                                 \
    case KERN_F16:                                                                                 \
    case KERN_BF16:                                                                                \
        break; /* not a block type */                                                              \
    }

INLINE float max8(__m256 v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

INLINE int32_t sum8(__m256i v)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* The largest of n inputs, a multiple of 8. */
INLINE float max_abs(const float *x, int32_t n)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 m = _mm256_setzero_ps();
    for (int32_t i = 0; i < n; i += 8)
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)));
    return max8(m);
}

/* Inputs too small to divide by count as zero. */
INLINE float inverse_scale(float amax, float top)
{
    return amax > 1e-30f ? top / amax : 0;
}

/* 32 inputs of at most amax as integers of at most `top`; returns the scale. */
INLINE float scale_group(const float *x, float amax, float top, __m256i ret[4])
{
    __m256 inverse = _mm256_set1_ps(inverse_scale(amax, top));
    for (int i = 0; i < 4; i++)
        ret[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
    return amax / top;
}

INLINE void store_bytes(int8_t *dst, const __m256i v[4])
{
    __m256i b = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]),
                                   _mm256_packs_epi32(v[2], v[3]));
    /* Packing works within 128-bit lanes; this puts the fours in order. */
    b = _mm256_permutevar8x32_epi32(b, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)dst, b);
}

/* The high part of v; the low one is what is left. */
INLINE __m256i high_part(__m256i v, int low, __m256i *rest)
{
    __m256i half = _mm256_set1_epi32(1 << (low - 1));
    __m256i high = _mm256_srai_epi32(_mm256_add_epi32(v, half), low);
    *rest = _mm256_sub_epi32(v, _mm256_slli_epi32(high, low));
    return high;
}

/* 32 inputs of at most amax in one part (low 0) or two, v = (h << low) + l, all signed bytes: ret[0] then has
 * the high parts and all scales and sums, ret[1] the low ones. */
INLINE void quantise_group(const float *x, float amax, int low, struct act8 *ret)
{
    __m256i v[4], rest[4];
    float d = scale_group(x, amax, (float)(127 << low), v);
    int32_t s0 = sum8(_mm256_add_epi32(v[0], v[1])), s1 = sum8(_mm256_add_epi32(v[2], v[3]));
    if (low) {
        for (int j = 0; j < 4; j++)
            v[j] = high_part(v[j], low, &rest[j]);
        store_bytes(ret[1].q, rest);
    }
    store_bytes(ret->q, v);
    ret->d = d;
    ret->sum16[0] = d * (float)s0;
    ret->sum16[1] = d * (float)s1;
    ret->sum32 = d * (float)(s0 + s1);
    ret->count16[0] = -s0;
    ret->count16[1] = -s1;
    ret->count32 = -(s0 + s1);
}

static inline void quantise8(const float *x, int32_t n_col, void *narrow, int32_t slot, int32_t n_slot)
{
    struct act8 *ret = (struct act8 *)narrow + slot;
    for (int32_t i = 0; i < n_col; i += 32, ret += n_slot)
        quantise_group(x + i, max_abs(x + i, 32), 0, ret);
}

/* kernels/cpu/matmul.h: matmul_isa.store */
static inline void store_rows(float *dst, const float *c, size_t c_stride, int n_tile, const float *bias,
                              bool add)
{
    for (int i = 0; i < n_tile; i++, dst += TILE_ROWS, c += c_stride)
        for (int half = 0; half < TILE_ROWS; half += 8) {
            __m256 v = _mm256_loadu_ps(c + half);
            if (add)
                v = _mm256_add_ps(v, _mm256_loadu_ps(dst + half));
            if (bias)
                v = _mm256_add_ps(v, _mm256_loadu_ps(bias + i * TILE_ROWS + half));
            _mm256_storeu_ps(dst + half, v);
        }
}

#endif
