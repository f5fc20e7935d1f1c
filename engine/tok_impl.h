/* Inside of the tokenizer: seen by tokenizer.c and its tok_*.c files alone.
 *
 * A vocabulary is one array of texts and flags. Lookups by text go through two hash maps that share
 * no token: `plain` holds what ordinary text may turn into, `marked` everything else (control,
 * unknown and byte tokens), so that no path of the encoders can produce a control token by merging
 * or by looking a word up. */
#ifndef ENGINE_TOK_IMPL_H
#define ENGINE_TOK_IMPL_H

#include "engine/tokenizer.h"

enum tok_flag {
    TOK_CONTROL = 1, /* control or unknown: only where the format says so */
    TOK_USER = 2,    /* added by hand: found in any text before encoding starts */
    TOK_BYTE = 4,    /* stands for one byte */
    TOK_END = 8,     /* generation stops */
    TOK_RSTRIP = 16, /* eats the white space that follows (Phi-3) */
};

enum tok_kind { TOK_SPM, TOK_BPE };

struct tok_slice {
    uint32_t off, len;
};

/* Open addressing over token ids; the key is the token's text. */
struct tok_map {
    struct tok_cell {
        uint32_t tag; /* high half of the hash */
        int32_t id;   /* -1 = free */
    } *cells;
    uint32_t mask;
};

struct tok_pre; /* pre-tokenizer of byte-level BPE, see tok_pre.c */

struct tokenizer {
    enum tok_kind kind;
    char name[64];
    int32_t n_vocab;
    char *text;              /* all token texts as the file has them */
    struct tok_slice *texts; /* [n_vocab] */
    char *piece;             /* all tokens as raw bytes */
    struct tok_slice *pieces;
    uint8_t *flags; /* [n_vocab] enum tok_flag */
    float *scores;  /* [n_vocab], SPM only */
    struct tok_map plain, marked;
    int32_t byte_id[256]; /* -1 = none */
    uint32_t text_max;    /* longest text in plain */
    struct tokenizer_ids ids;
    bool add_space; /* SPM: a space before a text */
    bool ranked; /* SPM: pairs are merged in the order of a merge list, not of scores (Gemma 4) */
    uint64_t hash;

    /* tokens found in text before encoding: a trie over TOK_USER and TOK_CONTROL texts */
    struct tok_node *nodes;
    int32_t n_node;
    int32_t node_first[256]; /* node after the first byte, 0 = none */

    /* SPM: pairs of neighbouring code points that occur inside some token */
    uint64_t *pairs;
    uint32_t pair_mask;

    /* BPE, and SPM with a merge list */
    struct tok_merge *merges; /* open addressing, n_merge_cell cells */
    uint32_t merge_mask;

    /* BPE */
    bool whole_words; /* a word that is a token is not split ("ignore_merges") */
    struct tok_pre *pre;
};

/* Children of a node are a list: few tokens share a prefix beyond the first bytes. */
struct tok_node {
    int32_t child, sibling; /* 0 = none */
    int32_t id;             /* token that ends here, -1 = none */
    uint8_t byte;
};

struct tok_merge {
    int32_t left, right; /* left = -1: free cell */
    int32_t rank, id;
};

/* Id of the plain token with this text, -1 = none. */
int32_t tok_plain(const struct tokenizer *t, const char *s, size_t n);

/* ---- one call to encode ---- */

/* Words met before: their ids are copied from where they were first put into the output. Keys are
 * offsets into the encoder's text, so that nothing is copied. */
enum { TOK_CACHE_BITS = 14 };
struct tok_cache_entry {
    uint64_t hash;
    size_t off;
    uint32_t len;
    int32_t at, n; /* ids[at..at+n) of the output */
};

struct tok_sym {        /* one piece of a word while it is merged */
    int32_t prev, next; /* -1 = end */
    uint32_t off, len;
    int32_t id; /* TOK_ID_UNSET: not looked up yet */
};
enum { TOK_ID_UNSET = -2 };

struct tok_cand { /* a merge that may be made: smallest key first */
    uint64_t key; /* order << 32 | left */
    int32_t right;
    uint32_t len; /* of both together: tells when it is out of date */
    int32_t id;
};

struct tok_job {
    const struct tokenizer *t;
    const char *text; /* the whole text of the call */
    struct tok_list *out;
    struct tok_cache_entry *cache; /* NULL for short texts */
    struct tok_sym *syms;
    int32_t n_sym;
    size_t sym_cap;
    struct tok_cand *heap;
    size_t n_heap, heap_cap;
    struct str norm; /* SPM: text with the spaces replaced; grows until the job ends */
    void *match;     /* pcre2_match_data, made when first needed */
    void *match_context, *jit_stack;
};

/* Makes room for n symbols. */
void tok_job_symbols(struct tok_job *j, size_t n);
/* Copies the ids of an equal word met before; false when it was not. The caller then encodes the
 * word and calls tok_cache_put with the position in out->ids where its ids begin. */
bool tok_cache_get(struct tok_job *j, const char *base, size_t off, size_t len, uint64_t *ret_hash);
void tok_cache_put(struct tok_job *j, uint64_t hash, size_t off, size_t len, int32_t at);

/* Whether l and r may be merged: sets the order (smaller first) and the resulting token. */
typedef bool (*tok_pair_fn)(const struct tokenizer *t, const char *word, const struct tok_sym *l,
                            const struct tok_sym *r, uint32_t *ret_order, int32_t *ret_id);
/* Merges the job's symbols (linked, in order) until no pair may be merged; ties go to the left. */
void tok_merge_run(struct tok_job *j, const char *word, tok_pair_fn pair);

struct gguf_kv;
/* Reads a merge list, a string array. */
enum status tok_ranks_open(struct tokenizer *t, const struct gguf_kv *merges, struct err *e);
/* A tok_pair_fn: the order of the merge list. Symbols must have their ids. */
bool tok_ranks_pair(const struct tokenizer *t, const char *word, const struct tok_sym *l,
                    const struct tok_sym *r, uint32_t *ret_order, int32_t *ret_id);

/* ---- the two families ---- */
void tok_spm_open(struct tokenizer *t);
/* Encodes text without special tokens. start: it begins the text or follows a special token. */
void tok_spm_encode(struct tok_job *j, const char *s, size_t n, bool start);

/* pre: name of the pre-tokenizer, NUL-terminated. */
enum status tok_bpe_open(struct tokenizer *t, const char *pre, struct err *e);
enum status tok_bpe_encode(struct tok_job *j, const char *s, size_t n, struct err *e);
/* Bytes that a token text in the printable alphabet of byte-level BPE stands for; -1 when a
 * character is not of that alphabet. out holds n bytes. */
int64_t tok_bpe_bytes(const char *text, size_t n, char *out);

/* ---- pre-tokenizers ---- */
struct tok_pre_info {
    bool whole_words, add_bos;
};
enum status tok_pre_open(const char *name, struct tok_pre **ret, struct tok_pre_info *ret_info,
                         struct err *e);
void tok_pre_free(struct tok_pre *p);
/* Calls word(ctx, off, len) for every word of s[0..n) in order; the words cover the text. */
enum status tok_pre_split(const struct tok_pre *p, struct tok_job *j, const char *s, size_t n,
                          void (*word)(void *ctx, size_t off, size_t len), void *ctx,
                          struct err *e);
void tok_pre_job_fini(struct tok_job *j);

#endif
