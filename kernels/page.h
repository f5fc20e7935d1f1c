/* The page codec: 64 consecutive tokens of one KV head as bit planes (our own format).
 *
 * K after RoPE, per channel over the page (scale and offset f16 per channel); V per token in
 * groups of 64 channels (scale and offset f16 per group). Codes are stored as planes, most
 * significant first, each plane self-contained, so precision is *how many planes are left*:
 * 8 bits = planes of 4+2+2. Dropping the lowest plane and adjusting scale and offset demotes a
 * page in place. The bytes on disk are these bytes. Little-endian. */
#ifndef KERNELS_PAGE_H
#define KERNELS_PAGE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PAGE_TOK = KERN_BLOCK_TOK, PAGE_DEPTHS = 4 };

/* Bits left for a tensor of a page. The plane widths from the top are 2, 2, 2, 2 or as measured;
 * page_planes() tells. Valid depths: 8, 6, 4, 2 and 0 (absent). */
struct page_shape {
    int32_t head_dim; /* 64..256, a multiple of 16 */
    int32_t bits_k, bits_v;
};

#ifdef __cplusplus
}
#endif
#endif
