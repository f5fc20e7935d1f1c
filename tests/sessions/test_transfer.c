/* Export and import: JSON, Markdown, ChatGPT's conversations.json, the one-file form. */
#include "tests/sessions/store_test.h"

#include <sys/stat.h>

#include "engine/base/mem.h"

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A tree with an edit, two answers and odd characters; the open branch is the first answer. */
static int64_t sample(struct sessions *s, int64_t *ret_fork)
{
    int64_t id;
    CHECK_OK(sessions_create(s, "tiny model", &id, &err_seen));
    CHECK_OK(sessions_rename(s, id, "Größe \"quoted\" \x1b[31m", &err_seen));
    sessions_set_vocab(s, UINT64_C(0xfedcba9876543210));
    int64_t sys = store_say(s, id, 0, "system", "be brief");
    int64_t u = store_say(s, id, sys, "user", "line one\nline two \xf0\x9f\x90\xb6");
    int64_t a = store_answer(s, id, u, "first", 100, 7);
    store_answer(s, id, u, "second", 200, 3);
    CHECK_OK(sessions_set_leaf(s, id, a, true, &err_seen));
    CHECK_OK(sessions_fork(s, id, a, ret_fork, &err_seen));
    store_say(s, *ret_fork, a, "user", "in the fork");
    return id;
}

static void expect_sample(struct sessions *s, int64_t id)
{
    struct sessions_message *m;
    struct sessions_row row;
    int32_t n;
    sessions_set_vocab(s, UINT64_C(0xfedcba9876543210)); /* travels with the ids */
    CHECK_OK(sessions_path_load(s, id, &m, &n, &err_seen));
    assert_int_equal(n, 3);
    assert_string_equal(m[0].role, "system");
    assert_string_equal(m[1].text, "line one\nline two \xf0\x9f\x90\xb6");
    assert_string_equal(m[2].text, "first");
    assert_string_equal(m[2].stop, "eos");
    assert_int_equal(m[2].n_id, 7);
    assert_int_equal(m[2].ids[6], 106);
    assert_int_equal(m[2].n_sibling, 2);
    assert_int_equal(m[2].sibling, 0);
    sessions_messages_free(m, n);
    CHECK_OK(sessions_get(s, id, &row, &err_seen));
    assert_string_equal(row.title, "Größe \"quoted\" \x1b[31m");
    assert_string_equal(row.model, "tiny model");
    free(row.title);
    free(row.model);
}

static void export__json__comes_back_whole(void **state)
{
    struct sessions *s = store_new();
    struct sessions_imported got;
    int64_t fork;
    char *json;
    size_t n;
    sample(s, &fork);
    CHECK_OK(sessions_export(s, 0, SESSIONS_JSON, &json, &n, &err_seen));
    assert_int_equal(strlen(json), n);
    write_file(store_file("all.json"), json);
    free(json);
    CHECK_OK(sessions_import(s, store_file("all.json"), &got, &err_seen));
    assert_int_equal(got.n_conversation, 2);
    assert_int_equal(got.n_message, 4 + 4); /* the fork carries the three shared ones */
    expect_sample(s, got.first_id);
    char *text = store_path_text(s, got.first_id + 1);
    assert_non_null(strstr(text, "assistant:first|user:in the fork"));
    free(text);
    struct sessions_row *rows;
    int32_t n_row;
    CHECK_OK(sessions_search(s, "fork", 0, &rows, &n_row, &err_seen));
    assert_int_equal(n_row, 2);
    sessions_rows_free(rows, n_row);
    sessions_close(s);
}

static void export__markdown__shows_the_open_branch_without_controls(void **state)
{
    struct sessions *s = store_new();
    int64_t fork, id = sample(s, &fork);
    char *md;
    size_t n;
    CHECK_OK(sessions_export(s, id, SESSIONS_MARKDOWN, &md, &n, &err_seen));
    assert_int_equal(strncmp(md, "# Größe \"quoted\" \xef\xbf\xbd[31m\n", 27), 0);
    assert_non_null(strstr(md, ", tiny model*\n"));
    assert_non_null(strstr(md, "\n## System\n\nbe brief\n\n## You\n\nline one\nline two"));
    assert_non_null(strstr(md, "\n## Assistant\n\nfirst\n"));
    assert_null(strstr(md, "second"));
    assert_null(strchr(md, '\x1b'));
    free(md);
    assert_int_equal(sessions_export(s, 12345, SESSIONS_MARKDOWN, &md, &n, &err_seen),
                     ERR_NOT_FOUND);
    sessions_close(s);
}

static void export__file__carries_text_and_kv_exactly(void **state)
{
    struct sessions *s = store_new();
    int64_t fork, id = sample(s, &fork), m;
    const char bytes[] = "raw \xff\xfe\0 bytes";
    CHECK_OK(sessions_add(s, fork, 0, "user", bytes, sizeof bytes - 1, &m, &err_seen));
    const struct kv_io *io = sessions_kv_io(s);
    unsigned char page[30000];
    for (size_t i = 0; i < sizeof page; i++)
        page[i] = (unsigned char)(i * i >> 7);
    struct kv_piece p = {2, 0, 0, 3, page, sizeof page};
    io->put(io->ctx, id, 9, 64, 4711, &p, 1);
    struct kv_piece at_end = {5, 0, 70, KV_IO_STATE, page, sizeof page};
    io->put(io->ctx, id, 9, 70, 4712, &at_end, 1);
    CHECK_OK(sessions_export_file(s, id, store_file("one.dogear"), true, &err_seen));
    CHECK_OK(sessions_export_file(s, fork, store_file("two.dogear"), false, &err_seen));
    assert_int_equal(sessions_export_file(s, id, store_file("one.dogear"), true, &err_seen),
                     ERR_IO);
    struct stat sb;
    assert_int_equal(stat(store_file("one.dogear"), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    sessions_close(s);

    struct sessions *t;
    struct sessions_imported got;
    CHECK_OK(sessions_open(store_file("other.db"), &t, &err_seen));
    CHECK_OK(sessions_import(t, store_file("one.dogear"), &got, &err_seen));
    assert_int_equal(got.n_kv_piece, 2);
    expect_sample(t, got.first_id);
    io = sessions_kv_io(t);
    struct kv_piece back = {.layer = 2, .block = 0, .plane = 3};
    void *owned;
    assert_true(store_get(io, got.first_id, 9, 4711, &back, &owned));
    assert_int_equal(back.size_bytes, sizeof page);
    assert_memory_equal(back.data, page, sizeof page);
    free(owned);
    back = (struct kv_piece){.layer = 5, .block = 70, .plane = KV_IO_STATE};
    assert_true(store_get(io, got.first_id, 9, 4712, &back, &owned));
    assert_int_equal(back.size_bytes, sizeof page);
    assert_memory_equal(back.data, page, sizeof page);
    free(owned);
    CHECK_OK(sessions_import(t, store_file("two.dogear"), &got, &err_seen));
    assert_int_equal(got.n_kv_piece, 0);
    struct sessions_message *msg;
    int32_t n;
    CHECK_OK(sessions_path_load(t, got.first_id, &msg, &n, &err_seen));
    assert_int_equal(n, 1);
    assert_int_equal(msg[0].len, sizeof bytes - 1);
    assert_memory_equal(msg[0].text, bytes, sizeof bytes);
    sessions_messages_free(msg, n);
    sessions_close(t);
}

static void import__chatgpt__keeps_the_tree(void **state)
{
    static const char json[] =
        "[{\"title\":\"Trip\",\"create_time\":1700000000.5,\"update_time\":1700000100,"
        "\"current_node\":\"a2\",\"default_model_slug\":\"gpt-4\",\"mapping\":{"
        "\"root\":{\"id\":\"root\",\"message\":null,\"parent\":null,\"children\":[\"sys\"]},"
        "\"sys\":{\"message\":{\"author\":{\"role\":\"system\"},\"content\":{\"content_type\":"
        "\"text\",\"parts\":[\"\"]}},\"parent\":\"root\",\"children\":[\"u\"]},"
        "\"u\":{\"message\":{\"author\":{\"role\":\"user\"},\"create_time\":1700000001.25,"
        "\"content\":{\"content_type\":\"multimodal_text\",\"parts\":[{\"asset\":1},\"Where "
        "to?\"]}},"
        "\"parent\":\"sys\",\"children\":[\"a1\",\"t\"]},"
        "\"a1\":{\"message\":{\"author\":{\"role\":\"assistant\"},\"content\":{\"parts\":[\"Rome\"]"
        "}},"
        "\"parent\":\"u\",\"children\":[]},"
        "\"t\":{\"message\":{\"author\":{\"role\":\"tool\"},\"content\":{\"parts\":[\"search\"]}},"
        "\"parent\":\"u\",\"children\":[\"a2\",\"u\"]},"
        "\"a2\":{\"message\":{\"author\":{\"role\":\"assistant\"},\"content\":{\"parts\":[\"Oslo\"]"
        "}},"
        "\"parent\":\"t\",\"children\":[\"gone\"]},"
        "\"x\":{\"message\":null,\"parent\":\"y\",\"children\":[\"y\"]},"
        "\"y\":{\"message\":null,\"parent\":\"x\",\"children\":[\"x\"]}"
        "}},{\"title\":null,\"mapping\":{}}]";
    struct sessions *s = store_new();
    struct sessions_imported got;
    struct sessions_message *m;
    struct sessions_row row;
    int32_t n;
    write_file(store_file("conversations.json"), json);
    CHECK_OK(sessions_import(s, store_file("conversations.json"), &got, &err_seen));
    assert_int_equal(got.n_conversation, 2);
    assert_int_equal(got.n_message, 3);
    assert_int_equal(got.n_skipped, 1);
    CHECK_OK(sessions_path_load(s, got.first_id, &m, &n, &err_seen));
    assert_int_equal(n, 2);
    assert_string_equal(m[0].text, "[attachment left out]\n\nWhere to?");
    assert_int_equal(m[0].created_ms, 1700000001250);
    assert_string_equal(m[1].text, "Oslo");
    assert_int_equal(m[1].n_sibling, 2);
    assert_int_equal(m[1].sibling, 1);
    sessions_messages_free(m, n);
    CHECK_OK(sessions_get(s, got.first_id, &row, &err_seen));
    assert_string_equal(row.title, "Trip");
    assert_int_equal(row.updated_ms, 1700000100000);
    free(row.title);
    free(row.model);
    sessions_close(s);
}

static void import__hostile_files__change_nothing(void **state)
{
    static const struct {
        const char *text;
        enum status want;
    } cases[] = {
        {"", ERR_FORMAT},
        {"{", ERR_FORMAT},
        {"[]", ERR_UNSUPPORTED},
        {"{\"a\":1}", ERR_UNSUPPORTED},
        {"{\"dogear\":99,\"conversations\":[]}", ERR_UNSUPPORTED},
        {"{\"dogear\":1,\"conversations\":[{\"messages\":[{\"parent\":0,\"role\":\"user\"}]}]}",
         ERR_FORMAT},
        {"{\"dogear\":1,\"conversations\":[{\"messages\":[{\"parent\":-1,\"role\":\"root\"}]}]}",
         ERR_FORMAT},
        {"{\"dogear\":1,\"conversations\":[{\"leaf\":5,\"messages\":[]}]}", ERR_FORMAT},
        {"{\"dogear\":1,\"conversations\":[{\"messages\":[{\"parent\":-1,\"role\":\"user\","
         "\"ids\":[99999999999]}]}]}",
         ERR_FORMAT},
        {"{\"dogear\":1,\"conversations\":[{\"messages\":[{\"parent\":-1,\"role\":\"user\","
         "\"ids\":[\"x\"]}]}]}",
         ERR_FORMAT},
        {"SQLite format 3", ERR_FORMAT}, /* as text: no NUL, so JSON is tried */
    };
    struct sessions *s = store_new();
    struct sessions_imported got;
    struct sessions_row *rows;
    int32_t n;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(store_file("in"), cases[i].text);
        enum status st = sessions_import(s, store_file("in"), &got, &err_seen);
        if (st != cases[i].want)
            fail_msg("case %zu: %d, expected %d", i, st, cases[i].want);
    }
    assert_int_equal(sessions_import(s, store_file("absent"), &got, &err_seen), ERR_IO);
    /* A bundle cut off or turned over anywhere: an error or an import, never a crash. */
    int64_t fork, id = sample(s, &fork);
    CHECK_OK(sessions_export_file(s, id, store_file("whole"), true, &err_seen));
    FILE *f = fopen(store_file("whole"), "r");
    char *data = mem_alloc(1 << 20);
    size_t size = fread(data, 1, 1 << 20, f);
    fclose(f);
    srand(7);
    for (int i = 0; i < 60; i++) {
        size_t at = (size_t)rand() % size, len = i % 2 ? size : at;
        char was = data[at];
        data[at] ^= (char)(1 << (i % 8));
        f = fopen(store_file("in"), "w");
        fwrite(data, 1, len, f);
        fclose(f);
        data[at] = was;
        (void)sessions_import(s, store_file("in"), &got, &err_seen);
    }
    free(data);
    expect_sample(s, id);
    CHECK_OK(sessions_list(s, 0, &rows, &n, &err_seen));
    assert_true(n >= 2);
    sessions_rows_free(rows, n);
    sessions_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CASE(export__json__comes_back_whole),
        STORE_CASE(export__markdown__shows_the_open_branch_without_controls),
        STORE_CASE(export__file__carries_text_and_kv_exactly),
        STORE_CASE(import__chatgpt__keeps_the_tree),
        STORE_CASE(import__hostile_files__change_nothing),
    };
    return cmocka_run_group_tests_name("transfer", tests, NULL, NULL);
}
