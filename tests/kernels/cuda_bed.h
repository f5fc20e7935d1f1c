/* What tests of the CUDA backend stand on: the two backends, memory of the device, a scene for both.
 * Include after cmocka.h. */
#ifndef TESTS_KERNELS_CUDA_BED_H
#define TESTS_KERNELS_CUDA_BED_H

#include "tests/kernels/scene.h"

static struct kern *cuda, *ref;

static inline float *floats(size_t n, float size)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = size * rng_normal();
    return x;
}

static inline void assert_near(const float *got, const float *want, size_t n, double tolerance,
                               double floor, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= tolerance * (fabs((double)want[i]) + floor)))
            fail_msg("%s: element %zu is %.9g, not %.9g", what, i, (double)got[i], (double)want[i]);
    }
}

/* ---- device memory ---- */

static inline void *dev_new(const void *host, size_t size)
{
    void *dev = cuda->ops->alloc(cuda, size);
    assert_non_null(dev);
    if (host)
        cuda->ops->upload(cuda, dev, host, size);
    return dev;
}

/* Copies back and frees. */
static inline void dev_take(void *host, void *dev, size_t size)
{
    cuda->ops->download(cuda, host, dev, size);
    cuda->ops->free(cuda, dev);
    const char *error = cuda->ops->error(cuda);
    if (error)
        fail_msg("device: %s", error);
}

/* ---- attention ---- */

/* One scene for ref, and copied to the device. */
struct twins {
    struct scene host;
    struct kern_kv kv[2];  /* 0: host, 1: device */
    struct kern_attn a[2];
    struct kern_kv_block *block; /* of kv[1] */
    void *dev[4096];
    int n_dev;
};

static inline void *own_dev(struct twins *s, const void *host, size_t size)
{
    assert_true(s->n_dev < 4096);
    return host ? s->dev[s->n_dev++] = dev_new(host, size) : NULL;
}

static inline void twins_make(struct twins *s, const struct shape *h)
{
    memset(s, 0, sizeof *s);
    s->host = scene_make(h);
    s->kv[0] = s->kv[1] = s->host.kv;
    size_t d = (size_t)h->head_dim, rows = sizeof(uint16_t) * d * 64;
    size_t sink = sizeof(uint16_t) * (size_t)h->n_head_kv * d * KERN_SINK_PAD;
    int32_t n_entry = h->n_head_kv * s->kv[0].n_block_cap;
    s->block = calloc((size_t)n_entry, sizeof *s->block);
    for (int32_t i = 0; i < n_entry; i++) {
        const struct kern_kv_block *from = &s->host.kv.block[i];
        s->block[i] = (struct kern_kv_block){
            own_dev(s, from->k, rows), own_dev(s, from->v, rows),
            own_dev(s, from->page, from->page ? from->page->size_bytes : 0), from->dropped};
    }
    s->kv[1].block = s->block;
    s->kv[1].sink_k = own_dev(s, s->kv[0].sink_k, sink);
    s->kv[1].sink_v = own_dev(s, s->kv[0].sink_v, sink);
    for (int i = 0; i < 2; i++) {
        s->a[i] = s->host.a;
        s->a[i].kv = &s->kv[i];
        s->a[i].list = h->listed ? &s->host.list : NULL;
    }
    s->a[1].q = own_dev(s, s->host.q, sizeof(float) * (size_t)(h->n_tok * s->a[0].n_head) * d);
}

static inline void twins_free(struct twins *s)
{
    for (int i = 0; i < s->n_dev; i++)
        cuda->ops->free(cuda, s->dev[i]);
    free(s->block);
    scene_free(&s->host);
}

#endif
