/* Latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1): of each token a short latent is kept for all
 * heads, and a few channels that tell its position. Written over the op table like forward.c, whose part it is.
 *
 * The matrices that would make each head's keys and values of a latent are applied to the head's query and to
 * its answer instead ("absorbed"). So there is one head of keys and values in the cache, of n_latent + n_rot
 * channels, the rotated ones last: a row of values is its row of keys, and of an answer the rotated channels
 * are not read.
 *
 * Threads: one at a time. No allocation after latent_new. */
#ifndef ENGINE_LATENT_H
#define ENGINE_LATENT_H

#include "engine/model.h"

struct latent;

/* Bytes of scratch for chunks of n_chunk tokens; 0 for a model without. */
uint64_t latent_bytes(const struct model_params *p, int32_t n_chunk);
/* NULL when out of memory. */
struct latent *latent_new(const struct model *m, int32_t n_chunk);
void latent_free(struct latent *x); /* NULL is fine */

/* The layer's queries, not yet rotated: q, dev [n_tok, n_head, head_dim], of in, dev [n_tok, n_embd]. */
void latent_ask(struct latent *x, const struct model_layer *l, const float *in, float *q, int32_t n_tok);

/* What the layer's `o` is to multiply, dev [n_tok, n_head * head_dim_v], valid until the next call. answer:
 * attention's, dev [n_tok, n_head, head_dim]. */
const float *latent_values(struct latent *x, const struct model_layer *l, const float *answer, int32_t n_tok);

#endif
