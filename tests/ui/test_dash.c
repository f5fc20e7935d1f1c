/* The dashboard on plain data: every size, with and without graphics. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dash__every_size__ends_and_stays_inside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
