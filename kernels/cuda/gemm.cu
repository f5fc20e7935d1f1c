/* Matrix products of f16 tiles: cuBLAS, loaded when it is there. Without it products of many
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

void gemm_run(struct kern_cuda *c, const uint16_t *w, const uint16_t *x, float *dst, int32_t n_row,
              int32_t n_col, int32_t n_tok, int32_t dst_stride, bool add, const float *alpha)
{
    step_end(c);
    float *row = (float *)malloc(sizeof(float) * (size_t)n_col);
    float *in = (float *)malloc(sizeof(float) * (size_t)n_col * (size_t)n_tok);
    for (size_t i = 0; i < (size_t)n_col * (size_t)n_tok; i++)
        in[i] = kern_f16_to_f32(x[i]);
    for (int32_t r = 0; r < n_row; r++) {
        for (int32_t i = 0; i < n_col; i++)
            row[i] = kern_f16_to_f32(w[(size_t)r * n_col + i]);
        for (int32_t t = 0; t < n_tok; t++) {
            float sum = 0, *to = dst + (size_t)t * dst_stride + r;
            for (int32_t i = 0; i < n_col; i++)
                sum += row[i] * in[(size_t)t * n_col + i];
            *to = *alpha * sum + (add ? *to : 0);
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
    float *beta; /* dev: 0, 1 */
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
    g->beta = ok ? (float *)arena_alloc(c, sizeof zero_one) : NULL;
    ok = g->beta && g->create(&g->handle) == 0 && g->set_stream(g->handle, c->stream) == 0 &&
         g->set_pointer_mode(g->handle, POINTERS_ON_DEVICE) == 0;
    if (!ok) {
        gemm_close(g);
        return NULL;
    }
    cuda_put(c, g->beta, zero_one, sizeof zero_one);
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

void gemm_run(struct kern_cuda *c, const uint16_t *w, const uint16_t *x, float *dst, int32_t n_row,
              int32_t n_col, int32_t n_tok, int32_t dst_stride, bool add, const float *alpha)
{
    struct cuda_gemm *g = c->gemm;
    step_end(c);
    /* Column by column, as cuBLAS sees memory: dst^T [n_row, n_tok] = w [n_row, n_col] * x^T. */
    int e = g->gemm_ex(g->handle, OP_T, OP_N, n_row, n_tok, n_col, alpha, w, TYPE_F16, n_col, x,
                       TYPE_F16, n_col, g->beta + (add ? 1 : 0), dst, TYPE_F32, dst_stride,
                       COMPUTE_F32, ALGO_DEFAULT);
    if (e == 0)
        return;
    cudaError_t why = e == ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaPeekAtLastError();
    cuda_ok(c, why == cudaSuccess ? cudaErrorUnknown : why);
}
#endif
