/* The price of compression, measured exactly: engine_verify against an independent comparison. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/base/compare.h"
#include "engine/engine.h"
#include "tests/engine/bed.h"

enum { N_TOK = 700, N_LONG = 4000, N_CTX = 4096 };

static int32_t ids[N_CTX + 2];

static struct engine *open_model(const char *model, const char *kv, uint64_t budget)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/reference/%s.gguf", bed_data(), model);
    for (int32_t i = 0; i < N_CTX + 2; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i % 251 * i * 11) % 500 + 3;
    struct engine_params p = {
        .model_path = path, .n_ctx = N_CTX, .n_thread = 1, .kv = kv, .kv_budget_bytes = budget};
    struct engine *en = NULL;
    struct err e;
    enum status st = engine_open(&p, &en, &e);
    if (st != OK && !budget)
        fail_msg("%s", e.text);
    return en; /* NULL: the budget is too small for the context */
}

static struct engine *open_kv(const char *kv, uint64_t budget)
{
    return open_model("llama-F16", kv, budget);
}

/* Feeds the ids and one token of an answer to timeline 1. */
static void feed(struct engine *en, int32_t n)
{
    struct engine_turn t = {
        .timeline = 1, .prefix = ids, .n_prefix = n, .raw = true, .n_predict = 1};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    bed_check(engine_submit(en, &t, &number, &e), &e);
    for (bool go = true; go;) {
        struct engine_event *ev = engine_wait(en, 60000);
        assert_non_null(ev);
        assert_int_not_equal(ev->kind, ENGINE_EV_FAILED);
        go = ev->kind != ENGINE_EV_DONE;
        engine_event_free(ev);
    }
}

/* The last event of a verification; cancelled at the first sign of life when asked. */
static struct engine_event *verify(struct engine *en, int64_t timeline, int32_t n, bool cancel,
                                   int *ret_progress)
{
    struct err e;
    uint64_t number;
    bed_check(engine_verify(en, timeline, ids, n, &number, &e), &e);
    /* Shorter ones, and one that the context refuses, may be over by now. */
    if (n > 100 && n <= engine_info(en)->n_ctx + 1)
        assert_int_equal(engine_verify(en, timeline, ids, n, &number, &e), ERR_BUSY);
    if (cancel)
        engine_cancel(en);
    for (*ret_progress = 0;; ++*ret_progress) {
        struct engine_event *ev = engine_wait(en, 60000);
        assert_non_null(ev);
        assert_int_equal(ev->turn, number);
        if (ev->kind != ENGINE_EV_VERIFY)
            return ev;
        int32_t total = n < N_CTX ? n : N_CTX;
        assert_true(ev->n_tok_done <= total && ev->n_tok_total == total);
        engine_event_free(ev);
    }
}

struct rows {
    float *all; /* [N_TOK, n_vocab] */
    int32_t n_vocab;
};

static bool keep_row(void *ctx, int32_t i, const float *logits)
{
    struct rows *r = ctx;
    memcpy(r->all + (size_t)i * (size_t)r->n_vocab, logits, (size_t)r->n_vocab * sizeof *logits);
    return true;
}

/* The same comparison through two engines and engine_logits. */
static struct compare by_hand(const char *kv)
{
    struct rows rows[2];
    struct compare sum = {0};
    for (int k = 0; k < 2; k++) {
        struct engine *en = open_kv(k ? kv : "exact", 0);
        struct err e;
        rows[k].n_vocab = engine_info(en)->n_vocab;
        rows[k].all = calloc((size_t)N_TOK * (size_t)rows[k].n_vocab, sizeof(float));
        bed_check(engine_logits(en, ids, N_TOK, keep_row, &rows[k], &e), &e);
        engine_close(en);
    }
    for (int32_t i = 0; i < N_TOK; i++) {
        size_t at = (size_t)i * (size_t)rows[0].n_vocab;
        struct compare_row r = compare_logits(rows[0].all + at, rows[1].all + at, rows[0].n_vocab,
                                              i + 1 < N_TOK ? ids[i + 1] : -1);
        compare_add(&sum, &r);
    }
    free(rows[0].all);
    free(rows[1].all);
    return sum;
}

static void verify__fixed_format__equals_a_comparison_by_hand(void **state)
{
    struct engine *en = open_kv("4/4", 0);
    feed(en, N_TOK);
    int n_progress;
    struct engine_event *ev = verify(en, 1, N_TOK, false, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_VERIFIED);
    assert_int_equal(ev->stop, ENGINE_STOP_EOS);
    struct engine_fidelity f = ev->fidelity;
    struct stats_agree *agree = ev->agree;
    ev->agree = NULL;
    engine_event_free(ev);
    assert_int_equal(f.n, N_TOK);
    assert_int_equal(f.n_tok, N_TOK);
    struct compare c = by_hand("4/4");
    print_message("# KL %.4g (by hand %.4g), p99 %.3g, top-1 %.3f, first differs at %d\n",
                  f.kl_mean, compare_kl_mean(&c), f.kl_p99, f.top1, f.first_divergence);
    assert_true(f.kl_mean > 0 && f.kl_p99 >= f.kl_mean && f.top1 <= 1);
    assert_true(fabs(f.kl_mean - compare_kl_mean(&c)) < 1e-6 * f.kl_mean);
    assert_true(fabs(f.top1 - compare_top1(&c)) < 1e-9);
    int32_t n_same = 0;
    for (int32_t i = 0; i < N_TOK; i++) {
        n_same += agree[i].same;
        assert_true(fabs((double)agree[i].kl - c.kl[i]) <= 1e-6 * c.kl[i]);
        assert_true(agree[i].same || f.first_divergence <= i);
    }
    assert_int_equal(n_same, c.n_same);
    free(agree);
    assert_true(f.first_divergence < 0 || f.first_divergence >= 128);
    assert_int_equal(f.first_divergence, c.first_differs - 1);
    assert_true(isfinite(f.nll) && isfinite(f.nll_exact) && f.nll != f.nll_exact);

    struct stats s;
    engine_stats(en, &s);
    assert_int_equal(s.phase, STATS_IDLE);
    assert_int_equal(s.verified.n, N_TOK);
    assert_true(s.verified.kl == f.kl_mean && s.verified.top1 == f.top1);
    assert_true(isfinite(s.verified.at_s) && s.n_verify_total == -1);

    /* Nothing was changed: the timeline goes on from where it stood. */
    struct engine_turn t = {
        .timeline = 1, .prefix = ids, .n_prefix = N_TOK, .raw = true, .n_predict = 1};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    bed_check(engine_submit(en, &t, &number, &e), &e);
    for (bool go = true; go;) {
        ev = engine_wait(en, 60000);
        go = ev->kind != ENGINE_EV_DONE;
        if (!go)
            assert_int_equal(ev->n_reused, N_TOK - 1);
        engine_event_free(ev);
    }
    engine_stats(en, &s);
    assert_int_equal(s.verified.n, N_TOK);
    /* Of another timeline nothing is known. */
    t.timeline = 2;
    bed_check(engine_submit(en, &t, &number, &e), &e);
    for (bool go = true; go;) {
        ev = engine_wait(en, 60000);
        go = ev->kind != ENGINE_EV_DONE;
        engine_event_free(ev);
    }
    engine_stats(en, &s);
    assert_int_equal(s.verified.n, -1);
    assert_true(isnan(s.verified.kl) && isnan(s.verified.at_s));
    compare_fini(&c);
    engine_close(en);
}

/* Nor is what rounding does to an exact cache taken for its cost: next to nothing where weights are f16, much
 * more where they are multiplied by inputs of 8 bits. */
static void verify__exact__costs_nothing(void **state)
{
    static const char *const models[] = {"llama-F16", "llama-Q4_K_M"};
    double rounding[2];
    for (int i = 0; i < 2; i++) {
        struct engine *en = open_model(models[i], "exact", 0);
        int n_progress;
        struct engine_event *ev = verify(en, 1, N_TOK, false, &n_progress);
        const struct engine_fidelity *f = &ev->fidelity;
        assert_int_equal(ev->kind, ENGINE_EV_VERIFIED);
        assert_true(f->n == N_TOK && f->kl_mean == 0 && f->top1 == 1);
        assert_true(f->first_divergence == -1 && f->kl_p99 == 0 && f->nll == f->nll_exact);
        assert_int_equal(f->n_rounding, N_TOK);
        rounding[i] = f->kl_rounding;
        print_message("# %s: rounding alone KL %.3g, top-1 %.4f\n", models[i], f->kl_rounding, f->top1_rounding);
        assert_true(f->top1_rounding > 0.5 && f->top1_rounding <= 1);
        engine_event_free(ev);
        engine_close(en);
    }
    assert_true(rounding[0] > 0 && rounding[0] < 1e-4);
    assert_true(rounding[1] > 10 * rounding[0]);
}

/* What is measured are the pages as they are now, stepped down ones included. */
static void verify__stepped_down__sees_the_pages_at_hand(void **state)
{
    double kl[2];
    int64_t bytes[2];
    for (int k = 0; k < 2; k++) {
        /* The least that the context can be planned with, and plenty. */
        struct engine *en = NULL;
        for (uint64_t budget = 1u << 16; !en; budget += budget / 32)
            en = open_kv("adaptive", k ? budget : 0);
        feed(en, N_LONG);
        struct stats s;
        engine_stats(en, &s);
        bytes[k] = s.kv_chat_bytes;
        int n_progress;
        struct engine_event *ev = verify(en, 1, N_LONG, false, &n_progress);
        if (ev->kind == ENGINE_EV_FAILED)
            fail_msg("%s", ev->err.text);
        kl[k] = ev->fidelity.kl_mean;
        engine_event_free(ev);
        engine_stats(en, &s);
        assert_int_equal(s.verified.n, N_LONG);
        /* What was found of pages that step down then is no longer true of them. */
        if (k == 0)
            engine_set_kv_budget(en, (uint64_t)bytes[0] * 3 / 4);
        for (int i = 0; i < 60000 && k == 0 && s.verified.n >= 0; i++) {
            usleep(1000); /* the engine's thread steps them down */
            engine_stats(en, &s);
        }
        assert_int_equal(s.verified.n, k ? N_LONG : -1);
        engine_close(en);
    }
    print_message("# KL %.4g at %lld bytes, %.4g at %lld\n", kl[0], (long long)bytes[0], kl[1],
                  (long long)bytes[1]);
    assert_true(kl[0] > 0);
    assert_true(bytes[1] < bytes[0] && kl[1] > kl[0]);
}

/* While an answer is written: unknown without pages, measured with them, more for fewer bits, and
 * the ledger's prediction for the same pages is of the same size. */
static void witness__answer__measures_single_layers(void **state)
{
    static const char *const kv[] = {"exact", "8/8", "4/4", "2/2"};
    double last = 0;
    for (size_t i = 0; i < 4; i++) {
        struct engine *en = open_kv(kv[i], 0);
        struct engine_turn t = {
            .timeline = 1, .prefix = ids, .n_prefix = N_TOK, .raw = true, .n_predict = 60};
        struct err e;
        struct stats s;
        uint64_t number;
        engine_sampling_default(&t.sampling);
        t.sampling.seed = 3; /* no answer ends early with it */
        engine_stats(en, &s);
        assert_true(isnan(s.step_error) && isnan(s.harm_measured) && s.step_n == -1);
        bed_check(engine_submit(en, &t, &number, &e), &e);
        for (bool go = true; go;) {
            struct engine_event *ev = engine_wait(en, 60000);
            go = ev->kind != ENGINE_EV_DONE;
            engine_event_free(ev);
        }
        engine_stats(en, &s);
        print_message("# %s: %d answers, error %.3g, harm predicted %.3g, measured %.3g\n", kv[i],
                      s.step_n, s.step_error, s.harm_predicted, s.harm_measured);
        if (i == 0) {
            assert_true(isnan(s.step_error) && isnan(s.step_at_s) && s.step_n == -1);
        } else {
            assert_true(s.step_n >= 3 && s.step_n <= 5 && isfinite(s.step_at_s));
            assert_true(s.step_error > last && s.step_error < 1);
            assert_true(s.harm_measured > s.harm_predicted / 30 &&
                        s.harm_measured < s.harm_predicted * 30);
            last = s.step_error;
        }
        /* Another timeline has no such figures yet. */
        t.timeline = 2;
        t.n_prefix = 20;
        t.n_predict = 2;
        bed_check(engine_submit(en, &t, &number, &e), &e);
        for (bool go = true; go;) {
            struct engine_event *ev = engine_wait(en, 60000);
            go = ev->kind != ENGINE_EV_DONE;
            engine_event_free(ev);
        }
        engine_stats(en, &s);
        assert_true(isnan(s.step_error) && s.step_n == -1);
        engine_close(en);
    }
}

static void verify__cancel__tells_what_it_has(void **state)
{
    struct engine *en = open_kv("8/8", 0);
    int n_progress;
    struct engine_event *ev = verify(en, 1, N_TOK, true, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_VERIFIED);
    assert_int_equal(ev->stop, ENGINE_STOP_CANCEL);
    assert_true(ev->fidelity.n < N_TOK);
    if (ev->fidelity.n == 0)
        assert_true(isnan(ev->fidelity.kl_mean) && isnan(ev->fidelity.top1));
    engine_event_free(ev);
    feed(en, N_TOK); /* and the engine goes on */
    engine_close(en);
}

static void verify__bad_input__fails_with_one_line(void **state)
{
    struct engine *en = open_kv("8/8", 0);
    int n_progress;
    struct engine_event *ev = verify(en, 1, 1, false, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_FAILED);
    assert_non_null(strstr(ev->err.text, "1 tokens"));
    engine_event_free(ev);
    /* An answer that filled the context ends with a token that was not read. */
    struct engine_info info = *engine_info(en);
    ev = verify(en, 1, info.n_ctx + 1, false, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_VERIFIED);
    assert_int_equal(ev->fidelity.n, info.n_ctx);
    engine_event_free(ev);
    ev = verify(en, 1, info.n_ctx + 2, false, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_FAILED);
    assert_non_null(strstr(ev->err.text, "context holds"));
    engine_event_free(ev);
    ids[5] = 1 << 30;
    ev = verify(en, 1, 10, false, &n_progress);
    assert_int_equal(ev->kind, ENGINE_EV_FAILED);
    assert_int_equal(ev->err.code, ERR_USAGE);
    engine_event_free(ev);
    engine_close(en);
}

static void compare__known_rows__give_known_figures(void **state)
{
    const float p[3] = {0, logf(2), logf(5)}, q[3] = {logf(5), logf(2), 0};
    struct compare_row same = compare_logits(p, p, 3, 2), other = compare_logits(p, q, 3, 2);
    assert_true(same.kl == 0 && same.same && same.nll == same.nll_exact);
    assert_true(fabs(same.nll - log(8.0 / 5)) < 1e-6);
    assert_false(other.same);
    assert_true(fabs(other.kl - (5 - 1) / 8.0 * log(5)) < 1e-6);
    assert_true(fabs(other.nll - log(8)) < 1e-6);
    assert_true(isnan(compare_logits(p, q, 3, -1).nll));
    struct compare c = {0};
    assert_true(isnan(compare_kl_mean(&c)) && isnan(compare_top1(&c)) && isnan(compare_nll(&c)));
    for (int i = 0; i < 200; i++)
        compare_add(&c, i == 150 ? &other : &same);
    assert_int_equal(c.first_differs, 151);
    assert_true(compare_kl_p99(&c) == 0 && fabs(compare_kl_mean(&c) - other.kl / 200) < 1e-12);
    assert_true(fabs(compare_top1(&c) - 0.995) < 1e-12);
    compare_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compare__known_rows__give_known_figures),
        cmocka_unit_test(verify__fixed_format__equals_a_comparison_by_hand),
        cmocka_unit_test(verify__exact__costs_nothing),
        cmocka_unit_test(verify__stepped_down__sees_the_pages_at_hand),
        cmocka_unit_test(witness__answer__measures_single_layers),
        cmocka_unit_test(verify__cancel__tells_what_it_has),
        cmocka_unit_test(verify__bad_input__fails_with_one_line),
    };
    return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
