/* Attention with AVX2, FMA and F16C: 8 lanes. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_flow.h"

void attn_avx2_attend(struct kern *k, const struct kern_attn *a)
{
    flow_attend(k, a);
}
