/* Looking after the files: `dogear doctor`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "sessions/kvstore.h"
#include "sessions/store.h"
#include "sessions/writer.h"

static int64_t file_bytes(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 ? (int64_t)sb.st_size : 0;
}

static void found(struct sessions_health *h, bool *flag, const char *what, const char *detail)
{
    *flag = false;
    if (h->detail[0])
        return;
    snprintf(h->detail, sizeof h->detail, "%s: %.400s", what, detail);
    for (char *p = h->detail; *p; p++) /* SQLite's complaints have several lines */
        if (*p == '\n')
            *p = ' ';
}

/* SQLite's own check of pages, indexes and constraints; the first complaint is kept. */
static void check_pages(struct db *d, struct sessions_health *h, bool *flag, const char *what)
{
    sqlite3_stmt *q;
    struct err e;
    bool row = false;
    if (db_query(d, &e, &q, "PRAGMA integrity_check(1)", "") != OK) {
        found(h, flag, what, e.text);
        return;
    }
    if (db_next(d, q, &row, &e) != OK) {
        found(h, flag, what, e.text);
    } else if (row) {
        char *said = db_text(q, 0, NULL);
        if (strcmp(said, "ok") != 0)
            found(h, flag, what, said);
        free(said);
    }
    db_done(q);
}

/* Queries that count what must not exist. */
static void check_none(struct db *d, struct sessions_health *h, bool *flag, const char *what,
                       const char *sql)
{
    struct err e;
    int64_t n = 0;
    if (db_int(d, &e, &n, sql, "") != OK)
        found(h, flag, what, e.text);
    else if (n > 0)
        found(h, flag, what, "rows that fit nothing");
}

static void check_index(struct db *d, struct sessions_health *h)
{
    struct err e;
    static const char *const sql[] = {
        "INSERT INTO message_fts (message_fts, rank) VALUES ('integrity-check', 1)",
        "INSERT INTO title_fts (title_fts, rank) VALUES ('integrity-check', 1)",
    };
    for (int i = 0; i < 2; i++)
        if (db_do(d, &e, sql[i], "") != OK)
            found(h, &h->text_ok, "search index", e.text);
}

static void check_text(struct sessions *s, struct db *d, struct sessions_health *h)
{
    struct err e;
    check_pages(d, h, &h->text_ok, "conversations");
    check_none(d, h, &h->text_ok, "leaves",
               "SELECT count(*) FROM conversation WHERE leaf IS NOT NULL"
               " AND leaf NOT IN (SELECT id FROM message)");
    check_none(d, h, &h->text_ok, "messages without a parent",
               "SELECT count(*) FROM message WHERE parent IS NOT NULL"
               " AND (parent >= id OR parent NOT IN (SELECT id FROM message))");
    check_none(d, h, &h->text_ok, "messages without a conversation",
               "SELECT count(*) FROM message WHERE home NOT IN (SELECT id FROM conversation)");
    check_none(d, h, &h->text_ok, "token ids",
               "SELECT count(*) FROM message WHERE ifnull(length(ids), 0) <> 4 * n_id");
    h->n_conversation = h->n_message = -1;
    db_int(d, &e, &h->n_conversation, "SELECT count(*) FROM conversation", "");
    db_int(d, &e, &h->n_message, "SELECT count(*) FROM message", "");
    int64_t version = 0;
    if (db_int(d, &e, &version, "PRAGMA user_version", "") == OK)
        h->schema = (int32_t)version;
    h->application = STORE_APPLICATION_ID;
    if (!s->read_only)
        check_index(d, h);
}

static void repair_text(struct db *d, struct sessions_health *h)
{
    struct err e;
    static const char *const sql[] = {
        "INSERT INTO message_fts (message_fts) VALUES ('rebuild')",
        "INSERT INTO title_fts (title_fts) VALUES ('rebuild')",
        /* Rebuilding indexes every message, those that still stream as well. */
        "UPDATE message SET indexed = 1 WHERE indexed = 0",
        "REINDEX",
        /* After a rescue: what lost its question begins a branch, what lost its conversation gets one. */
        "UPDATE message SET parent = NULL WHERE parent IS NOT NULL"
        " AND (parent >= id OR parent NOT IN (SELECT id FROM message))",
        "INSERT INTO conversation (id, tree, leaf, created_ms, updated_ms, title)"
        " SELECT home, home, max(id), min(created_ms), max(created_ms), 'Rescued' FROM message"
        " WHERE home NOT IN (SELECT id FROM conversation) GROUP BY home",
        "UPDATE conversation SET leaf = (SELECT max(id) FROM message WHERE home = conversation.id)"
        " WHERE leaf IS NOT NULL AND leaf NOT IN (SELECT id FROM message)",
        "UPDATE message SET ids = NULL, n_id = 0 WHERE ifnull(length(ids), 0) <> 4 * n_id",
    };
    for (size_t i = 0; i < sizeof sql / sizeof *sql; i++)
        if (db_do(d, &e, sql[i], "") != OK)
            found(h, &h->text_ok, "repair", e.text);
}

static void check_kv(struct sessions *s, struct db *d, struct sessions_health *h)
{
    check_pages(d, h, &h->kv_ok, "KV");
    if (h->kv_ok)
        kvstore_verify(s, d, h->detail, sizeof h->detail, &h->kv_ok);
}

static enum status run_check(struct sessions *s, struct command *c, struct err *e)
{
    struct sessions_health *h = c->more;
    struct db *kv = kvstore_writer(s->kv);
    check_text(s, s->w, h);
    if (kv)
        check_kv(s, kv, h);
    if (!c->number)
        return OK;
    if (!h->text_ok)
        repair_text(s->w, h);
    if (!h->kv_ok && kv)
        TRY(kvstore_repair(s, e));
    /* What is true afterwards; the first problem found stays in detail. */
    char was[sizeof h->detail];
    memcpy(was, h->detail, sizeof was);
    h->text_ok = h->kv_ok = true;
    check_text(s, s->w, h);
    kv = kvstore_writer(s->kv);
    if (kv)
        check_kv(s, kv, h);
    if (was[0])
        memcpy(h->detail, was, sizeof was);
    return OK;
}

enum status sessions_check(struct sessions *s, bool repair, struct sessions_health *ret,
                           struct err *e)
{
    struct sessions_health h = {.text_ok = true, .kv_ok = true};
    enum status st = OK;
    if (s->writer) {
        struct command c = {.run = run_check, .bare = true, .number = repair, .more = &h};
        writer_drain(s, WRITER_KV);
        st = writer_call(s, &c, e);
    } else {
        store_read_begin(s);
        check_text(s, s->r, &h);
        store_read_end(s);
    }
    if (st != OK)
        return st;
    struct statvfs v;
    h.db_bytes = file_bytes(s->path);
    h.kv_db_bytes = s->kv ? file_bytes(s->kv->path) : 0;
    if (statvfs(s->path, &v) == 0)
        h.free_disk_bytes = (int64_t)v.f_bavail * (int64_t)v.f_frsize;
    *ret = h;
    return OK;
}
