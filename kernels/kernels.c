/* Opening a CPU backend: which op table, how many threads, the memory the ops share. */
#include "kernels/cpu/isa.h"
#include "kernels/cpu/ops.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    enum isa isa;
    const struct kern_ops *ops;
} backends[] = {
    {"ref32", ISA_REF, NULL},
    {"ref", ISA_REF, &ops_ref},
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, &ops_avx2},
    {"avx512", ISA_AVX512, &ops_avx512},
    {"amx", ISA_AMX, &ops_amx},
#endif
};

enum { N_BACKEND = sizeof backends / sizeof *backends };

struct kern *kern_open_cpu(const char *isa, int32_t n_thread)
{
    if (!isa || !*isa)
        isa = getenv("KERNELS");
    enum isa best = isa_best();
    int pick = -1;
    for (int i = 0; i < N_BACKEND; i++)
        if (backends[i].isa <= best && (!isa || !*isa || strcmp(isa, backends[i].name) == 0))
            pick = i;
    if (pick < 0)
        return NULL;
    if (n_thread <= 0)
        n_thread = isa_cores();

    struct kern_cpu *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->pool = pool_new(n_thread);
    c->scratch = aligned_alloc(64, (size_t)n_thread * CPU_SCRATCH_BYTES);
    c->rope.factor = aligned_alloc(64, CPU_ROPE_FLOATS * sizeof(float));
    if (!c->pool || !c->scratch || !c->rope.factor) {
        cpu_op_close(&c->base);
        return NULL;
    }
    c->base.ops = backends[pick].ops;
    c->base.kv_bytes = 2;
    if (!c->base.ops) {
        ref32_ops(&c->own_ops);
        c->base.ops = &c->own_ops;
        c->base.kv_bytes = 4;
    }
    c->base.name = backends[pick].name;
    c->base.n_thread = n_thread;
    return &c->base;
}

void cpu_op_close(struct kern *k)
{
    struct kern_cpu *c = cpu_of(k);
    pool_free(c->pool);
    free(c->scratch);
    free(c->act);
    free(c->rope.factor);
    free(c);
}

void kern_close(struct kern *k)
{
    if (!k)
        return;
    struct kern *host = k->host;
    k->ops->close(k);
    kern_close(host);
}

struct parallel_job {
    void (*fn)(void *ctx, int part, int n_part);
    void *ctx;
};

static void run_part(void *ctx, int part, int n_part, int thread)
{
    struct parallel_job *job = ctx;
    job->fn(job->ctx, part, n_part);
}

void kern_parallel(struct kern *k, int n_part, void (*fn)(void *ctx, int part, int n_part),
                   void *ctx)
{
    struct parallel_job job = {fn, ctx};
    pool_run(cpu_of(k->device ? k->host : k)->pool, n_part, run_part, &job);
}
