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

#include "engine/engine.h"
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
        assert_int_equal(all.n_group, x.m->p.n_layer);
        for (int32_t g = 0; g < all.n_group; g++)
            assert_true(all.group[g].kl_k > 0 && all.group[g].kl_v > 0 &&
                        all.group[g].error2_k > 0 && all.group[g].error2_v > 0);
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
    struct floor f = {.rung = 2, .n = 192, .kl = {0.001, 0.002, 0.003, 0.5, NAN, NAN},
                      .n_group = 2, .group = {{1 / 3.0, 2e-7 / 3, 3, 4}, {0.5, 0.25, 0.125, 0}}}, g;
    assert_false(floor_load(sub, 77, &g));
    floor_store(sub, 77, &f);
    assert_true(floor_load(sub, 77, &g));
    assert_true(g.rung == 2 && g.n == 192 && g.kl[2] == f.kl[2] && isnan(g.kl[5]));
    assert_int_equal(g.n_group, 2);
    assert_memory_equal(g.group, f.group, 2 * sizeof *f.group);
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

/* n layers of which the first n_wide are twice as wide. */
static struct kv_shape shape_of(int32_t n, int32_t n_wide)
{
    struct kv_shape s = {0};
    for (int32_t i = 0; i < n; i++)
        kv_shape_add(&s, 2, i < n_wide ? 128 : 64, 0);
    return s;
}

/* Care of n layers of a model whose layers cost kl[i] each, keys as much as values. */
static void care_of(const char *preset, int32_t n, const double *kl, struct kv_care *ret)
{
    struct floor f = {.rung = 3, .n = 1, .n_group = n};
    for (int32_t i = 0; i < n; i++)
        f.group[i] = (struct floor_group){kl[i], kl[i], 0.01, 0.01};
    const struct kv_shape s = shape_of(n, 0);
    floor_care(&f, presets_find(preset), &s, ret);
}

static int32_t bits(const struct kv_care *care, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += care[i].seal.bits_k + care[i].seal.bits_v;
    return sum;
}

/* Formats are averages: fragile layers get more where that pays, at the bytes of the even choice. */
static void floor__care__serves_the_fragile_layer_at_the_same_bytes(void **state)
{
    struct kv_care care[16];
    const double even[8] = {1, 1, 1, 1, 1, 1, 1, 1}, one[8] = {0, 50, .2, .1, .2, .1, .1, .1};
    for (int32_t r = 0; r < FLOOR_RUNGS; r++) {
        const struct preset *p = presets_find(floor_names[r]);
        care_of(floor_names[r], 8, even, care);
        for (int32_t i = 0; i < 8; i++)
            assert_true(care[i].seal.bits_k == p->bits_k && care[i].seal.bits_v == p->bits_v);
        care_of(floor_names[r], 8, one, care);
        assert_true(bits(care, 8) <= 8 * (p->bits_k + p->bits_v));
        int32_t coarsest = 0;
        for (int32_t i = 0; i < 8; i++) {
            int32_t step = kv_step(care[i].seal);
            coarsest = step > coarsest ? step : coarsest;
            assert_true((i == 0 || step >= kv_step(care[1].seal)) &&
                        kv_step(care[i].floor) == step);
        }
        if (r > 0 && r < 5)
            assert_true(kv_step(care[1].seal) < r && coarsest > r);
        assert_true(care[1].harm_k > 50 * care[3].harm_k);
    }
    /* Where pages step down, the floors are spread and the beginning is not. */
    care_of("adaptive", 8, one, care);
    for (int32_t i = 0; i < 8; i++)
        assert_true(care[i].seal.bits_k == 8 && care[i].seal.bits_v == 8);
    assert_true(kv_step(care[1].floor) < 3 && kv_step(care[6].floor) > 3);
    /* Of layers that cost the same, where some must get more, the first. */
    const double two[8] = {1, 1, 1, 1, 50, 50, 50, 50};
    care_of("8/4", 8, two, care);
    for (int32_t i = 1; i < 8; i++)
        assert_true(i == 4 || kv_step(care[i].seal) >= kv_step(care[i - 1].seal));
    /* More layers than groups: a group's cost is its layers' together. */
    struct floor f = {.rung = 3, .n = 1, .n_group = FLOOR_GROUPS - 2};
    for (int32_t i = 0; i < f.n_group; i++)
        f.group[i] = (struct floor_group){i == 0 || i == 5 ? 1 : 3.5, 1, 1, 1};
    f.group[2].kl_k = 700;
    struct kv_shape s = shape_of(16, 0);
    floor_care(&f, presets_find("4/4"), &s, care);
    for (int32_t i = 1; i < 16; i++)
        assert_true((care[i].seal.bits_k > 4) == (i >= 5 && i <= 7));
    /* Wide layers take more of what there is: no more bytes than if all were alike. */
    s = shape_of(16, 9);
    floor_care(&f, presets_find("4/4"), &s, care);
    uint64_t sum = 0;
    for (int32_t i = 0; i < 16; i++)
        sum += 2 * page_size(&(struct page_shape){s.heads[i].dim, care[i].seal.bits_k, care[i].seal.bits_v});
    assert_true(sum <= kv_sealed_bytes(&s, (struct kv_depth){4, 4}));
    /* Of latents keys alone are kept: what is saved in one layer pays for keys of another. */
    s = (struct kv_shape){0};
    for (int32_t i = 0; i < 16; i++)
        kv_shape_add(&s, 1, 576, 512);
    floor_care(&f, presets_find("4/4"), &s, care);
    sum = 0;
    int32_t most = 0;
    for (int32_t i = 0; i < 16; i++) {
        const struct page_shape page = kv_page_shape(&s.heads[i], care[i].seal);
        sum += page_size(&page);
        most = page.bits_k > most ? page.bits_k : most;
    }
    assert_true(sum <= kv_sealed_bytes(&s, (struct kv_depth){4, 4}) && most > 4);
}

/* Where a short text shows nothing, keys of the first layer come before all, then those of the last,
 * of early layers, of late ones, values last, and the controller prices them so. */
static void floor__care__doubts_what_was_not_seen(void **state)
{
    struct kv_care care[4];
    const double kl[4] = {0, 1, 0, 0};
    care_of("4/2", 4, kl, care);
    assert_true(care[0].seal.bits_k > care[2].seal.bits_k && care[3].seal.bits_k > care[2].seal.bits_k);
    assert_true(care[0].seal.bits_k > care[0].seal.bits_v);
    assert_true(care[0].harm_k > care[1].harm_k && care[3].harm_k > care[2].harm_k);
    assert_true(care[3].harm_k > care[3].harm_v && care[0].harm_v == care[3].harm_v);
}

/* The layer that was spoilt is the one that measuring finds. */
static void floor__groups__planted_bias_is_found_in_its_layer(void **state)
{
    struct loaded x = load("qwen2");
    const struct model_params *p = &x.m->p;
    struct floor before = measured(&x, INFINITY);
    int32_t layer = p->n_layer - 1;
    for (int32_t h = 0; h < p->n_head_kv; h++)
        for (int32_t c = 0; c < 4; c++)
            ((float *)(uintptr_t)x.m->layer[layer].k_bias.dev)[h * p->head_dim + c] += 60;
    struct floor after = measured(&x, INFINITY);
    assert_true(after.group[layer].kl_k > 4 * before.group[layer].kl_k);
    for (int32_t i = 0; i < layer; i++)
        assert_true(after.group[layer].kl_k / before.group[layer].kl_k >
                    4 * after.group[i].kl_k / before.group[i].kl_k);
    unload(&x);
}

/* A context and a budget that were asked for by number: the finest floor that lets one hold the other,
 * to the byte; and a clear no where none does. */
static void floor__budget__decides_how_deep_pages_may_go(void **state)
{
    enum { N_CTX = 2048 };
    char path[1024];
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", bed_data());
    struct gguf *g;
    struct model *m;
    struct err e;
    bed_check(gguf_open(path, &g, &e), &e);
    bed_check(model_read(g, &m, &e), &e);
    const struct kv_shape shape = forward_kv_shape(&m->p);
    for (int32_t step = 3; step <= KV_STEPS; step++) { /* the first is the preset's own */
        struct preset p = *presets_find("adaptive");
        if (step < KV_STEPS)
            p.floor_k = kv_ladder[step].bits_k, p.floor_v = kv_ladder[step].bits_v;
        else
            p.floor_k = p.floor_v = 2;
        struct engine_params with = {
            .model_path = path, .n_ctx = N_CTX, .n_thread = 1, .kv = "adaptive",
            .kv_budget_bytes = kv_most_bytes(&shape, &p, N_CTX, KERN_BLOCK_TOK) - (step == KV_STEPS)};
        struct engine *en = NULL;
        enum status st = engine_open(&with, &en, &e);
        if (step == KV_STEPS) {
            assert_int_equal(st, ERR_MEMORY);
            assert_non_null(strstr(e.text, "more than the KV budget of "));
            assert_non_null(strstr(e.text, "the largest that fits is -c 1984"));
            continue;
        }
        bed_check(st, &e);
        struct stats s;
        engine_stats(en, &s);
        assert_string_equal(s.kv_floor, floor_names[step]);
        engine_close(en);
    }
    model_free(m);
    gguf_close(g);
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
    const struct kv_shape s = forward_kv_shape(&b->m->p);
    b->pool = kv_pool_new(k, &s, presets_find("adaptive"), 1u << 28);
    b->line = kv_line_new(b->pool, 1024);
    for (int32_t i = 0; i < N; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i * i * 11) % 500 + 3;
    for (int32_t at = 0; at < N; at += 128) {
        bed_check(kv_reserve(b->line, 128, &e), &e);
        bed_check(forward_run(b->f, b->line, ids + at, 128, FORWARD_NONE, NULL, NULL, &e), &e);
    }
    kv_pool_trim(b->pool);
    struct kv_care care[32];
    assert_true(s.n_layer <= 32);
    kv_care_usual(presets_find("adaptive"), s.n_layer, care);
    for (int32_t i = 0; i < s.n_layer; i++) {
        care[i].soft = (struct kv_depth){floor_k, floor_v};
        if (kv_step(care[i].soft) > kv_step(care[i].floor)) /* coarser than the preset's own */
            care[i].floor = care[i].soft;
    }
    kv_pool_set_care(b->pool, care);
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
    squeeze(&b, k, 4, 2, 0.5, tier, &under);
    assert_true(tier[5] > 0 && tier[6] == 0 && !under);
    bed_close(&b);
    kern_close(k);
}

/* Each layer has pages, a floor and bytes of its own, and the budget holds them. */
static void floor__mixed_depths__sealed_stepped_and_counted(void **state)
{
    enum { N = 640 };
    static int32_t ids[N];
    struct bed b;
    struct err e;
    struct kern *k = kern_open_cpu(NULL, 1);
    char path[1024];
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", bed_data());
    bed_open(&b, k, path, 128);
    kv_line_free(b.line);
    kv_pool_free(b.pool);
    const struct kv_shape s = forward_kv_shape(&b.m->p);
    struct kv_care care[32];
    assert_true(s.n_layer >= 2 && s.n_layer <= 32);
    for (int32_t i = 0; i < N; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i * i * 11) % 500 + 3;
    for (int adaptive = 0; adaptive < 2; adaptive++) {
        const struct preset *preset = presets_find(adaptive ? "adaptive" : "4/4");
        uint64_t even = kv_most_bytes(&s, preset, 1024, 128);
        b.pool = kv_pool_new(k, &s, preset, even);
        b.line = kv_line_new(b.pool, 1024);
        kv_care_usual(preset, s.n_layer, care);
        for (int32_t i = 0; i < s.n_layer; i++) {
            care[i].floor = care[i].soft = kv_ladder[i == 0 ? 2 : i == 1 ? 4 : 3];
            if (!adaptive)
                care[i].seal = care[i].floor;
        }
        kv_pool_set_care(b.pool, care);
        uint64_t foreseen = 0;
        for (int32_t at = 0; at < N; at += 128) {
            foreseen = kv_pool_bytes(b.pool) + kv_reserve_bytes(b.line, 128);
            enum status st = kv_reserve(b.line, 128, &e);
            if (st == ERR_MEMORY && ledger_fit(b.pool, kv_reserve_bytes(b.line, 128)))
                st = kv_reserve(b.line, 128, &e);
            bed_check(st, &e);
            assert_true(kv_pool_bytes(b.pool) <= (foreseen < even ? foreseen : even));
            bed_check(forward_run(b.f, b.line, ids + at, 128, FORWARD_NONE, NULL, NULL, &e), &e);
        }
        kv_pool_set_budget(b.pool, 1);
        ledger_fit(b.pool, 0);
        for (int32_t j = 0; j < b.line->n_block; j++)
            for (int32_t i = 0; b.line->block[j]->sealed && i < s.n_head; i++) {
                const struct kern_page *page = b.line->block[j]->page[i];
                int32_t step = kv_step((struct kv_depth){page->bits_k, page->bits_v});
                assert_int_equal(step, kv_step(care[kv_layer_of(&s, i)].floor));
            }
        if (!adaptive) {
            kv_line_free(b.line);
            kv_pool_free(b.pool);
        }
    }
    bed_close(&b);
    kern_close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floor__families__are_measured),
        cmocka_unit_test(floor__planted_key_bias__is_found),
        cmocka_unit_test(floor__groups__planted_bias_is_found_in_its_layer),
        cmocka_unit_test(floor__care__serves_the_fragile_layer_at_the_same_bytes),
        cmocka_unit_test(floor__care__doubts_what_was_not_seen),
        cmocka_unit_test(floor__mixed_depths__sealed_stepped_and_counted),
        cmocka_unit_test(floor__budget__decides_how_deep_pages_may_go),
        cmocka_unit_test(floor__file__round_trip_and_damage),
        cmocka_unit_test(floor__controller__passes_it_only_at_last),
    };
    return cmocka_run_group_tests_name("floor", tests, NULL, NULL);
}
