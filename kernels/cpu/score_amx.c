/* Block scores with AVX-512 and the tile registers of AMX. */
#include "kernels/cpu/score.h"

#define ATTN_AMX 1
#include "kernels/cpu/score_flow.h"

void score_amx(struct kern *k, const struct kern_score *s)
{
    flow_score(k, s);
}
