/* Drawing into memory; see pixels.h. */
#include "ui/pixels.h"

#include <errno.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

void pixels_fini(struct pixels *p)
{
    free(p->px);
    memset(p, 0, sizeof *p);
}

void pixels_resize(struct pixels *p, int w, int h)
{
    p->w = w < 1 ? 1 : w;
    p->h = h < 1 ? 1 : h;
    free(p->px);
    p->px = mem_calloc((size_t)p->w * (size_t)p->h, sizeof *p->px);
    p->clip = (struct rect){0, 0, p->w, p->h};
}

/* alpha 0..256, so that 256 gives exactly the colour. */
static uint32_t mix(uint32_t under, uint32_t over, unsigned alpha)
{
    uint32_t rb = under & 0xFF00FF, g = under & 0x00FF00;
    rb += (((over & 0xFF00FF) - rb) * alpha) >> 8;
    g += (((over & 0x00FF00) - g) * alpha) >> 8;
    return (rb & 0xFF00FF) | (g & 0x00FF00);
}

static unsigned weight(uint8_t alpha)
{
    return alpha + (alpha >> 7);
}

static uint32_t *row_at(struct pixels *p, int y)
{
    return p->px + (size_t)y * (size_t)p->w;
}

static void blend(struct pixels *p, int x, int y, uint32_t rgb, float coverage, uint8_t alpha)
{
    if (coverage <= 0 || x < p->clip.x || y < p->clip.y || x >= p->clip.x + p->clip.w ||
        y >= p->clip.y + p->clip.h)
        return;
    uint32_t *d = row_at(p, y) + x;
    *d = mix(*d, rgb, (unsigned)(fminf(coverage, 1) * (float)weight(alpha)));
}

void pixels_fill(struct pixels *p, struct rect r, uint32_t rgb, uint8_t alpha)
{
    r = rect_cross(r, p->clip);
    unsigned a = weight(alpha);
    for (int y = r.y; y < r.y + r.h; y++) {
        uint32_t *d = row_at(p, y) + r.x;
        if (a == 256)
            for (int x = 0; x < r.w; x++)
                d[x] = rgb;
        else
            for (int x = 0; x < r.w; x++)
                d[x] = mix(d[x], rgb, a);
    }
}

/* Part of the pixel [at, at + 1) inside [from, to). */
static float covered(int at, float from, float to)
{
    return fmaxf(0, fminf((float)at + 1, to) - fmaxf((float)at, from));
}

void pixels_box(struct pixels *p, float x0, float y0, float x1, float y1, uint32_t rgb,
                uint8_t alpha)
{
    struct rect r = {(int)floorf(x0), (int)floorf(y0), 0, 0};
    r.w = (int)ceilf(x1) - r.x;
    r.h = (int)ceilf(y1) - r.y;
    r = rect_cross(r, p->clip);
    for (int y = r.y; y < r.y + r.h; y++) {
        float rows = covered(y, y0, y1);
        for (int x = r.x; x < r.x + r.w; x++)
            blend(p, x, y, rgb, rows * covered(x, x0, x1), alpha);
    }
}

static void segment(struct pixels *p, float x0, float y0, float x1, float y1, float width,
                    uint32_t rgb, uint8_t alpha)
{
    float half = width / 2, dx = x1 - x0, dy = y1 - y0, len2 = dx * dx + dy * dy;
    struct rect r = {(int)floorf(fminf(x0, x1) - half - 1), (int)floorf(fminf(y0, y1) - half - 1),
                     0, 0};
    r.w = (int)ceilf(fmaxf(x0, x1) + half + 1) - r.x;
    r.h = (int)ceilf(fmaxf(y0, y1) + half + 1) - r.y;
    r = rect_cross(r, p->clip);
    for (int y = r.y; y < r.y + r.h; y++)
        for (int x = r.x; x < r.x + r.w; x++) {
            float px = (float)x + 0.5f - x0, py = (float)y + 0.5f - y0;
            float t = len2 > 0 ? fminf(fmaxf((px * dx + py * dy) / len2, 0), 1) : 0;
            float away = hypotf(px - t * dx, py - t * dy);
            blend(p, x, y, rgb, half + 0.5f - away, alpha);
        }
}

void pixels_line(struct pixels *p, const float *xy, int n, float width, uint32_t rgb, uint8_t alpha)
{
    if (n == 1)
        segment(p, xy[0], xy[1], xy[0], xy[1], width, rgb, alpha);
    for (int i = 0; i + 1 < n; i++)
        segment(p, xy[2 * i], xy[2 * i + 1], xy[2 * i + 2], xy[2 * i + 3], width, rgb, alpha);
}

void pixels_area(struct pixels *p, const float *xy, int n, float bottom, uint32_t rgb,
                 uint8_t alpha)
{
    if (n < 2)
        return;
    int x0 = (int)floorf(xy[0]), x1 = (int)ceilf(xy[2 * n - 2]), i = 0;
    x0 = x0 < p->clip.x ? p->clip.x : x0;
    x1 = x1 > p->clip.x + p->clip.w ? p->clip.x + p->clip.w : x1;
    for (int x = x0; x < x1; x++) {
        float at = (float)x + 0.5f;
        while (i + 2 < n && xy[2 * i + 2] < at)
            i++;
        const float *a = xy + 2 * i, *b = a + 2;
        float t = b[0] > a[0] ? fminf(fmaxf((at - a[0]) / (b[0] - a[0]), 0), 1) : 0;
        float top = a[1] + t * (b[1] - a[1]);
        float part = covered(x, xy[0], xy[2 * n - 2]);
        int y0 = (int)floorf(top), y1 = (int)ceilf(bottom);
        y0 = y0 < p->clip.y ? p->clip.y : y0;
        y1 = y1 > p->clip.y + p->clip.h ? p->clip.y + p->clip.h : y1;
        for (int y = y0; y < y1; y++)
            blend(p, x, y, rgb, part * covered(y, top, bottom), alpha);
    }
}

void pixels_arc(struct pixels *p, float cx, float cy, float r, float width, int sx, int sy,
                uint32_t rgb)
{
    int reach = (int)ceilf(r + width);
    int x0 = sx > 0 ? (int)floorf(cx) : (int)floorf(cx) - reach;
    int y0 = sy > 0 ? (int)floorf(cy) : (int)floorf(cy) - reach;
    for (int y = y0; y <= y0 + reach; y++)
        for (int x = x0; x <= x0 + reach; x++) {
            float dx = (float)x + 0.5f - cx, dy = (float)y + 0.5f - cy;
            if (dx * (float)sx >= 0 && dy * (float)sy >= 0)
                blend(p, x, y, rgb, width / 2 + 0.5f - fabsf(hypotf(dx, dy) - r), 255);
        }
}

void pixels_image(struct pixels *p, int x, int y, const uint32_t *argb, int w, int h, uint32_t rgb)
{
    struct rect r = rect_cross((struct rect){x, y, w, h}, p->clip);
    for (int v = r.y; v < r.y + r.h; v++) {
        const uint32_t *s = argb + (size_t)(v - y) * (size_t)w + (r.x - x);
        uint32_t *d = row_at(p, v) + r.x;
        for (int u = 0; u < r.w; u++) {
            unsigned a = weight((uint8_t)(s[u] >> 24));
            if (a > 0)
                d[u] = mix(d[u], rgb == UINT32_MAX ? s[u] : rgb, a);
        }
    }
}

enum status pixels_save(const struct pixels *p, const char *path, struct err *e)
{
    FILE *f = fopen(path, "wbxe");
    if (!f)
        return err_set(e, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    size_t n = (size_t)p->w * (size_t)p->h;
    uint8_t *rgb = mem_calloc(n, 3);
    for (size_t i = 0; i < n; i++) {
        rgb[3 * i] = (uint8_t)(p->px[i] >> 16);
        rgb[3 * i + 1] = (uint8_t)(p->px[i] >> 8);
        rgb[3 * i + 2] = (uint8_t)p->px[i];
    }
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)p->w,
                       .height = (png_uint_32)p->h,
                       .format = PNG_FORMAT_RGB};
    bool good = png_image_write_to_stdio(&image, f, 0, rgb, 0, NULL) != 0;
    free(rgb);
    if (fclose(f) != 0)
        good = false;
    if (!good)
        return err_set(e, ERR_IO, "cannot write %s: %s", path,
                       image.message[0] ? image.message : strerror(errno));
    return OK;
}
