/* CUDA on the CPU, as far as our kernels go: lets the .cu files compile as C++ and run their blocks
 * one after the other, every thread of a block a fiber. Barriers and warp exchanges are real: a
 * thread runs until it waits, so that whatever was read without a barrier is read too early. The
 * order of threads and blocks can be turned round (CUDA_SHIM_ORDER=1 in the environment), new
 * memory holds NaN: what depends on either is a bug that the GPU would show now and then.
 * For tests only; one host thread. */
#ifndef KERNELS_CUDA_SHIM_H
#define KERNELS_CUDA_SHIM_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};

/* The thread that runs now. */
extern dim3 shim_grid, shim_block, shim_block_idx;
extern unsigned shim_tid;
#define gridDim shim_grid
#define blockDim shim_block
#define blockIdx shim_block_idx
#define threadIdx (dim3(shim_tid))

extern unsigned char *shim_shared; /* the block's dynamic shared memory */
void shim_barrier();               /* of the block */
void shim_warp_barrier();
uint64_t *shim_warp_slots();       /* 8 x 32 words for exchanges between the lanes of a warp */
void shim_run(dim3 grid, unsigned n_thread, size_t shared_bytes, void (*fn)(void *), void *ctx);

static inline void __syncthreads() { shim_barrier(); }
static inline void __syncwarp(unsigned = 0xffffffffu) { shim_warp_barrier(); }

/* Hands v to the other lanes and takes that of `from`. */
template <typename T> static inline T shim_exchange(T v, unsigned from)
{
    static_assert(sizeof(T) <= 8, "one word");
    uint64_t *slot = shim_warp_slots(), word = 0;
    memcpy(&word, &v, sizeof v);
    slot[shim_tid % 32] = word;
    shim_warp_barrier();
    T ret;
    memcpy(&ret, &slot[from % 32], sizeof ret);
    shim_warp_barrier();
    return ret;
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T v, int mask)
{
    return shim_exchange(v, shim_tid % 32 ^ (unsigned)mask);
}
template <typename T> static inline T __shfl_sync(unsigned, T v, int lane)
{
    return shim_exchange(v, (unsigned)lane);
}

static inline float atomicAdd(float *at, float v)
{
    float was = *at;
    *at += v;
    return was;
}
static inline uint32_t atomicMax(uint32_t *at, uint32_t v)
{
    uint32_t was = *at;
    *at = was > v ? was : v;
    return was;
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int8_t)((uint32_t)a >> 8 * i) * (int8_t)((uint32_t)b >> 8 * i);
    return c;
}
static inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t pick)
{
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t ret = 0;
    for (int i = 0; i < 4; i++)
        ret |= (uint32_t)(both >> 8 * (pick >> 4 * i & 7) & 255) << 8 * i;
    return ret;
}

/* The part of the runtime that the backend calls. */
typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorMemoryAllocation = 2, cudaErrorLaunchFailure = 719 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
cudaError_t cudaMalloc(void **ret, size_t size);
cudaError_t cudaFree(void *p);
static inline cudaError_t cudaMallocHost(void **ret, size_t size) { return cudaMalloc(ret, size); }
static inline cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
/* A test sets it: after so many more waits the device has failed for good, as after an access out
 * of bounds: waits and copies say so, nothing is copied and nothing runs. Negative = never. */
extern "C" int shim_waits_left;
static inline cudaError_t shim_state()
{
    return shim_waits_left ? cudaSuccess : cudaErrorLaunchFailure;
}
/* What comes back arrives when it is waited for and not before, as late as a device may be: whoever
 * looks without waiting sees what was there. A second stream also reads its source only then. */
struct shim_event;
typedef shim_event *cudaEvent_t;
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
static inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return shim_state(); /* what runs on the first stream has run */
}
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t stream);
static inline cudaError_t cudaMemsetAsync(void *to, int v, size_t n, cudaStream_t)
{
    memset(to, v, n);
    return cudaSuccess;
}
static inline cudaError_t cudaGetLastError() { return cudaSuccess; }
static inline const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaErrorMemoryAllocation ? "out of memory" : "unspecified launch failure";
}

template <typename F> struct shim_call {
    F f;
    static void run(void *p) { static_cast<shim_call *>(p)->f(); }
};
template <typename F>
static inline void shim_start(dim3 grid, unsigned n_thread, size_t shared_bytes, F f)
{
    shim_call<F> call = {f};
    shim_run(grid, n_thread, shared_bytes, call.run, &call);
}

#endif
