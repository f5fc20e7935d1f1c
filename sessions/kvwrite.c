/* KV pieces in: put, drop, sums, and what a conversation's life does to them. Store's thread,
 * except for the callbacks, which copy and queue. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/kvstore.h"

enum {
    KV_MISSES_MAX = 8,   /* after so many pieces that did not compress ... */
    KV_MISS_SAMPLE = 16, /* ... only every 16th of that plane and layer is tried */
    KV_ZSTD_LEVEL = 1,
    KV_PAGE_ROOM = KVSTORE_PAGE_BYTES - 8, /* of an empty database page */
    KV_CELL_BYTES = 13,      /* a row's own: place 2, length 2, rowid up to 4, record header 5 */
    KV_CHUNK_MAX_BYTES = KVSTORE_PAGE_BYTES - 35 - 5, /* more would go to an overflow page */
    KV_CHUNK_MIN_BYTES = 128,                         /* less room than that is left empty */
};

void kvstore_checksum(const struct kvstore_piece_name *name, const void *data, size_t n,
                      unsigned char ret[16])
{
    XXH128_hash_t h = XXH3_128bits_withSeed(data, n, XXH3_64bits(name, sizeof *name));
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    memcpy(ret, c.digest, 16);
}

/* ---- sums, cuts, sweeps (store's thread) ---- */

enum status kvstore_sum(struct db *d, int64_t block, struct err *e)
{
    sqlite3_stmt *q;
    int64_t t[KV_IO_PLANES + 1] = {0};
    bool row = true;
    TRY(db_query(d, e, &q,
                 "SELECT max(plane), sum(stored) FROM piece WHERE block = ?"
                 " GROUP BY layer, head_group, plane < 0",
                 "i", block));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        int plane = sqlite3_column_int(q, 0);
        if (kvstore_plane_valid(plane))
            t[plane < 0 ? KV_IO_PLANES : KV_IO_PLANES - 1 - plane] += sqlite3_column_int64(q, 1);
    }
    db_done(q);
    TRY(st);
    return db_do(d, e,
                 "UPDATE block SET t0 = ?, t1 = ?, t2 = ?, t3 = ?, t4 = ?, t5 = ?, t6 = ?, t7 = ?"
                 " WHERE id = ?",
                 "iiiiiiiii", t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], block);
}

struct doomed {
    int32_t plane, layer, head_group;
    int64_t first, n_chunk;
};

static enum status drop_pieces(struct db *d, int64_t block, const struct doomed *p, int32_t n,
                               struct err *e)
{
    for (int32_t i = 0; i < n; i++) {
        if (kvstore_plane_valid(p[i].plane)) /* damage makes up planes, too */
            TRY(db_do(d, e, kvstore_sql[kvstore_table(p[i].plane)].erase, "ii", p[i].first,
                      p[i].first + p[i].n_chunk));
        TRY(db_do(d, e,
                  "DELETE FROM piece WHERE block = ? AND layer = ? AND head_group = ?"
                  " AND plane = ?",
                  "iiii", block, (int64_t)p[i].layer, (int64_t)p[i].head_group,
                  (int64_t)p[i].plane));
    }
    return OK;
}

enum status kvstore_drop_planes(struct db *d, int64_t block, int32_t layer, int32_t head_group,
                                int32_t from, int32_t to, struct err *e)
{
    sqlite3_stmt *q;
    struct doomed *p = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    TRY(db_query(d, e, &q,
                 "SELECT plane, layer, head_group, first, n_chunk FROM piece WHERE block = ?1"
                 " AND (?2 = -2 OR (layer = ?2 AND head_group = ?3)) AND plane BETWEEN ?4 AND ?5",
                 "iiiii", block, (int64_t)layer, (int64_t)head_group, (int64_t)from, (int64_t)to));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            p = mem_realloc(p, (size_t)cap * sizeof *p);
        }
        p[n++] = (struct doomed){
            .plane = sqlite3_column_int(q, 0),
            .layer = sqlite3_column_int(q, 1),
            .head_group = sqlite3_column_int(q, 2),
            .first = sqlite3_column_int64(q, 3),
            .n_chunk = sqlite3_column_int64(q, 4),
        };
    }
    db_done(q);
    if (st == OK)
        st = drop_pieces(d, block, p, n, e);
    free(p);
    return st;
}

enum status kvstore_cut(struct db *d, int64_t block, int32_t top, struct err *e)
{
    int64_t left = 0;
    if (top < 0)
        TRY(kvstore_drop_planes(d, block, -2, 0, KV_IO_STATE, KV_IO_PLANES - 1, e));
    else
        TRY(kvstore_drop_planes(d, block, -2, 0, top + 1, KV_IO_PLANE_F16 - 1, e));
    TRY(db_int(d, e, &left, "SELECT EXISTS (SELECT 1 FROM piece WHERE block = ?)", "i", block));
    if (left)
        return kvstore_sum(d, block, e);
    TRY(db_do(d, e, "DELETE FROM ref WHERE block = ?", "i", block));
    return db_do(d, e, "DELETE FROM block WHERE id = ?", "i", block);
}

enum status kvstore_ids(struct db *d, const char *sql, int64_t arg, int64_t **ret, int32_t *ret_n,
                        struct err *e)
{
    sqlite3_stmt *q;
    int64_t *ids = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    TRY(db_query(d, e, &q, sql, "i", arg));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            ids = mem_realloc(ids, (size_t)cap * sizeof *ids);
        }
        ids[n++] = sqlite3_column_int64(q, 0);
    }
    db_done(q);
    if (st != OK) {
        free(ids);
        return st;
    }
    *ret = ids;
    *ret_n = n;
    return OK;
}

static enum status cut_all(struct db *d, const int64_t *blocks, int32_t n, struct err *e)
{
    for (int32_t i = 0; i < n; i++)
        TRY(kvstore_cut(d, blocks[i], -1, e));
    return OK;
}

enum status kvstore_sweep(struct db *d, struct err *e)
{
    int64_t *blocks;
    int32_t n;
    TRY(kvstore_ids(d,
                    "SELECT id FROM block WHERE ?1 = 0"
                    " AND NOT EXISTS (SELECT 1 FROM ref WHERE ref.block = block.id)",
                    0, &blocks, &n, e));
    enum status st = db_exec(d, "PRAGMA secure_delete = ON", e);
    if (st == OK)
        st = cut_all(d, blocks, n, e);
    free(blocks);
    struct err ignored;
    db_exec(d, "PRAGMA secure_delete = FAST", &ignored);
    return st;
}

/* ---- put ---- */

static bool conversation_exists(struct sessions *s, int64_t id)
{
    int64_t one;
    struct err ignored;
    return db_int(s->w, &ignored, &one, "SELECT 1 FROM conversation WHERE id = ?", "i", id) == OK;
}

static enum status touch(struct db *d, int64_t chat, bool whole, struct err *e)
{
    return db_do(d, e,
                 "INSERT INTO chat (id, used_ms) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE"
                 " SET used_ms = ?2, depth = iif(?3, 0, depth)",
                 "iii", chat, clock_unix_ms(), (int64_t)whole);
}

enum status kvstore_find(struct db *d, uint64_t fingerprint, uint64_t hash, int32_t n_tok,
                         enum kv_io_kind kind, int64_t *ret, struct err *e)
{
    return db_int(d, e, ret,
                  "SELECT id FROM block WHERE hash = ? AND fingerprint = ? AND n_tok = ?"
                  " AND state = ?",
                  "iiii", (int64_t)hash, (int64_t)fingerprint, (int64_t)n_tok, (int64_t)kind);
}

/* A state that is used again counts as new: of answers that are asked for again and again none loses where
 * it begins. What is newest is told by the row's number. */
static enum status renew_state(struct db *d, int64_t chat, int64_t *block, struct err *e)
{
    int64_t last;
    TRY(db_int(d, e, &last,
               "SELECT max(b.id) FROM ref r JOIN block b ON b.id = r.block WHERE r.chat = ? AND b.state = 2",
               "i", chat));
    if (last <= *block)
        return OK;
    TRY(db_int(d, e, &last, "SELECT max(id) + 1 FROM block", ""));
    TRY(db_do(d, e, "UPDATE block SET id = ? WHERE id = ?", "ii", last, *block));
    TRY(db_do(d, e, "UPDATE piece SET block = ? WHERE block = ?", "ii", last, *block));
    TRY(db_do(d, e, "UPDATE ref SET block = ? WHERE block = ?", "ii", last, *block));
    *block = last;
    return OK;
}

static enum status make_block(struct db *d, const struct kvstore_put *p, enum kv_io_kind kind,
                              int64_t *ret, struct err *e)
{
    enum status st = kvstore_find(d, p->fingerprint, p->hash, p->n_tok, kind, ret, e);
    if (st == ERR_NOT_FOUND) {
        TRY(db_do(d, e, "INSERT INTO block (hash, fingerprint, n_tok, state) VALUES (?, ?, ?, ?)",
                  "iiii", (int64_t)p->hash, (int64_t)p->fingerprint, (int64_t)p->n_tok,
                  (int64_t)kind));
        *ret = sqlite3_last_insert_rowid(db_handle(d));
        st = OK;
    }
    TRY(st);
    TRY(db_do(d, e, "INSERT OR IGNORE INTO ref (chat, block) VALUES (?, ?)", "ii", p->chat, *ret));
    return kind == KV_IO_STATES ? renew_state(d, p->chat, ret, e) : OK;
}

/* One frame, a block for each part: a block has its own table of codes. 0 = it did not fit. */
static size_t compress(ZSTD_CCtx *z, const struct kv_piece *p, void *buf, size_t cap)
{
    ZSTD_outBuffer out = {buf, cap, 0};
    ZSTD_CCtx_reset(z, ZSTD_reset_session_only);
    ZSTD_CCtx_setParameter(z, ZSTD_c_compressionLevel, KV_ZSTD_LEVEL);
    for (size_t at = 0, i = 0; at < p->size_bytes; i++) {
        size_t n = i < KV_IO_PARTS ? p->part[i] : 0;
        bool last = n == 0 || n >= p->size_bytes - at;
        ZSTD_inBuffer in = {(const char *)p->data + at, last ? p->size_bytes - at : n, 0};
        if (ZSTD_compressStream2(z, &out, &in, last ? ZSTD_e_end : ZSTD_e_flush) != 0)
            return 0;
        at += in.size;
    }
    return out.pos;
}

/* Compresses when that pays; returns the bytes to store and sets *ret_codec. */
static const void *pack(struct kvstore *kv, const struct kv_piece *p, void *buf, size_t cap,
                        size_t *ret_n, int64_t *ret_codec)
{
    int32_t *misses = &kv->misses[p->plane - KV_IO_STATE][(p->layer + 1) & (KVSTORE_LAYERS - 1)];
    *ret_codec = 0;
    *ret_n = p->size_bytes;
    if (*misses >= KV_MISSES_MAX && (*misses)++ % KV_MISS_SAMPLE)
        return p->data;
    size_t n = compress(kv->compressor, p, buf, cap);
    if (n == 0 || n >= p->size_bytes - p->size_bytes / 40) {
        ++*misses;
        return p->data;
    }
    *misses = 0;
    *ret_n = n;
    *ret_codec = 1;
    return buf;
}

static enum status write_chunk(struct kvstore *kv, int table, const unsigned char *bytes, size_t n,
                               int64_t *first, int64_t *n_chunk, struct err *e)
{
    TRY(db_do(kv->w, e, kvstore_sql[table].insert, "b", bytes, n));
    if (*n_chunk == 0)
        *first = sqlite3_last_insert_rowid(db_handle(kv->w));
    ++*n_chunk;
    return OK;
}

/* Appends bytes to a table, cut so that its last page is filled before the next one begins. The
 * room is an estimate: wrong, it wastes space and nothing else. Rows and states are not cut: SQLite gives
 * long bytes pages of their own, which it frees without a copy in the journal, and these go soon. */
static enum status write_chunks(struct kvstore *kv, int table, const unsigned char *bytes, size_t n,
                                int64_t *first, int64_t *n_chunk, struct err *e)
{
    int32_t *room = &kv->room[table];
    if (table == KVSTORE_STATE)
        return write_chunk(kv, table, bytes, n, first, n_chunk, e);
    for (size_t off = 0, k; off < n; off += k) {
        if (*room < KV_CHUNK_MIN_BYTES + KV_CELL_BYTES && n - off + KV_CELL_BYTES > (size_t)*room)
            *room = KV_PAGE_ROOM;
        k = (size_t)(*room - KV_CELL_BYTES);
        if (k > KV_CHUNK_MAX_BYTES)
            k = KV_CHUNK_MAX_BYTES;
        if (k > n - off)
            k = n - off;
        TRY(write_chunk(kv, table, bytes + off, k, first, n_chunk, e));
        *room -= (int32_t)k + KV_CELL_BYTES;
    }
    return OK;
}

static enum status put_piece(struct kvstore *kv, const struct kvstore_put *put, int64_t block,
                             const struct kv_piece *p, void *buf, size_t cap, struct err *e)
{
    struct kvstore_piece_name name = {put->fingerprint, put->hash, (int64_t)p->size_bytes,
                                      put->n_tok,       p->layer,  p->head_group,
                                      p->plane};
    unsigned char sum[16];
    struct db *d = kv->w;
    int64_t same = 0, codec;
    kvstore_checksum(&name, p->data, p->size_bytes, sum);
    enum status st = db_int(d, e, &same,
                            "SELECT sum = ? FROM piece WHERE block = ? AND layer = ?"
                            " AND head_group = ? AND plane = ?",
                            "biiii", sum, sizeof sum, block, (int64_t)p->layer,
                            (int64_t)p->head_group, (int64_t)p->plane);
    if (st != OK && st != ERR_NOT_FOUND)
        return st;
    if (st == OK && same) /* a fork or a chat that begins alike wrote it already */
        return OK;
    if (st == OK) /* the planes above another plane 0 are of no use */
        TRY(kvstore_drop_planes(d, block, p->layer, p->head_group, p->plane,
                                p->plane == 0 ? KV_IO_PLANE_F16 - 1 : p->plane, e));
    size_t n;
    const unsigned char *bytes = pack(kv, p, buf, cap, &n, &codec);
    int64_t first = 0, n_chunk = 0;
    TRY(write_chunks(kv, kvstore_table(p->plane), bytes, n, &first, &n_chunk, e));
    return db_do(d, e,
                 "INSERT INTO piece (block, layer, head_group, plane, first, n_chunk, raw, stored,"
                 " codec, sum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                 "iiiiiiiiib", block, (int64_t)p->layer, (int64_t)p->head_group, (int64_t)p->plane,
                 first, n_chunk, (int64_t)p->size_bytes, (int64_t)n, codec, sum, sizeof sum);
}

/* Rows of a chat that are not worth their bytes: all but those of its two newest ends, the open branch's and
 * the one before, with those of their block and of the one before; pages stand for the rest. Rows of other
 * branches that end at the same places go when there are too many. */
static const char old_rows[] =
    "WITH mine (id, n_tok) AS MATERIALIZED (SELECT b.id, b.n_tok FROM ref r"
    "  JOIN block b ON b.id = r.block WHERE r.chat = ? AND b.state = 1),"
    " ends (id, n_tok) AS MATERIALIZED (SELECT id, n_tok FROM mine"
    "  WHERE n_tok % 16 <> 0 OR id = (SELECT max(id) FROM mine)"
    "  ORDER BY id DESC LIMIT 2),"
    " kept (id) AS (SELECT mine.id FROM mine JOIN ends ON mine.id = ends.id"
    "  OR (mine.n_tok % 16 = 0 AND mine.n_tok < ends.n_tok"
    "   AND mine.n_tok > ((ends.n_tok - 1) / 64 - 1) * 64)" /* kvstore_window */
    "  GROUP BY mine.id ORDER BY mine.id DESC LIMIT 32)"
    " SELECT id FROM mine WHERE id NOT IN (SELECT id FROM kept)";
_Static_assert(KV_IO_BLOCK_TOK == 64 && KV_IO_ROWS_TOK == 16, "the numbers above");

/* The chat does without these from now on; what nobody else uses goes. */
static enum status let_go(struct db *d, int64_t chat, const int64_t *blocks, int32_t n, struct err *e)
{
    for (int32_t i = 0; i < n; i++) {
        int64_t used;
        TRY(db_do(d, e, "DELETE FROM ref WHERE chat = ? AND block = ?", "ii", chat, blocks[i]));
        TRY(db_int(d, e, &used, "SELECT EXISTS (SELECT 1 FROM ref WHERE block = ?)", "i", blocks[i]));
        if (!used)
            TRY(kvstore_cut(d, blocks[i], -1, e));
    }
    return OK;
}

static enum status forget_rows(struct db *d, int64_t chat, struct err *e)
{
    int64_t *blocks;
    int32_t n;
    TRY(kvstore_ids(d, old_rows, chat, &blocks, &n, e));
    enum status st = let_go(d, chat, blocks, n, e);
    free(blocks);
    return st;
}

enum status kvstore_forget_states(struct db *d, int64_t chat, int32_t n_keep, struct err *e)
{
    int64_t *blocks;
    int32_t n;
    TRY(kvstore_ids(d,
                    "SELECT b.id FROM ref r JOIN block b ON b.id = r.block"
                    " WHERE r.chat = ? AND b.state = 2 ORDER BY b.id DESC",
                    chat, &blocks, &n, e));
    enum status st = n > n_keep ? let_go(d, chat, blocks + n_keep, n - n_keep, e) : OK;
    free(blocks);
    return st;
}

static enum status run_put(struct sessions *s, struct command *c, struct err *e)
{
    struct kvstore *kv = s->kv;
    const struct kvstore_put *p = c->more;
    int64_t block[KV_IO_KINDS] = {0};
    size_t cap = 0;
    if (!conversation_exists(s, p->chat)) /* deleted meanwhile */
        return OK;
    TRY(touch(kv->w, p->chat, true, e));
    for (int32_t i = 0; i < p->n_piece; i++)
        if (p->pieces[i].size_bytes > cap)
            cap = p->pieces[i].size_bytes;
    cap = ZSTD_compressBound(cap);
    void *buf = mem_try(cap);
    enum status st = buf ? OK : err_set(e, ERR_MEMORY, "out of memory: no %zu bytes to compress a cache", cap);
    for (int32_t i = 0; i < p->n_piece && st == OK; i++) {
        enum kv_io_kind kind = kv_io_kind(p->pieces[i].plane);
        if (!block[kind])
            st = make_block(kv->w, p, kind, &block[kind], e);
        if (st == OK)
            st = put_piece(kv, p, block[kind], &p->pieces[i], buf, cap, e);
    }
    free(buf);
    for (int i = 0; i < KV_IO_KINDS && st == OK; i++)
        if (block[i])
            st = kvstore_sum(kv->w, block[i], e);
    if (st == OK && block[KV_IO_ROWS])
        st = forget_rows(kv->w, p->chat, e);
    if (st == OK && block[KV_IO_STATES]) {
        kv->n_free_kept = (int64_t)(c->size_bytes / KVSTORE_PAGE_BYTES);
        st = kvstore_forget_states(kv->w, p->chat, KVSTORE_STATES, e);
    }
    return st;
}

void kvstore_io_put(void *ctx, int64_t timeline, uint64_t fingerprint, int32_t n_tok_end,
                    uint64_t tok_hash, const struct kv_piece *pieces, int n_piece)
{
    size_t size_bytes = sizeof(struct kvstore_put) + (size_t)n_piece * sizeof *pieces;
    struct sessions *s = ctx;
    if (timeline <= 0 || n_piece <= 0 || s->kv->off)
        return;
    for (int i = 0; i < n_piece; i++) {
        if (!kvstore_plane_valid(pieces[i].plane) || pieces[i].size_bytes == 0 ||
            pieces[i].size_bytes > KVSTORE_RAW_MAX_BYTES)
            return; /* the caller's mistake: better missing than half */
        size_bytes += pieces[i].size_bytes;
    }
    struct kvstore_put *p = mem_try(size_bytes);
    if (!p) { /* states are large */
        struct err e;
        err_set(&e, ERR_MEMORY, "no memory to keep KV: parts will be read again");
        store_trouble(s, &e);
        return;
    }
    *p = (struct kvstore_put){timeline,  fingerprint, tok_hash,
                              n_tok_end, n_piece,     (struct kv_piece *)(p + 1)};
    char *at = (char *)(p->pieces + n_piece);
    for (int i = 0; i < n_piece; i++) {
        p->pieces[i] = pieces[i];
        p->pieces[i].data = at;
        memcpy(at, pieces[i].data, pieces[i].size_bytes);
        at += pieces[i].size_bytes;
    }
    struct command c = {.lane = WRITER_KV,
                        .run = run_put,
                        .lazy = true,
                        .more = p,
                        .more_free = free,
                        .size_bytes = size_bytes};
    writer_post(s, &c);
}

/* ---- dropping ---- */

static enum status run_drop(struct sessions *s, struct command *c, struct err *e)
{
    struct db *d = s->kv->w;
    const struct kvstore_put *p = c->more;
    const struct kv_piece *what = p->pieces;
    enum kv_io_kind kind = kv_io_kind(what->plane);
    int64_t block;
    enum status st = kvstore_find(d, p->fingerprint, p->hash, p->n_tok, kind, &block, e);
    if (st == ERR_NOT_FOUND)
        return OK;
    TRY(st);
    if (kind == KV_IO_STATES) /* of no use without one of its layers, and in the way of an older one */
        return kvstore_cut(d, block, -1, e);
    TRY(kvstore_drop_planes(d, block, what->layer, what->head_group, what->plane, what->plane, e));
    return kvstore_sum(d, block, e);
}

void kvstore_post_drop(struct sessions *s, const struct kvstore_put *name,
                       const struct kv_piece *piece)
{
    struct kvstore_put *p = mem_alloc(sizeof *p + sizeof *piece);
    *p = *name;
    p->pieces = (struct kv_piece *)(p + 1);
    p->n_piece = 1;
    *p->pieces = *piece;
    struct command c = {.lane = WRITER_KV, .run = run_drop, .more = p, .more_free = free};
    writer_post(s, &c);
}

/* ---- a conversation's life ---- */

static enum status run_adopt(struct sessions *s, struct command *c, struct err *e)
{
    int64_t *blocks = c->more;
    if (!conversation_exists(s, c->conversation))
        return OK;
    TRY(touch(s->kv->w, c->conversation, false, e));
    for (int64_t i = 0; i < c->number; i++)
        TRY(db_do(s->kv->w, e,
                  "INSERT OR IGNORE INTO ref (chat, block)"
                  " SELECT ?1, id FROM block WHERE id = ?2",
                  "ii", c->conversation, blocks[i]));
    return c->message ? renew_state(s->kv->w, c->conversation, blocks, e) : OK;
}

void kvstore_adopt(struct sessions *s, int64_t conversation, int64_t *blocks, int32_t n, bool state)
{
    struct command c = {.lane = WRITER_KV,
                        .run = run_adopt,
                        .lazy = true,
                        .aside = true,
                        .conversation = conversation,
                        .message = state,
                        .number = n,
                        .more = blocks,
                        .more_free = free};
    writer_post(s, &c);
}

static enum status run_forget(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->kv->w, e, "DELETE FROM ref WHERE chat = ?", "i", c->conversation));
    TRY(db_do(s->kv->w, e, "DELETE FROM chat WHERE id = ?", "i", c->conversation));
    return kvstore_sweep(s->kv->w, e);
}

void kvstore_forget(struct sessions *s, int64_t conversation)
{
    struct command c = {.lane = WRITER_KV, .run = run_forget, .conversation = conversation};
    if (s->kv)
        writer_post(s, &c);
}

static enum status run_fork_refs(struct sessions *s, struct command *c, struct err *e)
{
    TRY(touch(s->kv->w, c->conversation, false, e));
    TRY(db_do(s->kv->w, e,
              "UPDATE chat SET depth = ifnull((SELECT depth FROM chat WHERE id = ?2), 0)"
              " WHERE id = ?1",
              "ii", c->conversation, c->message));
    return db_do(s->kv->w, e,
                 "INSERT OR IGNORE INTO ref (chat, block) SELECT ?1, r.block FROM ref r"
                 " JOIN block b ON b.id = r.block WHERE r.chat = ?2 AND b.n_tok <= ?3",
                 "iii", c->conversation, c->message, c->number);
}

void kvstore_fork(struct sessions *s, int64_t from, int64_t to, int64_t n_tok)
{
    struct command c = {.lane = WRITER_KV,
                        .run = run_fork_refs,
                        .conversation = to,
                        .message = from,
                        .number = n_tok};
    if (s->kv)
        writer_post(s, &c);
}

/* Chats that were deleted while the other file could not be written (a crash in between). */
static enum status run_orphans(struct sessions *s, struct command *c, struct err *e)
{
    int64_t *chats;
    int32_t n;
    bool any = false;
    TRY(kvstore_ids(s->kv->w,
                    "SELECT id FROM chat WHERE ?1 = 0 UNION SELECT DISTINCT chat FROM ref", 0,
                    &chats, &n, e));
    enum status st = OK;
    for (int32_t i = 0; i < n && st == OK; i++) {
        if (conversation_exists(s, chats[i]))
            continue;
        any = true;
        st = db_do(s->kv->w, e, "DELETE FROM ref WHERE chat = ?", "i", chats[i]);
        if (st == OK)
            st = db_do(s->kv->w, e, "DELETE FROM chat WHERE id = ?", "i", chats[i]);
    }
    free(chats);
    return st == OK && any ? kvstore_sweep(s->kv->w, e) : st;
}

void kvstore_started(struct sessions *s)
{
    struct command c = {.lane = WRITER_KV, .run = run_orphans};
    if (s->kv)
        writer_post(s, &c);
}
