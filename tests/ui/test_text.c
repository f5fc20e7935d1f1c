/* ui/text: clusters, widths, wrapping, cleaning; ui/cells: what gets into the grid. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "tests/ui/random.h"
#include "ui/cells.h"
#include "ui/text.h"

static void text__width__table(void **state)
{
    static const struct {
        const char *text;
        int width, n_cluster;
    } cases[] = {
        {"a", 1, 1},
        {"abc", 3, 3},
        {"é", 1, 1},
        {"e\xCC\x81", 1, 1}, /* combining acute */
        {"\xCC\x81", 1, 1},  /* a mark alone still takes a place */
        {"中", 2, 1},
        {"中文字", 6, 3},
        {"ｶﾅ", 2, 2}, /* half-width kana */
        {"Ａ", 2, 1}, /* full-width A */
        {"한국", 4, 2},
        {"\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", 2, 1}, /* the same as conjoining jamo */
        {"❤", 1, 1},
        {"❤\xEF\xB8\x8F", 2, 1},             /* VS16 makes it an emoji */
        {"1\xEF\xB8\x8F\xE2\x83\xA3", 2, 1}, /* keycap */
        {"👍", 2, 1},
        {"👍🏽", 2, 1},           /* skin tone */
        {"👨‍👩‍👧", 2, 1}, /* ZWJ family */
        {"🇩🇪", 2, 1},
        {"🇩🇪🇫🇷", 4, 2},
        {"🇩", 1, 1},
        {"α", 1, 1}, /* ambiguous is narrow */
        {"─", 1, 1},
        {"\xE2\x80\x8B", 0, 1}, /* zero width space */
        {"\x1B", 0, 1},
        {"\xC2\x9B", 0, 1},     /* C1 */
        {"\xE2\x80\xAE", 0, 1}, /* right-to-left override */
        {"\xFF", 1, 1},         /* invalid byte */
        {"\xE4\xB8", 2, 2},     /* cut short */
        {"का", 2, 1},           /* spacing vowel sign */
        {"", 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].text);
        int width = 0, clusters = 0;
        for (size_t off = 0; off < n; clusters++) {
            int w;
            size_t len = text_next(cases[i].text + off, n - off, &w);
            assert_in_range(len, 1, n - off);
            width += w;
            off += len;
        }
        if (width != cases[i].width || clusters != cases[i].n_cluster)
            fail_msg("\"%s\": %d columns in %d clusters, expected %d in %d", cases[i].text, width,
                     clusters, cases[i].width, cases[i].n_cluster);
        assert_int_equal(text_width(cases[i].text, n), cases[i].width);
    }
    assert_int_equal(text_width("\ta", 2), TEXT_TAB + 1);
    assert_int_equal(text_width("abc\td", 5), TEXT_TAB + 1);
}

static void text__prev__inverts_next(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct random r = {seed};
        struct str s = {0};
        for (int i = 0; i < 20; i++)
            random_piece(&r, &s, 1);
        size_t starts[400], n = 0;
        for (size_t off = 0; off < s.len;) {
            int w;
            starts[n++] = off;
            off += text_next(s.data + off, s.len - off, &w);
        }
        size_t at = s.len;
        while (n > 0) {
            at -= text_prev(s.data, at);
            if (at != starts[--n])
                fail_msg("seed %d: cluster starts at %zu, found %zu", (int)seed, starts[n], at);
        }
        assert_int_equal(at, 0);
        str_fini(&s);
    }
}

static void text__wrap__table(void **state)
{
    static const struct {
        const char *text;
        int width;
        const char *lines;
    } cases[] = {
        {"the quick brown fox", 10, "the quick|brown fox"},
        {"the quick brown fox", 9, "the quick|brown fox"},
        {"the quick  brown", 9, "the quick|brown"},
        {"abcdefghij", 4, "abcd|efgh|ij"},
        {"ab abcdefgh", 4, "ab|abcd|efgh"},
        {"a\n\nb", 10, "a||b"},
        {"well-known", 6, "well-|known"},
        {"中文字符", 5, "中文|字符"},
        {"ab中文", 4, "ab中|文"},
        {"中", 1, "中"},
        {"  indented text", 10, "  indented|text"},
        {"-- option", 4, "--|opti|on"},
        {"word ", 4, "word"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *s = cases[i].text;
        size_t n = strlen(s), off = 0;
        struct str got = {0};
        while (off < n) {
            size_t next, len = text_wrap(s + off, n - off, cases[i].width, false, &next);
            if (off > 0)
                str_addc(&got, '|');
            str_add(&got, s + off, len);
            assert_true(next > 0 && off + next <= n);
            off += next;
        }
        assert_string_equal(str_c(&got), cases[i].lines);
        str_fini(&got);
    }
}

static void text__wrap__never_too_wide_never_loses(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct random r = {seed};
        struct str s = {0};
        for (int i = 0; i < 40; i++)
            random_piece(&r, &s, 0);
        int width = 1 + (int)random_below(&r, 30);
        for (int keep = 0; keep < 2; keep++) {
            size_t covered = 0;
            for (size_t off = 0; off < s.len;) {
                size_t next, len = text_wrap(s.data + off, s.len - off, width, keep, &next);
                assert_true(len <= next && next > 0 && off + next <= s.len);
                int w = text_width(s.data + off, len), first;
                /* Too wide only when one cluster (or, to be edited, spaces at the end) is. */
                size_t one = text_next(s.data + off, s.len - off, &first);
                size_t trimmed = len;
                while (trimmed > 0 && strchr(" \t", s.data[off + trimmed - 1]))
                    trimmed--;
                if (text_width(s.data + off, trimmed) > width && trimmed > one &&
                    !strchr(" \t", s.data[off]))
                    fail_msg("seed %d: %d columns in a line of %d", (int)seed, w, width);
                for (size_t i = off + len; i < off + next; i++) /* only spaces are left out */
                    assert_non_null(strchr(keep ? "\n" : " \t\n", s.data[i]));
                covered += next;
                off += next;
            }
            assert_int_equal(covered, s.len);
        }
        str_fini(&s);
    }
}

static void text__clean__removes_what_steers(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"a\x1B[31mred\x1B[0m", "ared"},
        {"a\x1B]0;title\x07z", "az"},
        {"a\x1B]8;;http://x\x1B\\link", "alink"},
        {"a\x1BPq#1\x1B\\b", "ab"},
        {"a\x1B]52;c;AAAA", "a"},
        {"a\x1B]open\nnext line stays", "a\nnext line stays"},
        {"a\x1B(Bb", "ab"},
        {"a\x1B"
         "7b",
         "ab"},
        {"a\x9B"
         "31m",
         "a\xEF\xBF\xBD"
         "31m"}, /* a lone byte is invalid UTF-8, not CSI */
        {"a\xC2\x9B"
         "31m",
         "a31m"},
        {"a\xE2\x80\xAE"
         "b",
         "ab"},
        {"a\r\nb\rc", "a\nb\nc"},
        {"a\x08\x7F\x00"
         "b",
         "a"},
        {"tab\tstays\n", "tab\tstays\n"},
        {"\xFFx", "\xEF\xBF\xBDx"},
        {"\x1B", ""},
        {"e\xCC\x81👨‍👩‍👧", "e\xCC\x81👨‍👩‍👧"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str s = {0};
        text_clean(&s, cases[i].in, strlen(cases[i].in));
        assert_string_equal(str_c(&s), cases[i].out);
        str_fini(&s);
    }
}

static void text__clean__leaves_no_control(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct random r = {seed};
        struct str in = {0}, out = {0}, again = {0};
        for (int i = 0; i < 60; i++) {
            random_piece(&r, &in, 1);
            if (random_below(&r, 3) == 0)
                str_addc(&in, (char)random_below(&r, 256));
        }
        text_clean(&out, in.data, in.len);
        assert_true(utf8_valid(str_c(&out), out.len));
        for (size_t i = 0; i < out.len;) {
            uint32_t cp;
            i += (size_t)utf8_decode(out.data + i, out.len - i, &cp);
            bool control = (cp < 0x20 && cp != '\n' && cp != '\t') || (cp >= 0x7F && cp < 0xA0);
            if (control || (cp >= 0x202A && cp <= 0x202E))
                fail_msg("seed %d: U+%04X got through", (int)seed, (unsigned)cp);
        }
        text_clean(&again, str_c(&out), out.len);
        assert_string_equal(str_c(&again), str_c(&out));
        str_fini(&in);
        str_fini(&out);
        str_fini(&again);
    }
}

static void text__ellipsis__fits(void **state)
{
    static const struct {
        const char *in;
        int width;
        const char *out;
    } cases[] = {{"short", 10, "short"}, {"exact", 5, "exact"}, {"too long", 5, "too…"},
                 {"中文字", 5, "中文…"}, {"中文字", 4, "中…"},  {"abc", 0, ""},
                 {"abc", 1, "…"},         {"a title (12)", 11, "a tit… (12)"},
                 {"a title (12)", 9, "a title…"}, {"a title (b)", 9, "a title…"}, {" (2)", 2, "…"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str s = {0};
        text_ellipsis(&s, cases[i].in, strlen(cases[i].in), cases[i].width);
        assert_string_equal(str_c(&s), cases[i].out);
        str_fini(&s);
    }
}

/* ---- cells ---- */

static void cells__put__wide_halves_never_dangle(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct random r = {seed};
        struct cells *c = cells_new(20, 3);
        for (int i = 0; i < 40; i++) {
            struct str s = {0};
            random_piece(&r, &s, 1);
            struct rect clip = {(int)random_below(&r, 20), 0, (int)random_below(&r, 20), 3};
            cells_put(c, clip, (int)random_below(&r, 26) - 4, (int)random_below(&r, 4), s.data,
                      s.len, 1, 0, 0);
            str_fini(&s);
            for (int y = 0; y < 3; y++)
                for (int x = 0; x < 20; x++) {
                    const struct cell *p = cells_at(c, x, y);
                    bool right = x > 0 && cells_at(c, x - 1, y)->width == 2;
                    if ((p->width == 0) != right || (p->width == 2 && x == 19) ||
                        (p->width > 0 && (p->len == 0 || (unsigned char)p->text[0] < 0x20)))
                        fail_msg("seed %d: cell %d,%d is broken", (int)seed, x, y);
                }
        }
        cells_free(c);
    }
}

static void cells__put__clips_and_counts(void **state)
{
    (void)state;
    struct cells *c = cells_new(10, 2);
    struct rect all = {0, 0, 10, 2};
    struct str row = {0};
    assert_int_equal(cells_puts(c, all, 7, 0, "中中中", 0, 0, 0), 6);
    cells_row(c, 0, &row);
    assert_string_equal(str_c(&row), "       中"); /* the second does not fit whole */
    str_clear(&row);
    cells_puts(c, (struct rect){2, 1, 3, 1}, 0, 1, "abcdefgh", 0, 0, 0);
    cells_row(c, 1, &row);
    assert_string_equal(str_c(&row), "  cde");
    str_clear(&row);
    cells_puts(c, all, 0, 1, "\x1B[2J\x01x", 0, 0, 0);
    cells_row(c, 1, &row);
    assert_string_equal(str_c(&row), "[2Jxe");
    str_fini(&row);
    cells_free(c);
}

static void cells__damage__is_the_difference(void **state)
{
    (void)state;
    struct cells *c = cells_new(10, 3);
    struct rect all = {0, 0, 10, 3};
    int x0, x1;
    assert_true(cells_damage(c, 0, &x0, &x1)); /* new: everything */
    cells_shown(c);
    assert_false(cells_damage(c, 0, &x0, &x1));
    cells_puts(c, all, 3, 1, "xy", 0, 0, 0);
    assert_false(cells_damage(c, 0, &x0, &x1));
    assert_true(cells_damage(c, 1, &x0, &x1));
    assert_int_equal(x0, 3);
    assert_int_equal(x1, 4);
    cells_clear(c); /* drawing the same again is no damage */
    assert_false(cells_damage(c, 1, &x0, &x1));
    cells_resize(c, 5, 2);
    assert_true(cells_damage(c, 1, &x0, &x1));
    assert_int_equal(x1, 4);
    cells_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text__width__table),
        cmocka_unit_test(text__prev__inverts_next),
        cmocka_unit_test(text__wrap__table),
        cmocka_unit_test(text__wrap__never_too_wide_never_loses),
        cmocka_unit_test(text__clean__removes_what_steers),
        cmocka_unit_test(text__clean__leaves_no_control),
        cmocka_unit_test(text__ellipsis__fits),
        cmocka_unit_test(cells__put__wide_halves_never_dangle),
        cmocka_unit_test(cells__put__clips_and_counts),
        cmocka_unit_test(cells__damage__is_the_difference),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
