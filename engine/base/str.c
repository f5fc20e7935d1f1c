#include "engine/base/str.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

static void reserve(struct str *s, size_t extra)
{
    size_t need = s->len + extra + 1;
    if (need <= s->cap)
        return;
    size_t cap = s->cap ? s->cap : 32;
    while (cap < need)
        cap += cap / 2 + 16;
    s->data = mem_realloc(s->data, cap);
    s->cap = cap;
}

void str_fini(struct str *s)
{
    free(s->data);
    *s = (struct str){0};
}

void str_clear(struct str *s)
{
    s->len = 0;
    if (s->data)
        s->data[0] = 0;
}

void str_add(struct str *s, const char *data, size_t n)
{
    reserve(s, n);
    if (n)
        memcpy(s->data + s->len, data, n);
    s->len += n;
    s->data[s->len] = 0;
}

void str_adds(struct str *s, const char *cstr)
{
    str_add(s, cstr, strlen(cstr));
}

void str_add_utf8(struct str *s, const char *data, size_t n)
{
    for (;;) {
        size_t k = utf8_valid_len(data, n);
        str_add(s, data, k);
        if (k == n)
            return;
        str_adds(s, "\xef\xbf\xbd");
        data += k + 1;
        n -= k + 1;
    }
}

void str_addc(struct str *s, char c)
{
    str_add(s, &c, 1);
}

void str_addf(struct str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        reserve(s, (size_t)n);
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    }
    va_end(again);
}

void str_cut(struct str *s, size_t off, size_t n)
{
    if (off >= s->len)
        return;
    if (n > s->len - off)
        n = s->len - off;
    memmove(s->data + off, s->data + off + n, s->len - off - n + 1);
    s->len -= n;
}

void str_insert(struct str *s, size_t off, const char *data, size_t n)
{
    if (off > s->len)
        off = s->len;
    reserve(s, n);
    memmove(s->data + off + n, s->data + off, s->len - off);
    if (n)
        memcpy(s->data + off, data, n);
    s->len += n;
    s->data[s->len] = 0;
}

char *str_take(struct str *s)
{
    reserve(s, 0);
    s->data[s->len] = 0;
    char *p = s->data;
    *s = (struct str){0};
    return p;
}

const char *str_c(const struct str *s)
{
    return s->data ? s->data : "";
}
