/* The budget controller: the cache fits, the cheapest pages pay, the others do not change. On the backend
 * of CUDA_MODULE (a device's, or the shim's) where that is set; an argument is a pattern of tests. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kv_impl.h"
#include "engine/ledger.h"
#include "tests/engine/bed.h"
#include "tests/support/tinymodel.h"

enum { N_TOK = 640 };

static struct bed bed;

static int setup(void **state)
{
    const char *dir = getenv("DOGEAR_DATA");
    char path[1024];
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", dir ? dir : "");
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0; /* the tests skip */
    fclose(f);
    const char *module = getenv("CUDA_MODULE");
    char why[256] = "";
    struct kern *k = module ? kern_open_cuda(module, 0, 2, why, sizeof why) : kern_open_cpu(NULL, 2);
    if (!k)
        fail_msg("%s", why);
    bed_open(&bed, k, path, 256);
    kv_line_free(bed.line);
    kv_pool_free(bed.pool);
    const struct kv_shape s = forward_kv_shape(&bed.m->p);
    bed.pool = kv_pool_new(k, &s, presets_find("adaptive"), 1u << 28);
    bed.line = kv_line_new(bed.pool, 1024);
    return 0;
}

static int teardown(void **state)
{
    if (!bed.k)
        return 0;
    bed_close(&bed);
    kern_close(bed.k);
    return 0;
}

/* The line read to N_TOK, the last 20 tokens one by one so that masses are known. */
static void read_all(void)
{
    bed_data();
    static int32_t ids[N_TOK];
    struct err e;
    for (int32_t i = 0; i < N_TOK; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i * i * 11) % 500 + 3;
    kv_pool_set_budget(bed.pool, 1u << 28);
    kv_truncate(bed.line, 0);
    while (kv_n_tok(bed.line) < N_TOK) {
        int32_t at = kv_n_tok(bed.line), left = N_TOK - at;
        int32_t n = left > 256 + 20 ? 256 : left > 20 ? left - 20 : 1;
        bed_check(kv_reserve(bed.line, n, &e), &e);
        bed_check(forward_run(bed.f, bed.line, ids + at, n, FORWARD_LAST, NULL, NULL, &e), &e);
    }
}

static void ledger__mass__adds_up(void **state)
{
    read_all();
    bed.k->ops->sync(bed.k); /* a device's masses come with it */
    const struct kv_shape *s = &bed.pool->shape;
    for (int32_t i = 0; i < s->n_head; i++) {
        double sum = 0, n = bed.line->n_query[kv_layer_of(s, i)];
        for (int32_t j = 0; j < bed.line->n_block; j++)
            sum += bed.line->mass[i * bed.line->block_cap + j];
        assert_true(fabs(sum - n) < 1e-2 * n);
    }
}

static void ledger__fit__steps_down_the_cheapest(void **state)
{
    read_all();
    const struct kv_shape *shape = &bed.pool->shape;
    int32_t n_page = shape->n_head, n_sealed = 0;
    double harm = ledger_harm(bed.line), last_harm = harm;
    int64_t tier[STATS_TIERS];
    ledger_tiers(bed.line, tier);
    assert_true(tier[1] > 0 && tier[2] == 0 && tier[4] == 0);
    /* Copies of all pages, to see which change. */
    static struct {
        char *bytes;
        size_t size;
    } before[16][256];
    for (int32_t j = 0; j < bed.line->n_block; j++) {
        struct kv_block *b = bed.line->block[j];
        n_sealed += b->sealed;
        for (int32_t i = 0; b->sealed && i < n_page; i++) {
            before[j][i].size = b->page[i]->size_bytes;
            before[j][i].bytes = malloc(before[j][i].size);
            memcpy(before[j][i].bytes, b->page[i], before[j][i].size);
        }
    }
    assert_int_equal(n_sealed, N_TOK / 64 - 2);

    kv_pool_trim(bed.pool);
    uint64_t used = kv_pool_bytes(bed.pool), all_pages = 0;
    for (int32_t j = 0; j < bed.line->n_block; j++)
        all_pages += bed.line->block[j]->page_bytes;
    int32_t n_same = 0, n_less = 0;
    for (int cut = 1; cut <= 4; cut++) {
        uint64_t budget = used - all_pages * (uint64_t)cut / 16;
        kv_pool_set_budget(bed.pool, budget);
        assert_true(ledger_fit(bed.pool, 0));
        assert_true(kv_pool_bytes(bed.pool) <= budget);
        assert_true(ledger_harm(bed.line) >= last_harm);
        last_harm = ledger_harm(bed.line);
    }
    assert_true(last_harm > harm);
    for (int32_t j = 0; j < bed.line->n_block; j++) {
        struct kv_block *b = bed.line->block[j];
        for (int32_t i = 0; b->sealed && i < n_page; i++) {
            bool same = b->page[i]->size_bytes == before[j][i].size;
            if (same)
                assert_memory_equal(b->page[i], before[j][i].bytes, before[j][i].size);
            n_same += same;
            n_less += !same;
            /* The table that kernels read shows the page as it is now. */
            const struct kv_heads *of = &shape->heads[kv_layer_of(shape, i)];
            const struct kern_kv *kv = kv_layer(bed.line, kv_layer_of(shape, i));
            size_t at = (size_t)(i - of->first) * (size_t)kv->n_block_cap + (size_t)j;
            assert_ptr_equal(kv->block[at].page, b->copy ? b->copy[i] : b->page[i]);
            if (b->copy) { /* a device's page is the host's, byte for byte */
                char *there = malloc(b->page[i]->size_bytes);
                bed.k->ops->download(bed.k, there, b->copy[i], b->page[i]->size_bytes);
                assert_memory_equal(there, b->page[i], b->page[i]->size_bytes);
                free(there);
            }
            assert_true(page_check(b->page[i], b->page[i]->size_bytes, of->dim, of->n_latent, NULL));
            free(before[j][i].bytes);
        }
    }
    assert_true(n_same > 0 && n_less > 0);

    /* Nothing goes below the floor. */
    kv_pool_set_budget(bed.pool, 1);
    assert_false(ledger_fit(bed.pool, 0));
    ledger_tiers(bed.line, tier);
    assert_true(tier[1] == 0 && tier[2] == 0 && tier[3] == 0 && tier[4] > 0 && tier[5] == 0);
}

/* The least budget the plan allows for chunks of n_chunk is enough to read the whole context. */
static void read_in_least(int32_t n_chunk)
{
    enum { N_CTX = 6144 };
    const struct kv_shape *s = &bed.pool->shape;
    const struct preset *preset = presets_find("adaptive");
    uint64_t budget = kv_most_bytes(s, preset, N_CTX, n_chunk);
    struct kv_pool *p = kv_pool_new(bed.k, s, preset, budget);
    struct kv_line *line = kv_line_new(p, N_CTX);
    static int32_t ids[N_CTX];
    struct err e;
    for (int32_t i = 0; i < N_CTX; i++)
        ids[i] = 3 + i % 500;
    while (kv_n_tok(line) < N_CTX) {
        int32_t at = kv_n_tok(line), n = at < N_CTX - 300 ? n_chunk - at % 64 : 1;
        enum status st = kv_reserve(line, n, &e);
        if (st == ERR_MEMORY) {
            assert_true(ledger_fit(p, kv_reserve_bytes(line, n)));
            st = kv_reserve(line, n, &e);
        }
        bed_check(st, &e);
        assert_true(kv_pool_bytes(p) <= budget);
        bed_check(forward_run(bed.f, line, ids + at, n, FORWARD_NONE, NULL, NULL, &e), &e);
    }
    int64_t tier[STATS_TIERS];
    ledger_tiers(line, tier);
    assert_true(tier[2] + tier[3] + tier[4] > 0); /* something had to step down */
    print_message("# %d tokens in %.0f bytes each, f16 %.0f\n", N_CTX, (double)budget / N_CTX,
                  (double)kv_tok_bytes(s));
    kv_line_free(line);
    kv_pool_free(p);
}

static void ledger__budget__holds_the_planned_context(void **state)
{
    bed_data();
    read_in_least(256);
    read_in_least(64);
}

/* What a pool's lines will take is foreseen to the byte, whether rows are lying about or not, and
 * whether a tail is shared or not. */
static void ledger__reserve__is_foreseen_to_the_byte(void **state)
{
    bed_data();
    static const int32_t steps[] = {1, 63, 64, 200, 1, 1, 256, 30, 129};
    static int32_t ids[256];
    struct err e;
    for (int32_t i = 0; i < 256; i++)
        ids[i] = 3 + i % 500;
    for (int forked = 0; forked < 2; forked++) {
        struct kv_pool *p = kv_pool_new(bed.k, &bed.pool->shape, presets_find("8/8"), 1u << 28);
        struct kv_line *line = kv_line_new(p, 1024), *fork = NULL;
        for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
            if (forked) {
                kv_line_free(fork);
                fork = kv_line_fork(line, kv_n_tok(line));
            }
            uint64_t had = kv_pool_bytes(p) - (uint64_t)p->n_spare * p->rows_bytes;
            uint64_t need = kv_reserve_bytes(line, steps[i]);
            assert_true(ledger_fit(p, need));
            kv_pool_set_budget(p, had + need - 1);
            assert_false(ledger_fit(p, need));
            kv_pool_set_budget(p, had + need);
            assert_true(ledger_fit(p, need));
            bed_check(kv_reserve(line, steps[i], &e), &e);
            assert_int_equal(kv_pool_bytes(p) - (uint64_t)p->n_spare * p->rows_bytes, had + need);
            kv_pool_set_budget(p, 1u << 28);
            bed_check(forward_run(bed.f, line, ids, steps[i], FORWARD_NONE, NULL, NULL, &e), &e);
            if (i % 2)
                kv_pool_trim(p);
        }
        kv_line_free(fork);
        kv_line_free(line);
        kv_pool_free(p);
    }
}

static void ledger__fit__leaves_fixed_formats_alone(void **state)
{
    bed_data();
    struct kv_pool *p = kv_pool_new(bed.k, &bed.pool->shape, presets_find("8/8"), 1u << 20);
    assert_true(ledger_fit(p, 1000));
    assert_false(ledger_fit(p, 2u << 20));
    kv_pool_free(p);
}

/* Pages of latents have keys alone: they step from 8 bits to 6, 4 and 2 of them, as far as floors say, and are read
 * on from there. */
static void ledger__fit__latents_step_down_by_keys(void **state)
{
    struct kern *k = bed_kern(getenv("CUDA_MODULE") ? "cuda" : NULL);
    char path[64];
    struct bed b;
    static int32_t ids[N_TOK + 2];
    for (int32_t i = 0; i < N_TOK + 2; i++)
        ids[i] = i * 29 % TINYMODEL_VOCAB;
    snprintf(path, sizeof path, "/tmp/dogear-ledger-%d.gguf", (int)getpid());
    tinymodel_write(tinymodel_find("deepseek2-dense"), path, false);
    bed_open(&b, k, path, N_TOK);
    unlink(path);
    kv_line_free(b.line);
    kv_pool_free(b.pool);
    const struct kv_shape s = forward_kv_shape(&b.m->p);
    b.pool = kv_pool_new(k, &s, presets_find("adaptive"), 1u << 28);
    b.line = kv_line_new(b.pool, 1024);
    bed_read(&b, b.line, ids, N_TOK, false);
    const struct page_shape whole = {s.heads[0].dim, 8, 0};
    assert_int_equal(b.line->block[1]->page[0]->size_bytes, page_size(&whole));
    kv_pool_trim(b.pool);
    int32_t n_seen[5] = {0};
    enum { STEPS = 8 };
    for (int i = 0; i < 2 * STEPS; i++) { /* to 4 bits, then to 2 */
        bool last = i % STEPS == STEPS - 1;
        int32_t floor = i < STEPS ? 4 : 2, j = 0;
        uint64_t used = kv_pool_bytes(b.pool), pages = 0;
        struct kv_care care[KV_LAYERS];
        kv_care_usual(presets_find("adaptive"), s.n_layer, care);
        for (int32_t y = 0; y < s.n_layer; y++)
            care[y].floor = care[y].soft = (struct kv_depth){floor, floor};
        kv_pool_set_care(b.pool, care);
        for (j = 0; j < b.line->n_block; j++)
            pages += b.line->block[j]->page_bytes;
        kv_pool_set_budget(b.pool, last ? 1 : used - pages / 64);
        assert_true(ledger_fit(b.pool, 0) == !last);
        for (j = 0; j < b.line->n_block; j++)
            for (int32_t h = 0; b.line->block[j]->sealed && h < s.n_head; h++) {
                const struct kern_page *page = b.line->block[j]->page[h];
                assert_true(page_check(page, page->size_bytes, s.heads[0].dim, true, NULL));
                assert_true(last ? page->bits_k == floor : page->bits_k >= floor);
                n_seen[page->bits_k / 2]++;
            }
    }
    assert_true(n_seen[1] > 0 && n_seen[2] > 0 && n_seen[3] > 0 && n_seen[4] > 0);
    kv_pool_set_budget(b.pool, 1u << 28);
    assert_true(isfinite(bed_read(&b, b.line, ids, N_TOK + 2, true)[0]));
    bed_close(&b);
    kern_close(k);
}

int main(int n_arg, char **arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ledger__mass__adds_up),
        cmocka_unit_test(ledger__fit__steps_down_the_cheapest),
        cmocka_unit_test(ledger__budget__holds_the_planned_context),
        cmocka_unit_test(ledger__reserve__is_foreseen_to_the_byte),
        cmocka_unit_test(ledger__fit__leaves_fixed_formats_alone),
        cmocka_unit_test(ledger__fit__latents_step_down_by_keys),
    };
    if (n_arg > 1)
        cmocka_set_test_filter(arg[1]);
    return cmocka_run_group_tests_name("ledger", tests, setup, teardown);
}
