/* Block scores with AVX-512: 16 lanes. */
#include "kernels/cpu/score.h"
#include "kernels/cpu/score_flow.h"

void score_avx512(struct kern *k, const struct kern_score *s)
{
    flow_score(k, s);
}
