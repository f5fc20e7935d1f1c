/* Held-out rows: what sparse attention really kept, and the correction of what it left out. */
#include <math.h>
#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/sparse_impl.h"

#define COVER_SLACK 0.15f   /* the coverage aimed at stays within this of the one asked for */
#define COVER_TOP 0.995f
#define MISS 0.5f /* a mean further under the coverage than this share of the rest is a miss */
#define FIX_FADE 0.5f       /* what a chunk's audits count in the next one */
#define FIX_MIN 0.05f       /* a correction weaker than this is left out */

/* ---- reading out ---- */

/* What one held-out row per 64 would have shown where attention is dense. */
void sparse_note_dense(struct sparse *sp, int32_t n_row)
{
    mass_add(&sp->kept, 1, (n_row + TOK - 1) / TOK * sp->s.n_head);
}

/* Whether KV head h reads everything in the row block of a row. */
static bool row_is_dense(const struct sparse *sp, int32_t h, int32_t row)
{
    int32_t r = (sp->a->pos0 + row) / TOK - sp->block0;
    const int32_t *first = sp->first + (size_t)h * (sp->n_row_block + 1);
    return first[r + 1] - first[r] >= max_i(0, sp->block0 + r - 1);
}

/* Of held-out row i: its dense answer [n_head, head_dim], and the log-sum-exp of it [n_head]. */
static const float *held_out(const struct sparse *sp, int32_t i)
{
    return sp->held_host + (size_t)i * (size_t)(sp->s.n_head * sp->s.head_dim);
}

static const float *held_lse(const struct sparse *sp, int32_t i)
{
    return held_out(sp, sp->n_held) + (size_t)i * (size_t)sp->s.n_head;
}

/* Retained mass of query head `head` in held-out row i. */
static float kept(const struct sparse *sp, int32_t i, int32_t head)
{
    float sparse = sp->lse_host[(size_t)sp->held[i].row * sp->s.n_head + head];
    return fminf(1, expf(sparse - held_lse(sp, i)[head]));
}

/* Answers the held-out rows densely, all in one call where the backend picks rows, and fetches what
 * the lists gave them. */
static bool answer_held(struct sparse *sp, const struct kern_attn *a)
{
    struct kern *k = sp->k;
    size_t n = (size_t)sp->s.n_head * sp->s.head_dim, row = n + (size_t)sp->s.n_head;
    if (sp->n_held == 0)
        return false;
    if ((size_t)sp->n_held > sp->held_dev_cap) {
        if (sp->held_dev)
            k->ops->free(k, sp->held_dev);
        free(sp->held_host);
        free(sp->sparse_host);
        sp->held_dev = k->ops->alloc(k, sp->held_cap * row * sizeof(float));
        sp->held_host = mem_try(sp->held_cap * row * sizeof(float));
        sp->sparse_host = mem_try(sp->held_cap * n * sizeof(float));
        bool got = sp->held_dev && sp->held_host && sp->sparse_host;
        sp->held_dev_cap = got ? sp->held_cap : 0;
        if (!got)
            return false;
    }
    int32_t at[sp->n_held];
    struct kern_attn with = *a;
    with.list = NULL;
    with.out = sp->held_dev;
    with.lse = sp->held_dev + (size_t)sp->n_held * n;
    for (int32_t i = 0; i < sp->n_held; i++)
        at[i] = sp->held[i].row;
    with.row = at;
    with.n_tok = sp->n_held;
    k->ops->attend(k, &with);
    for (int32_t i = 0; i < sp->n_held; i++)
        k->ops->download(k, sp->sparse_host + i * n, a->out + (size_t)at[i] * n, n * sizeof(float));
    k->ops->download(k, sp->held_host, sp->held_dev, (size_t)sp->n_held * row * sizeof(float));
    return true;
}

/* The anchors: retained mass, and what it says about the heads. */
static void read_anchors(struct sparse *sp, int32_t layer)
{
    struct layer_state *l = &sp->layer[layer];
    int32_t n_head = sp->s.n_head, group = n_head / sp->s.n_head_kv;
    bool had_more = l->more_rows;
    float c = sp->p.coverage;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++) {
        double sum = 0;
        int32_t n = 0, n_low = 0;
        for (int32_t i = 0; i < sp->n_held; i++) {
            if (sp->held[i].audit)
                continue;
            bool dense = row_is_dense(sp, h, sp->held[i].row);
            for (int32_t g = 0; g < group; g++) {
                int32_t head = h * group + g;
                float w = dense ? 1 : kept(sp, i, head);
                mass_add(&sp->kept, (double)w, 1);
                sp->head_mass[(size_t)layer * n_head + head] += (double)w;
                sp->head_n[(size_t)layer * n_head + head]++;
                if (dense)
                    continue;
                sp->n_held_out++;
                sum += (double)w;
                n_low += w < 0.5f * c;
                n++;
            }
        }
        if (n == 0 || sp->p.no_feedback)
            continue;
        struct head_state *head = &l->head[h];
        bool low = n_low > 1 + n / 20, high = head->aim >= COVER_TOP;
        bool missed = (float)(sum / n) < c - MISS * (1 - c);
        head->aim += 0.5f * (c - (float)(sum / n));
        head->aim = fminf(fmaxf(head->aim, c - COVER_SLACK), fmaxf(COVER_TOP, (1 + c) / 2));
        /* first more rows choose; when that and aiming high do not help, all is read */
        if (low || missed) {
            head->failed = had_more && (low || high);
            l->more_rows = true;
        }
    }
}

/* ---- correction ----
 *
 * Delta attention made safe. An anchor knows the mean t of what the lists left out of its row,
 * (dense - w * sparse) / (1 - w); every row of its block takes t in with the share of its mass that
 * it probably lost itself: o += strength * m * (t - o), where m is what the anchor lost but no more
 * than anchors usually lose (one row that looks elsewhere must not speak for 63). Audited rows,
 * fitted by least squares, say how strongly. */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void note_dropped(struct sparse *sp)
{
    int32_t group = sp->s.n_head / sp->s.n_head_kv;
    for (int32_t head = 0; head < sp->s.n_head; head++) {
        float lost[sp->n_held + 1];
        int32_t n = 0;
        for (int32_t i = 0; i < sp->n_held; i++)
            if (!sp->held[i].audit && !row_is_dense(sp, head / group, sp->held[i].row))
                lost[n++] = 1 - kept(sp, i, head);
        qsort(lost, (size_t)n, sizeof *lost, by_value);
        sp->dropped[head] = n ? lost[n / 2] : 0;
    }
}

/* The anchor of the row block that holds a row. */
static int32_t anchor_of(const struct sparse *sp, int32_t row)
{
    int32_t r = (sp->a->pos0 + row) / TOK;
    for (int32_t i = 0; i < sp->n_held; i++)
        if (!sp->held[i].audit && (sp->a->pos0 + sp->held[i].row) / TOK == r)
            return i;
    return -1;
}

/* What an anchor says of its row block. */
struct word {
    const float *dense, *sparse; /* [head_dim] outputs of the anchor */
    float w, gain;               /* its retained mass; m / (1 - w) */
};

static struct word word_of(const struct sparse *sp, int32_t anchor, int32_t head)
{
    size_t d = (size_t)sp->s.head_dim, n_head = (size_t)sp->s.n_head;
    float w = kept(sp, anchor, head), lost = 1 - w;
    return (struct word){
        .dense = held_out(sp, anchor) + (size_t)head * d,
        .sparse = sp->sparse_host + ((size_t)anchor * n_head + (size_t)head) * d,
        .w = w,
        .gain = lost > sp->dropped[head] ? sp->dropped[head] / lost : 1,
    };
}

/* What a full correction would add to channel c of an output. */
static float fix_of(const struct sparse *sp, const struct word *w, int32_t c, float o)
{
    if (sp->p.method.fix == FIX_PLAIN)
        return w->dense[c] - w->sparse[c];
    return w->gain * (w->dense[c] - w->w * w->sparse[c] - (1 - w->w) * o);
}

static float strength_of(const struct sparse *sp, const struct head_state *head)
{
    if (sp->p.method.fix != FIX_FITTED)
        return sp->p.method.fix == FIX_PLAIN;
    float x = head->fix_den > 0 ? (float)(head->fix_num / head->fix_den) : 0;
    return x < FIX_MIN ? 0 : fminf(x, 1);
}

/* Takes the audits in; then their error, before and after. */
static void fit(struct sparse *sp, struct layer_state *l)
{
    int32_t d = sp->s.head_dim, group = sp->s.n_head / sp->s.n_head_kv;
    size_t n = (size_t)sp->s.n_head * d;
    for (int32_t h = 0; h < sp->s.n_head_kv; h++) {
        l->head[h].fix_num *= (double)FIX_FADE;
        l->head[h].fix_den *= (double)FIX_FADE;
    }
    for (int pass = 0; pass < 2; pass++)
        for (int32_t i = 0; i < sp->n_held; i++) {
            int32_t anchor = sp->held[i].audit ? anchor_of(sp, sp->held[i].row) : -1;
            double before = 0, after = 0, all = 0;
            if (anchor < 0)
                continue;
            for (int32_t head = 0; head < sp->s.n_head; head++) {
                struct head_state *at = &l->head[head / group];
                if (row_is_dense(sp, head / group, sp->held[i].row))
                    continue;
                struct word word = word_of(sp, anchor, head);
                float strength = strength_of(sp, at);
                for (int32_t c = 0; c < d; c++) {
                    float dense = held_out(sp, i)[(size_t)head * d + c];
                    float off = dense - sp->sparse_host[i * n + (size_t)head * d + c];
                    float fix = fix_of(sp, &word, c, dense - off);
                    if (pass == 0) {
                        at->fix_num += (double)fix * (double)off;
                        at->fix_den += (double)fix * (double)fix;
                    }
                    before += (double)off * (double)off;
                    double left = (double)(off - strength * fix);
                    after += left * left;
                    all += (double)dense * (double)dense;
                }
            }
            if (pass == 1 && all > 0) {
                sp->error_before_sum += sqrt(before / all);
                sp->error_sum += sqrt(after / all);
                sp->n_audit++;
            }
        }
    for (int32_t h = 0; h < sp->s.n_head_kv; h++)
        if (l->head[h].listed) {
            sp->fix_sum += (double)strength_of(sp, &l->head[h]);
            sp->n_fix++;
        }
}

struct fixing {
    struct sparse *sp;
    const struct layer_state *l;
    const struct kern_attn *a;
};

/* The rows of one anchor's block take it in: o = keep * o + add, the same for all of them. */
static void fix_block(void *ctx, int part, int n_part)
{
    const struct fixing *f = ctx;
    const struct sparse *sp = f->sp;
    struct kern *k = sp->k;
    int32_t d = sp->s.head_dim, n_head = sp->s.n_head, group = n_head / sp->s.n_head_kv;
    size_t n = (size_t)n_head * (size_t)d;
    float fixed[n], add[n], keep[n_head];
    bool any = false;
    for (int32_t head = 0; head < n_head && !sp->held[part].audit; head++) {
        float strength = strength_of(sp, &f->l->head[head / group]);
        if (row_is_dense(sp, head / group, sp->held[part].row))
            strength = 0;
        struct word word = word_of(sp, part, head);
        for (int32_t c = 0; c < d; c++)
            add[head * d + c] = strength * fix_of(sp, &word, c, 0);
        keep[head] = 1;
        if (sp->p.method.fix != FIX_PLAIN)
            keep[head] -= strength * word.gain * (1 - word.w);
        any = any || strength > 0;
    }
    if (!any)
        return;
    int32_t row0 = (f->a->pos0 + sp->held[part].row) / TOK * TOK - f->a->pos0;
    for (int32_t row = row0; row < row0 + TOK; row++) {
        float *out = f->a->out + (size_t)row * n;
        k->ops->download(k, fixed, out, n * sizeof(float));
        for (int32_t head = 0; head < n_head; head++)
            for (int32_t c = head * d; c < (head + 1) * d; c++)
                fixed[c] = keep[head] * fixed[c] + add[c];
        k->ops->upload(k, out, fixed, n * sizeof(float));
    }
}

/* Corrects what the lists gave; rows that are known exactly are put in. */
static void correct(struct sparse *sp, int32_t layer, const struct kern_attn *a)
{
    struct fixing f = {sp, &sp->layer[layer], a};
    struct kern *k = sp->k;
    size_t n = (size_t)sp->s.n_head * sp->s.head_dim;
    if (!sp->ragged) {
        note_dropped(sp);
        fit(sp, &sp->layer[layer]);
        kern_parallel(k, sp->n_held, fix_block, &f);
    }
    for (int32_t i = 0; i < sp->n_held; i++) {
        k->ops->upload(k, a->out + (size_t)sp->held[i].row * n, held_out(sp, i), n * sizeof(float));
        k->ops->upload(k, a->lse + (size_t)sp->held[i].row * (size_t)sp->s.n_head, held_lse(sp, i),
                       (size_t)sp->s.n_head * sizeof(float));
    }
}

void sparse_hold(struct sparse *sp, int32_t layer, const struct kern_attn *a)
{
    if (!answer_held(sp, a))
        return;
    read_anchors(sp, layer);
    correct(sp, layer, a);
}
