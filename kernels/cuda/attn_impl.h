/* Between the files of attention: launches. Internal to kernels/cuda. */
#ifndef KERNELS_CUDA_ATTN_IMPL_H
#define KERNELS_CUDA_ATTN_IMPL_H

#include "kernels/cuda/attn.cuh"
#include "kernels/cuda/backend.h"

enum { ROWS_PAIRS = 8, ROWS_WARPS = 4 }; /* of a warp, and warps of a block, of attn_rows.cu */

/* Blocks of attn_rows.cu that a multiprocessor's registers hold at once, for heads of 64 d64 channels. */
constexpr int attn_rows_blocks(int d64)
{
    return d64 > 2 ? 2 : 3;
}

static inline int32_t attn_rows_warps(int32_t head_dim)
{
    return ROWS_WARPS * attn_rows_blocks((head_dim + 63) / 64);
}

/* Results of warps that read part of a tile's segments. */
struct attn_parts {
    float *top, *sum;   /* [tile][n_split][8] */
    float *out;         /* [tile][n_split][8][head_dim] */
    float *block;       /* [tile][8][n_block + 1] log2 of a block's sum of 2^score; NULL = not asked */
    int32_t n_split, n_tile, n_chunk, rows;
};

/* tile = (index * n_head_kv + head_kv) * n_chunk + chunk. */
void attn_rows_launch(struct kern_cuda *c, const struct attn_args &a, const struct attn_parts &p,
                      bool values);
/* Whether this call fits the tiled kernel on this device; then it ran. Wide heads never do. */
bool attn_tile_launch(struct kern_cuda *c, const struct attn_args &a);

#endif
