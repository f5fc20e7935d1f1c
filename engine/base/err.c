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

char *err_size_text(uint64_t size_bytes, char buf[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)size_bytes;
    int u = 0;
    while (v >= 1024 && u < 5) {
        v /= 1024;
        u++;
    }
    snprintf(buf, 32,
             u == 0 || v >= 99.95 ? "%.0f %s"
             : v >= 9.995         ? "%.1f %s"
                                  : "%.2f %s",
             v, units[u]);
    return buf;
}

char *err_count_text(uint64_t n, char buf[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%llu", (unsigned long long)n), out = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            buf[out++] = ',';
        buf[out++] = digits[i];
    }
    buf[out] = '\0';
    return buf;
}
