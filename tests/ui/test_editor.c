/* ui/editor against a plain model: an array of clusters and a cursor between them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/str.h"
#include "tests/ui/random.h"
#include "ui/editor.h"
#include "ui/text.h"
#include "ui/theme.h"

/* The model keeps the text and finds the boundaries by walking from the start each time. */
struct plain {
    char text[8192];
    size_t len, cursor;
};

static size_t plain_prev(const struct plain *p, size_t off)
{
    size_t at = 0, last = 0;
    while (at < off) {
        int w;
        last = at;
        at += text_next(p->text + at, p->len - at, &w);
    }
    return last;
}

static size_t plain_next(const struct plain *p, size_t off)
{
    int w;
    return off < p->len ? off + text_next(p->text + off, p->len - off, &w) : off;
}

static void plain_cut(struct plain *p, size_t from, size_t to)
{
    memmove(p->text + from, p->text + to, p->len - to + 1);
    p->len -= to - from;
    p->cursor = 0;
    while (plain_next(p, p->cursor) <= from && p->cursor < p->len)
        p->cursor = plain_next(p, p->cursor);
}

static void plain_insert(struct plain *p, const char *s, size_t n)
{
    size_t want = p->cursor + n;
    memmove(p->text + p->cursor + n, p->text + p->cursor, p->len - p->cursor + 1);
    memcpy(p->text + p->cursor, s, n);
    p->len += n;
    p->cursor = 0;
    while (p->cursor < want)
        p->cursor = plain_next(p, p->cursor);
}

static bool plain_act(struct plain *p, enum keymap_action a)
{
    size_t at = p->cursor;
    switch (a) {
    case ACT_LEFT:
        p->cursor = plain_prev(p, at);
        return true;
    case ACT_RIGHT:
        p->cursor = plain_next(p, at);
        return true;
    case ACT_LINE_START:
        while (at > 0 && p->text[at - 1] != '\n')
            at--;
        p->cursor = at;
        return true;
    case ACT_LINE_END:
        while (at < p->len && p->text[at] != '\n')
            at++;
        p->cursor = at;
        return true;
    case ACT_TEXT_START:
        p->cursor = 0;
        return true;
    case ACT_TEXT_END:
        p->cursor = p->len;
        return true;
    case ACT_BACKSPACE:
        if (at > 0)
            plain_cut(p, plain_prev(p, at), at);
        return true;
    case ACT_DELETE:
        if (at < p->len)
            plain_cut(p, at, plain_next(p, at));
        return true;
    case ACT_NEWLINE:
        plain_insert(p, "\n", 1);
        return true;
    default:
        return false;
    }
}

static void editor__operations__agree_with_plain_model(void **state)
{
    static const enum keymap_action acts[] = {
        ACT_LEFT,     ACT_RIGHT,     ACT_LINE_START, ACT_LINE_END, ACT_TEXT_START,
        ACT_TEXT_END, ACT_BACKSPACE, ACT_DELETE,     ACT_NEWLINE,
    };
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct random r = {seed};
        struct editor *ed = editor_new();
        struct plain p = {0};
        for (int step = 0; step < 120; step++) {
            if (random_below(&r, 2) == 0) {
                struct str s = {0};
                random_piece(&r, &s, 0);
                editor_insert(ed, s.data, s.len);
                plain_insert(&p, s.data, s.len);
                str_fini(&s);
            } else {
                enum keymap_action a = acts[random_below(&r, sizeof acts / sizeof *acts)];
                editor_act(ed, a);
                plain_act(&p, a);
            }
            if (strcmp(editor_text(ed), p.text) != 0 || editor_cursor(ed) != p.cursor)
                fail_msg("seed %d step %d: \"%s\"@%zu, model \"%s\"@%zu", (int)seed, step,
                         editor_text(ed), editor_cursor(ed), p.text, p.cursor);
        }
        editor_free(ed);
    }
}

/* Any sequence of any actions: the cursor is at a boundary, undo walks back to the start. */
static void editor__any_action__keeps_invariants(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct random r = {seed};
        struct editor *ed = editor_new();
        struct cells *c = cells_new(30, 10);
        editor_history_add(ed, "older", 5);
        editor_history_add(ed, "two\nlines", 9);
        for (int step = 0; step < 150; step++) {
            struct str s = {0};
            switch (random_below(&r, 5)) {
            case 0:
            case 1:
                random_piece(&r, &s, 1);
                editor_insert(ed, s.data, s.len);
                break;
            case 2:
                editor_place(ed, random_below(&r, 60));
                break;
            default:
                editor_act(ed,
                           (enum keymap_action)(
                               ACT_NEWLINE + random_below(&r, ACT_HISTORY_NEXT - ACT_NEWLINE + 1)));
            }
            str_fini(&s);
            size_t cur = editor_cursor(ed), n = editor_len(ed);
            if (cur > n || text_snap(editor_text(ed), n, cur) != cur ||
                strlen(editor_text(ed)) != n)
                fail_msg("seed %d step %d: cursor %zu of %zu is no boundary", (int)seed, step, cur,
                         n);
            struct rect box = {2, 1, 1 + (int)random_below(&r, 25), 1 + (int)random_below(&r, 8)};
            cells_clear(c);
            editor_draw(ed, c, box, true);
            int x, y;
            assert_true(cells_cursor(c, &x, &y));
            assert_in_range(x, box.x, box.x + box.w - 1);
            assert_in_range(y, box.y, box.y + box.h - 1);
        }
        while (editor_act(ed, ACT_UNDO))
            ;
        assert_string_equal(editor_text(ed), "");
        cells_free(c);
        editor_free(ed);
    }
}

static void act_all(struct editor *ed, const enum keymap_action *a, int n)
{
    for (int i = 0; i < n; i++)
        editor_act(ed, a[i]);
}

static void editor__kill_and_yank__as_readline(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    editor_insert(ed, "one two three", 13);
    editor_act(ed, ACT_KILL_WORD);
    assert_string_equal(editor_text(ed), "one two ");
    editor_act(ed, ACT_KILL_WORD); /* in a row: both come back together */
    assert_string_equal(editor_text(ed), "one ");
    editor_act(ed, ACT_YANK);
    assert_string_equal(editor_text(ed), "one two three");
    act_all(ed, (enum keymap_action[]){ACT_LINE_START, ACT_WORD_RIGHT, ACT_KILL_END}, 3);
    assert_string_equal(editor_text(ed), "one");
    act_all(ed, (enum keymap_action[]){ACT_LINE_START, ACT_YANK}, 2);
    assert_string_equal(editor_text(ed), " two threeone");
    act_all(ed, (enum keymap_action[]){ACT_TEXT_END, ACT_KILL_START}, 2);
    assert_string_equal(editor_text(ed), "");
    editor_insert(ed, "a\nb", 3);
    act_all(ed, (enum keymap_action[]){ACT_TEXT_START, ACT_LINE_END, ACT_KILL_END}, 3);
    assert_string_equal(editor_text(ed), "ab"); /* at the end of a line it joins the next */
    editor_free(ed);
}

static void editor__undo__groups_typing(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    editor_insert(ed, "h", 1);
    editor_insert(ed, "i", 1);
    editor_act(ed, ACT_LEFT);
    editor_insert(ed, "!", 1);
    assert_string_equal(editor_text(ed), "h!i");
    editor_act(ed, ACT_UNDO);
    assert_string_equal(editor_text(ed), "hi");
    editor_act(ed, ACT_UNDO);
    assert_string_equal(editor_text(ed), "");
    act_all(ed, (enum keymap_action[]){ACT_REDO, ACT_REDO}, 2);
    assert_string_equal(editor_text(ed), "h!i");
    editor_set(ed, "", 0); /* clearing the line can be undone */
    editor_act(ed, ACT_UNDO);
    assert_string_equal(editor_text(ed), "h!i");
    editor_free(ed);
}

static void editor__history__keeps_what_was_being_written(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    editor_history_add(ed, "first", 5);
    editor_history_add(ed, "second", 6);
    editor_history_add(ed, "second", 6); /* no repeats */
    assert_int_equal(editor_history_count(ed), 2);
    editor_insert(ed, "draft", 5);
    editor_act(ed, ACT_UP);
    assert_string_equal(editor_text(ed), "second");
    editor_act(ed, ACT_UP);
    assert_string_equal(editor_text(ed), "first");
    assert_false(editor_act(ed, ACT_UP));
    editor_act(ed, ACT_DOWN);
    editor_act(ed, ACT_DOWN);
    assert_string_equal(editor_text(ed), "draft");
    editor_free(ed);
}

static void editor__rows__up_and_down_keep_the_column(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    editor_insert(ed, "long first line\nab\nlong third line", 34);
    assert_int_equal(editor_rows(ed, 40), 3);
    editor_act(ed, ACT_UP);
    assert_int_equal(editor_cursor(ed), 18); /* the end of "ab" */
    editor_act(ed, ACT_UP);
    assert_int_equal(editor_cursor(ed), 15);
    assert_int_equal(editor_rows(ed, 8), 7);
    editor_free(ed);
    ed = editor_new();
    editor_insert(ed, "text\n", 5);
    assert_int_equal(editor_rows(ed, 40), 2); /* the empty last line is a line */
    editor_free(ed);
}

static void editor__insert__is_cleaned_and_bounded(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    editor_insert(ed, "a\x1B[31m\r\nb\x00", 9);
    assert_string_equal(editor_text(ed), "a\nb");
    char *big = malloc(EDITOR_TEXT_MAX);
    memset(big, 'x', EDITOR_TEXT_MAX);
    assert_false(editor_insert(ed, big, EDITOR_TEXT_MAX));
    assert_string_equal(editor_text(ed), "a\nb");
    free(big);
    editor_free(ed);
}

static void expect_selected(const struct editor *ed, const char *what)
{
    size_t from, to;
    assert_true(editor_selection(ed, &from, &to));
    assert_int_equal(to - from, strlen(what));
    assert_memory_equal(editor_text(ed) + from, what, to - from);
}

static void editor__selection__moves_replaces_and_is_undone(void **state)
{
    (void)state;
    size_t from, to;
    struct editor *ed = editor_new();
    editor_set(ed, "one two\nthree 日本", strlen("one two\nthree 日本"));
    assert_false(editor_selection(ed, &from, &to));
    assert_true(editor_extend(ed, ACT_LEFT));
    assert_true(editor_extend(ed, ACT_WORD_LEFT));
    expect_selected(ed, "日本");
    assert_true(editor_extend(ed, ACT_UP));
    expect_selected(ed, "o\nthree 日本"); /* the same column */
    assert_false(editor_extend(ed, ACT_UP)); /* the first line: not into the history */
    assert_false(editor_extend(ed, ACT_YANK));
    editor_act(ed, ACT_RIGHT); /* to its end, and it is gone */
    assert_false(editor_selection(ed, &from, &to));
    assert_int_equal(editor_cursor(ed), editor_len(ed));

    editor_select(ed, 4, 7);
    expect_selected(ed, "two");
    editor_insert(ed, "2", 1);
    assert_string_equal(editor_text(ed), "one 2\nthree 日本");
    assert_false(editor_selection(ed, &from, &to));
    editor_act(ed, ACT_UNDO);
    assert_string_equal(editor_text(ed), "one two\nthree 日本");

    editor_select_word(ed, 9);
    expect_selected(ed, "three");
    editor_act(ed, ACT_BACKSPACE);
    assert_string_equal(editor_text(ed), "one two\n 日本");
    editor_act(ed, ACT_SELECT_ALL);
    expect_selected(ed, "one two\n 日本");
    editor_erase_selection(ed);
    assert_int_equal(editor_len(ed), 0);
    assert_false(editor_act(ed, ACT_SELECT_ALL));
    editor_free(ed);
}

static void editor__selection__is_marked(void **state)
{
    (void)state;
    struct editor *ed = editor_new();
    struct cells *c = cells_new(20, 4);
    editor_set(ed, "ab\n\ncd", 6);
    editor_select(ed, 1, 5);
    editor_draw(ed, c, (struct rect){2, 0, 10, 4}, true);
    static const int want[3][3] = {{0, 1, 0}, {1, 0, 0}, {1, 0, 0}};
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++)
            assert_int_equal(cells_at(c, 2 + x, y)->role == ROLE_SELECTED, want[y][x]);
    cells_free(c);
    editor_free(ed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(editor__operations__agree_with_plain_model),
        cmocka_unit_test(editor__any_action__keeps_invariants),
        cmocka_unit_test(editor__kill_and_yank__as_readline),
        cmocka_unit_test(editor__undo__groups_typing),
        cmocka_unit_test(editor__history__keeps_what_was_being_written),
        cmocka_unit_test(editor__rows__up_and_down_keep_the_column),
        cmocka_unit_test(editor__insert__is_cleaned_and_bounded),
        cmocka_unit_test(editor__selection__moves_replaces_and_is_undone),
        cmocka_unit_test(editor__selection__is_marked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
