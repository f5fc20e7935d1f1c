/* The real engine: one loaded model with its thread. The parts and who may touch them:
 *   set at opening, then immutable: gguf, model, tokenizer, templates, plan, info, params;
 *   whoever holds `compute` (the worker while it runs a command; a measuring call otherwise):
 *     kern, forward, pool, lines, preset, keep;
 *   `lock`: stats, map, trace;   atomics: cancel, busy, closing, coverage_asked, coverage_own. */
#ifndef ENGINE_LOCAL_H
#define ENGINE_LOCAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/queue.h"
#include "engine/engine_impl.h"
#include "engine/floor.h"
#include "engine/forward.h"
#include "engine/gguf.h"
#include "engine/keep.h"
#include "engine/ledger.h"
#include "engine/lines.h"
#include "engine/model.h"
#include "engine/plan.h"
#include "engine/policy.h"
#include "engine/template.h"
#include "engine/tokenizer.h"
#include "engine/witness.h"

struct local {
    struct engine base;
    struct engine_params params; /* strings inside are not kept */
    struct kv_io io;             /* all NULL when KV is not kept on disk */
    struct keep keep;            /* io all NULL where the preset is not either */
    struct engine_info info;
    struct gguf *gguf;
    struct model *model;
    struct tokenizer *tokenizer;
    struct template *templates[TEMPLATE_REASONINGS];
    struct template *_Atomic template; /* one of them; any thread chooses */
    struct plan plan;
    int32_t n_gpu_layer;         /* on a device: layers whose matrices are there */
    bool preset_asked;           /* by name; else it is the default */
    char *cache_dir;             /* or NULL */
    uint64_t floor_key;          /* of its file */
    struct floor floor;          /* of this model; n = 0: not known */
    struct preset adapted;       /* the preset with a coarser floor: this model's, or asked for */
    const struct preset *floor_default; /* whose floor counts until one is measured; or NULL */
    bool floor_tried, floor_told; /* measured or found wanting; the user was told of going under */

    pthread_mutex_t compute;
    const struct preset *preset; /* NULL with vocab_only */
    struct kern *kern;
    struct forward *forward;
    struct policy *policy;
    struct witness *witness; /* or NULL */
    struct kv_pool *pool;
    struct lines *lines;

    pthread_mutex_t lock;
    struct stats stats;
    struct stats_map map;        /* the newest picture of pages */
    struct stats_trace trace;    /* the newest look of a position */
    bool map_wanted;
    int64_t map_line;            /* of this timeline */
    double walked_s, walk_s;     /* engine thread: when all pages were last looked at; how long */
    atomic_uint_fast64_t budget; /* asked for */
    uint64_t budget_seen;        /* engine thread: the last one brought into force */

    pthread_t thread;
    bool has_thread;
    struct queue *commands; /* of struct command, to the worker */
    struct queue *events;   /* of struct engine_event */
    atomic_bool cancel, busy, closing;
    _Atomic float coverage_asked; /* 0 = the preset's */
    _Atomic float coverage_own;   /* the preset's; 0 = dense, whatever was asked for */
    atomic_uint_fast64_t n_turn;
};

enum status local_open(const struct engine_params *p, struct engine **ret, struct err *e);

/* Tells what a walk over all pages of the line (NULL = none) tells: tiers, harm, room, and the map
 * when it was asked for. Does nothing when it comes sooner than `often` allows. */
void local_walk(struct local *l, int64_t id, const struct kv_line *line, bool often);
/* Of the next turn: as asked, else as the preset has it. */
float local_coverage(const struct local *l);
/* Makes what depends on the preset follow it, but for the pool and its lines. */
void local_use_preset(struct local *l, const struct preset *p);
/* ERR_USAGE for ids outside the vocabulary. */
enum status local_check_ids(const struct local *l, const int32_t *ids, int32_t n, struct err *e);

struct kv_shape local_kv_shape(const struct local *l);
/* Shows f to the caller. */
struct engine_floor local_floor_info(const struct floor *f);
/* An event of the turn or verification `number` whose figures are all unknown. */
struct engine_event *local_event_new(uint64_t number, enum engine_event_kind kind);

/* worker.c */
enum status worker_start(struct local *l, struct err *e);
void worker_stop(struct local *l); /* cancels and joins */
enum status worker_submit(struct local *l, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e);
enum status worker_verify(struct local *l, int64_t timeline, const int32_t *ids, int32_t n,
                          uint64_t *ret_turn, struct err *e);
void worker_forget(struct local *l, int64_t timeline);
void worker_map(struct local *l, int64_t timeline);
void worker_trace(struct local *l, int64_t timeline, const int32_t *ids, int32_t n, int32_t pos);
void worker_fit(struct local *l); /* the budget asked for, when the engine is next idle */
enum status worker_set_preset(struct local *l, const struct preset *p, struct err *e);

/* measure.c */
enum status measure_logits(struct engine *en, const int32_t *ids, int32_t n,
                           bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                           struct err *e);
enum status measure_floor(struct engine *en, struct engine_floor *ret, struct err *e);
enum status measure_bench(struct engine *en, const struct engine_bench *b,
                          struct engine_bench_result *ret, struct err *e);
enum status measure_attention(struct engine *en, const int32_t *ids, int32_t n,
                              const char *const *presets, int32_t n_preset,
                              struct engine_attention *ret, struct err *e);

#endif
