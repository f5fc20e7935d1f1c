/* Growable byte buffer. Always NUL-terminated when data is not NULL; may hold any bytes. */
#ifndef ENGINE_BASE_STR_H
#define ENGINE_BASE_STR_H

#include <stddef.h>

struct str {
    char *data; /* NULL while empty and never grown */
    size_t len, cap;
};

void str_fini(struct str *s);                              /* frees; leaves an empty str */
void str_clear(struct str *s);                             /* keeps the memory */
void str_add(struct str *s, const char *data, size_t n);
void str_adds(struct str *s, const char *cstr);
void str_add_utf8(struct str *s, const char *data, size_t n); /* U+FFFD for each byte that is none */
void str_addc(struct str *s, char c);
void str_addf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_cut(struct str *s, size_t off, size_t n);         /* removes n bytes at off */
void str_insert(struct str *s, size_t off, const char *data, size_t n);
char *str_take(struct str *s);                             /* transfers; never NULL; s is empty */
const char *str_c(const struct str *s);                    /* never NULL */

#endif
