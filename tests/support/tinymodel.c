#include "tests/support/tinymodel.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "tests/support/ggufw.h"

enum {
    LAYERS = 6,
    D = 64,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD = 16,
    FF = 96,
    EXPERT_FF = 32,
    SHARED_FF = 64,
    EXPERTS = 8,
    USED = 3,
    CTX = 64,
    WINDOW = 24,
    WIDE_HEAD = 32, /* of attention between layers of the delta rule */
    WIDEST_HEAD = 512,
    STATE = 32,     /* one head's, both ways */
    KEY_HEADS = 2,
    DELTA_TAPS = 4,
    CONV_TAPS = 3,
    SPACE_HEADS = 4, /* of a selective state space */
    SPACE_HEAD = 32,
    SPACE_STATE = 48,
    SPACE_TAPS = 4,
    LATENT_DIM = 48, /* of latent attention, and of what its queries are made of */
    LATENT_QUERY = 32,
    LATENT_ROT = 16, /* a head's channels that are rotated, that are not, and of its values */
    LATENT_PLAIN = 32,
    LATENT_VALUE = 48,
    SIDE = 32 /* a token's embedding for one layer */
};

enum feature {
    PRE = 1,
    POST = 2,
    QK = 4,     /* q/k norms of a head */
    QK_ROW = 8, /* of all heads */
    MOE = 16,
    MOE_FF = 32, /* with a width of their own */
    FACTORS = 64,
    YARN = 128,
    SLIDING = 256,
    GROWTH = 512,
    TIED = 1024,
    ALL_KV = 2048,     /* as many KV heads as heads */
    BIASED = 4096,     /* queries, keys and values */
    FFN_POST = 8192,   /* the second norm's other name */
    GPT_OSS = 1 << 14, /* sinks, biases everywhere */
    MXFP4 = 1 << 15,   /* experts */
    SECTIONS = 1 << 16,
    PARTIAL = 1 << 17, /* half of a head's channels are rotated */
    GATE_UP = 1 << 18, /* in one matrix */
    SHARED = 1 << 19,  /* an expert for all */
    SHARE = 1 << 20,   /* and its weight */
    LEAD = 1 << 21,    /* the first layer has no experts */
    PICK = 1 << 22,    /* a bias of the choice */
    SIGMOID = 1 << 23, /* weights */
    DRAFT = 1 << 24,   /* a last layer that is not computed */
    COHERE = 1 << 25,  /* one norm, without its mean, and scaled logits */
    SCALED = 1 << 26,  /* weights of experts, made larger */
    DELTA = 1 << 27,   /* the gated delta rule in most layers, and gated attention in the others */
    MARKED = 1 << 28,  /* which layers those are is listed, whatever the interval */
    VALUES = 1 << 29,  /* twice as many heads of values as of keys */
    CONV = 1 << 30,    /* short convolutions in most layers */
#define BOTH_GATES (1u << 31) /* of the delta rule, in one matrix; and, TIED, all it reads, key by key */
};

/* Of Gemma 4: every third layer sees everything and has wider heads. */
enum gemma4 {
    GEMMA4 = 1,
    BY_LAYER = 2, /* embeddings by layer; the second half has no keys of its own, and twice the width; the
                     heads of layers that see everything are the widest */
    KEYS_ARE_VALUES = 4 /* in layers that see everything, which have half as many KV heads */
};

/* Of layers with a selective state space, and what came with them. */
enum more {
    MAMBA2 = 1,
    NEMOTRON = 2, /* a layer is one part alone */
    BESIDE = 4,   /* attention in each layer, too, and no norm of a state's answer */
    GROUPS = 8,   /* two of heads that share keys */
    UNGATED = 16, /* networks */
    EXPERT_GROUPS = 32, /* two of four are chosen of */
    GATED = 64,         /* attention's answer, by a matrix of its own */
    FUSED = 256,        /* queries, keys and values in one matrix */
    MUSE = 128,         /* scaled and capped logits */
    LATENT = 512,       /* attention */
    LATENT_Q = 1024,    /* its queries are made of a latent, too */
    ONE_KV = 2048,      /* what makes keys and values of latents is in one matrix */
};

static const struct tiny {
    const char *name, *arch;
    unsigned features, gemma4, more;
} tinies[] = {
    {"llama", "llama", PRE},
    {"llama-moe", "llama", PRE | MOE},
    {"qwen3moe", "qwen3moe", PRE | QK | MOE | MOE_FF},
    {"smollm3", "smollm3", PRE | TIED},
    {"granite", "granite", PRE | FACTORS | TIED},
    {"granitemoe", "granitemoe", PRE | FACTORS | MOE | TIED},
    {"olmo2", "olmo2", POST | QK_ROW},
    {"olmo2-swa", "olmo2", POST | QK_ROW | SLIDING | YARN},
    {"olmoe", "olmoe", PRE | QK_ROW | MOE | ALL_KV},
    {"mistral3", "mistral3", PRE | YARN | GROWTH},
    {"seed_oss", "seed_oss", PRE | FFN_POST},
    {"qwen2vl", "qwen2vl", PRE | BIASED | SECTIONS},
    {"qwen3vl", "qwen3vl", PRE | QK | SECTIONS},
    {"qwen3vlmoe", "qwen3vlmoe", PRE | QK | MOE | MOE_FF | SECTIONS},
    {"gpt-oss", "gpt-oss",
     PRE | FFN_POST | BIASED | GPT_OSS | MOE | MOE_FF | YARN | SLIDING | MXFP4},
    {"gemma", "gemma", PRE | TIED},
    {"glm4", "glm4", PRE | POST | BIASED | PARTIAL | GATE_UP},
    {"glm4v", "glm4", PRE | POST | PARTIAL | GATE_UP | SECTIONS},
    {"exaone4", "exaone4", POST | QK | TIED},
    {"hunyuan-dense", "hunyuan-dense", PRE | QK},
    {"ernie4_5", "ernie4_5", PRE | TIED},
    {"qwen2moe", "qwen2moe", PRE | BIASED | MOE | MOE_FF | SHARED | SHARE},
    {"glm4moe", "glm4moe",
     PRE | FFN_POST | BIASED | PARTIAL | MOE | MOE_FF | SHARED | LEAD | PICK | SIGMOID | SCALED |
         DRAFT},
    {"hunyuan-moe", "hunyuan-moe", PRE | QK | MOE | SHARED},
    {"ernie4_5-moe", "ernie4_5-moe", PRE | MOE | MOE_FF | SHARED | LEAD | PICK | TIED},
    {"command-r", "command-r", COHERE | TIED},
    {"cohere2", "cohere2", COHERE | SLIDING | TIED},
    {"qwen35", "qwen35", PRE | FFN_POST | QK | PARTIAL | SECTIONS | DELTA | TIED},
    {"qwen35-mtp", "qwen35",
     PRE | FFN_POST | QK | PARTIAL | SECTIONS | DELTA | MARKED | VALUES | DRAFT},
    {"qwen35moe", "qwen35moe",
     PRE | FFN_POST | QK | PARTIAL | SECTIONS | DELTA | VALUES | MOE | MOE_FF | SHARED | SHARE},
    {"lfm2", "lfm2", PRE | QK | CONV | TIED},
    {"lfm2moe", "lfm2moe", PRE | QK | CONV | MOE | MOE_FF | LEAD | PICK | SIGMOID | TIED},
    {"gemma4", "gemma4", PRE | POST | QK | TIED, GEMMA4 | BY_LAYER},
    {"gemma4-moe", "gemma4", PRE | POST | QK | MOE | MOE_FF | TIED, GEMMA4 | KEYS_ARE_VALUES},
    {"granitehybrid", "granitehybrid", PRE | FACTORS | TIED, 0, MAMBA2},
    {"granitehybrid-moe", "granitehybrid", PRE | FACTORS | MOE | SHARED | TIED, 0, MAMBA2 | GROUPS},
    {"nemotron_h", "nemotron_h", 0, 0, MAMBA2 | NEMOTRON | UNGATED | GROUPS},
    {"nemotron_h_moe", "nemotron_h_moe", MOE | MOE_FF | SHARED | PICK | SCALED, 0,
     MAMBA2 | NEMOTRON | UNGATED | GROUPS},
    {"falcon-h1", "falcon-h1", PRE, 0, MAMBA2 | BESIDE | GROUPS},
    {"afmoe", "afmoe",
     PRE | POST | QK | SLIDING | MOE | MOE_FF | SHARED | LEAD | PICK | SIGMOID | SCALED, 0, GATED | FUSED},
    {"muse-glimmer", "muse-glimmer", PRE | POST | QK | SLIDING, 0, GATED | MUSE},
    {"bailingmoe2", "bailingmoe2", PRE | QK | PARTIAL | MOE | MOE_FF | SHARED | LEAD | PICK | SIGMOID | SCALED, 0,
     EXPERT_GROUPS | FUSED},
    {"minicpm", "minicpm", PRE | FACTORS | TIED},
    {"mellum", "mellum", PRE | QK | MOE | MOE_FF | SLIDING | YARN},
    {"arcee", "arcee", PRE, 0, UNGATED},
    {"internlm2", "internlm2", PRE},
    {"qwen3next-old", "qwen3next",
     PRE | FFN_POST | QK | PARTIAL | DELTA | BOTH_GATES | VALUES | MOE | MOE_FF | SHARED | SHARE | TIED},
    {"qwen3next", "qwen3next",
     PRE | FFN_POST | QK | PARTIAL | DELTA | BOTH_GATES | VALUES | MOE | MOE_FF | SHARED | SHARE},
    {"exaone", "exaone", PRE | TIED},
    {"deepseek2", "deepseek2", PRE | MOE | MOE_FF | SHARED | LEAD | YARN, 0, LATENT},
    {"deepseek2-q", "deepseek2", PRE | MOE | MOE_FF | SHARED | LEAD | PICK | SIGMOID | SCALED | DRAFT, 0,
     LATENT | LATENT_Q | EXPERT_GROUPS},
    {"deepseek2-old", "deepseek2", PRE | MOE | MOE_FF | SHARED | LEAD, 0, LATENT | ONE_KV},
    {"deepseek2-dense", "deepseek2", PRE | TIED, 0, LATENT | LATENT_Q},
    {"mistral4", "mistral4", PRE | MOE | MOE_FF | SHARED | YARN | GROWTH, 0, LATENT | LATENT_Q},
    {"minicpm3", "minicpm3", PRE, 0, LATENT | LATENT_Q | ONE_KV},
};

const char *tinymodel_name(int i)
{
    return i >= 0 && (size_t)i < sizeof tinies / sizeof *tinies ? tinies[i].name : NULL;
}

int tinymodel_find(const char *name)
{
    for (int i = 0; tinymodel_name(i); i++)
        if (strcmp(tinymodel_name(i), name) == 0)
            return i;
    return -1;
}

bool tinymodel_mixture(int i)
{
    return tinies[i].features & MOE;
}

static bool slides(const struct tiny *m, int layer)
{
    return m->gemma4 && layer % 3 < 2;
}

static int kv_heads(const struct tiny *m, int layer)
{
    if (m->gemma4 & KEYS_ARE_VALUES && !slides(m, layer))
        return KV_HEADS / 2;
    if (m->more & LATENT) /* made of a latent, or what all share */
        return m->more & ONE_KV ? HEADS : 1;
    return m->features & ALL_KV ? HEADS : KV_HEADS;
}

static int head(const struct tiny *m, int layer)
{
    if (m->gemma4 && !slides(m, layer))
        return m->gemma4 & BY_LAYER ? WIDEST_HEAD : WIDE_HEAD;
    if (m->more & LATENT)
        return LATENT_ROT; /* of it */
    return m->features & DELTA ? WIDE_HEAD : HEAD;
}

static int ff_of(const struct tiny *m, int layer)
{
    return m->gemma4 & BY_LAYER && layer >= LAYERS / 2 ? 2 * FF : FF;
}

/* Every how many-th layer attends, by the key. */
static int interval(const struct tiny *m)
{
    return m->features & MOE ? 2 : 4;
}

enum part { ATTENTION, STATE_SPACE, NETWORK };

/* Of nemotron_h. */
static const enum part nemotron[LAYERS] = {STATE_SPACE, NETWORK, STATE_SPACE, ATTENTION, STATE_SPACE, NETWORK};

static bool attends(const struct tiny *m, int layer)
{
    if (m->more & NEMOTRON)
        return nemotron[layer] == ATTENTION;
    if (m->more & MAMBA2)
        return m->more & BESIDE || layer == 2 || layer == 4;
    if (layer == LAYERS || !(m->features & (DELTA | CONV)))
        return true;
    if (m->features & (MARKED | CONV))
        return layer == 2 || layer == 4;
    return (layer + 1) % interval(m) == 0;
}

static bool recurs(const struct tiny *m, int layer)
{
    if (m->more & NEMOTRON)
        return nemotron[layer] == STATE_SPACE;
    return m->more & BESIDE || !attends(m, layer);
}

static bool has_network(const struct tiny *m, int layer)
{
    return !(m->more & NEMOTRON) || nemotron[layer] == NETWORK;
}

static int groups(const struct tiny *m)
{
    return m->more & GROUPS ? 2 : 1;
}

/* ---- a tensor list, and its values ---- */

struct tensor {
    char name[64];
    int64_t n_col, n_row, n_mat;
    float mean, size;
    int64_t n_still; /* the last so many are divisors of positions that turn nothing */
    enum kern_type type;
};

struct tensors {
    struct tensor list[256];
    int n;
};

static void add(struct tensors *t, const char *name, int64_t n_col, int64_t n_row, int64_t n_mat,
                float mean, float size)
{
    struct tensor *x = &t->list[t->n++];
    *x =
        (struct tensor){.n_col = n_col, .n_row = n_row, .n_mat = n_mat, .mean = mean, .size = size};
    snprintf(x->name, sizeof x->name, "%s", name);
    x->type = KERN_F32;
}

static bool has_experts(const struct tiny *m, int layer)
{
    return m->features & MOE && !(m->features & LEAD && layer == 0);
}

/* kind: what a name ends with */
static void add_in(struct tensors *t, int layer, const char *what, const char *kind, int64_t n_col,
                   int64_t n_row, int64_t n_mat, float mean, float size)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s%s", layer, what, kind);
    add(t, name, n_col, n_row, n_mat, mean, size);
}

#define ADD(what, col, row, mat, mean, size)                                                       \
    add_in(t, layer, what, ".weight", col, row, mat, mean, size)

static void add_latent(struct tensors *t, int layer, const struct tiny *m)
{
    int q = HEADS * (LATENT_PLAIN + LATENT_ROT);
    if (m->more & LATENT_Q) {
        ADD("attn_q_a", D, LATENT_QUERY, 0, 0, 0.2f);
        ADD("attn_q_a_norm", LATENT_QUERY, 0, 0, 1.2f, 0.4f);
        ADD("attn_q_b", LATENT_QUERY, q, 0, 0, 0.2f);
    } else {
        ADD("attn_q", D, q, 0, 0, 0.2f);
    }
    ADD("attn_kv_a_mqa", D, LATENT_DIM + LATENT_ROT, 0, 0, 0.2f);
    ADD("attn_kv_a_norm", LATENT_DIM, 0, 0, 1.2f, 0.4f);
    if (m->more & ONE_KV) {
        ADD("attn_kv_b", LATENT_DIM, HEADS * (LATENT_PLAIN + LATENT_VALUE), 0, 0, 0.2f);
    } else {
        ADD("attn_k_b", LATENT_PLAIN, LATENT_DIM, HEADS, 0, 0.2f);
        ADD("attn_v_b", LATENT_DIM, LATENT_VALUE, HEADS, 0, 0.2f);
    }
    ADD("attn_output", HEADS * LATENT_VALUE, D, 0, 0, 0.2f);
}

static void add_attention(struct tensors *t, int layer, const struct tiny *m)
{
    if (m->more & LATENT) {
        add_latent(t, layer, m);
        return;
    }
    int d = head(m, layer), q = HEADS * d, kv = kv_heads(m, layer) * d;
    bool own = !(m->gemma4 & BY_LAYER) || layer < LAYERS / 2;
    if (m->features & (QK | QK_ROW))
        ADD("attn_q_norm", m->features & QK ? d : q, 0, 0, 1.2f, 0.4f);
    if (m->features & (QK | QK_ROW) && own)
        ADD("attn_k_norm", m->features & QK ? d : kv, 0, 0, 1.2f, 0.4f);
    if (m->more & FUSED)
        ADD("attn_qkv", D, q + 2 * kv, 0, 0, 0.2f);
    else
        ADD("attn_q", D, m->features & DELTA ? 2 * q : q, 0, 0, 0.2f); /* gates too, head by head */
    own &= !(m->more & FUSED);
    if (own)
        ADD("attn_k", D, kv, 0, 0, 0.2f);
    if (own && !(m->gemma4 & KEYS_ARE_VALUES && !slides(m, layer)))
        ADD("attn_v", D, kv, 0, 0, 0.2f);
    if (m->more & GATED)
        ADD("attn_gate", D, q, 0, 0, 0.2f);
    ADD("attn_output", q, D, 0, 0, 0.2f);
}

static int value_heads(const struct tiny *m)
{
    return m->features & VALUES ? 2 * KEY_HEADS : KEY_HEADS;
}

/* A state is halved within 1 to 1000 tokens. */
static void add_delta(struct tensors *t, int layer, const struct tiny *m)
{
    int n = value_heads(m), values = n * STATE, all = 2 * KEY_HEADS * STATE + values;
    if (m->features & BOTH_GATES && m->features & TIED) {
        ADD("ssm_in", D, all + values, 0, 0, 0.2f);
    } else {
        ADD("attn_qkv", D, all, 0, 0, 0.2f);
        ADD("attn_gate", D, values, 0, 0, 0.2f);
    }
    if (m->features & BOTH_GATES) {
        ADD("ssm_ba", D, 2 * n, 0, 0, 0.15f);
    } else {
        ADD("ssm_alpha", D, n, 0, 0, 0.1f);
        ADD("ssm_beta", D, n, 0, 0, 0.2f);
    }
    ADD("ssm_conv1d", DELTA_TAPS, all, 0, 0, 0.4f);
    add_in(t, layer, "ssm_dt", ".bias", n, 0, 0, -4, 1);
    add_in(t, layer, "ssm_a", "", n, 0, 0, -3, 0.7f);
    ADD("ssm_norm", STATE, 0, 0, 1, 0.5f);
    ADD("ssm_out", values, D, 0, 0, 0.2f);
}

/* A state is halved within 1 to 100 tokens. */
static void add_space(struct tensors *t, int layer, const struct tiny *m)
{
    int n = SPACE_HEADS * SPACE_HEAD, mix = n + 2 * groups(m) * SPACE_STATE;
    ADD("ssm_in", D, n + mix + SPACE_HEADS, 0, 0, 0.2f);
    ADD("ssm_conv1d", SPACE_TAPS, mix, 0, 0, 0.4f);
    add_in(t, layer, "ssm_conv1d", ".bias", mix, 0, 0, 0, 0.3f);
    add_in(t, layer, "ssm_dt", ".bias", SPACE_HEADS, 0, 0, -3, 1);
    add_in(t, layer, "ssm_a", "", 1, SPACE_HEADS, 0, -3, 0.7f);
    add_in(t, layer, "ssm_d", "", 1, SPACE_HEADS, 0, 1, 0.5f);
    if (!(m->more & BESIDE))
        ADD("ssm_norm", n / groups(m), groups(m), 0, 1, 0.5f);
    ADD("ssm_out", n, D, 0, 0, m->more & BESIDE ? 0.1f : 0.2f);
}

static void add_conv(struct tensors *t, int layer)
{
    ADD("shortconv.in_proj", D, 3 * D, 0, 0, 0.12f);
    ADD("shortconv.conv", CONV_TAPS, D, 0, 0, 0.5f);
    ADD("shortconv.out_proj", D, D, 0, 0, 0.2f);
}

/* What only Gemma 4 has in a layer. */
static void add_gemma4(struct tensors *t, int layer, const struct tiny *m)
{
    ADD("layer_output_scale", 1, 0, 0, 0.7f, 0.1f);
    if (m->gemma4 & BY_LAYER) {
        ADD("inp_gate", D, SIDE, 0, 0, 0.2f);
        ADD("proj", SIDE, D, 0, 0, 0.2f);
        ADD("post_norm", D, 0, 0, 0.5f, 0.3f);
    }
    if (!(m->features & MOE))
        return;
    add_in(t, layer, "ffn_gate_inp", ".scale", D, 0, 0, 9, 3); /* it is divided by sqrt(D) */
    add_in(t, layer, "ffn_down_exps", ".scale", EXPERTS, 0, 0, 1, 0.3f);
    ADD("ffn_gate_up_exps", D, 2 * EXPERT_FF, EXPERTS, 0, 0.2f);
    ADD("ffn_down_exps", EXPERT_FF, D, EXPERTS, 0, 0.15f);
    ADD("ffn_gate_inp", D, EXPERTS, 0, 0, 0.3f);
    ADD("pre_ffw_norm_2", D, 0, 0, 1, 0.5f);
    ADD("post_ffw_norm_1", D, 0, 0, 0.5f, 0.3f);
    ADD("post_ffw_norm_2", D, 0, 0, 0.5f, 0.3f);
}

static void add_layer(struct tensors *t, int layer, const struct tiny *m)
{
    int moe = has_experts(m, layer) && !m->gemma4 ? EXPERTS : 0;
    int ff = moe && m->features & MOE_FF ? EXPERT_FF : ff_of(m, layer);
    if (m->features & PRE) {
        ADD("attn_norm", D, 0, 0, 1, 0.5f);
        add_in(t, layer, m->features & FFN_POST ? "post_attention_norm" : "ffn_norm",
               m->more & BESIDE ? "" : ".weight", D, 0, 0, 1, 0.5f);
    }
    if (m->features & COHERE || m->more & NEMOTRON)
        ADD("attn_norm", D, 0, 0, 1, 0.5f);
    if (m->features & POST) {
        ADD("post_attention_norm", D, 0, 0, 0.5f, 0.3f);
        ADD("post_ffw_norm", D, 0, 0, 0.5f, 0.3f);
    }
    if (attends(m, layer))
        add_attention(t, layer, m);
    else if (m->features & DELTA)
        add_delta(t, layer, m);
    else if (m->features & CONV)
        add_conv(t, layer);
    if (m->more & MAMBA2 && recurs(m, layer))
        add_space(t, layer, m);
    if (!has_network(m, layer))
        return;
    if (m->gemma4)
        add_gemma4(t, layer, m);
    if (moe)
        ADD("ffn_gate_inp", D, EXPERTS, 0, 0, 0.3f);
    int first = t->n;
    if (!(m->features & GATE_UP) && !(m->more & UNGATED))
        ADD(moe ? "ffn_gate_exps" : "ffn_gate", D, ff, moe, 0, 0.2f);
    ADD(moe ? "ffn_up_exps" : "ffn_up", D, m->features & GATE_UP ? 2 * ff : ff, moe, 0, 0.2f);
    ADD(moe ? "ffn_down_exps" : "ffn_down", ff, D, moe, 0, 0.15f);
    for (int i = first; i < t->n && m->features & MXFP4; i++)
        t->list[i].type = KERN_MXFP4;
    if (moe && m->features & SHARED) {
        if (!(m->more & UNGATED))
            ADD("ffn_gate_shexp", D, SHARED_FF, 0, 0, 0.2f);
        ADD("ffn_up_shexp", D, SHARED_FF, 0, 0, 0.2f);
        ADD("ffn_down_shexp", SHARED_FF, D, 0, 0, 0.15f);
    }
    if (moe && m->features & SHARE)
        ADD("ffn_gate_inp_shexp", D, 0, 0, 0, 0.3f);
    if (m->features & GPT_OSS)
        ADD("attn_sinks", HEADS, 0, 0, 1, 1);
    static const struct {
        const char *name;
        int64_t n, n_mat;
        unsigned with;
    } biases[] = {{"attn_q", HEADS * HEAD, 0, BIASED},
                  {"attn_k", KV_HEADS * HEAD, 0, BIASED},
                  {"attn_v", KV_HEADS * HEAD, 0, BIASED},
                  {"attn_output", D, 0, GPT_OSS},
                  {"exp_probs_b", EXPERTS, 0, PICK},
                  {"ffn_gate_inp", EXPERTS, 0, GPT_OSS},
                  {"ffn_gate_exps", EXPERT_FF, EXPERTS, GPT_OSS},
                  {"ffn_up_exps", EXPERT_FF, EXPERTS, GPT_OSS},
                  {"ffn_down_exps", D, EXPERTS, GPT_OSS}};
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++)
        if (m->features & biases[i].with && (moe || biases[i].with != PICK))
            add_in(t, layer, biases[i].name, ".bias", biases[i].n, biases[i].n_mat, 0, 0, 0.3f);
}

/* A layer that drafts what follows the next token, from the last layer's output and that token. */
static void add_draft(struct tensors *t, const struct tiny *m)
{
    int layer = LAYERS;
    add_layer(t, layer, m);
    ADD("nextn.eh_proj", 2 * D, D, 0, 0, 0.2f);
    ADD("nextn.enorm", D, 0, 0, 1, 0.5f);
    ADD("nextn.hnorm", D, 0, 0, 1, 0.5f);
    ADD("nextn.shared_head_norm", D, 0, 0, 1, 0.5f);
}
#undef ADD

/* mean + size * (about normal): integers and exactly rounded operations only. */
static void write_values(struct ggufw *w, const struct tensor *t, uint32_t *state, bool plain)
{
    int64_t n = t->n_col * (t->n_row ? t->n_row : 1) * (t->n_mat ? t->n_mat : 1);
    float *x = mem_alloc(sizeof *x * (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        int32_t sum = 0;
        for (int j = 0; j < 4; j++) {
            *state = *state * 1664525u + 1013904223u;
            sum += (int32_t)(*state >> 16) - 32768;
        }
        x[i] = t->mean + t->size * ((float)sum / 37837.0f); /* the sum's standard deviation */
        x[i] = i >= n - t->n_still ? 1e30f : x[i];
    }
    uint8_t *data = mem_alloc(sizeof *x * (size_t)n);
    if (!kern_quantise(t->type, x, data, n))
        abort();
    if (plain) {
        kern_dequantise(t->type, data, x, n);
        ggufw_data(w, x, sizeof *x * (size_t)n);
    } else {
        ggufw_data(w, data, (size_t)(n / kern_type_block(t->type)) * kern_type_bytes(t->type));
    }
    free(data);
    free(x);
}

static void write_keys(struct ggufw *w, const struct tiny *m)
{
    char key[96];
#define KEY(suffix) (snprintf(key, sizeof key, "%s.%s", m->arch, suffix), key)
    ggufw_str(w, "general.architecture", m->arch);
    ggufw_str(w, "general.name", m->name);
    ggufw_u32(w, KEY("context_length"), 4096);
    ggufw_u32(w, KEY("embedding_length"), D);
    ggufw_u32(w, KEY("block_count"), m->features & DRAFT ? LAYERS + 1 : LAYERS);
    int32_t ff[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        ff[l] = has_network(m, l) ? m->features & MOE_FF && m->more ? EXPERT_FF : ff_of(m, l) : 0;
    if (m->gemma4 & BY_LAYER || m->more & NEMOTRON)
        ggufw_i32s(w, KEY("feed_forward_length"), ff, LAYERS);
    else if (!(m->features & DELTA && m->features & MOE))
        ggufw_u32(w, KEY("feed_forward_length"), FF);
    ggufw_u32(w, KEY("attention.head_count"), HEADS);
    if (!(m->features & CONV) && !m->gemma4 && (!(m->more & MAMBA2) || m->more & BESIDE))
        ggufw_u32(w, KEY("attention.head_count_kv"), (uint32_t)kv_heads(m, 0));
    if (!(m->more & NEMOTRON))
        ggufw_f32(w, KEY("attention.layer_norm_rms_epsilon"), 1e-5f);
    ggufw_f32(w, KEY("rope.freq_base"), 10000);
    if (!(m->features & CONV))
        ggufw_u32(w, KEY("rope.dimension_count"),
                  (uint32_t)(m->features & PARTIAL ? head(m, 2) / 2 : head(m, 2)));
    ggufw_u32(w, KEY("vocab_size"), TINYMODEL_VOCAB);
    if (m->features & MOE) {
        ggufw_u32(w, KEY("expert_count"), EXPERTS);
        ggufw_u32(w, KEY("expert_used_count"), USED);
        ggufw_u32(w, KEY("expert_feed_forward_length"), m->features & MOE_FF ? EXPERT_FF : FF);
    }
    if (m->more & MUSE) {
        ggufw_f32(w, KEY("logit_scale"), 0.5f);
        ggufw_f32(w, KEY("final_logit_softcapping"), 20);
    }
    if (m->more & EXPERT_GROUPS) {
        ggufw_u32(w, KEY("expert_group_count"), 4);
        ggufw_u32(w, KEY("expert_group_used_count"), 2);
    }
    if (m->features & SHARED) {
        ggufw_u32(w, KEY("expert_shared_feed_forward_length"),
                  m->more & EXPERT_GROUPS ? EXPERT_FF : SHARED_FF); /* of one, there */
        ggufw_u32(w, KEY("expert_shared_count"), SHARED_FF / EXPERT_FF);
    }
    if (m->features & LEAD) {
        ggufw_u32(w, KEY("leading_dense_block_count"), 1);
        ggufw_u32(w, KEY("interleave_moe_layer_step"), 1);
    }
    if (m->more & LATENT) {
        bool absorbed = !(m->more & ONE_KV);
        uint32_t len_k = LATENT_PLAIN + LATENT_ROT;
        ggufw_u32(w, KEY("attention.kv_lora_rank"), LATENT_DIM);
        ggufw_u32(w, KEY("attention.q_lora_rank"), m->more & LATENT_Q ? LATENT_QUERY : 0);
        ggufw_u32(w, KEY("attention.key_length"), absorbed ? LATENT_DIM + LATENT_ROT : len_k);
        ggufw_u32(w, KEY("attention.value_length"), absorbed ? LATENT_DIM : LATENT_VALUE);
        if (absorbed) {
            ggufw_u32(w, KEY("attention.key_length_mla"), len_k);
            ggufw_u32(w, KEY("attention.value_length_mla"), LATENT_VALUE);
        }
        if (m->features & YARN)
            ggufw_f32(w, KEY("rope.scaling.yarn_log_multiplier"), m->features & GROWTH ? 0.1f : 0.0707f);
        if (!(m->features & MOE)) {
            ggufw_u32(w, KEY("leading_dense_block_count"), LAYERS);
            ggufw_u32(w, KEY("expert_feed_forward_length"), FF);
            ggufw_u32(w, KEY("expert_shared_count"), 0);
        }
    }
    if (m->features & SIGMOID)
        ggufw_u32(w, KEY("expert_gating_func"), 2);
    if (m->features & SCALED) {
        ggufw_bool(w, KEY("expert_weights_norm"), 1);
        ggufw_f32(w, KEY("expert_weights_scale"), 1.5f);
    }
    if (m->features & DRAFT)
        ggufw_u32(w, KEY("nextn_predict_layers"), 1);
    if (m->features & FACTORS) {
        ggufw_f32(w, KEY("embedding_scale"), 12);
        ggufw_f32(w, KEY("residual_scale"), 0.22f);
        if (strcmp(m->arch, "minicpm") != 0) /* the peer does not look for it there */
            ggufw_f32(w, KEY("attention.scale"), 0.0625f * 5);
        ggufw_f32(w, KEY("logit_scale"), 8);
    }
    if (m->features & COHERE) {
        ggufw_f32(w, KEY("attention.layer_norm_epsilon"), 1e-5f);
        ggufw_f32(w, KEY("logit_scale"), 0.25f);
    }
    if (m->features & YARN) {
        ggufw_str(w, KEY("rope.scaling.type"), "yarn");
        ggufw_f32(w, KEY("rope.scaling.factor"), 16);
        ggufw_u32(w, KEY("rope.scaling.original_context_length"), CTX);
    }
    if (m->features & GROWTH) {
        if (m->more & LATENT)
            ggufw_u32(w, KEY("attention.temperature_length"), CTX / 2);
        else
            ggufw_f32(w, KEY("rope.scaling.yarn_log_multiplier"), 1);
        ggufw_f32(w, KEY("attention.temperature_scale"), 0.3f);
    }
    static const int32_t sections[] = {3, 3, 2, 0};
    if (m->features & SECTIONS)
        ggufw_i32s(w, KEY("rope.dimension_sections"), sections, 4);
    if (m->features & SLIDING)
        ggufw_u32(w, KEY("attention.sliding_window"), WINDOW);
    if (m->features & DELTA) {
        ggufw_u32(w, KEY("attention.key_length"), WIDE_HEAD);
        ggufw_u32(w, KEY("attention.value_length"), WIDE_HEAD);
        ggufw_u32(w, KEY("ssm.conv_kernel"), DELTA_TAPS);
        ggufw_u32(w, KEY("ssm.state_size"), STATE);
        ggufw_u32(w, KEY("ssm.group_count"), KEY_HEADS);
        ggufw_u32(w, KEY("ssm.time_step_rank"), (uint32_t)value_heads(m));
        ggufw_u32(w, KEY("ssm.inner_size"), (uint32_t)value_heads(m) * STATE);
        ggufw_u32(w, KEY("full_attention_interval"), (uint32_t)interval(m));
    }
    bool recurrent[LAYERS + 1], sliding[LAYERS + 1];
    int32_t n_kv[LAYERS + 1];
    for (int l = 0; l <= LAYERS; l++) {
        sliding[l] = slides(m, l);
        bool sees = l == LAYERS || attends(m, l);
        recurrent[l] = !sees;
        n_kv[l] = sees ? kv_heads(m, l) : 0;
    }
    if (m->gemma4) {
        ggufw_u32(w, KEY("attention.key_length"), (uint32_t)head(m, 2));
        ggufw_u32(w, KEY("attention.value_length"), (uint32_t)head(m, 2));
        ggufw_u32(w, KEY("attention.key_length_swa"), HEAD);
        ggufw_u32(w, KEY("attention.value_length_swa"), HEAD);
        ggufw_u32(w, KEY("rope.dimension_count_swa"), HEAD);
        ggufw_f32(w, KEY("rope.freq_base_swa"), 1000);
        ggufw_u32(w, KEY("attention.sliding_window"), WINDOW);
        ggufw_bools(w, KEY("attention.sliding_window_pattern"), sliding, LAYERS);
        ggufw_i32s(w, KEY("attention.head_count_kv"), n_kv, LAYERS);
        ggufw_u32(w, KEY("attention.shared_kv_layers"), m->gemma4 & BY_LAYER ? LAYERS / 2 : 0);
        ggufw_u32(w, KEY("embedding_length_per_layer_input"), m->gemma4 & BY_LAYER ? SIDE : 0);
        ggufw_f32(w, KEY("final_logit_softcapping"), 30);
    }
    if (m->more & MAMBA2) {
        if (!(m->more & BESIDE))
            ggufw_i32s(w, KEY("attention.head_count_kv"), n_kv, LAYERS);
        if (m->more & NEMOTRON)
            ggufw_f32(w, KEY("attention.layer_norm_epsilon"), 1e-3f); /* the other's older name */
        if (m->features & FACTORS)
            ggufw_bool(w, KEY("rope.scaling.finetuned"), 0);
        ggufw_u32(w, KEY("ssm.conv_kernel"), SPACE_TAPS);
        ggufw_u32(w, KEY("ssm.state_size"), SPACE_STATE);
        ggufw_u32(w, KEY("ssm.group_count"), (uint32_t)groups(m));
        ggufw_u32(w, KEY("ssm.time_step_rank"), SPACE_HEADS);
        ggufw_u32(w, KEY("ssm.inner_size"), SPACE_HEADS * SPACE_HEAD);
    }
    if (m->features & MARKED)
        ggufw_bools(w, KEY("attention.recurrent_layers"), recurrent,
                    m->features & DRAFT ? LAYERS + 1 : LAYERS);
    if (m->features & CONV) {
        ggufw_i32s(w, KEY("attention.head_count_kv"), n_kv, LAYERS);
        ggufw_u32(w, KEY("shortconv.l_cache"), CONV_TAPS);
    }
#undef KEY
}

void tinymodel_write(int i, const char *path, bool plain)
{
    const struct tiny *m = &tinies[i];
    struct tensors *t = mem_calloc(1, sizeof *t);
    uint32_t state = 1u + (uint32_t)i;
    add(t, "token_embd.weight", D, TINYMODEL_VOCAB, 0, 0, m->features & TIED ? 0.4f : 1);
    if (!(m->features & TIED))
        add(t, "output.weight", D, TINYMODEL_VOCAB, 0, 0, 0.3f);
    add(t, m->features & CONV ? "token_embd_norm.weight" : "output_norm.weight", D, 0, 0, 1, 0.5f);
    if (m->gemma4 & BY_LAYER) {
        add(t, "per_layer_token_embd.weight", LAYERS * SIDE, TINYMODEL_VOCAB, 0, 0, 0.3f);
        add(t, "per_layer_model_proj.weight", D, LAYERS * SIDE, 0, 0, 0.2f);
        add(t, "per_layer_proj_norm.weight", SIDE, 0, 0, 1, 0.5f);
    }
    if (m->gemma4) {
        add(t, "rope_freqs.weight", head(m, 2) / 2, 0, 0, 1, 0);
        t->list[t->n - 1].n_still = head(m, 2) / 2 - 4;
    }
    for (int l = 0; l < LAYERS; l++)
        add_layer(t, l, m);
    if (m->features & DRAFT && m->features & DELTA)
        add_draft(t, m);
    struct ggufw *w = ggufw_open(path);
    write_keys(w, m);
    ggufw_byte_vocabulary(w, "llama-bpe", TINYMODEL_VOCAB);
    for (int j = 0; j < t->n; j++)
        ggufw_stack(w, t->list[j].name, plain ? KERN_F32 : t->list[j].type, t->list[j].n_col,
                    t->list[j].n_row, t->list[j].n_mat);
    ggufw_begin(w);
    for (int j = 0; j < t->n; j++)
        write_values(w, &t->list[j], &state, plain);
    ggufw_close(w);
    free(t);
}
