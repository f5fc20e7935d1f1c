#include "engine/witness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/kv_impl.h"
#include "engine/ledger.h"

struct witness {
    struct kern *k;
    int32_t n_layer, n_head_kv; /* layers of the cache; most heads of one */
    size_t n_out;               /* most floats of one row of answers */
    float *out;   /* dev [n_out] */
    float *host[2];
    struct kern_kv_block *table; /* of one layer, [head][its n_block_cap] */
    float *mass;
    int32_t cap;

    int64_t timeline;
    int32_t n_step, layer; /* steps seen; the layer looked at in this one, -1 = none */
    int32_t n;             /* answers compared; sums over them: */
    double error, predicted;
    double at_s;
};

struct witness *witness_new(struct kern *k, int32_t n_head, const struct kv_shape *s)
{
    struct witness *w = mem_calloc(1, sizeof *w);
    w->k = k;
    w->n_layer = s->n_layer;
    for (int32_t i = 0; i < s->n_layer; i++) {
        size_t n_out = (size_t)n_head * (size_t)s->heads[i].dim;
        w->n_out = w->n_out > n_out ? w->n_out : n_out;
        w->n_head_kv = w->n_head_kv > s->heads[i].n ? w->n_head_kv : s->heads[i].n;
    }
    w->out = k->ops->alloc(k, w->n_out * sizeof(float));
    for (int i = 0; i < 2; i++)
        w->host[i] = mem_alloc(w->n_out * sizeof(float));
    w->timeline = INT64_MIN;
    w->layer = -1;
    if (!w->out) {
        witness_free(w);
        return NULL;
    }
    return w;
}

void witness_free(struct witness *w)
{
    if (!w)
        return;
    if (w->out)
        w->k->ops->free(w->k, w->out);
    free(w->host[0]);
    free(w->host[1]);
    free(w->table);
    free(w->mass);
    free(w);
}

void witness_begin(struct witness *w, int64_t timeline)
{
    if (!w || w->timeline == timeline)
        return;
    w->timeline = timeline;
    w->n_step = w->n = 0;
    w->error = w->predicted = 0;
}

static bool usable(const struct kv_line *l, int32_t j, int32_t layer, int32_t end)
{
    const struct kv_block *b = l->block[j];
    return j < end && b->sealed && b->exact && b->exact_layer == layer;
}

/* The next layer, in turn, of which exact rows are at hand; -1 = none. */
static int32_t next_layer(const struct witness *w, const struct kv_line *l)
{
    int32_t end = kv_sealed_end(l->n_tok + 1), n = w->n_layer;
    for (int32_t i = 0; i < n; i++) {
        int32_t layer = (w->n_step / WITNESS_EVERY + i) % n;
        for (int32_t j = 0; j < end; j++)
            if (usable(l, j, layer, end))
                return layer;
    }
    return -1;
}

/* The layer's table with exact rows where they are at hand. */
static struct kern_kv exact_view(struct witness *w, const struct kv_line *l, int32_t layer)
{
    struct kern_kv kv = *kv_layer(l, layer);
    size_t n = (size_t)kv.n_head_kv * (size_t)kv.n_block_cap;
    size_t head = (size_t)KERN_BLOCK_TOK * (size_t)kv.head_dim;
    int32_t end = kv_sealed_end(l->n_tok + 1);
    if (w->cap < kv.n_block_cap) {
        w->cap = kv.n_block_cap;
        size_t most = (size_t)w->n_head_kv * (size_t)w->cap;
        w->table = mem_realloc(w->table, most * sizeof *w->table);
        w->mass = mem_realloc(w->mass, most * sizeof *w->mass);
    }
    memcpy(w->table, kv.block, n * sizeof *w->table);
    memset(w->mass, 0, n * sizeof *w->mass);
    for (int32_t j = 0; j < end; j++)
        for (int32_t h = 0; h < kv.n_head_kv && usable(l, j, layer, end); h++) {
            uint16_t *rows = (uint16_t *)(void *)l->block[j]->exact + (size_t)h * head;
            w->table[(size_t)h * (size_t)kv.n_block_cap + (size_t)j] =
                (struct kern_kv_block){.k = rows, .v = kv.n_latent ? NULL : rows + (size_t)kv.n_head_kv * head};
        }
    kv.block = w->table;
    kv.stamp = 0; /* a table of its own, another each time */
    return kv;
}

/* The ledger's price of the pages that were looked at, for this query. */
static double predicted(const struct witness *w, const struct kv_line *l, int32_t layer,
                        int32_t group)
{
    double sum = 0;
    const struct kv_heads *of = &l->pool->shape.heads[layer];
    int32_t end = kv_sealed_end(l->n_tok + 1);
    int32_t cap = kv_layer(l, layer)->n_block_cap;
    for (int32_t j = 0; j < end; j++)
        for (int32_t h = 0; h < of->n && usable(l, j, layer, end); h++)
            sum += w->mass[(size_t)h * (size_t)cap + (size_t)j] / group *
                   ledger_page_error(l->block[j]->page[of->first + h]);
    return sum / of->n;
}

void witness_look(void *ctx, int32_t layer, const struct kern_attn *a, struct kv_line *l)
{
    struct witness *w = ctx;
    if (layer == 0)
        w->layer = w->n_step++ % WITNESS_EVERY == 0 ? next_layer(w, l) : -1;
    if (layer != w->layer || a->n_tok != 1)
        return;
    size_t n_out = (size_t)a->n_head * (size_t)a->kv->head_dim;
    struct kern_kv view = exact_view(w, l, layer);
    struct kern_attn again = *a;
    again.out = w->out;
    again.lse = again.mass = NULL;
    again.list = NULL;
    for (int i = 0; i < 2; i++) {
        if (i) {
            again.kv = &view;
            again.mass = w->mass;
        }
        w->k->ops->attend(w->k, &again);
        w->k->ops->download(w->k, w->host[i], w->out, n_out * sizeof(float));
    }
    w->k->ops->sync(w->k); /* masses */
    double off = 0, all = 0;
    for (size_t i = 0; i < n_out; i++) {
        double d = (double)w->host[0][i] - w->host[1][i];
        off += d * d;
        all += (double)w->host[1][i] * w->host[1][i];
    }
    if (!(all > 0) || !isfinite(off))
        return;
    w->at_s = clock_s();
    w->error += sqrt(off / all);
    w->predicted += predicted(w, l, layer, a->n_head / a->kv->n_head_kv);
    w->n++;
}

void witness_report(const struct witness *w, int64_t timeline, struct stats *s)
{
    if (!w || w->timeline != timeline || w->n == 0)
        return;
    s->step_n = w->n;
    s->step_at_s = w->at_s;
    s->step_error = w->error / w->n;
    s->harm_measured = w->predicted > 0 ? s->harm_predicted * w->error / w->predicted : NAN;
}
