#include "engine/latent.h"

#include <stdlib.h>

#include "engine/base/mem.h"

struct latent {
    const struct model *m;
    struct kern *kern;
    float *query; /* dev [n_chunk, n_latent_q]: what queries are made of; NULL where that is the stream */
    float *head;  /* dev [n_chunk, n_head, n_plain]: queries before they are absorbed; then
                     [n_chunk, n_head, head_dim_v]: values */
};

static uint64_t head_floats(const struct model_params *p)
{
    return (uint64_t)p->n_head * (uint64_t)(p->n_plain > p->head_dim_v ? p->n_plain : p->head_dim_v);
}

uint64_t latent_bytes(const struct model_params *p, int32_t n_chunk)
{
    return p->n_latent == 0 ? 0
                            : sizeof(float) * (uint64_t)n_chunk * ((uint64_t)p->n_latent_q + head_floats(p));
}

struct latent *latent_new(const struct model *m, int32_t n_chunk)
{
    struct latent *x = mem_calloc(1, sizeof *x);
    size_t n = sizeof(float) * (size_t)n_chunk;
    x->m = m;
    x->kern = m->kern;
    if (m->p.n_latent_q > 0)
        x->query = x->kern->ops->alloc(x->kern, n * (size_t)m->p.n_latent_q);
    x->head = x->kern->ops->alloc(x->kern, n * head_floats(&m->p));
    if (x->head && (x->query || m->p.n_latent_q == 0))
        return x;
    latent_free(x);
    return NULL;
}

void latent_free(struct latent *x)
{
    if (!x)
        return;
    if (x->query)
        x->kern->ops->free(x->kern, x->query);
    if (x->head)
        x->kern->ops->free(x->kern, x->head);
    free(x);
}

/* Each head's own matrix of w, which lie above each other, times the head's channels of from; rows of to and
 * from are of all heads, to_dim and from_dim channels each. */
static void each_head(struct latent *x, const struct model_mat *w, float *to, int32_t to_dim, const float *from,
                      int32_t from_dim, int32_t n_tok)
{
    struct kern_mat mats[KERN_MATS];
    int32_t n_head = x->m->p.n_head, n_row = w->n_row / n_head, n_mat = 0;
    for (int32_t h = 0; h < n_head; h++) {
        mats[n_mat++] = (struct kern_mat){.w = w->w,
                                          .dst = to + (size_t)h * (size_t)to_dim,
                                          .dst_stride = n_head * to_dim,
                                          .row0 = h * n_row,
                                          .n_row = n_row,
                                          .x_col = h * from_dim};
        if (n_mat == KERN_MATS || h + 1 == n_head) {
            x->kern->ops->matmul(x->kern, n_mat, mats, from, n_head * from_dim, n_tok);
            n_mat = 0;
        }
    }
}

void latent_ask(struct latent *x, const struct model_layer *l, const float *in, float *q, int32_t n_tok)
{
    struct kern *k = x->kern;
    const struct model_params *p = &x->m->p;
    int32_t n_head = p->n_head, d = l->head_dim, each = p->n_plain + p->n_rot, n_mat = 0;
    if (x->query) {
        const struct kern_mat down = {.w = l->q_a.w, .dst = x->query, .dst_stride = p->n_latent_q};
        k->ops->matmul(k, 1, &down, in, p->n_embd, n_tok);
        k->ops->rmsnorm(k, x->query, x->query, l->q_a_norm.dev, n_tok, p->n_latent_q, p->n_latent_q, p->norm_eps);
    }
    /* A head's rows are those of its plain channels, then of those to be rotated, which go where they stay. */
    struct kern_mat mats[KERN_MATS];
    for (int32_t i = 0; i < 2 * n_head; i++) {
        int32_t h = i / 2;
        bool plain = i % 2 == 0;
        mats[n_mat++] = (struct kern_mat){.w = l->q.w,
                                          .dst = plain ? x->head + h * p->n_plain : q + h * d + p->n_latent,
                                          .dst_stride = n_head * (plain ? p->n_plain : d),
                                          .row0 = h * each + (plain ? 0 : p->n_plain),
                                          .n_row = plain ? p->n_plain : p->n_rot};
        if (n_mat == KERN_MATS || i + 1 == 2 * n_head) {
            k->ops->matmul(k, n_mat, mats, x->query ? x->query : in, l->q.n_col, n_tok);
            n_mat = 0;
        }
    }
    each_head(x, &l->k_b, q, d, x->head, p->n_plain, n_tok);
}

const float *latent_values(struct latent *x, const struct model_layer *l, const float *answer, int32_t n_tok)
{
    each_head(x, &l->v_b, x->head, x->m->p.head_dim_v, answer, l->head_dim, n_tok);
    return x->head;
}
