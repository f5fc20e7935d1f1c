/* Keeping timelines on disk through struct kv_io, and taking them up again.
 *
 * What is put: pages as they seal (exact preset: f16 rows of complete blocks), and the f16 rows of
 * the window when the timeline rests: another one is taken up, nobody has written for a while, or
 * the engine closes. (Rows of no use any more after the next turn; without them at most 127 tokens
 * are read again.) They go by KV_IO_ROWS_TOK tokens, each once: the next rest adds what came since.
 * A log that was cut inside of its last block finds the rows before, so it goes on from there as it
 * would in memory. Pages go by the planes of the ladder; a piece holds all KV heads of one layer;
 * its bytes are ordered so that like stands by like and compresses: planes first, then scales and
 * offsets, of 16-bit numbers all low bytes before all high ones. What comes back is checked byte
 * for byte against the page format; the first thing that is missing or damaged ends what is taken
 * up, and the rest is read from ids.
 *
 * Engine thread only. */
#ifndef ENGINE_KEEP_H
#define ENGINE_KEEP_H

#include "engine/base/kv_io.h"
#include "engine/kv.h"

struct keep {
    struct kv_io io;
    uint64_t fingerprint; /* of model, encoding and page format */
};

/* The part of the fingerprint that the cache's own format decides. */
uint64_t keep_fingerprint(uint64_t model, const struct preset *preset);

/* Puts blocks of the line that can no longer change and are not kept yet; cheap when there are
 * none. */
void keep_blocks(const struct keep *k, int64_t id, struct kv_line *line);
/* The same, then the window rows: the line can be taken up at exactly its present length. Cheap when
 * that was done already. */
void keep_state(const struct keep *k, int64_t id, struct kv_line *line);
/* Who is asked for memory of the line's pool when need_bytes more do not fit; false = there is none to
 * free. It may step pages of the line down. */
struct keep_room {
    bool (*make)(void *ctx, uint64_t need_bytes);
    void *ctx;
};
/* When more of ids[0..n) is kept than the line holds, the line is filled from it, as far as there is room.
 * Returns the tokens taken up (0 = the line is as it was). */
int32_t keep_load(const struct keep *k, int64_t id, struct kv_line *line, const int32_t *ids,
                  int32_t n, const struct keep_room *room);

#endif
