/* One SQLite connection with cached statements: the only file that speaks sqlite3's error codes.
 *
 * A connection belongs to one thread at a time. Statements returned by db_query are owned by the
 * connection; db_done ends one (and its read snapshot). The same SQL must not be nested in itself.
 * Values are bound by a type string: i int64_t, t const char * (NULL = NULL), s const char * and
 * size_t, b const void * and size_t, n NULL. Integers must be cast to int64_t by the caller. */
#ifndef SESSIONS_DB_H
#define SESSIONS_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sqlite3.h>

#include "engine/base/err.h"

struct db;

enum db_mode {
    DB_CREATE,    /* read and write, made when absent */
    DB_WRITE,     /* read and write, must exist */
    DB_READ,      /* read; other processes may write */
    DB_IMMUTABLE, /* read-only media: no locks, nobody can write */
};

enum { DB_BUSY_MS = 5000 };

/* Opens without reading anything. Foreign keys on, defensive mode on. */
enum status db_open(const char *path, enum db_mode mode, struct db **ret, struct err *e);
void db_close(struct db *d); /* NULL is fine */
sqlite3 *db_handle(struct db *d);
const char *db_path(const struct db *d);

/* Runs a script of statements. */
enum status db_exec(struct db *d, const char *sql, struct err *e);
/* Runs one statement to its end. */
enum status db_do(struct db *d, struct err *e, const char *sql, const char *types, ...);
/* First column of the first row; ERR_NOT_FOUND (without text) when there is none. NULL reads as 0. */
enum status db_int(struct db *d, struct err *e, int64_t *ret, const char *sql, const char *types,
                   ...);
/* Prepares and binds; step with db_next, end with db_done. */
enum status db_query(struct db *d, struct err *e, sqlite3_stmt **ret, const char *sql,
                     const char *types, ...);
enum status db_next(struct db *d, sqlite3_stmt *st, bool *ret_row, struct err *e);
void db_done(sqlite3_stmt *st); /* NULL is fine */

/* What the file says it is. */
struct db_identity {
    int64_t app, version; /* PRAGMA application_id, user_version */
    int64_t n_table;      /* tables, indexes and the like; 0 = empty */
};
enum status db_identify(struct db *d, struct db_identity *ret, struct err *e);
enum status db_mark(struct db *d, int32_t app, int32_t version, struct err *e);
/* Ends a transaction: commits when st is OK, rolls back otherwise; returns what became of it. */
enum status db_end(struct db *d, enum status st, struct err *e);

/* Column as malloc'ed, NUL-terminated bytes; NULL column = "". ret_len may be NULL. */
char *db_text(sqlite3_stmt *st, int col, size_t *ret_len);

/* Turns the connection's last error into a status: full disk and I/O ERR_IO, damage ERR_FORMAT,
 * locks ERR_BUSY with the name of the process that holds the file. */
enum status db_error(struct db *d, struct err *e, int rc);
/* The last failure was a full disk, or a quota that is used up. NULL is fine. */
bool db_full(const struct db *d);
/* True for failures that may pass: disk full, I/O, lock. The same command can be tried again. */
bool db_passing(const struct err *e);

#endif
