#include "tests/support/ggufw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"

enum { ALIGN = 32, T_U32 = 4, T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_STR = 8, T_ARRAY = 9 };

struct ggufw {
    FILE *f;
    struct str kv, tensors;
    uint64_t n_kv, n_tensor;
    uint64_t off;        /* of the next tensor's data from the start of the data part */
    uint64_t *sizes;     /* by tensor */
    uint64_t at, in_tensor; /* writing: current tensor and bytes written of it */
};

static void put(struct str *s, const void *p, size_t n)
{
    str_add(s, p, n);
}

static void put_u32(struct str *s, uint32_t v)
{
    put(s, &v, 4);
}

static void put_u64(struct str *s, uint64_t v)
{
    put(s, &v, 8);
}

static void put_str(struct str *s, const char *v)
{
    put_u64(s, strlen(v));
    put(s, v, strlen(v));
}

static void key(struct ggufw *w, const char *k, uint32_t type)
{
    put_str(&w->kv, k);
    put_u32(&w->kv, type);
    w->n_kv++;
}

struct ggufw *ggufw_open(const char *path)
{
    struct ggufw *w = mem_calloc(1, sizeof *w);
    w->f = fopen(path, "wb");
    if (!w->f) {
        perror(path);
        abort();
    }
    return w;
}

void ggufw_u32(struct ggufw *w, const char *k, uint32_t v)
{
    key(w, k, T_U32);
    put_u32(&w->kv, v);
}

void ggufw_f32(struct ggufw *w, const char *k, float v)
{
    key(w, k, T_F32);
    put(&w->kv, &v, 4);
}

void ggufw_bool(struct ggufw *w, const char *k, int v)
{
    key(w, k, T_BOOL);
    str_addc(&w->kv, v ? 1 : 0);
}

void ggufw_str(struct ggufw *w, const char *k, const char *v)
{
    key(w, k, T_STR);
    put_str(&w->kv, v);
}

static void array(struct ggufw *w, const char *k, uint32_t type, size_t n)
{
    key(w, k, T_ARRAY);
    put_u32(&w->kv, type);
    put_u64(&w->kv, n);
}

void ggufw_strs(struct ggufw *w, const char *k, const char *const *v, size_t n)
{
    array(w, k, T_STR, n);
    for (size_t i = 0; i < n; i++)
        put_str(&w->kv, v[i]);
}

void ggufw_bools(struct ggufw *w, const char *k, const bool *v, size_t n)
{
    array(w, k, T_BOOL, n);
    for (size_t i = 0; i < n; i++)
        str_addc(&w->kv, v[i] ? 1 : 0);
}

void ggufw_i32s(struct ggufw *w, const char *k, const int32_t *v, size_t n)
{
    array(w, k, T_I32, n);
    put(&w->kv, v, n * 4);
}

void ggufw_f32s(struct ggufw *w, const char *k, const float *v, size_t n)
{
    array(w, k, T_F32, n);
    put(&w->kv, v, n * 4);
}

void ggufw_tensor(struct ggufw *w, const char *name, enum kern_type type, int64_t n_col, int64_t n_row)
{
    ggufw_stack(w, name, type, n_col, n_row, 0);
}

void ggufw_stack(struct ggufw *w, const char *name, enum kern_type type, int64_t n_col, int64_t n_row,
                 int64_t n_mat)
{
    uint64_t n = (uint64_t)n_col * (uint64_t)(n_row ? n_row : 1) * (uint64_t)(n_mat ? n_mat : 1);
    put_str(&w->tensors, name);
    put_u32(&w->tensors, n_mat ? 3 : n_row ? 2 : 1);
    put_u64(&w->tensors, (uint64_t)n_col);
    if (n_row)
        put_u64(&w->tensors, (uint64_t)n_row);
    if (n_mat)
        put_u64(&w->tensors, (uint64_t)n_mat);
    put_u32(&w->tensors, type);
    put_u64(&w->tensors, w->off);
    w->sizes = mem_realloc(w->sizes, (w->n_tensor + 1) * sizeof *w->sizes);
    w->sizes[w->n_tensor] = n / (uint64_t)kern_type_block(type) * kern_type_bytes(type);
    w->off += (w->sizes[w->n_tensor] + ALIGN - 1) / ALIGN * ALIGN;
    w->n_tensor++;
}

static void write_all(struct ggufw *w, const void *p, size_t n)
{
    if (n && fwrite(p, 1, n, w->f) != n) {
        perror("write");
        abort();
    }
}

static void pad(struct ggufw *w)
{
    static const char zeros[ALIGN];
    long at = ftell(w->f);
    write_all(w, zeros, (size_t)((ALIGN - at % ALIGN) % ALIGN));
}

void ggufw_byte_vocabulary(struct ggufw *w, const char *pre, int32_t n_vocab)
{
    char(*text)[32] = mem_calloc((size_t)n_vocab, sizeof *text);
    const char **tokens = mem_calloc((size_t)n_vocab, sizeof *tokens);
    int32_t *types = mem_calloc((size_t)n_vocab, sizeof *types);
    static const char *const merges[] = {"t h"}; /* peers refuse an empty list */
    uint32_t extra = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        bool shown = (i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
        tokens[i] = text[i];
        types[i] = i <= 256 ? 1 : 5;
        if (i < 256)
            utf8_encode(shown ? (uint32_t)i : 256u + extra++, text[i]);
        else if (i == 256)
            snprintf(text[i], sizeof *text, "th");
        else
            snprintf(text[i], sizeof *text, "<|pad%d|>", i);
    }
    ggufw_str(w, "tokenizer.ggml.model", "gpt2");
    ggufw_str(w, "tokenizer.ggml.pre", pre);
    ggufw_strs(w, "tokenizer.ggml.tokens", tokens, (size_t)n_vocab);
    ggufw_i32s(w, "tokenizer.ggml.token_type", types, (size_t)n_vocab);
    ggufw_strs(w, "tokenizer.ggml.merges", merges, 1);
    ggufw_u32(w, "tokenizer.ggml.bos_token_id", 257);
    ggufw_u32(w, "tokenizer.ggml.eos_token_id", 258);
    ggufw_bool(w, "tokenizer.ggml.add_bos_token", 0);
    free(text);
    free(tokens);
    free(types);
}

void ggufw_begin(struct ggufw *w)
{
    struct str head = {0};
    str_add(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, w->n_tensor);
    put_u64(&head, w->n_kv);
    write_all(w, head.data, head.len);
    write_all(w, str_c(&w->kv), w->kv.len);
    write_all(w, str_c(&w->tensors), w->tensors.len);
    pad(w);
    str_fini(&head);
}

void ggufw_data(struct ggufw *w, const void *data, size_t size_bytes)
{
    if (w->at >= w->n_tensor || w->in_tensor + size_bytes > w->sizes[w->at]) {
        fprintf(stderr, "ggufw: more data than declared\n");
        abort();
    }
    write_all(w, data, size_bytes);
    w->in_tensor += size_bytes;
    if (w->in_tensor == w->sizes[w->at]) {
        pad(w);
        w->at++;
        w->in_tensor = 0;
    }
}

void ggufw_close(struct ggufw *w)
{
    if (w->at != w->n_tensor) {
        fprintf(stderr, "ggufw: data of %llu tensors is missing\n",
                (unsigned long long)(w->n_tensor - w->at));
        abort();
    }
    if (fclose(w->f)) {
        perror("close");
        abort();
    }
    str_fini(&w->kv);
    str_fini(&w->tensors);
    free(w->sizes);
    free(w);
}
