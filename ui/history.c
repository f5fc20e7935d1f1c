/* Rings of samples; see history.h. */
#include "ui/history.h"

#include <math.h>

static void ring_add(struct history_ring *r, double v)
{
    if (!isfinite(v) || v < 0)
        return;
    r->value[r->next] = (float)v;
    r->next = (r->next + 1) % HISTORY_MAX;
    if (r->n < HISTORY_MAX)
        r->n++;
}

void history_add(struct history *h, const struct stats *s)
{
    if (s->phase == STATS_PREFILL)
        ring_add(&h->prefill_tps, s->prefill_tps);
    else if (s->phase == STATS_DECODE)
        ring_add(&h->decode_tps, s->decode_tps);
}

float history_get(const struct history_ring *r, int i)
{
    return r->value[(r->next - 1 - i + 2 * HISTORY_MAX) % HISTORY_MAX];
}

float history_max(const struct history_ring *r, int n_newest)
{
    float max = 0;
    for (int i = 0; i < n_newest && i < r->n; i++)
        if (history_get(r, i) > max)
            max = history_get(r, i);
    return max;
}
