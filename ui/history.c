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

void history_add_turn(struct history *h, const struct stats *s)
{
    ring_add(&h->n_tok, s->n_tok);
    ring_add(&h->kv_bytes, (double)s->kv_chat_bytes);
    ring_add(&h->turn_tps, s->decode_tps);
    ring_add(&h->ttft_s, s->ttft_s);
    ring_add(&h->harm, s->harm_predicted);
    bool known = false;
    for (int i = 0; i < STATS_TIERS; i++)
        known |= s->tier_bytes[i] >= 0;
    for (int i = 0; i < STATS_TIERS && known; i++)
        ring_add(&h->tier[i], s->tier_bytes[i] > 0 ? (double)s->tier_bytes[i] : 0);
    h->n_turn++;
}

void history_clear_turns(struct history *h)
{
    h->n_tok.n = h->kv_bytes.n = h->turn_tps.n = h->ttft_s.n = h->harm.n = h->n_turn = 0;
    for (int i = 0; i < STATS_TIERS; i++)
        h->tier[i].n = 0;
}

double history_last(const struct history_ring *r)
{
    return r->n > 0 ? (double)history_get(r, 0) : (double)NAN;
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
