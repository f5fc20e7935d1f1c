/* Blocks of any weight type for tests: quantised, or of types that are only read (quant_iq.h) pseudo-random
 * points and signs under scales of about the right size. */
#ifndef TESTS_SUPPORT_BLOCKS_H
#define TESTS_SUPPORT_BLOCKS_H

#include <stdlib.h>
#include <string.h>

#include "kernels/quant.h"

/* n values like those of x; to be freed. */
static inline uint8_t *blocks_new(enum kern_type type, const float *x, size_t n)
{
    const struct quant_type *t = quant_traits(type);
    size_t n_block = n / (size_t)t->block;
    uint8_t *w = malloc(n_block * (size_t)t->bytes), *b = w;
    if (!w || (!quant_is_grid(t) && !kern_quantise(type, x, w, (int64_t)n)))
        abort();
    if (!quant_is_grid(t))
        return w;
    for (size_t i = 0; i < n_block; i++, x += t->block, b += t->bytes) {
        uint32_t bits[QUANT_BLOCK_MAX];
        memcpy(bits, x, sizeof bits);
        for (int j = 0; j < t->bytes; j++)
            b[j] = (uint8_t)(bits[j] >> 3);
        uint32_t exponent = type == KERN_IQ1_S || type == KERN_IQ1_M ? 6 : 3; /* their values go up to 9 eighths */
        uint32_t d = exponent << 10 | (bits[255] >> 3 & 0x3ff);
        b[0] = type == KERN_IQ1_M ? b[0] : (uint8_t)d;
        b[1] = type == KERN_IQ1_M ? b[1] : (uint8_t)(d >> 8);
        for (int j = 0; type == KERN_IQ1_M && j < 4; j++)
            b[49 + 2 * j] = (uint8_t)((b[49 + 2 * j] & 15) | (d >> 4 * j & 15) << 4);
    }
    return w;
}

#endif
