/* `dogear` and `dogear chat`: the terminal. `dogear desktop`: the window. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/chats.h"
#include "app/cli.h"
#include "app/loop.h"
#include "app/window.h"
#include "engine/base/mem.h"
#include "sessions/sessions.h"
#include "ui/text.h"

static struct loop_options loop_options(const struct options *o, struct loop_wake *wake)
{
    return (struct loop_options){
        .wake = wake,
        .theme = o->theme,
        .history_path = o->no_save ? "" : NULL, /* --no-save leaves nothing of it on disk */
        .prompt = o->prompt,
        .open_id = o->resume_id,
        .system = o->resume_id && o->system_asked ? o->system : NULL,
        .pick = o->resume && o->resume_id == 0,
        .frame_log = o->frame_log,
        .frame_text = o->frame_text,
    };
}

static int run(const struct options *o, struct engine *en, struct sessions *store,
               struct loop_options *lo)
{
    struct err e;
    struct chats *cs = chats_new(en, store);
    struct chat *c = chats_view(cs);
    chat_set_sampling(c, &o->sampling, o->n_predict);
    chat_set_raw(c, o->raw);
    if (o->system)
        chat_set_system(c, o->system, &e); /* of new ones */
    lo->engine = en;
    lo->notice = engine_info(en)->notice;
    int rc = loop_run(cs, store, lo);
    chats_free(cs);
    return rc;
}

static int run_terminal(const struct options *o, struct loop_wake *wake)
{
    struct err e;
    struct sessions *store = NULL;
    struct engine *en = NULL;
    struct loop_options lo = loop_options(o, wake);
    int rc;
    if (cli_store(o, &store, &e) != OK ||
        cli_engine(o, false, sessions_kv_io(store), wake, &en, &e) != OK)
        rc = e.code == ERR_CANCELLED ? 130 : cli_fail(&e);
    else
        rc = run(o, en, store, &lo);
    engine_close(en);
    return cli_store_close(store, rc);
}

int cmd_chat(struct options *o)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        fprintf(stderr, "dogear: the chat needs a terminal; use `dogear ask` in scripts\n");
        return 2;
    }
    struct err e;
    struct loop_wake wake;
    if (loop_wake_open(&wake, &e) != OK)
        return cli_fail(&e);
    int rc = run_terminal(o, &wake);
    loop_wake_close(&wake);
    return rc;
}

/* ---- the window ---- */

struct loading {
    struct ui_front *front;
    const struct loop_wake *wake;
    int percent; /* shown last */
    bool closed;
    struct cells *cells; /* the front-end looks at them until the next frame */
    struct shapes shapes;
    struct ui_event *typed; /* meanwhile: for the chat */
    int n_typed;
};

/* The window is there before the model: large ones take a while. */
static bool show_loading(void *ctx, float done)
{
    struct loading *l = ctx;
    struct ui_event ev;
    bool resized = false;
    while (l->front->event(l->front->ctx, &ev)) {
        l->closed |= ev.kind == UI_EV_CLOSED;
        resized |= ev.kind == UI_EV_RESIZE;
        if (ev.kind == UI_EV_KEY || ev.kind == UI_EV_PASTE) {
            l->typed = mem_realloc(l->typed, ((size_t)l->n_typed + 1) * sizeof ev);
            l->typed[l->n_typed++] = ev;
        }
    }
    int percent = (int)(done * 100), cols, rows;
    if (percent != l->percent || resized) {
        l->percent = percent;
        l->front->size(l->front->ctx, &cols, &rows);
        struct cells *c = l->cells = l->cells ? l->cells : cells_new(cols, rows);
        if (resized)
            cells_resize(c, cols, rows);
        struct rect all = {0, 0, cols, rows};
        int w = cols / 3, x = (cols - w) / 2, y = rows * 2 / 5;
        cells_puts(c, all, x, y, "Opening the model", ROLE_TITLE, 0, 0);
        shapes_clear(&l->shapes);
        shapes_fill(&l->shapes, (float)x, (float)y + 1.6f, (float)w, 0.3f, ROLE_BORDER, 255, NULL);
        shapes_fill(&l->shapes, (float)x, (float)y + 1.6f, (float)w * done, 0.3f, ROLE_ACCENT, 255,
                    NULL);
        l->front->present(l->front->ctx, c, &l->shapes);
    }
    return !l->closed && !loop_wake_interrupted(l->wake);
}

static int desktop_fail(const struct err *e)
{
    fprintf(stderr, "dogear desktop: %s\n", e->text);
    return 1;
}

/* Who started the program from a menu sees no stderr: the window says why it goes, and waits for a
 * key. */
static void show_failure(struct loading *l, const char *text)
{
    bool closed = isatty(STDERR_FILENO), again = true;
    while (!closed && !loop_wake_interrupted(l->wake)) {
        int cols, rows;
        struct ui_event ev;
        l->front->size(l->front->ctx, &cols, &rows);
        if (again) {
            struct cells *before = l->cells, *c = l->cells = cells_new(cols, rows);
            int y = rows / 3, w = cols > 16 ? cols - 8 : cols;
            cells_puts(c, (struct rect){0, 0, cols, rows}, 4, y, "Dogear cannot start", ROLE_TITLE,
                       0, 0);
            for (size_t off = 0, n = strlen(text), next; off < n && (y += 1); off += next) {
                size_t len = text_wrap(text + off, n - off, w, false, &next);
                cells_put(c, (struct rect){0, 0, cols, rows}, 4, y + 1, text + off, len, ROLE_ERROR,
                          0, 0);
            }
            cells_puts(c, (struct rect){0, 0, cols, rows}, 4, y + 3, "Any key leaves.", ROLE_DIM, 0,
                       0);
            l->front->present(l->front->ctx, c, NULL);
            cells_free(before);
        }
        l->front->wait(l->front->ctx, NULL, 0, 200);
        again = false;
        while (l->front->event(l->front->ctx, &ev)) {
            closed |= ev.kind == UI_EV_CLOSED || ev.kind == UI_EV_KEY;
            again |= ev.kind == UI_EV_RESIZE;
            free(ev.text);
        }
    }
}

static int run_desktop(const struct options *o, struct loop_wake *wake)
{
    struct err e;
    struct sessions *store = NULL;
    struct engine *en = NULL;
    struct ui_front front;
    struct theme theme;
    struct loop_options lo = loop_options(o, wake);
    lo.front = &front;
    lo.screenshot = o->screenshot;
    int rc = 1;
    if (cli_store(o, &store, &e) != OK || loop_theme(&lo, store, &theme, &e) != OK) {
        rc = cli_fail(&e);
        return cli_store_close(store, rc);
    }
    char *zoom = NULL;
    struct err none;
    sessions_setting(store, "zoom", &zoom, &none);
    struct window_options wo = {&theme, o->font, zoom ? atoi(zoom) : 0};
    if (window_load(&wo, &front, &e) != OK) {
        rc = desktop_fail(&e);
    } else {
        struct loading loading = {.front = &front, .wake = wake, .percent = -1};
        enum status st = cli_engine_with(o, false, sessions_kv_io(store), wake, show_loading,
                                         &loading, &en, &e);
        lo.early = loading.typed;
        lo.n_early = loading.n_typed;
        if (st == OK) {
            rc = run(o, en, store, &lo); /* closes the window */
        } else {
            if (!loading.closed && st != ERR_CANCELLED && !o->screenshot)
                show_failure(&loading, e.text);
            front.close(front.ctx);
            for (int i = 0; i < loading.n_typed; i++)
                free(loading.typed[i].text);
            rc = loading.closed ? 0 : st == ERR_CANCELLED ? 130 : desktop_fail(&e);
        }
        free(loading.typed);
        cells_free(loading.cells);
        shapes_fini(&loading.shapes);
    }
    free(zoom);
    engine_close(en);
    return cli_store_close(store, rc);
}

int cmd_desktop(struct options *o)
{
    struct err e;
    struct loop_wake wake;
    if (loop_wake_open(&wake, &e) != OK)
        return cli_fail(&e);
    int rc = run_desktop(o, &wake);
    loop_wake_close(&wake);
    return rc;
}
