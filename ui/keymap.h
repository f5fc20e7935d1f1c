/* Which key does what: bindings read from a text file (assets/keymap.conf, then the user's own on
 * top), one section per place where keys mean different things. Actions have a name for the file
 * and a line for the help screen, which is made from these tables. Plain lookups, one thread. */
#ifndef UI_KEYMAP_H
#define UI_KEYMAP_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/err.h"
#include "ui/ui.h"

enum keymap_place {
    KEYMAP_GLOBAL, /* tried when the place itself binds nothing */
    KEYMAP_EDITOR,
    KEYMAP_EMPTY, /* the editor while nothing is typed; tried before KEYMAP_EDITOR */
    KEYMAP_LIST,
    KEYMAP_SELECT, /* choosing a message of the transcript */
    KEYMAP_POPUP,  /* help, confirmation */
    KEYMAP_DASH,   /* the dashboard; keys it does not bind go to the editor */
    KEYMAP_WINDOW, /* in the desktop window; tried before all others */
    KEYMAP_COUNT
};

enum keymap_action {
    ACT_NONE,
    /* everywhere */
    ACT_HELP,
    ACT_DASHBOARD,
    ACT_LIST_TOGGLE,
    ACT_LIST_FOCUS,
    ACT_SELECT_FOCUS,
    ACT_PALETTE,
    ACT_SEARCH,
    ACT_NEW,
    ACT_STOP,
    ACT_CANCEL,
    ACT_QUIT,
    ACT_REDRAW,
    ACT_THINKING,
    ACT_SUSPEND,
    ACT_MOUSE,
    ACT_REGENERATE,
    ACT_PAGE_UP,
    ACT_PAGE_DOWN,
    ACT_SCROLL_UP,
    ACT_SCROLL_DOWN,
    ACT_SCROLL_TOP,
    ACT_SCROLL_END,
    /* editor */
    ACT_SEND,
    ACT_NEWLINE,
    ACT_LEFT,
    ACT_RIGHT,
    ACT_UP,
    ACT_DOWN,
    ACT_WORD_LEFT,
    ACT_WORD_RIGHT,
    ACT_LINE_START,
    ACT_LINE_END,
    ACT_TEXT_START,
    ACT_TEXT_END,
    ACT_BACKSPACE,
    ACT_DELETE,
    ACT_KILL_END,
    ACT_KILL_START,
    ACT_KILL_WORD,
    ACT_KILL_WORD_NEXT,
    ACT_YANK,
    ACT_UNDO,
    ACT_REDO,
    ACT_HISTORY_PREV,
    ACT_HISTORY_NEXT,
    ACT_HISTORY_SEARCH,
    ACT_EXTERNAL_EDITOR,
    ACT_COMPLETE,
    /* lists */
    ACT_ITEM_UP,
    ACT_ITEM_DOWN,
    ACT_ITEM_FIRST,
    ACT_ITEM_LAST,
    ACT_ITEM_OPEN,
    ACT_ITEM_RENAME,
    ACT_ITEM_DELETE,
    ACT_ITEM_PIN,
    ACT_ITEM_FILTER,
    ACT_COPY,
    ACT_EDIT_MESSAGE,
    ACT_FORK,
    ACT_SIBLING_PREV,
    ACT_SIBLING_NEXT,
    ACT_YES,
    ACT_NO,
    ACT_LESS,
    ACT_MORE,
    ACT_TAB_NEXT,
    ACT_TAB_PREV,
    /* window */
    ACT_PASTE,
    ACT_CUT,
    ACT_COPY_SELECTION,
    ACT_SELECT_ALL,
    ACT_ZOOM_IN,
    ACT_ZOOM_OUT,
    ACT_ZOOM_RESET,
    ACT_FULLSCREEN,
    ACT_SCREENSHOT,
    ACT_COUNT
};

struct keymap;

/* The built-in bindings. */
struct keymap *keymap_new(void);
void keymap_free(struct keymap *km);
/* Adds the bindings of a file's text: a later binding of a key replaces an earlier one, action
 * `none` removes it. On error nothing is changed; the text names the line. */
enum status keymap_add(struct keymap *km, const char *text, const char *from, struct err *e);
enum keymap_action keymap_find(const struct keymap *km, enum keymap_place place, struct ui_key key);

const char *keymap_action_help(enum keymap_action a); /* "send the message" */
const char *keymap_place_title(enum keymap_place p);
/* i-th action bound in a place, in table order, ACT_NONE past the end; and its keys for the help
 * screen ("Alt+Enter  Ctrl+J"). */
enum keymap_action keymap_bound(const struct keymap *km, enum keymap_place place, int i);
void keymap_keys(const struct keymap *km, enum keymap_place place, enum keymap_action a, char *buf,
                 size_t size);
/* First key of an action, for hints; "" when it has none. */
void keymap_first_key(const struct keymap *km, enum keymap_place place, enum keymap_action a,
                      char *buf, size_t size);

bool keymap_parse_key(const char *name, struct ui_key *ret); /* "ctrl+c", "alt+enter", "?" */

#endif
