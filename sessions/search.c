/* Full-text search over titles and messages. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/store.h"

/* Turns what a person typed into an FTS5 expression in which nothing is an operator: every word is a
 * quoted string, strings are ANDed; "quoted words" stay a phrase; the last word may be a prefix.
 * Returns false when there is nothing to look for. */
static bool expression(const char *query, struct str *out)
{
    const char *p = query;
    bool any = false;
    for (;;) {
        while (*p && isspace((unsigned char)*p))
            p++;
        if (!*p)
            break;
        bool phrase = *p == '"' && strchr(p + 1, '"');
        p += *p == '"';
        size_t n = phrase ? (size_t)(strchr(p, '"') - p) : strcspn(p, " \t\r\n\f\v\"");
        bool word = false; /* a string without letters would match nothing */
        for (size_t i = 0; i < n; i++)
            word |= isalnum((unsigned char)p[i]) || (unsigned char)p[i] >= 0x80;
        if (word) {
            str_addc(out, '"');
            str_add(out, p, n);
            str_adds(out, "\" ");
            any = true;
        }
        p += n + phrase;
        if (word && !phrase && !*p)
            str_addc(out, '*');
    }
    return any;
}

struct hits {
    struct sessions_row *rows;
    int32_t n, limit;
};

static bool hits_has(const struct hits *h, int64_t conversation)
{
    for (int32_t i = 0; i < h->n; i++)
        if (h->rows[i].id == conversation)
            return true;
    return false;
}

/* Runs one query whose columns are LIST_COLUMNS, message, snippet; one row per conversation. */
static enum status collect(struct sessions *s, struct hits *h, const char *sql, const char *match,
                           struct err *e)
{
    sqlite3_stmt *q;
    bool row = true;
    TRY(db_query(s->r, e, &q, sql, "t", match));
    enum status st = OK;
    while (h->n < h->limit && (st = db_next(s->r, q, &row, e)) == OK && row) {
        if (hits_has(h, sqlite3_column_int64(q, 0)))
            continue;
        h->rows = mem_realloc(h->rows, (size_t)(h->n + 1) * sizeof *h->rows);
        struct sessions_row *r = &h->rows[h->n];
        st = list_row(s, q, r, e);
        if (st != OK)
            break;
        h->n++;
        r->message = sqlite3_column_int64(q, 7);
        r->snippet = db_text(q, 8, NULL);
    }
    db_done(q);
    return st;
}

static enum status search(struct sessions *s, const char *match, struct hits *h, struct err *e)
{
    TRY(collect(s, h,
                "SELECT " LIST_COLUMNS ", 0, highlight(title_fts, 0, char(2), char(3))"
                " FROM title_fts JOIN conversation c ON c.id = title_fts.rowid"
                " WHERE title_fts MATCH ? ORDER BY title_fts.rank, c.updated_ms DESC",
                match, e));
    return collect(s, h,
                   "SELECT " LIST_COLUMNS ", m.id,"
                   " snippet(message_fts, 0, char(2), char(3), '…', 16)"
                   " FROM message_fts JOIN message m ON m.id = message_fts.rowid"
                   " JOIN conversation c ON c.id = m.home"
                   " WHERE message_fts MATCH ? ORDER BY message_fts.rank",
                   match, e);
}

enum status sessions_search(struct sessions *s, const char *query, int32_t limit,
                            struct sessions_row **ret, int32_t *ret_n, struct err *e)
{
    struct str match = {0};
    struct hits h = {.limit = limit > 0 ? limit : INT32_MAX};
    enum status st = OK;
    if (expression(query, &match)) {
        store_read_begin(s);
        st = search(s, str_c(&match), &h, e);
        store_read_end(s);
    }
    str_fini(&match);
    if (st != OK) {
        sessions_rows_free(h.rows, h.n);
        return st;
    }
    *ret = h.rows;
    *ret_n = h.n;
    return OK;
}
