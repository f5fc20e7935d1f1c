/* The fast matrix product: what its driver (matmul.c) and the instruction sets (matmul_avx2.c,
 * matmul_avx512.c, matmul_amx.c) agree on. Internal to kernels/.
 *
 * dst[t] = W x[t] is computed for up to max_tok tokens at a time. The input is quantised to 8 bits
 * with a scale per 32 columns (for types whose own codes are as fine to 16, with AVX-512 to 14 with a scale
 * per panel of 256), and laid out [group of 32 columns][token], so that a pass over the tokens with a group's
 * weights in registers reads one cache line after the other. Many tokens: a panel of a tile is unpacked once
 * into the thread's scratch and used for all of them. Few: the codes go from memory to the registers and are
 * used at once. */
#ifndef KERNELS_CPU_MATMUL_H
#define KERNELS_CPU_MATMUL_H

#include "kernels/cpu/tile.h"

enum {
    MATMUL_TOK = 512, /* tokens of one pass over the weights, at most */
    MATMUL_SLOTS = 16, /* the room for a group's tokens is a multiple of this many */
    PANEL_COLS = 256,
    PANEL_GROUPS = PANEL_COLS / 32,
    MATMUL_ITEM_TILES = 8, /* tiles that are worked on together, at most */
};

/* 32 columns of one token: x[i] is about d * q[i]. */
struct act8 {
    int8_t q[32];
    float d;
    float sum32, sum16[2]; /* d times the sum of q, of all and of each half */
    int32_t count32, count16[2]; /* minus the sum of q */
    int32_t pad;
};
_Static_assert(sizeof(struct act8) == 64, "one cache line");

/* The same in 16 bits, for AVX2. Of each 4 columns the order is 0, 2, 1, 3: pairs of even and of odd bytes
 * come out of a vector of codes by one mask and one shift. */
struct act16 {
    int16_t q[32];
    float d;
    int32_t count32;
    int32_t pad[2];
};

/* The most that 32 columns take: of a token in the narrow form and in both, and of all tokens of a pass. */
enum { ACT_NARROW_MAX = 80, ACT_BOTH_MAX = 256, ACT_GROUP_BYTES = MATMUL_TOK * 132 };

/* The input of one pass, as far as the types at hand need it. */
struct act {
    const float *x; /* row 0 of the pass */
    int32_t x_stride, n_tok, n_col;
    int32_t n_slot; /* 1, or n_tok rounded up: further slots repeat the last token */
    void *narrow;   /* 8 bits: [n_col / 32][n_slot] of struct act8, or a form of its own (AMX) */
    void *wide;     /* the same in more bits, in the instruction set's own form */
};

/* A panel of a tile, unpacked: one code per byte (or 16-bit pair), real scales. */
struct panel {
    _Alignas(64) uint8_t code[2 * PANEL_COLS * TILE_ROWS];
    float scale[2 * PANEL_GROUPS][TILE_ROWS]; /* [group] of the type's size */
    float min[2 * PANEL_GROUPS][TILE_ROWS];
};

struct matmul_isa {
    int item_tiles; /* tiles that are worked on together */
    int max_tok;    /* tokens of one pass */
    bool (*is_wide)(const struct quant_type *t); /* the input is wanted in more than 8 bits */
    /* All columns of one token, into act.narrow and act.wide. */
    void (*quantise)(const float *x, int32_t n_col, void *narrow, int32_t slot, int32_t n_slot);
    void (*quantise_wide)(const float *x, int32_t n_col, void *wide, int32_t slot, int32_t n_slot);
    void (*unpack)(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret);
    /* c[tile][slot][16] += n_tile panels times the inputs of that panel; n_col of it exist. */
    void (*gemm)(const struct kern_weight *w, const struct panel *p, int n_tile, int n_col,
                 const struct act *a, int32_t panel, float *c);
    /* Around the gemm calls of one thread for some tiles; or NULL. */
    void (*begin)(void);
    void (*end)(void);
    /* Few tokens: out[slot][16] = one tile times the inputs. */
    int gemv_tok; /* at most so many */
    void (*gemv)(const struct kern_weight *w, int32_t tile, const struct act *a, float *out);
    /* dst[16 i ..] = c[i][16] + bias + (add ? dst : 0) of n_tile whole tiles of a token; bias may be NULL. */
    void (*store)(float *dst, const float *c, size_t c_stride, int n_tile, const float *bias, bool add);
    /* F32, F16, BF16: c[tile][slot][16] = n_tile tiles from tile0 on times the inputs. */
    void (*plain)(const struct kern_weight *w, int32_t tile0, int n_tile, const struct act *a,
                  float *c);
    /* The set that takes up to few_tok tokens of a type, and plain types, with the same results; NULL =
     * none. Of products that run together, the largest few_tok counts. */
    const struct matmul_isa *few;
    int32_t (*few_tok)(const struct quant_type *t);
};

/* Makes room for the input of products with n_col columns; false when out of memory. */
bool matmul_reserve(struct kern *k, int32_t n_col);
void matmul_run(struct kern *k, const struct matmul_isa *isa, int n_mat,
                const struct kern_mat *mats, const float *x, int32_t x_stride, int32_t n_tok);

extern const struct matmul_isa matmul_avx2, matmul_avx512, matmul_amx;

#endif
