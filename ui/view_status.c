/* Status line, rule with notices, editor with its prompt, and the whole screen; see view.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "ui/format.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

enum { SEGMENTS_MAX = 8, BAR_COLS = 12, DASH_HINT_COLS = 100, TITLE_COLS = 24, VALUE_BYTES = 4 * TITLE_COLS };

/* One figure of the status line. */
struct segment {
    char label[24], value[VALUE_BYTES + 1], unit[24];
    uint8_t role;
    int keep; /* the lowest goes first when room is short */
};

static int segment_width(const struct segment *s)
{
    return text_width(s->label, strlen(s->label)) + text_width(s->value, strlen(s->value)) +
           text_width(s->unit, strlen(s->unit));
}

static struct segment *add(struct segment *list, int *n, int keep, const char *label,
                           const char *value, const char *unit)
{
    struct segment *s = &list[(*n)++];
    memset(s, 0, sizeof *s);
    snprintf(s->label, sizeof s->label, "%s", label);
    snprintf(s->value, sizeof s->value, "%s", value);
    snprintf(s->unit, sizeof s->unit, "%s", unit);
    s->role = ROLE_STATUS_VALUE;
    s->keep = keep;
    return s;
}

static void add_context(const struct stats *st, struct segment *list, int *n)
{
    char used[FORMAT_SIZE], most[FORMAT_SIZE], value[2 * FORMAT_SIZE + 2];
    snprintf(value, sizeof value, "%s/%s", format_count(used, st->n_tok),
             format_count(most, st->n_ctx));
    struct segment *s = add(list, n, 6, "ctx ", value, "");
    if (st->n_ctx > 0 && st->n_tok > st->n_ctx / 10 * 9)
        s->role = ROLE_STATUS_WARN;
}

static int collect(const struct ui_model *m, struct segment *list)
{
    const struct stats *st = &m->stats;
    char a[FORMAT_SIZE], b[FORMAT_SIZE], value[2 * FORMAT_SIZE + 2];
    int n = 0;
    if (m->waits_for) {
        struct str clean = {0}, cut = {0};
        text_clean_line(&clean, m->waits_for, strlen(m->waits_for));
        text_ellipsis(&cut, str_c(&clean), clean.len, TITLE_COLS);
        size_t len = utf8_complete(str_c(&cut), cut.len < VALUE_BYTES ? cut.len : VALUE_BYTES);
        str_cut(&cut, len, cut.len - len);
        add(list, &n, 8, "waits for ", str_c(&cut), "");
        str_fini(&clean);
        str_fini(&cut);
        return n;
    }
    if (st->phase == STATS_PREFILL && m->running) {
        snprintf(value, sizeof value, "%s/%s", format_count(a, st->n_prefill_done),
                 format_count(b, st->n_prefill_total));
        add(list, &n, 8, "reading ", value, "");
        add(list, &n, 7, "\x01", "", ""); /* the bar */
        add(list, &n, 5, "", format_rate(a, st->prefill_tps), " tok/s");
        add(list, &n, 6, "", format_seconds(a, st->eta_s), " left");
        add(list, &n, 4, "reused ", format_count(a, st->n_reused), "");
        return n;
    }
    add_context(st, list, &n);
    struct segment *s = add(list, &n, 5, "", format_rate(a, st->decode_tps), " tok/s");
    if (st->phase == STATS_DECODE && m->running)
        s->role = ROLE_STATUS_GOOD;
    add(list, &n, 3, "first ", format_seconds(a, st->ttft_s), "");
    add(list, &n, 4, "reused ", format_count(a, st->n_reused), "");
    add(list, &n, 4, "read ", format_count(a, st->n_read), "");
    return n;
}

/* Eighths of a cell make the bar move smoothly. */
static void draw_bar(struct cells *c, struct rect r, int x, double part)
{
    static const char *const eighth[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    if (!(part >= 0))
        part = 0;
    if (part > 1)
        part = 1;
    int filled = (int)lround(part * BAR_COLS * 8);
    for (int i = 0; i < BAR_COLS; i++, filled -= 8)
        cells_puts(c, r, x + i, r.y,
                   filled >= 8  ? "█"
                   : filled > 0 ? eighth[filled]
                                : " ",
                   ROLE_BAR, ROLE_BAR, 0);
}

void view_status_draw(const struct ui_model *m, struct cells *c, struct rect r)
{
    if (rect_empty(r))
        return;
    cells_fill(c, r, " ", ROLE_STATUS, ROLE_STATUS);
    struct segment list[SEGMENTS_MAX];
    int n = collect(m, list);
    char hint[64] = "", key[32];
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, m->running ? ACT_CANCEL : ACT_HELP, key, sizeof key);
    if (key[0])
        snprintf(hint, sizeof hint, "%s %s", key, m->waits_for ? "takes it back" : m->running ? "stops" : "help");
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_DASHBOARD, key, sizeof key);
    if (key[0] && !m->running && !m->dash_wanted && r.w >= DASH_HINT_COLS) {
        char help[48];
        snprintf(help, sizeof help, "%s", hint);
        snprintf(hint, sizeof hint, "%.16s dashboard  %.24s", key, help);
    }
    struct str model = {0};
    text_clean_line(&model, m->model_name, strlen(m->model_name));
    int model_w = text_width(str_c(&model), model.len), hint_w = (int)strlen(hint);
    if (model_w > 28)
        model_w = 28;
    for (;;) { /* drop what matters least until it fits; the model's name shrinks first */
        int used = 0;
        for (int i = 0; i < n; i++)
            used += 2 + (list[i].label[0] == '\x01' ? BAR_COLS : segment_width(&list[i]));
        int left = r.w - 2 - used - (hint_w ? hint_w + 2 : 0);
        if (left >= model_w)
            break;
        if (left >= 10 || (n <= 1 && left >= 0)) {
            model_w = left;
            break;
        }
        if (hint_w > 0 && (!m->running || n == 0)) {
            hint_w = 0;
            continue;
        }
        if (n == 0) {
            model_w = 0;
            break;
        }
        int worst = 0;
        for (int i = 1; i < n; i++)
            if (list[i].keep <= list[worst].keep)
                worst = i;
        memmove(&list[worst], &list[worst + 1], (size_t)(n - worst - 1) * sizeof *list);
        n--;
    }
    int x = r.x + 1;
    struct str name = {0};
    text_ellipsis(&name, str_c(&model), model.len, model_w);
    x += cells_put(c, r, x, r.y, str_c(&name), name.len, ROLE_STATUS_VALUE, ROLE_STATUS, CELL_BOLD);
    for (int i = 0; i < n; i++) {
        x += 2;
        if (list[i].label[0] == '\x01') {
            double total = m->stats.n_prefill_total;
            draw_bar(c, r, x, total > 0 ? m->stats.n_prefill_done / total : 0);
            x += BAR_COLS;
            continue;
        }
        x += cells_puts(c, r, x, r.y, list[i].label, ROLE_STATUS, ROLE_STATUS, 0);
        x += cells_puts(c, r, x, r.y, list[i].value, list[i].role, ROLE_STATUS, 0);
        x += cells_puts(c, r, x, r.y, list[i].unit, ROLE_STATUS, ROLE_STATUS, 0);
    }
    if (hint_w > 0)
        cells_puts(c, r, r.x + r.w - hint_w - 1, r.y, hint, ROLE_STATUS, ROLE_STATUS, 0);
    str_fini(&name);
    str_fini(&model);
}

/* The notice in lines of w columns; draws them where there is an r. Returns how many there are. */
static int notice_lines(const struct ui_model *m, int w, struct cells *c, struct rect r, int x)
{
    struct str clean = {0}, line = {0};
    int n = 0;
    if (m->notice)
        text_clean_line(&clean, m->notice, strlen(m->notice));
    for (size_t at = 0, next; at < clean.len; at += next) {
        size_t len = text_wrap(clean.data + at, clean.len - at, w, false, &next);
        if (n < r.h) {
            str_clear(&line);
            str_addc(&line, ' ');
            if (n + 1 < r.h)
                str_add(&line, clean.data + at, len);
            else /* all the rest, as far as it goes */
                text_ellipsis(&line, clean.data + at, clean.len - at, w);
            str_addc(&line, ' ');
            cells_put(c, r, x, r.y + n, str_c(&line), line.len,
                      m->notice_is_error ? ROLE_ERROR : ROLE_NOTICE, 0, 0);
        }
        n++;
    }
    str_fini(&clean);
    str_fini(&line);
    return n;
}

void view_status_rule(const struct ui_model *m, struct cells *c, struct rect r, struct rect text,
                      int n_below)
{
    if (rect_empty(r))
        return;
    for (int x = r.x; x < r.x + r.w; x++)
        cells_puts(c, r, x, r.y, "─", ROLE_BORDER, 0, 0);
    int right = text.x + text.w;
    char more[64], key[32], count[FORMAT_SIZE];
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_SCROLL_END, key, sizeof key);
    snprintf(more, sizeof more, " ↓ %s more line%s%s%s ", format_count(count, n_below),
             n_below == 1 ? "" : "s", key[0] ? " · " : "", key);
    int more_w = text_width(more, strlen(more));
    if (n_below > 0 && notice_lines(m, text.w - more_w - 3, c, (struct rect){0}, 0) <= 1)
        cells_puts(c, r, right - more_w, r.y, more, ROLE_DIM, 0, 0);
    notice_lines(m, text.w - 3, c, r, text.x + (text.w > 8 ? 1 : 0));
}

void view_status_editor(const struct ui_model *m, struct cells *c, const struct layout *l)
{
    bool focus = m->focus == UI_FOCUS_EDITOR;
    cells_puts(c, l->prompt, l->prompt.x, l->prompt.y, m->prompt, focus ? ROLE_PROMPT : ROLE_DIM, 0,
               0);
    editor_draw(m->editor, c, l->editor, focus);
    if (editor_len(m->editor) == 0 && m->placeholder) {
        struct str cut = {0};
        text_ellipsis(&cut, m->placeholder, strlen(m->placeholder), l->editor.w);
        cells_put(c, l->editor, l->editor.x, l->editor.y, str_c(&cut), cut.len, ROLE_HINT, 0, 0);
        str_fini(&cut);
    }
}

/* ---- the whole screen ---- */

void view_layout(const struct ui_model *m, const struct cells *c, struct layout *ret)
{
    struct layout_want want = {.list = m->list_wanted, .dash = m->dash_wanted, .editor_rows = 1};
    struct layout first;
    layout_compute(cells_cols(c), cells_rows(c), &want, &first);
    want.editor_rows = editor_rows(m->editor, first.editor.w);
    want.rule_rows = notice_lines(m, first.text.w - 3, NULL, (struct rect){0}, 0);
    layout_compute(cells_cols(c), cells_rows(c), &want, ret);
}

static void draw_title(const struct ui_model *m, struct cells *c, struct rect r, struct rect text)
{
    if (rect_empty(r))
        return;
    struct str clean = {0}, cut = {0};
    const char *title = m->title[0] ? m->title : m->n_message ? "Untitled" : "New conversation";
    text_clean_line(&clean, title, strlen(title));
    text_ellipsis(&cut, str_c(&clean), clean.len, text.w - 2);
    cells_put(c, r, text.x, r.y, str_c(&cut), cut.len, m->title[0] ? ROLE_TITLE : ROLE_DIM, 0, 0);
    str_fini(&clean);
    str_fini(&cut);
}

static void draw_border(struct cells *c, struct rect r)
{
    for (int y = r.y; y < r.y + r.h; y++)
        cells_puts(c, r, r.x, y, "│", ROLE_BORDER, 0, 0);
}

void view_draw(const struct ui_model *m, struct view_chat *v, struct cells *c)
{
    struct layout l;
    view_layout(m, c, &l);
    cells_clear(c);
    if (m->dash_wanted && rect_empty(l.dash)) { /* no room beside the chat: instead of it */
        struct rect all = {l.chat.x, l.chat.y - l.title.h, l.chat.w, l.chat.h + l.title.h};
        view_dash_draw(m, c, all);
    } else {
        draw_title(m, c, l.title, l.text);
        view_chat_draw(v, m, c, l.chat, l.text);
        view_dash_draw(m, c, l.dash);
        draw_border(c, l.dash_border);
    }
    view_status_rule(m, c, l.rule, l.text,
                     m->dash_wanted && rect_empty(l.dash) ? 0 : view_chat_below(v));
    view_status_editor(m, c, &l);
    if (!rect_empty(l.list)) {
        view_panels_list(m, c, l.list, m->focus == UI_FOCUS_LIST);
        draw_border(c, l.list_border);
    }
    view_status_draw(m, c, l.status);
    if (m->popup) {
        struct rect screen = {0, 0, cells_cols(c), cells_rows(c) - (l.status.h > 0)};
        view_panels_popup(m, c, screen);
    }
}
