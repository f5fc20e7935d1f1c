/* What a front-end is to the application: input events up, cells down. The terminal (tui.h) and
 * the window implement struct ui_front; the controller sees nothing else. Main thread only. */
#ifndef UI_UI_H
#define UI_UI_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "ui/cells.h"
#include "ui/shapes.h"
#include "ui/theme.h"

enum ui_mod { UI_SHIFT = 1, UI_ALT = 2, UI_CTRL = 4 };

/* Keys that are no characters, above every code point. */
enum ui_key_code {
    UI_KEY_NONE = 0,
    UI_KEY_ENTER = 0x110000,
    UI_KEY_TAB,
    UI_KEY_ESCAPE,
    UI_KEY_BACKSPACE,
    UI_KEY_DELETE,
    UI_KEY_INSERT,
    UI_KEY_UP,
    UI_KEY_DOWN,
    UI_KEY_LEFT,
    UI_KEY_RIGHT,
    UI_KEY_HOME,
    UI_KEY_END,
    UI_KEY_PAGE_UP,
    UI_KEY_PAGE_DOWN,
    UI_KEY_F1, /* F1..F12 are consecutive */
    UI_KEY_F12 = UI_KEY_F1 + 11,
};

struct ui_key {
    uint32_t
        code;     /* a code point (letters as typed, with ctrl in lower case) or enum ui_key_code */
    uint8_t mods; /* enum ui_mod; shift only with keys that are no characters */
};

enum ui_event_kind {
    UI_EV_KEY,
    UI_EV_PASTE,  /* text: owned by the receiver, any bytes */
    UI_EV_RESIZE, /* ask size() */
    UI_EV_MOUSE,
    UI_EV_CLOSED, /* the terminal or window is gone; nothing more will come */
};
enum ui_mouse {
    UI_MOUSE_PRESS,
    UI_MOUSE_DRAG, /* moved to another cell with the button held */
    UI_MOUSE_RELEASE,
    UI_MOUSE_WHEEL_UP,
    UI_MOUSE_WHEEL_DOWN
};

struct ui_event {
    enum ui_event_kind kind;
    struct ui_key key;
    char *text;
    size_t len;
    enum ui_mouse mouse;
    int button, x, y; /* mouse: 0 = left, 2 = right; cell, while dragging perhaps outside */
    int n_click;      /* UI_MOUSE_PRESS: 1 = single, 2 = double, 3 = triple; 0 = not counted */
    uint8_t mods;     /* mouse: enum ui_mod */
};

struct ui_front {
    void *ctx;
    void (*size)(void *ctx, int *ret_cols, int *ret_rows);
    /* Sleeps until input, until one of fds is ready (revents are filled) or until timeout_ms (-1 =
     * for ever) have passed. Returns early when a signal came. */
    void (*wait)(void *ctx, struct pollfd *fds, int n_fd, int timeout_ms);
    bool (*event)(void *ctx, struct ui_event *ret); /* next input event; never blocks */
    /* Shows the damage and marks it shown. shapes: NULL unless `graphics`. */
    void (*present)(void *ctx, struct cells *c, const struct shapes *shapes);
    void (*theme)(void *ctx, const struct theme *t);
    bool (*copy)(void *ctx, const char *text, size_t len); /* clipboard; false = not possible */
    void (*title)(void *ctx, const char *title);
    void (*mouse)(void *ctx, bool on);
    void (*suspend)(void *ctx); /* hands the terminal back (external editor, job control) */
    void (*resume)(void *ctx);
    void (*resized)(void *ctx); /* SIGWINCH or SIGCONT came */
    void (*close)(void *ctx);   /* restores the terminal and frees ctx */

    /* Only a window has these; NULL otherwise. */
    bool graphics;                         /* shapes can be shown */
    char *(*paste)(void *ctx);             /* the clipboard's text, the caller's; NULL = empty */
    void (*select)(void *ctx, const char *text, size_t len); /* what the middle button pastes */
    int (*zoom)(void *ctx, int step);      /* 0 = the normal size; returns the steps from there */
    void (*fullscreen)(void *ctx);         /* there or back */
    enum status (*screenshot)(void *ctx, const char *path, struct err *e); /* PNG, a new file */
};

#endif
