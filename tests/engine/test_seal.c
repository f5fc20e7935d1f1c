/* Sealed timelines: what compression costs, that reading does not depend on chunks, and that edits
 * and forks go on correctly. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/kv_impl.h"
#include "tests/engine/bed.h"

enum { N_TOK = 400 };

static int32_t ids[N_TOK];

static void bed_open_preset(struct bed *b, struct kern *k, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/reference/llama-F16.gguf", bed_data());
    bed_open(b, k, path, 256);
    kv_line_free(b->line);
    kv_pool_free(b->pool);
    const struct kv_shape s = forward_kv_shape(&b->m->p);
    b->pool = kv_pool_new(k, &s, presets_find(name), 1u << 28);
    b->line = kv_line_new(b->pool, 1024);
    for (int32_t i = 0; i < N_TOK; i++)
        ids[i] = i == 0 ? 1 : (i * 37 + i * i * 11) % 500 + 3;
}

static double log_sum(const float *x, int32_t n)
{
    double most = x[0], sum = 0;
    for (int32_t i = 1; i < n; i++)
        most = fmax(most, x[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i] - most);
    return most + log(sum);
}

static double kl(const float *p, const float *q, int32_t n_row, int32_t n)
{
    double sum = 0;
    for (int32_t r = 0; r < n_row; r++, p += n, q += n) {
        double zp = log_sum(p, n), zq = log_sum(q, n);
        for (int32_t i = 0; i < n; i++)
            sum += exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    }
    return sum / n_row;
}

static void seal__presets__cost_what_their_bits_say(void **state)
{
    static const char *const names[] = {"8/8", "8/4", "4/4", "4/2", "2/2"};
    struct kern *k = kern_open_cpu("ref", 2);
    struct bed exact;
    bed_open_preset(&exact, k, "exact");
    int32_t v = exact.m->p.n_vocab;
    float *want = bed_logits(&exact, ids, N_TOK, 256);
    uint64_t f16_bytes = kv_line_bytes(exact.line), last_bytes = f16_bytes;
    double last_kl = 0; /* random weights feel every bit: only the order is checked */
    for (size_t i = 0; i < 5; i++) {
        struct bed b;
        bed_open_preset(&b, k, names[i]);
        float *got = bed_logits(&b, ids, N_TOK, 256);
        /* Up to position 127 nothing is read from pages. */
        assert_memory_equal(got, want, 128 * (size_t)v * sizeof(float));
        double cost = kl(want, got, N_TOK, v);
        print_message("# %s: mean KL %.3g, %.0f bytes per token (f16 %.0f)\n", names[i], cost,
                      (double)kv_line_bytes(b.line) / N_TOK, (double)f16_bytes / N_TOK);
        assert_true(cost > last_kl);
        assert_true(kv_line_bytes(b.line) < last_bytes);
        last_kl = cost;
        last_bytes = kv_line_bytes(b.line);
        free(got);
        bed_close(&b);
    }
    free(want);
    bed_close(&exact);
    kern_close(k);
}

static void seal__reading__does_not_depend_on_chunks(void **state)
{
    struct kern *k = kern_open_cpu("ref", 2);
    struct bed b;
    bed_open_preset(&b, k, "4/4");
    size_t bytes = (size_t)N_TOK * (size_t)b.m->p.n_vocab * sizeof(float);
    float *whole = bed_logits(&b, ids, N_TOK, 256);
    const int32_t steps[] = {1, 50, 64, 100};
    for (size_t i = 0; i < 4; i++) {
        float *got = bed_logits(&b, ids, N_TOK, steps[i]);
        assert_memory_equal(got, whole, bytes);
        free(got);
    }
    free(whole);
    bed_close(&b);
    kern_close(k);
}

/* Logits after ids[0..n), reading only what the line lacks; tells how much that was. */
static float *go_on(struct bed *b, struct kv_line *line, int32_t n, int32_t *ret_read)
{
    struct err e;
    int32_t at = kv_n_tok(line);
    *ret_read = n - at;
    bed_check(kv_reserve(line, n - at, &e), &e);
    bed_check(forward_run(b->f, line, ids + at, n - at, FORWARD_LAST, NULL, NULL, &e), &e);
    size_t size = (size_t)b->m->p.n_vocab * sizeof(float);
    float *copy = malloc(size);
    const float *logits;
    bed_check(forward_head(b->f, n - at - 1, 1, &logits, &e), &e);
    memcpy(copy, logits, size);
    return copy;
}

static void seal__edit__reads_little_again(void **state)
{
    struct kern *k = kern_open_cpu("ref", 2);
    struct bed b;
    bed_open_preset(&b, k, "8/8");
    int32_t v = b.m->p.n_vocab, n_read;
    float *all = bed_logits(&b, ids, N_TOK, 256);
    const int32_t cuts[] = {399, 385, 384, 383, 300, 257, 256, 130, 64, 63, 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct kv_line *fork = kv_line_fork(b.line, cuts[i]);
        assert_true(cuts[i] - kv_n_tok(fork) < 128);
        assert_true(kv_n_tok(b.line) == N_TOK);
        float *got = go_on(&b, fork, cuts[i] + 1, &n_read);
        double cost = kl(all + (size_t)cuts[i] * (size_t)v, got, 1, v);
        print_message("# cut at %d: %d tokens read, KL %.3g\n", cuts[i], n_read, cost);
        assert_true(n_read <= 128 && cost < 1e-3);
        free(got);
        kv_line_free(fork);
    }
    /* The original was not touched by its forks. */
    struct kv_line *same = kv_line_fork(b.line, N_TOK);
    assert_int_equal(kv_n_tok(same), N_TOK);
    kv_line_free(same);
    kv_truncate(b.line, N_TOK - 1);
    float *got = go_on(&b, b.line, N_TOK, &n_read);
    assert_int_equal(n_read, 1);
    assert_memory_equal(got, all + (size_t)(N_TOK - 1) * (size_t)v, (size_t)v * sizeof(float));
    free(got);
    free(all);
    bed_close(&b);
    kern_close(k);
}

static void seal__forks__keep_what_the_other_reads(void **state)
{
    /* A fork grows far beyond the place where the first line stands; the first line then goes on
     * as if alone. */
    struct kern *k = kern_open_cpu("ref", 2);
    struct bed b, alone;
    int32_t n_read;
    bed_open_preset(&b, k, "4/4");
    bed_open_preset(&alone, k, "4/4");
    free(bed_logits(&b, ids, 200, 256));
    free(bed_logits(&alone, ids, 200, 256));
    struct kv_line *fork = kv_line_fork(b.line, 195);
    free(go_on(&b, fork, 390, &n_read));
    float *got = go_on(&b, b.line, 230, &n_read);
    assert_int_equal(n_read, 30);
    float *want = go_on(&alone, alone.line, 230, &n_read);
    assert_memory_equal(got, want, (size_t)b.m->p.n_vocab * sizeof(float));
    free(got);
    free(want);
    kv_line_free(fork);
    bed_close(&b);
    bed_close(&alone);
    kern_close(k);
}

/* Pages leave a device behind the layers that follow: all of them are the host's when their tokens count. */
static void seal__cuda__pages_are_the_hosts_with_their_tokens(void **state)
{
    char why[256] = "";
    struct kern *k = kern_open_cuda(getenv("CUDA_MODULE"), 0, 1, why, sizeof why);
    struct bed b;
    if (!k)
        fail_msg("%s", why);
    bed_open_preset(&b, k, "8/4");
    free(bed_logits(&b, ids, N_TOK, 150));
    int32_t n_page = b.m->p.n_layer * b.m->p.n_head_kv, n = 0;
    uint8_t *copy = malloc(PAGE_SIZE_MAX);
    for (int32_t j = 0; b.line->block[j]->sealed; j++, n++)
        for (int32_t i = 0; i < n_page; i++) {
            const struct kern_page *page = b.line->block[j]->page[i];
            assert_int_equal(page->magic, PAGE_MAGIC);
            assert_in_range(page->size_bytes, sizeof *page, PAGE_SIZE_MAX);
            k->ops->download(k, copy, b.line->block[j]->copy[i], page->size_bytes);
            assert_memory_equal(page, copy, page->size_bytes);
        }
    assert_true(n >= 4);
    free(copy);
    bed_close(&b);
    kern_close(k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seal__cuda__pages_are_the_hosts_with_their_tokens),
        cmocka_unit_test(seal__presets__cost_what_their_bits_say),
        cmocka_unit_test(seal__reading__does_not_depend_on_chunks),
        cmocka_unit_test(seal__edit__reads_little_again),
        cmocka_unit_test(seal__forks__keep_what_the_other_reads),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    else
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests_name("seal", tests, NULL, NULL);
}
