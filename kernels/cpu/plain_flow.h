/* Products with F32, F16 and BF16 weights, in float32 without rounding the input: included by
 * matmul_avx2.c and matmul_avx512.c, which define the vector (flow_vec of FLOW_LANES floats,
 * flow_load, flow_store, flow_set1, flow_fma, flow_sum, and flow_load_f16/bf16 that widen).
 *
 * Several tokens: 256 columns of 16 rows are widened and transposed into scratch, [column][row],
 * then every load of weights serves several tokens and no sum crosses lanes. Few tokens: rows are
 * multiplied as they lie. */

enum { PLAIN_TOK = FLOW_LANES == 8 ? 6 : 12, PLAIN_VECS = TILE_ROWS / FLOW_LANES };

static size_t plain_row_bytes(const struct kern_weight *w)
{
    return (size_t)w->n_col * (size_t)w->traits->bytes;
}

INLINE flow_vec plain_load(const uint8_t *row, int32_t i, enum kern_type type)
{
    if (type == KERN_F32)
        return flow_load((const float *)(row + 4 * (size_t)i));
    if (type == KERN_F16)
        return flow_load_f16(row + 2 * (size_t)i);
    return flow_load_bf16(row + 2 * (size_t)i);
}

static float plain_value(const uint8_t *row, int32_t i, enum kern_type type)
{
    float v;
    kern_dequantise(type, row + (size_t)i * kern_type_bytes(type), &v, 1);
    return v;
}

/* Eight columns of eight rows, from row-major floats to [column][TILE_ROWS]. */
INLINE void transpose8(float src[8][8], float *dst)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(src[i]);
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
    float block[8][FLOW_LANES < 8 ? 8 : FLOW_LANES], eight[8][8];
    for (int r0 = 0; r0 < TILE_ROWS; r0 += 8) {
        const uint8_t *row[8];
        for (int r = 0; r < 8; r++)
            row[r] = rows + row_bytes * (size_t)(r0 + r < n_row ? r0 + r : n_row - 1);
        int c = 0;
        for (; c + FLOW_LANES <= n; c += FLOW_LANES) {
            for (int r = 0; r < 8; r++)
                flow_store(block[r], plain_load(row[r], col0 + c, type));
            for (int part = 0; part < FLOW_LANES; part += 8) {
                for (int r = 0; r < 8; r++)
                    memcpy(eight[r], &block[r][part], sizeof eight[r]);
                transpose8(eight, dst + (c + part) * TILE_ROWS + r0);
            }
        }
        for (; c < n; c++)
            for (int r = 0; r < 8; r++)
                dst[c * TILE_ROWS + r0 + r] = plain_value(row[r], col0 + c, type);
    }
}

/* c[tok][16] += panel [n][16] times n inputs of n_tok tokens. */
INLINE void plain_gemm(const float *panel, int n, const float *x, int32_t x_stride, int n_tok,
                       float *c)
{
    flow_vec acc[PLAIN_TOK][PLAIN_VECS];
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < PLAIN_VECS; i++)
            acc[t][i] = flow_load(c + t * TILE_ROWS + i * FLOW_LANES);
    for (int k = 0; k < n; k++, panel += TILE_ROWS) {
        flow_vec w[PLAIN_VECS];
        for (int i = 0; i < PLAIN_VECS; i++)
            w[i] = flow_load(panel + i * FLOW_LANES);
        for (int t = 0; t < n_tok; t++)
            for (int i = 0; i < PLAIN_VECS; i++)
                acc[t][i] = flow_fma(w[i], flow_set1(x[(size_t)t * x_stride + k]), acc[t][i]);
    }
    for (int t = 0; t < n_tok; t++)
        for (int i = 0; i < PLAIN_VECS; i++)
            flow_store(c + t * TILE_ROWS + i * FLOW_LANES, acc[t][i]);
}

/* One token: c[16]. */
INLINE void plain_gemv(const uint8_t *rows, size_t row_bytes, int n_row, const float *x,
                       int32_t n_col, float *c, enum kern_type type)
{
    for (int r0 = 0; r0 < n_row; r0 += 4) {
        const uint8_t *row[4];
        flow_vec acc[4][2];
        for (int r = 0; r < 4; r++) {
            row[r] = rows + row_bytes * (size_t)(r0 + r < n_row ? r0 + r : n_row - 1);
            acc[r][0] = acc[r][1] = flow_set1(0);
        }
        int32_t i = 0;
        for (; i + 2 * FLOW_LANES <= n_col; i += 2 * FLOW_LANES)
            for (int r = 0; r < 4; r++) {
                acc[r][0] = flow_fma(plain_load(row[r], i, type), flow_load(x + i), acc[r][0]);
                acc[r][1] = flow_fma(plain_load(row[r], i + FLOW_LANES, type),
                                     flow_load(x + i + FLOW_LANES), acc[r][1]);
            }
        for (int r = 0; r < 4 && r0 + r < n_row; r++) {
            float sum = flow_sum(flow_add(acc[r][0], acc[r][1]));
            for (int32_t j = i; j < n_col; j++)
                sum += plain_value(row[r], j, type) * x[j];
            c[r0 + r] = sum;
        }
    }
}

INLINE void plain_rows(const struct kern_weight *w, int32_t row0, int n_row, const struct act *a,
                       float *scratch, float *c, enum kern_type type)
{
    size_t row_bytes = plain_row_bytes(w);
    const uint8_t *rows = w->rows + (size_t)row0 * row_bytes;
    if (a->n_tok < 4) {
        for (int32_t t = 0; t < a->n_tok; t++)
            plain_gemv(rows, row_bytes, n_row, a->x + (size_t)t * a->x_stride, w->n_col,
                       c + t * TILE_ROWS, type);
        return;
    }
    memset(c, 0, (size_t)a->n_tok * TILE_ROWS * sizeof(float));
    for (int32_t col = 0; col < w->n_col; col += PANEL_COLS) {
        int n = w->n_col - col < PANEL_COLS ? w->n_col - col : PANEL_COLS;
        plain_unpack(rows, row_bytes, n_row, col, n, scratch, type);
        const float *x = a->x + col;
        int t = 0;
        for (; t + PLAIN_TOK <= a->n_tok; t += PLAIN_TOK)
            plain_gemm(scratch, n, x + (size_t)t * a->x_stride, a->x_stride, PLAIN_TOK,
                       c + t * TILE_ROWS);
        for (; t < a->n_tok; t++)
            plain_gemm(scratch, n, x + (size_t)t * a->x_stride, a->x_stride, 1, c + t * TILE_ROWS);
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
