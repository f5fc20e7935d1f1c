/* The tile registers of AMX: up to 16 rows of 64 bytes each. In assembly, because gcc 12's
 * intrinsics do not tell the compiler that these instructions read and write memory. The operands
 * named `r` and so on are literal register numbers. A thread configures before the first use and
 * releases after the last, so that switches to other threads stay cheap. */
#ifndef KERNELS_CPU_TILE_REGS_H
#define KERNELS_CPU_TILE_REGS_H

#include <stdint.h>

enum { TILE_REGS = 8 };

struct tile_shape {
    uint8_t rows, bytes; /* bytes of a row; 0, 0: not used */
};

static inline void tile_configure(const struct tile_shape shape[TILE_REGS])
{
    struct {
        uint8_t palette, start_row, zero[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < TILE_REGS; i++) {
        config.bytes[i] = shape[i].bytes;
        config.rows[i] = shape[i].rows;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

#define TILE_TEXT(x) #x
#define TILE_REG(r) "%%tmm" TILE_TEXT(r)
#define TILE_RELEASE() __asm__ volatile("tilerelease" ::: "memory")
#define TILE_ZERO(r) __asm__ volatile("tilezero " TILE_REG(r)::)
/* Row i is at p + i * stride bytes. */
#define TILE_LOAD(r, p, stride)                                                                    \
    __asm__ volatile("tileloadd (%0,%1,1), " TILE_REG(r)::"r"(p), "r"((intptr_t)(stride)) : "memory")
#define TILE_STORE(r, p, stride)                                                                   \
    __asm__ volatile("tilestored " TILE_REG(r) ", (%0,%1,1)" ::"r"(p), "r"((intptr_t)(stride))     \
                     : "memory")
/* sum[m][n] += the sum over k of a[m][k] * b[k / 2][n][k % 2], BF16 with float sums: those of even
 * and of odd k first, each in order, rounded to nearest at every step. */
#define TILE_DOT_BF16(sum, a, b)                                                                   \
    __asm__ volatile("tdpbf16ps " TILE_REG(b) ", " TILE_REG(a) ", " TILE_REG(sum)::)
/* sum[m][n] += the sum over k of a[m][k] * b[k / 4][n][k % 4], signed times unsigned bytes, 32-bit sums. */
#define TILE_DOT_BYTES(sum, a, b)                                                                  \
    __asm__ volatile("tdpbsud " TILE_REG(b) ", " TILE_REG(a) ", " TILE_REG(sum)::)

#endif
