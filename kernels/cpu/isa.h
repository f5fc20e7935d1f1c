/* What the processor can do, and how many cores are ours. Internal to kernels/. */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

enum isa {
    ISA_REF,   /* plain C */
    ISA_AVX2,  /* AVX2, FMA, F16C */
    ISA_AVX512, /* AVX-512 F, BW, DQ, VL, VNNI */
    ISA_AMX     /* and the tile registers: AMX-TILE, INT8, BF16 */
};

/* The most that processor and system allow. Asks the system for the tile registers where there are
 * any: from then on every thread may use them. */
enum isa isa_best(void);

/* Physical cores this process may use: the affinity mask with one logical processor per core, no
 * more than the cgroup's CPU quota; at least 1. */
int32_t isa_cores(void);

#endif
