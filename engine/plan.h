/* The memory plan: what a model, a context length and a cache would take, before any of it is
 * allocated, checked against what is free. Pure arithmetic but for plan_available. */
#ifndef ENGINE_PLAN_H
#define ENGINE_PLAN_H

#include "engine/base/err.h"
#include "engine/kv.h"
#include "engine/model.h"

enum {
    PLAN_CHUNK = 512,        /* tokens computed at once in prefill, where memory allows; */
    PLAN_CHUNK_DEVICE = 2048 /* on a device that holds all of the model, where nothing has to give
                                way for it: fewer leave its matrix units without work */
};

struct plan {
    uint64_t weights_private; /* copied into the backend's own order */
    uint64_t weights_mapped;  /* read in place from the file */
    uint64_t weights_kept;    /* of a device: in the host's memory, beside all the rest here */
    uint64_t scratch; /* activations, the block scores of sparse attention, tables of the cache */
    uint64_t kv_tok;    /* f16 bytes per token */
    uint64_t kv;        /* for one conversation of n_ctx */
    uint64_t kv_budget; /* what all timelines in memory may take, >= kv */
    uint64_t total;     /* weights + scratch + kv */
    uint64_t available;
    int32_t n_ctx, n_ctx_max; /* planned; the largest that fits */
    int32_t n_chunk;          /* PLAN_CHUNK_DEVICE, PLAN_CHUNK, or less where only that fits: a
                                 chunk stands in f16 beside its fresh pages while it is read */
    int32_t n_chunk_room;     /* what scratch is for */
    bool lowered;             /* n_ctx is less than the model's own because of memory, */
    bool by_budget;           /* of the KV budget, where that is less than what is free */
};

/* Bytes that may be used now: MemAvailable, or less where a control group limits us. */
uint64_t plan_available(void);

/* Bytes that the cache of the shortest context takes, the least budget. */
uint64_t plan_kv_least(const struct model *m, const struct preset *preset, int32_t n_chunk);

/* n_ctx 0 = the model's own, lowered to what fits. kv_budget 0 = automatic. ERR_MEMORY when the
 * context asked for does not fit: the text names the largest that does. What a preset may step down
 * to is what counts. */
enum status plan_make(const struct model *m, struct kern *k, const struct preset *preset,
                      int32_t n_ctx, uint64_t kv_budget, uint64_t available, struct plan *ret,
                      struct err *e);

#endif
