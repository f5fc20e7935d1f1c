/* Keys and values of timelines: 64-token blocks with reference counts, per-layer tables of them,
 * and the log of the token ids they stand for.
 *
 * Where the preset seals, a block's f16 rows become pages (kernels/page.h) as soon as a position
 * two blocks later is computed, and are given back once that position is committed: a position
 * reads rows of its own block and the one before, pages of all older ones, sinks in f16.
 *
 * A simulated number format (presets.h) changes rows in place instead, by the same rule of
 * positions; eviction marks tokens in the tables that attention reads and wants a CPU backend.
 *
 * A pool owns blocks; one block holds the f16 rows of 64 positions of all layers and heads in one
 * device allocation. A line (timeline) is the log of the ids exactly as fed plus a list of blocks.
 * Lines that share a beginning share blocks; a shared block is copied when one of them writes into
 * it. Writing goes in three steps: kv_reserve makes room, the forward pass writes rows through
 * kv_layer, kv_commit appends the ids. What was not committed does not exist.
 *
 * Threads: one at a time (the engine's). Errors: ERR_MEMORY names bytes. */
#ifndef ENGINE_KV_H
#define ENGINE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/presets.h"
#include "kernels/kernels.h"
#include "kernels/page.h"

struct kv_pool;
struct kv_line;

/* One layer's heads of keys and values. Heads are numbered through all layers: `first` is the layer's
 * first one; `chan` counts the channels of those before it, `rows` the f16 of a token in theirs. n_latent: values are so
 * many channels of keys, which are held once (struct kern_kv); else 0. */
struct kv_heads {
    int32_t n, dim, first, chan, rows;
    int32_t n_latent;
};

/* Layers with keys and values, and layers that keep a state of fixed size (engine/recurrent.h); a layer may be both. */
enum { KV_LAYERS = 512 };
struct kv_shape {
    int32_t n_layer;
    /* Of all layers: heads of keys and values, their channels, and f16 of a token in their rows. */
    int32_t n_head, n_chan, n_row;
    struct kv_heads heads[KV_LAYERS];
    int32_t n_state_layer;
    int64_t state_floats; /* of one */
};
/* One layer more, behind the others. */
void kv_shape_add(struct kv_shape *s, int32_t n_head_kv, int32_t head_dim, int32_t n_latent);

/* Bits of the keys and values of a page. Pages step down a ladder, one tensor at a time. */
struct kv_depth {
    int32_t bits_k, bits_v;
};
enum { KV_STEPS = 6 };
extern const struct kv_depth kv_ladder[KV_STEPS]; /* 8/8 8/4 6/4 4/4 4/2 2/2 */
int32_t kv_step(struct kv_depth d);               /* its place there; KV_STEPS = none */
/* A page of these heads at this depth; of a latent the bits of keys count, so that some steps are the same. */
struct page_shape kv_page_shape(const struct kv_heads *of, struct kv_depth d);
int32_t kv_page_step(const struct kern_page *page); /* the first step it may be at; KV_STEPS = none */

/* What becomes of the pages of one layer. */
struct kv_care {
    struct kv_depth seal;  /* how they are sealed */
    struct kv_depth floor; /* never below */
    struct kv_depth soft;  /* passed only when all pages are there and it still does not fit */
    double harm_k, harm_v; /* what a squared relative error costs, up to a factor for all layers */
};

/* Bytes of f16 keys and values per token, and per block of 64. */
uint64_t kv_tok_bytes(const struct kv_shape *s);
uint64_t kv_block_bytes(const struct kv_shape *s);
/* Bytes of a block's pages at this depth. */
uint64_t kv_sealed_bytes(const struct kv_shape *s, struct kv_depth d);
/* Most bytes of a pool that a line of n_tok tokens takes while it is read in chunks of n_chunk:
 * rows, pages as the preset seals them and at its floor, sinks. */
uint64_t kv_most_bytes(const struct kv_shape *s, const struct preset *preset, int32_t n_tok,
                       int32_t n_chunk);
/* What it takes beside, which no pool's budget counts: the log and the tables. */
uint64_t kv_table_bytes(const struct kv_shape *s, int32_t n_tok);
/* Whether pages exist for all its heads; if not, ret_dim (may be NULL) is the channels of one that has none. */
bool kv_can_seal(const struct kv_shape *s, int32_t *ret_dim);
bool kv_seals(const struct kv_line *l); /* the preset does */

/* budget_bytes bounds what the pool holds at any time, free list included; at least one block.
 * preset NULL = exact. kern must outlive the pool. */
struct kv_pool *kv_pool_new(struct kern *k, const struct kv_shape *s, const struct preset *preset,
                            uint64_t budget_bytes);
/* What the preset says of each of n_layer layers, where nothing was measured. */
void kv_care_usual(const struct preset *preset, int32_t n_layer, struct kv_care *ret);
/* [n_layer], from now on; a new pool has the usual. */
void kv_pool_set_care(struct kv_pool *p, const struct kv_care *care);
void kv_pool_free(struct kv_pool *p);            /* after all its lines; NULL is fine */
uint64_t kv_pool_bytes(const struct kv_pool *p); /* allocated now */
uint64_t kv_pool_budget(const struct kv_pool *p);
void kv_pool_set_budget(struct kv_pool *p, uint64_t budget_bytes);
/* Gives the blocks of the free list back to the system. */
void kv_pool_trim(struct kv_pool *p);

/* An empty timeline that may grow to n_ctx tokens. */
struct kv_line *kv_line_new(struct kv_pool *p, int32_t n_ctx);
/* The first n tokens of src as a timeline of its own, without copying; fewer as kv_truncate says.
 */
struct kv_line *kv_line_fork(struct kv_line *src, int32_t n);
void kv_line_free(struct kv_line *l); /* NULL is fine */

int32_t kv_n_tok(const struct kv_line *l);
const int32_t *kv_ids(const struct kv_line *l); /* [kv_n_tok], valid until the next commit */
/* Length of the longest common beginning of the log and ids[0..n). */
int32_t kv_common(const struct kv_line *l, const int32_t *ids, int32_t n);
/* Bytes of the blocks of this line; shared ones count whole. Of simulated formats and evicted
 * caches: what the method would take, by its own formula. */
uint64_t kv_line_bytes(const struct kv_line *l);
/* What as many blocks take in f16 rows. */
int64_t kv_f16_bytes(const struct kv_line *l);

/* Makes positions up to kv_n_tok + n_more - 1 writable: allocates blocks, copies shared ones.
 * ERR_MEMORY when the pool's budget is used up (drop another line and try again) or the system
 * refuses; ERR_USAGE beyond n_ctx. Nothing is changed on error. */
enum status kv_reserve(struct kv_line *l, int32_t n_more, struct err *e);
/* Bytes that such a reserve adds to what lines hold. */
uint64_t kv_reserve_bytes(const struct kv_line *l, int32_t n_more);
/* The table of one layer for the op table. Borrowed; valid until the next reserve. */
const struct kern_kv *kv_layer(const struct kv_line *l, int32_t layer);
/* Appends ids whose rows were written; they must lie within what was reserved. No allocation. */
void kv_commit(struct kv_line *l, const int32_t *ids, int32_t n);
/* For measuring speed at a depth: appends n (reserved) tokens whose rows are copies of the blocks
 * at the beginning of the line. Their positions are wrong; their cost is right. */
void kv_repeat(struct kv_line *l, int32_t n);
/* Where the attention kernel adds up what fell on each block, [n_head_kv, n_block_cap] of the
 * layer; and how many (row, query head of a group) pairs that was, summed over nothing else. */
float *kv_mass(struct kv_line *l, int32_t layer);
void kv_count_query(struct kv_line *l, int32_t layer, int32_t n);

/* The states of the layers that keep one, dev [n_state_layer][state_floats] each, in a pass over n_tok
 * tokens at the end of the line: read where it begins, written where it ends and, where n_mid > 0, after
 * that many of its tokens. prompt_end: an answer begins behind it, so that the line may be cut near there
 * (kv_state.c). certain: it will be committed, and may write where it reads. Room must be reserved; what was
 * written counts with the commit. */
struct kv_pass {
    const float *before;
    float *mid, *after;
    int32_t n_mid;
};
struct kv_pass kv_pass(struct kv_line *l, int32_t n_tok, bool prompt_end, bool certain);

/* The preset asks what attention falls on: then every row of every layer is to be answered with its
 * log-sum-exp, and kv_watch called with it. */
bool kv_watches(const struct kv_line *l);
void kv_watch(struct kv_line *l, int32_t layer, const struct kern_attn *a);
/* After a commit: drops what the preset drops. prompt_end: an answer begins here. */
void kv_evict(struct kv_line *l, bool prompt_end);
/* Whether this head of this layer still has the token. */
bool kv_kept(const struct kv_line *l, int32_t layer, int32_t head, int32_t pos);
/* Most tokens that may be computed at once, as a multiple of 64 from a multiple of 64 on; 0 = any
 * number. */
int32_t kv_chunk(const struct preset *preset);

/* How many positions may be written without another reserve. */
int32_t kv_room(const struct kv_line *l);
/* Forgets everything from position n on, and what must be read again to go on from there: where
 * the rows around n were given back, up to 127 tokens before it, where layers keep a state what follows the
 * last state at hand, and where the preset drops or weighs tokens all of them (read kv_n_tok). */
void kv_truncate(struct kv_line *l, int32_t n);

/* Seals or codes, in this layer, what the rows up to n_tok_end - 1 read as pages; to be called after their
 * keys and values were written and before they are attended to. Allocates nothing. */
void kv_seal(struct kv_line *l, int32_t layer, int32_t n_tok_end);
double kv_seal_s(const struct kv_pool *p); /* seconds spent in it so far */

/* For reading a timeline again over the pages it holds now: what to would seal before position
 * n_tok_end is lent the pages of the same blocks of from, where from has them. Between reserve and
 * the pass; neither from nor its pages may change while to lives. The ids must be the same. */
void kv_lend(const struct kv_line *from, struct kv_line *to, int32_t n_tok_end);

#endif
