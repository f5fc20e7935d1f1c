/* Sealing: f16 rows to 8-bit codes to planes, with clip search and least-squares refit.
 *
 * Each group is mapped to 0..32767 between its extremes first; from there on all sums are of
 * integers, so that they are exact, vectorise freely and give the same page on every machine. For
 * a target below 8 bits the 8-bit grid is searched whose top bits, refitted, err least; its lower
 * bits are not stored. This source is compiled plainly, for AVX2 and for AVX-512 (cpu/page_avx*.c). */
#ifndef KERNELS_PAGE_SEAL_H
#define KERNELS_PAGE_SEAL_H

#include <math.h>
#include <string.h>
#if defined(__AVX512BW__)
#include <immintrin.h>
#endif

#include "kernels/page.h"

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
    for (int32_t i = 0; i < n; i++) {
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

/* The same for a whole group. Compilers take three instructions and half a vector for what is one here. */
#if defined(__AVX512BW__) && !defined(SEAL_GROUPS_ONLY)
SEAL_INLINE struct cut_sums sums_of_group(const int16_t *fixed, const int16_t *codes, int32_t drop)
{
    const __m512i one = _mm512_set1_epi16(1);
    const __m128i by = _mm_cvtsi32_si128(drop);
    __m512i a = _mm512_sra_epi16(_mm512_loadu_si512(codes), by);
    __m512i b = _mm512_sra_epi16(_mm512_loadu_si512(codes + 32), by);
    __m512i xc = _mm512_add_epi32(_mm512_madd_epi16(a, _mm512_loadu_si512(fixed)),
                                  _mm512_madd_epi16(b, _mm512_loadu_si512(fixed + 32)));
    __m512i cc = _mm512_add_epi32(_mm512_madd_epi16(a, a), _mm512_madd_epi16(b, b));
    __m512i c = _mm512_madd_epi16(_mm512_add_epi16(a, b), one);
    return (struct cut_sums){_mm512_reduce_add_epi32(c), _mm512_reduce_add_epi32(cc),
                             _mm512_reduce_add_epi32(xc)};
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

/* Chooses the codes for a target depth; leaves them in g->codes. */
SEAL_FN struct fit group_search(struct group *g, int32_t bits)
{
    int32_t drop = 8 - bits;
    int16_t codes[PAGE_GROUP];
    if (drop == 0) {
        /* 255 steps from end to end, rounding to the nearest: cells are centred on the levels */
        float cell = FIXED_MAX / 255.0f;
        group_code(g, -cell / 2, cell, g->codes);
        return group_fit(g, g->codes, 0);
    }
    struct fit best = {0, 0, INFINITY};
    float mean = (float)(g->sum * g->inv_n), mid = FIXED_MAX / 2.0f;
    for (int32_t i = 0; i < N_CLIP; i++) {
        float width = clip_width[i] * FIXED_MAX;
        float centre = clip_width[i] * mid + (1 - clip_width[i]) * mean;
        group_code(g, centre - width / 2, width / 256, codes);
        struct fit f = group_fit(g, codes, drop);
        if (f.err >= best.err)
            break; /* one valley: narrower grids only clip more */
        best = f;
        memcpy(g->codes, codes, sizeof codes);
    }
    /* Cells around the refitted levels, and again: each round is kept only if it helps. */
    for (int32_t i = 0; i < N_REFINE; i++) {
        float cell = (float)(best.slope / (1 << drop));
        if (cell < 1)
            break;
        group_code(g, (float)(best.intercept - best.slope / 2), cell, codes);
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

/* Codes one group into g->codes, writes its scale and lo, adds to the totals. */
SEAL_FN void group_seal(struct group *g, int32_t bits, uint16_t *scale, uint16_t *lo,
                       struct totals *tot)
{
    struct fit f = group_search(g, bits);
    double step = g->step;
    *scale = half_finite(f.slope * step);
    /* lo takes up what rounding the scale moved, at the mean code */
    double n = g->n - g->n_skip;
    double mean = g->sum * g->inv_n;
    double mean_code = f.slope > 0 ? (mean - f.intercept) / f.slope : 0;
    *lo = half_finite(g->lo + mean * step - kern_f16_to_f32(*scale) * mean_code);
    for (int32_t i = 0; i < bits / 2; i++) {
        struct fit at = 2 * i + 2 == bits ? f : group_fit(g, g->codes, 6 - 2 * i);
        tot->err[i] += at.err * step * step;
    }
    tot->x_sq += n * (double)g->lo * g->lo + 2 * g->lo * step * g->sum + step * step * g->sum_sq;
    tot->n += (int64_t)n;
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

/* Packs 16 rows of 16 lanes of 8-bit codes into one line of each of the top n_plane planes. */
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

static void seal_k(struct kern_page *p, int32_t n_skip, const uint16_t *k, uint8_t *const *plane)
{
    int32_t d = p->head_dim;
    uint16_t *scale = (uint16_t *)((uint8_t *)p + page_scale_k_at(d));
    struct totals tot = {{0}, 0, 0};
    for (int32_t ct = 0; ct < d / 16; ct++) {
        uint8_t codes[16][PAGE_TOK];
        for (int32_t r = 0; r < 16; r++) {
            int32_t c = ct * 16 + r;
            float x[PAGE_TOK];
            struct group g;
            half_to_float(k + (size_t)c * PAGE_TOK, x, PAGE_TOK);
            group_load(&g, x, PAGE_TOK, n_skip);
            group_seal(&g, p->bits_k, &scale[c], &scale[d + c], &tot);
            for (int32_t t = 0; t < PAGE_TOK; t++)
                codes[r][t] = (uint8_t)g.codes[t];
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
        for (int32_t r = 0; r < 16; r++) {
            int32_t t = tt * 16 + r;
            float x[PAGE_HEAD_DIM_MAX];
            half_to_float(v + (size_t)t * d, x, d);
            if (p->flags & PAGE_V_ROTATED) {
                page_rotate(x, d);
            }
            for (int32_t i = 0; i < n_group; i++) {
                int32_t c0 = i * PAGE_GROUP, n = d - c0 < PAGE_GROUP ? d - c0 : PAGE_GROUP;
                struct group g;
                group_load(&g, x + c0, n, 0);
                group_seal(&g, p->bits_v, &scale[i * PAGE_TOK + t], &lo[i * PAGE_TOK + t],
                           t < n_skip ? &skipped : &tot);
                for (int32_t c = 0; c < n; c++)
                    codes[r][c0 + c] = (uint8_t)g.codes[c];
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
    memset(ret, 0, page_base_size(shape->head_dim));
    ret->magic = PAGE_MAGIC;
    ret->version = PAGE_VERSION;
    ret->flags = (uint16_t)flags;
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
    seal_v(ret, n_skip, v, plane_v);
}

#endif
#endif
