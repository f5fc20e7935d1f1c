#include "engine/presets.h"

#include <stddef.h>
#include <string.h>

static const struct preset rows[] = {
    {.name = "exact", .what = "f16 rows, nothing compressed"},
    {.name = "8/8",
     .bits_k = 8,
     .bits_v = 8,
     .floor_k = 8,
     .floor_v = 8,
     .what = "8-bit keys, 8-bit values"},
    {.name = "8/4",
     .bits_k = 8,
     .bits_v = 4,
     .floor_k = 8,
     .floor_v = 4,
     .what = "8-bit keys, 4-bit values"},
    {.name = "6/4",
     .bits_k = 6,
     .bits_v = 4,
     .floor_k = 6,
     .floor_v = 4,
     .what = "6-bit keys, 4-bit values"},
    {.name = "4/4",
     .bits_k = 4,
     .bits_v = 4,
     .floor_k = 4,
     .floor_v = 4,
     .what = "4-bit keys, 4-bit values"},
    {.name = "4/2",
     .bits_k = 4,
     .bits_v = 2,
     .floor_k = 4,
     .floor_v = 2,
     .what = "4-bit keys, 2-bit values"},
    {.name = "2/2",
     .bits_k = 2,
     .bits_v = 2,
     .floor_k = 2,
     .floor_v = 2,
     .what = "2-bit keys, 2-bit values"},
    {.name = "8/4r",
     .bits_k = 8,
     .bits_v = 4,
     .floor_k = 8,
     .floor_v = 4,
     .rotate_v = true,
     .what = "8/4 with Hadamard-rotated values"},
    {.name = "4/4r",
     .bits_k = 4,
     .bits_v = 4,
     .floor_k = 4,
     .floor_v = 4,
     .rotate_v = true,
     .what = "4/4 with Hadamard-rotated values"},
    {.name = "adaptive",
     .bits_k = 8,
     .bits_v = 8,
     .floor_k = 4,
     .floor_v = 4,
     .adaptive = true,
     .what = "8/8, stepped down page by page to 4/4 as the budget asks, least harm first"},
};

#define DEFAULT_PRESET "adaptive"

const struct preset *presets_find(const char *name)
{
    if (!name)
        name = DEFAULT_PRESET;
    if (strcmp(name, "f16") == 0)
        name = "exact";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(name, rows[i].name) == 0)
            return &rows[i];
    return NULL;
}

const char *presets_names(void)
{
    return "exact, 8/8, 8/4, 6/4, 4/4, 4/2, 2/2, 8/4r, 4/4r, adaptive";
}
