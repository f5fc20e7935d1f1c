/* Writing an answer: one token through the forward pass. */
#ifndef ENGINE_DECODE_H
#define ENGINE_DECODE_H

#include "engine/forward.h"

/* Feeds one token at the end of the timeline and returns the logits after it (host, valid until
 * the next pass). Allocates nothing: room for one token must have been reserved. */
enum status decode_step(struct forward *f, struct kv_line *line, int32_t id, const float **ret,
                        struct err *e);

#endif
