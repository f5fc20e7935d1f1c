/* The op tables of AVX-512 and AMX; their elementwise ops are elementwise_flow.h at 16 lanes. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/recurrent_flow.h"

static void avx512_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                          int32_t x_stride, int32_t n_tok)
{
    matmul_run(k, &matmul_avx512, n_mat, mats, x, x_stride, n_tok);
}

const struct kern_ops ops_avx512 = FLOW_OPS(avx512_matmul, attn_avx512_attend);

static void amx_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                       int32_t x_stride, int32_t n_tok)
{
    matmul_run(k, &matmul_amx, n_mat, mats, x, x_stride, n_tok);
}

const struct kern_ops ops_amx = FLOW_OPS(amx_matmul, attn_amx_attend);
