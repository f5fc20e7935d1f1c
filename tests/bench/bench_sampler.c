/* What choosing a token takes: the whole vocabulary of a Qwen model, with and without top-k.
 *
 * usage: bench_sampler
 * Milliseconds of a pick and its acceptance, the best of several repeats. */
#include "engine/base/clock.h"
#include "engine/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_VOCAB = 151936, N_PICK = 50, REPEATS = 5 };

int main(void)
{
    float *logits = malloc(N_VOCAB * sizeof *logits);
    uint32_t s = 1;
    if (!logits)
        return 1;
    for (int i = 0; i < N_VOCAB; i++) /* most far below a few */
        logits[i] = (float)((s = s * 1664525u + 1013904223u) >> 8) / (float)(1 << 24) * 8 - 12 +
                    (i % 5000 == 7 ? 10 : 0);
    for (int k = 0; k <= 40; k += 40) {
        struct engine_sampling p = {.temp = 0.8f, .top_k = k, .top_p = 0.95f, .min_p = 0.05f,
                                    .repeat_penalty = 1.1f, .repeat_last_n = 64, .seed = 7};
        double best = INFINITY;
        for (int r = 0; r < REPEATS; r++) {
            struct sampler *sampler = sampler_new(N_VOCAB, &p);
            double t = clock_s();
            for (int i = 0; i < N_PICK; i++)
                sampler_accept(sampler, sampler_pick(sampler, logits));
            best = fmin(best, clock_s() - t);
            sampler_free(sampler);
        }
        printf("top_k %2d: %.3f ms\n", k, best / N_PICK * 1e3);
    }
    free(logits);
    return 0;
}
