/* Text as a terminal sees it: grapheme clusters, their width in columns, line breaking, and the
 * stripping of everything that could steer a terminal. Knows nothing of cells or colours.
 *
 * All functions take UTF-8 slices, accept any bytes and never read past the end; no state, any
 * thread. Segmentation follows UAX #29 (utf8proc); widths are East Asian Width with our own rules
 * for clusters: VS16 and keycaps make an emoji wide, a pair of regional indicators and a ZWJ
 * sequence are one wide glyph, ambiguous width is narrow. */
#ifndef UI_TEXT_H
#define UI_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/str.h"

/* Bytes of the grapheme cluster at s (n > 0) and its width in columns: 0 for control and format
 * characters (nothing is drawn), 1 or 2 else. An invalid byte is a cluster of width 1. */
size_t text_next(const char *s, size_t n, int *ret_width);
/* Bytes of the cluster that ends at s + off, 0 when off is 0. Scans at most from the last line
 * break before off. */
size_t text_prev(const char *s, size_t off);
/* Nearest cluster boundary at or before off (0..n). */
size_t text_snap(const char *s, size_t n, size_t off);

/* Columns of s; a tab counts up to the next multiple of TEXT_TAB, line breaks count nothing. */
int text_width(const char *s, size_t n);
enum { TEXT_TAB = 4 };

/* Bytes of the longest prefix of whole clusters that fits into `width` columns. */
size_t text_fit(const char *s, size_t n, int width, int *ret_cols);

/* One line of at most `width` columns: returns the bytes it shows (at least one cluster, unless s
 * starts with a line break) and in *ret_next the offset where the next line starts. Breaks at
 * spaces, after hyphens and between wide characters, inside a word only when it is longer than the
 * line. Spaces at a break belong to neither line, except with keep_space, when they stay at the
 * end of the line even if they stick out (so that every byte has a place: for editing). */
size_t text_wrap(const char *s, size_t n, int width, bool keep_space, size_t *ret_next);

/* Appends s without anything that acts on a terminal: escape sequences are removed whole, other
 * control characters and bidirectional overrides dropped, CR LF and CR become LF, tabs and line
 * feeds stay, invalid bytes become U+FFFD. */
void text_clean(struct str *out, const char *s, size_t n);
/* The same on one line: line breaks and tabs become single spaces. */
void text_clean_line(struct str *out, const char *s, size_t n);

/* Appends s cut to `width` columns, with an ellipsis when something is missing; a number in parentheses at the
 * end stays: "A long… (2)". */
void text_ellipsis(struct str *out, const char *s, size_t n, int width);

#endif
