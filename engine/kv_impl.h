/* What kv.c (blocks, tables, lines) and kv_seal.c (pages) share. Internal to engine/kv*. */
#ifndef ENGINE_KV_IMPL_H
#define ENGINE_KV_IMPL_H

#include "engine/kv.h"
#include "kernels/page.h"

struct kv_block {
    int32_t n_ref;
    bool sealed;             /* pages stand for the rows */
    bool thawed;             /* the rows came back from pages or went through a number format:
                                context only, no place to go on */
    bool lent;               /* the pages are another line's */
    char *exact;             /* dev: rows of one layer as they were when sealed, laid out as in
                                rows; or NULL. At most half a block's worth in all per timeline,
                                outside the budget; witness.h */
    int32_t exact_layer;
    bool kept;               /* its present content is on disk */
    char *rows;              /* dev: [layer][k, v][head][64 * dim] of f16 (kv_layer_at), of a latent [k]; or NULL */
    char *sinks;             /* dev: block 0 only, [layer][k, v][head][dim * 16], alike */
    struct kern_page **page; /* [heads of all layers], NULL before room for pages was needed */
    struct kern_page **copy; /* dev: what a device attends to, alike; NULL on the CPU */
    uint64_t page_bytes;     /* of all its pages, as they are now */
};

/* Query rows with the log-sum-exp of their scores: enough to tell what fell on any token. */
struct kv_rows {
    const float *q;   /* [n][n_head, head_dim] */
    const float *lse; /* [n][n_head] */
    const uint16_t *keys; /* host [blocks asked for][head][dim][64]; NULL = where the table says */
    int32_t n, pos0, n_head;
    int32_t period; /* row of position p lies at p modulo this; 0 = at p - pos0 */
    float scale, softcap;
    int32_t window; /* of the layer; 0 = none */
};

/* What attention told about tokens; all NULL where the preset does not ask. */
struct kv_watch {
    int32_t n_head;        /* 0 before the first row */
    float *sum;            /* [heads of all layers][block_cap * 64] */
    float *ring;           /* [n_layer]: the last queries, then their log-sum-exp */
    float *q_max;          /* [channels of all layers] largest |query| */
    int32_t *layer_window; /* [n_layer] of the pool */
    struct kv_rows how;    /* scale, softcap, n_head */
};

/* The state of all layers that keep one, at one position. */
struct kv_state {
    int32_t n_ref;
    int32_t n_tok; /* behind so many tokens */
    bool kept;     /* it is on disk */
    float *dev;    /* [n_state_layer][state_floats] */
};

/* A line's states; all NULL where the model has no such layers. */
struct kv_states {
    struct kv_state *now; /* of the line as it is; NULL = not at hand, or nothing was read */
    struct kv_state *next, *mid; /* for the next pass to write */
    /* To go back to; each the same as another, or NULL. */
    struct kv_state *before_prompt, *before_answer, *newest;
    int32_t n_mid;   /* of the present pass */
    bool prompt_end; /* so is the present pass */
    bool in_place;   /* it writes where it reads */
    bool answering;  /* tokens came one by one last */
};
enum {
    KV_STATE_PLACES = 3,
    KV_STATES_MOST = KV_STATE_PLACES + 3, /* of a line */
};

struct kv_pool {
    struct kern *kern;
    struct kv_line *lines; /* all lines of the pool */
    struct kv_shape shape;
    struct preset preset;
    bool seals;
    uint64_t rows_bytes; /* of one block */
    uint64_t sink_bytes; /* of block 0 */
    uint64_t used_bytes, budget_bytes;
    struct kv_care *care; /* [n_layer] */
    bool under_floor;
    double seal_s; /* spent in kv_seal */
    char **spare; /* rows, used by no block */
    int32_t n_spare, spare_cap;
    void *bounce; /* host memory for copying rows; allocated when first needed */
    int32_t *layer_window; /* [n_layer] sliding windows, as far as attention was watched */
};

struct kv_line {
    struct kv_pool *pool;
    struct kv_line *next, *prev;
    int32_t n_ctx;
    int32_t *ids; /* [n_ctx] */
    int32_t n_tok;
    int32_t first_rows; /* blocks before this one have given their rows back */
    int32_t kept_seen;  /* blocks before this one were looked at by keep_blocks */
    int32_t kept_block; /* kept_hash is the hash of the ids of that many blocks */
    uint64_t kept_hash;
    int32_t kept_state;          /* where the last state that was put on disk stands */
    int32_t kept_from, kept_end; /* the window's rows of these positions are on disk */
    struct kv_block **block; /* [block_cap] */
    int32_t n_block, block_cap;
    struct kern_kv *layer;       /* [n_layer], views into table */
    struct kern_kv_block *table; /* [heads of all layers][block_cap] */
    float *mass;                 /* attention that fell on each block, laid out as table */
    double *n_query;             /* [n_layer] queries that mass is summed over, decayed alike */
    struct kv_watch watch;
    struct kv_states states;
    int32_t evict_base; /* tokens at the end of the last prompt, what quotas are shares of; 0 = no
                           prompt yet. EVICT_LAG: tokens decided on */
};

/* The error that no more_bytes fit the budget. */
enum status kv_full(const struct kv_pool *p, uint64_t more_bytes, struct err *e);
/* Rows from the free list or new; force: even beyond the budget. */
enum status kv_rows_new(struct kv_pool *p, bool force, char **ret, struct err *e);
void kv_rows_free(struct kv_pool *p, char *rows);
void *kv_bounce(struct kv_pool *p); /* rows_bytes of host memory, or NULL */
/* The layer that a head belongs to. */
int32_t kv_layer_of(const struct kv_shape *s, int32_t head);
/* Where a layer's rows begin in a block, n_tok of each channel; elements. At n_layer: where all end. */
static inline size_t kv_layer_at(const struct kv_shape *s, int32_t layer, int32_t n_tok)
{
    return (size_t)n_tok * (size_t)(layer < s->n_layer ? s->heads[layer].rows : s->n_row);
}
/* Bytes of one layer of a block's rows. */
size_t kv_layer_bytes(const struct kv_pool *p, int32_t layer);
char *kv_layer_rows(const struct kv_pool *p, const struct kv_block *b, int32_t layer); /* dev */
/* One layer of a block's rows, [k, v][head][64 * dim] or, of a latent, [k], where the host reaches it: valid
 * until the next call. kv_layer_put brings back what was written into it. */
uint16_t *kv_layer_get(struct kv_pool *p, const struct kv_block *b, int32_t layer);
void kv_layer_put(struct kv_pool *p, struct kv_block *b, int32_t layer, const uint16_t *rows);
uint64_t kv_stamp(void); /* for a table that changed: no number comes twice */

/* Gives the line a block j of its own with the same rows. */
enum status kv_unshare(struct kv_line *l, int32_t j, struct err *e);
/* A block without rows, pages or content (sinks when it is the first); NULL = out of memory. */
struct kv_block *kv_block_empty(struct kv_pool *p, bool first);
void kv_block_unref(struct kv_pool *p, struct kv_block *b);
/* Appends a sealed block and the 64 ids it stands for to a line of whole blocks. */
void kv_line_add(struct kv_line *l, struct kv_block *b, const int32_t *ids);

/* Points the table entries of block j at what the block holds now. */
void kv_table_set(struct kv_line *l, int32_t j);

/* kv_seal.c */
size_t kv_page_bytes(const struct kv_pool *p, int32_t layer); /* of one page as sealed */
uint64_t kv_pages_bytes(const struct kv_pool *p);             /* of all pages of a block, alike */
/* Allocates the pages of block b. */
enum status kv_pages_new(struct kv_pool *p, struct kv_block *b, struct err *e);
void kv_pages_free(struct kv_pool *p, struct kv_block *b); /* and the exact rows */
void kv_exact_free(struct kv_pool *p, struct kv_block *b);
/* Makes copies of all pages of a block that was put together on the host. */
enum status kv_pages_copy(struct kv_pool *p, struct kv_block *b, struct err *e);
/* After a commit: pages stand for complete blocks outside the window, their rows go. */
void kv_settle(struct kv_line *l);
/* Fills rows of block j again from its pages, as context for reading what follows it. */
enum status kv_thaw(struct kv_line *l, int32_t j, struct err *e);

/* kv_state.c */
uint64_t kv_state_bytes(const struct kv_shape *s); /* of one; 0 = the model has none */
/* What the next pass writes into. */
uint64_t kv_states_reserve_bytes(const struct kv_line *l);
enum status kv_states_reserve(struct kv_line *l, struct err *e);
void kv_states_commit(struct kv_line *l); /* after the line has grown */
void kv_states_repeat(struct kv_line *l); /* the line has grown by copies: its state is as it was */
/* The line is cut to n tokens: what stands behind goes, what stands there becomes its state. */
void kv_states_cut(struct kv_line *l, int32_t n);
/* The i-th place to go back to; NULL = none. One state may be at several. */
struct kv_state *kv_states_at(const struct kv_line *l, int32_t i);
/* The newest of them that stands at most n tokens behind the beginning, where it stands; 0 = none. */
int32_t kv_states_back(const struct kv_line *l, int32_t n);
/* Whether reading can go on at the line's end. */
bool kv_states_here(const struct kv_line *l);
/* The state at hand, which was reserved, was filled with what stands at the line's end. */
void kv_states_filled(struct kv_line *l);
void kv_states_copy(struct kv_line *l, const struct kv_line *src);
void kv_states_free(struct kv_line *l);
uint64_t kv_states_bytes(const struct kv_line *l); /* shared ones count whole */

/* kv_watch.c */
void kv_watch_grow(struct kv_line *l, int32_t old_cap, int32_t cap); /* with the tables */
void kv_watch_reset(struct kv_line *l);                              /* of an empty line */
void kv_watch_copy(struct kv_line *l, const struct kv_line *from);   /* equally long */
void kv_watch_free(struct kv_line *l);
/* The last rows of a layer; what the preset calls the window. */
struct kv_rows kv_watch_ring(const struct kv_line *l, int32_t layer);
/* One query and how it looks at keys. */
struct kv_query {
    const float *q; /* [head_dim] */
    int32_t head_dim, pos;
    int32_t window; /* 0 = none */
    float scale, softcap;
};
/* Its scores of the keys k [head_dim][64] of block j: -INFINITY where it does not look, behind its
 * position, before its window and where a bit of dropped is set. */
void kv_score_block(const struct kv_query *w, const float *k, int32_t j, uint64_t dropped,
                    float ret[KERN_BLOCK_TOK]);
/* sum[pos] += the probability of each row and query head of the group, from first_block on; sum:
 * whole blocks. */
void kv_watch_rows(const struct kv_line *l, int32_t layer, int32_t head, const struct kv_rows *r,
                   int32_t first_block, float *sum);

/* kv_format.c */
bool kv_codes_blocks(const struct kv_pool *p); /* whole blocks, two behind the newest */
/* Before rows up to n_tok_end are written: blocks that will be coded belong to this line alone. */
enum status kv_code_reserve(struct kv_line *l, int32_t n_tok_end, struct err *e);
void kv_code_written(struct kv_line *l, int32_t layer, int32_t n_tok_end); /* the new rows */
void kv_code_blocks(struct kv_line *l); /* after a commit: for the position that comes next */
uint64_t kv_format_bytes(const struct kv_line *l);

/* kv_evict.c */
uint64_t kv_evict_bytes(const struct kv_line *l);
/* Tokens that stay in a layer when a prompt of n_tok ends. */
int32_t kv_evict_quota(const struct preset_evict *e, int32_t layer, int32_t n_layer, int32_t n_tok);

/* The line knows more than its rows: going back to an earlier token means reading again. */
static inline bool kv_remembers(const struct kv_line *l)
{
    const struct preset *p = &l->pool->preset;
    return p->evict.score != EVICT_NONE || p->tier_share > 0 || p->k.balance == BALANCE_QUERY;
}

/* At 2 bits refitted codes pull every value towards the mean, which does not average out over tokens
 * as noise does: squared errors of that depth count so many times. */
#define KV_PULL_K 6.0
#define KV_PULL_V 3.0

/* Whether rows are there as they were computed. */
static inline bool kv_has_rows(const struct kv_block *b)
{
    return b->rows && !b->thawed;
}

/* Blocks before this one are read from pages by the position n_tok - 1 and all after it. */
static inline int32_t kv_sealed_end(int32_t n_tok)
{
    int32_t last = (n_tok - 1) / KERN_BLOCK_TOK;
    return n_tok > 0 && last >= 2 ? last - 1 : 0;
}

/* Blocks that have rows at once while chunks of so many tokens are read: the chunk's own, and the two
 * before it where a block begins with the chunk, one of them shared with it where not. */
static inline int32_t kv_open_blocks(int32_t n_chunk)
{
    return (n_chunk + KERN_BLOCK_TOK - 1) / KERN_BLOCK_TOK + 2;
}

static inline int32_t kv_blocks_for(int32_t n_tok)
{
    return n_tok / KERN_BLOCK_TOK + (n_tok % KERN_BLOCK_TOK != 0);
}

#endif
