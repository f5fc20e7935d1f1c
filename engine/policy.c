#include "engine/policy.h"

#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"

struct policy {
    struct kern *k;
    struct sparse_shape shape;
    struct forward *f;
    struct sparse_params prefill;
    struct select_params decode;
    struct sparse *sparse; /* made when first needed */
    struct select *select;
    int32_t answer0;
    bool on; /* this turn */
};

/* Sliding layers, whose heads may be others, always answer densely. */
static struct sparse_shape shape_of(const struct model_params *p)
{
    return (struct sparse_shape){p->n_layer_attn, p->n_head, p->n_head_kv, p->head_dim};
}

uint64_t policy_bytes(const struct model_params *p, const struct preset *preset, int32_t n_tok,
                      int32_t n_chunk)
{
    struct sparse_shape s = shape_of(p);
    return sparse_bytes(&s, &preset->prefill, n_tok, n_chunk) + select_bytes(&s, n_tok);
}

struct policy *policy_new(struct kern *k, const struct model_params *p, struct forward *f,
                          const struct preset *preset, int32_t sparse_from)
{
    struct policy *y = mem_calloc(1, sizeof *y);
    y->k = k;
    y->shape = shape_of(p);
    y->f = f;
    y->prefill = (struct sparse_params){
        .coverage = 1, .n_min = sparse_from, .always = sparse_from > 0, .method = preset->prefill};
    y->decode = (struct select_params){.n_min = sparse_from, .method = preset->decode};
    return y;
}

void policy_free(struct policy *p)
{
    if (!p)
        return;
    forward_set_answer(p->f, NULL, NULL);
    sparse_free(p->sparse);
    select_free(p->select);
    free(p);
}

static void answer(void *ctx, const struct model_layer *l, const struct kern_attn *a)
{
    struct policy *p = ctx;
    int32_t layer = l->attn_at;
    int32_t end = a->pos0 + a->n_tok;
    if (a->n_tok == 1 && end > p->answer0) {
        select_attend(p->select, layer, a);
        return;
    }
    sparse_attend(p->sparse, layer, a, p->answer0);
    if (end == p->answer0)
        select_observe(p->select, layer, a);
}

void policy_begin(struct policy *p, float coverage, int32_t answer0)
{
    p->on = coverage < 1 || p->prefill.method.score != PREFILL_CAP || p->decode.method.share > 0;
    forward_set_answer(p->f, p->on ? answer : NULL, p);
    p->answer0 = answer0;
    if (!p->on)
        return;
    if (!p->sparse) {
        p->sparse = sparse_new(p->k, &p->shape, &p->prefill);
        p->select = select_new(p->k, &p->shape, &p->decode);
    }
    sparse_begin(p->sparse, coverage);
    select_begin(p->select, coverage, answer0);
}

void policy_report(const struct policy *p, struct stats *s)
{
    struct sparse_report r = {.density = 1,
                              .mass_mean = 1,
                              .mass_p5 = 1,
                              .mass_worst = NAN,
                              .worst_layer = -1,
                              .worst_head = -1,
                              .error_mean = NAN,
                              .correction = NAN,
                              .gain_predicted = NAN,
                              .gain_measured = NAN,
                              .reason = SPARSE_OFF};
    struct select_report d = {.density = 1, .mass_mean = 1};
    if (p->on) {
        sparse_report(p->sparse, &r);
        select_report(p->select, &d);
    }
    s->sparse_reason = sparse_reason_text(r.reason);
    s->density = r.density;
    s->retained_mass = r.mass_mean;
    s->mass_p5 = r.mass_p5;
    s->mass_worst = r.mass_worst;
    s->worst_layer = r.worst_layer;
    s->worst_head = r.worst_head;
    s->output_error = r.error_mean;
    s->correction = r.correction;
    s->gain_predicted = r.gain_predicted;
    s->gain_measured = r.gain_measured;
    s->decode_density = d.density;
    s->decode_mass = d.mass_mean;
    s->n_layer = p->shape.n_layer < STATS_LAYERS ? p->shape.n_layer : STATS_LAYERS;
    for (int32_t i = 0; i < s->n_layer; i++) {
        double density = 1, mass = 1;
        if (p->on)
            sparse_report_layer(p->sparse, i, &density, &mass);
        s->layer_density[i] = (float)density;
        s->layer_mass[i] = (float)mass;
    }
}
