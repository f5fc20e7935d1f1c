/* Sparse prefill: which older key blocks each row block reads, chosen anew from the live input.
 *
 * `cap`, coverage-adaptive: per layer, KV head and 64-row block, blocks are taken in falling order
 * of their estimated softmax mass until a coverage is reached (LoopServe's problem; the estimate is
 * the mean of exact masses of sampled rows and of XAttention's strided antidiagonals). The first
 * two blocks and the newest 256 positions are always read, and the last 128 rows of a turn, however
 * it falls into calls, read everything; nothing is ever deleted. One row per row block that took no part in choosing tells the mass that
 * was really kept, w = exp(lse_sparse - lse_dense): it steers the coverage aimed at, sends a head
 * back to dense attention when it fails, and is what is shown. w also bounds the error: the answer
 * of a row lies within 2 (1 - w) max|v| of the dense one.
 *
 * A head that read everything is not looked at again for 3 chunks, then 7, 15, 31.
 *
 * Dense attention (no list at all, bit-identical) is used at coverage 1, for short contexts, few
 * rows, sliding windows, backends without a scorer, and where the cost model says it does not pay.
 * Decisions depend on the tokens alone, never on the clock; the state starts afresh at each turn.
 *
 * Threads: the engine's. Ownership: sparse_new to sparse_free; the backend is borrowed. */
#ifndef ENGINE_SPARSE_H
#define ENGINE_SPARSE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/methods.h"
#include "kernels/kernels.h"

struct sparse;

struct sparse_shape {
    int32_t n_layer, n_head, n_head_kv, head_dim;
};

struct sparse_params {
    float coverage;  /* mass to keep, 0.7..1; 1 = dense */
    int32_t n_min;   /* keys below which attention stays dense; 0 = SPARSE_N_MIN, as measured to pay */
    float rho_max;   /* a row block whose list would hold more than this share is dense; 0 = 0.85 */
    bool always;     /* ask no cost model: for measuring */
    bool no_feedback;
    struct prefill_method method; /* all 0 = cap */
};
enum { SPARSE_N_MIN = 4096 };

/* Why calls stayed dense, most telling last. */
enum sparse_reason {
    SPARSE_ON,
    SPARSE_OFF,       /* coverage 1 */
    SPARSE_SHORT,     /* fewer keys than n_min */
    SPARSE_FEW_ROWS,  /* decode, or nearly */
    SPARSE_WINDOW,    /* the layer sees a sliding window only */
    SPARSE_NO_SCORER, /* backend, or no memory for scores */
    SPARSE_NO_GAIN,   /* the cost model: reading less would not pay */
    SPARSE_MISSED,    /* every head had too many rows that kept less than half the coverage */
    SPARSE_REASONS
};
const char *sparse_reason_text(enum sparse_reason r); /* "on", "context too short", ... */

/* Of one turn. Shares count blocks of (row block, KV head) pairs over all layers; NAN = nothing. */
struct sparse_report {
    double density;                      /* share of the causal blocks that was read */
    double mass_mean, mass_p5;           /* retained mass of held-out rows; dense ones count 1 */
    double mass_worst;                   /* mean of the worst (layer, head) */
    int32_t worst_layer, worst_head;     /* -1 = none */
    int32_t n_held_out;                  /* rows x heads measured */
    double error_mean, error_before;     /* of the output of audited rows, relative; uncorrected */
    double correction;                   /* mean strength, 0..1 */
    int32_t n_audit;
    double gain_predicted, gain_measured;/* attention time, dense over sparse */
    double score_share;                  /* of the time spent in attention */
    int32_t n_call[SPARSE_REASONS];      /* layers x chunks by decision */
    enum sparse_reason reason;           /* SPARSE_ON when any call was, else the commonest */
};

/* Bytes of host and device memory that calls of n_chunk rows among n_tok keys take at most. */
uint64_t sparse_bytes(const struct sparse_shape *s, const struct prefill_method *m, int32_t n_tok,
                      int32_t n_chunk);
struct sparse *sparse_new(struct kern *k, const struct sparse_shape *s,
                          const struct sparse_params *p);
void sparse_free(struct sparse *sp); /* NULL is fine */

/* A turn begins: statistics and what was learnt of heads are forgotten. coverage: as above. */
void sparse_begin(struct sparse *sp, float coverage);

/* Answers a: sparse where it pays, else as the backend does. turn_end: position behind the last row
 * of the turn; INT32_MAX = further than this call tells. Uses a->list and a->mass of a copy; those of a must be
 * NULL. a->lse, if not NULL, is filled in. */
void sparse_attend(struct sparse *sp, int32_t layer, const struct kern_attn *a, int32_t turn_end);

/* The choice alone: the lists for a, valid until the next call, or NULL = dense. */
const struct kern_block_list *sparse_choose(struct sparse *sp, int32_t layer,
                                            const struct kern_attn *a, int32_t turn_end,
                                            enum sparse_reason *ret_reason);

void sparse_report(const struct sparse *sp, struct sparse_report *ret);
/* Density and mean mass of held-out rows of one layer; NAN = nothing. */
void sparse_report_layer(const struct sparse *sp, int32_t layer, double *ret_density,
                         double *ret_mass);

#endif
