/* Display list of graphics; see shapes.h. */
#include "ui/shapes.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

void shapes_fini(struct shapes *s)
{
    free(s->shape);
    free(s->xy);
    str_fini(&s->tips);
    memset(s, 0, sizeof *s);
}

void shapes_clear(struct shapes *s)
{
    s->n = 0;
    s->n_point = 0;
    str_clear(&s->tips);
}

static bool shape_equal(const struct shape *a, const struct shape *b)
{
    return a->kind == b->kind && a->role == b->role && a->alpha == b->alpha && a->x == b->x &&
           a->y == b->y && a->w == b->w && a->h == b->h && a->point == b->point && a->n == b->n &&
           a->tip == b->tip;
}

bool shapes_equal(const struct shapes *a, const struct shapes *b)
{
    if (a->n != b->n || a->n_point != b->n_point || a->tips.len != b->tips.len)
        return false;
    for (int i = 0; i < a->n; i++)
        if (!shape_equal(&a->shape[i], &b->shape[i]))
            return false;
    for (uint32_t i = 0; i < 2 * a->n_point; i++)
        if (a->xy[i] != b->xy[i])
            return false;
    return a->tips.len == 0 || memcmp(a->tips.data, b->tips.data, a->tips.len) == 0;
}

static struct shape *add(struct shapes *s)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->shape = mem_realloc(s->shape, (size_t)s->cap * sizeof *s->shape);
    }
    return &s->shape[s->n++];
}

void shapes_fill(struct shapes *s, float x, float y, float w, float h, uint8_t role, uint8_t alpha,
                 const char *tip)
{
    int32_t at = -1;
    if (tip) {
        at = (int32_t)s->tips.len;
        str_add(&s->tips, tip, strlen(tip) + 1);
    }
    *add(s) = (struct shape){SHAPE_FILL, role, alpha, x, y, w, h, 0, 0, at};
}

void shapes_line(struct shapes *s, enum shape_kind kind, struct rect box, const float *xy, int n,
                 uint8_t role, uint8_t alpha)
{
    if (n < 1)
        return;
    if (s->n_point + (uint32_t)n > s->cap_point) {
        s->cap_point = (s->n_point + (uint32_t)n) * 2;
        s->xy = mem_realloc(s->xy, (size_t)s->cap_point * 2 * sizeof *s->xy);
    }
    memcpy(s->xy + 2 * s->n_point, xy, (size_t)n * 2 * sizeof *xy);
    *add(s) = (struct shape){(uint8_t)kind, role,         alpha,        (float)box.x,
                             (float)box.y,  (float)box.w, (float)box.h, s->n_point,
                             (uint32_t)n,   -1};
    s->n_point += (uint32_t)n;
}

const char *shapes_tip(const struct shapes *s, float x, float y)
{
    for (int i = s->n - 1; i >= 0; i--) {
        const struct shape *p = &s->shape[i];
        if (p->tip >= 0 && x >= p->x && x < p->x + p->w && y >= p->y && y < p->y + p->h)
            return s->tips.data + p->tip;
    }
    return NULL;
}
