/* Every op but attention, plainly: the oracle for the fast versions. Sums run in double, so that
 * the error left is that of the float32 activations between ops. */
#include "kernels/cpu/attn.h"
#include "kernels/cpu/ops.h"
#include "kernels/quant.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct kern_weight {
    enum kern_type type;
    int32_t n_row, n_col;
    const uint8_t *data; /* the file's bytes */
};

static size_t row_bytes(const struct kern_weight *w)
{
    return (size_t)(w->n_col / kern_type_block(w->type)) * kern_type_bytes(w->type);
}

static size_t ref_weight_size(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col)
{
    return 0;
}

static struct kern_weight *ref_weight_new(struct kern *k, enum kern_type type, int32_t n_row,
                                          int32_t n_col, const void *host)
{
    assert(kern_type_known(type) && n_row > 0 && n_col > 0 && n_col % kern_type_block(type) == 0);
    /* A row of the matrix is unpacked into the thread's scratch. */
    if ((size_t)n_col > CPU_SCRATCH_BYTES / sizeof(float))
        return NULL;
    struct kern_weight *w = malloc(sizeof *w);
    if (w)
        *w = (struct kern_weight){type, n_row, n_col, host};
    return w;
}

static bool ref_weight_owns(const struct kern_weight *w)
{
    return false;
}

static void ref_weight_free(struct kern *k, struct kern_weight *w)
{
    free(w);
}

static void ref_embed(struct kern *k, const struct kern_weight *w, const int32_t *ids,
                      int32_t n_tok, float scale, float *dst)
{
    for (int32_t t = 0; t < n_tok; t++) {
        float *row = dst + (size_t)t * w->n_col;
        assert(ids[t] >= 0 && ids[t] < w->n_row);
        kern_dequantise(w->type, w->data + (size_t)ids[t] * row_bytes(w), row, w->n_col);
        for (int32_t i = 0; i < w->n_col; i++)
            row[i] *= scale;
    }
}

struct matmul_job {
    struct kern *k;
    const struct kern_mat *mat;
    const float *x;
    int32_t x_stride, n_tok;
};

/* One part: the rows part, part + n_part, ... */
static void matmul_rows(void *ctx, int part, int n_part, int thread)
{
    const struct matmul_job *job = ctx;
    const struct kern_mat *m = job->mat;
    const struct kern_weight *w = m->w;
    float *row = cpu_scratch(job->k, thread);
    int32_t n_row = m->n_row ? m->n_row : w->n_row;
    assert(m->row0 % KERN_ROW_STEP == 0 && m->row0 + n_row <= w->n_row);
    for (int32_t r = part; r < n_row; r += n_part) {
        kern_dequantise(w->type, w->data + (size_t)(m->row0 + r) * row_bytes(w), row, w->n_col);
        for (int32_t t = 0; t < job->n_tok; t++) {
            const float *x = job->x + (size_t)t * job->x_stride;
            float *dst = m->dst + (size_t)t * m->dst_stride + r;
            double sum = (m->add ? *dst : 0.0) + (m->bias ? m->bias[r] : 0.0);
            for (int32_t i = 0; i < w->n_col; i++)
                sum += (double)row[i] * x[i];
            *dst = (float)sum;
        }
    }
}

static void ref_matmul(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                       int32_t x_stride, int32_t n_tok)
{
    for (int i = 0; i < n_mat; i++) {
        struct matmul_job job = {k, &mats[i], x + mats[i].x_col, x_stride, n_tok};
        pool_run(cpu_of(k)->pool, pool_threads(cpu_of(k)->pool) * 4, matmul_rows, &job);
    }
}

void ref_rmsnorm(struct kern *k, float *dst, const float *x, const float *gain,
                        int32_t n_row, int32_t n_col, int32_t stride, float eps)
{
    for (int32_t r = 0; r < n_row; r++) {
        const float *a = x + (size_t)r * stride;
        float *d = dst + (size_t)r * stride;
        double sum = 0;
        for (int32_t i = 0; i < n_col; i++)
            sum += (double)a[i] * a[i];
        double scale = 1 / sqrt(sum / n_col + eps);
        for (int32_t i = 0; i < n_col; i++)
            d[i] = (float)(a[i] * scale * gain[i]);
    }
}

void ref_center(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col)
{
    for (int32_t r = 0; r < n_row; r++, x += n_col, dst += n_col) {
        double sum = 0;
        for (int32_t i = 0; i < n_col; i++)
            sum += x[i];
        for (int32_t i = 0; i < n_col; i++)
            dst[i] = (float)(x[i] - sum / n_col);
    }
}

void ref_rope(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
                     int32_t stride, int32_t pos0, const struct kern_rope *r)
{
    int32_t half = r->n_rot / 2;
    bool pairs = r->mode == KERN_ROPE_PAIRS;
    for (int32_t t = 0; t < n_tok; t++) {
        for (int32_t i = 0; i < half; i++) {
            double angle = (double)(pos0 + t) * r->freq[i];
            double c = cos(angle) * r->mscale, s = sin(angle) * r->mscale;
            for (int32_t h = 0; h < n_head; h++) {
                float *v = x + (size_t)t * stride + (size_t)h * head_dim;
                float *a = v + (pairs ? 2 * i : i), *b = v + (pairs ? 2 * i + 1 : i + half);
                double va = *a, vb = *b;
                *a = (float)(va * c - vb * s);
                *b = (float)(va * s + vb * c);
            }
        }
    }
}

void ref_kv_write(struct kern *k, const struct kern_kv *kv, const float *key,
                         const float *value, int32_t stride, int32_t n_tok, int32_t pos0)
{
    int32_t dim = kv->head_dim;
    for (int32_t t = 0; t < n_tok; t++) {
        int32_t pos = pos0 + t, b = pos / KERN_BLOCK_TOK, slot = pos % KERN_BLOCK_TOK;
        assert(pos >= 0 && b < kv->n_block_cap);
        for (int32_t h = 0; h < kv->n_head_kv; h++) {
            const struct kern_kv_block *block = &kv->block[(size_t)h * kv->n_block_cap + b];
            const float *ks = key + (size_t)t * stride + (size_t)h * dim;
            const float *vs = kv->n_latent ? NULL : value + (size_t)t * stride + (size_t)h * dim;
            bool sink = pos < KERN_SINK_TOK && kv->sink_k;
            for (int32_t i = 0; i < dim; i++) {
                uint16_t kh = kern_f32_to_f16(ks[i]);
                block->k[(size_t)i * KERN_BLOCK_TOK + slot] = kh;
                if (sink)
                    kv->sink_k[((size_t)h * dim + i) * KERN_SINK_PAD + pos] = kh;
            }
            for (int32_t i = 0; vs && i < dim; i++) {
                uint16_t vh = kern_f32_to_f16(vs[i]);
                block->v[(size_t)slot * dim + i] = vh;
                if (sink)
                    kv->sink_v[((size_t)h * KERN_SINK_PAD + pos) * dim + i] = vh;
            }
        }
    }
}

static double activate(double v, double up, enum kern_act act)
{
    switch (act) {
    case KERN_ACT_SILU:
        return v / (1 + exp(-v)) * up;
    case KERN_ACT_GELU_TANH:
        return 0.5 * v * (1 + tanh(0.79788456080286535588 * (v + 0.044715 * v * v * v))) * up;
    case KERN_ACT_SWIGLU_OAI:
        v = v < 7 ? v : 7;
        return v / (1 + exp(-1.702 * v)) * (fmin(fmax(up, -7), 7) + 1);
    case KERN_ACT_SIGMOID:
        return up / (1 + exp(-v));
    case KERN_ACT_RELU:
        return v > 0 ? v * up : 0;
    case KERN_ACT_NONE:
        return v * up;
    }
    return 0;
}

void ref_glu(struct kern *k, float *dst, int32_t dst_stride, const float *gate,
                    const float *up, int32_t stride, int32_t n_tok, int32_t n, enum kern_act act)
{
    for (int32_t t = 0; t < n_tok; t++)
        for (int32_t i = 0; i < n; i++) {
            size_t at = (size_t)t * stride + i;
            dst[(size_t)t * dst_stride + i] = (float)activate(gate[at], up[at], act);
        }
}

void ref_add(struct kern *k, float *dst, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] += x[i];
}

void ref_sink(struct kern *k, float *out, const float *lse, const float *sink, int32_t n_tok,
              int32_t n_head, int32_t head_dim)
{
    for (int32_t i = 0; i < n_tok * n_head; i++) {
        double share = 1 / (1 + exp((double)sink[i % n_head] - lse[i]));
        for (int32_t j = 0; j < head_dim; j++)
            out[(size_t)i * head_dim + j] = (float)(out[(size_t)i * head_dim + j] * share);
    }
}

void ref_take_rows(struct kern *k, float *dst, const float *src, const int32_t *row, int32_t n,
                   int32_t n_col)
{
    for (int32_t i = 0; i < n; i++)
        memcpy(dst + (size_t)i * n_col, src + (size_t)row[i] * n_col, sizeof *dst * (size_t)n_col);
}

void ref_add_rows(struct kern *k, float *dst, const float *src, const int32_t *row,
                  const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col)
{
    for (int32_t t = 0; t < n_tok; t++)
        for (int32_t i = 0; i < n_col; i++) {
            float *d = dst + (size_t)t * n_col + i;
            double sum = *d;
            for (int32_t j = 0; j < n_each; j++)
                sum += (double)weight[t * n_each + j] *
                       src[(size_t)row[t * n_each + j] * n_col + i];
            *d = (float)sum;
        }
}

void ref_scale(struct kern *k, float *x, size_t n, float by)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= by;
}

void ref_softcap(struct kern *k, float *x, size_t n, float cap)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(cap * tanh(x[i] / (double)cap));
}

const struct kern_ops ops_ref = {
    .close = cpu_op_close,
    .alloc = mem_op_alloc,
    .free = mem_op_free,
    .upload = mem_op_upload,
    .download = mem_op_download,
    .copy = mem_op_copy,
    .clear = mem_op_clear,
    .sync = mem_op_sync,
    .error = mem_op_error,
    .weight_size = ref_weight_size,
    .weight_new = ref_weight_new,
    .weight_owns = ref_weight_owns,
    .weight_free = ref_weight_free,
    .embed = ref_embed,
    .matmul = ref_matmul,
    .rmsnorm = ref_rmsnorm,
    .center = ref_center,
    .rope = ref_rope,
    .kv_write = ref_kv_write,
    .attend = attn_ref_attend,
    .seal = mem_op_seal,
    .demote = mem_op_demote,
    .glu = ref_glu,
    .add = ref_add,
    .scale = ref_scale,
    .sink = ref_sink,
    .take_rows = ref_take_rows,
    .add_rows = ref_add_rows,
    .softcap = ref_softcap,
    .conv = ref_conv,
    .delta = ref_delta,
    .scan = ref_scan,
};
