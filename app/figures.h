/* The figures of a chat as JSON and CSV: what /stats FILE writes and what is kept with each answer.
 * Unknown is null. */
#ifndef APP_FIGURES_H
#define APP_FIGURES_H

#include <stdint.h>

#include "engine/base/err.h"
#include "engine/stats.h"

struct sessions;

/* One JSON object on one line, with what verifying found of the answer's first n tokens; malloc'ed. */
char *figures_text(const struct stats *s, const struct stats_agree *agree, int32_t n);
/* Reads back what the history shows and what verifying found; what is not there is unknown. False
 * when it is no object. */
bool figures_parse(const char *text, struct stats *ret);
/* What verifying found of the answer's tokens: *ret_n of them, malloc'ed; NULL = nothing is kept. */
struct stats_agree *figures_agree(const char *text, int32_t *ret_n);
/* Writes the figures of now and of every turn of the open branch to a new file: CSV when the name
 * ends with .csv, else JSON. Never overwrites. */
enum status figures_write(struct sessions *store, int64_t conversation, const struct stats *now,
                          const char *path, struct err *e);

#endif
