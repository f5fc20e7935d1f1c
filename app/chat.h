/* The chat controller: glue between one store and one engine; used by the terminal, the window and
 * `dogear ask` alike. Owns the open conversation's path (messages and token ids) and its turn, which
 * waits until the engine is free and then runs. Main thread only; never blocks on compute. The user's
 * message is durable in the store before anything is computed; the streaming answer is flushed at
 * least every second. Several chats on one engine: chats.h. */
#ifndef APP_CHAT_H
#define APP_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"

struct chat;
struct sessions;

/* Both are borrowed and must outlive it. A chat that leaves nothing on disk (--no-save) is given a
 * store in memory: there is one way of keeping messages, not two. */
struct chat *chat_new(struct engine *en, struct sessions *store);
void chat_free(struct chat *c); /* cancels a running turn and flushes what it has */

void chat_set_sampling(struct chat *c, const struct engine_sampling *s, int32_t n_predict);
const struct engine_sampling *chat_sampling(const struct chat *c);
int32_t chat_predict(const struct chat *c); /* n_predict as set */
void chat_set_raw(struct chat *c, bool raw); /* ignore the model's chat format: continue the text */
void chat_set_like(struct chat *c, const struct chat *from); /* all of these, and the system prompt to come */
/* The system prompt, "" = none. Of a conversation that has begun it opens a branch that begins with it and has the
 * same messages, to be read again with the next one; the branch before stays. */
enum status chat_set_system(struct chat *c, const char *text, struct err *e);
const char *chat_system(const struct chat *c); /* NULL = none; valid until the next change */

/* ---- the open conversation ---- */
struct chat_message {
    int64_t id;          /* store's id; < 0 while not saved */
    const char *role;    /* "system", "user", "assistant" */
    const char *text;    /* UTF-8, NUL-terminated; grows while streaming; borrowed until the next event */
    size_t len;
    bool streaming;      /* the answer being generated */
    bool ours;           /* the model in use wrote it, or read it */
    bool cut;            /* answer ended by cancel, length or crash */
    int32_t n_sibling;   /* alternatives at this point of the tree, itself included */
    int32_t sibling;     /* 0-based index among them */
    int32_t n_tok;       /* -1 = unknown */
};
int32_t chat_count(const struct chat *c);
void chat_get(const struct chat *c, int32_t i, struct chat_message *ret);
/* The last message when it is an answer. Borrowed until the next event. */
struct chat_answer {
    const int32_t *ids;
    int32_t n, first;                 /* how many; position of the first on the path */
    const struct stats_choice *choice; /* what the model said when it chose each of the first ids */
    int32_t n_choice;
    const struct stats_agree *agree;  /* what the last chat_verify found where each was chosen */
    int32_t n_agree;
};
bool chat_answer(const struct chat *c, struct chat_answer *ret); /* false = it is none */
/* Token ids of the open path as fed; malloc'ed. */
int32_t *chat_ids(const struct chat *c, int32_t *ret_n);
int32_t chat_n_tok(const struct chat *c); /* how many, as far as they are known */
int64_t chat_conversation(const struct chat *c); /* 0 = new, nothing saved yet */
const char *chat_title(const struct chat *c);    /* "" = new */
const char *chat_model(const struct chat *c);    /* name of the one last used for it */
bool chat_running(const struct chat *c);   /* a turn of it runs or waits */
bool chat_waiting(const struct chat *c);   /* it waits: chat_begin */
bool chat_verifying(const struct chat *c); /* it is chat_verify */
double chat_asked_s(const struct chat *c); /* when it began to wait: who asked first goes first */

/* ---- acting ---- */
/* Another conversation in its place, the old one stays saved. A turn of that ends. */
void chat_start_new(struct chat *c);
enum status chat_open(struct chat *c, int64_t conversation, struct err *e);
/* Reads the open conversation again: another program may have written to it. ERR_NOT_FOUND when it
 * is gone. Nothing happens while an answer is on its way. */
enum status chat_refresh(struct chat *c, struct err *e);
enum status chat_send(struct chat *c, const char *text, size_t len, struct err *e); /* ERR_BUSY: running */
void chat_cancel(struct chat *c); /* CHAT_EV_DONE follows, also of a turn that waited */
enum status chat_regenerate(struct chat *c, struct err *e);               /* new sibling of the last answer */
enum status chat_continue(struct chat *c, struct err *e);                 /* the last answer, where it was cut */
enum status chat_edit(struct chat *c, int32_t i, const char *text, size_t len, struct err *e);
enum status chat_undo(struct chat *c, struct err *e);                     /* steps back before the last question; nothing is deleted */
enum status chat_redo(struct chat *c, struct err *e);                     /* one question forward, towards the newest end of the open branch */
enum status chat_sibling(struct chat *c, int32_t i, int32_t step, struct err *e); /* other branch at message i */
enum status chat_fork(struct chat *c, int32_t i, int64_t *ret_conversation, struct err *e);
/* Adds a branch of its own to a conversation: a system prompt ("" = none), then messages, answers as ended. It
 * becomes the open one. Whoever has the conversation open reads it again. */
enum status chat_add_branch(struct sessions *store, int64_t conversation, const char *system,
                            const struct chat_message *messages, int32_t n, struct err *e);
enum status chat_rename(struct chat *c, const char *title, struct err *e);
/* Measures what compression costs this conversation (engine_verify); runs like a turn: chat_running,
 * chat_cancel, then CHAT_EV_VERIFIED. */
enum status chat_verify(struct chat *c, struct err *e);

/* ---- events ---- */
enum chat_event_kind {
    CHAT_EV_CHANGED,  /* messages changed: redraw */
    CHAT_EV_NOTICE,   /* text: one line */
    CHAT_EV_DONE,     /* turn ended: figures as in engine_event */
    CHAT_EV_FAILED,   /* err */
    CHAT_EV_VERIFY,   /* progress of chat_verify: done.n_tok_done of done.n_tok_total */
    CHAT_EV_VERIFIED, /* chat_verify ended: done.fidelity */
};
struct chat_event {
    enum chat_event_kind kind;
    char text[512];
    struct engine_event done; /* figures only; text and ids are NULL */
    struct err err;
};
/* For the command line: waits up to timeout_ms; false when nothing came. */
bool chat_next(struct chat *c, int timeout_ms, struct chat_event *ret);
/* What it is made of, for who drains the engine for several chats (each false = nothing to tell): */
/* A turn that waits begins when the engine is free; tells when it could not, or was cancelled. */
bool chat_begin(struct chat *c, struct chat_event *ret);
bool chat_take(struct chat *c, struct engine_event *ev, struct chat_event *ret); /* if it is of its turn */
void chat_flush(struct chat *c); /* at least every second: gives the store what has come */

#endif
