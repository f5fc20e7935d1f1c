/* Sealing: f16 rows to 8-bit codes to planes, with clip search and least-squares refit.
 *
 * Each group is mapped to 0..32767 between its extremes first; from there on all sums are of
 * integers, so that they are exact, vectorise freely and give the same page on every machine. For
 * a target below 8 bits the 8-bit grid is searched whose top bits, refitted, err least; its lower
 * bits are not stored. This source is compiled plainly, for AVX2 and for AVX-512 (cpu/page_avx*.c). */
#ifndef KERNELS_PAGE_SEAL_H
#define KERNELS_PAGE_SEAL_H

#include <math.h>
#include <stdbool.h>
#include <string.h>
#if defined(__AVX512BW__) && !defined(SEAL_GROUPS_ONLY)
#include <immintrin.h>
#define SEAL_AVX512 1
#endif

#include "kernels/page.h"
#include "kernels/page_rotate.h"

#ifndef SEAL_FN /* what the functions of a group are declared with: elsewhere for a device too */
#define SEAL_FN static
#define SEAL_INLINE static inline __attribute__((always_inline))
#define SEAL_TABLE static const
#endif

#define FIXED_MAX 32767

/* Widths of the grid tried, as parts of the full range, for targets below 8 bits. */
SEAL_TABLE float clip_width[] = {1.0f, 0.88f, 0.76f, 0.64f, 0.52f};
enum { N_CLIP = sizeof clip_width / sizeof clip_width[0], N_REFINE = 2 };

/* One group on its way: n values, the first n_skip of them coded but not counted. */
struct group {
    int32_t n, n_skip;
    float lo, step;            /* x = lo + step * fixed */
    int16_t fixed[PAGE_GROUP];
    int16_t codes[PAGE_GROUP]; /* 8 bits */
    double sum, sum_sq;        /* of fixed, counted ones */
    double inv_n, var;         /* 1 / counted ones; their number * sum_sq - sum * sum */
};

/* What a grid gives at one depth: fixed = intercept + slope * (code >> drop). */
struct fit {
    double slope, intercept, err; /* err: sum of squares in fixed units */
};

/* f16 to float by exponent arithmetic; infinities become the largest number, NaN becomes 0. */
SEAL_FN void half_to_float(const uint16_t *h, float *x, int32_t n)
{
    int32_t i = 0;
#ifdef SEAL_AVX512
    for (; i + 32 <= n; i += 32) {
        __m512i all = _mm512_loadu_si512(h + i);
        __m512i mag = _mm512_and_si512(all, _mm512_set1_epi16(0x7fff));
        __mmask32 number = _mm512_cmple_epu16_mask(mag, _mm512_set1_epi16(0x7c00));
        mag = _mm512_maskz_min_epu16(number, mag, _mm512_set1_epi16(0x7bff));
        mag = _mm512_or_si512(mag, _mm512_andnot_si512(_mm512_set1_epi16(0x7fff), all));
        _mm512_storeu_ps(x + i, _mm512_cvtph_ps(_mm512_castsi512_si256(mag)));
        _mm512_storeu_ps(x + i + 16, _mm512_cvtph_ps(_mm512_extracti64x4_epi64(mag, 1)));
    }
#endif
    for (; i < n; i++) {
        uint32_t mag = h[i] & 0x7fffu;
        mag = mag > 0x7c00 ? 0 : mag;
        mag = mag > 0x7bff ? 0x7bff : mag;
        union {
            uint32_t u;
            float f;
        } y = {mag << 13}, two112 = {0x77800000u};
        y.f *= two112.f;
        y.u |= (h[i] & 0x8000u) << 16;
        x[i] = y.f;
    }
}

/* Floats in the order of integers: compares of integers vectorise without leave to reorder. */
SEAL_INLINE int32_t float_rank(float x)
{
    union {
        float f;
        int32_t i;
    } y = {x};
    return y.i ^ (y.i >> 31 & 0x7fffffff);
}

SEAL_INLINE float rank_float(int32_t r)
{
    union {
        int32_t i;
        float f;
    } y = {r ^ (r >> 31 & 0x7fffffff)};
    return y.f;
}

SEAL_INLINE void group_load_n(struct group *g, float *x, int32_t n, int32_t n_skip)
{
    int32_t lo_rank = INT32_MAX, hi_rank = INT32_MIN;
    for (int32_t i = 0; i < n_skip; i++)
        x[i] = x[n_skip + i % 4]; /* for the range; their codes are never read */
    for (int32_t i = 0; i < n; i++) {
        int32_t r = float_rank(x[i]);
        lo_rank = r < lo_rank ? r : lo_rank;
        hi_rank = r > hi_rank ? r : hi_rank;
    }
    float lo = rank_float(lo_rank), hi = rank_float(hi_rank);
    float inv = hi > lo ? FIXED_MAX / (hi - lo) : 0;
    if (!(inv < 1e30f)) /* a range of almost nothing is a constant */
        inv = 0;
    g->n = n;
    g->n_skip = n_skip;
    g->lo = lo;
    g->step = inv > 0 ? (hi - lo) / FIXED_MAX : 0;
    int32_t sum = 0, low = 0, high = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t f = (int32_t)((x[i] - lo) * inv + 0.5f);
        g->fixed[i] = (int16_t)(f > FIXED_MAX ? FIXED_MAX : f);
    }
    /* squares of 15 bits summed as products with their low 8 and high 7 bits: both fit 32 bits */
    for (int32_t i = 0; i < n; i++) {
        int16_t f = g->fixed[i];
        sum += f;
        low += f * (int16_t)(f & 255);
        high += f * (int16_t)(f >> 8);
    }
    g->sum = sum;
    g->sum_sq = (double)low + 256.0 * high;
    for (int32_t i = 0; i < n_skip; i++) {
        g->sum -= g->fixed[i];
        g->sum_sq -= (double)g->fixed[i] * g->fixed[i];
    }
    double m = n - n_skip;
    g->inv_n = 1 / m;
    g->var = m * g->sum_sq - g->sum * g->sum;
}

/* x is overwritten where it is skipped. */
SEAL_FN void group_load(struct group *g, float *x, int32_t n, int32_t n_skip)
{
    if (n == PAGE_GROUP) /* the constant lets the compiler unroll */
        group_load_n(g, x, PAGE_GROUP, n_skip);
    else
        group_load_n(g, x, n, n_skip);
}

/* 8-bit codes of a grid: cell i of 256 covers [at + i*cell, at + (i+1)*cell); cell >= 1. */
SEAL_INLINE void group_code_n(const struct group *g, float at, float cell, int16_t *codes,
                              int32_t n)
{
    float inv = 1.0f / cell;
    for (int32_t i = 0; i < n; i++) {
        int32_t c = (int32_t)(((float)g->fixed[i] - at) * inv);
        c = c < 0 ? 0 : c;
        codes[i] = (int16_t)(c > 255 ? 255 : c);
    }
}

SEAL_FN void group_code(const struct group *g, float at, float cell, int16_t *codes)
{
    if (g->n == PAGE_GROUP)
        group_code_n(g, at, cell, codes, PAGE_GROUP);
    else
        group_code_n(g, at, cell, codes, g->n);
}

/* Of codes without their last bits: their sum, that of their squares and of their products with fixed. */
struct cut_sums {
    int32_t c, cc, xc; /* at most 64 * 255 * 32767 */
};

SEAL_INLINE struct cut_sums sums_of_n(const int16_t *fixed, const int16_t *codes, int32_t drop, int32_t n)
{
    struct cut_sums s = {0, 0, 0};
    for (int32_t i = 0; i < n; i++) {
        int16_t cut = (int16_t)(codes[i] >> drop);
        s.c += cut;
        s.cc += cut * cut;
        s.xc += fixed[i] * cut;
    }
    return s;
}

/* The same for a whole group. Compilers take three instructions and half a vector for what is one
 * here. */
#ifdef SEAL_AVX512
/* The sums of the lanes of each. */
SEAL_INLINE __m128i sum_4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    const __m512i v[4] = {a, b, c, d};
    __m256i half[4];
    for (int i = 0; i < 4; i++)
        half[i] = _mm256_add_epi32(_mm512_castsi512_si256(v[i]),
                                   _mm512_extracti64x4_epi64(v[i], 1));
    __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(half[0], half[1]),
                                    _mm256_hadd_epi32(half[2], half[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

/* Addends of cut_sums. */
struct cut_lanes {
    __m512i c, cc, xc;
};

SEAL_INLINE struct cut_lanes lanes_of_group(const int16_t *fixed, const int16_t *codes,
                                            int32_t drop)
{
    const __m128i by = _mm_cvtsi32_si128(drop);
    __m512i a = _mm512_sra_epi16(_mm512_loadu_si512(codes), by);
    __m512i b = _mm512_sra_epi16(_mm512_loadu_si512(codes + 32), by);
    return (struct cut_lanes){
        _mm512_madd_epi16(_mm512_add_epi16(a, b), _mm512_set1_epi16(1)),
        _mm512_add_epi32(_mm512_madd_epi16(a, a), _mm512_madd_epi16(b, b)),
        _mm512_add_epi32(_mm512_madd_epi16(a, _mm512_loadu_si512(fixed)),
                         _mm512_madd_epi16(b, _mm512_loadu_si512(fixed + 32)))};
}

SEAL_INLINE struct cut_sums sums_of_group(const int16_t *fixed, const int16_t *codes, int32_t drop)
{
    struct cut_lanes l = lanes_of_group(fixed, codes, drop);
    __m128i s = sum_4(l.c, l.cc, l.xc, l.xc);
    return (struct cut_sums){_mm_cvtsi128_si32(s), _mm_extract_epi32(s, 1),
                             _mm_extract_epi32(s, 2)};
}
#else
SEAL_INLINE struct cut_sums sums_of_group(const int16_t *fixed, const int16_t *codes, int32_t drop)
{
    return sums_of_n(fixed, codes, drop, PAGE_GROUP);
}
#endif

SEAL_INLINE struct fit group_fit_n(const struct group *g, const int16_t *codes, int32_t drop,
                                   int32_t n)
{
    struct cut_sums s = n == PAGE_GROUP ? sums_of_group(g->fixed, codes, drop)
                                        : sums_of_n(g->fixed, codes, drop, n);
    int32_t c = s.c, cc = s.cc, xc = s.xc;
    for (int32_t i = 0; i < g->n_skip; i++) {
        int32_t cut = codes[i] >> drop;
        c -= cut;
        cc -= cut * cut;
        xc -= g->fixed[i] * cut;
    }
    double m = n - g->n_skip;
    double var = m * cc - (double)c * c, cov = m * xc - g->sum * c;
    struct fit f = {0, g->sum * g->inv_n, g->var * g->inv_n};
    if (var > 0 && cov > 0) {
        f.slope = cov / var;
        f.intercept = (g->sum - f.slope * c) * g->inv_n;
        double left = g->var - f.slope * cov;
        f.err = left > 0 ? left * g->inv_n : 0;
    }
    return f;
}

SEAL_INLINE struct fit group_fit(const struct group *g, const int16_t *codes, int32_t drop)
{
    return g->n == PAGE_GROUP ? group_fit_n(g, codes, drop, PAGE_GROUP)
                              : group_fit_n(g, codes, drop, g->n);
}

/* Codes of a grid that is narrower than the full range, centred between its middle and the mean. */
SEAL_FN void group_code_width(const struct group *g, float width, int16_t *codes)
{
    float mean = (float)(g->sum * g->inv_n), mid = FIXED_MAX / 2.0f;
    float centre = width * mid + (1 - width) * mean;
    group_code(g, centre - width * FIXED_MAX / 2, width * FIXED_MAX / 256, codes);
}

/* All 8 bits: 255 steps from end to end, rounding to the nearest: cells are around the levels. */
SEAL_FN void group_code_all(struct group *g)
{
    float cell = FIXED_MAX / 255.0f;
    group_code(g, -cell / 2, cell, g->codes);
}

/* Cells around the levels of a fit; false when they would be finer than what is coded. */
SEAL_FN bool group_code_fit(const struct group *g, const struct fit *f, int32_t drop,
                            int16_t *codes)
{
    float cell = (float)(f->slope / (1 << drop));
    if (cell < 1)
        return false;
    group_code(g, (float)(f->intercept - f->slope / 2), cell, codes);
    return true;
}

/* Chooses the codes for a target depth; leaves them in g->codes. */
SEAL_FN struct fit group_search(struct group *g, int32_t bits)
{
    int32_t drop = 8 - bits;
    int16_t codes[PAGE_GROUP];
    if (drop == 0) {
        group_code_all(g);
        return group_fit(g, g->codes, 0);
    }
    struct fit best = {0, 0, INFINITY};
    for (int32_t i = 0; i < N_CLIP; i++) {
        group_code_width(g, clip_width[i], codes);
        struct fit f = group_fit(g, codes, drop);
        if (f.err >= best.err)
            break; /* one valley: narrower grids only clip more */
        best = f;
        memcpy(g->codes, codes, sizeof codes);
    }
    /* Cells around the refitted levels, and again: each round is kept only if it helps. */
    for (int32_t i = 0; i < N_REFINE && group_code_fit(g, &best, drop, codes); i++) {
        struct fit f = group_fit(g, codes, drop);
        if (f.err >= best.err)
            break;
        best = f;
        memcpy(g->codes, codes, sizeof codes);
    }
    return best;
}

SEAL_FN uint16_t half_finite(double x)
{
    x = x > -65504 ? x : -65504;
    return kern_f32_to_f16((float)(x < 65504 ? x : 65504));
}

/* Running totals of a tensor: squared error at 2, 4, 6, 8 bits, and of the values themselves. */
struct totals {
    double err[PAGE_DEPTHS], x_sq;
    int64_t n;
};

/* Writes scale and lo of a coded group, adds to the totals. err: at 2, 4, 6, 8 bits, up to its own. */
SEAL_FN void group_store(const struct group *g, int32_t bits, const struct fit *f,
                         const double *err, uint16_t *scale, uint16_t *lo, struct totals *tot)
{
    double step = g->step;
    *scale = half_finite(f->slope * step);
    /* lo takes up what rounding the scale moved, at the mean code */
    double n = g->n - g->n_skip;
    double mean = g->sum * g->inv_n;
    double mean_code = f->slope > 0 ? (mean - f->intercept) / f->slope : 0;
    *lo = half_finite(g->lo + mean * step - kern_f16_to_f32(*scale) * mean_code);
    for (int32_t i = 0; i < bits / 2; i++)
        tot->err[i] += err[i] * step * step;
    tot->x_sq += n * (double)g->lo * g->lo + 2 * g->lo * step * g->sum + step * step * g->sum_sq;
    tot->n += (int64_t)n;
}

/* Codes one group into g->codes, writes its scale and lo, adds to the totals. */
SEAL_FN void group_seal(struct group *g, int32_t bits, uint16_t *scale, uint16_t *lo,
                       struct totals *tot)
{
    struct fit f = group_search(g, bits);
    double err[PAGE_DEPTHS];
    for (int32_t i = 0; i < bits / 2; i++)
        err[i] = 2 * i + 2 == bits ? f.err : group_fit(g, g->codes, 6 - 2 * i).err;
    group_store(g, bits, &f, err, scale, lo, tot);
}

SEAL_FN float totals_store(const struct totals *t, int32_t bits, uint16_t *err)
{
    for (int32_t i = 0; i < PAGE_DEPTHS; i++) {
        double rel = t->x_sq > 0 ? sqrt(t->err[i] / t->x_sq) : 0;
        err[i] = i < bits / 2 ? half_finite(rel) : 0x7e00;
    }
    return (float)sqrt(fmax(0.0, t->x_sq) / (double)(t->n > 0 ? t->n : 1));
}

#ifndef SEAL_GROUPS_ONLY

/* ---- four groups side by side ---- */

enum { SIDE = 4 };

#ifdef SEAL_AVX512
/* group_fit of whole groups. One waits for its sums and its division: four take little longer. */
static void side_fit(const struct group *g, int16_t (*codes)[PAGE_GROUP], int32_t drop,
                     struct fit *ret)
{
    struct cut_lanes l[SIDE];
    for (int i = 0; i < SIDE; i++)
        l[i] = lanes_of_group(g[i].fixed, codes[i], drop);
    __m256d c = _mm256_cvtepi32_pd(sum_4(l[0].c, l[1].c, l[2].c, l[3].c));
    __m256d cc = _mm256_cvtepi32_pd(sum_4(l[0].cc, l[1].cc, l[2].cc, l[3].cc));
    __m256d xc = _mm256_cvtepi32_pd(sum_4(l[0].xc, l[1].xc, l[2].xc, l[3].xc));
    __m256d sum = _mm256_setr_pd(g[0].sum, g[1].sum, g[2].sum, g[3].sum);
    __m256d all = _mm256_setr_pd(g[0].var, g[1].var, g[2].var, g[3].var);
    __m256d n = _mm256_set1_pd(PAGE_GROUP), inv_n = _mm256_set1_pd(1.0 / PAGE_GROUP);
    __m256d none = _mm256_setzero_pd();
    __m256d var = _mm256_sub_pd(_mm256_mul_pd(n, cc), _mm256_mul_pd(c, c));
    __m256d cov = _mm256_sub_pd(_mm256_mul_pd(n, xc), _mm256_mul_pd(sum, c));
    __mmask8 fits = _mm256_cmp_pd_mask(var, none, _CMP_GT_OQ);
    fits = _mm256_mask_cmp_pd_mask(fits, cov, none, _CMP_GT_OQ);
    /* A slope of 0 leaves the mean, and all of the variance. */
    __m256d slope = _mm256_maskz_div_pd(fits, cov, var);
    __m256d left = _mm256_sub_pd(all, _mm256_mul_pd(slope, cov));
    __m256d at[3] = {slope, _mm256_mul_pd(_mm256_sub_pd(sum, _mm256_mul_pd(slope, c)), inv_n),
                     _mm256_mul_pd(_mm256_max_pd(left, none), inv_n)};
    double out[3][SIDE];
    for (int i = 0; i < 3; i++)
        _mm256_storeu_pd(out[i], at[i]);
    for (int i = 0; i < SIDE; i++)
        ret[i] = (struct fit){out[0][i], out[1][i], out[2][i]};
}

/* A round of the search: who is still on and errs less takes the new codes. False: none is left. */
static bool side_round(struct group *g, int16_t (*codes)[PAGE_GROUP], int32_t drop, bool *on,
                       struct fit *best)
{
    struct fit f[SIDE];
    bool any = false;
    side_fit(g, codes, drop, f);
    for (int i = 0; i < SIDE; i++) {
        on[i] = on[i] && f[i].err < best[i].err;
        if (on[i]) {
            best[i] = f[i];
            memcpy(g[i].codes, codes[i], sizeof g[i].codes);
        }
        any |= on[i];
    }
    return any;
}

/* group_search of each, step by step. */
static void side_search(struct group *g, int32_t drop, struct fit *best)
{
    int16_t codes[SIDE][PAGE_GROUP];
    bool on[SIDE], any = true;
    for (int i = 0; i < SIDE; i++) {
        best[i] = (struct fit){0, 0, INFINITY};
        on[i] = true;
    }
    for (int32_t w = 0; w < N_CLIP && any; w++) {
        for (int i = 0; i < SIDE; i++)
            group_code_width(&g[i], clip_width[w], codes[i]);
        any = side_round(g, codes, drop, on, best);
    }
    memset(on, true, sizeof on);
    any = true;
    for (int32_t r = 0; r < N_REFINE && any; r++) {
        for (int i = 0; i < SIDE; i++)
            on[i] = on[i] && group_code_fit(&g[i], &best[i], drop, codes[i]);
        any = side_round(g, codes, drop, on, best);
    }
}

/* group_seal of each, in order; they are whole. */
static void side_seal_whole(struct group *g, int32_t bits, uint16_t *const *scale,
                            uint16_t *const *lo, struct totals *const *tot)
{
    struct fit best[SIDE], at[SIDE];
    double err[SIDE][PAGE_DEPTHS];
    int16_t codes[SIDE][PAGE_GROUP];
    int32_t last = bits / 2 - 1;
    if (bits < 8)
        side_search(g, 8 - bits, best);
    for (int i = 0; i < SIDE; i++) {
        if (bits == 8)
            group_code_all(&g[i]);
        memcpy(codes[i], g[i].codes, sizeof codes[i]);
    }
    if (bits == 8)
        side_fit(g, codes, 0, best);
    for (int32_t d = 0; d < last; d++) {
        side_fit(g, codes, 6 - 2 * d, at);
        for (int i = 0; i < SIDE; i++)
            err[i][d] = at[i].err;
    }
    for (int i = 0; i < SIDE; i++) {
        err[i][last] = best[i].err;
        group_store(&g[i], bits, &best[i], err[i], scale[i], lo[i], tot[i]);
    }
}
#endif

/* group_seal of each, in order. */
static void side_seal(struct group *g, int32_t bits, uint16_t *const *scale, uint16_t *const *lo,
                      struct totals *const *tot)
{
#ifdef SEAL_AVX512
    bool whole = true;
    for (int i = 0; i < SIDE; i++)
        whole = whole && g[i].n == PAGE_GROUP && g[i].n_skip == 0;
    if (whole) {
        side_seal_whole(g, bits, scale, lo, tot);
        return;
    }
#endif
    for (int i = 0; i < SIDE; i++)
        group_seal(&g[i], bits, scale[i], lo[i], tot[i]);
}

/* ---- pages ---- */

/* Packs 16 rows of 16 lanes of 8-bit codes into one line of each of the top n_plane planes. */
#ifdef SEAL_AVX512
static void pack_tile(const uint8_t *codes, size_t stride, int32_t n_plane, uint8_t *const *plane,
                      size_t line)
{
    __m512i row[16], three = _mm512_set1_epi32(3);
    for (int r = 0; r < 16; r++)
        row[r] = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(codes + (size_t)r * stride)));
    for (int32_t i = 0; i < n_plane; i++) {
        __m512i word = _mm512_setzero_si512();
        __m128i down = _mm_cvtsi32_si128(6 - 2 * i);
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            __m512i bits = _mm512_and_si512(_mm512_srl_epi32(row[r], down), three);
            word = _mm512_or_si512(word, _mm512_slli_epi32(bits, 2 * (r / 4) + 8 * (r % 4)));
        }
        _mm512_storeu_si512(plane[i] + line, word);
    }
}
#else
static void pack_tile(const uint8_t *codes, size_t stride, int32_t n_plane, uint8_t *const *plane,
                      size_t line)
{
    uint32_t word[PAGE_PLANES][16] = {{0}};
    for (int32_t r = 0; r < 16; r++) {
        int32_t up = 2 * (r / 4) + 8 * (r % 4);
        for (int32_t l = 0; l < 16; l++) {
            uint32_t c = codes[r * stride + l];
            word[0][l] |= (c >> 6) << up;
            word[1][l] |= (c >> 4 & 3) << up;
            word[2][l] |= (c >> 2 & 3) << up;
            word[3][l] |= (c & 3) << up;
        }
    }
    for (int32_t i = 0; i < n_plane; i++)
        memcpy(plane[i] + line, word[i], sizeof word[i]);
}
#endif

static void seal_k(struct kern_page *p, int32_t n_skip, const uint16_t *k, uint8_t *const *plane)
{
    int32_t d = p->head_dim;
    uint16_t *scale = (uint16_t *)((uint8_t *)p + page_scale_k_at(d));
    struct totals tot = {{0}, 0, 0};
    for (int32_t ct = 0; ct < d / 16; ct++) {
        uint8_t codes[16][PAGE_TOK];
        for (int32_t r = 0; r < 16; r += SIDE) {
            uint16_t *at = scale + ct * 16 + r, *scales[SIDE], *los[SIDE];
            struct group g[SIDE];
            struct totals *tots[SIDE];
            for (int32_t i = 0; i < SIDE; i++) {
                float x[PAGE_TOK];
                half_to_float(k + (size_t)(ct * 16 + r + i) * PAGE_TOK, x, PAGE_TOK);
                group_load(&g[i], x, PAGE_TOK, n_skip);
                scales[i] = at + i;
                los[i] = at + d + i;
                tots[i] = &tot;
            }
            side_seal(g, p->bits_k, scales, los, tots);
            for (int32_t i = 0; i < SIDE; i++)
                for (int32_t t = 0; t < PAGE_TOK; t++)
                    codes[r + i][t] = (uint8_t)g[i].codes[t];
        }
        for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
            pack_tile(codes[0] + tt * 16, PAGE_TOK, p->bits_k / 2, plane,
                      (size_t)tt * 4 * d + (size_t)ct * 64);
        }
    }
    p->rms_k = totals_store(&tot, p->bits_k, p->err_k);
}

static void seal_v(struct kern_page *p, int32_t n_skip, const uint16_t *v, uint8_t *const *plane)
{
    int32_t d = p->head_dim, n_group = page_n_group(d);
    uint16_t *scale = (uint16_t *)((uint8_t *)p + page_scale_v_at(d));
    uint16_t *lo = scale + PAGE_TOK * n_group;
    struct totals tot = {{0}, 0, 0}, skipped = {{0}, 0, 0};
    for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
        uint8_t codes[16][PAGE_HEAD_DIM_MAX];
        float x[16][PAGE_HEAD_DIM_MAX];
        for (int32_t r = 0; r < 16; r++) {
            half_to_float(v + (size_t)(tt * 16 + r) * d, x[r], d);
            if (p->flags & PAGE_V_ROTATED)
                page_rotate_row(x[r], d);
        }
        for (int32_t first = 0; first < 16 * n_group; first += SIDE) { /* token by token */
            uint16_t *scales[SIDE], *los[SIDE];
            struct group g[SIDE];
            struct totals *tots[SIDE];
            for (int32_t i = 0; i < SIDE; i++) {
                int32_t r = (first + i) / n_group, j = (first + i) % n_group, t = tt * 16 + r;
                int32_t c0 = j * PAGE_GROUP, n = d - c0 < PAGE_GROUP ? d - c0 : PAGE_GROUP;
                group_load(&g[i], x[r] + c0, n, 0);
                scales[i] = &scale[j * PAGE_TOK + t];
                los[i] = &lo[j * PAGE_TOK + t];
                tots[i] = t < n_skip ? &skipped : &tot;
            }
            side_seal(g, p->bits_v, scales, los, tots);
            for (int32_t i = 0; i < SIDE; i++) {
                int32_t c0 = (first + i) % n_group * PAGE_GROUP;
                for (int32_t c = 0; c < g[i].n; c++)
                    codes[(first + i) / n_group][c0 + c] = (uint8_t)g[i].codes[c];
            }
        }
        for (int32_t ct = 0; ct < d / 16; ct++) {
            pack_tile(codes[0] + ct * 16, PAGE_HEAD_DIM_MAX, p->bits_v / 2, plane,
                      (size_t)tt * 4 * d + (size_t)ct * 64);
        }
    }
    p->rms_v = totals_store(&tot, p->bits_v, p->err_v);
}

static void seal_page(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                      int32_t n_skip, const uint16_t *k, const uint16_t *v)
{
    memset(ret, 0, page_base_size(shape));
    ret->magic = PAGE_MAGIC;
    ret->version = PAGE_VERSION;
    ret->flags = (uint16_t)(shape->bits_v > 0 ? flags : 0);
    ret->size_bytes = (uint32_t)page_size(shape);
    ret->head_dim = (uint16_t)shape->head_dim;
    ret->bits_k = (uint8_t)shape->bits_k;
    ret->bits_v = (uint8_t)shape->bits_v;
    ret->n_skip = (uint8_t)n_skip;
    uint8_t *plane_k[PAGE_PLANES] = {0}, *plane_v[PAGE_PLANES] = {0};
    for (int32_t i = 0; i < PAGE_PLANES; i++) {
        plane_k[i] = (uint8_t *)ret + page_plane_at(shape, PAGE_K, i);
        plane_v[i] = (uint8_t *)ret + page_plane_at(shape, PAGE_V, i);
    }
    seal_k(ret, n_skip, k, plane_k);
    if (shape->bits_v > 0) {
        seal_v(ret, n_skip, v, plane_v);
    } else {
        memcpy(ret->err_v, ret->err_k, sizeof ret->err_v);
        ret->rms_v = ret->rms_k;
    }
}

#endif
#endif
