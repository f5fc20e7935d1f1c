/* The forward pass of a decoder-only transformer (Vaswani et al. 2017; Llama, Qwen, Gemma and Phi
 * variants), written once over the op table. Stateless but for scratch: everything a token leaves
 * behind is in its timeline.
 *
 * Threads: one at a time. No allocation after forward_new. */
#ifndef ENGINE_FORWARD_H
#define ENGINE_FORWARD_H

#include "engine/base/err.h"
#include "engine/kv.h"
#include "engine/model.h"

enum { FORWARD_HEAD_ROWS = 8 }; /* rows of logits computed at once */

struct forward;

/* What tokens of this model leave behind in a timeline. */
struct kv_shape forward_kv_shape(const struct model_params *p);

/* Which hidden rows of a chunk are wanted afterwards: the last layer computes only those. */
enum forward_want { FORWARD_NONE, FORWARD_LAST, FORWARD_ALL };

/* Device and host bytes of scratch for chunks of n_chunk tokens. */
uint64_t forward_bytes(const struct model_params *p, int32_t n_chunk);
enum status forward_new(const struct model *m, int32_t n_chunk, struct forward **ret,
                        struct err *e);
void forward_free(struct forward *f); /* NULL is fine */
/* Who answers attention in place of the backend's attend (engine/sparse.h, recorders); NULL = the
 * backend. */
typedef void (*forward_answer)(void *ctx, const struct model_layer *l, const struct kern_attn *a);
void forward_set_answer(struct forward *f, forward_answer fn, void *ctx);
/* Most tokens computed at once: what it was made for, or n if that is less and not 0. */
void forward_set_chunk(struct forward *f, int32_t n);
/* Told of each attention, with the cache's layer, when a single token is computed and the line seals;
 * NULL = none. */
typedef void (*forward_watch)(void *ctx, int32_t layer, const struct kern_attn *a,
                              struct kv_line *line);
void forward_set_watch(struct forward *f, forward_watch fn, void *ctx);
/* Embeddings are made larger by this part of themselves: far below 1, a change that means nothing by
 * itself and shows what rounding makes of it. 0 = they are not. */
void forward_set_nudge(struct forward *f, float part);
int32_t forward_n_chunk(const struct forward *f);
int32_t forward_n_layer(const struct forward *f);

/* Computes n_tok (1..n_chunk) tokens at the end of the timeline; the room must be reserved
 * (kv_room). Commits them on success. go_on (may be NULL) is asked before each layer, with the
 * layer's number; false gives ERR_CANCELLED and leaves the timeline as it was. ids must be inside
 * the vocabulary. */
enum status forward_run(struct forward *f, struct kv_line *line, const int32_t *ids, int32_t n_tok,
                        enum forward_want want, bool (*go_on)(void *ctx, int32_t layer), void *ctx,
                        struct err *e);

/* For experiments on some layers: the residual stream of the rows being computed, dev [n_tok,
 * n_embd], which go_on may copy; and a pass (of all rows, FORWARD_ALL) that begins before `layer`
 * with such a copy. Keys and values of the layers below are not written. */
const float *forward_stream(const struct forward *f);
enum status forward_run_from(struct forward *f, struct kv_line *line, int32_t layer,
                             const float *stream, const int32_t *ids, int32_t n_tok,
                             bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct err *e);

/* Logits [n_row, n_vocab] of rows row0.. of the last run, which must have been wanted; n_row is at
 * most FORWARD_HEAD_ROWS. Host memory, valid until the next call. Fails when the device did, which
 * may have been in the run: devices work after it has returned. */
enum status forward_head(struct forward *f, int32_t row0, int32_t n_row, const float **ret,
                         struct err *e);

/* Writing an answer: feeds one token at the end of the line and returns the logits after it (host, valid until the
 * next pass). Allocates nothing: room for one token must have been reserved. */
enum status forward_step(struct forward *f, struct kv_line *line, int32_t id, const float **ret, struct err *e);

#endif
