/* Block scores with AVX2, FMA and F16C: 8 lanes. */
#include "kernels/cpu/score.h"
#include "kernels/cpu/score_flow.h"

void score_avx2(struct kern *k, const struct kern_score *s)
{
    flow_score(k, s);
}
