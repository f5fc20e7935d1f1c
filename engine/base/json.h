/* Small helpers over jansson: unknown values become null, text is UTF-8 whatever its bytes were. */
#ifndef ENGINE_BASE_JSON_H
#define ENGINE_BASE_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

json_t *json_number(double x);                   /* NAN = null */
json_t *json_count(int64_t x);                   /* negative = null */
json_t *json_text(const char *s, size_t len);    /* bytes that are no UTF-8 become U+FFFD */
json_t *json_cstr(const char *s);                /* NULL = null */
/* JSON text that is printed as is, but for control characters that a terminal may obey: escaped. */
void json_puts(const char *text);
void json_print(json_t *j);                      /* to stdout with a newline; drops the reference */

#endif
