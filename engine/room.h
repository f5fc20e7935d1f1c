/* Room for a loaded model's caches: how far they are compressed and what leaves memory when they do not
 * fit. Held to the floor that was measured for the model, as soon as one is known. Called by whoever
 * holds `compute` (local.h). */
#ifndef ENGINE_ROOM_H
#define ENGINE_ROOM_H

#include "engine/local.h"

/* A pool for timelines of the present preset. */
struct kv_pool *room_pool(const struct local *l, uint64_t budget_bytes);

/* Makes the model's floor known, by measuring once when it must be, and puts it in force. */
void room_need_floor(struct local *l);
/* The same where pages are sealed as the floor says and a timeline of n_tok will have some. */
void room_need_depths(struct local *l, int32_t n_tok);
/* Puts a known floor in force; the pool may not be there yet. */
void room_use_floor(struct local *l);
/* A context and a budget that were both asked for by number and do not fit at the preset's floor
 * are leave to go a step below it; what is above the measured floor goes first all the same. False
 * when there is no such step. */
bool room_ask_less(struct local *l);

/* Frees memory for n more tokens: first other timelines leave, then (adaptive) precision steps
 * down. False when nothing is left to free. */
bool room_make(struct local *l, int64_t id, struct kv_line *line, int32_t n);
/* Room for n more tokens of the timeline `id`: drops other timelines from memory as needed. */
enum status room_reserve(struct local *l, int64_t id, struct kv_line *line, int32_t n,
                         struct err *e);
/* keep_load for the timeline `id`, whose line this is, with such room made for it. */
void room_load(struct local *l, int64_t id, struct kv_line *line, const int32_t *ids, int32_t n);
/* Brings the pool to the budget asked for; true when that changed something. */
bool room_fit_budget(struct local *l);

#endif
