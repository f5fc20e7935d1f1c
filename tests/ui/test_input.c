/* ui/input, ui/keymap, ui/theme, ui/layout, ui/format: what is table or pure function. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "engine/base/str.h"
#include "tests/ui/random.h"
#include "ui/format.h"
#include "ui/input.h"
#include "ui/keymap.h"
#include "ui/layout.h"
#include "ui/theme.h"

static void describe(const struct ui_event *ev, struct str *out)
{
    if (out->len > 0)
        str_addc(out, ' ');
    if (ev->kind == UI_EV_PASTE)
        str_addf(out, "paste(%.*s)", (int)ev->len, ev->text);
    else if (ev->kind == UI_EV_MOUSE)
        str_addf(out, "mouse%d,%d,%d,%d", (int)ev->mouse, ev->button, ev->x, ev->y);
    else if (ev->key.code < UI_KEY_ENTER)
        str_addf(out, "%s%s%c", ev->key.mods & UI_CTRL ? "c+" : "",
                 ev->key.mods & UI_ALT ? "a+" : "", ev->key.code < 0x80 ? (char)ev->key.code : 'U');
    else
        str_addf(out, "%s%s%s<%u>", ev->key.mods & UI_CTRL ? "c+" : "",
                 ev->key.mods & UI_ALT ? "a+" : "", ev->key.mods & UI_SHIFT ? "s+" : "",
                 (unsigned)(ev->key.code - UI_KEY_ENTER));
}

/* Decodes bytes fed in pieces of `step`, flushing at the end. */
static void decode(const char *s, size_t n, size_t step, struct str *out)
{
    struct input *in = input_new();
    struct ui_event ev;
    for (size_t i = 0; i < n; i += step) {
        input_feed(in, s + i, n - i < step ? n - i : step);
        while (input_next(in, &ev)) {
            describe(&ev, out);
            if (ev.kind == UI_EV_PASTE)
                free(ev.text);
        }
    }
    while (input_pending(in)) {
        input_flush(in);
        while (input_next(in, &ev)) {
            describe(&ev, out);
            if (ev.kind == UI_EV_PASTE)
                free(ev.text);
        }
    }
    input_free(in);
}

#define K(code) ((unsigned)((code)-UI_KEY_ENTER))

static void input__decode__table(void **state)
{
    static const struct {
        const char *bytes, *events;
    } cases[] = {
        {"ab", "a b"},
        {"\xC3\xA9", "U"},
        {"\r", "<0>"},
        {"\n", "c+j"},
        {"\t", "<1>"},
        {"\x1B", "<2>"},
        {"\x7F", "<3>"},
        {"\x03\x04", "c+c c+d"},
        {"\x1B\r", "a+<0>"},
        {"\x1B"
         "b",
         "a+b"},
        {"\x1B\x7F", "a+<3>"},
        {"\x1B[A\x1B[B\x1BOC\x1BOD", "<6> <7> <9> <8>"},
        {"\x1B[1;5C", "c+<9>"},
        {"\x1B[1;3A", "a+<6>"},
        {"\x1B[1;2A", "s+<6>"},
        {"\x1B[5~\x1B[6~", "<12> <13>"},
        {"\x1B[3~\x1B[3;5~", "<4> c+<4>"},
        {"\x1B[H\x1BOF\x1B[1~\x1B[4~", "<10> <11> <10> <11>"},
        {"\x1BOP\x1B[11~\x1B[[A\x1B[24~", "<14> <14> <14> <25>"},
        {"\x1B[Z", "s+<1>"},
        {"\x1B[13;2u", "s+<0>"},
        {"\x1B[27;2;13~", "s+<0>"},
        {"\x1B[99;5u", "c+c"},
        {"\x1B[27u", "<2>"},
        {"\x1B[200~a\x1B[31m\nb\x1B[201~c", "paste(a\x1B[31m\nb) c"},
        {"\x1B[<64;5;7Mx", "mouse3,0,4,6 x"},
        {"\x1B[<0;1;1M\x1B[<0;1;1m", "mouse0,0,0,0 mouse2,0,0,0"},
        {"\x1B[?62;4cx", "x"}, /* a reply nobody asked for */
        {"\x1B]11;rgb:00/00/00\x07x", "x"},
        {"\x1BP1$r0m\x1B\\x", "x"},
        {"\x1B[999999999999999999~x", "x"},
        {"\x1B[1;2;3;4;5;6;7;8;9;10;11Ax", "s+<6> x"},
        {"\x1B\x1B[A", "a+<6>"},
        {"\xFFx", "U x"},
        {"\xC2\x9Bx", "x"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].bytes);
        for (size_t step = 1; step <= n; step++) { /* however the bytes arrive */
            struct str got = {0};
            decode(cases[i].bytes, n, step, &got);
            if (strcmp(str_c(&got), cases[i].events) != 0)
                fail_msg("case %zu in steps of %zu: \"%s\", expected \"%s\"", i, step, str_c(&got),
                         cases[i].events);
            str_fini(&got);
        }
    }
}

static void input__decode__survives_any_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 500; seed++) {
        struct random r = {seed};
        struct str in = {0}, out = {0};
        for (int i = 0; i < 60; i++)
            str_addc(&in, random_below(&r, 3) ? (char)random_below(&r, 256)
                                              : "\x1B[O;0123~<M"[random_below(&r, 11)]);
        str_adds(&in, "\x1B[201~"); /* ends a paste that may have begun */
        decode(in.data, in.len, 1 + random_below(&r, 7), &out);
        str_fini(&in);
        str_fini(&out);
    }
}

/* ---- key map ---- */

static enum keymap_action find(const struct keymap *km, enum keymap_place p, const char *name)
{
    struct ui_key k;
    assert_true(keymap_parse_key(name, &k));
    return keymap_find(km, p, k);
}

static void keymap__built_in__has_the_conventions(void **state)
{
    (void)state;
    struct keymap *km = keymap_new();
    assert_int_equal(find(km, KEYMAP_EDITOR, "enter"), ACT_SEND);
    assert_int_equal(find(km, KEYMAP_EDITOR, "alt+enter"), ACT_NEWLINE);
    assert_int_equal(find(km, KEYMAP_EDITOR, "ctrl+j"), ACT_NEWLINE);
    assert_int_equal(find(km, KEYMAP_GLOBAL, "ctrl+c"), ACT_STOP);
    assert_int_equal(find(km, KEYMAP_GLOBAL, "escape"), ACT_CANCEL);
    assert_int_equal(find(km, KEYMAP_EMPTY, "ctrl+d"), ACT_QUIT);
    assert_int_equal(find(km, KEYMAP_EDITOR, "ctrl+d"), ACT_DELETE);
    assert_int_equal(find(km, KEYMAP_GLOBAL, "f1"), ACT_HELP);
    assert_int_equal(find(km, KEYMAP_LIST, "G"), ACT_ITEM_LAST);
    assert_int_equal(find(km, KEYMAP_LIST, "g"), ACT_ITEM_FIRST);
    char keys[64];
    keymap_keys(km, KEYMAP_EDITOR, ACT_NEWLINE, keys, sizeof keys);
    assert_string_equal(keys, "Alt+Enter  Ctrl+J  Shift+Enter");
    /* Every action that a person can reach has a line of help. */
    for (int p = 0; p < KEYMAP_COUNT; p++) {
        enum keymap_action a;
        for (int i = 0; (a = keymap_bound(km, (enum keymap_place)p, i)) != ACT_NONE; i++)
            assert_true(keymap_action_help(a)[0]);
    }
    keymap_free(km);
}

static void keymap__add__rebinds_or_refuses_whole(void **state)
{
    (void)state;
    struct keymap *km = keymap_new();
    struct err e;
    assert_int_equal(
        keymap_add(km, "[editor]\nctrl+enter = send\nenter = newline\nctrl+k = none\n", "mine", &e),
        OK);
    assert_int_equal(find(km, KEYMAP_EDITOR, "ctrl+enter"), ACT_SEND);
    assert_int_equal(find(km, KEYMAP_EDITOR, "enter"), ACT_NEWLINE);
    assert_int_equal(find(km, KEYMAP_EDITOR, "ctrl+k"), ACT_NONE);
    static const char *const bad[] = {"[editor]\nenter = send\nctrl+q = nonsense\n",
                                      "[nowhere]\na = send\n", "[editor]\nhyper+x = send\n",
                                      "[editor]\njust words\n", "a = send\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(keymap_add(km, bad[i], "mine", &e), ERR_FORMAT);
        assert_non_null(strstr(e.text, "mine line"));
    }
    assert_int_equal(find(km, KEYMAP_EDITOR, "enter"), ACT_NEWLINE); /* nothing half done */
    keymap_free(km);
}

/* ---- themes ---- */

static void theme__built_in__all_parse_and_differ(void **state)
{
    (void)state;
    struct err e;
    for (int i = 0; theme_builtin(i); i++) {
        struct theme t;
        assert_int_equal(theme_load(theme_builtin(i), &t, &e), OK);
        for (int a = 0; a < ROLE_COUNT; a++)
            assert_true(theme_role_name((enum theme_role)a)[0]);
        bool mono = strcmp(theme_builtin(i), "mono") == 0;
        for (int a = 0; a < ROLE_COUNT; a++)
            if (mono)
                assert_true(t.style[a].fg == THEME_NONE && t.style[a].bg == THEME_NONE);
        assert_true(mono || t.style[ROLE_USER_NAME].fg != t.style[ROLE_ASSISTANT_NAME].fg);
        assert_true(mono || t.style[ROLE_CODE].bg != THEME_NONE);
    }
}

static void theme__parse__names_the_line(void **state)
{
    (void)state;
    struct err e;
    struct theme t;
    static const char *const bad[] = {"text = red none\n",       "text = #12345 none\n",
                                      "text = none\n",           "unknown = none none\n",
                                      "text = none none loud\n", "text\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(theme_parse(bad[i], "x.conf", &t, &e), ERR_FORMAT);
        assert_non_null(strstr(e.text, "x.conf line 1"));
    }
    assert_int_equal(theme_load("no-such-theme", &t, &e), ERR_NOT_FOUND);
}

static void theme__nearest__table(void **state)
{
    (void)state;
    assert_int_equal(theme_nearest_256(0x000000), 16);
    assert_int_equal(theme_nearest_256(0xffffff), 231);
    assert_int_equal(theme_nearest_256(0xff0000), 196);
    assert_int_equal(theme_nearest_256(0x808080), 244);
    assert_int_equal(theme_nearest_8(0xe06c75), 1);
    assert_int_equal(theme_nearest_8(0x98c379), 2);
    assert_int_equal(theme_nearest_8(0xe5a54b), 1 | 2);
    assert_int_equal(theme_nearest_8(0xa35a00), 1);
    assert_int_equal(theme_nearest_8(0x7fb4ca), 2 | 4);
    assert_int_equal(theme_nearest_8(0x7f848e), 7);
    assert_int_equal(theme_nearest_8(0x202020), 0);
    assert_int_equal(theme_nearest_8(0xffffff), 7);
}

/* ---- layout ---- */

static bool overlap(struct rect a, struct rect b)
{
    return !rect_empty(a) && !rect_empty(b) && !rect_empty(rect_cross(a, b));
}

static void layout__any_size__inside_and_disjoint(void **state)
{
    (void)state;
    for (int cols = 1; cols <= 260; cols += cols < 30 ? 1 : 7)
        for (int rows = 1; rows <= 90; rows += rows < 30 ? 1 : 7)
            for (int bits = 0; bits < 4; bits++)
                for (int editor = 1; editor < 200; editor = editor * 3 + 1) {
                    struct layout_want w = {bits & 1, bits & 2, editor, editor % 7};
                    struct layout l;
                    layout_compute(cols, rows, &w, &l);
                    struct rect screen = {0, 0, cols, rows};
                    struct rect all[] = {l.list,   l.list_border, l.title, l.chat,        l.rule,
                                         l.prompt, l.editor,      l.dash,  l.dash_border, l.status};
                    int n = sizeof all / sizeof *all;
                    for (int i = 0; i < n; i++) {
                        struct rect in = rect_cross(all[i], screen);
                        if (!rect_empty(all[i]) && (in.w != all[i].w || in.h != all[i].h))
                            fail_msg("%dx%d: rectangle %d leaves the screen", cols, rows, i);
                        for (int k = i + 1; k < n; k++)
                            if (overlap(all[i], all[k]))
                                fail_msg("%dx%d: rectangles %d and %d overlap", cols, rows, i, k);
                    }
                    assert_true(l.editor.h >= 1 && l.editor.w >= 1);
                    assert_true(l.editor.h <= (rows / 3 > 1 ? rows / 3 : 1));
                    assert_true(rows < 3 || l.status.h == 1);
                    assert_true(rows < 8 || l.chat.h >= 3);
                    assert_true(l.text.w <= LAYOUT_TEXT_MAX && l.text.x >= l.chat.x);
                    assert_true(rect_empty(l.list) ==
                                !((bits & 1) && cols >= LAYOUT_LIST_MIN_COLS));
                    struct rect popup = layout_popup(screen, 92, 40);
                    assert_true(popup.x >= 0 && popup.y >= 0 && popup.x + popup.w <= cols &&
                                popup.y + popup.h <= rows);
                }
}

/* ---- figures ---- */

static void format__unknown__is_never_zero(void **state)
{
    char b[FORMAT_SIZE];
    (void)state;
    assert_string_equal(format_count(b, -1), "--");
    assert_string_equal(format_bytes(b, -1), "--");
    assert_string_equal(format_rate(b, NAN), "--");
    assert_string_equal(format_seconds(b, NAN), "--");
    assert_string_equal(format_percent(b, NAN), "--");
    assert_string_equal(format_small(b, NAN), "--");
    assert_string_equal(format_count(b, 0), "0");
    assert_string_equal(format_count(b, 1234567), "1,234,567");
    assert_string_equal(format_bytes(b, 1536), "1.50 KiB");
    assert_string_equal(format_bytes(b, INT64_MAX), "8192 PiB");
    assert_string_equal(format_rate(b, 23.44), "23.4");
    assert_string_equal(format_rate(b, 1e300), "--");
    assert_string_equal(format_seconds(b, 0.082), "82 ms");
    assert_string_equal(format_seconds(b, 125), "2 min 05 s");
    assert_string_equal(format_percent(b, 0.9999), "99.99%");
    assert_string_equal(format_percent(b, 1), "100%");
    assert_string_equal(format_permille(b, NAN), "--");
    assert_string_equal(format_permille(b, 0.97), "97.0%");
    assert_string_equal(format_permille(b, 0.99999), "99.9%");
    assert_string_equal(format_permille(b, 1), "100.0%");
    assert_string_equal(format_age(b, 1000, 1000 + 5 * 60000), "5m");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input__decode__table),
        cmocka_unit_test(input__decode__survives_any_bytes),
        cmocka_unit_test(keymap__built_in__has_the_conventions),
        cmocka_unit_test(keymap__add__rebinds_or_refuses_whole),
        cmocka_unit_test(theme__built_in__all_parse_and_differ),
        cmocka_unit_test(theme__parse__names_the_line),
        cmocka_unit_test(theme__nearest__table),
        cmocka_unit_test(layout__any_size__inside_and_disjoint),
        cmocka_unit_test(format__unknown__is_never_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
