#include "engine/detok.h"

#include <string.h>

#include "engine/base/utf8.h"

void detok_init(struct detok *d, const struct tokenizer *t, bool special, bool start)
{
    *d = (struct detok){.tokenizer = t, .special = special, .start = start};
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
        str_add_utf8(out, bytes.data, n);
    d->n_held = (int)(bytes.len - n);
    if (d->n_held)
        memcpy(d->held, bytes.data + n, (size_t)d->n_held);
    str_fini(&bytes);
}

void detok_flush(struct detok *d, struct str *out)
{
    if (d->n_held)
        str_add_utf8(out, d->held, (size_t)d->n_held);
    d->n_held = 0;
}
