/* The store's own thread: the only one that writes. Commands are functions with their arguments;
 * those that wait together are applied in one transaction. Any thread may post.
 *
 * A failure that may pass (full disk, lock) fails the callers that wait, while posted commands stay
 * queued in order and are tried again: at the next command and once a second. */
#ifndef SESSIONS_WRITER_H
#define SESSIONS_WRITER_H

#include "sessions/store.h"

struct command {
    /* Runs on the store's thread inside a transaction (unless bare). A failure undoes what this
     * command did and nothing else. */
    enum status (*run)(struct sessions *s, struct command *c, struct err *e);
    bool bare;  /* runs alone and outside a transaction */
    bool latest; /* posted: a later command with the same run and message replaces this one */

    int64_t conversation, message, number; /* arguments, as run needs them */
    const char *text;
    size_t len;
    const int32_t *ids;
    int32_t n_id;
    const char *word;
    void *more;
    int64_t ret; /* result */

    /* private */
    struct command *next;
    bool waited, finished;
    enum status status;
    struct err err;
};

enum status writer_start(struct sessions *s, struct err *e);
void writer_stop(struct sessions *s); /* finishes what is queued; NULL writer is fine */

/* Runs the command and waits; arguments are borrowed. */
enum status writer_call(struct sessions *s, struct command *c, struct err *e);
/* Copies the command with its text, ids and word, and returns at once. */
void writer_post(struct sessions *s, const struct command *c);
/* Waits until the commands posted so far are applied, or cannot be for now. */
void writer_drain(struct sessions *s);

#endif
