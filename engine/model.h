/* One model: what the file says it is, checked, and its weights on a backend.
 *
 * Two steps, so that a file can be looked at and planned for before anything is allocated:
 * model_read takes hyper-parameters and tensor shapes from the container (no memory to speak of,
 * no backend); model_load puts the weights on a backend. Architectures: the table in model_params.c. What
 * they differ in becomes parameters and absent parts, so that the forward pass sees one shape only:
 * fused matrices (phi3) are bound as row ranges of the stored tensor, factors on the residual stream
 * and on the logits (granite) are folded into embeddings and norms.
 *
 * Ownership: the gguf must outlive the model. Threads: immutable after loading. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/base/err.h"
#include "engine/gguf.h"
#include "kernels/kernels.h"
#include "kernels/page.h"

enum { MODEL_EXPERT_GROUPS = 64 /* a bit for each */ };
enum { MODEL_LAYERS = 512, MODEL_HEAD_DIM_MAX = PAGE_HEAD_DIM_MAX /* wider heads have no kernels */ };

/* The values are part of fingerprints: new ones go to the end. */
enum model_arch {
    MODEL_LLAMA,
    MODEL_QWEN2,
    MODEL_QWEN3,
    MODEL_GEMMA2,
    MODEL_GEMMA3,
    MODEL_PHI3,
    MODEL_QWEN3MOE,
    MODEL_SMOLLM3,
    MODEL_GRANITE,
    MODEL_GRANITEMOE,
    MODEL_OLMO2,
    MODEL_OLMOE,
    MODEL_MISTRAL3,
    MODEL_GPT_OSS,
    MODEL_SEED_OSS,
    MODEL_GEMMA,
    MODEL_GLM4,
    MODEL_EXAONE4,
    MODEL_HUNYUAN_DENSE,
    MODEL_ERNIE4_5,
    MODEL_QWEN2MOE,
    MODEL_GLM4MOE,
    MODEL_HUNYUAN_MOE,
    MODEL_ERNIE4_5_MOE,
    MODEL_COHERE,
    MODEL_COHERE2,
    MODEL_QWEN35,
    MODEL_QWEN35MOE,
    MODEL_LFM2,
    MODEL_LFM2MOE,
    MODEL_GEMMA4,
    MODEL_GRANITE_HYBRID,
    MODEL_NEMOTRON_H,
    MODEL_NEMOTRON_H_MOE,
    MODEL_FALCON_H1,
    MODEL_QWEN3NEXT,
    MODEL_MELLUM,
    MODEL_MINICPM,
    MODEL_ARCEE,
    MODEL_BAILINGMOE2,
    MODEL_AFMOE,
    MODEL_MUSE_GLIMMER,
    MODEL_DEEPSEEK2,
    MODEL_MINICPM3,
};

/* Position encoding of one kind of layer, before n_ctx is known. */
struct model_rope_params {
    float base;
    float factor; /* linear and YaRN stretch; 1 = none */
    bool yarn;
    float yarn_beta_fast, yarn_beta_slow, yarn_log_mul;
    float attn_factor; /* stored magnitude, multiplies cos and sin */
};

struct model_params {
    enum model_arch arch;
    char arch_name[32];
    char name[128];
    int32_t n_layer, n_embd, n_ff, n_head, n_vocab;
    int32_t n_head_kv, head_dim;             /* of layers that see everything */
    int32_t n_head_kv_local, head_dim_local; /* of sliding layers */
    /* Latent attention (engine/latent.h): channels of the latent, which are those of a head of keys but for the
     * rotated ones, 0 = there is none; of what queries are made of, 0 = the stream; of a head's query that are not
     * rotated; of a head's values. */
    int32_t n_latent, n_latent_q, n_plain, head_dim_v;
    int32_t n_ctx_train; /* as announced, incl. stretching */
    int32_t n_ctx_orig;  /* before YaRN or longrope */
    float q_growth;      /* queries at position p are times 1 + this * ln(1 + floor(p / q_growth_tok)) */
    int32_t q_growth_tok;
    float norm_eps;
    bool layer_norm;     /* norms take the mean off first */
    bool side_by_side;   /* feed-forward reads what attention reads */
    int32_t n_expert, n_expert_used; /* 0 = dense; else n_ff is that of one expert */
    int32_t n_expert_group, n_group_used; /* experts of so many groups, each a stretch of them, are chosen of; 0 = all */
    bool experts_apart; /* beside a network of the layer's, each with norms of its own */
    bool experts_normed; /* what they answer together with the shared one's is */
    int32_t n_ff_plain;              /* widest network that is no routed expert; 0 = there is none */
    int32_t n_layer_embed;           /* values of a token's embedding for each layer; 0 = there are none */
    bool expert_sigmoid; /* an expert's weight is its logit's sigmoid, else softmax over all */
    bool expert_norm;    /* weights of the chosen experts sum to one */
    float expert_scale;  /* ... times this */
    float embed_scale;                 /* gemma: sqrt(n_embd) */
    float output_scale;                /* multiplies the output norm, and so the logits */
    float attn_scale;                  /* multiplies q.k */
    float attn_softcap, logit_softcap; /* 0 = none */
    bool norm_rotated;                 /* queries and keys are normed after the rotation, not before */
    enum kern_act act;
    bool ungated; /* networks are Down * (act(Up * x) * (Up * x)) */
    enum kern_rope_mode rope_mode;
    bool no_rope; /* positions are not encoded: layers that keep a state know them */
    int32_t n_rot, n_rot_local; /* channels of a head that are rotated */
    struct model_rope_params rope, rope_local; /* local: sliding layers */
    int32_t window; /* positions seen by sliding layers; 0 = no such layers */
    bool sliding[MODEL_LAYERS];
    bool v_normed; /* values are, as if by weights of one; without a matrix of their own they are the keys */
    bool embed_normed; /* embeddings are, too */
    float post_eps;    /* of the norms of blocks' answers */
    bool q_gated;  /* attention's answer is multiplied by the sigmoid of a gate as wide as it is */
    /* Layers with attention, and those that keep a state of fixed size (engine/recurrent.h). Most are one or
     * the other; one may be both, side by side, or have a network alone. */
    bool attends[MODEL_LAYERS], recurrent[MODEL_LAYERS];
    int32_t n_layer_attn, n_layer_state;
    int32_t n_layer_kv; /* of those with attention the ones with keys and values of their own: the first so many */
    int32_t n_tap;      /* of the convolution before a state; 0 = no layer keeps one */
    /* Heads with a state of [state_dim_k, state_dim] each, and heads of keys, which they share; 0 = the
     * convolution is all. */
    int32_t n_state_head, n_state_head_k, state_dim_k, state_dim;
    bool state_neighbours; /* those that share are neighbours, as in a state space; else one of every n_state_head_k */
    bool selective;  /* they are Mamba-2's selective state spaces, else of the gated delta rule */
    float state_eps; /* of the norms in such a layer */
    int64_t n_param;
    char type[32]; /* what the file calls itself, e.g. "Q4_K_M", else the type that holds most weights */
};

/* Heads of keys and values of a layer, and their channels; the queries' are as wide. */
static inline int32_t model_n_head_kv(const struct model_params *p, int32_t layer)
{
    return p->sliding[layer] ? p->n_head_kv_local : p->n_head_kv;
}
static inline int32_t model_head_dim(const struct model_params *p, int32_t layer)
{
    return p->sliding[layer] ? p->head_dim_local : p->head_dim;
}

/* The most of any layer. */
static inline int32_t model_most_head_kv(const struct model_params *p)
{
    return p->n_head_kv > p->n_head_kv_local ? p->n_head_kv : p->n_head_kv_local;
}
static inline int32_t model_most_head_dim(const struct model_params *p)
{
    return p->head_dim > p->head_dim_local ? p->head_dim : p->head_dim_local;
}

/* Of a layer that keeps a state: channels of what its convolution reads, and of its answer. */
static inline int32_t model_mix_width(const struct model_params *p)
{
    return p->n_state_head > 0 ? 2 * p->n_state_head_k * p->state_dim_k + p->n_state_head * p->state_dim
                               : p->n_embd;
}
static inline int32_t model_out_width(const struct model_params *p)
{
    return p->n_state_head > 0 ? p->n_state_head * p->state_dim : p->n_embd;
}

/* A matrix bound to rows of a tensor; experts' matrices are one matrix, above each other. */
enum { MODEL_PIECES = 3 };
struct model_mat {
    const struct gguf_tensor *t; /* NULL = absent */
    enum kern_type type;         /* the tensor's, unless `turned` */
    int32_t row0, n_row, n_col;  /* rows row0.. of the tensor, or, with `step`, what follows */
    /* The tensor's rows are groups of `step`; the matrix has a piece of each group, then another of each. */
    int32_t step;
    struct {
        int32_t at, n;
    } piece[MODEL_PIECES];
    bool turned;           /* each group's piece is a matrix of columns; as F16, or F32 as it was */
    bool routed;           /* of experts: a token needs a part of it */
    bool kept;             /* in the host's memory, though the model runs on a device */
    void *gathered;        /* such pieces one after another, where the backend reads them in place; owned */
    struct kern_weight *w; /* after model_load */
};

/* What both halves of a token's embedding by layer are multiplied by before they are added: 1 / sqrt(2). */
#define MODEL_LAYER_EMBED_SCALE 0.70710678f

/* A vector in float32 on the device. */
struct model_vec {
    const struct gguf_tensor *t; /* NULL = absent */
    int32_t at, n;               /* first element and count */
    float *dev;                  /* after model_load; NULL when absent */
};

struct model_layer {
    struct model_vec attn_norm, q_norm, k_norm, attn_post_norm, ffn_norm, ffn_post_norm;
    struct model_mat q, k, v, o; /* q_gated: q's rows are each head's, then its gate's; */
    struct model_mat q_gate;     /* or these are the gates */
    /* Of latent attention: what queries are made of, or absent; each head's [n_latent, n_plain] for its query, and
     * [head_dim_v, n_latent] for its answer. */
    struct model_mat q_a, k_b, v_b;
    struct model_vec q_a_norm;
    /* The layer's network, or the expert that all tokens share beside the routed ones; or absent. Ungated
     * ones have their up in gate. */
    struct model_mat gate, up, down;
    /* Of routed experts, or absent. Without ups each expert's rows of gates are its gate's, then its up's;
     * or, ungated, its up's alone. */
    struct model_mat router, gates, ups, downs;
    struct model_mat share; /* [1, n_embd]: its sigmoid is the shared expert's weight; absent = 1 */
    struct model_vec pick;  /* added to experts' weights for the choice alone, or absent; no dev */
    struct model_vec worth; /* of each expert, times its weight; or absent; no dev */
    /* Gemma 4: the layer's network beside the routed experts, each with norms of their own. */
    struct model_vec router_norm, experts_norm, experts_post_norm, plain_post_norm;
    struct model_vec sinks; /* one logit a head that takes a share of attention; or absent */
    struct model_vec q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
    struct model_vec router_bias, gates_bias, ups_bias, downs_bias;
    const struct kern_rope *rope; /* NULL = positions are not encoded */
    int32_t rope_at;              /* the first rotated channel of a head */
    int32_t window; /* 0 = sees everything */
    int32_t attn_at, state_at; /* its number among the layers with attention, and among those that keep a state */
    /* Of attention: heads of keys and values, channels of a head, and which layer of the cache is read. It is
     * the layer's own where it has a k; else an earlier layer has written it. */
    int32_t n_head_kv, head_dim, kv;
    /* Of a layer that keeps a state: what the convolution reads (q, k and v of the gated delta rule, or x, b
     * and c of a state space, above each other), what its input (LFM2) and its answer are multiplied by, and
     * what the answer goes through as attention's goes through o. */
    struct model_mat mix, gate_in, gate_out, state_o;
    struct model_mat alpha, beta; /* [n_state_head, n_embd]; a state space has alpha only, its step */
    struct model_vec taps, taps_bias, decay, dt, skip, state_norm;
    /* Of a model with embeddings by layer (engine/layer_embed.h). */
    struct model_mat side_gate, side_out;
    struct model_vec side_norm;
    float out_scale; /* the stream behind the layer is multiplied by it */
};

struct model {
    struct model_params p;
    const struct gguf *gguf;
    struct kern *kern;              /* NULL before model_load */
    struct model_mat embed, output; /* output.t == embed.t and one weight when tied */
    struct model_vec output_norm, output_bias;
    const struct gguf_tensor *layer_embed; /* [n_vocab][n_layer * n_layer_embed] in the file, or NULL */
    struct model_mat layer_proj;           /* [n_layer * n_layer_embed, n_embd]; or absent */
    struct model_vec layer_proj_norm;
    struct model_layer *layer;                                     /* [n_layer] */
    const struct gguf_tensor *rope_freqs, *rope_long, *rope_short; /* divisors, or NULL */
    struct kern_rope rope, rope_local;                             /* after model_set_ctx */
    float *rope_freq, *rope_freq_local;
    bool rope_is_long; /* longrope: n_ctx exceeds the original context */
};

/* Reads and checks everything but the weights' values. */
enum status model_read(const struct gguf *g, struct model **ret, struct err *e);
void model_free(struct model *m); /* frees weights too; NULL is fine */

/* Fixes the RoPE tables for contexts of n_ctx (longrope chooses by it). */
void model_set_ctx(struct model *m, int32_t n_ctx);

/* On a device: the matrices of the first n layers go there, the others stay in the host's memory,
 * and embeddings and output too unless n is all of them. Before model_load; all, unless it is called. */
void model_place(struct model *m, int32_t n_layer);

/* Bytes the backend would allocate for the weights (private), bytes of the file it would go on
 * reading in place (mapped), and bytes of the host's memory for those that stay there (kept). */
void model_weight_bytes(const struct model *m, struct kern *k, uint64_t *ret_private,
                        uint64_t *ret_mapped, uint64_t *ret_kept);

/* Puts the weights on the backend, which must outlive the model. progress (may be NULL) is called
 * with 0..1 and cancels by returning false. */
enum status model_load(struct model *m, struct kern *k, bool (*progress)(void *ctx, float done),
                       void *ctx, struct err *e);

/* Layers up to the last one that leaves something behind: what follows them is computed of those rows only
 * that somebody will look at. */
int32_t model_n_write(const struct model *m);

/* Calls fn for every matrix of the model, the tied output once; and for those of one layer. */
void model_each_mat_of(struct model_layer *l, void (*fn)(void *ctx, struct model_mat *mat), void *ctx);
void model_each_mat(struct model *m, void (*fn)(void *ctx, struct model_mat *mat), void *ctx);

/* Hash of what decides KV content: parameters, RoPE tables, shapes, types and sampled bytes of all
 * tensors. Reads at most a few MB. */
uint64_t model_fingerprint(const struct model *m);

#endif
