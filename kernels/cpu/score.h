/* Block scores on the CPU, one entry per instruction set; the meaning is kernels/score.h's.
 * score_ref.c is the plain oracle; the others compile score_flow.h at 8 and 16 lanes. */
#ifndef KERNELS_CPU_SCORE_H
#define KERNELS_CPU_SCORE_H

#include "kernels/score.h"

enum { SCORE_GROUP_MAX = 256 }; /* query heads per KV head that lanes take */

void score_ref(struct kern *k, const struct kern_score *s);
void score_avx2(struct kern *k, const struct kern_score *s);
void score_avx512(struct kern *k, const struct kern_score *s);
void score_amx(struct kern *k, const struct kern_score *s);

#endif
