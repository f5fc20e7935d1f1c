/* How bytes lie in what is kept: cut pages, rows and sinks token by token, hashes of the log. */
#include "engine/keep_impl.h"

#include <string.h>

struct page_shape keep_page_shape(int32_t head_dim, int32_t plane)
{
    const struct kv_depth *d = &kv_ladder[KV_STEPS - 1 - plane];
    return (struct page_shape){head_dim, d->bits_k, d->bits_v};
}

size_t keep_page_bytes(int32_t head_dim, int32_t plane)
{
    if (plane < 0)
        return 0;
    const struct page_shape s = keep_page_shape(head_dim, plane);
    return page_size(&s);
}

size_t keep_page_max(int32_t head_dim)
{
    return keep_page_bytes(head_dim, KV_STEPS - 1);
}

int32_t keep_top_plane(const struct kern_page *page)
{
    return KV_STEPS - 1 - kv_step((struct kv_depth){page->bits_k, page->bits_v});
}

/* Where keys and values of a head lie in a layer's rows of a block; elements. */
static size_t row_at(const struct kv_heads *of, int32_t head, bool value)
{
    size_t one = (size_t)KERN_BLOCK_TOK * (size_t)of->dim;
    return ((size_t)value * (size_t)of->n + (size_t)head) * one;
}

static size_t sink_at(const struct kv_shape *s, int32_t layer, int32_t head, bool value)
{
    const struct kv_heads *of = &s->heads[layer];
    size_t one = (size_t)KERN_SINK_PAD * (size_t)of->dim;
    return kv_layer_at(s, layer, KERN_SINK_PAD) + ((size_t)value * (size_t)of->n + (size_t)head) * one;
}

void keep_move_token(const struct kv_heads *of, uint16_t *rows, int32_t t, uint16_t *packed, bool out)
{
    size_t d = (size_t)of->dim;
    for (int32_t h = 0; h < of->n; h++, packed += 2 * d) {
        uint16_t *k = rows + row_at(of, h, false), *v = rows + row_at(of, h, true);
        for (size_t c = 0; c < d; c++) {
            uint16_t *key = &k[c * KERN_BLOCK_TOK + (size_t)t], *value = &v[(size_t)t * d + c];
            if (out) {
                packed[c] = *key;
                packed[d + c] = *value;
            } else {
                *key = packed[c];
                *value = packed[d + c];
            }
        }
    }
}

void keep_move_sinks(const struct kv_shape *s, uint16_t *sinks, int32_t layer, uint16_t *packed, bool out)
{
    size_t d = (size_t)s->heads[layer].dim;
    for (int32_t h = 0; h < s->heads[layer].n; h++) {
        uint16_t *k = sinks + sink_at(s, layer, h, false), *v = sinks + sink_at(s, layer, h, true);
        for (size_t t = 0; t < KERN_SINK_TOK; t++, packed += 2 * d)
            for (size_t c = 0; c < d; c++) {
                uint16_t *key = &k[c * KERN_SINK_PAD + t], *value = &v[t * d + c];
                if (out) {
                    packed[c] = *key;
                    packed[d + c] = *value;
                } else {
                    *key = packed[c];
                    *value = packed[d + c];
                }
            }
    }
}

void keep_set_sink(const struct kv_shape *s, uint16_t *sinks, int32_t layer, int32_t t,
                   const uint16_t *packed)
{
    size_t d = (size_t)s->heads[layer].dim;
    for (int32_t h = 0; h < s->heads[layer].n; h++, packed += 2 * d) {
        uint16_t *k = sinks + sink_at(s, layer, h, false), *v = sinks + sink_at(s, layer, h, true);
        for (size_t c = 0; c < d; c++) {
            k[c * KERN_SINK_PAD + (size_t)t] = packed[c];
            v[(size_t)t * d + c] = packed[d + c];
        }
    }
}

size_t keep_tok_bytes(const struct kv_heads *of)
{
    return (size_t)of->n * 2 * (size_t)of->dim * sizeof(uint16_t);
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
