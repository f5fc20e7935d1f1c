#include "engine/keep_impl.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum {
    KEEP_STATE_TOK = 1024, /* a state is put while reading goes on when so many tokens are behind the last */
    KEEP_VERSION = 1,      /* of the order of bytes in pieces */
};

uint64_t keep_fingerprint(uint64_t model, const struct preset *preset)
{
    uint64_t format = preset->bits_k ? 2 * (uint64_t)PAGE_VERSION + 1 : 2;
    format += KEEP_VERSION << 8;
    return (model ^ format) * UINT64_C(0x9e3779b97f4a7c15);
}

struct pieces {
    struct kv_piece *piece;
    int n, cap;
    char *data; /* all bytes; pieces hold offsets until they are put */
    size_t used, size;
};

static struct kv_piece *add_piece(struct pieces *p, int32_t layer, int32_t block, int32_t plane,
                                  size_t begin)
{
    p->piece[p->n] = (struct kv_piece){.layer = layer,
                                       .block = block,
                                       .plane = plane,
                                       .data = p->data + begin,
                                       .size_bytes = p->used - begin};
    return &p->piece[p->n++];
}

static void add_bytes(struct pieces *p, const void *src, size_t n)
{
    memcpy(p->data + p->used, src, n);
    p->used += n;
}

/* The lowest planes of all heads, keys then values, then what precedes them in each page (scales,
 * mostly), low and high bytes apart. */
static void add_lowest(struct kern_page *const *page, const struct kv_heads *of, struct pieces *p)
{
    const struct page_shape lowest = keep_page_shape(of, 0);
    size_t base = page_base_size(&lowest), plane = page_plane_size(of->dim), half = (size_t)of->n * base / 2;
    for (int32_t i = 0; i < keep_n_tensor(of); i++)
        for (int32_t h = 0; h < of->n; h++)
            add_bytes(p, (const char *)page[h] + base + (size_t)i * plane, plane);
    for (int32_t h = 0; h < of->n; h++)
        for (size_t i = 0; i < base / 2; i++) {
            char *at = p->data + p->used + (size_t)h * (base / 2) + i;
            at[0] = ((const char *)page[h])[2 * i];
            at[half] = ((const char *)page[h])[2 * i + 1];
        }
    p->used += 2 * half;
}

/* Codes of keys, codes of values, low bytes, high bytes. */
static void part_lowest(struct kv_piece *piece, const struct kv_heads *of)
{
    const struct page_shape lowest = keep_page_shape(of, 0);
    size_t plane = (size_t)of->n * page_plane_size(of->dim), half = (size_t)of->n * page_base_size(&lowest) / 2;
    int32_t n = 0;
    while (n < keep_n_tensor(of))
        piece->part[n++] = (uint32_t)plane;
    piece->part[n] = piece->part[n + 1] = (uint32_t)half;
}

/* One piece per layer and plane: the slices of all heads whose page goes that high. */
static void add_pages(const struct kv_line *l, int32_t j, struct pieces *p)
{
    const struct kv_shape *s = &l->pool->shape;
    const struct kv_block *b = l->block[j];
    uint16_t *sinks = NULL;
    if (b->sinks) {
        sinks = mem_alloc(l->pool->sink_bytes);
        l->pool->kern->ops->download(l->pool->kern, sinks, b->sinks, l->pool->sink_bytes);
    }
    for (int32_t y = 0; y < s->n_layer; y++) {
        const struct kv_heads *of = &s->heads[y];
        struct kern_page *const *page = b->page + of->first;
        for (int32_t plane = 0; plane < KV_STEPS; plane++) {
            size_t begin = p->used, from = keep_page_bytes(of, plane - 1);
            if (plane == 0)
                add_lowest(page, of, p);
            for (int32_t h = 0; plane > 0 && h < of->n; h++)
                if (plane <= keep_top_plane(page[h]))
                    add_bytes(p, (const char *)page[h] + from, keep_page_bytes(of, plane) - from);
            if (plane == 0 && sinks) {
                keep_move_sinks(s, sinks, y, (uint16_t *)(void *)(p->data + p->used), true);
                p->used += KERN_SINK_TOK * keep_tok_bytes(of);
            }
            if (p->used == begin)
                continue;
            struct kv_piece *piece = add_piece(p, y, j, plane, begin);
            if (plane == 0)
                part_lowest(piece, of);
        }
    }
    free(sinks);
}

/* Rows of the tokens from..end - 1, all of one block, of one layer: a piece. f16 blocks and windows
 * alike. */
static void add_rows(struct kv_line *l, int32_t from, int32_t end, int32_t layer, int32_t block,
                     int32_t plane, struct pieces *p)
{
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    size_t one = keep_tok_bytes(of), n = (size_t)(end - from), begin = p->used;
    char *packed = mem_alloc(one * n);
    uint16_t *rows = kv_layer_get(l->pool, l->block[from / KERN_BLOCK_TOK], layer);
    for (size_t i = 0; i < n; i++)
        keep_move_token(of, rows, from % KERN_BLOCK_TOK + (int32_t)i,
                   (uint16_t *)(void *)(packed + i * one), true);
    keep_split_bytes(p->data + begin, packed, one / 2 * n);
    free(packed);
    p->used += one * n;
    add_piece(p, layer, block, plane, begin)->part[0] = (uint32_t)(one / 2 * n);
}

static struct pieces *pieces_new(size_t size_bytes, int n_piece)
{
    struct pieces *p = mem_calloc(1, sizeof *p);
    p->cap = n_piece;
    p->piece = mem_calloc((size_t)p->cap, sizeof *p->piece);
    p->data = mem_try(size_bytes + 64);
    p->size = size_bytes;
    if (!p->data) { /* not kept now: it is read from ids later */
        free(p->piece);
        free(p);
        return NULL;
    }
    return p;
}

static void pieces_free(struct pieces *p)
{
    free(p->data);
    free(p->piece);
    free(p);
}

/* The blocks that will not change any more while the line grows. */
static int32_t settled_end(const struct kv_line *l)
{
    return l->pool->seals ? kv_sealed_end(l->n_tok) : l->n_tok / KERN_BLOCK_TOK;
}

/* Hands them over, unless the device has failed: what came from it may be old bytes then. */
static bool pieces_put(const struct keep *k, int64_t id, const struct kv_line *l, int32_t n_tok,
                       uint64_t hash, const struct pieces *p)
{
    if (l->pool->kern->ops->error(l->pool->kern))
        return false;
    k->io.put(k->io.ctx, id, k->fingerprint, n_tok, hash, p->piece, p->n);
    return true;
}

static void put_block(const struct keep *k, int64_t id, struct kv_line *l, int32_t j)
{
    const struct kv_shape *s = &l->pool->shape;
    struct kv_block *b = l->block[j];
    size_t sinks = b->sinks ? KERN_SINK_TOK * (size_t)kv_tok_bytes(s) : 0;
    struct pieces *p =
        pieces_new(l->pool->seals ? b->page_bytes + sinks : l->pool->rows_bytes, KV_STEPS * s->n_layer);
    if (!p)
        return;
    if (l->pool->seals) {
        add_pages(l, j, p);
    } else {
        for (int32_t y = 0; y < s->n_layer; y++)
            add_rows(l, j * KERN_BLOCK_TOK, (j + 1) * KERN_BLOCK_TOK, y, j, KV_IO_PLANE_F16, p);
    }
    b->kept = pieces_put(k, id, l, (j + 1) * KERN_BLOCK_TOK, keep_hash(l, (j + 1) * KERN_BLOCK_TOK), p);
    pieces_free(p);
}

/* A state, a piece for each layer that keeps one. */
static void put_state(const struct keep *k, int64_t id, struct kv_line *l, struct kv_state *s)
{
    const struct kv_shape *shape = &l->pool->shape;
    size_t all = (size_t)kv_state_bytes(shape), one = all / (size_t)shape->n_state_layer;
    struct pieces *p = pieces_new(all, shape->n_state_layer);
    char *host = mem_try(one);
    if (!p || !host) {
        if (p)
            pieces_free(p);
        free(host);
        return;
    }
    for (int32_t y = 0; y < shape->n_state_layer; y++) {
        l->pool->kern->ops->download(l->pool->kern, host, s->dev + (size_t)y * (one / sizeof(float)), one);
        keep_split_floats(p->data + p->used, host, one / sizeof(float));
        p->used += one;
        add_piece(p, y, s->n_tok, KV_IO_STATE, p->used - one);
    }
    s->kept = pieces_put(k, id, l, s->n_tok, keep_hash(l, s->n_tok), p);
    if (s->kept)
        l->kept_state = s->n_tok;
    pieces_free(p);
    free(host);
}

static bool can_keep(const struct keep *k, const struct kv_line *l)
{
    return k->io.put && l->pool->kern->kv_bytes == (int32_t)sizeof(uint16_t);
}

void keep_blocks(const struct keep *k, int64_t id, struct kv_line *l)
{
    int32_t end = settled_end(l);
    struct kv_state *s = l->states.newest;
    if (!can_keep(k, l))
        return;
    if (s && !s->kept && s->n_tok >= l->kept_state + KEEP_STATE_TOK)
        put_state(k, id, l, s);
    for (int32_t j = l->kept_seen < end ? l->kept_seen : 0; j < end; j++)
        if (!l->block[j]->kept)
            put_block(k, id, l, j);
    l->kept_seen = end;
}

static bool put_rows(const struct keep *k, int64_t id, struct kv_line *l, int32_t from, int32_t end,
                     uint64_t hash)
{
    const struct kv_shape *s = &l->pool->shape;
    struct pieces *p =
        pieces_new((size_t)(end - from) * (size_t)kv_tok_bytes(s), s->n_layer);
    if (!p)
        return false;
    for (int32_t y = 0; y < s->n_layer; y++)
        add_rows(l, from, end, y, end, KV_IO_WINDOW, p);
    bool put = pieces_put(k, id, l, end, hash, p);
    pieces_free(p);
    return put;
}

static void keep_rows(const struct keep *k, int64_t id, struct kv_line *l)
{
    /* Where a line came back the window's first block may be pages, as they are or made rows again. */
    int32_t first = settled_end(l);
    while (first < l->n_block && !kv_has_rows(l->block[first]))
        first++;
    int32_t at = first * KERN_BLOCK_TOK, from = at;
    if (l->n_tok <= at)
        return;
    if (l->kept_from <= at && l->kept_end > at)
        from = l->kept_end == l->n_tok ? l->n_tok : l->kept_end - l->kept_end % KV_IO_ROWS_TOK;
    l->kept_from = at; /* what is before belongs to a window that is gone */
    uint64_t hash = keep_hash(l, from);
    for (int32_t end; from < l->n_tok; from = end) {
        end = keep_rows_end(from, l->n_tok);
        hash = kv_io_hash(hash, l->ids + from, end - from);
        if (!put_rows(k, id, l, from, end, hash))
            return;
        l->kept_end = end;
    }
}

void keep_state(const struct keep *k, int64_t id, struct kv_line *l)
{
    if (!can_keep(k, l))
        return;
    keep_blocks(k, id, l);
    keep_rows(k, id, l);
    /* What was put last stays longest: the line's own state, and with it those that belong to it, though they
     * may be there. */
    struct kv_state *now = l->states.now;
    struct kv_state *back[] = {l->states.before_prompt, l->states.before_answer};
    bool fresh = now && !now->kept && now->n_tok == l->n_tok && l->n_tok > 0;
    for (int i = 0; i < 2; i++)
        if (back[i] && (fresh || !back[i]->kept))
            put_state(k, id, l, back[i]);
    if (fresh)
        put_state(k, id, l, now);
}
