/* The AVX2 op table; its elementwise ops are elementwise_flow.h at 8 lanes. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/recurrent_flow.h"

static void avx2_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                        int32_t x_stride, int32_t n_tok)
{
    matmul_run(k, &matmul_avx2, n_mat, mats, x, x_stride, n_tok);
}

const struct kern_ops ops_avx2 = FLOW_OPS(avx2_matmul, attn_avx2_attend);
