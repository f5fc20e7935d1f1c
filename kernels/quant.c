#include "kernels/quant.h"

#include "kernels/quant_iq.h"

#include <string.h>

_Static_assert(sizeof(struct quant_q4_0) == 18, "q4_0");
_Static_assert(sizeof(struct quant_q4_1) == 20, "q4_1");
_Static_assert(sizeof(struct quant_q5_0) == 22, "q5_0");
_Static_assert(sizeof(struct quant_q5_1) == 24, "q5_1");
_Static_assert(sizeof(struct quant_q8_0) == 34, "q8_0");
_Static_assert(sizeof(struct quant_q2_k) == 84, "q2_k");
_Static_assert(sizeof(struct quant_q3_k) == 110, "q3_k");
_Static_assert(sizeof(struct quant_q4_k) == 144, "q4_k");
_Static_assert(sizeof(struct quant_q5_k) == 176, "q5_k");
_Static_assert(sizeof(struct quant_q6_k) == 210, "q6_k");
_Static_assert(sizeof(struct quant_iq4_nl) == 18, "iq4_nl");
_Static_assert(sizeof(struct quant_iq4_xs) == 136, "iq4_xs");
_Static_assert(sizeof(struct quant_mxfp4) == 17, "mxfp4");

const int8_t quant_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
/* Twice the values, so that they are whole. */
const int8_t quant_fp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static const struct quant_type types[] = {
    [KERN_F32] = {"F32", 1, 4, 0, 1, 0, false, false, NULL, 1},
    [KERN_F16] = {"F16", 1, 2, 0, 1, 0, false, false, NULL, 1},
    [KERN_BF16] = {"BF16", 1, 2, 0, 1, 0, false, false, NULL, 1},
    [KERN_Q4_0] = {"Q4_0", 32, 18, 4, 32, 8, false, false, NULL, 1},
    [KERN_Q4_1] = {"Q4_1", 32, 20, 4, 32, 0, true, false, NULL, 1},
    [KERN_Q5_0] = {"Q5_0", 32, 22, 5, 32, 16, false, false, NULL, 1},
    [KERN_Q5_1] = {"Q5_1", 32, 24, 5, 32, 0, true, false, NULL, 1},
    [KERN_Q8_0] = {"Q8_0", 32, 34, 8, 32, 128, false, false, NULL, 1},
    [KERN_Q2_K] = {"Q2_K", 256, 84, 2, 16, 0, true, true, NULL, 1},
    [KERN_Q3_K] = {"Q3_K", 256, 110, 3, 16, 4, false, true, NULL, 1},
    [KERN_Q4_K] = {"Q4_K", 256, 144, 4, 32, 0, true, true, NULL, 1},
    [KERN_Q5_K] = {"Q5_K", 256, 176, 5, 32, 0, true, true, NULL, 1},
    [KERN_Q6_K] = {"Q6_K", 256, 210, 6, 16, 32, false, true, NULL, 1},
    [KERN_IQ4_NL] = {"IQ4_NL", 32, 18, 4, 32, 0, false, false, quant_iq4_values, 1},
    [KERN_IQ4_XS] = {"IQ4_XS", 256, 136, 4, 32, 0, false, true, quant_iq4_values, 1},
    [KERN_IQ2_XXS] = {"IQ2_XXS", 256, 66, 3, 32, 64, false, true, quant_iq2_values, 0.125f},
    [KERN_IQ2_XS] = {"IQ2_XS", 256, 74, 3, 16, 64, false, true, quant_iq2_values, 0.125f},
    [KERN_IQ2_S] = {"IQ2_S", 256, 82, 3, 16, 64, false, true, quant_iq2_values, 0.125f},
    [KERN_IQ3_XXS] = {"IQ3_XXS", 256, 98, 4, 32, 32, false, true, quant_iq3_xxs_values, 0.5f},
    [KERN_IQ3_S] = {"IQ3_S", 256, 110, 4, 32, 16, false, true, quant_iq3_s_values, 1},
    [KERN_IQ1_S] = {"IQ1_S", 256, 50, 3, 32, 16, false, true, quant_iq1_values, 0.125f},
    [KERN_IQ1_M] = {"IQ1_M", 256, 56, 3, 16, 16, false, true, quant_iq1_values, 0.125f},
    [KERN_MXFP4] = {"MXFP4", 32, 17, 4, 32, 0, false, false, quant_fp4_values, 1},
};

const struct quant_type *quant_traits(enum kern_type type)
{
    size_t i = (size_t)type;
    return i < sizeof types / sizeof *types && types[i].name ? &types[i] : NULL;
}

bool kern_type_known(uint32_t type)
{
    return quant_traits((enum kern_type)type) != NULL;
}

const char *kern_type_name(enum kern_type type)
{
    const struct quant_type *t = quant_traits(type);
    return t ? t->name : "unknown";
}

int32_t kern_type_block(enum kern_type type)
{
    const struct quant_type *t = quant_traits(type);
    return t ? t->block : 0;
}

size_t kern_type_bytes(enum kern_type type)
{
    const struct quant_type *t = quant_traits(type);
    return t ? (size_t)t->bytes : 0;
}

float kern_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = h >> 10 & 0x1f, mantissa = h & 0x3ff, bits;
    float f;
    if (exponent == 0) {
        f = (float)mantissa * 0x1p-24f; /* zero and subnormals, exactly */
        memcpy(&bits, &f, 4);
        bits |= sign;
    } else if (exponent == 31) {
        bits = sign | 0x7f800000u | mantissa << 13;
    } else {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    }
    memcpy(&f, &bits, 4);
    return f;
}

uint16_t kern_f32_to_f16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00 | (uint16_t)(bits >> 13 & 0x3ff); /* NaN stays NaN */
    if (bits >= 0x47800000)
        return sign | 0x7c00; /* 2^16 and above; the rounding below carries 65520..65535 there */
    if (bits < 0x38800000) {
        /* Below 2^-14: adding 0.5 leaves the subnormal's digits at the end of the mantissa,
         * rounded by the addition itself. */
        float magnitude, shifted;
        memcpy(&magnitude, &bits, 4);
        shifted = magnitude + 0.5f;
        memcpy(&bits, &shifted, 4);
        return sign | (uint16_t)(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits - 0x38000000) >> 13);
}

/* Codes of a 32-element block: low nibbles first, then high nibbles. */
static void read_nibbles(const uint8_t *qs, int n_byte, uint8_t *code)
{
    for (int i = 0; i < n_byte; i++) {
        code[i] = qs[i] & 15;
        code[i + n_byte] = qs[i] >> 4;
    }
}

static void write_nibbles(const uint8_t *code, int n_byte, uint8_t *qs)
{
    for (int i = 0; i < n_byte; i++)
        qs[i] = (uint8_t)((code[i] & 15) | (code[i + n_byte] & 15) << 4);
}

/* The fifth bits of a 32-element block. */
static void read_fifth(const uint8_t qh[4], uint8_t *code)
{
    for (int i = 0; i < 32; i++)
        code[i] |= (uint8_t)((qh[i / 8] >> i % 8 & 1) << 4);
}

static void write_fifth(const uint8_t *code, uint8_t qh[4])
{
    memset(qh, 0, 4);
    for (int i = 0; i < 32; i++)
        qh[i / 8] |= (uint8_t)((code[i] >> 4 & 1) << i % 8);
}

/* The 2-bit codes of a 256-element block: per 128 elements 32 bytes of four fields. */
static void read_pairs(const uint8_t qs[64], uint8_t *code)
{
    for (int j = 0; j < 8; j++, code += 32)
        for (int l = 0; l < 32; l++)
            code[l] = qs[j / 4 * 32 + l] >> j % 4 * 2 & 3;
}

static void write_pairs(const uint8_t *code, uint8_t qs[64])
{
    memset(qs, 0, 64);
    for (int i = 0; i < 256; i++)
        qs[i / 128 * 32 + i % 32] |= (uint8_t)((code[i] & 3) << i % 128 / 32 * 2);
}

/* The top bits of a 256-element block: bit j of byte l for element 32j + l, to bit `at`. */
static void read_top_bits(const uint8_t bits[32], int at, uint8_t *code)
{
    for (int j = 0; j < 8; j++, code += 32)
        for (int l = 0; l < 32; l++)
            code[l] |= (uint8_t)((bits[l] >> j & 1) << at);
}

/* Q4_K, Q5_K: eight 6-bit scales and minima in 12 bytes. Bytes 0..3 and 4..7 hold scale and min
 * 0..3; byte 8+j the low nibbles of scale and min 4+j, their top bits are those of bytes j, 4+j. */
static void read_scales_6(const uint8_t s[12], int8_t scale[8], uint8_t min[8])
{
    for (int j = 0; j < 4; j++) {
        scale[j] = s[j] & 63;
        min[j] = s[4 + j] & 63;
        scale[4 + j] = (int8_t)((s[8 + j] & 15) | s[j] >> 6 << 4);
        min[4 + j] = (uint8_t)(s[8 + j] >> 4 | s[4 + j] >> 6 << 4);
    }
}

static void write_scales_6(const int8_t scale[8], const uint8_t min[8], uint8_t s[12])
{
    for (int j = 0; j < 4; j++) {
        s[j] = (uint8_t)((scale[j] & 63) | (scale[4 + j] >> 4 & 3) << 6);
        s[4 + j] = (uint8_t)((min[j] & 63) | (min[4 + j] >> 4 & 3) << 6);
        s[8 + j] = (uint8_t)((scale[4 + j] & 15) | (min[4 + j] & 15) << 4);
    }
}

/* Q3_K: sixteen scales plus 32; low nibbles in bytes 0..7, the two top bits in bytes 8..11. */
static void read_scales_3(const uint8_t s[12], int8_t scale[16])
{
    for (int j = 0; j < 16; j++) {
        int low = s[j % 8] >> j / 8 * 4 & 15, high = s[8 + j % 4] >> j / 4 * 2 & 3;
        scale[j] = (int8_t)((low | high << 4) - 32);
    }
}

static void write_scales_3(const int8_t scale[16], uint8_t s[12])
{
    memset(s, 0, 12);
    for (int j = 0; j < 16; j++) {
        int v = scale[j] + 32;
        s[j % 8] |= (uint8_t)((v & 15) << j / 8 * 4);
        s[8 + j % 4] |= (uint8_t)((v >> 4 & 3) << j / 4 * 2);
    }
}

static void unpack_q6_k(const struct quant_q6_k *q, struct quant_block *b)
{
    b->d = kern_f16_to_f32(q->d);
    memcpy(b->scale, q->scales, 16);
    uint8_t *code = b->code;
    for (int half = 0; half < 2; half++)
        for (int j = 0; j < 4; j++, code += 32) {
            const uint8_t *low = q->ql + half * 64 + j % 2 * 32, *high = q->qh + half * 32;
            for (int l = 0; l < 32; l++)
                code[l] = (uint8_t)((low[l] >> j / 2 * 4 & 15) | (high[l] >> j * 2 & 3) << 4);
        }
}

static void pack_q6_k(const struct quant_block *b, struct quant_q6_k *q)
{
    memset(q, 0, sizeof *q);
    q->d = kern_f32_to_f16(b->d);
    memcpy(q->scales, b->scale, 16);
    for (int i = 0; i < 256; i++) {
        int half = i / 128, j = i % 128 / 32, l = i % 32;
        q->ql[half * 64 + j % 2 * 32 + l] |= (uint8_t)((b->code[i] & 15) << j / 2 * 4);
        q->qh[half * 32 + l] |= (uint8_t)((b->code[i] >> 4 & 3) << j * 2);
    }
}

void quant_unpack(enum kern_type type, const void *src, struct quant_block *b)
{
    b->dmin = 0;
    b->scale[0] = 1;
    b->min[0] = 1;
    switch (type) {
    case KERN_Q4_0:
    case KERN_IQ4_NL: { /* the same layout */
        const struct quant_q4_0 *q = src;
        b->d = kern_f16_to_f32(q->d);
        read_nibbles(q->qs, 16, b->code);
        break;
    }
    case KERN_MXFP4: {
        const struct quant_mxfp4 *q = src;
        uint32_t bits = q->e < 2 ? 0x200000u << q->e : (uint32_t)(q->e - 1) << 23; /* half of 2^(e-127) */
        memcpy(&b->d, &bits, 4);
        read_nibbles(q->qs, 16, b->code);
        break;
    }
    case KERN_Q4_1: {
        const struct quant_q4_1 *q = src;
        b->d = kern_f16_to_f32(q->d);
        b->dmin = -kern_f16_to_f32(q->m);
        read_nibbles(q->qs, 16, b->code);
        break;
    }
    case KERN_Q5_0: {
        const struct quant_q5_0 *q = src;
        b->d = kern_f16_to_f32(q->d);
        read_nibbles(q->qs, 16, b->code);
        read_fifth(q->qh, b->code);
        break;
    }
    case KERN_Q5_1: {
        const struct quant_q5_1 *q = src;
        b->d = kern_f16_to_f32(q->d);
        b->dmin = -kern_f16_to_f32(q->m);
        read_nibbles(q->qs, 16, b->code);
        read_fifth(q->qh, b->code);
        break;
    }
    case KERN_Q8_0: {
        const struct quant_q8_0 *q = src;
        b->d = kern_f16_to_f32(q->d);
        for (int i = 0; i < 32; i++)
            b->code[i] = (uint8_t)(q->qs[i] + 128);
        break;
    }
    case KERN_Q2_K: {
        const struct quant_q2_k *q = src;
        b->d = kern_f16_to_f32(q->d);
        b->dmin = kern_f16_to_f32(q->dmin);
        for (int j = 0; j < 16; j++) {
            b->scale[j] = q->scales[j] & 15;
            b->min[j] = q->scales[j] >> 4;
        }
        read_pairs(q->qs, b->code);
        break;
    }
    case KERN_Q3_K: {
        const struct quant_q3_k *q = src;
        b->d = kern_f16_to_f32(q->d);
        read_scales_3(q->scales, b->scale);
        read_pairs(q->qs, b->code);
        read_top_bits(q->hmask, 2, b->code);
        break;
    }
    case KERN_Q4_K: {
        const struct quant_q4_k *q = src;
        b->d = kern_f16_to_f32(q->d);
        b->dmin = kern_f16_to_f32(q->dmin);
        read_scales_6(q->scales, b->scale, b->min);
        for (int j = 0; j < 4; j++)
            read_nibbles(q->qs + 32 * j, 32, b->code + 64 * j);
        break;
    }
    case KERN_Q5_K: {
        const struct quant_q5_k *q = src;
        b->d = kern_f16_to_f32(q->d);
        b->dmin = kern_f16_to_f32(q->dmin);
        read_scales_6(q->scales, b->scale, b->min);
        for (int j = 0; j < 4; j++)
            read_nibbles(q->qs + 32 * j, 32, b->code + 64 * j);
        read_top_bits(q->qh, 4, b->code);
        break;
    }
    case KERN_Q6_K:
        unpack_q6_k(src, b);
        break;
    case KERN_IQ4_XS: {
        const struct quant_iq4_xs *q = src;
        b->d = kern_f16_to_f32(q->d);
        for (int j = 0; j < 8; j++) {
            int low = q->scales_l[j / 2] >> j % 2 * 4 & 15, high = q->scales_h >> 2 * j & 3;
            b->scale[j] = (int8_t)((low | high << 4) - 32);
            read_nibbles(q->qs + 16 * j, 16, b->code + 32 * j);
        }
        break;
    }
    case KERN_IQ2_XXS:
    case KERN_IQ2_XS:
    case KERN_IQ2_S:
    case KERN_IQ3_XXS:
    case KERN_IQ3_S:
    case KERN_IQ1_S:
    case KERN_IQ1_M:
        quant_iq_unpack(type, src, b);
        break;
    case KERN_F32:
    case KERN_F16:
    case KERN_BF16:
        break;
    }
}

void quant_pack(enum kern_type type, const struct quant_block *b, void *dst)
{
    uint16_t d = kern_f32_to_f16(b->d), dmin = kern_f32_to_f16(b->dmin);
    switch (type) {
    case KERN_Q4_0:
    case KERN_IQ4_NL: {
        struct quant_q4_0 *q = dst;
        q->d = d;
        write_nibbles(b->code, 16, q->qs);
        break;
    }
    case KERN_MXFP4: {
        struct quant_mxfp4 *q = dst;
        uint32_t bits;
        memcpy(&bits, &b->d, 4);
        q->e = bits >= 1u << 23 ? (uint8_t)((bits >> 23) + 1) : bits >= 1u << 22;
        write_nibbles(b->code, 16, q->qs);
        break;
    }
    case KERN_Q4_1: {
        struct quant_q4_1 *q = dst;
        q->d = d;
        q->m = dmin ^ 0x8000;
        write_nibbles(b->code, 16, q->qs);
        break;
    }
    case KERN_Q5_0: {
        struct quant_q5_0 *q = dst;
        q->d = d;
        write_nibbles(b->code, 16, q->qs);
        write_fifth(b->code, q->qh);
        break;
    }
    case KERN_Q5_1: {
        struct quant_q5_1 *q = dst;
        q->d = d;
        q->m = dmin ^ 0x8000;
        write_nibbles(b->code, 16, q->qs);
        write_fifth(b->code, q->qh);
        break;
    }
    case KERN_Q8_0: {
        struct quant_q8_0 *q = dst;
        q->d = d;
        for (int i = 0; i < 32; i++)
            q->qs[i] = (int8_t)(b->code[i] - 128);
        break;
    }
    case KERN_Q2_K: {
        struct quant_q2_k *q = dst;
        q->d = d;
        q->dmin = dmin;
        for (int j = 0; j < 16; j++)
            q->scales[j] = (uint8_t)((b->scale[j] & 15) | b->min[j] << 4);
        write_pairs(b->code, q->qs);
        break;
    }
    case KERN_Q3_K: {
        struct quant_q3_k *q = dst;
        q->d = d;
        write_scales_3(b->scale, q->scales);
        write_pairs(b->code, q->qs);
        memset(q->hmask, 0, sizeof q->hmask);
        for (int i = 0; i < 256; i++)
            q->hmask[i % 32] |= (uint8_t)((b->code[i] >> 2 & 1) << i / 32);
        break;
    }
    case KERN_Q4_K: {
        struct quant_q4_k *q = dst;
        q->d = d;
        q->dmin = dmin;
        write_scales_6(b->scale, b->min, q->scales);
        for (int j = 0; j < 4; j++)
            write_nibbles(b->code + 64 * j, 32, q->qs + 32 * j);
        break;
    }
    case KERN_Q5_K: {
        struct quant_q5_k *q = dst;
        q->d = d;
        q->dmin = dmin;
        write_scales_6(b->scale, b->min, q->scales);
        for (int j = 0; j < 4; j++)
            write_nibbles(b->code + 64 * j, 32, q->qs + 32 * j);
        memset(q->qh, 0, sizeof q->qh);
        for (int i = 0; i < 256; i++)
            q->qh[i % 32] |= (uint8_t)((b->code[i] >> 4 & 1) << i / 32);
        break;
    }
    case KERN_Q6_K:
        pack_q6_k(b, dst);
        break;
    case KERN_IQ4_XS: {
        struct quant_iq4_xs *q = dst;
        q->d = d;
        q->scales_h = 0;
        memset(q->scales_l, 0, sizeof q->scales_l);
        for (int j = 0; j < 8; j++) {
            int v = b->scale[j] + 32;
            q->scales_l[j / 2] |= (uint8_t)((v & 15) << j % 2 * 4);
            q->scales_h |= (uint16_t)((v >> 4 & 3) << 2 * j);
            write_nibbles(b->code + 32 * j, 16, q->qs + 16 * j);
        }
        break;
    }
    default: /* quant_is_grid, or not a block type */
        break;
    }
}

static void dequantise_plain(enum kern_type type, const void *src, float *dst, int64_t n)
{
    const uint16_t *h = src;
    if (type == KERN_F32) {
        memcpy(dst, src, (size_t)n * 4);
    } else if (type == KERN_F16) {
        for (int64_t i = 0; i < n; i++)
            dst[i] = kern_f16_to_f32(h[i]);
    } else {
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits = (uint32_t)h[i] << 16;
            memcpy(dst + i, &bits, 4);
        }
    }
}

void kern_dequantise(enum kern_type type, const void *src, float *dst, int64_t n)
{
    const struct quant_type *t = quant_traits(type);
    if (!t || t->bits == 0) {
        if (t)
            dequantise_plain(type, src, dst, n);
        return;
    }
    const uint8_t *block = src;
    struct quant_block b;
    for (int64_t i = 0; i < n; i += t->block, block += t->bytes) {
        quant_unpack(type, block, &b);
        for (int j = 0; j < t->block; j++) {
            int g = j / t->group;
            int code = t->table ? t->table[b.code[j]] : b.code[j] - t->offset;
            float low = t->has_min ? b.dmin * b.min[g] : 0.0f;
            dst[i + j] = b.d * b.scale[g] * (float)code - low;
        }
    }
}
