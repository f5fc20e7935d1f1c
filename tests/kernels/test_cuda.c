/* The CUDA backend against the plain one, over tiny odd shapes: on a device where there is one
 * (CUDA_MODULE=.../libdogear-cuda.so), else on the CPU through the shim, in both orders of threads.
 * Every pointer the backend gets is its own memory: results come back by download. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dlfcn.h>

#include "kernels/cuda/module.h"
#include "kernels/kernels.h"
#include "kernels/page.h"
#include "kernels/score.h"
#include "tests/kernels/cuda_products.h"

/* A device's expf and tanhf are good to a few units in the last place. */
#define TOLERANCE_ELEMENT 4e-6
/* Attention in float32 or in f16 pairs; with probabilities in f16 (many rows): 2^-11 of a sum of
 * random signs. Parts of the output's rms. */
#define TOLERANCE_ROWS 3e-4
#define TOLERANCE_TILE 4e-3
/* The same with pages of 256 channels, 5.7e-3 was measured, and with pages of all depths, rotated and
 * not, 4.7e-3; else, up to 128 channels, 3.7e-3. */
#define TOLERANCE_TILE_WIDE 8e-3
#define TOLERANCE_LSE 1e-3
/* Keys of pages are rounded to f16 in the tiled kernel. */
#define TOLERANCE_LSE_PAGE 1e-2
#define TOLERANCE_MASS 1e-3

/* ---- elementwise ---- */

static void cuda__rmsnorm__agrees_with_ref(void **state)
{
    static const int32_t cols[] = {1, 7, 64, 100, 576, 2048};
    for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
        int32_t n = cols[j], stride = n + 5, rows = 3;
        size_t size = (size_t)(rows * stride) * 4;
        float *x = floats((size_t)(rows * stride), 3), *gain = floats((size_t)n, 1);
        float *got = malloc(size), *want = malloc(size), *x_dev = dev_new(x, size);
        float *gain_dev = dev_new(gain, (size_t)n * 4);
        memcpy(want, x, size);
        ref->ops->rmsnorm(ref, want, x, gain, rows, n, stride, 1e-5f);
        cuda->ops->rmsnorm(cuda, x_dev, x_dev, gain_dev, rows, n, stride, 1e-5f);
        dev_take(got, x_dev, size);
        assert_near(got, want, (size_t)(rows * stride), TOLERANCE_ELEMENT, 1e-6, "rmsnorm");
        cuda->ops->free(cuda, gain_dev);
        free(x);
        free(gain);
        free(got);
        free(want);
    }
}

static void cuda__center__agrees_with_ref(void **state)
{
    enum { ROWS = 3 };
    static const int32_t cols[] = {1, 7, 100, 576, 2048};
    for (size_t j = 0; j < sizeof cols / sizeof *cols; j++) {
        size_t n = (size_t)ROWS * (size_t)cols[j];
        float *x = floats(n, 3), *got = malloc(n * 4), *want = malloc(n * 4);
        float *x_dev = dev_new(x, n * 4);
        ref->ops->center(ref, want, x, ROWS, cols[j]);
        cuda->ops->center(cuda, x_dev, x_dev, ROWS, cols[j]);
        dev_take(got, x_dev, n * 4);
        assert_near(got, want, n, TOLERANCE_ELEMENT, 1, "center");
        free(x);
        free(got);
        free(want);
    }
}

static void cuda__rope__agrees_with_ref(void **state)
{
    float freq[PAGE_HEAD_DIM_MAX / 2];
    for (int i = 0; i < PAGE_HEAD_DIM_MAX / 2; i++)
        freq[i] = powf(10000, -(float)i / 64);
    static const struct {
        int32_t head_dim, n_rot, n_head, n_tok, pos0;
    } cases[] = {{64, 64, 3, 5, 7}, {128, 128, 2, 3, 100000}, {80, 32, 4, 2, 130000},
                 {64, 20, 2, 7, 4096}, {512, 512, 1, 2, 77}, {576, 576, 1, 2, 5}};
    for (size_t j = 0; j < sizeof cases / sizeof *cases; j++)
        for (int mode = 0; mode < 2; mode++) {
            struct kern_rope r = {(enum kern_rope_mode)mode, cases[j].n_rot, freq, 1.2f};
            int32_t stride = cases[j].n_head * cases[j].head_dim + 11;
            size_t n = (size_t)(cases[j].n_tok * stride);
            float *want = floats(n, 1), *got = malloc(n * 4), *dev = dev_new(want, n * 4);
            freq[3] *= 0.99f; /* other frequencies at the same address */
            ref->ops->rope(ref, want, cases[j].n_tok, cases[j].n_head, cases[j].head_dim, stride,
                           cases[j].pos0, &r);
            cuda->ops->rope(cuda, dev, cases[j].n_tok, cases[j].n_head, cases[j].head_dim, stride,
                            cases[j].pos0, &r);
            dev_take(got, dev, n * 4);
            assert_near(got, want, n, TOLERANCE_ELEMENT, 0.3, "rope");
            free(want);
            free(got);
        }
}

static void cuda__glu_add_softcap__agree_with_ref(void **state)
{
    for (int act = 0; act <= KERN_ACT_NONE; act++)
        for (int32_t n = 1; n < 600; n = n * 5 + 1) {
            enum { TOKS = 3 };
            int32_t stride = 2 * n + 3;
            size_t size = (size_t)(TOKS * stride) * 4;
            float *gate = floats((size_t)(TOKS * stride), 8), *got = malloc(size), *dev;
            gate[0] = 100;
            gate[stride] = -100;
            dev = dev_new(gate, size);
            cuda->ops->glu(cuda, dev, stride, dev, dev + n, stride, TOKS, n, (enum kern_act)act);
            cuda->ops->add(cuda, dev, dev, (size_t)n);
            cuda->ops->scale(cuda, dev, (size_t)n, 0.7f);
            cuda->ops->softcap(cuda, dev, (size_t)n, 30);
            ref->ops->glu(ref, gate, stride, gate, gate + n, stride, TOKS, n, (enum kern_act)act);
            ref->ops->add(ref, gate, gate, (size_t)n);
            ref->ops->scale(ref, gate, (size_t)n, 0.7f);
            ref->ops->softcap(ref, gate, (size_t)n, 30);
            dev_take(got, dev, size);
            assert_near(got, gate, (size_t)(TOKS * stride), TOLERANCE_ELEMENT, 3, "glu");
            free(gate);
            free(got);
        }
}

/* What a router's choices become: rows taken and added up, of which there may be more than a grid has
 * blocks in its second dimension. */
static void check_gather(int32_t n_tok, int32_t n_each, int32_t n_col)
{
    int32_t n_row = n_tok * n_each;
    size_t n = (size_t)n_row * (size_t)n_col, size = n * 4;
    int32_t *row = malloc((size_t)n_row * 4);
    float *src = floats(n, 1), *weight = floats((size_t)n_row, 1), *want = floats(n, 1);
    float *got = malloc(size), *src_dev = dev_new(src, size), *dev = dev_new(want, size);
    for (int32_t r = 0; r < n_row; r++)
        row[r] = (int32_t)((int64_t)r * 41 % n_row);
    ref->ops->add_rows(ref, want, src, row, weight, n_tok, n_each, n_col);
    cuda->ops->add_rows(cuda, dev, src_dev, row, weight, n_tok, n_each, n_col);
    dev_take(got, dev, size);
    assert_near(got, want, n, TOLERANCE_ELEMENT, 1, "add_rows");
    dev = dev_new(NULL, size);
    ref->ops->take_rows(ref, want, src, row, n_row, n_col);
    cuda->ops->take_rows(cuda, dev, src_dev, row, n_row, n_col);
    memset(row, 0xff, (size_t)n_row * 4); /* the caller's at once */
    dev_take(got, dev, size);
    assert_memory_equal(got, want, size);
    cuda->ops->free(cuda, src_dev);
    free(row);
    free(src);
    free(weight);
    free(want);
    free(got);
}

static void cuda__take_add_rows__agree_with_ref(void **state)
{
    for (int32_t n = 1; n < 600; n = n * 6 + 1)
        check_gather(37, 3, n);
    check_gather(1, 8, 2048);
    check_gather(65600, 1, 1);
}

static void cuda__sink__agrees_with_ref(void **state)
{
    enum { TOKS = 5 };
    for (int32_t head_dim = 1; head_dim < 300; head_dim = head_dim * 4 + 1) {
        int32_t n_head = 3;
        size_t n_lse = (size_t)(TOKS * n_head), n = n_lse * (size_t)head_dim;
        float *out = floats(n, 2), *lse = floats(n_lse, 5), *got = malloc(n * 4);
        const float sink[3] = {1, -100, 7};
        lse[0] = 100;
        lse[n_lse - 1] = -100;
        lse[n_lse - 3] = -INFINITY; /* nothing was read */
        float *dev = dev_new(out, n * 4), *lse_dev = dev_new(lse, n_lse * 4);
        float *sink_dev = dev_new(sink, sizeof sink);
        ref->ops->sink(ref, out, lse, sink, TOKS, n_head, head_dim);
        cuda->ops->sink(cuda, dev, lse_dev, sink_dev, TOKS, n_head, head_dim);
        dev_take(got, dev, n * 4);
        assert_near(got, out, n, TOLERANCE_ELEMENT, 1e-3, "sink");
        cuda->ops->free(cuda, lse_dev);
        cuda->ops->free(cuda, sink_dev);
        free(out);
        free(lse);
        free(got);
    }
}

static void cuda__kv_write__same_bytes_as_ref(void **state)
{
    enum { HEADS = 2, DIM = 512, BLOCKS = 3, TOKS = 70, STRIDE = HEADS * DIM + 7 };
    size_t one = DIM * KERN_BLOCK_TOK, sink = DIM * KERN_SINK_PAD;
    size_t n = HEADS * (BLOCKS * 2 * one + 2 * sink);
    float *key = floats(TOKS * STRIDE, 2), *value = floats(TOKS * STRIDE, 2);
    float *key_dev = dev_new(key, TOKS * STRIDE * 4), *value_dev = dev_new(value, TOKS * STRIDE * 4);
    static const int32_t cases[][3] = {{1, 0}, {1, 65}, {70, 61}, {3, 2}, {64, 64}, {70, 1, true}};
    for (size_t j = 0; j < sizeof cases / sizeof *cases; j++) {
        uint16_t *memory[2] = {malloc(n * 2), malloc(n * 2)};
        memset(memory[0], 0x5a, n * 2);
        uint16_t *dev = dev_new(memory[0], n * 2);
        for (int b = 0; b < 2; b++) {
            uint16_t *m = b ? dev : memory[0];
            struct kern_kv_block block[HEADS * BLOCKS];
            for (int h = 0; h < HEADS * BLOCKS; h++, m += 2 * one)
                block[h] = (struct kern_kv_block){m, cases[j][2] ? NULL : m + one, NULL};
            struct kern_kv kv = {.n_head_kv = HEADS, .head_dim = DIM, .n_block_cap = BLOCKS,
                                 .block = block, .sink_k = m, .sink_v = m + HEADS * sink};
            kv.n_latent = cases[j][2] ? DIM - 16 : 0;
            if (kv.n_latent)
                kv.sink_v = NULL;
            struct kern *k = b ? cuda : ref;
            k->ops->kv_write(k, &kv, b ? key_dev : key, kv.n_latent ? NULL : b ? value_dev : value, STRIDE, cases[j][0],
                             cases[j][1]);
        }
        dev_take(memory[1], dev, n * 2);
        assert_memory_equal(memory[0], memory[1], n * 2);
        free(memory[0]);
        free(memory[1]);
    }
    cuda->ops->free(cuda, key_dev);
    cuda->ops->free(cuda, value_dev);
    free(key);
    free(value);
}

/* ---- attention ---- */

static void check_attention(const struct shape *h)
{
    static struct twins s;
    twins_make(&s, h);
    size_t n_lse = (size_t)(s.a[0].n_tok * s.a[0].n_head), n = n_lse * (size_t)h->head_dim;
    size_t n_mass = (size_t)(h->n_head_kv * s.kv[0].n_block_cap);
    float *out[2] = {malloc(n * 4), malloc(n * 4)}, *lse[2] = {malloc(n_lse * 4), malloc(n_lse * 4)};
    float *mass[2] = {calloc(n_mass, 4), calloc(n_mass, 4)};
    s.a[0].out = out[0];
    s.a[0].lse = lse[0];
    s.a[1].out = dev_new(NULL, n * 4);
    s.a[1].lse = dev_new(NULL, n_lse * 4);
    for (int i = 0; i < 2 && h->mass; i++)
        s.a[i].mass = mass[i];
    ref->ops->attend(ref, &s.a[0]);
    cuda->ops->attend(cuda, &s.a[1]);
    cuda->ops->sync(cuda);
    dev_take(out[1], s.a[1].out, n * 4);
    dev_take(lse[1], s.a[1].lse, n_lse * 4);
    double size = 0, worst = 0, worst_lse = 0, worst_mass = 0;
    for (size_t i = 0; i < n; i++)
        size += (double)out[0][i] * (double)out[0][i] / (double)n;
    size = fmax(sqrt(size), 0.1);
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)out[0][i] - (double)out[1][i]) / size;
        worst = e > worst || isnan(e) ? e : worst;
    }
    for (size_t i = 0; i < n_lse; i++) {
        double e = fabs((double)lse[0][i] - (double)lse[1][i]);
        worst_lse = e > worst_lse || isnan(e) ? e : worst_lse;
    }
    for (size_t i = 0; i < n_mass; i++) {
        double e = fabs((double)mass[0][i] - (double)mass[1][i]) / (h->n_tok * h->group);
        worst_mass = e > worst_mass || isnan(e) ? e : worst_mass;
    }
    bool tile = h->n_tok >= 32 && !h->mass && !h->picked;
    bool wide = h->bits_k && (h->head_dim > 128 || (h->rotated && h->bits_k == 1));
    if (!(worst <= (!tile ? TOLERANCE_ROWS : wide ? TOLERANCE_TILE_WIDE : TOLERANCE_TILE) &&
          worst_lse <= (tile && h->bits_k ? TOLERANCE_LSE_PAGE : TOLERANCE_LSE) &&
          worst_mass <= TOLERANCE_MASS))
        fail_msg("d %d heads %dx%d rows %d at %d window %d cap %g bits %d/%d%s%s%s: out %g lse %g "
                 "mass %g",
                 h->head_dim, h->n_head_kv, h->group, h->n_tok, h->pos0, h->window,
                 (double)h->softcap, h->bits_k, h->bits_v, h->rotated ? " rotated" : "",
                 h->listed ? " listed" : "", h->mass ? " mass" : "", worst, worst_lse, worst_mass);
    for (int i = 0; i < 2; i++) {
        free(out[i]);
        free(lse[i]);
        free(mass[i]);
    }
    twins_free(&s);
}

static void cuda__attend__few_rows_of_f16(void **state)
{
    static const int32_t dims[] = {16, 64, 80, 128, 256, 288, 512, 576}, groups[] = {1, 3, 4, 7, 12, 2, 8, 20};
    for (int i = 0; i < 8; i++)
        check_attention(&(struct shape){.head_dim = dims[i], .n_head_kv = 1 + i % 2,
                                        .group = groups[i], .n_tok = 1 + 2 * i, .pos0 = 60 * i,
                                        .mass = i % 2});
    check_attention(&(struct shape){.head_dim = 64, .n_head_kv = 1, .group = 2, .n_tok = 3,
                                    .pos0 = 300, .window = 100, .softcap = 30, .mass = true});
}

static void cuda__attend__few_rows_of_pages(void **state)
{
    static const int32_t dims[] = {64, 80, 128, 256, 336, 576};
    for (int32_t bits = 2; bits <= 8; bits += 2)
        for (int i = 0; i < 6; i += 4)
            check_attention(&(struct shape){.head_dim = dims[(bits / 2 - 1 + i) % 6], .n_head_kv = 1,
                                            .group = 4, .n_tok = 1 + bits, .pos0 = 330, .bits_k = bits,
                                            .bits_v = 10 - bits, .rotated = bits % 4, .mass = true});
    for (int i = 0; i < 6; i++)
        check_attention(&(struct shape){.head_dim = dims[i], .n_head_kv = 2, .group = 3, .n_tok = 2,
                                        .pos0 = 700 + i, .bits_k = 1, .bits_v = 1,
                                        .rotated = i % 2, .listed = i % 3 == 0, .mass = i < 2,
                                        .window = i == 2 ? 300 : 0});
}

/* Keys that are values, in rows and in pages; 9 rows go to one kernel, 40 to the other, but for wide heads. */
static void cuda__attend__latents(void **state)
{
    static const int32_t dims[] = {16, 64, 80, 144, 288, 576};
    for (int32_t bits = 0; bits <= 8; bits += 2)
        check_attention(&(struct shape){.head_dim = bits % 4 ? 576 : 80, .n_head_kv = 1, .group = 5, .n_tok = 1,
                                        .pos0 = 330, .bits_k = bits, .bits_v = bits, .latent = true, .mass = true});
    for (int i = 0; i < 6; i++)
        for (int32_t n_tok = 9; n_tok <= (dims[i] > 256 ? 9 : 40); n_tok += 31)
            check_attention(&(struct shape){.head_dim = dims[i], .n_head_kv = 1, .group = 4 + 4 * (i % 2),
                                            .n_tok = n_tok, .pos0 = 500 + i, .bits_k = i != 2, .bits_v = i != 2,
                                            .latent = true, .listed = i == 1});
}

/* Rows picked out of a chunk, as audits of sparse attention ask for them. */
static void cuda__attend__picked_rows(void **state)
{
    check_attention(&(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 3, .n_tok = 150,
                                    .pos0 = 200, .bits_k = 1, .bits_v = 1, .picked = 37, .mass = true});
    check_attention(&(struct shape){.head_dim = 80, .n_head_kv = 1, .group = 9, .n_tok = 70, .pos0 = 1,
                                    .picked = 9});
}

static void cuda__attend__many_rows(void **state)
{
    static const int32_t dims[] = {16, 64, 80, 128, 256, 576}, groups[] = {1, 4, 3, 7, 2, 16};
    for (int i = 0; i < 6; i++)
        check_attention(&(struct shape){.head_dim = dims[i], .n_head_kv = 1, .group = groups[i],
                                        .n_tok = 33 + 7 * i, .pos0 = 61 * i,
                                        .softcap = i == 1 ? 30 : 0, .window = i == 3 ? 70 : 0});
}

static void cuda__attend__many_rows_of_pages_and_lists(void **state)
{
    static const int32_t dims[] = {64, 80, 128, 256};
    for (int i = 0; i < 4; i++)
        check_attention(&(struct shape){.head_dim = dims[i], .n_head_kv = 1 + i % 2, .group = 1 + i,
                                        .n_tok = 66, .pos0 = 380 + i, .bits_k = 1, .bits_v = 1,
                                        .rotated = i % 2, .listed = i < 2});
    check_attention(&(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 2, .n_tok = 70,
                                    .pos0 = 333, .listed = true});
}

/* Two pages in three are rotated, and there are so many pairs that a warp reads several pages: sums
 * are turned back and forth. 9 rows go to one kernel, 33 to the other, but for wide heads. */
static void cuda__attend__rotated_and_plain_pages(void **state)
{
    static const int32_t dims[] = {16, 48, 64, 80, 96, 128, 160, 192, 256, 336, 512, 576}, rows[] = {9, 33};
    for (size_t i = 0; i < 2 * (sizeof dims / sizeof *dims); i += dims[i / 2] > 256 ? 2 : 1)
        check_attention(&(struct shape){.head_dim = dims[i / 2], .n_head_kv = 1, .group = 8,
                                        .n_tok = rows[i % 2], .pos0 = 500, .bits_k = 1,
                                        .bits_v = 1, .rotated = true, .mass = i % 4 == 0});
}

/* ---- scores ---- */

/* Of KV heads, the first n_awake are asked for. */
static void check_scores(const struct shape *h, bool only, int32_t n_awake)
{
    static struct twins s;
    twins_make(&s, h);
    int32_t n_block = (h->pos0 + h->n_tok - 1) / 64 + 1, n_head = h->n_head_kv * h->group;
    int32_t n_asked = n_awake * h->group;
    bool asleep[8];
    for (int32_t i = 0; i < h->n_head_kv; i++)
        asleep[i] = i >= n_awake;
    int32_t row[4] = {0, h->n_tok / 3, h->n_tok / 2, h->n_tok - 1}, group[64], n_group = 0;
    int32_t first = (16 - h->pos0 % 16) % 16;
    for (int32_t g = first; g + 16 <= h->n_tok && n_group < 64; g += 16)
        group[n_group++] = g;
    bool *chosen = calloc((size_t)(h->n_head_kv * n_block), sizeof *chosen);
    for (int32_t i = 0; i < h->n_head_kv * n_block; i++)
        chosen[i] = i % n_block == 0 || i % n_block >= h->pos0 / 64 || i % 3 == 0;
    float *mass[2], *lse[2], *anti[2];
    for (int i = 0; i < 2; i++) {
        mass[i] = calloc((size_t)(n_head * 4 * n_block), 4);
        lse[i] = calloc((size_t)(n_head * 4), 4);
        anti[i] = calloc((size_t)(n_head * (n_group + 1) * n_block), 4);
        struct kern_score score = {.a = &s.a[i], .n_block = n_block, .n_row = 4, .row = row,
                                   .asleep = n_awake < h->n_head_kv ? asleep : NULL,
                                   .mass = mass[i], .lse = lse[i], .only = only ? chosen : NULL,
                                   .n_group = n_group, .group = group, .anti = anti[i]};
        assert_true(kern_score(i ? cuda : ref, &score));
    }
    assert_near(mass[1], mass[0], (size_t)(n_asked * 4 * n_block), 1e-3, 1e-2, "exact mass");
    assert_near(lse[1], lse[0], (size_t)(n_asked * 4), 1e-4, 1, "log-sum-exp");
    assert_near(anti[1], anti[0], (size_t)(n_asked * n_group * n_block), 1e-3, 1e-2,
                "antidiagonals");
    for (int i = 0; i < 2; i++) {
        free(mass[i]);
        free(lse[i]);
        free(anti[i]);
    }
    free(chosen);
    twins_free(&s);
}

static void cuda__score__agrees_with_ref(void **state)
{
    check_scores(&(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 3, .n_tok = 70,
                                 .pos0 = 300, .bits_k = 1, .bits_v = 1}, false, 2);
    check_scores(&(struct shape){.head_dim = 80, .n_head_kv = 1, .group = 9, .n_tok = 40,
                                 .pos0 = 64, .softcap = 20}, true, 1);
    check_scores(&(struct shape){.head_dim = 512, .n_head_kv = 1, .group = 2, .n_tok = 40,
                                 .pos0 = 200, .bits_k = 1, .bits_v = 1}, false, 1);
    check_scores(&(struct shape){.head_dim = 64, .n_head_kv = 3, .group = 2, .n_tok = 40,
                                 .pos0 = 130, .bits_k = 1, .bits_v = 1}, true, 1);
}

/* ---- sealing ---- */

static void cuda__seal__same_bytes_as_the_codec(void **state)
{
    static const struct page_shape shapes[] = {{64, 8, 8}, {80, 6, 4}, {128, 4, 2}, {256, 2, 6},
                                               {336, 4, 4}, {512, 8, 6}, {576, 8, 0}, {80, 4, 0}};
    for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++) {
        enum { PAGES = 5 };
        int32_t d = shapes[j].head_dim;
        size_t rows = sizeof(uint16_t) * (size_t)d * 64, size = page_size(&shapes[j]);
        uint16_t *k = malloc(PAGES * rows), *v = malloc(PAGES * rows);
        for (size_t i = 0; i < PAGES * rows / 2; i++) {
            k[i] = kern_f32_to_f16(1 + 2 * rng_normal());
            v[i] = kern_f32_to_f16(rng_normal());
        }
        k[5] = 0x7c00; /* infinite */
        v[7] = 0x7e00; /* not a number */
        uint16_t *k_dev = dev_new(k, PAGES * rows), *v_dev = dev_new(v, PAGES * rows);
        struct kern_seal jobs[PAGES];
        struct kern_page *want = malloc(size), *back = malloc(size);
        uint32_t flags = j % 2 ? PAGE_V_ROTATED : 0;
        for (size_t i = 0; i < PAGES; i++)
            jobs[i] = (struct kern_seal){k_dev + i * rows / 2, v_dev + i * rows / 2, malloc(size),
                                         dev_new(NULL, size), i == 0 ? KERN_SINK_TOK : 0};
        for (int32_t i = 0, n = PAGES - 2; i < PAGES; i += n, n = 1) /* more lots than travel at once */
            cuda->ops->seal(cuda, &jobs[i], n, d, shapes[j].bits_k, shapes[j].bits_v, flags);
        cuda->ops->sync(cuda);
        for (size_t i = 0; i < PAGES; i++) {
            page_seal(want, &shapes[j], flags, jobs[i].n_skip, k + i * rows / 2, v + i * rows / 2);
            dev_take(back, jobs[i].dev, size);
            assert_memory_equal(jobs[i].page, want, size);
            assert_memory_equal(back, want, size);
            free(jobs[i].page);
        }
        cuda->ops->free(cuda, k_dev);
        cuda->ops->free(cuda, v_dev);
        free(k);
        free(v);
        free(want);
        free(back);
    }
}

/* Steps of the ladder, two at once, and one that moves planes (6/8); into a new place or the old one. Every second
 * head is a latent. */
static void cuda__demote__same_bytes_as_the_codec(void **state)
{
    static const int32_t dims[] = {64, 80, 128, 128, 336, 576, 512};
    static const int32_t steps[][4] = {{8, 8, 8, 4}, {8, 4, 6, 4}, {8, 8, 4, 4}, {4, 4, 4, 2},
                                       {4, 2, 2, 2}, {8, 8, 6, 8}};
    enum { STEPS = sizeof steps / sizeof *steps };
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        int32_t d = dims[i];
        uint16_t *k = malloc(2 * (size_t)d * 64), *v = malloc(2 * (size_t)d * 64);
        struct kern_demote jobs[2 * STEPS];
        struct kern_page *want[2 * STEPS], *back = malloc(PAGE_SIZE_MAX);
        for (int j = 0; j < 2 * STEPS; j++) {
            const int32_t *s = steps[j / 2];
            int32_t bits_v = i % 2 ? 0 : s[3];
            struct page_shape shape = {d, s[0], i % 2 ? 0 : s[1]};
            size_t size = page_size(&shape);
            for (int32_t x = 0; x < d * 64; x++) {
                k[x] = kern_f32_to_f16(x / 64 == 3 ? 1 : 1 + 2 * rng_normal()); /* one channel is constant */
                v[x] = kern_f32_to_f16(rng_normal());
            }
            want[j] = malloc(size);
            page_seal(want[j], &shape, j % 3 ? 0 : PAGE_V_ROTATED, j % 2 ? KERN_SINK_TOK : 0, k, v);
            jobs[j] = (struct kern_demote){.page = malloc(size), .bits_k = s[2], .bits_v = bits_v};
            memcpy(jobs[j].page, want[j], size);
            jobs[j].dev = jobs[j].dev_to = dev_new(want[j], size);
            size = page_demote(want[j], s[2], bits_v);
            assert_true(size > 0);
            if (j % 2)
                jobs[j].dev_to = dev_new(NULL, size);
        }
        cuda->ops->demote(cuda, jobs, 2 * STEPS);
        for (int j = 0; j < 2 * STEPS; j++) {
            assert_memory_equal(jobs[j].page, want[j], want[j]->size_bytes);
            if (jobs[j].dev_to != jobs[j].dev)
                cuda->ops->free(cuda, jobs[j].dev);
            dev_take(back, jobs[j].dev_to, want[j]->size_bytes);
            assert_memory_equal(back, want[j], want[j]->size_bytes);
            free(jobs[j].page);
            free(want[j]);
        }
        free(k);
        free(v);
        free(back);
    }
}

static void cuda__bounds__are_those_of_the_pages(void **state)
{
    enum { ROWS = 3 };
    static const int32_t row[] = {1, 4};
    static const struct shape shapes[] = {
        {.head_dim = 80, .n_head_kv = 2, .group = 3, .n_tok = ROWS + 2, .pos0 = 500,
         .bits_k = 1, .bits_v = 1},
        {.head_dim = 256, .n_head_kv = 1, .group = 1, .n_tok = ROWS + 2, .pos0 = 300,
         .bits_k = 1, .bits_v = 1},
        {.head_dim = 512, .n_head_kv = 1, .group = 2, .n_tok = ROWS + 2, .pos0 = 300,
         .bits_k = 1, .bits_v = 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int some = 0; some < 2; some++) {
            static struct twins s;
            const struct shape *h = &shapes[i];
            twins_make(&s, h);
            int32_t d = h->head_dim, stride = 11, block1 = h->pos0 / 64 - 1, n_head = s.a[0].n_head;
            size_t n = (size_t)(n_head * 2 * stride);
            bool *use = calloc((size_t)(h->n_head_kv * d), sizeof *use);
            float *got = calloc(n, sizeof *got), lo[PAGE_HEAD_DIM_MAX], hi[PAGE_HEAD_DIM_MAX];
            for (int32_t c = 0; c < h->n_head_kv * d; c++)
                use[c] = c % 3 == 0;
            struct kern_bounds b = {.kv = &s.kv[1], .q = s.a[1].q, .n_head = n_head, .scale = 0.5f,
                                    .n_row = 2, .row = row, .use = some ? use : NULL, .block0 = 1,
                                    .block1 = block1, .bound = got, .stride = stride};
            cuda->ops->bounds(cuda, &b);
            for (int32_t at = 0; at < n_head * 2; at++)
                for (int32_t j = 1; j < block1; j++) {
                    int32_t head_kv = at / (2 * h->group), r = at / h->group % 2;
                    int32_t head = head_kv * h->group + at % h->group;
                    const float *q = s.a[0].q + ((size_t)row[r] * (size_t)n_head + (size_t)head) * (size_t)d;
                    double sum = 0;
                    page_bounds(s.kv[0].block[head_kv * s.kv[0].n_block_cap + j].page, lo, hi);
                    for (int32_t c = 0; c < d; c++)
                        if (!some || use[head_kv * d + c])
                            sum += fmax((double)q[c] * (double)lo[c], (double)q[c] * (double)hi[c]);
                    double e = fabs((double)got[(size_t)at * (size_t)stride + (size_t)j] - 0.5 * sum);
                    if (!(e < 1e-4 * fmax(1, fabs(sum))))
                        fail_msg("d %d, row and head %d, block %d: %g, not %g", d, at, j,
                                 (double)got[(size_t)at * (size_t)stride + (size_t)j], 0.5 * sum);
                }
            twins_free(&s);
            free(use);
            free(got);
        }
}

/* More masses than places, and twice the same: the host's arrays have all of it after a sync. */
static void cuda__attend__masses_of_many_layers(void **state)
{
    static struct twins s;
    twins_make(&s, &(struct shape){.head_dim = 16, .n_head_kv = 1, .group = 1, .n_tok = 1, .pos0 = 70});
    enum { LAYERS = 300 };
    int32_t cap = s.kv[1].n_block_cap;
    float *mass = calloc((size_t)(LAYERS * cap), 4);
    s.a[1].out = dev_new(NULL, 64);
    for (int i = 0; i < LAYERS + 7; i++) {
        s.a[1].mass = mass + i % LAYERS * cap;
        cuda->ops->attend(cuda, &s.a[1]);
    }
    cuda->ops->sync(cuda);
    for (int i = 0; i < LAYERS; i++)
        assert_true(fabsf(mass[i * cap] + mass[i * cap + 1] - (i < 7 ? 2 : 1)) < TOLERANCE_MASS);
    cuda->ops->free(cuda, s.a[1].out);
    twins_free(&s);
    free(mass);
}

/* Host bytes may change as soon as they were handed over, however many there are. */
static void cuda__upload__takes_the_bytes_at_once(void **state)
{
    size_t n = (21 << 20) + 12; /* more than the page-locked memory they go through */
    uint32_t *host = malloc(n), *back = malloc(n), *dev = dev_new(NULL, n);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < n / 4; i++)
            host[i] = (uint32_t)(i * 2654435761u + (uint32_t)round);
        cuda->ops->upload(cuda, dev, host, n);
        memset(host, 0xee, n);
        cuda->ops->download(cuda, back, dev, n);
        for (size_t i = 0; i < n / 4; i++)
            if (back[i] != (uint32_t)(i * 2654435761u + (uint32_t)round))
                fail_msg("round %d, word %zu of %zu", round, i, n / 4);
    }
    cuda->ops->free(cuda, dev);
    free(host);
    free(back);
}

/* ---- the backend ---- */

static void cuda__open__says_what_is_missing(void **state)
{
    char why[256] = "";
    assert_null(kern_open_cuda("/nonexistent/libdogear-cuda.so", 0, 1, why, sizeof why));
    assert_non_null(strstr(why, "/nonexistent/libdogear-cuda.so"));
    assert_null(strchr(why, '\n'));
}

static void cuda__alloc__too_much_gives_null(void **state)
{
    assert_null(cuda->ops->alloc(cuda, (size_t)1 << 50));
    assert_null(cuda->ops->error(cuda)); /* the caller was told */
    uint64_t held = cuda->ops->memory_used(cuda);
    void *large = dev_new(NULL, 3 << 20);
    assert_true(cuda->ops->memory_used(cuda) >= held + (3 << 20));
    cuda->ops->free(cuda, large);
    assert_int_equal(cuda->ops->memory_used(cuda), held);
    void *p[40];
    for (size_t i = 0; i < 40; i++)
        p[i] = dev_new(&i, sizeof i);
    for (size_t i = 0; i < 40; i += 2)
        cuda->ops->free(cuda, p[i]);
    for (size_t i = 1; i < 40; i += 2) {
        size_t got;
        dev_take(&got, p[i], sizeof got);
        assert_int_equal(got, i);
    }
}

/* As they are cut outside the tests: many small ones of one allocation. */
static void cuda__alloc__small_pieces_lie_apart(void **state)
{
    enum { N = 300, MOST = 300000 };
    const char *set = getenv("DOGEAR_CUDA_EXACT");
    char why[256], was[8], *bytes = malloc(MOST), *got = malloc(MOST);
    snprintf(was, sizeof was, "%s", set ? set : "0");
    setenv("DOGEAR_CUDA_EXACT", "0", 1);
    struct kern *k = kern_open_cuda(getenv("CUDA_MODULE"), 0, 1, why, sizeof why);
    setenv("DOGEAR_CUDA_EXACT", was, 1);
    assert_non_null(k);
    void *piece[N];
    uint64_t held = k->ops->memory_used(k), more = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < N; i += 1 + 2 * (size_t)pass) { /* then a third of them anew */
            if (pass)
                k->ops->free(k, piece[i]);
            piece[i] = k->ops->alloc(k, i * 7919 % MOST + 1);
            assert_non_null(piece[i]);
            memset(bytes, (int)i + pass, MOST);
            k->ops->upload(k, piece[i], bytes, i * 7919 % MOST + 1);
        }
        assert_true(!pass || k->ops->memory_used(k) == held + more); /* where they lay before */
        more = k->ops->memory_used(k) - held;
    }
    for (size_t i = 0; i < N; i++) {
        memset(bytes, (int)(i + (i % 3 == 0)), MOST);
        k->ops->download(k, got, piece[i], i * 7919 % MOST + 1);
        assert_memory_equal(got, bytes, i * 7919 % MOST + 1);
    }
    assert_in_range(more, 32 << 20, 96 << 20);
    kern_close(k);
    free(got);
    free(bytes);
}

static void cuda__download__fills_memory_that_was_handed_out(void **state)
{
    enum { N = 3000000 }; /* more than goes at once through staging */
    float *want = floats(N, 1), *host[16];
    int n = 0;
    while (n < 16 && (host[n] = cuda->ops->host_alloc(cuda, n == 0 ? N * 4 : 64)))
        n++;
    assert_in_range(n, 4, 15);
    dev_take(host[0], dev_new(want, N * 4), N * 4);
    assert_memory_equal(host[0], want, N * 4);
    dev_take(host[n - 1], dev_new(want, 64), 64);
    assert_memory_equal(host[n - 1], want, 64);
    cuda->ops->host_free(cuda, host[0]);
    host[0] = cuda->ops->host_alloc(cuda, 64);
    assert_non_null(host[0]);
    while (n > 0)
        cuda->ops->host_free(cuda, host[--n]);
    free(want);
}

/* ---- decode steps ---- */

enum { STEP_D = 64, STEP_HEADS = 2, STEP_VOCAB = 9, STEP_BLOCKS = 3 };

/* A little of what decoding does, on one backend: rows of its table are its own memory. */
struct stepper {
    struct kern *k;
    struct kern_weight *embed;
    float *x, *key, *out, *gain;
    struct kern_kv_block block[STEP_BLOCKS];
    struct kern_kv kv;
    float *mass; /* host */
};

static void stepper_open(struct stepper *s, struct kern *k, const uint8_t *embed, const float *gain)
{
    size_t n = STEP_HEADS * STEP_D, rows = STEP_D * KERN_BLOCK_TOK * sizeof(uint16_t);
    uint16_t *zero = calloc(1, rows);
    *s = (struct stepper){.k = k};
    s->embed = k->ops->weight_new(k, KERN_F16, STEP_VOCAB, (int32_t)n, embed);
    s->x = k->ops->alloc(k, n * 4);
    s->key = k->ops->alloc(k, STEP_D * 4);
    s->out = k->ops->alloc(k, n * 4);
    s->gain = k->ops->alloc(k, STEP_D * 4);
    k->ops->upload(k, s->gain, gain, STEP_D * 4);
    for (int i = 0; i < STEP_BLOCKS; i++) {
        s->block[i].k = k->ops->alloc(k, rows);
        s->block[i].v = k->ops->alloc(k, rows);
        k->ops->upload(k, s->block[i].k, zero, rows);
        k->ops->upload(k, s->block[i].v, zero, rows);
    }
    s->mass = calloc(STEP_BLOCKS, sizeof *s->mass);
    s->kv = (struct kern_kv){.n_head_kv = 1, .head_dim = STEP_D, .n_block_cap = STEP_BLOCKS,
                             .block = s->block, .stamp = 77};
    free(zero);
}

static void stepper_close(struct stepper *s)
{
    const struct kern_ops *ops = s->k->ops;
    ops->sync(s->k);
    ops->weight_free(s->k, s->embed);
    void *all[] = {s->x, s->key, s->out, s->gain};
    for (int i = 0; i < 4; i++)
        ops->free(s->k, all[i]);
    for (int i = 0; i < STEP_BLOCKS; i++) {
        ops->free(s->k, s->block[i].k);
        ops->free(s->k, s->block[i].v);
    }
    free(s->mass);
}

static void stepper_step(struct stepper *s, int32_t id, int32_t pos, const struct kern_rope *rope,
                         float *ret)
{
    const struct kern_ops *ops = s->k->ops;
    int32_t n = STEP_HEADS * STEP_D;
    ops->embed(s->k, s->embed, &id, 1, 1, s->x);
    ops->rmsnorm(s->k, s->key, s->x, s->gain, 1, STEP_D, STEP_D, 1e-5f);
    ops->rope(s->k, s->key, 1, 1, STEP_D, STEP_D, pos, rope);
    ops->kv_write(s->k, &s->kv, s->key, s->x, n, 1, pos);
    ops->rope(s->k, s->x, 1, STEP_HEADS, STEP_D, n, pos, rope);
    struct kern_attn a = {.n_tok = 1, .pos0 = pos, .n_head = STEP_HEADS, .q = s->x, .out = s->out,
                          .mass = s->mass, .scale = 0.125f, .kv = &s->kv};
    ops->attend(s->k, &a);
    ops->download(s->k, ret, s->out, (size_t)n * 4);
}

/* Noted and run again, steps read their token and their place where the device keeps them. */
static void cuda__step__noted_ones_agree_with_ref(void **state)
{
    const char *path = getenv("CUDA_MODULE");
    const struct cuda_module *module = dlsym(dlopen(path, RTLD_NOW | RTLD_LOCAL), CUDA_MODULE_SYMBOL);
    char why[256];
    struct kern *noted = kern_open_cuda(path, 0, 1, why, sizeof why);
    assert_non_null(noted);
    size_t n = STEP_HEADS * STEP_D;
    uint8_t *embed = weight_bytes(KERN_F16, STEP_VOCAB, (int32_t)n);
    for (size_t i = 0; i < STEP_VOCAB * n; i++) /* of a size that rope shows in */
        ((uint16_t *)(void *)embed)[i] += 6 << 10;
    float *gain = floats(STEP_D, 1), freq[STEP_D / 2], got[STEP_HEADS * STEP_D], want[STEP_HEADS * STEP_D];
    for (int i = 0; i < STEP_D / 2; i++)
        freq[i] = powf(100, -(float)i / (STEP_D / 2));
    struct kern_rope rope = {KERN_ROPE_HALVES, STEP_D, freq, 1};
    struct stepper a, b;
    stepper_open(&a, ref, embed, gain);
    stepper_open(&b, noted, embed, gain);
    enum { FIRST = 40, LAST = 140 };
    for (int32_t pos = FIRST; pos < LAST; pos++) {
        int32_t id = pos * pos % STEP_VOCAB;
        stepper_step(&a, id, pos, &rope, want);
        stepper_step(&b, id, pos, &rope, got);
        double most = 0;
        for (size_t i = 0; i < n; i++)
            most = fmax(most, fabs((double)want[i]));
        for (size_t i = 0; i < n; i++)
            if (!(fabs((double)got[i] - (double)want[i]) <= TOLERANCE_ROWS * most))
                fail_msg("position %d, element %zu: %g, not %g", pos, i, (double)got[i],
                         (double)want[i]);
    }
    uint64_t replayed, plain;
    module->steps(noted, &replayed, &plain);
    assert_int_equal(replayed + plain, LAST - FIRST);
    assert_true(plain <= 6); /* at the beginning and when a block begins */
    noted->ops->sync(noted);
    for (int i = 0; i < STEP_BLOCKS; i++)
        assert_true(a.mass[i] > 0 && fabsf(a.mass[i] - b.mass[i]) <= TOLERANCE_MASS * a.mass[i]);
    stepper_close(&b);
    stepper_close(&a);
    kern_close(noted);
    free(embed);
    free(gain);
}

static int open_both(void **state)
{
    char why[256];
    const char *module = getenv("CUDA_MODULE");
    if (!module || !*module)
        return -1;
    ref = kern_open_cpu("ref", 2);
    cuda = kern_open_cuda(module, 0, 1, why, sizeof why);
    if (!cuda)
        print_error("%s\n", why);
    return ref && cuda ? 0 : -1;
}

static int close_both(void **state)
{
    kern_close(cuda);
    kern_close(ref);
    return 0;
}

int main(int n_arg, char **arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuda__open__says_what_is_missing),
        cmocka_unit_test(cuda__alloc__too_much_gives_null),
        cmocka_unit_test(cuda__alloc__small_pieces_lie_apart),
        cmocka_unit_test(cuda__rmsnorm__agrees_with_ref),
        cmocka_unit_test(cuda__center__agrees_with_ref),
        cmocka_unit_test(cuda__rope__agrees_with_ref),
        cmocka_unit_test(cuda__glu_add_softcap__agree_with_ref),
        cmocka_unit_test(cuda__take_add_rows__agree_with_ref),
        cmocka_unit_test(cuda__sink__agrees_with_ref),
        cmocka_unit_test(cuda__kv_write__same_bytes_as_ref),
        cmocka_unit_test(cuda__embed__agrees_with_ref),
        cmocka_unit_test(cuda__matmul__agrees_with_ref),
        cmocka_unit_test(cuda__matmul__of_rows_agrees_with_ref),
        cmocka_unit_test(cuda__matmul__several_are_what_each_is_alone),
        cmocka_unit_test(cuda__matmul__of_kept_matrices_agrees_with_ref),
        cmocka_unit_test(cuda__matmul__more_rows_than_a_grid_has),
        cmocka_unit_test(cuda__matmul__tiny_inputs_give_zero),
        cmocka_unit_test(cuda__attend__few_rows_of_f16),
        cmocka_unit_test(cuda__attend__few_rows_of_pages),
        cmocka_unit_test(cuda__attend__latents),
        cmocka_unit_test(cuda__attend__picked_rows),
        cmocka_unit_test(cuda__attend__many_rows),
        cmocka_unit_test(cuda__attend__many_rows_of_pages_and_lists),
        cmocka_unit_test(cuda__attend__rotated_and_plain_pages),
        cmocka_unit_test(cuda__score__agrees_with_ref),
        cmocka_unit_test(cuda__seal__same_bytes_as_the_codec),
        cmocka_unit_test(cuda__demote__same_bytes_as_the_codec),
        cmocka_unit_test(cuda__bounds__are_those_of_the_pages),
        cmocka_unit_test(cuda__attend__masses_of_many_layers),
        cmocka_unit_test(cuda__upload__takes_the_bytes_at_once),
        cmocka_unit_test(cuda__download__fills_memory_that_was_handed_out),
        cmocka_unit_test(cuda__step__noted_ones_agree_with_ref),
    };
    if (n_arg > 1) /* a pattern of the tests to run: after a failing kernel a device answers nothing */
        cmocka_set_test_filter(arg[1]);
    return cmocka_run_group_tests_name("cuda", tests, open_both, close_both);
}
