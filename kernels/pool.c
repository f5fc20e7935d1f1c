#include "kernels/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(__x86_64__) || defined(__i386__)
#define cpu_pause() __builtin_ia32_pause()
#else
#define cpu_pause() ((void)0)
#endif

/* A pause takes 10 to 60 ns depending on the processor: some 50 to 300 us before a worker sleeps,
 * and a tenth of that before the caller gives its core to whoever holds up the job. */
enum { SPIN_WORKER = 5000, SPIN_CALLER = 500 };

/* The state word of the current job: its number in the high half, then a bit that says that no
 * worker may join any more, then how many have joined. */
#define JOB_ONE ((uint64_t)1 << 32)
#define JOB_CLOSED ((uint64_t)1 << 31)
#define JOB_JOINED (JOB_CLOSED - 1)

struct worker {
    struct pool *pool;
    pthread_t id;
    int thread;
};

struct pool {
    int n_thread;
    struct worker *worker; /* [n_thread - 1] */

    /* The job; written only while no worker can have joined. */
    pool_fn *fn;
    void *ctx;
    int n_part;

    _Alignas(64) atomic_int next;     /* the next part to hand out */
    _Alignas(64) _Atomic uint64_t job;
    _Alignas(64) atomic_int n_left;   /* workers that joined and have left again */
    _Alignas(64) atomic_int n_asleep;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t wake;
};

static void work(struct pool *p, int thread)
{
    int part;
    while ((part = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed)) < p->n_part)
        p->fn(p->ctx, part, p->n_part, thread);
}

/* Waits for a job (or the end) with another number than `seen`; returns its state word. */
static uint64_t await_job(struct pool *p, uint64_t seen)
{
    uint64_t job;
    for (int i = 0; i < SPIN_WORKER; i++) {
        job = atomic_load_explicit(&p->job, memory_order_acquire);
        if (job / JOB_ONE != seen)
            return job;
        cpu_pause();
    }
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->n_asleep, 1);
    while ((job = atomic_load(&p->job)) / JOB_ONE == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->n_asleep, 1);
    pthread_mutex_unlock(&p->lock);
    return job;
}

static void *run_worker(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    for (uint64_t seen = 0;;) {
        uint64_t job = await_job(p, seen);
        /* Asked only now: the end is announced once, and whoever took its number would miss it. */
        if (atomic_load(&p->stop))
            return NULL;
        seen = job / JOB_ONE;
        bool joined = false;
        while (!joined && !(job & JOB_CLOSED) && job / JOB_ONE == seen)
            joined = atomic_compare_exchange_weak_explicit(
                &p->job, &job, job + 1, memory_order_acq_rel, memory_order_acquire);
        if (joined) {
            work(p, w->thread);
            atomic_fetch_add_explicit(&p->n_left, 1, memory_order_release);
        }
    }
}

/* Starts a new job (or the end) and wakes whoever sleeps. */
static void announce(struct pool *p)
{
    uint64_t job = atomic_load_explicit(&p->job, memory_order_relaxed);
    atomic_store(&p->job, (job / JOB_ONE + 1) * JOB_ONE);
    if (atomic_load(&p->n_asleep) > 0) {
        pthread_mutex_lock(&p->lock);
        pthread_cond_broadcast(&p->wake);
        pthread_mutex_unlock(&p->lock);
    }
}

void pool_run(struct pool *p, int n_part, pool_fn *fn, void *ctx)
{
    if (p->n_thread == 1 || n_part <= 1) {
        for (int i = 0; i < n_part; i++)
            fn(ctx, i, n_part, 0);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->n_part = n_part;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->n_left, 0, memory_order_relaxed);
    announce(p);
    work(p, 0);
    uint64_t job = atomic_fetch_or_explicit(&p->job, JOB_CLOSED, memory_order_acq_rel);
    int n_joined = (int)(job & JOB_JOINED);
    for (int i = 0; atomic_load_explicit(&p->n_left, memory_order_acquire) != n_joined; i++) {
        if (i < SPIN_CALLER)
            cpu_pause();
        else
            sched_yield();
    }
}

int pool_threads(const struct pool *p)
{
    return p->n_thread;
}

struct pool *pool_new(int n_thread)
{
    struct pool *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    if (!p)
        return NULL;
    *p = (struct pool){.n_thread = 1};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->worker = calloc((size_t)(n_thread > 1 ? n_thread - 1 : 1), sizeof *p->worker);
    if (!p->worker) {
        pool_free(p);
        return NULL;
    }
    for (int i = 1; i < n_thread; i++) {
        struct worker *w = &p->worker[i - 1];
        *w = (struct worker){.pool = p, .thread = i};
        if (pthread_create(&w->id, NULL, run_worker, w) != 0) {
            pool_free(p);
            return NULL;
        }
        p->n_thread = i + 1;
    }
    return p;
}

void pool_free(struct pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    announce(p);
    for (int i = 1; i < p->n_thread; i++)
        pthread_join(p->worker[i - 1].id, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->worker);
    free(p);
}
