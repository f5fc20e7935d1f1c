/* The part of the CUDA runtime that our module calls, for objects that nvcc has made with PTX in
 * them
 * (--no-compress): the device is of the compute capability that it is made for. What comes back
 * from it arrives when it is waited for and not before. */
#include "tests/ptx/ptx.h"

#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "kernels/cuda/late.h"

/* ---- modules ---- */

struct unit {
    const char *text; /* parsed when a kernel of it is first launched */
    ptx_module *m;
};

struct kernel {
    unit *of;
    std::string name;
    const function *f;
    size_t shared_most; /* cudaFuncSetAttribute */
};

static int capability; /* 90 */

static std::unordered_map<const void *, kernel> &kernels(void)
{
    static std::unordered_map<const void *, kernel> ret;
    return ret;
}

/* A "fat binary", as nvcc writes it: entries of {u16 kind, u16 version, u32 bytes of this header,
 * u64 bytes of what follows}, of kind 1 = PTX. */
static const char *ptx_of(const unsigned char *fat)
{
    uint16_t header, kind;
    uint32_t entry;
    uint64_t bytes, all;
    memcpy(&header, fat + 6, 2);
    memcpy(&all, fat + 8, 8);
    const unsigned char *at = fat + header, *end = at + all;
    for (; at < end; at += entry + bytes) {
        memcpy(&kind, at, 2);
        memcpy(&entry, at + 4, 4);
        memcpy(&bytes, at + 8, 8);
        if (kind == 1)
            return (const char *)at + entry;
    }
    ptx_die("no PTX in a module");
}

extern "C" void **__cudaRegisterFatBinary(void *wrapper)
{
    const unsigned char *fat;
    memcpy(&fat, (const char *)wrapper + 8, sizeof fat);
    unit *u = new unit{ptx_of(fat), nullptr};
    const char *target = strstr(u->text, ".target sm_");
    capability = target ? atoi(target + strlen(".target sm_")) : 0;
    return (void **)u;
}

extern "C" void __cudaRegisterFatBinaryEnd(void **)
{
}
extern "C" void __cudaUnregisterFatBinary(void **)
{
}
/* Our host code does not name the device's variables. */
extern "C" void __cudaRegisterVar(void **, char *, char *, const char *, int, size_t, int, int)
{
}

extern "C" void __cudaRegisterFunction(void **handle, const char *host, char *, const char *name,
                                       int, uint3 *, uint3 *, dim3 *, dim3 *, int *)
{
    kernels()[host] = {(unit *)handle, name, nullptr, SHARED_PLAIN};
}

static kernel &kernel_of(const void *host)
{
    auto it = kernels().find(host);
    if (it == kernels().end())
        ptx_die("a launch of what is no kernel");
    kernel &k = it->second;
    if (!k.of->m)
        k.of->m = ptx_parse(k.of->text);
    if (!k.f) {
        auto f = k.of->m->by_name.find(k.name);
        if (f == k.of->m->by_name.end())
            ptx_die("no code for %s", k.name.c_str());
        k.f = &k.of->m->functions[(size_t)f->second];
    }
    return k;
}

/* ---- launches ---- */

struct noted {
    launch l;
    std::vector<unsigned char> param;
};
struct graph {
    std::vector<noted> launches;
};
static graph *capture;
static cudaError_t last_error;

static void run(const noted &n)
{
    launch l = n.l;
    l.param = n.param.data();
    ptx_run(l);
}

/* What a block may ask for (CUDA's programming guide, compute capabilities). */
static size_t shared_most(void)
{
    return (size_t)(capability >= 90   ? SHARED_MOST
                    : capability >= 86 ? 99 << 10
                    : capability >= 80 ? 163 << 10
                                       : 64 << 10);
}

/* Why a device would refuse it; NULL = it would not. */
static const char *refusal(const kernel &k, dim3 grid, dim3 block, size_t shared)
{
    uint64_t threads = (uint64_t)block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0)
        return "an empty grid";
    if (grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535)
        return "too large a grid";
    if (threads > BLOCK_THREADS || (k.f->max_threads && threads > k.f->max_threads))
        return "too many threads";
    /* a kernel may have 255 registers a thread where nothing is said, a block 65,536 */
    if (threads > 256 && !k.f->max_threads)
        return "so many threads without __launch_bounds__ may have too many registers";
    if (shared > k.shared_most)
        return "more shared memory than was asked for";
    return nullptr;
}

static dim3 next_grid, next_block;
static size_t next_shared;
static cudaStream_t next_stream, main_stream; /* main: where kernels run */

extern "C" unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared,
                                                cudaStream_t stream)
{
    next_grid = grid, next_block = block, next_shared = shared, next_stream = stream;
    return 0;
}

extern "C" cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared,
                                                  void *stream)
{
    *grid = next_grid, *block = next_block, *shared = next_shared;
    *(cudaStream_t *)stream = next_stream;
    return cudaSuccess;
}

extern "C" cudaError_t __cudaGetKernel(cudaKernel_t *ret, const void *host)
{
    *ret = (cudaKernel_t)host;
    return cudaSuccess;
}

extern "C" cudaError_t __cudaLaunchKernel(cudaKernel_t host, dim3 grid, dim3 block, void **args,
                                          size_t shared, cudaStream_t stream)
{
    main_stream = stream;
    kernel &k = kernel_of(host);
    const char *why = refusal(k, grid, block, shared);
    if (why)
        ptx_die("%s refused: %s (grid %u,%u,%u, %u threads, %zu bytes)", k.name.c_str(), why,
                grid.x, grid.y, grid.z, block.x * block.y * block.z, shared);
    noted n = {{k.of->m,
                k.f,
                {grid.x, grid.y, grid.z},
                {block.x, block.y, block.z},
                (uint32_t)shared,
                nullptr},
               std::vector<unsigned char>(k.f->param_bytes + 16)};
    for (size_t i = 0; i < k.f->param.size(); i++)
        memcpy(&n.param[k.f->param[i].at], args[i], k.f->param[i].bytes);
    if (capture)
        capture->launches.push_back(n);
    else
        run(n);
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *host, cudaFuncAttribute what, int value)
{
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize)
        ptx_die("unknown attribute %d of a kernel", what);
    if (value < 0 || (size_t)value > shared_most())
        return last_error = cudaErrorInvalidValue;
    kernel &k = kernel_of(host);
    k.shared_most = std::max(k.shared_most, (size_t)value);
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    capture = new graph;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *ret)
{
    *ret = (cudaGraph_t)capture;
    capture = nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ret, cudaGraph_t g, unsigned long long)
{
    *ret = (cudaGraphExec_t) new graph(*(graph *)g);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete (graph *)g;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g)
{
    delete (graph *)g;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t)
{
    for (const noted &n : ((graph *)g)->launches)
        run(n);
    return cudaSuccess;
}

/* ---- memory ---- */

static cudaError_t allocate(void **ret, size_t size)
{
    if (capture)
        ptx_die("memory is asked for while a graph is noted");
    if (size > (size_t)64 << 30)
        return last_error = cudaErrorMemoryAllocation;
    size_t whole = (size + 255) / 256 * 256;
    *ret = aligned_alloc(256, whole ? whole : 256);
    if (!*ret)
        return last_error = cudaErrorMemoryAllocation;
    if (size < (size_t)64 << 20)
        memset(*ret, 0xff, whole);
    memory_add(*ret, size);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **ret, size_t size)
{
    return allocate(ret, size);
}

cudaError_t cudaMallocHost(void **ret, size_t size)
{
    return allocate(ret, size); /* kernels may read it too */
}

cudaError_t cudaFree(void *p)
{
    if (p)
        memory_remove(p);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    return cudaFree(p);
}

static void need_device(const void *p, size_t n)
{
    uint64_t from, to;
    if (n && !memory_find((uint64_t)p, n, &from, &to))
        ptx_die("a copy of %zu bytes beyond the device's memory", n);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (capture)
        ptx_die("a copy while a graph is noted");
    if (kind != cudaMemcpyDeviceToHost)
        need_device(to, n);
    if (kind != cudaMemcpyHostToDevice)
        need_device(from, n);
    if (kind == cudaMemcpyDeviceToHost)
        late_add(stream, to, from, n, stream == main_stream);
    else
        memmove(to, from, n);
    return cudaSuccess;
}

/* ---- streams ---- */

struct CUevent_st {
    cudaStream_t stream;
    uint64_t turn;
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned)
{
    *ret = (cudaStream_t)malloc(1);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    late_arrive(s, late_now());
    free(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (capture)
        ptx_die("a wait while a graph is noted");
    late_arrive(s, late_now());
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned)
{
    return cudaSuccess; /* what runs on the first stream has run */
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned)
{
    *ret = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    delete e;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    *e = {s, late_now()};
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    late_arrive(e->stream, e->turn);
    return cudaSuccess;
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *ret)
{
    *ret = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *ret)
{
    *ret = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *ret, int)
{
    memset(ret, 0, sizeof *ret);
    snprintf(ret->name, sizeof ret->name, "PTX on the CPU");
    ret->major = capability / 10;
    ret->minor = capability % 10;
    ret->multiProcessorCount = 3; /* few, so that small problems are split as large ones are */
    ret->sharedMemPerBlockOptin = shared_most();
    ret->totalGlobalMem = (size_t)4 << 30;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *ret, int n, int)
{
    snprintf(ret, (size_t)n, "0000:00:00.0");
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *ret_free, size_t *ret_all)
{
    *ret_free = *ret_all = (size_t)4 << 30;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

const char *cudaGetErrorString(cudaError_t e)
{
    return e == cudaSuccess                 ? "no error"
           : e == cudaErrorMemoryAllocation ? "out of memory"
                                            : "an error";
}

/* ---- cuBLAS: as its documentation has it, column by column ---- */

typedef int status;
extern "C" status cublasCreate_v2(void **ret)
{
    *ret = malloc(1);
    return 0;
}
extern "C" status cublasDestroy_v2(void *h)
{
    free(h);
    return 0;
}
extern "C" status cublasSetStream_v2(void *, cudaStream_t)
{
    return 0;
}
extern "C" status cublasSetPointerMode_v2(void *, int mode)
{
    return mode == 1 ? 0 : 7;
}

static float element(const void *at, int type, size_t i)
{
    if (type == 0)
        return ((const float *)at)[i];
    _Float16 h;
    memcpy(&h, (const char *)at + 2 * i, 2);
    return (float)h;
}

/* c [m, n] = alpha a^T b + beta c; a [k, m], b [k, n], of f16 (2) or float32 (0). */
extern "C" status cublasGemmEx(void *, int op_a, int op_b, int m, int n, int k, const void *alpha,
                               const void *a, int type_a, int lda, const void *b, int type_b,
                               int ldb, const void *beta, void *c, int type_c, int ldc, int, int)
{
    if (op_a != 1 || op_b != 0 || type_c != 0 || lda < k || ldb < k || ldc < m)
        return 7;
    size_t size_a = type_a ? 2 : 4, size_b = type_b ? 2 : 4;
    need_device(a, ((size_t)lda * (m - 1) + k) * size_a);
    need_device(b, ((size_t)ldb * (n - 1) + k) * size_b);
    need_device(c, ((size_t)ldc * (n - 1) + m) * sizeof(float));
    need_device(alpha, sizeof(float));
    need_device(beta, sizeof(float));
    std::vector<float> row(k), in((size_t)k * n);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < k; i++)
            in[(size_t)j * k + i] = element(b, type_b, (size_t)j * ldb + i);
    for (int r = 0; r < m; r++) {
        for (int i = 0; i < k; i++)
            row[i] = element(a, type_a, (size_t)r * lda + i);
        for (int j = 0; j < n; j++) {
            float sum = 0, *to = (float *)c + (size_t)j * ldc + r;
            for (int i = 0; i < k; i++)
                sum += row[i] * in[(size_t)j * k + i];
            *to = *(const float *)alpha * sum +
                  (*(const float *)beta != 0 ? *(const float *)beta * *to : 0);
        }
    }
    return 0;
}
