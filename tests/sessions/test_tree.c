/* Conversations and their trees through the public contract. */
#include "tests/sessions/store_test.h"

static void expect_path(struct sessions *s, int64_t id, const char *want)
{
    char *got = store_path_text(s, id);
    assert_string_equal(got, want);
    free(got);
}

static void sessions__create__lists_newest_first(void **state)
{
    struct sessions *s = store_new();
    int64_t a, b;
    CHECK_OK(sessions_create(s, "m1", &a, &err_seen));
    CHECK_OK(sessions_create(s, "m2", &b, &err_seen));
    CHECK_OK(sessions_rename(s, b, "second", &err_seen));
    store_say(s, a, 0, "user", "later");
    struct sessions_row *rows;
    int32_t n;
    CHECK_OK(sessions_list(s, 0, &rows, &n, &err_seen));
    assert_int_equal(n, 2);
    int ia = rows[0].id == a ? 0 : 1;
    assert_true(rows[ia].updated_ms >= rows[1 - ia].updated_ms);
    assert_string_equal(rows[ia].title, "");
    assert_string_equal(rows[ia].model, "m1");
    assert_string_equal(rows[1 - ia].title, "second");
    assert_int_equal(rows[ia].n_message, 1);
    assert_null(rows[0].snippet);
    sessions_rows_free(rows, n);
    CHECK_OK(sessions_list(s, 1, &rows, &n, &err_seen));
    assert_int_equal(n, 1);
    sessions_rows_free(rows, n);
    sessions_close(s);
}

static void sessions__reopen__everything_is_there(void **state)
{
    struct sessions *s = store_new();
    int64_t id;
    int32_t ids[3] = {1, -7, 123456};
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t u = store_say(s, id, 0, "user", "hello");
    sessions_set_ids(s, u, ids, 3);
    int64_t a = store_answer(s, id, u, "hi there", 10, 5);
    sessions_set_setting(s, "theme", "dark");
    sessions_close(s);

    s = store_new();
    struct sessions_message *m;
    int32_t n;
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(n, 2);
    assert_int_equal(m[0].id, u);
    assert_int_equal(m[0].parent, 0);
    assert_true(m[0].done);
    assert_int_equal(m[0].n_id, 3);
    assert_memory_equal(m[0].ids, ids, sizeof ids);
    assert_int_equal(m[1].id, a);
    assert_int_equal(m[1].parent, u);
    assert_string_equal(m[1].text, "hi there");
    assert_int_equal(m[1].len, 8);
    assert_string_equal(m[1].stop, "eos");
    assert_int_equal(m[1].n_id, 5);
    assert_true(m[1].done);
    sessions_messages_free(m, n);
    struct sessions_row row;
    CHECK_OK(sessions_get(s, id, &row, &err_seen));
    assert_int_equal(row.n_message, 2);
    assert_int_equal(row.n_tok, 8);
    free(row.title);
    free(row.model);
    /* a branch that nobody has read: unknown, not none */
    store_say(s, id, 0, "user", "another beginning");
    CHECK_OK(sessions_get(s, id, &row, &err_seen));
    assert_int_equal(row.n_message, 1);
    assert_int_equal(row.n_tok, -1);
    free(row.title);
    free(row.model);
    char *v;
    CHECK_OK(sessions_setting(s, "theme", &v, &err_seen));
    assert_string_equal(v, "dark");
    free(v);
    sessions_set_setting(s, "theme", NULL);
    CHECK_OK(sessions_setting(s, "theme", &v, &err_seen));
    assert_null(v);
    sessions_close(s);
}

static void sessions__add__any_bytes_come_back(void **state)
{
    struct sessions *s = store_new();
    const char text[] = "a\0b\xff\xc3( \xf0\x9f\x90\xb6\n";
    int64_t id, m;
    CHECK_OK(sessions_create(s, "", &id, &err_seen));
    CHECK_OK(sessions_add(s, id, 0, "user", text, sizeof text - 1, &m, &err_seen));
    struct sessions_message *got;
    int32_t n;
    CHECK_OK(sessions_path_load(s, id, &got, &n, &err_seen));
    assert_int_equal(got[0].len, sizeof text - 1);
    assert_memory_equal(got[0].text, text, sizeof text);
    sessions_messages_free(got, n);
    sessions_close(s);
}

static void sessions__stream__last_flush_survives_without_finish(void **state)
{
    struct sessions *s = store_new();
    int64_t id;
    int32_t ids[4] = {4, 5, 6, 7};
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t u = store_say(s, id, 0, "user", "q");
    int64_t a = store_say(s, id, u, "assistant", "");
    sessions_stream(s, a, "one", 3, ids, 1);
    sessions_stream(s, a, "one two", 7, ids, 2);
    sessions_stream(s, a, "one two three", 13, ids, 4);
    CHECK_OK(sessions_flush(s, &err_seen));
    sessions_close(s);
    s = store_new();
    struct sessions_message *m;
    int32_t n;
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(n, 2);
    assert_string_equal(m[1].text, "one two three");
    assert_int_equal(m[1].n_id, 4);
    assert_false(m[1].done);
    sessions_messages_free(m, n);
    /* A cut answer can be found, and finished after all. */
    struct sessions_row *rows;
    CHECK_OK(sessions_search(s, "three", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 1);
    sessions_rows_free(rows, n);
    sessions_finish(s, a, "four", 4, ids, 1, "cancel");
    CHECK_OK(sessions_search(s, "three", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 0);
    CHECK_OK(sessions_search(s, "four", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 1);
    sessions_rows_free(rows, n);
    sessions_close(s);
}

static void sessions__sibling__walks_alternatives(void **state)
{
    struct sessions *s = store_new();
    int64_t id, to;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t u = store_say(s, id, 0, "user", "q");
    int64_t a = store_answer(s, id, u, "a", 0, 1);
    int64_t b = store_answer(s, id, u, "b", 0, 1);
    int64_t c = store_say(s, id, b, "user", "q2");
    int64_t d = store_answer(s, id, c, "d", 0, 1);
    int64_t v = store_say(s, id, 0, "user", "edited");
    CHECK_OK(sessions_sibling(s, id, a, 1, &to, &err_seen));
    assert_int_equal(to, b);
    CHECK_OK(sessions_sibling(s, id, b, -1, &to, &err_seen));
    assert_int_equal(to, a);
    CHECK_OK(sessions_sibling(s, id, b, 1, &to, &err_seen));
    assert_int_equal(to, 0);
    CHECK_OK(sessions_sibling(s, id, v, -1, &to, &err_seen));
    assert_int_equal(to, u);
    expect_path(s, id, "user:edited");
    CHECK_OK(sessions_set_leaf(s, id, u, false, &err_seen));
    expect_path(s, id, "user:q|assistant:b|user:q2|assistant:d");
    struct sessions_message *m;
    int32_t n;
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(m[0].n_sibling, 2);
    assert_int_equal(m[0].sibling, 0);
    assert_int_equal(m[1].n_sibling, 2);
    assert_int_equal(m[1].sibling, 1);
    assert_int_equal(m[3].id, d);
    assert_int_equal(m[3].n_sibling, 1);
    sessions_messages_free(m, n);
    CHECK_OK(sessions_set_leaf(s, id, a, false, &err_seen));
    expect_path(s, id, "user:q|assistant:a");
    CHECK_OK(sessions_set_leaf(s, id, u, true, &err_seen));
    expect_path(s, id, "user:q");
    CHECK_OK(sessions_set_leaf(s, id, 0, false, &err_seen));
    expect_path(s, id, "");
    sessions_close(s);
}

static void sessions__fork__shares_ancestors_and_nothing_else(void **state)
{
    struct sessions *s = store_new();
    int64_t a, b, to;
    CHECK_OK(sessions_create(s, "m", &a, &err_seen));
    int64_t u = store_say(s, a, 0, "user", "q");
    int64_t x = store_answer(s, a, u, "x", 0, 1);
    int64_t u2 = store_say(s, a, x, "user", "q2");
    CHECK_OK(sessions_fork(s, a, x, &b, &err_seen));
    expect_path(s, b, "user:q|assistant:x");
    int64_t v2 = store_say(s, b, x, "user", "other");
    expect_path(s, a, "user:q|assistant:x|user:q2");
    expect_path(s, b, "user:q|assistant:x|user:other");
    CHECK_OK(sessions_sibling(s, a, u2, 1, &to, &err_seen));
    assert_int_equal(to, 0);
    CHECK_OK(sessions_sibling(s, b, v2, -1, &to, &err_seen));
    assert_int_equal(to, 0);
    /* An edit of a shared message inside the fork is an alternative there only. */
    int64_t y = store_answer(s, b, u, "y", 0, 1);
    CHECK_OK(sessions_sibling(s, b, y, -1, &to, &err_seen));
    assert_int_equal(to, x);
    CHECK_OK(sessions_sibling(s, b, x, 1, &to, &err_seen));
    assert_int_equal(to, y);
    CHECK_OK(sessions_sibling(s, a, x, 1, &to, &err_seen));
    assert_int_equal(to, 0);
    int64_t w = store_say(s, b, 0, "user", "root edit");
    CHECK_OK(sessions_sibling(s, b, w, -1, &to, &err_seen));
    assert_int_equal(to, u);
    /* What a conversation does not see cannot be used in it. */
    int64_t m;
    assert_int_equal(sessions_add(s, b, u2, "user", "z", 1, &m, &err_seen), ERR_NOT_FOUND);
    assert_int_equal(sessions_set_leaf(s, a, v2, true, &err_seen), ERR_NOT_FOUND);
    assert_int_equal(sessions_fork(s, a, y, &m, &err_seen), ERR_NOT_FOUND);
    sessions_close(s);
}

static void expect_fork_title(struct sessions *s, int64_t origin, const char *want, int64_t *ret)
{
    struct sessions_message *m;
    struct sessions_row row;
    int32_t n;
    CHECK_OK(sessions_path_load(s, origin, &m, &n, &err_seen));
    CHECK_OK(sessions_fork(s, origin, m[0].id, ret, &err_seen));
    sessions_messages_free(m, n);
    CHECK_OK(sessions_get(s, *ret, &row, &err_seen));
    assert_string_equal(row.title, want);
    free(row.title);
    free(row.model);
}

static void sessions__fork__gets_a_title_of_its_own(void **state)
{
    struct sessions *s = store_new();
    struct sessions_row *rows;
    int32_t n;
    int64_t a, b, c, d;
    CHECK_OK(sessions_create(s, "m", &a, &err_seen));
    store_say(s, a, 0, "user", "q");
    expect_fork_title(s, a, "", &b); /* untitled: nothing to number */
    CHECK_OK(sessions_rename(s, a, "Plans (2024)", &err_seen)); /* a year: this is no fork */
    expect_fork_title(s, a, "Plans (2024) (2)", &b);
    expect_fork_title(s, a, "Plans (2024) (3)", &c);
    expect_fork_title(s, b, "Plans (2024) (4)", &d);
    CHECK_OK(sessions_delete(s, c, &err_seen));
    expect_fork_title(s, b, "Plans (2024) (3)", &c); /* free again */
    expect_fork_title(s, c, "Plans (2024) (5)", &d);
    CHECK_OK(sessions_rename(s, d, "Later (x)", &err_seen));
    expect_fork_title(s, d, "Later (x) (2)", &d);
    CHECK_OK(sessions_search(s, "later", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 2);
    sessions_rows_free(rows, n);
    sessions_close(s);
}

static void sessions__delete__keeps_what_forks_use(void **state)
{
    struct sessions *s = store_new();
    int64_t a, b, c, to;
    CHECK_OK(sessions_create(s, "m", &a, &err_seen));
    int64_t u = store_say(s, a, 0, "user", "shared question");
    int64_t x = store_answer(s, a, u, "shared answer", 0, 1);
    store_say(s, a, x, "user", "private");
    CHECK_OK(sessions_fork(s, a, x, &b, &err_seen));
    CHECK_OK(sessions_fork(s, b, u, &c, &err_seen));
    CHECK_OK(sessions_delete(s, a, &err_seen));
    expect_path(s, b, "user:shared question|assistant:shared answer");
    expect_path(s, c, "user:shared question");
    struct sessions_row *rows;
    int32_t n;
    CHECK_OK(sessions_search(s, "private", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 0);
    sessions_rows_free(rows, n);
    CHECK_OK(sessions_search(s, "shared", 0, &rows, &n, &err_seen));
    assert_int_equal(n, 1);
    assert_int_equal(rows[0].id, b);
    sessions_rows_free(rows, n);
    CHECK_OK(sessions_sibling(s, c, u, 1, &to, &err_seen));
    assert_int_equal(to, 0);
    CHECK_OK(sessions_delete(s, b, &err_seen));
    expect_path(s, c, "user:shared question");
    struct sessions_message *m;
    assert_int_equal(sessions_path_load(s, a, &m, &n, &err_seen), ERR_NOT_FOUND);
    assert_int_equal(sessions_delete(s, a, &err_seen), ERR_NOT_FOUND);
    CHECK_OK(sessions_delete(s, c, &err_seen));
    CHECK_OK(sessions_list(s, 0, &rows, &n, &err_seen));
    assert_int_equal(n, 0);
    sessions_close(s);
}

static void sessions__search__any_input_is_safe(void **state)
{
    struct sessions *s = store_new();
    int64_t id;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    CHECK_OK(sessions_rename(s, id, "Garden plans", &err_seen));
    store_say(s, id, 0, "user", "The quick brown fox jumps over the lazy dog; Café au lait");
    static const struct {
        const char *query;
        int32_t n;
    } cases[] = {
        {"quick dog", 1},
        {"dog quick", 1},
        {"\"quick brown\"", 1},
        {"\"brown quick\"", 0},
        {"qui", 1},
        {"qui ", 0},
        {"cafe", 1},
        {"CAFÉ", 1},
        {"garden", 1},
        {"fox cat", 0},
        {"", 0},
        {"   ", 0},
        {"\"", 0},
        {"\"\"", 0},
        {"fox AND", 0},
        {"NEAR(fox dog)", 0},
        {"text:fox", 0},
        {"fox*", 1},
        {"* - ^ fox", 1},
        {"(((", 0},
        {"fox' OR 1=1", 0},
        {"\xff\xfe fox", 1},
        {"!!! fox ???", 1},
        {"\"fox", 1},
        {"fox \"lazy dog", 1},
        {"-fox", 1},
        {"{a b}:fox", 0},
        {"fo\x01x", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sessions_row *rows;
        int32_t n;
        CHECK_OK(sessions_search(s, cases[i].query, 10, &rows, &n, &err_seen));
        if (n != cases[i].n)
            fail_msg("query <%s>: %d rows, expected %d", cases[i].query, n, cases[i].n);
        sessions_rows_free(rows, n);
    }
    struct sessions_row *rows;
    int32_t n;
    CHECK_OK(sessions_search(s, "lazy", 10, &rows, &n, &err_seen));
    assert_non_null(strstr(rows[0].snippet, "\x02lazy\x03"));
    assert_true(rows[0].message > 0);
    sessions_rows_free(rows, n);
    CHECK_OK(sessions_search(s, "garden", 10, &rows, &n, &err_seen));
    assert_string_equal(rows[0].snippet, "\x02Garden\x03 plans");
    assert_int_equal(rows[0].message, 0);
    sessions_rows_free(rows, n);
    sessions_close(s);
}

static void sessions__search__finds_parts_of_unspaced_text(void **state)
{
    struct sessions *s = store_new();
    int64_t id;
    static const struct {
        const char *query;
        int32_t n;
    } cases[] = {{"花园", 1}, {"计划 2026", 1}, {"计划 2027", 0},     {"今天天气", 1},
                 {"明天", 0}, {"ねこ", 1},      {"\"花园 计划\"", 1}, {"花园\xff", 0}};
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    store_say(s, id, 0, "user", "今天天气很好，我们在花园里做计划。Plan 2026 とねこ。");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sessions_row *rows;
        int32_t n;
        CHECK_OK(sessions_search(s, cases[i].query, 10, &rows, &n, &err_seen));
        if (n != cases[i].n)
            fail_msg("query <%s>: %d rows, expected %d", cases[i].query, n, cases[i].n);
        if (i == 0)
            assert_non_null(strstr(rows[0].snippet, "在\x02花园\x03里"));
        sessions_rows_free(rows, n);
    }
    sessions_close(s);
}

static void sessions__vocab__leaves_out_ids_of_another_model(void **state)
{
    struct sessions *s = store_new();
    struct sessions_message *m;
    int64_t id;
    int32_t n, ids[2] = {1, 2};
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t old = store_say(s, id, 0, "user", "not recorded");
    sessions_set_ids(s, old, ids, 2);
    sessions_set_vocab(s, UINT64_C(0xf000000000000001));
    int64_t a = store_answer(s, id, old, "of one model", 5, 3);
    sessions_set_vocab(s, 2);
    store_answer(s, id, a, "of another", 7, 4);
    static const struct {
        uint64_t vocab;
        int32_t n_id[3];
    } cases[] = {
        {0, {2, 3, 4}}, {UINT64_C(0xf000000000000001), {2, 3, 0}}, {2, {2, 0, 4}}, {3, {2, 0, 0}}};
    sessions_set_ids(s, a, NULL, 0); /* of the other one then, ids or not */
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_null(m[1].ids);
    assert_true(m[1].ours);
    sessions_messages_free(m, n);
    sessions_set_vocab(s, UINT64_C(0xf000000000000001));
    sessions_finish(s, a, "of one model", 12, (int32_t[]){7, 7, 7}, 3, "eos");
    struct sessions_row row;
    CHECK_OK(sessions_get(s, id, &row, &err_seen));
    assert_int_equal(row.n_tok, 2 + 4); /* as the one that answered last counts them */
    free(row.title);
    free(row.model);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sessions_set_vocab(s, cases[i].vocab);
        CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
        for (int k = 0; k < 3; k++) {
            assert_int_equal(m[k].n_id, cases[i].n_id[k]);
            assert_int_equal(m[k].ids != NULL, cases[i].n_id[k] > 0);
        }
        sessions_messages_free(m, n);
    }
    sessions_close(s);
}

static void sessions__rename__unknown_id_is_an_error(void **state)
{
    struct sessions *s = store_new();
    int64_t m;
    assert_int_equal(sessions_rename(s, 99, "x", &err_seen), ERR_NOT_FOUND);
    assert_non_null(strstr(err_seen.text, "99"));
    assert_int_equal(sessions_pin(s, 99, true, &err_seen), ERR_NOT_FOUND);
    assert_int_equal(sessions_add(s, 99, 0, "user", "x", 1, &m, &err_seen), ERR_NOT_FOUND);
    assert_int_equal(sessions_add(s, 99, 0, "", "x", 1, &m, &err_seen), ERR_USAGE);
    struct sessions_row row;
    assert_int_equal(sessions_get(s, 99, &row, &err_seen), ERR_NOT_FOUND);
    sessions_close(s);
}

/* Figures of turns stay with their answers: one row each, along the open branch, gone with it. */
static void sessions__turns__stay_with_their_answers(void **state)
{
    struct sessions *s = store_new();
    struct sessions_turn *t;
    int32_t n;
    int64_t id;
    (void)state;
    CHECK_OK(sessions_create(s, "m", &id, &err_seen));
    int64_t q = store_say(s, id, 0, "user", "one");
    int64_t a = store_answer(s, id, q, "first", 300, 3);
    CHECK_OK(sessions_turns(s, id, &t, &n, &err_seen));
    assert_int_equal(n, 0);
    sessions_turns_free(t, n);
    sessions_turn_put(s, a, "{\"n\": 1}", "abc", 3);
    sessions_turn_put(s, a, "{\"n\": 2}", NULL, 0);
    sessions_turn_put(s, 999, "{}", NULL, 0); /* no such answer */
    int64_t b = store_answer(s, id, store_say(s, id, a, "user", "two"), "second", 310, 2);
    sessions_turn_put(s, b, "{\"n\": 3}", "wxyz", 4);
    CHECK_OK(sessions_turns(s, id, &t, &n, &err_seen));
    assert_int_equal(n, 2);
    assert_int_equal(t[0].message, a);
    assert_string_equal(t[0].figures, "{\"n\": 2}");
    assert_null(t[0].choices); /* only the last answer's */
    assert_int_equal(t[1].choices_bytes, 4);
    assert_memory_equal(t[1].choices, "wxyz", 4);
    assert_true(t[1].at_ms > 0);
    sessions_turns_free(t, n);
    CHECK_OK(sessions_set_leaf(s, id, a, true, &err_seen));
    CHECK_OK(sessions_turns(s, id, &t, &n, &err_seen));
    assert_int_equal(n, 1);
    assert_memory_equal(t[0].choices, "abc", 3);
    sessions_turns_free(t, n);
    CHECK_OK(sessions_delete(s, id, &err_seen));
    assert_int_equal(sessions_turns(s, id, &t, &n, &err_seen), ERR_NOT_FOUND);
    struct sessions_health h;
    CHECK_OK(sessions_check(s, false, &h, &err_seen));
    assert_string_equal(h.detail, "");
    sessions_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CASE(sessions__create__lists_newest_first),
        STORE_CASE(sessions__reopen__everything_is_there),
        STORE_CASE(sessions__add__any_bytes_come_back),
        STORE_CASE(sessions__stream__last_flush_survives_without_finish),
        STORE_CASE(sessions__sibling__walks_alternatives),
        STORE_CASE(sessions__fork__shares_ancestors_and_nothing_else),
        STORE_CASE(sessions__fork__gets_a_title_of_its_own),
        STORE_CASE(sessions__delete__keeps_what_forks_use),
        STORE_CASE(sessions__search__any_input_is_safe),
        STORE_CASE(sessions__search__finds_parts_of_unspaced_text),
        STORE_CASE(sessions__vocab__leaves_out_ids_of_another_model),
        STORE_CASE(sessions__rename__unknown_id_is_an_error),
        STORE_CASE(sessions__turns__stay_with_their_answers),
    };
    return cmocka_run_group_tests_name("tree", tests, NULL, NULL);
}
