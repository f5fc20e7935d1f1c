#include "engine/model.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/base/mem.h"

enum {
    MAX_EMBD = 1 << 17,
    MAX_FF = 1 << 20,
    MAX_HEADS = 1024,
    MAX_HEAD_DIM = 512,
    MAX_VOCAB = 1 << 24,
    MAX_CTX = 1 << 30,
    MAX_EXPERTS = 1 << 12,
};

enum trait {
    QKV_BIAS = 1,       /* required; without this they are optional */
    QK_NORM = 2,        /* of each head */
    QK_NORM_ROW = 4,    /* of all heads together */
    PRE_NORM = 8,       /* of a block's input */
    POST_NORM = 16,     /* of its answer */
    FFN_NORM_POST = 32, /* the norm of the second block's input is called post_attention_norm */
    EXPERTS = 64,
    SOME_EXPERTS = 128, /* some models of the architecture have them */
    EXPERT_NORM = 256,  /* see model_params */
    SINKS = 512,
    QK_NORM_LATE = 1024,   /* after the rotation */
    ROPE_SLIDING = 2048,   /* where some layers slide, the others tell no positions */
    SHARED = 1 << 12,      /* one expert is every token's */
    SOME_SHARED = 1 << 13, /* in some models */
    SHARED_GATE = 1 << 14, /* and weighed: see model_layer */
    SOME_DENSE = 1 << 15,  /* some layers have no experts */
    SIGMOID = 1 << 16,     /* see model_params */
    COHERE = 1 << 17,      /* LayerNorm, and one for both blocks, which lie side by side */
};

static const struct arch {
    const char *name;
    enum model_arch arch;
    enum kern_rope_mode rope_mode;
    enum kern_act act;
    int32_t period; /* of every so many layers the last one does not slide, unless the file says */
    unsigned traits;
} archs[] = {
    {"llama", MODEL_LLAMA, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0,
     PRE_NORM | SOME_EXPERTS | EXPERT_NORM},
    {"qwen2", MODEL_QWEN2, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QKV_BIAS},
    {"qwen3", MODEL_QWEN3, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QK_NORM},
    {"qwen3moe", MODEL_QWEN3MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | EXPERTS | EXPERT_NORM},
    {"gemma", MODEL_GEMMA, KERN_ROPE_HALVES, KERN_ACT_GELU_TANH, 0, PRE_NORM},
    {"gemma2", MODEL_GEMMA2, KERN_ROPE_HALVES, KERN_ACT_GELU_TANH, 2, PRE_NORM | POST_NORM},
    {"gemma3", MODEL_GEMMA3, KERN_ROPE_HALVES, KERN_ACT_GELU_TANH, 6,
     PRE_NORM | POST_NORM | QK_NORM},
    {"phi3", MODEL_PHI3, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM},
    {"smollm3", MODEL_SMOLLM3, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"granite", MODEL_GRANITE, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"granitemoe", MODEL_GRANITEMOE, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0,
     PRE_NORM | EXPERTS | EXPERT_NORM},
    {"olmo2", MODEL_OLMO2, KERN_ROPE_HALVES, KERN_ACT_SILU, 4, POST_NORM | QK_NORM_ROW},
    {"olmoe", MODEL_OLMOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QK_NORM_ROW | EXPERTS},
    {"mistral3", MODEL_MISTRAL3, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"gpt-oss", MODEL_GPT_OSS, KERN_ROPE_HALVES, KERN_ACT_SWIGLU_OAI, 2,
     PRE_NORM | FFN_NORM_POST | QKV_BIAS | SINKS | EXPERTS | EXPERT_NORM},
    {"seed_oss", MODEL_SEED_OSS, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | FFN_NORM_POST},
    {"glm4", MODEL_GLM4, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM | POST_NORM},
    {"exaone4", MODEL_EXAONE4, KERN_ROPE_HALVES, KERN_ACT_SILU, 4,
     POST_NORM | QK_NORM | ROPE_SLIDING},
    {"hunyuan-dense", MODEL_HUNYUAN_DENSE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | QK_NORM_LATE},
    {"ernie4_5", MODEL_ERNIE4_5, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"qwen2moe", MODEL_QWEN2MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QKV_BIAS | EXPERTS | SHARED | SHARED_GATE},
    {"glm4moe", MODEL_GLM4MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | FFN_NORM_POST | EXPERTS | SHARED | SOME_DENSE | SIGMOID},
    {"hunyuan-moe", MODEL_HUNYUAN_MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | QK_NORM_LATE | EXPERTS | EXPERT_NORM | SHARED},
    {"ernie4_5-moe", MODEL_ERNIE4_5_MOE, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0,
     PRE_NORM | EXPERTS | EXPERT_NORM | SOME_SHARED | SOME_DENSE},
    {"command-r", MODEL_COHERE, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, COHERE},
    {"cohere2", MODEL_COHERE2, KERN_ROPE_PAIRS, KERN_ACT_SILU, 4, COHERE | ROPE_SLIDING},
    /* The language parts of models that also see: of text alone, their positions are plain. */
    {"qwen2vl", MODEL_QWEN2, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QKV_BIAS},
    {"qwen3vl", MODEL_QWEN3, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QK_NORM},
    {"qwen3vlmoe", MODEL_QWEN3MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | EXPERTS | EXPERT_NORM},
};

static const struct arch *arch_of(const struct model_params *p)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (archs[i].arch == p->arch)
            return &archs[i];
    return NULL;
}

static bool has(const struct model_params *p, unsigned trait)
{
    return (arch_of(p)->traits & trait) != 0;
}

/* ---- hyper-parameters ---- */

/* Key "ARCH.NAME"; buf is the caller's. */
static const char *arch_key(const struct model_params *p, const char *name, char buf[128])
{
    snprintf(buf, 128, "%s.%s", p->arch_name, name);
    return buf;
}

/* An integer in [lo, hi]; arrays (one value per layer) are taken when all values are the same.
 * absent < 0 = required. */
static enum status get_int(const struct gguf *g, const struct model_params *p, const char *name,
                           int64_t lo, int64_t hi, int64_t absent, int32_t *ret, struct err *e)
{
    char key[128];
    const struct gguf_kv *kv = gguf_find(g, arch_key(p, name, key));
    int64_t v = absent, other;
    if (!kv && absent < 0)
        return err_set(e, ERR_FORMAT, "%s: metadata '%s' is missing: not a complete model",
                       gguf_path(g), key);
    if (kv && !gguf_elem_i64(kv, 0, &v))
        return err_set(e, ERR_FORMAT, "%s: metadata '%s' is not an integer", gguf_path(g), key);
    for (uint64_t i = 1; kv && i < kv->n; i++)
        if (!gguf_elem_i64(kv, i, &other) || other != v)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: '%s' differs between layers, which is not "
                           "supported",
                           gguf_path(g), key);
    if (kv && (v < lo || v > hi))
        return err_set(e, ERR_FORMAT, "%s: '%s' = %lld is outside %lld..%lld", gguf_path(g), key,
                       (long long)v, (long long)lo, (long long)hi);
    *ret = (int32_t)v;
    return OK;
}

static enum status get_float(const struct gguf *g, const struct model_params *p, const char *name,
                             float lo, float hi, float absent, float *ret, struct err *e)
{
    char key[128];
    float v = absent;
    if (gguf_find(g, arch_key(p, name, key)) && !gguf_get_f32(g, key, &v))
        return err_set(e, ERR_FORMAT, "%s: metadata '%s' is not a number", gguf_path(g), key);
    if (!(v >= lo && v <= hi)) /* also refuses NaN */
        return err_set(e, ERR_FORMAT, "%s: '%s' = %g is outside %g..%g", gguf_path(g), key,
                       (double)v, (double)lo, (double)hi);
    *ret = v;
    return OK;
}

static enum status read_arch(const struct gguf *g, struct model_params *p, struct err *e)
{
    struct gguf_str s;
    if (!gguf_get_str(g, "general.architecture", &s))
        return err_set(e, ERR_FORMAT, "%s: metadata 'general.architecture' is missing",
                       gguf_path(g));
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (s.len == strlen(archs[i].name) && memcmp(s.s, archs[i].name, s.len) == 0) {
            p->arch = archs[i].arch;
            p->rope_mode = archs[i].rope_mode;
            p->act = archs[i].act;
            snprintf(p->arch_name, sizeof p->arch_name, "%s", archs[i].name);
            return OK;
        }
    char known[400] = "";
    for (size_t i = 0, n = 0; i < sizeof archs / sizeof *archs && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", archs[i].name);
    return err_set(e, ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported (%s are)",
                   gguf_path(g), (int)(s.len < 64 ? s.len : 64), s.s, known);
}

static void read_name(const struct gguf *g, struct model_params *p)
{
    struct gguf_str s;
    if (gguf_get_str(g, "general.name", &s) && s.len) {
        size_t n = s.len < sizeof p->name - 1 ? s.len : sizeof p->name - 1;
        while (n < s.len && n && ((unsigned char)s.s[n] & 0xc0) == 0x80)
            n--; /* not inside a code point */
        memcpy(p->name, s.s, n);
        p->name[n] = 0;
        for (char *c = p->name; *c; c++)
            if ((unsigned char)*c < ' ' || *c == 0x7f)
                *c = ' ';
        return;
    }
    const char *path = gguf_path(g), *slash = strrchr(path, '/');
    snprintf(p->name, sizeof p->name, "%s", slash ? slash + 1 : path);
    char *dot = strstr(p->name, ".gguf");
    if (dot)
        *dot = 0;
}

static enum status read_rope(const struct gguf *g, struct model_params *p, struct err *e)
{
    struct model_rope_params *r = &p->rope;
    char key[128];
    struct gguf_str type = {"linear", 6};
    TRY(get_int(g, p, "rope.dimension_count", 2, p->head_dim, p->head_dim, &p->n_rot, e));
    if (p->n_rot % 2)
        return err_set(e, ERR_FORMAT, "%s: %d rotated channels is an odd number", gguf_path(g),
                       p->n_rot);
    float alpha;
    TRY(get_float(g, p, "rope.freq_base", 1.001f, 1e12f, 10000.0f, &r->base, e));
    TRY(get_float(g, p, "rope.scaling.alpha", 0, 1e6f, 0, &alpha, e));
    if (alpha > 0 && p->head_dim > 2) /* hunyuan: stretched by a longer base ("NTK-aware") */
        r->base *= powf(alpha, (float)p->head_dim / (float)(p->head_dim - 2));
    /* Of glm4, files of models that also see are converted to halves. */
    int64_t section;
    if (p->arch == MODEL_GLM4 &&
        gguf_elem_i64(gguf_find(g, arch_key(p, "rope.dimension_sections", key)), 0, &section) &&
        section > 0)
        p->rope_mode = KERN_ROPE_HALVES;
    gguf_get_str(g, arch_key(p, "rope.scaling.type", key), &type);
    TRY(get_float(g, p, "rope.scale_linear", 0, 1e6f, 0, &r->factor, e));
    TRY(get_float(g, p, "rope.scaling.factor", 0, 1e6f, r->factor, &r->factor, e));
    if (r->factor == 0)
        r->factor = 1;
    TRY(get_float(g, p, "rope.scaling.attn_factor", 0, 1e3f, 1, &r->attn_factor, e));
    TRY(get_float(g, p, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, 32, &r->yarn_beta_fast, e));
    TRY(get_float(g, p, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, 1, &r->yarn_beta_slow, e));
    TRY(get_float(g, p, "rope.scaling.yarn_log_multiplier", -1e3f, 1e3f, 0, &r->yarn_log_mul, e));
    TRY(get_int(g, p, "rope.scaling.original_context_length", 1, MAX_CTX, p->n_ctx_train,
                &p->n_ctx_orig, e));
    bool is_yarn = type.len == 4 && memcmp(type.s, "yarn", 4) == 0;
    bool is_long = type.len == 8 && memcmp(type.s, "longrope", 8) == 0;
    bool is_none = type.len == 4 && memcmp(type.s, "none", 4) == 0;
    if (!is_yarn && !is_long && !is_none && !(type.len == 6 && memcmp(type.s, "linear", 6) == 0))
        return err_set(e, ERR_UNSUPPORTED, "%s: RoPE scaling '%.*s' is not supported", gguf_path(g),
                       (int)(type.len < 32 ? type.len : 32), type.s);
    r->yarn = is_yarn && r->factor > 1;
    if (is_none || is_long) /* longrope scales by its own tables */
        r->factor = 1;
    p->rope_local = *r;
    /* Sliding layers are neither stretched nor, gemma's, long-based. */
    if (p->arch == MODEL_GEMMA3 || p->arch == MODEL_OLMO2)
        p->rope_local = (struct model_rope_params){
            .base = p->arch == MODEL_GEMMA3 ? 10000.0f : r->base, .factor = 1, .attn_factor = 1};
    return get_float(g, p, "rope.freq_base_swa", 1.001f, 1e12f, p->rope_local.base,
                     &p->rope_local.base, e);
}

/* Which layers slide: a period (gemma: the last of each period sees everything), an explicit list,
 * or all. */
static enum status read_window(const struct gguf *g, struct model_params *p, struct err *e)
{
    char key[128];
    /* Of exaone4 the 32B slides, the 1.2B does not. */
    bool slides = p->arch == MODEL_GEMMA2 || (p->arch == MODEL_EXAONE4 && p->n_layer == 64);
    TRY(get_int(g, p, "attention.sliding_window", 0, MAX_CTX, slides ? 4096 : 0, &p->window, e));
    /* qwen2 and qwen3 files carry the number, but the models were trained without using it. */
    if (p->arch == MODEL_QWEN2 || p->arch == MODEL_QWEN3 || p->arch == MODEL_QWEN3MOE)
        p->window = 0;
    const struct gguf_kv *kv = gguf_find(g, arch_key(p, "attention.sliding_window_pattern", key));
    int64_t period = arch_of(p)->period;
    if (kv && kv->type == GGUF_ARRAY) {
        int64_t v;
        if (kv->n < (uint64_t)p->n_layer)
            return err_set(e, ERR_FORMAT, "%s: '%s' has %llu entries for %d layers", gguf_path(g),
                           key, (unsigned long long)kv->n, p->n_layer);
        for (int32_t i = 0; i < p->n_layer; i++) {
            if (!gguf_elem_i64(kv, (uint64_t)i, &v))
                return err_set(e, ERR_FORMAT, "%s: '%s' is not a list of flags", gguf_path(g), key);
            p->sliding[i] = p->window && v;
        }
        return OK;
    }
    if (kv && (!gguf_elem_i64(kv, 0, &period) || period < 0))
        return err_set(e, ERR_FORMAT, "%s: '%s' is not a period", gguf_path(g), key);
    for (int32_t i = 0; i < p->n_layer; i++)
        p->sliding[i] = p->window && (period == 0 || i % period < period - 1);
    return OK;
}

/* Values of expert_gating_func; there are others. */
enum gating {
    GATING_BY_ARCH,
    GATING_SOFTMAX,
    GATING_SIGMOID,
    GATING_CHOSEN /* softmax of these */
};

static enum status read_experts(const struct gguf *g, struct model_params *p, struct err *e)
{
    int32_t n_shared, n_group, gating;
    TRY(get_int(g, p, "expert_count", 0, MAX_EXPERTS, 0, &p->n_expert, e));
    if (p->n_expert == 0 && has(p, EXPERTS))
        return err_set(e, ERR_FORMAT,
                       "%s: metadata '%s.expert_count' is missing or 0: not a complete model",
                       gguf_path(g), p->arch_name);
    if (p->n_expert == 0)
        return get_int(g, p, "feed_forward_length", 1, MAX_FF, -1, &p->n_ff, e);
    TRY(get_int(g, p, "expert_shared_feed_forward_length", 0, MAX_FF, 0, &n_shared, e));
    if (!has(p, EXPERTS | SOME_EXPERTS) || (n_shared > 0 && !has(p, SHARED | SOME_SHARED)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a mixture of %d experts%s is not supported with architecture '%s'; use "
                       "another model",
                       gguf_path(g), p->n_expert, n_shared ? ", some of them shared," : "",
                       p->arch_name);
    TRY(get_int(g, p, "expert_used_count", 1, p->n_expert, -1, &p->n_expert_used, e));
    TRY(get_int(g, p, "feed_forward_length", 0, MAX_FF, 0, &p->n_ff, e));
    TRY(get_int(g, p, "expert_feed_forward_length", 1, MAX_FF, p->n_ff > 0 ? p->n_ff : -1, &p->n_ff,
                e));
    char key[128];
    TRY(get_int(g, p, "expert_group_count", 0, 1, 0, &n_group, e));
    TRY(get_int(g, p, "expert_gating_func", 0, GATING_CHOSEN, 0, &gating, e));
    p->expert_sigmoid = gating == GATING_BY_ARCH ? has(p, SIGMOID) : gating == GATING_SIGMOID;
    p->expert_norm = has(p, EXPERT_NORM);
    gguf_get_bool(g, arch_key(p, "expert_weights_norm", key), &p->expert_norm);
    p->expert_norm |= gating == GATING_CHOSEN;
    TRY(get_float(g, p, "expert_weights_scale", 0, 1e3f, 0, &p->expert_scale, e));
    if (p->expert_scale == 0)
        p->expert_scale = 1;
    if (p->n_ff % KERN_ROW_STEP || p->n_embd % KERN_ROW_STEP ||
        (int64_t)p->n_expert * (p->n_ff > p->n_embd ? p->n_ff : p->n_embd) > INT32_MAX)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s: %d experts of width %d in a model of width %d are not supported (widths "
            "must be multiples of %d)",
            gguf_path(g), p->n_expert, p->n_ff, p->n_embd, KERN_ROW_STEP);
    return OK;
}

/* Factors on the logits, and granite's on the stream: answers are multiplied by r before they are
 * added to the stream. Norms do not care how large the stream is, but for their epsilon: the same
 * is a stream that is 1/r as large. */
static enum status read_factors(const struct gguf *g, struct model_params *p, struct err *e)
{
    float residual, logit;
    if (has(p, COHERE))
        return get_float(g, p, "logit_scale", 1e-6f, 1e6f, 1, &p->output_scale, e);
    if (p->arch != MODEL_GRANITE && p->arch != MODEL_GRANITEMOE)
        return OK;
    TRY(get_float(g, p, "embedding_scale", 1e-6f, 1e6f, 1, &p->embed_scale, e));
    TRY(get_float(g, p, "residual_scale", 1e-3f, 1e3f, 1, &residual, e));
    TRY(get_float(g, p, "logit_scale", 1e-6f, 1e6f, 1, &logit, e));
    p->embed_scale /= residual;
    p->norm_eps /= residual * residual;
    p->output_scale = 1 / logit;
    char key[128];
    bool rotates = true;
    gguf_get_bool(g, arch_key(p, "rope.scaling.finetuned", key), &rotates);
    if (!rotates)
        return err_set(e, ERR_UNSUPPORTED, "%s: granite without encoded positions is not supported",
                       gguf_path(g));
    return OK;
}

static enum status read_params(const struct gguf *g, struct model_params *p, struct err *e)
{
    int32_t len_k, len_v;
    TRY(read_arch(g, p, e));
    read_name(g, p);
    int32_t n_draft; /* layers that only guess further tokens: not computed */
    TRY(get_int(g, p, "block_count", 1, MODEL_LAYERS, -1, &p->n_layer, e));
    TRY(get_int(g, p, "nextn_predict_layers", 0, p->n_layer - 1, 0, &n_draft, e));
    p->n_layer -= n_draft;
    TRY(get_int(g, p, "embedding_length", 1, MAX_EMBD, -1, &p->n_embd, e));
    TRY(read_experts(g, p, e));
    TRY(get_int(g, p, "attention.head_count", 1, MAX_HEADS, -1, &p->n_head, e));
    TRY(get_int(g, p, "attention.head_count_kv", 1, p->n_head, p->n_head, &p->n_head_kv, e));
    TRY(get_int(g, p, "context_length", 1, MAX_CTX, -1, &p->n_ctx_train, e));
    TRY(get_int(g, p, "attention.key_length", 1, MAX_HEAD_DIM, p->n_embd / p->n_head, &len_k, e));
    TRY(get_int(g, p, "attention.value_length", 1, MAX_HEAD_DIM, len_k, &len_v, e));
    if (p->n_head % p->n_head_kv)
        return err_set(e, ERR_FORMAT, "%s: %d heads do not share %d KV heads evenly", gguf_path(g),
                       p->n_head, p->n_head_kv);
    if (len_k != len_v || len_k % 2 || len_k < 2 || len_k > MAX_HEAD_DIM)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: heads of %d key and %d value channels are not "
                       "supported",
                       gguf_path(g), len_k, len_v);
    p->head_dim = len_k;
    p->layer_norm = p->side_by_side = has(p, COHERE);
    TRY(get_float(
        g, p, p->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
        0, 1, 1e-5f, &p->norm_eps, e));
    TRY(read_rope(g, p, e));
    TRY(read_window(g, p, e));

    bool gemma = p->arch == MODEL_GEMMA || p->arch == MODEL_GEMMA2 || p->arch == MODEL_GEMMA3;
    bool gemma_27b = (p->arch == MODEL_GEMMA2 && p->n_layer == 46) ||
                     (p->arch == MODEL_GEMMA3 && p->n_layer == 62);
    p->embed_scale = gemma ? sqrtf((float)p->n_embd) : 1;
    p->output_scale = 1;
    p->norm_rotated = has(p, QK_NORM_LATE);
    TRY(read_factors(g, p, e));
    if (p->arch == MODEL_MISTRAL3)
        TRY(get_float(g, p, "attention.temperature_scale", 0, 1e3f, 0, &p->q_growth, e));
    if (p->q_growth > 0 && p->n_rot < p->head_dim) /* it goes with the rotation */
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: growing queries of which only %d of %d channels are rotated are not "
                       "supported",
                       gguf_path(g), p->n_rot, p->head_dim);
    /* The 27B models were trained with the width per head instead of the head's own size. */
    p->attn_scale = 1 / sqrtf((float)(gemma_27b ? p->n_embd / p->n_head : p->head_dim));
    TRY(get_float(g, p, "attention.scale", 0, 1e3f, p->attn_scale, &p->attn_scale, e));
    bool caps = p->arch == MODEL_GEMMA2;
    TRY(get_float(g, p, "attn_logit_softcapping", 0, 1e6f, caps ? 50 : 0, &p->attn_softcap, e));
    return get_float(g, p, "final_logit_softcapping", 0, 1e6f, caps ? 30 : 0, &p->logit_softcap, e);
}

/* ---- binding ---- */

static const struct gguf_tensor *tensor(const struct gguf *g, const char *fmt, int32_t layer)
{
    char name[80];
    snprintf(name, sizeof name, fmt, layer);
    return gguf_tensor_find(g, name);
}

/* Binds all of a tensor that must be [n_col, n_row, n_expert]. */
static enum status bind_experts(const struct gguf *g, const struct gguf_tensor *t, const char *what,
                                int32_t layer, int32_t n_col, int32_t n_row, int32_t n_expert,
                                struct model_mat *ret, struct err *e)
{
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: tensor %s of layer %d is missing", gguf_path(g), what,
                       layer);
    if (t->dim[0] != n_col || t->dim[1] != n_row || t->dim[2] != n_expert || t->dim[3] != 1)
        return err_set(
            e, ERR_FORMAT,
            "%s: tensor '%s' is %lld x %lld x %lld, but the model's parameters ask for %d "
            "x %d x %d",
            gguf_path(g), t->name, (long long)t->dim[0], (long long)t->dim[1], (long long)t->dim[2],
            n_col, n_row, n_expert);
    *ret = (struct model_mat){.t = t, .n_row = n_row * n_expert, .n_col = n_col};
    return OK;
}

/* Binds rows [row0, row0 + n_row) of a tensor that must be [n_col, all_row]. */
static enum status bind_mat(const struct gguf *g, const struct gguf_tensor *t, const char *what,
                            int32_t layer, int32_t n_col, int32_t all_row, int32_t row0,
                            int32_t n_row, struct model_mat *ret, struct err *e)
{
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: tensor %s of layer %d is missing", gguf_path(g), what,
                       layer);
    if (t->dim[0] != n_col || t->dim[1] != all_row || t->dim[2] != 1 || t->dim[3] != 1)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor '%s' is %lld x %lld, but the model's parameters "
                       "ask for %d x %d",
                       gguf_path(g), t->name, (long long)t->dim[0], (long long)t->dim[1], n_col,
                       all_row);
    *ret = (struct model_mat){.t = t, .row0 = row0, .n_row = n_row, .n_col = n_col};
    return OK;
}

/* required = false: an absent tensor leaves an absent vector. */
static enum status bind_vec(const struct gguf *g, const struct gguf_tensor *t, const char *what,
                            int32_t layer, bool required, int32_t all, int32_t at, int32_t n,
                            struct model_vec *ret, struct err *e)
{
    if (!t && !required)
        return OK;
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: tensor %s of layer %d is missing", gguf_path(g), what,
                       layer);
    if (t->n_elem != all)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor '%s' has %lld values, but the model's parameters "
                       "ask for %d",
                       gguf_path(g), t->name, (long long)t->n_elem, all);
    *ret = (struct model_vec){.t = t, .at = at, .n = n};
    return OK;
}

/* Rows of a matrix whose size no metadata tells; 0 = absent. */
static int32_t rows(const struct gguf_tensor *t)
{
    return !t ? 0 : t->dim[1] < MAX_FF ? (int32_t)t->dim[1] : MAX_FF;
}

#define MAT(field, fmt, col, all, at, rows)                                                        \
    TRY(bind_mat(g, tensor(g, "blk.%d." fmt, i), fmt, i, col, all, at, rows, &l->field, e))
#define VEC(field, fmt, required, all, at, n)                                                      \
    TRY(bind_vec(g, tensor(g, "blk.%d." fmt, i), fmt, i, required, all, at, n, &l->field, e))
#define EXPERTS_OF(field, fmt, col, rows)                                                          \
    TRY(bind_experts(g, tensor(g, "blk.%d." fmt, i), fmt, i, col, rows, p->n_expert, &l->field, e))

static enum status bind_feed_forward(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t d = p->n_embd;
    if (p->n_expert > 0 && (tensor(g, "blk.%d.ffn_gate_inp.weight", i) || !has(p, SOME_DENSE))) {
        int32_t n = p->n_expert, shared = rows(tensor(g, "blk.%d.ffn_up_shexp.weight", i));
        MAT(router, "ffn_gate_inp.weight", d, n, 0, n);
        EXPERTS_OF(gates, "ffn_gate_exps.weight", d, p->n_ff);
        EXPERTS_OF(ups, "ffn_up_exps.weight", d, p->n_ff);
        EXPERTS_OF(downs, "ffn_down_exps.weight", p->n_ff, d);
        VEC(pick, "exp_probs_b.bias", false, n, 0, n);
        VEC(router_bias, "ffn_gate_inp.bias", false, n, 0, n);
        VEC(gates_bias, "ffn_gate_exps.bias", false, n * p->n_ff, 0, n * p->n_ff);
        VEC(ups_bias, "ffn_up_exps.bias", false, n * p->n_ff, 0, n * p->n_ff);
        VEC(downs_bias, "ffn_down_exps.bias", false, n * d, 0, n * d);
        if (has(p, SHARED) || (has(p, SOME_SHARED) && shared > 0)) {
            MAT(gate, "ffn_gate_shexp.weight", d, shared, 0, shared);
            MAT(up, "ffn_up_shexp.weight", d, shared, 0, shared);
            MAT(down, "ffn_down_shexp.weight", shared, d, 0, d);
        }
        if (has(p, SHARED_GATE))
            MAT(share, "ffn_gate_inp_shexp.weight", d, 1, 0, 1);
    } else {
        int32_t n = p->n_expert > 0 ? rows(tensor(g, "blk.%d.ffn_up.weight", i)) : p->n_ff;
        if (tensor(g, "blk.%d.ffn_gate.weight", i)) {
            MAT(gate, "ffn_gate.weight", d, n, 0, n);
            MAT(up, "ffn_up.weight", d, n, 0, n);
            VEC(gate_bias, "ffn_gate.bias", false, n, 0, n);
            VEC(up_bias, "ffn_up.bias", false, n, 0, n);
        } else { /* phi3: gate above up */
            MAT(gate, "ffn_up.weight", d, 2 * n, 0, n);
            MAT(up, "ffn_up.weight", d, 2 * n, n, n);
        }
        MAT(down, "ffn_down.weight", n, d, 0, d);
        VEC(down_bias, "ffn_down.bias", false, d, 0, d);
    }
    if (l->gate.n_row > p->n_ff_plain)
        p->n_ff_plain = l->gate.n_row;
    return OK;
}

static enum status bind_layer(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    const struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t n_q = p->n_head * p->head_dim, n_kv = p->n_head_kv * p->head_dim, d = p->n_embd;
    bool pre = has(p, PRE_NORM), post = has(p, POST_NORM), by_row = has(p, QK_NORM_ROW);
    bool qk_norm = has(p, QK_NORM) || by_row;
    int32_t n_q_norm = by_row ? n_q : p->head_dim, n_k_norm = by_row ? n_kv : p->head_dim;

    VEC(attn_norm, "attn_norm.weight", pre || p->side_by_side, d, 0, d);
    if (has(p, FFN_NORM_POST))
        VEC(ffn_norm, "post_attention_norm.weight", pre, d, 0, d);
    else
        VEC(ffn_norm, "ffn_norm.weight", pre, d, 0, d);
    if (post) {
        VEC(attn_post_norm, "post_attention_norm.weight", true, d, 0, d);
        VEC(ffn_post_norm, "post_ffw_norm.weight", true, d, 0, d);
    }
    if (has(p, SINKS))
        VEC(sinks, "attn_sinks.weight", true, p->n_head, 0, p->n_head);
    VEC(q_norm, "attn_q_norm.weight", qk_norm, n_q_norm, 0, n_q_norm);
    VEC(k_norm, "attn_k_norm.weight", qk_norm, n_k_norm, 0, n_k_norm);
    if (tensor(g, "blk.%d.attn_qkv.weight", i)) {
        int32_t all = n_q + 2 * n_kv;
        MAT(q, "attn_qkv.weight", d, all, 0, n_q);
        MAT(k, "attn_qkv.weight", d, all, n_q, n_kv);
        MAT(v, "attn_qkv.weight", d, all, n_q + n_kv, n_kv);
        VEC(q_bias, "attn_qkv.bias", false, all, 0, n_q);
        VEC(k_bias, "attn_qkv.bias", false, all, n_q, n_kv);
        VEC(v_bias, "attn_qkv.bias", false, all, n_q + n_kv, n_kv);
    } else {
        MAT(q, "attn_q.weight", d, n_q, 0, n_q);
        MAT(k, "attn_k.weight", d, n_kv, 0, n_kv);
        MAT(v, "attn_v.weight", d, n_kv, 0, n_kv);
        bool biased = has(p, QKV_BIAS);
        VEC(q_bias, "attn_q.bias", biased, n_q, 0, n_q);
        VEC(k_bias, "attn_k.bias", biased, n_kv, 0, n_kv);
        VEC(v_bias, "attn_v.bias", biased, n_kv, 0, n_kv);
    }
    MAT(o, "attn_output.weight", n_q, d, 0, d);
    VEC(o_bias, "attn_output.bias", false, d, 0, d);
    l->window = p->sliding[i] ? p->window : 0;
    l->rope = p->sliding[i] ? &m->rope_local : &m->rope;
    if (p->arch == MODEL_SMOLLM3 && i % 4 == 3) /* every fourth layer tells no positions */
        l->rope = NULL;
    if (has(p, ROPE_SLIDING) && p->window && !p->sliding[i])
        l->rope = NULL;
    return bind_feed_forward(m, i, e);
}
#undef MAT
#undef VEC
#undef EXPERTS_OF

static enum status bind_rope_factors(struct model *m, const char *name,
                                     const struct gguf_tensor **ret, struct err *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    if (t && (t->type != KERN_F32 || t->n_elem < m->p.n_rot / 2))
        return err_set(e, ERR_FORMAT, "%s: tensor '%s' does not hold %d float32 values",
                       gguf_path(m->gguf), name, m->p.n_rot / 2);
    for (int32_t i = 0; t && i < m->p.n_rot / 2; i++) {
        float f;
        memcpy(&f, (const char *)t->data + 4 * (size_t)i, 4);
        if (!(f > 0 && f < 1e9f))
            return err_set(e, ERR_FORMAT, "%s: tensor '%s' holds the factor %g", gguf_path(m->gguf),
                           name, (double)f);
    }
    *ret = t;
    return OK;
}

/* Values of general.file_type in the GGUF specification, by which files are known: types of
 * matrices are mixed, and large embeddings are often of another than the rest. */
static const struct recipe {
    const char *name;
    enum kern_type type; /* some matrices are of it, or the file says something wrong */
} recipes[] = {
    [0] = {"F32", KERN_F32},      [1] = {"F16", KERN_F16},        [2] = {"Q4_0", KERN_Q4_0},
    [3] = {"Q4_1", KERN_Q4_1},    [7] = {"Q8_0", KERN_Q8_0},      [8] = {"Q5_0", KERN_Q5_0},
    [9] = {"Q5_1", KERN_Q5_1},    [10] = {"Q2_K", KERN_Q2_K},     [11] = {"Q3_K_S", KERN_Q3_K},
    [12] = {"Q3_K_M", KERN_Q3_K}, [13] = {"Q3_K_L", KERN_Q3_K},   [14] = {"Q4_K_S", KERN_Q4_K},
    [15] = {"Q4_K_M", KERN_Q4_K}, [16] = {"Q5_K_S", KERN_Q5_K},   [17] = {"Q5_K_M", KERN_Q5_K},
    [18] = {"Q6_K", KERN_Q6_K},   [25] = {"IQ4_NL", KERN_IQ4_NL}, [30] = {"IQ4_XS", KERN_IQ4_XS},
    [32] = {"BF16", KERN_BF16},   [38] = {"MXFP4", KERN_MXFP4},
};

static void note_types(struct model *m)
{
    int64_t elems[64] = {0};
    for (int64_t i = 0; i < gguf_n_tensor(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        m->p.n_param += t->n_elem;
        if (t->n_dim > 1)
            elems[t->type & 63] += t->n_elem;
    }
    int best = 0;
    for (int i = 1; i < 64; i++)
        if (elems[i] > elems[best])
            best = i;
    uint32_t recipe;
    const char *name = kern_type_name((enum kern_type)best);
    if (gguf_get_u32(m->gguf, "general.file_type", &recipe) &&
        recipe < sizeof recipes / sizeof *recipes && recipes[recipe].name &&
        elems[recipes[recipe].type] > 0)
        name = recipes[recipe].name;
    snprintf(m->p.type, sizeof m->p.type, "%s", name);
}

static enum status read_model(struct model *m, struct err *e)
{
    const struct gguf *g = m->gguf;
    TRY(read_params(g, &m->p, e));
    const struct gguf_tensor *embed = gguf_tensor_find(g, "token_embd.weight");
    const struct gguf_tensor *output = gguf_tensor_find(g, "output.weight");
    if (!embed)
        return err_set(e, gguf_n_tensor(g) ? ERR_FORMAT : ERR_USAGE,
                       gguf_n_tensor(g) ? "%s: tensor 'token_embd.weight' is missing"
                                        : "%s: holds a vocabulary only, no weights",
                       gguf_path(g));
    if (embed->dim[1] > MAX_VOCAB)
        return err_set(e, ERR_FORMAT, "%s: vocabulary of %lld tokens", gguf_path(g),
                       (long long)embed->dim[1]);
    m->p.n_vocab = (int32_t)embed->dim[1];
    TRY(bind_mat(g, embed, "token_embd.weight", 0, m->p.n_embd, m->p.n_vocab, 0, m->p.n_vocab,
                 &m->embed, e));
    TRY(bind_mat(g, output ? output : embed, "output.weight", 0, m->p.n_embd, m->p.n_vocab, 0,
                 m->p.n_vocab, &m->output, e));
    TRY(bind_vec(g, gguf_tensor_find(g, "output_norm.weight"), "output_norm.weight", 0, true,
                 m->p.n_embd, 0, m->p.n_embd, &m->output_norm, e));
    TRY(bind_vec(g, gguf_tensor_find(g, "output.bias"), "output.bias", 0, false, m->p.n_vocab, 0,
                 m->p.n_vocab, &m->output_bias, e));
    TRY(bind_rope_factors(m, "rope_freqs.weight", &m->rope_freqs, e));
    TRY(bind_rope_factors(m, "rope_factors_long.weight", &m->rope_long, e));
    TRY(bind_rope_factors(m, "rope_factors_short.weight", &m->rope_short, e));
    m->layer = mem_calloc((size_t)m->p.n_layer, sizeof *m->layer);
    for (int32_t i = 0; i < m->p.n_layer; i++)
        TRY(bind_layer(m, i, e));
    note_types(m);
    return OK;
}

enum status model_read(const struct gguf *g, struct model **ret, struct err *e)
{
    struct model *m = mem_calloc(1, sizeof *m);
    m->gguf = g;
    enum status s = read_model(m, e);
    if (s != OK) {
        model_free(m);
        return s;
    }
    model_set_ctx(m, m->p.n_ctx_orig);
    *ret = m;
    return OK;
}

/* ---- position encoding ---- */

/* YaRN (Peng et al. 2023): the channel whose wave turns `beta` times over the original context. */
static double yarn_channel(const struct model_params *p, double beta, double base)
{
    const double two_pi = 6.283185307179586;
    return p->n_rot * log(p->n_ctx_orig / (beta * two_pi)) / (2 * log(base));
}

static double yarn_magnitude(double factor, double mul)
{
    return factor <= 1 ? 1 : 0.1 * mul * log(factor) + 1;
}

/* Angle per position of each rotated pair, with all scalings folded in. */
static void fill_rope(const struct model_params *p, const struct model_rope_params *r,
                      const struct gguf_tensor *divisors, float *freq, struct kern_rope *ret)
{
    double low = 0, high = 0;
    if (r->yarn) {
        low = fmax(0, floor(yarn_channel(p, r->yarn_beta_fast, r->base)));
        high = fmin(p->n_rot - 1, ceil(yarn_channel(p, r->yarn_beta_slow, r->base)));
    }
    for (int32_t i = 0; i < p->n_rot / 2; i++) {
        double plain = pow(r->base, -2.0 * i / p->n_rot), div = 1;
        if (divisors) {
            float d;
            memcpy(&d, (const char *)divisors->data + 4 * (size_t)i, 4);
            div = d;
        }
        plain /= div;
        double stretched = plain / r->factor, keep = 0;
        if (r->yarn) /* 1 = fast channel, left as it is; 0 = slow channel, interpolated */
            keep = 1 - fmin(1, fmax(0, (i - low) / fmax(0.001, high - low)));
        freq[i] = (float)(stretched * (1 - keep) + plain * keep);
    }
    double mscale = r->attn_factor;
    if (r->yarn)
        mscale *= yarn_magnitude(r->factor, 1) /
                  (r->yarn_log_mul != 0 ? yarn_magnitude(r->factor, r->yarn_log_mul) : 1);
    *ret = (struct kern_rope){p->rope_mode, p->n_rot, freq, (float)mscale};
}

void model_set_ctx(struct model *m, int32_t n_ctx)
{
    size_t size = sizeof(float) * (size_t)(m->p.n_rot / 2);
    m->rope_freq = mem_realloc(m->rope_freq, size);
    m->rope_freq_local = mem_realloc(m->rope_freq_local, size);
    m->rope_is_long = m->rope_long && n_ctx > m->p.n_ctx_orig;
    const struct gguf_tensor *divisors = m->rope_freqs     ? m->rope_freqs
                                         : m->rope_is_long ? m->rope_long
                                                           : m->rope_short;
    fill_rope(&m->p, &m->p.rope, divisors, m->rope_freq, &m->rope);
    bool own = m->p.arch == MODEL_GEMMA3 || m->p.arch == MODEL_OLMO2;
    fill_rope(&m->p, &m->p.rope_local, own ? NULL : divisors, m->rope_freq_local, &m->rope_local);
}

/* ---- weights ---- */

enum { LAYER_MATS = 12 };

static struct model_mat *layer_mat(struct model_layer *l, int i)
{
    struct model_mat *mats[LAYER_MATS] = {
        &l->q,    &l->k,      &l->v,     &l->o,   &l->gate,  &l->up,
        &l->down, &l->router, &l->gates, &l->ups, &l->downs, &l->share,
    };
    return mats[i];
}

void model_each_mat(struct model *m, void (*fn)(void *ctx, struct model_mat *mat), void *ctx)
{
    fn(ctx, &m->embed);
    if (m->output.t != m->embed.t)
        fn(ctx, &m->output);
    for (int32_t i = 0; i < m->p.n_layer; i++) {
        struct model_layer *l = &m->layer[i];
        for (int j = 0; j < LAYER_MATS; j++)
            if (layer_mat(l, j)->t)
                fn(ctx, layer_mat(l, j));
    }
}

static void keep_mat(void *ctx, struct model_mat *mat)
{
    mat->kept = *(const bool *)ctx;
}

void model_place(struct model *m, int32_t n_layer)
{
    bool kept = n_layer < m->p.n_layer;
    model_each_mat(m, keep_mat, &kept);
    for (int32_t i = 0; i < n_layer && i < m->p.n_layer; i++)
        for (int j = 0; j < LAYER_MATS; j++)
            layer_mat(&m->layer[i], j)->kept = false;
}

static size_t row_bytes(const struct model_mat *mat)
{
    return (size_t)(mat->n_col / kern_type_block(mat->t->type)) * kern_type_bytes(mat->t->type);
}

struct size_sum {
    struct kern *k;
    uint64_t own, mapped, kept;
};

static void add_size(void *ctx, struct model_mat *mat)
{
    struct size_sum *s = ctx;
    if (mat->kept) {
        s->kept += s->k->host->ops->weight_size(s->k->host, mat->t->type, mat->n_row, mat->n_col);
        return;
    }
    size_t own = s->k->ops->weight_size(s->k, mat->t->type, mat->n_row, mat->n_col);
    s->own += own;
    if (own == 0)
        s->mapped += row_bytes(mat) * (size_t)mat->n_row;
}

void model_weight_bytes(const struct model *m, struct kern *k, uint64_t *ret_private,
                        uint64_t *ret_mapped, uint64_t *ret_kept)
{
    struct size_sum s = {.k = k};
    model_each_mat((struct model *)m, add_size, &s); /* add_size changes nothing */
    *ret_private = s.own;
    *ret_mapped = s.mapped;
    *ret_kept = s.kept;
}

static enum status load_vec(struct model *m, struct model_vec *v, float scale, struct err *e)
{
    if (!v->t)
        return OK;
    float *host = mem_try(sizeof(float) * (size_t)v->t->n_elem);
    v->dev = m->kern->ops->alloc(m->kern, sizeof(float) * (size_t)v->n);
    if (!host || !v->dev) {
        free(host);
        return err_set(e, ERR_MEMORY, "out of memory for tensor '%s'", v->t->name);
    }
    kern_dequantise(v->t->type, v->t->data, host, v->t->n_elem);
    for (int32_t i = 0; scale != 1 && i < v->n; i++)
        host[v->at + i] *= scale;
    m->kern->ops->upload(m->kern, v->dev, host + v->at, sizeof(float) * (size_t)v->n);
    free(host);
    return OK;
}

enum { LAYER_VECS = 18 };

static struct model_vec *layer_vec(struct model_layer *l, int i)
{
    struct model_vec *vecs[LAYER_VECS] = {
        &l->attn_norm,  &l->q_norm,      &l->k_norm,     &l->attn_post_norm, &l->ffn_norm,
        &l->q_bias,     &l->k_bias,      &l->v_bias,     &l->o_bias,         &l->ffn_post_norm,
        &l->gate_bias,  &l->router_bias, &l->up_bias,    &l->down_bias,      &l->sinks,
        &l->gates_bias, &l->ups_bias,    &l->downs_bias,
    };
    return vecs[i];
}

struct loader {
    struct model *m;
    bool (*progress)(void *ctx, float done);
    void *ctx;
    uint64_t done, total;
    enum status status;
    struct err *e;
};

static void load_mat(void *ctx, struct model_mat *mat)
{
    struct loader *l = ctx;
    struct kern *k = l->m->kern;
    if (l->status != OK)
        return;
    size_t bytes = row_bytes(mat);
    mat->w = (mat->kept ? k->ops->weight_keep : k->ops->weight_new)(
        k, mat->t->type, mat->n_row, mat->n_col,
        (const char *)mat->t->data + bytes * (size_t)mat->row0);
    if (!mat->w) {
        l->status = err_set(l->e, ERR_MEMORY, "out of memory for tensor '%s' (%zu bytes)",
                            mat->t->name, bytes * (size_t)mat->n_row);
        return;
    }
    /* Copied into the backend's own order: the file's pages need not stay resident. */
    if (k->ops->weight_owns(mat->w) && mat->row0 + mat->n_row == mat->t->dim[1] * mat->t->dim[2])
        gguf_release(l->m->gguf, mat->t);
    l->done += bytes * (size_t)mat->n_row;
    if (l->progress && !l->progress(l->ctx, (float)((double)l->done / (double)l->total)))
        l->status = err_set(l->e, ERR_CANCELLED, "loading was cancelled");
}

static void sum_bytes(void *ctx, struct model_mat *mat)
{
    *(uint64_t *)ctx += row_bytes(mat) * (size_t)mat->n_row;
}

enum status model_load(struct model *m, struct kern *k, bool (*progress)(void *ctx, float done),
                       void *ctx, struct err *e)
{
    struct loader l = {.m = m, .progress = progress, .ctx = ctx, .e = e};
    m->kern = k;
    model_each_mat(m, sum_bytes, &l.total);
    TRY(load_vec(m, &m->output_norm, m->p.output_scale, e));
    TRY(load_vec(m, &m->output_bias, m->p.output_scale, e));
    for (int32_t i = 0; i < m->p.n_layer; i++)
        for (int j = 0; j < LAYER_VECS; j++)
            TRY(load_vec(m, layer_vec(&m->layer[i], j), 1, e));
    model_each_mat(m, load_mat, &l);
    TRY(l.status);
    if (m->output.t == m->embed.t)
        m->output.w = m->embed.w;
    return OK;
}

static void free_mat(void *ctx, struct model_mat *mat)
{
    struct kern *k = ctx;
    if (mat->w)
        k->ops->weight_free(k, mat->w);
}

void model_free(struct model *m)
{
    if (!m)
        return;
    if (m->kern) {
        model_each_mat(m, free_mat, m->kern);
        m->kern->ops->free(m->kern, m->output_norm.dev);
        m->kern->ops->free(m->kern, m->output_bias.dev);
        for (int32_t i = 0; i < m->p.n_layer; i++)
            for (int j = 0; j < LAYER_VECS; j++)
                m->kern->ops->free(m->kern, layer_vec(&m->layer[i], j)->dev);
    }
    free(m->layer);
    free(m->rope_freq);
    free(m->rope_freq_local);
    free(m);
}

/* ---- identity ---- */

uint64_t model_fingerprint(const struct model *m)
{
    enum { SAMPLES = 8, SAMPLE_BYTES = 512 };
    const struct model_params *p = &m->p;
    XXH3_state_t *x = XXH3_createState();
    XXH3_64bits_reset(x);
    const int32_t ints[] = {p->arch,     p->n_layer, p->n_embd, p->n_ff, p->n_head,   p->n_head_kv,
                            p->head_dim, p->n_vocab, p->n_rot,  p->act,  p->rope_mode};
    const float floats[] = {p->norm_eps,     p->embed_scale, p->attn_scale,
                            p->attn_softcap, m->rope.mscale, m->rope_local.mscale};
    XXH3_64bits_update(x, ints, sizeof ints);
    XXH3_64bits_update(x, floats, sizeof floats);
    if (p->n_expert > 0) {
        const int32_t experts[] = {p->n_expert, p->n_expert_used, p->expert_norm};
        XXH3_64bits_update(x, experts, sizeof experts);
        if (p->expert_sigmoid || p->expert_scale != 1) /* caches from before know neither */
            XXH3_64bits_update(x, &p->expert_scale, sizeof p->expert_scale);
    }
    if (p->q_growth > 0) {
        XXH3_64bits_update(x, &p->q_growth, sizeof p->q_growth);
        XXH3_64bits_update(x, &p->n_ctx_orig, sizeof p->n_ctx_orig);
    }
    XXH3_64bits_update(x, m->rope_freq, sizeof(float) * (size_t)(p->n_rot / 2));
    XXH3_64bits_update(x, m->rope_freq_local, sizeof(float) * (size_t)(p->n_rot / 2));
    for (int32_t i = 0; i < p->n_layer; i++)
        XXH3_64bits_update(x, &m->layer[i].window, sizeof m->layer[i].window);
    for (int64_t i = 0; i < gguf_n_tensor(m->gguf); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(m->gguf, i);
        const int64_t shape[] = {t->type, t->dim[0], t->dim[1], t->dim[2], t->dim[3]};
        XXH3_64bits_update(x, t->name, strlen(t->name));
        XXH3_64bits_update(x, shape, sizeof shape);
        size_t step = t->size_bytes / SAMPLES;
        if (step < SAMPLE_BYTES) {
            XXH3_64bits_update(x, t->data, t->size_bytes);
            continue;
        }
        for (size_t j = 0; j < SAMPLES; j++)
            XXH3_64bits_update(x, (const char *)t->data + j * step, SAMPLE_BYTES);
    }
    uint64_t h = XXH3_64bits_digest(x);
    XXH3_freeState(x);
    return h;
}
