/* Block scores written plainly, in double: the oracle, and the choice of the scorer. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/score.h"
#include "kernels/page.h"

struct ref_job {
    const struct kern_score *s;
    struct kern *kern;
};

/* Keys of block j as float [head_dim][64], as a query of position block b reads them. */
static void fetch_keys(const struct kern_kv *kv, int32_t head_kv, int32_t j, int32_t b, float *k)
{
    const struct kern_kv_block *block = &kv->block[(size_t)head_kv * kv->n_block_cap + j];
    int32_t d = kv->head_dim;
    if (block->page && (j + 1 < b || !block->k)) {
        page_unpack_k(block->page, k);
        if (j > 0 || !kv->sink_k)
            return;
        const uint16_t *sink = kv->sink_k + (size_t)head_kv * d * KERN_SINK_PAD;
        for (int32_t c = 0; c < d; c++)
            for (int32_t t = 0; t < KERN_SINK_TOK; t++)
                k[c * PAGE_TOK + t] = kern_f16_to_f32(sink[c * KERN_SINK_PAD + t]);
        return;
    }
    for (int32_t i = 0; i < d * PAGE_TOK; i++)
        k[i] = kern_f16_to_f32(block->k[i]);
}

static double capped(const struct kern_attn *a, double x)
{
    x *= (double)a->scale;
    return a->softcap > 0 ? (double)a->softcap * tanh(x / (double)a->softcap) : x;
}

/* One row of block log-sums to masses; the log-sum of all comes back. */
static double to_mass(const double *log_sum, int32_t n_seen, int32_t n_block, float *mass)
{
    double top = -INFINITY, sum = 0;
    for (int32_t j = 0; j < n_seen; j++)
        top = fmax(top, log_sum[j]);
    for (int32_t j = 0; j < n_seen; j++)
        sum += exp(log_sum[j] - top);
    for (int32_t j = 0; j < n_block; j++)
        mass[j] = j < n_seen ? (float)(exp(log_sum[j] - top) / sum) : 0;
    return top + log(sum);
}

static double log_sum_of(const double *x, int32_t n)
{
    double top = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i] - top);
    return top + log(sum);
}

/* One query head: rows and groups one after the other. Masses pass through as log-sums. */
static void ref_head(void *ctx, int head, int n_head, int thread)
{
    const struct ref_job *job = ctx;
    const struct kern_score *s = job->s;
    const struct kern_attn *a = s->a;
    int32_t d = a->kv->head_dim, head_kv = head / (n_head / a->kv->n_head_kv);
    float *k = cpu_scratch(job->kern, thread);
    if (s->asleep && s->asleep[head_kv])
        return;
    double *log_sum = (double *)(k + PAGE_HEAD_DIM_MAX * PAGE_TOK), x[PAGE_TOK];
    for (int32_t i = 0; i < s->n_row; i++) {
        int32_t pos = a->pos0 + s->row[i], b = pos / PAGE_TOK;
        const float *q = a->q + ((size_t)s->row[i] * n_head + head) * d;
        for (int32_t j = 0; j <= b; j++) {
            log_sum[j] = -INFINITY;
            if (s->only && !s->only[head_kv * s->n_block + j])
                continue;
            int32_t n_key = pos - j * PAGE_TOK + 1 < PAGE_TOK ? pos - j * PAGE_TOK + 1 : PAGE_TOK;
            fetch_keys(a->kv, head_kv, j, b, k);
            for (int32_t t = 0; t < n_key; t++) {
                double sum = 0;
                for (int32_t c = 0; c < d; c++)
                    sum += (double)q[c] * (double)k[c * PAGE_TOK + t];
                x[t] = capped(a, sum);
            }
            log_sum[j] = log_sum_of(x, n_key);
        }
        size_t at = (size_t)head * s->n_row + i;
        s->lse[at] = (float)to_mass(log_sum, b + 1, s->n_block, s->mass + at * s->n_block);
    }
    for (int32_t i = 0; i < s->n_group; i++) {
        int32_t first = a->pos0 + s->group[i], b = first / PAGE_TOK;
        for (int32_t j = 0; j <= b; j++) {
            int32_t n = 0;
            fetch_keys(a->kv, head_kv, j, INT32_MAX, k);
            for (int32_t t0 = 0; t0 < PAGE_TOK && j * PAGE_TOK + t0 <= first;
                 t0 += KERN_SCORE_STRIDE) {
                /* where both are the same positions only half of the pairs are causal */
                bool own = j * PAGE_TOK + t0 == first;
                int32_t n_pair = own ? KERN_SCORE_STRIDE / 2 : KERN_SCORE_STRIDE;
                double sum = 0;
                if (own)
                    fetch_keys(a->kv, head_kv, j, b, k);
                for (int32_t p = 0; p < n_pair; p++) {
                    int32_t row = s->group[i] + KERN_SCORE_STRIDE - 1 - p;
                    const float *q = a->q + ((size_t)row * n_head + head) * d;
                    for (int32_t c = 0; c < d; c++)
                        sum += (double)q[c] * (double)k[c * PAGE_TOK + t0 + p];
                }
                x[n++] = capped(a, sum / n_pair);
            }
            log_sum[j] = log_sum_of(x, n);
        }
        to_mass(log_sum, b + 1, s->n_block, s->anti + ((size_t)head * s->n_group + i) * s->n_block);
    }
}

void score_ref(struct kern *k, const struct kern_score *s)
{
    assert(s->n_block <= (CPU_SCRATCH_BYTES - (int)sizeof(float) * PAGE_HEAD_DIM_MAX * PAGE_TOK) /
                             (int)sizeof(double));
    struct ref_job job = {s, k};
    pool_run(cpu_of(k)->pool, s->a->n_head, ref_head, &job);
}

bool kern_score(struct kern *k, const struct kern_score *s)
{
    const struct kern_attn *a = s->a;
    if (k->ops->score)
        return k->ops->score(k, s);
    if (k->kv_bytes != 2 || a->window > 0)
        return false;
    assert(s->n_block == (a->pos0 + a->n_tok - 1) / PAGE_TOK + 1 &&
           s->n_block <= a->kv->n_block_cap && a->n_head % a->kv->n_head_kv == 0);
    bool lanes = a->kv->head_dim % 16 == 0 && a->kv->head_dim <= PAGE_HEAD_DIM_MAX &&
                 a->n_head / a->kv->n_head_kv <= SCORE_GROUP_MAX;
#if defined(__x86_64__)
    if (lanes && strcmp(k->name, "avx2") == 0) {
        score_avx2(k, s);
        return true;
    }
    if (lanes && strcmp(k->name, "avx512") == 0) {
        score_avx512(k, s);
        return true;
    }
    if (lanes && strcmp(k->name, "amx") == 0) {
        score_amx(k, s);
        return true;
    }
#endif
    if (a->kv->head_dim > PAGE_HEAD_DIM_MAX)
        return false;
    score_ref(k, s);
    return true;
}
