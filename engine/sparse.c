#include "engine/sparse.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/mem.h"
#include "kernels/score.h"

enum {
    TOK = KERN_BLOCK_TOK,
    ROWS_MIN = 32,      /* fewer new rows are dense */
    ROWS_FULL = 256,    /* from here on antidiagonals and row blocks of their own */
    TAIL_ROWS = 128,    /* last rows of a turn: the question, dense */
    FORCE_FIRST = 2,    /* first blocks, always read */
    FORCE_LOCAL = 4,    /* newest blocks, the row's own included, always read */
    SEL_PER_BLOCK = 4,  /* rows of a row block that choose */
    SEL_RAGGED = 8,     /* rows that choose when there are few */
    MASS_BINS = 256,
    PROBE_AFTER = 3,    /* chunks until a layer that did not pay is looked at again; */
    PROBE_MOST = 31     /* doubled each time in vain, up to this */
};

#define N_MIN 4096
#define RHO_MAX 0.6f
#define ANTI_SHARE 0.5f
#define NEEDLE 0.05f        /* a block with this much mass of any choosing row is read */
#define COVER_SLACK 0.15f   /* the coverage aimed at stays within this of the one asked for */
#define COVER_TOP 0.995f
#define MISS 0.5f /* a mean further under the coverage than this share of the rest is a miss */
#define GAIN_MIN 0.90       /* predicted cost, in dense ones, that still counts as paying */
#define DENSITY_EXPONENT (-0.67) /* how density falls with length (XAttention's table) */

/* Costs in units of the dense kernel's, measured with bench_sparse (time): a block read through a
 * list against one read densely, and scoring against all of dense attention. */
#define COST_LISTED 1.08
#define COST_SCORING 0.10

struct head_state {
    float aim;   /* coverage aimed at by the estimate */
    bool failed; /* dense for the rest of the turn */
    bool listed; /* in the call at hand: some row block reads a list */
};

struct layer_state {
    struct head_state *head; /* [n_head_kv] */
    double rho;              /* density at n_key keys; < 0 = not yet known */
    int32_t n_key;
    int32_t n_dense, n_wait; /* dense decisions since the layer was last looked at, and until */
    bool more_rows;          /* twice as many rows choose: too few saw too little */
};

/* What a scored row is for. */
enum row_use { ROW_SELECT, ROW_ANCHOR };

struct sparse {
    struct kern *k;
    struct sparse_shape s;
    struct sparse_params p;
    struct layer_state *layer;

    /* the call at hand; arrays grow and are kept */
    const struct kern_attn *a;
    int32_t block0, n_row_block, n_block;
    bool ragged;             /* one estimate for all rows */
    bool *chosen;            /* [n_row_block] reads a list, by position alone */
    int32_t n_row, n_group;
    int32_t *row;            /* [n_row] rows that are scored */
    uint8_t *use;            /* [n_row] enum row_use */
    int32_t *group;
    float *mass, *anti, *lse;
    float *estimate;         /* [n_head_kv][group][n_block] of the row block at hand */
    struct ranked *rank;     /* [n_head_kv][n_block] */
    int32_t *first, *index;
    struct kern_block_list list;
    int32_t *n_listed;       /* [n_head_kv] blocks read, forced ones included */
    int64_t n_possible;      /* per KV head */
    size_t mass_cap, anti_cap, lse_cap, estimate_cap, rank_cap, first_cap, index_cap, row_cap,
        use_cap, group_cap, chosen_cap;
    float *lse_dev, *lse_host;   /* [n_tok, n_head] of the sparse pass */
    int32_t lse_rows;
    float *audit_dev, *audit_host; /* [2, n_head, head_dim] */

    /* the turn */
    double n_read, n_all;        /* blocks */
    double mass_sum;
    int64_t n_mass, mass_bin[MASS_BINS + 1];
    double *head_mass;           /* [n_layer, n_head] */
    int32_t *head_n;
    double error_sum;
    int32_t n_audit, n_held_out;
    int32_t n_call[SPARSE_REASONS];
    double score_s, attend_s;    /* of sparse calls */
    double sparse_all, sparse_read; /* blocks of sparse calls */
    double dense_s, dense_all;   /* of dense calls with many rows; kept across turns */
    uint32_t hash;
};

struct ranked {
    float score;
    int32_t block;
};

static const char *const reason_texts[SPARSE_REASONS] = {
    [SPARSE_ON] = "on",
    [SPARSE_OFF] = "off",
    [SPARSE_SHORT] = "context too short to pay",
    [SPARSE_FEW_ROWS] = "too few new tokens",
    [SPARSE_WINDOW] = "sliding window",
    [SPARSE_NO_SCORER] = "no scorer on this backend",
    [SPARSE_NO_GAIN] = "attention too spread out to pay",
    [SPARSE_MISSED] = "retained mass too low",
};

const char *sparse_reason_text(enum sparse_reason r)
{
    return reason_texts[r];
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

struct sparse *sparse_new(struct kern *k, const struct sparse_shape *s,
                          const struct sparse_params *p)
{
    struct sparse *sp = mem_calloc(1, sizeof *sp);
    sp->k = k;
    sp->s = *s;
    sp->p = *p;
    if (sp->p.n_min <= 0)
        sp->p.n_min = N_MIN;
    if (sp->p.rho_max <= 0)
        sp->p.rho_max = RHO_MAX;
    sp->layer = mem_calloc((size_t)s->n_layer, sizeof *sp->layer);
    for (int32_t i = 0; i < s->n_layer; i++)
        sp->layer[i].head = mem_calloc((size_t)s->n_head_kv, sizeof *sp->layer[i].head);
    size_t n_head = (size_t)s->n_layer * (size_t)s->n_head;
    sp->head_mass = mem_calloc(n_head, sizeof *sp->head_mass);
    sp->head_n = mem_calloc(n_head, sizeof *sp->head_n);
    sp->n_listed = mem_calloc((size_t)s->n_head_kv, sizeof *sp->n_listed);
    sparse_begin(sp, p->coverage);
    return sp;
}

void sparse_free(struct sparse *sp)
{
    if (!sp)
        return;
    for (int32_t i = 0; i < sp->s.n_layer; i++)
        free(sp->layer[i].head);
    void *parts[] = {sp->layer, sp->chosen, sp->row,   sp->use,      sp->group,     sp->mass,
                     sp->anti,  sp->lse,    sp->index, sp->estimate, sp->rank,      sp->first,
                     sp->n_listed, sp->lse_host, sp->audit_host, sp->head_mass, sp->head_n};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    if (sp->lse_dev)
        sp->k->ops->free(sp->k, sp->lse_dev);
    if (sp->audit_dev)
        sp->k->ops->free(sp->k, sp->audit_dev);
    free(sp);
}

void sparse_begin(struct sparse *sp, float coverage)
{
    sp->p.coverage = coverage >= 1 ? 1 : coverage < 0.7f ? 0.7f : coverage;
    for (int32_t i = 0; i < sp->s.n_layer; i++) {
        struct layer_state *l = &sp->layer[i];
        l->rho = -1;
        l->n_key = l->n_dense = 0;
        l->n_wait = PROBE_AFTER;
        l->more_rows = false;
        for (int32_t h = 0; h < sp->s.n_head_kv; h++)
            l->head[h] = (struct head_state){.aim = (1 + sp->p.coverage) / 2}; /* until rows tell */
    }
    sp->n_read = sp->n_all = sp->mass_sum = sp->error_sum = 0;
    sp->n_mass = sp->n_audit = sp->n_held_out = 0;
    sp->score_s = sp->attend_s = sp->sparse_all = sp->sparse_read = 0;
    sp->hash = 2463534242u;
    memset(sp->mass_bin, 0, sizeof sp->mass_bin);
    memset(sp->n_call, 0, sizeof sp->n_call);
    size_t n_head = (size_t)sp->s.n_layer * (size_t)sp->s.n_head;
    memset(sp->head_mass, 0, n_head * sizeof *sp->head_mass);
    memset(sp->head_n, 0, n_head * sizeof *sp->head_n);
}

/* Room for n elements in an array that is not kept; false when there is no memory. */
static bool room(void *at, size_t *cap, size_t n, size_t size)
{
    void **p = at;
    if (n <= *cap)
        return true;
    free(*p);
    *cap = 0;
    *p = mem_try(n * size);
    if (*p)
        *cap = n;
    return *p != NULL;
}

#define ROOM(sp, name, n) room(&(sp)->name, &(sp)->name##_cap, (size_t)(n), sizeof *(sp)->name)

/* ---- which rows are scored ---- */

static void add_row(struct sparse *sp, int32_t row, enum row_use use)
{
    sp->row[sp->n_row] = row;
    sp->use[sp->n_row++] = (uint8_t)use;
}

static uint32_t draw(struct sparse *sp)
{
    sp->hash ^= sp->hash << 13;
    sp->hash ^= sp->hash >> 17;
    sp->hash ^= sp->hash << 5;
    return sp->hash;
}

/* Whole row blocks before the question choose for themselves. Their held-out row is drawn among
 * those that do not choose: a fixed place would favour what a choosing row nearby looks at. */
static void rows_by_block(struct sparse *sp, int32_t n_sel, bool tail)
{
    const struct kern_attn *a = sp->a;
    int32_t end = a->pos0 + a->n_tok - (tail ? TAIL_ROWS : 0);
    for (int32_t r = 0; r < sp->n_row_block; r++) {
        int32_t at = (sp->block0 + r) * TOK;
        sp->chosen[r] = at >= a->pos0 && at + TOK <= end;
        if (!sp->chosen[r])
            continue;
        int32_t row = at - a->pos0, step = TOK / n_sel;
        int32_t anchor = (int32_t)(draw(sp) % TOK);
        anchor += anchor % step == step / 2;
        for (int32_t i = 0; i < n_sel; i++) {
            int32_t place = step / 2 + i * step;
            if (anchor < place && anchor >= place - step)
                add_row(sp, row + anchor, ROW_ANCHOR);
            add_row(sp, row + place, ROW_SELECT);
        }
        if (anchor > TOK - step / 2)
            add_row(sp, row + anchor, ROW_ANCHOR);
        for (int32_t g = 0; g < KERN_SCORE_GROUPS; g++)
            sp->group[sp->n_group++] = row + g * KERN_SCORE_STRIDE;
    }
}

/* A short turn: a few rows up to the last one choose for all. */
static void rows_ragged(struct sparse *sp)
{
    int32_t n = sp->a->n_tok, n_sel = min_i(SEL_RAGGED, n / 4), step = n / n_sel;
    int32_t every = max_i(1, n_sel / max_i(1, n / TOK)); /* one held-out row per 64 */
    for (int32_t i = 0; i < n_sel; i++) {
        int32_t row = n - 1 - (n_sel - 1 - i) * step;
        if (i % every == 0)
            add_row(sp, row - step / 2, ROW_ANCHOR);
        add_row(sp, row, ROW_SELECT);
    }
    for (int32_t r = 0; r < sp->n_row_block; r++)
        sp->chosen[r] = true;
}

static bool make_room(struct sparse *sp)
{
    int32_t n_head = sp->s.n_head, n_kv = sp->s.n_head_kv, most = sp->n_row_block;
    size_t n_row = (size_t)most * (2 * SEL_PER_BLOCK + 1) + 2 * SEL_RAGGED;
    size_t n_group = (size_t)most * KERN_SCORE_GROUPS, n_block = (size_t)sp->n_block;
    return ROOM(sp, chosen, most) && ROOM(sp, row, n_row) && ROOM(sp, use, n_row) &&
           ROOM(sp, group, n_group) && ROOM(sp, mass, n_head * n_row * n_block) &&
           ROOM(sp, lse, n_head * n_row) && ROOM(sp, anti, n_head * n_group * n_block) &&
           ROOM(sp, estimate, n_head * n_block) && ROOM(sp, rank, n_kv * n_block) &&
           ROOM(sp, first, n_kv * (most + 1)) && ROOM(sp, index, n_kv * most * n_block);
}

/* ---- choosing ---- */

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->block < y->block ? -1 : x->block > y->block;
}

static int by_block(const void *a, const void *b)
{
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

/* For one head and row block: mass of each block in the choosing rows, which counts coverage; the
 * same with antidiagonals mixed in, which ranks (averaging scores before the exponential, they
 * spread mass too evenly to count it, but see what the rows between look at); the largest mass in
 * any choosing row. rank and peak take the maximum with what they hold. */
static void estimate(const struct sparse *sp, int32_t head, int32_t r, float *mass, float *rank,
                     float *peak)
{
    int32_t n_block = sp->n_block, row0 = (sp->block0 + r) * TOK - sp->a->pos0, n = 0;
    float anti[n_block];
    memset(mass, 0, sizeof(float) * (size_t)n_block);
    memset(anti, 0, sizeof anti);
    for (int32_t i = 0; i < sp->n_row; i++) {
        bool mine = sp->ragged || (sp->row[i] >= row0 && sp->row[i] < row0 + TOK);
        if (sp->use[i] != ROW_SELECT || !mine)
            continue;
        const float *m = sp->mass + ((size_t)head * sp->n_row + i) * n_block;
        n++;
        for (int32_t j = 0; j < n_block; j++) {
            mass[j] += m[j];
            peak[j] = m[j] > peak[j] ? m[j] : peak[j];
        }
    }
    for (int32_t g = 0; g < sp->n_group; g++) {
        if (sp->group[g] < row0 || sp->group[g] >= row0 + TOK)
            continue;
        const float *m = sp->anti + ((size_t)head * sp->n_group + g) * n_block;
        for (int32_t j = 0; j < n_block; j++)
            anti[j] += m[j] / KERN_SCORE_GROUPS;
    }
    float share = sp->n_group ? ANTI_SHARE : 0;
    for (int32_t j = 0; j < n_block; j++) {
        mass[j] /= (float)n;
        rank[j] = fmaxf(rank[j], (1 - share) * mass[j] + share * anti[j]);
    }
}

/* Appends the blocks a row block b of this KV head reads to index; how many, or -1 = dense. */
static int32_t choose_blocks(struct sparse *sp, int32_t head_kv, int32_t r, float aim,
                             int32_t *index)
{
    int32_t group = sp->s.n_head / sp->s.n_head_kv, n_block = sp->n_block, b = sp->block0 + r;
    float *mass = sp->estimate + (size_t)head_kv * group * n_block;
    struct ranked *rank = sp->rank + (size_t)head_kv * n_block;
    float peak[n_block], most[n_block];
    memset(peak, 0, sizeof peak);
    memset(most, 0, sizeof most);
    for (int32_t h = 0; h < group; h++)
        estimate(sp, head_kv * group + h, r, mass + (size_t)h * n_block, most, peak);
    /* sinks are read anyway: what is not listed and not local competes */
    int32_t n = 0, n_rank = 0, local = b - FORCE_LOCAL + 1;
    float acc[group];
    for (int32_t h = 0; h < group; h++)
        acc[h] = 0;
    for (int32_t j = 0; j < n_block; j++) {
        bool take = j < FORCE_FIRST || j >= local || peak[j] > NEEDLE;
        if (!take) {
            rank[n_rank++] = (struct ranked){most[j], j};
            continue;
        }
        for (int32_t h = 0; h < group; h++)
            acc[h] += mass[(size_t)h * n_block + j];
        if (j <= b - 2)
            index[n++] = j;
    }
    qsort(rank, (size_t)n_rank, sizeof *rank, by_score);
    for (int32_t i = 0; i < n_rank; i++) {
        float least = acc[0];
        for (int32_t h = 1; h < group; h++)
            least = fminf(least, acc[h]);
        if (least >= aim)
            break;
        for (int32_t h = 0; h < group; h++)
            acc[h] += mass[(size_t)h * n_block + rank[i].block];
        index[n++] = rank[i].block;
    }
    if (n + 2 > sp->p.rho_max * (b + 1))
        return -1;
    qsort(index, (size_t)n, sizeof *index, by_block);
    return n;
}

static void choose_head(void *ctx, int part, int n_part)
{
    struct sparse *sp = ((void **)ctx)[0];
    struct layer_state *l = ((void **)ctx)[1];
    struct head_state *head = &l->head[part];
    int32_t *first = sp->first + (size_t)part * (sp->n_row_block + 1);
    first[0] = part * sp->n_row_block * sp->n_block;
    sp->n_listed[part] = 0;
    head->listed = false;
    for (int32_t r = 0; r < sp->n_row_block; r++) {
        int32_t b = sp->block0 + r, n = -1;
        int32_t *index = sp->index + first[r];
        if (sp->chosen[r] && !head->failed)
            n = choose_blocks(sp, part, r, head->aim, index);
        if (n >= 0) {
            head->listed = true;
        } else {
            n = max_i(0, b - 1);
            for (int32_t j = 0; j < n; j++)
                index[j] = j;
        }
        first[r + 1] = first[r] + n;
        sp->n_listed[part] += n + min_i(2, b + 1);
    }
}

/* Whether looking at this layer is worth it: a dense answer is certain and cheap. */
static bool may_pay(const struct sparse *sp, const struct layer_state *l)
{
    if (sp->p.always || l->rho < 0)
        return true;
    double rho = l->rho * pow((double)sp->n_block * TOK / l->n_key, DENSITY_EXPONENT);
    return COST_LISTED * rho + COST_SCORING < GAIN_MIN || l->n_dense >= l->n_wait;
}

const struct kern_block_list *sparse_choose(struct sparse *sp, int32_t layer,
                                            const struct kern_attn *a, bool tail,
                                            enum sparse_reason *ret_reason)
{
    struct layer_state *l = &sp->layer[layer];
    assert(a->n_head == sp->s.n_head && a->kv->n_head_kv == sp->s.n_head_kv);
    int32_t end = a->pos0 + a->n_tok;
    *ret_reason = sp->p.coverage >= 1      ? SPARSE_OFF
                  : a->n_tok < ROWS_MIN    ? SPARSE_FEW_ROWS
                  : end < sp->p.n_min      ? SPARSE_SHORT
                  : a->window > 0          ? SPARSE_WINDOW
                                           : SPARSE_ON;
    if (*ret_reason != SPARSE_ON)
        return NULL;
    sp->a = a;
    sp->block0 = a->pos0 / TOK;
    sp->n_block = (end - 1) / TOK + 1;
    sp->n_row_block = sp->n_block - sp->block0;
    *ret_reason = SPARSE_NO_GAIN;
    if (!may_pay(sp, l)) {
        l->n_dense++;
        return NULL;
    }
    *ret_reason = SPARSE_NO_SCORER;
    if (!make_room(sp))
        return NULL;
    sp->n_row = sp->n_group = 0;
    sp->ragged = a->n_tok < ROWS_FULL;
    if (sp->ragged)
        rows_ragged(sp);
    else
        rows_by_block(sp, l->more_rows ? 2 * SEL_PER_BLOCK : SEL_PER_BLOCK, tail);
    struct kern_score score = {.a = a, .n_block = sp->n_block, .n_row = sp->n_row, .row = sp->row,
                               .mass = sp->mass, .lse = sp->lse, .n_group = sp->n_group,
                               .group = sp->group, .anti = sp->anti};
    if (!kern_score(sp->k, &score))
        return NULL;
    void *ctx[] = {sp, l};
    kern_parallel(sp->k, sp->s.n_head_kv, choose_head, ctx);

    int64_t n_listed = 0;
    bool any = false, failed = true;
    sp->n_possible = 0;
    for (int32_t r = 0; r < sp->n_row_block; r++)
        sp->n_possible += sp->block0 + r + 1;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++) {
        n_listed += sp->n_listed[h];
        any = any || l->head[h].listed;
        failed = failed && l->head[h].failed;
    }
    l->rho = (double)n_listed / ((double)sp->n_possible * sp->s.n_head_kv);
    l->n_key = end;
    l->n_dense = 0;
    bool pays = any && COST_LISTED * l->rho < 1;
    l->n_wait = pays ? PROBE_AFTER : min_i(2 * l->n_wait + 1, PROBE_MOST);
    *ret_reason = failed ? SPARSE_MISSED : SPARSE_NO_GAIN;
    if (!any || (!sp->p.always && !pays))
        return NULL;
    *ret_reason = SPARSE_ON;
    sp->list = (struct kern_block_list){sp->first, sp->index};
    return &sp->list;
}

/* ---- reading out ---- */

static void note_mass(struct sparse *sp, double w, int32_t n)
{
    int bin = (int)(w * MASS_BINS);
    sp->mass_bin[bin < 0 ? 0 : bin > MASS_BINS ? MASS_BINS : bin] += n;
    sp->mass_sum += n * w;
    sp->n_mass += n;
}

/* What one held-out row per 64 would have shown where attention is dense. */
static void note_dense(struct sparse *sp, int32_t n_row)
{
    note_mass(sp, 1, (n_row + TOK - 1) / TOK * sp->s.n_head);
}

/* The held-out rows: retained mass, and what it says about the heads. */
static void read_anchors(struct sparse *sp, int32_t layer)
{
    struct layer_state *l = &sp->layer[layer];
    int32_t n_head = sp->s.n_head, group = n_head / sp->s.n_head_kv;
    bool had_more = l->more_rows;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++) {
        const int32_t *first = sp->first + (size_t)h * (sp->n_row_block + 1);
        double sum = 0;
        int32_t n = 0, n_low = 0;
        float c = sp->p.coverage;
        for (int32_t i = 0; i < sp->n_row; i++) {
            if (sp->use[i] != ROW_ANCHOR)
                continue;
            int32_t r = (sp->a->pos0 + sp->row[i]) / TOK - sp->block0;
            bool dense = first[r + 1] - first[r] >= max_i(0, sp->block0 + r - 1);
            for (int32_t g = 0; g < group; g++) {
                int32_t head = h * group + g;
                float d = sp->lse[(size_t)head * sp->n_row + i];
                float s = sp->lse_host[(size_t)sp->row[i] * n_head + head];
                float w = dense ? 1 : fminf(1, expf(s - d));
                note_mass(sp, (double)w, 1);
                sp->head_mass[(size_t)layer * n_head + head] += (double)w;
                sp->head_n[(size_t)layer * n_head + head]++;
                if (dense)
                    continue;
                sp->n_held_out++;
                sum += (double)w;
                n_low += w < 0.5f * c;
                n++;
            }
        }
        if (n == 0 || sp->p.no_feedback)
            continue;
        struct head_state *head = &l->head[h];
        bool low = n_low > 1 + n / 20, high = head->aim >= COVER_TOP;
        bool missed = (float)(sum / n) < c - MISS * (1 - c);
        head->aim += 0.5f * (c - (float)(sum / n));
        head->aim = fminf(fmaxf(head->aim, c - COVER_SLACK), fmaxf(COVER_TOP, (1 + c) / 2));
        /* first more rows choose; when that and aiming high do not help, all is read */
        if (low || missed) {
            head->failed = had_more && (low || high);
            l->more_rows = true;
        }
    }
}

/* One row of the call, drawn by hash, is answered densely too: the error of its output. */
static void audit(struct sparse *sp, const struct kern_attn *a)
{
    struct kern *k = sp->k;
    size_t n = (size_t)a->n_head * (size_t)a->kv->head_dim;
    int32_t row = (int32_t)(draw(sp) % (uint32_t)a->n_tok);
    if (!sp->chosen[(a->pos0 + row) / TOK - sp->block0])
        return;
    if (!sp->audit_dev) {
        sp->audit_dev = k->ops->alloc(k, 2 * n * sizeof(float));
        sp->audit_host = mem_try(2 * n * sizeof(float));
    }
    if (!sp->audit_dev || !sp->audit_host)
        return;
    struct kern_attn one = *a;
    one.q = a->q + (size_t)row * n;
    one.out = sp->audit_dev;
    one.n_tok = 1;
    one.pos0 = a->pos0 + row;
    one.lse = NULL;
    one.list = NULL;
    k->ops->attend(k, &one);
    k->ops->download(k, sp->audit_host, sp->audit_dev, n * sizeof(float));
    k->ops->download(k, sp->audit_host + n, a->out + (size_t)row * n, n * sizeof(float));
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)sp->audit_host[i], e = (double)sp->audit_host[n + i] - d;
        off += e * e;
        all += d * d;
    }
    if (all > 0) {
        sp->error_sum += sqrt(off / all);
        sp->n_audit++;
    }
}

static bool lse_room(struct sparse *sp, int32_t n_tok)
{
    if (n_tok <= sp->lse_rows)
        return true;
    if (sp->lse_dev)
        sp->k->ops->free(sp->k, sp->lse_dev);
    free(sp->lse_host);
    size_t size = sizeof(float) * (size_t)n_tok * (size_t)sp->s.n_head;
    sp->lse_dev = sp->k->ops->alloc(sp->k, size);
    sp->lse_host = mem_try(size);
    sp->lse_rows = sp->lse_dev && sp->lse_host ? n_tok : 0;
    return sp->lse_rows > 0;
}

static double causal_blocks(const struct kern_attn *a)
{
    double n = 0;
    for (int32_t b = a->pos0 / TOK; b <= (a->pos0 + a->n_tok - 1) / TOK; b++)
        n += b + 1;
    return n;
}

void sparse_attend(struct sparse *sp, int32_t layer, const struct kern_attn *a, bool tail)
{
    struct kern *k = sp->k;
    enum sparse_reason why;
    double t0 = now_s();
    const struct kern_block_list *list = sparse_choose(sp, layer, a, tail, &why);
    if (list && !lse_room(sp, a->n_tok)) {
        list = NULL;
        why = SPARSE_NO_SCORER;
    }
    double t1 = now_s(), all = causal_blocks(a) * sp->s.n_head_kv;
    if (!list) {
        k->ops->attend(k, a);
        if (why == SPARSE_FEW_ROWS)
            return;
        sp->n_call[why]++;
        if (why == SPARSE_WINDOW)
            return;
        sp->n_read += all;
        sp->n_all += all;
        if (a->n_tok >= ROWS_FULL && sp->k->n_thread > 0) { /* streams return before they are done */
            sp->dense_s += now_s() - t1;
            sp->dense_all += all;
        }
        note_dense(sp, a->n_tok);
        return;
    }
    struct kern_attn with = *a;
    with.list = list;
    with.lse = sp->lse_dev;
    k->ops->attend(k, &with);
    k->ops->download(k, sp->lse_host, sp->lse_dev,
                     sizeof(float) * (size_t)a->n_tok * (size_t)a->n_head);
    read_anchors(sp, layer);
    for (int32_t r = 0; r < sp->n_row_block; r++)
        if (!sp->chosen[r])
            note_dense(sp, 1);
    audit(sp, &with);
    double read = 0;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++)
        read += sp->n_listed[h];
    sp->n_call[SPARSE_ON]++;
    sp->n_read += read;
    sp->n_all += all;
    sp->sparse_read += read;
    sp->sparse_all += all;
    sp->score_s += t1 - t0;
    sp->attend_s += now_s() - t1;
}

void sparse_report(const struct sparse *sp, struct sparse_report *ret)
{
    *ret = (struct sparse_report){
        .density = sp->n_all > 0 ? sp->n_read / sp->n_all : NAN,
        .mass_mean = sp->n_mass > 0 ? sp->mass_sum / (double)sp->n_mass : NAN,
        .mass_p5 = NAN,
        .mass_worst = NAN,
        .worst_layer = -1,
        .worst_head = -1,
        .n_held_out = sp->n_held_out,
        .error_mean = sp->n_audit > 0 ? sp->error_sum / sp->n_audit : NAN,
        .n_audit = sp->n_audit,
        .gain_predicted = NAN,
        .gain_measured = NAN,
        .score_share = NAN,
        .reason = SPARSE_OFF,
    };
    int64_t below = 0;
    for (int i = 0; i <= MASS_BINS && isnan(ret->mass_p5) && sp->n_mass > 0; i++) {
        below += sp->mass_bin[i];
        if (below * 20 > sp->n_mass)
            ret->mass_p5 = (double)i / MASS_BINS;
    }
    for (int32_t i = 0; i < sp->s.n_layer * sp->s.n_head; i++) {
        double w = sp->head_n[i] ? sp->head_mass[i] / sp->head_n[i] : NAN;
        if (sp->head_n[i] && (isnan(ret->mass_worst) || w < ret->mass_worst)) {
            ret->mass_worst = w;
            ret->worst_layer = i / sp->s.n_head;
            ret->worst_head = i % sp->s.n_head;
        }
    }
    int32_t most = 0;
    for (int r = 0; r < SPARSE_REASONS; r++) {
        ret->n_call[r] = sp->n_call[r];
        if (sp->n_call[r] > most) {
            most = sp->n_call[r];
            ret->reason = (enum sparse_reason)r;
        }
    }
    if (sp->n_call[SPARSE_ON] == 0)
        return;
    ret->reason = SPARSE_ON;
    double spent = sp->score_s + sp->attend_s;
    ret->gain_predicted =
        1 / (COST_LISTED * sp->sparse_read / sp->sparse_all + COST_SCORING);
    ret->score_share = sp->score_s / spent;
    if (sp->dense_all > 0)
        ret->gain_measured = sp->dense_s / sp->dense_all * sp->sparse_all / spent;
}
