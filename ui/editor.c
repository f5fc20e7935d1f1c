/* The input line; see editor.h. */
#include "ui/editor.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "ui/text.h"
#include "ui/theme.h"

static const size_t NONE = SIZE_MAX;
enum { UNDO_MAX = 400, UNDO_BYTES_MAX = 32 * 1024 * 1024 };

struct snapshot {
    char *text;
    size_t len, cursor;
};

struct stack {
    struct snapshot list[UNDO_MAX];
    int n;
    size_t bytes;
};

struct row { /* one line on the screen */
    size_t off, len;
};

enum edit_kind { EDIT_OTHER, EDIT_TYPE, EDIT_ERASE, EDIT_KILL };

struct editor {
    struct str text;
    size_t cursor, anchor; /* anchor: the other end of the selection, NONE = nothing selected */
    unsigned version;
    enum edit_kind last; /* runs of typing are undone together; kills in a row add up */
    struct stack undo, redo;
    struct str kill;
    char **history;
    int n_history, history_at; /* history_at == n_history: the text being written */
    char *history_own;         /* that text while an older one is shown */
    int goal_col;              /* column that up and down try to keep; -1 = the cursor's */
    int width, scroll;
    struct row *rows; /* layout of `rows_version` at `rows_width` */
    int n_row, cap_row, rows_width;
    unsigned rows_version;
};

struct editor *editor_new(void)
{
    struct editor *ed = mem_calloc(1, sizeof *ed);
    ed->goal_col = -1;
    ed->anchor = NONE;
    ed->width = 80;
    ed->rows_width = -1;
    return ed;
}

static bool move_row(struct editor *ed, int step);

static void stack_clear(struct stack *s)
{
    for (int i = 0; i < s->n; i++)
        free(s->list[i].text);
    s->n = 0;
    s->bytes = 0;
}

void editor_free(struct editor *ed)
{
    if (!ed)
        return;
    for (int i = 0; i < ed->n_history; i++)
        free(ed->history[i]);
    free(ed->history);
    free(ed->history_own);
    stack_clear(&ed->undo);
    stack_clear(&ed->redo);
    str_fini(&ed->text);
    str_fini(&ed->kill);
    free(ed->rows);
    free(ed);
}

const char *editor_text(const struct editor *ed)
{
    return str_c(&ed->text);
}

size_t editor_len(const struct editor *ed)
{
    return ed->text.len;
}

size_t editor_cursor(const struct editor *ed)
{
    return ed->cursor;
}

unsigned editor_version(const struct editor *ed)
{
    return ed->version;
}

/* ---- undo ---- */

static void stack_push(struct stack *s, const struct editor *ed)
{
    if (ed->text.len > UNDO_BYTES_MAX)
        return;
    while (s->n == UNDO_MAX || (s->n > 0 && s->bytes + ed->text.len > UNDO_BYTES_MAX)) {
        s->bytes -= s->list[0].len;
        free(s->list[0].text);
        memmove(s->list, s->list + 1, (size_t)--s->n * sizeof *s->list);
    }
    s->list[s->n++] =
        (struct snapshot){mem_strndup(str_c(&ed->text), ed->text.len), ed->text.len, ed->cursor};
    s->bytes += ed->text.len;
}

/* Call before every change. */
static void will_change(struct editor *ed, enum edit_kind kind)
{
    if (kind == EDIT_OTHER || kind != ed->last)
        stack_push(&ed->undo, ed);
    stack_clear(&ed->redo);
    ed->last = kind;
    ed->anchor = NONE;
    ed->version++;
    ed->goal_col = -1;
}

static bool step_back(struct editor *ed, struct stack *from, struct stack *to)
{
    if (from->n == 0)
        return false;
    stack_push(to, ed);
    struct snapshot s = from->list[--from->n];
    from->bytes -= s.len;
    str_clear(&ed->text);
    str_add(&ed->text, s.text, s.len);
    ed->cursor = s.cursor;
    free(s.text);
    ed->last = EDIT_OTHER;
    ed->anchor = NONE;
    ed->version++;
    ed->goal_col = -1;
    return true;
}

/* ---- moving ---- */

static size_t next_of(const struct editor *ed, size_t off)
{
    if (off >= ed->text.len)
        return ed->text.len;
    int w;
    return off + text_next(ed->text.data + off, ed->text.len - off, &w);
}

static size_t prev_of(const struct editor *ed, size_t off)
{
    return off - text_prev(str_c(&ed->text), off);
}

static bool is_word(const struct editor *ed, size_t off)
{
    unsigned char c = (unsigned char)ed->text.data[off];
    return c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || c == '_';
}

static size_t word_left(const struct editor *ed)
{
    size_t at = ed->cursor, p;
    while (at > 0 && !is_word(ed, p = prev_of(ed, at)))
        at = p;
    while (at > 0 && is_word(ed, p = prev_of(ed, at)))
        at = p;
    return at;
}

static size_t word_right(const struct editor *ed)
{
    size_t at = ed->cursor;
    while (at < ed->text.len && !is_word(ed, at))
        at = next_of(ed, at);
    while (at < ed->text.len && is_word(ed, at))
        at = next_of(ed, at);
    return at;
}

/* Ctrl+W as in readline and the shell: to the previous white space. */
static size_t blank_left(const struct editor *ed)
{
    const char *s = str_c(&ed->text);
    size_t at = ed->cursor;
    while (at > 0 && (s[at - 1] == ' ' || s[at - 1] == '\n' || s[at - 1] == '\t'))
        at--;
    while (at > 0 && s[at - 1] != ' ' && s[at - 1] != '\n' && s[at - 1] != '\t')
        at--;
    return at;
}

static size_t line_start(const struct editor *ed)
{
    size_t at = ed->cursor;
    while (at > 0 && ed->text.data[at - 1] != '\n')
        at--;
    return at;
}

static size_t line_end(const struct editor *ed)
{
    size_t at = ed->cursor;
    while (at < ed->text.len && ed->text.data[at] != '\n')
        at++;
    return at;
}

static bool move(struct editor *ed, size_t to)
{
    bool moved = to != ed->cursor;
    ed->cursor = to;
    ed->anchor = NONE;
    ed->last = EDIT_OTHER;
    ed->goal_col = -1;
    return moved;
}

void editor_place(struct editor *ed, size_t off)
{
    move(ed, text_snap(str_c(&ed->text), ed->text.len, off));
}

/* ---- changing ---- */

static void cut(struct editor *ed, size_t from, size_t to)
{
    str_cut(&ed->text, from, to - from);
    /* What was cut away may let its neighbours join into one cluster: keep the cursor between. */
    ed->cursor = text_snap(str_c(&ed->text), ed->text.len, from);
}

bool editor_insert(struct editor *ed, const char *text, size_t n)
{
    struct str clean = {0};
    size_t from = 0, to = 0;
    bool replaces = editor_selection(ed, &from, &to);
    text_clean(&clean, text, n);
    bool fits = ed->text.len - (to - from) + clean.len <= EDITOR_TEXT_MAX;
    if (fits && clean.len > 0) {
        bool typed = clean.len <= 8 && clean.data[0] != '\n' && !replaces;
        will_change(ed, typed ? EDIT_TYPE : EDIT_OTHER);
        if (replaces)
            cut(ed, from, to);
        str_insert(&ed->text, ed->cursor, clean.data, clean.len);
        size_t end = ed->cursor + clean.len;
        size_t at = text_snap(ed->text.data, ed->text.len, end);
        /* A combining mark joins the cluster before it: the cursor goes behind that cluster. */
        ed->cursor = at < end ? next_of(ed, at) : at;
    }
    str_fini(&clean);
    return fits;
}

void editor_set(struct editor *ed, const char *text, size_t n)
{
    struct str clean = {0};
    text_clean(&clean, text, n);
    if (clean.len > EDITOR_TEXT_MAX)
        clean.len = utf8_complete(clean.data, EDITOR_TEXT_MAX);
    will_change(ed, EDIT_OTHER);
    str_clear(&ed->text);
    str_add(&ed->text, str_c(&clean), clean.len);
    str_fini(&clean);
    ed->cursor = ed->text.len;
    ed->history_at = ed->n_history;
}

static bool erase(struct editor *ed, size_t from, size_t to)
{
    if (from >= to)
        return false;
    will_change(ed, EDIT_ERASE);
    cut(ed, from, to);
    return true;
}

static bool kill(struct editor *ed, size_t from, size_t to)
{
    if (from >= to)
        return false;
    bool more = ed->last == EDIT_KILL, before = to == ed->cursor;
    will_change(ed, EDIT_KILL);
    if (!more)
        str_clear(&ed->kill);
    str_insert(&ed->kill, before ? 0 : ed->kill.len, ed->text.data + from, to - from);
    cut(ed, from, to);
    return true;
}

/* ---- selection ---- */

bool editor_selection(const struct editor *ed, size_t *ret_from, size_t *ret_to)
{
    if (ed->anchor == NONE || ed->anchor == ed->cursor)
        return false;
    *ret_from = ed->anchor < ed->cursor ? ed->anchor : ed->cursor;
    *ret_to = ed->anchor < ed->cursor ? ed->cursor : ed->anchor;
    return true;
}

void editor_select(struct editor *ed, size_t from, size_t to)
{
    size_t anchor = text_snap(str_c(&ed->text), ed->text.len, from);
    editor_place(ed, to);
    ed->anchor = anchor;
}

void editor_select_word(struct editor *ed, size_t off)
{
    editor_place(ed, off);
    if (ed->cursor < ed->text.len && is_word(ed, ed->cursor))
        ed->cursor = next_of(ed, ed->cursor); /* inside the word, for word_left */
    size_t from = word_left(ed);
    ed->cursor = from;
    editor_select(ed, from, word_right(ed));
}

bool editor_extend(struct editor *ed, enum keymap_action a)
{
    size_t anchor = ed->anchor == NONE ? ed->cursor : ed->anchor, before = ed->cursor;
    switch (a) {
    case ACT_UP: /* never into the history */
        move_row(ed, -1);
        break;
    case ACT_DOWN:
        move_row(ed, 1);
        break;
    case ACT_LEFT:
    case ACT_RIGHT:
        ed->anchor = NONE; /* or it would go to the end of what is selected */
        /* fall through */
    case ACT_WORD_LEFT:
    case ACT_WORD_RIGHT:
    case ACT_LINE_START:
    case ACT_LINE_END:
    case ACT_TEXT_START:
    case ACT_TEXT_END:
        editor_act(ed, a);
        break;
    default:
        return false;
    }
    ed->anchor = anchor;
    return ed->cursor != before;
}

void editor_erase_selection(struct editor *ed)
{
    size_t from, to;
    if (editor_selection(ed, &from, &to)) {
        will_change(ed, EDIT_OTHER);
        cut(ed, from, to);
    }
}

/* ---- history ---- */

void editor_history_add(struct editor *ed, const char *text, size_t n)
{
    if (n == 0)
        return;
    ed->history_at = ed->n_history;
    if (ed->n_history > 0) {
        const char *last = ed->history[ed->n_history - 1];
        if (strlen(last) == n && memcmp(last, text, n) == 0)
            return;
    }
    if (ed->n_history == EDITOR_HISTORY_MAX) {
        free(ed->history[0]);
        memmove(ed->history, ed->history + 1,
                (size_t)(EDITOR_HISTORY_MAX - 1) * sizeof *ed->history);
        ed->n_history--;
    }
    ed->history = mem_realloc(ed->history, (size_t)(ed->n_history + 1) * sizeof *ed->history);
    struct str clean = {0};
    text_clean(&clean, text, n);
    ed->history[ed->n_history++] = str_take(&clean);
    ed->history_at = ed->n_history;
}

int editor_history_count(const struct editor *ed)
{
    return ed->n_history;
}

const char *editor_history_get(const struct editor *ed, int i)
{
    return i >= 0 && i < ed->n_history ? ed->history[i] : "";
}

static bool history_step(struct editor *ed, int step)
{
    int to = ed->history_at + step;
    if (to < 0 || to > ed->n_history)
        return false;
    if (ed->history_at == ed->n_history) {
        free(ed->history_own);
        ed->history_own = mem_strndup(str_c(&ed->text), ed->text.len);
    }
    const char *text = to == ed->n_history ? ed->history_own : ed->history[to];
    editor_set(ed, text, strlen(text));
    ed->history_at = to;
    return true;
}

/* ---- rows ---- */

static void layout(struct editor *ed, int width)
{
    if (width < 1)
        width = 1;
    ed->width = width;
    if (ed->rows_width == width && ed->rows_version == ed->version && ed->n_row > 0)
        return;
    const char *s = str_c(&ed->text);
    size_t n = ed->text.len, off = 0;
    ed->n_row = 0;
    for (;;) {
        size_t next, len = text_wrap(s + off, n - off, width, true, &next);
        if (ed->n_row == ed->cap_row) {
            ed->cap_row = ed->cap_row ? ed->cap_row * 2 : 16;
            ed->rows = mem_realloc(ed->rows, (size_t)ed->cap_row * sizeof *ed->rows);
        }
        ed->rows[ed->n_row++] = (struct row){off, len};
        bool newline = off + next <= n && next > 0 && s[off + next - 1] == '\n';
        off += next;
        if (off >= n && !newline)
            break;
    }
    ed->rows_width = width;
    ed->rows_version = ed->version;
}

/* The last row whose start is at or before the cursor. */
static int row_of(const struct editor *ed, size_t off)
{
    int lo = 0, hi = ed->n_row - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (ed->rows[mid].off <= off)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

static int col_of(const struct editor *ed, int row)
{
    const struct row *r = &ed->rows[row];
    int col = text_width(str_c(&ed->text) + r->off, ed->cursor - r->off);
    return col < ed->width ? col : ed->width - 1; /* spaces may stick out */
}

static bool move_row(struct editor *ed, int step)
{
    layout(ed, ed->width);
    int row = row_of(ed, ed->cursor);
    int to = row + step;
    if (to < 0 || to >= ed->n_row)
        return false;
    int goal = ed->goal_col >= 0 ? ed->goal_col : col_of(ed, row);
    move(ed, editor_at(ed, goal, to));
    ed->goal_col = goal;
    return true;
}

size_t editor_at(struct editor *ed, int col, int row)
{
    layout(ed, ed->width);
    if (row < 0)
        return 0;
    if (row >= ed->n_row)
        return ed->text.len;
    const struct row *r = &ed->rows[row];
    size_t fit = text_fit(str_c(&ed->text) + r->off, r->len, col, NULL);
    /* The end of a wrapped row is the start of the next one: stay on this row. */
    if (fit == r->len && row + 1 < ed->n_row && ed->rows[row + 1].off == r->off + r->len && fit > 0)
        fit -= text_prev(str_c(&ed->text) + r->off, fit);
    return r->off + fit;
}

bool editor_act(struct editor *ed, enum keymap_action a)
{
    size_t from, to;
    bool selected = editor_selection(ed, &from, &to);
    switch (a) {
    case ACT_NEWLINE:
        return editor_insert(ed, "\n", 1);
    case ACT_LEFT:
        return move(ed, selected ? from : prev_of(ed, ed->cursor));
    case ACT_RIGHT:
        return move(ed, selected ? to : next_of(ed, ed->cursor));
    case ACT_UP:
        return move_row(ed, -1) || history_step(ed, -1);
    case ACT_DOWN:
        return move_row(ed, 1) || history_step(ed, 1);
    case ACT_WORD_LEFT:
        return move(ed, word_left(ed));
    case ACT_WORD_RIGHT:
        return move(ed, word_right(ed));
    case ACT_LINE_START:
        return move(ed, line_start(ed));
    case ACT_LINE_END:
        return move(ed, line_end(ed));
    case ACT_TEXT_START:
        return move(ed, 0);
    case ACT_TEXT_END:
        return move(ed, ed->text.len);
    case ACT_SELECT_ALL:
        editor_select(ed, 0, ed->text.len);
        return ed->text.len > 0;
    case ACT_BACKSPACE:
    case ACT_DELETE:
        if (selected) {
            editor_erase_selection(ed);
            return true;
        }
        return a == ACT_BACKSPACE ? erase(ed, prev_of(ed, ed->cursor), ed->cursor)
                                  : erase(ed, ed->cursor, next_of(ed, ed->cursor));
    case ACT_KILL_END: {
        size_t end = line_end(ed);
        return kill(ed, ed->cursor, end == ed->cursor ? next_of(ed, end) : end);
    }
    case ACT_KILL_START: {
        size_t start = line_start(ed);
        return kill(ed, start == ed->cursor ? prev_of(ed, start) : start, ed->cursor);
    }
    case ACT_KILL_WORD:
        return kill(ed, blank_left(ed), ed->cursor);
    case ACT_KILL_WORD_NEXT:
        return kill(ed, ed->cursor, word_right(ed));
    case ACT_YANK:
        ed->last = EDIT_OTHER;
        return ed->kill.len > 0 && editor_insert(ed, ed->kill.data, ed->kill.len);
    case ACT_UNDO:
        return step_back(ed, &ed->undo, &ed->redo);
    case ACT_REDO:
        return step_back(ed, &ed->redo, &ed->undo);
    case ACT_HISTORY_PREV:
        return history_step(ed, -1);
    case ACT_HISTORY_NEXT:
        return history_step(ed, 1);
    default:
        return false;
    }
}

/* ---- drawing ---- */

int editor_rows(struct editor *ed, int width)
{
    layout(ed, width);
    return ed->n_row;
}

static void mark_selection(const struct editor *ed, struct cells *c, struct rect r, int row, int y)
{
    const struct row *line = &ed->rows[row];
    size_t from, to, end = line->off + line->len;
    if (!editor_selection(ed, &from, &to) || to <= line->off || from >= end + (line->len == 0))
        return;
    const char *s = str_c(&ed->text) + line->off;
    int x0 = from > line->off ? text_width(s, from - line->off) : 0;
    int x1 = text_width(s, (to < end ? to : end) - line->off);
    x1 = x1 > x0 ? x1 : x0 + 1; /* a selected empty line can be seen, too */
    cells_mark(c, rect_cross(r, (struct rect){r.x + x0, y, x1 - x0, 1}), ROLE_SELECTED, 0);
}

void editor_draw(struct editor *ed, struct cells *c, struct rect r, bool focus)
{
    layout(ed, r.w);
    int row = row_of(ed, ed->cursor);
    if (ed->scroll > row)
        ed->scroll = row;
    if (ed->scroll < row - r.h + 1)
        ed->scroll = row - r.h + 1;
    if (ed->scroll > ed->n_row - r.h)
        ed->scroll = ed->n_row - r.h;
    if (ed->scroll < 0)
        ed->scroll = 0;
    for (int y = 0; y < r.h && ed->scroll + y < ed->n_row; y++) {
        const struct row *line = &ed->rows[ed->scroll + y];
        cells_put(c, r, r.x, r.y + y, str_c(&ed->text) + line->off, line->len, ROLE_EDITOR,
                  ROLE_EDITOR, 0);
        mark_selection(ed, c, r, ed->scroll + y, r.y + y);
    }
    if (focus && r.w > 0 && r.h > 0)
        cells_cursor_set(c, r.x + col_of(ed, row), r.y + row - ed->scroll);
}
