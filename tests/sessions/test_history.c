/* Random histories of turns, edits, branches, forks and deletions, against a plain model in memory.
 * STORE_HISTORIES sets how many (50); a failure prints the seed. */
#include "tests/sessions/store_test.h"

#include <unistd.h>

#include "engine/base/mem.h"

enum { MAX_MESSAGES = 400, MAX_CHATS = 12, STEPS = 60 };

/* The model: messages are an array for ever; a chat sees those that carry its bit. Each chat simply
 * has its own set, the way a copy on fork would have it. */
struct model_message {
    int64_t id;
    int parent; /* index, -1 = first */
    char text[48];
    const char *role;
    int32_t first_id, n_id;
};

struct model_chat {
    int64_t id;
    bool alive, sees[MAX_MESSAGES];
    int leaf;
    char title[32];
};

struct model {
    struct model_message m[MAX_MESSAGES];
    int n_message;
    struct model_chat c[MAX_CHATS];
    int n_chat;
};

static uint32_t rng;
static int below(int n)
{
    rng = rng * 1664525u + 1013904223u;
    return n > 0 ? (int)((uint64_t)(rng >> 8) * (uint64_t)n >> 24) : 0;
}

static int any_chat(const struct model *w)
{
    int pick[MAX_CHATS], n = 0;
    for (int i = 0; i < w->n_chat; i++)
        if (w->c[i].alive)
            pick[n++] = i;
    return n ? pick[below(n)] : -1;
}

static int any_message(const struct model *w, const struct model_chat *c)
{
    int pick[MAX_MESSAGES], n = 0;
    for (int i = 0; i < w->n_message; i++)
        if (c->sees[i])
            pick[n++] = i;
    return n ? pick[below(n)] : -1;
}

static int64_t id_of(const struct model *w, int i)
{
    return i < 0 ? 0 : w->m[i].id;
}

/* ---- KV: one byte per block of every branch that was ever open ---- */

/* The token log of the chat's open branch. */
static int32_t path_log(const struct model *w, const struct model_chat *c, int32_t *ids)
{
    int path[MAX_MESSAGES], n = 0;
    int32_t n_tok = 0;
    for (int i = c->leaf; i >= 0; i = w->m[i].parent)
        path[n++] = i;
    while (n-- > 0)
        for (int32_t k = 0; k < w->m[path[n]].n_id; k++)
            ids[n_tok++] = w->m[path[n]].first_id + k;
    return n_tok;
}

static void put_path(const struct model *w, struct sessions *s, const struct model_chat *c)
{
    static int32_t ids[MAX_MESSAGES * 40];
    const struct kv_io *io = sessions_kv_io(s);
    int32_t n_tok = path_log(w, c, ids);
    struct kv_io_held held;
    io->find(io->ctx, c->id, 5, ids, n_tok, &held);
    for (int32_t b = held.n_block; (b + 1) * 64 <= n_tok; b++) {
        uint64_t hash = kv_io_hash(KV_IO_HASH_EMPTY, ids, (b + 1) * 64);
        struct kv_piece p = {0, 0, b, 1, &hash, sizeof hash};
        io->put(io->ctx, c->id, 5, (b + 1) * 64, hash, &p, 1);
    }
}

/* Every block of the open branch is there, and is the one of this log. */
static void compare_kv(const struct model *w, struct sessions *s, const struct model_chat *c)
{
    static int32_t ids[MAX_MESSAGES * 40];
    const struct kv_io *io = sessions_kv_io(s);
    int32_t n_tok = path_log(w, c, ids);
    struct kv_io_held held;
    io->find(io->ctx, c->id, 5, ids, n_tok, &held);
    assert_int_equal(held.n_block, n_tok / 64);
    for (int32_t b = 0; b < held.n_block; b++) {
        uint64_t hash = kv_io_hash(KV_IO_HASH_EMPTY, ids, (b + 1) * 64);
        struct kv_piece p = {.block = b, .plane = 1};
        void *owned;
        assert_true(store_get(io, c->id, 5, hash, &p, &owned));
        assert_memory_equal(p.data, &hash, sizeof hash);
        free(owned);
    }
}

/* ---- steps ---- */

static void step_create(struct model *w, struct sessions *s)
{
    if (w->n_chat == MAX_CHATS)
        return;
    struct model_chat *c = &w->c[w->n_chat++];
    *c = (struct model_chat){.alive = true, .leaf = -1};
    CHECK_OK(sessions_create(s, "m", &c->id, &err_seen));
}

static void step_say(struct model *w, struct sessions *s, struct model_chat *c, int parent)
{
    if (w->n_message == MAX_MESSAGES)
        return;
    int i = w->n_message++;
    struct model_message *m = &w->m[i];
    bool answer = parent >= 0 && !strcmp(w->m[parent].role, "user");
    *m = (struct model_message){.parent = parent,
                                .role = answer ? "assistant" : "user",
                                .first_id = below(100000),
                                .n_id = below(40)};
    snprintf(m->text, sizeof m->text, "word%d of %d", below(30), i);
    if (answer) {
        m->id = store_answer(s, c->id, id_of(w, parent), m->text, m->first_id, m->n_id);
    } else {
        int32_t ids[40];
        for (int k = 0; k < m->n_id; k++)
            ids[k] = m->first_id + k;
        m->id = store_say(s, c->id, id_of(w, parent), m->role, m->text);
        sessions_set_ids(s, m->id, ids, m->n_id);
    }
    c->sees[i] = true;
    c->leaf = i;
}

static bool below_of(const struct model *w, int i, int top)
{
    for (; i >= 0; i = w->m[i].parent)
        if (i == top)
            return true;
    return top < 0;
}

static void step_leaf(struct model *w, struct sessions *s, struct model_chat *c)
{
    int i = any_message(w, c);
    bool exact = below(2);
    if (i < 0)
        return;
    CHECK_OK(sessions_set_leaf(s, c->id, w->m[i].id, exact, &err_seen));
    c->leaf = i;
    for (int k = i + 1; !exact && k < w->n_message; k++)
        if (c->sees[k] && below_of(w, k, i))
            c->leaf = k; /* the newest */
}

static void step_fork(struct model *w, struct sessions *s, struct model_chat *c)
{
    int i = any_message(w, c);
    if (i < 0 || w->n_chat == MAX_CHATS)
        return;
    struct model_chat *f = &w->c[w->n_chat++];
    *f = (struct model_chat){.alive = true, .leaf = i};
    CHECK_OK(sessions_fork(s, c->id, w->m[i].id, &f->id, &err_seen));
    struct sessions_row row; /* numbered: test_tree tells how */
    CHECK_OK(sessions_get(s, f->id, &row, &err_seen));
    assert_int_equal(row.title[0] == '\0', c->title[0] == '\0');
    snprintf(f->title, sizeof f->title, "%s", row.title);
    free(row.title);
    free(row.model);
    for (int k = i; k >= 0; k = w->m[k].parent)
        f->sees[k] = true;
}

static void step_delete(struct sessions *s, struct model_chat *c)
{
    CHECK_OK(sessions_delete(s, c->id, &err_seen));
    c->alive = false;
}

static void step(struct model *w, struct sessions **s)
{
    int at = any_chat(w), what = below(100);
    if (at < 0 || what < 5) {
        step_create(w, *s);
        return;
    }
    struct model_chat *c = &w->c[at];
    if (what < 45)
        step_say(w, *s, c, c->leaf);
    else if (what < 65) /* an edit or another answer: a sibling of something */
        step_say(w, *s, c, c->leaf < 0 ? -1 : w->m[any_message(w, c)].parent);
    else if (what < 78)
        step_leaf(w, *s, c);
    else if (what < 86)
        step_fork(w, *s, c);
    else if (what < 91)
        step_delete(*s, c);
    else if (what < 95) {
        snprintf(c->title, sizeof c->title, "title%d", below(20));
        CHECK_OK(sessions_rename(*s, c->id, c->title, &err_seen));
    } else if (what < 97) {
        c->leaf = -1;
        CHECK_OK(sessions_set_leaf(*s, c->id, 0, false, &err_seen));
    } else {
        sessions_close(*s);
        *s = store_new();
    }
    if (c->alive)
        put_path(w, *s, c);
}

/* ---- comparing ---- */

static void compare_siblings(const struct model *w, struct sessions *s, const struct model_chat *c,
                             int i, int32_t n_sibling, int32_t sibling)
{
    int n = 0, at = -1, after = -1;
    for (int k = 0; k < w->n_message; k++) {
        if (!c->sees[k] || w->m[k].parent != w->m[i].parent)
            continue;
        if (k == i)
            at = n;
        else if (at >= 0 && after < 0)
            after = k;
        n++;
    }
    assert_int_equal(n_sibling, n);
    assert_int_equal(sibling, at);
    int64_t got;
    CHECK_OK(sessions_sibling(s, c->id, w->m[i].id, 1, &got, &err_seen));
    assert_int_equal(got, id_of(w, after));
}

static void compare_chat(const struct model *w, struct sessions *s, const struct model_chat *c)
{
    int path[MAX_MESSAGES], n = 0, n_tok = 0;
    struct sessions_message *m;
    struct sessions_row row;
    int32_t n_got;
    for (int i = c->leaf; i >= 0; i = w->m[i].parent)
        path[n++] = i;
    CHECK_OK(sessions_path_load(s, c->id, &m, &n_got, &err_seen));
    assert_int_equal(n_got, n);
    for (int k = 0; k < n; k++) {
        const struct model_message *want = &w->m[path[n - 1 - k]];
        assert_int_equal(m[k].id, want->id);
        assert_int_equal(m[k].parent, id_of(w, want->parent));
        assert_string_equal(m[k].text, want->text);
        assert_string_equal(m[k].role, want->role);
        assert_int_equal(m[k].n_id, want->n_id);
        for (int32_t t = 0; t < want->n_id; t++)
            assert_int_equal(m[k].ids[t], want->first_id + t);
        n_tok += want->n_id;
        compare_siblings(w, s, c, path[n - 1 - k], m[k].n_sibling, m[k].sibling);
    }
    sessions_messages_free(m, n_got);
    CHECK_OK(sessions_get(s, c->id, &row, &err_seen));
    assert_int_equal(row.n_message, n);
    assert_int_equal(row.n_tok, n > 0 && n_tok == 0 ? -1 : n_tok); /* nobody has read it: unknown */
    assert_string_equal(row.title, c->title);
    free(row.title);
    free(row.model);
}

/* Search finds a word exactly when a message that somebody still sees has it; the conversation it
 * names sees that message. */
static void compare_search(const struct model *w, struct sessions *s)
{
    char word[16];
    struct sessions_row *rows;
    int32_t n;
    bool want = false;
    snprintf(word, sizeof word, "word%d ", below(30));
    for (int i = 0; i < w->n_message; i++)
        for (int k = 0; k < w->n_chat; k++)
            if (w->c[k].alive && w->c[k].sees[i] && !strncmp(w->m[i].text, word, strlen(word)))
                want = true;
    CHECK_OK(sessions_search(s, word, 0, &rows, &n, &err_seen));
    assert_int_equal(n > 0, want);
    for (int32_t r = 0; r < n; r++) {
        bool seen = false;
        for (int k = 0; k < w->n_chat; k++)
            for (int i = 0; i < w->n_message; i++)
                seen |= w->c[k].alive && w->c[k].id == rows[r].id && w->c[k].sees[i] &&
                        w->m[i].id == rows[r].message;
        assert_true(seen);
    }
    sessions_rows_free(rows, n);
}

static void compare(const struct model *w, struct sessions *s)
{
    int n = 0, n_message = 0;
    struct sessions_health h;
    struct sessions_row *rows;
    int32_t n_rows;
    for (int i = 0; i < w->n_chat; i++) {
        n += w->c[i].alive;
        if (w->c[i].alive) {
            compare_chat(w, s, &w->c[i]);
            compare_kv(w, s, &w->c[i]);
        }
    }
    CHECK_OK(sessions_list(s, 0, &rows, &n_rows, &err_seen));
    assert_int_equal(n_rows, n);
    sessions_rows_free(rows, n_rows);
    compare_search(w, s);
    /* Exactly the messages that somebody sees are left. */
    for (int i = 0; i < w->n_message; i++)
        for (int k = 0; k < w->n_chat; k++)
            if (w->c[k].alive && w->c[k].sees[i]) {
                n_message++;
                break;
            }
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_string_equal(h.detail, "");
    assert_int_equal(h.n_message, n_message);
    assert_int_equal(h.n_conversation, n);
}

static void sessions__random_history__equals_the_model(void **state)
{
    const char *env = getenv("STORE_HISTORIES"), *seed_env = getenv("STORE_SEED");
    int n = env ? atoi(env) : 50, first = seed_env ? atoi(seed_env) : 1;
    struct model *w = mem_alloc(sizeof *w);
    for (int seed = first; seed < first + n; seed++) {
        rng = (uint32_t)seed * 2654435761u;
        memset(w, 0, sizeof *w);
        store_dir_setup(NULL);
        struct sessions *s = store_new();
        printf("# seed %d\n", seed);
        for (int i = 0; i < STEPS; i++) {
            step(w, &s);
            if (i % 20 == 19)
                compare(w, s);
        }
        int64_t t[SESSIONS_TIERS];
        for (int i = 0; i < w->n_chat; i++)
            if (w->c[i].alive)
                step_delete(s, &w->c[i]);
        for (int i = 0; i < w->n_chat; i++) { /* what nobody uses is gone */
            CHECK_OK(sessions_kv_sizes(s, w->c[i].id, t, NULL, &err_seen));
            assert_int_equal(t[5], 0);
        }
        struct sessions_health h;
        CHECK_OK(sessions_check(s, false, &h, &err_seen));
        assert_int_equal(h.n_message, 0);
        assert_string_equal(h.detail, "");
        sessions_close(s);
        store_dir_teardown(NULL);
    }
    free(w);
}

int main(void)
{
    store_dir_in_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sessions__random_history__equals_the_model),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
