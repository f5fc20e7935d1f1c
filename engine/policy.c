#include "engine/policy.h"

#include <stdlib.h>

#include "engine/base/mem.h"

struct policy {
    struct sparse *sparse;
    struct select *select;
    float coverage;
};

struct policy *policy_new(struct kern *k, const struct model_params *p, float coverage)
{
    if (coverage >= 1)
        return NULL;
    struct policy *y = mem_calloc(1, sizeof *y);
    const struct sparse_shape shape = {p->n_layer, p->n_head, p->n_head_kv, p->head_dim};
    y->coverage = coverage;
    y->sparse = sparse_new(k, &shape, &(struct sparse_params){.coverage = coverage});
    y->select = select_new(k, &shape, &(struct select_params){.coverage = coverage});
    return y;
}

void policy_free(struct policy *p)
{
    if (!p)
        return;
    sparse_free(p->sparse);
    select_free(p->select);
    free(p);
}

static void answer(void *ctx, int32_t layer, const struct kern_attn *a, bool tail)
{
    struct policy *p = ctx;
    if (a->n_tok == 1)
        select_attend(p->select, layer, a);
    else
        sparse_attend(p->sparse, layer, a, tail);
}

void policy_attach(struct policy *p, struct forward *f)
{
    forward_set_answer(f, p ? answer : NULL, p);
}

void policy_begin(struct policy *p, int32_t answer0)
{
    if (!p)
        return;
    sparse_begin(p->sparse, p->coverage);
    select_begin(p->select, answer0);
}

void policy_report(const struct policy *p, double *ret_density, double *ret_mass)
{
    struct sparse_report r = {.density = 1, .mass_mean = 1};
    if (p)
        sparse_report(p->sparse, &r);
    *ret_density = r.density;
    *ret_mass = r.mass_mean;
}
