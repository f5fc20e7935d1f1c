#include "sessions/sessions.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/kvstore.h"
#include "sessions/store.h"
#include "sessions/writer.h"

/* ---- where the files are ---- */

enum status sessions_default_path(char **ret, struct err *e)
{
    const char *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    struct str p = {0};
    if (xdg && xdg[0] == '/') /* the XDG rules: relative paths are to be ignored */
        str_adds(&p, xdg);
    else if (home && home[0] == '/')
        str_addf(&p, "%s/.local/share", home);
    else
        return err_set(e, ERR_USAGE, "no place for conversations: set HOME or use --db FILE");
    str_adds(&p, "/dogear/dogear.db");
    *ret = str_take(&p);
    return OK;
}

/* The store cannot be made there; errno says why. */
static enum status refuse_place(const char *what, const char *path, struct err *e)
{
    return err_set(e, ERR_IO, "cannot %s %s: %s; name another place with --db FILE, or use --no-save", what, path,
                   strerror(errno));
}

/* Creates every missing folder above path, private to the user. */
static enum status make_folders(const char *path, struct err *e)
{
    char *p = mem_strdup(path);
    enum status st = OK;
    for (char *slash = strchr(p + 1, '/'); slash && st == OK; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int why = mkdir(p, 0700) == 0 ? 0 : errno;
        if (why && why != EEXIST && access(p, F_OK) != 0) {
            errno = why;
            st = refuse_place("make the folder", p, e);
        }
        *slash = '/';
    }
    free(p);
    return st;
}

/* Whether the file is new, or bears one of our marks in SQLite's header: they all begin alike. */
static bool ours_or_new(int fd, const struct stat *sb)
{
    char h[72];
    return sb->st_size == 0 || (pread(fd, h, sizeof h, 0) == (ssize_t)sizeof h &&
                                !memcmp(h, "SQLite format 3", 16) && !memcmp(h + 68, "Dg", 2));
}

/* The -wal and -shm files inherit the mode. */
enum status store_claim_file(const char *path, bool *ret_writable, struct err *e)
{
    struct stat sb;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    *ret_writable = fd >= 0;
    int why = errno;
    if (fd < 0 && (why == EROFS || why == EACCES || why == EPERM))
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    bool missing = fd < 0 && errno == ENOENT;
    errno = why;
    if (fd < 0)
        return refuse_place(missing ? "make" : "open", path, e);
    enum status st = OK;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode))
        st = err_set(e, ERR_FORMAT, "%s is no file: choose another --db", path);
    else if (*ret_writable && (sb.st_mode & 077) && ours_or_new(fd, &sb) && fchmod(fd, 0600) != 0 &&
             errno != EPERM)
        st = err_set(e, ERR_IO, "cannot make %s private: %s", path, strerror(errno));
    close(fd);
    return st;
}

/* ---- open and close ---- */

static enum status open_reader(struct sessions *s, struct err *e)
{
    if (!s->read_only)
        return db_open(s->path, DB_READ, &s->r, e);
    /* WAL needs a -shm file: on media that cannot be written only immutable works, and it is safe
     * there because nobody else can write either. */
    TRY(db_open(s->path, DB_READ, &s->r, e));
    int64_t n;
    if (db_int(s->r, e, &n, "SELECT count(*) FROM sqlite_schema", "") == OK)
        return OK;
    db_close(s->r);
    s->r = NULL;
    return db_open(s->path, DB_IMMUTABLE, &s->r, e);
}

static enum status open_writer(struct sessions *s, struct err *e)
{
    TRY(db_open(s->path, DB_CREATE, &s->w, e));
    TRY(migrate_store(s->w, true, e));
    TRY(db_exec(s->w,
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; "
                "PRAGMA journal_size_limit = 4194304; PRAGMA secure_delete = ON;",
                e));
    /* Answers that a crash cut are searchable from now on. */
    TRY(db_do(s->w, e, "UPDATE message SET indexed = 1 WHERE indexed = 0", ""));
    return OK;
}

/* --no-save: the whole store is one connection to memory and leaves nothing behind. */
static enum status open_memory(struct sessions *s, struct err *e)
{
    s->path = mem_strdup(":memory:");
    TRY(open_writer(s, e));
    s->r = s->w;
    return writer_start(s, e);
}

static void make_private(const char *path)
{
    char *folder = mem_strndup(path, (size_t)(strrchr(path, '/') - path));
    struct stat sb;
    if (stat(folder, &sb) == 0 && (sb.st_mode & 077))
        (void)!chmod(folder, 0700); /* not ours or read-only: the files are private anyway */
    free(folder);
}

/* Everything that is left when a file cannot be written. s->why says why not. */
static enum status open_to_read(struct sessions *s, struct err *e)
{
    s->read_only = true;
    TRY(open_reader(s, e));
    return migrate_store(s->r, false, e);
}

/* A full disk keeps WAL from being made: KV gives way to it, but pins cannot be read then. */
static enum status open_making_room(struct sessions *s, struct err *e)
{
    enum status st = open_writer(s, e);
    if (!db_full(s->w))
        return st;
    kvstore_open(s);
    while (st == ERR_IO && kvstore_yield(s, WRITER_TEXT)) {
        db_close(s->w);
        s->w = NULL;
        st = open_writer(s, e);
    }
    if (st != OK)
        kvstore_close(s);
    return st;
}

/* On a full disk reading goes on: WAL would make a file first. What a crash left in the -wal file
 * cannot be seen that way, so then it does not. */
static enum status open_full_disk(struct sessions *s, struct err *e)
{
    char *wal = sqlite3_mprintf("%s-wal", s->path);
    struct stat sb;
    bool left = !wal || (stat(wal, &sb) == 0 && sb.st_size > 0);
    struct err other;
    sqlite3_free(wal);
    db_close(s->w);
    s->w = NULL;
    s->why = *e;
    if (left || open_to_read(s, &other) != OK)
        return e->code;
    store_trouble(s, e);
    return OK;
}

static enum status open_files(struct sessions *s, const char *path, struct err *e)
{
    bool writable;
    if (path)
        s->path = mem_strdup(path);
    else
        TRY(sessions_default_path(&s->path, e));
    TRY(make_folders(s->path, e));
    if (!path)
        make_private(s->path);
    TRY(store_claim_file(s->path, &writable, e));
    if (!writable) {
        err_set(&s->why, ERR_IO,
                "%s is read-only: copy it to a place that can be written (--db FILE), or use --no-save",
                s->path);
        return open_to_read(s, e);
    }
    enum status st = open_making_room(s, e);
    if (st == ERR_IO)
        return open_full_disk(s, e);
    TRY(st);
    TRY(open_reader(s, e));
    if (!s->kv)
        kvstore_open(s);
    TRY(writer_start(s, e));
    kvstore_started(s);
    return OK;
}

enum status sessions_open(const char *path, struct sessions **ret, struct err *e)
{
    struct sessions *s = mem_calloc(1, sizeof *s);
    s->writing_fd = -1;
    pthread_mutex_init(&s->r_lock, NULL);
    pthread_mutex_init(&s->trouble_lock, NULL);
    bool memory = path && !strcmp(path, ":memory:");
    enum status st = memory ? open_memory(s, e) : open_files(s, path, e);
    if (st != OK) {
        sessions_close(s);
        return st;
    }
    *ret = s;
    return OK;
}

char *sessions_end(struct sessions *s)
{
    writer_stop(s);
    return messages_unwritten(s);
}

void sessions_close(struct sessions *s)
{
    if (!s)
        return;
    writer_free(s);
    /* Deleted words stay in old segments of the search index until they are merged. */
    if (s->deleted) {
        struct err ignored;
        db_exec(s->w,
                "INSERT INTO message_fts (message_fts) VALUES ('optimize');"
                "INSERT INTO title_fts (title_fts) VALUES ('optimize');",
                &ignored);
    }
    kvstore_close(s);
    if (s->r != s->w)
        db_close(s->r);
    db_close(s->w);
    if (s->writing_fd >= 0)
        close(s->writing_fd);
    pthread_mutex_destroy(&s->r_lock);
    pthread_mutex_destroy(&s->trouble_lock);
    free(s->path);
    free(s);
}

const char *sessions_path(const struct sessions *s)
{
    return s->path;
}

/* ---- trouble ---- */

void store_trouble(struct sessions *s, const struct err *e)
{
    pthread_mutex_lock(&s->trouble_lock);
    if (!s->trouble)
        s->trouble_err = *e;
    s->trouble = true;
    pthread_mutex_unlock(&s->trouble_lock);
}

bool sessions_trouble(struct sessions *s, struct err *ret)
{
    pthread_mutex_lock(&s->trouble_lock);
    bool had = s->trouble;
    if (had)
        *ret = s->trouble_err;
    s->trouble = false;
    pthread_mutex_unlock(&s->trouble_lock);
    return had;
}

/* ---- reading ---- */

void store_read_begin(struct sessions *s)
{
    writer_drain(s, WRITER_TEXT);
    pthread_mutex_lock(&s->r_lock);
}

void store_read_end(struct sessions *s)
{
    pthread_mutex_unlock(&s->r_lock);
}

void sessions_hold(struct sessions *s)
{
    writer_hold(s);
}

void sessions_release(struct sessions *s)
{
    writer_release(s);
}

bool sessions_kv_settled(struct sessions *s)
{
    return writer_idle(s, WRITER_KV);
}

static enum status run_nothing(struct sessions *s, struct command *c, struct err *e)
{
    return OK;
}

enum status sessions_flush(struct sessions *s, struct err *e)
{
    if (!s->writer)
        return OK; /* read-only: nothing can be queued */
    struct command c = {.run = run_nothing};
    return writer_call(s, &c, e);
}

/* The connection's own commits do not count. */
static enum status run_look(struct sessions *s, struct command *c, struct err *e)
{
    int64_t v = 0;
    if (db_int(s->w, e, &v, "PRAGMA data_version", "") == OK) {
        if (s->version && v != s->version)
            s->changed = true;
        s->version = v;
    }
    s->looking = false;
    return OK;
}

bool sessions_changed(struct sessions *s)
{
    struct command c = {.run = run_look, .bare = true};
    if (!s->writer)
        return false;
    if (!atomic_exchange(&s->looking, true))
        writer_post(s, &c);
    return atomic_exchange(&s->changed, false);
}

/* ---- settings ---- */

enum status sessions_setting(struct sessions *s, const char *key, char **ret, struct err *e)
{
    sqlite3_stmt *q = NULL;
    bool row = false;
    store_read_begin(s);
    enum status st = db_query(s->r, e, &q, "SELECT value FROM setting WHERE key = ?", "t", key);
    if (st == OK)
        st = db_next(s->r, q, &row, e);
    if (st == OK)
        *ret = row ? db_text(q, 0, NULL) : NULL;
    db_done(q);
    store_read_end(s);
    return st;
}

static enum status run_setting(struct sessions *s, struct command *c, struct err *e)
{
    if (!c->text)
        return db_do(s->w, e, "DELETE FROM setting WHERE key = ?", "t", c->word);
    return db_do(s->w, e,
                 "INSERT INTO setting (key, value) VALUES (?, ?) "
                 "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                 "ts", c->word, c->text, c->len);
}

void sessions_set_setting(struct sessions *s, const char *key, const char *value)
{
    struct command c = {
        .run = run_setting, .word = key, .text = value, .len = value ? strlen(value) : 0};
    writer_post(s, &c);
}
