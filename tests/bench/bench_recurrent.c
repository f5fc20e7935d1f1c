/* The kernel ladder of layers that keep a state: the gated delta rule at the shapes of Qwen3.5, the
 * convolution before it, and the selective state space at the shapes of Granite 4.0 H Tiny. Built with the tests, run by hand:
 *
 *   bench_recurrent [threads] [instruction sets: ref,avx2,avx512]
 *
 * Instruction sets take turns within one run. GB/s counts states read and written once per call and rows
 * read and written once. Several layers are walked in turn, as a model does, so that one's state is no
 * longer near when its turn comes. The median of the repeats is printed, and the best. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "kernels/kernels.h"

enum { N_LAYER = 18, N_REPEAT = 15, N_KERN_MAX = 4, N_TOK_MAX = 512 };
enum { DIM = 128, HEADS_K = 16, HEADS_MAX = 48 };
enum { SCAN_HEADS = 48, SCAN_DIM = 64, SCAN_STATE = 128 };
enum { CHANS = 6144, TAPS = 4, ROW_MAX = (2 * HEADS_K + HEADS_MAX) * DIM };

/* A repeat of the plain version over that many tokens says enough. */
enum { REF_TOKS = 64, REF_REPEAT = 3 };

static uint32_t rng = 12345;

static float *noise(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof *x + 63) & ~(size_t)63);
    if (!x) {
        fprintf(stderr, "out of memory: %zu floats\n", n);
        exit(1);
    }
    for (size_t i = 0; i < n; i++) {
        rng = rng * 1664525 + 1013904223;
        x[i] = (float)(rng >> 8) / (float)(1 << 23) - 1;
    }
    return x;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What every call reads besides its state. */
struct inputs {
    float *rows, *out, *alpha, *beta, *a, *dt, *weight;
    float *state[2 * N_LAYER]; /* before and after of each layer */
};

enum { CONV, SCAN }; /* in place of a number of heads of the delta rule */

static void call(struct kern *k, const struct inputs *in, int32_t n_head, int32_t n_tok, int layer)
{
    float *before = in->state[2 * layer], *after = in->state[2 * layer + 1];
    if (n_head == SCAN) {
        const float *b = in->rows + SCAN_HEADS * SCAN_DIM;
        struct kern_scan s = {n_tok, SCAN_HEADS, 1, SCAN_STATE, SCAN_DIM, in->rows, b, b + SCAN_STATE,
                              SCAN_HEADS * SCAN_DIM + 2 * SCAN_STATE, in->alpha, in->a, in->dt, in->beta,
                              before, after, in->out};
        k->ops->scan(k, &s);
    } else if (n_head != CONV) {
        struct kern_delta d = {n_tok, n_head, HEADS_K, DIM, false, in->rows, in->rows + HEADS_K * DIM,
                               in->rows + 2 * HEADS_K * DIM, (2 * HEADS_K + n_head) * DIM, in->alpha,
                               in->beta, in->a, in->dt, before, after, in->out, 1e-6f};
        k->ops->delta(k, &d);
    } else {
        struct kern_conv c = {n_tok, CHANS, TAPS, in->rows, in->weight, before, after, in->out, true};
        k->ops->conv(k, &c);
    }
}

static void run_case(struct kern **kerns, int n_kern, const struct inputs *in, int32_t n_head, int32_t n_tok)
{
    double s[N_KERN_MAX][N_REPEAT];
    int n_done[N_KERN_MAX] = {0};
    for (int r = 0; r < N_REPEAT; r++)
        for (int i = 0; i < n_kern; i++) {
            bool plain = strcmp(kerns[i]->name, "ref") == 0;
            int n_layer = n_tok > 1 ? 2 : N_LAYER;
            if (plain && (n_tok > REF_TOKS || r >= REF_REPEAT))
                continue;
            double t0 = clock_s();
            for (int layer = 0; layer < n_layer; layer++)
                call(kerns[i], in, n_head, n_tok, layer);
            s[i][n_done[i]++] = (clock_s() - t0) / n_layer;
        }
    double row = (2 * HEADS_K + 2 * n_head) * DIM, fixed = 2.0 * n_head * DIM * DIM;
    if (n_head == CONV) {
        row = 2 * CHANS;
        fixed = (2.0 * (TAPS - 1) + TAPS) * CHANS;
    } else if (n_head == SCAN) {
        row = 2 * (SCAN_HEADS * SCAN_DIM + SCAN_STATE);
        fixed = 2.0 * SCAN_HEADS * SCAN_STATE * SCAN_DIM;
    }
    for (int i = 0; i < n_kern; i++) {
        if (!n_done[i])
            continue;
        qsort(s[i], (size_t)n_done[i], sizeof **s, ascending);
        double median = s[i][n_done[i] / 2];
        if (n_head == CONV)
            printf("conv %d x %d", CHANS, TAPS);
        else if (n_head == SCAN)
            printf("scan %d heads", SCAN_HEADS);
        else
            printf("delta %2d heads", n_head);
        printf(" %4d tokens %-7s %9.2f us/token (best %9.2f) %7.2f GB/s\n", n_tok, kerns[i]->name,
               median / n_tok * 1e6, s[i][0] / n_tok * 1e6, (fixed + n_tok * row) * 4 / median * 1e-9);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int32_t threads = argc > 1 ? atoi(argv[1]) : 0;
    const char *wanted = argc > 2 ? argv[2] : "ref,avx2,avx512";
    static const char *isas[] = {"ref", "avx2", "avx512", "amx"};
    struct kern *kerns[N_KERN_MAX];
    int n_kern = 0;
    for (int i = 0; i < N_KERN_MAX; i++) {
        struct kern *k = strstr(wanted, isas[i]) ? kern_open_cpu(isas[i], threads) : NULL;
        if (k)
            kerns[n_kern++] = k;
    }
    if (n_kern == 0) {
        fprintf(stderr, "this machine has none of %s\n", wanted);
        return 1;
    }
    struct inputs in = {.rows = noise((size_t)N_TOK_MAX * ROW_MAX), .out = noise((size_t)N_TOK_MAX * ROW_MAX),
                        .alpha = noise(N_TOK_MAX * HEADS_MAX), .beta = noise(N_TOK_MAX * HEADS_MAX),
                        .a = noise(HEADS_MAX), .dt = noise(HEADS_MAX), .weight = noise(CHANS * TAPS)};
    for (int h = 0; h < HEADS_MAX; h++)
        in.a[h] = -expf(in.a[h] - 2);
    for (int i = 0; i < 2 * N_LAYER; i++)
        in.state[i] = noise((size_t)HEADS_MAX * DIM * DIM);
    static const int32_t heads[] = {16, 32, CONV, SCAN}, toks[] = {1, 64, 512};
    printf("%d threads\n", kerns[0]->n_thread);
    for (int h = 0; h < 4; h++)
        for (int t = 0; t < 3; t++)
            run_case(kerns, n_kern, &in, heads[h], toks[t]);
    for (int i = 0; i < 2 * N_LAYER; i++)
        free(in.state[i]);
    float *rest[] = {in.rows, in.out, in.alpha, in.beta, in.a, in.dt, in.weight};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        free(rest[i]);
    for (int i = 0; i < n_kern; i++)
        kern_close(kerns[i]);
    return 0;
}
