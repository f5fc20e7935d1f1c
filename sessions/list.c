/* Conversations as rows: list, one by id, create, rename, pin. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/kvstore.h"
#include "sessions/store.h"
#include "sessions/writer.h"

void sessions_rows_free(struct sessions_row *rows, int32_t n)
{
    for (int32_t i = 0; rows && i < n; i++) {
        free(rows[i].title);
        free(rows[i].model);
        free(rows[i].snippet);
    }
    free(rows);
}

/* Counts the open branch: from the leaf up. Where it went on with another model, that one's tokens
 * stand for all messages before, too: those of the model before are not added. Where no ids are known
 * nobody has read the branch yet. */
static enum status count_path(struct db *d, int64_t leaf, struct sessions_row *row, struct err *e)
{
    sqlite3_stmt *q = NULL;
    bool got = false;
    enum status st =
        db_query(d, e, &q,
                 "WITH RECURSIVE up (id, parent, n_id, vocab, last) AS ("
                 " SELECT id, parent, n_id, vocab, vocab FROM message WHERE id = ?1"
                 " UNION ALL SELECT m.id, m.parent, m.n_id, m.vocab,"
                 "  iif(up.last = 0, m.vocab, up.last) FROM up JOIN message m"
                 "  ON m.id = up.parent AND m.id < up.id)"
                 " SELECT count(*), total(iif(vocab IN (0, last), n_id, 0)), max(n_id) FROM up",
                 "i", leaf);
    if (st == OK)
        st = db_next(d, q, &got, e);
    if (st == OK && got) {
        row->n_message = sqlite3_column_int(q, 0);
        row->n_tok = row->n_message > 0 && sqlite3_column_int(q, 2) == 0 ? -1 : sqlite3_column_int(q, 1);
    }
    db_done(q);
    return st;
}

enum status list_row(struct sessions *s, sqlite3_stmt *st, struct sessions_row *ret, struct err *e)
{
    *ret = (struct sessions_row){
        .id = sqlite3_column_int64(st, 0),
        .title = db_text(st, 1, NULL),
        .model = db_text(st, 2, NULL),
        .created_ms = sqlite3_column_int64(st, 3),
        .updated_ms = sqlite3_column_int64(st, 4),
        .pinned = sqlite3_column_int(st, 5) != 0,
    };
    enum status status = count_path(s->r, sqlite3_column_int64(st, 6), ret, e);
    if (status == OK)
        status = thin_sizes(s, ret->id, ret->tier_bytes, &ret->state_bytes, e);
    ret->kv_bytes = ret->state_bytes;
    for (int i = 0; i < SESSIONS_TIERS; i++)
        ret->kv_bytes += ret->tier_bytes[i];
    if (s->read_only)
        ret->kv_bytes = -1;
    if (status != OK) {
        free(ret->title);
        free(ret->model);
    }
    return status;
}

static enum status list(struct sessions *s, int32_t limit, struct sessions_row **ret,
                        int32_t *ret_n, struct err *e)
{
    sqlite3_stmt *q;
    struct sessions_row *rows = NULL;
    int32_t n = 0, cap = 0;
    bool more = true;
    TRY(db_query(s->r, e, &q,
                 "SELECT " LIST_COLUMNS " FROM conversation c"
                 " ORDER BY c.updated_ms DESC, c.id DESC LIMIT ?",
                 "i", (int64_t)(limit > 0 ? limit : -1)));
    enum status st = OK;
    while (st == OK && (st = db_next(s->r, q, &more, e)) == OK && more) {
        if (n == cap) {
            cap = cap ? cap * 2 : 32;
            rows = mem_realloc(rows, (size_t)cap * sizeof *rows);
        }
        st = list_row(s, q, &rows[n], e);
        n += st == OK;
    }
    db_done(q);
    if (st != OK) {
        sessions_rows_free(rows, n);
        return st;
    }
    *ret = rows;
    *ret_n = n;
    return OK;
}

enum status sessions_list(struct sessions *s, int32_t limit, struct sessions_row **ret,
                          int32_t *ret_n, struct err *e)
{
    store_read_begin(s);
    enum status st = list(s, limit, ret, ret_n, e);
    store_read_end(s);
    return st;
}

enum status sessions_get(struct sessions *s, int64_t id, struct sessions_row *ret, struct err *e)
{
    sqlite3_stmt *q = NULL;
    bool row = false;
    struct sessions_row got;
    store_read_begin(s);
    enum status st = db_query(
        s->r, e, &q, "SELECT " LIST_COLUMNS " FROM conversation c WHERE c.id = ?", "i", id);
    if (st == OK)
        st = db_next(s->r, q, &row, e);
    if (st == OK && !row)
        st = err_set(e, ERR_NOT_FOUND, "no conversation %lld: see `dogear list`", (long long)id);
    if (st == OK)
        st = list_row(s, q, &got, e);
    db_done(q);
    store_read_end(s);
    if (st == OK)
        *ret = got;
    return st;
}

/* ---- writing ---- */

enum status list_create(struct sessions *s, struct command *c, struct err *e)
{
    int64_t now = clock_unix_ms();
    TRY(db_do(s->w, e,
              "INSERT INTO conversation (tree, created_ms, updated_ms, model)"
              " VALUES (0, ?1, ?1, ?2)",
              "it", now, c->word));
    c->ret = sqlite3_last_insert_rowid(db_handle(s->w));
    return db_do(s->w, e, "UPDATE conversation SET tree = id WHERE id = ?", "i", c->ret);
}

enum status sessions_create(struct sessions *s, const char *model, int64_t *ret_id, struct err *e)
{
    struct command c = {.run = list_create, .word = model ? model : ""};
    TRY(writer_call(s, &c, e));
    *ret_id = c.ret;
    return OK;
}

/* After an UPDATE by id: nothing changed means that it does not exist. */
static enum status expect_changed(struct sessions *s, int64_t id, struct err *e)
{
    if (sqlite3_changes(db_handle(s->w)) > 0)
        return OK;
    return err_set(e, ERR_NOT_FOUND, "no conversation %lld: see `dogear list`", (long long)id);
}

static enum status run_rename(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->w, e, "UPDATE conversation SET title = ? WHERE id = ?", "ti", c->word,
              c->conversation));
    return expect_changed(s, c->conversation, e);
}

enum status sessions_rename(struct sessions *s, int64_t id, const char *title, struct err *e)
{
    struct command c = {.run = run_rename, .conversation = id, .word = title ? title : ""};
    return writer_call(s, &c, e);
}

static enum status run_set_model(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->w, e, "UPDATE conversation SET model = ? WHERE id = ?", "ti", c->word,
              c->conversation));
    return expect_changed(s, c->conversation, e);
}

enum status sessions_set_model(struct sessions *s, int64_t id, const char *model, struct err *e)
{
    struct command c = {.run = run_set_model, .conversation = id, .word = model ? model : ""};
    return writer_call(s, &c, e);
}

static enum status run_pin(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->w, e, "UPDATE conversation SET pinned = ? WHERE id = ?", "ii", c->number,
              c->conversation));
    return expect_changed(s, c->conversation, e);
}

enum status sessions_pin(struct sessions *s, int64_t id, bool pinned, struct err *e)
{
    struct command c = {.run = run_pin, .conversation = id, .number = pinned};
    return writer_call(s, &c, e);
}
