/* A persistent pool of worker threads for compute.
 *
 * pool_run hands the parts of a job out one by one (whoever is free takes the next), the caller
 * works too, and it returns when every part is done. Workers spin for a short while after a job,
 * because the next one usually follows within microseconds, and then sleep: an idle chat costs no
 * CPU. A worker that wakes late never delays a job that the others have finished.
 * pool_run may be called by one thread at a time and not from within a job. */
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H

struct pool;

/* part: 0..n_part-1; thread: 0..pool_threads-1, distinct among those running at the same time. */
typedef void pool_fn(void *ctx, int part, int n_part, int thread);

struct pool *pool_new(int n_thread); /* the caller counts as one; NULL when threads cannot start */
void pool_free(struct pool *p);      /* NULL is fine */
int pool_threads(const struct pool *p);
void pool_run(struct pool *p, int n_part, pool_fn *fn, void *ctx);

#endif
