/* The cell grid; see cells.h. */
#include "ui/cells.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "ui/text.h"

struct cells {
    int cols, rows;
    int cursor_x, cursor_y;
    bool all_damaged;
    struct cell *now, *shown; /* [rows, cols] */
};

static const struct cell blank = {.text = " ", .len = 1, .width = 1};

bool rect_empty(struct rect r)
{
    return r.w <= 0 || r.h <= 0;
}

struct rect rect_cross(struct rect a, struct rect b)
{
    int x0 = a.x > b.x ? a.x : b.x, y0 = a.y > b.y ? a.y : b.y;
    int x1 = a.x + a.w < b.x + b.w ? a.x + a.w : b.x + b.w;
    int y1 = a.y + a.h < b.y + b.h ? a.y + a.h : b.y + b.h;
    struct rect r = {x0, y0, x1 - x0, y1 - y0};
    if (r.w < 0)
        r.w = 0;
    if (r.h < 0)
        r.h = 0;
    return r;
}

static int clamp_size(int v)
{
    return v < 1 ? 1 : v > CELLS_MAX ? CELLS_MAX : v;
}

struct cells *cells_new(int cols, int rows)
{
    struct cells *c = mem_calloc(1, sizeof *c);
    cells_resize(c, cols, rows);
    return c;
}

void cells_free(struct cells *c)
{
    if (!c)
        return;
    free(c->now);
    free(c->shown);
    free(c);
}

void cells_resize(struct cells *c, int cols, int rows)
{
    c->cols = clamp_size(cols);
    c->rows = clamp_size(rows);
    size_t n = (size_t)c->cols * (size_t)c->rows;
    free(c->now);
    free(c->shown);
    c->now = mem_calloc(n, sizeof *c->now);
    c->shown = mem_calloc(n, sizeof *c->shown);
    cells_clear(c);
    c->all_damaged = true;
}

int cells_cols(const struct cells *c)
{
    return c->cols;
}

int cells_rows(const struct cells *c)
{
    return c->rows;
}

static struct cell *cell_at(struct cells *c, int x, int y)
{
    return &c->now[(size_t)y * (size_t)c->cols + (size_t)x];
}

const struct cell *cells_at(const struct cells *c, int x, int y)
{
    if (x < 0 || y < 0 || x >= c->cols || y >= c->rows)
        return NULL;
    return &c->now[(size_t)y * (size_t)c->cols + (size_t)x];
}

void cells_clear(struct cells *c)
{
    size_t n = (size_t)c->cols * (size_t)c->rows;
    for (size_t i = 0; i < n; i++)
        c->now[i] = blank;
    c->cursor_x = c->cursor_y = -1;
}

/* Writes one cluster; a wide neighbour that loses one half becomes spaces. */
static void put_cluster(struct cells *c, int x, int y, const char *s, size_t n, int width,
                        uint8_t role, uint8_t back, uint8_t attr)
{
    struct cell *p = cell_at(c, x, y);
    if (p->width == 0 && x > 0) {
        p[-1].text[0] = ' ';
        p[-1].len = p[-1].width = 1;
    }
    struct cell *end = p + width; /* first cell after the cluster */
    if (x + width < c->cols && end->width == 0) {
        end->text[0] = ' ';
        end->len = end->width = 1;
    }
    if (n > CELL_TEXT) { /* whole code points only */
        n = CELL_TEXT;
        while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80)
            n--;
    }
    memset(p->text, 0, sizeof p->text);
    memcpy(p->text, s, n);
    p->len = (uint8_t)n;
    p->width = (uint8_t)width;
    p->role = role;
    p->back = back;
    p->attr = attr;
    if (width == 2) {
        memset(p[1].text, 0, sizeof p[1].text);
        p[1].len = p[1].width = 0;
        p[1].role = role;
        p[1].back = back;
        p[1].attr = attr;
    }
}

void cells_fill(struct cells *c, struct rect r, const char *cluster, uint8_t role, uint8_t back)
{
    r = rect_cross(r, (struct rect){0, 0, c->cols, c->rows});
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++)
            put_cluster(c, x, y, cluster, strlen(cluster), 1, role, back, 0);
}

int cells_put(struct cells *c, struct rect clip, int x, int y, const char *s, size_t n,
              uint8_t role, uint8_t back, uint8_t attr)
{
    clip = rect_cross(clip, (struct rect){0, 0, c->cols, c->rows});
    bool row_visible = y >= clip.y && y < clip.y + clip.h;
    int col = 0;
    for (size_t off = 0; off < n;) {
        int width;
        const char *g = s + off;
        size_t len = text_next(g, n - off, &width);
        off += len;
        int n_space = 0;
        if (*g == '\t')
            n_space = TEXT_TAB - col % TEXT_TAB;
        else if (*g == '\n')
            n_space = 1;
        if (n_space > 0) {
            for (int i = 0; i < n_space; i++, col++)
                if (row_visible && x + col >= clip.x && x + col < clip.x + clip.w)
                    put_cluster(c, x + col, y, " ", 1, 1, role, back, attr);
            continue;
        }
        if (width == 0)
            continue;
        int at = x + col;
        col += width;
        if (!row_visible || at + width <= clip.x || at >= clip.x + clip.w)
            continue;
        if (at < clip.x || at + width > clip.x + clip.w) { /* half a wide cluster is visible */
            put_cluster(c, at < clip.x ? at + 1 : at, y, " ", 1, 1, role, back, attr);
            continue;
        }
        uint32_t cp;
        if (utf8_decode(g, len, &cp) == 1 && cp == 0xFFFD)
            put_cluster(c, at, y, "\xEF\xBF\xBD", 3, 1, role, back, attr);
        else
            put_cluster(c, at, y, g, len, width, role, back, attr);
    }
    return col;
}

int cells_puts(struct cells *c, struct rect clip, int x, int y, const char *s, uint8_t role,
               uint8_t back, uint8_t attr)
{
    return cells_put(c, clip, x, y, s, strlen(s), role, back, attr);
}

void cells_mark(struct cells *c, struct rect r, uint8_t role, uint8_t attr)
{
    r = rect_cross(r, (struct rect){0, 0, c->cols, c->rows});
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++) {
            cell_at(c, x, y)->role = role;
            cell_at(c, x, y)->attr |= attr;
        }
}

void cells_cursor_set(struct cells *c, int x, int y)
{
    bool inside = x >= 0 && y >= 0 && x < c->cols && y < c->rows;
    c->cursor_x = inside ? x : -1;
    c->cursor_y = inside ? y : -1;
}

bool cells_cursor(const struct cells *c, int *ret_x, int *ret_y)
{
    if (c->cursor_x < 0)
        return false;
    *ret_x = c->cursor_x;
    *ret_y = c->cursor_y;
    return true;
}

bool cells_damage(const struct cells *c, int y, int *ret_x0, int *ret_x1)
{
    if (c->all_damaged) {
        *ret_x0 = 0;
        *ret_x1 = c->cols - 1;
        return true;
    }
    const struct cell *a = c->now + (size_t)y * (size_t)c->cols;
    const struct cell *b = c->shown + (size_t)y * (size_t)c->cols;
    int x0 = 0, x1 = c->cols - 1;
    while (x0 < c->cols && memcmp(&a[x0], &b[x0], sizeof *a) == 0)
        x0++;
    if (x0 == c->cols)
        return false;
    while (x1 > x0 && memcmp(&a[x1], &b[x1], sizeof *a) == 0)
        x1--;
    *ret_x0 = x0;
    *ret_x1 = x1;
    return true;
}

void cells_shown(struct cells *c)
{
    memcpy(c->shown, c->now, (size_t)c->cols * (size_t)c->rows * sizeof *c->now);
    c->all_damaged = false;
}

void cells_invalidate(struct cells *c)
{
    c->all_damaged = true;
}

void cells_row(const struct cells *c, int y, struct str *out)
{
    size_t start = out->len;
    for (int x = 0; x < c->cols; x++) {
        const struct cell *p = cells_at(c, x, y);
        if (p && p->width > 0)
            str_add(out, p->text, p->len);
    }
    while (out->len > start && out->data[out->len - 1] == ' ')
        str_cut(out, out->len - 1, 1);
}
