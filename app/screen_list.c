/* The conversation list, pickers, and the small boxes above the screen; see screen.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "app/commands.h"
#include "app/compact.h"
#include "app/screen_state.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thought.h"
#include "engine/base/utf8.h"
#include "ui/format.h"
#include "ui/text.h"

/* ---- rows ---- */

void rows_clear(struct rows *r)
{
    for (int i = 0; i < 3 * r->n; i++)
        free(r->strings[i]);
    free(r->strings);
    free(r->row);
    r->strings = NULL;
    r->row = NULL;
    r->n = 0;
}

void rows_add(struct rows *r, int64_t id, const char *text, const char *detail, const char *snippet,
              bool open, bool pinned)
{
    r->row = mem_realloc(r->row, (size_t)(r->n + 1) * sizeof *r->row);
    r->strings = mem_realloc(r->strings, (size_t)(r->n + 1) * 3 * sizeof *r->strings);
    char **s = r->strings + 3 * r->n;
    s[0] = mem_strdup(text);
    s[1] = mem_strdup(detail);
    s[2] = mem_strdup(snippet);
    r->row[r->n++] = (struct ui_row){id, s[0], s[1], s[2], open, pinned};
}

void rows_move(struct rows *r, int to)
{
    r->sel = to >= r->n ? r->n - 1 : to;
    if (r->sel < 0)
        r->sel = 0;
}

static bool rows_act(struct rows *r, enum keymap_action a, int page)
{
    switch (a) {
    case ACT_ITEM_UP:
        rows_move(r, r->sel - 1);
        return true;
    case ACT_ITEM_DOWN:
        rows_move(r, r->sel + 1);
        return true;
    case ACT_ITEM_FIRST:
        rows_move(r, 0);
        return true;
    case ACT_ITEM_LAST:
        rows_move(r, r->n - 1);
        return true;
    case ACT_PAGE_UP:
        rows_move(r, r->sel - page);
        return true;
    case ACT_PAGE_DOWN:
        rows_move(r, r->sel + page);
        return true;
    default:
        return false;
    }
}

/* ---- conversations ---- */

static void add_conversation(struct screen *sc, struct rows *r, const struct sessions_row *row)
{
    char age[FORMAT_SIZE];
    format_age(age, row->updated_ms, clock_unix_ms());
    rows_add(r, row->id, row->title[0] ? row->title : "Untitled", age, row->snippet,
             row->id == chat_conversation(sc->chat), row->pinned);
}

void list_reload(struct screen *sc)
{
    struct sessions_row *rows = NULL;
    int32_t n = 0;
    struct err e;
    sc->list_stale = false;
    sc->list_s = clock_s();
    int64_t keep = sc->list.n > 0 ? sc->list.row[sc->list.sel].id : 0;
    if (sessions_list(sc->store, LIST_MAX, &rows, &n, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    rows_clear(&sc->list);
    int sel = -1;
    for (int32_t i = 0; i < n; i++) {
        add_conversation(sc, &sc->list, &rows[i]);
        bool wanted = sc->focus == UI_FOCUS_LIST ? rows[i].id == keep
                                                 : rows[i].id == chat_conversation(sc->chat);
        if (wanted)
            sel = i;
    }
    sessions_rows_free(rows, n);
    rows_move(&sc->list, sel >= 0 ? sel : sc->list.sel);
    sc->dirty = true;
}

bool list_shown(const struct screen *sc)
{
    return sc->list_wanted && cells_cols(sc->cells) >= LAYOUT_LIST_MIN_COLS;
}

void screen_pick(struct screen *sc)
{
    if (cells_cols(sc->cells) >= LAYOUT_LIST_MIN_COLS) {
        sc->list_wanted = true;
        sc->focus = UI_FOCUS_LIST;
        sc->list.sel = 0;
        list_reload(sc);
        for (int i = 0; i < sc->list.n; i++)
            if (sc->list.row[i].open)
                rows_move(&sc->list, i);
    } else {
        picker_open(sc, PICK_LIST, "");
    }
    sc->dirty = true;
}

/* What the engine does for a row's conversation. */
static enum ui_work work_of(const struct screen *sc, int64_t conversation)
{
    struct chat *c = chats_find(sc->chats, conversation);
    return !c                  ? UI_WORK_NONE
           : chat_waiting(c)   ? UI_WORK_WAITS
           : chat_verifying(c) ? UI_WORK_VERIFIES
           : chat_running(c)   ? UI_WORK_WRITES
           : c != sc->chat     ? UI_WORK_NEW
                               : UI_WORK_NONE;
}

void list_fill(struct screen *sc)
{
    bool conversations = sc->popup == UI_POPUP_PICKER && (sc->picker == PICK_LIST || sc->picker == PICK_SEARCH);
    for (int i = 0; i < sc->list.n; i++)
        sc->list.row[i].work = work_of(sc, sc->list.row[i].id);
    for (int i = 0; conversations && i < sc->picks.n; i++)
        sc->picks.row[i].work = work_of(sc, sc->picks.row[i].id);
}

void chat_shown(struct screen *sc)
{
    sc->chat = chats_view(sc->chats);
    sc->cancel_sent = false;
    sc->notice_until_s = 0; /* it spoke of the one before */
    edit_cancel(sc);
    view_chat_select_clear(sc->view);
    view_chat_follow(sc->view);
    screen_refresh(sc);
}

static bool is_saved(const struct screen *sc, int64_t conversation)
{
    struct sessions_row row;
    struct err ignored;
    if (sessions_get(sc->store, conversation, &row, &ignored) != OK)
        return false;
    free(row.title);
    free(row.model);
    free(row.snippet);
    return true;
}

void screen_open(struct screen *sc, int64_t conversation)
{
    struct err e;
    if (conversation == chat_conversation(sc->chat))
        return;
    if (sc->compact && is_saved(sc, conversation))
        compact_leave(sc);
    if (chats_open(sc->chats, conversation, &e) != OK) {
        if (e.code == ERR_NOT_FOUND)
            err_set(&e, e.code, "no conversation %lld: /list shows them", (long long)conversation);
        screen_error(sc, &e);
        return;
    }
    chat_shown(sc);
}

void compact_leave(struct screen *sc)
{
    compact_drop(sc->compact);
    sc->compact = NULL;
}

void screen_compact(struct screen *sc)
{
    struct err e;
    char n[FORMAT_SIZE];
    if (sc->compact) {
        screen_notice(sc, "the summary is being written; Ctrl+C leaves everything as it was");
        return;
    }
    if (compact_begin(sc->chat, sc->store, engine_info(sc->engine)->n_ctx, &sc->compact, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    chat_shown(sc);
    screen_notice(sc, "%s messages are being summarised; Ctrl+C leaves everything as it was",
                  format_count(n, compact_n_message(sc->compact)));
    notice_while(sc, NOTICE_BUSY);
}

void list_compacted(struct screen *sc, bool well)
{
    struct err e;
    int64_t from;
    char n[FORMAT_SIZE];
    format_count(n, compact_n_message(sc->compact));
    enum status st = compact_end(sc->compact, well, &from, &e);
    sc->compact = NULL;
    chat_shown(sc);
    if (st == OK)
        screen_notice(sc, "goes on here: %s messages became the summary; all of them stay in conversation %lld",
                      n, (long long)from);
    else if (st == ERR_CANCELLED)
        screen_notice(sc, "%s", e.text);
    else
        screen_error(sc, &e);
}

static void copy_conversation(struct screen *sc, int64_t id)
{
    struct sessions_message *list = NULL;
    int32_t n = 0;
    struct err e;
    if (sessions_path_load(sc->store, id, &list, &n, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    struct str s = {0};
    for (int32_t i = 0; i < n; i++) {
        str_addf(&s, "%s**%s**\n\n", i ? "\n\n" : "", list[i].role);
        if (strcmp(list[i].role, "assistant") == 0)
            thought_quote(list[i].text, list[i].len, &s);
        else
            str_add(&s, list[i].text, list[i].len);
    }
    copy_text(sc, str_c(&s), s.len, "the conversation");
    str_fini(&s);
    sessions_messages_free(list, n);
}

void screen_delete(struct screen *sc, int64_t conversation)
{
    struct sessions_row row;
    struct err e;
    if (conversation == 0 || sessions_get(sc->store, conversation, &row, &e) != OK) {
        screen_notice(sc, "there is no saved conversation here");
        return;
    }
    struct str title = {0}, cut = {0};
    text_clean_line(&title, row.title, strlen(row.title));
    text_ellipsis(&cut, str_c(&title), title.len, 40);
    struct str ask = {0};
    str_addf(&ask, "Delete \"%s\" for good?", cut.len ? cut.data : "Untitled");
    sc->subject = conversation;
    sc->question = ASK_DELETE;
    popup_open(sc, UI_POPUP_CONFIRM, str_c(&ask), "y deletes   n or Esc keeps it");
    str_fini(&ask);
    str_fini(&title);
    str_fini(&cut);
    free(row.title);
    free(row.model);
    free(row.snippet);
}

static void delete_now(struct screen *sc, int64_t conversation)
{
    struct err e;
    bool shown = conversation == chat_conversation(sc->chat), summary = shown && sc->compact;
    if (summary)
        compact_leave(sc); /* which deletes it */
    else
        chats_drop(sc->chats, conversation);
    enum status st = summary ? OK : sessions_delete(sc->store, conversation, &e);
    if (shown)
        chat_shown(sc);
    else
        screen_refresh(sc);
    if (st != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "deleted");
}

void screen_rename(struct screen *sc, int64_t conversation, const char *title)
{
    struct err e;
    struct str clean = {0};
    if (conversation == 0) {
        screen_notice(sc, "this conversation is not saved yet: send something first");
        return;
    }
    text_clean_line(&clean, title, strlen(title));
    struct chat *c = chats_find(sc->chats, conversation);
    enum status s = c ? chat_rename(c, str_c(&clean), &e)
                      : sessions_rename(sc->store, conversation, str_c(&clean), &e);
    if (s != OK)
        screen_error(sc, &e);
    str_fini(&clean);
    screen_refresh(sc);
}

static void rename_start(struct screen *sc, const struct ui_row *row)
{
    sc->subject = row->id;
    popup_open(sc, UI_POPUP_INPUT, "Rename", "Enter saves   Esc cancels");
    editor_set(sc->input, row->text, strlen(row->text));
}

void notice_pinned(struct screen *sc, bool pinned)
{
    screen_notice(sc, pinned ? "pinned: its cache is kept when others are thinned" : "no longer pinned");
}

/* Actions on the conversation list or on the list picker. */
static bool item_act(struct screen *sc, struct rows *r, enum keymap_action a)
{
    struct err e;
    if (r->n == 0)
        return false;
    const struct ui_row *row = &r->row[r->sel];
    switch (a) {
    case ACT_ITEM_RENAME:
        rename_start(sc, row);
        return true;
    case ACT_ITEM_DELETE:
        screen_delete(sc, row->id);
        return true;
    case ACT_ITEM_PIN:
        if (sessions_pin(sc->store, row->id, !row->pinned, &e) != OK)
            screen_error(sc, &e);
        else
            notice_pinned(sc, !row->pinned);
        list_reload(sc);
        return true;
    case ACT_COPY:
        copy_conversation(sc, row->id);
        return true;
    default:
        return false;
    }
}

bool list_act(struct screen *sc, enum keymap_action a)
{
    sc->dirty = true;
    if (rows_act(&sc->list, a, cells_rows(sc->cells) / 2) || item_act(sc, &sc->list, a))
        return true;
    if (a == ACT_ITEM_OPEN) {
        if (sc->list.n > 0)
            screen_open(sc, sc->list.row[sc->list.sel].id);
        sc->focus = UI_FOCUS_EDITOR;
        return true;
    }
    if (a == ACT_ITEM_FILTER) {
        picker_open(sc, PICK_SEARCH, "");
        return true;
    }
    return false;
}

/* ---- popups ---- */

void popup_open(struct screen *sc, enum ui_popup popup, const char *title, const char *hint)
{
    /* `title` may lie in popup_title itself. */
    struct str t = {0}, h = {0};
    str_adds(&t, title);
    str_adds(&h, hint);
    str_fini(&sc->popup_title);
    str_fini(&sc->popup_hint);
    sc->popup_title = t;
    sc->popup_hint = h;
    if (popup == UI_POPUP_PICKER || popup == UI_POPUP_INPUT)
        editor_set(sc->input, "", 0);
    sc->popup = popup;
    if (sc->focus != UI_FOCUS_POPUP)
        sc->from_dash = sc->focus == UI_FOCUS_DASH;
    sc->focus = UI_FOCUS_POPUP;
    sc->help_scroll = 0;
    sc->dirty = true;
}

void popup_close(struct screen *sc)
{
    sc->popup = UI_POPUP_NONE;
    sc->focus = sc->from_dash && sc->dash_wanted ? UI_FOCUS_DASH : UI_FOCUS_EDITOR;
    free(sc->popup_text);
    sc->popup_text = NULL;
    sc->dirty = true;
}

void screen_text(struct screen *sc, const char *title, char *text)
{
    popup_open(sc, UI_POPUP_TEXT, title, "Esc closes");
    free(sc->popup_text);
    sc->popup_text = text;
}

static bool contains(const char *text, const char *what)
{
    return !what[0] || strcasestr(text, what);
}

static int command_rank(const struct ui_command *c, const char *what)
{
    const char *name = c->usage + (what[0] != '/');
    if (strncasecmp(name, what, strlen(what)) == 0)
        return 0;
    return contains(c->usage, what) ? 1 : contains(c->help, what) ? 2 : 3;
}

static void pick_conversations(struct screen *sc, const char *what, bool titles_only)
{
    struct sessions_row *rows = NULL;
    int32_t n = 0;
    struct err e;
    enum status s = what[0] && !titles_only
                        ? sessions_search(sc->store, what, PICK_MAX, &rows, &n, &e)
                        : sessions_list(sc->store, LIST_MAX, &rows, &n, &e);
    if (s != OK) {
        screen_error(sc, &e);
        return;
    }
    for (int32_t i = 0; i < n; i++)
        if (!titles_only || contains(rows[i].title, what))
            add_conversation(sc, &sc->picks, &rows[i]);
    sessions_rows_free(rows, n);
}

void picker_changed(struct screen *sc)
{
    const char *what = editor_text(sc->input);
    rows_clear(&sc->picks);
    sc->picks.sel = sc->picks.scroll = 0;
    if (sc->picker == PICK_PALETTE) {
        int n;
        const struct ui_command *c = commands_list(&n);
        /* names that begin so, names and arguments that hold it, then what is said of them */
        for (int rank = 0; rank < 3; rank++)
            for (int i = 0; i < n; i++)
                if (command_rank(&c[i], what) == rank)
                    rows_add(&sc->picks, i, c[i].usage, c[i].help, NULL, false, false);
    } else if (sc->picker == PICK_HISTORY) {
        for (int i = editor_history_count(sc->editor) - 1; i >= 0 && sc->picks.n < PICK_MAX; i--) {
            const char *text = editor_history_get(sc->editor, i);
            if (contains(text, what))
                rows_add(&sc->picks, i, text, NULL, NULL, false, false);
        }
    } else {
        pick_conversations(sc, what, sc->picker == PICK_LIST);
    }
    sc->dirty = true;
}

void picker_open(struct screen *sc, enum picker p, const char *text)
{
    static const char *const titles[] = {"Commands", "Search", "Earlier input", "Conversations"};
    static const char *const hints[] = {"Enter chooses   Esc closes", "Enter opens   Esc closes",
                                        "Enter takes it   Esc closes",
                                        "Enter opens   Ctrl+R renames   Del deletes   Esc closes"};
    popup_open(sc, UI_POPUP_PICKER, titles[p], hints[p]);
    sc->picker = p;
    editor_set(sc->input, text, strlen(text));
    picker_changed(sc);
    if (p == PICK_LIST && !text[0])
        for (int i = 0; i < sc->picks.n; i++)
            if (sc->picks.row[i].open)
                sc->picks.sel = i;
}

void screen_search(struct screen *sc, const char *query)
{
    picker_open(sc, PICK_SEARCH, query);
}

void picker_choose(struct screen *sc)
{
    if (sc->picks.n == 0)
        return;
    int64_t id = sc->picks.row[sc->picks.sel].id;
    enum picker p = sc->picker;
    popup_close(sc);
    if (p == PICK_PALETTE) {
        int n;
        const struct ui_command *c = commands_list(&n);
        sc->notice_until_s = 0; /* as when it is typed */
        size_t len = strcspn(c[id].usage, " ");
        struct str s = {0};
        str_add(&s, c[id].usage, len);
        if (c[id].usage[len] == '\0') {
            commands_run(sc, str_c(&s));
        } else if (editor_len(sc->editor) == 0) { /* the rest is for the user to type */
            str_addc(&s, ' ');
            editor_set(sc->editor, str_c(&s), s.len);
        } else {
            screen_notice(sc, "%s needs an empty line: send or clear what is typed first",
                          str_c(&s));
        }
        str_fini(&s);
    } else if (p == PICK_HISTORY) {
        const char *text = editor_history_get(sc->editor, (int)id);
        editor_set(sc->editor, text, strlen(text));
    } else {
        screen_open(sc, id);
    }
}

static void input_done(struct screen *sc)
{
    char *text = mem_strdup(editor_text(sc->input));
    int64_t id = sc->subject;
    popup_close(sc);
    screen_rename(sc, id, text);
    free(text);
}

static bool scroll_popup(struct screen *sc, enum keymap_action a)
{
    int page = cells_rows(sc->cells) - 6;
    int step = a == ACT_ITEM_UP || a == ACT_SCROLL_UP       ? -1
               : a == ACT_ITEM_DOWN || a == ACT_SCROLL_DOWN ? 1
               : a == ACT_PAGE_UP                           ? -page
               : a == ACT_PAGE_DOWN                         ? page
               : a == ACT_ITEM_FIRST                        ? -100000
               : a == ACT_ITEM_LAST                         ? 100000
                                                            : 0;
    sc->help_scroll += step;
    return step != 0;
}

/* Keys while an input line is open: editing first, then the list below it. */
static bool input_event(struct screen *sc, const struct ui_event *ev)
{
    unsigned before = editor_version(sc->input);
    if (ev->kind == UI_EV_PASTE) {
        struct str line = {0};
        text_clean_line(&line, ev->text, ev->len < 4096 ? ev->len : 4096);
        editor_insert(sc->input, str_c(&line), line.len);
        str_fini(&line);
    } else if (ev->key.code == UI_KEY_ENTER) {
        if (sc->popup == UI_POPUP_INPUT)
            input_done(sc);
        else
            picker_choose(sc);
        return true;
    } else if (ev->key.code < UI_KEY_ENTER && !(ev->key.mods & (UI_CTRL | UI_ALT))) {
        char buf[4];
        editor_insert(sc->input, buf, (size_t)utf8_encode(ev->key.code, buf));
    } else {
        enum keymap_action a = keymap_find(sc->options.keymap, KEYMAP_EDITOR, ev->key);
        enum keymap_action g = keymap_find(sc->options.keymap, KEYMAP_GLOBAL, ev->key);
        if (sc->popup == UI_POPUP_PICKER) {
            if (ev->key.code == UI_KEY_DELETE && sc->picker == PICK_LIST)
                return item_act(sc, &sc->picks, ACT_ITEM_DELETE);
            if (ev->key.code == 'r' && ev->key.mods == UI_CTRL && sc->picker == PICK_LIST)
                return item_act(sc, &sc->picks, ACT_ITEM_RENAME); /* r alone is typed */
            enum keymap_action move = a == ACT_UP ? ACT_ITEM_UP : a == ACT_DOWN ? ACT_ITEM_DOWN : g;
            if (ev->key.code == 'r' && ev->key.mods == UI_CTRL && sc->picker == PICK_HISTORY)
                move = ACT_ITEM_DOWN; /* Ctrl+R again goes further back */
            if (rows_act(&sc->picks, move, cells_rows(sc->cells) / 2))
                return true;
        }
        if (g == ACT_STOP || g == ACT_CANCEL || ev->key.code == UI_KEY_TAB)
            popup_close(sc);
        else if (a != ACT_NEWLINE && a != ACT_UP && a != ACT_DOWN)
            editor_act(sc->input, a);
    }
    if (sc->popup == UI_POPUP_PICKER && editor_version(sc->input) != before)
        picker_changed(sc);
    return true;
}

bool popup_event(struct screen *sc, const struct ui_event *ev)
{
    sc->dirty = true;
    if (sc->popup == UI_POPUP_PICKER || sc->popup == UI_POPUP_INPUT)
        return input_event(sc, ev);
    if (ev->kind != UI_EV_KEY)
        return true;
    enum keymap_action a = keymap_find(sc->options.keymap, KEYMAP_POPUP, ev->key);
    enum keymap_action g = keymap_find(sc->options.keymap, KEYMAP_GLOBAL, ev->key);
    if (sc->popup == UI_POPUP_CONFIRM) {
        if (a == ACT_YES) {
            int64_t id = sc->subject;
            popup_close(sc);
            if (sc->question == ASK_THIN)
                dash_thin(sc, id);
            else
                delete_now(sc, id);
        } else if (a == ACT_NO || a == ACT_CANCEL || g == ACT_CANCEL || g == ACT_STOP) {
            popup_close(sc);
        }
        return true; /* anything else waits: a question is not answered by accident */
    }
    if (scroll_popup(sc, a ? a : g))
        return true;
    if (a == ACT_CANCEL || a == ACT_ITEM_OPEN || g == ACT_CANCEL || g == ACT_STOP || g == ACT_HELP)
        popup_close(sc);
    return true;
}
