/* The dual phase in one hand: sparse prefill (sparse.h) and progressive selection while decoding
 * (select.h) behind the forward pass's attention. One knob, the coverage; at 1 the forward pass
 * asks nobody and attention is the backend's, bit for bit.
 *
 * Threads: the engine's. */
#ifndef ENGINE_POLICY_H
#define ENGINE_POLICY_H

#include "engine/forward.h"
#include "engine/presets.h"
#include "engine/select.h"
#include "engine/sparse.h"
#include "engine/stats.h"

struct policy;

/* Bytes of memory for contexts of n_tok tokens read in chunks of n_chunk. */
uint64_t policy_bytes(const struct model_params *p, const struct preset *preset, int32_t n_tok,
                      int32_t n_chunk);
/* For the attention of f, which must outlive it, as the backend must. preset: its ways of reading
 * less. sparse_from > 0: sparse from so many keys on, whether or not it pays: for measuring. */
struct policy *policy_new(struct kern *k, const struct model_params *p, struct forward *f,
                          const struct preset *preset, int32_t sparse_from);
void policy_free(struct policy *p); /* NULL is fine */

/* A turn begins whose answer will begin at position answer0. */
void policy_begin(struct policy *p, float coverage, int32_t answer0);

/* Fills the fields of this turn's sparse attention but for `coverage`. */
void policy_report(const struct policy *p, struct stats *s);

#endif
