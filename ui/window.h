/* The desktop front-end: cells and shapes in an SDL window, keys, mouse, input methods and the
 * clipboard as events. Drawn by the processor into the window's surface, so that it works without
 * OpenGL, and only where something changed, so that it stays quick while the engine has all cores.
 *
 * Built as a module of its own (dogear-window.so) that is loaded when a window is wanted: the
 * program starts quickly, and on machines without SDL. One per process; main thread only. */
#ifndef UI_WINDOW_H
#define UI_WINDOW_H

#include "ui/ui.h"

struct window_options {
    const struct theme *theme;
    const char *font; /* family, NULL = the desktop's monospace */
    int zoom;         /* steps from the normal size, as front->zoom counts them */
};

/* What the module exports as "window_open". Errors: no display, no font. */
typedef enum status window_open_fn(const struct window_options *o, struct ui_front *ret,
                                   struct err *e);
window_open_fn window_open;

#endif
