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

/* The coverage in force when neither the user nor the preset asks for one: dense. Reading less is
 * close, not proven. The bundled model's right answers over 8/8 pages (eval --suite recall -c 4096
 * --sparse-from 64 -t 1), dense / at 0.99 / at 0.95: 71 / 70 / 70 of 176 at 1,024 tokens,
 * 62 / 63 / 62 of 168 at 2,048 and 25 / 25 / 25 of 83 at 4,096. One question of 176 is already more
 * than the half point that 0.99 may cost, and the mass kept at 2,048 and 4,096 was 0.984 where 0.99
 * was asked for, 0.92 while answering. */
#define POLICY_COVERAGE 1.0f

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
