#include "tests/sessions/store_test.h"

#include <dirent.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"

struct err err_seen;
static char dir[256];

void store_dir_in_memory(void)
{
    static const uint64_t room_bytes = UINT64_C(1) << 30; /* containers often have 64 MiB there */
    struct statvfs v;
    if (access("/dev/shm", W_OK) == 0 && statvfs("/dev/shm", &v) == 0 &&
        (uint64_t)v.f_bavail * v.f_frsize >= room_bytes)
        setenv("TMPDIR", "/dev/shm", 0);
}

int store_dir_setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/dogear-test-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(dir) ? 0 : -1;
}

void store_remove(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *ent;
    while (d && (ent = readdir(d))) {
        char p[600];
        if (!strcmp(ent->d_name, ".") || !strcmp(ent->d_name, ".."))
            continue;
        snprintf(p, sizeof p, "%s/%s", path, ent->d_name);
        if (unlink(p) != 0)
            store_remove(p);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

int store_dir_teardown(void **state)
{
    store_remove(dir);
    return 0;
}

const char *store_dir(void)
{
    return dir;
}

const char *store_file(const char *name)
{
    static char path[8][600];
    static int at;
    at = (at + 1) % 8;
    snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
    return path[at];
}

struct sessions *store_new(void)
{
    struct sessions *s = NULL;
    CHECK_OK(sessions_open(store_file("dogear.db"), &s, &err_seen));
    return s;
}

int64_t store_say(struct sessions *s, int64_t id, int64_t parent, const char *role,
                  const char *text)
{
    int64_t m = 0;
    CHECK_OK(sessions_add(s, id, parent, role, text, strlen(text), &m, &err_seen));
    assert_true(m > parent);
    return m;
}

int64_t store_answer(struct sessions *s, int64_t id, int64_t parent, const char *text,
                     int32_t first_id, int32_t n_id)
{
    int64_t m = store_say(s, id, parent, "assistant", "");
    int32_t *ids = mem_alloc((size_t)n_id * sizeof *ids + 1);
    for (int32_t i = 0; i < n_id; i++)
        ids[i] = first_id + i;
    sessions_finish(s, m, text, strlen(text), ids, n_id, "eos");
    free(ids);
    return m;
}

static bool take_piece(void *ctx, const struct kv_piece *p)
{
    struct kv_piece *want = ctx;
    if (p->layer != want->layer || p->head_group != want->head_group || p->plane != want->plane)
        return true;
    want->size_bytes = p->size_bytes;
    want->data = memcpy(mem_alloc(p->size_bytes), p->data, p->size_bytes);
    return false;
}

bool store_get(const struct kv_io *io, int64_t chat, uint64_t fingerprint, uint64_t hash,
               struct kv_piece *piece, void **ret_owned)
{
    enum kv_io_kind kind = kv_io_kind(piece->plane);
    int32_t end = kind == KV_IO_PAGES ? (piece->block + 1) * KV_IO_BLOCK_TOK : piece->block;
    piece->data = NULL;
    io->load(io->ctx, chat, fingerprint, hash, end, kind, take_piece, piece);
    *ret_owned = (void *)piece->data;
    return piece->data != NULL;
}

char *store_path_text(struct sessions *s, int64_t id)
{
    struct sessions_message *m;
    struct str out = {0};
    int32_t n;
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    for (int32_t i = 0; i < n; i++)
        str_addf(&out, "%s%s:%s", i ? "|" : "", m[i].role, m[i].text);
    sessions_messages_free(m, n);
    return str_take(&out);
}

int64_t store_written_bytes(void)
{
    FILE *f = fopen("/proc/self/io", "r");
    char line[128];
    long long n = -1;
    if (!f)
        skip();
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "wchar: %lld", &n) == 1)
            break;
    fclose(f);
    return n;
}
