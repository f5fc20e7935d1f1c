/* Number formats of published caches, simulated: quantised and restored in place, so that attention
 * reads exactly the numbers that the format would give it (rounded to f16, as they are kept).
 * Methods: KIVI, ZipCache, MiKV, GEAR, KVQuant, TurboQuant, and the block types of llama.cpp.
 *
 * Pure functions on host memory; any thread. */
#ifndef ENGINE_SIMULATE_H
#define ENGINE_SIMULATE_H

#include <stddef.h>

#include "engine/presets.h"
#include "kernels/page.h"

enum { SIMULATE_TOK_MAX = 64, SIMULATE_DIM_MAX = PAGE_HEAD_DIM_MAX };

/* Codes x [n_tok][n_dim] at this many bits (16: left as it is) and puts back what would be read.
 * q_max: [n_dim] largest |query| of each channel, for BALANCE_QUERY; else NULL. */
void simulate_apply(const struct preset_format *f, int32_t bits, float *x, int32_t n_tok,
                  int32_t n_dim, const float *q_max);

/* Bytes of codes, scales, offsets and corrections for so many numbers. */
size_t simulate_bytes(const struct preset_format *f, int32_t bits, int32_t n_tok, int32_t n_dim);

#endif
