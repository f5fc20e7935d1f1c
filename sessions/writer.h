/* The store's own thread: the only one that writes. Commands are functions with their arguments;
 * those that wait together are applied in one transaction. Any thread may post.
 *
 * Two lanes, one per file: text goes first and KV fills the time between. A failure that may pass
 * (full disk, lock) fails the callers that wait; posted text stays queued in order and is tried
 * again, at the next command and once a second; posted KV is given up, it can be made again. On a full disk
 * old KV gives way first. */
#ifndef SESSIONS_WRITER_H
#define SESSIONS_WRITER_H

#include "sessions/store.h"

enum writer_lane { WRITER_TEXT, WRITER_KV, WRITER_LANES };

struct command {
    enum writer_lane lane; /* whose transaction it runs in */
    /* Runs on the store's thread inside a transaction (unless bare). A failure undoes what this
     * command did and nothing else. */
    enum status (*run)(struct sessions *s, struct command *c, struct err *e);
    bool bare;  /* runs alone and outside a transaction */
    bool lazy;  /* posted: may wait a second for others to share its transaction */
    bool chore; /* posted: can as well be done another day; dropped when the store is closed */
    bool aside; /* posted: whoever reads does not wait for it */
    bool latest; /* posted: a later command with the same run and message replaces this one */

    int64_t conversation, message, number; /* arguments, as run needs them */
    const char *text;
    size_t len;
    const int32_t *ids;
    int32_t n_id;
    const char *word;
    void *more;        /* for anything else; freed with more_free when posted */
    void (*more_free)(void *more);
    size_t size_bytes; /* of more, for the queue's limit */
    int64_t ret;       /* result */

    /* private */
    struct command *next;
    bool waited, finished;
    enum status status;
    struct err err;
};

/* list.c: a new conversation for the model `word`; its id is ret. Runs as a command or within one. */
enum status list_create(struct sessions *s, struct command *c, struct err *e);

enum status writer_start(struct sessions *s, struct err *e);
/* Finishes what is queued. What still cannot be written after a few tries stays in the lane: see
 * writer_pending. NULL writer is fine. */
void writer_stop(struct sessions *s);
void writer_free(struct sessions *s); /* stops it if need be; NULL writer is fine */

/* Runs the command and waits; arguments are borrowed. */
enum status writer_call(struct sessions *s, struct command *c, struct err *e);
/* Copies the command with its text, ids and word, takes more, and returns at once. */
void writer_post(struct sessions *s, const struct command *c);
/* Waits until what was in the lane when called is applied, or cannot be for now. */
void writer_drain(struct sessions *s, enum writer_lane lane);
/* The same, but for chores and what is put aside: a reader sees no difference, and a commit takes
 * tens of milliseconds. */
void writer_drain_shown(struct sessions *s, enum writer_lane lane);
bool writer_idle(struct sessions *s, enum writer_lane lane); /* nothing is queued or being applied */
/* Calls visit for every command of the lane that is not applied yet, in order. What it is given is
 * borrowed for the call, which must not come back here. */
void writer_pending(struct sessions *s, enum writer_lane lane,
                    void (*visit)(void *ctx, const struct command *c), void *ctx);
/* Between the two nothing is written, and nothing can be posted. */
void writer_hold(struct sessions *s);
void writer_release(struct sessions *s);

#endif
