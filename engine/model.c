/* A model file opened: tensors found, checked and bound, and put where they are computed. */
#include "engine/model_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/base/mem.h"

/* ---- binding ---- */

static const struct gguf_tensor *tensor(const struct gguf *g, const char *fmt, int32_t layer)
{
    char name[80];
    snprintf(name, sizeof name, fmt, layer);
    return gguf_tensor_find(g, name);
}

/* Binds all of a tensor that must be [n_col, n_row, n_mat]. */
static enum status bind_mats(const struct gguf *g, const struct gguf_tensor *t, const char *what,
                             int32_t layer, int32_t n_col, int32_t n_row, int32_t n_mat,
                             struct model_mat *ret, struct err *e)
{
    if (!t)
        return err_set(e, ERR_FORMAT, "%s: tensor %s of layer %d is missing", gguf_path(g), what,
                       layer);
    if (t->dim[0] != n_col || t->dim[1] != n_row || t->dim[2] != n_mat || t->dim[3] != 1)
        return err_set(
            e, ERR_FORMAT,
            "%s: tensor '%s' is %lld x %lld x %lld, but the model's parameters ask for %d "
            "x %d x %d",
            gguf_path(g), t->name, (long long)t->dim[0], (long long)t->dim[1], (long long)t->dim[2],
            n_col, n_row, n_mat);
    *ret = (struct model_mat){.t = t, .type = t->type, .n_row = n_row * n_mat, .n_col = n_col};
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
    *ret = (struct model_mat){.t = t, .type = t->type, .row0 = row0, .n_row = n_row, .n_col = n_col};
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
#define MATS(field, fmt, col, rows, n)                                                             \
    TRY(bind_mats(g, tensor(g, "blk.%d." fmt, i), fmt, i, col, rows, n, &l->field, e))
#define EXPERTS_OF(field, fmt, col, rows)                                                          \
    do {                                                                                           \
        MATS(field, fmt, col, rows, p->n_expert);                                                  \
        l->field.routed = true;                                                                    \
    } while (0)

static enum status bind_feed_forward(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t d = p->n_embd;
    if (p->n_expert > 0 && (tensor(g, "blk.%d.ffn_gate_inp.weight", i) || !model_has(p, SOME_DENSE))) {
        int32_t n = p->n_expert, shared = rows(tensor(g, "blk.%d.ffn_up_shexp.weight", i));
        MAT(router, "ffn_gate_inp.weight", d, n, 0, n);
        if (p->ungated) {
            EXPERTS_OF(gates, "ffn_up_exps.weight", d, p->n_ff);
        } else if (tensor(g, "blk.%d.ffn_gate_up_exps.weight", i)) {
            EXPERTS_OF(gates, "ffn_gate_up_exps.weight", d, 2 * p->n_ff);
        } else {
            EXPERTS_OF(gates, "ffn_gate_exps.weight", d, p->n_ff);
            EXPERTS_OF(ups, "ffn_up_exps.weight", d, p->n_ff);
        }
        EXPERTS_OF(downs, "ffn_down_exps.weight", p->n_ff, d);
        VEC(pick, "exp_probs_b.bias", false, n, 0, n);
        VEC(router_bias, "ffn_gate_inp.bias", false, n, 0, n);
        if (p->ungated) {
            VEC(gates_bias, "ffn_up_exps.bias", false, n * p->n_ff, 0, n * p->n_ff);
        } else {
            VEC(gates_bias, "ffn_gate_exps.bias", false, n * p->n_ff, 0, n * p->n_ff);
            VEC(ups_bias, "ffn_up_exps.bias", false, n * p->n_ff, 0, n * p->n_ff);
        }
        VEC(downs_bias, "ffn_down_exps.bias", false, n * d, 0, n * d);
        VEC(worth, "ffn_down_exps.scale", false, n, 0, n);
        if (model_has(p, SHARED) || (model_has(p, SOME_SHARED) && shared > 0)) {
            if (p->ungated) {
                MAT(gate, "ffn_up_shexp.weight", d, shared, 0, shared);
            } else {
                MAT(gate, "ffn_gate_shexp.weight", d, shared, 0, shared);
                MAT(up, "ffn_up_shexp.weight", d, shared, 0, shared);
            }
            MAT(down, "ffn_down_shexp.weight", shared, d, 0, d);
        }
        if (model_has(p, SHARED_GATE))
            MAT(share, "ffn_gate_inp_shexp.weight", d, 1, 0, 1);
        if (model_has(p, GEMMA4)) {
            VEC(router_norm, "ffn_gate_inp.scale", true, d, 0, d);
            VEC(experts_norm, "pre_ffw_norm_2.weight", true, d, 0, d);
            VEC(experts_post_norm, "post_ffw_norm_2.weight", true, d, 0, d);
            VEC(plain_post_norm, "post_ffw_norm_1.weight", true, d, 0, d);
        }
    }
    if (!l->router.t || model_has(p, GEMMA4)) {
        bool told = p->n_expert == 0 && p->n_ff > 0; /* by the file's metadata */
        int32_t n = told ? p->n_ff : rows(tensor(g, "blk.%d.ffn_up.weight", i));
        if (p->ungated) {
            MAT(gate, "ffn_up.weight", d, n, 0, n);
            VEC(gate_bias, "ffn_up.bias", false, n, 0, n);
        } else if (tensor(g, "blk.%d.ffn_gate.weight", i)) {
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

static enum status bind_recurrent(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    const struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t d = p->n_embd, n = p->n_state_head, n_mix = model_mix_width(p), n_out = model_out_width(p);
    if (n > 0) {
        MAT(state_o, "ssm_out.weight", n_out, d, 0, d);
        VEC(taps, "ssm_conv1d.weight", true, n_mix * p->n_tap, 0, n_mix * p->n_tap);
        VEC(taps_bias, "ssm_conv1d.bias", false, n_mix, 0, n_mix);
        VEC(decay, "ssm_a", true, n, 0, n);
        VEC(dt, "ssm_dt.bias", true, n, 0, n);
    }
    if (p->selective) {
        int32_t all = n_out + n_mix + n;
        MAT(gate_out, "ssm_in.weight", d, all, 0, n_out);
        MAT(mix, "ssm_in.weight", d, all, n_out, n_mix);
        MAT(alpha, "ssm_in.weight", d, all, n_out + n_mix, n);
        VEC(skip, "ssm_d", true, n, 0, n);
        VEC(state_norm, "ssm_norm.weight", p->arch != MODEL_FALCON_H1, n_out, 0, n_out);
    } else if (n > 0) {
        int32_t per_key = n / p->n_state_head_k;
        if (tensor(g, "blk.%d.ssm_in.weight", i)) { /* the first of qwen3next: each key's q, k, values, gates */
            int32_t key = p->state_dim_k, values = per_key * p->state_dim;
            MAT(mix, "ssm_in.weight", d, n_mix + n_out, 0, n_mix);
            MAT(gate_out, "ssm_in.weight", d, n_mix + n_out, 0, n_out);
            l->mix.step = l->gate_out.step = 2 * key + 2 * values;
            l->mix.piece[0].n = l->mix.piece[1].at = l->mix.piece[1].n = key;
            l->mix.piece[2].at = 2 * key;
            l->mix.piece[2].n = l->gate_out.piece[0].n = values;
            l->gate_out.piece[0].at = 2 * key + values;
        } else {
            MAT(mix, "attn_qkv.weight", d, n_mix, 0, n_mix);
            MAT(gate_out, "attn_gate.weight", d, n_out, 0, n_out);
        }
        if (tensor(g, "blk.%d.ssm_ba.weight", i)) { /* each key's betas, then its alphas */
            MAT(beta, "ssm_ba.weight", d, 2 * n, 0, n);
            MAT(alpha, "ssm_ba.weight", d, 2 * n, 0, n);
            l->beta.step = l->alpha.step = 2 * per_key;
            l->beta.piece[0].n = l->alpha.piece[0].n = l->alpha.piece[0].at = per_key;
        } else {
            MAT(alpha, "ssm_alpha.weight", d, n, 0, n);
            MAT(beta, "ssm_beta.weight", d, n, 0, n);
        }
        VEC(state_norm, "ssm_norm.weight", true, p->state_dim, 0, p->state_dim);
    } else {
        MAT(gate_in, "shortconv.in_proj.weight", d, 3 * d, 0, d);
        MAT(gate_out, "shortconv.in_proj.weight", d, 3 * d, d, d);
        MAT(mix, "shortconv.in_proj.weight", d, 3 * d, 2 * d, d);
        MAT(state_o, "shortconv.out_proj.weight", d, d, 0, d);
        VEC(taps, "shortconv.conv.weight", true, d * p->n_tap, 0, d * p->n_tap);
    }
    return OK;
}

/* A layer without keys of its own reads those of the last one before it that is alike and has some. */
static enum status find_cache(struct model *m, int32_t i, struct err *e)
{
    const struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    l->kv = l->attn_at;
    for (int32_t j = i; j >= 0 && l->kv >= p->n_layer_kv; j--)
        if (p->attends[j] && p->sliding[j] == p->sliding[i])
            l->kv = m->layer[j].attn_at;
    return l->kv < p->n_layer_kv ? OK
                                 : err_set(e, ERR_FORMAT, "%s: no layer before layer %d keeps what it reads",
                                           gguf_path(m->gguf), i);
}

/* The keys of a latent layer are its latent, normed, and what tells its position. */
static enum status bind_latent(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t d = p->n_embd, n = p->n_latent, plain = p->n_plain, v = p->head_dim_v, n_q = p->n_head * (plain + p->n_rot);
    if (i == 0 && !tensor(g, "blk.%d.attn_q_a.weight", i)) /* whatever the metadata tell */
        p->n_latent_q = 0;
    if (p->n_latent_q > 0) {
        MAT(q_a, "attn_q_a.weight", d, p->n_latent_q, 0, p->n_latent_q);
        VEC(q_a_norm, "attn_q_a_norm.weight", true, p->n_latent_q, 0, p->n_latent_q);
        MAT(q, "attn_q_b.weight", p->n_latent_q, n_q, 0, n_q);
    } else {
        MAT(q, "attn_q.weight", d, n_q, 0, n_q);
    }
    MAT(k, "attn_kv_a_mqa.weight", d, n + p->n_rot, 0, n + p->n_rot);
    VEC(k_norm, "attn_kv_a_norm.weight", true, n, 0, n);
    if (tensor(g, "blk.%d.attn_k_b.weight", i)) {
        MATS(k_b, "attn_k_b.weight", plain, n, p->n_head);
        MATS(v_b, "attn_v_b.weight", n, v, p->n_head);
    } else { /* of older files: each head's rows that make keys, then those that make values */
        int32_t all = p->n_head * (plain + v);
        MAT(k_b, "attn_kv_b.weight", n, all, 0, p->n_head * n);
        MAT(v_b, "attn_kv_b.weight", n, all, 0, p->n_head * v);
        l->k_b.step = l->v_b.step = plain + v;
        l->v_b.piece[0].at = l->k_b.n_col = plain;
        l->v_b.piece[0].n = v;
        l->k_b.turned = true;
        l->k_b.type = l->k_b.type == KERN_F32 ? KERN_F32 : KERN_F16;
    }
    MAT(o, "attn_output.weight", p->n_head * v, d, 0, d);
    l->rope_at = n;
    l->rope = &m->rope;
    return OK;
}

static enum status bind_attention(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    const struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    l->n_head_kv = model_n_head_kv(p, i);
    l->head_dim = model_head_dim(p, i);
    TRY(find_cache(m, i, e));
    if (p->n_latent > 0)
        return bind_latent(m, i, e);
    int32_t n_q = p->n_head * l->head_dim, n_kv = l->n_head_kv * l->head_dim, d = p->n_embd;
    bool by_row = model_has(p, QK_NORM_ROW), qk_norm = model_has(p, QK_NORM) || by_row;
    bool own = l->attn_at < p->n_layer_kv; /* keys and values; else what the file has of them is nothing to anybody */
    int32_t n_q_norm = by_row ? n_q : l->head_dim, n_k_norm = by_row ? n_kv : l->head_dim;

    if (model_has(p, SINKS))
        VEC(sinks, "attn_sinks.weight", true, p->n_head, 0, p->n_head);
    VEC(q_norm, "attn_q_norm.weight", qk_norm, n_q_norm, 0, n_q_norm);
    VEC(k_norm, "attn_k_norm.weight", qk_norm && own, n_k_norm, 0, n_k_norm);
    bool apart = model_has(p, GATE_APART);
    if (apart)
        MAT(q_gate, "attn_gate.weight", d, n_q, 0, n_q);
    if (tensor(g, "blk.%d.attn_qkv.weight", i) && (!p->q_gated || apart)) {
        int32_t all = n_q + 2 * n_kv;
        MAT(q, "attn_qkv.weight", d, all, 0, n_q);
        if (own) {
            MAT(k, "attn_qkv.weight", d, all, n_q, n_kv);
            MAT(v, "attn_qkv.weight", d, all, n_q + n_kv, n_kv);
        }
        VEC(q_bias, "attn_qkv.bias", false, all, 0, n_q);
        VEC(k_bias, "attn_qkv.bias", false, all, n_q, n_kv);
        VEC(v_bias, "attn_qkv.bias", false, all, n_q + n_kv, n_kv);
    } else {
        int32_t n_asked = p->q_gated && !apart ? 2 * n_q : n_q;
        MAT(q, "attn_q.weight", d, n_asked, 0, n_asked);
        if (own)
            MAT(k, "attn_k.weight", d, n_kv, 0, n_kv);
        if (own && (!p->v_normed || tensor(g, "blk.%d.attn_v.weight", i)))
            MAT(v, "attn_v.weight", d, n_kv, 0, n_kv);
        bool biased = model_has(p, QKV_BIAS);
        VEC(q_bias, "attn_q.bias", biased, n_q, 0, n_q);
        VEC(k_bias, "attn_k.bias", biased, n_kv, 0, n_kv);
        VEC(v_bias, "attn_v.bias", biased, n_kv, 0, n_kv);
    }
    MAT(o, "attn_output.weight", n_q, d, 0, d);
    VEC(o_bias, "attn_output.bias", false, d, 0, d);
    l->window = p->sliding[i] ? p->window : 0;
    l->rope = p->no_rope ? NULL : p->sliding[i] ? &m->rope_local : &m->rope;
    if (p->arch == MODEL_SMOLLM3 && i % 4 == 3) /* every fourth layer tells no positions */
        l->rope = NULL;
    if (model_has(p, ROPE_SLIDING) && p->window && !p->sliding[i])
        l->rope = NULL;
    return OK;
}

/* One number; 1 where there is none. */
static enum status bind_scale(const struct gguf *g, const struct gguf_tensor *t, float *ret, struct err *e)
{
    *ret = 1;
    if (!t)
        return OK;
    if (t->n_elem != 1 || t->type != KERN_F32)
        return err_set(e, ERR_FORMAT, "%s: tensor '%s' is not one float32 value", gguf_path(g), t->name);
    memcpy(ret, t->data, sizeof *ret);
    return OK;
}

static enum status bind_layer(struct model *m, int32_t i, struct err *e)
{
    const struct gguf *g = m->gguf;
    const struct model_params *p = &m->p;
    struct model_layer *l = &m->layer[i];
    int32_t d = p->n_embd;
    bool pre = model_has(p, PRE_NORM), post = model_has(p, POST_NORM);

    /* Nemotron-H's layers are of one part alone. */
    bool mixer = p->attends[i] || p->recurrent[i], network = !model_has(p, NEMOTRON) || !mixer;
    if (mixer)
        VEC(attn_norm, "attn_norm.weight", pre || p->side_by_side || !network, d, 0, d);
    if (!mixer)
        VEC(ffn_norm, "attn_norm.weight", true, d, 0, d);
    else if (model_has(p, FFN_NORM_POST))
        VEC(ffn_norm, "post_attention_norm.weight", pre, d, 0, d);
    else if (tensor(g, "blk.%d.ffn_norm", i)) /* falcon-h1's converter left out the rest of the name */
        VEC(ffn_norm, "ffn_norm", pre, d, 0, d);
    else if (network)
        VEC(ffn_norm, "ffn_norm.weight", pre, d, 0, d);
    if (post) {
        VEC(attn_post_norm, "post_attention_norm.weight", true, d, 0, d);
        VEC(ffn_post_norm, "post_ffw_norm.weight", true, d, 0, d);
    }
    for (int32_t j = 0; j < i; j++) {
        l->attn_at += p->attends[j];
        l->state_at += p->recurrent[j];
    }
    if (p->recurrent[i])
        TRY(bind_recurrent(m, i, e));
    if (p->attends[i])
        TRY(bind_attention(m, i, e));
    if (p->n_layer_embed > 0) {
        MAT(side_gate, "inp_gate.weight", d, p->n_layer_embed, 0, p->n_layer_embed);
        MAT(side_out, "proj.weight", p->n_layer_embed, d, 0, d);
        VEC(side_norm, "post_norm.weight", true, d, 0, d);
    }
    TRY(bind_scale(g, tensor(g, "blk.%d.layer_output_scale.weight", i), &l->out_scale, e));
    return network ? bind_feed_forward(m, i, e) : OK;
}
#undef MAT
#undef VEC
#undef MATS
#undef EXPERTS_OF

static enum status bind_rope_factors(struct model *m, const char *name,
                                     const struct gguf_tensor **ret, struct err *e)
{
    const struct gguf_tensor *t = gguf_tensor_find(m->gguf, name);
    int32_t n = m->p.n_rot / 2;
    if (!model_own_rope(&m->p) && m->p.n_rot_local / 2 > n) /* sliding layers read them, too */
        n = m->p.n_rot_local / 2;
    if (t && (t->type != KERN_F32 || t->n_elem < n))
        return err_set(e, ERR_FORMAT, "%s: tensor '%s' does not hold %d float32 values",
                       gguf_path(m->gguf), name, n);
    for (int32_t i = 0; t && i < n; i++) {
        float f;
        memcpy(&f, (const char *)t->data + 4 * (size_t)i, 4);
        if (!(f > 0 && f < 1e31f)) /* gemma4: 1e30 where nothing is rotated */
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
    [18] = {"Q6_K", KERN_Q6_K},   [19] = {"IQ2_XXS", KERN_IQ2_XXS}, [20] = {"IQ2_XS", KERN_IQ2_XS},
    [21] = {"Q2_K_S", KERN_Q2_K}, [22] = {"IQ3_XS", KERN_IQ3_S},  [23] = {"IQ3_XXS", KERN_IQ3_XXS},
    [24] = {"IQ1_S", KERN_IQ1_S}, [25] = {"IQ4_NL", KERN_IQ4_NL}, [26] = {"IQ3_S", KERN_IQ3_S},
    [27] = {"IQ3_M", KERN_IQ3_S}, [28] = {"IQ2_S", KERN_IQ2_XS},  [29] = {"IQ2_M", KERN_IQ2_S},
    [30] = {"IQ4_XS", KERN_IQ4_XS}, [31] = {"IQ1_M", KERN_IQ1_M},
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

static enum status bind_layer_embed(struct model *m, struct err *e)
{
    const struct gguf *g = m->gguf;
    int32_t n = m->p.n_layer_embed, all = m->p.n_layer * n;
    struct model_mat table; /* only looked up in */
    TRY(bind_mat(g, gguf_tensor_find(g, "per_layer_token_embd.weight"), "per_layer_token_embd.weight", 0, all,
                 m->p.n_vocab, 0, m->p.n_vocab, &table, e));
    m->layer_embed = table.t;
    TRY(bind_mat(g, gguf_tensor_find(g, "per_layer_model_proj.weight"), "per_layer_model_proj.weight", 0,
                 m->p.n_embd, all, 0, all, &m->layer_proj, e));
    return bind_vec(g, gguf_tensor_find(g, "per_layer_proj_norm.weight"), "per_layer_proj_norm.weight", 0,
                    true, n, 0, n, &m->layer_proj_norm, e);
}

static enum status read_model(struct model *m, struct err *e)
{
    const struct gguf *g = m->gguf;
    TRY(model_read_params(g, &m->p, e));
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
    /* lfm2's converter gave it another name. */
    const char *norm = model_has(&m->p, SHORT_CONV) ? "token_embd_norm.weight" : "output_norm.weight";
    TRY(bind_vec(g, gguf_tensor_find(g, norm), norm, 0, true, m->p.n_embd, 0, m->p.n_embd,
                 &m->output_norm, e));
    TRY(bind_vec(g, gguf_tensor_find(g, "output.bias"), "output.bias", 0, false, m->p.n_vocab, 0,
                 m->p.n_vocab, &m->output_bias, e));
    TRY(bind_rope_factors(m, "rope_freqs.weight", &m->rope_freqs, e));
    TRY(bind_rope_factors(m, "rope_factors_long.weight", &m->rope_long, e));
    TRY(bind_rope_factors(m, "rope_factors_short.weight", &m->rope_short, e));
    if (m->p.n_layer_embed > 0)
        TRY(bind_layer_embed(m, e));
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
static double yarn_channel(const struct model_params *p, int32_t n_rot, double beta, double base)
{
    const double two_pi = 6.283185307179586;
    return n_rot * log(p->n_ctx_orig / (beta * two_pi)) / (2 * log(base));
}

static double yarn_magnitude(double factor, double mul)
{
    return factor <= 1 ? 1 : 0.1 * mul * log(factor) + 1;
}

/* Angle per position of each rotated pair, with all scalings folded in. */
static void fill_rope(const struct model_params *p, const struct model_rope_params *r, int32_t n_rot,
                      const struct gguf_tensor *divisors, float *freq, struct kern_rope *ret)
{
    double low = 0, high = 0;
    if (r->yarn) {
        low = fmax(0, floor(yarn_channel(p, n_rot, r->yarn_beta_fast, r->base)));
        high = fmin(n_rot - 1, ceil(yarn_channel(p, n_rot, r->yarn_beta_slow, r->base)));
    }
    for (int32_t i = 0; i < n_rot / 2; i++) {
        double plain = pow(r->base, -2.0 * i / n_rot), div = 1;
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
    *ret = (struct kern_rope){p->rope_mode, n_rot, freq, (float)mscale};
}

void model_set_ctx(struct model *m, int32_t n_ctx)
{
    m->rope_freq = mem_realloc(m->rope_freq, sizeof(float) * (size_t)(m->p.n_rot / 2));
    m->rope_freq_local = mem_realloc(m->rope_freq_local, sizeof(float) * (size_t)(m->p.n_rot_local / 2));
    m->rope_is_long = m->rope_long && n_ctx > m->p.n_ctx_orig;
    const struct gguf_tensor *divisors = m->rope_freqs     ? m->rope_freqs
                                         : m->rope_is_long ? m->rope_long
                                                           : m->rope_short;
    fill_rope(&m->p, &m->p.rope, m->p.n_rot, divisors, m->rope_freq, &m->rope);
    fill_rope(&m->p, &m->p.rope_local, m->p.n_rot_local, model_own_rope(&m->p) ? NULL : divisors,
              m->rope_freq_local, &m->rope_local);
}

/* ---- weights ---- */

enum { LAYER_MATS = 24 };

static struct model_mat *layer_mat(struct model_layer *l, int i)
{
    struct model_mat *mats[LAYER_MATS] = {
        &l->q,    &l->k,      &l->v,     &l->o,   &l->gate,  &l->up,
        &l->down, &l->router, &l->gates, &l->ups, &l->downs, &l->share,
        &l->mix,  &l->gate_in, &l->gate_out, &l->alpha, &l->beta, &l->side_gate, &l->side_out,
        &l->state_o, &l->q_gate, &l->q_a, &l->k_b, &l->v_b,
    };
    return mats[i];
}

int32_t model_n_write(const struct model *m)
{
    int32_t n = m->p.n_layer;
    while (n > 0 && !m->p.recurrent[n - 1] && !m->layer[n - 1].k.t)
        n--;
    return n;
}

void model_each_mat_of(struct model_layer *l, void (*fn)(void *ctx, struct model_mat *mat), void *ctx)
{
    for (int j = 0; j < LAYER_MATS; j++)
        if (layer_mat(l, j)->t)
            fn(ctx, layer_mat(l, j));
}

void model_each_mat(struct model *m, void (*fn)(void *ctx, struct model_mat *mat), void *ctx)
{
    fn(ctx, &m->embed);
    if (m->output.t != m->embed.t)
        fn(ctx, &m->output);
    if (m->layer_proj.t)
        fn(ctx, &m->layer_proj);
    for (int32_t i = 0; i < m->p.n_layer; i++)
        model_each_mat_of(&m->layer[i], fn, ctx);
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
    return (size_t)(mat->n_col / kern_type_block(mat->type)) * kern_type_bytes(mat->type);
}

struct size_sum {
    struct kern *k;
    uint64_t own, mapped, kept;
};

static void add_size(void *ctx, struct model_mat *mat)
{
    struct size_sum *s = ctx;
    uint64_t file = row_bytes(mat) * (uint64_t)mat->n_row;
    if (mat->kept) { /* gathered rows stay beside what the host makes of them: a device reads them, too */
        s->kept += (mat->step > 0 ? file : 0) + s->k->host->ops->weight_size(s->k->host, mat->type, mat->n_row, mat->n_col);
        return;
    }
    size_t own = s->k->ops->weight_size(s->k, mat->type, mat->n_row, mat->n_col);
    s->own += own == 0 && mat->step > 0 ? file : own;
    if (own == 0 && mat->step == 0)
        s->mapped += file;
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

/* Times scale. n_each > 1: pieces of so many values lie in the file, and what has the same place in each lies
 * together for the kernels (taps: channel by channel, tap by tap). */
static enum status load_vec(struct model *m, struct model_vec *v, float scale, int32_t n_each, struct err *e)
{
    if (!v->t)
        return OK;
    float *file = mem_try(sizeof(float) * (size_t)v->t->n_elem), *host = mem_try(sizeof(float) * (size_t)v->n);
    v->dev = m->kern->ops->alloc(m->kern, sizeof(float) * (size_t)v->n);
    bool ok = file && host && v->dev;
    if (ok) {
        kern_dequantise(v->t->type, v->t->data, file, v->t->n_elem);
        for (int32_t i = 0; i < v->n; i++)
            host[i % n_each * (v->n / n_each) + i / n_each] = scale * file[v->at + i];
        m->kern->ops->upload(m->kern, v->dev, host, sizeof(float) * (size_t)v->n);
    }
    free(file);
    free(host);
    return ok ? OK : err_set(e, ERR_MEMORY, "out of memory for tensor '%s'", v->t->name);
}

enum { LAYER_VECS = 30 };

static struct model_vec *layer_vec(struct model_layer *l, int i)
{
    struct model_vec *vecs[LAYER_VECS] = {
        &l->attn_norm,  &l->q_norm,      &l->k_norm,     &l->attn_post_norm, &l->ffn_norm,
        &l->q_bias,     &l->k_bias,      &l->v_bias,     &l->o_bias,         &l->ffn_post_norm,
        &l->gate_bias,  &l->router_bias, &l->up_bias,    &l->down_bias,      &l->sinks,
        &l->gates_bias, &l->ups_bias,    &l->downs_bias, &l->decay,          &l->dt,
        &l->state_norm, &l->taps,       &l->router_norm, &l->experts_norm,  &l->experts_post_norm,
        &l->plain_post_norm, &l->side_norm,  &l->taps_bias,  &l->skip,
        &l->q_a_norm,
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

/* The rows of a matrix in pieces, one after another. NULL when out of memory. */
static void *gather(const struct model_mat *mat)
{
    size_t bytes = row_bytes(mat);
    char *all = mem_try(bytes * (size_t)mat->n_row), *to = all;
    for (int i = 0; all && i < MODEL_PIECES; i++)
        for (int64_t at = mat->piece[i].at; mat->piece[i].n > 0 && at < mat->t->dim[1]; at += mat->step) {
            size_t n = bytes * (size_t)mat->piece[i].n;
            memcpy(to, (const char *)mat->t->data + bytes * (size_t)at, n);
            to += n;
        }
    return all;
}

/* Pieces of n_col rows, each of them turned into as many columns, one above another. NULL likewise. */
static void *turn(const struct model_mat *mat)
{
    int64_t n = mat->t->dim[0], rows = mat->t->dim[1];
    size_t file_row = (size_t)(n / kern_type_block(mat->t->type)) * kern_type_bytes(mat->t->type);
    float *row = mem_try(sizeof *row * (size_t)n);
    char *all = row ? mem_try(row_bytes(mat) * (size_t)mat->n_row) : NULL, *to = all;
    size_t each = kern_type_bytes(mat->type);
    for (int64_t at = mat->piece[0].at; all && at < rows; at += mat->step, to += row_bytes(mat) * (size_t)n)
        for (int32_t c = 0; c < mat->n_col; c++) {
            kern_dequantise(mat->t->type, (const char *)mat->t->data + file_row * (size_t)(at + c), row, n);
            for (int64_t r = 0; r < n; r++)
                kern_quantise(mat->type, row + r, to + row_bytes(mat) * (size_t)r + each * (size_t)c, 1);
        }
    free(row);
    return all;
}

static void load_mat(void *ctx, struct model_mat *mat)
{
    struct loader *l = ctx;
    struct kern *k = l->m->kern;
    if (l->status != OK)
        return;
    size_t bytes = row_bytes(mat);
    mat->gathered = mat->turned ? turn(mat) : mat->step > 0 ? gather(mat) : NULL;
    const void *data = mat->step > 0 ? mat->gathered : (const char *)mat->t->data + bytes * (size_t)mat->row0;
    mat->w = data ? (mat->kept ? k->ops->weight_keep : k->ops->weight_new)(k, mat->type, mat->n_row,
                                                                           mat->n_col, data)
                  : NULL;
    if (!mat->w) {
        l->status = err_set(l->e, ERR_MEMORY, "out of memory for tensor '%s' (%zu bytes)",
                            mat->t->name, bytes * (size_t)mat->n_row);
        return;
    }
    if (k->ops->weight_owns(mat->w)) {
        free(mat->gathered);
        mat->gathered = NULL;
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
    TRY(load_vec(m, &m->output_norm, m->p.output_scale, 1, e));
    TRY(load_vec(m, &m->output_bias, m->p.output_scale, 1, e));
    TRY(load_vec(m, &m->layer_proj_norm, MODEL_LAYER_EMBED_SCALE, 1, e));
    for (int32_t i = 0; i < m->p.n_layer; i++)
        for (int j = 0; j < LAYER_VECS; j++) {
            struct model_vec *v = layer_vec(&m->layer[i], j);
            float scale = v == &m->layer[i].router_norm ? 1 / sqrtf((float)m->p.n_embd) : 1;
            TRY(load_vec(m, v, scale, v == &m->layer[i].taps && v->t ? m->p.n_tap : 1, e));
        }
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
    free(mat->gathered);
}

void model_free(struct model *m)
{
    if (!m)
        return;
    if (m->kern) {
        model_each_mat(m, free_mat, m->kern);
        m->kern->ops->free(m->kern, m->output_norm.dev);
        m->kern->ops->free(m->kern, m->output_bias.dev);
        m->kern->ops->free(m->kern, m->layer_proj_norm.dev);
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
        if (p->n_expert_group > 0)
            XXH3_64bits_update(x, &p->n_group_used, sizeof p->n_group_used);
        if (p->expert_sigmoid || p->expert_scale != 1) /* caches from before know neither */
            XXH3_64bits_update(x, &p->expert_scale, sizeof p->expert_scale);
    }
    if (p->no_rope && p->n_tap == 0) /* caches with states hash it there */
        XXH3_64bits_update(x, &p->no_rope, sizeof p->no_rope);
    if (p->n_tap > 0) {
        const int32_t state[] = {p->n_tap, p->n_state_head, p->n_state_head_k, p->state_dim, p->q_gated};
        XXH3_64bits_update(x, state, sizeof state);
        XXH3_64bits_update(x, p->recurrent, (size_t)p->n_layer);
        if (p->selective) {
            const int32_t space[] = {p->state_dim_k, p->no_rope};
            XXH3_64bits_update(x, space, sizeof space);
            XXH3_64bits_update(x, &p->state_eps, sizeof p->state_eps);
            XXH3_64bits_update(x, p->attends, (size_t)p->n_layer);
        }
    }
    if (p->n_latent > 0) {
        const int32_t latent[] = {p->n_latent, p->n_latent_q, p->n_plain, p->head_dim_v, 1 /* tensor in a page */};
        XXH3_64bits_update(x, latent, sizeof latent);
    }
    if (p->arch == MODEL_GEMMA4) {
        const int32_t local[] = {p->n_head_kv_local, p->head_dim_local, p->n_rot_local, p->n_layer_kv};
        XXH3_64bits_update(x, local, sizeof local);
    }
    if (p->q_growth > 0) {
        XXH3_64bits_update(x, &p->q_growth, sizeof p->q_growth);
        XXH3_64bits_update(x, &p->q_growth_tok, sizeof p->q_growth_tok);
    }
    XXH3_64bits_update(x, m->rope_freq, sizeof(float) * (size_t)(p->n_rot / 2));
    XXH3_64bits_update(x, m->rope_freq_local, sizeof(float) * (size_t)(p->n_rot_local / 2));
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
