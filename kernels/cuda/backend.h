/* The CUDA backend from the inside: what its files share. One device, one host thread (the engine's),
 * one stream, and beside it one on which sealed pages go home (seal.cu). Ops enqueue and return; a failed
 * launch or allocation is remembered and told by the op `error`, since ops cannot fail. */
#ifndef KERNELS_CUDA_BACKEND_H
#define KERNELS_CUDA_BACKEND_H

#include "kernels/cuda/port.h"
#include "kernels/cuda/module.h"
#include "kernels/score.h"

#define CUDA_SCRATCH_BYTES ((size_t)256 << 20)
#define CUDA_STAGING_BYTES ((size_t)8 << 20)

struct cuda_arena; /* arena.cu */

enum {
    CUDA_ROPE_TABLES = 4, /* kinds of frequencies a model has, at most */
    CUDA_ROPE_MAX = 576,  /* rotated channels: PAGE_HEAD_DIM_MAX */
    CUDA_TABLES = 256,    /* layers x timelines whose block tables are kept on the device */
    CUDA_HOST_PIECES = 8, /* of page-locked memory handed out */
    CUDA_GEMV_TOK = 8     /* up to so many tokens a matrix is read in its own type */
};

/* A block table on the device, and what it is a copy of. */
struct cuda_table {
    const struct kern_kv_block *host; /* NULL = unused */
    uint64_t stamp;
    struct kern_kv_block *dev;
    size_t size_bytes;
    uint64_t used; /* when */
};

/* Block masses of a layer that are summed on the device until the next sync. */
struct cuda_mass {
    float *host, *dev;
    size_t n, cap; /* floats of the host's array, of the device's */
    bool dirty;
};

struct cuda_gemm; /* gemm.cu: cuBLAS */
struct cuda_step; /* step.cu: launches of a decode step; NULL = they are not noted */
struct cuda_pages; /* seal.cu: sealed pages on their way to the host */

struct kern_cuda {
    struct kern base; /* first: a struct kern * of this backend points here */
    cudaStream_t stream;  /* launches go through cuda_call; all else takes it from cuda_stream */
    int32_t n_sm;         /* multiprocessors */
    size_t shared_most;   /* dynamic shared memory of a block, at most */
    int32_t sm;           /* compute capability x 10 */
    cudaError_t error;    /* the first failure; it stays */
    struct cuda_arena *arena;
    struct cuda_gemm *gemm;
    struct cuda_step *step;
    struct cuda_pages *pages;
    unsigned char *scratch;
    size_t scratch_bytes;
    void *staging;        /* page-locked host memory, CUDA_STAGING_BYTES, for what comes back; */
    char *putting;        /* as much for what goes to the device, */
    size_t put_at;        /* from here on not on its way */
    void *locked[CUDA_HOST_PIECES]; /* handed out; or NULL */
    void *near;           /* host memory for inputs and answers of products of kept matrices */
    size_t near_bytes;
    struct {
        float freq[CUDA_ROPE_MAX / 2]; /* host copy */
        int32_t n;
        float *dev;
    } rope[CUDA_ROPE_TABLES];
    int32_t rope_next;
    struct cuda_table table[CUDA_TABLES];
    uint64_t clock;
    struct cuda_mass mass[CUDA_TABLES];
};

static inline struct kern_cuda *cuda_of(struct kern *k)
{
    return (struct kern_cuda *)k;
}

/* Remembers a failure; true when there was none. */
bool cuda_ok(struct kern_cuda *c, cudaError_t e);

/* step.cu */
struct cuda_step *step_open(struct kern_cuda *c); /* NULL = off */
void step_close(struct cuda_step *s);
/* A step of one token begins: where the device reads the token; NULL = off. */
const int32_t *step_begin(struct kern_cuda *c, int32_t id);
/* Where the device reads what is to be added to *pos0, which becomes the beginning of its block;
 * NULL = nothing. */
const int32_t *step_place(struct kern_cuda *c, int32_t n_tok, int32_t *pos0);
void step_end(struct kern_cuda *c);
void step_count(const struct kern_cuda *c, uint64_t *ret_replayed, uint64_t *ret_plain);
/* The stream, for whatever is not a launch. */
cudaStream_t cuda_stream(struct kern_cuda *c);

/* arena.cu: device memory in pieces of any size. */
void *arena_alloc(struct kern_cuda *c, size_t size_bytes);
void arena_free(struct kern_cuda *c, void *dev);
uint64_t arena_bytes(const struct kern_cuda *c); /* taken from the driver */
void arena_close(struct kern_cuda *c);

/* Copies host bytes, which may be reused at once, to the device. */
void cuda_put(struct kern_cuda *c, void *dev, const void *host, size_t size_bytes);
/* The other way; waits. */
void cuda_get(struct kern_cuda *c, void *host, const void *dev, size_t size_bytes);

/* Host memory of that size, 64-byte aligned, until the next call; NULL = out of memory. */
void *cuda_near(struct kern_cuda *c, size_t size_bytes);

/* n words of device memory become `word`. */
void cuda_fill(struct kern_cuda *c, void *dev, uint32_t word, size_t n);

/* Parts of scratch, from its start; each 256-byte aligned. */
struct cuda_cut {
    unsigned char *at, *end;
};
static inline struct cuda_cut cuda_cut_begin(struct kern_cuda *c)
{
    struct cuda_cut cut = {c->scratch, c->scratch + c->scratch_bytes};
    return cut;
}
static inline size_t cuda_cut_left(const struct cuda_cut *cut)
{
    return (size_t)(cut->end - cut->at);
}
static inline void *cuda_cut_take(struct cuda_cut *cut, size_t size_bytes)
{
    size_t whole = (size_bytes + 255) / 256 * 256;
    if (whole > cuda_cut_left(cut))
        return NULL;
    void *ret = cut->at;
    cut->at += whole;
    return ret;
}

/* The device's copy of a layer's block table, brought up to date. */
const struct kern_kv_block *cuda_table_of(struct kern_cuda *c, const struct kern_kv *kv);
/* Where masses for this host array are summed on the device. */
float *cuda_mass_of(struct kern_cuda *c, float *host, size_t n);

/* The ops. */
void cuda_embed(struct kern *k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok,
                float scale, float *dst);
void cuda_rmsnorm(struct kern *k, float *dst, const float *x, const float *gain, int32_t n_row,
                  int32_t n_col, int32_t stride, float eps);
void cuda_center(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col);
void cuda_rope(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
               int32_t stride, int32_t pos0, const struct kern_rope *r);
void cuda_kv_write(struct kern *k, const struct kern_kv *kv, const float *key, const float *value,
                   int32_t stride, int32_t n_tok, int32_t pos0);
void cuda_glu(struct kern *k, float *dst, int32_t dst_stride, const float *gate, const float *up,
              int32_t stride, int32_t n_tok, int32_t n, enum kern_act act);
void cuda_add(struct kern *k, float *dst, const float *x, size_t n);
void cuda_sink(struct kern *k, float *out, const float *lse, const float *sink, int32_t n_tok,
               int32_t n_head, int32_t head_dim);
void cuda_take_rows(struct kern *k, float *dst, const float *src, const int32_t *row, int32_t n,
                    int32_t n_col);
void cuda_add_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                   const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col);
void cuda_scale(struct kern *k, float *x, size_t n, float by);
void cuda_softcap(struct kern *k, float *x, size_t n, float cap);
void cuda_conv(struct kern *k, const struct kern_conv *c);
void cuda_delta(struct kern *k, const struct kern_delta *d);
void cuda_scan(struct kern *k, const struct kern_scan *s);

size_t cuda_weight_size(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col);
struct kern_weight *cuda_weight_new(struct kern *k, enum kern_type type, int32_t n_row,
                                    int32_t n_col, const void *host);
struct kern_weight *cuda_weight_keep(struct kern *k, enum kern_type type, int32_t n_row,
                                     int32_t n_col, const void *host);
bool cuda_weight_owns(const struct kern_weight *w);
void cuda_weight_free(struct kern *k, struct kern_weight *w);
void cuda_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                 int32_t x_stride, int32_t n_tok);

void cuda_attend(struct kern *k, const struct kern_attn *a);
bool cuda_score(struct kern *k, const struct kern_score *s);
void cuda_bounds(struct kern *k, const struct kern_bounds *b);
void cuda_demote(struct kern *k, const struct kern_demote *jobs, int32_t n);
void cuda_seal(struct kern *k, const struct kern_seal *jobs, int32_t n, int32_t head_dim,
               int32_t bits_k, int32_t bits_v, uint32_t flags);

/* seal.cu: the way home of sealed pages. NULL = out of memory. */
struct cuda_pages *pages_open(struct kern_cuda *c);
void pages_close(struct cuda_pages *p);
void pages_collect(struct kern_cuda *c); /* waits until all of them are the host's */

/* gemm.cu: dst [n_tok, dst_stride] = alpha * x [n_tok, n_col] * w [n_row, n_col]^T (+ dst when
 * add), float32. w and x are both F16 or both F32; all on the device, alpha too (NULL = 1). */
struct gemm_call {
    enum kern_type type;
    const void *w, *x;
    int32_t n_row, n_col, n_tok, x_stride;
    const float *alpha;
};
bool gemm_there(void); /* whether cuBLAS is */
struct cuda_gemm *gemm_open(struct kern_cuda *c);
void gemm_close(struct cuda_gemm *g);
void gemm_run(struct kern_cuda *c, const struct gemm_call *g, float *dst, int32_t dst_stride, bool add);

#endif
