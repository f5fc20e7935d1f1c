/* Lines of models with layers that keep a state (engine/kv_state.c): going back, forks, passes that came to
 * nothing and what a store brings back leave the logits that reading from the start leaves, bit for bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/keep.h"
#include "engine/kv_impl.h"
#include "tests/engine/bed.h"
#include "tests/support/tinymodel.h"

enum { PROMPT = 300, N_TOK = 460, BORDER = PROMPT / 64 * 64 };

/* With the gated delta rule and experts, with convolutions alone, with state spaces beside attention and in layers
 * of one part. */
static const char *const models[] = {"qwen35moe", "lfm2", "falcon-h1", "nemotron_h", NULL};

static int32_t text[N_TOK];

static void open_bed(struct bed *b, struct kern *k, const char *name)
{
    char path[256];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/dogear-states-%d.gguf", dir ? dir : "/tmp", (int)getpid());
    tinymodel_write(tinymodel_find(name), path, true);
    bed_open(b, k, path, N_TOK);
    remove(path);
    uint32_t seed = 11;
    for (int32_t i = 0; i < N_TOK; i++) {
        seed = seed * 1664525u + 1013904223u;
        text[i] = (int32_t)(seed >> 16) % TINYMODEL_VOCAB;
    }
}

/* Reads text[kv_n_tok .. end) as a prompt, or token by token as an answer; the last token's logits. */
static const float *go(struct bed *b, struct kv_line *line, int32_t end, bool answer)
{
    return bed_read(b, line, text, end, answer);
}

/* The same of a line that reads from the start, as it is in one go. */
static const float *fresh(struct bed *b, int32_t end)
{
    static float kept[TINYMODEL_VOCAB];
    struct kv_line *line = kv_line_new(b->pool, 1024);
    memcpy(kept, go(b, line, end, false), sizeof kept);
    kv_line_free(line);
    return kept;
}

static void assert_same(const float *a, const float *b)
{
    assert_memory_equal(a, b, TINYMODEL_VOCAB * sizeof *a);
}

/* Calls fn with an open model of each kind. */
static void each(void (*fn)(struct bed *b))
{
    struct kern *k = bed_kern(NULL);
    for (int i = 0; models[i]; i++) {
        struct bed b;
        open_bed(&b, k, models[i]);
        assert_true(b.m->p.n_layer_state > 0);
        fn(&b);
        bed_close(&b);
    }
    kern_close(k);
}

static void answer_again(struct bed *b)
{
    go(b, b->line, PROMPT, false);
    go(b, b->line, N_TOK, true);
    kv_truncate(b->line, PROMPT - 1);
    assert_int_equal(kv_n_tok(b->line), BORDER); /* not from the start */
    const float *want = fresh(b, PROMPT);
    assert_same(go(b, b->line, PROMPT, false), want);
    kv_truncate(b->line, PROMPT - 1); /* and once more */
    assert_int_equal(kv_n_tok(b->line), BORDER);
}

static void states__truncate__before_an_answer(void **state)
{
    each(answer_again);
}

static void ask_otherwise(struct bed *b)
{
    enum { FIRST = 100, SAID = 230, BACK = SAID / 64 * 64 };
    go(b, b->line, FIRST, false);
    go(b, b->line, SAID, true);
    go(b, b->line, PROMPT, false); /* a second prompt, answered */
    go(b, b->line, N_TOK, true);
    kv_truncate(b->line, SAID);
    assert_int_equal(kv_n_tok(b->line), BACK);
    const float *want = fresh(b, N_TOK - 7);
    assert_same(go(b, b->line, N_TOK - 7, false), want);
    kv_truncate(b->line, BACK - 1); /* nothing is at hand for so far back */
    assert_int_equal(kv_n_tok(b->line), 0);
    assert_same(go(b, b->line, N_TOK - 7, false), want);
}

static void states__truncate__before_a_prompt(void **state)
{
    each(ask_otherwise);
}

static void fork_lines(struct bed *b)
{
    go(b, b->line, PROMPT, false);
    go(b, b->line, N_TOK - 20, true);
    struct kv_line *whole = kv_line_fork(b->line, N_TOK - 20), *part = kv_line_fork(b->line, PROMPT + 1);
    assert_int_equal(kv_n_tok(whole), N_TOK - 20);
    assert_int_equal(kv_n_tok(part), BORDER);
    const float *want = fresh(b, N_TOK);
    assert_same(go(b, whole, N_TOK, true), want);
    assert_same(go(b, part, N_TOK, false), want);
    assert_same(go(b, b->line, N_TOK, false), want); /* the others did not touch its state */
    kv_line_free(whole);
    kv_line_free(part);
}

static void states__fork__goes_its_own_way(void **state)
{
    each(fork_lines);
}

static bool stop_late(void *ctx, int32_t layer)
{
    return layer < *(int32_t *)ctx;
}

static void cancel(struct bed *b)
{
    struct err e;
    int32_t last = b->m->p.n_layer - 1;
    go(b, b->line, PROMPT, false);
    bed_check(kv_reserve(b->line, 100, &e), &e);
    assert_int_equal(forward_run(b->f, b->line, text + PROMPT, 100, FORWARD_LAST, stop_late, &last, &e),
                     ERR_CANCELLED);
    assert_int_equal(kv_n_tok(b->line), PROMPT);
    const float *want = fresh(b, N_TOK);
    assert_same(go(b, b->line, N_TOK, true), want);
}

static void states__cancelled__nothing_is_changed(void **state)
{
    each(cancel);
}

static void reserve_once(struct bed *b)
{
    struct err e;
    const float *want = fresh(b, N_TOK), *logits = NULL;
    go(b, b->line, 10, false);
    bed_check(kv_reserve(b->line, N_TOK - 10, &e), &e);
    for (int32_t i = 10; i < N_TOK; i++)
        bed_check(forward_run(b->f, b->line, text + i, 1, FORWARD_LAST, NULL, NULL, &e), &e);
    bed_check(forward_head(b->f, 0, 1, &logits, &e), &e);
    assert_same(logits, want);
}

static void states__reserve__for_many_single_tokens(void **state)
{
    each(reserve_once);
}

static void count_bytes(struct bed *b)
{
    const struct kv_shape shape = forward_kv_shape(&b->m->p);
    uint64_t one = kv_state_bytes(&shape), blocks = kv_block_bytes(&shape);
    struct err e;
    go(b, b->line, PROMPT, false);
    go(b, b->line, N_TOK, true);
    assert_true(kv_line_bytes(b->line) <= (N_TOK + 63) / 64 * blocks + KV_STATES_MOST * one);
    assert_true(kv_line_bytes(b->line) >= (N_TOK + 63) / 64 * blocks + 4 * one);
    assert_int_equal(kv_pool_bytes(b->pool), kv_line_bytes(b->line));
    assert_true(kv_line_bytes(b->line) <= kv_most_bytes(&shape, presets_find("exact"), N_TOK, PROMPT));
    struct kv_line *other = kv_line_new(b->pool, 1024);
    uint64_t need = kv_reserve_bytes(other, 10), had = kv_pool_bytes(b->pool);
    kv_pool_set_budget(b->pool, had + need - 1);
    assert_int_equal(kv_reserve(other, 10, &e), ERR_MEMORY);
    kv_pool_set_budget(b->pool, had + need);
    assert_int_equal(kv_reserve(other, 10, &e), OK);
    assert_int_equal(kv_pool_bytes(b->pool), had + need);
    kv_line_free(other);
    kv_line_free(b->line);
    kv_pool_trim(b->pool);
    assert_int_equal(kv_pool_bytes(b->pool), 0);
    b->line = kv_line_new(b->pool, 1024);
}

static void states__bytes__are_the_budgets(void **state)
{
    each(count_bytes);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(states__truncate__before_an_answer),
        cmocka_unit_test(states__truncate__before_a_prompt),
        cmocka_unit_test(states__fork__goes_its_own_way),
        cmocka_unit_test(states__cancelled__nothing_is_changed),
        cmocka_unit_test(states__reserve__for_many_single_tokens),
        cmocka_unit_test(states__bytes__are_the_budgets),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
