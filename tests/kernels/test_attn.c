/* Attention: every instruction set against the plain oracle, over odd shapes, windows, groups,
 * lists, sinks and page depths; and the oracle against a textbook softmax. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/cpu/attn.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"
#include "kernels/page.h"
#include "tests/kernels/scene.h"

/* f32 against double, as a part of the output's rms (at least 0.1): scores of |s| < 30 err by 2e-6,
 * and so does every probability; the largest of up to 250,000 outputs counts. */
#define TOL_EXACT 1.6e-4
/* Inputs of 17 bits in place of 24 (amx, deep contexts): still 30 times finer than an f16 cache. */
#define TOL_EXACT_AMX 4e-4
/* Of heads of more than 256 channels, whose sums are longer. */
#define TOL_WIDE 1.5
#define TOL_LSE 1.6e-4
#define TOL_MASS 1e-4 /* per row and head of the group */
/* Integer factors may add at most this part of the error that the codes themselves make: measured
 * 0.12 to 0.14 at 4/4, less elsewhere, i.e. under 1 % of its square. */
#define TOL_OF_CODE_ERROR 0.2
/* Of wide heads the largest of more channels sets the step: measured up to 0.21 where keys have 4 bits and
 * values 8. */
#define TOL_OF_CODE_ERROR_WIDE 0.25
/* Masses and log-sum-exp on that path: a score errs by up to about 0.01. */
#define TOL_PACKED_SCORE 0.02
/* ...and where codes err little (a long tail of unread tokens), this part of the output's size. */
#define TOL_PACKED_FLOOR 1e-4

typedef void attend_fn(struct kern *k, const struct kern_attn *a);

static const struct {
    const char *name;
    enum isa isa;
    attend_fn *attend;
    double tol_exact;
} fast[] = {
#if defined(__x86_64__)
    {"avx2", ISA_AVX2, attn_avx2_attend, TOL_EXACT},
    {"avx512", ISA_AVX512, attn_avx512_attend, TOL_EXACT},
    {"amx", ISA_AMX, attn_amx_attend, TOL_EXACT_AMX},
#endif
    {"ref", ISA_REF, attn_ref_attend, TOL_EXACT}, /* keeps the table from being empty; trivially equal */
};
enum { N_FAST = sizeof fast / sizeof fast[0] };

struct result {
    float *out, *lse, *mass;
    size_t n_out, n_lse, n_mass;
};

static struct result scene_run(struct scene *s, struct kern *k, attend_fn *attend, bool mass)
{
    struct result r;
    r.n_lse = (size_t)s->a.n_tok * s->a.n_head;
    r.n_out = r.n_lse * s->kv.head_dim;
    r.n_mass = (size_t)s->kv.n_head_kv * s->kv.n_block_cap;
    r.out = malloc(sizeof(float) * r.n_out);
    r.lse = malloc(sizeof(float) * r.n_lse);
    r.mass = calloc(r.n_mass, sizeof(float));
    memset(r.out, 0xff, sizeof(float) * r.n_out);
    struct kern_attn a = s->a;
    a.kv = &s->kv;
    a.list = s->list.first ? &s->list : NULL;
    a.out = r.out;
    a.lse = r.lse;
    a.mass = mass ? r.mass : NULL;
    attend(k, &a);
    return r;
}

static void result_free(struct result *r)
{
    free(r->out);
    free(r->lse);
    free(r->mass);
}

static double rms(const float *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sqrt(sum / (double)n);
}

static double rms_diff(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
    return sqrt(sum / (double)n);
}

static double max_diff(const float *x, const float *y, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        double diff = fabs((double)x[i] - y[i]);
        most = diff > most || isnan(diff) ? (isnan(diff) ? INFINITY : diff) : most;
    }
    return most;
}

static void shape_print(const struct shape *h, const char *name)
{
    print_error("%s: d %d heads %dx%d rows %d at %d window %d cap %g bits %d/%d%s%s%s\n", name,
                h->head_dim, h->n_head_kv, h->group, h->n_tok, h->pos0, h->window, h->softcap,
                h->bits_k, h->bits_v, h->rotated ? " rotated" : "", h->listed ? " listed" : "",
                h->latent ? " latent" : h->dropped ? " dropped" : h->picked ? " picked" : "");
}

/* Runs one case on every instruction set this machine has. code_error: rms that packing alone
 * made, or 0 for exact caches. */
static void check_shape(struct kern *k, const struct shape *h)
{
    struct scene s = scene_make(h);
    struct result want = scene_run(&s, k, attn_ref_attend, h->mass);
    double code_error = 0;
    if (h->bits_k) {
        struct shape plain = *h;
        plain.bits_k = plain.bits_v = 0;
        struct scene e = scene_make(&plain);
        struct result exact = scene_run(&e, k, attn_ref_attend, false);
        code_error = rms_diff(want.out, exact.out, want.n_out);
        result_free(&exact);
        scene_free(&e);
    }
    for (int i = 0; i < N_FAST; i++) {
        if (fast[i].isa > isa_best())
            continue;
        struct result got = scene_run(&s, k, fast[i].attend, h->mass);
        double size = rms(want.out, want.n_out);
        bool ok;
        double lse = max_diff(got.lse, want.lse, want.n_lse);
        double mass = max_diff(got.mass, want.mass, want.n_mass);
        double out = max_diff(got.out, want.out, want.n_out);
        double spread = rms_diff(got.out, want.out, want.n_out);
        double n_row = (double)h->n_tok * h->group;
        if (code_error > 0) {
            double part = h->head_dim > 256 ? TOL_OF_CODE_ERROR_WIDE : TOL_OF_CODE_ERROR;
            ok = spread <= part * code_error + TOL_PACKED_FLOOR * size &&
                 lse <= TOL_PACKED_SCORE && mass <= TOL_PACKED_SCORE * n_row;
        } else {
            double wide = h->head_dim > 256 ? TOL_WIDE : 1;
            ok = out <= wide * fast[i].tol_exact * fmax(size, 0.1) && lse <= TOL_LSE &&
                 mass <= TOL_MASS * n_row;
        }
        if (!ok) {
            shape_print(h, fast[i].name);
            print_error("  out %g (rms %g of %g, codes %g) lse %g mass %g\n", out, spread, size,
                        code_error, lse, mass);
        }
        assert_true(ok);
        result_free(&got);
    }
    result_free(&want);
    scene_free(&s);
}

static struct kern *open_kern(void)
{
    struct kern *k = kern_open_cpu("ref", 2);
    assert_non_null(k);
    return k;
}

/* The oracle itself: one head, no tricks, the formula of the textbook. */
static void attn__attend__oracle_is_softmax(void **state)
{
    struct kern *k = open_kern();
    struct shape h = {.head_dim = 64, .n_head_kv = 2, .group = 2, .n_tok = 5, .pos0 = 130,
                      .softcap = 20, .window = 100, .dropped = true};
    struct scene s = scene_make(&h);
    struct result r = scene_run(&s, k, attn_ref_attend, true);
    for (int32_t row = 0; row < h.n_tok; row++) {
        for (int32_t head = 0; head < 4; head++) {
            int32_t pos = h.pos0 + row;
            double p[256], sum = 0, out = 0;
            for (int32_t at = pos - h.window + 1; at <= pos; at++) {
                const struct kern_kv_block *b = &s.kv.block[head / 2 * s.kv.n_block_cap + at / 64];
                double dot = 0;
                for (int32_t c = 0; c < 64; c++)
                    dot += (double)s.q[(row * 4 + head) * 64 + c] *
                           kern_f16_to_f32(b->k[c * 64 + at % 64]);
                p[at] = b->dropped >> at % 64 & 1 ? 0 : exp(20 * tanh(dot / 8 / 20));
                sum += p[at];
            }
            for (int32_t at = pos - h.window + 1; at <= pos; at++) {
                const struct kern_kv_block *b = &s.kv.block[head / 2 * s.kv.n_block_cap + at / 64];
                out += p[at] / sum * kern_f16_to_f32(b->v[at % 64 * 64 + 7]);
            }
            assert_float_equal(r.out[(row * 4 + head) * 64 + 7], out, 1e-6);
            assert_float_equal(r.lse[row * 4 + head], log(sum), 1e-5);
        }
    }
    double total = 0;
    for (size_t i = 0; i < r.n_mass; i++)
        total += r.mass[i];
    assert_float_equal(total, 4 * h.n_tok, 1e-4);
    result_free(&r);
    scene_free(&s);
    kern_close(k);
}

static const int32_t row_counts[] = {1, 2, 3, 7, 63, 64, 65, 130};
static const int32_t starts[] = {0, 1, 63, 64, 100, 1000};
static const int32_t head_dims[] = {64, 80, 96, 128, 256, 336, 512, 576};
static const int32_t groups[] = {1, 2, 3, 4, 7};
#define LENGTH(x) (int)(sizeof(x) / sizeof *(x))

static void attn__attend__odd_rows_and_starts(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(row_counts); i++)
        for (int j = 0; j < LENGTH(starts); j++)
            check_shape(k, &(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 1 + (i + j) % 4,
                                           .n_tok = row_counts[i], .pos0 = starts[j],
                                           .mass = (i + j) % 2});
    kern_close(k);
}

static void attn__attend__head_dims_and_groups(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(head_dims); i++)
        for (int j = 0; j < LENGTH(groups); j++)
            check_shape(k, &(struct shape){.head_dim = head_dims[i], .n_head_kv = 1,
                                           .group = groups[j], .n_tok = j % 2 ? 1 : 9,
                                           .pos0 = 150 + j, .mass = true});
    kern_close(k);
}

static void attn__attend__windows_and_softcap(void **state)
{
    struct kern *k = open_kern();
    static const int32_t windows[] = {1, 5, 64, 100, 512};
    for (int i = 0; i < LENGTH(windows); i++)
        for (int j = 0; j < LENGTH(starts); j++)
            check_shape(k, &(struct shape){.head_dim = 64, .n_head_kv = 1, .group = 2,
                                           .n_tok = row_counts[(i + j) % 8], .pos0 = starts[j],
                                           .window = windows[i], .softcap = j % 2 ? 30 : 0,
                                           .mass = true});
    kern_close(k);
}

static void attn__attend__block_lists(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(row_counts); i++)
        for (int bits = 0; bits <= 1; bits++)
            check_shape(k, &(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 3,
                                           .n_tok = row_counts[i], .pos0 = 777, .listed = true,
                                           .bits_k = bits, .bits_v = bits, .mass = true});
    kern_close(k);
}

static void attn__attend__dropped_tokens(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(row_counts); i++)
        for (int bits = 0; bits <= 1; bits++)
            check_shape(k, &(struct shape){.head_dim = 64, .n_head_kv = 2, .group = 1 + i % 4,
                                           .n_tok = row_counts[i], .pos0 = 300 + 64 * i,
                                           .bits_k = bits, .bits_v = bits, .dropped = true,
                                           .softcap = i % 3 ? 0 : 30, .mass = true});
    kern_close(k);
}

static void attn__attend__few_heads_long_context(void **state)
{
    struct kern *k = open_kern(); /* splits the keys of one tile over several items */
    for (int i = 0; i < 4; i++)
        for (int bits = 0; bits <= 1; bits++)
            check_shape(k, &(struct shape){.head_dim = i < 2 ? 128 : 512, .n_head_kv = 1, .group = 3, .n_tok = 2,
                                           .pos0 = 5000, .bits_k = bits, .bits_v = bits,
                                           .mass = i % 2});
    kern_close(k);
}

/* Latent attention: one KV head for all heads, as many as there are. */
static void attn__attend__all_heads_share_one(void **state)
{
    struct kern *k = open_kern();
    static const int32_t heads[] = {16, 20, 64, 128, 129, 200};
    for (int i = 0; i < LENGTH(heads); i++)
        for (int bits = 0; bits <= 1; bits++)
            check_shape(k, &(struct shape){.head_dim = PAGE_HEAD_DIM_MAX, .n_head_kv = 1, .group = heads[i],
                                           .n_tok = bits == i % 2 ? 1 : 4, .pos0 = bits ? 350 : 1300,
                                           .bits_k = bits, .bits_v = bits, .rotated = true, .mass = i % 2 == 0});
    kern_close(k);
}

/* Masses of many heads far back have more room than a tile's, and those of many tiles more than scratch. All
 * blocks are the same, so that each takes the same share. */
static void attn__attend__masses_far_back(void **state)
{
    enum { D = 16, HEADS = 128 };
    static const struct {
        int32_t n_head_kv, group, n_block;
    } shapes[] = {{1, HEADS, 700}, {1, HEADS - 1, 1300}, {1, HEADS, 16384}, {HEADS, 1, 9000}};
    static uint16_t k[D * 64], v[64 * D];
    static float q[HEADS * D], out[HEADS * D];
    for (int32_t i = 0; i < D * 64; i++) {
        k[i] = kern_f32_to_f16(rng_normal());
        v[i] = kern_f32_to_f16(0.5f);
    }
    for (int32_t i = 0; i < HEADS * D; i++)
        q[i] = rng_normal();
    for (int i = 0; i < N_FAST; i++)
        for (int j = 0; j < LENGTH(shapes) && fast[i].isa <= isa_best() && fast[i].isa > ISA_REF; j++)
            for (int threads = 1; threads <= 2; threads++) {
                int32_t n = shapes[j].n_block, n_kv = shapes[j].n_head_kv, n_head = n_kv * shapes[j].group;
                size_t n_mass = (size_t)n_kv * (size_t)n;
                struct kern *kern = kern_open_cpu(fast[i].name, threads);
                struct kern_kv_block *block = calloc(n_mass, sizeof *block);
                float *mass = calloc(n_mass, sizeof *mass);
                for (size_t b = 0; b < n_mass; b++)
                    block[b] = (struct kern_kv_block){.k = k, .v = v};
                const struct kern_kv kv = {n_kv, D, n, block, NULL, NULL};
                const struct kern_attn a = {.n_tok = 1, .pos0 = 64 * n - 1, .n_head = n_head, .q = q,
                                            .out = out, .mass = mass, .scale = 0.25f, .kv = &kv};
                fast[i].attend(kern, &a);
                for (size_t b = 0; b < n_mass; b++)
                    if (!(fabsf(mass[b] * (float)n / (float)shapes[j].group - 1) < 1e-2f))
                        fail_msg("%s: %d x %d heads, %d blocks: mass %zu is %g", fast[i].name, n_kv,
                                 shapes[j].group, n, b, (double)mass[b]);
                for (int32_t c = 0; c < n_head * D; c++)
                    assert_float_equal(out[c], 0.5f, 5e-3); /* the sum of a million floats */
                free(block);
                free(mass);
                kern_close(kern);
            }
}

/* Deep enough for every way of splitting and for tile registers, at every width. */
static void attn__attend__many_rows_long_context(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(head_dims); i++)
        for (int bits = 0; bits <= 1; bits++)
            check_shape(k, &(struct shape){.head_dim = head_dims[i], .n_head_kv = 1, .group = 1 + i % 5,
                                           .n_tok = 20 + 7 * (i % 5), .pos0 = 1100 + 13 * i,
                                           .bits_k = bits, .bits_v = bits, .rotated = i % 2,
                                           .softcap = i == 1 ? 30 : 0, .window = i == 3 ? 1050 : 0,
                                           .dropped = i == 2, .mass = true});
    kern_close(k);
}

static void attn__attend__pages_of_every_depth(void **state)
{
    struct kern *k = open_kern();
    static const int32_t rows[] = {1, 3, 5, 9}; /* integers, and widened */
    for (int32_t bk = 2; bk <= 8; bk += 2)
        for (int32_t bv = 2; bv <= 8; bv += 2)
            for (int32_t rotated = 0; rotated <= 1; rotated++)
                for (int i = 0; i < LENGTH(rows); i++) {
                    struct shape h = {.head_dim = 64, .n_head_kv = 2, .group = 4, .n_tok = rows[i],
                                      .pos0 = 700, .bits_k = bk, .bits_v = bv, .rotated = rotated};
                    check_shape(k, &h);
                    h.head_dim = bk == bv ? 512 : 288;
                    h.n_head_kv = 1;
                    h.pos0 = 200;
                    if (i % 2 == rotated)
                        check_shape(k, &h);
                }
    kern_close(k);
}

/* Keys that are values, in rows and in pages, of few queries and many, of one head and of as many as share them. */
static void attn__attend__latents(void **state)
{
    struct kern *k = open_kern();
    static const int32_t dims[] = {16, 48, 64, 80, 128, 288, 576}, rows[] = {1, 3, 9, 40};
    for (int i = 0; i < LENGTH(dims); i++)
        for (int j = 0; j < LENGTH(rows); j++)
            for (int32_t bits = j % 2 ? 1 : 0; bits <= (j % 2 ? 1 : 8); bits += 2)
                check_shape(k, &(struct shape){.head_dim = dims[i], .n_head_kv = 1, .group = i % 2 ? 4 : 20,
                                               .n_tok = rows[j], .pos0 = 400 + i % 2 * 800 + 10 * i, .bits_k = bits,
                                               .bits_v = bits, .latent = true, .mass = i % 3 == 0});
    kern_close(k);
}

static void attn__attend__mixed_depths_and_shapes(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < LENGTH(head_dims); i++)
        for (int j = 0; j < (head_dims[i] > 256 ? 2 : LENGTH(groups)); j++)
            check_shape(k, &(struct shape){.head_dim = head_dims[i], .n_head_kv = 2,
                                           .group = groups[j], .n_tok = row_counts[(i + j) % 8],
                                           .pos0 = 390 + i, .bits_k = 1, .bits_v = 1,
                                           .rotated = j % 2, .mass = true,
                                           .window = i == 2 ? 300 : 0});
    kern_close(k);
}

/* The largest sums of integers there are: every channel weighs the same, every code is the first or the
 * last. */
static void attn__attend__sums_of_the_largest_codes(void **state)
{
    enum { D = PAGE_HEAD_DIM_MAX };
    struct kern *k = open_kern();
    struct shape h = {.head_dim = D, .n_head_kv = 1, .group = 1, .n_tok = 20, .pos0 = 200, .bits_k = 8,
                      .bits_v = 8};
    uint16_t *key = malloc(sizeof *key * D * 64), *value = malloc(sizeof *value * D * 64);
    for (int32_t i = 0; i < D * 64; i++) {
        key[i] = kern_f32_to_f16(i % 64 % 3 ? -0.0625f : 0.0625f); /* by token */
        value[i] = kern_f32_to_f16((float)(i % 64));
    }
    for (h.n_tok = 1; h.n_tok <= 20; h.n_tok += 19) {
        struct scene s = scene_make(&h);
        const struct page_shape shape = {D, 8, 8};
        for (int32_t j = 0; j < 2; j++)
            page_seal(s.kv.block[j].page, &shape, 0, 0, key, value);
        for (int32_t i = 0; i < h.n_tok * D; i++)
            s.q[i] = 1;
        struct result want = scene_run(&s, k, attn_ref_attend, false);
        for (int i = 0; i < N_FAST; i++) {
            if (fast[i].isa > isa_best())
                continue;
            struct result got = scene_run(&s, k, fast[i].attend, false);
            double size = rms(want.out, want.n_out);
            assert_true(max_diff(got.lse, want.lse, want.n_lse) <= 1e-3);
            assert_true(rms_diff(got.out, want.out, want.n_out) <= 1e-3 * size);
            result_free(&got);
        }
        result_free(&want);
        scene_free(&s);
    }
    free(key);
    free(value);
    kern_close(k);
}

/* Rows picked out of a chunk: what they get among all the others, wherever they lie. */
static void attn__attend__picked_rows(void **state)
{
    struct kern *k = open_kern();
    static const int32_t from[] = {0, 70, 130, 1000};
    for (int i = 0; i < LENGTH(from); i++)
        for (int bits = 0; bits <= 1; bits++) {
            struct shape h = {.head_dim = 64, .n_head_kv = 2, .group = 1 + i, .n_tok = 500,
                              .pos0 = from[i], .bits_k = bits, .bits_v = bits, .picked = 37,
                              .rotated = i % 2, .mass = true};
            check_shape(k, &h);
            struct scene s = scene_make(&h);
            struct result part = scene_run(&s, k, attn_ref_attend, false);
            const int32_t *row = s.a.row, n = s.a.n_tok;
            s.a.row = NULL;
            s.a.n_tok = h.n_tok;
            struct result all = scene_run(&s, k, attn_ref_attend, false);
            size_t size = (size_t)s.a.n_head * 64;
            for (int32_t r = 0; r < n; r++)
                assert_memory_equal(part.out + r * size, all.out + row[r] * size,
                                    size * sizeof(float));
            result_free(&part);
            result_free(&all);
            scene_free(&s);
        }
    kern_close(k);
}

/* What a position reads depends on the position alone: any chunking gives the same rows. */
static void attn__attend__chunking_does_not_matter(void **state)
{
    struct kern *k = open_kern();
    for (int i = 0; i < N_FAST; i++) {
        if (fast[i].isa > isa_best())
            continue;
        struct shape h = {.head_dim = 64, .n_head_kv = 2, .group = 2, .n_tok = 150, .pos0 = 250,
                          .bits_k = 4, .bits_v = 4};
        struct scene s = scene_make(&h);
        struct result whole = scene_run(&s, k, fast[i].attend, false);
        struct shape plain = h;
        plain.bits_k = plain.bits_v = 0;
        struct scene e = scene_make(&plain);
        struct result exact = scene_run(&e, k, fast[i].attend, false);
        double code_error = rms_diff(whole.out, exact.out, whole.n_out);
        const float *q = s.a.q;
        for (int32_t at = 0, n = 1; at < h.n_tok; at += n, n = n * 2 + 1) {
            n = n < h.n_tok - at ? n : h.n_tok - at;
            s.a.n_tok = n;
            s.a.pos0 = h.pos0 + at;
            s.a.q = q + (size_t)at * 4 * 64;
            struct result part = scene_run(&s, k, fast[i].attend, false);
            /* few rows take the integer path, many the float one; in tile registers all take integers,
             * and one row or two, which do without the registers, come out the same */
            if (fast[i].isa == ISA_AMX)
                assert_memory_equal(part.out, whole.out + (size_t)at * 4 * 64,
                                    part.n_out * sizeof(float));
            assert_true(rms_diff(part.out, whole.out + (size_t)at * 4 * 64, part.n_out) <=
                        TOL_OF_CODE_ERROR * code_error);
            result_free(&part);
        }
        s.a.q = q;
        result_free(&exact);
        scene_free(&e);
        result_free(&whole);
        scene_free(&s);
    }
    kern_close(k);
}

static void attn__attend__same_result_every_time(void **state)
{
    struct kern *k = open_kern();
    struct shape h = {.head_dim = 64, .n_head_kv = 3, .group = 3, .n_tok = 3, .pos0 = 3000,
                      .bits_k = 1, .bits_v = 1, .mass = true};
    struct scene s = scene_make(&h);
    for (int i = 0; i < N_FAST; i++) {
        if (fast[i].isa > isa_best())
            continue;
        struct result one = scene_run(&s, k, fast[i].attend, true);
        for (int n = 0; n < 4; n++) {
            struct result two = scene_run(&s, k, fast[i].attend, true);
            assert_memory_equal(one.out, two.out, sizeof(float) * one.n_out);
            assert_memory_equal(one.mass, two.mass, sizeof(float) * one.n_mass);
            result_free(&two);
        }
        result_free(&one);
    }
    scene_free(&s);
    kern_close(k);
}

/* Weights next to nothing (a page far below the largest score) once had an infinite inverse and made
 * the answer NaN: every gap, through the range where floats fade out. */
static void attn__attend__next_to_nothing_is_nothing(void **state)
{
    enum { D = 64, N_BLOCK = 4 };
    static uint16_t k[N_BLOCK][D * 64], v[N_BLOCK][64 * D], sink_k[D * KERN_SINK_PAD],
        sink_v[KERN_SINK_PAD * D];
    static float q[D], out[D];
    const struct page_shape shape = {D, 8, 8};
    struct kern_page *page[2];
    for (int j = 0; j < 2; j++)
        page[j] = aligned_alloc(64, (page_size(&shape) + 63) & ~(size_t)63);
    for (int32_t c = 0; c < D; c++)
        q[c] = 1;
    for (size_t i = 0; i < N_FAST; i++) {
        if (isa_best() < fast[i].isa)
            continue;
        struct kern *kern = kern_open_cpu(fast[i].name, 1);
        for (float gap = 40; gap < 130; gap += 0.5f) {
            for (int32_t j = 0; j < N_BLOCK; j++)
                for (int32_t t = 0; t < 64; t++)
                    for (int32_t c = 0; c < D; c++) {
                        float wave = 0.01f * (float)((t * 7 + c * 13) % 5 - 2);
                        k[j][c * 64 + t] = kern_f32_to_f16(j < 2 ? wave - gap / 8 : wave);
                        v[j][t * D + c] = kern_f32_to_f16(j < 2 ? wave : 1 + wave);
                        if (j == 0 && t < KERN_SINK_TOK) {
                            /* read first, so that pages are weighed against them */
                            sink_k[c * KERN_SINK_PAD + t] = kern_f32_to_f16(wave);
                            sink_v[t * D + c] = kern_f32_to_f16(1 + wave);
                        }
                    }
            struct kern_kv_block block[N_BLOCK];
            for (int32_t j = 0; j < N_BLOCK; j++) {
                block[j] = (struct kern_kv_block){k[j], v[j], j < 2 ? page[j] : NULL};
                if (j < 2)
                    page_seal(page[j], &shape, 0, j == 0 ? KERN_SINK_TOK : 0, k[j], v[j]);
            }
            const struct kern_kv kv = {1, D, N_BLOCK, block, sink_k, sink_v};
            float mass[N_BLOCK] = {0};
            const struct kern_attn a = {.n_tok = 1, .pos0 = 64 * N_BLOCK - 1, .n_head = 1, .q = q,
                                        .out = out, .mass = mass, .scale = 0.125f, .kv = &kv};
            fast[i].attend(kern, &a);
            for (int32_t c = 0; c < D; c++)
                if (!(fabsf(out[c] - 1) < 0.05f))
                    fail_msg("%s, gap %g: channel %d is %g", fast[i].name, (double)gap, c,
                             (double)out[c]);
            assert_true(mass[0] > 0.01f && mass[0] < 0.1f && mass[1] >= 0 && mass[1] < 1e-6f);
        }
        kern_close(kern);
    }
    free(page[0]);
    free(page[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attn__attend__oracle_is_softmax),
        cmocka_unit_test(attn__attend__odd_rows_and_starts),
        cmocka_unit_test(attn__attend__head_dims_and_groups),
        cmocka_unit_test(attn__attend__windows_and_softcap),
        cmocka_unit_test(attn__attend__block_lists),
        cmocka_unit_test(attn__attend__dropped_tokens),
        cmocka_unit_test(attn__attend__few_heads_long_context),
        cmocka_unit_test(attn__attend__all_heads_share_one),
        cmocka_unit_test(attn__attend__masses_far_back),
        cmocka_unit_test(attn__attend__many_rows_long_context),
        cmocka_unit_test(attn__attend__pages_of_every_depth),
        cmocka_unit_test(attn__attend__latents),
        cmocka_unit_test(attn__attend__mixed_depths_and_shapes),
        cmocka_unit_test(attn__attend__sums_of_the_largest_codes),
        cmocka_unit_test(attn__attend__picked_rows),
        cmocka_unit_test(attn__attend__chunking_does_not_matter),
        cmocka_unit_test(attn__attend__same_result_every_time),
        cmocka_unit_test(attn__attend__next_to_nothing_is_nothing),
    };
    return cmocka_run_group_tests_name("attn", tests, NULL, NULL);
}
