/* A picture in memory and what is drawn on it: boxes, lines and areas with smooth edges, glyph
 * masks, PNG. Pixels are 0x00RRGGBB. Everything is clipped to `clip`, which callers set inside the
 * picture. Colours are blended as they are stored, as desktops do. Knows no fonts and no window. */
#ifndef UI_PIXELS_H
#define UI_PIXELS_H

#include <stdint.h>

#include "engine/base/err.h"
#include "ui/cells.h"

struct pixels {
    uint32_t *px; /* [h, w] */
    int w, h;
    struct rect clip;
};

void pixels_fini(struct pixels *p);
/* New size, contents undefined, clip = everything. Sizes below 1 become 1. */
void pixels_resize(struct pixels *p, int w, int h);

/* alpha: 0..255. */
void pixels_fill(struct pixels *p, struct rect r, uint32_t rgb, uint8_t alpha);
/* A box whose edges may lie between pixels. */
void pixels_box(struct pixels *p, float x0, float y0, float x1, float y1, uint32_t rgb,
                uint8_t alpha);
/* xy: n pairs of pixel coordinates. */
void pixels_line(struct pixels *p, const float *xy, int n, float width, uint32_t rgb,
                 uint8_t alpha);
/* Between the line through n points with ascending x, and `bottom`. */
void pixels_area(struct pixels *p, const float *xy, int n, float bottom, uint32_t rgb,
                 uint8_t alpha);
/* A quarter of a ring of radius r and width `width` around (cx, cy), towards (sx, sy) = +-1. */
void pixels_arc(struct pixels *p, float cx, float cy, float r, float width, int sx, int sy,
                uint32_t rgb);
/* argb: [h, w] with straight alpha. rgb != UINT32_MAX colours it: only its alpha counts. */
void pixels_image(struct pixels *p, int x, int y, const uint32_t *argb, int w, int h, uint32_t rgb);

/* Never overwrites: an existing file is an error. */
enum status pixels_save(const struct pixels *p, const char *path, struct err *e);

#endif
