/* The floor of compression: measured on each model, kept in a file, obeyed by the controller. */
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

#include "engine/floor.h"
#include "engine/kv_impl.h"
#include "engine/ledger.h"
#include "tests/engine/bed.h"

struct loaded {
    struct kern *k;
    struct gguf *g;
    struct tokenizer *t;
    struct model *m;
};

static struct loaded load(const char *name)
{
    struct loaded x = {.k = kern_open_cpu(NULL, 1)};
    char path[1024];
    struct err e;
    snprintf(path, sizeof path, "%s/reference/%s-F16.gguf", bed_data(), name);
    bed_check(gguf_open(path, &x.g, &e), &e);
    bed_check(tokenizer_open(x.g, &x.t, &e), &e);
    bed_check(model_read(x.g, &x.m, &e), &e);
    bed_check(model_load(x.m, x.k, NULL, NULL, &e), &e);
    return x;
}

static void unload(struct loaded *x)
{
    model_free(x->m);
    tokenizer_free(x->t);
    gguf_close(x->g);
    kern_close(x->k);
}

static struct floor measured(struct loaded *x, double limit)
{
    struct floor f;
    struct err e;
    bed_check(floor_measure(x->m, x->t, limit, NULL, NULL, &f, &e), &e);
    return f;
}

static void show(const char *name, const struct floor *f)
{
    print_message("# %s:", name);
    for (int i = 0; i < FLOOR_RUNGS; i++)
        print_message(" %s %.3g", floor_names[i], f->kl[i]);
    print_message(" (KL over %d positions)\n", f->n);
}

/* Random weights feel every bit; what matters is that each model is measured, that coarser costs
 * more, and that the floor is the last rung within the limit. */
static void floor__families__are_measured(void **state)
{
    static const char *const names[] = {"llama", "qwen2", "qwen3"}; /* plain, biased, normed keys */
    for (size_t i = 0; i < 3; i++) {
        struct loaded x = load(names[i]);
        struct floor all = measured(&x, INFINITY);
        show(names[i], &all);
        assert_int_equal(all.rung, FLOOR_RUNGS - 1);
        assert_true(all.n >= 150);
        assert_true(all.kl[0] > 0 && all.kl[3] > all.kl[0] && all.kl[5] > all.kl[3]);
        /* A limit between two rungs makes the finer one the floor. */
        struct floor f = measured(&x, sqrt(all.kl[3] * all.kl[4]));
        assert_int_equal(f.rung, 3);
        assert_true(f.kl[3] == all.kl[3] && isnan(f.kl[5]));
        f = measured(&x, all.kl[0] / 2);
        assert_int_equal(f.rung, 0);
        unload(&x);
    }
}

/* The same model with large biases planted on a few key channels has a finer floor. */
static void floor__planted_key_bias__is_found(void **state)
{
    struct loaded x = load("qwen2");
    struct floor before = measured(&x, INFINITY);
    const struct model_params *p = &x.m->p;
    for (int32_t y = 0; y < p->n_layer; y++)
        for (int32_t h = 0; h < p->n_head_kv; h++)
            for (int32_t c = 0; c < 4; c++) /* fast RoPE pairs: no constant over a page */
                ((float *)(uintptr_t)x.m->layer[y].k_bias.dev)[h * p->head_dim + c] += 60;
    struct floor after = measured(&x, INFINITY);
    show("qwen2", &before);
    show("with planted biases", &after);
    assert_true(after.kl[3] > 2 * before.kl[3]);
    double limit = sqrt(before.kl[3] * after.kl[3]);
    assert_true(measured(&x, limit).rung < 3);
    unload(&x);
    x = load("qwen2");
    assert_true(measured(&x, limit).rung >= 3);
    unload(&x);
}

static void floor__file__round_trip_and_damage(void **state)
{
    char dir[] = "/tmp/dogear-floor-XXXXXX", sub[64], name[128], line[512];
    assert_non_null(mkdtemp(dir));
    snprintf(sub, sizeof sub, "%s/a/b", dir);
    struct floor f = {.rung = 2, .n = 192, .kl = {0.001, 0.002, 0.003, 0.5, NAN, NAN}}, g;
    assert_false(floor_load(sub, 77, &g));
    floor_store(sub, 77, &f);
    assert_true(floor_load(sub, 77, &g));
    assert_true(g.rung == 2 && g.n == 192 && g.kl[2] == f.kl[2] && isnan(g.kl[5]));
    assert_false(floor_load(sub, 78, &g));
    /* Another model's file under our name, cut at any place, or any byte changed to another that is
     * not a digit: ignored. */
    snprintf(name, sizeof name, "%s/%016x", sub, 77);
    FILE *file = fopen(name, "r");
    size_t size = fread(line, 1, sizeof line, file);
    fclose(file);
    for (size_t i = 0; i < size; i++)
        for (int cut = 0; cut < 2; cut++) {
            char bad[512];
            memcpy(bad, line, size);
            bad[i] = '#';
            file = fopen(name, "w");
            fwrite(bad, 1, cut ? i : size, file);
            fclose(file);
            assert_false(floor_load(sub, 77, &g));
        }
    floor_store(sub, 77, &f);
    assert_true(floor_load(sub, 77, &g));
    unlink(name);
    rmdir(sub);
    snprintf(name, sizeof name, "%s/a", dir);
    rmdir(name);
    rmdir(dir);
}

/* Bytes by tier after stepping down to a budget that asks for `part` of the pages' bytes. */
static void squeeze(struct bed *b, struct kern *k, int floor_k, int floor_v, double part,
                    int64_t tier[STATS_TIERS], bool *ret_under)
{
    enum { N = 640 };
    static int32_t ids[N];
    struct err e;
    kv_line_free(b->line);
    kv_pool_free(b->pool);
    const struct kv_shape s = {b->m->p.n_layer, b->m->p.n_head_kv, b->m->p.head_dim};
    b->pool = kv_pool_new(k, &s, presets_find("adaptive"), 1u << 28);
    b->line = kv_line_new(b->pool, 1024);
    for (int32_t i = 0; i < N; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i * i * 11) % 500 + 3;
    for (int32_t at = 0; at < N; at += 128) {
        bed_check(kv_reserve(b->line, 128, &e), &e);
        bed_check(forward_run(b->f, b->line, ids + at, 128, FORWARD_NONE, NULL, NULL, &e), &e);
    }
    kv_pool_trim(b->pool);
    ledger_set_floor(b->pool, floor_k, floor_v);
    uint64_t pages = 0;
    for (int32_t j = 0; j < b->line->n_block; j++)
        pages += b->line->block[j]->page_bytes;
    kv_pool_set_budget(b->pool, kv_pool_bytes(b->pool) - (uint64_t)((1 - part) * (double)pages));
    ledger_fit(b->pool, 0);
    ledger_tiers(b->line, tier);
    *ret_under = ledger_under_floor(b->pool);
}

static void floor__controller__passes_it_only_at_last(void **state)
{
    struct bed b;
    struct kern *k = kern_open_cpu(NULL, 1);
    char path[1024];
    int64_t tier[STATS_TIERS];
    bool under;
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", bed_data());
    bed_open(&b, k, path, 128);
    squeeze(&b, k, 8, 4, 0.9, tier, &under); /* 8/4 everywhere would be 0.78 */
    assert_true(tier[1] > 0 && tier[2] > 0 && tier[3] + tier[4] == 0 && !under);
    squeeze(&b, k, 8, 4, 0.7, tier, &under); /* and that is not enough here */
    assert_true(tier[3] + tier[4] > 0 && tier[1] == 0 && under);
    squeeze(&b, k, 4, 2, 0.5, tier, &under); /* coarser than the preset's own */
    assert_true(tier[5] > 0 && tier[6] == 0 && !under);
    bed_close(&b);
    kern_close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floor__families__are_measured),
        cmocka_unit_test(floor__planted_key_bias__is_found),
        cmocka_unit_test(floor__file__round_trip_and_damage),
        cmocka_unit_test(floor__controller__passes_it_only_at_last),
    };
    return cmocka_run_group_tests_name("floor", tests, NULL, NULL);
}
