/* Helpers of the text tests: files of the test data, and GGUF files made in memory for vocabularies
 * that no model has. */
#ifndef TESTS_ENGINE_VOCAB_H
#define TESTS_ENGINE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/str.h"
#include "engine/gguf.h"

/* Path of a file below $DOGEAR_DATA; false when the data is not there. */
static inline bool vocab_path(struct str *ret, const char *file)
{
    const char *dir = getenv("DOGEAR_DATA");
    str_clear(ret);
    str_addf(ret, "%s/%s", dir ? dir : "../shared/data", file);
    return access(ret->data, R_OK) == 0;
}

static inline bool vocab_read(struct str *ret, const char *file)
{
    struct str path = {0};
    FILE *f = vocab_path(&path, file) ? fopen(path.data, "rb") : NULL;
    str_fini(&path);
    if (!f)
        return false;
    str_clear(ret);
    char buf[1 << 16];
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
        str_add(ret, buf, n);
    fclose(f);
    return true;
}

/* ---- a vocabulary made up ---- */

struct vocab_file {
    struct str kv;
    uint64_t n_kv;
};

static inline void vocab_raw(struct vocab_file *f, const void *data, size_t n)
{
    str_add(&f->kv, data, n);
}

static inline void vocab_u32_raw(struct vocab_file *f, uint32_t v)
{
    vocab_raw(f, &v, sizeof v);
}

static inline void vocab_text_raw(struct vocab_file *f, const char *s)
{
    uint64_t n = strlen(s);
    vocab_raw(f, &n, sizeof n);
    vocab_raw(f, s, n);
}

static inline void vocab_key(struct vocab_file *f, const char *key, enum gguf_type type)
{
    vocab_text_raw(f, key);
    vocab_u32_raw(f, type);
    f->n_kv++;
}

static inline void vocab_str(struct vocab_file *f, const char *key, const char *value)
{
    vocab_key(f, key, GGUF_STR);
    vocab_text_raw(f, value);
}

static inline void vocab_u32(struct vocab_file *f, const char *key, uint32_t value)
{
    vocab_key(f, key, GGUF_U32);
    vocab_u32_raw(f, value);
}

static inline void vocab_array(struct vocab_file *f, const char *key, enum gguf_type type,
                               uint64_t n)
{
    vocab_key(f, key, GGUF_ARRAY);
    vocab_u32_raw(f, type);
    vocab_raw(f, &n, sizeof n);
}

static inline void vocab_strs(struct vocab_file *f, const char *key, const char *const *s, size_t n)
{
    vocab_array(f, key, GGUF_STR, n);
    for (size_t i = 0; i < n; i++)
        vocab_text_raw(f, s[i]);
}

static inline void vocab_i32s(struct vocab_file *f, const char *key, const int32_t *v, size_t n)
{
    vocab_array(f, key, GGUF_I32, n);
    vocab_raw(f, v, n * sizeof *v);
}

static inline void vocab_f32s(struct vocab_file *f, const char *key, const float *v, size_t n)
{
    vocab_array(f, key, GGUF_F32, n);
    vocab_raw(f, v, n * sizeof *v);
}

/* Opens bytes as if they were a file. NULL when they are refused. */
static inline struct gguf *vocab_open_bytes(const void *data, size_t n, struct err *e)
{
    int fd = memfd_create("vocabulary", 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct gguf *g = NULL;
    if (fd < 0 || write(fd, data, n) != (ssize_t)n || gguf_open(path, &g, e) != OK)
        g = NULL;
    if (fd >= 0)
        close(fd);
    return g;
}

/* Puts the header before the entries, opens the file and empties f. */
static inline struct gguf *vocab_open(struct vocab_file *f, struct err *e)
{
    struct vocab_file head = {0};
    uint64_t n_tensor = 0;
    vocab_raw(&head, "GGUF\3\0\0\0", 8);
    vocab_raw(&head, &n_tensor, sizeof n_tensor);
    vocab_raw(&head, &f->n_kv, sizeof f->n_kv);
    vocab_raw(&head, f->kv.data, f->kv.len);
    struct gguf *g = vocab_open_bytes(head.kv.data, head.kv.len, e);
    str_fini(&head.kv);
    str_fini(&f->kv);
    f->n_kv = 0;
    return g;
}

#endif
