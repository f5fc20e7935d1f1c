/* KV pieces out: find, load, verify. Readers use their own connection under r_lock; what is
 * not exactly what was put is missing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "sessions/kvstore.h"

/* Columns first, n_chunk, raw, stored, codec, sum starting at col. */
static void read_stored(sqlite3_stmt *q, int col, struct kvstore_stored *ret)
{
    ret->first = sqlite3_column_int64(q, col);
    ret->n_chunk = sqlite3_column_int64(q, col + 1);
    ret->raw = sqlite3_column_int64(q, col + 2);
    ret->stored = sqlite3_column_int64(q, col + 3);
    ret->codec = sqlite3_column_int64(q, col + 4);
    const void *sum = sqlite3_column_blob(q, col + 5);
    ret->sum_valid = sum && sqlite3_column_bytes(q, col + 5) == 16;
    if (ret->sum_valid)
        memcpy(ret->sum, sum, 16);
}

static bool stored_valid(const struct kvstore_stored *t)
{
    return t->sum_valid && t->raw > 0 && t->raw <= KVSTORE_RAW_MAX_BYTES && t->stored > 0 &&
           t->stored <= t->raw && (t->codec == 1 || (t->codec == 0 && t->stored == t->raw)) &&
           t->first >= 0 && t->first <= INT64_MAX / 2 && t->n_chunk >= 0 && t->n_chunk <= t->stored;
}

/* A piece whose place is valid, on its way to dst (t->stored bytes). */
struct wanted {
    const struct kvstore_stored *t;
    char *dst;
    int64_t n; /* bytes found; t->stored when it is whole */
};

static int64_t chunks_end(const struct wanted *w)
{
    return w->t->first + w->t->n_chunk;
}

/* Pieces of one table whose chunks follow each other, in one query. */
static void read_run(struct db *d, int table, struct wanted *w, int32_t n)
{
    sqlite3_stmt *q;
    struct err ignored;
    bool row = true;
    if (db_query(d, &ignored, &q, kvstore_sql[table].select, "ii", w->t->first,
                 chunks_end(&w[n - 1])) != OK)
        return;
    for (int32_t i = 0; db_next(d, q, &row, &ignored) == OK && row;) {
        int64_t id = sqlite3_column_int64(q, 0);
        const void *p = sqlite3_column_blob(q, 1);
        int64_t size = sqlite3_column_bytes(q, 1);
        while (id >= chunks_end(&w[i]))
            i++;
        if (p && size <= w[i].t->stored - w[i].n)
            memcpy(w[i].dst + w[i].n, p, (size_t)size);
        w[i].n += size;
    }
    db_done(q);
}

/* What was put together lies together: a plane of a block is one run. */
static void read_table(struct db *d, int table, struct wanted *w, int32_t n)
{
    for (int32_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && w[to].t->first == chunks_end(&w[to - 1]);)
            to++;
        read_run(d, table, &w[from], to - from);
    }
}

void *kvstore_read(struct db *d, int32_t plane, const struct kvstore_stored *t)
{
    struct wanted w = {t, stored_valid(t) ? mem_try((size_t)t->stored) : NULL, 0};
    if (w.dst)
        read_run(d, kvstore_table(plane), &w, 1);
    if (w.dst && w.n != t->stored) {
        free(w.dst);
        w.dst = NULL;
    }
    return w.dst;
}

/* The raw bytes, in packed itself or in buf (t->raw bytes); NULL when they are not what was put. */
static const void *decode(ZSTD_DCtx *z, const struct kvstore_piece_name *name,
                          const struct kvstore_stored *t, const void *packed, void *buf)
{
    unsigned char sum[16];
    const void *raw = packed;
    if (t->codec) {
        raw = buf;
        if (ZSTD_decompressDCtx(z, buf, (size_t)t->raw, packed, (size_t)t->stored) !=
            (size_t)t->raw)
            return NULL;
    }
    kvstore_checksum(name, raw, (size_t)t->raw, sum);
    return memcmp(sum, t->sum, sizeof sum) ? NULL : raw;
}

void *kvstore_decode(ZSTD_DCtx *z, const struct kvstore_piece_name *name,
                     const struct kvstore_stored *t, void *packed)
{
    void *buf = NULL;
    const void *raw = NULL;
    if (z && packed && stored_valid(t) && (!t->codec || (buf = mem_try((size_t)t->raw))))
        raw = decode(z, name, t, packed, buf);
    if (!raw || raw != packed)
        free(packed);
    if (!raw || raw != buf)
        free(buf);
    return (void *)raw;
}

/* Several threads may read at a time; what they need is large and goes from hand to hand. */
static struct kvstore_reader *reader_take(struct kvstore *kv)
{
    struct kvstore_reader *r = NULL;
    pthread_mutex_lock(&kv->r_lock);
    if (kv->n_reader)
        r = kv->reader[--kv->n_reader];
    pthread_mutex_unlock(&kv->r_lock);
    if (!r) {
        r = mem_calloc(1, sizeof *r);
        r->z = ZSTD_createDCtx();
    }
    return r;
}

void kvstore_reader_free(struct kvstore_reader *r)
{
    ZSTD_freeDCtx(r->z);
    free(r->packed.p);
    free(r->raw.p);
    free(r);
}

static void reader_give(struct kvstore *kv, struct kvstore_reader *r)
{
    struct kvstore_buffer *own[] = {&r->packed, &r->raw};
    for (int i = 0; i < 2; i++)
        if (own[i]->size > KVSTORE_BUFFER_KEPT_BYTES) { /* of a state */
            free(own[i]->p);
            *own[i] = (struct kvstore_buffer){0};
        }
    pthread_mutex_lock(&kv->r_lock);
    bool room = kv->n_reader < KVSTORE_READERS;
    if (room)
        kv->reader[kv->n_reader++] = r;
    pthread_mutex_unlock(&kv->r_lock);
    if (!room)
        kvstore_reader_free(r);
}

/* At least n bytes; what was there is gone. */
static char *buffer(struct kvstore_buffer *b, size_t n)
{
    if (b->size < n) {
        free(b->p);
        b->p = mem_try(n + n / 4);
        b->size = b->p ? n + n / 4 : 0;
    }
    return b->p;
}

int32_t kvstore_list(struct db *d, int64_t block, struct kvstore_listed **ret)
{
    sqlite3_stmt *q;
    struct err ignored;
    struct kvstore_listed *all = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    *ret = NULL;
    if (db_query(
            d, &ignored, &q,
            "SELECT layer, head_group, plane, first, n_chunk, raw, stored, codec, sum FROM piece"
            " WHERE block = ? ORDER BY layer, head_group, plane",
            "i", block) != OK)
        return 0;
    while (db_next(d, q, &row, &ignored) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            all = mem_realloc(all, (size_t)cap * sizeof *all);
        }
        struct kvstore_listed *l = &all[n++];
        l->layer = sqlite3_column_int(q, 0);
        l->head_group = sqlite3_column_int(q, 1);
        l->plane = sqlite3_column_int(q, 2);
        read_stored(q, 3, &l->stored);
    }
    db_done(q);
    *ret = all;
    return n;
}

/* The pieces of a block with their stored bytes. */
struct fetched {
    struct kvstore_listed *all;
    char **packed; /* [n], in the reader's buffer; NULL = cannot be right */
    size_t raw_max;
    int64_t block; /* its row */
    int32_t n;
};

/* The bytes of all pieces that lie in one table, to `at` and after it; returns where they end. */
static char *fetch_table(struct db *d, int table, struct fetched *f, struct wanted *w, char *at)
{
    int32_t n = 0;
    for (int32_t i = 0; i < f->n; i++) {
        const struct kvstore_listed *l = &f->all[i];
        if (!stored_valid(&l->stored) || !kvstore_plane_valid(l->plane) ||
            kvstore_table(l->plane) != table)
            continue;
        f->packed[i] = at;
        w[n++] = (struct wanted){&l->stored, at, 0};
        at += l->stored.stored;
        if (f->raw_max < (size_t)l->stored.raw)
            f->raw_max = (size_t)l->stored.raw;
    }
    read_table(d, table, w, n);
    for (int32_t i = 0, k = 0; k < n; i++)
        if (f->packed[i] == w[k].dst) {
            if (w[k].n != w[k].t->stored)
                f->packed[i] = NULL;
            k++;
        }
    return at;
}

/* In one read transaction: each costs SQLite a lock and a look for a journal. */
static void fetch(struct kvstore *kv, const struct kvstore_put *name, enum kv_io_kind kind,
                  struct kvstore_reader *r, struct fetched *f)
{
    struct db *d = kv->r;
    struct err ignored;
    size_t size = 0;
    *f = (struct fetched){0};
    if (!d || db_exec(d, "BEGIN", &ignored) != OK)
        return;
    if (kvstore_find(d, name->fingerprint, name->hash, name->n_tok, kind, &f->block, &ignored) == OK)
        f->n = kvstore_list(d, f->block, &f->all);
    f->packed = mem_calloc((size_t)f->n + 1, sizeof *f->packed);
    struct wanted *w = mem_alloc(((size_t)f->n + 1) * sizeof *w);
    for (int32_t i = 0; i < f->n; i++)
        if (stored_valid(&f->all[i].stored))
            size += (size_t)f->all[i].stored.stored;
    char *at = buffer(&r->packed, size + 1);
    if (!at)
        f->n = 0; /* as if nothing were held: it is read from ids */
    else if (kind != KV_IO_PAGES)
        fetch_table(d, KVSTORE_STATE, f, w, at);
    for (int table = 0; at && kind == KV_IO_PAGES && table < KVSTORE_STATE; table++)
        at = fetch_table(d, table, f, w, at);
    free(w);
    db_exec(d, "COMMIT", &ignored);
}

/* Hands the pieces out; returns how many were damaged. */
static int32_t visit_all(struct sessions *s, const struct kvstore_put *name, enum kv_io_kind kind,
                         struct kvstore_reader *r, const struct fetched *f,
                         bool (*visit)(void *visit_ctx, const struct kv_piece *piece),
                         void *visit_ctx)
{
    void *buf = buffer(&r->raw, f->raw_max + 1);
    int32_t n_bad = 0;
    bool more = r->z && buf;
    for (int32_t i = 0; i < f->n && more; i++) {
        const struct kvstore_listed *l = &f->all[i];
        struct kvstore_piece_name full = {name->fingerprint, name->hash, l->stored.raw,
                                          name->n_tok,       l->layer,   l->head_group,
                                          l->plane};
        struct kv_piece piece = {.layer = l->layer,
                                 .head_group = l->head_group,
                                 .plane = l->plane,
                                 .block = kind == KV_IO_PAGES ? name->n_tok / KV_IO_BLOCK_TOK - 1
                                                              : name->n_tok,
                                 .size_bytes = (size_t)l->stored.raw};
        piece.data = f->packed[i] ? decode(r->z, &full, &l->stored, f->packed[i], buf) : NULL;
        if (piece.data) {
            more = visit(visit_ctx, &piece);
        } else {
            n_bad++;
            kvstore_post_drop(s, name, &piece);
        }
    }
    return n_bad;
}

static int32_t io_load(void *ctx, int64_t timeline, uint64_t fingerprint, uint64_t tok_hash,
                       int32_t n_tok_end, enum kv_io_kind kind,
                       bool (*visit)(void *visit_ctx, const struct kv_piece *piece),
                       void *visit_ctx)
{
    struct sessions *s = ctx;
    struct kvstore_put name = {timeline, fingerprint, tok_hash, n_tok_end, 1, NULL};
    if (timeline <= 0 || n_tok_end <= 0)
        return -1;
    struct fetched f;
    struct kvstore_reader *r = reader_take(s->kv);
    writer_drain_shown(s, WRITER_KV);
    pthread_mutex_lock(&s->kv->r_lock);
    fetch(s->kv, &name, kind, r, &f);
    pthread_mutex_unlock(&s->kv->r_lock);
    int32_t n_bad = f.n ? visit_all(s, &name, kind, r, &f, visit, visit_ctx) : -1;
    reader_give(s->kv, r);
    free(f.packed);
    free(f.all);
    if (kind == KV_IO_STATES && n_bad == 0) {
        int64_t *used = mem_alloc(sizeof *used);
        *used = f.block;
        kvstore_adopt(s, timeline, used, 1, true);
    }
    return n_bad;
}

/* ---- what is held ---- */

struct found {
    int64_t *blocks; /* of pages, rows and states, to be adopted by the chat */
    int32_t n, cap;
    struct kv_io_held held;
};

static void found_add(struct found *f, int64_t block)
{
    if (f->n == f->cap) {
        f->cap = f->cap ? f->cap * 2 : 64;
        f->blocks = mem_realloc(f->blocks, (size_t)f->cap * sizeof *f->blocks);
    }
    f->blocks[f->n++] = block;
}

/* Rows and states may end anywhere; few are kept, but which lengths exist is only known by looking.
 * Forward once over the log, asking only at lengths that occur. Of rows all those of the newest's window are
 * of use, of states the newest. */
static void find_ends(struct kvstore *kv, uint64_t fingerprint, const int32_t *ids, int32_t n_id,
                      enum kv_io_kind kind, int32_t *ret_newest, struct found *f)
{
    static const char *const sql[KV_IO_KINDS] = {
        [KV_IO_ROWS] = "SELECT n_tok, hash, id FROM block WHERE state = 1 AND fingerprint = ?1"
                       " AND n_tok <= ?2 ORDER BY n_tok",
        [KV_IO_STATES] = "SELECT n_tok, hash, id FROM block WHERE state = 2 AND fingerprint = ?1"
                         " AND n_tok <= ?2 ORDER BY n_tok"};
    struct err ignored;
    sqlite3_stmt *q;
    bool row = true;
    uint64_t hash = KV_IO_HASH_EMPTY;
    int32_t at = 0, had = f->n;
    if (db_query(kv->r, &ignored, &q, sql[kind], "ii", (int64_t)fingerprint, (int64_t)n_id) != OK)
        return;
    while (db_next(kv->r, q, &row, &ignored) == OK && row) {
        int64_t n_tok = sqlite3_column_int64(q, 0);
        if (n_tok <= 0 || n_tok < at || n_tok > n_id)
            continue;
        hash = kv_io_hash(hash, ids + at, (int32_t)n_tok - at);
        at = (int32_t)n_tok;
        if ((uint64_t)sqlite3_column_int64(q, 1) == hash) {
            if (kind == KV_IO_STATES || *ret_newest <= kvstore_window(at))
                f->n = had;
            *ret_newest = at;
            found_add(f, sqlite3_column_int64(q, 2));
        }
    }
    db_done(q);
}

static void find(struct kvstore *kv, uint64_t fingerprint, const int32_t *ids, int32_t n_id,
                 struct found *f)
{
    struct err ignored;
    uint64_t hash = KV_IO_HASH_EMPTY;
    int64_t block;
    for (int32_t at = 0; at + KV_IO_BLOCK_TOK <= n_id; at += KV_IO_BLOCK_TOK) {
        hash = kv_io_hash(hash, ids + at, KV_IO_BLOCK_TOK);
        if (kvstore_find(kv->r, fingerprint, hash, at + KV_IO_BLOCK_TOK, false, &block, &ignored) !=
            OK)
            break;
        found_add(f, block);
        f->held.n_block++;
    }
    find_ends(kv, fingerprint, ids, n_id, KV_IO_ROWS, &f->held.n_rows, f);
    find_ends(kv, fingerprint, ids, n_id, KV_IO_STATES, &f->held.n_state, f);
}
static void io_find(void *ctx, int64_t timeline, uint64_t fingerprint, const int32_t *ids,
                    int32_t n_id, struct kv_io_held *ret)
{
    struct sessions *s = ctx;
    struct found f = {0};
    *ret = (struct kv_io_held){0};
    if (timeline <= 0 || n_id <= 0)
        return;
    writer_drain_shown(s, WRITER_KV);
    struct err ignored;
    pthread_mutex_lock(&s->kv->r_lock);
    if (s->kv->r && db_exec(s->kv->r, "BEGIN", &ignored) == OK) {
        find(s->kv, fingerprint, ids, n_id, &f);
        db_exec(s->kv->r, "COMMIT", &ignored);
    }
    pthread_mutex_unlock(&s->kv->r_lock);
    *ret = f.held;
    if (f.n == 0) {
        free(f.blocks);
        return;
    }
    kvstore_adopt(s, timeline, f.blocks, f.n, false);
}

const struct kv_io *sessions_kv_io(struct sessions *s)
{
    if (!s || !s->kv)
        return NULL;
    s->kv->io = (struct kv_io){s, kvstore_io_put, io_find, io_load};
    return &s->kv->io;
}

/* ---- verifying and repairing ---- */

struct block_row {
    int64_t id;
    struct kvstore_put name;
    enum kv_io_kind kind;
};

static enum status all_blocks(struct db *d, struct block_row **ret, int32_t *ret_n, struct err *e)
{
    sqlite3_stmt *q;
    struct block_row *all = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    TRY(db_query(d, e, &q, "SELECT id, fingerprint, hash, n_tok, state FROM block ORDER BY id",
                 ""));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 256;
            all = mem_realloc(all, (size_t)cap * sizeof *all);
        }
        all[n++] = (struct block_row){
            .id = sqlite3_column_int64(q, 0),
            .name = {.fingerprint = (uint64_t)sqlite3_column_int64(q, 1),
                     .hash = (uint64_t)sqlite3_column_int64(q, 2),
                     .n_tok = sqlite3_column_int(q, 3)},
            .kind = (enum kv_io_kind)sqlite3_column_int(q, 4), /* damage makes up any */
        };
    }
    db_done(q);
    if (st != OK) {
        free(all);
        return st;
    }
    *ret = all;
    *ret_n = n;
    return OK;
}

/* Reads the pieces of one block; drops the bad ones when asked to. Returns how many were bad. */
static int32_t verify_block(ZSTD_DCtx *z, struct db *d, const struct block_row *b, bool drop)
{
    struct kvstore_listed *all;
    struct err ignored;
    int32_t n_bad = 0, n = kvstore_list(d, b->id, &all);
    for (int32_t i = 0; i < n; i++) {
        struct kvstore_listed *l = &all[i];
        struct kvstore_piece_name full = {
            b->name.fingerprint, b->name.hash, l->stored.raw, b->name.n_tok, l->layer,
            l->head_group,       l->plane};
        bool named = kvstore_plane_valid(l->plane) && kv_io_kind(l->plane) == b->kind;
        void *data = NULL;
        if (named)
            data = kvstore_decode(z, &full, &l->stored, kvstore_read(d, l->plane, &l->stored));
        free(data);
        n_bad += !data;
        if (!data && drop)
            kvstore_drop_planes(d, b->id, l->layer, l->head_group, l->plane, l->plane, &ignored);
    }
    free(all);
    return n_bad;
}

void kvstore_verify(struct sessions *s, struct db *d, char *detail, size_t cap, bool *flag)
{
    struct block_row *all = NULL;
    struct err e;
    int32_t n = 0, n_bad = 0;
    enum status st = all_blocks(d, &all, &n, &e);
    struct kvstore_reader *r = reader_take(s->kv);
    for (int32_t i = 0; i < n; i++)
        n_bad += verify_block(r->z, d, &all[i], false);
    reader_give(s->kv, r);
    free(all);
    if (st == OK && n_bad == 0)
        return;
    *flag = false;
    if (detail[0])
        return;
    if (st != OK)
        snprintf(detail, cap, "KV: %s", e.text);
    else
        snprintf(detail, cap, "KV: %d damaged pieces; they are read again from the text", n_bad);
}

static enum status repair_rows(struct sessions *s, struct db *d, struct err *e)
{
    struct block_row *all;
    int32_t n;
    TRY(all_blocks(d, &all, &n, e));
    enum status st = OK;
    struct kvstore_reader *r = reader_take(s->kv);
    for (int32_t i = 0; i < n && st == OK; i++)
        if (verify_block(r->z, d, &all[i], true))
            st = kvstore_cut(d, all[i].id, all[i].kind == KV_IO_STATES ? -1 : KV_IO_PLANES - 1, e);
    reader_give(s->kv, r);
    free(all);
    return st == OK ? kvstore_sweep(d, e) : st;
}

enum status kvstore_repair(struct sessions *s, struct err *e)
{
    struct db *d = s->kv->w;
    struct err why;
    sqlite3_stmt *q = NULL;
    bool row = false;
    char *said = NULL;
    if (db_query(d, &why, &q, "PRAGMA quick_check(1)", "") == OK &&
        db_next(d, q, &row, &why) == OK && row)
        said = db_text(q, 0, NULL);
    db_done(q);
    bool sound = said && !strcmp(said, "ok");
    free(said);
    if (sound && db_exec(d, "REINDEX; BEGIN IMMEDIATE", &why) == OK) {
        if (repair_rows(s, d, &why) == OK && db_exec(d, "COMMIT", &why) == OK)
            return OK;
        if (!sqlite3_get_autocommit(db_handle(d)))
            db_exec(d, "ROLLBACK", &why);
    }
    return kvstore_reset(s, e);
}
