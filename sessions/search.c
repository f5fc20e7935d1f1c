/* Full-text search over titles and messages. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "sessions/store.h"

/* Turns what a person typed into an FTS5 expression in which nothing is an operator: every word is
 * a quoted string, strings are ANDed; "quoted words" stay a phrase; the last word may be a prefix.
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

/* What was found of an answer may begin with the mark of its thoughts: no words of anybody. */
static void drop_mark(char *snippet)
{
    static const char mark[] = "<think>";
    if (snippet && strncmp(snippet, mark, strlen(mark)) == 0) {
        const char *rest = snippet + strlen(mark);
        rest += strspn(rest, " \n");
        memmove(snippet, rest, strlen(rest) + 1);
    }
}

/* Adds the row of a query that starts with LIST_COLUMNS, message. Takes the snippet. */
static enum status hits_add(struct sessions *s, struct hits *h, sqlite3_stmt *q, char *snippet,
                            struct err *e)
{
    h->rows = mem_realloc(h->rows, (size_t)(h->n + 1) * sizeof *h->rows);
    struct sessions_row *r = &h->rows[h->n];
    enum status st = list_row(s, q, r, e);
    if (st != OK) {
        free(snippet);
        return st;
    }
    r->message = sqlite3_column_int64(q, 7);
    drop_mark(snippet);
    r->snippet = snippet;
    h->n++;
    return OK;
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
        st = hits_add(s, h, q, db_text(q, 8, NULL), e);
        if (st != OK)
            break;
    }
    db_done(q);
    return st;
}

/* ---- scripts without spaces between words ---- */

/* Thai to Khmer, then everything from the CJK radicals on: there the index takes a whole sentence
 * for one word, and only looking through the text finds a part of it. */
static bool unspaced(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += (size_t)utf8_decode(s + i, n - i, &cp);
        if ((cp >= 0xe00 && cp < 0x1100) || (cp >= 0x1780 && cp < 0x1800) ||
            (cp >= 0x2e80 && cp < 0xa4d0) || (cp >= 0xac00 && cp < 0xd7b0) ||
            (cp >= 0xf900 && cp < 0xfb00) || (cp >= 0x20000 && cp < 0x33480))
            return true;
    }
    return false;
}

/* The text around at[0..n), some 40 bytes either side, cut between characters. */
static char *snippet_around(const char *text, size_t len, size_t at, size_t n)
{
    struct str out = {0};
    size_t from = at > 40 ? at - 40 : 0, to = len - at - n > 40 ? at + n + 40 : len;
    while (from > 0 && from < at && ((unsigned char)text[from] & 0xc0) == 0x80)
        from++;
    while (to < len && to > at + n && ((unsigned char)text[to] & 0xc0) == 0x80)
        to--;
    str_adds(&out, from ? "…" : "");
    str_add(&out, text + from, at - from);
    str_addc(&out, '\x02');
    str_add(&out, text + at, n);
    str_addc(&out, '\x03');
    str_add(&out, text + at + n, to - at - n);
    str_adds(&out, to < len ? "…" : "");
    return str_take(&out);
}

/* Whether every word of the query is in the text as it stands. */
static bool has_words(const char *query, const char *text, size_t len)
{
    for (const char *p = query;;) {
        p += strspn(p, " \t\r\n\f\v\"");
        size_t n = strcspn(p, " \t\r\n\f\v\"");
        if (n == 0)
            return true;
        if (!memmem(text, len, p, n))
            return false;
        p += n;
    }
}

static enum status collect_unspaced(struct sessions *s, struct hits *h, const char *query,
                                    struct err *e)
{
    const char *word = query;
    size_t n = 0;
    for (;;) {
        word += n;
        word += strspn(word, " \t\r\n\f\v\"");
        n = strcspn(word, " \t\r\n\f\v\"");
        if (n == 0)
            return OK;
        if (unspaced(word, n))
            break;
    }
    sqlite3_stmt *q;
    bool row = true;
    TRY(db_query(s->r, e, &q,
                 "SELECT " LIST_COLUMNS ", m.id, m.text FROM message m"
                 " CROSS JOIN conversation c ON c.id = m.home WHERE instr(m.text, ?)"
                 " ORDER BY m.id DESC",
                 "s", word, n));
    enum status st = OK;
    while (h->n < h->limit && (st = db_next(s->r, q, &row, e)) == OK && row) {
        size_t len;
        char *text = db_text(q, 8, &len);
        const char *at = memmem(text, len, word, n);
        if (at && has_words(query, text, len) && !hits_has(h, sqlite3_column_int64(q, 0)))
            st = hits_add(s, h, q, snippet_around(text, len, (size_t)(at - text), n), e);
        free(text);
        if (st != OK)
            break;
    }
    db_done(q);
    return st;
}

static enum status search(struct sessions *s, const char *query, const char *match, struct hits *h,
                          struct err *e)
{
    TRY(collect(s, h,
                "SELECT " LIST_COLUMNS ", 0, highlight(title_fts, 0, char(2), char(3))"
                " FROM title_fts JOIN conversation c ON c.id = title_fts.rowid"
                " WHERE title_fts MATCH ? ORDER BY title_fts.rank, c.updated_ms DESC",
                match, e));
    TRY(collect(s, h,
                "SELECT " LIST_COLUMNS ", m.id,"
                " snippet(message_fts, 0, char(2), char(3), '…', 16)"
                " FROM message_fts JOIN message m ON m.id = message_fts.rowid"
                " JOIN conversation c ON c.id = m.home"
                " WHERE message_fts MATCH ? ORDER BY message_fts.rank",
                match, e));
    return collect_unspaced(s, h, query, e);
}

enum status sessions_search(struct sessions *s, const char *query, int32_t limit,
                            struct sessions_row **ret, int32_t *ret_n, struct err *e)
{
    struct str match = {0};
    struct hits h = {.limit = limit > 0 ? limit : INT32_MAX};
    enum status st = OK;
    if (expression(query, &match)) {
        store_read_begin(s);
        st = search(s, query, str_c(&match), &h, e);
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
