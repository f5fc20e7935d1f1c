/* Between keeping (keep.c) and taking up again (keep_load.c): how bytes lie in pieces. Internal to the
 * engine. */
#ifndef ENGINE_KEEP_IMPL_H
#define ENGINE_KEEP_IMPL_H

#include "engine/keep.h"
#include "engine/kv_impl.h"

/* Planes count from the coarsest step of the ladder. */
struct page_shape keep_page_shape(const struct kv_heads *of, int32_t plane);
/* Bytes of a page cut down to that plane; 0 for plane -1. */
size_t keep_page_bytes(const struct kv_heads *of, int32_t plane);
size_t keep_page_max(const struct kv_heads *of);
/* The highest plane of a page; -1 for a shape that is not on the ladder. */
int32_t keep_top_plane(const struct kern_page *page);

/* Keys and values; of latents, which are both, keys alone. */
static inline int32_t keep_n_tensor(const struct kv_heads *of)
{
    return of->n_latent ? 1 : 2;
}

/* Token rows are packed as [head][K then V][dim]: bytes of one in a layer with these heads. */
size_t keep_tok_bytes(const struct kv_heads *of);
/* Copies token t between a layer's rows of a block (kv_layer_get) and packed bytes. */
void keep_move_token(const struct kv_heads *of, uint16_t *rows, int32_t t, uint16_t *packed, bool out);
/* The same of all sinks of a layer. */
void keep_move_sinks(const struct kv_shape *s, uint16_t *sinks, int32_t layer, uint16_t *packed, bool out);
/* Packed token t < KERN_SINK_TOK, to where it is read once its block is sealed. */
void keep_set_sink(const struct kv_shape *s, uint16_t *sinks, int32_t layer, int32_t t, uint16_t *packed);
/* Moves n 16-bit numbers from src to dst, there with all low bytes before all high bytes: the high ones
 * repeat and compress, the low ones do not; and back. */
void keep_split_bytes(char *dst, const char *src, size_t n);
void keep_join_bytes(char *dst, const char *low, const char *high, size_t n);
/* The same of n float32 numbers, lowest bytes first: of 4 MB of normal ones 84 % are left and not 92, and
 * they are read in a quarter of the time. */
void keep_split_floats(char *dst, const char *src, size_t n);
void keep_join_floats(char *dst, const char *src, size_t n);

/* Where the window's rows from position n on are cut next, in a log of n_tok tokens. */
int32_t keep_rows_end(int32_t n, int32_t n_tok);
/* Hash of the line's first n_tok ids; quick where the last one asked for was a little before. */
uint64_t keep_hash(struct kv_line *l, int32_t n_tok);

#endif
