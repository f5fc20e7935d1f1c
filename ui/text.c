/* Segmentation, widths, wrapping and cleaning; see text.h. */
#include "ui/text.h"

#include <string.h>
#include <utf8proc.h>

#include "engine/base/utf8.h"

static bool is_control(uint32_t cp)
{
    return cp < 0x20 || (cp >= 0x7F && cp < 0xA0);
}

/* Characters that reorder or hide what follows: a model could use them to fake what is shown. */
static bool is_steering(uint32_t cp)
{
    return (cp >= 0x202A && cp <= 0x202E) || (cp >= 0x2066 && cp <= 0x2069) || cp == 0x200E ||
           cp == 0x200F || cp == 0x061C || cp == 0x2028 || cp == 0x2029 || cp == 0xFEFF;
}

static bool is_regional(uint32_t cp)
{
    return cp >= 0x1F1E6 && cp <= 0x1F1FF;
}

static bool is_pictograph(uint32_t cp)
{
    const utf8proc_property_t *p = utf8proc_get_property((utf8proc_int32_t)cp);
    return p->boundclass == UTF8PROC_BOUNDCLASS_EXTENDED_PICTOGRAPHIC;
}

static int cp_width(uint32_t cp)
{
    if (is_control(cp) || is_steering(cp))
        return 0;
    if (is_regional(cp))
        return 1;
    return utf8proc_charwidth((utf8proc_int32_t)cp);
}

size_t text_next(const char *s, size_t n, int *ret_width)
{
    unsigned char c = (unsigned char)s[0];
    if (c < 0x80 && (n == 1 || (unsigned char)s[1] < 0x80)) {
        *ret_width = c >= 0x20 && c != 0x7F;
        return 1;
    }
    uint32_t base, cp;
    size_t off = (size_t)utf8_decode(s, n, &base);
    int width = cp_width(base), n_regional = is_regional(base);
    utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)base);
    if (width == 0 &&
        (cat == UTF8PROC_CATEGORY_MN || cat == UTF8PROC_CATEGORY_ME || cat == UTF8PROC_CATEGORY_MC))
        width = 1; /* a mark without a base stands alone */
    utf8proc_int32_t state = 0;
    uint32_t last = base;
    while (off < n) {
        int len = utf8_decode(s + off, n - off, &cp);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)last, (utf8proc_int32_t)cp, &state))
            break;
        off += (size_t)len;
        last = cp;
        if (is_regional(cp) && ++n_regional == 2)
            width = 2;
        else if (cp == 0xFE0F && (is_pictograph(base) || (base < 0x80 && base >= 0x20)))
            width = base < 0x80 ? width : 2;
        else if (cp == 0x20E3 && base < 0x80)
            width = 2;
        else if (utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_MC)
            width = 2; /* spacing vowel signs have a column of their own */
        else if (width > 0 && cp_width(cp) > width)
            width = cp_width(cp);
    }
    *ret_width = width > 2 ? 2 : width;
    return off;
}

size_t text_prev(const char *s, size_t off)
{
    if (off == 0)
        return 0;
    /* Clusters never span a line feed, so the scan can start after the last one. */
    size_t at = off - 1;
    while (at > 0 && s[at - 1] != '\n')
        at--;
    size_t last = at;
    while (at < off) {
        int width;
        last = at;
        at += text_next(s + at, off - at, &width);
    }
    return off - last;
}

size_t text_snap(const char *s, size_t n, size_t off)
{
    if (off >= n)
        return n;
    size_t at = off;
    while (at > 0 && s[at - 1] != '\n')
        at--;
    while (at < off) {
        int width;
        size_t len = text_next(s + at, n - at, &width);
        if (at + len > off)
            break;
        at += len;
    }
    return at;
}

static int tab_columns(int col)
{
    return TEXT_TAB - col % TEXT_TAB;
}

int text_width(const char *s, size_t n)
{
    int cols = 0;
    for (size_t off = 0; off < n;) {
        int width;
        size_t len = text_next(s + off, n - off, &width);
        cols += s[off] == '\t' ? tab_columns(cols) : width;
        off += len;
    }
    return cols;
}

size_t text_fit(const char *s, size_t n, int width, int *ret_cols)
{
    int cols = 0;
    size_t off = 0;
    while (off < n) {
        int w;
        size_t len = text_next(s + off, n - off, &w);
        if (s[off] == '\t')
            w = tab_columns(cols);
        if (cols + w > width)
            break;
        cols += w;
        off += len;
    }
    if (ret_cols)
        *ret_cols = cols;
    return off;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

size_t text_wrap(const char *s, size_t n, int width, bool keep_space, size_t *ret_next)
{
    size_t off = 0, fit_end = 0, fit_next = 0; /* last place where the line may end */
    int cols = 0;
    bool have_fit = false, word_seen = false, last_wide = false;
    if (width < 1)
        width = 1;
    while (off < n && s[off] != '\n') {
        int w;
        size_t len = text_next(s + off, n - off, &w);
        if (is_space(s[off])) {
            size_t end = off;
            while (off < n && is_space(s[off])) {
                cols += s[off] == '\t' ? tab_columns(cols) : 1;
                off++;
            }
            if (word_seen || keep_space) { /* leading indentation alone is no place to break */
                have_fit = true;
                fit_end = keep_space ? off : end;
                fit_next = off;
            }
            last_wide = false;
            if (cols > width && have_fit)
                break;
            continue;
        }
        if ((w == 2 || last_wide) && off > 0 && word_seen && !is_space(s[off - 1])) {
            have_fit = true;
            fit_end = fit_next = off;
        }
        if (cols + w > width && off > 0) {
            if (!have_fit || fit_end == 0)
                fit_end = fit_next = off;
            *ret_next = fit_next;
            return fit_end;
        }
        cols += w;
        off += len;
        word_seen = true;
        last_wide = w == 2;
        if (s[off - 1] == '-' && off < n && !is_space(s[off]) && len == 1 && off > 1 &&
            !is_space(s[off - 2])) {
            have_fit = true;
            fit_end = fit_next = off;
        }
    }
    if (off < n && s[off] == '\n') {
        *ret_next = off + 1;
        return off;
    }
    if (off < n || (cols > width && have_fit && fit_end > 0)) { /* spaces ran over the edge */
        *ret_next = fit_next;
        return fit_end;
    }
    *ret_next = n;
    return n;
}

/* Bytes of the escape sequence at s (s[0] is ESC, or the C1 forms have been decoded by the
 * caller): CSI, OSC/DCS/APC/PM/SOS strings up to BEL or ST, two-byte escapes. */
static size_t escape_len(const char *s, size_t n)
{
    if (n < 2)
        return 1;
    unsigned char c = (unsigned char)s[1];
    size_t i = 2;
    if (c == '[') {
        while (i < n && (unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x40)
            i++;
        return i < n && (unsigned char)s[i] >= 0x40 && (unsigned char)s[i] < 0x7F ? i + 1 : i;
    }
    if (c == ']' || c == 'P' || c == '_' || c == '^' || c == 'X') {
        /* An unterminated string must not swallow the rest of the message: it ends with the line.
         */
        while (i < n && s[i] != '\a' && s[i] != '\n' && s[i] != 0x1B)
            i++;
        if (i < n && s[i] == '\a')
            return i + 1;
        if (i + 1 < n && s[i] == 0x1B && s[i + 1] == '\\')
            return i + 2;
        return i;
    }
    if (c >= 0x20 && c < 0x30) {
        while (i < n && (unsigned char)s[i] >= 0x20 && (unsigned char)s[i] < 0x30)
            i++;
        return i < n && (unsigned char)s[i] < 0x7F ? i + 1 : i;
    }
    return c >= 0x30 && c < 0x7F ? 2 : 1;
}

void text_clean(struct str *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t run = i;
        while (run < n && (((unsigned char)s[run] >= 0x20 && (unsigned char)s[run] < 0x7F) ||
                           s[run] == '\n' || s[run] == '\t'))
            run++;
        if (run > i) {
            str_add(out, s + i, run - i);
            i = run;
            continue;
        }
        if (s[i] == 0x1B) {
            i += escape_len(s + i, n - i);
            continue;
        }
        if (s[i] == '\r') {
            if (i + 1 >= n || s[i + 1] != '\n')
                str_addc(out, '\n');
            i++;
            continue;
        }
        uint32_t cp;
        int len = utf8_decode(s + i, n - i, &cp);
        if (!is_control(cp) && !is_steering(cp)) {
            char buf[4];
            str_add(out, buf, (size_t)utf8_encode(cp, buf));
        }
        i += (size_t)len;
    }
}

void text_clean_line(struct str *out, const char *s, size_t n)
{
    struct str tmp = {0};
    text_clean(&tmp, s, n);
    bool space = false;
    for (size_t i = 0; i < tmp.len; i++) {
        char c = tmp.data[i];
        if (c == '\n' || c == '\t' || c == ' ') {
            space = true;
            continue;
        }
        if (space && out->len > 0)
            str_addc(out, ' ');
        space = false;
        str_addc(out, c);
    }
    str_fini(&tmp);
}

/* Bytes of " (12)" at the end of s, by which titles that begin alike are told apart. */
static size_t number_at_end(const char *s, size_t n)
{
    size_t at = n && s[n - 1] == ')' ? n - 1 : 0;
    while (at > 0 && s[at - 1] >= '0' && s[at - 1] <= '9')
        at--;
    return at > 1 && at < n - 1 && s[at - 1] == '(' && s[at - 2] == ' ' ? n - at + 2 : 0;
}

void text_ellipsis(struct str *out, const char *s, size_t n, int width)
{
    if (width <= 0)
        return;
    if (text_width(s, n) <= width) {
        str_add(out, s, n);
        return;
    }
    size_t end = number_at_end(s, n);
    if ((int)end > width / 2)
        end = 0;
    size_t fit = text_fit(s, n - end, width - 1 - (int)end, NULL);
    while (fit > 0 && s[fit - 1] == ' ')
        fit--;
    str_add(out, s, fit);
    str_adds(out, "…");
    str_add(out, s + n - end, end);
}
