/* Attention with AVX-512 F, BW, DQ, VL and VNNI: 16 lanes. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/attn_flow.h"

void attn_avx512_attend(struct kern *k, const struct kern_attn *a)
{
    flow_attend(k, a);
}
