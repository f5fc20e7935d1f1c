/* What compression costs, measured while an answer is written: of some sealed blocks the exact rows
 * of one layer were kept (kv_impl.h: `exact`), spread over the whole timeline and over the layers.
 * Every 16th token one layer, in turn, answers twice more, from pages alone and with those blocks
 * read exactly; what lies between is the error that their pages make.
 *
 * Beside it stands what the ledger predicts for the same pages and the same query: the ratio of the
 * two corrects its prediction for all pages. Engine thread only. */
#ifndef ENGINE_WITNESS_H
#define ENGINE_WITNESS_H

#include "engine/kv.h"
#include "engine/stats.h"

enum { WITNESS_EVERY = 16 };

struct witness;

/* NULL when memory is short: nothing is measured then. */
struct witness *witness_new(struct kern *k, int32_t n_head, const struct kv_shape *s);
void witness_free(struct witness *w); /* NULL is fine */

/* Tokens of this timeline follow; what was measured on another one is forgotten. NULL is fine. */
void witness_begin(struct witness *w, int64_t timeline);
/* A forward_watch: a was answered. */
void witness_look(void *ctx, int32_t layer, const struct kern_attn *a, struct kv_line *line);
/* Fills step_* and, from harm_predicted, harm_measured when they are of this timeline. */
void witness_report(const struct witness *w, int64_t timeline, struct stats *s);

#endif
