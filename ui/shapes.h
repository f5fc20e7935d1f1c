/* What characters cannot draw: boxes, lines and areas over the cell grid, for front-ends that have
 * pixels. Coordinates are cells with fractions, x to the right and y down; colours are the
 * foregrounds of roles. A shape lies over the background of its cells and under their text, and
 * cells with a background role of their own (popups) cover it. Plain data in drawing order, made
 * anew for every frame; one thread. */
#ifndef UI_SHAPES_H
#define UI_SHAPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"
#include "ui/cells.h"

enum shape_kind {
    SHAPE_FILL, /* the box */
    SHAPE_LINE, /* through the points, two pixels wide */
    SHAPE_AREA, /* between the points and the bottom of the box; x of the points ascends */
};

struct shape {
    uint8_t kind;
    uint8_t role;
    uint8_t alpha;     /* 255 = opaque; 0 = nothing to see, only the tip */
    float x, y, w, h;  /* box; lines and areas stay inside */
    uint32_t point, n; /* first point in shapes.xy and how many; 0 for boxes */
    int32_t tip;       /* offset in shapes.tips, -1 = none */
};

struct shapes {
    struct shape *shape;
    float *xy; /* pairs */
    int n, cap;
    uint32_t n_point, cap_point;
    struct str tips; /* NUL-terminated, one after another */
};

void shapes_fini(struct shapes *s); /* leaves an empty struct */
void shapes_clear(struct shapes *s);
bool shapes_equal(const struct shapes *a, const struct shapes *b);

/* `tip` is what to say while the pointer is on the box, NULL = nothing; copied. */
void shapes_fill(struct shapes *s, float x, float y, float w, float h, uint8_t role, uint8_t alpha,
                 const char *tip);
/* xy: n pairs, in cells; outside the box they are cut off by whoever draws. Copied. */
void shapes_line(struct shapes *s, enum shape_kind kind, struct rect box, const float *xy, int n,
                 uint8_t role, uint8_t alpha);
/* Tip of the last shape drawn at a place, NULL = none. */
const char *shapes_tip(const struct shapes *s, float x, float y);

#endif
