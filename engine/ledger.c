#include "engine/ledger.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kv_impl.h"

/* In the one figure that is told, errors of keys, which move weights, count twice. */
#define KEY_WEIGHT 2.0
/* A page nobody has looked at yet is not worthless: it counts as one average query's worth. */
#define PRIOR_QUERIES 1.0
#define DECAY 0.7f
enum { SLACK_DIVISOR = 64 }; /* frees a little more than asked, so as not to come back at once */

/* Bits of a page's keys and values at a step. */
static struct kv_depth depth_at(const struct kern_page *page, int32_t step)
{
    struct kv_depth d = kv_ladder[step];
    return (struct kv_depth){d.bits_k, page->bits_v == 0 ? d.bits_k : d.bits_v};
}

/* The next step down at which the page is smaller; KV_STEPS = none. */
static int32_t step_below(const struct kern_page *page)
{
    int32_t step = kv_page_step(page) + 1;
    while (page->bits_v == 0 && step < KV_STEPS && kv_ladder[step].bits_k == page->bits_k)
        step++;
    return step < KV_STEPS ? step : KV_STEPS;
}

static double error_at(const struct kern_page *page, int32_t step)
{
    const struct kv_depth d = depth_at(page, step);
    double k = page_error(page, PAGE_K, d.bits_k), v = page_error(page, PAGE_V, d.bits_v);
    return KEY_WEIGHT * (isfinite(k) ? k : 0) + (isfinite(v) ? v : 0);
}

/* Share of a query's attention that falls on block j, as far as is known. */
static double share(const struct kv_line *l, int32_t layer, int32_t head, int32_t j)
{
    size_t row = (size_t)(l->pool->shape.heads[layer].first + head);
    double even = l->n_block > 0 ? 1.0 / l->n_block : 1;
    return (l->mass[row * (size_t)l->block_cap + (size_t)j] + PRIOR_QUERIES * even) /
           (l->n_query[layer] + PRIOR_QUERIES);
}

/* What reading this page at a step costs a query that reads nothing else. */
static double harm_at(const struct kv_care *care, const struct kern_page *page, int32_t step)
{
    const struct kv_depth d = depth_at(page, step);
    double k = page_error(page, PAGE_K, d.bits_k), v = page_error(page, PAGE_V, d.bits_v);
    double pull_k = d.bits_k == 2 ? KV_PULL_K : 1, pull_v = d.bits_v == 2 ? KV_PULL_V : 1;
    return care->harm_k * pull_k * (isfinite(k) ? k * k : 0) +
           care->harm_v * pull_v * (isfinite(v) ? v * v : 0);
}

/* ---- the controller ---- */

struct candidate {
    double price; /* harm per byte */
    struct kv_block *block;
    int32_t layer, index; /* of the page in its block */
};

static int by_price(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->price != y->price)
        return x->price < y->price ? -1 : 1;
    /* Equal prices: in an order that does not depend on the sort. */
    return (x->index > y->index) - (x->index < y->index);
}

/* Whether a page may go to this step. last: down to the floor; else to the soft one where that is finer. */
static bool may_step(const struct kv_care *care, int32_t step, bool last)
{
    int32_t floor = kv_step(care->floor), soft = kv_step(care->soft);
    return step < KV_STEPS && step <= (last || soft > floor ? floor : soft);
}

static size_t collect(struct kv_pool *p, bool last, struct candidate **ret)
{
    size_t n = 0, cap = 0;
    struct candidate *list = NULL;
    for (struct kv_line *l = p->lines; l; l = l->next)
        for (int32_t j = 0; j < l->n_block; j++) {
            struct kv_block *b = l->block[j];
            for (int32_t i = 0; b->sealed && i < p->shape.n_head; i++) {
                int32_t layer = kv_layer_of(&p->shape, i), s = kv_page_step(b->page[i]);
                int32_t to = step_below(b->page[i]);
                const struct kv_care *care = &p->care[layer];
                if (!may_step(care, to, last))
                    continue;
                if (n == cap) {
                    cap = cap ? 2 * cap : 1024;
                    list = mem_realloc(list, cap * sizeof *list);
                }
                const struct kv_heads *of = &p->shape.heads[layer];
                const struct page_shape next = kv_page_shape(of, kv_ladder[to]);
                double freed = (double)(b->page[i]->size_bytes - page_size(&next));
                double worse = harm_at(care, b->page[i], to) - harm_at(care, b->page[i], s);
                list[n++] = (struct candidate){
                    .price = share(l, layer, i - of->first, j) * fmax(0, worse) / freed,
                    .block = b,
                    .layer = layer,
                    .index = i,
                };
            }
        }
    *ret = list;
    return n;
}

/* Pages that step down together. */
enum { BATCH = 256 };
struct stepping {
    struct kern_demote job[BATCH];
    const struct candidate *of[BATCH];
    struct kern_page *less[BATCH]; /* memory of the new size */
    int32_t n;
};

/* What was taken is done. */
static void step_run(struct kv_pool *p, struct stepping *b)
{
    const struct kern_ops *ops = p->kern->ops;
    if (b->n > 0)
        ops->demote(p->kern, b->job, b->n);
    for (int32_t i = 0; i < b->n; i++) {
        struct kv_block *block = b->of[i]->block;
        int32_t at = b->of[i]->index;
        memcpy(b->less[i], block->page[at], block->page[at]->size_bytes);
        free(block->page[at]);
        block->page[at] = b->less[i];
        if (!block->copy)
            continue;
        if (b->job[i].dev_to != block->copy[at])
            ops->free(p->kern, block->copy[at]);
        block->copy[at] = b->job[i].dev_to;
    }
    b->n = 0;
}

/* A block shared by two lines is listed twice: its page may be among those taken. */
static bool taken(const struct stepping *b, const struct candidate *c)
{
    for (int32_t i = 0; c->block->n_ref > 1 && i < b->n; i++)
        if (b->of[i]->block == c->block && b->of[i]->index == c->index)
            return true;
    return false;
}

/* One step down, into memory of the new size. False when memory is short or it was done already. */
static bool step_down(struct kv_pool *p, struct stepping *b, const struct candidate *c, bool last)
{
    const struct kern_ops *ops = p->kern->ops;
    if (b->n == BATCH || taken(b, c))
        step_run(p, b);
    struct kern_page *page = c->block->page[c->index], *dev = NULL, *dev_to = NULL;
    int32_t to = step_below(page);
    if (!may_step(&p->care[c->layer], to, last))
        return false;
    const struct page_shape next = kv_page_shape(&p->shape.heads[c->layer], kv_ladder[to]);
    size_t old = page->size_bytes, size = page_size(&next);
    struct kern_page *less = mem_try(size);
    if (!less)
        return false;
    if (c->block->copy) {
        dev = c->block->copy[c->index];
        dev_to = ops->alloc(p->kern, size);
        dev_to = dev_to ? dev_to : dev; /* the old place, which is larger, serves on */
    }
    b->job[b->n] = (struct kern_demote){page, dev, dev_to, next.bits_k, next.bits_v};
    b->of[b->n] = c;
    b->less[b->n++] = less;
    c->block->page_bytes -= old - size;
    c->block->kept = false; /* its scales moved: put again */
    p->used_bytes -= old - size;
    return true;
}

/* Rows that no block uses are taken again, or given back, before anything is refused. */
static bool fits(const struct kv_pool *p, uint64_t need_bytes)
{
    return p->used_bytes - (uint64_t)p->n_spare * p->rows_bytes + need_bytes <= p->budget_bytes;
}

/* Steps pages down, the cheapest first, until want_bytes fit; tells whether any was. */
static bool step_until(struct kv_pool *p, uint64_t want_bytes, bool last)
{
    bool moved = false;
    struct stepping batch;
    batch.n = 0;
    for (size_t done = 1; done > 0 && !fits(p, want_bytes); moved = moved || done > 0) {
        struct candidate *list;
        size_t n = collect(p, last, &list);
        done = 0;
        if (n > 0)
            qsort(list, n, sizeof *list, by_price);
        for (size_t i = 0; i < n && !fits(p, want_bytes); i++)
            done += step_down(p, &batch, &list[i], last);
        step_run(p, &batch);
        free(list);
    }
    return moved;
}

bool ledger_under_floor(const struct kv_pool *p)
{
    return p->under_floor;
}

bool ledger_fit(struct kv_pool *p, uint64_t need_bytes)
{
    if (!p->preset.adaptive)
        return fits(p, need_bytes);
    p->kern->ops->sync(p->kern); /* masses */
    bool moved = step_until(p, need_bytes + p->budget_bytes / SLACK_DIVISOR, false);
    if (!fits(p, need_bytes) && step_until(p, need_bytes, true))
        moved = p->under_floor = true;
    for (struct kv_line *l = p->lines; l && moved; l = l->next) {
        l->kept_seen = 0;
        for (int32_t j = 0; j < l->n_block; j++)
            kv_table_set(l, j);
    }
    return fits(p, need_bytes);
}

/* ---- what is told ---- */

void ledger_decay(struct kv_line *l)
{
    l->pool->kern->ops->sync(l->pool->kern); /* masses */
    size_t n = (size_t)l->pool->shape.n_head * (size_t)l->block_cap;
    for (size_t i = 0; i < n; i++)
        l->mass[i] *= DECAY;
    for (int32_t i = 0; i < l->pool->shape.n_layer; i++)
        l->n_query[i] *= DECAY;
}

double ledger_error2(const struct kv_line *l, int32_t layer, enum page_tensor tensor, int32_t bits)
{
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    double sum = 0, n = 0;
    for (int32_t j = 0; j < l->n_block; j++)
        for (int32_t h = 0; l->block[j]->sealed && h < of->n; h++) {
            double e = page_error(l->block[j]->page[of->first + h], tensor, bits);
            sum += isfinite(e) ? e * e : 0;
            n += isfinite(e);
        }
    return n > 0 ? sum / n : 0;
}

double ledger_page_error(const struct kern_page *page)
{
    int32_t s = kv_page_step(page);
    return s < KV_STEPS ? error_at(page, s) : 0;
}

double ledger_harm(const struct kv_line *l)
{
    l->pool->kern->ops->sync(l->pool->kern); /* masses */
    const struct kv_shape *shape = &l->pool->shape;
    double sum = 0;
    for (int32_t j = 0; j < l->n_block; j++)
        for (int32_t i = 0; l->block[j]->sealed && i < shape->n_head; i++) {
            const struct kern_page *page = l->block[j]->page[i];
            int32_t s = kv_page_step(page), layer = kv_layer_of(shape, i);
            if (s < KV_STEPS)
                sum += share(l, layer, i - shape->heads[layer].first, j) * error_at(page, s);
        }
    return sum / shape->n_head;
}

void ledger_tiers(const struct kv_line *l, int64_t ret[STATS_TIERS])
{
    int32_t n_page = l->pool->shape.n_head;
    memset(ret, 0, STATS_TIERS * sizeof *ret);
    ret[0] = (int64_t)kv_states_bytes(l);
    for (int32_t j = 0; j < l->n_block; j++) {
        const struct kv_block *b = l->block[j];
        ret[0] +=
            (int64_t)((b->rows ? l->pool->rows_bytes : 0) + (b->sinks ? l->pool->sink_bytes : 0));
        for (int32_t i = 0; b->page && i < n_page; i++) {
            int32_t s = b->sealed ? kv_page_step(b->page[i]) : 0;
            if (s < KV_STEPS)
                ret[1 + s] += b->sealed ? b->page[i]->size_bytes
                                        : (int64_t)(b->page_bytes / (uint64_t)n_page);
        }
    }
}

/* As kv_most_bytes counts, turned round. */
static int32_t room(const struct kv_pool *p, double pages_bytes, int32_t n_chunk)
{
    double budget = (double)p->budget_bytes, rows = (double)p->rows_bytes;
    budget = fmax(0, budget - KV_STATES_MOST * (double)kv_state_bytes(&p->shape));
    int64_t n_block = (int64_t)(budget / rows);
    if (p->seals) {
        int32_t open = kv_open_blocks(n_chunk);
        double fixed = open * rows + (open - 2) * (double)kv_pages_bytes(p) + (double)p->sink_bytes;
        if (budget > fixed)
            n_block = open + (int64_t)((budget - fixed) / pages_bytes);
    }
    int64_t n = n_block * KERN_BLOCK_TOK;
    return n < INT32_MAX ? (int32_t)n : INT32_MAX;
}

/* Where whole chunks do not fit on top of what is held, a shorter prompt may. */
static int32_t room_beyond(const struct kv_pool *p, const struct kv_line *l, double pages_bytes,
                           int32_t n_chunk)
{
    int32_t held = l ? l->n_tok : 0, n = room(p, pages_bytes, n_chunk);
    while (n <= held && n_chunk > KERN_BLOCK_TOK) {
        n_chunk /= 2;
        n = room(p, pages_bytes, n_chunk);
        n = n < held + n_chunk ? n : held + n_chunk;
    }
    return n;
}

int32_t ledger_room(const struct kv_pool *p, const struct kv_line *l, int32_t n_chunk)
{
    double sum = 0;
    int32_t n = 0;
    for (int32_t j = 0; l && j < l->n_block; j++)
        if (l->block[j]->sealed) {
            sum += (double)l->block[j]->page_bytes;
            n++;
        }
    return room_beyond(p, l, n ? sum / n : (double)kv_pages_bytes(p), n_chunk);
}

int32_t ledger_room_floor(const struct kv_pool *p, const struct kv_line *l, int32_t n_chunk)
{
    const struct kv_depth floor = {p->preset.floor_k, p->preset.floor_v};
    return room_beyond(p, l, (double)kv_sealed_bytes(&p->shape, floor), n_chunk);
}

const char *ledger_floor_name(const struct preset *p)
{
    int32_t step = kv_step((struct kv_depth){p->floor_k, p->floor_v});
    return stats_tier_name[step < KV_STEPS ? 1 + step : 0];
}

static struct stats_page page_picture(const struct kv_line *l, const struct kv_block *b,
                                      int32_t layer, int32_t head, int32_t j)
{
    int32_t row = l->pool->shape.heads[layer].first + head;
    struct stats_page s = {.tier = 0, .bits_k = 16, .bits_v = 16, .mass = NAN};
    if (b->sealed) {
        const struct kern_page *page = b->page[row];
        s = (struct stats_page){
            .tier = (uint8_t)(1 + kv_page_step(page)),
            .bits_k = page->bits_k,
            .bits_v = page->bits_v > 0 ? page->bits_v : page->bits_k,
            .error_k = page_error(page, PAGE_K, page->bits_k),
            .error_v = page_error(page, PAGE_V, page->bits_v > 0 ? page->bits_v : page->bits_k),
        };
    }
    s.mass = l->pool->seals && l->n_query[layer] > 0
                 ? (float)(l->mass[(size_t)row * (size_t)l->block_cap + (size_t)j] / l->n_query[layer])
                 : NAN;
    return s;
}

void ledger_map(const struct kv_line *l, struct stats_map *ret)
{
    l->pool->kern->ops->sync(l->pool->kern); /* masses */
    const struct kv_shape *s = &l->pool->shape;
    size_t n = (size_t)s->n_head * (size_t)l->n_block;
    ret->page = mem_realloc(ret->page, (n + 1) * sizeof *ret->page);
    ret->first = mem_realloc(ret->first, (size_t)(s->n_layer + 1) * sizeof *ret->first);
    for (int32_t i = 0; i < s->n_layer; i++)
        ret->first[i] = s->heads[i].first;
    ret->first[s->n_layer] = s->n_head;
    ret->n_layer = s->n_layer;
    ret->n_block = l->n_block;
    ret->n_tok = l->n_tok;
    struct stats_page *to = ret->page;
    for (int32_t layer = 0; layer < s->n_layer; layer++)
        for (int32_t h = 0; h < s->heads[layer].n; h++)
            for (int32_t j = 0; j < l->n_block; j++)
                *to++ = page_picture(l, l->block[j], layer, h, j);
}
