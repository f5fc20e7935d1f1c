/* A small cache with queries for the tests of attention: odd shapes, windows, groups, lists, sinks, page
 * depths, dropped tokens. In host memory; deterministic. Include after cmocka.h. */
#ifndef TESTS_KERNELS_SCENE_H
#define TESTS_KERNELS_SCENE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/page.h"

static uint64_t rng_state;

static inline float rng_uniform(void)
{
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(rng_state >> 40) / (float)(1 << 24);
}

static inline float rng_normal(void)
{
    float sum = 0;
    for (int i = 0; i < 6; i++)
        sum += rng_uniform();
    return (sum - 3) * 1.41421356f;
}

/* What a case is made of; zero means the default behind the comma. */
struct shape {
    int32_t head_dim, n_head_kv, group, n_tok, pos0;
    int32_t window;
    float softcap;
    int32_t bits_k, bits_v; /* 0: no pages; 1: every page another depth */
    bool rotated, listed, mass;
    bool latent;  /* values are the keys, as far as they do not tell positions */
    bool dropped; /* of the tokens before the rows, three in ten */
    int32_t picked; /* only every so manieth row asks, and the one behind it; 0 = all */
};

struct scene {
    struct kern_kv kv;
    struct kern_attn a;
    struct kern_block_list list;
    float *q;
    int32_t *first, *index;
    void **owned;
    int32_t n_owned;
};

static inline void *scene_own(struct scene *s, size_t size)
{
    void *p = aligned_alloc(64, (size + 63) & ~(size_t)63);
    assert_non_null(p);
    s->owned[s->n_owned++] = p;
    return p;
}

static inline struct scene scene_make(const struct shape *h)
{
    struct scene s = {{0}};
    int32_t d = h->head_dim, end = h->pos0 + h->n_tok, n_block = (end + 63) / 64;
    int32_t b_first = h->pos0 / 64, b_last = (end - 1) / 64, n_head = h->n_head_kv * h->group;
    rng_state = 1 + (uint64_t)d * 7919 + (uint64_t)end * 104729 + (uint64_t)h->group;
    s.owned = calloc((size_t)h->n_head_kv * n_block * 3 + 16, sizeof *s.owned);
    s.kv = (struct kern_kv){.n_head_kv = h->n_head_kv, .head_dim = d, .n_block_cap = n_block + 1};
    s.kv.n_latent = !h->latent ? 0 : d > 256 ? d / 9 * 8 : d > 16 ? d - 16 : d;
    size_t table = sizeof(struct kern_kv_block) * h->n_head_kv * (n_block + 1);
    s.kv.block = scene_own(&s, table);
    memset(s.kv.block, 0, table);
    bool packed = h->bits_k != 0 && b_last >= 2;
    if (packed) {
        size_t size = sizeof(uint16_t) * h->n_head_kv * d * KERN_SINK_PAD;
        s.kv.sink_k = scene_own(&s, size);
        memset(s.kv.sink_k, 0x7e, size); /* NaN where nothing is written */
        if (!h->latent)
            s.kv.sink_v = memset(scene_own(&s, size), 0x7e, size);
    }
    static const int32_t depth[4] = {8, 6, 4, 2};
    for (int32_t head = 0; head < h->n_head_kv; head++) {
        for (int32_t j = 0; j < n_block; j++) {
            struct kern_kv_block *b = &s.kv.block[head * (n_block + 1) + j];
            b->k = scene_own(&s, sizeof(uint16_t) * d * 64);
            memset(b->k, 0x7e, sizeof(uint16_t) * d * 64);
            if (!h->latent)
                b->v = memset(scene_own(&s, sizeof(uint16_t) * d * 64), 0x7e, sizeof(uint16_t) * d * 64);
            for (int32_t c = 0; c < d; c++) {
                /* channels of K differ in spread and offset, as real ones do */
                float spread = 0.3f + 2 * rng_uniform(), at = rng_normal();
                for (int32_t t = 0; t < 64 && j * 64 + t < end; t++) {
                    b->k[c * 64 + t] = kern_f32_to_f16(at + spread * rng_normal());
                    if (b->v)
                        b->v[t * d + c] = kern_f32_to_f16(rng_normal());
                }
            }
            if (packed && j == 0) {
                for (int32_t c = 0; c < d; c++) {
                    for (int32_t t = 0; t < KERN_SINK_TOK; t++) {
                        s.kv.sink_k[(head * d + c) * KERN_SINK_PAD + t] = b->k[c * 64 + t];
                        if (b->v)
                            s.kv.sink_v[(head * KERN_SINK_PAD + t) * d + c] = b->v[t * d + c];
                    }
                }
            }
            if (packed && j + 1 < b_last) {
                struct page_shape shape = {d, h->bits_k, h->bits_v};
                if (h->bits_k == 1) {
                    shape.bits_k = depth[(j + head) % 4];
                    shape.bits_v = depth[(j / 4 + j) % 4];
                }
                shape.bits_v = h->latent ? 0 : shape.bits_v;
                b->page = scene_own(&s, page_size(&shape));
                page_seal(b->page, &shape,
                          h->rotated && (h->bits_k != 1 || j % 3) ? PAGE_V_ROTATED : 0,
                          j == 0 ? KERN_SINK_TOK : 0, b->k, b->v);
                if (j + 1 < b_first) { /* no row of this call needs its f16 rows */
                    b->k = NULL;
                    b->v = NULL;
                }
            }
        }
    }
    s.q = scene_own(&s, sizeof(float) * h->n_tok * n_head * d);
    for (int32_t i = 0; i < h->n_tok * n_head * d; i++)
        s.q[i] = rng_normal();
    if (h->listed) {
        int32_t n_row_block = b_last - b_first + 1, n = 0;
        s.first = scene_own(&s, sizeof(int32_t) * h->n_head_kv * (n_row_block + 1));
        s.index = scene_own(&s, sizeof(int32_t) * h->n_head_kv * n_row_block * (n_block + 1) + 64);
        for (int32_t head = 0; head < h->n_head_kv; head++) {
            for (int32_t r = 0; r < n_row_block; r++) {
                s.first[head * (n_row_block + 1) + r] = n;
                for (int32_t j = 0; j < b_first + r; j++)
                    if (rng_uniform() < 0.4f)
                        s.index[n++] = j;
            }
            s.first[head * (n_row_block + 1) + n_row_block] = n;
        }
        s.list = (struct kern_block_list){s.first, s.index};
    }
    for (int32_t at = 0; h->dropped && at < h->n_head_kv * h->pos0; at++)
        if (rng_uniform() < 0.3f)
            s.kv.block[at / h->pos0 * (n_block + 1) + at % h->pos0 / 64].dropped |=
                UINT64_C(1) << at % h->pos0 % 64;
    if (h->dropped && h->pos0 > 192)
        s.kv.block[2].dropped = UINT64_MAX;
    s.a = (struct kern_attn){.n_tok = h->n_tok,
                             .pos0 = h->pos0,
                             .n_head = n_head,
                             .q = s.q,
                             .scale = 1 / sqrtf((float)d),
                             .softcap = h->softcap,
                             .window = h->window};
    if (h->picked) {
        int32_t *row = scene_own(&s, sizeof(int32_t) * (size_t)h->n_tok), n = 0;
        for (int32_t i = 0; i < h->n_tok; i++)
            if (i % h->picked < 2)
                row[n++] = i;
        s.a.row = row;
        s.a.n_tok = n;
    }
    return s;
}

static inline void scene_free(struct scene *s)
{
    for (int32_t i = 0; i < s->n_owned; i++)
        free(s->owned[i]);
    free(s->owned);
}

#endif
