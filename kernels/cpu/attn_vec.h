/* The vocabulary of the attention kernels: VL float lanes, 8 with AVX2 and 16 with AVX-512.
 * Included only by files that are compiled for one of the two. Internal to attention. */
#ifndef KERNELS_CPU_ATTN_VEC_H
#define KERNELS_CPU_ATTN_VEC_H

#include <immintrin.h>
#include <stdint.h>

#define ATTN_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vi;

#define VF_ZERO() _mm512_setzero_ps()
#define VF_SET1(x) _mm512_set1_ps(x)
#define VF_LOAD(p) _mm512_loadu_ps(p)
#define VF_STORE(p, x) _mm512_storeu_ps(p, x)
#define VF_HALF(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define VF_ADD(a, b) _mm512_add_ps(a, b)
#define VF_SUB(a, b) _mm512_sub_ps(a, b)
#define VF_MUL(a, b) _mm512_mul_ps(a, b)
#define VF_DIV(a, b) _mm512_div_ps(a, b)
#define VF_FMA(a, b, c) _mm512_fmadd_ps(a, b, c) /* a*b + c */
#define VF_FNMA(a, b, c) _mm512_fnmadd_ps(a, b, c) /* c - a*b */
#define VF_MAX(a, b) _mm512_max_ps(a, b)
#define VF_MIN(a, b) _mm512_min_ps(a, b)
#define VF_ROUND(a) _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VF_FROM_INT(a) _mm512_cvtepi32_ps(a)
#define VI_FROM_FLOAT(a) _mm512_cvtps_epi32(a) /* to nearest */
#define VF_OF_BITS(a) _mm512_castsi512_ps(a)
#define VF_ABS(a) _mm512_abs_ps(a)
#define VI_OF_BITS(a) _mm512_castps_si512(a)

#define VI_ZERO() _mm512_setzero_si512()
#define VI_SET1(x) _mm512_set1_epi32(x)
#define VI_LOAD(p) _mm512_loadu_si512(p)
#define VI_STORE(p, x) _mm512_storeu_si512(p, x)
#define VI_ADD(a, b) _mm512_add_epi32(a, b)
#define VI_AND(a, b) _mm512_and_si512(a, b)
#define VI_OR(a, b) _mm512_or_si512(a, b)
#define VI_SHL(a, n) _mm512_slli_epi32(a, n)
#define VI_SHR(a, n) _mm512_srli_epi32(a, n)
/* (a & m) | (b & ~m), one instruction here */
#define VI_SELECT(m, a, b) _mm512_ternarylogic_epi32(m, a, b, 0xca)

ATTN_INLINE float vf_hmax(vf a)
{
    return _mm512_reduce_max_ps(a);
}

ATTN_INLINE float vf_hsum(vf a)
{
    return _mm512_reduce_add_ps(a);
}

/* -inf in lanes whose number (from `at`) is outside [lo, hi). */
ATTN_INLINE vf vf_outside(vf a, int32_t at, int32_t lo, int32_t hi)
{
    __m512i lane = _mm512_add_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
        _mm512_set1_epi32(at));
    __mmask16 in = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(lo)) &
                   _mm512_cmplt_epi32_mask(lane, _mm512_set1_epi32(hi));
    return _mm512_mask_blend_ps(in, _mm512_set1_ps(-__builtin_inff()), a);
}

/* acc += four products of neighbouring bytes: a unsigned, b signed. */
ATTN_INLINE vi vi_dot_bytes(vi acc, vi a_u8, vi b_s8)
{
    return _mm512_dpbusd_epi32(acc, a_u8, b_s8);
}

/* acc += two products of neighbouring 16-bit numbers. */
ATTN_INLINE vi vi_dot_words(vi acc, vi a, vi b)
{
    return _mm512_dpwssd_epi32(acc, a, b);
}

/* Stores VL integers as bytes (-128..255 taken modulo 256). */
ATTN_INLINE void vi_store_bytes(void *dst, vi a)
{
    _mm_storeu_si128((__m128i *)dst, _mm512_cvtepi32_epi8(a));
}

#else

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vi;

#define VF_ZERO() _mm256_setzero_ps()
#define VF_SET1(x) _mm256_set1_ps(x)
#define VF_LOAD(p) _mm256_loadu_ps(p)
#define VF_STORE(p, x) _mm256_storeu_ps(p, x)
#define VF_HALF(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define VF_ADD(a, b) _mm256_add_ps(a, b)
#define VF_SUB(a, b) _mm256_sub_ps(a, b)
#define VF_MUL(a, b) _mm256_mul_ps(a, b)
#define VF_DIV(a, b) _mm256_div_ps(a, b)
#define VF_FMA(a, b, c) _mm256_fmadd_ps(a, b, c) /* a*b + c */
#define VF_FNMA(a, b, c) _mm256_fnmadd_ps(a, b, c) /* c - a*b */
#define VF_MAX(a, b) _mm256_max_ps(a, b)
#define VF_MIN(a, b) _mm256_min_ps(a, b)
#define VF_ROUND(a) _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
#define VF_FROM_INT(a) _mm256_cvtepi32_ps(a)
#define VI_FROM_FLOAT(a) _mm256_cvtps_epi32(a) /* to nearest */
#define VF_OF_BITS(a) _mm256_castsi256_ps(a)
#define VF_ABS(a) _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a)
#define VI_OF_BITS(a) _mm256_castps_si256(a)

#define VI_ZERO() _mm256_setzero_si256()
#define VI_SET1(x) _mm256_set1_epi32(x)
#define VI_LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define VI_STORE(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define VI_ADD(a, b) _mm256_add_epi32(a, b)
#define VI_AND(a, b) _mm256_and_si256(a, b)
#define VI_OR(a, b) _mm256_or_si256(a, b)
#define VI_SHL(a, n) _mm256_slli_epi32(a, n)
#define VI_SHR(a, n) _mm256_srli_epi32(a, n)
/* (a & m) | (b & ~m) */
#define VI_SELECT(m, a, b) _mm256_or_si256(_mm256_and_si256(m, a), _mm256_andnot_si256(m, b))

ATTN_INLINE float vf_hmax(vf a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

ATTN_INLINE float vf_hsum(vf a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

/* -inf in lanes whose number (from `at`) is outside [lo, hi). */
ATTN_INLINE vf vf_outside(vf a, int32_t at, int32_t lo, int32_t hi)
{
    __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(at));
    __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane),
                                  _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(hi - 1)));
    return _mm256_blendv_ps(a, _mm256_set1_ps(-__builtin_inff()), _mm256_castsi256_ps(out));
}

/* acc += four products of neighbouring bytes: a unsigned, b signed; |a0*b0 + a1*b1| < 2^15. */
ATTN_INLINE vi vi_dot_bytes(vi acc, vi a_u8, vi b_s8)
{
    __m256i pairs = _mm256_maddubs_epi16(a_u8, b_s8);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* acc += two products of neighbouring 16-bit numbers. */
ATTN_INLINE vi vi_dot_words(vi acc, vi a, vi b)
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b));
}

/* Stores VL integers as bytes (-128..255 taken modulo 256). */
ATTN_INLINE void vi_store_bytes(void *dst, vi a)
{
    __m256i low = _mm256_shuffle_epi8(
        a, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                            -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    _mm_storel_epi64((__m128i *)dst,
                     _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}

#endif

/* 2^x for x < 127; 0 from -126.5 down; exact for x = 0. Relative error under 2e-7: 2^round(x) times a
 * polynomial that is nearest in relative terms on [-0.5, 0.5]. */
ATTN_INLINE vf vf_exp2(vf x)
{
    x = VF_MAX(x, VF_SET1(-127.0f));
    /* Added to 1.5 * 2^23 a number is rounded, and its integer lies in the lowest bits. */
    const vf middle = VF_SET1(0x1.8p23f + 127);
    vf t = VF_ADD(x, middle), f = VF_SUB(x, VF_SUB(t, middle));
    vf y = VF_SET1(1.32647238e-3f);
    y = VF_FMA(y, f, VF_SET1(9.67151299e-3f));
    y = VF_FMA(y, f, VF_SET1(5.55073358e-2f));
    y = VF_FMA(y, f, VF_SET1(2.40222424e-1f));
    y = VF_FMA(y, f, VF_SET1(6.93147004e-1f));
    y = VF_FMA(y, f, VF_SET1(1.0f));
    return VF_MUL(y, VF_OF_BITS(VI_SHL(VI_OF_BITS(t), 23)));
}

/* log2 of x > 0, normal: absolute error under 3e-7 where it is small. x = 2^n * m with m around 1,
 * log2(m) by the series of atanh((m - 1) / (m + 1)). */
ATTN_INLINE vf vf_log2(vf x)
{
    const int32_t half_root = 0x3f3504f3; /* sqrt(1/2), where m begins */
    vi bits = VI_ADD(VI_OF_BITS(x), VI_SET1(0x3f800000 - half_root));
    vf n = VF_FROM_INT(VI_ADD(VI_SHR(bits, 23), VI_SET1(-127)));
    vf m = VF_OF_BITS(VI_ADD(VI_AND(bits, VI_SET1(0x007fffff)), VI_SET1(half_root)));
    vf t = VF_DIV(VF_SUB(m, VF_SET1(1.0f)), VF_ADD(m, VF_SET1(1.0f))), tt = VF_MUL(t, t);
    vf y = VF_SET1(4.1219859e-1f); /* 2 / ln 2 over 7, 5, 3, 1 */
    y = VF_FMA(y, tt, VF_SET1(5.7707802e-1f));
    y = VF_FMA(y, tt, VF_SET1(9.6179669e-1f));
    y = VF_FMA(y, tt, VF_SET1(2.8853901f));
    return VF_FMA(y, t, n);
}

/* tanh through 2^x: absolute error under 2e-7. */
ATTN_INLINE vf vf_tanh(vf x)
{
    vf e = vf_exp2(VF_MUL(VF_ABS(x), VF_SET1(-2.885390082f))); /* e^(-2|x|) */
    vf t = VF_DIV(VF_SUB(VF_SET1(1.0f), e), VF_ADD(VF_SET1(1.0f), e));
    vi sign = VI_SET1((int)0x80000000u);
#if defined(__AVX512F__)
    return VF_OF_BITS(VI_SELECT(sign, _mm512_castps_si512(x), _mm512_castps_si512(t)));
#else
    return VF_OF_BITS(VI_SELECT(sign, _mm256_castps_si256(x), _mm256_castps_si256(t)));
#endif
}

#endif
