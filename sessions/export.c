/* Conversations as text for people (Markdown) and for programs (JSON). */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/thought.h"
#include "engine/base/utf8.h"
#include "sessions/copy.h"

/* ---- Markdown ---- */

/* Markdown is looked at in terminals: control bytes become U+FFFD, as bytes that are no UTF-8 do. */
static void add_clean(struct str *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        char buf[4];
        i += (size_t)utf8_decode(s + i, n - i, &cp);
        if ((cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7f && cp < 0xa0))
            cp = 0xfffd;
        str_add(out, buf, (size_t)utf8_encode(cp, buf));
    }
}

static const char *heading(const char *role)
{
    if (!strcmp(role, "user"))
        return "You";
    if (!strcmp(role, "assistant"))
        return "Assistant";
    return !strcmp(role, "system") ? "System" : role;
}

static void add_message(struct str *out, const struct copy_message *m)
{
    struct str s = {0};
    if (!strcmp(m->role, "assistant"))
        thought_quote(m->text, m->len, &s);
    else
        str_add(&s, m->text, m->len);
    add_clean(out, str_c(&s), s.len);
    str_fini(&s);
}

static void markdown(struct str *out, const struct copy *c)
{
    int32_t n = 0, *path = mem_calloc((size_t)c->n_message + 1, sizeof *path);
    for (int32_t i = c->leaf; i >= 0; i = c->messages[i].parent)
        path[n++] = i;
    time_t t = (time_t)(c->updated_ms / 1000);
    struct tm tm;
    char date[32] = "";
    if (localtime_r(&t, &tm))
        strftime(date, sizeof date, "%Y-%m-%d %H:%M", &tm);
    str_adds(out, "# ");
    if (c->title[0])
        add_clean(out, c->title, strlen(c->title));
    else
        str_adds(out, "Untitled");
    str_addf(out, "\n\n*%s*\n", date);
    if (c->model[0]) {
        str_cut(out, out->len - 2, 2);
        str_adds(out, ", ");
        add_clean(out, c->model, strlen(c->model));
        str_adds(out, "*\n");
    }
    while (n > 0) {
        const struct copy_message *m = &c->messages[path[--n]];
        str_addf(out, "\n## %s\n\n", heading(m->role));
        add_message(out, m);
        if (out->len && out->data[out->len - 1] != '\n')
            str_addc(out, '\n');
    }
    free(path);
}

/* ---- JSON ---- */

static json_t *message_json(const struct copy_message *m)
{
    json_t *j = json_object();
    json_object_set_new(j, "parent", json_integer(m->parent));
    json_object_set_new(j, "role", json_cstr(m->role));
    json_object_set_new(j, "text", json_text(m->text, m->len));
    json_object_set_new(j, "created_ms", json_integer(m->created_ms));
    json_object_set_new(j, "done", json_boolean(m->done));
    json_object_set_new(j, "stop", json_cstr(m->stop));
    if (m->n_id) {
        json_t *ids = json_array();
        for (int32_t i = 0; i < m->n_id; i++)
            json_array_append_new(ids, json_integer(m->ids[i]));
        json_object_set_new(j, "ids", ids);
        /* as text: 64 bits without sign fit no JSON number that every reader keeps */
        json_object_set_new(j, "vocab", json_sprintf("%016llx", (unsigned long long)m->vocab));
    }
    return j;
}

static json_t *copy_json(const struct copy *c)
{
    json_t *j = json_object(), *messages = json_array();
    json_object_set_new(j, "title", json_cstr(c->title));
    json_object_set_new(j, "model", json_cstr(c->model));
    json_object_set_new(j, "created_ms", json_integer(c->created_ms));
    json_object_set_new(j, "updated_ms", json_integer(c->updated_ms));
    json_object_set_new(j, "pinned", json_boolean(c->pinned));
    json_object_set_new(j, "leaf", json_integer(c->leaf));
    for (int32_t i = 0; i < c->n_message; i++)
        json_array_append_new(messages, message_json(&c->messages[i]));
    json_object_set_new(j, "messages", messages);
    return j;
}

static int dump(const char *data, size_t n, void *out)
{
    str_add(out, data, n);
    return 0;
}

static enum status json_all(struct str *out, const struct copies *c, struct err *e)
{
    json_t *j = json_object(), *all = json_array();
    json_object_set_new(j, "dogear", json_integer(1)); /* version of this form */
    for (int32_t i = 0; i < c->n; i++)
        json_array_append_new(all, copy_json(&c->all[i]));
    json_object_set_new(j, "conversations", all);
    int rc = json_dump_callback(j, dump, out, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
    json_decref(j);
    str_addc(out, '\n');
    return rc == 0 ? OK : err_set(e, ERR_MEMORY, "cannot write %d conversations as JSON", c->n);
}

/* ---- both ---- */

static enum status load_all(struct db *d, int64_t id, struct copies *c, struct err *e)
{
    sqlite3_stmt *q;
    bool row = true;
    if (id)
        return copy_load(d, id, copies_add(c), e);
    TRY(db_query(d, e, &q, "SELECT id FROM conversation ORDER BY id", ""));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        st = copy_load(d, sqlite3_column_int64(q, 0), copies_add(c), e);
        if (st != OK)
            break;
    }
    db_done(q);
    return st;
}

enum status sessions_export(struct sessions *s, int64_t id, enum sessions_format format, char **ret,
                            size_t *ret_len, struct err *e)
{
    struct copies c = {0};
    struct str out = {0};
    store_read_begin(s);
    enum status st = load_all(s->r, id, &c, e);
    store_read_end(s);
    if (st == OK && format == SESSIONS_JSON)
        st = json_all(&out, &c, e);
    for (int32_t i = 0; st == OK && format == SESSIONS_MARKDOWN && i < c.n; i++) {
        str_adds(&out, i ? "\n---\n\n" : "");
        markdown(&out, &c.all[i]);
    }
    copies_fini(&c);
    if (st == OK) {
        *ret_len = out.len;
        *ret = str_take(&out);
    }
    str_fini(&out);
    return st;
}
