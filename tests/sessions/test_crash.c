/* kill -9 at random moments, and bits that flip in the KV file. STORE_KILLS and STORE_FLIPS set how
 * many (12 and 60 here; 1000 in the long tier). */
#include "tests/sessions/store_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { PAGE_BYTES = 7000, PAGES = 4 };

static int count_of(const char *name, int otherwise)
{
    const char *v = getenv(name);
    return v ? atoi(v) : otherwise;
}

static void fill(unsigned char *p, uint64_t hash, int layer, int plane)
{
    uint64_t x = hash * 0x9e3779b97f4a7c15u + (uint64_t)layer * 131 + (uint64_t)plane;
    for (int i = 0; i < PAGE_BYTES; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        p[i] = plane ? (unsigned char)(x >> 60) : (unsigned char)(x >> 56);
    }
}

static void put_block(const struct kv_io *io, int64_t chat, int block, uint64_t hash)
{
    static unsigned char data[PAGES][PAGE_BYTES];
    struct kv_piece p[PAGES];
    for (int i = 0; i < PAGES; i++) {
        fill(data[i], hash, i / 2, i % 2);
        p[i] = (struct kv_piece){i / 2, 0, block, i % 2, data[i], PAGE_BYTES};
    }
    io->put(io->ctx, chat, 1, (block + 1) * 64, hash, p, PAGES);
}

/* Pieces of a block that come back; each must be right. */
static int good_pieces(const struct kv_io *io, int64_t chat, int block, uint64_t hash)
{
    unsigned char want[PAGE_BYTES];
    int n = 0;
    for (int i = 0; i < PAGES; i++) {
        struct kv_piece p = {.layer = i / 2, .block = block, .plane = i % 2};
        void *owned;
        if (!store_get(io, chat, 1, hash, &p, &owned))
            continue;
        fill(want, hash, i / 2, i % 2);
        assert_int_equal(p.size_bytes, PAGE_BYTES);
        assert_memory_equal(p.data, want, PAGE_BYTES);
        free(owned);
        n++;
    }
    return n;
}

/* ---- kill -9 ---- */

/* What the child says it has made durable; one write, so never torn (< PIPE_BUF). */
struct durable {
    char kind; /* 'u' user message, 's' streamed answer up to len, 'd' conversation deleted */
    int64_t conversation, message;
    int32_t n;
};

static void user_text(char *out, size_t cap, int64_t conversation, int n)
{
    int len = snprintf(out, cap, "question %d of %lld:", n, (long long)conversation);
    for (int i = 0; i < n * 37 % 900 && (size_t)len + 8 < cap; i++)
        len += snprintf(out + len, cap - (size_t)len, " w%d", i);
}

static void tell(int fd, char kind, int64_t conversation, int64_t message, int32_t n)
{
    struct durable d = {kind, conversation, message, n};
    if (write(fd, &d, sizeof d) != sizeof d)
        _exit(3);
}

static void child_turn(struct sessions *s, int fd, int64_t id, int64_t *parent, int turn)
{
    struct err e;
    char text[4096];
    int32_t ids[200];
    const struct kv_io *io = sessions_kv_io(s);
    user_text(text, sizeof text, id, turn);
    if (sessions_add(s, id, *parent, "user", text, strlen(text), parent, &e) != OK)
        _exit(4);
    tell(fd, 'u', id, *parent, turn);
    if (sessions_add(s, id, *parent, "assistant", "", 0, parent, &e) != OK)
        _exit(5);
    for (int i = 0; i < 200; i++)
        ids[i] = turn * 1000 + i;
    memset(text, 'a' + turn % 26, sizeof text);
    for (int n = 20; n <= 200; n += 20) {
        sessions_stream(s, *parent, text, (size_t)n * 10, ids, n);
        if (io)
            put_block(io, id, n / 20, (uint64_t)(id * 1000 + turn * 10 + n / 20));
        if (sessions_flush(s, &e) != OK)
            _exit(6);
        tell(fd, 's', id, *parent, n);
    }
    if (turn % 3)
        sessions_finish(s, *parent, text, 2000, ids, 200, "eos");
}

static void child_main(int fd)
{
    struct sessions *s;
    struct err e;
    if (sessions_open(store_file("dogear.db"), &s, &e) != OK)
        _exit(1);
    for (int chat = 0;; chat++) {
        int64_t id, parent = 0;
        if (sessions_create(s, "m", &id, &e) != OK)
            _exit(2);
        for (int turn = 1; turn <= 4; turn++)
            child_turn(s, fd, id, &parent, turn);
        sessions_thin(s, id, 6, NULL, &e);
        if (chat % 2 && sessions_delete(s, id, &e) == OK)
            tell(fd, 'd', id, 0, 0);
        if (chat % 5 == 4) {
            sessions_close(s);
            if (sessions_open(store_file("dogear.db"), &s, &e) != OK)
                _exit(7);
        }
    }
}

static void verify_message(const struct sessions_message *m, int32_t n, const struct durable *d)
{
    char want[4096];
    for (int32_t i = 0; i < n; i++) {
        if (m[i].id != d->message)
            continue;
        if (d->kind == 'u') {
            user_text(want, sizeof want, d->conversation, d->n);
            assert_string_equal(m[i].text, want);
        } else {
            assert_true(m[i].n_id >= d->n);
            assert_true(m[i].len >= (size_t)d->n * 10);
            for (int32_t k = 0; k < m[i].n_id; k++)
                assert_int_equal(m[i].ids[k] % 1000, k);
        }
        return;
    }
    fail_msg("message %lld of conversation %lld is lost", (long long)d->message,
             (long long)d->conversation);
}

static void verify_all(struct sessions *s, const struct durable *d, int n)
{
    struct sessions_health h;
    for (int i = 0; i < n; i++) {
        struct sessions_message *m;
        int32_t n_message;
        bool deleted = false;
        for (int k = i; k < n; k++)
            deleted |= d[k].kind == 'd' && d[k].conversation == d[i].conversation;
        if (d[i].kind == 'd')
            continue;
        enum status st = sessions_path_load(s, d[i].conversation, &m, &n_message, &err_seen);
        if (deleted || (st == ERR_NOT_FOUND && d[i].conversation == d[n - 1].conversation)) {
            assert_int_equal(st, ERR_NOT_FOUND); /* the last may have been about to go */
            continue;
        }
        if (st != OK)
            fail_msg("%s", err_seen.text);
        verify_message(m, n_message, &d[i]);
        sessions_messages_free(m, n_message);
    }
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    if (!h.text_ok || !h.kv_ok)
        fail_msg("after the kill: %s", h.detail);
}

static void sessions__kill__keeps_every_durable_word(void **state)
{
    int n_kill = count_of("STORE_KILLS", 12);
    struct durable *d = mem_alloc(20000 * sizeof *d);
    srand((unsigned)count_of("STORE_SEED", 1));
    for (int i = 0; i < n_kill; i++) {
        int fd[2], n = 0, status;
        /* The folder stays: the next child opens what the kill left. */
        if (i % 6 == 0) {
            store_dir_teardown(NULL);
            store_dir_setup(NULL);
        }
        assert_int_equal(pipe(fd), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(fd[0]);
            child_main(fd[1]);
        }
        close(fd[1]);
        struct timespec t = {0, (long)(rand() % 150) * 1000000 + rand() % 1000000};
        fcntl(fd[0], F_SETPIPE_SZ, 1 << 20);
        nanosleep(&t, NULL);
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        while (n < 20000 && read(fd[0], &d[n], sizeof *d) == sizeof *d)
            n++;
        close(fd[0]);
        struct sessions *s = store_new();
        if (n)
            verify_all(s, d, n);
        for (int k = 0; k < n; k++) /* pages are right or missing, never wrong */
            for (int b = 1; d[k].kind == 'u' && b <= 10; b++)
                good_pieces(sessions_kv_io(s), d[k].conversation, b,
                            (uint64_t)(d[k].conversation * 1000 + d[k].n * 10 + b));
        sessions_close(s);
    }
    free(d);
}

/* ---- bits that flip ---- */

static unsigned char *file_read(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "r");
    struct stat sb;
    assert_non_null(f);
    fstat(fileno(f), &sb);
    unsigned char *p = mem_alloc((size_t)sb.st_size + 1);
    *ret_n = fread(p, 1, (size_t)sb.st_size, f);
    fclose(f);
    return p;
}

static void file_write(const char *path, const unsigned char *p, size_t n)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void kvstore__bit_flips__never_return_wrong_bytes(void **state)
{
    enum { BLOCKS = 12 };
    int n_flip = count_of("STORE_FLIPS", 60), lost = 0, repaired = 0;
    struct sessions *s = store_new();
    int64_t id;
    size_t n;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "text is elsewhere");
    for (int b = 0; b < BLOCKS; b++)
        put_block(sessions_kv_io(s), id, b, 500 + (uint64_t)b);
    sessions_close(s);
    unsigned char *whole = file_read(store_file("dogear-kv.db"), &n);
    srand((unsigned)count_of("STORE_SEED", 1));
    for (int i = 0; i < n_flip; i++) {
        size_t at = ((size_t)rand() << 12 ^ (size_t)rand()) % n;
        if (i % 4 == 0) /* more often where the structure is: heads of database pages */
            at = at / 8192 * 8192 + (size_t)(rand() % 64);
        whole[at] ^= (unsigned char)(1u << (i % 8));
        unlink(store_file("dogear-kv.db-journal"));
        file_write(store_file("dogear-kv.db"), whole, n);
        whole[at] ^= (unsigned char)(1u << (i % 8));

        s = store_new();
        const struct kv_io *io = sessions_kv_io(s);
        struct sessions_health h, after;
        int good = 0;
        for (int b = 0; io && b < BLOCKS; b++)
            good += good_pieces(io, id, b, 500 + (uint64_t)b);
        lost += good < BLOCKS * PAGES;
        CHECK_OK(sessions_check(s, true, &h, &err_seen));
        assert_true(h.text_ok);
        if (io) { /* (our mark itself may be gone: then the file is not touched) */
            assert_true(h.kv_ok);
            CHECK_OK(sessions_check(s, false, &after, &err_seen));
            assert_string_equal(after.detail, "");
            repaired += h.detail[0] != '\0';
            /* And it takes pages again. */
            for (int b = 0; b < BLOCKS; b++)
                put_block(io, id, b, 500 + (uint64_t)b);
            for (int b = 0; b < BLOCKS; b++)
                assert_int_equal(good_pieces(io, id, b, 500 + (uint64_t)b), PAGES);
        }
        char *text = store_path_text(s, id);
        assert_string_equal(text, "user:text is elsewhere");
        free(text);
        sessions_close(s);
    }
    free(whole);
    printf("# of %d flips, %d cost pieces, %d were found by the check afterwards\n", n_flip, lost,
           repaired);
    assert_true(lost > 0); /* the test reaches the data */
}

/* The first byte of the page where this table begins, which says what it is. */
static size_t root_at(const char *table)
{
    sqlite3 *d;
    sqlite3_stmt *q;
    assert_int_equal(sqlite3_open(store_file("dogear-kv.db"), &d), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(d, "SELECT rootpage FROM sqlite_schema WHERE name = ?", -1, &q, NULL),
                     SQLITE_OK);
    sqlite3_bind_text(q, 1, table, -1, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    size_t at = (size_t)(sqlite3_column_int64(q, 0) - 1) * 8192;
    sqlite3_finalize(q);
    sqlite3_close(d);
    return at;
}

/* Damage that only a writer meets costs what the file held, not what was being written. */
static void kvstore__damage__met_while_writing_keeps_what_is_written(void **state)
{
    static const char *const tables[] = {"chunk_0", "piece", "ref", "block"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        struct sessions *s = store_new();
        int64_t id;
        size_t n;
        CHECK_OK(sessions_create(s, "m", &id, &err_seen));
        for (int b = 0; b < 4; b++)
            put_block(sessions_kv_io(s), id, b, 700 + (uint64_t)b);
        sessions_close(s);
        size_t at = root_at(tables[i]);
        unsigned char *whole = file_read(store_file("dogear-kv.db"), &n);
        whole[at] ^= 0xff;
        file_write(store_file("dogear-kv.db"), whole, n);
        free(whole);
        s = store_new();
        const struct kv_io *io = sessions_kv_io(s);
        assert_non_null(io);
        for (int b = 4; b < 7; b++)
            put_block(io, id, b, 700 + (uint64_t)b);
        for (int b = 4; b < 7; b++)
            assert_int_equal(good_pieces(io, id, b, 700 + (uint64_t)b), PAGES);
        sessions_close(s);
    }
}

/* A damaged store of conversations is reported, never followed into a crash; what can be read is.
 */
static void sessions__bit_flips__end_in_one_line(void **state)
{
    int n_flip = count_of("STORE_FLIPS", 60) / 3, refused = 0, found = 0;
    struct sessions *s = store_new();
    int64_t id = 0, fork_id, parent = 0;
    size_t n;
    char text[2000];
    for (int c = 0; c < 4; c++) {
        CHECK_OK(sessions_create(s, "m", &id, &err_seen));
        CHECK_OK(sessions_rename(s, id, "a title", &err_seen));
        parent = 0;
        for (int i = 1; i < 12; i++) {
            user_text(text, sizeof text, id, i);
            parent = store_answer(s, id, parent, text, i, 30);
        }
        CHECK_OK(sessions_fork(s, id, parent, &fork_id, &err_seen));
    }
    sessions_close(s);
    unsigned char *whole = file_read(store_file("dogear.db"), &n);
    srand((unsigned)count_of("STORE_SEED", 1));
    for (int i = 0; i < n_flip; i++) {
        size_t at = ((size_t)rand() << 12 ^ (size_t)rand()) % n;
        if (i % 2)
            at = at / 4096 * 4096 + (size_t)(rand() % 40);
        unsigned char was = whole[at];
        whole[at] = i % 3 ? (unsigned char)(was ^ (1u << (i % 8))) : (unsigned char)rand();
        unlink(store_file("dogear.db-wal"));
        unlink(store_file("dogear.db-shm"));
        file_write(store_file("dogear.db"), whole, n);
        whole[at] = was;
        if (sessions_open(store_file("dogear.db"), &s, &err_seen) != OK) {
            assert_true(err_seen.text[0] != '\0');
            refused++;
            continue;
        }
        struct sessions_row *rows;
        struct sessions_message *m;
        struct sessions_health h;
        int32_t k;
        int64_t to;
        char *out;
        size_t len;
        if (sessions_list(s, 0, &rows, &k, &err_seen) == OK)
            sessions_rows_free(rows, k);
        if (sessions_search(s, "question w1", 0, &rows, &k, &err_seen) == OK)
            sessions_rows_free(rows, k);
        for (int64_t c = 1; c <= fork_id; c++)
            if (sessions_path_load(s, c, &m, &k, &err_seen) == OK)
                sessions_messages_free(m, k);
        if (sessions_export(s, 0, SESSIONS_JSON, &out, &len, &err_seen) == OK)
            free(out);
        sessions_add(s, id, parent, "user", "more", 4, &to, &err_seen);
        sessions_set_leaf(s, fork_id, 3, false, &err_seen);
        CHECK_OK(sessions_check(s, true, &h, &err_seen));
        found += h.detail[0] != '\0';
        sessions_delete(s, 1, &err_seen);
        sessions_close(s);
    }
    free(whole);
    printf("# of %d flips, %d were refused at opening, %d found by the check\n", n_flip, refused,
           found);
    assert_true(refused + found > 0);
}

int main(void)
{
    store_dir_in_memory();
    const struct CMUnitTest tests[] = {
        STORE_CASE(sessions__kill__keeps_every_durable_word),
        STORE_CASE(kvstore__bit_flips__never_return_wrong_bytes),
        STORE_CASE(kvstore__damage__met_while_writing_keeps_what_is_written),
        STORE_CASE(sessions__bit_flips__end_in_one_line),
    };
    return cmocka_run_group_tests_name("crash", tests, NULL, NULL);
}
