/* Disks that are really full: file systems in memory, mounted in a namespace of the test's own. */
#include "tests/sessions/store_test.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/mem.h"

enum { FP = 7, BLOCKS = 40, BLOCK_BYTES = 1 << 20, TEXT_BYTES = 1 << 20 };

static bool write_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY);
    bool ok = fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* False where a user may not mount anything. */
static bool own_mounts(void)
{
    char uid[64], gid[64];
    snprintf(uid, sizeof uid, "0 %d 1", (int)geteuid());
    snprintf(gid, sizeof gid, "0 %d 1", (int)getegid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_line("/proc/self/setgroups", "deny") &&
           write_line("/proc/self/uid_map", uid) && write_line("/proc/self/gid_map", gid);
}

static bool can_mount;

static void disk_new(const char *size)
{
    char options[32];
    if (!can_mount)
        skip();
    snprintf(options, sizeof options, "size=%s", size);
    assert_int_equal(mount("none", store_dir(), "tmpfs", 0, options), 0);
}

static int disk_teardown(void **state)
{
    umount2(store_dir(), MNT_DETACH);
    return store_dir_teardown(state);
}

static int64_t disk_free(void)
{
    struct statvfs v;
    assert_int_equal(statvfs(store_dir(), &v), 0);
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}

static void disk_fill(void)
{
    static char zeros[1 << 16];
    int fd = open(store_file("fill"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ssize_t n;
    while ((n = write(fd, zeros, sizeof zeros)) > 0)
        ;
    assert_int_equal(errno, ENOSPC);
    close(fd);
    assert_true(disk_free() < 4096);
}

static unsigned char *block_new(int64_t chat, int32_t k) /* nothing to compress */
{
    unsigned char *p = mem_alloc(BLOCK_BYTES);
    uint32_t x = (uint32_t)(chat * 1000 + k);
    for (size_t i = 0; i < BLOCK_BYTES; i++)
        p[i] = (unsigned char)((x = x * 1664525u + 1013904223u) >> 24);
    return p;
}

static uint64_t block_hash(int64_t chat, int32_t k)
{
    return (uint64_t)(chat * 1000 + k + 1);
}

/* A conversation of one message with n blocks of KV, one plane each. */
static int64_t chat_new(struct sessions *s, int32_t n)
{
    int64_t id, t[SESSIONS_TIERS];
    const struct kv_io *io = sessions_kv_io(s);
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "hello");
    for (int32_t k = 0; k < n; k++) {
        unsigned char *bytes = block_new(id, k);
        struct kv_piece p = {0, 0, k, 0, bytes, BLOCK_BYTES};
        io->put(io->ctx, id, FP, (k + 1) * 64, block_hash(id, k), &p, 1);
        free(bytes);
    }
    CHECK_OK(sessions_kv_sizes(s, id, t, NULL, &err_seen)); /* waits: uses are ordered in time */
    usleep(2000);
    return id;
}

/* How many blocks are as they were put; others must be missing. */
static int32_t blocks_left(struct sessions *s, int64_t id)
{
    int32_t n = 0;
    const struct kv_io *io = sessions_kv_io(s);
    for (int32_t k = 0; k < BLOCKS; k++) {
        struct kv_piece p = {.block = k};
        void *owned;
        if (!store_get(io, id, FP, block_hash(id, k), &p, &owned))
            continue;
        unsigned char *want = block_new(id, k);
        assert_int_equal(p.size_bytes, BLOCK_BYTES);
        assert_memory_equal(p.data, want, BLOCK_BYTES);
        free(want);
        free(owned);
        n++;
    }
    return n;
}

static void say_much(struct sessions *s, int64_t id)
{
    char *text = mem_calloc(TEXT_BYTES + 1, 1);
    memset(text, 'x', TEXT_BYTES);
    store_say(s, id, 0, "user", text);
    free(text);
}

static void expect_told(struct sessions *s)
{
    struct err e;
    assert_true(sessions_trouble(s, &e));
    if (!strstr(e.text, "the disk is full") || !strstr(e.text, "caches of the chats used least recently"))
        fail_msg("<%s>", e.text);
    assert_null(strchr(e.text, '\n'));
    assert_false(sessions_trouble(s, &e));
}

static void expect_sound(struct sessions *s)
{
    struct sessions_health h;
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_string_equal(h.detail, "");
}

static void disk__full__the_oldest_caches_give_way_to_text(void **state)
{
    disk_new("200m");
    struct sessions *s = store_new();
    int64_t pinned = chat_new(s, BLOCKS), old = chat_new(s, BLOCKS), fresh = chat_new(s, BLOCKS);
    CHECK_OK(sessions_pin(s, pinned, true, &err_seen));
    disk_fill();
    say_much(s, fresh);
    expect_told(s);
    assert_int_equal(blocks_left(s, old), 0);
    assert_int_equal(blocks_left(s, pinned), BLOCKS);
    assert_int_equal(blocks_left(s, fresh), BLOCKS);
    assert_true(disk_free() > 16 << 20);
    expect_sound(s);
    sessions_close(s);
    s = store_new();
    struct sessions_message *m;
    int32_t n;
    CHECK_OK(sessions_path_load(s, fresh, &m, &n, &err_seen));
    assert_int_equal(m[n - 1].len, TEXT_BYTES);
    sessions_messages_free(m, n);
    sessions_close(s);
}

/* Pinned or not: text goes before. And KV is kept again once there is room. */
static void disk__full__even_pinned_caches_give_way_to_text(void **state)
{
    disk_new("100m");
    struct sessions *s = store_new();
    int64_t pinned = chat_new(s, BLOCKS);
    CHECK_OK(sessions_pin(s, pinned, true, &err_seen));
    disk_fill();
    say_much(s, pinned);
    expect_told(s);
    assert_int_equal(blocks_left(s, pinned), 0);
    unlink(store_file("fill"));
    int64_t later = chat_new(s, BLOCKS);
    assert_int_equal(blocks_left(s, later), BLOCKS);
    expect_sound(s);
    sessions_close(s);
}

static void disk__full_when_opened__the_oldest_caches_give_way(void **state)
{
    disk_new("100m");
    struct sessions *s = store_new();
    int64_t old = chat_new(s, BLOCKS), fresh = chat_new(s, BLOCKS / 4);
    sessions_close(s);
    disk_fill();
    s = store_new();
    expect_told(s);
    say_much(s, old);
    assert_int_equal(blocks_left(s, old), 0);
    assert_int_equal(blocks_left(s, fresh), BLOCKS / 4);
    expect_sound(s);
    sessions_close(s);
}

/* Nothing to give: text waits as ever, and the caches' file stays in use. */
static void disk__full_without_caches__says_so_and_goes_on_later(void **state)
{
    disk_new("80m");
    struct sessions *s = store_new();
    struct err e;
    int64_t id = chat_new(s, 0), msg;
    disk_fill();
    char *text = mem_calloc(TEXT_BYTES, 1);
    memset(text, 'x', TEXT_BYTES);
    assert_int_equal(sessions_add(s, id, 0, "user", text, TEXT_BYTES, &msg, &err_seen), ERR_IO);
    assert_non_null(strstr(err_seen.text, "the disk is full"));
    free(text);
    unlink(store_file("fill"));
    say_much(s, id);
    sessions_trouble(s, &e);
    int64_t later = chat_new(s, BLOCKS / 4);
    assert_int_equal(blocks_left(s, later), BLOCKS / 4);
    sessions_close(s);
}

/* Caches elsewhere cannot make room here. */
static void disk__full__caches_on_another_disk_stay(void **state)
{
    disk_new("80m");
    char elsewhere[] = "/tmp/dogear-elsewhere-XXXXXX";
    int fd = mkstemp(elsewhere);
    close(fd);
    assert_int_equal(symlink(elsewhere, store_file("dogear-kv.db")), 0);
    struct sessions *s = store_new();
    int64_t id = chat_new(s, BLOCKS), msg;
    disk_fill();
    char *text = mem_calloc(TEXT_BYTES, 1);
    memset(text, 'x', TEXT_BYTES);
    assert_int_equal(sessions_add(s, id, 0, "user", text, TEXT_BYTES, &msg, &err_seen), ERR_IO);
    free(text);
    assert_int_equal(blocks_left(s, id), BLOCKS);
    sessions_close(s);
    unlink(elsewhere);
}

/* While KV is written alone it leaves room for text and thins old chats for new ones. */
static void disk__nearly_full__kv_leaves_room_for_text(void **state)
{
    disk_new("100m");
    struct sessions *s = store_new();
    struct err e;
    int64_t first = chat_new(s, BLOCKS), last = chat_new(s, BLOCKS);
    for (int i = 0; i < 500 && (disk_free() < 20 << 20 || !sessions_kv_settled(s)); i++)
        usleep(10000);
    assert_true(disk_free() >= 20 << 20); /* the reserve, less what is free inside of the file */
    assert_int_equal(blocks_left(s, first), 0);
    assert_int_equal(blocks_left(s, last), BLOCKS);
    say_much(s, last);
    assert_false(sessions_trouble(s, &e));
    expect_sound(s);
    sessions_close(s);
}

/* The other one has the caches open, read some and goes on with what is left of them. */
static void disk__full__two_programs_share_the_store(void **state)
{
    disk_new("200m");
    int go[2], done[2];
    char c = 'x';
    struct sessions *s = store_new();
    int64_t old = chat_new(s, BLOCKS), fresh = chat_new(s, BLOCKS);
    sessions_close(s);
    assert_int_equal(pipe(go) | pipe(done), 0);
    pid_t pid = fork(); /* with no store open: SQLite must not be carried over a fork */
    if (pid == 0) {
        struct err e;
        close(go[1]); /* should the other one fail, reading ends */
        s = store_new();
        if (blocks_left(s, old) != BLOCKS || blocks_left(s, fresh) != BLOCKS)
            _exit(1);
        if (write(done[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
            _exit(2);
        if (blocks_left(s, old) != 0 || blocks_left(s, fresh) != BLOCKS)
            _exit(3);
        int64_t own = chat_new(s, BLOCKS / 4);
        if (blocks_left(s, own) != BLOCKS / 4 || sessions_trouble(s, &e))
            _exit(4);
        sessions_close(s);
        _exit(0);
    }
    assert_int_equal(read(done[0], &c, 1), 1);
    s = store_new();
    disk_fill();
    say_much(s, fresh);
    expect_told(s);
    assert_int_equal(write(go[1], &c, 1), 1);
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    expect_sound(s);
    sessions_close(s);
}

#define DISK_CASE(f) cmocka_unit_test_setup_teardown(f, store_dir_setup, disk_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_CASE(disk__full__the_oldest_caches_give_way_to_text),
        DISK_CASE(disk__full__even_pinned_caches_give_way_to_text),
        DISK_CASE(disk__full_when_opened__the_oldest_caches_give_way),
        DISK_CASE(disk__full_without_caches__says_so_and_goes_on_later),
        DISK_CASE(disk__full__caches_on_another_disk_stay),
        DISK_CASE(disk__nearly_full__kv_leaves_room_for_text),
        DISK_CASE(disk__full__two_programs_share_the_store),
    };
    can_mount = own_mounts();
    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
