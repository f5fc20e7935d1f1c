/* Plots: the same values as characters and as shapes, tips under the pointer. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "ui/plot.h"
#include "ui/theme.h"

enum { W = 20, H = 4 };

static const char *row(struct cells *c, int y)
{
    static struct str s;
    str_clear(&s);
    cells_row(c, y, &s);
    return str_c(&s);
}

static void plot_stack__characters__every_part_is_seen(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct plot p = {c, NULL, {0, 0, W, H}};
    struct plot_part parts[] = {{1, ROLE_TIER_0, NULL},
                                {NAN, ROLE_TIER_1, NULL},
                                {0, ROLE_TIER_2, NULL},
                                {997, ROLE_TIER_3, NULL},
                                {2, ROLE_TIER_4, NULL}};
    plot_stack(&p, (struct rect){0, 0, 10, 1}, parts, 5, 1000, NULL);
    assert_string_equal(row(c, 0), "██████████");
    assert_int_equal(cells_at(c, 0, 0)->role, ROLE_TIER_0);
    for (int x = 1; x < 9; x++)
        assert_int_equal(cells_at(c, x, 0)->role, ROLE_TIER_3);
    assert_int_equal(cells_at(c, 9, 0)->role, ROLE_TIER_4);
    plot_stack(&p, (struct rect){0, 1, 10, 1}, &(struct plot_part){5, ROLE_TIER_0, NULL}, 1, 10,
               NULL);
    assert_string_equal(row(c, 1), "█████░░░░░");
    cells_free(c);
}

static void plot_bar__unknown__is_empty(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct plot p = {c, NULL, {0, 0, W, H}};
    plot_bar(&p, (struct rect){0, 0, 5, 1}, NAN, ROLE_TIER_0, "--");
    assert_string_equal(row(c, 0), "░░░░░");
    plot_bar(&p, (struct rect){0, 1, 5, 1}, 0.01, ROLE_TIER_0, "1%");
    assert_string_equal(row(c, 1), "█░░░░");
    plot_bar(&p, (struct rect){0, 2, 5, 1}, 7, ROLE_TIER_0, "700%");
    assert_string_equal(row(c, 2), "█████");
    plot_bar(&p, (struct rect){0, 3, -3, 1}, 0.5, ROLE_TIER_0, "");
    assert_string_equal(row(c, 3), "");
    cells_free(c);
}

static void plot_stack__shapes__widths_and_tips(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct shapes s = {0};
    struct plot p = {c, &s, {0, 0, W, H}};
    struct plot_part parts[] = {{25, ROLE_TIER_0, "a quarter"}, {50, ROLE_TIER_4, "a half"}};
    plot_stack(&p, (struct rect){2, 1, 8, 1}, parts, 2, 100, "free");
    assert_string_equal(row(c, 1), "");
    assert_int_equal(s.n, 3);
    assert_float_equal(s.shape[0].w, 2, 1e-4);
    assert_float_equal(s.shape[1].x, 4, 1e-4);
    assert_float_equal(s.shape[1].w, 4, 1e-4);
    assert_string_equal(shapes_tip(&s, 3.9f, 1.5f), "a quarter");
    assert_string_equal(shapes_tip(&s, 4.1f, 1.5f), "a half");
    assert_string_equal(shapes_tip(&s, 9.9f, 1.5f), "free");
    assert_null(shapes_tip(&s, 10.1f, 1.5f));
    assert_null(shapes_tip(&s, 4.1f, 2.5f));
    shapes_fini(&s);
    cells_free(c);
}

static void plot_spark__both__shows_the_newest(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct shapes s = {0};
    struct history_ring ring = {0};
    for (int i = 0; i < 300; i++) { /* more than the ring holds */
        ring.value[ring.next] = (float)(i % 4 + 1);
        ring.next = (ring.next + 1) % HISTORY_MAX;
        if (ring.n < HISTORY_MAX)
            ring.n++;
    }
    struct plot p = {c, NULL, {0, 0, W, H}};
    plot_spark(&p, (struct rect){0, 0, 4, 2}, &ring, ROLE_TIER_0, "tok/s");
    assert_string_equal(row(c, 0), "  ▄█");
    assert_string_equal(row(c, 1), "▄███");
    p.shapes = &s;
    plot_spark(&p, (struct rect){0, 0, 4, 2}, &ring, ROLE_TIER_0, "tok/s");
    assert_string_equal(shapes_tip(&s, 4, 1), "4.00 tok/s");
    for (uint32_t i = 0; i < s.n_point; i++) {
        assert_true(s.xy[2 * i] >= 0 && s.xy[2 * i] <= 4);
        assert_true(s.xy[2 * i + 1] >= 0 && s.xy[2 * i + 1] <= 2);
    }
    shapes_clear(&s);
    plot_spark(&p, (struct rect){0, 0, 4, 2}, &(struct history_ring){0}, ROLE_TIER_0, "tok/s");
    assert_int_equal(s.n, 0);
    shapes_fini(&s);
    cells_free(c);
}

static struct plot_cell chequer(void *ctx, int col, int row, char *tip, size_t size)
{
    (void)ctx;
    snprintf(tip, size, "%d,%d", col, row);
    if (row == 1)
        return (struct plot_cell){ROLE_TIER_0, NAN};
    return (struct plot_cell){(uint8_t)(ROLE_TIER_0 + col % 2), (float)col / 7};
}

static void plot_areas__both__stacks_and_tips(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct shapes s = {0};
    struct plot p = {c, NULL, {0, 0, W, H}};
    struct history h = {.n_turn = 0};
    struct stats st;
    stats_init(&st);
    struct plot_area area[2] = {{&h.tier[0], ROLE_TIER_0, "f16"}, {&h.tier[1], ROLE_TIER_1, "8/8"}};
    struct rect r = {0, 0, 8, 4};
    assert_true(plot_areas(&p, r, area, 2) == 0);
    history_add_turn(&h, &st); /* unknown: left out */
    assert_int_equal(h.tier[0].n, 0);
    st.tier_bytes[0] = 1024;
    history_add_turn(&h, &st);
    st.tier_bytes[1] = 3072;
    history_add_turn(&h, &st);
    assert_true(plot_areas(&p, r, area, 2) == 4096);
    assert_string_equal(row(c, 0), "    ████");
    assert_string_equal(row(c, 2), "    ████");
    assert_string_equal(row(c, 3), "████████");
    assert_int_equal(cells_at(c, 0, 3)->role, ROLE_TIER_0);
    assert_int_equal(cells_at(c, 7, 3)->role, ROLE_TIER_0);
    assert_int_equal(cells_at(c, 7, 2)->role, ROLE_TIER_1);
    assert_int_equal(cells_at(c, 7, 0)->role, ROLE_TIER_1);
    p.shapes = &s;
    assert_true(plot_areas(&p, r, area, 2) == 4096);
    assert_string_equal(shapes_tip(&s, 1, 1), "1.00 KiB  f16 1.00 KiB");
    assert_string_equal(shapes_tip(&s, 7, 1), "4.00 KiB  f16 1.00 KiB  8/8 3.00 KiB");
    /* the coarser one first, so that the finer one below covers it */
    assert_int_equal(s.shape[0].role, ROLE_TIER_1);
    assert_int_equal(s.shape[1].role, ROLE_TIER_0);
    float top = s.xy[2 * s.shape[0].point + 3], low = s.xy[2 * s.shape[1].point + 3];
    assert_true(fabsf((4 - 0.08f - top) / (4 - 0.08f - low) - 4) < 0.01f);
    shapes_fini(&s);
    cells_free(c);
}

static void plot_heat__both__unknown_stays_blank(void **state)
{
    (void)state;
    struct cells *c = cells_new(W, H);
    struct shapes s = {0};
    struct plot p = {c, NULL, {0, 0, W, H}};
    plot_heat(&p, (struct rect){0, 0, 8, 2}, 8, 2, chequer, NULL);
    assert_string_equal(row(c, 0), "░░▒▒▓▓██");
    assert_string_equal(row(c, 1), "");
    p.shapes = &s;
    plot_heat(&p, (struct rect){0, 0, 4, 2}, 8, 2, chequer, NULL);
    assert_int_equal(s.n, 8);
    assert_string_equal(shapes_tip(&s, 3.6f, 0.5f), "7,0");
    assert_null(shapes_tip(&s, 3.6f, 1.5f));
    shapes_clear(&s);
    plot_heat(&p, (struct rect){0, 0, 4, 1}, 5000, 1, chequer, NULL); /* no more than can be seen */
    assert_int_equal(s.n, 16);
    shapes_fini(&s);
    cells_free(c);
}

static void shapes_equal__tells_frames_apart(void **state)
{
    (void)state;
    struct shapes a = {0}, b = {0};
    float xy[] = {0, 0, 1, 1};
    shapes_line(&a, SHAPE_LINE, (struct rect){0, 0, 2, 2}, xy, 2, ROLE_TIER_0, 255);
    shapes_line(&b, SHAPE_LINE, (struct rect){0, 0, 2, 2}, xy, 2, ROLE_TIER_0, 255);
    assert_true(shapes_equal(&a, &b));
    b.xy[3] = 0.5f;
    assert_false(shapes_equal(&a, &b));
    b.xy[3] = 1;
    shapes_fill(&a, 0, 0, 1, 1, 0, 255, "x");
    assert_false(shapes_equal(&a, &b));
    shapes_fill(&b, 0, 0, 1, 1, 0, 255, "y");
    assert_false(shapes_equal(&a, &b));
    shapes_fini(&a);
    shapes_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plot_stack__characters__every_part_is_seen),
        cmocka_unit_test(plot_bar__unknown__is_empty),
        cmocka_unit_test(plot_stack__shapes__widths_and_tips),
        cmocka_unit_test(plot_spark__both__shows_the_newest),
        cmocka_unit_test(plot_areas__both__stacks_and_tips),
        cmocka_unit_test(plot_heat__both__unknown_stays_blank),
        cmocka_unit_test(shapes_equal__tells_frames_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
