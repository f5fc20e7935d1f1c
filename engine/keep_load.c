/* Timelines that come back: what is worth taking up, its blocks, rows and states, checked. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/keep_impl.h"

enum {
    LOAD_MIN_TOK = 16, /* fewer are read from ids as quickly */
    LOAD_BLOCKS = 32,  /* read at the same time, at most */
};

struct loading {
    struct kv_line *l;
    struct kv_block *b; /* being filled */
    int32_t j;
    int32_t layer, n_page; /* whose pages are coming; how many are made */
    char *bytes;           /* [head of a layer][keep_page_max]: what came of them */
    size_t *have;          /* [head of a layer]: their lengths */
    int32_t n_layer_seen; /* of rows, or of a state */
    int32_t from, n_row;  /* positions */
    bool bad, whole;
};

static void put_sinks(struct kv_pool *p, struct kv_block *b, int32_t layer, uint16_t *packed)
{
    const struct kern_ops *ops = p->kern->ops;
    uint16_t *sinks = mem_alloc(p->sink_bytes); /* block 0 alone, on one thread */
    ops->download(p->kern, sinks, b->sinks, p->sink_bytes);
    keep_move_sinks(&p->shape, sinks, layer, packed, false);
    ops->upload(p->kern, b->sinks, sinks, p->sink_bytes);
    free(sinks);
}

static void put_sink(struct kv_pool *p, struct kv_block *b, int32_t layer, int32_t t,
                     uint16_t *packed)
{
    const struct kern_ops *ops = p->kern->ops;
    uint16_t *sinks = mem_alloc(p->sink_bytes);
    ops->download(p->kern, sinks, b->sinks, p->sink_bytes);
    keep_set_sink(&p->shape, sinks, layer, t, packed);
    ops->upload(p->kern, b->sinks, sinks, p->sink_bytes);
    free(sinks);
}

/* The lowest planes and scales of one head, as keep.c puts them, to the first bytes of its page. */
static void take_lowest(char *page, const char *piece, int32_t h, const struct kv_heads *of)
{
    const struct page_shape lowest = keep_page_shape(of, 0);
    size_t base = page_base_size(&lowest), plane = page_plane_size(of->dim), half = (size_t)of->n * base / 2;
    int32_t n_plane = keep_n_tensor(of);
    const char *low = piece + (size_t)(n_plane * of->n) * plane + (size_t)h * (base / 2);
    keep_join_bytes(page, low, low + half, base / 2);
    for (int32_t i = 0; i < n_plane; i++)
        memcpy(page + base + (size_t)i * plane, piece + (size_t)(i * of->n + h) * plane, plane);
}

/* Makes one page of the bytes that came: planes that are gone move scales and offsets. */
static struct kern_page *build_page(const struct kv_pool *p, int32_t layer, const char *bytes,
                                    size_t have, uint64_t *ret_bytes)
{
    const struct kv_heads *of = &p->shape.heads[layer];
    int32_t top = -1;
    struct kern_page head, *page = NULL;
    const uint8_t *planes_k[PAGE_PLANES], *planes_v[PAGE_PLANES];
    for (int32_t i = 0; i < KV_STEPS; i++)
        if (keep_page_bytes(of, i) == have)
            top = i;
    if (top < 0)
        return NULL;
    memcpy(&head, bytes, sizeof head);
    const struct page_shape shape = keep_page_shape(of, top);
    int32_t bits_k = shape.bits_k, bits_v = shape.bits_v;
    page = mem_try(page_size(&shape));
    if (!page)
        return NULL;
    for (int32_t i = 0; i < bits_k / PAGE_PLANE_BITS; i++)
        planes_k[i] = (const uint8_t *)bytes + page_plane_at(&shape, PAGE_K, i);
    for (int32_t i = 0; i < bits_v / PAGE_PLANE_BITS; i++)
        planes_v[i] = (const uint8_t *)bytes + page_plane_at(&shape, PAGE_V, i);
    bool ok = page_assemble(page, bytes, page_base_size(&shape), planes_k, bits_k / PAGE_PLANE_BITS,
                            planes_v, bits_v / PAGE_PLANE_BITS) &&
              page_check(page, page_size(&shape), of->dim, of->n_latent > 0, NULL);
    /* A fixed format never holds more than it says. */
    const struct page_shape seal = kv_page_shape(of, p->care[layer].seal);
    if (ok && !p->preset.adaptive && (bits_k > seal.bits_k || bits_v > seal.bits_v)) {
        int32_t k = bits_k < seal.bits_k ? bits_k : seal.bits_k;
        int32_t v = bits_v < seal.bits_v ? bits_v : seal.bits_v;
        ok = page_demote(page, k, v) > 0;
    }
    if (!ok) {
        free(page);
        return NULL;
    }
    *ret_bytes += page->size_bytes;
    return page;
}

/* Makes the pages of the layer whose bytes are at hand, then begins another one. */
static bool make_pages(struct loading *g, int32_t next)
{
    const struct kv_pool *p = g->l->pool;
    const struct kv_heads *of = g->layer >= 0 ? &p->shape.heads[g->layer] : NULL;
    for (int32_t h = 0; of && h < of->n && !g->bad; h++) {
        struct kern_page *page = build_page(p, g->layer, g->bytes + (size_t)h * keep_page_max(of),
                                            g->have[h], &g->b->page_bytes);
        g->b->page[of->first + h] = page;
        g->n_page += page != NULL;
        g->bad = !page;
    }
    g->layer = next;
    if (next >= 0)
        memset(g->have, 0, (size_t)p->shape.heads[next].n * sizeof *g->have);
    return !g->bad;
}

/* Page bytes arrive layer by layer, there plane by plane, in ascending order, for all heads of a
 * layer at once. */
static bool visit_page(void *ctx, const struct kv_piece *piece)
{
    struct loading *g = ctx;
    const struct kv_shape *s = &g->l->pool->shape;
    const char *at = piece->data;
    size_t left = piece->size_bytes, from, size;
    if (piece->layer < 0 || piece->layer >= s->n_layer || piece->plane < 0 ||
        piece->plane >= KV_STEPS || piece->head_group != 0)
        return true;
    if (piece->layer != g->layer && !make_pages(g, piece->layer))
        return false;
    const struct kv_heads *of = &s->heads[piece->layer];
    from = keep_page_bytes(of, piece->plane - 1);
    size = keep_page_bytes(of, piece->plane) - from;
    if (piece->plane == 0 && left < size * (size_t)of->n) {
        g->bad = true;
        return false;
    }
    for (int32_t h = 0; h < of->n; h++) {
        char *bytes = g->bytes + (size_t)h * keep_page_max(of);
        if (piece->plane > 0) {
            struct kern_page head;
            if (g->have[h] < sizeof head)
                return true; /* the lowest plane is missing: nothing above it is of use */
            memcpy(&head, bytes, sizeof head);
            if (piece->plane > keep_top_plane(&head))
                continue;
            if (g->have[h] != from) { /* a plane between is missing */
                if (left < size)
                    return true;
                at += size;
                left -= size;
                continue;
            }
        }
        if (left < size) {
            g->bad = true;
            return false;
        }
        if (piece->plane == 0)
            take_lowest(bytes, piece->data, h, of);
        else
            memcpy(bytes + from, at, size);
        g->have[h] = from + size;
        at += size;
        left -= size;
    }
    if (piece->plane == 0 && g->j == 0) {
        if (left != KERN_SINK_TOK * keep_tok_bytes(of)) {
            g->bad = true;
            return false;
        }
        put_sinks(g->l->pool, g->b, piece->layer, (uint16_t *)(void *)at);
    }
    return true;
}

/* Fills g->b; touches nothing that other blocks share. */
static bool load_pages(const struct keep *k, int64_t id, struct loading *g, uint64_t hash)
{
    const struct kv_shape *s = &g->l->pool->shape;
    int32_t n_page = s->n_head, end = (g->j + 1) * KERN_BLOCK_TOK;
    g->bad = false;
    g->layer = -1;
    g->n_page = 0;
    g->b->page = mem_calloc((size_t)n_page, sizeof(struct kern_page *));
    bool ok = k->io.load(k->io.ctx, id, k->fingerprint, hash, end, KV_IO_PAGES, visit_page, g) >= 0 &&
              !g->bad && make_pages(g, -1) && g->n_page == n_page;
    g->b->sealed = g->b->kept = ok;
    return ok;
}

/* Rows of a whole block (exact preset) or of a part of the window, one piece per layer. */
static bool visit_rows(void *ctx, const struct kv_piece *piece)
{
    struct loading *g = ctx;
    const struct kv_shape *s = &g->l->pool->shape;
    uint16_t packed[2 * PAGE_HEAD_DIM_MAX * 64];
    if (piece->head_group != 0 || piece->layer != g->n_layer_seen || piece->layer >= s->n_layer ||
        (piece->plane != KV_IO_WINDOW && piece->plane != KV_IO_PLANE_F16))
        return true;
    const struct kv_heads *of = &s->heads[piece->layer];
    size_t one = keep_tok_bytes(of);
    if (piece->size_bytes != (size_t)g->n_row * one ||
        one > sizeof packed) {
        g->bad = true;
        return false;
    }
    const char *low = piece->data, *high = low + piece->size_bytes / 2;
    struct kv_block *b = g->l->block[g->from / KERN_BLOCK_TOK];
    uint16_t *rows = kv_layer_get(g->l->pool, b, piece->layer);
    for (int32_t i = 0; i < g->n_row; i++, low += one / 2, high += one / 2) {
        keep_join_bytes((char *)packed, low, high, one / 2);
        keep_move_token(of, rows, g->from % KERN_BLOCK_TOK + i, packed, false);
        if (g->from + i < KERN_SINK_TOK && b->sinks)
            put_sink(g->l->pool, b, piece->layer, i, packed);
    }
    kv_layer_put(g->l->pool, b, piece->layer, rows);
    g->n_layer_seen++;
    return true;
}

/* Rows of the tokens that follow those at hand, up to n_tok in the same block; commits them. */
static bool load_rows(const struct keep *k, int64_t id, struct loading *g, const int32_t *ids,
                      int32_t n_tok, uint64_t hash, enum kv_io_kind kind, const struct keep_room *room)
{
    struct kv_line *l = g->l;
    struct err e;
    enum status s;
    g->from = l->n_tok;
    g->n_row = n_tok - l->n_tok;
    g->n_layer_seen = 0;
    g->bad = false;
    do
        s = kv_reserve(l, g->n_row, &e);
    while (s == ERR_MEMORY && room->make(room->ctx, kv_reserve_bytes(l, g->n_row)));
    if (s != OK ||
        k->io.load(k->io.ctx, id, k->fingerprint, hash, n_tok, kind, visit_rows, g) < 0 ||
        g->bad || g->n_layer_seen != l->pool->shape.n_layer)
        return false;
    kv_commit(l, ids + l->n_tok, g->n_row);
    return true;
}

/* Blocks that are read side by side, a part each. */
struct batch {
    const struct keep *k;
    int64_t id;
    struct loading g[LOAD_BLOCKS];
    uint64_t hash[LOAD_BLOCKS];
};

static void load_part(void *ctx, int part, int n_part)
{
    struct batch *t = ctx;
    t->g[part].whole = load_pages(t->k, t->id, &t->g[part], t->hash[part]);
}

/* Appends up to n sealed blocks to the line; returns how many were whole and fitted. */
static int32_t load_batch(struct batch *t, struct kv_line *l, const int32_t *ids, int32_t n,
                          uint64_t *hash, const struct keep_room *room)
{
    struct kv_pool *p = l->pool;
    int32_t n_got = 0, n_new = 0;
    for (; n_new < n; n_new++) {
        struct loading *g = &t->g[n_new];
        g->l = l;
        g->j = l->n_block + n_new;
        g->b = kv_block_empty(p, g->j == 0);
        if (!g->b)
            break;
        t->hash[n_new] = kv_io_hash(n_new ? t->hash[n_new - 1] : *hash, ids + g->j * KERN_BLOCK_TOK,
                                    KERN_BLOCK_TOK);
    }
    kern_parallel(p->kern, n_new, load_part, t);
    for (int32_t i = 0; i < n_new; i++) {
        struct loading *g = &t->g[i];
        p->used_bytes += g->b->page_bytes;
        struct err e;
        while (n_got == i && g->whole && p->used_bytes > p->budget_bytes && room->make(room->ctx, 0))
            ;
        if (n_got == i && g->whole && p->used_bytes <= p->budget_bytes &&
            kv_pages_copy(p, g->b, &e) == OK) {
            kv_line_add(l, g->b, ids + g->j * KERN_BLOCK_TOK);
            *hash = t->hash[i];
            n_got++;
        } else {
            kv_block_unref(p, g->b);
        }
    }
    return n_got;
}

/* How many of n blocks to read at a time: no more than fit, and one that shows that no more do. */
static int32_t batch_size(const struct kv_pool *p, int32_t n)
{
    uint64_t room = p->used_bytes < p->budget_bytes ? p->budget_bytes - p->used_bytes : 0;
    uint64_t fit = room / kv_pages_bytes(p) + 1;
    n = n < LOAD_BLOCKS ? n : LOAD_BLOCKS;
    return fit < (uint64_t)n ? (int32_t)fit : n;
}

static int32_t load_sealed(const struct keep *k, int64_t id, struct kv_line *l, const int32_t *ids,
                           int32_t n_block, uint64_t *hash, const struct keep_room *room)
{
    const struct kv_shape *s = &l->pool->shape;
    size_t most_bytes = 0, most_heads = 0; /* of a layer's pages */
    for (int32_t i = 0; i < s->n_layer; i++) {
        size_t n = (size_t)s->heads[i].n, all = n * keep_page_max(&s->heads[i]);
        most_bytes = most_bytes > all ? most_bytes : all;
        most_heads = most_heads > n ? most_heads : n;
    }
    int32_t n_got = 0;
    struct batch *t = mem_calloc(1, sizeof *t);
    t->k = k;
    t->id = id;
    for (int32_t i = 0; i < LOAD_BLOCKS; i++) {
        t->g[i].bytes = mem_alloc(most_bytes);
        t->g[i].have = mem_calloc(most_heads, sizeof *t->g[i].have);
    }
    for (int32_t n, got = 0; n_got < n_block; n_got += got) {
        n = batch_size(l->pool, n_block - n_got);
        got = load_batch(t, l, ids, n, hash, room);
        if (got < n) {
            n_got += got;
            break;
        }
    }
    for (int32_t i = 0; i < LOAD_BLOCKS; i++) {
        free(t->g[i].bytes);
        free(t->g[i].have);
    }
    free(t);
    return n_got;
}

/* Appends as many kept blocks as are intact, at most n_block, to an empty line. */
static int32_t load_blocks(const struct keep *k, int64_t id, struct kv_line *l, const int32_t *ids,
                           int32_t n_block, uint64_t *ret_hash, const struct keep_room *room)
{
    struct loading g = {.l = l};
    uint64_t hash = KV_IO_HASH_EMPTY;
    int32_t n_got = 0;
    if (l->pool->seals) {
        n_got = load_sealed(k, id, l, ids, n_block, &hash, room);
    } else {
        for (; n_got < n_block; n_got++) {
            uint64_t next = kv_io_hash(hash, ids + n_got * KERN_BLOCK_TOK, KERN_BLOCK_TOK);
            if (!load_rows(k, id, &g, ids, (n_got + 1) * KERN_BLOCK_TOK, next, KV_IO_PAGES, room))
                break;
            l->block[n_got]->kept = true;
            hash = next;
        }
    }
    *ret_hash = hash;
    return n_got;
}

/* The rows that follow the blocks at hand, up to n_tok. */
static bool load_window(const struct keep *k, int64_t id, struct kv_line *l, const int32_t *ids,
                        int32_t n_tok, uint64_t hash, const struct keep_room *room)
{
    struct loading g = {.l = l};
    while (l->n_tok < n_tok) {
        int32_t end = keep_rows_end(l->n_tok, n_tok);
        hash = kv_io_hash(hash, ids + l->n_tok, end - l->n_tok);
        if (!load_rows(k, id, &g, ids, end, hash, KV_IO_ROWS, room))
            return false;
    }
    return true;
}

static bool visit_state(void *ctx, const struct kv_piece *piece)
{
    struct loading *g = ctx;
    struct kv_pool *p = g->l->pool;
    size_t one = sizeof(float) * (size_t)p->shape.state_floats;
    if (piece->plane != KV_IO_STATE || piece->layer != g->n_layer_seen || piece->head_group != 0)
        return true;
    if (piece->layer >= p->shape.n_state_layer || piece->size_bytes != one) {
        g->bad = true;
        return false;
    }
    float *to = g->l->states.now->dev + (size_t)piece->layer * (size_t)p->shape.state_floats;
    char *host = mem_try(one);
    if (host) {
        keep_join_floats(host, piece->data, (size_t)p->shape.state_floats);
        p->kern->ops->upload(p->kern, to, host, one);
        g->n_layer_seen++;
    }
    free(host);
    return true;
}

/* The state behind the tokens at hand. */
static bool load_state(const struct keep *k, int64_t id, struct kv_line *l, const struct keep_room *room)
{
    struct loading g = {.l = l};
    struct err e;
    enum status s;
    while ((s = kv_states_reserve(l, &e)) == ERR_MEMORY && room->make(room->ctx, kv_states_reserve_bytes(l)))
        ;
    if (s != OK)
        return false;
    if (k->io.load(k->io.ctx, id, k->fingerprint, keep_hash(l, l->n_tok), l->n_tok, KV_IO_STATES, visit_state,
                   &g) < 0 ||
        g.bad || g.n_layer_seen != l->pool->shape.n_state_layer)
        return false;
    kv_states_filled(l);
    l->states.now->kept = true;
    l->kept_state = l->n_tok;
    return true;
}

/* What is worth taking up: n_block blocks, then rows up to n_tok (or nothing more: the end of the
 * blocks, less what has to be read again before reading can go on there). */
struct offer {
    int32_t n_block, n_tok;
    bool rows, thaw; /* thaw: the last block gives context for what follows */
    bool state;      /* a state is kept for n_tok, and reading goes on there */
};

/* The blocks under the rows that end at n_tok; false = there are not enough. Position n_tok reads
 * rows of its own block and the one before: those are kept, too, unless they came of pages. */
static bool offer_rows(const struct keep *k, int64_t id, const struct kv_line *l,
                       const int32_t *ids, int32_t n_block, int32_t n_tok, struct offer *ret)
{
    int32_t last = (n_tok - 1) / KERN_BLOCK_TOK;
    *ret = (struct offer){.n_block = last, .n_tok = n_tok, .rows = true};
    if (!l->pool->seals) {
        ret->n_block = n_tok / KERN_BLOCK_TOK;
    } else if (last > 0 && (n_tok % KERN_BLOCK_TOK || last > n_block)) {
        struct kv_io_held before;
        k->io.find(k->io.ctx, id, k->fingerprint, ids, last * KERN_BLOCK_TOK, &before);
        ret->thaw = before.n_rows != last * KERN_BLOCK_TOK;
        ret->n_block = ret->thaw ? last : last - 1;
    }
    return ret->n_block <= n_block;
}

static struct offer find_offer(const struct keep *k, int64_t id, const struct kv_line *l,
                               const int32_t *ids, int32_t n)
{
    struct kv_io_held held;
    struct offer rows;
    k->io.find(k->io.ctx, id, k->fingerprint, ids, n, &held);
    int32_t n_block = held.n_block < n / KERN_BLOCK_TOK ? held.n_block : n / KERN_BLOCK_TOK;
    int32_t end = l->pool->seals && n_block > 0 ? n_block - 1 : n_block;
    struct offer blocks = {.n_block = n_block, .n_tok = end * KERN_BLOCK_TOK};
    if (held.n_rows > blocks.n_tok && held.n_rows <= n &&
        offer_rows(k, id, l, ids, n_block, held.n_rows, &rows))
        return rows;
    return blocks;
}

/* Where layers keep a state, one of those that are kept decides: the newest whose keys and values are there,
 * by pages up to it or, within a block, by rows. */
static struct offer find_state(const struct keep *k, int64_t id, const struct kv_line *l, const int32_t *ids,
                               int32_t n)
{
    struct kv_io_held held;
    struct offer rows;
    while (n > 0) {
        k->io.find(k->io.ctx, id, k->fingerprint, ids, n, &held);
        int32_t at = held.n_state < n ? held.n_state : n, n_block = at / KERN_BLOCK_TOK;
        if (at > 0 && at % KERN_BLOCK_TOK == 0 && n_block <= held.n_block)
            return (struct offer){.n_block = n_block, .n_tok = at, .state = true, .thaw = l->pool->seals};
        if (at > 0 && held.n_rows != at) /* the newest up to there */
            k->io.find(k->io.ctx, id, k->fingerprint, ids, at, &held);
        if (at > 0 && held.n_rows == at && offer_rows(k, id, l, ids, held.n_block, at, &rows)) {
            rows.state = true;
            return rows;
        }
        n = at - 1;
    }
    return (struct offer){0};
}

/* A line that was cut where its rows are gone: what is left of it is context. */
static bool stepped_back(const struct kv_line *l)
{
    return l->n_block > 0 && l->block[l->n_block - 1]->thawed;
}

/* Fills an empty line; false = something was missing: it holds what came before that. */
static bool load_offer(const struct keep *k, int64_t id, struct kv_line *l, const int32_t *ids,
                       const struct offer *o, const struct keep_room *room)
{
    struct err e;
    enum status s = OK;
    uint64_t hash;
    bool whole = load_blocks(k, id, l, ids, o->n_block, &hash, room) == o->n_block;
    while (whole && o->thaw && (s = kv_thaw(l, o->n_block - 1, &e)) == ERR_MEMORY &&
           room->make(room->ctx, l->pool->rows_bytes))
        ;
    whole = whole && s == OK;
    if (whole && o->rows)
        whole = load_window(k, id, l, ids, o->n_tok, hash, room);
    l->kept_from = o->n_block * KERN_BLOCK_TOK;
    l->kept_end = whole && o->rows ? l->n_tok : 0;
    return whole && (!o->state || load_state(k, id, l, room));
}

int32_t keep_load(const struct keep *k, int64_t id, struct kv_line *l, const int32_t *ids,
                  int32_t n, const struct keep_room *room)
{
    bool states = l->pool->shape.n_state_layer > 0, taken = false;
    int32_t least = l->n_tok + (stepped_back(l) ? 1 : LOAD_MIN_TOK);
    if (!k->io.find || l->pool->kern->kv_bytes != (int32_t)sizeof(uint16_t))
        return 0;
    struct offer o = states ? find_state(k, id, l, ids, n) : find_offer(k, id, l, ids, n);
    if (o.n_tok < least)
        return 0;
    kv_truncate(l, 0);
    taken = load_offer(k, id, l, ids, &o, room);
    while (states && !taken && o.n_tok > 0) { /* damaged: the state before it may be of use */
        kv_truncate(l, 0);
        o = find_state(k, id, l, ids, o.n_tok - 1);
        taken = o.n_tok > 0 && load_offer(k, id, l, ids, &o, room);
    }
    if (!states && !(taken && o.rows))
        kv_truncate(l, l->n_tok); /* steps back to where reading can go on */
    return l->n_tok;
}
