/* What kv.c (blocks, tables, lines) and kv_seal.c (pages) share. Internal to engine/kv*. */
#ifndef ENGINE_KV_IMPL_H
#define ENGINE_KV_IMPL_H

#include "engine/kv.h"
#include "kernels/page.h"

struct kv_block {
    int32_t n_ref;
    bool sealed;             /* pages stand for the rows */
    bool thawed;             /* the rows came back from pages: context only, no place to go on */
    bool lent;               /* the pages are another line's */
    bool kept;               /* its present content is on disk */
    char *rows;              /* dev: [n_layer][k, v][n_head_kv][64 * head_dim] of f16; or NULL */
    char *sinks;             /* dev: block 0 only, [n_layer][k, v][n_head_kv][head_dim * 16] */
    struct kern_page **page; /* [n_layer][n_head_kv], NULL before room for pages was needed */
    uint64_t page_bytes;     /* of all its pages, as they are now */
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
    char **spare; /* rows, used by no block */
    int32_t n_spare, spare_cap;
    void *bounce; /* host memory for copying rows; allocated when first needed */
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
    uint64_t kept_state; /* hash of the whole log when its state was last put; 0 = never */
    struct kv_block **block; /* [block_cap] */
    int32_t n_block, block_cap;
    struct kern_kv *layer;       /* [n_layer], views into table */
    struct kern_kv_block *table; /* [n_layer][n_head_kv][block_cap] */
    float *mass;                 /* attention that fell on each block, laid out as table */
    double n_query;              /* queries that mass is summed over, decayed alike */
};

/* Rows from the free list or new; force: even beyond the budget. */
enum status kv_rows_new(struct kv_pool *p, bool force, char **ret, struct err *e);
void kv_rows_free(struct kv_pool *p, char *rows);
void *kv_bounce(struct kv_pool *p); /* rows_bytes of host memory, or NULL */

/* A block without rows, pages or content (sinks when it is the first); NULL = out of memory. */
struct kv_block *kv_block_empty(struct kv_pool *p, bool first);
void kv_block_unref(struct kv_pool *p, struct kv_block *b);
/* Appends a sealed block and the 64 ids it stands for to a line of whole blocks. */
void kv_line_add(struct kv_line *l, struct kv_block *b, const int32_t *ids);

/* Points the table entries of block j at what the block holds now. */
void kv_table_set(struct kv_line *l, int32_t j);

/* kv_seal.c */
size_t kv_page_bytes(const struct kv_pool *p); /* of one page as sealed */
/* Allocates the pages of block b. */
enum status kv_pages_new(struct kv_pool *p, struct kv_block *b, struct err *e);
void kv_pages_free(struct kv_pool *p, struct kv_block *b);
/* After a commit: pages stand for complete blocks outside the window, their rows go. */
void kv_settle(struct kv_line *l);
/* Fills rows of block j again from its pages, as context for reading what follows it. */
enum status kv_thaw(struct kv_line *l, int32_t j, struct err *e);

/* Blocks before this one are read from pages by the position n_tok - 1 and all after it. */
static inline int32_t kv_sealed_end(int32_t n_tok)
{
    int32_t last = (n_tok - 1) / KERN_BLOCK_TOK;
    return n_tok > 0 && last >= 2 ? last - 1 : 0;
}

static inline int32_t kv_blocks_for(int32_t n_tok)
{
    return n_tok / KERN_BLOCK_TOK + (n_tok % KERN_BLOCK_TOK != 0);
}

#endif
