#include "engine/sparse.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/sparse_impl.h"
#include "kernels/score.h"

enum {
    ROWS_MIN = 32,      /* fewer new rows are dense */
    ROWS_FULL = 256,    /* from here on antidiagonals and row blocks of their own */
    SEL_PER_BLOCK = 4,  /* rows of a row block that choose */
    SEL_RAGGED = 8,     /* rows that choose when there are few */
    AUDIT_BLOCKS = 2,   /* one row in so many row blocks audits the correction */
    PROBE_AFTER = 3,    /* chunks until a layer or head that did not pay is looked at again; */
    PROBE_MOST = 31     /* doubled each time in vain, up to this */
};

#define RHO_MAX 0.85f /* a block read through a list costs little more than one read densely */
#define ANTI_SHARE 0.5f
#define NEEDLE 0.05f        /* a block with this much mass of any choosing row is read */
#define GAIN_MIN 0.90       /* predicted cost, in dense ones, that still counts as paying */
#define DENSITY_EXPONENT (-0.67) /* how density falls with length (XAttention's table) */

/* Costs in units of the dense kernel's, measured with bench_sparse (time): a block read through a
 * list against one read densely, and scoring against all of dense attention. */
#define COST_LISTED 1.08
#define COST_SCORING 0.10

/* cap's own row: sinks, the neighbourhood and the question are read whole. */
static const struct prefill_method cap = {
    .first = 128, .local = 256, .tail = 128, .fix = FIX_FITTED};

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

struct sparse *sparse_new(struct kern *k, const struct sparse_shape *s,
                          const struct sparse_params *p)
{
    struct sparse *sp = mem_calloc(1, sizeof *sp);
    sp->k = k;
    sp->s = *s;
    sp->p = *p;
    if (p->method.score == PREFILL_CAP && p->method.first == 0)
        sp->p.method = cap;
    if (sp->p.method.score != PREFILL_CAP) { /* published methods have neither fallback nor feedback */
        sp->p.always = sp->p.no_feedback = true;
        sp->p.rho_max = 2;
    }
    if (sp->p.n_min <= 0)
        sp->p.n_min = SPARSE_N_MIN;
    if (sp->p.rho_max <= 0)
        sp->p.rho_max = RHO_MAX;
    sp->layer = mem_calloc((size_t)s->n_layer, sizeof *sp->layer);
    for (int32_t i = 0; i < s->n_layer; i++)
        sp->layer[i].head = mem_calloc((size_t)s->n_head_kv, sizeof *sp->layer[i].head);
    size_t n_head = (size_t)s->n_layer * (size_t)s->n_head;
    sp->head_mass = mem_calloc(n_head, sizeof *sp->head_mass);
    sp->head_n = mem_calloc(n_head, sizeof *sp->head_n);
    sp->dropped = mem_calloc((size_t)s->n_head, sizeof *sp->dropped);
    sp->n_listed = mem_calloc((size_t)s->n_head_kv, sizeof *sp->n_listed);
    sp->asleep = mem_calloc((size_t)s->n_head_kv, sizeof *sp->asleep);
    sparse_begin(sp, p->coverage);
    return sp;
}

void sparse_free(struct sparse *sp)
{
    if (!sp)
        return;
    for (int32_t i = 0; i < sp->s.n_layer; i++)
        free(sp->layer[i].head);
    void *parts[] = {sp->layer, sp->chosen, sp->row,   sp->held,     sp->group,     sp->mass,
                     sp->anti,  sp->lse,    sp->index, sp->estimate, sp->rank,      sp->first,
                     sp->n_listed, sp->asleep, sp->lse_host, sp->held_host, sp->sparse_host,
                     sp->dropped, sp->head_mass, sp->head_n};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    if (sp->lse_dev)
        sp->k->ops->free(sp->k, sp->lse_dev);
    if (sp->held_dev)
        sp->k->ops->free(sp->k, sp->held_dev);
    free(sp);
}

void sparse_begin(struct sparse *sp, float coverage)
{
    float own = sp->p.method.coverage;
    sp->p.coverage = own > 0 ? own : coverage >= 1 ? 1 : coverage < 0.7f ? 0.7f : coverage;
    for (int32_t i = 0; i < sp->s.n_layer; i++) {
        struct layer_state *l = &sp->layer[i];
        l->rho = -1;
        l->n_key = l->n_dense = 0;
        l->n_wait = PROBE_AFTER;
        l->more_rows = false;
        l->n_read = l->n_all = 0;
        for (int32_t h = 0; h < sp->s.n_head_kv; h++)
            l->head[h] = (struct head_state){.aim = (1 + sp->p.coverage) / 2, /* until rows tell */
                                             .n_wait = PROBE_AFTER};
    }
    sp->n_read = sp->n_all = 0;
    sp->error_sum = sp->error_before_sum = sp->fix_sum = 0;
    sp->n_audit = sp->n_held_out = sp->n_fix = 0;
    sp->score_s = sp->attend_s = sp->sparse_all = sp->sparse_read = 0;
    sp->hash = 2463534242u;
    memset(&sp->kept, 0, sizeof sp->kept);
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

#define ROOM(sp, name, n) room(&(sp)->name, &(sp)->name##_cap, (n), sizeof *(sp)->name)

/* ---- which rows are scored ---- */

static bool reads_groups(const struct prefill_method *m)
{
    return m->score == PREFILL_CAP || m->score == PREFILL_DIAGONALS;
}

static bool reads_lines(const struct prefill_method *m)
{
    return m->score == PREFILL_LINES || m->score == PREFILL_COLUMNS;
}

static uint32_t draw(struct sparse *sp)
{
    sp->hash ^= sp->hash << 13;
    sp->hash ^= sp->hash >> 17;
    sp->hash ^= sp->hash << 5;
    return sp->hash;
}

/* Any row of a row block but those that choose, every step-th, by hash: a fixed place would favour
 * what a choosing row nearby looks at. */
static int32_t draw_row(struct sparse *sp, int32_t step)
{
    int32_t row = (int32_t)(draw(sp) % TOK);
    return row + (step > 1 && row % step == step / 2);
}

/* Whole row blocks before the question choose for themselves. One row in each is held out. */
static void rows_by_block(struct sparse *sp, int32_t n_sel, int32_t turn_end)
{
    const struct prefill_method *m = &sp->p.method;
    const struct kern_attn *a = sp->a;
    int32_t step = n_sel > 0 ? TOK / n_sel : 1;
    int32_t end = min_i(a->pos0 + a->n_tok, turn_end - m->tail), voting = a->n_tok - m->n_last;
    for (int32_t r = 0; r < sp->n_row_block; r++) {
        int32_t at = (sp->block0 + r) * TOK, row = at - a->pos0;
        sp->chosen[r] = row >= 0 && at + TOK <= end;
        for (int32_t i = 0; i < TOK; i++) {
            bool sampled = n_sel > 0 && i % step == step / 2 && (sp->chosen[r] || m->n_last > 0);
            bool in_call = row + i >= 0 && row + i < a->n_tok;
            if (in_call && (sampled || row + i >= voting))
                sp->row[sp->n_row++] = row + i;
        }
        if (!sp->chosen[r])
            continue;
        for (int32_t g = 0; g < KERN_SCORE_GROUPS && reads_groups(m); g++)
            sp->group[sp->n_group++] = row + g * KERN_SCORE_STRIDE;
        int32_t anchor = m->fix == FIX_PLAIN ? 0 : draw_row(sp, step), audit = draw_row(sp, step);
        sp->held[sp->n_held++] = (struct held){row + anchor, false};
        if ((sp->block0 + r) % AUDIT_BLOCKS == 0 && audit != anchor)
            sp->held[sp->n_held++] = (struct held){row + audit, true};
    }
}

/* How many of the first rows of a short call may read lists: row blocks before the question. */
static int32_t rows_listed(const struct sparse *sp, const struct kern_attn *a, int32_t turn_end)
{
    int32_t end = a->pos0 + a->n_tok, most = turn_end - sp->p.method.tail;
    return end <= most ? a->n_tok : max_i(0, most / TOK * TOK - a->pos0);
}

/* A short call: a few of the first n rows choose for all of them, the others read everything. */
static void rows_ragged(struct sparse *sp, int32_t n)
{
    int32_t n_sel = min_i(SEL_RAGGED, n / 4), step = n / n_sel;
    int32_t every = max_i(1, n_sel / max_i(1, n / TOK)); /* one held-out row per 64 */
    for (int32_t i = 0; i < n_sel; i++) {
        int32_t row = n - 1 - (n_sel - 1 - i) * step;
        if (i % every == 0)
            sp->held[sp->n_held++] = (struct held){row - step / 2, false};
        sp->row[sp->n_row++] = row;
    }
    for (int32_t r = 0; r < sp->n_row_block; r++)
        sp->chosen[r] = (sp->block0 + r) * TOK < sp->a->pos0 + n;
}

/* The arrays of a call, in elements. */
enum {
    ROOM_CHOSEN, ROOM_ROW, ROOM_HELD, ROOM_GROUP, ROOM_MASS, ROOM_LSE, ROOM_ANTI, ROOM_ESTIMATE,
    ROOM_RANK, ROOM_FIRST, ROOM_INDEX, N_ROOM
};

static void room_sizes(const struct sparse_shape *s, const struct prefill_method *m,
                       size_t n_row_block, size_t n_block, size_t n[N_ROOM])
{
    size_t n_head = (size_t)s->n_head, n_kv = (size_t)s->n_head_kv;
    size_t n_sel = (size_t)max_i(m->n_spread, 2 * SEL_PER_BLOCK);
    n[ROOM_CHOSEN] = n_row_block;
    n[ROOM_ROW] = n_row_block * n_sel + (size_t)m->n_last + SEL_RAGGED;
    n[ROOM_HELD] = 2 * n_row_block + SEL_RAGGED;
    n[ROOM_GROUP] = n_row_block * KERN_SCORE_GROUPS;
    n[ROOM_MASS] = n_head * n[ROOM_ROW] * n_block;
    n[ROOM_LSE] = n_head * n[ROOM_ROW];
    n[ROOM_ANTI] = n_head * n[ROOM_GROUP] * n_block;
    n[ROOM_ESTIMATE] = n_head * n_block;
    n[ROOM_RANK] = n_kv * n_block;
    n[ROOM_FIRST] = n_kv * (n_row_block + 1);
    n[ROOM_INDEX] = n_kv * n_row_block * n_block;
}

static bool make_room(struct sparse *sp)
{
    size_t n[N_ROOM];
    room_sizes(&sp->s, &sp->p.method, (size_t)sp->n_row_block, (size_t)sp->n_block, n);
    return ROOM(sp, chosen, n[ROOM_CHOSEN]) && ROOM(sp, row, n[ROOM_ROW]) &&
           ROOM(sp, held, n[ROOM_HELD]) && ROOM(sp, group, n[ROOM_GROUP]) &&
           ROOM(sp, mass, n[ROOM_MASS]) && ROOM(sp, lse, n[ROOM_LSE]) &&
           ROOM(sp, anti, n[ROOM_ANTI]) && ROOM(sp, estimate, n[ROOM_ESTIMATE]) &&
           ROOM(sp, rank, n[ROOM_RANK]) && ROOM(sp, first, n[ROOM_FIRST]) &&
           ROOM(sp, index, n[ROOM_INDEX]);
}

uint64_t sparse_bytes(const struct sparse_shape *s, const struct prefill_method *m, int32_t n_tok,
                      int32_t n_chunk)
{
    size_t n[N_ROOM], row = (size_t)s->n_head * (size_t)s->head_dim, n_head = (size_t)s->n_head;
    room_sizes(s, m, (size_t)n_chunk / TOK + 1, (size_t)n_tok / TOK + 1, n);
    size_t floats = n[ROOM_MASS] + n[ROOM_LSE] + n[ROOM_ANTI] + n[ROOM_ESTIMATE];
    floats += n[ROOM_HELD] * (2 * (row + n_head) + row) + 2 * (size_t)n_chunk * n_head;
    return floats * sizeof(float) +
           (n[ROOM_ROW] + n[ROOM_GROUP] + n[ROOM_FIRST] + n[ROOM_INDEX]) * sizeof(int32_t) +
           n[ROOM_RANK] * sizeof(struct ranked) + n[ROOM_HELD] * sizeof(struct held) +
           n[ROOM_CHOSEN] * sizeof(bool);
}

/* ---- choosing ---- */

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
        if (!mine)
            continue;
        const float *m = sp->mass + ((size_t)head * sp->n_row + i) * n_block;
        n++;
        for (int32_t j = 0; j < n_block; j++) {
            mass[j] += m[j];
            peak[j] = m[j] > peak[j] ? m[j] : peak[j];
        }
    }
    bool alone = sp->p.method.score == PREFILL_DIAGONALS;
    for (int32_t g = 0; g < sp->n_group; g++) {
        if (sp->group[g] < row0 || sp->group[g] >= row0 + TOK)
            continue;
        const float *m = sp->anti + ((size_t)head * sp->n_group + g) * n_block;
        for (int32_t j = 0; j < n_block; j++)
            anti[j] += m[j] / KERN_SCORE_GROUPS;
    }
    float share = alone ? 1 : sp->n_group ? ANTI_SHARE : 0;
    for (int32_t j = 0; j < n_block; j++) {
        mass[j] = alone ? anti[j] : mass[j] / (float)n;
        rank[j] = fmaxf(rank[j], (1 - share) * mass[j] + share * anti[j]);
    }
}

/* First and newest blocks, the row's own included, that row block b always reads. */
static void always_read(const struct sparse *sp, int32_t b, int32_t *ret_first, int32_t *ret_local)
{
    const struct prefill_method *m = &sp->p.method;
    int32_t local = max_i(m->local, (int32_t)(m->local_share * (float)((b + 1) * TOK)));
    *ret_first = (m->first + TOK - 1) / TOK;
    *ret_local = b - max_i(2, (local + TOK - 1) / TOK) + 1; /* attention reads b and b-1 anyway */
}

/* Writes the blocks that row block r of this KV head reads beside b and b-1, by their masses; how
 * many, or -1 = all. */
static int32_t choose_blocks(struct sparse *sp, int32_t head_kv, int32_t r, float aim,
                             int32_t *index)
{
    int32_t group = sp->s.n_head / sp->s.n_head_kv, n_block = sp->n_block, b = sp->block0 + r;
    float *mass = sp->estimate + (size_t)head_kv * group * n_block;
    struct ranked *rank = sp->rank + (size_t)head_kv * n_block;
    float peak[n_block], most[n_block], acc[group];
    float needle = sp->p.method.score == PREFILL_CAP ? NEEDLE : 2;
    int32_t n = 0, n_rank = 0, first, local;
    always_read(sp, b, &first, &local);
    memset(peak, 0, sizeof peak);
    memset(most, 0, sizeof most);
    for (int32_t h = 0; h < group; h++) {
        estimate(sp, head_kv * group + h, r, mass + (size_t)h * n_block, most, peak);
        acc[h] = 0;
    }
    for (int32_t j = 0; j < n_block; j++) {
        if (j >= first && j < local && peak[j] <= needle) {
            rank[n_rank++] = (struct ranked){most[j], j};
            continue;
        }
        for (int32_t h = 0; h < group; h++)
            acc[h] += mass[(size_t)h * n_block + j];
        if (j <= b - 2)
            index[n++] = j;
    }
    blocks_rank(rank, n_rank);
    n += blocks_cover(rank, n_rank, mass, n_block, group, aim, n_rank, acc, index + n);
    if (n + 2 > sp->p.rho_max * (b + 1))
        return -1;
    blocks_order(index, n);
    return n;
}

/* The same by lines; NULL = none. */
static int32_t choose_lines(const struct sparse *sp, int32_t r, const bool *column,
                            const bool *slash, int32_t *index)
{
    int32_t n = 0, b = sp->block0 + r, first, local;
    always_read(sp, b, &first, &local);
    for (int32_t j = 0; j <= b - 2; j++)
        if (j < first || j >= local || (column && (column[j] || slash[b - j] || slash[b - j - 1])))
            index[n++] = j;
    return n;
}

/* The lines that all voting rows of a KV head's group look at. */
static void vote(const struct sparse *sp, int32_t head_kv, bool *column, bool *slash)
{
    int32_t group = sp->s.n_head / sp->s.n_head_kv, n = group * sp->n_row, own[n];
    for (int32_t i = 0; i < n; i++)
        own[i] = (sp->a->pos0 + sp->row[i % sp->n_row]) / TOK;
    const float *mass = sp->mass + (size_t)head_kv * group * sp->n_row * sp->n_block;
    blocks_lines(&sp->p.method, sp->p.coverage, mass, own, n, sp->n_block, column, slash);
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
    bool lines = reads_lines(&sp->p.method), column[sp->n_block], slash[sp->n_block];
    if (lines && !sp->asleep[part])
        vote(sp, part, column, slash);
    for (int32_t r = 0; r < sp->n_row_block; r++) {
        int32_t b = sp->block0 + r, n = -1;
        int32_t *index = sp->index + first[r];
        if (sp->chosen[r] && !sp->asleep[part])
            n = lines || sp->p.method.score == PREFILL_STATIC
                    ? choose_lines(sp, r, lines ? column : NULL, slash, index)
                    : choose_blocks(sp, part, r, head->aim, index);
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
    if (sp->asleep[part]) {
        head->n_sleep--;
    } else if (head->listed) {
        head->n_wait = PROBE_AFTER;
    } else {
        head->n_sleep = head->n_wait;
        head->n_wait = min_i(2 * head->n_wait + 1, PROBE_MOST);
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
                                            const struct kern_attn *a, int32_t turn_end,
                                            enum sparse_reason *ret_reason)
{
    struct layer_state *l = &sp->layer[layer];
    int32_t end = a->pos0 + a->n_tok;
    const struct prefill_method *m = &sp->p.method;
    int32_t rows_min = m->score == PREFILL_DIAGONALS ? ROWS_FULL : ROWS_MIN;
    int32_t n_listed_row = a->n_tok < ROWS_FULL ? rows_listed(sp, a, turn_end) : a->n_tok;
    bool off = m->score == PREFILL_CAP && sp->p.coverage >= 1;
    *ret_reason = off                      ? SPARSE_OFF
                  : n_listed_row < rows_min ? SPARSE_FEW_ROWS
                  : end < sp->p.n_min      ? SPARSE_SHORT
                  : a->window > 0          ? SPARSE_WINDOW
                                           : SPARSE_ON;
    if (*ret_reason != SPARSE_ON)
        return NULL;
    assert(a->n_head == sp->s.n_head && a->kv->n_head_kv == sp->s.n_head_kv);
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
    sp->n_row = sp->n_group = sp->n_held = 0;
    sp->ragged = a->n_tok < ROWS_FULL;
    if (sp->ragged)
        rows_ragged(sp, n_listed_row);
    else
        rows_by_block(sp,
                      m->score != PREFILL_CAP ? m->n_spread
                      : l->more_rows          ? 2 * SEL_PER_BLOCK
                                              : SEL_PER_BLOCK,
                      turn_end);
    for (int32_t h = 0; h < sp->s.n_head_kv; h++)
        sp->asleep[h] = l->head[h].failed || (!sp->p.always && l->head[h].n_sleep > 0);
    struct kern_score score = {.a = a, .n_block = sp->n_block, .asleep = sp->asleep,
                               .n_row = sp->n_row, .row = sp->row, .mass = sp->mass,
                               .lse = sp->lse, .n_group = sp->n_group, .group = sp->group,
                               .anti = sp->anti};
    if (sp->n_row + sp->n_group > 0 && !kern_score(sp->k, &score))
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

void sparse_attend(struct sparse *sp, int32_t layer, const struct kern_attn *a, int32_t turn_end)
{
    struct kern *k = sp->k;
    enum sparse_reason why;
    double t0 = clock_s();
    const struct kern_block_list *list = sparse_choose(sp, layer, a, turn_end, &why);
    if (list && !lse_room(sp, a->n_tok)) {
        list = NULL;
        why = SPARSE_NO_SCORER;
    }
    double t1 = clock_s(), all = causal_blocks(a) * sp->s.n_head_kv;
    if (!list) {
        k->ops->attend(k, a);
        if (why == SPARSE_FEW_ROWS)
            return;
        sp->n_call[why]++;
        if (why == SPARSE_WINDOW)
            return;
        sp->n_read += all;
        sp->n_all += all;
        sp->layer[layer].n_read += all;
        sp->layer[layer].n_all += all;
        if (a->n_tok >= ROWS_FULL && sp->k->n_thread > 0) { /* streams return before they are done */
            sp->dense_s += clock_s() - t1;
            sp->dense_all += all;
        }
        sparse_note_dense(sp, a->n_tok);
        return;
    }
    struct kern_attn with = *a;
    with.list = list;
    with.lse = a->lse ? a->lse : sp->lse_dev; /* whoever asks wants it of what was read */
    k->ops->attend(k, &with);
    k->ops->download(k, sp->lse_host, with.lse,
                     sizeof(float) * (size_t)a->n_tok * (size_t)a->n_head);
    sparse_hold(sp, layer, &with);
    for (int32_t r = 0; r < sp->n_row_block; r++)
        if (!sp->chosen[r])
            sparse_note_dense(sp, 1);
    double read = 0;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++)
        read += sp->n_listed[h];
    sp->n_call[SPARSE_ON]++;
    sp->n_read += read;
    sp->n_all += all;
    sp->layer[layer].n_read += read;
    sp->layer[layer].n_all += all;
    sp->sparse_read += read;
    sp->sparse_all += all;
    sp->score_s += t1 - t0;
    sp->attend_s += clock_s() - t1;
}

void sparse_report(const struct sparse *sp, struct sparse_report *ret)
{
    *ret = (struct sparse_report){
        .density = sp->n_all > 0 ? sp->n_read / sp->n_all : NAN,
        .mass_mean = mass_mean(&sp->kept),
        .mass_p5 = mass_p5(&sp->kept),
        .mass_worst = NAN,
        .worst_layer = -1,
        .worst_head = -1,
        .n_held_out = sp->n_held_out,
        .error_mean = sp->n_audit > 0 ? sp->error_sum / sp->n_audit : NAN,
        .error_before = sp->n_audit > 0 ? sp->error_before_sum / sp->n_audit : NAN,
        .correction = sp->n_fix > 0 ? sp->fix_sum / sp->n_fix : NAN,
        .n_audit = sp->n_audit,
        .gain_predicted = NAN,
        .gain_measured = NAN,
        .score_share = NAN,
        .reason = SPARSE_OFF,
    };
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

void sparse_report_layer(const struct sparse *sp, int32_t layer, double *ret_density,
                         double *ret_mass)
{
    const struct layer_state *l = &sp->layer[layer];
    double mass = 0;
    int64_t n = 0;
    for (int32_t i = layer * sp->s.n_head; i < (layer + 1) * sp->s.n_head; i++) {
        mass += sp->head_mass[i];
        n += sp->head_n[i];
    }
    *ret_density = l->n_all > 0 ? l->n_read / l->n_all : NAN;
    /* Rows that were read densely kept everything; only sparse ones are measured. */
    *ret_mass = n > 0 ? mass / (double)n : l->n_all > 0 && l->n_read >= l->n_all ? 1 : NAN;
}
