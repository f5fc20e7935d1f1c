/* What the inner loops of the matrix product share between instruction sets: the families of
 * types, and the quantised input. Included by matmul_avx2.c and matmul_avx512.c; needs AVX2. */
#ifndef KERNELS_CPU_MATMUL_FLOW_H
#define KERNELS_CPU_MATMUL_FLOW_H

#include "kernels/cpu/matmul.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* What a family needs to know about a type, all compile-time constants. */
struct family {
    int bits, group;
    int shift; /* log2 of the offset; 0 when the type has a minimum */
    bool is_super, is_codebook;
};

INLINE bool has_min(struct family f)
{
    return !f.shift && !f.is_codebook;
}

/* How far ahead of a single token's walk through the weights memory is asked for them. */
enum { PREFETCH_BYTES = 4096 };

INLINE void prefetch(const uint8_t *p, int n_vec)
{
    for (int i = 0; i < n_vec; i++)
        _mm_prefetch(p + i * TILE_VEC, _MM_HINT_T0);
}

/* Bytes of the scales of one block of a tile. */
INLINE size_t scale_block_bytes(struct family f)
{
    if (!f.is_super)
        return (has_min(f) ? 4 : 2) * TILE_ROWS;
    return (size_t)((has_min(f) ? 4 : 2) + PANEL_COLS / f.group * (has_min(f) ? 2 : 1)) * TILE_ROWS;
}

/* Calls F with the constants of each block type. */
#define EACH_FAMILY(type, F, ...)                                                                  \
    switch (type) {                                                                                \
    case KERN_Q4_0:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 3, false, false}));                                 \
        break;                                                                                     \
    case KERN_Q4_1:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 0, false, false}));                                 \
        break;                                                                                     \
    case KERN_Q5_0:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 4, false, false}));                                 \
        break;                                                                                     \
    case KERN_Q5_1:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 0, false, false}));                                 \
        break;                                                                                     \
    case KERN_Q8_0:                                                                                \
        F(__VA_ARGS__, ((struct family){8, 32, 7, false, false}));                                 \
        break;                                                                                     \
    case KERN_Q2_K:                                                                                \
        F(__VA_ARGS__, ((struct family){2, 16, 0, true, false}));                                  \
        break;                                                                                     \
    case KERN_Q3_K:                                                                                \
        F(__VA_ARGS__, ((struct family){3, 16, 2, true, false}));                                  \
        break;                                                                                     \
    case KERN_Q4_K:                                                                                \
        F(__VA_ARGS__, ((struct family){4, 32, 0, true, false}));                                  \
        break;                                                                                     \
    case KERN_Q5_K:                                                                                \
        F(__VA_ARGS__, ((struct family){5, 32, 0, true, false}));                                  \
        break;                                                                                     \
    case KERN_Q6_K:                                                                                \
        F(__VA_ARGS__, ((struct family){6, 16, 5, true, false}));                                  \
        break;                                                                                     \
    case KERN_IQ4_NL:                                                                              \
        F(__VA_ARGS__, ((struct family){4, 32, 0, false, true}));                                  \
        break;                                                                                     \
    case KERN_IQ4_XS:                                                                              \
        F(__VA_ARGS__, ((struct family){4, 32, 0, true, true}));                                   \
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

/* 32 inputs as integers of at most `top`; returns the scale. Inputs too small to divide by count
 * as zero. */
INLINE float scale_group(const float *x, float top, __m256i ret[4])
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 v[4], m = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, v[i]));
    }
    float amax = max8(m);
    __m256 inverse = _mm256_set1_ps(amax > 1e-30f ? top / amax : 0);
    for (int i = 0; i < 4; i++)
        ret[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
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

/* Low bits of an input in two parts: v = (h << PART_BITS) + l, both signed bytes. With 13 bits in all
 * the sum of 32 products with bytes fits 24 bits, which a float holds. */
enum { PART_BITS = 5, TWO_PARTS_MAX = 127 << PART_BITS };

INLINE __m256i high_part(__m256i v)
{
    return _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(1 << (PART_BITS - 1))), PART_BITS);
}

INLINE __m256i low_part(__m256i v, __m256i high)
{
    return _mm256_sub_epi32(v, _mm256_slli_epi32(high, PART_BITS));
}

/* In one part or two: ret[0] then has the high parts and all scales and sums, ret[1] the low ones. */
INLINE void quantise_parts(const float *x, int32_t n_col, struct act8 *ret, int32_t stride,
                           int parts)
{
    for (int32_t i = 0; i < n_col; i += 32, ret += stride * parts) {
        __m256i v[4], high[4], low[4];
        float d = scale_group(x + i, parts == 2 ? TWO_PARTS_MAX : 127, v);
        int32_t s0 = sum8(_mm256_add_epi32(v[0], v[1])), s1 = sum8(_mm256_add_epi32(v[2], v[3]));
        if (parts == 2) {
            for (int j = 0; j < 4; j++) {
                high[j] = high_part(v[j]);
                low[j] = low_part(v[j], high[j]);
            }
            store_bytes(ret[1].q, low);
        }
        store_bytes(ret->q, parts == 2 ? high : v);
        ret->d = d;
        ret->sum16[0] = d * (float)s0;
        ret->sum16[1] = d * (float)s1;
        ret->sum32 = d * (float)(s0 + s1);
        ret->count16[0] = -s0;
        ret->count16[1] = -s1;
        ret->count32 = -(s0 + s1);
    }
}

static inline void quantise8(const float *x, int32_t n_col, void *narrow, int32_t slot, int32_t n_slot)
{
    quantise_parts(x, n_col, (struct act8 *)narrow + slot, n_slot, 1);
}

#endif
