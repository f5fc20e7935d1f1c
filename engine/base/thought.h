/* An answer may begin with its thoughts: <think>...</think> (engine/answer.h writes every model's so).
 * The one place that tells them from the answer proper. */
#ifndef ENGINE_BASE_THOUGHT_H
#define ENGINE_BASE_THOUGHT_H

#include <stdbool.h>
#include <stddef.h>

struct str;

struct thought {
    bool any, open;  /* it begins with thoughts; they have not ended */
    size_t off, len; /* of them, without the marks and the blanks around */
    size_t rest;     /* where the answer begins */
};

/* growing: more may follow, so that what may be the beginning of a mark is neither thought nor
 * answer yet. What was one of them stays it as the text grows. */
void thought_split(const char *s, size_t n, bool growing, struct thought *ret);

/* Appends the answer for people to read as Markdown: its thoughts, if any, as a quotation under a
 * line "Thoughts". */
void thought_quote(const char *s, size_t n, struct str *out);

#endif
