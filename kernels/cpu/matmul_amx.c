/* Inner loop of the matrix product with the tile registers of AMX, for the types and numbers of tokens
 * for which it is faster: a scale per 32 columns and no minimum, whose inputs have 13 bits (measured with
 * bench_matmul: types with minima or a scale per 16 columns spend as long on scaling as the 8-bit dot
 * products do in all).
 *
 * One instruction multiplies the inputs of 16 tokens with 16 rows of a weight, over the 32 columns of
 * a scale, in BF16 with float sums. Codes are whole numbers of at most 8 bits, which BF16 holds, an input
 * of 13 bits is two such numbers, 32 h and l, and their sums fit the 24 bits of a float: nothing is
 * rounded. So the sums are the integers of
 * matmul_avx512.c, scaled and added up in the same order: the result is the same, bit for bit,
 * whichever of the two computes it. (8-bit tiles take as long, since every group of columns has a
 * scale of its own, and leave integers that have to be converted.) */
#include "kernels/cpu/matmul_codes.h"
#include "kernels/cpu/tile_regs.h"

#include <assert.h>

enum {
    TOK = MATMUL_SLOTS, /* tokens of a block: rows of a tile register */
    ROW_BYTES = 64,     /* a row of a tile register */
    SUM_BYTES = TOK * ROW_BYTES,
};

/* The input of 32 columns: BF16 [32 h, l][slot][32], then the scales, float [slot]. Of each 4 columns
 * the order is 0, 2, 1, 3, as the codes come out of their bytes. */
INLINE size_t input_bytes(int32_t n_slot)
{
    return (size_t)n_slot * (2 * ROW_BYTES + 4);
}

INLINE void store_bf16(uint8_t *dst, const __m256i v[4])
{
    for (int i = 0; i < 2; i++) {
        __m256i a = _mm256_castps_si256(_mm256_cvtepi32_ps(v[2 * i]));
        __m256i b = _mm256_castps_si256(_mm256_cvtepi32_ps(v[2 * i + 1]));
        a = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
        a = _mm256_permute4x64_epi64(a, 0xd8);
        a = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(a, 0xd8), 0xd8);
        _mm256_storeu_si256((__m256i *)dst + i, a);
    }
}

static void quantise_wide(const float *x, int32_t n_col, void *wide, int32_t slot, int32_t n_slot)
{
    uint8_t *dst = wide;
    for (int32_t i = 0; i < n_col; i += 32, dst += input_bytes(n_slot)) {
        float *scale = (float *)(dst + (size_t)n_slot * 2 * ROW_BYTES);
        __m256i v[4], low[4];
        scale[slot] = scale_group(x + i, TWO_PARTS_MAX, v);
        for (int j = 0; j < 4; j++) {
            __m256i high = high_part(v[j]);
            low[j] = low_part(v[j], high);
            v[j] = _mm256_slli_epi32(high, PART_BITS);
        }
        store_bf16(dst + (size_t)slot * ROW_BYTES, v);
        store_bf16(dst + (size_t)(n_slot + slot) * ROW_BYTES, low);
    }
}

/* The value of every code of up to 5 bits in BF16. */
INLINE __m512i code_values(struct family f)
{
    int16_t value[32];
    for (int i = 0; i < 32; i++) {
        float x = (float)(f.is_codebook ? quant_iq4_values[i % 16]
                                        : i % (1 << f.bits) - (1 << f.shift));
        uint32_t bits;
        memcpy(&bits, &x, 4);
        value[i] = (int16_t)(bits >> 16);
    }
    return load(value);
}

/* The low bytes of 16-bit pairs as BF16; value: of codes of up to 5 bits. */
INLINE __m512i low_bytes(__m512i v, __m512i value, struct family f)
{
    if (f.bits <= 5)
        return _mm512_permutexvar_epi16(v, value); /* looks at 5 bits of each pair */
    const __m512i byte = _mm512_set1_epi32(255), offset = _mm512_set1_epi32(1 << f.shift);
    __m512i even = _mm512_sub_epi32(_mm512_and_si512(v, byte), offset);
    __m512i odd = _mm512_sub_epi32(_mm512_and_si512(_mm512_srli_epi32(v, 16), byte), offset);
    even = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(even)), 16);
    return _mm512_or_si512(even, _mm512_castps_si512(_mm512_cvtepi32_ps(odd)));
}

/* A row of the panel is two columns (of the order above) of the 16 rows of the weight. */
INLINE void unpack(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret,
                   struct family f)
{
    struct family raw = f;
    raw.is_codebook = false;
    const __m512i value = code_values(f);
    const uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = code + w->scale_offset;
    int n_group = (w->n_col - panel * PANEL_COLS) / 32;
    n_group = n_group < PANEL_GROUPS ? n_group : PANEL_GROUPS;
    code += (size_t)panel * PANEL_GROUPS * TILE_VEC * (size_t)f.bits;
    scale += (size_t)panel * scale_block_bytes(f) * (f.is_super ? 1 : PANEL_GROUPS);
    for (int g = 0; g < n_group; g++, code += f.bits * TILE_VEC)
        for (int j = 0; j < 8; j++) {
            __m512i v = load_codes(code, raw, j);
            uint8_t *row = ret->code + (g * 8 + j) * 2 * ROW_BYTES;
            _mm512_store_si512(row, low_bytes(v, value, f));
            _mm512_store_si512(row + ROW_BYTES, low_bytes(_mm512_srli_epi16(v, 8), value, f));
        }
    for (int g = 0; g < n_group; g++) {
        _mm512_storeu_ps(ret->scale[g], group_scale(scale, f, g));
        if (!f.is_super)
            scale += scale_block_bytes(f);
    }
}

/* Registers 0 and 1 hold sums, 2 to 5 inputs, 6 and 7 codes. */
static void amx_begin(void)
{
    const struct tile_shape whole = {TOK, ROW_BYTES};
    tile_configure(
        (struct tile_shape[TILE_REGS]){whole, whole, whole, whole, whole, whole, whole, whole});
}

static void amx_end(void)
{
    TILE_RELEASE();
}

#define DOTS(SUM, INPUT_0, INPUT_1, CODES)                                                         \
    do {                                                                                           \
        TILE_LOAD(INPUT_0, x, ROW_BYTES);                                                          \
        TILE_LOAD(CODES, code, ROW_BYTES);                                                         \
        TILE_ZERO(SUM);                                                                            \
        TILE_DOT_BF16(SUM, INPUT_0, CODES);                                                        \
        TILE_LOAD(INPUT_1, x + part_bytes, ROW_BYTES);                                             \
        TILE_DOT_BF16(SUM, INPUT_1, CODES);                                                        \
        TILE_STORE(SUM, ret, ROW_BYTES);                                                           \
    } while (0)

/* ret[tok][16]: the products of one group of columns; by turns with one half of the registers and
 * the other. */
INLINE void dots(const uint8_t *x, size_t part_bytes, const uint8_t *code, uint8_t *ret, int turn)
{
    if (turn == 0)
        DOTS(0, 2, 3, 6);
    else
        DOTS(1, 4, 5, 7);
}

/* acc[tok] += the sums of a group, scaled. */
INLINE void add_scaled(const float *weight_scale, const float *input_scale, const uint8_t *sum,
                       __m512 acc[TOK])
{
    __m512 scale = _mm512_loadu_ps(weight_scale);
#pragma GCC unroll 16
    for (int t = 0; t < TOK; t++) {
        __m512 s = _mm512_mul_ps(_mm512_set1_ps(input_scale[t]), scale);
        acc[t] = _mm512_fmadd_ps(_mm512_load_ps(sum + t * ROW_BYTES), s, acc[t]);
    }
}

/* A block of 16 tokens and a tile: c[tok][16] += the panel times the inputs x, those of token tok. */
struct block {
    const struct panel *p;
    const uint8_t *x;
    int32_t tok;
    float *c;
};

INLINE void block_dots(const struct block *b, int g, int32_t n_slot, uint8_t *ret, int turn)
{
    dots(b->x + (size_t)b->tok * ROW_BYTES + (size_t)g * input_bytes(n_slot),
         (size_t)n_slot * ROW_BYTES, b->p->code + (size_t)g * 16 * ROW_BYTES, ret, turn);
}

/* Computes block b, whose first group's sums are in sum[0], and those of block `next`, if any. */
INLINE void gemm_block(const struct block *b, const struct block *next, int n_group, int32_t n_slot,
                       uint8_t sum[2][SUM_BYTES])
{
    __m512 acc[TOK];
    const uint8_t *scale = b->x + (size_t)n_slot * ROW_BYTES * 2;
#pragma GCC unroll 16
    for (int t = 0; t < TOK; t++)
        acc[t] = _mm512_loadu_ps(b->c + t * TILE_ROWS);
    for (int g0 = 0; g0 < n_group; g0 += 2) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++, scale += input_bytes(n_slot)) {
            int g = g0 + j;
            if (g == n_group)
                break;
            /* The tiles work on the group to come while this one is scaled. */
            if (g + 1 < n_group)
                block_dots(b, g + 1, n_slot, sum[!j], !j);
            else if (next && j == 1)
                block_dots(next, 0, n_slot, sum[0], 0);
            add_scaled(b->p->scale[g], (const float *)scale + b->tok, sum[j], acc);
        }
    }
    if (next && n_group % 2)
        block_dots(next, 0, n_slot, sum[0], 0);
#pragma GCC unroll 16
    for (int t = 0; t < TOK; t++)
        _mm512_storeu_ps(b->c + t * TILE_ROWS, acc[t]);
}

static void amx_gemm(const struct kern_weight *w, const struct panel *p, int n_tile, int n_col,
                     const struct act *a, int32_t panel, float *c)
{
    _Alignas(64) uint8_t sum[2][SUM_BYTES];
    const uint8_t *x = (const uint8_t *)a->wide +
                       (size_t)panel * PANEL_GROUPS * input_bytes(a->n_slot);
    struct block b = {p, x, 0, c};
    block_dots(&b, 0, a->n_slot, sum[0], 0);
    for (int32_t i = 1; i <= n_tile * a->n_slot / TOK; i++) {
        int32_t tile = i % n_tile, tok = i / n_tile * TOK;
        struct block next = {p + tile, x, tok, c + ((size_t)tile * a->n_slot + tok) * TILE_ROWS};
        gemm_block(&b, tok < a->n_tok ? &next : NULL, n_col / 32, a->n_slot, sum);
        b = next;
    }
}

static void amx_unpack(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret)
{
    switch (w->type) {
    case KERN_Q4_0:
        unpack(w, tile, panel, ret, (struct family){4, 32, 3, false, false});
        break;
    case KERN_Q5_0:
        unpack(w, tile, panel, ret, (struct family){5, 32, 4, false, false});
        break;
    case KERN_Q8_0:
        unpack(w, tile, panel, ret, (struct family){8, 32, 7, false, false});
        break;
    case KERN_IQ4_NL:
        unpack(w, tile, panel, ret, (struct family){4, 32, 0, false, true});
        break;
    default:
        assert(w->type == KERN_IQ4_XS);
        unpack(w, tile, panel, ret, (struct family){4, 32, 0, true, true});
    }
}

/* Below this the panels take longer to unpack than the tiles save: measured. */
static int32_t few_tok(const struct quant_type *t)
{
    return uses_two_parts(t) ? 12 : INT32_MAX;
}

const struct matmul_isa matmul_amx = {
    .item_tiles = MATMUL_ITEM_TILES,
    .max_tok = MATMUL_TOK, /* unpacking is a tenth of the time with a fourth of them */
    .is_wide = uses_two_parts,
    .quantise_wide = quantise_wide,
    .unpack = amx_unpack,
    .gemm = amx_gemm,
    .begin = amx_begin,
    .end = amx_end,
    .few = &matmul_avx512,
    .few_tok = few_tok,
};
