/* Layers that keep a state of fixed size, most of them instead of keys and values: behind a short convolution the
 * gated delta rule (Yang et al. 2024, Gated DeltaNet; Qwen3-Next, Qwen3.5) or a selective state space (Dao and Gu 2024, Mamba-2;
 * Granite 4, Nemotron-H, Falcon-H1), or the short convolution alone (LFM2). Written over the op table like
 * forward.c, whose part it is.
 *
 * A layer's state, float32: the n_tap - 1 rows before the next token as the convolution reads them,
 * [n_tap - 1, model_mix_width], then the heads' matrices, [n_state_head, state_dim_k, state_dim].
 *
 * Threads: one at a time. No allocation after recurrent_new. */
#ifndef ENGINE_RECURRENT_H
#define ENGINE_RECURRENT_H

#include "engine/kv.h"
#include "engine/model.h"

struct recurrent;

/* Floats of one layer's state; 0 for a model without such layers. */
int64_t recurrent_state_floats(const struct model_params *p);
/* Bytes of scratch for chunks of n_chunk tokens; 0 likewise. */
uint64_t recurrent_bytes(const struct model_params *p, int32_t n_chunk);
/* NULL when out of memory. */
struct recurrent *recurrent_new(const struct model *m, int32_t n_chunk);
void recurrent_free(struct recurrent *r); /* NULL is fine */

/* What the layer's `state_o` is to multiply, dev [n_tok, model_out_width], valid until the next call; the states
 * of the pass are written. in: dev [n_tok, n_embd]. */
const float *recurrent_run(struct recurrent *r, const struct model_layer *l, const float *in, int32_t n_tok,
                           const struct kv_pass *pass);

#endif
