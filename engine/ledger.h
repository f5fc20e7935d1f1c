/* What compression costs, and who pays: per page the error of each depth (measured when it was
 * sealed) and the attention mass that falls on it (summed by the attention kernel while answers are
 * written). Expected harm of a page = mass x error; the controller steps down the pages whose harm
 * per byte freed is least until the cache fits.
 *
 * Engine thread only. */
#ifndef ENGINE_LEDGER_H
#define ENGINE_LEDGER_H

#include "engine/kv.h"
#include "engine/stats.h"
#include "kernels/page.h"

/* Steps pages of all lines of the pool down until need_bytes more of lines fit its budget. False when
 * everything is at the preset's floor (or the preset is fixed) and it still does not fit. */
bool ledger_fit(struct kv_pool *p, uint64_t need_bytes);
bool ledger_under_floor(const struct kv_pool *p); /* pages had to pass the soft floor */

/* Recent turns weigh more: called once at the end of each turn. */
void ledger_decay(struct kv_line *l);

/* Mean relative error of what attention reads on this line, weighted by mass: the predicted part of
 * the fidelity meter. 0 when nothing is compressed. */
double ledger_harm(const struct kv_line *l);
/* Mean of the squared relative errors of a layer's pages at this depth; 0 when there are none. */
double ledger_error2(const struct kv_line *l, int32_t layer, enum page_tensor tensor, int32_t bits);
/* The relative error that the ledger counts for reading this page. */
double ledger_page_error(const struct kern_page *page);
/* Bytes of this line by tier, as in stats_tier_name. */
void ledger_tiers(const struct kv_line *l, int64_t ret[STATS_TIERS]);
/* Tokens that the pool's budget holds when this line (NULL = an empty one) has it all, read in
 * chunks of n_chunk: with pages as they are in it (none = as sealed), and stepped down to the
 * preset's floor. Where chunks are too long to add any, what one shorter prompt may add. */
int32_t ledger_room(const struct kv_pool *p, const struct kv_line *l, int32_t n_chunk);
int32_t ledger_room_floor(const struct kv_pool *p, const struct kv_line *l, int32_t n_chunk);
/* Name of the coarsest tier that the preset steps down to. */
const char *ledger_floor_name(const struct preset *p);
/* Fills everything but times and timeline; what *ret held is reused or freed. */
void ledger_map(const struct kv_line *l, struct stats_map *ret);

#endif
