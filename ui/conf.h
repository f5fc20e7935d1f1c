/* The line format of themes and key maps: `[section]`, `key = value`, comments after `#` at the
 * start of a line. One line at a time, nothing allocated but by conf_read. Any thread. */
#ifndef UI_CONF_H
#define UI_CONF_H

#include <stdbool.h>

#include "engine/base/err.h"

struct conf_line {
    int number; /* from 1 */
    char section[32];
    char key[64]; /* "" = the line has no `=` or is too long: an error for the caller to report */
    char value[192];
};

/* Next line that holds something. *at starts at the text, *number at 0 and `ret` zeroed (it carries
 * the section); false at the end. */
bool conf_next(const char **at, int *number, struct conf_line *ret);

/* A whole file of at most 256 KiB, NUL-terminated, malloc'ed. NUL bytes are refused. */
enum status conf_read(const char *path, char **ret, struct err *e);

#endif
