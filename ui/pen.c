/* Lines of figures; see pen.h. */
#include "ui/pen.h"

#include <string.h>

#include "ui/text.h"
#include "ui/theme.h"

struct plot pen_plot(const struct pen *p)
{
    return (struct plot){p->c, p->shapes, p->r};
}

void pen_line(struct pen *p, const char *label)
{
    p->x = p->r.x + 1;
    if (p->r.h > 0)
        cells_puts(p->c, p->r, p->x, p->r.y, label, ROLE_DIM, 0, 0);
    p->x += PEN_LABEL_COLS;
}

void pen_end(struct pen *p)
{
    p->r.y++;
    p->r.h--;
}

void pen_put(struct pen *p, const char *s, uint8_t role)
{
    if (p->r.h > 0)
        p->x += cells_puts(p->c, p->r, p->x, p->r.y, s, role, 0, 0);
}

/* What is longer than a line, broken between words. */
static void put_words(struct pen *p, const char *s, uint8_t role)
{
    while (*s) {
        size_t blank = strspn(s, " "), n = blank + strcspn(s + blank, " ");
        if (p->x + text_width(s, n) > p->r.x + p->r.w - 1 && p->x > p->r.x + 1 + PEN_LABEL_COLS) {
            pen_end(p);
            pen_line(p, "");
            s += blank;
            n -= blank;
        }
        if (p->r.h > 0)
            p->x += cells_put(p->c, p->r, p->x, p->r.y, s, n, role, 0, 0);
        s += n;
    }
}

bool pen_fits(struct pen *p, int n_col)
{
    if (p->x + n_col <= p->r.x + p->r.w - 1 || p->x <= p->r.x + 1 + PEN_LABEL_COLS)
        return true;
    pen_end(p);
    pen_line(p, "");
    return false;
}

void pen_figure(struct pen *p, const char *before, const char *value, const char *after)
{
    if (!pen_fits(p, text_width(before, strlen(before)) + text_width(value, strlen(value)) +
                         text_width(after, strlen(after))))
        before += strspn(before, " ,");
    put_words(p, before, ROLE_DIM);
    put_words(p, value, ROLE_TITLE);
    put_words(p, after, ROLE_DIM);
}

void pen_key(struct pen *p, const char *mark, uint8_t role, const char *text)
{
    pen_fits(p, text_width(mark, strlen(mark)) + text_width(text, strlen(text)));
    pen_put(p, mark, role);
    pen_put(p, text, ROLE_DIM);
    pen_put(p, " ", ROLE_DIM);
}

void pen_heading(struct pen *p, const char *text, const char *note)
{
    if (p->r.h > 0) {
        int w = cells_puts(p->c, p->r, p->r.x + 1, p->r.y, text, ROLE_ACCENT, 0, CELL_BOLD);
        int n = note ? text_width(note, strlen(note)) : 0;
        if (n > 0 && w + n + 4 <= p->r.w)
            cells_puts(p->c, p->r, p->r.x + p->r.w - n - 1, p->r.y, note, ROLE_DIM, 0, 0);
    }
    pen_end(p);
}

int pen_cols(const struct pen *p, int other)
{
    int n = p->r.x + p->r.w - p->x - other - 1;
    return n < 0 ? 0 : n > 40 ? 40 : n;
}

void pen_bar(struct pen *p, double part, int n_col, uint8_t role, const char *tip)
{
    struct plot plot = pen_plot(p);
    plot_bar(&plot, (struct rect){p->x, p->r.y, n_col, 1}, part, role, tip);
    p->x += n_col;
}

/* A second row where there are pixels: the curve is easier to read. */
void pen_spark(struct pen *p, const struct history_ring *r, int n_col, const char *unit)
{
    struct plot plot = pen_plot(p);
    int rows = p->shapes && p->r.h > 1 && r->n > 0 ? 2 : 1;
    plot_spark(&plot, (struct rect){p->x, p->r.y, n_col, rows}, r, ROLE_TIER_0, unit);
    for (int i = 1; i < rows; i++)
        pen_end(p);
}
