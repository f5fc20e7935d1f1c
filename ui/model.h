/* What the views read: plain data, filled by the controller (app/screen.c) before each frame.
 * Strings are borrowed for the frame, any bytes (views clean what they draw). */
#ifndef UI_MODEL_H
#define UI_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/stats.h"
#include "ui/editor.h"
#include "ui/keymap.h"
#include "ui/shapes.h"

struct dash;
struct history;

struct ui_message {
    const char *role, *text;
    size_t len;
    bool streaming, cut;
    bool ours; /* an answer of the model that is loaded */
    int32_t n_sibling, sibling;
};

enum ui_work { UI_WORK_NONE, UI_WORK_WAITS, UI_WORK_WRITES, UI_WORK_VERIFIES, UI_WORK_NEW };

struct ui_row { /* a line of a list */
    int64_t id;
    const char *text;
    const char *detail;  /* at the right, may be NULL */
    const char *snippet; /* second line with \x02..\x03 around hits, may be NULL */
    bool open, pinned;
    enum ui_work work; /* of a conversation's turn, said in the place of the detail; NEW: it ended unseen */
};

struct ui_rows {
    const struct ui_row *row;
    int n, sel;
    int *scroll;       /* first row shown; kept by the controller, adjusted by the view */
    const char *empty; /* said when n is 0 */
    int detail_col;    /* 0 = details at the right edge, else from this column on */
};

struct ui_command { /* for help and the palette */
    const char *usage, *help;
};

enum ui_focus { UI_FOCUS_EDITOR, UI_FOCUS_LIST, UI_FOCUS_SELECT, UI_FOCUS_DASH, UI_FOCUS_POPUP };
enum ui_popup {
    UI_POPUP_NONE,
    UI_POPUP_HELP,
    UI_POPUP_PICKER,  /* an input line over a list: palette, search, history, conversations */
    UI_POPUP_INPUT,   /* an input line: rename */
    UI_POPUP_CONFIRM, /* a question */
    UI_POPUP_TEXT,    /* a few lines of text */
    UI_POPUP_COUNT
};

struct ui_model {
    int64_t now_ms; /* Unix time */
    double now_s;   /* CLOCK_MONOTONIC, as stats */

    /* the open conversation */
    const struct ui_message *messages;
    int32_t n_message;
    int32_t selected; /* while focus is UI_FOCUS_SELECT */
    const char *title;
    const char *model_name;
    bool running, show_thinking;
    const char *waits_for; /* running has not begun: title of the chat whose turn runs; NULL = it has */

    struct stats stats;

    struct ui_rows list; /* the conversations beside the chat */
    bool list_wanted, dash_wanted;
    enum ui_focus focus;

    enum ui_popup popup;
    const char *popup_title, *popup_hint;
    struct ui_rows picker;
    struct editor *popup_input; /* UI_POPUP_PICKER, UI_POPUP_INPUT */
    const char *popup_text;     /* UI_POPUP_TEXT */
    int *help_scroll;           /* first line shown of help and text */

    const char *notice; /* one line, NULL = none */
    bool notice_is_error;

    struct editor *editor;
    const char *prompt;      /* up to two columns */
    const char *placeholder; /* shown while nothing is typed */
    const struct keymap *keymap;
    const struct ui_command *commands;
    int n_command;
    const struct history *history; /* figures over time for the dashboard, may be NULL */
    struct dash *dash;             /* what else it shows; NULL = stats alone */
    struct shapes *shapes; /* views add graphics here; NULL = the front-end has characters only */
};

#endif
