/* The real engine: one loaded model with its thread. The parts and who may touch them:
 *   set at opening, then immutable: gguf, model, tokenizer, template, plan, info, params;
 *   whoever holds `compute` (the worker while it runs a command; a measuring call otherwise):
 *     kern, forward, pool, lines;
 *   `lock`: stats;   atomics: cancel, busy, closing, coverage. */
#ifndef ENGINE_LOCAL_H
#define ENGINE_LOCAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/base/queue.h"
#include "engine/engine_impl.h"
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

struct local {
    struct engine base;
    struct engine_params params; /* strings inside are not kept */
    struct keep keep;            /* io all NULL when KV is not kept on disk */
    struct engine_info info;
    struct gguf *gguf;
    struct model *model;
    struct tokenizer *tokenizer;
    struct template *template;
    struct plan plan;
    const struct preset *preset; /* NULL with vocab_only */
    bool preset_asked;           /* by name; else it is the default */

    pthread_mutex_t compute;
    struct kern *kern;
    struct forward *forward;
    struct policy *policy;
    struct kv_pool *pool;
    struct lines *lines;

    pthread_mutex_t lock;
    struct stats stats;

    pthread_t thread;
    bool has_thread;
    struct queue *commands; /* of struct command, to the worker */
    struct queue *events;   /* of struct engine_event */
    atomic_bool cancel, busy, closing;
    _Atomic float coverage; /* of the next turn */
    atomic_uint_fast64_t n_turn;
};

enum status local_open(const struct engine_params *p, struct engine **ret, struct err *e);

/* Frees memory for n more tokens: first other timelines leave, then (adaptive) precision steps
 * down. False when nothing is left to free. */
bool local_make_room(struct local *l, int64_t id, struct kv_line *line, int32_t n);
/* Room for n more tokens of the timeline `id`: drops other timelines from memory as needed. */
enum status local_reserve(struct local *l, int64_t id, struct kv_line *line, int32_t n,
                          struct err *e);
/* ERR_USAGE for ids outside the vocabulary. */
enum status local_check_ids(const struct local *l, const int32_t *ids, int32_t n, struct err *e);

/* worker.c */
enum status worker_start(struct local *l, struct err *e);
void worker_stop(struct local *l); /* cancels and joins */
enum status worker_submit(struct local *l, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e);
void worker_forget(struct local *l, int64_t timeline);

/* measure.c */
enum status measure_logits(struct engine *en, const int32_t *ids, int32_t n,
                           bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                           struct err *e);
enum status measure_bench(struct engine *en, const struct engine_bench *b,
                          struct engine_bench_result *ret, struct err *e);

#endif
