/* How bytes lie in what is kept: cut pages, rows and sinks token by token, hashes of the log. */
#include "engine/keep_impl.h"

#include <string.h>

struct page_shape keep_page_shape(const struct kv_heads *of, int32_t plane)
{
    return kv_page_shape(of, kv_ladder[KV_STEPS - 1 - plane]);
}

size_t keep_page_bytes(const struct kv_heads *of, int32_t plane)
{
    if (plane < 0)
        return 0;
    const struct page_shape s = keep_page_shape(of, plane);
    return page_size(&s);
}

size_t keep_page_max(const struct kv_heads *of)
{
    return keep_page_bytes(of, KV_STEPS - 1);
}

int32_t keep_top_plane(const struct kern_page *page)
{
    return KV_STEPS - 1 - kv_page_step(page);
}

/* Token t of head h of a layer's rows or sinks, `stride` tokens of them, out or in; what follows it in packed. */
static uint16_t *move_head(const struct kv_heads *of, uint16_t *rows, int32_t h, size_t stride, size_t t,
                           uint16_t *packed, bool out)
{
    size_t d = (size_t)of->dim, one = d * stride;
    uint16_t *k = rows + (size_t)h * one, *v = k + (size_t)of->n * one + t * d;
    for (size_t c = 0; c < d; c++)
        if (out)
            packed[c] = k[c * stride + t];
        else
            k[c * stride + t] = packed[c];
    packed += d;
    if (of->n_latent)
        return packed;
    memcpy(out ? packed : v, out ? v : packed, d * sizeof *packed);
    return packed + d;
}

void keep_move_token(const struct kv_heads *of, uint16_t *rows, int32_t t, uint16_t *packed, bool out)
{
    for (int32_t h = 0; h < of->n; h++)
        packed = move_head(of, rows, h, KERN_BLOCK_TOK, (size_t)t, packed, out);
}

void keep_move_sinks(const struct kv_shape *s, uint16_t *sinks, int32_t layer, uint16_t *packed, bool out)
{
    uint16_t *rows = sinks + kv_layer_at(s, layer, KERN_SINK_PAD);
    for (int32_t h = 0; h < s->heads[layer].n; h++)
        for (size_t t = 0; t < KERN_SINK_TOK; t++)
            packed = move_head(&s->heads[layer], rows, h, KERN_SINK_PAD, t, packed, out);
}

void keep_set_sink(const struct kv_shape *s, uint16_t *sinks, int32_t layer, int32_t t, uint16_t *packed)
{
    uint16_t *rows = sinks + kv_layer_at(s, layer, KERN_SINK_PAD);
    for (int32_t h = 0; h < s->heads[layer].n; h++)
        packed = move_head(&s->heads[layer], rows, h, KERN_SINK_PAD, (size_t)t, packed, false);
}

size_t keep_tok_bytes(const struct kv_heads *of)
{
    return (size_t)of->n * (size_t)keep_n_tensor(of) * (size_t)of->dim * sizeof(uint16_t);
}

void keep_split_bytes(char *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[i] = src[2 * i];
        dst[n + i] = src[2 * i + 1];
    }
}

void keep_join_bytes(char *dst, const char *low, const char *high, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        dst[2 * i] = low[i];
        dst[2 * i + 1] = high[i];
    }
}

void keep_split_floats(char *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < sizeof(float); b++)
            dst[b * n + i] = src[i * sizeof(float) + b];
}

void keep_join_floats(char *dst, const char *src, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t b = 0; b < sizeof(float); b++)
            dst[i * sizeof(float) + b] = src[b * n + i];
}

int32_t keep_rows_end(int32_t n, int32_t n_tok)
{
    int32_t end = (n / KV_IO_ROWS_TOK + 1) * KV_IO_ROWS_TOK;
    return end < n_tok ? end : n_tok;
}

uint64_t keep_hash(struct kv_line *l, int32_t n_tok)
{
    int32_t whole = n_tok / KERN_BLOCK_TOK;
    if (l->kept_block > whole) /* the line was cut, or this is an older place */
        l->kept_block = 0;
    if (l->kept_block == 0)
        l->kept_hash = KV_IO_HASH_EMPTY;
    l->kept_hash = kv_io_hash(l->kept_hash, l->ids + l->kept_block * KERN_BLOCK_TOK,
                              (whole - l->kept_block) * KERN_BLOCK_TOK);
    l->kept_block = whole;
    return kv_io_hash(l->kept_hash, l->ids + whole * KERN_BLOCK_TOK, n_tok % KERN_BLOCK_TOK);
}
