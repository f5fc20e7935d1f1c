/* Blocked attention with online softmax: what work there is, who does it, how it is put together.
 *
 * Work is cut into items of (KV head, tile of rows of one 64-position block, range of segments).
 * A tile is up to TILE_ROWS rows of query x head of the group, so keys and values are fetched once
 * for all query heads. A segment is what the tile reads next: a block of f16 rows, a page, or the
 * sinks. When there are fewer tiles than threads can share, a tile's segments are split over
 * several items and merged by their log-sum-exp. Scores carry a factor log2(e), so that the
 * exponential is 2^x. Nothing is allocated: each thread's scratch holds its tile (struct work) and,
 * behind it, a share of the room for split results. Compiled for 8 or 16 lanes. */
#ifndef KERNELS_CPU_ATTN_FLOW_H
#define KERNELS_CPU_ATTN_FLOW_H

#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/attn_page.h"
#include "kernels/cpu/attn_tile.h"
#include "kernels/cpu/cpu.h"
#include "kernels/page.h"

#if defined(ATTN_AMX)
#include "kernels/cpu/attn_page_amx.h"
#endif

enum {
    TILE_ROWS = 128,
    TILE_FLOATS = TILE_ROWS * 256, /* of wider heads a tile has fewer rows: it stays in cache, */
    TILE_ROOM = TILE_ROWS * PAGE_HEAD_DIM_MAX, /* but all of a band */
    BY_TOK_STRIDE = PAGE_LATENT_MAX + 32, /* rows a power of two apart would share few sets of L1 */
    PANEL_CHANNELS = 256,          /* of wider heads pages are not widened, nor of latents */
    SUM_FLOATS = 160 << 10,        /* room for block sums: rows x blocks x 2 floats */
    ITEMS_PER_THREAD = 6,          /* fewer items than this per thread: split the segments */
    SPLIT_MIN_SEG = 8,             /* segments of a split, at least */
    /* Tile registers take over for this many rows and blocks behind them, read or not. Less deep, the
     * rows of a chunk and single ones must come out the same to the bit; deeper, splits round
     * differently anyway. Pages come out the same at once. */
    AMX_MIN_ROWS = 16,
    AMX_MIN_SEG = 2 * SPLIT_MIN_SEG,
    AMX_MIN_PAGE_ROWS = 8,
    /* Up to so many rows multiply a page by its codes; for more it is widened where those have more than 4 bits. */
#if defined(ATTN_AMX)
    CODE_ROWS = TILE_ROWS,
    PANEL_FLOATS = PAGE_HEAD_DIM_MAX * PAGE_TOK
#elif defined(__AVX512F__)
    CODE_ROWS = TILE_ROWS,
    PANEL_FLOATS = VL /* never */
#else
    CODE_ROWS = PAGE_FEW_ROWS,
    PANEL_FLOATS = PANEL_CHANNELS * PAGE_TOK
#endif
};

#define ATTN_LOG2E 1.4426950408889634f
#define ATTN_LN2 0.6931471805599453f
/* The running maximum before any score: low enough never to matter, finite so that differences
 * are never NaN. */
#define ATTN_LOWEST (-1e30f)

/* One thread's tile. */
struct work {
    float q[TILE_ROOM];            /* [m][head_dim], scaled by scale * log2(e) */
    float out[TILE_ROOM];          /* [m][head_dim] */
    float s[TILE_ROWS * PAGE_TOK]; /* scores, then probabilities [m][64] */
    _Alignas(64) float panel[PANEL_FLOATS]; /* a page widened; in tile registers a right side */
    uint16_t by_tok[PAGE_TOK * BY_TOK_STRIDE]; /* values of a latent: its keys, token by token */
    float top[TILE_ROWS], sum[TILE_ROWS], keep[TILE_ROWS];
    float sums[TILE_ROWS]; /* of this segment's probabilities */
    float block_top[SUM_FLOATS / 2], block_sum[SUM_FLOATS / 2]; /* [m][segment], when mass is asked */
    bool turned; /* out is in the space of rotated values (PAGE_V_ROTATED) */
    struct page_query page;
#if defined(ATTN_AMX)
    bool amx; /* products with rows of f16 are computed in tile registers */
    struct page_tiles tiles;
    _Alignas(64) uint8_t amx_q[TILE_ROOM * 4];
    _Alignas(64) uint8_t amx_p[TILE_ROWS * PAGE_TOK * 4];
#endif
};

/* What is left of a thread's scratch, for results of split tiles and masses of items. */
enum { SHARE_BYTES = (CPU_SCRATCH_BYTES - (int)sizeof(struct work)) & ~63 };
_Static_assert(SHARE_BYTES >= 512 << 10, "a thread's scratch holds its tile and a share");

enum seg_kind { SEG_NONE, SEG_ROWS, SEG_PAGE };

struct seg {
    enum seg_kind kind;
    int32_t block;
    int32_t tok0, tok1;     /* tokens of the block that may be read at all */
    const uint16_t *k, *v;  /* SEG_ROWS: k [head_dim][k_stride], v [..][head_dim] or, of a latent, NULL */
    int32_t k_stride;
    const struct kern_page *page;
    uint64_t dropped;
    int32_t rows0, rows1; /* read by rows of position blocks [rows0, rows1] */
    /* what the segment after it reads, to be fetched meanwhile: half with K, half with V */
    const char *next_k, *next_v;
    size_t next_bytes;
};

/* The rows and bands of one attend call that are computed together: all, unless masses need more room. A band
 * is heads of one group whose rows share tiles: all of them, unless their masses need more room than a tile has. */
struct plan {
    struct kern *kern;
    const struct kern_attn *a;
    int32_t n_band;          /* of a KV head */
    int32_t group, head_dim; /* query heads of a band */
    int32_t n_value;         /* channels of a value */
    int32_t band0, band1;    /* of all KV heads, those of this pass */
    int32_t row0, row1;      /* rows of this pass */
    int32_t rows_per_tile;
    int32_t n_tile, n_split; /* tiles per band, items per tile */
    size_t part_bytes;       /* of one split result */
    size_t mass_bytes;       /* of one item's masses */
};

struct tile {
    int32_t head_kv, head0;      /* the band's first query head */
    int32_t row0, row1;          /* rows of the call */
    int32_t block, last_block;   /* position blocks of its first and its last row; the same unless
                                    rows were picked */
    int32_t first_block;         /* oldest block any row sees */
    bool sinks;                  /* segment 0 is the sinks */
    const int32_t *listed;       /* listed older blocks, or NULL: all of them */
    int32_t n_older, n_seg;
};

static int32_t min_i(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Rows of a tile, at most, unless a band has more; whole tile registers of them. */
static int32_t tile_rows_most(int32_t head_dim)
{
    return min_i(TILE_ROWS, TILE_FLOATS / head_dim & ~15);
}

static int32_t row_of(const struct kern_attn *a, int32_t i)
{
    return a->row ? a->row[i] : i;
}

static int32_t pos_of(const struct kern_attn *a, int32_t i)
{
    return a->pos0 + row_of(a, i);
}

/* First position that a row sees. */
static int32_t first_seen(const struct kern_attn *a, int32_t row)
{
    return a->window > 0 ? max_i(0, pos_of(a, row) - a->window + 1) : 0;
}

/* End of the rows that may share tiles with `row`, the first of them: those of its position block.
 * Picked rows are few and far between: they share tiles wherever they lie, once all read pages. */
static int32_t run_end(const struct plan *p, int32_t row)
{
    const struct kern_attn *a = p->a;
    int32_t block = pos_of(a, row) / PAGE_TOK, end = row + 1;
    if (!a->row)
        return min_i((block + 1) * PAGE_TOK - a->pos0, p->row1);
    while (end < p->row1 && (block >= 2 || pos_of(a, end) / PAGE_TOK == block))
        end++;
    return end;
}

/* Tiles are counted through the runs of the pass, rows_per_tile rows each. */
static void tile_rows_of(const struct plan *p, int32_t index, int32_t *ret_row0, int32_t *ret_row1)
{
    int32_t row = p->row0;
    for (;;) {
        int32_t end = run_end(p, row), n = end - row;
        int32_t n_tile = (n + p->rows_per_tile - 1) / p->rows_per_tile;
        if (index < n_tile) {
            /* equal shares, so that the last tile is not a sliver */
            *ret_row0 = row + (int32_t)((int64_t)n * index / n_tile);
            *ret_row1 = row + (int32_t)((int64_t)n * (index + 1) / n_tile);
            return;
        }
        index -= n_tile;
        row = end;
    }
}

static int32_t tile_count(const struct plan *p)
{
    int32_t count = 0;
    for (int32_t row = p->row0; row < p->row1;) {
        int32_t end = run_end(p, row);
        count += (end - row + p->rows_per_tile - 1) / p->rows_per_tile;
        row = end;
    }
    return count;
}

static struct tile tile_make(const struct plan *p, int32_t band, int32_t index)
{
    const struct kern_attn *a = p->a;
    int32_t head_kv = band / p->n_band;
    struct tile t = {.head_kv = head_kv, .head0 = band * p->group};
    tile_rows_of(p, index, &t.row0, &t.row1);
    t.block = pos_of(a, t.row0) / PAGE_TOK;
    t.last_block = pos_of(a, t.row1 - 1) / PAGE_TOK;
    t.first_block = first_seen(a, t.row0) / PAGE_TOK;
    const struct kern_kv_block *zero = &a->kv->block[(size_t)head_kv * a->kv->n_block_cap];
    bool zero_listed = true;
    t.n_older = max_i(0, t.block - 1 - t.first_block);
    if (a->list) {
        int32_t b0 = a->pos0 / PAGE_TOK;
        int32_t n_row_block = (a->pos0 + a->n_tok - 1) / PAGE_TOK - b0 + 1;
        const int32_t *first = a->list->first + (size_t)head_kv * (n_row_block + 1) + t.block - b0;
        int32_t lo = first[0], hi = first[1];
        while (lo < hi && a->list->index[lo] < t.first_block)
            lo++;
        while (hi > lo && a->list->index[hi - 1] >= t.block - 1)
            hi--;
        t.listed = a->list->index + lo;
        t.n_older = hi - lo;
        zero_listed = hi > lo && a->list->index[lo] == 0;
    }
    bool zero_whole = zero_listed && !zero->page && zero->k;
    t.sinks = t.block >= 2 && first_seen(a, t.row0) < KERN_SINK_TOK && !zero_whole &&
              (a->kv->sink_k || zero->k);
    t.n_seg = t.sinks + t.n_older + (t.block > t.first_block) + 1 + 2 * (t.last_block - t.block);
    return t;
}

static struct seg tile_seg(const struct plan *p, const struct tile *t, int32_t i)
{
    const struct kern_kv *kv = p->a->kv;
    const struct kern_kv_block *head = kv->block + (size_t)t->head_kv * kv->n_block_cap;
    struct seg s = {.tok1 = PAGE_TOK, .k_stride = PAGE_TOK, .rows1 = INT32_MAX};
    if (t->sinks && i == 0) {
        s.kind = SEG_ROWS;
        s.dropped = head[0].dropped;
        s.tok1 = KERN_SINK_TOK;
        s.k = head[0].k;
        s.v = head[0].v;
        if (kv->sink_k) {
            s.k = kv->sink_k + (size_t)t->head_kv * p->head_dim * KERN_SINK_PAD;
            s.v = kv->n_latent ? NULL : kv->sink_v + (size_t)t->head_kv * p->head_dim * KERN_SINK_PAD;
            s.k_stride = KERN_SINK_PAD;
        }
        return s;
    }
    i -= t->sinks;
    bool older = i < t->n_older;
    /* Behind the older blocks: rows of the newest, then, where rows lie in several blocks, what is
     * new to some of them and older to others once more as pages. */
    int32_t near0 = t->block - (t->block > t->first_block), n_near = t->last_block - near0 + 1;
    s.block = older ? (t->listed ? t->listed[i] : t->first_block + i) : near0 + (i - t->n_older);
    bool again = !older && s.block > t->last_block;
    if (again)
        s.block -= n_near;
    const struct kern_kv_block *b = &head[s.block];
    s.dropped = b->dropped;
    if (again) {
        if (!b->page)
            return s;
        s.rows0 = s.block + 2;
        older = true;
    } else if (!older && b->page) {
        s.rows1 = s.block + 1;
    }
    if (older && b->page) {
        s.kind = SEG_PAGE;
        s.page = b->page;
        s.tok0 = s.block == 0 && t->sinks ? KERN_SINK_TOK : 0;
    } else if (b->k) {
        s.kind = SEG_ROWS;
        s.k = b->k;
        s.v = b->v;
    }
    assert(older || s.kind == SEG_ROWS);
    return s;
}

/* Tokens of the segment that a row sees: [*ret_lo, *ret_hi), possibly empty. */
ATTN_INLINE void seen_of(const struct kern_attn *a, const struct seg *s, int32_t row,
                         int32_t *ret_lo, int32_t *ret_hi)
{
    int32_t at = s->block * PAGE_TOK, pos = pos_of(a, row);
    bool reads = pos / PAGE_TOK >= s->rows0 && pos / PAGE_TOK <= s->rows1;
    *ret_lo = max_i(s->tok0, first_seen(a, row) - at);
    *ret_hi = reads ? min_i(s->tok1, pos - at + 1) : 0;
}

/* Tokens of the segment that any row of the tile sees lie below this. */
static int32_t seen_end(const struct kern_attn *a, const struct seg *s, const struct tile *t)
{
    int32_t lo, hi, end = 0;
    for (int32_t row = t->row1 - 1; row >= t->row0; row--) {
        seen_of(a, s, row, &lo, &hi);
        end = max_i(end, hi);
        if (!a->row) /* the last row sees furthest */
            break;
    }
    return end;
}

/* Columns taken at once: one or two rows of 8 lanes need twice as many for enough sums in flight. */
static int32_t panel_step(int32_t m)
{
    return m <= 2 && PANEL < 32 ? 32 : PANEL;
}

/* Whether m rows multiply a page's keys or values of so many bits as they lie. Of the time of widening, 512 rows
 * take with AVX-512 .84 to .91 at 8/8 and .55 to .65 at 4/4, with AVX2 1.31 to 1.42 and .84 to .97 (bench_attn).
 * Wide heads have few rows to a tile: 64 of 512 channels take .72 with AVX2. */
static bool by_codes(const struct plan *p, int32_t m, int32_t bits)
{
    return m <= CODE_ROWS || bits <= 4 || p->head_dim > PANEL_CHANNELS || p->a->kv->n_latent;
}

/* Scores of n_key tokens (a multiple of 16) for all m rows into w->s. */
static void seg_scores(const struct plan *p, struct work *w, const struct seg *s, int32_t m,
                       int32_t n_key)
{
    int32_t d = p->head_dim;
    if (s->kind == SEG_PAGE) {
#if defined(ATTN_AMX)
        if (m >= AMX_MIN_PAGE_ROWS) {
            page_tile_scores(&w->tiles, &w->page.layout, s->page, w->q, m, w->s, s->next_k);
            return;
        }
#endif
        if (by_codes(p, m, s->page->bits_k))
            page_scores_ahead(&w->page, s->page, w->q, m, w->s, s->next_k, s->next_bytes);
        else {
            page_widen_k(&w->page.layout, s->page, w->panel);
            for (int32_t c = 0; c < n_key; c += PANEL)
                tile_f32(m, min_i(PANEL, n_key - c), w->q, d, w->panel + c, PAGE_TOK, d, w->s + c,
                         PAGE_TOK, NULL);
        }
        return;
    }
    int32_t step = panel_step(m);
    for (int32_t c = 0; c < n_key; c += step) {
        int32_t n = min_i(step, n_key - c);
        tile_f16(m, n, w->q, d, s->k + c, s->k_stride, d, w->s + c, PAGE_TOK, NULL,
                 s->next_k ? s->next_k + (size_t)2 * d * c : (const char *)s->k);
    }
}

/* x[m][d] times keep[m]. */
ATTN_INLINE void scale_rows(float *x, const float *keep, int32_t m, int32_t d)
{
    for (int32_t i = 0; i < m; i++)
        for (int32_t c = 0; keep[i] != 1 && c < d; c += VL)
            VF_STORE(x + i * d + c, VF_MUL(VF_SET1(keep[i]), VF_LOAD(x + i * d + c)));
}

/* Into the space of rotated values, or back: a page's values need not be rotated back one by one, since
 * what is summed can be, and pages lie together. */
static void out_turn(struct work *w, bool turned, int32_t m, int32_t d)
{
    for (int32_t i = 0; w->turned != turned && i < m; i++)
        page_rotate(w->out + i * d, d);
    w->turned = turned;
}

/* Values of rows: [n_tok][ret_stride]. */
static const uint16_t *seg_rows_v(const struct plan *p, struct work *w, const struct seg *s, int32_t n_tok,
                                  int32_t *ret_stride)
{
    *ret_stride = s->v ? p->head_dim : BY_TOK_STRIDE;
    if (s->v)
        return s->v;
    transpose_half(s->k, s->k_stride, p->n_value, n_tok, w->by_tok, BY_TOK_STRIDE);
    return w->by_tok;
}

/* out = out * keep + P * V over the first n_tok tokens: beyond, rows may hold anything. */
static void seg_values(const struct plan *p, struct work *w, const struct seg *s, int32_t m,
                       int32_t n_tok)
{
    int32_t d = p->head_dim;
    out_turn(w, s->kind == SEG_PAGE && s->page->flags & PAGE_V_ROTATED, m, d);
    if (s->kind == SEG_PAGE && by_codes(p, m, s->page->bits_v)) {
        scale_rows(w->out, w->keep, m, d);
#if defined(ATTN_AMX)
        if (m >= AMX_MIN_PAGE_ROWS) {
            if (p->a->kv->n_latent)
                page_tile_values_latent(&w->tiles, &w->page.layout, s->page, p->n_value, w->s, m, w->out);
            else
                page_tile_values(&w->tiles, &w->page.layout, s->page, w->s, m, w->out, s->next_v);
            return;
        }
#endif
        if (p->a->kv->n_latent)
            page_values_latent(&w->page, s->page, p->n_value, w->s, m, w->out, s->next_v, s->next_bytes);
        else
            page_values(&w->page, s->page, w->s, m, w->out, s->next_v, s->next_bytes);
        return;
    }
    if (s->kind == SEG_PAGE) {
        page_widen_v(&w->page.layout, s->page, w->panel);
        for (int32_t c = 0; c < d; c += PANEL)
            tile_f32(m, min_i(PANEL, d - c), w->s, PAGE_TOK, w->panel + c, d, n_tok, w->out + c, d,
                     w->keep);
        return;
    }
    int32_t step = panel_step(m);
    int32_t stride;
    const uint16_t *v = seg_rows_v(p, w, s, n_tok, &stride);
    for (int32_t c = 0; c < p->n_value; c += step) {
        int32_t n = min_i(step, p->n_value - c);
        tile_f16(m, n, w->s, PAGE_TOK, v + c, stride, n_tok, w->out + c, d, w->keep,
                 s->next_v ? s->next_v + (size_t)2 * PAGE_TOK * c : (const char *)v);
    }
}

/* Caps the scores of one row; -inf where it does not see. */
ATTN_INLINE void row_mask(const struct kern_attn *a, float *s, int32_t n_key, int32_t lo,
                          int32_t hi, uint64_t dropped)
{
    if (a->softcap > 0) {
        vf inv = VF_SET1(ATTN_LN2 / a->softcap), cap = VF_SET1(a->softcap * ATTN_LOG2E);
        for (int32_t j = 0; j < n_key; j += VL)
            VF_STORE(s + j, VF_MUL(cap, vf_tanh(VF_MUL(inv, VF_LOAD(s + j)))));
    }
    for (uint64_t left = dropped; left; left &= left - 1)
        s[__builtin_ctzll(left)] = -INFINITY;
    for (int32_t j = 0; (lo > 0 || hi < n_key) && j < n_key; j += VL)
        VF_STORE(s + j, vf_outside(VF_LOAD(s + j), j, lo, hi));
}

/* Turns the scores of one row into probabilities against its running maximum. */
ATTN_INLINE void row_softmax(struct work *w, int32_t i, int32_t n_key)
{
    float *s = w->s + i * PAGE_TOK;
    vf top = VF_SET1(w->top[i]);
    for (int32_t j = 0; j < n_key; j += VL)
        top = VF_MAX(top, VF_LOAD(s + j));
    float top_now = vf_hmax(top);
    w->keep[i] = top_now == w->top[i] ? 1.0f : exp2f(w->top[i] - top_now);
    w->top[i] = top_now;
    vf at = VF_SET1(top_now), sum = VF_ZERO();
    for (int32_t j = 0; j < n_key; j += VL) {
        vf x = vf_exp2(VF_SUB(VF_LOAD(s + j), at));
        VF_STORE(s + j, x);
        sum = VF_ADD(sum, x);
    }
    w->sums[i] = vf_hsum(sum);
    w->sum[i] = w->sum[i] * w->keep[i] + w->sums[i];
}

/* row_mask for all m rows of the tile. */
static void seg_mask(const struct plan *p, struct work *w, const struct tile *t,
                     const struct seg *s, int32_t m, int32_t n_key)
{
    for (int32_t i = 0; i < m; i += p->group) {
        int32_t lo, hi;
        seen_of(p->a, s, t->row0 + i / p->group, &lo, &hi);
        bool whole = lo <= 0 && hi >= n_key && !s->dropped && !(p->a->softcap > 0);
        for (int32_t j = i; !whole && j < i + p->group; j++)
            row_mask(p->a, w->s + j * PAGE_TOK, n_key, lo, hi, s->dropped);
    }
}

#if defined(ATTN_AMX)
/* All of a segment of rows in tile registers. Each step is for all rows at once: going through the steps
 * strip by strip, to stay in L1 or to let vector and tile units overlap, was 5 to 10 % slower. */
static void seg_tiles(const struct plan *p, struct work *w, const struct tile *t,
                      const struct seg *s, int32_t m, int32_t n_tok, int32_t n_key)
{
    int32_t d = p->head_dim, depth = amx_depth(n_tok);
    uint8_t *right = (uint8_t *)w->panel;
    amx_right(s->k, s->k_stride, 1, d, d, n_key, right, s->next_k);
    amx_product(w->amx_q, right, m, n_key, d, w->s, PAGE_TOK, false);
    seg_mask(p, w, t, s, m, n_key);
    amx_softmax(w->s, PAGE_TOK, m, n_key, depth, w->top, w->sum, w->keep, w->sums, w->amx_p);
    out_turn(w, false, m, d);
    scale_rows(w->out, w->keep, m, d);
    int32_t stride;
    const uint16_t *v = seg_rows_v(p, w, s, n_tok, &stride);
    amx_right(v, stride, 1, n_tok, depth, p->n_value, right, s->next_v);
    amx_product(w->amx_p, right, m, p->n_value, depth, w->out, d, true);
}
#endif

/* A segment is done before the hardware has noticed where the next one lies, so the kernels fetch
 * it as they go; a page is taken to be as long as the one before it. */
static void seg_look_ahead(struct seg *s, const struct seg *next, int32_t head_dim)
{
    size_t bytes = sizeof(uint16_t) * PAGE_TOK * head_dim;
    if (next->kind == SEG_ROWS) {
        s->next_k = (const char *)next->k;
        s->next_v = (const char *)next->v;
    } else if (next->kind == SEG_PAGE) {
        if (s->kind == SEG_PAGE)
            bytes = s->page->size_bytes / 2;
        s->next_k = (const char *)next->page;
        s->next_v = (const char *)next->page + bytes;
    }
    s->next_bytes = bytes;
}

/* Segments [seg0, seg1) of a tile into w: out is not yet divided by sum. */
static void tile_attend(const struct plan *p, struct work *w, const struct tile *t, int32_t seg0,
                        int32_t seg1)
{
    const struct kern_attn *a = p->a;
    int32_t d = p->head_dim, m = (t->row1 - t->row0) * p->group;
    float factor = a->scale * ATTN_LOG2E;
    for (int32_t i = 0; i < m; i++) {
        int32_t row = t->row0 + i / p->group, head = t->head0 + i % p->group;
        const float *q = a->q + ((size_t)row_of(a, row) * a->n_head + head) * d;
        for (int32_t c = 0; c < d; c++)
            w->q[i * d + c] = q[c] * factor;
        w->top[i] = ATTN_LOWEST;
        w->sum[i] = 0;
    }
    memset(w->out, 0, sizeof(float) * m * d);
    w->page.layout.shape.head_dim = 0;
    w->turned = false;
#if defined(ATTN_AMX)
    w->amx = m >= AMX_MIN_ROWS && d % AMX_DEPTH == 0 &&
             t->last_block - t->first_block + 1 >= AMX_MIN_SEG;
    if (m >= AMX_MIN_PAGE_ROWS) /* fewer than for rows of f16 */
        amx_begin();
    if (w->amx)
        amx_left(w->q, d, m, d, w->amx_q);
#endif
    int32_t n_sum = seg1 - seg0;
    struct seg next = {SEG_NONE};
    if (seg0 < seg1)
        next = tile_seg(p, t, seg0);
    for (int32_t i = seg0; i < seg1; i++) {
        struct seg s = next;
        if (i + 1 < seg1) {
            next = tile_seg(p, t, i + 1);
            seg_look_ahead(&s, &next, d);
        }
        int32_t n_tok = 0, n_key = 0;
        if (s.kind != SEG_NONE) {
            n_tok = seen_end(a, &s, t);
            n_key = (n_tok + 15) & ~15;
        }
        if (n_key == 0) {
            for (int32_t j = 0; a->mass && j < m; j++) {
                w->block_top[j * n_sum + i - seg0] = ATTN_LOWEST;
                w->block_sum[j * n_sum + i - seg0] = 0;
            }
            continue;
        }
#if defined(ATTN_AMX)
        bool tiles = w->amx && s.kind == SEG_ROWS;
        if (tiles)
            seg_tiles(p, w, t, &s, m, n_tok, n_key);
#else
        const bool tiles = false;
#endif
        if (!tiles) {
            seg_scores(p, w, &s, m, n_key);
            seg_mask(p, w, t, &s, m, n_key);
            for (int32_t j = 0; j < m; j++)
                row_softmax(w, j, n_key);
            seg_values(p, w, &s, m, n_tok);
        }
        for (int32_t j = 0; a->mass && j < m; j++) {
            w->block_top[j * n_sum + i - seg0] = w->top[j];
            w->block_sum[j * n_sum + i - seg0] = w->sums[j];
        }
    }
#if defined(ATTN_AMX)
    if (m >= AMX_MIN_PAGE_ROWS)
        TILE_RELEASE();
#endif
    out_turn(w, false, m, d);
}

/* Writes the finished rows of a tile. */
static void tile_finish(const struct plan *p, const struct tile *t, const float *out,
                        const float *top, const float *sum)
{
    const struct kern_attn *a = p->a;
    int32_t d = p->head_dim, m = (t->row1 - t->row0) * p->group;
    for (int32_t i = 0; i < m; i++) {
        int32_t row = t->row0 + i / p->group, head = t->head0 + i % p->group;
        float *o = a->out + ((size_t)row * a->n_head + head) * d;
        vf inv = VF_SET1(1.0f / sum[i]);
        for (int32_t c = 0; c < d; c += VL)
            VF_STORE(o + c, VF_MUL(inv, VF_LOAD(out + i * d + c)));
        if (a->lse)
            a->lse[(size_t)row * a->n_head + head] = top[i] * ATTN_LN2 + logf(sum[i]);
    }
}

/* mass[segment] = sum over rows of block_sum * 2^(block_top - top) / sum. */
static void mass_reduce(const float *block_top, const float *block_sum, int32_t n_seg, int32_t m,
                        const float *top, const float *sum, float *mass)
{
    for (int32_t s = 0; s < n_seg; s++)
        mass[s] = 0;
    for (int32_t i = 0; i < m; i++) {
        float inv = 1.0f / sum[i];
        for (int32_t s = 0; s < n_seg; s++)
            mass[s] += block_sum[i * n_seg + s] * exp2f(block_top[i * n_seg + s] - top[i]) * inv;
    }
}

static int32_t split_at(int32_t n_seg, int32_t n_split, int32_t i)
{
    return (int32_t)((int64_t)n_seg * i / n_split);
}

/* Slot i of the room behind the threads' tiles. */
static uint8_t *share_slot(const struct plan *p, int32_t i, size_t slot_bytes)
{
    int32_t per_share = (int32_t)(SHARE_BYTES / slot_bytes);
    return (uint8_t *)cpu_scratch(p->kern, i / per_share) + sizeof(struct work) +
           (i % per_share) * slot_bytes;
}

/* The slot of a band's tile, where an item has n_split of them. */
static int32_t slot_of(const struct plan *p, int32_t band, int32_t index)
{
    return ((band - p->band0) * p->n_tile + index) * p->n_split;
}

/* A split result: top [m], sum [m], out [m][head_dim], then block_top and block_sum [m][n_seg]. */
static void attend_item(void *ctx, int item, int n_item, int thread)
{
    const struct plan *p = ctx;
    const struct kern_attn *a = p->a;
    struct work *w = cpu_scratch(p->kern, thread);
    int32_t split = item % p->n_split, rest = item / p->n_split;
    /* later tiles are longer: they go first, so that the threads finish together */
    int32_t n_band = p->band1 - p->band0;
    int32_t index = p->n_tile - 1 - rest / n_band, band = p->band0 + rest % n_band;
    struct tile t = tile_make(p, band, index);
    int32_t d = p->head_dim, m = (t.row1 - t.row0) * p->group;
    int32_t seg0 = split_at(t.n_seg, p->n_split, split);
    int32_t seg1 = split_at(t.n_seg, p->n_split, split + 1);
    tile_attend(p, w, &t, seg0, seg1);
    if (p->n_split == 1) {
        tile_finish(p, &t, w->out, w->top, w->sum);
        if (a->mass)
            mass_reduce(w->block_top, w->block_sum, t.n_seg, m, w->top, w->sum,
                        (float *)share_slot(p, slot_of(p, band, index), p->mass_bytes));
        return;
    }
    float *part = (float *)share_slot(p, slot_of(p, band, index) + split, p->part_bytes);
    memcpy(part, w->top, sizeof(float) * m);
    memcpy(part + m, w->sum, sizeof(float) * m);
    memcpy(part + 2 * m, w->out, sizeof(float) * m * d);
    if (a->mass) {
        float *sums = part + (2 + d) * m;
        memcpy(sums, w->block_top, sizeof(float) * m * (seg1 - seg0));
        memcpy(sums + m * (seg1 - seg0), w->block_sum, sizeof(float) * m * (seg1 - seg0));
    }
}

/* Adds an item's segment masses to the blocks they came from. */
static void mass_add(const struct plan *p, const struct tile *t, int32_t seg0, int32_t seg1,
                     const float *mass)
{
    float *to = p->a->mass + (size_t)t->head_kv * p->a->kv->n_block_cap;
    for (int32_t s = seg0; s < seg1; s++)
        to[tile_seg(p, t, s).block] += mass[s - seg0];
}

static void merge_band(const struct plan *p, int32_t band, struct work *w)
{
    const struct kern_attn *a = p->a;
    int32_t d = p->head_dim;
    for (int32_t index = 0; index < p->n_tile; index++) {
        struct tile t = tile_make(p, band, index);
        int32_t m = (t.row1 - t.row0) * p->group, slot = slot_of(p, band, index);
        if (p->n_split == 1) {
            mass_add(p, &t, 0, t.n_seg, (float *)share_slot(p, slot, p->mass_bytes));
            continue;
        }
        for (int32_t i = 0; i < m; i++) {
            float top = ATTN_LOWEST, sum = 0;
            for (int32_t s = 0; s < p->n_split; s++)
                top = fmaxf(top, ((float *)share_slot(p, slot + s, p->part_bytes))[i]);
            memset(w->out + i * d, 0, sizeof(float) * d);
            for (int32_t s = 0; s < p->n_split; s++) {
                const float *part = (float *)share_slot(p, slot + s, p->part_bytes);
                float weight = exp2f(part[i] - top);
                sum += weight * part[m + i];
                for (int32_t c = 0; c < d; c++)
                    w->out[i * d + c] += weight * part[2 * m + i * d + c];
            }
            w->top[i] = top;
            w->sum[i] = sum;
        }
        tile_finish(p, &t, w->out, w->top, w->sum);
        for (int32_t s = 0; a->mass && s < p->n_split; s++) {
            int32_t seg0 = split_at(t.n_seg, p->n_split, s);
            int32_t seg1 = split_at(t.n_seg, p->n_split, s + 1);
            const float *part = (float *)share_slot(p, slot + s, p->part_bytes);
            const float *sums = part + (2 + d) * m;
            mass_reduce(sums, sums + m * (seg1 - seg0), seg1 - seg0, m, w->top, w->sum, w->s);
            mass_add(p, &t, seg0, seg1, w->s);
        }
    }
}

/* One KV head of the pass: merges what was split, and adds up masses in a fixed order. */
static void merge_head(void *ctx, int item, int n_item, int thread)
{
    const struct plan *p = ctx;
    int32_t band = (p->band0 / p->n_band + item) * p->n_band;
    int32_t end = min_i(band + p->n_band, p->band1);
    for (band = max_i(band, p->band0); band < end; band++)
        merge_band(p, band, cpu_scratch(p->kern, thread));
}

/* Settles tiles and splits for rows [row0, row1) so that all results fit the shares. */
static struct plan plan_make(struct kern *k, const struct kern_attn *a, int32_t row0, int32_t row1)
{
    struct plan p = {.kern = k, .a = a, .row0 = row0, .row1 = row1};
    int32_t group = a->n_head / a->kv->n_head_kv;
    p.head_dim = a->kv->head_dim;
    p.n_value = kern_value_dim(a->kv);
    int32_t n_seg = pos_of(a, row1 - 1) / PAGE_TOK + 2; /* of the longest tile, at most */
    if (a->row)
        n_seg += pos_of(a, row1 - 1) / PAGE_TOK - a->pos0 / PAGE_TOK;
    int32_t most = a->mass ? min_i(TILE_ROWS, SUM_FLOATS / 2 / n_seg) : TILE_ROWS;
    assert(most > 0);
    for (p.n_band = 1; group % p.n_band || group / p.n_band > most;)
        p.n_band++;
    p.group = group / p.n_band;
    p.rows_per_tile = max_i(min_i(tile_rows_most(p.head_dim), most) / p.group, 1);
    p.n_tile = tile_count(&p);
    p.n_split = 1;
    p.mass_bytes = ((size_t)n_seg * sizeof(float) + 63) & ~(size_t)63;
    p.band1 = a->kv->n_head_kv * p.n_band;
    int32_t threads = k->n_thread, n_item = p.n_tile * p.band1;
    int32_t want = (ITEMS_PER_THREAD * threads + n_item - 1) / n_item;
    int32_t m = min_i(p.rows_per_tile, row1 - row0) * p.group;
    for (p.n_split = min_i(want, n_seg / SPLIT_MIN_SEG); p.n_split > 1; p.n_split--) {
        int32_t segs = n_seg / p.n_split + 1;
        p.part_bytes = sizeof(float) * m * (2 + p.head_dim + (a->mass ? 2 * segs : 0));
        p.part_bytes = (p.part_bytes + 63) & ~(size_t)63;
        if (p.part_bytes <= SHARE_BYTES && (!a->mass || (segs <= TILE_ROWS * PAGE_TOK && segs * m <= SUM_FLOATS / 2)) &&
            (int64_t)n_item * p.n_split <= (int64_t)(SHARE_BYTES / p.part_bytes) * threads)
            break;
    }
    p.n_split = max_i(p.n_split, 1);
    return p;
}

/* Items whose masses the threads' shares hold. */
static int32_t mass_slots(const struct plan *p)
{
    return (int32_t)(SHARE_BYTES / p->mass_bytes) * p->kern->n_thread;
}

static void flow_attend(struct kern *k, const struct kern_attn *a)
{
    const struct kern_kv *kv = a->kv;
    assert(a->n_head % kv->n_head_kv == 0 && kv->head_dim <= PAGE_HEAD_DIM_MAX);
    assert(!a->row || (!a->list && a->window == 0));
    if (kv->head_dim % 16) {
        attn_ref_attend(k, a); /* shapes of toy models: not worth lanes of their own */
        return;
    }
    for (int32_t row0 = 0; row0 < a->n_tok;) {
        int32_t row1 = a->n_tok;
        struct plan p = plan_make(k, a, row0, row1);
        int32_t n_band = p.band1;
        /* masses of every item must fit the shares: else fewer rows and bands at a time */
        while (a->mass && p.n_split == 1 && row1 - row0 > 1 && p.n_tile * n_band > mass_slots(&p)) {
            row1 = row0 + (row1 - row0 + 1) / 2;
            p = plan_make(k, a, row0, row1);
            n_band = p.band1;
        }
        int32_t step = a->mass && p.n_split == 1 ? max_i(1, mass_slots(&p) / p.n_tile) : n_band;
        for (; p.band0 < n_band; p.band0 = p.band1) {
            p.band1 = min_i(p.band0 + step, n_band);
            pool_run(cpu_of(k)->pool, p.n_tile * (p.band1 - p.band0) * p.n_split, attend_item, &p);
            if (p.n_split > 1 || a->mass)
                pool_run(cpu_of(k)->pool, (p.band1 - 1) / p.n_band - p.band0 / p.n_band + 1, merge_head, &p);
        }
        row0 = row1;
    }
}

#endif
