/* The engine's thread: takes commands in order. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/local.h"
#include "engine/turn.h"

enum { IDLE_MS = 30000 }; /* after so long without a turn the state of timelines goes to disk */

enum command_kind { COMMAND_TURN, COMMAND_FORGET, COMMAND_CLOSE };

struct command {
    enum command_kind kind;
    struct turn *turn;
    int64_t timeline;
};

static void command_free(void *item)
{
    struct command *c = item;
    turn_free(c->turn);
    free(c);
}

static void push(struct local *l, enum command_kind kind, struct turn *turn, int64_t timeline)
{
    struct command *c = mem_calloc(1, sizeof *c);
    *c = (struct command){kind, turn, timeline};
    queue_push(l->commands, c);
}

static void forget(struct local *l, int64_t timeline)
{
    pthread_mutex_lock(&l->compute);
    lines_drop(l->lines, timeline);
    uint64_t bytes = kv_pool_bytes(l->pool);
    pthread_mutex_unlock(&l->compute);
    pthread_mutex_lock(&l->lock);
    l->stats.kv_bytes = (int64_t)bytes;
    pthread_mutex_unlock(&l->lock);
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
        } else if (c->kind == COMMAND_FORGET) {
            forget(l, c->timeline);
        } else {
            pthread_mutex_lock(&l->compute);
            struct engine_event *last = turn_run(l, c->turn);
            pthread_mutex_unlock(&l->compute);
            fresh = true;
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
        push(l, COMMAND_CLOSE, NULL, 0);
        pthread_join(l->thread, NULL);
    }
    queue_free(l->commands, command_free);
}

enum status worker_submit(struct local *l, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e)
{
    if (!l->has_thread)
        return err_set(e, ERR_USAGE, "the model was opened for its vocabulary only");
    bool idle = false;
    if (!atomic_compare_exchange_strong(&l->busy, &idle, true))
        return err_set(e, ERR_BUSY, "an answer is still being written; stop it or wait");
    atomic_store(&l->cancel, false);
    uint64_t number = ++l->n_turn;
    push(l, COMMAND_TURN, turn_copy(t, number), t->timeline);
    *ret_turn = number;
    return OK;
}

void worker_forget(struct local *l, int64_t timeline)
{
    if (l->has_thread)
        push(l, COMMAND_FORGET, NULL, timeline);
}
