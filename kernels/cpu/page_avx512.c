/* Sealing compiled for AVX-512, without fused multiply-add: its rounding would change the bytes. */
#include "kernels/cpu/page_simd.h"

#include "kernels/page_seal.h"

void page_avx512_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                      int32_t n_skip, const uint16_t *k, const uint16_t *v)
{
    seal_page(ret, shape, flags, n_skip, k, v);
}
