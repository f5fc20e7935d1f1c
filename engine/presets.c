#include "engine/presets.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Pages sealed at K/V bits that stay so. */
#define PAGES(k, v) .bits_k = (k), .bits_v = (v), .floor_k = (k), .floor_v = (v)

static const struct preset rows[] = {
    {.name = "exact", .what = "f16 rows, nothing compressed"},
    {.name = "8/8", PAGES(8, 8), .what = "8-bit keys, 8-bit values"},
    {.name = "8/4", PAGES(8, 4), .what = "8-bit keys, 4-bit values"},
    {.name = "6/4", PAGES(6, 4), .what = "6-bit keys, 4-bit values"},
    {.name = "4/4", PAGES(4, 4), .what = "4-bit keys, 4-bit values"},
    {.name = "4/2", PAGES(4, 2), .what = "4-bit keys, 2-bit values"},
    {.name = "2/2", PAGES(2, 2), .what = "2-bit keys, 2-bit values"},
    {.name = "8/4r", PAGES(8, 4), .rotate_v = true, .what = "8/4 with Hadamard-rotated values"},
    {.name = "4/4r", PAGES(4, 4), .rotate_v = true, .what = "4/4 with Hadamard-rotated values"},
    {.name = "adaptive",
     .bits_k = 8,
     .bits_v = 8,
     .floor_k = 4,
     .floor_v = 4,
     .adaptive = true,
     .what = "8/8, stepped down page by page to 4/4 as the budget asks, least harm first"},
};
enum { N_ROW = sizeof rows / sizeof *rows };

#define DEFAULT_PRESET "adaptive"

const struct preset *presets_at(int32_t i)
{
    return i >= 0 && i < N_ROW ? &rows[i] : NULL;
}

const struct preset *presets_find(const char *name)
{
    if (!name)
        name = DEFAULT_PRESET;
    if (strcmp(name, "f16") == 0)
        name = "exact";
    for (int32_t i = 0; i < N_ROW; i++)
        if (strcmp(name, rows[i].name) == 0)
            return &rows[i];
    return NULL;
}

const char *presets_names(void)
{
    static char names[1024]; /* the same bytes whoever writes them */
    size_t at = 0;
    for (int32_t i = 0; i < N_ROW && at < sizeof names; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? ", " : "", rows[i].name);
    return names;
}

bool preset_lossy(const struct preset *p)
{
    return p->evict.score != EVICT_NONE;
}

bool preset_simulated(const struct preset *p)
{
    return p->k.grid != GRID_F16 || p->v.grid != GRID_F16;
}

bool preset_exact(const struct preset *p)
{
    return p->bits_k == 0 && !preset_lossy(p) && !preset_simulated(p);
}
