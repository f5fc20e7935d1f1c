/* The event loop; see loop.h. */
#include "app/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "app/chat.h"
#include "app/paths.h"
#include "app/screen.h"
#include "engine/base/clock.h"
#include "engine/base/str.h"
#include "sessions/sessions.h"
#include "ui/conf.h"
#include "ui/keymap.h"
#include "ui/tui.h"

static const double FRAME_S = 0.016;
enum { SETTLE_MS = 200 }; /* so long nothing happens before a picture is taken */

/* Of this thread. */
static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- wake-ups ---- */

static void signals(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGINT);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGHUP);
    sigaddset(ret, SIGWINCH);
    sigaddset(ret, SIGTSTP);
}

enum status loop_wake_open(struct loop_wake *ret, struct err *e)
{
    sigset_t set;
    signals(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct loop_wake w = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                          signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)};
    if (w.event_fd < 0 || w.signal_fd < 0) {
        int why = errno;
        loop_wake_close(&w);
        return err_set(e, ERR_IO, "cannot make event descriptors: %s", strerror(why));
    }
    *ret = w;
    return OK;
}

void loop_wake_close(struct loop_wake *w)
{
    if (w->event_fd >= 0)
        close(w->event_fd);
    if (w->signal_fd >= 0)
        close(w->signal_fd);
    sigset_t set;
    signals(&set);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void loop_wake_fire(void *wake)
{
    uint64_t one = 1;
    /* A full counter is awake already; there is nothing else to do about an error. */
    ssize_t n = write(((struct loop_wake *)wake)->event_fd, &one, sizeof one);
    (void)n;
}

bool loop_wake_interrupted(const struct loop_wake *w)
{
    sigset_t pending;
    (void)w;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) ||
            sigismember(&pending, SIGHUP));
}

/* ---- set-up ---- */

static enum status load_keymap(struct keymap *km, struct err *e)
{
    char *path = paths_config("keymap.conf");
    char *text = NULL;
    enum status s = conf_read(path, &text, e);
    if (s == OK)
        s = keymap_add(km, text, path, e);
    else if (s == ERR_NOT_FOUND)
        s = OK;
    free(text);
    free(path);
    return s;
}

/* A theme that was asked for must exist; one that was saved may have gone. */
enum status loop_theme(const struct loop_options *o, struct sessions *store, struct theme *ret,
                       struct err *e)
{
    if (o->theme)
        return theme_load(o->theme, ret, e);
    char *saved = NULL;
    struct err ignored;
    bool good = sessions_setting(store, "theme", &saved, &ignored) == OK && saved &&
                theme_load(saved, ret, &ignored) == OK;
    free(saved);
    return good ? OK : theme_load("dark", ret, e);
}

static bool no_colour(void)
{
    const char *s = getenv("NO_COLOR");
    return s && s[0];
}

/* Signals that came; false = leave. */
static bool take_signals(int fd, struct ui_front *front, struct screen *sc)
{
    struct signalfd_siginfo si;
    bool go_on = true;
    while (read(fd, &si, sizeof si) == (ssize_t)sizeof si) {
        if (si.ssi_signo == SIGWINCH)
            front->resized(front->ctx);
        else if (si.ssi_signo == SIGTSTP)
            screen_act(sc, ACT_SUSPEND);
        else
            go_on = false;
    }
    return go_on;
}

/* Renamed into place, so that a reader sees whole frames. */
static void write_text(const struct screen *sc, const char *path)
{
    struct str text = {0}, tmp = {0};
    str_addf(&tmp, "%s.new", path);
    screen_text_of(sc, &text);
    FILE *f = fopen(str_c(&tmp), "we");
    if (f) {
        fwrite(str_c(&text), 1, text.len, f);
        fclose(f);
        rename(str_c(&tmp), path);
    }
    str_fini(&text);
    str_fini(&tmp);
}

/* A frame's time counts from the end of the wait before it, with what was done about events. */
struct woken {
    double wall_s, cpu_s;
};

static struct woken woken_now(void)
{
    return (struct woken){clock_s(), cpu_s()};
}

static void draw(struct screen *sc, const struct loop_options *o, FILE *log, struct woken from)
{
    screen_draw(sc);
    if (log)
        fprintf(log, "%.3f %.3f\n", (clock_s() - from.wall_s) * 1000, (cpu_s() - from.cpu_s) * 1000);
    if (o->frame_text)
        write_text(sc, o->frame_text);
}

/* ret_e tells why the picture that was asked for is not there. */
static enum status run(struct ui_front *front, struct screen *sc, const struct loop_options *o,
                       FILE *log, struct err *ret_e)
{
    const struct loop_wake *w = o->wake;
    double frame_s = 0;
    struct woken woken = woken_now();
    while (!screen_done(sc)) {
        int timeout_ms = screen_tick(sc, clock_s());
        if (screen_dirty(sc)) {
            double due_ms = (frame_s + FRAME_S - clock_s()) * 1000;
            if (due_ms <= 0) {
                draw(sc, o, log, woken);
                frame_s = clock_s();
            } else if (timeout_ms < 0 || due_ms < timeout_ms) {
                timeout_ms = (int)due_ms + 1;
            }
        }
        bool settled = o->screenshot && !screen_dirty(sc) && !screen_busy(sc);
        if (settled)
            timeout_ms = SETTLE_MS;
        struct pollfd fds[2] = {{w->event_fd, POLLIN, 0}, {w->signal_fd, POLLIN, 0}};
        front->wait(front->ctx, fds, 2, timeout_ms);
        woken = woken_now();
        if ((fds[1].revents & POLLIN) && !take_signals(w->signal_fd, front, sc))
            break;
        if (fds[0].revents & POLLIN) {
            uint64_t n;
            if (read(w->event_fd, &n, sizeof n) > 0)
                screen_engine(sc);
        }
        struct ui_event ev;
        while (!screen_done(sc) && front->event(front->ctx, &ev))
            screen_event(sc, &ev);
        if (settled && !screen_dirty(sc) && !screen_busy(sc)) {
            screen_draw(sc);
            return front->screenshot(front->ctx, o->screenshot, ret_e);
        }
    }
    return OK;
}

int loop_run(struct chats *chats, struct sessions *store, const struct loop_options *o)
{
    struct err e;
    struct theme theme;
    struct ui_front front;
    struct keymap *km = keymap_new();
    if (load_keymap(km, &e) != OK || loop_theme(o, store, &theme, &e) != OK ||
        (!o->front && tui_open(&theme, no_colour(), o->mouse, &front, &e) != OK)) {
        fprintf(stderr, "dogear: %s\n", e.text);
        keymap_free(km);
        if (o->front)
            o->front->close(o->front->ctx);
        return 1;
    }
    if (o->front)
        front = *o->front;
    FILE *log = o->frame_log ? fopen(o->frame_log, "ae") : NULL;
    if (log)
        setvbuf(log, NULL, _IOLBF, 0);
    char *history = o->history_path ? strdup(o->history_path) : paths_state("history");
    struct screen_options so = {
        .theme = &theme,
        .keymap = km,
        .history_path = history && history[0] ? history : NULL,
        .wake_fd = o->wake->event_fd,
        .mouse = o->mouse,
    };
    struct screen *sc = screen_new(&front, chats, store, o->engine, &so);
    if (o->open_id)
        screen_open(sc, o->open_id);
    if (o->notice && o->notice[0] && chat_conversation(screen_chat(sc)) == o->open_id)
        screen_notice(sc, "%s", o->notice);
    if (o->system && chat_set_system(screen_chat(sc), o->system, &e) != OK)
        screen_error(sc, &e);
    if (o->pick)
        screen_pick(sc);
    if (o->prompt && o->prompt[0])
        screen_send(sc, o->prompt, strlen(o->prompt));
    for (int i = 0; i < o->n_early; i++)
        screen_event(sc, &o->early[i]);
    enum status st = run(&front, sc, o, log, &e);
    screen_free(sc);
    front.close(front.ctx);
    if (log)
        fclose(log);
    free(history);
    if (st != OK)
        fprintf(stderr, "dogear: %s\n", e.text);
    return st == OK ? 0 : 1;
}
