/* The timelines held in memory: found by number or by common beginning, dropped least recently
 * used first when the pool's budget is needed. Engine thread only. */
#ifndef ENGINE_LINES_H
#define ENGINE_LINES_H

#include "engine/keep.h"
#include "engine/kv.h"

struct lines;

struct lines *lines_new(struct kv_pool *pool, int32_t n_ctx);
void lines_free(struct lines *l); /* NULL is fine */

/* The timeline `id`, holding the longest beginning of ids[0..n) that is in memory anywhere and
 * nothing beyond it. When another timeline holds more of it, its blocks are shared. Borrowed until
 * lines_drop or lines_free. */
struct kv_line *lines_take(struct lines *l, int64_t id, const int32_t *ids, int32_t n);

/* Drops timeline id; false when it is not here. */
bool lines_drop(struct lines *l, int64_t id);
/* Drops the least recently used timeline other than `keep`; false when there is none. */
bool lines_drop_oldest(struct lines *l, int64_t keep);

/* Puts the state of all timelines but `except` on disk. */
void lines_keep(struct lines *l, const struct keep *k, int64_t except);

struct kv_line *lines_find(struct lines *l, int64_t id); /* NULL when not in memory */

#endif
