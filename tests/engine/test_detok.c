/* The streaming detokenizer: whole code points only, and the same text as decoding at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/base/utf8.h"
#include "engine/detok.h"
#include "tests/engine/vocab_open.h"

static const char *const vocabs[] = {
    "ngxson__llama.cpp/models/ggml-vocab-llama-spm.gguf",
    "_derived/ggml-vocab-llama-bpe.rebuilt.gguf",
    "_derived/ggml-vocab-qwen2.rebuilt.gguf",
    "ngxson__llama.cpp/models/ggml-vocab-gpt-2.gguf",
};
enum { VOCABS = sizeof vocabs / sizeof *vocabs };

static void detok__push__gives_the_text_in_whole_code_points(void **state)
{
    (void)state;
    static const char text[] =
        "Plain, caf\xc3\xa9, \xe6\xbc\xa2\xe5\xad\x97, \xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9"
        " \xf0\x9f\x99\x82\xf0\x90\x8d\x88 \xe1\x9e\x80\xe1\x9e\xb6 end\n\n\tx";
    for (int v = 0; v < VOCABS; v++) {
        struct tokenizer *t = open_vocab(vocabs[v]);
        struct tok_list ids = {0};
        struct str all = {0}, part = {0};
        struct detok d;
        struct err e;
        int n_empty = 0;
        assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, false, false, &ids, &e), OK);
        detok_init(&d, t, false, true);
        for (int32_t i = 0; i < ids.n; i++) {
            str_clear(&part);
            detok_push(&d, ids.ids[i], &part);
            n_empty += part.len == 0;
            assert_true(part.len == 0 || utf8_valid(part.data, part.len));
            str_add(&all, str_c(&part), part.len);
        }
        detok_flush(&d, &all);
        assert_string_equal(str_c(&all), text);
        assert_true(n_empty > 0); /* else the text splits nowhere and nothing was tested */
        str_fini(&all);
        str_fini(&part);
        tok_list_fini(&ids);
        tokenizer_free(t);
    }
}

static void detok__push__any_ids_give_valid_text(void **state)
{
    (void)state;
    uint64_t x = 42;
    for (int v = 0; v < VOCABS; v++) {
        struct tokenizer *t = open_vocab(vocabs[v]);
        struct str out = {0};
        struct detok d;
        detok_init(&d, t, true, false);
        for (int i = 0; i < 20000; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            /* Among them the byte tokens of SPM and BPE, and ids outside. */
            int32_t id = (int32_t)((x >> 33) % (i % 3 ? 300u : 200000u)) - 2;
            detok_push(&d, id, &out);
            assert_in_range(d.n_held, 0, 3);
        }
        detok_flush(&d, &out);
        assert_true(out.len > 10000);
        assert_true(utf8_valid(out.data, out.len));
        str_fini(&out);
        tokenizer_free(t);
    }
}

static void detok__flush__writes_what_was_held(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(vocabs[0]);
    struct str out = {0};
    struct detok d;
    detok_init(&d, t, false, false);
    int32_t lead = tokenizer_find(t, "<0xF0>", 6), next = tokenizer_find(t, "<0x9F>", 6);
    detok_push(&d, lead, &out);
    detok_push(&d, next, &out);
    assert_int_equal(out.len, 0);
    detok_flush(&d, &out);
    assert_string_equal(str_c(&out), "\xef\xbf\xbd\xef\xbf\xbd");
    str_clear(&out);
    /* A sequence that breaks off does not swallow what follows. */
    detok_push(&d, lead, &out);
    detok_push(&d, tokenizer_find(t, "a", 1), &out);
    assert_string_equal(str_c(&out), "\xef\xbf\xbd"
                                     "a");
    str_fini(&out);
    tokenizer_free(t);
}

static void detok__push__special_tokens_and_first_space(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(vocabs[0]);
    int32_t word = tokenizer_find(t, "\xe2\x96\x81Hello", 8), end = tokenizer_special(t)->eos;
    struct str out = {0};
    struct detok d;
    assert_true(word >= 0);
    detok_init(&d, t, false, true);
    detok_push(&d, tokenizer_special(t)->bos, &out);
    detok_push(&d, word, &out);
    detok_push(&d, word, &out);
    detok_push(&d, end, &out);
    assert_string_equal(str_c(&out), "Hello Hello");
    str_clear(&out);
    detok_init(&d, t, true, false);
    detok_push(&d, word, &out);
    detok_push(&d, end, &out);
    assert_string_equal(str_c(&out), " Hello</s>");
    str_fini(&out);
    tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(detok__push__gives_the_text_in_whole_code_points),
        cmocka_unit_test(detok__push__any_ids_give_valid_text),
        cmocka_unit_test(detok__flush__writes_what_was_held),
        cmocka_unit_test(detok__push__special_tokens_and_first_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
