/* A vocabulary of the test data as a tokenizer: skips the test without data, fails it when the file
 * does not open. Include after cmocka.h. */
#ifndef TESTS_ENGINE_VOCAB_OPEN_H
#define TESTS_ENGINE_VOCAB_OPEN_H

#include "engine/tokenizer.h"
#include "tests/engine/vocab.h"

static inline struct tokenizer *open_vocab(const char *file)
{
    struct err e;
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct str path = {0};
    if (!vocab_path(&path, file))
        skip();
    if (gguf_open(path.data, &g, &e) != OK || tokenizer_open(g, &t, &e) != OK)
        fail_msg("%s: %s", file, e.text);
    gguf_close(g);
    str_fini(&path);
    return t;
}

#endif
