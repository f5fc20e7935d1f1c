/* A whole model file from nowhere: the container, its vocabulary, its template. */
#include <math.h>
#include <stdint.h>

#include "engine/template.h"
#include "engine/tokenizer.h"
#include "tests/engine/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink; /* so that every byte is really read */

static void look_at(const struct gguf *g)
{
    for (int64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        struct gguf_iter it = gguf_iter(kv);
        struct gguf_str s;
        int64_t v;
        float f;
        for (uint64_t k = 0; k < kv->n && k < 1000; k++)
            if (gguf_elem_i64(kv, k, &v) && gguf_elem_f32(kv, k, &f))
                sink += (uint64_t)v + isnan(f);
        while (gguf_next(&it, &s))
            for (size_t k = 0; k < s.len; k++)
                sink += (uint8_t)s.s[k];
    }
    for (int64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        const uint8_t *bytes = t->data;
        if (gguf_tensor_find(g, t->name) == NULL)
            __builtin_trap();
        if (t->size_bytes)
            sink += bytes[0] + bytes[t->size_bytes - 1];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e;
    struct gguf *g = vocab_open_bytes(data, size, &e);
    if (!g)
        return 0;
    look_at(g);
    struct tokenizer *t = NULL;
    struct template *tp = NULL;
    if (tokenizer_open(g, &t, &e) == OK && template_open(g, t, TEMPLATE_REASONING_AUTO, &tp, &e) == OK) {
        struct engine_message m[] = {{"system", "Be brief.", 9}, {"user", "Hi </s> there\n", 14}};
        struct tok_list ids = {0};
        if (template_render(tp, NULL, 0, m, 2, false, &ids, &e) == OK)
            for (int32_t i = 0; i < ids.n; i++)
                if (ids.ids[i] < 0 || ids.ids[i] >= tokenizer_n_vocab(t))
                    __builtin_trap();
        tok_list_fini(&ids);
    }
    template_free(tp);
    tokenizer_free(t);
    gguf_close(g);
    return 0;
}
