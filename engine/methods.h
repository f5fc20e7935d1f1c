/* Ways of reading less: which older blocks the rows of a prompt and the tokens of an answer attend
 * to. A method is one row of choices over the axes below; the published ones are rows of presets.c.
 * All zero is our own: `cap` while reading and progressive selection while answering, both asleep
 * at coverage 1. Nothing is ever deleted by any of them.
 *
 * Pure data. */
#ifndef ENGINE_METHODS_H
#define ENGINE_METHODS_H

#include <stdbool.h>
#include <stdint.h>

enum prefill_score {
    PREFILL_CAP,       /* exact rows and antidiagonals of each 64-row block; feedback, fallback */
    PREFILL_DIAGONALS, /* antidiagonals of each row block alone (XAttention) */
    PREFILL_LINES,     /* columns and diagonals of blocks that sampled rows look at */
    PREFILL_COLUMNS,   /* columns alone */
    PREFILL_STATIC,    /* what is always read and nothing else */
};

enum prefill_fix {
    FIX_NONE,
    FIX_FITTED, /* what a dense anchor row lacked, as strongly as audited rows say it helps */
    FIX_PLAIN,  /* dense minus sparse of the block's first row, added whole (Delta attention) */
};

struct prefill_method {
    enum prefill_score score;
    float coverage;           /* mass to keep; 0 = as asked for */
    int32_t n_spread, n_last; /* LINES, COLUMNS: rows that vote, per 64 and at the end */
    int32_t n_column, n_slash;/* LINES: the best so many tokens of either, whatever they cover */
    bool apart;               /* LINES: columns and diagonals reach the coverage each on their own */
    int32_t first, local;     /* tokens always read: the first, the newest (own ones included) */
    float local_share;        /* the same, of all keys */
    int32_t tail;             /* last rows of a turn, dense */
    enum prefill_fix fix;
};

enum decode_score {
    DECODE_OURS,     /* page bounds, then exact masses of three recent queries, up to the coverage */
    DECODE_BOUNDS,   /* page bounds of the query at hand (Quest) */
    DECODE_CHANNELS, /* the same in the channels where the group's queries are large (HSA) */
    DECODE_EXACT,    /* exact masses of recent queries over all pages (LoopServe) */
    DECODE_LAYERS,   /* exact masses in a few layers, the others read the same pages (TidalDecode) */
    DECODE_PROMPT,   /* masses of the last rows of the prompt (the window of SnapKV) */
};

struct decode_method {
    enum decode_score score;
    float share;          /* of the pages that are read; OURS: 0 = as the coverage asks */
    float prompt_share;   /* CHANNELS: pages that the prompt's last rows let through (RocketKV) */
    int32_t dense_layers; /* first layers that read all */
    int32_t choose[2];    /* LAYERS: those that choose */
};

#endif
