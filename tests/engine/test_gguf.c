/* The container reader on good, damaged and hostile files, all written here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/gguf.h"

/* ---- a writer of anything ---- */

struct bytes {
    uint8_t *data;
    size_t n;
};

static void put(struct bytes *b, const void *src, size_t n)
{
    b->data = realloc(b->data, b->n + n + 1);
    memcpy(b->data + b->n, src, n);
    b->n += n;
}

static void put_u32(struct bytes *b, uint32_t v)
{
    put(b, &v, 4);
}

static void put_u64(struct bytes *b, uint64_t v)
{
    put(b, &v, 8);
}

static void put_str(struct bytes *b, const char *s)
{
    put_u64(b, strlen(s));
    put(b, s, strlen(s));
}

static void put_head(struct bytes *b, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensor);
    put_u64(b, n_kv);
}

static void put_kv_u32(struct bytes *b, const char *key, uint32_t v)
{
    put_str(b, key);
    put_u32(b, GGUF_U32);
    put_u32(b, v);
}

static void put_tensor(struct bytes *b, const char *name, uint64_t n0, uint64_t n1, uint32_t type,
                       uint64_t offset)
{
    put_str(b, name);
    put_u32(b, 2);
    put_u64(b, n0);
    put_u64(b, n1);
    put_u32(b, type);
    put_u64(b, offset);
}

static void put_data(struct bytes *b, size_t n)
{
    static const uint8_t zero[32];
    while (b->n % 32)
        put(b, zero, 1);
    for (size_t i = 0; i < n; i++)
        put(b, &(uint8_t){(uint8_t)i}, 1);
}

static char path[256], path2[256];

static const char *save_as(struct bytes *b, char *to, const char *name)
{
    snprintf(to, sizeof path, "/tmp/dogear-gguf-%d%s", (int)getpid(), name);
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, b->n, f), b->n);
    fclose(f);
    return to;
}

static void done(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

/* Opens the bytes and expects this failure; the text must be one line and contain `word`. */
static void expect(struct bytes *b, enum status want, const char *word)
{
    struct gguf *g = NULL;
    struct err e;
    enum status s = gguf_open(save_as(b, path, ".gguf"), &g, &e);
    unlink(path);
    if (s != want || !strstr(e.text, word) || strchr(e.text, '\n'))
        fail_msg("status %d, text '%s'; wanted %d with '%s'", s, s ? e.text : "", want, word);
    assert_null(g);
    done(b);
}

/* A good small file: two metadata entries, one 4 x 2 F32 tensor. */
static struct bytes good(uint32_t version)
{
    struct bytes b = {0};
    put_head(&b, version, 2, 3);
    put_kv_u32(&b, "some.number", 7);
    put_str(&b, "some.list");
    put_u32(&b, GGUF_ARRAY);
    put_u32(&b, GGUF_STR);
    put_u64(&b, 2);
    put_str(&b, "one");
    put_str(&b, "");
    put_str(&b, "some.real");
    put_u32(&b, GGUF_F32);
    put(&b, &(float){0.5f}, 4);
    put_tensor(&b, "a.weight", 4, 2, KERN_F32, 0);
    put_tensor(&b, "b.weight", 32, 1, KERN_Q8_0, 32);
    put_data(&b, 32 + 34);
    return b;
}

static void gguf__open__reads_both_versions(void **state)
{
    for (uint32_t version = 2; version <= 3; version++) {
        struct bytes b = good(version);
        struct gguf *g;
        struct err e;
        assert_int_equal(gguf_open(save_as(&b, path, ".gguf"), &g, &e), OK);
        unlink(path);
        uint32_t u = 0;
        float f = 0;
        bool flag;
        struct gguf_str s;
        assert_int_equal(gguf_version(g), version);
        assert_true(gguf_get_u32(g, "some.number", &u));
        assert_int_equal(u, 7);
        assert_true(gguf_get_f32(g, "some.real", &f));
        assert_true(f == 0.5f);
        assert_true(gguf_get_f32(g, "some.number", &f));
        assert_true(f == 7);
        assert_false(gguf_get_u32(g, "some.real", &u)); /* not a whole number */
        assert_false(gguf_get_bool(g, "some.number", &flag));
        assert_false(gguf_get_str(g, "some.list", &s));
        assert_false(gguf_get_u32(g, "some.list", &u));
        assert_null(gguf_find(g, "some"));
        struct gguf_iter it = gguf_iter(gguf_find(g, "some.list"));
        assert_true(gguf_next(&it, &s));
        assert_int_equal(s.len, 3);
        assert_memory_equal(s.s, "one", 3);
        assert_true(gguf_next(&it, &s));
        assert_int_equal(s.len, 0);
        assert_false(gguf_next(&it, &s));
        assert_int_equal(gguf_n_tensor(g), 2);
        const struct gguf_tensor *t = gguf_tensor_find(g, "b.weight");
        assert_non_null(t);
        assert_int_equal(t->size_bytes, 34);
        assert_int_equal(t->dim[0], 32);
        assert_int_equal(*(const uint8_t *)t->data, 32);
        assert_null(gguf_tensor_find(g, "c.weight"));
        assert_int_equal(gguf_kv_at(g, 0)->key.len, strlen("some.number")); /* the file's order */
        gguf_release(g, t);
        gguf_close(g);
        done(&b);
    }
}

static void gguf__open__refuses_what_is_not_a_model(void **state)
{
    struct gguf *g;
    struct err e;
    assert_int_equal(gguf_open("/nonexistent/x.gguf", &g, &e), ERR_NOT_FOUND);
    assert_int_equal(gguf_open("/tmp", &g, &e), ERR_USAGE);
    struct bytes b = {0};
    put(&b, "PK\3\4 this is a zip archive, not a model", 40);
    expect(&b, ERR_FORMAT, "not a GGUF file");
    put(&b, "GGUF", 4);
    expect(&b, ERR_FORMAT, "too few");
    put_head(&b, 1, 0, 0);
    expect(&b, ERR_UNSUPPORTED, "version 1");
    put_head(&b, 0x03000000, 0, 0);
    expect(&b, ERR_UNSUPPORTED, "big-endian");
}

static void gguf__open__refuses_every_truncation(void **state)
{
    struct bytes b = good(3);
    size_t whole = b.n;
    for (size_t n = 0; n < whole; n++) {
        struct gguf *g = NULL;
        struct err e;
        b.n = n;
        enum status s = gguf_open(save_as(&b, path, ".gguf"), &g, &e);
        assert_int_equal(s, ERR_FORMAT);
        assert_null(strchr(e.text, '\n'));
    }
    unlink(path);
    done(&b);
}

static void gguf__open__survives_every_flipped_byte(void **state)
{
    struct bytes b = good(3);
    for (size_t i = 0; i < b.n; i++)
        for (int bit = 0; bit < 8; bit++) {
            struct gguf *g = NULL;
            struct err e;
            b.data[i] ^= (uint8_t)(1 << bit);
            if (gguf_open(save_as(&b, path, ".gguf"), &g, &e) == OK) {
                /* Whatever was accepted lies inside the file. */
                volatile uint8_t sum = 0;
                for (int64_t j = 0; j < gguf_n_tensor(g); j++) {
                    const struct gguf_tensor *t = gguf_tensor_at(g, j);
                    for (size_t k = 0; k < t->size_bytes; k++)
                        sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
                }
                gguf_close(g);
            }
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    unlink(path);
    done(&b);
}

static void gguf__open__refuses_hostile_counts(void **state)
{
    struct bytes b = {0};
    put_head(&b, 3, 0, UINT64_MAX);
    expect(&b, ERR_FORMAT, "metadata entries");
    put_head(&b, 3, UINT64_MAX / 2, 0);
    expect(&b, ERR_FORMAT, "tensors in");
    /* There is room for them, as in a file with a hole there would be for any number. */
    enum { MANY = 70000 };
    void *room = calloc(MANY, 20);
    put_head(&b, 3, 0, MANY);
    put(&b, room, (size_t)20 * MANY);
    free(room);
    expect(&b, ERR_FORMAT, "metadata entries");
    put_head(&b, 3, 0, 1);
    put_u64(&b, UINT64_MAX); /* key length */
    put_data(&b, 64);
    expect(&b, ERR_FORMAT, "claims");
    put_head(&b, 3, 0, 1);
    put_str(&b, "k");
    put_u32(&b, GGUF_ARRAY);
    put_u32(&b, GGUF_U64);
    put_u64(&b, UINT64_MAX / 8 + 2); /* times 8 overflows */
    put_data(&b, 64);
    expect(&b, ERR_FORMAT, "'k' claims");
    put_head(&b, 3, 0, 1);
    put_str(&b, "k");
    put_u32(&b, GGUF_ARRAY);
    put_u32(&b, GGUF_ARRAY);
    put_u64(&b, 1);
    put_data(&b, 64);
    expect(&b, ERR_UNSUPPORTED, "'k' is an array");
    put_head(&b, 3, 0, 2);
    put_kv_u32(&b, "twice", 1);
    put_kv_u32(&b, "twice", 2);
    expect(&b, ERR_FORMAT, "twice");
    put_head(&b, 3, 0, 1);
    put_kv_u32(&b, "general.alignment", 24);
    expect(&b, ERR_FORMAT, "alignment 24");
    put_head(&b, 3, 0, 1);
    put_kv_u32(&b, "general.alignment", 0);
    expect(&b, ERR_FORMAT, "alignment 0");
}

static void gguf__open__refuses_hostile_tensors(void **state)
{
    static const struct {
        uint64_t n0, n1, offset;
        uint32_t type;
        enum status status;
        const char *word;
    } bad[] = {
        {4, 2, 7, KERN_F32, ERR_FORMAT, "alignment"},
        {4, 2, 1u << 20, KERN_F32, ERR_FORMAT, "truncated"},
        {4, 2, UINT64_MAX - 31, KERN_F32, ERR_FORMAT, "truncated"},
        {0, 2, 0, KERN_F32, ERR_FORMAT, "dimension"},
        {UINT64_MAX, 2, 0, KERN_F32, ERR_FORMAT, "dimension"},
        {1u << 20, 1u << 20, 0, KERN_F32, ERR_FORMAT, "truncated"},
        {33, 1, 0, KERN_Q8_0, ERR_FORMAT, "multiple"},
        {32, 1, 0, 40, ERR_UNSUPPORTED, "NVFP4"},
        {32, 1, 0, 4000, ERR_UNSUPPORTED, "4000"},
    };
    struct bytes b = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_head(&b, 3, 1, 0);
        put_tensor(&b, "t", bad[i].n0, bad[i].n1, bad[i].type, bad[i].offset);
        put_data(&b, 64);
        expect(&b, bad[i].status, bad[i].word);
    }
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "a", 16, 1, KERN_F32, 0);
    put_tensor(&b, "b", 16, 1, KERN_F32, 32);
    put_data(&b, 128);
    expect(&b, ERR_FORMAT, "overlap");
    put_head(&b, 3, 2, 0);
    put_tensor(&b, "a", 8, 1, KERN_F32, 0);
    put_tensor(&b, "a", 8, 1, KERN_F32, 32);
    put_data(&b, 128);
    expect(&b, ERR_FORMAT, "twice");
    put_head(&b, 3, 1, 0);
    put_tensor(&b, "esc\033[31m", 8, 1, KERN_F32, 0);
    put_data(&b, 64);
    expect(&b, ERR_FORMAT, "0x1b");
    put_head(&b, 3, 1, 0);
    put_str(&b, "t");
    put_u32(&b, 5); /* dimensions */
    put_data(&b, 64);
    expect(&b, ERR_FORMAT, "5 dimensions");
}

static struct bytes part(uint32_t no, uint32_t count, const char *tensor)
{
    struct bytes b = {0};
    put_head(&b, 3, 1, 3);
    put_kv_u32(&b, "split.no", no);
    put_kv_u32(&b, "split.count", count);
    put_kv_u32(&b, "split.tensors.count", 2);
    put_tensor(&b, tensor, 8, 1, KERN_F32, 0);
    put_data(&b, 32);
    return b;
}

static void gguf__open__joins_the_parts_of_a_split_file(void **state)
{
    struct bytes a = part(0, 2, "a"), b = part(1, 2, "b"), c = part(0, 2, "b");
    struct gguf *g;
    struct err e;
    save_as(&a, path, "-00001-of-00002.gguf");
    assert_int_equal(gguf_open(path, &g, &e), ERR_NOT_FOUND); /* the second part is missing */
    save_as(&b, path2, "-00002-of-00002.gguf");
    assert_int_equal(gguf_open(path, &g, &e), OK);
    assert_int_equal(gguf_n_part(g), 2);
    assert_non_null(gguf_tensor_find(g, "a"));
    assert_non_null(gguf_tensor_find(g, "b"));
    gguf_close(g);
    assert_int_equal(gguf_open(path2, &g, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "first part"));
    save_as(&c, path2, "-00002-of-00002.gguf");
    assert_int_equal(gguf_open(path, &g, &e), ERR_FORMAT);
    assert_non_null(strstr(e.text, "part 1 of 2"));
    unlink(path2);
    unlink(path);
    save_as(&a, path, "renamed.gguf");
    assert_int_equal(gguf_open(path, &g, &e), ERR_USAGE);
    unlink(path);
    done(&a);
    done(&b);
    done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf__open__reads_both_versions),
        cmocka_unit_test(gguf__open__refuses_what_is_not_a_model),
        cmocka_unit_test(gguf__open__refuses_every_truncation),
        cmocka_unit_test(gguf__open__survives_every_flipped_byte),
        cmocka_unit_test(gguf__open__refuses_hostile_counts),
        cmocka_unit_test(gguf__open__refuses_hostile_tensors),
        cmocka_unit_test(gguf__open__joins_the_parts_of_a_split_file),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
