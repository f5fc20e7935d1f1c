/* Weights: how they lie on the device, and how they get there. */
#include "kernels/cuda/weight.cuh"

#include "kernels/quant.h"

#include <assert.h>

/* How blocks of a type are cut: body_bytes of each, without the d_bytes of its scale at d_at. */
struct layout {
    enum kern_type type; /* on the device */
    int32_t block, body_bytes, d_bytes, d_at; /* d_bytes 0: nothing is taken out */
};

/* What a type without a kernel of its own becomes: one that has its codes and scales, but for the rounding of
 * a scale to f16, or f16 where none has. */
static enum kern_type stand_in(enum kern_type type)
{
    switch (type) {
    case KERN_Q3_K:
    case KERN_IQ3_XXS:
    case KERN_IQ3_S:
    case KERN_IQ1_S:
    case KERN_IQ1_M:
        return KERN_Q6_K;
    case KERN_Q5_0:
    case KERN_IQ4_NL:
    case KERN_IQ4_XS:
    case KERN_IQ2_XXS:
        return KERN_Q8_0;
    default:
        return KERN_F16;
    }
}

static struct layout layout_of(enum kern_type type)
{
    switch (type) {
    case KERN_F32:
    case KERN_F16:
    case KERN_BF16:
    case KERN_Q4_K:
    case KERN_Q5_K:
        return {type, kern_type_block(type), (int32_t)kern_type_bytes(type), 0, 0};
    case KERN_Q4_0:
    case KERN_Q8_0:
        return {type, 32, (int32_t)kern_type_bytes(type) - 2, 2, 0};
    case KERN_MXFP4:
        return {type, 32, 16, 1, 0};
    case KERN_Q6_K:
        return {type, 256, 208, 2, 208};
    default:
        return layout_of(stand_in(type));
    }
}

static size_t body_bytes(const struct layout *l, int32_t n_row, int32_t n_col)
{
    return (size_t)n_row * (size_t)(n_col / l->block) * (size_t)l->body_bytes;
}

static size_t d_bytes(const struct layout *l, int32_t n_row, int32_t n_col)
{
    return (size_t)n_row * (size_t)(n_col / l->block) * (size_t)l->d_bytes;
}

size_t cuda_weight_size(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col)
{
    struct layout l = layout_of(type);
    return body_bytes(&l, n_row, n_col) + d_bytes(&l, n_row, n_col);
}

/* One thread per scale's bytes of the file's blocks, of `block` such pieces. */
template <typename T>
static __global__ void split_blocks(const T *src, size_t n, int32_t block, int32_t d_at, T *body,
                                    T *d)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    size_t b = i / (size_t)block;
    int32_t at = (int32_t)(i % (size_t)block);
    if (at == d_at)
        d[b] = src[i];
    else
        body[b * (size_t)(block - 1) + (size_t)(at > d_at ? at - 1 : at)] = src[i];
}

template <typename T>
static void split_launch(struct kern_cuda *c, const struct layout *l, size_t whole,
                         const uint8_t *src, size_t n, uint8_t *body, uint8_t *d)
{
    size_t n_piece = n * whole / sizeof(T);
    launch(split_blocks<T>, dim3((unsigned)((n_piece + 255) / 256)), 256, 0, c, (const T *)src,
           n_piece, (int32_t)(whole / sizeof(T)), l->d_at / (int32_t)sizeof(T), (T *)body, (T *)d);
}

/* n blocks of `whole` bytes at src (dev) to body and d. */
static void split(struct kern_cuda *c, const struct layout *l, size_t whole, const uint8_t *src,
                  size_t n, uint8_t *body, uint8_t *d)
{
    if (l->d_bytes == 1)
        split_launch<uint8_t>(c, l, whole, src, n, body, d);
    else
        split_launch<uint16_t>(c, l, whole, src, n, body, d);
}

/* n blocks at src to where block `first` of the matrix lies. */
static void upload_split(struct kern_cuda *c, struct kern_weight *w, const struct layout *l,
                         const uint8_t *src, size_t first, size_t n_block)
{
    size_t whole = kern_type_bytes(w->type), at_once = c->scratch_bytes / whole;
    for (size_t b = 0; b < n_block; b += at_once) {
        size_t n = n_block - b < at_once ? n_block - b : at_once;
        cuda_put(c, c->scratch, src + b * whole, n * whole);
        split(c, l, whole, c->scratch, n, w->body + (first + b) * (size_t)l->body_bytes,
              w->d + (first + b) * (size_t)l->d_bytes);
    }
}

/* One block of a type as blocks of its stand-in; returns their end. */
static uint8_t *recode(enum kern_type type, const uint8_t *src, enum kern_type to, uint8_t *dst)
{
    const struct quant_type *t = quant_traits(type), *want = quant_traits(to);
    struct quant_block from, b = {};
    quant_unpack(type, src, &from);
    for (int at = 0; at < t->block; at += want->block, dst += want->bytes) {
        b.d = want->is_super ? from.d : from.d * (float)from.scale[at / t->group];
        for (int g = 0; want->is_super && g < want->block / want->group; g++)
            b.scale[g] = from.scale[(at + g * want->group) / t->group];
        for (int i = 0; i < want->block; i++) {
            int code = from.code[at + i];
            b.code[i] = (uint8_t)((t->table ? t->table[code] : code - t->offset) + want->offset);
        }
        quant_pack(to, &b, dst);
    }
    return dst;
}

static bool upload_recoded(struct kern_cuda *c, struct kern_weight *w, const struct layout *l,
                           enum kern_type type, const uint8_t *src)
{
    size_t n_block = (size_t)w->n_col / (size_t)kern_type_block(type);
    uint8_t *row = (uint8_t *)malloc((size_t)(w->n_col / l->block) * kern_type_bytes(w->type));
    for (int32_t r = 0; row && r < w->n_row; r++) {
        uint8_t *to = row;
        for (size_t b = 0; b < n_block; b++, src += kern_type_bytes(type))
            to = recode(type, src, w->type, to);
        size_t n = (size_t)(w->n_col / l->block);
        upload_split(c, w, l, row, (size_t)r * n, n);
    }
    free(row);
    return row != NULL;
}

/* Turned into f16 on the way, some rows at a time. */
static bool upload_f16(struct kern_cuda *c, struct kern_weight *w, enum kern_type type,
                       const uint8_t *src)
{
    size_t row_bytes = (size_t)(w->n_col / kern_type_block(type)) * kern_type_bytes(type);
    size_t n = (size_t)w->n_col;
    float *x = (float *)malloc(n * sizeof *x);
    uint16_t *h = (uint16_t *)malloc(n * sizeof *h);
    for (int32_t r = 0; x && h && r < w->n_row; r++) {
        kern_dequantise(type, src + (size_t)r * row_bytes, x, w->n_col);
        for (size_t i = 0; i < n; i++)
            h[i] = kern_f32_to_f16(x[i]);
        cuda_put(c, (uint16_t *)(void *)w->body + (size_t)r * n, h, n * sizeof *h);
    }
    bool done = x && h;
    free(x);
    free(h);
    return done;
}

struct kern_weight *cuda_weight_new(struct kern *k, enum kern_type type, int32_t n_row,
                                    int32_t n_col, const void *host)
{
    assert(kern_type_known(type) && n_row > 0 && n_col > 0 && n_col % kern_type_block(type) == 0);
    struct kern_cuda *c = cuda_of(k);
    struct layout l = layout_of(type);
    struct kern_weight *w = (struct kern_weight *)calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->type = l.type;
    w->n_row = n_row;
    w->n_col = n_col;
    w->body = (uint8_t *)arena_alloc(c, body_bytes(&l, n_row, n_col));
    if (l.d_bytes > 0)
        w->d = (uint8_t *)arena_alloc(c, d_bytes(&l, n_row, n_col));
    bool ok = w->body && (l.d_bytes == 0 || w->d);
    size_t n_block = (size_t)n_row * (size_t)(n_col / kern_type_block(type));
    if (ok && l.type == KERN_F16 && type != KERN_F16)
        ok = upload_f16(c, w, type, (const uint8_t *)host);
    else if (ok && l.type != type)
        ok = upload_recoded(c, w, &l, type, (const uint8_t *)host);
    else if (ok && l.d_bytes > 0)
        upload_split(c, w, &l, (const uint8_t *)host, 0, n_block);
    else if (ok)
        cuda_put(c, w->body, host, body_bytes(&l, n_row, n_col));
    if (ok)
        return w;
    cuda_weight_free(k, w);
    return NULL;
}

struct kern_weight *cuda_weight_keep(struct kern *k, enum kern_type type, int32_t n_row,
                                     int32_t n_col, const void *host)
{
    struct kern *h = k->host;
    struct kern_weight *w = h ? (struct kern_weight *)calloc(1, sizeof *w) : NULL;
    if (!w)
        return NULL;
    w->type = type;
    w->n_row = n_row;
    w->n_col = n_col;
    w->file = (const uint8_t *)host;
    w->kept = h->ops->weight_new(h, type, n_row, n_col, host);
    if (w->kept)
        return w;
    free(w);
    return NULL;
}

/* Rows of a kept one are read from the file whenever many tokens come. */
bool cuda_weight_owns(const struct kern_weight *w)
{
    return !w->file;
}

void cuda_weight_free(struct kern *k, struct kern_weight *w)
{
    if (!w)
        return;
    if (w->body)
        arena_free(cuda_of(k), w->body);
    if (w->d)
        arena_free(cuda_of(k), w->d);
    if (w->kept)
        k->host->ops->weight_free(k->host, w->kept);
    free(w);
}

/* ---- some rows of a matrix ---- */

struct matrix weight_rows(const struct kern_weight *w, int32_t row0, int32_t n)
{
    struct layout l = layout_of(w->type);
    if (w->kept)
        return {NULL, NULL, n, w->n_col};
    return {w->body + body_bytes(&l, row0, w->n_col), w->d ? w->d + d_bytes(&l, row0, w->n_col) : NULL,
            n, w->n_col};
}

static size_t file_bytes(const struct kern_weight *w, int32_t n)
{
    return (size_t)n * (size_t)(w->n_col / kern_type_block(w->type)) * kern_type_bytes(w->type);
}

static size_t whole_256(size_t n)
{
    return (n + 255) / 256 * 256;
}

bool weight_can_come(const struct kern_weight *w)
{
    return layout_of(w->type).type == w->type;
}

/* As they lie in the file, then the body, then d. */
size_t weight_bring_bytes(const struct kern_weight *w, int32_t n)
{
    struct layout l = layout_of(w->type);
    size_t raw = whole_256(file_bytes(w, n));
    return l.d_bytes == 0
               ? raw
               : raw + whole_256(body_bytes(&l, n, w->n_col)) + d_bytes(&l, n, w->n_col);
}

struct matrix weight_bring(struct kern_cuda *c, const struct kern_weight *w, int32_t row0,
                           int32_t n, uint8_t *room)
{
    struct layout l = layout_of(w->type);
    size_t size = file_bytes(w, n);
    cuda_put(c, room, w->file + file_bytes(w, row0), size);
    if (l.d_bytes == 0)
        return {room, NULL, n, w->n_col};
    uint8_t *body = room + whole_256(size);
    uint8_t *d = body + whole_256(body_bytes(&l, n, w->n_col));
    split(c, &l, kern_type_bytes(w->type), room, size / kern_type_bytes(w->type), body, d);
    return {body, d, n, w->n_col};
}
