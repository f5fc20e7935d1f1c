/* Sparse attention at the level of attention itself: how much softmax mass each way of reading less
 * keeps and how far its answer is off, at which density; and what choosing and lists cost in time.
 * Built with the tests, run by hand:
 *
 *   bench_sparse [-t THREADS] [-r REPEATS] ...
 *     heads [n_tok]               quality on synthetic heads (tests/engine/heads.h)
 *     model FILE.gguf TEXT [n]    a model reads a text: dense against coverage 0.95, chunk by chunk
 *                                 (quality on its heads: dogear eval --attention)
 *     time [n_tok...]             the same on synthetic heads, for 512 rows at the end of n_tok keys, in
 *                                 parts; of the mixed heads one in four cannot be sparse
 *     prompt [n_tok...]           whole prompts of n_tok, of the spread heads none can be sparse
 *     decode [n_tok...]           an answer: dense against a quarter of the pages, and coverage 0.95
 *
 * One thread is timed by the processor time it took, more by the clock on the wall.
 *
 * Quality looks at the last 512 rows, of answers at the last 64, over 8/8 pages. Ways are the rows of
 * engine/presets.c; those that have a coverage are shown at three. `oracle` knows the true mass of
 * all rows of a block and takes the fewest blocks that reach the coverage. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/blocks.h"
#include "engine/forward.h"
#include "engine/presets.h"
#include "engine/select.h"
#include "engine/sparse.h"
#include "engine/tokenizer.h"
#include "kernels/score.h"
#include "tests/engine/heads.h"

enum { ROWS = 512, ANSWER = 64, N_COVER = 3, LAYERS = 64 }; /* LAYERS: that are told of */
static const float covers[N_COVER] = {0.90f, 0.95f, 0.99f};

/* Of a preset, how it reads prompts or how it answers; the oracle is no preset. */
static const struct way {
    const char *preset;
    bool answers;
} ways[] = {
    {"oracle", false},        {"exact", false},      {"loopserve", false},   {"minference", false},
    {"flexprefill", false},   {"sampleattention", false}, {"xattention", false},  {"a-shape", false},
    {"tri-shape", false},     {"delta", false},      {"exact", true},        {"progressive", true},
    {"loopserve", true},      {"quest", true},       {"hsa", true},          {"rocketkv-mt", true},
    {"snapkv-turn", true},
};
enum { ORACLE, N_WAY = sizeof ways / sizeof *ways };

struct tally {
    double density, mass, error, low; /* low: rows that keep less than half */
    int64_t n, n_row;
};
static struct tally tallies[N_WAY][N_COVER];
static int32_t n_repeat = 3;
static bool own_time; /* one thread: processor time */

static double now_s(void)
{
    struct timespec t;
    clock_gettime(own_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *floats(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) & ~(size_t)63);
    if (!p)
        exit(1);
    memset(p, 0, n * sizeof *p);
    return p;
}

/* ---- quality ---- */

/* A call and its dense answer. */
struct view {
    struct kern *k;
    struct kern_attn a; /* out and lse: dense */
    int32_t n_kv, d, b0, n_rb, n_block;
    float *out, *lse;   /* another answer */
};

static struct view view_make(struct kern *k, const struct kern_attn *a)
{
    struct view v = {.k = k, .a = *a, .n_kv = a->kv->n_head_kv, .d = a->kv->head_dim};
    size_t n = (size_t)a->n_tok * (size_t)a->n_head;
    v.b0 = a->pos0 / 64;
    v.n_block = (a->pos0 + a->n_tok - 1) / 64 + 1;
    v.n_rb = v.n_block - v.b0;
    v.a.out = floats(n * (size_t)v.d);
    v.a.lse = floats(n);
    v.out = floats(n * (size_t)v.d);
    v.lse = floats(n);
    k->ops->attend(k, &v.a);
    return v;
}

static void view_free(struct view *v)
{
    free(v->a.out);
    free(v->a.lse);
    free(v->out);
    free(v->lse);
}

/* Adds rows [row0, n_tok) of the other answer; where there is no lse, its error alone. */
static void judge(const struct view *v, int32_t row0, bool masses, double density, struct tally *t)
{
    double off = 0, all = 0;
    size_t first = (size_t)row0 * (size_t)v->a.n_head, n = (size_t)v->a.n_tok * (size_t)v->a.n_head;
    for (size_t i = first * (size_t)v->d; i < n * (size_t)v->d; i++) {
        double d = (double)v->a.out[i], e = (double)v->out[i] - d;
        off += e * e;
        all += d * d;
    }
    for (size_t i = first; masses && i < n; i++) {
        double w = fmin(1, exp((double)v->lse[i] - (double)v->a.lse[i]));
        t->mass += w;
        t->low += w < 0.5;
        t->n_row++;
    }
    t->density += density;
    t->error += sqrt(off / all);
    t->n++;
}

/* The fewest blocks that hold `cover` of the mass of each head, on average over a row block. */
static void choose_by_truth(const struct view *v, float cover, int32_t *first, int32_t *index)
{
    int32_t n_tok = v->a.n_tok, group = v->a.n_head / v->n_kv, row[n_tok], at = 0;
    float *mass = floats((size_t)v->a.n_head * (size_t)n_tok * (size_t)v->n_block);
    float *lse = floats((size_t)v->a.n_head * (size_t)n_tok);
    for (int32_t i = 0; i < n_tok; i++)
        row[i] = i;
    struct kern_score s = {.a = &v->a, .n_block = v->n_block, .n_row = n_tok, .row = row,
                           .mass = mass, .lse = lse};
    if (!kern_score(v->k, &s)) {
        fprintf(stderr, "this backend has no scorer\n");
        exit(1);
    }
    for (int32_t hk = 0; hk < v->n_kv; hk++) {
        first[hk * (v->n_rb + 1)] = at;
        for (int32_t r = 0; r < v->n_rb; r++) {
            int32_t older = v->b0 + r - 1, row0 = r * 64 - v->a.pos0 % 64;
            float sum[group * v->n_block], acc[group];
            struct ranked rank[v->n_block];
            memset(sum, 0, sizeof sum);
            for (int32_t g = 0; g < group; g++) {
                for (int32_t i = row0; i < row0 + 64; i++)
                    for (int32_t j = 0; j < v->n_block; j++)
                        sum[g * v->n_block + j] +=
                            mass[((size_t)(hk * group + g) * (size_t)n_tok + (size_t)i) *
                                     (size_t)v->n_block + (size_t)j] / 64;
                acc[g] = sum[g * v->n_block + older] + sum[g * v->n_block + older + 1];
            }
            for (int32_t j = 0; j < older; j++) {
                rank[j] = (struct ranked){0, j};
                for (int32_t g = 0; g < group; g++)
                    rank[j].score = fmaxf(rank[j].score, sum[g * v->n_block + j]);
            }
            blocks_rank(rank, older);
            int32_t n = blocks_cover(rank, older, sum, v->n_block, group, cover, older, acc,
                                     index + at);
            blocks_order(index + at, n);
            first[hk * (v->n_rb + 1) + r + 1] = at += n;
        }
    }
    free(mass);
    free(lse);
}

static double density_of(const struct view *v, const struct kern_block_list *list)
{
    double listed = 0, possible = 0;
    for (int32_t hk = 0; hk < v->n_kv; hk++)
        for (int32_t r = 0; r < v->n_rb; r++) {
            const int32_t *first = list->first + hk * (v->n_rb + 1);
            listed += first[r + 1] - first[r] + 2;
            possible += v->b0 + r + 1;
        }
    return listed / possible;
}

/* A prompt's rows by one method, after the feedback of the chunks before. */
static void read_prompt(const struct view *v, const struct prefill_method *m, float cover,
                        bool oracle, struct tally *t)
{
    struct sparse_shape shape = {1, v->a.n_head, v->n_kv, v->d};
    struct sparse_params p = {.coverage = cover, .n_min = 1, .rho_max = 2, .always = true,
                              .method = *m};
    struct sparse *sp = sparse_new(v->k, &shape, &p);
    struct kern_attn other = v->a;
    other.out = v->out;
    other.lse = NULL;
    for (int i = 0; !oracle && i < (m->score == PREFILL_CAP ? 3 : 0); i++)
        sparse_attend(sp, 0, &other, INT32_MAX);
    size_t n = (size_t)v->n_kv * (size_t)v->n_rb;
    int32_t *first = mem_alloc(sizeof *first * (n + (size_t)v->n_kv));
    int32_t *index = mem_alloc(sizeof *index * n * (size_t)v->n_block);
    struct kern_block_list truth = {first, index};
    enum sparse_reason why;
    const struct kern_block_list *list =
        oracle ? &truth : sparse_choose(sp, 0, &v->a, INT32_MAX, &why);
    if (oracle)
        choose_by_truth(v, cover, first, index);
    struct kern_attn with = other;
    with.list = list;
    with.lse = v->lse;
    v->k->ops->attend(v->k, &with);
    if (!oracle) /* with what it corrects */
        sparse_attend(sp, 0, &other, INT32_MAX);
    judge(v, 0, true, list ? density_of(v, list) : 1, t);
    sparse_free(sp);
    free(first);
    free(index);
}

/* The last rows one by one, as an answer to the rows before. */
static void read_answer(const struct view *v, const struct decode_method *m, float cover,
                        struct tally *t)
{
    enum { LAYER = 2 }; /* some methods read all in the first two */
    struct sparse_shape shape = {LAYER + 1, v->a.n_head, v->n_kv, v->d};
    struct select_params p = {.n_min = 1, .method = *m};
    struct select *se = select_new(v->k, &shape, &p);
    int32_t row0 = v->a.n_tok - ANSWER;
    struct kern_attn one = v->a;
    one.n_tok = row0;
    select_begin(se, cover, v->a.pos0 + row0);
    select_observe(se, LAYER, &one);
    one.n_tok = 1;
    for (int32_t i = row0; i < v->a.n_tok; i++) {
        size_t at = (size_t)i * (size_t)v->a.n_head;
        one.pos0 = v->a.pos0 + i;
        one.q = v->a.q + at * (size_t)v->d;
        one.out = v->out + at * (size_t)v->d;
        one.lse = v->lse + at;
        select_attend(se, LAYER, &one);
    }
    struct select_report r;
    select_report(se, &r);
    judge(v, row0, true, r.density, t);
    select_free(se);
}

static bool has_coverage(int way)
{
    const struct preset *p = presets_find(ways[way].preset);
    if (way == ORACLE)
        return true;
    return ways[way].answers ? p->decode.share == 0
                             : p->prefill.score == PREFILL_CAP || p->prefill.coverage > 0;
}

static void compare(struct kern *k, const struct kern_attn *a)
{
    struct view v = view_make(k, a);
    for (int w = 0; w < N_WAY; w++)
        for (int c = 0; c < (has_coverage(w) ? N_COVER : 1); c++) {
            const struct preset *p = presets_find(w == ORACLE ? "exact" : ways[w].preset);
            struct prefill_method m = p->prefill;
            if (m.coverage > 0)
                m.coverage = covers[c];
            if (ways[w].answers)
                read_answer(&v, &p->decode, covers[c], &tallies[w][c]);
            else
                read_prompt(&v, &m, covers[c], w == ORACLE, &tallies[w][c]);
        }
    view_free(&v);
}

static void print_tallies(void)
{
    printf("%-23s", "density mass <0.5 error");
    for (int c = 0; c < N_COVER; c++)
        printf(" | at coverage %.2f      ", (double)covers[c]);
    printf("\n");
    for (int w = 0; w < N_WAY; w++) {
        bool own = strcmp(ways[w].preset, "exact") == 0;
        printf("%-8s%-15s", ways[w].answers ? "answer" : "prompt", own ? "(ours)" : ways[w].preset);
        for (int c = 0; c < (has_coverage(w) ? N_COVER : 1); c++) {
            struct tally *t = &tallies[w][c];
            printf(" | %.3f %.3f %.3f %.3f", t->density / (double)t->n, t->mass / (double)t->n_row,
                   t->low / (double)t->n_row, t->error / (double)t->n);
        }
        printf("\n");
    }
    memset(tallies, 0, sizeof tallies);
}

static void run_heads(struct kern *k, int32_t n)
{
    static const char *const names[] = {"recall", "local", "spread", "needle"};
    for (int kind = 0; kind < 4; kind++) {
        struct heads h = heads_make((enum heads_kind)kind, n, 4, 2, 64, 3);
        heads_seal(&h, n, 8, 8);
        struct kern_attn a = heads_attn(&h, n - ROWS, ROWS, NULL);
        printf("synthetic heads: %s, %d keys\n", names[kind], n);
        compare(k, &a);
        print_tallies();
        fflush(stdout);
        heads_free(&h);
    }
}

/* ---- a model's own heads ---- */

struct recorder {
    struct kern *k;
    int32_t n;
    struct sparse *sp;
    double dense_s, sparse_s, end_dense_s, end_sparse_s; /* all; of the last chunk */
    double density[LAYERS], fewest[LAYERS]; /* of the last chunk, by layer: ours, the oracle's */
};

static void record(void *ctx, const struct model_layer *l, const struct kern_attn *a)
{
    struct recorder *r = ctx;
    int32_t layer = l->attn_at;
    double t0 = now_s();
    sparse_attend(r->sp, layer, a, INT32_MAX);
    double t1 = now_s();
    r->k->ops->attend(r->k, a); /* what the model goes on with */
    double dense = now_s() - t1, sparse = t1 - t0;
    r->dense_s += dense;
    r->sparse_s += sparse;
    if (a->pos0 + a->n_tok < r->n || a->n_tok != ROWS || a->window > 0 || layer >= LAYERS)
        return;
    r->end_dense_s += dense;
    r->end_sparse_s += sparse;
    struct view v = view_make(r->k, a);
    size_t n = (size_t)v.n_kv * (size_t)v.n_rb;
    int32_t *first = mem_alloc(sizeof *first * (n + (size_t)v.n_kv));
    int32_t *index = mem_alloc(sizeof *index * n * (size_t)v.n_block);
    enum sparse_reason why;
    const struct kern_block_list *list = sparse_choose(r->sp, layer, a, INT32_MAX, &why);
    r->density[layer] = list ? density_of(&v, list) : 1;
    choose_by_truth(&v, 0.95f, first, index);
    r->fewest[layer] = density_of(&v, &(struct kern_block_list){first, index});
    free(first);
    free(index);
    view_free(&v);
}

static void must(enum status s, const struct err *e)
{
    if (s == OK)
        return;
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static void run_model(struct kern *k, const char *path, const char *text_path, int32_t n)
{
    struct err e;
    struct gguf *g;
    struct model *m;
    struct forward *f;
    struct tokenizer *tok;
    struct tok_list ids = {0};
    FILE *file = fopen(text_path, "rb");
    if (!file) {
        fprintf(stderr, "%s cannot be read\n", text_path);
        exit(1);
    }
    size_t room = (size_t)n * 16 + 4096;
    char *text = mem_alloc(room);
    size_t len = fread(text, 1, room, file);
    fclose(file);
    while (len > 0 && ((unsigned char)text[len - 1] & 0x80)) /* no character in half */
        len--;
    must(gguf_open(path, &g, &e), &e);
    must(tokenizer_open(g, &tok, &e), &e);
    must(tokenizer_encode(tok, text, len, true, true, &ids, &e), &e);
    must(model_read(g, &m, &e), &e);
    n = n / 64 * 64;
    if (ids.n < n) {
        fprintf(stderr, "%s has %d tokens, %d are wanted\n", text_path, ids.n, n);
        exit(1);
    }
    model_set_ctx(m, n);
    must(model_load(m, k, NULL, NULL, &e), &e);
    must(forward_new(m, ROWS, &f, &e), &e);
    struct kv_shape shape = forward_kv_shape(&m->p);
    struct kv_pool *pool = kv_pool_new(k, &shape, presets_find("8/8"), (uint64_t)1 << 33);
    struct kv_line *line = kv_line_new(pool, n);
    struct sparse_shape heads = {m->p.n_layer_attn, m->p.n_head, m->p.n_head_kv, m->p.head_dim};
    struct recorder r = {.k = k, .n = n};
    r.sp = sparse_new(k, &heads, &(struct sparse_params){.coverage = 0.95f});
    forward_set_answer(f, record, &r);
    for (int32_t at = 0; at < n;) {
        int32_t now = at == 0 && n % ROWS ? n % ROWS : ROWS;
        must(kv_reserve(line, now, &e), &e);
        must(forward_run(f, line, ids.ids + at, now, FORWARD_ALL, NULL, NULL, &e), &e);
        at += now;
    }
    struct sparse_report was;
    sparse_report(r.sp, &was);
    printf("%s reading %s, %d keys, %d layers: dense %.1f ms, asked for 0.95 %.1f ms: %.2fx (last %d "
           "rows %.2fx), density %.3f, mass %.3f (p5 %.3f), scoring %.1f %% of sparse calls; %s\n",
           m->p.name, text_path, n, m->p.n_layer, r.dense_s * 1e3, r.sparse_s * 1e3,
           r.dense_s / r.sparse_s, ROWS, r.end_dense_s / r.end_sparse_s, was.density, was.mass_mean,
           was.mass_p5, 100 * was.score_share, sparse_reason_text(was.reason));
    for (int32_t i = 0; i < m->p.n_layer && i < LAYERS; i++) {
        double density, mass;
        sparse_report_layer(r.sp, i, &density, &mass);
        printf("  layer %d: density %.3f, mass %.3f; of the last rows density "
               "%.3f, of the fewest blocks that hold 0.95 %.3f\n", i, density, mass, r.density[i],
               r.fewest[i]);
    }
    sparse_free(r.sp);
    kv_line_free(line);
    kv_pool_free(pool);
    forward_free(f);
    model_free(m);
    tok_list_fini(&ids);
    tokenizer_free(tok);
    gguf_close(g);
    free(text);
}

/* ---- time ---- */

static const char *kind_name(enum heads_kind kind)
{
    return kind == HEADS_MIXED ? "mixed" : kind == HEADS_RECALL ? "recall" : "spread";
}

enum { HEADS = 16, HEADS_KV = 4, DIM = 64 };
static const struct sparse_shape one_layer = {1, HEADS, HEADS_KV, DIM};

static double least(double a, double b)
{
    return b < a ? b : a;
}

/* Parts: scoring and choosing; attention through the lists; held-out rows and the correction. */
static void run_time(struct kern *k, enum heads_kind kind, int32_t n, bool sealed)
{
    struct heads h = heads_make(kind, n, HEADS, HEADS_KV, DIM, 3);
    if (sealed)
        heads_seal(&h, n - ROWS, 4, 4);
    float *out = floats((size_t)ROWS * HEADS * DIM), *lse = floats((size_t)ROWS * HEADS);
    struct kern_attn a = heads_attn(&h, n - ROWS, ROWS, out);
    struct sparse_params p = {.coverage = 0.95f, .n_min = 1, .always = true};
    struct sparse *sp = sparse_new(k, &one_layer, &p);
    struct view v = {.n_kv = HEADS_KV, .b0 = (n - ROWS) / 64, .n_rb = ROWS / 64};
    enum sparse_reason why;
    double dense = INFINITY, scoring = INFINITY, listed = INFINITY, whole = INFINITY, density = 0;
    for (int i = 0; i < n_repeat; i++) {
        double t0 = now_s();
        k->ops->attend(k, &a);
        double t1 = now_s();
        struct kern_attn with = a;
        with.list = sparse_choose(sp, 0, &a, INT32_MAX, &why);
        with.lse = lse;
        double t2 = now_s();
        k->ops->attend(k, &with);
        double t3 = now_s();
        density = with.list ? density_of(&v, with.list) : 1;
        double t4 = now_s();
        sparse_attend(sp, 0, &a, INT32_MAX);
        whole = least(whole, now_s() - t4);
        dense = least(dense, t1 - t0);
        scoring = least(scoring, t2 - t1);
        listed = least(listed, t3 - t2);
    }
    struct sparse_report r;
    sparse_report(sp, &r);
    printf("%-6s %6d keys %s: dense %8.2f ms; of it scoring %.1f %%, lists %.1f %% at density %.3f "
           "(x%.2f per block), held out %.1f %%: %.2fx; mass %.3f\n",
           kind_name(kind), n, sealed ? "4/4" : "f16", dense * 1e3, 100 * scoring / dense,
           100 * listed / dense, density, listed / dense / density,
           100 * (whole - scoring - listed) / dense, dense / whole, r.mass_mean);
    fflush(stdout);
    sparse_free(sp);
    free(out);
    free(lse);
    heads_free(&h);
}

/* Chunk after chunk, as a model would. */
static void run_prompt(struct kern *k, enum heads_kind kind, int32_t n)
{
    struct heads h = heads_make(kind, n, HEADS, HEADS_KV, DIM, 3);
    heads_seal(&h, n, 8, 8);
    struct sparse *sp = sparse_new(k, &one_layer, &(struct sparse_params){.coverage = 0.95f});
    float *out = floats((size_t)ROWS * HEADS * DIM);
    double dense = INFINITY, tried = INFINITY;
    for (int i = 0; i < n_repeat; i++) {
        double sum[2] = {0, 0};
        sparse_begin(sp, 0.95f);
        for (int32_t at = 0; at < n; at += ROWS) {
            struct kern_attn a = heads_attn(&h, at, n - at < ROWS ? n - at : ROWS, out);
            double t0 = now_s();
            k->ops->attend(k, &a);
            double t1 = now_s();
            sparse_attend(sp, 0, &a, n);
            sum[0] += t1 - t0;
            sum[1] += now_s() - t1;
        }
        dense = least(dense, sum[0]);
        tried = least(tried, sum[1]);
    }
    struct sparse_report r;
    sparse_report(sp, &r);
    printf("%-6s heads, prompt of %6d, 8/8: dense %8.2f ms, asked for 0.95 %8.2f ms: x%.3f, %.2fx; "
           "density %.3f, mass %.3f; %s\n",
           kind_name(kind), n, dense * 1e3, tried * 1e3, tried / dense, dense / tried, r.density,
           r.mass_mean, sparse_reason_text(r.reason));
    fflush(stdout);
    sparse_free(sp);
    free(out);
    heads_free(&h);
}

/* An answer of 64 tokens, and the last 16 of it, when lists are there. */
static void run_decode(struct kern *k, enum heads_kind kind, int32_t n, float coverage)
{
    enum { LAST = ANSWER - SELECT_EVERY };
    struct heads h = heads_make(kind, n, 2 * HEADS, 2 * HEADS_KV, DIM, 3);
    heads_seal(&h, n - ANSWER, 4, 4);
    float *out = floats((size_t)2 * HEADS * DIM);
    struct select_params p = {.share = 0.25f, .n_min = 1};
    struct sparse_shape shape = {1, 2 * HEADS, 2 * HEADS_KV, DIM};
    struct select *se = select_new(k, &shape, &p);
    double took[2][2] = {{INFINITY, INFINITY}, {INFINITY, INFINITY}}; /* [dense, selected][all, last] */
    for (int i = 0; i < n_repeat; i++)
        for (int way = 0; way < 2; way++) {
            double start = now_s(), last = 0;
            select_begin(se, coverage, n - ANSWER);
            for (int32_t t = 0; t < ANSWER; t++) {
                struct kern_attn a = heads_attn(&h, n - ANSWER + t, 1, out);
                if (t == LAST)
                    last = now_s();
                if (way == 0)
                    k->ops->attend(k, &a);
                else
                    select_attend(se, 0, &a);
            }
            double end = now_s();
            took[way][0] = least(took[way][0], (end - start) / ANSWER);
            took[way][1] = least(took[way][1], (end - last) / SELECT_EVERY);
        }
    struct select_report r;
    select_report(se, &r);
    printf("%-6s %6d keys 4/4, %s: a token dense %8.1f us, selected %8.1f us: %.2fx, of the last 16 "
           "%.2fx; density %.3f, mass %.3f\n", kind_name(kind), n,
           coverage > 0 ? "coverage 0.95" : "a quarter", took[0][0] * 1e6, took[1][0] * 1e6,
           took[0][0] / took[1][0], took[0][1] / took[1][1], r.density, r.mass_mean);
    fflush(stdout);
    select_free(se);
    free(out);
    heads_free(&h);
}

int main(int argc, char **argv)
{
    int n_thread = 0;
    for (; argc > 2 && argv[1][0] == '-'; argc -= 2, argv += 2) {
        if (strcmp(argv[1], "-t") == 0)
            n_thread = atoi(argv[2]);
        if (strcmp(argv[1], "-r") == 0)
            n_repeat = atoi(argv[2]);
    }
    const char *what = argc > 1 ? argv[1] : "heads";
    struct kern *k = kern_open_cpu(NULL, n_thread);
    if (!k)
        return 1;
    own_time = k->n_thread == 1;
    printf("%s, %d threads, %s time\n", k->name, k->n_thread, own_time ? "processor" : "wall");
    if (strcmp(what, "heads") == 0) {
        run_heads(k, argc > 2 ? atoi(argv[2]) / 64 * 64 : 8192);
    } else if (strcmp(what, "model") == 0 && argc > 3) {
        run_model(k, argv[2], argv[3], argc > 4 ? atoi(argv[4]) : 2048);
    } else if (strcmp(what, "time") == 0 || strcmp(what, "decode") == 0 ||
               strcmp(what, "prompt") == 0) {
        for (int i = 2; i < argc; i++) {
            int32_t n = atoi(argv[i]) / 64 * 64;
            if (*what == 'd' && n >= 2 * ROWS) {
                run_decode(k, HEADS_MIXED, n, 0);
                run_decode(k, HEADS_MIXED, n, 0.95f);
                run_decode(k, HEADS_SPREAD, n, 0.95f);
            }
            if (*what == 'p' && n >= 64) {
                run_prompt(k, HEADS_SPREAD, n);
                run_prompt(k, HEADS_MIXED, n);
                run_prompt(k, HEADS_RECALL, n);
            }
            for (int sealed = 0; *what == 't' && n >= 2 * ROWS && sealed < 2; sealed++) {
                run_time(k, HEADS_MIXED, n, sealed);
                run_time(k, HEADS_RECALL, n, sealed);
            }
        }
    } else {
        fprintf(stderr, "usage: bench_sparse [-t THREADS] [-r REPEATS] heads [n] | model FILE TEXT [n] | "
                        "time n... | prompt n... | decode n...\n");
        return 1;
    }
    kern_close(k);
    return 0;
}
