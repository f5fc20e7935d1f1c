/* Attention that reads packed pages in tile registers: the integers of attn_page.h, 16 rows at a time.
 *
 * A line of codes is four rows of a right side as it lies, four channels or tokens of 16 outputs; the
 * folded factors of a row are a row of a left side. Factors of 14 bits are two signed bytes, 128 high
 * + low. Sums are the same whole numbers as there, and so is what is made of them. Internal to
 * attention. */
#ifndef KERNELS_CPU_ATTN_PAGE_AMX_H
#define KERNELS_CPU_ATTN_PAGE_AMX_H

#include "kernels/cpu/attn_amx.h"
#include "kernels/cpu/attn_page.h"

enum {
    PAGE_TILE_DEPTH = 64, /* channels or tokens of a product of tiles */
    PAGE_TILES = PAGE_HEAD_DIM_MAX / PAGE_TILE_DEPTH,
    PAGE_TILE_SHIFT = 7, /* of the high byte of a factor */
};

struct page_tiles {
    _Alignas(64) int8_t left[2][PAGE_TILES][AMX_ROWS][PAGE_TILE_DEPTH]; /* high (or only) and low bytes */
    _Alignas(64) uint8_t right[PAGE_HEAD_DIM_MAX * PAGE_TOK]; /* [outputs / 16][depth / 64][16][64] */
    _Alignas(64) int32_t dot[2][AMX_ROWS][PAGE_TOK];
    float scale[PAGE_HEAD_DIM_MAX], centre[PAGE_HEAD_DIM_MAX]; /* of a step of entering codes; of mid */
    float step[AMX_ROWS], add[AMX_ROWS];
    float weight[AMX_ROWS]; /* of a latent: the sum of a row's probabilities */
};

/* Codes of a tensor as right sides; lines as in struct page_dot. ahead: as many bytes as are read
 * here are fetched from there; or NULL. */
ATTN_INLINE void page_right_planes(const struct page_code *code, int n_plane, bool turned,
                                   const struct page_dot *t, uint8_t *right, const char *ahead)
{
    int32_t whole = (t->n_line + 3) & ~3;
    for (int32_t o = 0; o < t->n_out; o += 16) {
        size_t at = t->at + (size_t)(o / 16) * t->out_step;
        for (int32_t r = 0; r < whole; r++, at += t->line_step, right += 4 * 64) {
            vi quad[4] = {VI_ZERO(), VI_ZERO(), VI_ZERO(), VI_ZERO()};
            if (turned)
                line_turned(code, n_plane, at, false, quad); /* as many lines as a product is deep */
            else if (r < t->n_line)
                line_codes(code, n_plane, at, quad);
            for (int i = 0; ahead && i < n_plane; i++, ahead += 64)
                _mm_prefetch(ahead, _MM_HINT_T0);
            for (int j = 0; j < 4; j++)
                VI_STORE(right + j * 64, quad[j]);
        }
    }
}

static void page_right(const struct page_code *code, bool turned, const struct page_dot *t, uint8_t *right,
                       const char *ahead)
{
    switch (code->n_plane) {
    case 1:
        page_right_planes(code, 1, turned, t, right, ahead);
        break;
    case 2:
        page_right_planes(code, 2, turned, t, right, ahead);
        break;
    case 3:
        page_right_planes(code, 3, turned, t, right, ahead);
        break;
    default:
        page_right_planes(code, 4, turned, t, right, ahead);
        break;
    }
}

/* Scale and centre of n channels or tokens. */
static void page_factors(struct page_tiles *w, const struct page_code *code, const uint16_t *scale,
                         const uint16_t *lo, int32_t n)
{
    for (int32_t c = 0; c < n; c += VL) {
        vf sc = VF_MUL(VF_SET1(code->unit), VF_HALF(scale + c));
        VF_STORE(w->scale + c, sc);
        VF_STORE(w->centre + c, VF_FMA(sc, VF_SET1(code->mid), VF_HALF(lo + c)));
    }
}

/* 64 small integers as bytes, in order: a whole line, so that a tile load finds it in one piece. */
ATTN_INLINE vi page_bytes(const vi v[4])
{
    vi packed = _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
    return _mm512_permutexvar_epi32(
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), packed);
}

/* x [m][n], m <= 16, times the scales, as a left side; step and add of each row. */
static void page_left(struct page_tiles *w, const struct page_code *code, const float *x,
                      int32_t x_stride, int32_t m, int32_t n)
{
    vf most[AMX_ROWS], base[AMX_ROWS], sum[AMX_ROWS];
    for (int32_t i = 0; i < AMX_ROWS; i++)
        most[i] = base[i] = sum[i] = VF_ZERO();
    for (int32_t i = 0; i < m; i++)
        for (int32_t c = 0; c < n; c += VL) {
            vf v = VF_LOAD(x + i * x_stride + c);
            most[i] = VF_MAX(most[i], VF_ABS(VF_MUL(v, VF_LOAD(w->scale + c))));
            base[i] = VF_FMA(v, VF_LOAD(w->centre + c), base[i]);
        }
    float limit = code->wide ? FOLD_MAX_16 : FOLD_MAX_8, inverse[AMX_ROWS];
    vf largest = amx_fold(most, false), bound = VF_SET1(limit);
    __mmask16 live = _mm512_cmp_ps_mask(largest, VF_SET1(1e-30f), _CMP_GT_OQ);
    VF_STORE(inverse, _mm512_maskz_div_ps(live, bound, largest));
    for (int32_t i = 0; i < m; i++) {
        vf by = VF_SET1(inverse[i]);
        for (int32_t c = 0; c < n; c += PAGE_TILE_DEPTH) {
            vi v[4] = {VI_ZERO(), VI_ZERO(), VI_ZERO(), VI_ZERO()};
            for (int j = 0; j < 4 && c + j * VL < n; j++) {
                int32_t at = c + j * VL;
                vf a = VF_MUL(VF_LOAD(x + i * x_stride + at), VF_LOAD(w->scale + at));
                vf y = VF_ROUND(VF_MUL(by, a));
                sum[i] = VF_ADD(sum[i], y);
                v[j] = VI_FROM_FLOAT(y);
            }
            int8_t *to = w->left[0][c / PAGE_TILE_DEPTH][i];
            if (code->wide) {
                vi high[4], half = VI_SET1(1 << (PAGE_TILE_SHIFT - 1));
                for (int j = 0; j < 4; j++) {
                    high[j] = _mm512_srai_epi32(VI_ADD(v[j], half), PAGE_TILE_SHIFT);
                    v[j] = _mm512_sub_epi32(v[j], VI_SHL(high[j], PAGE_TILE_SHIFT));
                }
                VI_STORE(to, page_bytes(high));
                VI_STORE(to + sizeof w->left[0], page_bytes(v));
            } else {
                VI_STORE(to, page_bytes(v));
            }
        }
    }
    vf step = _mm512_maskz_div_ps(live, largest, bound);
    VF_STORE(w->step, step);
    VF_STORE(w->add, VF_FNMA(VF_MUL(step, VF_SET1(code->mid)), amx_fold(sum, true),
                             amx_fold(base, true)));
}

/* One or two tiles of 16 outputs; registers 0 to 3 hold sums, 4 and 5 the left side, 6 and 7 the
 * right side. */
ATTN_INLINE void page_tile_dots(struct page_tiles *w, const uint8_t *right, int32_t n_depth,
                                int32_t out, int n_n, bool wide)
{
    size_t next = (size_t)n_depth * AMX_TILE_BYTES;
    right += (size_t)(out / 16) * next;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    for (int32_t k = 0; k < n_depth; k++, right += AMX_TILE_BYTES) {
        TILE_LOAD(4, w->left[0][k], PAGE_TILE_DEPTH);
        TILE_LOAD(6, right, 64);
        TILE_DOT_BYTES(0, 4, 6);
        if (n_n == 2) {
            TILE_LOAD(7, right + next, 64);
            TILE_DOT_BYTES(1, 4, 7);
        }
        if (wide) {
            TILE_LOAD(5, w->left[1][k], PAGE_TILE_DEPTH);
            TILE_DOT_BYTES(2, 5, 6);
            if (n_n == 2)
                TILE_DOT_BYTES(3, 5, 7);
        }
    }
    TILE_STORE(0, &w->dot[0][0][out], sizeof w->dot[0][0]);
    if (n_n == 2)
        TILE_STORE(1, &w->dot[0][0][out + 16], sizeof w->dot[0][0]);
    if (wide)
        TILE_STORE(2, &w->dot[1][0][out], sizeof w->dot[0][0]);
    if (wide && n_n == 2)
        TILE_STORE(3, &w->dot[1][0][out + 16], sizeof w->dot[0][0]);
}

/* dst[i][o] = step[i] * sum + add[i] (+ dst[i][o]) for m <= 16 rows and n_out <= 64 outputs. scale: of values of a
 * latent, as in struct page_dot; else NULL. */
ATTN_INLINE void page_tile_rows(struct page_tiles *w, const uint8_t *right, int32_t n_depth,
                                int32_t m, int32_t n_out, bool wide, float *dst, int32_t stride,
                                bool onto, const uint16_t *scale, const uint16_t *lo, float unit)
{
    for (int32_t o = 0; o < n_out; o += 32)
        if (o + 16 < n_out)
            page_tile_dots(w, right, n_depth, o, 2, wide);
        else
            page_tile_dots(w, right, n_depth, o, 1, wide);
    for (int32_t i = 0; i < m; i++) {
        vf step = VF_SET1(w->step[i]), add = VF_SET1(w->add[i]);
        for (int32_t o = 0; o < n_out; o += VL) {
            float *to = dst + i * stride + o;
            vi dot = VI_LOAD(&w->dot[0][i][o]);
            if (wide)
                dot = VI_ADD(VI_SHL(dot, PAGE_TILE_SHIFT), VI_LOAD(&w->dot[1][i][o]));
            vf x = VF_FMA(VF_FROM_INT(dot), step, add);
            if (scale)
                x = VF_FMA(x, VF_MUL(VF_SET1(unit), VF_HALF(scale + o)),
                           VF_MUL(VF_SET1(w->weight[i]), VF_HALF(lo + o)));
            VF_STORE(to, onto ? VF_ADD(x, VF_LOAD(to)) : x);
        }
    }
}

/* All rows of x [m][n] times the right side. */
static void page_tile_product(struct page_tiles *w, const struct page_code *code, const float *x,
                              int32_t x_stride, int32_t m, int32_t n, int32_t n_out, float *dst,
                              int32_t stride, bool onto)
{
    int32_t n_depth = (n + PAGE_TILE_DEPTH - 1) / PAGE_TILE_DEPTH;
    for (int32_t i = 0; i < m; i += AMX_ROWS, x += AMX_ROWS * x_stride, dst += AMX_ROWS * stride) {
        int32_t rows = m - i < AMX_ROWS ? m - i : AMX_ROWS;
        page_left(w, code, x, x_stride, rows, n);
        if (code->wide)
            page_tile_rows(w, w->right, n_depth, rows, n_out, true, dst, stride, onto, NULL, NULL, 0);
        else
            page_tile_rows(w, w->right, n_depth, rows, n_out, false, dst, stride, onto, NULL, NULL, 0);
    }
}

/* s[m][64] = q . K; q [m][head_dim]. ahead: to be fetched meanwhile, or NULL. */
static void page_tile_scores(struct page_tiles *w, struct page_layout *l,
                             const struct kern_page *page, const float *q, int32_t m, float *s,
                             const char *ahead)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(l, page, PAGE_K);
    const struct page_dot lines = {
        .n_out = PAGE_TOK, .n_line = d / 16, .out_step = (size_t)4 * d, .line_step = 64};
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    page_right(&code, false, &lines, w->right, ahead);
    page_factors(w, &code, scale, scale + d, d);
    page_tile_product(w, &code, q, d, m, d, PAGE_TOK, s, PAGE_TOK, false);
}

/* out[m][head_dim] += p . V; p [m][64] >= 0. */
static void page_tile_values(struct page_tiles *w, struct page_layout *l,
                             const struct kern_page *page, const float *p, int32_t m, float *out,
                             const char *ahead)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    struct page_code code = page_code_of(l, page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_v_at(d));
    for (int32_t g = 0; g < n_group; g++, scale += PAGE_TOK) {
        int32_t c0 = g * PAGE_GROUP, n_col = d - c0 < PAGE_GROUP ? d - c0 : PAGE_GROUP;
        const struct page_dot lines = {.n_out = n_col, .n_line = PAGE_TOK / 16, .at = (size_t)c0 * 4,
                                       .out_step = 64, .line_step = (size_t)4 * d};
        page_right(&code, false, &lines, w->right, ahead);
        if (ahead)
            ahead += page_plane_size(d) * (size_t)code.n_plane / (size_t)n_group;
        page_factors(w, &code, scale, scale + PAGE_TOK * n_group, PAGE_TOK);
        page_tile_product(w, &code, p, PAGE_TOK, m, PAGE_TOK, n_col, out + c0, d, true);
    }
}

/* The same of a latent's page: the first n_value channels of its keys, turned. Its scores have fetched all of the next one. */
static void page_tile_values_latent(struct page_tiles *w, struct page_layout *l, const struct kern_page *page,
                                    int32_t n_value, const float *p, int32_t m, float *out)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(l, page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    const struct page_dot lines = {
        .n_out = n_value, .n_line = PAGE_TOK / 16, .out_step = 64, .line_step = (size_t)4 * d};
    page_right(&code, true, &lines, w->right, NULL);
    for (int32_t t = 0; t < PAGE_TOK; t += VL) {
        VF_STORE(w->scale + t, VF_SET1(1));
        VF_STORE(w->centre + t, VF_SET1(code.mid));
    }
    for (int32_t i = 0; i < m; i += AMX_ROWS) {
        int32_t rows = m - i < AMX_ROWS ? m - i : AMX_ROWS;
        const float *x = p + i * PAGE_TOK;
        page_left(w, &code, x, PAGE_TOK, rows, PAGE_TOK);
        for (int32_t r = 0; r < rows; r++) {
            vf weight = VF_ZERO();
            for (int32_t t = 0; t < PAGE_TOK; t += VL)
                weight = VF_ADD(weight, VF_LOAD(x + r * PAGE_TOK + t));
            w->weight[r] = vf_hsum(weight);
        }
        for (int32_t c = 0; c < n_value; c += PAGE_GROUP) {
            int32_t n = n_value - c < PAGE_GROUP ? n_value - c : PAGE_GROUP;
            const uint8_t *right = w->right + (size_t)c / 16 * AMX_TILE_BYTES;
            const uint16_t *by = scale + c, *lo = by + d;
            float *to = out + i * d + c;
            if (code.wide)
                page_tile_rows(w, right, 1, rows, n, true, to, d, true, by, lo, code.unit);
            else
                page_tile_rows(w, right, 1, rows, n, false, to, d, true, by, lo, code.unit);
        }
    }
}

#endif
