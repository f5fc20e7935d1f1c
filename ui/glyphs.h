/* Clusters of text to pictures: the desktop's monospace font, found by fontconfig and drawn by
 * SDL_ttf, with other installed fonts for what it lacks (CJK, emoji, symbols). Pictures are cached;
 * the cache is emptied when it grows too large. One thread. */
#ifndef UI_GLYPHS_H
#define UI_GLYPHS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct glyph {
    uint32_t *argb; /* [h, w], NULL when there is nothing to see (a space) */
    int w, h;
    int x, y;    /* of its top left corner in the cell */
    bool colour; /* has colours of its own */
};

struct glyphs;

/* family: of the regular font, NULL = what the desktop calls monospace. Errors: no font. */
enum status glyphs_open(const char *family, int size_px, struct glyphs **ret, struct err *e);
void glyphs_close(struct glyphs *g);
/* Another size; the cache is emptied. */
enum status glyphs_size(struct glyphs *g, int size_px, struct err *e);

/* The cell in pixels, and where the line on which letters stand is in it. */
void glyphs_cell(const struct glyphs *g, int *ret_w, int *ret_h, int *ret_baseline);
/* The picture of a cluster that takes n_cell cells; attr: CELL_BOLD, CELL_ITALIC. Borrowed until
 * the next call. */
const struct glyph *glyphs_get(struct glyphs *g, const char *text, size_t n, int n_cell,
                               uint8_t attr);

#endif
