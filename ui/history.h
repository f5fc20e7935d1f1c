/* Figures over time for sparklines: rings of the newest samples, unknown ones left out. Plain data,
 * one thread. */
#ifndef UI_HISTORY_H
#define UI_HISTORY_H

#include "engine/stats.h"

enum { HISTORY_MAX = 256 };

struct history_ring {
    float value[HISTORY_MAX];
    int n, next; /* samples held; where the next one goes */
};

struct history {
    struct history_ring prefill_tps, decode_tps; /* samples of this session */
    struct history_ring n_tok, kv_bytes, turn_tps, ttft_s, harm; /* one per turn of the chat */
    struct history_ring tier[STATS_TIERS]; /* bytes of the chat's cache; equally many in each */
    int n_turn;
};

/* Takes what is being measured right now: reading speed during prefill, writing speed in decode. */
void history_add(struct history *h, const struct stats *s);
/* i-th newest sample, 0 = the newest; i < n. */
float history_get(const struct history_ring *r, int i);
double history_last(const struct history_ring *r); /* NAN when there is none */
/* A turn ended with these figures. */
void history_add_turn(struct history *h, const struct stats *s);
void history_clear_turns(struct history *h);
float history_max(const struct history_ring *r, int n_newest); /* 0 when there is none */

#endif
