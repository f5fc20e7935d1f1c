#include "engine/select.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/blocks.h"
#include "kernels/page.h"
#include "kernels/score.h"

enum {
    TOK = KERN_BLOCK_TOK,
    PROBES = 3,      /* recent queries that decide; x heads of a group they should stay few */
    PROMPT_ROWS = 32,/* last rows of a prompt that choose (SnapKV, RocketKV) */
    LOCAL = 4,       /* newest blocks, always read */
    CANDIDATES = 2,  /* pages that bounds let through, in shares */
    PROBE_AFTER = 3, /* choices until a layer that read nearly everything chooses again; */
    PROBE_MOST = 31  /* doubled each time in vain, up to this */
};

#define SHARE 0.25f
#define COVER_TOP 0.995f /* the coverage aimed at stays below */
#define MOST 0.8f        /* a list of more than this part of the pages is all of them, does not pay */
#define MISS 0.05 /* a retained mass further under the coverage than this counts as missed */

struct layer_list {
    float *ring;     /* dev [SELECT_EVERY][n_head, head_dim]; NULL before the first */
    int32_t *index;  /* [n_head_kv][cap] ascending; the newest blocks are put behind as they age */
    int32_t *n;      /* [n_head_kv] */
    float *aim;      /* [n_head_kv] coverage that a choice goes for */
    int32_t cap;
    int32_t end;     /* blocks before this one are decided on; 0 = no list yet */
    int32_t n_row;   /* in the ring */
    int32_t next;    /* position the ring goes on with */
    int32_t n_missed;
    bool failed;
    int32_t n_sleep, n_wait; /* choices to pass over; and after the next one in vain */
    bool *let;       /* [n_head_kv][n_let] pages that the prompt's last rows let through; or NULL */
    int32_t n_let;
};

struct select {
    struct kern *k;
    struct sparse_shape s;
    struct select_params p;
    struct layer_list *layer;
    int32_t answer0;
    bool has_bounds; /* every page that may be left out is sealed */
    bool at_hand;    /* each query chooses for itself, else the last ones of every 16 for the next */
    int32_t n_probe;
    const int32_t *probe; /* [n_probe] rows of the ring */

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

    double n_read, n_all;
    struct mass_tally kept; /* of every KV head that was looked at */
    int32_t n_look, n_choice, n_failed;
};

static const int32_t recent_rows[PROBES] = {5, 10, 15}, this_row[1] = {0};

struct select *select_new(struct kern *k, const struct sparse_shape *s,
                          const struct select_params *p)
{
    struct select *se = mem_calloc(1, sizeof *se);
    se->k = k;
    se->s = *s;
    se->p = *p;
    enum decode_score score = p->method.score;
    se->at_hand = score == DECODE_BOUNDS || score == DECODE_CHANNELS || score == DECODE_LAYERS;
    se->n_probe = se->at_hand ? 1 : PROBES;
    se->probe = se->at_hand ? this_row : recent_rows;
    if (se->p.n_min <= 0)
        se->p.n_min = SPARSE_N_MIN;
    if (p->method.share > 0)
        se->p.share = p->method.share;
    if (se->p.share <= 0)
        se->p.share = SHARE;
    se->layer = mem_calloc((size_t)s->n_layer, sizeof *se->layer);
    for (int32_t i = 0; i < s->n_layer; i++) {
        se->layer[i].n = mem_calloc((size_t)s->n_head_kv, sizeof(int32_t));
        se->layer[i].aim = mem_calloc((size_t)s->n_head_kv, sizeof(float));
    }
    se->first = mem_calloc(2 * (size_t)s->n_head_kv, sizeof(int32_t));
    return se;
}

void select_free(struct select *se)
{
    if (!se)
        return;
    for (int32_t i = 0; i < se->s.n_layer; i++) {
        if (se->layer[i].ring)
            se->k->ops->free(se->k, se->layer[i].ring);
        free(se->layer[i].index);
        free(se->layer[i].n);
        free(se->layer[i].aim);
        free(se->layer[i].let);
    }
    void *parts[] = {se->layer, se->only,  se->mass,  se->lse,  se->rank,
                     se->bound, se->look, se->first, se->index};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        free(parts[i]);
    free(se);
}

void select_begin(struct select *se, float coverage, int32_t answer0)
{
    se->p.coverage = se->p.method.share > 0 ? 0 : coverage;
    se->answer0 = answer0;
    for (int32_t i = 0; i < se->s.n_layer; i++) {
        struct layer_list *l = &se->layer[i];
        l->end = l->n_row = l->next = l->n_missed = 0;
        l->failed = false;
        l->n_sleep = 0;
        l->n_wait = PROBE_AFTER;
        for (int32_t h = 0; h < se->s.n_head_kv; h++) /* three queries speak for sixteen others */
            l->aim[h] = se->p.coverage > 0 ? (1 + se->p.coverage) / 2 : 0;
        free(l->let);
        l->let = NULL;
    }
    se->n_read = se->n_all = 0;
    memset(&se->kept, 0, sizeof se->kept);
    se->n_look = se->n_choice = se->n_failed = 0;
}

/* ---- choosing ---- */

static bool forced(const struct select *se, int32_t j)
{
    return j == 0 || j >= se->older;
}

static int32_t part_of(float share, int32_t n)
{
    return share * (float)n >= 1 ? (int32_t)(share * (float)n) : 1;
}

static int32_t budget_of(const struct select *se)
{
    return part_of(se->p.share, se->older);
}

/* The channels that bounds use: all, or those where the group's queries are large on average, as
 * many as pages times channels come to what is read anyway (HSA: the root of the compression). */
static void mark_channels(const struct select *se, const float *q, int32_t head_kv, bool *use)
{
    int32_t d = se->s.head_dim, group = se->s.n_head / se->s.n_head_kv, n = d;
    struct ranked rank[PAGE_HEAD_DIM_MAX];
    if (se->p.method.score == DECODE_CHANNELS)
        n = (int32_t)((float)d * sqrtf(se->p.share));
    for (int32_t c = 0; c < d; c++) {
        rank[c] = (struct ranked){0, c};
        for (int32_t g = 0; g < group; g++)
            rank[c].score += fabsf(q[(size_t)(head_kv * group + g) * d + c]);
        use[c] = n == d;
    }
    blocks_rank(rank, d);
    for (int32_t i = 0; i < n; i++)
        use[rank[i].block] = true;
}

/* The largest score that any key of a page could have, per probe and head. */
static void bound_pages(struct select *se, int32_t head_kv)
{
    const struct kern_attn *a = &se->rows;
    int32_t d = se->s.head_dim, group = se->s.n_head / se->s.n_head_kv, m = se->n_probe * group;
    bool use[PAGE_HEAD_DIM_MAX];
    mark_channels(se, a->q, head_kv, use);
    float *bound = se->bound + (size_t)head_kv * m * se->n_block;
    const struct kern_kv_block *block = a->kv->block + (size_t)head_kv * a->kv->n_block_cap;
    float lo[PAGE_HEAD_DIM_MAX], hi[PAGE_HEAD_DIM_MAX];
    for (int32_t j = 1; j < se->older; j++) {
        page_bounds(block[j].page, lo, hi);
        for (int32_t c = 0; c < d; c++)
            if (!use[c])
                lo[c] = hi[c] = 0;
        for (int32_t i = 0; i < m; i++) {
            const float *q = a->q + ((size_t)se->probe[i / group] * a->n_head + head_kv * group +
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
            bound[(size_t)i * se->n_block + j] = all * a->scale;
        }
    }
}

/* The same of all heads where the pages are a device's. */
static void bound_pages_there(struct select *se)
{
    const struct kern_attn *a = &se->rows;
    int32_t n_kv = se->s.n_head_kv, d = se->s.head_dim;
    bool *use = NULL;
    if (se->p.method.score == DECODE_CHANNELS) {
        size_t n_q = (size_t)a->n_head * (size_t)d;
        float *q = mem_alloc(n_q * sizeof *q);
        se->k->ops->download(se->k, q, a->q, n_q * sizeof *q);
        use = mem_alloc((size_t)n_kv * (size_t)d * sizeof *use);
        for (int32_t h = 0; h < n_kv; h++)
            mark_channels(se, q, h, use + (size_t)h * d);
        free(q);
    }
    const struct kern_bounds b = {.kv = a->kv, .q = a->q, .n_head = a->n_head, .scale = a->scale,
                                  .n_row = se->n_probe, .row = se->probe, .use = use, .block0 = 1,
                                  .block1 = se->older, .bound = se->bound, .stride = se->n_block};
    se->k->ops->bounds(se->k, &b);
    free(use);
}

/* Softmax over pages of their bounds; a page counts by the head that may need it most. */
static void rank_by_bounds(struct select *se, int32_t head_kv, struct ranked *rank)
{
    int32_t m = se->n_probe * (se->s.n_head / se->s.n_head_kv);
    const float *bound = se->bound + (size_t)head_kv * m * se->n_block;
    float top[m];
    for (int32_t i = 0; i < m; i++) {
        top[i] = -INFINITY;
        for (int32_t j = 1; j < se->older; j++)
            top[i] = fmaxf(top[i], bound[(size_t)i * se->n_block + j]);
    }
    for (int32_t j = 1; j < se->older; j++) {
        rank[j - 1] = (struct ranked){-INFINITY, j};
        for (int32_t i = 0; i < m; i++)
            rank[j - 1].score =
                fmaxf(rank[j - 1].score, bound[(size_t)i * se->n_block + j] - top[i]);
    }
}

static bool let_through(const struct layer_list *l, int32_t head_kv, int32_t j)
{
    return !l->let || j >= l->n_let || l->let[(size_t)head_kv * l->n_let + j];
}

/* Bounds say which pages are looked at. What they leave out has an unknown mass: a coverage is
 * counted over all pages. */
static bool by_bounds(const struct select *se)
{
    return se->has_bounds && se->p.method.score != DECODE_EXACT && se->p.coverage <= 0;
}

/* Marks the pages that are looked at exactly; for methods by bounds alone: those that are read. */
static void candidates_of_head(void *ctx, int part, int n_part)
{
    struct select *se = ctx;
    bool *only = se->only + (size_t)part * se->n_block;
    struct ranked *rank = se->rank + (size_t)part * se->n_block;
    int32_t n = se->at_hand ? budget_of(se) : CANDIDATES * budget_of(se), n_rank = se->older - 1;
    bool all = !by_bounds(se);
    for (int32_t j = 0; j < se->n_block; j++)
        only[j] = all || forced(se, j);
    if (all)
        return;
    if (!se->k->ops->bounds)
        bound_pages(se, part);
    rank_by_bounds(se, part, rank);
    blocks_rank(rank, n_rank);
    for (int32_t i = 0; i < n_rank && n > 0; i++)
        if (let_through(se->at, part, rank[i].block)) {
            only[rank[i].block] = true;
            n--;
        }
}

/* The marked pages are the list. */
static void list_marked(const struct select *se, struct layer_list *l)
{
    for (int32_t h = 0; h < se->s.n_head_kv; h++) {
        int32_t n = 0;
        for (int32_t j = 0; j < se->older; j++)
            if (se->only[(size_t)h * se->n_block + j])
                l->index[(size_t)h * l->cap + n++] = j;
        l->n[h] = n;
    }
}

/* The best pages of one KV head by any mass are marked. */
static void mark_best(struct select *se, int32_t head_kv, const float *mass, int32_t n_most,
                      bool *marked)
{
    struct ranked *rank = se->rank + (size_t)head_kv * se->n_block;
    for (int32_t j = 0; j < se->n_block; j++) {
        marked[j] = forced(se, j);
        if (j > 0 && j < se->older)
            rank[j - 1] = (struct ranked){mass[j], j};
    }
    blocks_rank(rank, se->older - 1);
    for (int32_t i = 0; i < n_most && i < se->older - 1; i++)
        marked[rank[i].block] = true;
}

/* Pages of one KV head in falling order of exact mass. */
static void choose_head(struct select *se, struct layer_list *l, int32_t head_kv)
{
    int32_t group = se->s.n_head / se->s.n_head_kv, n_block = se->n_block, n_rank = 0, n = 0;
    const bool *only = se->only + (size_t)head_kv * n_block;
    struct ranked *rank = se->rank + (size_t)head_kv * n_block;
    int32_t *index = l->index + (size_t)head_kv * l->cap, budget = budget_of(se);
    float *mass = se->bound + (size_t)head_kv * se->n_probe * group * n_block; /* done with bounds */
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
    blocks_rank(rank, n_rank);
    float aim = l->aim[head_kv];
    index[n++] = 0;
    n += blocks_cover(rank, n_rank, mass, n_block, group, aim > 0 ? aim : INFINITY,
                      aim > 0 ? n_rank : budget, acc, index + n);
    float least = acc[0];
    for (int32_t g = 1; g < group; g++)
        least = fminf(least, acc[g]);
    if (aim > 0 && (least < aim || n > MOST * se->older))
        for (n = 0; n < se->older; n++)
            index[n] = n;
    blocks_order(index, n);
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

/* Sets the view of a choice at the position of a: which blocks there are and which may be left out;
 * false when nothing can be chosen. */
static bool look_from(struct select *se, struct layer_list *l, const struct kern_attn *a,
                      int32_t n_row)
{
    l->end = 0;
    se->at = l;
    se->rows = *a;
    se->rows.n_tok = n_row;
    se->rows.pos0 = a->pos0 + a->n_tok - n_row;
    se->n_block = (a->pos0 + a->n_tok - 1) / TOK + 1;
    /* what the first probe reads as rows, the newest blocks, the answer */
    int32_t older = se->n_block - LOCAL;
    if (older > se->answer0 / TOK)
        older = se->answer0 / TOK;
    se->older = older;
    return older >= 2 && make_room(se, l);
}

static bool has_bounds(const struct select *se, const struct kern_attn *a)
{
    for (int32_t h = 0; h < se->s.n_head_kv; h++)
        for (int32_t j = 1; j < se->older; j++)
            if (!a->kv->block[(size_t)h * a->kv->n_block_cap + j].page)
                return false; /* an exact cache has none: all are looked at exactly */
    return true;
}

uint64_t select_bytes(const struct sparse_shape *s, int32_t n_tok)
{
    uint64_t n_layer = (uint64_t)s->n_layer, n_kv = (uint64_t)s->n_head_kv;
    uint64_t n_head = (uint64_t)s->n_head, n_block = (uint64_t)n_tok / TOK + 65;
    uint64_t per_layer = sizeof(float) * SELECT_EVERY * n_head * (uint64_t)s->head_dim +
                         n_kv * (n_block * (sizeof(int32_t) + sizeof(bool)) + sizeof(float));
    uint64_t per_block = n_kv * (sizeof(bool) + sizeof(struct ranked) + sizeof(float) +
                                 sizeof(int32_t)) + 2 * PROBES * n_head * sizeof(float);
    uint64_t observed = PROMPT_ROWS * n_head * (n_block + 1) * sizeof(float);
    return n_layer * per_layer + per_block * n_block + observed;
}

/* Whether the lists leave out enough; those of a share always do. */
static bool pays(const struct select *se, const struct layer_list *l)
{
    int32_t n = 0;
    for (int32_t h = 0; h < se->s.n_head_kv; h++)
        n += l->n[h];
    return se->p.coverage <= 0 || n <= MOST * se->older * se->s.n_head_kv;
}

/* Chooses from the ring, which is full; the layer stays without a list when it cannot. */
static void choose(struct select *se, struct layer_list *l, const struct kern_attn *a)
{
    if (!look_from(se, l, a, se->at_hand ? 1 : SELECT_EVERY))
        return;
    if (l->n_sleep > 0) {
        l->n_sleep--;
        return;
    }
    se->rows.q = l->ring;
    se->has_bounds = has_bounds(se, a);
    if (se->at_hand && !se->has_bounds)
        return;
    if (by_bounds(se) && se->k->ops->bounds)
        bound_pages_there(se);
    kern_parallel(se->k, se->s.n_head_kv, candidates_of_head, se);
    if (se->at_hand) {
        list_marked(se, l);
    } else {
        struct kern_score score = {.a = &se->rows, .n_block = se->n_block, .n_row = se->n_probe,
                                   .row = se->probe, .mass = se->mass, .lse = se->lse,
                                   .only = se->only};
        if (!kern_score(se->k, &score))
            return;
        for (int32_t h = 0; h < se->s.n_head_kv; h++)
            choose_head(se, l, h);
    }
    se->n_choice++;
    if (pays(se, l)) {
        l->end = se->older;
        l->n_wait = PROBE_AFTER;
    } else {
        l->n_sleep = l->n_wait;
        l->n_wait = l->n_wait < PROBE_MOST ? 2 * l->n_wait + 1 : PROBE_MOST;
    }
}

/* Takes the masses [n_head_kv][stride] of a dense answer as what the following layers go by. */
static void choose_by_mass(struct select *se, struct layer_list *l, const struct kern_attn *a,
                           const float *mass, int32_t stride)
{
    if (!look_from(se, l, a, 1))
        return;
    for (int32_t h = 0; h < se->s.n_head_kv; h++)
        mark_best(se, h, mass + (size_t)h * stride, budget_of(se),
                  se->only + (size_t)h * se->n_block);
    list_marked(se, l);
    l->end = se->older;
    se->n_choice++;
}

void select_observe(struct select *se, int32_t layer, const struct kern_attn *a)
{
    struct layer_list *l = &se->layer[layer];
    const struct decode_method *m = &se->p.method;
    float share = m->score == DECODE_PROMPT ? m->share : m->prompt_share;
    if (share <= 0 || a->window > 0 || a->pos0 + a->n_tok < se->p.n_min)
        return;
    int32_t n = a->n_tok < PROMPT_ROWS ? a->n_tok : PROMPT_ROWS, n_kv = se->s.n_head_kv;
    int32_t group = se->s.n_head / n_kv, row[PROMPT_ROWS];
    free(l->let);
    l->let = NULL;
    if (!look_from(se, l, a, a->n_tok))
        return;
    for (int32_t i = 0; i < n; i++)
        row[i] = a->n_tok - n + i;
    int32_t n_block = se->n_block;
    float *mass = mem_try(sizeof(float) * (size_t)se->s.n_head * (size_t)n * (size_t)(n_block + 1));
    l->let = mem_try((size_t)n_kv * (size_t)n_block);
    struct kern_score score = {.a = a, .n_block = n_block, .n_row = n, .row = row, .mass = mass};
    if (mass)
        score.lse = mass + (size_t)se->s.n_head * n * n_block;
    if (!mass || !l->let || !kern_score(se->k, &score)) {
        free(l->let);
        l->let = NULL;
        free(mass);
        return;
    }
    l->n_let = n_block;
    for (int32_t h = 0; h < n_kv; h++) {
        float *sum = mass + (size_t)h * group * n * n_block; /* the first row takes the others in */
        for (int32_t i = 1; i < group * n; i++)
            for (int32_t j = 0; j < n_block; j++)
                sum[j] += sum[(size_t)i * n_block + j];
        mark_best(se, h, sum, part_of(share, se->older), l->let + (size_t)h * n_block);
    }
    free(mass);
    if (m->score != DECODE_PROMPT)
        return;
    memcpy(se->only, l->let, (size_t)n_kv * (size_t)n_block);
    list_marked(se, l);
    l->end = se->older;
    l->next = a->pos0 + a->n_tok;
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

/* Answers densely and tells how much of the mass the list would have kept; without one, chooses by
 * that mass. */
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
    se->k->ops->sync(se->k);
    double kept = 0, all = 0;
    for (int32_t h = 0; a->mass && h < n_kv; h++)
        for (int32_t j = 0; j <= b; j++)
            a->mass[(size_t)h * cap + j] += se->look[(size_t)h * cap + j];
    if (!list) {
        choose_by_mass(se, l, a, se->look, cap);
        return;
    }
    for (int32_t h = 0; h < n_kv; h++) {
        const float *mass = se->look + (size_t)h * cap;
        double here = 0, of = 0;
        for (int32_t j = 0; j <= b; j++)
            of += (double)mass[j];
        for (int32_t i = list->first[2 * h]; i < list->first[2 * h + 1]; i++)
            here += (double)mass[list->index[i]];
        here += (double)mass[b] + (b > 0 ? (double)mass[b - 1] : 0);
        float own = of > 0 ? (float)(here / of) : 1, c = se->p.coverage;
        mass_add(&se->kept, (double)own, 1);
        l->aim[h] = fminf(fmaxf(l->aim[h] + 0.5f * (c - own), c), fmaxf(COVER_TOP, c));
        kept += here;
        all += of;
    }
    double w = all > 0 ? kept / all : 1;
    se->n_look++;
    if (se->p.coverage > 0 && w < (double)se->p.coverage - MISS && ++l->n_missed == 2) {
        l->failed = true;
        se->n_failed++;
    }
}

/* The layer whose list layer `layer` reads: its own, but with DECODE_LAYERS the last that chose. */
static struct layer_list *chooser_of(struct select *se, int32_t layer)
{
    const int32_t *at = se->p.method.choose;
    if (se->p.method.score != DECODE_LAYERS)
        return &se->layer[layer];
    if (layer <= at[0])
        return layer == at[0] ? &se->layer[layer] : NULL;
    return &se->layer[layer >= at[1] && at[1] > at[0] ? at[1] : at[0]];
}

void select_attend(struct select *se, int32_t layer, const struct kern_attn *a)
{
    struct kern *k = se->k;
    struct layer_list *own = &se->layer[layer], *l = chooser_of(se, layer);
    enum decode_score score = se->p.method.score;
    assert(a->n_tok == 1 && a->n_head == se->s.n_head);
    if (se->p.coverage >= 1 || own->failed || a->window > 0 || a->pos0 + 1 < se->p.n_min ||
        a->pos0 < se->answer0) {
        k->ops->attend(k, a);
        return;
    }
    int32_t b = a->pos0 / TOK, n_kv = se->s.n_head_kv;
    double read = (double)(b + 1) * n_kv;
    se->n_all += read;
    if (!l || layer < se->p.method.dense_layers) {
        k->ops->attend(k, a);
        se->n_read += read;
        return;
    }
    if (score == DECODE_LAYERS && l == own) {
        look(se, l, a, NULL);
        se->n_read += read;
        return;
    }
    if (score != DECODE_LAYERS && a->pos0 != l->next) /* another text */
        l->n_row = l->end = 0;
    own->next = a->pos0 + 1;
    size_t row = (size_t)a->n_head * (size_t)a->kv->head_dim;
    bool again = se->at_hand && score != DECODE_LAYERS;
    if (score != DECODE_LAYERS && score != DECODE_PROMPT) {
        if (!l->ring)
            l->ring = k->ops->alloc(k, SELECT_EVERY * row * sizeof(float));
        if (!l->ring) {
            k->ops->attend(k, a);
            se->n_read += read;
            return;
        }
        k->ops->copy(k, l->ring + (size_t)l->n_row++ * row, a->q, row * sizeof(float));
        again = again || l->n_row == SELECT_EVERY;
    }
    if (again && se->at_hand) { /* for itself */
        l->n_row = 0;
        choose(se, l, a);
    }
    struct kern_block_list at;
    const struct kern_block_list *list = l->end > 0 ? list_at(se, l, b, &at) : NULL;
    bool my_turn = a->pos0 % SELECT_EVERY == SELECT_EVERY - 1 &&
                   a->pos0 / SELECT_EVERY % se->s.n_layer == layer;
    if (!se->at_hand && score != DECODE_PROMPT)
        my_turn = again && a->pos0 / SELECT_EVERY % se->s.n_layer == layer;
    if (list && my_turn) {
        look(se, own, a, list);
    } else if (list) {
        struct kern_attn with = *a;
        with.list = list;
        k->ops->attend(k, &with);
        read = list->first[2 * n_kv - 1] + 2.0 * n_kv;
    } else {
        k->ops->attend(k, a);
    }
    se->n_read += read;
    if (again && !se->at_hand) { /* for the next ones */
        l->n_row = 0;
        choose(se, l, a);
    }
}

void select_report(const struct select *se, struct select_report *ret)
{
    *ret = (struct select_report){
        .density = se->n_all > 0 ? se->n_read / se->n_all : NAN,
        .mass_mean = mass_mean(&se->kept),
        .mass_p5 = mass_p5(&se->kept),
        .n_mass = se->n_look,
        .n_choice = se->n_choice,
        .n_failed = se->n_failed,
    };
}
