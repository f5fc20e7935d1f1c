/* Selection while decoding, on synthetic heads (heads.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/select.h"
#include "tests/engine/heads.h"

struct select_bed {
    struct kern *k;
    struct heads h;
    struct select *se;
    int32_t n, answer0;
    float coverage;
    double error; /* mean relative error of the output, rows of the last run */
};

/* Two KV heads of four query heads; pages up to the answer's window. */
static struct select_bed select_bed_make(enum heads_kind kind, int32_t n, int32_t n_answer,
                                         const struct select_params *p)
{
    struct select_bed b = {.k = kern_open_cpu(NULL, 2), .n = n, .answer0 = n - n_answer,
                           .coverage = p->coverage};
    b.h = heads_make(kind, n, 4, 2, 64, 21);
    heads_seal(&b.h, b.answer0, 8, 8);
    struct sparse_shape s = {1, 4, 2, 64};
    b.se = select_new(b.k, &s, p);
    return b;
}

static void select_bed_free(struct select_bed *b)
{
    select_free(b->se);
    heads_free(&b->h);
    kern_close(b->k);
}

static struct select_report select_bed_run(struct select_bed *b)
{
    float dense[4 * 64], out[4 * 64];
    double sum = 0;
    select_begin(b->se, b->coverage, b->answer0);
    for (int32_t pos = b->answer0; pos < b->n; pos++) {
        struct kern_attn a = heads_attn(&b->h, pos, 1, dense);
        b->k->ops->attend(b->k, &a);
        a.out = out;
        select_attend(b->se, 0, &a);
        double off = 0, all = 0;
        for (int i = 0; i < 4 * 64; i++) {
            off += pow((double)out[i] - (double)dense[i], 2);
            all += pow((double)dense[i], 2);
        }
        if (pos < b->answer0 + SELECT_EVERY) /* no list yet */
            assert_memory_equal(out, dense, sizeof out);
        sum += sqrt(off / all);
    }
    b->error = sum / (b->n - b->answer0);
    struct select_report r;
    select_report(b->se, &r);
    return r;
}

static void select_attend__structured_heads__reads_a_part_and_keeps_the_mass(void **state)
{
    static const enum heads_kind kinds[] = {HEADS_RECALL, HEADS_LOCAL};
    for (size_t i = 0; i < 2; i++) {
        /* within one of the stretches that look at the same topic */
        struct select_bed b = select_bed_make(kinds[i], 4048, 88,
                                              &(struct select_params){.coverage = 0.95f, .n_min = 1});
        struct select_report r = select_bed_run(&b);
        print_message("# kind %d: density %.3f, mass %.4f of %d looks, error %.4f\n", (int)kinds[i],
                      r.density, r.mass_mean, r.n_mass, b.error);
        assert_int_equal(r.n_choice, 5);
        assert_int_equal(r.n_failed, 0);
        assert_int_equal(r.n_mass, 4);
        assert_true(r.mass_mean > 0.9);
        assert_true(r.density < 0.6);
        assert_true(b.error < 0.12);
        select_bed_free(&b);
    }
}

/* What no list can keep is read whole, and not chosen from each time: after 16 tokens and 80. */
static void select_attend__spread_heads__stay_dense(void **state)
{
    struct select_bed b = select_bed_make(HEADS_SPREAD, 2048, 96,
                                          &(struct select_params){.coverage = 0.95f, .n_min = 1});
    struct select_report r = select_bed_run(&b);
    assert_true(b.error < 1e-5);
    assert_float_equal(r.density, 1, 1e-9);
    assert_int_equal(r.n_choice, 2);
    select_bed_free(&b);
}

static void select_attend__share_alone__bounds_what_is_read(void **state)
{
    struct select_bed b = select_bed_make(HEADS_SPREAD, 4096, 160,
                                          &(struct select_params){.share = 0.25f, .n_min = 1});
    struct select_report r = select_bed_run(&b);
    /* the first 16 tokens and one in 16 are dense: 5 of 10 choices have one layer to look at */
    assert_true(r.density < 0.55 && r.density > 0.25);
    assert_true(r.mass_mean < 0.6);
    select_bed_free(&b);
}

static void select_attend__short_context_or_coverage_one__is_dense(void **state)
{
    static const struct select_params params[] = {{.coverage = 1, .n_min = 1},
                                                  {.coverage = 0.9f, .n_min = 4096}};
    for (int i = 0; i < 2; i++) {
        struct select_bed b = select_bed_make(HEADS_RECALL, 1024, 64, &params[i]);
        struct select_report r = select_bed_run(&b);
        assert_float_equal(b.error, 0, 0);
        assert_int_equal(r.n_choice, 0);
        select_bed_free(&b);
    }
}

/* A page that is left out comes back when the answer turns to it. */
static void select_attend__topic_returns__its_page_is_read_again(void **state)
{
    struct select_bed b = select_bed_make(HEADS_LOCAL, 4096, 128,
                                          &(struct select_params){.share = 0.1f, .n_min = 1});
    int32_t far = 1000, d = 64;
    /* from the middle of the answer on, every head asks for one far key */
    const struct kern_kv_block *block = &b.h.kv.block[far / 64];
    for (int32_t pos = b.n - 64; pos < b.n; pos++)
        for (int32_t head = 0; head < 4; head++)
            for (int32_t c = 0; c < d; c++)
                b.h.q[((size_t)pos * 4 + head) * d + c] =
                    8 * kern_f16_to_f32(block[head / 2 * b.h.kv.n_block_cap].k[c * 64 + far % 64]);
    float dense[4 * 64], out[4 * 64];
    double early = 0, late = 0;
    select_begin(b.se, b.coverage, b.answer0);
    for (int32_t pos = b.answer0; pos < b.n; pos++) {
        struct kern_attn a = heads_attn(&b.h, pos, 1, dense);
        b.k->ops->attend(b.k, &a);
        a.out = out;
        select_attend(b.se, 0, &a);
        double off = 0, all = 0;
        for (int i = 0; i < 4 * 64; i++) {
            off += pow((double)out[i] - (double)dense[i], 2);
            all += pow((double)dense[i], 2);
        }
        if (pos >= b.n - 64 && pos < b.n - 56)
            early += sqrt(off / all) / 8;
        if (pos >= b.n - 8 && pos < b.n - 1)
            late += sqrt(off / all) / 7;
    }
    print_message("# error when the answer turns %.3f, after the next choice %.5f\n", early, late);
    assert_true(early > 0.2);
    assert_true(late < 0.02);
    select_bed_free(&b);
}

/* Three layers that see the same heads: what each published method reads of an answer. */
static void select_attend__published_methods__read_their_share(void **state)
{
    static const struct {
        const char *name;
        struct decode_method m;
        double least, most; /* density over the three layers */
    } cases[] = {
        {"quest", {.score = DECODE_BOUNDS, .share = 0.25f, .dense_layers = 1}, 0.5, 0.6},
        {"hsa", {.score = DECODE_CHANNELS, .share = 0.25f}, 0.25, 0.4},
        {"rocket", {.score = DECODE_CHANNELS, .share = 0.125f, .prompt_share = 0.25f}, 0.15, 0.3},
        {"loopserve", {.score = DECODE_EXACT, .share = 0.25f}, 0.3, 0.5},
        {"tidal", {.score = DECODE_LAYERS, .share = 0.25f, .dense_layers = 1, .choose = {1, 1}}, 0.7, 0.8},
        {"window", {.score = DECODE_PROMPT, .share = 0.25f}, 0.25, 0.4},
    };
    struct kern *k = kern_open_cpu(NULL, 2);
    int32_t n = 3072, answer0 = n - 100;
    struct heads h = heads_make(HEADS_LOCAL, n, 4, 2, 64, 21);
    heads_seal(&h, answer0, 8, 8);
    float dense[4 * 64], out[4 * 64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sparse_shape s = {3, 4, 2, 64};
        struct select *se = select_new(k, &s, &(struct select_params){.n_min = 1, .method = cases[i].m});
        select_begin(se, 0.95f, answer0);
        for (int32_t layer = 0; layer < 3; layer++) {
            struct kern_attn a = heads_attn(&h, answer0 - 64, 64, NULL);
            select_observe(se, layer, &a);
        }
        double error = 0;
        for (int32_t pos = answer0; pos < n; pos++)
            for (int32_t layer = 0; layer < 3; layer++) {
                struct kern_attn a = heads_attn(&h, pos, 1, dense);
                k->ops->attend(k, &a);
                a.out = out;
                select_attend(se, layer, &a);
                double off = 0, all = 0;
                for (int c = 0; c < 4 * 64; c++) {
                    off += pow((double)out[c] - (double)dense[c], 2);
                    all += pow((double)dense[c], 2);
                }
                error += sqrt(off / all) / 300;
            }
        struct select_report r;
        select_report(se, &r);
        print_message("# %s: density %.3f, mass %.3f of %d looks, error %.3f\n", cases[i].name,
                      r.density, r.mass_mean, r.n_mass, error);
        assert_true(r.n_choice > 0);
        assert_true(error > 0 && error < 0.2);
        assert_true(r.density > cases[i].least && r.density < cases[i].most);
        assert_true(r.mass_mean > 0.8);
        select_free(se);
    }
    heads_free(&h);
    kern_close(k);
}

/* Of the answer of select_attend to every position of an answer, on k. */
static void select_answers(struct kern *k, const struct heads *h, int32_t answer0,
                           const struct select_params *p, float *out, struct select_report *r)
{
    struct sparse_shape s = {1, 4, 2, 64};
    struct select *se = select_new(k, &s, p);
    select_begin(se, 0.9f, answer0);
    struct kern_attn a = heads_attn(h, answer0 - 64, 64, NULL);
    select_observe(se, 0, &a);
    for (int32_t pos = answer0; pos < h->n; pos++, out += 4 * 64) {
        a = heads_attn(h, pos, 1, out);
        select_attend(se, 0, &a);
    }
    select_report(se, r);
    select_free(se);
}

/* A backend whose pages are not the host's chooses the same by its own bounds. The heads lie in host
 * memory, so CUDA_MODULE must be the shim's. */
static void select_attend__cuda__chooses_as_the_cpu(void **state)
{
    static const struct decode_method methods[] = {
        {0}, {.score = DECODE_BOUNDS, .share = 0.25f}, {.score = DECODE_CHANNELS, .share = 0.25f}};
    enum { ANSWER = 36 };
    char why[256];
    int32_t n = 1088 + ANSWER;
    struct kern *cpu = kern_open_cpu("ref", 1);
    struct kern *cuda = kern_open_cuda(getenv("CUDA_MODULE"), 0, 1, why, sizeof why);
    if (!cuda)
        fail_msg("%s", why);
    struct heads h = heads_make(HEADS_RECALL, n, 4, 2, 64, 21);
    heads_seal(&h, n - ANSWER, 8, 4);
    static float want[ANSWER * 4 * 64], got[ANSWER * 4 * 64];
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        struct select_params p = {.n_min = 1, .method = methods[i]};
        struct select_report r[2];
        select_answers(cpu, &h, n - ANSWER, &p, want, &r[0]);
        select_answers(cuda, &h, n - ANSWER, &p, got, &r[1]);
        assert_true(r[0].n_choice > 0 && r[0].density < 0.9);
        assert_int_equal(r[1].n_choice, r[0].n_choice);
        assert_true(fabs(r[1].density - r[0].density) < 1e-9);
        double off = 0, all = 0;
        for (size_t x = 0; x < sizeof want / sizeof *want; x++) {
            off += pow((double)got[x] - (double)want[x], 2);
            all += pow((double)want[x], 2);
        }
        assert_true(sqrt(off / all) < 1e-3);
    }
    heads_free(&h);
    kern_close(cuda);
    kern_close(cpu);
}

int main(int n_arg, char **arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(select_attend__structured_heads__reads_a_part_and_keeps_the_mass),
        cmocka_unit_test(select_attend__spread_heads__stay_dense),
        cmocka_unit_test(select_attend__share_alone__bounds_what_is_read),
        cmocka_unit_test(select_attend__short_context_or_coverage_one__is_dense),
        cmocka_unit_test(select_attend__topic_returns__its_page_is_read_again),
        cmocka_unit_test(select_attend__published_methods__read_their_share),
        cmocka_unit_test(select_attend__cuda__chooses_as_the_cpu),
    };
    if (n_arg > 1)
        cmocka_set_test_filter(arg[1]);
    if (!getenv("CUDA_MODULE"))
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
