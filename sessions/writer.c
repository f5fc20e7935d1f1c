#include "sessions/writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/kvstore.h"

enum {
    WRITER_BATCH = 64,      /* commands in one transaction */
    WRITER_RETRY_MS = 1000, /* while the disk is full or the file is locked */
    WRITER_CLOSE_TRIES = 3, /* before close gives up on a disk that stays full */
    WRITER_BATCH_BYTES = 8 << 20,
    WRITER_LAZY_MS = 1000,       /* pages sealed within so long share a transaction ... */
    WRITER_LAZY_BYTES = 4 << 20, /* ... unless there are so many bytes of them */
};
/* Queued KV beyond this is not taken: the disk cannot keep up. */
static const size_t writer_kv_limit_bytes = (size_t)512 << 20;

struct lane {
    struct command *first, *last;
    size_t size_bytes;         /* of the queued commands' more */
    uint64_t n_posted, n_done; /* commands; applied in order, so n_done tells which */
    uint64_t n_shown;          /* n_posted after the last command that readers wait for */
    struct command *applying;  /* a batch off the queue; its arguments do not change meanwhile */
    bool stuck;                /* the last batch failed and waits to be tried again */
    int64_t due_ms;            /* not before; CLOCK_MONOTONIC */
    int tries;                 /* that failed since stop was asked for */
};

struct writer {
    pthread_t thread;
    pthread_mutex_t lock; /* protects everything below */
    pthread_cond_t work;  /* something was queued, or stop */
    pthread_cond_t done;  /* a batch ended */
    struct lane lane[WRITER_LANES];
    bool stop;
};

static void command_free(struct command *c)
{
    free((void *)c->text);
    free((void *)c->ids);
    free((void *)c->word);
    if (c->more_free)
        c->more_free(c->more);
    free(c);
}

/* Takes the commands that go into the next transaction off the queue. */
static struct command *batch_take(struct lane *w)
{
    struct command *head = w->first, *c = head;
    size_t size_bytes = c->size_bytes;
    for (int n = 1; !head->bare && n < WRITER_BATCH && c->next && !c->next->bare; n++) {
        if (size_bytes + c->next->size_bytes > WRITER_BATCH_BYTES)
            break;
        c = c->next;
        size_bytes += c->size_bytes;
    }
    w->size_bytes -= size_bytes;
    w->first = c->next;
    if (!w->first)
        w->last = NULL;
    c->next = NULL;
    return head;
}

/* Applies one batch; OK means committed, every command carries its own status. */
static enum status batch_apply(struct sessions *s, struct command *head, struct err *e)
{
    struct db *d = head->lane == WRITER_KV ? kvstore_writer(s->kv) : s->w;
    if (!d)
        return err_set(e, ERR_FORMAT, "KV is not kept: its file is out of use");
    if (head->bare) {
        head->status = head->run(s, head, &head->err);
        return OK;
    }
    TRY(db_exec(d, "BEGIN IMMEDIATE", e));
    enum status st = OK;
    bool together = head->lane == WRITER_KV; /* one that fails undoes the batch: no savepoints */
    for (struct command *c = head; c && st == OK; c = c->next) {
        if (!together && (st = db_exec(d, "SAVEPOINT command", e)) != OK)
            break;
        c->status = c->run(s, c, &c->err);
        if (c->status == OK) {
            if (!together)
                st = db_exec(d, "RELEASE command", e);
        } else if (db_passing(&c->err) || together) {
            *e = c->err;
            st = c->status;
        } else if (sqlite3_get_autocommit(db_handle(d))) {
            /* Damage can end the transaction by itself, and with it what others did. */
            st = err_set(e, ERR_IO, "%s", c->err.text);
        } else {
            st = db_exec(d, "ROLLBACK TO command; RELEASE command", e);
        }
    }
    return db_end(d, st, e);
}

/* After a committed batch: waiting callers get their result, posted commands are freed. */
static void batch_finish(struct sessions *s, struct lane *lane, struct command *head)
{
    for (struct command *c = head, *next; c; c = next) {
        next = c->next;
        lane->n_done++;
        if (c->waited) {
            c->finished = true; /* c is the caller's from here on */
            continue;
        }
        if (c->status != OK)
            store_trouble(s, &c->err);
        command_free(c);
    }
}

/* After a batch that could not be committed: callers fail; posted text goes back to the front. */
static void batch_return(struct lane *w, struct command *head, const struct err *e)
{
    struct command *keep = NULL, **tail = &keep, *all[2] = {head, w->first};
    bool give_up = head->lane == WRITER_KV && e->code != ERR_BUSY;
    w->last = NULL;
    w->size_bytes = 0;
    for (int i = 0; i < 2; i++) {
        for (struct command *c = all[i], *next; c; c = next) {
            next = c->next;
            if (c->waited) {
                c->status = e->code;
                c->err = *e;
                c->finished = true;
                w->n_done++;
                continue;
            }
            if (give_up && i == 0) {
                w->n_done++;
                command_free(c);
                continue;
            }
            *tail = c;
            tail = &c->next;
            w->last = c;
            w->size_bytes += c->size_bytes;
        }
    }
    *tail = NULL;
    w->first = keep;
}

static int64_t clock_ms(void)
{
    return (int64_t)(1e3 * clock_s());
}

static void wait_until(struct writer *w, int64_t at_ms)
{
    struct timespec t = {at_ms / 1000, at_ms % 1000 * 1000000};
    pthread_cond_timedwait(&w->work, &w->lock, &t);
}

static bool has_work(const struct lane *lane)
{
    return lane->first && lane->tries < WRITER_CLOSE_TRIES;
}

/* The lane whose work is due first, text before KV; NULL when there is no work. */
static struct lane *lane_next(struct writer *w)
{
    struct lane *text = &w->lane[WRITER_TEXT], *kv = &w->lane[WRITER_KV];
    if (!has_work(text) || !has_work(kv))
        return has_work(text) ? text : has_work(kv) ? kv : NULL;
    return text->due_ms <= clock_ms() || text->due_ms <= kv->due_ms ? text : kv;
}

static void serve(struct sessions *s, struct writer *w, struct lane *lane)
{
    struct err e;
    struct command *head = lane->applying = batch_take(lane);
    pthread_mutex_unlock(&w->lock);
    /* A store in memory is one connection: its readers must not see half a batch. */
    bool shared = s->r == s->w;
    if (shared)
        pthread_mutex_lock(&s->r_lock);
    enum status st = batch_apply(s, head, &e);
    if (shared)
        pthread_mutex_unlock(&s->r_lock);
    while (st != OK && kvstore_yield(s, head->lane))
        st = batch_apply(s, head, &e);
    if (st != OK) {
        store_trouble(s, &e);
        if (head->lane == WRITER_KV && kvstore_failed(s, &e) && (st = batch_apply(s, head, &e)) != OK)
            store_trouble(s, &e);
    }
    if (st == OK && head->lane == WRITER_KV)
        thin_after_batch(s);
    pthread_mutex_lock(&w->lock);
    lane->applying = NULL;
    if (st == OK)
        batch_finish(s, lane, head);
    else
        batch_return(lane, head, &e);
    lane->stuck = st != OK && lane->first;
    if (lane->stuck)
        lane->due_ms = clock_ms() + WRITER_RETRY_MS;
    lane->tries += st != OK && w->stop;
    pthread_cond_broadcast(&w->done);
}

static void *writer_main(void *arg)
{
    struct sessions *s = arg;
    struct writer *w = s->writer;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct lane *lane = lane_next(w);
        if (lane && lane->due_ms <= clock_ms())
            serve(s, w, lane);
        else if (lane)
            wait_until(w, lane->due_ms);
        else if (w->stop)
            break;
        else
            pthread_cond_wait(&w->work, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

enum status writer_start(struct sessions *s, struct err *e)
{
    struct writer *w = mem_calloc(1, sizeof *w);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, &attr);
    pthread_cond_init(&w->done, &attr);
    pthread_condattr_destroy(&attr);
    s->writer = w;
    if (pthread_create(&w->thread, NULL, writer_main, s) != 0) {
        s->writer = NULL;
        free(w);
        return err_set(e, ERR_MEMORY, "cannot start the store's thread: %s", strerror(errno));
    }
    return OK;
}

static void drop_chores(struct lane *lane)
{
    struct command **at = &lane->first, *c;
    lane->last = NULL;
    while ((c = *at)) {
        if (c->chore) {
            *at = c->next;
            lane->n_done++;
            command_free(c);
        } else {
            lane->last = c;
            at = &c->next;
        }
    }
}

void writer_stop(struct sessions *s)
{
    struct writer *w = s->writer;
    if (!w || w->stop)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    drop_chores(&w->lane[WRITER_KV]);
    for (int i = 0; i < WRITER_LANES; i++)
        w->lane[i].due_ms = 0;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
}

void writer_free(struct sessions *s)
{
    struct writer *w = s->writer;
    if (!w)
        return;
    writer_stop(s);
    for (int i = 0; i < WRITER_LANES; i++) {
        for (struct command *c = w->lane[i].first, *next; c; c = next) {
            next = c->next;
            command_free(c);
        }
    }
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->done);
    pthread_mutex_destroy(&w->lock);
    free(w);
    s->writer = NULL;
}

static void enqueue(struct writer *w, struct command *c)
{
    struct lane *lane = &w->lane[c->lane];
    bool lazy = c->lazy && lane->size_bytes + c->size_bytes < WRITER_LAZY_BYTES && !w->stop;
    int64_t due_ms = clock_ms() + (lazy ? WRITER_LAZY_MS : 0);
    if (!lane->first || due_ms < lane->due_ms)
        lane->due_ms = due_ms;
    c->next = NULL;
    if (lane->last)
        lane->last->next = c;
    else
        lane->first = c;
    lane->last = c;
    lane->n_posted++;
    if (!c->aside && !c->chore)
        lane->n_shown = lane->n_posted;
    lane->size_bytes += c->size_bytes;
    pthread_cond_signal(&w->work);
}

enum status writer_call(struct sessions *s, struct command *c, struct err *e)
{
    struct writer *w = s->writer;
    if (!w) {
        *e = s->why;
        return e->code;
    }
    c->waited = true;
    c->finished = false;
    c->status = OK;
    pthread_mutex_lock(&w->lock);
    enqueue(w, c);
    while (!c->finished)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
    if (c->status != OK)
        *e = c->err;
    return c->status;
}

/* Streaming posts the whole answer again and again: only the newest one has to be written, so that
 * a disk that stays full does not make the queue grow. */
static bool replace_latest(struct lane *w, struct command *fresh)
{
    struct command *match = NULL, *before = NULL, *prev = NULL;
    for (struct command *c = w->first; c; prev = c, c = c->next) {
        if (c->latest && !c->waited && c->run == fresh->run && c->message == fresh->message) {
            match = c;
            before = prev;
        }
    }
    if (!match)
        return false;
    fresh->next = match->next;
    if (before)
        before->next = fresh;
    else
        w->first = fresh;
    if (w->last == match)
        w->last = fresh;
    command_free(match);
    return true;
}

void writer_post(struct sessions *s, const struct command *c)
{
    struct writer *w = s->writer;
    if (!w) {
        store_trouble(s, &s->why);
        if (c->more_free)
            c->more_free(c->more);
        return;
    }
    struct command *copy = mem_alloc(sizeof *copy);
    *copy = *c;
    copy->waited = false;
    copy->text = c->text ? mem_strndup(c->text, c->len) : NULL;
    copy->word = mem_strdup(c->word);
    copy->ids = NULL;
    if (c->n_id > 0 && c->ids) {
        int32_t *ids = mem_alloc((size_t)c->n_id * sizeof *ids);
        memcpy(ids, c->ids, (size_t)c->n_id * sizeof *ids);
        copy->ids = ids;
    }
    struct lane *lane = &w->lane[c->lane];
    pthread_mutex_lock(&w->lock);
    bool late = c->chore && w->stop;
    bool full = c->size_bytes && lane->size_bytes + c->size_bytes > writer_kv_limit_bytes;
    if (!full && !late && !(copy->latest && replace_latest(lane, copy)))
        enqueue(w, copy);
    pthread_mutex_unlock(&w->lock);
    if (late)
        command_free(copy);
    if (full) {
        struct err e;
        err_set(&e, ERR_IO, "the disk is too slow to keep KV: parts will be read again");
        store_trouble(s, &e);
        command_free(copy);
    }
}

static void drain(struct writer *w, struct lane *lane, bool shown_only)
{
    pthread_mutex_lock(&w->lock);
    uint64_t until = shown_only ? lane->n_shown : lane->n_posted;
    if (lane->n_done < until && lane->first && !lane->stuck) {
        lane->due_ms = 0;
        pthread_cond_signal(&w->work);
    }
    while (lane->n_done < until && (lane->first || lane->applying) && !lane->stuck)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
}

void writer_drain(struct sessions *s, enum writer_lane which)
{
    if (s->writer)
        drain(s->writer, &s->writer->lane[which], false);
}

void writer_drain_shown(struct sessions *s, enum writer_lane which)
{
    if (s->writer)
        drain(s->writer, &s->writer->lane[which], true);
}

bool writer_idle(struct sessions *s, enum writer_lane which)
{
    if (!s->writer)
        return true;
    pthread_mutex_lock(&s->writer->lock);
    const struct lane *lane = &s->writer->lane[which];
    bool idle = !lane->first && !lane->applying;
    pthread_mutex_unlock(&s->writer->lock);
    return idle;
}

void writer_pending(struct sessions *s, enum writer_lane which,
                    void (*visit)(void *ctx, const struct command *c), void *ctx)
{
    struct writer *w = s->writer;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    const struct command *first[2] = {w->lane[which].applying, w->lane[which].first};
    for (int i = 0; i < 2; i++)
        for (const struct command *c = first[i]; c; c = c->next)
            visit(ctx, c);
    pthread_mutex_unlock(&w->lock);
}

void writer_hold(struct sessions *s)
{
    struct writer *w = s->writer;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    while (w->lane[WRITER_TEXT].applying || w->lane[WRITER_KV].applying)
        pthread_cond_wait(&w->done, &w->lock);
}

void writer_release(struct sessions *s)
{
    if (s->writer)
        pthread_mutex_unlock(&s->writer->lock);
}
