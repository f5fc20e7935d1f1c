/* The op tables of the CPU backend and the plain ops that every table may fall back on.
 * Internal to kernels/. */
#ifndef KERNELS_CPU_OPS_H
#define KERNELS_CPU_OPS_H

#include "kernels/cpu/cpu.h"

extern const struct kern_ops ops_ref;
#if defined(__x86_64__)
extern const struct kern_ops ops_avx2;
extern const struct kern_ops ops_avx512;
#endif

/* Memory (mem.c): the device is the host. */
void *mem_op_alloc(struct kern *k, size_t size_bytes);
void mem_op_free(struct kern *k, void *dev);
void mem_op_upload(struct kern *k, void *dev, const void *host, size_t size_bytes);
void mem_op_download(struct kern *k, void *host, const void *dev, size_t size_bytes);
void mem_op_sync(struct kern *k);

#endif
