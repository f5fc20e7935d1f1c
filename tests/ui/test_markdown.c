/* ui/markdown and ui/view_chat: what is drawn, and that growing text gives the same lines. */
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
#include "ui/markdown.h"
#include "ui/text.h"
#include "ui/theme.h"
#include "ui/view.h"

static void dump(const struct rich *r, struct str *out, bool styles)
{
    for (uint32_t i = 0; i < r->n_line; i++) {
        for (uint32_t k = 0; k < r->lines[i].n_run; k++) {
            const struct rich_run *run = &r->runs[r->lines[i].run + k];
            if (styles)
                str_addf(out, "<%d.%d>", run->role, run->attr);
            str_add(out, r->text.data + run->off, run->len);
        }
        if (styles)
            str_addf(out, "{%d %u}", r->lines[i].back, (unsigned)r->lines[i].pos);
        str_addc(out, '\n');
    }
}

static void expect(const char *source, int width, const char *lines)
{
    struct markdown *m = markdown_new();
    struct str s = {0};
    markdown_set(m, source, strlen(source), width, 0, false);
    dump(markdown_lines(m), &s, false);
    assert_string_equal(str_c(&s), lines);
    str_fini(&s);
    markdown_free(m);
}

static void markdown__blocks__table(void **state)
{
    (void)state;
    expect("", 40, "");
    expect("plain", 40, "plain\n");
    expect("one\n\ntwo", 40, "one\n\ntwo\n");
    expect("line\nbreak kept", 40, "line\nbreak kept\n");
    expect("a **bold** and *it* `code`", 40, "a bold and it code\n");
    expect("# Title\ntext", 40, "Title\n\ntext\n");
    expect("- a\n- b\n  - c\n\ntext", 40, "• a\n• b\n  ◦ c\n\ntext\n");
    expect("3. a\n4. b", 40, "3. a\n4. b\n");
    expect("- [ ] todo\n- [x] done", 40, "☐ todo\n☑ done\n");
    expect("> quoted words here", 12, "▎ quoted\n▎ words here\n");
    expect("- aaa bbb ccc", 12, "• aaa bbb\n  ccc\n");
    expect("- aaa bbb ccc", 8, "aaa bbb\nccc\n"); /* too narrow for marks */
    expect("[text](http://x)", 40, "text (http://x)\n");
    expect("<http://x>", 40, "http://x\n");
    expect("![alt](i.png)", 40, "[image: alt]\n");
    expect("&amp; &lt;b&gt; &#65; &bogus;", 40, "& <b> A &bogus;\n");
    expect("<b>raw</b>", 40, "<b>raw</b>\n");
    expect("a \\* b", 40, "a * b\n");
    expect("---", 10, "──────────\n");
    expect("```c\nint x;\n```", 24,
           "── c ────────────── 1 ──\n int x;\n────────────────────────\n");
    expect("| a | b |\n|---|--:|\n| 1 | 22 |", 40, "a │  b\n──┼───\n1 │ 22\n");
    expect("-", 40, "• \n");
}

static void markdown__code__is_kept_for_copying(void **state)
{
    static const char source[] = "```py\nif x:\n\tpass\n```\n\ntext\n\n```\nsecond\n```";
    (void)state;
    struct markdown *m = markdown_new();
    markdown_set(m, source, strlen(source), 30, 4, false);
    const struct rich *r = markdown_lines(m);
    assert_int_equal(r->n_code, 2);
    assert_memory_equal(r->code.data + r->codes[0].off, "if x:\n\tpass\n", r->codes[0].len);
    assert_memory_equal(r->code.data + r->codes[1].off, "second\n", r->codes[1].len);
    struct str s = {0};
    dump(r, &s, false);
    assert_non_null(strstr(str_c(&s), " 5 ──")); /* numbers run through the conversation */
    assert_non_null(strstr(str_c(&s), " 6 ──"));
    str_fini(&s);
    markdown_free(m);
}

static void random_document(struct random *r, struct str *out, int n_piece)
{
    static const char *const pieces[] = {
        "word ",
        "some more words ",
        "**bold** ",
        "*it* ",
        "`code` ",
        "\n",
        "\n\n",
        "\n\n",
        "# Head\n",
        "- item\n",
        "1. one\n",
        "   more\n",
        "  - sub\n",
        "> quote\n",
        "```c\n",
        "int x = 1;\n",
        "```\n",
        "```\n\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n",
        "---\n",
        "\n\nText ",
        "中文 ",
        "    indented\n",
        "~~~\n",
        "\n\n* star\n",
        "===\n",
        "**open ",
        "  ```\n",
        "\n\n```sh\nls\n",
    };
    for (int i = 0; i < n_piece; i++)
        str_adds(out, pieces[random_below(r, sizeof pieces / sizeof *pieces)]);
}

static void markdown__streaming__equals_rendering_at_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 600; seed++) {
        struct random r = {seed};
        struct str doc = {0};
        random_document(&r, &doc, 30);
        int width = 10 + (int)random_below(&r, 70);
        struct markdown *grow = markdown_new();
        for (size_t n = 0; n <= doc.len;) {
            struct markdown *whole = markdown_new();
            struct str a = {0}, b = {0};
            markdown_set(grow, str_c(&doc), n, width, 0, true);
            markdown_set(whole, str_c(&doc), n, width, 0, false);
            dump(markdown_lines(grow), &a, true);
            dump(markdown_lines(whole), &b, true);
            if (strcmp(str_c(&a), str_c(&b)) != 0)
                fail_msg(
                    "seed %d at %zu of %zu: %.300s\n--- streaming:\n%.300s\n--- whole:\n%.300s",
                    (int)seed, n, doc.len, str_c(&doc), str_c(&a), str_c(&b));
            str_fini(&a);
            str_fini(&b);
            markdown_free(whole);
            if (n == doc.len)
                break;
            n += 1 + random_below(&r, 12);
            if (n > doc.len)
                n = doc.len;
        }
        markdown_free(grow);
        str_fini(&doc);
    }
}

static void markdown__any_text__fits_and_steers_nothing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct random r = {seed};
        struct str doc = {0};
        for (int i = 0; i < 40; i++) {
            if (random_below(&r, 2))
                random_document(&r, &doc, 1);
            else
                random_piece(&r, &doc, 1);
        }
        int width = 20 + (int)random_below(&r, 60);
        struct markdown *m = markdown_new();
        markdown_set(m, str_c(&doc), doc.len, width, 0, false);
        const struct rich *lines = markdown_lines(m);
        for (uint32_t i = 0; i < lines->n_line; i++) {
            struct str s = {0};
            for (uint32_t k = 0; k < lines->lines[i].n_run; k++) {
                const struct rich_run *run = &lines->runs[lines->lines[i].run + k];
                str_add(&s, lines->text.data + run->off, run->len);
            }
            for (size_t k = 0; k < s.len; k++)
                if ((unsigned char)s.data[k] < 0x20 || s.data[k] == 0x7F)
                    fail_msg("seed %d: byte %02x in a line", (int)seed, (unsigned char)s.data[k]);
            if (text_width(str_c(&s), s.len) > width)
                fail_msg("seed %d: \"%s\" is wider than %d", (int)seed, str_c(&s), width);
            str_fini(&s);
        }
        markdown_free(m);
        str_fini(&doc);
    }
}

static void markdown__deep_nesting__is_flattened(void **state)
{
    (void)state;
    struct str doc = {0};
    for (int i = 0; i < 300; i++)
        str_adds(&doc, "> - ");
    str_adds(&doc, "deep");
    struct markdown *m = markdown_new();
    struct str s = {0};
    markdown_set(m, doc.data, doc.len, 60, 0, false);
    dump(markdown_lines(m), &s, false);
    assert_non_null(strstr(str_c(&s), "deep"));
    str_fini(&s);
    str_fini(&doc);
    markdown_free(m);
}

/* ---- transcript ---- */

struct fixture {
    struct ui_model m;
    struct ui_message msg[40];
    struct view_chat *v;
    struct cells *c;
    struct keymap *km;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->km = keymap_new();
    f->v = view_chat_new();
    f->c = cells_new(60, 12);
    f->m.keymap = f->km;
    f->m.messages = f->msg;
    f->m.model_name = "Model";
    f->m.title = "";
    stats_init(&f->m.stats);
    for (int i = 0; i < 20; i++)
        f->msg[i] =
            (struct ui_message){
                .role = i % 2 ? "assistant" : "user", .text = "some text", .len = 9, .n_sibling = 1};
    f->m.n_message = 20;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    keymap_free(f->km);
    view_chat_free(f->v);
    cells_free(f->c);
    free(f);
    return 0;
}

static void draw(struct fixture *f, struct str *out)
{
    struct rect r = {0, 0, cells_cols(f->c), cells_rows(f->c)};
    cells_clear(f->c);
    view_chat_draw(f->v, &f->m, f->c, r, r);
    str_clear(out);
    for (int y = 0; y < r.h; y++) {
        cells_row(f->c, y, out);
        str_addc(out, '\n');
    }
}

static void view_chat__anchor__stays_put_while_streaming(void **state)
{
    struct fixture *f = *state;
    struct str before = {0}, after = {0}, grown = {0};
    f->msg[19].streaming = true;
    draw(f, &before);
    assert_true(view_chat_following(f->v));
    view_chat_page(f->v, -1);
    draw(f, &before);
    assert_false(view_chat_following(f->v));
    for (int i = 0; i < 60; i++) {
        str_addf(&grown, "paragraph %d of the answer\n\n", i);
        f->msg[19].text = grown.data;
        f->msg[19].len = grown.len;
        draw(f, &after);
        assert_string_equal(str_c(&after), str_c(&before));
    }
    assert_true(view_chat_below(f->v) > 100);
    view_chat_follow(f->v);
    draw(f, &after);
    assert_non_null(strstr(str_c(&after), "paragraph 59"));
    str_fini(&before);
    str_fini(&after);
    str_fini(&grown);
}

static void view_chat__resize__keeps_the_place(void **state)
{
    struct fixture *f = *state;
    struct str text = {0}, screen = {0};
    for (int i = 0; i < 200; i++)
        str_addf(&text, "word%d ", i);
    f->msg[9].text = text.data;
    f->msg[9].len = text.len;
    draw(f, &screen);
    view_chat_top(f->v);
    draw(f, &screen);
    while (!strstr(str_c(&screen), "word100")) {
        view_chat_scroll(f->v, 1);
        draw(f, &screen);
        assert_false(view_chat_following(f->v));
    }
    view_chat_scroll(f->v, 11); /* that line to the top */
    draw(f, &screen);
    assert_true(strstr(str_c(&screen), "word100") < strchr(str_c(&screen), '\n'));
    for (int cols = 30; cols <= 120; cols += 15) {
        cells_resize(f->c, cols, 12);
        draw(f, &screen);
        if (!strstr(str_c(&screen), "word100"))
            fail_msg("at %d columns the place is lost:\n%s", cols, str_c(&screen));
    }
    str_fini(&text);
    str_fini(&screen);
}

static void view_chat__thinking__is_folded(void **state)
{
    struct fixture *f = *state;
    struct str screen = {0};
    static const char answer[] = "<think>\nfirst I ponder\n</think>\n\nThe answer.";
    f->m.n_message = 2;
    f->msg[1].text = answer;
    f->msg[1].len = strlen(answer);
    draw(f, &screen);
    assert_null(strstr(str_c(&screen), "ponder"));
    assert_null(strstr(str_c(&screen), "think>"));
    assert_non_null(strstr(str_c(&screen), "thought, 3 words"));
    assert_non_null(strstr(str_c(&screen), "The answer."));
    f->m.show_thinking = true;
    draw(f, &screen);
    assert_null(strstr(str_c(&screen), "▸"));
    assert_non_null(strstr(str_c(&screen), "▾ thought, 3 words"));
    assert_non_null(strstr(str_c(&screen), "first I ponder"));
    str_clear(&screen);
    view_chat_select(f->v, 0, 0, 1); /* all of it: names and the line with the words are ours */
    view_chat_select_to(f->v, 60, cells_rows(f->c));
    assert_true(view_chat_selection(f->v, &screen));
    assert_null(strstr(str_c(&screen), "words"));
    assert_non_null(strstr(str_c(&screen), "first I ponder\n\nThe answer."));
    str_fini(&screen);
}

static void view_draw__any_size__never_fails(void **state)
{
    struct fixture *f = *state;
    struct random r = {7};
    struct ui_row rows[3] = {{1, "first", "now", NULL, true, false},
                             {2, "中文 title", "2d", "a \x02hit\x03 here", false, true},
                             {3, "third", NULL, NULL, false, false}};
    int scroll = 0, help = 0;
    struct editor *ed = editor_new(), *input = editor_new();
    editor_insert(ed, "typed 中文 text\nmore", 21);
    f->m.editor = ed;
    f->m.popup_input = input;
    f->m.prompt = "› ";
    f->m.list = (struct ui_rows){rows, 3, 1, &scroll, "none", 0};
    f->m.picker = f->m.list;
    f->m.popup_title = "A title 中文";
    f->m.popup_hint = "a hint";
    f->m.popup_text = "some text\nand more";
    f->m.help_scroll = &help;
    f->m.notice = "a notice";
    f->m.list_wanted = true;
    f->m.now_ms = 1;
    for (int i = 0; i < 1500; i++) {
        int cols = 1 + (int)random_below(&r, i % 3 ? 30 : 220),
            rows_n = 1 + (int)random_below(&r, 60);
        f->m.popup = (enum ui_popup)random_below(&r, UI_POPUP_COUNT);
        f->m.focus = f->m.popup ? UI_FOCUS_POPUP : (enum ui_focus)random_below(&r, 3);
        f->m.running = random_below(&r, 2);
        f->m.dash_wanted = random_below(&r, 2);
        f->m.stats.phase = (enum stats_phase)random_below(&r, 5);
        cells_resize(f->c, cols, rows_n);
        view_draw(&f->m, f->v, f->c);
    }
    editor_free(ed);
    editor_free(input);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(markdown__blocks__table),
        cmocka_unit_test(markdown__code__is_kept_for_copying),
        cmocka_unit_test(markdown__streaming__equals_rendering_at_once),
        cmocka_unit_test(markdown__any_text__fits_and_steers_nothing),
        cmocka_unit_test(markdown__deep_nesting__is_flattened),
        cmocka_unit_test_setup_teardown(view_chat__anchor__stays_put_while_streaming, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(view_chat__resize__keeps_the_place, setup, teardown),
        cmocka_unit_test_setup_teardown(view_chat__thinking__is_folded, setup, teardown),
        cmocka_unit_test_setup_teardown(view_draw__any_size__never_fails, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
