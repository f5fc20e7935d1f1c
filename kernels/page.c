/* The page's bytes: sizes, places, unpacking, demotion, checks. Sealing is in page_seal.c. */
#include "kernels/page.h"
#include "kernels/page_rotate.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* The planes of both tensors in the order they lie in the page. */
static const struct {
    uint8_t tensor, plane;
} plane_order[2 * PAGE_PLANES] = {
    {PAGE_K, 0}, {PAGE_V, 0}, {PAGE_K, 1}, {PAGE_V, 1},
    {PAGE_K, 2}, {PAGE_K, 3}, {PAGE_V, 2}, {PAGE_V, 3},
};

_Static_assert(sizeof(struct kern_page) == 64, "the header is 64 bytes");

static bool bits_valid(int32_t bits)
{
    return bits == 2 || bits == 4 || bits == 6 || bits == 8;
}

bool page_shape_valid(const struct page_shape *shape)
{
    return shape->head_dim >= 16 && shape->head_dim <= PAGE_HEAD_DIM_MAX &&
           shape->head_dim % 16 == 0 && bits_valid(shape->bits_k) &&
           (shape->bits_v == 0 || bits_valid(shape->bits_v));
}

size_t page_plane_size(int32_t head_dim)
{
    return (size_t)PAGE_TOK * head_dim * PAGE_PLANE_BITS / 8;
}

size_t page_scale_k_at(int32_t head_dim)
{
    return sizeof(struct kern_page);
}

size_t page_scale_v_at(int32_t head_dim)
{
    return page_scale_k_at(head_dim) + 2 * sizeof(uint16_t) * head_dim;
}

size_t page_base_size(const struct page_shape *shape)
{
    size_t values = 2 * sizeof(uint16_t) * PAGE_TOK * page_n_group(shape->head_dim);
    return page_scale_v_at(shape->head_dim) + (shape->bits_v > 0 ? values : 0);
}

size_t page_size(const struct page_shape *shape)
{
    if (!page_shape_valid(shape)) {
        return 0;
    }
    return page_base_size(shape) +
           page_plane_size(shape->head_dim) * ((shape->bits_k + shape->bits_v) / PAGE_PLANE_BITS);
}

struct page_shape page_shape_of(const struct kern_page *page)
{
    return (struct page_shape){page->head_dim, page->bits_k, page->bits_v};
}

size_t page_plane_at(const struct page_shape *shape, enum page_tensor tensor, int32_t i)
{
    size_t at = page_base_size(shape);
    for (int32_t o = 0; o < 2 * PAGE_PLANES; o++) {
        int32_t bits = plane_order[o].tensor == PAGE_K ? shape->bits_k : shape->bits_v;
        if (plane_order[o].tensor == tensor && plane_order[o].plane == i) {
            break;
        }
        if (plane_order[o].plane < bits / PAGE_PLANE_BITS) {
            at += page_plane_size(shape->head_dim);
        }
    }
    return at;
}

const uint8_t *page_plane(const struct kern_page *page, enum page_tensor tensor, int32_t i)
{
    struct page_shape shape = page_shape_of(page);
    int32_t bits = tensor == PAGE_K ? shape.bits_k : shape.bits_v;
    if (i < 0 || i >= bits / PAGE_PLANE_BITS) {
        return NULL;
    }
    return (const uint8_t *)page + page_plane_at(&shape, tensor, i);
}

float page_error(const struct kern_page *page, enum page_tensor tensor, int32_t bits)
{
    if (!bits_valid(bits)) {
        return NAN;
    }
    const uint16_t *err = tensor == PAGE_K ? page->err_k : page->err_v;
    return kern_f16_to_f32(err[bits / 2 - 1]);
}

static const uint16_t *half_at(const struct kern_page *page, size_t at)
{
    return (const uint16_t *)((const uint8_t *)page + at);
}

static uint16_t *half_edit(struct kern_page *page, size_t at)
{
    return (uint16_t *)((uint8_t *)page + at);
}

/* Codes of 16 rows (K: channels row0.., V: tokens row0..) and 16 lanes (K: tokens, V: channels),
 * from the top n_plane planes. Both tensors share this picture: see page.h. */
static void codes_tile(const uint8_t *const *plane, int32_t n_plane, size_t line,
                       uint8_t codes[16][16])
{
    memset(codes, 0, 16 * 16);
    for (int32_t i = 0; i < n_plane; i++) {
        const uint8_t *src = plane[i] + line;
        for (int32_t r = 0; r < 16; r++) {
            int32_t shift = 2 * (r / 4);
            for (int32_t l = 0; l < 16; l++) {
                codes[r][l] = (uint8_t)(codes[r][l] << 2 | (src[4 * l + r % 4] >> shift & 3));
            }
        }
    }
}

/* Start of the 64-byte line that holds token tile tt (of 16) and channel tile ct (of 16). */
static size_t line_at(int32_t head_dim, int32_t tt, int32_t ct)
{
    return (size_t)tt * 4 * head_dim + (size_t)ct * 64;
}

static int32_t planes_of(const struct kern_page *page, enum page_tensor tensor,
                         const uint8_t *plane[PAGE_PLANES])
{
    int32_t n = (tensor == PAGE_K ? page->bits_k : page->bits_v) / PAGE_PLANE_BITS;
    for (int32_t i = 0; i < n; i++) {
        plane[i] = page_plane(page, tensor, i);
    }
    return n;
}

/* Token t of channel c to x[c * chan_step + t * tok_step]. */
static void unpack_keys(const struct kern_page *page, float *x, int32_t chan_step, int32_t tok_step)
{
    int32_t d = page->head_dim;
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane = planes_of(page, PAGE_K, plane);
    const uint16_t *scale = half_at(page, page_scale_k_at(d)), *lo = scale + d;
    for (int32_t ct = 0; ct < d / 16; ct++) {
        for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
            uint8_t codes[16][16];
            codes_tile(plane, n_plane, line_at(d, tt, ct), codes);
            for (int32_t r = 0; r < 16; r++) {
                int32_t c = ct * 16 + r;
                float s = kern_f16_to_f32(scale[c]), o = kern_f16_to_f32(lo[c]);
                for (int32_t l = 0; l < 16; l++) {
                    x[c * chan_step + (tt * 16 + l) * tok_step] = o + s * codes[r][l];
                }
            }
        }
    }
}

void page_unpack_k(const struct kern_page *page, float *k)
{
    unpack_keys(page, k, PAGE_TOK, 1);
}

void page_unpack_v(const struct kern_page *page, float *v)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    if (page->bits_v == 0) {
        unpack_keys(page, v, 1, d);
        return;
    }
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane = planes_of(page, PAGE_V, plane);
    const uint16_t *scale = half_at(page, page_scale_v_at(d)), *lo = scale + PAGE_TOK * n_group;
    for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
        for (int32_t ct = 0; ct < d / 16; ct++) {
            uint8_t codes[16][16];
            codes_tile(plane, n_plane, line_at(d, tt, ct), codes);
            for (int32_t r = 0; r < 16; r++) {
                int32_t t = tt * 16 + r, at = ct * 16 / PAGE_GROUP * PAGE_TOK + t;
                float s = kern_f16_to_f32(scale[at]), o = kern_f16_to_f32(lo[at]);
                for (int32_t l = 0; l < 16; l++) {
                    v[t * d + ct * 16 + l] = o + s * codes[r][l];
                }
            }
        }
    }
    if (page->flags & PAGE_V_ROTATED) {
        for (int32_t t = 0; t < PAGE_TOK; t++) {
            page_rotate(v + t * d, d);
        }
    }
}

void page_rotate(float *x, int32_t head_dim)
{
    page_rotate_row(x, head_dim);
}

void page_bounds(const struct kern_page *page, float *lo, float *hi)
{
    int32_t d = page->head_dim;
    const uint16_t *scale = half_at(page, page_scale_k_at(d));
    for (int32_t c = 0; c < d; c++) {
        lo[c] = kern_f16_to_f32(scale[d + c]);
        hi[c] = lo[c] + kern_f16_to_f32(scale[c]) * (float)((1 << page->bits_k) - 1);
    }
}

/* Sums over one group of codes c and of what is left of them, c >> drop. */
struct cut_sums {
    int64_t n, c, cut, cut_cut, c_cut;
};

static void sums_add(struct cut_sums *s, const uint8_t *codes, int32_t n, int32_t drop)
{
    s->n += n;
    for (int32_t i = 0; i < n; i++) {
        int32_t c = codes[i], cut = c >> drop;
        s->c += c;
        s->cut += cut;
        s->cut_cut += cut * cut;
        s->c_cut += c * cut;
    }
}

static uint16_t half_finite(double x)
{
    return kern_f32_to_f16((float)fmin(fmax(x, -65504.0), 65504.0));
}

/* The line through (cut, lo + scale * c) with the least squared error. */
static void cut_refit(const struct cut_sums *s, int32_t drop, uint16_t *scale, uint16_t *lo)
{
    double s0 = kern_f16_to_f32(*scale), lo0 = kern_f16_to_f32(*lo);
    int64_t var = s->n * s->cut_cut - s->cut * s->cut;
    int64_t cov = s->n * s->c_cut - s->c * s->cut;
    double s1 = var > 0 ? s0 * (double)cov / (double)var : s0 * (1 << drop);
    uint16_t half = half_finite(s1);
    double kept = kern_f16_to_f32(half);
    *scale = half;
    *lo = half_finite(lo0 + (s0 * (double)s->c - kept * (double)s->cut) / (double)s->n);
}

static void refit_k(struct kern_page *page, int32_t drop)
{
    int32_t d = page->head_dim, skip = page->n_skip < PAGE_TOK ? page->n_skip : 0;
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane = planes_of(page, PAGE_K, plane);
    uint16_t *scale = half_edit(page, page_scale_k_at(d));
    for (int32_t ct = 0; ct < d / 16; ct++) {
        struct cut_sums sums[16];
        memset(sums, 0, sizeof sums);
        for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
            uint8_t codes[16][16];
            codes_tile(plane, n_plane, line_at(d, tt, ct), codes);
            int32_t from = skip - tt * 16 < 0 ? 0 : skip - tt * 16;
            for (int32_t r = 0; r < 16 && from < 16; r++) {
                sums_add(&sums[r], codes[r] + from, 16 - from, drop);
            }
        }
        for (int32_t r = 0; r < 16; r++) {
            cut_refit(&sums[r], drop, &scale[ct * 16 + r], &scale[d + ct * 16 + r]);
        }
    }
}

static void refit_v(struct kern_page *page, int32_t drop)
{
    int32_t d = page->head_dim, n_group = page_n_group(d);
    const uint8_t *plane[PAGE_PLANES];
    int32_t n_plane = planes_of(page, PAGE_V, plane);
    uint16_t *scale = half_edit(page, page_scale_v_at(d)), *lo = scale + PAGE_TOK * n_group;
    for (int32_t tt = 0; tt < PAGE_TOK / 16; tt++) {
        for (int32_t g = 0; g < n_group; g++) {
            struct cut_sums sums[16];
            memset(sums, 0, sizeof sums);
            for (int32_t ct = g * 4; ct < d / 16 && ct < (g + 1) * 4; ct++) {
                uint8_t codes[16][16];
                codes_tile(plane, n_plane, line_at(d, tt, ct), codes);
                for (int32_t r = 0; r < 16; r++) {
                    sums_add(&sums[r], codes[r], 16, drop);
                }
            }
            for (int32_t r = 0; r < 16; r++) {
                int32_t at = g * PAGE_TOK + tt * 16 + r;
                cut_refit(&sums[r], drop, &scale[at], &lo[at]);
            }
        }
    }
}

size_t page_demote(struct kern_page *page, int32_t bits_k, int32_t bits_v)
{
    struct page_shape from = page_shape_of(page), to = {page->head_dim, bits_k, bits_v};
    if (!page_shape_valid(&to) || bits_k > from.bits_k || bits_v > from.bits_v ||
        (bits_v == 0) != (from.bits_v == 0)) {
        return 0;
    }
    if (bits_k < from.bits_k) {
        refit_k(page, from.bits_k - bits_k);
    }
    if (bits_v < from.bits_v) {
        refit_v(page, from.bits_v - bits_v);
    }
    /* Planes keep their order, so each moves towards the front over bytes already moved. */
    for (int32_t o = 0; o < 2 * PAGE_PLANES; o++) {
        enum page_tensor tensor = plane_order[o].tensor;
        int32_t i = plane_order[o].plane;
        if (i < (tensor == PAGE_K ? bits_k : bits_v) / PAGE_PLANE_BITS) {
            memmove((uint8_t *)page + page_plane_at(&to, tensor, i),
                    (uint8_t *)page + page_plane_at(&from, tensor, i), page_plane_size(to.head_dim));
        }
    }
    page->bits_k = (uint8_t)bits_k;
    page->bits_v = (uint8_t)bits_v;
    page->size_bytes = (uint32_t)page_size(&to);
    return page->size_bytes;
}

/* Steps become 2^drop wider and stand for the middle of what they cover. */
static void widen(uint16_t *scale, uint16_t *lo, int32_t n, int32_t drop)
{
    for (int32_t i = 0; i < n; i++) {
        double s = kern_f16_to_f32(scale[i]), o = kern_f16_to_f32(lo[i]);
        lo[i] = half_finite(o + s * ((1 << drop) - 1) / 2);
        scale[i] = half_finite(s * (1 << drop));
    }
}

bool page_assemble(struct kern_page *dst, const void *base, size_t base_bytes,
                   const uint8_t *const *planes_k, int32_t n_k, const uint8_t *const *planes_v,
                   int32_t n_v)
{
    struct kern_page head;
    if (base_bytes < sizeof head) {
        return false;
    }
    memcpy(&head, base, sizeof head);
    struct page_shape was = page_shape_of(&head);
    struct page_shape now = {was.head_dim, n_k * PAGE_PLANE_BITS, n_v * PAGE_PLANE_BITS};
    if (n_k < 1 || n_k > PAGE_PLANES || n_v < 0 || n_v > PAGE_PLANES || !page_shape_valid(&was) ||
        !page_shape_valid(&now) || now.bits_k > was.bits_k || now.bits_v > was.bits_v ||
        (now.bits_v == 0) != (was.bits_v == 0) || base_bytes != page_base_size(&was)) {
        return false;
    }
    memcpy(dst, base, base_bytes);
    dst->bits_k = (uint8_t)now.bits_k;
    dst->bits_v = (uint8_t)now.bits_v;
    dst->size_bytes = (uint32_t)page_size(&now);
    int32_t d = was.head_dim, n_scale_v = PAGE_TOK * page_n_group(d);
    uint16_t *sk = half_edit(dst, page_scale_k_at(d)), *sv = half_edit(dst, page_scale_v_at(d));
    if (now.bits_k < was.bits_k) {
        widen(sk, sk + d, d, was.bits_k - now.bits_k);
    }
    if (now.bits_v < was.bits_v) {
        widen(sv, sv + n_scale_v, n_scale_v, was.bits_v - now.bits_v);
    }
    for (int32_t i = 0; i < n_k; i++) {
        memcpy((uint8_t *)dst + page_plane_at(&now, PAGE_K, i), planes_k[i], page_plane_size(d));
    }
    for (int32_t i = 0; i < n_v; i++) {
        memcpy((uint8_t *)dst + page_plane_at(&now, PAGE_V, i), planes_v[i], page_plane_size(d));
    }
    return true;
}

static bool halves_finite(const uint8_t *bytes, size_t n, bool not_negative)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, sizeof h);
        if ((h & 0x7c00) == 0x7c00 || (not_negative && h > 0x8000)) {
            return false;
        }
    }
    return true;
}

bool page_check(const void *bytes, size_t size_bytes, int32_t head_dim, bool latent, const char **ret_why)
{
    const char *why = NULL;
    struct kern_page head;
    static const uint8_t zero[sizeof head.reserved];
    if (size_bytes < sizeof head) {
        why = "page is shorter than its header";
    } else {
        memcpy(&head, bytes, sizeof head);
        struct page_shape shape = page_shape_of(&head);
        if (head.magic != PAGE_MAGIC) {
            why = "page has the wrong magic number";
        } else if (head.version != PAGE_VERSION) {
            why = "page has an unknown version";
        } else if (head.head_dim != head_dim || !page_shape_valid(&shape) || (shape.bits_v == 0) != latent) {
            why = "page has another shape than the model";
        } else if (head.size_bytes != page_size(&shape) || head.size_bytes != size_bytes) {
            why = "page has the wrong size";
        } else if ((head.flags & ~(latent ? 0 : PAGE_V_ROTATED)) != 0 || head.n_skip >= PAGE_TOK ||
                   memcmp(head.reserved, zero, sizeof zero) != 0) {
            why = "page header is damaged";
        } else {
            const uint8_t *b = bytes;
            size_t n_v = latent ? 0 : (size_t)PAGE_TOK * page_n_group(head_dim);
            size_t at_k = page_scale_k_at(head_dim), at_v = page_scale_v_at(head_dim);
            if (!halves_finite(b + at_k, head_dim, true) ||
                !halves_finite(b + at_k + 2 * head_dim, head_dim, false) ||
                !halves_finite(b + at_v, n_v, true) ||
                !halves_finite(b + at_v + 2 * n_v, n_v, false)) {
                why = "page has a scale or offset that is no finite number";
            }
        }
    }
    if (ret_why) {
        *ret_why = why;
    }
    return !why;
}
