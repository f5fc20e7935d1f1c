#include "engine/blocks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOK = 64 };

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->block < y->block ? -1 : x->block > y->block;
}

static int by_block(const void *a, const void *b)
{
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : 1;
}

void blocks_rank(struct ranked *r, int32_t n)
{
    qsort(r, (size_t)n, sizeof *r, by_score);
}

void blocks_order(int32_t *index, int32_t n)
{
    qsort(index, (size_t)n, sizeof *index, by_block);
}

int32_t blocks_cover(const struct ranked *rank, int32_t n_rank, const float *mass, int32_t n_block,
                     int32_t group, float aim, int32_t n_most, float *acc, int32_t *index)
{
    int32_t n = 0;
    while (n < n_rank && n < n_most) {
        float least = acc[0];
        for (int32_t g = 1; g < group; g++)
            least = fminf(least, acc[g]);
        if (least >= aim)
            break;
        for (int32_t g = 0; g < group; g++)
            acc[g] += mass[(size_t)g * n_block + rank[n].block];
        index[n] = rank[n].block;
        n++;
    }
    return n;
}

/* ---- lines ---- */

struct votes {
    const float *mass;
    const int32_t *own;
    int32_t n_vote, n_block;
    const bool *column, *slash; /* taken so far */
};

static bool seen(const struct votes *v, int32_t i, int32_t j)
{
    int32_t o = v->own[i] - j;
    return v->column[j] || v->slash[o] || (o > 0 && v->slash[o - 1]);
}

/* Mass that a line would add. */
static float gain_of(const struct votes *v, bool is_slash, int32_t at)
{
    float sum = 0;
    for (int32_t i = 0; i < v->n_vote; i++)
        for (int32_t j = is_slash ? v->own[i] - at : at, n = 0; n < 1 + is_slash; n++, j--)
            if (j >= 0 && j <= v->own[i] && !seen(v, i, j))
                sum += v->mass[(size_t)i * v->n_block + j];
    return sum;
}

/* The best lines of one kind, each by its own mass: a number of them, or a share of the mass. */
static void take_best(const struct votes *v, bool is_slash, int32_t n_most, float share, bool *taken)
{
    struct ranked rank[v->n_block];
    float sum = 0;
    for (int32_t j = 0; j < v->n_block; j++) {
        rank[j] = (struct ranked){0, j};
        for (int32_t i = 0; i < v->n_vote; i++) {
            int32_t at = is_slash ? v->own[i] - j : j;
            if (at >= 0 && at <= v->own[i])
                rank[j].score += v->mass[(size_t)i * v->n_block + at];
        }
    }
    blocks_rank(rank, v->n_block);
    for (int32_t i = 0; i < v->n_block && i < n_most && sum < share * (float)v->n_vote; i++) {
        taken[rank[i].block] = true;
        sum += rank[i].score;
    }
}

/* Both kinds together. Gains only fall, so the best line by an old gain that is still the best by
 * its new one is the best of all. */
static void take_greedily(const struct votes *v, bool columns_only, float share, bool *column,
                          bool *slash)
{
    int32_t n_line = columns_only ? v->n_block : 2 * v->n_block;
    float gain[n_line], covered = 0;
    for (int32_t i = 0; i < n_line; i++)
        gain[i] = INFINITY;
    while (covered < share * (float)v->n_vote) {
        int32_t best = 0;
        for (int32_t i = 1; i < n_line; i++)
            if (gain[i] > gain[best])
                best = i;
        bool is_slash = best >= v->n_block;
        int32_t at = is_slash ? best - v->n_block : best;
        float mass = gain_of(v, is_slash, at), per_block = is_slash ? mass / 2 : mass;
        if (gain[best] <= 0)
            break;
        if (per_block >= gain[best] * 0.999f) {
            (is_slash ? slash : column)[at] = true;
            covered += mass;
            gain[best] = 0;
        } else {
            gain[best] = per_block;
        }
    }
}

void blocks_lines(const struct prefill_method *m, float coverage, const float *mass,
                  const int32_t *own, int32_t n_vote, int32_t n_block, bool *column, bool *slash)
{
    struct votes v = {mass, own, n_vote, n_block, column, slash};
    memset(column, 0, sizeof *column * (size_t)n_block);
    memset(slash, 0, sizeof *slash * (size_t)n_block);
    if (m->n_column > 0 || m->n_slash > 0) {
        take_best(&v, false, (m->n_column + TOK - 1) / TOK, 2, column);
        take_best(&v, true, (m->n_slash + TOK - 1) / TOK, 2, slash);
    } else if (m->apart) {
        take_best(&v, false, n_block, coverage, column);
        take_best(&v, true, n_block, coverage, slash);
    } else {
        take_greedily(&v, m->score == PREFILL_COLUMNS, coverage, column, slash);
    }
}

/* ---- what was kept ---- */

void mass_add(struct mass_tally *t, double mass, int32_t n)
{
    int bin = (int)(mass * MASS_BINS);
    t->bin[bin < 0 ? 0 : bin > MASS_BINS ? MASS_BINS : bin] += n;
    t->sum += mass * n;
    t->n += n;
}

double mass_mean(const struct mass_tally *t)
{
    return t->n > 0 ? t->sum / (double)t->n : NAN;
}

double mass_p5(const struct mass_tally *t)
{
    int64_t below = 0;
    for (int i = 0; i <= MASS_BINS && t->n > 0; i++) {
        below += t->bin[i];
        if (below * 20 > t->n)
            return (double)i / MASS_BINS;
    }
    return NAN;
}
