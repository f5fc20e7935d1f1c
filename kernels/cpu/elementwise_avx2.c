/* The AVX2 op table. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/ops.h"

static void avx2_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                        int32_t x_stride, int32_t n_tok)
{
    matmul_run(k, &matmul_avx2, n_mat, mats, x, x_stride, n_tok);
}

const struct kern_ops ops_avx2 = {
    .alloc = mem_op_alloc,
    .free = mem_op_free,
    .upload = mem_op_upload,
    .download = mem_op_download,
    .sync = mem_op_sync,
    .weight_size = tile_weight_size,
    .weight_new = tile_weight_new,
    .weight_owns = tile_weight_owns,
    .weight_free = tile_weight_free,
    .embed = tile_embed,
    .matmul = avx2_matmul,
    .rmsnorm = ref_rmsnorm,
    .rope = ref_rope,
    .kv_write = ref_kv_write,
    .attend = attn_avx2_attend,
    .glu = ref_glu,
    .add = ref_add,
    .softcap = ref_softcap,
};
