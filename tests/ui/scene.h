/* A dashboard with everything known and long figures: what can be cut off or drawn wrongly is
 * there. Include after cmocka.h. */
#ifndef TESTS_UI_SCENE_H
#define TESTS_UI_SCENE_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ui/dash.h"
#include "ui/history.h"
#include "ui/theme.h"
#include "ui/view.h"

enum { N_BLOCK = 40, N_LAYER = 6, N_HEAD = 2, N_TOKEN = 60 };

struct scene {
    struct ui_model m;
    struct dash dash;
    struct history history;
    struct dash_hit hit[DASH_HITS];
    struct stats_map map;
    int32_t first[N_LAYER + 1];
    struct stats_page page[N_LAYER * N_HEAD * N_BLOCK];
    struct dash_token token[N_TOKEN];
    struct stats_trace trace;
    float weight[1000];
    uint32_t path_at[1001];
    struct shapes shapes;
};

static inline void scene_fill(struct scene *s)
{
    static const char words[] = "Die Donaudampfschifffahrtsgesellschaft fuhr 1829 los.";
    memset(s, 0, sizeof *s);
    stats_init(&s->m.stats);
    struct stats *st = &s->m.stats;
    *st = (struct stats){.phase = STATS_IDLE, .n_ctx = 131072, .n_tok = 130999};
    st->n_reused = 129999, st->n_read = 1000, st->n_generated = 12345;
    st->prefill_tps = 12345, st->decode_tps = 1234, st->ttft_s = 12.34, st->eta_s = NAN;
    st->coverage = 0.95, st->density = 0.3456, st->retained_mass = 0.98765;
    st->sparse_reason = "sparse where it pays: measured 2.1 times as fast";
    st->decode_density = 0.25, st->decode_mass = 0.9876;
    st->n_layer = N_LAYER;
    for (int i = 0; i < N_LAYER; i++)
        st->layer_density[i] = 0.1f * (float)i, st->layer_mass[i] = 0.99f;
    st->weights_bytes = st->scratch_bytes = st->kv_bytes = 123456789012;
    st->kv_chat_bytes = 123456789, st->kv_f16_bytes = 923456789, st->kv_budget_bytes = 123456789012;
    st->rss_bytes = st->vram_bytes = 123456789012;
    st->fit_tok = 20000, st->fit_floor_tok = 100000;
    snprintf(st->kv, sizeof st->kv, "adaptive");
    snprintf(st->kv_floor, sizeof st->kv_floor, "4/4");
    for (int i = 0; i < STATS_TIERS; i++)
        st->tier_bytes[i] = 123456789;
    st->bytes_per_tok = 123456;
    st->harm_predicted = 1.234e-5, st->harm_measured = 1.234e-5, st->step_n = 12345;
    st->step_at_s = 1;
    st->verified.kl = 1.234e-5, st->verified.kl_p99 = 1.234e-5, st->verified.top1 = 0.9912;
    st->verified.nll_difference = 0.01, st->verified.first_divergence = 123456, st->verified.n = 123456;
    st->verified.at_s = 1;
    s->m.now_s = 50;
    s->m.history = &s->history;
    for (int i = 0; i < 300; i++) {
        st->n_tok = 400 * i;
        history_add_turn(&s->history, st);
    }
    s->m.dash = &s->dash;
    struct dash *d = &s->dash;
    d->hit = s->hit;
    d->turn_at_s = 2, d->disk_at_s = 3;
    d->disk_chat_bytes = d->disk_used_bytes = d->disk_limit_bytes = 123456789012;
    static const char *const labels[DASH_ITEMS] = {"budget", "coverage", "preset", "verify",
                                                   "pinned", "thin",     "undo"};
    for (int i = 0; i < DASH_ITEMS; i++) {
        struct dash_control *c = &d->control[i];
        c->label = labels[i];
        c->turns = i < 3;
        snprintf(c->value, sizeof c->value, "%s", i == 3 || i == 5 ? "" : "streamingllm");
        snprintf(c->hint, sizeof c->hint,
                 "memory for the cache: what does not fit steps down at "
                 "once, least harm first");
    }
    s->map = (struct stats_map){.at_s = 4,
                                .n_layer = N_LAYER,
                                .n_block = N_BLOCK,
                                .n_tok = 64 * N_BLOCK,
                                .first = s->first,
                                .page = s->page};
    for (int i = 0; i <= N_LAYER; i++)
        s->first[i] = i * N_HEAD;
    for (int i = 0; i < N_LAYER * N_HEAD * N_BLOCK; i++)
        s->page[i] = (struct stats_page){(uint8_t)(i % 7), 8, 8, 0.0123f, 0.0456f, 0.025f};
    d->map = &s->map;
    d->page_text = words;
    d->page_text_len = strlen(words);
    for (int i = 0; i < N_TOKEN; i++) {
        struct dash_token *t = &s->token[i];
        *t = (struct dash_token){.text = words + i % 40, .len = (size_t)(1 + i % 9)};
        t->p = (float)(i % 10) / 10;
        for (int k = 0; k < STATS_ALTERNATIVES; k++) {
            t->other[k] = "fahrtsgesellschaft";
            t->other_p[k] = 0.25f;
        }
    }
    d->token = s->token;
    d->n_token = N_TOKEN;
    s->trace = (struct stats_trace){
        .at_s = 1, .pos = 999, .n = 1000, .on_rows = 0.25f, .weight = s->weight};
    for (int i = 0; i < 1000; i++) {
        s->weight[i] = (float)(i % 7) / 3000;
        s->path_at[i] = (uint32_t)(i / 25);
    }
    s->path_at[1000] = 40;
    d->trace = &s->trace;
    d->path_text = words;
    d->path_at = s->path_at;
    d->n_path = 1000;
}

#endif
