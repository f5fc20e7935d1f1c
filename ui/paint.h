/* Cells and shapes to pixels: what the window shows. Repaints only what changed since the last
 * frame and says which rectangles those were. Lines and blocks of the box-drawing characters are
 * drawn here, so that they join whatever the font. Knows no window. One thread. */
#ifndef UI_PAINT_H
#define UI_PAINT_H

#include "ui/cells.h"
#include "ui/glyphs.h"
#include "ui/pixels.h"
#include "ui/shapes.h"
#include "ui/theme.h"

/* What lies above everything and belongs to the front-end. */
struct paint_over {
    const char *preedit; /* text an input method is composing, at the cursor; NULL = none */
    const char *tip;     /* lines of text near (tip_x, tip_y), NULL = none */
    int tip_x, tip_y;    /* pixels */
};

enum { PAINT_DAMAGE_MAX = 64 };

struct paint;

struct paint *paint_new(struct glyphs *g); /* g is borrowed */
void paint_free(struct paint *p);
void paint_theme(struct paint *p, const struct theme *t); /* everything must be repainted then */
void paint_invalidate(struct paint *p);                   /* the next frame repaints everything */

/* How many cells fit into a picture of w x h pixels, and where the first one starts. */
void paint_grid(struct paint *p, int w, int h, int *ret_cols, int *ret_rows);
/* Cell under a pixel; outside the grid too (negative, or beyond the last). */
void paint_cell_at(const struct paint *p, int x, int y, int *ret_col, int *ret_row);
/* The same with fractions, for shapes. */
void paint_place_at(const struct paint *p, int x, int y, float *ret_col, float *ret_row);
/* Pixels of a cell. */
struct rect paint_cell_box(const struct paint *p, int col, int row);

/* Draws what differs from the last frame into px, whose size is the one last given to paint_grid.
 * Returns how many rectangles of `damage` were repainted; 0 = nothing changed. */
int paint_frame(struct paint *p, struct pixels *px, const struct cells *c, const struct shapes *s,
                const struct paint_over *over, struct rect damage[PAINT_DAMAGE_MAX]);

#endif
