/* Cells and shapes to pixels; see paint.h. */
#include "ui/paint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "ui/text.h"

/* What `none` in a theme means in a window. */
enum {
    DARK_FG = 0xD4D8DF,
    DARK_BG = 0x1B1E24,
    LIGHT_FG = 0x2B3037,
    LIGHT_BG = 0xFCFCFD,
    TIP_MAX = 96, /* columns */
};

struct paint {
    struct glyphs *glyphs;
    struct theme theme;
    int cell_w, cell_h, baseline, cols, rows, x, y; /* x, y: of the first cell */
    int w, h;                                       /* of the picture */
    bool all;
    /* of the last frame */
    struct shapes shapes;
    struct rect cursor, preedit, tip; /* pixels; w = 0: not shown */
    char *preedit_text, *tip_text;
};

struct paint *paint_new(struct glyphs *g)
{
    struct paint *p = mem_calloc(1, sizeof *p);
    p->glyphs = g;
    p->all = true;
    return p;
}

void paint_free(struct paint *p)
{
    if (!p)
        return;
    shapes_fini(&p->shapes);
    free(p->preedit_text);
    free(p->tip_text);
    free(p);
}

void paint_theme(struct paint *p, const struct theme *t)
{
    p->theme = *t;
    p->all = true;
}

void paint_invalidate(struct paint *p)
{
    p->all = true;
}

void paint_grid(struct paint *p, int w, int h, int *ret_cols, int *ret_rows)
{
    glyphs_cell(p->glyphs, &p->cell_w, &p->cell_h, &p->baseline);
    p->w = w;
    p->h = h;
    p->cols = w / p->cell_w > 0 ? w / p->cell_w : 1;
    p->rows = h / p->cell_h > 0 ? h / p->cell_h : 1;
    /* What is left over goes to all sides; the last row stays at the bottom. */
    p->x = w > p->cols * p->cell_w ? (w - p->cols * p->cell_w) / 2 : 0;
    p->y = h > p->rows * p->cell_h ? (h - p->rows * p->cell_h) / 2 : 0;
    p->all = true;
    *ret_cols = p->cols;
    *ret_rows = p->rows;
}

void paint_place_at(const struct paint *p, int x, int y, float *ret_col, float *ret_row)
{
    *ret_col = (float)(x - p->x) / (float)p->cell_w;
    *ret_row = (float)(y - p->y) / (float)p->cell_h;
}

void paint_cell_at(const struct paint *p, int x, int y, int *ret_col, int *ret_row)
{
    float col, row;
    paint_place_at(p, x, y, &col, &row);
    *ret_col = (int)floorf(col);
    *ret_row = (int)floorf(row);
}

struct rect paint_cell_box(const struct paint *p, int col, int row)
{
    return (struct rect){p->x + col * p->cell_w, p->y + row * p->cell_h, p->cell_w, p->cell_h};
}

/* ---- colours ---- */

static uint32_t colour_or(int32_t rgb, uint32_t fallback)
{
    return rgb == THEME_NONE ? fallback : (uint32_t)rgb;
}

static uint32_t default_fg(const struct paint *p)
{
    return p->theme.dark ? DARK_FG : LIGHT_FG;
}

static uint32_t default_bg(const struct paint *p)
{
    return p->theme.dark ? DARK_BG : LIGHT_BG;
}

static const struct theme_style *style_at(const struct paint *p, uint8_t role)
{
    return &p->theme.style[role < ROLE_COUNT ? role : ROLE_TEXT];
}

struct look {
    uint32_t fg, bg;
    uint8_t attr;
    bool covers; /* hides shapes under it */
};

static struct look look_of(const struct paint *p, const struct cell *c)
{
    const struct theme_style *role = style_at(p, c->role), *back = style_at(p, c->back);
    int32_t bg = role->bg != THEME_NONE ? role->bg : back->bg;
    struct look l = {colour_or(role->fg, default_fg(p)), colour_or(bg, default_bg(p)),
                     (uint8_t)(c->attr | role->attr), bg != THEME_NONE || c->back != ROLE_TEXT};
    if (l.attr & CELL_REVERSE) {
        uint32_t fg = l.fg;
        l.fg = l.bg;
        l.bg = fg;
        l.covers = true;
    }
    return l;
}

/* ---- box drawing and blocks ---- */

/* Arms of U+2500..U+254B that the views and code people paste use: left, right, up, down as two
 * bits each; 1 = light, 2 = heavy. */
static uint8_t arms_of(uint32_t cp)
{
#define ARMS(l, r, u, d) (uint8_t)((l) | (r) << 2 | (u) << 4 | (d) << 6)
    switch (cp) {
    case 0x2500:
        return ARMS(1, 1, 0, 0);
    case 0x2501:
        return ARMS(2, 2, 0, 0);
    case 0x2502:
        return ARMS(0, 0, 1, 1);
    case 0x2503:
        return ARMS(0, 0, 2, 2);
    case 0x250C:
        return ARMS(0, 1, 0, 1);
    case 0x2510:
        return ARMS(1, 0, 0, 1);
    case 0x2514:
        return ARMS(0, 1, 1, 0);
    case 0x2518:
        return ARMS(1, 0, 1, 0);
    case 0x251C:
        return ARMS(0, 1, 1, 1);
    case 0x2524:
        return ARMS(1, 0, 1, 1);
    case 0x252C:
        return ARMS(1, 1, 0, 1);
    case 0x2534:
        return ARMS(1, 1, 1, 0);
    case 0x253C:
        return ARMS(1, 1, 1, 1);
    case 0x2574:
        return ARMS(1, 0, 0, 0);
    case 0x2575:
        return ARMS(0, 0, 1, 0);
    case 0x2576:
        return ARMS(0, 1, 0, 0);
    case 0x2577:
        return ARMS(0, 0, 0, 1);
    default:
        return 0;
    }
#undef ARMS
}

static int line_width(const struct paint *p, int weight)
{
    int light = (p->cell_h + 10) / 20;
    return light * weight;
}

static void draw_arms(const struct paint *p, struct pixels *px, struct rect r, uint8_t arms,
                      uint32_t fg)
{
    int cx = r.x + r.w / 2, cy = r.y + r.h / 2;
    for (int i = 0; i < 4; i++) {
        int w = line_width(p, arms >> 2 * i & 3);
        if (w == 0)
            continue;
        int a = cx - w / 2, b = cy - w / 2;
        struct rect arm = i == 0   ? (struct rect){r.x, b, a + w - r.x, w}
                          : i == 1 ? (struct rect){a, b, r.x + r.w - a, w}
                          : i == 2 ? (struct rect){a, r.y, w, b + w - r.y}
                                   : (struct rect){a, b, w, r.y + r.h - b};
        pixels_fill(px, arm, fg, 255);
    }
}

/* U+256D..U+2570: a quarter of a circle and straight ends. */
static void draw_corner(const struct paint *p, struct pixels *px, struct rect r, uint32_t cp,
                        uint32_t fg)
{
    int sx = cp == 0x256D || cp == 0x2570 ? 1 : -1, sy = cp == 0x256D || cp == 0x256E ? 1 : -1;
    int w = line_width(p, 1), x = r.x + r.w / 2 - w / 2, y = r.y + r.h / 2 - w / 2;
    int radius = r.w / 2;
    float mx = (float)x + (float)w / 2, my = (float)y + (float)w / 2;
    float ax = mx + (float)(sx * radius), ay = my + (float)(sy * radius);
    pixels_arc(px, ax, ay, (float)radius, (float)w, -sx, -sy, fg);
    if (sx > 0)
        pixels_fill(px, (struct rect){x + radius, y, r.x + r.w - x - radius, w}, fg, 255);
    else
        pixels_fill(px, (struct rect){r.x, y, x + w - radius - r.x, w}, fg, 255);
    if (sy > 0)
        pixels_fill(px, (struct rect){x, y + radius, w, r.y + r.h - y - radius}, fg, 255);
    else
        pixels_fill(px, (struct rect){x, r.y, w, y + w - radius - r.y}, fg, 255);
}

/* U+2580..U+259F without the quadrants: parts of the cell, or shades of it. */
static bool draw_block(struct pixels *px, struct rect r, uint32_t cp, uint32_t fg)
{
    float x = (float)r.x, y = (float)r.y, w = (float)r.w, h = (float)r.h;
    if (cp == 0x2580)
        pixels_box(px, x, y, x + w, y + h / 2, fg, 255);
    else if (cp >= 0x2581 && cp <= 0x2588)
        pixels_box(px, x, y + h - h * (float)(cp - 0x2580) / 8, x + w, y + h, fg, 255);
    else if (cp >= 0x2589 && cp <= 0x258F)
        pixels_box(px, x, y, x + w * (float)(0x2590 - cp) / 8, y + h, fg, 255);
    else if (cp == 0x2590)
        pixels_box(px, x + w / 2, y, x + w, y + h, fg, 255);
    else if (cp >= 0x2591 && cp <= 0x2593)
        pixels_fill(px, r, fg, (uint8_t)(64 * (cp - 0x2590)));
    else
        return false;
    return true;
}

/* ---- cells ---- */

static void draw_cell_text(const struct paint *p, struct pixels *px, const struct cell *c,
                           struct rect r, const struct look *l)
{
    uint32_t cp = ' ';
    if (c->len > 0)
        utf8_decode(c->text, c->len, &cp);
    uint8_t arms = arms_of(cp);
    if (arms)
        draw_arms(p, px, r, arms, l->fg);
    else if (cp >= 0x256D && cp <= 0x2570)
        draw_corner(p, px, r, cp, l->fg);
    else if (cp != ' ' && !draw_block(px, r, cp, l->fg)) {
        const struct glyph *g = glyphs_get(p->glyphs, c->text, c->len, c->width, l->attr);
        if (g->argb)
            pixels_image(px, r.x + g->x, r.y + g->y, g->argb, g->w, g->h,
                         g->colour ? UINT32_MAX : l->fg);
    }
    int line = line_width(p, 1);
    if (l->attr & CELL_UNDERLINE)
        pixels_fill(px, (struct rect){r.x, r.y + p->baseline + 1, r.w, line}, l->fg, 200);
    if (l->attr & CELL_STRIKE)
        pixels_fill(px, (struct rect){r.x, r.y + p->baseline - p->cell_h / 4, r.w, line}, l->fg,
                    255);
}

/* Backgrounds of the outermost cells reach to the edge of the picture. */
static struct rect reach(const struct paint *p, struct rect r, int col, int row, int n_col)
{
    if (col == 0) {
        r.w += r.x;
        r.x = 0;
    }
    if (row == 0) {
        r.h += r.y;
        r.y = 0;
    }
    if (col + n_col >= p->cols)
        r.w = p->w - r.x;
    if (row == p->rows - 1)
        r.h = p->h - r.y;
    return r;
}

static void draw_shape(const struct paint *p, struct pixels *px, const struct shapes *s,
                       const struct shape *sh)
{
    float w = (float)p->cell_w, h = (float)p->cell_h, x = (float)p->x, y = (float)p->y;
    uint32_t rgb = colour_or(style_at(p, sh->role)->fg, default_fg(p));
    if (sh->alpha == 0)
        return;
    if (sh->kind == SHAPE_FILL) {
        pixels_box(px, x + sh->x * w, y + sh->y * h, x + (sh->x + sh->w) * w,
                   y + (sh->y + sh->h) * h, rgb, sh->alpha);
        return;
    }
    float *xy = mem_calloc((size_t)sh->n * 2, sizeof *xy);
    for (uint32_t i = 0; i < sh->n; i++) {
        xy[2 * i] = x + s->xy[2 * (sh->point + i)] * w;
        xy[2 * i + 1] = y + s->xy[2 * (sh->point + i) + 1] * h;
    }
    struct rect before = px->clip;
    px->clip = rect_cross(px->clip,
                          (struct rect){(int)(x + sh->x * w), (int)(y + sh->y * h),
                                        (int)ceilf(sh->w * w) + 1, (int)ceilf(sh->h * h) + 1});
    if (sh->kind == SHAPE_AREA)
        pixels_area(px, xy, (int)sh->n, y + (sh->y + sh->h) * h, rgb, sh->alpha);
    else
        pixels_line(px, xy, (int)sh->n, 1.6f * (float)line_width(p, 1), rgb, sh->alpha);
    px->clip = before;
    free(xy);
}

/* Text at a pixel position, for what lies above the grid. Returns the columns it took. */
static int draw_text(const struct paint *p, struct pixels *px, int x, int y, const char *s,
                     size_t n, uint32_t fg, uint8_t attr)
{
    int col = 0;
    for (size_t off = 0; off < n;) {
        int width;
        size_t len = text_next(s + off, n - off, &width);
        if (width > 0 && s[off] != ' ') {
            struct cell c = {.len = (uint8_t)(len < CELL_TEXT ? len : CELL_TEXT),
                             .width = (uint8_t)width};
            memcpy(c.text, s + off, c.len);
            struct look l = {fg, 0, attr, false};
            draw_cell_text(p, px, &c,
                           (struct rect){x + col * p->cell_w, y, width * p->cell_w, p->cell_h}, &l);
        }
        col += width;
        off += len;
    }
    return col;
}

static void draw_over(const struct paint *p, struct pixels *px)
{
    if (p->preedit.w > 0) {
        pixels_fill(px, p->preedit, colour_or(style_at(p, ROLE_POPUP)->bg, default_bg(p)), 255);
        draw_text(p, px, p->preedit.x, p->preedit.y, p->preedit_text, strlen(p->preedit_text),
                  default_fg(p), CELL_UNDERLINE);
    }
    if (p->tip.w > 0) {
        uint32_t edge = colour_or(style_at(p, ROLE_ACCENT)->fg, default_fg(p));
        struct rect in = {p->tip.x + 1, p->tip.y + 1, p->tip.w - 2, p->tip.h - 2};
        pixels_fill(px, p->tip, edge, 255);
        pixels_fill(px, in, colour_or(style_at(p, ROLE_POPUP)->bg, default_bg(p)), 255);
        int y = p->tip.y + p->cell_h / 8;
        for (const char *s = p->tip_text; *s; y += p->cell_h) {
            size_t n = strcspn(s, "\n");
            draw_text(p, px, p->tip.x + p->cell_w / 2, y, s, n,
                      colour_or(style_at(p, ROLE_POPUP)->fg, default_fg(p)), 0);
            s += n + (s[n] == '\n');
        }
    }
}

static void draw_region(const struct paint *p, struct pixels *px, const struct cells *c,
                        const struct shapes *s, struct rect r)
{
    px->clip = rect_cross(r, (struct rect){0, 0, px->w, px->h});
    pixels_fill(px, px->clip, default_bg(p), 255);
    if (s)
        for (int i = 0; i < s->n; i++)
            draw_shape(p, px, s, &s->shape[i]);
    /* One cell more on each side: letters may lean out of theirs. */
    int x0, y0, x1, y1;
    paint_cell_at(p, r.x, r.y, &x0, &y0);
    paint_cell_at(p, r.x + r.w - 1, r.y + r.h - 1, &x1, &y1);
    x0 = x0 > 2 ? x0 - 2 : 0;
    y0 = y0 > 0 ? y0 : 0;
    for (int pass = 0; pass < 2; pass++)
        for (int y = y0; y <= y1 && y < p->rows; y++)
            for (int x = x0; x <= x1 + 1 && x < p->cols; x++) {
                const struct cell *cell = cells_at(c, x, y);
                if (!cell || cell->width == 0)
                    continue;
                struct rect box = paint_cell_box(p, x, y);
                box.w *= cell->width;
                struct look l = look_of(p, cell);
                if (pass == 1)
                    draw_cell_text(p, px, cell, box, &l);
                else if (l.covers)
                    pixels_fill(px, reach(p, box, x, y, cell->width), l.bg, 255);
            }
    if (p->cursor.w > 0)
        pixels_fill(px, p->cursor, colour_or(style_at(p, ROLE_ACCENT)->fg, default_fg(p)), 255);
    draw_over(p, px);
    px->clip = (struct rect){0, 0, px->w, px->h};
}

/* ---- damage ---- */

struct damage {
    struct rect *list;
    int n;
};

static struct rect join(struct rect a, struct rect b)
{
    if (rect_empty(a))
        return b;
    if (rect_empty(b))
        return a;
    int x = a.x < b.x ? a.x : b.x, y = a.y < b.y ? a.y : b.y;
    int x1 = a.x + a.w > b.x + b.w ? a.x + a.w : b.x + b.w;
    int y1 = a.y + a.h > b.y + b.h ? a.y + a.h : b.y + b.h;
    return (struct rect){x, y, x1 - x, y1 - y};
}

/* Neighbouring rows become one rectangle; when the list is full, the last one grows. */
static void damage_add(struct damage *d, struct rect r)
{
    if (rect_empty(r))
        return;
    struct rect *last = d->n > 0 ? &d->list[d->n - 1] : NULL;
    bool touches = last && r.y <= last->y + last->h && r.y + r.h >= last->y &&
                   abs(r.x - last->x) < 200 && abs(r.x + r.w - last->x - last->w) < 200;
    if (touches || d->n == PAINT_DAMAGE_MAX)
        *last = join(*last, r);
    else
        d->list[d->n++] = r;
}

static struct rect shapes_box(const struct paint *p, const struct shapes *s)
{
    struct rect all = {0};
    for (int i = 0; i < s->n; i++) {
        const struct shape *sh = &s->shape[i];
        int x0 = p->x + (int)floorf(sh->x * (float)p->cell_w) - 1;
        int y0 = p->y + (int)floorf(sh->y * (float)p->cell_h) - 1;
        int x1 = p->x + (int)ceilf((sh->x + sh->w) * (float)p->cell_w) + 1;
        int y1 = p->y + (int)ceilf((sh->y + sh->h) * (float)p->cell_h) + 1;
        all = join(all, (struct rect){x0, y0, x1 - x0, y1 - y0});
    }
    return all;
}

static void shapes_copy(struct shapes *to, const struct shapes *from)
{
    shapes_clear(to);
    for (int i = 0; i < from->n; i++) {
        const struct shape *s = &from->shape[i];
        if (s->kind == SHAPE_FILL)
            shapes_fill(to, s->x, s->y, s->w, s->h, s->role, s->alpha,
                        s->tip >= 0 ? from->tips.data + s->tip : NULL);
        else
            shapes_line(to, (enum shape_kind)s->kind,
                        (struct rect){(int)s->x, (int)s->y, (int)s->w, (int)s->h},
                        from->xy + 2 * s->point, (int)s->n, s->role, s->alpha);
    }
}

static struct rect cursor_box(const struct paint *p, const struct cells *c)
{
    int x, y;
    if (!cells_cursor(c, &x, &y))
        return (struct rect){0};
    struct rect r = paint_cell_box(p, x, y);
    r.w = line_width(p, 2);
    return r;
}

static struct rect preedit_box(const struct paint *p, const struct cells *c, const char *text)
{
    int x, y;
    if (!text || !text[0] || !cells_cursor(c, &x, &y))
        return (struct rect){0};
    struct rect r = paint_cell_box(p, x, y);
    r.w = text_width(text, strlen(text)) * p->cell_w;
    if (r.x + r.w > p->w) /* it would leave the window: back up to the edge */
        r.x = p->w > r.w ? p->w - r.w : 0;
    return r;
}

static struct rect tip_box(const struct paint *p, const struct paint_over *over)
{
    if (!over->tip || !over->tip[0])
        return (struct rect){0};
    int cols = 0, rows = 0;
    for (const char *s = over->tip; *s; rows++) {
        size_t n = strcspn(s, "\n");
        int w = text_width(s, n);
        cols = w > cols ? w : cols;
        s += n + (s[n] == '\n');
    }
    cols = cols < TIP_MAX ? cols : TIP_MAX;
    struct rect r = {over->tip_x + p->cell_w, over->tip_y - rows * p->cell_h - p->cell_h / 2,
                     cols * p->cell_w + p->cell_w, rows * p->cell_h + p->cell_h / 4};
    if (r.x + r.w > p->w)
        r.x = p->w - r.w;
    if (r.y < 0) /* no room above the pointer: below it */
        r.y = over->tip_y + p->cell_h;
    r.x = r.x < 0 ? 0 : r.x;
    return r;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_box(struct rect a, struct rect b)
{
    return a.x == b.x && a.y == b.y && a.w == b.w && a.h == b.h;
}

static void over_changed(struct damage *d, struct rect *box, struct rect now, char **text,
                         const char *new_text)
{
    if (same_box(*box, now) && (now.w == 0 || same_text(*text, new_text)))
        return;
    damage_add(d, *box);
    damage_add(d, now);
    *box = now;
    free(*text);
    *text = new_text ? mem_strdup(new_text) : NULL;
}

int paint_frame(struct paint *p, struct pixels *px, const struct cells *c, const struct shapes *s,
                const struct paint_over *over, struct rect list[PAINT_DAMAGE_MAX])
{
    static const struct shapes none;
    struct damage d = {list, 0};
    s = s ? s : &none;
    for (int y = 0; y < p->rows && y < cells_rows(c); y++) {
        int x0, x1;
        if (!cells_damage(c, y, &x0, &x1))
            continue;
        /* Letters lean out of their cells, and a wide one may have been cut in half. */
        x0 = x0 > 1 ? x0 - 2 : 0;
        x1 = x1 + 1 < p->cols ? x1 + 1 : p->cols - 1;
        struct rect a = reach(p, paint_cell_box(p, x0, y), x0, y, 1),
                    b = reach(p, paint_cell_box(p, x1, y), x1, y, 1);
        damage_add(&d, join(a, b));
    }
    if (s != &p->shapes && !shapes_equal(s, &p->shapes)) {
        damage_add(&d, join(shapes_box(p, s), shapes_box(p, &p->shapes)));
        shapes_copy(&p->shapes, s);
    }
    struct rect cursor = cursor_box(p, c);
    if (!same_box(cursor, p->cursor)) {
        damage_add(&d, p->cursor);
        damage_add(&d, cursor);
        p->cursor = cursor;
    }
    over_changed(&d, &p->preedit, preedit_box(p, c, over->preedit), &p->preedit_text,
                 over->preedit);
    over_changed(&d, &p->tip, tip_box(p, over), &p->tip_text, over->tip);
    if (p->all) {
        list[0] = (struct rect){0, 0, px->w, px->h};
        d.n = 1;
        p->all = false;
    }
    int n = 0;
    for (int i = 0; i < d.n; i++) {
        list[n] = rect_cross(list[i], (struct rect){0, 0, px->w, px->h});
        if (rect_empty(list[n]))
            continue;
        draw_region(p, px, c, &p->shapes, list[n]);
        n++;
    }
    return n;
}
