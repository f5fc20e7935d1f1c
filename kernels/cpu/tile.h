/* Weights in the order in which the fast matrix products read them: repacked once, into tiles of
 * 16 rows. Internal to kernels/.
 *
 * A tile of a block type is a stream of codes followed by a stream of scales, from column 0 on. 32 columns of a tile are eight vectors of 64 bytes:
 * byte 4r + c of vector j is the code of row r, column 4j + c, so that one dot instruction gives
 * 16 rows the product with 4 broadcast inputs. Codes keep their width in memory, as planes:
 *
 *   8 bits  eight vectors
 *   4 bits  four vectors: vector j in the low nibbles of the j-th, vector j + 4 in the high ones
 *   2 bits  two vectors: vector 4a + f in bits 2f, 2f+1 of the a-th
 *   1 bit   one vector: vector j in bit j
 *   3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, in this order, low bits first.
 *
 * The scales of a block of columns (32, or 256 for types with integer scales): d as f16 [16 rows];
 * with minima dmin as f16 [16]; and for 256: scale as int8 [group][16], min as uint8 [group][16].
 * Rows past n_row are zero.
 *
 * F32, F16 and BF16 tiles are [column][16 rows] of their elements. */
#ifndef KERNELS_CPU_TILE_H
#define KERNELS_CPU_TILE_H

#include "kernels/cpu/cpu.h"
#include "kernels/quant.h"

enum { TILE_ROWS = 16, TILE_VEC = 64 /* bytes */ };

struct kern_weight {
    enum kern_type type;
    const struct quant_type *traits;
    int32_t n_row, n_col, n_tile;
    uint8_t *tiles;                  /* [n_tile][tile_bytes] */
    size_t tile_bytes, scale_offset; /* of a tile; where its scales begin */
    size_t map_bytes;                /* of the mapping that tiles lies in */
};

/* Bytes of the codes of 32 columns, and of the scales of one block, of one tile. */
static inline size_t tile_code_bytes(const struct quant_type *t)
{
    return (size_t)t->bits * TILE_VEC;
}

static inline size_t tile_scale_bytes(const struct quant_type *t)
{
    size_t per_row = 2 + (t->has_min ? 2 : 0);
    if (t->is_super)
        per_row += (size_t)(t->block / t->group) * (t->has_min ? 2 : 1);
    return per_row * TILE_ROWS;
}

/* The values of kern_ops.weight_* and embed. */
size_t tile_weight_size(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col);
struct kern_weight *tile_weight_new(struct kern *k, enum kern_type type, int32_t n_row,
                                    int32_t n_col, const void *host);
bool tile_weight_owns(const struct kern_weight *w);
void tile_weight_free(struct kern *k, struct kern_weight *w);
void tile_embed(struct kern *k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok,
                float scale, float *dst);

#endif
