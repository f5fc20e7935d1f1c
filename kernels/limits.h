/* What this machine can do at best, measured by running nothing but that: the yardstick of the
 * benchmarks. Takes about half a second; the numbers move with what else the machine does. */
#ifndef KERNELS_LIMITS_H
#define KERNELS_LIMITS_H

#include "kernels/kernels.h"

struct limits {
    double read_gbps; /* reading 256 MiB from memory, all threads of k */
    double int8_gops; /* 8-bit multiply-adds in registers, two operations each; NAN = unknown here */
};

/* int8_gops is NAN on a device. Returns false when memory for the array cannot be had. */
bool limits_measure(struct kern *k, struct limits *ret);

#endif
