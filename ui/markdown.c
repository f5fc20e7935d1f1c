/* Markdown to styled lines; see markdown.h. */
#include "ui/markdown.h"

#include <limits.h>
#include <md4c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "ui/highlight.h"
#include "ui/text.h"
#include "ui/theme.h"

enum { NEST_MAX = 12, TABLE_COLS_MAX = 32, SOURCE_MAX = 64 * 1024 * 1024 };

struct markdown {
    struct str source;
    int width, n_code_before;
    bool streaming, rendered;
    struct rich lines;
    /* state after the stable part */
    size_t stable;
    struct rich stable_mark; /* counts and lengths only; owns nothing */
    uint32_t stable_pos;
};

/* ---- building ---- */

struct mark { /* from off on the text has this style */
    size_t off;
    uint8_t role, attr;
};

struct flow { /* one paragraph, heading or table cell before it is broken into lines */
    struct str text;
    struct mark *marks;
    size_t n_mark, cap_mark;
};

struct box {                         /* a quote, or a list with its present item */
    bool quote, list, tight, marked; /* marked: the item's bullet has been written */
    bool fresh;                      /* nothing of the item has been written */
    unsigned number;
    bool ordered;
    int width;
    char bullet[16];
};

struct builder {
    struct rich *out;
    int width, n_code_before;
    uint32_t pos;
    struct box nest[NEST_MAX];
    int n_nest, n_nest_over; /* containers beyond NEST_MAX are flattened */
    bool any;                /* something has been written */
    struct flow flow;
    int bold, italic, strike, link, image, code_span, heading;
    struct str href;
    /* code block */
    const char *source;
    size_t source_len;
    bool in_code;
    size_t code_indent; /* spaces just written by the parser in place of the source's own */
    struct str code;
    char language[32];
    /* table */
    bool in_cell, in_head;
    struct flow *cells; /* [n_row, n_col] */
    MD_ALIGN align[TABLE_COLS_MAX];
    int n_col, n_row, n_head, cell_col;
};

static void flow_fini(struct flow *f)
{
    str_fini(&f->text);
    free(f->marks);
    memset(f, 0, sizeof *f);
}

static void flow_clear(struct flow *f)
{
    str_clear(&f->text);
    f->n_mark = 0;
}

static void flow_add(struct flow *f, const char *s, size_t n, uint8_t role, uint8_t attr)
{
    if (f->n_mark == 0 || f->marks[f->n_mark - 1].role != role ||
        f->marks[f->n_mark - 1].attr != attr) {
        if (f->n_mark == f->cap_mark) {
            f->cap_mark = f->cap_mark ? f->cap_mark * 2 : 8;
            f->marks = mem_realloc(f->marks, f->cap_mark * sizeof *f->marks);
        }
        f->marks[f->n_mark++] = (struct mark){f->text.len, role, attr};
    }
    str_add(&f->text, s, n);
}

/* Adds bytes [from, to) of a flow to the present line, run by run. */
static void flow_emit(struct rich *out, const struct flow *f, size_t from, size_t to)
{
    for (size_t i = 0; i < f->n_mark && from < to; i++) {
        size_t end = i + 1 < f->n_mark ? f->marks[i + 1].off : f->text.len;
        if (end <= from)
            continue;
        size_t stop = end < to ? end : to;
        rich_add(out, f->text.data + from, stop - from, f->marks[i].role, f->marks[i].attr);
        from = stop;
    }
}

static int prefix_width(const struct builder *b)
{
    int w = 0;
    for (int i = 0; i < b->n_nest; i++)
        w += b->nest[i].width;
    return w;
}

static int room(const struct builder *b)
{
    int w = b->width - prefix_width(b);
    return w < 8 ? 8 : w;
}

/* Starts a line with the marks of all containers. */
static void begin_line(struct builder *b, uint8_t back)
{
    rich_begin(b->out, back, (uint8_t)(prefix_width(b) < 200 ? prefix_width(b) : 200), b->pos);
    for (int i = 0; i < b->n_nest; i++) {
        struct box *box = &b->nest[i];
        if (box->quote) {
            rich_add(b->out, "▎ ", strlen("▎ "), ROLE_BORDER, 0);
        } else if (!box->marked) {
            box->marked = true;
            rich_add(b->out, box->bullet, strlen(box->bullet), ROLE_BULLET, 0);
        } else {
            char blank[16];
            snprintf(blank, sizeof blank, "%*s", box->width, "");
            rich_add(b->out, blank, strlen(blank), ROLE_TEXT, 0);
        }
        box->fresh = false;
    }
    b->any = true;
}

/* A blank line before a block, unless it is the first of its container or in a tight list. */
static void gap(struct builder *b)
{
    struct box *box = b->n_nest > 0 ? &b->nest[b->n_nest - 1] : NULL;
    if (!b->any || (box && (box->fresh || (box->list && box->tight))))
        return;
    bool marked[NEST_MAX];
    for (int i = 0; i < b->n_nest; i++) { /* a blank line must not use up a bullet */
        marked[i] = b->nest[i].marked;
        b->nest[i].marked = true;
    }
    begin_line(b, ROLE_TEXT);
    for (int i = 0; i < b->n_nest; i++)
        b->nest[i].marked = marked[i];
}

static void flow_flush(struct builder *b)
{
    struct flow *f = &b->flow;
    if (f->text.len == 0)
        return;
    int width = room(b);
    size_t off = 0, end = 0; /* end: of the line before */
    while (off < f->text.len) {
        size_t next, len = text_wrap(f->text.data + off, f->text.len - off, width, false, &next);
        begin_line(b, ROLE_TEXT);
        if (off > 0)
            rich_continue(b->out, f->text.data + end, off - end);
        end = off + len;
        flow_emit(b->out, f, off, off + len);
        off += next;
        b->pos += (uint32_t)next;
    }
    flow_clear(f);
}

/* ---- code ---- */

static void rule_line(struct builder *b, const char *label, const char *number)
{
    int width = room(b), used = 0;
    begin_line(b, ROLE_TEXT);
    struct str s = {0};
    if (label[0]) {
        str_adds(&s, "── ");
        text_ellipsis(&s, label, strlen(label), width / 2);
        str_adds(&s, " ");
        used = text_width(s.data, s.len);
    }
    int tail = number[0] ? (int)strlen(number) + 4 : 0;
    for (; used < width - tail; used++)
        str_adds(&s, "─");
    if (number[0] && used + tail <= width)
        str_addf(&s, " %s ──", number);
    rich_add(b->out, str_c(&s), s.len, ROLE_CODE_BORDER, 0);
    str_fini(&s);
}

static void code_line(struct builder *b, struct highlight *h, const char *s, size_t n)
{
    int width = room(b) - 2;
    struct str flat = {0};
    for (size_t i = 0, col = 0; i < n;) { /* tabs become spaces before lines are cut */
        if (s[i] == '\t') {
            do
                str_addc(&flat, ' ');
            while (++col % TEXT_TAB);
            i++;
            continue;
        }
        int w;
        size_t len = text_next(s + i, n - i, &w);
        str_add(&flat, s + i, len);
        col += (size_t)w;
        i += len;
    }
    struct flow f = {0};
    for (size_t i = 0; i < flat.len;) {
        uint8_t role;
        size_t len = highlight_next(h, flat.data + i, flat.len - i, &role);
        flow_add(&f, flat.data + i, len, role, 0);
        i += len;
    }
    size_t off = 0;
    do {
        size_t len = flat.len > off ? text_fit(flat.data + off, flat.len - off, width, NULL) : 0;
        if (len == 0 && off < flat.len) {
            int w;
            len = text_next(flat.data + off, flat.len - off, &w);
        }
        begin_line(b, ROLE_CODE);
        if (off > 0)
            rich_continue(b->out, "", 0);
        rich_add(b->out, " ", 1, ROLE_CODE, 0);
        flow_emit(b->out, &f, off, off + len);
        off += len;
        b->pos += (uint32_t)len;
    } while (off < flat.len);
    b->pos++;
    flow_fini(&f);
    str_fini(&flat);
}

static void code_flush(struct builder *b)
{
    char number[16];
    snprintf(number, sizeof number, "%d", b->n_code_before + (int)b->out->n_code + 1);
    rule_line(b, b->language[0] ? b->language : "code", number);
    struct highlight h = {0};
    highlight_start(&h, b->language, strcspn(b->language, " ,{:"));
    const char *s = str_c(&b->code);
    size_t n = b->code.len, off = 0;
    while (off < n) {
        const char *nl = memchr(s + off, '\n', n - off);
        size_t len = nl ? (size_t)(nl - s) - off : n - off;
        code_line(b, &h, s + off, len);
        off += len + 1;
    }
    rule_line(b, "", "");
    rich_code(b->out, s, n);
    str_clear(&b->code);
}

/* ---- tables ---- */

static struct flow *table_cell(struct builder *b, int row, int col)
{
    return &b->cells[row * b->n_col + col];
}

static void table_free(struct builder *b)
{
    for (int i = 0; b->cells && i < b->n_row * b->n_col; i++)
        flow_fini(&b->cells[i]);
    free(b->cells);
    b->cells = NULL;
    b->n_row = 0;
}

/* Columns as wide as they need; when that is too much, the widest give way first. */
static void table_widths(struct builder *b, int *width)
{
    int total = 0, most = room(b) - 3 * (b->n_col - 1);
    for (int c = 0; c < b->n_col; c++) {
        width[c] = 1;
        for (int r = 0; r < b->n_row; r++) {
            const struct flow *f = table_cell(b, r, c);
            int w = text_width(str_c(&f->text), f->text.len);
            if (w > width[c])
                width[c] = w < 1000 ? w : 1000;
        }
        total += width[c];
    }
    while (total > most) {
        int widest = 0;
        for (int c = 1; c < b->n_col; c++)
            if (width[c] > width[widest])
                widest = c;
        if (width[widest] <= 3)
            break;
        width[widest]--;
        total--;
    }
}

static void table_row(struct builder *b, int row, const int *width)
{
    size_t off[TABLE_COLS_MAX] = {0};
    bool more = true;
    while (more) {
        more = false;
        begin_line(b, ROLE_TEXT);
        for (int c = 0; c < b->n_col; c++) {
            const struct flow *f = table_cell(b, row, c);
            size_t len = 0, next = 0, from = off[c];
            if (from < f->text.len) {
                len = text_wrap(f->text.data + from, f->text.len - from, width[c], false, &next);
                off[c] += next;
                more |= off[c] < f->text.len;
            }
            int used = text_width(str_c(&f->text) + from, len), left = 0;
            if (b->align[c] == MD_ALIGN_RIGHT)
                left = width[c] - used;
            else if (b->align[c] == MD_ALIGN_CENTER)
                left = (width[c] - used) / 2;
            char pad[1024];
            int n = left > 0 ? left : 0;
            snprintf(pad, sizeof pad, "%*s", n, "");
            rich_add(b->out, pad, strlen(pad), ROLE_TEXT, 0);
            flow_emit(b->out, f, from, from + len);
            n = width[c] - used - n;
            snprintf(pad, sizeof pad, "%*s", n > 0 && c + 1 < b->n_col ? n : 0, "");
            rich_add(b->out, pad, strlen(pad), ROLE_TEXT, 0);
            if (c + 1 < b->n_col)
                rich_add(b->out, " │ ", strlen(" │ "), ROLE_BORDER, 0);
            b->pos += (uint32_t)next;
        }
    }
}

static void table_flush(struct builder *b)
{
    int width[TABLE_COLS_MAX];
    if (b->n_col == 0 || b->n_row == 0) {
        table_free(b);
        return;
    }
    table_widths(b, width);
    for (int r = 0; r < b->n_row; r++) {
        table_row(b, r, width);
        if (r + 1 != b->n_head)
            continue;
        begin_line(b, ROLE_TEXT);
        for (int c = 0; c < b->n_col; c++) {
            for (int i = 0; i < width[c]; i++)
                rich_add(b->out, "─", strlen("─"), ROLE_BORDER, 0);
            if (c + 1 < b->n_col)
                rich_add(b->out, "─┼─", strlen("─┼─"), ROLE_BORDER, 0);
        }
    }
    table_free(b);
}

/* ---- md4c callbacks ---- */

static void nest_push(struct builder *b, struct box box)
{
    /* Deep nesting (or a narrow screen) is flattened rather than squeezed to nothing. */
    if (b->n_nest == NEST_MAX || prefix_width(b) + 6 > b->width / 2) {
        b->n_nest_over++;
        return;
    }
    b->nest[b->n_nest++] = box;
}

static void nest_pop(struct builder *b)
{
    if (b->n_nest_over > 0)
        b->n_nest_over--;
    else if (b->n_nest > 0)
        b->n_nest--;
}

static void item_start(struct builder *b, const MD_BLOCK_LI_DETAIL *d)
{
    if (b->n_nest == 0 || b->n_nest_over > 0 || !b->nest[b->n_nest - 1].list)
        return;
    struct box *box = &b->nest[b->n_nest - 1];
    if (d->is_task)
        snprintf(box->bullet, sizeof box->bullet, "%s", d->task_mark == ' ' ? "☐ " : "☑ ");
    else if (box->ordered)
        snprintf(box->bullet, sizeof box->bullet, "%u. ", box->number++ % 1000000000u);
    else
        snprintf(box->bullet, sizeof box->bullet, "%s", b->n_nest > 1 ? "◦ " : "• ");
    box->width = text_width(box->bullet, strlen(box->bullet));
    box->marked = false;
    box->fresh = true;
}

static void attribute(struct str *out, const MD_ATTRIBUTE *a)
{
    struct str raw = {0};
    str_add(&raw, a->text, a->size);
    text_clean_line(out, str_c(&raw), raw.len);
    str_fini(&raw);
}

static int enter_block(MD_BLOCKTYPE type, void *detail, void *user)
{
    struct builder *b = user;
    if (type != MD_BLOCK_DOC)
        flow_flush(b);
    switch (type) {
    case MD_BLOCK_QUOTE:
        gap(b);
        nest_push(b, (struct box){.quote = true, .width = 2, .fresh = true});
        break;
    case MD_BLOCK_UL:
        gap(b);
        nest_push(b, (struct box){.list = true,
                                  .width = 2,
                                  .marked = true,
                                  .fresh = true,
                                  .tight = ((MD_BLOCK_UL_DETAIL *)detail)->is_tight != 0});
        break;
    case MD_BLOCK_OL:
        gap(b);
        nest_push(b, (struct box){.list = true,
                                  .width = 3,
                                  .marked = true,
                                  .fresh = true,
                                  .ordered = true,
                                  .number = ((MD_BLOCK_OL_DETAIL *)detail)->start,
                                  .tight = ((MD_BLOCK_OL_DETAIL *)detail)->is_tight != 0});
        break;
    case MD_BLOCK_LI:
        item_start(b, detail);
        break;
    case MD_BLOCK_H:
        gap(b);
        b->heading = (int)((MD_BLOCK_H_DETAIL *)detail)->level;
        break;
    case MD_BLOCK_P:
        gap(b);
        break;
    case MD_BLOCK_HR:
        gap(b);
        rule_line(b, "", "");
        break;
    case MD_BLOCK_CODE: {
        gap(b);
        b->in_code = true;
        b->code_indent = 0;
        struct str lang = {0};
        attribute(&lang, &((MD_BLOCK_CODE_DETAIL *)detail)->lang);
        size_t n = lang.len < sizeof b->language - 1 ? lang.len : sizeof b->language - 1;
        n = utf8_complete(str_c(&lang), n);
        memcpy(b->language, str_c(&lang), n);
        b->language[n] = '\0';
        str_fini(&lang);
        break;
    }
    case MD_BLOCK_TABLE: {
        gap(b);
        const MD_BLOCK_TABLE_DETAIL *d = detail;
        b->n_col = d->col_count < TABLE_COLS_MAX ? (int)d->col_count : TABLE_COLS_MAX;
        b->n_row = b->n_head = 0;
        break;
    }
    case MD_BLOCK_THEAD:
        b->in_head = true;
        break;
    case MD_BLOCK_TR:
        b->cells = mem_realloc(b->cells, (size_t)((b->n_row + 1) * b->n_col) * sizeof *b->cells);
        memset(b->cells + b->n_row * b->n_col, 0, (size_t)b->n_col * sizeof *b->cells);
        b->n_row++;
        b->n_head += b->in_head;
        b->cell_col = 0;
        break;
    case MD_BLOCK_TH:
    case MD_BLOCK_TD:
        if (b->cell_col < b->n_col)
            b->align[b->cell_col] = ((MD_BLOCK_TD_DETAIL *)detail)->align;
        b->in_cell = true;
        break;
    default:
        break;
    }
    return 0;
}

static int leave_block(MD_BLOCKTYPE type, void *detail, void *user)
{
    struct builder *b = user;
    switch (type) {
    case MD_BLOCK_CODE:
        b->in_code = false;
        code_flush(b);
        break;
    case MD_BLOCK_TH:
    case MD_BLOCK_TD:
        if (b->cell_col < b->n_col && b->n_row > 0) {
            struct flow *f = table_cell(b, b->n_row - 1, b->cell_col);
            flow_fini(f);
            *f = b->flow;
            memset(&b->flow, 0, sizeof b->flow);
        } else {
            flow_clear(&b->flow);
        }
        b->cell_col++;
        b->in_cell = false;
        break;
    case MD_BLOCK_THEAD:
        b->in_head = false;
        break;
    case MD_BLOCK_TABLE:
        table_flush(b);
        break;
    case MD_BLOCK_LI: {
        flow_flush(b);
        struct box *box = b->n_nest > 0 ? &b->nest[b->n_nest - 1] : NULL;
        if (box && box->list && !box->marked && b->n_nest_over == 0)
            begin_line(b, ROLE_TEXT); /* an empty item still shows its bullet */
        break;
    }
    case MD_BLOCK_QUOTE:
    case MD_BLOCK_UL:
    case MD_BLOCK_OL:
        flow_flush(b);
        nest_pop(b);
        break;
    default:
        flow_flush(b);
        b->heading = 0;
        break;
    }
    return 0;
}

static int enter_span(MD_SPANTYPE type, void *detail, void *user)
{
    struct builder *b = user;
    b->italic += type == MD_SPAN_EM;
    b->bold += type == MD_SPAN_STRONG;
    b->strike += type == MD_SPAN_DEL;
    b->code_span += type == MD_SPAN_CODE;
    if (type == MD_SPAN_A && b->link++ == 0) {
        str_clear(&b->href);
        attribute(&b->href, &((MD_SPAN_A_DETAIL *)detail)->href);
    }
    if (type == MD_SPAN_IMG && b->image++ == 0)
        flow_add(&b->flow, "[image: ", 8, ROLE_DIM, 0);
    return 0;
}

static int leave_span(MD_SPANTYPE type, void *detail, void *user)
{
    struct builder *b = user;
    b->italic -= type == MD_SPAN_EM;
    b->bold -= type == MD_SPAN_STRONG;
    b->strike -= type == MD_SPAN_DEL;
    b->code_span -= type == MD_SPAN_CODE;
    if (type == MD_SPAN_A && --b->link == 0 && b->href.len > 0) {
        /* The target is shown whenever the text is not the target itself: nobody is sent
         * somewhere he can not see. */
        const char *href = str_c(&b->href);
        if (strncmp(href, "mailto:", 7) == 0)
            href += 7;
        size_t n = strlen(href);
        if (b->flow.text.len < n ||
            memcmp(b->flow.text.data + b->flow.text.len - n, href, n) != 0) {
            flow_add(&b->flow, " (", 2, ROLE_DIM, 0);
            flow_add(&b->flow, href, n, ROLE_DIM, 0);
            flow_add(&b->flow, ")", 1, ROLE_DIM, 0);
        }
    }
    if (type == MD_SPAN_IMG && --b->image == 0)
        flow_add(&b->flow, "]", 1, ROLE_DIM, 0);
    return 0;
}

static void entity(struct str *out, const char *s, size_t n)
{
    static const struct {
        const char *name, *text;
    } names[] = {{"&amp;", "&"},    {"&lt;", "<"},   {"&gt;", ">"},     {"&quot;", "\""},
                 {"&apos;", "'"},   {"&nbsp;", " "}, {"&mdash;", "—"},  {"&ndash;", "–"},
                 {"&hellip;", "…"}, {"&rarr;", "→"}, {"&larr;", "←"},   {"&times;", "×"},
                 {"&copy;", "©"},   {"&deg;", "°"},  {"&middot;", "·"}, {"&le;", "≤"},
                 {"&ge;", "≥"},     {"&ne;", "≠"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i].name) == n && memcmp(names[i].name, s, n) == 0) {
            str_adds(out, names[i].text);
            return;
        }
    if (n > 3 && n < 12 && s[1] == '#') {
        char digits[16];
        memcpy(digits, s, n);
        digits[n] = '\0';
        bool hex = s[2] == 'x' || s[2] == 'X';
        unsigned long cp = strtoul(digits + (hex ? 3 : 2), NULL, hex ? 16 : 10);
        char buf[4];
        str_add(out, buf, (size_t)utf8_encode(cp <= 0x10FFFF ? (uint32_t)cp : 0xFFFD, buf));
        return;
    }
    str_add(out, s, n);
}

/* The parser hands out the indentation of code as spaces. What is copied must be what was written
 * (a Makefile without tabs is none), so the source's own white space is put back where it spans the
 * same columns. */
static void code_text(struct builder *b, const char *s, size_t n, const struct str *clean)
{
    bool inside = s >= b->source && s < b->source + b->source_len;
    if (!inside) {
        size_t i = 0;
        while (i < n && s[i] == ' ')
            i++;
        b->code_indent = i == n ? n : 0;
    } else if (b->code_indent > 0) {
        const char *from = s;
        while (from > b->source && (from[-1] == ' ' || from[-1] == '\t'))
            from--;
        size_t col = 0;
        for (const char *p = from; p < s; p++)
            col = *p == '\t' ? (col / 4 + 1) * 4 : col + 1;
        if (col == b->code_indent && (from == b->source || from[-1] == '\n')) {
            str_cut(&b->code, b->code.len - b->code_indent, b->code_indent);
            str_add(&b->code, from, (size_t)(s - from));
        }
        b->code_indent = 0;
    }
    str_add(&b->code, str_c(clean), clean->len);
}

static int text(MD_TEXTTYPE type, const MD_CHAR *s, MD_SIZE n, void *user)
{
    struct builder *b = user;
    struct str clean = {0};
    if (type == MD_TEXT_ENTITY) {
        struct str raw = {0};
        entity(&raw, s, n);
        text_clean(&clean, str_c(&raw), raw.len);
        str_fini(&raw);
    } else if (type == MD_TEXT_BR || type == MD_TEXT_SOFTBR) {
        /* Models mean their line breaks: verse, addresses, lists without marks. */
        str_addc(&clean, b->in_cell ? ' ' : '\n');
    } else if (type == MD_TEXT_NULLCHAR) {
        str_adds(&clean, "\xEF\xBF\xBD");
    } else {
        text_clean(&clean, s, n);
    }
    if (b->in_code) {
        code_text(b, s, n, &clean);
        str_fini(&clean);
        return 0;
    }
    uint8_t attr =
        (b->bold ? CELL_BOLD : 0) | (b->italic ? CELL_ITALIC : 0) | (b->strike ? CELL_STRIKE : 0);
    uint8_t role = ROLE_TEXT;
    if (b->image)
        role = ROLE_DIM;
    else if (b->code_span)
        role = ROLE_INLINE_CODE;
    else if (b->link)
        role = ROLE_LINK;
    else if (b->heading || b->in_head)
        role = ROLE_HEADING;
    else if (b->bold)
        role = ROLE_STRONG;
    else if (b->n_nest > 0 && b->nest[b->n_nest - 1].quote)
        role = ROLE_QUOTE;
    for (size_t i = 0; i < clean.len; i++)
        if (clean.data[i] == '\t')
            clean.data[i] = ' ';
    flow_add(&b->flow, str_c(&clean), clean.len, role, attr);
    str_fini(&clean);
    return 0;
}

/* Renders text[0..n) behind what *out holds; returns the content position after it. */
static uint32_t render(struct rich *out, const char *s, size_t n, int width, int n_code_before,
                       uint32_t pos)
{
    struct builder b = {.out = out,
                        .width = width < 8 ? 8 : width,
                        .n_code_before = n_code_before,
                        .pos = pos,
                        .any = out->n_line > 0,
                        .source = s,
                        .source_len = n};
    const MD_PARSER parser = {
        .flags = MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_TASKLISTS |
                 MD_FLAG_PERMISSIVEURLAUTOLINKS | MD_FLAG_NOHTML,
        .enter_block = enter_block,
        .leave_block = leave_block,
        .enter_span = enter_span,
        .leave_span = leave_span,
        .text = text,
    };
    md_parse(s, (MD_SIZE)n, &parser, &b);
    flow_flush(&b);
    flow_fini(&b.flow);
    str_fini(&b.href);
    str_fini(&b.code);
    table_free(&b);
    return b.pos;
}

/* ---- growing text ---- */

struct fence {
    char c;
    size_t n;
};

/* Is this line the opening or closing of a code fence? Sets its indentation. */
static bool fence_line(const char *s, size_t n, struct fence *ret, size_t *ret_indent,
                       bool *ret_bare)
{
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\t'))
        i++;
    *ret_indent = i;
    size_t start = i;
    while (i < n && (s[i] == '`' || s[i] == '~') && s[i] == s[start])
        i++;
    if (i - start < 3)
        return false;
    *ret = (struct fence){s[start], i - start};
    bool tick = false;
    size_t rest = i;
    while (rest < n) {
        tick |= s[rest] == '`';
        rest++;
    }
    while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\r'))
        i++;
    *ret_bare = i == n;
    return !(ret->c == '`' && tick && !*ret_bare);
}

size_t markdown_stable(const char *text, size_t n)
{
    size_t stable = 0;
    struct fence open = {0};
    bool after_blank = false, after_pipe = false;
    for (size_t off = 0; off < n;) {
        const char *line = text + off, *nl = memchr(line, '\n', n - off);
        size_t len = nl ? (size_t)(nl - line) : n - off;
        size_t i = 0;
        while (i < len && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r'))
            i++;
        bool blank = i == len;
        /* Only a character that can not continue a list or an indented block ends what was. */
        if (!open.n && after_blank && !blank && !strchr(" \t0123456789-*+", line[0]))
            stable = off;
        struct fence f;
        size_t indent;
        bool bare;
        if (!blank && fence_line(line, len, &f, &indent, &bare)) {
            if (!nl)
                return stable; /* the line is still being written */
            if (!open.n && (indent > 0 || after_pipe))
                return stable; /* in a list it ends with the item; a table row may swallow it */
            if (!open.n)
                open = f;
            else if (f.c == open.c && f.n >= open.n && bare && indent < 4)
                open.n = 0;
        }
        after_blank = blank && nl;
        after_pipe = !blank && (after_pipe || memchr(line, '|', len)); /* until a blank line */
        off += len + (nl ? 1 : 0);
    }
    return stable;
}

struct markdown *markdown_new(void)
{
    return mem_calloc(1, sizeof(struct markdown));
}

void markdown_free(struct markdown *m)
{
    if (!m)
        return;
    str_fini(&m->source);
    rich_fini(&m->lines);
    free(m);
}

const struct rich *markdown_lines(const struct markdown *m)
{
    return &m->lines;
}

void markdown_set(struct markdown *m, const char *text, size_t n, int width, int n_code_before,
                  bool streaming)
{
    if (n > SOURCE_MAX)
        n = utf8_complete(text, SOURCE_MAX);
    bool same_frame = m->rendered && m->width == width && m->n_code_before == n_code_before;
    bool extends = same_frame && m->streaming && n >= m->source.len &&
                   (m->source.len == 0 || memcmp(text, m->source.data, m->source.len) == 0);
    if (same_frame && m->streaming == streaming && n == m->source.len &&
        (n == 0 || memcmp(text, m->source.data, n) == 0))
        return;
    if (!extends || !streaming) {
        m->stable = 0;
        m->stable_pos = 0;
        memset(&m->stable_mark, 0, sizeof m->stable_mark);
    }
    str_clear(&m->source);
    str_add(&m->source, text, n);
    m->width = width;
    m->n_code_before = n_code_before;
    m->streaming = streaming;
    m->rendered = true;
    const char *s = str_c(&m->source);
    rich_cut(&m->lines, &m->stable_mark);
    if (streaming) {
        size_t stable = m->stable + markdown_stable(s + m->stable, n - m->stable);
        if (stable > m->stable) {
            m->stable_pos = render(&m->lines, s + m->stable, stable - m->stable, width,
                                   n_code_before, m->stable_pos);
            m->stable = stable;
            m->stable_mark = m->lines;
        }
    }
    render(&m->lines, s + m->stable, n - m->stable, width, n_code_before, m->stable_pos);
}
