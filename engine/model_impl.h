/* Between the files that open a model: what is special about an architecture (model_params.c) decides how
 * its tensors are bound (model.c). Internal to the engine. */
#ifndef ENGINE_MODEL_IMPL_H
#define ENGINE_MODEL_IMPL_H

#include "engine/model.h"

/* More than any model has, and little enough that products of them fit their types. */
enum {
    MAX_EMBD = 1 << 17,
    MAX_FF = 1 << 20,
    MAX_HEADS = 1024,
    MAX_VOCAB = 1 << 24,
    MAX_CTX = 1 << 30,
    MAX_EXPERTS = 1 << 12,
    MAX_STATE_DIM = 256,
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
    DELTA = 1 << 18,       /* some layers keep a state by the gated delta rule */
    SHORT_CONV = 1 << 19,  /* some layers are short convolutions */
    GEMMA4 = 1 << 20,      /* its heads, caches, experts and embeddings by layer */
    MAMBA2 = 1 << 21,      /* some layers keep a state by a selective state space */
    NEMOTRON = 1 << 22,    /* a layer is that, attention or a network alone */
    UNGATED = 1 << 23,     /* see model_params */
    GATE_APART = 1 << 24,  /* of attention's answer, in a matrix of its own */
    LATENT = 1 << 25,      /* attention: see model_params */
};

bool model_has(const struct model_params *p, unsigned trait); /* any of these */
/* Sliding layers tell positions in their own way, neither stretched nor by the file's divisors. */
bool model_own_rope(const struct model_params *p);
/* The hyper-parameters of an open file, checked; what only its tensors tell is not known yet. */
enum status model_read_params(const struct gguf *g, struct model_params *p, struct err *e);

#endif
