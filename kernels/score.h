/* Scoring key blocks: how much softmax mass lies on each 64-token block, for chosen query rows.
 *
 * Two measures. Exact: the mass of every block for one row and head, from all its keys. Strided
 * antidiagonals (after XAttention): `stride` neighbouring queries, taken backwards, against
 * `stride` neighbouring keys, one averaged score per tile, softmax over all tiles; every query and
 * key takes part once per tile, at 1/(2 * stride) of the cost of dense attention.
 * Exact rows read keys as attention does: pages for blocks older than b-1, sinks in f16.
 * Antidiagonals only rank: they read a block's page wherever it has one.
 * Layers with a sliding window are not scored. */
#ifndef KERNELS_SCORE_H
#define KERNELS_SCORE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KERN_SCORE_STRIDE = 16, KERN_SCORE_GROUPS = KERN_BLOCK_TOK / KERN_SCORE_STRIDE };

struct kern_score {
    const struct kern_attn *a; /* rows, queries, keys, scale, softcap; window 0; the rest unused */
    int32_t n_block;           /* (pos0 + n_tok - 1) / 64 + 1, <= n_block_cap */
    const bool *asleep;        /* host [n_head_kv]: heads nobody asks about, whose results may hold
                                  anything; NULL = none */

    int32_t n_row;      /* exact rows; 0 = none */
    const int32_t *row; /* host [n_row] rows of the call, ascending */
    float *mass;        /* host [n_head][n_row][n_block]: softmax mass, 0 behind the row's own block */
    float *lse;         /* host [n_head][n_row]: log-sum-exp of the scaled scores */
    const bool *only;   /* host [n_head_kv][n_block]: exact rows see these blocks alone, the others
                           count nothing; a row's own must be among them. NULL = all */

    int32_t n_group;      /* groups of KERN_SCORE_STRIDE rows; 0 = none */
    const int32_t *group; /* host [n_group] first row of each, ascending; its position is a
                             multiple of the stride and all its rows are in the call */
    float *anti;          /* host [n_head][n_group][n_block]: mass of each block by antidiagonals */
};

/* False when this backend has no scorer: nothing is written and attention should stay dense. The
 * result does not depend on the number of threads. */
bool kern_score(struct kern *k, const struct kern_score *s);

/* The largest score that any key of a page could have (Quest, Tang et al. 2024), from what each
 * channel can hold: sum over channels of max(q lo, q hi). */
struct kern_bounds {
    const struct kern_kv *kv;
    const float *q;     /* dev [rows][n_head, head_dim] */
    int32_t n_head;
    float scale;
    int32_t n_row;
    const int32_t *row; /* host [n_row] of q */
    const bool *use;    /* host [n_head_kv][head_dim] channels that count; NULL = all */
    int32_t block0, block1; /* blocks [block0, block1) are asked; all have pages */
    float *bound;       /* host [n_head_kv][n_row][group][stride]: element block of the last */
    int32_t stride;     /* >= block1 */
};

#ifdef __cplusplus
}
#endif
#endif
