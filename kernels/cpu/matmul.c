/* The fast matrix product, but for its inner loops: blocks of tokens, the quantised input, and
 * the split of the rows over the threads. */
#include "kernels/cpu/matmul.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEM_BYTES = 128 << 10, /* weight bytes of one item of work with one token */
    SERIAL_VALUES = 16384,  /* as many inputs are quantised faster than another thread wakes */
};

/* A thread's scratch. */
struct work_space {
    struct panel panel[MATMUL_ITEM_TILES];
    float c[MATMUL_ITEM_TILES * MATMUL_TOK * TILE_ROWS];
};
_Static_assert(sizeof(struct work_space) <= CPU_SCRATCH_BYTES, "scratch is too small");
_Static_assert((int)KERN_MATS * (int)MATMUL_SLOTS * (int)ACT_BOTH_MAX <= (int)ACT_GROUP_BYTES,
               "every matrix of a few tokens has room for its own input");

struct run {
    struct kern *k;
    const struct matmul_isa *isa;
    int n_mat;
    const struct kern_mat *mats;
    struct act act[KERN_MATS]; /* of each; the first tells how many tokens there are */
    int n_act;                 /* different ones: of all, or 1 */
    int32_t tok0;
    int32_t item_tiles[KERN_MATS], item_end[KERN_MATS]; /* items of mats 0..i end at item_end[i] */
};

static int32_t div_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

static int32_t max_i(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static int32_t rows_of(const struct kern_mat *m)
{
    return m->n_row ? m->n_row : m->w->n_row;
}

static int32_t tiles_of(const struct kern_mat *m)
{
    return div_up(rows_of(m), TILE_ROWS);
}

bool matmul_reserve(struct kern *k, int32_t n_col)
{
    struct kern_cpu *c = cpu_of(k);
    size_t need = (size_t)(n_col / 32) * ACT_GROUP_BYTES;
    if (need <= c->act_bytes)
        return true;
    void *bigger = aligned_alloc(64, (need + 63) / 64 * 64);
    if (!bigger)
        return false;
    free(c->act);
    c->act = bigger;
    c->act_bytes = need;
    return true;
}

static void quantise_slot(void *ctx, int slot, int n_slot, int thread)
{
    const struct run *run = ctx;
    for (int i = 0; i < run->n_act; i++) {
        const struct act *a = &run->act[i];
        int32_t tok = slot < a->n_tok ? slot : a->n_tok - 1;
        const float *x = a->x + (size_t)tok * a->x_stride;
        if (a->narrow)
            run->isa->quantise(x, a->n_col, a->narrow, slot, a->n_slot);
        if (a->wide)
            run->isa->quantise_wide(x, a->n_col, a->wide, slot, a->n_slot);
    }
}

/* Adds c[tile][slot][16] to what the caller wants; a token's tiles are neighbours there. Here and below
 * tiles are counted from the matrix's first row on. */
static void store_tiles(const struct run *run, const struct kern_mat *m, int32_t tile0, int n_tile,
                        const float *c)
{
    size_t c_tile = (size_t)run->act->n_slot * TILE_ROWS;
    int32_t row0 = tile0 * TILE_ROWS, n_row = rows_of(m), n_whole = (n_row - row0) / TILE_ROWS;
    n_whole = n_whole < n_tile ? n_whole : n_tile;
    const float *bias = m->bias ? m->bias + row0 : NULL;
    for (int32_t t = 0; t < run->act->n_tok; t++, c += TILE_ROWS) {
        float *dst = m->dst + (size_t)(run->tok0 + t) * m->dst_stride + row0;
        run->isa->store(dst, c, c_tile, n_whole, bias, m->add);
        if (n_whole < n_tile) /* the matrix's last rows */
            for (int32_t r = n_whole * TILE_ROWS; r < n_row - row0; r++)
                dst[r] = c[n_whole * c_tile + (size_t)r % TILE_ROWS] + (bias ? bias[r] : 0) +
                         (m->add ? dst[r] : 0);
    }
}

/* Asks for the memory that store_tiles will write. */
static void fetch_rows(const struct run *run, const struct kern_mat *m, int32_t tile0, int n_tile)
{
    for (int32_t t = 0; t < run->act->n_tok; t++)
        for (int i = 0; i < n_tile; i++)
            __builtin_prefetch(m->dst + (size_t)(run->tok0 + t) * m->dst_stride +
                                   (tile0 + i) * TILE_ROWS, 1);
}

/* Up to item_tiles tiles of a matrix. */
static void run_tiles(const struct run *run, const struct kern_mat *m, int32_t tile0, int n_tile,
                      struct work_space *s)
{
    const struct act *a = &run->act[run->n_act > 1 ? m - run->mats : 0];
    const struct kern_weight *w = m->w;
    const struct matmul_isa *isa = run->isa;
    size_t c_tile = (size_t)a->n_slot * TILE_ROWS;
    int32_t first = m->row0 / TILE_ROWS + tile0;
    if (w->traits->bits == 0) {
        (isa->few ? isa->few : isa)->plain(w, first, n_tile, a, s->c);
    } else if (a->n_tok <= isa->gemv_tok) {
        for (int i = 0; i < n_tile; i++)
            isa->gemv(w, first + i, a, s->c + i * c_tile);
    } else {
        fetch_rows(run, m, tile0, n_tile);
        memset(s->c, 0, (size_t)n_tile * c_tile * sizeof(float));
        if (isa->begin)
            isa->begin();
        for (int32_t p = 0; p * PANEL_COLS < a->n_col; p++) {
            int n_col = a->n_col - p * PANEL_COLS;
            for (int i = 0; i < n_tile; i++)
                isa->unpack(w, first + i, p, &s->panel[i]);
            isa->gemm(w, s->panel, n_tile, n_col < PANEL_COLS ? n_col : PANEL_COLS, a, p, s->c);
        }
        if (isa->end)
            isa->end();
    }
    store_tiles(run, m, tile0, n_tile, s->c);
}

static void run_item(void *ctx, int item, int n_item, int thread)
{
    const struct run *run = ctx;
    int i = 0;
    while (item >= run->item_end[i])
        i++;
    const struct kern_mat *m = &run->mats[i];
    int32_t tile = (item - (i ? run->item_end[i - 1] : 0)) * run->item_tiles[i];
    int32_t end = tile + run->item_tiles[i], n_tile = tiles_of(m);
    end = end < n_tile ? end : n_tile;
    int item_tiles = run->isa->item_tiles;
    for (; tile < end; tile += item_tiles) {
        int n = end - tile < item_tiles ? end - tile : item_tiles;
        run_tiles(run, m, tile, n, cpu_scratch(run->k, thread));
    }
}

/* Cuts the tiles of every matrix into items: large enough to be worth handing out (with many tokens every item
 * reads all inputs, two tiles at a time), small enough that no thread waits long for the last one. */
static int32_t plan_items(struct run *run)
{
    int32_t n_item = 0, n_tile = 0;
    for (int i = 0; i < run->n_mat; i++)
        n_tile += tiles_of(&run->mats[i]);
    int32_t fair = n_tile / (8 * run->k->n_thread);
    if (run->act->n_tok > MATMUL_SLOTS)
        fair = n_tile / (3 * run->k->n_thread) / 2 * 2;
    for (int i = 0; i < run->n_mat; i++) {
        const struct kern_weight *w = run->mats[i].w;
        int32_t step = run->isa->item_tiles;
        if (run->act->n_tok == 1)
            step = (int32_t)(ITEM_BYTES / w->tile_bytes);
        step = step < fair ? step : fair;
        step = step > 1 ? step : 1;
        if (w->traits->bits == 0)
            step = div_up(step, run->isa->item_tiles) * run->isa->item_tiles;
        n_item += div_up(tiles_of(&run->mats[i]), step);
        run->item_tiles[i] = step;
        run->item_end[i] = n_item;
    }
    return n_item;
}

void matmul_run(struct kern *k, const struct matmul_isa *isa, int n_mat,
                const struct kern_mat *mats, const float *x, int32_t x_stride, int32_t n_tok)
{
    struct kern_cpu *cpu = cpu_of(k);
    struct run run = {.k = k, .n_mat = n_mat, .mats = mats, .n_act = 1};
    int32_t n_col = mats[0].w->n_col;
    bool narrow = false, wide = false;
    int32_t few_tok = 0;
    assert(n_mat >= 1 && n_mat <= KERN_MATS);
    for (int i = 1; i < n_mat; i++)
        run.n_act = mats[i].x_col != mats[0].x_col ? n_mat : run.n_act;
    if (run.n_act > 1 && n_tok > MATMUL_SLOTS) { /* there is work enough in each */
        for (int i = 0; i < n_mat; i++)
            matmul_run(k, isa, 1, mats + i, x, x_stride, n_tok);
        return;
    }
    for (int i = 0; i < n_mat; i++) {
        const struct kern_weight *w = mats[i].w;
        assert(w->n_col == n_col && mats[i].row0 % TILE_ROWS == 0 &&
               mats[i].row0 + rows_of(&mats[i]) <= w->n_row);
        if (w->traits->bits == 0)
            continue;
        if (isa->few)
            few_tok = max_i(few_tok, isa->few_tok(w->traits));
        if (isa->is_wide(w->traits))
            wide = true;
        else
            narrow = true;
    }
    if (isa->few && (n_tok <= few_tok || !wide))
        isa = isa->few;
    for (int32_t t = 0; t < n_tok; t += isa->max_tok) {
        int32_t n = n_tok - t < isa->max_tok ? n_tok - t : isa->max_tok;
        int32_t n_slot = n == 1 ? 1 : div_up(n, MATMUL_SLOTS) * MATMUL_SLOTS;
        size_t slots = (size_t)(n_col / 32) * (size_t)n_slot, room = slots * ACT_BOTH_MAX;
        size_t narrow_bytes = narrow ? slots * ACT_NARROW_MAX : 0;
        run.isa = isa->few && n <= few_tok ? isa->few : isa;
        run.tok0 = t;
        for (int i = 0; i < run.n_act; i++) {
            uint8_t *act = (uint8_t *)cpu->act + room * (size_t)i;
            run.act[i] = (struct act){.x = x + mats[i].x_col + (size_t)t * x_stride,
                                      .x_stride = x_stride,
                                      .n_tok = n,
                                      .n_col = n_col,
                                      .n_slot = n_slot,
                                      .narrow = narrow ? act : NULL,
                                      .wide = wide ? act + narrow_bytes : NULL};
        }
        if ((narrow || wide) && (int64_t)n * n_col * run.n_act > SERIAL_VALUES)
            pool_run(cpu->pool, n_slot, quantise_slot, &run);
        else if (narrow || wide)
            for (int32_t i = 0; i < n_slot; i++)
                quantise_slot(&run, i, n_slot, 0);
        pool_run(cpu->pool, plan_items(&run), run_item, &run);
    }
}
