/* One layer of synthetic keys, values and queries whose attention has a known structure: for the
 * tests and benchmarks of sparse attention. Deterministic.
 *
 * HEADS_RECALL: text in runs of about a hundred tokens, each about a topic; a query looks at runs
 * of its own topic wherever they lie, at its neighbourhood and a little at the sinks. HEADS_LOCAL:
 * neighbourhood and sinks alone. HEADS_SPREAD: random, all keys count alike: nothing to skip.
 * HEADS_NEEDLE: as LOCAL, and rare single rows that look at one far token. HEADS_MIXED: heads take
 * turns. */
#ifndef TESTS_ENGINE_HEADS_H
#define TESTS_ENGINE_HEADS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/page.h"

enum heads_kind { HEADS_RECALL, HEADS_LOCAL, HEADS_SPREAD, HEADS_NEEDLE, HEADS_MIXED };
enum { HEADS_TOPICS = 48 };

struct heads {
    struct kern_kv kv;
    int32_t n, n_head;
    float *q; /* [n, n_head, head_dim] */
    uint16_t *rows;
    uint8_t *pages;
    uint32_t rng;
};

static inline float heads_noise(struct heads *h) /* near normal, variance 1 */
{
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        h->rng = h->rng * 1664525 + 1013904223;
        sum += (float)(h->rng >> 8) / (float)(1 << 23) - 1;
    }
    return sum;
}

static inline uint32_t heads_mix(uint32_t x)
{
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

/* Topic of the run a position lies in. */
static inline int32_t heads_topic(int32_t head_kv, int32_t pos)
{
    int32_t run = (pos + 37 * head_kv) / (80 + 16 * (head_kv % 3));
    return (int32_t)(heads_mix((uint32_t)(run * 131 + head_kv)) % HEADS_TOPICS);
}

static inline struct heads heads_make(enum heads_kind kind, int32_t n, int32_t n_head,
                                      int32_t n_head_kv, int32_t d, uint32_t seed)
{
    struct heads h = {.n = n, .n_head = n_head, .rng = seed};
    int32_t n_block = (n + 63) / 64, group = n_head / n_head_kv;
    size_t half = (size_t)64 * d;
    h.kv = (struct kern_kv){n_head_kv, d, n_block, NULL, NULL, NULL};
    h.kv.block = calloc((size_t)n_block * n_head_kv, sizeof *h.kv.block);
    h.rows = aligned_alloc(64, 2 * half * n_block * n_head_kv * sizeof *h.rows);
    memset(h.rows, 0, 2 * half * n_block * n_head_kv * sizeof *h.rows);
    h.q = aligned_alloc(64, ((size_t)n * n_head * d * sizeof *h.q + 63) & ~(size_t)63);
    float *topic = malloc(sizeof(float) * HEADS_TOPICS * d), *near = malloc(sizeof(float) * d);
    float *turn = malloc(sizeof(float) * d); /* radians per position */
    for (int32_t c = d / 2; c < d; c++)
        turn[c] = powf(0.02f, (float)((c - d / 2) / 2) / (d / 2 / 2));
    for (int32_t hk = 0; hk < n_head_kv; hk++) {
        enum heads_kind what = kind != HEADS_MIXED ? kind : (enum heads_kind)(hk % 4);
        float norm = sqrtf((float)d);
        for (int32_t i = 0; i < HEADS_TOPICS * d; i++)
            topic[i] = heads_noise(&h);
        /* channels: half carry topics, half carry places as slow rotations */
        int32_t dt = d / 2;
        float seek = what == HEADS_RECALL ? 1.0f : 0.0f, place = what == HEADS_SPREAD ? 0 : 1.0f;
        /* the more keys, the sharper, or the many far ones would add up */
        float sharp = 60 + 12 * fmaxf(0, log2f((float)n / 4096));
        for (int32_t p = 0; p < n; p++) {
            struct kern_kv_block *b = &h.kv.block[hk * n_block + p / 64];
            if (!b->k) {
                b->k = h.rows + 2 * half * ((size_t)hk * n_block + p / 64);
                b->v = b->k + half;
            }
            const float *t = topic + heads_topic(hk, p) * d;
            for (int32_t c = 0; c < d; c++) {
                float x = 0.35f * heads_noise(&h);
                if (c < dt)
                    x += seek * t[c] + (p < 4 && place > 0 ? 1.2f : 0);
                else
                    near[c] = place * ((c - dt) % 2 ? sinf : cosf)((float)p * turn[c]);
                b->k[c * 64 + p % 64] = kern_f32_to_f16(c < dt ? x : x + near[c]);
                b->v[(size_t)(p % 64) * d + c] =
                    kern_f32_to_f16(0.6f * heads_noise(&h) + 0.8f * t[c]);
            }
            for (int32_t g = 0; g < group; g++) {
                int32_t head = hk * group + g;
                uint32_t draw = heads_mix((uint32_t)(p / 90 * 977 + hk));
                const float *want = topic + heads_topic(hk, (int32_t)(draw % (uint32_t)(p / 90 * 90 + 1))) * d;
                float *q = h.q + ((size_t)p * n_head + head) * d;
                for (int32_t c = 0; c < d; c++) {
                    float x = 0.4f * heads_noise(&h);
                    if (c < dt)
                        x += seek * want[c] * 18 / norm + (place > 0 ? 1.2f * 8 / norm : 0);
                    else
                        x += place * near[c] * (what == HEADS_RECALL ? 34 : sharp) / norm;
                    q[c] = x;
                }
                if (what == HEADS_NEEDLE && heads_mix((uint32_t)(p * 31 + head)) % 53 == 0) {
                    int32_t at = (int32_t)(draw % (uint32_t)(p + 1));
                    const struct kern_kv_block *far = &h.kv.block[hk * n_block + at / 64];
                    float len = 0;
                    for (int32_t c = 0; c < d; c++)
                        len += powf(kern_f16_to_f32(far->k[c * 64 + at % 64]), 2);
                    for (int32_t c = 0; c < d; c++)
                        q[c] += 14 * norm / len * kern_f16_to_f32(far->k[c * 64 + at % 64]);
                }
            }
        }
    }
    free(topic);
    free(near);
    free(turn);
    return h;
}

/* Seals every block before position `end`'s own and the one before it; f16 rows stay. */
static inline void heads_seal(struct heads *h, int32_t end, int32_t bits_k, int32_t bits_v)
{
    struct page_shape shape = {h->kv.head_dim, bits_k, bits_v};
    size_t size = (page_size(&shape) + 63) & ~(size_t)63;
    int32_t n_seal = end / 64 - 1, d = h->kv.head_dim, nb = h->kv.n_block_cap;
    h->pages = aligned_alloc(64, size * (size_t)(n_seal > 0 ? n_seal : 1) * h->kv.n_head_kv);
    size_t sink = (size_t)h->kv.n_head_kv * d * KERN_SINK_PAD;
    h->kv.sink_k = calloc(2 * sink, sizeof(uint16_t));
    h->kv.sink_v = h->kv.sink_k + sink;
    for (int32_t hk = 0; hk < h->kv.n_head_kv; hk++) {
        for (int32_t j = 0; j < n_seal; j++) {
            struct kern_kv_block *b = &h->kv.block[hk * nb + j];
            b->page = (struct kern_page *)(h->pages + size * ((size_t)hk * n_seal + j));
            page_seal(b->page, &shape, 0, j == 0 ? KERN_SINK_TOK : 0, b->k, b->v);
        }
        const struct kern_kv_block *zero = &h->kv.block[hk * nb];
        for (int32_t t = 0; t < KERN_SINK_TOK; t++)
            for (int32_t c = 0; c < d; c++) {
                h->kv.sink_k[((size_t)hk * d + c) * KERN_SINK_PAD + t] = zero->k[c * 64 + t];
                h->kv.sink_v[((size_t)hk * KERN_SINK_PAD + t) * d + c] = zero->v[t * d + c];
            }
    }
}

static inline void heads_free(struct heads *h)
{
    free(h->kv.block);
    free(h->rows);
    free(h->q);
    free(h->pages);
    free(h->kv.sink_k);
}

/* Rows [pos0, pos0 + n_tok) as a call. */
static inline struct kern_attn heads_attn(const struct heads *h, int32_t pos0, int32_t n_tok,
                                          float *out)
{
    return (struct kern_attn){
        .n_tok = n_tok,
        .pos0 = pos0,
        .n_head = h->n_head,
        .q = h->q + (size_t)pos0 * h->n_head * h->kv.head_dim,
        .out = out,
        .scale = 1 / sqrtf((float)h->kv.head_dim),
        .kv = &h->kv,
    };
}

#endif
