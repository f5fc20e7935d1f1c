#include "kernels/quant_iq.h"

#include <string.h>

_Static_assert(sizeof(struct quant_iq2_xxs) == 66, "iq2_xxs");
_Static_assert(sizeof(struct quant_iq2_xs) == 74, "iq2_xs");
_Static_assert(sizeof(struct quant_iq2_s) == 82, "iq2_s");
_Static_assert(sizeof(struct quant_iq3_xxs) == 98, "iq3_xxs");
_Static_assert(sizeof(struct quant_iq3_s) == 110, "iq3_s");
_Static_assert(sizeof(struct quant_iq1_s) == 50, "iq1_s");
_Static_assert(sizeof(struct quant_iq1_m) == 56, "iq1_m");

const int8_t quant_iq2_values[16] = {8, 25, 43, 0, -8, -25, -43};
const int8_t quant_iq3_xxs_values[16] = {2, 6, 10, 14, 18, 22, 26, 31, -2, -6, -10, -14, -18, -22, -26, -31};
const int8_t quant_iq3_s_values[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
const int8_t quant_iq1_values[16] = {-7, 1, 9, 0, -9, -1, 7};

static uint32_t read_u16(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t read_u32(const uint8_t *p)
{
    return read_u16(p) | read_u16(p + 2) << 16;
}

/* The eighth sign of a point is that which makes the negative ones an even number. */
static uint32_t eight_signs(uint32_t seven)
{
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

/* n codes of a point: its fields of `bits`, and above them the signs (bit i: of element i). */
static void read_point(uint32_t point, int bits, uint32_t signs, int n, uint8_t *code)
{
    for (int i = 0; i < n; i++)
        code[i] = (uint8_t)((point >> i * bits & ((1u << bits) - 1)) | (signs >> i & 1) << bits);
}

static int8_t odd(uint32_t scale)
{
    return (int8_t)(2 * scale + 1);
}

static void unpack_iq2_xxs(const struct quant_iq2_xxs *q, struct quant_block *b)
{
    for (int g = 0; g < 8; g++) {
        uint32_t rest = read_u32(q->qs + 8 * g + 4);
        b->scale[g] = odd(rest >> 28);
        for (int i = 0; i < 4; i++)
            read_point(quant_grid_2_256[q->qs[8 * g + i]], 2, eight_signs(rest >> 7 * i & 127), 8,
                       b->code + 32 * g + 8 * i);
    }
}

static void unpack_iq2_xs(const struct quant_iq2_xs *q, struct quant_block *b)
{
    for (int g = 0; g < 16; g++)
        b->scale[g] = odd(q->scales[g / 2] >> g % 2 * 4 & 15);
    for (int i = 0; i < 32; i++) {
        uint32_t v = read_u16(q->qs + 2 * i);
        read_point(quant_grid_2_512[v & 511], 2, eight_signs(v >> 9), 8, b->code + 8 * i);
    }
}

static void unpack_iq2_s(const struct quant_iq2_s *q, struct quant_block *b)
{
    for (int g = 0; g < 16; g++)
        b->scale[g] = odd(q->scales[g / 2] >> g % 2 * 4 & 15);
    for (int i = 0; i < 32; i++) {
        uint32_t at = q->qs[i] | (uint32_t)(q->qh[i / 4] >> i % 4 * 2 & 3) << 8;
        read_point(quant_grid_2_1024[at], 2, q->signs[i], 8, b->code + 8 * i);
    }
}

static void unpack_iq3_xxs(const struct quant_iq3_xxs *q, struct quant_block *b)
{
    for (int g = 0; g < 8; g++) {
        uint32_t rest = read_u32(q->ss + 4 * g);
        b->scale[g] = odd(rest >> 28);
        for (int i = 0; i < 8; i++)
            read_point(quant_grid_3_256[q->qs[8 * g + i]], 3, eight_signs(rest >> i / 2 * 7 & 127) >> i % 2 * 4, 4,
                       b->code + 32 * g + 4 * i);
    }
}

static void unpack_iq3_s(const struct quant_iq3_s *q, struct quant_block *b)
{
    for (int g = 0; g < 8; g++)
        b->scale[g] = odd(q->scales[g / 2] >> g % 2 * 4 & 15);
    for (int i = 0; i < 64; i++) {
        uint32_t at = q->qs[i] | (uint32_t)(q->qh[i / 8] >> i % 8 & 1) << 8;
        read_point(quant_grid_3_512[at], 3, (uint32_t)q->signs[i / 2] >> i % 2 * 4, 4, b->code + 4 * i);
    }
}

/* All eight move the same way. */
static void read_moved(uint32_t point, bool down, uint8_t *code)
{
    read_point(quant_grid_1_2048[point], 2, down ? 255 : 0, 8, code);
}

static void unpack_iq1_s(const struct quant_iq1_s *q, struct quant_block *b)
{
    for (int g = 0; g < 8; g++) {
        uint32_t high = read_u16(q->qh + 2 * g);
        b->scale[g] = odd(high >> 12 & 7);
        for (int i = 0; i < 4; i++)
            read_moved(q->qs[4 * g + i] | (high >> 3 * i & 7) << 8, high >> 15, b->code + 32 * g + 8 * i);
    }
}

static void unpack_iq1_m(const struct quant_iq1_m *q, struct quant_block *b)
{
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t scales = read_u16(q->scales + 2 * i);
        d |= scales >> 12 << 4 * i;
        for (int j = 0; j < 4; j++)
            b->scale[4 * i + j] = odd(scales >> 3 * j & 7);
    }
    b->d = kern_f16_to_f32((uint16_t)d);
    for (int i = 0; i < 32; i++) {
        uint32_t high = q->qh[i / 2] >> i % 2 * 4;
        read_moved(q->qs[i] | (high & 7) << 8, high >> 3 & 1, b->code + 8 * i);
    }
}

void quant_iq_unpack(enum kern_type type, const void *src, struct quant_block *b)
{
    uint16_t d;
    memcpy(&d, src, sizeof d);
    b->d = kern_f16_to_f32(d);
    if (type == KERN_IQ2_XXS)
        unpack_iq2_xxs(src, b);
    else if (type == KERN_IQ2_XS)
        unpack_iq2_xs(src, b);
    else if (type == KERN_IQ2_S)
        unpack_iq2_s(src, b);
    else if (type == KERN_IQ3_XXS)
        unpack_iq3_xxs(src, b);
    else if (type == KERN_IQ3_S)
        unpack_iq3_s(src, b);
    else if (type == KERN_IQ1_S)
        unpack_iq1_s(src, b);
    else
        unpack_iq1_m(src, b);
    b->d *= quant_traits(type)->unit;
}
