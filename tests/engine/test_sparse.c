/* Block scores and the policy of sparse prefill, on synthetic heads (heads.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/blocks.h"
#include "engine/sparse_impl.h"
#include "kernels/score.h"
#include "tests/engine/heads.h"

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) & ~(size_t)63);
    for (size_t i = 0; i < n; i++)
        p[i] = -7;
    return p;
}

/* ---- scores ---- */

struct scores {
    struct kern_score s;
    float *mass, *lse, *anti;
};

static struct scores scores_of(struct kern *k, const struct kern_attn *a, const int32_t *row,
                               int32_t n_row, const int32_t *group, int32_t n_group)
{
    struct scores r;
    int32_t n_block = (a->pos0 + a->n_tok - 1) / 64 + 1;
    r.mass = floats((size_t)a->n_head * n_row * n_block + 1);
    r.lse = floats((size_t)a->n_head * n_row + 1);
    r.anti = floats((size_t)a->n_head * n_group * n_block + 1);
    r.s = (struct kern_score){.a = a, .n_block = n_block, .n_row = n_row, .row = row,
                              .mass = r.mass, .lse = r.lse, .n_group = n_group, .group = group,
                              .anti = r.anti};
    assert_true(kern_score(k, &r.s));
    return r;
}

static void scores_free(struct scores *r)
{
    free(r->mass);
    free(r->lse);
    free(r->anti);
}

static void kern_score__exact_rows__are_what_attention_sums(void **state)
{
    struct kern *k = kern_open_cpu("ref", 2);
    for (int sealed = 0; sealed < 2; sealed++) {
        struct heads h = heads_make(HEADS_RECALL, 460, 2, 2, 32, 5);
        if (sealed)
            heads_seal(&h, 460, 8, 8);
        struct kern_attn a = heads_attn(&h, 200, 260, NULL);
        int32_t row[] = {0, 55, 56, 57, 130, 259}, n_row = 6;
        struct scores r = scores_of(k, &a, row, n_row, NULL, 0);
        float *out = floats((size_t)2 * 32), mass[2 * 8], lse[2];
        for (int32_t i = 0; i < n_row; i++) {
            struct kern_attn one = heads_attn(&h, 200 + row[i], 1, out);
            memset(mass, 0, sizeof mass);
            one.mass = mass;
            one.lse = lse;
            k->ops->attend(k, &one);
            for (int32_t head = 0; head < 2; head++) {
                double sum = 0;
                assert_float_equal(r.lse[head * n_row + i], lse[head], 1e-4);
                for (int32_t j = 0; j < 8; j++) {
                    float m = r.mass[(head * n_row + i) * 8 + j];
                    assert_float_equal(m, mass[head * h.kv.n_block_cap + j], 1e-5);
                    sum += (double)m;
                }
                assert_float_equal(sum, 1, 1e-5);
            }
        }
        free(out);
        scores_free(&r);
        heads_free(&h);
    }
    kern_close(k);
}

/* Tile registers take sixteen bits of each factor; and dense rows and listed ones may be answered by
 * different kernels. */
#define MASS_TOLERANCE 3e-4
/* Antidiagonals only rank: there tile registers take eight bits, cut off, of scores up to some ten. */
#define ANTI_TOLERANCE 2e-2

static void kern_score__lanes__agree_with_plain(void **state)
{
    static const int32_t shapes[][3] = {/* n_head, n_head_kv, head_dim */
                                        {2, 2, 64}, {6, 2, 80}, {4, 1, 96}, {8, 1, 128}, {2, 1, 256},
                                        {3, 1, 336}, {4, 1, 512}, {4, 1, 576}, {300, 1, 16}};
    struct kern *ref = kern_open_cpu("ref", 2), *one = kern_open_cpu(NULL, 1),
                *two = kern_open_cpu(NULL, 2);
    if (strcmp(one->name, "ref") == 0) {
        skip();
        return;
    }
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        for (int sealed = 0; sealed < 2; sealed++) {
            int32_t n = 64 * 11 + 17;
            struct heads h = heads_make(HEADS_NEEDLE, n, shapes[i][0], shapes[i][1], shapes[i][2], 3);
            if (sealed)
                heads_seal(&h, n, 4, 4);
            struct kern_attn a = heads_attn(&h, 96, n - 96, NULL);
            a.softcap = i == 1 ? 20.0f : 0;
            int32_t row[24], group[12];
            for (int32_t r = 0; r < 24; r++)
                row[r] = r * 26;
            for (int32_t g = 0; g < 12; g++)
                group[g] = g * 48;
            struct scores want = scores_of(ref, &a, row, 24, group, 12);
            struct scores r1 = scores_of(one, &a, row, 24, group, 12);
            struct scores r2 = scores_of(two, &a, row, 24, group, 12);
            size_t n_mass = (size_t)a.n_head * 24 * want.s.n_block;
            size_t n_anti = (size_t)a.n_head * 12 * want.s.n_block;
            for (size_t j = 0; j < n_mass; j++)
                assert_float_equal(r1.mass[j], want.mass[j], MASS_TOLERANCE);
            for (size_t j = 0; j < n_anti; j++)
                assert_float_equal(r1.anti[j], want.anti[j],
                                   strcmp(one->name, "amx") ? MASS_TOLERANCE : ANTI_TOLERANCE);
            for (int32_t j = 0; j < a.n_head * 24; j++)
                assert_float_equal(r1.lse[j], want.lse[j], MASS_TOLERANCE);
            assert_memory_equal(r1.mass, r2.mass, n_mass * sizeof(float));
            assert_memory_equal(r1.anti, r2.anti, n_anti * sizeof(float));
            scores_free(&want);
            scores_free(&r1);
            scores_free(&r2);
            heads_free(&h);
        }
    }
    kern_close(ref);
    kern_close(one);
    kern_close(two);
}

static void kern_score__float32_cache__has_no_scorer(void **state)
{
    struct kern *k = kern_open_cpu("ref32", 1);
    struct heads h = heads_make(HEADS_LOCAL, 64, 1, 1, 32, 1);
    struct kern_attn a = heads_attn(&h, 0, 64, NULL);
    struct kern_score s = {.a = &a, .n_block = 1};
    assert_false(kern_score(k, &s));
    heads_free(&h);
    kern_close(k);
}

/* ---- the policy ---- */

struct sparse_bed {
    struct kern *k;
    struct heads h;
    struct sparse *sp;
    float *dense, *out, *lse; /* of the call at hand */
};

static struct sparse_bed bed_make(enum heads_kind kind, int32_t n, int32_t n_head,
                                  int32_t n_head_kv, int32_t d, const struct sparse_params *p)
{
    struct sparse_bed b = {.k = kern_open_cpu(NULL, 2)};
    b.h = heads_make(kind, n, n_head, n_head_kv, d, 11);
    struct sparse_shape s = {1, n_head, n_head_kv, d};
    b.sp = sparse_new(b.k, &s, p);
    b.dense = floats((size_t)n * n_head * d);
    b.out = floats((size_t)n * n_head * d);
    b.lse = floats((size_t)n * n_head);
    return b;
}

static void bed_free(struct sparse_bed *b)
{
    sparse_free(b->sp);
    heads_free(&b->h);
    kern_close(b->k);
    free(b->dense);
    free(b->out);
    free(b->lse);
}

/* Rows [pos0, n) in chunks, densely into b->dense and b->lse, by the policy into b->out. */
static void bed_run(struct sparse_bed *b, int32_t pos0, int32_t n, int32_t chunk)
{
    size_t row = (size_t)b->h.n_head * b->h.kv.head_dim;
    for (int32_t at = pos0; at < n;) {
        int32_t now = chunk - at % 64 < n - at ? chunk - at % 64 : n - at;
        struct kern_attn a = heads_attn(&b->h, at, now, b->dense + at * row);
        a.lse = b->lse + (size_t)at * b->h.n_head;
        b->k->ops->attend(b->k, &a);
        a.lse = NULL;
        a.out = b->out + at * row;
        sparse_attend(b->sp, 0, &a, n);
        at += now;
    }
}

static double relative_error(const struct sparse_bed *b, int32_t pos0, int32_t n)
{
    size_t row = (size_t)b->h.n_head * b->h.kv.head_dim;
    double off = 0, all = 0;
    for (size_t i = pos0 * row; i < n * row; i++) {
        double d = (double)b->dense[i], e = (double)b->out[i] - d;
        off += e * e;
        all += d * d;
    }
    return sqrt(off / all);
}

static void sparse_attend__coverage_one__is_dense_bit_for_bit(void **state)
{
    struct sparse_bed b = bed_make(HEADS_RECALL, 1600, 4, 2, 64,
                                   &(struct sparse_params){.coverage = 1, .n_min = 1, .always = true});
    bed_run(&b, 0, 1600, 512);
    assert_memory_equal(b.out, b.dense, (size_t)1600 * 4 * 64 * sizeof(float));
    struct sparse_report r;
    sparse_report(b.sp, &r);
    assert_int_equal(r.reason, SPARSE_OFF);
    assert_float_equal(r.density, 1, 0);
    assert_float_equal(r.mass_mean, 1, 0);
    bed_free(&b);
}

static void sparse_attend__what_does_not_pay__is_dense_bit_for_bit(void **state)
{
    static const struct {
        enum heads_kind kind;
        int32_t n, pos0, n_min, window;
        enum sparse_reason reason;
    } cases[] = {
        {HEADS_RECALL, 1600, 0, 4096, 0, SPARSE_SHORT},
        {HEADS_SPREAD, 2048, 1024, 1, 0, SPARSE_NO_GAIN},
        {HEADS_RECALL, 2048, 1024, 1, 300, SPARSE_WINDOW},
    };
    for (size_t i = 0; i < 3; i++) {
        struct sparse_bed b =
            bed_make(cases[i].kind, cases[i].n, 4, 2, 64,
                     &(struct sparse_params){.coverage = 0.95f, .n_min = cases[i].n_min});
        int32_t n_tok = cases[i].n - cases[i].pos0;
        struct kern_attn a = heads_attn(&b.h, cases[i].pos0, n_tok, b.dense);
        a.window = cases[i].window;
        b.k->ops->attend(b.k, &a);
        a.out = b.out;
        sparse_attend(b.sp, 0, &a, a.pos0 + a.n_tok);
        assert_memory_equal(b.out, b.dense, (size_t)n_tok * 4 * 64 * sizeof(float));
        struct sparse_report r;
        sparse_report(b.sp, &r);
        assert_int_equal(r.n_call[cases[i].reason], 1);
        bed_free(&b);
    }
}

static void attend__full_lists__equal_dense(void **state)
{
    struct sparse_bed b =
        bed_make(HEADS_RECALL, 900, 4, 2, 64, &(struct sparse_params){.coverage = 1});
    int32_t pos0 = 70, n_tok = 830, b0 = 1, n_rb = 14, first[2 * 15], index[2 * 14 * 15], n = 0;
    for (int32_t h = 0; h < 2; h++) {
        for (int32_t r = 0; r < n_rb; r++) {
            first[h * 15 + r] = n;
            for (int32_t j = 0; j < b0 + r - 1; j++)
                index[n++] = j;
        }
        first[h * 15 + 14] = n;
    }
    struct kern_attn a = heads_attn(&b.h, pos0, n_tok, b.dense);
    b.k->ops->attend(b.k, &a);
    a.out = b.out;
    a.list = &(struct kern_block_list){first, index};
    b.k->ops->attend(b.k, &a);
    for (size_t i = 0; i < (size_t)n_tok * 4 * 64; i++)
        assert_float_equal(b.out[i], b.dense[i], 1e-5);
    bed_free(&b);
}

/* Any cached length, any number of new rows: lists are in order and hold what is always read; the
 * answer of every row stays within the bound that its retained mass gives. */
static void sparse_attend__any_shape__lists_whole_and_errors_bounded(void **state)
{
    static const int32_t shapes[][2] = {/* cached, new */
                                        {0, 63},    {0, 64},    {0, 65},     {1023, 1},   {999, 31},
                                        {1000, 32}, {1301, 255}, {1280, 256}, {1290, 1000}, {0, 2049}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int32_t pos0 = shapes[i][0], n_tok = shapes[i][1], n = pos0 + n_tok, n_head = 6, d = 32;
        struct sparse_bed b =
            bed_make(HEADS_RECALL, n, n_head, 2, d,
                     &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .always = true,
                                             .no_feedback = true, .rho_max = 2});
        struct kern_attn a = heads_attn(&b.h, pos0, n_tok, b.dense);
        a.lse = b.lse;
        b.k->ops->attend(b.k, &a);
        enum sparse_reason why;
        const struct kern_block_list *list = sparse_choose(b.sp, 0, &a, a.pos0 + a.n_tok, &why);
        if (n_tok < 32) {
            assert_null(list);
            assert_int_equal(why, SPARSE_FEW_ROWS);
            bed_free(&b);
            continue;
        }
        if (!list) { /* all rows are the question's */
            assert_true(n_tok <= 65);
            bed_free(&b);
            continue;
        }
        int32_t b0 = pos0 / 64, n_rb = (n - 1) / 64 - b0 + 1;
        for (int32_t h = 0; h < 2; h++) {
            for (int32_t r = 0; r < n_rb; r++) {
                const int32_t *at = list->index + list->first[h * (n_rb + 1) + r];
                int32_t count = list->first[h * (n_rb + 1) + r + 1] - list->first[h * (n_rb + 1) + r];
                int32_t older = b0 + r - 1;
                bool has[64] = {false};
                for (int32_t j = 0; j < count; j++) {
                    if (j > 0)
                        assert_true(at[j] > at[j - 1]);
                    assert_in_range(at[j], 0, older - 1);
                    has[at[j]] = true;
                }
                for (int32_t j = 0; j < older; j++)
                    if (j < 2 || j > b0 + r - 4)
                        assert_true(has[j]);
                /* the question: everything */
                if (n_tok >= 256 && (b0 + r + 1) * 64 > n - 128)
                    assert_int_equal(count, older > 0 ? older : 0);
            }
        }
        float *lse = floats((size_t)n_tok * n_head);
        struct kern_attn with = a;
        with.out = b.out;
        with.lse = lse;
        with.list = list;
        b.k->ops->attend(b.k, &with);
        for (int32_t r = 0; r < n_tok * n_head; r++) {
            double w = exp((double)lse[r] - (double)b.lse[r]), off = 0, most = 0;
            assert_true(w > 0 && w <= 1 + MASS_TOLERANCE);
            for (int32_t c = 0; c < d; c++)
                off += pow((double)b.out[r * d + c] - (double)b.dense[r * d + c], 2);
            for (int32_t p = 0; p < n; p++) { /* |v| of any key, this KV head */
                const struct kern_kv_block *blk =
                    &b.h.kv.block[r % n_head / 3 * b.h.kv.n_block_cap + p / 64];
                double v = 0;
                for (int32_t c = 0; c < d && r % 97 == 0; c++)
                    v += pow((double)kern_f16_to_f32(blk->v[p % 64 * d + c]), 2);
                most = fmax(most, v);
            }
            if (r % 97 == 0)
                assert_true(sqrt(off) <= 2 * (1 - fmin(w, 1)) * sqrt(most) + 10 * MASS_TOLERANCE);
        }
        free(lse);
        bed_free(&b);
    }
}

/* Structured heads: the mass asked for is kept, from a part of the blocks; what the held-out rows
 * say is what all rows have. */
static void sparse_attend__structured_heads__keep_their_coverage(void **state)
{
    static const enum heads_kind kinds[] = {HEADS_RECALL, HEADS_LOCAL, HEADS_NEEDLE};
    for (size_t i = 0; i < 3; i++) {
        int32_t n = 4096;
        struct sparse_bed b = bed_make(kinds[i], n, 2, 1, 64,
                                       &(struct sparse_params){.coverage = 0.95f, .n_min = 1024});
        bed_run(&b, 0, n, 512);
        struct sparse_report r;
        sparse_report(b.sp, &r);
        print_message("# kind %d: density %.3f, mass mean %.4f, 5th %.3f, worst %.4f, error %.4f, "
                      "audits %.4f (%d), %s\n", (int)kinds[i], r.density, r.mass_mean, r.mass_p5,
                      r.mass_worst, relative_error(&b, 0, n), r.error_mean, r.n_audit,
                      sparse_reason_text(r.reason));
        assert_int_equal(r.reason, SPARSE_ON);
        assert_true(r.density < 0.75);
        assert_true(r.mass_mean > 0.93);
        assert_true(r.n_held_out > 40);
        assert_true(relative_error(&b, 0, n) < 0.15);
        bed_free(&b);
    }
}

static void sparse_report__held_out_rows__speak_for_all(void **state)
{
    int32_t n = 3072, pos0 = 1536, n_tok = n - pos0, n_head = 2;
    struct sparse_bed b =
        bed_make(HEADS_RECALL, n, n_head, 1, 64,
                 &(struct sparse_params){.coverage = 0.85f, .n_min = 1, .always = true, .rho_max = 2});
    float *lse = floats((size_t)n_tok * n_head);
    struct kern_attn a = heads_attn(&b.h, pos0, n_tok, b.dense);
    a.lse = b.lse;
    b.k->ops->attend(b.k, &a);
    enum sparse_reason why;
    a.lse = lse;
    a.out = b.out;
    a.list = sparse_choose(b.sp, 0, &a, INT32_MAX, &why);
    assert_non_null(a.list);
    b.k->ops->attend(b.k, &a);
    double sum = 0;
    for (int32_t i = 0; i < n_tok * n_head; i++)
        sum += fmin(1, exp((double)lse[i] - (double)b.lse[i]));
    double truth = sum / (n_tok * n_head);
    a.list = NULL;
    a.lse = NULL;
    sparse_attend(b.sp, 0, &a, INT32_MAX);
    struct sparse_report r;
    sparse_report(b.sp, &r);
    /* Hoeffding's half-width at 95 % for values in 0..1 */
    double half = sqrt(log(40.0) / (2.0 * r.n_held_out));
    print_message("# held out %.4f, all rows %.4f, half-width %.4f\n", r.mass_mean, truth, half);
    assert_true(truth < 0.999);
    assert_true(fabs(r.mass_mean - truth) < half);
    free(lse);
    bed_free(&b);
}

/* The question reads everything, however the turn falls into calls. */
static void sparse_choose__end_of_a_turn__reads_everything(void **state)
{
    static const struct {
        int32_t pos0, n_tok, turn_end;
        int32_t lists_to; /* position of the first row block that reads everything; 0 = the call */
    } cases[] = {
        {1024, 512, 1536, 1408},      /* one call */
        {1024, 512, 1636, 1472},      /* the question begins in this call and ends in the next, */
        {1536, 100, 1636, 0},         /* which is dense */
        {1536, 130, 1666, 0},         /* what is left before the question is too little */
        {1536, 200, 1736, 1600},      /* a short turn */
        {1500, 200, 1700, 1536},      /* which begins in the middle of a row block */
        {1536, 200, INT32_MAX, 1736}, /* not the end */
    };
    struct sparse_bed b = bed_make(HEADS_RECALL, 2048, 4, 2, 64,
                                   &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .always = true});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        enum sparse_reason why;
        struct kern_attn a = heads_attn(&b.h, cases[i].pos0, cases[i].n_tok, b.out);
        const struct kern_block_list *list = sparse_choose(b.sp, 0, &a, cases[i].turn_end, &why);
        assert_int_equal(why, cases[i].lists_to ? SPARSE_ON : SPARSE_FEW_ROWS);
        if (!list)
            continue;
        int32_t b0 = cases[i].pos0 / 64, n = (cases[i].pos0 + cases[i].n_tok - 1) / 64 - b0 + 1;
        int32_t n_less = 0;
        for (int32_t h = 0; h < 2; h++)
            for (int32_t r = 0; r < n; r++) {
                const int32_t *first = list->first + h * (n + 1) + r;
                bool all = first[1] - first[0] == b0 + r - 1;
                n_less += !all;
                if ((b0 + r) * 64 >= cases[i].lists_to)
                    assert_true(all);
            }
        assert_true(n_less > 0);
    }
    bed_free(&b);
}

/* Which blocks are read depends on no number of threads; dense rows are summed in another order. */
/* What is listed holds the mass aimed at in the rows that chose; held-out rows are none of them. */
static void sparse_choose__lists__cover_what_is_aimed_at(void **state)
{
    int32_t n = 3072, pos0 = 2048, n_head = 4, group = 2, n_rb = 16, n_checked = 0;
    struct sparse_bed b =
        bed_make(HEADS_RECALL, n, n_head, 2, 64,
                 &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .always = true, .rho_max = 2});
    struct kern_attn a = heads_attn(&b.h, pos0, n - pos0, b.out);
    enum sparse_reason why;
    assert_non_null(sparse_choose(b.sp, 0, &a, INT32_MAX, &why));
    const struct sparse *sp = b.sp;
    for (int32_t i = 0; i < sp->n_held; i++)
        for (int32_t j = 0; j < sp->n_row; j++)
            assert_true(sp->held[i].row != sp->row[j]);
    for (int32_t head = 0; head < n_head; head++)
        for (int32_t r = 0; r < n_rb; r++) {
            const int32_t *first = sp->first + head / group * (n_rb + 1) + r;
            double kept = 0;
            int32_t n_row = 0, at = pos0 / 64 + r;
            for (int32_t i = 0; i < sp->n_row; i++) {
                const float *mass = sp->mass + ((size_t)head * sp->n_row + i) * sp->n_block;
                if (sp->row[i] / 64 != r)
                    continue;
                n_row++;
                kept += (double)mass[at] + (double)mass[at - 1];
                for (int32_t j = first[0]; j < first[1]; j++)
                    kept += (double)mass[sp->index[j]];
            }
            assert_int_equal(n_row, 4);
            assert_true(kept / n_row > (double)sp->layer[0].head[head / group].aim - 1e-5);
            n_checked += first[1] - first[0] < at - 1;
        }
    assert_true(n_checked > n_head * n_rb / 2);
    bed_free(&b);
}

/* Lists begin with the first call that ends at n_min keys. */
static void sparse_choose__around_the_least_length__is_dense_below(void **state)
{
    for (int32_t n = 4095; n <= 4096; n++) {
        struct sparse_bed b =
            bed_make(HEADS_RECALL, n, 2, 1, 64, &(struct sparse_params){.coverage = 0.9f});
        struct kern_attn a = heads_attn(&b.h, n - 300, 300, b.out);
        enum sparse_reason why;
        const struct kern_block_list *list = sparse_choose(b.sp, 0, &a, INT32_MAX, &why);
        assert_int_equal(why, n < 4096 ? SPARSE_SHORT : SPARSE_ON);
        assert_true((list != NULL) == (n == 4096));
        bed_free(&b);
    }
}

/* Without a correction rows are what the lists give, but for those that are known exactly. */
static void sparse_attend__no_correction__is_the_lists(void **state)
{
    struct prefill_method m = {.score = PREFILL_STATIC, .first = 64, .local = 128};
    struct sparse_bed b = bed_make(HEADS_RECALL, 2048, 2, 1, 64,
                                   &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .method = m});
    struct kern_attn a = heads_attn(&b.h, 1536, 512, b.out);
    sparse_attend(b.sp, 0, &a, INT32_MAX);
    a.out = b.dense;
    a.list = &b.sp->list;
    b.k->ops->attend(b.k, &a);
    bool held[512] = {false};
    for (int32_t i = 0; i < b.sp->n_held; i++)
        held[b.sp->held[i].row] = true;
    for (int32_t r = 0; r < 512; r++)
        assert_int_equal(memcmp(b.out + r * 128, b.dense + r * 128, 128 * sizeof(float)) != 0, held[r]);
    bed_free(&b);
}

/* Of four heads one reads everything: it is left alone for three calls, then for seven. */
static void sparse_choose__head_that_reads_all__sleeps(void **state)
{
    enum { SPREAD = 2 };
    struct sparse_bed b = bed_make(HEADS_MIXED, 4096, 4, 4, 32,
                                   &(struct sparse_params){.coverage = 0.9f, .n_min = 1});
    struct kern_attn a = heads_attn(&b.h, 3584, 512, b.out);
    const struct head_state *head = b.sp->layer[0].head;
    static const int32_t left[] = {3, 2, 1, 0, 7, 6};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        enum sparse_reason why;
        assert_non_null(sparse_choose(b.sp, 0, &a, INT32_MAX, &why));
        assert_int_equal(head[SPREAD].n_sleep, left[i]);
        assert_int_equal(b.sp->asleep[SPREAD], i % 4 != 0);
        assert_int_equal(b.sp->first[SPREAD * 9 + 1] - b.sp->first[SPREAD * 9], 55);
        for (int32_t h = 0; h < 4; h++)
            assert_true(h == SPREAD || (head[h].listed && !b.sp->asleep[h]));
    }
    bed_free(&b);
}

static void sparse_attend__number_of_threads__changes_no_list(void **state)
{
    struct heads h = heads_make(HEADS_MIXED, 2048, 8, 4, 64, 7);
    heads_seal(&h, 1024, 4, 4);
    size_t n = (size_t)1024 * 8 * 64;
    float *out[2] = {floats(n), floats(n)};
    int32_t first[2][4 * 17], index[2][4 * 16 * 32];
    for (int i = 0; i < 2; i++) {
        struct kern *k = kern_open_cpu(NULL, 1 + 2 * i);
        struct sparse_shape s = {1, 8, 4, 64};
        struct sparse *sp = sparse_new(
            k, &s, &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .always = true});
        struct kern_attn a = heads_attn(&h, 1024, 1024, out[i]);
        sparse_attend(sp, 0, &a, a.pos0 + a.n_tok);
        struct sparse_report r;
        sparse_report(sp, &r);
        assert_int_equal(r.reason, SPARSE_ON);
        enum sparse_reason why;
        const struct kern_block_list *list = sparse_choose(sp, 0, &a, a.pos0 + a.n_tok, &why);
        memcpy(first[i], list->first, sizeof first[i]);
        for (int32_t part = 0; part < 4; part++)
            memcpy(index[i] + list->first[part * 17], list->index + list->first[part * 17],
                   sizeof(int32_t) * (list->first[part * 17 + 16] - list->first[part * 17]));
        sparse_free(sp);
        kern_close(k);
    }
    assert_memory_equal(first[0], first[1], sizeof first[0]);
    for (int32_t part = 0; part < 4; part++)
        for (int32_t i = first[0][part * 17]; i < first[0][part * 17 + 16]; i++)
            assert_int_equal(index[0][i], index[1][i]);
    for (size_t i = 0; i < n; i++)
        assert_float_equal(out[0][i], out[1][i], 1e-4);
    free(out[0]);
    free(out[1]);
    heads_free(&h);
}

/* ---- the correction ---- */

struct fix_case {
    double error, before, audited, strength, mass;
};

/* Errors over all rows of three chunks that read lists, with and without the correction. */
static struct fix_case fix_run(struct sparse_bed *b, float coverage, const struct prefill_method *m)
{
    struct fix_case r = {0};
    int32_t n = b->h.n, pos0 = n - 3 * 512;
    for (int with = 0; with < 2; with++) {
        struct sparse_params p = {.coverage = coverage, .n_min = 1, .always = true, .rho_max = 2,
                                  .no_feedback = true, .method = *m};
        if (!with)
            p.method.fix = FIX_NONE;
        sparse_free(b->sp);
        b->sp = sparse_new(b->k, &(struct sparse_shape){1, 2, 1, 64}, &p);
        for (int32_t at = pos0; at < n; at += 512) {
            size_t row = (size_t)2 * 64;
            struct kern_attn a = heads_attn(&b->h, at, 512, b->dense + at * row);
            if (!with)
                b->k->ops->attend(b->k, &a);
            a.out = b->out + at * row;
            sparse_attend(b->sp, 0, &a, INT32_MAX);
        }
        *(with ? &r.error : &r.before) = relative_error(b, pos0, n);
        struct sparse_report t;
        sparse_report(b->sp, &t);
        if (with) {
            r.audited = t.error_mean;
            r.strength = t.correction;
            r.mass = t.mass_mean;
        } else {
            assert_float_equal(t.error_mean, t.error_before, 1e-12);
            assert_float_equal(t.correction, 0, 0);
        }
    }
    return r;
}

/* What the fitted correction does is never worse than nothing (to a fiftieth of the error) and
 * helps where much is left out. */
static void sparse_attend__fitted_correction__never_hurts(void **state)
{
    static const struct prefill_method masks[] = {
        {.first = 128, .local = 256, .tail = 128, .fix = FIX_FITTED},
        {.score = PREFILL_STATIC, .first = 128, .local = 256, .fix = FIX_FITTED},
    };
    static const char *const names[] = {"cap 0.9", "static"};
    bool helped = false;
    for (int kind = HEADS_RECALL; kind <= HEADS_NEEDLE; kind++) {
        struct sparse_bed b = bed_make((enum heads_kind)kind, 3072, 2, 1, 64,
                                       &(struct sparse_params){.coverage = 0.9f});
        for (int m = 0; m < 2; m++) {
            struct fix_case r = fix_run(&b, 0.9f, &masks[m]);
            print_message("# %s, kind %d: mass %.3f, error %.4f, corrected %.4f (audited %.4f), "
                          "strength %.2f\n", names[m], kind, r.mass, r.before, r.error, r.audited,
                          r.strength);
            assert_true(r.error <= r.before * 1.02);
            assert_true(r.strength >= 0 && r.strength <= 1);
            helped = helped || r.error < 0.8 * r.before;
        }
        bed_free(&b);
    }
    assert_true(helped);
}

/* The plain correction of Delta attention, from the same rows: the first of a block. */
static void sparse_attend__held_out_rows__are_exact(void **state)
{
    struct prefill_method m = {.score = PREFILL_STATIC, .first = 64, .local = 128, .fix = FIX_PLAIN};
    struct sparse_bed b = bed_make(HEADS_RECALL, 2048, 2, 1, 64,
                                   &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .method = m});
    struct kern_attn a = heads_attn(&b.h, 1536, 512, b.dense);
    b.k->ops->attend(b.k, &a);
    a.out = b.out;
    sparse_attend(b.sp, 0, &a, INT32_MAX);
    for (int32_t r = 0; r < 8; r++)
        for (int32_t c = 0; c < 2 * 64; c++)
            assert_float_equal(b.out[r * 64 * 128 + c], b.dense[r * 64 * 128 + c], 1e-4);
    assert_true(fabsf(b.out[130] - b.dense[130]) + fabsf(b.out[140] - b.dense[140]) > 1e-4f);
    bed_free(&b);
}

/* ---- published methods ---- */

static void sparse_choose__published_methods__read_what_they_say(void **state)
{
    static const struct {
        struct prefill_method m;
        double least, most; /* density on heads that recall */
    } cases[] = {
        {{.score = PREFILL_DIAGONALS, .coverage = 0.9f, .first = 64, .local = 64}, 0.05, 0.8},
        {{.score = PREFILL_LINES, .n_last = 64, .n_spread = 16, .coverage = 0.955f}, 0.05, 0.99},
        {{.score = PREFILL_LINES, .n_last = 64, .n_column = 256, .n_slash = 256}, 0.05, 0.5},
        {{.score = PREFILL_LINES, .n_last = 128, .coverage = 0.9f, .apart = true}, 0.05, 0.99},
        {{.score = PREFILL_COLUMNS, .n_spread = 3, .coverage = 0.95f, .local_share = 0.08f}, 0.1, 0.99},
        {{.score = PREFILL_STATIC, .first = 128, .local = 256}, 0.08, 0.2},
    };
    struct sparse_bed b =
        bed_make(HEADS_RECALL, 4096, 2, 1, 64, &(struct sparse_params){.coverage = 0.9f});
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sparse_free(b.sp);
        b.sp = sparse_new(b.k, &(struct sparse_shape){1, 2, 1, 64},
                          &(struct sparse_params){.coverage = 0.9f, .n_min = 1, .method = cases[i].m});
        struct kern_attn a = heads_attn(&b.h, 3584, 512, b.out);
        sparse_attend(b.sp, 0, &a, INT32_MAX);
        struct sparse_report r;
        sparse_report(b.sp, &r);
        print_message("# method %d: density %.3f, mass %.3f\n", (int)i, r.density, r.mass_mean);
        assert_int_equal(r.reason, SPARSE_ON);
        assert_true(r.density >= cases[i].least && r.density <= cases[i].most);
    }
    bed_free(&b);
}

/* A column that one row in eight looks at and a diagonal that all look at: lines find them. */
static void blocks_lines__planted__are_found(void **state)
{
    enum { ROWS = 32, BLOCKS = 24 };
    float mass[ROWS * BLOCKS] = {0};
    int32_t own[ROWS];
    for (int i = 0; i < ROWS; i++) {
        own[i] = 16 + i / 4;
        mass[i * BLOCKS + own[i]] = 0.4f;
        mass[i * BLOCKS + own[i] - 7] = 0.5f;
        mass[i * BLOCKS + (i % 8 == 0 ? 3 : own[i])] += 0.1f;
    }
    bool column[BLOCKS], slash[BLOCKS];
    struct prefill_method m = {.score = PREFILL_LINES};
    blocks_lines(&m, 0.88f, mass, own, ROWS, BLOCKS, column, slash);
    assert_true(slash[7] || slash[6]);
    assert_false(column[3]);
    blocks_lines(&m, 0.999f, mass, own, ROWS, BLOCKS, column, slash);
    assert_true(column[3]);
    for (int j = 0; j < BLOCKS; j++)
        assert_true(!column[j] || j == 3);
    m.score = PREFILL_COLUMNS;
    blocks_lines(&m, 1, mass, own, ROWS, BLOCKS, column, slash);
    for (int j = 0; j < BLOCKS; j++)
        assert_false(slash[j]);
    m = (struct prefill_method){.score = PREFILL_LINES, .n_column = 128, .n_slash = 64};
    blocks_lines(&m, 0, mass, own, ROWS, BLOCKS, column, slash);
    int n_column = 0, n_slash = 0;
    for (int j = 0; j < BLOCKS; j++) {
        n_column += column[j];
        n_slash += slash[j];
    }
    assert_int_equal(n_column, 2);
    assert_int_equal(n_slash, 1);
    assert_true(slash[7]);
}

static void sparse_begin__again__gives_the_same_answer(void **state)
{
    struct sparse_bed b = bed_make(HEADS_RECALL, 2560, 2, 1, 64,
                                   &(struct sparse_params){.coverage = 0.9f, .n_min = 512});
    size_t n = (size_t)2560 * 2 * 64;
    float *before = floats(n);
    bed_run(&b, 0, 2560, 512);
    memcpy(before, b.out, n * sizeof(float));
    sparse_begin(b.sp, 0.9f);
    bed_run(&b, 0, 2560, 512);
    assert_memory_equal(before, b.out, n * sizeof(float));
    free(before);
    bed_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kern_score__exact_rows__are_what_attention_sums),
        cmocka_unit_test(kern_score__lanes__agree_with_plain),
        cmocka_unit_test(kern_score__float32_cache__has_no_scorer),
        cmocka_unit_test(sparse_attend__coverage_one__is_dense_bit_for_bit),
        cmocka_unit_test(sparse_attend__what_does_not_pay__is_dense_bit_for_bit),
        cmocka_unit_test(attend__full_lists__equal_dense),
        cmocka_unit_test(sparse_attend__any_shape__lists_whole_and_errors_bounded),
        cmocka_unit_test(sparse_attend__structured_heads__keep_their_coverage),
        cmocka_unit_test(sparse_report__held_out_rows__speak_for_all),
        cmocka_unit_test(sparse_choose__end_of_a_turn__reads_everything),
        cmocka_unit_test(sparse_choose__lists__cover_what_is_aimed_at),
        cmocka_unit_test(sparse_choose__around_the_least_length__is_dense_below),
        cmocka_unit_test(sparse_attend__no_correction__is_the_lists),
        cmocka_unit_test(sparse_choose__head_that_reads_all__sleeps),
        cmocka_unit_test(sparse_attend__number_of_threads__changes_no_list),
        cmocka_unit_test(sparse_attend__fitted_correction__never_hurts),
        cmocka_unit_test(sparse_attend__held_out_rows__are_exact),
        cmocka_unit_test(sparse_choose__published_methods__read_what_they_say),
        cmocka_unit_test(blocks_lines__planted__are_found),
        cmocka_unit_test(sparse_begin__again__gives_the_same_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
