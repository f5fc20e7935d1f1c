/* Types whose codes come from a grid: 8 (or 4) neighbours are one point of a list that the format fixes, with
 * signs apart. Their file layouts, and how they are read: a code is the index of its value in the type's table,
 * as for any other (quant.h). They are read only; finding good points is a quantiser's work. Internal to kernels. */
#ifndef KERNELS_QUANT_IQ_H
#define KERNELS_QUANT_IQ_H

#include "kernels/quant.h"

struct quant_iq2_xxs {
    uint16_t d;
    uint8_t qs[64]; /* per 32 elements 4 points, then 4 x 7 bits of signs and 4 of scale */
} QUANT_PACKED;

struct quant_iq2_xs {
    uint16_t d;
    uint8_t qs[64];    /* per 8 elements 9 bits of point, 7 of signs */
    uint8_t scales[8]; /* 4 bits for each 16 elements */
} QUANT_PACKED;

struct quant_iq2_s {
    uint16_t d;
    uint8_t qs[32], signs[32];
    uint8_t qh[8]; /* per 32 elements 4 x 2 top bits of points */
    uint8_t scales[8];
} QUANT_PACKED;

struct quant_iq3_xxs {
    uint16_t d;
    uint8_t qs[64]; /* points of 4 elements */
    uint8_t ss[32]; /* per 32 elements 4 x 7 bits of signs and 4 of scale */
} QUANT_PACKED;

struct quant_iq3_s {
    uint16_t d;
    uint8_t qs[64];
    uint8_t qh[8]; /* bit i: top bit of the i-th point of 32 elements */
    uint8_t signs[32];
    uint8_t scales[4];
} QUANT_PACKED;

/* Of these two values are -1, 0 or 1, moved by an eighth up or down. */
struct quant_iq1_s {
    uint16_t d;
    uint8_t qs[32];
    uint8_t qh[16]; /* per 32 elements 16 bits: 4 x 3 top bits of points, 3 of scale, 1 = down */
} QUANT_PACKED;

struct quant_iq1_m {
    uint8_t qs[32];
    uint8_t qh[16];    /* per 8 elements 3 top bits of the point, 1 = down */
    uint8_t scales[8]; /* four times 16 bits: 4 x 3 bits of scales for 16 elements each, 4 of d */
} QUANT_PACKED;

/* What codes stand for: magnitudes, then the same below zero; and for the last, -1, 0 and 1 an eighth up, then
 * down. In units of quant_type.unit. */
extern const int8_t quant_iq2_values[16], quant_iq3_xxs_values[16], quant_iq3_s_values[16], quant_iq1_values[16];

/* Points: 8 elements of 2 bits, or 4 of 3, the first lowest. */
extern const uint16_t quant_grid_2_256[256], quant_grid_2_512[512], quant_grid_2_1024[1024];
extern const uint16_t quant_grid_3_256[256], quant_grid_3_512[512];
extern const uint16_t quant_grid_1_2048[2048];

/* quant_unpack for these types. */
void quant_iq_unpack(enum kern_type type, const void *src, struct quant_block *ret);

#endif
