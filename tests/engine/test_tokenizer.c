/* Tokenizers against the vectors that the models' own tokenizers produced, and against hostile
 * texts and vocabularies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/str.h"
#include "engine/gguf.h"
#include "engine/tok_impl.h"
#include "tests/engine/vocab_open.h"

#define MODELS "ngxson__llama.cpp/models/"
#define SEPARATOR "\n__ggml_vocab_test__\n"

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

/* ---- words ---- */

struct words {
    const char *text;
    struct str split;
};

static void add_word(void *ctx, size_t off, size_t len)
{
    struct words *w = ctx;
    if (w->split.len)
        str_addc(&w->split, '|');
    str_add(&w->split, w->text + off, len);
}

/* split: the text with a bar between its words. */
static void check_split(const char *name, const char *split)
{
    struct tok_pre *pre;
    struct tok_pre_info info;
    struct tok_job job = {0};
    struct err e;
    struct str text = {0};
    for (const char *p = split; *p; p++)
        if (*p != '|')
            str_addc(&text, *p);
    struct words w = {.text = str_c(&text)};
    if (tok_pre_open(name, &pre, &info, &e) != OK ||
        tok_pre_split(pre, &job, w.text, text.len, add_word, &w, &e) != OK)
        fail_msg("%s: %s", name, e.text);
    if (strcmp(str_c(&w.split), split) != 0)
        fail_msg("%s:\n got: %s\nwant: %s", name, str_c(&w.split), split);
    str_fini(&w.split);
    str_fini(&text);
    tok_pre_job_fini(&job);
    tok_pre_free(pre);
}

#define ACUTE "\xcc\x81"
#define FAMILY "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9"

/* Worked out by hand from the patterns that the models' tokenizer.json have. */
static void tok_pre__split__words_of_qwen35_and_lfm2(void **state)
{
    (void)state;
    static const struct {
        const char *qwen35, *lfm2; /* NULL = as qwen35 */
    } cases[] = {
        {"I|'ve| it|'S| don|'t| o|'clock", NULL},
        {"''|ll| WE|'RE|'d", NULL},
        {"Hello|,| World|!", NULL},
        {"f|(x|)[|1|]={|y|:'|z|'};\n|//|c", NULL},
        /* digits one by one, or up to three together */
        {"1|2|3|4|5| |6|.|7", "123|45| |6|.|7"},
        {"x|1| |\xc2\xbd|\xef\xbc\x94|\xd9\xa3", "x|1| |\xc2\xbd\xef\xbc\x94\xd9\xa3"},
        /* a mark stays with its letter, or is no letter */
        {"e" ACUTE "te" ACUTE, "e|" ACUTE "te|" ACUTE},
        {" " ACUTE "a|.", " " ACUTE "|a|."},
        {"1|" ACUTE "| |2", "1|" ACUTE "| |2"},
        /* Thai: "nam" with its vowel and tone, then "cha" */
        {"\xe0\xb8\x99\xe0\xb9\x89\xe0\xb8\xb3\xe0\xb8\x8a\xe0\xb8\xb2",
         "\xe0\xb8\x99|\xe0\xb9\x89\xe0\xb8\xb3\xe0\xb8\x8a\xe0\xb8\xb2"},
        /* Devanagari: "hindi hai" */
        {"\xe0\xa4\xb9\xe0\xa4\xbf\xe0\xa4\xa8\xe0\xa5\x8d\xe0\xa4\xa6\xe0\xa5\x80"
         "| \xe0\xa4\xb9\xe0\xa5\x88",
         "\xe0\xa4\xb9|\xe0\xa4\xbf\xe0\xa4\xa8|\xe0\xa5\x8d\xe0\xa4\xa6|\xe0\xa5\x80"
         "| \xe0\xa4\xb9|\xe0\xa5\x88"},
        /* emoji: the joiner is neither letter nor mark, the variation selector is a mark */
        {FAMILY "| " FAMILY "!", NULL},
        {"!!|\xef\xb8\x8f|?", "!!\xef\xb8\x8f?"},
        {"\xe6\xbc\xa2\xe5\xad\x97|\xe3\x80\x82\n\n|A", NULL},
        {"a|  | b| |\tc|   \n\n|  | d|\r\n|  ", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_split("qwen35", cases[i].qwen35);
        check_split("lfm2", cases[i].lfm2 ? cases[i].lfm2 : cases[i].qwen35);
    }
}

/* Worked out by hand, too; 20,000 random texts were cut as the published patterns cut them elsewhere. */
static void tok_pre__split__words_of_kimi_and_youtu(void **state)
{
    (void)state;
    static const struct {
        const char *kimi, *youtu; /* NULL = as kimi */
    } cases[] = {
        {"Hello|,| World|!", NULL},
        {"camel|Case's|  | the|\n\n|x", NULL},
        {"123|45|.", "1|2|3|4|5|."},
        {"a|//\n|b", "a|//\n|b"},
        {"漢字|か|T|。글", "漢字か|T|。|글"},
        {"한글ㄱ|漢", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_split("kimi-k2", cases[i].kimi);
        check_split("youtu", cases[i].youtu ? cases[i].youtu : cases[i].kimi);
    }
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

/* ---- sizes and strange texts ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 10 };
#else
enum { SLOWER = 1 };
#endif
/* Seconds for 3 MB of prose: 0.1 to 0.2 on the machine this was written on. */
static const double prose_limit_s = 1.0;
/* Seconds for 256 KB of a text made to be slow: about 0.2 there (1 MB: below 1); minutes if it were
 * quadratic. */
static const double strange_limit_s = 5.0;

#define QWEN2 "_derived/ggml-vocab-qwen2.rebuilt.gguf"
#define LLAMA3 "_derived/ggml-vocab-llama-bpe.rebuilt.gguf"
#define LLAMA2 MODELS "ggml-vocab-llama-spm.gguf"
#define DEEPSEEK MODELS "ggml-vocab-deepseek-llm.gguf"

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* other programs do not count */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Encodes, decodes, compares; returns the seconds that encoding took. */
static double there_and_back(const struct tokenizer *t, const char *s, size_t n, const char *what)
{
    struct err e;
    struct tok_list ids = {0};
    struct str back = {0};
    double begin = seconds();
    if (tokenizer_encode(t, s, n, false, false, &ids, &e) != OK)
        fail_msg("%s: %s", what, e.text);
    double took = seconds() - begin;
    for (int32_t i = 0; i < ids.n; i++) {
        assert_in_range(ids.ids[i], 0, tokenizer_n_vocab(t) - 1);
        assert_false(tokenizer_is_control(t, ids.ids[i]));
    }
    tokenizer_decode(t, ids.ids, ids.n, false, true, &back);
    if (back.len != n || (n && memcmp(back.data, s, n) != 0))
        fail_msg("%s does not come back", what);
    str_fini(&back);
    tok_list_fini(&ids);
    return took;
}

static void tokenizer__encode__prose_fast_enough(void **state)
{
    (void)state;
    struct str book = {0}, text = {0};
    static const char *const books[] = {
        "Herman Melville/Moby-Dick.md", "Charles Dickens/Hard Times.md",
        "Jane Austen/Persuasion.md", "Jane Austen/Sense and Sensibility.md"};
    for (size_t i = 0; i < sizeof books / sizeof *books; i++) {
        char file[256];
        snprintf(file, sizeof file, "mlschmitt__classic-books-markdown/%s", books[i]);
        if (vocab_read(&book, file))
            str_add(&text, book.data, book.len);
    }
    if (text.len == 0)
        skip();
    while (text.len < 3000000)
        str_add(&text, book.data, book.len);
    static const char *const vocabs[] = {LLAMA2, LLAMA3, QWEN2, DEEPSEEK};
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        struct tokenizer *t = open_vocab(vocabs[i]);
        double took = there_and_back(t, text.data, text.len, "prose");
        if (took > prose_limit_s * SLOWER)
            fail_msg("%s: %.2f s for %zu bytes", vocabs[i], took, text.len);
        tokenizer_free(t);
    }
    str_fini(&book);
    str_fini(&text);
}

static void tokenizer__encode__strange_texts_stay_linear(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a",
        " ",
        "\n",
        "\t",
        "\r\n",
        " \n",
        "'",
        "A",
        "Aa",
        "1",
        "<|",
        "\xff",
        "a\xff",
        "\xe6\xbc",
        "\xe6\xbc\xa2",
        "\xf0\x9f\x91\xa8\xe2\x80\x8d",
        "                    x",
        "<0x0A>",
        "\xc3\xbf",
        "e\xcc\x81",
    };
    static const char *const vocabs[] = {LLAMA2, LLAMA3, QWEN2};
    size_t size = SLOWER > 1 ? 1 << 15 : 1 << 18;
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        struct tokenizer *t = open_vocab(vocabs[v]);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            struct str text = {0};
            while (text.len < size)
                str_adds(&text, units[i]);
            double took = there_and_back(t, text.data, text.len, units[i]);
            if (took > strange_limit_s)
                fail_msg("%s: %.1f s for a text of \"%s\"", vocabs[v], took, units[i]);
            str_fini(&text);
        }
        tokenizer_free(t);
    }
}

static void tokenizer__encode__random_bytes_come_back(void **state)
{
    (void)state;
    static const char *const vocabs[] = {LLAMA2, LLAMA3, QWEN2};
    uint64_t x = 88172645463325252u;
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++) {
        struct tokenizer *t = open_vocab(vocabs[v]);
        for (int round = 0; round < 400; round++) {
            char text[600];
            size_t n = (size_t)round;
            for (size_t i = 0; i < n; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                /* Mostly ASCII and white space, so that words form between the rest. */
                text[i] = (char)(x & 0x300 ? "abcXYZ  \n\t'!<|0"[(x >> 12) % 15] : (int)(x >> 20));
            }
            there_and_back(t, text, n, "random bytes");
        }
        tokenizer_free(t);
    }
}

static void tokenizer__encode__refuses_huge_texts(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(LLAMA2);
    struct tok_list ids = {0};
    struct err e;
    static char nothing[1];
    assert_int_equal(tokenizer_encode(t, nothing, (size_t)1 << 40, false, false, &ids, &e),
                     ERR_UNSUPPORTED);
    assert_int_equal(tokenizer_encode(t, NULL, 0, false, false, &ids, &e), OK);
    assert_int_equal(ids.n, 0);
    tok_list_fini(&ids);
    tokenizer_free(t);
}

/* ---- special tokens ---- */

static void tokenizer__encode__special_only_in_ranges(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(QWEN2);
    static const char s[] = "<|im_end|><|im_end|><|im_end|>";
    int32_t end = tokenizer_find(t, s, 10);
    struct err e;
    assert_true(end >= 0);
    for (size_t from = 0; from <= 30; from++) {
        for (size_t to = from; to <= 30; to++) {
            struct tok_range r = {from, to};
            struct tok_list ids = {0};
            assert_int_equal(tokenizer_encode_ranges(t, s, 30, &r, 1, false, -1, &ids, &e), OK);
            int32_t n = 0;
            size_t expected = 0;
            for (int32_t i = 0; i < ids.n; i++)
                n += ids.ids[i] == end;
            for (size_t at = 0; at < 30; at += 10)
                expected += at >= from && at + 10 <= to;
            assert_int_equal(n, expected);
            tok_list_fini(&ids);
        }
    }
    tokenizer_free(t);
}

static void tokenizer__encode__bos_once(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(LLAMA2);
    struct err e;
    static const char *const texts[] = {"", "x", "<s>", "<s>x", "<s><s>"};
    static const int32_t n_bos[] = {1, 1, 1, 1, 2};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct tok_list ids = {0};
        int32_t n = 0;
        assert_int_equal(tokenizer_encode(t, texts[i], strlen(texts[i]), true, true, &ids, &e), OK);
        for (int32_t k = 0; k < ids.n; k++)
            n += ids.ids[k] == tokenizer_special(t)->bos;
        assert_int_equal(n, n_bos[i]);
        tok_list_fini(&ids);
    }
    tokenizer_free(t);
}

/* LFM2: a text begins with bos also where the file does not say so, ends of turns are ends, and the
 * marks of thoughts are text whatever their type is. */
static void tokenizer__open__lfm2(void **state)
{
    (void)state;
    static const char *const tokens[] = {"<|pad|>",    "<|startoftext|>", "<|endoftext|>",
                                         "<|im_end|>", "<think>",         "</think>",
                                         "a",          "b",               "ab"};
    static const int32_t types[] = {3, 3, 3, 3, 3, 3, 1, 1, 1};
    enum { N = sizeof types / sizeof *types };
    for (int said = 0; said < 3; said++) { /* nothing, yes, no */
        struct vocab_file f = {0};
        struct err e;
        struct tokenizer *t = NULL;
        struct tok_list ids = {0};
        struct str out = {0};
        vocab_str(&f, "tokenizer.ggml.model", "gpt2");
        vocab_str(&f, "tokenizer.ggml.pre", "lfm2");
        vocab_strs(&f, "tokenizer.ggml.tokens", tokens, N);
        vocab_i32s(&f, "tokenizer.ggml.token_type", types, N);
        vocab_strs(&f, "tokenizer.ggml.merges", tokens, 0);
        vocab_u32(&f, "tokenizer.ggml.bos_token_id", 1);
        vocab_u32(&f, "tokenizer.ggml.eos_token_id", 3);
        if (said) {
            vocab_key(&f, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
            vocab_raw(&f, &(uint8_t){said == 1}, 1);
        }
        struct gguf *g = vocab_open(&f, &e);
        assert_non_null(g);
        assert_int_equal(tokenizer_open(g, &t, &e), OK);
        assert_int_equal(tokenizer_special(t)->eot, 3);
        assert_true(tokenizer_is_end(t, 2) && tokenizer_is_end(t, 3));
        assert_true(tokenizer_is_control(t, 1) && !tokenizer_is_end(t, 1));
        static const char text[] = "<think>ab</think>";
        assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, false, true, &ids, &e), OK);
        int32_t first = said != 2;
        assert_int_equal(ids.n, first + 3);
        assert_int_equal(ids.ids[0], said == 2 ? 4 : 1);
        assert_int_equal(ids.ids[first], 4);
        assert_int_equal(ids.ids[first + 1], 8); /* a word that is a token, without a merge */
        assert_int_equal(ids.ids[first + 2], 5);
        tokenizer_decode(t, ids.ids, ids.n, false, true, &out);
        assert_string_equal(str_c(&out), "<think>ab</think>");
        str_fini(&out);
        tok_list_fini(&ids);
        tokenizer_free(t);
        gguf_close(g);
    }
}

/* ---- Gemma 4 ---- */

#define SPACE "\xe2\x96\x81"

/* A small vocabulary in its way, as conversions make it: marks that are called text, a file that
 * wants no beginning of a text. After these, every byte. */
static const char *const gemma4_tokens[] = {
    "<pad>", "<eos>", "<bos>",   "<unk>",    "<|turn>",     "<turn|>", "<|channel>", "<s>",
    "</s>",  SPACE,   "\n",      "\n\n",     "a",           "b",       "c",          "ab",
    "bc",    "<",     SPACE "a", SPACE "ab", SPACE SPACE,   "/",       "s",          ">",
    "<s",    "</",    "</s",     "\xc3\xa9", "\xe6\xbc\xa2"};
static const char *const gemma4_merges[] = {"b c",       "a b",   SPACE " " SPACE, SPACE " a",
                                            SPACE "a b", "\n \n", "< s",           "<s >",
                                            "< /",       "</ s",  "</s >"};
enum {
    GEMMA4_BYTES = sizeof gemma4_tokens / sizeof *gemma4_tokens,
    GEMMA4_ALL = GEMMA4_BYTES + 256,
    GEMMA4_MERGES = sizeof gemma4_merges / sizeof *gemma4_merges,
};

static struct tokenizer *open_gemma4(void)
{
    const char *tokens[GEMMA4_ALL];
    char bytes[256][8];
    int32_t types[GEMMA4_ALL];
    struct vocab_file f = {0};
    struct err e;
    struct tokenizer *t = NULL;
    for (int i = 0; i < GEMMA4_BYTES; i++) {
        tokens[i] = gemma4_tokens[i];
        types[i] = i < 6 ? 3 : i == 6 ? 4 : 1;
    }
    for (unsigned b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", b);
        tokens[GEMMA4_BYTES + b] = bytes[b];
        types[GEMMA4_BYTES + b] = 6;
    }
    vocab_str(&f, "tokenizer.ggml.model", "gemma4");
    vocab_strs(&f, "tokenizer.ggml.tokens", tokens, GEMMA4_ALL);
    vocab_i32s(&f, "tokenizer.ggml.token_type", types, GEMMA4_ALL);
    vocab_strs(&f, "tokenizer.ggml.merges", gemma4_merges, GEMMA4_MERGES);
    vocab_u32(&f, "tokenizer.ggml.bos_token_id", 2);
    vocab_u32(&f, "tokenizer.ggml.eos_token_id", 1);
    vocab_key(&f, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
    vocab_raw(&f, "", 1);
    struct gguf *g = vocab_open(&f, &e);
    if (!g || tokenizer_open(g, &t, &e) != OK)
        fail_msg("%s", e.text);
    gguf_close(g);
    return t;
}

/* The ids are those that llama.cpp gives with this vocabulary. */
static void tokenizer__encode__gemma4(void **state)
{
    (void)state;
    static const struct {
        const char *text, *ids;
        bool special;
    } cases[] = {
        {"ab", "15", false},
        {"abc", "12 16", false}, /* the list has "b c" before "a b" */
        {"bc abc", "16 18 16", false},
        {"a  ab", "12 20 15", false},
        {"   ", "20 9", false},
        {SPACE "ab" SPACE " ", "9 15 20", false},
        {"a\n\n\nb", "12 11 10 13", false},
        {"</s><s>a</s", "8 7 12 26", false}, /* HTML's tags are words */
        {" <s >", "9 24 9 23", false},
        {"\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x99\x82", "27 28 269 188 182 159", false},
        {"a\tb", "12 38 13", false},
        {"<0x0A>", "17 77 149 77 94 23", false},
        {"<|turn>ab<turn|>\n", "17 153 145 146 143 139 23 15 17 145 146 143 139 153 23 10", false},
        {"<|turn>ab<turn|>\n", "2 4 15 5 10", true},
        {"", "2", true},
    };
    struct tokenizer *t = open_gemma4();
    struct err e;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tok_list ids = {0};
        struct str got = {0};
        const char *s = cases[i].text;
        bool special = cases[i].special;
        assert_int_equal(tokenizer_encode(t, s, strlen(s), special, special, &ids, &e), OK);
        for (int32_t k = 0; k < ids.n; k++)
            str_addf(&got, "%s%d", k ? " " : "", ids.ids[k]);
        assert_string_equal(str_c(&got), cases[i].ids);
        str_fini(&got);
        tok_list_fini(&ids);
    }
    there_and_back(t, "a\xff\xe2\x96 \xf0\x9f\n  b", 11, "malformed UTF-8");
    there_and_back(t, "<|channel>", 10, "a mark as text"); /* asserts that it stays text */
    assert_int_equal(tokenizer_special(t)->eot, 5);
    assert_true(tokenizer_is_end(t, 1) && tokenizer_is_end(t, 5) && !tokenizer_is_end(t, 8));
    tokenizer_free(t);
}

static void tokenizer__questions__any_id_is_safe(void **state)
{
    (void)state;
    struct tokenizer *t = open_vocab(LLAMA2);
    static const int32_t ids[] = {INT32_MIN, -1, 32000, INT32_MAX, 5};
    struct str out = {0};
    size_t n;
    for (int i = 0; i < 4; i++) {
        assert_null(tokenizer_piece(t, ids[i], &n));
        assert_int_equal(n, 0);
        assert_false(tokenizer_is_end(t, ids[i]) || tokenizer_is_control(t, ids[i]));
    }
    tokenizer_decode(t, ids, 5, true, false, &out);
    assert_int_equal(out.len, 1); /* 5 is the byte 2 */
    str_fini(&out);
    tokenizer_free(t);
}

/* ---- hostile vocabularies ---- */

#define TOKENS "tokenizer.ggml.tokens"
#define TYPES "tokenizer.ggml.token_type"
#define SCORES "tokenizer.ggml.scores"
#define MERGES "tokenizer.ggml.merges"
#define MODEL "tokenizer.ggml.model"

static const char *const few[] = {"<unk>", "<s>", "</s>", "a", "b", "ab", "\xe2\x96\x81", "<0x0A>"};
enum { FEW = 8 };

static enum status try_open(struct vocab_file *f, struct err *e)
{
    struct gguf *g = vocab_open(f, e);
    assert_non_null(g);
    struct tokenizer *t = NULL;
    enum status st = tokenizer_open(g, &t, e);
    gguf_close(g);
    if (st == OK) {
        struct tok_list ids = {0};
        struct str out = {0};
        static const char text[] = "ab a\nb<s></s><|x|>\xff";
        assert_int_equal(tokenizer_encode(t, text, sizeof text - 1, true, true, &ids, e), OK);
        for (int32_t i = 0; i < ids.n; i++)
            assert_in_range(ids.ids[i], 0, tokenizer_n_vocab(t) - 1);
        tokenizer_decode(t, ids.ids, ids.n, true, true, &out);
        str_fini(&out);
        tok_list_fini(&ids);
    }
    tokenizer_free(t);
    return st;
}

static void tokenizer__open__refuses_damaged_vocabularies(void **state)
{
    (void)state;
    static const float scores[FEW] = {0};
    struct vocab_file f = {0};
    struct err e;

    vocab_str(&f, "general.name", "x");
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, MODEL));

    vocab_str(&f, MODEL, "llama");
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, TOKENS));

    vocab_str(&f, MODEL, "llama");
    vocab_strs(&f, TOKENS, few, FEW);
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, SCORES));

    vocab_str(&f, MODEL, "llama");
    vocab_strs(&f, TOKENS, few, FEW);
    vocab_f32s(&f, SCORES, scores, FEW - 1);
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "7 entries for 8 tokens"));

    vocab_str(&f, MODEL, "llama");
    vocab_f32s(&f, TOKENS, scores, FEW);
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);

    vocab_str(&f, MODEL, "llama");
    vocab_strs(&f, TOKENS, few, FEW);
    vocab_strs(&f, SCORES, few, FEW);
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);

    static const char *const merging[] = {"gpt2", "gemma4"};
    for (int i = 0; i < 2; i++) {
        vocab_str(&f, MODEL, merging[i]);
        vocab_strs(&f, TOKENS, few, FEW);
        assert_int_equal(try_open(&f, &e), ERR_FORMAT);
        assert_non_null(strstr(e.text, MERGES));
        assert_non_null(strstr(e.text, merging[i]));
    }

    vocab_str(&f, MODEL, "gemma4");
    vocab_strs(&f, TOKENS, few, FEW);
    vocab_f32s(&f, MERGES, scores, FEW);
    assert_int_equal(try_open(&f, &e), ERR_FORMAT);

    vocab_str(&f, MODEL, "gpt2");
    vocab_strs(&f, TOKENS, few, FEW);
    vocab_strs(&f, MERGES, few, 1);
    vocab_str(&f, "tokenizer.ggml.pre", "never heard of");
    assert_int_equal(try_open(&f, &e), ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "never heard of"));

    vocab_str(&f, MODEL, "rwkv");
    vocab_strs(&f, TOKENS, few, FEW);
    assert_int_equal(try_open(&f, &e), ERR_UNSUPPORTED);
}

static void tokenizer__open__lives_with_odd_vocabularies(void **state)
{
    (void)state;
    static const float scores[FEW] = {0, -1e30f, 1e30f, NAN, INFINITY, -INFINITY};
    static const int32_t types[FEW] = {-5, 99, INT32_MAX, INT32_MIN, 6, 4, 0, 1};
    static const char *const twice[] = {"a", "a", "", "b", "ab", "ab", "", "c"};
    static const char *const merges[] = {"a b",  "",      " ",  "a",   "a b c",    "zz a",
                                         "b zz", "ab ab", "  ", "a b", "\xff \xff"};
    struct vocab_file f = {0};
    struct err e;

    vocab_str(&f, MODEL, "llama");
    vocab_strs(&f, TOKENS, few, FEW);
    vocab_f32s(&f, SCORES, scores, FEW);
    vocab_i32s(&f, TYPES, types, FEW);
    vocab_u32(&f, "tokenizer.ggml.bos_token_id", 4000000000u);
    vocab_u32(&f, "tokenizer.ggml.eos_token_id", 8);
    vocab_u32(&f, "tokenizer.ggml.unknown_token_id", 7);
    assert_int_equal(try_open(&f, &e), OK);

    vocab_str(&f, MODEL, "llama");
    vocab_strs(&f, TOKENS, twice, FEW);
    vocab_f32s(&f, SCORES, scores, FEW);
    vocab_str(&f, "tokenizer.ggml.bos_token_id", "one");
    assert_int_equal(try_open(&f, &e), OK);

    static const char *const models[] = {"gpt2", "gemma4"};
    for (int i = 0; i < 2; i++) {
        vocab_str(&f, MODEL, models[i]);
        vocab_strs(&f, TOKENS, twice, FEW);
        vocab_strs(&f, MERGES, merges, sizeof merges / sizeof *merges);
        vocab_i32s(&f, TYPES, types, FEW);
        assert_int_equal(try_open(&f, &e), OK);

        vocab_str(&f, MODEL, models[i]);
        vocab_strs(&f, TOKENS, few, FEW);
        vocab_strs(&f, MERGES, merges, 0);
        assert_int_equal(try_open(&f, &e), OK);
    }
}

/* What cannot be encoded must not turn into an end of text that a file calls "unknown". */
static void tokenizer__encode__unknown_is_never_an_end(void **state)
{
    (void)state;
    static const char *const tokens[] = {"<|endoftext|>", "a", "b"};
    static const int32_t types[] = {3, 1, 1};
    struct vocab_file f = {0};
    struct err e;
    vocab_str(&f, MODEL, "gpt2");
    vocab_strs(&f, TOKENS, tokens, 3);
    vocab_i32s(&f, TYPES, types, 3);
    vocab_strs(&f, MERGES, tokens, 0);
    vocab_u32(&f, "tokenizer.ggml.unknown_token_id", 0);
    vocab_u32(&f, "tokenizer.ggml.eos_token_id", 0);
    struct gguf *g = vocab_open(&f, &e);
    struct tokenizer *t = NULL;
    struct tok_list ids = {0};
    assert_int_equal(tokenizer_open(g, &t, &e), OK);
    assert_int_equal(tokenizer_encode(t, "a?b", 3, false, false, &ids, &e), OK);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], 1);
    assert_int_equal(ids.ids[1], 2);
    tok_list_fini(&ids);
    tokenizer_free(t);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer__encode__reference_vectors),
        cmocka_unit_test(tok_pre__split__words_of_qwen35_and_lfm2),
        cmocka_unit_test(tok_pre__split__words_of_kimi_and_youtu),
        cmocka_unit_test(tokenizer__open__refuses_other_kinds),
        cmocka_unit_test(tokenizer__encode__prose_fast_enough),
        cmocka_unit_test(tokenizer__encode__strange_texts_stay_linear),
        cmocka_unit_test(tokenizer__encode__random_bytes_come_back),
        cmocka_unit_test(tokenizer__encode__refuses_huge_texts),
        cmocka_unit_test(tokenizer__encode__special_only_in_ranges),
        cmocka_unit_test(tokenizer__encode__bos_once),
        cmocka_unit_test(tokenizer__open__lfm2),
        cmocka_unit_test(tokenizer__encode__gemma4),
        cmocka_unit_test(tokenizer__questions__any_id_is_safe),
        cmocka_unit_test(tokenizer__open__refuses_damaged_vocabularies),
        cmocka_unit_test(tokenizer__open__lives_with_odd_vocabularies),
        cmocka_unit_test(tokenizer__encode__unknown_is_never_an_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
