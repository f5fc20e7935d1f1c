/* The main thread's event loop: one poll() over the terminal, the engine's wake-up and the signals;
 * at most one frame per 16 ms, none while nothing happens. Owns the screen while it runs.
 *
 * Order of use: loop_wake_open before any other thread exists (signals must be blocked everywhere
 * so that only the loop sees them), then engine_open with loop_wake_fire, sessions, chat_new,
 * loop_run, and everything closed in reverse. Main thread only, but for loop_wake_fire. */
#ifndef APP_LOOP_H
#define APP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"

struct chats;
struct engine;
struct sessions;
struct theme;
struct ui_event;
struct ui_front;

struct loop_wake {
    int event_fd, signal_fd;
};

/* Blocks SIGINT, SIGTERM, SIGHUP, SIGWINCH and SIGTSTP, ignores SIGPIPE. */
enum status loop_wake_open(struct loop_wake *ret, struct err *e);
void loop_wake_close(struct loop_wake *w); /* unblocks the signals again */
/* For engine_params.wake with wake_ctx = the struct loop_wake. Any thread; only unblocks. */
void loop_wake_fire(void *wake);
/* True when Ctrl+C or a termination signal is waiting: for engine_params.progress while loading. */
bool loop_wake_interrupted(const struct loop_wake *w);

struct loop_options {
    struct loop_wake *wake; /* required */
    struct engine *engine;  /* for the status line; borrowed, required */
    const char *theme; /* built-in name or path of a .conf; NULL = the saved one, else "dark" */
    const char *history_path; /* NULL = $XDG_STATE_HOME/dogear/history; "" = keep none */
    const char *prompt;       /* sent as the first message; NULL = none */
    const char *notice;       /* first line shown, e.g. engine_info()->notice; NULL or "" = none */
    int64_t open_id;          /* conversation to open; 0 = a new one */
    const char *system;       /* what open_id's system prompt is to be (chat_set_system); NULL = as it is */
    bool pick;                /* start in the conversation list */
    bool mouse; /* report mouse events (the terminal's own selection then needs Shift) */
    struct ui_front *front; /* opened already, closed by loop_run; NULL = the terminal */
    struct ui_event *early; /* what was typed into it before; texts are taken */
    int n_early;
    const char *screenshot; /* save a picture when nothing is left to do, then leave; NULL = no */
    const char *frame_log;  /* appended for every frame: its milliseconds by the clock and of
                             * this thread; NULL = no */
    const char *frame_text; /* always holds columns, rows and text of the last frame; NULL = no */
};

/* The theme to start with. */
enum status loop_theme(const struct loop_options *o, struct sessions *store, struct theme *ret,
                       struct err *e);

/* Runs the front-end until the user leaves, the terminal or window vanishes or SIGTERM comes; what
 * was typed is kept as a draft in the store. Returns the exit status of the program: 0, or 1 when
 * the terminal could not be set up (one line on stderr says why). */
int loop_run(struct chats *chats, struct sessions *store, const struct loop_options *o);

#endif
