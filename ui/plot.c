/* Graphics in characters or shapes; see plot.h. */
#include "ui/plot.h"

#include <math.h>
#include <stdio.h>

#include "ui/format.h"
#include "ui/theme.h"

enum { EMPTY_ALPHA = 90 };
static const float GAP = 0.12f; /* of a column, between the cells of a heat map */
/* Eighths of a row from the bottom up. */
static const char *const steps[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
static const float INSET = 0.18f; /* of a row, above and below a bar */

static void put(const struct plot *p, int x, int y, const char *s, uint8_t role)
{
    cells_puts(p->c, p->clip, x, y, s, role, 0, 0);
}

/* Blanks under shapes, so that the grid says the same everywhere. */
static void box(const struct plot *p, struct rect r, float from, float to, uint8_t role,
                uint8_t alpha, const char *tip)
{
    if (to > from)
        shapes_fill(p->shapes, (float)r.x + from, (float)r.y + INSET, to - from,
                    (float)r.h - 2 * INSET, role, alpha, tip);
}

void plot_bar(const struct plot *p, struct rect r, double part, uint8_t role, const char *tip)
{
    struct plot_part one = {part, role, tip};
    plot_stack(p, r, &one, 1, 1, tip);
}

static bool shown(const struct plot_part *part)
{
    return isfinite(part->value) && part->value > 0;
}

void plot_stack(const struct plot *p, struct rect r, const struct plot_part *parts, int n,
                double total, const char *rest_tip)
{
    r = rect_cross(r, p->clip);
    if (rect_empty(r))
        return;
    double sum = 0;
    int left = 0; /* parts still to draw: each needs a column */
    for (int i = 0; i < n; i++)
        if (shown(&parts[i])) {
            sum += parts[i].value;
            left++;
        }
    if (!(total > sum))
        total = sum;
    double at = 0;
    int col = 0;
    for (int i = 0; i < n; i++) {
        if (!shown(&parts[i]))
            continue;
        double end = fmin(at + parts[i].value, total);
        if (p->shapes) {
            /* A pixel or two at least, or a small tier could not be seen. */
            float x0 = (float)(at / total * r.w), x1 = (float)(end / total * r.w);
            box(p, r, x0, fmaxf(x1, x0 + 0.15f), parts[i].role, 255, parts[i].tip);
        } else {
            int to = n == 1 ? (int)ceil(end / total * r.w - 1e-9) : (int)lround(end / total * r.w);
            to = to <= col ? col + 1 : to;
            to = to > r.w - left + 1 ? r.w - left + 1 : to;
            for (; col < to; col++)
                for (int y = 0; y < r.h; y++)
                    put(p, r.x + col, r.y + y, "█", parts[i].role);
        }
        at = end;
        left--;
    }
    if (p->shapes) {
        box(p, r, total > 0 ? (float)(at / total * r.w) : 0, (float)r.w, ROLE_BORDER, EMPTY_ALPHA,
            rest_tip);
        return;
    }
    for (; col < r.w; col++)
        for (int y = 0; y < r.h; y++)
            put(p, r.x + col, r.y + y, "░", ROLE_BORDER);
}

static void spark_shapes(const struct plot *p, struct rect r, const struct history_ring *ring,
                         int n, float max, uint8_t role, const char *unit)
{
    float xy[2 * HISTORY_MAX], bottom = (float)(r.y + r.h) - 0.08f, height = (float)r.h - 0.2f;
    float step = (float)r.w / (float)(n > 1 ? n - 1 : 1);
    shapes_fill(p->shapes, (float)r.x, bottom, (float)r.w, 0.05f, ROLE_BORDER, 255, NULL);
    for (int i = 0; i < n; i++) {
        float v = history_get(ring, n - 1 - i);
        xy[2 * i] = (float)r.x + (float)i * step;
        xy[2 * i + 1] = bottom - (max > 0 ? v / max * height : 0);
    }
    shapes_line(p->shapes, SHAPE_AREA, r, xy, n, role, 70);
    shapes_line(p->shapes, SHAPE_LINE, r, xy, n, role, 255);
    for (int i = 0; i < n; i++) {
        char value[FORMAT_SIZE], tip[64];
        snprintf(tip, sizeof tip, "%s %s", format_rate(value, history_get(ring, n - 1 - i)), unit);
        shapes_fill(p->shapes, xy[2 * i] - step / 2, (float)r.y, step, (float)r.h, role, 0, tip);
    }
}

void plot_spark(const struct plot *p, struct rect r, const struct history_ring *ring, uint8_t role,
                const char *unit)
{
    r = rect_cross(r, p->clip);
    if (rect_empty(r) || ring->n == 0)
        return;
    int room = p->shapes ? r.w * 4 : r.w, n = ring->n < room ? ring->n : room;
    float max = history_max(ring, n);
    if (p->shapes) {
        spark_shapes(p, r, ring, n, max, role, unit);
        return;
    }
    for (int i = 0; i < n; i++) {
        float v = max > 0 ? history_get(ring, n - 1 - i) / max : 0;
        int level = (int)(v * ((float)(8 * r.h) - 0.001f));
        for (int y = 0; y < r.h; y++) {
            int above = level - 8 * y;
            if (above >= 0)
                put(p, r.x + i, r.y + r.h - 1 - y, steps[above > 7 ? 7 : above], role);
        }
    }
}

/* ---- stacked areas ---- */

static float area_sum(const struct plot_area *area, int n_area, int newest)
{
    float sum = 0;
    for (int k = 0; k < n_area; k++)
        sum += history_get(area[k].ring, newest);
    return sum;
}

static void areas_shapes(const struct plot *p, struct rect r, const struct plot_area *area,
                         int n_area, int n, float max)
{
    float xy[2 * HISTORY_MAX + 2], bottom = (float)(r.y + r.h) - 0.08f, height = (float)r.h - 0.2f;
    int n_point = n > 1 ? n : 2; /* one sample is as wide as all of it */
    float step = (float)r.w / (float)(n_point - 1);
    for (int k = n_area; k > 0; k--) { /* the highest first: those below it cover it */
        if (!(history_max(area[k - 1].ring, n) > 0))
            continue;
        for (int i = 0; i < n_point; i++) {
            xy[2 * i] = (float)r.x + (float)i * step;
            xy[2 * i + 1] = bottom - area_sum(area, k, n > 1 ? n - 1 - i : 0) / max * height;
        }
        shapes_line(p->shapes, SHAPE_AREA, r, xy, n_point, area[k - 1].role, 255);
    }
    for (int i = 0; i < n; i++) {
        char value[FORMAT_SIZE], tip[256];
        int len = snprintf(tip, sizeof tip, "%s",
                           format_bytes(value, (int64_t)area_sum(area, n_area, n - 1 - i)));
        for (int k = 0; k < n_area; k++) {
            float v = history_get(area[k].ring, n - 1 - i);
            if (v > 0 && len < (int)sizeof tip)
                len += snprintf(tip + len, sizeof tip - (size_t)len, "  %s %s", area[k].name,
                                format_bytes(value, (int64_t)v));
        }
        float w = (float)r.w / (float)n;
        shapes_fill(p->shapes, (float)r.x + (float)i * w, (float)r.y, w, (float)r.h, ROLE_TEXT, 0,
                    tip);
    }
}

float plot_areas(const struct plot *p, struct rect r, const struct plot_area *area, int n_area)
{
    r = rect_cross(r, p->clip);
    if (rect_empty(r) || n_area < 1 || area[0].ring->n == 0)
        return 0;
    int room = p->shapes ? r.w * 4 : r.w, n = area[0].ring->n < room ? area[0].ring->n : room;
    float max = 0;
    for (int i = 0; i < n; i++)
        max = fmaxf(max, area_sum(area, n_area, i));
    if (!(max > 0))
        return 0;
    if (p->shapes) {
        areas_shapes(p, r, area, n_area, n, max);
        return max;
    }
    for (int x = 0; x < r.w; x++) {
        int newest = n - 1 - (int)((int64_t)x * n / r.w);
        int level = (int)ceilf(area_sum(area, n_area, newest) / max * (float)(8 * r.h) - 1e-3f);
        for (int y = 0; 8 * y < level; y++) {
            int eighths = level - 8 * y < 8 ? level - 8 * y : 8, k = 0;
            float middle = ((float)y + (float)eighths / 16) / (float)r.h * max;
            while (k < n_area - 1 && area_sum(area, k + 1, newest) < middle)
                k++;
            put(p, r.x + x, r.y + r.h - 1 - y, steps[eighths - 1], area[k].role);
        }
    }
    return max;
}

/* ---- heat ---- */

void plot_heat(const struct plot *p, struct rect r, int n_col, int n_row,
               struct plot_cell (*get)(void *ctx, int col, int row, char *tip, size_t size),
               void *ctx)
{
    static const char *const shade[] = {"░", "▒", "▓", "█"};
    char tip[256];
    r = rect_cross(r, p->clip);
    if (rect_empty(r) || n_col < 1 || n_row < 1)
        return;
    if (!p->shapes) {
        for (int y = 0; y < r.h && y < n_row; y++)
            for (int x = 0; x < r.w && x < n_col; x++) {
                int col = n_col > r.w ? (int)((int64_t)x * n_col / r.w) : x;
                int row = n_row > r.h ? (int)((int64_t)y * n_row / r.h) : y;
                struct plot_cell v = get(ctx, col, row, tip, 0);
                if (isfinite(v.level))
                    put(p, r.x + x, r.y + y, shade[(int)(fminf(fmaxf(v.level, 0), 1) * 3.999f)],
                        v.role);
            }
        return;
    }
    /* More values than a quarter of a cell each can be neither seen nor hovered. */
    int cols = n_col < r.w * 4 ? n_col : r.w * 4, rows = n_row < r.h * 8 ? n_row : r.h * 8;
    float w = (float)r.w / (float)cols, h = (float)r.h / (float)rows;
    float gap_x = w >= 1 ? GAP : 0, gap_y = h >= 1 ? GAP / 2 : 0; /* cells twice as high as wide */
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < cols; x++) {
            tip[0] = '\0';
            struct plot_cell v = get(ctx, (int)((int64_t)x * n_col / cols),
                                     (int)((int64_t)y * n_row / rows), tip, sizeof tip);
            if (isfinite(v.level))
                shapes_fill(
                    p->shapes, (float)r.x + (float)x * w, (float)r.y + (float)y * h, w - gap_x,
                    h - gap_y, v.role,
                    (uint8_t)(255 * (v.least + (1 - v.least) * fminf(fmaxf(v.level, 0), 1))),
                    tip[0] ? tip : NULL);
        }
}
