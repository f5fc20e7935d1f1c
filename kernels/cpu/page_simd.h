/* The versions behind page_seal; same arguments, same bytes. Internal to kernels/ and its tests. */
#ifndef KERNELS_CPU_PAGE_SIMD_H
#define KERNELS_CPU_PAGE_SIMD_H

#include "kernels/page.h"

void page_plain_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                     int32_t n_skip, const uint16_t *k, const uint16_t *v);
void page_avx2_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                    int32_t n_skip, const uint16_t *k, const uint16_t *v);
void page_avx512_seal(struct kern_page *ret, const struct page_shape *shape, uint32_t flags,
                      int32_t n_skip, const uint16_t *k, const uint16_t *v);

#endif
