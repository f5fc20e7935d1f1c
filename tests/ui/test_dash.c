/* The dashboard on plain data: every size, with and without graphics. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ui/dash.h"
#include "ui/history.h"
#include "ui/theme.h"
#include "ui/view.h"

enum { COLS = 130, ROWS = 90, N_BLOCK = 40, N_LAYER = 6, N_HEAD = 2, N_TOKEN = 60 };

/* Everything known, with long figures: what can be cut off is. */
struct scene {
    struct ui_model m;
    struct dash dash;
    struct history history;
    struct dash_hit hit[DASH_HITS];
    struct stats_map map;
    struct stats_page page[N_LAYER * N_HEAD * N_BLOCK];
    struct dash_token token[N_TOKEN];
    struct stats_trace trace;
    float weight[1000];
    uint32_t path_at[1001];
    struct shapes shapes;
};

static void fill(struct scene *s)
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
    st->kl_measured = 1.234e-5, st->kl_p99_measured = 1.234e-5, st->top1_measured = 0.9912;
    st->nll_difference = 0.01, st->first_divergence = 123456, st->fidelity_n = 123456;
    st->fidelity_at_s = 1;
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
        snprintf(c->hint, sizeof c->hint, "memory for the cache: what does not fit steps down at "
                                          "once, least harm first");
    }
    s->map = (struct stats_map){.at_s = 4, .n_layer = N_LAYER, .n_head_kv = N_HEAD,
                                .n_block = N_BLOCK, .n_tok = 64 * N_BLOCK, .page = s->page};
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

static const char *row(struct cells *c, int y)
{
    static struct str s;
    str_clear(&s);
    cells_row(c, y, &s);
    return str_c(&s);
}

static void dash__every_size__ends_and_stays_inside(void **state)
{
    (void)state;
    struct scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    fill(s);
    struct cells *c = cells_new(COLS, ROWS);
    for (int graphic = 0; graphic < 2; graphic++)
        for (int tab = 0; tab < DASH_TABS; tab++)
            for (int h = 1; h < ROWS - 2; h++)
                for (int w = 1; w < COLS - 2; w += h % 7 + 3) {
                    struct rect r = {1, 1, w, h};
                    s->dash.tab = (enum dash_tab)tab;
                    s->m.shapes = graphic ? &s->shapes : NULL;
                    shapes_clear(&s->shapes);
                    cells_clear(c);
                    view_dash_draw(&s->m, c, r);
                    for (int y = 0; y < ROWS; y++) {
                        assert_int_equal(cells_at(c, 0, y)->text[0], ' ');
                        assert_int_equal(cells_at(c, 1 + w, y)->text[0], ' ');
                    }
                    /* What is cut off stands in the last column; the narrowest dashboard that the
                     * layout makes has 44. */
                    for (int y = 0; y < ROWS && w >= 44; y++)
                        if (cells_at(c, w, y)->text[0] != ' ')
                            fail_msg("cut off in %d columns, tab %d: %s", w, tab, row(c, y));
                    for (int x = 0; x < COLS; x++) {
                        assert_int_equal(cells_at(c, x, 0)->text[0], ' ');
                        assert_int_equal(cells_at(c, x, 1 + h)->text[0], ' ');
                    }
                }
    cells_free(c);
    shapes_fini(&s->shapes);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dash__every_size__ends_and_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
