/* Products with F32, F16 and BF16 weights, in float32 without rounding the input: included by
 * matmul_avx2.c and matmul_avx512.c, which define the vector (flow_vec of FLOW_LANES floats,
 * flow_load, flow_store, flow_set1, flow_fma, and flow_load_f16, flow_load_bf16 that widen).
 *
 * Tiles lie as [column][16 rows], so no sum crosses lanes: a row's products are added column by
 * column, for any number of tokens, and a token's result does not depend on what came with it.
 * With few tokens, four tiles at once keep the adders busy. */

enum {
    PLAIN_TOK = FLOW_LANES == 8 ? 6 : 12,
    PLAIN_VECS = TILE_ROWS / FLOW_LANES,
};

/* The i-th vector of 16 rows of a column. */
INLINE flow_vec plain_load(const uint8_t *tile, int32_t col, int i, enum kern_type type)
{
    size_t at = (size_t)col * TILE_ROWS + (size_t)i * FLOW_LANES;
    if (type == KERN_F32)
        return flow_load((const float *)tile + at);
    if (type == KERN_F16)
        return flow_load_f16(tile + 2 * at);
    return flow_load_bf16(tile + 2 * at);
}

/* c[tile][tok][16] += columns col0..col0+n of n_tile tiles times the inputs x of n_tok tokens;
 * n_tile and n_tok are constants. c_stride: floats from a tile's c to the next. */
INLINE void plain_block(const uint8_t *tile, size_t tile_bytes, int n_tile, int32_t col0, int n,
                        const float *x, int32_t x_stride, int n_tok, float *c, size_t c_stride,
                        enum kern_type type)
{
    flow_vec acc[PLAIN_TOK * PLAIN_VECS];
    int n_vec = n_tile * PLAIN_VECS;
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < n_vec; i++)
            acc[t * n_vec + i] = flow_load(c + i / PLAIN_VECS * c_stride + t * TILE_ROWS +
                                           i % PLAIN_VECS * FLOW_LANES);
    for (int32_t col = col0; col < col0 + n; col++) {
        flow_vec w[MATMUL_ITEM_TILES * PLAIN_VECS];
        for (int i = 0; i < n_vec; i++)
            w[i] = plain_load(tile + i / PLAIN_VECS * tile_bytes, col, i % PLAIN_VECS, type);
        for (int t = 0; t < n_tok; t++) {
            flow_vec b = flow_set1(x[(size_t)t * x_stride + col]);
            for (int i = 0; i < n_vec; i++)
                acc[t * n_vec + i] = flow_fma(w[i], b, acc[t * n_vec + i]);
        }
    }
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < n_vec; i++)
            flow_store(c + i / PLAIN_VECS * c_stride + t * TILE_ROWS +
                           i % PLAIN_VECS * FLOW_LANES,
                       acc[t * n_vec + i]);
}

INLINE void plain_tiles(const struct kern_weight *w, int32_t tile0, int n_tile,
                        const struct act *a, float *c, enum kern_type type)
{
    const uint8_t *tile = w->tiles + (size_t)tile0 * w->tile_bytes;
    size_t c_stride = (size_t)a->n_slot * TILE_ROWS, bytes = w->tile_bytes;
    int32_t xs = a->x_stride;
    memset(c, 0, (size_t)n_tile * c_stride * sizeof(float));
    for (int32_t col = 0; col < w->n_col; col += PANEL_COLS) {
        int n = w->n_col - col < PANEL_COLS ? w->n_col - col : PANEL_COLS, t = 0;
        for (; t + PLAIN_TOK <= a->n_tok; t += PLAIN_TOK)
            for (int i = 0; i < n_tile; i++)
                plain_block(tile + i * bytes, bytes, 1, col, n, a->x + (size_t)t * xs, xs,
                            PLAIN_TOK, c + i * c_stride + t * TILE_ROWS, c_stride, type);
        for (; t < a->n_tok; t++) {
            const float *x = a->x + (size_t)t * xs;
            float *out = c + t * TILE_ROWS;
            int i = 0;
            for (; i + MATMUL_ITEM_TILES <= n_tile; i += MATMUL_ITEM_TILES)
                plain_block(tile + i * bytes, bytes, MATMUL_ITEM_TILES, col, n, x, 0, 1,
                            out + i * c_stride, c_stride, type);
            for (; i < n_tile; i++)
                plain_block(tile + i * bytes, bytes, 1, col, n, x, 0, 1, out + i * c_stride,
                            c_stride, type);
        }
    }
}

static void plain_run(const struct kern_weight *w, int32_t tile0, int n_tile, const struct act *a,
                      float *c)
{
    if (w->type == KERN_F32)
        plain_tiles(w, tile0, n_tile, a, c, KERN_F32);
    else if (w->type == KERN_F16)
        plain_tiles(w, tile0, n_tile, a, c, KERN_F16);
    else
        plain_tiles(w, tile0, n_tile, a, c, KERN_BF16);
}
