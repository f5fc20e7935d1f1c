/* Opening a device, its memory, and what is kept there between ops. */
#include "kernels/cuda/backend.h"
#include "kernels/page.h"

#include <stdarg.h>
#include <stdio.h>

bool cuda_ok(struct kern_cuda *c, cudaError_t e)
{
    if (e != cudaSuccess && c->error == cudaSuccess)
        c->error = e;
    return e == cudaSuccess;
}

/* Through page-locked memory of our own: the caller may reuse its bytes at once, whatever the driver
 * makes of ordinary memory, and nobody waits before all of it is on its way. */
void cuda_put(struct kern_cuda *c, void *dev, const void *host, size_t size_bytes)
{
    const char *from = (const char *)host;
    char *to = (char *)dev;
    cudaStream_t stream = cuda_stream(c);
    for (size_t at = 0; at < size_bytes;) {
        size_t n = size_bytes - at < CUDA_STAGING_BYTES / 2 ? size_bytes - at : CUDA_STAGING_BYTES / 2;
        if (c->put_at + n > CUDA_STAGING_BYTES) {
            cuda_ok(c, cudaStreamSynchronize(stream));
            c->put_at = 0;
        }
        memcpy(c->putting + c->put_at, from + at, n);
        cuda_ok(c, cudaMemcpyAsync(to + at, c->putting + c->put_at, n, cudaMemcpyHostToDevice, stream));
        c->put_at += (n + 63) / 64 * 64;
        at += n;
    }
}

/* Where this piece is noted; NULL for what was not handed out. */
static void **locked_at(struct kern_cuda *c, const void *host)
{
    for (int i = 0; i < CUDA_HOST_PIECES; i++)
        if (c->locked[i] == host)
            return &c->locked[i];
    return NULL;
}

void cuda_get(struct kern_cuda *c, void *host, const void *dev, size_t size_bytes)
{
    const char *from = (const char *)dev;
    char *to = (char *)host;
    if (locked_at(c, host)) {
        cuda_ok(c, cudaMemcpyAsync(host, dev, size_bytes, cudaMemcpyDeviceToHost, cuda_stream(c)));
        cuda_ok(c, cudaStreamSynchronize(c->stream));
        return;
    }
    for (size_t at = 0; at < size_bytes;) { /* through page-locked memory: faster, and no surprises */
        size_t n = size_bytes - at < CUDA_STAGING_BYTES ? size_bytes - at : CUDA_STAGING_BYTES;
        cudaStream_t stream = cuda_stream(c);
        cuda_ok(c, cudaMemcpyAsync(c->staging, from + at, n, cudaMemcpyDeviceToHost, stream));
        cuda_ok(c, cudaStreamSynchronize(stream));
        memcpy(to + at, c->staging, n);
        at += n;
    }
}

void *cuda_near(struct kern_cuda *c, size_t size_bytes)
{
    if (c->near_bytes < size_bytes) {
        free(c->near);
        c->near = aligned_alloc(64, (size_bytes + 63) / 64 * 64);
        c->near_bytes = c->near ? size_bytes : 0;
    }
    return c->near;
}

/* ---- block tables ---- */

const struct kern_kv_block *cuda_table_of(struct kern_cuda *c, const struct kern_kv *kv)
{
    size_t size = sizeof *kv->block * (size_t)kv->n_head_kv * (size_t)kv->n_block_cap;
    struct cuda_table *t = NULL, *oldest = &c->table[0];
    for (int i = 0; i < CUDA_TABLES && !t; i++) {
        if (c->table[i].host == kv->block)
            t = &c->table[i];
        else if (c->table[i].used < oldest->used)
            oldest = &c->table[i];
    }
    t = t ? t : oldest;
    t->used = ++c->clock;
    bool same = t->host == kv->block && kv->stamp != 0 && t->stamp == kv->stamp &&
                t->size_bytes >= size;
    if (same)
        return t->dev;
    if (t->size_bytes < size) {
        arena_free(c, t->dev);
        t->dev = (struct kern_kv_block *)arena_alloc(c, size);
        t->size_bytes = t->dev ? size : 0;
        if (!t->dev) {
            t->host = NULL;
            cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
            return NULL;
        }
    }
    t->host = kv->block;
    t->stamp = kv->stamp;
    cuda_put(c, t->dev, kv->block, size);
    return t->dev;
}

/* ---- masses ---- */

/* Adds what the device has summed to the host's arrays: one wait for as many as staging holds. */
static void masses_flush(struct kern_cuda *c)
{
    size_t at = 0;
    for (int first = 0, i = 0; i <= CUDA_TABLES; i++) {
        struct cuda_mass *m = i < CUDA_TABLES ? &c->mass[i] : NULL;
        size_t size = m && m->dirty ? m->n * sizeof(float) : 0;
        if (at > 0 && (!m || at + size > CUDA_STAGING_BYTES)) {
            const float *got = (const float *)c->staging;
            cuda_ok(c, cudaStreamSynchronize(c->stream));
            for (; first < i; first++) {
                struct cuda_mass *done = &c->mass[first];
                for (size_t j = 0; done->dirty && j < done->n; j++)
                    done->host[j] += got[j];
                got += done->dirty ? done->n : 0;
                done->dirty = false;
            }
            at = 0;
        }
        if (size == 0)
            continue;
        cuda_ok(c, cudaMemcpyAsync((char *)c->staging + at, m->dev, size, cudaMemcpyDeviceToHost,
                                   cuda_stream(c)));
        cuda_fill(c, m->dev, 0, m->n);
        at += size;
    }
}

float *cuda_mass_of(struct kern_cuda *c, float *host, size_t n)
{
    struct cuda_mass *m = NULL;
    for (int i = 0; i < CUDA_TABLES && !m; i++)
        if (c->mass[i].host == host || !c->mass[i].host)
            m = &c->mass[i];
    if (n * sizeof(float) > CUDA_STAGING_BYTES)
        return NULL;
    if (!m) { /* all places are taken: one of them starts anew */
        masses_flush(c);
        m = &c->mass[c->clock++ % CUDA_TABLES];
    }
    if (m->cap < n) {
        masses_flush(c);
        arena_free(c, m->dev);
        m->dev = (float *)arena_alloc(c, sizeof(float) * n);
        if (!m->dev) {
            *m = {};
            return NULL;
        }
        m->cap = n;
        cuda_fill(c, m->dev, 0, n);
    }
    m->n = n;
    m->host = host;
    m->dirty = true;
    return m->dev;
}

/* ---- memory ops ---- */

static void *op_alloc(struct kern *k, size_t size_bytes)
{
    return arena_alloc(cuda_of(k), size_bytes);
}

static void op_free(struct kern *k, void *dev)
{
    arena_free(cuda_of(k), dev);
}

static void *op_host_alloc(struct kern *k, size_t size_bytes)
{
    void **at = locked_at(cuda_of(k), NULL);
    if (!at || cudaMallocHost(at, size_bytes) == cudaSuccess)
        return at ? *at : NULL;
    cudaGetLastError(); /* told by the NULL */
    return *at = NULL;
}

static void op_host_free(struct kern *k, void *host)
{
    *locked_at(cuda_of(k), host) = NULL;
    cudaFreeHost(host);
}

static void op_upload(struct kern *k, void *dev, const void *host, size_t size_bytes)
{
    cuda_put(cuda_of(k), dev, host, size_bytes);
}

static void op_download(struct kern *k, void *host, const void *dev, size_t size_bytes)
{
    cuda_get(cuda_of(k), host, dev, size_bytes);
}

static void op_copy(struct kern *k, void *dev, const void *from_dev, size_t size_bytes)
{
    struct kern_cuda *c = cuda_of(k);
    cuda_ok(c, cudaMemcpyAsync(dev, from_dev, size_bytes, cudaMemcpyDeviceToDevice, cuda_stream(c)));
}

static void op_clear(struct kern *k, void *dev, size_t size_bytes)
{
    cuda_fill(cuda_of(k), dev, 0, size_bytes / 4);
}

/* After it nothing on the device speaks of host arrays any more: the caller may free them. */
static void op_sync(struct kern *k)
{
    struct kern_cuda *c = cuda_of(k);
    masses_flush(c);
    for (int i = 0; i < CUDA_TABLES; i++)
        c->mass[i].host = NULL;
    pages_collect(c);
    cuda_ok(c, cudaStreamSynchronize(cuda_stream(c)));
    cuda_ok(c, cudaGetLastError());
}

static const char *op_error(struct kern *k)
{
    struct kern_cuda *c = cuda_of(k);
    cuda_ok(c, cudaGetLastError());
    cudaError_t e = c->error;
    return e == cudaSuccess ? NULL : cudaGetErrorString(e);
}

static void op_close(struct kern *k)
{
    struct kern_cuda *c = cuda_of(k);
    if (c->stream)
        cudaStreamSynchronize(cuda_stream(c));
    step_close(c->step);
    pages_close(c->pages);
    gemm_close(c->gemm);
    arena_close(c);
    if (c->staging)
        cudaFreeHost(c->staging);
    if (c->putting)
        cudaFreeHost(c->putting);
#ifndef CUDA_SHIM
    if (c->stream)
        cudaStreamDestroy(c->stream);
#endif
    free(c->near);
    free(c);
}

static uint64_t op_memory_free(struct kern *k)
{
#ifdef CUDA_SHIM
    return (uint64_t)4 << 30;
#else
    size_t left = 0, all = 0;
    return cudaMemGetInfo(&left, &all) == cudaSuccess ? left : 0;
#endif
}

static uint64_t op_memory_used(struct kern *k)
{
    return arena_bytes(cuda_of(k));
}

static const struct kern_ops ops_cuda = {
    .close = op_close,
    .alloc = op_alloc,
    .free = op_free,
    .host_alloc = op_host_alloc,
    .host_free = op_host_free,
    .upload = op_upload,
    .download = op_download,
    .copy = op_copy,
    .clear = op_clear,
    .sync = op_sync,
    .error = op_error,
    .memory_free = op_memory_free,
    .memory_used = op_memory_used,
    .weight_size = cuda_weight_size,
    .weight_new = cuda_weight_new,
    .weight_keep = cuda_weight_keep,
    .weight_owns = cuda_weight_owns,
    .weight_free = cuda_weight_free,
    .embed = cuda_embed,
    .matmul = cuda_matmul,
    .rmsnorm = cuda_rmsnorm,
    .center = cuda_center,
    .rope = cuda_rope,
    .kv_write = cuda_kv_write,
    .attend = cuda_attend,
    .seal = cuda_seal,
    .demote = cuda_demote,
    .score = cuda_score,
    .bounds = cuda_bounds,
    .glu = cuda_glu,
    .add = cuda_add,
    .scale = cuda_scale,
    .sink = cuda_sink,
    .take_rows = cuda_take_rows,
    .add_rows = cuda_add_rows,
    .softcap = cuda_softcap,
    .conv = cuda_conv,
    .delta = cuda_delta,
    .scan = cuda_scan,
};

/* ---- devices ---- */

#ifdef CUDA_SHIM

static int32_t module_n_device(char *why, size_t why_bytes)
{
    return 1;
}

static bool module_describe(int32_t device, struct cuda_device *ret)
{
    memset(ret, 0, sizeof *ret);
    snprintf(ret->name, sizeof ret->name, "host shim");
    snprintf(ret->pci, sizeof ret->pci, "0000:00:00.0");
    ret->capability = 80;
    ret->n_sm = 2;
    ret->total_bytes = ret->free_bytes = (uint64_t)4 << 30;
    ret->gemm = gemm_there();
    return device == 0;
}

static bool device_begin(struct kern_cuda *c, int32_t device, char *why, size_t why_bytes)
{
    c->n_sm = 2;
    c->sm = 80;
    c->shared_most = 160 << 10;
    c->scratch_bytes = 64 << 20;
    return true;
}

#else

enum { CAPABILITY_LEAST = 75 };

static int32_t module_n_device(char *why, size_t why_bytes)
{
    int n = 0, driver = 0;
    cudaDriverGetVersion(&driver);
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaSuccess && n > 0)
        return n;
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver && driver > 0)
        snprintf(why, why_bytes,
                 "the NVIDIA driver speaks CUDA %d.%d, this build needs %d.%d; update the driver or "
                 "use --backend cpu",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                 CUDART_VERSION % 1000 / 10);
    else if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || n == 0)
        snprintf(why, why_bytes, "no CUDA device; use --backend cpu");
    else
        snprintf(why, why_bytes, "no CUDA device: %s; use --backend cpu", cudaGetErrorString(e));
    return 0;
}

static bool module_describe(int32_t device, struct cuda_device *ret)
{
    cudaDeviceProp p;
    size_t left = 0, all = 0;
    int driver = 0;
    memset(ret, 0, sizeof *ret);
    if (cudaGetDeviceProperties(&p, device) != cudaSuccess || cudaSetDevice(device) != cudaSuccess ||
        cudaMemGetInfo(&left, &all) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    cudaDriverGetVersion(&driver);
    snprintf(ret->name, sizeof ret->name, "%.120s", p.name);
    if (cudaDeviceGetPCIBusId(ret->pci, sizeof ret->pci, device) != cudaSuccess)
        ret->pci[0] = 0;
    ret->capability = 10 * p.major + p.minor;
    ret->n_sm = p.multiProcessorCount;
    ret->total_bytes = all;
    ret->free_bytes = left;
    ret->driver = driver;
    ret->runtime = CUDART_VERSION;
    ret->gemm = gemm_there();
    return true;
}

static bool device_begin(struct kern_cuda *c, int32_t device, char *why, size_t why_bytes)
{
    cudaDeviceProp p;
    cudaError_t e = cudaSetDevice(device);
    if (e == cudaSuccess)
        e = cudaGetDeviceProperties(&p, device);
    if (e == cudaSuccess && 10 * p.major + p.minor < CAPABILITY_LEAST) {
        snprintf(why, why_bytes,
                 "%.100s has compute capability %d.%d, at least %d.%d is needed; use --backend cpu",
                 p.name, p.major, p.minor, CAPABILITY_LEAST / 10, CAPABILITY_LEAST % 10);
        return false;
    }
    if (e == cudaSuccess)
        e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    if (e != cudaSuccess) {
        cudaGetLastError();
        snprintf(why, why_bytes, "CUDA device %d cannot be used: %s; use --backend cpu", device,
                 cudaGetErrorString(e));
        return false;
    }
    c->n_sm = p.multiProcessorCount;
    c->sm = 10 * p.major + p.minor;
    c->shared_most = p.sharedMemPerBlockOptin;
    c->scratch_bytes = CUDA_SCRATCH_BYTES;
    return true;
}
#endif

/* What takes device memory when it first runs, before anybody asks how much is free: the stacks of
 * sealing threads (as many as a device can hold: hundreds of MB) and what cuBLAS works in. */
static bool run_once(struct kern_cuda *c)
{
    enum { D = 64, N = D * PAGE_TOK };
    const struct page_shape shape = {D, 8, 8};
    struct cuda_cut cut = cuda_cut_begin(c);
    unsigned char *at = cut.end - (64 << 10); /* sealing takes scratch from its other end */
    uint16_t *rows = (uint16_t *)at;
    float *alpha = (float *)(rows + N), *dst = alpha + D;
    struct kern_seal job = {rows, rows, (struct kern_page *)cuda_near(c, page_size(&shape)),
                            (struct kern_page *)dst, 0};
    if (!job.page)
        return false;
    cuda_fill(c, at, 0, (cut.end - at) / 4);
    cuda_seal(&c->base, &job, 1, D, shape.bits_k, shape.bits_v, 0);
    const struct gemm_call product = {KERN_F16, rows, rows, D, D, D, D, alpha};
    if (c->gemm)
        gemm_run(c, &product, dst, D, false);
    op_sync(&c->base);
    return op_error(&c->base) == NULL;
}

static struct kern *module_open(int32_t device, char *why, size_t why_bytes)
{
    if (module_n_device(why, why_bytes) <= device) {
        if (device > 0)
            snprintf(why, why_bytes, "no CUDA device number %d; use --backend cpu", device);
        return NULL;
    }
    struct kern_cuda *c = (struct kern_cuda *)calloc(1, sizeof *c);
    if (!c) {
        snprintf(why, why_bytes, "out of memory");
        return NULL;
    }
    if (!device_begin(c, device, why, why_bytes)) {
        op_close(&c->base);
        return NULL;
    }
    c->base.ops = &ops_cuda;
    c->base.name = "cuda";
    c->base.kv_bytes = 2;
    c->base.device = true;
    c->scratch = (unsigned char *)arena_alloc(c, c->scratch_bytes);
    bool ok = c->scratch != NULL;
    for (int i = 0; ok && i < CUDA_ROPE_TABLES; i++)
        ok = (c->rope[i].dev = (float *)arena_alloc(c, sizeof c->rope[i].freq)) != NULL;
    ok = ok && cudaMallocHost(&c->staging, CUDA_STAGING_BYTES) == cudaSuccess &&
         cudaMallocHost((void **)&c->putting, CUDA_STAGING_BYTES) == cudaSuccess &&
         (c->pages = pages_open(c)) != NULL;
    if (!ok) {
        snprintf(why, why_bytes,
                 "out of GPU memory: no %zu MiB of scratch; close other programs that use the GPU "
                 "or use --backend cpu",
                 c->scratch_bytes >> 20);
        cudaGetLastError();
        op_close(&c->base);
        return NULL;
    }
    c->gemm = gemm_open(c);
    if (!run_once(c)) {
        snprintf(why, why_bytes, "CUDA device %d cannot be used: %s; use --backend cpu", device,
                 c->error == cudaSuccess ? "out of memory" : cudaGetErrorString(c->error));
        op_close(&c->base);
        return NULL;
    }
    c->step = step_open(c);
    return &c->base;
}

static void module_steps(struct kern *k, uint64_t *ret_replayed, uint64_t *ret_plain)
{
    step_count(cuda_of(k), ret_replayed, ret_plain);
}

extern "C" const struct cuda_module kern_cuda_module = {
    CUDA_MODULE_ABI, module_n_device, module_describe, module_open, module_steps};
