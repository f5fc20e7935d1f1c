/* The inspector: the tokens of the last answer coloured by the probability that the model gave
 * them, the choice it had at one of them, and what the answers attend to. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/format.h"
#include "ui/view_dash.h"

static uint8_t role_of(float p)
{
    return p >= 0.8f    ? ROLE_TIER_1
           : p >= 0.5f  ? ROLE_TIER_2
           : p >= 0.2f  ? ROLE_TIER_4
           : p >= 0.05f ? ROLE_TIER_5
           : p >= 0     ? ROLE_TIER_6
                        : ROLE_TEXT;
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
            x += cells_put(p->c, p->r, x, p->r.y, str_c(&s), s.len, role_of(d->token[i].p), 0,
                           d->token_sel == i ? CELL_REVERSE : 0);
        }
        str_fini(&s);
    }
    pen_end(p);
}

static void put_quoted(struct pen *p, const char *text, size_t len, uint8_t role)
{
    struct str s = {0};
    struct dash_token t = {.text = text, .len = len};
    pen_put(p, "\"", ROLE_DIM);
    token_text(&s, &t);
    pen_put(p, str_c(&s), role);
    pen_put(p, "\" ", ROLE_DIM);
    str_fini(&s);
}

static void draw_choice(const struct dash *d, struct pen *p)
{
    char a[FORMAT_SIZE];
    const struct dash_token *t = &d->token[d->token_sel];
    pen_line(p, "chosen");
    put_quoted(p, t->text, t->len, ROLE_TITLE);
    pen_figure(p, "p ", format_permille(a, (double)t->p), "");
    pen_end(p);
    pen_line(p, "likeliest");
    if (!t->other[0])
        pen_put(p, "--", ROLE_TITLE);
    for (int i = 0; i < STATS_ALTERNATIVES && t->other[i]; i++) {
        put_quoted(p, t->other[i], strlen(t->other[i]), role_of(t->other_p[i]));
        pen_figure(p, "", format_permille(a, (double)t->other_p[i]), "  ");
    }
    pen_end(p);
}

static struct plot_cell heat_cell(void *ctx, int col, int row, char *tip, size_t size)
{
    const struct dash *d = ctx;
    char a[FORMAT_SIZE];
    float most = 0;
    (void)row;
    for (int i = 0; i < d->n_heat; i++)
        most = fmaxf(most, d->heat[i]);
    snprintf(tip, size, "%s of the attention", format_permille(a, (double)d->heat[col]));
    return (struct plot_cell){ROLE_TIER_5, most > 0 ? sqrtf(d->heat[col] / most) : 0};
}

static void draw_heat(const struct dash *d, struct pen *p)
{
    pen_line(p, "attention");
    if (d->n_heat > 0) {
        struct plot plot = pen_plot(p);
        int cols = p->r.x + p->r.w - p->x - 1;
        plot_heat(&plot, (struct rect){p->x, p->r.y, cols < d->n_heat ? cols : d->n_heat, 1},
                  d->n_heat, 1, heat_cell, (void *)d);
        pen_end(p);
        pen_line(p, "");
    }
    pen_put(p, d->heat_note ? d->heat_note : "--", ROLE_DIM);
    pen_end(p);
}

void view_answer_draw(const struct ui_model *m, struct pen *p)
{
    const struct dash *d = m->dash;
    char note[64], a[FORMAT_SIZE];
    double sum = 0;
    int n = 0;
    for (int i = 0; i < d->n_token; i++)
        if (d->token[i].p > 0) {
            sum += log((double)d->token[i].p);
            n++;
        }
    snprintf(note, sizeof note, "%d tokens, perplexity %s", d->n_token,
             format_rate(a, n ? exp(-sum / n) : NAN));
    pen_heading(p, "Last answer, token by token", note);
    p->x = p->r.x + 1;
    pen_put(p, "probability: ", ROLE_DIM);
    static const struct {
        const char *text;
        float p;
    } legend[] = {{"≥80% ", 0.9f}, {"≥50% ", 0.6f}, {"≥20% ", 0.3f}, {"≥5% ", 0.1f}, {"less", 0}};
    for (size_t i = 0; i < sizeof legend / sizeof *legend; i++) {
        pen_put(p, "■", role_of(legend[i].p));
        pen_put(p, legend[i].text, ROLE_DIM);
    }
    pen_end(p);
    if (d->n_token == 0) {
        p->x = p->r.x + 1;
        pen_put(p, "-- no answer was written in this conversation yet", ROLE_DIM);
        pen_end(p);
        return;
    }
    int rows = p->r.h - 5;
    draw_tokens(m, p, rows < 1 ? 1 : rows);
    draw_choice(d, p);
    draw_heat(d, p);
}
