/* What the engine tells about itself, each figure against a count of our own: page sizes from the
 * format's arithmetic, attention that must add up to one, probabilities from the model's logits,
 * room from filling the cache until it is full. */
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

/* Sums of float32 attention over a few hundred tokens and their decay. */
#define MASS_TOLERANCE 2e-3f
/* A row of logits computed alone against the same one in a chunk: other summation order. */
#define CHOICE_TOLERANCE 2e-3f

enum { LAYERS = 5, HEADS = 2, DIM = 64, BLOCK = 64 };
static const int64_t ROWS_BYTES = (int64_t)LAYERS * HEADS * DIM * BLOCK * 2 * 2;
static const int64_t SINK_BYTES = (int64_t)LAYERS * HEADS * DIM * 16 * 2 * 2;

static struct engine *open_with(const char *kv, uint64_t budget, int32_t n_ctx)
{
    struct engine_params p = {.model_path = getenv("DOGEAR_MEMO"),
                              .n_ctx = n_ctx,
                              .n_thread = 1,
                              .kv = kv,
                              .kv_budget_bytes = budget};
    struct engine *en = NULL;
    struct err e;
    if (engine_open(&p, &en, &e) != OK)
        fail_msg("%s", e.text);
    return en;
}

struct told {
    int32_t *ids; /* prompt and answer */
    int32_t n_id, n_prompt;
    struct stats_choice *choice; /* [n_id - n_prompt] */
    struct engine_event *last;
};

static void told_free(struct told *t)
{
    free(t->ids);
    free(t->choice);
    engine_event_free(t->last);
}

/* A raw turn on ids: what is held, then n_predict tokens. */
static struct told turn(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n_id,
                        int32_t n_predict)
{
    struct engine_turn t = {
        .timeline = timeline, .prefix = ids, .n_prefix = n_id, .raw = true, .n_predict = n_predict};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    t.sampling.seed = 1;
    t.sampling.temp = 2; /* wanders: no early end */
    if (engine_submit(en, &t, &number, &e) != OK)
        fail_msg("%s", e.text);
    struct told a = {.ids = malloc((size_t)(n_id + n_predict + 8) * sizeof *a.ids),
                     .choice = malloc((size_t)(n_predict + 8) * sizeof *a.choice),
                     .n_prompt = n_id};
    memcpy(a.ids, ids, (size_t)n_id * sizeof *ids);
    a.n_id = n_id;
    while (!a.last) {
        struct engine_event *ev = engine_wait(en, 60000);
        assert_non_null(ev);
        if (ev->kind == ENGINE_EV_TOKEN) {
            assert_non_null(ev->choice);
            memcpy(a.ids + a.n_id, ev->ids, (size_t)ev->n_id * sizeof *a.ids);
            memcpy(a.choice + a.n_id - n_id, ev->choice, (size_t)ev->n_id * sizeof *ev->choice);
            a.n_id += ev->n_id;
        }
        if (ev->kind == ENGINE_EV_DONE || ev->kind == ENGINE_EV_FAILED)
            a.last = ev;
        else
            engine_event_free(ev);
    }
    return a;
}

static void some_ids(int32_t *ids, int32_t n)
{
    uint32_t x = 7;
    for (int32_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = 300 + (int32_t)((x >> 10) % 3000u);
    }
}

/* Waits for a picture newer than *m. */
static void picture(struct engine *en, int64_t timeline, struct stats_map *m)
{
    engine_map_ask(en, timeline);
    for (int i = 0; i < 120000; i++) {
        if (engine_map(en, m))
            return;
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    fail_msg("no picture came");
}

/* The format's arithmetic, written down a second time: header 64, K scale and lo per channel, V
 * scale and lo per token and 64 channels, 2-bit planes of 16 bytes per channel. */
static int64_t page_bytes(int bits_k, int bits_v)
{
    return 64 + 4 * DIM + 4 * BLOCK * ((DIM + 63) / 64) + (int64_t)16 * DIM * (bits_k + bits_v) / 2;
}

static int64_t sum_of_map(const struct stats_map *m, int64_t tier[STATS_TIERS])
{
    int64_t sum = 0;
    memset(tier, 0, STATS_TIERS * sizeof *tier);
    for (int32_t i = 0; i < stats_map_heads(m) * m->n_block; i++) {
        const struct stats_page *p = &m->page[i];
        int64_t size =
            p->bits_k == 16 ? ROWS_BYTES / (LAYERS * HEADS) : page_bytes(p->bits_k, p->bits_v);
        tier[p->tier] += size;
        sum += size;
    }
    return sum;
}

static void stats__bytes__are_those_of_the_pages(void **state)
{
    (void)state;
    int32_t ids[600];
    some_ids(ids, 600);
    struct engine *en = open_with("adaptive", 0, 2048);
    struct told a = turn(en, 5, ids, 600, 40);
    assert_int_equal(a.last->kind, ENGINE_EV_DONE);
    struct stats s;
    engine_stats(en, &s);
    struct stats_map m;
    stats_map_init(&m);
    picture(en, 5, &m);
    assert_int_equal(m.timeline, 5);
    assert_int_equal(m.n_layer, LAYERS);
    assert_int_equal(stats_map_heads(&m), LAYERS * HEADS);
    assert_int_equal(m.first[1], HEADS);
    assert_int_equal(m.n_tok, s.n_tok);
    assert_int_equal(m.n_block, (s.n_tok + 63) / 64);
    int64_t tier[STATS_TIERS], told = 0, sum = sum_of_map(&m, tier) + SINK_BYTES;
    tier[0] += SINK_BYTES;
    for (int i = 0; i < STATS_TIERS; i++) {
        assert_int_equal(s.tier_bytes[i], tier[i]);
        told += s.tier_bytes[i];
    }
    assert_int_equal(told, sum);
    assert_int_equal(s.kv_chat_bytes, sum);
    assert_true(s.kv_bytes >= sum); /* and what waits to be used again */
    assert_int_equal(s.kv_f16_bytes, m.n_block * ROWS_BYTES);
    assert_true(fabs(s.bytes_per_tok - (double)sum / s.n_tok) < 1e-6);
    assert_string_equal(s.kv, "adaptive");
    assert_string_equal(s.kv_floor, "4/4");
    assert_int_equal(s.n_reused + s.n_read, 600);
    assert_int_equal(s.n_generated, a.n_id - a.n_prompt);
    stats_map_free(&m);
    told_free(&a);
    engine_close(en);
}

static void stats__short_chat__is_not_more_than_f16(void **state)
{
    (void)state;
    int32_t ids[8];
    some_ids(ids, 8);
    struct engine *en = open_with("exact", 0, 2048);
    struct told a = turn(en, 1, ids, 8, 3);
    struct stats s;
    engine_stats(en, &s);
    assert_int_equal(s.kv_chat_bytes, s.kv_f16_bytes); /* one block, whole, in both */
    assert_int_equal(a.last->kv_bytes, a.last->f16_bytes);
    told_free(&a);
    engine_close(en);
}

/* Another chat is opened while the picture of the one before is still being asked for. */
static void stats__map__of_the_chat_asked_for_last_comes(void **state)
{
    (void)state;
    int32_t ids[70];
    some_ids(ids, 70);
    struct engine *en = open_with("8/8", 0, 2048);
    struct told one = turn(en, 1, ids, 70, 1), two = turn(en, 2, ids, 70, 1);
    for (int i = 0; i < 300; i++) {
        struct stats_map m;
        stats_map_init(&m);
        engine_map_ask(en, 1);
        for (volatile int wait = 0; wait < i * 50; wait++)
            ;
        do /* the first one may have been made by then */
            picture(en, 2, &m);
        while (m.timeline == 1);
        assert_int_equal(m.timeline, 2);
        stats_map_free(&m);
    }
    told_free(&one);
    told_free(&two);
    engine_close(en);
}

static void stats__mass__adds_up_to_one(void **state)
{
    (void)state;
    int32_t ids[400];
    some_ids(ids, 400);
    struct engine *en = open_with("8/8", 0, 2048);
    struct stats_map m;
    stats_map_init(&m);
    struct told none = turn(en, 2, ids, 400, 0); /* nothing was written yet */
    picture(en, 2, &m);
    assert_true(isnan(m.page[0].mass));
    struct told a = turn(en, 2, ids, 400, 30);
    picture(en, 2, &m);
    for (int32_t row = 0; row < stats_map_heads(&m); row++) {
        float sum = 0;
        for (int32_t j = 0; j < m.n_block; j++) {
            const struct stats_page *p = &m.page[row * m.n_block + j];
            assert_true(p->mass >= 0);
            assert_true(p->bits_k == 16 ? p->error_k == 0 : p->error_k > 0 && p->error_k < 0.1f);
            sum += p->mass;
        }
        if (fabsf(sum - 1) > MASS_TOLERANCE)
            fail_msg("attention of row %d adds up to %g", row, (double)sum);
    }
    stats_map_free(&m);
    told_free(&none);
    told_free(&a);
    engine_close(en);
}

struct check {
    const struct told *a;
    int32_t n_vocab, n;
};

static bool compare(void *ctx, int32_t i, const float *logits)
{
    struct check *c = ctx;
    int32_t at = i + 1 - c->a->n_prompt; /* the row after token i chose token i + 1 */
    if (at < 0 || i + 1 >= c->a->n_id)
        return true;
    double max = -INFINITY, sum = 0;
    int32_t best = -1;
    for (int32_t t = 0; t < c->n_vocab; t++)
        if ((double)logits[t] > max) {
            max = (double)logits[t];
            best = t;
        }
    for (int32_t t = 0; t < c->n_vocab; t++)
        sum += exp((double)logits[t] - max);
    const struct stats_choice *told = &c->a->choice[at];
    double p = exp((double)logits[c->a->ids[i + 1]] - max) / sum;
    if (fabs(p - (double)told->p) > (double)CHOICE_TOLERANCE)
        fail_msg("token %d: told %g, is %g", at, (double)told->p, p);
    assert_int_equal(told->id[0], best);
    assert_true(fabs(1 / sum - (double)told->id_p[0]) < (double)CHOICE_TOLERANCE);
    for (int k = 1; k < STATS_ALTERNATIVES; k++)
        assert_true(told->id_p[k] <= told->id_p[k - 1]);
    c->n++;
    return true;
}

static void stats__choice__is_the_models_own(void **state)
{
    (void)state;
    int32_t ids[40];
    some_ids(ids, 40);
    struct engine *en = open_with("exact", 0, 512);
    struct told a = turn(en, 1, ids, 40, 25);
    struct check c = {&a, engine_info(en)->n_vocab, 0};
    struct err e;
    assert_int_equal(engine_logits(en, a.ids, a.n_id, compare, &c, &e), OK);
    assert_int_equal(c.n, a.n_id - a.n_prompt);
    assert_true(c.n >= 20);
    told_free(&a);
    engine_close(en);
}

static void stats__budget__takes_effect_at_once(void **state)
{
    (void)state;
    int32_t ids[1500];
    some_ids(ids, 1500);
    struct engine *en = open_with("adaptive", 0, 2048);
    struct told a = turn(en, 9, ids, 1500, 20);
    struct stats before, after;
    struct stats_map m;
    stats_map_init(&m);
    picture(en, 9, &m);
    engine_stats(en, &before);
    for (int32_t i = 0; i < m.n_block * LAYERS * HEADS; i++)
        assert_true(m.page[i].tier <= 1);
    uint64_t budget = (uint64_t)(before.kv_chat_bytes * 3 / 4);
    engine_set_kv_budget(en, budget);
    picture(en, 9, &m); /* commands are done in order */
    engine_stats(en, &after);
    assert_int_equal(after.kv_budget_bytes, budget);
    assert_true(after.kv_bytes <= (int64_t)budget);
    assert_true(after.kv_chat_bytes < before.kv_chat_bytes);
    assert_true(after.harm_predicted > before.harm_predicted);
    int64_t tier[STATS_TIERS];
    assert_int_equal(sum_of_map(&m, tier) + SINK_BYTES, after.kv_chat_bytes);
    assert_true(tier[2] + tier[3] + tier[4] > 0);
    /* Up again: room, but what went does not come back by itself. */
    engine_set_kv_budget(en, 0);
    picture(en, 9, &m);
    struct stats again;
    engine_stats(en, &again);
    assert_int_equal(again.kv_budget_bytes, before.kv_budget_bytes);
    assert_int_equal(again.kv_chat_bytes, after.kv_chat_bytes);
    stats_map_free(&m);
    told_free(&a);
    engine_close(en);
}

static void stats__preset__is_changed_and_read_again(void **state)
{
    (void)state;
    int32_t ids[500];
    some_ids(ids, 500);
    struct engine *en = open_with("exact", 0, 2048);
    struct err e;
    struct told a = turn(en, 3, ids, 500, 5);
    struct stats exact, s;
    engine_stats(en, &exact);
    assert_int_equal(engine_set_kv(en, "no-such", &e), ERR_USAGE);
    assert_int_equal(engine_set_kv(en, "4/4", &e), OK);
    struct told b = turn(en, 3, ids, 500, 5);
    assert_int_equal(b.last->n_reused, 0);
    engine_stats(en, &s);
    assert_string_equal(s.kv, "4/4");
    int64_t coarse = 0; /* fragile layers may be above 4/4, others below: which, a measurement says */
    for (int i = 2; i < STATS_TIERS; i++)
        coarse += s.tier_bytes[i];
    assert_true(coarse > 0);
    assert_true(s.kv_chat_bytes < exact.kv_chat_bytes * .6);
    const char *what;
    assert_string_equal(engine_kv_name(en, 0, &what), "exact");
    told_free(&a);
    told_free(&b);
    engine_close(en);
}

/* The room told is there, and not much more than that. */
static void stats__room__holds_what_it_says(void **state)
{
    (void)state;
    /* SLACK: the f16 rows of a chunk are counted as always there; as pages they hold at most this. */
    enum { MOST = 8192, SLACK = 3072 };
    int32_t *ids = malloc(MOST * sizeof *ids);
    some_ids(ids, MOST);
    static const char *const names[] = {"exact", "4/4", "adaptive"};
    for (int i = 0; i < 3; i++) {
        struct engine *en = open_with(names[i], 0, MOST);
        engine_set_kv_budget(en, 2 << 20);
        struct stats_map m;
        stats_map_init(&m);
        picture(en, 1, &m);
        struct stats s;
        engine_stats(en, &s);
        assert_true(s.fit_tok > 0 && s.fit_floor_tok >= s.fit_tok);
        struct told fits = turn(en, 1, ids, s.fit_floor_tok, 0);
        assert_int_equal(fits.last->kind, ENGINE_EV_DONE);
        picture(en, 1, &m); /* by now the model's own floor is measured, it may be lower */
        engine_stats(en, &s);
        assert_true(s.fit_floor_tok + SLACK < MOST);
        struct told over = turn(en, 1, ids, s.fit_floor_tok + SLACK, 0);
        assert_int_equal(over.last->kind, ENGINE_EV_FAILED);
        assert_int_equal(over.last->err.code, ERR_MEMORY);
        told_free(&fits);
        told_free(&over);
        stats_map_free(&m);
        engine_close(en);
    }
    free(ids);
}

static double clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Times must fit into what a clock of ours saw pass, one inside the other; shares of a dense turn
 * are whole, in every layer. */
/* What is queued behind a turn makes the snapshot another timeline's: the turn's own come with its end. */
static void stats__turn__ends_with_its_own_figures(void **state)
{
    (void)state;
    struct engine *en = open_with("8/8", 0, 1024);
    int32_t ids[100];
    some_ids(ids, 100);
    struct engine_turn t = {.timeline = 1, .prefix = ids, .n_prefix = 100, .raw = true, .n_predict = 20};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 2;
    assert_int_equal(engine_submit(en, &t, &number, &e), OK);
    engine_map_ask(en, 2);
    struct stats_map map;
    stats_map_init(&map);
    for (int i = 0; i < 60000 && !engine_map(en, &map); i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    assert_int_equal(map.timeline, 2);
    struct stats s;
    engine_stats(en, &s);
    assert_int_equal(s.timeline, 2);
    assert_int_equal(s.n_generated, -1);
    int n_last = 0;
    for (struct engine_event *ev; (ev = engine_poll(en)); engine_event_free(ev)) {
        if (!ev->stats)
            continue;
        n_last++;
        assert_int_equal(ev->kind, ENGINE_EV_DONE);
        assert_int_equal(ev->stats->timeline, 1);
        assert_int_equal(ev->stats->n_generated, ev->n_generated);
        assert_int_equal(ev->stats->n_read, 100);
    }
    assert_int_equal(n_last, 1);
    stats_map_free(&map);
    engine_close(en);
}

static void stats__rates__fit_into_the_time_that_passed(void **state)
{
    (void)state;
    enum { N = 300, MORE = 100, WRITE = 24 };
    int32_t *ids = malloc((N + MORE) * sizeof *ids);
    some_ids(ids, N + MORE);
    struct engine *en = open_with("adaptive", 0, 2048);
    for (int32_t n = N; n <= N + MORE; n += MORE) {
        struct stats s;
        double start_s = clock_s();
        struct told a = turn(en, 1, ids, n, WRITE);
        double passed_s = clock_s() - start_s;
        engine_stats(en, &s);
        assert_int_equal(a.last->kind, ENGINE_EV_DONE);
        assert_int_equal(s.n_generated, WRITE);
        assert_int_equal(s.n_reused + s.n_read, n);
        assert_true(n == N ? s.n_read == N : s.n_read < n);
        double read_s = s.n_read / s.prefill_tps, write_s = (WRITE - 1) / s.decode_tps;
        assert_true(read_s > 0 && write_s > 0);
        assert_true(read_s <= s.ttft_s * 1.001);
        assert_true(s.ttft_s + write_s <= passed_s * 1.001);
        assert_true(s.density == 1 && s.retained_mass == 1 && s.decode_density == 1);
        assert_int_equal(s.n_layer, LAYERS);
        for (int i = 0; i < LAYERS; i++)
            assert_true(s.layer_density[i] == 1 && s.layer_mass[i] == 1);
        told_free(&a);
    }
    engine_close(en);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stats__bytes__are_those_of_the_pages),
        cmocka_unit_test(stats__short_chat__is_not_more_than_f16),
        cmocka_unit_test(stats__map__of_the_chat_asked_for_last_comes),
        cmocka_unit_test(stats__mass__adds_up_to_one),
        cmocka_unit_test(stats__choice__is_the_models_own),
        cmocka_unit_test(stats__budget__takes_effect_at_once),
        cmocka_unit_test(stats__preset__is_changed_and_read_again),
        cmocka_unit_test(stats__room__holds_what_it_says),
        cmocka_unit_test(stats__turn__ends_with_its_own_figures),
        cmocka_unit_test(stats__rates__fit_into_the_time_that_passed),
    };
    return cmocka_run_group_tests_name("stats", tests, NULL, NULL);
}
