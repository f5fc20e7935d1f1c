/* Tokenizers against the vectors that the models' own tokenizers produced, and against hostile
 * texts and vocabularies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/str.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "tests/engine/vocab.h"

#define MODELS "ngxson__llama.cpp/models/"
#define SEPARATOR "\n__ggml_vocab_test__\n"

static struct tokenizer *open_vocab(const char *file)
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

/* ---- vectors ---- */

struct vectors {
    const char *vocab, *texts;
};

static const struct vectors all_vectors[] = {
    {MODELS "ggml-vocab-llama-spm.gguf", MODELS "ggml-vocab-llama-spm.gguf"},
    {MODELS "ggml-vocab-phi-3.gguf", MODELS "ggml-vocab-phi-3.gguf"},
    {MODELS "ggml-vocab-deepseek-coder.gguf", MODELS "ggml-vocab-deepseek-coder.gguf"},
    {MODELS "ggml-vocab-deepseek-llm.gguf", MODELS "ggml-vocab-deepseek-llm.gguf"},
    {MODELS "ggml-vocab-falcon.gguf", MODELS "ggml-vocab-falcon.gguf"},
    {MODELS "ggml-vocab-gpt-2.gguf", MODELS "ggml-vocab-gpt-2.gguf"},
    {MODELS "ggml-vocab-mpt.gguf", MODELS "ggml-vocab-mpt.gguf"},
    {MODELS "ggml-vocab-refact.gguf", MODELS "ggml-vocab-refact.gguf"},
    {MODELS "ggml-vocab-starcoder.gguf", MODELS "ggml-vocab-starcoder.gguf"},
    {"_derived/ggml-vocab-llama-bpe.rebuilt.gguf", MODELS "ggml-vocab-llama-bpe.gguf"},
    {"_derived/ggml-vocab-qwen2.rebuilt.gguf", MODELS "ggml-vocab-qwen2.gguf"},
    {"_derived/ggml-vocab-qwen2.rebuilt.gguf",
     "ggerganov__llama.cpp/models/ggml-vocab-deepseek-r1-qwen.gguf"},
};

static void check_one(const struct tokenizer *t, const char *text, size_t len, const char *expected,
                      const char *name, int number)
{
    struct err e;
    struct tok_list got = {0};
    if (tokenizer_encode(t, text, len, false, false, &got, &e) != OK)
        fail_msg("%s, text %d: %s", name, number, e.text);
    char *end = (char *)expected;
    int32_t n = 0;
    for (const char *p = expected; *p && *p != '\n'; p = end, n++) {
        long id = strtol(p, &end, 10);
        if (end == p)
            break;
        if (n >= got.n || got.ids[n] != id)
            fail_msg("%s, text %d: token %d is %d, expected %ld", name, number, n,
                     n < got.n ? got.ids[n] : -1, id);
    }
    assert_int_equal(got.n, n);
    struct str back = {0};
    tokenizer_decode(t, got.ids, got.n, false, true, &back);
    if (back.len != len || (len && memcmp(back.data, text, len) != 0))
        fail_msg("%s, text %d does not come back: \"%s\"", name, number, str_c(&back));
    str_fini(&back);
    tok_list_fini(&got);
}

static void check_vectors(const struct vectors *v)
{
    struct tokenizer *t = open_vocab(v->vocab);
    char file[256];
    struct str inp = {0}, out = {0};
    snprintf(file, sizeof file, "%s.inp", v->texts);
    assert_true(vocab_read(&inp, file));
    snprintf(file, sizeof file, "%s.out", v->texts);
    assert_true(vocab_read(&out, file));
    const char *line = out.data;
    int n = 0;
    for (char *p = inp.data, *next; p; p = next, n++) {
        char *sep = strstr(p, SEPARATOR);
        size_t len = sep ? (size_t)(sep - p) : strlen(p);
        next = sep ? sep + strlen(SEPARATOR) : NULL;
        if (!next && len == 0)
            break;
        assert_non_null(line);
        check_one(t, p, len, line, v->texts, n);
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    assert_true(n >= 40);
    str_fini(&inp);
    str_fini(&out);
    tokenizer_free(t);
}

static void tokenizer__encode__reference_vectors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof all_vectors / sizeof *all_vectors; i++)
        check_vectors(&all_vectors[i]);
}

static void tokenizer__open__refuses_other_kinds(void **state)
{
    (void)state;
    struct str path = {0};
    struct err e;
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    if (!vocab_path(&path, MODELS "ggml-vocab-bert-bge.gguf"))
        skip();
    assert_int_equal(gguf_open(path.data, &g, &e), OK);
    assert_int_equal(tokenizer_open(g, &t, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "bert"));
    gguf_close(g);
    str_fini(&path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer__encode__reference_vectors),
        cmocka_unit_test(tokenizer__open__refuses_other_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
