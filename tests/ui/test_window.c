/* The window without a display: SDL's dummy driver, events pushed as SDL would deliver them, and a
 * look at the pixels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <SDL.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "ui/paint.h"
#include "ui/window.h"

static struct theme theme;

static void open_window(struct ui_front *f)
{
    struct err e = {0};
    struct window_options o = {.theme = &theme};
    if (window_open(&o, f, &e) != OK)
        fail_msg("%s", e.text);
    struct ui_event ev;
    while (f->event(f->ctx, &ev)) /* what opening brings */
        free(ev.text);
}

static void push_key(Uint32 type, SDL_Keycode sym, SDL_Scancode scan, Uint16 mod)
{
    SDL_Event ev = {.key = {.type = type, .keysym = {.scancode = scan, .sym = sym, .mod = mod}}};
    SDL_PushEvent(&ev);
}

static void push_text(Uint32 type, const char *text)
{
    SDL_Event ev = {.type = type};
    if (type == SDL_TEXTINPUT)
        snprintf(ev.text.text, sizeof ev.text.text, "%s", text);
    else
        snprintf(ev.edit.text, sizeof ev.edit.text, "%s", text);
    SDL_PushEvent(&ev);
}

/* SDL ends a round of polling at a mark of its own: what was pushed after it comes next time. */
static bool next_event(struct ui_front *f, struct ui_event *ret)
{
    for (int i = 0; i < 4; i++)
        if (f->event(f->ctx, ret))
            return true;
    return false;
}

static void expect_key(struct ui_front *f, uint32_t code, int mods)
{
    struct ui_event ev;
    assert_true(next_event(f, &ev));
    assert_int_equal(ev.kind, UI_EV_KEY);
    assert_int_equal(ev.key.code, code);
    assert_int_equal(ev.key.mods, mods);
}

static void expect_nothing(struct ui_front *f)
{
    struct ui_event ev;
    assert_false(next_event(f, &ev));
}

static void window__keys__as_the_keymap_names_them(void **state)
{
    (void)state;
    struct ui_front f;
    open_window(&f);
    push_key(SDL_KEYDOWN, SDLK_a, SDL_SCANCODE_A, 0); /* the text event says it */
    push_text(SDL_TEXTINPUT, "a");
    expect_key(&f, 'a', 0);
    push_key(SDL_KEYDOWN, SDLK_c, SDL_SCANCODE_C, KMOD_LCTRL);
    expect_key(&f, 'c', UI_CTRL);
    push_key(SDL_KEYDOWN, 0x441, SDL_SCANCODE_C, KMOD_LCTRL); /* Cyrillic layout */
    expect_key(&f, 'c', UI_CTRL);
    push_key(SDL_KEYDOWN, SDLK_EQUALS, SDL_SCANCODE_EQUALS, KMOD_LCTRL);
    push_text(SDL_TEXTINPUT, "="); /* some systems send it although Ctrl is held */
    expect_key(&f, '+', UI_CTRL);
    push_key(SDL_KEYUP, SDLK_EQUALS, SDL_SCANCODE_EQUALS, 0);
    push_key(SDL_KEYDOWN, SDLK_RETURN, SDL_SCANCODE_RETURN, KMOD_LALT);
    expect_key(&f, UI_KEY_ENTER, UI_ALT);
    push_key(SDL_KEYDOWN, SDLK_b, SDL_SCANCODE_B, KMOD_LALT);
    push_text(SDL_TEXTINPUT, "b");
    expect_key(&f, 'b', UI_ALT);
    push_key(SDL_KEYDOWN, SDLK_COMMA, SDL_SCANCODE_COMMA, KMOD_LALT | KMOD_LSHIFT);
    push_text(SDL_TEXTINPUT, "<");
    expect_key(&f, '<', UI_ALT);
    push_key(SDL_KEYDOWN, SDLK_q, SDL_SCANCODE_Q, KMOD_RALT | KMOD_LCTRL); /* AltGr */
    push_text(SDL_TEXTINPUT, "@");
    expect_key(&f, '@', 0);
    push_key(SDL_KEYDOWN, SDLK_LEFT, SDL_SCANCODE_LEFT, KMOD_LSHIFT);
    expect_key(&f, UI_KEY_LEFT, UI_SHIFT);
    expect_nothing(&f);
    f.close(f.ctx);
}

static void window__input_method__composes_above_and_commits(void **state)
{
    (void)state;
    struct ui_front f;
    struct ui_event ev;
    open_window(&f);
    int cols, rows;
    f.size(f.ctx, &cols, &rows);
    struct cells *c = cells_new(cols, rows);
    cells_cursor_set(c, 2, 1);
    f.present(f.ctx, c, NULL);
    push_text(SDL_TEXTEDITING, "ni");
    push_key(SDL_KEYDOWN, SDLK_BACKSPACE, SDL_SCANCODE_BACKSPACE, 0); /* for the input method */
    expect_nothing(&f);
    struct err e;
    char before[] = "/tmp/dogear-test-XXXXXX";
    assert_non_null(mkdtemp(before));
    char a[64], b[64];
    snprintf(a, sizeof a, "%s/a.png", before);
    snprintf(b, sizeof b, "%s/b.png", before);
    assert_int_equal(f.screenshot(f.ctx, a, &e), OK);
    f.present(f.ctx, c, NULL); /* what is composed is shown with the next look at the window */
    assert_int_equal(f.screenshot(f.ctx, b, &e), OK);
    assert_int_equal(f.screenshot(f.ctx, b, &e), ERR_IO); /* never overwrites */
    char same[256];
    snprintf(same, sizeof same, "cmp -s %s %s", a, b);
    assert_int_not_equal(system(same), 0);
    push_text(SDL_TEXTINPUT, "你好");
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.kind, UI_EV_PASTE);
    assert_string_equal(ev.text, "你好");
    free(ev.text);
    push_text(SDL_TEXTINPUT, "日");
    expect_key(&f, 0x65E5, 0);
    unlink(a);
    unlink(b);
    rmdir(before);
    f.close(f.ctx);
    cells_free(c);
}

static void window__mouse__cells_clicks_and_wheel(void **state)
{
    (void)state;
    struct ui_front f;
    struct ui_event ev;
    open_window(&f);
    int cols, rows;
    f.size(f.ctx, &cols, &rows);
    struct cells *c = cells_new(cols, rows);
    f.present(f.ctx, c, NULL);
    SDL_Event down = {.button = {.type = SDL_MOUSEBUTTONDOWN,
                                 .button = SDL_BUTTON_LEFT,
                                 .clicks = 2,
                                 .x = 60,
                                 .y = 50}};
    SDL_PushEvent(&down);
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.kind, UI_EV_MOUSE);
    assert_int_equal(ev.mouse, UI_MOUSE_PRESS);
    assert_int_equal(ev.n_click, 2);
    int x = ev.x, y = ev.y;
    assert_in_range(x, 1, 20);
    assert_in_range(y, 1, 10);
    SDL_Event move = {.motion = {.type = SDL_MOUSEMOTION, .x = 61, .y = 50}};
    SDL_PushEvent(&move); /* the same cell: nothing */
    move.motion.x = 160;
    SDL_PushEvent(&move);
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.mouse, UI_MOUSE_DRAG);
    assert_true(ev.x > x && ev.y == y);
    SDL_Event up = {.button = {.type = SDL_MOUSEBUTTONUP, .button = SDL_BUTTON_LEFT, .x = 160,
                               .y = 50}};
    SDL_PushEvent(&up);
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.mouse, UI_MOUSE_RELEASE);
    SDL_PushEvent(&move); /* nothing is held any more */
    SDL_Event wheel = {.wheel = {.type = SDL_MOUSEWHEEL, .y = 1, .preciseY = 0.5f}};
    SDL_PushEvent(&wheel);
    expect_nothing(&f);
    SDL_PushEvent(&wheel);
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.mouse, UI_MOUSE_WHEEL_UP);
    expect_nothing(&f);
    f.close(f.ctx);
    cells_free(c);
}

static void window__wait__descriptors_wake_it(void **state)
{
    (void)state;
    struct ui_front f;
    open_window(&f);
    int fd = eventfd(0, EFD_NONBLOCK);
    uint64_t one = 1;
    for (int i = 0; i < 3; i++) { /* armed again after every time */
        struct pollfd p = {fd, POLLIN, 0};
        f.wait(f.ctx, &p, 1, 0);
        assert_int_equal(p.revents, 0);
        SDL_FlushEvents(SDL_FIRSTEVENT, SDL_LASTEVENT);
        assert_int_equal(write(fd, &one, sizeof one), sizeof one);
        for (int k = 0; k < 1000 && !p.revents; k++)
            f.wait(f.ctx, &p, 1, 20);
        assert_int_equal(p.revents, POLLIN);
        assert_int_equal(read(fd, &one, sizeof one), sizeof one);
    }
    f.close(f.ctx);
    close(fd);
}

static void window__zoom__fewer_larger_cells(void **state)
{
    (void)state;
    struct ui_front f;
    struct ui_event ev;
    open_window(&f);
    int cols, rows, more, most;
    f.size(f.ctx, &cols, &rows);
    assert_int_equal(f.zoom(f.ctx, 1), 1);
    assert_int_equal(f.zoom(f.ctx, 3), 4);
    assert_true(next_event(&f, &ev));
    assert_int_equal(ev.kind, UI_EV_RESIZE);
    f.size(f.ctx, &more, &most);
    assert_true(more < cols && most < rows);
    for (int i = 0; i < 100; i++)
        f.zoom(f.ctx, 1);
    assert_in_range(f.zoom(f.ctx, 1), 5, 40);
    assert_int_equal(f.zoom(f.ctx, 0), 0);
    f.size(f.ctx, &more, &most);
    assert_true(more == cols && most == rows);
    f.close(f.ctx);
}

/* ---- pixels ---- */

struct bed {
    struct glyphs *g;
    struct paint *p;
    struct pixels px;
    struct cells *c;
    struct rect damage[PAINT_DAMAGE_MAX];
    int cols, rows;
};

static void bed_open(struct bed *b, int w, int h)
{
    struct err e;
    memset(b, 0, sizeof *b);
    if (glyphs_open(NULL, 15, &b->g, &e) != OK)
        fail_msg("%s", e.text);
    b->p = paint_new(b->g);
    paint_theme(b->p, &theme);
    pixels_resize(&b->px, w, h);
    paint_grid(b->p, w, h, &b->cols, &b->rows);
    b->c = cells_new(b->cols, b->rows);
}

static void bed_close(struct bed *b)
{
    cells_free(b->c);
    paint_free(b->p);
    glyphs_close(b->g);
    pixels_fini(&b->px);
}

static int frame(struct bed *b, const struct shapes *s, struct paint_over over)
{
    int n = paint_frame(b->p, &b->px, b->c, s, &over, b->damage);
    cells_shown(b->c);
    return n;
}

static int count(const struct bed *b, struct rect r, uint32_t rgb)
{
    int n = 0;
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++)
            n += b->px.px[y * b->px.w + x] == rgb;
    return n;
}

static uint32_t pixel(const struct bed *b, int x, int y)
{
    return b->px.px[y * b->px.w + x];
}

static void paint__damage__only_what_changed(void **state)
{
    (void)state;
    struct bed b;
    struct paint_over none = {0};
    bed_open(&b, 400, 300);
    struct rect all = {0, 0, b.cols, b.rows};
    assert_int_equal(frame(&b, NULL, none), 1);
    assert_int_equal(b.damage[0].w, 400);
    assert_int_equal(frame(&b, NULL, none), 0);
    cells_puts(b.c, all, 3, 2, "heron", ROLE_TEXT, 0, 0);
    assert_int_equal(frame(&b, NULL, none), 1);
    assert_true(b.damage[0].w < 100 && b.damage[0].h < 30);
    /* A frame painted bit by bit is the frame painted at once. */
    cells_puts(b.c, all, 1, 4, "│─╭ 日本 █▌░ fj", ROLE_CODE, ROLE_CODE, CELL_ITALIC);
    cells_puts(b.c, all, 3, 2, "dog  ", ROLE_ACCENT, 0, CELL_BOLD);
    cells_cursor_set(b.c, 5, 5);
    frame(&b, NULL, none);
    size_t size = (size_t)b.px.w * (size_t)b.px.h * sizeof *b.px.px;
    uint32_t *bits = mem_alloc(size);
    memcpy(bits, b.px.px, size);
    paint_invalidate(b.p);
    frame(&b, NULL, none);
    assert_memory_equal(bits, b.px.px, size);
    free(bits);
    bed_close(&b);
}

/* A width that the cells fill to the last pixel leaves nothing beside them. */
static void paint__damage__reaches_the_last_column(void **state)
{
    (void)state;
    struct bed b;
    struct paint_over none = {0};
    bed_open(&b, 400, 300);
    struct rect cell = paint_cell_box(b.p, 0, 0);
    bed_close(&b);
    bed_open(&b, 40 * cell.w, 10 * cell.h);
    assert_int_equal(b.cols, 40);
    frame(&b, NULL, none);
    uint32_t back = pixel(&b, 0, 0), red = (uint32_t)theme.style[ROLE_ERROR].fg;
    struct rect all = {0, 0, b.cols, b.rows}, whole = {0, 0, b.px.w, b.px.h};
    for (int y = 0; y < b.rows; y++)
        for (int x = 0; x < b.cols; x++)
            cells_puts(b.c, all, x, y, "█", ROLE_ERROR, 0, 0);
    frame(&b, NULL, none);
    assert_int_equal(count(&b, whole, red), whole.w * whole.h);
    cells_puts(b.c, all, b.cols - 1, b.rows - 1, " ", ROLE_TEXT, 0, 0);
    frame(&b, NULL, none);
    assert_int_equal(count(&b, whole, back), cell.w * cell.h);
    bed_close(&b);
}

static void paint__lines_and_blocks__join(void **state)
{
    (void)state;
    struct bed b;
    struct paint_over none = {0};
    bed_open(&b, 400, 300);
    struct rect all = {0, 0, b.cols, b.rows};
    for (int y = 2; y < 6; y++)
        cells_puts(b.c, all, 4, y, "│", ROLE_ERROR, 0, 0);
    cells_puts(b.c, all, 8, 3, "██", ROLE_ERROR, 0, 0);
    cells_puts(b.c, all, 12, 3, "▄", ROLE_ERROR, 0, 0);
    frame(&b, NULL, none);
    uint32_t red = (uint32_t)theme.style[ROLE_ERROR].fg;
    struct rect from = paint_cell_box(b.p, 4, 2);
    for (int y = from.y; y < from.y + 4 * from.h; y++) /* no gap between rows */
        assert_int_equal(pixel(&b, from.x + from.w / 2, y), red);
    struct rect block = paint_cell_box(b.p, 8, 3);
    block.w *= 2;
    assert_int_equal(count(&b, block, red), block.w * block.h);
    struct rect half = paint_cell_box(b.p, 12, 3);
    assert_in_range(count(&b, half, red), half.w * (half.h / 2), half.w * (half.h / 2 + 1));
    bed_close(&b);
}

static void paint__shapes__under_text_and_popups(void **state)
{
    (void)state;
    struct bed b;
    struct paint_over none = {0};
    bed_open(&b, 400, 300);
    struct rect all = {0, 0, b.cols, b.rows};
    struct shapes s = {0};
    uint32_t green = (uint32_t)theme.style[ROLE_NOTICE].fg;
    shapes_fill(&s, 2, 2, 3.5f, 2, ROLE_NOTICE, 255, "a tip");
    cells_puts(b.c, all, 2, 2, "x", ROLE_TEXT, 0, 0);
    frame(&b, &s, none);
    struct rect at = paint_cell_box(b.p, 2, 2);
    int whole = (int)(3.5f * (float)at.w) * 2 * at.h;
    int got = count(&b, (struct rect){0, 0, 400, 300}, green);
    assert_in_range(got, whole - at.w * at.h, whole); /* but for the letter and its edge */
    /* A popup covers it; when the shape goes, nothing of it stays. */
    cells_fill(b.c, (struct rect){2, 2, 4, 2}, " ", ROLE_POPUP, ROLE_POPUP);
    frame(&b, &s, none);
    assert_int_equal(count(&b, (struct rect){0, 0, 400, 300}, green), 0);
    cells_clear(b.c);
    frame(&b, &s, none);
    assert_true(count(&b, (struct rect){0, 0, 400, 300}, green) > whole / 2);
    shapes_clear(&s);
    frame(&b, &s, none);
    assert_int_equal(count(&b, (struct rect){0, 0, 400, 300}, pixel(&b, 0, 0)), 400 * 300);
    /* A tip appears, moves and goes without a trace. */
    frame(&b, &s, (struct paint_over){NULL, "58%", 100, 100});
    assert_true(count(&b, (struct rect){0, 0, 400, 300}, pixel(&b, 0, 0)) < 400 * 300);
    frame(&b, &s, (struct paint_over){NULL, "58%", 399, 3});
    frame(&b, &s, none);
    assert_int_equal(count(&b, (struct rect){0, 0, 400, 300}, pixel(&b, 0, 0)), 400 * 300);
    shapes_fini(&s);
    bed_close(&b);
}

static void glyphs__letters__are_drawn_and_fit(void **state)
{
    (void)state;
    struct bed b;
    bed_open(&b, 400, 300);
    int w, h, base;
    glyphs_cell(b.g, &w, &h, &base);
    assert_true(w >= 5 && h > w && base > 0 && base < h);
    assert_null(glyphs_get(b.g, " ", 1, 1, 0)->argb);
    static const char *const some[] = {"a", "W", "é", "Ж", "→", "日", "🙂", "❤️", "👍🏽", "\U0010FFFD"};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        for (uint8_t attr = 0; attr < 4; attr++) {
            int n = i < 5 ? 1 : 2;
            const struct glyph *g = glyphs_get(b.g, some[i], strlen(some[i]), n, attr);
            assert_non_null(g->argb);
            assert_true(g->w <= n * w + w && g->h <= 2 * h);
        }
    for (int i = 0; i < 20000; i++) { /* more than the cache keeps */
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        glyphs_get(b.g, text, strlen(text), 1, 0);
    }
    assert_non_null(glyphs_get(b.g, "a", 1, 1, 0)->argb);
    bed_close(&b);
}

int main(void)
{
    struct err e;
    setenv("SDL_VIDEODRIVER", "dummy", 1);
    if (theme_load("dark", &theme, &e) != OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(window__keys__as_the_keymap_names_them),
        cmocka_unit_test(window__input_method__composes_above_and_commits),
        cmocka_unit_test(window__mouse__cells_clicks_and_wheel),
        cmocka_unit_test(window__wait__descriptors_wake_it),
        cmocka_unit_test(window__zoom__fewer_larger_cells),
        cmocka_unit_test(paint__damage__only_what_changed),
        cmocka_unit_test(paint__damage__reaches_the_last_column),
        cmocka_unit_test(paint__lines_and_blocks__join),
        cmocka_unit_test(paint__shapes__under_text_and_popups),
        cmocka_unit_test(glyphs__letters__are_drawn_and_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
