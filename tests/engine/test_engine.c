/* The engine through its public calls: turns, reuse, edits, cancelling, stopping, measuring. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "engine/base/str.h"
#include "engine/engine.h"

static char model_path[1024];

/* The story model, or skips. */
static const char *story(void)
{
    const char *dir = getenv("DOGEAR_DATA");
    snprintf(model_path, sizeof model_path, "%s/_derived/stories260K-ctx512-F32.rebuilt.gguf",
             dir ? dir : "");
    if (access(model_path, R_OK) != 0)
        skip();
    return model_path;
}

static struct engine *open_with(int32_t n_ctx, uint64_t kv_budget)
{
    struct engine_params p = {
        .model_path = story(), .n_ctx = n_ctx, .n_thread = 1, .kv_budget_bytes = kv_budget};
    struct engine *en = NULL;
    struct err e;
    if (engine_open(&p, &en, &e) != OK)
        fail_msg("%s", e.text);
    return en;
}

/* What a turn said, until its last event. */
struct answer {
    struct str text;
    int32_t *ids; /* prompt ids, then generated ids */
    int32_t n_id, n_prompt;
    int n_progress;
    struct engine_event *last;
};

static void answer_free(struct answer *a)
{
    str_fini(&a->text);
    free(a->ids);
    engine_event_free(a->last);
    *a = (struct answer){0};
}

static struct answer collect(struct engine *en, int cancel_after)
{
    struct answer a = {0};
    int n_token = 0;
    while (!a.last) {
        struct engine_event *ev = engine_wait(en, -1);
        assert_non_null(ev);
        if (ev->kind == ENGINE_EV_PROMPT || ev->kind == ENGINE_EV_TOKEN) {
            a.ids = realloc(a.ids, (size_t)(a.n_id + ev->n_id + 1) * sizeof *a.ids);
            memcpy(a.ids + a.n_id, ev->ids, (size_t)ev->n_id * sizeof *a.ids);
            a.n_id += ev->n_id;
        }
        if (ev->kind == ENGINE_EV_PROMPT)
            a.n_prompt = ev->n_id;
        if (ev->kind == ENGINE_EV_PREFILL)
            a.n_progress++;
        if (ev->kind == ENGINE_EV_TOKEN) {
            str_add(&a.text, ev->text, ev->len);
            if (++n_token == cancel_after)
                engine_cancel(en);
        }
        if (ev->kind == ENGINE_EV_DONE || ev->kind == ENGINE_EV_FAILED)
            a.last = ev;
        else
            engine_event_free(ev);
    }
    return a;
}

static struct answer ask(struct engine *en, int64_t timeline, const int32_t *prefix,
                         int32_t n_prefix, const char *text, int32_t n_predict, int cancel_after)
{
    struct engine_message m = {"user", text, text ? strlen(text) : 0};
    struct engine_turn t = {.timeline = timeline,
                            .prefix = prefix,
                            .n_prefix = n_prefix,
                            .messages = &m,
                            .n_message = text ? 1 : 0,
                            .raw = true,
                            .n_predict = n_predict};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 0;
    if (engine_submit(en, &t, &number, &e) != OK)
        fail_msg("%s", e.text);
    struct answer a = collect(en, cancel_after);
    assert_int_equal(a.last->turn, number);
    return a;
}

static void engine__turn__tells_the_known_story(void **state)
{
    struct engine *en = open_with(0, 0);
    const struct engine_info *i = engine_info(en);
    assert_int_equal(i->n_ctx, 512);
    assert_int_equal(i->n_vocab, 512);
    assert_string_equal(i->arch, "llama");
    struct answer a = ask(en, 1, NULL, 0, "Once upon a time", 60, 0);
    assert_int_equal(a.last->kind, ENGINE_EV_DONE);
    assert_int_equal(a.last->stop, ENGINE_STOP_LENGTH);
    assert_int_equal(a.last->n_generated, 60);
    assert_int_equal(a.last->n_read, 5);
    assert_int_equal(a.n_prompt, 5);
    assert_int_equal(a.ids[0], 1); /* bos */
    const char *begin =
        ", there was a little girl named Lily. She loved to play outside in the park.";
    if (strncmp(str_c(&a.text), begin, strlen(begin)) != 0)
        fail_msg("'%s'", str_c(&a.text));
    assert_true(a.last->ttft_ms > 0 && a.last->decode_tps > 0);
    assert_true(a.last->kv_bytes > 0);

    struct stats s;
    engine_stats(en, &s);
    assert_int_equal(s.phase, STATS_IDLE);
    assert_int_equal(s.n_tok, 64); /* the last token was not fed */
    assert_int_equal(s.n_generated, 60);
    assert_true(s.kv_bytes >= s.kv_chat_bytes && s.rss_bytes > 0);
    answer_free(&a);
    engine_close(en);
}

static void engine__turn__goes_on_without_reading_again(void **state)
{
    struct engine *en = open_with(0, 0);
    struct answer whole = ask(en, 1, NULL, 0, "Once upon a time", 40, 0);
    struct answer half = ask(en, 2, NULL, 0, "Once upon a time", 20, 0);
    struct answer rest = ask(en, 2, half.ids, half.n_id, NULL, 20, 0);
    assert_int_equal(rest.last->n_reused, half.n_id - 1);
    assert_int_equal(rest.last->n_read, 1);
    assert_int_equal(rest.n_prompt, 0);
    assert_int_equal(half.n_id + rest.n_id, whole.n_id);
    assert_memory_equal(half.ids, whole.ids, (size_t)half.n_id * 4);
    assert_memory_equal(rest.ids, whole.ids + half.n_id, (size_t)rest.n_id * 4);

    /* Forgotten, it is read again and says the same. */
    engine_forget(en, 2);
    engine_forget(en, 1);
    struct answer again = ask(en, 2, half.ids, half.n_id, NULL, 20, 0);
    assert_int_equal(again.last->n_reused, 0);
    assert_int_equal(again.last->n_read, half.n_id);
    assert_int_equal(again.n_id, rest.n_id);
    assert_memory_equal(again.ids, rest.ids, (size_t)rest.n_id * 4);

    /* The same path once more: only the last token is computed for its logits. */
    struct answer same = ask(en, 2, half.ids, half.n_id, NULL, 20, 0);
    assert_int_equal(same.last->n_read, 1);
    assert_memory_equal(same.ids, rest.ids, (size_t)rest.n_id * 4);
    answer_free(&whole);
    answer_free(&half);
    answer_free(&rest);
    answer_free(&again);
    answer_free(&same);
    engine_close(en);
}

static void engine__turn__shares_beginnings_between_timelines(void **state)
{
    struct engine *en = open_with(0, 0);
    struct answer a = ask(en, 1, NULL, 0, "Once upon a time", 150, 0);
    struct answer b = ask(en, 2, a.ids, 120, "The end. Then", 30, 0);
    assert_true(b.last->n_reused >= 64);
    engine_forget(en, 1);
    engine_forget(en, 2);
    struct answer c = ask(en, 3, a.ids, 120, "The end. Then", 30, 0);
    assert_int_equal(c.last->n_reused, 0);
    assert_int_equal(b.n_id, c.n_id);
    assert_memory_equal(b.ids, c.ids, (size_t)b.n_id * 4);
    answer_free(&a);
    answer_free(&b);
    answer_free(&c);
    engine_close(en);
}

static void engine__turn__drops_other_timelines_when_memory_is_short(void **state)
{
    struct engine *probe = open_with(0, 0);
    struct answer p = ask(probe, 1, NULL, 0, "Once upon a time", 100, 0);
    uint64_t block = (uint64_t)p.last->kv_bytes / 2; /* 104 tokens: two blocks */
    answer_free(&p);
    engine_close(probe);

    struct engine *en = open_with(192, 4 * block);
    for (int64_t i = 0; i < 6; i++) {
        struct answer a = ask(en, i, NULL, 0, i % 2 ? "One day" : "Once upon a time", 120, 0);
        assert_int_equal(a.last->kind, ENGINE_EV_DONE);
        struct stats s;
        engine_stats(en, &s);
        assert_true(s.kv_bytes <= (int64_t)(4 * block));
        answer_free(&a);
    }
    engine_close(en);
}

static void engine__turn__stops_at_the_end_of_the_context(void **state)
{
    struct engine *en = open_with(128, 0);
    struct answer a = ask(en, 1, NULL, 0, "Once upon a time", -1, 0);
    assert_int_equal(a.last->kind, ENGINE_EV_DONE);
    assert_int_equal(a.last->stop, ENGINE_STOP_CONTEXT);
    assert_int_equal(a.n_id, 129); /* the last token is told, not fed */
    struct answer b = ask(en, 1, a.ids, a.n_id, NULL, 1, 0);
    assert_int_equal(b.last->kind, ENGINE_EV_FAILED);
    assert_non_null(strstr(b.last->err.text, "128"));
    answer_free(&a);
    answer_free(&b);
    engine_close(en);
}

static void engine__cancel__ends_the_answer_and_keeps_what_was_read(void **state)
{
    struct engine *en = open_with(0, 0);
    struct answer a = ask(en, 1, NULL, 0, "Once upon a time", -1, 7);
    assert_int_equal(a.last->kind, ENGINE_EV_DONE);
    assert_int_equal(a.last->stop, ENGINE_STOP_CANCEL);
    assert_true(a.last->n_generated >= 7);
    assert_false(engine_busy(en));
    struct answer b = ask(en, 1, a.ids, a.n_id, NULL, 5, 0);
    assert_int_equal(b.last->kind, ENGINE_EV_DONE);
    assert_true(b.last->n_read <= 2);
    answer_free(&a);
    answer_free(&b);
    engine_close(en);
}

static void engine__submit__refuses_while_busy_and_bad_ids(void **state)
{
    struct engine *en = open_with(0, 0);
    struct engine_message m = {"user", "Once", 4};
    struct engine_turn t = {
        .timeline = 1, .messages = &m, .n_message = 1, .raw = true, .n_predict = 300};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    assert_int_equal(engine_submit(en, &t, &number, &e), OK);
    assert_int_equal(engine_submit(en, &t, &number, &e), ERR_BUSY);
    engine_cancel(en);
    struct answer a = collect(en, 0);
    answer_free(&a);
    const int32_t bad[] = {1, 100000};
    a = ask(en, 1, bad, 2, NULL, 5, 0);
    assert_int_equal(a.last->kind, ENGINE_EV_FAILED);
    assert_non_null(strstr(a.last->err.text, "100000"));
    answer_free(&a);
    a = ask(en, 1, NULL, 0, NULL, 5, 0);
    assert_int_equal(a.last->kind, ENGINE_EV_FAILED);
    answer_free(&a);
    /* Closing in the middle of an answer. */
    assert_int_equal(engine_submit(en, &t, &number, &e), OK);
    engine_close(en);
}

static void engine__seed__gives_the_same_text(void **state)
{
    struct engine *en = open_with(0, 0);
    struct engine_message m = {"user", "Once", 4};
    struct engine_turn t = {
        .timeline = 1, .messages = &m, .n_message = 1, .raw = true, .n_predict = 50};
    struct err e;
    uint64_t number;
    struct answer a[3];
    engine_sampling_default(&t.sampling);
    for (int i = 0; i < 3; i++) {
        t.sampling.seed = i < 2 ? 42 : 43;
        assert_int_equal(engine_submit(en, &t, &number, &e), OK);
        a[i] = collect(en, 0);
        assert_true(a[i].last->seed == t.sampling.seed);
    }
    assert_string_equal(str_c(&a[0].text), str_c(&a[1].text));
    assert_string_not_equal(str_c(&a[0].text), str_c(&a[2].text));
    for (int i = 0; i < 3; i++)
        answer_free(&a[i]);
    engine_close(en);
}

static bool keep_row(void *ctx, int32_t i, const float *logits)
{
    float *sum = ctx;
    sum[i] = logits[0];
    return true;
}

/* The story model is far too short for sparse attention to pay: it says so and changes nothing. */
static void engine__coverage__is_told_and_changes_no_short_answer(void **state)
{
    struct engine *en = open_with(0, 0);
    struct answer dense = ask(en, 1, NULL, 0, "Once upon a time", 60, 0);
    struct stats st;
    engine_stats(en, &st);
    assert_float_equal(st.coverage, 1, 0);
    assert_string_equal(st.sparse_reason, "off");
    engine_forget(en, 1);
    engine_set_coverage(en, 0.9f);
    char prompt[1200] = "Once upon a time"; /* long enough to count as a prompt */
    for (int i = 0; i < 20; i++)
        strcat(prompt, " there was a little girl. She liked to play");
    struct answer sparse = ask(en, 1, NULL, 0, "Once upon a time", 60, 0);
    engine_stats(en, &st);
    assert_float_equal(st.coverage, 0.9, 1e-6);
    assert_memory_equal(dense.ids, sparse.ids, (size_t)dense.n_id * sizeof(int32_t));
    struct answer longer = ask(en, 2, NULL, 0, prompt, 5, 0);
    engine_stats(en, &st);
    assert_string_equal(st.sparse_reason, "context too short to pay");
    assert_float_equal(st.density, 1, 0);
    assert_float_equal(st.decode_density, 1, 0);
    answer_free(&dense);
    answer_free(&sparse);
    answer_free(&longer);
    engine_close(en);
}

/* A format's own coverage goes with it; one that was asked for stays. */
static void engine__coverage__follows_the_preset_unless_asked(void **state)
{
    static const struct {
        const char *kv;
        float asked; /* 0 = nothing */
        double want;
    } step[] = {{"cap-95", 0, 0.95}, {"8/8", 0, 1}, {"8/8", 0.9f, 0.9}, {"cap-99", 0, 0.9}, {"adaptive", 1, 1}};
    char path[1024];
    struct engine *en = NULL;
    struct err e = {0};
    story(); /* or skips */
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", getenv("DOGEAR_DATA"));
    assert_int_equal(engine_open(&(struct engine_params){.model_path = path, .n_thread = 1}, &en, &e), OK);
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        struct stats st;
        assert_int_equal(engine_set_kv(en, step[i].kv, &e), OK);
        if (step[i].asked > 0)
            engine_set_coverage(en, step[i].asked);
        int wait_ms = 0;
        for (engine_stats(en, &st); strcmp(st.kv, step[i].kv) != 0 && wait_ms < 10000; wait_ms++) {
            usleep(1000); /* the engine's thread changes the preset */
            engine_stats(en, &st);
        }
        assert_string_equal(st.kv, step[i].kv);
        assert_float_equal(st.coverage, step[i].want, 1e-6);
    }
    engine_close(en);
}

/* This model has no chat format: nothing can be switched, and nothing changes. */
static void engine__reasoning__is_refused_without_a_switch(void **state)
{
    struct engine *en = open_with(0, 0);
    struct err e;
    assert_int_equal(engine_set_reasoning(en, "auto", &e), OK);
    assert_int_equal(engine_set_reasoning(en, "on", &e), ERR_UNSUPPORTED);
    assert_int_equal(engine_set_reasoning(en, "off", &e), ERR_UNSUPPORTED);
    assert_int_equal(engine_set_reasoning(en, "perhaps", &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "'perhaps'"));
    engine_close(en);
}

static void engine__measuring__logits_and_bench(void **state)
{
    struct engine *en = open_with(0, 0);
    int32_t ids[40];
    float first[40];
    struct err e;
    for (int32_t i = 0; i < 40; i++)
        ids[i] = 1 + i * 7 % 500;
    assert_int_equal(engine_logits(en, ids, 40, keep_row, first, &e), OK);
    for (int32_t i = 0; i < 40; i++)
        assert_true(isfinite(first[i]));
    struct engine_bench b = {.n_prompt = 100, .depth = 200, .n_rep = 3};
    struct engine_bench_result r;
    assert_int_equal(engine_bench(en, &b, &r, &e), OK);
    assert_true(r.tps_min > 0 && r.tps_min <= r.tps_median && r.tps_median <= r.tps_max);
    b = (struct engine_bench){.n_gen = 16, .depth = 300, .n_rep = 2};
    assert_int_equal(engine_bench(en, &b, &r, &e), OK);
    assert_true(r.gbps > 0);
    b.depth = 600;
    assert_int_equal(engine_bench(en, &b, &r, &e), ERR_USAGE);
    engine_close(en);
}

static void engine__open__fails_with_one_line(void **state)
{
    static const struct {
        const char *path, *backend, *kv;
        enum status status;
    } bad[] = {
        {"/nonexistent.gguf", NULL, NULL, ERR_NOT_FOUND},
        {"", NULL, NULL, ERR_USAGE},
        {NULL, "abacus", NULL, ERR_USAGE},
        {NULL, NULL, "nonsense", ERR_USAGE},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct engine_params p = {.model_path = bad[i].path ? bad[i].path : story(),
                                  .backend = bad[i].backend,
                                  .kv = bad[i].kv,
                                  .n_thread = 1};
        struct engine *en = NULL;
        struct err e;
        assert_int_equal(engine_open(&p, &en, &e), bad[i].status);
        assert_null(en);
        assert_null(strchr(e.text, '\n'));
    }
}

static bool stop_loading(void *ctx, float done)
{
    return done < 0.5f;
}

static void engine__open__can_be_cancelled_or_vocabulary_only(void **state)
{
    struct engine_params p = {.model_path = story(), .progress = stop_loading};
    struct engine *en = NULL;
    struct err e;
    assert_int_equal(engine_open(&p, &en, &e), ERR_CANCELLED);
    p = (struct engine_params){.model_path = story(), .vocab_only = true};
    assert_int_equal(engine_open(&p, &en, &e), OK);
    int32_t *ids, n;
    assert_int_equal(engine_tokenize(en, "Once upon", 9, false, true, &ids, &n, &e), OK);
    char *text;
    size_t len;
    assert_int_equal(engine_detokenize(en, ids, n, false, &text, &len, &e), OK);
    assert_string_equal(text, "Once upon");
    free(text);
    free(ids);
    struct engine_turn t = {.n_predict = 1};
    uint64_t number;
    assert_int_equal(engine_submit(en, &t, &number, &e), ERR_USAGE);
    engine_close(en);
}

static void engine__inspect__is_json(void **state)
{
    char *text;
    struct err e;
    assert_int_equal(engine_inspect(story(), 0, 0, &text, &e), OK);
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "model"), "layers")), 5);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "plan"), "context")),
                     512);
    assert_true(json_array_size(json_object_get(j, "tensors")) > 40);
    json_decref(j);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine__reasoning__is_refused_without_a_switch),
        cmocka_unit_test(engine__turn__tells_the_known_story),
        cmocka_unit_test(engine__turn__goes_on_without_reading_again),
        cmocka_unit_test(engine__turn__shares_beginnings_between_timelines),
        cmocka_unit_test(engine__turn__drops_other_timelines_when_memory_is_short),
        cmocka_unit_test(engine__turn__stops_at_the_end_of_the_context),
        cmocka_unit_test(engine__cancel__ends_the_answer_and_keeps_what_was_read),
        cmocka_unit_test(engine__submit__refuses_while_busy_and_bad_ids),
        cmocka_unit_test(engine__seed__gives_the_same_text),
        cmocka_unit_test(engine__coverage__is_told_and_changes_no_short_answer),
        cmocka_unit_test(engine__coverage__follows_the_preset_unless_asked),
        cmocka_unit_test(engine__measuring__logits_and_bench),
        cmocka_unit_test(engine__open__fails_with_one_line),
        cmocka_unit_test(engine__open__can_be_cancelled_or_vocabulary_only),
        cmocka_unit_test(engine__inspect__is_json),
    };
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
