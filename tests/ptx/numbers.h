/* What instructions do with numbers, apart from lanes and warps. */
#ifndef TESTS_PTX_NUMBERS_H
#define TESTS_PTX_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <limits>
#include <type_traits>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

static inline f32 half_value(u16 h)
{
    _Float16 v;
    memcpy(&v, &h, 2);
    return (f32)v;
}
static inline u16 half_bits(f32 x)
{
    _Float16 v = (_Float16)x;
    u16 h;
    memcpy(&h, &v, 2);
    return h;
}
static inline u32 half_pair(f32 high, f32 low)
{
    return half_bits(low) | (u32)half_bits(high) << 16;
}
template <auto F> static u32 half2(u32 a, u32 b)
{
    return half_pair(F(half_value((u16)(a >> 16)), half_value((u16)(b >> 16))),
                     F(half_value((u16)a), half_value((u16)b)));
}
static inline f32 flush(f32 x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x;
}
template <typename I> static I to_int(f64 x)
{
    if (x != x)
        return 0;
    f64 low = (f64)std::numeric_limits<I>::min(), high = (f64)std::numeric_limits<I>::max();
    return x <= low    ? std::numeric_limits<I>::min()
           : x >= high ? std::numeric_limits<I>::max()
                       : (I)x;
}
/* Rounded down or to zero: what is nearest, stepped back where it is beyond. */
static inline f32 fma_down(f32 a, f32 b, f32 c)
{
    long double exact = (long double)a * b + c;
    f32 r = fmaf(a, b, c);
    return r > exact ? nextafterf(r, -INFINITY) : r;
}
static inline f32 add_to_zero(f32 a, f32 b)
{
    f64 exact = (f64)a + b;
    f32 r = a + b;
    return fabs((f64)r) > fabs(exact) ? nextafterf(r, 0) : r;
}
static inline u32 byte_permute(u32 a, u32 b, u32 pick)
{
    u64 both = (u64)b << 32 | a;
    u32 ret = 0;
    for (int i = 0; i < 4; i++) {
        u32 s = pick >> 4 * i & 15, byte = (u32)(both >> 8 * (s & 7)) & 255;
        if (s & 8)
            byte = byte & 128 ? 255 : 0;
        ret |= byte << 8 * i;
    }
    return ret;
}
static inline u32 funnel_left(u32 low, u32 high, u32 n)
{
    u64 both = (u64)high << 32 | low;
    return (u32)(both << (n & 31) >> 32);
}
static inline u32 funnel_right(u32 low, u32 high, u32 n)
{
    return (u32)(((u64)high << 32 | low) >> (n & 31));
}
static inline u32 bits_insert(u32 a, u32 b, u32 at, u32 n)
{
    at &= 255, n &= 255;
    if (at > 31 || n == 0)
        return b;
    u32 field = n >= 32 ? ~0u : (1u << n) - 1;
    return (b & ~(field << at)) | (a & field) << at;
}
static inline s32 dot4(u32 a, u32 b, s32 c)
{
    for (int i = 0; i < 4; i++)
        c += (s8)(a >> 8 * i) * (s8)(b >> 8 * i);
    return c;
}
static inline s32 dot2_low(u32 a, u32 b, s32 c)
{
    return c + (s16)a * (s8)b + (s16)(a >> 16) * (s8)(b >> 8);
}
template <typename T> static T shift_left(T a, u32 n)
{
    return n >= sizeof(T) * 8 ? 0 : (T)(a << n);
}
template <typename T> static T shift_right(T a, u32 n)
{
    u32 most = sizeof(T) * 8 - 1;
    if (n > most && a >= 0)
        return 0;
    return (T)(a >> std::min(n, most));
}
template <typename T> static T divide(T a, T b)
{
    if (b == 0)
        return (T) ~(T)0;
    return std::is_signed_v<T> && b == (T)-1 ? (T)(0 - a) : (T)(a / b);
}
template <typename T> static T remainder_of(T a, T b)
{
    return b == 0 ? a : std::is_signed_v<T> && b == (T)-1 ? 0 : (T)(a % b);
}

#endif
