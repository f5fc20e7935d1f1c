/* The feed-forward part of a mixture of experts (Shazeer et al. 2017; Mixtral, Qwen3-MoE, OLMoE,
 * Granite-MoE, GLM-4.5): a router chooses a few of many small feed-forward networks for each token
 * and adds their answers up by weight. Written over the op table like forward.c, whose part it is;
 * the choice itself is made on the host.
 *
 * Threads: one at a time. No allocation after experts_new. */
#ifndef ENGINE_EXPERTS_H
#define ENGINE_EXPERTS_H

#include "engine/base/err.h"
#include "engine/model.h"

struct experts;

/* Bytes of scratch for chunks of n_chunk tokens; 0 for a model without experts. */
uint64_t experts_bytes(const struct model_params *p, int32_t n_chunk);
/* NULL when out of memory. */
struct experts *experts_new(const struct model *m, int32_t n_chunk);
void experts_free(struct experts *x); /* NULL is fine */

/* Chooses the layer's experts by `in`, dev [n_tok, n_embd]. */
void experts_route(struct experts *x, const struct model_layer *l, const float *in, int32_t n_tok);

/* stream += the answers of the experts chosen last to `in`. Both dev [n_tok, n_embd]. */
void experts_run(struct experts *x, const struct model_layer *l, const float *in, float *stream,
                 int32_t n_tok);

/* stream += the answer of the shared expert, weighed by the layer's `share`. mid: dev [n_tok,
 * width of the shared expert], what its `down` is to multiply. After experts_run. */
void experts_add_shared(struct experts *x, const struct model_layer *l, const float *in,
                        const float *mid, float *stream, int32_t n_tok);

/* The p->n_expert_used experts of greatest weight, greatest first (the lower number at a tie), and
 * their weights (see model_params). pick: added to the weights for the choice, or NULL. logit, pick:
 * [n_expert]; ret_expert, ret_weight: [n_expert_used]. */
void experts_choose(const struct model_params *p, const float *logit, const float *pick,
                    int32_t *ret_expert, float *ret_weight);

#endif
