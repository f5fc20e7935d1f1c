#include "engine/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

const char *const stats_tier_name[STATS_TIERS] = {"f16", "8/8", "8/4", "6/4",
                                                  "4/4", "4/2", "2/2", "disk"};

void stats_forget_verified(struct stats *s)
{
    s->verified = (struct stats_verified){NAN, NAN, NAN, NAN, -1, NAN, NAN, -1, NAN};
}

/* Mean bits of a key and a value of a page together. */
static double page_bits(const int64_t tier_bytes[STATS_TIERS])
{
    static const int bits[STATS_TIERS] = {[1] = 16, [2] = 12, [3] = 10, [4] = 8, [5] = 6, [6] = 4};
    double size = 0, n = 0;
    for (int i = 0; i < STATS_TIERS; i++)
        if (bits[i] && tier_bytes[i] > 0) {
            size += (double)tier_bytes[i];
            n += (double)tier_bytes[i] / bits[i];
        }
    return n > 0 ? size / n : 32;
}

bool stats_coarser(const int64_t tier_bytes[STATS_TIERS], const int64_t were[STATS_TIERS])
{
    return page_bits(tier_bytes) < page_bits(were) * (1 - 1e-6); /* rounding */
}

void stats_forget_fidelity(struct stats *s)
{
    s->harm_predicted = s->step_error = s->harm_measured = s->step_at_s = NAN;
    stats_forget_verified(s);
    s->step_n = -1;
    s->n_verify_done = s->n_verify_total = -1;
}

void stats_init(struct stats *s)
{
    *s = (struct stats){
        .phase = STATS_IDLE,
        .at_s = NAN,
        .n_ctx = -1,
        .n_tok = -1,
        .n_reused = -1,
        .n_read = -1,
        .n_prefill_done = -1,
        .n_prefill_total = -1,
        .n_generated = -1,
        .prefill_tps = NAN,
        .decode_tps = NAN,
        .ttft_s = NAN,
        .eta_s = NAN,
        .coverage = NAN,
        .n_layer = -1,
        .density = NAN,
        .retained_mass = NAN,
        .mass_p5 = NAN,
        .mass_worst = NAN,
        .worst_layer = -1,
        .worst_head = -1,
        .output_error = NAN,
        .correction = NAN,
        .gain_predicted = NAN,
        .gain_measured = NAN,
        .decode_density = NAN,
        .decode_mass = NAN,
        .weights_bytes = -1,
        .scratch_bytes = -1,
        .kv_bytes = -1,
        .kv_chat_bytes = -1,
        .kv_f16_bytes = -1,
        .kv_budget_bytes = -1,
        .fit_tok = -1,
        .fit_floor_tok = -1,
        .rss_bytes = -1,
        .vram_bytes = -1,
        .bytes_per_tok = NAN,
    };
    stats_forget_fidelity(s);
    for (int i = 0; i < STATS_TIERS; i++)
        s->tier_bytes[i] = -1;
    for (int i = 0; i < STATS_LAYERS; i++)
        s->layer_density[i] = s->layer_mass[i] = NAN;
}

void stats_forget_chat(struct stats *s)
{
    struct stats all = *s;
    stats_init(s);
    s->phase = all.phase;
    s->at_s = all.at_s;
    s->timeline = all.timeline;
    s->n_ctx = all.n_ctx;
    s->coverage = all.coverage;
    s->weights_bytes = all.weights_bytes;
    s->scratch_bytes = all.scratch_bytes;
    s->kv_bytes = all.kv_bytes;
    s->kv_budget_bytes = all.kv_budget_bytes;
    memcpy(s->kv, all.kv, sizeof s->kv);
    memcpy(s->kv_floor, all.kv_floor, sizeof s->kv_floor);
    s->rss_bytes = all.rss_bytes;
    s->vram_bytes = all.vram_bytes;
    s->n_verify_done = all.n_verify_done;
    s->n_verify_total = all.n_verify_total;
}

void stats_map_init(struct stats_map *m)
{
    *m = (struct stats_map){.at_s = NAN, .took_s = NAN};
}

void stats_trace_init(struct stats_trace *t)
{
    *t = (struct stats_trace){.at_s = NAN, .took_s = NAN, .on_rows = NAN};
}

void stats_trace_free(struct stats_trace *t)
{
    free(t->weight);
    stats_trace_init(t);
}

bool stats_trace_take(struct stats_trace *ret, const struct stats_trace *from)
{
    if (!isfinite(from->at_s) || from->at_s <= ret->at_s)
        return false;
    float *weight = mem_realloc(ret->weight, ((size_t)from->n + 1) * sizeof *weight);
    if (from->n)
        memcpy(weight, from->weight, (size_t)from->n * sizeof *weight);
    *ret = *from;
    ret->weight = weight;
    return true;
}

int32_t stats_map_heads(const struct stats_map *m)
{
    return m->first ? m->first[m->n_layer] : 0;
}

bool stats_map_take(struct stats_map *ret, const struct stats_map *from)
{
    if (!isfinite(from->at_s) || from->at_s <= ret->at_s)
        return false;
    size_t n_first = from->first ? (size_t)from->n_layer + 1 : 0;
    size_t n_page = (size_t)stats_map_heads(from) * (size_t)from->n_block;
    int32_t *first = mem_realloc(ret->first, (n_first + 1) * sizeof *first);
    struct stats_page *page = mem_realloc(ret->page, (n_page + 1) * sizeof *page);
    if (n_first)
        memcpy(first, from->first, n_first * sizeof *first);
    if (n_page)
        memcpy(page, from->page, n_page * sizeof *page);
    *ret = *from;
    ret->first = first;
    ret->page = page;
    return true;
}

void stats_map_free(struct stats_map *m)
{
    free(m->first);
    free(m->page);
    stats_map_init(m);
}
