/* Trained tiny models against a float64 oracle: greedy answers, first logits, teacher-forced NLL
 * (golden_tiny_models.json). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/prefill.h"
#include "tests/engine/bed.h"

/* Where the oracle's two best logits are closer than this, rounding may choose either. */
#define GAP_CLEAR 1e-3
#define NLL_TOLERANCE 0.002
/* With AVX2, activations in 8 bits move the mean by 0.0034 on the 4-bit model. */
#define NLL_BLOCK_AVX2 0.005
/* F16 keys and values move logits by about 1e-3 of their size; the fast paths round activations of
 * block types to 8 bits. */
#define LOGIT_PLAIN 0.02
#define LOGIT_FAST 0.5

static const char *const folders[] = {"_derived", "onicai__llama_cpp_canister/models"};

static int32_t *ids_of(const json_t *list, int32_t *ret_n)
{
    *ret_n = (int32_t)json_array_size(list);
    int32_t *ids = malloc(((size_t)*ret_n + 1) * sizeof *ids);
    for (int32_t i = 0; i < *ret_n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    return ids;
}

static int32_t best_of(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* Greedy continuation; stops at the first place where the oracle itself is undecided. Block types
 * are exempt from equality on a fast backend: there 8-bit activations change close calls. */
static void check_greedy(struct bed *b, const json_t *g, const char *name, bool plain, bool block)
{
    struct err e;
    int32_t n_prompt, n_want;
    int32_t *prompt = ids_of(json_object_get(g, "prompt_ids"), &n_prompt);
    int32_t *want = ids_of(json_object_get(g, "generated_ids"), &n_want);
    const json_t *gaps = json_object_get(g, "top1_top2_gap");
    const json_t *top = json_object_get(g, "first_logits_top10");
    const float *logits;
    kv_truncate(b->line, 0);
    bed_check(prefill_run(b->f, b->line, prompt, n_prompt, NULL, NULL, &logits, &e), &e);
    double tolerance = plain || !block ? LOGIT_PLAIN : LOGIT_FAST;
    for (size_t i = 0; i < json_array_size(top); i++) {
        const json_t *pair = json_array_get(top, i);
        int32_t id = (int32_t)json_integer_value(json_array_get(pair, 0));
        double value = json_number_value(json_array_get(pair, 1));
        if (fabs(logits[id] - value) > tolerance)
            fail_msg("%s: logit of %d is %g, not %g", name, id, (double)logits[id], value);
    }
    int32_t i = 0;
    for (; i < n_want; i++) {
        int32_t id = best_of(logits, b->m->p.n_vocab);
        double gap = json_number_value(json_array_get(gaps, (size_t)i));
        if (id != want[i]) {
            if (gap > GAP_CLEAR && (plain || !block))
                fail_msg("%s: token %d is %d, not %d (gap %g)", name, i, id, want[i], gap);
            break; /* another path from here on */
        }
        bed_check(kv_reserve(b->line, 1, &e), &e);
        bed_check(forward_step(b->f, b->line, id, &logits, &e), &e);
    }
    print_message("# %s %s: %d of %d greedy tokens equal\n", b->k->name, name, i, n_want);
    free(prompt);
    free(want);
}

static void check_nll(struct bed *b, const json_t *t, const char *name, double tolerance)
{
    int32_t n, v = b->m->p.n_vocab;
    int32_t *ids = ids_of(json_object_get(t, "ids"), &n);
    float *logits = bed_logits(b, ids, n, 128);
    double sum = 0;
    for (int32_t i = 0; i + 1 < n; i++) {
        const float *row = logits + (size_t)i * (size_t)v;
        double z = 0, most = row[best_of(row, v)];
        for (int32_t j = 0; j < v; j++)
            z += exp(row[j] - most);
        sum += most + log(z) - row[ids[i + 1]];
    }
    double nll = sum / (n - 1), want = json_number_value(json_object_get(t, "mean_nll"));
    print_message("# %s %s: NLL %.5f, oracle %.5f\n", b->k->name, name, nll, want);
    assert_true(fabs(nll - want) <= tolerance);
    free(logits);
    free(ids);
}

static void against_oracle(const char *isa, bool plain)
{
    const char *dir = bed_data();
    struct kern *k = kern_open_cpu(isa, 2);
    assert_non_null(k);
    char path[1024];
    snprintf(path, sizeof path, "%s/_derived/golden_tiny_models.json", dir);
    json_t *all = json_load_file(path, 0, NULL), *entry;
    assert_non_null(all);
    const char *name;
    int n_model = 0;
    json_object_foreach(json_object_get(all, "models"), name, entry)
    {
        for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
            snprintf(path, sizeof path, "%s/%s/%s", dir, folders[i], name);
            FILE *f = fopen(path, "rb");
            if (!f)
                continue;
            fclose(f);
            struct bed b;
            bed_open(&b, k, path, 128);
            bool block = strstr(name, "Q8_0") || strstr(name, "Q4_0");
            size_t at;
            json_t *greedy;
            json_array_foreach(json_object_get(entry, "greedy"), at, greedy)
                check_greedy(&b, greedy, name, plain, block);
            check_nll(&b, json_object_get(entry, "teacher_forced"), name,
                      strcmp(k->name, "avx2") == 0 && strstr(name, "Q4_0") ? NLL_BLOCK_AVX2 : NLL_TOLERANCE);
            bed_close(&b);
            n_model++;
        }
    }
    assert_int_equal(n_model, (int)json_object_size(json_object_get(all, "models")));
    json_decref(all);
    kern_close(k);
}

static void golden__tiny_models__plain_backend(void **state)
{
    against_oracle("ref", true);
}

static void golden__tiny_models__best_backend(void **state)
{
    against_oracle(NULL, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden__tiny_models__plain_backend),
        cmocka_unit_test(golden__tiny_models__best_backend),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
