/* Writes a GGUF of a real model's shape with random weights, for speed and memory measurements.
 *
 * usage: mkmodel SHAPE TYPE OUT.gguf
 *   SHAPE  llama-3.2-1b | llama-3.1-8b | qwen3-0.6b | smollm2-135m | tiny
 *   TYPE   Q4_K_M (the usual mix), or any weight type: F16 BF16 F32 Q8_0 Q4_0 Q4_K Q5_K Q6_K ...
 * Weights are N(0, 0.02); what the model says means nothing, and its attention is dense. Every
 * matrix is drawn from one pool of quantised blocks, so that a 1 B file takes seconds. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tests/support/ggufw.h"

struct shape {
    const char *name, *arch, *pre;
    int n_layer, d, n_head, n_kv, head_dim, ff, vocab;
    float base, eps;
    bool tied, qk_norm;
};

static const struct shape shapes[] = {
    {"llama-3.2-1b", "llama", "llama-bpe", 16, 2048, 32, 8, 64, 8192, 128256, 500000, 1e-5f, true, false},
    {"llama-3.1-8b", "llama", "llama-bpe", 32, 4096, 32, 8, 128, 14336, 128256, 500000, 1e-5f, false, false},
    {"qwen3-0.6b", "qwen3", "qwen2", 28, 1024, 16, 8, 128, 3072, 151936, 1000000, 1e-6f, true, true},
    {"smollm2-135m", "llama", "smollm", 30, 576, 9, 3, 64, 1536, 49152, 100000, 1e-5f, true, false},
    {"tiny", "llama", "llama-bpe", 2, 256, 4, 2, 64, 512, 512, 10000, 1e-5f, true, false},
};

enum { POOL_ELEMS = 1 << 20 };

struct pool {
    enum kern_type type;
    size_t size_bytes;
    unsigned char *data;
};

static uint64_t rng = 88172645463325252ULL;

static uint64_t next(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng;
}

static float normal(void)
{
    double u = ((double)(next() >> 11) + 1) / 9007199254740993.0;
    double v = (double)(next() >> 11) / 9007199254740992.0;
    return (float)(0.02 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static struct pool *pool_for(enum kern_type type)
{
    static struct pool pools[32];
    static float *values;
    struct pool *p = &pools[type];
    if (p->data)
        return p;
    if (!values) {
        values = mem_alloc(POOL_ELEMS * sizeof *values);
        for (int i = 0; i < POOL_ELEMS; i++)
            values[i] = normal();
    }
    p->type = type;
    p->size_bytes = (size_t)(POOL_ELEMS / kern_type_block(type)) * kern_type_bytes(type);
    p->data = mem_alloc(p->size_bytes);
    if (type == KERN_F32) {
        memcpy(p->data, values, p->size_bytes);
    } else if (!kern_quantise(type, values, p->data, POOL_ELEMS)) {
        fprintf(stderr, "mkmodel: no writer for %s\n", kern_type_name(type));
        exit(2);
    }
    return p;
}

struct tensor {
    char name[64];
    enum kern_type type;
    int64_t n_col, n_row; /* n_row 0 = a vector of ones */
};

static struct tensor tensors[1024];
static int n_tensor;

/* Rows that are no multiple of 256 cannot hold K blocks: the usual fallbacks. */
static enum kern_type fitting(enum kern_type type, int64_t n_col)
{
    if (n_col % kern_type_block(type) == 0)
        return type;
    switch (type) {
    case KERN_Q4_K:
        return KERN_Q5_0;
    case KERN_Q5_K:
        return KERN_Q5_1;
    case KERN_Q6_K:
        return KERN_Q8_0;
    case KERN_Q2_K:
    case KERN_Q3_K:
    case KERN_IQ4_XS:
        return KERN_IQ4_NL;
    default:
        return KERN_F16;
    }
}

static void plan(const char *name, enum kern_type type, int64_t n_col, int64_t n_row)
{
    struct tensor *t = &tensors[n_tensor++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->type = n_row ? fitting(type, n_col) : KERN_F32;
    t->n_col = n_col;
    t->n_row = n_row;
}

static void plan_layer(const struct shape *s, int b, enum kern_type main_type, enum kern_type more_type)
{
    char name[64];
#define PLAN(what, type, n_col, n_row)                                                             \
    do {                                                                                           \
        snprintf(name, sizeof name, "blk.%d.%s.weight", b, what);                                  \
        plan(name, type, n_col, n_row);                                                            \
    } while (0)
    int q = s->n_head * s->head_dim, kv = s->n_kv * s->head_dim;
    PLAN("attn_norm", KERN_F32, s->d, 0);
    PLAN("attn_q", main_type, s->d, q);
    PLAN("attn_k", main_type, s->d, kv);
    PLAN("attn_v", more_type, s->d, kv);
    PLAN("attn_output", main_type, q, s->d);
    if (s->qk_norm) {
        PLAN("attn_q_norm", KERN_F32, s->head_dim, 0);
        PLAN("attn_k_norm", KERN_F32, s->head_dim, 0);
    }
    PLAN("ffn_norm", KERN_F32, s->d, 0);
    PLAN("ffn_gate", main_type, s->d, s->ff);
    PLAN("ffn_up", main_type, s->d, s->ff);
    PLAN("ffn_down", more_type, s->ff, s->d);
#undef PLAN
}

static void write_tensor(struct ggufw *w, const struct tensor *t)
{
    if (t->n_row == 0) {
        float *ones = mem_alloc((size_t)t->n_col * sizeof *ones);
        for (int64_t i = 0; i < t->n_col; i++)
            ones[i] = 1;
        ggufw_data(w, ones, (size_t)t->n_col * sizeof *ones);
        free(ones);
        return;
    }
    struct pool *p = pool_for(t->type);
    size_t block = kern_type_bytes(t->type);
    size_t left = (size_t)(t->n_col * t->n_row / kern_type_block(t->type)) * block;
    while (left) {
        size_t n_block = p->size_bytes / block;
        size_t first = next() % n_block, n = (n_block - first) * block;
        if (n > left)
            n = left;
        ggufw_data(w, p->data + first * block, n);
        left -= n;
    }
}

/* The 256 byte tokens in the printable alphabet of byte-level BPE, then unused padding. */
static void write_vocabulary(struct ggufw *w, const struct shape *s)
{
    const char **tokens = mem_calloc((size_t)s->vocab, sizeof *tokens);
    int32_t *types = mem_calloc((size_t)s->vocab, sizeof *types);
    int extra = 0;
    for (int b = 0; b < 256; b++) {
        bool shown = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        char text[5] = {0};
        utf8_encode(shown ? (uint32_t)b : 256u + (uint32_t)extra++, text);
        tokens[b] = mem_strdup(text);
        types[b] = 1;
    }
    for (int i = 256; i < s->vocab; i++) {
        char text[32];
        snprintf(text, sizeof text, "<|pad%d|>", i);
        tokens[i] = mem_strdup(text);
        types[i] = 5;
    }
    free((char *)tokens[256]);
    tokens[256] = mem_strdup("th"); /* peers refuse an empty merge list */
    types[256] = 1;
    static const char *const merges[] = {"t h"};
    ggufw_str(w, "tokenizer.ggml.model", "gpt2");
    ggufw_str(w, "tokenizer.ggml.pre", s->pre);
    ggufw_strs(w, "tokenizer.ggml.tokens", tokens, (size_t)s->vocab);
    ggufw_i32s(w, "tokenizer.ggml.token_type", types, (size_t)s->vocab);
    ggufw_strs(w, "tokenizer.ggml.merges", merges, 1);
    ggufw_u32(w, "tokenizer.ggml.bos_token_id", 257);
    ggufw_u32(w, "tokenizer.ggml.eos_token_id", 258);
    ggufw_bool(w, "tokenizer.ggml.add_bos_token", 0);
    for (int i = 0; i < s->vocab; i++)
        free((char *)tokens[i]);
    free(tokens);
    free(types);
}

static void write_header(struct ggufw *w, const struct shape *s)
{
    char key[96];
#define KEY(suffix) (snprintf(key, sizeof key, "%s.%s", s->arch, suffix), key)
    ggufw_str(w, "general.architecture", s->arch);
    ggufw_str(w, "general.name", s->name);
    ggufw_u32(w, KEY("context_length"), 131072);
    ggufw_u32(w, KEY("embedding_length"), (uint32_t)s->d);
    ggufw_u32(w, KEY("block_count"), (uint32_t)s->n_layer);
    ggufw_u32(w, KEY("feed_forward_length"), (uint32_t)s->ff);
    ggufw_u32(w, KEY("attention.head_count"), (uint32_t)s->n_head);
    ggufw_u32(w, KEY("attention.head_count_kv"), (uint32_t)s->n_kv);
    ggufw_u32(w, KEY("attention.key_length"), (uint32_t)s->head_dim);
    ggufw_u32(w, KEY("attention.value_length"), (uint32_t)s->head_dim);
    ggufw_f32(w, KEY("attention.layer_norm_rms_epsilon"), s->eps);
    ggufw_f32(w, KEY("rope.freq_base"), s->base);
    ggufw_u32(w, KEY("rope.dimension_count"), (uint32_t)s->head_dim);
    ggufw_u32(w, KEY("vocab_size"), (uint32_t)s->vocab);
#undef KEY
}

static bool parse_type(const char *name, enum kern_type *ret)
{
    for (uint32_t i = 0; i < 64; i++)
        if (kern_type_known(i) && !strcmp(kern_type_name((enum kern_type)i), name)) {
            *ret = (enum kern_type)i;
            return true;
        }
    return false;
}

int main(int argc, char **argv)
{
    const struct shape *s = NULL;
    for (size_t i = 0; argc == 4 && i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(argv[1], shapes[i].name))
            s = &shapes[i];
    bool mix = argc == 4 && !strcmp(argv[2], "Q4_K_M");
    enum kern_type type = KERN_Q4_K;
    if (!s || (!mix && !parse_type(argv[2], &type))) {
        fprintf(stderr, "usage: mkmodel llama-3.2-1b|llama-3.1-8b|qwen3-0.6b|smollm2-135m|tiny TYPE|Q4_K_M OUT.gguf\n");
        return 2;
    }
    enum kern_type embd = mix ? KERN_Q6_K : type;
    plan("token_embd.weight", s->tied ? embd : type, s->d, s->vocab);
    if (!s->tied)
        plan("output.weight", embd, s->d, s->vocab);
    plan("output_norm.weight", KERN_F32, s->d, 0);
    for (int b = 0; b < s->n_layer; b++) {
        /* the mix gives more bits to the first and last eighth and every third layer between */
        bool more = b < s->n_layer / 8 || b >= 7 * s->n_layer / 8 || (b - s->n_layer / 8) % 3 == 2;
        plan_layer(s, b, type, mix && more ? KERN_Q6_K : type);
    }
    struct ggufw *w = ggufw_open(argv[3]);
    write_header(w, s);
    write_vocabulary(w, s);
    for (int i = 0; i < n_tensor; i++)
        ggufw_tensor(w, tensors[i].name, tensors[i].type, tensors[i].n_col, tensors[i].n_row);
    ggufw_begin(w);
    for (int i = 0; i < n_tensor; i++)
        write_tensor(w, &tensors[i]);
    ggufw_close(w);
    return 0;
}
