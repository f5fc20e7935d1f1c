/* The kernel ladder: every weight type's matrix product, prompt and single token, as operations
 * and bytes per second and as fractions of what this machine can do, measured here.
 *
 * usage: bench_matmul [-t THREADS] [-k ISA] [-n TOKENS] [TYPE...]
 * Shapes are the large matrices of a 1B llama. A multiply and an add are two operations; bytes
 * are those of the file's blocks. Best of several repeats, as limits are best cases too. */
#include "engine/base/clock.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_ROW = 8192, N_COL = 2048, COPIES = 8, REPEATS = 5 };

/* Operations per second of the widest 8-bit multiply-add of a thread, from registers. */
__attribute__((target("avx2"))) static void spin_avx2(void *ctx, int part, int n_part)
{
    for (long i = 0; i < 2000000; i++)
        __asm__ volatile(
            "vpmaddubsw %%ymm0,%%ymm1,%%ymm2\n vpmaddubsw %%ymm0,%%ymm1,%%ymm3\n"
            "vpmaddubsw %%ymm0,%%ymm1,%%ymm4\n vpmaddubsw %%ymm0,%%ymm1,%%ymm5\n"
            "vpmaddubsw %%ymm0,%%ymm1,%%ymm6\n vpmaddubsw %%ymm0,%%ymm1,%%ymm7\n"
            "vpmaddubsw %%ymm0,%%ymm1,%%ymm8\n vpmaddubsw %%ymm0,%%ymm1,%%ymm9\n" ::
                : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9");
}

__attribute__((target("avx512f,avx512vnni"))) static void spin_avx512(void *ctx, int part,
                                                                      int n_part)
{
    for (long i = 0; i < 2000000; i++)
        __asm__ volatile(
            "vpdpbusd %%zmm0,%%zmm1,%%zmm2\n vpdpbusd %%zmm0,%%zmm1,%%zmm3\n"
            "vpdpbusd %%zmm0,%%zmm1,%%zmm4\n vpdpbusd %%zmm0,%%zmm1,%%zmm5\n"
            "vpdpbusd %%zmm0,%%zmm1,%%zmm6\n vpdpbusd %%zmm0,%%zmm1,%%zmm7\n"
            "vpdpbusd %%zmm0,%%zmm1,%%zmm8\n vpdpbusd %%zmm0,%%zmm1,%%zmm9\n"
            "vpdpbusd %%zmm0,%%zmm1,%%zmm10\n vpdpbusd %%zmm0,%%zmm1,%%zmm11\n" ::
                : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
}

static double peak_gops(struct kern *k)
{
    bool wide = strcmp(k->name, "avx512") == 0 || strcmp(k->name, "amx") == 0;
    double best = 0;
    for (int i = 0; i < REPEATS; i++) {
        double t = clock_s();
        kern_parallel(k, k->n_thread, wide ? spin_avx512 : spin_avx2, NULL);
        t = clock_s() - t;
        double gops = (wide ? 10 * 128.0 : 8 * 64.0) * 2e6 * k->n_thread / t * 1e-9;
        best = gops > best ? gops : best;
    }
    return best;
}

enum { READ_BYTES = 512 << 20 };

static void read_part(void *ctx, int part, int n_part)
{
    const uint64_t *p = ctx;
    size_t n = READ_BYTES / 8 / (size_t)n_part;
    uint64_t s[8] = {0};
    p += n * (size_t)part;
    for (size_t i = 0; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++)
            s[j] += p[i + j];
    volatile uint64_t sink = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    (void)sink;
}

static double read_gbps(struct kern *k)
{
    uint64_t *p = malloc(READ_BYTES);
    double best = 0;
    if (!p)
        return 0;
    memset(p, 1, READ_BYTES);
    for (int i = 0; i < REPEATS; i++) {
        double t = clock_s();
        kern_parallel(k, k->n_thread, read_part, p);
        t = clock_s() - t;
        best = READ_BYTES / t * 1e-9 > best ? READ_BYTES / t * 1e-9 : best;
    }
    free(p);
    return best;
}

static void bench_type(struct kern *k, enum kern_type type, int32_t n_tok, double gops,
                       double gbps)
{
    size_t n = (size_t)N_ROW * N_COL;
    size_t bytes = n / (size_t)kern_type_block(type) * kern_type_bytes(type);
    float *values = malloc(n * sizeof *values), *x = malloc((size_t)n_tok * N_COL * sizeof *x);
    float *dst = malloc((size_t)n_tok * N_ROW * sizeof *dst);
    void *data = malloc(bytes);
    struct kern_weight *w[COPIES] = {0};
    uint32_t s = 1;
    if (!values || !x || !dst || !data)
        exit(1);
    for (size_t i = 0; i < n; i++)
        values[i] = 0.02f * (float)(int32_t)(s = s * 1664525u + 1013904223u) / 2147483648.0f;
    for (size_t i = 0; i < (size_t)n_tok * N_COL; i++)
        x[i] = (float)(int32_t)(s = s * 1664525u + 1013904223u) / 2147483648.0f;
    kern_quantise(type, values, data, (int64_t)n);
    double load = clock_s();
    for (int i = 0; i < COPIES; i++)
        if (!(w[i] = k->ops->weight_new(k, type, N_ROW, N_COL, data)))
            exit(1);
    load = clock_s() - load;
    double best[2] = {1e9, 1e9};
    int32_t toks[2] = {n_tok, 1};
    for (int mode = 0; mode < 2; mode++)
        for (int r = 0; r < REPEATS; r++) {
            int copies = toks[mode] > 64 ? 1 : COPIES; /* few tokens: weights must come from memory */
            double t = clock_s();
            for (int i = 0; i < copies; i++) {
                struct kern_mat m = {w[i], NULL, dst, N_ROW, false};
                k->ops->matmul(k, 1, &m, x, N_COL, toks[mode]);
            }
            t = (clock_s() - t) / copies;
            best[mode] = t < best[mode] ? t : best[mode];
        }
    double g = 2e-9 * (double)n * n_tok / best[0], b = (double)bytes / best[1] * 1e-9;
    printf("%-7s %6.0f GOP/s (%4.1f %%)   %5.1f GB/s (%4.1f %%)   repacked at %.2f GB/s\n",
           kern_type_name(type), g, 100 * g / gops, b, 100 * b / gbps,
           (double)bytes * COPIES / load * 1e-9);
    for (int i = 0; i < COPIES; i++)
        k->ops->weight_free(k, w[i]);
    free(values);
    free(x);
    free(dst);
    free(data);
}

int main(int argc, char **argv)
{
    int32_t threads = 0, n_tok = 512;
    const char *isa = NULL;
    for (int c; (c = getopt(argc, argv, "t:k:n:")) != -1;) {
        if (c == 't')
            threads = atoi(optarg);
        else if (c == 'k')
            isa = optarg;
        else if (c == 'n')
            n_tok = atoi(optarg);
        else
            return 2;
    }
    struct kern *k = kern_open_cpu(isa, threads);
    if (!k || n_tok < 1) {
        fprintf(stderr, "bench_matmul: no such instruction set here, or no tokens\n");
        return 1;
    }
    double gops = peak_gops(k), gbps = read_gbps(k);
    printf("%s, %d threads; limits: %.0f GOP/s of 8-bit multiply-add, %.1f GB/s read\n", k->name,
           k->n_thread, gops, gbps);
    printf("type    %4d tokens                1 token\n", n_tok);
    for (uint32_t type = 0; type < 64; type++) {
        bool wanted = kern_type_known(type) && optind == argc;
        for (int i = optind; i < argc; i++)
            wanted |= kern_type_known(type) && strcmp(argv[i], kern_type_name(type)) == 0;
        if (wanted)
            bench_type(k, (enum kern_type)type, n_tok, gops, gbps);
    }
    kern_close(k);
    return 0;
}
