#include "engine/simulate.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

enum { MOST = SIMULATE_TOK_MAX * SIMULATE_DIM_MAX, RANK_MAX = 8, POWER_ROUNDS = 3 };

/* Lloyd-Max levels of a standard normal distribution, positive half (Max 1960), at 2 to 4 bits. */
static const float levels[3][8] = {
    {0.4528f, 1.5104f},
    {0.2451f, 0.7560f, 1.3439f, 2.1519f},
    {0.1284f, 0.3880f, 0.6568f, 0.9423f, 1.2562f, 1.6180f, 2.0690f, 2.7326f},
};

static float half(float x)
{
    return kern_f16_to_f32(kern_f32_to_f16(x));
}

/* ---- one group ---- */

static float level_near(float x, int32_t bits)
{
    const float *at = levels[bits - 2];
    int32_t n = 1 << (bits - 1), i = 0;
    while (i + 1 < n && fabsf(x) > (at[i] + at[i + 1]) / 2)
        i++;
    return copysignf(at[i], x);
}

static void code_range(float *x, int32_t n, int32_t bits)
{
    float lo = x[0], hi = x[0], top = (float)((1 << bits) - 1);
    for (int32_t i = 1; i < n; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    float scale = (hi - lo) / top, kept = half(scale), kept_lo = half(lo);
    for (int32_t i = 0; i < n; i++)
        x[i] = kept_lo + kept * (scale > 0 ? fminf(roundf((x[i] - lo) / scale), top) : 0);
}

static void code_absmax(float *x, int32_t n, int32_t bits)
{
    float most = 0;
    for (int32_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    float scale = most / (float)((1 << (bits - 1)) - 1), kept = half(scale), inv = 1 / scale;
    for (int32_t i = 0; i < n; i++)
        x[i] = scale > 0 ? kept * roundf(x[i] * inv) : 0;
}

static void code_extreme(float *x, int32_t n, int32_t bits)
{
    float at = 0, mid = (float)(1 << (bits - 1));
    for (int32_t i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(at))
            at = x[i];
    float scale = -at / mid, kept = half(scale), inv = 1 / scale;
    for (int32_t i = 0; i < n; i++)
        x[i] = at != 0 ? kept * (fminf(floorf(x[i] * inv + mid + 0.5f), 2 * mid - 1) - mid) : 0;
}

static void code_levels(float *x, int32_t n, int32_t bits, bool centred)
{
    double sum = 0, square = 0, coded = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i];
    float mean = centred ? (float)(sum / n) : 0;
    for (int32_t i = 0; i < n; i++)
        square += ((double)x[i] - (double)mean) * ((double)x[i] - (double)mean);
    float sigma = (float)sqrt(square / n);
    float scale = sigma;
    for (int32_t i = 0; i < n; i++) {
        x[i] = sigma > 0 ? level_near((x[i] - mean) / sigma, bits) : 0;
        coded += (double)x[i] * (double)x[i];
    }
    if (!centred && coded > 0) /* the norm is what is kept: levels alone would shorten it */
        scale = (float)sqrt(square / coded);
    for (int32_t i = 0; i < n; i++)
        x[i] = half(mean) + half(scale) * x[i];
}

static void code_group(enum preset_grid grid, float *x, int32_t n, int32_t bits)
{
    switch (grid) {
    case GRID_F16:
        break;
    case GRID_RANGE:
        code_range(x, n, bits);
        break;
    case GRID_ABSMAX:
        code_absmax(x, n, bits);
        break;
    case GRID_EXTREME:
        code_extreme(x, n, bits);
        break;
    case GRID_NORMAL:
    case GRID_NORM:
        code_levels(x, n, bits, grid == GRID_NORMAL);
        break;
    }
}

/* ---- a matrix of tokens by channels ---- */

/* Groups run along lines: the tokens of a channel, or the channels of a token. */
struct lines {
    int32_t n_line, n; /* lines, numbers in each */
    int32_t line_step, step;
};

static struct lines lines_of(const struct preset_format *f, int32_t n_tok, int32_t n_dim)
{
    return f->per_channel ? (struct lines){n_dim, n_tok, 1, n_dim}
                          : (struct lines){n_tok, n_dim, n_dim, 1};
}

static int32_t group_of(const struct preset_format *f, const struct lines *g)
{
    return f->group > 0 && f->group < g->n ? f->group : g->n;
}

static int32_t n_outlier(const struct preset_format *f, int32_t n_tok, int32_t n_dim)
{
    return (int32_t)lrintf(f->outliers * (float)(n_tok * n_dim));
}

struct far {
    float z;
    int32_t at;
};

static int by_far(const void *a, const void *b)
{
    const struct far *x = a, *y = b;
    if (x->z != y->z)
        return x->z > y->z ? -1 : 1;
    return x->at - y->at;
}

/* Marks the numbers that lie farthest from the mean of their line, in units of its sigma. */
static void mark_outliers(const struct lines *g, const float *x, int32_t n_mark, bool *mark)
{
    int32_t n = g->n_line * g->n;
    struct far *far = n_mark > 0 ? malloc((size_t)n * sizeof *far) : NULL;
    for (int32_t i = 0, k = 0; far && i < g->n_line; i++) {
        const float *line = x + i * g->line_step;
        double sum = 0, square = 0;
        for (int32_t j = 0; j < g->n; j++)
            sum += (double)line[j * g->step];
        double mean = sum / g->n;
        for (int32_t j = 0; j < g->n; j++)
            square += ((double)line[j * g->step] - mean) * ((double)line[j * g->step] - mean);
        double sigma = sqrt(square / g->n);
        for (int32_t j = 0; j < g->n; j++, k++)
            far[k] = (struct far){
                sigma > 0 ? (float)(fabs((double)line[j * g->step] - mean) / sigma) : 0,
                i * g->line_step + j * g->step};
    }
    if (far)
        qsort(far, (size_t)n, sizeof *far, by_far);
    for (int32_t i = 0; far && i < n_mark; i++)
        mark[far[i].at] = true;
    free(far);
}

static void code_lines(const struct preset_format *f, int32_t bits, const struct lines *g, float *x,
                       const bool *mark)
{
    int32_t group = group_of(f, g);
    for (int32_t i = 0; i < g->n_line; i++)
        for (int32_t from = 0; from < g->n; from += group) {
            float part[SIMULATE_DIM_MAX];
            int32_t at[SIMULATE_DIM_MAX], n = 0;
            for (int32_t j = from; j < from + group && j < g->n; j++) {
                int32_t k = i * g->line_step + j * g->step;
                if (mark[k])
                    continue;
                part[n] = x[k];
                at[n++] = k;
            }
            if (n == 0)
                continue;
            code_group(f->grid, part, n, bits);
            for (int32_t j = 0; j < n; j++)
                x[at[j]] = part[j];
        }
}

/* ---- transforms ---- */

/* Channels in a run of the Hadamard transform; 0 = none. */
static int32_t run_of(const struct preset_format *f, int32_t n_dim)
{
    int32_t run = n_dim & -n_dim;
    while (run > f->rotate)
        run /= 2;
    return run >= f->rotate_min ? run : 0;
}

/* The sign of a channel: a fixed sequence that looks random. */
static float sign_of(int32_t c)
{
    uint64_t z = ((uint64_t)c + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return z >> 40 & 1 ? -1.0f : 1.0f;
}

static void turn(const struct preset_format *f, float *x, int32_t n_tok, int32_t n_dim, bool back)
{
    int32_t run = run_of(f, n_dim);
    for (int32_t t = 0; run > 1 && t < n_tok; t++, x += n_dim) {
        for (int32_t c = 0; f->signs && !back && c < n_dim; c++)
            x[c] *= sign_of(c);
        for (int32_t c = 0; c < n_dim; c += run) {
            float *y = x + c;
            for (int32_t size = 1; size < run; size *= 2)
                for (int32_t i = 0; i < run; i++)
                    if (!(i & size)) {
                        float a = y[i], b = y[i + size];
                        y[i] = a + b;
                        y[i + size] = a - b;
                    }
            for (int32_t i = 0; i < run; i++)
                y[i] /= sqrtf((float)run);
        }
        for (int32_t c = 0; f->signs && back && c < n_dim; c++)
            x[c] *= sign_of(c);
    }
}

/* What each channel is multiplied by before coding. */
static void balance_of(const struct preset_format *f, const float *x, int32_t n_tok, int32_t n_dim,
                       const float *q_max, float *ret)
{
    for (int32_t c = 0; c < n_dim; c++) {
        float most = 0;
        for (int32_t t = 0; t < n_tok; t++)
            most = fmaxf(most, fabsf(x[t * n_dim + c]));
        ret[c] = 1;
        if (f->balance == BALANCE_ROOT_MAX && most > 0)
            ret[c] = 1 / half(sqrtf(most));
        if (f->balance == BALANCE_QUERY && q_max && most > 0 && q_max[c] > 0)
            ret[c] = sqrtf(q_max[c] / most);
    }
}

static void scale_channels(float *x, int32_t n_tok, int32_t n_dim, const float *by, bool back)
{
    for (int32_t i = 0; i < n_tok * n_dim; i++)
        x[i] = back ? x[i] / by[i % n_dim] : x[i] * by[i % n_dim];
}

/* ---- the low-rank image of the error (GEAR) ---- */

/* Columns of m [n][r] made orthonormal, one after the other; those that vanish become 0. */
static void orthonormal(float *m, int32_t n, int32_t r)
{
    for (int32_t i = 0; i < r; i++) {
        for (int32_t j = 0; j <= i; j++) {
            double dot = 0;
            for (int32_t k = 0; k < n; k++)
                dot += (double)m[k * r + i] * (double)m[k * r + j];
            double by = j < i ? dot : dot > 1e-20 ? 1 - 1 / sqrt(dot) : 1;
            for (int32_t k = 0; k < n; k++)
                m[k * r + i] -= (float)by * m[k * r + j];
        }
    }
}

/* out [n][r] = e [n][m] * in [m][r], or with e turned over: out [m][r] from in [n][r]. */
static void product(const float *e, int32_t n, int32_t m, int32_t r, const float *in, bool turned,
                    float *out)
{
    memset(out, 0, (size_t)(turned ? m : n) * (size_t)r * sizeof *out);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < m; j++)
            for (int32_t k = 0; k < r; k++)
                out[(turned ? j : i) * r + k] += e[i * m + j] * in[(turned ? i : j) * r + k];
}

/* x += the best image of rank r of what was lost, found by power iteration. */
static void add_low_rank(float *x, const float *exact, int32_t n_tok, int32_t n_dim, int32_t r)
{
    float e[MOST], a[SIMULATE_TOK_MAX * RANK_MAX], b[SIMULATE_DIM_MAX * RANK_MAX];
    for (int32_t i = 0; i < n_tok * n_dim; i++)
        e[i] = exact[i] - x[i];
    for (int32_t i = 0; i < n_dim * r; i++) /* any start that is not orthogonal to the answer */
        b[i] = sign_of(i) * (1 + (float)(i % 7) / 8);
    for (int32_t round = 0; round < POWER_ROUNDS; round++) {
        orthonormal(b, n_dim, r);
        product(e, n_tok, n_dim, r, b, false, a);
        orthonormal(a, n_tok, r);
        product(e, n_tok, n_dim, r, a, true, b);
    }
    for (int32_t t = 0; t < n_tok; t++)
        for (int32_t c = 0; c < n_dim; c++)
            for (int32_t k = 0; k < r; k++)
                x[t * n_dim + c] += half(a[t * r + k]) * half(b[c * r + k]);
}

/* ---- the whole ---- */

void simulate_apply(const struct preset_format *f, int32_t bits, float *x, int32_t n_tok,
                  int32_t n_dim, const float *q_max)
{
    assert(n_tok <= SIMULATE_TOK_MAX && n_dim <= SIMULATE_DIM_MAX && f->rank <= RANK_MAX);
    if (f->grid == GRID_F16 || bits >= 16 || n_tok == 0)
        return;
    struct lines g = lines_of(f, n_tok, n_dim);
    float exact[MOST], balance[SIMULATE_DIM_MAX];
    bool mark[MOST] = {false};
    if (f->balance) {
        balance_of(f, x, n_tok, n_dim, q_max, balance);
        scale_channels(x, n_tok, n_dim, balance, false);
    }
    turn(f, x, n_tok, n_dim, false);
    mark_outliers(&g, x, n_outlier(f, n_tok, n_dim), mark);
    memcpy(exact, x, (size_t)(n_tok * n_dim) * sizeof *x);
    code_lines(f, bits, &g, x, mark);
    if (f->rank > 0)
        add_low_rank(x, exact, n_tok, n_dim, f->rank);
    turn(f, x, n_tok, n_dim, true);
    if (f->balance)
        scale_channels(x, n_tok, n_dim, balance, true);
}

size_t simulate_bytes(const struct preset_format *f, int32_t bits, int32_t n_tok, int32_t n_dim)
{
    static const size_t meta[] = {[GRID_F16] = 0,     [GRID_RANGE] = 4,  [GRID_ABSMAX] = 2,
                                  [GRID_EXTREME] = 2, [GRID_NORMAL] = 4, [GRID_NORM] = 2};
    size_t n = (size_t)n_tok * (size_t)n_dim;
    if (f->grid == GRID_F16 || bits >= 16 || n_tok == 0)
        return 2 * n;
    struct lines g = lines_of(f, n_tok, n_dim);
    int32_t group = group_of(f, &g);
    size_t n_group = (size_t)g.n_line * (size_t)((g.n + group - 1) / group);
    return (n * (size_t)bits + 7) / 8 + n_group * meta[f->grid] +
           4 * (size_t)n_outlier(f, n_tok, n_dim) + /* value and place */
           2 * (size_t)f->rank * (size_t)(n_tok + n_dim) +
           (f->balance == BALANCE_ROOT_MAX ? 2 * (size_t)n_dim : 0);
}
