/* Compute: the op table that engine/forward.c is written against, once for every backend.
 *
 * A backend (`struct kern`) is a pool of CPU threads or a CUDA stream. Pointers marked `dev` are
 * addresses on its device: ordinary memory on the CPU, device memory on CUDA; arithmetic on them
 * is allowed, dereferencing is not. Ops are called by one thread (the engine's), in order; an op
 * may return before it has finished on a stream (download and sync wait). Ops allocate nothing and
 * cannot fail once shapes are valid: shapes are checked by asserts, allocation is done before.
 *
 * Activations are float32, row-major, last index fastest. kernels/ knows no model and no tokens.
 * cpu/ref.c implements every op plainly and is the oracle for every other version. */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element and block types; the values are those of the GGUF specification. Layouts: quant.h. */
enum kern_type {
    KERN_F32 = 0,
    KERN_F16 = 1,
    KERN_Q4_0 = 2,
    KERN_Q4_1 = 3,
    KERN_Q5_0 = 6,
    KERN_Q5_1 = 7,
    KERN_Q8_0 = 8,
    KERN_Q2_K = 10,
    KERN_Q3_K = 11,
    KERN_Q4_K = 12,
    KERN_Q5_K = 13,
    KERN_Q6_K = 14,
    KERN_IQ2_XXS = 16,
    KERN_IQ2_XS = 17,
    KERN_IQ3_XXS = 18,
    KERN_IQ1_S = 19,
    KERN_IQ4_NL = 20,
    KERN_IQ3_S = 21,
    KERN_IQ2_S = 22,
    KERN_IQ4_XS = 23,
    KERN_IQ1_M = 29,
    KERN_BF16 = 30,
    KERN_MXFP4 = 39,
};

struct kern;        /* an open backend */
struct kern_weight; /* a matrix in the backend's own tile order */
struct kern_page;   /* a sealed page of keys and values: page.h */
struct kern_score;  /* what to score: score.h */
struct kern_bounds;

enum { KERN_MATS = 16, KERN_ROW_STEP = 16 };

/* One product of a group that reads the same rows: dst[t][r] = (add ? dst : 0) + bias[r] + sum w*x. */
struct kern_mat {
    const struct kern_weight *w; /* [n_row, n_col] */
    const float *bias;           /* dev [n_row] or NULL */
    float *dst;                  /* dev [n_tok, dst_stride]; the first n_row of each row are written */
    int32_t dst_stride;          /* in floats, >= n_row */
    bool add;                    /* accumulate into dst (residual stream) */
    /* One of many matrices that lie above each other in w: n_row rows from row0 on, which is a
     * multiple of KERN_ROW_STEP. n_row 0 = all of w. */
    int32_t row0, n_row;
    int32_t x_col; /* its input begins at this column of x: of heads each its own */
};

enum kern_rope_mode {
    KERN_ROPE_PAIRS, /* rotates (2i, 2i+1): llama */
    KERN_ROPE_HALVES /* rotates (i, i + n_rot/2): qwen, gemma, phi ("neox") */
};

struct kern_rope {
    enum kern_rope_mode mode;
    int32_t n_rot;     /* rotated channels of a head, even, <= head_dim */
    const float *freq; /* host [n_rot/2]: angle per position, all scalings already folded in */
    float mscale;      /* multiplies cos and sin (YaRN, longrope); 1 otherwise */
};

enum kern_act {
    KERN_ACT_SILU,
    KERN_ACT_GELU_TANH,
    KERN_ACT_SWIGLU_OAI, /* gpt-oss: g * sigmoid(1.702 g) * (u + 1), g at most 7, u within -7..7 */
    KERN_ACT_SIGMOID,    /* sigmoid(g) * u */
    KERN_ACT_RELU,       /* g * u where g > 0, else 0 */
    KERN_ACT_NONE        /* g * u */
};

enum { KERN_BLOCK_TOK = 64, KERN_SINK_TOK = 4, KERN_SINK_PAD = 16 };

/* 64 consecutive positions of one KV head. k and v are f16 rows in the exact cache and in the
 * window; page is the sealed form. Both may be present during a prefill chunk. */
struct kern_kv_block {
    uint16_t *k;            /* dev f16 [head_dim][64], channel-major so that scores need no shuffles; or NULL */
    uint16_t *v;            /* dev f16 [64][head_dim]; or NULL, as always of a latent */
    struct kern_page *page; /* dev; or NULL */
    uint64_t dropped;       /* bit t: token t is read by nobody (CPU backends; 0 elsewhere) */
};

/* Keys and values of one layer of one timeline. What a query at position p reads depends on p
 * alone: with b = p / 64, blocks j with page != NULL and j + 1 < b are read from the page (the
 * first KERN_SINK_TOK positions of block 0 from the f16 sinks instead), all others from f16. */
struct kern_kv {
    int32_t n_head_kv, head_dim;
    int32_t n_block_cap;         /* blocks allocated in the table per head */
    struct kern_kv_block *block; /* host [n_head_kv][n_block_cap] */
    uint16_t *sink_k;            /* dev f16 [n_head_kv][head_dim][KERN_SINK_PAD]; NULL when nothing is sealed */
    uint16_t *sink_v;            /* dev f16 [n_head_kv][KERN_SINK_PAD][head_dim]; NULL of a latent, too */
    uint64_t stamp;              /* another whenever a table changes, nowhere used twice; 0 = unknown */
    /* Values are the first so many channels of keys, at most PAGE_LATENT_MAX, a multiple of KERN_ROW_STEP: there is no
     * v, pages hold them once (page.h), and of answers the channels behind are 0. 0 = values are apart. */
    int32_t n_latent;
};

static inline int32_t kern_value_dim(const struct kern_kv *kv)
{
    return kv->n_latent ? kv->n_latent : kv->head_dim;
}

/* Which older blocks each (row block, KV head) reads; NULL in kern_attn means all. Blocks b-1, b
 * and the sinks are always read and are not listed. */
struct kern_block_list {
    const int32_t *first; /* host [n_head_kv][n_row_block + 1]: offsets into index */
    const int32_t *index; /* host, ascending block numbers */
};

struct kern_attn {
    int32_t n_tok;   /* new rows; their keys and values are already in kv */
    int32_t pos0;    /* position of row 0 */
    int32_t n_head;  /* query heads; a multiple of kv->n_head_kv */
    const float *q;  /* dev [n_tok, n_head, head_dim], after RoPE, not yet scaled */
    float *out;      /* dev [n_tok, n_head, head_dim] */
    float *lse;      /* dev [n_tok, n_head] log-sum-exp of the scaled scores, or NULL */
    float *mass;     /* host [n_head_kv, n_block_cap]: += softmax mass that fell on each block,
                        summed over rows and group heads, at the latest with the next sync; or NULL */
    float scale;     /* usually 1/sqrt(head_dim) */
    float softcap;   /* 0 = none; scores = cap * tanh(score / cap) */
    int32_t window;  /* 0 = none; else position p sees positions > p - window */
    const struct kern_kv *kv;
    const struct kern_block_list *list; /* NULL = dense */
    const int32_t *row; /* host [n_tok], block by block ascending: row i asks with q[row[i]] at pos0 + row[i] and is
                           answered in out[i] (and lse[i]); no window, no list. NULL = all rows in
                           turn */
};

/* Each channel's causal convolution over time, as short ones of LFM2 and Gated DeltaNet are: with y the
 * rows before x and then x, out[t][c] = bias[c] + sum over j of weight[j][c] * y[t + j][c]. The result of a
 * row does not depend on how rows are cut into calls. */
enum { KERN_CONV_TAPS = 8 };
struct kern_conv {
    int32_t n_tok, n_chan, n_tap; /* n_tap: 2..KERN_CONV_TAPS, the row's own among them */
    const float *x;               /* dev [n_tok, n_chan] */
    const float *weight;          /* dev [n_tap, n_chan], oldest first */
    const float *before;          /* dev [n_tap - 1, n_chan]: the rows before x, oldest first */
    float *after;                 /* dev, alike: the rows before what follows x; may be `before` */
    float *out;                   /* dev [n_tok, n_chan]; not x */
    bool silu;                    /* out = silu(sum) */
    const float *bias;            /* dev [n_chan] or NULL */
};

/* The gated delta rule (Yang et al. 2024, "Gated Delta Networks"), one token after another. Per head
 * with state S [head_dim of k, head_dim of v], and q, k made one long (q then times 1/sqrt(head_dim)):
 *   S *= exp(a * softplus(alpha + dt));  S += k (sigmoid(beta) * (v - k S));  out = q S
 * The result of a row does not depend on how rows are cut into calls. */
struct kern_delta {
    int32_t n_tok, n_head, n_head_k, head_dim; /* head_dim a multiple of 16, at most 256 */
    bool neighbours; /* head h uses q and k of h / (n_head / n_head_k), else of h % n_head_k */
    const float *q, *k, *v; /* dev, rows `stride` floats apart: q, k [n_head_k, head_dim], v [n_head, head_dim] */
    int32_t stride;
    const float *alpha, *beta; /* dev [n_tok, n_head] */
    const float *a, *dt;       /* dev [n_head] */
    const float *before;       /* dev [n_head, head_dim, head_dim]: the states before, v fastest */
    float *after;              /* dev, alike: after the last row; may be `before` */
    float *out;                /* dev [n_tok, n_head, head_dim]; not among the others */
    float eps;                 /* added to squared lengths of q and k */
};

/* Which q and k head h uses. */
static inline int32_t kern_delta_key(const struct kern_delta *d, int32_t h)
{
    return d->neighbours ? h / (d->n_head / d->n_head_k) : h % d->n_head_k;
}

/* Mamba-2's selective state space (Dao and Gu 2024, "Transformers are SSMs"), one token after another. Per
 * head with state S [n_state, head_dim] and step = softplus(dt + dt_bias):
 *   S *= exp(a * step);  S += b (step * x);  out = c S + d * x
 * The result of a row does not depend on how rows are cut into calls. */
struct kern_scan {
    int32_t n_tok, n_head, n_group, n_state, head_dim; /* heads of a group are neighbours and share b and c;
                                                          n_state and head_dim: multiples of 16, at most 256 */
    const float *x, *b, *c; /* dev, rows `stride` floats apart: x [n_head, head_dim], b, c [n_group, n_state] */
    int32_t stride;
    const float *dt;             /* dev [n_tok, n_head] */
    const float *a, *dt_bias, *d; /* dev [n_head] */
    const float *before;         /* dev [n_head, n_state, head_dim]: the states before, x's channels fastest */
    float *after;                /* dev, alike: after the last row; may be `before` */
    float *out;                  /* dev [n_tok, n_head, head_dim]; not among the others */
};

/* One head's 64 rows on their way into a page. The host keeps every page's bytes: they are what is
 * saved, stepped down and brought back. A device attends to a copy of its own. */
struct kern_seal {
    const uint16_t *k, *v;  /* dev, as in struct kern_kv_block; v is not read where bits_v is 0 */
    struct kern_page *page; /* host */
    struct kern_page *dev;  /* dev copy; NULL on the CPU */
    int32_t n_skip;
};

/* One page that steps down to bits_k and bits_v: the host's bytes change in place. */
struct kern_demote {
    struct kern_page *page;         /* host */
    struct kern_page *dev, *dev_to; /* its copy, and where that is to lie, maybe the same place; NULL on the CPU */
    int32_t bits_k, bits_v;
};

struct kern_ops {
    void (*close)(struct kern *k);
    /* Memory. alloc returns 64-byte aligned memory or NULL. upload/download copy host <-> dev and
     * wait until the host side may be reused; copy and clear (bytes become zero; a multiple
     * of 4) stay on the device. sync waits for everything, masses of attend and pages of seal included. */
    void *(*alloc)(struct kern *k, size_t size_bytes);
    void (*free)(struct kern *k, void *dev);
    /* Host memory that download fills without a detour, for what comes back often; NULL = out of
     * memory, or enough handed out. No ops = any memory is as good. */
    void *(*host_alloc)(struct kern *k, size_t size_bytes);
    void (*host_free)(struct kern *k, void *host);
    void (*upload)(struct kern *k, void *dev, const void *host, size_t size_bytes);
    void (*download)(struct kern *k, void *host, const void *dev, size_t size_bytes);
    void (*copy)(struct kern *k, void *dev, const void *from_dev, size_t size_bytes);
    void (*clear)(struct kern *k, void *dev, size_t size_bytes);
    void (*sync)(struct kern *k);
    /* What went wrong on the device since it was opened, in words; NULL = nothing. */
    const char *(*error)(struct kern *k);
    /* Bytes of device memory that are free now; NULL = the host's memory is the device's. */
    uint64_t (*memory_free)(struct kern *k);
    /* Bytes of it that this backend holds, its own scratch included; NULL likewise. */
    uint64_t (*memory_used)(struct kern *k);

    /* Weights. `host` is the file's bytes, [n_row] rows of n_col elements in blocks; it must stay
     * mapped while the weight lives (a backend may use it in place) unless weight_owns says true.
     * weight_size tells the private bytes weight_new would allocate (0 = used in place).
     * weight_new returns NULL when out of memory. */
    size_t (*weight_size)(struct kern *k, enum kern_type type, int32_t n_row, int32_t n_col);
    struct kern_weight *(*weight_new)(struct kern *k, enum kern_type type, int32_t n_row,
                                      int32_t n_col, const void *host);
    /* On a device with a host backend: the same, but the matrix stays in the host's memory, and the
     * host bytes must stay mapped. NULL, or NULL on a call, where that is not so. */
    struct kern_weight *(*weight_keep)(struct kern *k, enum kern_type type, int32_t n_row,
                                       int32_t n_col, const void *host);
    bool (*weight_owns)(const struct kern_weight *w); /* no longer needs the host bytes */
    void (*weight_free)(struct kern *k, struct kern_weight *w);

    /* dst[t] = scale * row ids[t] of w. ids: host. */
    void (*embed)(struct kern *k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok,
                  float scale, float *dst);
    /* n_mat products over the same x [n_tok, n_col], or over as wide parts of it, rows x_stride floats apart:
     * 1..KERN_MATS. */
    void (*matmul)(struct kern *k, int n_mat, const struct kern_mat *mats, const float *x,
                   int32_t x_stride, int32_t n_tok);
    /* dst[r] = x[r] / rms(x[r]) * gain; n_row rows of n_col. dst may be x. Row r starts at
     * r * stride floats in both. Also used per head for q/k norms. */
    void (*rmsnorm)(struct kern *k, float *dst, const float *x, const float *gain, int32_t n_row,
                    int32_t n_col, int32_t stride, float eps);
    /* dst[r] = x[r] less its mean; n_row rows of n_col, packed. dst may be x. Before rmsnorm: LayerNorm. */
    void (*center)(struct kern *k, float *dst, const float *x, int32_t n_row, int32_t n_col);
    /* Rotates x in place: [n_tok] rows, stride floats apart, of n_head heads of head_dim. */
    void (*rope)(struct kern *k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim,
                 int32_t stride, int32_t pos0, const struct kern_rope *r);
    /* Rounds keys and values [n_tok, n_head_kv, head_dim] (rows stride floats apart) to f16 into
     * the blocks of positions pos0.. (their k and v must be allocated), and into the sinks. value is not
     * read of a latent. */
    void (*kv_write)(struct kern *k, const struct kern_kv *kv, const float *key, const float *value,
                     int32_t stride, int32_t n_tok, int32_t pos0);
    void (*attend)(struct kern *k, const struct kern_attn *a);
    /* Seals n heads' blocks into pages of this shape (page.h), on the device and, by the next sync, on
     * the host: till then its pages stay where they are. */
    void (*seal)(struct kern *k, const struct kern_seal *jobs, int32_t n, int32_t head_dim,
                 int32_t bits_k, int32_t bits_v, uint32_t flags);
    /* Steps n pages of one head_dim down (page_demote), on the host and on the device; waits. No page
     * twice, none to more bits than it has. */
    void (*demote)(struct kern *k, const struct kern_demote *jobs, int32_t n);
    /* score.h; NULL = no scorer. */
    bool (*score)(struct kern *k, const struct kern_score *s);
    /* score.h; NULL = pages are the host's (page_bounds). */
    void (*bounds)(struct kern *k, const struct kern_bounds *b);
    /* dst[t][i] = act(gate[t][i]) * up[t][i]; rows of n floats, stride apart in gate and up,
     * packed in dst (dst_stride). dst may be gate or up. */
    void (*glu)(struct kern *k, float *dst, int32_t dst_stride, const float *gate, const float *up,
                int32_t stride, int32_t n_tok, int32_t n, enum kern_act act);
    void (*add)(struct kern *k, float *dst, const float *x, size_t n);     /* dst += x */
    void (*scale)(struct kern *k, float *x, size_t n, float by);           /* x *= by */
    /* A learned sink takes its share of attention and gives nothing: out[t][h] of attend, with its lse,
     * times 1 / (1 + exp(sink[h] - lse[t][h])). sink: dev [n_head]. */
    void (*sink)(struct kern *k, float *out, const float *lse, const float *sink, int32_t n_tok,
                 int32_t n_head, int32_t head_dim);
    /* dst[i] = src[row[i]], rows of n_col. row: host [n]. */
    void (*take_rows)(struct kern *k, float *dst, const float *src, const int32_t *row, int32_t n,
                      int32_t n_col);
    /* dst[t] += sum over j of weight[t][j] * src[row[t][j]], in the order of j. row, weight: host
     * [n_tok, n_each]. */
    void (*add_rows)(struct kern *k, float *dst, const float *src, const int32_t *row,
                     const float *weight, int32_t n_tok, int32_t n_each, int32_t n_col);
    void (*softcap)(struct kern *k, float *x, size_t n, float cap);        /* x = cap*tanh(x/cap) */
    /* Layers that keep a state; NULL = this backend does not run them. */
    void (*conv)(struct kern *k, const struct kern_conv *c);
    void (*delta)(struct kern *k, const struct kern_delta *d);
    void (*scan)(struct kern *k, const struct kern_scan *s);
};

struct kern {
    const struct kern_ops *ops;
    const char *name; /* "ref", "avx2", "avx512", "amx", "cuda" */
    int32_t n_thread; /* CPU threads; 0 on a GPU */
    int32_t kv_bytes; /* of an element of the rows in struct kern_kv_block: 2; 4 on "ref32" */
    bool device;      /* dev memory is not the host's: a page has a copy there */
    struct kern *host; /* of a device: the CPU backend beside it, closed with it; else NULL */
    struct kern_times *times; /* while ops are timed (timed.h); else NULL */
};

/* Opens the CPU backend with n_thread threads (0 = one per physical core available to us).
 * isa: NULL or "" = the best this machine has, or the environment's KERNELS; else "ref", "avx2",
 * "avx512", "amx", or "ref32": as ref, with a cache of float32 rows (the oracle; seals nothing). Returns
 * NULL when the machine lacks that instruction set or the name is unknown. */
struct kern *kern_open_cpu(const char *isa, int32_t n_thread);
/* Opens a CUDA device through the module of that name (NULL = libdogear-cuda.so beside the program
 * or where libraries are looked for; the environment's DOGEAR_CUDA goes first). NULL with one line
 * in why: what is missing, the value seen, what to try. n_thread: of the CPU backend beside it, which
 * takes what stays there (kern.host). */
struct kern *kern_open_cuda(const char *module, int32_t device, int32_t n_thread, char *why,
                            size_t why_bytes);
/* One line about CUDA here, for people. True when there is a device that kern_open_cuda would open. */
bool kern_cuda_state(char *line, size_t line_bytes);
void kern_close(struct kern *k);

/* Runs fn(ctx, part, n_part) for part 0..n_part-1 on the backend's threads and waits: for work
 * outside the op table (sealing, calibration). A device's are those of its host backend. */
void kern_parallel(struct kern *k, int n_part, void (*fn)(void *ctx, int part, int n_part),
                   void *ctx);

/* Properties of a type; false/0 for types we do not know. */
bool kern_type_known(uint32_t type);
const char *kern_type_name(enum kern_type type);       /* "Q4_K" */
int32_t kern_type_block(enum kern_type type);          /* elements per block */
size_t kern_type_bytes(enum kern_type type);           /* bytes per block */
/* Exact value of n elements (a multiple of the block) as float32. */
void kern_dequantise(enum kern_type type, const void *src, float *dst, int64_t n);
/* Quantises for our own writer (plain round-to-nearest, no importance); n multiple of the block.
 * False when there is no writer for the type. */
bool kern_quantise(enum kern_type type, const float *src, void *dst, int64_t n);

float kern_f16_to_f32(uint16_t h);
uint16_t kern_f32_to_f16(float f); /* round to nearest even */

#ifdef __cplusplus
}
#endif
#endif
