#include "sessions/copy.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

void copies_fini(struct copies *c)
{
    for (int32_t i = 0; i < c->n; i++) {
        struct copy *one = &c->all[i];
        for (int32_t k = 0; k < one->n_message; k++) {
            free(one->messages[k].text);
            free(one->messages[k].ids);
        }
        free(one->messages);
        free(one->title);
        free(one->model);
    }
    free(c->all);
    *c = (struct copies){0};
}

struct copy *copies_add(struct copies *c)
{
    if ((c->n & (c->n - 1)) == 0) /* grows when the count is a power of two */
        c->all = mem_realloc(c->all, (size_t)(c->n ? c->n * 2 : 1) * sizeof *c->all);
    struct copy *one = &c->all[c->n++];
    *one = (struct copy){.leaf = -1};
    return one;
}

struct copy_message *copy_add(struct copy *c)
{
    if ((c->n_message & (c->n_message - 1)) == 0)
        c->messages = mem_realloc(c->messages, (size_t)(c->n_message ? c->n_message * 2 : 1) *
                                                   sizeof *c->messages);
    struct copy_message *m = &c->messages[c->n_message++];
    *m = (struct copy_message){.parent = -1, .done = true};
    return m;
}

int32_t copy_find(const struct copy *c, int64_t id)
{
    int32_t lo = 0, hi = c->n_message;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (c->messages[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < c->n_message && c->messages[lo].id == id ? lo : -1;
}

/* ---- from the store ---- */

static void copy_word(char *dst, size_t cap, sqlite3_stmt *q, int col)
{
    size_t n;
    char *p = db_text(q, col, &n);
    if (n > cap - 1)
        n = cap - 1;
    memcpy(dst, p, n);
    dst[n] = '\0';
    free(p);
}

static enum status load_head(struct db *d, int64_t id, struct copy *c, int64_t *ret_leaf,
                             struct err *e)
{
    sqlite3_stmt *q;
    bool row = false;
    TRY(db_query(d, e, &q,
                 "SELECT title, model, created_ms, updated_ms, pinned, leaf FROM conversation"
                 " WHERE id = ?",
                 "i", id));
    enum status st = db_next(d, q, &row, e);
    if (st == OK && !row)
        st = err_set(e, ERR_NOT_FOUND, "no conversation %lld: see `dogear list`", (long long)id);
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

static void load_message(struct copy *c, sqlite3_stmt *q)
{
    struct copy_message *m = copy_add(c);
    m->id = sqlite3_column_int64(q, 0);
    m->created_ms = sqlite3_column_int64(q, 2);
    m->done = sqlite3_column_int(q, 3) != 0;
    copy_word(m->role, sizeof m->role, q, 4);
    copy_word(m->stop, sizeof m->stop, q, 5);
    m->text = db_text(q, 6, &m->len);
    size_t n;
    char *ids = db_text(q, 7, &n);
    if (n && n % sizeof *m->ids == 0) {
        m->ids = (int32_t *)(void *)ids;
        m->n_id = (int32_t)(n / sizeof *m->ids);
    } else {
        free(ids);
    }
    m->vocab = (uint64_t)sqlite3_column_int64(q, 8);
    m->parent = copy_find(c, sqlite3_column_int64(q, 1));
}

enum status copy_load(struct db *d, int64_t conversation, struct copy *ret, struct err *e)
{
    sqlite3_stmt *q;
    bool row = true;
    int64_t leaf = 0;
    TRY(load_head(d, conversation, ret, &leaf, e));
    TRY(db_query(d, e, &q,
                 "WITH RECURSIVE up (id, parent) AS (SELECT m.id, m.parent FROM conversation c"
                 "  JOIN message m ON m.id = c.base WHERE c.id = ?1"
                 " UNION ALL SELECT m.id, m.parent FROM up JOIN message m"
                 "  ON m.id = up.parent AND m.id < up.id)"
                 " SELECT id, parent, created_ms, done, role, stop, text, ids, vocab"
                 " FROM message"
                 " WHERE home = ?1 OR id IN (SELECT id FROM up) ORDER BY id",
                 "i", conversation));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row)
        load_message(ret, q);
    db_done(q);
    if (st == OK && leaf)
        ret->leaf = copy_find(ret, leaf);
    return st;
}

/* ---- into a store ---- */

static enum status insert_messages(struct db *d, const struct copy *c, int64_t home, int64_t *rows,
                                   struct err *e)
{
    for (int32_t i = 0; i < c->n_message; i++) {
        const struct copy_message *m = &c->messages[i];
        TRY(db_do(
            d, e,
            "INSERT INTO message (parent, home, created_ms, n_id, done, role, stop, text, ids,"
            " vocab) VALUES (nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            "iiiiittsbi", m->parent >= 0 ? rows[m->parent] : (int64_t)0, home, m->created_ms,
            (int64_t)m->n_id, (int64_t)m->done, m->role, m->stop, m->text, m->len, m->ids,
            (size_t)m->n_id * sizeof *m->ids, (int64_t)m->vocab));
        rows[i] = sqlite3_last_insert_rowid(db_handle(d));
    }
    return OK;
}

enum status copy_insert(struct db *d, const struct copy *c, int64_t *ret_id, struct err *e)
{
    TRY(db_do(d, e,
              "INSERT INTO conversation (tree, pinned, created_ms, updated_ms, model, title)"
              " VALUES (0, ?, ?, ?, ?, ?)",
              "iiitt", (int64_t)c->pinned, c->created_ms, c->updated_ms, c->model ? c->model : "",
              c->title ? c->title : ""));
    int64_t id = sqlite3_last_insert_rowid(db_handle(d));
    int64_t *rows = mem_calloc((size_t)c->n_message + 1, sizeof *rows);
    enum status st = insert_messages(d, c, id, rows, e);
    if (st == OK)
        st = db_do(d, e, "UPDATE conversation SET tree = id, leaf = nullif(?, 0) WHERE id = ?",
                   "ii", c->leaf >= 0 ? rows[c->leaf] : (int64_t)0, id);
    free(rows);
    if (st == OK)
        *ret_id = id;
    return st;
}
