/* How far a model's cache may be compressed: measured on the model itself, once, and kept in a file
 * named by its fingerprint. Small models, keys with large biases (Qwen2.5) and normed keys (Qwen3)
 * feel the same bits quite differently; no table of architectures tells how much.
 *
 * A short text is read with an exact cache, then with the keys, and the values, of one group of
 * layers after the other at 4 bits and the rest exact: that tells which layers are fragile. A format
 * then means bits per layer on average: where it pays, fragile layers get more, and those that
 * hardly feel it less, at the same bytes. Last, each format of the ladder is read, finest first, until
 * the mean KL divergence of the next token passes the limit; the floor is the last one before. */
#ifndef ENGINE_FLOOR_H
#define ENGINE_FLOOR_H

#include "engine/base/err.h"
#include "engine/kv.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

enum { FLOOR_RUNGS = KV_STEPS, FLOOR_GROUPS = 8 };

/* Nats per token that the floor may cost on average. */
#define FLOOR_LIMIT 0.03

struct floor {
    int32_t rung;           /* index into floor_names */
    int32_t n;              /* positions compared for each */
    double kl[FLOOR_RUNGS]; /* NAN = not measured: a finer one was too coarse already */
    int32_t n_group;        /* of layers; 0 = they were not told apart */
    struct floor_group {
        double kl_k, kl_v;         /* what 4-bit keys, values, of these layers alone cost */
        double error2_k, error2_v; /* the mean squared relative error they had */
    } group[FLOOR_GROUPS];
};

/* "8/8" ... "2/2": presets. */
extern const char *const floor_names[FLOOR_RUNGS];

/* Takes 3,000 to 4,500 tokens of reading. go_on as in forward_run. The model must be loaded. */
enum status floor_measure(struct model *m, const struct tokenizer *t, double limit,
                          bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct floor *ret,
                          struct err *e);

/* What the floor says about each layer of this shape under a preset that seals: pages are sealed at its
 * bits and stepped down to its floor on average over all bytes. */
void floor_care(const struct floor *floor, const struct preset *preset,
                const struct kv_shape *shape, struct kv_care *ret);

/* The file of this fingerprint in dir; false when there is none or it is damaged. */
bool floor_load(const char *dir, uint64_t fingerprint, struct floor *ret);
/* Creates the folders that are missing. A failure costs a measurement later. */
void floor_store(const char *dir, uint64_t fingerprint, const struct floor *f);

#endif
