/* dogear-kv.db: KV pieces on disk, under the names of kv_io.h. Inside of the store.
 *
 * The writer's connection belongs to the store's thread; readers use another one under a lock.
 * Nothing here can hurt text: a damaged file is emptied and made anew, a file that cannot be used
 * leaves KV off, with trouble reported once. */
#ifndef SESSIONS_KVSTORE_H
#define SESSIONS_KVSTORE_H

#include <zstd.h>

#include "sessions/store.h"
#include "sessions/writer.h"

enum {
    KVSTORE_APPLICATION_ID = 0x44674b76, /* "DgKv" */
    KVSTORE_PAGE_BYTES = 8192, /* a commit writes some fifteen pages twice: larger costs too much */
    KVSTORE_TABLES = KV_IO_PLANES + 1,
    KVSTORE_STATE = KV_IO_PLANES, /* table of rows and states */
    KVSTORE_STATES = 3, /* of a chat: behind the last answer, before it and before its question */
    KVSTORE_LAYERS = 64, /* told apart when looking what compresses; a power of two */
    KVSTORE_READERS = 32, /* kept for the next time, at most */
    KVSTORE_BUFFER_KEPT_BYTES = 16 << 20, /* of a reader that is kept */
    KVSTORE_RAW_MAX_BYTES = 256 << 20, /* of a piece; larger sizes in the file are damage */
};

/* The SQL of one chunk table: table names cannot be bound. */
struct kvstore_sql {
    const char *insert, *select, *erase;
};
extern const struct kvstore_sql kvstore_sql[KVSTORE_TABLES];

struct kvstore_buffer {
    char *p;
    size_t size;
};
/* What one thread needs to read a block: fresh memory for each would cost more than the reading. */
struct kvstore_reader {
    ZSTD_DCtx *z; /* may be NULL: no memory */
    struct kvstore_buffer packed, raw;
};
void kvstore_reader_free(struct kvstore_reader *r);

struct kvstore {
    struct kv_io io;
    char *path;
    _Atomic bool off; /* out of use until the store is opened again: puts are not taken */
    struct db *w; /* store's thread; NULL when out of use */
    ZSTD_CCtx *compressor;
    /* Compressions in a row that did not pay, by plane from the lowest on. */
    int32_t misses[KV_IO_PLANES - KV_IO_STATE][KVSTORE_LAYERS];
    int32_t room[KVSTORE_TABLES];   /* bytes left in the last database page of a table, about */
    int64_t n_free_seen; /* free pages when the last vacuum step was queued */
    int64_t n_free_kept; /* free pages that the next state is put into */

    pthread_mutex_t r_lock; /* protects what follows */
    struct db *r;           /* NULL when out of use */
    struct kvstore_reader *reader[KVSTORE_READERS]; /* not in use just now */
    int32_t n_reader;
};

void kvstore_open(struct sessions *s);    /* on failure s->kv stays NULL, trouble says why */
void kvstore_started(struct sessions *s); /* once the writer runs: forgets chats that are gone */
void kvstore_close(struct sessions *s);
struct db *kvstore_writer(struct kvstore *kv); /* NULL for NULL */
/* A KV batch failed: empties a damaged file; true = the same batch may be tried on the new one. Store's
 * thread. */
bool kvstore_failed(struct sessions *s, const struct err *e);
/* After a failure: was it a disk without room, then KV of the chats used least recently gives way, and all of
 * it for text that still does not fit; true = there is more room now, try again. Store's thread. */
bool kvstore_yield(struct sessions *s, enum writer_lane lane);
/* Makes the file anew. Store's thread. */
enum status kvstore_reset(struct sessions *s, struct err *e);

static inline int kvstore_table(int32_t plane)
{
    return plane < 0 ? KVSTORE_STATE : plane;
}
/* Where the rows begin that belong to an end at n_tok tokens: its own block and the one before. */
static inline int32_t kvstore_window(int32_t n_tok)
{
    return ((n_tok - 1) / KV_IO_BLOCK_TOK - 1) * KV_IO_BLOCK_TOK;
}
static inline bool kvstore_plane_valid(int32_t plane)
{
    return plane >= KV_IO_STATE && plane < KV_IO_PLANES;
}

/* Everything that names a piece; seeds its checksum, so that a row that damage has moved under
 * another name does not pass. Without padding: it is hashed as bytes. */
struct kvstore_piece_name {
    uint64_t fingerprint, hash;
    int64_t raw;
    int32_t n_tok, layer, head_group, plane;
};
void kvstore_checksum(const struct kvstore_piece_name *name, const void *data, size_t n,
                      unsigned char ret[16]);

/* What a put carries to the store's thread; also the name of a block. */
struct kvstore_put {
    int64_t chat;
    uint64_t fingerprint, hash;
    int32_t n_tok, n_piece;
    struct kv_piece *pieces; /* data points into the same allocation */
};

/* Row of a block; ERR_NOT_FOUND when it is not held. */
enum status kvstore_find(struct db *d, uint64_t fingerprint, uint64_t hash, int32_t n_tok,
                         enum kv_io_kind kind, int64_t *ret, struct err *e);

/* Where a piece lies and what it must be; any of it may be damaged. */
struct kvstore_stored {
    int64_t first, n_chunk, raw, stored, codec;
    unsigned char sum[16];
    bool sum_valid;
};
struct kvstore_listed {
    int32_t layer, head_group, plane;
    struct kvstore_stored stored;
};
/* The pieces of a block, by layer, head group, plane; listed before their bytes are read. Returns
 * their number; free *ret. */
int32_t kvstore_list(struct db *d, int64_t block, struct kvstore_listed **ret);
/* The stored bytes as they are (malloc'ed, t->stored of them), NULL when the row cannot be right. */
void *kvstore_read(struct db *d, int32_t plane, const struct kvstore_stored *t);
/* Takes packed (may be NULL), returns the raw bytes or NULL when they are not what was put. */
void *kvstore_decode(ZSTD_DCtx *z, const struct kvstore_piece_name *name,
                     const struct kvstore_stored *t, void *packed);

/* ---- any thread: queue and return ---- */
void kvstore_io_put(void *ctx, int64_t timeline, uint64_t fingerprint, int32_t n_tok_end,
                    uint64_t tok_hash, const struct kv_piece *pieces, int n_piece);
/* This piece is damaged: of no use to anybody. */
void kvstore_post_drop(struct sessions *s, const struct kvstore_put *name,
                       const struct kv_piece *piece);
/* The conversation uses these blocks from now on; takes the malloc'ed rows. state: they are one, which was
 * just read. */
void kvstore_adopt(struct sessions *s, int64_t conversation, int64_t *blocks, int32_t n, bool state);

/* ---- store's thread, inside a transaction of the KV lane ---- */
/* Drops the planes > top of one block's pages (top -1: everything). f16 rows go only
 * with everything. Keeps the sums; drops the block when nothing is left. */
enum status kvstore_cut(struct db *d, int64_t block, int32_t top, struct err *e);
/* Drops planes from..to (both included) of one page; layer -2 = of all. Leaves the sums alone. */
enum status kvstore_drop_planes(struct db *d, int64_t block, int32_t layer, int32_t head_group,
                                int32_t from, int32_t to, struct err *e);
/* The chat keeps the n_keep states that were put last. */
enum status kvstore_forget_states(struct db *d, int64_t chat, int32_t n_keep, struct err *e);
/* Ids that one query (with one argument) returns, collected before anything changes. */
enum status kvstore_ids(struct db *d, const char *sql, int64_t arg, int64_t **ret, int32_t *ret_n,
                        struct err *e);
/* Recomputes the sums of a block from its pieces. */
enum status kvstore_sum(struct db *d, int64_t block, struct err *e);
/* Drops blocks that no chat refers to, and overwrites them with zeros. */
enum status kvstore_sweep(struct db *d, struct err *e);
/* Reads every piece and compares checksums; on the first bad one sets *flag false and writes a line
 * into detail unless it has one. Outside of a transaction. */
void kvstore_verify(struct sessions *s, struct db *d, char *detail, size_t cap, bool *flag);
/* Drops bad pieces and blocks that nobody uses; empties the file when it is beyond that. */
enum status kvstore_repair(struct sessions *s, struct err *e);
/* The commands of a conversation's life; posted by list.c and tree.c. NULL kv is fine. */
void kvstore_forget(struct sessions *s, int64_t conversation);
void kvstore_fork(struct sessions *s, int64_t from, int64_t to, int64_t n_tok);

/* ---- thin.c ---- */
/* Bytes of one conversation by tier (rows count in tier 0 as f16), and of its states. Reader's side. */
enum status thin_sizes(struct sessions *s, int64_t conversation, int64_t tiers[SESSIONS_TIERS],
                       int64_t *ret_state, struct err *e);
/* Drops KV of the chats used least recently, some THIN_RESERVE_PAGES of it, and returns them to the file system,
 * which needs no room for it. Store's thread, outside of a transaction. After a failure other than ERR_BUSY the
 * file may be damaged. */
enum status thin_yield(struct sessions *s, struct err *e);
/* After a KV batch: keeps the file within the budget, and a reserve of the file system free for text; gives free
 * pages back. Store's thread. */
void thin_after_batch(struct sessions *s);

#endif
