/* The page codec: 64 consecutive tokens of one KV head as bit planes (our own format).
 *
 * K after RoPE is coded per channel over the page, V per token in groups of 64 channels, both as
 * x = lo + scale * code with f16 scale and lo. Codes are 8 bits cut into four planes of 2 bits,
 * most significant first; each plane is contiguous, so precision is *how many planes are left*.
 * A page is quantised once; page_demote drops planes and refits scale and lo to what remains.
 *
 * Bytes, little-endian, the same in memory and on disk:
 *   header 64 B
 *   K scale f16 [head_dim], K lo f16 [head_dim]
 *   V scale f16 [n_group][64], V lo f16 [n_group][64]         n_group = ceil(head_dim / 64); not of a latent
 *   planes, 16 * head_dim B each, in the order K0 V0 K1 V1 K2 K3 V2 V3, missing ones left out:
 *   every step of the ladder 8/8 8/4 6/4 4/4 4/2 2/2 is a prefix of the one before it.
 * Inside a plane each byte holds four 2-bit codes, arranged so that a dot-product instruction on
 * four neighbouring bytes sums over channels (K) or over tokens (V), with no shuffle:
 *   K, token t, channel c: byte (t/16)*4*head_dim + (c/16)*64 + (t%16)*4 + c%4, bits 2*((c/4)%4)
 *   V, token t, channel c: byte (t/16)*4*head_dim + (c/16)*64 + (c%16)*4 + t%4, bits 2*((t/4)%4)
 *
 * The keys of a latent (kern_kv.n_latent) are its values, too: its pages have 0 bits of values, no V scale, no V lo
 * and no V planes, and whoever asks for values reads the keys.
 *
 * All functions are pure, allocate nothing, and work on host memory; any thread may call them.
 * head_dim is 16..576 and a multiple of 16. */
#ifndef KERNELS_PAGE_H
#define KERNELS_PAGE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PAGE_TOK = KERN_BLOCK_TOK,
    PAGE_DEPTHS = 4,      /* 2, 4, 6, 8 bits */
    PAGE_PLANE_BITS = 2,
    PAGE_PLANES = 4,      /* of one tensor at 8 bits */
    PAGE_GROUP = 64,      /* channels that share one scale of V */
    PAGE_LATENT_MAX = 512,
    PAGE_HEAD_DIM_MAX = PAGE_LATENT_MAX + 64, /* latents (DeepSeek-V2) and what tells positions */
    PAGE_VERSION = 1,
    PAGE_SIZE_MAX = 64 + 4 * PAGE_HEAD_DIM_MAX + 16 * PAGE_HEAD_DIM_MAX / 4 +
                    2 * PAGE_PLANES * 16 * PAGE_HEAD_DIM_MAX /* head_dim 576 at 8/8 */
};
#define PAGE_MAGIC 0x31504744u /* "DGP1" */

enum page_tensor { PAGE_K, PAGE_V };

/* V is stored after a normalised Hadamard transform over runs of n channels, n the largest power
 * of two that divides head_dim; page_rotate undoes it. */
enum page_flag { PAGE_V_ROTATED = 1 };

/* Bits left of each tensor: 2, 4, 6 or 8; bits_v 0: a latent. */
struct page_shape {
    int32_t head_dim;
    int32_t bits_k, bits_v;
};

struct kern_page {
    uint32_t magic;
    uint16_t version;
    uint16_t flags;                /* enum page_flag */
    uint32_t size_bytes;           /* all of it, header included */
    uint16_t head_dim;
    uint8_t bits_k, bits_v;
    uint16_t err_k[PAGE_DEPTHS];   /* f16, rms(x - page) / rms(x) at 2, 4, 6, 8 bits, from sealing; */
    uint16_t err_v[PAGE_DEPTHS];   /* depths above the sealed one hold NaN */
    float rms_k, rms_v;            /* of the f16 rows, skipped tokens left out */
    uint8_t n_skip;                /* leading tokens that were left out of ranges and errors */
    uint8_t reserved[23];          /* 0 */
    uint8_t data[];
};

/* True when a page of this shape exists. */
bool page_shape_valid(const struct page_shape *shape);
/* Bytes of a page; 0 when the shape is not valid. */
size_t page_size(const struct page_shape *shape);
size_t page_base_size(const struct page_shape *shape); /* header, scales and offsets: what precedes the planes */
size_t page_plane_size(int32_t head_dim);              /* one plane */
struct page_shape page_shape_of(const struct kern_page *page);

/* Seals 64 rows into ret (page_size(shape) bytes, 4-byte aligned). k: f16 [head_dim][64] channel-major,
 * v: f16 [64][head_dim], as in struct kern_kv_block; not read of a latent, nor are flags: enum page_flag. The first
 * n_skip tokens (sinks, read elsewhere) do not shape the ranges of K and are clamped. Infinities and NaN are
 * stored as the largest finite value and 0. Deterministic; the same on every machine. */
void page_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
               int32_t n_skip, const uint16_t *k, const uint16_t *v);

/* Drops planes in place down to bits_k and bits_v and refits scale and lo by least squares to the
 * codes at hand. Returns the new size, or 0 when a tensor has fewer bits than asked (untouched). */
size_t page_demote(struct kern_page *page, int32_t bits_k, int32_t bits_v);

/* rms(error) / rms(x) at this depth as measured at sealing; NaN when it was not sealed that deep. Of a latent the same
 * for both. */
float page_error(const struct kern_page *page, enum page_tensor tensor, int32_t bits);

/* Dequantises. k: float [head_dim][64]; v: float [64][head_dim], rotation undone. */
void page_unpack_k(const struct kern_page *page, float *k);
void page_unpack_v(const struct kern_page *page, float *v);

/* Hadamard transform of one row of head_dim floats in place; its own inverse. */
void page_rotate(float *x, int32_t head_dim);

/* Smallest and largest key each channel can hold at this depth: float [head_dim] each. */
void page_bounds(const struct kern_page *page, float *lo, float *hi);

/* Plane i of a tensor (0 = most significant), page_plane_size bytes, or NULL when it is dropped. */
const uint8_t *page_plane(const struct kern_page *page, enum page_tensor tensor, int32_t i);

/* Puts a page together from its base (page_base_size bytes of a valid page, any alignment) and the
 * first n_k and n_v planes of each tensor (1..bits/2 of the base; n_v 0 of a latent). Planes that the base speaks of
 * and that are not given count as dropped: scale and lo move to the middle of the wider steps.
 * dst: page_size of {head_dim, 2*n_k, 2*n_v}. False when the arguments do not fit the base. */
bool page_assemble(struct kern_page *dst, const void *base, size_t base_bytes,
                   const uint8_t *const *planes_k, int32_t n_k, const uint8_t *const *planes_v,
                   int32_t n_v);

/* Whether these bytes (from a file, hostile) are a whole page of this head_dim, of a latent or not, that every
 * function here and every kernel may read. *ret_why: a static sentence when not; may be NULL. */
bool page_check(const void *bytes, size_t size_bytes, int32_t head_dim, bool latent, const char **ret_why);

/* Where the kernels find things; offsets in bytes from the start of the page. */
size_t page_scale_k_at(int32_t head_dim);
size_t page_scale_v_at(int32_t head_dim);
size_t page_plane_at(const struct page_shape *shape, enum page_tensor tensor, int32_t i);
static inline int32_t page_n_group(int32_t head_dim)
{
    return (head_dim + PAGE_GROUP - 1) / PAGE_GROUP;
}

#ifdef __cplusplus
}
#endif
#endif
