/* engine/base: strings, UTF-8, queue, errors, memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "engine/base/err.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "engine/base/str.h"
#include "engine/base/thought.h"
#include "engine/base/utf8.h"

static void str__edit__keeps_terminator(void **state)
{
    (void)state;
    struct str s = {0};
    assert_string_equal(str_c(&s), "");
    str_adds(&s, "hello world");
    str_cut(&s, 5, 1);
    assert_string_equal(str_c(&s), "helloworld");
    str_insert(&s, 5, ", ", 2);
    assert_string_equal(str_c(&s), "hello, world");
    str_cut(&s, 5, 1000);
    assert_string_equal(str_c(&s), "hello");
    str_cut(&s, 99, 1);
    str_insert(&s, 99, "!", 1);
    assert_string_equal(str_c(&s), "hello!");
    str_addf(&s, "%d-%s", 42, "x");
    assert_string_equal(str_c(&s), "hello!42-x");
    char *taken = str_take(&s);
    assert_string_equal(taken, "hello!42-x");
    assert_int_equal(s.len, 0);
    free(taken);
    char *empty = str_take(&s);
    assert_string_equal(empty, "");
    free(empty);
}

static void utf8__decode__rejects_what_is_not_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        int len;
        uint32_t cp;
    } cases[] = {
        {"a", 1, 'a'},
        {"\xc3\xa9", 2, 0xe9},
        {"\xe2\x82\xac", 3, 0x20ac},
        {"\xf0\x9f\x98\x80", 4, 0x1f600},
        {"\xc0\x80", 1, 0xfffd},         /* overlong */
        {"\xe0\x80\x80", 1, 0xfffd},     /* overlong */
        {"\xed\xa0\x80", 1, 0xfffd},     /* surrogate */
        {"\xf4\x90\x80\x80", 1, 0xfffd}, /* past U+10FFFF */
        {"\xff", 1, 0xfffd},
        {"\x80", 1, 0xfffd},
        {"\xe2\x82", 1, 0xfffd}, /* truncated */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t cp = 1;
        assert_int_equal(utf8_decode(cases[i].s, strlen(cases[i].s), &cp), cases[i].len);
        assert_int_equal(cp, cases[i].cp);
    }
    assert_true(utf8_valid("gr\xc3\xbc\xc3\x9f\xef\xbf\xbd", 9));
    assert_false(utf8_valid("a\xc3", 2));
    assert_int_equal(utf8_valid_len("a\xc3\xbc\xff", 4), 3);
    assert_int_equal(utf8_valid_len("a\xc3\xbc", 3), 3);
}

static void utf8__encode__is_the_inverse_of_decode(void **state)
{
    (void)state;
    for (uint32_t cp = 1; cp < 0x110000; cp += cp < 0x3000 ? 1 : 97) {
        if (cp >= 0xd800 && cp <= 0xdfff)
            continue;
        char out[4];
        uint32_t back;
        int n = utf8_encode(cp, out);
        assert_int_equal(utf8_decode(out, (size_t)n, &back), n);
        assert_int_equal(back, cp);
        for (int cut = 1; cut < n; cut++)
            assert_int_equal(utf8_complete(out, (size_t)cut), 0);
        assert_int_equal(utf8_complete(out, (size_t)n), n);
    }
}

static void utf8__complete__holds_back_only_a_valid_start(void **state)
{
    (void)state;
    assert_int_equal(utf8_complete("ab\xe2\x82", 4), 2);
    assert_int_equal(utf8_complete("ab\xed\xa0", 4), 4); /* can never become valid */
    assert_int_equal(utf8_complete("\x80\x80\x80\x80", 4), 4);
    assert_int_equal(utf8_complete("", 0), 0);
}

static void str__add_utf8__marks_each_byte_that_is_none(void **state)
{
    (void)state;
    struct str s = {0};
    static const char bytes[] = "a\0\xc3\xbc\xff\xe2\x82\xef\xbf\xbd\xc3";
    static const char want[] = "a\0\xc3\xbc\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd";
    str_add_utf8(&s, bytes, sizeof bytes - 1);
    assert_int_equal(s.len, sizeof want - 1);
    assert_memory_equal(s.data, want, sizeof want);
    str_add_utf8(&s, "", 0);
    assert_int_equal(s.len, sizeof want - 1);
    str_fini(&s);
}

static void err__set__strips_control_bytes(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(err_set(&e, ERR_FORMAT, "bad \033[31m name"), ERR_FORMAT);
    assert_string_equal(e.text, "bad ?[31m name");
    assert_int_equal(err_prefix(&e, "file %d", 7), ERR_FORMAT);
    assert_string_equal(e.text, "file 7: bad ?[31m name");
}

static void mem__mul__finds_overflow(void **state)
{
    (void)state;
    uint64_t r = 5;
    assert_true(mem_mul(1u << 31, 1u << 31, &r));
    assert_int_equal(r, UINT64_C(1) << 62);
    assert_false(mem_mul(UINT64_MAX, 2, &r));
    assert_int_equal(r, UINT64_C(1) << 62);
}

enum { N_ITEM = 20000, N_PRODUCER = 3 };

struct producer {
    struct queue *q;
    int first;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 0; i < N_ITEM; i++) {
        int *v = mem_alloc(sizeof *v);
        *v = p->first + i;
        queue_push(p->q, v);
    }
    return NULL;
}

static void queue__many_producers__nothing_lost_and_ordered(void **state)
{
    (void)state;
    struct queue *q = queue_new(NULL, NULL);
    pthread_t threads[N_PRODUCER];
    struct producer p[N_PRODUCER];
    for (int i = 0; i < N_PRODUCER; i++) {
        p[i] = (struct producer){q, i * N_ITEM};
        pthread_create(&threads[i], NULL, produce, &p[i]);
    }
    int last[N_PRODUCER] = {-1, N_ITEM - 1, 2 * N_ITEM - 1};
    for (int n = 0; n < N_PRODUCER * N_ITEM; n++) {
        int *v = queue_wait(q, 10000);
        assert_non_null(v);
        int who = *v / N_ITEM;
        assert_int_equal(*v, last[who] + 1);
        last[who] = *v;
        free(v);
    }
    for (int i = 0; i < N_PRODUCER; i++)
        pthread_join(threads[i], NULL);
    assert_null(queue_pop(q));
    assert_null(queue_wait(q, 5));
    queue_free(q, free);
}

static void count_wake(void *ctx)
{
    ++*(int *)ctx;
}

static void queue__wake__fires_once_per_burst(void **state)
{
    (void)state;
    int wakes = 0;
    struct queue *q = queue_new(count_wake, &wakes);
    for (int i = 0; i < 5; i++)
        queue_push(q, mem_alloc(1));
    assert_int_equal(wakes, 1);
    void *item;
    while ((item = queue_pop(q)))
        free(item);
    queue_push(q, mem_alloc(1));
    assert_int_equal(wakes, 2);
    queue_free(q, free);
}

static void thought__split__tells_thoughts_from_the_answer(void **state)
{
    static const struct {
        const char *text, *thought, *answer; /* thought NULL = none */
        bool growing, open;
    } cases[] = {
        {"Hello.", NULL, "Hello.", false, false},
        {"", NULL, "", true, false},
        {"<think>a</think>4.", "a", "4.", false, false},
        {"\n<think>\n a\n\nb \n</think>\n\nThe answer.", "a\n\nb", "The answer.", false, false},
        {"<think></think>\n4.", "", "4.", false, false},
        {"<think>cut off", "cut off", "", false, true},
        {"<think>", "", "", true, true},
        {"<thi", NULL, "", true, false},
        {"<thi", NULL, "<thi", false, false},
        {"<thin ice", NULL, "<thin ice", true, false},
        {"<think>a < b</thin", "a < b", "", true, true},
        {"<think>a < b</thin", "a < b</thin", "", false, true},
        {"<think>a</b></think>c</think>d", "a</b>", "c</think>d", false, false},
        {"Say <think>a</think>", NULL, "Say <think>a</think>", false, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *s = cases[i].text, *want = cases[i].thought;
        struct thought t;
        thought_split(s, strlen(s), cases[i].growing, &t);
        assert_string_equal(s + t.rest, cases[i].answer);
        assert_int_equal(t.any, want != NULL);
        assert_int_equal(t.open, cases[i].open);
        assert_int_equal(t.len, want ? strlen(want) : 0);
        assert_memory_equal(s + t.off, want ? want : "", t.len);
    }
}

/* Whoever prints what either part grew by has printed all of it in the end. */
static void thought__split__what_was_told_stays_as_the_text_grows(void **state)
{
    static const char text[] = " <think>\nif a </ b\n\n</thin or not </think>\n\n<think> is a tag";
    size_t thought_len = 0, answer_len = 0;
    struct thought all, t;
    (void)state;
    thought_split(text, strlen(text), false, &all);
    for (size_t n = 0; n <= strlen(text); n++) {
        thought_split(text, n, true, &t);
        assert_in_range(t.len, thought_len, all.len);
        assert_true(t.len == 0 || t.off == all.off);
        assert_true(t.rest == n || t.rest == all.rest);
        assert_in_range(n - t.rest, answer_len, strlen(text) - all.rest);
        thought_len = t.len;
        answer_len = n - t.rest;
    }
    assert_int_equal(thought_len, all.len);
}

static void thought__quote__is_markdown(void **state)
{
    struct str s = {0};
    static const char text[] = "<think>one\n\ntwo</think>\n\nFour.";
    (void)state;
    thought_quote(text, strlen(text), &s);
    assert_string_equal(str_c(&s), "Thoughts\n\n> one\n>\n> two\n\nFour.");
    str_clear(&s);
    thought_quote("Plain.\n", 7, &s);
    assert_string_equal(str_c(&s), "Plain.\n");
    str_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(str__edit__keeps_terminator),
        cmocka_unit_test(utf8__decode__rejects_what_is_not_utf8),
        cmocka_unit_test(utf8__encode__is_the_inverse_of_decode),
        cmocka_unit_test(utf8__complete__holds_back_only_a_valid_start),
        cmocka_unit_test(str__add_utf8__marks_each_byte_that_is_none),
        cmocka_unit_test(err__set__strips_control_bytes),
        cmocka_unit_test(mem__mul__finds_overflow),
        cmocka_unit_test(queue__many_producers__nothing_lost_and_ordered),
        cmocka_unit_test(thought__split__tells_thoughts_from_the_answer),
        cmocka_unit_test(thought__split__what_was_told_stays_as_the_text_grows),
        cmocka_unit_test(thought__quote__is_markdown),
        cmocka_unit_test(queue__wake__fires_once_per_burst),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
