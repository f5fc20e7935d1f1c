/* The inspector: the tokens of the last answer coloured by the probability that the model gave
 * them, or by what verifying found there; the choice it had at one of them, and what it looked at
 * when it made it. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/format.h"
#include "ui/view_dash.h"

enum { MOST_SEEN = 6, TIP_TOKENS = 12 };

static uint8_t role_of_p(float p)
{
    return p >= 0.8f    ? ROLE_TIER_1
           : p >= 0.5f  ? ROLE_TIER_2
           : p >= 0.2f  ? ROLE_TIER_4
           : p >= 0.05f ? ROLE_TIER_5
           : p >= 0     ? ROLE_TIER_6
                        : ROLE_TEXT;
}

static uint8_t role_of_kl(float kl, bool same)
{
    return isnan(kl)    ? ROLE_TEXT
           : !same      ? ROLE_TIER_6
           : kl < 0.01f ? ROLE_TIER_1
           : kl < 0.05f ? ROLE_TIER_2
           : kl < 0.2f  ? ROLE_TIER_4
                        : ROLE_TIER_5;
}

static uint8_t role_of(const struct dash *d, const struct dash_token *t)
{
    return d->by_agree ? role_of_kl(t->kl, t->same) : role_of_p(t->p);
}

/* A token on one line: its line breaks are seen as ↵. */
static void token_text(struct str *out, const struct dash_token *t)
{
    for (size_t i = 0; i < t->len; i++) {
        if (t->text[i] == '\n') {
            str_adds(out, "↵");
        } else {
            size_t n = 1;
            while (i + n < t->len && t->text[i + n] != '\n')
                n++;
            text_clean(out, t->text + i, n);
            i += n - 1;
        }
    }
}

/* The rows start so that the chosen token can be seen. */
static int first_shown(const struct dash *d, int w, int rows)
{
    int starts[64] = {0}, n = 1, x = 0;
    for (int i = 0; i < d->n_token && i <= d->token_sel; i++) {
        struct str s = {0};
        token_text(&s, &d->token[i]);
        int tw = text_width(str_c(&s), s.len);
        str_fini(&s);
        if (x + tw > w && x > 0) {
            starts[n++ % 64] = i;
            x = 0;
        }
        x += tw;
    }
    return n > rows ? starts[(n - rows) % 64] : 0;
}

static void draw_tokens(const struct ui_model *m, struct pen *p, int rows)
{
    const struct dash *d = m->dash;
    int left = p->r.x + 1, w = p->r.w - 2;
    rows = rows > 60 ? 60 : rows;
    int x = left;
    for (int i = first_shown(d, w, rows); i < d->n_token && rows > 0; i++) {
        struct str s = {0};
        token_text(&s, &d->token[i]);
        int tw = text_width(str_c(&s), s.len);
        if (x + tw > left + w && x > left) {
            pen_end(p);
            x = left;
            rows--;
        }
        if (rows > 0) {
            struct rect at = rect_cross((struct rect){x, p->r.y, tw, 1}, p->r);
            view_dash_hit(m, (struct dash_hit){.r = at, .part = DASH_HIT_TOKEN, .a = i});
            x += cells_put(p->c, p->r, x, p->r.y, str_c(&s), s.len, role_of(d, &d->token[i]), 0,
                           d->token_sel == i ? CELL_REVERSE : 0);
        }
        str_fini(&s);
    }
    pen_end(p);
}

/* "text" 12.3%, whole on one line. */
static void put_quoted(struct pen *p, const char *text, size_t len, uint8_t role, const char *value)
{
    struct str s = {0};
    struct dash_token t = {.text = text, .len = len};
    token_text(&s, &t);
    pen_fits(p, text_width(str_c(&s), s.len) + (int)strlen(value) + 3);
    pen_put(p, "\"", ROLE_DIM);
    pen_put(p, str_c(&s), role);
    pen_put(p, "\" ", ROLE_DIM);
    pen_put(p, value, ROLE_TITLE);
    pen_put(p, "  ", ROLE_DIM);
    str_fini(&s);
}

static void draw_choice(const struct dash *d, struct pen *p)
{
    char a[FORMAT_SIZE];
    const struct dash_token *t = &d->token[d->token_sel];
    pen_line(p, "chosen");
    put_quoted(p, t->text, t->len, ROLE_TITLE, format_permille(a, (double)t->p));
    pen_end(p);
    pen_line(p, "likeliest");
    if (!t->other[0])
        pen_put(p, "--", ROLE_TITLE);
    for (int i = 0; i < STATS_ALTERNATIVES && t->other[i]; i++)
        put_quoted(p, t->other[i], strlen(t->other[i]), role_of_p(t->other_p[i]),
                   format_permille(a, (double)t->other_p[i]));
    pen_end(p);
    pen_line(p, "verified");
    if (isnan(t->kl))
        pen_figure(p, "", "--", "");
    else
        pen_figure(p, t->same ? "the same choice, KL " : "another choice, KL ",
                   format_small(a, (double)t->kl), "");
    pen_end(p);
}

/* ---- what it looked at ---- */

struct heat {
    const struct dash *d;
    int n_col;
    float most; /* largest weight of a column but for the first: models rest on the first token */
};

static int column_first(const struct heat *h, int col)
{
    return (int)((int64_t)col * h->d->trace->n / h->n_col);
}

static float column_weight(const struct heat *h, int col)
{
    float sum = 0;
    for (int i = column_first(h, col); i < column_first(h, col + 1); i++)
        sum += h->d->trace->weight[i];
    return sum;
}

static void position_text(const struct dash *d, int from, int to, struct str *out)
{
    if (d->path_at && to <= d->n_path) {
        struct dash_token t = {.text = d->path_text + d->path_at[from],
                               .len = d->path_at[to] - d->path_at[from]};
        token_text(out, &t);
    }
}

static struct plot_cell heat_cell(void *ctx, int col, int row, char *tip, size_t size)
{
    const struct heat *h = ctx;
    char a[FORMAT_SIZE];
    (void)row;
    float w = column_weight(h, col);
    if (size) {
        int from = column_first(h, col), to = column_first(h, col + 1);
        struct str text = {0};
        position_text(h->d, from, to < from + TIP_TOKENS ? to : from + TIP_TOKENS, &text);
        snprintf(tip, size, "%s at %d: %s%s", format_permille(a, (double)w), from, str_c(&text),
                 to > from + TIP_TOKENS ? " …" : "");
        str_fini(&text);
    }
    return (struct plot_cell){ROLE_TIER_5, h->most > 0 ? sqrtf(fminf(w / h->most, 1)) : 0, 0.12f};
}

static void draw_line(const struct dash *d, struct pen *p)
{
    const struct stats_trace *t = d->trace;
    struct plot plot = pen_plot(p);
    int cols = p->r.x + p->r.w - p->x - 1, rows = p->shapes && p->r.h > 1 ? 2 : 1;
    cols = cols < 1 ? 1 : cols;
    struct heat h = {d, cols * (p->shapes ? 4 : 1), 0};
    h.n_col = h.n_col < t->n ? h.n_col : t->n;
    for (int i = h.n_col > 1 ? 1 : 0; i < h.n_col; i++)
        h.most = fmaxf(h.most, column_weight(&h, i));
    plot_heat(&plot, (struct rect){p->x, p->r.y, cols, rows}, h.n_col, 1, heat_cell, &h);
    for (int i = 0; i < rows; i++)
        pen_end(p);
}

/* The positions with the largest weights, with their text. */
static void draw_most(const struct dash *d, struct pen *p)
{
    const struct stats_trace *t = d->trace;
    int best[MOST_SEEN], n = 0;
    for (int i = 0; i < t->n; i++) {
        if (n == MOST_SEEN && t->weight[i] <= t->weight[best[n - 1]])
            continue;
        int at = n < MOST_SEEN ? n++ : n - 1;
        while (at > 0 && t->weight[best[at - 1]] < t->weight[i]) {
            best[at] = best[at - 1];
            at--;
        }
        best[at] = i;
    }
    pen_line(p, "most at");
    for (int k = 0; k < n; k++) {
        char a[FORMAT_SIZE];
        struct str s = {0};
        position_text(d, best[k], best[k] + 1, &s);
        put_quoted(p, str_c(&s), s.len, ROLE_TEXT, format_permille(a, (double)t->weight[best[k]]));
        str_fini(&s);
    }
    pen_end(p);
}

static void draw_trace(const struct dash *d, struct pen *p)
{
    const struct stats_trace *t = d->trace;
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    pen_line(p, "looked at");
    if (!t || t->n == 0) {
        pen_figure(p, t ? "-- the cache does not hold it: it comes with the next message" : "--",
                   "", "");
        int rows = t ? 1 : p->shapes ? 5 : 4; /* as many as the answer that is to come will take */
        for (int i = 0; i < rows; i++)
            pen_end(p);
        return;
    }
    draw_line(d, p);
    draw_most(d, p);
    pen_line(p, "");
    pen_figure(p, "read again over ", format_count(a, t->n), " tokens, mean of all layers");
    pen_figure(p, ", ", format_percent(b, (double)t->on_rows), " on exact rows");
    pen_end(p);
}

static void draw_legend(const struct ui_model *m, struct pen *p)
{
    static const struct {
        const char *text;
        float p;
    } by_p[] = {{"p≥80%", 0.9f}, {"≥50%", 0.6f}, {"≥20%", 0.3f}, {"≥5%", 0.1f}, {"less", 0}};
    static const struct {
        const char *text;
        float kl;
        bool same;
    } by_kl[] = {{"KL<0.01", 0, true},
                 {"<0.05", 0.02f, true},
                 {"<0.2", 0.1f, true},
                 {"more", 1, true},
                 {"another choice", 1, false}};
    const struct dash *d = m->dash;
    pen_line(p, "colour");
    for (size_t i = 0; i < sizeof by_p / sizeof *by_p; i++)
        pen_key(p, "■", d->by_agree ? role_of_kl(by_kl[i].kl, by_kl[i].same) : role_of_p(by_p[i].p),
                d->by_agree ? by_kl[i].text : by_p[i].text);
    pen_end(p);
}

void view_answer_draw(const struct ui_model *m, struct pen *p)
{
    struct dash *d = m->dash;
    char note[64], a[FORMAT_SIZE], b[FORMAT_SIZE];
    double sum = 0;
    int n = 0;
    bool verified = false;
    for (int i = 0; i < d->n_token; i++) {
        verified |= !isnan(d->token[i].kl);
        if (d->token[i].p > 0) {
            sum += log((double)d->token[i].p);
            n++;
        }
    }
    snprintf(note, sizeof note, "%s tokens, perplexity %s", format_count(b, d->n_token),
             format_rate(a, n ? exp(-sum / n) : NAN));
    pen_heading(p, "Last answer", note);
    if (d->n_token == 0) {
        p->x = p->r.x + 1;
        pen_put(p, "-- no answer in this conversation yet", ROLE_DIM);
        pen_end(p);
        return;
    }
    draw_legend(m, p);
    d->token_shown = p->r.h > 0;
    int rows = p->r.h - 10;
    draw_tokens(m, p, rows < 1 ? 1 : rows);
    draw_choice(d, p);
    draw_trace(d, p);
    if (d->focus && d->tab == DASH_ANSWER) {
        pen_line(p, "keys");
        pen_figure(p,
                   d->by_agree ? "←→ token   Enter colours by probability"
                   : verified  ? "←→ token   Enter colours by disagreement"
                               : "←→ token   verify finds disagreements",
                   "", "");
        pen_end(p);
    }
}
