/* What comes back from a device that only pretends (shim.cc, tests/ptx): it arrives when it is
 * waited for and not before, as late as a device may be: whoever looks without waiting sees what
 * was there. */
#ifndef KERNELS_CUDA_LATE_H
#define KERNELS_CUDA_LATE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct late_copy {
    const void *stream;
    uint64_t turn;
    void *to, *own; /* own: what was read when its turn came; NULL = to be read */
    const void *from;
    size_t n;
};

enum { LATE_MAX = 1024 };
static late_copy late[LATE_MAX];
static int n_late;
static uint64_t last_turn;

static inline uint64_t late_now(void)
{
    return last_turn;
}

/* The stream on which kernels run reads at once, in its turn; another one only when it is waited
 * for. */
static inline void late_add(const void *stream, void *to, const void *from, size_t n, bool at_once)
{
    late_copy l = {stream, ++last_turn, to, NULL, from, n};
    if (n_late == LATE_MAX || (at_once && !(l.own = malloc(n ? n : 1)))) {
        fprintf(stderr, "late: too much is on its way\n");
        abort();
    }
    if (l.own)
        memcpy(l.own, from, n);
    late[n_late++] = l;
}

/* Copies of a stream up to this turn arrive; lost = they do not, nor will they. */
static inline void late_arrive(const void *stream, uint64_t turn, bool lost = false)
{
    int left = 0;
    for (int i = 0; i < n_late; i++) {
        late_copy *l = &late[i];
        if (l->stream != stream || l->turn > turn) {
            late[left++] = *l;
            continue;
        }
        if (!lost)
            memcpy(l->to, l->own ? l->own : l->from, l->n);
        free(l->own);
    }
    n_late = left;
}

#endif
