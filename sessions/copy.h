/* A whole conversation in memory: what export reads, import builds, and the one-file form carries.
 * Inside of the store. Messages refer to each other by index, so ids of one store never leak into
 * another. */
#ifndef SESSIONS_COPY_H
#define SESSIONS_COPY_H

#include "sessions/store.h"

struct copy_message {
    int64_t id;      /* where it came from; for looking up parents while reading */
    int32_t parent;  /* index of an earlier message; -1 = first */
    int64_t created_ms;
    bool done;
    char role[16], stop[12];
    char *text;
    size_t len;
    int32_t *ids;
    int32_t n_id;
    uint64_t vocab; /* whose ids they are */
};

struct copy {
    char *title, *model;
    int64_t created_ms, updated_ms;
    bool pinned;
    int32_t leaf; /* index; -1 = the path is empty */
    struct copy_message *messages; /* parents before children, siblings oldest first */
    int32_t n_message;
};

struct copies {
    struct copy *all;
    int32_t n;
};

void copies_fini(struct copies *c);
struct copy *copies_add(struct copies *c);                 /* zeroed, leaf -1; valid until the next */
struct copy_message *copy_add(struct copy *c);             /* zeroed, parent -1; valid until the next */
/* Index of the message that came from id, -1 = none; ids ascend. */
int32_t copy_find(const struct copy *c, int64_t id);

/* Everything the conversation sees. */
enum status copy_load(struct db *d, int64_t conversation, struct copy *ret, struct err *e);
/* Inserts it as a new conversation. Inside a write transaction. */
enum status copy_insert(struct db *d, const struct copy *c, int64_t *ret_id, struct err *e);

/* ---- import.c, bundle.c ---- */
/* Whether the file is our one-file form (SQLite with our mark). */
bool bundle_is(const char *path);
/* Reads the conversation of a bundle. */
enum status bundle_read(const char *path, struct copies *ret, struct err *e);
/* Queues the bundle's intact KV pieces for a conversation; returns how many. */
int32_t bundle_read_kv(struct sessions *s, const char *path, int64_t conversation);

#endif
