/* Helpers of the text tests: files of the test data, and GGUF files made in memory for vocabularies
 * that no model has. */
#ifndef TESTS_ENGINE_VOCAB_H
#define TESTS_ENGINE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/str.h"
#include "engine/gguf.h"

/* Path of a file below $DOGEAR_DATA; false when the data is not there. */
static inline bool vocab_path(struct str *ret, const char *file)
{
    const char *dir = getenv("DOGEAR_DATA");
    str_clear(ret);
    str_addf(ret, "%s/%s", dir ? dir : "../shared/data", file);
    return access(ret->data, R_OK) == 0;
}

static inline bool vocab_read(struct str *ret, const char *file)
{
    struct str path = {0};
    FILE *f = vocab_path(&path, file) ? fopen(path.data, "rb") : NULL;
    str_fini(&path);
    if (!f)
        return false;
    str_clear(ret);
    char buf[1 << 16];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        str_add(ret, buf, n);
    fclose(f);
    return true;
}

#endif
