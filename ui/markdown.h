/* Markdown (md4c, GitHub's dialect without HTML) to styled lines of a given width.
 *
 * Made for text that grows: while a message streams, the lines of all blocks but the last ones are
 * kept and only the tail is parsed again; the result is the same as rendering everything at once
 * (reference links excepted: their targets may come later, so the final call renders all anew).
 * Model text is hostile: any bytes are safe, nothing that steers a terminal survives, nesting and
 * tables are bounded. Owns a copy of the source. One thread. */
#ifndef UI_MARKDOWN_H
#define UI_MARKDOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "ui/rich.h"

struct markdown;

struct markdown *markdown_new(void);
void markdown_free(struct markdown *m);
/* Brings the lines up to date; cheap when nothing changed. n_code_before: code blocks are numbered
 * from n_code_before + 1 (the numbers shown for copying run through the conversation). */
void markdown_set(struct markdown *m, const char *text, size_t n, int width, int n_code_before,
                  bool streaming);
const struct rich *markdown_lines(const struct markdown *m); /* borrowed until markdown_set */

/* Bytes of text[0..n) that later text can not change any more: everything before a blank line
 * that is followed by the start of a new top-level block. */
size_t markdown_stable(const char *text, size_t n);

#endif
