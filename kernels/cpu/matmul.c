/* The fast matrix product, but for its inner loops: blocks of tokens, the quantised input, and
 * the split of the rows over the threads. */
#include "kernels/cpu/matmul.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    ITEM_BYTES = 128 << 10, /* weight bytes of one item of work with one token */
    SERIAL_VALUES = 16384,  /* as many inputs are quantised faster than another thread wakes */
    MAX_MATS = 4,
    ACT_WIDE_MAX = 2 * (int)sizeof(struct act8) /* the longest wide_bytes */
};

/* A thread's scratch. */
struct work_space {
    struct panel panel[MATMUL_ITEM_TILES];
    float c[MATMUL_ITEM_TILES * MATMUL_TOK * TILE_ROWS];
};
_Static_assert(sizeof(struct work_space) <= CPU_SCRATCH_BYTES, "scratch is too small");

struct run {
    struct kern *k;
    const struct matmul_isa *isa;
    int n_mat;
    const struct kern_mat *mats;
    struct act act;
    int32_t tok0;
    int32_t item_tiles[MAX_MATS], item_end[MAX_MATS]; /* items of mats 0..i end at item_end[i] */
};

static int32_t div_up(int32_t a, int32_t b)
{
    return (a + b - 1) / b;
}

/* Groups of the input of one pass. */
static size_t act_slots(int32_t n_col)
{
    return (size_t)(n_col / 32) * MATMUL_TOK;
}

bool matmul_reserve(struct kern *k, int32_t n_col)
{
    struct kern_cpu *c = cpu_of(k);
    size_t need = act_slots(n_col) * (sizeof(struct act8) + ACT_WIDE_MAX);
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

static void quantise_token(void *ctx, int tok, int n_tok, int thread)
{
    const struct run *run = ctx;
    const struct act *a = &run->act;
    const float *x = a->x + (size_t)tok * a->x_stride;
    if (a->a8)
        run->isa->quantise8(x, a->n_col, a->a8 + tok, a->n_tok);
    if (a->wide)
        run->isa->quantise_wide(x, a->n_col, (uint8_t *)a->wide + (size_t)tok * run->isa->wide_bytes,
                                a->n_tok);
}

/* Adds c[tok][16] of one tile to what the caller wants. */
static void store_tile(const struct run *run, const struct kern_mat *m, int32_t tile,
                       const float *c)
{
    int32_t row0 = tile * TILE_ROWS, n = m->w->n_row - row0;
    n = n < TILE_ROWS ? n : TILE_ROWS;
    for (int32_t t = 0; t < run->act.n_tok; t++, c += TILE_ROWS) {
        float *dst = m->dst + (size_t)(run->tok0 + t) * m->dst_stride + row0;
        for (int32_t r = 0; r < n; r++)
            dst[r] = c[r] + (m->add ? dst[r] : 0) + (m->bias ? m->bias[row0 + r] : 0);
    }
}

/* Up to MATMUL_ITEM_TILES tiles of a matrix. */
static void run_tiles(const struct run *run, const struct kern_mat *m, int32_t tile0, int n_tile,
                      struct work_space *s)
{
    const struct act *a = &run->act;
    const struct kern_weight *w = m->w;
    size_t c_tile = (size_t)a->n_tok * TILE_ROWS;
    if (w->traits->bits == 0) {
        run->isa->plain(w, tile0, n_tile, a, s->c);
    } else if (a->n_tok == 1) {
        for (int i = 0; i < n_tile; i++)
            run->isa->gemv(w, tile0 + i, a, s->c + i * TILE_ROWS);
    } else {
        memset(s->c, 0, (size_t)n_tile * c_tile * sizeof(float));
        for (int32_t p = 0; p * PANEL_COLS < a->n_col; p++) {
            int n_col = a->n_col - p * PANEL_COLS;
            for (int i = 0; i < n_tile; i++)
                run->isa->unpack(w, tile0 + i, p, &s->panel[i]);
            run->isa->gemm(w, s->panel, n_tile, n_col < PANEL_COLS ? n_col : PANEL_COLS, a, p,
                           s->c);
        }
    }
    for (int i = 0; i < n_tile; i++)
        store_tile(run, m, tile0 + i, s->c + (size_t)i * c_tile);
}

static void run_item(void *ctx, int item, int n_item, int thread)
{
    const struct run *run = ctx;
    int i = 0;
    while (item >= run->item_end[i])
        i++;
    const struct kern_mat *m = &run->mats[i];
    int32_t tile = (item - (i ? run->item_end[i - 1] : 0)) * run->item_tiles[i];
    int32_t end = tile + run->item_tiles[i];
    end = end < m->w->n_tile ? end : m->w->n_tile;
    for (; tile < end; tile += MATMUL_ITEM_TILES) {
        int n = end - tile < MATMUL_ITEM_TILES ? end - tile : MATMUL_ITEM_TILES;
        run_tiles(run, m, tile, n, cpu_scratch(run->k, thread));
    }
}

/* Cuts the tiles of every matrix into items: large enough to be worth handing out, small enough
 * that no thread waits long for the last one. */
static int32_t plan_items(struct run *run)
{
    int32_t n_item = 0, n_tile = 0;
    for (int i = 0; i < run->n_mat; i++)
        n_tile += run->mats[i].w->n_tile;
    int32_t fair = n_tile / (8 * run->k->n_thread);
    for (int i = 0; i < run->n_mat; i++) {
        const struct kern_weight *w = run->mats[i].w;
        int32_t step = MATMUL_ITEM_TILES;
        if (run->act.n_tok == 1)
            step = (int32_t)(ITEM_BYTES / w->tile_bytes);
        step = step < fair ? step : fair;
        step = step > 1 ? step : 1;
        if (w->traits->bits == 0)
            step = div_up(step, MATMUL_ITEM_TILES) * MATMUL_ITEM_TILES;
        n_item += div_up(w->n_tile, step);
        run->item_tiles[i] = step;
        run->item_end[i] = n_item;
    }
    return n_item;
}

void matmul_run(struct kern *k, const struct matmul_isa *isa, int n_mat,
                const struct kern_mat *mats, const float *x, int32_t x_stride, int32_t n_tok)
{
    struct kern_cpu *cpu = cpu_of(k);
    struct run run = {.k = k, .isa = isa, .n_mat = n_mat, .mats = mats};
    int32_t n_col = mats[0].w->n_col;
    struct act8 *a8 = NULL;
    void *wide = NULL;
    assert(n_mat >= 1 && n_mat <= MAX_MATS);
    for (int i = 0; i < n_mat; i++) {
        const struct kern_weight *w = mats[i].w;
        assert(w->n_col == n_col);
        if (w->traits->bits == 0)
            continue;
        if (isa->is_wide(w->traits))
            wide = (struct act8 *)cpu->act + act_slots(n_col);
        else
            a8 = cpu->act;
    }
    for (int32_t t = 0; t < n_tok; t += MATMUL_TOK) {
        int32_t n = n_tok - t < MATMUL_TOK ? n_tok - t : MATMUL_TOK;
        run.tok0 = t;
        run.act = (struct act){.x = x + (size_t)t * x_stride,
                               .x_stride = x_stride,
                               .n_tok = n,
                               .n_col = n_col,
                               .a8 = a8,
                               .wide = wide};
        if ((a8 || wide) && (int64_t)n * n_col > SERIAL_VALUES)
            pool_run(cpu->pool, n, quantise_token, &run);
        else if (a8 || wide)
            for (int32_t i = 0; i < n; i++)
                quantise_token(&run, i, n, 0);
        pool_run(cpu->pool, plan_items(&run), run_item, &run);
    }
}
