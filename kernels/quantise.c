/* Quantisation for our own files: each value to the nearest code of a grid that spans its group.
 * No importance weights and no search: it need not be the best, only right. */
#include "kernels/quant.h"

#include <math.h>
#include <string.h>

/* The largest integer scale of a type with a common d. Scales with a sign bit keep to the range
 * that is symmetric. */
static int scale_max(enum kern_type type)
{
    switch (type) {
    case KERN_Q2_K:
        return 15;
    case KERN_Q3_K:
    case KERN_IQ4_XS:
        return 31;
    case KERN_Q4_K:
    case KERN_Q5_K:
        return 63;
    case KERN_Q6_K:
        return 127;
    default:
        return 1;
    }
}

static float to_f16(float f)
{
    return kern_f16_to_f32(kern_f32_to_f16(f));
}

/* The real scale of one group and, for types with a minimum, what is subtracted. */
static void span_group(const struct quant_type *t, const float *x, float *ret_scale, float *ret_min)
{
    float lo = x[0], hi = x[0];
    for (int i = 1; i < t->group; i++) {
        lo = fminf(lo, x[i]);
        hi = fmaxf(hi, x[i]);
    }
    if (t->has_min) {
        if (t->is_super)
            lo = fminf(lo, 0); /* the stored minimum has no sign */
        *ret_min = -lo;
        *ret_scale = (fmaxf(hi, lo) - lo) / (float)((1 << t->bits) - 1);
    } else {
        float extreme = -lo > hi ? lo : hi;
        *ret_min = 0;
        if (t->table == quant_fp4_values) /* a power of two under which the extreme is not clipped */
            *ret_scale = extreme != 0 ? exp2f(ceilf(log2f(fabsf(extreme) / 12))) : 0;
        else if (t->table)
            *ret_scale = extreme / (float)t->table[0];
        else if (t->bits == 8)
            *ret_scale = fabsf(extreme) / 127;
        else
            *ret_scale = extreme / (float)-t->offset; /* the end of the grid that has one code more */
    }
}

static uint8_t nearest_code(const struct quant_type *t, float scale, float min, float x)
{
    float inverse = scale != 0 ? 1 / scale : 0;
    if (t->table) {
        int best = 0;
        for (int i = 1; i < 16; i++)
            if (fabsf(t->table[i] - x * inverse) <
                fabsf(t->table[best] - x * inverse))
                best = i;
        return (uint8_t)best;
    }
    float code = rintf((x + min) * inverse) + t->offset;
    return (uint8_t)fminf(fmaxf(code, 0), (float)((1 << t->bits) - 1));
}

static void quantise_block(enum kern_type type, const struct quant_type *t, const float *x,
                           struct quant_block *b)
{
    int n_group = t->block / t->group, max = scale_max(type);
    float scale[QUANT_GROUP_MAX], min[QUANT_GROUP_MAX], top_scale = 0, top_min = 0;
    for (int g = 0; g < n_group; g++) {
        span_group(t, x + g * t->group, &scale[g], &min[g]);
        if (fabsf(scale[g]) > fabsf(top_scale))
            top_scale = scale[g];
        if (fabsf(min[g]) > fabsf(top_min))
            top_min = min[g];
    }
    b->d = to_f16(top_scale / (float)max);
    b->dmin = to_f16(top_min / (float)max);
    for (int g = 0; g < n_group; g++) {
        b->scale[g] = (int8_t)(b->d != 0 ? rintf(scale[g] / b->d) : 0);
        b->min[g] = (uint8_t)(b->dmin != 0 ? rintf(min[g] / b->dmin) : 0);
        if (!t->is_super)
            b->scale[g] = b->min[g] = 1;
        for (int i = 0; i < t->group; i++)
            b->code[g * t->group + i] = nearest_code(t, b->d * b->scale[g], b->dmin * b->min[g],
                                                     x[g * t->group + i]);
    }
}

/* To nearest, ties to even. */
static uint16_t f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

bool kern_quantise(enum kern_type type, const float *src, void *dst, int64_t n)
{
    const struct quant_type *t = quant_traits(type);
    if (!t || quant_is_grid(t) || n % t->block != 0)
        return false;
    if (type == KERN_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return true;
    }
    if (t->bits == 0) {
        uint16_t *h = dst;
        for (int64_t i = 0; i < n; i++)
            h[i] = type == KERN_F16 ? kern_f32_to_f16(src[i]) : f32_to_bf16(src[i]);
        return true;
    }
    uint8_t *out = dst;
    struct quant_block b;
    for (int64_t i = 0; i < n; i += t->block, out += t->bytes) {
        quantise_block(type, t, src + i, &b);
        quant_pack(type, &b, out);
    }
    return true;
}
