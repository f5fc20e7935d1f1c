#include "engine/kv.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/kv_io.h"
#include "engine/base/mem.h"
#include "engine/kv_impl.h"

/* ---- sizes ---- */

const struct kv_depth kv_ladder[KV_STEPS] = {{8, 8}, {8, 4}, {6, 4}, {4, 4}, {4, 2}, {2, 2}};

int32_t kv_step(struct kv_depth d)
{
    int32_t i = 0;
    while (i < KV_STEPS && (kv_ladder[i].bits_k != d.bits_k || kv_ladder[i].bits_v != d.bits_v))
        i++;
    return i;
}

struct page_shape kv_page_shape(const struct kv_heads *of, struct kv_depth d)
{
    return (struct page_shape){of->dim, d.bits_k, of->n_latent ? 0 : d.bits_v};
}

int32_t kv_page_step(const struct kern_page *page)
{
    int32_t i = 0;
    if (page->bits_v > 0)
        return kv_step((struct kv_depth){page->bits_k, page->bits_v});
    while (i < KV_STEPS && kv_ladder[i].bits_k != page->bits_k)
        i++;
    return i;
}

void kv_shape_add(struct kv_shape *s, int32_t n_head_kv, int32_t head_dim, int32_t n_latent)
{
    assert(s->n_layer < KV_LAYERS);
    s->heads[s->n_layer++] = (struct kv_heads){n_head_kv, head_dim, s->n_head, s->n_chan, s->n_row, n_latent};
    s->n_head += n_head_kv;
    s->n_chan += n_head_kv * head_dim;
    s->n_row += (n_latent ? 1 : 2) * n_head_kv * head_dim;
}

int32_t kv_layer_of(const struct kv_shape *s, int32_t head)
{
    int32_t lo = 0, hi = s->n_layer; /* the last layer that begins at `head` or before it */
    while (hi - lo > 1) {
        int32_t mid = lo + (hi - lo) / 2;
        if (s->heads[mid].first <= head)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

uint64_t kv_tok_bytes(const struct kv_shape *s)
{
    return (uint64_t)s->n_row * sizeof(uint16_t);
}

uint64_t kv_block_bytes(const struct kv_shape *s)
{
    return kv_tok_bytes(s) * KERN_BLOCK_TOK;
}

uint64_t kv_sealed_bytes(const struct kv_shape *s, struct kv_depth d)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < s->n_layer; i++) {
        const struct page_shape page = kv_page_shape(&s->heads[i], d);
        sum += (uint64_t)s->heads[i].n * page_size(&page);
    }
    return sum;
}

bool kv_seals(const struct kv_line *l)
{
    return l->pool->seals;
}

bool kv_can_seal(const struct kv_shape *s, int32_t *ret_dim)
{
    for (int32_t i = 0; i < s->n_layer; i++)
        if (!page_shape_valid(&(struct page_shape){s->heads[i].dim, 8, 8})) {
            if (ret_dim)
                *ret_dim = s->heads[i].dim;
            return false;
        }
    return true;
}

uint64_t kv_most_bytes(const struct kv_shape *s, const struct preset *preset, int32_t n_tok,
                       int32_t n_chunk)
{
    int32_t n_block = kv_blocks_for(n_tok), n_rows = kv_open_blocks(n_chunk);
    uint64_t states = KV_STATES_MOST * kv_state_bytes(s);
    if (!preset->bits_k)
        return (uint64_t)n_block * kv_block_bytes(s) + states;
    n_rows = n_rows < n_block ? n_rows : n_block;
    /* What a chunk seals is not stepped down before it is done. */
    uint64_t n_fresh = n_rows > 2 ? (uint64_t)(n_rows - 2) : 0, n_old = (uint64_t)(n_block - n_rows);
    return (uint64_t)n_rows * kv_block_bytes(s) + kv_tok_bytes(s) * KERN_SINK_PAD + states +
           n_fresh * kv_sealed_bytes(s, (struct kv_depth){preset->bits_k, preset->bits_v}) +
           n_old * kv_sealed_bytes(s, (struct kv_depth){preset->floor_k, preset->floor_v});
}

uint64_t kv_table_bytes(const struct kv_shape *s, int32_t n_tok)
{
    uint64_t pages = (uint64_t)kv_blocks_for(n_tok) * (uint64_t)s->n_head;
    return pages * sizeof(struct kern_kv_block) + sizeof(int32_t) * (uint64_t)n_tok;
}

/* ---- rows ---- */

/* Errors of keys move scores and so weights, those of values only the sum: as long as nothing was
 * measured they count twice, squared. The first and the last layer feel both most (KVQuant, KIVI). */
#define HARM_K 4.0
#define HARM_V 1.0
#define HARM_ENDS 16.0

void kv_care_usual(const struct preset *preset, int32_t n_layer, struct kv_care *ret)
{
    struct kv_depth floor = {preset->floor_k, preset->floor_v};
    for (int32_t i = 0; i < n_layer; i++) {
        double ends = i == 0 || i == n_layer - 1 ? HARM_ENDS : 1;
        ret[i] = (struct kv_care){.seal = {preset->bits_k, preset->bits_v}, .floor = floor,
                                  .soft = floor, .harm_k = ends * HARM_K, .harm_v = ends * HARM_V};
    }
}

void kv_pool_set_care(struct kv_pool *p, const struct kv_care *care)
{
    memcpy(p->care, care, (size_t)p->shape.n_layer * sizeof *care);
}

struct kv_pool *kv_pool_new(struct kern *k, const struct kv_shape *s, const struct preset *preset,
                            uint64_t budget_bytes)
{
    struct kv_pool *p = mem_calloc(1, sizeof *p);
    p->kern = k;
    p->shape = *s;
    p->preset = preset ? *preset : *presets_find("exact");
    p->seals = p->preset.bits_k > 0;
    p->layer_window = mem_calloc((size_t)s->n_layer, sizeof *p->layer_window);
    p->care = mem_calloc((size_t)s->n_layer, sizeof *p->care);
    kv_care_usual(&p->preset, s->n_layer, p->care);
    p->rows_bytes = kv_block_bytes(s) / sizeof(uint16_t) * (uint64_t)k->kv_bytes;
    p->sink_bytes = kv_tok_bytes(s) * KERN_SINK_PAD;
    kv_pool_set_budget(p, budget_bytes);
    return p;
}

void kv_pool_set_budget(struct kv_pool *p, uint64_t budget_bytes)
{
    p->budget_bytes = budget_bytes > p->rows_bytes ? budget_bytes : p->rows_bytes;
}

void kv_pool_trim(struct kv_pool *p)
{
    while (p->n_spare) {
        p->kern->ops->free(p->kern, p->spare[--p->n_spare]);
        p->used_bytes -= p->rows_bytes;
    }
}

void kv_pool_free(struct kv_pool *p)
{
    if (!p)
        return;
    kv_pool_trim(p);
    assert(p->used_bytes == 0);
    free(p->spare);
    free(p->bounce);
    free(p->layer_window);
    free(p->care);
    free(p);
}

uint64_t kv_pool_bytes(const struct kv_pool *p)
{
    return p->used_bytes;
}

uint64_t kv_pool_budget(const struct kv_pool *p)
{
    return p->budget_bytes;
}

uint64_t kv_stamp(void)
{
    static _Atomic uint64_t last;
    return ++last;
}

size_t kv_layer_bytes(const struct kv_pool *p, int32_t layer)
{
    const struct kv_shape *s = &p->shape;
    return (kv_layer_at(s, layer + 1, KERN_BLOCK_TOK) - kv_layer_at(s, layer, KERN_BLOCK_TOK)) *
           (size_t)p->kern->kv_bytes;
}

char *kv_layer_rows(const struct kv_pool *p, const struct kv_block *b, int32_t layer)
{
    return b->rows + kv_layer_at(&p->shape, layer, KERN_BLOCK_TOK) * (size_t)p->kern->kv_bytes;
}

uint16_t *kv_layer_get(struct kv_pool *p, const struct kv_block *b, int32_t layer)
{
    char *rows = kv_layer_rows(p, b, layer);
    if (!p->kern->device)
        return (uint16_t *)(void *)rows;
    p->kern->ops->download(p->kern, p->bounce, rows, kv_layer_bytes(p, layer)); /* there with the rows */
    return p->bounce;
}

void kv_layer_put(struct kv_pool *p, struct kv_block *b, int32_t layer, const uint16_t *rows)
{
    if (p->kern->device)
        p->kern->ops->upload(p->kern, kv_layer_rows(p, b, layer), rows, kv_layer_bytes(p, layer));
}

void *kv_bounce(struct kv_pool *p)
{
    if (!p->bounce)
        p->bounce = mem_try(p->rows_bytes);
    return p->bounce;
}

enum status kv_full(const struct kv_pool *p, uint64_t more_bytes, struct err *e)
{
    char beyond[32], budget[32];
    return err_set(e, ERR_MEMORY,
                   "the KV cache is full: it needs %s more than its budget of %s; raise that "
                   "(--kv-budget, in the chat /budget) or start a new conversation",
                   err_size_text(p->used_bytes + more_bytes - p->budget_bytes, beyond),
                   err_size_text(p->budget_bytes, budget));
}

enum status kv_rows_new(struct kv_pool *p, bool force, char **ret, struct err *e)
{
    char size[32];
    if (p->n_spare) {
        *ret = p->spare[--p->n_spare];
        return OK;
    }
    if (!force && p->used_bytes + p->rows_bytes > p->budget_bytes)
        return kv_full(p, p->rows_bytes, e);
    char *rows = p->kern->ops->alloc(p->kern, p->rows_bytes);
    if (!rows || (p->kern->device && !kv_bounce(p))) {
        if (rows)
            p->kern->ops->free(p->kern, rows);
        return err_set(e, ERR_MEMORY,
                       "out of memory: no %s for 64 more tokens; close other programs or use a "
                       "smaller context",
                       err_size_text(p->rows_bytes, size));
    }
    /* Kernels may multiply rows that were never written by a weight of zero: they must be finite.
     */
    p->kern->ops->clear(p->kern, rows, p->rows_bytes);
    p->used_bytes += p->rows_bytes;
    *ret = rows;
    return OK;
}

void kv_rows_free(struct kv_pool *p, char *rows)
{
    /* A cache that seals needs few rows at once, and the budget may have been lowered. A device waits
     * for all that it does before it takes memory back: there the rows of a chunk stay for the next. */
    bool enough = p->seals && !p->kern->device && p->n_spare >= 2;
    if (p->used_bytes > p->budget_bytes || enough) {
        p->kern->ops->free(p->kern, rows);
        p->used_bytes -= p->rows_bytes;
        return;
    }
    if (p->n_spare == p->spare_cap) {
        p->spare_cap = p->spare_cap ? 2 * p->spare_cap : 16;
        p->spare = mem_realloc(p->spare, (size_t)p->spare_cap * sizeof *p->spare);
    }
    p->spare[p->n_spare++] = rows;
}

/* ---- blocks ---- */

struct kv_block *kv_block_empty(struct kv_pool *p, bool first)
{
    struct kv_block *b = mem_calloc(1, sizeof *b);
    b->n_ref = 1;
    if (!first || !p->seals)
        return b;
    b->sinks = p->kern->ops->alloc(p->kern, p->sink_bytes);
    if (!b->sinks) {
        free(b);
        return NULL;
    }
    p->kern->ops->clear(p->kern, b->sinks, p->sink_bytes);
    p->used_bytes += p->sink_bytes;
    return b;
}

static enum status block_new(struct kv_pool *p, bool first, struct kv_block **ret, struct err *e)
{
    char *rows = NULL;
    TRY(kv_rows_new(p, false, &rows, e));
    struct kv_block *b = kv_block_empty(p, first);
    if (!b) {
        kv_rows_free(p, rows);
        return err_set(e, ERR_MEMORY, "out of memory: no %llu bytes for the first tokens",
                       (unsigned long long)p->sink_bytes);
    }
    b->rows = rows;
    *ret = b;
    return OK;
}

void kv_block_unref(struct kv_pool *p, struct kv_block *b)
{
    if (--b->n_ref > 0)
        return;
    kv_pages_free(p, b);
    if (b->rows)
        kv_rows_free(p, b->rows);
    if (b->sinks) {
        p->kern->ops->free(p->kern, b->sinks);
        p->used_bytes -= p->sink_bytes;
    }
    free(b);
}

/* ---- tables ---- */

void kv_table_set(struct kv_line *l, int32_t j)
{
    const struct kv_shape *s = &l->pool->shape;
    const struct kv_block *b = l->block[j];
    size_t elem = (size_t)l->pool->kern->kv_bytes;
    for (int32_t i = 0; i < s->n_layer; i++) {
        const struct kv_heads *of = &s->heads[i];
        size_t head = (size_t)KERN_BLOCK_TOK * (size_t)of->dim * elem;
        for (int32_t h = 0; h < of->n; h++) {
            struct kern_kv_block *entry =
                &l->layer[i].block[(size_t)h * (size_t)l->block_cap + (size_t)j];
            char *k = b->rows ? kv_layer_rows(l->pool, b, i) + (size_t)h * head : NULL;
            char *v = b->rows && !of->n_latent ? k + (size_t)of->n * head : NULL;
            entry->k = (uint16_t *)(void *)k;
            entry->v = (uint16_t *)(void *)v;
            struct kern_page *const *page = b->copy ? b->copy : b->page;
            entry->page = b->sealed ? page[of->first + h] : NULL;
        }
        l->layer[i].stamp = kv_stamp();
        if (j == 0 && b->sinks) {
            l->layer[i].sink_k = (uint16_t *)(void *)b->sinks + kv_layer_at(s, i, KERN_SINK_PAD);
            if (!of->n_latent)
                l->layer[i].sink_v = l->layer[i].sink_k + (size_t)KERN_SINK_PAD * (size_t)(of->n * of->dim);
        }
    }
}

static void table_grow(struct kv_line *l, int32_t cap)
{
    const struct kv_shape *s = &l->pool->shape;
    size_t n_row = (size_t)s->n_head;
    float *mass = mem_calloc(n_row * (size_t)cap, sizeof *mass);
    l->pool->kern->ops->sync(l->pool->kern); /* masses on their way to the old array */
    for (size_t i = 0; i < n_row && l->n_block > 0; i++)
        memcpy(mass + i * (size_t)cap, l->mass + i * (size_t)l->block_cap,
               (size_t)l->n_block * sizeof *mass);
    free(l->mass);
    l->mass = mass;
    struct kern_kv_block *table = mem_calloc(n_row * (size_t)cap, sizeof *table);
    for (size_t i = 0; i < n_row && l->n_block > 0; i++)
        memcpy(table + i * (size_t)cap, l->table + i * (size_t)l->block_cap,
               (size_t)l->n_block * sizeof *table);
    free(l->table);
    l->table = table;
    kv_watch_grow(l, l->block_cap, cap);
    l->block = mem_realloc(l->block, (size_t)cap * sizeof(struct kv_block *));
    l->block_cap = cap;
    for (int32_t i = 0; i < s->n_layer; i++) {
        l->layer[i] = (struct kern_kv){
            .n_head_kv = s->heads[i].n,
            .head_dim = s->heads[i].dim,
            .n_latent = s->heads[i].n_latent,
            .n_block_cap = cap,
            .stamp = kv_stamp(),
            .block = l->table + (size_t)s->heads[i].first * (size_t)cap,
        };
    }
    for (int32_t j = 0; j < l->n_block; j++)
        kv_table_set(l, j);
}

/* ---- lines ---- */

struct kv_line *kv_line_new(struct kv_pool *p, int32_t n_ctx)
{
    struct kv_line *l = mem_calloc(1, sizeof *l);
    l->pool = p;
    l->n_ctx = n_ctx;
    l->ids = mem_calloc((size_t)n_ctx, sizeof *l->ids);
    l->layer = mem_calloc((size_t)p->shape.n_layer, sizeof *l->layer);
    l->n_query = mem_calloc((size_t)p->shape.n_layer, sizeof *l->n_query);
    l->next = p->lines;
    if (l->next)
        l->next->prev = l;
    p->lines = l;
    table_grow(l, 16);
    return l;
}

/* What a line of the same tokens knows beyond its rows. */
static void remember(struct kv_line *l, const struct kv_line *src)
{
    size_t n_row = (size_t)l->pool->shape.n_head;
    for (size_t i = 0; i < n_row; i++)
        for (int32_t j = 0; j < src->n_block; j++)
            l->table[i * (size_t)l->block_cap + (size_t)j].dropped =
                src->table[i * (size_t)src->block_cap + (size_t)j].dropped;
    l->evict_base = src->evict_base;
    kv_watch_copy(l, src);
}

struct kv_line *kv_line_fork(struct kv_line *src, int32_t n)
{
    assert(n >= 0 && n <= src->n_tok);
    struct kv_line *l = kv_line_new(src->pool, src->n_ctx);
    if (kv_remembers(l) && n < src->n_tok)
        return l; /* what it knows is of the whole of src */
    int32_t n_block = kv_blocks_for(n);
    if (n_block > l->block_cap)
        table_grow(l, n_block);
    for (int32_t j = 0; j < n_block; j++) {
        l->block[j] = src->block[j];
        l->block[j]->n_ref++;
        l->n_block = j + 1;
        kv_table_set(l, j);
    }
    memcpy(l->ids, src->ids, (size_t)n * sizeof *l->ids);
    l->n_tok = n;
    if (kv_remembers(l))
        remember(l, src);
    kv_states_copy(l, src);
    kv_truncate(l, n);
    return l;
}

void kv_line_free(struct kv_line *l)
{
    if (!l)
        return;
    for (int32_t j = 0; j < l->n_block; j++)
        kv_block_unref(l->pool, l->block[j]);
    if (l->next)
        l->next->prev = l->prev;
    if (l->prev)
        l->prev->next = l->next;
    else
        l->pool->lines = l->next;
    kv_watch_free(l);
    kv_states_free(l);
    l->pool->kern->ops->sync(l->pool->kern); /* masses on their way */
    free(l->block);
    free(l->layer);
    free(l->table);
    free(l->mass);
    free(l->n_query);
    free(l->ids);
    free(l);
}

int32_t kv_n_tok(const struct kv_line *l)
{
    return l->n_tok;
}

const int32_t *kv_ids(const struct kv_line *l)
{
    return l->ids;
}

int32_t kv_common(const struct kv_line *l, const int32_t *ids, int32_t n)
{
    int32_t most = n < l->n_tok ? n : l->n_tok, i = 0;
    while (i < most && l->ids[i] == ids[i])
        i++;
    return i;
}

uint64_t kv_line_bytes(const struct kv_line *l)
{
    uint64_t sum = kv_states_bytes(l);
    if (preset_simulated(&l->pool->preset))
        return kv_format_bytes(l);
    if (preset_lossy(&l->pool->preset))
        return kv_evict_bytes(l);
    for (int32_t j = 0; j < l->n_block; j++)
        sum += l->block[j]->page_bytes + (l->block[j]->rows ? l->pool->rows_bytes : 0) +
               (l->block[j]->sinks ? l->pool->sink_bytes : 0);
    return sum;
}

int64_t kv_f16_bytes(const struct kv_line *l)
{
    return (int64_t)(kv_block_bytes(&l->pool->shape) * (uint64_t)kv_blocks_for(l->n_tok) + kv_states_bytes(l));
}

enum status kv_unshare(struct kv_line *l, int32_t j, struct err *e)
{
    struct kv_pool *p = l->pool;
    const struct kern_ops *ops = p->kern->ops;
    struct kv_block *copy = NULL, *from = l->block[j];
    TRY(block_new(p, j == 0, &copy, e));
    ops->copy(p->kern, copy->rows, from->rows, p->rows_bytes);
    if (copy->sinks)
        ops->copy(p->kern, copy->sinks, from->sinks, p->sink_bytes);
    kv_block_unref(p, from);
    l->block[j] = copy;
    kv_table_set(l, j);
    return OK;
}

static bool tail_is_shared(const struct kv_line *l)
{
    int32_t tail = l->n_tok / KERN_BLOCK_TOK; /* the block that is written next */
    return tail < l->n_block && l->block[tail]->n_ref > 1;
}

uint64_t kv_reserve_bytes(const struct kv_line *l, int32_t n_more)
{
    const struct kv_pool *p = l->pool;
    int32_t end = l->n_tok + n_more, sealed = p->seals ? kv_sealed_end(end) : 0;
    int32_t n_rows = kv_blocks_for(end) - l->n_block + tail_is_shared(l);
    bool sinks = p->seals && (l->n_block == 0 || (l->n_tok < KERN_BLOCK_TOK && tail_is_shared(l)));
    uint64_t sum = (uint64_t)(n_rows > 0 ? n_rows : 0) * p->rows_bytes + (sinks ? p->sink_bytes : 0) +
                   kv_states_reserve_bytes(l);
    for (int32_t j = 0; j < sealed; j++)
        if (j >= l->n_block || !l->block[j]->page)
            sum += kv_pages_bytes(p);
    return sum;
}

enum status kv_reserve(struct kv_line *l, int32_t n_more, struct err *e)
{
    char held[32], more[32], fit[32];
    if (n_more > l->n_ctx - l->n_tok)
        return err_set(e, ERR_USAGE, "context is full: %s tokens held, %s more asked for, %s fit",
                       err_count_text((uint64_t)l->n_tok, held), err_count_text((uint64_t)n_more, more),
                       err_count_text((uint64_t)l->n_ctx, fit));
    int32_t need = kv_blocks_for(l->n_tok + n_more), had = l->n_block;
    if (tail_is_shared(l))
        TRY(kv_unshare(l, l->n_tok / KERN_BLOCK_TOK, e));
    TRY(kv_code_reserve(l, l->n_tok + n_more, e));
    TRY(kv_states_reserve(l, e));
    if (need > l->block_cap)
        table_grow(l, need > 2 * l->block_cap ? need : 2 * l->block_cap);
    enum status s = OK;
    while (l->n_block < need && s == OK) {
        struct kv_block *b = NULL;
        s = block_new(l->pool, l->n_block == 0, &b, e);
        if (s == OK) {
            l->block[l->n_block++] = b;
            kv_table_set(l, l->n_block - 1);
        }
    }
    int32_t sealed = l->pool->seals ? kv_sealed_end(l->n_tok + n_more) : 0;
    for (int32_t j = 0; j < sealed && s == OK; j++)
        if (!l->block[j]->page)
            s = kv_pages_new(l->pool, l->block[j], e);
    while (s != OK && l->n_block > had)
        kv_block_unref(l->pool, l->block[--l->n_block]);
    return s;
}

void kv_line_add(struct kv_line *l, struct kv_block *b, const int32_t *ids)
{
    assert(l->n_tok == l->n_block * KERN_BLOCK_TOK && b->sealed);
    if (l->n_block == l->block_cap)
        table_grow(l, 2 * l->block_cap);
    l->block[l->n_block++] = b;
    memcpy(l->ids + l->n_tok, ids, KERN_BLOCK_TOK * sizeof *ids);
    l->n_tok += KERN_BLOCK_TOK;
    if (l->first_rows == l->n_block - 1)
        l->first_rows = l->n_block;
    kv_table_set(l, l->n_block - 1);
}

const struct kern_kv *kv_layer(const struct kv_line *l, int32_t layer)
{
    return &l->layer[layer];
}

float *kv_mass(struct kv_line *l, int32_t layer)
{
    return l->mass + (size_t)l->pool->shape.heads[layer].first * (size_t)l->block_cap;
}

void kv_count_query(struct kv_line *l, int32_t layer, int32_t n)
{
    l->n_query[layer] += n;
}

int32_t kv_chunk(const struct preset *preset)
{
    if (preset_lossy(preset)) /* a text that is measured drops after each, as after a prompt */
        return 2 * KERN_BLOCK_TOK;
    return preset_simulated(preset) && !preset->at_write ? KERN_BLOCK_TOK : 0;
}

int32_t kv_room(const struct kv_line *l)
{
    if (tail_is_shared(l))
        return 0;
    int64_t room = (int64_t)l->n_block * KERN_BLOCK_TOK;
    return (int32_t)(room < l->n_ctx ? room : l->n_ctx) - l->n_tok;
}

void kv_commit(struct kv_line *l, const int32_t *ids, int32_t n)
{
    assert(n >= 0 && n <= kv_room(l));
    memcpy(l->ids + l->n_tok, ids, (size_t)n * sizeof *ids);
    l->n_tok += n;
    kv_states_commit(l);
    kv_settle(l);
    kv_code_blocks(l);
}

static void cut(struct kv_line *l, int32_t n)
{
    l->pool->kern->ops->sync(l->pool->kern); /* masses of what goes */
    l->n_tok = n;
    kv_states_cut(l, n);
    while (l->n_block > kv_blocks_for(n))
        kv_block_unref(l->pool, l->block[--l->n_block]);
    size_t n_row = (size_t)l->pool->shape.n_head;
    for (size_t i = 0; i < n_row && l->n_block < l->block_cap; i++)
        memset(l->mass + i * (size_t)l->block_cap + l->n_block, 0,
               (size_t)(l->block_cap - l->n_block) * sizeof *l->mass);
    if (l->first_rows > l->n_block)
        l->first_rows = l->n_block;
    if (l->kept_seen > n / KERN_BLOCK_TOK)
        l->kept_seen = n / KERN_BLOCK_TOK;
    if (l->kept_block > n / KERN_BLOCK_TOK)
        l->kept_block = 0;
    if (l->kept_state > n)
        l->kept_state = 0;
    if (l->kept_end > n)
        l->kept_end = n - n % KV_IO_ROWS_TOK;
    int32_t tail = n / KERN_BLOCK_TOK;
    if (tail < l->n_block && l->block[tail]->sealed && l->block[tail]->n_ref == 1) {
        l->block[tail]->sealed = false; /* will be written again */
        kv_exact_free(l->pool, l->block[tail]);
        l->block[tail]->kept = false;
        kv_table_set(l, tail);
    }
}

/* Back to nothing: what was dropped or weighed by later tokens cannot be undone otherwise. */
static void forget(struct kv_line *l)
{
    size_t n_row = (size_t)l->pool->shape.n_head;
    cut(l, 0);
    for (size_t i = 0; i < n_row * (size_t)l->block_cap; i++)
        l->table[i].dropped = 0;
    l->evict_base = 0;
    kv_watch_reset(l);
}

/* Cuts the line where its newest state at hand stands: at the beginning of a block. The one before
 * is context, from its pages where its rows are gone. */
static void step_back(struct kv_line *l)
{
    struct err e;
    cut(l, kv_states_back(l, l->n_tok));
    int32_t b = l->n_tok / KERN_BLOCK_TOK;
    if (b > 0 && !l->block[b - 1]->rows && kv_thaw(l, b - 1, &e) != OK)
        cut(l, 0);
}

void kv_truncate(struct kv_line *l, int32_t n)
{
    assert(n >= 0 && n <= l->n_tok);
    if (kv_remembers(l) && n < l->n_tok) {
        forget(l);
        return;
    }
    cut(l, n);
    if (!kv_states_here(l)) {
        step_back(l);
        return;
    }
    /* Position n reads rows of its own block and of the one before. Where they are gone, the block
     * before is read again; its own queries get the rows before it back from their pages. */
    int32_t b = n / KERN_BLOCK_TOK;
    bool own = n % KERN_BLOCK_TOK == 0 || kv_has_rows(l->block[b]);
    bool before = b == 0 || kv_has_rows(l->block[b - 1]);
    struct err e;
    if (own && before)
        return;
    if (l->pool->shape.n_state_layer > 0) {
        step_back(l);
        return;
    }
    int32_t back = b > 0 ? b - 1 : 0;
    cut(l, back * KERN_BLOCK_TOK);
    if (back > 0 && kv_thaw(l, back - 1, &e) != OK)
        cut(l, 0);
}

void kv_repeat(struct kv_line *l, int32_t n)
{
    struct kv_pool *p = l->pool;
    int32_t n_real = l->n_tok / KERN_BLOCK_TOK, end = kv_blocks_for(l->n_tok + n);
    int32_t n_id = l->n_tok > 0 ? l->n_tok : 1;
    assert(n <= kv_room(l));
    for (int32_t j = n_real; n_real > 0 && j < end; j++) {
        const struct kv_block *from = l->block[j % n_real];
        if (from->rows)
            p->kern->ops->copy(p->kern, l->block[j]->rows, from->rows, p->rows_bytes);
    }
    for (int32_t i = 0; i < n; i++)
        l->ids[l->n_tok + i] = l->ids[i % n_id];
    int32_t sealed = p->seals ? kv_sealed_end(l->n_tok + n) : 0;
    for (int32_t i = 0; i < p->shape.n_layer && sealed; i++)
        kv_seal(l, i, l->n_tok + n);
    l->n_tok += n;
    kv_states_repeat(l);
    kv_settle(l);
    kv_code_blocks(l);
}
