/* What the CPU ops share: the private part of `struct kern` on the CPU. Internal to kernels/.
 *
 * An op gets `struct kern *`, calls cpu_of, and spreads work with pool_run(cpu_of(k)->pool, ...).
 * Ops allocate nothing: cpu_scratch is a thread's own buffer, valid until the job's end. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/kernels.h"
#include "kernels/pool.h"

enum { CPU_SCRATCH_BYTES = 2628 << 10 }; /* per thread; 64-byte aligned; contents undefined */

enum {
    CPU_ROPE_MAX = 576,        /* rotated channels of a head: PAGE_HEAD_DIM_MAX */
    CPU_ROPE_FLOATS = 1 << 19, /* 4096 tokens of 64 rotated channels */
    CPU_HEAD_MAX = 1024        /* channels of a head */
};

/* cos and sin of the last rope call: every layer of a step asks for the same positions. */
struct cpu_rope_table {
    float *factor; /* [CPU_ROPE_FLOATS]: rows of 2 * n_rot, see elementwise_flow.h */
    float freq[CPU_ROPE_MAX / 2];
    int32_t n_tok, pos0, n_rot; /* n_tok 0: empty */
    enum kern_rope_mode mode;
    float mscale;
};

struct kern_cpu {
    struct kern base; /* first: a struct kern * of this backend points here */
    struct kern_ops own_ops; /* of "ref32": the plain table with two entries changed */
    struct pool *pool;
    uint8_t *scratch;      /* [n_thread][CPU_SCRATCH_BYTES] */
    void *act;             /* the quantised input of one block of tokens: matmul's own */
    size_t act_bytes;
    struct cpu_rope_table rope;
};

static inline struct kern_cpu *cpu_of(struct kern *k)
{
    return (struct kern_cpu *)k;
}

/* The scratch of the thread number that pool_run hands to a job. */
static inline void *cpu_scratch(struct kern *k, int thread)
{
    return cpu_of(k)->scratch + (size_t)thread * CPU_SCRATCH_BYTES;
}

#endif
