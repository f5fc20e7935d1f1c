/* A suite of chats with questions whose answers are known: JSON lines, see assets/model/README.md.
 * Scoring: case, spaces and punctuation are normalised; an answer is right when it contains every
 * expected value as whole words and no rejected one. */
#ifndef APP_SUITE_H
#define APP_SUITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

struct suite_text {
    char *role, *text;
};

struct suite_turn {
    char *question;
    char **expect, **reject;
    int n_expect, n_reject;
};

struct suite_item {
    char *id, *task, *position, *wording;
    int32_t n_tok;              /* length class, tokens of the whole chat, roughly */
    struct suite_text *context; /* the chat so far */
    int n_context;
    struct suite_turn *turns;   /* asked one after the other, answers free-running */
    int n_turn;
};

struct suite {
    struct suite_item *items;
    int n_item;
};

/* Items longer than n_tok_max are left out (0 = all). */
enum status suite_load(const char *path, int32_t n_tok_max, struct suite *ret, struct err *e);
void suite_free(struct suite *s);
bool suite_right(const struct suite_turn *t, const char *answer, size_t len);

#endif
