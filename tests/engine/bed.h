/* A loaded model with one timeline, and files to load: shared by the engine's tests. Include after
 * cmocka.h. */
#ifndef TESTS_ENGINE_BED_H
#define TESTS_ENGINE_BED_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/forward.h"

/* $DOGEAR_DATA, or skips the test when the material is not there. */
static inline const char *bed_data(void)
{
    const char *dir = getenv("DOGEAR_DATA");
    char probe[1024];
    snprintf(probe, sizeof probe, "%s/reference/llama-F16.gguf", dir ? dir : "");
    FILE *f = fopen(probe, "rb");
    if (!f) {
        skip();
        return NULL;
    }
    fclose(f);
    return dir;
}

/* An instruction set (NULL = the best), or "cuda": the backend that CUDA_MODULE names. Skips the test when
 * there is none of the name. */
static inline struct kern *bed_kern(const char *name)
{
    const char *module = getenv("CUDA_MODULE");
    char why[256] = "not available";
    struct kern *k = NULL;
    if (!name || strcmp(name, "cuda") != 0)
        k = kern_open_cpu(name, 2);
    else if (module && *module)
        k = kern_open_cuda(module, 0, 2, why, sizeof why);
    if (!k) {
        print_message("# %s: %s\n", name ? name : "the CPU", why);
        skip();
    }
    return k;
}

struct bed {
    struct kern *k; /* borrowed */
    struct gguf *g;
    struct model *m;
    struct forward *f;
    struct kv_pool *pool;
    struct kv_line *line;
};

static inline void bed_check(enum status s, const struct err *e)
{
    if (s != OK)
        fail_msg("%s", e->text);
}

/* With at most n_layer layers on a device. */
static inline void bed_open_some(struct bed *b, struct kern *k, const char *path, int32_t n_chunk,
                                 int32_t n_layer)
{
    struct err e;
    *b = (struct bed){.k = k};
    bed_check(gguf_open(path, &b->g, &e), &e);
    bed_check(model_read(b->g, &b->m, &e), &e);
    model_place(b->m, n_layer);
    bed_check(model_load(b->m, k, NULL, NULL, &e), &e);
    bed_check(forward_new(b->m, n_chunk, &b->f, &e), &e);
    struct kv_shape s = forward_kv_shape(&b->m->p);
    b->pool = kv_pool_new(k, &s, NULL, 1u << 28);
    b->line = kv_line_new(b->pool, 1024);
}

static inline void bed_open(struct bed *b, struct kern *k, const char *path, int32_t n_chunk)
{
    bed_open_some(b, k, path, n_chunk, INT32_MAX);
}

static inline void bed_close(struct bed *b)
{
    kv_line_free(b->line);
    kv_pool_free(b->pool);
    forward_free(b->f);
    model_free(b->m);
    gguf_close(b->g);
}

/* Reads what the line has not of ids[0..end), in one go or, as an answer is, token by token; the last token's
 * logits, valid until the next call. */
static inline const float *bed_read(struct bed *b, struct kv_line *line, const int32_t *ids, int32_t end,
                                    bool answer)
{
    struct err e;
    const float *logits = NULL;
    for (int32_t at = kv_n_tok(line), n; at < end; at += n) {
        n = answer ? 1 : end - at;
        bed_check(kv_reserve(line, n, &e), &e);
        bed_check(forward_run(b->f, line, ids + at, n, FORWARD_LAST, NULL, NULL, &e), &e);
        bed_check(forward_head(b->f, n - 1, 1, &logits, &e), &e);
    }
    return logits;
}

/* Logits [n, n_vocab] of ids fed from the start in pieces of `step`; free() it. */
static inline float *bed_logits(struct bed *b, const int32_t *ids, int32_t n, int32_t step)
{
    struct err e;
    size_t v = (size_t)b->m->p.n_vocab;
    float *out = malloc((size_t)n * v * sizeof *out);
    kv_truncate(b->line, 0);
    for (int32_t at = 0; at < n; at += step) {
        int32_t now = n - at < step ? n - at : step;
        bed_check(kv_reserve(b->line, now, &e), &e);
        bed_check(forward_run(b->f, b->line, ids + at, now, FORWARD_ALL, NULL, NULL, &e), &e);
        for (int32_t r = 0; r < now; r += FORWARD_HEAD_ROWS) {
            int32_t rows = now - r < FORWARD_HEAD_ROWS ? now - r : FORWARD_HEAD_ROWS;
            const float *logits;
            bed_check(forward_head(b->f, r, rows, &logits, &e), &e);
            memcpy(out + (size_t)(at + r) * v, logits, (size_t)rows * v * sizeof *out);
        }
    }
    return out;
}

#endif
