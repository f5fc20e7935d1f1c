/* The dashboard: what the chat costs in memory, how fast it runs and what compression does to it.
 * Every figure comes from struct stats; what is unknown is "--". See view.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/format.h"
#include "ui/history.h"
#include "ui/plot.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

enum { LABEL_COLS = 10 };

/* Where the next line goes. */
struct pen {
    struct cells *c;
    struct rect r; /* what is left */
    int x;         /* on the line being written */
    struct shapes *shapes;
};

static struct plot plot_of(const struct pen *p)
{
    return (struct plot){p->c, p->shapes, p->r};
}

static void line_end(struct pen *p);

static void line_start(struct pen *p, const char *label)
{
    p->x = p->r.x + 1;
    if (p->r.h > 0)
        cells_puts(p->c, p->r, p->x, p->r.y, label, ROLE_DIM, 0, 0);
    p->x += LABEL_COLS;
}

static void line_end(struct pen *p)
{
    p->r.y++;
    p->r.h--;
}

static void put(struct pen *p, const char *s, uint8_t role)
{
    if (p->r.h > 0)
        p->x += cells_puts(p->c, p->r, p->x, p->r.y, s, role, 0, 0);
}

/* A figure with the words around it; words are dim so that figures stand out. */
static void figure(struct pen *p, const char *before, const char *value, const char *after)
{
    int w = text_width(before, strlen(before)) + text_width(value, strlen(value)) +
            text_width(after, strlen(after));
    if (p->x + w > p->r.x + p->r.w && p->x > p->r.x + 1 + LABEL_COLS) { /* goes on below */
        line_end(p);
        line_start(p, "");
        before += strspn(before, " ");
    }
    put(p, before, ROLE_DIM);
    put(p, value, ROLE_TITLE);
    put(p, after, ROLE_DIM);
}

static void heading(struct pen *p, const char *text)
{
    if (p->r.h > 0)
        cells_puts(p->c, p->r, p->r.x + 1, p->r.y, text, ROLE_ACCENT, 0, CELL_BOLD);
    line_end(p);
}

static int bar_cols(const struct pen *p, int other)
{
    int n = p->r.x + p->r.w - p->x - other - 1;
    return n < 0 ? 0 : n > 40 ? 40 : n;
}

/* part of 1 as a bar; unknown is an empty one. */
static void bar(struct pen *p, double part, int n_col, uint8_t role, const char *tip)
{
    struct plot plot = plot_of(p);
    plot_bar(&plot, (struct rect){p->x, p->r.y, n_col, 1}, part, role, tip);
    p->x += n_col;
}

/* A second row where there are pixels: the curve is easier to read. */
static void spark(struct pen *p, const struct history_ring *r, int n_col)
{
    struct plot plot = plot_of(p);
    int rows = p->shapes && p->r.h > 1 ? 2 : 1;
    plot_spark(&plot, (struct rect){p->x, p->r.y, n_col, rows}, r, ROLE_TIER_0, "tok/s");
    for (int i = 1; i < rows; i++)
        line_end(p);
}

/* ---- sections ---- */

static void draw_context(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], of[96];
    double part = s->n_ctx > 0 && s->n_tok >= 0 ? (double)s->n_tok / s->n_ctx : NAN;
    line_start(p, "context");
    snprintf(of, sizeof of, " %s of %s", format_count(a, s->n_tok), format_count(b, s->n_ctx));
    bar(p, part, bar_cols(p, (int)strlen(of) + 13), part > 0.9 ? ROLE_TIER_5 : ROLE_TIER_0,
        format_percent(a, part));
    figure(p, "", of, " tokens");
    figure(p, " ", format_percent(a, part), "");
    line_end(p);
    line_start(p, "prompt");
    figure(p, "reused ", format_count(a, s->n_reused), "");
    figure(p, "   read ", format_count(a, s->n_read), "");
    if (s->phase == STATS_PREFILL) {
        figure(p, "   now ", format_count(a, s->n_prefill_done), "");
        figure(p, "/", format_count(b, s->n_prefill_total), "");
        figure(p, ", ", format_seconds(a, s->eta_s), " left");
    }
    line_end(p);
}

/* Tiers as one bar: each known tier that holds something gets at least one cell. */
static void draw_tiers(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE];
    int64_t total = 0;
    for (int i = 0; i < STATS_TIERS; i++)
        total += s->tier_bytes[i] > 0 ? s->tier_bytes[i] : 0;
    line_start(p, "by tier");
    if (total == 0) {
        put(p, "--", ROLE_TITLE);
        line_end(p);
        return;
    }
    struct plot plot = plot_of(p);
    struct plot_part parts[STATS_TIERS];
    char tips[STATS_TIERS][64];
    for (int i = 0; i < STATS_TIERS; i++) {
        char share[FORMAT_SIZE];
        snprintf(tips[i], sizeof tips[i], "%s: %s, %s", stats_tier_name[i],
                 format_bytes(a, s->tier_bytes[i]),
                 format_percent(share, (double)s->tier_bytes[i] / (double)total));
        parts[i] =
            (struct plot_part){(double)s->tier_bytes[i], (uint8_t)(ROLE_TIER_0 + i), tips[i]};
    }
    plot_stack(&plot, (struct rect){p->x, p->r.y, bar_cols(p, 0), 1}, parts, STATS_TIERS,
               (double)total, NULL);
    line_end(p);
    line_start(p, "");
    for (int i = 0; i < STATS_TIERS; i++) {
        if (s->tier_bytes[i] <= 0)
            continue;
        int w =
            4 + (int)strlen(stats_tier_name[i]) + (int)strlen(format_bytes(a, s->tier_bytes[i]));
        if (p->x + w > p->r.x + p->r.w) {
            line_end(p);
            line_start(p, "");
        }
        put(p, "■ ", (uint8_t)(ROLE_TIER_0 + i));
        figure(p, stats_tier_name[i], " ", "");
        figure(p, "", format_bytes(a, s->tier_bytes[i]), "  ");
    }
    line_end(p);
}

static void draw_cache(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], c[FORMAT_SIZE], of[96];
    heading(p, "Cache");
    line_start(p, "this chat");
    figure(p, "", format_bytes(a, s->kv_chat_bytes), "");
    double part = s->kv_f16_bytes > 0 && s->kv_chat_bytes >= 0
                      ? (double)s->kv_chat_bytes / (double)s->kv_f16_bytes
                      : NAN;
    figure(p, "   in f16 ", format_bytes(b, s->kv_f16_bytes), "");
    figure(p, "   ", format_percent(c, part), "");
    figure(p, "   ", format_bytes(a, isfinite(s->bytes_per_tok) ? (int64_t)s->bytes_per_tok : -1),
           "/token");
    line_end(p);
    line_start(p, "budget");
    snprintf(of, sizeof of, " %s of %s", format_bytes(a, s->kv_bytes),
             format_bytes(b, s->kv_budget_bytes));
    double full = s->kv_budget_bytes > 0 && s->kv_bytes >= 0
                      ? (double)s->kv_bytes / (double)s->kv_budget_bytes
                      : NAN;
    bar(p, full, bar_cols(p, (int)strlen(of)), full > 0.9 ? ROLE_TIER_5 : ROLE_TIER_0,
        format_percent(a, full));
    put(p, of, ROLE_TITLE);
    line_end(p);
    draw_tiers(m, p);
    line_start(p, "fits");
    int64_t room = -1;
    if (s->kv_budget_bytes > 0 && s->kv_bytes >= 0 && s->bytes_per_tok > 0) {
        room = (int64_t)((double)(s->kv_budget_bytes - s->kv_bytes) / s->bytes_per_tok);
        if (s->n_ctx > 0 && s->n_tok >= 0 && room > s->n_ctx - s->n_tok)
            room = s->n_ctx - s->n_tok; /* the context ends before the budget does */
        room = room < 0 ? 0 : room;
    }
    figure(p, "", format_count(a, room), " more tokens at this precision");
    line_end(p);
}

static void draw_speed(const struct ui_model *m, struct pen *p)
{
    static const struct history none;
    const struct history *h = m->history ? m->history : &none;
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], rate[64];
    heading(p, "Speed");
    line_start(p, "reading");
    snprintf(rate, sizeof rate, "%7s", format_rate(a, s->prefill_tps));
    figure(p, "", rate, " tok/s  ");
    spark(p, &h->prefill_tps, bar_cols(p, 0));
    line_end(p);
    line_start(p, "writing");
    snprintf(rate, sizeof rate, "%7s", format_rate(a, s->decode_tps));
    figure(p, "", rate, " tok/s  ");
    spark(p, &h->decode_tps, bar_cols(p, 0));
    line_end(p);
    line_start(p, "first");
    snprintf(rate, sizeof rate, "%7s", format_seconds(a, s->ttft_s));
    figure(p, "", rate, "");
    figure(p, "   written ", format_count(a, s->n_generated), "");
    line_end(p);
    line_start(p, "sparse");
    figure(p, "computed ", format_percent(a, s->density), "");
    figure(p, "   mass kept ", format_percent(a, s->retained_mass), "");
    line_end(p);
}

static void draw_fidelity(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    bool measured = isfinite(s->kl_measured) && isfinite(s->top1_measured);
    bool exact = s->tier_bytes[0] > 0; /* everything held is in f16 */
    for (int i = 1; i < STATS_TIERS; i++)
        exact &= s->tier_bytes[i] <= 0;
    bool good = s->kl_measured < 0.01 && s->top1_measured >= 0.97;
    bool fair = s->kl_measured < 0.05 && s->top1_measured >= 0.9;
    heading(p, "Fidelity");
    line_start(p, "state");
    if (measured)
        put(p,
            good   ? "● good"
            : fair ? "● fair"
                   : "● poor",
            good   ? ROLE_TIER_2
            : fair ? ROLE_TIER_4
                   : ROLE_TIER_6);
    else
        put(p, exact ? "● exact: nothing is compressed" : "○ not measured",
            exact ? ROLE_TIER_2 : ROLE_DIM);
    if (measured)
        figure(p, "   good: KL < 0.01, top-1 >= 97%", "", "");
    line_end(p);
    line_start(p, "predicted");
    figure(p, "harm ", format_small(a, s->harm_predicted), "");
    line_end(p);
    line_start(p, "measured");
    figure(p, "KL ", format_small(a, s->kl_measured), "");
    figure(p, "   top-1 ", format_percent(b, s->top1_measured), "");
    if (measured && s->fidelity_n >= 0) {
        double age = m->now_s - s->fidelity_at_s;
        figure(p, "   over ", format_count(a, s->fidelity_n), "");
        figure(p, " positions, ", format_seconds(b, age), " ago");
    }
    line_end(p);
}

static void draw_memory(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE];
    heading(p, "Memory");
    line_start(p, "model");
    figure(p, "weights ", format_bytes(a, s->weights_bytes), "");
    figure(p, "   scratch ", format_bytes(a, s->scratch_bytes), "");
    line_end(p);
    line_start(p, "process");
    figure(p, "RAM ", format_bytes(a, s->rss_bytes), "");
    figure(p, "   VRAM ", format_bytes(a, s->vram_bytes), "");
    line_end(p);
}

void view_dash_draw(const struct ui_model *m, struct cells *c, struct rect r)
{
    if (rect_empty(r))
        return;
    struct pen p = {c, r, r.x, m->shapes};
    bool roomy = r.h >= 26;
    draw_context(m, &p);
    if (roomy)
        line_end(&p);
    draw_cache(m, &p);
    if (roomy)
        line_end(&p);
    draw_speed(m, &p);
    if (roomy)
        line_end(&p);
    draw_fidelity(m, &p);
    if (roomy)
        line_end(&p);
    draw_memory(m, &p);
}
