/* Weights on the device: how they lie, and how 32 of them are read at once.
 *
 * A matrix keeps its file's blocks, but where a block has an odd size its scale d moves to an array
 * of its own, so that the rest (the body) stays 16-byte aligned:
 *   Q4_0: 16 + d   Q8_0: 32 + d   Q6_K: 208 + d   Q4_K: 144   Q5_K: 176   F32 F16 BF16: as they are
 *   MXFP4: 16 + the byte of its exponent
 * Every other type becomes one of these when it is loaded (weight.cu).
 *
 * A unit is 32 elements of a row that one lane takes: two runs of 16 neighbours, as small integers,
 * each with   value = scale * q - min. Eight units make 256 elements; runs of a unit are as far apart
 * as suits how a type packs its bits. */
#ifndef KERNELS_CUDA_QUANT_CUH
#define KERNELS_CUDA_QUANT_CUH

#include "kernels/cuda/port.h"

struct unit {
    uint32_t q[2][4]; /* four int8 in each */
    float scale[2], min[2];
};

/* One row of a matrix. */
struct row_at {
    const uint8_t *body, *d;
};

/* The scale of block i, where it is an f16 apart. */
DEVICE float scale_apart(row_at r, uint32_t i)
{
    return half_value(((const uint16_t *)r.d)[i]);
}

DEVICE uint4 load16(const uint8_t *p)
{
    return *(const uint4 *)p;
}

DEVICE void low_nibbles(uint4 v, uint32_t q[4])
{
    q[0] = v.x & 0x0f0f0f0f;
    q[1] = v.y & 0x0f0f0f0f;
    q[2] = v.z & 0x0f0f0f0f;
    q[3] = v.w & 0x0f0f0f0f;
}

DEVICE void high_nibbles(uint4 v, uint32_t q[4])
{
    uint4 s = {v.x >> 4, v.y >> 4, v.z >> 4, v.w >> 4};
    low_nibbles(s, q);
}

DEVICE uint32_t turned_left(uint32_t v, uint32_t n)
{
    return v << (n & 31) | v >> (-n & 31);
}

/* Ors the bits of each byte that `mask` shows into it, when they have moved `left` places (to the
 * right: a negative number): what turns in from elsewhere lies beside the mask. */
DEVICE void high_bits(uint4 v, uint32_t left, uint32_t mask, uint32_t q[4])
{
    q[0] |= turned_left(v.x, left) & mask;
    q[1] |= turned_left(v.y, left) & mask;
    q[2] |= turned_left(v.z, left) & mask;
    q[3] |= turned_left(v.w, left) & mask;
}

/* Byte k as a number times d: 2^23 + byte needs no conversion, and what that adds goes in the product,
 * which is rounded once. */
DEVICE float byte_times(uint32_t bytes, uint32_t k, float d)
{
    uint32_t u = __byte_perm(bytes, 0x4b000000, 0x7440 | k);
    float x;
    memcpy(&x, &u, 4);
    return fmaf(x, d, -8388608.0f * d);
}

/* Scales and minima 2 pair and 2 pair + 1 of Q4_K and Q5_K from the head of a superblock (d, dmin, the
 * 6-bit table: see quant.c): all four lie in the same bytes of its words. */
DEVICE void scales_6(uint4 head, uint32_t pair, float scale[2], float min[2])
{
    float d = half_value((uint16_t)head.x), dmin = half_value((uint16_t)(head.x >> 16));
    uint32_t pick = pair & 1 ? 0x7632 : 0x5410;
    uint32_t low = __byte_perm(head.y, head.z, pick), both = __byte_perm(head.w, head.w >> 4, pick);
    uint32_t six = pair < 2 ? low & 0x3f3f3f3f : (both & 0x0f0f0f0f) | (low >> 2 & 0x30303030);
    for (uint32_t i = 0; i < 2; i++) {
        scale[i] = byte_times(six, i, d);
        min[i] = byte_times(six, 2 + i, dmin);
    }
}

/* Of a type: elements and bytes of a block, bytes of a scale that lies apart; read() takes unit u of
 * the eight of 256 elements b. Its first run begins at element 256 b + first(u) of the row, its second
 * `step` further on. */
template <int type> struct quant;

/* Types of blocks of 32: a unit is a block. */
struct quant_32 {
    static const int32_t block = 32;
    static const uint32_t step = 16;
    static DEVICE_MEMBER uint32_t first(uint32_t u)
    {
        return 32 * u;
    }
};

template <> struct quant<KERN_Q8_0> : quant_32 {
    static const int32_t body = 32, d_bytes = 2;
    static const bool has_min = false;
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        const uint8_t *at = r.body + body * (8 * (size_t)b + u);
        float d = scale_apart(r, 8 * b + u);
        for (uint32_t i = 0; i < 2; i++) {
            uint4 v = load16(at + 16 * i);
            w->q[i][0] = v.x, w->q[i][1] = v.y, w->q[i][2] = v.z, w->q[i][3] = v.w;
            w->scale[i] = d;
            w->min[i] = 0;
        }
    }
};

template <> struct quant<KERN_Q4_0> : quant_32 {
    static const int32_t body = 16, d_bytes = 2;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        uint4 v = load16(r.body + body * (8 * (size_t)b + u));
        float d = scale_apart(r, 8 * b + u);
        low_nibbles(v, w->q[0]);
        high_nibbles(v, w->q[1]);
        for (uint32_t i = 0; i < 2; i++) {
            w->scale[i] = d;
            w->min[i] = 8 * d;
        }
    }
};

/* Four numbers of 4 bits, sign and magnitude, plus 12: an entry of one table or of the other. */
DEVICE uint32_t fp4_codes(uint32_t pick, uint32_t flipped)
{
    return bytes_or_0(0x0f0e0d0c, 0x18141210, pick) | bytes_or_0(0x090a0b0c, 0x00040608, flipped);
}

template <> struct quant<KERN_MXFP4> : quant_32 {
    static const int32_t body = 16, d_bytes = 1;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        size_t at = 8 * (size_t)b + u;
        uint4 v = load16(r.body + body * at);
        uint32_t e = r.d[at], bits = e < 2 ? 0x200000u << e : (e - 1) << 23;
        uint32_t in[] = {v.x, v.y, v.z, v.w};
        float scale;
        memcpy(&scale, &bits, 4); /* half of 2^(e - 127) */
        for (int i = 0; i < 4; i++) {
            uint32_t flipped = in[i] ^ 0x88888888;
            uint32_t lo = fp4_codes(in[i], flipped), hi = fp4_codes(in[i] >> 16, flipped >> 16);
            w->q[0][i] = __byte_perm(lo, hi, 0x6420);
            w->q[1][i] = __byte_perm(lo, hi, 0x7531);
        }
        for (uint32_t i = 0; i < 2; i++) {
            w->scale[i] = scale;
            w->min[i] = 12 * scale;
        }
    }
};

/* Unit u of a superblock: pair of 32s u / 2, first or second half of their 16s. */
struct quant_45_k {
    static const int32_t block = 256, d_bytes = 0;
    static const bool has_min = true;
    static const uint32_t step = 32;
    static DEVICE_MEMBER uint32_t first(uint32_t u)
    {
        return u / 2 * 64 + u % 2 * 16;
    }
};

template <> struct quant<KERN_Q4_K> : quant_45_k {
    static const int32_t body = 144;
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        const uint8_t *at = r.body + body * (size_t)b;
        uint4 v = load16(at + 16 + 16 * u);
        low_nibbles(v, w->q[0]);
        high_nibbles(v, w->q[1]);
        scales_6(load16(at), u / 2, w->scale, w->min);
    }
};

template <> struct quant<KERN_Q5_K> : quant_45_k {
    static const int32_t body = 176;
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        const uint8_t *at = r.body + body * (size_t)b;
        uint4 top = load16(at + 16 + 16 * (u % 2)), v = load16(at + 48 + 16 * u);
        uint32_t pair = u / 2;
        low_nibbles(v, w->q[0]);
        high_nibbles(v, w->q[1]);
        high_bits(top, 4 - 2 * pair, 0x10101010, w->q[0]);
        high_bits(top, 3 - 2 * pair, 0x10101010, w->q[1]);
        scales_6(load16(at), pair, w->scale, w->min);
    }
};

/* Unit u: half u / 4 of a superblock, its first or second 32 and their first or second 16. */
template <> struct quant<KERN_Q6_K> {
    static const int32_t block = 256, body = 208, d_bytes = 2;
    static const bool has_min = true;
    static const uint32_t step = 64;
    static DEVICE_MEMBER uint32_t first(uint32_t u)
    {
        return u / 4 * 128 + u % 4 * 16;
    }
    static DEVICE_MEMBER void read(row_at r, uint32_t b, uint32_t u, unit *w)
    {
        uint32_t half = u / 4, second = u % 4 / 2;
        const uint8_t *at = r.body + body * (size_t)b;
        float d = scale_apart(r, b);
        uint4 low = load16(at + 16 * u), top = load16(at + 128 + 32 * half + 16 * (u % 2));
        low_nibbles(low, w->q[0]);
        high_nibbles(low, w->q[1]);
        high_bits(top, 4 - 2 * second, 0x30303030, w->q[0]);
        high_bits(top, 0 - 2 * second, 0x30303030, w->q[1]);
        for (uint32_t i = 0; i < 2; i++) {
            w->scale[i] = d * (float)(int8_t)at[192 + 8 * half + 4 * i + u % 4];
            w->min[i] = 32 * w->scale[i];
        }
    }
};

/* Element i of a run as an integer. */
DEVICE int unit_code(const unit *w, int run, int i)
{
    return (int8_t)(w->q[run][i / 4] >> i % 4 * 8);
}

#endif
