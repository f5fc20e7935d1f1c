/* Sparse attention at the level of attention itself: how much softmax mass each way of choosing
 * key blocks keeps and how far its output is off, at which density; and what scoring and lists cost
 * in time. Built with the tests, run by hand:
 *
 *   bench_sparse heads [n_tok]             quality on synthetic heads (tests/engine/heads.h)
 *   bench_sparse model FILE.gguf TEXT [n]  quality on the heads of a model reading a text
 *   bench_sparse time [n_tok...]           dense against sparse, 512 rows at the end of n_tok keys;
 *                                          of the mixed heads one in four cannot be sparse
 *   bench_sparse fallback [n_tok...]       a whole prompt of n_tok on heads that cannot be sparse
 *   bench_sparse decode [n_tok...]         dense against a quarter of the pages, one row
 *
 * Quality looks at the last 512 rows. Selectors choose 64x64 blocks per KV head and row block; the
 * first block, the row's own and the one before it are read by all of them. Those with a budget
 * take the best-scored blocks up to the same density as `cap` at each coverage:
 *   oracle   true mass of all 64 rows            rows     exact mass of 4 rows
 *   anti     strided antidiagonals (XAttention)  lines    verticals and slashes seen by the last 64
 *   window   columns seen by the last 64 rows       rows (MInference)
 *            (SnapKV)                            flex     lines, cut at coverage (FlexPrefill)
 *   bounds   per-channel page bounds (Quest)     a-shape  first block and the newest ones */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/forward.h"
#include "engine/select.h"
#include "engine/sparse.h"
#include "engine/tokenizer.h"
#include "kernels/score.h"
#include "tests/engine/heads.h"

enum { ROWS = 512, N_COVER = 3, N_REPEAT = 3 };
static const float covers[N_COVER] = {0.90f, 0.95f, 0.99f};

enum selector { CAP, ORACLE, ROWS4, ANTI, LINES, WINDOW, BOUNDS, ASHAPE, FLEX, N_SELECTOR };
static const char *const selector_names[N_SELECTOR] = {
    "cap", "oracle", "rows", "anti", "lines", "window", "bounds", "a-shape", "flex"};

struct tally {
    double density, mass, error, low; /* low: rows that keep less than half */
    int64_t n, n_row;
};
static struct tally tallies[N_SELECTOR][N_COVER];

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
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

/* ---- what selectors see of a call ---- */

struct view {
    struct kern *k;
    const struct kern_attn *a;
    int32_t n_kv, group, d, b0, n_rb, n_block;
    float *mass;  /* [n_head][n_tok][n_block] */
    float *lse;   /* [n_head][n_tok] */
    float *anti;  /* [n_head][n_tok/16][n_block] */
    float *dense; /* output */
};

static struct view view_make(struct kern *k, const struct kern_attn *a)
{
    struct view v = {.k = k, .a = a, .n_kv = a->kv->n_head_kv, .d = a->kv->head_dim};
    v.group = a->n_head / v.n_kv;
    v.b0 = a->pos0 / 64;
    v.n_block = (a->pos0 + a->n_tok - 1) / 64 + 1;
    v.n_rb = v.n_block - v.b0;
    v.mass = floats((size_t)a->n_head * a->n_tok * v.n_block);
    v.lse = floats((size_t)a->n_head * a->n_tok);
    v.anti = floats((size_t)a->n_head * (a->n_tok / 16) * v.n_block);
    v.dense = floats((size_t)a->n_head * a->n_tok * v.d);
    int32_t *row = mem_alloc(sizeof(int32_t) * a->n_tok), *group = mem_alloc(4 * (a->n_tok / 16));
    for (int32_t i = 0; i < a->n_tok; i++)
        row[i] = i;
    for (int32_t i = 0; i < a->n_tok / 16; i++)
        group[i] = i * 16;
    struct kern_score s = {.a = a, .n_block = v.n_block, .n_row = a->n_tok, .row = row,
                           .mass = v.mass, .lse = v.lse, .n_group = a->n_tok / 16, .group = group,
                           .anti = v.anti};
    if (!kern_score(k, &s)) {
        fprintf(stderr, "this backend has no scorer\n");
        exit(1);
    }
    struct kern_attn all = *a;
    all.out = v.dense;
    k->ops->attend(k, &all);
    free(row);
    free(group);
    return v;
}

static void view_free(struct view *v)
{
    free(v->mass);
    free(v->lse);
    free(v->anti);
    free(v->dense);
}

static const float *mass_of(const struct view *v, int32_t head, int32_t row)
{
    return v->mass + ((size_t)head * v->a->n_tok + row) * v->n_block;
}

/* Columns and diagonals, in blocks, that the last 64 rows put their mass on, all group heads. */
static void lines_of(const struct view *v, int32_t hk, float *column, float *slash)
{
    memset(column, 0, sizeof(float) * v->n_block);
    memset(slash, 0, sizeof(float) * v->n_block);
    for (int32_t g = 0; g < v->group; g++)
        for (int32_t r = v->a->n_tok - 64; r < v->a->n_tok; r++)
            for (int32_t j = 0, b = (v->a->pos0 + r) / 64; j <= b; j++) {
                float m = mass_of(v, hk * v->group + g, r)[j] / (64 * v->group);
                column[j] += m;
                slash[b - j] += m;
            }
}

/* Largest score that any key of the block could have with q, from per-channel bounds. */
static float bound_of(const struct view *v, int32_t hk, int32_t j, const float *q)
{
    const uint16_t *k = v->a->kv->block[(size_t)hk * v->a->kv->n_block_cap + j].k;
    float sum = 0;
    for (int32_t c = 0; c < v->d; c++) {
        float lo = INFINITY, hi = -INFINITY;
        for (int32_t t = 0; t < 64; t++) {
            float x = kern_f16_to_f32(k[c * 64 + t]);
            lo = fminf(lo, x);
            hi = fmaxf(hi, x);
        }
        sum += fmaxf(q[c] * lo, q[c] * hi);
    }
    return sum;
}

/* Scores of blocks 0..b for row block r of this KV head. */
static void score_blocks(const struct view *v, enum selector s, int32_t hk, int32_t r, float *score)
{
    const struct kern_attn *a = v->a;
    int32_t b = v->b0 + r, row0 = r * 64 - a->pos0 % 64;
    float column[v->n_block], slash[v->n_block];
    memset(score, 0, sizeof(float) * v->n_block);
    if (s == LINES || s == WINDOW)
        lines_of(v, hk, column, slash);
    for (int32_t j = 0; j <= b; j++) {
        for (int32_t g = 0; g < v->group; g++) {
            int32_t head = hk * v->group + g;
            float sum = 0;
            if (s == ORACLE || s == ROWS4)
                for (int32_t i = s == ORACLE ? 0 : 8; i < 64; i += s == ORACLE ? 1 : 16)
                    sum += mass_of(v, head, row0 + i)[j] / (s == ORACLE ? 64 : 4);
            if (s == ANTI)
                for (int32_t i = 0; i < 4; i++)
                    sum += v->anti[((size_t)head * (a->n_tok / 16) + row0 / 16 + i) * v->n_block + j];
            if (s == BOUNDS && j < b - 1)
                for (int32_t i = 8; i < 64; i += 16) {
                    const float *q = a->q + ((size_t)(row0 + i) * a->n_head + head) * v->d;
                    sum = fmaxf(sum, bound_of(v, hk, j, q) * a->scale + 1000);
                }
            score[j] = fmaxf(score[j], sum);
        }
        if (s == LINES)
            score[j] = column[j] + slash[b - j];
        if (s == WINDOW)
            score[j] = column[j];
        if (s == ASHAPE)
            score[j] = (float)j;
    }
}

struct pick {
    float score;
    int32_t block;
};

static int by_score(const void *x, const void *y)
{
    float a = ((const struct pick *)x)->score, b = ((const struct pick *)y)->score;
    return a < b ? 1 : a > b ? -1 : 0;
}

static int by_number(const void *x, const void *y)
{
    return *(const int32_t *)x - *(const int32_t *)y;
}

struct lists {
    int32_t *first, *index;
    struct kern_block_list list;
};

static struct lists lists_new(const struct view *v)
{
    struct lists l;
    l.first = mem_alloc(sizeof(int32_t) * v->n_kv * (v->n_rb + 1));
    l.index = mem_alloc(sizeof(int32_t) * v->n_kv * v->n_rb * v->n_block);
    l.list = (struct kern_block_list){l.first, l.index};
    return l;
}

/* budget: [n_kv][n_rb] older blocks to list. FLEX ignores it: each kind of line up to cover. */
static void choose(const struct view *v, enum selector s, const int32_t *budget, float cover,
                   struct lists *l)
{
    float score[v->n_block], column[v->n_block], slash[v->n_block];
    for (int32_t hk = 0; hk < v->n_kv; hk++) {
        int32_t *first = l->first + hk * (v->n_rb + 1);
        first[0] = hk * v->n_rb * v->n_block;
        if (s == FLEX)
            lines_of(v, hk, column, slash);
        bool has_column[v->n_block], has_slash[v->n_block];
        memset(has_column, 0, sizeof has_column);
        memset(has_slash, 0, sizeof has_slash);
        for (int kind = 0; s == FLEX && kind < 2; kind++) {
            float sum = 0, *line = kind ? slash : column;
            bool *has = kind ? has_slash : has_column;
            while (sum < cover) {
                int32_t best = -1;
                for (int32_t j = 0; j < v->n_block; j++)
                    if (!has[j] && (best < 0 || line[j] > line[best]))
                        best = j;
                if (best < 0)
                    break;
                has[best] = true;
                sum += line[best];
            }
        }
        for (int32_t r = 0; r < v->n_rb; r++) {
            int32_t b = v->b0 + r, n = 0, *index = l->index + first[r];
            struct pick pick[v->n_block];
            if (s == FLEX) {
                for (int32_t j = 0; j < b - 1; j++)
                    if (j == 0 || has_column[j] || has_slash[b - j])
                        index[n++] = j;
            } else {
                score_blocks(v, s, hk, r, score);
                for (int32_t j = 0; j < b - 1; j++)
                    pick[j] = (struct pick){j == 0 ? INFINITY : score[j], j};
                qsort(pick, (size_t)(b - 1), sizeof *pick, by_score);
                for (n = 0; n < budget[hk * v->n_rb + r]; n++)
                    index[n] = pick[n].block;
                qsort(index, (size_t)n, sizeof *index, by_number);
            }
            first[r + 1] = first[r] + n;
        }
    }
}

/* Attends with the lists and adds what came of it to the tally. */
static void judge(const struct view *v, const struct lists *l, struct tally *t)
{
    const struct kern_attn *a = v->a;
    size_t n = (size_t)a->n_tok * a->n_head;
    struct kern_attn with = *a;
    with.out = floats(n * v->d);
    with.lse = floats(n);
    with.list = &l->list;
    v->k->ops->attend(v->k, &with);
    double off = 0, all = 0, listed = 0, possible = 0;
    for (int32_t hk = 0; hk < v->n_kv; hk++)
        for (int32_t r = 0; r < v->n_rb; r++) {
            const int32_t *first = l->first + hk * (v->n_rb + 1);
            listed += first[r + 1] - first[r] + 2;
            possible += v->b0 + r + 1;
        }
    for (size_t i = 0; i < n * v->d; i++) {
        double d = (double)v->dense[i], e = (double)with.out[i] - d;
        off += e * e;
        all += d * d;
    }
    for (int32_t r = 0; r < a->n_tok; r++)
        for (int32_t h = 0; h < a->n_head; h++) {
            double w = fmin(1, exp((double)with.lse[r * a->n_head + h] -
                                   (double)v->lse[(size_t)h * a->n_tok + r]));
            t->mass += w;
            t->low += w < 0.5;
            t->n_row++;
        }
    t->density += listed / possible;
    t->error += sqrt(off / all);
    t->n++;
    free(with.out);
    free(with.lse);
}

/* All selectors on one call; cap's density is everybody's budget. */
static void compare(struct kern *k, const struct kern_attn *a)
{
    struct view v = view_make(k, a);
    struct lists l = lists_new(&v);
    int32_t *budget = mem_alloc(sizeof(int32_t) * v.n_kv * v.n_rb);
    struct sparse_shape shape = {1, a->n_head, v.n_kv, v.d};
    for (int c = 0; c < N_COVER; c++) {
        struct sparse_params p = {.coverage = covers[c], .n_min = 1, .rho_max = 2, .always = true};
        struct sparse *sp = sparse_new(k, &shape, &p);
        enum sparse_reason why;
        float *sink = floats((size_t)a->n_tok * a->n_head * v.d);
        struct kern_attn warm = *a;
        warm.out = sink;
        for (int i = 0; i < 3; i++) /* the feedback of the chunks before */
            sparse_attend(sp, 0, &warm, INT32_MAX);
        const struct kern_block_list *list = sparse_choose(sp, 0, a, INT32_MAX, &why);
        for (int32_t hk = 0; hk < v.n_kv; hk++)
            for (int32_t r = 0; r < v.n_rb; r++) {
                const int32_t *first = list ? list->first + hk * (v.n_rb + 1) : NULL;
                budget[hk * v.n_rb + r] = list ? first[r + 1] - first[r] : v.b0 + r - 1;
            }
        choose(&v, ASHAPE, budget, covers[c], &l); /* everything, when cap gave up */
        struct lists own = l;
        if (list)
            own = (struct lists){(int32_t *)list->first, (int32_t *)list->index, *list};
        judge(&v, &own, &tallies[CAP][c]);
        for (int s = ORACLE; s < N_SELECTOR; s++) {
            choose(&v, (enum selector)s, budget, covers[c], &l);
            judge(&v, &l, &tallies[s][c]);
        }
        sparse_free(sp);
        free(sink);
    }
    free(budget);
    free(l.first);
    free(l.index);
    view_free(&v);
}

static void print_tallies(void)
{
    printf("%-8s", "selector");
    for (int c = 0; c < N_COVER; c++)
        printf(" | at cap's %.2f: density  mass  <0.5  error", (double)covers[c]);
    printf("\n");
    for (int s = 0; s < N_SELECTOR; s++) {
        printf("%-8s", selector_names[s]);
        for (int c = 0; c < N_COVER; c++) {
            struct tally *t = &tallies[s][c];
            printf(" |                %.3f %.4f %.3f %.4f", t->density / t->n, t->mass / t->n_row,
                   t->low / t->n_row, t->error / t->n);
        }
        printf("\n");
    }
    memset(tallies, 0, sizeof tallies);
}

/* ---- where heads come from ---- */

static void run_heads(struct kern *k, int32_t n)
{
    static const char *const names[] = {"recall", "local", "spread", "needle"};
    for (int kind = 0; kind < 4; kind++) {
        struct heads h = heads_make((enum heads_kind)kind, n, 4, 2, 64, 3);
        struct kern_attn a = heads_attn(&h, n - ROWS, ROWS, NULL);
        printf("synthetic heads: %s, %d keys\n", names[kind], n);
        compare(k, &a);
        print_tallies();
        heads_free(&h);
    }
}

struct recorder {
    struct kern *k;
    int32_t n;
};

static void record(void *ctx, int32_t layer, const struct kern_attn *a)
{
    struct recorder *r = ctx;
    if (a->pos0 + a->n_tok == r->n && a->n_tok == ROWS && a->window == 0)
        compare(r->k, a);
    r->k->ops->attend(r->k, a);
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
    must(tokenizer_encode(tok, text, len, false, true, &ids, &e), &e);
    must(model_read(g, &m, &e), &e);
    n = n / 64 * 64;
    if (ids.n < n) {
        fprintf(stderr, "%s has %d tokens, %d are wanted\n", text_path, ids.n, n);
        exit(1);
    }
    model_set_ctx(m, n);
    must(model_load(m, k, NULL, NULL, &e), &e);
    must(forward_new(m, ROWS, &f, &e), &e);
    struct kv_shape shape = {m->p.n_layer, m->p.n_head_kv, m->p.head_dim};
    struct kv_pool *pool = kv_pool_new(k, &shape, NULL, (uint64_t)1 << 33);
    struct kv_line *line = kv_line_new(pool, n);
    struct recorder r = {k, n};
    forward_set_answer(f, record, &r);
    for (int32_t at = 0; at < n;) {
        int32_t now = at == 0 && n % ROWS ? n % ROWS : ROWS;
        must(kv_reserve(line, now, &e), &e);
        must(forward_run(f, line, ids.ids + at, now, FORWARD_ALL, NULL, NULL, &e), &e);
        at += now;
    }
    printf("%s reading %s, %d keys, %d layers\n", m->p.name, text_path, n, m->p.n_layer);
    print_tallies();
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

static void run_time(struct kern *k, enum heads_kind kind, int32_t n, bool sealed)
{
    struct heads h = heads_make(kind, n, 32, 8, 64, 3);
    if (sealed)
        heads_seal(&h, n - ROWS, 4, 4);
    struct sparse_shape shape = {1, 32, 8, 64};
    float *out = floats((size_t)ROWS * 32 * 64);
    struct kern_attn a = heads_attn(&h, n - ROWS, ROWS, out);
    struct sparse_params p = {.coverage = 0.95f, .n_min = 1, .always = true};
    struct sparse *sp = sparse_new(k, &shape, &p);
    enum sparse_reason why;
    double dense = INFINITY, scoring = INFINITY, listed = INFINITY, whole = INFINITY, read = 0;
    for (int i = 0; i < N_REPEAT; i++) {
        double t0 = now_s();
        k->ops->attend(k, &a);
        double t1 = now_s();
        const struct kern_block_list *list = sparse_choose(sp, 0, &a, INT32_MAX, &why);
        double t2 = now_s();
        struct kern_attn with = a;
        with.list = list;
        k->ops->attend(k, &with);
        double t3 = now_s();
        read = 0;
        for (int32_t hk = 0; list && hk < 8; hk++)
            for (int32_t r = 0; r < 8; r++)
                read += list->first[hk * 9 + r + 1] - list->first[hk * 9 + r] + 2;
        double t4 = now_s();
        sparse_attend(sp, 0, &a, INT32_MAX);
        whole = fmin(whole, now_s() - t4);
        dense = fmin(dense, t1 - t0);
        scoring = fmin(scoring, t2 - t1);
        listed = fmin(listed, t3 - t2);
    }
    double possible = 8 * (8 * (n / 64 - 8) + 36);
    struct sparse_report r;
    sparse_report(sp, &r);
    printf("%s %6d keys %s: dense %8.2f ms, scoring %7.2f (%.1f %%), lists %8.2f at density %.3f "
           "(x%.2f per block), all %8.2f: %.2fx; mass %.3f\n",
           kind == HEADS_MIXED ? "mixed " : "recall", n, sealed ? "4/4" : "f16", dense * 1e3, scoring * 1e3, 100 * scoring / dense,
           listed * 1e3, read / possible, listed / dense / (read / possible), whole * 1e3,
           dense / whole, r.mass_mean);
    fflush(stdout);
    sparse_free(sp);
    free(out);
    heads_free(&h);
}

/* Heads that cannot be sparse, chunk after chunk: what trying costs. */
static void run_fallback(struct kern *k, int32_t n)
{
    struct heads h = heads_make(HEADS_SPREAD, n, 8, 2, 64, 3);
    struct sparse_shape shape = {1, 8, 2, 64};
    struct sparse *sp = sparse_new(k, &shape, &(struct sparse_params){.coverage = 0.95f});
    float *out = floats((size_t)ROWS * 8 * 64);
    double dense = INFINITY, tried = INFINITY;
    for (int i = 0; i < N_REPEAT; i++) {
        double sum[2] = {0, 0};
        sparse_begin(sp, 0.95f);
        for (int32_t at = 0; at + ROWS <= n; at += ROWS) {
            struct kern_attn a = heads_attn(&h, at, ROWS, out);
            double t0 = now_s();
            k->ops->attend(k, &a);
            double t1 = now_s();
            sparse_attend(sp, 0, &a, INT32_MAX);
            sum[0] += t1 - t0;
            sum[1] += now_s() - t1;
        }
        dense = fmin(dense, sum[0]);
        tried = fmin(tried, sum[1]);
    }
    struct sparse_report r;
    sparse_report(sp, &r);
    printf("spread heads, prompt of %6d: dense %8.2f ms, asked for 0.95 %8.2f ms: x%.3f (%s)\n", n,
           dense * 1e3, tried * 1e3, tried / dense, sparse_reason_text(r.reason));
    fflush(stdout);
    sparse_free(sp);
    free(out);
    heads_free(&h);
}

static void run_decode(struct kern *k, int32_t n)
{
    struct heads h = heads_make(HEADS_MIXED, n, 32, 8, 64, 3);
    heads_seal(&h, n - 64, 4, 4);
    float *out = floats((size_t)32 * 64);
    struct select_params p = {.share = 0.25f, .n_min = 1};
    struct sparse_shape shape = {1, 32, 8, 64};
    struct select *se = select_new(k, &shape, &p);
    double dense = INFINITY, chosen = INFINITY;
    for (int i = 0; i < N_REPEAT + 2; i++) {
        select_begin(se, 0, n - 3 * SELECT_EVERY);
        for (int pass = 0; pass < 3; pass++) { /* dense; choose; read lists and choose */
            double t0 = now_s();
            for (int32_t t = 0; t < SELECT_EVERY; t++) {
                struct kern_attn a = heads_attn(&h, n - (3 - pass) * SELECT_EVERY + t, 1, out);
                if (pass == 0)
                    k->ops->attend(k, &a);
                else
                    select_attend(se, 0, &a);
            }
            double took = (now_s() - t0) / SELECT_EVERY;
            if (pass == 0)
                dense = fmin(dense, took);
            if (pass == 2)
                chosen = fmin(chosen, took);
        }
    }
    struct select_report r;
    select_report(se, &r);
    printf("%6d keys 4/4, one row: dense %8.1f us, selected %8.1f us: %.2fx; density %.3f, mass "
           "%.3f\n", n, dense * 1e6, chosen * 1e6, dense / chosen, r.density, r.mass_mean);
    fflush(stdout);
    select_free(se);
    free(out);
    heads_free(&h);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "heads";
    struct kern *k = kern_open_cpu(NULL, 0);
    if (!k)
        return 1;
    printf("%s, %d threads\n", k->name, k->n_thread);
    if (strcmp(what, "heads") == 0) {
        run_heads(k, argc > 2 ? atoi(argv[2]) / 64 * 64 : 8192);
    } else if (strcmp(what, "model") == 0 && argc > 3) {
        run_model(k, argv[2], argv[3], argc > 4 ? atoi(argv[4]) : 2048);
    } else if (strcmp(what, "time") == 0 || strcmp(what, "decode") == 0 ||
               strcmp(what, "fallback") == 0) {
        for (int i = 2; i < argc; i++) {
            int32_t n = atoi(argv[i]) / 64 * 64;
            if (n < 2 * ROWS)
                continue;
            if (*what == 'd')
                run_decode(k, n);
            if (*what == 'f')
                run_fallback(k, n / ROWS * ROWS);
            for (int sealed = 0; *what == 't' && sealed < 2; sealed++) {
                run_time(k, HEADS_MIXED, n, sealed);
                run_time(k, HEADS_RECALL, n, sealed);
            }
        }
    } else {
        fprintf(stderr, "usage: bench_sparse heads [n] | model FILE TEXT [n] | time n... | "
                        "fallback n... | decode n...\n");
        return 1;
    }
    kern_close(k);
    return 0;
}
