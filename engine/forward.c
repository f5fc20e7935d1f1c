#include "engine/forward.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/experts.h"
#include "engine/latent.h"
#include "engine/layer_embed.h"
#include "engine/recurrent.h"

struct forward {
    const struct model *m;
    struct kern *kern;
    int32_t n_write;               /* model_n_write */
    int32_t n_chunk, n_chunk_room; /* in force; there are buffers for */
    float *x;                      /* dev [n_chunk, n_embd]: the residual stream */
    float *h;         /* dev [n_chunk, n_embd]: its normed copy, and what a part gives back */
    float *q, *a;     /* dev [n_chunk, n_head * head_dim of the widest]: queries, attention's answer */
    float *lse;       /* dev [n_chunk, n_head] */
    float *k, *v;     /* dev [n_chunk, n_head_kv * head_dim of the widest] */
    float *q_gate;    /* dev [n_chunk, n_head * head_dim]; NULL where attention has no gate */
    float *gate, *up; /* dev [n_chunk, n_ff_plain]; NULL where all experts are routed */
    float *mix;       /* dev [n_chunk, n_embd]: answers of routed experts that are normed; or NULL */
    float *ones;      /* dev [widest head, or n_embd]: norms values, or embeddings; or NULL */
    struct latent *latent;           /* or NULL */
    struct experts *experts;         /* or NULL */
    struct recurrent *recurrent;     /* or NULL */
    struct layer_embed *layer_embed; /* or NULL */
    float *logits;           /* dev [FORWARD_HEAD_ROWS, n_vocab] */
    float *host_logits;
    forward_answer answer; /* NULL = the backend's attend */
    void *answer_ctx;
    forward_watch watch; /* NULL = nobody */
    void *watch_ctx;
    float nudge;
};

/* Channels of the widest layer: of all queries, and of all keys. */
static uint64_t most_q(const struct model_params *p)
{
    return (uint64_t)p->n_head * (uint64_t)model_most_head_dim(p);
}
static uint64_t most_kv(const struct model_params *p)
{
    int32_t n = p->n_head_kv * p->head_dim, n_local = p->n_head_kv_local * p->head_dim_local;
    return (uint64_t)(n > n_local ? n : n_local);
}

static uint64_t mix_floats(const struct model_params *p)
{
    return p->experts_apart || p->experts_normed ? (uint64_t)p->n_embd : 0;
}

/* Floats per token of the chunk, and floats of the head. */
static uint64_t row_floats(const struct model_params *p)
{
    return 2 * (uint64_t)p->n_embd + (2 + p->q_gated) * most_q(p) + (uint64_t)p->n_head +
           (p->n_latent > 0 ? 1 : 2) * most_kv(p) + 2 * (uint64_t)p->n_ff_plain + mix_floats(p);
}

_Static_assert((int)MODEL_LAYERS <= (int)KV_LAYERS, "a model's layers fit");

struct kv_shape forward_kv_shape(const struct model_params *p)
{
    struct kv_shape s = {.n_state_layer = p->n_layer_state,
                         .state_floats = recurrent_state_floats(p)};
    for (int32_t i = 0; s.n_layer < p->n_layer_kv; i++)
        if (p->attends[i])
            kv_shape_add(&s, model_n_head_kv(p, i), model_head_dim(p, i), p->n_latent);
    return s;
}

uint64_t forward_bytes(const struct model_params *p, int32_t n_chunk)
{
    return experts_bytes(p, n_chunk) + recurrent_bytes(p, n_chunk) + layer_embed_bytes(p, n_chunk) +
           latent_bytes(p, n_chunk) + sizeof(float) *
               (row_floats(p) * (uint64_t)n_chunk + 2 * FORWARD_HEAD_ROWS * (uint64_t)p->n_vocab);
}

enum status forward_new(const struct model *m, int32_t n_chunk, struct forward **ret, struct err *e)
{
    const struct model_params *p = &m->p;
    struct forward *f = mem_calloc(1, sizeof *f);
    f->m = m;
    f->kern = m->kern;
    f->n_chunk = f->n_chunk_room = n_chunk;
    f->n_write = model_n_write(m);
    uint64_t n = (uint64_t)n_chunk, n_q = most_q(p), n_kv = most_kv(p),
             n_one = p->embed_normed ? (uint64_t)p->n_embd : p->v_normed ? (uint64_t)model_most_head_dim(p) : 0;
    struct {
        float **at;
        uint64_t n_float;
    } bufs[] = {
        {&f->x, n * (uint64_t)p->n_embd},
        {&f->h, n * (uint64_t)p->n_embd},
        {&f->q, n * n_q},
        {&f->a, n * n_q},
        {&f->lse, n * (uint64_t)p->n_head},
        {&f->k, n * n_kv},
        {&f->v, p->n_latent > 0 ? 0 : n * n_kv},
        {&f->q_gate, p->q_gated ? n * n_q : 0},
        {&f->gate, n * (uint64_t)p->n_ff_plain},
        {&f->up, n * (uint64_t)p->n_ff_plain},
        {&f->mix, n * mix_floats(p)},
        {&f->ones, n_one},
        {&f->logits, FORWARD_HEAD_ROWS * (uint64_t)p->n_vocab},
    };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) {
        if (bufs[i].n_float == 0)
            continue;
        *bufs[i].at = f->kern->ops->alloc(f->kern, sizeof(float) * bufs[i].n_float);
        if (!*bufs[i].at)
            goto fail;
    }
    if (f->ones) {
        float *one = mem_alloc(sizeof(float) * n_one);
        for (uint64_t i = 0; i < n_one; i++)
            one[i] = 1;
        f->kern->ops->upload(f->kern, f->ones, one, sizeof(float) * n_one);
        free(one);
    }
    if (p->n_layer_embed > 0 && !(f->layer_embed = layer_embed_new(m, n_chunk)))
        goto fail;
    if (p->n_latent > 0 && !(f->latent = latent_new(m, n_chunk)))
        goto fail;
    if (p->n_expert > 0 && !(f->experts = experts_new(m, n_chunk)))
        goto fail;
    if (p->n_tap > 0 && !(f->recurrent = recurrent_new(m, n_chunk)))
        goto fail;
    size_t n_host = sizeof(float) * FORWARD_HEAD_ROWS * (size_t)p->n_vocab;
    const struct kern_ops *ops = f->kern->ops;
    f->host_logits = ops->host_alloc ? ops->host_alloc(f->kern, n_host) : mem_try(n_host);
    if (!f->host_logits)
        goto fail;
    *ret = f;
    return OK;
fail:
    forward_free(f);
    return err_set(e, ERR_MEMORY, "out of memory: no %llu bytes of scratch for chunks of %d tokens",
                   (unsigned long long)forward_bytes(p, n_chunk), n_chunk);
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    float *bufs[] = {f->x, f->h, f->q, f->a, f->lse, f->k, f->v, f->q_gate, f->gate, f->up,
                     f->mix, f->ones, f->logits};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        if (bufs[i])
            f->kern->ops->free(f->kern, bufs[i]);
    latent_free(f->latent);
    experts_free(f->experts);
    recurrent_free(f->recurrent);
    layer_embed_free(f->layer_embed);
    if (f->kern->ops->host_free && f->host_logits)
        f->kern->ops->host_free(f->kern, f->host_logits);
    else
        free(f->host_logits);
    free(f);
}

void forward_set_answer(struct forward *f, forward_answer fn, void *ctx)
{
    f->answer = fn;
    f->answer_ctx = ctx;
}

void forward_set_chunk(struct forward *f, int32_t n)
{
    f->n_chunk = n > 0 && n < f->n_chunk_room ? n : f->n_chunk_room;
}

void forward_set_watch(struct forward *f, forward_watch fn, void *ctx)
{
    f->watch = fn;
    f->watch_ctx = ctx;
}

void forward_set_nudge(struct forward *f, float part)
{
    f->nudge = part;
}

int32_t forward_n_chunk(const struct forward *f)
{
    return f->n_chunk;
}

int32_t forward_n_layer(const struct forward *f)
{
    return f->m->p.n_layer;
}

/* x += the block's answer, normed first where the model norms it (gemma). The answer is w * y. */
static void add_answer(struct forward *f, const struct model_mat *w, const float *bias,
                       const float *post_norm, const float *y, int32_t y_stride, float *x,
                       int32_t n_tok)
{
    struct kern *k = f->kern;
    const struct model_params *p = &f->m->p;
    if (!post_norm) {
        struct kern_mat mat = {w->w, bias, x, p->n_embd, true};
        k->ops->matmul(k, 1, &mat, y, y_stride, n_tok);
        return;
    }
    struct kern_mat mat = {w->w, bias, f->h, p->n_embd, false};
    k->ops->matmul(k, 1, &mat, y, y_stride, n_tok);
    k->ops->rmsnorm(k, f->h, f->h, post_norm, n_tok, p->n_embd, p->n_embd, p->post_eps);
    k->ops->add(k, x, f->h, (size_t)n_tok * (size_t)p->n_embd);
}

/* x as a block reads it: normed, but where the model norms only answers (olmo2). */
static const float *block_input(struct forward *f, const struct model_vec *norm, const float *x,
                                int32_t n_tok)
{
    const struct model_params *p = &f->m->p;
    if (!norm->dev)
        return x;
    if (p->layer_norm)
        f->kern->ops->center(f->kern, f->h, x, n_tok, p->n_embd);
    f->kern->ops->rmsnorm(f->kern, f->h, p->layer_norm ? f->h : x, norm->dev, n_tok, p->n_embd,
                          p->n_embd, p->norm_eps);
    return f->h;
}

/* Queries or keys, n channels a token: each head by itself or all together, as the norm is long; of a latent's
 * keys the latent, which comes first. */
static void norm_heads(struct forward *f, float *x, const struct model_vec *norm, int32_t n_tok,
                       int32_t n)
{
    if (!norm->dev)
        return;
    int32_t each = f->latent ? 1 : n / norm->n;
    f->kern->ops->rmsnorm(f->kern, x, x, norm->dev, n_tok * each, norm->n, n / each, f->m->p.norm_eps);
}

/* Queries that grow with their position (model_params.q_growth) do so by a factor that is the same
 * over each stretch of so many tokens. */
static void rotate_queries(struct forward *f, const struct model_layer *l, int32_t n_tok, int32_t pos0)
{
    const struct model_params *p = &f->m->p;
    int32_t n_q = p->n_head * l->head_dim, n = n_tok;
    for (int32_t t = 0; l->rope && t < n_tok; t += n) {
        float *q = f->q + (size_t)t * (size_t)n_q;
        n = n_tok - t;
        if (p->q_growth > 0) {
            int32_t stretch = (pos0 + t) / p->q_growth_tok;
            int32_t left = p->q_growth_tok - (pos0 + t) % p->q_growth_tok;
            n = n < left ? n : left;
            if (stretch > 0)
                f->kern->ops->scale(f->kern, q, (size_t)n * (size_t)n_q, 1 + p->q_growth * logf(1 + (float)stretch));
        }
        f->kern->ops->rope(f->kern, q + l->rope_at, n, p->n_head, l->head_dim, n_q, pos0 + t, l->rope);
    }
}

/* q = Q * in, absorbed where keys are latents, and the gate of attention's answer where there is one: in a
 * matrix of its own, or its rows lie by turns with those of the queries, head by head. */
static void ask(struct forward *f, const struct model_layer *l, const float *in, int32_t n_tok)
{
    const struct model_params *p = &f->m->p;
    int32_t d = l->head_dim, n_q = p->n_head * d, n_mat = 0;
    bool by_head = p->q_gated && !l->q_gate.w;
    if (f->latent) {
        latent_ask(f->latent, l, in, f->q, n_tok);
        return;
    }
    struct kern_mat mats[KERN_MATS] = {{l->q.w, l->q_bias.dev, f->q, n_q, false},
                                       {l->q_gate.w, NULL, f->q_gate, n_q, false}};
    if (!by_head)
        f->kern->ops->matmul(f->kern, l->q_gate.w ? 2 : 1, mats, in, p->n_embd, n_tok);
    for (int32_t i = 0; by_head && i < 2 * p->n_head; i++) {
        mats[n_mat++] = (struct kern_mat){.w = l->q.w,
                                          .dst = (i % 2 ? f->q_gate : f->q) + i / 2 * d,
                                          .dst_stride = n_q,
                                          .row0 = i * d,
                                          .n_row = d};
        if (n_mat == KERN_MATS || i + 1 == 2 * p->n_head) {
            f->kern->ops->matmul(f->kern, n_mat, mats, in, p->n_embd, n_tok);
            n_mat = 0;
        }
    }
}

/* The layer's keys, which stand in k, and its values, in v where they have a matrix of their own, into the
 * cache. A latent is both, and kept once. */
static void write_rows(struct forward *f, const struct model_layer *l, struct kv_line *line, int32_t n_tok)
{
    const struct kern_ops *ops = f->kern->ops;
    const struct model_params *p = &f->m->p;
    int32_t d = l->head_dim, n_kv = l->n_head_kv * d, pos0 = kv_n_tok(line);
    if (p->v_normed)
        ops->rmsnorm(f->kern, f->v, l->v.w ? f->v : f->k, f->ones, n_tok * l->n_head_kv, d, d, p->norm_eps);
    if (!p->norm_rotated)
        norm_heads(f, f->k, &l->k_norm, n_tok, n_kv);
    if (l->rope)
        ops->rope(f->kern, f->k + l->rope_at, n_tok, l->n_head_kv, d, n_kv, pos0, l->rope);
    if (p->norm_rotated)
        norm_heads(f, f->k, &l->k_norm, n_tok, n_kv);
    ops->kv_write(f->kern, kv_layer(line, l->kv), f->k, f->v, n_kv, n_tok, pos0);
    kv_seal(line, l->kv, pos0 + n_tok);
}

/* x += O * attention(in). Keys and values of all n_tok rows are written; queries are answered from row
 * `first` on. Where the layer has no keys of its own, `in` has no rows before that. */
static void attention(struct forward *f, const struct model_layer *l, const float *in, struct kv_line *line,
                      int32_t n_tok, int32_t first)
{
    int32_t layer = l->kv;
    const struct kern_kv *kv = kv_layer(line, layer);
    int32_t pos0 = kv_n_tok(line);
    struct kern *k = f->kern;
    const struct model_params *p = &f->m->p;
    int32_t d = l->head_dim, n_q = p->n_head * d, n_kv = l->n_head_kv * d, n_ask = n_tok - first;
    float *x = f->x + (size_t)first * (size_t)p->n_embd;

    bool own = l->k.w != NULL, together = own && l->v.w && first == 0 && !p->q_gated; /* else queries come later */
    const struct kern_mat mats[] = {
        {l->k.w, l->k_bias.dev, f->k, n_kv, false},
        {l->v.w, l->v_bias.dev, f->v, n_kv, false},
        {l->q.w, l->q_bias.dev, f->q, n_q, false},
    };
    if (own) {
        k->ops->matmul(k, together ? 3 : l->v.w ? 2 : 1, mats, in, p->n_embd, n_tok);
        write_rows(f, l, line, n_tok);
    }
    if (n_ask == 0)
        return;

    if (own)
        in += (size_t)first * (size_t)p->n_embd;
    if (!together)
        ask(f, l, in, n_ask);
    if (!p->norm_rotated)
        norm_heads(f, f->q, &l->q_norm, n_ask, n_q);
    rotate_queries(f, l, n_ask, pos0 + first);
    if (p->norm_rotated)
        norm_heads(f, f->q, &l->q_norm, n_ask, n_q);
    const struct kern_attn attn = {
        .n_tok = n_ask,
        .pos0 = pos0 + first,
        .n_head = p->n_head,
        .q = f->q,
        .out = f->a,
        .lse = kv_watches(line) || l->sinks.dev ? f->lse : NULL,
        .scale = p->attn_scale,
        .softcap = p->attn_softcap,
        .window = l->window,
        .kv = kv,
        /* Free while one token is decoded; a prompt's rows would cost time. */
        .mass = n_tok == 1 && kv_seals(line) ? kv_mass(line, layer) : NULL,
    };
    if (n_tok == 1)
        kv_count_query(line, layer, p->n_head / l->n_head_kv);
    if (f->answer)
        f->answer(f->answer_ctx, l, &attn);
    else
        k->ops->attend(k, &attn);
    if (f->watch && n_tok == 1 && kv_seals(line))
        f->watch(f->watch_ctx, layer, &attn, line);
    if (kv_watches(line))
        kv_watch(line, layer, &attn);
    if (l->sinks.dev)
        k->ops->sink(k, f->a, f->lse, l->sinks.dev, n_ask, p->n_head, d);
    if (p->q_gated)
        k->ops->glu(k, f->a, n_q, f->q_gate, f->a, n_q, n_ask, n_q, KERN_ACT_SIGMOID);
    const float *answer = f->latent ? latent_values(f->latent, l, f->a, n_ask) : f->a;
    add_answer(f, &l->o, l->o_bias.dev, l->attn_post_norm.dev, answer, l->o.n_col, x, n_ask);
}

/* The same of a layer that keeps a state: x += O * what its state answers. */
static void recall(struct forward *f, const struct model_layer *l, const float *in, const struct kv_pass *pass,
                   int32_t n_tok, int32_t first)
{
    size_t row = (size_t)first, width = (size_t)model_out_width(&f->m->p);
    const float *answer = recurrent_run(f->recurrent, l, in, n_tok, pass);
    if (first < n_tok)
        add_answer(f, &l->state_o, NULL, l->attn_post_norm.dev, answer + row * width, (int32_t)width,
                   f->x + row * (size_t)f->m->p.n_embd, n_tok - first);
}

/* What a layer remembers, by its state, by attention, or by both side by side: all read the same. */
static void remember(struct forward *f, int32_t i, struct kv_line *line, const struct kv_pass *pass,
                     int32_t n_tok, int32_t first)
{
    const struct model_layer *l = &f->m->layer[i];
    bool recalls = f->m->p.recurrent[i], attends = f->m->p.attends[i];
    int32_t from = recalls || l->k.w ? 0 : first; /* of whose rows nothing is kept */
    if (from == n_tok || !(recalls || attends))
        return;
    const float *in =
        block_input(f, &l->attn_norm, f->x + (size_t)from * (size_t)f->m->p.n_embd, n_tok - from);
    if (recalls)
        recall(f, l, in, pass, n_tok, first);
    if (attends)
        attention(f, l, in, line, n_tok, first);
}

/* gate = act(Gate * in) * (Up * in); ungated: act(Up * in) * (Up * in) */
static void gate_up(struct forward *f, const struct model_layer *l, const float *in, int32_t n)
{
    int32_t n_ff = l->gate.n_row;
    const struct kern_mat mats[] = {
        {l->gate.w, l->gate_bias.dev, f->gate, n_ff, false},
        {l->up.w, l->up_bias.dev, f->up, n_ff, false},
    };
    bool gated = !f->m->p.ungated;
    f->kern->ops->matmul(f->kern, gated ? 2 : 1, mats, in, f->m->p.n_embd, n);
    f->kern->ops->glu(f->kern, f->gate, n_ff, f->gate, gated ? f->up : f->gate, n_ff, n, n_ff, f->m->p.act);
}

/* Gemma 4's: the layer's network and routed experts read the stream through norms of their own, as the
 * router does; each answer is normed, and their sum, which is added to it. */
static void feed_both(struct forward *f, const struct model_layer *l, float *x, int32_t n)
{
    const struct kern_ops *ops = f->kern->ops;
    int32_t d = f->m->p.n_embd;
    float eps = f->m->p.norm_eps;
    experts_route(f->experts, l, block_input(f, &l->router_norm, x, n), n);
    ops->clear(f->kern, f->mix, sizeof(float) * (size_t)n * (size_t)d);
    experts_run(f->experts, l, block_input(f, &l->experts_norm, x, n), f->mix, n);
    ops->rmsnorm(f->kern, f->mix, f->mix, l->experts_post_norm.dev, n, d, d, eps);
    gate_up(f, l, block_input(f, &l->ffn_norm, x, n), n);
    add_answer(f, &l->down, NULL, l->plain_post_norm.dev, f->gate, l->gate.n_row, f->mix, n);
    ops->rmsnorm(f->kern, f->mix, f->mix, l->ffn_post_norm.dev, n, d, d, eps);
    ops->add(f->kern, x, f->mix, (size_t)n * (size_t)d);
}

/* What routed experts answer, and the one that all share, is normed before it is added to the stream. */
static void feed_normed(struct forward *f, const struct model_layer *l, const float *in, float *x, int32_t n)
{
    const struct kern_ops *ops = f->kern->ops;
    int32_t d = f->m->p.n_embd;
    ops->clear(f->kern, f->mix, sizeof(float) * (size_t)n * (size_t)d);
    experts_route(f->experts, l, in, n);
    experts_run(f->experts, l, in, f->mix, n);
    if (l->gate.n_row > 0) {
        gate_up(f, l, in, n);
        add_answer(f, &l->down, NULL, NULL, f->gate, l->gate.n_row, f->mix, n);
    }
    ops->rmsnorm(f->kern, f->mix, f->mix, l->ffn_post_norm.dev, n, d, d, f->m->p.post_eps);
    ops->add(f->kern, x, f->mix, (size_t)n * (size_t)d);
}

/* x += Down * (act(Gate * norm(x)) * (Up * norm(x))), and what routed experts answer, for rows from
 * `first` on. */
static void feed_forward(struct forward *f, const struct model_layer *l, int32_t n_tok,
                         int32_t first)
{
    const struct model_params *p = &f->m->p;
    int32_t n = n_tok - first;
    float *x = f->x + (size_t)first * (size_t)p->n_embd;
    if (p->experts_apart) {
        feed_both(f, l, x, n);
        return;
    }
    const float *in = p->side_by_side ? f->h + (size_t)first * (size_t)p->n_embd
                                      : block_input(f, &l->ffn_norm, x, n);
    int32_t n_ff = l->gate.n_row;
    if (p->experts_normed && l->router.t) {
        feed_normed(f, l, in, x, n);
        return;
    }
    if (l->router.t) {
        experts_route(f->experts, l, in, n);
        experts_run(f->experts, l, in, x, n);
    }
    if (n_ff == 0)
        return;
    gate_up(f, l, in, n);
    if (l->share.t)
        experts_add_shared(f->experts, l, in, f->gate, x, n);
    else
        add_answer(f, &l->down, l->down_bias.dev, l->ffn_post_norm.dev, f->gate, n_ff, x, n);
}

/* What some models add behind a layer's blocks: its part of the tokens' embeddings, a factor. */
static void finish(struct forward *f, int32_t i, int32_t n_tok, int32_t first)
{
    const struct model_layer *l = &f->m->layer[i];
    int32_t n_embd = f->m->p.n_embd, stride;
    float *x = f->x + (size_t)first * (size_t)n_embd;
    if (f->layer_embed) {
        const float *y = layer_embed_run(f->layer_embed, i, x, first, n_tok, &stride);
        add_answer(f, &l->side_out, NULL, l->side_norm.dev, y, stride, x, n_tok - first);
    }
    if (l->out_scale != 1)
        f->kern->ops->scale(f->kern, x, (size_t)(n_tok - first) * (size_t)n_embd, l->out_scale);
}

/* Ops cannot fail: what went wrong on a device is asked for. It stays so until the model is opened
 * again, so no memory that could be freed would help. */
static enum status check_device(const struct forward *f, struct err *e)
{
    const char *wrong = f->kern->ops->error(f->kern);
    return !wrong ? OK
                  : err_set(e, ERR_INTERNAL,
                            "the GPU failed: %s; open the model again, with a smaller context or "
                            "--backend cpu",
                            wrong);
}

/* Layers from `layer` on, over the residual stream as it stands. */
static enum status run_layers(struct forward *f, struct kv_line *line, int32_t layer,
                              const int32_t *ids, int32_t n_tok, enum forward_want want,
                              bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct err *e)
{
    const struct model *m = f->m;
    struct kv_pass pass = kv_pass(line, n_tok, n_tok > 1 && want != FORWARD_NONE, go_on == NULL);
    for (int32_t i = layer; i < m->p.n_layer; i++) {
        if (go_on && !go_on(ctx, i))
            return err_set(e, ERR_CANCELLED, "cancelled");
        /* From the last layer on that leaves something behind, answers are needed only where somebody will
         * look at them. */
        int32_t first = 0;
        if (i >= f->n_write - 1 && want != FORWARD_ALL && !kv_watches(line))
            first = want == FORWARD_LAST ? n_tok - 1 : n_tok;
        remember(f, i, line, &pass, n_tok, first);
        if (first < n_tok) {
            feed_forward(f, &m->layer[i], n_tok, first);
            finish(f, i, n_tok, first);
        }
    }
    TRY(check_device(f, e));
    kv_commit(line, ids, n_tok);
    kv_evict(line, n_tok > 1 && want != FORWARD_NONE);
    return OK;
}

static void embed(struct forward *f, const int32_t *ids, int32_t n_tok)
{
    if (f->layer_embed)
        layer_embed_look_up(f->layer_embed, ids, n_tok);
    const struct model_params *p = &f->m->p;
    const struct kern_ops *ops = f->kern->ops;
    float scale = p->embed_scale * (1 + f->nudge);
    ops->embed(f->kern, f->m->embed.w, ids, n_tok, p->embed_normed ? 1 : scale, f->x);
    if (p->embed_normed) {
        ops->rmsnorm(f->kern, f->x, f->x, f->ones, n_tok, p->n_embd, p->n_embd, p->norm_eps);
        if (scale != 1)
            ops->scale(f->kern, f->x, (size_t)n_tok * (size_t)p->n_embd, scale);
    }
    if (f->layer_embed)
        layer_embed_begin(f->layer_embed, f->x, n_tok);
}

enum status forward_run(struct forward *f, struct kv_line *line, const int32_t *ids, int32_t n_tok,
                        enum forward_want want, bool (*go_on)(void *ctx, int32_t layer), void *ctx,
                        struct err *e)
{
    assert(n_tok > 0 && n_tok <= f->n_chunk && n_tok <= kv_room(line));
    embed(f, ids, n_tok);
    return run_layers(f, line, 0, ids, n_tok, want, go_on, ctx, e);
}

const float *forward_stream(const struct forward *f)
{
    return f->x;
}

enum status forward_run_from(struct forward *f, struct kv_line *line, int32_t layer,
                             const float *stream, const int32_t *ids, int32_t n_tok,
                             bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct err *e)
{
    assert(n_tok > 0 && n_tok <= f->n_chunk && n_tok <= kv_room(line));
    if (f->layer_embed)
        embed(f, ids, n_tok);
    f->kern->ops->copy(f->kern, f->x, stream,
                       sizeof(float) * (size_t)n_tok * (size_t)f->m->p.n_embd);
    return run_layers(f, line, layer, ids, n_tok, FORWARD_ALL, go_on, ctx, e);
}

enum status forward_head(struct forward *f, int32_t row0, int32_t n_row, const float **ret,
                         struct err *e)
{
    const struct model *m = f->m;
    struct kern *k = f->kern;
    assert(n_row > 0 && n_row <= FORWARD_HEAD_ROWS && row0 >= 0 && row0 + n_row <= f->n_chunk);
    block_input(f, &m->output_norm, f->x + (size_t)row0 * (size_t)m->p.n_embd, n_row);
    struct kern_mat mat = {m->output.w, m->output_bias.dev, f->logits, m->p.n_vocab, false};
    k->ops->matmul(k, 1, &mat, f->h, m->p.n_embd, n_row);
    size_t n = (size_t)n_row * (size_t)m->p.n_vocab;
    if (m->p.logit_softcap > 0)
        k->ops->softcap(k, f->logits, n, m->p.logit_softcap);
    k->ops->download(k, f->host_logits, f->logits, n * sizeof(float));
    TRY(check_device(f, e)); /* the download has waited for all that the layers asked for, too */
    *ret = f->host_logits;
    return OK;
}

enum status forward_step(struct forward *f, struct kv_line *line, int32_t id, const float **ret, struct err *e)
{
    TRY(forward_run(f, line, &id, 1, FORWARD_LAST, NULL, NULL, e));
    return forward_head(f, 0, 1, ret, e);
}
