#include "engine/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

struct kv_block {
    int32_t n_ref;
    char *rows; /* dev: [n_layer][k, v][n_head_kv][64 * head_dim] of f16 (kern.kv_bytes each) */
};

struct kv_pool {
    struct kern *kern;
    struct kv_shape shape;
    uint64_t block_bytes, used_bytes, budget_bytes;
    struct kv_block **spare; /* allocated, used by no line */
    int32_t n_spare, spare_cap;
    void *bounce; /* host memory for copying a block; allocated when first needed */
};

struct kv_line {
    struct kv_pool *pool;
    int32_t n_ctx;
    int32_t *ids; /* [n_ctx] */
    int32_t n_tok;
    struct kv_block **block; /* [block_cap] */
    int32_t n_block, block_cap;
    struct kern_kv *layer;       /* [n_layer], views into table */
    struct kern_kv_block *table; /* [n_layer][n_head_kv][block_cap] */
};

/* ---- sizes ---- */

uint64_t kv_tok_bytes(const struct kv_shape *s)
{
    return (uint64_t)s->n_layer * 2 * (uint64_t)s->n_head_kv * (uint64_t)s->head_dim *
           sizeof(uint16_t);
}

uint64_t kv_block_bytes(const struct kv_shape *s)
{
    return kv_tok_bytes(s) * KERN_BLOCK_TOK;
}

/* ---- blocks ---- */

struct kv_pool *kv_pool_new(struct kern *k, const struct kv_shape *s, uint64_t budget_bytes)
{
    struct kv_pool *p = mem_calloc(1, sizeof *p);
    p->kern = k;
    p->shape = *s;
    p->block_bytes = kv_block_bytes(s) / sizeof(uint16_t) * (uint64_t)k->kv_bytes;
    kv_pool_set_budget(p, budget_bytes);
    return p;
}

void kv_pool_set_budget(struct kv_pool *p, uint64_t budget_bytes)
{
    p->budget_bytes = budget_bytes > p->block_bytes ? budget_bytes : p->block_bytes;
}

void kv_pool_trim(struct kv_pool *p)
{
    while (p->n_spare) {
        struct kv_block *b = p->spare[--p->n_spare];
        p->kern->ops->free(p->kern, b->rows);
        free(b);
        p->used_bytes -= p->block_bytes;
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

/* Host memory of a block's size, zeroed. */
static void *bounce(struct kv_pool *p)
{
    if (!p->bounce)
        p->bounce = mem_try(p->block_bytes);
    return p->bounce;
}

static enum status block_new(struct kv_pool *p, struct kv_block **ret, struct err *e)
{
    if (p->n_spare) {
        *ret = p->spare[--p->n_spare];
        (*ret)->n_ref = 1;
        return OK;
    }
    if (p->used_bytes + p->block_bytes > p->budget_bytes)
        return err_set(e, ERR_MEMORY,
                       "KV cache is full: %llu of %llu bytes used; raise --kv-budget "
                       "or start a new conversation",
                       (unsigned long long)p->used_bytes, (unsigned long long)p->budget_bytes);
    struct kv_block *b = mem_calloc(1, sizeof *b);
    b->rows = p->kern->ops->alloc(p->kern, p->block_bytes);
    void *zero = bounce(p);
    if (!b->rows || !zero) {
        if (b->rows)
            p->kern->ops->free(p->kern, b->rows);
        free(b);
        return err_set(e, ERR_MEMORY,
                       "out of memory: no %llu bytes for 64 more tokens; close other "
                       "programs or use a smaller context",
                       (unsigned long long)p->block_bytes);
    }
    /* Kernels may multiply rows that were never written by a weight of zero: they must be finite.
     */
    memset(zero, 0, p->block_bytes);
    p->kern->ops->upload(p->kern, b->rows, zero, p->block_bytes);
    b->n_ref = 1;
    p->used_bytes += p->block_bytes;
    *ret = b;
    return OK;
}

static void block_unref(struct kv_pool *p, struct kv_block *b)
{
    if (--b->n_ref > 0)
        return;
    if (p->used_bytes > p->budget_bytes) { /* the budget was lowered */
        p->kern->ops->free(p->kern, b->rows);
        free(b);
        p->used_bytes -= p->block_bytes;
        return;
    }
    if (p->n_spare == p->spare_cap) {
        p->spare_cap = p->spare_cap ? 2 * p->spare_cap : 16;
        p->spare = mem_realloc(p->spare, (size_t)p->spare_cap * sizeof(struct kv_block *));
    }
    p->spare[p->n_spare++] = b;
}

/* ---- tables ---- */

/* Points the table entries of block j at its rows. */
static void table_set(struct kv_line *l, int32_t j)
{
    const struct kv_shape *s = &l->pool->shape;
    size_t head = (size_t)KERN_BLOCK_TOK * (size_t)s->head_dim * (size_t)l->pool->kern->kv_bytes;
    char *at = l->block[j]->rows;
    for (int32_t i = 0; i < s->n_layer; i++) {
        struct kern_kv_block *row = l->layer[i].block + j;
        for (int32_t h = 0; h < s->n_head_kv; h++, at += head)
            row[(size_t)h * (size_t)l->block_cap].k = (uint16_t *)(void *)at;
        for (int32_t h = 0; h < s->n_head_kv; h++, at += head)
            row[(size_t)h * (size_t)l->block_cap].v = (uint16_t *)(void *)at;
    }
}

static void table_grow(struct kv_line *l, int32_t cap)
{
    const struct kv_shape *s = &l->pool->shape;
    size_t n_row = (size_t)s->n_layer * (size_t)s->n_head_kv;
    free(l->table);
    l->table = mem_calloc(n_row * (size_t)cap, sizeof *l->table);
    l->block = mem_realloc(l->block, (size_t)cap * sizeof(struct kv_block *));
    l->block_cap = cap;
    for (int32_t i = 0; i < s->n_layer; i++) {
        l->layer[i] = (struct kern_kv){
            .n_head_kv = s->n_head_kv,
            .head_dim = s->head_dim,
            .n_block_cap = cap,
            .block = l->table + (size_t)i * (size_t)s->n_head_kv * (size_t)cap,
        };
    }
    for (int32_t j = 0; j < l->n_block; j++)
        table_set(l, j);
}

static int32_t blocks_for(int32_t n_tok)
{
    return n_tok / KERN_BLOCK_TOK + (n_tok % KERN_BLOCK_TOK != 0);
}

/* ---- lines ---- */

struct kv_line *kv_line_new(struct kv_pool *p, int32_t n_ctx)
{
    struct kv_line *l = mem_calloc(1, sizeof *l);
    l->pool = p;
    l->n_ctx = n_ctx;
    l->ids = mem_calloc((size_t)n_ctx, sizeof *l->ids);
    l->layer = mem_calloc((size_t)p->shape.n_layer, sizeof *l->layer);
    table_grow(l, 16);
    return l;
}

struct kv_line *kv_line_fork(struct kv_line *src, int32_t n)
{
    assert(n >= 0 && n <= src->n_tok);
    struct kv_line *l = kv_line_new(src->pool, src->n_ctx);
    int32_t n_block = blocks_for(n);
    if (n_block > l->block_cap)
        table_grow(l, n_block);
    for (int32_t j = 0; j < n_block; j++) {
        l->block[j] = src->block[j];
        l->block[j]->n_ref++;
        l->n_block = j + 1;
        table_set(l, j);
    }
    memcpy(l->ids, src->ids, (size_t)n * sizeof *l->ids);
    l->n_tok = n;
    return l;
}

void kv_line_free(struct kv_line *l)
{
    if (!l)
        return;
    for (int32_t j = 0; j < l->n_block; j++)
        block_unref(l->pool, l->block[j]);
    free(l->block);
    free(l->layer);
    free(l->table);
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
    return (uint64_t)l->n_block * l->pool->block_bytes;
}

/* Gives the line a copy of its own of block j. */
static enum status unshare(struct kv_line *l, int32_t j, struct err *e)
{
    struct kv_pool *p = l->pool;
    struct kv_block *copy = NULL;
    TRY(block_new(p, &copy, e));
    void *host = bounce(p);
    if (!host) {
        block_unref(p, copy);
        return err_set(e, ERR_MEMORY, "out of memory: no %llu bytes to copy a block",
                       (unsigned long long)p->block_bytes);
    }
    p->kern->ops->download(p->kern, host, l->block[j]->rows, p->block_bytes);
    p->kern->ops->upload(p->kern, copy->rows, host, p->block_bytes);
    block_unref(p, l->block[j]);
    l->block[j] = copy;
    table_set(l, j);
    return OK;
}

enum status kv_reserve(struct kv_line *l, int32_t n_more, struct err *e)
{
    if (n_more > l->n_ctx - l->n_tok)
        return err_set(e, ERR_USAGE, "context is full: %d tokens held, %d more asked for, %d fit",
                       l->n_tok, n_more, l->n_ctx);
    int32_t tail = l->n_tok / KERN_BLOCK_TOK; /* the block that is written next */
    int32_t need = blocks_for(l->n_tok + n_more), had = l->n_block;
    if (tail < l->n_block && l->block[tail]->n_ref > 1)
        TRY(unshare(l, tail, e));
    if (need > l->block_cap)
        table_grow(l, need > 2 * l->block_cap ? need : 2 * l->block_cap);
    while (l->n_block < need) {
        struct kv_block *b = NULL;
        enum status s = block_new(l->pool, &b, e);
        if (s != OK) {
            while (l->n_block > had)
                block_unref(l->pool, l->block[--l->n_block]);
            return s;
        }
        l->block[l->n_block++] = b;
        table_set(l, l->n_block - 1);
    }
    return OK;
}

const struct kern_kv *kv_layer(const struct kv_line *l, int32_t layer)
{
    return &l->layer[layer];
}

int32_t kv_room(const struct kv_line *l)
{
    int32_t tail = l->n_tok / KERN_BLOCK_TOK;
    if (tail < l->n_block && l->block[tail]->n_ref > 1)
        return 0;
    int64_t room = (int64_t)l->n_block * KERN_BLOCK_TOK;
    return (int32_t)(room < l->n_ctx ? room : l->n_ctx) - l->n_tok;
}

void kv_commit(struct kv_line *l, const int32_t *ids, int32_t n)
{
    assert(n >= 0 && n <= kv_room(l));
    memcpy(l->ids + l->n_tok, ids, (size_t)n * sizeof *ids);
    l->n_tok += n;
}

void kv_truncate(struct kv_line *l, int32_t n)
{
    assert(n >= 0 && n <= l->n_tok);
    l->n_tok = n;
    while (l->n_block > blocks_for(n))
        block_unref(l->pool, l->block[--l->n_block]);
}

void kv_repeat(struct kv_line *l, int32_t n)
{
    struct kv_pool *p = l->pool;
    void *host = bounce(p);
    int32_t n_real = l->n_tok / KERN_BLOCK_TOK, end = blocks_for(l->n_tok + n);
    assert(n <= kv_room(l) && host);
    for (int32_t j = n_real; n_real > 0 && j < end; j++) {
        p->kern->ops->download(p->kern, host, l->block[j % n_real]->rows, p->block_bytes);
        p->kern->ops->upload(p->kern, l->block[j]->rows, host, p->block_bytes);
    }
    for (int32_t i = 0; i < n; i++)
        l->ids[l->n_tok + i] = l->ids[i % (l->n_tok > 0 ? l->n_tok : 1)];
    l->n_tok += n;
}
