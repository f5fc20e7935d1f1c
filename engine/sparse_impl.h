/* What sparse.c (when and which blocks) and sparse_fix.c (what came of it) share. */
#ifndef ENGINE_SPARSE_IMPL_H
#define ENGINE_SPARSE_IMPL_H

#include "engine/blocks.h"
#include "engine/sparse.h"

enum { TOK = KERN_BLOCK_TOK };

struct head_state {
    float aim;   /* coverage aimed at by the estimate */
    bool failed; /* dense for the rest of the turn */
    bool listed; /* in the call at hand: some row block reads a list */
    int32_t n_sleep, n_wait; /* calls it is not looked at, since it read all; and after the next time */
    double fix_num, fix_den; /* of the strength of the correction, by least squares */
};

struct layer_state {
    struct head_state *head; /* [n_head_kv] */
    double rho;              /* density at n_key keys; < 0 = not yet known */
    int32_t n_key;
    int32_t n_dense, n_wait; /* dense decisions since the layer was last looked at, and until */
    bool more_rows;          /* twice as many rows choose: too few saw too little */
    double n_read, n_all;    /* blocks of this turn */
};

/* A row that is answered densely too. */
struct held {
    int32_t row;
    bool audit; /* measures the correction; else an anchor: tells the mass, feeds the correction */
};

struct sparse {
    struct kern *k;
    struct sparse_shape s;
    struct sparse_params p;
    struct layer_state *layer;

    /* the call at hand; arrays grow and are kept */
    const struct kern_attn *a;
    int32_t block0, n_row_block, n_block;
    bool ragged;             /* one estimate for all rows */
    bool *chosen;            /* [n_row_block] reads a list, by position alone */
    int32_t n_row, n_group;
    int32_t *row;            /* [n_row] rows that choose */
    int32_t n_held;
    struct held *held;       /* [n_held] rows that do not */
    int32_t *group;
    float *mass, *anti, *lse;
    float *estimate;         /* [n_head_kv][group][n_block] of the row block at hand */
    struct ranked *rank;     /* [n_head_kv][n_block] */
    bool *asleep;            /* [n_head_kv] */
    int32_t *first, *index;
    struct kern_block_list list;
    int32_t *n_listed;       /* [n_head_kv] blocks read, forced ones included */
    int64_t n_possible;      /* per KV head */
    size_t mass_cap, anti_cap, lse_cap, estimate_cap, rank_cap, first_cap, index_cap, row_cap,
        held_cap, group_cap, chosen_cap;
    float *lse_dev, *lse_host;     /* [n_tok, n_head] of the sparse pass */
    int32_t lse_rows;
    float *held_dev, *held_host;   /* [n_held][n_head, head_dim] outputs, then [n_held][n_head] lse */
    float *sparse_host;            /* [held_cap][n_head, head_dim]: what the lists gave there */
    float *dropped;                /* [n_head] mass that anchors usually lack: their median */
    size_t held_dev_cap;

    /* the turn */
    double n_read, n_all;        /* blocks */
    struct mass_tally kept;      /* of held-out rows */
    double *head_mass;           /* [n_layer, n_head] */
    int32_t *head_n;
    double error_sum, error_before_sum, fix_sum;
    int32_t n_audit, n_held_out, n_fix;
    int32_t n_call[SPARSE_REASONS];
    double score_s, attend_s;    /* of sparse calls */
    double sparse_all, sparse_read; /* blocks of sparse calls */
    double dense_s, dense_all;   /* of dense calls with many rows; kept across turns */
    uint32_t hash;
};

static inline int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* What one held-out row per 64 would have shown where attention is dense. */
void sparse_note_dense(struct sparse *sp, int32_t n_row);
/* Answers the held-out rows of the call at hand densely: they tell the retained mass, steer the
 * heads, and correct a->out. */
void sparse_hold(struct sparse *sp, int32_t layer, const struct kern_attn *a);

#endif
