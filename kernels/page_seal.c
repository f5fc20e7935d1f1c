/* page_seal: picks the version of page_seal.h that this machine runs best. All give the same
 * bytes. */
#include "kernels/page_seal.h"

#include "kernels/cpu/isa.h"
#include "kernels/cpu/page_simd.h"

void page_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
               int32_t n_skip, const uint16_t *k, const uint16_t *v)
{
#if defined(__x86_64__)
    if (isa_best() >= ISA_AVX512) {
        page_avx512_seal(ret, shape, flags, n_skip, k, v);
        return;
    }
    if (isa_best() >= ISA_AVX2) {
        page_avx2_seal(ret, shape, flags, n_skip, k, v);
        return;
    }
#endif
    page_plain_seal(ret, shape, flags, n_skip, k, v);
}

void page_plain_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                     int32_t n_skip, const uint16_t *k, const uint16_t *v)
{
    seal_page(ret, shape, flags, n_skip, k, v);
}
