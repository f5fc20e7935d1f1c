/* The ops of layers that keep a state, plainly: the oracle for the fast versions. Sums run in double, the
 * states between two tokens are float32, as they are kept. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/ops.h"

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double softplus(double x)
{
    return x > 30 ? x : log1p(exp(x));
}

/* Row t of the rows before and then those of x; t from 0 on. */
static const float *conv_row(const struct kern_conv *c, int32_t t)
{
    int32_t n_before = c->n_tap - 1;
    return t < n_before ? c->before + (size_t)t * c->n_chan : c->x + (size_t)(t - n_before) * c->n_chan;
}

void ref_conv(struct kern *k, const struct kern_conv *c)
{
    assert(c->n_tap >= 2 && c->n_tap <= KERN_CONV_TAPS && c->n_tok > 0);
    for (int32_t t = 0; t < c->n_tok; t++)
        for (int32_t i = 0; i < c->n_chan; i++) {
            double sum = c->bias ? c->bias[i] : 0;
            for (int32_t j = 0; j < c->n_tap; j++)
                sum += (double)c->weight[(size_t)j * c->n_chan + i] * conv_row(c, t + j)[i];
            c->out[(size_t)t * c->n_chan + i] = (float)(c->silu ? sum * sigmoid(sum) : sum);
        }
    for (int32_t j = 0; j < c->n_tap - 1; j++) /* upwards, for the same place */
        memmove(c->after + (size_t)j * c->n_chan, conv_row(c, c->n_tok + j),
               (size_t)c->n_chan * sizeof *c->after);
}

/* What makes x one long. */
static double inverse_length(const float *x, int32_t n, float eps)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(sum + eps);
}

/* One head and one token: s is the state. */
static void delta_step(const struct kern_delta *d, int32_t t, int32_t h, float *s)
{
    int32_t n = d->head_dim, gate = t * d->n_head + h;
    size_t from = (size_t)t * d->stride + (size_t)kern_delta_key(d, h) * n;
    const float *q = d->q + from, *key = d->k + from;
    const float *v = d->v + (size_t)t * d->stride + (size_t)h * n;
    float *out = d->out + ((size_t)t * d->n_head + h) * n;
    double decay = exp(d->a[h] * softplus((double)d->alpha[gate] + d->dt[h])), share = sigmoid(d->beta[gate]);
    double q_scale = inverse_length(q, n, d->eps) / sqrt(n), k_scale = inverse_length(key, n, d->eps);
    for (int32_t j = 0; j < n; j++) {
        double seen = 0, sum = 0;
        for (int32_t i = 0; i < n; i++)
            seen += k_scale * key[i] * decay * s[(size_t)i * n + j];
        for (int32_t i = 0; i < n; i++) {
            float *at = &s[(size_t)i * n + j];
            *at = (float)(decay * *at + k_scale * key[i] * share * (v[j] - seen));
            sum += q_scale * q[i] * *at;
        }
        out[j] = (float)sum;
    }
}

void ref_delta(struct kern *k, const struct kern_delta *d)
{
    size_t n = (size_t)d->head_dim * (size_t)d->head_dim;
    assert(d->n_tok > 0 && d->head_dim % 16 == 0 && d->head_dim <= 256);
    memmove(d->after, d->before, (size_t)d->n_head * n * sizeof *d->after);
    for (int32_t h = 0; h < d->n_head; h++)
        for (int32_t t = 0; t < d->n_tok; t++)
            delta_step(d, t, h, d->after + (size_t)h * n);
}

void ref_scan(struct kern *k, const struct kern_scan *s)
{
    size_t n = (size_t)s->n_state * (size_t)s->head_dim;
    assert(s->n_tok > 0 && s->n_head % s->n_group == 0);
    memmove(s->after, s->before, (size_t)s->n_head * n * sizeof *s->after);
    for (int32_t h = 0; h < s->n_head; h++)
        for (int32_t t = 0; t < s->n_tok; t++) {
            size_t row = (size_t)t * s->stride, group = row + (size_t)(h / (s->n_head / s->n_group)) * s->n_state;
            size_t own = row + (size_t)h * s->head_dim, gate = (size_t)t * s->n_head + h;
            double step = softplus((double)s->dt[gate] + s->dt_bias[h]), decay = exp(s->a[h] * step);
            for (int32_t j = 0; j < s->head_dim; j++) {
                double x = s->x[own + j], sum = s->d[h] * x;
                for (int32_t i = 0; i < s->n_state; i++) {
                    float *at = &s->after[(size_t)h * n + (size_t)i * s->head_dim + j];
                    *at = (float)(decay * *at + s->b[group + i] * step * x);
                    sum += (double)s->c[group + i] * *at;
                }
                s->out[gate * s->head_dim + j] = (float)sum;
            }
        }
}
