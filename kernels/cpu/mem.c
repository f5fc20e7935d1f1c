/* The ops that need no instruction set: device memory on the CPU is memory, and page_seal picks its
 * own. */
#include "kernels/cpu/ops.h"
#include "kernels/page.h"

#include <stdlib.h>
#include <string.h>

void *mem_op_alloc(struct kern *k, size_t size_bytes)
{
    if (size_bytes > SIZE_MAX - 63)
        return NULL;
    size_t whole = (size_bytes + 63) / 64 * 64;
    return aligned_alloc(64, whole ? whole : 64);
}

void mem_op_free(struct kern *k, void *dev)
{
    free(dev);
}

void mem_op_upload(struct kern *k, void *dev, const void *host, size_t size_bytes)
{
    memcpy(dev, host, size_bytes);
}

void mem_op_download(struct kern *k, void *host, const void *dev, size_t size_bytes)
{
    memcpy(host, dev, size_bytes);
}

void mem_op_copy(struct kern *k, void *dev, const void *from_dev, size_t size_bytes)
{
    memcpy(dev, from_dev, size_bytes);
}

void mem_op_clear(struct kern *k, void *dev, size_t size_bytes)
{
    memset(dev, 0, size_bytes);
}

void mem_op_sync(struct kern *k)
{
}

const char *mem_op_error(struct kern *k)
{
    return NULL;
}

struct seal_all {
    const struct kern_seal *jobs;
    struct page_shape shape;
    uint32_t flags;
};

static void seal_part(void *ctx, int part, int n_part)
{
    const struct seal_all *all = ctx;
    const struct kern_seal *job = &all->jobs[part];
    page_seal(job->page, &all->shape, all->flags, job->n_skip, job->k, job->v);
}

void mem_op_seal(struct kern *k, const struct kern_seal *jobs, int32_t n, int32_t head_dim,
                 int32_t bits_k, int32_t bits_v, uint32_t flags)
{
    struct seal_all all = {jobs, {head_dim, bits_k, bits_v}, flags};
    kern_parallel(k, n, seal_part, &all);
}

static void demote_part(void *ctx, int part, int n_part)
{
    const struct kern_demote *job = (const struct kern_demote *)ctx + part;
    page_demote(job->page, job->bits_k, job->bits_v);
}

void mem_op_demote(struct kern *k, const struct kern_demote *jobs, int32_t n)
{
    kern_parallel(k, n, demote_part, (void *)jobs);
}
