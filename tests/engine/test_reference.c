/* Logits of every reference file against float64 arithmetic (*.exact.bin, where there is one) and
 * against the peer's (*.logits.bin). With CUDA_MODULE (a device's module, or the shim's) on that
 * backend too; an argument is a pattern of the tests to run. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/bed.h"

/* Mean KL of the plain backend from float64: with float32 rows nothing but the rounding of results
 * to float32 separates them; f16 rows alone cost 1.3e-6 to 4e-6 on these random weights. */
#define KL_EXACT_REF32 1e-6
#define KL_EXACT_REF 5e-6
/* Mean KL of a fast backend from float64, by weight type: as close as the peer is, whose distance
 * comes from 8-bit activations. */
#define KL_EXACT_FAST_F16 1e-5
#define KL_EXACT_FAST_BF16 5e-4
#define KL_EXACT_FAST_BLOCK 1e-2
/* On a GPU prompts go through the matrix units as f16, inputs and weights: 1e-5 to 2.4e-5 were measured
 * for every type. */
#define KL_EXACT_CUDA 4e-5
/* Mean KL between the peer and us on F16 weights. */
#define KL_PEER_F16 5e-5
/* Largest difference of a logit when the prompt is cut in other places. */
#define LOGIT_CHUNK 1e-3

struct truth {
    int32_t n_tok, n_vocab;
    int32_t *ids;
    float *logits;
};

static bool truth_read(const char *dir, const char *name, const char *kind, struct truth *t)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/reference/%s.%s.bin", dir, name, kind);
    FILE *f = fopen(path, "rb");
    if (!f)
        return false;
    assert_int_equal(fread(&t->n_tok, 4, 1, f), 1);
    assert_int_equal(fread(&t->n_vocab, 4, 1, f), 1);
    size_t n = (size_t)t->n_tok * (size_t)t->n_vocab;
    t->ids = malloc((size_t)t->n_tok * 4);
    t->logits = malloc(n * 4);
    assert_int_equal(fread(t->ids, 4, (size_t)t->n_tok, f), t->n_tok);
    assert_int_equal(fread(t->logits, 4, n, f), n);
    fclose(f);
    return true;
}

static void truth_free(struct truth *t)
{
    free(t->ids);
    free(t->logits);
}

static double log_sum(const float *x, int32_t n)
{
    double most = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i] - most);
    return most + log(sum);
}

/* Mean KL(want || got) over the rows. */
static double kl_mean(const struct truth *want, const float *got)
{
    double sum = 0;
    for (int32_t r = 0; r < want->n_tok; r++) {
        const float *p = want->logits + (size_t)r * (size_t)want->n_vocab;
        const float *q = got + (size_t)r * (size_t)want->n_vocab;
        double zp = log_sum(p, want->n_vocab), zq = log_sum(q, want->n_vocab);
        for (int32_t i = 0; i < want->n_vocab; i++)
            sum += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    }
    return sum / want->n_tok;
}

static const char *const exact_names[] = {
    "llama-F16",    "llama-BF16",   "llama-Q8_0",   "llama-Q4_0",   "llama-Q4_1",   "llama-Q5_0",
    "llama-Q5_1",   "llama-Q2_K",   "llama-Q3_K_M", "llama-Q4_K_M", "llama-Q5_K_M", "llama-Q6_K",
    "llama-IQ4_NL", "llama-IQ4_XS", "llama31-F16",  "qwen3-F16",    "qwen3-Q8_0",   "qwen3-Q4_K_M",
};

static double fast_bound(const char *name)
{
    return strstr(name, "BF16")   ? KL_EXACT_FAST_BF16
           : strstr(name, "F16")  ? KL_EXACT_FAST_F16
           : strstr(name, "Q8_0") ? KL_EXACT_FAST_F16 /* 16-bit inputs */
                                  : KL_EXACT_FAST_BLOCK;
}

static void against_exact(const char *isa, double plain_bound)
{
    const char *dir = bed_data();
    struct kern *k = bed_kern(isa);
    int n_bad = 0, n_file = 0;
    for (size_t i = 0; i < sizeof exact_names / sizeof *exact_names; i++) {
        char path[1024];
        struct truth t;
        struct bed b;
        if (!truth_read(dir, exact_names[i], "exact", &t)) {
            print_message("# %s is not there\n", exact_names[i]);
            continue;
        }
        n_file++;
        snprintf(path, sizeof path, "%s/reference/%s.gguf", dir, exact_names[i]);
        bed_open(&b, k, path, 128);
        assert_int_equal(b.m->p.n_vocab, t.n_vocab);
        float *got = bed_logits(&b, t.ids, t.n_tok, 128);
        double kl = kl_mean(&t, got),
               bound = plain_bound > 0 ? plain_bound : fast_bound(exact_names[i]);
        bool ok = kl <= bound; /* false for NaN */
        n_bad += !ok;
        print_message("# %s %-14s mean KL %.3g (bound %.1g)%s\n", k->name, exact_names[i], kl,
                      bound, ok ? "" : "  <-- too far");
        free(got);
        truth_free(&t);
        bed_close(&b);
    }
    kern_close(k);
    assert_true(n_file > 0);
    assert_int_equal(n_bad, 0);
}

static void forward__logits__ref_against_float64(void **state)
{
    against_exact("ref", KL_EXACT_REF);
}

static void forward__logits__ref32_against_float64(void **state)
{
    against_exact("ref32", KL_EXACT_REF32);
}

static void forward__logits__avx2_against_float64(void **state)
{
    against_exact("avx2", 0);
}

static void forward__logits__avx512_against_float64(void **state)
{
    against_exact("avx512", 0);
}

static void forward__logits__amx_against_float64(void **state)
{
    against_exact("amx", 0);
}

static void against_peer(const char *isa) /* NULL = the best there is */
{
    static const char *const names[] = {"llama-F16",  "llama31-F16", "qwen2-F16", "qwen3-F16",
                                        "gemma2-F16", "gemma3-F16",  "phi3-F16"};
    const char *dir = bed_data();
    struct kern *k = bed_kern(isa);
    int n_bad = 0, n_file = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024];
        struct truth t;
        struct bed b;
        if (!truth_read(dir, names[i], "logits", &t)) {
            print_message("# %s is not there\n", names[i]);
            continue;
        }
        n_file++;
        snprintf(path, sizeof path, "%s/reference/%s.gguf", dir, names[i]);
        bed_open(&b, k, path, 128);
        float *got = bed_logits(&b, t.ids, t.n_tok, 128);
        double kl = kl_mean(&t, got);
        bool ok = kl <= KL_PEER_F16;
        n_bad += !ok;
        print_message("# %s %-12s mean KL %.3g (bound %.1g)%s\n", k->name, names[i], kl,
                      KL_PEER_F16, ok ? "" : "  <-- too far");
        free(got);
        truth_free(&t);
        bed_close(&b);
    }
    kern_close(k);
    assert_true(n_file > 0);
    assert_int_equal(n_bad, 0);
}

static void forward__logits__ref_architectures_against_peer(void **state)
{
    against_peer("ref");
}

static void forward__logits__best_architectures_against_peer(void **state)
{
    against_peer(NULL);
}

static void forward__logits__cuda_architectures_against_peer(void **state)
{
    against_peer("cuda");
}

static void forward__logits__cuda_against_float64(void **state)
{
    against_exact("cuda", KL_EXACT_CUDA);
}

/* Largest difference of a logit between feeding `whole` at once and in pieces of `step`. */
static double chunk_difference(struct bed *b, const int32_t *ids, int32_t n, const float *whole,
                               int32_t step)
{
    size_t n_logit = (size_t)n * (size_t)b->m->p.n_vocab;
    float *got = bed_logits(b, ids, n, step);
    double most = 0;
    for (size_t i = 0; i < n_logit; i++) {
        assert_true(isfinite(got[i]));
        most = fmax(most, fabs((double)got[i] - whole[i]));
    }
    free(got);
    return most;
}

static void chunks_of(const char *isa, const char *const *names, size_t n_name)
{
    const char *dir = bed_data();
    struct kern *k = bed_kern(isa);
    int n_bad = 0;
    for (size_t i = 0; i < n_name; i++) {
        char path[1024];
        struct bed b;
        int32_t ids[150];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        bed_open(&b, k, path, 256);
        for (int32_t j = 0; j < 150; j++)
            ids[j] = j == 0 ? 1 : (j * 37 + j * j * 11) % 500 + 3;
        float *whole = bed_logits(&b, ids, 150, 150);
        const int32_t steps[] = {1, 7, 64};
        for (size_t s = 0; s < 3; s++) {
            double most = chunk_difference(&b, ids, 150, whole, steps[s]);
            bool ok = most <= LOGIT_CHUNK;
            n_bad += !ok;
            print_message("# %s %s in pieces of %d: largest difference %.3g%s\n", k->name, names[i],
                          steps[s], most, ok ? "" : "  <-- too much");
        }
        free(whole);
        bed_close(&b);
    }
    kern_close(k);
    assert_int_equal(n_bad, 0);
}

static void forward__logits__plain_does_not_depend_on_chunks(void **state)
{
    static const char *const names[] = {"reference/llama-F16.gguf", "reference/gemma3-F16.gguf",
                                        "reference/qwen3-Q4_K_M.gguf"};
    chunks_of("ref", names, 3);
}

static void forward__logits__best_does_not_depend_on_chunks(void **state)
{
    static const char *const names[] = {
        "_derived/stories260K-ctx512-F32.rebuilt.gguf",
        "_derived/stories260K-ctx512-F16.rebuilt.gguf",
        "_derived/TinyStories-656K-F16.rebuilt.gguf",
        "_derived/TinyStories-656K-Q8_0.rebuilt.gguf",
        "_derived/TinyStories-656K-Q4_0.rebuilt.gguf",
        "reference/llama-F16.gguf",
        "reference/llama-BF16.gguf",
        "reference/llama-Q4_K_M.gguf",
        "reference/qwen3-Q8_0.gguf",
        "reference/gemma3-F16.gguf",
    };
    chunks_of(NULL, names, sizeof names / sizeof *names);
}

int main(int n_arg, char **arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward__logits__ref32_against_float64),
        cmocka_unit_test(forward__logits__ref_against_float64),
        cmocka_unit_test(forward__logits__ref_architectures_against_peer),
        cmocka_unit_test(forward__logits__best_architectures_against_peer),
        cmocka_unit_test(forward__logits__cuda_architectures_against_peer),
        cmocka_unit_test(forward__logits__cuda_against_float64),
        cmocka_unit_test(forward__logits__plain_does_not_depend_on_chunks),
        cmocka_unit_test(forward__logits__best_does_not_depend_on_chunks),
        cmocka_unit_test(forward__logits__avx2_against_float64),
        cmocka_unit_test(forward__logits__avx512_against_float64),
        cmocka_unit_test(forward__logits__amx_against_float64),
    };
    if (n_arg > 1)
        cmocka_set_test_filter(arg[1]);
    if (!getenv("CUDA_MODULE"))
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}
