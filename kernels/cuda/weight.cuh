/* Matrices on the device, or kept in the host's memory beside it. Internal to kernels/cuda. */
#ifndef KERNELS_CUDA_WEIGHT_CUH
#define KERNELS_CUDA_WEIGHT_CUH

#include "kernels/cuda/backend.h"

struct kern_weight {
    enum kern_type type; /* as it lies, or would lie, on the device */
    int32_t n_row, n_col;
    uint8_t *body;  /* dev; NULL when it is kept */
    uint8_t *d;     /* dev: scales of blocks, where the type keeps them apart; else NULL */
    struct kern_weight *kept; /* the host's own, of c->base.host; else NULL */
    const uint8_t *file;      /* of a kept one: the file's rows */
};

/* Of the device's view. */
struct matrix {
    const uint8_t *body;
    const uint8_t *d;
    int32_t n_row, n_col;
};

/* weight.cu. n rows from row0 on; of a kept one the shape alone. */
struct matrix weight_rows(const struct kern_weight *w, int32_t row0, int32_t n);
/* Whether rows of a kept matrix can be brought over: not the types that would have to
 * become f16 first. */
bool weight_can_come(const struct kern_weight *w);
/* Bytes of the device's memory that weight_bring needs for n rows. */
size_t weight_bring_bytes(const struct kern_weight *w, int32_t n);
/* Rows row0.. of a kept matrix, in `room`. */
struct matrix weight_bring(struct kern_cuda *c, const struct kern_weight *w, int32_t row0,
                           int32_t n, uint8_t *room);

#endif
