#include "engine/detok.h"

#include <string.h>

#include "engine/base/utf8.h"

void detok_init(struct detok *d, const struct tokenizer *t, bool special, bool start)
{
    *d = (struct detok){.tokenizer = t, .special = special, .start = start};
}

/* Appends s[0..n), which ends at a code point's end, with U+FFFD for what is not UTF-8. */
static void add_valid(struct str *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t begin = i;
        uint32_t cp;
        int len = 1;
        while (i < n) {
            len = utf8_decode(s + i, n - i, &cp);
            if (len == 1 && (uint8_t)s[i] >= 0x80)
                break;
            i += (size_t)len;
        }
        str_add(out, s + begin, i - begin);
        if (i < n) {
            str_adds(out, "\xef\xbf\xbd");
            i++;
        }
    }
}

void detok_push(struct detok *d, int32_t id, struct str *out)
{
    struct str bytes = {0};
    str_add(&bytes, d->held, (size_t)d->n_held);
    size_t before = bytes.len;
    tokenizer_decode(d->tokenizer, &id, 1, d->special, d->start, &bytes);
    /* A control token in front of the text does not use up the dropped space. */
    if (bytes.len > before || !tokenizer_is_control(d->tokenizer, id))
        d->start = false;
    size_t n = utf8_complete(bytes.data ? bytes.data : "", bytes.len);
    if (n)
        add_valid(out, bytes.data, n);
    d->n_held = (int)(bytes.len - n);
    if (d->n_held)
        memcpy(d->held, bytes.data + n, (size_t)d->n_held);
    str_fini(&bytes);
}

void detok_flush(struct detok *d, struct str *out)
{
    if (d->n_held)
        add_valid(out, d->held, (size_t)d->n_held);
    d->n_held = 0;
}
