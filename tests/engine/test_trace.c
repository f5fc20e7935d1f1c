/* What one position looked at: against the attention kernel's own sums while it answered, against
 * the same position of a timeline that ends there, and without a trace left behind. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/engine.h"

/* The kernel rounds queries over pages to 8 bits and sums in float32. */
#define MASS_TOLERANCE 4e-3
#define SUM_TOLERANCE 1e-4

enum { N = 500, BLOCK = 64, SINKS = 4 };
static int32_t ids[N + 16];

static struct engine *open_kv(const char *kv)
{
    struct engine_params p = {
        .model_path = getenv("DOGEAR_MEMO"), .n_ctx = 2048, .n_thread = 1, .kv = kv};
    struct engine *en = NULL;
    struct err e;
    if (engine_open(&p, &en, &e) != OK)
        fail_msg("%s", e.text);
    uint32_t x = 7;
    for (int32_t i = 0; i < N; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = 300 + (int32_t)((x >> 10) % 3000u);
    }
    return en;
}

static void submit(struct engine *en, int64_t timeline, int32_t n, int32_t n_predict)
{
    struct engine_turn t = {
        .timeline = timeline, .prefix = ids, .n_prefix = n, .raw = true, .n_predict = n_predict};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 0;
    if (engine_submit(en, &t, &number, &e) != OK)
        fail_msg("%s", e.text);
}

/* Waits for the end of the turn and puts its tokens behind ids[n]; returns how many. */
static int32_t finish(struct engine *en, int32_t n)
{
    int32_t n_told = 0;
    for (bool go = true; go;) {
        struct engine_event *ev = engine_wait(en, 60000);
        assert_non_null(ev);
        assert_int_not_equal(ev->kind, ENGINE_EV_FAILED);
        for (int32_t i = 0; ev->kind == ENGINE_EV_TOKEN && i < ev->n_id; i++)
            ids[n + n_told++] = ev->ids[i];
        go = ev->kind != ENGINE_EV_DONE;
        engine_event_free(ev);
    }
    return n_told;
}

static int32_t feed(struct engine *en, int64_t timeline, int32_t n, int32_t n_predict)
{
    submit(en, timeline, n, n_predict);
    return finish(en, n);
}

static bool wait_trace(struct engine *en, struct stats_trace *t, int ms)
{
    for (int i = 0; i < ms; i++) {
        if (engine_trace(en, t))
            return true;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    return false;
}

static void look(struct engine *en, int64_t timeline, int32_t n, int32_t pos, struct stats_trace *t)
{
    engine_trace(en, t); /* what others asked for */
    engine_trace_ask(en, timeline, ids, n, pos);
    assert_true(wait_trace(en, t, 20000));
    assert_int_equal(t->timeline, timeline);
    assert_int_equal(t->pos, pos);
}

static double sum_of(const struct stats_trace *t, int32_t first, int32_t end)
{
    double sum = 0;
    for (int32_t i = first; i < end && i < t->n; i++)
        sum += (double)t->weight[i];
    return sum;
}

static void picture(struct engine *en, int64_t timeline, struct stats_map *m)
{
    engine_map_ask(en, timeline);
    for (int i = 0; i < 20000; i++) {
        if (engine_map(en, m))
            return;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    fail_msg("no picture came");
}

static void trace__answered_token__is_what_the_kernel_summed(void **state)
{
    (void)state;
    static const char *const presets[] = {"8/8", "4/4"};
    for (int k = 0; k < 2; k++) {
        struct engine *en = open_kv(presets[k]);
        struct stats_map m;
        struct stats_trace t;
        stats_map_init(&m);
        stats_trace_init(&t);
        /* The first token of the answer is fed alone: the only query that the picture has seen. */
        int32_t n = N + feed(en, 1, N, 2);
        assert_int_equal(n, N + 2);
        picture(en, 1, &m);
        look(en, 1, n, N, &t);
        assert_int_equal(t.n, N + 1);
        assert_true(fabs(sum_of(&t, 0, t.n) - 1) < SUM_TOLERANCE);
        int32_t rows = stats_map_heads(&m);
        double worst = 0, on_rows = sum_of(&t, 0, SINKS) + sum_of(&t, (N / BLOCK - 1) * BLOCK, t.n);
        for (int32_t j = 0; j < m.n_block; j++) {
            double mass = 0;
            for (int32_t i = 0; i < rows; i++)
                mass += (double)m.page[i * m.n_block + j].mass / rows;
            worst = fmax(worst, fabs(mass - sum_of(&t, j * BLOCK, (j + 1) * BLOCK)));
        }
        print_message("# %s: off by %.2g at most, %.3f on rows, took %.4f s\n", presets[k], worst,
                      (double)t.on_rows, t.took_s);
        assert_true(worst < MASS_TOLERANCE);
        assert_true(t.on_rows > 0 && t.on_rows < 1);
        assert_true(fabs((double)t.on_rows - on_rows) < SUM_TOLERANCE);
        stats_map_free(&m);
        stats_trace_free(&t);
        engine_close(en);
    }
}

static void trace__earlier_position__as_if_the_chat_ended_there(void **state)
{
    (void)state;
    static const int32_t at[] = {0, 1, 63, 64, 130, 255, 256, 300, 450, N - 1};
    static const char *const presets[] = {"exact", "8/4"};
    for (int k = 0; k < 2; k++) {
        struct engine *en = open_kv(presets[k]);
        struct stats_trace a, b;
        stats_trace_init(&a);
        stats_trace_init(&b);
        feed(en, 1, N, 1);
        for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
            int32_t n = at[i] + 1;
            engine_forget(en, 2);
            int32_t next = n < N ? ids[n] : 0;
            look(en, 1, N, at[i], &a);
            feed(en, 2, n, 1);
            look(en, 2, n, at[i], &b);
            ids[n] = next; /* the answer was put there */
            assert_int_equal(a.n, n);
            assert_int_equal(b.n, n);
            for (int32_t j = 0; j < n; j++)
                assert_true(fabsf(a.weight[j] - b.weight[j]) <= 1e-6f);
            assert_true(fabs(sum_of(&a, 0, n) - 1) < SUM_TOLERANCE);
            if (k == 0)
                assert_true(fabs((double)a.on_rows - 1) < SUM_TOLERANCE);
        }
        stats_trace_free(&a);
        stats_trace_free(&b);
        engine_close(en);
    }
}

static void trace__asked__changes_nothing(void **state)
{
    (void)state;
    struct engine *en = open_kv("8/8");
    struct stats before, after;
    struct stats_map m0, m1;
    struct stats_trace t;
    stats_map_init(&m0);
    stats_map_init(&m1);
    stats_trace_init(&t);
    int32_t answer[8];
    assert_int_equal(feed(en, 3, N, 8), 8);
    memcpy(answer, ids + N, sizeof answer);
    feed(en, 1, N, 1);
    picture(en, 1, &m0);
    engine_stats(en, &before);
    for (int32_t pos = 0; pos < N; pos += 71)
        look(en, 1, N, pos, &t);
    picture(en, 1, &m1);
    engine_stats(en, &after);
    assert_true(before.kv_bytes == after.kv_bytes && before.n_tok == after.n_tok);
    assert_true(before.kv_budget_bytes == after.kv_budget_bytes && after.phase == STATS_IDLE);
    assert_int_equal(m0.n_block, m1.n_block);
    for (int32_t i = 0; i < stats_map_heads(&m0) * m0.n_block; i++) {
        assert_int_equal(m0.page[i].tier, m1.page[i].tier);
        assert_true(m0.page[i].mass == m1.page[i].mass ||
                    (isnan(m0.page[i].mass) && isnan(m1.page[i].mass)));
    }
    assert_int_equal(feed(en, 1, N, 8), 8);
    assert_memory_equal(ids + N, answer, sizeof answer);
    stats_map_free(&m0);
    stats_map_free(&m1);
    stats_trace_free(&t);
    engine_close(en);
}

static void trace__not_to_be_known__is_unknown(void **state)
{
    (void)state;
    struct engine *en = open_kv("8/8");
    struct stats_trace t;
    stats_trace_init(&t);
    feed(en, 1, N, 1);
    look(en, 1, N, -1, &t);
    assert_int_equal(t.n, 0);
    assert_true(isnan(t.on_rows));
    look(en, 1, N, N, &t);
    assert_int_equal(t.n, 0);
    look(en, 9, N, N - 1, &t); /* shares what timeline 1 holds */
    assert_int_equal(t.n, N);
    engine_forget(en, 9);
    engine_forget(en, 1);
    look(en, 1, N, N - 1, &t); /* nothing is held, and it would all have to be read */
    assert_int_equal(t.n, 0);
    look(en, 1, N, 40, &t); /* so little can be read */
    assert_int_equal(t.n, 41);
    feed(en, 1, N, 1);
    ids[3]++; /* another path */
    look(en, 1, N, N - 1, &t);
    assert_int_equal(t.n, 0);
    ids[3]--;
    ids[0] = 1 << 30;
    look(en, 1, N, N - 1, &t);
    assert_int_equal(t.n, 0);
    stats_trace_free(&t);
    engine_close(en);
}

static void trace__turn_comes__turn_goes_first(void **state)
{
    (void)state;
    struct engine *en = open_kv("adaptive");
    struct stats_trace t;
    stats_trace_init(&t);
    feed(en, 1, N, 1);
    for (int32_t i = 0; i < 20; i++)
        engine_trace_ask(en, 1, ids, N, N - 1 - i);
    submit(en, 1, N, 4);
    assert_int_equal(finish(en, N), 4);
    look(en, 1, N, N - 30, &t);
    assert_int_equal(t.n, N - 29);
    for (int32_t i = 0; i < 20; i++)
        engine_trace_ask(en, 1, ids, N, N - 1 - i);
    engine_close(en); /* with some still waiting */
    stats_trace_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trace__answered_token__is_what_the_kernel_summed),
        cmocka_unit_test(trace__earlier_position__as_if_the_chat_ended_there),
        cmocka_unit_test(trace__asked__changes_nothing),
        cmocka_unit_test(trace__not_to_be_known__is_unknown),
        cmocka_unit_test(trace__turn_comes__turn_goes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
