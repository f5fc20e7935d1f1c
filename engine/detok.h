/* Streaming detokenizer: token ids in, whole code points out.
 *
 * Holds back at most 3 bytes that may be the beginning of a code point. What it emits is always
 * valid UTF-8: bytes that cannot become a code point are written as U+FFFD. Plain data in the
 * caller's storage, nothing to free; one thread at a time. */
#ifndef ENGINE_DETOK_H
#define ENGINE_DETOK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/str.h"
#include "engine/tokenizer.h"

struct detok {
    const struct tokenizer *tokenizer; /* borrowed */
    bool special;                      /* control tokens as their text; else left out */
    bool start;                        /* nothing written yet: SentencePiece's space is dropped */
    int n_held;
    char held[4];
};

/* start: the ids that follow begin a text of their own (an answer), so that the space that
 * SentencePiece writes before the first word is dropped. */
void detok_init(struct detok *d, const struct tokenizer *t, bool special, bool start);
/* Appends to *out what the token completes; may append nothing. */
void detok_push(struct detok *d, int32_t id, struct str *out);
/* The end of the text: bytes still held are written as U+FFFD. */
void detok_flush(struct detok *d, struct str *out);

#endif
