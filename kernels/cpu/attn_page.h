/* Attention that reads packed pages (page.h) as they lie: bit planes, integer dot products.
 *
 * Scores: the scale of each channel folds into the query once per page, a_c = q_c * scale_c, and
 * a is rounded to integers; values: the scale of each token and group folds into the probability.
 * Codes enter as code - mid with mid in the middle of their range, and everything that multiplies
 * mid or lo is summed in float from unrounded factors, so that rounding acts only on the spread of
 * codes. Up to 4 bits per code the folded side has 8 bits, signed; above, 14, because there 8
 * would err as much as the codes themselves. Codes of 6 bits enter as 8 with two zeros.
 * Values of a latent are its keys, whose lines are turned; scales belong to channels there and come after the sum.
 * For many rows page_widen_* turns a page into float once. Compiled for 8 or 16 lanes. */
#ifndef KERNELS_CPU_ATTN_PAGE_H
#define KERNELS_CPU_ATTN_PAGE_H

#include <math.h>

#include "kernels/cpu/attn_vec.h"
#include "kernels/page.h"

enum {
    PAGE_FEW_ROWS = 32, /* with 8 lanes: up to here integers beat widening of wide codes: measured with bench_attn */
    PAGE_ROW_STEP = VL == 16 ? 8 : 4, /* rows that share one unpacking, at most: as registers allow */
    FOLD_LINES = 2,     /* fetched with each vector that is folded: memory would rest meanwhile */
    FOLD_MAX_8 = 127,   /* times codes up to 15: eight products fit 16 bits */
    FOLD_MAX_16 = 8191, /* times codes up to 255: 576 products fit 31 bits */
    /* Copies of each folded word: AVX2 has no broadcast inside its multiply. */
    WORD_COPIES = VL == 16 ? 1 : VL,
    WORD_ROW = PAGE_HEAD_DIM_MAX / 2 * WORD_COPIES + 16 /* off the 4 KiB grid of the L1 sets */
};

/* Where the planes of pages of one shape lie. */
struct page_layout {
    struct page_shape shape;
    size_t plane_at[2][PAGE_PLANES];
};

/* Folded factors of one page for PAGE_ROW_STEP rows: a word of 32 bits for each quad of channels
 * or tokens (four bytes), or two (elements 0,2 and 1,3 as 16 bits). */
struct page_query {
    _Alignas(64) int32_t word[PAGE_ROW_STEP][WORD_ROW];
    struct page_layout layout; /* of the page before: the next one mostly has the same shape */
};

/* How codes of a tensor enter the integers. */
struct page_code {
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane;
    bool wide;  /* 16-bit factors, 8-bit codes */
    bool far;   /* fetch_line */
    float unit; /* scale of an entering code, in scales of the page */
    float mid;  /* of entering codes */
};

static struct page_code page_code_of(struct page_layout *l, const struct kern_page *page,
                                     enum page_tensor tensor)
{
    if (l->shape.head_dim != page->head_dim || l->shape.bits_k != page->bits_k ||
        l->shape.bits_v != page->bits_v) {
        l->shape = page_shape_of(page);
        for (int32_t i = 0; i < PAGE_PLANES; i++) {
            l->plane_at[PAGE_K][i] = page_plane_at(&l->shape, PAGE_K, i);
            l->plane_at[PAGE_V][i] = page_plane_at(&l->shape, PAGE_V, i);
        }
    }
    tensor = l->shape.bits_v == 0 ? PAGE_K : tensor;
    int32_t bits = tensor == PAGE_K ? l->shape.bits_k : l->shape.bits_v;
    struct page_code c = {.n_plane = bits / PAGE_PLANE_BITS};
    for (int32_t i = 0; i < c.n_plane; i++)
        c.plane[i] = (const uint8_t *)page + l->plane_at[tensor][i];
    c.wide = bits > 4;
    c.far = l->shape.bits_k > 4 || l->shape.bits_v > 4;
    c.unit = bits == 6 ? 0.25f : 1.0f;
    c.mid = (float)((1 << bits) - 1) * (bits == 6 ? 2.0f : 0.5f);
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

/* What line_codes makes of a line of keys, as it would be of a line of values: 16 channels in the lanes and four
 * tokens in the bytes of each. With 8 lanes from both halves of the line, and channels 8.. of it when `upper`. */
ATTN_INLINE void line_turned(const struct page_code *p, int n_plane, size_t at, bool upper, vi quad[4])
{
    vi x[4];
#if defined(__AVX512F__)
    const vi turn = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    line_codes(p, n_plane, at, x); /* four channels of tokens 0..15: quarter i has tokens 4i.. */
    for (int j = 0; j < 4; j++)
        x[j] = _mm512_shuffle_epi8(x[j], turn);
    vi a = _mm512_shuffle_i32x4(x[0], x[1], 0x44), b = _mm512_shuffle_i32x4(x[2], x[3], 0x44);
    vi c = _mm512_shuffle_i32x4(x[0], x[1], 0xee), d = _mm512_shuffle_i32x4(x[2], x[3], 0xee);
    quad[0] = _mm512_shuffle_i32x4(a, b, 0x88);
    quad[1] = _mm512_shuffle_i32x4(a, b, 0xdd);
    quad[2] = _mm512_shuffle_i32x4(c, d, 0x88);
    quad[3] = _mm512_shuffle_i32x4(c, d, 0xdd);
    (void)upper;
#else
    const vi turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    for (int i = 0; i < 2; i++) {
        line_codes(p, n_plane, at + 32 * (size_t)i, x); /* of tokens 8i.. */
        vi a = _mm256_shuffle_epi8(upper ? x[2] : x[0], turn), b = _mm256_shuffle_epi8(upper ? x[3] : x[1], turn);
        quad[2 * i] = _mm256_permute2x128_si256(a, b, 0x20);
        quad[2 * i + 1] = _mm256_permute2x128_si256(a, b, 0x31);
    }
#endif
}

/* Asks for a line of a later page. Pages with wide codes wait for memory more than for sums, and the first cache
 * keeps account of few lines on their way: theirs go to the second one (8/8 pages of 128 channels in .75 of the
 * time, but in 1.3 if half of a page's do); those of others, which do not wait, to the first. */
ATTN_INLINE void fetch_line(const char *p, bool far)
{
    if (far)
        _mm_prefetch(p, _MM_HINT_T1);
    else
        _mm_prefetch(p, _MM_HINT_T0);
}

ATTN_INLINE vi word_at(const int32_t *word, int i)
{
#if defined(__AVX512F__)
    return VI_SET1(word[i]);
#else
    return VI_LOAD(word + i * WORD_COPIES);
#endif
}

/* acc += one line of codes times its four words of bytes. many: so many rows are on their way that lines may wait
 * for each other. */
ATTN_INLINE vi line_dot(vi acc, const vi quad[4], const int32_t *word, bool many)
{
#if defined(__AVX512F__)
    vi sum = many ? acc : VI_ZERO();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++)
        sum = vi_dot_bytes(sum, quad[j], word_at(word, j));
    return many ? sum : VI_ADD(acc, sum);
#else
    (void)many;
    vi sum = _mm256_maddubs_epi16(quad[0], word_at(word, 0));
#pragma GCC unroll 4
    for (int j = 1; j < 4; j++)
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(quad[j], word_at(word, j)));
    return vi_dot_words(acc, sum, _mm256_set1_epi16(1));
#endif
}

/* The same with eight words of 16-bit factors. */
ATTN_INLINE vi line_dot_wide(vi acc, const vi quad[4], const int32_t *word)
{
    const vi low = VI_SET1(0x00ff00ff);
    vi sum = VI_ZERO();
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        sum = vi_dot_words(sum, VI_AND(quad[j], low), word_at(word, 2 * j));
        acc = vi_dot_words(acc, VI_AND(VI_SHR(quad[j], 8), low), word_at(word, 2 * j + 1));
    }
    return VI_ADD(acc, sum);
}

/* A product of folded rows with a page: dst[i][o] = step[i] * sum + add[i] (+ dst[i][o]) for n_out
 * outputs o: tokens (K) or channels (V). */
struct page_dot {
    int32_t n_row, n_out, n_line;
    size_t at, out_step, line_step; /* bytes: first line, to the next 16 outputs, to the next term */
    float step[PAGE_ROW_STEP], add[PAGE_ROW_STEP];
    float *dst;
    size_t dst_stride;
    bool onto; /* add to what dst holds */
    /* Values of a latent: lines of keys are turned, and what came out above is multiplied by the output's scale
     * (a unit of entering codes) and gets its lo times the row's weight. */
    const uint16_t *turned_scale, *turned_lo;
    float weight[PAGE_ROW_STEP];
    const char *ahead;     /* bytes wanted soon: fetched a few lines per term, since fetching them */
    int32_t ahead_lines;   /* at once would make the loads of this page wait. Lines per term. */
};

/* Spreads the fetching of ahead_bytes over the terms of a product. */
static void page_dot_ahead(struct page_dot *t, const char *ahead, size_t ahead_bytes)
{
    int32_t n_term = (t->n_out + VL - 1) / VL * t->n_line;
    t->ahead = ahead;
    t->ahead_lines = ahead ? (int32_t)((ahead_bytes + 63) / 64 + n_term - 1) / n_term : 0;
}

ATTN_INLINE void page_dot_rows(const struct page_dot *t, const struct page_code *p,
                               const struct page_query *w, int n_plane, int n_row, bool turned)
{
    const char *ahead = t->ahead;
    for (int32_t o = 0; o < t->n_out; o += VL) {
        vi acc[PAGE_ROW_STEP];
#pragma GCC unroll 8
        for (int i = 0; i < n_row; i++)
            acc[i] = VI_ZERO();
        size_t at = t->at + (size_t)(o / 16) * t->out_step + (turned ? 0 : o % 16 * 4);
        const int32_t *word = w->word[0];
        for (int32_t r = 0; r < t->n_line; r++, at += t->line_step) {
            vi quad[4];
            if (turned)
                line_turned(p, n_plane, at, o % 16 > 0, quad);
            else
                line_codes(p, n_plane, at, quad);
            for (int32_t i = 0; i < t->ahead_lines; i++, ahead += 64)
                fetch_line(ahead, p->far);
#pragma GCC unroll 8
            for (int i = 0; i < n_row; i++) {
                const int32_t *row = word + i * WORD_ROW;
                acc[i] = n_plane > 2 ? line_dot_wide(acc[i], quad, row)
                                     : line_dot(acc[i], quad, row, n_row > 4);
            }
            word += (n_plane > 2 ? 8 : 4) * WORD_COPIES;
        }
#pragma GCC unroll 8
        for (int i = 0; i < n_row; i++) {
            float *dst = t->dst + i * t->dst_stride + o;
            vf x = VF_FMA(VF_FROM_INT(acc[i]), VF_SET1(t->step[i]), VF_SET1(t->add[i]));
            if (turned)
                x = VF_FMA(x, VF_MUL(VF_SET1(p->unit), VF_HALF(t->turned_scale + o)),
                           VF_MUL(VF_SET1(t->weight[i]), VF_HALF(t->turned_lo + o)));
            VF_STORE(dst, t->onto ? VF_ADD(x, VF_LOAD(dst)) : x);
        }
    }
}

ATTN_INLINE void page_dot_planes(const struct page_dot *t, const struct page_code *p,
                                 const struct page_query *w, int n_plane, bool turned)
{
    switch (t->n_row) {
    case 1:
        page_dot_rows(t, p, w, n_plane, 1, turned);
        break;
    case 2:
        page_dot_rows(t, p, w, n_plane, 2, turned);
        break;
    case 3:
        page_dot_rows(t, p, w, n_plane, 3, turned);
        break;
#if defined(__AVX512F__)
    case PAGE_ROW_STEP:
        page_dot_rows(t, p, w, n_plane, PAGE_ROW_STEP, turned);
        break;
#endif
    default:
        page_dot_rows(t, p, w, n_plane, 4, turned);
        break;
    }
}

/* Rows of those left that go together: as many as there is code for. */
static int32_t page_rows_now(int32_t n_left)
{
    return n_left >= PAGE_ROW_STEP ? PAGE_ROW_STEP : n_left < 4 ? n_left : 4;
}

/* One function each, so that each combination exists once per source. */
#define PAGE_DOT_RUN(name, turned)                                                                  \
    static __attribute__((noinline)) void name(const struct page_dot *t, const struct page_code *p, \
                                               const struct page_query *w)                          \
    {                                                                                               \
        switch (p->n_plane) {                                                                       \
        case 1:                                                                                     \
            page_dot_planes(t, p, w, 1, turned);                                                    \
            break;                                                                                  \
        case 2:                                                                                     \
            page_dot_planes(t, p, w, 2, turned);                                                    \
            break;                                                                                  \
        case 3:                                                                                     \
            page_dot_planes(t, p, w, 3, turned);                                                    \
            break;                                                                                  \
        default:                                                                                    \
            page_dot_planes(t, p, w, 4, turned);                                                    \
            break;                                                                                  \
        }                                                                                           \
    }
PAGE_DOT_RUN(page_dot_run, false)
__attribute__((unused)) PAGE_DOT_RUN(page_dot_turned, true)

/* Asks for a few lines of what is wanted soon; NULL: nothing is. */
ATTN_INLINE void fetch_lines(const char **ahead, size_t *bytes, int n, bool far)
{
    for (int i = 0; *ahead && i < n && *bytes >= 64; i++, *ahead += 64, *bytes -= 64)
        fetch_line(*ahead, far);
}

/* VL factors as words. Wide, per 128 bits: elements 0, 1 in the low halves and 2, 3 in the high halves of the
 * first two words. */
ATTN_INLINE void fold_words(vi x, bool wide, int32_t *word)
{
#if defined(__AVX512F__)
    if (wide) {
        vi up = VI_SHL(_mm512_shuffle_epi32(x, (_MM_PERM_ENUM)0xee), 16);
        vi two = _mm512_maskz_compress_epi32(0x3333, VI_OR(up, VI_AND(x, VI_SET1(0xffff))));
        _mm256_storeu_si256((__m256i *)word, _mm512_castsi512_si256(two));
    } else {
        vi_store_bytes(word, x);
    }
#else
    int32_t packed[VL]; /* wide: a quad's two words at 4i and 4i+1 */
    if (wide)
        VI_STORE(packed, VI_OR(VI_SHL(_mm256_shuffle_epi32(x, 0xee), 16), VI_AND(x, VI_SET1(0xffff))));
    else
        vi_store_bytes(packed, x);
    for (int q = 0; q < VL / 4; q++)
        for (int j = 0; j < (wide ? 2 : 1); j++, word += WORD_COPIES)
            VI_STORE(word, VI_SET1(packed[wide ? 4 * q + j : q]));
#endif
}

/* Rounds n folded factors to integers of at most FOLD_MAX_* and stores them as words; returns
 * their sum and the value of one step. */
ATTN_INLINE float fold_store(const float *x, int32_t n, float largest, bool wide, int32_t *word,
                             float *ret_step)
{
    float most = wide ? FOLD_MAX_16 : FOLD_MAX_8;
    /* what is next to nothing counts as nothing: its inverse would be infinite */
    float inv = largest > 1e-30f ? most / largest : 0;
    *ret_step = largest > 1e-30f ? largest / most : 0;
    vf by = VF_SET1(inv), sum = VF_ZERO();
    for (int32_t c = 0; c < n; c += VL, word += VL / 4 * (wide ? 2 : 1) * WORD_COPIES) {
        vf y = VF_ROUND(VF_MUL(by, VF_LOAD(x + c)));
        sum = VF_ADD(sum, y);
        fold_words(VI_FROM_FLOAT(y), wide, word);
    }
    return vf_hsum(sum);
}

/* s[i][64] = q[i] . K for n_row rows; q [n_row][head_dim]. ahead: bytes to fetch meanwhile. */
static void page_scores_ahead(struct page_query *w, const struct kern_page *page, const float *q,
                              int32_t n_row, float *s, const char *ahead, size_t ahead_bytes)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(&w->layout, page, PAGE_K);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    const uint16_t *lo = scale + d;
    float folded[PAGE_ROW_STEP * PAGE_HEAD_DIM_MAX]; /* [row][head_dim] */
    vf unit = VF_SET1(code.unit), mid = VF_SET1(code.mid);
    for (int32_t i0 = 0, n; i0 < n_row; i0 += n) {
        n = page_rows_now(n_row - i0);
        vf most[PAGE_ROW_STEP], base[PAGE_ROW_STEP];
        for (int32_t i = 0; i < n; i++)
            most[i] = base[i] = VF_ZERO();
        for (int32_t c = 0; c < d; c += VL) {
            fetch_lines(&ahead, &ahead_bytes, FOLD_LINES, code.far);
            vf sc = VF_MUL(unit, VF_HALF(scale + c)), centre = VF_FMA(sc, mid, VF_HALF(lo + c));
            for (int32_t i = 0; i < n; i++) {
                vf x = VF_LOAD(q + (i0 + i) * d + c), a = VF_MUL(x, sc);
                VF_STORE(folded + i * d + c, a);
                most[i] = VF_MAX(most[i], VF_ABS(a));
                base[i] = VF_FMA(x, centre, base[i]);
            }
        }
        struct page_dot dot = {.n_row = n, .n_out = PAGE_TOK, .n_line = d / 16, .at = 0,
                               .out_step = (size_t)4 * d, .line_step = 64,
                               .dst = s + i0 * PAGE_TOK, .dst_stride = PAGE_TOK, .onto = false};
        for (int32_t i = 0; i < n; i++) {
            float sum = fold_store(folded + i * d, d, vf_hmax(most[i]), code.wide, w->word[i],
                                   &dot.step[i]);
            dot.add[i] = fmaf(-(dot.step[i] * code.mid), sum, vf_hsum(base[i]));
        }
        page_dot_ahead(&dot, ahead, ahead_bytes);
        page_dot_run(&dot, &code, w);
        ahead = NULL;
    }
}

static inline void page_scores(struct page_query *w, const struct kern_page *page, const float *q,
                               int32_t n_row, float *s)
{
    page_scores_ahead(w, page, q, n_row, s, NULL, 0);
}

/* The same as page_values below of a latent's page: its first n_value channels. */
static __attribute__((unused)) void page_values_latent(struct page_query *w, const struct kern_page *page,
                                                       int32_t n_value, const float *p, int32_t n_row, float *out,
                                                       const char *ahead, size_t ahead_bytes)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(&w->layout, page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_k_at(d));
    for (int32_t i0 = 0, n; i0 < n_row; i0 += n) {
        n = page_rows_now(n_row - i0);
        struct page_dot dot = {.n_row = n, .n_out = n_value, .n_line = PAGE_TOK / 16, .out_step = 64,
                               .line_step = (size_t)4 * d, .dst = out + i0 * d, .dst_stride = (size_t)d,
                               .onto = true, .turned_scale = scale, .turned_lo = scale + d};
        for (int32_t i = 0; i < n; i++) {
            const float *x = p + (i0 + i) * PAGE_TOK;
            vf most = VF_ZERO(), base = VF_ZERO(), weight = VF_ZERO();
            for (int32_t t = 0; t < PAGE_TOK; t += VL) {
                vf a = VF_LOAD(x + t);
                most = VF_MAX(most, a);
                base = VF_FMA(a, VF_SET1(code.mid), base);
                weight = VF_ADD(weight, a);
            }
            float sum = fold_store(x, PAGE_TOK, vf_hmax(most), code.wide, w->word[i], &dot.step[i]);
            dot.add[i] = fmaf(-(dot.step[i] * code.mid), sum, vf_hsum(base));
            dot.weight[i] = vf_hsum(weight);
        }
        page_dot_ahead(&dot, i0 == 0 ? ahead : NULL, ahead_bytes);
        page_dot_turned(&dot, &code, w);
    }
}

/* out[i] += p[i] . V for n_row rows; p [n_row][64] >= 0, out [n_row][head_dim]. */
static __attribute__((unused)) void page_values(struct page_query *w, const struct kern_page *page,
                                                const float *p, int32_t n_row, float *out,
                                                const char *ahead, size_t ahead_bytes)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    struct page_code code = page_code_of(&w->layout, page, PAGE_V);
    const uint16_t *scale = (const uint16_t *)((const uint8_t *)page + page_scale_v_at(d));
    const uint16_t *lo = scale + PAGE_TOK * n_group;
    float folded[PAGE_TOK];
    vf unit = VF_SET1(code.unit), mid = VF_SET1(code.mid);
    for (int32_t i0 = 0, n; i0 < n_row; i0 += n) {
        n = page_rows_now(n_row - i0);
        for (int32_t g = 0; g < n_group; g++) {
            const char *part = i0 == 0 && ahead ? ahead + ahead_bytes / n_group * g : NULL;
            size_t part_bytes = ahead_bytes / n_group;
            int32_t c0 = g * PAGE_GROUP, n_col = d - c0 < PAGE_GROUP ? d - c0 : PAGE_GROUP;
            struct page_dot dot = {.n_row = n, .n_out = n_col, .n_line = PAGE_TOK / 16,
                                   .at = (size_t)c0 * 4, .out_step = 64,
                                   .line_step = (size_t)4 * d, .dst = out + i0 * d + c0,
                                   .dst_stride = (size_t)d, .onto = true};
            for (int32_t i = 0; i < n; i++) {
                vf most = VF_ZERO(), base = VF_ZERO();
                for (int32_t t = 0; t < PAGE_TOK; t += VL) {
                    fetch_lines(&part, &part_bytes, FOLD_LINES, code.far);
                    vf sc = VF_MUL(unit, VF_HALF(scale + g * PAGE_TOK + t));
                    vf centre = VF_FMA(sc, mid, VF_HALF(lo + g * PAGE_TOK + t));
                    vf x = VF_LOAD(p + (i0 + i) * PAGE_TOK + t), a = VF_MUL(x, sc);
                    VF_STORE(folded + t, a);
                    most = VF_MAX(most, a);
                    base = VF_FMA(x, centre, base);
                }
                float sum = fold_store(folded, PAGE_TOK, vf_hmax(most), code.wide, w->word[i],
                                       &dot.step[i]);
                dot.add[i] = fmaf(-(dot.step[i] * code.mid), sum, vf_hsum(base));
            }
            page_dot_ahead(&dot, part, part_bytes);
            page_dot_run(&dot, &code, w);
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
static __attribute__((unused)) void page_widen_k(struct page_layout *l,
                                                 const struct kern_page *page, float *k)
{
    int32_t d = page->head_dim;
    struct page_code code = page_code_of(l, page, PAGE_K);
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

/* v [64][head_dim], rotated where the page is */
static __attribute__((unused)) void page_widen_v(struct page_layout *l,
                                                 const struct kern_page *page, float *v)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    struct page_code code = page_code_of(l, page, PAGE_V);
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
}

#endif
