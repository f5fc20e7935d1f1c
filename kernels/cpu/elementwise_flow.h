/* Norms, rotation, activations and the writing of keys and values, at 8 or 16 lanes: included by
 * elementwise_avx2.c and elementwise_avx512.c. Small calls run on the calling thread: handing out
 * work costs more than they do. */
#include "kernels/cpu/attn_vec.h"
#include "kernels/cpu/ops.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { FLOW_SERIAL = 32768 /* values below which one thread is faster */ };

/* Runs fn for parts of n_row rows of row_values values each, or for all of them at once. */
static void flow_run(struct kern *k, int32_t n_row, int32_t row_values, pool_fn *fn, void *ctx)
{
    struct pool *p = cpu_of(k)->pool;
    if ((int64_t)n_row * row_values < FLOW_SERIAL)
        fn(ctx, 0, 1, 0);
    else
        pool_run(p, n_row < 4 * pool_threads(p) ? n_row : 4 * pool_threads(p), fn, ctx);
}

/* Rows from.. of a part. */
ATTN_INLINE int32_t part_row(int32_t n_row, int part, int n_part)
{
    return (int32_t)((int64_t)n_row * part / n_part);
}

/* The first n < VL lanes from p, the others zero; and back. */
ATTN_INLINE vf load_some(const float *p, int32_t n)
{
    float v[VL] = {0};
    memcpy(v, p, (size_t)n * sizeof *v);
    return VF_LOAD(v);
}

ATTN_INLINE void store_some(float *p, vf x, int32_t n)
{
    float v[VL];
    VF_STORE(v, x);
    memcpy(p, v, (size_t)n * sizeof *v);
}

struct norm_job {
    float *dst;
    const float *x, *gain;
    int32_t n_row, n_col, stride;
    float eps;
};

static void norm_rows(void *ctx, int part, int n_part, int thread)
{
    const struct norm_job *j = ctx;
    int32_t end = part_row(j->n_row, part + 1, n_part), whole = j->n_col / VL * VL;
    for (int32_t r = part_row(j->n_row, part, n_part); r < end; r++) {
        const float *x = j->x + (size_t)r * j->stride;
        float *dst = j->dst + (size_t)r * j->stride;
        vf sum[2] = {VF_ZERO(), VF_ZERO()};
        for (int32_t i = 0; i < whole; i += VL) {
            vf v = VF_LOAD(x + i);
            sum[i / VL % 2] = VF_FMA(v, v, sum[i / VL % 2]);
        }
        float squares = vf_hsum(VF_ADD(sum[0], sum[1]));
        for (int32_t i = whole; i < j->n_col; i++)
            squares += x[i] * x[i];
        float scale = 1 / sqrtf(squares / (float)j->n_col + j->eps);
        for (int32_t i = 0; i < whole; i += VL)
            VF_STORE(dst + i, VF_MUL(VF_MUL(VF_LOAD(x + i), VF_SET1(scale)), VF_LOAD(j->gain + i)));
        for (int32_t i = whole; i < j->n_col; i++)
            dst[i] = x[i] * scale * j->gain[i];
    }
}

static void flow_rmsnorm(struct kern *k, float *dst, const float *x, const float *gain,
                         int32_t n_row, int32_t n_col, int32_t stride, float eps)
{
    struct norm_job j = {dst, x, gain, n_row, n_col, stride, eps};
    flow_run(k, n_row, n_col, norm_rows, &j);
}

static void center_rows(void *ctx, int part, int n_part, int thread)
{
    const struct norm_job *j = ctx;
    int32_t end = part_row(j->n_row, part + 1, n_part), whole = j->n_col / VL * VL;
    for (int32_t r = part_row(j->n_row, part, n_part); r < end; r++) {
        const float *x = j->x + (size_t)r * j->n_col;
        float *dst = j->dst + (size_t)r * j->n_col;
        vf sums = VF_ZERO();
        for (int32_t i = 0; i < whole; i += VL)
            sums = VF_ADD(sums, VF_LOAD(x + i));
        float mean = vf_hsum(sums);
        for (int32_t i = whole; i < j->n_col; i++)
            mean += x[i];
        mean /= (float)j->n_col;
        for (int32_t i = 0; i < whole; i += VL)
            VF_STORE(dst + i, VF_SUB(VF_LOAD(x + i), VF_SET1(mean)));
        for (int32_t i = whole; i < j->n_col; i++)
            dst[i] = x[i] - mean;
    }
}

static void flow_center(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col)
{
    struct norm_job j = {.dst = dst, .x = x, .n_row = n_row, .n_col = n_col};
    flow_run(k, n_row, n_col, center_rows, &j);
}

struct rope_job {
    struct cpu_rope_table *table;
    float *x;
    int32_t n_tok, n_head, head_dim, stride, pos0;
    const struct kern_rope *rope;
};

/* A token's row of the table: n_rot factors of the value itself, then n_rot of its partner. */
static void rope_fill(void *ctx, int part, int n_part, int thread)
{
    const struct rope_job *j = ctx;
    const struct kern_rope *r = j->rope;
    int32_t half = r->n_rot / 2, end = part_row(j->n_tok, part + 1, n_part);
    for (int32_t t = part_row(j->n_tok, part, n_part); t < end; t++) {
        float *own = j->table->factor + (size_t)t * 2 * r->n_rot, *other = own + r->n_rot;
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)(j->pos0 + t) * r->freq[i];
            int32_t a = r->mode == KERN_ROPE_PAIRS ? 2 * i : i;
            int32_t b = r->mode == KERN_ROPE_PAIRS ? 2 * i + 1 : i + half;
            own[a] = own[b] = (float)(cos(angle) * r->mscale);
            other[b] = (float)(sin(angle) * r->mscale);
            other[a] = -other[b];
        }
    }
}

ATTN_INLINE vf swap_pairs(vf x)
{
#if defined(__AVX512F__)
    return _mm512_permute_ps(x, 0xb1);
#else
    return _mm256_permute_ps(x, 0xb1);
#endif
}

ATTN_INLINE void rotate_pairs(float *v, const float *own, const float *other, int32_t n)
{
    int32_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf x = VF_LOAD(v + i);
        VF_STORE(v + i, VF_FMA(swap_pairs(x), VF_LOAD(other + i), VF_MUL(x, VF_LOAD(own + i))));
    }
    for (; i < n; i += 2) {
        float a = v[i], b = v[i + 1];
        v[i] = fmaf(b, other[i], a * own[i]);
        v[i + 1] = fmaf(a, other[i + 1], b * own[i + 1]);
    }
}

ATTN_INLINE void rotate_halves(float *v, const float *own, const float *other, int32_t n)
{
    int32_t half = n / 2, i = 0;
    for (; i + VL <= half; i += VL) {
        vf a = VF_LOAD(v + i), b = VF_LOAD(v + half + i), c = VF_LOAD(own + i);
        vf s = VF_LOAD(other + half + i);
        VF_STORE(v + i, VF_FNMA(b, s, VF_MUL(a, c)));
        VF_STORE(v + half + i, VF_FMA(a, s, VF_MUL(b, c)));
    }
    for (; i < half; i++) {
        float a = v[i], b = v[half + i];
        v[i] = fmaf(b, other[i], a * own[i]);
        v[half + i] = fmaf(a, other[half + i], b * own[half + i]);
    }
}

static void rope_rows(void *ctx, int part, int n_part, int thread)
{
    const struct rope_job *j = ctx;
    int32_t n_rot = j->rope->n_rot, end = part_row(j->n_tok, part + 1, n_part);
    for (int32_t t = part_row(j->n_tok, part, n_part); t < end; t++) {
        const float *own = j->table->factor + (size_t)t * 2 * n_rot;
        for (int32_t h = 0; h < j->n_head; h++) {
            float *v = j->x + (size_t)t * j->stride + (size_t)h * j->head_dim;
            if (j->rope->mode == KERN_ROPE_PAIRS)
                rotate_pairs(v, own, own + n_rot, n_rot);
            else
                rotate_halves(v, own, own + n_rot, n_rot);
        }
    }
}

/* Does the table hold what j asks for? Frequencies are compared by value: an address may come back
 * with other contents. */
static bool rope_at_hand(const struct cpu_rope_table *table, const struct rope_job *j)
{
    return table->n_tok >= j->n_tok && table->pos0 == j->pos0 && table->n_rot == j->rope->n_rot &&
           table->mode == j->rope->mode && table->mscale == j->rope->mscale &&
           memcmp(table->freq, j->rope->freq, (size_t)j->rope->n_rot / 2 * sizeof(float)) == 0;
}

static void flow_rope(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
                      int32_t stride, int32_t pos0, const struct kern_rope *r)
{
    struct cpu_rope_table *table = &cpu_of(k)->rope;
    assert(r->n_rot > 0 && r->n_rot <= CPU_ROPE_MAX);
    int32_t step = CPU_ROPE_FLOATS / (2 * r->n_rot);
    for (int32_t t = 0; t < n_tok; t += step) {
        struct rope_job j = {table, x + (size_t)t * stride, n_tok - t < step ? n_tok - t : step,
                             n_head, head_dim, stride, pos0 + t, r};
        if (!rope_at_hand(table, &j)) {
            /* A sine costs about as much as a hundred values of other work. */
            flow_run(k, j.n_tok, 100 * r->n_rot, rope_fill, &j);
            table->n_tok = j.n_tok;
            table->pos0 = j.pos0;
            table->n_rot = r->n_rot;
            table->mode = r->mode;
            table->mscale = r->mscale;
            memcpy(table->freq, r->freq, (size_t)r->n_rot / 2 * sizeof(float));
        }
        flow_run(k, j.n_tok, n_head * r->n_rot, rope_rows, &j);
    }
}

struct write_job {
    const struct kern_kv *kv;
    const float *key, *value;
    int32_t stride, n_tok, pos0;
};

ATTN_INLINE void to_half(uint16_t *dst, const float *x, int32_t n)
{
    int32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++)
        dst[i] = kern_f32_to_f16(x[i]);
}

/* One head per part: its keys and values of all tokens. */
static void write_heads(void *ctx, int part, int n_part, int thread)
{
    const struct write_job *j = ctx;
    const struct kern_kv *kv = j->kv;
    int32_t dim = kv->head_dim, end = part_row(kv->n_head_kv, part + 1, n_part);
    uint16_t row[CPU_HEAD_MAX];
    for (int32_t h = part_row(kv->n_head_kv, part, n_part); h < end; h++)
        for (int32_t t = 0; t < j->n_tok; t++) {
            int32_t pos = j->pos0 + t, slot = pos % KERN_BLOCK_TOK;
            size_t from = (size_t)t * j->stride + (size_t)h * dim;
            const struct kern_kv_block *block =
                &kv->block[(size_t)h * kv->n_block_cap + pos / KERN_BLOCK_TOK];
            bool sink = pos < KERN_SINK_TOK && kv->sink_k;
            size_t sinks = (size_t)h * dim * KERN_SINK_PAD;
            to_half(row, j->key + from, dim);
            for (int32_t i = 0; i < dim; i++)
                block->k[(size_t)i * KERN_BLOCK_TOK + slot] = row[i];
            for (int32_t i = 0; sink && i < dim; i++)
                kv->sink_k[sinks + (size_t)i * KERN_SINK_PAD + pos] = row[i];
            if (kv->n_latent)
                continue;
            uint16_t *v = block->v + (size_t)slot * dim;
            to_half(v, j->value + from, dim);
            if (sink)
                memcpy(kv->sink_v + sinks + (size_t)pos * dim, v, (size_t)dim * sizeof *v);
        }
}

static void flow_kv_write(struct kern *k, const struct kern_kv *kv, const float *key,
                          const float *value, int32_t stride, int32_t n_tok, int32_t pos0)
{
    struct write_job j = {kv, key, value, stride, n_tok, pos0};
    assert(kv->head_dim <= CPU_HEAD_MAX && pos0 >= 0 &&
           (pos0 + n_tok - 1) / KERN_BLOCK_TOK < kv->n_block_cap);
    flow_run(k, kv->n_head_kv, n_tok * kv->head_dim, write_heads, &j);
}

struct glu_job {
    float *dst;
    const float *gate, *up;
    int32_t dst_stride, stride, n_tok, n;
    enum kern_act act;
};

/* All activations but the plain product and the ramp are v (or 1) times a logistic function: gelu's 1 + tanh(u) is 2 / (1 + e^-2u), which
 * keeps its digits where tanh is close to -1. */
ATTN_INLINE vf activate(vf v, vf up, enum kern_act act)
{
    const float log2e = 1.44269504f;
    vf u = VF_MUL(v, VF_SET1(log2e));
    if (act == KERN_ACT_NONE)
        return VF_MUL(v, up);
    if (act == KERN_ACT_RELU)
        return VF_MUL(VF_MAX(v, VF_ZERO()), up);
    if (act == KERN_ACT_GELU_TANH) {
        vf cube = VF_FMA(VF_MUL(v, v), VF_SET1(0.044715f), VF_SET1(1.0f));
        u = VF_MUL(VF_MUL(v, cube), VF_SET1(2 * 0.797884561f * log2e));
    } else if (act == KERN_ACT_SWIGLU_OAI) {
        v = VF_MIN(v, VF_SET1(7.0f));
        u = VF_MUL(v, VF_SET1(1.702f * log2e));
        up = VF_ADD(VF_MIN(VF_MAX(up, VF_SET1(-7.0f)), VF_SET1(7.0f)), VF_SET1(1.0f));
    }
    u = VF_MAX(u, VF_SET1(-126.0f)); /* beyond it the exponential would overflow */
    vf e = vf_exp2(VF_SUB(VF_ZERO(), u));
    if (act == KERN_ACT_SIGMOID)
        v = VF_SET1(1.0f);
    return VF_MUL(VF_DIV(v, VF_ADD(VF_SET1(1.0f), e)), up);
}

ATTN_INLINE void glu_row(float *dst, const float *gate, const float *up, int32_t n,
                         enum kern_act act)
{
    int32_t i = 0;
    for (; i + VL <= n; i += VL)
        VF_STORE(dst + i, activate(VF_LOAD(gate + i), VF_LOAD(up + i), act));
    if (i < n)
        store_some(dst + i, activate(load_some(gate + i, n - i), load_some(up + i, n - i), act),
                   n - i);
}

static void glu_rows(void *ctx, int part, int n_part, int thread)
{
    const struct glu_job *j = ctx;
    int32_t end = part_row(j->n_tok, part + 1, n_part);
    for (int32_t t = part_row(j->n_tok, part, n_part); t < end; t++) {
        float *dst = j->dst + (size_t)t * j->dst_stride;
        size_t at = (size_t)t * j->stride;
        switch (j->act) {
        case KERN_ACT_SILU:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_SILU);
            break;
        case KERN_ACT_GELU_TANH:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_GELU_TANH);
            break;
        case KERN_ACT_SWIGLU_OAI:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_SWIGLU_OAI);
            break;
        case KERN_ACT_SIGMOID:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_SIGMOID);
            break;
        case KERN_ACT_RELU:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_RELU);
            break;
        case KERN_ACT_NONE:
            glu_row(dst, j->gate + at, j->up + at, j->n, KERN_ACT_NONE);
            break;
        }
    }
}

static void flow_glu(struct kern *k, float *dst, int32_t dst_stride, const float *gate,
                     const float *up, int32_t stride, int32_t n_tok, int32_t n, enum kern_act act)
{
    struct glu_job j = {dst, gate, up, dst_stride, stride, n_tok, n, act};
    flow_run(k, n_tok, n, glu_rows, &j);
}

struct flat_job {
    float *dst;
    const float *x;
    int32_t n_row; /* of FLAT_ROW values */
    size_t n;
    float by; /* what scale and softcap go by */
};

enum { FLAT_ROW = 4096 };

static void add_rows(void *ctx, int part, int n_part, int thread)
{
    const struct flat_job *j = ctx;
    size_t i = (size_t)part_row(j->n_row, part, n_part) * FLAT_ROW;
    size_t end = (size_t)part_row(j->n_row, part + 1, n_part) * FLAT_ROW;
    end = end < j->n ? end : j->n;
    for (; i + VL <= end; i += VL)
        VF_STORE(j->dst + i, VF_ADD(VF_LOAD(j->dst + i), VF_LOAD(j->x + i)));
    for (; i < end; i++)
        j->dst[i] += j->x[i];
}

static void flow_add(struct kern *k, float *dst, const float *x, size_t n)
{
    struct flat_job j = {dst, x, (int32_t)((n + FLAT_ROW - 1) / FLAT_ROW), n, 0};
    flow_run(k, j.n_row, FLAT_ROW, add_rows, &j);
}

struct rows_job {
    float *dst;
    const float *src, *weight; /* weight NULL: copied */
    const int32_t *row;
    int32_t n_tok, n_each, n_col;
};

ATTN_INLINE void add_weighted(float *dst, const float *x, float weight, int32_t n)
{
    int32_t i = 0;
    vf w = VF_SET1(weight);
    for (; i + VL <= n; i += VL)
        VF_STORE(dst + i, VF_FMA(w, VF_LOAD(x + i), VF_LOAD(dst + i)));
    for (; i < n; i++)
        dst[i] += weight * x[i];
}

static void take_or_add(void *ctx, int part, int n_part, int thread)
{
    const struct rows_job *j = ctx;
    int32_t end = part_row(j->n_tok, part + 1, n_part);
    for (int32_t t = part_row(j->n_tok, part, n_part); t < end; t++) {
        float *dst = j->dst + (size_t)t * j->n_col;
        for (int32_t i = t * j->n_each; i < (t + 1) * j->n_each; i++) {
            const float *src = j->src + (size_t)j->row[i] * j->n_col;
            if (j->weight)
                add_weighted(dst, src, j->weight[i], j->n_col);
            else
                memcpy(dst, src, sizeof *dst * (size_t)j->n_col);
        }
    }
}

static void flow_take_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                           int32_t n, int32_t n_col)
{
    struct rows_job j = {dst, src, NULL, row, n, 1, n_col};
    flow_run(k, n, n_col, take_or_add, &j);
}

static void flow_add_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                          const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col)
{
    struct rows_job j = {dst, src, weight, row, n_tok, n_each, n_col};
    flow_run(k, n_tok, n_each * n_col, take_or_add, &j);
}

static void scale_rows(void *ctx, int part, int n_part, int thread)
{
    const struct flat_job *j = ctx;
    size_t i = (size_t)part_row(j->n_row, part, n_part) * FLAT_ROW;
    size_t end = (size_t)part_row(j->n_row, part + 1, n_part) * FLAT_ROW;
    end = end < j->n ? end : j->n;
    for (; i < end; i++)
        j->dst[i] *= j->by;
}

static void flow_scale(struct kern *k, float *x, size_t n, float by)
{
    struct flat_job j = {x, NULL, (int32_t)((n + FLAT_ROW - 1) / FLAT_ROW), n, by};
    flow_run(k, j.n_row, FLAT_ROW, scale_rows, &j);
}

static void softcap_rows(void *ctx, int part, int n_part, int thread)
{
    const struct flat_job *j = ctx;
    size_t i = (size_t)part_row(j->n_row, part, n_part) * FLAT_ROW;
    size_t end = (size_t)part_row(j->n_row, part + 1, n_part) * FLAT_ROW;
    vf cap = VF_SET1(j->by), inverse = VF_SET1(1 / j->by);
    end = end < j->n ? end : j->n;
    for (; i + VL <= end; i += VL)
        VF_STORE(j->dst + i, VF_MUL(cap, vf_tanh(VF_MUL(VF_LOAD(j->dst + i), inverse))));
    if (i < end) {
        int32_t n = (int32_t)(end - i);
        vf v = load_some(j->dst + i, n);
        store_some(j->dst + i, VF_MUL(cap, vf_tanh(VF_MUL(v, inverse))), n);
    }
}

static void flow_softcap(struct kern *k, float *x, size_t n, float cap)
{
    struct flat_job j = {x, NULL, (int32_t)((n + FLAT_ROW - 1) / FLAT_ROW), n, cap};
    flow_run(k, j.n_row, FLAT_ROW, softcap_rows, &j);
}

#define FLOW_OPS(matmul_op, attend_op)                                                             \
    {                                                                                              \
        .close = cpu_op_close, .alloc = mem_op_alloc, .free = mem_op_free,                         \
        .upload = mem_op_upload, .download = mem_op_download, .copy = mem_op_copy,                 \
        .clear = mem_op_clear,                                                                     \
        .sync = mem_op_sync, .error = mem_op_error, .weight_size = tile_weight_size,               \
        .weight_new = tile_weight_new, .weight_owns = tile_weight_owns,                            \
        .weight_free = tile_weight_free, .embed = tile_embed, .matmul = matmul_op,                 \
        .rmsnorm = flow_rmsnorm, .center = flow_center, .rope = flow_rope,                         \
        .kv_write = flow_kv_write,                                                                 \
        .attend = attend_op, .seal = mem_op_seal, .demote = mem_op_demote, .glu = flow_glu,        \
        .add = flow_add, .scale = flow_scale, .sink = ref_sink, .take_rows = flow_take_rows,       \
        .add_rows = flow_add_rows,                                                                 \
        .softcap = flow_softcap, .conv = flow_conv, .delta = flow_delta,                           \
        .scan = flow_scan,                                                                         \
    }
