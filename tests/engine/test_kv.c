/* Timelines: blocks, sharing, copy on write, budget. Rows are checked through the layer tables, as
 * a kernel sees them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kv.h"
#include "engine/lines.h"

/* Layers as wide as each other, but with other heads, and one of latents. */
static struct kv_shape shape;

static struct kern *kern;

static int setup(void **state)
{
    kern = kern_open_cpu("ref", 1);
    kv_shape_add(&shape, 2, 16, 0);
    kv_shape_add(&shape, 1, 32, 0);
    kv_shape_add(&shape, 1, 32, 16);
    kv_shape_add(&shape, 2, 16, 0);
    return kern ? 0 : -1;
}

static int teardown(void **state)
{
    kern_close(kern);
    return 0;
}

/* Appends n tokens of value `base + position`, writing rows that tell layer, head and token. */
static enum status append(struct kv_line *l, int32_t n, int32_t base)
{
    struct err e;
    enum status s = kv_reserve(l, n, &e);
    if (s != OK)
        return s;
    int32_t pos0 = kv_n_tok(l);
    float row[2 * 16];
    for (int32_t i = 0; i < n; i++) {
        int32_t id = base + pos0 + i;
        for (int32_t y = 0; y < shape.n_layer; y++) {
            for (int32_t c = 0; c < 32; c++)
                row[c] = (float)((id * 7 + y * 3 + c) % 2048);
            kern->ops->kv_write(kern, kv_layer(l, y), row, row, 32, 1, pos0 + i);
        }
        kv_commit(l, &id, 1);
    }
    return OK;
}

/* Every row of the line is what `append` wrote for its id. */
static void verify(const struct kv_line *l)
{
    for (int32_t pos = 0; pos < kv_n_tok(l); pos++) {
        int32_t id = kv_ids(l)[pos], t = pos % KERN_BLOCK_TOK;
        for (int32_t y = 0; y < shape.n_layer; y++) {
            const struct kern_kv *kv = kv_layer(l, y);
            int32_t d = kv->head_dim;
            assert_int_equal(kv->n_head_kv * d, 32);
            for (int32_t h = 0; h < kv->n_head_kv; h++) {
                const struct kern_kv_block *b =
                    &kv->block[h * kv->n_block_cap + pos / KERN_BLOCK_TOK];
                for (int32_t c = 0; c < d; c++) {
                    uint16_t want = kern_f32_to_f16((float)((id * 7 + y * 3 + h * d + c) % 2048));
                    assert_int_equal(b->k[c * KERN_BLOCK_TOK + t], want);
                    if (kv->n_latent)
                        assert_null(b->v);
                    else
                        assert_int_equal(b->v[t * d + c], want);
                }
            }
        }
    }
}

static void kv__append__keeps_rows_and_ids(void **state)
{
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 1 << 24);
    struct kv_line *l = kv_line_new(p, 5000);
    for (int32_t n = 1; kv_n_tok(l) + n <= 1500; n = n * 2 % 97)
        assert_int_equal(append(l, n, 0), OK);
    verify(l);
    assert_true(kv_line_bytes(l) >= (uint64_t)kv_n_tok(l) * kv_tok_bytes(&shape));
    kv_truncate(l, 130);
    assert_int_equal(append(l, 100, 5), OK);
    verify(l);
    assert_int_equal(kv_ids(l)[129], 129);
    assert_int_equal(kv_ids(l)[130], 135);
    kv_line_free(l);
    assert_true(kv_pool_bytes(p) > 0); /* spare blocks are kept */
    kv_pool_trim(p);
    assert_int_equal(kv_pool_bytes(p), 0);
    kv_pool_free(p);
}

static void kv__fork__shares_until_written(void **state)
{
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 1 << 24);
    struct kv_line *a = kv_line_new(p, 1000);
    assert_int_equal(append(a, 200, 0), OK);
    uint64_t before = kv_pool_bytes(p);
    struct kv_line *b = kv_line_fork(a, 150);
    assert_int_equal(kv_pool_bytes(p), before);
    assert_int_equal(kv_n_tok(b), 150);
    assert_int_equal(kv_room(b), 0); /* the tail block is not its own yet */
    assert_int_equal(append(b, 60, 1000), OK);
    assert_int_equal(append(a, 60, 3000), OK);
    verify(a);
    verify(b);
    assert_ptr_equal(kv_layer(a, 1)->block[0].k, kv_layer(b, 1)->block[0].k);
    assert_ptr_not_equal(kv_layer(a, 1)->block[2].k, kv_layer(b, 1)->block[2].k);
    kv_line_free(a);
    verify(b);
    kv_line_free(b);
    kv_pool_free(p);
}

static void kv__reserve__refuses_beyond_budget_and_context(void **state)
{
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 3 * kv_block_bytes(&shape));
    struct kv_line *l = kv_line_new(p, 300);
    assert_int_equal(append(l, 192, 0), OK);
    assert_int_equal(append(l, 1, 0), ERR_MEMORY);
    assert_int_equal(kv_n_tok(l), 192);
    struct err e; /* a budget that was lowered while more was in use, too, has a sum that adds up */
    kv_pool_set_budget(p, kv_block_bytes(&shape));
    assert_int_equal(kv_reserve(l, 1, &e), ERR_MEMORY);
    char beyond[32], all[128];
    snprintf(all, sizeof all, "needs %s more than its budget",
             err_size_text(3 * kv_block_bytes(&shape), beyond));
    assert_non_null(strstr(e.text, all));
    assert_non_null(strstr(e.text, "/budget"));
    kv_pool_set_budget(p, 3 * kv_block_bytes(&shape));
    verify(l);
    assert_true(kv_pool_bytes(p) <= kv_pool_budget(p));
    kv_pool_set_budget(p, 1 << 24);
    assert_int_equal(append(l, 109, 0), ERR_USAGE);
    assert_int_equal(append(l, 108, 0), OK);
    assert_int_equal(kv_room(l), 0); /* the context ends inside the last block */
    verify(l);
    kv_line_free(l);
    kv_pool_free(p);
}

static void kv__common__finds_the_longest_beginning(void **state)
{
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 1 << 24);
    struct kv_line *l = kv_line_new(p, 1000);
    assert_int_equal(append(l, 10, 0), OK);
    const int32_t ids[] = {0, 1, 2, 3, 99, 5};
    assert_int_equal(kv_common(l, ids, 6), 4);
    assert_int_equal(kv_common(l, ids, 3), 3);
    assert_int_equal(kv_common(l, ids + 1, 3), 0);
    kv_line_free(l);
    kv_pool_free(p);
}

static void lines__take__reuses_forks_and_drops_the_oldest(void **state)
{
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 8 * kv_block_bytes(&shape));
    struct lines *s = lines_new(p, 1000);
    int32_t ids[400];
    for (int32_t i = 0; i < 400; i++)
        ids[i] = i;
    struct kv_line *a = lines_take(s, 1, ids, 200);
    assert_int_equal(kv_n_tok(a), 0);
    assert_int_equal(append(a, 200, 0), OK);
    assert_ptr_equal(lines_take(s, 1, ids, 300), a);
    assert_int_equal(kv_n_tok(a), 200);

    /* Another conversation with the same beginning shares it; the first one keeps its own. */
    ids[180] = 7;
    struct kv_line *b = lines_take(s, 2, ids, 250);
    assert_int_equal(kv_n_tok(b), 180);
    assert_int_equal(kv_n_tok(lines_find(s, 1)), 200);
    verify(b);

    /* An edit cuts the timeline; a short common beginning is not worth sharing. */
    ids[20] = 7;
    struct kv_line *c = lines_take(s, 3, ids, 100);
    assert_int_equal(kv_n_tok(c), 0);
    assert_int_equal(kv_n_tok(lines_take(s, 2, ids, 250)), 20);

    assert_true(lines_drop_oldest(s, 2));
    assert_null(lines_find(s, 1)); /* least recently used */
    assert_true(lines_drop_oldest(s, 2));
    assert_false(lines_drop_oldest(s, 2));
    assert_true(lines_drop(s, 2));
    assert_false(lines_drop(s, 2));
    lines_free(s);
    kv_pool_free(p);
}

/* Random forks, edits, drops: every timeline keeps exactly its own rows. */
static void kv__lines__keep_their_rows_over_random_histories(void **state)
{
    enum { LINES = 5 };
    struct kv_pool *p = kv_pool_new(kern, &shape, NULL, 1 << 26);
    struct kv_line *line[LINES] = {NULL};
    uint32_t x = 1;
    for (int step = 0; step < 400; step++) {
        x = x * 1664525u + 1013904223u;
        int32_t i = (int32_t)(x >> 8) % LINES, j = (int32_t)(x >> 12) % LINES;
        int32_t n = (int32_t)(x >> 16) % 150;
        if (!line[i])
            line[i] = kv_line_new(p, 600);
        switch (x >> 29) {
        case 0:
            kv_line_free(line[i]);
            line[i] = NULL;
            break;
        case 1:
            kv_truncate(line[i], n < kv_n_tok(line[i]) ? n : kv_n_tok(line[i]));
            break;
        case 2:
            if (i != j) {
                kv_line_free(line[j]);
                line[j] = kv_line_fork(line[i], kv_n_tok(line[i]) * (n % 3) / 2);
            }
            break;
        default:
            if (kv_n_tok(line[i]) + n < 600)
                assert_int_equal(append(line[i], n, step * 1000), OK);
        }
    }
    for (int32_t i = 0; i < LINES; i++) {
        if (line[i])
            verify(line[i]);
        kv_line_free(line[i]);
    }
    kv_pool_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kv__append__keeps_rows_and_ids),
        cmocka_unit_test(kv__fork__shares_until_written),
        cmocka_unit_test(kv__reserve__refuses_beyond_budget_and_context),
        cmocka_unit_test(kv__common__finds_the_longest_beginning),
        cmocka_unit_test(lines__take__reuses_forks_and_drops_the_oldest),
        cmocka_unit_test(kv__lines__keep_their_rows_over_random_histories),
    };
    return cmocka_run_group_tests_name("kv", tests, setup, teardown);
}
