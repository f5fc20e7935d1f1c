/* A vocabulary and a text, both from the input. Layout: a byte of flags, a byte that chooses the
 * pre-tokenizer, then tokens (length 1..31, type, score, text) until a length of 0, then merges
 * (two token numbers each, counted for Gemma 4 from the first of those tokens) until a number out
 * of range, then the text. */
#include <stdint.h>

#include "engine/detok.h"
#include "engine/base/utf8.h"
#include "engine/tokenizer.h"
#include "tests/engine/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TOKENS = 400, ALL_BYTES = 2, SPECIAL = 4, NO_SPACE = 8, GEMMA4 = 16 };

static const char *const pres[] = {
    "default",    "llama-bpe",  "qwen2",    "gpt-2",  "deepseek-llm", "deepseek-coder",
    "falcon",     "starcoder",  "tekken",   "gpt-4o", "deepseek-v3",  "qwen35",
    "bailingmoe", "seed-coder", "minicpm5", "viking",
};

struct made {
    char *text[TOKENS];
    int32_t type[TOKENS];
    float score[TOKENS];
    int32_t n;
};

static void add(struct made *m, const char *text, int32_t type, float score)
{
    if (m->n == TOKENS)
        return;
    m->text[m->n] = strdup(text);
    m->type[m->n] = type;
    m->score[m->n++] = score;
}

/* All single bytes, as the family writes them. */
static void add_bytes(struct made *m, bool spm)
{
    int next = 0x100;
    for (int b = 0; b < 256; b++) {
        char text[8];
        bool self = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        if (spm)
            snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        else
            text[utf8_encode((uint32_t)(self ? b : next++), text)] = '\0';
        add(m, text, spm ? 6 : 1, 0);
    }
}

static void check(const struct tokenizer *t, const struct made *m, const char *s, size_t n,
                  unsigned flags)
{
    struct err e;
    struct tok_list ids = {0};
    struct str back = {0}, shown = {0};
    struct detok d;
    if (tokenizer_encode(t, s, n, flags & SPECIAL, false, &ids, &e) != OK)
        __builtin_trap();
    bool exact = flags & ALL_BYTES && !(flags & SPECIAL);
    for (int32_t i = 0; i < m->n; i++)
        exact = exact && m->type[i] != 4; /* added tokens may be ambiguous */
    detok_init(&d, t, true, false);
    for (int32_t i = 0; i < ids.n; i++) {
        if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_n_vocab(t))
            __builtin_trap();
        if (!(flags & SPECIAL) && tokenizer_is_control(t, ids.ids[i]) &&
            ids.ids[i] != tokenizer_special(t)->unk)
            __builtin_trap();
        detok_push(&d, ids.ids[i], &shown);
    }
    detok_flush(&d, &shown);
    if (shown.len && !utf8_valid(shown.data, shown.len))
        __builtin_trap();
    tokenizer_decode(t, ids.ids, ids.n, false, true, &back);
    /* U+2581 is a space to SentencePiece: such a text does not come back as it was. */
    exact = exact && !(n && memmem(s, n, "\xe2\x96\x81", 3));
    if (exact && (back.len != n || (n && memcmp(back.data, s, n) != 0)))
        __builtin_trap();
    str_fini(&back);
    str_fini(&shown);
    tok_list_fini(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct made m;
    struct vocab_file f = {0};
    struct err e;
    if (size < 3)
        return 0;
    unsigned flags = data[0];
    bool gemma4 = flags & GEMMA4, spm = gemma4 || flags & 1;
    const uint8_t *p = data + 2, *end = data + size;
    m.n = 0;
    add(&m, "<unk>", 2, 0);
    add(&m, "<s>", 3, 0);
    add(&m, "</s>", 3, 0);
    if (flags & ALL_BYTES) {
        add_bytes(&m, spm);
        if (spm)
            add(&m, "\xe2\x96\x81", 1, 0);
    }
    int32_t first = gemma4 ? m.n : 0; /* its bytes are not what is merged */
    while (end - p > 3 && *p) {
        char text[32] = {0};
        size_t n = *p % 32u, room = (size_t)(end - p) - 3;
        n = n < room ? n : room;
        memcpy(text, p + 3, n);
        add(&m, text, p[1] % 8, (float)p[2] - 100);
        p += 3 + n;
    }
    p += p < end;
    vocab_str(&f, "tokenizer.ggml.model", gemma4 ? "gemma4" : spm ? "llama" : "gpt2");
    vocab_str(&f, "tokenizer.ggml.pre", pres[data[1] % (sizeof pres / sizeof *pres)]);
    vocab_strs(&f, "tokenizer.ggml.tokens", (const char *const *)m.text, (size_t)m.n);
    vocab_i32s(&f, "tokenizer.ggml.token_type", m.type, (size_t)m.n);
    vocab_f32s(&f, "tokenizer.ggml.scores", m.score, (size_t)m.n);
    vocab_u32(&f, "tokenizer.ggml.unknown_token_id", 0);
    vocab_key(&f, "tokenizer.ggml.add_space_prefix", GGUF_BOOL);
    vocab_raw(&f, flags & NO_SPACE ? "" : "\1", 1);
    struct str merges = {0};
    uint64_t n_merge = 0;
    struct vocab_file list = {0};
    for (; end - p > 2 && p[0] + first < m.n && p[1] + first < m.n; p += 2, n_merge++) {
        str_clear(&merges);
        str_addf(&merges, "%s %s", m.text[p[0] + first], m.text[p[1] + first]);
        vocab_text_raw(&list, str_c(&merges));
    }
    vocab_array(&f, "tokenizer.ggml.merges", GGUF_STR, n_merge);
    if (n_merge)
        vocab_raw(&f, list.kv.data, list.kv.len);
    str_fini(&merges);
    str_fini(&list.kv);

    struct gguf *g = vocab_open(&f, &e);
    struct tokenizer *t = NULL;
    if (g && tokenizer_open(g, &t, &e) == OK)
        check(t, &m, (const char *)p, (size_t)(end - p), flags);
    tokenizer_free(t);
    gguf_close(g);
    for (int32_t i = 0; i < m.n; i++)
        free(m.text[i]);
    return 0;
}
