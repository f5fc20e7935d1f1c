/* Attention with AVX-512 and the tile registers of AMX: where many rows read far back. */
#include "kernels/cpu/attn.h"

#define ATTN_AMX 1
#include "kernels/cpu/attn_flow.h"

void attn_amx_attend(struct kern *k, const struct kern_attn *a)
{
    flow_attend(k, a);
}
