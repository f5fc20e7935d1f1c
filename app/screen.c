/* The chat screen: events in, model and frames out; see screen.h. */
#include "app/screen.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/compact.h"
#include "app/screen_state.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "engine/engine.h"
#include "sessions/sessions.h"
#include "ui/format.h"
#include "ui/text.h"

static const double NOTICE_S = 6, ERROR_S = 20, STATS_EVERY_S = 0.1, POLL_EVERY_S = 0.9,
                    LOOK_EVERY_S = 1, AGES_EVERY_S = 60, DRAFT_AFTER_S = 1.5, INTERRUPT_S = 2;

/* ---- life ---- */

struct screen *screen_new(struct ui_front *front, struct chats *chats, struct sessions *store,
                          struct engine *engine, const struct screen_options *o)
{
    struct screen *sc = mem_calloc(1, sizeof *sc);
    sc->front = front;
    sc->chats = chats;
    sc->chat = chats_view(chats);
    sc->store = store;
    sc->engine = engine;
    sc->options = *o;
    sc->theme = *o->theme;
    sc->mouse = o->mouse;
    int cols, rows;
    front->size(front->ctx, &cols, &rows);
    sc->cells = cells_new(cols, rows);
    sc->view = view_chat_new();
    sc->editor = editor_new();
    sc->input = editor_new();
    sc->edit_message = -1;
    sc->list_wanted = true;
    sc->list_stale = true;
    sc->dirty = true;
    stats_init(&sc->model.stats);
    dash_init(sc);
    history_load(sc);
    draft_load(sc);
    return sc;
}

void screen_free(struct screen *sc)
{
    if (!sc)
        return;
    draft_save(sc);
    compact_drop(sc->compact);
    dash_fini(sc);
    rows_clear(&sc->list);
    rows_clear(&sc->picks);
    cells_free(sc->cells);
    view_chat_free(sc->view);
    editor_free(sc->editor);
    editor_free(sc->input);
    keymap_free(sc->options.keymap);
    str_fini(&sc->popup_title);
    str_fini(&sc->popup_hint);
    str_fini(&sc->notice);
    shapes_fini(&sc->shapes);
    str_fini(&sc->shot);
    free(sc->popup_text);
    free(sc->messages);
    free(sc->stash);
    free(sc);
}

bool screen_dirty(const struct screen *sc)
{
    return sc->dirty;
}

bool screen_done(const struct screen *sc)
{
    return sc->done;
}

bool screen_busy(const struct screen *sc)
{
    return chats_busy(sc->chats);
}

void screen_quit(struct screen *sc)
{
    sc->done = true;
}

struct chat *screen_chat(struct screen *sc)
{
    return sc->chat;
}

struct sessions *screen_store(struct screen *sc)
{
    return sc->store;
}

struct engine *screen_engine_of(struct screen *sc)
{
    return sc->engine;
}

/* ---- notices ---- */

static void notice_set(struct screen *sc, const char *text, bool is_error)
{
    str_clear(&sc->notice);
    str_adds(&sc->notice, text);
    sc->notice_is_error = is_error;
    sc->notice_while = NOTICE_FREE;
    sc->notice_until_s = clock_s() + (is_error ? ERROR_S : NOTICE_S);
    sc->dirty = true;
}

void screen_notice(struct screen *sc, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    notice_set(sc, text, false);
}

void screen_error(struct screen *sc, const struct err *e)
{
    notice_set(sc, e->text, true);
    if (e->code == ERR_BUSY && chat_running(sc->chat))
        notice_while(sc, NOTICE_BUSY);
}

void notice_while(struct screen *sc, enum notice_while what)
{
    sc->notice_while = what;
    if (what == NOTICE_SELECT)
        sc->notice_until_s = HUGE_VAL;
    if (what == NOTICE_QUIT)
        sc->notice_until_s = clock_s() + INTERRUPT_S;
}

static bool notice_over(const struct screen *sc, double now_s)
{
    switch (sc->notice_while) {
    case NOTICE_FREE:
        break;
    case NOTICE_BUSY:
        return !chat_running(sc->chat);
    case NOTICE_SELECT:
        return sc->focus != UI_FOCUS_SELECT;
    case NOTICE_EDIT:
        return sc->edit_message < 0;
    case NOTICE_DASH:
        return sc->focus != UI_FOCUS_DASH;
    case NOTICE_QUIT:
        if (sc->interrupt_s == 0)
            return true;
        break;
    }
    return now_s >= sc->notice_until_s;
}

void screen_refresh(struct screen *sc)
{
    dash_opened(sc);
    sc->list_stale = true;
    sc->stats_s = 0;
    sc->dirty = true;
}

void screen_theme(struct screen *sc, const char *name)
{
    struct err e;
    struct theme t;
    if (theme_load(name, &t, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    sc->theme = t;
    sc->front->theme(sc->front->ctx, &sc->theme);
    sessions_set_setting(sc->store, "theme", name);
    cells_invalidate(sc->cells);
    sc->dirty = true;
}

/* ---- actions ---- */

static void interrupt(struct screen *sc)
{
    double now = clock_s();
    if (selection_copy(sc))
        return; /* Ctrl+C copies while something is selected */
    if (chat_running(sc->chat) && !sc->cancel_sent) {
        chat_cancel(sc->chat);
        sc->cancel_sent = true;
        return;
    }
    if (sc->focus == UI_FOCUS_EDITOR && editor_len(sc->editor) > 0 && !chat_running(sc->chat)) {
        if (sc->edit_message >= 0)
            edit_cancel(sc);
        else
            editor_set(sc->editor, "", 0); /* undo brings it back */
        return;
    }
    if (sc->interrupt_s > 0 && now - sc->interrupt_s < INTERRUPT_S) {
        sc->done = true;
        return;
    }
    sc->interrupt_s = now;
    screen_notice(sc, "Ctrl+C again quits");
    notice_while(sc, NOTICE_QUIT);
}

static void cancel(struct screen *sc)
{
    if (view_chat_selection(sc->view, NULL))
        view_chat_select_clear(sc->view);
    bool hides = sc->dash_wanted && cells_cols(sc->cells) < LAYOUT_DASH_MIN_COLS;
    if (sc->focus == UI_FOCUS_LIST || sc->focus == UI_FOCUS_SELECT) {
        sc->focus = UI_FOCUS_EDITOR;
    } else if (sc->focus == UI_FOCUS_DASH) {
        sc->focus = UI_FOCUS_EDITOR;
        sc->dash_wanted = !hides;
    } else if (chat_running(sc->chat)) {
        chat_cancel(sc->chat);
        sc->cancel_sent = true;
    } else if (sc->edit_message >= 0) {
        edit_cancel(sc);
    } else if (hides) {
        sc->dash_wanted = false;
    } else {
        sc->notice_until_s = 0;
    }
}

static void start_new(struct screen *sc)
{
    compact_leave(sc);
    chats_start_new(sc->chats);
    sc->focus = UI_FOCUS_EDITOR;
    chat_shown(sc);
}

/* Has the chat answer what it holds. */
static void answer(struct screen *sc, enum status (*ask)(struct chat *c, struct err *e))
{
    struct err e;
    if (ask(sc->chat, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    sc->cancel_sent = false;
    sc->notice_until_s = 0;
    view_chat_follow(sc->view);
    screen_refresh(sc);
}

void screen_continue(struct screen *sc)
{
    answer(sc, chat_continue);
}

static void complete(struct screen *sc)
{
    const char *text = editor_text(sc->editor);
    if (text[0] == '/' && !strchr(text, ' ') && !strchr(text, '\n')) {
        const char *full = commands_complete(text);
        if (full)
            editor_set(sc->editor, full, strlen(full));
        else
            picker_open(sc, PICK_PALETTE, text + 1);
    } else {
        screen_pick(sc);
    }
}

void screen_stop_program(struct screen *sc)
{
    sigset_t stop, before;
    struct sigaction plain = {.sa_handler = SIG_DFL}, own;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    sigaction(SIGTSTP, &plain, &own); /* curses' would set the terminal up as it thinks right */
    if (sc->store)
        sessions_hold(sc->store);
    kill(getpid(), SIGTSTP); /* blocked so far: one that waits already is the same */
    pthread_sigmask(SIG_UNBLOCK, &stop, &before);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (sc->store)
        sessions_release(sc->store);
    sigaction(SIGTSTP, &own, NULL);
}

static void suspend_self(struct screen *sc)
{
    sc->front->suspend(sc->front->ctx);
    screen_stop_program(sc);
    sc->front->resume(sc->front->ctx);
    cells_invalidate(sc->cells);
}

static bool scroll(struct screen *sc, enum keymap_action a)
{
    switch (a) {
    case ACT_PAGE_UP:
        view_chat_page(sc->view, -1);
        return true;
    case ACT_PAGE_DOWN:
        view_chat_page(sc->view, 1);
        return true;
    case ACT_SCROLL_UP:
        view_chat_scroll(sc->view, -1);
        return true;
    case ACT_SCROLL_DOWN:
        view_chat_scroll(sc->view, 1);
        return true;
    case ACT_SCROLL_TOP:
        view_chat_top(sc->view);
        return true;
    case ACT_SCROLL_END:
        view_chat_follow(sc->view);
        return true;
    default:
        return false;
    }
}

static void select_hint(struct screen *sc)
{
    screen_notice(sc, "y copies · e edits · f forks · r answers again · Left Right other branches");
    notice_while(sc, NOTICE_SELECT);
}

void select_start(struct screen *sc)
{
    if (chat_count(sc->chat) == 0) {
        screen_notice(sc, "there are no messages to choose from yet");
        return;
    }
    sc->focus = UI_FOCUS_SELECT;
    sc->selected = chat_count(sc->chat) - 1;
    view_chat_show(sc->view, sc->selected);
    select_hint(sc);
}

void screen_act(struct screen *sc, int action)
{
    sc->dirty = true;
    if (scroll(sc, (enum keymap_action)action))
        return;
    switch (action) {
    case ACT_HELP:
        popup_open(sc, UI_POPUP_HELP, "Help", "");
        break;
    case ACT_LIST_TOGGLE:
        if (cells_cols(sc->cells) >= LAYOUT_LIST_MIN_COLS) {
            sc->list_wanted = !sc->list_wanted;
            if (sc->focus == UI_FOCUS_LIST)
                sc->focus = UI_FOCUS_EDITOR;
        } else {
            screen_pick(sc);
        }
        break;
    case ACT_LIST_FOCUS:
        screen_pick(sc);
        break;
    case ACT_SELECT_FOCUS:
        select_start(sc);
        break;
    case ACT_DASHBOARD:
        dash_toggle(sc);
        break;
    case ACT_PALETTE:
        picker_open(sc, PICK_PALETTE, "");
        break;
    case ACT_SEARCH:
        picker_open(sc, PICK_SEARCH, "");
        break;
    case ACT_HISTORY_SEARCH:
        picker_open(sc, PICK_HISTORY, "");
        break;
    case ACT_NEW:
        start_new(sc);
        break;
    case ACT_STOP:
        interrupt(sc);
        break;
    case ACT_CANCEL:
        cancel(sc);
        break;
    case ACT_QUIT:
        sc->done = true;
        break;
    case ACT_REDRAW:
        sc->front->resized(sc->front->ctx);
        cells_invalidate(sc->cells);
        break;
    case ACT_THINKING:
        sc->show_thinking = !sc->show_thinking;
        screen_notice(sc, "the model's thinking is %s", sc->show_thinking ? "shown" : "hidden");
        break;
    case ACT_MOUSE:
        sc->mouse = !sc->mouse;
        sc->front->mouse(sc->front->ctx, sc->mouse);
        screen_notice(sc, sc->mouse ? "mouse on: wheel scrolls, click opens; Shift selects text"
                                    : "mouse off: the terminal selects text");
        break;
    case ACT_SUSPEND:
        suspend_self(sc);
        break;
    case ACT_REGENERATE:
        answer(sc, chat_regenerate);
        break;
    case ACT_SEND:
        sc->notice_until_s = 0; /* it spoke of what was before */
        editor_enter(sc);
        break;
    case ACT_EXTERNAL_EDITOR:
        editor_external(sc);
        break;
    case ACT_COMPLETE:
        complete(sc);
        break;
    default:
        editor_act(sc->editor, (enum keymap_action)action);
        break;
    }
}

static bool select_act(struct screen *sc, enum keymap_action a)
{
    struct err e;
    struct chat_message msg;
    int32_t n = chat_count(sc->chat);
    if (sc->selected >= n)
        sc->selected = n - 1;
    if (n == 0)
        return false;
    int32_t to = sc->selected;
    switch (a) {
    case ACT_ITEM_UP:
        to--;
        break;
    case ACT_ITEM_DOWN:
        to++;
        break;
    case ACT_ITEM_FIRST:
        to = 0;
        break;
    case ACT_ITEM_LAST:
        to = n - 1;
        break;
    case ACT_COPY:
        chat_get(sc->chat, sc->selected, &msg);
        copy_message(sc, &msg, "the message");
        return true;
    case ACT_EDIT_MESSAGE:
        edit_start(sc, sc->selected);
        return true;
    case ACT_FORK: {
        int64_t id;
        if (chat_fork(sc->chat, sc->selected, &id, &e) != OK) {
            screen_error(sc, &e);
            return true;
        }
        sc->focus = UI_FOCUS_EDITOR;
        screen_open(sc, id);
        screen_notice(sc, "a new conversation that shares everything up to here");
        return true;
    }
    case ACT_SIBLING_PREV:
    case ACT_SIBLING_NEXT:
        if (chat_sibling(sc->chat, sc->selected, a == ACT_SIBLING_NEXT ? 1 : -1, &e) != OK)
            screen_error(sc, &e);
        else
            select_hint(sc);
        screen_refresh(sc);
        return true;
    case ACT_REGENERATE:
        sc->focus = UI_FOCUS_EDITOR;
        answer(sc, chat_regenerate);
        return true;
    default:
        return false;
    }
    if (to >= 0 && to < n)
        sc->selected = to;
    view_chat_show(sc->view, sc->selected);
    return true;
}

/* ---- what the views are shown ---- */

static struct ui_rows rows_model(struct rows *r, const char *empty)
{
    return (struct ui_rows){r->row, r->n, r->sel, &r->scroll, empty, 0};
}

static void fill(struct screen *sc)
{
    struct ui_model *m = &sc->model;
    int32_t n = chat_count(sc->chat);
    if (n + 1 > sc->cap_message) {
        sc->cap_message = (n + 1) * 2;
        sc->messages = mem_realloc(sc->messages, (size_t)sc->cap_message * sizeof *sc->messages);
    }
    for (int32_t i = 0; i < n; i++) {
        struct chat_message msg;
        chat_get(sc->chat, i, &msg);
        if (compact_is_question(&msg)) { /* as the user put it */
            msg.text = "/compact";
            msg.len = strlen(msg.text);
        }
        sc->messages[i] = (struct ui_message){.role = msg.role,
                                              .text = msg.text,
                                              .len = msg.len,
                                              .streaming = msg.streaming,
                                              .cut = msg.cut,
                                              .ours = msg.ours,
                                              .n_sibling = msg.n_sibling,
                                              .sibling = msg.sibling};
    }
    /* Until its first token there is no answer: a place for it says that it is coming. */
    bool waits = chat_waiting(sc->chat);
    if (chat_running(sc->chat) && !waits && !chat_verifying(sc->chat) &&
        (n == 0 || !sc->messages[n - 1].streaming))
        sc->messages[n++] = (struct ui_message){
            .role = "assistant", .text = "", .streaming = true, .ours = true, .n_sibling = 1};
    m->now_ms = clock_unix_ms();
    m->now_s = clock_s();
    m->messages = sc->messages;
    m->n_message = n;
    m->selected = sc->selected;
    m->title = chat_title(sc->chat);
    m->model_name = engine_info(sc->engine)->name;
    m->running = chat_running(sc->chat);
    struct chat *before = chats_writing(sc->chats);
    m->waits_for = !waits ? NULL : before ? chat_title(before) : "the one before";
    m->show_thinking = sc->show_thinking;
    list_fill(sc);
    m->list = rows_model(&sc->list, "Nothing saved yet");
    m->list_wanted = sc->list_wanted;
    m->dash_wanted = sc->dash_wanted;
    m->focus = sc->focus;
    m->popup = sc->popup;
    m->popup_title = str_c(&sc->popup_title);
    m->popup_hint = str_c(&sc->popup_hint);
    m->popup_text = sc->popup_text;
    m->picker = rows_model(&sc->picks, "Nothing found");
    m->picker.detail_col = sc->picker == PICK_PALETTE ? 26 : 0;
    m->popup_input = sc->input;
    m->help_scroll = &sc->help_scroll;
    m->notice = sc->notice_until_s > 0 ? str_c(&sc->notice) : NULL;
    m->notice_is_error = sc->notice_is_error;
    m->editor = sc->editor;
    m->prompt = sc->edit_message >= 0 ? "✎ " : "› ";
    m->placeholder = sc->edit_message >= 0 ? "" : n == 0 ? "Ask something" : "Reply";
    m->keymap = sc->options.keymap;
    m->history = &sc->history;
    m->shapes = sc->front->graphics ? &sc->shapes : NULL;
    m->commands = commands_list(&m->n_command);
    dash_fill(sc);
}

/* ---- events ---- */

static void key_event(struct screen *sc, struct ui_key key)
{
    const struct keymap *km = sc->options.keymap;
    enum keymap_action g = keymap_find(km, KEYMAP_GLOBAL, key), a = ACT_NONE;
    if (g != ACT_STOP)
        sc->interrupt_s = 0;
    if (sc->focus == UI_FOCUS_LIST) {
        a = keymap_find(km, KEYMAP_LIST, key);
        if (list_act(sc, a ? a : g))
            return;
        screen_act(sc, a ? a : g);
        return;
    }
    if (sc->focus == UI_FOCUS_SELECT) {
        a = keymap_find(km, KEYMAP_SELECT, key);
        if (select_act(sc, a)) {
            sc->dirty = true;
            return;
        }
        if (a == ACT_CANCEL || (!a && (g == ACT_CANCEL || g == ACT_STOP))) {
            sc->focus = UI_FOCUS_EDITOR;
            sc->dirty = true;
            return;
        }
        screen_act(sc, a ? a : g);
        return;
    }
    if (sc->focus == UI_FOCUS_DASH) {
        a = keymap_find(km, KEYMAP_DASH, key);
        if (a && dash_act(sc, a))
            return;
        if (g) {
            screen_act(sc, g);
            return;
        }
        sc->focus = UI_FOCUS_EDITOR; /* what is typed goes where typing goes */
        a = ACT_NONE;
    }
    if (editor_len(sc->editor) == 0)
        a = keymap_find(km, KEYMAP_EMPTY, key);
    if (!a)
        a = keymap_find(km, KEYMAP_EDITOR, key);
    if (!a)
        a = g;
    struct ui_key plain = {key.code, (uint8_t)(key.mods & ~UI_SHIFT)};
    if ((key.mods & UI_SHIFT) && (!a || a == g) &&
        editor_extend(sc->editor, keymap_find(km, KEYMAP_EDITOR, plain)))
        return; /* Shift with a key that moves selects */
    if (a) {
        screen_act(sc, a);
    } else if (key.code < UI_KEY_ENTER && !(key.mods & (UI_CTRL | UI_ALT))) {
        char buf[4];
        if (!editor_insert(sc->editor, buf, (size_t)utf8_encode(key.code, buf)))
            screen_notice(sc, "the message is full: %d MiB", EDITOR_TEXT_MAX >> 20);
    }
}

void screen_event(struct screen *sc, struct ui_event *ev)
{
    sc->dirty = true;
    if (ev->kind == UI_EV_KEY && sc->front->graphics && window_key(sc, ev))
        return;
    switch (ev->kind) {
    case UI_EV_RESIZE: {
        int cols, rows;
        sc->front->size(sc->front->ctx, &cols, &rows);
        cells_resize(sc->cells, cols, rows);
        if (sc->focus == UI_FOCUS_LIST && !list_shown(sc))
            sc->focus = UI_FOCUS_EDITOR;
        break;
    }
    case UI_EV_CLOSED:
        sc->done = true;
        break;
    case UI_EV_MOUSE:
        fill(sc); /* since the last frame what the model points to may have moved */
        mouse_event(sc, ev);
        break;
    case UI_EV_PASTE:
        if (sc->popup) {
            popup_event(sc, ev);
        } else {
            sc->focus = UI_FOCUS_EDITOR;
            if (!editor_insert(sc->editor, ev->text, ev->len))
                screen_notice(sc, "too long to paste: a message holds %d MiB",
                              EDITOR_TEXT_MAX >> 20);
        }
        break;
    case UI_EV_KEY:
        if (sc->popup)
            popup_event(sc, ev);
        else
            key_event(sc, ev->key);
        break;
    }
    free(ev->text);
    ev->text = NULL;
    if (editor_version(sc->editor) != sc->draft_version && sc->draft_at_s == 0)
        sc->draft_at_s = clock_s() + DRAFT_AFTER_S;
}

/* Of a chat that is not in view. Where the list is shown, it tells that a turn has ended. */
static void other_event(struct screen *sc, const struct chat *c, const struct chat_event *ev)
{
    bool done = ev->kind == CHAT_EV_DONE || ev->kind == CHAT_EV_VERIFIED;
    const char *what = done ? " is done" : ev->kind == CHAT_EV_FAILED ? ev->err.text : ev->text;
    struct str text = {0};
    if (ev->kind == CHAT_EV_CHANGED || ev->kind == CHAT_EV_VERIFY)
        return;
    str_addf(&text, "\"%s\"%s%s", chat_title(c), done ? "" : ": ", what);
    if (!done || !list_shown(sc))
        notice_set(sc, str_c(&text), ev->kind == CHAT_EV_FAILED);
    str_fini(&text);
    screen_refresh(sc);
}

void screen_engine(struct screen *sc)
{
    struct chat *whose;
    struct chat_event ev;
    char done[FORMAT_SIZE], all[FORMAT_SIZE];
    while (chats_poll(sc->chats, &whose, &ev)) {
        sc->dirty = true;
        if (whose != sc->chat) {
            other_event(sc, whose, &ev);
            continue;
        }
        switch (ev.kind) {
        case CHAT_EV_CHANGED:
            break;
        case CHAT_EV_NOTICE:
            notice_set(sc, ev.text, false);
            break;
        case CHAT_EV_DONE:
            sc->cancel_sent = false;
            if (ev.done.stop == ENGINE_STOP_CANCEL && ev.done.n_generated == 0)
                screen_notice(sc, "stopped before the first word; /regen answers after all");
            else if (ev.done.stop == ENGINE_STOP_CONTEXT)
                screen_notice(sc, "the context is full: the answer ends here (/compact goes on with a summary, "
                                  "-c makes room)");
            else if (ev.done.stop == ENGINE_STOP_LENGTH)
                screen_notice(sc, "the answer reached the limit of tokens (-n); /continue goes on with it");
            dash_turn_ended(sc);
            screen_refresh(sc);
            if (sc->compact)
                list_compacted(sc, ev.done.stop == ENGINE_STOP_EOS || ev.done.stop == ENGINE_STOP_LENGTH);
            break;
        case CHAT_EV_FAILED:
            sc->cancel_sent = false;
            dash_turn_ended(sc);
            if (sc->compact)
                list_compacted(sc, false);
            screen_error(sc, &ev.err);
            screen_refresh(sc);
            break;
        case CHAT_EV_VERIFY:
            screen_notice(sc, "verifying: %s of %s tokens read exactly; Ctrl+C stops",
                          format_count(done, ev.done.n_tok_done), format_count(all, ev.done.n_tok_total));
            break;
        case CHAT_EV_VERIFIED:
            sc->cancel_sent = false;
            commands_verified(sc, &ev.done.fidelity);
            screen_refresh(sc);
            break;
        }
    }
    sc->poll_s = clock_s();
}

/* ---- time ---- */

static void sooner(double *at_s, double candidate_s)
{
    if (*at_s == 0 || candidate_s < *at_s)
        *at_s = candidate_s;
}

/* Another window on the same conversations: shows what it did, unless that would move what the user
 * has in hand. */
static void follow_others(struct screen *sc)
{
    struct err e;
    if (chat_running(sc->chat) || sc->focus == UI_FOCUS_SELECT || sc->focus == UI_FOCUS_POPUP ||
        sc->edit_message >= 0)
        return;
    sc->others_wrote = false;
    sc->list_stale = sc->dirty = true;
    int32_t n = chat_count(sc->chat);
    struct chat_message last = {0};
    if (n > 0)
        chat_get(sc->chat, n - 1, &last);
    enum status st = chat_refresh(sc->chat, &e);
    bool same = n == 0 || st != OK;
    for (int32_t i = chat_count(sc->chat) - 1; !same && i >= 0; i--) {
        struct chat_message m;
        chat_get(sc->chat, i, &m);
        same = m.id == last.id;
    }
    if (!same)
        screen_notice(sc, "another window went to another branch of this conversation, which is shown");
    if (st == ERR_NOT_FOUND) {
        chat_start_new(sc->chat);
        chat_shown(sc);
        screen_notice(sc, "this conversation was deleted by another window or command");
    } else if (st != OK) {
        screen_error(sc, &e);
    }
}

int screen_tick(struct screen *sc, double now_s)
{
    double next_s = 0;
    if (sc->notice_until_s > 0) {
        if (notice_over(sc, now_s)) {
            sc->notice_until_s = 0;
            sc->dirty = true;
        } else {
            sooner(&next_s, sc->notice_until_s);
        }
    }
    if (sc->draft_at_s > 0) {
        if (now_s >= sc->draft_at_s)
            draft_save(sc);
        else
            sooner(&next_s, sc->draft_at_s);
    }
    if (now_s - sc->look_s >= LOOK_EVERY_S) {
        sc->others_wrote |= sessions_changed(sc->store);
        sc->look_s = now_s;
        /* Its ages grow while nothing else happens. */
        sc->list_stale |= list_shown(sc) && now_s - sc->list_s >= AGES_EVERY_S;
    }
    sooner(&next_s, sc->look_s + LOOK_EVERY_S);
    if (sc->others_wrote)
        follow_others(sc);
    /* A question that was just asked begins here, unless it waits for another's answer. */
    if (chat_waiting(sc->chat) || (chats_busy(sc->chats) && now_s - sc->poll_s >= POLL_EVERY_S))
        screen_engine(sc);
    bool running = chat_running(sc->chat);
    if (running || sc->stats_s == 0) {
        if (now_s - sc->stats_s >= STATS_EVERY_S) {
            screen_stats(sc);
            sc->stats_s = now_s;
            sc->dirty = true;
            history_add(&sc->history, &sc->model.stats);
        }
        if (running)
            sooner(&next_s, sc->stats_s + (sc->model.stats.phase == STATS_PREFILL ? 0.25 : 0.5));
    }
    if (chats_busy(sc->chats))
        sooner(&next_s, sc->poll_s + POLL_EVERY_S);
    double dash_s = dash_tick(sc, now_s);
    if (dash_s > 0)
        sooner(&next_s, dash_s);
    struct err e;
    if (sessions_trouble(sc->store, &e))
        screen_error(sc, &e);
    if (sc->list_stale)
        list_reload(sc);
    if (next_s == 0)
        return -1;
    double ms = (next_s - now_s) * 1000;
    return ms < 0 ? 0 : ms > 3600000 ? 3600000 : (int)ceil(ms);
}

/* ---- drawing ---- */

void screen_text_of(const struct screen *sc, struct str *out)
{
    str_addf(out, "%d %d\n", cells_cols(sc->cells), cells_rows(sc->cells));
    for (int y = 0; y < cells_rows(sc->cells); y++) {
        cells_row(sc->cells, y, out);
        str_addc(out, '\n');
    }
}

void screen_draw(struct screen *sc)
{
    fill(sc);
    shapes_clear(&sc->shapes);
    view_draw(&sc->model, sc->view, sc->cells);
    sc->front->present(sc->front->ctx, sc->cells, sc->model.shapes);
    sc->dirty = false;
    if (sc->shot.len > 0)
        screenshot_take(sc);
    char title[256];
    struct str clean = {0};
    text_clean_line(&clean, sc->model.title, strlen(sc->model.title));
    snprintf(title, sizeof title, "%s%sDogear", str_c(&clean), clean.len ? " · " : "");
    str_fini(&clean);
    if (strcmp(title, sc->shown_title) != 0) {
        snprintf(sc->shown_title, sizeof sc->shown_title, "%s", title);
        sc->front->title(sc->front->ctx, title);
    }
}
