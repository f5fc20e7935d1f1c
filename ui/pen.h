/* Lines of labelled figures, top to bottom in a rectangle: what the parts of the dashboard are
 * written with. What does not fit is left out; figures that do not fit their line go on below. */
#ifndef UI_PEN_H
#define UI_PEN_H

#include "ui/cells.h"
#include "ui/history.h"
#include "ui/plot.h"

enum { PEN_LABEL_COLS = 10 };

struct pen {
    struct cells *c;
    struct rect r; /* what is left */
    int x;         /* on the line being written */
    struct shapes *shapes;
};

void pen_line(struct pen *p, const char *label); /* starts one */
void pen_end(struct pen *p);                     /* ends it */
void pen_put(struct pen *p, const char *s, uint8_t role);
/* A figure with the words around it; words are dim so that figures stand out. */
void pen_figure(struct pen *p, const char *before, const char *value, const char *after);
/* Goes on below when n_col more columns do not fit the line; false = it did. */
bool pen_fits(struct pen *p, int n_col);
/* What a colour means: the mark in it and a word. */
void pen_key(struct pen *p, const char *mark, uint8_t role, const char *text);
/* note: at the right, dim: how old and how sure what follows is; NULL = none. */
void pen_heading(struct pen *p, const char *text, const char *note);
int pen_cols(const struct pen *p, int other); /* for a bar with `other` columns of text after it */
void pen_bar(struct pen *p, double part, int n_col, uint8_t role, const char *tip);
void pen_spark(struct pen *p, const struct history_ring *r, int n_col, const char *unit);
struct plot pen_plot(const struct pen *p);

#endif
