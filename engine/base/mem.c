#include "engine/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_abort(void *p, size_t size_bytes)
{
    if (!p && size_bytes) {
        fprintf(stderr, "dogear: out of memory (%zu bytes)\n", size_bytes);
        abort();
    }
    return p;
}

void *mem_alloc(size_t size_bytes)
{
    return or_abort(malloc(size_bytes ? size_bytes : 1), size_bytes);
}

void *mem_calloc(size_t n, size_t size_bytes)
{
    return or_abort(calloc(n ? n : 1, size_bytes ? size_bytes : 1), n * size_bytes);
}

void *mem_realloc(void *p, size_t size_bytes)
{
    return or_abort(realloc(p, size_bytes ? size_bytes : 1), size_bytes);
}

char *mem_strdup(const char *s)
{
    return s ? mem_strndup(s, strlen(s)) : NULL;
}

char *mem_strndup(const char *s, size_t n)
{
    char *p = mem_alloc(n + 1);
    if (n)
        memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void *mem_try(size_t size_bytes)
{
    if (size_bytes > SIZE_MAX - 64)
        return NULL;
    return aligned_alloc(64, (size_bytes + 63) & ~(size_t)63);
}

bool mem_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}
