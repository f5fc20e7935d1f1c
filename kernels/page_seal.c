/* Sealing: f16 rows to 8-bit codes to planes, with clip search and least-squares refit.
 *
 * Each group is mapped to 0..65535 between its extremes first; from there on all sums are of
 * integers, so that they are exact, vectorise freely and give the same page on every machine. For
 * a target below 8 bits the 8-bit grid is searched whose top bits, refitted, err least; its lower
 * bits are not stored. */
#include <math.h>
#include <string.h>

#include "kernels/page.h"

enum { FIXED_MAX = 65535 };

/* Widths of the grid tried, as parts of the full range, for targets below 8 bits. */
static const float clip_width[] = {1.0f, 0.88f, 0.76f, 0.64f, 0.52f};
enum { N_CLIP = sizeof clip_width / sizeof clip_width[0], N_REFINE = 2 };

/* One group on its way: n values, the first n_skip of them coded but not counted. */
struct group {
    int32_t n, n_skip;
    float lo, step;           /* x = lo + step * fixed */
    float fixed[PAGE_GROUP];
    uint8_t codes[PAGE_GROUP]; /* 8 bits */
    double sum, sum_sq;       /* of fixed, rounded to integers, counted ones */
};

/* What a grid gives at one depth: fixed = intercept + slope * (code >> drop). */
struct fit {
    double slope, intercept, err; /* err: sum of squares in fixed units */
};

/* f16 to float by exponent arithmetic; infinities become the largest number, NaN becomes 0. */
static void half_to_float(const uint16_t *h, float *x, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        uint32_t mag = h[i] & 0x7fff;
        mag = mag > 0x7c00 ? 0 : mag > 0x7bff ? 0x7bff : mag;
        union {
            uint32_t u;
            float f;
        } y = {mag << 13}, two112 = {0x77800000u};
        float f = y.f * two112.f;
        x[i] = h[i] & 0x8000 ? -f : f;
    }
}

static void group_load(struct group *g, const float *x, int32_t n, int32_t n_skip)
{
    g->n = n;
    g->n_skip = n_skip;
    float lo = x[n_skip], hi = x[n_skip];
    for (int32_t i = n_skip; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    g->lo = lo;
    g->step = (hi - lo) / FIXED_MAX;
    float inv = hi > lo ? FIXED_MAX / (hi - lo) : 0;
    int64_t sum = 0, sum_sq = 0;
    for (int32_t i = 0; i < n; i++) {
        float f = (x[i] - lo) * inv;
        f = f < 0 ? 0 : f > FIXED_MAX ? FIXED_MAX : f;
        g->fixed[i] = (float)(int32_t)(f + 0.5f);
    }
    for (int32_t i = n_skip; i < n; i++) {
        int32_t f = (int32_t)g->fixed[i];
        sum += f;
        sum_sq += (int64_t)f * f;
    }
    g->sum = (double)sum;
    g->sum_sq = (double)sum_sq;
}

/* 8-bit codes of a grid: cell i of 256 covers [at + i*cell, at + (i+1)*cell). */
static void group_code(const struct group *g, float at, float cell, uint8_t *codes)
{
    float inv = 1.0f / cell;
    for (int32_t i = 0; i < g->n; i++) {
        float f = (g->fixed[i] - at) * inv;
        f = f < 0 ? 0 : f > 255 ? 255 : f;
        codes[i] = (uint8_t)(int32_t)f;
    }
}

static struct fit group_fit(const struct group *g, const uint8_t *codes, int32_t drop)
{
    int32_t c = 0, cc = 0;
    uint32_t xc = 0; /* at most 64 * 255 * 65535 */
    for (int32_t i = g->n_skip; i < g->n; i++) {
        int32_t cut = codes[i] >> drop;
        c += cut;
        cc += cut * cut;
        xc += (uint32_t)((int32_t)g->fixed[i] * cut);
    }
    double n = g->n - g->n_skip;
    double var = n * cc - (double)c * c, cov = n * xc - g->sum * c;
    double var_x = n * g->sum_sq - g->sum * g->sum;
    struct fit f = {0, g->sum / n, var_x / n};
    if (var > 0 && cov > 0) {
        f.slope = cov / var;
        f.intercept = (g->sum - f.slope * c) / n;
        f.err = fmax(0, var_x - cov / var * cov) / n;
    }
    return f;
}

/* Chooses the codes for a target depth; leaves them in g->codes. */
static struct fit group_search(struct group *g, int32_t bits)
{
    int32_t drop = 8 - bits;
    uint8_t codes[PAGE_GROUP];
    if (drop == 0) {
        /* 255 steps from end to end, rounding to the nearest: cells are centred on the levels */
        float cell = FIXED_MAX / 255.0f;
        group_code(g, -cell / 2, cell, g->codes);
        return group_fit(g, g->codes, 0);
    }
    struct fit best = {0, 0, INFINITY};
    float mean = (float)(g->sum / (g->n - g->n_skip)), mid = FIXED_MAX / 2.0f;
    for (int32_t i = 0; i < N_CLIP; i++) {
        float width = clip_width[i] * FIXED_MAX;
        float centre = clip_width[i] * mid + (1 - clip_width[i]) * mean;
        group_code(g, centre - width / 2, width / 256, codes);
        struct fit f = group_fit(g, codes, drop);
        if (f.err < best.err) {
            best = f;
            memcpy(g->codes, codes, sizeof codes);
        }
    }
    /* Cells around the refitted levels, and again: each round can only be kept if it helps. */
    for (int32_t i = 0; i < N_REFINE && best.slope > 0; i++) {
        float cell = (float)(best.slope / (1 << drop));
        group_code(g, (float)(best.intercept - best.slope / 2), cell, codes);
        struct fit f = group_fit(g, codes, drop);
        if (f.err >= best.err) {
            break;
        }
        best = f;
        memcpy(g->codes, codes, sizeof codes);
    }
    return best;
}

static uint16_t half_finite(double x)
{
    return kern_f32_to_f16((float)fmin(fmax(x, -65504.0), 65504.0));
}

/* Running totals of a tensor: squared error at 2, 4, 6, 8 bits, and of the values themselves. */
struct totals {
    double err[PAGE_DEPTHS], x_sq;
    int64_t n;
};

/* Codes one group into g->codes, writes its scale and lo, adds to the totals. */
static void group_seal(struct group *g, int32_t bits, uint16_t *scale, uint16_t *lo,
                       struct totals *tot)
{
    struct fit f = group_search(g, bits);
    double step = g->step;
    *scale = half_finite(f.slope * step);
    /* lo takes up what rounding the scale moved, at the mean code */
    double n = g->n - g->n_skip;
    double mean_code = f.slope > 0 ? (g->sum / n - f.intercept) / f.slope : 0;
    *lo = half_finite(g->lo + g->sum / n * step - kern_f16_to_f32(*scale) * mean_code);
    for (int32_t i = 0; i < bits / 2; i++) {
        struct fit at = 2 * i + 2 == bits ? f : group_fit(g, g->codes, 6 - 2 * i);
        tot->err[i] += at.err * step * step;
    }
    tot->x_sq += n * (double)g->lo * g->lo + 2 * g->lo * step * g->sum + step * step * g->sum_sq;
    tot->n += (int64_t)n;
}

static float totals_store(const struct totals *t, int32_t bits, uint16_t *err)
{
    for (int32_t i = 0; i < PAGE_DEPTHS; i++) {
        double rel = t->x_sq > 0 ? sqrt(t->err[i] / t->x_sq) : 0;
        err[i] = i < bits / 2 ? half_finite(rel) : 0x7e00;
    }
    return (float)sqrt(fmax(0, t->x_sq) / (double)(t->n > 0 ? t->n : 1));
}

/* Packs 16 rows of 16 lanes of 8-bit codes into one line of each of the top n_plane planes. */
static void pack_tile(const uint8_t *codes, size_t stride, int32_t n_plane, uint8_t *const *plane,
                      size_t line)
{
    for (int32_t i = 0; i < n_plane; i++) {
        uint32_t word[16] = {0};
        for (int32_t r = 0; r < 16; r++) {
            int32_t down = 6 - 2 * i, up = 2 * (r / 4) + 8 * (r % 4);
            for (int32_t l = 0; l < 16; l++) {
                word[l] |= (uint32_t)(codes[r * stride + l] >> down & 3) << up;
            }
        }
        memcpy(plane[i] + line, word, sizeof word);
    }
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
            memcpy(codes[r], g.codes, PAGE_TOK);
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
                memcpy(codes[r] + c0, g.codes, (size_t)n);
            }
        }
        for (int32_t ct = 0; ct < d / 16; ct++) {
            pack_tile(codes[0] + ct * 16, PAGE_HEAD_DIM_MAX, p->bits_v / 2, plane,
                      (size_t)tt * 4 * d + (size_t)ct * 64);
        }
    }
    p->rms_v = totals_store(&tot, p->bits_v, p->err_v);
}

void page_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
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
