/* One conversation as one file: a small SQLite database of its own, exact to the byte. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sessions/bundle_schema_sql.h"
#include "sessions/copy.h"
#include "sessions/kvstore.h"

enum {
    BUNDLE_APPLICATION_ID = 0x44674578, /* "DgEx" */
    BUNDLE_VERSION = 1,
    BUNDLE_QUEUED = 1024,           /* pieces in memory that the disk has yet to take ... */
    BUNDLE_QUEUED_BYTES = 64 << 20, /* ... and their bytes, about: the queue refuses many more */
};

bool bundle_is(const char *path)
{
    char head[16];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return false;
    bool is = read(fd, head, sizeof head) == sizeof head && !memcmp(head, "SQLite format 3", 16);
    close(fd);
    return is;
}

/* ---- writing ---- */

static enum status write_text(struct db *d, const struct copy *c, struct err *e)
{
    TRY(db_do(d, e,
              "INSERT INTO conversation (title, model, created_ms, updated_ms, pinned, leaf)"
              " VALUES (?, ?, ?, ?, ?, ?)",
              "ttiiii", c->title, c->model, c->created_ms, c->updated_ms, (int64_t)c->pinned,
              (int64_t)c->leaf + 1));
    for (int32_t i = 0; i < c->n_message; i++) {
        const struct copy_message *m = &c->messages[i];
        TRY(db_do(d, e,
                  "INSERT INTO message (id, parent, created_ms, done, role, stop, text, ids, vocab)"
                  " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  "iiiittsbi", (int64_t)i + 1, (int64_t)m->parent + 1, m->created_ms,
                  (int64_t)m->done, m->role, m->stop, m->text, m->len, m->ids,
                  (size_t)m->n_id * sizeof *m->ids, (int64_t)m->vocab));
    }
    return OK;
}

static enum status write_block(struct db *d, struct db *kv, int64_t block, struct err *e)
{
    struct kvstore_listed *all;
    int32_t n = kvstore_list(kv, block, &all);
    int64_t fingerprint, hash, n_tok;
    enum status st =
        db_int(kv, e, &fingerprint, "SELECT fingerprint FROM block WHERE id = ?", "i", block);
    if (st == OK)
        st = db_int(kv, e, &hash, "SELECT hash FROM block WHERE id = ?", "i", block);
    if (st == OK)
        st = db_int(kv, e, &n_tok, "SELECT n_tok FROM block WHERE id = ?", "i", block);
    for (int32_t i = 0; i < n && st == OK; i++) {
        struct kvstore_listed *l = &all[i];
        void *data = kvstore_plane_valid(l->plane) ? kvstore_read(kv, l->plane, &l->stored) : NULL;
        if (data) /* a piece that cannot be read is read again from ids, there as here */
            st = db_do(d, e, "INSERT INTO kv VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "iiiiiiiibb",
                       fingerprint, hash, n_tok, (int64_t)l->layer, (int64_t)l->head_group,
                       (int64_t)l->plane, l->stored.raw, l->stored.codec, l->stored.sum,
                       sizeof l->stored.sum, data, (size_t)l->stored.stored);
        free(data);
    }
    free(all);
    return st;
}

static enum status write_kv(struct sessions *s, struct db *d, int64_t id, struct err *e)
{
    struct kvstore *kv = s->kv;
    int64_t *blocks = NULL;
    int32_t n = 0;
    if (!kv)
        return OK;
    writer_drain(s, WRITER_KV);
    pthread_mutex_lock(&kv->r_lock);
    enum status st = OK;
    if (kv->r)
        st = kvstore_ids(kv->r, "SELECT block FROM ref WHERE chat = ? ORDER BY block", id, &blocks,
                         &n, e);
    for (int32_t i = 0; i < n && st == OK; i++)
        st = write_block(d, kv->r, blocks[i], e);
    pthread_mutex_unlock(&kv->r_lock);
    free(blocks);
    return st;
}

static enum status write_all(struct sessions *s, struct db *d, const struct copy *c, int64_t id,
                             bool with_kv, struct err *e)
{
    char sql[160];
    sqlite3_snprintf(sizeof sql, sql,
                     "PRAGMA page_size = 16384; PRAGMA application_id = %d;"
                     "PRAGMA user_version = %d; BEGIN",
                     BUNDLE_APPLICATION_ID, BUNDLE_VERSION);
    TRY(db_exec(d, sql, e));
    TRY(db_exec(d, BUNDLE_SCHEMA_SQL, e));
    TRY(write_text(d, c, e));
    if (with_kv)
        TRY(write_kv(s, d, id, e));
    return db_exec(d, "COMMIT", e);
}

enum status sessions_export_file(struct sessions *s, int64_t id, const char *path, bool with_kv,
                                 struct err *e)
{
    struct copies c = {0};
    struct db *d = NULL;
    store_read_begin(s);
    enum status st = copy_load(s->r, id, copies_add(&c), e);
    store_read_end(s);
    int fd = -1;
    if (st == OK) {
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0)
            st = err_set(e, ERR_IO, "cannot make %s: %s", path, strerror(errno));
    }
    if (st == OK) {
        close(fd);
        st = db_open(path, DB_WRITE, &d, e);
        if (st == OK)
            st = write_all(s, d, &c.all[0], id, with_kv, e);
        db_close(d);
        if (st != OK)
            unlink(path);
    }
    copies_fini(&c);
    return st;
}

/* ---- reading: every value may be anything ---- */

static enum status read_head(struct db *d, struct copy *c, int64_t *ret_leaf, struct err *e)
{
    sqlite3_stmt *q;
    bool row = false;
    TRY(db_query(d, e, &q,
                 "SELECT title, model, created_ms, updated_ms, pinned, leaf FROM conversation",
                 ""));
    enum status st = db_next(d, q, &row, e);
    if (st == OK && !row)
        st = err_set(e, ERR_FORMAT, "%s holds no conversation", db_path(d));
    if (st == OK) {
        c->title = db_text(q, 0, NULL);
        c->model = db_text(q, 1, NULL);
        c->created_ms = sqlite3_column_int64(q, 2);
        c->updated_ms = sqlite3_column_int64(q, 3);
        c->pinned = sqlite3_column_int(q, 4) != 0;
        *ret_leaf = sqlite3_column_int64(q, 5);
    }
    db_done(q);
    return st;
}

static void read_word(sqlite3_stmt *q, int col, char *dst, size_t cap)
{
    char *p = db_text(q, col, NULL);
    size_t n = strlen(p);
    if (n > cap - 1)
        n = cap - 1;
    memcpy(dst, p, n);
    dst[n] = '\0';
    free(p);
}

static enum status read_message(struct db *d, sqlite3_stmt *q, struct copy *c, struct err *e)
{
    int32_t at = c->n_message;
    struct copy_message *m = copy_add(c);
    int64_t parent = sqlite3_column_int64(q, 1) - 1;
    size_t n;
    m->text = db_text(q, 6, &m->len);
    m->created_ms = sqlite3_column_int64(q, 2);
    m->done = sqlite3_column_int(q, 3) != 0;
    m->vocab = (uint64_t)sqlite3_column_int64(q, 8);
    read_word(q, 4, m->role, sizeof m->role);
    read_word(q, 5, m->stop, sizeof m->stop);
    char *ids = db_text(q, 7, &n);
    bool whole = n % sizeof *m->ids == 0;
    if (n && whole) {
        m->ids = (int32_t *)(void *)ids;
        m->n_id = (int32_t)(n / sizeof *m->ids);
    } else {
        free(ids);
    }
    bool role =
        !strcmp(m->role, "user") || !strcmp(m->role, "assistant") || !strcmp(m->role, "system");
    if (sqlite3_column_int64(q, 0) != at + 1 || parent < -1 || parent >= at || !role || !whole)
        return err_set(e, ERR_FORMAT, "%s: message %d is damaged", db_path(d), at + 1);
    m->parent = (int32_t)parent;
    return OK;
}

static enum status read_all(struct db *d, struct copies *all, struct err *e)
{
    sqlite3_stmt *q;
    int64_t app = 0, version = 0, n_table = 0, leaf = 0;
    bool row = true;
    TRY(db_int(d, e, &app, "PRAGMA application_id", ""));
    TRY(db_int(d, e, &version, "PRAGMA user_version", ""));
    TRY(db_int(d, e, &n_table,
               "SELECT count(*) FROM sqlite_schema WHERE type = 'table'"
               " AND name IN ('conversation', 'message', 'kv')",
               ""));
    if (app != BUNDLE_APPLICATION_ID || n_table != 3)
        return err_set(e, ERR_FORMAT, "%s is no exported conversation", db_path(d));
    if (version != BUNDLE_VERSION)
        return err_set(e, ERR_UNSUPPORTED, "%s has form %lld, this Dogear knows %d: update",
                       db_path(d), (long long)version, BUNDLE_VERSION);
    struct copy *c = copies_add(all);
    TRY(read_head(d, c, &leaf, e));
    TRY(db_query(d, e, &q,
                 "SELECT id, parent, created_ms, done, role, stop, text, ids, vocab FROM message"
                 " ORDER BY id",
                 ""));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row)
        if ((st = read_message(d, q, c, e)) != OK)
            break;
    db_done(q);
    TRY(st);
    if (leaf < 0 || leaf > c->n_message)
        return err_set(e, ERR_FORMAT, "%s: its open branch ends at no message", db_path(d));
    c->leaf = (int32_t)leaf - 1;
    return OK;
}

enum status bundle_read(const char *path, struct copies *ret, struct err *e)
{
    struct db *d;
    TRY(db_open(path, DB_READ, &d, e));
    enum status st = read_all(d, ret, e);
    db_close(d);
    return st;
}

/* One row of kv: verified, then queued like a piece of the engine's. Returns its size, 0 = of no use. */
static size_t read_piece(struct sessions *s, ZSTD_DCtx *z, sqlite3_stmt *q, int64_t conversation)
{
    int64_t raw = sqlite3_column_int64(q, 6);
    struct kvstore_piece_name name = {
        .fingerprint = (uint64_t)sqlite3_column_int64(q, 0),
        .hash = (uint64_t)sqlite3_column_int64(q, 1),
        .raw = raw,
        .n_tok = sqlite3_column_int(q, 2),
        .layer = sqlite3_column_int(q, 3),
        .head_group = sqlite3_column_int(q, 4),
        .plane = sqlite3_column_int(q, 5),
    };
    size_t n;
    struct kvstore_stored t = {.raw = raw,
                               .codec = sqlite3_column_int64(q, 7),
                               .sum_valid = sqlite3_column_bytes(q, 8) == 16};
    if (t.sum_valid)
        memcpy(t.sum, sqlite3_column_blob(q, 8), 16);
    char *packed = db_text(q, 9, &n);
    t.stored = (int64_t)n;
    if (!kvstore_plane_valid(name.plane) || name.n_tok <= 0) {
        free(packed);
        return 0;
    }
    void *data = kvstore_decode(z, &name, &t, packed);
    if (!data)
        return 0;
    struct kv_piece p = {.layer = name.layer,
                         .head_group = name.head_group,
                         .plane = name.plane,
                         .block = name.plane < 0 ? name.n_tok : name.n_tok / KV_IO_BLOCK_TOK - 1,
                         .data = data,
                         .size_bytes = (size_t)raw};
    kvstore_io_put(s, conversation, name.fingerprint, name.n_tok, name.hash, &p, 1);
    free(data);
    return p.size_bytes;
}

int32_t bundle_read_kv(struct sessions *s, const char *path, int64_t conversation)
{
    struct db *d;
    struct err ignored;
    sqlite3_stmt *q;
    int32_t n = 0, queued = 0;
    size_t queued_bytes = 0;
    bool row = true;
    if (!s->kv || db_open(path, DB_READ, &d, &ignored) != OK)
        return 0;
    ZSTD_DCtx *z = ZSTD_createDCtx();
    if (z && db_query(d, &ignored, &q,
                      "SELECT fingerprint, hash, n_tok, layer, head_group, plane, raw, codec, sum,"
                      " data FROM kv ORDER BY rowid",
                      "") == OK) {
        while (db_next(d, q, &row, &ignored) == OK && row) {
            size_t size_bytes = read_piece(s, z, q, conversation);
            n += size_bytes > 0;
            queued_bytes += size_bytes;
            if (++queued == BUNDLE_QUEUED || queued_bytes > BUNDLE_QUEUED_BYTES) {
                writer_drain(s, WRITER_KV);
                queued = 0;
                queued_bytes = 0;
            }
        }
        db_done(q);
    }
    ZSTD_freeDCtx(z);
    db_close(d);
    return n;
}
