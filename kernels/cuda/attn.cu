/* Attention and block scores: how a call is cut up, and how its parts are put together. */
#include "kernels/cuda/attn_impl.h"

#include <assert.h>

enum {
    TILED_ROWS = 32,     /* from so many rows on, the tiled kernel */
    COMBINE_THREADS = 128
};

/* ---- putting parts together ---- */

/* The largest of a block's COMBINE_THREADS, for all of them. */
static __device__ float block_most(float x)
{
    __shared__ float part[COMBINE_THREADS / 32];
    for (int i = 16; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, i));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < COMBINE_THREADS / 32; i++)
        x = fmaxf(x, part[i]);
    return x;
}

/* Their sum, for all of them. */
static __device__ float block_sum(float x)
{
    __shared__ float part[COMBINE_THREADS / 32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < COMBINE_THREADS / 32; i++)
        x += part[i];
    return x;
}

/* One block of threads per pair of a tile. final: [tile][8][2] top and sum, for masses; or NULL. */
static __global__ void combine_parts(struct attn_args a, struct attn_parts p, float *final)
{
    DYNAMIC_SHARED(memory);
    float *weight = (float *)memory; /* [n_split] */
    a.pos0 = place_of(a);
    int32_t pair = (int32_t)blockIdx.x % ROWS_PAIRS, index = (int32_t)blockIdx.y;
    int32_t head_kv = (int32_t)blockIdx.z / p.n_chunk, chunk = (int32_t)blockIdx.z % p.n_chunk;
    tile t = tile_make(a, index, head_kv, chunk, p.rows, ROWS_PAIRS);
    int32_t row = t.base + pair / t.n_head, head = t.head0 + pair % t.n_head, d = a.head_dim;
    int32_t at = (index * a.n_head_kv + head_kv) * p.n_chunk + chunk;
    bool there = row >= t.row0 && row < t.row1;
    if (!there) { /* of the whole block */
        if (final && threadIdx.x == 0) {
            final[(at * ROWS_PAIRS + pair) * 2] = 0;
            final[(at * ROWS_PAIRS + pair) * 2 + 1] = 0;
        }
        return;
    }
    size_t first = (size_t)at * p.n_split * ROWS_PAIRS + pair;
    float top = LOWEST, sum = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < p.n_split; i += (int32_t)blockDim.x)
        top = fmaxf(top, p.top[first + (size_t)i * ROWS_PAIRS]);
    top = block_most(top);
    for (int32_t i = (int32_t)threadIdx.x; i < p.n_split; i += (int32_t)blockDim.x) {
        float part = p.sum[first + (size_t)i * ROWS_PAIRS];
        weight[i] = part > 0 ? exp2f(p.top[first + (size_t)i * ROWS_PAIRS] - top) : 0;
        sum += part > 0 ? part * weight[i] : 0;
    }
    sum = block_sum(sum); /* and the weights are there */
    float inv = 1 / sum;
    size_t answer = (size_t)(a.row ? index : row) * a.n_head + head;
    float *out = a.out + answer * d;
    size_t step = (size_t)ROWS_PAIRS * d;
    for (int32_t c = (int32_t)threadIdx.x; c < d; c += (int32_t)blockDim.x) {
        const float *from = p.out + first * d + c;
        float x = 0;
        if (c >= a.n_value) {
            out[c] = 0;
            continue;
        }
        /* Loads do not wait for weights: what lies in a slot of weight 0 may be anything. */
#pragma unroll 8
        for (int32_t i = 0; i < p.n_split; i++) {
            float v = from[(size_t)i * step];
            x += weight[i] > 0 ? weight[i] * v : 0;
        }
        out[c] = x * inv;
    }
    if (threadIdx.x > 0)
        return;
    if (a.lse)
        a.lse[answer] = top * LN2 + logf(sum);
    if (final) {
        final[(at * ROWS_PAIRS + pair) * 2] = top;
        final[(at * ROWS_PAIRS + pair) * 2 + 1] = sum;
    }
}

/* mass[head_kv][block] += the block's share in every pair. One thread per block of a KV head. */
static __global__ void add_masses(struct attn_args a, struct attn_parts p, const float *final,
                                  float *mass)
{
    int32_t j = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x), head_kv = (int32_t)blockIdx.y;
    if (j >= a.n_block)
        return;
    float sum = 0;
    for (int32_t i = 0; i < p.n_tile * p.n_chunk * ROWS_PAIRS; i++) {
        int32_t index = i / (p.n_chunk * ROWS_PAIRS), rest = i % (p.n_chunk * ROWS_PAIRS);
        size_t at = ((size_t)index * a.n_head_kv + head_kv) * p.n_chunk * ROWS_PAIRS + rest;
        float total = final[2 * at + 1];
        if (!(total > 0))
            continue;
        float top = final[2 * at], part = p.block[at * (a.n_block + 1) + j];
        float sink = j == 0 ? p.block[at * (a.n_block + 1) + a.n_block] : NAN;
        /* what nobody read is NaN */
        sum += (part == part ? exp2f(part - top) / total : 0) +
               (sink == sink ? exp2f(sink - top) / total : 0);
    }
    mass[(size_t)head_kv * a.n_block_cap + j] += sum;
}

/* ---- calls ---- */

/* The call as the kernels see it; lists and such go to the scratch cut. False = scratch is short. */
static bool args_make(struct kern_cuda *c, const struct kern_attn *a, struct cuda_cut *cut,
                      struct attn_args *ret)
{
    const struct kern_kv *kv = a->kv;
    struct attn_args g = {};
    g.block = cuda_table_of(c, kv);
    g.sink_k = kv->sink_k;
    g.sink_v = kv->sink_v;
    g.n_head_kv = kv->n_head_kv;
    g.head_dim = kv->head_dim;
    g.n_block_cap = kv->n_block_cap;
    g.q = a->q;
    g.out = a->out;
    g.lse = a->lse;
    g.n_tok = a->n_tok;
    g.pos0 = a->pos0;
    g.place = a->row ? NULL : step_place(c, a->n_tok, &g.pos0);
    g.n_head = a->n_head;
    g.group = a->n_head / kv->n_head_kv;
    g.factor = a->scale * LOG2E;
    g.softcap = a->softcap * LOG2E;
    g.window = a->window;
    g.n_value = kern_value_dim(kv);
    g.latent = kv->n_latent > 0;
    g.n_block = (a->pos0 + (a->row ? a->row[a->n_tok - 1] : a->n_tok - 1)) / PAGE_TOK + 1;
    g.n_row_block = g.n_block - a->pos0 / PAGE_TOK;
    if (a->row) {
        int32_t *row = (int32_t *)cuda_cut_take(cut, sizeof(int32_t) * (size_t)a->n_tok);
        if (!row)
            return false;
        cuda_put(c, row, a->row, sizeof(int32_t) * (size_t)a->n_tok);
        g.row = row;
    }
    if (a->list) {
        size_t n_first = (size_t)kv->n_head_kv * (size_t)(g.n_row_block + 1), n_index = 0;
        for (size_t i = 0; i < n_first; i++)
            n_index = (size_t)a->list->first[i] > n_index ? (size_t)a->list->first[i] : n_index;
        int32_t *first = (int32_t *)cuda_cut_take(cut, n_first * sizeof(int32_t));
        int32_t *index = (int32_t *)cuda_cut_take(cut, n_index * sizeof(int32_t));
        if (!first || !index)
            return false;
        cuda_put(c, first, a->list->first, n_first * sizeof(int32_t));
        if (n_index)
            cuda_put(c, index, a->list->index, n_index * sizeof(int32_t));
        g.first = first;
        g.index = index;
    }
    *ret = g;
    return g.block != NULL;
}

/* How the call is cut for attn_rows: pairs, tiles, splits. n_row: of a.row. */
static struct attn_parts parts_plan(struct kern_cuda *c, const struct attn_args &a, int32_t n_row)
{
    struct attn_parts p = {};
    p.n_chunk = (a.group + ROWS_PAIRS - 1) / ROWS_PAIRS;
    p.rows = 1;
    while (!a.row && 2 * p.rows * a.group <= ROWS_PAIRS)
        p.rows *= 2;
    p.n_tile = a.row ? n_row : (a.pos0 + a.n_tok - 1) / p.rows - a.pos0 / p.rows + 1;
    int32_t most = a.first || a.window > 0 ? a.n_block : a.n_block + 1;
    int32_t work = p.n_tile * a.n_head_kv * p.n_chunk;
    /* One wave of whole blocks: a few blocks more would run alone after all the others. */
    p.n_split = attn_rows_warps(a.head_dim) * c->n_sm / work;
    if (p.n_split > ROWS_WARPS)
        p.n_split -= p.n_split % ROWS_WARPS;
    if (p.n_split > most) /* a segment for each at least */
        p.n_split = most;
    if (p.n_split < 1)
        p.n_split = 1;
    return p;
}

static bool parts_take(struct cuda_cut *cut, const struct attn_args &a, struct attn_parts *p,
                       bool values, bool blocks)
{
    size_t tile = (size_t)p->n_tile * (size_t)a.n_head_kv * (size_t)p->n_chunk;
    size_t slot = tile * (size_t)p->n_split * ROWS_PAIRS;
    p->top = (float *)cuda_cut_take(cut, slot * sizeof(float));
    p->sum = (float *)cuda_cut_take(cut, slot * sizeof(float));
    bool ok = p->top && p->sum;
    if (values)
        ok = ok && (p->out = (float *)cuda_cut_take(cut, slot * (size_t)a.head_dim * 4)) != NULL;
    if (blocks)
        ok = ok && (p->block = (float *)cuda_cut_take(
                        cut, tile * ROWS_PAIRS * (size_t)(a.n_block + 1) * 4)) != NULL;
    return ok;
}

/* Rows of one call whose parts fit scratch; false = they do not. */
static bool attend_part(struct kern_cuda *c, const struct attn_args &a, struct cuda_cut cut,
                        float *mass)
{
    struct attn_parts p = parts_plan(c, a, a.n_tok);
    struct cuda_cut room = cut;
    while (!parts_take(&room, a, &p, true, mass != NULL)) {
        if (p.n_split == 1)
            return false;
        p.n_split = (p.n_split + 1) / 2;
        room = cut;
    }
    size_t n_pair = (size_t)p.n_tile * (size_t)a.n_head_kv * (size_t)p.n_chunk * ROWS_PAIRS;
    float *final = NULL;
    if (mass) {
        final = (float *)cuda_cut_take(&room, n_pair * 2 * sizeof(float));
        if (!final)
            return false;
        cuda_fill(c, p.block, ~0u, n_pair * (size_t)(a.n_block + 1));
    }
    attn_rows_launch(c, a, p, true);
    launch(combine_parts,
           dim3(ROWS_PAIRS, (unsigned)p.n_tile, (unsigned)(a.n_head_kv * p.n_chunk)),
           COMBINE_THREADS, sizeof(float) * (size_t)p.n_split, c, a, p, final);
    if (mass)
        launch(add_masses, dim3((unsigned)((a.n_block + 63) / 64), (unsigned)a.n_head_kv), 64, 0,
               c, a, p, final, mass);
    return true;
}

void cuda_attend(struct kern *k, const struct kern_attn *a)
{
    struct kern_cuda *c = cuda_of(k);
    const struct kern_kv *kv = a->kv;
    assert(a->n_head % kv->n_head_kv == 0 && kv->head_dim <= PAGE_HEAD_DIM_MAX &&
           kv->head_dim % 16 == 0);
    struct cuda_cut cut = cuda_cut_begin(c);
    struct attn_args g;
    float *mass = NULL;
    if (a->mass)
        mass = cuda_mass_of(c, a->mass, (size_t)kv->n_head_kv * (size_t)kv->n_block_cap);
    if (!args_make(c, a, &cut, &g)) {
        cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
        return;
    }
    if (!a->mass && !a->row && a->n_tok >= TILED_ROWS && attn_tile_launch(c, g))
        return;
    /* as many rows at a time as scratch holds */
    for (int32_t row = 0, n = a->n_tok; row < a->n_tok;) {
        struct attn_args part = g;
        n = n < a->n_tok - row ? n : a->n_tok - row;
        part.n_tok = n;
        part.out += (size_t)row * a->n_head * kv->head_dim;
        part.lse = g.lse ? g.lse + (size_t)row * a->n_head : NULL;
        if (g.row) {
            part.row += row;
        } else {
            part.q += (size_t)row * a->n_head * kv->head_dim;
            part.pos0 += row;
            int32_t skipped = part.pos0 / PAGE_TOK - a->pos0 / PAGE_TOK;
            part.first = g.first ? g.first + skipped : NULL; /* rows of the list keep their length */
            part.n_block = (part.pos0 + n - 1) / PAGE_TOK + 1;
        }
        if (attend_part(c, part, cut, mass)) {
            row += n;
        } else if (n > 1) {
            n = (n + 1) / 2;
        } else {
            cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
            return;
        }
    }
}

/* ---- scores ---- */

/* One warp per scored row and head: log2 sums of blocks to masses and the log of their sum. */
static __global__ void finish_scores(struct attn_args a, struct attn_parts p, float *mass,
                                     float *lse)
{
    int32_t head = (int32_t)blockIdx.x, i = (int32_t)blockIdx.y, n = a.n_block;
    int32_t lane = (int32_t)threadIdx.x, g = head % a.group;
    size_t at = ((size_t)i * a.n_head_kv + head / a.group) * p.n_chunk + g / ROWS_PAIRS;
    const float *block = p.block + (at * ROWS_PAIRS + g % ROWS_PAIRS) * (n + 1);
    float *to = mass + ((size_t)head * p.n_tile + i) * n;
    float top = LOWEST, sum = 0;
    for (int32_t j = lane; j <= n; j += 32)
        top = block[j] == block[j] ? fmaxf(top, block[j]) : top;
    for (int x = 16; x > 0; x /= 2)
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, x));
    for (int32_t j = lane; j <= n; j += 32)
        sum += block[j] == block[j] ? exp2f(block[j] - top) : 0;
    sum = warp_sum(sum);
    for (int32_t j = lane; j < n; j += 32) {
        float v = block[j] == block[j] ? exp2f(block[j] - top) : 0;
        if (j == 0 && block[n] == block[n])
            v += exp2f(block[n] - top);
        to[j] = v / sum;
    }
    if (lane == 0)
        lse[(size_t)head * p.n_tile + i] = top * LN2 + logf(sum);
}

static bool score_rows(struct kern_cuda *c, const struct kern_score *s, struct attn_args a,
                       struct cuda_cut cut)
{
    size_t n_head = (size_t)a.n_head, n_block = (size_t)s->n_block;
    if (s->only) {
        size_t n = (size_t)a.n_head_kv * n_block;
        uint8_t *only = (uint8_t *)cuda_cut_take(&cut, n);
        if (!only)
            return false;
        cuda_put(c, only, s->only, n);
        a.only = only;
    }
    /* some rows at a time, as scratch allows */
    for (int32_t at = 0, n = s->n_row; at < s->n_row;) {
        struct cuda_cut room = cut;
        n = n < s->n_row - at ? n : s->n_row - at;
        int32_t *row = (int32_t *)cuda_cut_take(&room, sizeof(int32_t) * (size_t)n);
        float *mass = (float *)cuda_cut_take(&room, sizeof(float) * n_head * (size_t)n * n_block);
        float *lse = (float *)cuda_cut_take(&room, sizeof(float) * n_head * (size_t)n);
        a.row = row;
        struct attn_parts p = parts_plan(c, a, n);
        if (!row || !mass || !lse || !parts_take(&room, a, &p, false, true)) {
            if (n == 1)
                return false;
            n = (n + 1) / 2;
            continue;
        }
        cuda_put(c, row, s->row + at, sizeof(int32_t) * (size_t)n);
        size_t tile = (size_t)n * (size_t)a.n_head_kv * (size_t)p.n_chunk;
        cuda_fill(c, p.block, ~0u, tile * ROWS_PAIRS * (n_block + 1));
        attn_rows_launch(c, a, p, false);
        launch(finish_scores, dim3((unsigned)a.n_head, (unsigned)n), 32, 0, c, a, p, mass,
               lse);
        if (n == s->n_row) { /* all of them: they lie as they are wanted */
            cuda_get(c, s->mass, mass, sizeof(float) * n_head * (size_t)n * n_block);
            cuda_get(c, s->lse, lse, sizeof(float) * n_head * (size_t)n);
            return true;
        }
        for (size_t h = 0; h < n_head; h++) {
            size_t to = h * (size_t)s->n_row + (size_t)at;
            cuda_get(c, s->mass + to * n_block, mass + h * (size_t)n * n_block,
                     sizeof(float) * (size_t)n * n_block);
            cuda_get(c, s->lse + to, lse + h * (size_t)n, sizeof(float) * (size_t)n);
        }
        at += n;
    }
    return true;
}

/* ---- antidiagonals ---- */

enum { ANTI_THREADS = 128 };

/* Scores of groups of 16 rows against every 16 keys of one block: one block of threads per key
 * block, KV head and query head of its group; each warp takes some groups. anti: [head][group]
 * [block], log2 of the block's sum. */
static __global__ void anti_scores(struct attn_args a, const int32_t *group, int32_t n_group,
                                   float *anti)
{
    DYNAMIC_SHARED(memory);
    float *key = (float *)memory; /* [head_dim][PAGE_TOK + 1] as pages give it, then as rows do */
    int32_t j = (int32_t)blockIdx.x, head = (int32_t)blockIdx.y, d = a.head_dim;
    int32_t head_kv = head / a.group, lane = (int32_t)threadIdx.x % 32;
    const kern_kv_block *b = &a.block[(size_t)head_kv * a.n_block_cap + j];
    const int32_t stride = PAGE_TOK + 1;
    if (a.asleep && a.asleep[head_kv])
        return;
    for (int pass = 0; pass < 2; pass++) { /* 0: the page where there is one; 1: f16 rows */
        bool page = pass == 0 && b->page;
        if (pass == 1 && !b->page)
            break; /* rows were taken at once */
        __syncthreads();
        const uint16_t *scale = b->page ? page_k_scale(b->page) : NULL;
        for (int32_t i = (int32_t)threadIdx.x; i < d * PAGE_TOK; i += (int32_t)blockDim.x) {
            int32_t c = i / PAGE_TOK, t = i % PAGE_TOK;
            float v = 0;
            if (page) {
                int32_t at = t / 16 * 4 * d + c / 16 * 64 + t % 16 * 4 + c % 4, code = 0;
                for (int32_t x = 0; x < b->page->bits_k / 2; x++)
                    code = code << 2 | (page_plane_of(b->page, false, x)[at] >> c / 4 % 4 * 2 & 3);
                v = half_value(scale[d + c]) + half_value(scale[c]) * (float)code;
                if (j == 0 && t < KERN_SINK_TOK && a.sink_k)
                    v = half_value(a.sink_k[((size_t)head_kv * d + c) * KERN_SINK_PAD + t]);
            } else if (b->k) {
                v = half_value(b->k[i]);
            }
            key[c * stride + t] = v;
        }
        __syncthreads();
        for (int32_t i = (int32_t)threadIdx.x / 32; i < n_group; i += (int32_t)blockDim.x / 32) {
            int32_t first = a.pos0 + group[i], own = first / PAGE_TOK;
            if (j > own)
                continue;
            float score[KERN_SCORE_GROUPS + 1], top = LOWEST, sum = 0;
            float *to = &anti[((size_t)head * n_group + i) * a.n_block + j];
            int n = 0;
            for (int32_t x = 0; x < KERN_SCORE_GROUPS && j * PAGE_TOK + x * 16 <= first; x++) {
                /* where both are the same positions: rows, and only half of the pairs are causal */
                bool diagonal = j * PAGE_TOK + x * 16 == first;
                if ((diagonal && b->page && b->k) != (pass == 1))
                    continue;
                int32_t n_pair = diagonal ? 8 : 16;
                float part = 0;
                for (int32_t y = 0; y < n_pair; y++) {
                    const float *q = a.q + ((size_t)(group[i] + 15 - y) * a.n_head + head) * d;
                    for (int32_t c = lane; c < d; c += 32)
                        part += q[c] * key[c * stride + x * 16 + y];
                }
                part = warp_sum(part) / (float)n_pair * a.factor;
                score[n++] = a.softcap > 0 ? a.softcap * tanhf(part / a.softcap) : part;
            }
            if (n == 0)
                continue;
            float before = *to; /* of the first pass; NaN = none */
            __syncwarp();
            if (before == before)
                score[n++] = before;
            for (int x = 0; x < n; x++)
                top = fmaxf(top, score[x]);
            for (int x = 0; x < n; x++)
                sum += exp2f(score[x] - top);
            if (lane == 0)
                *to = top + log2f(sum);
            __syncwarp();
        }
    }
}

/* One warp per head and group, in place. */
static __global__ void finish_anti(float *anti, int32_t n_block)
{
    float *x = anti + (size_t)blockIdx.x * n_block, top = LOWEST, sum = 0;
    for (int32_t j = (int32_t)threadIdx.x; j < n_block; j += 32)
        top = x[j] == x[j] ? fmaxf(top, x[j]) : top;
    for (int i = 16; i > 0; i /= 2)
        top = fmaxf(top, __shfl_xor_sync(FULL_WARP, top, i));
    for (int32_t j = (int32_t)threadIdx.x; j < n_block; j += 32)
        sum += x[j] == x[j] ? exp2f(x[j] - top) : 0;
    sum = warp_sum(sum);
    for (int32_t j = (int32_t)threadIdx.x; j < n_block; j += 32)
        x[j] = x[j] == x[j] ? exp2f(x[j] - top) / sum : 0;
}

static size_t anti_shared(int32_t head_dim)
{
    return sizeof(float) * (size_t)head_dim * (PAGE_TOK + 1);
}

static bool score_groups(struct kern_cuda *c, const struct kern_score *s, const struct attn_args &a,
                         struct cuda_cut cut)
{
    size_t n = (size_t)a.n_head * (size_t)s->n_group * (size_t)s->n_block;
    int32_t *group = (int32_t *)cuda_cut_take(&cut, sizeof(int32_t) * (size_t)s->n_group);
    float *anti = (float *)cuda_cut_take(&cut, sizeof(float) * n);
    if (!group || !anti)
        return false;
    cuda_put(c, group, s->group, sizeof(int32_t) * (size_t)s->n_group);
    cuda_fill(c, anti, ~0u, n);
    launch(anti_scores, dim3((unsigned)s->n_block, (unsigned)a.n_head), ANTI_THREADS,
           anti_shared(a.head_dim), c, a, group, s->n_group, anti);
    launch(finish_anti, dim3((unsigned)(a.n_head * s->n_group)), 32, 0, c, anti,
           s->n_block);
    cuda_get(c, s->anti, anti, sizeof(float) * n);
    return true;
}

bool cuda_score(struct kern *k, const struct kern_score *s)
{
    struct kern_cuda *c = cuda_of(k);
    step_end(c); /* rows of their own */
    struct cuda_cut cut = cuda_cut_begin(c);
    struct attn_args a;
    struct kern_attn with = *s->a;
    size_t n_kv = (size_t)with.kv->n_head_kv;
    if (with.window > 0 || with.kv->head_dim % 16 || with.kv->head_dim > PAGE_HEAD_DIM_MAX ||
        (s->n_group > 0 && anti_shared(with.kv->head_dim) > c->shared_most))
        return false;
    with.list = NULL;
    if (!args_make(c, &with, &cut, &a))
        return false;
    if (s->asleep) {
        uint8_t *asleep = (uint8_t *)cuda_cut_take(&cut, n_kv);
        if (!asleep)
            return false;
        cuda_put(c, asleep, s->asleep, n_kv);
        a.asleep = asleep;
    }
    return (s->n_row == 0 || score_rows(c, s, a, cut)) &&
           (s->n_group == 0 || score_groups(c, s, a, cut));
}

/* ---- bounds of pages ---- */

struct bounds_args {
    const struct kern_kv_block *block; /* dev */
    const float *q;
    const int32_t *row;
    const uint8_t *use; /* or NULL */
    float *bound;
    int32_t head_dim, n_block_cap, n_head, group, n_row, block0, stride;
    float scale;
};

/* One block of threads per page; each warp takes some of the rows and heads. */
static __global__ void bound_pages(struct bounds_args a)
{
    DYNAMIC_SHARED(memory);
    int32_t d = a.head_dim, j = a.block0 + (int32_t)blockIdx.x, head_kv = (int32_t)blockIdx.y;
    int32_t lane = (int32_t)threadIdx.x % 32, n = a.n_row * a.group;
    float *lo = (float *)memory, *hi = lo + d;
    const kern_page *p = a.block[(size_t)head_kv * a.n_block_cap + j].page;
    const uint16_t *scale = page_k_scale(p);
    float top = (float)((1 << p->bits_k) - 1);
    for (int32_t c = (int32_t)threadIdx.x; c < d; c += (int32_t)blockDim.x) {
        bool used = !a.use || a.use[head_kv * d + c];
        lo[c] = used ? half_value(scale[d + c]) : 0;
        hi[c] = used ? lo[c] + half_value(scale[c]) * top : 0;
    }
    __syncthreads();
    for (int32_t i = (int32_t)threadIdx.x / 32; i < n; i += (int32_t)blockDim.x / 32) {
        const float *q = a.q + ((size_t)a.row[i / a.group] * a.n_head + head_kv * a.group + i % a.group) * d;
        float sum = 0;
        for (int32_t c = lane; c < d; c += 32)
            sum += fmaxf(q[c] * lo[c], q[c] * hi[c]);
        sum = warp_sum(sum);
        if (lane == 0)
            a.bound[((size_t)head_kv * n + i) * a.stride + j] = sum * a.scale;
    }
}

void cuda_bounds(struct kern *k, const struct kern_bounds *b)
{
    struct kern_cuda *c = cuda_of(k);
    const struct kern_kv *kv = b->kv;
    int32_t group = b->n_head / kv->n_head_kv, n_page = b->block1 - b->block0;
    size_t n_use = (size_t)kv->n_head_kv * (size_t)kv->head_dim;
    size_t n = (size_t)b->n_head * (size_t)b->n_row * (size_t)b->stride;
    struct cuda_cut cut = cuda_cut_begin(c);
    int32_t *row = (int32_t *)cuda_cut_take(&cut, sizeof(int32_t) * (size_t)b->n_row);
    uint8_t *use = (uint8_t *)cuda_cut_take(&cut, n_use);
    float *bound = (float *)cuda_cut_take(&cut, sizeof(float) * n);
    const struct kern_kv_block *block = cuda_table_of(c, kv);
    assert(kv->head_dim <= PAGE_HEAD_DIM_MAX);
    if (n_page <= 0)
        return;
    if (!row || !use || !bound || !block) {
        cuda_ok(c, (cudaError_t)cudaErrorMemoryAllocation);
        return;
    }
    cuda_put(c, row, b->row, sizeof(int32_t) * (size_t)b->n_row);
    if (b->use)
        cuda_put(c, use, b->use, n_use);
    struct bounds_args a = {block, b->q, row, b->use ? use : NULL, bound, kv->head_dim, kv->n_block_cap,
                            b->n_head, group, b->n_row, b->block0, b->stride, b->scale};
    launch(bound_pages, dim3((unsigned)n_page, (unsigned)kv->n_head_kv), 128,
           2 * sizeof(float) * (size_t)kv->head_dim, c, a);
    cuda_get(c, b->bound, bound, sizeof(float) * n);
}
