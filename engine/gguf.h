/* GGUF v2/v3 container: metadata and tensor directory of one model file (or of all its parts
 * -00001-of-0000N.gguf), mapped read-only. Everything in the file is hostile: every count, length,
 * offset, type, alignment and overlap is checked when opening, so that what these calls return lies
 * inside the mapping. Strings are not NUL-terminated in the file; gguf_str carries the length.
 *
 * Ownership: all pointers are borrowed and live until gguf_close. Threads: immutable after opening.
 * Errors: one line naming the file, the item and the value seen. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "kernels/kernels.h"

struct gguf;

/* Value types of the specification. */
enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STR,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES
};

enum { GGUF_DIMS = 4 };

struct gguf_str {
    const char *s; /* len bytes, any content; NULL only when len = 0 */
    size_t len;
};

struct gguf_tensor {
    char name[65]; /* at most 64 bytes, no NUL and no control bytes inside */
    enum kern_type type;
    int32_t n_dim;
    int64_t dim[GGUF_DIMS]; /* dim[0] varies fastest; unused dims are 1 */
    int64_t n_elem;
    const void *data; /* size_bytes bytes inside the mapping */
    size_t size_bytes;
};

struct gguf_kv { /* one metadata entry */
    struct gguf_str key;
    enum gguf_type type; /* GGUF_ARRAY: see elem and n */
    enum gguf_type elem; /* element type of an array, else type */
    uint64_t n;          /* elements of an array, else 1 */
    const uint8_t *data; /* first element; may be unaligned */
};

/* Opens and checks the whole container; opens the other parts of a split file. */
enum status gguf_open(const char *path, struct gguf **ret, struct err *e);
void gguf_close(struct gguf *g); /* NULL is fine */

const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);
int32_t gguf_n_part(const struct gguf *g);
int64_t gguf_file_bytes(const struct gguf *g); /* of all parts */

int64_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, int64_t i);
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); /* NULL when absent */

/* Scalars. True when the key exists and its value is a number (any integer or float type) that the
 * asked type holds exactly (f32: nearest); *ret is untouched otherwise. */
bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret);
bool gguf_get_f32(const struct gguf *g, const char *key, float *ret);
bool gguf_get_bool(const struct gguf *g, const char *key, bool *ret);
bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *ret);

/* Element i of an array of integers or floats, converted; false when out of range or not a number.
 * kv may be NULL. Scalars count as arrays of one. */
bool gguf_elem_i64(const struct gguf_kv *kv, uint64_t i, int64_t *ret);
bool gguf_elem_f32(const struct gguf_kv *kv, uint64_t i, float *ret);

/* String arrays are walked in order (strings have different lengths):
 *   struct gguf_iter it = gguf_iter(kv); struct gguf_str s;
 *   while (gguf_next(&it, &s)) ...
 * An array of another type, or kv = NULL, gives nothing. */
struct gguf_iter {
    const uint8_t *at;
    uint64_t left;
};
struct gguf_iter gguf_iter(const struct gguf_kv *kv);
bool gguf_next(struct gguf_iter *it, struct gguf_str *ret);

int64_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

/* Tells the kernel that the bytes of t will not be read again from the mapping (they were copied
 * into another form): whole pages inside the range are given back. */
void gguf_release(const struct gguf *g, const struct gguf_tensor *t);
/* Asks the kernel to read ahead everything. */
void gguf_read_ahead(const struct gguf *g);

#endif
