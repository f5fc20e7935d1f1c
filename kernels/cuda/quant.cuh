/* Weights on the device: how they lie, and how 32 of them are read at once.
 *
 * A matrix keeps its file's blocks, but where a block has an odd size its scale d moves to an array
 * of its own, so that the rest (the body) stays 16-byte aligned:
 *   Q4_0: 16 + d   Q8_0: 32 + d   Q6_K: 208 + d   Q4_K: 144   Q5_K: 176   F32 F16 BF16: as they are
 *   MXFP4: 16 + the byte of its exponent
 * Every other type is turned into F16 when it is loaded.
 *
 * A unit is 32 elements of a row that one lane takes: two runs of 16 neighbours, as small integers,
 * each with   value = scale * q - min. */
#ifndef KERNELS_CUDA_QUANT_CUH
#define KERNELS_CUDA_QUANT_CUH

#include "kernels/cuda/port.h"

struct unit {
    uint32_t q[2][4]; /* four int8 in each */
    int32_t at[2];    /* element of the row where the run begins */
    float scale[2], min[2];
};

/* One row of a matrix. */
struct row_at {
    const uint8_t *body, *d;
};

/* The scale of block i, where it is an f16 apart. */
DEVICE float scale_apart(row_at r, int32_t i)
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

/* Ors bit `from` of each byte (or two bits) into place `to`. */
DEVICE void high_bits(uint4 v, int from, uint32_t mask, int to, uint32_t q[4])
{
    q[0] |= (v.x >> from & mask) << to;
    q[1] |= (v.y >> from & mask) << to;
    q[2] |= (v.z >> from & mask) << to;
    q[3] |= (v.w >> from & mask) << to;
}

/* Scale and minimum j of the 6-bit table of Q4_K and Q5_K (12 bytes: see quant.c), from its words. */
DEVICE void scales_6(uint4 head, int j, float d, float dmin, float *ret_scale, float *ret_min)
{
    int up = 8 * (j & 3);
    uint32_t s = head.y >> up, m = head.z >> up, both = head.w >> up;
    uint32_t scale = j < 4 ? s & 63 : (both & 15) | (s >> 2 & 48);
    uint32_t min = j < 4 ? m & 63 : (both >> 4 & 15) | (m >> 2 & 48);
    *ret_scale = d * (float)scale;
    *ret_min = dmin * (float)min;
}

template <int type> struct quant;

template <> struct quant<KERN_Q8_0> {
    static const int32_t block = 32, body = 32, d_bytes = 2;
    static const bool has_min = false;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        uint4 a = load16(r.body + 32 * (size_t)u), b = load16(r.body + 32 * (size_t)u + 16);
        float d = scale_apart(r, u);
        w->q[0][0] = a.x, w->q[0][1] = a.y, w->q[0][2] = a.z, w->q[0][3] = a.w;
        w->q[1][0] = b.x, w->q[1][1] = b.y, w->q[1][2] = b.z, w->q[1][3] = b.w;
        for (int i = 0; i < 2; i++) {
            w->at[i] = 32 * u + 16 * i;
            w->scale[i] = d;
            w->min[i] = 0;
        }
    }
};

template <> struct quant<KERN_Q4_0> {
    static const int32_t block = 32, body = 16, d_bytes = 2;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        uint4 v = load16(r.body + 16 * (size_t)u);
        float d = scale_apart(r, u);
        low_nibbles(v, w->q[0]);
        high_nibbles(v, w->q[1]);
        for (int i = 0; i < 2; i++) {
            w->at[i] = 32 * u + 16 * i;
            w->scale[i] = d;
            w->min[i] = 8 * d;
        }
    }
};

/* Numbers of 4 bits, sign and magnitude, as int8: the magnitudes of four, their signs in the lowest
 * bits of the bytes of `sign`. */
DEVICE uint32_t with_signs(uint32_t x, uint32_t sign)
{
    uint32_t mask = (sign & 0x01010101) * 255, minus = (0x80808080 - x) ^ 0x80808080;
    return (x & ~mask) | (minus & mask);
}

template <> struct quant<KERN_MXFP4> {
    static const int32_t block = 32, body = 16, d_bytes = 1;
    static const bool has_min = false;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        const uint32_t small = 0x03020100, large = 0x0c080604; /* quant_fp4_values */
        uint4 v = load16(r.body + 16 * (size_t)u);
        uint32_t e = r.d[u], bits = e < 2 ? 0x200000u << e : (e - 1) << 23, in[] = {v.x, v.y, v.z, v.w};
        float scale;
        memcpy(&scale, &bits, 4); /* half of 2^(e - 127) */
        for (int i = 0; i < 4; i++) {
            uint32_t a = __byte_perm(small, large, in[i] & 0x7777);
            uint32_t b = __byte_perm(small, large, in[i] >> 16 & 0x7777);
            w->q[0][i] = with_signs(__byte_perm(a, b, 0x6420), in[i] >> 3);
            w->q[1][i] = with_signs(__byte_perm(a, b, 0x7531), in[i] >> 7);
        }
        for (int i = 0; i < 2; i++) {
            w->at[i] = 32 * u + 16 * i;
            w->scale[i] = scale;
            w->min[i] = 0;
        }
    }
};

/* Unit u of a superblock: pair of 32s u / 2, first or second half of their 16s. */
template <bool five> DEVICE void read_45_k(const uint8_t *b, int32_t u, unit *w)
{
    int32_t p = u % 8 / 2, h = u % 2;
    uint4 head = load16(b);
    float d = half_value((uint16_t)head.x), dmin = half_value((uint16_t)(head.x >> 16));
    uint4 v = load16(b + (five ? 48 : 16) + 32 * p + 16 * h);
    low_nibbles(v, w->q[0]);
    high_nibbles(v, w->q[1]);
    if (five) {
        uint4 top = load16(b + 16 + 16 * h);
        high_bits(top, 2 * p, 0x01010101, 4, w->q[0]);
        high_bits(top, 2 * p + 1, 0x01010101, 4, w->q[1]);
    }
    for (int i = 0; i < 2; i++) {
        w->at[i] = u / 8 * 256 + 64 * p + 32 * i + 16 * h;
        scales_6(head, 2 * p + i, d, dmin, &w->scale[i], &w->min[i]);
    }
}

template <> struct quant<KERN_Q4_K> {
    static const int32_t block = 256, body = 144, d_bytes = 0;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        read_45_k<false>(r.body + 144 * (size_t)(u / 8), u, w);
    }
};

template <> struct quant<KERN_Q5_K> {
    static const int32_t block = 256, body = 176, d_bytes = 0;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        read_45_k<true>(r.body + 176 * (size_t)(u / 8), u, w);
    }
};

template <> struct quant<KERN_Q6_K> {
    static const int32_t block = 256, body = 208, d_bytes = 2;
    static const bool has_min = true;
    static DEVICE_MEMBER void read(row_at r, int32_t u, unit *w)
    {
        int32_t half = u % 8 / 4, s = u % 4 / 2, h = u % 2;
        const uint8_t *b = r.body + 208 * (size_t)(u / 8);
        float d = scale_apart(r, u / 8);
        uint4 low = load16(b + 64 * half + 32 * s + 16 * h);
        uint4 top = load16(b + 128 + 32 * half + 16 * h);
        low_nibbles(low, w->q[0]);
        high_nibbles(low, w->q[1]);
        high_bits(top, 2 * s, 0x03030303, 4, w->q[0]);
        high_bits(top, 2 * s + 4, 0x03030303, 4, w->q[1]);
        for (int i = 0; i < 2; i++) {
            w->at[i] = u / 8 * 256 + 128 * half + 64 * i + 32 * s + 16 * h;
            w->scale[i] = d * (float)(int8_t)b[192 + 8 * half + 4 * i + 2 * s + h];
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
