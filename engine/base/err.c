#include "engine/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* File names and model metadata end up in error texts: no control byte may reach a terminal. */
static void strip_controls(char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20 || c == 0x7f)
            *s = '?';
    }
}

enum status err_set(struct err *e, enum status code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    strip_controls(e->text);
    e->code = code;
    return code;
}

enum status err_prefix(struct err *e, const char *fmt, ...)
{
    char rest[sizeof e->text];
    memcpy(rest, e->text, sizeof rest);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof e->text)
        snprintf(e->text + n, sizeof e->text - (size_t)n, ": %s", rest);
    strip_controls(e->text);
    return e->code;
}

const char *err_size_text(uint64_t size_bytes, char buf[32])
{
    if (size_bytes >= (uint64_t)1 << 30)
        snprintf(buf, 32, "%.1f GiB", (double)size_bytes / (1 << 30));
    else if (size_bytes >= (uint64_t)1 << 20)
        snprintf(buf, 32, "%.0f MiB", (double)size_bytes / (1 << 20));
    else if (size_bytes >= (uint64_t)1 << 10)
        snprintf(buf, 32, "%.0f KiB", (double)size_bytes / (1 << 10));
    else
        snprintf(buf, 32, "%d B", (int)size_bytes);
    return buf;
}
