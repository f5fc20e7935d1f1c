/* The controller of the chat screen: input events to actions, commands and calls of app/chats.h;
 * the chat, the store and the engine's figures to the model that the views draw. Front-end and
 * everything passed in are borrowed. Main thread only; never blocks on compute. */
#ifndef APP_SCREEN_H
#define APP_SCREEN_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "ui/ui.h"

struct chat;
struct chats;
struct engine;
struct screen;
struct str;
struct sessions;

struct screen_options {
    const struct theme *theme;
    struct keymap *keymap;    /* taken */
    const char *history_path; /* NULL = history is not kept */
    int wake_fd;              /* polled while an external editor runs, -1 = none */
    bool mouse;
};

struct screen *screen_new(struct ui_front *front, struct chats *chats, struct sessions *store,
                          struct engine *engine, const struct screen_options *o);
void screen_free(struct screen *sc); /* keeps what is typed as a draft */

/* ---- for the loop ---- */
void screen_event(struct screen *sc, struct ui_event *ev); /* takes ev->text */
void screen_engine(struct screen *sc);                     /* the engine has something to say */
/* Time-driven work (fading notices, drafts, figures); returns milliseconds until it is needed
 * again, -1 = not before something happens. */
int screen_tick(struct screen *sc, double now_s);
bool screen_dirty(const struct screen *sc);
void screen_draw(struct screen *sc);
/* Appends "COLUMNS ROWS" and the text of every row of the last frame, a line each. */
void screen_text_of(const struct screen *sc, struct str *out);
bool screen_done(const struct screen *sc); /* the user wants to leave, or the terminal is gone */
bool screen_busy(const struct screen *sc); /* an answer is being written, or waits for that */

/* ---- verbs for commands and start-up ---- */
void screen_notice(struct screen *sc, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void screen_error(struct screen *sc, const struct err *e);
void screen_act(struct screen *sc, int action); /* enum keymap_action */
void screen_send(struct screen *sc, const char *text, size_t n);
void screen_open(struct screen *sc, int64_t conversation);
void screen_compact(struct screen *sc); /* goes on in a shorter conversation: compact.h */
void screen_search(struct screen *sc, const char *query);
void screen_pick(struct screen *sc); /* the conversation list, beside the chat or as a popup */
void screen_text(struct screen *sc, const char *title, char *text); /* shows text; takes it */
/* Asks before deleting conversation id. */
void screen_delete(struct screen *sc, int64_t conversation);
void screen_rename(struct screen *sc, int64_t conversation, const char *title);
void screen_edit_last(struct screen *sc);
void screen_continue(struct screen *sc); /* with an answer that was cut */
bool screen_copy(struct screen *sc, int number);         /* code block, 0 = the last answer */
void screen_export(struct screen *sc, const char *path); /* format by ending; NULL or "" = name by title */
void screen_theme(struct screen *sc, const char *name);
/* A picture of the window after the next frame; NULL or "" = a new name in the current folder. */
void screen_screenshot(struct screen *sc, const char *path);
void screen_budget(struct screen *sc, uint64_t size_bytes); /* 0 = automatic */
void screen_coverage(struct screen *sc, double coverage);
void screen_kv(struct screen *sc, const char *preset);
void screen_pin(struct screen *sc);  /* or unpins */
void screen_thin(struct screen *sc); /* asks first */
void screen_verify(struct screen *sc); /* or stops it */
void screen_refresh(struct screen *sc); /* the list and the model are to be read anew */
void screen_quit(struct screen *sc);
struct chat *screen_chat(struct screen *sc); /* in view */
struct sessions *screen_store(struct screen *sc);
struct engine *screen_engine_of(struct screen *sc);
/* The engine's figures of now, with what the store knows that the engine has forgotten. */
const struct stats *screen_stats(struct screen *sc);

#endif
