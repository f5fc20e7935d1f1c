/* Exports into files: the format by the name's ending, private, never over a file that is there. */
#ifndef APP_EXPORT_H
#define APP_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/str.h"

struct sessions;

/* "json" or "dogear" when path ends so, else "md"; NULL is fine. */
const char *export_format(const char *path);
/* Appends ".md" to *name, or "-2.md" and so on where such a file is there already. */
void export_name(struct str *name);
/* Text into a new file of mode 0600; half of it is not left behind. */
enum status export_write(const char *path, const char *text, size_t len, struct err *e);
/* A conversation (0 = all, not as dogear) in one of the formats above into a new file. */
enum status export_file(struct sessions *s, int64_t id, const char *format, bool with_kv,
                        const char *path, struct err *e);

#endif
