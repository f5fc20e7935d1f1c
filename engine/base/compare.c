#include "engine/base/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static int32_t largest(const float *x, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

struct compare_row compare_logits(const float *exact, const float *other, int32_t n_vocab,
                                  int32_t next)
{
    int32_t best_p = largest(exact, n_vocab), best_q = largest(other, n_vocab);
    double sum_p = 0, sum_q = 0, moved = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        double p = exp((double)exact[i] - exact[best_p]);
        sum_p += p;
        sum_q += exp((double)other[i] - other[best_q]);
        moved += p * ((double)exact[i] - other[i]);
    }
    double log_p = log(sum_p) + exact[best_p], log_q = log(sum_q) + other[best_q];
    return (struct compare_row){
        .kl = fmax(0, moved / sum_p - log_p + log_q),
        .nll = next >= 0 ? log_q - other[next] : NAN,
        .nll_exact = next >= 0 ? log_p - exact[next] : NAN,
        .same = best_p == best_q,
    };
}

void compare_add(struct compare *c, const struct compare_row *r)
{
    if (c->n == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 1024;
        c->kl = mem_realloc(c->kl, (size_t)c->cap * sizeof *c->kl);
    }
    c->kl[c->n++] = r->kl;
    c->kl_sum += r->kl;
    c->n_same += r->same;
    if (!r->same && !c->first_differs)
        c->first_differs = c->n;
    if (!isnan(r->nll)) {
        c->nll_sum += r->nll;
        c->nll_exact_sum += r->nll_exact;
        c->n_next++;
    }
}

void compare_fini(struct compare *c)
{
    free(c->kl);
    *c = (struct compare){0};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double compare_kl_mean(const struct compare *c)
{
    return c->n ? c->kl_sum / c->n : NAN;
}

double compare_kl_p99(const struct compare *c)
{
    if (!c->n)
        return NAN;
    double *sorted = mem_alloc((size_t)c->n * sizeof *sorted);
    memcpy(sorted, c->kl, (size_t)c->n * sizeof *sorted);
    qsort(sorted, (size_t)c->n, sizeof *sorted, by_value);
    double x = sorted[(int32_t)((c->n - 1) * 0.99)];
    free(sorted);
    return x;
}

double compare_top1(const struct compare *c)
{
    return c->n ? (double)c->n_same / c->n : NAN;
}

double compare_nll(const struct compare *c)
{
    return c->n_next ? c->nll_sum / c->n_next : NAN;
}

double compare_nll_exact(const struct compare *c)
{
    return c->n_next ? c->nll_exact_sum / c->n_next : NAN;
}
