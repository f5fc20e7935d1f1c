/* Styled lines; see rich.h. */
#include "ui/rich.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "ui/text.h"
#include "ui/theme.h"

void rich_fini(struct rich *r)
{
    str_fini(&r->text);
    str_fini(&r->code);
    free(r->runs);
    free(r->lines);
    free(r->codes);
    memset(r, 0, sizeof *r);
}

void rich_clear(struct rich *r)
{
    str_clear(&r->text);
    str_clear(&r->code);
    r->n_run = r->n_line = r->n_code = 0;
}

void rich_cut(struct rich *r, const struct rich *mark)
{
    str_cut(&r->text, mark->text.len, r->text.len - mark->text.len);
    str_cut(&r->code, mark->code.len, r->code.len - mark->code.len);
    r->n_run = mark->n_run;
    r->n_line = mark->n_line;
    r->n_code = mark->n_code;
}

static void *grow(void *list, uint32_t n, uint32_t *cap, size_t size_bytes)
{
    if (n < *cap)
        return list;
    *cap = *cap ? *cap * 2 : 32;
    return mem_realloc(list, *cap * size_bytes);
}

void rich_begin(struct rich *r, uint8_t back, uint8_t fill_col, uint32_t pos)
{
    r->lines = grow(r->lines, r->n_line, &r->cap_line, sizeof *r->lines);
    r->lines[r->n_line++] =
        (struct rich_line){.run = r->n_run, .pos = pos, .back = back, .fill_col = fill_col};
}

void rich_add(struct rich *r, const char *s, size_t n, uint8_t role, uint8_t attr)
{
    if (n == 0 || r->n_line == 0)
        return;
    struct rich_line *line = &r->lines[r->n_line - 1];
    if (line->n_run > 0) {
        struct rich_run *last = &r->runs[r->n_run - 1];
        if (last->role == role && last->attr == attr) {
            str_add(&r->text, s, n);
            last->len += (uint32_t)n;
            return;
        }
    }
    r->runs = grow(r->runs, r->n_run, &r->cap_run, sizeof *r->runs);
    r->runs[r->n_run++] = (struct rich_run){(uint32_t)r->text.len, (uint32_t)n, role, attr};
    line->n_run++;
    str_add(&r->text, s, n);
}

void rich_continue(struct rich *r, const char *gap, size_t n)
{
    if (r->n_line > 0 && !memchr(gap, '\n', n))
        r->lines[r->n_line - 1].join = n > 0 ? RICH_SPACE : RICH_TIGHT;
}

void rich_text(const struct rich *r, uint32_t i, int col0, int col1, struct str *out)
{
    const struct rich_line *line = &r->lines[i];
    int col = 0;
    for (uint32_t k = 0; k < line->n_run; k++) {
        const struct rich_run *run = &r->runs[line->run + k];
        const char *s = r->text.data + run->off;
        for (size_t off = 0; off < run->len;) {
            int w;
            size_t n = text_next(s + off, run->len - off, &w);
            if (col >= col0 && col < col1 && run->role != ROLE_CODE_BORDER)
                str_add(out, s + off, n);
            col += w;
            off += n;
        }
    }
}

void rich_code(struct rich *r, const char *s, size_t n)
{
    r->codes = grow(r->codes, r->n_code, &r->cap_code, sizeof *r->codes);
    r->codes[r->n_code++] = (struct rich_code){r->code.len, n};
    str_add(&r->code, s, n);
}

void rich_plain(struct rich *r, const char *s, size_t n, int width, uint8_t role, uint8_t back,
                uint32_t *pos)
{
    struct str clean = {0};
    text_clean(&clean, s, n);
    size_t off = 0, end = 0; /* end: of the line before */
    do {
        size_t next, len = text_wrap(str_c(&clean) + off, clean.len - off, width, false, &next);
        rich_begin(r, back, 0, *pos + (uint32_t)off);
        if (off > 0)
            rich_continue(r, str_c(&clean) + end, off - end);
        end = off + len;
        rich_add(r, str_c(&clean) + off, len, role, 0);
        off += next;
    } while (off < clean.len);
    *pos += (uint32_t)clean.len;
    str_fini(&clean);
}

void rich_draw(const struct rich *r, uint32_t i, struct cells *c, struct rect clip, int x, int y,
               int w, uint8_t back)
{
    const struct rich_line *line = &r->lines[i];
    uint8_t under = line->back ? line->back : back;
    if (line->back && w > line->fill_col)
        cells_fill(c, rect_cross(clip, (struct rect){x + line->fill_col, y, w - line->fill_col, 1}),
                   " ", line->back, line->back);
    for (uint32_t k = 0; k < line->n_run; k++) {
        const struct rich_run *run = &r->runs[line->run + k];
        x += cells_put(c, clip, x, y, r->text.data + run->off, run->len, run->role, under,
                       run->attr);
    }
}
