#include "kernels/cpu/tile.h"

#include "kernels/cpu/matmul.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* 32 columns of a tile: eight vectors of one code per byte. */
typedef uint8_t group_codes[8][TILE_VEC];

/* Bits shift.. of every code of vectors first.. into one vector, those of vector first + f in field
 * f. Eight bytes at a time: what a shift brings in from the next byte is masked. */
static void pack_fields(uint8_t *dst, group_codes code, int first, int n_vec, int bits, int shift)
{
    uint64_t mask = 0x0101010101010101u * ((1u << bits) - 1);
    for (int i = 0; i < TILE_VEC; i += 8) {
        uint64_t packed = 0, eight;
        for (int f = 0; f < n_vec; f++) {
            memcpy(&eight, &code[first + f][i], 8);
            packed |= (eight >> shift & mask) << f * bits;
        }
        memcpy(dst + i, &packed, 8);
    }
}

static void pack_codes(uint8_t *dst, group_codes code, int bits)
{
    if (bits == 8) {
        memcpy(dst, code, sizeof(group_codes));
        return;
    }
    int low = bits >= 4 ? 4 : 2;
    if (low == 4) {
        for (int j = 0; j < 4; j++, dst += TILE_VEC)
            for (int i = 0; i < TILE_VEC; i++)
                dst[i] = (uint8_t)((code[j][i] & 15) | code[j + 4][i] << 4);
    } else {
        pack_fields(dst, code, 0, 4, 2, 0);
        pack_fields(dst + TILE_VEC, code, 4, 4, 2, 0);
        dst += 2 * TILE_VEC;
    }
    if (bits - low == 2) {
        pack_fields(dst, code, 0, 4, 2, low);
        pack_fields(dst + TILE_VEC, code, 4, 4, 2, low);
    } else if (bits - low == 1) {
        pack_fields(dst, code, 0, 8, 1, low);
    }
}

/* The code of row r, column c (of 32). */
static int read_code(const uint8_t *src, int bits, int r, int c)
{
    int j = c / 4, byte = 4 * r + c % 4;
    if (bits == 8)
        return src[j * TILE_VEC + byte];
    int low = bits >= 4 ? 4 : 2, code;
    if (low == 4) {
        code = src[j % 4 * TILE_VEC + byte] >> j / 4 * 4 & 15;
        src += 4 * TILE_VEC;
    } else {
        code = src[j / 4 * TILE_VEC + byte] >> j % 4 * 2 & 3;
        src += 2 * TILE_VEC;
    }
    if (bits - low == 2)
        code |= (src[j / 4 * TILE_VEC + byte] >> j % 4 * 2 & 3) << low;
    else if (bits - low == 1)
        code |= (src[byte] >> j & 1) << low;
    return code;
}

static void pack_scales(uint8_t *dst, const struct quant_type *t,
                        const struct quant_block b[TILE_ROWS])
{
    int n_group = t->block / t->group;
    uint16_t h;
    for (int r = 0; r < TILE_ROWS; r++) {
        h = kern_f32_to_f16(b[r].d / t->unit);
        memcpy(dst + 2 * r, &h, 2);
        h = kern_f32_to_f16(b[r].dmin);
        if (t->has_min)
            memcpy(dst + 2 * (TILE_ROWS + r), &h, 2);
    }
    if (!t->is_super)
        return;
    dst += (t->has_min ? 4 : 2) * TILE_ROWS;
    for (int r = 0; r < TILE_ROWS; r++)
        for (int g = 0; g < n_group; g++) {
            dst[g * TILE_ROWS + r] = (uint8_t)b[r].scale[g];
            if (t->has_min)
                dst[(n_group + g) * TILE_ROWS + r] = b[r].min[g];
        }
}

enum { PLAIN_STRETCH = 128 /* columns */ };

struct repack_job {
    struct kern_weight *w;
    const uint8_t *src;
};

static void repack_plain(const struct repack_job *job, int tile)
{
    const struct kern_weight *w = job->w;
    size_t size = (size_t)w->traits->bytes;
    uint8_t *dst = w->tiles + (size_t)tile * w->tile_bytes;
    int32_t row0 = tile * TILE_ROWS;
    int n_row = w->n_row - row0 < TILE_ROWS ? w->n_row - row0 : TILE_ROWS;
    /* A stretch of columns at a time, so that what is written stays in the cache. */
    for (int32_t first = 0; first < w->n_col; first += PLAIN_STRETCH)
        for (int r = 0; r < n_row; r++) {
            const uint8_t *row = job->src + (size_t)(row0 + r) * (size_t)w->n_col * size;
            int32_t end = first + PLAIN_STRETCH < w->n_col ? first + PLAIN_STRETCH : w->n_col;
            for (int32_t col = first; col < end; col++)
                if (size == 2)
                    memcpy(dst + ((size_t)col * TILE_ROWS + r) * 2, row + (size_t)col * 2, 2);
                else
                    memcpy(dst + ((size_t)col * TILE_ROWS + r) * 4, row + (size_t)col * 4, 4);
        }
}

static void repack_tile(void *ctx, int tile, int n_tile, int thread)
{
    const struct repack_job *job = ctx;
    const struct kern_weight *w = job->w;
    const struct quant_type *t = w->traits;
    size_t row_bytes = (size_t)(w->n_col / t->block) * (size_t)t->bytes;
    uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes, *scale = code + w->scale_offset;
    struct quant_block b[TILE_ROWS];
    group_codes group;
    if (t->bits == 0) {
        repack_plain(job, tile);
        return;
    }
    memset(b, 0, sizeof b);
    for (int32_t col = 0; col < w->n_col; col += t->block, scale += tile_scale_bytes(t)) {
        for (int r = 0; r < TILE_ROWS; r++) {
            int32_t row = tile * TILE_ROWS + r;
            const uint8_t *src = job->src + (size_t)row * row_bytes +
                                 (size_t)(col / t->block) * (size_t)t->bytes;
            if (row >= w->n_row)
                break;
            quant_unpack(w->type, src, &b[r]);
            __builtin_prefetch(src + 512); /* 16 streams are too many to be foreseen */
        }
        pack_scales(scale, t, b);
        for (int c = 0; c < t->block; c += 32, code += tile_code_bytes(t)) {
            for (int r = 0; r < TILE_ROWS; r++)
                for (int j = 0; j < 8; j++)
                    memcpy(&group[j][4 * r], &b[r].code[c + 4 * j], 4);
            pack_codes(code, group, t->bits);
        }
    }
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Fills in the sizes; returns the bytes of all tiles. */
static size_t layout(struct kern_weight *w)
{
    const struct quant_type *t = w->traits;
    w->n_tile = (w->n_row + TILE_ROWS - 1) / TILE_ROWS;
    w->scale_offset = (size_t)(w->n_col / 32) * tile_code_bytes(t);
    w->tile_bytes = t->bits ? w->scale_offset + (size_t)(w->n_col / t->block) * tile_scale_bytes(t)
                            : (size_t)w->n_col * TILE_ROWS * (size_t)t->bytes;
    w->tile_bytes = round_up(w->tile_bytes, TILE_VEC);
    return (size_t)w->n_tile * w->tile_bytes;
}

/* Anonymous memory at a 2 MiB border, on huge pages where the system grants them: a decode step
 * walks through all of it. */
static uint8_t *map_tiles(size_t size_bytes, size_t *ret_map_bytes)
{
    size_t huge = 2u << 20;
    if (size_bytes < huge)
        huge = 4096;
    size_t whole = round_up(size_bytes, huge) + huge;
    uint8_t *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)round_up((uintptr_t)p, huge);
    if (start != p)
        munmap(p, (size_t)(start - p));
    size_t kept = round_up(size_bytes, huge);
    if (start + kept != p + whole)
        munmap(start + kept, (size_t)(p + whole - start) - kept);
    madvise(start, kept, MADV_HUGEPAGE);
    *ret_map_bytes = kept;
    return start;
}

size_t tile_weight_size(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col)
{
    struct kern_weight w = {.traits = quant_traits(type), .n_row = n_row, .n_col = n_col};
    return layout(&w);
}

struct kern_weight *tile_weight_new(struct kern *k, enum kern_type type, int32_t n_row,
                                    int32_t n_col, const void *host)
{
    assert(kern_type_known(type) && n_row > 0 && n_col > 0 && n_col % kern_type_block(type) == 0);
    struct kern_weight *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    *w = (struct kern_weight){
        .type = type, .traits = quant_traits(type), .n_row = n_row, .n_col = n_col};
    w->tiles = map_tiles(layout(w), &w->map_bytes);
    if (!w->tiles || !matmul_reserve(k, n_col)) {
        tile_weight_free(k, w);
        return NULL;
    }
    struct repack_job job = {w, host};
    pool_run(cpu_of(k)->pool, w->n_tile, repack_tile, &job);
    return w;
}

bool tile_weight_owns(const struct kern_weight *w)
{
    return true;
}

void tile_weight_free(struct kern *k, struct kern_weight *w)
{
    if (!w)
        return;
    if (w->tiles)
        munmap(w->tiles, w->map_bytes);
    free(w);
}

static float f16_at(const uint8_t *p, int i)
{
    uint16_t h;
    memcpy(&h, p + 2 * i, 2);
    return kern_f16_to_f32(h);
}

/* Row `row` as float: what kern_dequantise gives for the original bytes, bit for bit. */
static void read_row(const struct kern_weight *w, int32_t row, float *dst)
{
    const struct quant_type *t = w->traits;
    int r = row % TILE_ROWS, n_group = t->block / t->group;
    const uint8_t *code = w->tiles + (size_t)(row / TILE_ROWS) * w->tile_bytes;
    if (t->bits == 0) {
        size_t size = (size_t)t->bytes;
        for (int32_t col = 0; col < w->n_col; col++)
            kern_dequantise(w->type, code + ((size_t)col * TILE_ROWS + r) * size, dst + col, 1);
        return;
    }
    const uint8_t *scale = code + w->scale_offset;
    for (int32_t col = 0; col < w->n_col; col += t->block, scale += tile_scale_bytes(t)) {
        float d = t->unit * f16_at(scale, r), dmin = t->has_min ? f16_at(scale, TILE_ROWS + r) : 0;
        const uint8_t *sub = scale + (t->has_min ? 4 : 2) * TILE_ROWS;
        for (int c = 0; c < t->block; c++) {
            int g = c / t->group, v = read_code(code, t->bits, r, c % 32);
            v = t->table ? t->table[v] : v - t->offset;
            int s = t->is_super ? (int8_t)sub[g * TILE_ROWS + r] : 1;
            int m = t->is_super && t->has_min ? sub[(n_group + g) * TILE_ROWS + r] : 1;
            dst[col + c] = d * (float)s * (float)v - dmin * (float)m;
            if (c % 32 == 31)
                code += tile_code_bytes(t);
        }
    }
}

void tile_embed(struct kern *k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok,
                float scale, float *dst)
{
    for (int32_t t = 0; t < n_tok; t++) {
        float *row = dst + (size_t)t * w->n_col;
        assert(ids[t] >= 0 && ids[t] < w->n_row);
        read_row(w, ids[t], row);
        for (int32_t i = 0; i < w->n_col; i++)
            row[i] *= scale;
    }
}
