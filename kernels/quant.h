/* Block layouts of the weight types, as the GGUF format fixes them, and one common reading of
 * them. Little-endian; f16 fields are raw bits. Blocks of a file may lie at any address: the
 * structs are packed.
 *
 * Every block type is the same thing: codes of `bits` bits, a scale per group of 16 or 32
 * elements, sometimes a minimum. With code c of group g:
 *     value = d * scale[g] * (c - offset) - dmin * min[g]        (types with a table: table[c] for c)
 */
#ifndef KERNELS_QUANT_H
#define KERNELS_QUANT_H

#include "kernels/kernels.h"

#define QUANT_PACKED __attribute__((packed))

#ifdef __cplusplus
extern "C" {
#endif

struct quant_q4_0 {
    uint16_t d;
    uint8_t qs[16]; /* low nibbles: elements 0..15, high nibbles: 16..31 */
} QUANT_PACKED;

struct quant_q4_1 {
    uint16_t d, m;
    uint8_t qs[16];
} QUANT_PACKED;

struct quant_q5_0 {
    uint16_t d;
    uint8_t qh[4]; /* bit i: fifth bit of element i */
    uint8_t qs[16];
} QUANT_PACKED;

struct quant_q5_1 {
    uint16_t d, m;
    uint8_t qh[4];
    uint8_t qs[16];
} QUANT_PACKED;

struct quant_q8_0 {
    uint16_t d;
    int8_t qs[32];
} QUANT_PACKED;

struct quant_q2_k {
    uint8_t scales[16]; /* low nibble scale, high nibble min, of 16 elements */
    uint8_t qs[64];     /* per 128 elements 32 bytes; bits 2j, 2j+1: elements 32j.. */
    uint16_t d, dmin;
} QUANT_PACKED;

struct quant_q3_k {
    uint8_t hmask[32]; /* bit j of byte i: third bit of element 32j + i */
    uint8_t qs[64];    /* as in q2_k */
    uint8_t scales[12];
    uint16_t d;
} QUANT_PACKED;

struct quant_q4_k {
    uint16_t d, dmin;
    uint8_t scales[12]; /* 8 scales and 8 minima of 6 bits */
    uint8_t qs[128];    /* per 64 elements 32 bytes: low nibbles, then high nibbles */
} QUANT_PACKED;

struct quant_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32]; /* bit j of byte i: fifth bit of element 32j + i */
    uint8_t qs[128];
} QUANT_PACKED;

struct quant_q6_k {
    uint8_t ql[128]; /* low 4 bits; per 128 elements 64 bytes */
    uint8_t qh[64];  /* high 2 bits; per 128 elements 32 bytes */
    int8_t scales[16];
    uint16_t d;
} QUANT_PACKED;

struct quant_iq4_nl {
    uint16_t d;
    uint8_t qs[16];
} QUANT_PACKED;

struct quant_iq4_xs {
    uint16_t d, scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
} QUANT_PACKED;

/* OCP microscaling format: elements of 4 bits (sign, 2 of exponent, 1 of mantissa) under 2^(e - 127). The fast
 * CPU backends keep scales as f16: e of 104 to 143, values down to 6e-8, which no real file leaves. */
struct quant_mxfp4 {
    uint8_t e;
    uint8_t qs[16]; /* as in q4_0 */
} QUANT_PACKED;

enum { QUANT_BLOCK_MAX = 256, QUANT_GROUP_MAX = 16 };

struct quant_type {
    const char *name;
    int16_t block; /* elements */
    int16_t bytes;
    int8_t bits;   /* of a code; 0: not a block type (F32, F16, BF16) */
    int8_t group;  /* elements that share a scale */
    int16_t offset; /* with a table: what moves its values above zero and below 128, or 0 = they need all 8 bits */
    bool has_min;
    bool is_super;       /* has integer scales under a common d */
    const int8_t *table; /* codes stand for table[c]; NULL = for themselves */
    float unit;          /* a power of two that the file's d is multiplied by */
};

/* Codes of neighbours belong together (quant_iq.h): such types are read, not written. */
static inline bool quant_is_grid(const struct quant_type *t)
{
    return t->table && t->offset;
}

/* One block, unpacked. Types without integer scales have scale[0] = min[0] = 1. */
struct quant_block {
    float d, dmin;
    int8_t scale[QUANT_GROUP_MAX];
    uint8_t min[QUANT_GROUP_MAX];
    uint8_t code[QUANT_BLOCK_MAX];
};

extern const int8_t quant_iq4_values[16], quant_fp4_values[16];

const struct quant_type *quant_traits(enum kern_type type); /* NULL when unknown */
/* Reads one block of a block type (bits != 0). */
void quant_unpack(enum kern_type type, const void *src, struct quant_block *ret);
/* Writes one block; d and dmin are rounded to f16 (MXFP4: a power of two, down). The inverse of
 * quant_unpack, not for quant_is_grid. */
void quant_pack(enum kern_type type, const struct quant_block *b, void *dst);

#ifdef __cplusplus
}
#endif

#endif
