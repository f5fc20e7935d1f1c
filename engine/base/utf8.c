#include "engine/base/utf8.h"

/* Bytes that the lead byte announces; 0 for bytes that cannot lead. */
static int announced(unsigned char c)
{
    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        return 2;
    if (c >= 0xe0 && c <= 0xef)
        return 3;
    if (c >= 0xf0 && c <= 0xf4)
        return 4;
    return 0;
}

/* Whether byte i (1..3) may follow in a sequence led by `lead`: the second byte is narrower for
 * some leads, which is what excludes overlong forms, surrogates and values past U+10FFFF. */
static bool may_follow(unsigned char lead, int i, unsigned char c)
{
    unsigned char lo = 0x80, hi = 0xbf;
    if (i == 1) {
        if (lead == 0xe0)
            lo = 0xa0;
        else if (lead == 0xed)
            hi = 0x9f;
        else if (lead == 0xf0)
            lo = 0x90;
        else if (lead == 0xf4)
            hi = 0x8f;
    }
    return c >= lo && c <= hi;
}

int utf8_decode(const char *s, size_t n, uint32_t *ret_cp)
{
    unsigned char lead = (unsigned char)s[0];
    int len = announced(lead);
    *ret_cp = 0xfffd;
    if (len == 0 || (size_t)len > n)
        return 1;
    if (len == 1) {
        *ret_cp = lead;
        return 1;
    }
    uint32_t cp = lead & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (!may_follow(lead, i, c))
            return 1;
        cp = cp << 6 | (c & 0x3f);
    }
    *ret_cp = cp;
    return len;
}

int utf8_encode(uint32_t cp, char out[4])
{
    if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
        cp = 0xfffd;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t utf8_valid_len(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (cp == 0xfffd && !(len == 3 && (unsigned char)s[i] == 0xef))
            break;
        i += (size_t)len;
    }
    return i;
}

bool utf8_valid(const char *s, size_t n)
{
    return utf8_valid_len(s, n) == n;
}

size_t utf8_complete(const char *s, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        int len = announced(c);
        if (len == 0 && c >= 0x80 && c <= 0xbf)
            continue; /* a continuation byte: look further back for its lead */
        if (len <= (int)back)
            return n;
        for (size_t i = 1; i < back; i++)
            if (!may_follow(c, (int)i, (unsigned char)s[n - back + i]))
                return n;
        return n - back;
    }
    return n;
}
