/* Line format of themes and key maps; see conf.h. */
#include "ui/conf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

enum { FILE_MAX = 256 * 1024 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static bool copy_trimmed(char *dst, size_t cap, const char *s, const char *end)
{
    while (s < end && is_blank(*s))
        s++;
    while (end > s && is_blank(end[-1]))
        end--;
    size_t n = (size_t)(end - s);
    if (n >= cap) {
        dst[0] = '\0';
        return false;
    }
    memcpy(dst, s, n);
    dst[n] = '\0';
    return true;
}

bool conf_next(const char **at, int *number, struct conf_line *ret)
{
    if (*number == 0)
        ret->section[0] = '\0';
    while (**at) {
        const char *s = *at, *end = strchr(s, '\n');
        if (!end)
            end = s + strlen(s);
        *at = *end ? end + 1 : end;
        ret->number = ++*number;
        while (s < end && is_blank(*s))
            s++;
        if (s == end || *s == '#')
            continue;
        const char *close = *s == '[' ? memchr(s, ']', (size_t)(end - s)) : NULL;
        if (close) {
            copy_trimmed(ret->section, sizeof ret->section, s + 1, close);
            continue;
        }
        /* The key itself may end in "=" (a key name); values never hold one. */
        const char *eq = end - s > 1 ? memrchr(s + 1, '=', (size_t)(end - s - 1)) : NULL;
        ret->key[0] = ret->value[0] = '\0';
        if (eq && copy_trimmed(ret->key, sizeof ret->key, s, eq) &&
            !copy_trimmed(ret->value, sizeof ret->value, eq + 1, end))
            ret->key[0] = '\0';
        return true;
    }
    return false;
}

enum status conf_read(const char *path, char **ret, struct err *e)
{
    FILE *f = fopen(path, "rbe");
    if (!f)
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open %s: %s", path,
                       strerror(errno));
    char *text = mem_alloc(FILE_MAX + 1);
    size_t n = fread(text, 1, FILE_MAX + 1, f);
    bool bad = ferror(f) != 0;
    fclose(f);
    if (bad || n > FILE_MAX || memchr(text, '\0', n)) {
        free(text);
        return err_set(e, bad ? ERR_IO : ERR_FORMAT, "%s: %s", path,
                       bad            ? "cannot be read"
                       : n > FILE_MAX ? "larger than 256 KiB"
                                      : "not a text");
    }
    text[n] = '\0';
    *ret = text;
    return OK;
}
