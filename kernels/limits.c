#include "kernels/limits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ARRAY_BYTES = 256 << 20, REPEATS = 5, ROUNDS = 1 << 22, CHAINS = 12 };

struct work {
    const uint64_t *array;
    uint64_t sink[64]; /* what the loops compute goes somewhere, or they would be dropped */
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_part(void *ctx, int part, int n_part)
{
    struct work *w = ctx;
    size_t n = ARRAY_BYTES / sizeof *w->array;
    const uint64_t *p = w->array + n / (size_t)n_part * (size_t)part;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= n / (size_t)n_part; i += 8) {
        __builtin_prefetch(p + i + 128);
        for (int k = 0; k < 8; k++)
            sum[k] += p[i + (size_t)k];
    }
    for (int k = 0; k < 8; k++)
        w->sink[part % 64] += sum[k];
}

#if defined(__x86_64__)

/* Twelve independent chains, more than latency times width, in assembly because nothing else may
 * happen in the loop. Registers 0 and 1 are the factors (whatever they hold: the speed of these
 * instructions does not depend on it), 2 to 13 the sums, 14 is spare. */
#define EACH(X) X("2") X("3") X("4") X("5") X("6") X("7") X("8") X("9") X("10") X("11") X("12") X("13")

#define PEAK(name, reg, step)                                                                      \
    static void name(void *ctx, int part, int n_part)                                              \
    {                                                                                              \
        uint64_t n = ROUNDS;                                                                       \
        __asm__ volatile(                                                                          \
            EACH(CLEAR_##reg) "vpxor %%xmm0, %%xmm0, %%xmm0\n\tvpxor %%xmm1, %%xmm1, %%xmm1\n"     \
                              "1:\n\t" EACH(step) "dec %0\n\tjnz 1b"                              \
            : "+r"(n)                                                                              \
            :                                                                                      \
            : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",      \
              "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "cc");                                  \
        (void)ctx, (void)part, (void)n_part;                                                       \
    }

#define CLEAR_ymm(k) "vpxor %%xmm" k ", %%xmm" k ", %%xmm" k "\n\t"
#define STEP_INT8(k) "vpmaddubsw %%ymm0, %%ymm1, %%ymm14\n\tvpaddw %%ymm14, %%ymm" k ", %%ymm" k "\n\t"
#define STEP_INT8_WIDE(k) "vpdpbusd %%zmm0, %%zmm1, %%zmm" k "\n\t"

PEAK(int8_part, ymm, STEP_INT8)
PEAK(int8_wide_part, ymm, STEP_INT8_WIDE)

#endif

/* The best of a few runs: a limit is what the machine can do, not what it did while disturbed. */
static double best_s(struct kern *k, void (*fn)(void *, int, int), struct work *w)
{
    double best = INFINITY;
    for (int i = 0; i < REPEATS; i++) {
        double start = now_s();
        kern_parallel(k, k->n_thread, fn, w);
        best = fmin(best, now_s() - start);
    }
    return best;
}

/* A device copies its memory: bytes read and written count. */
static bool measure_device(struct kern *k, struct limits *ret)
{
    enum { COPIES = 20 };
    size_t size = (size_t)ARRAY_BYTES;
    void *a = k->ops->alloc(k, size), *b = k->ops->alloc(k, size);
    *ret = (struct limits){.int8_gops = NAN};
    double best = INFINITY;
    for (int i = 0; a && b && i < REPEATS; i++) {
        k->ops->sync(k);
        double start = now_s();
        for (int j = 0; j < COPIES; j++)
            k->ops->copy(k, j % 2 ? a : b, j % 2 ? b : a, size);
        k->ops->sync(k);
        best = fmin(best, now_s() - start);
    }
    ret->read_gbps = 2.0 * COPIES * (double)size / best / 1e9;
    bool ok = a && b;
    k->ops->free(k, a);
    k->ops->free(k, b);
    return ok;
}

bool limits_measure(struct kern *k, struct limits *ret)
{
    if (k->device)
        return measure_device(k, ret);
    struct work w = {0};
    uint64_t *array = aligned_alloc(64, ARRAY_BYTES);
    if (!array)
        return false;
    memset(array, 1, ARRAY_BYTES);
    w.array = array;
    *ret = (struct limits){.int8_gops = NAN};
    ret->read_gbps = ARRAY_BYTES / best_s(k, read_part, &w) / 1e9;
#if defined(__x86_64__)
    double steps = (double)ROUNDS * CHAINS * k->n_thread;
    if (__builtin_cpu_supports("avx512vnni"))
        ret->int8_gops = steps * 128 / best_s(k, int8_wide_part, &w) / 1e9;
    else if (__builtin_cpu_supports("avx2"))
        ret->int8_gops = steps * 64 / best_s(k, int8_part, &w) / 1e9;
#endif
    free(array);
    return true;
}
