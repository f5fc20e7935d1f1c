/* Block scores with lanes: two jobs of products and one of normalising. Compiled for 8 or 16.
 *
 * Exact rows: one item is (KV head, run of key blocks); the block's keys are widened once and meet
 * the rows of all heads of the group in register tiles. What is kept of a (row, block) is one
 * number, log2 of the sum of 2^score, in the place where its mass will stand. Antidiagonals: a
 * product with inner length stride * head_dim; queries are laid out once per item as strips of 16
 * columns, element (channel c, step i) at row c * stride + i, so that runs of 16 keys of a channel
 * are copied as they lie. Scores carry a factor log2(e). */
#ifndef KERNELS_CPU_SCORE_FLOW_H
#define KERNELS_CPU_SCORE_FLOW_H

#include <assert.h>
#include <math.h>
#include <string.h>

/* The vocabulary is shared with attention, which uses all of it; scores need keys only. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include "kernels/cpu/attn_page.h"
#include "kernels/cpu/attn_tile.h"
#if defined(ATTN_AMX)
#include "kernels/cpu/attn_amx.h"
#endif
#pragma GCC diagnostic pop
#include "kernels/cpu/cpu.h"
#include "kernels/page.h"
#include "kernels/score.h"

#define SCORE_LOG2E 1.4426950408889634f
#define SCORE_LN2 0.6931471805599453f
#define SCORE_NONE (-1e30f) /* log2 of no mass at all */

enum {
    SCORE_ROWS = SCORE_GROUP_MAX, /* rows x heads that meet one widened block */
    SCORE_RUN = 8,         /* key blocks of one item of exact rows */
#if defined(ATTN_AMX)
    SCORE_STRIP = 32, /* two tiles by two */
    SCORE_ANTI_BLOCKS = 8,
#else
    SCORE_STRIP = 16,      /* columns of a strip of queries */
    SCORE_ANTI_BLOCKS = 4, /* key blocks whose tiles make the left side of one product */
#endif
    SCORE_ANTI_ROWS = SCORE_ANTI_BLOCKS * KERN_SCORE_GROUPS,
    SCORE_ANTI_CHANNELS = 256, /* of wider heads there are half as many rows */
    SCORE_ANTI_FLOATS = SCORE_ANTI_ROWS * KERN_SCORE_STRIDE * (PAGE_HEAD_DIM_MAX / 2),
    SCORE_ANTI_RUN = 256   /* key blocks of one item of antidiagonals: each lays its queries out */
};
_Static_assert(SCORE_ANTI_CHANNELS <= PAGE_HEAD_DIM_MAX / 2, "all rows have room");

struct score_work {
    _Alignas(64) float panel[PAGE_HEAD_DIM_MAX * PAGE_TOK];
    struct page_query page; /* its layout serves widening too */
#if defined(ATTN_AMX)
    int32_t amx_rows; /* rows of rows.amx_q; 0 = too few */
#endif
    union {
        struct {
            float q[SCORE_ROWS * PAGE_HEAD_DIM_MAX];
            float x[SCORE_ROWS * PAGE_TOK];
#if defined(ATTN_AMX)
            _Alignas(64) uint8_t amx_q[SCORE_ROWS * PAGE_HEAD_DIM_MAX * 4];
            _Alignas(64) uint8_t amx_k[PAGE_HEAD_DIM_MAX * PAGE_TOK * 4];
#endif
        } rows;
        struct {
            _Alignas(64) float k[SCORE_ANTI_FLOATS];
            float x[SCORE_ANTI_ROWS * SCORE_STRIP];
            float line[KERN_SCORE_STRIDE * PAGE_HEAD_DIM_MAX]; /* one row of k */
            _Alignas(64) float q[(CPU_SCRATCH_BYTES - (256 << 10)) / (int)sizeof(float) -
                                 SCORE_ANTI_FLOATS]; /* strips */
        } anti;
    };
};
_Static_assert(sizeof(struct score_work) <= CPU_SCRATCH_BYTES, "fits a thread's scratch");

#if defined(ATTN_AMX)
#define SCORE_BEGIN() amx_begin()
#define SCORE_END() TILE_RELEASE()
#else
#define SCORE_BEGIN() (void)0
#define SCORE_END() (void)0
#endif

struct score_job {
    struct kern *kern;
    const struct kern_score *s;
    int32_t group, d;   /* query heads per KV head, head_dim */
    int32_t n_run;      /* items per KV head along the key blocks */
    int32_t n_pass;     /* passes over the columns of the antidiagonals */
    int32_t pass_strip; /* strips of one pass */
};

static int32_t score_min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static bool score_asleep(const struct kern_score *s, int32_t head_kv)
{
    return s->asleep && s->asleep[head_kv];
}

/* Keys of block j into w->panel [d][64]; page: as blocks older than b-1 are read. */
static void score_widen(struct score_work *w, const struct kern_kv *kv, int32_t head_kv, int32_t j,
                        bool page)
{
    const struct kern_kv_block *b = &kv->block[(size_t)head_kv * kv->n_block_cap + j];
    int32_t d = kv->head_dim;
    if (!page) {
        panel_from_f16(b->k, PAGE_TOK, d, PAGE_TOK, w->panel);
        return;
    }
    page_widen_k(&w->page.layout, b->page, w->panel);
    if (j > 0 || !kv->sink_k)
        return;
    const uint16_t *sink = kv->sink_k + (size_t)head_kv * d * KERN_SINK_PAD;
    for (int32_t c = 0; c < d; c++)
        for (int32_t t = 0; t < KERN_SINK_TOK; t++)
            w->panel[c * PAGE_TOK + t] = _cvtsh_ss(sink[c * KERN_SINK_PAD + t]);
}

ATTN_INLINE vf score_capped(const struct kern_attn *a, vf x)
{
    if (a->softcap <= 0)
        return x;
    return VF_MUL(VF_SET1(a->softcap * SCORE_LOG2E),
                  vf_tanh(VF_MUL(VF_SET1(SCORE_LN2 / a->softcap), x)));
}

/* The sum of 2^(x - top) over x[0..hi) of n lanes, and top, the largest; n a multiple of 16. x is
 * overwritten. */
ATTN_INLINE float score_sum(const struct kern_attn *a, float *x, int32_t n, int32_t hi,
                            float *ret_top)
{
    vf top = VF_SET1(SCORE_NONE), sum = VF_ZERO();
    for (int32_t j = 0; j < n; j += VL) {
        vf y = score_capped(a, VF_LOAD(x + j));
        if (hi < n)
            y = vf_outside(y, j, 0, hi);
        if (hi < n || a->softcap > 0)
            VF_STORE(x + j, y);
        top = VF_MAX(top, y);
    }
    *ret_top = vf_hmax(top);
    vf at = VF_SET1(*ret_top);
    for (int32_t j = 0; j < n; j += VL)
        sum = VF_ADD(sum, vf_exp2(VF_SUB(VF_LOAD(x + j), at)));
    return vf_hsum(sum);
}

/* ---- exact rows ---- */

/* Rows [row0, row1) of the list, all heads of the group, against the keys of block j. A few rows
 * of a choice among pages take them as integers, as decoding does. */
static void rows_against(const struct score_job *t, struct score_work *w, int32_t head_kv,
                         int32_t j, int32_t row0, int32_t row1, int32_t q_row0, bool page)
{
    const struct kern_score *s = t->s;
    const struct kern_attn *a = s->a;
    int32_t d = t->d, m = (row1 - row0) * t->group;
    const float *q = w->rows.q + (size_t)(row0 - q_row0) * t->group * d;
    if (page && s->only && m <= PAGE_FEW_ROWS && (j > 0 || !a->kv->sink_k)) {
        page_scores(&w->page, a->kv->block[(size_t)head_kv * a->kv->n_block_cap + j].page, q, m,
                    w->rows.x);
#if defined(ATTN_AMX)
    } else if (row0 == q_row0 && m == w->amx_rows) {
        score_widen(w, a->kv, head_kv, j, page);
        amx_right(w->panel, PAGE_TOK, 0, d, d, PAGE_TOK, w->rows.amx_k, NULL);
        amx_product(w->rows.amx_q, w->rows.amx_k, m, PAGE_TOK, d, w->rows.x, PAGE_TOK, false);
#endif
    } else {
        score_widen(w, a->kv, head_kv, j, page);
        for (int32_t c = 0; c < PAGE_TOK; c += PANEL)
            tile_f32(m, PANEL, q, d, w->panel + c, PAGE_TOK, d, w->rows.x + c, PAGE_TOK, NULL);
    }
    float top[VL], sum[VL];
    for (int32_t i0 = 0; i0 < m; i0 += VL) {
        int32_t n = score_min(VL, m - i0);
        for (int32_t i = 0; i < n; i++) {
            int32_t row = row0 + (i0 + i) / t->group;
            int32_t hi = score_min(PAGE_TOK, a->pos0 + s->row[row] - j * PAGE_TOK + 1);
            sum[i] = score_sum(a, w->rows.x + (i0 + i) * PAGE_TOK, PAGE_TOK, hi, &top[i]);
        }
        for (int32_t i = n; i < VL; i++)
            top[i] = sum[i] = 1;
        VF_STORE(top, VF_ADD(VF_LOAD(top), vf_log2(VF_LOAD(sum))));
        for (int32_t i = 0; i < n; i++) {
            int32_t row = row0 + (i0 + i) / t->group, head = head_kv * t->group + (i0 + i) % t->group;
            s->mass[((size_t)head * s->n_row + row) * s->n_block + j] = top[i];
        }
    }
}

static void rows_unseen(const struct score_job *t, int32_t head_kv, int32_t j, int32_t row0,
                        int32_t row1)
{
    for (int32_t i = 0; i < (row1 - row0) * t->group; i++) {
        int32_t row = row0 + i / t->group, head = head_kv * t->group + i % t->group;
        t->s->mass[((size_t)head * t->s->n_row + row) * t->s->n_block + j] = SCORE_NONE;
    }
}

static void rows_item(void *ctx, int item, int n_item, int thread)
{
    const struct score_job *t = ctx;
    const struct kern_score *s = t->s;
    const struct kern_attn *a = s->a;
    struct score_work *w = cpu_scratch(t->kern, thread);
    int32_t head_kv = item % a->kv->n_head_kv;
    int32_t run = t->n_run - 1 - item / a->kv->n_head_kv; /* any order; neighbours share queries */
    int32_t j0 = run * SCORE_RUN, j1 = score_min(s->n_block, j0 + SCORE_RUN);
    const struct kern_kv_block *block = a->kv->block + (size_t)head_kv * a->kv->n_block_cap;
    float factor = a->scale * SCORE_LOG2E;
    int32_t most = SCORE_ROWS / t->group, first = 0;
    if (score_asleep(s, head_kv))
        return;
    w->page.layout.shape.head_dim = 0;
    SCORE_BEGIN();
    while (first < s->n_row && (a->pos0 + s->row[first]) / PAGE_TOK < j0)
        first++;
    for (int32_t row0 = first; row0 < s->n_row; row0 += most) {
        int32_t row1 = score_min(s->n_row, row0 + most);
        for (int32_t i = 0; i < (row1 - row0) * t->group; i++) {
            int32_t row = s->row[row0 + i / t->group];
            const float *q =
                a->q + ((size_t)row * a->n_head + head_kv * t->group + i % t->group) * t->d;
            for (int32_t c = 0; c < t->d; c += VL)
                VF_STORE(w->rows.q + (size_t)i * t->d + c,
                         VF_MUL(VF_SET1(factor), VF_LOAD(q + c)));
        }
#if defined(ATTN_AMX)
        w->amx_rows = (row1 - row0) * t->group; /* blocks that all of them see take tile registers */
        if (w->amx_rows < AMX_ROWS || t->d % AMX_DEPTH)
            w->amx_rows = 0;
        amx_left(w->rows.q, (size_t)t->d, w->amx_rows, t->d, w->rows.amx_q);
#endif
        for (int32_t j = j0; j < j1; j++) {
            int32_t seen = row0, far; /* rows from `seen` on see the block, from `far` on as page */
            while (seen < row1 && (a->pos0 + s->row[seen]) / PAGE_TOK < j)
                seen++;
            far = seen;
            while (far < row1 && block[j].k &&
                   (!block[j].page || (a->pos0 + s->row[far]) / PAGE_TOK <= j + 1))
                far++;
            if (s->only && !s->only[head_kv * s->n_block + j]) {
                rows_unseen(t, head_kv, j, seen, row1);
                continue;
            }
            if (seen < far)
                rows_against(t, w, head_kv, j, seen, far, row0, false);
            if (far < row1)
                rows_against(t, w, head_kv, j, far, row1, row0, true);
        }
    }
    SCORE_END();
}

/* ---- antidiagonals ---- */

/* Score of a group with its own positions: half of the pairs are causal. */
static float anti_own(const struct score_job *t, int32_t head, int32_t head_kv, int32_t first)
{
    const struct kern_attn *a = t->s->a;
    int32_t pos = a->pos0 + first, at = pos % PAGE_TOK;
    const struct kern_kv_block *b =
        &a->kv->block[(size_t)head_kv * a->kv->n_block_cap + pos / PAGE_TOK];
    float sum = 0;
    for (int32_t p = 0; p < KERN_SCORE_STRIDE / 2; p++) {
        const float *q =
            a->q + ((size_t)(first + KERN_SCORE_STRIDE - 1 - p) * a->n_head + head) * t->d;
        for (int32_t c = 0; c < t->d; c++)
            sum += q[c] * _cvtsh_ss(b->k[c * PAGE_TOK + at + p]);
    }
    return sum * a->scale * SCORE_LOG2E * 2 / KERN_SCORE_STRIDE;
}

/* Column i of a pass: group i / group of the list, head i % group of the KV head. n_chan channels from
 * chan on of one strip. */
static void anti_queries(const struct score_job *t, float *strip, int32_t head_kv, int32_t col0,
                         int32_t col1, int32_t chan, int32_t n_chan)
{
    const struct kern_score *s = t->s;
    const struct kern_attn *a = s->a;
    float factor = a->scale * SCORE_LOG2E / KERN_SCORE_STRIDE;
    memset(strip, 0, sizeof(float) * KERN_SCORE_STRIDE * (size_t)n_chan * SCORE_STRIP);
    /* a few channels at a time: as much of the strip as the nearest cache holds */
    for (int32_t c0 = 0; c0 < n_chan; c0 += 16)
        for (int32_t i = col0; i < col1; i++) {
            float *to = strip + (size_t)c0 * KERN_SCORE_STRIDE * SCORE_STRIP + (i - col0);
            for (int32_t p = 0; p < KERN_SCORE_STRIDE; p++) {
                int32_t row = s->group[i / t->group] + KERN_SCORE_STRIDE - 1 - p;
                const float *q = a->q + chan + c0 +
                                 ((size_t)row * a->n_head + head_kv * t->group + i % t->group) * t->d;
                for (int32_t c = 0; c < 16; c++)
                    to[(c * KERN_SCORE_STRIDE + p) * SCORE_STRIP] = q[c] * factor;
            }
        }
}

#if defined(ATTN_AMX)
/* x[n_row][SCORE_STRIP] from the large parts alone: to rank, eight bits of each number will do. */
static void anti_product(const uint8_t *k, const uint8_t *q, int32_t n_row, int32_t depth, float *x)
{
    int32_t n_step = depth / AMX_DEPTH, row = SCORE_STRIP * (int32_t)sizeof *x;
    bool two = n_row > AMX_ROWS;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int32_t i = 0; i < n_step; i++, k += AMX_PAIR_BYTES, q += 2 * AMX_PAIR_BYTES) {
        amx_load_right(2, q);
        amx_load_left(two ? 2 : 1, k, (size_t)n_step * AMX_PAIR_BYTES);
        amx_dots(two ? 2 : 1, 2);
    }
    TILE_STORE(0, x, row);
    TILE_STORE(1, x + AMX_ROWS, row);
    if (two) {
        TILE_STORE(2, x + AMX_ROWS * SCORE_STRIP, row);
        TILE_STORE(3, x + AMX_ROWS * SCORE_STRIP + AMX_ROWS, row);
    }
}
#endif

static void anti_block(const struct score_job *t, struct score_work *w, int32_t head_kv, int32_t j,
                       const float *x, int32_t col, int32_t n_col)
{
    const struct kern_score *s = t->s;
    const struct kern_attn *a = s->a;
    for (int32_t i = 0; i < n_col; i++) {
        int32_t g = (col + i) / t->group, head = head_kv * t->group + (col + i) % t->group;
        int32_t first = a->pos0 + s->group[g], n = 0;
        float *to = s->anti + ((size_t)head * s->n_group + g) * s->n_block + j;
        float y[16];
        if (first < j * PAGE_TOK)
            continue;
        for (int32_t p = 0; p < KERN_SCORE_GROUPS; p++) {
            int32_t at = j * PAGE_TOK + p * KERN_SCORE_STRIDE;
            if (at < first)
                y[n++] = x[p * SCORE_STRIP + i];
            else if (at == first)
                y[n++] = anti_own(t, head, head_kv, s->group[g]);
        }
        for (int32_t p = n; p < 16; p++)
            y[p] = SCORE_NONE;
        float top, sum = score_sum(a, y, 16, n, &top);
        *to = top + log2f(sum);
    }
}

/* The same for a whole strip whose groups all lie behind the block: columns are lanes. */
static void anti_block_behind(const struct score_job *t, int32_t head_kv, int32_t j, const float *x,
                              int32_t col, int32_t n_col)
{
    const struct kern_score *s = t->s;
    float out[SCORE_STRIP];
    for (int32_t i = 0; i < SCORE_STRIP; i += VL) {
        vf y[KERN_SCORE_GROUPS], top = VF_SET1(SCORE_NONE), sum = VF_ZERO();
        for (int32_t p = 0; p < KERN_SCORE_GROUPS; p++) {
            y[p] = score_capped(s->a, VF_LOAD(x + p * SCORE_STRIP + i));
            top = VF_MAX(top, y[p]);
        }
        for (int32_t p = 0; p < KERN_SCORE_GROUPS; p++)
            sum = VF_ADD(sum, vf_exp2(VF_SUB(y[p], top)));
        VF_STORE(out + i, VF_ADD(top, vf_log2(sum)));
    }
    for (int32_t i = 0; i < n_col; i++) {
        int32_t g = (col + i) / t->group, head = head_kv * t->group + (col + i) % t->group;
        s->anti[((size_t)head * s->n_group + g) * s->n_block + j] = out[i];
    }
}

static void anti_item(void *ctx, int item, int n_item, int thread)
{
    const struct score_job *t = ctx;
    const struct kern_score *s = t->s;
    const struct kern_attn *a = s->a;
    struct score_work *w = cpu_scratch(t->kern, thread);
    int32_t head_kv = item % a->kv->n_head_kv, rest = item / a->kv->n_head_kv;
    int32_t pass = rest % t->n_pass, run = rest / t->n_pass;
    int32_t col0 = pass * t->pass_strip * SCORE_STRIP;
    int32_t col1 = score_min(s->n_group * t->group, col0 + t->pass_strip * SCORE_STRIP);
    int32_t depth = KERN_SCORE_STRIDE * t->d;
    int32_t j1 = score_min(s->n_block, (run + 1) * SCORE_ANTI_RUN);
    const struct kern_kv_block *block = a->kv->block + (size_t)head_kv * a->kv->n_block_cap;
    if (score_asleep(s, head_kv))
        return;
    w->page.layout.shape.head_dim = 0;
    SCORE_BEGIN();
    for (int32_t col = col0; col < col1; col += SCORE_STRIP) {
        float *to = w->anti.q + (size_t)(col - col0) * depth;
        int32_t end = score_min(col1, col + SCORE_STRIP);
#if defined(ATTN_AMX)
        for (int32_t c = 0; c < t->d; c += SCORE_ANTI_CHANNELS) {
            int32_t n = score_min(SCORE_ANTI_CHANNELS, t->d - c), part = KERN_SCORE_STRIDE * n;
            anti_queries(t, w->anti.k, head_kv, col, end, c, n);
            amx_right(w->anti.k, SCORE_STRIP, 0, part, part, SCORE_STRIP,
                      (uint8_t *)(to + (size_t)c * KERN_SCORE_STRIDE * SCORE_STRIP), NULL);
        }
#else
        anti_queries(t, to, head_kv, col, end, 0, t->d);
#endif
    }
    int32_t most = t->d > SCORE_ANTI_CHANNELS ? SCORE_ANTI_BLOCKS / 2 : SCORE_ANTI_BLOCKS;
    for (int32_t j = run * SCORE_ANTI_RUN; j < j1; j += most) {
        int32_t n = score_min(most, j1 - j);
        for (int32_t b = 0; b < n; b++) {
            /* scores only rank here: one form of a block serves all rows */
            score_widen(w, a->kv, head_kv, j + b, block[j + b].page != NULL);
            for (int32_t p = 0; p < KERN_SCORE_GROUPS; p++) {
                int32_t row = b * KERN_SCORE_GROUPS + p;
#if defined(ATTN_AMX)
                float *to = w->anti.line;
#else
                float *to = w->anti.k + (size_t)row * depth;
#endif
                const float *from = w->panel + p * KERN_SCORE_STRIDE;
                for (int32_t c = 0; c < t->d; c++)
                    for (int32_t i = 0; i < KERN_SCORE_STRIDE; i += VL)
                        VF_STORE(to + c * KERN_SCORE_STRIDE + i, VF_LOAD(from + c * PAGE_TOK + i));
#if defined(ATTN_AMX)
                amx_left(to, 0, 1, depth,
                         (uint8_t *)(w->anti.k + (size_t)(row / AMX_ROWS * AMX_ROWS) * depth) +
                             row % AMX_ROWS * 64);
#else
                (void)row;
#endif
            }
        }
        for (int32_t col = col0; col < col1; col += SCORE_STRIP) {
            const float *q = w->anti.q + (size_t)(col - col0) * depth;
#if defined(ATTN_AMX)
            anti_product((const uint8_t *)w->anti.k, (const uint8_t *)q, n * KERN_SCORE_GROUPS, depth,
                         w->anti.x);
#else
            tile_f32(n * KERN_SCORE_GROUPS, SCORE_STRIP, w->anti.k, depth, q, SCORE_STRIP, depth,
                     w->anti.x, SCORE_STRIP, NULL);
#endif
            int32_t first = a->pos0 + s->group[col / t->group];
            for (int32_t b = 0; b < n; b++) {
                const float *x = w->anti.x + b * KERN_SCORE_GROUPS * SCORE_STRIP;
                int32_t n_col = score_min(SCORE_STRIP, col1 - col);
                if (first >= (j + b + 1) * PAGE_TOK)
                    anti_block_behind(t, head_kv, j + b, x, col, n_col);
                else
                    anti_block(t, w, head_kv, j + b, x, col, n_col);
            }
        }
    }
    SCORE_END();
}

/* ---- from log-sums to masses ---- */

static float score_normalise(float *x, int32_t n_seen, int32_t n_block)
{
    float top = SCORE_NONE, sum = 0;
    for (int32_t j = 0; j < n_seen; j++)
        top = x[j] > top ? x[j] : top;
    int32_t j = 0;
    vf at = VF_SET1(top), total = VF_ZERO();
    for (; j + VL <= n_seen; j += VL) {
        vf y = vf_exp2(VF_SUB(VF_LOAD(x + j), at));
        VF_STORE(x + j, y);
        total = VF_ADD(total, y);
    }
    for (; j < n_seen; j++) {
        x[j] = exp2f(x[j] - top);
        sum += x[j];
    }
    sum += vf_hsum(total);
    float inv = 1 / sum;
    for (j = 0; j < n_seen; j++)
        x[j] *= inv;
    for (; j < n_block; j++)
        x[j] = 0;
    return (top + log2f(sum)) * SCORE_LN2;
}

static void normalise_item(void *ctx, int item, int n_item, int thread)
{
    const struct score_job *t = ctx;
    const struct kern_score *s = t->s;
    if (score_asleep(s, item / t->group))
        return;
    for (int32_t i = 0; i < s->n_row; i++) {
        size_t at = (size_t)item * s->n_row + i;
        s->lse[at] = score_normalise(s->mass + at * s->n_block,
                                     (s->a->pos0 + s->row[i]) / PAGE_TOK + 1, s->n_block);
    }
    for (int32_t i = 0; i < s->n_group; i++)
        score_normalise(s->anti + ((size_t)item * s->n_group + i) * s->n_block,
                        (s->a->pos0 + s->group[i]) / PAGE_TOK + 1, s->n_block);
}

static void flow_score(struct kern *k, const struct kern_score *s)
{
    const struct kern_attn *a = s->a;
    struct score_job t = {.kern = k, .s = s, .group = a->n_head / a->kv->n_head_kv};
    t.d = a->kv->head_dim;
    assert(t.group <= SCORE_ROWS);
    if (s->n_row > 0) {
        t.n_run = (s->n_block + SCORE_RUN - 1) / SCORE_RUN;
        pool_run(cpu_of(k)->pool, t.n_run * a->kv->n_head_kv, rows_item, &t);
    }
    if (s->n_group > 0) {
        int32_t strip_floats = KERN_SCORE_STRIDE * t.d * SCORE_STRIP;
        int32_t room = (int32_t)(sizeof((struct score_work *)0)->anti.q / sizeof(float));
        int32_t n_strip = (s->n_group * t.group + SCORE_STRIP - 1) / SCORE_STRIP;
        t.n_pass = (n_strip + room / strip_floats - 1) / (room / strip_floats);
        t.pass_strip = (n_strip + t.n_pass - 1) / t.n_pass;
        t.n_run = (s->n_block + SCORE_ANTI_RUN - 1) / SCORE_ANTI_RUN;
        pool_run(cpu_of(k)->pool, t.n_run * t.n_pass * a->kv->n_head_kv, anti_item, &t);
    }
    pool_run(cpu_of(k)->pool, a->n_head, normalise_item, &t);
}

#endif
