#include "sessions/writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/mem.h"

enum {
    WRITER_BATCH = 64,        /* commands in one transaction */
    WRITER_RETRY_MS = 1000,   /* while the disk is full or the file is locked */
    WRITER_CLOSE_TRIES = 3,   /* before close gives up on a disk that stays full */
};

struct writer {
    pthread_t thread;
    pthread_mutex_t lock; /* protects everything below */
    pthread_cond_t work;  /* something was queued, or stop */
    pthread_cond_t done;  /* a batch ended */
    struct command *first, *last;
    bool stop;
    bool busy;  /* a batch is being applied */
    bool stuck; /* the last batch failed and waits to be tried again */
};

static void command_free(struct command *c)
{
    free((void *)c->text);
    free((void *)c->ids);
    free((void *)c->word);
    free(c);
}

/* Takes the commands that go into the next transaction off the queue. */
static struct command *batch_take(struct writer *w)
{
    struct command *head = w->first, *c = head;
    if (!head->bare)
        for (int n = 1; n < WRITER_BATCH && c->next && !c->next->bare; n++)
            c = c->next;
    w->first = c->next;
    if (!w->first)
        w->last = NULL;
    c->next = NULL;
    return head;
}

/* Applies one batch; OK means committed, every command carries its own status. */
static enum status batch_apply(struct sessions *s, struct command *head, struct err *e)
{
    if (head->bare) {
        head->status = head->run(s, head, &head->err);
        return OK;
    }
    TRY(db_exec(s->w, "BEGIN IMMEDIATE", e));
    enum status st = OK;
    struct err ignored;
    for (struct command *c = head; c && st == OK; c = c->next) {
        st = db_exec(s->w, "SAVEPOINT command", e);
        if (st != OK)
            break;
        c->status = c->run(s, c, &c->err);
        if (c->status == OK) {
            st = db_exec(s->w, "RELEASE command", e);
        } else if (db_passing(&c->err)) {
            *e = c->err;
            st = c->status;
        } else {
            /* Damage or a full disk may have ended the transaction by itself. */
            if (sqlite3_get_autocommit(db_handle(s->w)))
                st = err_set(e, ERR_IO, "%s", c->err.text);
            else
                st = db_exec(s->w, "ROLLBACK TO command; RELEASE command", e);
        }
    }
    if (st == OK)
        st = db_exec(s->w, "COMMIT", e);
    if (st != OK && !sqlite3_get_autocommit(db_handle(s->w)))
        db_exec(s->w, "ROLLBACK", &ignored);
    return st;
}

/* After a committed batch: waiting callers get their result, posted commands are freed. */
static void batch_finish(struct sessions *s, struct command *head)
{
    for (struct command *c = head, *next; c; c = next) {
        next = c->next;
        if (c->waited) {
            c->finished = true; /* c is the caller's from here on */
            continue;
        }
        if (c->status != OK)
            store_trouble(s, &c->err);
        command_free(c);
    }
}

/* After a batch that could not be committed: callers fail, posted commands go back to the front. */
static void batch_return(struct writer *w, struct command *head, const struct err *e)
{
    struct command *keep = NULL, **tail = &keep, *all[2] = {head, w->first};
    w->last = NULL;
    for (int i = 0; i < 2; i++) {
        for (struct command *c = all[i], *next; c; c = next) {
            next = c->next;
            if (c->waited) {
                c->status = e->code;
                c->err = *e;
                c->finished = true;
                continue;
            }
            *tail = c;
            tail = &c->next;
            w->last = c;
        }
    }
    *tail = NULL;
    w->first = keep;
}

static void wait_retry(struct writer *w)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += WRITER_RETRY_MS / 1000;
    pthread_cond_timedwait(&w->work, &w->lock, &t);
}

static void *writer_main(void *arg)
{
    struct sessions *s = arg;
    struct writer *w = s->writer;
    int tries = 0; /* since stop was asked for */
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->first && !w->stop)
            pthread_cond_wait(&w->work, &w->lock);
        if (!w->first || (w->stop && tries == WRITER_CLOSE_TRIES))
            break;
        struct command *head = batch_take(w);
        w->busy = true;
        pthread_mutex_unlock(&w->lock);

        struct err e;
        enum status st = batch_apply(s, head, &e);
        if (st != OK)
            store_trouble(s, &e);

        pthread_mutex_lock(&w->lock);
        w->busy = false;
        w->stuck = st != OK;
        if (st == OK)
            batch_finish(s, head);
        else
            batch_return(w, head, &e);
        pthread_cond_broadcast(&w->done);
        if (w->stuck) {
            tries += w->stop;
            if (w->first)
                wait_retry(w);
            else
                w->stuck = false; /* only callers were affected, and they know */
        }
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

void writer_stop(struct sessions *s)
{
    struct writer *w = s->writer;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    for (struct command *c = w->first, *next; c; c = next) {
        next = c->next;
        command_free(c);
    }
    pthread_cond_destroy(&w->work);
    pthread_cond_destroy(&w->done);
    pthread_mutex_destroy(&w->lock);
    free(w);
    s->writer = NULL;
}

static void enqueue(struct writer *w, struct command *c)
{
    c->next = NULL;
    if (w->last)
        w->last->next = c;
    else
        w->first = c;
    w->last = c;
    pthread_cond_signal(&w->work);
}

enum status writer_call(struct sessions *s, struct command *c, struct err *e)
{
    struct writer *w = s->writer;
    if (!w)
        return err_set(e, ERR_IO, "%s is read-only: copy it to a place that can be written",
                       s->path);
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
static bool replace_latest(struct writer *w, struct command *fresh)
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
        struct err e;
        err_set(&e, ERR_IO, "%s is read-only: this is not saved", s->path);
        store_trouble(s, &e);
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
    pthread_mutex_lock(&w->lock);
    if (!(copy->latest && replace_latest(w, copy)))
        enqueue(w, copy);
    pthread_mutex_unlock(&w->lock);
}

void writer_drain(struct sessions *s)
{
    struct writer *w = s->writer;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    while ((w->first || w->busy) && !w->stuck)
        pthread_cond_wait(&w->done, &w->lock);
    pthread_mutex_unlock(&w->lock);
}
