/* Device memory on the CPU is memory. */
#include "kernels/cpu/ops.h"

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

void mem_op_sync(struct kern *k)
{
}
