/* The engine's thread: takes commands in order. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/local.h"
#include "engine/room.h"
#include "engine/trace.h"
#include "engine/turn.h"
#include "engine/verify.h"

enum { IDLE_MS = 30000 }; /* after so long without a turn the state of timelines goes to disk */

enum command_kind {
    COMMAND_TURN,
    COMMAND_VERIFY,
    COMMAND_FORGET,
    COMMAND_MAP,
    COMMAND_TRACE,
    COMMAND_FIT,
    COMMAND_PRESET,
    COMMAND_CLOSE
};

struct command {
    enum command_kind kind;
    struct turn *turn;     /* TURN */
    struct verify *verify; /* VERIFY */
    struct trace *trace;   /* TRACE */
    int64_t timeline;
    const struct preset *preset;
};

static void command_free(void *item)
{
    struct command *c = item;
    turn_free(c->turn);
    verify_free(c->verify);
    trace_free(c->trace);
    free(c);
}

static void push(struct local *l, struct command command)
{
    struct command *c = mem_calloc(1, sizeof *c);
    *c = command;
    queue_push(l->commands, c);
}

/* Makes the chat's figures those of this timeline; what its last turn did is unknown when it was
 * not the last one of all. */
static void tell_line(struct local *l, int64_t timeline)
{
    struct kv_line *line = lines_find(l->lines, timeline);
    pthread_mutex_lock(&l->lock);
    if (l->stats.timeline != timeline) {
        stats_forget_chat(&l->stats);
        l->stats.timeline = timeline;
    }
    l->stats.n_tok = line ? kv_n_tok(line) : 0;
    l->stats.kv_chat_bytes = line ? (int64_t)kv_line_bytes(line) : 0;
    l->stats.kv_f16_bytes = line ? kv_f16_bytes(line) : 0;
    l->stats.bytes_per_tok =
        l->stats.n_tok > 0 ? (double)l->stats.kv_chat_bytes / l->stats.n_tok : NAN;
    pthread_mutex_unlock(&l->lock);
    local_walk(l, timeline, line, false);
}

static void set_preset(struct local *l, const struct preset *preset)
{
    uint64_t budget = kv_pool_budget(l->pool);
    lines_keep(l->lines, &l->keep, -1);
    lines_free(l->lines);
    kv_pool_free(l->pool);
    local_use_preset(l, preset);
    l->preset_asked = true;
    l->pool = room_pool(l, budget);
    l->lines = lines_new(l->pool, l->plan.n_ctx);
    pthread_mutex_lock(&l->lock);
    stats_forget_fidelity(&l->stats);
    pthread_mutex_unlock(&l->lock);
}

/* Whether the map of a line is still wanted: any walk of that line makes it. */
static bool map_asked(struct local *l, int64_t *ret_timeline)
{
    pthread_mutex_lock(&l->lock);
    bool wanted = l->map_wanted;
    *ret_timeline = l->map_line;
    pthread_mutex_unlock(&l->lock);
    return wanted;
}

static void act(struct local *l, const struct command *c)
{
    int64_t timeline;
    pthread_mutex_lock(&l->compute);
    if (c->kind == COMMAND_FORGET)
        lines_drop(l->lines, c->timeline);
    else if (c->kind == COMMAND_PRESET)
        set_preset(l, c->preset);
    else if (c->kind == COMMAND_FIT && !room_fit_budget(l))
        goto out;
    else if (c->kind == COMMAND_TRACE) {
        trace_run(l, c->trace);
        goto out;
    } else if (c->kind == COMMAND_MAP) {
        while (map_asked(l, &timeline)) /* another one may be wanted by now */
            tell_line(l, timeline);
        goto out;
    }
    tell_line(l, l->stats.timeline);
out:
    pthread_mutex_unlock(&l->compute);
}

static void keep_all(struct local *l)
{
    pthread_mutex_lock(&l->compute);
    lines_keep(l->lines, &l->keep, -1);
    pthread_mutex_unlock(&l->compute);
}

static void *run(void *ctx)
{
    struct local *l = ctx;
    bool fresh = false; /* a turn has run since states were put */
    for (bool go = true; go;) {
        struct command *c = queue_wait(l->commands, fresh ? IDLE_MS : -1);
        if (!c) {
            if (fresh)
                keep_all(l);
            fresh = false;
            continue;
        }
        if (c->kind == COMMAND_CLOSE) {
            keep_all(l);
            go = false;
        } else if (c->kind != COMMAND_TURN && c->kind != COMMAND_VERIFY) {
            act(l, c);
        } else {
            pthread_mutex_lock(&l->compute);
            struct engine_event *last =
                c->kind == COMMAND_TURN ? turn_run(l, c->turn) : verify_run(l, c->verify);
            pthread_mutex_unlock(&l->compute);
            fresh = true;
            last->stats = mem_alloc(sizeof *last->stats);
            engine_stats(&l->base, last->stats);
            atomic_store(&l->busy, false);
            queue_push(l->events, last);
        }
        command_free(c);
    }
    return NULL;
}

enum status worker_start(struct local *l, struct err *e)
{
    l->commands = queue_new(NULL, NULL);
    /* Signals are the business of the thread that opened us. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&l->thread, NULL, run, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error)
        return err_set(e, ERR_INTERNAL, "cannot start the engine's thread: %s", strerror(error));
    l->has_thread = true;
    return OK;
}

void worker_stop(struct local *l)
{
    if (l->has_thread) {
        atomic_store(&l->closing, true);
        atomic_store(&l->cancel, true);
        push(l, (struct command){.kind = COMMAND_CLOSE});
        pthread_join(l->thread, NULL);
    }
    queue_free(l->commands, command_free);
}

/* Marks the engine busy with a job and numbers it. */
static enum status begin(struct local *l, uint64_t *ret_number, struct err *e)
{
    if (!l->has_thread)
        return err_set(e, ERR_USAGE, "the model was opened for its vocabulary only");
    bool idle = false;
    if (!atomic_compare_exchange_strong(&l->busy, &idle, true))
        return err_set(e, ERR_BUSY, "an answer is still being written; stop it or wait");
    atomic_store(&l->cancel, false);
    *ret_number = ++l->n_turn;
    return OK;
}

enum status worker_submit(struct local *l, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e)
{
    TRY(begin(l, ret_turn, e));
    push(l, (struct command){.kind = COMMAND_TURN, .turn = turn_copy(t, *ret_turn)});
    return OK;
}

enum status worker_verify(struct local *l, int64_t timeline, const int32_t *ids, int32_t n,
                          uint64_t *ret_turn, struct err *e)
{
    TRY(begin(l, ret_turn, e));
    push(l, (struct command){.kind = COMMAND_VERIFY,
                             .verify = verify_new(timeline, ids, n, *ret_turn)});
    return OK;
}

void worker_forget(struct local *l, int64_t timeline)
{
    if (l->has_thread)
        push(l, (struct command){.kind = COMMAND_FORGET, .timeline = timeline});
}

void worker_map(struct local *l, int64_t timeline)
{
    pthread_mutex_lock(&l->lock);
    bool waits = l->map_wanted; /* a command is queued, and takes the line that is wanted by then */
    l->map_line = timeline;
    l->map_wanted = l->has_thread;
    pthread_mutex_unlock(&l->lock);
    if (l->has_thread && !waits)
        push(l, (struct command){.kind = COMMAND_MAP});
}

void worker_trace(struct local *l, int64_t timeline, const int32_t *ids, int32_t n, int32_t pos)
{
    if (l->has_thread)
        push(l, (struct command){.kind = COMMAND_TRACE, .trace = trace_new(timeline, ids, n, pos)});
}

void worker_fit(struct local *l)
{
    if (l->has_thread)
        push(l, (struct command){.kind = COMMAND_FIT});
}

enum status worker_set_preset(struct local *l, const struct preset *p, struct err *e)
{
    if (!l->has_thread)
        return err_set(e, ERR_USAGE, "the model was opened for its vocabulary only");
    if (atomic_load(&l->busy))
        return err_set(e, ERR_BUSY, "an answer is still being written; stop it or wait");
    push(l, (struct command){.kind = COMMAND_PRESET, .preset = p});
    return OK;
}
