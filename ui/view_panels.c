/* Conversation list, help, picker, input and confirmation boxes; see view.h. */
#include <stdio.h>
#include <string.h>

#include "ui/rich.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

static void put_cut(struct cells *c, struct rect r, int x, int y, int w, const char *s,
                    uint8_t role, uint8_t back, uint8_t attr)
{
    struct str clean = {0}, cut = {0};
    text_clean_line(&clean, s, strlen(s));
    text_ellipsis(&cut, str_c(&clean), clean.len, w);
    cells_put(c, r, x, y, str_c(&cut), cut.len, role, back, attr);
    str_fini(&clean);
    str_fini(&cut);
}

/* A snippet with \x02..\x03 around hits, on one row. */
static void put_snippet(struct cells *c, struct rect r, int x, int y, const char *s, uint8_t back)
{
    bool hit = false;
    while (*s && x < r.x + r.w) {
        size_t n = strcspn(s, "\x02\x03");
        struct str clean = {0};
        if (n > 0) {
            /* Spaces at the ends belong to the sentence: text_clean_line would drop them. */
            text_clean(&clean, s, n);
            for (size_t i = 0; i < clean.len; i++)
                if (clean.data[i] == '\n' || clean.data[i] == '\t')
                    clean.data[i] = ' ';
            x += cells_put(c, r, x, y, str_c(&clean), clean.len, hit ? ROLE_MATCH : ROLE_DIM, back,
                           0);
        }
        str_fini(&clean);
        s += n;
        if (*s) {
            hit = *s == '\x02';
            s++;
        }
    }
}

static int row_height(const struct ui_row *row)
{
    return row->snippet ? 2 : 1;
}

static const char *const work_names[] = {
    [UI_WORK_WAITS] = "waits",
    [UI_WORK_WRITES] = "writing",
    [UI_WORK_VERIFIES] = "verifying",
    [UI_WORK_NEW] = "new",
};

/* Draws rows so that the selected one is visible. */
static void draw_rows(const struct ui_rows *rows, struct cells *c, struct rect r, bool focus,
                      uint8_t role, uint8_t back)
{
    if (r.h <= 0 || r.w <= 0)
        return;
    if (rows->n == 0) {
        if (rows->empty)
            put_cut(c, r, r.x + 1, r.y, r.w - 2, rows->empty, ROLE_DIM, back, 0);
        return;
    }
    int first = *rows->scroll;
    if (first > rows->sel)
        first = rows->sel;
    if (first < 0)
        first = 0;
    for (;;) { /* move down until the selected row ends inside */
        int h = 0;
        for (int i = first; i <= rows->sel && i < rows->n; i++)
            h += row_height(&rows->row[i]);
        if (h <= r.h || first >= rows->sel)
            break;
        first++;
    }
    *rows->scroll = first;
    int y = r.y;
    for (int i = first; i < rows->n && y < r.y + r.h; i++) {
        const struct ui_row *row = &rows->row[i];
        bool sel = i == rows->sel && focus;
        uint8_t line_role = sel ? ROLE_SELECTED : row->open ? ROLE_LIST_OPEN : role;
        uint8_t line_back = sel ? ROLE_SELECTED : back;
        int h = row_height(row);
        cells_fill(c, rect_cross(r, (struct rect){r.x, y, r.w, h}), " ", sel ? line_role : role,
                   line_back);
        const char *detail = row->work ? work_names[row->work] : row->detail;
        int detail_w = detail ? text_width(detail, strlen(detail)) : 0;
        if (rows->detail_col > 0 && rows->detail_col < r.w)
            detail_w = r.w - rows->detail_col;
        else if (detail_w > r.w / 2)
            detail_w = r.w / 2;
        const char *mark = row->open ? "▸" : row->pinned ? "◆" : " ";
        cells_puts(c, r, r.x, y, mark, sel ? ROLE_SELECTED : ROLE_ACCENT, line_back, 0);
        put_cut(c, r, r.x + 2, y, r.w - 2 - (detail_w ? detail_w + 2 : 1), row->text, line_role,
                line_back, 0);
        if (detail_w)
            put_cut(c, r, r.x + r.w - detail_w - 1, y, detail_w, detail,
                    sel ? ROLE_SELECTED : row->work ? ROLE_ACCENT : ROLE_DIM, line_back,
                    row->work ? CELL_BOLD : 0);
        if (h == 2) {
            struct rect cut = rect_cross(r, (struct rect){r.x + 2, y + 1, r.w - 3, 1});
            put_snippet(c, cut, r.x + 2, y + 1, row->snippet, line_back);
        }
        y += h;
    }
}

void view_panels_list(const struct ui_model *m, struct cells *c, struct rect r, bool focus)
{
    if (rect_empty(r))
        return;
    cells_puts(c, r, r.x + 1, r.y, "Conversations", focus ? ROLE_ACCENT : ROLE_DIM, 0,
               focus ? CELL_BOLD : 0);
    struct rect body = {r.x, r.y + 2, r.w, r.h - 2};
    if (focus && r.h > 6) { /* what can be done here, while it can be done */
        static const struct {
            enum keymap_action action;
            const char *label;
        } hints[] = {{ACT_ITEM_OPEN, "open"},     {ACT_NEW, "new"},
                     {ACT_ITEM_RENAME, "rename"}, {ACT_ITEM_DELETE, "delete"},
                     {ACT_ITEM_FILTER, "find"},   {ACT_ITEM_PIN, "pin"}};
        int x = r.x + 1, y = r.y + r.h - 3;
        for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
            char key[32], hint[64];
            keymap_first_key(m->keymap, KEYMAP_LIST, hints[i].action, key, sizeof key);
            if (!key[0])
                continue;
            snprintf(hint, sizeof hint, "%s %s", key, hints[i].label);
            if (x + (int)strlen(hint) > r.x + r.w - 1) {
                x = r.x + 1;
                y++;
            }
            x += cells_puts(c, r, x, y, hint, ROLE_HINT, 0, 0) + 2;
        }
        body.h -= 4;
    }
    draw_rows(&m->list, c, body, focus, ROLE_LIST, ROLE_TEXT);
}

/* ---- popups ---- */

static struct rect draw_box(struct cells *c, struct rect r, const char *title, const char *hint)
{
    cells_fill(c, r, " ", ROLE_POPUP, ROLE_POPUP);
    for (int x = r.x + 1; x < r.x + r.w - 1; x++) {
        cells_puts(c, r, x, r.y, "─", ROLE_BORDER, ROLE_POPUP, 0);
        cells_puts(c, r, x, r.y + r.h - 1, "─", ROLE_BORDER, ROLE_POPUP, 0);
    }
    for (int y = r.y + 1; y < r.y + r.h - 1; y++) {
        cells_puts(c, r, r.x, y, "│", ROLE_BORDER, ROLE_POPUP, 0);
        cells_puts(c, r, r.x + r.w - 1, y, "│", ROLE_BORDER, ROLE_POPUP, 0);
    }
    cells_puts(c, r, r.x, r.y, "╭", ROLE_BORDER, ROLE_POPUP, 0);
    cells_puts(c, r, r.x + r.w - 1, r.y, "╮", ROLE_BORDER, ROLE_POPUP, 0);
    cells_puts(c, r, r.x, r.y + r.h - 1, "╰", ROLE_BORDER, ROLE_POPUP, 0);
    cells_puts(c, r, r.x + r.w - 1, r.y + r.h - 1, "╯", ROLE_BORDER, ROLE_POPUP, 0);
    if (title) {
        struct rect in = {r.x + 2, r.y, r.w - 4, 1};
        int x = r.x + 2;
        x += cells_puts(c, in, x, r.y, " ", ROLE_POPUP, ROLE_POPUP, 0);
        put_cut(c, in, x, r.y, r.w - 6, title, ROLE_ACCENT, ROLE_POPUP, CELL_BOLD);
        int w = text_width(title, strlen(title));
        cells_puts(c, in, x + (w < r.w - 6 ? w : r.w - 6), r.y, " ", ROLE_POPUP, ROLE_POPUP, 0);
    }
    if (hint && hint[0]) {
        struct rect in = {r.x + 2, r.y + r.h - 1, r.w - 4, 1};
        int w;
        /* Where room is short its parts, with gaps between, go from the left: the last closes. */
        for (const char *gap = hint; (w = text_width(hint, strlen(hint)) + 2) > in.w; hint = gap) {
            if (!(gap = strstr(hint, "  ")))
                break;
            gap += strspn(gap, " ");
        }
        int x = w < in.w ? in.x + in.w - w : in.x;
        x += cells_puts(c, in, x, in.y, " ", ROLE_POPUP, ROLE_POPUP, 0);
        x += cells_puts(c, in, x, in.y, hint, ROLE_DIM, ROLE_POPUP, 0);
        cells_puts(c, in, x, in.y, " ", ROLE_POPUP, ROLE_POPUP, 0);
    }
    return (struct rect){r.x + 1, r.y + 1, r.w - 2, r.h - 2};
}

static void draw_input(const struct ui_model *m, struct cells *c, struct rect r)
{
    cells_puts(c, r, r.x + 1, r.y, "›", ROLE_KEY, ROLE_POPUP, CELL_BOLD);
    struct rect line = rect_cross(r, (struct rect){r.x + 3, r.y, r.w - 4, 1});
    if (rect_empty(line))
        return;
    /* A long line shows the part around the cursor: the editor would wrap it instead. */
    const char *s = editor_text(m->popup_input);
    size_t n = editor_len(m->popup_input), cur = editor_cursor(m->popup_input), from = 0;
    while (from < cur && text_width(s + from, cur - from) >= line.w) {
        int w;
        from += text_next(s + from, n - from, &w);
    }
    cells_put(c, line, line.x, line.y, s + from, n - from, ROLE_POPUP, ROLE_POPUP, 0);
    cells_cursor_set(c, line.x + text_width(s + from, cur - from), line.y);
}

/* ---- help ---- */

struct help_line {
    char left[64], right[128];
    bool title;
};

static void help_add(struct help_line *lines, int max, int *n, const char *left, const char *right,
                     bool title)
{
    if (*n >= max)
        return;
    struct help_line *l = &lines[(*n)++];
    snprintf(l->left, sizeof l->left, "%s", left);
    snprintf(l->right, sizeof l->right, "%s", right);
    l->title = title;
}

static const char *const words[][2] = {
    {"f16, 8/8 … 2/2", "tiers: bits of keys and values; f16 is exact"},
    {"page", "64 tokens of the conversation in one layer"},
    {"KL", "how far the next token's odds moved from exact ones, in nats; 0 = not at all"},
    {"top-1", "share of positions whose likeliest token stayed the same"},
    {"rounding alone", "both for an exact cache whose input moved by a hair (2^-16)"},
    {"harm", "error of attention's output that compression should cause, of its size"},
    {"sampled", "the same, measured in one layer now and then"},
    {"mass", "share of all attention"},
    {"coverage", "mass that sparse attention has to keep; 1 = everything is computed"},
    {"perplexity", "1 = the model was sure of every token"},
    {"exact rows", "what was read in f16, not from pages"},
};

static void help_keys(const struct ui_model *m, struct help_line *lines, int max, int *n,
                      enum keymap_place place)
{
    enum keymap_action a;
    help_add(lines, max, n, keymap_place_title(place), "", true);
    for (int i = 0; (a = keymap_bound(m->keymap, place, i)) != ACT_NONE; i++) {
        char keys[64];
        keymap_keys(m->keymap, place, a, keys, sizeof keys);
        help_add(lines, max, n, keys, keymap_action_help(a), false);
    }
    help_add(lines, max, n, "", "", false);
}

/* Its keys and its words. */
static void help_dash(const struct ui_model *m, struct help_line *lines, int max, int *n)
{
    help_keys(m, lines, max, n, KEYMAP_DASH);
    help_add(lines, max, n, "Words of the dashboard", "", true);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        help_add(lines, max, n, words[i][0], words[i][1], false);
    help_add(lines, max, n, "", "", false);
}

static int help_rows(const struct help_line *l, int w)
{
    int n = 0;
    size_t at = 0, next, len = strlen(l->right);
    do {
        text_wrap(l->right + at, len - at, w, false, &next);
        n++;
    } while ((at += next) < len);
    return n;
}

static void draw_help(const struct ui_model *m, struct cells *c, struct rect screen)
{
    enum { LINES_MAX = 220 };
    static const enum keymap_place order[] = {KEYMAP_EDITOR, KEYMAP_GLOBAL, KEYMAP_EMPTY,
                                              KEYMAP_LIST, KEYMAP_SELECT};
    struct help_line lines[LINES_MAX];
    int n = 0, left_w = 0;
    if (m->dash_wanted) /* what is on the screen first */
        help_dash(m, lines, LINES_MAX, &n);
    help_add(lines, LINES_MAX, &n, "Commands", "", true);
    for (int i = 0; i < m->n_command; i++)
        help_add(lines, LINES_MAX, &n, m->commands[i].usage, m->commands[i].help, false);
    help_add(lines, LINES_MAX, &n, "//text", "sends \"/text\" as it is", false);
    help_add(lines, LINES_MAX, &n, "", "", false);
    for (size_t p = 0; p < sizeof order / sizeof *order; p++)
        help_keys(m, lines, LINES_MAX, &n, order[p]);
    if (!m->dash_wanted)
        help_dash(m, lines, LINES_MAX, &n);
    for (int i = 0; i < n; i++) {
        int w = text_width(lines[i].left, strlen(lines[i].left));
        if (w > left_w)
            left_w = w;
    }
    /* What is said of a key goes on below where it does not fit beside it. */
    struct rect wide = layout_popup(screen, 92, screen.h);
    left_w = left_w > wide.w / 2 - 1 ? wide.w / 2 - 1 : left_w;
    int right_w = wide.w - left_w - 6, n_row = 0;
    for (int i = 0; i < n; i++)
        n_row += help_rows(&lines[i], right_w);
    struct rect in = draw_box(c, layout_popup(screen, 92, n_row + 2), "Help",
                              "Up Down PgUp PgDn scroll   Esc closes");
    int most = n_row > in.h ? n_row - in.h : 0;
    if (*m->help_scroll > most)
        *m->help_scroll = most;
    if (*m->help_scroll < 0)
        *m->help_scroll = 0;
    int y = -*m->help_scroll;
    for (int i = 0; i < n && y < in.h; i++) {
        const struct help_line *l = &lines[i];
        if (y >= 0)
            put_cut(c, in, in.x + 1, in.y + y, l->title ? in.w - 2 : left_w, l->left,
                    l->title ? ROLE_ACCENT : ROLE_KEY, ROLE_POPUP, l->title ? CELL_BOLD : 0);
        size_t at = 0, next, len = strlen(l->right);
        do {
            size_t part = text_wrap(l->right + at, len - at, right_w, false, &next);
            if (y >= 0 && y < in.h)
                cells_put(c, in, in.x + left_w + 3, in.y + y, l->right + at, part, ROLE_POPUP,
                          ROLE_POPUP, 0);
            y++;
        } while ((at += next) < len);
    }
}

static struct rect picker_box(const struct ui_model *m, struct rect screen)
{
    int want = 0;
    for (int i = 0; i < m->picker.n && want < screen.h; i++)
        want += row_height(&m->picker.row[i]);
    /* The box keeps its size while the list gets shorter, so that nothing jumps while typing. */
    int h = want + 4 > 16 ? want + 4 : 16;
    if (h > screen.h * 3 / 4 && screen.h > 12)
        h = screen.h * 3 / 4;
    return layout_popup(screen, 84, h);
}

int view_panels_at(const struct ui_model *m, struct rect screen, int x, int y)
{
    if (m->popup != UI_POPUP_PICKER)
        return -1;
    struct rect box = picker_box(m, screen);
    if (x < box.x || y < box.y || x >= box.x + box.w || y >= box.y + box.h)
        return -2;
    int row = box.y + 3; /* frame, input line, rule */
    for (int i = *m->picker.scroll; i < m->picker.n && row < box.y + box.h - 1; i++) {
        if (y >= row && y < row + row_height(&m->picker.row[i]))
            return i;
        row += row_height(&m->picker.row[i]);
    }
    return -1;
}

static void draw_picker(const struct ui_model *m, struct cells *c, struct rect screen)
{
    struct rect in = draw_box(c, picker_box(m, screen), m->popup_title, m->popup_hint);
    draw_input(m, c, (struct rect){in.x, in.y, in.w, 1});
    for (int x = in.x; x < in.x + in.w && in.h > 2; x++)
        cells_puts(c, in, x, in.y + 1, "─", ROLE_BORDER, ROLE_POPUP, 0);
    draw_rows(&m->picker, c, (struct rect){in.x, in.y + 2, in.w, in.h - 2}, true, ROLE_POPUP,
              ROLE_POPUP);
}

/* Wrapped to w columns; what is said of a name that stands before it goes on below itself. */
static void add_rows(struct rich *r, const char *text, int w)
{
    enum { NAME_MAX_COLS = 24 };
    static const char blank[NAME_MAX_COLS + 1] = "                        ";
    struct str clean = {0};
    text_clean(&clean, text, strlen(text));
    for (const char *s = str_c(&clean);; s++) {
        size_t n = strcspn(s, "\n"), at = 0, next;
        const char *gap = strstr(s + strspn(s, " "), "  ");
        size_t hang = gap && gap < s + n ? (size_t)(gap - s) + strspn(gap, " ") : 0;
        hang = hang > NAME_MAX_COLS ? 0 : hang > (size_t)w * 2 / 3 ? 2 : hang;
        do {
            size_t len = text_wrap(s + at, n - at, at ? w - (int)hang : w, false, &next);
            rich_begin(r, ROLE_TEXT, 0, 0);
            rich_add(r, blank, at ? hang : 0, ROLE_POPUP, 0);
            rich_add(r, s + at, len, ROLE_POPUP, 0);
        } while ((at += next) < n);
        if (!*(s += n))
            break;
    }
    str_fini(&clean);
}

static void draw_text(const struct ui_model *m, struct cells *c, struct rect screen)
{
    struct rich r = {0};
    int w = screen.w > 80 ? 76 : screen.w - 6;
    add_rows(&r, m->popup_text, w > 8 ? w : 8);
    struct rect in =
        draw_box(c, layout_popup(screen, w + 4, (int)r.n_line + 2), m->popup_title, m->popup_hint);
    int most = (int)r.n_line > in.h ? (int)r.n_line - in.h : 0;
    if (*m->help_scroll > most)
        *m->help_scroll = most;
    if (*m->help_scroll < 0)
        *m->help_scroll = 0;
    for (int y = 0; y < in.h && *m->help_scroll + y < (int)r.n_line; y++)
        rich_draw(&r, (uint32_t)(*m->help_scroll + y), c, in, in.x + 1, in.y + y, in.w - 2,
                  ROLE_POPUP);
    rich_fini(&r);
}

/* The question in as many lines as it takes: who cannot read all of it cannot answer. */
static void draw_confirm(const struct ui_model *m, struct cells *c, struct rect screen)
{
    struct str ask = {0};
    text_clean_line(&ask, m->popup_title, strlen(m->popup_title));
    int w = text_width(str_c(&ask), ask.len) + 4;
    int hint_w = text_width(m->popup_hint, strlen(m->popup_hint)) + 8;
    struct rect box = layout_popup(screen, w > hint_w ? w : hint_w, 3), in = {0};
    for (int draw = 0; draw < 2; draw++) {
        size_t next;
        int y = 0;
        for (size_t at = 0; at < ask.len; at += next, y++) {
            size_t len = text_wrap(ask.data + at, ask.len - at, box.w - 4, false, &next);
            if (draw)
                cells_put(c, in, in.x + 1, in.y + y, ask.data + at, len, ROLE_POPUP, ROLE_POPUP, CELL_BOLD);
        }
        if (!draw)
            in = draw_box(c, layout_popup(screen, box.w, y + 2), NULL, m->popup_hint);
    }
    str_fini(&ask);
}

void view_panels_popup(const struct ui_model *m, struct cells *c, struct rect screen)
{
    if (m->popup == UI_POPUP_HELP) {
        draw_help(m, c, screen);
    } else if (m->popup == UI_POPUP_PICKER) {
        draw_picker(m, c, screen);
    } else if (m->popup == UI_POPUP_TEXT) {
        draw_text(m, c, screen);
    } else if (m->popup == UI_POPUP_INPUT) {
        struct rect in = draw_box(c, layout_popup(screen, 64, 3), m->popup_title, m->popup_hint);
        draw_input(m, c, in);
    } else if (m->popup == UI_POPUP_CONFIRM) {
        draw_confirm(m, c, screen);
    }
}
