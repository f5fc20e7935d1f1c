#include "engine/experts.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"

struct experts {
    const struct model *m;
    struct kern *kern;
    float *logit; /* dev [n_chunk, n_expert] */
    float *in;    /* dev [n_chunk * n_used, n_embd]: rows by expert; then what the experts answer */
    float *gate, *up; /* dev [n_chunk * n_used, n_ff] */
    /* Host. A slot is one of the n_used choices of a token. */
    float *host_logit; /* [n_chunk, n_expert] */
    int32_t *choice;   /* [n_chunk, n_used] */
    float *weight;     /* [n_chunk, n_used] */
    float *pick;       /* [n_expert]: the layer's pick, then its worth */
    int32_t *row;      /* [n_chunk, n_used]: where a slot's row lies in `in` */
    int32_t *token;    /* [n_chunk * n_used]: whose token a row of `in` is */
    int32_t *end;      /* [n_expert + 1]: rows of expert i end at end[i + 1] */
};

struct sizes {
    size_t logit, slot, in, ff;
};

static struct sizes sizes(const struct model_params *p, int32_t n_chunk)
{
    size_t slot = (size_t)n_chunk * (size_t)p->n_expert_used;
    return (struct sizes){.logit = (size_t)n_chunk * (size_t)p->n_expert,
                          .slot = slot,
                          .in = slot * (size_t)p->n_embd,
                          .ff = slot * (size_t)p->n_ff};
}

uint64_t experts_bytes(const struct model_params *p, int32_t n_chunk)
{
    struct sizes s = sizes(p, n_chunk);
    if (p->n_expert == 0)
        return 0;
    return sizeof(float) * (2 * s.logit + s.in + 2 * s.ff + s.slot + (size_t)p->n_expert) +
           sizeof(int32_t) * (3 * s.slot + (size_t)p->n_expert + 1);
}

struct experts *experts_new(const struct model *m, int32_t n_chunk)
{
    struct experts *x = mem_calloc(1, sizeof *x);
    struct sizes s = sizes(&m->p, n_chunk);
    x->m = m;
    x->kern = m->kern;
    const struct kern_ops *ops = x->kern->ops;
    x->logit = ops->alloc(x->kern, sizeof(float) * s.logit);
    x->in = ops->alloc(x->kern, sizeof(float) * s.in);
    x->gate = ops->alloc(x->kern, sizeof(float) * s.ff);
    x->up = ops->alloc(x->kern, sizeof(float) * s.ff);
    x->host_logit = mem_try(sizeof(float) * s.logit);
    x->choice = mem_try(sizeof(int32_t) * s.slot);
    x->weight = mem_try(sizeof(float) * s.slot);
    x->pick = mem_try(sizeof(float) * (size_t)m->p.n_expert);
    x->row = mem_try(sizeof(int32_t) * s.slot);
    x->token = mem_try(sizeof(int32_t) * s.slot);
    x->end = mem_try(sizeof(int32_t) * ((size_t)m->p.n_expert + 1));
    if (x->logit && x->in && x->gate && x->up && x->host_logit && x->choice && x->weight &&
        x->pick && x->row && x->token && x->end)
        return x;
    experts_free(x);
    return NULL;
}

void experts_free(struct experts *x)
{
    if (!x)
        return;
    float *dev[] = {x->logit, x->in, x->gate, x->up};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i])
            x->kern->ops->free(x->kern, dev[i]);
    free(x->host_logit);
    free(x->choice);
    free(x->weight);
    free(x->pick);
    free(x->row);
    free(x->token);
    free(x->end);
    free(x);
}

/* An expert's weight, before those of the chosen are made to sum to one. */
static double weight_of(const struct model_params *p, double logit, double top, double sum)
{
    return p->expert_sigmoid ? 1 / (1 + exp(-logit)) : exp(logit - top) / sum;
}

/* The groups whose experts may be chosen, a bit for each: those whose two best together are best (DeepSeek 3). */
static uint64_t best_groups(const struct model_params *p, const float *logit, const float *pick, double top,
                            double all)
{
    float score[MODEL_EXPERT_GROUPS];
    uint64_t chosen = 0;
    int32_t n = p->n_expert / p->n_expert_group;
    for (int32_t g = 0; g < p->n_expert_group; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int32_t e = g * n; e < (g + 1) * n; e++) {
            float v = (float)weight_of(p, logit[e], top, all) + (pick ? pick[e] : 0);
            second = v > first ? first : v > second ? v : second;
            first = v > first ? v : first;
        }
        score[g] = first + second;
    }
    for (int32_t i = 0; i < p->n_group_used; i++) {
        int32_t best = -1;
        for (int32_t g = 0; g < p->n_expert_group; g++)
            if (!(chosen >> g & 1) && (best < 0 || score[g] > score[best]))
                best = g;
        chosen |= 1ull << best;
    }
    return chosen;
}

void experts_choose(const struct model_params *p, const float *logit, const float *pick,
                    int32_t *ret_expert, float *ret_weight)
{
    const double least_sum = 0x1p-14; /* sigmoids may all be next to nothing */
    double top = -INFINITY, all = 0, chosen = 0;
    for (int32_t e = 0; e < p->n_expert; e++)
        top = logit[e] > top ? logit[e] : top;
    /* Where the chosen are made to sum to one, and only logits choose, the sum over all is nothing
     * to anybody. */
    bool grouped = p->n_expert_group > 0;
    bool sums = !p->expert_sigmoid && (pick || grouped || !p->expert_norm);
    for (int32_t e = 0; e < p->n_expert && sums; e++)
        all += exp(logit[e] - top);
    all = sums ? all : 1;
    /* Inserted one by one: n_used is small. Scores that are no numbers count as the least, so that
     * whatever a file computes, n_used different experts come out. */
    int32_t n_in = 0, n_used = p->n_expert_used, each = grouped ? p->n_expert / p->n_expert_group : p->n_expert;
    uint64_t groups = grouped ? best_groups(p, logit, pick, top, all) : 1;
    for (int32_t e = 0; e < p->n_expert; e++) {
        if (!(groups >> e / each & 1))
            continue;
        float v = pick ? (float)weight_of(p, logit[e], top, all) + pick[e] : logit[e];
        v = v == v ? v : -INFINITY;
        int32_t at = n_in;
        while (at > 0 && ret_weight[at - 1] < v)
            at--;
        if (at == n_used)
            continue;
        n_in += n_in < n_used;
        for (int32_t j = n_in - 1; j > at; j--) {
            ret_expert[j] = ret_expert[j - 1];
            ret_weight[j] = ret_weight[j - 1];
        }
        ret_expert[at] = e;
        ret_weight[at] = v;
    }
    for (int32_t j = 0; j < n_used; j++)
        chosen += weight_of(p, logit[ret_expert[j]], top, all);
    double scale = p->expert_scale / (p->expert_norm ? fmax(chosen, least_sum) : 1);
    for (int32_t j = 0; j < n_used; j++)
        ret_weight[j] = (float)(weight_of(p, logit[ret_expert[j]], top, all) * scale);
}

/* Puts the slots in the order of their experts, tokens ascending. */
static void sort(struct experts *x, int32_t n_tok)
{
    const struct model_params *p = &x->m->p;
    int32_t n_slot = n_tok * p->n_expert_used, sum = 0;
    for (int32_t e = 0; e <= p->n_expert; e++)
        x->end[e] = 0;
    for (int32_t i = 0; i < n_slot; i++)
        x->end[x->choice[i] + 1]++;
    for (int32_t e = 0; e < p->n_expert; e++) {
        int32_t n = x->end[e + 1];
        x->end[e + 1] = sum; /* where the next row of e goes; in the end, where they end */
        sum += n;
    }
    for (int32_t i = 0; i < n_slot; i++) {
        x->row[i] = x->end[x->choice[i] + 1]++;
        x->token[x->row[i]] = i / p->n_expert_used;
    }
}

static const float *bias_of(const struct model_vec *v, int32_t expert, int32_t n)
{
    return v->dev ? v->dev + (size_t)expert * (size_t)n : NULL;
}

/* The products of an expert for the rows from row0 on. */
static int put_gate_up(struct experts *x, const struct model_layer *l, int32_t expert, int32_t row0,
                       struct kern_mat *mats)
{
    bool gated = !x->m->p.ungated, one = gated && !l->ups.w; /* both in one matrix */
    int32_t n_ff = x->m->p.n_ff, first = expert * (one ? 2 * n_ff : n_ff);
    size_t at = (size_t)row0 * (size_t)n_ff;
    mats[0] = (struct kern_mat){.w = l->gates.w,
                                .bias = bias_of(&l->gates_bias, expert, n_ff),
                                .dst = x->gate + at,
                                .dst_stride = n_ff,
                                .row0 = first,
                                .n_row = n_ff};
    if (!gated)
        return 1;
    mats[1] = (struct kern_mat){.w = one ? l->gates.w : l->ups.w,
                                .bias = bias_of(&l->ups_bias, expert, n_ff),
                                .dst = x->up + at,
                                .dst_stride = n_ff,
                                .row0 = one ? first + n_ff : first,
                                .n_row = n_ff};
    return 2;
}

void experts_route(struct experts *x, const struct model_layer *l, const float *in, int32_t n_tok)
{
    const struct model_params *p = &x->m->p;
    struct kern *k = x->kern;
    int32_t n_used = p->n_expert_used;
    const struct kern_mat router = {
        .w = l->router.w, .bias = l->router_bias.dev, .dst = x->logit, .dst_stride = p->n_expert};
    k->ops->matmul(k, 1, &router, in, p->n_embd, n_tok);
    k->ops->download(k, x->host_logit, x->logit,
                     sizeof(float) * (size_t)n_tok * (size_t)p->n_expert);
    if (l->pick.t)
        kern_dequantise(l->pick.t->type, l->pick.t->data, x->pick, p->n_expert);
    for (int32_t t = 0; t < n_tok; t++)
        experts_choose(p, x->host_logit + (size_t)t * (size_t)p->n_expert,
                       l->pick.t ? x->pick : NULL, x->choice + t * n_used, x->weight + t * n_used);
    if (l->worth.t) {
        kern_dequantise(l->worth.t->type, l->worth.t->data, x->pick, p->n_expert);
        for (int32_t i = 0; i < n_tok * n_used; i++)
            x->weight[i] *= x->pick[x->choice[i]];
    }
    sort(x, n_tok);
}

void experts_run(struct experts *x, const struct model_layer *l, const float *in, float *stream,
                 int32_t n_tok)
{
    const struct model_params *p = &x->m->p;
    struct kern *k = x->kern;
    int32_t d = p->n_embd, n_ff = p->n_ff, n_used = p->n_expert_used;
    struct kern_mat mats[KERN_MATS];
    if (n_tok == 1) { /* all experts read the same row: as many products as possible at once */
        int n_mat = 0;
        for (int32_t j = 0; j < n_used; j++) {
            n_mat += put_gate_up(x, l, x->choice[j], x->row[j], mats + n_mat);
            if (n_mat == KERN_MATS || j == n_used - 1) {
                k->ops->matmul(k, n_mat, mats, in, d, 1);
                n_mat = 0;
            }
        }
    } else {
        k->ops->take_rows(k, x->in, in, x->token, n_tok * n_used, d);
        for (int32_t e = 0; e < p->n_expert; e++) {
            int32_t row0 = x->end[e], n = x->end[e + 1] - row0;
            if (n > 0)
                k->ops->matmul(k, put_gate_up(x, l, e, row0, mats), mats,
                               x->in + (size_t)row0 * (size_t)d, d, n);
        }
    }
    k->ops->glu(k, x->gate, n_ff, x->gate, p->ungated ? x->gate : x->up, n_ff, n_tok * n_used, n_ff, p->act);
    for (int32_t e = 0; e < p->n_expert; e++) {
        int32_t row0 = x->end[e], n = x->end[e + 1] - row0;
        const struct kern_mat down = {.w = l->downs.w,
                                      .bias = bias_of(&l->downs_bias, e, d),
                                      .dst = x->in + (size_t)row0 * (size_t)d,
                                      .dst_stride = d,
                                      .row0 = e * d,
                                      .n_row = d};
        if (n > 0)
            k->ops->matmul(k, 1, &down, x->gate + (size_t)row0 * (size_t)n_ff, n_ff, n);
    }
    k->ops->add_rows(k, stream, x->in, x->row, x->weight, n_tok, n_used, d);
}

void experts_add_shared(struct experts *x, const struct model_layer *l, const float *in,
                        const float *mid, float *stream, int32_t n_tok)
{
    struct kern *k = x->kern;
    int32_t d = x->m->p.n_embd;
    const struct kern_mat share = {.w = l->share.w, .dst = x->logit, .dst_stride = 1};
    const struct kern_mat down = {.w = l->down.w, .dst = x->in, .dst_stride = d};
    k->ops->matmul(k, 1, &share, in, d, n_tok);
    k->ops->matmul(k, 1, &down, mid, l->down.n_col, n_tok);
    k->ops->download(k, x->host_logit, x->logit, sizeof(float) * (size_t)n_tok);
    for (int32_t t = 0; t < n_tok; t++) {
        x->row[t] = t;
        x->weight[t] = 1 / (1 + expf(-x->host_logit[t]));
    }
    k->ops->add_rows(k, stream, x->in, x->row, x->weight, n_tok, 1, d);
}
