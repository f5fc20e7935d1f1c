/* Colours for code blocks: keywords, strings and comments of the common language families, by a
 * small scanner that knows no grammar. Unknown languages stay plain. */
#ifndef UI_HIGHLIGHT_H
#define UI_HIGHLIGHT_H

#include <stddef.h>
#include <stdint.h>

/* Scanner state between the lines of one block; zero to start. */
struct highlight {
    int family; /* chosen by highlight_start */
    int inside; /* block comment or multi-line string still open */
};

void highlight_start(struct highlight *h, const char *language, size_t n);
/* Length and role of the next piece of a line (n > 0). */
size_t highlight_next(struct highlight *h, const char *s, size_t n, uint8_t *ret_role);

#endif
