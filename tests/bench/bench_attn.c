/* The kernel ladder of attention: decode, short chunks and prefill over f16 blocks and over pages
 * of each depth, and sealing. Built with the tests, run by hand:
 *
 *   bench_attn [avx2|avx512|amx] [threads] [depth in tokens] [filter] [decode]
 *
 * decode: single rows only.
 *
 * GB/s counts the bytes of keys and values read once per KV head; GFLOP/s counts 4 * head_dim per
 * score. Several layers are walked in turn, so that their total does not fit any cache. The best of
 * the repeats is printed: the machine is shared, disturbance only slows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "kernels/cpu/attn.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"
#include "kernels/page.h"

enum { LAYER_BYTES_TOTAL = 192 << 20, N_LAYER_MAX = 16, N_REPEAT = 7 };

struct model {
    const char *name;
    int32_t n_head, n_head_kv, head_dim;
};

static const struct model models[] = {
    {"llama-1b", 32, 8, 64},
    {"qwen3-0.6b", 16, 8, 128},
    {"smollm2-135m", 9, 3, 64},
    {"gemma3-1b", 4, 1, 256},
    {"wide", 8, 1, 512},
};

static void *get(size_t size)
{
    void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);
    if (!p) {
        fprintf(stderr, "out of memory: %zu bytes\n", size);
        exit(1);
    }
    return p;
}

static uint32_t rng = 12345;

static float noise(void)
{
    rng = rng * 1664525 + 1013904223;
    return (float)(rng >> 8) / (float)(1 << 23) - 1;
}

struct layer {
    struct kern_kv kv;
    uint8_t *bytes;
    size_t read_bytes; /* what one decode step reads */
};

/* A layer of n_tok positions; bits 0 = f16. Blocks that queries from pos0 on read as f16 have it. */
static struct layer layer_make(const struct model *m, int32_t n_tok, int32_t pos0, int32_t bits_k,
                               int32_t bits_v)
{
    struct layer l = {{m->n_head_kv, m->head_dim, (n_tok + 63) / 64, NULL, NULL, NULL}, NULL, 0};
    int32_t n_block = l.kv.n_block_cap, d = m->head_dim;
    size_t half = sizeof(uint16_t) * 64 * d;
    struct page_shape shape = {d, bits_k, bits_v};
    size_t page = bits_k ? (page_size(&shape) + 63) & ~(size_t)63 : 0, at = 0;
    size_t total = 0, sink = sizeof(uint16_t) * m->n_head_kv * d * KERN_SINK_PAD;
    for (int32_t j = 0; j < n_block; j++)
        total += m->n_head_kv * (bits_k && j + 1 < pos0 / 64 ? page : 2 * half);
    l.bytes = get(total + 2 * sink);
    l.kv.block = calloc((size_t)n_block * m->n_head_kv, sizeof *l.kv.block);
    uint16_t *src = get(2 * half);
    for (size_t i = 0; i < half; i++)
        src[i] = kern_f32_to_f16(noise());
    uint8_t *sealed = NULL;
    if (bits_k) {
        l.kv.sink_k = memset(l.bytes + total, 0, 2 * sink);
        l.kv.sink_v = l.kv.sink_k + sink / 2;
        sealed = get(page);
        page_seal((struct kern_page *)sealed, &shape, 0, 0, src, src + 64 * d);
    }
    for (int32_t h = 0; h < m->n_head_kv; h++) {
        for (int32_t j = 0; j < n_block; j++) {
            struct kern_kv_block *b = &l.kv.block[h * n_block + j];
            if (bits_k && j + 1 < pos0 / 64) {
                b->page = memcpy(l.bytes + at, sealed, page_size(&shape));
                at += page;
                l.read_bytes += page_size(&shape);
            } else {
                memcpy(l.bytes + at, src, 2 * half);
                b->k = (uint16_t *)(l.bytes + at);
                b->v = (uint16_t *)(l.bytes + at + half);
                at += 2 * half;
                l.read_bytes += 2 * half;
            }
        }
    }
    free(src);
    free(sealed);
    return l;
}

typedef void attend_fn(struct kern *k, const struct kern_attn *a);

static void run_case(struct kern *k, attend_fn *attend, const struct model *m, int32_t depth,
                     int32_t n_tok, int32_t bits_k, int32_t bits_v, bool mass)
{
    struct layer layers[N_LAYER_MAX];
    int32_t n_layer = 0;
    size_t bytes = 0;
    while (n_layer < N_LAYER_MAX && (n_layer == 0 || bytes < LAYER_BYTES_TOTAL)) {
        layers[n_layer] = layer_make(m, depth + n_tok, depth, bits_k, bits_v);
        bytes += layers[n_layer++].read_bytes;
        if (n_tok > 1)
            break;
    }
    size_t n_q = (size_t)n_tok * m->n_head * m->head_dim;
    float *q = get(sizeof(float) * n_q), *out = get(sizeof(float) * n_q);
    float *sum = get(sizeof(float) * m->n_head_kv * layers[0].kv.n_block_cap);
    memset(sum, 0, sizeof(float) * m->n_head_kv * layers[0].kv.n_block_cap);
    for (size_t i = 0; i < n_q; i++)
        q[i] = noise();
    struct kern_attn a = {.n_tok = n_tok, .pos0 = depth, .n_head = m->n_head, .q = q, .out = out,
                          .scale = 1 / sqrtf((float)m->head_dim), .mass = mass ? sum : NULL};
    double best = INFINITY;
    for (int r = 0; r < N_REPEAT; r++) {
        double t0 = clock_s();
        for (int32_t i = 0; i < n_layer; i++) {
            a.kv = &layers[i].kv;
            attend(k, &a);
        }
        best = fmin(best, (clock_s() - t0) / n_layer);
    }
    double scores = (double)m->n_head * n_tok * (depth + (n_tok + 1) / 2.0);
    char kv[16];
    snprintf(kv, sizeof kv, bits_k ? "%d/%d" : "f16", bits_k, bits_v);
    printf("%-13s %-5s depth %6d rows %4d: %9.1f us/layer %7.2f GB/s %8.1f GFLOP/s%s\n", m->name, kv,
           depth, n_tok, best * 1e6, (double)layers[0].read_bytes / best * 1e-9,
           4.0 * m->head_dim * scores / best * 1e-9, mass ? " with mass" : "");
    fflush(stdout);
    for (int32_t i = 0; i < n_layer; i++) {
        free(layers[i].bytes);
        free(layers[i].kv.block);
    }
    free(q);
    free(out);
    free(sum);
}

static void run_seal(const struct model *m, int32_t bits_k, int32_t bits_v)
{
    struct page_shape shape = {m->head_dim, bits_k, bits_v};
    struct kern_page *page = get(page_size(&shape));
    uint16_t *src = get(sizeof(uint16_t) * 128 * m->head_dim);
    for (int32_t i = 0; i < 128 * m->head_dim; i++)
        src[i] = kern_f32_to_f16(noise() + noise() + noise());
    double best = INFINITY;
    for (int r = 0; r < N_REPEAT; r++) {
        double t0 = clock_s();
        for (int i = 0; i < 20; i++)
            page_seal(page, &shape, 0, 0, src, src + 64 * m->head_dim);
        best = fmin(best, (clock_s() - t0) / 20);
    }
    printf("%-13s seal %d/%d: %6.1f us/page, %5.2f us per token of a layer\n", m->name, bits_k,
           bits_v, best * 1e6, best * 1e6 * m->n_head_kv / 64);
    free(page);
    free(src);
}

int main(int argc, char **argv)
{
    const char *isa = argc > 1 ? argv[1]
                      : isa_best() >= ISA_AMX ? "amx"
                      : isa_best() >= ISA_AVX512 ? "avx512" : "avx2";
    int32_t threads = argc > 2 ? atoi(argv[2]) : 0, depth = argc > 3 ? atoi(argv[3]) : 16384;
    const char *filter = argc > 4 ? argv[4] : "";
    static const int32_t bits[][2] = {{0, 0}, {8, 8}, {8, 4}, {6, 4}, {4, 4}, {4, 2}, {2, 2}};
    attend_fn *attend = attn_ref_attend;
    enum isa need = ISA_REF;
#if defined(__x86_64__)
    if (strcmp(isa, "avx2") == 0) {
        attend = attn_avx2_attend;
        need = ISA_AVX2;
    } else if (strcmp(isa, "avx512") == 0) {
        attend = attn_avx512_attend;
        need = ISA_AVX512;
    } else if (strcmp(isa, "amx") == 0) {
        attend = attn_amx_attend;
        need = ISA_AMX;
    }
#endif
    struct kern *k = kern_open_cpu("ref", threads); /* for its threads and scratch */
    if (!k || isa_best() < need) {
        fprintf(stderr, "this machine has no %s\n", isa);
        return 1;
    }
    printf("%s, %d threads\n", isa, k->n_thread);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const struct model *m = &models[i];
        if (!strstr(m->name, filter))
            continue;
        for (size_t b = 0; b < sizeof bits / sizeof *bits; b++)
            run_case(k, attend, m, depth, 1, bits[b][0], bits[b][1], false);
        run_case(k, attend, m, depth, 1, 4, 4, true);
        if (argc > 5 && strcmp(argv[5], "decode") == 0)
            continue;
        static const int32_t rows[] = {2, 3, 4, 8, 32};
        for (int r = 0; r < 5; r++) {
            run_case(k, attend, m, depth, rows[r], 0, 0, false);
            run_case(k, attend, m, depth, rows[r], 4, 4, false);
            if (rows[r] >= 8) {
                run_case(k, attend, m, depth, rows[r], 8, 8, false);
                run_case(k, attend, m, depth, rows[r], 8, 4, false);
                run_case(k, attend, m, depth, rows[r], 2, 2, false);
            }
        }
        run_case(k, attend, m, 0, 512, 0, 0, false);
        run_case(k, attend, m, 3584, 512, 0, 0, false);
        run_case(k, attend, m, 3584, 512, 0, 0, true);
        run_case(k, attend, m, 3584, 512, 8, 8, false);
        run_case(k, attend, m, 3584, 512, 4, 4, false);
        run_seal(m, 8, 8);
        run_seal(m, 4, 4);
    }
    kern_close(k);
    return 0;
}
