/* A template's source and the texts of a conversation, separated by NUL bytes. However the source
 * looks, the texts must not gain control tokens, and every byte of the ranges lies in the text. */
#include <stdint.h>

#include "engine/template.h"
#include "tests/engine/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXTS = 4 };

static const char *const marks[] = {
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|EOT|>",
    "<|end_of_turn|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|end_of_text|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|return|>",
    "[THINK]",
    "[/THINK]",
    "<|turn>",
    "<turn|>",
    "<|channel>",
    "<channel|>",
    "<|think|>",
    "<unk>",
};
enum { MARKS = sizeof marks / sizeof *marks };

/* Bytes and control tokens, nothing else: ids show at once what became of a text. */
static struct tokenizer *vocabulary(void)
{
    char bytes[256][8];
    const char *texts[MARKS + 256];
    int32_t types[MARKS + 256];
    float scores[MARKS + 256] = {0};
    for (int i = 0; i < MARKS; i++) {
        texts[i] = marks[i];
        types[i] = 3;
    }
    for (int b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", (unsigned)b);
        texts[MARKS + b] = bytes[b];
        types[MARKS + b] = 6;
    }
    struct vocab_file f = {0};
    struct err e;
    vocab_str(&f, "tokenizer.ggml.model", "llama");
    vocab_strs(&f, "tokenizer.ggml.tokens", texts, MARKS + 256);
    vocab_i32s(&f, "tokenizer.ggml.token_type", types, MARKS + 256);
    vocab_f32s(&f, "tokenizer.ggml.scores", scores, MARKS + 256);
    struct gguf *g = vocab_open(&f, &e);
    struct tokenizer *t = NULL;
    if (!g || tokenizer_open(g, &t, &e) != OK)
        __builtin_trap();
    gguf_close(g);
    return t;
}

static int32_t n_control(const struct tokenizer *t, const struct tok_list *l)
{
    int32_t n = 0;
    for (int32_t i = 0; i < l->n; i++)
        n += tokenizer_is_control(t, l->ids[i]);
    return n;
}

static int32_t render(const struct template *tp, const struct tokenizer *t,
                      const struct engine_message *m, int32_t n)
{
    struct tok_list ids = {0}, more = {0};
    struct err e;
    if (template_render(tp, NULL, 0, m, n, false, &ids, &e) != OK ||
        template_render(tp, ids.ids, ids.n, m, n, false, &more, &e) != OK)
        __builtin_trap();
    int32_t control = n_control(t, &ids) + n_control(t, &more);
    tok_list_fini(&ids);
    tok_list_fini(&more);
    return control;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    static const char *const roles[TEXTS] = {"system", "user", "assistant", "user"};
    if (!t)
        t = vocabulary();
    const char *s = (const char *)data, *end = s + size;
    const char *cut = size ? memchr(s, 0, size) : NULL;
    size_t n_source = cut ? (size_t)(cut - s) : size;
    struct engine_message m[TEXTS], dull[TEXTS];
    for (int i = 0; i < TEXTS; i++) {
        const char *begin = cut ? cut + 1 : end;
        cut = begin < end ? memchr(begin, 0, (size_t)(end - begin)) : NULL;
        m[i] = (struct engine_message){roles[i], begin, (size_t)((cut ? cut : end) - begin)};
        dull[i] = (struct engine_message){roles[i], "x", 1};
    }
    struct template *tp;
    struct err e;
    if (template_recognise(s, n_source, "<s>", "</s>", t, TEMPLATE_REASONING_AUTO, &tp, &e) != OK)
        return 0;
    if (render(tp, t, m, TEXTS) != render(tp, t, dull, TEXTS))
        __builtin_trap();

    struct str out = {0};
    struct tok_range *ranges = NULL;
    size_t n_range = 0, at = 0;
    if (template_text(tp, true, m, TEXTS, true, &out, &ranges, &n_range, &e) != OK)
        __builtin_trap();
    for (size_t i = 0; i < n_range; i++) {
        if (ranges[i].begin < at || ranges[i].end < ranges[i].begin || ranges[i].end > out.len)
            __builtin_trap();
        at = ranges[i].end;
    }
    free(ranges);
    str_fini(&out);
    template_free(tp);
    return 0;
}
