/* What the dashboard shows besides struct stats and the history: plain data filled by
 * app/screen_dash.c before each frame; strings are borrowed for the frame. What is unknown is -1,
 * NAN or NULL. The views write nothing but `hit`, where the pointer
 * finds what, and `token_shown`. */
#ifndef UI_DASH_H
#define UI_DASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/stats.h"
#include "ui/cells.h"

/* Pages of the dashboard. Where there is room the ones after the open one follow below it. */
enum dash_tab { DASH_OVERVIEW, DASH_MAP, DASH_SPEED, DASH_ANSWER, DASH_TABS };

enum dash_item {
    DASH_BUDGET,
    DASH_COVERAGE,
    DASH_PRESET,
    DASH_VERIFY,
    DASH_PIN,
    DASH_THIN,
    DASH_UNDO,
    DASH_ITEMS
};

struct dash_control {
    const char *label;
    char value[40];
    char hint[96]; /* what it does, or why it cannot be done now */
    bool turns;    /* Left and Right change it; all act on Enter */
};

struct dash_token { /* of the last answer */
    const char *text;
    size_t len;
    float p; /* the model's own probability of it; NAN = unknown */
    float kl;  /* what verifying found where it was chosen; NAN = unknown */
    bool same; /* exactly read, the likeliest token was the same */
    const char *other[STATS_ALTERNATIVES]; /* the likeliest ones; NULL = fewer */
    float other_p[STATS_ALTERNATIVES];
};

enum dash_part {
    DASH_HIT_TAB,     /* a: tab */
    DASH_HIT_CONTROL, /* a: item; b: -1 less, 1 more, 0 acts */
    DASH_HIT_MAP,     /* a: layer, b: page of its first cell; the steps per cell follow */
    DASH_HIT_TOKEN,   /* a: token */
};
struct dash_hit {
    struct rect r;
    enum dash_part part;
    int a, b;
    float per_x, per_y; /* MAP: pages per column, layers per row */
};
enum { DASH_HITS = 1024 };

struct dash {
    enum dash_tab tab;
    bool focus;     /* the keys are its own */
    int item;       /* control chosen */
    struct dash_control control[DASH_ITEMS];

    /* the store, as of disk_at_s */
    int64_t disk_chat_bytes, disk_used_bytes, disk_limit_bytes;
    double disk_at_s; /* CLOCK_MONOTONIC; NAN = never asked */
    bool disk_shared; /* nothing is kept: --no-save */

    double turn_at_s; /* end of the last turn of this chat; NAN = none in this session */

    /* precision map */
    const struct stats_map *map; /* NULL = no picture yet */
    int layer, page;             /* chosen */
    bool digits;                 /* bits instead of attention */
    const char *page_text;       /* of the chosen page; NULL = unknown */
    size_t page_text_len;

    /* the last answer */
    const struct dash_token *token;
    int n_token, token_sel;
    bool by_agree;     /* coloured by disagreement instead of probability */
    bool token_shown;  /* written by the view: the tokens were drawn */
    /* what the model looked at when it chose the token token_sel; NULL = not known yet */
    const struct stats_trace *trace;
    const char *path_text;   /* of the positions 0..n_path-1: bytes path_at[i] to path_at[i + 1] */
    const uint32_t *path_at; /* [n_path + 1] */
    int32_t n_path;

    struct dash_hit *hit; /* [DASH_HITS], written by the view */
    int n_hit;
};

/* Fidelity as a traffic light: the rule, in one place for light and words. */
enum dash_light { DASH_LIGHT_UNKNOWN, DASH_LIGHT_EXACT, DASH_LIGHT_GOOD, DASH_LIGHT_FAIR, DASH_LIGHT_POOR };
enum dash_light dash_light(const struct stats *s);
#define DASH_RULE_GOOD "good: KL < 0.01, top-1 -3%;"
#define DASH_RULE_FAIR "fair: < 0.05, -10% past rounding"

/* Tokens that can still be added before the context or the budget ends. */
struct dash_room {
    int64_t n_tok; /* -1 = unknown */
    bool context;  /* the context ends first */
};
struct dash_room dash_room(const struct stats *s, int32_t fit_tok);

#endif
