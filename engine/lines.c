#include "engine/lines.h"

#include <stdlib.h>

#include "engine/base/mem.h"

enum { MAX_LINES = 64 }; /* each costs a table, even when its blocks are shared */

struct entry {
    int64_t id;
    uint64_t used; /* tick of the last take */
    struct kv_line *line;
};

struct lines {
    struct kv_pool *pool;
    int32_t n_ctx;
    uint64_t tick;
    struct entry entry[MAX_LINES];
    int32_t n;
};

struct lines *lines_new(struct kv_pool *pool, int32_t n_ctx)
{
    struct lines *l = mem_calloc(1, sizeof *l);
    l->pool = pool;
    l->n_ctx = n_ctx;
    return l;
}

static void remove_at(struct lines *l, int32_t i)
{
    kv_line_free(l->entry[i].line);
    l->entry[i] = l->entry[--l->n];
}

void lines_free(struct lines *l)
{
    if (!l)
        return;
    while (l->n)
        remove_at(l, l->n - 1);
    free(l);
}

static int32_t index_of(const struct lines *l, int64_t id)
{
    for (int32_t i = 0; i < l->n; i++)
        if (l->entry[i].id == id)
            return i;
    return -1;
}

struct kv_line *lines_find(struct lines *l, int64_t id)
{
    int32_t i = index_of(l, id);
    return i < 0 ? NULL : l->entry[i].line;
}

void lines_keep(struct lines *l, const struct keep *k, int64_t except)
{
    for (int32_t i = 0; i < l->n; i++)
        if (l->entry[i].id != except)
            keep_state(k, l->entry[i].id, l->entry[i].line);
}

bool lines_drop(struct lines *l, int64_t id)
{
    int32_t i = index_of(l, id);
    if (i >= 0)
        remove_at(l, i);
    return i >= 0;
}

bool lines_drop_oldest(struct lines *l, int64_t keep)
{
    int32_t old = -1;
    for (int32_t i = 0; i < l->n; i++)
        if (l->entry[i].id != keep && (old < 0 || l->entry[i].used < l->entry[old].used))
            old = i;
    if (old >= 0)
        remove_at(l, old);
    return old >= 0;
}

struct kv_line *lines_take(struct lines *l, int64_t id, const int32_t *ids, int32_t n)
{
    int32_t own = index_of(l, id), best = -1, best_n = 0;
    int32_t own_n = own < 0 ? 0 : kv_common(l->entry[own].line, ids, n);
    for (int32_t i = 0; i < l->n; i++) {
        int32_t c = kv_common(l->entry[i].line, ids, n);
        if (i != own && c > best_n) {
            best = i;
            best_n = c;
        }
    }
    /* Sharing copies one block as soon as it is written into: less than a block is not worth it. */
    bool share = best >= 0 && best_n >= own_n + KERN_BLOCK_TOK;
    struct kv_line *line;
    if (own >= 0 && !share) {
        line = l->entry[own].line;
        if (kv_n_tok(line) > own_n)
            kv_truncate(line, own_n);
    } else {
        line = share ? kv_line_fork(l->entry[best].line, best_n) : kv_line_new(l->pool, l->n_ctx);
        if (own >= 0)
            remove_at(l, own);
        else if (l->n == MAX_LINES)
            lines_drop_oldest(l, id);
        own = l->n++;
        l->entry[own] = (struct entry){.id = id, .line = line};
    }
    l->entry[own].used = ++l->tick;
    return line;
}
