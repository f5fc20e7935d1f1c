/* Conversations as trees: the open branch, alternatives, forks, deleting what no branch uses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/kvstore.h"
#include "sessions/store.h"
#include "sessions/writer.h"

/* The chain from ?1 to the first message. A child's id is greater than its parent's: the condition
 * ends the walk on damaged rows. */
#define UP(start)                                                                                  \
    "up (id, parent) AS (SELECT id, parent FROM message WHERE id = " start                         \
    " UNION ALL SELECT m.id, m.parent FROM up JOIN message m"                                      \
    "  ON m.id = up.parent AND m.id < up.id)"

/* ---- what a conversation sees ---- */

enum status tree_shared_load(struct db *d, int64_t conversation, struct tree_shared *ret,
                             struct err *e)
{
    struct tree_shared t = {0};
    sqlite3_stmt *q;
    int32_t cap = 0;
    bool row = true;
    TRY(db_query(d, e, &q,
                 "WITH RECURSIVE " UP("(SELECT base FROM conversation WHERE id = ?1)")
                 " SELECT id FROM up ORDER BY id",
                 "i", conversation));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (t.n == cap) {
            cap = cap ? cap * 2 : 64;
            t.ids = mem_realloc(t.ids, (size_t)cap * sizeof *t.ids);
        }
        t.ids[t.n++] = sqlite3_column_int64(q, 0);
    }
    db_done(q);
    if (st != OK) {
        tree_shared_fini(&t);
        return st;
    }
    *ret = t;
    return OK;
}

void tree_shared_fini(struct tree_shared *t)
{
    free(t->ids);
    *t = (struct tree_shared){0};
}

static bool shared_has(const struct tree_shared *t, int64_t message)
{
    int32_t lo = 0, hi = t->n;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo) / 2;
        if (t->ids[mid] < message)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->n && t->ids[lo] == message;
}

/* Home of a message; ERR_NOT_FOUND when there is none. */
static enum status message_home(struct db *d, int64_t message, int64_t *ret, struct err *e)
{
    enum status st = db_int(d, e, ret, "SELECT home FROM message WHERE id = ?", "i", message);
    if (st == ERR_NOT_FOUND)
        return err_set(e, st, "no message %lld", (long long)message);
    return st;
}

enum status tree_expect_visible(struct db *d, int64_t conversation, int64_t message, struct err *e)
{
    int64_t home, one;
    enum status st =
        db_int(d, e, &one, "SELECT 1 FROM conversation WHERE id = ?", "i", conversation);
    if (st == ERR_NOT_FOUND)
        return err_set(e, st, "no conversation %lld: see `dogear list`", (long long)conversation);
    TRY(st);
    if (message == 0)
        return OK;
    TRY(message_home(d, message, &home, e));
    if (home == conversation)
        return OK;
    struct tree_shared shared;
    TRY(tree_shared_load(d, conversation, &shared, e));
    bool seen = shared_has(&shared, message);
    tree_shared_fini(&shared);
    if (!seen)
        return err_set(e, ERR_NOT_FOUND, "message %lld is not in conversation %lld",
                       (long long)message, (long long)conversation);
    return OK;
}

/* ---- alternatives ---- */

enum status tree_alternatives_load(struct db *d, int64_t conversation,
                                   const struct tree_shared *shared, int64_t parent,
                                   struct tree_alternatives *ret, struct err *e)
{
    struct tree_alternatives a = {0};
    sqlite3_stmt *q;
    int32_t cap = 0;
    bool row = true;
    TRY(parent ? db_query(d, e, &q, "SELECT id, home FROM message WHERE parent = ? ORDER BY id",
                          "i", parent)
               : db_query(d, e, &q,
                          "SELECT id, home FROM message WHERE parent IS NULL AND home = ?1"
                          " UNION SELECT id, home FROM message WHERE id = ?2 ORDER BY id",
                          "ii", conversation, shared->n ? shared->ids[0] : (int64_t)0));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        int64_t id = sqlite3_column_int64(q, 0);
        if (sqlite3_column_int64(q, 1) != conversation && !shared_has(shared, id))
            continue;
        if (a.n == cap) {
            cap = cap ? cap * 2 : 8;
            a.ids = mem_realloc(a.ids, (size_t)cap * sizeof *a.ids);
        }
        a.ids[a.n++] = id;
    }
    db_done(q);
    if (st != OK) {
        free(a.ids);
        return st;
    }
    *ret = a;
    return OK;
}

void tree_alternatives_fini(struct tree_alternatives *a)
{
    free(a->ids);
    *a = (struct tree_alternatives){0};
}

int32_t tree_alternatives_index(const struct tree_alternatives *a, int64_t message)
{
    for (int32_t i = 0; i < a->n; i++)
        if (a->ids[i] == message)
            return i;
    return -1;
}

static enum status sibling(struct db *d, int64_t conversation, int64_t message, int32_t step,
                           int64_t *ret, struct err *e)
{
    int64_t parent;
    struct tree_shared shared;
    struct tree_alternatives a;
    TRY(tree_expect_visible(d, conversation, message, e));
    TRY(db_int(d, e, &parent, "SELECT parent FROM message WHERE id = ?", "i", message));
    TRY(tree_shared_load(d, conversation, &shared, e));
    enum status st = tree_alternatives_load(d, conversation, &shared, parent, &a, e);
    tree_shared_fini(&shared);
    TRY(st);
    int64_t at = tree_alternatives_index(&a, message), to = at + step;
    *ret = at >= 0 && to >= 0 && to < a.n ? a.ids[to] : 0;
    tree_alternatives_fini(&a);
    return OK;
}

enum status sessions_sibling(struct sessions *s, int64_t id, int64_t message, int32_t step,
                                int64_t *ret, struct err *e)
{
    store_read_begin(s);
    enum status st = sibling(s->r, id, message, step, ret, e);
    store_read_end(s);
    return st;
}

/* ---- the open branch ---- */

static enum status run_set_leaf(struct sessions *s, struct command *c, struct err *e)
{
    int64_t leaf = c->message;
    TRY(tree_expect_visible(s->w, c->conversation, leaf, e));
    if (!leaf)
        return db_do(s->w, e, "UPDATE conversation SET leaf = NULL WHERE id = ?", "i",
                     c->conversation);
    /* The newest descendant has the greatest id, so it has no children itself. */
    if (!c->number)
        TRY(db_int(s->w, e, &leaf,
                   "WITH RECURSIVE " UP("(SELECT base FROM conversation WHERE id = ?1)") ","
                   " down (id) AS (SELECT ?2 UNION ALL SELECT m.id FROM down JOIN message m"
                   "  ON m.parent = down.id WHERE m.id > down.id"
                   "  AND (m.home = ?1 OR m.id IN (SELECT id FROM up)))"
                   " SELECT max(id) FROM down",
                   "ii", c->conversation, c->message));
    return db_do(s->w, e, "UPDATE conversation SET leaf = ? WHERE id = ?", "ii", leaf,
                 c->conversation);
}

enum status sessions_set_leaf(struct sessions *s, int64_t id, int64_t message, bool exact,
                              struct err *e)
{
    struct command c = {.run = run_set_leaf, .conversation = id, .message = message,
                        .number = exact};
    return writer_call(s, &c, e);
}

/* ---- forks ---- */

/* What tells a fork from its origin in a list: "Title (2)", and of a fork that is called so "Title (3)", or the
 * next number that no conversation has. */
static enum status name_fork(struct db *d, int64_t origin, int64_t fork, struct err *e)
{
    sqlite3_stmt *q;
    bool row = false, forked = false;
    char *title = NULL;
    int n, end = 0;
    TRY(db_query(d, e, &q, "SELECT title, base IS NOT NULL FROM conversation WHERE id = ?", "i", origin));
    enum status st = db_next(d, q, &row, e);
    if (st == OK && row) {
        title = db_text(q, 0, NULL);
        forked = sqlite3_column_int(q, 1);
    }
    db_done(q);
    char *mark = title && forked ? strrchr(title, '(') : NULL;
    if (mark && mark > title && mark[-1] == ' ' && sscanf(mark, "(%6d)%n", &n, &end) == 1 && end && !mark[end] &&
        n > 1)
        mark[-1] = '\0';
    else
        n = 1;
    int64_t taken = title && title[0];
    struct str name = {0};
    while (st == OK && taken) {
        str_clear(&name);
        str_addf(&name, "%s (%d)", title, ++n);
        st = db_int(d, e, &taken, "SELECT EXISTS (SELECT 1 FROM conversation WHERE title = ?)", "t", str_c(&name));
    }
    if (st == OK && name.len)
        st = db_do(d, e, "UPDATE conversation SET title = ? WHERE id = ?", "ti", str_c(&name), fork);
    str_fini(&name);
    free(title);
    return st;
}

static enum status run_fork(struct sessions *s, struct command *c, struct err *e)
{
    int64_t now = clock_unix_ms();
    TRY(tree_expect_visible(s->w, c->conversation, c->message, e));
    TRY(db_do(s->w, e,
              "INSERT INTO conversation (tree, base, leaf, created_ms, updated_ms, model)"
              " SELECT tree, ?2, ?2, ?3, ?3, model FROM conversation WHERE id = ?1",
              "iii", c->conversation, c->message, now));
    c->ret = sqlite3_last_insert_rowid(db_handle(s->w));
    TRY(name_fork(s->w, c->conversation, c->ret, e));
    return db_int(s->w, e, &c->number,
                  "WITH RECURSIVE " UP("?1") " SELECT total(n_id) FROM message"
                  " WHERE id IN (SELECT id FROM up)",
                  "i", c->message);
}

enum status sessions_fork(struct sessions *s, int64_t id, int64_t message, int64_t *ret_id,
                          struct err *e)
{
    if (message <= 0)
        return err_set(e, ERR_USAGE, "cannot fork at message %lld: choose one of the conversation",
                       (long long)message);
    struct command c = {.run = run_fork, .conversation = id, .message = message};
    TRY(writer_call(s, &c, e));
    kvstore_fork(s, id, c.ret, c.number);
    *ret_id = c.ret;
    return OK;
}

/* ---- deleting ---- */

/* Rows that a fork still needs get a new home: the oldest fork that shares them. It saw them
 * before, so no conversation sees more or less than it did. */
static enum status rehome(struct sessions *s, int64_t gone, int64_t tree, struct err *e)
{
    for (;;) {
        int64_t heir;
        enum status st =
            db_int(s->w, e, &heir,
                   "SELECT c.id FROM conversation c WHERE c.tree = ?2 AND c.id <> ?1"
                   " AND EXISTS (WITH RECURSIVE " UP("c.base")
                   "  SELECT 1 FROM up JOIN message m ON m.id = up.id WHERE m.home = ?1)"
                   " ORDER BY c.id LIMIT 1",
                   "ii", gone, tree);
        if (st == ERR_NOT_FOUND)
            return OK;
        TRY(st);
        TRY(db_do(s->w, e,
                  "UPDATE message SET home = ?2 WHERE home = ?1 AND id IN (WITH RECURSIVE "
                  UP("(SELECT base FROM conversation WHERE id = ?2)") " SELECT id FROM up)",
                  "ii", gone, heir));
    }
}

static enum status run_delete(struct sessions *s, struct command *c, struct err *e)
{
    int64_t tree, id = c->conversation;
    enum status st =
        db_int(s->w, e, &tree, "SELECT tree FROM conversation WHERE id = ?", "i", id);
    if (st == ERR_NOT_FOUND)
        return err_set(e, st, "no conversation %lld: see `dogear list`", (long long)id);
    TRY(st);
    TRY(rehome(s, id, tree, e));
    TRY(db_do(s->w, e, "DELETE FROM conversation WHERE id = ?", "i", id));
    s->deleted = true;
    return db_do(s->w, e, "DELETE FROM message WHERE home = ?", "i", id);
}

enum status sessions_delete(struct sessions *s, int64_t id, struct err *e)
{
    struct command c = {.run = run_delete, .conversation = id};
    TRY(writer_call(s, &c, e));
    kvstore_forget(s, id);
    return OK;
}
