/* Seeded random text for property tests: every failure names the seed. */
#ifndef TESTS_UI_RANDOM_H
#define TESTS_UI_RANDOM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/str.h"

struct random {
    uint64_t s;
};

static inline uint32_t random_next(struct random *r)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(r->s >> 33);
}

static inline uint32_t random_below(struct random *r, uint32_t n)
{
    return random_next(r) % n;
}

/* A piece of text: words, wide characters, clusters, line feeds; when `hostile`, also broken
 * UTF-8 and escape sequences. */
static inline void random_piece(struct random *r, struct str *out, int hostile)
{
    static const char *const good[] = {
        "a",         "word", " ",  "  ",       "\n",     "longer-word", "é",
        "e\xCC\x81", "中文", "漢", "👍🏽", "❤️", "🇩🇪",          "👨‍👩‍👧",
        "한국",      "क्षि",  "\t", "_x9",      "。",     "1️⃣",
    };
    static const char *const bad[] = {
        "\xFF",         "\xC3",     "\xE2\x82", "\x1B[31m", "\x1B]0;t\x07",     "\x1B", "\x01",
        "\xE2\x80\xAE", "\xC2\x9B", "\r\n",     "\r",       "\xF4\x90\x80\x80", "\x7F",
    };
    if (hostile && random_below(r, 4) == 0)
        str_adds(out, bad[random_below(r, sizeof bad / sizeof *bad)]);
    else
        str_adds(out, good[random_below(r, sizeof good / sizeof *good)]);
}

#endif
