/* Styled lines: text already broken to a width, each line a row of runs with role and attributes.
 * What markdown.h produces and view_chat draws. Append only, but for rich_cut. The text is clean:
 * control bytes are stripped by whoever fills it (markdown.c, rich_plain). Plain data, one thread.
 */
#ifndef UI_RICH_H
#define UI_RICH_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"
#include "ui/cells.h"

struct rich_run {
    uint32_t off, len; /* in text */
    uint8_t role, attr;
};

struct rich_line {
    uint32_t run, n_run;
    uint32_t pos; /* content bytes before this line: the same at every width, for scroll anchors */
    uint8_t back; /* role whose background fills the line from fill_col on; ROLE_TEXT = none */
    uint8_t fill_col;
    uint8_t join; /* enum rich_join: how the line goes on from the one before, for copying */
};
enum rich_join { RICH_NEW, RICH_SPACE, RICH_TIGHT };

struct rich_code {
    size_t off, len; /* in code: a code block as it was written, for copying */
};

struct rich {
    struct str text, code;
    struct rich_run *runs;
    struct rich_line *lines;
    struct rich_code *codes;
    uint32_t n_run, cap_run, n_line, cap_line, n_code, cap_code;
};

void rich_fini(struct rich *r); /* leaves an empty struct */
void rich_clear(struct rich *r);
/* Forgets everything after what `mark` (an earlier copy of *r) held. */
void rich_cut(struct rich *r, const struct rich *mark);

void rich_begin(struct rich *r, uint8_t back, uint8_t fill_col, uint32_t pos); /* starts a line */
void rich_add(struct rich *r, const char *s, size_t n, uint8_t role, uint8_t attr);
/* The line just begun goes on from the one before, with `gap` left out between them. */
void rich_continue(struct rich *r, const char *gap, size_t n);
void rich_code(struct rich *r, const char *s, size_t n);
/* Wraps plain text (cleaned here) in one role; `pos` counts from *pos and is advanced. */
void rich_plain(struct rich *r, const char *s, size_t n, int width, uint8_t role, uint8_t back,
                uint32_t *pos);

/* Appends columns [col0, col1) of line i, without the frames of code blocks. */
void rich_text(const struct rich *r, uint32_t i, int col0, int col1, struct str *out);
/* Draws line i at (x, y), w columns wide, clipped. `back` shows where the line has none. */
void rich_draw(const struct rich *r, uint32_t i, struct cells *c, struct rect clip, int x, int y,
               int w, uint8_t back);

#endif
