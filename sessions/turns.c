/* What each turn of a conversation measured: one row beside the answer it made. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/store.h"
#include "sessions/writer.h"

void sessions_turns_free(struct sessions_turn *t, int32_t n)
{
    for (int32_t i = 0; t && i < n; i++) {
        free(t[i].figures);
        free(t[i].choices);
    }
    free(t);
}

static enum status load(struct db *d, int64_t id, struct sessions_turn **ret, int32_t *ret_n,
                        struct err *e)
{
    sqlite3_stmt *q;
    struct sessions_turn *all = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    TRY(tree_expect_visible(d, id, 0, e));
    TRY(db_query(d, e, &q,
                 "WITH RECURSIVE up (id, parent) AS (SELECT m.id, m.parent FROM conversation c"
                 "  JOIN message m ON m.id = c.leaf WHERE c.id = ?1"
                 " UNION ALL SELECT m.id, m.parent FROM up JOIN message m"
                 "  ON m.id = up.parent AND m.id < up.id)"
                 " SELECT t.message, t.at_ms, t.figures,"
                 "  CASE WHEN t.message = (SELECT max(id) FROM up) THEN t.choices END"
                 " FROM up JOIN turn t ON t.message = up.id ORDER BY t.message",
                 "i", id));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 16;
            all = mem_realloc(all, (size_t)cap * sizeof *all);
        }
        struct sessions_turn *t = &all[n++];
        *t = (struct sessions_turn){
            .message = sqlite3_column_int64(q, 0),
            .at_ms = sqlite3_column_int64(q, 1),
            .figures = db_text(q, 2, NULL),
        };
        int size = sqlite3_column_bytes(q, 3);
        if (size > 0) {
            t->choices_bytes = (size_t)size;
            t->choices = mem_alloc(t->choices_bytes);
            memcpy(t->choices, sqlite3_column_blob(q, 3), t->choices_bytes);
        }
    }
    db_done(q);
    if (st != OK) {
        sessions_turns_free(all, n);
        return st;
    }
    *ret = all;
    *ret_n = n;
    return OK;
}

enum status sessions_turns(struct sessions *s, int64_t id, struct sessions_turn **ret,
                           int32_t *ret_n, struct err *e)
{
    store_read_begin(s);
    enum status st = load(s->r, id, ret, ret_n, e);
    store_read_end(s);
    return st;
}

/* An answer that is no longer there has no figures to keep. */
static enum status run_put(struct sessions *s, struct command *c, struct err *e)
{
    return db_do(s->w, e,
                 "INSERT INTO turn (message, at_ms, figures, choices)"
                 " SELECT id, ?2, ?3, ?4 FROM message WHERE id = ?1"
                 " ON CONFLICT (message) DO UPDATE SET figures = excluded.figures,"
                 " choices = coalesce(excluded.choices, choices)",
                 "iisb", c->message, c->number, c->text, c->len, c->more, c->size_bytes);
}

void sessions_turn_put(struct sessions *s, int64_t message, const char *figures,
                       const void *choices, size_t choices_bytes)
{
    struct command c = {.run = run_put,
                        .lazy = true,
                        .message = message,
                        .number = clock_unix_ms(),
                        .text = figures,
                        .len = strlen(figures),
                        .more_free = free,
                        .size_bytes = choices_bytes};
    if (choices_bytes) {
        c.more = mem_alloc(choices_bytes);
        memcpy(c.more, choices, choices_bytes);
    }
    writer_post(s, &c);
}
