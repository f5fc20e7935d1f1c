#include "engine/base/queue.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/mem.h"

struct node {
    struct node *next;
    void *item;
};

struct queue {
    pthread_mutex_t lock; /* protects everything below; leaf lock */
    pthread_cond_t filled;
    struct node *first, *last;
    size_t len;
    void (*wake)(void *ctx);
    void *wake_ctx;
};

struct queue *queue_new(void (*wake)(void *ctx), void *wake_ctx)
{
    struct queue *q = mem_calloc(1, sizeof *q);
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->filled, &attr);
    pthread_condattr_destroy(&attr);
    q->wake = wake;
    q->wake_ctx = wake_ctx;
    return q;
}

void queue_free(struct queue *q, void (*item_free)(void *item))
{
    if (!q)
        return;
    void *item;
    while ((item = queue_pop(q)))
        if (item_free)
            item_free(item);
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

void queue_push(struct queue *q, void *item)
{
    struct node *n = mem_alloc(sizeof *n);
    n->next = NULL;
    n->item = item;
    pthread_mutex_lock(&q->lock);
    bool was_empty = !q->first;
    if (q->last)
        q->last->next = n;
    else
        q->first = n;
    q->last = n;
    q->len++;
    pthread_cond_signal(&q->filled);
    pthread_mutex_unlock(&q->lock);
    if (was_empty && q->wake)
        q->wake(q->wake_ctx);
}

static void *pop_locked(struct queue *q)
{
    struct node *n = q->first;
    if (!n)
        return NULL;
    q->first = n->next;
    if (!q->first)
        q->last = NULL;
    q->len--;
    void *item = n->item;
    free(n);
    return item;
}

void *queue_pop(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    void *item = pop_locked(q);
    pthread_mutex_unlock(&q->lock);
    return item;
}

void *queue_wait(struct queue *q, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000L;
        }
    }
    pthread_mutex_lock(&q->lock);
    while (!q->first) {
        if (timeout_ms < 0)
            pthread_cond_wait(&q->filled, &q->lock);
        else if (pthread_cond_timedwait(&q->filled, &q->lock, &until) == ETIMEDOUT)
            break;
    }
    void *item = pop_locked(q);
    pthread_mutex_unlock(&q->lock);
    return item;
}
