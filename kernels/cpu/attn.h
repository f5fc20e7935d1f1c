/* Attention on the CPU: one entry per instruction set, all with the meaning of kern_ops.attend.
 *
 * attn_ref.c is the plain oracle. attn_avx2.c, attn_avx512.c and attn_amx.c compile the same source
 * (attn_flow.h and the files it includes) at 8 lanes, at 16, and at 16 with tile registers.
 *
 * What a row reads, beyond the comment in kernels.h:
 * - Row blocks of kern_block_list are the 64-position blocks: row block i holds the rows of
 *   position block pos0/64 + i. Entries at or above the row's own block minus one are ignored.
 * - A block older than b-1 with neither page nor f16 rows is not there and is not read.
 * - A sliding window hides sinks like any other position.
 * - When block 0 is older than b-1 and not listed, its sinks are still read: from sink_k/sink_v,
 *   or from block 0's own f16 rows when nothing is sealed. Their mass counts for block 0. */
#ifndef KERNELS_CPU_ATTN_H
#define KERNELS_CPU_ATTN_H

#include "kernels/kernels.h"

void attn_ref_attend(struct kern *k, const struct kern_attn *a);
void attn_avx2_attend(struct kern *k, const struct kern_attn *a);
void attn_avx512_attend(struct kern *k, const struct kern_attn *a);
void attn_amx_attend(struct kern *k, const struct kern_attn *a);

#endif
