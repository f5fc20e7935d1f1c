/* The transcript: messages as styled lines with a scroll anchor that stays put; see view.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/thought.h"
#include "ui/format.h"
#include "ui/markdown.h"
#include "ui/rich.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

enum { INDENT = 2 };

/* One message: a name line, perhaps thinking, the body, perhaps a remark, a blank line. */
struct block {
    struct markdown *body;   /* assistant */
    struct rich plain;       /* everything else, and the thinking of an assistant */
    struct str plain_source; /* what `plain` was made of */
    int plain_width;
    bool is_markdown, has_remark, waits;
    uint32_t n_label; /* first lines of `plain` that are ours: how many words were thought */
    uint32_t n_plain, n_body;
    int n_line;
};

/* A place in the text: a line of a block, and a column right of the indent. */
struct place {
    int block, line, col;
};

struct view_chat {
    struct place from, to; /* the selection; from is where it began */
    bool selecting;
    struct block *blocks;
    int n, cap;
    int width, height, total;
    bool follow;
    /* The line at the top while not following. `pos` finds it again at another width. */
    int anchor_block, anchor_line, anchor_width;
    uint32_t anchor_pos;
    int drawn_top; /* of the last frame, for view_chat_at */
    int32_t show;  /* message to make visible with the next frame, -1 = none */
};

struct view_chat *view_chat_new(void)
{
    struct view_chat *v = mem_calloc(1, sizeof *v);
    v->follow = true;
    v->show = -1;
    return v;
}

static void block_fini(struct block *b)
{
    markdown_free(b->body);
    rich_fini(&b->plain);
    str_fini(&b->plain_source);
}

void view_chat_free(struct view_chat *v)
{
    if (!v)
        return;
    for (int i = 0; i < v->n; i++)
        block_fini(&v->blocks[i]);
    free(v->blocks);
    free(v);
}

/* ---- lines ---- */

static bool is_role(const struct ui_message *msg, const char *role)
{
    return strcmp(msg->role, role) == 0;
}

static int count_words(const char *s, size_t n)
{
    int words = 0;
    bool in = false;
    for (size_t i = 0; i < n; i++) {
        bool space = s[i] == ' ' || s[i] == '\n' || s[i] == '\t';
        words += !space && !in;
        in = !space;
    }
    return words;
}

/* Makes `plain` empty when its source or the width changed; false = it is as it should be. */
static bool plain_stale(struct block *b, const char *s, size_t n, int width)
{
    if (b->plain.n_line > 0 && b->plain_width == width && b->plain_source.len == n &&
        (n == 0 || memcmp(b->plain_source.data, s, n) == 0))
        return false;
    str_clear(&b->plain_source);
    str_add(&b->plain_source, s, n);
    b->plain_width = width;
    rich_clear(&b->plain);
    return true;
}

static void plain_set(struct block *b, const char *s, size_t n, int width, uint8_t role,
                      uint8_t back)
{
    uint32_t pos = 0;
    if (plain_stale(b, s, n, width))
        rich_plain(&b->plain, s, n, width, role, back, &pos);
}

/* One line about the thoughts, and they themselves when they are shown. */
static void thinking_set(struct block *b, const struct ui_model *m, const char *s, size_t n,
                         bool open, int width)
{
    struct str text = {0};
    char count[FORMAT_SIZE], key[32];
    int n_word = count_words(s, n);
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_THINKING, key, sizeof key);
    str_addf(&text, "%s %s, %s word%s", m->show_thinking ? "▾" : "▸", open ? "thinking" : "thought",
             format_count(count, n_word), n_word == 1 ? "" : "s");
    if (key[0])
        str_addf(&text, "  (%s %s them)", key, m->show_thinking ? "hides" : "shows");
    size_t label = text.len;
    if (m->show_thinking)
        str_add(&text, s, n);
    if (plain_stale(b, str_c(&text), text.len, width)) {
        uint32_t pos = 0;
        rich_plain(&b->plain, str_c(&text), label, width, ROLE_THINK, ROLE_TEXT, &pos);
        b->n_label = b->plain.n_line;
        if (m->show_thinking)
            rich_plain(&b->plain, s, n, width, ROLE_THINK, ROLE_TEXT, &pos);
    }
    str_fini(&text);
}

static void block_set(struct block *b, const struct ui_model *m, const struct ui_message *msg,
                      int width, int n_code_before)
{
    int inner = width > INDENT + 4 ? width - INDENT : width;
    b->is_markdown = is_role(msg, "assistant");
    b->n_plain = b->n_body = 0;
    if (b->is_markdown) {
        struct thought t;
        thought_split(msg->text, msg->len, msg->streaming, &t);
        if (t.any && t.len > 0) {
            thinking_set(b, m, msg->text + t.off, t.len, t.open && msg->streaming, inner);
            b->n_plain = b->plain.n_line + 1; /* and a blank line */
        }
        if (!b->body)
            b->body = markdown_new();
        markdown_set(b->body, msg->text + t.rest, msg->len - t.rest, inner, n_code_before,
                     msg->streaming);
        b->n_body = markdown_lines(b->body)->n_line;
    } else {
        bool user = is_role(msg, "user");
        plain_set(b, msg->text, msg->len, inner - 1, user ? ROLE_USER : ROLE_SYSTEM,
                  user ? ROLE_USER : ROLE_TEXT);
        b->n_plain = b->plain.n_line;
        b->n_label = 0;
    }
    b->waits = msg->streaming && b->n_body == 0;
    b->has_remark = msg->cut && !msg->streaming;
    b->n_line = 1 + (int)b->n_plain + (int)b->n_body + b->waits + b->has_remark + 1;
}

void view_chat_update(struct view_chat *v, const struct ui_model *m, int width)
{
    if (width != v->width || m->n_message < v->n)
        v->selecting = false;
    for (int i = m->n_message; i < v->n; i++)
        block_fini(&v->blocks[i]);
    if (m->n_message > v->cap) {
        v->cap = m->n_message * 2;
        v->blocks = mem_realloc(v->blocks, (size_t)v->cap * sizeof *v->blocks);
    }
    for (int i = v->n; i < m->n_message; i++)
        memset(&v->blocks[i], 0, sizeof v->blocks[i]);
    v->n = m->n_message;
    v->width = width;
    v->total = 0;
    int n_code = 0;
    for (int i = 0; i < v->n; i++) {
        block_set(&v->blocks[i], m, &m->messages[i], width, n_code);
        v->total += v->blocks[i].n_line;
        if (v->blocks[i].is_markdown)
            n_code += (int)markdown_lines(v->blocks[i].body)->n_code;
    }
}

/* ---- scrolling ---- */

static int block_top(const struct view_chat *v, int block)
{
    int line = 0;
    for (int i = 0; i < block && i < v->n; i++)
        line += v->blocks[i].n_line;
    return line;
}

static int bottom_top(const struct view_chat *v)
{
    return v->total > v->height ? v->total - v->height : 0;
}

/* Content position of a line of a block. Lines before the body count as its start. */
static uint32_t line_pos(const struct block *b, int line)
{
    const struct rich *r = b->is_markdown && b->body ? markdown_lines(b->body) : &b->plain;
    int first = b->is_markdown ? 1 + (int)b->n_plain : 1;
    if (line < first || r->n_line == 0)
        return 0;
    uint32_t i = (uint32_t)(line - first);
    return i < r->n_line ? r->lines[i].pos : UINT32_MAX;
}

static int pos_line(const struct block *b, uint32_t pos)
{
    int best = 0;
    for (int i = 0; i < b->n_line; i++)
        if (line_pos(b, i) <= pos)
            best = i;
        else
            break;
    return best;
}

static int top_line(const struct view_chat *v)
{
    if (v->follow || v->anchor_block >= v->n)
        return bottom_top(v);
    const struct block *b = &v->blocks[v->anchor_block];
    int line = v->anchor_line;
    if (v->anchor_width != v->width && line > 0 && v->anchor_pos > 0)
        line = pos_line(b, v->anchor_pos);
    if (line >= b->n_line)
        line = b->n_line - 1;
    int top = block_top(v, v->anchor_block) + line;
    return top < bottom_top(v) ? top : bottom_top(v);
}

static void anchor_set(struct view_chat *v, int top)
{
    if (top >= bottom_top(v)) {
        v->follow = true;
        return;
    }
    if (top < 0)
        top = 0;
    v->follow = false;
    int block = 0;
    while (block + 1 < v->n && top >= v->blocks[block].n_line)
        top -= v->blocks[block++].n_line;
    v->anchor_block = block;
    v->anchor_line = top;
    v->anchor_width = v->width;
    v->anchor_pos = v->n > 0 ? line_pos(&v->blocks[block], top) : 0;
}

void view_chat_scroll(struct view_chat *v, int n_line)
{
    anchor_set(v, top_line(v) + n_line);
}

void view_chat_page(struct view_chat *v, int n_page)
{
    /* Two lines stay in sight so that the eye finds its place. */
    view_chat_scroll(v, n_page * (v->height > 4 ? v->height - 2 : 1));
}

void view_chat_top(struct view_chat *v)
{
    anchor_set(v, 0);
}

void view_chat_follow(struct view_chat *v)
{
    v->follow = true;
}

void view_chat_show(struct view_chat *v, int32_t message)
{
    v->show = message;
}

bool view_chat_following(const struct view_chat *v)
{
    return v->follow;
}

int view_chat_below(const struct view_chat *v)
{
    return bottom_top(v) - top_line(v);
}

int32_t view_chat_at(const struct view_chat *v, int row)
{
    int line = v->drawn_top + row;
    if (row < 0 || line < 0)
        return -1;
    for (int i = 0; i < v->n; i++) {
        if (line < v->blocks[i].n_line)
            return i;
        line -= v->blocks[i].n_line;
    }
    return -1;
}

void view_chat_scroll_to(struct view_chat *v, double part)
{
    anchor_set(v, (int)(part * v->total) - v->height / 2);
}

/* ---- selection ---- */

static struct place place_at(const struct view_chat *v, int col, int row)
{
    int line = v->drawn_top + row, block = 0;
    if (line < 0)
        return (struct place){0, 0, 0};
    while (block < v->n && line >= v->blocks[block].n_line)
        line -= v->blocks[block++].n_line;
    if (block == v->n)
        return (struct place){v->n, 0, 0};
    return (struct place){block, line, col > INDENT ? col - INDENT : 0};
}

static bool place_before(struct place a, struct place b)
{
    if (a.block != b.block)
        return a.block < b.block;
    return a.line != b.line ? a.line < b.line : a.col < b.col;
}

/* A name, or how many words were thought: on the screen, but no text of the conversation. */
static bool is_label(const struct block *b, int line)
{
    return line == 0 || (b->n_plain > 0 && line <= (int)b->n_label);
}

/* Styled line behind a line of a block, NULL = a label, a remark or a blank line. */
static const struct rich *line_rich(const struct block *b, int line, uint32_t *ret_i)
{
    uint32_t i = (uint32_t)line - 1;
    if (line < 1 || is_label(b, line))
        return NULL;
    *ret_i = i;
    if (i < b->n_plain)
        return i < b->plain.n_line ? &b->plain : NULL;
    *ret_i = i - b->n_plain;
    return *ret_i < b->n_body ? markdown_lines(b->body) : NULL;
}

/* Selected columns of a line; false = none. */
static bool selected_cols(const struct view_chat *v, int block, int line, int *ret_x0, int *ret_x1)
{
    struct place a = v->from, b = v->to;
    if (place_before(b, a)) {
        a = v->to;
        b = v->from;
    }
    struct place start = {block, line, 0}, next = {block, line + 1, 0};
    if (!v->selecting || !place_before(a, next) || !place_before(start, b))
        return false;
    *ret_x0 = place_before(start, a) ? a.col : 0;
    *ret_x1 = place_before(b, next) ? b.col : v->width;
    return *ret_x1 > *ret_x0;
}

static void select_word(struct view_chat *v)
{
    struct str s = {0};
    uint32_t i = 0;
    const struct rich *r =
        v->from.block < v->n ? line_rich(&v->blocks[v->from.block], v->from.line, &i) : NULL;
    if (r)
        rich_text(r, i, 0, v->width, &s);
    int col = 0, start = 0, kind = -1;
    for (size_t off = 0; off < s.len;) {
        int w;
        unsigned char c = (unsigned char)s.data[off];
        int k = c >= 0x80 || c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z')
                    ? 1
                : c == ' ' ? 0
                           : 2;
        off += text_next(s.data + off, s.len - off, &w);
        if (k != kind) {
            if (col > v->from.col)
                break;
            start = col;
            kind = k;
        }
        col += w;
    }
    v->from.col = start;
    v->to.col = col;
    str_fini(&s);
}

void view_chat_select(struct view_chat *v, int col, int row, int n_click)
{
    v->from = v->to = place_at(v, col, row);
    v->selecting = true;
    if (n_click == 2)
        select_word(v);
    if (n_click == 3) {
        v->from.col = 0;
        v->to.col = v->width;
    }
}

void view_chat_select_to(struct view_chat *v, int col, int row)
{
    v->to = place_at(v, col, row);
}

void view_chat_select_clear(struct view_chat *v)
{
    v->selecting = false;
}

bool view_chat_selection(const struct view_chat *v, struct str *out)
{
    bool any = false;
    size_t start = out ? out->len : 0;
    for (int block = 0; v->selecting && block < v->n; block++)
        for (int line = 0; line < v->blocks[block].n_line; line++) {
            int x0, x1;
            uint32_t i = 0;
            const struct rich *r = line_rich(&v->blocks[block], line, &i);
            if (!selected_cols(v, block, line, &x0, &x1))
                continue;
            any |= r != NULL;
            if (!out || is_label(&v->blocks[block], line))
                continue;
            const struct rich_line *l = r ? &r->lines[i] : NULL;
            if (l && l->n_run == 1 && r->runs[l->run].role == ROLE_CODE_BORDER)
                continue;
            if (out->len > start && (!l || l->join == RICH_NEW)) {
                while (out->len > start && out->data[out->len - 1] == ' ')
                    str_cut(out, out->len - 1, 1);
                str_adds(out, "\n");
            } else if (out->len > start && l->join == RICH_SPACE) {
                str_adds(out, " ");
            }
            /* What frames a line that goes on, or a line of code, is not part of the text. */
            int lead = l && l->back == ROLE_CODE ? l->fill_col + 1
                       : l && l->join            ? l->fill_col
                                                 : 0;
            if (r)
                rich_text(r, i, x0 > lead ? x0 : lead, x1, out);
        }
    while (out && out->len > start && strchr(" \n", out->data[out->len - 1]))
        str_cut(out, out->len - 1, 1);
    return any;
}

bool view_chat_is_name(const struct view_chat *v, int row)
{
    struct place p = place_at(v, 0, row);
    return p.block < v->n && p.line == 0;
}

const char *view_chat_code(const struct view_chat *v, int number, size_t *ret_len)
{
    for (int i = 0; i < v->n && number > 0; i++) {
        if (!v->blocks[i].is_markdown)
            continue;
        const struct rich *r = markdown_lines(v->blocks[i].body);
        if (number <= (int)r->n_code) {
            *ret_len = r->codes[number - 1].len;
            return str_c(&r->code) + r->codes[number - 1].off;
        }
        number -= (int)r->n_code;
    }
    return NULL;
}

int view_chat_code_count(const struct view_chat *v)
{
    int n = 0;
    for (int i = 0; i < v->n; i++)
        if (v->blocks[i].is_markdown)
            n += (int)markdown_lines(v->blocks[i].body)->n_code;
    return n;
}

/* ---- drawing ---- */

static void draw_name(const struct ui_model *m, const struct ui_message *msg, struct cells *c,
                      struct rect r, int y)
{
    uint8_t role = ROLE_SYSTEM, back = ROLE_TEXT;
    struct str s = {0};
    if (is_role(msg, "user")) {
        role = ROLE_USER_NAME;
        back = ROLE_USER;
        str_adds(&s, "You");
    } else if (is_role(msg, "assistant")) {
        role = ROLE_ASSISTANT_NAME;
        const char *name = msg->ours ? m->model_name : "Assistant";
        text_clean_line(&s, name, strlen(name));
    } else {
        str_adds(&s, "System prompt");
    }
    int x = r.x + INDENT;
    x += cells_put(c, r, x, y, str_c(&s), s.len, role, back, 0);
    if (msg->n_sibling > 1) {
        char branch[48];
        snprintf(branch, sizeof branch, "  ‹ %d/%d ›", (int)msg->sibling + 1, (int)msg->n_sibling);
        cells_puts(c, r, x, y, branch, ROLE_DIM, back, 0);
    }
    str_fini(&s);
}

static void draw_line(const struct view_chat *v, const struct ui_model *m, int block, int line,
                      struct cells *c, struct rect r, int y)
{
    const struct block *b = &v->blocks[block];
    const struct ui_message *msg = &m->messages[block];
    bool user = is_role(msg, "user"), last = line == b->n_line - 1;
    bool chosen = m->focus == UI_FOCUS_SELECT && m->selected == block;
    uint8_t back = user ? ROLE_USER : ROLE_TEXT;
    int x = r.x + INDENT, w = r.w - INDENT;
    if (!last && user)
        cells_fill(c, rect_cross(r, (struct rect){r.x, y, r.w, 1}), " ", ROLE_USER, ROLE_USER);
    if (!last && (user || chosen))
        cells_puts(c, r, r.x, y, chosen ? "┃" : "▌", chosen ? ROLE_ACCENT : ROLE_USER_NAME, back,
                   0);
    if (last)
        return;
    if (line == 0) {
        draw_name(m, msg, c, r, y);
        return;
    }
    uint32_t i = (uint32_t)line - 1;
    if (i < b->n_plain) {
        if (i < b->plain.n_line)
            rich_draw(&b->plain, i, c, r, x, y, user ? 0 : w, back);
        return;
    }
    i -= b->n_plain;
    if (i < b->n_body) {
        rich_draw(markdown_lines(b->body), i, c, r, x, y, w, ROLE_TEXT);
        return;
    }
    if (b->waits && i == b->n_body) {
        cells_puts(c, r, x, y, m->stats.phase == STATS_PREFILL ? "reading …" : "…", ROLE_DIM, 0, 0);
        return;
    }
    cells_puts(c, r, x, y, "— stopped here —", ROLE_DIM, 0, 0);
}

static void draw_empty(const struct ui_model *m, struct cells *c, struct rect r)
{
    char help[32], list[32], dash[32], palette[32];
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_HELP, help, sizeof help);
    keymap_first_key(m->keymap, KEYMAP_EDITOR, ACT_COMPLETE, list, sizeof list);
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_DASHBOARD, dash, sizeof dash);
    keymap_first_key(m->keymap, KEYMAP_GLOBAL, ACT_PALETTE, palette, sizeof palette);
    struct str name = {0};
    text_clean_line(&name, m->model_name, strlen(m->model_name));
    char lines[6][200];
    snprintf(lines[0], sizeof lines[0], "Dogear");
    snprintf(lines[1], sizeof lines[1], "%.80s", str_c(&name));
    lines[2][0] = '\0';
    snprintf(lines[3], sizeof lines[3], "Type a message and press Enter.");
    snprintf(lines[4], sizeof lines[4], "%s help   %s dashboard   %s conversations   %s commands",
             help, dash, list, palette);
    int n = 5;
    if (text_width(lines[4], strlen(lines[4])) > r.w) {
        snprintf(lines[4], sizeof lines[4], "%s help   %s dashboard", help, dash);
        snprintf(lines[5], sizeof lines[5], "%s conversations   %s commands", list, palette);
        n = 6;
    }
    n = r.h >= n ? n : r.h > 0 ? 1 : 0;
    int y = r.y + (r.h - n) * 2 / 5;
    for (int i = 0; i < n; i++) {
        const char *s = lines[n == 1 ? 3 : i];
        int w = text_width(s, strlen(s));
        cells_puts(c, r, r.x + (r.w - w) / 2, y + i, s,
                   n > 1 && i == 0   ? ROLE_ACCENT
                   : n > 1 && i == 1 ? ROLE_TITLE
                                     : ROLE_DIM,
                   0, i == 0 && n > 1 ? CELL_BOLD : 0);
    }
    str_fini(&name);
}

/* Makes v->show visible: its first line in the upper third if it has to move. */
static void scroll_to_show(struct view_chat *v)
{
    int32_t i = v->show;
    v->show = -1;
    if (i < 0 || i >= v->n)
        return;
    int from = block_top(v, i), to = from + v->blocks[i].n_line, top = top_line(v);
    if (from >= top && (to <= top + v->height || from < top + v->height / 2))
        return;
    anchor_set(v, from - v->height / 5);
}

void view_chat_draw(struct view_chat *v, const struct ui_model *m, struct cells *c,
                    struct rect chat, struct rect text)
{
    view_chat_update(v, m, text.w);
    v->height = text.h;
    if (m->n_message == 0) {
        draw_empty(m, c, chat);
        return;
    }
    scroll_to_show(v);
    int top = top_line(v);
    v->drawn_top = top;
    int block = 0, line = top;
    while (block < v->n && line >= v->blocks[block].n_line)
        line -= v->blocks[block++].n_line;
    if (m->shapes && v->total > v->height) { /* a scroll bar at the right edge */
        float x = (float)(chat.x + chat.w) - 0.6f, h = (float)chat.h;
        float at = (float)top / (float)v->total * h, len = (float)v->height / (float)v->total * h;
        shapes_fill(m->shapes, x, (float)chat.y + at, 0.4f, len < 1 ? 1 : len, ROLE_DIM, 120, NULL);
    }
    /* A short conversation starts at the top, the newest line of a long one is at the bottom. */
    for (int y = 0; y < text.h && block < v->n; y++) {
        draw_line(v, m, block, line, c, text, text.y + y);
        int x0, x1;
        if (selected_cols(v, block, line, &x0, &x1) && line > 0 &&
            line < v->blocks[block].n_line - 1)
            cells_mark(c,
                       rect_cross(text, (struct rect){text.x + INDENT + x0, text.y + y, x1 - x0, 1}),
                       ROLE_SELECTED, 0);
        if (++line == v->blocks[block].n_line) {
            line = 0;
            block++;
        }
    }
}
