/* The precision map: layers down, pages across; colour is the depth of the page, shade the
 * attention that falls on it. Below it the chosen page. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/format.h"
#include "ui/view_dash.h"

static const float LEAST = 0.3f; /* the tier must be told even where nobody looks */
enum { LABEL = 5, DETAIL_ROWS = 7, PAGE_TOK = 64, WIDEST = 8 };

/* What one cell of the strip stands for: pages and layers [first, end) of it. */
struct strip {
    const struct stats_map *map;
    int n_col, n_row;
    bool digits;
};

static const struct stats_page *page_at(const struct stats_map *m, int layer, int head, int page)
{
    return &m->page[(size_t)(m->first[layer] + head) * (size_t)m->n_block + (size_t)page];
}

static int heads_of(const struct stats_map *m, int layer)
{
    return m->first[layer + 1] - m->first[layer];
}

struct sum {
    int tier, bits; /* the coarsest, and its keys' bits */
    double mass;    /* mean per page and head; NAN = unknown */
};

static struct sum sum_of(const struct stats_map *m, int layer0, int layer1, int page0, int page1)
{
    struct sum s = {0, 16, 0};
    int n = 0;
    for (int l = layer0; l < layer1; l++)
        for (int h = 0; h < heads_of(m, l); h++)
            for (int j = page0; j < page1; j++) {
                const struct stats_page *p = page_at(m, l, h, j);
                if (p->tier > s.tier || (p->tier == s.tier && p->bits_k < s.bits)) {
                    s.tier = p->tier;
                    s.bits = p->bits_k;
                }
                s.mass += (double)p->mass;
                n++;
            }
    s.mass = n ? s.mass / n : NAN;
    return s;
}

static void cell_range(const struct strip *s, int col, int row, int range[4])
{
    const struct stats_map *m = s->map;
    range[0] = (int)((int64_t)row * m->n_layer / s->n_row);
    range[1] = (int)((int64_t)(row + 1) * m->n_layer / s->n_row);
    range[2] = (int)((int64_t)col * m->n_block / s->n_col);
    range[3] = (int)((int64_t)(col + 1) * m->n_block / s->n_col);
    range[1] += range[1] == range[0];
    range[3] += range[3] == range[2];
}

/* 1/8 of an even share and less is nothing, eight times it and more is all. */
static float level_of(const struct stats_map *m, double mass)
{
    double ratio = mass * m->n_block;
    return ratio > 0 ? (float)fmin(fmax(0.5 + log2(ratio) / 6, 0), 1) : 0;
}

static struct plot_cell strip_cell(void *ctx, int col, int row, char *tip, size_t size)
{
    const struct strip *s = ctx;
    char a[FORMAT_SIZE];
    int r[4];
    cell_range(s, col, row, r);
    struct sum sum = sum_of(s->map, r[0], r[1], r[2], r[3]);
    snprintf(tip, size, "layer %d, page %d: %s, attention %s", r[0], r[2],
             stats_tier_name[sum.tier], format_permille(a, sum.mass));
    float level = s->digits || isnan(sum.mass) ? 1 : level_of(s->map, sum.mass);
    return (struct plot_cell){(uint8_t)(ROLE_TIER_0 + sum.tier), level, LEAST};
}

static void draw_digits(struct pen *p, const struct strip *s, struct rect r)
{
    for (int y = 0; y < r.h; y++)
        for (int x = 0; x < r.w; x++) {
            int range[4];
            cell_range(s, x, y, range);
            struct sum sum = sum_of(s->map, range[0], range[1], range[2], range[3]);
            char digit[2] = {sum.bits == 16 ? 'f' : (char)('0' + sum.bits), 0};
            cells_puts(p->c, p->r, r.x + x, r.y + y, digit, (uint8_t)(ROLE_TIER_0 + sum.tier), 0,
                       0);
        }
}

static void draw_strip(const struct ui_model *m, struct pen *p, int rows)
{
    const struct dash *d = m->dash;
    const struct stats_map *map = d->map;
    int wide = (p->r.w - LABEL - 2) / map->n_block;
    wide = wide < 1 ? 1 : wide > WIDEST ? WIDEST : wide;
    int cols = map->n_block * wide;
    cols = cols > p->r.w - LABEL - 2 ? p->r.w - LABEL - 2 : cols;
    rows = rows > map->n_layer ? map->n_layer : rows;
    struct rect r = rect_cross((struct rect){p->r.x + LABEL + 1, p->r.y, cols, rows}, p->r);
    if (rect_empty(r))
        return;
    struct strip s = {map, r.w, r.h, d->digits};
    for (int y = 0; y < r.h; y++) {
        char label[16];
        snprintf(label, sizeof label, "L%-3d", (int)((int64_t)y * map->n_layer / r.h));
        cells_puts(p->c, p->r, p->r.x + 1, r.y + y, label, ROLE_DIM, 0, 0);
    }
    if (d->digits) {
        draw_digits(p, &s, r);
    } else {
        struct plot plot = pen_plot(p);
        if (p->shapes) /* a box is a page */
            s.n_col = map->n_block < 4 * r.w ? map->n_block : 4 * r.w;
        plot_heat(&plot, r, s.n_col, r.h, strip_cell, &s);
    }
    int x = (int)(((int64_t)d->page * r.w + map->n_block - 1) / map->n_block);
    int y = (int)(((int64_t)d->layer * r.h + map->n_layer - 1) / map->n_layer);
    x = x < r.w ? x : r.w - 1;
    y = y < r.h ? y : r.h - 1;
    cells_puts(p->c, p->r, r.x + x, r.y + y, "◆", d->focus ? ROLE_ACCENT : ROLE_TITLE, 0,
               CELL_BOLD);
    view_dash_hit(m, (struct dash_hit){.r = r,
                                       .part = DASH_HIT_MAP,
                                       .per_x = (float)map->n_block / (float)r.w,
                                       .per_y = (float)map->n_layer / (float)r.h});
    for (int i = 0; i < r.h; i++)
        pen_end(p);
}

static void draw_heads(const struct dash *d, struct pen *p)
{
    char text[64];
    pen_line(p, "by head");
    for (int h = 0; h < heads_of(d->map, d->layer); h++) {
        const struct stats_page *page = page_at(d->map, d->layer, h, d->page);
        char a[FORMAT_SIZE];
        snprintf(text, sizeof text, "%s %s", stats_tier_name[page->tier],
                 format_permille(a, (double)page->mass));
        if (p->x + (int)strlen(text) + 3 > p->r.x + p->r.w) {
            pen_put(p, "…", ROLE_DIM);
            break;
        }
        pen_put(p, text, (uint8_t)(ROLE_TIER_0 + page->tier));
        pen_put(p, "  ", ROLE_DIM);
    }
    pen_end(p);
}

static void draw_text(const struct dash *d, struct pen *p, int rows)
{
    pen_line(p, "text");
    if (!d->page_text) {
        pen_put(p, "--", ROLE_TITLE);
        pen_end(p);
        return;
    }
    struct str clean = {0};
    text_clean_line(&clean, d->page_text, d->page_text_len);
    size_t at = 0;
    for (int i = 0; i < rows && at < clean.len; i++) {
        size_t next, n = text_wrap(clean.data + at, clean.len - at, p->r.w - PEN_LABEL_COLS - 2,
                                   false, &next);
        if (i > 0)
            pen_line(p, "");
        if (p->r.h > 0)
            cells_put(p->c, p->r, p->x, p->r.y, clean.data + at, n, ROLE_TEXT, 0, 0);
        at += next;
        pen_end(p);
    }
    str_fini(&clean);
}

static void draw_page(const struct dash *d, struct pen *p, int text_rows)
{
    const struct stats_map *m = d->map;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], text[96];
    double mass = 0, error_k = 0, error_v = 0;
    int n_head = heads_of(m, d->layer);
    for (int h = 0; h < n_head; h++) {
        const struct stats_page *page = page_at(m, d->layer, h, d->page);
        mass += (double)page->mass / n_head;
        error_k += (double)page->error_k / n_head;
        error_v += (double)page->error_v / n_head;
    }
    int first = d->page * PAGE_TOK,
        last = first + PAGE_TOK < m->n_tok ? first + PAGE_TOK : m->n_tok;
    snprintf(text, sizeof text, "layer %d, page %d", d->layer, d->page);
    pen_line(p, "chosen");
    pen_figure(p, "", text, "");
    snprintf(text, sizeof text, "tokens %s to %s", format_count(a, first), format_count(b, last - 1));
    pen_figure(p, ", ", text, "");
    pen_end(p);
    pen_line(p, "error");
    pen_figure(p, "keys ", format_permille(a, error_k), "");
    pen_figure(p, "   values ", format_permille(b, error_v), " (rms, of their size)");
    pen_end(p);
    pen_line(p, "attention");
    pen_figure(p, "", format_permille(a, mass), " of what the answers looked at");
    if (isfinite(mass))
        pen_figure(p, ", ", format_rate(b, mass * m->n_block), " times an even share");
    pen_end(p);
    draw_heads(d, p);
    draw_text(d, p, text_rows);
}

/* Bit i: some page has tier i. */
static uint32_t tiers_held(const struct stats_map *m)
{
    uint32_t held = 0;
    for (int i = 0; i < stats_map_heads(m) * m->n_block; i++)
        held |= 1u << m->page[i].tier;
    return held;
}

void view_map_draw(const struct ui_model *m, struct pen *p)
{
    const struct dash *d = m->dash;
    char note[64] = "--";
    if (d->map)
        view_dash_age(note, sizeof note, m->now_s, d->map->at_s);
    pen_heading(p, "Precision map", note);
    if (!d->map || d->map->n_block == 0) {
        pen_line(p, "");
        p->x = p->r.x + 1;
        pen_figure(p, d->map ? "nothing is in memory: it is read with the next message" : "--", "",
                   "");
        pen_end(p);
        return;
    }
    bool known = isfinite(page_at(d->map, 0, 0, 0)->mass);
    pen_line(p, "colour");
    uint32_t held = tiers_held(d->map);
    for (int i = 0; i < STATS_TIERS - 1; i++)
        if (held >> i & 1)
            pen_key(p, "■", (uint8_t)(ROLE_TIER_0 + i), stats_tier_name[i]);
    pen_figure(p, "bits of keys/values", "", "");
    pen_end(p);
    pen_line(p, d->digits ? "digits" : "shade");
    pen_figure(p,
               d->digits ? "bits of the keys, f = f16"
               : known   ? "attention, ░ little █ much"
                         : "attention --: nothing was written yet",
               "", "");
    if (d->focus && d->tab == DASH_MAP)
        pen_figure(p, d->digits ? "   Enter: attention" : "   Enter: bits", "", "");
    pen_end(p);
    int rows = p->r.h - DETAIL_ROWS + 1;
    draw_strip(m, p, rows < 2 ? 2 : rows);
    draw_page(d, p, p->r.h - 4 < 4 ? p->r.h - 4 : 4);
}
