/* Mouse, selections and what else only a pointer or a window brings; see screen.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/screen_state.h"

static bool inside(struct rect r, int x, int y)
{
    return x >= r.x && x < r.x + r.w && y >= r.y && y < r.y + r.h;
}

/* ---- selections ---- */

/* What is typed and selected, else what is selected of the conversation; the caller's. */
static bool selection_get(const struct screen *sc, struct str *out)
{
    size_t from, to;
    if (editor_selection(sc->editor, &from, &to)) {
        str_add(out, editor_text(sc->editor) + from, to - from);
        return true;
    }
    return view_chat_selection(sc->view, out) && out->len > 0;
}

bool selection_copy(struct screen *sc)
{
    struct str s = {0};
    bool any = selection_get(sc, &s);
    if (any)
        copy_text(sc, str_c(&s), s.len, "what is selected");
    view_chat_select_clear(sc->view);
    str_fini(&s);
    return any;
}

static void selection_primary(struct screen *sc)
{
    struct str s = {0};
    if (sc->front->select && selection_get(sc, &s))
        sc->front->select(sc->front->ctx, str_c(&s), s.len);
    str_fini(&s);
}

/* ---- mouse ---- */

static void press_popup(struct screen *sc, const struct ui_event *ev)
{
    struct rect screen = {0, 0, cells_cols(sc->cells), cells_rows(sc->cells) - 1};
    int row = view_panels_at(&sc->model, screen, ev->x, ev->y);
    if (row == -2) {
        popup_close(sc);
    } else if (row >= 0) {
        rows_move(&sc->picks, row);
        picker_choose(sc);
    }
}

static void press_chat(struct screen *sc, const struct ui_event *ev, const struct layout *l)
{
    int32_t message = view_chat_at(sc->view, ev->y - l->text.y);
    bool margin = ev->x < l->text.x + 2 || view_chat_is_name(sc->view, ev->y - l->text.y);
    if (sc->front->graphics && ev->x == l->chat.x + l->chat.w - 1) {
        sc->drag = DRAG_BAR;
        view_chat_scroll_to(sc->view, (double)(ev->y - l->chat.y) / l->chat.h);
    } else if (message >= 0 && (ev->button == 2 || margin || !sc->front->graphics)) {
        /* A terminal selects text itself. */
        select_start(sc);
        sc->selected = message;
    } else if (ev->button == 0) {
        sc->drag = DRAG_CHAT;
        sc->drag_chars = 0;
        sc->focus = UI_FOCUS_EDITOR;
        view_chat_select(sc->view, ev->x - l->text.x, ev->y - l->text.y, ev->n_click);
    }
}

static void press_editor(struct screen *sc, const struct ui_event *ev, const struct layout *l)
{
    size_t at = editor_at(sc->editor, ev->x - l->editor.x, ev->y - l->editor.y), from, to;
    bool selected = editor_selection(sc->editor, &from, &to);
    size_t anchor = selected && from == editor_cursor(sc->editor) ? to
                    : selected                                    ? from
                                                                  : editor_cursor(sc->editor);
    sc->focus = UI_FOCUS_EDITOR;
    sc->drag = DRAG_EDITOR;
    if (ev->n_click == 3)
        editor_select(sc->editor, 0, editor_len(sc->editor));
    else if (ev->n_click == 2)
        editor_select_word(sc->editor, at);
    else if (ev->mods & UI_SHIFT)
        editor_select(sc->editor, anchor, at);
    else
        editor_place(sc->editor, at);
}

static void press(struct screen *sc, const struct ui_event *ev, const struct layout *l)
{
    bool chat = !sc->dash_wanted || !rect_empty(l->dash); /* else the dashboard is in its place */
    sc->drag = DRAG_NONE;
    if (sc->popup) {
        if (ev->button == 0)
            press_popup(sc, ev);
        return;
    }
    if (ev->button == 0)
        view_chat_select_clear(sc->view);
    if (ev->button == 0 && sc->dash_wanted && dash_press(sc, ev->x, ev->y))
        return;
    if (inside(l->list, ev->x, ev->y)) {
        int i = sc->list.scroll + ev->y - l->list.y - 2;
        if (ev->button == 0 && i >= 0 && i < sc->list.n)
            screen_open(sc, sc->list.row[i].id);
        sc->focus = UI_FOCUS_EDITOR;
    } else if (inside(l->status, ev->x, ev->y) && ev->button == 0) {
        dash_toggle(sc); /* its figures are the dashboard's */
    } else if (inside(l->editor, ev->x, ev->y) && ev->button == 0) {
        press_editor(sc, ev, l);
    } else if (inside(l->rule, ev->x, ev->y) && chat) {
        view_chat_follow(sc->view); /* "more lines below" */
    } else if (inside(l->chat, ev->x, ev->y) && chat) {
        press_chat(sc, ev, l);
    }
}

static void drag(struct screen *sc, const struct ui_event *ev, const struct layout *l)
{
    sc->drag_chars++;
    if (sc->drag == DRAG_CHAT) {
        if (ev->y < l->text.y)
            view_chat_scroll(sc->view, -2);
        else if (ev->y >= l->text.y + l->text.h)
            view_chat_scroll(sc->view, 2);
        view_chat_select_to(sc->view, ev->x - l->text.x, ev->y - l->text.y);
    } else if (sc->drag == DRAG_EDITOR) {
        size_t from, to, cursor = editor_cursor(sc->editor), anchor = cursor;
        if (editor_selection(sc->editor, &from, &to))
            anchor = from == cursor ? to : from;
        editor_select(sc->editor, anchor,
                      editor_at(sc->editor, ev->x - l->editor.x, ev->y - l->editor.y));
    } else if (sc->drag == DRAG_BAR) {
        view_chat_scroll_to(sc->view, (double)(ev->y - l->chat.y) / l->chat.h);
    }
}

static void wheel(struct screen *sc, const struct ui_event *ev, const struct layout *l)
{
    int step = ev->mouse == UI_MOUSE_WHEEL_UP ? -3 : 3;
    if (sc->popup == UI_POPUP_PICKER)
        rows_move(&sc->picks, sc->picks.sel + step);
    else if (sc->popup)
        sc->help_scroll += step;
    else if (inside(l->list, ev->x, ev->y))
        rows_move(&sc->list, sc->list.sel + step);
    else
        view_chat_scroll(sc->view, step);
}

void mouse_event(struct screen *sc, const struct ui_event *ev)
{
    struct layout l;
    view_layout(&sc->model, sc->cells, &l);
    switch (ev->mouse) {
    case UI_MOUSE_WHEEL_UP:
    case UI_MOUSE_WHEEL_DOWN:
        wheel(sc, ev, &l);
        break;
    case UI_MOUSE_PRESS:
        if (ev->button == 0 || sc->front->graphics)
            press(sc, ev, &l);
        break;
    case UI_MOUSE_DRAG:
        drag(sc, ev, &l);
        break;
    case UI_MOUSE_RELEASE:
        if (sc->drag == DRAG_CHAT || sc->drag == DRAG_EDITOR)
            selection_primary(sc);
        sc->drag = DRAG_NONE;
        break;
    }
}

/* ---- keys of the window ---- */

void screen_screenshot(struct screen *sc, const char *path)
{
    char name[64];
    time_t now = time(NULL);
    struct tm tm;
    if (!sc->front->screenshot) {
        screen_notice(sc, "only the window (`dogear desktop`) saves pictures of itself");
        return;
    }
    strftime(name, sizeof name, "dogear-%Y%m%d-%H%M%S.png", localtime_r(&now, &tm));
    str_clear(&sc->shot);
    str_adds(&sc->shot, path && path[0] ? path : name);
    sc->dirty = true;
}

void screenshot_take(struct screen *sc)
{
    struct err e;
    if (sc->front->screenshot(sc->front->ctx, str_c(&sc->shot), &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "written to %s", str_c(&sc->shot));
    str_clear(&sc->shot);
}

static void zoom(struct screen *sc, int step)
{
    char value[16];
    snprintf(value, sizeof value, "%d", sc->front->zoom(sc->front->ctx, step));
    sessions_set_setting(sc->store, "zoom", value);
}

bool window_key(struct screen *sc, struct ui_event *ev)
{
    enum keymap_action a = keymap_find(sc->options.keymap, KEYMAP_WINDOW, ev->key);
    bool line = sc->popup == UI_POPUP_PICKER || sc->popup == UI_POPUP_INPUT;
    struct editor *ed = line ? sc->input : sc->editor;
    switch (a) {
    case ACT_NONE:
        return false;
    case ACT_PASTE:
        ev->text = sc->front->paste(sc->front->ctx);
        ev->len = ev->text ? strlen(ev->text) : 0;
        ev->kind = UI_EV_PASTE;
        return ev->text == NULL; /* an empty clipboard: nothing happens */
    case ACT_ZOOM_IN:
    case ACT_ZOOM_OUT:
    case ACT_ZOOM_RESET:
        zoom(sc, a == ACT_ZOOM_IN ? 1 : a == ACT_ZOOM_OUT ? -1 : 0);
        return true;
    case ACT_FULLSCREEN:
        sc->front->fullscreen(sc->front->ctx);
        return true;
    case ACT_SCREENSHOT:
        screen_screenshot(sc, NULL);
        return true;
    case ACT_CUT:
        if (selection_copy(sc))
            editor_erase_selection(sc->editor);
        return true;
    case ACT_COPY_SELECTION:
        selection_copy(sc);
        return true;
    default:
        if (sc->popup && !line)
            return false;
        editor_act(ed, a);
        return true;
    }
}
