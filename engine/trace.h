/* What one position looked at: a fork of its timeline that ends before it computes its query again
 * over the same rows and pages, and the softmax of the scores is written down plainly.
 *
 * Engine thread, with the compute lock held. */
#ifndef ENGINE_TRACE_H
#define ENGINE_TRACE_H

#include "engine/local.h"

struct trace {
    int64_t timeline;
    int32_t *ids; /* owned; the whole path */
    int32_t n, pos;
};

struct trace *trace_new(int64_t timeline, const int32_t *ids, int32_t n, int32_t pos);
void trace_free(struct trace *t); /* NULL is fine */

/* Puts the answer into l->trace, and nothing when a turn came first. */
void trace_run(struct local *l, const struct trace *t);

#endif
