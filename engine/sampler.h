/* Chooses the next token from logits: llama.cpp's names, defaults and order.
 *
 * Order: repeat penalty over the last repeat_last_n tokens, top-k, top-p, min-p, temperature, then
 * one draw. temp <= 0 takes the most probable token (after the penalty). repeat_last_n < 0 looks
 * back as far as is remembered (16384 tokens). The random generator is our own and its state is
 * explicit: the same seed, logits and history give the same tokens.
 *
 * One thread at a time. sampler_pick and sampler_accept do not allocate. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/engine.h" /* struct engine_sampling */

struct sampler;

/* seed UINT64_MAX in *p takes one from the system. Never NULL. */
struct sampler *sampler_new(int32_t n_vocab, const struct engine_sampling *p);
void sampler_free(struct sampler *s); /* NULL is fine */

/* The seed in use, for the DONE event. */
uint64_t sampler_seed(const struct sampler *s);

/* Picks from logits [n_vocab] (read only). -1 when no logit is finite. Does not accept. */
int32_t sampler_pick(struct sampler *s, const float *logits);

/* What the model itself says about id: no penalty, no temperature. Terms below e^-25 of the largest
 * are left out of the sum. */
void sampler_choice(const float *logits, int32_t n_vocab, int32_t id, struct stats_choice *ret);

/* Tells what was fed, prompt and answer alike: the repeat penalty looks back over it. */
void sampler_accept(struct sampler *s, int32_t id);

#endif
