/* Where everything goes: a pure function from the size of the screen and what is wanted to
 * rectangles. Rectangles of a layout never overlap, never leave the screen and are empty (w or h 0)
 * when there is no room; popups lie above and are placed by layout_popup. */
#ifndef UI_LAYOUT_H
#define UI_LAYOUT_H

#include <stdbool.h>

#include "ui/cells.h"

enum {
    LAYOUT_LIST_MIN_COLS = 100, /* narrower screens show the list as a popup */
    LAYOUT_DASH_MIN_COLS = 120, /* narrower screens show the dashboard instead of the chat */
    LAYOUT_TEXT_MAX = 96,       /* columns of prose: longer lines are hard to read */
};

struct layout_want {
    bool list;       /* the conversation list beside the chat, if the screen is wide enough */
    bool dash;       /* the dashboard beside the chat, if the screen is wide enough */
    int editor_rows; /* rows the editor's text takes */
    int rule_rows;   /* rows a notice takes; one at least is given */
};

struct layout {
    struct rect list, list_border; /* a column of one cell at the list's right */
    struct rect title;             /* one row above the transcript */
    struct rect chat;              /* the transcript */
    struct rect text;              /* the column of text inside chat (same rows) */
    struct rect rule;              /* between transcript and editor: notices */
    struct rect prompt;            /* two columns at the editor's left */
    struct rect editor;
    struct rect dash, dash_border; /* a column of one cell at the dashboard's left */
    struct rect status;            /* bottom row */
};

void layout_compute(int cols, int rows, const struct layout_want *want, struct layout *ret);
/* A centred box of at most w x h inside `in`, at least one cell away from its edges if it can be.
 */
struct rect layout_popup(struct rect in, int w, int h);

#endif
