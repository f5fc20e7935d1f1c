/* Embeddings by layer (Gemma 3n, Gemma 4): each token has a short vector for every layer, which a gate of
 * the stream lets through. Written over the op table like forward.c, whose part it is. The table is as
 * large as the model, and a token reads a few KB of it: it stays in the file.
 *
 * Threads: one at a time. No allocation after layer_embed_new. */
#ifndef ENGINE_LAYER_EMBED_H
#define ENGINE_LAYER_EMBED_H

#include "engine/model.h"

struct layer_embed;

/* Bytes of scratch for chunks of n_chunk tokens; 0 for a model without. */
uint64_t layer_embed_bytes(const struct model_params *p, int32_t n_chunk);
/* NULL when out of memory. */
struct layer_embed *layer_embed_new(const struct model *m, int32_t n_chunk);
void layer_embed_free(struct layer_embed *s); /* NULL is fine */

/* The vectors of these tokens: first what the table says, before anything else of the pass (a device may run
 * the rest of a single token's as one), then with their embeddings x, dev [n_tok, n_embd]. */
void layer_embed_look_up(struct layer_embed *s, const int32_t *ids, int32_t n_tok);
void layer_embed_begin(struct layer_embed *s, const float *x, int32_t n_tok);
/* What layer i's `side_out` is to multiply for rows from `first` on, whose stream begins at x: dev, rows
 * *ret_stride floats apart; valid until the next call. */
const float *layer_embed_run(struct layer_embed *s, int32_t i, const float *x, int32_t first, int32_t n_tok,
                             int32_t *ret_stride);

#endif
