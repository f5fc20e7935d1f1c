#include "engine/layer_embed.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"

struct layer_embed {
    const struct model *m;
    struct kern *kern;
    float *own;  /* dev [n_chunk, n_layer, n_layer_embed]: the tokens' vectors */
    float *gate; /* dev, the same: the table's rows, then what each layer lets through */
    float *host; /* of a device: its rows on their way there; else NULL */
};

/* Floats of a token. */
static int32_t width(const struct model_params *p)
{
    return p->n_layer * p->n_layer_embed;
}

uint64_t layer_embed_bytes(const struct model_params *p, int32_t n_chunk)
{
    return 2 * sizeof(float) * (uint64_t)n_chunk * (uint64_t)width(p);
}

struct layer_embed *layer_embed_new(const struct model *m, int32_t n_chunk)
{
    struct layer_embed *s = mem_calloc(1, sizeof *s);
    size_t size = sizeof(float) * (size_t)n_chunk * (size_t)width(&m->p);
    s->m = m;
    s->kern = m->kern;
    s->own = s->kern->ops->alloc(s->kern, size);
    s->gate = s->kern->ops->alloc(s->kern, size);
    s->host = s->kern->device ? mem_try(size) : NULL;
    if (s->own && s->gate && (s->host || !s->kern->device))
        return s;
    layer_embed_free(s);
    return NULL;
}

void layer_embed_free(struct layer_embed *s)
{
    if (!s)
        return;
    if (s->own)
        s->kern->ops->free(s->kern, s->own);
    if (s->gate)
        s->kern->ops->free(s->kern, s->gate);
    free(s->host);
    free(s);
}

struct rows_job {
    const struct gguf_tensor *t;
    const int32_t *ids;
    float *to, scale;
    int32_t n;
};

/* One part is one token. */
static void row_part(void *ctx, int part, int n_part)
{
    const struct rows_job *j = ctx;
    float *to = j->to + (size_t)part * (size_t)j->n;
    size_t row = (size_t)(j->n / kern_type_block(j->t->type)) * kern_type_bytes(j->t->type);
    kern_dequantise(j->t->type, (const char *)j->t->data + (size_t)j->ids[part] * row, to, j->n);
    for (int32_t i = 0; i < j->n; i++)
        to[i] *= j->scale;
}

void layer_embed_look_up(struct layer_embed *s, const int32_t *ids, int32_t n_tok)
{
    int32_t n = s->m->p.n_layer_embed, all = width(&s->m->p);
    struct rows_job j = {s->m->layer_embed, ids, s->host ? s->host : s->gate,
                         sqrtf((float)n) * MODEL_LAYER_EMBED_SCALE, all};
    kern_parallel(s->kern, n_tok, row_part, &j);
    if (s->host)
        s->kern->ops->upload(s->kern, s->gate, s->host, sizeof(float) * (size_t)n_tok * (size_t)all);
}

void layer_embed_begin(struct layer_embed *s, const float *x, int32_t n_tok)
{
    const struct model_params *p = &s->m->p;
    const struct kern_ops *ops = s->kern->ops;
    int32_t n = p->n_layer_embed, all = width(p);
    const struct kern_mat proj = {s->m->layer_proj.w, NULL, s->own, all, false};
    ops->matmul(s->kern, 1, &proj, x, p->n_embd, n_tok);
    /* The product is meant to be divided by sqrt(n_embd): only the norm's epsilon tells. */
    ops->rmsnorm(s->kern, s->own, s->own, s->m->layer_proj_norm.dev, n_tok * p->n_layer, n, n,
                 p->norm_eps * (float)p->n_embd);
    ops->add(s->kern, s->own, s->gate, (size_t)n_tok * (size_t)all);
}

const float *layer_embed_run(struct layer_embed *s, int32_t i, const float *x, int32_t first, int32_t n_tok,
                             int32_t *ret_stride)
{
    const struct model_params *p = &s->m->p;
    const struct kern_ops *ops = s->kern->ops;
    int32_t n = p->n_layer_embed, all = width(p);
    size_t at = (size_t)first * (size_t)all + (size_t)i * (size_t)n;
    const struct kern_mat gate = {s->m->layer[i].side_gate.w, NULL, s->gate + at, all, false};
    ops->matmul(s->kern, 1, &gate, x, p->n_embd, n_tok - first);
    ops->glu(s->kern, s->gate + at, all, s->gate + at, s->own + at, all, n_tok - first, n, p->act);
    *ret_stride = all;
    return s->gate + at;
}
