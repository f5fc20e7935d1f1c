/* UTF-8 decoding that never reads past the end and never accepts surrogates or overlong forms. */
#ifndef ENGINE_BASE_UTF8_H
#define ENGINE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point at s[0..n). Returns the bytes used (1..4) and sets *ret_cp; a byte that
 * starts no valid sequence returns 1 with *ret_cp = 0xFFFD. n must be > 0. */
int utf8_decode(const char *s, size_t n, uint32_t *ret_cp);

/* Writes cp as UTF-8 into out[4]; returns 1..4. Invalid cp is written as U+FFFD. */
int utf8_encode(uint32_t cp, char out[4]);

bool utf8_valid(const char *s, size_t n);
/* Where the first byte that is no UTF-8 stands; n when there is none. */
size_t utf8_valid_len(const char *s, size_t n);

/* Length of the longest prefix of s[0..n) that does not end inside a code point. Invalid bytes
 * count as complete; only a truncated but so far valid sequence at the end is held back. */
size_t utf8_complete(const char *s, size_t n);

#endif
