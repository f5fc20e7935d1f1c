/* Named rows of choices about what the KV cache keeps: `--kv NAME`. A preset is one row over
 * independent axes, the zero of an axis being "as in the exact cache"; adding a method is adding a
 * row to presets.c. The axes:
 *
 *   pages    bits_k .. adaptive     blocks become pages of kernels/page.h (stored as they are)
 *   format   k, v, at_write, tiers  a published number format, simulated: see below
 *   eviction evict                  tokens are dropped for good
 *   reading  coverage, prefill, decode  older blocks that attention leaves out: methods.h
 *
 * Simulated formats: the numbers are quantised and restored just as the method does it, and kept as
 * f16 rows; the bytes that are told are those that the method's codes, scales and corrections would
 * take. Memory really used is f16's. Neither they nor evicted caches are kept on disk: a chat that
 * is opened again is read again.
 *
 * Pure data; any thread. */
#ifndef ENGINE_PRESETS_H
#define ENGINE_PRESETS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/methods.h"

/* How the numbers of a group become codes; scales and offsets are f16. */
enum preset_grid {
    GRID_F16,     /* no codes */
    GRID_RANGE,   /* lo + scale * code from the least to the largest (asymmetric) */
    GRID_ABSMAX,  /* scale * code, symmetric, the largest magnitude at its end: q8_0 */
    GRID_EXTREME, /* scale * (code - half), the number of largest magnitude at code 0: q4_0 */
    GRID_NORMAL,  /* mean + sigma * level, levels best for a normal distribution (Lloyd-Max) */
    GRID_NORM,    /* the same levels around 0, scaled so that the group keeps its norm */
};

enum preset_balance {
    BALANCE_NONE,
    BALANCE_ROOT_MAX, /* channels divided by the root of their largest magnitude (ZipCache) */
    BALANCE_QUERY,    /* keys times, queries over, sqrt(max |q| / max |k|) per channel (MiKV) */
};

/* How one tensor, the keys or the values of a block of 64 tokens, is coded. */
struct preset_format {
    enum preset_grid grid;
    int32_t bits;
    bool per_channel; /* a group is tokens of one channel; else channels of one token */
    int32_t group;    /* numbers in a group; 0 = all there are */
    enum preset_balance balance;
    int32_t rotate, rotate_min; /* Hadamard transform over runs of the largest power of two of
                                   channels up to `rotate`, if that is at least `rotate_min` */
    bool signs;                 /* random signs before the transform */
    float outliers; /* share of each line of a group that stays f16, half from either end */
    int32_t rank;   /* of the low-rank image of the error that is kept in f16 (GEAR) */
};

enum evict_score {
    EVICT_NONE,
    EVICT_OLDEST,   /* the newest stay (StreamingLLM) */
    EVICT_WINDOW,   /* attention of the last `window` rows (SnapKV) */
    EVICT_SUM,      /* attention of all rows so far (H2O) */
    EVICT_KEY_NORM, /* keys of small norm stay (L2-norm) */
    EVICT_LAG,      /* spread against the next `chunk` tokens' range (LagKV) */
};

/* Which tokens stay, per layer and KV head. Dropped at the end of each prompt, in reading order;
 * prompts that are read as text (dogear eval --text) end with every 128 tokens. */
struct preset_evict {
    enum evict_score score;
    float keep;         /* share of the tokens of the prompt that stay, 64 at least, all included */
    int32_t n_sink;     /* first tokens, always kept */
    int32_t window;     /* newest tokens, always kept (and the rows of EVICT_WINDOW) */
    float recent;       /* the same as a share of what is kept; the larger counts */
    int32_t pool;       /* scores are averaged over so many neighbours; odd */
    float slope;        /* PyramidKV's beta: lower layers keep more; 0 = all layers the same */
    int32_t skip_layer; /* first layers that keep all */
    int32_t chunk;      /* of EVICT_LAG: chunks are decided one by one as they come */
    bool each_step;     /* and again after every token of an answer, down to the same number */
};

struct preset {
    const char *name;
    const char *what; /* one line for help and tables */

    int32_t bits_k, bits_v;   /* of a page when it is sealed; 0 = nothing is sealed (f16) */
    int32_t floor_k, floor_v; /* demotion never goes below */
    bool adaptive;            /* demotes by least harm when the budget asks for it */

    struct preset_format k, v;
    bool at_write;     /* each token is coded as it is written; else with its block, when a query two
                          blocks later is read */
    int32_t n_sink;    /* first tokens that stay f16 */
    float tier_share;  /* of a block's tokens, those that got most attention so far ... */
    int32_t tier_bits; /* ... have so many bits instead; 16 = f16 */
    bool tier_mean;    /* attention per row that could see the token; else its sum */

    struct preset_evict evict;

    float coverage; /* of our own ways of reading less, where none is asked for; 0 = dense */
    struct prefill_method prefill;
    struct decode_method decode;
};

/* NULL = the default. NULL result: no such name. "f16" is another name of "exact". */
const struct preset *presets_find(const char *name);
/* The i-th row, NULL behind the last. */
const struct preset *presets_at(int32_t i);
/* The error that there is no such preset; it names one that is spelled alike. */
enum status presets_unknown(const char *name, struct err *e);

/* Tokens are lost for good. */
bool preset_lossy(const struct preset *p);
/* A number format that pages do not store. */
bool preset_simulated(const struct preset *p);
/* Nothing is changed, dropped or sealed. */
bool preset_exact(const struct preset *p);

#endif
