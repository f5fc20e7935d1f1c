/* The window's picture in a few states against stored ones, tests/ui/golden/NAME.png. Fonts differ
 * from machine to machine, so one pixel of a stored picture is the mean colour of one cell: where
 * things are, how large and in which colour is compared, the shape of letters is not. The grid is
 * the same whatever the font. DOGEAR_GOLDEN=write stores them anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <png.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "tests/ui/scene.h"
#include "ui/paint.h"

enum {
    COLS = 150,
    ROWS = 48,
    FONT_PX = 15,
    CELL_NEAR = 48 /* per channel: a bold letter of another font covers a fifth more of its cell */
};
/* Cells farther away: a proportional and a CJK font in place of DejaVu Sans Mono gave up to 0.0006;
 * a bar of the overview that is shorter by 14 columns gives 0.0022. */
#define CELLS_OFF 0.0015

struct shot {
    struct glyphs *g;
    struct paint *p;
    struct pixels px;
    struct cells *c;
    struct view_chat *chat;
    struct editor *editor;
    struct keymap *keymap;
    struct scene *scene;
    struct ui_message message[3];
    struct ui_row row[3];
    int scroll, help_scroll;
};

static void shot_open(struct shot *s, const char *family, int size_px)
{
    static const char answer[] =
        "A **heron** is a bird.\n\n```c\nint legs = 2; // long\n```\n\n"
        "| what | how many |\n|---|---|\n| legs | 2 |\n\n- stands\n- strikes\n";
    struct err e;
    memset(s, 0, sizeof *s);
    if (glyphs_open(family, size_px, &s->g, &e) != OK)
        fail_msg("%s", e.text);
    s->p = paint_new(s->g);
    s->chat = view_chat_new();
    s->editor = editor_new();
    s->keymap = keymap_new();
    s->scene = mem_calloc(1, sizeof *s->scene);
    scene_fill(s->scene);
    s->message[0] = (struct ui_message){
        .role = "user", .text = "What is a heron?", .len = 16, .n_sibling = 1};
    s->message[1] = (struct ui_message){.role = "assistant", .text = answer, .len = strlen(answer),
                                        .ours = true, .n_sibling = 2, .sibling = 1};
    s->message[2] = (struct ui_message){
        .role = "user", .text = "And an egret?", .len = 13, .n_sibling = 1};
    for (int i = 0; i < 3; i++)
        s->row[i] = (struct ui_row){
            .id = i, .text = "A conversation", .detail = "2d", .open = i == 1, .pinned = i == 0};
    struct ui_model *m = &s->scene->m;
    m->messages = s->message;
    m->n_message = 3;
    m->title = "Herons";
    m->model_name = "Some Model";
    m->list = (struct ui_rows){s->row, 3, 1, &s->scroll, "", 0};
    m->list_wanted = true;
    m->help_scroll = &s->help_scroll;
    m->editor = s->editor;
    m->keymap = s->keymap;
    m->prompt = "› ";
    m->placeholder = "Reply";
    m->shapes = &s->scene->shapes;
}

static void shot_close(struct shot *s)
{
    shapes_fini(&s->scene->shapes);
    free(s->scene);
    keymap_free(s->keymap);
    editor_free(s->editor);
    view_chat_free(s->chat);
    cells_free(s->c);
    paint_free(s->p);
    glyphs_close(s->g);
    pixels_fini(&s->px);
}

/* One pixel per cell. */
static void shot_take(struct shot *s, const char *theme_name, struct pixels *ret)
{
    struct theme theme;
    struct err e;
    struct paint_over none = {0};
    struct rect damage[PAINT_DAMAGE_MAX];
    int w, h, baseline, cols, rows;
    if (theme_load(theme_name, &theme, &e) != OK)
        fail_msg("%s", e.text);
    paint_theme(s->p, &theme);
    glyphs_cell(s->g, &w, &h, &baseline);
    pixels_resize(&s->px, COLS * w, ROWS * h);
    paint_grid(s->p, COLS * w, ROWS * h, &cols, &rows);
    assert_int_equal(cols, COLS);
    assert_int_equal(rows, ROWS);
    cells_free(s->c);
    s->c = cells_new(COLS, ROWS);
    shapes_clear(&s->scene->shapes);
    view_draw(&s->scene->m, s->chat, s->c);
    paint_invalidate(s->p);
    paint_frame(s->p, &s->px, s->c, &s->scene->shapes, &none, damage);
    pixels_resize(ret, COLS, ROWS);
    for (int y = 0; y < ROWS; y++)
        for (int x = 0; x < COLS; x++) {
            struct rect box = paint_cell_box(s->p, x, y);
            uint32_t sum[3] = {0};
            for (int i = 0; i < box.w * box.h; i++) {
                uint32_t rgb = s->px.px[(box.y + i / box.w) * s->px.w + box.x + i % box.w];
                for (int k = 0; k < 3; k++)
                    sum[k] += rgb >> 8 * k & 255;
            }
            uint32_t n = (uint32_t)(box.w * box.h);
            ret->px[y * COLS + x] = sum[0] / n | sum[1] / n << 8 | sum[2] / n << 16;
        }
}

static bool golden_load(const char *path, struct pixels *ret)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_file(&image, path) || image.width != COLS ||
        image.height != ROWS)
        return false;
    image.format = PNG_FORMAT_RGB;
    uint8_t rgb[COLS * ROWS * 3];
    pixels_resize(ret, COLS, ROWS);
    if (!png_image_finish_read(&image, NULL, rgb, 0, NULL))
        return false;
    for (int i = 0; i < COLS * ROWS; i++)
        ret->px[i] =
            (uint32_t)rgb[3 * i] << 16 | (uint32_t)rgb[3 * i + 1] << 8 | (uint32_t)rgb[3 * i + 2];
    return true;
}

static bool near(uint32_t a, uint32_t b)
{
    for (int k = 0; k < 24; k += 8)
        if (abs((int)(a >> k & 255) - (int)(b >> k & 255)) > CELL_NEAR)
            return false;
    return true;
}

/* Share of the cells that are another colour; the first of them in *ret_at. */
static double off(const struct pixels *a, const struct pixels *b, int *ret_at)
{
    int n = 0;
    for (int i = COLS * ROWS - 1; i >= 0; i--)
        if (!near(a->px[i], b->px[i])) {
            n++;
            *ret_at = i;
        }
    return (double)n / (COLS * ROWS);
}

/* ---- the states ---- */

static void state_overview(struct ui_model *m)
{
    m->dash_wanted = true;
    m->focus = UI_FOCUS_DASH;
    m->dash->focus = true;
}

static void state_map(struct ui_model *m)
{
    state_overview(m);
    m->dash->tab = DASH_MAP;
    m->dash->page = 12;
    m->dash->layer = 2;
}

static void state_answer(struct ui_model *m)
{
    state_overview(m);
    m->dash->tab = DASH_ANSWER;
    m->dash->token_sel = 17;
}

static void state_speed(struct ui_model *m)
{
    state_overview(m);
    m->dash->tab = DASH_SPEED;
}

static void state_chat(struct ui_model *m)
{
    m->focus = UI_FOCUS_LIST;
}

static void state_help(struct ui_model *m)
{
    m->popup = UI_POPUP_HELP;
    m->dash_wanted = true;
}

static const struct {
    const char *name, *theme;
    void (*set)(struct ui_model *m);
} states[] = {
    {"overview", "dark", state_overview}, {"map", "dark", state_map},
    {"answer", "light", state_answer},    {"speed", "light", state_speed},
    {"chat", "dark", state_chat},         {"help", "light", state_help},
};
enum { N_STATE = sizeof states / sizeof *states };

static const char *golden_path(int i)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s.png", getenv("DOGEAR_GOLDEN_DIR"), states[i].name);
    return path;
}

static void compare_all(const char *family, int size_px)
{
    bool write = getenv("DOGEAR_GOLDEN") && strcmp(getenv("DOGEAR_GOLDEN"), "write") == 0;
    for (int i = 0; i < N_STATE; i++) {
        struct shot s;
        struct pixels now = {0}, golden = {0};
        struct err e;
        int at = 0;
        shot_open(&s, family, size_px);
        states[i].set(&s.scene->m);
        shot_take(&s, states[i].theme, &now);
        if (write) {
            unlink(golden_path(i));
            if (pixels_save(&now, golden_path(i), &e) != OK)
                fail_msg("%s", e.text);
        }
        if (!golden_load(golden_path(i), &golden))
            fail_msg("%s: not a picture of %d x %d cells", golden_path(i), COLS, ROWS);
        double share = off(&now, &golden, &at);
        print_message("# %s: %.2f %% of the cells differ\n", states[i].name, 100 * share);
        if (share > CELLS_OFF)
            fail_msg("%s: %.1f %% of the cells differ, the first at column %d, row %d: #%06x, "
                     "stored #%06x",
                     states[i].name, 100 * share, at % COLS, at / COLS, now.px[at], golden.px[at]);
        pixels_fini(&now);
        pixels_fini(&golden);
        shot_close(&s);
    }
}

static void golden__default_font__as_stored(void **state)
{
    (void)state;
    compare_all(NULL, FONT_PX);
}

static void golden__other_size__as_stored(void **state)
{
    (void)state;
    compare_all(NULL, FONT_PX + 6);
}

/* What the tolerance must not swallow: each change alone is more than it. */
static void more_kv(struct scene *s)
{
    s->m.stats.kv_bytes /= 3;
}

static void coarser(struct scene *s)
{
    for (int i = 0; i < N_LAYER * N_HEAD * N_BLOCK; i++)
        s->page[i].tier = 5;
}

static void less_history(struct scene *s)
{
    for (int i = 0; i < HISTORY_MAX; i++)
        s->history.tier[0].value[i] *= 6;
}

static void no_list(struct scene *s)
{
    s->m.list_wanted = false;
}

static void golden__something_changed__is_seen(void **state)
{
    (void)state;
    static const struct {
        int state;
        void (*change)(struct scene *s);
    } cases[] = {{0, more_kv}, {0, less_history}, {1, coarser}, {4, no_list}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct shot s;
        struct pixels now = {0}, golden = {0};
        int at = 0;
        shot_open(&s, NULL, FONT_PX);
        states[cases[i].state].set(&s.scene->m);
        cases[i].change(s.scene);
        shot_take(&s, states[cases[i].state].theme, &now);
        assert_true(golden_load(golden_path(cases[i].state), &golden));
        double share = off(&now, &golden, &at);
        print_message("# change %zu: %.2f %%\n", i, 100 * share);
        assert_true(share > CELLS_OFF);
        pixels_fini(&now);
        pixels_fini(&golden);
        shot_close(&s);
    }
}

int main(void)
{
    setenv("SDL_VIDEODRIVER", "dummy", 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden__default_font__as_stored),
        cmocka_unit_test(golden__other_size__as_stored),
        cmocka_unit_test(golden__something_changed__is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
