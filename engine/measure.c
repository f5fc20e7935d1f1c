/* Measuring on the caller's thread: teacher-forced logits and speed. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/local.h"
#include "engine/prefill.h"
#include "engine/recurrent.h"
#include "engine/room.h"
#include "kernels/limits.h"
#include "kernels/timed.h"

#define BENCH_LINE INT64_MIN /* no conversation has this number */

/* Takes the compute lock; ERR_BUSY while a turn runs. */
static enum status begin(struct local *l, struct err *e)
{
    if (!l->forward)
        return err_set(e, ERR_USAGE, "the model was opened for its vocabulary only");
    if (atomic_load(&l->busy) || pthread_mutex_trylock(&l->compute) != 0)
        return err_set(e, ERR_BUSY, "an answer is still being written; stop it or wait");
    return OK;
}

/* ---- logits ---- */

static enum status each_row(struct local *l, struct kv_line *line, const int32_t *ids, int32_t n,
                            bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                            struct err *e)
{
    int32_t n_chunk = forward_n_chunk(l->forward);
    for (int32_t at = 0; at < n; at += n_chunk) {
        int32_t now = n - at < n_chunk ? n - at : n_chunk;
        TRY(room_reserve(l, BENCH_LINE, line, now, e));
        TRY(forward_run(l->forward, line, ids + at, now, FORWARD_ALL, NULL, NULL, e));
        for (int32_t r = 0; r < now; r += FORWARD_HEAD_ROWS) {
            int32_t n_row = now - r < FORWARD_HEAD_ROWS ? now - r : FORWARD_HEAD_ROWS;
            const float *logits;
            TRY(forward_head(l->forward, r, n_row, &logits, e));
            for (int32_t i = 0; i < n_row; i++)
                if (!row(ctx, at + r + i, logits + (size_t)i * (size_t)l->info.n_vocab))
                    return err_set(e, ERR_CANCELLED, "cancelled at token %d", at + r + i);
        }
    }
    return OK;
}

/* What was read, into the snapshot. */
static void tell_line(struct local *l, const struct kv_line *line)
{
    pthread_mutex_lock(&l->lock);
    l->stats.n_tok = kv_n_tok(line);
    l->stats.kv_chat_bytes = (int64_t)kv_line_bytes(line);
    l->stats.kv_f16_bytes = (int64_t)l->plan.kv_tok * kv_n_tok(line);
    l->stats.bytes_per_tok =
        kv_n_tok(line) > 0 ? (double)kv_line_bytes(line) / kv_n_tok(line) : NAN;
    pthread_mutex_unlock(&l->lock);
}

static enum status too_long(const struct local *l, int32_t n, struct err *e)
{
    char a[32], b[32];
    return err_set(e, ERR_USAGE, "%s tokens do not fit the context of %s; raise -c", err_count_text((uint64_t)n, a),
                   err_count_text((uint64_t)l->plan.n_ctx, b));
}

enum status measure_logits(struct engine *en, const int32_t *ids, int32_t n,
                           bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                           struct err *e)
{
    struct local *l = (struct local *)en;
    TRY(local_check_ids(l, ids, n, e));
    TRY(begin(l, e));
    enum status s = OK;
    if (n > l->plan.n_ctx) {
        s = too_long(l, n, e);
    } else {
        /* Nothing is compressed unless a preset was asked for: these are the model's own logits. */
        struct kv_pool *own = NULL;
        const struct kv_shape shape = local_kv_shape(l);
        const struct preset *exact = presets_find("exact");
        if (!l->preset_asked)
            own = kv_pool_new(l->kern, &shape, exact,
                              kv_most_bytes(&shape, exact, l->plan.n_ctx, PLAN_CHUNK));
        struct kv_line *line = kv_line_new(own ? own : l->pool, l->plan.n_ctx);
        policy_begin(l->policy, local_coverage(l), n);
        s = each_row(l, line, ids, n, row, ctx, e);
        tell_line(l, line);
        kv_line_free(line);
        kv_pool_free(own);
    }
    pthread_mutex_unlock(&l->compute);
    return s;
}

/* ---- speed ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Brings the timeline to `depth` tokens: real ones first, then copies of their blocks, which cost
 * a later token as much as real ones do and nothing to compute. */
static enum status fill(struct local *l, struct kv_line *line, const int32_t *ids, int32_t depth,
                        struct err *e)
{
    int32_t real = depth < forward_n_chunk(l->forward) ? depth : forward_n_chunk(l->forward);
    if (kv_n_tok(line) == 0 && real > 0)
        TRY(prefill_run(l->forward, line, ids, real, NULL, NULL, NULL, e));
    while (kv_n_tok(line) < depth) {
        int32_t n = depth - kv_n_tok(line) < real ? depth - kv_n_tok(line) : real;
        TRY(room_reserve(l, BENCH_LINE, line, n, e));
        kv_repeat(line, n);
    }
    return OK;
}

struct matrix_sum {
    double bytes, ops;
    double read, used; /* shares of experts' matrices: that any token needs, that one token needs */
};

static void add_matrix(void *ctx, struct model_mat *mat)
{
    struct matrix_sum *s = ctx;
    bool some = mat->routed;
    s->bytes += (double)mat->n_row * (double)(mat->n_col / kern_type_block(mat->type)) *
                (double)kern_type_bytes(mat->type) * (some ? s->read : 1);
    s->ops += 2.0 * mat->n_row * mat->n_col * (some ? s->used : 1);
}

/* Bytes read and operations done for n tokens at this depth, in one pass of n; kv_tok: bytes of
 * keys and values per token as they are held, packed or not. */
static void count(struct local *l, double kv_tok, int32_t n, int32_t depth, double *ret_bytes,
                  double *ret_ops)
{
    const struct model_params *p = &l->model->p;
    struct matrix_sum all = {0}, embed = {0}, head = {0}, late = {0}; /* late: of the last row alone */
    if (p->n_expert > 0) { /* n tokens that choose evenly and independently */
        all.used = late.used = (double)p->n_expert_used / p->n_expert;
        all.read = 1 - pow(1 - all.used, n);
    }
    model_each_mat(l->model, add_matrix, &all);
    int32_t n_write = model_n_write(l->model);
    for (int32_t i = n_write; i < p->n_layer; i++)
        model_each_mat_of(&l->model->layer[i], add_matrix, &late);
    add_matrix(&embed, &l->model->embed);
    add_matrix(&head, &l->model->output);
    bool tied = l->model->output.t == l->model->embed.t;
    double body_ops = all.ops - head.ops - (tied ? 0 : embed.ops);
    double seen = depth + (n + 1) / 2.0; /* positions a token looks at, on average */
    double state = (double)recurrent_state_floats(p) * p->n_layer_state;
    double asked = 0; /* channels of all queries of n tokens */
    for (int32_t i = 0; i < p->n_layer; i++)
        asked += p->attends[i] ? (double)p->n_head * model_head_dim(p, i) * (i < n_write ? n : 1) : 0;
    *ret_bytes = all.bytes - (tied ? 0 : embed.bytes) + kv_tok * seen + 2 * sizeof(float) * state;
    /* Each number of a state fades, is added to and is asked: by the delta rule twice. */
    *ret_ops = body_ops * n - late.ops * (n - 1) + head.ops + (p->selective ? 5 : 7) * state * n + 4 * asked * seen;
}

/* ret_seal_s is added to. */
static enum status bench_once(struct local *l, struct kv_line *line, const struct engine_bench *b,
                              const int32_t *ids, double *ret_s, double *ret_seal_s, struct err *e)
{
    const float *logits;
    if (kv_n_tok(line) > b->depth)
        kv_truncate(line, b->depth);
    TRY(fill(l, line, ids, b->depth, e));
    int32_t n = b->n_prompt > 0 ? b->n_prompt : b->n_gen;
    TRY(room_reserve(l, BENCH_LINE, line, n, e));
    policy_begin(l->policy, local_coverage(l), b->depth + (b->n_prompt > 0 ? b->n_prompt : 0));
    double start = clock_s(), sealed = kv_seal_s(l->pool);
    if (b->n_prompt > 0) {
        TRY(prefill_run(l->forward, line, ids, n, NULL, NULL, &logits, e));
    } else {
        for (int32_t i = 0; i < n; i++)
            TRY(forward_step(l->forward, line, ids[i], &logits, e));
    }
    *ret_s = clock_s() - start;
    *ret_seal_s += kv_seal_s(l->pool) - sealed;
    return OK;
}

/* One more repetition, every op timed by itself. */
static enum status bench_ops(struct local *l, struct kv_line *line, const struct engine_bench *b,
                             const int32_t *ids, struct engine_bench_result *ret, struct err *e)
{
    _Static_assert((int)ENGINE_BENCH_OPS == (int)TIMED_N, "one place for each");
    struct kern_times t;
    double all, seal = 0;
    if (kv_n_tok(line) > b->depth)
        kv_truncate(line, b->depth);
    TRY(fill(l, line, ids, b->depth, e));
    timed_begin(l->kern, &t);
    enum status s = bench_once(l, line, b, ids, &all, &seal, e);
    timed_end(l->kern);
    ret->n_op = 0;
    for (int i = 0; i < TIMED_N; i++)
        if (t.n[i] > 0) {
            ret->op[ret->n_op].name = timed_name(i);
            ret->op[ret->n_op].s = t.s[i];
            ret->op[ret->n_op++].n = t.n[i];
        }
    return s;
}

static enum status bench_line(struct local *l, struct kv_line *line, const struct engine_bench *b,
                              struct engine_bench_result *ret, struct err *e)
{
    int32_t n = b->n_prompt > 0 ? b->n_prompt : b->n_gen;
    int32_t n_rep = b->n_rep > 0 ? b->n_rep : 1;
    int32_t n_id = n > forward_n_chunk(l->forward) ? n : forward_n_chunk(l->forward);
    int32_t *ids = mem_calloc((size_t)n_id, sizeof *ids);
    double *seconds = mem_calloc((size_t)n_rep, sizeof *seconds), warm, seal = 0, all = 0;
    uint32_t x = 12345;
    for (int32_t i = 0; i < n_id; i++) {
        x = x * 1664525u + 1013904223u;
        ids[i] = (int32_t)((x >> 8) % (uint32_t)l->info.n_vocab);
    }
    enum status s = bench_once(l, line, b, ids, &warm, &seal, e);
    seal = 0;
    for (int32_t i = 0; i < n_rep && s == OK; i++)
        s = bench_once(l, line, b, ids, &seconds[i], &seal, e);
    for (int32_t i = 0; i < n_rep; i++)
        all += seconds[i];
    if (s == OK) {
        qsort(seconds, (size_t)n_rep, sizeof *seconds, by_value);
        double median =
            n_rep % 2 ? seconds[n_rep / 2] : (seconds[n_rep / 2 - 1] + seconds[n_rep / 2]) / 2;
        double bytes, ops;
        double kv_tok = (double)kv_line_bytes(line) / kv_n_tok(line);
        *ret = (struct engine_bench_result){.tps_median = n / median,
                                            .tps_min = n / seconds[n_rep - 1],
                                            .tps_max = n / seconds[0],
                                            .seal_share = kv_seals(line) && !l->kern->device ? seal / all : NAN,
                                            .gbps = NAN,
                                            .gops = NAN,
                                            .limit_fraction = NAN};
        if (b->n_prompt > 0) {
            count(l, kv_tok, n, b->depth, &bytes, &ops);
            ret->gops = ops / median / 1e9;
        } else {
            count(l, kv_tok, 1, b->depth + n / 2, &bytes, &ops);
            ret->gbps = bytes * n / median / 1e9;
            ret->gops = ops * n / median / 1e9;
        }
        struct limits limits; /* measured beside each row: the machine's own speed moves */
        if (limits_measure(l->kern, &limits)) {
            double memory = ret->gbps / limits.read_gbps, compute = ret->gops / limits.int8_gops;
            ret->limit_fraction = fmax(memory, compute); /* fmax passes over a NAN */
        }
        if (b->ops)
            s = bench_ops(l, line, b, ids, ret, e);
    }
    free(ids);
    free(seconds);
    return s;
}

enum status measure_bench(struct engine *en, const struct engine_bench *b,
                          struct engine_bench_result *ret, struct err *e)
{
    struct local *l = (struct local *)en;
    int64_t n = b->n_prompt > 0 ? b->n_prompt : b->n_gen;
    if (n <= 0 || b->depth < 0)
        return err_set(e, ERR_USAGE, "nothing to measure: -p %d -n %d -d %d", b->n_prompt, b->n_gen,
                       b->depth);
    if (preset_simulated(l->preset) || preset_lossy(l->preset))
        return err_set(e, ERR_UNSUPPORTED,
                       "KV preset '%s' shows what its method reads, not how fast; measure exact, "
                       "adaptive or pages like 8/4",
                       l->preset->name);
    TRY(begin(l, e));
    enum status s = OK;
    if (n + b->depth > l->plan.n_ctx) {
        s = err_set(e, ERR_USAGE, "%lld tokens at depth %d do not fit the context of %d; raise -c",
                    (long long)n, b->depth, l->plan.n_ctx);
    } else {
        struct kv_line *line = kv_line_new(l->pool, l->plan.n_ctx);
        s = bench_line(l, line, b, ret, e);
        kv_line_free(line);
    }
    pthread_mutex_unlock(&l->compute);
    return s;
}

/* ---- attention itself ---- */

enum { JUDGE_ROWS = PLAN_CHUNK, JUDGE_ANSWER = 128 };

struct judged {
    const struct preset *preset;
    struct sparse *sparse; /* NULL = everything is read */
    struct select *select;
    double prefill_error, decode_error; /* sums over layers */
};

struct judging {
    struct kern *k;
    struct judged *at;
    int32_t n_preset, n_tok, n_layer; /* n_layer: judged so far */
    float *dense, *out;               /* dev [JUDGE_ROWS, n_head, head_dim] */
    float *host[2];
    size_t row; /* floats */
};

/* Relative error of rows [row0, row0 + n) of out against dense. */
static double error_of(struct judging *j, int32_t row0, int32_t n)
{
    double off = 0, all = 0;
    size_t size = (size_t)n * j->row * sizeof(float), at = (size_t)row0 * j->row;
    j->k->ops->download(j->k, j->host[0], j->dense + at, size);
    j->k->ops->download(j->k, j->host[1], j->out + at, size);
    for (size_t i = 0; i < (size_t)n * j->row; i++) {
        double d = (double)j->host[0][i], e = (double)j->host[1][i] - d;
        off += e * e;
        all += d * d;
    }
    return all > 0 ? sqrt(off / all) : 0;
}

static void judge_answer(struct judging *j, struct judged *p, int32_t layer,
                         const struct kern_attn *a)
{
    int32_t n_before = a->n_tok - JUDGE_ANSWER;
    struct kern_attn prompt = *a;
    prompt.n_tok = n_before;
    select_observe(p->select, layer, &prompt);
    for (int32_t i = n_before; i < a->n_tok; i++) {
        struct kern_attn one = *a;
        one.n_tok = 1;
        one.pos0 = a->pos0 + i;
        one.q = a->q + (size_t)i * j->row;
        one.out = j->out + (size_t)i * j->row;
        select_attend(p->select, layer, &one);
    }
    p->decode_error += error_of(j, n_before, JUDGE_ANSWER);
}

static void judge(void *ctx, const struct model_layer *l, const struct kern_attn *a)
{
    struct judging *j = ctx;
    int32_t layer = l->attn_at;
    j->k->ops->attend(j->k, a);
    bool last = a->pos0 + a->n_tok == j->n_tok;
    if (a->window > 0 || a->n_tok < JUDGE_ROWS)
        return;
    struct kern_attn with = *a;
    with.lse = NULL;
    with.out = j->dense;
    if (last)
        j->k->ops->attend(j->k, &with);
    with.out = j->out;
    j->n_layer += last;
    for (int32_t i = 0; i < j->n_preset; i++) {
        struct judged *p = &j->at[i];
        if (p->sparse) {
            sparse_attend(p->sparse, layer, &with, INT32_MAX);
            p->prefill_error += last ? error_of(j, 0, a->n_tok) : 0;
        }
        if (p->select && last)
            judge_answer(j, p, layer, &with);
    }
}

static enum status judge_text(struct local *l, struct judging *j, const int32_t *ids, int32_t n,
                              struct err *e)
{
    const struct preset *pages = presets_find("8/8");
    const struct kv_shape shape = local_kv_shape(l);
    if (!kv_can_seal(&shape, NULL))
        pages = presets_find("exact");
    struct kv_pool *pool = kv_pool_new(l->kern, &shape, pages,
                                       kv_most_bytes(&shape, pages, l->plan.n_ctx, PLAN_CHUNK));
    struct kv_line *line = kv_line_new(pool, l->plan.n_ctx);
    enum status s = OK;
    forward_set_answer(l->forward, judge, j);
    for (int32_t at = 0; s == OK && at < n;) { /* the last chunk is whole */
        int32_t now = at == 0 && n % JUDGE_ROWS ? n % JUDGE_ROWS : JUDGE_ROWS;
        s = kv_reserve(line, now, e);
        if (s == OK)
            s = forward_run(l->forward, line, ids + at, now, FORWARD_ALL, NULL, NULL, e);
        at += now;
    }
    forward_set_answer(l->forward, NULL, NULL);
    kv_line_free(line);
    kv_pool_free(pool);
    return s;
}

static enum status judge_open(struct local *l, struct judging *j, const char *const *presets,
                              int32_t n_preset, struct err *e)
{
    const struct model_params *p = &l->model->p;
    const struct sparse_shape shape = {p->n_layer_attn, p->n_head, p->n_head_kv, p->head_dim};
    size_t size = JUDGE_ROWS * j->row * sizeof(float);
    j->dense = j->k->ops->alloc(j->k, size);
    j->out = j->k->ops->alloc(j->k, size);
    j->host[0] = mem_try(size);
    j->host[1] = mem_try(size);
    if (!j->dense || !j->out || !j->host[0] || !j->host[1])
        return err_set(e, ERR_MEMORY, "out of memory: no %zu bytes to judge attention in", 4 * size);
    for (int32_t i = 0; i < n_preset; i++) {
        struct judged *at = &j->at[i];
        at->preset = presets_find(presets[i]);
        if (!at->preset)
            return presets_unknown(presets[i], e);
        float coverage = at->preset->coverage > 0 ? at->preset->coverage : 1;
        if (coverage < 1 || at->preset->prefill.score != PREFILL_CAP)
            at->sparse = sparse_new(l->kern, &shape,
                                    &(struct sparse_params){.coverage = coverage, .n_min = 1,
                                                            .always = true,
                                                            .method = at->preset->prefill});
        if (coverage < 1 || at->preset->decode.share > 0) {
            at->select = select_new(l->kern, &shape,
                                    &(struct select_params){.n_min = 1,
                                                            .method = at->preset->decode});
            select_begin(at->select, coverage, j->n_tok - JUDGE_ANSWER);
        }
    }
    return OK;
}

static void judge_close(struct judging *j, struct engine_attention *ret)
{
    for (int32_t i = 0; i < j->n_preset; i++) {
        struct judged *p = &j->at[i];
        struct engine_attention *r = &ret[i];
        *r = (struct engine_attention){NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
        if (p->sparse && j->n_layer > 0) {
            struct sparse_report t;
            sparse_report(p->sparse, &t);
            r->prefill_density = t.density;
            r->prefill_mass = t.mass_mean;
            r->prefill_mass_p5 = t.mass_p5;
            r->prefill_error = p->prefill_error / j->n_layer;
        }
        if (p->select && j->n_layer > 0) {
            struct select_report t;
            select_report(p->select, &t);
            r->decode_density = t.density;
            r->decode_mass = t.mass_mean;
            r->decode_mass_p5 = t.mass_p5;
            r->decode_error = p->decode_error / j->n_layer;
        }
        sparse_free(p->sparse);
        select_free(p->select);
    }
    if (j->dense)
        j->k->ops->free(j->k, j->dense);
    if (j->out)
        j->k->ops->free(j->k, j->out);
    free(j->host[0]);
    free(j->host[1]);
    free(j->at);
}

enum status measure_attention(struct engine *en, const int32_t *ids, int32_t n,
                              const char *const *presets, int32_t n_preset,
                              struct engine_attention *ret, struct err *e)
{
    struct local *l = (struct local *)en;
    TRY(local_check_ids(l, ids, n, e));
    TRY(begin(l, e));
    struct judging j = {.k = l->kern, .n_preset = n_preset, .n_tok = n,
                        .row = (size_t)l->model->p.n_head * (size_t)l->model->p.head_dim};
    j.at = mem_calloc((size_t)n_preset, sizeof *j.at);
    enum status s = OK;
    if (n < 2 * JUDGE_ROWS)
        s = err_set(e, ERR_USAGE, "%d tokens are too few to judge attention on; %d are needed", n,
                    2 * JUDGE_ROWS);
    else if (n > l->plan.n_ctx)
        s = too_long(l, n, e);
    if (s == OK)
        s = judge_open(l, &j, presets, n_preset, e);
    if (s == OK)
        s = judge_text(l, &j, ids, n, e);
    judge_close(&j, ret);
    pthread_mutex_unlock(&l->compute);
    return s;
}

/* ---- the floor ---- */

enum status measure_floor(struct engine *en, struct engine_floor *ret, struct err *e)
{
    struct local *l = (struct local *)en;
    TRY(begin(l, e));
    const struct kv_shape shape = local_kv_shape(l);
    enum status s = OK;
    int32_t dim;
    if (!kv_can_seal(&shape, &dim))
        s = err_set(e, ERR_UNSUPPORTED, "heads of %d channels are not compressed", dim);
    else if (l->floor.n == 0)
        s = floor_measure(l->model, l->tokenizer, FLOOR_LIMIT, NULL, NULL, &l->floor, e);
    if (s == OK) {
        if (l->cache_dir)
            floor_store(l->cache_dir, l->floor_key, &l->floor);
        *ret = local_floor_info(&l->floor);
    }
    pthread_mutex_unlock(&l->compute);
    return s;
}

enum status engine_floor_known(const char *path, const char *cache_dir, struct engine_floor *ret,
                               struct err *e)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct model *m = NULL;
    struct floor f;
    enum status s = gguf_open(path, &g, e);
    if (s == OK)
        s = tokenizer_open(g, &t, e);
    if (s == OK)
        s = model_read(g, &m, e);
    if (s == OK && !floor_load(cache_dir, model_fingerprint(m) ^ tokenizer_hash(t), &f))
        s = err_set(e, ERR_NOT_FOUND, "not measured yet");
    if (s == OK)
        *ret = local_floor_info(&f);
    model_free(m);
    tokenizer_free(t);
    gguf_close(g);
    return s;
}
