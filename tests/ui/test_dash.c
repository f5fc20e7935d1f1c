/* The dashboard on plain data: every size, with and without graphics; every figure and every state,
 * unknown ones included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "tests/ui/scene.h"

enum { COLS = 130, ROWS = 90 };

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
    scene_fill(s);
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

/* ---- every figure, known and unknown ---- */

enum { WIDE = 150, HIGH = 60 };

/* Everything that the dashboard draws on a page, line after line, with single spaces. */
static const char *drawn(struct ui_model *m, enum dash_tab tab)
{
    static struct str text;
    struct cells *c = cells_new(WIDE, HIGH);
    struct str line = {0};
    str_clear(&text);
    m->dash->tab = tab;
    view_dash_draw(m, c, (struct rect){0, 0, WIDE, HIGH});
    for (int y = 0; y < HIGH; y++) {
        str_clear(&line);
        cells_row(c, y, &line);
        for (size_t i = 0; i < line.len; i++)
            if (line.data[i] != ' ' || (text.len && text.data[text.len - 1] != ' '))
                str_addc(&text, line.data[i]);
        str_addc(&text, '\n');
    }
    str_fini(&line);
    cells_free(c);
    return str_c(&text);
}

static void expect(struct ui_model *m, enum dash_tab tab, const char *want)
{
    const char *text = drawn(m, tab);
    if (!strstr(text, want))
        fail_msg("no \"%s\" in:\n%s", want, text);
}

static struct scene *unknown(void)
{
    struct scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    stats_init(&s->m.stats);
    struct dash *d = &s->dash;
    d->hit = s->hit;
    d->turn_at_s = d->disk_at_s = NAN;
    d->disk_chat_bytes = d->disk_used_bytes = d->disk_limit_bytes = -1;
    for (int i = 0; i < DASH_ITEMS; i++)
        d->control[i].label = "control";
    s->m.dash = d;
    s->m.history = &s->history;
    s->m.now_s = 100;
    return s;
}

#define IN_STATS(field) offsetof(struct stats, field)
#define IN_DASH(field) (sizeof(struct stats) + offsetof(struct dash, field))
static const struct figure {
    size_t off;
    char type; /* i int32, l int64, d double */
    double value;
    enum dash_tab tab;
    const char *unknown, *known;
} figures[] = {
    {IN_STATS(n_tok), 'i', 1234, DASH_OVERVIEW, "-- of --", "1,234 of --"},
    {IN_STATS(n_ctx), 'i', 8192, DASH_OVERVIEW, "-- of --", "-- of 8,192"},
    {IN_STATS(n_reused), 'i', 1000, DASH_OVERVIEW, "reused -- ", "reused 1,000"},
    {IN_STATS(n_read), 'i', 12, DASH_OVERVIEW, "read --\n", "read 12\n"},
    {IN_STATS(kv_chat_bytes), 'l', 3 << 20, DASH_OVERVIEW, "this chat -- in", "this chat 3.00 MiB in"},
    {IN_STATS(kv_f16_bytes), 'l', 12 << 20, DASH_OVERVIEW, "in f16 --", "in f16 12.0 MiB"},
    {IN_STATS(bytes_per_tok), 'd', 512, DASH_OVERVIEW, "--/token", "512 B/token"},
    {IN_STATS(kv_bytes), 'l', 5 << 20, DASH_OVERVIEW, " -- of --\n", " 5.00 MiB of --\n"},
    {IN_STATS(kv_budget_bytes), 'l', 24 << 20, DASH_OVERVIEW, " -- of --\n", " -- of 24.0 MiB\n"},
    {IN_STATS(rss_bytes), 'l', 1 << 30, DASH_OVERVIEW, "RAM --", "RAM 1.00 GiB"},
    {IN_STATS(vram_bytes), 'l', 2 << 20, DASH_OVERVIEW, "VRAM --", "VRAM 2.00 MiB"},
    {IN_STATS(weights_bytes), 'l', 7 << 20, DASH_OVERVIEW, "weights --", "weights 7.00 MiB"},
    {IN_STATS(scratch_bytes), 'l', 9 << 20, DASH_OVERVIEW, "scratch --", "scratch 9.00 MiB"},
    {IN_DASH(disk_chat_bytes), 'l', 6 << 20, DASH_OVERVIEW, "disk this chat -- ",
     "disk this chat 6.00 MiB "},
    {IN_DASH(disk_used_bytes), 'l', 8 << 20, DASH_OVERVIEW, "all chats -- of",
     "all chats 8.00 MiB of"},
    {IN_DASH(disk_limit_bytes), 'l', 1 << 30, DASH_OVERVIEW, " of --, --", " of 1.00 GiB, --"},
    {IN_DASH(disk_at_s), 'd', 96, DASH_OVERVIEW, " of --, --", " of --, 4 s ago"},
    {IN_DASH(turn_at_s), 'd', 40, DASH_OVERVIEW, "Context no turn yet", "Context last turn, 60 s ago"},
    {IN_STATS(harm_predicted), 'd', 0.0021, DASH_OVERVIEW, "predicted harm -- of", "harm 0.0021 of"},
    {IN_STATS(harm_measured), 'd', 0.0034, DASH_OVERVIEW, "sampled --", "sampled 0.0034"},
    {IN_STATS(verified.kl), 'd', 0.004, DASH_OVERVIEW, "verified KL --", "verified KL 0.004"},
    {IN_STATS(verified.top1), 'd', 0.98, DASH_OVERVIEW, "top-1 --\n", "top-1 98.0%\n"},
    {IN_STATS(prefill_tps), 'd', 345, DASH_SPEED, "reading -- tok/s", "reading 345 tok/s"},
    {IN_STATS(decode_tps), 'd', 45.6, DASH_SPEED, "writing -- tok/s", "writing 45.6 tok/s"},
    {IN_STATS(ttft_s), 'd', 1.5, DASH_SPEED, "first -- to the first", "first 1.50 s to the first"},
    {IN_STATS(n_generated), 'i', 77, DASH_SPEED, "written -- tokens", "written 77 tokens"},
    {IN_STATS(coverage), 'd', 0.95, DASH_SPEED, "coverage --, last", "coverage 0.95, last"},
    {IN_STATS(density), 'd', 0.34, DASH_SPEED, "computed -- ", "computed 34% "},
    {IN_STATS(retained_mass), 'd', 0.991, DASH_SPEED, "prompt computed -- mass kept --",
     "prompt computed -- mass kept 99.1%"},
    {IN_STATS(decode_density), 'd', 0.25, DASH_SPEED, "answer read -- of the cache",
     "answer read 25% of the cache"},
    {IN_STATS(decode_mass), 'd', 0.955, DASH_SPEED, "of the cache mass kept --",
     "of the cache mass kept 95.5%"},
};

static void set_figure(struct scene *s, const struct figure *f)
{
    char *at = f->off < sizeof(struct stats) ? (char *)&s->m.stats + f->off
                                             : (char *)&s->dash + (f->off - sizeof(struct stats));
    if (f->type == 'd')
        *(double *)at = f->value;
    else if (f->type == 'l')
        *(int64_t *)at = (int64_t)f->value;
    else
        *(int32_t *)at = (int32_t)f->value;
}

/* Each figure alone: it stands where "--" stood, and nothing else is made up from it. */
static void dash__figures__are_their_fields_and_unknown_is_dashes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        struct scene *s = unknown();
        expect(&s->m, figures[i].tab, figures[i].unknown);
        set_figure(s, &figures[i]);
        expect(&s->m, figures[i].tab, figures[i].known);
        free(s);
    }
}

/* Nothing is known: no page shows a number but in what it explains. */
static void dash__nothing_known__shows_no_number(void **state)
{
    (void)state;
    static const char *const names[] = {"F2", "in f16", "top-1", "0 tokens, perplexity"};
    struct scene *s = unknown();
    for (int tab = 0; tab < DASH_TABS; tab++) {
        char *text = strdup(drawn(&s->m, (enum dash_tab)tab));
        char *end, *turns = strstr(text, "0 turns kept"); /* of the store: known */
        assert_true(tab != DASH_SPEED || turns);
        if (turns)
            *turns = ' ';
        for (char *line = strtok_r(text, "\n", &end); line; line = strtok_r(NULL, "\n", &end)) {
            for (size_t i = 0; i < sizeof names / sizeof *names; i++)
                if (strstr(line, names[i]))
                    memset(strstr(line, names[i]), ' ', strlen(names[i]));
            if (line[strcspn(line, "0123456789")])
                fail_msg("a number that nobody told: %s", line);
        }
        free(text);
    }
    free(s);
}

static void dash__fits__says_what_ends_first(void **state)
{
    (void)state;
    static const struct {
        int32_t n_ctx, n_tok, fit, floor;
        const char *want;
    } rooms[] = {
        {8192, 100, 5000, 20000, "fits 4,900 more tokens as it is 8,092 at the floor, 4/4\n"},
        {8192, 100, 9000, 20000, "fits 8,092 more tokens as it is the context ends first\n"},
        {8192, 6000, 5000, 8000, "fits 2,000 more tokens, as pages step down to 4/4\n"},
        {8192, 6000, 5000, 5000, "fits short turns at most: a larger budget makes room\n"},
        {8192, 8192, 9000, 9000, "fits no more: the context is full\n"},
        {8192, 6000, -1, -1, "fits -- more tokens as it is\n"},
    };
    struct scene *s = unknown();
    struct stats *st = &s->m.stats;
    snprintf(st->kv_floor, sizeof st->kv_floor, "4/4");
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        st->n_ctx = rooms[i].n_ctx, st->n_tok = rooms[i].n_tok;
        st->fit_tok = rooms[i].fit, st->fit_floor_tok = rooms[i].floor;
        expect(&s->m, DASH_OVERVIEW, rooms[i].want);
    }
    free(s);
}

/* What several fields make together. */
static void dash__states__say_what_is_the_case(void **state)
{
    (void)state;
    struct scene *s = unknown();
    struct stats *st = &s->m.stats;
    expect(&s->m, DASH_OVERVIEW, "state ○ not measured");
    st->n_tok = 4096, st->n_ctx = 8192, st->kv_chat_bytes = 1 << 20, st->kv_f16_bytes = 4 << 20;
    expect(&s->m, DASH_OVERVIEW, "4,096 of 8,192 50%");
    expect(&s->m, DASH_OVERVIEW, "in f16 4.00 MiB 25%");
    st->tier_bytes[0] = 1 << 20;
    expect(&s->m, DASH_OVERVIEW, "state ● exact: nothing is compressed");
    expect(&s->m, DASH_OVERVIEW, "■ f16 1.00 MiB");
    for (int i = 1; i < STATS_TIERS; i++) {
        char want[32];
        st->tier_bytes[i] = (int64_t)i << 20;
        snprintf(want, sizeof want, "■ %s %d.00 MiB", stats_tier_name[i], i);
        expect(&s->m, DASH_OVERVIEW, want);
    }
    expect(&s->m, DASH_OVERVIEW, "state ○ not measured");
    static const struct {
        double kl, top1, kl_rounding, top1_rounding;
        const char *want;
    } lights[] = {{0.0099, 0.97, NAN, NAN, "state ● good"},
                  {0.01, 0.97, NAN, NAN, "state ● fair"},
                  {0.0099, 0.969, NAN, NAN, "state ● fair"},
                  {0.05, 0.99, NAN, NAN, "state ● poor"},
                  {0.001, 0.89, NAN, NAN, "state ● poor"},
                  {0.0119, 0.95, 0.002, 0.98, "state ● good"},
                  {0.0121, 0.95, 0.002, 0.98, "state ● fair"},
                  {0.0119, 0.949, 0.002, 0.98, "state ● fair"},
                  {0.0119, 0.879, 0.002, 0.98, "state ● poor"}};
    for (size_t i = 0; i < sizeof lights / sizeof *lights; i++) {
        st->verified.kl = lights[i].kl, st->verified.top1 = lights[i].top1;
        st->verified.kl_rounding = lights[i].kl_rounding, st->verified.top1_rounding = lights[i].top1_rounding;
        expect(&s->m, DASH_OVERVIEW, lights[i].want);
    }
    st->verified.n = 777, st->verified.at_s = 100 - 120, st->verified.kl_p99 = 0.25;
    expect(&s->m, DASH_OVERVIEW, "over 777 positions, 2 min ago 99% below 0.25 rounding alone KL 0.002 top-1 98.0%\n");
    st->verified.kl_rounding = st->verified.top1_rounding = NAN;
    expect(&s->m, DASH_OVERVIEW, "over 777 positions, 2 min ago 99% below 0.25\n");
    st->verified.first_divergence = 42;
    expect(&s->m, DASH_OVERVIEW, "first differs at 42\n");
    st->step_n = 1, st->step_at_s = 98;
    expect(&s->m, DASH_OVERVIEW, "in 1 sample, 2 s ago");
    st->step_n = 5;
    expect(&s->m, DASH_OVERVIEW, "in 5 samples, 2 s ago");
    st->phase = STATS_VERIFY, st->n_verify_done = 64, st->n_verify_total = 512;
    expect(&s->m, DASH_OVERVIEW, "64 of 512 tokens\n");
    st->phase = STATS_PREFILL, st->n_prefill_done = 300, st->n_prefill_total = 1200, st->eta_s = 9;
    s->m.running = true;
    expect(&s->m, DASH_OVERVIEW, "Context live\n");
    expect(&s->m, DASH_OVERVIEW, "300 of 1,200, 9 s left\n");
    expect(&s->m, DASH_SPEED, "left 9.00 s to read\n");
    st->eta_s = NAN;
    expect(&s->m, DASH_OVERVIEW, "300 of 1,200\n");
    expect(&s->m, DASH_SPEED, "left -- to read\n");
    st->phase = STATS_IDLE, s->m.running = false;
    st->n_layer = 3;
    expect(&s->m, DASH_SPEED, "by layer, -- to --\n");
    for (int i = 0; i < 2; i++)
        st->layer_density[i] = 0.25f * (float)(i + 1);
    expect(&s->m, DASH_SPEED, "by layer, 25% to 50%\n");
    s->dash.disk_shared = true;
    expect(&s->m, DASH_OVERVIEW, "disk nothing is kept (--no-save)\n");
    st->n_tok = 100, st->ttft_s = 0.5, st->decode_tps = 33, st->harm_predicted = 0.01;
    history_add_turn(&s->history, st);
    expect(&s->m, DASH_SPEED, "1 turn kept\n");
    expect(&s->m, DASH_SPEED, "context 100 tokens");
    expect(&s->m, DASH_SPEED, "writing 33.0 tok/s");
    expect(&s->m, DASH_SPEED, "first 0.50 s");
    expect(&s->m, DASH_SPEED, "harm 0.01");
    free(s);
}

/* The controls can be seen while keys change them, in the lowest terminal too. */
static void dash__short_screen__shows_the_controls_that_keys_change(void **state)
{
    (void)state;
    struct scene *s = unknown();
    struct cells *c = cells_new(80, 12);
    for (int focus = 0; focus < 2; focus++) {
        s->dash.focus = focus;
        cells_clear(c);
        view_dash_draw(&s->m, c, (struct rect){0, 0, 80, 7});
        assert_non_null(strstr(row(c, 1), focus ? "Controls" : "Cache in memory"));
    }
    cells_free(c);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dash__every_size__ends_and_stays_inside),
        cmocka_unit_test(dash__figures__are_their_fields_and_unknown_is_dashes),
        cmocka_unit_test(dash__nothing_known__shows_no_number),
        cmocka_unit_test(dash__fits__says_what_ends_first),
        cmocka_unit_test(dash__states__say_what_is_the_case),
        cmocka_unit_test(dash__short_screen__shows_the_controls_that_keys_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
