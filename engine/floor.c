#include "engine/floor.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/compare.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/forward.h"
#include "engine/kv_impl.h"
#include "engine/ledger.h"
#include "engine/presets.h"
#include "kernels/page.h"

enum {
    N_TOK = 320,    /* read; three pages are sealed */
    FIRST_TOK = 128 /* before this nothing is read from pages */
};

const char *const floor_names[FLOOR_RUNGS] = {"8/8", "8/4", "6/4", "4/4", "4/2", "2/2"};

/* Prose, a list, numbers and code, with names that come back. */
static const char text[] =
    "The ferry to Hallgrim left at seven, and Marta Quist was the last to board. She carried a "
    "green suitcase with a broken lock and two letters for her brother Jonas, who kept the "
    "lighthouse on the northern cape. The sea was calm. A man in a grey coat asked her whether "
    "the harbour master still lived at number 14, and she said that he had moved to number 41 in "
    "the spring.\n\nThings to remember:\n- the key hangs behind the clock\n- Jonas takes his "
    "coffee without milk\n- the boat back leaves on Thursday at 16:45\n\nOn the island the road "
    "divides at an old mill. The left way follows the shore; the right one climbs to the cape. "
    "Marta took the right one, because the letters were urgent, and because the suitcase was "
    "lighter than it looked. \"You are early,\" said Jonas when he opened. \"I thought that the "
    "ferry came on Friday.\" She gave him the letters and asked for the key. It hung behind the "
    "clock.\n\nint sum(const int *x, int n)\n{\n    int total = 0;\n    for (int i = 0; i < n; "
    "i++)\n        total += x[i];\n    return total;\n}\n\nThe tide table for that week gave 3.2 "
    "metres at noon, 0.7 at six, and 3.4 at midnight. Jonas wrote the numbers down twice, once in "
    "the book and once on the wall. When the man in the grey coat came up the road, the lamp was "
    "already lit, the coffee had no milk in it, and the green suitcase stood open on the table: "
    "there was nothing inside but a clock. What did Marta carry to the lighthouse, and who had "
    "moved to number 41?";

struct rows {
    const float *exact, *other;
    const int32_t *ids;
    int32_t n_vocab, at;
    struct compare_row row[FORWARD_HEAD_ROWS];
};

static void compare_part(void *ctx, int part, int n_part)
{
    struct rows *r = ctx;
    size_t at = (size_t)part * (size_t)r->n_vocab;
    r->row[part] = compare_logits(r->exact + at, r->other + at, r->n_vocab, -1);
}

struct reader {
    struct model *m;
    struct forward *exact, *other; /* each with the hidden rows of its last pass */
    int32_t ids[N_TOK];
    bool (*go_on)(void *ctx, int32_t layer);
    void *ctx;
    int32_t n_group, group;     /* the one that is coded */
    float *stream[FLOOR_GROUPS]; /* dev: the exact residual stream where each group begins */
};

static int32_t n_groups(int32_t n_layer)
{
    return n_layer <= FLOOR_GROUPS ? n_layer : FLOOR_GROUPS - 2;
}

/* The first and the last layer stand alone: they are the likeliest to be special. */
static int32_t group_of(int32_t layer, int32_t n_layer, int32_t n_group)
{
    if (n_layer <= n_group)
        return layer;
    if (layer == 0 || layer == n_layer - 1)
        return layer == 0 ? 0 : n_group - 1;
    return 1 + (layer - 1) * (n_group - 2) / (n_layer - 2);
}

static bool begins(const struct reader *r, int32_t layer, int32_t *ret_group)
{
    int32_t n = r->m->p.n_layer_kv;
    *ret_group = group_of(layer, n, r->n_group);
    return layer == 0 || group_of(layer - 1, n, r->n_group) != *ret_group;
}

static bool keep_stream(void *ctx, int32_t layer)
{
    struct reader *r = ctx;
    int32_t g;
    const struct model_layer *l = &r->m->layer[layer];
    if (l->k.t && begins(r, l->kv, &g))
        r->m->kern->ops->copy(r->m->kern, r->stream[g], forward_stream(r->exact),
                              sizeof(float) * N_TOK * (size_t)r->m->p.n_embd);
    return !r->go_on || r->go_on(r->ctx, layer);
}

/* One reading of the text. care NULL: exact. group: where *ret_error2 tells the keys' and values'
 * errors at 4 bits; -1 = all layers are coded and it is not asked. */
static enum status read_with(struct reader *r, struct forward *f, const struct kv_care *care,
                             int32_t group, double ret_error2[2], struct err *e)
{
    const struct model_params *p = &r->m->p;
    const struct kv_shape shape = forward_kv_shape(p);
    struct kv_pool *pool =
        kv_pool_new(r->m->kern, &shape, presets_find(care ? "8/8" : "exact"), UINT64_MAX);
    if (care)
        kv_pool_set_care(pool, care);
    struct kv_line *line = kv_line_new(pool, N_TOK);
    enum status s = kv_reserve(line, N_TOK, e);
    if (s == OK && !care) {
        s = forward_run(f, line, r->ids, N_TOK, FORWARD_ALL, keep_stream, r, e);
    } else if (s == OK && group < 0) {
        s = forward_run(f, line, r->ids, N_TOK, FORWARD_ALL, r->go_on, r->ctx, e);
    } else if (s == OK) {
        int32_t first = 0, last = p->n_layer_kv - 1, layer = 0;
        while (group_of(first, p->n_layer_kv, r->n_group) != group)
            first++;
        while (group_of(last, p->n_layer_kv, r->n_group) != group)
            last--;
        while (!r->m->layer[layer].k.t || r->m->layer[layer].kv != first)
            layer++;
        s = forward_run_from(f, line, layer, r->stream[group], r->ids, N_TOK, r->go_on, r->ctx, e);
        ret_error2[0] = ret_error2[1] = 0;
        for (int32_t i = first; s == OK && i <= last; i++) {
            ret_error2[0] += ledger_error2(line, i, PAGE_K, 4) / (last - first + 1);
            ret_error2[1] += ledger_error2(line, i, PAGE_V, 4) / (last - first + 1);
        }
    }
    kv_line_free(line);
    kv_pool_free(pool);
    return s;
}

/* Attention of all layers but the group's reads rows: in one pass they are all there still. */
static void answer(void *ctx, const struct model_layer *l, const struct kern_attn *a)
{
    struct reader *r = ctx;
    enum { N_BLOCK = N_TOK / KERN_BLOCK_TOK };
    struct kern_kv_block block[N_BLOCK * 256];
    struct kern_kv rows = *a->kv;
    struct kern_attn with = *a;
    if (group_of(l->kv, r->m->p.n_layer_kv, r->n_group) != r->group && rows.n_head_kv <= 256) {
        for (int32_t i = 0; i < rows.n_head_kv * N_BLOCK; i++) {
            block[i] = rows.block[i / N_BLOCK * rows.n_block_cap + i % N_BLOCK];
            block[i].page = NULL;
        }
        rows.block = block;
        rows.n_block_cap = N_BLOCK;
        rows.stamp = 0;
        with.kv = &rows;
    }
    r->m->kern->ops->attend(r->m->kern, &with);
}

static enum status mean_kl(struct reader *r, double *ret, struct err *e)
{
    double sum = 0;
    for (int32_t at = FIRST_TOK; at < N_TOK; at += FORWARD_HEAD_ROWS) {
        struct rows w = {.ids = r->ids, .n_vocab = r->m->p.n_vocab, .at = at};
        TRY(forward_head(r->exact, at, FORWARD_HEAD_ROWS, &w.exact, e));
        TRY(forward_head(r->other, at, FORWARD_HEAD_ROWS, &w.other, e));
        kern_parallel(r->m->kern, FORWARD_HEAD_ROWS, compare_part, &w);
        for (int32_t i = 0; i < FORWARD_HEAD_ROWS; i++)
            sum += w.row[i].kl;
    }
    *ret = sum / (N_TOK - FIRST_TOK);
    return OK;
}

/* What 4-bit keys or values of one group cost. */
static enum status probe(struct reader *r, bool keys, struct floor_group *ret, struct err *e)
{
    struct kv_care *care = mem_calloc((size_t)r->m->p.n_layer_kv, sizeof *care);
    double error2[2];
    for (int32_t i = 0; i < r->m->p.n_layer_kv; i++)
        care[i].seal = (struct kv_depth){keys ? 4 : 8, keys ? 8 : 4};
    forward_set_answer(r->other, answer, r);
    enum status s = read_with(r, r->other, care, r->group, error2, e);
    forward_set_answer(r->other, NULL, NULL);
    free(care);
    TRY(s);
    *(keys ? &ret->error2_k : &ret->error2_v) = error2[keys ? 0 : 1];
    return mean_kl(r, keys ? &ret->kl_k : &ret->kl_v, e);
}

static enum status measure(struct reader *r, double limit, struct floor *ret, struct err *e)
{
    struct floor f = {.rung = 0, .n = N_TOK - FIRST_TOK, .n_group = r->n_group};
    for (int32_t i = 0; i < FLOOR_RUNGS; i++)
        f.kl[i] = NAN;
    TRY(read_with(r, r->exact, NULL, -1, NULL, e));
    for (r->group = 0; r->group < r->n_group; r->group++) {
        TRY(probe(r, true, &f.group[r->group], e));
        TRY(probe(r, false, &f.group[r->group], e));
    }
    const struct kv_shape shape = forward_kv_shape(&r->m->p);
    struct kv_care *care = mem_calloc((size_t)shape.n_layer, sizeof *care);
    enum status s = OK;
    for (int32_t i = 0; i < FLOOR_RUNGS && s == OK; i++) {
        floor_care(&f, presets_find(floor_names[i]), &shape, care);
        s = read_with(r, r->other, care, -1, NULL, e);
        if (s == OK)
            s = mean_kl(r, &f.kl[i], e);
        if (s != OK || !(f.kl[i] <= limit))
            break;
        f.rung = i;
    }
    free(care);
    if (s == OK)
        *ret = f;
    return s;
}

enum status floor_measure(struct model *m, const struct tokenizer *t, double limit,
                          bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct floor *ret,
                          struct err *e)
{
    struct reader r = {.m = m, .go_on = go_on, .ctx = ctx};
    struct tok_list list = {0};
    enum status s = tokenizer_encode(t, text, sizeof text - 1, false, true, &list, e);
    for (int32_t i = 0; i < N_TOK && s == OK && list.n > 0; i++)
        r.ids[i] = list.ids[i % list.n];
    tok_list_fini(&list);
    if (s == OK)
        s = forward_new(m, N_TOK, &r.exact, e);
    if (s == OK)
        s = forward_new(m, N_TOK, &r.other, e);
    r.n_group = n_groups(m->p.n_layer_kv);
    for (int32_t i = 0; i < r.n_group && s == OK; i++) {
        r.stream[i] = m->kern->ops->alloc(m->kern, sizeof(float) * N_TOK * (size_t)m->p.n_embd);
        if (!r.stream[i])
            s = err_set(e, ERR_MEMORY, "out of memory: no room to measure the cache's floor");
    }
    if (s == OK)
        s = measure(&r, limit, ret, e);
    for (int32_t i = 0; i < r.n_group; i++)
        if (r.stream[i])
            m->kern->ops->free(m->kern, r.stream[i]);
    forward_free(r.exact);
    forward_free(r.other);
    return s;
}

/* ---- which layers get how much ---- */

/* What a layer's keys and values cost at 8, 6, 4 and 2 bits, in units of 4 bits: four times the
 * levels are a sixteenth of the squared error. KL of single layers at 2 bits, two models: 3 to 30
 * times that of 4 bits for keys, 8 to 140 for values. Keys count for more than that: in a layer where
 * their 2 bits hardly move the mean over all tokens, three facts in a hundred were not found again. */
static const double cost_k[] = {1 / 256.0, 1 / 16.0, 1, 16 * KV_PULL_K},
                    cost_v[] = {1 / 256.0, 1 / 16.0, 1, 16 * KV_PULL_V};
/* What a short text does not show is not nothing: at least these parts of the most fragile group.
 * Noise of values averages out over the many tokens of a long context. Noise of keys adds weight to
 * what is old, more with each page, and what it does in early layers all later ones hear: the bundled
 * model's first layer hardly looks at pages at first (KL of its 4-bit keys: 0 in this text, .00001
 * over 1,000 tokens of a novel, .00003 over 2,000, .0013 over 4,000, .0078 over 4,000 of a chat, where
 * the worst of the others has .0014). What the last layer gets wrong nothing after it mends. */
#define LEAST_K_FIRST 2.0
#define LEAST_K_LAST 0.05
#define LEAST_K 0.02 /* between them, in a straight line towards none */
#define LEAST_V 0.003
/* Of the layers of a group, which were measured together, the earlier goes first. */
#define EARLY 1e-3
/* Layers are treated alike unless that costs more than so many times the best choice. */
#define WORTH 1.3

struct layer_cost {
    double k, v;  /* of 4 bits */
    int32_t size; /* of its planes, beside those of the other layers */
    bool latent;  /* keys are values */
};

/* Channels of the layers, by the greatest number that divides them all. */
static void layer_sizes(const struct kv_shape *s, struct layer_cost *ret)
{
    enum { SIZE_MAX_OF_ONE = 16 }; /* what is more uneven than any model counts as alike */
    int32_t by = 0, most = 0;
    for (int32_t i = 0; i < s->n_layer; i++) {
        int32_t a = ret[i].size = s->heads[i].n * s->heads[i].dim;
        most = a > most ? a : most;
        while (a) {
            int32_t rest = by % a;
            by = a;
            a = rest;
        }
    }
    for (int32_t i = 0; i < s->n_layer; i++)
        ret[i].size = most / by <= SIZE_MAX_OF_ONE ? ret[i].size / by : 1;
}

static double cost_at(const struct layer_cost *c, int32_t step)
{
    const struct kv_depth *d = &kv_ladder[step];
    return c->k * cost_k[4 - d->bits_k / 2] + c->v * cost_v[4 - (c->latent ? d->bits_k : d->bits_v) / 2];
}

/* In planes, as the layer is large: a step's size but for what all pages have. */
static int32_t planes_at(const struct layer_cost *c, int32_t step)
{
    return c->size * (kv_ladder[step].bits_k + (c->latent ? 0 : kv_ladder[step].bits_v)) / PAGE_PLANE_BITS;
}

/* The steps of the ladder that cost least of those that are `nominal` on average, as layers are large: the
 * fewest-cost way to spend so many planes on the first i layers, layer by layer. */
static void spread(const struct layer_cost *cost, int32_t n_layer, struct kv_depth nominal,
                   struct kv_depth *ret)
{
    int32_t even = kv_step(nominal), width = 1;
    for (int32_t i = 0; i < n_layer; i++)
        width += planes_at(&cost[i], even);
    double *least = mem_calloc((size_t)width, sizeof *least), sum_even = 0;
    int8_t *step = mem_calloc((size_t)n_layer * (size_t)width, sizeof *step);
    for (int32_t i = 0; i < n_layer; i++) {
        sum_even += cost_at(&cost[i], even);
        for (int32_t n = width - 1; n >= 0; n--) { /* downwards: least[n - x] is still of i layers */
            double best = INFINITY;
            for (int32_t s = 0; s < KV_STEPS; s++) {
                int32_t rest = n - planes_at(&cost[i], s);
                if (rest >= 0 && least[rest] + cost_at(&cost[i], s) < best) {
                    best = least[rest] + cost_at(&cost[i], s);
                    step[i * width + n] = (int8_t)s;
                }
            }
            least[n] = best;
        }
    }
    bool worth = sum_even > WORTH * least[width - 1];
    for (int32_t i = n_layer - 1, n = width - 1; i >= 0; i--) {
        int32_t s = worth ? step[i * width + n] : even;
        ret[i] = kv_ladder[s];
        n -= planes_at(&cost[i], s);
    }
    free(step);
    free(least);
}

static double least_part_k(int32_t layer, int32_t n_layer)
{
    if (layer == 0)
        return LEAST_K_FIRST;
    return layer == n_layer - 1 ? LEAST_K_LAST : LEAST_K * (n_layer - layer) / n_layer;
}

void floor_care(const struct floor *f, const struct preset *preset, const struct kv_shape *shape,
                struct kv_care *ret)
{
    int32_t n_layer = shape->n_layer;
    struct layer_cost *cost = mem_calloc((size_t)n_layer, sizeof *cost);
    struct kv_depth *depth = mem_calloc((size_t)n_layer, sizeof *depth);
    int32_t n_in[FLOOR_GROUPS] = {0};
    double worst = 0;
    for (int32_t i = 0; i < n_layer; i++)
        n_in[group_of(i, n_layer, f->n_group)]++;
    for (int32_t g = 0; g < f->n_group; g++)
        worst = fmax(worst, fmax(f->group[g].kl_k, f->group[g].kl_v) / n_in[g]);
    for (int32_t i = 0; i < n_layer; i++) {
        int32_t g = group_of(i, n_layer, f->n_group);
        const struct floor_group *of = &f->group[g];
        double least_k = worst * least_part_k(i, n_layer);
        double k = fmax(least_k, of->kl_k / n_in[g]), v = fmax(LEAST_V * worst, of->kl_v / n_in[g]);
        double early = 1 + EARLY * (n_layer - i) / n_layer;
        ret[i].harm_k = k / fmax(of->error2_k, 1e-9);
        ret[i].harm_v = v / fmax(of->error2_v, 1e-9);
        cost[i] = (struct layer_cost){.k = early * k, .v = early * v, .latent = shape->heads[i].n_latent > 0};
    }
    layer_sizes(shape, cost);
    spread(cost, n_layer, (struct kv_depth){preset->bits_k, preset->bits_v}, depth);
    for (int32_t i = 0; i < n_layer; i++)
        ret[i].seal = depth[i];
    spread(cost, n_layer, (struct kv_depth){preset->floor_k, preset->floor_v}, depth);
    for (int32_t i = 0; i < n_layer; i++)
        ret[i].floor = ret[i].soft = depth[i];
    const struct preset *rung = presets_find(floor_names[f->rung]);
    spread(cost, n_layer, (struct kv_depth){rung->bits_k, rung->bits_v}, depth);
    for (int32_t i = 0; preset->adaptive && i < n_layer; i++)
        ret[i].soft = depth[i];
    free(depth);
    free(cost);
}

/* ---- the file ---- */

/* Another number whenever pages change, so that models are measured anew. */
#define KIND "dogear-floor 3 "
#define FORMAT KIND "%016" PRIx64 " %d %d %d"

static char *file_name(const char *dir, uint64_t fingerprint)
{
    struct str s = {0};
    str_addf(&s, "%s/%016" PRIx64, dir, fingerprint);
    return str_take(&s);
}

static double *group_number(struct floor *f, int32_t i)
{
    struct floor_group *g = &f->group[i / 4];
    double *const at[] = {&g->kl_k, &g->kl_v, &g->error2_k, &g->error2_v};
    return at[i % 4];
}

bool floor_load(const char *dir, uint64_t fingerprint, struct floor *ret)
{
    char *name = file_name(dir, fingerprint), want[80], line[2048];
    FILE *file = fopen(name, "re");
    struct floor f = {.rung = -1};
    bool good = file && fgets(line, sizeof line, file) && strchr(line, '\n');
    free(name);
    if (file)
        fclose(file);
    if (!good)
        return false;
    /* The head must be ours to the letter, then come as many numbers as there are rungs. */
    char *at = line;
    uint64_t seen;
    if (sscanf(line, KIND "%" SCNx64 " %d %d %d", &seen, &f.rung, &f.n, &f.n_group) != 4 ||
        seen != fingerprint || f.rung < 0 || f.rung >= FLOOR_RUNGS || f.n < 1 || f.n_group < 1 ||
        f.n_group > FLOOR_GROUPS)
        return false;
    int n = snprintf(want, sizeof want, FORMAT, fingerprint, f.rung, f.n, f.n_group);
    if (strncmp(line, want, (size_t)n) != 0)
        return false;
    at += n;
    for (int32_t i = 0; i < FLOOR_RUNGS; i++) {
        char *end;
        f.kl[i] = strtod(at, &end);
        if (end == at || (i <= f.rung && !(f.kl[i] >= 0)))
            return false;
        at = end;
    }
    for (int32_t i = 0; i < 4 * f.n_group; i++) {
        char *end;
        double x = strtod(at, &end);
        if (end == at || !(x >= 0) || !isfinite(x))
            return false;
        *group_number(&f, i) = x;
        at = end;
    }
    if (*at != '\n')
        return false;
    *ret = f;
    return true;
}

void floor_store(const char *dir, uint64_t fingerprint, const struct floor *f)
{
    char *name = file_name(dir, fingerprint);
    struct str fresh = {0};
    for (char *at = name + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(name, 0700); /* most are there */
            *at = '/';
        }
    str_addf(&fresh, "%s.%ld", name, (long)getpid());
    FILE *file = fopen(str_c(&fresh), "wxe");
    if (file) {
        struct floor copy = *f;
        fprintf(file, FORMAT, fingerprint, f->rung, f->n, f->n_group);
        for (int32_t i = 0; i < FLOOR_RUNGS; i++)
            fprintf(file, " %.17g", f->kl[i]);
        for (int32_t i = 0; i < 4 * f->n_group; i++)
            fprintf(file, " %.17g", *group_number(&copy, i)); /* to the last bit: depths hang on it */
        bool good = fputc('\n', file) != EOF;
        if (fclose(file) != 0 || !good || rename(str_c(&fresh), name) != 0)
            unlink(str_c(&fresh));
    }
    str_fini(&fresh);
    free(name);
}
