/* The store from the inside: what the files of this folder share. Nothing here is for other rooms.
 *
 * Connections: `w` belongs to the writer's thread alone once it runs; `r` is read under `r_lock` by
 * whoever calls. Locks are leaf locks. */
#ifndef SESSIONS_STORE_H
#define SESSIONS_STORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "sessions/db.h"
#include "sessions/sessions.h"

struct kvstore;
struct writer;

struct sessions {
    char *path;
    bool read_only;       /* media, permissions, a full disk: every write is refused ... */
    struct err why;       /* ... with this */
    _Atomic uint64_t vocab; /* sessions_set_vocab */
    bool deleted;         /* store's thread: text was deleted since the store was opened */
    int64_t version;      /* store's thread: PRAGMA data_version as last seen; 0 = never */
    _Atomic bool changed, looking; /* sessions_changed */
    struct db *w;         /* NULL when read_only */
    struct db *r;         /* = w when the store is in memory */
    pthread_mutex_t r_lock;
    struct writer *writer;
    int writing_fd;     /* writing.c, under trouble_lock; -1 = not yet */
    struct kvstore *kv; /* NULL: KV is not kept (memory, read-only, file out of use) */

    pthread_mutex_t trouble_lock;
    bool trouble; /* under trouble_lock, with trouble_err */
    struct err trouble_err;
};

/* Remembers the first failure until sessions_trouble fetches it. */
void store_trouble(struct sessions *s, const struct err *e);

/* Makes the file, or one of ours, 0600 before SQLite sees it. *ret_writable = false: it can only be read. */
enum status store_claim_file(const char *path, bool *ret_writable, struct err *e);

/* Waits for queued writes, then locks the reader. Always end with store_read_end. */
void store_read_begin(struct sessions *s);
void store_read_end(struct sessions *s);

/* ---- migrate.c ---- */
enum { STORE_APPLICATION_ID = 0x44674572 }; /* "DgEr" */
/* Checks that the file is ours (or empty), creates or brings its schema up to date.
 * writable = false: only checks. */
enum status migrate_store(struct db *d, bool writable, struct err *e);
int32_t migrate_version(void); /* the newest schema this program knows */

/* ---- tree.c: helpers that other files need ---- */
/* Messages of `conversation` that belong to others: the ancestors of its base, first to last. */
struct tree_shared {
    int64_t *ids; /* ascending */
    int32_t n;
};
enum status tree_shared_load(struct db *d, int64_t conversation, struct tree_shared *ret,
                             struct err *e);
void tree_shared_fini(struct tree_shared *t);
/* Alternatives below one parent (0 = first messages), oldest first, as one conversation sees them. */
struct tree_alternatives {
    int64_t *ids;
    int32_t n;
};
enum status tree_alternatives_load(struct db *d, int64_t conversation,
                                   const struct tree_shared *shared, int64_t parent,
                                   struct tree_alternatives *ret, struct err *e);
void tree_alternatives_fini(struct tree_alternatives *a);
int32_t tree_alternatives_index(const struct tree_alternatives *a, int64_t message); /* -1 = none */
/* ERR_NOT_FOUND unless the conversation exists and sees the message (0 = before the first). */
enum status tree_expect_visible(struct db *d, int64_t conversation, int64_t message,
                                struct err *e);

/* ---- messages.c ---- */
/* Text of the answers that are queued but not in the file; malloc'ed, NULL = none. */
char *messages_unwritten(struct sessions *s);

/* ---- list.c ---- */
/* Columns of conversation in the order list_row reads them. */
#define LIST_COLUMNS "c.id, c.title, c.model, c.created_ms, c.updated_ms, c.pinned, c.leaf"
enum status list_row(struct sessions *s, sqlite3_stmt *st, struct sessions_row *ret,
                     struct err *e);

#endif
