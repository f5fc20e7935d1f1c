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

/* Steps pages of all lines of the pool down until need_bytes more fit its budget. False when
 * everything is at the preset's floor (or the preset is fixed) and it still does not fit. */
bool ledger_fit(struct kv_pool *p, uint64_t need_bytes);

/* Recent turns weigh more: called once at the end of each turn. */
void ledger_decay(struct kv_line *l);

/* Mean relative error of what attention reads on this line, weighted by mass: the predicted part of
 * the fidelity meter. 0 when nothing is compressed. */
double ledger_harm(const struct kv_line *l);
/* Bytes of this line by tier, as in stats_tier_name. */
void ledger_tiers(const struct kv_line *l, int64_t ret[STATS_TIERS]);

#endif
