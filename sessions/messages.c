/* Messages: load the open branch, add, stream, finish. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/store.h"
#include "sessions/writer.h"

void sessions_messages_free(struct sessions_message *m, int32_t n)
{
    for (int32_t i = 0; m && i < n; i++) {
        free(m[i].text);
        free(m[i].ids);
    }
    free(m);
}

/* ---- loading ---- */

static void copy_word(char *dst, size_t cap, sqlite3_stmt *q, int col)
{
    const char *p = (const char *)sqlite3_column_text(q, col);
    int n = sqlite3_column_bytes(q, col);
    size_t k = n > 0 ? (size_t)n : 0;
    if (k > cap - 1)
        k = cap - 1;
    if (k)
        memcpy(dst, p, k);
    dst[k] = '\0';
}

/* Ids whose blob is no whole number of int32 are damaged and count as unknown. */
static void copy_ids(struct sessions_message *m, sqlite3_stmt *q, int col)
{
    const void *p = sqlite3_column_blob(q, col);
    int n = sqlite3_column_bytes(q, col);
    if (!p || n <= 0 || n % (int)sizeof(int32_t))
        return;
    m->ids = mem_alloc((size_t)n);
    memcpy(m->ids, p, (size_t)n);
    m->n_id = n / (int)sizeof(int32_t);
}

/* vocab: only ids of this one are wanted; 0 = all. */
static enum status load_rows(struct db *d, int64_t id, uint64_t vocab,
                             struct sessions_message **ret, int32_t *ret_n, struct err *e)
{
    sqlite3_stmt *q;
    struct sessions_message *all = NULL;
    int32_t n = 0, cap = 0;
    bool row = true;
    TRY(db_query(d, e, &q,
                 "WITH RECURSIVE up (id, parent) AS (SELECT m.id, m.parent FROM conversation c"
                 "  JOIN message m ON m.id = c.leaf WHERE c.id = ?1"
                 " UNION ALL SELECT m.id, m.parent FROM up JOIN message m"
                 "  ON m.id = up.parent AND m.id < up.id)"
                 " SELECT m.id, m.parent, m.role, m.text, m.ids, m.done, m.stop, m.created_ms,"
                 " m.vocab"
                 " FROM up CROSS JOIN message m ON m.id = up.id ORDER BY m.id",
                 "i", id));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 32;
            all = mem_realloc(all, (size_t)cap * sizeof *all);
        }
        struct sessions_message *m = &all[n++];
        *m = (struct sessions_message){
            .id = sqlite3_column_int64(q, 0),
            .parent = sqlite3_column_int64(q, 1),
            .done = sqlite3_column_int(q, 5) != 0,
            .created_ms = sqlite3_column_int64(q, 7),
            .n_sibling = 1,
        };
        copy_word(m->role, sizeof m->role, q, 2);
        m->text = db_text(q, 3, &m->len);
        uint64_t whose = (uint64_t)sqlite3_column_int64(q, 8);
        m->ours = whose == vocab && vocab != 0;
        if (m->ours || whose == 0 || vocab == 0)
            copy_ids(m, q, 4);
        copy_word(m->stop, sizeof m->stop, q, 6);
    }
    db_done(q);
    if (st != OK) {
        sessions_messages_free(all, n);
        return st;
    }
    *ret = all;
    *ret_n = n;
    return OK;
}

static enum status load(struct db *d, int64_t id, uint64_t vocab, struct sessions_message **ret,
                        int32_t *ret_n, struct err *e)
{
    struct sessions_message *m = NULL;
    struct tree_shared shared;
    int32_t n = 0;
    TRY(tree_expect_visible(d, id, 0, e));
    TRY(tree_shared_load(d, id, &shared, e));
    enum status st = load_rows(d, id, vocab, &m, &n, e);
    for (int32_t i = 0; st == OK && i < n; i++) {
        struct tree_alternatives a;
        st = tree_alternatives_load(d, id, &shared, m[i].parent, &a, e);
        if (st != OK)
            break;
        int32_t at = tree_alternatives_index(&a, m[i].id);
        if (at >= 0) {
            m[i].n_sibling = a.n;
            m[i].sibling = at;
        }
        tree_alternatives_fini(&a);
    }
    tree_shared_fini(&shared);
    if (st != OK) {
        sessions_messages_free(m, n);
        return st;
    }
    *ret = m;
    *ret_n = n;
    return OK;
}

/* ---- writing ---- */

static enum status run_add(struct sessions *s, struct command *c, struct err *e)
{
    int64_t now = clock_unix_ms(), done = strcmp(c->word, "assistant") != 0;
    TRY(tree_expect_visible(s->w, c->conversation, c->message, e));
    TRY(db_do(s->w, e,
              "INSERT INTO message (parent, home, created_ms, done, indexed, role, text)"
              " VALUES (nullif(?1, 0), ?2, ?3, ?4, ?4, ?5, ?6)",
              "iiiits", c->message, c->conversation, now, done, c->word, c->text, c->len));
    c->ret = sqlite3_last_insert_rowid(db_handle(s->w));
    if (!done)
        sessions_writing_begin(s, c->ret);
    return db_do(s->w, e, "UPDATE conversation SET leaf = ?, updated_ms = ? WHERE id = ?", "iii",
                 c->ret, now, c->conversation);
}

enum status sessions_add(struct sessions *s, int64_t id, int64_t parent, const char *role,
                         const char *text, size_t len, int64_t *ret_message, struct err *e)
{
    size_t n = strlen(role);
    if (n == 0 || n >= sizeof((struct sessions_message *)0)->role)
        return err_set(e, ERR_USAGE, "bad role \"%s\": use system, user or assistant", role);
    struct command c = {.run = run_add,
                        .conversation = id,
                        .message = parent,
                        .word = role,
                        .text = text,
                        .len = len};
    TRY(writer_call(s, &c, e));
    *ret_message = c.ret;
    return OK;
}

/* c->more: the system prompt; c->message: its id; ret: the conversation; number: the user's message. */
static enum status run_begin(struct sessions *s, struct command *c, struct err *e)
{
    const char *system = c->more;
    TRY(list_create(s, c, e));
    struct command add = {.conversation = c->ret, .word = "system", .text = system, .len = system ? strlen(system) : 0};
    if (system)
        TRY(run_add(s, &add, e));
    c->message = add.ret;
    add = (struct command){
        .conversation = c->ret, .message = c->message, .word = "user", .text = c->text, .len = c->len};
    TRY(run_add(s, &add, e));
    c->number = add.ret;
    return OK;
}

enum status sessions_begin(struct sessions *s, const char *model, const char *system, const char *text, size_t len,
                           int64_t *ret_id, int64_t ret_message[2], struct err *e)
{
    struct command c = {.run = run_begin, .word = model, .more = (void *)system, .text = text, .len = len};
    TRY(writer_call(s, &c, e));
    *ret_id = c.ret;
    ret_message[0] = c.message;
    ret_message[1] = c.number;
    return OK;
}

void sessions_set_vocab(struct sessions *s, uint64_t vocab)
{
    s->vocab = vocab;
}

static enum status run_set_ids(struct sessions *s, struct command *c, struct err *e)
{
    return db_do(s->w, e, "UPDATE message SET ids = ?, n_id = ?, vocab = ? WHERE id = ?", "biii",
                 c->ids, (size_t)c->n_id * sizeof *c->ids, (int64_t)c->n_id, c->number, c->message);
}

void sessions_set_ids(struct sessions *s, int64_t message, const int32_t *ids, int32_t n)
{
    struct command c = {
        .run = run_set_ids, .message = message, .ids = ids, .n_id = n, .number = (int64_t)s->vocab};
    writer_post(s, &c);
}

/* The index follows when the answer is finished: indexing every flush would write it many times. */
static enum status run_stream(struct sessions *s, struct command *c, struct err *e)
{
    return db_do(s->w, e, "UPDATE message SET text = ?, ids = ?, n_id = ?, vocab = ? WHERE id = ?",
                 "sbiii", c->text, c->len, c->ids, (size_t)c->n_id * sizeof *c->ids,
                 (int64_t)c->n_id, c->number, c->message);
}

void sessions_stream(struct sessions *s, int64_t message, const char *text, size_t len,
                     const int32_t *ids, int32_t n)
{
    struct command c = {.run = run_stream,
                        .latest = true,
                        .message = message,
                        .text = text,
                        .len = len,
                        .ids = ids,
                        .n_id = n,
                        .number = (int64_t)s->vocab};
    writer_post(s, &c);
}

static enum status run_finish(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->w, e,
              "UPDATE message SET text = ?, ids = ?, n_id = ?, vocab = ?, stop = ?, done = 1,"
              " indexed = 1 WHERE id = ?",
              "sbiiti", c->text, c->len, c->ids, (size_t)c->n_id * sizeof *c->ids, (int64_t)c->n_id,
              c->number, c->word, c->message));
    sessions_writing_end(s, c->message);
    return db_do(s->w, e,
                 "UPDATE conversation SET updated_ms = ? WHERE id ="
                 " (SELECT home FROM message WHERE id = ?)",
                 "ii", clock_unix_ms(), c->message);
}

void sessions_finish(struct sessions *s, int64_t message, const char *text, size_t len,
                     const int32_t *ids, int32_t n, const char *stop)
{
    struct command c = {.run = run_finish,
                        .message = message,
                        .text = text,
                        .len = len,
                        .ids = ids,
                        .n_id = n,
                        .number = n ? (int64_t)s->vocab : 0, /* whose, nobody says */
                        .word = stop ? stop : ""};
    writer_post(s, &c);
}

/* ---- what is queued ---- */

/* Posted changes of messages that are not in the file yet. Reading does not wait for them: a full
 * disk or another program may hold them up for long. */
struct posted {
    struct sessions_message *change; /* text NULL: only ids changed */
    int32_t n, cap;
    uint64_t vocab;
};

static void note_posted(void *ctx, const struct command *c)
{
    struct posted *p = ctx;
    bool text = c->run == run_stream || c->run == run_finish;
    uint64_t whose = (uint64_t)c->number;
    if (!text && c->run != run_set_ids)
        return;
    if (p->n == p->cap) {
        p->cap = p->cap ? 2 * p->cap : 8;
        p->change = mem_realloc(p->change, (size_t)p->cap * sizeof *p->change);
    }
    struct sessions_message *m = &p->change[p->n++];
    *m = (struct sessions_message){.id = c->message, .done = c->run == run_finish, .len = c->len};
    m->text = text ? mem_strndup(c->text ? c->text : "", c->len) : NULL;
    m->ours = whose == p->vocab && whose != 0;
    snprintf(m->stop, sizeof m->stop, "%s", m->done && c->word ? c->word : "");
    if (c->n_id > 0 && (m->ours || whose == 0 || p->vocab == 0)) {
        m->n_id = c->n_id;
        m->ids = mem_alloc((size_t)c->n_id * sizeof *c->ids);
        memcpy(m->ids, c->ids, (size_t)c->n_id * sizeof *c->ids);
    }
}

static struct posted posted_load(struct sessions *s)
{
    struct posted p = {.vocab = s->vocab};
    writer_pending(s, WRITER_TEXT, note_posted, &p);
    return p;
}

/* The row as it will be; what the change holds becomes the row's. */
static void apply_posted(struct sessions_message *row, struct sessions_message *change)
{
    free(row->ids);
    row->ids = change->ids;
    row->n_id = change->n_id;
    row->ours = change->ours;
    change->ids = NULL;
    if (!change->text)
        return;
    free(row->text);
    row->text = change->text;
    row->len = change->len;
    change->text = NULL;
    if (change->done) {
        row->done = true;
        memcpy(row->stop, change->stop, sizeof row->stop);
    }
}

enum status sessions_path_load(struct sessions *s, int64_t id, struct sessions_message **ret,
                               int32_t *ret_n, struct err *e)
{
    /* Before the file: what is written in between is then seen twice, and alike. */
    struct posted p = posted_load(s);
    pthread_mutex_lock(&s->r_lock);
    enum status st = load(s->r, id, s->vocab, ret, ret_n, e);
    pthread_mutex_unlock(&s->r_lock);
    for (int32_t i = 0; st == OK && i < p.n; i++)
        for (int32_t k = 0; k < *ret_n; k++)
            if ((*ret)[k].id == p.change[i].id)
                apply_posted(&(*ret)[k], &p.change[i]);
    sessions_messages_free(p.change, p.n);
    return st;
}

char *messages_unwritten(struct sessions *s)
{
    struct posted p = posted_load(s);
    struct str text = {0};
    for (int32_t i = 0; i < p.n; i++) {
        bool newest = p.change[i].text && p.change[i].len;
        for (int32_t k = i + 1; k < p.n; k++)
            newest &= p.change[k].id != p.change[i].id || !p.change[k].text;
        if (newest)
            str_addf(&text, "%s%s\n", text.len ? "\n" : "", p.change[i].text);
    }
    sessions_messages_free(p.change, p.n);
    return text.data;
}
