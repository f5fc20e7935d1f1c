/* The cases of test_cuda.c that are about matrices: products and rows of embeddings, against ref. */
#ifndef TESTS_KERNELS_CUDA_PRODUCTS_H
#define TESTS_KERNELS_CUDA_PRODUCTS_H

#include "tests/support/blocks.h"
#include "tests/kernels/cuda_bed.h"

/* Largest error of a product relative to the norm of its terms: inputs of 15 bits per 32 values, or
 * weights that became f16; floats against floats; f16 against floats, 2^-11 each side, the largest of
 * thousands. */
#define TOLERANCE_BLOCK 1e-3
#define TOLERANCE_PLAIN 2e-5
#define TOLERANCE_HALF 3e-3
/* The host's kernels round inputs to 8 bits for some types: TOLERANCE_BLOCK of test_ops.c. */
#define TOLERANCE_HOST 0.03

static const enum kern_type types[] = {
    KERN_F32,  KERN_F16,  KERN_BF16, KERN_Q8_0, KERN_Q4_0,   KERN_Q4_1,   KERN_Q5_0, KERN_Q5_1,
    KERN_Q2_K, KERN_Q3_K, KERN_Q4_K, KERN_Q5_K, KERN_Q6_K,   KERN_IQ4_NL, KERN_IQ4_XS,
    KERN_MXFP4, KERN_IQ2_XXS, KERN_IQ2_XS, KERN_IQ2_S, KERN_IQ3_XXS, KERN_IQ3_S, KERN_IQ1_S, KERN_IQ1_M};
enum { N_TYPE = sizeof types / sizeof *types };

static uint8_t *weight_bytes(enum kern_type type, int32_t n_row, int32_t n_col)
{
    size_t n = (size_t)n_row * (size_t)n_col;
    float *x = floats(n, 0.02f);
    uint8_t *w = blocks_new(type, x, n);
    free(x);
    return w;
}

typedef struct kern_weight *weight_maker(struct kern *k, enum kern_type type, int32_t n_row,
                                         int32_t n_col, const void *host);

static double product_tolerance(weight_maker *make, enum kern_type type, int32_t n_tok)
{
    bool plain = type == KERN_F32 || type == KERN_F16 || type == KERN_BF16;
    if (make == cuda->ops->weight_keep && !plain)
        return TOLERANCE_HOST;
    if (n_tok > 8)
        return TOLERANCE_HALF;
    return plain ? TOLERANCE_PLAIN : TOLERANCE_BLOCK;
}

/* Of n_row rows from row0 on of a matrix that has more; from row0 0 on, of a whole one. */
static void check_rows(weight_maker *make, enum kern_type type, int32_t row0, int32_t n_row,
                       int32_t n_col, int32_t n_tok, float size)
{
    enum { PAD = 3, BELOW = 5 };
    int32_t all = row0 + n_row + (row0 ? BELOW : 0), part = row0 ? n_row : 0;
    size_t stride = (size_t)n_row + PAD, n_dst = (size_t)n_tok * stride;
    size_t x_stride = (size_t)n_col + 8, n_x = (size_t)n_tok * x_stride;
    uint8_t *data = weight_bytes(type, all, n_col);
    float *x = floats(n_x, size), *bias = floats((size_t)n_row, 1), *start = floats(n_dst, 1);
    float *want = malloc(n_dst * 4), *got = malloc(n_dst * 4), *row = malloc((size_t)n_col * 4);
    struct kern_weight *wr = ref->ops->weight_new(ref, type, all, n_col, data);
    struct kern_weight *wc = make(cuda, type, all, n_col, data);
    float *x_dev = dev_new(x, n_x * 4), *bias_dev = dev_new(bias, (size_t)n_row * 4);
    assert_non_null(wc);
    size_t row_bytes = (size_t)n_col / (size_t)kern_type_block(type) * kern_type_bytes(type);
    for (int kind = 0; kind < 3; kind++) { /* plain, with bias, added to what is there */
        memcpy(want, start, n_dst * 4);
        struct kern_mat mr = {wr, kind == 1 ? bias : NULL, want, (int32_t)stride, kind == 2,
                              row0, part};
        struct kern_mat mc = {wc, kind == 1 ? bias_dev : NULL, dev_new(start, n_dst * 4),
                              (int32_t)stride, kind == 2, row0, part};
        ref->ops->matmul(ref, 1, &mr, x, (int32_t)x_stride, n_tok);
        cuda->ops->matmul(cuda, 1, &mc, x_dev, (int32_t)x_stride, n_tok);
        dev_take(got, mc.dst, n_dst * 4);
        for (int32_t r = 0; r < n_row; r++) {
            kern_dequantise(type, data + (size_t)(row0 + r) * row_bytes, row, n_col);
            for (int32_t t = 0; t < n_tok; t++) {
                double norm = 1e-3 * (double)size;
                for (int32_t i = 0; i < n_col; i++)
                    norm += pow((double)row[i] * (double)x[(size_t)t * x_stride + (size_t)i], 2);
                size_t at = (size_t)t * stride + (size_t)r;
                double e = fabs((double)got[at] - (double)want[at]) / sqrt(norm);
                if (!(e <= product_tolerance(make, type, n_tok)))
                    fail_msg("%s [%d + %d, %d] x %d, kind %d: row %d token %d is %g, not %g (error %g)",
                             kern_type_name(type), row0, n_row, n_col, n_tok, kind, r, t,
                             (double)got[at], (double)want[at], e);
            }
        }
        for (int32_t t = 0; t < n_tok; t++) /* what lies between the rows stays */
            assert_memory_equal(got + (size_t)t * stride + n_row, start + (size_t)t * stride + n_row,
                                PAD * 4);
    }
    cuda->ops->free(cuda, x_dev);
    cuda->ops->free(cuda, bias_dev);
    ref->ops->weight_free(ref, wr);
    cuda->ops->weight_free(cuda, wc);
    free(data);
    free(x);
    free(bias);
    free(start);
    free(want);
    free(got);
    free(row);
}

static void check_product(weight_maker *make, enum kern_type type, int32_t n_row, int32_t n_col,
                          int32_t n_tok, float size)
{
    check_rows(make, type, 0, n_row, n_col, n_tok, size);
}

static void cuda__matmul__agrees_with_ref(void **state)
{
    static const struct {
        int32_t n_row, n_col, n_tok;
    } shapes[] = {{1, 256, 1}, {5, 512, 3}, {9, 768, 7}, {6, 1280, 12}, {3, 32, 1}, {4, 96, 9},
                  {5, 288, 2}};
    for (int i = 0; i < N_TYPE; i++)
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
            if (shapes[j].n_col % kern_type_block(types[i]) == 0)
                check_product(cuda->ops->weight_new, types[i], shapes[j].n_row, shapes[j].n_col,
                              shapes[j].n_tok, 1);
    check_product(cuda->ops->weight_new, KERN_F16, 7, 31, 2, 1); /* rows not 16-byte aligned */
    check_product(cuda->ops->weight_new, KERN_F16, 7, 31, 11, 1);
    check_product(cuda->ops->weight_new, KERN_Q4_0, 40, 64, 11, 1e5f); /* beyond what f16 holds */
}

/* Experts: matrices above each other in one, on the device and in the host's memory. */
static void cuda__matmul__of_rows_agrees_with_ref(void **state)
{
    for (int i = 0; i < N_TYPE; i++) {
        check_rows(cuda->ops->weight_new, types[i], 16, 19, 256, 1, 1);
        check_rows(cuda->ops->weight_new, types[i], 48, 7, 512, 3, 1);
        check_rows(cuda->ops->weight_new, types[i], 32, 16, 256, 11, 1);
        check_rows(cuda->ops->weight_keep, types[i], 32, 19, 256, 2, 1);
        check_rows(cuda->ops->weight_keep, types[i], 16, 7, 512, 35, 1);
    }
    check_rows(cuda->ops->weight_new, KERN_F16, 16, 7, 31, 2, 1); /* rows not 16-byte aligned */
    check_rows(cuda->ops->weight_new, KERN_F16, 16, 7, 31, 11, 1);
    check_rows(cuda->ops->weight_keep, KERN_Q8_0, 272, 300, 32, 33, 1); /* several tiles' rows */
}

/* Matrices of one type share a launch, whatever lies between them and however tall they are, over the same
 * columns or each over its own, `apart` from the one before. */
static void check_several(weight_maker *make, const enum kern_type kinds[4], int32_t n_tok, int32_t apart)
{
    enum { N_COL = 512, STRIDE = 40, ALL = 88, FIRST = 4 };
    int32_t x_stride = FIRST + N_COL + KERN_MATS * apart;
    static const int32_t n_row[4] = {3, 40, 17, 9};
    size_t n = STRIDE * (size_t)n_tok, size = n * sizeof(float);
    size_t n_x = (size_t)x_stride * (size_t)n_tok;
    float *x = floats(n_x, 1), *x_dev = dev_new(x, sizeof *x * n_x);
    float *start = calloc(n, sizeof *start), *alone = malloc(size), *got = malloc(size);
    uint8_t *data[4];
    struct kern_weight *w[4];
    struct kern_mat mats[KERN_MATS];
    for (int j = 0; j < 4; j++) {
        data[j] = weight_bytes(kinds[j], ALL, N_COL);
        w[j] = make(cuda, kinds[j], ALL, N_COL, data[j]);
    }
    for (int j = 0; j < KERN_MATS; j++)
        mats[j] = (struct kern_mat){.w = w[j % 4], .dst = dev_new(start, size), .dst_stride = STRIDE,
                                    .row0 = j / 4 * KERN_ROW_STEP, .n_row = n_row[j % 4],
                                    .x_col = FIRST + (KERN_MATS - 1 - j) * apart};
    cuda->ops->matmul(cuda, KERN_MATS, mats, x_dev, x_stride, n_tok);
    for (int j = 0; j < KERN_MATS; j++) {
        dev_take(got, mats[j].dst, size);
        mats[j].dst = dev_new(start, size);
        cuda->ops->matmul(cuda, 1, &mats[j], x_dev, x_stride, n_tok);
        dev_take(alone, mats[j].dst, size);
        assert_memory_equal(got, alone, size);
        assert_true(got[0] != 0 && got[n - STRIDE + (size_t)n_row[j % 4] - 1] != 0);
    }
    for (int j = 0; j < 4; j++) {
        cuda->ops->weight_free(cuda, w[j]);
        free(data[j]);
    }
    cuda->ops->free(cuda, x_dev);
    free(x);
    free(start);
    free(alone);
    free(got);
}

static void cuda__matmul__several_are_what_each_is_alone(void **state)
{
    static const enum kern_type kinds[][4] = {{KERN_Q4_K, KERN_Q6_K, KERN_Q4_K, KERN_F16},
                                              {KERN_F32, KERN_F32, KERN_Q8_0, KERN_F32},
                                              {KERN_MXFP4, KERN_MXFP4, KERN_MXFP4, KERN_MXFP4}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int32_t n_tok = 1; n_tok <= 35; n_tok += 17)
            for (int32_t j = 0; j < 3; j++) {
                int32_t apart = j == 2 ? 20 : 32 * j; /* inputs of blocks of 32 are rounded together, or cannot be */
                check_several(cuda->ops->weight_new, kinds[i], n_tok, apart);
                check_several(cuda->ops->weight_keep, kinds[i], n_tok, apart);
            }
}

/* What stays in the host's memory: multiplied there, or brought over when tokens are many. */
static void cuda__matmul__of_kept_matrices_agrees_with_ref(void **state)
{
    for (int i = 0; i < N_TYPE; i++) {
        check_product(cuda->ops->weight_keep, types[i], 5, 512, 1, 1);
        check_product(cuda->ops->weight_keep, types[i], 6, 768, 35, 1);
    }
    check_product(cuda->ops->weight_keep, KERN_F16, 7, 31, 33, 1);
    check_product(cuda->ops->weight_keep, KERN_Q8_0, 300, 32, 33, 1); /* several tiles' rows */
}

/* A grid has 65535 blocks in its second dimension. */
static void cuda__matmul__more_rows_than_a_grid_has(void **state)
{
    check_product(cuda->ops->weight_new, KERN_Q8_0, 65600, 32, 9, 1);
}

static void cuda__matmul__tiny_inputs_give_zero(void **state)
{
    uint8_t *data = weight_bytes(KERN_Q8_0, 8, 64);
    float x[64], y[8];
    for (int i = 0; i < 64; i++)
        x[i] = 1e-39f;
    struct kern_weight *w = cuda->ops->weight_new(cuda, KERN_Q8_0, 8, 64, data);
    float *x_dev = dev_new(x, sizeof x);
    struct kern_mat m = {w, NULL, dev_new(NULL, sizeof y), 8, false};
    cuda->ops->matmul(cuda, 1, &m, x_dev, 64, 1);
    dev_take(y, m.dst, sizeof y);
    for (int i = 0; i < 8; i++)
        assert_true(fabsf(y[i]) < 1e-35f);
    cuda->ops->free(cuda, x_dev);
    cuda->ops->weight_free(cuda, w);
    free(data);
}

static void check_embed(weight_maker *make)
{
    enum { ROWS = 37, COLS = 512 };
    static const int32_t ids[] = {36, 0, 17, 16, 15};
    for (int i = 0; i < N_TYPE; i++) {
        uint8_t *data = weight_bytes(types[i], ROWS, COLS);
        float got[5 * COLS], want[5 * COLS];
        struct kern_weight *wr = ref->ops->weight_new(ref, types[i], ROWS, COLS, data);
        struct kern_weight *wc = make(cuda, types[i], ROWS, COLS, data);
        float *dev = dev_new(NULL, sizeof got);
        ref->ops->embed(ref, wr, ids, 5, 2, want);
        cuda->ops->embed(cuda, wc, ids, 5, 2, dev);
        dev_take(got, dev, sizeof got);
        assert_near(got, want, 5 * COLS, 1e-3, 1e-3, kern_type_name(types[i])); /* f16 of others */
        ref->ops->weight_free(ref, wr);
        cuda->ops->weight_free(cuda, wc);
        free(data);
    }
}

static void cuda__embed__agrees_with_ref(void **state)
{
    check_embed(cuda->ops->weight_new);
    check_embed(cuda->ops->weight_keep);
}

#endif
