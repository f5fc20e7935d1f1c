#include "engine/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/str.h"

json_t *json_number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *json_count(int64_t x)
{
    return x < 0 ? json_null() : json_integer(x);
}

json_t *json_text(const char *s, size_t len)
{
    struct str clean = {0};
    str_add_utf8(&clean, s, len);
    json_t *j = json_stringn(str_c(&clean), clean.len);
    str_fini(&clean);
    return j ? j : json_string("");
}

json_t *json_cstr(const char *s)
{
    return s ? json_text(s, strlen(s)) : json_null();
}

void json_puts(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p == 0x7f)
            fputs("\\u007F", stdout);
        else if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
            printf("\\u%04X", *++p);
        else
            putchar(*p);
    }
    putchar('\n');
}

void json_print(json_t *j)
{
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(7));
    json_puts(text ? text : "null");
    free(text);
    json_decref(j);
}
