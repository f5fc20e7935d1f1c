/* The files themselves: permissions, foreign and newer ones, old schemas, full disks, read-only
 * media, two processes. */
#include "tests/sessions/store_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sessions/store.h"

static mode_t mode_of(const char *path)
{
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    return sb.st_mode & 0777;
}

static void run_sql(const char *path, const char *sql)
{
    sqlite3 *h;
    char *why = NULL;
    assert_int_equal(sqlite3_open(path, &h), SQLITE_OK);
    if (sqlite3_exec(h, sql, NULL, NULL, &why) != SQLITE_OK)
        fail_msg("%s", why);
    sqlite3_close(h);
}

static void sessions__open__makes_private_files_and_folders(void **state)
{
    struct sessions *s;
    umask(0);
    setenv("XDG_DATA_HOME", store_file("xdg"), 1);
    CHECK_OK(sessions_open(NULL, &s, &err_seen));
    assert_string_equal(sessions_path(s), store_file("xdg/dogear/dogear.db"));
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    unsigned char byte = 1;
    struct kv_piece p = {0, 0, 0, 0, &byte, 1};
    const struct kv_io *io = sessions_kv_io(s);
    io->put(io->ctx, id, 1, 64, 1, &p, 1);
    int64_t t[SESSIONS_TIERS];
    CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    static const char *const files[] = {"dogear.db", "dogear.db-wal", "dogear.db-shm",
                                        "dogear-kv.db", "dogear-kv.db-journal"};
    assert_int_equal(mode_of(store_file("xdg/dogear")), 0700);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char name[64];
        snprintf(name, sizeof name, "xdg/dogear/%s", files[i]);
        assert_int_equal(mode_of(store_file(name)), 0600);
    }
    sessions_close(s);
    assert_int_equal(access(store_file("xdg/dogear/dogear.db-wal"), F_OK), -1);
    assert_int_equal(access(store_file("xdg/dogear/dogear-kv.db-journal"), F_OK), -1);
    /* Files that somebody opened up are closed again. */
    chmod(store_file("xdg/dogear"), 0755);
    chmod(store_file("xdg/dogear/dogear.db"), 0644);
    CHECK_OK(sessions_open(NULL, &s, &err_seen));
    assert_int_equal(mode_of(store_file("xdg/dogear")), 0700);
    assert_int_equal(mode_of(store_file("xdg/dogear/dogear.db")), 0600);
    sessions_close(s);
    unsetenv("XDG_DATA_HOME");
    umask(022);
}

static void expect_refused(const char *path, enum status want, const char *words)
{
    struct sessions *s;
    enum status st = sessions_open(path, &s, &err_seen);
    if (st != want || !strstr(err_seen.text, words))
        fail_msg("%s: status %d, text <%s>", path, st, err_seen.text);
}

static void sessions__open__leaves_foreign_and_newer_files_alone(void **state)
{
    struct sessions *s;
    run_sql(store_file("other.db"), "CREATE TABLE notes (x); INSERT INTO notes VALUES (42);");
    expect_refused(store_file("other.db"), ERR_FORMAT, "another program");
    run_sql(store_file("marked.db"), "PRAGMA application_id = 99");
    expect_refused(store_file("marked.db"), ERR_FORMAT, "another program");
    FILE *f = fopen(store_file("text.db"), "w");
    for (int i = 0; i < 100; i++)
        fputs("this is my diary, no database\n", f);
    fclose(f);
    expect_refused(store_file("text.db"), ERR_FORMAT, "no Dogear store");
    mkdir(store_file("folder.db"), 0700);
    expect_refused(store_file("folder.db"), ERR_IO, "folder.db");
    mkfifo(store_file("fifo.db"), 0600);
    expect_refused(store_file("fifo.db"), ERR_FORMAT, "is no file");
    expect_refused(store_file("text.db/dogear.db"), ERR_IO, "text.db");
    CHECK_OK(sessions_open(store_file("new.db"), &s, &err_seen));
    sessions_close(s);
    run_sql(store_file("new.db"), "PRAGMA user_version = 1000");
    expect_refused(store_file("new.db"), ERR_UNSUPPORTED, "newer Dogear");
    /* Nothing was changed. */
    sqlite3 *h;
    sqlite3_stmt *q;
    sqlite3_open(store_file("other.db"), &h);
    sqlite3_prepare_v2(h, "SELECT x, (SELECT count(*) FROM sqlite_schema) FROM notes", -1, &q,
                       NULL);
    assert_int_equal(sqlite3_step(q), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(q, 0), 42);
    assert_int_equal(sqlite3_column_int(q, 1), 1);
    sqlite3_finalize(q);
    sqlite3_close(h);
}

static void sessions__open__a_newer_kv_file_is_left_and_an_older_one_emptied(void **state)
{
    struct sessions *s = store_new();
    struct err e;
    sessions_close(s);
    run_sql(store_file("dogear-kv.db"), "PRAGMA user_version = 1000");
    s = store_new();
    assert_null(sessions_kv_io(s));
    assert_true(sessions_trouble(s, &e));
    assert_non_null(strstr(e.text, "newer"));
    sessions_close(s);
    run_sql(store_file("dogear-kv.db"), "PRAGMA user_version = 1; CREATE TABLE old (x);");
    s = store_new();
    assert_non_null(sessions_kv_io(s));
    assert_false(sessions_trouble(s, &e));
    sessions_close(s);
    /* Deleted, damaged at its head, or cut off: made anew. */
    unlink(store_file("dogear-kv.db"));
    s = store_new();
    assert_non_null(sessions_kv_io(s));
    sessions_close(s);
    int fd = open(store_file("dogear-kv.db"), O_RDWR);
    assert_int_equal(pwrite(fd, "garbage!", 8, 0), 8);
    close(fd);
    s = store_new();
    assert_non_null(sessions_kv_io(s));
    sessions_close(s);
    assert_int_equal(truncate(store_file("dogear-kv.db"), 70000), 0);
    s = store_new();
    int64_t id, t[SESSIONS_TIERS];
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    const struct kv_io *io = sessions_kv_io(s);
    unsigned char byte = 1;
    struct kv_piece p = {0, 0, 0, 0, &byte, 1};
    for (int i = 0; i < 3; i++) { /* the first may find the damage, later ones are kept */
        io->put(io->ctx, id, 1, 64, 1, &p, 1);
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    }
    assert_int_equal(t[6], 1);
    sessions_close(s);
}

/* A schema-1 file as an earlier program left it; it must open with everything in it. */
static void migrate__old_file__opens_with_everything(void **state)
{
    char sql[65536];
    const char *root = getenv("DOGEAR_SOURCE");
    if (!root)
        skip();
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/sessions/store_v1.sql", root);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    sql[fread(sql, 1, sizeof sql - 1, f)] = '\0';
    fclose(f);
    run_sql(store_file("dogear.db"), sql);
    for (int pass = 0; pass < 2; pass++) { /* migrates, then finds it migrated */
        struct sessions *s = store_new();
        struct sessions_health h;
        char *text = store_path_text(s, 1);
        assert_string_equal(text, "user:hello old file|assistant:an old answer");
        free(text);
        text = store_path_text(s, 2);
        assert_string_equal(text, "user:hello old file|assistant:another branch");
        free(text);
        struct sessions_row *rows;
        int32_t n;
        CHECK_OK(sessions_search(s, "another", 0, &rows, &n, &err_seen));
        assert_int_equal(n, 1);
        assert_int_equal(rows[0].id, 2);
        sessions_rows_free(rows, n);
        CHECK_OK(sessions_search(s, "earlier title", 0, &rows, &n, &err_seen));
        assert_int_equal(n, 1);
        sessions_rows_free(rows, n);
        CHECK_OK(sessions_check(s, false, &h, &err_seen));
        assert_string_equal(h.detail, "");
        assert_true(h.text_ok && h.kv_ok);
        assert_int_equal(h.n_conversation, 2);
        assert_int_equal(h.n_message, 3);
        assert_int_equal(h.schema, migrate_version());
        sessions_close(s);
    }
}

/* Deleted text is gone from the file, not only from view. */
static void sessions__delete__leaves_no_words_in_the_file(void **state)
{
    struct sessions *s = store_new();
    int64_t id, other;
    CHECK_OK(sessions_create(s, "m", &other, &err_seen));
    store_say(s, other, 0, "user", "a remarkable sentence stays");
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    CHECK_OK(sessions_rename(s, id, "clandestine", &err_seen));
    store_say(s, id, 0, "user", "the xylophone is hidden");
    sessions_close(s);
    for (int pass = 0; pass < 2; pass++) {
        static char bytes[1 << 20];
        FILE *f = fopen(store_file("dogear.db"), "r");
        size_t n = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        assert_true(n > 4096 && n < sizeof bytes);
        assert_int_equal(memmem(bytes, n, "xylophone", 9) != NULL, pass == 0);
        assert_int_equal(memmem(bytes, n, "clandestine", 11) != NULL, pass == 0);
        assert_non_null(memmem(bytes, n, "remarkable", 10));
        if (pass == 0) {
            s = store_new();
            CHECK_OK(sessions_delete(s, id, &err_seen));
            sessions_close(s);
        }
    }
}

/* ---- full disk ---- */

static void limit_file_size(rlim_t bytes)
{
    struct rlimit r;
    getrlimit(RLIMIT_FSIZE, &r);
    r.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
}

static void writer__full_disk__keeps_what_is_queued_and_writes_it_later(void **state)
{
    struct sessions *s = store_new();
    struct sessions_message *m;
    struct err e;
    int32_t n;
    int64_t id, msg;
    static char big[300000];
    memset(big, 'x', sizeof big - 1);
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t u = store_say(s, id, 0, "user", "question");
    int64_t a = store_say(s, id, u, "assistant", "");
    signal(SIGXFSZ, SIG_IGN);
    limit_file_size(200000); /* of any file: the -wal file cannot grow past it */
    assert_int_equal(sessions_add(s, id, a, "user", big, strlen(big), &msg, &err_seen), ERR_IO);
    assert_true(err_seen.text[0] != '\0');
    sessions_trouble(s, &e);
    int32_t ids[2] = {1, 2};
    sessions_stream(s, a, big, 250000, ids, 2);
    sessions_stream(s, a, big, 260000, ids, 2);
    assert_int_equal(sessions_flush(s, &err_seen), ERR_IO);
    assert_true(sessions_trouble(s, &e));
    /* Reading goes on meanwhile, and sees what the file will have. */
    sessions_set_ids(s, u, ids, 1);
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(n, 2);
    assert_int_equal(m[0].n_id, 1);
    assert_string_equal(m[0].text, "question");
    assert_int_equal(m[1].len, 260000);
    assert_int_equal(m[1].n_id, 2);
    assert_false(m[1].done);
    sessions_messages_free(m, n);
    assert_int_equal(sessions_flush(s, &err_seen), ERR_IO); /* so that no try is under way: it would fail the next */
    limit_file_size(RLIM_INFINITY);
    CHECK_OK(sessions_flush(s, &err_seen));
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(n, 2); /* the refused message was not half added */
    assert_int_equal(m[1].len, 260000);
    sessions_messages_free(m, n);
    sessions_trouble(s, &e);
    sessions_close(s);
    s = store_new();
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(m[1].len, 260000);
    sessions_messages_free(m, n);
    sessions_close(s);
}

/* What cannot be stored at the end is handed back; only the newest state of an answer. */
static void sessions__end__gives_back_what_was_not_stored(void **state)
{
    struct sessions *s = store_new();
    struct sessions_message *m;
    int32_t n, ids[2] = {1, 2};
    int64_t id;
    static char big[300000];
    memset(big, 'x', sizeof big - 1);
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t u = store_say(s, id, 0, "user", "question");
    int64_t a = store_say(s, id, u, "assistant", "");
    signal(SIGXFSZ, SIG_IGN);
    limit_file_size(200000);
    sessions_stream(s, a, big, 250000, ids, 2);
    sessions_finish(s, a, big, 260000, ids, 2, "eos");
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(m[1].len, 260000);
    assert_true(m[1].done);
    assert_string_equal(m[1].stop, "eos");
    sessions_messages_free(m, n);
    char *lost = sessions_end(s);
    assert_non_null(lost);
    assert_int_equal(strlen(lost), 260001);
    free(lost);
    sessions_close(s);
    limit_file_size(RLIM_INFINITY);
    s = store_new();
    lost = sessions_end(s);
    assert_null(lost);
    sessions_close(s);
}

static void kvstore__full_disk__costs_kv_and_never_text(void **state)
{
    enum { PIECES = 8 };
    struct sessions *s = store_new();
    const struct kv_io *io = sessions_kv_io(s);
    struct err e;
    int64_t id, t[SESSIONS_TIERS];
    static unsigned char page[400000];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof page; i++) /* nothing to compress */
        page[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    signal(SIGXFSZ, SIG_IGN);
    limit_file_size(1 << 20);
    for (int i = 0; i < PIECES; i++) {
        struct kv_piece p = {0, 0, i, 0, page, sizeof page};
        io->put(io->ctx, id, 1, (i + 1) * 64, (uint64_t)i + 1, &p, 1);
        CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen));
    }
    assert_true(sessions_trouble(s, &e));
    store_say(s, id, 0, "user", "still works");
    limit_file_size(RLIM_INFINITY);
    for (int i = 0; i < PIECES; i++) { /* what is there is right */
        struct kv_piece p = {.block = i};
        void *owned;
        if (store_get(io, id, 1, (uint64_t)i + 1, &p, &owned)) {
            assert_int_equal(p.size_bytes, sizeof page);
            assert_memory_equal(p.data, page, sizeof page);
            free(owned);
        }
    }
    struct kv_piece p = {0, 0, PIECES, 0, page, sizeof page}, back = {.block = PIECES};
    void *owned;
    io->put(io->ctx, id, 1, (PIECES + 1) * 64, PIECES + 1, &p, 1);
    assert_true(store_get(io, id, 1, PIECES + 1, &back, &owned));
    free(owned);
    sessions_close(s);
}

/* ---- read-only media ---- */

static void sessions__open__read_only_media_can_be_read(void **state)
{
    struct sessions *s = store_new();
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "carved in stone");
    sessions_close(s);
    chmod(store_file("dogear.db"), 0444);
    chmod(store_dir(), 0555);
    /* Permissions do not stop root: become somebody else in a child. */
    char folder[600];
    snprintf(folder, sizeof folder, "%s", store_dir());
    pid_t pid = fork();
    if (pid == 0) {
        struct err e;
        struct sessions_row *rows;
        int32_t n;
        int64_t m;
        if (geteuid() == 0 && setuid(65534) != 0)
            _exit(77);
        if (sessions_open(store_file("dogear.db"), &s, &e) != OK)
            _exit(1);
        if (sessions_search(s, "stone", 0, &rows, &n, &e) != OK || n != 1)
            _exit(2);
        sessions_rows_free(rows, n);
        if (sessions_add(s, id, 0, "user", "x", 1, &m, &e) != ERR_IO ||
            !strstr(e.text, "read-only"))
            _exit(3);
        if (sessions_kv_io(s) || sessions_flush(s, &e) != OK)
            _exit(4);
        sessions_close(s);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    chmod(folder, 0755);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- two processes ---- */

/* Two that write without a pause may wait longer for each other than a store does by itself: a user
 * who is told so tries again. */
static bool busy(enum status st)
{
    if (st != OK && st != ERR_BUSY)
        _exit(1);
    return st == ERR_BUSY;
}

static void sessions__two_processes__write_the_same_store(void **state)
{
    enum { EACH = 40 };
    sessions_close(store_new());
    pid_t pid[2];
    for (int k = 0; k < 2; k++) {
        pid[k] = fork();
        if (pid[k] == 0) {
            struct sessions *s;
            struct err e;
            int64_t id, parent = 0;
            char text[32];
            while (busy(sessions_open(store_file("dogear.db"), &s, &e)))
                ;
            while (busy(sessions_create(s, "m", &id, &e)))
                ;
            const struct kv_io *io = sessions_kv_io(s);
            for (int i = 0; i < EACH; i++) {
                struct kv_piece p = {0, 0, i, 0, text, sizeof text};
                snprintf(text, sizeof text, "process %d message %d", k, i);
                while (busy(sessions_add(s, id, parent, "user", text, strlen(text), &parent, &e)))
                    ;
                io->put(io->ctx, id, 1, (i + 1) * 64, (uint64_t)(k * 1000 + i + 1), &p, 1);
            }
            sessions_close(s);
            _exit(0);
        }
    }
    for (int k = 0; k < 2; k++) {
        int status;
        waitpid(pid[k], &status, 0);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    struct sessions *s = store_new();
    struct sessions_row *rows;
    struct sessions_health h;
    int32_t n;
    CHECK_OK(sessions_list(s, 0, &rows, &n, &err_seen));
    assert_int_equal(n, 2);
    for (int k = 0; k < 2; k++)
        assert_int_equal(rows[k].n_message, EACH);
    sessions_rows_free(rows, n);
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_string_equal(h.detail, "");
    sessions_close(s);
}

static bool changed_soon(struct sessions *s, int n_try)
{
    struct err e;
    for (int i = 0; i < n_try; i++) {
        if (sessions_changed(s))
            return true;
        sessions_flush(s, &e); /* it has looked */
    }
    return false;
}

static void sessions__changed__tells_what_others_write(void **state)
{
    struct sessions *s = store_new(), *other;
    int64_t id;
    assert_false(changed_soon(s, 3));
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "my own");
    assert_false(changed_soon(s, 3));
    CHECK_OK(sessions_open(store_file("dogear.db"), &other, &err_seen));
    assert_false(changed_soon(s, 3)); /* reading is no change */
    CHECK_OK(sessions_rename(other, id, "theirs", &err_seen));
    assert_true(changed_soon(s, 3));
    assert_false(changed_soon(s, 3));
    sessions_close(other);
    sessions_close(s);
}

static void sessions__writing__one_store_at_a_time(void **state)
{
    struct sessions *s = store_new(), *other;
    int64_t id, answer;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t question = store_say(s, id, 0, "user", "why?");
    CHECK_OK(sessions_add(s, id, question, "assistant", "", 0, &answer, &err_seen));
    CHECK_OK(sessions_open(store_file("dogear.db"), &other, &err_seen));
    assert_false(sessions_writing_elsewhere(s, answer));
    assert_true(sessions_writing_elsewhere(other, answer));
    assert_false(sessions_writing_elsewhere(other, question));
    assert_false(sessions_writing_begin(other, answer));
    sessions_finish(s, answer, "Becau", 5, NULL, 0, "cancel");
    CHECK_OK(sessions_flush(s, &err_seen));
    assert_true(sessions_writing_begin(other, answer)); /* to go on with it */
    assert_true(sessions_writing_elsewhere(s, answer));
    sessions_close(other); /* however it ends */
    assert_true(sessions_writing_begin(s, answer));
    sessions_close(s);
}

static void writer__locked__says_who_holds_the_file(void **state)
{
    int64_t id;
    int start[2], ready[2], done[2];
    char c = 'x';
    assert_int_equal(pipe(start) | pipe(ready) | pipe(done), 0);
    pid_t pid = fork(); /* before the store is opened: SQLite must not be carried over a fork */
    if (pid == 0) {
        sqlite3 *h;
        if (read(start[0], &c, 1) != 1 || sqlite3_open(store_file("dogear.db"), &h) != SQLITE_OK ||
            sqlite3_exec(h, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK ||
            write(ready[1], &c, 1) != 1 || read(done[0], &c, 1) != 1)
            _exit(1);
        sqlite3_exec(h, "COMMIT", NULL, NULL, NULL);
        _exit(0);
    }
    struct sessions *s = store_new();
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    assert_int_equal(write(start[1], &c, 1), 1);
    assert_int_equal(read(ready[0], &c, 1), 1);
    /* Without the kernel's list of locks nobody can tell who. */
    char want[32] = "another process";
    if (access("/proc/locks", R_OK) == 0)
        snprintf(want, sizeof want, "process %d", (int)pid);
    enum status st = sessions_rename(s, id, "title", &err_seen);
    assert_int_equal(write(done[1], &c, 1), 1);
    waitpid(pid, NULL, 0);
    assert_int_equal(st, ERR_BUSY);
    if (!strstr(err_seen.text, want))
        fail_msg("no <%s> in <%s>", want, err_seen.text);
    CHECK_OK(sessions_rename(s, id, "title", &err_seen));
    sessions_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CASE(sessions__open__makes_private_files_and_folders),
        STORE_CASE(sessions__open__leaves_foreign_and_newer_files_alone),
        STORE_CASE(sessions__open__a_newer_kv_file_is_left_and_an_older_one_emptied),
        STORE_CASE(migrate__old_file__opens_with_everything),
        STORE_CASE(sessions__delete__leaves_no_words_in_the_file),
        STORE_CASE(writer__full_disk__keeps_what_is_queued_and_writes_it_later),
        STORE_CASE(sessions__end__gives_back_what_was_not_stored),
        STORE_CASE(kvstore__full_disk__costs_kv_and_never_text),
        STORE_CASE(sessions__open__read_only_media_can_be_read),
        STORE_CASE(sessions__two_processes__write_the_same_store),
        STORE_CASE(sessions__writing__one_store_at_a_time),
        STORE_CASE(sessions__changed__tells_what_others_write),
        STORE_CASE(writer__locked__says_who_holds_the_file),
    };
    return cmocka_run_group_tests_name("files", tests, NULL, NULL);
}
