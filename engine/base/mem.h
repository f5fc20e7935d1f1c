/* Host allocation. Small allocations abort on exhaustion in one place (an untested recovery path
 * is worse); sizes taken from files or growing with the context use mem_try and report. */
#ifndef ENGINE_BASE_MEM_H
#define ENGINE_BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t size_bytes);                    /* malloc or abort */
void *mem_calloc(size_t n, size_t size_bytes);         /* zeroed or abort; checks n * size */
void *mem_realloc(void *p, size_t size_bytes);         /* or abort */
char *mem_strdup(const char *s);                       /* NULL gives NULL */
char *mem_strndup(const char *s, size_t n);            /* always NUL-terminated */
void *mem_try(size_t size_bytes);                      /* 64-byte aligned, NULL when it fails; free() */

/* a * b in 64 bits; false on overflow, then *ret is untouched. */
bool mem_mul(uint64_t a, uint64_t b, uint64_t *ret);

#endif
