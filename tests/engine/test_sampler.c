/* The sampler against a plain implementation that sorts everything, and its random state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/sampler.h"

enum { VOCAB = 1000, BIG = 151936 };

static uint64_t x = 1;

static double uniform(void)
{
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (double)(x >> 11) * 0x1p-53;
}

/* Roughly what a model gives: most tokens far below a few. */
static void make_logits(float *l, int n)
{
    for (int i = 0; i < n; i++)
        l[i] = (float)(-8.0 + 3.0 * (uniform() + uniform() + uniform() - 1.5));
    for (int i = 0; i < 30; i++)
        l[(int)(uniform() * n)] = (float)(uniform() * 12.0 - 4.0);
}

static struct engine_sampling plain(void)
{
    return (struct engine_sampling){.temp = 1,
                                    .top_k = 0,
                                    .top_p = 1,
                                    .min_p = 0,
                                    .repeat_penalty = 1,
                                    .repeat_last_n = 64,
                                    .seed = 7};
}

/* ---- the plain implementation ---- */

struct ranked {
    double logit, p;
    int id;
};

static int by_logit(const void *a, const void *b)
{
    const struct ranked *r = a, *s = b;
    return r->logit != s->logit ? (r->logit > s->logit ? -1 : 1) : r->id - s->id;
}

/* Probabilities [n] that the sampler should draw from; as llama.cpp describes its chain. */
static void expected(const float *logits, int n, const struct engine_sampling *p, double *ret)
{
    struct ranked *r = malloc((size_t)n * sizeof *r);
    for (int i = 0; i < n; i++)
        r[i] = (struct ranked){logits[i], 0, i};
    qsort(r, (size_t)n, sizeof *r, by_logit);
    int k = p->top_k > 0 && p->top_k < n ? p->top_k : n;
    double sum = 0, part = 0;
    for (int i = 0; i < k; i++)
        sum += exp(r[i].logit - r[0].logit);
    for (int i = 0; i < k && p->top_p < 1; i++) {
        part += exp(r[i].logit - r[0].logit);
        if (part >= (double)p->top_p * sum)
            k = i + 1;
    }
    sum = 0;
    for (int i = 0; i < k; i++) {
        bool in = p->min_p <= 0 || r[i].logit >= r[0].logit + log(p->min_p);
        r[i].p = in ? exp((r[i].logit - r[0].logit) / p->temp) : 0;
        sum += r[i].p;
    }
    memset(ret, 0, (size_t)n * sizeof *ret);
    for (int i = 0; i < k; i++)
        ret[r[i].id] = r[i].p / sum;
    free(r);
}

/* Draws often and compares the frequencies; tokens that must not come, do not. */
static void check_draws(const struct engine_sampling *p)
{
    enum { DRAWS = 10000 };
    static float logits[VOCAB];
    static double want[VOCAB], got[VOCAB];
    make_logits(logits, VOCAB);
    expected(logits, VOCAB, p, want);
    memset(got, 0, sizeof got);
    struct sampler *s = sampler_new(VOCAB, p);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = sampler_pick(s, logits);
        assert_in_range(id, 0, VOCAB - 1);
        if (want[id] == 0)
            fail_msg("drew %d, which the filters exclude", id);
        got[id] += 1.0 / DRAWS;
    }
    double distance = 0, noise = 0;
    for (int i = 0; i < VOCAB; i++) {
        distance += fabs(want[i] - got[i]) / 2;
        noise += sqrt(want[i] * (1 - want[i]) / DRAWS) / 2;
    }
    if (distance > 1.5 * noise + 1e-3) /* expected: 0.8 of the noise, it varies by a few percent */
        fail_msg("distance %.4f of the frequencies, noise %.4f", distance, noise);
    sampler_free(s);
}

static void sampler__pick__draws_what_the_chain_leaves(void **state)
{
    (void)state;
    static const struct {
        float temp, top_p, min_p;
        int32_t top_k;
    } cases[] = {
        {0.8f, 0.95f, 0.05f, 40},
        {1, 1, 0, 0},
        {1, 0.5f, 0, 0},
        {1, 1, 0.1f, 0},
        {2, 1, 0, 5},
        {0.3f, 0.9f, 0, 0},
        {1, 1, 0, 1},
        {1, 0.9f, 0.02f, 3},
        {1.5f, 0.99f, 0, 999},
        {1, 0.999f, 0, 5000},
        {1, 0, 0, 40},
        {1, 1, 1, 40},
        {5, 1, 0.001f, 100},
        {1, 1, 0, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct engine_sampling p = plain();
        p.temp = cases[i].temp;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        p.top_k = cases[i].top_k;
        p.seed = i;
        check_draws(&p);
    }
}

static void sampler__pick__greedy_takes_the_first_largest(void **state)
{
    (void)state;
    float logits[8] = {1, NAN, 3, -INFINITY, 3, INFINITY, 2, 3};
    struct engine_sampling p = plain();
    p.temp = 0;
    struct sampler *s = sampler_new(8, &p);
    assert_int_equal(sampler_pick(s, logits), 2);
    for (int i = 0; i < 8; i++)
        logits[i] = i % 2 ? NAN : -INFINITY;
    assert_int_equal(sampler_pick(s, logits), -1);
    sampler_free(s);
}

static void sampler__pick__extreme_logits(void **state)
{
    (void)state;
    float logits[8] = {3e38f, -3e38f, NAN, 3e38f, -INFINITY, INFINITY, 0, -0.0f};
    for (int k = 0; k < 9; k++) {
        struct engine_sampling p = plain();
        p.top_k = k;
        p.top_p = k % 2 ? 0.9f : 1;
        p.temp = k % 3 ? 1e-30f : 1e30f;
        p.min_p = k % 4 ? 0 : 1e-6f;
        p.repeat_penalty = 1.3f;
        struct sampler *s = sampler_new(8, &p);
        for (int i = 0; i < 50; i++) {
            int32_t id = sampler_pick(s, logits);
            assert_in_range(id, 0, 7);
            assert_true(isfinite(logits[id]));
            sampler_accept(s, id);
        }
        sampler_free(s);
    }
}

static void sampler__accept__penalty_reaches_back_so_far(void **state)
{
    (void)state;
    float logits[4] = {2.0f, 1.9f, -1.0f, -1.05f};
    struct engine_sampling p = plain();
    p.temp = 0;
    p.repeat_penalty = 1.1f;
    p.repeat_last_n = 2;
    struct sampler *s = sampler_new(4, &p);
    assert_int_equal(sampler_pick(s, logits), 0);
    sampler_accept(s, 0);
    sampler_accept(s, 0);                         /* counts once */
    assert_int_equal(sampler_pick(s, logits), 1); /* 2.0 / 1.1 = 1.82 */
    sampler_accept(s, 2);
    assert_int_equal(sampler_pick(s, logits), 1);
    sampler_accept(s, 3);
    assert_int_equal(sampler_pick(s, logits), 0); /* both 0 are forgotten */
    logits[0] = logits[1] = -5;
    assert_int_equal(sampler_pick(s, logits), 2); /* -1.1 against -1.155 */
    sampler_accept(s, 2);
    sampler_accept(s, 2);
    assert_int_equal(sampler_pick(s, logits), 3); /* -1.1 against -1.05 */
    sampler_accept(s, -1);
    sampler_accept(s, 4); /* not tokens: ignored */
    assert_int_equal(sampler_pick(s, logits), 3);
    sampler_free(s);
}

static void sampler__seed__repeats_and_differs(void **state)
{
    (void)state;
    static float logits[VOCAB];
    make_logits(logits, VOCAB);
    struct engine_sampling p = plain();
    p.temp = 3;
    struct sampler *a = sampler_new(VOCAB, &p), *b = sampler_new(VOCAB, &p);
    p.seed++;
    struct sampler *c = sampler_new(VOCAB, &p);
    int same = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = sampler_pick(a, logits);
        assert_int_equal(id, sampler_pick(b, logits));
        same += id == sampler_pick(c, logits);
    }
    assert_true(same < 100);
    sampler_free(a);
    sampler_free(b);
    sampler_free(c);
    p.seed = UINT64_MAX;
    a = sampler_new(VOCAB, &p);
    b = sampler_new(VOCAB, &p);
    assert_true(sampler_seed(a) != UINT64_MAX);
    assert_true(sampler_seed(a) != sampler_seed(b));
    sampler_free(a);
    sampler_free(b);
}

/* The size of a real vocabulary, where candidates are picked out instead of sorting all; what it takes is
 * told by tests/bench/bench_sampler. */
static void sampler__pick__large_vocabulary(void **state)
{
    (void)state;
    float *logits = malloc(BIG * sizeof *logits);
    double *want = malloc(BIG * sizeof *want);
    make_logits(logits, BIG);
    for (int k = 0; k <= 40; k += 40) {
        struct engine_sampling p = plain();
        p.top_k = k;
        p.top_p = 0.95f;
        expected(logits, BIG, &p, want);
        struct sampler *s = sampler_new(BIG, &p);
        for (int i = 0; i < 50; i++) {
            int32_t id = sampler_pick(s, logits);
            assert_in_range(id, 0, BIG - 1);
            if (want[id] == 0)
                fail_msg("top_k %d: drew %d, which the filters exclude", k, id);
        }
        sampler_free(s);
    }
    free(want);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampler__pick__draws_what_the_chain_leaves),
        cmocka_unit_test(sampler__pick__greedy_takes_the_first_largest),
        cmocka_unit_test(sampler__pick__extreme_logits),
        cmocka_unit_test(sampler__accept__penalty_reaches_back_so_far),
        cmocka_unit_test(sampler__seed__repeats_and_differs),
        cmocka_unit_test(sampler__pick__large_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
