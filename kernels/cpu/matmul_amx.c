/* Inner loop of the matrix product with the tile registers of AMX, for the types and numbers of tokens
 * for which it is faster: a scale per 32 columns and no minimum, whose inputs have 14 bits (measured with
 * bench_matmul: types with minima or a scale per 16 columns spend as long on scaling as the 8-bit dot
 * products do in all).
 *
 * One instruction multiplies the inputs of 16 tokens with 16 rows of a weight, over the 32 columns of
 * a scale, in BF16 with float sums. Codes are whole numbers of at most 8 bits, which BF16 holds, an input
 * of 14 bits is two such numbers, 64 h and l, and sums of up to half of the largest there can be fit the
 * 24 bits of a float: nothing is rounded. (Larger ones take 32 codes and 32 inputs that are nearly all
 * extremes of one sign; their last bit may differ.) So the sums are the integers of
 * matmul_avx512.c, scaled and added up in the same order: the result is the same, bit for bit,
 * whichever of the two computes it. (8-bit tiles take as long, since every group of columns has a
 * scale of its own, and leave integers that have to be converted.) */
#include "kernels/cpu/matmul_codes.h"
#include "kernels/cpu/tile_regs.h"

#include <assert.h>

enum {
    TOK = MATMUL_SLOTS, /* tokens of a block: rows of a tile register */
    ROW_BYTES = 64,     /* a row of a tile register */
};

/* The input of 32 columns: BF16 [64 h, l][slot][32], then the panel's scales, float [slot]. Of each 4 columns
 * the order is 0, 2, 1, 3, as the codes come out of their bytes. */
INLINE size_t input_bytes(int32_t n_slot)
{
    return (size_t)n_slot * (2 * ROW_BYTES + 4);
}

/* 16 whole numbers that BF16 holds, of each 4 in the order 0, 2, 1, 3. */
INLINE void store_bf16(uint8_t *dst, __m512i v)
{
    __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(_mm512_cvtepi32_ps(v)), 16);
    __m256i b = _mm512_cvtepi32_epi16(bits);
    b = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(b, 0xd8), 0xd8);
    _mm256_storeu_si256((__m256i *)dst, b);
}

static void quantise_wide(const float *x, int32_t n_col, void *wide, int32_t slot, int32_t n_slot)
{
    const __m512i half = _mm512_set1_epi32(1 << (PART_BITS - 1));
    const float top = 127 << PART_BITS;
    uint8_t *dst = wide;
    float amax = 0, inverse = 0;
    for (int32_t i = 0; i < n_col; i += 32, dst += input_bytes(n_slot)) {
        if (i % PANEL_COLS == 0) {
            amax = panel_max(x + i, n_col - i);
            inverse = inverse_scale(amax, top);
        }
        uint8_t *high = dst + (size_t)slot * ROW_BYTES, *low = high + (size_t)n_slot * ROW_BYTES;
        for (int j = 0; j < 2; j++) {
            __m512 f = _mm512_mul_ps(_mm512_loadu_ps(x + i + 16 * j), _mm512_set1_ps(inverse));
            __m512i v = _mm512_cvtps_epi32(f);
            __m512i h = _mm512_srai_epi32(_mm512_add_epi32(v, half), PART_BITS);
            h = _mm512_slli_epi32(h, PART_BITS);
            store_bf16(high + 32 * j, h);
            store_bf16(low + 32 * j, _mm512_sub_epi32(v, h));
        }
        ((float *)(dst + (size_t)n_slot * 2 * ROW_BYTES))[slot] = amax / top;
    }
}

/* The value of every code of up to 5 bits in BF16. */
INLINE __m512i code_values(struct family f)
{
    int16_t value[32];
    for (int i = 0; i < 32; i++) {
        float x = (float)(f.table ? f.table[i % 16]
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
    raw.table = NULL;
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

/* Registers 0 to 3 hold sums, 4 and 5 codes, 6 and 7 inputs. */
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

/* Two tiles and two blocks of 16 tokens: every register that is loaded serves twice, and four sums are
 * on their way at once. */
struct quad {
    const struct panel *p[2];
    const uint8_t *x[2];    /* the inputs of each block: high parts of the panel's first group */
    float (*part)[TOK][TILE_ROWS]; /* [2 * block + tile]: the panel's sums */
    int32_t n_slot;
};

typedef float quad_sums[4][TOK][TILE_ROWS]; /* of one group */

/* An eighth of what a group adds to the panel's sums: sum times the scale of the codes. */
INLINE void add_rows(const struct quad *q, int g, int eighth, quad_sums sum)
{
    int i = eighth / 2;
    __m512 scale = _mm512_loadu_ps(q->p[i % 2]->scale[g]);
#pragma GCC unroll 8
    for (int t = eighth % 2 * 8; t < eighth % 2 * 8 + 8; t++) {
        float *part = q->part[i][t];
        _mm512_store_ps(part, _mm512_fmadd_ps(_mm512_load_ps(sum[i][t]), scale, _mm512_load_ps(part)));
    }
}

/* An eighth of the inputs of the group to come: they are too many for what the core looks ahead. */
INLINE void fetch_rows(const struct quad *q, size_t next, size_t low, int eighth)
{
    const uint8_t *x = q->x[eighth / 2 % 2] + next + (eighth < 4 ? 0 : low) + eighth % 2 * 8 * ROW_BYTES;
    for (int i = 0; i < 8; i++)
        _mm_prefetch((const char *)x + i * ROW_BYTES, _MM_HINT_T0);
}

#define ADD(EIGHTH)                                                                                \
    do {                                                                                           \
        fetch_rows(q, next, low, EIGHTH);                                                          \
        if (g > 0)                                                                                 \
            add_rows(q, g - 1, EIGHTH, before);                                                    \
    } while (0)

/* The products of group g; the tiles work while the vector units add up those of the group before. */
INLINE void quad_group(const struct quad *q, int g, quad_sums sum, quad_sums before)
{
    size_t at = (size_t)g * input_bytes(q->n_slot), low = (size_t)q->n_slot * ROW_BYTES;
    size_t next = at + input_bytes(q->n_slot);
    TILE_LOAD(4, q->p[0]->code + (size_t)g * 16 * ROW_BYTES, ROW_BYTES);
    TILE_LOAD(5, q->p[1]->code + (size_t)g * 16 * ROW_BYTES, ROW_BYTES);
    TILE_LOAD(6, q->x[0] + at, ROW_BYTES);
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    TILE_DOT_BF16(0, 6, 4);
    ADD(0);
    TILE_DOT_BF16(1, 6, 5);
    TILE_LOAD(7, q->x[1] + at, ROW_BYTES);
    ADD(1);
    TILE_DOT_BF16(2, 7, 4);
    ADD(2);
    TILE_DOT_BF16(3, 7, 5);
    TILE_LOAD(6, q->x[0] + at + low, ROW_BYTES);
    ADD(3);
    TILE_DOT_BF16(0, 6, 4);
    TILE_STORE(0, sum[0], ROW_BYTES);
    ADD(4);
    TILE_DOT_BF16(1, 6, 5);
    TILE_STORE(1, sum[1], ROW_BYTES);
    TILE_LOAD(7, q->x[1] + at + low, ROW_BYTES);
    ADD(5);
    TILE_DOT_BF16(2, 7, 4);
    TILE_STORE(2, sum[2], ROW_BYTES);
    ADD(6);
    TILE_DOT_BF16(3, 7, 5);
    TILE_STORE(3, sum[3], ROW_BYTES);
    ADD(7);
}

/* c += the panel's sums times the panel's scale of each token's input */
INLINE void add_panel(float (*part)[TILE_ROWS], const float *scale, float *c)
{
    for (int t = 0; t < TOK; t++, c += TILE_ROWS)
        _mm512_storeu_ps(c, _mm512_fmadd_ps(_mm512_load_ps(part[t]), _mm512_set1_ps(scale[t]),
                                            _mm512_loadu_ps(c)));
}

static void amx_gemm(const struct kern_weight *w, const struct panel *p, int n_tile, int n_col,
                     const struct act *a, int32_t panel, float *c)
{
    _Alignas(64) quad_sums sum[2];
    _Alignas(64) float part[4][TOK][TILE_ROWS];
    const uint8_t *x = (const uint8_t *)a->wide +
                       (size_t)panel * PANEL_GROUPS * input_bytes(a->n_slot);
    const float *scale = (const float *)(x + (size_t)a->n_slot * 2 * ROW_BYTES);
    int n_group = n_col / 32;
    for (int32_t tok = 0; tok < a->n_slot; tok += 2 * TOK)
        for (int tile = 0; tile < n_tile; tile += 2) {
            struct quad q = {.part = part, .n_slot = a->n_slot};
            for (int i = 0; i < 2; i++) { /* where there is no second one the first serves, for nothing */
                int32_t at = tok + i * TOK < a->n_slot ? tok + i * TOK : tok;
                q.p[i] = p + (tile + i < n_tile ? tile + i : tile);
                q.x[i] = x + (size_t)at * ROW_BYTES;
            }
            memset(part, 0, sizeof part);
            for (int g = 0; g < n_group; g++)
                quad_group(&q, g, sum[g % 2], sum[(g + 1) % 2]);
            for (int eighth = 0; eighth < 8; eighth++)
                add_rows(&q, n_group - 1, eighth, sum[(n_group - 1) % 2]);
            for (int i = 0; i < 4; i++) {
                int32_t at = tok + i / 2 * TOK, of = tile + i % 2;
                if (at < a->n_slot && of < n_tile)
                    add_panel(part[i], scale + at, c + ((size_t)of * a->n_slot + at) * TILE_ROWS);
            }
        }
}

static void amx_unpack(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret)
{
    switch (w->type) {
    case KERN_Q4_0:
        unpack(w, tile, panel, ret, (struct family){4, 32, 3, false, NULL});
        break;
    case KERN_Q5_0:
        unpack(w, tile, panel, ret, (struct family){5, 32, 4, false, NULL});
        break;
    case KERN_Q8_0:
        unpack(w, tile, panel, ret, (struct family){8, 32, 7, false, NULL});
        break;
    case KERN_IQ4_NL:
        unpack(w, tile, panel, ret, (struct family){4, 32, 0, false, quant_iq4_values});
        break;
    case KERN_MXFP4:
        unpack(w, tile, panel, ret, (struct family){4, 32, 0, false, quant_fp4_values});
        break;
    default:
        assert(w->type == KERN_IQ4_XS);
        unpack(w, tile, panel, ret, (struct family){4, 32, 0, true, quant_iq4_values});
    }
}

/* Of a single block half of the products are for nothing: measured. */
static int32_t few_tok(const struct quant_type *t)
{
    return uses_two_parts(t) ? TOK : INT32_MAX;
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
    .store = store_rows,
    .few = &matmul_avx512,
    .few_tok = few_tok,
};
