/* Writes a GGUF of a real model's shape with random weights, for speed and memory measurements.
 *
 * usage: mkmodel SHAPE TYPE OUT.gguf
 *   SHAPE  llama-3.2-1b | llama-3.1-8b | qwen3-0.6b | smollm2-135m | qwen3-30b-a3b | gpt-oss-20b |
 *          qwen35-0.8b | lfm2-1.2b | granite-4-h-1b | gemma4-e2b | youtu-2b | glm-4.7-flash | tiny, and :N after it for N layers only
 *   TYPE   Q4_K_M (the usual mix), or any weight type: F16 BF16 F32 Q8_0 Q4_0 Q4_K Q5_K Q6_K ...;
 *          MXFP4: experts only, Q8_0 for the rest
 * Weights are N(0, 0.02); what the model says means nothing, and its attention is dense. Every
 * matrix is drawn from one pool of quantised blocks, so that a 1 B file takes seconds. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "tests/support/blocks.h"
#include "tests/support/ggufw.h"

struct shape {
    const char *name, *arch, *pre;
    int n_layer, d, n_head, n_kv, head_dim, ff, vocab;
    float base, eps;
    bool tied, qk_norm;
    int n_expert, n_used; /* 0 = dense; else ff is an expert's */
    uint64_t attends;     /* a bit for each layer, the others keep a state; 0 = every layer */
    struct {
        int n, n_query, plain, value; /* channels of the latent, of what queries are made of, of heads; 0 = none */
    } latent; /* attention; head_dim is what is rotated */
};

enum { MAX_LAYERS = 64 };

static struct shape shapes[] = {
    {"llama-3.2-1b", "llama", "llama-bpe", 16, 2048, 32, 8, 64, 8192, 128256, 500000, 1e-5f, true,
     false, 0, 0},
    {"llama-3.1-8b", "llama", "llama-bpe", 32, 4096, 32, 8, 128, 14336, 128256, 500000, 1e-5f,
     false, false, 0, 0},
    {"qwen3-0.6b", "qwen3", "qwen2", 28, 1024, 16, 8, 128, 3072, 151936, 1000000, 1e-6f, true, true,
     0, 0},
    {"smollm2-135m", "llama", "smollm", 30, 576, 9, 3, 64, 1536, 49152, 100000, 1e-5f, true, false,
     0, 0},
    {"qwen3-30b-a3b", "qwen3moe", "qwen2", 48, 2048, 32, 4, 128, 768, 151936, 1000000, 1e-6f, false,
     true, 128, 8},
    {"gpt-oss-20b", "gpt-oss", "gpt-4o", 24, 2880, 64, 8, 64, 2880, 201088, 150000, 1e-5f, false,
     false, 32, 4},
    {"qwen35-0.8b", "qwen35", "qwen35", 24, 1024, 8, 2, 256, 3584, 248320, 10000000, 1e-6f, true,
     true, 0, 0, 0x888888},
    {"lfm2-1.2b", "lfm2", "lfm2", 16, 2048, 32, 8, 64, 8192, 65536, 1000000, 1e-5f, true, true, 0,
     0, 1 << 2 | 1 << 5 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 14},
    {"granite-4-h-1b", "granitehybrid", "dbrx", 40, 1536, 12, 4, 128, 4096, 100352, 10000, 1e-5f, true, false,
     0, 0, 1ull << 5 | 1ull << 15 | 1ull << 25 | 1ull << 35},
    {"gemma4-e2b", "gemma4", "llama-bpe", 35, 1536, 8, 1, 256, 6144, 262144, 1000000, 1e-6f, true, true, 0, 0},
    {"youtu-2b", "deepseek2", "llama-bpe", 32, 2048, 16, 1, 64, 6144, 128256, 1600000, 1e-6f, true, false, 0, 0, 0,
     {512, 1536, 128, 128}},
    {"glm-4.7-flash", "deepseek2", "glm4", 47, 2048, 20, 1, 64, 1536, 154880, 1000000, 1e-5f, false, false, 64, 4, 0,
     {512, 768, 192, 256}},
    {"tiny", "llama", "llama-bpe", 2, 256, 4, 2, 64, 512, 512, 10000, 1e-5f, true, false, 0, 0},
};

enum { POOL_ELEMS = 1 << 20 };

/* Of qwen35: layers with the gated delta rule, as many heads of keys as of values, and rotation. */
enum { INTERVAL = 4, STATE_HEADS = 16, STATE = 128, DELTA_TAPS = 4, ROTATED = 64 };
enum { LFM2_TAPS = 3 };
/* Of granitehybrid: layers with Mamba-2, twice as wide as the model. */
enum { SPACE_HEAD = 64, SPACE_STATE = 128, SPACE_TAPS = 4 };
/* Of gemma4: every fifth layer sees everything, with heads twice as wide; the layers behind the first 15 read
 * what these keep, with networks twice as wide; embeddings by layer. */
enum { SEES_ALL = 5, OWN = 15, SIDE = 256 };

static bool is_arch(const struct shape *s, const char *arch)
{
    return !strcmp(s->arch, arch);
}

static int head_dim(const struct shape *s, int layer)
{
    return is_arch(s, "gemma4") && layer % SEES_ALL == SEES_ALL - 1 ? 2 * s->head_dim : s->head_dim;
}

static bool shares(const struct shape *s, int layer)
{
    return is_arch(s, "gemma4") && layer >= OWN;
}

static bool attends(const struct shape *s, int layer)
{
    return !s->attends || s->attends >> layer & 1;
}

/* A list of KV heads says which layers attend. */
static bool marks(const struct shape *s)
{
    return is_arch(s, "lfm2") || is_arch(s, "granitehybrid");
}

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
    static struct pool pools[64];
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
    p->data = blocks_new(type, values, POOL_ELEMS);
    return p;
}

struct tensor {
    char name[64];
    enum kern_type type;
    int64_t n_col, n_row; /* n_row 0 = a vector */
    int64_t n_mat;        /* as ggufw_stack's */
    float value;          /* of a vector, or of one column */
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
        return quant_is_grid(quant_traits(type)) ? KERN_IQ4_NL : KERN_F16;
    }
}

static void plan(const char *name, enum kern_type type, int64_t n_col, int64_t n_row, int64_t n_mat)
{
    struct tensor *t = &tensors[n_tensor++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->type = n_row ? fitting(type, n_col) : KERN_F32;
    t->n_col = n_col;
    t->n_row = n_row;
    t->n_mat = n_mat;
    t->value = 1;
}

/* A weight of layer b. */
static void plan_in(int b, const char *what, enum kern_type type, int64_t n_col, int64_t n_row,
                    int64_t n_mat)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.weight", b, what);
    plan(name, type, n_col, n_row, n_mat);
}
#define PLAN(what, type, n_col, n_row, n_mat) plan_in(b, what, type, n_col, n_row, n_mat)

static void plan_vector(int b, const char *what, int64_t n, float value)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s", b, what);
    plan(name, KERN_F32, n, 0, 0);
    tensors[n_tensor - 1].value = value;
}

/* The same as a matrix of one column, as some converters write it. */
static void plan_column(int b, const char *what, int64_t n, float value)
{
    plan_vector(b, what, 1, value);
    tensors[n_tensor - 1].n_row = n;
}

static void plan_latent(const struct shape *s, int b, enum kern_type main_type)
{
    int n = s->latent.n, query = s->latent.n_query;
    PLAN("attn_q_a", main_type, s->d, query, 0);
    PLAN("attn_q_a_norm", KERN_F32, query, 0, 0);
    PLAN("attn_q_b", main_type, query, s->n_head * (s->latent.plain + s->head_dim), 0);
    PLAN("attn_kv_a_mqa", main_type, s->d, n + s->head_dim, 0);
    PLAN("attn_kv_a_norm", KERN_F32, n, 0, 0);
    PLAN("attn_k_b", KERN_Q8_0, s->latent.plain, n, s->n_head);
    PLAN("attn_v_b", main_type, n, s->latent.value, s->n_head);
    PLAN("attn_output", main_type, s->n_head * s->latent.value, s->d, 0);
}

static void plan_attention(const struct shape *s, int b, enum kern_type main_type,
                           enum kern_type more_type)
{
    int d = head_dim(s, b), q = s->n_head * d, kv = s->n_kv * d;
    PLAN("attn_q", main_type, s->d, is_arch(s, "qwen35") ? 2 * q : q, 0); /* gates too */
    if (!shares(s, b)) {
        PLAN("attn_k", main_type, s->d, kv, 0);
        PLAN("attn_v", more_type, s->d, kv, 0);
    }
    PLAN("attn_output", main_type, q, s->d, 0);
    if (s->qk_norm)
        PLAN("attn_q_norm", KERN_F32, d, 0, 0);
    if (s->qk_norm && !shares(s, b))
        PLAN("attn_k_norm", KERN_F32, d, 0, 0);
}

/* A state is halved in about 14 tokens. */
static void plan_delta(const struct shape *s, int b, enum kern_type main_type,
                       enum kern_type qkv_type)
{
    int n = STATE_HEADS * STATE;
    PLAN("attn_qkv", qkv_type, s->d, 3 * n, 0);
    PLAN("attn_gate", main_type, s->d, n, 0);
    PLAN("ssm_alpha", main_type, s->d, STATE_HEADS, 0);
    PLAN("ssm_beta", main_type, s->d, STATE_HEADS, 0);
    PLAN("ssm_conv1d", KERN_F32, DELTA_TAPS, 3 * n, 0);
    plan_vector(b, "ssm_dt.bias", STATE_HEADS, -3);
    plan_vector(b, "ssm_a", STATE_HEADS, -1);
    PLAN("ssm_norm", KERN_F32, STATE, 0, 0);
    PLAN("ssm_out", main_type, n, s->d, 0);
}

static void plan_conv(const struct shape *s, int b, enum kern_type main_type)
{
    PLAN("shortconv.in_proj", main_type, s->d, 3 * s->d, 0);
    PLAN("shortconv.conv", KERN_F32, LFM2_TAPS, s->d, 0);
    PLAN("shortconv.out_proj", main_type, s->d, s->d, 0);
}

/* A state is halved in about 14 tokens. */
static void plan_space(const struct shape *s, int b, enum kern_type main_type)
{
    int n = 2 * s->d, heads = n / SPACE_HEAD, mix = n + 2 * SPACE_STATE;
    PLAN("ssm_in", main_type, s->d, n + mix + heads, 0);
    PLAN("ssm_conv1d", KERN_F32, SPACE_TAPS, mix, 0);
    plan_vector(b, "ssm_conv1d.bias", mix, 0);
    plan_vector(b, "ssm_dt.bias", heads, -3);
    plan_column(b, "ssm_a", heads, -1);
    plan_column(b, "ssm_d", heads, 1);
    PLAN("ssm_norm", KERN_F32, n, 0, 0);
    PLAN("ssm_out", main_type, n, s->d, 0);
}

static void plan_gemma4(const struct shape *s, int b, enum kern_type main_type)
{
    PLAN("post_attention_norm", KERN_F32, s->d, 0, 0);
    PLAN("post_ffw_norm", KERN_F32, s->d, 0, 0);
    PLAN("inp_gate", main_type, s->d, SIDE, 0);
    PLAN("proj", main_type, SIDE, s->d, 0);
    PLAN("post_norm", KERN_F32, s->d, 0, 0);
    plan_vector(b, "layer_output_scale.weight", 1, 0.5f);
}

static void plan_layer(const struct shape *s, int b, enum kern_type main_type,
                       enum kern_type more_type, enum kern_type qkv_type)
{
    char name[64];
    int q = s->n_head * s->head_dim, kv = s->n_kv * s->head_dim, ff = shares(s, b) ? 2 * s->ff : s->ff;
    bool oss = is_arch(s, "gpt-oss"), delta = is_arch(s, "qwen35");
    enum kern_type expert_type = main_type;
    if (main_type == KERN_MXFP4)
        main_type = more_type = qkv_type = KERN_Q8_0;
    PLAN("attn_norm", KERN_F32, s->d, 0, 0);
    if (s->latent.n)
        plan_latent(s, b, main_type);
    else if (attends(s, b))
        plan_attention(s, b, main_type, more_type);
    else if (delta)
        plan_delta(s, b, main_type, qkv_type);
    else if (is_arch(s, "granitehybrid"))
        plan_space(s, b, main_type);
    else
        plan_conv(s, b, main_type);
    PLAN(oss || delta ? "post_attention_norm" : "ffn_norm", KERN_F32, s->d, 0, 0);
    if (s->n_expert)
        PLAN("ffn_gate_inp", KERN_F32, s->d, s->n_expert, 0);
    PLAN(s->n_expert ? "ffn_gate_exps" : "ffn_gate", expert_type, s->d, ff, s->n_expert);
    PLAN(s->n_expert ? "ffn_up_exps" : "ffn_up", expert_type, s->d, ff, s->n_expert);
    PLAN(s->n_expert ? "ffn_down_exps" : "ffn_down",
         expert_type == KERN_MXFP4 ? expert_type : more_type, ff, s->d, s->n_expert);
    if (s->latent.n && s->n_expert) {
        PLAN("ffn_gate_shexp", main_type, s->d, ff, 0);
        PLAN("ffn_up_shexp", main_type, s->d, ff, 0);
        PLAN("ffn_down_shexp", more_type, ff, s->d, 0);
    }
    if (is_arch(s, "gemma4"))
        plan_gemma4(s, b, main_type);
    if (oss)
        PLAN("attn_sinks", KERN_F32, s->n_head, 0, 0);
    const struct {
        const char *name;
        int n, n_mat;
    } biases[] = {{"attn_q", q, 0},
                  {"attn_k", kv, 0},
                  {"attn_v", kv, 0},
                  {"attn_output", s->d, 0},
                  {"ffn_gate_inp", s->n_expert, 0},
                  {"ffn_gate_exps", s->ff, s->n_expert},
                  {"ffn_up_exps", s->ff, s->n_expert},
                  {"ffn_down_exps", s->d, s->n_expert}};
    for (size_t i = 0; oss && i < sizeof biases / sizeof *biases; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.bias", b, biases[i].name);
        plan(name, KERN_F32, biases[i].n, biases[i].n_mat, 0);
    }
}
#undef PLAN

static void write_tensor(struct ggufw *w, const struct tensor *t)
{
    if (t->n_row == 0 || t->n_col == 1) {
        int64_t n = t->n_row == 0 ? t->n_col : t->n_row;
        float *x = mem_alloc((size_t)n * sizeof *x);
        for (int64_t i = 0; i < n; i++)
            x[i] = t->value;
        ggufw_data(w, x, (size_t)n * sizeof *x);
        free(x);
        return;
    }
    struct pool *p = pool_for(t->type);
    size_t block = kern_type_bytes(t->type);
    size_t left =
        (size_t)(t->n_col * t->n_row * (t->n_mat ? t->n_mat : 1) / kern_type_block(t->type)) *
        block;
    while (left) {
        size_t n_block = p->size_bytes / block;
        size_t first = next() % n_block, n = (n_block - first) * block;
        if (n > left)
            n = left;
        ggufw_data(w, p->data + first * block, n);
        left -= n;
    }
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
    int32_t ff[MAX_LAYERS];
    for (int b = 0; b < s->n_layer; b++)
        ff[b] = shares(s, b) ? 2 * s->ff : s->ff;
    if (is_arch(s, "gemma4"))
        ggufw_i32s(w, KEY("feed_forward_length"), ff, (size_t)s->n_layer);
    else
        ggufw_u32(w, KEY("feed_forward_length"), (uint32_t)s->ff);
    ggufw_u32(w, KEY("attention.head_count"), (uint32_t)s->n_head);
    if (!marks(s))
        ggufw_u32(w, KEY("attention.head_count_kv"), (uint32_t)s->n_kv);
    ggufw_u32(w, KEY("attention.key_length"), (uint32_t)(s->latent.n + head_dim(s, SEES_ALL - 1)));
    ggufw_u32(w, KEY("attention.value_length"), (uint32_t)(s->latent.n ? s->latent.n : head_dim(s, SEES_ALL - 1)));
    if (s->latent.n) {
        ggufw_u32(w, KEY("attention.kv_lora_rank"), (uint32_t)s->latent.n);
        ggufw_u32(w, KEY("attention.q_lora_rank"), (uint32_t)s->latent.n_query);
        ggufw_u32(w, KEY("attention.key_length_mla"), (uint32_t)(s->latent.plain + s->head_dim));
        ggufw_u32(w, KEY("attention.value_length_mla"), (uint32_t)s->latent.value);
        ggufw_u32(w, KEY("expert_shared_count"), s->n_expert ? 1 : 0);
        ggufw_u32(w, KEY("leading_dense_block_count"), s->n_expert ? 0 : (uint32_t)s->n_layer);
        if (!s->n_expert)
            ggufw_u32(w, KEY("expert_feed_forward_length"), (uint32_t)s->ff);
    }
    ggufw_f32(w, KEY("attention.layer_norm_rms_epsilon"), s->eps);
    ggufw_f32(w, KEY("rope.freq_base"), s->base);
    ggufw_u32(w, KEY("rope.dimension_count"),
              is_arch(s, "qwen35") ? ROTATED : (uint32_t)head_dim(s, SEES_ALL - 1));
    ggufw_u32(w, KEY("vocab_size"), (uint32_t)s->vocab);
    if (s->n_expert) {
        ggufw_u32(w, KEY("expert_count"), (uint32_t)s->n_expert);
        ggufw_u32(w, KEY("expert_used_count"), (uint32_t)s->n_used);
        ggufw_u32(w, KEY("expert_feed_forward_length"), (uint32_t)s->ff);
    }
    if (is_arch(s, "gpt-oss")) {
        ggufw_u32(w, KEY("attention.sliding_window"), 128);
        ggufw_str(w, KEY("rope.scaling.type"), "yarn");
        ggufw_f32(w, KEY("rope.scaling.factor"), 32);
        ggufw_u32(w, KEY("rope.scaling.original_context_length"), 4096);
    }
    static const int32_t sections[] = {11, 11, 10, 0};
    if (is_arch(s, "qwen35")) {
        ggufw_i32s(w, KEY("rope.dimension_sections"), sections, 4);
        ggufw_u32(w, KEY("ssm.conv_kernel"), DELTA_TAPS);
        ggufw_u32(w, KEY("ssm.state_size"), STATE);
        ggufw_u32(w, KEY("ssm.group_count"), STATE_HEADS);
        ggufw_u32(w, KEY("ssm.time_step_rank"), STATE_HEADS);
        ggufw_u32(w, KEY("ssm.inner_size"), STATE_HEADS * STATE);
        ggufw_u32(w, KEY("full_attention_interval"), INTERVAL);
    }
    if (is_arch(s, "gemma4")) {
        bool slides[MAX_LAYERS];
        for (int b = 0; b < s->n_layer; b++)
            slides[b] = head_dim(s, b) == s->head_dim;
        ggufw_u32(w, KEY("attention.key_length_swa"), (uint32_t)s->head_dim);
        ggufw_u32(w, KEY("attention.value_length_swa"), (uint32_t)s->head_dim);
        ggufw_u32(w, KEY("rope.dimension_count_swa"), (uint32_t)s->head_dim);
        ggufw_f32(w, KEY("rope.freq_base_swa"), 10000);
        ggufw_u32(w, KEY("attention.sliding_window"), 512);
        ggufw_bools(w, KEY("attention.sliding_window_pattern"), slides, (size_t)s->n_layer);
        ggufw_u32(w, KEY("attention.shared_kv_layers"), (uint32_t)(s->n_layer > OWN ? s->n_layer - OWN : 0));
        ggufw_u32(w, KEY("embedding_length_per_layer_input"), SIDE);
        ggufw_f32(w, KEY("final_logit_softcapping"), 30);
    }
    if (is_arch(s, "granitehybrid")) {
        ggufw_u32(w, KEY("ssm.conv_kernel"), SPACE_TAPS);
        ggufw_u32(w, KEY("ssm.state_size"), SPACE_STATE);
        ggufw_u32(w, KEY("ssm.group_count"), 1);
        ggufw_u32(w, KEY("ssm.time_step_rank"), (uint32_t)(2 * s->d / SPACE_HEAD));
        ggufw_u32(w, KEY("ssm.inner_size"), (uint32_t)(2 * s->d));
        ggufw_bool(w, KEY("rope.scaling.finetuned"), false);
    }
    if (marks(s)) {
        int32_t n_kv[MAX_LAYERS];
        for (int b = 0; b < s->n_layer; b++)
            n_kv[b] = attends(s, b) ? s->n_kv : 0;
        ggufw_i32s(w, KEY("attention.head_count_kv"), n_kv, (size_t)s->n_layer);
    }
    if (is_arch(s, "lfm2"))
        ggufw_u32(w, KEY("shortconv.l_cache"), LFM2_TAPS);
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
    struct shape *s = NULL;
    char *layers = argc == 4 ? strchr(argv[1], ':') : NULL;
    if (layers)
        *layers++ = 0;
    for (size_t i = 0; argc == 4 && i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(argv[1], shapes[i].name))
            s = &shapes[i];
    if (s && layers)
        s->n_layer = atoi(layers);
    if (s && s->n_layer > MAX_LAYERS) {
        fprintf(stderr, "mkmodel: %s has at most %d layers\n", s->name, MAX_LAYERS);
        return 2;
    }
    bool mix = argc == 4 && !strcmp(argv[2], "Q4_K_M");
    enum kern_type type = KERN_Q4_K;
    if (!s || (!mix && !parse_type(argv[2], &type))) {
        fprintf(stderr, "usage: mkmodel "
                        "llama-3.2-1b|llama-3.1-8b|qwen3-0.6b|smollm2-135m|qwen3-30b-a3b|gpt-oss-"
                        "20b|qwen35-0.8b|lfm2-1.2b|granite-4-h-1b|gemma4-e2b|youtu-2b|glm-4.7-flash|tiny[:LAYERS] TYPE|Q4_K_M OUT.gguf\n");
        return 2;
    }
    enum kern_type embd = mix ? KERN_Q6_K : type == KERN_MXFP4 ? KERN_Q8_0 : type;
    plan("token_embd.weight", s->tied || type == KERN_MXFP4 ? embd : type, s->d, s->vocab, 0);
    if (!s->tied)
        plan("output.weight", embd, s->d, s->vocab, 0);
    plan(is_arch(s, "lfm2") ? "token_embd_norm.weight" : "output_norm.weight", KERN_F32, s->d, 0,
         0);
    if (is_arch(s, "gemma4")) {
        plan("per_layer_token_embd.weight", embd, (int64_t)s->n_layer * SIDE, s->vocab, 0);
        plan("per_layer_model_proj.weight", KERN_BF16, s->d, (int64_t)s->n_layer * SIDE, 0);
        plan("per_layer_proj_norm.weight", KERN_F32, SIDE, 0, 0);
        plan("rope_freqs.weight", KERN_F32, s->head_dim, 0, 0);
    }
    for (int b = 0; b < s->n_layer; b++) {
        /* the mix gives more bits to the first and last eighth and every third layer between */
        bool more = b < s->n_layer / 8 || b >= 7 * s->n_layer / 8 || (b - s->n_layer / 8) % 3 == 2;
        plan_layer(s, b, type, mix && more ? KERN_Q6_K : type, mix ? KERN_Q5_K : type);
    }
    struct ggufw *w = ggufw_open(argv[3]);
    write_header(w, s);
    ggufw_byte_vocabulary(w, s->pre, s->vocab);
    for (int i = 0; i < n_tensor; i++)
        ggufw_stack(w, tensors[i].name, tensors[i].type, tensors[i].n_col, tensors[i].n_row,
                    tensors[i].n_mat);
    ggufw_begin(w);
    for (int i = 0; i < n_tensor; i++)
        write_tensor(w, &tensors[i]);
    ggufw_close(w);
    return 0;
}
