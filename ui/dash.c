/* Rules of the dashboard; see dash.h. */
#include "ui/dash.h"

#include <math.h>

enum dash_light dash_light(const struct stats *s)
{
    const struct stats_verified *v = &s->verified;
    if (isfinite(v->kl) && isfinite(v->top1)) {
        /* What rounding does to any difference is not the cache's. */
        double kl = v->kl - (isfinite(v->kl_rounding) ? v->kl_rounding : 0);
        double all = isfinite(v->top1_rounding) ? v->top1_rounding : 1;
        if (kl < 0.01 && v->top1 >= all - 0.03)
            return DASH_LIGHT_GOOD;
        return kl < 0.05 && v->top1 >= all - 0.1 ? DASH_LIGHT_FAIR : DASH_LIGHT_POOR;
    }
    bool exact = s->tier_bytes[0] > 0; /* everything held is in f16 */
    for (int i = 1; i < STATS_TIERS; i++)
        exact &= s->tier_bytes[i] <= 0;
    return exact ? DASH_LIGHT_EXACT : DASH_LIGHT_UNKNOWN;
}

struct dash_room dash_room(const struct stats *s, int32_t fit_tok)
{
    if (fit_tok < 0 || s->n_ctx < 0 || s->n_tok < 0)
        return (struct dash_room){-1, false};
    bool context = s->n_ctx <= fit_tok;
    int64_t n = (context ? s->n_ctx : fit_tok) - s->n_tok;
    return (struct dash_room){n < 0 ? 0 : n, context};
}
