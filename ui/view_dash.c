/* The dashboard: what the chat costs in memory, how fast it runs and what compression does to it.
 * Figures come from struct stats, struct dash and the history; what is unknown is "--", and every
 * heading says how old its figures are. See view.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/format.h"
#include "ui/view_dash.h"

static const char *const tab_names[DASH_TABS] = {"Overview", "Map", "Speed", "Answer"};

void view_dash_hit(const struct ui_model *m, struct dash_hit hit)
{
    struct dash *d = m->dash;
    if (d && d->n_hit < DASH_HITS && !rect_empty(hit.r))
        d->hit[d->n_hit++] = hit;
}

const char *view_dash_age(char *buf, size_t size, double now_s, double at_s)
{
    double s = now_s - at_s;
    if (!isfinite(s))
        snprintf(buf, size, "--");
    else if (s < 1)
        snprintf(buf, size, "now");
    else if (s < 100)
        snprintf(buf, size, "%d s ago", (int)s);
    else if (s < 6000)
        snprintf(buf, size, "%d min ago", (int)(s / 60));
    else
        snprintf(buf, size, "%d h ago", (int)(s / 3600));
    return buf;
}

/* How old the figures of a turn are. */
static const char *turn_note(const struct ui_model *m, char *buf, size_t size)
{
    char a[48];
    const struct dash *d = m->dash;
    if (m->running && !m->waits_for && m->stats.phase != STATS_VERIFY)
        snprintf(buf, size, "live");
    else if (d && isfinite(d->turn_at_s))
        snprintf(buf, size, "last turn, %s", view_dash_age(a, sizeof a, m->now_s, d->turn_at_s));
    else
        snprintf(buf, size, m->n_message > 0 ? "no turn since it was opened" : "no turn yet");
    return buf;
}

/* ---- overview ---- */

static void draw_context(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], of[96], note[64];
    double part = s->n_ctx > 0 && s->n_tok >= 0 ? (double)s->n_tok / s->n_ctx : NAN;
    pen_heading(p, "Context", turn_note(m, note, sizeof note));
    pen_line(p, "tokens");
    snprintf(of, sizeof of, " %s of %s", format_count(a, s->n_tok), format_count(b, s->n_ctx));
    pen_bar(p, part, pen_cols(p, (int)strlen(of) + 6), part > 0.9 ? ROLE_TIER_5 : ROLE_TIER_0,
            format_percent(a, part));
    pen_put(p, of, ROLE_TITLE);
    pen_figure(p, " ", format_percent(a, part), "");
    pen_end(p);
    pen_line(p, "prompt");
    pen_figure(p, "reused ", format_count(a, s->n_reused), "");
    pen_figure(p, "   read ", format_count(a, s->n_read), "");
    pen_end(p);
    if (s->phase == STATS_PREFILL) {
        char left[48] = "";
        if (isfinite(s->eta_s))
            snprintf(left, sizeof left, ", %.0f s left", s->eta_s);
        snprintf(of, sizeof of, " %s of %s%s", format_count(a, s->n_prefill_done),
                 format_count(b, s->n_prefill_total), left);
        pen_line(p, "reading");
        pen_bar(p, s->n_prefill_total > 0 ? (double)s->n_prefill_done / s->n_prefill_total : NAN,
                pen_cols(p, (int)strlen(of)), ROLE_TIER_0, NULL);
        pen_put(p, of, ROLE_TITLE);
        pen_end(p);
    }
}

/* Tiers as one bar: each known tier that holds something gets at least one cell. */
static void draw_tiers(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE];
    int64_t total = 0;
    for (int i = 0; i < STATS_TIERS; i++)
        total += s->tier_bytes[i] > 0 ? s->tier_bytes[i] : 0;
    pen_line(p, "by tier");
    if (total == 0) {
        pen_put(p, "--", ROLE_TITLE);
        if (m->dash && m->dash->disk_chat_bytes > 0)
            pen_figure(p, " on disk; the next message takes it up", "", "");
        pen_end(p);
        return;
    }
    struct plot plot = pen_plot(p);
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
    plot_stack(&plot, (struct rect){p->x, p->r.y, pen_cols(p, 0), 1}, parts, STATS_TIERS,
               (double)total, NULL);
    pen_end(p);
    pen_line(p, "");
    for (int i = 0; i < STATS_TIERS; i++) {
        if (s->tier_bytes[i] <= 0)
            continue;
        int w =
            4 + (int)strlen(stats_tier_name[i]) + (int)strlen(format_bytes(a, s->tier_bytes[i]));
        pen_fits(p, w);
        pen_put(p, "■ ", (uint8_t)(ROLE_TIER_0 + i));
        pen_figure(p, stats_tier_name[i], " ", "");
        pen_figure(p, "", format_bytes(a, s->tier_bytes[i]), "");
        pen_put(p, "  ", ROLE_DIM);
    }
    pen_end(p);
}

/* The cache by tier, turn after turn, from the pen on; ends the line. */
static void draw_tier_history(struct pen *p, const struct history *h, int rows)
{
    struct plot_area area[STATS_TIERS];
    char a[FORMAT_SIZE];
    struct plot plot = pen_plot(p);
    for (int i = 0; i < STATS_TIERS; i++)
        area[i] = (struct plot_area){&h->tier[i], (uint8_t)(ROLE_TIER_0 + i), stats_tier_name[i]};
    float most =
        plot_areas(&plot, (struct rect){p->x, p->r.y, pen_cols(p, 0), rows}, area, STATS_TIERS);
    if (p->r.h > 1 && most > 0)
        cells_puts(p->c, p->r, p->r.x + 1, p->r.y + 1, format_bytes(a, (int64_t)most), ROLE_DIM, 0,
                   0);
    for (int i = 0; i < rows; i++)
        pen_end(p);
}

static void draw_room(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], text[64];
    struct dash_room now = dash_room(s, s->fit_tok), floor = dash_room(s, s->fit_floor_tok);
    pen_line(p, "fits");
    if (floor.n_tok == 0 && floor.context) {
        pen_figure(p, "no more: ", "the context is full", "");
    } else if (floor.n_tok == 0) {
        pen_figure(p, "", "short turns", " at most: a larger budget makes room");
    } else if (now.n_tok == 0) {
        snprintf(text, sizeof text, " more tokens, as pages step down to %s",
                 s->kv_floor[0] ? s->kv_floor : "the floor");
        pen_figure(p, "", format_count(a, floor.n_tok), text);
    } else {
        pen_figure(p, "", format_count(a, now.n_tok), " more tokens as it is");
        snprintf(text, sizeof text, " at the floor%s%s", s->kv_floor[0] ? ", " : "", s->kv_floor);
        if (floor.n_tok != now.n_tok)
            pen_figure(p, "   ", format_count(a, floor.n_tok), text);
        if (now.context)
            pen_figure(p, "   the context ends first", "", "");
    }
    pen_end(p);
}

static void draw_cache(const struct ui_model *m, struct pen *p)
{
    bool roomy = p->r.h >= 32; /* after the heading of the tabs and the context */
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], c[FORMAT_SIZE], of[96], note[48];
    snprintf(note, sizeof note, "%s%s", s->kv[0] ? "preset " : "", s->kv);
    pen_heading(p, "Cache in memory", note);
    pen_line(p, "this chat");
    double part = s->kv_f16_bytes > 0 && s->kv_chat_bytes >= 0
                      ? (double)s->kv_chat_bytes / (double)s->kv_f16_bytes
                      : NAN;
    pen_figure(p, "", format_bytes(a, s->kv_chat_bytes), "");
    pen_figure(p, "   in f16 ", format_bytes(b, s->kv_f16_bytes), "");
    pen_figure(p, "   ", format_percent(c, part), "");
    pen_figure(p, "   ",
               format_bytes(a, isfinite(s->bytes_per_tok) ? (int64_t)s->bytes_per_tok : -1),
               "/token");
    if (part > 1) /* the newest 128 tokens are f16 rows, and the first ones are kept beside them */
        pen_figure(p, "   no page yet", "", "");
    pen_end(p);
    pen_line(p, "budget");
    snprintf(of, sizeof of, " %s of %s", format_bytes(a, s->kv_bytes),
             format_bytes(b, s->kv_budget_bytes));
    double full = s->kv_budget_bytes > 0 && s->kv_bytes >= 0
                      ? (double)s->kv_bytes / (double)s->kv_budget_bytes
                      : NAN;
    pen_bar(p, full, pen_cols(p, (int)strlen(of)), full > 0.9 ? ROLE_TIER_5 : ROLE_TIER_0,
            format_percent(a, full));
    pen_put(p, of, ROLE_TITLE);
    pen_end(p);
    draw_tiers(m, p);
    if (roomy && m->history && m->history->tier[0].n > 1) {
        pen_line(p, "by turn");
        draw_tier_history(p, m->history, 3);
    }
    draw_room(m, p);
}

static void draw_memory(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    const struct dash *d = m->dash;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], note[48], of[64];
    pen_heading(p, "Memory and disk", "live");
    pen_line(p, "process");
    pen_figure(p, "RAM ", format_bytes(a, s->rss_bytes), "");
    pen_figure(p, "   VRAM ", format_bytes(a, s->vram_bytes), "");
    pen_figure(p, "   weights ", format_bytes(a, s->weights_bytes), "");
    pen_figure(p, "   scratch ", format_bytes(a, s->scratch_bytes), "");
    pen_end(p);
    if (!d)
        return;
    pen_line(p, "disk");
    if (d->disk_shared) {
        pen_figure(p, "nothing is kept (--no-save)", "", "");
    } else {
        pen_figure(p, "this chat ", format_bytes(a, d->disk_chat_bytes), "");
        pen_figure(p, "   all chats ", format_bytes(a, d->disk_used_bytes), "");
        snprintf(of, sizeof of, ", %s", view_dash_age(note, sizeof note, m->now_s, d->disk_at_s));
        pen_figure(p, " of ", format_bytes(b, d->disk_limit_bytes), of);
    }
    pen_end(p);
}

static void draw_fidelity(const struct ui_model *m, struct pen *p)
{
    static const struct {
        const char *text;
        uint8_t role;
    } lights[] = {
        [DASH_LIGHT_UNKNOWN] = {"○ not measured", ROLE_DIM},
        [DASH_LIGHT_EXACT] = {"● exact: nothing is compressed", ROLE_TIER_2},
        [DASH_LIGHT_GOOD] = {"● good", ROLE_TIER_2},
        [DASH_LIGHT_FAIR] = {"● fair", ROLE_TIER_4},
        [DASH_LIGHT_POOR] = {"● poor", ROLE_TIER_6},
    };
    const struct stats *s = &m->stats;
    bool roomy = p->r.h >= 20;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], note[64];
    enum dash_light light = dash_light(s);
    pen_heading(p, "Fidelity", NULL);
    pen_line(p, "state");
    pen_put(p, lights[light].text, lights[light].role);
    if (light >= DASH_LIGHT_GOOD) { /* two parts: a narrow column breaks the line between them */
        pen_figure(p, "  " DASH_RULE_GOOD, "", "");
        pen_figure(p, " " DASH_RULE_FAIR, "", "");
    } else if (light == DASH_LIGHT_UNKNOWN && m->dash) {
        pen_figure(p, "   verify, below, measures it", "", "");
    }
    pen_end(p);
    pen_line(p, "predicted");
    pen_figure(p, "harm ", format_small(a, s->harm_predicted),
               roomy ? " of attention's output" : "");
    pen_figure(p, "   sampled ", format_small(a, s->harm_measured), "");
    if (s->step_n > 0) {
        char of[96];
        snprintf(of, sizeof of, " sample%s, %s", s->step_n == 1 ? "" : "s",
                 view_dash_age(note, sizeof note, m->now_s, s->step_at_s));
        pen_figure(p, " in ", format_count(a, s->step_n), of);
    }
    pen_end(p);
    pen_line(p, "verified");
    if (s->phase == STATS_VERIFY) {
        double part = s->n_verify_total > 0 ? (double)s->n_verify_done / s->n_verify_total : NAN;
        pen_bar(p, part, pen_cols(p, 30), ROLE_TIER_0, NULL);
        pen_figure(p, " ", format_count(a, s->n_verify_done), "");
        pen_figure(p, " of ", format_count(b, s->n_verify_total), " tokens");
        pen_end(p);
        return;
    }
    pen_figure(p, "KL ", format_small(a, s->verified.kl), "");
    pen_figure(p, "   top-1 ", format_permille(b, s->verified.top1), "");
    if (light >= DASH_LIGHT_GOOD && s->verified.n >= 0) {
        char of[96];
        snprintf(of, sizeof of, " positions, %s",
                 view_dash_age(note, sizeof note, m->now_s, s->verified.at_s));
        pen_figure(p, "   over ", format_count(a, s->verified.n), of);
        pen_figure(p, "   99% below ", format_small(a, s->verified.kl_p99), "");
        if (s->verified.first_divergence >= 0)
            pen_figure(p, "   first differs at ", format_count(b, s->verified.first_divergence), "");
        if (isfinite(s->verified.kl_rounding)) {
            pen_figure(p, "   rounding alone KL ", format_small(a, s->verified.kl_rounding), "");
            pen_figure(p, " top-1 ", format_permille(b, s->verified.top1_rounding), "");
        }
    }
    pen_end(p);
}

static void draw_controls(const struct ui_model *m, struct pen *p)
{
    const struct dash *d = m->dash;
    if (!d)
        return;
    bool focus = d->focus && d->tab == DASH_OVERVIEW;
    pen_heading(p, "Controls",
                focus      ? "↑↓ choose  ←→ change  Enter"
                : d->focus ? "click, or Overview"
                           : "F2 to use, or click");
    pen_line(p, "");
    p->x = p->r.x + 1;
    for (int i = 0; i < DASH_ITEMS; i++) {
        const struct dash_control *c = &d->control[i];
        char text[96];
        snprintf(text, sizeof text,
                 c->turns      ? " %s ‹ %s › "
                 : c->value[0] ? " %s: %s "
                               : " %s ",
                 c->label, c->value);
        int w = text_width(text, strlen(text));
        if (p->x + w > p->r.x + p->r.w - 1 && p->x > p->r.x + 1) {
            pen_end(p);
            p->x = p->r.x + 1;
        }
        bool here = focus && d->item == i;
        struct rect at = rect_cross((struct rect){p->x, p->r.y, w, 1}, p->r);
        if (c->turns && at.w == w) { /* the arrows are where the text ends, and before the value */
            int value = text_width(c->value, strlen(c->value));
            view_dash_hit(m, (struct dash_hit){.r = {p->x + w - 3, p->r.y, 3, at.h},
                                               .part = DASH_HIT_CONTROL,
                                               .a = i,
                                               .b = 1});
            view_dash_hit(m, (struct dash_hit){.r = {p->x + w - value - 6, p->r.y, 3, at.h},
                                               .part = DASH_HIT_CONTROL,
                                               .a = i,
                                               .b = -1});
        }
        view_dash_hit(m, (struct dash_hit){.r = at, .part = DASH_HIT_CONTROL, .a = i});
        if (p->r.h > 0)
            p->x += cells_puts(p->c, p->r, p->x, p->r.y, text, here ? ROLE_SELECTED : ROLE_BUTTON,
                               here ? ROLE_SELECTED : ROLE_BUTTON, 0);
        p->x += 1;
    }
    pen_end(p);
    const char *hint = d->control[d->item].hint;
    for (size_t at = 0, n = strlen(hint); at < n;) {
        size_t next, len = text_wrap(hint + at, n - at, p->r.w - 3, false, &next);
        if (p->r.h > 0)
            cells_put(p->c, p->r, p->r.x + 2, p->r.y, hint + at, len, ROLE_DIM, 0, 0);
        pen_end(p);
        at += next;
    }
}

/* What does not fit is cut off at the end: on short screens the least important, and never the
 * controls while the keys are theirs. */
static void draw_overview(const struct ui_model *m, struct pen *p)
{
    enum { N_PART = 5 };
    typedef void part(const struct ui_model *, struct pen *);
    static part *const whole[N_PART] = {draw_context, draw_cache, draw_memory, draw_fidelity,
                                        draw_controls};
    static part *const short_one[N_PART] = {draw_cache, draw_fidelity, draw_controls, draw_context,
                                            draw_memory};
    static part *const with_keys[N_PART] = {draw_controls, draw_cache, draw_fidelity, draw_context,
                                            draw_memory};
    bool roomy = p->r.h >= 32, fits = p->r.h >= (p->r.w < 70 ? 28 : 20);
    part *const *parts = fits ? whole : m->dash && m->dash->focus ? with_keys : short_one;
    for (int i = 0; i < N_PART; i++) {
        if (roomy && i > 0)
            pen_end(p);
        parts[i](m, p);
    }
}

/* ---- speed ---- */

static void begin_rate(struct pen *p, const char *label, const char *value, const char *unit)
{
    char text[64];
    int curve = p->r.x + 1 + PEN_LABEL_COLS + 17;
    pen_line(p, label);
    snprintf(text, sizeof text, "%9s", value);
    pen_figure(p, "", text, unit);
    p->x = p->x < curve ? curve : p->x;
}

static void end_rate(struct pen *p, const struct history_ring *r, const char *unit)
{
    if (r)
        pen_spark(p, r, pen_cols(p, 0), unit);
    pen_end(p);
}

static void draw_rate(struct pen *p, const char *label, const char *value, const char *unit,
                      const struct history_ring *r)
{
    begin_rate(p, label, value, unit);
    end_rate(p, r, unit);
}

static struct plot_cell layer_cell(void *ctx, int col, int row, char *tip, size_t size)
{
    const struct stats *s = ctx;
    float v = row == 0 ? s->layer_density[col] : s->layer_mass[col];
    char a[FORMAT_SIZE];
    snprintf(tip, size, "layer %d: %s %s", col, row == 0 ? "read" : "kept",
             format_percent(a, (double)v));
    return (struct plot_cell){ROLE_TIER_0, v, 0.1f};
}

static void draw_layers(const struct ui_model *m, struct pen *p)
{
    const struct stats *s = &m->stats;
    int n = s->n_layer < 0 ? 0 : s->n_layer;
    static const char *const labels[] = {"read", "kept"};
    for (int row = 0; row < 2; row++) {
        const float *v = row == 0 ? s->layer_density : s->layer_mass;
        float lo = NAN, hi = NAN;
        for (int i = 0; i < n; i++) {
            lo = fminf(isfinite(v[i]) ? v[i] : lo, isnan(lo) ? v[i] : lo);
            hi = fmaxf(isfinite(v[i]) ? v[i] : hi, isnan(hi) ? v[i] : hi);
        }
        char a[FORMAT_SIZE], b[FORMAT_SIZE];
        pen_line(p, labels[row]);
        struct plot plot = pen_plot(p);
        int cols = n < pen_cols(p, 26) ? n : pen_cols(p, 26);
        struct rect r = {p->x, p->r.y, cols, 1};
        if (n > 0 && isfinite(lo)) {
            struct plot one = plot;
            plot_heat(&one, r, n, 1, layer_cell, (void *)s);
        }
        p->x += cols;
        pen_figure(p, n > 0 ? " by layer, " : "", format_percent(a, (double)lo), "");
        pen_figure(p, " to ", format_percent(b, (double)hi), "");
        pen_end(p);
    }
}

static void draw_speed(const struct ui_model *m, struct pen *p)
{
    static const struct history none;
    const struct history *h = m->history ? m->history : &none;
    const struct stats *s = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], note[64];
    bool roomy = p->r.h >= 28;
    pen_heading(p, "Speed", turn_note(m, note, sizeof note));
    draw_rate(p, "reading", format_rate(a, s->prefill_tps), " tok/s", &h->prefill_tps);
    draw_rate(p, "writing", format_rate(a, s->decode_tps), " tok/s", &h->decode_tps);
    draw_rate(p, "first", format_seconds(a, s->ttft_s), " to the first token", NULL);
    draw_rate(p, "written", format_count(a, s->n_generated), " tokens", NULL);
    if (s->phase == STATS_PREFILL)
        draw_rate(p, "left", format_seconds(a, s->eta_s), " to read", NULL);
    if (roomy)
        pen_end(p);
    snprintf(note, sizeof note, "coverage %s, last prompt", format_small(a, s->coverage));
    pen_heading(p, "Sparse attention", note);
    pen_line(p, "prompt");
    pen_figure(p, "computed ", format_percent(a, s->density), "");
    pen_figure(p, "   mass kept ", format_permille(b, s->retained_mass), "");
    if (s->sparse_reason)
        pen_figure(p, "   why: ", s->sparse_reason, "");
    pen_end(p);
    draw_layers(m, p);
    pen_line(p, "answer");
    pen_figure(p, "read ", format_percent(a, s->decode_density), " of the cache");
    pen_figure(p, "   mass kept ", format_permille(b, s->decode_mass), "");
    pen_end(p);
    if (roomy)
        pen_end(p);
    snprintf(note, sizeof note, "%s turn%s kept", format_count(a, h->n_turn),
             h->n_turn == 1 ? "" : "s");
    pen_heading(p, "Over the conversation", note);
    draw_rate(p, "context", format_count(a, (int64_t)history_last(&h->n_tok)), " tokens",
              &h->n_tok);
    /* By tier on the page opened for it; below others the sum is enough. */
    bool tiers = m->dash && m->dash->tab == DASH_SPEED && p->r.h >= 8;
    begin_rate(p, "cache", format_bytes(a, (int64_t)history_last(&h->kv_bytes)), "");
    if (tiers)
        draw_tier_history(p, h, 3);
    else
        end_rate(p, &h->kv_bytes, "");
    draw_rate(p, "writing", format_rate(a, history_last(&h->turn_tps)), " tok/s", &h->turn_tps);
    draw_rate(p, "first", format_seconds(a, history_last(&h->ttft_s)), "", &h->ttft_s);
    draw_rate(p, "harm", format_small(a, history_last(&h->harm)), "", &h->harm);
}

/* ---- the whole ---- */

static void draw_tabs(const struct ui_model *m, struct pen *p)
{
    const struct dash *d = m->dash;
    int x = p->r.x + 1;
    for (int i = 0; i < DASH_TABS; i++) {
        char text[24];
        snprintf(text, sizeof text, " %s ", tab_names[i]);
        bool open = d->tab == (enum dash_tab)i;
        int w = cells_puts(p->c, p->r, x, p->r.y, text, open ? ROLE_TITLE : ROLE_DIM, 0,
                           open ? CELL_BOLD | CELL_UNDERLINE : 0);
        view_dash_hit(m, (struct dash_hit){.r = {x, p->r.y, w, 1}, .part = DASH_HIT_TAB, .a = i});
        x += w + 1;
    }
    const char *keys = d->focus ? "Tab next · F2 closes" : "F2 to use";
    int w = text_width(keys, strlen(keys));
    if (x + w + 1 <= p->r.x + p->r.w)
        cells_puts(p->c, p->r, p->r.x + p->r.w - w - 1, p->r.y, keys, ROLE_HINT, 0, 0);
    pen_end(p);
}

void view_dash_draw(const struct ui_model *m, struct cells *c, struct rect r)
{
    static void (*const tabs[DASH_TABS])(const struct ui_model *, struct pen *) = {
        draw_overview, view_map_draw, draw_speed, view_answer_draw};
    static const int rows_needed[DASH_TABS] = {30, 12, 17, 11}; /* to follow another */
    if (rect_empty(r))
        return;
    struct pen p = {c, r, r.x, m->shapes};
    if (!m->dash) {
        draw_overview(m, &p);
        return;
    }
    m->dash->n_hit = 0;
    m->dash->token_shown = false;
    draw_tabs(m, &p);
    for (int k = 0; k < DASH_TABS; k++) {
        int i = ((int)m->dash->tab + k) % DASH_TABS;
        if (k > 0 && p.r.h < rows_needed[i] + 1)
            continue;
        if (k > 0)
            pen_end(&p);
        struct pen part = p;
        if (i == DASH_MAP && p.r.h > 26)
            part.r.h = 26; /* leaves room for what follows */
        tabs[i](m, &part);
        p.r.h -= part.r.y - p.r.y;
        p.r.y = part.r.y;
    }
}
