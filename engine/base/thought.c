#include "engine/base/thought.h"

#include <string.h>

#include "engine/base/str.h"

static const char begin_mark[] = "<think>", end_mark[] = "</think>";
enum { BEGIN_LEN = sizeof begin_mark - 1, END_LEN = sizeof end_mark - 1 };

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static size_t skip_blanks(const char *s, size_t n, size_t at)
{
    while (at < n && is_blank(s[at]))
        at++;
    return at;
}

static const char *find_end(const char *s, size_t n)
{
    for (const char *p = s; n >= END_LEN && (p = memchr(p, '<', n - (size_t)(p - s))); p++)
        if (n - (size_t)(p - s) >= END_LEN && memcmp(p, end_mark, END_LEN) == 0)
            return p;
    return NULL;
}

/* How many of the last bytes may become the end mark. */
static size_t begun_end(const char *s, size_t n)
{
    for (size_t k = n < END_LEN ? n : END_LEN - 1; k > 0; k--)
        if (memcmp(s + n - k, end_mark, k) == 0)
            return k;
    return 0;
}

void thought_split(const char *s, size_t n, bool growing, struct thought *ret)
{
    size_t at = skip_blanks(s, n, 0), left = n - at;
    *ret = (struct thought){0};
    if (growing && left < BEGIN_LEN && memcmp(s + at, begin_mark, left) == 0)
        ret->rest = n;
    if (left < BEGIN_LEN || memcmp(s + at, begin_mark, BEGIN_LEN) != 0)
        return;
    at += BEGIN_LEN;
    const char *end = find_end(s + at, n - at);
    size_t stop = end ? (size_t)(end - s) : n - (growing ? begun_end(s + at, n - at) : 0);
    ret->any = true;
    ret->open = !end;
    ret->rest = end ? skip_blanks(s, n, stop + END_LEN) : n;
    ret->off = skip_blanks(s, stop, at);
    while (stop > ret->off && is_blank(s[stop - 1]))
        stop--;
    ret->len = stop - ret->off;
}

void thought_quote(const char *s, size_t n, struct str *out)
{
    struct thought t;
    thought_split(s, n, false, &t);
    if (t.any && t.len > 0) {
        str_adds(out, "Thoughts\n\n> ");
        for (size_t i = t.off; i < t.off + t.len; i++) {
            str_addc(out, s[i]);
            if (s[i] == '\n')
                str_adds(out, i + 1 < n && s[i + 1] == '\n' ? ">" : "> ");
        }
        str_adds(out, t.rest < n ? "\n\n" : "\n");
    }
    str_add(out, s + t.rest, n - t.rest);
}
