/* Conversations on disk: the durable truth.
 *
 * Two SQLite files, one store: <name>.db holds what cannot be made again (conversations, messages,
 * token ids, branches, settings; WAL, synchronous=FULL) and <name>-kv.db what can (KV pieces; may
 * be deleted at any time). Directory 0700, files 0600. Knows no model and no screen.
 *
 * A conversation is a tree of messages; `leaf` marks the branch that is open. A message's token ids
 * are stored exactly as they were fed or generated, so concatenating the ids along a path gives the
 * token log of that branch. Forks made as conversations of their own share their ancestors' rows.
 *
 * Threads: all writes run on the store's own thread, in order. Calls marked [w] queue a write and
 * return at once; calls marked [W] wait until it is durable (a few milliseconds). Reads use a
 * reader connection of the calling (main) thread and see every write queued before them, unless the
 * disk is full or another program holds the file: then only sessions_path_load does. Rows that
 * are returned are owned by the caller and freed with the matching _free. */
#ifndef SESSIONS_SESSIONS_H
#define SESSIONS_SESSIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/kv_io.h"

struct sessions;

/* $XDG_DATA_HOME/dogear/dogear.db, malloc'ed; ERR_USAGE where no home is known. */
enum status sessions_default_path(char **ret, struct err *e);
/* path NULL = the default one. Creates, migrates forward; a file that is no Dogear
 * store, is newer than this program or cannot be read gives one clear error and is left alone. */
enum status sessions_open(const char *path, struct sessions **ret, struct err *e);
/* Finishes queued writes; only sessions_path, sessions_trouble and sessions_close may follow. What a
 * full disk or another program still keeps out of the file after a few tries (a quarter of a minute)
 * is lost: the text of such answers is returned (malloc'ed), NULL = none. */
char *sessions_end(struct sessions *s);
void sessions_close(struct sessions *s); /* after sessions_end, if need be; NULL is fine */
const char *sessions_path(const struct sessions *s);
/* The first write error since the last call, if any (disk full, read-only): for the status line. */
bool sessions_trouble(struct sessions *s, struct err *ret);

/* ---- conversations ---- */
enum { SESSIONS_TIERS = 8 };
struct sessions_row {
    int64_t id;
    char *title;                 /* never NULL; "" = untitled */
    char *model;                 /* name of the model last used */
    int64_t created_ms, updated_ms; /* Unix time */
    int32_t n_message, n_tok;    /* on the open branch; n_tok -1 = unknown: no model has read it */
    int64_t kv_bytes;            /* on disk, all branches; -1 = unknown: a store that is only read */
    int64_t tier_bytes[SESSIONS_TIERS]; /* by precision tier, as in engine/stats.h */
    int64_t state_bytes;         /* of layers that keep a state of fixed size, float32 */
    bool pinned;
    char *snippet;               /* search only: match with \x02..\x03 around hits; else NULL */
    int64_t message;             /* search only: the message that matched, else 0 */
};
void sessions_rows_free(struct sessions_row *rows, int32_t n);

/* Newest first. limit <= 0 = all. */
enum status sessions_list(struct sessions *s, int32_t limit, struct sessions_row **ret,
                          int32_t *ret_n, struct err *e);
enum status sessions_get(struct sessions *s, int64_t id, struct sessions_row *ret, struct err *e);
/* Full-text search over messages and titles: words are ANDed, the last may be a prefix; any input
 * is safe. Best match first. */
enum status sessions_search(struct sessions *s, const char *query, int32_t limit,
                            struct sessions_row **ret, int32_t *ret_n, struct err *e);
enum status sessions_create(struct sessions *s, const char *model, int64_t *ret_id, struct err *e); /* [W] */
enum status sessions_rename(struct sessions *s, int64_t id, const char *title, struct err *e);     /* [W] */
enum status sessions_delete(struct sessions *s, int64_t id, struct err *e);                        /* [W] */
enum status sessions_set_model(struct sessions *s, int64_t id, const char *model, struct err *e);   /* [W] */
enum status sessions_pin(struct sessions *s, int64_t id, bool pinned, struct err *e);              /* [W] */
/* A new conversation whose path is the ancestors of `message` (included); no text is copied. Its title is the
 * origin's with the next free number: "Title (2)". */
enum status sessions_fork(struct sessions *s, int64_t id, int64_t message, int64_t *ret_id,
                          struct err *e); /* [W] */

/* ---- messages ---- */
struct sessions_message {
    int64_t id, parent;          /* parent 0 = first message */
    char role[16];               /* "system", "user", "assistant" */
    char *text;                  /* never NULL, NUL-terminated UTF-8 */
    size_t len;
    int32_t *ids;                /* token ids as fed; NULL while unknown (see sessions_set_vocab) */
    int32_t n_id;
    bool ours;                   /* marked as of the model in use (sessions_set_vocab), ids or not */
    bool done;                   /* false: the answer was cut by a crash */
    char stop[12];               /* "eos", "length", "context", "cancel", "" */
    int64_t created_ms;
    int32_t n_sibling, sibling;  /* alternatives at this point and the index of this one */
};
void sessions_messages_free(struct sessions_message *m, int32_t n);

/* The open branch from the first message to the leaf. */
enum status sessions_path_load(struct sessions *s, int64_t id, struct sessions_message **ret,
                               int32_t *ret_n, struct err *e);
/* Durable when it returns; becomes the leaf. parent 0 = a first message. A message of role
 * "assistant" is not done until sessions_finish. */
enum status sessions_add(struct sessions *s, int64_t id, int64_t parent, const char *role,
                         const char *text, size_t len, int64_t *ret_message, struct err *e); /* [W] */
/* A new conversation with its first messages, all or nothing: system NULL = none, then one of the user.
 * ret_message: of both; [0] is 0 without the first. */
enum status sessions_begin(struct sessions *s, const char *model, const char *system, const char *text, size_t len,
                           int64_t *ret_id, int64_t ret_message[2], struct err *e); /* [W] */
/* Names the tokens of the model in use (any hash of its vocabulary): ids written from now on carry
 * it, and sessions_path_load leaves out ids that carry another one, so that a chat that goes on with
 * another model is read again from its text. 0 (the start) = ids are given as they are. */
void sessions_set_vocab(struct sessions *s, uint64_t vocab);
/* Token ids of a message once they are known; n 0: none, but the message is one of the model in use. */
void sessions_set_ids(struct sessions *s, int64_t message, const int32_t *ids, int32_t n); /* [w] */
/* The answer so far, replacing what was stored: text and ids. */
void sessions_stream(struct sessions *s, int64_t message, const char *text, size_t len,
                     const int32_t *ids, int32_t n); /* [w] */
void sessions_finish(struct sessions *s, int64_t message, const char *text, size_t len,
                     const int32_t *ids, int32_t n, const char *stop); /* [w] */
enum status sessions_flush(struct sessions *s, struct err *e); /* waits for all text queued */
/* An answer is written by one program at a time: from sessions_add or `begin` on until sessions_finish is done, or
 * `end`, or the end of the program. begin: false while another one writes it. Any thread. */
bool sessions_writing_begin(struct sessions *s, int64_t message);
void sessions_writing_end(struct sessions *s, int64_t message);
bool sessions_writing_elsewhere(struct sessions *s, int64_t message);
/* Between the two the store's thread writes nothing and holds no lock on the files: for a program
 * that is about to be stopped. No other call in between. */
void sessions_hold(struct sessions *s);
void sessions_release(struct sessions *s);
/* True once after another program has written to the store. Never blocks: it looks in the
 * background, so the answer is as old as the call before. */
bool sessions_changed(struct sessions *s);
/* Opens another branch: the leaf becomes the newest descendant of `message`; message 0 = before
 * the first. exact = true makes `message` itself the leaf. */
enum status sessions_set_leaf(struct sessions *s, int64_t id, int64_t message, bool exact,
                              struct err *e); /* [W] */
/* The sibling `step` places after (before, if negative) message as conversation `id` sees it; 0 when there is none.
 * A fork sees the shared ancestors and what was written in it, not the other branches of its origin. */
enum status sessions_sibling(struct sessions *s, int64_t id, int64_t message, int32_t step, int64_t *ret,
                             struct err *e);

/* ---- what turns measured ---- */
struct sessions_turn {
    int64_t message, at_ms; /* the answer, and when */
    char *figures;          /* as given */
    void *choices;          /* of the leaf only; NULL = none */
    size_t choices_bytes;
};
void sessions_turns_free(struct sessions_turn *t, int32_t n);
/* Of the answers of the open branch that have any, first to last. */
enum status sessions_turns(struct sessions *s, int64_t id, struct sessions_turn **ret,
                           int32_t *ret_n, struct err *e);
/* One text (JSON) and bytes that the store does not look into; put again, the text is replaced, and
 * the bytes if there are any. */
void sessions_turn_put(struct sessions *s, int64_t message, const char *figures,
                       const void *choices, size_t choices_bytes); /* [w] */

/* ---- settings (small strings) ---- */
enum status sessions_setting(struct sessions *s, const char *key, char **ret, struct err *e); /* NULL = unset */
void sessions_set_setting(struct sessions *s, const char *key, const char *value); /* [w] */

/* ---- KV on disk ---- */
/* Callbacks for the engine, bound to this store. The timeline number is the conversation id. NULL
 * when this store keeps no KV (in memory, read-only, file out of use: see sessions_trouble). */
const struct kv_io *sessions_kv_io(struct sessions *s);

/* Drops KV of one conversation until its pages are no finer than tier `depth` (2 = 8/4, 4 = 4/4,
 * 6 = 2/2; 7 = no KV at all), never text. Exact f16 pages go only with 7. Pages shared with other
 * conversations stay as fine as the least thinned of them. *ret_freed_bytes may be NULL. */
enum status sessions_thin(struct sessions *s, int64_t id, int32_t depth, int64_t *ret_freed_bytes,
                          struct err *e); /* [W] */

/* Bytes of KV that the store may keep on disk. Over it, or with less than 32 MiB free in its file system, the
 * least recently used conversations that are not pinned are thinned plane by plane, then lose their KV. A disk
 * that is full nonetheless costs KV, pinned or not, before it keeps text out; sessions_trouble tells. */
struct sessions_budget {
    int64_t limit_bytes; /* in force */
    int64_t used_bytes;  /* of the KV file, without pages that are free */
    int64_t automatic_bytes; /* what automatic means here: a tenth of the disk that is free or used
                                by KV, at least 256 MiB, at most 16 GiB */
    bool automatic;
};
enum status sessions_budget_get(struct sessions *s, struct sessions_budget *ret,
                                struct err *e); /* waits for queued KV */
bool sessions_kv_settled(struct sessions *s); /* no KV is queued */
enum status sessions_budget_set(struct sessions *s, int64_t limit_bytes, struct err *e); /* [W] 0 = automatic */

/* Bytes of KV of one conversation by tier, and of states (may be NULL); what is shared counts for each that
 * uses it. */
enum status sessions_kv_sizes(struct sessions *s, int64_t id, int64_t ret[SESSIONS_TIERS], int64_t *ret_state,
                              struct err *e);

/* ---- export and import ---- */
enum sessions_format {
    SESSIONS_MARKDOWN, /* the open branch, for people */
    SESSIONS_JSON,     /* every branch with token ids; sessions_import reads it back. Bytes that are no
                          UTF-8 become U+FFFD */
};
/* id 0 = every conversation, oldest first. *ret is malloc'ed and NUL-terminated. */
enum status sessions_export(struct sessions *s, int64_t id, enum sessions_format format, char **ret,
                            size_t *ret_len, struct err *e);
/* A whole conversation as one file (SQLite, mode 0600; must not exist yet), exact to the byte, with
 * or without its KV. */
enum status sessions_export_file(struct sessions *s, int64_t id, const char *path, bool with_kv,
                                 struct err *e);
struct sessions_imported {
    int32_t n_conversation, n_message;
    int32_t n_skipped;  /* messages of other programs that hold no text of ours to keep (tools) */
    int32_t n_kv_piece; /* queued for writing */
    int64_t first_id;   /* of the first new conversation; 0 = none */
};
/* Reads what either export wrote, or ChatGPT's conversations.json (its tree is kept). All or
 * nothing; conversations are added as new ones. */
enum status sessions_import(struct sessions *s, const char *path, struct sessions_imported *ret,
                            struct err *e); /* [W] */

/* ---- health ---- */
struct sessions_health {
    int64_t n_conversation, n_message; /* -1 = could not be read */
    int64_t db_bytes, kv_db_bytes, free_disk_bytes;
    int32_t schema, application; /* what marks the text file as ours: PRAGMA user_version, application_id */
    bool text_ok, kv_ok;
    char detail[512]; /* first problem found, or "" */
};
/* Checks both files; repair = true drops damaged KV (never text) and rebuilds the search index. */
enum status sessions_check(struct sessions *s, bool repair, struct sessions_health *ret,
                           struct err *e); /* [W] */

#endif
