/* Two distributions over the same tokens, one of them the reference: what a compressed cache did to
 * a model's answer. Logits are float [n_vocab]; results are in nats. Pure; any thread. */
#ifndef ENGINE_BASE_COMPARE_H
#define ENGINE_BASE_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

struct compare_row {
    double kl;             /* KL(exact || other), >= 0; exactly 0 when the logits are equal */
    double nll, nll_exact; /* -log p of the token that follows; NAN when there is none */
    bool same;             /* the likeliest token is the same */
};

/* next: the token that follows, or -1. */
struct compare_row compare_logits(const float *exact, const float *other, int32_t n_vocab,
                                  int32_t next);

/* Rows in order of their positions, summed up. Zero-initialise; compare_fini frees. */
struct compare {
    int32_t n, n_same, n_next;
    int32_t first_differs; /* 1 + the first row whose likeliest token differs; 0 = none */
    double kl_sum, nll_sum, nll_exact_sum;
    double *kl; /* [n] */
    int32_t cap;
};
void compare_add(struct compare *c, const struct compare_row *r);
void compare_fini(struct compare *c);
/* NAN while there are no rows. */
double compare_kl_mean(const struct compare *c);
double compare_kl_p99(const struct compare *c);
double compare_top1(const struct compare *c);
double compare_nll(const struct compare *c);
double compare_nll_exact(const struct compare *c);

#endif
