#include "sessions/kvstore.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/kv_schema_sql.h"

enum {
    KV_VERSION = 3,
    KV_BUSY_MS = 250, /* text waits behind KV on the same thread: give up early */
    KV_EMPTY_BYTES = 256 << 10, /* a file that holds nothing takes less */
};

#define SQL_OF(name)                                                                               \
    {                                                                                              \
        "INSERT INTO chunk_" name " (data) VALUES (?)",                                            \
            "SELECT id, data FROM chunk_" name " WHERE id >= ? AND id < ? ORDER BY id",                \
            "DELETE FROM chunk_" name " WHERE id >= ? AND id < ?"                                  \
    }
const struct kvstore_sql kvstore_sql[KVSTORE_TABLES] = {
    SQL_OF("0"), SQL_OF("1"), SQL_OF("2"), SQL_OF("3"),
    SQL_OF("4"), SQL_OF("5"), SQL_OF("6"), SQL_OF("state"),
};

/* ---- open, reset, close ---- */

static enum status prepare_writer(struct db *d, struct err *e)
{
    sqlite3_busy_timeout(db_handle(d), KV_BUSY_MS);
    /* A rollback journal holds only pages that were there before: what is appended, nearly all of
     * it, is written once, where WAL would write it twice. A batch fits the cache, so that nothing
     * is spilled and written again. Replaced rows are not overwritten with zeros (the library's
     * default may be to do so): the next ones are put there. What a deleted chat leaves is,
     * kvstore_sweep. */
    return db_exec(d,
                   "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = NORMAL;"
                   "PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;"
                   "PRAGMA secure_delete = FAST;",
                   e);
}

/* Files made before there were states lack it. Without it, as when another process is writing just now,
 * looking for states takes longer. */
static void index_states(struct db *d)
{
    struct err ignored;
    db_exec(d, "CREATE INDEX IF NOT EXISTS block_states ON block (fingerprint, n_tok) WHERE state = 2",
            &ignored);
}

static enum status create(struct db *d, struct err *e)
{
    char sql[96];
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA page_size = %d; PRAGMA auto_vacuum = INCREMENTAL;",
                     KVSTORE_PAGE_BYTES);
    TRY(db_exec(d, sql, e));
    TRY(db_exec(d, "BEGIN IMMEDIATE", e));
    int64_t n_table = 0;
    enum status st = db_int(d, e, &n_table, "SELECT count(*) FROM sqlite_schema", "");
    if (st == OK && n_table == 0) {
        st = db_exec(d, KV_SCHEMA_SQL, e);
        if (st == OK)
            st = db_mark(d, KVSTORE_APPLICATION_ID, KV_VERSION, e);
    }
    return db_end(d, st, e);
}

/* Empties the database in place, damaged or not: other processes that have it open stay in step. Without a
 * journal, for which a full disk has no room: the connection is closed afterwards. */
static enum status empty_in_place(struct db *d, struct err *e)
{
    sqlite3 *h = db_handle(d);
    sqlite3_db_config(h, SQLITE_DBCONFIG_DEFENSIVE, 0, (int *)NULL);
    sqlite3_db_config(h, SQLITE_DBCONFIG_RESET_DATABASE, 1, (int *)NULL);
    enum status st = db_exec(d, "PRAGMA journal_mode = OFF; VACUUM", e);
    sqlite3_db_config(h, SQLITE_DBCONFIG_RESET_DATABASE, 0, (int *)NULL);
    sqlite3_db_config(h, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    return st;
}

/* Our mark stands at a fixed place of SQLite's header, readable whatever else is broken. */
static bool file_is_ours(const char *path)
{
    unsigned char h[100] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, h, sizeof h);
    close(fd);
    uint32_t id = (uint32_t)h[68] << 24 | (uint32_t)h[69] << 16 | (uint32_t)h[70] << 8 | h[71];
    return n == (ssize_t)sizeof h && id == KVSTORE_APPLICATION_ID;
}

static void unlink_all(const char *path)
{
    static const char *const suffix[] = {"", "-journal", "-wal", "-shm"}; /* WAL: old versions */
    for (size_t i = 0; i < sizeof suffix / sizeof *suffix; i++) {
        char *p = sqlite3_mprintf("%s%s", path, suffix[i]);
        if (p)
            unlink(p);
        sqlite3_free(p);
    }
}

/* ERR_FORMAT: damaged, or of an older form; either way it holds nothing of use. */
static enum status open_checked(const char *path, struct db **ret, struct err *e)
{
    struct db *d;
    struct db_identity is = {0};
    TRY(db_open(path, DB_CREATE, &d, e));
    enum status st = db_identify(d, &is, e);
    bool fresh = is.app == 0 && is.n_table == 0;
    if (st == OK && !fresh && is.app != KVSTORE_APPLICATION_ID)
        st = err_set(e, ERR_UNSUPPORTED, "%s is no Dogear file, so KV is not kept: move it away",
                     path);
    if (st == OK && is.version > KV_VERSION)
        st = err_set(e, ERR_UNSUPPORTED,
                     "%s was written by a newer Dogear: KV is not kept; update or delete it", path);
    if (st == OK && !fresh && is.version < KV_VERSION)
        st = err_set(e, ERR_FORMAT, "%s was written by an older Dogear", path);
    if (st == OK && fresh)
        st = create(d, e);
    if (st == OK)
        st = prepare_writer(d, e);
    if (st == OK)
        index_states(d);
    if (st != OK)
        db_close(d);
    else
        *ret = d;
    return st;
}

/* A file of ours that is damaged or old is deleted: it holds nothing that cannot be made again. */
static enum status open_or_replace(const char *path, struct db **ret, struct err *e)
{
    enum status st = open_checked(path, ret, e);
    if (st != ERR_FORMAT)
        return st;
    if (!file_is_ours(path))
        return err_set(e, ERR_UNSUPPORTED, "%s is no Dogear file, so KV is not kept: move it away",
                       path);
    unlink_all(path);
    bool writable;
    TRY(store_claim_file(path, &writable, e));
    return open_checked(path, ret, e);
}

static enum status open_both(struct kvstore *kv, struct err *e)
{
    bool writable;
    TRY(store_claim_file(kv->path, &writable, e));
    if (!writable)
        return err_set(e, ERR_IO, "%s cannot be written: KV is not kept", kv->path);
    TRY(open_or_replace(kv->path, &kv->w, e));
    /* Able to write, because whoever first reads after a crash rolls the journal back. */
    TRY(db_open(kv->path, DB_WRITE, &kv->r, e));
    /* No mmap: a file that somebody truncates must not end the program. */
    return db_exec(kv->r, "PRAGMA query_only = ON; PRAGMA cache_size = -8192;", e);
}

static void close_both(struct kvstore *kv)
{
    struct err ignored;
    if (kv->w)
        db_exec(kv->w, "PRAGMA journal_mode = DELETE", &ignored); /* leaves no empty file behind */
    db_close(kv->r);
    db_close(kv->w);
    kv->w = kv->r = NULL;
}

/* dogear.db -> dogear-kv.db; any other name -> name-kv.db */
static char *kv_path(const char *path)
{
    struct str p = {0};
    size_t n = strlen(path);
    str_add(&p, path, n > 3 && !strcmp(path + n - 3, ".db") ? n - 3 : n);
    str_adds(&p, "-kv.db");
    return str_take(&p);
}

static void kv_free(struct kvstore *kv)
{
    close_both(kv);
    ZSTD_freeCCtx(kv->compressor);
    while (kv->n_reader)
        kvstore_reader_free(kv->reader[--kv->n_reader]);
    pthread_mutex_destroy(&kv->r_lock);
    free(kv->path);
    free(kv);
}

void kvstore_open(struct sessions *s)
{
    struct err e;
    struct kvstore *kv = mem_calloc(1, sizeof *kv);
    pthread_mutex_init(&kv->r_lock, NULL);
    kv->path = kv_path(s->path);
    kv->compressor = ZSTD_createCCtx();
    enum status st =
        kv->compressor ? open_both(kv, &e) : err_set(&e, ERR_MEMORY, "no memory to keep KV");
    if (st != OK) {
        store_trouble(s, &e);
        kv_free(kv);
        return;
    }
    s->kv = kv;
}

void kvstore_close(struct sessions *s)
{
    if (s->kv)
        kv_free(s->kv);
    s->kv = NULL;
}

struct db *kvstore_writer(struct kvstore *kv)
{
    return kv ? kv->w : NULL;
}

enum status kvstore_reset(struct sessions *s, struct err *e)
{
    struct kvstore *kv = s->kv;
    pthread_mutex_lock(&kv->r_lock);
    enum status st = kv->w ? empty_in_place(kv->w, e) : ERR_FORMAT;
    close_both(kv);
    if (st != OK && st != ERR_BUSY && file_is_ours(kv->path))
        unlink_all(kv->path);
    st = open_both(kv, e);
    if (st != OK)
        close_both(kv);
    kv->off = st != OK;
    pthread_mutex_unlock(&kv->r_lock);
    return st;
}

bool kvstore_yield(struct sessions *s, enum writer_lane lane)
{
    struct kvstore *kv = s->kv;
    struct stat text, before, after;
    struct err e;
    if (!kv || !kv->w || !db_full(lane == WRITER_KV ? kv->w : s->w))
        return false;
    if (stat(s->path, &text) != 0 || stat(kv->path, &before) != 0)
        return false;
    if (lane == WRITER_TEXT && text.st_dev != before.st_dev)
        return false;
    pthread_mutex_lock(&kv->r_lock); /* readers of this process would keep the file locked */
    enum status st = thin_yield(s, &e), back = prepare_writer(kv->w, &e); /* with a journal again */
    memset(kv->room, 0, sizeof kv->room);
    pthread_mutex_unlock(&kv->r_lock);
    bool less = stat(kv->path, &after) == 0 && after.st_size < before.st_size;
    bool damaged = back != OK || (st != OK && st != ERR_BUSY);
    if (damaged || (!less && lane == WRITER_TEXT && before.st_size > KV_EMPTY_BYTES)) {
        if (kvstore_reset(s, &e) != OK)
            store_trouble(s, &e);
        less = stat(kv->path, &after) == 0 && after.st_size < before.st_size;
    }
    if (less) {
        err_set(&e, ERR_IO,
                "the disk is full (%s): caches of the chats used least recently were dropped to make room;"
                " free some space", s->path);
        store_trouble(s, &e);
    }
    return less;
}

bool kvstore_failed(struct sessions *s, const struct err *e)
{
    struct err why;
    if (s->kv)
        memset(s->kv->room, 0, sizeof s->kv->room); /* rolled back: nobody knows */
    if (e->code != ERR_FORMAT || !s->kv || !s->kv->w)
        return false;
    if (kvstore_reset(s, &why) == OK)
        return true;
    store_trouble(s, &why);
    return false;
}
