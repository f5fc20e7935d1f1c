/* Inner loops of the matrix product with AVX-512 and its 8-bit dot product (VNNI).
 *
 * One dot instruction multiplies four unsigned codes of each of 16 rows with four signed 8-bit
 * inputs, broadcast, and adds up in 32 bits. Nothing can overflow, so codes of every width take
 * the same path; offsets are in the starting value of the sums, as minus offset times the sum of
 * the inputs. Types whose codes are finer than an input of 8 bits (8-bit codes, the codebook's
 * values) take it in 14, as two 8-bit parts: two dot products, the sum of the first moved up, still
 * exact. With few tokens the codes are used as they come from memory and all sums of up to 8 tokens stay
 * in registers; with many, two unpacked tiles share every broadcast. */
#include "kernels/cpu/matmul_codes.h"

INLINE void unpack(const struct kern_weight *w, int32_t tile, int32_t panel, struct panel *ret,
                   struct family f)
{
    const uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = code + w->scale_offset;
    int n_group = (w->n_col - panel * PANEL_COLS) / 32;
    n_group = n_group < PANEL_GROUPS ? n_group : PANEL_GROUPS;
    code += (size_t)panel * PANEL_GROUPS * TILE_VEC * (size_t)f.bits;
    scale += (size_t)panel * scale_block_bytes(f) * (f.is_super ? 1 : PANEL_GROUPS);
    for (int g = 0; g < n_group; g++, code += f.bits * TILE_VEC) {
        prefetch(code + PANEL_GROUPS * f.bits * TILE_VEC, f.bits); /* of the tile's next panel */
        for (int j = 0; j < 8; j++)
            _mm512_store_si512(ret->code + (g * 8 + j) * TILE_VEC, load_codes(code, f, j));
    }
    for (int g = 0; g < n_group * 32 / f.group; g++) {
        _mm512_storeu_ps(ret->scale[g], group_scale(scale, f, g));
        if (has_min(f))
            _mm512_storeu_ps(ret->min[g], group_min(scale, f, g));
        if (!f.is_super)
            scale += scale_block_bytes(f);
    }
}

static void quantise_pairs(const float *x, int32_t n_col, void *wide, int32_t slot, int32_t n_slot)
{
    struct act8 *ret = (struct act8 *)wide + 2 * slot;
    float amax = 0;
    for (int32_t i = 0; i < n_col; i += 32, ret += 2 * n_slot) {
        if (i % PANEL_COLS == 0)
            amax = panel_max(x + i, n_col - i);
        quantise_group(x + i, amax, PART_BITS, ret);
    }
}

INLINE const struct act8 *input_at(const struct act *a, size_t i, struct family f)
{
    const struct act8 *x = act_parts(f) == 2 ? a->wide : a->narrow;
    return x + i * (size_t)act_parts(f);
}

/* What the sum of a group of x starts with. */
INLINE __m512i start(const struct act8 *x, int part, struct family f)
{
    if (has_min(f))
        return _mm512_setzero_si512();
    const int32_t *count = f.group == 16 ? &x->count16[part] : &x->count32;
    return _mm512_slli_epi32(broadcast32(count), (unsigned)offset_shift(f));
}

/* c[tile][tok][16] += group g of a panel of n_tile tiles for n_tok tokens, both constants. */
INLINE void gemm_group(const struct panel *p, int g, const struct act8 *x, int n_tile, int n_tok,
                       float *c, size_t c_tile, struct family f)
{
    enum { MAX_TOK = 8, MAX_TILE = 2 };
    int parts = act_parts(f);
    for (int part = 0; part < 32 / f.group; part++) {
        int sub = g * (32 / f.group) + part, first = part * f.group / 4;
        __m512i sum[MAX_TILE][MAX_TOK];
        for (int t = 0; t < n_tok; t++)
            for (int i = 0; i < n_tile; i++)
                sum[i][t] = parts == 2 ? _mm512_setzero_si512() : start(&x[t], part, f);
#pragma GCC unroll 2
        for (int q = 0; q < parts; q++) {
            for (int t = 0; q == 1 && t < n_tok; t++)
                for (int i = 0; i < n_tile; i++)
                    sum[i][t] = _mm512_add_epi32(_mm512_slli_epi32(sum[i][t], PART_BITS),
                                                 start(&x[2 * t], part, f));
#pragma GCC unroll 8 /* rolled, the sums are moved about in every round */
            for (int j = first; j < first + f.group / 4; j++) {
                __m512i v[MAX_TILE];
                for (int i = 0; i < n_tile; i++)
                    v[i] = load(p[i].code + (g * 8 + j) * TILE_VEC);
                for (int t = 0; t < n_tok; t++) {
                    __m512i b = broadcast32(x[t * parts + q].q + 4 * j);
                    for (int i = 0; i < n_tile; i++)
                        sum[i][t] = _mm512_dpbusd_epi32(sum[i][t], v[i], b);
                }
            }
        }
        for (int i = 0; i < n_tile; i++) {
            __m512 scale = _mm512_loadu_ps(p[i].scale[sub]), min = scale;
            if (has_min(f))
                min = _mm512_loadu_ps(p[i].min[sub]);
            for (int t = 0; t < n_tok; t++) {
                float *out = c + i * c_tile + t * TILE_ROWS;
                __m512 acc = _mm512_loadu_ps(out);
                if (has_min(f)) {
                    const struct act8 *xt = &x[t * parts];
                    float xs = f.group == 16 ? xt->sum16[part] : xt->sum32;
                    acc = _mm512_fnmadd_ps(min, _mm512_set1_ps(xs), acc);
                }
                __m512 s = scale;
                if (parts == 1)
                    s = _mm512_mul_ps(_mm512_set1_ps(x[t].d), scale);
                _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][t]), s, acc));
            }
        }
    }
}

/* Two parts: the sums of n_tok tokens over the panel, times the panel's scale of the input. A token's next
 * group is `stride` behind. */
INLINE void gemm_panel(const struct panel *p, int n_tile, int n_group, const struct act8 *x, int32_t stride,
                       int n_tok, float *c, size_t c_tile, struct family f)
{
    enum { MAX_TOK = 8, MAX_TILE = 2, PART_TILE = MAX_TOK * TILE_ROWS };
    float part[MAX_TILE * PART_TILE] = {0};
    for (int g = 0; g < n_group; g++)
        gemm_group(p, g, x + (size_t)g * (size_t)stride, n_tile, n_tok, part, PART_TILE, f);
    for (int i = 0; i < n_tile; i++)
        for (int t = 0; t < n_tok; t++) {
            float *out = c + i * c_tile + t * TILE_ROWS;
            __m512 sum = _mm512_loadu_ps(part + i * PART_TILE + t * TILE_ROWS);
            __m512 d = _mm512_set1_ps(x[2 * t].d);
            _mm512_storeu_ps(out, _mm512_fmadd_ps(sum, d, _mm512_loadu_ps(out)));
        }
}

INLINE void gemm_tiles(const struct panel *p, int n_tile, int n_col, const struct act *a,
                       int32_t panel, float *c, struct family f)
{
    size_t c_tile = (size_t)a->n_slot * TILE_ROWS;
    const struct act8 *x = input_at(a, (size_t)panel * PANEL_GROUPS * (size_t)a->n_slot, f);
    int32_t n_group = n_col / 32, stride = a->n_slot * act_parts(f);
    if (act_parts(f) == 2) {
        int32_t t = 0;
        for (; t + 8 <= a->n_tok; t += 8)
            gemm_panel(p, n_tile, n_group, x + t * 2, stride, 8, c + t * TILE_ROWS, c_tile, f);
        for (; t + 2 <= a->n_tok; t += 2)
            gemm_panel(p, n_tile, n_group, x + t * 2, stride, 2, c + t * TILE_ROWS, c_tile, f);
        if (t < a->n_tok)
            gemm_panel(p, n_tile, n_group, x + t * 2, stride, 1, c + t * TILE_ROWS, c_tile, f);
        return;
    }
    for (int g = 0; g < n_group; g++, x += stride) {
        int32_t t = 0;
        for (; t + 8 <= a->n_tok; t += 8)
            gemm_group(p, g, x + t, n_tile, 8, c + t * TILE_ROWS, c_tile, f);
        for (; t + 2 <= a->n_tok; t += 2)
            gemm_group(p, g, x + t, n_tile, 2, c + t * TILE_ROWS, c_tile, f);
        if (t < a->n_tok)
            gemm_group(p, g, x + t, n_tile, 1, c + t * TILE_ROWS, c_tile, f);
    }
}

INLINE void gemm(const struct panel *p, int n_tile, int n_col, const struct act *a, int32_t panel,
                 float *c, struct family f)
{
    size_t c_tile = (size_t)a->n_slot * TILE_ROWS;
    int i = 0;
    for (; i + 2 <= n_tile; i += 2)
        gemm_tiles(p + i, 2, n_col, a, panel, c + i * c_tile, f);
    if (i < n_tile)
        gemm_tiles(p + i, 1, n_col, a, panel, c + i * c_tile, f);
}

/* A tile times the inputs of n_tok tokens from tok0 on, a constant, with codes that go from memory to
 * registers. The order of the float operations is that of gemm: a token's result may not depend on what
 * came with it. */
INLINE void walk(const struct kern_weight *w, int32_t tile, const struct act *a, int32_t tok0, int n_tok,
                 float *out, struct family f)
{
    enum { MAX_TOK = 8 };
    const uint8_t *code = w->tiles + (size_t)tile * w->tile_bytes;
    const uint8_t *scale = code + w->scale_offset;
    int32_t n_group = a->n_col / 32;
    int n_vec = f.group / 4, parts = act_parts(f);
    int ways = n_tok == 1 ? 2 : 1; /* a single token's sum would wait for its last dot */
    __m512 acc[MAX_TOK], whole[MAX_TOK]; /* two parts: acc is the panel's */
    for (int t = 0; t < n_tok; t++)
        acc[t] = whole[t] = _mm512_setzero_ps();
    for (int32_t g0 = 0; g0 < n_group; g0 += PANEL_GROUPS) {
        int n = n_group - g0 < PANEL_GROUPS ? n_group - g0 : PANEL_GROUPS;
        const struct act8 *x = input_at(a, (size_t)g0 * (size_t)a->n_slot + (size_t)tok0, f);
        prefetch_scales(scale, w->tile_bytes, f.is_super ? 1 : PANEL_GROUPS, f);
        for (int g = 0; g < n; g++, code += f.bits * TILE_VEC, x += a->n_slot * parts) {
            prefetch(code + PREFETCH_BYTES, f.bits);
            for (int part = 0; part < 32 / f.group; part++) {
                int sub = g * (32 / f.group) + part;
                __m512i sum[MAX_TOK][2], high[MAX_TOK][2];
                for (int t = 0; t < n_tok; t++) {
                    sum[t][0] = start(&x[t * parts], part, f);
                    sum[t][1] = high[t][0] = high[t][1] = _mm512_setzero_si512();
                }
#pragma GCC unroll 8
                for (int j = part * n_vec; j < (part + 1) * n_vec; j++) {
                    __m512i v = load_codes(code, f, j);
                    int way = j % ways;
                    for (int t = 0; t < n_tok; t++) {
                        const struct act8 *xt = &x[t * parts];
                        sum[t][way] = _mm512_dpbusd_epi32(sum[t][way], v,
                                                          broadcast32(xt[parts - 1].q + 4 * j));
                        if (parts == 2)
                            high[t][way] = _mm512_dpbusd_epi32(high[t][way], v,
                                                               broadcast32(xt->q + 4 * j));
                    }
                }
                __m512 ws = group_scale(scale, f, sub), min = ws;
                if (has_min(f))
                    min = group_min(scale, f, sub);
                for (int t = 0; t < n_tok; t++) {
                    const struct act8 *xt = &x[t * parts];
                    if (has_min(f)) {
                        float xs = f.group == 16 ? xt->sum16[part] : xt->sum32;
                        acc[t] = _mm512_fnmadd_ps(min, _mm512_set1_ps(xs), acc[t]);
                    }
                    __m512i dot = sum[t][0], top = high[t][0];
                    if (ways == 2) {
                        dot = _mm512_add_epi32(dot, sum[t][1]);
                        top = _mm512_add_epi32(top, high[t][1]);
                    }
                    if (parts == 2)
                        dot = _mm512_add_epi32(dot, _mm512_slli_epi32(top, PART_BITS));
                    __m512 s = ws;
                    if (parts == 1)
                        s = _mm512_mul_ps(_mm512_set1_ps(xt->d), ws);
                    acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), s, acc[t]);
                }
            }
            if (!f.is_super)
                scale += scale_block_bytes(f);
        }
        if (f.is_super)
            scale += scale_block_bytes(f);
        x -= a->n_slot * parts; /* any group of the panel has its scale */
        for (int t = 0; parts == 2 && t < n_tok; t++) {
            whole[t] = _mm512_fmadd_ps(acc[t], _mm512_set1_ps(x[t * parts].d), whole[t]);
            acc[t] = _mm512_setzero_ps();
        }
    }
    for (int t = 0; t < n_tok; t++)
        _mm512_storeu_ps(out + (size_t)(tok0 + t) * TILE_ROWS, parts == 2 ? whole[t] : acc[t]);
}

INLINE void gemv(const struct kern_weight *w, int32_t tile, const struct act *a, float *out,
                 struct family f)
{
    int32_t t = 0;
    for (; t + 8 <= a->n_tok; t += 8)
        walk(w, tile, a, t, 8, out, f);
    for (; t + 4 <= a->n_tok; t += 4)
        walk(w, tile, a, t, 4, out, f);
    for (; t + 2 <= a->n_tok; t += 2)
        walk(w, tile, a, t, 2, out, f);
    if (t < a->n_tok)
        walk(w, tile, a, t, 1, out, f);
}

static void avx512_unpack(const struct kern_weight *w, int32_t tile, int32_t panel,
                          struct panel *ret)
{
    EACH_FAMILY(w->type, unpack, w, tile, panel, ret)
}

static void avx512_gemm(const struct kern_weight *w, const struct panel *p, int n_tile, int n_col,
                        const struct act *a, int32_t panel, float *c)
{
    EACH_FAMILY(w->type, gemm, p, n_tile, n_col, a, panel, c)
}

static void avx512_gemv(const struct kern_weight *w, int32_t tile, const struct act *a, float *out)
{
    EACH_FAMILY(w->type, gemv, w, tile, a, out)
}

#define FLOW_LANES 16
typedef __m512 flow_vec;
#define flow_load _mm512_loadu_ps
#define flow_store _mm512_storeu_ps
#define flow_set1 _mm512_set1_ps
#define flow_fma _mm512_fmadd_ps
#define flow_load_f16 load_f16

INLINE __m512 flow_load_bf16(const uint8_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

#include "kernels/cpu/plain_flow.h"

const struct matmul_isa matmul_avx512 = {
    .item_tiles = 4,
    .max_tok = 128,
    .is_wide = uses_two_parts,
    .quantise = quantise8,
    .quantise_wide = quantise_pairs,
    .unpack = avx512_unpack,
    .gemm = avx512_gemm,
    .gemv = avx512_gemv,
    .gemv_tok = MATMUL_SLOTS, /* more share what is unpacked: measured */
    .store = store_rows,
    .plain = plain_run,
};
