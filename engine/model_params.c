/* What a model is: its architecture's row and the hyper-parameters that its file tells. */
#include "engine/model_impl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEEPSEEK (PRE_NORM | SOME_EXPERTS | SOME_SHARED | SOME_DENSE | LATENT)
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
    {"qwen35", MODEL_QWEN35, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | FFN_NORM_POST | DELTA},
    {"qwen35moe", MODEL_QWEN35MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | FFN_NORM_POST | DELTA | EXPERTS | EXPERT_NORM | SHARED | SHARED_GATE},
    {"lfm2", MODEL_LFM2, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | QK_NORM | SHORT_CONV},
    {"lfm2moe", MODEL_LFM2MOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | SHORT_CONV | EXPERTS | EXPERT_NORM | SOME_DENSE},
    {"gemma4", MODEL_GEMMA4, KERN_ROPE_HALVES, KERN_ACT_GELU_TANH, 6,
     PRE_NORM | POST_NORM | QK_NORM | SOME_EXPERTS | EXPERT_NORM | GEMMA4},
    {"granitehybrid", MODEL_GRANITE_HYBRID, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0,
     PRE_NORM | SOME_EXPERTS | EXPERT_NORM | SOME_SHARED | MAMBA2},
    {"nemotron_h", MODEL_NEMOTRON_H, KERN_ROPE_HALVES, KERN_ACT_RELU, 0, MAMBA2 | NEMOTRON | UNGATED},
    {"nemotron_h_moe", MODEL_NEMOTRON_H_MOE, KERN_ROPE_HALVES, KERN_ACT_RELU, 0,
     EXPERTS | SHARED | SIGMOID | MAMBA2 | NEMOTRON | UNGATED},
    {"falcon-h1", MODEL_FALCON_H1, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | MAMBA2},
    {"qwen3next", MODEL_QWEN3NEXT, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | FFN_NORM_POST | DELTA | EXPERTS | EXPERT_NORM | SHARED | SHARED_GATE},
    {"afmoe", MODEL_AFMOE, KERN_ROPE_HALVES, KERN_ACT_SILU, 4,
     PRE_NORM | POST_NORM | QK_NORM | ROPE_SLIDING | GATE_APART | EXPERTS | SHARED | SOME_DENSE | SIGMOID},
    {"muse-glimmer", MODEL_MUSE_GLIMMER, KERN_ROPE_PAIRS, KERN_ACT_SILU, 4,
     PRE_NORM | POST_NORM | QK_NORM | ROPE_SLIDING | GATE_APART},
    {"bailingmoe2", MODEL_BAILINGMOE2, KERN_ROPE_HALVES, KERN_ACT_SILU, 0,
     PRE_NORM | QK_NORM | EXPERTS | SHARED | SOME_DENSE},
    {"mellum", MODEL_MELLUM, KERN_ROPE_HALVES, KERN_ACT_SILU, 4,
     PRE_NORM | QK_NORM | EXPERTS | EXPERT_NORM},
    {"minicpm", MODEL_MINICPM, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"minicpm3", MODEL_MINICPM3, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM | LATENT},
    {"deepseek2", MODEL_DEEPSEEK2, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, DEEPSEEK},
    {"mistral4", MODEL_DEEPSEEK2, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, DEEPSEEK},
    {"arcee", MODEL_ARCEE, KERN_ROPE_PAIRS, KERN_ACT_RELU, 0, PRE_NORM | UNGATED},
    {"internlm2", MODEL_LLAMA, KERN_ROPE_PAIRS, KERN_ACT_SILU, 0, PRE_NORM},
    {"exaone", MODEL_LLAMA, KERN_ROPE_HALVES, KERN_ACT_SILU, 0, PRE_NORM},
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

bool model_has(const struct model_params *p, unsigned trait)
{
    return (arch_of(p)->traits & trait) != 0;
}

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
    return err_set(e, ERR_UNSUPPORTED,
                   "%s: architecture '%.*s' is none of the %zu that are supported (the README names them); use "
                   "another model",
                   gguf_path(g), (int)(s.len < 64 ? s.len : 64), s.s, sizeof archs / sizeof *archs);
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

bool model_own_rope(const struct model_params *p)
{
    return p->arch == MODEL_GEMMA3 || p->arch == MODEL_OLMO2 || p->arch == MODEL_GEMMA4 ||
           p->arch == MODEL_MELLUM;
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
    if (model_own_rope(p))
        p->rope_local = (struct model_rope_params){
            .base = p->arch == MODEL_OLMO2 || p->arch == MODEL_MELLUM ? r->base : 10000.0f, .factor = 1, .attn_factor = 1};
    TRY(get_int(g, p, "rope.dimension_count_swa", 2, p->head_dim_local,
                p->n_rot < p->head_dim_local ? p->n_rot : p->head_dim_local, &p->n_rot_local, e));
    if (p->n_rot_local % 2)
        return err_set(e, ERR_FORMAT, "%s: %d rotated channels is an odd number", gguf_path(g),
                       p->n_rot_local);
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

/* Heads of keys and values; of models with layers that do not attend a list, where those have none, of gemma4
 * one where sliding layers have others. */
static enum status read_kv_heads(const struct gguf *g, struct model_params *p, struct err *e)
{
    char key[128];
    const struct gguf_kv *kv = gguf_find(g, arch_key(p, "attention.head_count_kv", key));
    int64_t v;
    for (int32_t i = 0; i < p->n_layer; i++)
        p->attends[i] = true;
    if (!model_has(p, SHORT_CONV | MAMBA2 | GEMMA4) || !kv || kv->type != GGUF_ARRAY) {
        TRY(get_int(g, p, "attention.head_count_kv", 1, p->n_head, p->n_head, &p->n_head_kv, e));
        p->n_head_kv_local = p->n_head_kv;
        return OK;
    }
    if (kv->n < (uint64_t)p->n_layer)
        return err_set(e, ERR_FORMAT, "%s: '%s' has %llu entries for %d layers", gguf_path(g), key,
                       (unsigned long long)kv->n, p->n_layer);
    for (int32_t i = 0; i < p->n_layer; i++) {
        int32_t *n = model_has(p, GEMMA4) && p->sliding[i] ? &p->n_head_kv_local : &p->n_head_kv;
        if (!gguf_elem_i64(kv, (uint64_t)i, &v) || v < model_has(p, GEMMA4) || v > p->n_head)
            return err_set(e, ERR_FORMAT, "%s: '%s' is not a list of numbers of heads, 0..%d",
                           gguf_path(g), key, p->n_head);
        if (v > 0 && *n > 0 && v != *n)
            return err_set(e, ERR_UNSUPPORTED, "%s: '%s' differs between layers, which is not supported",
                           gguf_path(g), key);
        p->attends[i] = v > 0;
        p->recurrent[i] = v == 0;
        *n = v > 0 ? (int32_t)v : *n;
    }
    /* Of a kind that there are none of it is nothing to anybody. */
    p->n_head_kv = p->n_head_kv > 0 ? p->n_head_kv : p->n_head_kv_local;
    p->n_head_kv_local = p->n_head_kv_local > 0 ? p->n_head_kv_local : p->n_head_kv;
    return OK;
}

/* Heads with a state, heads of keys that they share, a state's rows; *ret_inner: columns of all of them. */
static enum status read_state_heads(const struct gguf *g, struct model_params *p, int32_t *ret_inner,
                                    struct err *e)
{
    TRY(get_int(g, p, "ssm.state_size", 1, MAX_STATE_DIM, -1, &p->state_dim_k, e));
    TRY(get_int(g, p, "ssm.time_step_rank", 1, MAX_HEADS, -1, &p->n_state_head, e));
    TRY(get_int(g, p, "ssm.group_count", 1, p->n_state_head, -1, &p->n_state_head_k, e));
    return get_int(g, p, "ssm.inner_size", 1, MAX_FF, -1, ret_inner, e);
}

/* Layers of the gated delta rule: a list, or all but the last of each period. */
static enum status read_delta(const struct gguf *g, struct model_params *p, struct err *e)
{
    char key[128];
    int32_t period, n_inner;
    int64_t v;
    TRY(get_int(g, p, "full_attention_interval", 1, MODEL_LAYERS, 4, &period, e));
    const struct gguf_kv *kv = gguf_find(g, arch_key(p, "attention.recurrent_layers", key));
    bool list = kv && kv->type == GGUF_ARRAY;
    for (int32_t i = 0; i < p->n_layer; i++) {
        if (list && !gguf_elem_i64(kv, (uint64_t)i, &v))
            return err_set(e, ERR_FORMAT, "%s: '%s' is not a list of flags for %d layers", gguf_path(g),
                           key, p->n_layer);
        p->recurrent[i] = list ? v != 0 : (i + 1) % period != 0;
        p->attends[i] = !p->recurrent[i];
    }
    p->q_gated = true;
    p->state_neighbours = p->arch == MODEL_QWEN3NEXT;
    TRY(read_state_heads(g, p, &n_inner, e));
    p->state_dim = p->state_dim_k;
    if (p->state_dim % KERN_ROW_STEP || p->n_state_head % p->n_state_head_k ||
        n_inner != p->n_state_head * p->state_dim || p->head_dim % KERN_ROW_STEP)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: states of %d heads (%d of keys) of %d, %d channels in all, with attention heads "
                       "of %d, are not supported",
                       gguf_path(g), p->n_state_head, p->n_state_head_k, p->state_dim, n_inner,
                       p->head_dim);
    return OK;
}

/* Layers of Mamba-2: those that neither attend nor have a network alone, which nemotron's are whose network has a
 * width; of falcon-h1 all, beside attention. */
static enum status read_spaces(const struct gguf *g, struct model_params *p, struct err *e)
{
    char key[128];
    int32_t n_inner, n_latent;
    int64_t n_ff = 0;
    const struct gguf_kv *kv = gguf_find(g, arch_key(p, "feed_forward_length", key));
    for (int32_t i = 0; i < p->n_layer; i++) {
        if (model_has(p, NEMOTRON) && !(kv && kv->type == GGUF_ARRAY && gguf_elem_i64(kv, (uint64_t)i, &n_ff)))
            return err_set(e, ERR_FORMAT, "%s: '%s' is not a list of widths for %d layers", gguf_path(g), key,
                           p->n_layer);
        p->attends[i] &= n_ff == 0;
        p->recurrent[i] = p->arch == MODEL_FALCON_H1 || (p->recurrent[i] && n_ff == 0);
    }
    p->selective = p->state_neighbours = true;
    p->no_rope = model_has(p, NEMOTRON);
    TRY(get_int(g, p, "moe_latent_size", 0, MAX_EMBD, 0, &n_latent, e));
    if (n_latent > 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: experts that read %d channels in a model of %d are not supported",
                       gguf_path(g), n_latent, p->n_embd);
    TRY(read_state_heads(g, p, &n_inner, e));
    p->state_dim = n_inner / p->n_state_head;
    if (n_inner % p->n_state_head || p->n_state_head % p->n_state_head_k || p->state_dim % KERN_ROW_STEP ||
        p->state_dim_k % KERN_ROW_STEP || p->state_dim < 1 || p->state_dim > MAX_STATE_DIM)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: states of %d heads in %d groups, %d channels in all, with %d rows are not supported",
                       gguf_path(g), p->n_state_head, p->n_state_head_k, n_inner, p->state_dim_k);
    return OK;
}

/* Which layers attend, which keep a state, and how large it is. After the heads. */
static enum status read_recurrent(const struct gguf *g, struct model_params *p, struct err *e)
{
    if (model_has(p, DELTA))
        TRY(read_delta(g, p, e));
    if (model_has(p, MAMBA2))
        TRY(read_spaces(g, p, e));
    for (int32_t i = 0; i < p->n_layer; i++) {
        p->n_layer_attn += p->attends[i];
        p->n_layer_state += p->recurrent[i];
    }
    int32_t n_shared;
    TRY(get_int(g, p, "attention.shared_kv_layers", 0, model_has(p, GEMMA4) ? p->n_layer - 1 : 0, 0,
                &n_shared, e));
    p->n_layer_kv = p->n_layer_attn - n_shared;
    if (p->n_layer_attn == 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: a model without attention is not supported", gguf_path(g));
    if (p->n_layer_state == 0)
        return OK;
    return get_int(g, p, model_has(p, DELTA | MAMBA2) ? "ssm.conv_kernel" : "shortconv.l_cache", 2, KERN_CONV_TAPS,
                   -1, &p->n_tap, e);
}

/* Latent attention: the file speaks of its heads as they are before or after they are absorbed. */
static enum status read_latent(const struct gguf *g, struct model_params *p, struct err *e)
{
    int32_t len_k;
    TRY(get_int(g, p, "attention.kv_lora_rank", 1, MODEL_HEAD_DIM_MAX, -1, &p->n_latent, e));
    TRY(get_int(g, p, "attention.q_lora_rank", 0, MAX_EMBD, 0, &p->n_latent_q, e));
    TRY(get_int(g, p, "rope.dimension_count", 2, MODEL_HEAD_DIM_MAX, -1, &p->n_rot, e));
    TRY(get_int(g, p, "attention.key_length", 1, MODEL_HEAD_DIM_MAX, p->n_embd / p->n_head, &len_k, e));
    TRY(get_int(g, p, "attention.key_length_mla", 1, MODEL_HEAD_DIM_MAX, len_k, &len_k, e));
    TRY(get_int(g, p, "attention.value_length", 1, MODEL_HEAD_DIM_MAX, p->n_embd / p->n_head, &p->head_dim_v, e));
    TRY(get_int(g, p, "attention.value_length_mla", 1, MODEL_HEAD_DIM_MAX, p->head_dim_v, &p->head_dim_v, e));
    p->n_plain = len_k - p->n_rot;
    p->head_dim = p->head_dim_local = p->n_latent + p->n_rot;
    p->n_head_kv = p->n_head_kv_local = 1;
    if (p->n_plain < 1 || len_k > MODEL_HEAD_DIM_MAX || p->head_dim_v > MODEL_HEAD_DIM_MAX ||
        p->head_dim > MODEL_HEAD_DIM_MAX || p->n_latent > PAGE_LATENT_MAX || p->n_latent % KERN_ROW_STEP || p->n_rot % KERN_ROW_STEP ||
        p->n_plain % KERN_ROW_STEP || p->head_dim_v % KERN_ROW_STEP || p->window > 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: latents of %d channels for heads of %d key and %d value channels, %d of them rotated, "
                       "with a window of %d, are not supported",
                       gguf_path(g), p->n_latent, len_k, p->head_dim_v, p->n_rot, p->window);
    return OK;
}

/* How much scores grow where a latent's positions are stretched: heads are asked as they are before they are
 * absorbed, and what YaRN multiplies the rotated channels by, all are (DeepSeek-V2's mscale_all_dim, of which the
 * file has a tenth). */
static void scale_latent(struct model_params *p)
{
    struct model_rope_params *r = &p->rope;
    p->attn_scale = 1 / sqrtf((float)(p->n_plain + p->n_rot));
    if (!r->yarn)
        return;
    float stretched = 0.1f * logf(r->factor), all = 1 + 10 * r->yarn_log_mul * stretched;
    float rotated = r->attn_factor * (r->yarn_log_mul != 0 ? 1 : 1 + stretched);
    p->attn_scale *= rotated * all * rotated * all;
    r->yarn_log_mul = r->yarn_log_mul != 0; /* rotated channels are not again */
}

/* Whether a router's choice is biased in some layer. */
static bool has_pick(const struct gguf *g, const struct model_params *p)
{
    char name[64];
    for (int32_t i = 0; i < p->n_layer; i++) {
        snprintf(name, sizeof name, "blk.%d.exp_probs_b.bias", i);
        if (gguf_tensor_find(g, name))
            return true;
    }
    return false;
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
    if (p->n_expert == 0 && model_has(p, EXPERTS))
        return err_set(e, ERR_FORMAT,
                       "%s: metadata '%s.expert_count' is missing or 0: not a complete model",
                       gguf_path(g), p->arch_name);
    if (p->n_expert == 0 && model_has(p, GEMMA4)) /* it may differ between layers: tensors tell */
        return OK;
    if (p->n_expert == 0 && model_has(p, NEMOTRON)) /* as there, and some have none */
        return OK;
    if (p->n_expert == 0)
        return get_int(g, p, "feed_forward_length", 1, MAX_FF, -1, &p->n_ff, e);
    TRY(get_int(g, p, "expert_shared_feed_forward_length", 0, MAX_FF, 0, &n_shared, e));
    if (!model_has(p, EXPERTS | SOME_EXPERTS) || (n_shared > 0 && !model_has(p, SHARED | SOME_SHARED)))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a mixture of %d experts%s is not supported with architecture '%s'; use "
                       "another model",
                       gguf_path(g), p->n_expert, n_shared ? ", some of them shared," : "",
                       p->arch_name);
    TRY(get_int(g, p, "expert_used_count", 1, p->n_expert, -1, &p->n_expert_used, e));
    if (!model_has(p, NEMOTRON))
        TRY(get_int(g, p, "feed_forward_length", 0, MAX_FF, 0, &p->n_ff, e));
    TRY(get_int(g, p, "expert_feed_forward_length", 1, MAX_FF, p->n_ff > 0 ? p->n_ff : -1, &p->n_ff,
                e));
    char key[128];
    TRY(get_int(g, p, "expert_group_count", 0, MODEL_EXPERT_GROUPS, 0, &n_group, e));
    if (n_group > 1) {
        p->n_expert_group = n_group;
        TRY(get_int(g, p, "expert_group_used_count", 1, n_group, -1, &p->n_group_used, e));
        int32_t each = p->n_expert / n_group;
        if (p->n_expert % n_group || each < 2 || each * p->n_group_used < p->n_expert_used)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: %d of %d experts, chosen of %d of %d groups, are not supported", gguf_path(g),
                           p->n_expert_used, p->n_expert, p->n_group_used, n_group);
    }
    TRY(get_int(g, p, "expert_gating_func", 0, GATING_CHOSEN, 0, &gating, e));
    /* DeepSeek's first files do not tell; the bias came with the sigmoid. */
    bool sigmoid = model_has(p, SIGMOID) || (p->arch == MODEL_DEEPSEEK2 && has_pick(g, p));
    p->expert_sigmoid = gating == GATING_BY_ARCH ? sigmoid : gating == GATING_SIGMOID;
    p->expert_norm = model_has(p, EXPERT_NORM);
    gguf_get_bool(g, arch_key(p, "expert_weights_norm", key), &p->expert_norm);
    p->expert_norm |= gating == GATING_CHOSEN;
    TRY(get_float(g, p, "expert_weights_scale", 0, 1e3f, 0, &p->expert_scale, e));
    if (p->expert_scale == 0)
        p->expert_scale = 1;
    if (p->n_ff % KERN_ROW_STEP || p->n_embd % KERN_ROW_STEP ||
        (int64_t)p->n_expert * (2 * p->n_ff > p->n_embd ? 2 * p->n_ff : p->n_embd) > INT32_MAX)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s: %d experts of width %d in a model of width %d are not supported (widths "
            "must be multiples of %d)",
            gguf_path(g), p->n_expert, p->n_ff, p->n_embd, KERN_ROW_STEP);
    return OK;
}

/* Factors on the logits, and granite's and minicpm's on the stream: answers are multiplied by r before they are
 * added to the stream. Norms do not care how large the stream is, but for their epsilon: the same
 * is a stream that is 1/r as large. */
static enum status read_factors(const struct gguf *g, struct model_params *p, struct err *e)
{
    float residual, logit;
    if (model_has(p, COHERE) || p->arch == MODEL_MUSE_GLIMMER)
        return get_float(g, p, "logit_scale", 1e-6f, 1e6f, 1, &p->output_scale, e);
    bool minicpm = p->arch == MODEL_MINICPM || p->arch == MODEL_MINICPM3; /* whose first files do not tell them */
    if (!minicpm && p->arch != MODEL_GRANITE && p->arch != MODEL_GRANITEMOE && p->arch != MODEL_GRANITE_HYBRID)
        return OK;
    TRY(get_float(g, p, "embedding_scale", 1e-6f, 1e6f, minicpm ? 12 : 1, &p->embed_scale, e));
    TRY(get_float(g, p, "residual_scale", 1e-3f, 1e3f, minicpm ? 1.4f / sqrtf((float)p->n_layer) : 1, &residual,
                  e));
    TRY(get_float(g, p, "logit_scale", 1e-6f, 1e6f, minicpm ? (float)p->n_embd / 256 : 1, &logit, e));
    p->embed_scale /= residual;
    p->norm_eps /= residual * residual;
    p->output_scale = 1 / logit;
    char key[128];
    bool rotates = true;
    gguf_get_bool(g, arch_key(p, "rope.scaling.finetuned", key), &rotates);
    p->no_rope = !rotates && !minicpm;
    return OK;
}

static enum status check_heads(const struct gguf *g, const struct model_params *p, int32_t n_kv,
                               int32_t len_k, int32_t len_v, struct err *e)
{
    if (n_kv > 0 && p->n_head % n_kv)
        return err_set(e, ERR_FORMAT, "%s: %d heads do not share %d KV heads evenly", gguf_path(g),
                       p->n_head, n_kv);
    if (len_k != len_v || len_k % 2 || len_k < 2 || len_k > MODEL_HEAD_DIM_MAX)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: heads of %d key and %d value channels are not "
                       "supported",
                       gguf_path(g), len_k, len_v);
    return OK;
}

enum status model_read_params(const struct gguf *g, struct model_params *p, struct err *e)
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
    TRY(read_window(g, p, e));
    TRY(read_kv_heads(g, p, e));
    TRY(get_int(g, p, "context_length", 1, MAX_CTX, -1, &p->n_ctx_train, e));
    if (model_has(p, LATENT)) {
        TRY(read_latent(g, p, e));
    } else {
        TRY(get_int(g, p, "attention.key_length", 1, MODEL_HEAD_DIM_MAX, p->n_embd / p->n_head, &len_k, e));
        TRY(get_int(g, p, "attention.value_length", 1, MODEL_HEAD_DIM_MAX, len_k, &len_v, e));
        TRY(check_heads(g, p, p->n_head_kv, len_k, len_v, e));
        p->head_dim = p->head_dim_local = len_k;
    }
    if (model_has(p, GEMMA4)) {
        TRY(get_int(g, p, "attention.key_length_swa", 1, MODEL_HEAD_DIM_MAX, len_k, &len_k, e));
        TRY(get_int(g, p, "attention.value_length_swa", 1, MODEL_HEAD_DIM_MAX, len_k, &len_v, e));
        TRY(check_heads(g, p, p->n_head_kv_local, len_k, len_v, e));
        p->head_dim_local = len_k;
        TRY(get_int(g, p, "embedding_length_per_layer_input", 0, MAX_EMBD / p->n_layer, 0,
                    &p->n_layer_embed, e));
    }
    TRY(read_recurrent(g, p, e));
    p->layer_norm = p->side_by_side = model_has(p, COHERE);
    float eps = 1e-5f;
    if (model_has(p, NEMOTRON)) /* older files name it as LayerNorm's */
        TRY(get_float(g, p, "attention.layer_norm_epsilon", 0, 1, eps, &eps, e));
    TRY(get_float(
        g, p, p->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
        0, 1, eps, &p->norm_eps, e));
    p->state_eps = p->norm_eps; /* which granite's is not in the end */
    TRY(read_rope(g, p, e));

    bool gemma = p->arch == MODEL_GEMMA || p->arch == MODEL_GEMMA2 || p->arch == MODEL_GEMMA3 ||
                 p->arch == MODEL_GEMMA4;
    bool gemma_27b = (p->arch == MODEL_GEMMA2 && p->n_layer == 46) ||
                     (p->arch == MODEL_GEMMA3 && p->n_layer == 62);
    p->embed_scale = gemma || p->arch == MODEL_AFMOE ? sqrtf((float)p->n_embd) : 1;
    p->embed_normed = p->arch == MODEL_MUSE_GLIMMER;
    p->post_eps = p->arch == MODEL_MUSE_GLIMMER ? 1e-8f : p->norm_eps;
    p->q_gated |= model_has(p, GATE_APART);
    p->output_scale = 1;
    p->norm_rotated = model_has(p, QK_NORM_LATE);
    p->ungated = model_has(p, UNGATED);
    p->v_normed = model_has(p, GEMMA4);
    p->experts_apart = model_has(p, GEMMA4) && p->n_expert > 0;
    p->experts_normed = model_has(p, POST_NORM) && !p->experts_apart && p->n_expert > 0;
    TRY(read_factors(g, p, e));
    if (p->arch == MODEL_MISTRAL3 || p->arch == MODEL_DEEPSEEK2)
        TRY(get_float(g, p, "attention.temperature_scale", 0, 1e3f, 0, &p->q_growth, e));
    p->q_growth_tok = p->n_ctx_orig;
    if (p->arch == MODEL_DEEPSEEK2)
        TRY(get_int(g, p, "attention.temperature_length", 1, MAX_CTX, p->n_ctx_orig, &p->q_growth_tok, e));
    /* The 27B models were trained with the width per head instead of the head's own size. */
    p->attn_scale = 1 / sqrtf((float)(gemma_27b ? p->n_embd / p->n_head : p->head_dim));
    if (model_has(p, GEMMA4)) /* the norms of queries and keys do it */
        p->attn_scale = 1;
    if (p->n_latent > 0)
        scale_latent(p);
    TRY(get_float(g, p, "attention.scale", 0, 1e3f, p->attn_scale, &p->attn_scale, e));
    bool caps = p->arch == MODEL_GEMMA2;
    TRY(get_float(g, p, "attn_logit_softcapping", 0, 1e6f, caps ? 50 : 0, &p->attn_softcap, e));
    return get_float(g, p, "final_logit_softcapping", 0, 1e6f, caps ? 30 : 0, &p->logit_softcap, e);
}
