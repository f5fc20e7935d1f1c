/* What the engine hands to whoever keeps KV on disk, and asks back: plain data, no SQL, no model.
 *
 * A piece is one plane of the sealed pages of one layer for a group of KV heads and one 64-token
 * block; or, of some point of the log, the f16 rows of one layer since the last multiple of
 * KV_IO_ROWS_TOK before it (so that a turn writes its own rows and not those before it again), or the
 * state there of one of the layers that keep a state instead (engine/recurrent.h). The receiver stores
 * the bytes as they are (it may compress them losslessly) and returns them unchanged or not at all: a
 * piece whose checksum does not match is missing, never guessed.
 *
 * Pieces are named by the tokens they stand for, not by the timeline: the hash of the log from its
 * first token to the end of the block, with the fingerprint of everything else that decides their
 * content. So branches, forks and chats that begin alike share pages, an edited log never finds
 * pages of the old one, and a piece counts exactly when the log that asks for it is that log.
 *
 * Planes follow the precision ladder, so that dropping the highest plane is one step down:
 *   plane 0: all of 2/2 with scales   1: what 4/2 adds   2: 4/4   3: 6/4   4: 8/4   5: 8/8
 *   plane 6: f16 rows of an exact page (stands alone)
 * A page whose highest plane is p is in tier 6 - p of engine/stats.h. A preset that will not step down may
 * put the bytes of several steps into the highest of them and leave the others out. */
#ifndef ENGINE_BASE_KV_IO_H
#define ENGINE_BASE_KV_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_IO_WINDOW = -1, KV_IO_STATE = -2 };
enum {
    KV_IO_BLOCK_TOK = 64,
    KV_IO_ROWS_TOK = 16, /* divides a block */
    KV_IO_PLANES = 7,
    KV_IO_PLANE_F16 = 6,
    KV_IO_PARTS = 4
};

/* What pieces that end at the same point are kept, found and read together. */
enum kv_io_kind { KV_IO_PAGES, KV_IO_ROWS, KV_IO_STATES, KV_IO_KINDS };

struct kv_piece {
    int32_t layer;      /* among those that have keys and values, or among those that keep a state */
    int32_t head_group; /* 0: a piece holds all KV heads */
    int32_t block;      /* pages: 64-token block index; else tokens in the log at that point */
    int32_t plane;      /* 0..6 as above; or KV_IO_WINDOW, KV_IO_STATE */
    const void *data;
    size_t size_bytes;
    /* Bytes of the first parts of data, which have little in common: what compresses them looks at
     * each alone. 0 = the rest is one part. A hint, not kept. */
    uint32_t part[KV_IO_PARTS];
};

/* Hash of a token log, token by token, so that it can be continued: start with KV_IO_HASH_EMPTY.
 * Every step is a bijection of the hash for a given id (multiply, xor-shift), so two logs that
 * differ in one token never collide; beyond that it is as good as 64 bits are. Not for secrets. */
#define KV_IO_HASH_EMPTY UINT64_C(0x646f67656172206b)

static inline uint64_t kv_io_hash(uint64_t hash, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        hash = (hash ^ (uint32_t)ids[i]) + UINT64_C(0x9e3779b97f4a7c15);
        hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
        hash ^= hash >> 31;
    }
    return hash;
}

static inline enum kv_io_kind kv_io_kind(int32_t plane)
{
    return plane >= 0 ? KV_IO_PAGES : plane == KV_IO_WINDOW ? KV_IO_ROWS : KV_IO_STATES;
}

/* What is held for a log: its first n_block blocks have pages, its newest rows end at n_rows tokens, its
 * newest state stands behind n_state tokens; 0 = none. */
struct kv_io_held {
    int32_t n_block, n_rows, n_state;
};

/* All callbacks may be called from the engine's thread, load from several at a time; put never blocks
 * on disk, the others read (and wait for puts still queued). `timeline` is the number the caller gave
 * with the turn; it says who uses a piece, not which piece it is. Numbers <= 0 are not kept. */
struct kv_io {
    void *ctx;
    /* Copies and queues the pieces for writing. All of them end at n_tok_end, and tok_hash is the
     * hash of the first n_tok_end ids: for pages n_tok_end = 64 * (block + 1), so one call per
     * block; else block = n_tok_end. A piece that is already there is replaced, and with
     * another plane 0 all planes of its page: it was stepped down. */
    void (*put)(void *ctx, int64_t timeline, uint64_t fingerprint, int32_t n_tok_end,
                uint64_t tok_hash, const struct kv_piece *pieces, int n_piece);
    /* What is held of ids[0..n_id). */
    void (*find)(void *ctx, int64_t timeline, uint64_t fingerprint, const int32_t *ids,
                 int32_t n_id, struct kv_io_held *ret);
    /* Reads everything of one kind that ends at n_tok_end in one go. visit is called for each intact
     * piece (layer, then head_group, then plane ascending) with data that is valid only during the call;
     * it returns false to stop. Returns the number of pieces left out because they were damaged, or -1
     * when nothing is held. */
    int32_t (*load)(void *ctx, int64_t timeline, uint64_t fingerprint, uint64_t tok_hash,
                    int32_t n_tok_end, enum kv_io_kind kind,
                    bool (*visit)(void *visit_ctx, const struct kv_piece *piece), void *visit_ctx);
};

#endif
