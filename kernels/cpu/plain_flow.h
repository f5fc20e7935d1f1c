/* Products with F32, F16 and BF16 weights, in float32 without rounding the input: included by
 * matmul_avx2.c and matmul_avx512.c, which define the vector (flow_vec of FLOW_LANES floats,
 * flow_load, flow_store, flow_set1, flow_fma).
 *
 * 256 columns of 16 rows are widened and transposed into scratch, [column][row]; then every load
 * of weights serves several tokens, and no sum crosses lanes. A row's products are added column
 * by column, in float32, for any number of tokens: a token's result may not depend on what came
 * with it. With few tokens, four groups of 16 rows at once keep the adders busy. */

enum {
    PLAIN_TOK = FLOW_LANES == 8 ? 6 : 12,
    PLAIN_VECS = TILE_ROWS / FLOW_LANES,
    PLAIN_TILES = MATMUL_PLAIN_ROWS / TILE_ROWS
};

static size_t plain_row_bytes(const struct kern_weight *w)
{
    return (size_t)w->n_col * (size_t)w->traits->bytes;
}

INLINE __m256 plain_load(const uint8_t *row, int32_t i, enum kern_type type)
{
    if (type == KERN_F32)
        return _mm256_loadu_ps((const float *)(row + 4 * (size_t)i));
    __m128i half = _mm_loadu_si128((const __m128i *)(row + 2 * (size_t)i));
    if (type == KERN_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

static float plain_value(const uint8_t *row, int32_t i, enum kern_type type)
{
    float v;
    kern_dequantise(type, row + (size_t)i * kern_type_bytes(type), &v, 1);
    return v;
}

/* Eight columns of eight rows to [column][TILE_ROWS]. */
INLINE void transpose8(__m256 r[8], float *dst)
{
    __m256 s[8];
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * TILE_ROWS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * TILE_ROWS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* Columns col0..col0+n of 16 rows (the last one again for those that do not exist). */
INLINE void plain_unpack(const uint8_t *rows, size_t row_bytes, int n_row, int32_t col0, int n,
                         float *dst, enum kern_type type)
{
    for (int r0 = 0; r0 < TILE_ROWS; r0 += 8) {
        const uint8_t *row[8];
        for (int r = 0; r < 8; r++)
            row[r] = rows + row_bytes * (size_t)(r0 + r < n_row ? r0 + r : n_row - 1);
        int c = 0;
        for (; c + 8 <= n; c += 8) {
            __m256 v[8];
            for (int r = 0; r < 8; r++) {
                v[r] = plain_load(row[r], col0 + c, type);
                _mm_prefetch(row[r] + (size_t)(col0 + c) * (type == KERN_F32 ? 4 : 2) + 512,
                             _MM_HINT_T0);
            }
            transpose8(v, dst + c * TILE_ROWS + r0);
        }
        for (; c < n; c++)
            for (int r = 0; r < 8; r++)
                dst[c * TILE_ROWS + r0 + r] = plain_value(row[r], col0 + c, type);
    }
}

/* c[tile][tok][16] += panel [tile][n_col][16] times n inputs of n_tok tokens; n_tile and n_tok
 * are constants. tile_stride: floats from a tile's c to the next. */
INLINE void plain_gemm(const float *panel, int n_tile, int n_col, int n, const float *x,
                       int32_t x_stride, int n_tok, float *c, size_t tile_stride)
{
    flow_vec acc[PLAIN_TOK * PLAIN_VECS];
    int n_vec = n_tile * PLAIN_VECS;
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < n_vec; i++)
            acc[t * n_vec + i] = flow_load(c + i / PLAIN_VECS * tile_stride + t * TILE_ROWS +
                                           i % PLAIN_VECS * FLOW_LANES);
    for (int k = 0; k < n; k++, panel += TILE_ROWS) {
        flow_vec w[PLAIN_TILES * PLAIN_VECS];
        for (int i = 0; i < n_vec; i++)
            w[i] = flow_load(panel + i / PLAIN_VECS * n_col * TILE_ROWS +
                             i % PLAIN_VECS * FLOW_LANES);
        for (int t = 0; t < n_tok; t++)
            for (int i = 0; i < n_vec; i++)
                acc[t * n_vec + i] =
                    flow_fma(w[i], flow_set1(x[(size_t)t * x_stride + k]), acc[t * n_vec + i]);
    }
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < n_vec; i++)
            flow_store(c + i / PLAIN_VECS * tile_stride + t * TILE_ROWS +
                           i % PLAIN_VECS * FLOW_LANES,
                       acc[t * n_vec + i]);
}

INLINE void plain_rows(const struct kern_weight *w, int32_t row0, int n_row, const struct act *a,
                       float *scratch, float *c, enum kern_type type)
{
    size_t row_bytes = plain_row_bytes(w), tile_stride = (size_t)a->n_tok * TILE_ROWS;
    int n_tile = (n_row + TILE_ROWS - 1) / TILE_ROWS;
    memset(c, 0, (size_t)n_tile * tile_stride * sizeof(float));
    /* For few tokens the scratch must stay in the first-level cache. */
    int step = a->n_tok < PLAIN_TOK ? PANEL_COLS / PLAIN_TILES : PANEL_COLS;
    for (int32_t col = 0; col < w->n_col; col += step) {
        int n = w->n_col - col < step ? w->n_col - col : step, t = 0;
        const float *x = a->x + col;
        for (int i = 0; i < n_tile; i++) {
            int32_t first = row0 + i * TILE_ROWS;
            plain_unpack(w->rows + (size_t)first * row_bytes, row_bytes, n_row - i * TILE_ROWS,
                         col, n, scratch + i * step * TILE_ROWS, type);
        }
        for (; t + PLAIN_TOK <= a->n_tok; t += PLAIN_TOK)
            for (int i = 0; i < n_tile; i++)
                plain_gemm(scratch + i * step * TILE_ROWS, 1, step, n,
                           x + (size_t)t * a->x_stride, a->x_stride, PLAIN_TOK,
                           c + i * tile_stride + t * TILE_ROWS, tile_stride);
        for (; t < a->n_tok; t++) {
            const float *row = x + (size_t)t * a->x_stride;
            if (n_tile == PLAIN_TILES) {
                plain_gemm(scratch, PLAIN_TILES, step, n, row, 0, 1, c + t * TILE_ROWS, tile_stride);
                continue;
            }
            for (int i = 0; i < n_tile; i++)
                plain_gemm(scratch + i * step * TILE_ROWS, 1, step, n, row, 0, 1,
                           c + i * tile_stride + t * TILE_ROWS, tile_stride);
        }
    }
}

static void plain_run(const struct kern_weight *w, int32_t row0, int n_row, const struct act *a,
                      float *scratch, float *c)
{
    if (w->type == KERN_F32)
        plain_rows(w, row0, n_row, a, scratch, c, KERN_F32);
    else if (w->type == KERN_F16)
        plain_rows(w, row0, n_row, a, scratch, c, KERN_F16);
    else
        plain_rows(w, row0, n_row, a, scratch, c, KERN_BF16);
}
