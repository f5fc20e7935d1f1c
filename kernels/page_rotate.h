/* page_rotate, compiled for each instruction set and device that seals. Sums and differences only, in one
 * order: the same bits everywhere. */
#ifndef KERNELS_PAGE_ROTATE_H
#define KERNELS_PAGE_ROTATE_H

#include <math.h>
#include <stdint.h>

#ifndef PAGE_ROTATE_FN /* a device has its own */
#define PAGE_ROTATE_FN static inline
#endif

/* The first three steps of eight floats, written out: as loops they stay scalar. */
PAGE_ROTATE_FN void page_rotate_eight(float *y)
{
    float a[8], b[8];
    for (int i = 0; i < 8; i += 2)
        a[i] = y[i] + y[i + 1], a[i + 1] = y[i] - y[i + 1];
    for (int i = 0; i < 8; i += 4)
        for (int j = i; j < i + 2; j++)
            b[j] = a[j] + a[j + 2], b[j + 2] = a[j] - a[j + 2];
    for (int j = 0; j < 4; j++)
        y[j] = b[j] + b[j + 4], y[j + 4] = b[j] - b[j + 4];
}

PAGE_ROTATE_FN void page_rotate_row(float *x, int32_t head_dim)
{
    int32_t n = head_dim & -head_dim; /* largest power of two that divides it: 16 at least */
    float norm = 1.0f / sqrtf((float)n);
    for (float *y = x; y < x + head_dim; y += n) {
        for (int32_t i = 0; i < n; i += 8)
            page_rotate_eight(y + i);
        for (int32_t half = 8; half < n; half *= 2)
            for (int32_t i = 0; i < n; i += 2 * half)
                for (int32_t j = i; j < i + half; j++) {
                    float a = y[j], b = y[j + half];
                    y[j] = a + b;
                    y[j + half] = a - b;
                }
        for (int32_t i = 0; i < n; i++)
            y[i] *= norm;
    }
}

#endif
