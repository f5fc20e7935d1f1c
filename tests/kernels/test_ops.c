/* Every op of every instruction set of this machine against the plain one, over odd shapes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "kernels/timed.h"
#include "tests/support/blocks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Largest error of a product, relative to the norm of the terms that were summed: inputs rounded
 * to 8 bits per 32 values err by about 0.5 % of their size each, independently, so that a sum errs
 * by 0.5 % of that norm; among a million sums the largest is some five times as much. */
#define TOLERANCE_BLOCK 0.03
/* Plain types: rounding of float32 sums. Inputs of 13 bits and more: a 32nd of those of 8. */
#define TOLERANCE_PLAIN 2e-5
#define TOLERANCE_WIDE 1.2e-3
/* Elementwise: a few units in the last place, polynomial exp included. */
#define TOLERANCE_ELEMENT 2e-6

static const char *isas[] = {"avx2", "avx512", "amx"};
enum { N_ISA = sizeof isas / sizeof *isas };

static const enum kern_type types[] = {
    KERN_F32,  KERN_F16,  KERN_BF16, KERN_Q8_0, KERN_Q4_0,   KERN_Q4_1,   KERN_Q5_0, KERN_Q5_1,
    KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K, KERN_Q6_K,   KERN_IQ4_NL, KERN_IQ4_XS,
    KERN_MXFP4, KERN_IQ2_XXS, KERN_IQ2_XS, KERN_IQ2_S, KERN_IQ3_XXS, KERN_IQ3_S, KERN_IQ1_S, KERN_IQ1_M};
enum { N_TYPE = sizeof types / sizeof *types };

static uint32_t state = 1;

static float uniform(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 8388608.0f - 1.0f;
}

static float *random_floats(size_t n, float size)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = size * (uniform() + uniform() + uniform());
    return x;
}

static uint8_t *random_weight(enum kern_type type, int32_t n_row, int32_t n_col)
{
    size_t n = (size_t)n_row * n_col;
    float *x = random_floats(n, 0.02f);
    uint8_t *w = blocks_new(type, x, n);
    free(x);
    return w;
}

/* Opens an instruction set, or NULL when the machine lacks it. */
static struct kern *open_isa(const char *isa, int threads)
{
    struct kern *k = kern_open_cpu(isa, threads);
    if (k)
        assert_string_equal(k->name, isa);
    return k;
}

static void skip_without(struct kern *k)
{
    if (!k) {
        print_message("# not on this machine\n");
        skip();
    }
}

struct shape {
    int32_t n_row, n_col, n_tok;
};

static const struct shape shapes[] = {
    {1, 256, 1},   {16, 256, 2},   {17, 512, 3},  {33, 768, 5},   {64, 256, 7},
    {100, 512, 13}, {130, 256, 64}, {70, 512, 65}, {48, 1024, 130}, {300, 2048, 1},
    {31, 32, 1},   {18, 96, 4},    {50, 576, 1},  {21, 576, 6},   {40, 1056, 9},
    {24, 96, 20},  {70, 576, 37},  {16, 1056, 17}};

/* One product of each kind of destination: plain, with bias, added to what is there. */
static double worst_product_error(struct kern *ref, struct kern *k, enum kern_type type,
                                  struct shape s)
{
    enum { PAD = 3 };
    int32_t stride = s.n_row + PAD, x_stride = s.n_col + 8;
    uint8_t *data = random_weight(type, s.n_row, s.n_col);
    float *x = random_floats((size_t)s.n_tok * x_stride, 1);
    float *bias = random_floats(s.n_row, 1);
    float *start = random_floats((size_t)s.n_tok * stride, 1);
    float *row = malloc(s.n_col * sizeof *row);
    float *out[2][3];
    struct kern *both[2] = {ref, k};
    for (int b = 0; b < 2; b++) {
        struct kern_weight *w =
            both[b]->ops->weight_new(both[b], type, s.n_row, s.n_col, data);
        assert_non_null(w);
        struct kern_mat mats[3];
        for (int i = 0; i < 3; i++) {
            out[b][i] = malloc((size_t)s.n_tok * stride * sizeof(float));
            memcpy(out[b][i], start, (size_t)s.n_tok * stride * sizeof(float));
            mats[i] = (struct kern_mat){w, i == 1 ? bias : NULL, out[b][i], stride, i == 2};
        }
        both[b]->ops->matmul(both[b], 3, mats, x, x_stride, s.n_tok);
        both[b]->ops->weight_free(both[b], w);
    }
    double worst = 0;
    size_t row_bytes = (size_t)s.n_col / kern_type_block(type) * kern_type_bytes(type);
    for (int32_t r = 0; r < s.n_row; r++) {
        kern_dequantise(type, data + r * row_bytes, row, s.n_col);
        for (int32_t t = 0; t < s.n_tok; t++) {
            double norm = 1e-3;
            for (int32_t i = 0; i < s.n_col; i++)
                norm += pow((double)row[i] * x[(size_t)t * x_stride + i], 2);
            for (int i = 0; i < 3; i++) {
                size_t at = (size_t)t * stride + r;
                double e = fabs((double)out[0][i][at] - out[1][i][at]) / sqrt(norm);
                assert_false(isnan(e));
                worst = e > worst ? e : worst;
            }
        }
    }
    for (int32_t t = 0; t < s.n_tok; t++) /* what lies between the rows stays */
        for (int b = 0; b < 2; b++)
            for (int i = 0; i < 3; i++)
                assert_memory_equal(out[b][i] + (size_t)t * stride + s.n_row,
                                    start + (size_t)t * stride + s.n_row, PAD * sizeof(float));
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < 3; i++)
            free(out[b][i]);
    free(row);
    free(start);
    free(bias);
    free(x);
    free(data);
    return worst;
}

static double product_tolerance(const char *isa, enum kern_type type)
{
    if (type == KERN_F32 || type == KERN_F16 || type == KERN_BF16)
        return TOLERANCE_PLAIN;
    bool wide = type == KERN_Q8_0 || type == KERN_IQ4_NL || type == KERN_IQ4_XS || type == KERN_MXFP4 ||
                (strcmp(isa, "avx2") != 0 && (type == KERN_Q4_0 || type == KERN_Q5_0));
    return wide ? TOLERANCE_WIDE : TOLERANCE_BLOCK;
}

static void check_products(const char *isa)
{
    struct kern *k = open_isa(isa, 2);
    skip_without(k);
    struct kern *ref = open_isa("ref", 2);
    for (int i = 0; i < N_TYPE; i++) {
        double worst = 0;
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) {
            if (shapes[j].n_col % kern_type_block(types[i]))
                continue;
            double e = worst_product_error(ref, k, types[i], shapes[j]);
            if (e > product_tolerance(isa, types[i]))
                fail_msg("%s %s [%d, %d] x %d tokens: error %g", isa, kern_type_name(types[i]),
                         shapes[j].n_row, shapes[j].n_col, shapes[j].n_tok, e);
            worst = e > worst ? e : worst;
        }
        print_message("# %s %s: worst error %.2g\n", isa, kern_type_name(types[i]), worst);
    }
    kern_close(ref);
    kern_close(k);
}

static void ops__matmul__avx2_agrees_with_ref(void **unused)
{
    check_products("avx2");
}

static void ops__matmul__avx512_agrees_with_ref(void **unused)
{
    check_products("avx512");
}

static void ops__matmul__amx_agrees_with_ref(void **unused)
{
    check_products("amx");
}

/* How many tokens come at once, and how many threads work, may not matter at all: rounded inputs
 * and f16 keys blow up the last bit of a sum, and a conversation that is read again must come out
 * as it went. */
static void ops__matmul__same_result_for_any_number_of_tokens(void **unused)
{
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (int j = 0; j < N_TYPE; j++) {
            enum { ROWS = 90, COLS = 512, TOKS = 43 };
            uint8_t *data = random_weight(types[j], ROWS, COLS);
            float *x = random_floats(TOKS * COLS, 1);
            float whole[TOKS][ROWS], single[TOKS][ROWS];
            struct kern_weight *w = k->ops->weight_new(k, types[j], ROWS, COLS, data);
            struct kern_mat m = {w, NULL, whole[0], ROWS, false};
            k->ops->matmul(k, 1, &m, x, COLS, TOKS);
            for (int t = 0; t < TOKS; t++) {
                m.dst = single[t];
                k->ops->matmul(k, 1, &m, x + t * COLS, COLS, 1);
            }
            for (int t = 0; t < TOKS; t++)
                for (int r = 0; r < ROWS; r++)
                    if (whole[t][r] != single[t][r])
                        fail_msg("%s %s: %.9g in a batch, %.9g alone", isas[i],
                                 kern_type_name(types[j]), whole[t][r], single[t][r]);
            k->ops->weight_free(k, w);
            free(x);
            free(data);
        }
        kern_close(k);
    }
}

/* Rows of the repacked matrix are the file's values, bit for bit. */
static void ops__embed__exact_for_every_type(void **unused)
{
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (int j = 0; j < N_TYPE; j++) {
            enum { ROWS = 37, COLS = 768 };
            uint8_t *data = random_weight(types[j], ROWS, COLS);
            size_t row_bytes = COLS / kern_type_block(types[j]) * kern_type_bytes(types[j]);
            struct kern_weight *w = k->ops->weight_new(k, types[j], ROWS, COLS, data);
            int32_t ids[] = {36, 0, 17, 16, 15};
            float got[5][COLS], want[COLS];
            k->ops->embed(k, w, ids, 5, 2.0f, got[0]);
            for (int t = 0; t < 5; t++) {
                kern_dequantise(types[j], data + ids[t] * row_bytes, want, COLS);
                for (int c = 0; c < COLS; c++)
                    if (got[t][c] != 2 * want[c])
                        fail_msg("%s %s row %d column %d: %g, not %g", isas[i],
                                 kern_type_name(types[j]), ids[t], c, got[t][c], 2 * want[c]);
            }
            k->ops->weight_free(k, w);
            free(data);
        }
        kern_close(k);
    }
}

static void ops__matmul__zero_and_tiny_inputs_give_zero(void **unused)
{
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 1);
        if (!k)
            continue;
        for (int j = 0; j < N_TYPE; j++) {
            enum { ROWS = 16, COLS = 256, TOKS = 5 };
            uint8_t *data = random_weight(types[j], ROWS, COLS);
            float x[TOKS * COLS] = {0}, y[TOKS * ROWS];
            for (int c = 0; c < COLS; c++)
                x[c] = 1e-39f; /* subnormal: 127 divided by it is infinite */
            struct kern_weight *w = k->ops->weight_new(k, types[j], ROWS, COLS, data);
            struct kern_mat m = {w, NULL, y, ROWS, false};
            k->ops->matmul(k, 1, &m, x, COLS, TOKS);
            for (int t = 0; t < TOKS * ROWS; t++)
                assert_true(fabsf(y[t]) < 1e-35f);
            k->ops->weight_free(k, w);
            free(data);
        }
        kern_close(k);
    }
}

static void assert_near(const float *got, const float *want, size_t n, double scale,
                        const char *what)
{
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - want[i]);
        if (!(e <= TOLERANCE_ELEMENT * (fabs((double)want[i]) + scale)))
            fail_msg("%s: element %zu is %.9g, not %.9g", what, i, got[i], want[i]);
    }
}

static void ops__center__agrees_with_ref(void **unused)
{
    enum { ROWS = 9 };
    struct kern *ref = open_isa("ref", 1);
    static const int32_t cols[] = {1, 7, 16, 100, 576, 2048};
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        for (size_t j = 0; k && j < sizeof cols / sizeof *cols; j++) {
            size_t n = (size_t)ROWS * cols[j];
            float *x = random_floats(n, 3), *want = malloc(n * sizeof *want);
            ref->ops->center(ref, want, x, ROWS, cols[j]);
            k->ops->center(k, x, x, ROWS, cols[j]); /* in place */
            assert_near(x, want, n, 1, "center");
            free(x);
            free(want);
        }
        if (k)
            kern_close(k);
    }
    kern_close(ref);
}

static void ops__rmsnorm__agrees_with_ref(void **unused)
{
    struct kern *ref = open_isa("ref", 1);
    static const int32_t cols[] = {1, 7, 16, 64, 100, 576, 2048};
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
            int32_t n = cols[j], stride = n + 5, rows = 9;
            float *x = random_floats((size_t)rows * stride, 3), *gain = random_floats(n, 1);
            float *a = malloc((size_t)rows * stride * 4), *b = malloc((size_t)rows * stride * 4);
            memcpy(a, x, (size_t)rows * stride * 4);
            memcpy(b, x, (size_t)rows * stride * 4);
            ref->ops->rmsnorm(ref, a, x, gain, rows, n, stride, 1e-5f);
            k->ops->rmsnorm(k, b, b, gain, rows, n, stride, 1e-5f); /* in place */
            assert_near(b, a, (size_t)rows * stride, 1e-6, "rmsnorm");
            free(a);
            free(b);
            free(x);
            free(gain);
        }
        kern_close(k);
    }
    kern_close(ref);
}

static void ops__rope__agrees_with_ref(void **unused)
{
    struct kern *ref = open_isa("ref", 1);
    float freq[288];
    for (int i = 0; i < 288; i++)
        freq[i] = powf(10000, -(float)i / 64);
    static const struct {
        int32_t head_dim, n_rot, n_head, n_tok, pos0;
    } cases[] = {{64, 64, 3, 5, 0},   {64, 64, 3, 5, 7},      {128, 128, 2, 3, 100000},
                 {96, 96, 1, 1, 31},  {80, 32, 4, 2, 130000}, {64, 20, 2, 7, 4096},
                 {64, 64, 3, 200, 60}, {512, 512, 2, 70, 1000}, {512, 128, 1, 3, 9},
                 {576, 576, 1, 4, 40}};
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++)
            for (int mode = 0; mode < 2; mode++)
                for (int again = 0; again < 2; again++) {
                    struct kern_rope r = {(enum kern_rope_mode)mode, cases[j].n_rot, freq,
                                          again ? 1.2f : 1.0f};
                    int32_t stride = cases[j].n_head * cases[j].head_dim + 11;
                    size_t n = (size_t)cases[j].n_tok * stride;
                    float *a = random_floats(n, 1), *b = malloc(n * 4);
                    memcpy(b, a, n * 4);
                    ref->ops->rope(ref, a, cases[j].n_tok, cases[j].n_head, cases[j].head_dim,
                                   stride, cases[j].pos0, &r);
                    k->ops->rope(k, b, cases[j].n_tok, cases[j].n_head, cases[j].head_dim, stride,
                                 cases[j].pos0, &r);
                    assert_near(b, a, n, 0.3, "rope");
                    free(a);
                    free(b);
                }
        kern_close(k);
    }
    kern_close(ref);
}

static void ops__rope__sees_changed_frequencies(void **unused)
{
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 1);
        if (!k)
            continue;
        float freq[4] = {1, 0.5f, 0.25f, 0.125f}, a[8], b[8];
        struct kern_rope r = {KERN_ROPE_HALVES, 8, freq, 1};
        for (int j = 0; j < 8; j++)
            a[j] = b[j] = 1;
        k->ops->rope(k, a, 1, 1, 8, 8, 3, &r);
        freq[2] = 2; /* same address, same positions */
        k->ops->rope(k, b, 1, 1, 8, 8, 3, &r);
        assert_true(a[2] != b[2]);
        assert_true(a[1] == b[1]);
        kern_close(k);
    }
}

static void ops__glu__agrees_with_ref(void **unused)
{
    struct kern *ref = open_isa("ref", 1);
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (int act = 0; act <= KERN_ACT_NONE; act++)
            for (int32_t n = 1; n < 300; n = n * 3 + 1) {
                enum { TOKS = 5 };
                int32_t stride = 2 * n + 3, dst_stride = n + 1;
                float *gate = random_floats((size_t)TOKS * stride, 8), *up = gate + n;
                gate[0] = 100;
                gate[stride] = -100;
                float *a = calloc((size_t)TOKS * dst_stride, 4);
                float *b = calloc((size_t)TOKS * dst_stride, 4);
                ref->ops->glu(ref, a, dst_stride, gate, up, stride, TOKS, n, (enum kern_act)act);
                k->ops->glu(k, b, dst_stride, gate, up, stride, TOKS, n, (enum kern_act)act);
                assert_near(b, a, (size_t)TOKS * dst_stride, 1e-2, "glu");
                k->ops->glu(k, gate, stride, gate, up, stride, TOKS, n, (enum kern_act)act);
                for (int t = 0; t < TOKS; t++)
                    assert_near(gate + t * stride, a + t * dst_stride, n, 1e-2, "glu in place");
                free(gate);
                free(a);
                free(b);
            }
        kern_close(k);
    }
    kern_close(ref);
}

static void ops__add_scale_softcap__agree_with_ref(void **unused)
{
    struct kern *ref = open_isa("ref", 1);
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (size_t n = 1; n < 100000; n = n * 5 + 2) {
            float *a = random_floats(n, 30), *b = malloc(n * 4), *x = random_floats(n, 1);
            memcpy(b, a, n * 4);
            ref->ops->add(ref, a, x, n);
            k->ops->add(k, b, x, n);
            assert_memory_equal(a, b, n * 4);
            ref->ops->scale(ref, a, n, 0.7f);
            k->ops->scale(k, b, n, 0.7f);
            assert_memory_equal(a, b, n * 4);
            ref->ops->softcap(ref, a, n, 30);
            k->ops->softcap(k, b, n, 30);
            assert_near(b, a, n, 3, "softcap"); /* absolute error: a tenth of the cap */
            free(a);
            free(b);
            free(x);
        }
        kern_close(k);
    }
    kern_close(ref);
}

/* Matrices above each other in weights of two types, many at once, over the same columns or each over its own,
 * give what each alone gives, bit for bit. */
static void ops__matmul__rows_of_a_stack(void **unused)
{
    static const char *all[] = {"ref", "avx2", "avx512", "amx"};
    for (int i = 0; i < 4; i++) {
        struct kern *k = open_isa(all[i], 2);
        if (!k)
            continue;
        for (int j = 0; j < N_TYPE; j++) {
            enum { MATS = KERN_MATS, ROWS = 48, COLS = 512, TOKS = 21, APART = 32, STRIDE = COLS + MATS * APART };
            const enum kern_type kind[2] = {types[j], types[(j + 7) % N_TYPE]};
            uint8_t *data[2];
            struct kern_weight *w[2];
            for (int m = 0; m < 2; m++) {
                data[m] = random_weight(kind[m], MATS * ROWS, COLS);
                w[m] = k->ops->weight_new(k, kind[m], MATS * ROWS, COLS, data[m]);
            }
            float *x = random_floats(TOKS * STRIDE, 1), *bias = random_floats(MATS * ROWS, 1);
            float *got = calloc((size_t)TOKS * MATS * ROWS, 4), *want = calloc((size_t)TOKS * MATS * ROWS, 4);
            for (int n = 0; n < 6; n++) {
                struct kern_mat stack[MATS];
                int32_t n_tok = 1 + n / 2 * 10, apart = n % 2 * APART;
                for (int m = 0; m < MATS; m++) {
                    stack[m] = (struct kern_mat){.w = w[m % 2], .bias = bias + m * ROWS, .dst = got + m * ROWS,
                                                 .dst_stride = MATS * ROWS, .row0 = (MATS - 1 - m) * ROWS,
                                                 .n_row = ROWS, .x_col = m * apart};
                    enum kern_type type = kind[m % 2];
                    size_t size = (size_t)ROWS * COLS / kern_type_block(type) * kern_type_bytes(type);
                    struct kern_weight *own = k->ops->weight_new(k, type, ROWS, COLS,
                                                                 data[m % 2] + (size_t)(MATS - 1 - m) * size);
                    struct kern_mat one = {own, bias + m * ROWS, want + m * ROWS, MATS * ROWS, false};
                    k->ops->matmul(k, 1, &one, x + m * apart, STRIDE, n_tok);
                    k->ops->weight_free(k, own);
                }
                k->ops->matmul(k, MATS, stack, x, STRIDE, n_tok);
                assert_memory_equal(got, want, (size_t)TOKS * MATS * ROWS * 4);
            }
            for (int m = 0; m < 2; m++) {
                k->ops->weight_free(k, w[m]);
                free(data[m]);
            }
            free(got);
            free(want);
            free(x);
            free(bias);
        }
        kern_close(k);
    }
}

static void ops__take_add_rows__agree_with_ref(void **unused)
{
    enum { TOKS = 37, EACH = 3, ROWS = TOKS * EACH };
    struct kern *ref = open_isa("ref", 1);
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        for (int32_t n = 1; n < 3000; n = n * 6 + 1) {
            int32_t row[ROWS];
            float *src = random_floats((size_t)ROWS * n, 1), *weight = random_floats(ROWS, 1);
            float *a = random_floats((size_t)ROWS * n, 1), *b = malloc((size_t)ROWS * n * 4);
            memcpy(b, a, (size_t)ROWS * n * 4);
            for (int r = 0; r < ROWS; r++)
                row[r] = r * 41 % ROWS;
            ref->ops->add_rows(ref, a, src, row, weight, TOKS, EACH, n);
            k->ops->add_rows(k, b, src, row, weight, TOKS, EACH, n);
            assert_near(b, a, (size_t)ROWS * n, 1, "add_rows");
            ref->ops->take_rows(ref, a, src, row, ROWS, n);
            k->ops->take_rows(k, b, src, row, ROWS, n);
            assert_memory_equal(a, b, (size_t)ROWS * n * 4);
            assert_memory_equal(a + n, src + (size_t)row[1] * n, (size_t)n * 4);
            free(src);
            free(weight);
            free(a);
            free(b);
        }
        kern_close(k);
    }
    kern_close(ref);
}

/* A sink of the score that all others have together takes half; one of very little takes nothing. */
static void ops__sink__takes_its_share(void **unused)
{
    static const char *all[] = {"ref", "avx2", "avx512", "amx"};
    for (int i = 0; i < 4; i++) {
        struct kern *k = open_isa(all[i], 1);
        if (!k)
            continue;
        float out[2][2][3] = {{{1, 2, 3}, {4, 5, 6}}, {{7, 8, 9}, {10, 11, 12}}};
        const float lse[2][2] = {{5, -100}, {5, 100}}, sink[2] = {5, 0};
        k->ops->sink(k, out[0][0], lse[0], sink, 2, 2, 3);
        for (int c = 0; c < 3; c++) {
            assert_true(out[0][0][c] == (float)(c + 1) / 2 && out[1][0][c] == (float)(c + 7) / 2);
            assert_true(out[0][1][c] < 1e-40f && out[1][1][c] == (float)(c + 10));
        }
        kern_close(k);
    }
}

/* Keys and values land in the right blocks, rounded the same way, and leave the rest alone. */
static void ops__kv_write__agrees_with_ref(void **unused)
{
    enum { HEADS = 2, DIM_MOST = 512, BLOCKS = 3, TOKS = 70 };
    struct kern *ref = open_isa("ref", 1);
    float *key = random_floats((size_t)TOKS * (HEADS * DIM_MOST + 7), 2);
    float *value = random_floats((size_t)TOKS * (HEADS * DIM_MOST + 7), 2);
    for (int i = 0; i < N_ISA; i++) {
        struct kern *k = open_isa(isas[i], 2);
        if (!k)
            continue;
        static const struct {
            int32_t n_tok, pos0, dim;
            bool latent;
        } cases[] = {{1, 0, 80}, {1, 65, 80}, {70, 0, 80}, {70, 61, 80}, {3, 2, 80}, {64, 64, 80},
                     {17, 3, 80}, {1, 3, 512}, {70, 61, 512}, {70, 1, 288, true}, {1, 70, 80, true}};
        for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
            int32_t dim = cases[j].dim;
            size_t block_size = (size_t)dim * KERN_BLOCK_TOK, sink_size = (size_t)dim * KERN_SINK_PAD;
            size_t n = HEADS * (BLOCKS * 2 * block_size + 2 * sink_size);
            uint16_t *memory[2];
            for (int b = 0; b < 2; b++) {
                uint16_t *m = memory[b] = malloc(n * 2);
                memset(m, 0x5a, n * 2);
                struct kern_kv_block block[HEADS * BLOCKS];
                for (int h = 0; h < HEADS * BLOCKS; h++) {
                    block[h] = (struct kern_kv_block){m, cases[j].latent ? NULL : m + block_size, NULL};
                    m += 2 * block_size;
                }
                struct kern_kv kv = {HEADS, dim, BLOCKS, block, m, m + HEADS * sink_size};
                kv.n_latent = cases[j].latent ? dim - 16 : 0;
                if (kv.n_latent)
                    kv.sink_v = NULL;
                struct kern *which = b ? k : ref;
                which->ops->kv_write(which, &kv, key, kv.n_latent ? NULL : value, HEADS * dim + 7, cases[j].n_tok,
                                     cases[j].pos0);
            }
            assert_memory_equal(memory[0], memory[1], n * 2);
            free(memory[0]);
            free(memory[1]);
        }
        kern_close(k);
    }
    free(key);
    free(value);
    kern_close(ref);
}

static void ops__open__unknown_name_gives_null(void **unused)
{
    assert_null(kern_open_cpu("no such thing", 1));
    struct kern *k = kern_open_cpu(NULL, 0);
    assert_non_null(k);
    assert_true(k->n_thread >= 1);
    kern_close(k);
    kern_close(NULL);
}

struct tally {
    int32_t seen[1000];
};

static void count_part(void *ctx, int part, int n_part)
{
    struct tally *t = ctx;
    t->seen[part]++;
}

/* Thousands of short jobs of every size: each part runs once, however late a worker wakes. */
static void pool__run__every_part_once(void **unused)
{
    for (int threads = 1; threads <= 4; threads++) {
        struct kern *k = kern_open_cpu("ref", threads);
        struct tally t;
        for (int i = 0; i < 3000; i++) {
            int n = i % 50 ? i % 7 : 1000;
            memset(&t, 0, sizeof t);
            kern_parallel(k, n, count_part, &t);
            for (int j = 0; j < 1000; j++)
                assert_int_equal(t.seen[j], j < n);
            if (i % 1000 == 999) /* long enough for the workers to fall asleep */
                for (volatile int wait = 0; wait < 3000000; wait++)
                    ;
        }
        kern_close(k);
    }
}

static void no_part(void *ctx, int part, int n_part, int thread)
{
}

/* A worker that wakes for a job which is over by then must see the end that follows at once. */
static void pool__free__ends_right_after_a_job(void **unused)
{
    for (int i = 0; i < 4000; i++) {
        struct pool *p = pool_new(4);
        for (volatile int wait = 0; wait < 100000 + i % 37 * 2000; wait++)
            ;
        pool_run(p, 2, no_part, NULL);
        pool_free(p);
    }
}

/* Timing an op changes nothing but the clock. */
static void ops__timed__same_results_and_every_call_counted(void **unused)
{
    enum { N = 64 };
    struct kern *k = open_isa("ref", 1);
    const struct kern_ops *own = k->ops;
    float *x = random_floats(N, 3), *gain = random_floats(N, 1), want[N], got[N];
    own->rmsnorm(k, want, x, gain, 1, N, N, 1e-5f);
    own->add(k, want, x, N);
    struct kern_times t;
    timed_begin(k, &t);
    k->ops->rmsnorm(k, got, x, gain, 1, N, N, 1e-5f);
    k->ops->add(k, got, x, N);
    k->ops->add(k, got, gain, 0);
    timed_end(k);
    assert_memory_equal(got, want, sizeof want);
    assert_int_equal(t.n[TIMED_RMSNORM], 1);
    assert_int_equal(t.n[TIMED_ADD], 2);
    assert_int_equal(t.n[TIMED_MATMUL], 0);
    assert_true(t.s[TIMED_RMSNORM] >= 0 && t.s[TIMED_RMSNORM] < 60);
    assert_ptr_equal(k->ops, own);
    kern_close(k);
    free(x);
    free(gain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ops__open__unknown_name_gives_null),
        cmocka_unit_test(pool__run__every_part_once),
        cmocka_unit_test(pool__free__ends_right_after_a_job),
        cmocka_unit_test(ops__matmul__avx2_agrees_with_ref),
        cmocka_unit_test(ops__matmul__avx512_agrees_with_ref),
        cmocka_unit_test(ops__matmul__amx_agrees_with_ref),
        cmocka_unit_test(ops__matmul__same_result_for_any_number_of_tokens),
        cmocka_unit_test(ops__matmul__zero_and_tiny_inputs_give_zero),
        cmocka_unit_test(ops__embed__exact_for_every_type),
        cmocka_unit_test(ops__center__agrees_with_ref),
        cmocka_unit_test(ops__rmsnorm__agrees_with_ref),
        cmocka_unit_test(ops__rope__agrees_with_ref),
        cmocka_unit_test(ops__rope__sees_changed_frequencies),
        cmocka_unit_test(ops__glu__agrees_with_ref),
        cmocka_unit_test(ops__add_scale_softcap__agree_with_ref),
        cmocka_unit_test(ops__matmul__rows_of_a_stack),
        cmocka_unit_test(ops__take_add_rows__agree_with_ref),
        cmocka_unit_test(ops__sink__takes_its_share),
        cmocka_unit_test(ops__kv_write__agrees_with_ref),
        cmocka_unit_test(ops__timed__same_results_and_every_call_counted),
    };
    return cmocka_run_group_tests_name("ops", tests, NULL, NULL);
}
