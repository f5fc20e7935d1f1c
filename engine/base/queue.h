/* Queue between threads: any number of producers, one consumer, of heap-allocated items.
 *
 * Items move by ownership: queue_push takes the pointer, queue_pop hands it on. The wake callback
 * runs on the producer's thread, only when the queue goes from empty to non-empty, and may do
 * nothing but unblock the consumer (write an eventfd, SDL_PushEvent). The lock is private. */
#ifndef ENGINE_BASE_QUEUE_H
#define ENGINE_BASE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

struct queue;

struct queue *queue_new(void (*wake)(void *ctx), void *wake_ctx); /* wake may be NULL */
void queue_free(struct queue *q, void (*item_free)(void *item));  /* NULL queue is fine */
void queue_push(struct queue *q, void *item);
void *queue_pop(struct queue *q);                    /* NULL when empty */
void *queue_wait(struct queue *q, int timeout_ms);   /* blocks; NULL on time-out; -1 = for ever */

#endif
