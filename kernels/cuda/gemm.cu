/* Matrix products of many tokens: cuBLAS, loaded when it is there. Without it products of many
 * tokens run like those of few: slowly, but right. Under the shim they are a plain loop. */
#include "kernels/cuda/backend.h"

#ifdef CUDA_SHIM

struct cuda_gemm {
    int32_t unused;
};

struct cuda_gemm *gemm_open(struct kern_cuda *c)
{
    return (struct cuda_gemm *)calloc(1, sizeof(struct cuda_gemm));
}

bool gemm_there(void)
{
    return true;
}

void gemm_close(struct cuda_gemm *g)
{
    free(g);
}

static float element(const void *at, enum kern_type type, size_t i)
{
    return type == KERN_F32 ? ((const float *)at)[i] : kern_f16_to_f32(((const uint16_t *)at)[i]);
}

void gemm_run(struct kern_cuda *c, const struct gemm_call *g, float *dst, int32_t dst_stride, bool add)
{
    step_end(c);
    size_t n_col = (size_t)g->n_col;
    float *row = (float *)malloc(sizeof(float) * n_col);
    float *in = (float *)malloc(sizeof(float) * n_col * (size_t)g->n_tok);
    for (size_t t = 0; t < (size_t)g->n_tok; t++)
        for (size_t i = 0; i < n_col; i++)
            in[t * n_col + i] = element(g->x, g->type, t * (size_t)g->x_stride + i);
    for (int32_t r = 0; r < g->n_row; r++) {
        for (size_t i = 0; i < n_col; i++)
            row[i] = element(g->w, g->type, (size_t)r * n_col + i);
        for (int32_t t = 0; t < g->n_tok; t++) {
            float sum = 0, *to = dst + (size_t)t * dst_stride + r;
            for (size_t i = 0; i < n_col; i++)
                sum += row[i] * in[(size_t)t * n_col + i];
            *to = (g->alpha ? *g->alpha : 1) * sum + (add ? *to : 0);
        }
    }
    free(in);
    free(row);
}

#else
#include <dlfcn.h>

/* cuBLAS's C interface, as its documentation gives it: 0 is success everywhere. */
enum {
    ALLOC_FAILED = 3,
    OP_N = 0,
    OP_T = 1,
    TYPE_F32 = 0,
    TYPE_F16 = 2,
    COMPUTE_F32 = 68,
    ALGO_DEFAULT = -1,
    POINTERS_ON_DEVICE = 1
};

struct cuda_gemm {
    void *handle;
    float *zero_one; /* dev */
    int (*create)(void **);
    int (*destroy)(void *);
    int (*set_stream)(void *, cudaStream_t);
    int (*set_pointer_mode)(void *, int);
    int (*gemm_ex)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha,
                   const void *a, int type_a, int lda, const void *b, int type_b, int ldb,
                   const void *beta, void *c, int type_c, int ldc, int compute, int algo);
};

/* Stays loaded, like the runtime that comes with it. */
static void *blas_load(void)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    void *lib = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !lib; i++)
        lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return lib;
}

bool gemm_there(void)
{
    return blas_load() != NULL;
}

struct cuda_gemm *gemm_open(struct kern_cuda *c)
{
    static const float zero_one[2] = {0, 1};
    struct cuda_gemm *g = (struct cuda_gemm *)calloc(1, sizeof *g);
    if (!g)
        return NULL;
    void *lib = blas_load();
    struct {
        void **to;
        const char *name;
    } want[] = {
        {(void **)&g->create, "cublasCreate_v2"},
        {(void **)&g->destroy, "cublasDestroy_v2"},
        {(void **)&g->set_stream, "cublasSetStream_v2"},
        {(void **)&g->set_pointer_mode, "cublasSetPointerMode_v2"},
        {(void **)&g->gemm_ex, "cublasGemmEx"},
    };
    bool ok = lib != NULL;
    for (size_t i = 0; ok && i < sizeof want / sizeof *want; i++)
        ok = (*want[i].to = dlsym(lib, want[i].name)) != NULL;
    g->zero_one = ok ? (float *)arena_alloc(c, sizeof zero_one) : NULL;
    ok = g->zero_one && g->create(&g->handle) == 0 && g->set_stream(g->handle, c->stream) == 0 &&
         g->set_pointer_mode(g->handle, POINTERS_ON_DEVICE) == 0;
    if (!ok) {
        gemm_close(g);
        return NULL;
    }
    cuda_put(c, g->zero_one, zero_one, sizeof zero_one);
    return g;
}

void gemm_close(struct cuda_gemm *g)
{
    if (!g)
        return;
    if (g->handle)
        g->destroy(g->handle);
    free(g);
}

void gemm_run(struct kern_cuda *c, const struct gemm_call *g, float *dst, int32_t dst_stride, bool add)
{
    struct cuda_gemm *blas = c->gemm;
    const float *zero = blas->zero_one, *one = zero + 1;
    int type = g->type == KERN_F32 ? TYPE_F32 : TYPE_F16;
    step_end(c);
    /* Column by column, as cuBLAS sees memory: dst^T [n_row, n_tok] = w [n_row, n_col] * x^T. */
    int e = blas->gemm_ex(blas->handle, OP_T, OP_N, g->n_row, g->n_tok, g->n_col,
                          g->alpha ? g->alpha : one, g->w, type, g->n_col, g->x, type, g->x_stride,
                          add ? one : zero, dst, TYPE_F32, dst_stride, COMPUTE_F32, ALGO_DEFAULT);
    if (e == 0)
        return;
    cudaError_t why = e == ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaPeekAtLastError();
    cuda_ok(c, why == cudaSuccess ? cudaErrorUnknown : why);
}
#endif
