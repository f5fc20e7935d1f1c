/* Conversations from outside: our JSON, ChatGPT's conversations.json, our one-file form. All of it
 * is hostile input: nothing is written before the whole file has been understood. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/copy.h"
#include "sessions/writer.h"

/* ---- reading JSON without trusting it ---- */

static char *json_text(const json_t *j, size_t *ret_len)
{
    size_t n = json_is_string(j) ? json_string_length(j) : 0;
    if (ret_len)
        *ret_len = n;
    return mem_strndup(n ? json_string_value(j) : "", n);
}

static void json_word(const json_t *j, char *dst, size_t cap)
{
    const char *s = json_is_string(j) ? json_string_value(j) : "";
    size_t n = strlen(s);
    if (n > cap - 1)
        n = cap - 1;
    memcpy(dst, s, n);
    dst[n] = '\0';
}

static bool role_known(const char *role)
{
    return !strcmp(role, "user") || !strcmp(role, "assistant") || !strcmp(role, "system");
}

/* ---- ours ---- */

static enum status our_ids(const json_t *j, struct copy_message *m, struct err *e)
{
    size_t n = json_array_size(j);
    if (n == 0 || n > INT32_MAX)
        return OK;
    m->ids = mem_alloc(n * sizeof *m->ids);
    m->n_id = (int32_t)n;
    for (size_t i = 0; i < n; i++) {
        json_int_t v = json_integer_value(json_array_get(j, i));
        if (!json_is_integer(json_array_get(j, i)) || v < INT32_MIN || v > INT32_MAX)
            return err_set(e, ERR_FORMAT, "token id %zu of a message is no 32-bit number", i);
        m->ids[i] = (int32_t)v;
    }
    return OK;
}

static enum status our_message(const json_t *j, struct copy *c, struct err *e)
{
    int32_t at = c->n_message;
    struct copy_message *m = copy_add(c);
    const json_t *parent = json_object_get(j, "parent"), *done = json_object_get(j, "done");
    json_int_t p = json_is_integer(parent) ? json_integer_value(parent) : -2;
    m->text = json_text(json_object_get(j, "text"), &m->len);
    json_word(json_object_get(j, "role"), m->role, sizeof m->role);
    json_word(json_object_get(j, "stop"), m->stop, sizeof m->stop);
    m->created_ms = json_integer_value(json_object_get(j, "created_ms"));
    m->done = !json_is_false(done);
    if (p < -1 || p >= at)
        return err_set(e, ERR_FORMAT, "message %d has no valid parent (an earlier index or -1)",
                       at);
    m->parent = (int32_t)p;
    if (!role_known(m->role))
        return err_set(e, ERR_FORMAT,
                       "message %d has role \"%s\": expected system, user, assistant", at, m->role);
    const char *vocab = json_string_value(json_object_get(j, "vocab"));
    m->vocab = vocab ? strtoull(vocab, NULL, 16) : 0;
    return our_ids(json_object_get(j, "ids"), m, e);
}

static enum status ours(const json_t *root, struct copies *all, struct err *e)
{
    const json_t *list = json_object_get(root, "conversations"), *j, *msg;
    json_int_t version = json_integer_value(json_object_get(root, "dogear"));
    size_t i, k;
    if (version != 1)
        return err_set(e, ERR_UNSUPPORTED, "export form %lld is newer than this Dogear (1): update",
                       (long long)version);
    json_array_foreach(list, i, j)
    {
        struct copy *c = copies_add(all);
        c->title = json_text(json_object_get(j, "title"), NULL);
        c->model = json_text(json_object_get(j, "model"), NULL);
        c->created_ms = json_integer_value(json_object_get(j, "created_ms"));
        c->updated_ms = json_integer_value(json_object_get(j, "updated_ms"));
        c->pinned = json_is_true(json_object_get(j, "pinned"));
        json_array_foreach(json_object_get(j, "messages"), k,
                           msg) if (our_message(msg, c, e) !=
                                    OK) return err_prefix(e, "conversation %zu", i);
        const json_t *leaf = json_object_get(j, "leaf");
        json_int_t l = json_is_integer(leaf) ? json_integer_value(leaf) : -1;
        if (l < -1 || l >= c->n_message)
            return err_set(e, ERR_FORMAT, "conversation %zu: leaf %lld is no message", i,
                           (long long)l);
        c->leaf = (int32_t)l;
    }
    return OK;
}

/* ---- ChatGPT: {title, create_time, update_time, mapping: {id: {message, parent, children}},
 *      current_node}; times are seconds ---- */

static int64_t seconds_ms(const json_t *j)
{
    double t = json_number_value(j);
    return isfinite(t) && fabs(t) < 1e13 ? (int64_t)(t * 1000) : 0;
}

/* The readable part of a message: strings of content.parts, or content.text; "" = nothing. */
static char *gpt_text(const json_t *message, size_t *ret_len)
{
    const json_t *content = json_object_get(message, "content"), *part;
    const json_t *parts = json_object_get(content, "parts");
    struct str out = {0};
    size_t i;
    json_array_foreach(parts, i, part)
    {
        const json_t *text = json_is_object(part) ? json_object_get(part, "text") : part;
        if (json_is_string(text)) {
            str_adds(&out, out.len ? "\n\n" : "");
            str_add(&out, json_string_value(text), json_string_length(text));
        } else if (json_is_object(part)) {
            str_adds(&out, out.len ? "\n\n" : "");
            str_adds(&out, "[attachment left out]");
        }
    }
    if (!json_is_array(parts)) {
        char *t = json_text(json_object_get(content, "text"), NULL);
        str_adds(&out, t);
        free(t);
    }
    *ret_len = out.len;
    return str_take(&out);
}

/* A node waiting to be visited: its name and the kept message above it. */
struct pending {
    const char *name;
    int32_t parent;
};

struct walk {
    const json_t *mapping;
    json_t *seen; /* name -> index of the kept message at or above it */
    struct pending *stack;
    size_t n, cap;
    int32_t n_skipped;
};

static void push(struct walk *w, const char *name, int32_t parent)
{
    if (w->n == w->cap) {
        w->cap = w->cap ? w->cap * 2 : 64;
        w->stack = mem_realloc(w->stack, w->cap * sizeof *w->stack);
    }
    w->stack[w->n++] = (struct pending){name, parent};
}

/* Keeps the node's message if it is one to read; returns the index its children hang on. */
static int32_t keep(struct walk *w, struct copy *c, const json_t *node, int32_t parent)
{
    const json_t *message = json_object_get(node, "message");
    char role[16];
    size_t len;
    if (!json_is_object(message))
        return parent;
    json_word(json_object_get(json_object_get(message, "author"), "role"), role, sizeof role);
    char *text = gpt_text(message, &len);
    if (len == 0 || !role_known(role)) {
        w->n_skipped += len > 0; /* tools and the like */
        free(text);
        return parent;
    }
    struct copy_message *m = copy_add(c);
    m->parent = parent;
    m->text = text;
    m->len = len;
    memcpy(m->role, role, sizeof role);
    m->created_ms = seconds_ms(json_object_get(message, "create_time"));
    if (m->created_ms == 0)
        m->created_ms = c->created_ms;
    return c->n_message - 1;
}

static void walk_tree(struct walk *w, struct copy *c)
{
    while (w->n > 0) {
        struct pending p = w->stack[--w->n];
        const json_t *node = json_object_get(w->mapping, p.name);
        if (!json_is_object(node) || json_object_get(w->seen, p.name))
            continue; /* dangling or in a circle */
        int32_t at = keep(w, c, node, p.parent);
        json_object_set_new(w->seen, p.name, json_integer(at));
        const json_t *children = json_object_get(node, "children");
        for (size_t i = json_array_size(children); i-- > 0;) { /* the first child is kept first */
            const char *name = json_string_value(json_array_get(children, i));
            if (name)
                push(w, name, at);
        }
    }
}

static void chatgpt_one(json_t *j, struct copies *all, int32_t *n_skipped)
{
    struct walk w = {.mapping = json_object_get(j, "mapping"), .seen = json_object()};
    struct copy *c = copies_add(all);
    const char *name;
    json_t *node;
    c->title = json_text(json_object_get(j, "title"), NULL);
    c->model = json_text(json_object_get(j, "default_model_slug"), NULL);
    c->created_ms = seconds_ms(json_object_get(j, "create_time"));
    c->updated_ms = seconds_ms(json_object_get(j, "update_time"));
    json_object_foreach(json_object_get(j, "mapping"), name, node)
    {
        const char *parent = json_string_value(json_object_get(node, "parent"));
        if (!parent || !json_object_get(w.mapping, parent)) {
            push(&w, name, -1);
            walk_tree(&w, c);
        }
    }
    const char *current = json_string_value(json_object_get(j, "current_node"));
    const json_t *leaf = current ? json_object_get(w.seen, current) : NULL;
    c->leaf = leaf ? (int32_t)json_integer_value(leaf) : c->n_message - 1;
    *n_skipped += w.n_skipped;
    json_decref(w.seen);
    free(w.stack);
}

/* ---- choosing ---- */

static enum status parse(const char *path, struct copies *all, int32_t *n_skipped, struct err *e)
{
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why), *j;
    size_t i;
    if (!root && json_error_code(&why) == json_error_cannot_open_file)
        return err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    if (!root)
        return err_set(e, ERR_FORMAT,
                       "%s is no JSON (line %d: %s): import reads what export wrote with --format "
                       "json or dogear, and ChatGPT's conversations.json",
                       path, why.line, why.text);
    enum status st = OK;
    if (json_is_object(root) && json_object_get(root, "dogear")) {
        st = ours(root, all, e);
    } else if (json_is_array(root) && json_array_size(root) > 0 &&
               json_object_get(json_array_get(root, 0), "mapping")) {
        json_array_foreach(root, i, j) if (json_is_object(json_object_get(j, "mapping")))
            chatgpt_one(j, all, n_skipped);
    } else {
        st = err_set(e, ERR_UNSUPPORTED,
                     "%s is neither a Dogear export nor ChatGPT's conversations.json", path);
    }
    json_decref(root);
    return st;
}

struct import {
    const struct copies *all;
    int64_t *ids;
};

static enum status run_import(struct sessions *s, struct command *c, struct err *e)
{
    struct import *im = c->more;
    for (int32_t i = 0; i < im->all->n; i++)
        TRY(copy_insert(s->w, &im->all->all[i], &im->ids[i], e));
    return OK;
}

enum status sessions_import(struct sessions *s, const char *path, struct sessions_imported *ret,
                            struct err *e)
{
    struct copies all = {0};
    struct sessions_imported got = {0};
    bool bundle = bundle_is(path);
    enum status st = bundle ? bundle_read(path, &all, e) : parse(path, &all, &got.n_skipped, e);
    struct import im = {.all = &all, .ids = mem_calloc((size_t)all.n + 1, sizeof *im.ids)};
    struct command c = {.run = run_import, .more = &im};
    if (st == OK && all.n > 0)
        st = writer_call(s, &c, e);
    if (st == OK) {
        got.n_conversation = all.n;
        got.first_id = im.ids[0];
        for (int32_t i = 0; i < all.n; i++)
            got.n_message += all.all[i].n_message;
        if (bundle)
            got.n_kv_piece = bundle_read_kv(s, path, im.ids[0]);
        *ret = got;
    }
    free(im.ids);
    copies_fini(&all);
    return st;
}
