/* The dual phase in one hand: sparse prefill (sparse.h) and progressive selection while decoding
 * (select.h) behind the forward pass's attention. One knob, the coverage; at 1 there is no policy
 * and attention is the backend's, bit for bit.
 *
 * Threads: the engine's. */
#ifndef ENGINE_POLICY_H
#define ENGINE_POLICY_H

#include "engine/forward.h"
#include "engine/select.h"
#include "engine/sparse.h"

/* The coverage in force when none is asked for. */
#define POLICY_COVERAGE 1.0f

struct policy;

/* NULL when coverage is 1 or more. The backend must outlive it. */
struct policy *policy_new(struct kern *k, const struct model_params *p, float coverage);
void policy_free(struct policy *p); /* NULL is fine */

/* Makes f ask the policy; with NULL, the backend. */
void policy_attach(struct policy *p, struct forward *f);

/* A turn begins whose answer will begin at position answer0. NULL is fine. */
void policy_begin(struct policy *p, int32_t answer0);

/* Share of the blocks that the prompt of this turn read, and the softmax mass its held-out rows
 * kept; NAN = nothing was read. With NULL: 1 and 1, attention was dense. */
void policy_report(const struct policy *p, double *ret_density, double *ret_mass);

#endif
