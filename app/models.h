/* Finding model files that people already have. Read-only: nothing is moved or written. */
#ifndef APP_MODELS_H
#define APP_MODELS_H

#include <stdint.h>

#include "engine/base/err.h"

struct models_entry {
    char *path;
    char *name;   /* what -m accepts besides the path */
    char *source; /* "huggingface", "llama.cpp", "lm-studio", "ollama", "jan", "dogear", "bundled" */
    int64_t size_bytes; /* of all parts of a split file */
};

/* Everything found in the known places, by source and name. */
void models_scan(struct models_entry **ret, int *ret_n);
void models_free(struct models_entry *entries, int n);

/* The file for -m: a path as it is; else the one model whose name contains `wanted` (several are an
 * error that lists them); NULL = the bundled model. *ret is malloc'ed. */
enum status models_find(const char *wanted, char **ret, struct err *e);

#endif
