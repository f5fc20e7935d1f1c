/* Picking blocks by their softmax mass: what sparse prefill and selection while decoding share.
 *
 * Pure functions on the caller's memory; any thread. */
#ifndef ENGINE_BLOCKS_H
#define ENGINE_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/methods.h"

struct ranked {
    float score;
    int32_t block;
};
/* In falling order of score; of equals the lower block first. */
void blocks_rank(struct ranked *r, int32_t n);
/* In rising order. */
void blocks_order(int32_t *index, int32_t n);

/* Takes blocks in the order of rank until every one of the `group` heads has `aim` of its mass, or
 * n_most are taken. mass: [group][n_block]; acc: [group], what is kept already, brought up to date.
 * Appends to index; returns how many. */
int32_t blocks_cover(const struct ranked *rank, int32_t n_rank, const float *mass, int32_t n_block,
                     int32_t group, float aim, int32_t n_most, float *acc, int32_t *index);

/* Columns (blocks j) and diagonals (blocks at distance o, and the one before, which a diagonal of
 * tokens touches too) that voting rows look at. mass: [n_vote][n_block]; own: [n_vote] the block a
 * row lies in. column, slash: [n_block], written. Greedy by mass gained per block read
 * (LoopServe), or both kinds apart, or by number: see struct prefill_method. */
void blocks_lines(const struct prefill_method *m, float coverage, const float *mass,
                  const int32_t *own, int32_t n_vote, int32_t n_block, bool *column, bool *slash);

/* Retained masses, 0..1, as they come: their mean and 5th percentile; NAN = none yet. All 0 = empty. */
enum { MASS_BINS = 256 };
struct mass_tally {
    double sum;
    int64_t n, bin[MASS_BINS + 1];
};
void mass_add(struct mass_tally *t, double mass, int32_t n);
double mass_mean(const struct mass_tally *t);
double mass_p5(const struct mass_tally *t);

#endif
