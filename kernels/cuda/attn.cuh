/* What the attention kernels share: which rows go together, and what they read.
 *
 * A tile is `rows` neighbouring positions (a power of two, so that it never leaves its 64-block)
 * times the query heads of one KV head, or a part of them: its pairs. What it reads is a list of
 * segments: the sinks, older blocks (all or listed; pages or f16 rows), the block before, its own.
 * The rules are those of kernels.h and kernels/cpu/attn.h. Scores carry a factor log2(e). */
#ifndef KERNELS_CUDA_ATTN_CUH
#define KERNELS_CUDA_ATTN_CUH

#include "kernels/cuda/port.h"
#include "kernels/page.h"

#define LOWEST (-1e30f) /* the running maximum before any score: finite, so differences are too */
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

struct attn_args {
    const struct kern_kv_block *block; /* dev [n_head_kv][n_block_cap] */
    const uint16_t *sink_k, *sink_v;
    const float *q;
    float *out, *lse;
    const int32_t *place;         /* dev: to be added to pos0, or NULL */
    const int32_t *first, *index; /* dev; NULL = dense */
    const int32_t *row;  /* dev [gridDim.y] picked or scored rows of the call, one per tile; or NULL */
    const uint8_t *only; /* scoring: dev [n_head_kv][n_block] blocks that count, or NULL */
    const uint8_t *asleep; /* scoring: dev [n_head_kv] heads that nobody asks about, or NULL */
    int32_t n_head_kv, head_dim, n_block_cap;
    int32_t n_tok, pos0, n_head, group;
    float factor;  /* scale * log2(e) */
    float softcap; /* times log2(e); 0 = none */
    int32_t window, n_row_block, n_block;
    int32_t latent, n_value; /* values are the keys; channels of a value */
};

struct tile {
    int32_t head_kv, head0, n_head; /* first query head of its pairs, and how many */
    int32_t row0, row1;             /* rows of the call that it really has */
    int32_t base;                   /* row of pair 0, maybe before row0 */
    int32_t block, first_block;
    const int32_t *listed;
    int32_t n_older, n_seg;
    bool sinks;
};

enum seg_kind { SEG_NONE, SEG_ROWS, SEG_PAGE };

struct seg {
    enum seg_kind kind;
    int32_t block, tok0, tok1; /* tokens of the block that count */
    const uint16_t *k, *v; /* of rows; v NULL: values are the keys */
    int32_t k_stride;
    const struct kern_page *page;
};

DEVICE int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

DEVICE int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

DEVICE int32_t place_of(const attn_args &a)
{
    return a.pos0 + (a.place ? *a.place : 0);
}

/* First position that a row sees. */
DEVICE int32_t first_seen(const attn_args &a, int32_t row)
{
    return a.window > 0 ? max_i(0, a.pos0 + row - a.window + 1) : 0;
}

/* rows: positions of a tile; n_head: query heads at once, of which this is part `chunk`. */
DEVICE tile tile_make(const attn_args &a, int32_t index, int32_t head_kv, int32_t chunk,
                      int32_t rows, int32_t n_head)
{
    tile t = {};
    t.head_kv = head_kv;
    t.head0 = head_kv * a.group + chunk * n_head;
    t.n_head = min_i(n_head, a.group - chunk * n_head);
    if (a.row) {
        t.base = t.row0 = a.row[index];
        t.row1 = t.row0 + 1;
    } else {
        t.base = a.pos0 / rows * rows + index * rows - a.pos0;
        t.row0 = max_i(t.base, 0);
        t.row1 = min_i(t.base + rows, a.n_tok);
    }
    t.block = (a.pos0 + t.row0) / PAGE_TOK;
    t.first_block = first_seen(a, t.row0) / PAGE_TOK;
    const kern_kv_block *zero = &a.block[(size_t)head_kv * a.n_block_cap];
    bool zero_listed = true;
    t.n_older = max_i(0, t.block - 1 - t.first_block);
    if (a.first) {
        const int32_t *first =
            a.first + (size_t)head_kv * (a.n_row_block + 1) + t.block - a.pos0 / PAGE_TOK;
        int32_t lo = first[0], hi = first[1];
        while (lo < hi && a.index[lo] < t.first_block)
            lo++;
        while (hi > lo && a.index[hi - 1] >= t.block - 1)
            hi--;
        t.listed = a.index + lo;
        t.n_older = hi - lo;
        zero_listed = hi > lo && a.index[lo] == 0;
    }
    bool zero_whole = zero_listed && !zero->page && zero->k;
    t.sinks = t.block >= 2 && first_seen(a, t.row0) < KERN_SINK_TOK && !zero_whole &&
              (a.sink_k || zero->k);
    t.n_seg = t.sinks + t.n_older + (t.block > t.first_block) + 1;
    return t;
}

DEVICE seg tile_seg(const attn_args &a, const tile &t, int32_t i)
{
    const kern_kv_block *head = a.block + (size_t)t.head_kv * a.n_block_cap;
    seg s = {};
    s.tok1 = PAGE_TOK;
    s.k_stride = PAGE_TOK;
    if (t.sinks && i == 0) {
        s.kind = SEG_ROWS;
        s.tok1 = KERN_SINK_TOK;
        s.k = head[0].k;
        s.v = head[0].v;
        if (a.sink_k) {
            s.k = a.sink_k + (size_t)t.head_kv * a.head_dim * KERN_SINK_PAD;
            s.v = a.latent ? NULL : a.sink_v + (size_t)t.head_kv * a.head_dim * KERN_SINK_PAD;
            s.k_stride = KERN_SINK_PAD;
        }
        return s;
    }
    i -= t.sinks;
    bool older = i < t.n_older;
    s.block = older ? (t.listed ? t.listed[i] : t.first_block + i)
                    : t.block - (t.block > t.first_block) + (i - t.n_older);
    const kern_kv_block *b = &head[s.block];
    if (older && b->page) {
        s.kind = SEG_PAGE;
        s.page = b->page;
        s.tok0 = s.block == 0 && t.sinks ? KERN_SINK_TOK : 0;
    } else if (b->k) {
        s.kind = SEG_ROWS;
        s.k = b->k;
        s.v = b->v;
    }
    return s;
}

/* Tokens of the segment that a row sees: [*lo, *hi), possibly empty. */
DEVICE void seen_of(const attn_args &a, const seg &s, int32_t row, int32_t *lo, int32_t *hi)
{
    int32_t at = s.block * PAGE_TOK;
    *lo = max_i(s.tok0, first_seen(a, row) - at);
    *hi = min_i(s.tok1, a.pos0 + row - at + 1);
}

/* ---- rotated values ----
 * Both kernels keep their sums of values in registers, either plain or rotated as pages may hold
 * them (page_rotate, its own inverse), and turn the sums where the next segment is of the other
 * kind: a rotation is linear, and what we read is mostly of one kind. Each knows which of its
 * channels lie in which registers and lanes; the steps are these. */

/* One step of page_rotate between registers: x[i] and x[i + stride]. */
template <int N> DEVICE void turn_registers(float *x, int stride)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        if (!(i & stride)) {
            float u = x[i], v = x[i + stride];
            x[i] = u + v;
            x[i + stride] = u - v;
        }
}

/* The same between lanes whose numbers differ by one bit. */
template <int N> DEVICE void turn_lanes(float *x, int bit)
{
    float sign = threadIdx.x & (unsigned)bit ? -1 : 1;
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = sign * x[i] + __shfl_xor_sync(FULL_WARP, x[i], bit);
}

/* ---- pages: where things are (page.h) ---- */

DEVICE const uint16_t *page_k_scale(const kern_page *p)
{
    return (const uint16_t *)((const uint8_t *)p + sizeof *p);
}

DEVICE const uint16_t *page_v_scale(const kern_page *p)
{
    return page_k_scale(p) + 2 * p->head_dim;
}

/* Start of plane i; planes lie in the order K0 V0 K1 V1 K2 K3 V2 V3, missing ones left out. */
DEVICE const uint8_t *page_plane_of(const kern_page *p, bool value, int32_t i)
{
    int32_t d = p->head_dim, n_k = p->bits_k / 2, n_v = p->bits_v / 2, before;
    if (!value)
        before = i < 2 ? i + min_i(i, n_v) : i + min_i(2, n_v);
    else
        before = i < 2 ? i + min_i(i + 1, n_k) : i + n_k;
    size_t base = sizeof *p + 4 * (size_t)d;
    if (n_v > 0)
        base += 4 * (size_t)PAGE_TOK * ((d + PAGE_GROUP - 1) / PAGE_GROUP);
    return (const uint8_t *)p + base + (size_t)before * 16 * d;
}

#endif
