/* KV pieces: what comes back, what is shared, what fades, what damage does. */
#include "tests/sessions/store_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { LAYERS = 3, GROUPS = 2, PIECE_BYTES = 9000, FP = 77 };

/* Contents that depend on everything that names a piece; every second byte is compressible. */
static void fill(unsigned char *p, uint64_t hash, int layer, int group, int plane)
{
    uint64_t x =
        hash ^ ((uint64_t)layer << 40) ^ ((uint64_t)group << 48) ^ ((uint64_t)(plane + 2) << 56);
    for (int i = 0; i < PIECE_BYTES; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        p[i] = i % 2 && plane % 2 == 0 ? 0 : (unsigned char)(x >> 56);
    }
}

static uint64_t hash_of(const int32_t *ids, int32_t n)
{
    return kv_io_hash(KV_IO_HASH_EMPTY, ids, n);
}

static void put_block(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t block,
                      int planes)
{
    struct kv_piece p[LAYERS * GROUPS * KV_IO_PLANES];
    unsigned char *data = mem_alloc(sizeof p / sizeof *p * PIECE_BYTES);
    int32_t end = (block + 1) * 64;
    uint64_t hash = hash_of(ids, end);
    int n = 0;
    for (int l = 0; l < LAYERS; l++)
        for (int g = 0; g < GROUPS; g++)
            for (int plane = 0; plane < planes; plane++, n++) {
                fill(data + n * PIECE_BYTES, hash, l, g, plane);
                p[n] = (struct kv_piece){l, g, block, plane, data + n * PIECE_BYTES, PIECE_BYTES};
            }
    io->put(io->ctx, chat, FP, end, hash, p, n);
    free(data);
}

static void put_rows(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t n_tok)
{
    unsigned char data[PIECE_BYTES];
    uint64_t hash = hash_of(ids, n_tok);
    fill(data, hash, -1, 0, KV_IO_WINDOW);
    struct kv_piece p = {-1, 0, n_tok, KV_IO_WINDOW, data, sizeof data};
    io->put(io->ctx, chat, FP, n_tok, hash, &p, 1);
}

/* 1 = there and right, 0 = missing; anything else fails the test. */
static int check_piece(const struct kv_io *io, int64_t chat, uint64_t fp, const int32_t *ids,
                       int32_t block, int l, int g, int plane)
{
    unsigned char want[PIECE_BYTES];
    struct kv_piece p = {.layer = l, .head_group = g, .block = block, .plane = plane};
    uint64_t hash = hash_of(ids, plane < 0 ? block : (block + 1) * 64);
    void *owned = NULL;
    if (!store_get(io, chat, fp, hash, &p, &owned))
        return 0;
    fill(want, hash, l, g, plane);
    assert_int_equal(p.size_bytes, PIECE_BYTES);
    assert_memory_equal(p.data, want, PIECE_BYTES);
    free(owned);
    return 1;
}

static int count_pieces(const struct kv_io *io, int64_t chat, const int32_t *ids, int32_t n_block)
{
    int n = 0;
    for (int32_t b = 0; b < n_block; b++)
        for (int l = 0; l < LAYERS; l++)
            for (int g = 0; g < GROUPS; g++)
                for (int plane = 0; plane < KV_IO_PLANES; plane++)
                    n += check_piece(io, chat, FP, ids, b, l, g, plane);
    return n;
}

static int32_t *log_new(int32_t n, int32_t seed)
{
    int32_t *ids = mem_alloc((size_t)n * sizeof *ids);
    for (int32_t i = 0; i < n; i++)
        ids[i] = i * 31 + seed;
    return ids;
}

static int64_t chat_with_log(struct sessions *s, const int32_t *ids, int32_t n)
{
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t m = store_say(s, id, 0, "user", "question");
    sessions_set_ids(s, m, ids, n);
    return id;
}

static int64_t kv_bytes(struct sessions *s, int64_t id)
{
    int64_t t[SESSIONS_TIERS], sum = 0;
    CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    for (int i = 0; i < SESSIONS_TIERS; i++)
        sum += t[i];
    return sum;
}

static void kvstore__get__returns_what_was_put_after_reopening(void **state)
{
    int32_t *ids = log_new(300, 1);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    assert_non_null(io);
    int64_t id = chat_with_log(s, ids, 300);
    for (int32_t b = 0; b < 4; b++)
        put_block(io, id, ids, b, 4);
    put_rows(io, id, ids, 290);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(count_pieces(io, id, ids, 4), 4 * LAYERS * GROUPS * 4);
        assert_int_equal(check_piece(io, id, FP, ids, 290, -1, 0, KV_IO_WINDOW), 1);
        assert_int_equal(check_piece(io, id, FP, ids, 289, -1, 0, KV_IO_WINDOW), 0);
        assert_int_equal(check_piece(io, id, FP + 1, ids, 0, 0, 0, 0), 0);
        struct kv_io_held held;
        io->find(io->ctx, id, FP, ids, 300, &held);
        assert_int_equal(held.n_block, 4);
        assert_int_equal(held.n_rows, 290);
        io->find(io->ctx, id, FP, ids, 200, &held);
        assert_int_equal(held.n_block, 3);
        assert_int_equal(held.n_rows, 0);
        io->find(io->ctx, id, FP + 1, ids, 300, &held);
        assert_int_equal(held.n_block, 0);
        assert_int_equal(held.n_rows, 0);
        ids[70]++; /* an edited log shares only what comes before the edit */
        io->find(io->ctx, id, FP, ids, 300, &held);
        assert_int_equal(held.n_block, 1);
        assert_int_equal(held.n_rows, 0);
        assert_int_equal(check_piece(io, id, FP, ids, 1, 0, 0, 0), 0);
        ids[70]--;
        sessions_close(s);
        s = store_new();
        io = sessions_kv_io(s);
    }
    int64_t t[SESSIONS_TIERS];
    CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    assert_true(t[3] > 0); /* planes 0..3 = 6/4 */
    assert_true(t[0] > 0); /* the window */
    for (int i = 1; i < SESSIONS_TIERS; i++)
        if (i != 3)
            assert_int_equal(t[i], 0);
    /* Planes that compress to half are stored so; the others as they are. */
    assert_true(t[3] < 4 * LAYERS * GROUPS * 4 * PIECE_BYTES * 85 / 100);
    assert_true(t[3] > 4 * LAYERS * GROUPS * 4 * PIECE_BYTES * 70 / 100);
    sessions_close(s);
    free(ids);
}

struct visited {
    int n, stop_after;
    int last;
    uint64_t hash;
    int32_t block;
};

static bool visit(void *ctx, const struct kv_piece *p)
{
    struct visited *v = ctx;
    unsigned char want[PIECE_BYTES];
    int order = (p->layer * GROUPS + p->head_group) * KV_IO_PLANES + p->plane;
    assert_true(order > v->last);
    v->last = order;
    assert_int_equal(p->block, v->block);
    fill(want, v->hash, p->layer, p->head_group, p->plane);
    assert_int_equal(p->size_bytes, PIECE_BYTES);
    assert_memory_equal(p->data, want, PIECE_BYTES);
    return ++v->n != v->stop_after;
}

static void kvstore__load__visits_a_block_in_order(void **state)
{
    int32_t *ids = log_new(200, 5);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids, 200);
    put_block(io, id, ids, 1, 3);
    struct visited v = {.last = -1, .hash = hash_of(ids, 128), .block = 1};
    assert_int_equal(io->load(io->ctx, id, FP, v.hash, 128, false, visit, &v), 0);
    assert_int_equal(v.n, LAYERS * GROUPS * 3);
    v = (struct visited){.last = -1, .hash = v.hash, .block = 1, .stop_after = 2};
    assert_int_equal(io->load(io->ctx, id, FP, v.hash, 128, false, visit, &v), 0);
    assert_int_equal(v.n, 2);
    assert_int_equal(io->load(io->ctx, id, FP, v.hash, 128, true, visit, &v), -1);
    assert_int_equal(io->load(io->ctx, id, FP, v.hash + 1, 128, false, visit, &v), -1);
    sessions_close(s);
    free(ids);
}

static void kvstore__fork__shares_pages_and_delete_frees_the_last(void **state)
{
    int32_t *ids = log_new(256, 9);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t a = chat_with_log(s, ids, 256), b, c;
    struct sessions_message *m;
    struct sessions_budget before, after;
    int32_t n;
    struct kv_io_held held;
    for (int32_t i = 0; i < 4; i++)
        put_block(io, a, ids, i, 3);
    CHECK_OK(sessions_budget_get(s, &before, &err_seen));
    CHECK_OK(sessions_path_load(s, a, &m, &n, &err_seen));
    CHECK_OK(sessions_fork(s, a, m[0].id, &b, &err_seen));
    sessions_messages_free(m, n);
    assert_int_equal(kv_bytes(s, a), kv_bytes(s, b));
    CHECK_OK(sessions_budget_get(s, &after, &err_seen));
    assert_true(after.used_bytes - before.used_bytes < 100000);
    /* The same pages put again, by another chat that begins alike, cost nothing either. */
    c = chat_with_log(s, ids, 256);
    for (int32_t i = 0; i < 4; i++)
        put_block(io, c, ids, i, 3);
    CHECK_OK(sessions_budget_get(s, &after, &err_seen));
    assert_true(after.used_bytes - before.used_bytes < 100000);
    CHECK_OK(sessions_delete(s, a, &err_seen));
    assert_int_equal(count_pieces(io, b, ids, 4), 4 * LAYERS * GROUPS * 3);
    CHECK_OK(sessions_delete(s, b, &err_seen));
    assert_int_equal(count_pieces(io, c, ids, 4), 4 * LAYERS * GROUPS * 3);
    CHECK_OK(sessions_delete(s, c, &err_seen));
    io->find(io->ctx, 1, FP, ids, 256, &held);
    assert_int_equal(held.n_block, 0);
    /* Pages for a conversation that is gone are not taken. */
    put_block(io, c, ids, 0, 1);
    io->find(io->ctx, c, FP, ids, 256, &held);
    assert_int_equal(held.n_block, 0);
    sessions_close(s);
    free(ids);
}

static int64_t file_bytes(const char *name)
{
    struct stat sb;
    return stat(store_file(name), &sb) == 0 ? (int64_t)sb.st_size : 0;
}

/* A conversation of 16 K tokens is forked: only who uses what is written. */
static void kvstore__fork__of_a_long_chat_takes_next_to_nothing(void **state)
{
    enum { BLOCKS = 256 };
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int32_t *ids = mem_calloc(BLOCKS * 64, sizeof *ids);
    int64_t id, fork_id, t[SESSIONS_TIERS], shared[SESSIONS_TIERS];
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t m = store_say(s, id, 0, "user", "a long one");
    sessions_set_ids(s, m, ids, BLOCKS * 64);
    for (int32_t b = 0; b < BLOCKS; b++)
        put_block(io, id, ids, b, 3);
    CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    int64_t before =
        file_bytes("dogear.db") + file_bytes("dogear-kv.db") + file_bytes("dogear.db-wal");
    CHECK_OK(sessions_fork(s, id, m, &fork_id, &err_seen));
    CHECK_OK(sessions_kv_sizes(s, fork_id, shared, NULL, &err_seen));
    int64_t grown =
        file_bytes("dogear.db") + file_bytes("dogear-kv.db") + file_bytes("dogear.db-wal") - before;
    assert_memory_equal(t, shared, sizeof t);
    print_message("# the files grew by %lld bytes\n", (long long)grown);
    assert_true(grown < 100000);
    free(ids);
    sessions_close(s);
}

static void kvstore__thin__drops_planes_and_keeps_text(void **state)
{
    int32_t *ids = log_new(128, 3);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids, 128), t[SESSIONS_TIERS];
    for (int32_t i = 0; i < 2; i++)
        put_block(io, id, ids, i, 6);
    put_rows(io, id, ids, 128);
    for (int depth = 1; depth <= 6; depth++) {
        CHECK_OK(sessions_thin(s, id, depth, NULL, &err_seen));
        assert_int_equal(count_pieces(io, id, ids, 2), 2 * LAYERS * GROUPS * (7 - depth));
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
        for (int i = 1; i < SESSIONS_TIERS; i++)
            assert_int_equal(t[i] > 0, i == depth);
    }
    assert_int_equal(check_piece(io, id, FP, ids, 128, -1, 0, KV_IO_WINDOW), 1);
    CHECK_OK(sessions_thin(s, id, 7, NULL, &err_seen));
    assert_int_equal(kv_bytes(s, id), 0);
    assert_int_equal(check_piece(io, id, FP, ids, 128, -1, 0, KV_IO_WINDOW), 0);
    char *text = store_path_text(s, id);
    assert_string_equal(text, "user:question");
    free(text);
    assert_int_equal(sessions_thin(s, id, 8, NULL, &err_seen), ERR_USAGE);
    assert_int_equal(sessions_thin(s, 999, 4, NULL, &err_seen), ERR_NOT_FOUND);
    sessions_close(s);
    free(ids);
}

static void kvstore__thin__shared_pages_stay_as_fine_as_the_least_thinned(void **state)
{
    int32_t *ids = log_new(128, 3);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t a = chat_with_log(s, ids, 128), b;
    struct sessions_message *m;
    int32_t n;
    put_block(io, a, ids, 0, 5);
    CHECK_OK(sessions_path_load(s, a, &m, &n, &err_seen));
    CHECK_OK(sessions_fork(s, a, m[0].id, &b, &err_seen));
    sessions_messages_free(m, n);
    CHECK_OK(sessions_thin(s, a, 6, NULL, &err_seen));
    assert_int_equal(count_pieces(io, b, ids, 1), LAYERS * GROUPS * 5);
    CHECK_OK(sessions_thin(s, b, 4, NULL, &err_seen));
    assert_int_equal(count_pieces(io, b, ids, 1), LAYERS * GROUPS * 3);
    /* Memory stepped a page down further: its other planes belong to scales that are gone. */
    unsigned char other[PIECE_BYTES] = {1, 2, 3};
    struct kv_piece p = {1, 1, 0, 0, other, sizeof other};
    io->put(io->ctx, b, FP, 64, hash_of(ids, 64), &p, 1);
    for (int32_t plane = 0; plane < KV_IO_PLANES; plane++) {
        struct kv_piece back = {.layer = 1, .head_group = 1, .plane = plane};
        void *owned;
        assert_int_equal(store_get(io, b, FP, hash_of(ids, 64), &back, &owned), plane == 0);
        free(owned);
    }
    struct kv_piece near = {.layer = 1, .head_group = 0, .plane = 2};
    void *owned;
    assert_true(store_get(io, b, FP, hash_of(ids, 64), &near, &owned));
    free(owned);
    sessions_close(s);
    free(ids);
}

static void kvstore__budget__thins_the_oldest_chats_but_not_pinned_ones(void **state)
{
    enum { CHATS = 6, BLOCKS = 40 };
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id[CHATS];
    int32_t *ids[CHATS];
    struct sessions_budget b;
    struct stat sb;
    CHECK_OK(sessions_budget_get(s, &b, &err_seen));
    assert_true(b.automatic);
    assert_true(b.limit_bytes >= 256 << 20);
    for (int i = 0; i < CHATS; i++) {
        ids[i] = log_new(BLOCKS * 64, 1000 * i);
        id[i] = chat_with_log(s, ids[i], BLOCKS * 64);
        for (int32_t k = 0; k < BLOCKS; k++)
            put_block(io, id[i], ids[i], k, 5);
        CHECK_OK(sessions_budget_get(s, &b, &err_seen)); /* waits: uses are ordered in time */
        usleep(2000);
    }
    int64_t full = kv_bytes(s, id[0]), last = kv_bytes(s, id[CHATS - 1]), was = b.used_bytes;
    CHECK_OK(sessions_pin(s, id[0], true, &err_seen));
    CHECK_OK(sessions_budget_set(s, was * 8 / 10, &err_seen));
    CHECK_OK(sessions_budget_get(s, &b, &err_seen));
    assert_false(b.automatic);
    assert_true(b.used_bytes <= b.limit_bytes);
    assert_int_equal(kv_bytes(s, id[0]), full);
    assert_true(kv_bytes(s, id[1]) < full * 9 / 10);
    assert_int_equal(kv_bytes(s, id[CHATS - 1]), last);
    CHECK_OK(sessions_budget_set(s, was * 3 / 10, &err_seen));
    assert_int_equal(kv_bytes(s, id[0]), full);
    assert_true(kv_bytes(s, id[CHATS - 1]) > 0);
    assert_int_equal(count_pieces(io, id[0], ids[0], BLOCKS), BLOCKS * LAYERS * GROUPS * 5);
    CHECK_OK(sessions_budget_get(s, &b, &err_seen));
    assert_true(b.used_bytes <= b.limit_bytes);
    /* New pages keep it so, without being asked. */
    int32_t *more = log_new(BLOCKS * 64, 77777);
    int64_t late = chat_with_log(s, more, BLOCKS * 64);
    for (int32_t k = 0; k < BLOCKS; k++)
        put_block(io, late, more, k, 5);
    for (int i = 0; i < 1000; i++) { /* the file shrinks in the background, not only its use */
        CHECK_OK(sessions_budget_get(s, &b, &err_seen));
        assert_int_equal(stat(store_file("dogear-kv.db"), &sb), 0);
        if (b.used_bytes <= b.limit_bytes && sb.st_size < was / 2)
            break;
        usleep(10000);
    }
    assert_true(b.used_bytes <= b.limit_bytes);
    sessions_close(s);
    assert_int_equal(stat(store_file("dogear-kv.db"), &sb), 0);
    assert_true(sb.st_size < was / 2);
    for (int i = 0; i < CHATS; i++)
        free(ids[i]);
    free(more);
}

static void kvstore__rows__only_the_newest_are_kept(void **state)
{
    int32_t *ids = log_new(500, 2);
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int64_t id = chat_with_log(s, ids, 500);
    for (int32_t n = 99; n <= 499; n += 100)
        put_rows(io, id, ids, n);
    int found = 0;
    for (int32_t n = 99; n <= 499; n += 100)
        found += check_piece(io, id, FP, ids, n, -1, 0, KV_IO_WINDOW);
    assert_int_equal(found, 2);
    assert_int_equal(check_piece(io, id, FP, ids, 499, -1, 0, KV_IO_WINDOW), 1);
    /* An end stays with the rows of its block and of the one before, however long ago those were
     * put. */
    static const int32_t puts[] = {64, 80, 128, 130, 140, 128, 144, 150, 176, 192, 200},
                         kept[] = {80, 128, 144, 150, 176, 192, 200};
    for (size_t i = 0; i < sizeof puts / sizeof *puts; i++)
        put_rows(io, id, ids, puts[i]);
    for (int32_t n = 1, i = 0; n <= 500; n++) {
        bool want = i < 7 && n == kept[i];
        assert_int_equal(check_piece(io, id, FP, ids, n, -1, 0, KV_IO_WINDOW), want);
        i += want;
    }
    sessions_close(s);
    free(ids);
}

/* Turns of 192 tokens in the shape of a 1 B model at 4/4 (16 layers, 8 KV heads of 64 channels),
 * each block committed on its own, as when the model is slow, the answer streamed as it grows. */
static void kvstore__turn__writes_at_most_twice_its_pages(void **state)
{
    enum { TURNS = 8, BASE = 8 * 2624, PLANE = 8 * 1024, PIECES = 3 * 16 };
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    unsigned char *data = mem_alloc(BASE + PLANE + PLANE);
    char text[1000];
    int32_t ids[200] = {0};
    int64_t id, parent = 0, before = 0, sealed = 0, t[SESSIONS_TIERS];
    uint32_t x = 1;
    for (int i = 0; i < BASE + PLANE + PLANE; i++) /* nothing to compress */
        data[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    memset(text, 'a', sizeof text);
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    for (int turn = 0; turn < 2 * TURNS; turn++) {
        if (turn == TURNS) /* the first turns fill tables and files */
            before = store_written_bytes();
        parent = store_say(s, id, parent, "user", "what about this then?");
        parent = store_say(s, id, parent, "assistant", "");
        for (int n = 20; n <= 200; n += 20) {
            sessions_stream(s, parent, text, (size_t)n * 5, ids, n);
            CHECK_OK(sessions_flush(s, &err_seen));
        }
        sessions_finish(s, parent, text, sizeof text, ids, 200, "eos");
        for (int b = 3 * turn; b < 3 * turn + 3; b++) {
            struct kv_piece p[PIECES];
            for (int i = 0; i < PIECES; i++) {
                data[0]++; /* no two alike */
                p[i] = (struct kv_piece){
                    i / 3, 0, b, i % 3, i % 3 ? data + BASE : data, i % 3 ? PLANE : BASE};
                if (turn >= TURNS)
                    sealed += (int64_t)p[i].size_bytes;
            }
            io->put(io->ctx, id, FP, (b + 1) * 64, (uint64_t)b + 1, p, PIECES);
            CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
        }
    }
    CHECK_OK(sessions_flush(s, &err_seen));
    int64_t n = store_written_bytes() - before;
    print_message("# %.2f bytes written for one sealed\n", (double)n / (double)sealed);
    assert_true(n <= 2 * sealed);
    free(data);
    sessions_close(s);
}

/* State goes with every turn of a program that ends after it: what is replaced costs nothing. */
static void kvstore__rows__cost_what_they_hold(void **state)
{
    enum { TURNS = 12, LAYERS_1B = 16, LAYER_BYTES = 100000 };
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    unsigned char *data = mem_alloc(LAYERS_1B * LAYER_BYTES);
    int64_t id, before = 0, t[SESSIONS_TIERS];
    uint32_t x = 1;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    for (int turn = 0; turn < 2 * TURNS; turn++) {
        struct kv_piece p[LAYERS_1B];
        for (int i = 0; i < LAYERS_1B * LAYER_BYTES; i++) /* nothing to compress */
            data[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
        for (int i = 0; i < LAYERS_1B; i++)
            p[i] = (struct kv_piece){
                i, 0, 200 * turn + 100, KV_IO_WINDOW, data + i * LAYER_BYTES, LAYER_BYTES};
        if (turn == TURNS)
            before = store_written_bytes();
        io->put(io->ctx, id, FP, 200 * turn + 100, (uint64_t)turn + 1, p, LAYERS_1B);
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    }
    double n = (double)(store_written_bytes() - before) / TURNS / (LAYERS_1B * LAYER_BYTES);
    print_message("# %.2f bytes written for one of state\n", n);
    assert_true(n <= 1.25);
    free(data);
    sessions_close(s);
}

/* Keys and values tell a lot about the words that made them. */
static void kvstore__delete__leaves_no_bytes_in_the_file(void **state)
{
    enum { BYTES = 60000, SEEN = 64 };
    static unsigned char data[BYTES], file[1 << 20];
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    int32_t *ids = log_new(64, 3);
    int64_t id = chat_with_log(s, ids, 64), t[SESSIONS_TIERS];
    uint32_t x = 1;
    for (int i = 0; i < BYTES; i++) /* nothing to compress */
        data[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    struct kv_piece p = {.data = data, .size_bytes = BYTES};
    io->put(io->ctx, id, FP, 64, hash_of(ids, 64), &p, 1);
    for (int pass = 0; pass < 2; pass++) {
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen)); /* commits */
        FILE *f = fopen(store_file("dogear-kv.db"), "r");
        size_t n = fread(file, 1, sizeof file, f);
        fclose(f);
        assert_true(n > BYTES && n < sizeof file);
        for (int at = 0; at + SEEN <= BYTES; at += BYTES / 7)
            assert_int_equal(memmem(file, n, data + at, SEEN) != NULL, pass == 0);
        if (pass == 0)
            CHECK_OK(sessions_delete(s, id, &err_seen));
    }
    free(ids);
    sessions_close(s);
}

static void kvstore__open__keeps_no_kv_in_memory_and_leaves_foreign_files(void **state)
{
    struct sessions *s;
    struct err e;
    CHECK_OK(sessions_open(":memory:", &s, &err_seen));
    assert_null(sessions_kv_io(s));
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "secret");
    char *text = store_path_text(s, id);
    assert_string_equal(text, "user:secret");
    free(text);
    sessions_close(s);

    FILE *f = fopen(store_file("dogear-kv.db"), "w");
    fputs("my diary, by no means a database; it is long enough to look like one though ......"
          "..........................................................................",
          f);
    fclose(f);
    s = store_new();
    assert_null(sessions_kv_io(s));
    assert_true(sessions_trouble(s, &e));
    assert_non_null(strstr(e.text, "no Dogear file"));
    CHECK_OK(sessions_create(s, "m", &id, &err_seen)); /* text works all the same */
    sessions_close(s);
    char line[16] = "";
    f = fopen(store_file("dogear-kv.db"), "r");
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    assert_string_equal(line, "my diary, by no");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CASE(kvstore__get__returns_what_was_put_after_reopening),
        STORE_CASE(kvstore__load__visits_a_block_in_order),
        STORE_CASE(kvstore__fork__shares_pages_and_delete_frees_the_last),
        STORE_CASE(kvstore__fork__of_a_long_chat_takes_next_to_nothing),
        STORE_CASE(kvstore__thin__drops_planes_and_keeps_text),
        STORE_CASE(kvstore__thin__shared_pages_stay_as_fine_as_the_least_thinned),
        STORE_CASE(kvstore__budget__thins_the_oldest_chats_but_not_pinned_ones),
        STORE_CASE(kvstore__rows__only_the_newest_are_kept),
        STORE_CASE(kvstore__turn__writes_at_most_twice_its_pages),
        STORE_CASE(kvstore__rows__cost_what_they_hold),
        STORE_CASE(kvstore__delete__leaves_no_bytes_in_the_file),
        STORE_CASE(kvstore__open__keeps_no_kv_in_memory_and_leaves_foreign_files),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
