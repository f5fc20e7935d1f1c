#include "engine/select.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "kernels/page.h"
#include "kernels/score.h"

enum {
    TOK = KERN_BLOCK_TOK,
    PROBES = 3,      /* recent queries that decide; x heads of a group they should stay few */
    LOCAL = 4,       /* newest blocks, always read */
    CANDIDATES = 2   /* pages that bounds let through, in shares */
};

#define N_MIN 4096
#define SHARE 0.25f
#define MISS 0.10 /* a retained mass further under the coverage than this counts as missed */

struct layer_list {
    float *ring;     /* host [SELECT_EVERY][n_head, head_dim] */
    int32_t *index;  /* [n_head_kv][cap] ascending; the newest blocks are put behind as they age */
    int32_t *n;      /* [n_head_kv] */
    int32_t cap;
    int32_t end;     /* blocks before this one are decided on; 0 = no list yet */
    int32_t n_row;   /* in the ring */
    int32_t next;    /* position the ring goes on with */
    int32_t n_missed;
    bool failed;
};

struct ranked {
    float score;
    int32_t block;
};

struct select {
    struct kern *k;
    struct sparse_shape s;
    struct select_params p;
    struct layer_list *layer;
    int32_t answer0;

    /* choosing: the layer at hand */
    const struct layer_list *at;
    struct kern_attn rows;
    int32_t n_block, older; /* blocks in all; those before `older` may be left out */
    bool *only;             /* [n_head_kv][n_block] */
    float *mass, *lse;      /* of kern_score */
    struct ranked *rank;    /* [n_head_kv][n_block] */
    float *bound;           /* [n_head_kv][rows x group][n_block] */
    int32_t cap;
    float *look;            /* [n_head_kv][n_block_cap] mass of a dense look */
    int32_t look_cap;
    int32_t *first, *index; /* of the list at hand */
    int32_t index_cap;

    double n_read, n_all, mass_sum;
    int32_t n_mass, n_choice, n_failed;
};

static const int32_t probe_rows[PROBES] = {5, 10, 15};

struct select *select_new(struct kern *k, const struct sparse_shape *s,
                          const struct select_params *p)
{
    struct select *se = mem_calloc(1, sizeof *se);
    se->k = k;
    se->s = *s;
    se->p = *p;
    if (se->p.n_min <= 0)
        se->p.n_min = N_MIN;
    if (se->p.share <= 0)
        se->p.share = SHARE;
    se->layer = mem_calloc((size_t)s->n_layer, sizeof *se->layer);
    size_t row = (size_t)s->n_head * (size_t)s->head_dim;
    for (int32_t i = 0; i < s->n_layer; i++) {
        se->layer[i].ring = mem_calloc(SELECT_EVERY * row, sizeof(float));
        se->layer[i].n = mem_calloc((size_t)s->n_head_kv, sizeof(int32_t));
    }
    se->first = mem_calloc(2 * (size_t)s->n_head_kv, sizeof(int32_t));
    return se;
}

void select_free(struct select *se)
{
    if (!se)
        return;
    for (int32_t i = 0; i < se->s.n_layer; i++) {
        free(se->layer[i].ring);
        free(se->layer[i].index);
        free(se->layer[i].n);
    }
    void *parts[] = {se->layer, se->only,  se->mass,  se->lse,  se->rank,
                     se->bound, se->look, se->first, se->index};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    free(se);
}

void select_begin(struct select *se, float coverage, int32_t answer0)
{
    se->p.coverage = coverage;
    se->answer0 = answer0;
    for (int32_t i = 0; i < se->s.n_layer; i++) {
        struct layer_list *l = &se->layer[i];
        l->end = l->n_row = l->next = l->n_missed = 0;
        l->failed = false;
    }
    se->n_read = se->n_all = se->mass_sum = 0;
    se->n_mass = se->n_choice = se->n_failed = 0;
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

static bool forced(const struct select *se, int32_t j)
{
    return j == 0 || j >= se->older;
}

static int32_t budget_of(const struct select *se)
{
    int32_t n = (int32_t)(se->p.share * (float)se->older);
    return n > 0 ? n : 1;
}

/* Softmax over pages of the largest score that any key of a page could have, per probe and head;
 * a page counts by the head that may need it most. */
static void rank_by_bounds(struct select *se, int32_t head_kv, struct ranked *rank)
{
    const struct kern_attn *a = &se->rows;
    int32_t d = se->s.head_dim, group = se->s.n_head / se->s.n_head_kv, m = PROBES * group;
    float *bound = se->bound + (size_t)head_kv * m * se->n_block;
    const struct kern_kv_block *block = a->kv->block + (size_t)head_kv * a->kv->n_block_cap;
    float lo[PAGE_HEAD_DIM_MAX], hi[PAGE_HEAD_DIM_MAX], top[m];
    for (int32_t i = 0; i < m; i++)
        top[i] = -INFINITY;
    for (int32_t j = 1; j < se->older; j++) {
        page_bounds(block[j].page, lo, hi);
        for (int32_t i = 0; i < m; i++) {
            const float *q = a->q + ((size_t)probe_rows[i / group] * a->n_head + head_kv * group +
                                     i % group) * d;
            float sum[8] = {0};
            for (int32_t c = 0; c < d; c += 8) /* head_dim is a multiple of 16 where pages are */
                for (int32_t x = 0; x < 8; x++) {
                    float l = q[c + x] * lo[c + x], h = q[c + x] * hi[c + x];
                    sum[x] += l > h ? l : h;
                }
            float all = 0;
            for (int32_t x = 0; x < 8; x++)
                all += sum[x];
            bound[(size_t)i * se->n_block + j] = all *= a->scale;
            top[i] = all > top[i] ? all : top[i];
        }
    }
    for (int32_t j = 1; j < se->older; j++) {
        rank[j - 1] = (struct ranked){-INFINITY, j};
        for (int32_t i = 0; i < m; i++)
            rank[j - 1].score =
                fmaxf(rank[j - 1].score, bound[(size_t)i * se->n_block + j] - top[i]);
    }
}

static void candidates_of_head(void *ctx, int part, int n_part)
{
    struct select *se = ctx;
    bool *only = se->only + (size_t)part * se->n_block;
    struct ranked *rank = se->rank + (size_t)part * se->n_block;
    int32_t n = CANDIDATES * budget_of(se), n_rank = se->older - 1;
    for (int32_t j = 0; j < se->n_block; j++)
        only[j] = forced(se, j);
    rank_by_bounds(se, part, rank);
    qsort(rank, (size_t)n_rank, sizeof *rank, by_score);
    for (int32_t i = 0; i < n && i < n_rank; i++)
        only[rank[i].block] = true;
}

/* Pages of one KV head in falling order of exact mass. */
static void choose_head(struct select *se, struct layer_list *l, int32_t head_kv)
{
    int32_t group = se->s.n_head / se->s.n_head_kv, n_block = se->n_block, n_rank = 0, n = 0;
    const bool *only = se->only + (size_t)head_kv * n_block;
    struct ranked *rank = se->rank + (size_t)head_kv * n_block;
    int32_t *index = l->index + (size_t)head_kv * l->cap, budget = budget_of(se);
    float *mass = se->bound + (size_t)head_kv * PROBES * group * n_block; /* done with bounds */
    float acc[group];
    for (int32_t g = 0; g < group; g++) {
        acc[g] = 0;
        for (int32_t j = 0; j < n_block; j++) {
            float sum = 0;
            for (int32_t i = 0; i < PROBES; i++)
                sum += se->mass[((size_t)(head_kv * group + g) * PROBES + i) * n_block + j];
            mass[(size_t)g * n_block + j] = sum / PROBES;
            if (forced(se, j))
                acc[g] += sum / PROBES;
        }
    }
    for (int32_t j = 1; j < se->older; j++) {
        float most = 0;
        if (!only[j])
            continue;
        for (int32_t g = 0; g < group; g++)
            most = fmaxf(most, mass[(size_t)g * n_block + j]);
        rank[n_rank++] = (struct ranked){most, j};
    }
    qsort(rank, (size_t)n_rank, sizeof *rank, by_score);
    float least = 0, c = se->p.coverage;
    index[n++] = 0;
    for (int32_t i = 0; i < n_rank && i < budget; i++) {
        least = acc[0];
        for (int32_t g = 1; g < group; g++)
            least = fminf(least, acc[g]);
        if (c > 0 && least >= c)
            break;
        for (int32_t g = 0; g < group; g++)
            acc[g] += mass[(size_t)g * n_block + rank[i].block];
        index[n++] = rank[i].block;
    }
    least = acc[0];
    for (int32_t g = 1; g < group; g++)
        least = fminf(least, acc[g]);
    if (c > 0 && least < c)
        for (n = 0; n < se->older; n++)
            index[n] = n;
    qsort(index, (size_t)n, sizeof *index, by_block);
    l->n[head_kv] = n;
}

static bool make_room(struct select *se, struct layer_list *l)
{
    int32_t n_kv = se->s.n_head_kv, n_head = se->s.n_head, cap = se->n_block + 64;
    if (se->n_block > se->cap) {
        void *old[] = {se->only, se->mass, se->lse, se->rank, se->bound};
        for (size_t i = 0; i < sizeof old / sizeof *old; i++)
            free(old[i]);
        size_t n = (size_t)cap;
        se->only = mem_try(n * (size_t)n_kv * sizeof *se->only);
        se->mass = mem_try(n * (size_t)n_head * PROBES * sizeof *se->mass);
        se->lse = mem_try((size_t)n_head * PROBES * sizeof *se->lse);
        se->rank = mem_try(n * (size_t)n_kv * sizeof *se->rank);
        se->bound = mem_try(n * (size_t)n_head * PROBES * sizeof *se->bound);
        bool ok = se->only && se->mass && se->lse && se->rank && se->bound;
        se->cap = ok ? cap : 0;
        if (!ok)
            return false;
    }
    if (se->n_block > l->cap) {
        free(l->index);
        l->index = mem_try((size_t)cap * (size_t)n_kv * sizeof *l->index);
        l->cap = l->index ? cap : 0;
    }
    return l->cap > 0;
}

/* Chooses from the ring, which is full; the layer stays without a list when it cannot. */
static void choose(struct select *se, struct layer_list *l, const struct kern_attn *a)
{
    l->end = 0;
    se->rows = *a;
    se->rows.n_tok = SELECT_EVERY;
    se->rows.pos0 = a->pos0 - SELECT_EVERY + 1;
    se->rows.q = l->ring;
    se->n_block = a->pos0 / TOK + 1;
    /* what the first probe reads as rows, the newest blocks, the answer */
    int32_t older = se->n_block - LOCAL;
    if (older > se->answer0 / TOK)
        older = se->answer0 / TOK;
    se->older = older;
    if (older < 2 || !make_room(se, l))
        return;
    for (int32_t h = 0; h < se->s.n_head_kv; h++)
        for (int32_t j = 1; j < older; j++)
            if (!a->kv->block[(size_t)h * a->kv->n_block_cap + j].page)
                return; /* an exact cache has no bounds */
    kern_parallel(se->k, se->s.n_head_kv, candidates_of_head, se);
    struct kern_score score = {.a = &se->rows, .n_block = se->n_block, .n_row = PROBES,
                               .row = probe_rows, .mass = se->mass, .lse = se->lse,
                               .only = se->only};
    if (!kern_score(se->k, &score))
        return;
    for (int32_t h = 0; h < se->s.n_head_kv; h++)
        choose_head(se, l, h);
    l->end = older;
    se->n_choice++;
}

/* ---- answering ---- */

/* The layer's lists, with the blocks that are older than the window by now. */
static const struct kern_block_list *list_at(struct select *se, const struct layer_list *l,
                                             int32_t b, struct kern_block_list *ret)
{
    int32_t n_kv = se->s.n_head_kv, most = b + 1, at = 0;
    if (n_kv * most > se->index_cap) {
        free(se->index);
        se->index_cap = n_kv * (most + 64);
        se->index = mem_try((size_t)se->index_cap * sizeof *se->index);
        if (!se->index) {
            se->index_cap = 0;
            return NULL;
        }
    }
    for (int32_t h = 0; h < n_kv; h++) {
        se->first[2 * h] = at;
        memcpy(se->index + at, l->index + (size_t)h * l->cap, (size_t)l->n[h] * sizeof(int32_t));
        at += l->n[h];
        for (int32_t j = l->end; j < b - 1; j++)
            se->index[at++] = j;
        se->first[2 * h + 1] = at;
    }
    *ret = (struct kern_block_list){se->first, se->index};
    return ret;
}

/* Answers densely and tells how much of the mass the list would have kept. */
static void look(struct select *se, struct layer_list *l, const struct kern_attn *a,
                 const struct kern_block_list *list)
{
    int32_t n_kv = se->s.n_head_kv, cap = a->kv->n_block_cap, b = a->pos0 / TOK;
    if (n_kv * cap > se->look_cap) {
        free(se->look);
        se->look = mem_try((size_t)n_kv * (size_t)cap * sizeof *se->look);
        se->look_cap = se->look ? n_kv * cap : 0;
    }
    if (!se->look_cap) {
        se->k->ops->attend(se->k, a);
        return;
    }
    memset(se->look, 0, (size_t)n_kv * (size_t)cap * sizeof *se->look);
    struct kern_attn with = *a;
    with.mass = se->look;
    se->k->ops->attend(se->k, &with);
    double kept = 0, all = 0;
    for (int32_t h = 0; h < n_kv; h++) {
        const float *mass = se->look + (size_t)h * cap;
        for (int32_t j = 0; j <= b; j++) {
            all += (double)mass[j];
            if (a->mass)
                a->mass[(size_t)h * cap + j] += mass[j];
        }
        for (int32_t i = list->first[2 * h]; i < list->first[2 * h + 1]; i++)
            kept += (double)mass[list->index[i]];
        kept += (double)mass[b] + (b > 0 ? (double)mass[b - 1] : 0);
    }
    double w = all > 0 ? kept / all : 1;
    se->mass_sum += w;
    se->n_mass++;
    if (se->p.coverage > 0 && w < (double)se->p.coverage - MISS && ++l->n_missed == 2) {
        l->failed = true;
        se->n_failed++;
    }
}

void select_attend(struct select *se, int32_t layer, const struct kern_attn *a)
{
    struct kern *k = se->k;
    struct layer_list *l = &se->layer[layer];
    assert(a->n_tok == 1 && a->n_head == se->s.n_head);
    if (se->p.coverage >= 1 || l->failed || a->window > 0 || a->pos0 + 1 < se->p.n_min) {
        k->ops->attend(k, a);
        return;
    }
    if (a->pos0 != l->next) /* another text */
        l->n_row = l->end = 0;
    l->next = a->pos0 + 1;
    size_t row = (size_t)a->n_head * (size_t)a->kv->head_dim;
    k->ops->download(k, l->ring + (size_t)l->n_row++ * row, a->q, row * sizeof(float));

    int32_t b = a->pos0 / TOK;
    struct kern_block_list at;
    const struct kern_block_list *list = l->end > 0 ? list_at(se, l, b, &at) : NULL;
    bool again = l->n_row == SELECT_EVERY;
    bool my_turn = again && a->pos0 / SELECT_EVERY % se->s.n_layer == layer;
    if (list && !my_turn) {
        struct kern_attn with = *a;
        with.list = list;
        k->ops->attend(k, &with);
        se->n_read += list->first[2 * se->s.n_head_kv - 1] + 2.0 * se->s.n_head_kv;
    } else if (list) {
        look(se, l, a, list);
        se->n_read += (double)(b + 1) * se->s.n_head_kv;
    } else {
        k->ops->attend(k, a);
        se->n_read += (double)(b + 1) * se->s.n_head_kv;
    }
    se->n_all += (double)(b + 1) * se->s.n_head_kv;
    if (again) {
        l->n_row = 0;
        choose(se, l, a);
    }
}

void select_report(const struct select *se, struct select_report *ret)
{
    *ret = (struct select_report){
        .density = se->n_all > 0 ? se->n_read / se->n_all : NAN,
        .mass_mean = se->n_mass > 0 ? se->mass_sum / se->n_mass : NAN,
        .n_mass = se->n_mass,
        .n_choice = se->n_choice,
        .n_failed = se->n_failed,
    };
}
