/* The desktop front-end; see window.h. */
#include "ui/window.h"

#include <SDL.h>
#include <SDL_syswm.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "ui/paint.h"

enum {
    FONT_PX = 15, /* at zoom 0 on a display of ordinary density */
    ZOOM_MIN = -6,
    ZOOM_MAX = 14,
    WATCH_MAX = 4,
    START_COLS = 132,
    START_ROWS = 42,
};

/* Descriptors are watched by a thread, because SDL can only wait for its own events. When one is
 * ready the thread says so with an SDL event and rests until the next wait. */
struct watch {
    pthread_t thread;
    bool started;
    struct pollfd fds[WATCH_MAX + 1]; /* the last one ends the thread */
    int n_fd, stop_fd;
    atomic_bool fired;
    sem_t again;
    Uint32 event;
};

struct window {
    SDL_Window *window;
    struct pixels px;
    struct glyphs *glyphs;
    struct paint *paint;
    struct watch watch;
    double scale; /* of the display: font pixels per FONT_PX */
    int zoom;
    int cols, rows;
    struct cells *cells; /* of the last frame; borrowed from the controller, like shapes */
    const struct shapes *shapes;

    struct ui_event *queue; /* events not fetched yet */
    int n_queue, cap_queue, at_queue;
    bool resized, closed, told_closed, ended;

    struct str preedit;
    int key_mods; /* of the last key: text says nothing of Ctrl and Alt */
    int mouse_x, mouse_y; /* pixels; -1 = outside */
    int drag_col, drag_row, held;
    float wheel;
    SDL_Rect ime;
};

/* ---- waiting ---- */

static void *watch_run(void *arg)
{
    struct watch *w = arg;
    for (;;) {
        if (poll(w->fds, (nfds_t)w->n_fd + 1, -1) < 0 && errno != EINTR)
            return NULL;
        if (w->fds[w->n_fd].revents)
            return NULL;
        bool ready = false;
        for (int i = 0; i < w->n_fd; i++)
            ready |= w->fds[i].revents != 0;
        if (!ready)
            continue;
        atomic_store(&w->fired, true);
        SDL_Event ev = {.type = w->event};
        SDL_PushEvent(&ev);
        while (sem_wait(&w->again) != 0 && errno == EINTR)
            ;
    }
}

/* The descriptors are the same in every call. */
static void watch_arm(struct watch *w, const struct pollfd *fds, int n)
{
    if (!w->started) {
        w->n_fd = n < WATCH_MAX ? n : WATCH_MAX;
        if (w->n_fd > 0)
            memcpy(w->fds, fds, (size_t)w->n_fd * sizeof *fds);
        w->fds[w->n_fd] = (struct pollfd){w->stop_fd, POLLIN, 0};
        w->started = pthread_create(&w->thread, NULL, watch_run, w) == 0;
    } else if (atomic_exchange(&w->fired, false)) {
        sem_post(&w->again);
    }
}

static void watch_stop(struct watch *w)
{
    uint64_t one = 1;
    if (w->started && write(w->stop_fd, &one, sizeof one) == (ssize_t)sizeof one) {
        sem_post(&w->again);
        pthread_join(w->thread, NULL);
    }
    close(w->stop_fd);
    sem_destroy(&w->again);
}

static int poll_now(struct pollfd *fds, int n)
{
    for (int i = 0; i < n; i++)
        fds[i].revents = 0;
    return poll(fds, (nfds_t)n, 0);
}

static void repaint(struct window *w);

static void front_wait(void *ctx, struct pollfd *fds, int n_fd, int timeout_ms)
{
    struct window *w = ctx;
    repaint(w); /* what events changed above the cells: a tip, composed text */
    if (poll_now(fds, n_fd) != 0 || w->at_queue < w->n_queue || w->resized)
        return;
    watch_arm(&w->watch, fds, n_fd);
    if (timeout_ms < 0)
        SDL_WaitEvent(NULL);
    else
        SDL_WaitEventTimeout(NULL, timeout_ms);
    poll_now(fds, n_fd);
}

/* ---- showing ---- */

/* Pixels of the window per unit of SDL's mouse and window coordinates. */
static double density(const struct window *w)
{
    int width, height;
    SDL_GetWindowSize(w->window, &width, &height);
    return width > 0 ? (double)w->px.w / width : 1;
}

static void show(struct window *w, const struct rect *list, int n)
{
    SDL_Surface *s = SDL_GetWindowSurface(w->window);
    if (!s || s->w != w->px.w || s->h != w->px.h || n == 0)
        return; /* a new size is on its way */
    SDL_Surface *from = SDL_CreateRGBSurfaceWithFormatFrom(
        w->px.px, w->px.w, w->px.h, 32, w->px.w * (int)sizeof *w->px.px, SDL_PIXELFORMAT_RGB888);
    SDL_Rect rects[PAINT_DAMAGE_MAX];
    for (int i = 0; i < n; i++) {
        rects[i] = (SDL_Rect){list[i].x, list[i].y, list[i].w, list[i].h};
        SDL_Rect to = rects[i];
        SDL_BlitSurface(from, &rects[i], s, &to);
    }
    SDL_FreeSurface(from);
    SDL_UpdateWindowSurfaceRects(w->window, rects, n);
}

static const char *tip_of(const struct window *w)
{
    if (!w->shapes || w->mouse_x < 0 || w->held >= 0)
        return NULL;
    float x, y;
    int col, row;
    paint_place_at(w->paint, w->mouse_x, w->mouse_y, &x, &y);
    paint_cell_at(w->paint, w->mouse_x, w->mouse_y, &col, &row);
    const struct cell *c = cells_at(w->cells, col, row);
    if (!c || c->back != ROLE_TEXT) /* under a popup */
        return NULL;
    return shapes_tip(w->shapes, x, y);
}

/* Where an input method puts its candidates. */
static void place_ime(struct window *w)
{
    int x, y;
    if (!cells_cursor(w->cells, &x, &y))
        return;
    struct rect r = paint_cell_box(w->paint, x, y);
    double d = density(w);
    SDL_Rect at = {(int)(r.x / d), (int)(r.y / d), (int)(r.w / d), (int)(r.h / d)};
    if (memcmp(&at, &w->ime, sizeof at) != 0) {
        w->ime = at;
        SDL_SetTextInputRect(&at);
    }
}

static void repaint(struct window *w)
{
    if (!w->cells || w->resized)
        return;
    struct rect damage[PAINT_DAMAGE_MAX];
    struct paint_over over = {w->preedit.len ? str_c(&w->preedit) : NULL, tip_of(w), w->mouse_x,
                              w->mouse_y};
    show(w, damage, paint_frame(w->paint, &w->px, w->cells, w->shapes, &over, damage));
    place_ime(w);
}

static void present(void *ctx, struct cells *c, const struct shapes *shapes)
{
    struct window *w = ctx;
    w->cells = c;
    w->shapes = shapes;
    repaint(w);
    cells_shown(c);
}

/* ---- size ---- */

static void measure(struct window *w)
{
    SDL_Surface *s = SDL_GetWindowSurface(w->window);
    if (s && (s->w != w->px.w || s->h != w->px.h))
        pixels_resize(&w->px, s->w, s->h);
    paint_grid(w->paint, w->px.w, w->px.h, &w->cols, &w->rows);
    w->resized = true;
}

static int font_px(const struct window *w)
{
    int px = (int)lround(FONT_PX * w->scale * pow(1.1, w->zoom));
    return px < 6 ? 6 : px;
}

/* The letters' density that desktops tell X programs, 0 = not said. SDL has loaded libX11. */
static double xft_dpi(const struct window *w)
{
    double dpi = 0;
#ifdef SDL_VIDEO_DRIVER_X11
    SDL_SysWMinfo info;
    SDL_VERSION(&info.version);
    void *x11 = dlopen("libX11.so.6", RTLD_NOW | RTLD_NOLOAD);
    char *(*resources)(Display *) = NULL;
    if (x11)
        *(void **)&resources = dlsym(x11, "XResourceManagerString");
    if (resources && SDL_GetWindowWMInfo(w->window, &info) && info.subsystem == SDL_SYSWM_X11) {
        const char *s = resources(info.info.x11.display);
        s = s ? strstr(s, "Xft.dpi:") : NULL;
        dpi = s ? strtod(s + strlen("Xft.dpi:"), NULL) : 0;
    }
    if (x11)
        dlclose(x11);
#else
    (void)w;
#endif
    return dpi;
}

/* Displays with small pixels: the desktop says so with window coordinates that are not pixels, with
 * GDK_SCALE or Xft.dpi, or only the display's own size tells. */
static double display_scale(const struct window *w)
{
    double d = density(w);
    const char *gdk = getenv("GDK_SCALE");
    if (d > 1.01)
        return d;
    if (gdk && atof(gdk) >= 1 && atof(gdk) <= 4)
        return atof(gdk);
    double xft = xft_dpi(w);
    if (xft >= 48 && xft <= 480)
        return xft / 96;
    float dpi = 0;
    int display = SDL_GetWindowDisplayIndex(w->window);
    if (display < 0 || SDL_GetDisplayDPI(display, NULL, NULL, &dpi) != 0 || dpi < 135 || dpi > 400)
        return 1;
    return round(dpi / 96 * 4) / 4;
}

static void size(void *ctx, int *ret_cols, int *ret_rows)
{
    struct window *w = ctx;
    *ret_cols = w->cols;
    *ret_rows = w->rows;
}

static void resized(void *ctx)
{
    struct window *w = ctx;
    paint_invalidate(w->paint);
    measure(w);
}

static int zoom(void *ctx, int step)
{
    struct window *w = ctx;
    struct err e;
    int before = w->zoom, to = step == 0 ? 0 : w->zoom + step;
    w->zoom = to < ZOOM_MIN ? ZOOM_MIN : to > ZOOM_MAX ? ZOOM_MAX : to;
    if (w->zoom != before && glyphs_size(w->glyphs, font_px(w), &e) != OK) {
        w->zoom = before;
        glyphs_size(w->glyphs, font_px(w), &e);
    }
    measure(w);
    return w->zoom;
}

static void fullscreen(void *ctx)
{
    struct window *w = ctx;
    bool is = SDL_GetWindowFlags(w->window) & SDL_WINDOW_FULLSCREEN_DESKTOP;
    SDL_SetWindowFullscreen(w->window, is ? 0 : SDL_WINDOW_FULLSCREEN_DESKTOP);
}

/* ---- events ---- */

static void push(struct window *w, struct ui_event ev)
{
    if (w->at_queue == w->n_queue)
        w->at_queue = w->n_queue = 0;
    if (w->n_queue == w->cap_queue) {
        w->cap_queue = w->cap_queue ? w->cap_queue * 2 : 32;
        w->queue = mem_realloc(w->queue, (size_t)w->cap_queue * sizeof *w->queue);
    }
    w->queue[w->n_queue++] = ev;
}

static void push_key(struct window *w, uint32_t code, int mods)
{
    push(w, (struct ui_event){.kind = UI_EV_KEY, .key = {code, (uint8_t)mods}});
}

static void push_text(struct window *w, const char *text)
{
    size_t n = text ? strlen(text) : 0;
    if (n > 0)
        push(w,
             (struct ui_event){.kind = UI_EV_PASTE, .text = mem_strndup(text, n), .len = n});
}

static int mods_of(unsigned m)
{
    /* The right Alt key writes characters on many layouts. */
    bool graph = m & (KMOD_RALT | KMOD_MODE);
    return (m & KMOD_SHIFT ? UI_SHIFT : 0) | (m & KMOD_CTRL && !graph ? UI_CTRL : 0) |
           (m & KMOD_LALT ? UI_ALT : 0);
}

static uint32_t special_key(SDL_Keycode k)
{
    static const struct {
        SDL_Keycode key;
        uint32_t code;
    } keys[] = {{SDLK_RETURN, UI_KEY_ENTER},     {SDLK_KP_ENTER, UI_KEY_ENTER},
                {SDLK_TAB, UI_KEY_TAB},          {SDLK_ESCAPE, UI_KEY_ESCAPE},
                {SDLK_BACKSPACE, UI_KEY_BACKSPACE}, {SDLK_DELETE, UI_KEY_DELETE},
                {SDLK_INSERT, UI_KEY_INSERT},    {SDLK_UP, UI_KEY_UP},
                {SDLK_DOWN, UI_KEY_DOWN},        {SDLK_LEFT, UI_KEY_LEFT},
                {SDLK_RIGHT, UI_KEY_RIGHT},      {SDLK_HOME, UI_KEY_HOME},
                {SDLK_END, UI_KEY_END},          {SDLK_PAGEUP, UI_KEY_PAGE_UP},
                {SDLK_PAGEDOWN, UI_KEY_PAGE_DOWN}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].key == k)
            return keys[i].code;
    if (k >= SDLK_F1 && k <= SDLK_F12)
        return UI_KEY_F1 + (uint32_t)(k - SDLK_F1);
    return UI_KEY_NONE;
}

/* The character of a key held with Ctrl or Alt, as the keymap names it: letters in lower case, from
 * the key's place when the layout has no Latin letters. */
static uint32_t character_key(const SDL_Keysym *k, int mods)
{
    uint32_t c = (uint32_t)k->sym;
    if (c == SDLK_KP_PLUS)
        return '+';
    if (c == SDLK_KP_MINUS)
        return '-';
    if (c == SDLK_KP_0)
        return '0';
    if (c >= 0x80 && k->scancode >= SDL_SCANCODE_A && k->scancode <= SDL_SCANCODE_Z)
        c = 'a' + (uint32_t)(k->scancode - SDL_SCANCODE_A);
    if (c < 0x20 || c > 0x10FFFF || c == 0x7F)
        return UI_KEY_NONE;
    if ((mods & UI_CTRL) && c == '=')
        return '+'; /* the same key without Shift on most keyboards */
    if ((mods & UI_CTRL) && (c == '/' || (c == '-' && (mods & UI_SHIFT))))
        return '_'; /* what terminals send for both */
    return c;
}

static bool is_plain(uint32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static void key_down(struct window *w, const SDL_KeyboardEvent *ev)
{
    int mods = w->key_mods = mods_of(ev->keysym.mod);
    uint32_t code = special_key(ev->keysym.sym);
    if (w->preedit.len > 0)
        return; /* belongs to the input method */
    if (code != UI_KEY_NONE) {
        push_key(w, code, mods);
        return;
    }
    code = character_key(&ev->keysym, mods);
    /* Without Ctrl or Alt, and for signs with Alt, the text that follows says what was meant. */
    if (code != UI_KEY_NONE && ((mods & UI_CTRL) || ((mods & UI_ALT) && is_plain(code))))
        push_key(w, code, mods & ~UI_SHIFT);
}

static void text_typed(struct window *w, const char *text)
{
    int mods = w->key_mods;
    uint32_t cp;
    size_t n = strlen(text);
    str_clear(&w->preedit);
    if (n == 0 || (mods & UI_CTRL))
        return; /* was a key event */
    bool one = (size_t)utf8_decode(text, n, &cp) == n;
    if (mods & UI_ALT) {
        if (one && !is_plain(cp))
            push_key(w, cp, UI_ALT);
    } else if (one && cp >= 0x20) {
        push_key(w, cp, 0);
    } else {
        push_text(w, text);
    }
}

static void to_pixels(const struct window *w, int x, int y, int *ret_x, int *ret_y)
{
    double d = density(w);
    *ret_x = (int)(x * d);
    *ret_y = (int)(y * d);
}

static struct ui_event mouse_event(const struct window *w, enum ui_mouse what, int button)
{
    struct ui_event ev = {.kind = UI_EV_MOUSE, .mouse = what, .button = button};
    paint_cell_at(w->paint, w->mouse_x, w->mouse_y, &ev.x, &ev.y);
    ev.mods = (uint8_t)mods_of(SDL_GetModState());
    return ev;
}

static void mouse_button(struct window *w, const SDL_MouseButtonEvent *b)
{
    bool down = b->type == SDL_MOUSEBUTTONDOWN;
    int button = b->button == SDL_BUTTON_LEFT     ? 0
                 : b->button == SDL_BUTTON_MIDDLE ? 1
                 : b->button == SDL_BUTTON_RIGHT  ? 2
                                                  : -1;
    to_pixels(w, b->x, b->y, &w->mouse_x, &w->mouse_y);
#if SDL_VERSION_ATLEAST(2, 26, 0)
    if (button == 1 && down) {
        char *text = SDL_GetPrimarySelectionText();
        push_text(w, text);
        SDL_free(text);
        return;
    }
#endif
    if (button < 0 || button == 1)
        return;
    struct ui_event ev = mouse_event(w, down ? UI_MOUSE_PRESS : UI_MOUSE_RELEASE, button);
    ev.n_click = down ? (b->clicks - 1) % 3 + 1 : 0;
    w->held = down ? button : -1;
    w->drag_col = ev.x;
    w->drag_row = ev.y;
    push(w, ev);
}

static void mouse_moved(struct window *w, const SDL_MouseMotionEvent *m)
{
    to_pixels(w, m->x, m->y, &w->mouse_x, &w->mouse_y);
    if (w->held < 0)
        return;
    struct ui_event ev = mouse_event(w, UI_MOUSE_DRAG, w->held);
    if (ev.x == w->drag_col && ev.y == w->drag_row)
        return;
    w->drag_col = ev.x;
    w->drag_row = ev.y;
    push(w, ev);
}

static void wheel_turned(struct window *w, const SDL_MouseWheelEvent *m)
{
    int x, y;
    SDL_GetMouseState(&x, &y);
    to_pixels(w, x, y, &w->mouse_x, &w->mouse_y);
    w->wheel += m->preciseY * (m->direction == SDL_MOUSEWHEEL_FLIPPED ? -1 : 1);
    for (; fabsf(w->wheel) >= 1; w->wheel -= w->wheel > 0 ? 1 : -1) {
        bool up = w->wheel > 0;
        if (mods_of(SDL_GetModState()) & UI_CTRL)
            push_key(w, up ? '+' : '-', UI_CTRL);
        else
            push(w, mouse_event(w, up ? UI_MOUSE_WHEEL_UP : UI_MOUSE_WHEEL_DOWN, 0));
    }
}

static void window_event(struct window *w, const SDL_WindowEvent *ev)
{
    switch (ev->event) {
    case SDL_WINDOWEVENT_SIZE_CHANGED:
        measure(w);
        break;
    case SDL_WINDOWEVENT_EXPOSED:
        show(w, &(struct rect){0, 0, w->px.w, w->px.h}, 1);
        break;
    case SDL_WINDOWEVENT_LEAVE:
        w->mouse_x = w->mouse_y = -1;
        break;
    case SDL_WINDOWEVENT_CLOSE:
        w->closed = true;
        break;
    default:
        break;
    }
}

static void translate(struct window *w, const SDL_Event *ev)
{
    switch (ev->type) {
    case SDL_QUIT:
        w->closed = true;
        break;
    case SDL_WINDOWEVENT:
        window_event(w, &ev->window);
        break;
    case SDL_KEYDOWN:
        key_down(w, &ev->key);
        break;
    case SDL_KEYUP:
        w->key_mods = mods_of(ev->key.keysym.mod);
        break;
    case SDL_TEXTINPUT:
        text_typed(w, ev->text.text);
        break;
    case SDL_TEXTEDITING:
        str_clear(&w->preedit);
        str_adds(&w->preedit, ev->edit.text);
        break;
    case SDL_MOUSEBUTTONDOWN:
    case SDL_MOUSEBUTTONUP:
        mouse_button(w, &ev->button);
        break;
    case SDL_MOUSEMOTION:
        mouse_moved(w, &ev->motion);
        break;
    case SDL_MOUSEWHEEL:
        wheel_turned(w, &ev->wheel);
        break;
    case SDL_DROPTEXT:
    case SDL_DROPFILE:
        push_text(w, ev->drop.file);
        SDL_free(ev->drop.file);
        break;
    default:
        break;
    }
}

static bool event(void *ctx, struct ui_event *ret)
{
    struct window *w = ctx;
    SDL_Event ev;
    while (w->at_queue == w->n_queue && SDL_PollEvent(&ev))
        translate(w, &ev);
    memset(ret, 0, sizeof *ret);
    if (w->resized) { /* however many sizes went by */
        w->resized = false;
        w->cells = NULL; /* they change their size; nothing is shown before the next frame */
        w->shapes = NULL;
        ret->kind = UI_EV_RESIZE;
        return true;
    }
    if (w->at_queue < w->n_queue) {
        *ret = w->queue[w->at_queue++];
        return true;
    }
    if (w->closed && !w->told_closed) {
        w->told_closed = true;
        ret->kind = UI_EV_CLOSED;
        return true;
    }
    return false;
}

/* ---- the rest of the front-end ---- */

static void set_theme(void *ctx, const struct theme *t)
{
    struct window *w = ctx;
    paint_theme(w->paint, t);
}

static bool copy(void *ctx, const char *text, size_t n)
{
    (void)ctx;
    char *z = mem_strndup(text, n);
    bool good = SDL_SetClipboardText(z) == 0;
    free(z);
    return good;
}

static char *paste(void *ctx)
{
    (void)ctx;
    char *text = SDL_GetClipboardText(), *ret = text && text[0] ? mem_strdup(text) : NULL;
    SDL_free(text);
    return ret;
}

static void primary(void *ctx, const char *text, size_t n)
{
    (void)ctx;
#if SDL_VERSION_ATLEAST(2, 26, 0)
    char *z = mem_strndup(text, n);
    SDL_SetPrimarySelectionText(z);
    free(z);
#else
    (void)text;
    (void)n;
#endif
}

static void title(void *ctx, const char *text)
{
    SDL_SetWindowTitle(((struct window *)ctx)->window, text);
}

static enum status screenshot(void *ctx, const char *path, struct err *e)
{
    return pixels_save(&((struct window *)ctx)->px, path, e);
}

static void nothing(void *ctx)
{
    (void)ctx;
}

static void no_mouse(void *ctx, bool on) /* a window always has one */
{
    (void)ctx;
    (void)on;
}

static void front_close(void *ctx)
{
    struct window *w = ctx;
    watch_stop(&w->watch);
    paint_free(w->paint);
    glyphs_close(w->glyphs);
    pixels_fini(&w->px);
    for (int i = w->at_queue; i < w->n_queue; i++)
        free(w->queue[i].text);
    free(w->queue);
    str_fini(&w->preedit);
    SDL_DestroyWindow(w->window);
    SDL_Quit();
    free(w);
}

/* ---- opening ---- */

/* The page with a folded corner of assets/desktop/dogear.svg, for window lists. */
static void set_icon(SDL_Window *window)
{
    enum { N = 64 };
    struct pixels p = {0};
    pixels_resize(&p, N, N);
    pixels_fill(&p, p.clip, 0x1B1E24, 255);
    pixels_fill(&p, (struct rect){13, 6, 38, 52}, 0xF3EFE6, 255);
    for (int y = 0; y < 16; y++) { /* the corner: background outside, the fold inside */
        pixels_fill(&p, (struct rect){35 + y, 6 + y, 16 - y, 1}, 0x1B1E24, 255);
        pixels_fill(&p, (struct rect){35, 6 + y, y, 1}, 0xE5A54B, 255);
    }
    for (int i = 0; i < 4; i++)
        pixels_fill(&p, (struct rect){20, 29 + 7 * i, i == 3 ? 14 : 24, 3}, 0x9AA1AC, 255);
    SDL_Surface *s = SDL_CreateRGBSurfaceWithFormatFrom(p.px, N, N, 32, N * 4,
                                                        SDL_PIXELFORMAT_RGB888);
    if (s)
        SDL_SetWindowIcon(window, s);
    SDL_FreeSurface(s);
    pixels_fini(&p);
}

static enum status open_display(struct err *e)
{
    SDL_SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1"); /* the loop has its own */
    SDL_SetHint(SDL_HINT_VIDEO_ALLOW_SCREENSAVER, "1");
    SDL_SetHint("SDL_IME_SHOW_UI", "1");
    SDL_SetHint("SDL_MOUSE_FOCUS_CLICKTHROUGH", "1");
    SDL_SetHint("SDL_VIDEO_X11_WMCLASS", "dogear");
    SDL_SetHint("SDL_VIDEO_WAYLAND_WMCLASS", "dogear");
    SDL_SetHint("SDL_APP_NAME", "Dogear");
    const char *x = getenv("DISPLAY"), *wayland = getenv("WAYLAND_DISPLAY");
    bool has_x = x && x[0], has_wayland = wayland && wayland[0];
#ifndef __APPLE__
    /* Left to itself SDL would also take over the console, or draw where nobody sees it. */
    if (!getenv("SDL_VIDEODRIVER")) {
        if (!has_x && !has_wayland)
            return err_set(e, ERR_UNSUPPORTED,
                           "no display: neither DISPLAY nor WAYLAND_DISPLAY is set; "
                           "`dogear` alone runs in the terminal");
        SDL_SetHint("SDL_VIDEODRIVER", !has_wayland ? "x11" : has_x ? "x11,wayland" : "wayland");
    }
#endif
    if (SDL_Init(SDL_INIT_VIDEO) != 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "no display: %s (DISPLAY is \"%s\", WAYLAND_DISPLAY \"%s\"); "
                       "`dogear` alone runs in the terminal",
                       SDL_GetError(), x ? x : "", wayland ? wayland : "");
    /* SDL would carry every frame whole through OpenGL, which without a graphics card computes it
     * on the cores that the model needs. X takes just the rectangles that changed. */
    if (strcmp(SDL_GetCurrentVideoDriver(), "x11") == 0)
        SDL_SetHint(SDL_HINT_FRAMEBUFFER_ACCELERATION, "0");
    return OK;
}

/* As many cells as fit on the display, at most START_COLS x START_ROWS. */
static void start_size(struct window *w)
{
    int cell_w, cell_h, baseline;
    SDL_Rect room = {0, 0, 1280, 800};
    int display = SDL_GetWindowDisplayIndex(w->window);
    if (display >= 0)
        SDL_GetDisplayUsableBounds(display, &room);
    glyphs_cell(w->glyphs, &cell_w, &cell_h, &baseline);
    double d = density(w);
    int width = (int)((START_COLS * cell_w + 8) / d), height = (int)((START_ROWS * cell_h + 8) / d);
    int most_w = room.w * 9 / 10, most_h = room.h * 9 / 10;
    SDL_SetWindowSize(w->window, width < most_w ? width : most_w,
                      height < most_h ? height : most_h);
    SDL_SetWindowMinimumSize(w->window, (int)(30 * cell_w / d), (int)(8 * cell_h / d));
    SDL_SetWindowPosition(w->window, SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED);
}

static enum status fill(struct window *w, const struct window_options *o, struct err *e)
{
    w->window = SDL_CreateWindow("Dogear", SDL_WINDOWPOS_CENTERED, SDL_WINDOWPOS_CENTERED, 800, 600,
                                 SDL_WINDOW_HIDDEN | SDL_WINDOW_RESIZABLE |
                                     SDL_WINDOW_ALLOW_HIGHDPI);
    SDL_Surface *s = w->window ? SDL_GetWindowSurface(w->window) : NULL;
    if (!s)
        return err_set(e, ERR_UNSUPPORTED, "no display: a window cannot be opened: %s",
                       SDL_GetError());
    pixels_resize(&w->px, s->w, s->h);
    w->scale = display_scale(w);
    w->zoom = o->zoom < ZOOM_MIN ? ZOOM_MIN : o->zoom > ZOOM_MAX ? ZOOM_MAX : o->zoom;
    TRY(glyphs_open(o->font, font_px(w), &w->glyphs, e));
    w->paint = paint_new(w->glyphs);
    paint_theme(w->paint, o->theme);
    set_icon(w->window);
    start_size(w);
    SDL_ShowWindow(w->window);
    SDL_StartTextInput();
    measure(w);
    w->resized = false;
    return OK;
}

__attribute__((visibility("default"))) enum status window_open(const struct window_options *o,
                                                               struct ui_front *ret,
                                                               struct err *e)
{
    TRY(open_display(e));
    struct window *w = mem_calloc(1, sizeof *w);
    w->mouse_x = w->mouse_y = w->held = -1;
    w->watch.event = SDL_RegisterEvents(1);
    w->watch.stop_fd = eventfd(0, EFD_CLOEXEC);
    sem_init(&w->watch.again, 0, 0);
    enum status st = fill(w, o, e);
    if (st != OK) {
        front_close(w);
        return st;
    }
    *ret = (struct ui_front){.ctx = w,
                             .size = size,
                             .wait = front_wait,
                             .event = event,
                             .present = present,
                             .theme = set_theme,
                             .copy = copy,
                             .title = title,
                             .mouse = no_mouse,
                             .suspend = nothing,
                             .resume = nothing,
                             .resized = resized,
                             .close = front_close,
                             .graphics = true,
                             .paste = paste,
                             .select = primary,
                             .zoom = zoom,
                             .fullscreen = fullscreen,
                             .screenshot = screenshot};
    return OK;
}
