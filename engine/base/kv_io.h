/* What the engine hands to whoever keeps KV on disk, and asks back: plain data, no SQL, no model.
 *
 * A piece is one plane of the sealed pages of one layer for a group of KV heads and one 64-token
 * block, or (plane KV_IO_WINDOW) the f16 window rows and sampler state at the end of a turn. The
 * receiver stores the bytes as they are (it may compress them losslessly) and returns them
 * unchanged or not at all: a piece whose checksum does not match is missing, never guessed. */
#ifndef ENGINE_BASE_KV_IO_H
#define ENGINE_BASE_KV_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_IO_WINDOW = -1, KV_IO_META = -2 };

struct kv_piece {
    int32_t layer;      /* -1 for pieces that belong to no layer */
    int32_t head_group; /* KV heads are stored in groups so that blobs are 32-64 KiB */
    int32_t block;      /* 64-token block index from the start of the timeline */
    int32_t plane;      /* 0 = most significant; or KV_IO_WINDOW, KV_IO_META */
    const void *data;
    size_t size_bytes;
};

/* All callbacks may be called from the engine's thread and must not block on disk except get,
 * which reads. `timeline` is the number the caller gave with the turn. n_tok_valid: pieces of a
 * block count only while the token log is at least that long and unchanged (the receiver checks
 * the log's hash, see tok_hash). */
struct kv_io {
    void *ctx;
    /* Copies and queues the pieces for writing. */
    void (*put)(void *ctx, int64_t timeline, uint64_t fingerprint, int32_t n_tok_end,
                uint64_t tok_hash, const struct kv_piece *pieces, int n_piece);
    /* Reads one piece into a buffer that the callee allocates with malloc and the caller frees.
     * False when it is missing, damaged or written under another fingerprint or token log. */
    bool (*get)(void *ctx, int64_t timeline, uint64_t fingerprint, uint64_t tok_hash,
                struct kv_piece *piece, void **ret_owned);
    /* Planes below `plane` of a block were dropped in memory; the store may do the same later. */
    void (*dropped)(void *ctx, int64_t timeline, int32_t layer, int32_t head_group, int32_t block,
                    int32_t plane);
};

#endif
