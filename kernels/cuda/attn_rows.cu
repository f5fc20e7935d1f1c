/* Attention of few rows: decode, short turns, scored rows. Every warp takes one tile of 8 pairs and
 * a part of its segments, so that a long context keeps the whole device busy (split-KV). */
#include "kernels/cuda/attn_impl.h"
#include "kernels/cuda/attn_rows.cuh"

/* The part of one warp. D64: values of up to 64 D64 channels; 0 for any, when none are asked. */
template <int D64, bool LATENT>
static __global__ void __launch_bounds__(32 * ROWS_WARPS, attn_rows_blocks(D64))
    attend_rows(struct attn_args a, struct attn_parts p)
{
    constexpr bool values = D64 > 0;
    a.pos0 = place_of(a);
    int32_t split = (int32_t)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
    int32_t lane = (int32_t)threadIdx.x % 32, g = lane / 4, b = lane % 4, d = a.head_dim;
    int32_t n_value = LATENT ? a.n_value : d; /* one number, not two in registers */
    __shared__ tile t; /* of the whole block; registers are scarce */
    int32_t index = (int32_t)blockIdx.y, head_kv = (int32_t)blockIdx.z / p.n_chunk;
    int32_t chunk = (int32_t)blockIdx.z % p.n_chunk;
    if (a.asleep && a.asleep[head_kv])
        return;
    if (threadIdx.x == 0)
        t = tile_make(a, index, head_kv, chunk, p.rows, ROWS_PAIRS);
    __syncthreads();
    if (split >= p.n_split)
        return;
    int32_t at = (index * a.n_head_kv + head_kv) * p.n_chunk + chunk;
    int32_t row = t.base + g / t.n_head, head = t.head0 + g % t.n_head;
    bool there = row >= t.row0 && row < t.row1;
    int32_t seg0 = (int32_t)((int64_t)t.n_seg * split / p.n_split);
    int32_t seg1 = (int32_t)((int64_t)t.n_seg * (split + 1) / p.n_split);
    row_state w = {LOWEST, 0};
    row_out<values ? D64 : 1> out = {};
    DYNAMIC_SHARED(memory);
    float *q = (float *)memory +
               ((int32_t)threadIdx.x / 32 * ROWS_PAIRS + g) * rows_q_len(d);
    rows_load(q, there ? a.q + ((size_t)row * a.n_head + head) * d : NULL, d, a.factor, b);
    __syncwarp();
    bool turned = false; /* out holds sums of rotated values */
    for (int32_t i = seg0; i <= seg1; i++) { /* behind the last one they are turned back */
        seg s = {};
        if (i < seg1)
            s = tile_seg(a, t, i);
        if (values) {
            bool rotated = s.kind == SEG_PAGE && s.page->flags & PAGE_V_ROTATED;
            if (!LATENT && rotated != turned && i > seg0)
                out_rotate(&out, d);
            turned = rotated;
        }
        if (s.kind == SEG_NONE)
            continue;
        if (a.only && !a.only[(size_t)head_kv * a.n_block + s.block])
            continue;
        int32_t lo, hi, n_tok;
        seen_of(a, s, t.row1 - 1, &lo, &n_tok); /* the last row sees furthest */
        if (n_tok <= 0)
            continue;
        seen_of(a, s, there ? row : t.row0, &lo, &hi);
        float score[8][2];
        if (s.kind == SEG_PAGE)
            page_scores(q, s.page, g, b, score);
        else
            f16_scores(q, s.k, s.k_stride, d, g, b, score);
        float keep, sum = rows_softmax(&w, score, b, lo, there ? hi : 0, a.softcap, &keep);
        if (p.block) {
            sum = quad_sum(sum);
            bool sink = t.sinks && i == 0;
            size_t to = ((size_t)at * ROWS_PAIRS + g) * (a.n_block + 1);
            if (b == 0)
                p.block[to + (sink ? a.n_block : s.block)] = w.top + log2f(sum);
        }
        if (values) {
            if (keep != 1)
                out_scale(&out, keep);
            if (s.kind != SEG_PAGE)
                f16_values<values ? D64 : 1, LATENT>(&out, s, n_tok, n_value, g, b, score);
            else if constexpr (LATENT)
                latent_values(&out, s.page, n_value, g, b, score);
            else
                page_values(&out, s.page, g, b, score);
        }
    }
    float sum = quad_sum(w.sum);
    size_t slot = ((size_t)at * p.n_split + split) * ROWS_PAIRS + g;
    if (b == 0) {
        p.top[slot] = w.top;
        p.sum[slot] = sum;
    }
    if (values && sum != 0)
        for (int G = 0; G < 2 * D64; G++)
            for (int jj = 0; jj < 4; jj++)
                for (int e = 0; e < 2; e++) {
                    int32_t c = value_channel<LATENT>(G, 2 * b + e) + jj;
                    if (c < n_value)
                        p.out[slot * d + c] = out.x[G][jj][e];
                }
}

template <int D64, bool LATENT>
static void rows_launch(struct kern_cuda *c, const struct attn_args &a, const struct attn_parts &p)
{
    size_t each = ROWS_PAIRS * (size_t)rows_q_len(a.head_dim) * sizeof(float);
    int32_t n_warp = p.n_split < ROWS_WARPS ? p.n_split : ROWS_WARPS;
    while (n_warp > 1 && (size_t)n_warp * each + sizeof(tile) > c->shared_most)
        n_warp--; /* wide heads in 64 KiB */
    dim3 grid((unsigned)((p.n_split + n_warp - 1) / n_warp), (unsigned)p.n_tile,
              (unsigned)(a.n_head_kv * p.n_chunk));
    launch(attend_rows<D64, LATENT>, grid, 32 * (unsigned)n_warp, (size_t)n_warp * each, c, a, p);
}

void attn_rows_launch(struct kern_cuda *c, const struct attn_args &a, const struct attn_parts &p,
                      bool values)
{
    enum { WIDEST = (PAGE_HEAD_DIM_MAX + 63) / 64 };
    if (values && a.latent) { /* one for all: most are that wide */
        rows_launch<PAGE_LATENT_MAX / 64, true>(c, a, p);
        return;
    }
    switch (values ? (a.head_dim + 63) / 64 : 0) {
    case 0: rows_launch<0, false>(c, a, p); break;
    case 1: rows_launch<1, false>(c, a, p); break;
    case 2: rows_launch<2, false>(c, a, p); break;
    case 3:
    case 4: rows_launch<4, false>(c, a, p); break;
    case 5:
    case 6:
    case 7:
    case 8: rows_launch<8, false>(c, a, p); break;
    default: rows_launch<WIDEST, false>(c, a, p);
    }
}
