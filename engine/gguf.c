#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/mem.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "GGUF is read in place");

enum {
    DEFAULT_ALIGN = 32,
    MAX_ALIGN = 1 << 20,
    MIN_KV_BYTES = 8 + 4 + 1,             /* key length, type, smallest value */
    MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8, /* name length, n_dim, one dim, type, offset */
    MAX_PART = 4096,
    MAX_KEY = 65535,
    MAX_KVS = 1 << 16, /* what a file claims is reserved before it is read: real ones have a few hundred */
    MAX_TENSORS = 1 << 20,
};

static const uint8_t type_bytes[GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

struct part {
    const uint8_t *map;
    size_t size_bytes;
    char *path;
};

struct gguf {
    char *path;
    uint32_t version;
    struct part *part;
    int32_t n_part, part_cap;
    struct gguf_kv *kv; /* of the first part, sorted by key; order keeps the file's order */
    uint32_t *kv_order;
    int64_t n_kv;
    struct gguf_tensor *tensor;       /* in the order of the files */
    struct gguf_tensor **tensor_name; /* sorted by name */
    int64_t n_tensor;
};

/* A walk over one part; every read is checked against its end. */
struct reader {
    const struct part *part;
    size_t at;
};

/* ---- reading ---- */

static bool have(const struct reader *r, uint64_t n)
{
    return n <= r->part->size_bytes - r->at;
}

static enum status read_bytes(struct reader *r, void *dst, size_t n, const char *what,
                              struct err *e)
{
    if (!have(r, n))
        return err_set(e, ERR_FORMAT,
                       "%s: file ends at byte %zu inside %s: it is truncated; "
                       "download it again",
                       r->part->path, r->part->size_bytes, what);
    memcpy(dst, r->part->map + r->at, n);
    r->at += n;
    return OK;
}

static enum status read_str(struct reader *r, struct gguf_str *ret, const char *what, struct err *e)
{
    uint64_t len = 0;
    TRY(read_bytes(r, &len, sizeof len, what, e));
    if (!have(r, len))
        return err_set(e, ERR_FORMAT,
                       "%s: %s at byte %zu claims %llu bytes, but only %zu are left "
                       "in the file",
                       r->part->path, what, r->at - 8, (unsigned long long)len,
                       r->part->size_bytes - r->at);
    ret->s = (const char *)r->part->map + r->at;
    ret->len = (size_t)len;
    r->at += (size_t)len;
    return OK;
}

static enum status read_value(struct reader *r, struct gguf_kv *kv, struct err *e)
{
    uint32_t type = 0;
    TRY(read_bytes(r, &type, sizeof type, "a metadata type", e));
    if (type >= GGUF_TYPES)
        return err_set(e, ERR_FORMAT, "%s: metadata '%.*s' has unknown value type %u",
                       r->part->path, (int)kv->key.len, kv->key.s, type);
    kv->type = kv->elem = (enum gguf_type)type;
    kv->n = 1;
    if (type == GGUF_ARRAY) {
        uint32_t elem = 0;
        TRY(read_bytes(r, &elem, sizeof elem, "an array's type", e));
        TRY(read_bytes(r, &kv->n, sizeof kv->n, "an array's length", e));
        if (elem >= GGUF_TYPES || elem == GGUF_ARRAY)
            return err_set(e, elem == GGUF_ARRAY ? ERR_UNSUPPORTED : ERR_FORMAT,
                           "%s: metadata '%.*s' is an array of type %u, which is not supported",
                           r->part->path, (int)kv->key.len, kv->key.s, elem);
        kv->elem = (enum gguf_type)elem;
    }
    kv->data = r->part->map + r->at;
    if (kv->elem == GGUF_STR) {
        /* Each string takes at least its 8-byte length, so a hostile count ends the loop soon. */
        struct gguf_str s;
        for (uint64_t i = 0; i < kv->n; i++)
            TRY(read_str(r, &s, "a metadata string", e));
        return OK;
    }
    uint64_t size;
    if (!mem_mul(kv->n, type_bytes[kv->elem], &size) || !have(r, size))
        return err_set(e, ERR_FORMAT,
                       "%s: metadata '%.*s' claims %llu values, but only %zu bytes "
                       "are left in the file",
                       r->part->path, (int)kv->key.len, kv->key.s, (unsigned long long)kv->n,
                       r->part->size_bytes - r->at);
    r->at += (size_t)size;
    return OK;
}

/* ---- order ---- */

static int str_order(const char *a, size_t na, const char *b, size_t nb)
{
    int c = memcmp(a, b, na < nb ? na : nb);
    return c ? c : (na > nb) - (na < nb);
}

static int kv_order(const void *a, const void *b)
{
    const struct gguf_kv *x = a, *y = b;
    return str_order(x->key.s, x->key.len, y->key.s, y->key.len);
}

static int tensor_name_order(const void *a, const void *b)
{
    return strcmp((*(struct gguf_tensor *const *)a)->name, (*(struct gguf_tensor *const *)b)->name);
}

static int tensor_place_order(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(struct gguf_tensor *const *)a,
                             *y = *(struct gguf_tensor *const *)b;
    return (x->data > y->data) - (x->data < y->data);
}

static int file_order(const void *a, const void *b, void *ctx)
{
    const struct gguf_kv *kv = ctx;
    const uint8_t *x = (const uint8_t *)kv[*(const uint32_t *)a].key.s,
                  *y = (const uint8_t *)kv[*(const uint32_t *)b].key.s;
    return (x > y) - (x < y);
}

/* ---- the parts of a file ---- */

static enum status map_part(struct gguf *g, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(e, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open model '%s': %s",
                       path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(e, ERR_USAGE, "model '%s' is not a regular file; give a .gguf file", path);
    }
    if (st.st_size < 24 || (uint64_t)st.st_size > SIZE_MAX) {
        close(fd);
        return err_set(e, ERR_FORMAT, "%s: %lld bytes are too few for a GGUF file", path,
                       (long long)st.st_size);
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    close(fd);
    if (map == MAP_FAILED)
        return err_set(e, ERR_IO, "cannot map model '%s': %s", path, strerror(error));
    if (g->n_part == g->part_cap) {
        g->part_cap = g->part_cap ? 2 * g->part_cap : 1;
        g->part = mem_realloc(g->part, (size_t)g->part_cap * sizeof *g->part);
    }
    g->part[g->n_part++] = (struct part){map, (size_t)st.st_size, mem_strdup(path)};
    return OK;
}

static enum status read_header(struct reader *r, uint32_t *version, uint64_t *n_tensor,
                               uint64_t *n_kv, struct err *e)
{
    char magic[4];
    TRY(read_bytes(r, magic, 4, "the magic", e));
    if (memcmp(magic, "GGUF", 4) != 0)
        return err_set(e, ERR_FORMAT, "%s: not a GGUF file (begins with %02x %02x %02x %02x)",
                       r->part->path, (unsigned char)magic[0], (unsigned char)magic[1],
                       (unsigned char)magic[2], (unsigned char)magic[3]);
    TRY(read_bytes(r, version, 4, "the version", e));
    if (*version != 2 && *version != 3)
        return err_set(e, ERR_UNSUPPORTED,
                       (*version & 0xffff) == 0 && *version
                           ? "%s: GGUF version field 0x%08x: a big-endian file; convert it"
                           : "%s: GGUF version %u is not supported (2 and 3 are)",
                       r->part->path, *version);
    TRY(read_bytes(r, n_tensor, 8, "the tensor count", e));
    TRY(read_bytes(r, n_kv, 8, "the metadata count", e));
    uint64_t left = r->part->size_bytes - r->at;
    if (*n_kv > left / MIN_KV_BYTES || *n_kv > MAX_KVS)
        return err_set(e, ERR_FORMAT, "%s: claims %llu metadata entries in %llu bytes",
                       r->part->path, (unsigned long long)*n_kv, (unsigned long long)left);
    if (*n_tensor > left / MIN_TENSOR_BYTES || *n_tensor > MAX_TENSORS)
        return err_set(e, ERR_FORMAT, "%s: claims %llu tensors in %llu bytes", r->part->path,
                       (unsigned long long)*n_tensor, (unsigned long long)left);
    return OK;
}

static enum status read_kvs(struct reader *r, uint64_t n_kv, struct gguf_kv **ret, struct err *e)
{
    struct gguf_kv *kv = mem_calloc(n_kv ? n_kv : 1, sizeof *kv);
    enum status s = OK;
    for (uint64_t i = 0; i < n_kv && s == OK; i++) {
        s = read_str(r, &kv[i].key, "a metadata key", e);
        if (s == OK && (kv[i].key.len == 0 || kv[i].key.len > MAX_KEY))
            s = err_set(e, ERR_FORMAT, "%s: metadata key %llu has length %zu", r->part->path,
                        (unsigned long long)i, kv[i].key.len);
        if (s == OK)
            s = read_value(r, &kv[i], e);
    }
    if (s == OK) {
        qsort(kv, n_kv, sizeof *kv, kv_order);
        for (uint64_t i = 1; i < n_kv && s == OK; i++)
            if (kv_order(&kv[i - 1], &kv[i]) == 0)
                s = err_set(e, ERR_FORMAT, "%s: metadata '%.*s' appears twice", r->part->path,
                            (int)kv[i].key.len, kv[i].key.s);
    }
    if (s != OK) {
        free(kv);
        return s;
    }
    *ret = kv;
    return OK;
}

/* Names of types that exist but that we do not compute with, for the error line. */
static const char *foreign_type(uint32_t type)
{
    static const char *const name[] = {
        [9] = "Q8_1", [15] = "Q8_K", [24] = "I8",     [25] = "I16",   [26] = "I32",
        [27] = "I64", [28] = "F64",  [34] = "TQ1_0", [35] = "TQ2_0", [40] = "NVFP4",
    };
    return type < sizeof name / sizeof *name && name[type] ? name[type] : "unknown";
}

static enum status read_tensor(struct reader *r, struct gguf_tensor *t, uint64_t *ret_offset,
                               struct err *e)
{
    const char *path = r->part->path;
    struct gguf_str name = {0};
    TRY(read_str(r, &name, "a tensor name", e));
    if (name.len == 0 || name.len >= sizeof t->name)
        return err_set(e, ERR_FORMAT, "%s: a tensor name has length %zu (1 to 64 is valid)", path,
                       name.len);
    for (size_t i = 0; i < name.len; i++)
        if ((unsigned char)name.s[i] <= ' ' || (unsigned char)name.s[i] >= 0x7f)
            return err_set(e, ERR_FORMAT, "%s: tensor name '%.*s' contains byte 0x%02x", path,
                           (int)name.len, name.s, (unsigned char)name.s[i]);
    memcpy(t->name, name.s, name.len);
    t->name[name.len] = 0;

    uint32_t n_dim = 0, type = 0;
    TRY(read_bytes(r, &n_dim, 4, "a tensor's dimensions", e));
    if (n_dim < 1 || n_dim > GGUF_DIMS)
        return err_set(e, ERR_FORMAT, "%s: tensor '%s' has %u dimensions (1 to 4 are valid)", path,
                       t->name, n_dim);
    t->n_dim = (int32_t)n_dim;
    t->n_elem = 1;
    for (int i = 0; i < GGUF_DIMS; i++) {
        uint64_t d = 1, all;
        if (i < t->n_dim)
            TRY(read_bytes(r, &d, 8, "a tensor's dimensions", e));
        if (d == 0 || d > INT32_MAX || !mem_mul((uint64_t)t->n_elem, d, &all) ||
            all > INT64_MAX / 64)
            return err_set(e, ERR_FORMAT, "%s: tensor '%s' has impossible dimension %d = %llu",
                           path, t->name, i, (unsigned long long)d);
        t->dim[i] = (int64_t)d;
        t->n_elem = (int64_t)all;
    }
    TRY(read_bytes(r, &type, 4, "a tensor's type", e));
    if (!kern_type_known(type))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: tensor '%s' has weight type %u (%s), which is not "
                       "supported; use a file in Q4_K_M, Q8_0 or F16",
                       path, t->name, type, foreign_type(type));
    t->type = (enum kern_type)type;
    int64_t block = kern_type_block(t->type);
    if (t->dim[0] % block)
        return err_set(e, ERR_FORMAT,
                       "%s: tensor '%s' has rows of %lld, not a multiple of the %s "
                       "block %lld",
                       path, t->name, (long long)t->dim[0], kern_type_name(t->type),
                       (long long)block);
    uint64_t size;
    if (!mem_mul((uint64_t)(t->n_elem / block), kern_type_bytes(t->type), &size) || size > SIZE_MAX)
        return err_set(e, ERR_FORMAT, "%s: tensor '%s' is too large", path, t->name);
    t->size_bytes = (size_t)size;
    return read_bytes(r, ret_offset, 8, "a tensor's offset", e);
}

static enum status read_tensors(struct gguf *g, struct reader *r, uint64_t n_tensor, uint32_t align,
                                struct err *e)
{
    const char *path = r->part->path;
    g->tensor = mem_realloc(g->tensor, ((size_t)g->n_tensor + n_tensor + 1) * sizeof *g->tensor);
    struct gguf_tensor *t = g->tensor + g->n_tensor;
    memset(t, 0, (size_t)n_tensor * sizeof *t);
    uint64_t *offset = mem_calloc(n_tensor ? n_tensor : 1, sizeof *offset);
    enum status s = OK;
    for (uint64_t i = 0; i < n_tensor && s == OK; i++)
        s = read_tensor(r, &t[i], &offset[i], e);
    uint64_t start = ((uint64_t)r->at + align - 1) / align * align;
    uint64_t room = start < r->part->size_bytes ? r->part->size_bytes - start : 0;
    for (uint64_t i = 0; i < n_tensor && s == OK; i++) {
        if (offset[i] % align)
            s = err_set(e, ERR_FORMAT,
                        "%s: tensor '%s' has offset %llu, not a multiple of the "
                        "alignment %u",
                        path, t[i].name, (unsigned long long)offset[i], align);
        else if (offset[i] > room || t[i].size_bytes > room - offset[i])
            s = err_set(e, ERR_FORMAT,
                        "%s: tensor '%s' needs %zu bytes at offset %llu, but the "
                        "file holds only %llu: it is truncated; download it again",
                        path, t[i].name, t[i].size_bytes, (unsigned long long)offset[i],
                        (unsigned long long)room);
        else
            t[i].data = r->part->map + start + offset[i];
    }
    free(offset);
    TRY(s);
    g->n_tensor += (int64_t)n_tensor;

    struct gguf_tensor **place = mem_calloc(n_tensor ? n_tensor : 1, sizeof *place);
    for (uint64_t i = 0; i < n_tensor; i++)
        place[i] = &t[i];
    qsort(place, n_tensor, sizeof *place, tensor_place_order);
    for (uint64_t i = 1; i < n_tensor && s == OK; i++)
        if ((const uint8_t *)place[i - 1]->data + place[i - 1]->size_bytes >
            (const uint8_t *)place[i]->data)
            s = err_set(e, ERR_FORMAT, "%s: tensors '%s' and '%s' overlap", path,
                        place[i - 1]->name, place[i]->name);
    free(place);
    return s;
}

static uint32_t kvs_u32(const struct gguf_kv *kv, uint64_t n, const char *key, uint32_t absent)
{
    struct gguf_kv want = {.key = {key, strlen(key)}};
    const struct gguf_kv *f = n ? bsearch(&want, kv, n, sizeof *kv, kv_order) : NULL;
    int64_t v;
    return f && f->type != GGUF_ARRAY && gguf_elem_i64(f, 0, &v) && v >= 0 && v <= UINT32_MAX
               ? (uint32_t)v
               : absent;
}

/* Reads part i, which must say that it is part i of n_part. Keeps the metadata of the first. */
static enum status read_part(struct gguf *g, int32_t i, uint32_t *n_part, uint32_t *n_tensor_all,
                             struct err *e)
{
    struct reader r = {&g->part[i], 0};
    uint32_t version = 0;
    uint64_t n_tensor = 0, n_kv = 0;
    struct gguf_kv *kv = NULL;
    TRY(read_header(&r, &version, &n_tensor, &n_kv, e));
    TRY(read_kvs(&r, n_kv, &kv, e));
    uint32_t no = kvs_u32(kv, n_kv, "split.no", 0), count = kvs_u32(kv, n_kv, "split.count", 1);
    uint32_t align = kvs_u32(kv, n_kv, "general.alignment", DEFAULT_ALIGN);
    uint32_t total = kvs_u32(kv, n_kv, "split.tensors.count", UINT32_MAX);
    if (i == 0) {
        g->version = version;
        g->kv = kv;
        g->n_kv = (int64_t)n_kv;
        *n_part = count ? count : 1;
        *n_tensor_all = total;
    } else {
        free(kv);
    }
    if (align == 0 || (align & (align - 1)) || align > MAX_ALIGN)
        return err_set(e, ERR_FORMAT, "%s: alignment %u is not a power of two", r.part->path,
                       align);
    if (*n_part > MAX_PART)
        return err_set(e, ERR_FORMAT, "%s: claims %u parts", r.part->path, *n_part);
    if (*n_part > 1 && (no != (uint32_t)i || count != *n_part))
        return err_set(e, i ? ERR_FORMAT : ERR_USAGE,
                       i ? "%s: says it is part %u of %u, but part %d is expected here"
                         : "%s: this is part %u of %u of a split model; give the first part "
                           "(number %d)",
                       r.part->path, no + 1, count, i + 1);
    return read_tensors(g, &r, n_tensor, align, e);
}

static enum status open_all(struct gguf *g, const char *path, struct err *e)
{
    uint32_t n_part = 0, n_tensor_all = 0;
    TRY(map_part(g, path, e));
    TRY(read_part(g, 0, &n_part, &n_tensor_all, e));
    if (n_part > 1) {
        char tail[32];
        int n = snprintf(tail, sizeof tail, "-%05u-of-%05u.gguf", 1u, n_part);
        size_t len = strlen(path);
        if (len < (size_t)n || strcmp(path + len - (size_t)n, tail) != 0)
            return err_set(e, ERR_USAGE,
                           "%s: first of %u parts, but its name does not end in '%s', "
                           "so the others cannot be found",
                           path, n_part, tail);
        for (uint32_t i = 1; i < n_part; i++) {
            char *next = mem_alloc(len + 32);
            snprintf(next, len + 32, "%.*s-%05u-of-%05u.gguf", (int)(len - (size_t)n), path, i + 1,
                     n_part);
            enum status s = map_part(g, next, e);
            free(next);
            uint32_t again = n_part, ignored = 0;
            if (s == OK)
                s = read_part(g, (int32_t)i, &again, &ignored, e);
            TRY(s);
        }
        if (n_tensor_all != UINT32_MAX && g->n_tensor != (int64_t)n_tensor_all)
            return err_set(e, ERR_FORMAT, "%s: the parts hold %lld tensors, but %u are announced",
                           path, (long long)g->n_tensor, n_tensor_all);
    }
    g->kv_order = mem_calloc((size_t)g->n_kv + 1, sizeof *g->kv_order);
    for (int64_t i = 0; i < g->n_kv; i++)
        g->kv_order[i] = (uint32_t)i;
    qsort_r(g->kv_order, (size_t)g->n_kv, sizeof *g->kv_order, file_order, g->kv);

    g->tensor_name = mem_calloc((size_t)g->n_tensor + 1, sizeof *g->tensor_name);
    for (int64_t i = 0; i < g->n_tensor; i++)
        g->tensor_name[i] = &g->tensor[i];
    qsort(g->tensor_name, (size_t)g->n_tensor, sizeof *g->tensor_name, tensor_name_order);
    for (int64_t i = 1; i < g->n_tensor; i++)
        if (strcmp(g->tensor_name[i - 1]->name, g->tensor_name[i]->name) == 0)
            return err_set(e, ERR_FORMAT, "%s: tensor '%s' appears twice", path,
                           g->tensor_name[i]->name);
    return OK;
}

enum status gguf_open(const char *path, struct gguf **ret, struct err *e)
{
    struct gguf *g = mem_calloc(1, sizeof *g);
    g->path = mem_strdup(path);
    enum status s = open_all(g, path, e);
    if (s != OK) {
        gguf_close(g);
        return s;
    }
    *ret = g;
    return OK;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (int32_t i = 0; i < g->n_part; i++) {
        munmap((void *)g->part[i].map, g->part[i].size_bytes);
        free(g->part[i].path);
    }
    free(g->part);
    free(g->kv);
    free(g->kv_order);
    free(g->tensor);
    free(g->tensor_name);
    free(g->path);
    free(g);
}

/* ---- answers ---- */

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

uint32_t gguf_version(const struct gguf *g)
{
    return g->version;
}

int32_t gguf_n_part(const struct gguf *g)
{
    return g->n_part;
}

int64_t gguf_file_bytes(const struct gguf *g)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < g->n_part; i++)
        sum += (int64_t)g->part[i].size_bytes;
    return sum;
}

int64_t gguf_n_kv(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, int64_t i)
{
    return &g->kv[g->kv_order[i]];
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key)
{
    struct gguf_kv want = {.key = {key, strlen(key)}};
    return g->n_kv ? bsearch(&want, g->kv, (size_t)g->n_kv, sizeof *g->kv, kv_order) : NULL;
}

bool gguf_elem_i64(const struct gguf_kv *kv, uint64_t i, int64_t *ret)
{
    if (!kv || i >= kv->n || kv->elem == GGUF_STR)
        return false;
    const uint8_t *p = kv->data + i * type_bytes[kv->elem];
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        float f32;
        uint64_t u64;
        int64_t i64;
        double f64;
    } v;
    memcpy(&v, p, type_bytes[kv->elem]);
    double f;
    switch (kv->elem) {
    case GGUF_U8:
    case GGUF_BOOL:
        *ret = v.u8;
        return true;
    case GGUF_I8:
        *ret = v.i8;
        return true;
    case GGUF_U16:
        *ret = v.u16;
        return true;
    case GGUF_I16:
        *ret = v.i16;
        return true;
    case GGUF_U32:
        *ret = v.u32;
        return true;
    case GGUF_I32:
        *ret = v.i32;
        return true;
    case GGUF_I64:
        *ret = v.i64;
        return true;
    case GGUF_U64:
        if (v.u64 > INT64_MAX)
            return false;
        *ret = (int64_t)v.u64;
        return true;
    case GGUF_F32:
        f = v.f32;
        break;
    case GGUF_F64:
        f = v.f64;
        break;
    default:
        return false;
    }
    if (!(fabs(f) <= 9007199254740992.0) || f != nearbyint(f))
        return false;
    *ret = (int64_t)f;
    return true;
}

bool gguf_elem_f32(const struct gguf_kv *kv, uint64_t i, float *ret)
{
    if (!kv || i >= kv->n)
        return false;
    const uint8_t *p = kv->data + i * type_bytes[kv->elem];
    int64_t whole;
    double d;
    if (kv->elem == GGUF_F32) {
        memcpy(ret, p, 4);
    } else if (kv->elem == GGUF_F64) {
        memcpy(&d, p, 8);
        *ret = (float)d;
    } else if (gguf_elem_i64(kv, i, &whole)) {
        *ret = (float)whole;
    } else {
        return false;
    }
    return true;
}

static const struct gguf_kv *find_scalar(const struct gguf *g, const char *key)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv && kv->type != GGUF_ARRAY ? kv : NULL;
}

bool gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret)
{
    int64_t v;
    if (!gguf_elem_i64(find_scalar(g, key), 0, &v) || v < 0 || v > UINT32_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

bool gguf_get_f32(const struct gguf *g, const char *key, float *ret)
{
    return gguf_elem_f32(find_scalar(g, key), 0, ret);
}

bool gguf_get_bool(const struct gguf *g, const char *key, bool *ret)
{
    int64_t v;
    if (!gguf_elem_i64(find_scalar(g, key), 0, &v) || v < 0 || v > 1)
        return false;
    *ret = v;
    return true;
}

bool gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *ret)
{
    const struct gguf_kv *kv = find_scalar(g, key);
    struct gguf_iter it = gguf_iter(kv);
    return gguf_next(&it, ret);
}

struct gguf_iter gguf_iter(const struct gguf_kv *kv)
{
    return kv && kv->elem == GGUF_STR ? (struct gguf_iter){kv->data, kv->n}
                                      : (struct gguf_iter){NULL, 0};
}

bool gguf_next(struct gguf_iter *it, struct gguf_str *ret)
{
    if (it->left == 0)
        return false;
    uint64_t len; /* was checked when the file was opened */
    memcpy(&len, it->at, 8);
    ret->s = (const char *)it->at + 8;
    ret->len = (size_t)len;
    it->at += 8 + len;
    it->left--;
    return true;
}

int64_t gguf_n_tensor(const struct gguf *g)
{
    return g->n_tensor;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i)
{
    return &g->tensor[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    int64_t lo = 0, hi = g->n_tensor;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        int c = strcmp(name, g->tensor_name[mid]->name);
        if (c == 0)
            return g->tensor_name[mid];
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

void gguf_release(const struct gguf *g, const struct gguf_tensor *t)
{
    (void)g;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)t->data + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)t->data + t->size_bytes) / page * page;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

void gguf_read_ahead(const struct gguf *g)
{
    for (int32_t i = 0; i < g->n_part; i++)
        madvise((void *)g->part[i].map, g->part[i].size_bytes, MADV_WILLNEED);
}
