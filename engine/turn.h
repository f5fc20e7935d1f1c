/* One turn on the engine's thread: template -> tokenizer -> longest common beginning -> prefill ->
 * decode, told as events. */
#ifndef ENGINE_TURN_H
#define ENGINE_TURN_H

#include "engine/local.h"

/* A turn with everything it points to copied. */
struct turn {
    uint64_t number;
    int64_t timeline;
    int32_t *prefix;
    int32_t n_prefix;
    struct engine_message *messages;
    int32_t n_message;
    bool raw;
    struct engine_sampling sampling;
    int32_t n_predict;
};

struct turn *turn_copy(const struct engine_turn *t, uint64_t number);
void turn_free(struct turn *t);

/* Runs it to its end and returns its last event (DONE or FAILED), not pushed yet: the caller first
 * marks the engine idle, so that whoever sees the event may submit the next turn. Holds no lock. */
struct engine_event *turn_run(struct local *l, const struct turn *t);

#endif
