/* Attention that reads packed pages (page.h) as they lie: bit planes, integer dot products.
 *
 * Scores: the scale of each channel folds into the query once per page, a_c = q_c * scale_c, and
 * a is rounded to integers; values: the scale of each token and group folds into the probability.
 * Codes enter as code - mid with mid in the middle of their range, and everything that multiplies
 * mid or lo is summed in float from unrounded factors, so that rounding acts only on the spread of
 * codes. Up to 4 bits per code the folded side has 8 bits; above, 14 (13 and a sign), because
 * there 8 would err as much as the codes themselves. Codes of 6 bits enter as 8 with two zeros.
 * For many rows page_widen_* turns a page into float once. Compiled for 8 or 16 lanes. */
#ifndef KERNELS_CPU_ATTN_PAGE_H
#define KERNELS_CPU_ATTN_PAGE_H

#include "kernels/cpu/attn_vec.h"
#include "kernels/page.h"

enum {
    PAGE_FEW_ROWS = 12, /* up to here integers beat widening: measured with bench_attn */
    PAGE_ROW_STEP = 4,  /* rows that share one unpacking */
    FOLD_MAX_8 = 127,
    FOLD_MAX_16 = 8191, /* 256 channels * 255 * 8191 fits 31 bits */
    WEIGHT_MAX_8 = 255, /* times codes up to 15: eight products fit 16 bits */
    WEIGHT_MAX_16 = 16383
};

/* Folded factors of one page: one word of 32 bits for each quad (four bytes), or two (at 4i and
 * 4i+1: elements 0,2 and 1,3 as 16 bits) of channels or tokens. */
struct page_query {
    int32_t word[PAGE_FEW_ROWS][PAGE_HEAD_DIM_MAX];
    float unit[PAGE_FEW_ROWS][PAGE_HEAD_DIM_MAX / PAGE_GROUP]; /* value of an integer step */
    float base[PAGE_FEW_ROWS][PAGE_HEAD_DIM_MAX / PAGE_GROUP]; /* what is added in the end */
};

/* How codes of a tensor enter the integers. */
struct page_code {
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane;
    bool wide;  /* 16-bit factors, 8-bit codes */
    float unit; /* scale of an entering code, in scales of the page */
    float mid;  /* of entering codes */
};

static struct page_code page_code_of(const struct kern_page *page, enum page_tensor tensor)
{
    struct page_shape shape = page_shape_of(page);
    int32_t bits = tensor == PAGE_K ? shape.bits_k : shape.bits_v;
    struct page_code c = {.n_plane = bits / PAGE_PLANE_BITS};
    for (int32_t i = 0; i < c.n_plane; i++)
        c.plane[i] = (const uint8_t *)page + page_plane_at(&shape, tensor, i);
    c.wide = bits > 4;
    c.unit = bits == 6 ? 0.25f : 1.0f;
    c.mid = (float)((1 << bits) - 1) / 2 / c.unit;
    return c;
}

/* One line (or half of one, with 8 lanes) of all planes into four vectors of codes in bytes:
 * quad[j] holds rows 4j..4j+3 of the tile, one per byte of a lane. */
ATTN_INLINE void line_codes(const struct page_code *p, int n_plane, size_t at, vi quad[4])
{
    const vi x33 = VI_SET1((int)0xcccccccc), low2 = VI_SET1(0x03030303),
             low4 = VI_SET1(0x0f0f0f0f), high4 = VI_SET1((int)0xf0f0f0f0);
    vi h = VI_LOAD(p->plane[0] + at);
    if (n_plane == 1) {
        quad[0] = VI_AND(h, low2);
        quad[1] = VI_AND(VI_SHR(h, 2), low2);
        quad[2] = VI_AND(VI_SHR(h, 4), low2);
        quad[3] = VI_AND(VI_SHR(h, 6), low2);
        return;
    }
    vi l = VI_LOAD(p->plane[1] + at);
    vi even = VI_SELECT(x33, VI_SHL(h, 2), l); /* quads 0 and 2 in the nibbles of each byte */
    vi odd = VI_SELECT(x33, h, VI_SHR(l, 2));  /* quads 1 and 3 */
    if (n_plane == 2) {
        quad[0] = VI_AND(even, low4);
        quad[1] = VI_AND(odd, low4);
        quad[2] = VI_AND(VI_SHR(even, 4), low4);
        quad[3] = VI_AND(VI_SHR(odd, 4), low4);
        return;
    }
    vi h2 = VI_LOAD(p->plane[2] + at);
    vi l2 = n_plane == 4 ? VI_LOAD(p->plane[3] + at) : VI_ZERO();
    vi even2 = VI_SELECT(x33, VI_SHL(h2, 2), l2);
    vi odd2 = VI_SELECT(x33, h2, VI_SHR(l2, 2));
    quad[0] = VI_SELECT(high4, VI_SHL(even, 4), even2);
    quad[1] = VI_SELECT(high4, VI_SHL(odd, 4), odd2);
    quad[2] = VI_SELECT(high4, even, VI_SHR(even2, 4));
    quad[3] = VI_SELECT(high4, odd, VI_SHR(odd2, 4));
}

/* acc += one line times the words of one row. signed_words: words are signed bytes (K), else
 * unsigned (V); codes below 16 may stand on either side of the instruction. */
ATTN_INLINE vi line_dot(vi acc, const vi quad[4], const int32_t *word, int signed_words)
{
#if defined(__AVX512F__)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        vi w = VI_SET1(word[j]);
        acc = signed_words ? vi_dot_bytes(acc, quad[j], w) : vi_dot_bytes(acc, w, quad[j]);
    }
    return acc;
#else
    vi sum = VI_ZERO();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        vi w = VI_SET1(word[j]);
        vi pairs = signed_words ? _mm256_maddubs_epi16(quad[j], w) : _mm256_maddubs_epi16(w, quad[j]);
        sum = j ? _mm256_add_epi16(sum, pairs) : pairs;
    }
    return vi_dot_words(acc, sum, _mm256_set1_epi16(1));
#endif
}

/* The same with 16-bit factors. */
ATTN_INLINE vi line_dot_wide(vi acc, const vi quad[4], const int32_t *word)
{
    const vi low = VI_SET1(0x00ff00ff);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        acc = vi_dot_words(acc, VI_AND(quad[j], low), VI_SET1(word[4 * j]));
        acc = vi_dot_words(acc, VI_AND(VI_SHR(quad[j], 8), low), VI_SET1(word[4 * j + 1]));
    }
    return acc;
}

/* Sums n_line lines, step bytes apart, for n_row rows of words; VL results per row. */
ATTN_INLINE void lines_dot(const struct page_code *p, int n_plane, int n_row, size_t at, size_t step,
                           int32_t n_line, const int32_t *word, size_t word_step, int signed_words,
                           vi acc[PAGE_ROW_STEP])
{
#pragma GCC unroll 4
    for (int i = 0; i < n_row; i++)
        acc[i] = VI_ZERO();
    for (int32_t r = 0; r < n_line; r++) {
        vi quad[4];
        line_codes(p, n_plane, at + r * step, quad);
        if (n_plane > 2) {
#pragma GCC unroll 4
            for (int i = 0; i < n_row; i++)
                acc[i] = line_dot_wide(acc[i], quad, word + i * word_step + r * 16);
        } else {
#pragma GCC unroll 4
            for (int i = 0; i < n_row; i++)
                acc[i] = line_dot(acc[i], quad, word + i * word_step + r * 4, signed_words);
        }
    }
}

ATTN_INLINE void lines_dot_rows(const struct page_code *p, int n_plane, int32_t n_row, size_t at,
                                size_t step, int32_t n_line, const int32_t *word, size_t word_step,
                                int signed_words, vi acc[PAGE_ROW_STEP])
{
    switch (n_row) {
    case 1:
        lines_dot(p, n_plane, 1, at, step, n_line, word, word_step, signed_words, acc);
        break;
    case 2:
        lines_dot(p, n_plane, 2, at, step, n_line, word, word_step, signed_words, acc);
        break;
    case 3:
        lines_dot(p, n_plane, 3, at, step, n_line, word, word_step, signed_words, acc);
        break;
    default:
        lines_dot(p, n_plane, 4, at, step, n_line, word, word_step, signed_words, acc);
        break;
    }
}

/* Dispatch over the depth; at: the first line of the VL results. */
ATTN_INLINE void lines_dot_any(const struct page_code *p, int32_t n_row, size_t at, size_t step,
                               int32_t n_line, const int32_t *word, size_t word_step,
                               int signed_words, vi acc[PAGE_ROW_STEP])
{
    switch (p->n_plane) {
    case 1:
        lines_dot_rows(p, 1, n_row, at, step, n_line, word, word_step, signed_words, acc);
        break;
    case 2:
        lines_dot_rows(p, 2, n_row, at, step, n_line, word, word_step, signed_words, acc);
        break;
    case 3:
        lines_dot_rows(p, 3, n_row, at, step, n_line, word, word_step, signed_words, acc);
        break;
    default:
        lines_dot_rows(p, 4, n_row, at, step, n_line, word, word_step, signed_words, acc);
        break;
    }
}

/* Rounds n folded factors to integers of at most `most` and stores them as words; returns their
 * sum and the value of one step. */
ATTN_INLINE float fold_store(const float *x, int32_t n, float largest, float most, bool wide,
                             int32_t *word, float *ret_step)
{
    float inv = largest > 0 ? most / largest : 0;
    *ret_step = largest > 0 ? largest / most : 0;
    vf by = VF_SET1(inv), sum = VF_ZERO();
    for (int32_t c = 0; c < n; c += VL) {
        vf y = VF_ROUND(VF_MUL(by, VF_LOAD(x + c)));
        vi i = VI_FROM_FLOAT(y);
        sum = VF_ADD(sum, y);
        if (wide) {
            /* per 128 bits: elements 0,1 in the low halves, 2,3 in the high halves of words 0,1 */
#if defined(__AVX512F__)
            vi up = VI_SHL(_mm512_shuffle_epi32(i, (_MM_PERM_ENUM)0xee), 16);
#else
            vi up = VI_SHL(_mm256_shuffle_epi32(i, 0xee), 16);
#endif
            VI_STORE(word + c, VI_OR(up, VI_AND(i, VI_SET1(0xffff))));
        } else {
            vi_store_bytes((uint8_t *)word + c, i);
        }
    }
    return vf_hsum(sum);
}

/* s[i][64] = q[i] . K for n_row rows; q [n_row][head_dim]. */
static void page_scores(struct page_query *w, const struct kern_page *page, const float *q,
                        int32_t n_row, float *s)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(page, PAGE_K);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    const uint16_t *lo = scale + d;
    float folded[PAGE_ROW_STEP][PAGE_HEAD_DIM_MAX];
    vf unit = VF_SET1(code.unit), mid = VF_SET1(code.mid);
    for (int32_t i0 = 0; i0 < n_row; i0 += PAGE_ROW_STEP) {
        int32_t n = n_row - i0 < PAGE_ROW_STEP ? n_row - i0 : PAGE_ROW_STEP;
        vf most[PAGE_ROW_STEP], base[PAGE_ROW_STEP];
        for (int32_t i = 0; i < n; i++)
            most[i] = base[i] = VF_ZERO();
        for (int32_t c = 0; c < d; c += VL) {
            vf sc = VF_MUL(unit, VF_HALF(scale + c)), centre = VF_FMA(sc, mid, VF_HALF(lo + c));
            for (int32_t i = 0; i < n; i++) {
                vf x = VF_LOAD(q + (i0 + i) * d + c), a = VF_MUL(x, sc);
                VF_STORE(folded[i] + c, a);
                most[i] = VF_MAX(most[i], VF_ABS(a));
                base[i] = VF_FMA(x, centre, base[i]);
            }
        }
        float step[PAGE_ROW_STEP], add[PAGE_ROW_STEP];
        for (int32_t i = 0; i < n; i++) {
            float sum = fold_store(folded[i], d, vf_hmax(most[i]),
                                   code.wide ? FOLD_MAX_16 : FOLD_MAX_8, code.wide, w->word[i],
                                   &step[i]);
            add[i] = vf_hsum(base[i]) - step[i] * code.mid * sum;
        }
        for (int32_t t = 0; t < PAGE_TOK; t += VL) {
            vi acc[PAGE_ROW_STEP];
            lines_dot_any(&code, n, (size_t)(t / 16) * 4 * d + t % 16 * 4, 64, d / 16, w->word[0],
                          PAGE_HEAD_DIM_MAX, 1, acc);
            for (int32_t i = 0; i < n; i++)
                VF_STORE(s + (i0 + i) * PAGE_TOK + t,
                         VF_FMA(VF_FROM_INT(acc[i]), VF_SET1(step[i]), VF_SET1(add[i])));
        }
    }
}

/* out[i] += p[i] . V for n_row rows; p [n_row][64] >= 0, out [n_row][head_dim]. */
static void page_values(struct page_query *w, const struct kern_page *page, const float *p,
                        int32_t n_row, float *out)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    struct page_code code = page_code_of(page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_v_at(d));
    const uint16_t *lo = scale + PAGE_TOK * n_group;
    float folded[PAGE_TOK];
    vf unit = VF_SET1(code.unit), mid = VF_SET1(code.mid);
    for (int32_t i0 = 0; i0 < n_row; i0 += PAGE_ROW_STEP) {
        int32_t n = n_row - i0 < PAGE_ROW_STEP ? n_row - i0 : PAGE_ROW_STEP;
        for (int32_t g = 0; g < n_group; g++) {
            float step[PAGE_ROW_STEP], add[PAGE_ROW_STEP];
            for (int32_t i = 0; i < n; i++) {
                vf most = VF_ZERO(), base = VF_ZERO();
                for (int32_t t = 0; t < PAGE_TOK; t += VL) {
                    vf sc = VF_MUL(unit, VF_HALF(scale + g * PAGE_TOK + t));
                    vf centre = VF_FMA(sc, mid, VF_HALF(lo + g * PAGE_TOK + t));
                    vf x = VF_LOAD(p + (i0 + i) * PAGE_TOK + t), a = VF_MUL(x, sc);
                    VF_STORE(folded + t, a);
                    most = VF_MAX(most, a);
                    base = VF_FMA(x, centre, base);
                }
                float sum = fold_store(folded, PAGE_TOK, vf_hmax(most),
                                       code.wide ? WEIGHT_MAX_16 : WEIGHT_MAX_8, code.wide,
                                       w->word[i], &step[i]);
                add[i] = vf_hsum(base) - step[i] * code.mid * sum;
            }
            int32_t c1 = (g + 1) * PAGE_GROUP < d ? (g + 1) * PAGE_GROUP : d;
            for (int32_t c = g * PAGE_GROUP; c < c1; c += VL) {
                vi acc[PAGE_ROW_STEP];
                lines_dot_any(&code, n, (size_t)(c / 16) * 64 + c % 16 * 4, (size_t)4 * d,
                              PAGE_TOK / 16, w->word[0], PAGE_HEAD_DIM_MAX, 0, acc);
                for (int32_t i = 0; i < n; i++) {
                    float *o = out + (i0 + i) * d + c;
                    vf x = VF_FMA(VF_FROM_INT(acc[i]), VF_SET1(step[i]), VF_SET1(add[i]));
                    VF_STORE(o, VF_ADD(x, VF_LOAD(o)));
                }
            }
        }
    }
}

/* One line to floats: row r (0..15) of the tile goes to dst + r * stride, VL lanes. */
ATTN_INLINE void line_widen(const struct page_code *code, int n_plane, size_t at,
                            const float *scale, const float *lo, float *dst, size_t stride)
{
    vi quad[4];
    line_codes(code, n_plane, at, quad);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
#pragma GCC unroll 4
        for (int b = 0; b < 4; b++) {
            vf x = VF_FROM_INT(VI_AND(VI_SHR(quad[j], 8 * b), VI_SET1(0xff)));
            int r = 4 * j + b;
            VF_STORE(dst + r * stride, VF_FMA(x, VF_SET1(scale[r]), VF_SET1(lo[r])));
        }
}

ATTN_INLINE void line_widen_any(const struct page_code *code, size_t at, const float *scale,
                                const float *lo, float *dst, size_t stride)
{
    switch (code->n_plane) {
    case 1:
        line_widen(code, 1, at, scale, lo, dst, stride);
        break;
    case 2:
        line_widen(code, 2, at, scale, lo, dst, stride);
        break;
    case 3:
        line_widen(code, 3, at, scale, lo, dst, stride);
        break;
    default:
        line_widen(code, 4, at, scale, lo, dst, stride);
        break;
    }
}

/* k [head_dim][64] */
static void page_widen_k(const struct kern_page *page, float *k)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(page, PAGE_K);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    for (int32_t c = 0; c < d; c += 16) {
        float sc[16], lo[16];
        for (int32_t i = 0; i < 16; i += VL) {
            VF_STORE(sc + i, VF_MUL(VF_SET1(code.unit), VF_HALF(scale + c + i)));
            VF_STORE(lo + i, VF_HALF(scale + d + c + i));
        }
        for (int32_t t = 0; t < PAGE_TOK; t += VL)
            line_widen_any(&code, (size_t)(t / 16) * 4 * d + (size_t)c * 4 + t % 16 * 4, sc, lo,
                           k + c * PAGE_TOK + t, PAGE_TOK);
    }
}

/* v [64][head_dim] */
static void page_widen_v(const struct kern_page *page, float *v)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    struct page_code code = page_code_of(page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_v_at(d));
    for (int32_t t = 0; t < PAGE_TOK; t += 16)
        for (int32_t g = 0; g < n_group; g++) {
            float sc[16], lo[16];
            const uint16_t *from = scale + g * PAGE_TOK + t;
            for (int32_t i = 0; i < 16; i += VL) {
                VF_STORE(sc + i, VF_MUL(VF_SET1(code.unit), VF_HALF(from + i)));
                VF_STORE(lo + i, VF_HALF(from + PAGE_TOK * n_group + i));
            }
            int32_t c1 = (g + 1) * PAGE_GROUP < d ? (g + 1) * PAGE_GROUP : d;
            for (int32_t c = g * PAGE_GROUP; c < c1; c += VL)
                line_widen_any(&code, (size_t)t / 4 * d + (size_t)(c / 16) * 64 + c % 16 * 4, sc,
                               lo, v + t * d + c, d);
        }
    if (page->flags & PAGE_V_ROTATED)
        for (int32_t t = 0; t < PAGE_TOK; t++)
            page_rotate(v + t * d, d);
}

#endif
