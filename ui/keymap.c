/* Key bindings; see keymap.h. */
#include "ui/keymap.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "ui/conf.h"

extern const char asset_keymap[]; /* assets/keymap.conf */

struct binding {
    enum keymap_place place;
    struct ui_key key;
    enum keymap_action action;
};

struct keymap {
    struct binding *list;
    int n, cap;
};

static const struct {
    const char *name, *help;
} actions[ACT_COUNT] = {
    [ACT_NONE] = {"none", ""},
    [ACT_HELP] = {"help", "this help"},
    [ACT_DASHBOARD] = {"dashboard", "memory, speed and fidelity; again closes it"},
    [ACT_LIST_TOGGLE] = {"list", "show or hide the conversations"},
    [ACT_LIST_FOCUS] = {"focus-list", "go to the conversations"},
    [ACT_SELECT_FOCUS] = {"select-message", "choose a message: copy, edit, fork"},
    [ACT_PALETTE] = {"palette", "all commands"},
    [ACT_SEARCH] = {"search", "search all conversations"},
    [ACT_NEW] = {"new", "new conversation"},
    [ACT_STOP] = {"stop", "stop the answer; then clear the line; twice: quit"},
    [ACT_CANCEL] = {"cancel", "close what is open, or stop the answer"},
    [ACT_QUIT] = {"quit", "quit"},
    [ACT_REDRAW] = {"redraw", "redraw the screen"},
    [ACT_THINKING] = {"thinking", "show or hide the model's thinking"},
    [ACT_SUSPEND] = {"suspend", "suspend to the shell"},
    [ACT_MOUSE] = {"mouse", "mouse on or off (off: the terminal selects text)"},
    [ACT_REGENERATE] = {"regenerate", "answer again (the old answer stays)"},
    [ACT_PAGE_UP] = {"page-up", "scroll one page up"},
    [ACT_PAGE_DOWN] = {"page-down", "scroll one page down"},
    [ACT_SCROLL_UP] = {"scroll-up", "scroll one line up"},
    [ACT_SCROLL_DOWN] = {"scroll-down", "scroll one line down"},
    [ACT_SCROLL_TOP] = {"scroll-top", "go to the first message"},
    [ACT_SCROLL_END] = {"scroll-end", "go to the newest text and follow it"},
    [ACT_SEND] = {"send", "send the message"},
    [ACT_NEWLINE] = {"newline", "new line (also a \\ at the end of the line)"},
    [ACT_LEFT] = {"left", "left"},
    [ACT_RIGHT] = {"right", "right"},
    [ACT_UP] = {"up", "line up, then older input"},
    [ACT_DOWN] = {"down", "line down, then newer input"},
    [ACT_WORD_LEFT] = {"word-left", "word left"},
    [ACT_WORD_RIGHT] = {"word-right", "word right"},
    [ACT_LINE_START] = {"line-start", "start of the line"},
    [ACT_LINE_END] = {"line-end", "end of the line"},
    [ACT_TEXT_START] = {"text-start", "start of the text"},
    [ACT_TEXT_END] = {"text-end", "end of the text"},
    [ACT_BACKSPACE] = {"backspace", "delete to the left"},
    [ACT_DELETE] = {"delete", "delete to the right"},
    [ACT_KILL_END] = {"kill-end", "cut to the end of the line"},
    [ACT_KILL_START] = {"kill-start", "cut to the start of the line"},
    [ACT_KILL_WORD] = {"kill-word", "cut the word to the left"},
    [ACT_KILL_WORD_NEXT] = {"kill-word-next", "cut the word to the right"},
    [ACT_YANK] = {"yank", "put back what was cut"},
    [ACT_UNDO] = {"undo", "undo"},
    [ACT_REDO] = {"redo", "redo"},
    [ACT_HISTORY_PREV] = {"history-prev", "older input"},
    [ACT_HISTORY_NEXT] = {"history-next", "newer input"},
    [ACT_HISTORY_SEARCH] = {"history-search", "search older input"},
    [ACT_EXTERNAL_EDITOR] = {"external-editor", "write in $VISUAL or $EDITOR"},
    [ACT_COMPLETE] = {"complete", "complete a command; else go to the conversations"},
    [ACT_ITEM_UP] = {"item-up", "up"},
    [ACT_ITEM_DOWN] = {"item-down", "down"},
    [ACT_ITEM_FIRST] = {"item-first", "first"},
    [ACT_ITEM_LAST] = {"item-last", "last"},
    [ACT_ITEM_OPEN] = {"item-open", "open"},
    [ACT_ITEM_RENAME] = {"item-rename", "rename"},
    [ACT_ITEM_DELETE] = {"item-delete", "delete (asks first)"},
    [ACT_ITEM_PIN] = {"item-pin", "pin or unpin"},
    [ACT_ITEM_FILTER] = {"item-filter", "filter by words of title or text"},
    [ACT_COPY] = {"copy", "copy"},
    [ACT_EDIT_MESSAGE] = {"edit-message", "edit (the old branch stays)"},
    [ACT_FORK] = {"fork", "fork a new conversation here"},
    [ACT_SIBLING_PREV] = {"sibling-prev", "previous branch"},
    [ACT_SIBLING_NEXT] = {"sibling-next", "next branch"},
    [ACT_YES] = {"yes", "yes"},
    [ACT_NO] = {"no", "no"},
    [ACT_LESS] = {"less", "less, or to the left"},
    [ACT_MORE] = {"more", "more, or to the right"},
    [ACT_TAB_NEXT] = {"tab-next", "next page of the dashboard"},
    [ACT_TAB_PREV] = {"tab-prev", "previous page of the dashboard"},
    [ACT_PASTE] = {"paste", "paste"},
    [ACT_CUT] = {"cut", "cut what is selected"},
    [ACT_COPY_SELECTION] = {"copy-selection", "copy what is selected"},
    [ACT_SELECT_ALL] = {"select-all", "select all that is typed"},
    [ACT_ZOOM_IN] = {"zoom-in", "larger"},
    [ACT_ZOOM_OUT] = {"zoom-out", "smaller"},
    [ACT_ZOOM_RESET] = {"zoom-reset", "normal size"},
    [ACT_FULLSCREEN] = {"fullscreen", "whole display, or back"},
    [ACT_SCREENSHOT] = {"screenshot", "save a picture of the window"},
};

static const struct {
    const char *section, *title;
} places[KEYMAP_COUNT] = {
    [KEYMAP_GLOBAL] = {"global", "Everywhere"},
    [KEYMAP_EDITOR] = {"editor", "Writing"},
    [KEYMAP_EMPTY] = {"empty", "While nothing is typed"},
    [KEYMAP_LIST] = {"list", "Conversations"},
    [KEYMAP_SELECT] = {"select", "Choosing a message"},
    [KEYMAP_POPUP] = {"popup", "Help, questions"},
    [KEYMAP_DASH] = {"dash", "Dashboard"},
    [KEYMAP_WINDOW] = {"window", "In the desktop window"},
};

static const struct {
    const char *name, *label;
    uint32_t code;
} key_names[] = {
    {"enter", "Enter", UI_KEY_ENTER},
    {"tab", "Tab", UI_KEY_TAB},
    {"escape", "Esc", UI_KEY_ESCAPE},
    {"backspace", "Backspace", UI_KEY_BACKSPACE},
    {"delete", "Del", UI_KEY_DELETE},
    {"insert", "Ins", UI_KEY_INSERT},
    {"up", "Up", UI_KEY_UP},
    {"down", "Down", UI_KEY_DOWN},
    {"left", "Left", UI_KEY_LEFT},
    {"right", "Right", UI_KEY_RIGHT},
    {"home", "Home", UI_KEY_HOME},
    {"end", "End", UI_KEY_END},
    {"pageup", "PgUp", UI_KEY_PAGE_UP},
    {"pagedown", "PgDn", UI_KEY_PAGE_DOWN},
    {"space", "Space", ' '},
};

bool keymap_parse_key(const char *name, struct ui_key *ret)
{
    static const struct {
        const char *prefix;
        uint8_t mod;
    } prefixes[] = {{"ctrl+", UI_CTRL}, {"alt+", UI_ALT}, {"shift+", UI_SHIFT}};
    struct ui_key k = {0};
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
            size_t n = strlen(prefixes[i].prefix);
            if (strncmp(name, prefixes[i].prefix, n) == 0 && name[n]) {
                k.mods |= prefixes[i].mod;
                name += n;
                again = true;
            }
        }
    }
    for (size_t i = 0; i < sizeof key_names / sizeof *key_names; i++)
        if (strcmp(name, key_names[i].name) == 0)
            k.code = key_names[i].code;
    if (!k.code && (name[0] == 'f' || name[0] == 'F') && name[1] >= '1' && name[1] <= '9') {
        int n = atoi(name + 1);
        if (n >= 1 && n <= 12 && strlen(name) == (n > 9 ? 3u : 2u))
            k.code = UI_KEY_F1 + (uint32_t)n - 1;
    }
    if (!k.code && name[0]) {
        uint32_t cp;
        size_t n = strlen(name);
        if ((size_t)utf8_decode(name, n, &cp) != n || cp < 0x21 || cp == 0xFFFD)
            return false;
        k.code = cp;
        k.mods &= (uint8_t)~UI_SHIFT; /* a shifted character is another character */
    }
    *ret = k;
    return k.code != 0;
}

static void bind(struct keymap *km, struct binding b)
{
    for (int i = 0; i < km->n; i++) {
        struct binding *have = &km->list[i];
        if (have->place == b.place && have->key.code == b.key.code &&
            have->key.mods == b.key.mods) {
            have->action = b.action;
            return;
        }
    }
    if (km->n == km->cap) {
        km->cap = km->cap ? km->cap * 2 : 128;
        km->list = mem_realloc(km->list, (size_t)km->cap * sizeof *km->list);
    }
    km->list[km->n++] = b;
}

static enum status parse_binding(const struct conf_line *l, const char *from, struct binding *ret,
                                 struct err *e)
{
    if (!l->key[0])
        return err_set(e, ERR_FORMAT, "%s line %d: expected `key = action`", from, l->number);
    int place = 0, action = 0;
    while (place < KEYMAP_COUNT && strcmp(l->section, places[place].section) != 0)
        place++;
    if (place == KEYMAP_COUNT)
        return err_set(e, ERR_FORMAT,
                       "%s line %d: section [%s] is none of global, editor, empty, list, select, "
                       "popup",
                       from, l->number, l->section);
    while (action < ACT_COUNT && strcmp(l->value, actions[action].name) != 0)
        action++;
    if (action == ACT_COUNT)
        return err_set(e, ERR_FORMAT, "%s line %d: unknown action \"%s\"; F1 shows what there is",
                       from, l->number, l->value);
    struct binding b = {.place = (enum keymap_place)place, .action = (enum keymap_action)action};
    if (!keymap_parse_key(l->key, &b.key))
        return err_set(e, ERR_FORMAT, "%s line %d: unknown key \"%s\"; write for example alt+enter",
                       from, l->number, l->key);
    *ret = b;
    return OK;
}

enum status keymap_add(struct keymap *km, const char *text, const char *from, struct err *e)
{
    for (int pass = 0; pass < 2; pass++) { /* all lines are checked before the first takes effect */
        struct conf_line line;
        const char *at = text;
        int number = 0;
        while (conf_next(&at, &number, &line)) {
            struct binding b = {0};
            TRY(parse_binding(&line, from, &b, e));
            if (pass == 1)
                bind(km, b);
        }
    }
    return OK;
}

struct keymap *keymap_new(void)
{
    struct keymap *km = mem_calloc(1, sizeof *km);
    struct err e;
    enum status s = keymap_add(km, asset_keymap, "keymap.conf", &e);
    assert(s == OK);
    (void)s;
    return km;
}

void keymap_free(struct keymap *km)
{
    if (!km)
        return;
    free(km->list);
    free(km);
}

enum keymap_action keymap_find(const struct keymap *km, enum keymap_place place, struct ui_key key)
{
    for (int i = 0; i < km->n; i++)
        if (km->list[i].place == place && km->list[i].key.code == key.code &&
            km->list[i].key.mods == key.mods)
            return km->list[i].action;
    return ACT_NONE;
}

const char *keymap_action_help(enum keymap_action a)
{
    return a < ACT_COUNT ? actions[a].help : "";
}

const char *keymap_place_title(enum keymap_place p)
{
    return p < KEYMAP_COUNT ? places[p].title : "";
}

enum keymap_action keymap_bound(const struct keymap *km, enum keymap_place place, int i)
{
    for (int a = 1; a < ACT_COUNT; a++) {
        bool bound = false;
        for (int k = 0; k < km->n && !bound; k++)
            bound = km->list[k].place == place && km->list[k].action == (enum keymap_action)a;
        if (bound && i-- == 0)
            return (enum keymap_action)a;
    }
    return ACT_NONE;
}

static size_t key_label(struct ui_key key, char *buf, size_t size)
{
    char name[16] = "";
    for (size_t i = 0; i < sizeof key_names / sizeof *key_names; i++)
        if (key_names[i].code == key.code)
            snprintf(name, sizeof name, "%s", key_names[i].label);
    if (!name[0] && key.code >= UI_KEY_F1 && key.code <= UI_KEY_F12)
        snprintf(name, sizeof name, "F%u", (unsigned)(key.code - UI_KEY_F1 + 1));
    if (!name[0]) {
        uint32_t cp = key.code;
        if ((key.mods & UI_CTRL) && cp >= 'a' && cp <= 'z')
            cp -= 'a' - 'A';
        name[utf8_encode(cp, name)] = '\0';
    }
    int n = snprintf(buf, size, "%s%s%s%s", key.mods & UI_CTRL ? "Ctrl+" : "",
                     key.mods & UI_ALT ? "Alt+" : "", key.mods & UI_SHIFT ? "Shift+" : "", name);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void list_keys(const struct keymap *km, enum keymap_place place, enum keymap_action a,
                      int most, char *buf, size_t size)
{
    size_t len = 0;
    buf[0] = '\0';
    for (int i = 0; i < km->n && most > 0; i++) {
        if (km->list[i].place != place || km->list[i].action != a || len + 24 > size)
            continue;
        if (len > 0)
            len += (size_t)snprintf(buf + len, size - len, "  ");
        len += key_label(km->list[i].key, buf + len, size - len);
        most--;
    }
}

void keymap_keys(const struct keymap *km, enum keymap_place place, enum keymap_action a, char *buf,
                 size_t size)
{
    list_keys(km, place, a, 3, buf, size);
}

void keymap_first_key(const struct keymap *km, enum keymap_place place, enum keymap_action a,
                      char *buf, size_t size)
{
    list_keys(km, place, a, 1, buf, size);
}
