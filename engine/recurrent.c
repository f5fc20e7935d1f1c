#include "engine/recurrent.h"

#include <stdlib.h>

#include "engine/base/mem.h"

struct recurrent {
    const struct model *m;
    struct kern *kern;
    float *mix, *conv;    /* dev [n_chunk, mix width]: before and after the convolution */
    float *gate, *out;    /* dev [n_chunk, out width] */
    float *alpha, *beta;  /* dev [n_chunk, n_state_head]; NULL where nothing asks for them */
};

static int64_t conv_floats(const struct model_params *p)
{
    return (int64_t)(p->n_tap - 1) * model_mix_width(p);
}

int64_t recurrent_state_floats(const struct model_params *p)
{
    return p->n_tap == 0 ? 0 : conv_floats(p) + (int64_t)p->n_state_head * p->state_dim_k * p->state_dim;
}

uint64_t recurrent_bytes(const struct model_params *p, int32_t n_chunk)
{
    uint64_t row = 2 * (uint64_t)model_mix_width(p) + 2 * (uint64_t)model_out_width(p) +
                   (p->selective ? 1 : 2) * (uint64_t)p->n_state_head;
    return p->n_tap == 0 ? 0 : sizeof(float) * row * (uint64_t)n_chunk;
}

struct recurrent *recurrent_new(const struct model *m, int32_t n_chunk)
{
    struct recurrent *r = mem_calloc(1, sizeof *r);
    r->m = m;
    r->kern = m->kern;
    struct {
        float **at;
        int32_t width;
    } bufs[] = {
        {&r->mix, model_mix_width(&m->p)},   {&r->conv, model_mix_width(&m->p)},
        {&r->gate, model_out_width(&m->p)},  {&r->out, model_out_width(&m->p)},
        {&r->alpha, m->p.n_state_head},      {&r->beta, m->p.selective ? 0 : m->p.n_state_head},
    };
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++) {
        if (bufs[i].width == 0)
            continue;
        *bufs[i].at = r->kern->ops->alloc(r->kern, sizeof(float) * (size_t)n_chunk * (size_t)bufs[i].width);
        if (!*bufs[i].at) {
            recurrent_free(r);
            return NULL;
        }
    }
    return r;
}

void recurrent_free(struct recurrent *r)
{
    if (!r)
        return;
    float *dev[] = {r->mix, r->conv, r->gate, r->out, r->alpha, r->beta};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i])
            r->kern->ops->free(r->kern, dev[i]);
    free(r);
}

/* Rows row0.. of the pass, from one state of the layer to another. The convolution reads x. */
static void step(struct recurrent *r, const struct model_layer *l, const float *x, int32_t row0,
                 int32_t n_row, const float *before, float *after)
{
    const struct model_params *p = &r->m->p;
    int32_t width = model_mix_width(p), n_out = model_out_width(p), n_key = p->n_state_head_k * p->state_dim_k;
    float *conv = r->conv + (size_t)row0 * (size_t)width;
    const struct kern_conv c = {
        .n_tok = n_row,
        .n_chan = width,
        .n_tap = p->n_tap,
        .x = x + (size_t)row0 * (size_t)width,
        .weight = l->taps.dev,
        .before = before,
        .after = after,
        .out = conv,
        .silu = p->n_state_head > 0,
        .bias = l->taps_bias.dev,
    };
    r->kern->ops->conv(r->kern, &c);
    if (p->n_state_head == 0)
        return;
    size_t gates = (size_t)row0 * (size_t)p->n_state_head, own = (size_t)row0 * (size_t)n_out;
    before += conv_floats(p);
    after += conv_floats(p);
    if (p->selective) {
        const struct kern_scan s = {
            .n_tok = n_row,
            .n_head = p->n_state_head,
            .n_group = p->n_state_head_k,
            .n_state = p->state_dim_k,
            .head_dim = p->state_dim,
            .x = conv,
            .b = conv + n_out,
            .c = conv + n_out + n_key,
            .stride = width,
            .dt = r->alpha + gates,
            .a = l->decay.dev,
            .dt_bias = l->dt.dev,
            .d = l->skip.dev,
            .before = before,
            .after = after,
            .out = r->out + own,
        };
        r->kern->ops->scan(r->kern, &s);
        return;
    }
    const struct kern_delta d = {
        .n_tok = n_row,
        .n_head = p->n_state_head,
        .n_head_k = p->n_state_head_k,
        .neighbours = p->state_neighbours,
        .head_dim = p->state_dim,
        .q = conv,
        .k = conv + n_key,
        .v = conv + 2 * n_key,
        .stride = width,
        .alpha = r->alpha + gates,
        .beta = r->beta + gates,
        .a = l->decay.dev,
        .dt = l->dt.dev,
        .before = before,
        .after = after,
        .out = r->out + own,
        .eps = p->state_eps,
    };
    r->kern->ops->delta(r->kern, &d);
}

/* All rows of the pass, the state in its middle kept where that is asked for. */
static void steps(struct recurrent *r, const struct model_layer *l, const float *x, int32_t n_tok,
                  const struct kv_pass *pass)
{
    size_t at = (size_t)l->state_at * (size_t)recurrent_state_floats(&r->m->p);
    const float *from = pass->before + at;
    if (pass->n_mid > 0) {
        step(r, l, x, 0, pass->n_mid, from, pass->mid + at);
        from = pass->mid + at;
    }
    step(r, l, x, pass->n_mid, n_tok - pass->n_mid, from, pass->after + at);
}

const float *recurrent_run(struct recurrent *r, const struct model_layer *l, const float *in, int32_t n_tok,
                           const struct kv_pass *pass)
{
    const struct model_params *p = &r->m->p;
    const struct kern_ops *ops = r->kern->ops;
    int32_t width = model_mix_width(p), n_out = model_out_width(p), n_head = p->n_state_head;
    if (n_head == 0) {
        /* The convolution of x times one gate, times the other; `out` holds the first. */
        const struct kern_mat mats[] = {
            {l->mix.w, NULL, r->mix, width, false},
            {l->gate_in.w, NULL, r->out, n_out, false},
            {l->gate_out.w, NULL, r->gate, n_out, false},
        };
        ops->matmul(r->kern, 3, mats, in, p->n_embd, n_tok);
        ops->glu(r->kern, r->out, n_out, r->out, r->mix, n_out, n_tok, n_out, KERN_ACT_NONE);
        steps(r, l, r->out, n_tok, pass);
        ops->glu(r->kern, r->gate, n_out, r->gate, r->conv, n_out, n_tok, n_out, KERN_ACT_NONE);
        return r->gate;
    }
    const struct kern_mat mats[] = {
        {l->mix.w, NULL, r->mix, width, false},
        {l->gate_out.w, NULL, r->gate, n_out, false},
        {l->alpha.w, NULL, r->alpha, n_head, false},
        {l->beta.w, NULL, r->beta, n_head, false},
    };
    ops->matmul(r->kern, p->selective ? 3 : 4, mats, in, p->n_embd, n_tok);
    steps(r, l, r->mix, n_tok, pass);
    if (!p->selective)
        ops->rmsnorm(r->kern, r->out, r->out, l->state_norm.dev, n_tok * n_head, p->state_dim, p->state_dim,
                     p->state_eps);
    ops->glu(r->kern, r->gate, n_out, r->gate, r->out, n_out, n_tok, n_out, KERN_ACT_SILU);
    /* Heads that share keys are normed together, each such group with gains of its own. */
    int32_t n_norm = n_out / p->n_state_head_k;
    for (int32_t g = 0; p->selective && l->state_norm.dev && g < n_out; g += n_norm)
        ops->rmsnorm(r->kern, r->gate + g, r->gate + g, l->state_norm.dev + g, n_tok, n_norm, n_out,
                     p->state_eps);
    return r->gate;
}
