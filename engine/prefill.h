/* Reading a prompt: many tokens through the forward pass in chunks. */
#ifndef ENGINE_PREFILL_H
#define ENGINE_PREFILL_H

#include "engine/forward.h"

/* Asked before each layer of each chunk: tokens done (fractions of a chunk count) of total. False
 * cancels. */
typedef bool (*prefill_go_on)(void *ctx, double n_done, int32_t n_total);

/* Reads ids[0..n) at the end of the timeline and returns the logits after the last one in *ret
 * (host, valid until the next pass; ret may be NULL: then the last row is not computed). Room is
 * reserved chunk by chunk; on an error or ERR_CANCELLED the timeline keeps the chunks done. */
enum status prefill_run(struct forward *f, struct kv_line *line, const int32_t *ids, int32_t n,
                        prefill_go_on go_on, void *ctx, const float **ret, struct err *e);

#endif
