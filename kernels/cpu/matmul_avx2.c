/* Inner loops of the matrix product with AVX2.
 *
 * Codes of up to 6 bits: maddubs multiplies unsigned codes with signed 8-bit inputs and adds
 * pairs in 16 bits. As many such sums as cannot overflow (|input| <= 127) are added in 16 bits
 * before they are widened: 8 for codes up to 15 (8*2*15*127 = 30480), 4 up to 31, 2 up to 63, 1 up to 127.
 * Codes of 8 bits (and the codebook's values, moved to be positive) would overflow at once: they
 * are multiplied in 16 bits with 16-bit inputs, which costs the same and is more exact.
 *
 * One function per step, specialised by constant arguments for each family of types. */
#include "kernels/cpu/matmul_flow.h"

/* Fixes a sum where it stands: compilers regroup integer sums so that all products come first, and
 * run out of registers. */
#define KEEP(v) __asm__ volatile("" : "+x"(v))

INLINE bool is_wide(struct family f)
{
    return f.bits == 8 || (f.table && !f.shift);
}

/* Products that may be added in 16 bits. */
INLINE int run_length(struct family f)
{
    int bits = f.table ? f.shift + 1 : f.bits;
    return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
}

static bool uses_act16(const struct quant_type *t)
{
    return t->bits == 8 || (t->table && !quant_is_grid(t));
}

INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

INLINE __m256i broadcast32(const void *p)
{
    int v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

INLINE __m256 load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m256 load_s8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

INLINE __m256 load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

/* Bits shift.. of every byte; shifting 16 at a time is right because of the mask. */
INLINE __m256i field(__m256i v, int shift, int mask)
{
    return _mm256_and_si256(_mm256_srli_epi16(v, shift), _mm256_set1_epi8((char)mask));
}

/* Vector j (0..7), rows 8*half..: one code per byte. */
INLINE __m256i load_codes(const uint8_t *code, struct family f, int j, int half)
{
    code += 32 * half;
    if (f.bits == 8)
        return load(code + j * TILE_VEC);
    __m256i v;
    int low = f.bits >= 4 ? 4 : 2;
    if (low == 4)
        v = field(load(code + j % 4 * TILE_VEC), j / 4 * 4, 15);
    else
        v = field(load(code + j / 4 * TILE_VEC), j % 4 * 2, 3);
    code += low * TILE_VEC;
    if (f.bits - low == 2) {
        __m256i high = field(load(code + j / 4 * TILE_VEC), j % 4 * 2, 3);
        v = _mm256_or_si256(v, _mm256_slli_epi16(high, low));
    } else if (f.bits - low == 1) {
        __m256i high = field(load(code), j, 1);
        v = _mm256_or_si256(v, _mm256_slli_epi16(high, low));
    }
    if (f.table)
        v = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(unsigned_table(f)), v);
    return v;
}

/* Real scale and minimum of group g of a block. The products are exact: 11 bits times 8. */
INLINE __m256 group_scale(const uint8_t *scale, struct family f, int g, int half)
{
    __m256 d = load_f16(scale + 16 * half);
    if (f.unit != 0)
        d = _mm256_mul_ps(d, _mm256_set1_ps(f.unit));
    if (!f.is_super)
        return d;
    const uint8_t *sub = scale + (f.shift || f.table ? 2 : 4) * TILE_ROWS;
    return _mm256_mul_ps(d, load_s8(sub + g * TILE_ROWS + 8 * half));
}

INLINE __m256 group_min(const uint8_t *scale, struct family f, int g, int half)
{
    __m256 d = load_f16(scale + 2 * TILE_ROWS + 16 * half);
    if (!f.is_super)
        return d;
    const uint8_t *sub = scale + (4 + PANEL_COLS / f.group) * TILE_ROWS;
    return _mm256_mul_ps(d, load_u8(sub + g * TILE_ROWS + 8 * half));
}

INLINE void unpack(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret,
                   struct family f)
{
    const uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = code + w->scale_offset;
    int n_group = (w->n_col - panel * PANEL_COLS) / 32;
    n_group = n_group < PANEL_GROUPS ? n_group : PANEL_GROUPS;
    code += (size_t)panel * PANEL_GROUPS * TILE_VEC * (size_t)f.bits;
    scale += (size_t)panel * scale_block_bytes(f) * (f.is_super ? 1 : PANEL_GROUPS);
    __m256i *out = (__m256i *)ret->code;
    for (int g = 0; g < n_group; g++, code += f.bits * TILE_VEC) {
        for (int j = 0; j < 8; j++) {
            __m256i v[2] = {load_codes(code, f, j, 0), load_codes(code, f, j, 1)};
            for (int odd = 0; odd < (is_wide(f) ? 2 : 1); odd++)
                for (int half = 0; half < 2; half++)
                    *out++ = !is_wide(f) ? v[half]
                             : odd       ? _mm256_srli_epi16(v[half], 8)
                                         : _mm256_and_si256(v[half], _mm256_set1_epi16(255));
        }
    }
    int n_scale = n_group * 32 / f.group;
    for (int g = 0; g < n_scale; g++)
        for (int half = 0; half < 2; half++) {
            _mm256_storeu_ps(&ret->scale[g][8 * half], group_scale(scale, f, g, half));
            if (has_min(f))
                _mm256_storeu_ps(&ret->min[g][8 * half], group_min(scale, f, g, half));
            if (!f.is_super && half == 1)
                scale += scale_block_bytes(f);
        }
}

/* Sums of n vectors of codes times 4n inputs, per row. */
INLINE __m256i dot8(const __m256i *v, const int8_t *q, int n, int run)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum = _mm256_setzero_si256();
    for (int j = 0; j < n; j += run) {
        __m256i s16 = _mm256_maddubs_epi16(v[j], broadcast32(q + 4 * j));
        for (int i = 1; i < run && i < n; i++)
            s16 = _mm256_add_epi16(s16, _mm256_maddubs_epi16(v[j + i], broadcast32(q + 4 * (j + i))));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(s16, ones));
    }
    return sum;
}

/* c[tok][16] += 32 columns of a tile for n_tok (a constant) tokens. Two registers hold the codes of
 * 16 rows, every input is broadcast once for both, and the sums of all tokens stay in registers. */
INLINE void gemm8_group(const uint8_t *code, const float (*scale)[TILE_ROWS],
                        const float (*min)[TILE_ROWS], const struct act8 *x, int n_tok, float *c,
                        struct family f)
{
    enum { MAX_TOK = 4 };
    const __m256i ones = _mm256_set1_epi16(1);
    int run = run_length(f) < f.group / 4 ? run_length(f) : f.group / 4;
    for (int part = 0; part < 32 / f.group; part++, scale++, min++) {
        __m256i sum[MAX_TOK][2];
        for (int i = 0; i < f.group / 4; i += run) {
            __m256i s16[MAX_TOK][2];
#pragma GCC unroll 8
            for (int k = 0; k < run; k++) {
                int j = part * f.group / 4 + i + k;
                __m256i v0 = load(code + j * TILE_VEC), v1 = load(code + j * TILE_VEC + 32);
                for (int t = 0; t < n_tok; t++) {
                    __m256i b = broadcast32(x[t].q + 4 * j);
                    __m256i p0 = _mm256_maddubs_epi16(v0, b), p1 = _mm256_maddubs_epi16(v1, b);
                    s16[t][0] = k ? _mm256_add_epi16(s16[t][0], p0) : p0;
                    KEEP(s16[t][0]);
                    s16[t][1] = k ? _mm256_add_epi16(s16[t][1], p1) : p1;
                    KEEP(s16[t][1]);
                }
            }
            for (int t = 0; t < n_tok; t++)
                for (int half = 0; half < 2; half++) {
                    __m256i wide = _mm256_madd_epi16(s16[t][half], ones);
                    sum[t][half] = i ? _mm256_add_epi32(sum[t][half], wide) : wide;
                }
        }
        for (int t = 0; t < n_tok; t++) {
            __m256 d = _mm256_broadcast_ss(&x[t].d);
            for (int half = 0; half < 2; half++) {
                float *out = c + t * TILE_ROWS + 8 * half;
                __m256 acc = _mm256_loadu_ps(out);
                __m256i dot = sum[t][half];
                if (has_min(f)) {
                    const float *xs = f.group == 16 ? &x[t].sum16[part] : &x[t].sum32;
                    acc = _mm256_fnmadd_ps(_mm256_loadu_ps(&(*min)[8 * half]),
                                           _mm256_broadcast_ss(xs), acc);
                } else {
                    const int32_t *count = f.group == 16 ? &x[t].count16[part] : &x[t].count32;
                    dot = _mm256_add_epi32(dot, _mm256_slli_epi32(broadcast32(count), f.shift));
                }
                __m256 s = _mm256_mul_ps(d, _mm256_loadu_ps(&(*scale)[8 * half]));
                _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), s, acc));
            }
        }
    }
}

/* The same for codes and inputs in 16 bits: 64 bytes are two columns of 16 rows. */
INLINE void gemm16_group(const uint8_t *code, const float *scale, const struct act16 *x, int n_tok,
                         float *c)
{
    enum { MAX_TOK = 4 };
    __m256i sum[MAX_TOK][2];
    for (int t = 0; t < n_tok; t++)
        sum[t][0] = sum[t][1] = _mm256_slli_epi32(broadcast32(&x[t].count32), 7);
    for (int j = 0; j < 16; j++) {
        __m256i v0 = load(code + j * TILE_VEC), v1 = load(code + j * TILE_VEC + 32);
        for (int t = 0; t < n_tok; t++) {
            __m256i b = broadcast32(x[t].q + 2 * j);
            sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(v0, b));
            sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(v1, b));
            KEEP(sum[t][0]);
            KEEP(sum[t][1]);
        }
    }
    for (int t = 0; t < n_tok; t++) {
        __m256 d = _mm256_broadcast_ss(&x[t].d);
        for (int half = 0; half < 2; half++) {
            float *out = c + t * TILE_ROWS + 8 * half;
            __m256 s = _mm256_mul_ps(d, _mm256_loadu_ps(scale + 8 * half));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[t][half]), s,
                                                  _mm256_loadu_ps(out)));
        }
    }
}

INLINE const struct act8 *act8_at(const struct act *a, size_t i)
{
    return (const struct act8 *)a->narrow + i;
}

INLINE const struct act16 *act16_at(const struct act *a, size_t i)
{
    return (const struct act16 *)a->wide + i;
}

INLINE void gemm_group(const struct panel *p, int g, const struct act *a, size_t at, int n_tok,
                       float *c, struct family f)
{
    int sub = g * (32 / f.group);
    if (is_wide(f))
        gemm16_group(p->code + g * 16 * TILE_VEC, p->scale[g], act16_at(a, at), n_tok, c);
    else
        gemm8_group(p->code + g * 8 * TILE_VEC, &p->scale[sub], &p->min[sub], act8_at(a, at), n_tok,
                    c, f);
}

INLINE void gemm(const struct panel *p, int n_tile, int n_col, const struct act *a, int32_t panel,
                 float *c, struct family f)
{
    for (int i = 0; i < n_tile; i++, p++, c += (size_t)a->n_slot * TILE_ROWS)
        for (int g = 0; g < n_col / 32; g++) {
            size_t at = (size_t)(panel * PANEL_GROUPS + g) * a->n_slot;
            int t = 0;
            for (; t + 4 <= a->n_tok; t += 4)
                gemm_group(p, g, a, at + t, 4, c + t * TILE_ROWS, f);
            for (; t < a->n_tok; t++)
                gemm_group(p, g, a, at + t, 1, c + t * TILE_ROWS, f);
        }
}

/* Adds 32 columns of 8 rows for one token to acc; g: group of the block. The order of the float
 * operations is that of gemm: a token's result may not depend on what came with it. */
INLINE __m256 gemv8_group(const uint8_t *code, const uint8_t *scale, const struct act8 *x, int g,
                          int half, struct family f, __m256 acc)
{
    __m256i v[8];
    for (int j = 0; j < 8; j++)
        v[j] = load_codes(code, f, j, half);
    __m256 d = _mm256_broadcast_ss(&x->d);
    for (int part = 0; part < 32 / f.group; part++) {
        int sub = g * (32 / f.group) + part;
        __m256i dot = dot8(v + part * 4, x->q + part * 16, f.group / 4, run_length(f));
        if (has_min(f)) {
            const float *xs = f.group == 16 ? &x->sum16[part] : &x->sum32;
            acc = _mm256_fnmadd_ps(group_min(scale, f, sub, half), _mm256_broadcast_ss(xs), acc);
        } else {
            const int32_t *count = f.group == 16 ? &x->count16[part] : &x->count32;
            dot = _mm256_add_epi32(dot, _mm256_slli_epi32(broadcast32(count), f.shift));
        }
        __m256 s = _mm256_mul_ps(d, group_scale(scale, f, sub, half));
        acc = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), s, acc);
    }
    return acc;
}

INLINE __m256 gemv16_group(const uint8_t *code, const uint8_t *scale, const struct act16 *x, int g,
                           int half, struct family f, __m256 acc)
{
    __m256i dot = _mm256_slli_epi32(broadcast32(&x->count32), 7);
    for (int j = 0; j < 8; j++) {
        __m256i v = load_codes(code, f, j, half);
        __m256i even = _mm256_and_si256(v, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(v, 8);
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(even, broadcast32(x->q + 4 * j)));
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(odd, broadcast32(x->q + 4 * j + 2)));
    }
    __m256 s = _mm256_mul_ps(_mm256_broadcast_ss(&x->d), group_scale(scale, f, g, half));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), s, acc);
}

INLINE void gemv(const struct kern_weight *w, int32_t tile, const struct act *a, float *out,
                 struct family f)
{
    const uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = code + w->scale_offset;
    int32_t n_group = a->n_col / 32, block_groups = f.is_super ? PANEL_GROUPS : 1;
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int32_t g0 = 0; g0 < n_group; g0 += block_groups, scale += scale_block_bytes(f)) {
        prefetch_scales(scale, w->tile_bytes, 1, f);
        for (int g = 0; g < block_groups; g++, code += f.bits * TILE_VEC) {
            prefetch(code + PREFETCH_BYTES, f.bits);
            for (int half = 0; half < 2; half++)
                acc[half] = is_wide(f) ? gemv16_group(code, scale, act16_at(a, (size_t)(g0 + g)), g, half,
                                                      f, acc[half])
                                       : gemv8_group(code, scale, act8_at(a, (size_t)(g0 + g)), g, half, f,
                                                     acc[half]);
        }
    }
    _mm256_storeu_ps(out, acc[0]);
    _mm256_storeu_ps(out + 8, acc[1]);
}

static void avx2_unpack(const struct kern_weight *w, int32_t tile, int32_t panel,
                        struct panel *ret)
{
    EACH_FAMILY(w->type, unpack, w, tile, panel, ret)
}

static void avx2_gemm(const struct kern_weight *w, const struct panel *p, int n_tile, int n_col,
                      const struct act *a, int32_t panel, float *c)
{
    EACH_FAMILY(w->type, gemm, p, n_tile, n_col, a, panel, c)
}

static void avx2_gemv(const struct kern_weight *w, int32_t tile, const struct act *a, float *out)
{
    EACH_FAMILY(w->type, gemv, w, tile, a, out)
}

static void quantise16(const float *x, int32_t n_col, void *wide, int32_t slot, int32_t n_slot)
{
    struct act16 *ret = (struct act16 *)wide + slot;
    const __m256i swap =
        _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2, 3, 6,
                         7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (int32_t i = 0; i < n_col; i += 32, ret += n_slot) {
        __m256i v[4], sum = _mm256_setzero_si256();
        ret->d = scale_group(x + i, max_abs(x + i, 32), 32767, v);
        for (int j = 0; j < 4; j++)
            sum = _mm256_add_epi32(sum, v[j]);
        ret->count32 = -sum8(sum);
        for (int j = 0; j < 2; j++) {
            __m256i b = _mm256_packs_epi32(v[2 * j], v[2 * j + 1]);
            b = _mm256_permute4x64_epi64(b, 0xd8);
            _mm256_storeu_si256((__m256i *)(ret->q + 16 * j), _mm256_shuffle_epi8(b, swap));
        }
    }
}

#define FLOW_LANES 8
typedef __m256 flow_vec;
#define flow_load _mm256_loadu_ps
#define flow_store _mm256_storeu_ps
#define flow_set1 _mm256_set1_ps
#define flow_fma _mm256_fmadd_ps
#define flow_load_f16 load_f16

INLINE __m256 flow_load_bf16(const uint8_t *p)
{
    __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

#include "kernels/cpu/plain_flow.h"

const struct matmul_isa matmul_avx2 = {
    .item_tiles = 4,
    .max_tok = 128,
    .is_wide = uses_act16,
    .quantise = quantise8,
    .quantise_wide = quantise16,
    .unpack = avx2_unpack,
    .gemm = avx2_gemm,
    .gemv = avx2_gemv,
    .gemv_tok = 1,
    .store = store_rows,
    .plain = plain_run,
};
