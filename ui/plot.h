/* The few kinds of graphics that the views use. Each fills a rectangle of cells: with block
 * characters, or, when `shapes` is there (the window), with real graphics and values to hover.
 * Callers write the same code for both. Unknown values (NAN) draw nothing, never a zero. */
#ifndef UI_PLOT_H
#define UI_PLOT_H

#include "ui/cells.h"
#include "ui/history.h"
#include "ui/shapes.h"

struct plot {
    struct cells *c;
    struct shapes *shapes; /* NULL: characters */
    struct rect clip;
};

struct plot_part {
    double value; /* below 0 or NAN: left out */
    uint8_t role;
    const char *tip; /* may be NULL */
};

/* part of 1 (cut off there) as a horizontal bar on one row or more. */
void plot_bar(const struct plot *p, struct rect r, double part, uint8_t role, const char *tip);
/* Parts side by side; the whole width stands for `total` (the sum of the parts if that is more).
 * What is left is drawn as empty, hovered as `rest_tip`. Every part above 0 can be seen. */
void plot_stack(const struct plot *p, struct rect r, const struct plot_part *parts, int n,
                double total, const char *rest_tip);
/* The newest samples, newest at the right, from 0 to the largest shown. `unit` follows the value in
 * the tip ("tok/s"). */
void plot_spark(const struct plot *p, struct rect r, const struct history_ring *ring, uint8_t role,
                const char *unit);

struct plot_area {
    const struct history_ring *ring; /* of bytes */
    uint8_t role;
    const char *name; /* in the tip, before its value */
};

/* Rings with equally many samples one upon another, the first at the bottom, the newest at the
 * right; the whole height stands for the largest sum shown, which is returned (0 = nothing). */
float plot_areas(const struct plot *p, struct rect r, const struct plot_area *area, int n_area);

struct plot_cell {
    uint8_t role;
    float level; /* 0..1: how much of the colour; NAN = nothing is known */
    float least; /* 0..1: with pixels, how much of it is there at level 0 */
};
/* A heat map of n_col x n_row values that fills r whatever its size. `get` gives one value and may
 * write a tip (tip[0] = '\0' = none). With characters a cell shows the first value under it. */
void plot_heat(const struct plot *p, struct rect r, int n_col, int n_row,
               struct plot_cell (*get)(void *ctx, int col, int row, char *tip, size_t size),
               void *ctx);

#endif
