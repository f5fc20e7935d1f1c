/* Fonts and the cache of what they draw; see glyphs.h. */
#include "ui/glyphs.h"

#include <SDL.h>
#include <SDL_ttf.h>
#include <fontconfig/fontconfig.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "ui/cells.h"

enum { STYLES = 4, BUCKETS = 4096, GLYPHS_MAX = 8192, CLUSTER_POINTS = 16 };

struct entry {
    struct entry *next;
    struct glyph glyph;
    uint8_t style, n_cell, n;
    char text[CELL_TEXT];
};

/* A file of the machine that may draw what the main font lacks. */
struct font {
    char *path;
    int face;
    FcCharSet *points;
    bool colour, broken;
    TTF_Font *ttf; /* NULL until needed */
};

struct glyphs {
    int size_px, cell_w, cell_h, baseline;
    struct font *fonts[STYLES]; /* in the order in which fontconfig prefers them; [0] is the main */
    int n_font[STYLES];
    char *family;
    struct entry *bucket[BUCKETS];
    int n_entry;
};

/* ---- fonts ---- */

static void fonts_load(struct glyphs *g, int style)
{
    FcPattern *want = FcPatternCreate();
    FcPatternAddString(want, FC_FAMILY, (const FcChar8 *)(g->family ? g->family : "monospace"));
    FcPatternAddInteger(want, FC_WEIGHT, style & CELL_BOLD ? FC_WEIGHT_BOLD : FC_WEIGHT_REGULAR);
    FcPatternAddInteger(want, FC_SLANT, style & CELL_ITALIC ? FC_SLANT_ITALIC : FC_SLANT_ROMAN);
    FcPatternAddBool(want, FC_OUTLINE, FcTrue);
    FcConfigSubstitute(NULL, want, FcMatchPattern);
    FcDefaultSubstitute(want);
    FcResult result;
    FcFontSet *set = FcFontSort(NULL, want, FcTrue, NULL, &result);
    int n = set ? set->nfont : 0;
    g->fonts[style] = mem_calloc((size_t)n + 1, sizeof **g->fonts);
    for (int i = 0; i < n; i++) {
        FcChar8 *path;
        FcCharSet *points;
        int face = 0;
        FcBool colour = FcFalse;
        if (FcPatternGetString(set->fonts[i], FC_FILE, 0, &path) != FcResultMatch ||
            FcPatternGetCharSet(set->fonts[i], FC_CHARSET, 0, &points) != FcResultMatch)
            continue;
        FcPatternGetInteger(set->fonts[i], FC_INDEX, 0, &face);
        FcPatternGetBool(set->fonts[i], FC_COLOR, 0, &colour);
        g->fonts[style][g->n_font[style]++] = (struct font){.path = mem_strdup((char *)path),
                                                            .face = face & 0xFFFF,
                                                            .points = FcCharSetCopy(points),
                                                            .colour = colour == FcTrue};
    }
    if (set)
        FcFontSetDestroy(set);
    FcPatternDestroy(want);
}

static TTF_Font *font_get(struct glyphs *g, struct font *f)
{
    if (!f->ttf && !f->broken) {
        f->ttf = TTF_OpenFontIndex(f->path, g->size_px, f->face);
        f->broken = !f->ttf;
        if (f->ttf)
            TTF_SetFontHinting(f->ttf, TTF_HINTING_LIGHT);
    }
    return f->ttf;
}

/* Joiners and variation selectors choose a picture but are none themselves. */
static bool selects(uint32_t cp)
{
    return cp == 0x200D || (cp >= 0xFE00 && cp <= 0xFE0F) || (cp >= 0xE0000 && cp < 0xE0080);
}

static bool draws(const struct font *f, const uint32_t *cp, int n)
{
    for (int i = 0; i < n; i++)
        if (!selects(cp[i]) && !FcCharSetHasChar(f->points, cp[i]))
            return false;
    return true;
}

/* The first font that has all of the cluster. Emoji are looked for among the fonts with colours
 * first, letters never there: such fonts have digits, too. */
static TTF_Font *font_for(struct glyphs *g, int style, const uint32_t *cp, int n, int n_cell,
                          bool *ret_colour)
{
    bool emoji = n_cell == 2 && cp[0] >= 0x2190 && !(cp[0] >= 0x2E80 && cp[0] < 0x1F000);
    for (int i = 1; i < n; i++)
        emoji |= cp[i] == 0xFE0F;
    for (int pass = emoji ? 0 : 1; pass < 3; pass++)
        for (int i = 0; i < g->n_font[style]; i++) {
            struct font *f = &g->fonts[style][i];
            bool wanted = pass == 0 ? f->colour : pass == 1 ? !f->colour : f->colour;
            if (wanted && draws(f, cp, n) && font_get(g, f)) {
                *ret_colour = f->colour;
                return f->ttf;
            }
        }
    *ret_colour = false;
    return font_get(g, &g->fonts[style][0]); /* its box for unknown characters */
}

static void fonts_close(struct glyphs *g)
{
    for (int s = 0; s < STYLES; s++)
        for (int i = 0; i < g->n_font[s]; i++) {
            if (g->fonts[s][i].ttf)
                TTF_CloseFont(g->fonts[s][i].ttf);
            g->fonts[s][i].ttf = NULL;
            g->fonts[s][i].broken = false;
        }
}

static void cache_clear(struct glyphs *g)
{
    for (int i = 0; i < BUCKETS; i++)
        for (struct entry *e = g->bucket[i], *next; e; e = next) {
            next = e->next;
            free(e->glyph.argb);
            free(e);
        }
    memset(g->bucket, 0, sizeof g->bucket);
    g->n_entry = 0;
}

/* ---- life ---- */

enum status glyphs_size(struct glyphs *g, int size_px, struct err *e)
{
    cache_clear(g);
    fonts_close(g);
    g->size_px = size_px;
    TTF_Font *f = g->n_font[0] > 0 ? font_get(g, &g->fonts[0][0]) : NULL;
    int advance = 0;
    if (!f || TTF_GlyphMetrics(f, 'M', NULL, NULL, NULL, NULL, &advance) != 0 || advance < 1)
        return err_set(e, ERR_NOT_FOUND,
                       "no font to write with (%s): install one, e.g. fonts-dejavu-core",
                       g->n_font[0] > 0 ? g->fonts[0][0].path : "fontconfig knows none");
    /* Lines a little apart: a window is read for longer than a listing. */
    int height = TTF_FontHeight(f), gap = (size_px + 3) / 6;
    g->cell_w = advance;
    g->cell_h = height + gap;
    g->baseline = gap / 2 + TTF_FontAscent(f);
    return OK;
}

enum status glyphs_open(const char *family, int size_px, struct glyphs **ret, struct err *e)
{
    if (TTF_Init() != 0)
        return err_set(e, ERR_UNSUPPORTED, "SDL_ttf: %s", TTF_GetError());
    if (!FcInit()) {
        TTF_Quit();
        return err_set(e, ERR_UNSUPPORTED, "fontconfig cannot be set up");
    }
    struct glyphs *g = mem_calloc(1, sizeof *g);
    g->family = family ? mem_strdup(family) : NULL;
    for (int s = 0; s < STYLES; s++)
        fonts_load(g, s);
    enum status st = glyphs_size(g, size_px, e);
    if (st != OK) {
        glyphs_close(g);
        return st;
    }
    *ret = g;
    return OK;
}

void glyphs_close(struct glyphs *g)
{
    if (!g)
        return;
    cache_clear(g);
    fonts_close(g);
    for (int s = 0; s < STYLES; s++) {
        for (int i = 0; i < g->n_font[s]; i++) {
            free(g->fonts[s][i].path);
            FcCharSetDestroy(g->fonts[s][i].points);
        }
        free(g->fonts[s]);
    }
    free(g->family);
    free(g);
    FcFini();
    TTF_Quit();
}

void glyphs_cell(const struct glyphs *g, int *ret_w, int *ret_h, int *ret_baseline)
{
    *ret_w = g->cell_w;
    *ret_h = g->cell_h;
    *ret_baseline = g->baseline;
}

/* ---- drawing ---- */

/* The picture at another, smaller size: each pixel is the mean of those it covers. */
static uint32_t *shrink(const uint32_t *src, int w, int h, int to_w, int to_h)
{
    uint32_t *dst = mem_calloc((size_t)to_w * (size_t)to_h, sizeof *dst);
    for (int y = 0; y < to_h; y++)
        for (int x = 0; x < to_w; x++) {
            int x0 = x * w / to_w, x1 = (x + 1) * w / to_w, y0 = y * h / to_h,
                y1 = (y + 1) * h / to_h;
            uint64_t a = 0, r = 0, g = 0, b = 0, n = 0;
            for (int v = y0; v < y1 || v == y0; v++)
                for (int u = x0; u < x1 || u == x0; u++, n++) {
                    uint32_t s = src[v * w + u], alpha = s >> 24;
                    a += alpha;
                    r += (s >> 16 & 255) * alpha;
                    g += (s >> 8 & 255) * alpha;
                    b += (s & 255) * alpha;
                }
            if (a > 0)
                dst[y * to_w + x] =
                    (uint32_t)(a / n << 24 | (r / a) << 16 | (g / a) << 8 | (b / a));
        }
    return dst;
}

static void rasterise(struct glyphs *g, const char *text, size_t n, int n_cell, int style,
                      struct glyph *ret)
{
    char z[CELL_TEXT + 1] = {0};
    uint32_t cp[CLUSTER_POINTS];
    int n_cp = 0;
    memcpy(z, text, n);
    for (size_t off = 0; off < n && n_cp < CLUSTER_POINTS;)
        off += (size_t)utf8_decode(text + off, n - off, &cp[n_cp++]);
    if (n_cp == 0 || (n_cp == 1 && cp[0] == ' '))
        return;
    TTF_Font *f = font_for(g, style, cp, n_cp, n_cell, &ret->colour);
    SDL_Surface *s = f ? TTF_RenderUTF8_Blended(f, z, (SDL_Color){255, 255, 255, 255}) : NULL;
    if (!s)
        return; /* nothing but format characters */
    int w = s->w, h = s->h, room_w = n_cell * g->cell_w;
    uint32_t *argb = mem_calloc((size_t)w * (size_t)h, sizeof *argb);
    SDL_LockSurface(s);
    for (int y = 0; y < h; y++)
        memcpy(argb + y * w, (char *)s->pixels + y * s->pitch, (size_t)w * sizeof *argb);
    SDL_UnlockSurface(s);
    SDL_FreeSurface(s);
    int min_x = 0;
    bool main_font = f == g->fonts[style][0].ttf;
    TTF_GlyphMetrics32(f, cp[0], &min_x, NULL, NULL, NULL, NULL);
    ret->x = min_x < 0 ? min_x : 0;
    ret->y = g->baseline - TTF_FontAscent(f);
    if (!main_font && (w > room_w + g->cell_w / 4 || h > g->cell_h + g->cell_h / 2)) {
        /* Too large for its cells, as bitmaps of emoji are. */
        float by = fminf((float)room_w / (float)w, (float)g->cell_h / (float)h);
        int to_w = (int)fmaxf(1, (float)w * by), to_h = (int)fmaxf(1, (float)h * by);
        uint32_t *small = shrink(argb, w, h, to_w, to_h);
        free(argb);
        argb = small;
        w = to_w;
        h = to_h;
        ret->y = (g->cell_h - h) / 2;
    }
    if (!main_font)
        ret->x = (room_w - w) / 2;
    ret->argb = argb;
    ret->w = w;
    ret->h = h;
}

static uint32_t hash(const char *s, size_t n, int style, int n_cell)
{
    uint32_t h = 2166136261u + (uint32_t)style * 31 + (uint32_t)n_cell; /* FNV-1a */
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h % BUCKETS;
}

const struct glyph *glyphs_get(struct glyphs *g, const char *text, size_t n, int n_cell,
                               uint8_t attr)
{
    int style = attr & (CELL_BOLD | CELL_ITALIC);
    if (g->n_font[style] == 0)
        style = 0;
    if (n > CELL_TEXT)
        n = CELL_TEXT;
    uint32_t at = hash(text, n, style, n_cell);
    for (struct entry *e = g->bucket[at]; e; e = e->next)
        if (e->n == n && e->style == style && e->n_cell == n_cell && memcmp(e->text, text, n) == 0)
            return &e->glyph;
    if (g->n_entry == GLYPHS_MAX)
        cache_clear(g);
    struct entry *e = mem_calloc(1, sizeof *e);
    e->style = (uint8_t)style;
    e->n_cell = (uint8_t)n_cell;
    e->n = (uint8_t)n;
    memcpy(e->text, text, n);
    rasterise(g, text, n, n_cell, style, &e->glyph);
    e->next = g->bucket[at];
    g->bucket[at] = e;
    g->n_entry++;
    return &e->glyph;
}
