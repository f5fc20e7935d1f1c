/* The exact price of a timeline's compression: its ids are read again, chunk by chunk, once with an
 * f16 cache and once with the pages that the timeline holds now, and the logits of every position
 * are compared.
 *
 * Engine thread, with the compute lock held. */
#ifndef ENGINE_VERIFY_H
#define ENGINE_VERIFY_H

#include "engine/local.h"

struct verify {
    uint64_t number;
    int64_t timeline;
    int32_t *ids; /* owned */
    int32_t n;
};

struct verify *verify_new(int64_t timeline, const int32_t *ids, int32_t n, uint64_t number);
void verify_free(struct verify *v); /* NULL is fine */

/* Runs it to its end and returns its last event (VERIFIED or FAILED), not pushed yet. */
struct engine_event *verify_run(struct local *l, const struct verify *v);

#endif
