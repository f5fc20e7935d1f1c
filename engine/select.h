/* Progressive selection while decoding: which pages the next tokens read, chosen again every 16.
 *
 * After LoopServe's decode phase: per layer and KV head the pages are ranked by the queries of the
 * most recent output tokens, over all pages, so that what was left out can return. With a coverage,
 * exact scores of a few of the recent queries rank all pages, and as many are taken as reach it in
 * the softmax mass; with a share, the per-channel bounds of a page (Quest) say which pages could
 * matter, exact scores decide among those. Always read: sinks, the first page, the window of the
 * newest 256 positions and the whole answer so far. Nothing is deleted.
 *
 * Once in 16 tokens one layer, in turn, answers densely too: the mass its list really keeps. What a
 * head lacks there it aims at above the coverage, from half-way to all on. A layer that falls short
 * twice stays dense for the rest of the answer; one whose lists hold nearly everything stays dense
 * for 3 choices, then 7, 15, 31. Dense as well: the first 16 tokens of an answer, contexts shorter
 * than n_min, sliding windows, backends without a scorer.
 * Published methods take the same way with their own score, and no fallback: methods.h.
 *
 * Threads: the engine's. */
#ifndef ENGINE_SELECT_H
#define ENGINE_SELECT_H

#include "engine/sparse.h"

enum { SELECT_EVERY = 16 };

struct select;

struct select_params {
    float coverage; /* mass to keep; 0 = none asked for: take the share; 1 = dense */
    float share;    /* of the pages, without a coverage; 0 = 0.25 */
    int32_t n_min;  /* keys below which all are read; 0 = SPARSE_N_MIN */
    struct decode_method method; /* all 0 = our own */
};

/* Of one answer; NAN = nothing yet. */
struct select_report {
    double density;   /* blocks read of all blocks, over tokens, layers and heads */
    double mass_mean; /* retained, over the KV heads of the layers that were looked at; */
    double mass_p5;   /* their 5th percentile */
    int32_t n_mass;   /* how many such looks */
    int32_t n_choice; /* lists chosen, layers x times */
    int32_t n_failed; /* layers that went back to dense */
};

/* Bytes of memory that an answer at n_tok keys takes at most. */
uint64_t select_bytes(const struct sparse_shape *s, int32_t n_tok);
struct select *select_new(struct kern *k, const struct sparse_shape *s,
                          const struct select_params *p);
void select_free(struct select *se); /* NULL is fine */

/* An answer begins at position answer0: lists and statistics are forgotten. coverage: as above. */
void select_begin(struct select *se, float coverage, int32_t answer0);

/* The last rows of a prompt, for methods that choose by them; a is answered by others. */
void select_observe(struct select *se, int32_t layer, const struct kern_attn *a);

/* Answers a, one row; rows before the answer are answered densely. a->list must be NULL; a->lse and a->mass are honoured. */
void select_attend(struct select *se, int32_t layer, const struct kern_attn *a);

void select_report(const struct select *se, struct select_report *ret);

#endif
