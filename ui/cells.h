/* A grid of styled grapheme cells: what every view writes and every front-end shows.
 *
 * A cell names its colours by role (ui/theme.h turns roles into colours); `back` is the role whose
 * background shows through where the cell's own role has none. A wide cluster occupies its cell
 * and the next one (width 0, no text). Control characters can not get in: cells_put drops them.
 * Damage is the difference to the frame last marked as shown, so that drawing everything anew each
 * frame costs the front-end only what changed. One thread. */
#ifndef UI_CELLS_H
#define UI_CELLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"

enum { CELL_TEXT = 27 };
enum cell_attr {
    CELL_BOLD = 1,
    CELL_ITALIC = 2,
    CELL_UNDERLINE = 4,
    CELL_STRIKE = 8,
    CELL_REVERSE = 16,
};

struct cell {
    char text[CELL_TEXT]; /* UTF-8 of one cluster, not NUL-terminated; longer ones are cut */
    uint8_t len;          /* bytes in text; 0 = right half of a wide cluster */
    uint8_t width;        /* 1, 2; 0 = right half */
    uint8_t role, back;   /* enum theme_role */
    uint8_t attr;         /* enum cell_attr */
};

struct rect {
    int x, y, w, h;
};
bool rect_empty(struct rect r);
struct rect rect_cross(struct rect a, struct rect b);

struct cells;

struct cells *cells_new(int cols, int rows); /* sizes are clamped to 1..CELLS_MAX */
void cells_free(struct cells *c);
enum { CELLS_MAX = 2000 };
/* New contents are blank; everything is damaged. */
void cells_resize(struct cells *c, int cols, int rows);
int cells_cols(const struct cells *c);
int cells_rows(const struct cells *c);
const struct cell *cells_at(const struct cells *c, int x, int y); /* NULL outside */

void cells_clear(struct cells *c); /* blanks everything, hides the cursor */
/* Fills with one cluster (narrow); clipped to the grid. */
void cells_fill(struct cells *c, struct rect r, const char *cluster, uint8_t role, uint8_t back);
/* Writes one line of text at (x, y), clipped to `clip` and the grid. Line breaks count as spaces,
 * tabs go to the next multiple of TEXT_TAB from x. Returns the columns the text takes (also those
 * clipped away). A wide cluster that does not fit whole is shown as a space. */
int cells_put(struct cells *c, struct rect clip, int x, int y, const char *s, size_t n,
              uint8_t role, uint8_t back, uint8_t attr);
int cells_puts(struct cells *c, struct rect clip, int x, int y, const char *s, uint8_t role,
               uint8_t back, uint8_t attr); /* the same for a NUL-terminated string */
/* Adds attributes to cells already written, e.g. to mark a hit. */
void cells_mark(struct cells *c, struct rect r, uint8_t role, uint8_t attr);

void cells_cursor_set(struct cells *c, int x, int y); /* x < 0 hides it */
bool cells_cursor(const struct cells *c, int *ret_x, int *ret_y);

/* First and last changed column of row y since cells_shown; false = none. */
bool cells_damage(const struct cells *c, int y, int *ret_x0, int *ret_x1);
void cells_shown(struct cells *c);
void cells_invalidate(struct cells *c); /* everything is damaged */

/* Text of row y, trailing spaces removed; for tests and screenshots. */
void cells_row(const struct cells *c, int y, struct str *out);

#endif
