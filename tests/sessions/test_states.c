/* States of recurrent layers: kept beside pages and rows, few of them, large. */
#include "tests/sessions/store_test.h"

#include <sqlite3.h>

#include "engine/base/mem.h"
#include "sessions/kvstore.h"

enum { LAYERS = 3, STATE_BYTES = 20000, FP = 77, N_TOK = 640 };

static int32_t *log_new(int32_t seed)
{
    int32_t *ids = mem_alloc(N_TOK * sizeof *ids);
    for (int32_t i = 0; i < N_TOK; i++)
        ids[i] = i * 31 + seed;
    return ids;
}

static int64_t chat_with_log(struct sessions *s, const int32_t *ids)
{
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    sessions_set_ids(s, store_say(s, id, 0, "user", "question"), ids, N_TOK);
    return id;
}

/* Nothing to compress; depends on what names the piece. */
static void fill(unsigned char *p, size_t n, uint64_t hash, int layer, int plane)
{
    uint64_t x = hash ^ (uint64_t)(layer * 16 + plane + 8);
    for (size_t i = 0; i < n; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        p[i] = (unsigned char)(x >> 56);
    }
}

/* What ends at n_tok: a state (KV_IO_STATE), rows (KV_IO_WINDOW), or a block's pages up to a plane. */
static void put(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t n_tok, int plane)
{
    static unsigned char data[KV_IO_PLANES * LAYERS][STATE_BYTES];
    struct kv_piece p[KV_IO_PLANES * LAYERS];
    uint64_t hash = kv_io_hash(KV_IO_HASH_EMPTY, ids, n_tok);
    int n = 0;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = plane < 0 ? plane : 0; i <= plane; i++, n++) {
            fill(data[n], STATE_BYTES, hash, layer, i);
            p[n] = (struct kv_piece){layer, 0, plane < 0 ? n_tok : n_tok / 64 - 1, i, data[n],
                                     STATE_BYTES};
        }
    io->put(io->ctx, chat, FP, n_tok, hash, p, n);
}

struct seen {
    uint64_t hash;
    int32_t n_tok;
    int n, plane; /* plane: of the first piece */
};

static bool see(void *ctx, const struct kv_piece *p)
{
    struct seen *v = ctx;
    unsigned char want[STATE_BYTES];
    fill(want, sizeof want, v->hash, p->layer, p->plane);
    assert_int_equal(p->size_bytes, sizeof want);
    assert_memory_equal(p->data, want, sizeof want);
    assert_int_equal(p->block, p->plane < 0 ? v->n_tok : v->n_tok / 64 - 1);
    if (v->n++ == 0)
        v->plane = p->plane;
    return true;
}

/* How many intact pieces of a kind end there, all of them as they were put; -1 = nothing is held. */
static int count(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t n_tok,
                 enum kv_io_kind kind, int32_t *ret_bad)
{
    struct seen v = {.hash = kv_io_hash(KV_IO_HASH_EMPTY, ids, n_tok), .n_tok = n_tok};
    int32_t n_bad = io->load(io->ctx, chat, FP, v.hash, n_tok, kind, see, &v);
    if (ret_bad)
        *ret_bad = n_bad;
    if (v.n)
        assert_int_equal(kv_io_kind(v.plane), kind);
    return n_bad < 0 ? -1 : v.n;
}

static struct kv_io_held find(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t n)
{
    struct kv_io_held held;
    io->find(io->ctx, chat, FP, ids, n, &held);
    return held;
}

static void expect_states(const struct kv_io *io, int64_t chat, const int32_t *ids,
                          const int32_t *at, size_t n)
{
    size_t i = 0;
    for (int32_t n_tok = 1; n_tok <= N_TOK; n_tok++) {
        bool want = i < n && at[i] == n_tok;
        assert_int_equal(count(io, chat, ids, n_tok, KV_IO_STATES, NULL), want ? LAYERS : -1);
        i += want;
    }
}
#define EXPECT_STATES(...)                                                                         \
    do {                                                                                           \
        const int32_t at_[] = {__VA_ARGS__};                                                       \
        expect_states(io, id, ids, at_, sizeof at_ / sizeof *at_);                                 \
    } while (0)

/* Of rows and states; the tests put rows as large as these. */
static int64_t fixed_bytes(struct sessions *s, int64_t id)
{
    int64_t t[SESSIONS_TIERS], states;
    CHECK_OK(sessions_kv_sizes(s, id, t, &states, &err_seen));
    return t[0] + states;
}

static void kvstore__states__come_back_beside_pages_and_rows(void **state)
{
    int32_t *ids = log_new(1);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids);
    put(io, id, ids, 64, 1);
    put(io, id, ids, 128, 1);
    put(io, id, ids, 128, KV_IO_WINDOW); /* three kinds at one point */
    put(io, id, ids, 128, KV_IO_STATE);
    put(io, id, ids, 70, KV_IO_STATE);
    put(io, id, ids, 190, KV_IO_WINDOW);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(count(io, id, ids, 128, KV_IO_PAGES, NULL), 2 * LAYERS);
        assert_int_equal(count(io, id, ids, 128, KV_IO_ROWS, NULL), LAYERS);
        assert_int_equal(count(io, id, ids, 128, KV_IO_STATES, NULL), LAYERS);
        assert_int_equal(count(io, id, ids, 190, KV_IO_STATES, NULL), -1);
        struct kv_io_held h = find(io, id, ids, N_TOK);
        assert_int_equal(h.n_block, 2);
        assert_int_equal(h.n_rows, 190);
        assert_int_equal(h.n_state, 128);
        h = find(io, id, ids, 127);
        assert_int_equal(h.n_block, 1);
        assert_int_equal(h.n_rows, 0);
        assert_int_equal(h.n_state, 70);
        assert_int_equal(find(io, id, ids, 69).n_state, 0);
        ids[100]++; /* an edited log has the states before the edit */
        assert_int_equal(find(io, id, ids, N_TOK).n_state, 70);
        ids[100]--;
        io->find(io->ctx, id, FP + 1, ids, N_TOK, &h);
        assert_int_equal(h.n_state, 0);
        assert_int_equal(fixed_bytes(s, id), 4 * LAYERS * STATE_BYTES);
        sessions_close(s);
        s = store_new();
        io = sessions_kv_io(s);
    }
    sessions_close(s);
    free(ids);
}

static void kvstore__states__only_the_newest_are_kept(void **state)
{
    int32_t *ids = log_new(2);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids);
    put(io, id, ids, 90, KV_IO_WINDOW);
    for (int32_t n = 100; n <= 600; n += 100)
        put(io, id, ids, n, KV_IO_STATE);
    EXPECT_STATES(400, 500, 600);
    assert_int_equal(fixed_bytes(s, id), 4 * LAYERS * STATE_BYTES);
    int64_t t[SESSIONS_TIERS], states;
    CHECK_OK(sessions_kv_sizes(s, id, t, &states, &err_seen));
    assert_int_equal(t[0], LAYERS * STATE_BYTES); /* rows */
    assert_int_equal(states, 3 * LAYERS * STATE_BYTES);
    put(io, id, ids, 50, KV_IO_STATE); /* newest is what was put last */
    EXPECT_STATES(50, 500, 600);
    /* Rows have rules of their own. */
    assert_int_equal(count(io, id, ids, 90, KV_IO_ROWS, NULL), LAYERS);
    for (int32_t n = 201; n <= 601; n += 100)
        put(io, id, ids, n, KV_IO_WINDOW);
    EXPECT_STATES(50, 500, 600);
    assert_int_equal(count(io, id, ids, 501, KV_IO_ROWS, NULL), LAYERS);
    assert_int_equal(count(io, id, ids, 401, KV_IO_ROWS, NULL), -1);
    sessions_close(s);
    free(ids);
}

/* One question answered again and again: its own state is the one that is needed each time. */
static void kvstore__states__used_again_count_as_new(void **state)
{
    int32_t *ids = log_new(3);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids);
    put(io, id, ids, 100, KV_IO_STATE);
    for (int32_t n = 201; n <= 206; n++) {
        assert_int_equal(count(io, id, ids, 100, KV_IO_STATES, NULL), LAYERS);
        put(io, id, ids, n, KV_IO_STATE);
    }
    EXPECT_STATES(100, 205, 206);
    for (int32_t n = 301; n <= 306; n++) { /* the same, by putting it again */
        put(io, id, ids, 204, KV_IO_STATE);
        put(io, id, ids, n, KV_IO_STATE);
    }
    EXPECT_STATES(204, 305, 306);
    assert_int_equal(fixed_bytes(s, id), 3 * LAYERS * STATE_BYTES);
    struct sessions_health h;
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_true(h.kv_ok);
    sessions_close(s);
    free(ids);
}

static void kvstore__states__are_shared_by_forks_and_chats_that_begin_alike(void **state)
{
    int32_t *ids = log_new(4), n;
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t a, fork_id, alike = chat_with_log(s, ids);
    struct sessions_message *m;
    CHECK_OK(sessions_create(s, "m", &a, &err_seen));
    int64_t first = store_say(s, a, 0, "user", "question");
    sessions_set_ids(s, first, ids, 300);
    int64_t second = store_say(s, a, first, "user", "another");
    sessions_set_ids(s, second, ids + 300, N_TOK - 300);
    for (int32_t at = 200; at <= 400; at += 100)
        put(io, a, ids, at, KV_IO_STATE);
    CHECK_OK(sessions_path_load(s, a, &m, &n, &err_seen));
    CHECK_OK(sessions_fork(s, a, m[0].id, &fork_id, &err_seen));
    sessions_messages_free(m, n);
    assert_int_equal(fixed_bytes(s, fork_id), 2 * LAYERS * STATE_BYTES); /* 200 and 300 */
    assert_int_equal(find(io, alike, ids, 250).n_state, 200);
    assert_int_equal(fixed_bytes(s, alike), LAYERS * STATE_BYTES); /* the one it goes on with */
    CHECK_OK(sessions_delete(s, a, &err_seen));
    assert_int_equal(count(io, fork_id, ids, 200, KV_IO_STATES, NULL), LAYERS);
    assert_int_equal(count(io, fork_id, ids, 300, KV_IO_STATES, NULL), LAYERS);
    assert_int_equal(count(io, fork_id, ids, 400, KV_IO_STATES, NULL), -1);
    CHECK_OK(sessions_delete(s, fork_id, &err_seen));
    assert_int_equal(find(io, alike, ids, N_TOK).n_state, 200);
    CHECK_OK(sessions_delete(s, alike, &err_seen));
    assert_int_equal(count(io, alike, ids, 200, KV_IO_STATES, NULL), -1);
    sessions_close(s);
    free(ids);
}

static void run_sql(const char *sql)
{
    sqlite3 *db;
    char *said = NULL;
    assert_int_equal(sqlite3_open(store_file("dogear-kv.db"), &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &said) != SQLITE_OK)
        fail_msg("%s: %s", sql, said);
    sqlite3_close(db);
}

/* Pages and rows at 128 tokens, states at 100 and 128; one layer of the newer one is damaged. */
static struct sessions *store_damaged(const int32_t *ids, int64_t *ret_id)
{
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    *ret_id = chat_with_log(s, ids);
    put(io, *ret_id, ids, 128, 1);
    put(io, *ret_id, ids, 128, KV_IO_WINDOW);
    put(io, *ret_id, ids, 100, KV_IO_STATE);
    put(io, *ret_id, ids, 128, KV_IO_STATE);
    sessions_close(s);
    run_sql("UPDATE chunk_state SET data = zeroblob(length(data)) WHERE id = (SELECT p.first"
            " FROM piece p JOIN block b ON b.id = p.block"
            " WHERE b.state = 2 AND b.n_tok = 128 AND p.layer = 1)");
    return store_new();
}

static void kvstore__states__damaged_are_missing_as_a_whole(void **state)
{
    int32_t *ids = log_new(5), n_bad;
    int64_t id;
    struct sessions *s = store_damaged(ids, &id);
    const struct kv_io *io = sessions_kv_io(s);
    assert_int_equal(find(io, id, ids, N_TOK).n_state, 128); /* nobody has looked yet */
    assert_int_equal(count(io, id, ids, 128, KV_IO_STATES, &n_bad), LAYERS - 1);
    assert_int_equal(n_bad, 1);
    /* Seen to be of no use, it is out of the way of the one before. */
    assert_int_equal(find(io, id, ids, N_TOK).n_state, 100);
    EXPECT_STATES(100);
    assert_int_equal(count(io, id, ids, 128, KV_IO_PAGES, &n_bad), 2 * LAYERS);
    assert_int_equal(count(io, id, ids, 128, KV_IO_ROWS, &n_bad), LAYERS);
    assert_int_equal(fixed_bytes(s, id), 2 * LAYERS * STATE_BYTES);
    put(io, id, ids, 128, KV_IO_STATE);
    EXPECT_STATES(100, 128);
    sessions_close(s);
    free(ids);
}

static void sessions__check__finds_and_repairs_damaged_states(void **state)
{
    int32_t *ids = log_new(6);
    int64_t id;
    struct sessions_health h;
    struct sessions *s = store_damaged(ids, &id);
    const struct kv_io *io = sessions_kv_io(s);
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_false(h.kv_ok);
    assert_non_null(strstr(h.detail, "1 damaged"));
    CHECK_OK(sessions_check(s, true, &h, &err_seen));
    assert_true(h.kv_ok);
    EXPECT_STATES(100);
    assert_int_equal(count(io, id, ids, 128, KV_IO_PAGES, NULL), 2 * LAYERS);
    assert_int_equal(count(io, id, ids, 128, KV_IO_ROWS, NULL), LAYERS);
    sessions_close(s);
    /* Rows that say they are a state are damage, too. */
    run_sql("UPDATE block SET state = 2 WHERE state = 1");
    s = store_new();
    io = sessions_kv_io(s);
    CHECK_OK(sessions_check(s, true, &h, &err_seen));
    assert_int_equal(count(io, id, ids, 128, KV_IO_STATES, NULL), -1);
    EXPECT_STATES(100);
    sessions_close(s);
    free(ids);
}

static void kvstore__thin__keeps_the_newest_state_as_long_as_pages(void **state)
{
    int32_t *ids = log_new(7);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids);
    put(io, id, ids, 64, 5);
    for (int32_t n = 70; n <= 90; n += 10)
        put(io, id, ids, n, KV_IO_STATE);
    assert_int_equal(fixed_bytes(s, id), 3 * LAYERS * STATE_BYTES);
    for (int depth = 2; depth <= 6; depth++) {
        CHECK_OK(sessions_thin(s, id, depth, NULL, &err_seen));
        EXPECT_STATES(90);
        assert_int_equal(count(io, id, ids, 64, KV_IO_PAGES, NULL), (7 - depth) * LAYERS);
    }
    CHECK_OK(sessions_thin(s, id, 7, NULL, &err_seen));
    EXPECT_STATES(0);
    assert_int_equal(count(io, id, ids, 64, KV_IO_PAGES, NULL), -1);
    assert_int_equal(fixed_bytes(s, id), 0);
    sessions_close(s);
    free(ids);
}

/* A chat on its own goes over the budget: what is given up first is what only branches need. */
static void kvstore__budget__keeps_the_newest_state_of_the_chat_at_hand(void **state)
{
    enum { BYTES = 4 << 20 };
    int32_t *ids = log_new(8);
    unsigned char *data = mem_alloc(BYTES);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    struct sessions_budget b;
    int64_t id = chat_with_log(s, ids);
    CHECK_OK(sessions_budget_set(s, 3 * BYTES, &err_seen));
    put(io, id, ids, 64, 5);
    for (int32_t n = 100; n <= 600; n += 100) {
        uint64_t hash = kv_io_hash(KV_IO_HASH_EMPTY, ids, n);
        fill(data, BYTES, hash, 0, KV_IO_STATE);
        struct kv_piece p = {0, 0, n, KV_IO_STATE, data, BYTES};
        io->put(io->ctx, id, FP, n, hash, &p, 1);
        for (int i = 0; i < 1000; i++) { /* thinning is queued behind what made it needed */
            CHECK_OK(sessions_budget_get(s, &b, &err_seen));
            if (b.used_bytes <= b.limit_bytes)
                break;
        }
        assert_true(b.used_bytes <= b.limit_bytes);
        assert_int_equal(find(io, id, ids, N_TOK).n_state, n);
        assert_int_equal(find(io, id, ids, N_TOK).n_block, 1);
    }
    sessions_close(s);
    free(data);
    free(ids);
}

struct large {
    const unsigned char *data;
    size_t layer_bytes;
    int n;
};

static bool see_large(void *ctx, const struct kv_piece *p)
{
    struct large *v = ctx;
    assert_int_equal(p->size_bytes, v->layer_bytes);
    assert_memory_equal(p->data, v->data + (size_t)p->layer * v->layer_bytes, v->layer_bytes);
    v->n++;
    return true;
}

/* A state of many megabytes with every turn: written once, and the memory to read it is given back. */
static void kvstore__states__cost_what_they_hold(void **state)
{
    enum { TURNS = 5, LAYERS_LARGE = 5, LAYER_BYTES = 8 << 20, BYTES = LAYERS_LARGE * LAYER_BYTES };
    unsigned char *data = mem_alloc(BYTES);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id, before = 0, t[SESSIONS_TIERS];
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    for (int turn = 1; turn <= 2 * TURNS; turn++) {
        struct kv_piece p[LAYERS_LARGE];
        fill(data, BYTES, (uint64_t)turn, 0, KV_IO_STATE);
        for (int i = 0; i < LAYERS_LARGE; i++)
            p[i] = (struct kv_piece){
                i, 0, 100 * turn, KV_IO_STATE, data + (size_t)i * LAYER_BYTES, LAYER_BYTES};
        if (turn == TURNS + 1)
            before = store_written_bytes();
        io->put(io->ctx, id, FP, 100 * turn, (uint64_t)turn, p, LAYERS_LARGE);
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    }
    CHECK_OK(sessions_flush(s, &err_seen));
    double n = (double)(store_written_bytes() - before) / TURNS / BYTES;
    print_message("# %.2f bytes written for one of state\n", n);
    struct large v = {data, LAYER_BYTES, 0};
    assert_int_equal(
        io->load(io->ctx, id, FP, 2 * TURNS, 200 * TURNS, KV_IO_STATES, see_large, &v), 0);
    assert_int_equal(v.n, LAYERS_LARGE);
    assert_true(s->kv->n_reader > 0);
    for (int32_t i = 0; i < s->kv->n_reader; i++)
        assert_true(s->kv->reader[i]->packed.size <= KVSTORE_BUFFER_KEPT_BYTES);
    assert_true(n <= 1.25);
    sessions_close(s);
    free(data);
}

/* Rows that do not compress say nothing about states of the same number, nor the other way round. */
static void kvstore__states__are_compressed_by_their_own_record(void **state)
{
    int32_t *ids = log_new(9);
    unsigned char zero[STATE_BYTES] = {0};
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids), other = chat_with_log(s, ids);
    for (int32_t n = 100; n < 120; n++)
        put(io, id, ids, n, KV_IO_WINDOW);
    struct kv_piece p = {0, 0, 200, KV_IO_STATE, zero, sizeof zero};
    io->put(io->ctx, other, FP, 200, kv_io_hash(KV_IO_HASH_EMPTY, ids, 200), &p, 1);
    assert_in_range(fixed_bytes(s, other), 1, STATE_BYTES / 10);
    sessions_close(s);
    free(ids);
}

/* A file of the time before there were states: same version, no index for them. */
static void kvstore__states__go_into_files_made_before(void **state)
{
    int32_t *ids = log_new(10);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids), n_index = 0;
    put(io, id, ids, 64, 1);
    put(io, id, ids, 100, KV_IO_WINDOW);
    sessions_close(s);
    run_sql("DROP INDEX block_states");
    s = store_new();
    io = sessions_kv_io(s);
    put(io, id, ids, 100, KV_IO_STATE);
    struct kv_io_held h = find(io, id, ids, N_TOK);
    assert_int_equal(h.n_block, 1);
    assert_int_equal(h.n_rows, 100);
    assert_int_equal(h.n_state, 100);
    CHECK_OK(db_int(s->kv->w, &err_seen, &n_index,
                    "SELECT count(*) FROM sqlite_schema WHERE name = 'block_states'", ""));
    assert_int_equal(n_index, 1);
    sessions_close(s);
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CASE(kvstore__states__come_back_beside_pages_and_rows),
        STORE_CASE(kvstore__states__only_the_newest_are_kept),
        STORE_CASE(kvstore__states__used_again_count_as_new),
        STORE_CASE(kvstore__states__are_shared_by_forks_and_chats_that_begin_alike),
        STORE_CASE(kvstore__states__damaged_are_missing_as_a_whole),
        STORE_CASE(sessions__check__finds_and_repairs_damaged_states),
        STORE_CASE(kvstore__thin__keeps_the_newest_state_as_long_as_pages),
        STORE_CASE(kvstore__budget__keeps_the_newest_state_of_the_chat_at_hand),
        STORE_CASE(kvstore__states__cost_what_they_hold),
        STORE_CASE(kvstore__states__are_compressed_by_their_own_record),
        STORE_CASE(kvstore__states__go_into_files_made_before),
    };
    return cmocka_run_group_tests_name("states", tests, NULL, NULL);
}
