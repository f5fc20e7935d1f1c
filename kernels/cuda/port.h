/* What the kernels are written on: CUDA, or the shim that runs them on the CPU. Everything that
 * differs between the two, and between compute capabilities, is in this file. */
#ifndef KERNELS_CUDA_PORT_H
#define KERNELS_CUDA_PORT_H

#include "kernels/kernels.h"

#include <utility>

#ifdef CUDA_SHIM
#include "kernels/cuda/shim.h"
#define DYNAMIC_SHARED(name) unsigned char *name = shim_shared
#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

/* ---- launches ---- */

struct kern_cuda;
enum { CALL_BYTES = 832 }; /* KERN_MATS products */

/* One launch as data: two that do the same are equal byte for byte, so arguments that are structs
 * have no padding. */
struct launch_call {
    void (*run)(const struct launch_call *, cudaStream_t);
    void (*kernel)();
    unsigned grid[3], n_thread;
    size_t shared_bytes;
    alignas(16) unsigned char arg[CALL_BYTES];
};

/* Runs it, or notes it for later (step.cu). */
void cuda_call(struct kern_cuda *c, const struct launch_call *call);

template <typename... P> constexpr size_t arg_at(size_t i)
{
    const size_t size[] = {sizeof(P)...}, align[] = {alignof(P)...};
    size_t at = 0;
    for (size_t j = 0; j < i; j++)
        at = (at + align[j] - 1) / align[j] * align[j] + size[j];
    return i < sizeof...(P) ? (at + align[i] - 1) / align[i] * align[i] : at;
}

template <typename T> static inline void arg_put(unsigned char *to, T v)
{
    memcpy(to, &v, sizeof v);
}

template <typename T> static inline T arg_get(const unsigned char *from)
{
    T v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <typename... P> struct launch_of {
    template <size_t... I>
    static void start(const struct launch_call *l, cudaStream_t stream, std::index_sequence<I...>)
    {
        void (*kernel)(P...) = (void (*)(P...))l->kernel;
        dim3 grid(l->grid[0], l->grid[1], l->grid[2]);
#ifdef CUDA_SHIM
        auto f = [=]() { kernel(arg_get<P>(l->arg + arg_at<P...>(I))...); };
        shim_start(grid, l->n_thread, l->shared_bytes, f);
#else
        kernel<<<grid, l->n_thread, l->shared_bytes, stream>>>(
            arg_get<P>(l->arg + arg_at<P...>(I))...);
#endif
    }
    static void run(const struct launch_call *l, cudaStream_t stream)
    {
        start(l, stream, std::index_sequence_for<P...>());
    }
};

template <typename... P, typename... A>
static inline void launch(void (*kernel)(P...), dim3 grid, unsigned n_thread, size_t shared_bytes,
                          struct kern_cuda *c, A... args)
{
    static_assert(arg_at<P...>(sizeof...(P)) <= CALL_BYTES, "raise CALL_BYTES");
    struct launch_call l;
    memset(&l, 0, sizeof l);
    l.run = launch_of<P...>::run;
    l.kernel = (void (*)())kernel;
    l.grid[0] = grid.x, l.grid[1] = grid.y, l.grid[2] = grid.z;
    l.n_thread = n_thread;
    l.shared_bytes = shared_bytes;
    size_t i = 0;
    (arg_put<P>(l.arg + arg_at<P...>(i++), static_cast<P>(args)), ...);
#ifndef CUDA_SHIM
    if (shared_bytes > 48 << 10)
        cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             (int)shared_bytes);
#endif
    cuda_call(c, &l);
}

#define FULL_WARP 0xffffffffu
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__

/* ---- f16 as raw bits ---- */

DEVICE float half_value(uint16_t h)
{
#ifdef CUDA_SHIM
    return kern_f16_to_f32(h);
#else
    return __half2float(__ushort_as_half(h));
#endif
}

DEVICE uint16_t half_of(float f)
{
#ifdef CUDA_SHIM
    return kern_f32_to_f16(f);
#else
    return __half_as_ushort(__float2half_rn(f));
#endif
}

/* Two of them in a register, a in the low half. */
DEVICE uint32_t half_pair(float a, float b)
{
#ifdef CUDA_SHIM
    return half_of(a) | (uint32_t)half_of(b) << 16;
#else
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
#endif
}

/* What two floats lose by half_pair, as another pair. */
DEVICE uint32_t half_pair_rest(float a, float b, uint32_t pair)
{
    return half_pair(a - half_value((uint16_t)pair), b - half_value((uint16_t)(pair >> 16)));
}

DEVICE float bf16_value(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* ---- matrix units ---- */

/* d += a * b with a [16][16], b [16][8] of f16 and d [16][8] of float32, spread over a warp as
 * PTX's mma.m16n8k16 has it. With g = lane / 4, t = lane % 4:
 *   a[0]: row g, columns 2t, 2t+1;  a[1]: row g+8;  a[2], a[3]: the same, columns + 8
 *   b[0]: rows 2t, 2t+1, column g;  b[1]: rows + 8
 *   d[0], d[1]: row g, columns 2t, 2t+1;  d[2], d[3]: row g+8 */
DEVICE void mma_f16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
#ifdef CUDA_SHIM
    uint64_t *slot = shim_warp_slots();
    unsigned lane = shim_tid % 32, g = lane / 4, t = lane % 4;
    slot[lane] = a[0] | (uint64_t)a[1] << 32;
    slot[32 + lane] = a[2] | (uint64_t)a[3] << 32;
    slot[64 + lane] = b0 | (uint64_t)b1 << 32;
    shim_warp_barrier();
    for (unsigned i = 0; i < 4; i++) {
        unsigned col = 2 * t + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            unsigned from = k % 8 / 2, high = 16 * (k % 2);
            uint64_t wa = slot[(k / 8) * 32 + g * 4 + from] >> (i / 2 * 32 + high);
            uint64_t wb = slot[64 + col * 4 + from] >> (k / 8 * 32 + high);
            sum += half_value((uint16_t)wa) * half_value((uint16_t)wb);
        }
        d[i] += sum;
    }
    shim_warp_barrier();
#elif __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

/* Four 8x8 matrices of f16 from shared memory, transposed: lane l names row l%8 of matrix l/8
 * (16-byte aligned) and gets of each matrix rows 2t, 2t+1 of column g. */
DEVICE void load_turned(uint32_t r[4], const uint16_t *row)
{
#ifdef CUDA_SHIM
    uint64_t *slot = shim_warp_slots();
    unsigned lane = shim_tid % 32, g = lane / 4, t = lane % 4;
    slot[lane] = (uint64_t)(uintptr_t)row;
    shim_warp_barrier();
    for (unsigned i = 0; i < 4; i++) {
        const uint16_t *lo = (const uint16_t *)(uintptr_t)slot[8 * i + 2 * t];
        const uint16_t *hi = (const uint16_t *)(uintptr_t)slot[8 * i + 2 * t + 1];
        r[i] = lo[g] | (uint32_t)hi[g] << 16;
    }
    shim_warp_barrier();
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#endif
}

/* Byte i: of the eight of a (lowest first) and b the one that nibble i of `pick` numbers, 0 where it
 * is 8 or more. No byte of a and b has its top bit, which is what the instruction repeats there. */
DEVICE uint32_t bytes_or_0(uint32_t a, uint32_t b, uint32_t pick)
{
#ifdef CUDA_SHIM
    uint32_t ret = __byte_perm(a, b, pick);
    for (int i = 0; i < 4; i++)
        if (pick >> (4 * i + 3) & 1)
            ret &= ~(0xffu << 8 * i);
    return ret;
#else
    uint32_t ret;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(ret) : "r"(a), "r"(b), "r"(pick));
    return ret;
#endif
}

/* ---- over a warp ---- */

DEVICE float warp_sum(float x)
{
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(FULL_WARP, x, i);
    return x;
}

/* Over the four lanes that share a row of a fragment. */
DEVICE float quad_sum(float x)
{
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

DEVICE float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}

/* The largest power of two not above |x| times 2^up, inverted; 1 for 0. Exact: it scales numbers
 * into the range of f16 and back. */
DEVICE float power_under(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    uint32_t e = u >> 23 & 255;
    e = e < 27 ? 27 : e > 227 ? 227 : e; /* of 2^-100 .. 2^100 */
    u = e << 23;
    memcpy(&x, &u, 4);
    return x;
}

#endif
