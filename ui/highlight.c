/* Code colours; see highlight.h. */
#include "ui/highlight.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "ui/theme.h"

enum { PLAIN, CURLY, HASH, DASH, LISP };
enum { NOTHING, COMMENT, TRIPLE_SINGLE, TRIPLE_DOUBLE };

void highlight_start(struct highlight *h, const char *language, size_t n)
{
    static const struct {
        const char *name;
        int family;
    } table[] = {
        {"c", CURLY},          {"h", CURLY},     {"cpp", CURLY},     {"c++", CURLY},
        {"cc", CURLY},         {"cuda", CURLY},  {"java", CURLY},    {"js", CURLY},
        {"javascript", CURLY}, {"jsx", CURLY},   {"ts", CURLY},      {"tsx", CURLY},
        {"typescript", CURLY}, {"go", CURLY},    {"rust", CURLY},    {"rs", CURLY},
        {"csharp", CURLY},     {"cs", CURLY},    {"kotlin", CURLY},  {"swift", CURLY},
        {"php", CURLY},        {"scala", CURLY}, {"zig", CURLY},     {"dart", CURLY},
        {"json", CURLY},       {"css", CURLY},   {"python", HASH},   {"py", HASH},
        {"sh", HASH},          {"bash", HASH},   {"zsh", HASH},      {"shell", HASH},
        {"fish", HASH},        {"ruby", HASH},   {"rb", HASH},       {"perl", HASH},
        {"r", HASH},           {"yaml", HASH},   {"yml", HASH},      {"toml", HASH},
        {"ini", HASH},         {"make", HASH},   {"makefile", HASH}, {"dockerfile", HASH},
        {"cmake", HASH},       {"meson", HASH},  {"awk", HASH},      {"julia", HASH},
        {"sql", DASH},         {"lua", DASH},    {"haskell", DASH},  {"hs", DASH},
        {"ada", DASH},         {"lisp", LISP},   {"scheme", LISP},   {"clojure", LISP},
        {"asm", LISP},
    };
    h->family = PLAIN;
    h->inside = NOTHING;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strlen(table[i].name) == n && strncasecmp(table[i].name, language, n) == 0)
            h->family = table[i].family;
}

static bool is_keyword(const char *s, size_t n, int family)
{
    /* One list for all: a word that is a keyword in one of them is rarely a name in another. */
    static const char words[] =
        " and as assert async await auto begin bool break case catch char class const continue def"
        " default defer del delete do double elif else elsif end enum except export extern false"
        " final finally float fn for foreach from func function global goto if impl import in"
        " include inline int interface is lambda let local long loop match mod module mut namespace"
        " new nil none None not null nullptr operator or override package pass private protected "
        "pub"
        " public raise ref repeat return self short signed sizeof static struct super switch "
        "template"
        " then this throw trait true True False try type typedef typename union unless unsafe "
        "unsigned"
        " until use using var virtual void volatile when where while with yield fi esac done"
        " uint8_t int8_t uint16_t int16_t uint32_t int32_t uint64_t int64_t size_t string ";
    static const char sql[] =
        " select from where insert into values update set delete create table index drop alter add"
        " primary key foreign references join left right inner outer on group by order having limit"
        " offset union all distinct as and or not null is in exists between like case when then "
        "else"
        " end begin commit rollback transaction default unique integer text real blob varchar "
        "with ";
    char word[32];
    if (n + 3 > sizeof word)
        return false;
    word[0] = ' ';
    memcpy(word + 1, s, n);
    word[n + 1] = ' ';
    word[n + 2] = '\0';
    return strstr(words, word) || (family == DASH && strcasestr(sql, word));
}

static bool is_name(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c >= 0x80;
}

static size_t find(const char *s, size_t n, const char *what, size_t len)
{
    const char *p = memmem(s, n, what, len);
    return p ? (size_t)(p - s) + len : 0;
}

/* The rest of a comment or string that started on an earlier line. */
static size_t go_on(struct highlight *h, const char *s, size_t n, uint8_t *ret_role)
{
    const char *end = h->inside == COMMENT ? "*/" : h->inside == TRIPLE_SINGLE ? "'''" : "\"\"\"";
    *ret_role = h->inside == COMMENT ? ROLE_CODE_COMMENT : ROLE_CODE_STRING;
    size_t len = find(s, n, end, strlen(end));
    if (len == 0)
        return n;
    h->inside = NOTHING;
    return len;
}

static bool starts_comment(int family, const char *s, size_t n)
{
    if (family == CURLY)
        return n > 1 && s[0] == '/' && s[1] == '/';
    if (family == HASH)
        return s[0] == '#';
    if (family == DASH)
        return n > 1 && s[0] == '-' && s[1] == '-';
    return s[0] == ';';
}

size_t highlight_next(struct highlight *h, const char *s, size_t n, uint8_t *ret_role)
{
    *ret_role = ROLE_CODE;
    if (h->family == PLAIN)
        return n;
    if (h->inside)
        return go_on(h, s, n, ret_role);
    if (starts_comment(h->family, s, n)) {
        *ret_role = ROLE_CODE_COMMENT;
        return n;
    }
    if (h->family == CURLY && n > 1 && s[0] == '/' && s[1] == '*') {
        h->inside = COMMENT;
        *ret_role = ROLE_CODE_COMMENT;
        size_t rest = n > 2 ? go_on(h, s + 2, n - 2, ret_role) : 0;
        return 2 + rest;
    }
    if (h->family == HASH && n >= 3 && (memcmp(s, "\"\"\"", 3) == 0 || memcmp(s, "'''", 3) == 0)) {
        h->inside = s[0] == '"' ? TRIPLE_DOUBLE : TRIPLE_SINGLE;
        *ret_role = ROLE_CODE_STRING;
        return 3 + (n > 3 ? go_on(h, s + 3, n - 3, ret_role) : 0);
    }
    if (s[0] == '"' || (s[0] == '\'' && h->family != LISP) || (s[0] == '`' && h->family == CURLY)) {
        size_t i = 1;
        while (i < n && s[i] != s[0])
            i += s[i] == '\\' && i + 1 < n ? 2 : 1;
        if (i < n) { /* an apostrophe without its twin is just that */
            *ret_role = ROLE_CODE_STRING;
            return i + 1;
        }
        return 1;
    }
    size_t i = 0;
    if (is_name((unsigned char)s[0])) {
        while (i < n && is_name((unsigned char)s[i]))
            i++;
        if (is_keyword(s, i, h->family))
            *ret_role = ROLE_CODE_KEYWORD;
        return i;
    }
    while (i < n && !is_name((unsigned char)s[i]) && !strchr("\"'`/#-;", s[i]))
        i++;
    return i > 0 ? i : 1;
}
