#include "sessions/db.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"

enum {
    DB_STATEMENTS = 128,
    DB_ROOM_BYTES = 256 << 10, /* less is a full disk: WAL's shared memory alone takes 32 KiB */
};

struct db {
    sqlite3 *h;
    char *path;
    struct {
        const char *sql; /* borrowed: SQL is always a literal */
        sqlite3_stmt *st;
    } cache[DB_STATEMENTS];
    int n;
    bool full;
};

/* "file:" URI of a path: only there can SQLite be told that a file is immutable. */
static char *uri_new(const char *path, bool immutable)
{
    struct str u = {0};
    str_adds(&u, "file:");
    for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
        if (*p == '?' || *p == '#' || *p == '%' || *p < 0x20 || *p >= 0x7f)
            str_addf(&u, "%%%02X", *p);
        else
            str_addc(&u, (char)*p);
    }
    str_adds(&u, immutable ? "?immutable=1" : "");
    return str_take(&u);
}

enum status db_open(const char *path, enum db_mode mode, struct db **ret, struct err *e)
{
    struct db *d = mem_calloc(1, sizeof *d);
    d->path = mem_strdup(path);
    int flags = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    if (mode == DB_CREATE)
        flags |= SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    else if (mode == DB_WRITE)
        flags |= SQLITE_OPEN_READWRITE;
    else
        flags |= SQLITE_OPEN_READONLY;
    char *uri = uri_new(path, mode == DB_IMMUTABLE);
    int rc = sqlite3_open_v2(uri, &d->h, flags, NULL);
    free(uri);
    enum status st = OK;
    if (rc != SQLITE_OK) {
        st = d->h ? db_error(d, e, rc) : err_set(e, ERR_MEMORY, "cannot open %s: no memory", path);
    } else {
        sqlite3_busy_timeout(d->h, DB_BUSY_MS);
        /* A database from elsewhere may carry its own triggers; they only reach built-in functions
         * (trusted_schema must stay on: the search index is a virtual table behind triggers). */
        sqlite3_db_config(d->h, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
        sqlite3_db_config(d->h, SQLITE_DBCONFIG_ENABLE_FKEY, 1, (int *)NULL);
    }
    if (st != OK) {
        db_close(d);
        return st;
    }
    *ret = d;
    return OK;
}

void db_close(struct db *d)
{
    if (!d)
        return;
    for (int i = 0; i < d->n; i++)
        sqlite3_finalize(d->cache[i].st);
    sqlite3_close_v2(d->h);
    free(d->path);
    free(d);
}

sqlite3 *db_handle(struct db *d)
{
    return d->h;
}

const char *db_path(const struct db *d)
{
    return d->path;
}

/* Who holds SQLite's write lock on the file: WAL mode locks byte 120 of the -shm file. Read from
 * /proc/locks, because opening and closing the file here would drop our own POSIX locks on it.
 * Returns 0 when it cannot be told. */
static long holder_pid(const char *path)
{
    char shm[4200];
    struct stat sb;
    if ((size_t)snprintf(shm, sizeof shm, "%s-shm", path) >= sizeof shm || stat(shm, &sb) != 0)
        return 0;
    FILE *f = fopen("/proc/locks", "re");
    if (!f)
        return 0;
    char line[256];
    long found = 0;
    while (!found && fgets(line, sizeof line, f)) {
        long pid;
        unsigned maj, min;
        unsigned long long ino, from;
        char to[32];
        if (sscanf(line, "%*s %*s %*s WRITE %ld %x:%x:%llu %llu %31s", &pid, &maj, &min, &ino,
                   &from, to) != 6)
            continue;
        bool covers = from <= 120 && (!strcmp(to, "EOF") || strtoull(to, NULL, 10) >= 120);
        if (ino == (unsigned long long)sb.st_ino && covers && pid > 0 && pid != (long)getpid())
            found = pid;
    }
    fclose(f);
    return found;
}

static enum status error_busy(struct db *d, struct err *e)
{
    long pid = holder_pid(d->path);
    char comm[64] = "another process", file[64];
    if (!pid)
        return err_set(e, ERR_BUSY, "%s is being written by another process: try again", d->path);
    snprintf(file, sizeof file, "/proc/%ld/comm", pid);
    FILE *f = fopen(file, "re");
    if (f) {
        if (fgets(comm, sizeof comm, f))
            comm[strcspn(comm, "\n")] = '\0';
        fclose(f);
    }
    return err_set(e, ERR_BUSY, "%s is held by %s (process %ld): close it or try again", d->path,
                   comm, pid);
}

/* SQLite calls it SQLITE_FULL only in some places. */
static bool disk_full(const char *path)
{
    struct statvfs v;
    return statvfs(path, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < DB_ROOM_BYTES;
}

enum status db_error(struct db *d, struct err *e, int rc)
{
    const char *p = d->path;
    if ((rc & 0xff) == SQLITE_IOERR && (sqlite3_system_errno(d->h) == EDQUOT || disk_full(p)))
        rc = SQLITE_FULL;
    d->full = (rc & 0xff) == SQLITE_FULL;
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return error_busy(d, e);
    case SQLITE_FULL:
        return err_set(e, ERR_IO, "the disk is full (%s): free some space and try again", p);
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return err_set(e, ERR_IO, "%s cannot be written (read-only): check its permissions", p);
    case SQLITE_CANTOPEN:
        return err_set(e, ERR_IO, "cannot open %s: check that its folder exists, is yours and can be written", p);
    case SQLITE_IOERR:
        return err_set(e, ERR_IO, "reading or writing %s failed (%s): check the disk", p,
                       sqlite3_errmsg(d->h));
    case SQLITE_CORRUPT:
        return err_set(e, ERR_FORMAT, "%s is damaged (%s): run `dogear doctor`", p,
                       sqlite3_errmsg(d->h));
    case SQLITE_NOTADB:
        return err_set(e, ERR_FORMAT, "%s is no Dogear store: move it away or choose --db", p);
    case SQLITE_NOMEM:
        return err_set(e, ERR_MEMORY, "no memory for %s", p);
    case SQLITE_TOOBIG:
        return err_set(e, ERR_USAGE, "the text is too large for %s: shorten it", p);
    default:
        return err_set(e, ERR_INTERNAL, "%s: %s (sqlite %d)", p, sqlite3_errmsg(d->h), rc);
    }
}

bool db_full(const struct db *d)
{
    return d && d->full;
}

bool db_passing(const struct err *e)
{
    return e->code == ERR_IO || e->code == ERR_BUSY;
}

enum status db_exec(struct db *d, const char *sql, struct err *e)
{
    int rc = sqlite3_exec(d->h, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? OK : db_error(d, e, rc);
}

static enum status prepare(struct db *d, const char *sql, sqlite3_stmt **ret, struct err *e)
{
    for (int i = 0; i < d->n; i++) {
        if (d->cache[i].sql == sql || !strcmp(d->cache[i].sql, sql)) {
            sqlite3_reset(d->cache[i].st);
            sqlite3_clear_bindings(d->cache[i].st);
            *ret = d->cache[i].st;
            return OK;
        }
    }
    if (d->n == DB_STATEMENTS)
        return err_set(e, ERR_INTERNAL, "statement cache of %s is full", d->path);
    sqlite3_stmt *st;
    int rc = sqlite3_prepare_v3(d->h, sql, -1, SQLITE_PREPARE_PERSISTENT, &st, NULL);
    if (rc != SQLITE_OK)
        return db_error(d, e, rc);
    d->cache[d->n].sql = sql;
    d->cache[d->n++].st = st;
    *ret = st;
    return OK;
}

static int bind_all(sqlite3_stmt *st, const char *types, va_list ap)
{
    int rc = SQLITE_OK;
    for (int i = 1; *types && rc == SQLITE_OK; types++, i++) {
        const void *p;
        size_t n;
        switch (*types) {
        case 'i':
            rc = sqlite3_bind_int64(st, i, va_arg(ap, int64_t));
            break;
        case 't':
            p = va_arg(ap, const char *);
            rc = p ? sqlite3_bind_text(st, i, p, -1, SQLITE_TRANSIENT) : sqlite3_bind_null(st, i);
            break;
        case 's':
            p = va_arg(ap, const char *);
            n = va_arg(ap, size_t);
            rc = sqlite3_bind_text64(st, i, n ? p : "", n, SQLITE_TRANSIENT, SQLITE_UTF8);
            break;
        case 'b':
            p = va_arg(ap, const void *);
            n = va_arg(ap, size_t);
            rc = p ? sqlite3_bind_blob64(st, i, p, n, SQLITE_STATIC) : sqlite3_bind_null(st, i);
            break;
        default:
            rc = sqlite3_bind_null(st, i);
        }
    }
    return rc;
}

static enum status query(struct db *d, struct err *e, sqlite3_stmt **ret, const char *sql,
                         const char *types, va_list ap)
{
    sqlite3_stmt *st = NULL;
    TRY(prepare(d, sql, &st, e));
    int rc = bind_all(st, types, ap);
    if (rc != SQLITE_OK)
        return db_error(d, e, rc);
    *ret = st;
    return OK;
}

enum status db_query(struct db *d, struct err *e, sqlite3_stmt **ret, const char *sql,
                     const char *types, ...)
{
    va_list ap;
    va_start(ap, types);
    enum status s = query(d, e, ret, sql, types, ap);
    va_end(ap);
    return s;
}

enum status db_next(struct db *d, sqlite3_stmt *st, bool *ret_row, struct err *e)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
        *ret_row = rc == SQLITE_ROW;
        return OK;
    }
    enum status s = db_error(d, e, rc);
    sqlite3_reset(st);
    return s;
}

void db_done(sqlite3_stmt *st)
{
    if (st) {
        sqlite3_reset(st);
        sqlite3_clear_bindings(st); /* drops references to the caller's blobs */
    }
}

enum status db_do(struct db *d, struct err *e, const char *sql, const char *types, ...)
{
    sqlite3_stmt *st;
    va_list ap;
    va_start(ap, types);
    enum status s = query(d, e, &st, sql, types, ap);
    va_end(ap);
    TRY(s);
    bool row = true;
    while (s == OK && row)
        s = db_next(d, st, &row, e);
    db_done(st);
    return s;
}

enum status db_int(struct db *d, struct err *e, int64_t *ret, const char *sql, const char *types,
                   ...)
{
    sqlite3_stmt *st;
    va_list ap;
    va_start(ap, types);
    enum status s = query(d, e, &st, sql, types, ap);
    va_end(ap);
    TRY(s);
    bool row = false;
    s = db_next(d, st, &row, e);
    if (s == OK && row)
        *ret = sqlite3_column_int64(st, 0);
    db_done(st);
    if (s == OK && !row)
        return err_set(e, ERR_NOT_FOUND, "not found in %s", d->path);
    return s;
}

enum status db_identify(struct db *d, struct db_identity *ret, struct err *e)
{
    TRY(db_int(d, e, &ret->app, "PRAGMA application_id", ""));
    TRY(db_int(d, e, &ret->version, "PRAGMA user_version", ""));
    return db_int(d, e, &ret->n_table, "SELECT count(*) FROM sqlite_schema", "");
}

enum status db_mark(struct db *d, int32_t app, int32_t version, struct err *e)
{
    char sql[96];
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;", app,
                     version);
    return db_exec(d, sql, e);
}

enum status db_end(struct db *d, enum status st, struct err *e)
{
    struct err ignored;
    if (st == OK)
        st = db_exec(d, "COMMIT", e);
    if (st != OK && !sqlite3_get_autocommit(d->h))
        db_exec(d, "ROLLBACK", &ignored);
    return st;
}

char *db_text(sqlite3_stmt *st, int col, size_t *ret_len)
{
    const void *p = sqlite3_column_blob(st, col);
    int n = sqlite3_column_bytes(st, col);
    if (ret_len)
        *ret_len = p ? (size_t)n : 0;
    return p ? mem_strndup(p, (size_t)n) : mem_strdup("");
}
