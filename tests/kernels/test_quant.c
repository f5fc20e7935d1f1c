/* The weight types: sizes, exact values, packing, and what our writers lose. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "kernels/quant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GOLDEN_VALUES = 256 * 40 };

/* Values of llama.cpp (commit 3f545becc) for blocks of pseudo-random bytes: how many are finite,
 * and the FNV-1a hash of the bits of those, zeros as +0. */
static const struct {
    enum kern_type type;
    int32_t n_finite;
    uint64_t hash;
} golden[] = {
    {KERN_F16, 9948, 0x608dee28735f7d09},    {KERN_BF16, 10199, 0x9b12cd1d25783357},
    {KERN_Q4_0, 10016, 0x95b65b3198743331},  {KERN_Q4_1, 9664, 0xbbb24dc370b37b53},
    {KERN_Q5_0, 10080, 0x3dc9a558294567d4},  {KERN_Q5_1, 9600, 0x89d66286a93c5737},
    {KERN_Q8_0, 9920, 0x2ec3ed3c176b38b1},   {KERN_Q2_K, 9984, 0xdc15fd2659c11d6f},
    {KERN_Q3_K, 9984, 0xad466e7881e5618d},   {KERN_Q4_K, 10240, 0x8ae8ec4c6f365132},
    {KERN_Q5_K, 9216, 0x707b7c7e8d9da2f5},   {KERN_Q6_K, 10240, 0xf14cb7a14f5ce8e0},
    {KERN_IQ4_NL, 10016, 0x8f7326dc67b890de}, {KERN_IQ4_XS, 9728, 0x5d557caaa4d1c75e},
    {KERN_MXFP4, 10139, 0xbd825e0921d0a027}, {KERN_IQ2_XXS, 10240, 0x4447b537be8cc424},
    {KERN_IQ2_XS, 10240, 0x9642ad15fe975a53}, {KERN_IQ2_S, 10240, 0xfc9a3f994fc27d55},
    {KERN_IQ3_XXS, 9728, 0x9cf56a4cf89603d}, {KERN_IQ3_S, 10240, 0x22ec4c9ac07c92c4},
    {KERN_IQ1_S, 9728, 0xf3cac999d6527000},  {KERN_IQ1_M, 10240, 0x60f7181746110724},
};
enum { N_GOLDEN = sizeof golden / sizeof *golden };

static uint32_t state;

static uint32_t next_random(void)
{
    return state = state * 1664525u + 1013904223u;
}

static uint8_t *random_blocks(enum kern_type type, int32_t n)
{
    size_t n_byte = (size_t)(n / kern_type_block(type)) * kern_type_bytes(type);
    uint8_t *p = malloc(n_byte);
    assert_non_null(p);
    state = 12345;
    for (size_t i = 0; i < n_byte; i++)
        p[i] = (uint8_t)(next_random() >> 24);
    return p;
}

static void quant__dequantise__equals_golden_values(void **unused)
{
    for (int i = 0; i < N_GOLDEN; i++) {
        uint8_t *blocks = random_blocks(golden[i].type, GOLDEN_VALUES);
        float *x = malloc(GOLDEN_VALUES * sizeof *x);
        uint64_t hash = 0xcbf29ce484222325u;
        int32_t n_finite = 0;
        kern_dequantise(golden[i].type, blocks, x, GOLDEN_VALUES);
        for (int j = 0; j < GOLDEN_VALUES; j++) {
            uint32_t bits;
            if (!isfinite(x[j]))
                continue;
            n_finite++;
            if (x[j] == 0)
                x[j] = 0;
            memcpy(&bits, &x[j], 4);
            for (int k = 0; k < 32; k += 8)
                hash = (hash ^ (bits >> k & 255)) * 0x100000001b3u;
        }
        if (n_finite != golden[i].n_finite || hash != golden[i].hash)
            fail_msg("%s: %d finite values, hash %llx", kern_type_name(golden[i].type), n_finite,
                     (unsigned long long)hash);
        free(x);
        free(blocks);
    }
}

/* Packing is the exact inverse of unpacking, for every block whose scales are numbers. */
static void quant__pack__inverse_of_unpack(void **unused)
{
    for (int i = 0; i < N_GOLDEN; i++) {
        enum kern_type type = golden[i].type;
        const struct quant_type *t = quant_traits(type);
        if (t->bits == 0 || quant_is_grid(t))
            continue;
        uint8_t *blocks = random_blocks(type, GOLDEN_VALUES), again[256];
        int n_checked = 0;
        for (int j = 0; j < GOLDEN_VALUES / t->block; j++) {
            struct quant_block b;
            quant_unpack(type, blocks + j * t->bytes, &b);
            if (isnan(b.d) || isnan(b.dmin))
                continue; /* a NaN may lose its payload */
            for (int c = 0; c < t->block; c++)
                assert_true(b.code[c] < 1 << t->bits);
            quant_pack(type, &b, again);
            assert_memory_equal(again, blocks + j * t->bytes, t->bytes);
            n_checked++;
        }
        assert_true(n_checked > 30);
        free(blocks);
    }
}

/* Root mean square error on Gaussian values, relative to theirs: what rounding to the nearest
 * point of the grid must give (measured: Q8_0 0.0053, Q4_K 0.079, Q2_K 0.33), plus a tenth. */
static void quant__quantise__error_within_the_type(void **unused)
{
    static const struct {
        enum kern_type type;
        double bound;
    } cases[] = {{KERN_F32, 0},         {KERN_F16, 3e-4},     {KERN_BF16, 2e-3},
                 {KERN_Q8_0, 0.0059},   {KERN_Q4_0, 0.094},   {KERN_Q4_1, 0.086},
                 {KERN_Q5_0, 0.047},    {KERN_Q5_1, 0.042},   {KERN_Q2_K, 0.36},
                 {KERN_Q3_K, 0.17},     {KERN_Q4_K, 0.087},   {KERN_Q5_K, 0.042},
                 {KERN_Q6_K, 0.021},    {KERN_IQ4_NL, 0.088}, {KERN_IQ4_XS, 0.088},
                 {KERN_MXFP4, 0.13}};
    enum { N = 256 * 64 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    uint8_t *blocks = malloc(N * 4);
    state = 7;
    for (int i = 0; i < N; i += 2) {
        double u = (next_random() + 1.0) / 4294967297.0, v = next_random() / 4294967296.0;
        x[i] = (float)(0.02 * sqrt(-2 * log(u)) * cos(2 * M_PI * v));
        x[i + 1] = (float)(0.02 * sqrt(-2 * log(u)) * sin(2 * M_PI * v));
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double error = 0, size = 0;
        assert_true(kern_quantise(cases[i].type, x, blocks, N));
        kern_dequantise(cases[i].type, blocks, y, N);
        for (int j = 0; j < N; j++) {
            error += (y[j] - x[j]) * (y[j] - x[j]);
            size += x[j] * x[j];
        }
        error = sqrt(error / size);
        if (!(error <= cases[i].bound))
            fail_msg("%s: error %g", kern_type_name(cases[i].type), error);
    }
    free(blocks);
    free(y);
    free(x);
}

static void quant__quantise__zeros_stay_zero(void **unused)
{
    float x[256] = {0}, y[256];
    uint8_t block[1024];
    for (int i = 0; i < N_GOLDEN; i++) {
        if (quant_is_grid(quant_traits(golden[i].type)))
            continue;
        assert_true(kern_quantise(golden[i].type, x, block, 256));
        kern_dequantise(golden[i].type, block, y, 256);
        for (int j = 0; j < 256; j++)
            assert_true(y[j] == 0);
    }
}

static void quant__quantise__refuses_partial_blocks_and_unknown_types(void **unused)
{
    float x[256] = {0};
    uint8_t block[1024];
    assert_false(kern_quantise(KERN_Q4_K, x, block, 128));
    assert_false(kern_quantise((enum kern_type)9, x, block, 256));
    assert_false(kern_quantise(KERN_IQ3_S, x, block, 256)); /* read only */
}

static void quant__types__unknown_are_told(void **unused)
{
    assert_true(kern_type_known(KERN_IQ4_XS));
    assert_false(kern_type_known(4));
    assert_false(kern_type_known(31));
    assert_false(kern_type_known(0xffffffffu));
    assert_int_equal(kern_type_block((enum kern_type)1000), 0);
    assert_int_equal(kern_type_bytes((enum kern_type)1000), 0);
    assert_string_equal(kern_type_name(KERN_Q4_K), "Q4_K");
}

/* Every f16 number survives the way to float and back; NaN stays NaN. */
static void f16__round_trip__all_values(void **unused)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float f = kern_f16_to_f32((uint16_t)h);
        uint16_t back = kern_f32_to_f16(f);
        if (isnan(f))
            assert_true((back & 0x7c00) == 0x7c00 && (back & 0x3ff));
        else
            assert_int_equal(back, h);
    }
}

/* Halfway cases go to the even neighbour, in the normal, subnormal and overflowing range. */
static void f16__rounding__to_nearest_even(void **unused)
{
    static const struct {
        float f;
        uint16_t h;
    } cases[] = {{1.0f, 0x3c00},          {-2.0f, 0xc000},        {1.00048828125f, 0x3c00},
                 {1.00146484375f, 0x3c02}, {65504.0f, 0x7bff},     {65519.99f, 0x7bff},
                 {65520.0f, 0x7c00},      {1e30f, 0x7c00},        {-INFINITY, 0xfc00},
                 {0x1p-24f, 0x0001},      {0x1p-25f, 0x0000},     {0x1.8p-24f, 0x0002},
                 {0x1.000002p-25f, 0x0001}, {0x1p-14f, 0x0400},   {0x1.ff8p-15f, 0x03ff}, {0x1.ffcp-15f, 0x0400},
                 {-0.0f, 0x8000},         {1e-30f, 0x0000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(kern_f32_to_f16(cases[i].f), cases[i].h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quant__dequantise__equals_golden_values),
        cmocka_unit_test(quant__pack__inverse_of_unpack),
        cmocka_unit_test(quant__quantise__error_within_the_type),
        cmocka_unit_test(quant__quantise__zeros_stay_zero),
        cmocka_unit_test(quant__quantise__refuses_partial_blocks_and_unknown_types),
        cmocka_unit_test(quant__types__unknown_are_told),
        cmocka_unit_test(f16__round_trip__all_values),
        cmocka_unit_test(f16__rounding__to_nearest_even),
    };
    return cmocka_run_group_tests_name("quant", tests, NULL, NULL);
}
