#include "engine/presets.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Pages sealed at K/V bits that stay so. */
#define PAGES(k, v) .bits_k = (k), .bits_v = (v), .floor_k = (k), .floor_v = (v)

/* KIVI: groups of 32 tokens of a channel for keys, of 32 channels of a token for values. */
#define KIVI(n)                                                                                    \
    .k = {.grid = GRID_RANGE, .bits = (n), .per_channel = true, .group = 32},                      \
    .v = {.grid = GRID_RANGE, .bits = (n), .group = 32}
/* TurboQuant: one norm per token and head. */
#define TURBO(n)                                                                                   \
    .k = {.grid = GRID_NORM, .bits = (n), .rotate = 256, .signs = true},                           \
    .v = {.grid = GRID_NORM, .bits = (n), .rotate = 256, .signs = true}, .at_write = true

static const struct preset rows[] = {
    {.name = "exact", .what = "f16 rows, nothing compressed"},
    {.name = "8/8", PAGES(8, 8), .what = "8-bit keys, 8-bit values"},
    {.name = "8/4", PAGES(8, 4), .what = "8-bit keys, 4-bit values"},
    {.name = "6/4", PAGES(6, 4), .what = "6-bit keys, 4-bit values"},
    {.name = "4/4", PAGES(4, 4), .what = "4-bit keys, 4-bit values"},
    {.name = "4/2", PAGES(4, 2), .what = "4-bit keys, 2-bit values"},
    {.name = "2/2", PAGES(2, 2), .what = "2-bit keys, 2-bit values"},
    {.name = "adaptive",
     .bits_k = 8,
     .bits_v = 8,
     .floor_k = 4,
     .floor_v = 4,
     .adaptive = true,
     .what = "8/8, stepped down page by page as the budget asks, least harm first, to a measured floor"},

    /* Ways of reading less, all over 8/8 pages; none is the default, since what they cost is more than what
     * pages do. The bundled model, sparse from 1,024 tokens on: of 613 questions at 4,096 tokens (suite.py,
     * seeds 5 and 11) dense answers 441, 0.99 and 0.95 both 445, but KL on 4,937 tokens of a book and 5,000
     * of a chat is 0.0036 and 0.017 at 0.99, 0.0082 and 0.031 at 0.95, where 4/4 pages have 0.0027 and 0.0041.
     * SmolLM2-135M in F16 on 8,192 tokens of WikiText-2: 0.0003 and 0.0061, and in Q4_1 reading them takes
     * 1.14 and 1.55 times less.
     * Shares where the papers have token counts made for longer contexts than ours, so that methods meet at
     * the same cost. */
    {.name = "cap-99", PAGES(8, 8), .coverage = 0.99f, .what = "8/8 read at coverage 0.99"},
    {.name = "cap-95", PAGES(8, 8), .coverage = 0.95f, .what = "8/8 read at coverage 0.95"},
    {.name = "cap-90", PAGES(8, 8), .coverage = 0.90f, .what = "8/8 read at coverage 0.90"},
    {.name = "progressive",
     PAGES(8, 8),
     .decode = {.share = 0.25f},
     .what = "answers read a quarter of the pages, chosen anew every 16 tokens"},
    {.name = "loopserve",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_LINES, .n_last = 64, .n_spread = 16, .coverage = 0.955f},
     .decode = {.score = DECODE_EXACT, .share = 0.25f},
     .what = "LoopServe: greedy columns and diagonals; pages by the newest answer rows"},
    {.name = "minference",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_LINES, .n_last = 64, .n_column = 1000, .n_slash = 6096,
                 .first = 30, .local = 100},
     .what = "MInference: 1,000 columns and 6,096 diagonals that the last 64 rows see"},
    {.name = "flexprefill",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_LINES, .n_last = 128, .coverage = 0.95f, .apart = true,
                 .first = 64, .local = 128},
     .what = "FlexPrefill's lines: columns and diagonals of the last 128 rows, each to 0.95"},
    {.name = "sampleattention",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_COLUMNS, .n_spread = 3, .coverage = 0.95f, .local_share = 0.08f},
     .what = "SampleAttention: columns that 5% of the rows see, the newest 8%"},
    {.name = "xattention",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_DIAGONALS, .coverage = 0.9f, .first = 64, .local = 64},
     .what = "XAttention: blocks by antidiagonals up to 0.9"},
    {.name = "a-shape",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_STATIC, .first = 128, .local_share = 0.25f},
     .what = "A-shape: prompts read the first 128 tokens and the newest quarter"},
    {.name = "tri-shape",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_STATIC, .first = 128, .local_share = 0.25f, .tail = 128},
     .what = "a-shape, with the last 128 rows of a prompt dense"},
    {.name = "delta",
     PAGES(8, 8),
     .prefill = {.score = PREFILL_STATIC, .first = 128, .local_share = 0.25f, .tail = 128,
                 .fix = FIX_PLAIN},
     .what = "tri-shape with Delta attention's correction"},
    {.name = "quest",
     PAGES(8, 8),
     .decode = {.score = DECODE_BOUNDS, .share = 0.25f, .dense_layers = 2},
     .what = "Quest: answers read a quarter of the pages, by bounds of each query"},
    {.name = "tidaldecode",
     PAGES(8, 8),
     .decode = {.score = DECODE_LAYERS, .share = 0.25f, .dense_layers = 2, .choose = {2, 9}},
     .what = "TidalDecode: layers 2 and 9 choose a quarter of the pages for the others"},
    {.name = "hsa",
     PAGES(8, 8),
     .decode = {.score = DECODE_CHANNELS, .share = 0.25f},
     .what = "HSA: a quarter of the pages by bounds in the channels of large queries"},
    {.name = "rocketkv-mt",
     PAGES(8, 8),
     .decode = {.score = DECODE_CHANNELS, .share = 0.25f, .prompt_share = 0.5f},
     .what = "RocketKV-MT: hsa among the half of the pages that the prompt's end looks at"},
    {.name = "snapkv-turn",
     PAGES(8, 8),
     .decode = {.score = DECODE_PROMPT, .share = 0.25f},
     .what = "SnapKV's window, chosen anew each turn: pages that the prompt's end looks at"},

    /* Number formats. */
    {.name = "q8_0",
     .k = {.grid = GRID_ABSMAX, .bits = 8, .group = 32, .rotate = 256, .rotate_min = 64},
     .v = {.grid = GRID_ABSMAX, .bits = 8, .group = 32, .rotate = 64, .rotate_min = 64},
     .at_write = true,
     .what = "llama.cpp -ctk q8_0 -ctv q8_0: 8 bits per token in groups of 32, rotated"},
    {.name = "q4_0",
     .k = {.grid = GRID_EXTREME, .bits = 4, .group = 32, .rotate = 256, .rotate_min = 64},
     .v = {.grid = GRID_EXTREME, .bits = 4, .group = 32, .rotate = 64, .rotate_min = 64},
     .at_write = true,
     .what = "llama.cpp -ctk q4_0 -ctv q4_0: 4 bits per token in groups of 32, rotated"},
    {.name = "kivi-4",
     KIVI(4),
     .what = "KIVI (Liu 2024): keys per channel, values per token, 4 bits in groups of 32"},
    {.name = "kivi-2", KIVI(2), .what = "KIVI at 2 bits"},
    {.name = "zipcache",
     .k = {.grid = GRID_RANGE, .bits = 2, .per_channel = true},
     .v = {.grid = GRID_RANGE, .bits = 2, .balance = BALANCE_ROOT_MAX},
     .tier_share = 0.6f,
     .tier_bits = 4,
     .tier_mean = true,
     .what = "ZipCache (He 2024): 4 bits for the salient 60 % of tokens, 2 for the rest"},
    {.name = "mikv",
     .k = {.grid = GRID_RANGE, .bits = 3, .group = 32, .balance = BALANCE_QUERY},
     .v = {.grid = GRID_RANGE, .bits = 3, .group = 32},
     .tier_share = 0.2f,
     .tier_bits = 16,
     .what = "MiKV (Yang 2024): f16 for the 20 % of tokens read most, 3 bits for the rest"},
    {.name = "gear-l",
     .k = {.grid = GRID_RANGE, .bits = 2, .per_channel = true, .rank = 2},
     .v = {.grid = GRID_RANGE, .bits = 2, .group = 64, .rank = 2},
     .what = "GEAR-L (Kang 2024): 2 bits in groups of 64 and a rank-2 image of the error"},
    {.name = "kvquant",
     .k = {.grid = GRID_NORMAL, .bits = 3, .per_channel = true, .outliers = 0.01f},
     .v = {.grid = GRID_NORMAL, .bits = 3, .outliers = 0.01f},
     .n_sink = 1,
     .what = "after KVQuant (Hooper 2024): 3-bit levels, 1 % outliers kept; keys after RoPE"},
    {.name = "turboquant-4",
     TURBO(4),
     .what = "after TurboQuant (Zandieh 2025): random rotation, 4-bit normal levels, one norm"},
    {.name = "turboquant-3", TURBO(3), .what = "after TurboQuant at 3 bits"},

    /* Eviction, all at a quarter of the tokens. */
    {.name = "streamingllm",
     .evict = {.score = EVICT_OLDEST, .keep = 0.25f, .n_sink = 4, .recent = 1, .each_step = true},
     .what = "drops tokens; StreamingLLM (Xiao 2023): the first 4 and the newest tokens"},
    {.name = "h2o",
     .evict = {.score = EVICT_SUM, .keep = 0.25f, .recent = 0.5f, .each_step = true},
     .what = "drops tokens; H2O (Zhang 2023): half the newest, half those attended to most"},
    {.name = "snapkv",
     .evict = {.score = EVICT_WINDOW, .keep = 0.25f, .window = 32, .pool = 5},
     .what = "drops tokens; SnapKV (Li 2024): what the last 32 tokens of the prompt attend to"},
    {.name = "pyramidkv",
     .evict = {.score = EVICT_WINDOW, .keep = 0.25f, .window = 32, .pool = 5, .slope = 20},
     .what = "drops tokens; PyramidKV (Cai 2024): SnapKV with more tokens in lower layers"},
    {.name = "l2norm",
     .evict = {.score = EVICT_KEY_NORM, .keep = 0.25f, .skip_layer = 2},
     .what = "drops tokens; L2 norm (Devoto 2024): keys of small norm, from the third layer on"},
    {.name = "lagkv",
     .evict = {.score = EVICT_LAG, .keep = 0.25f, .n_sink = 16, .chunk = 128},
     .what = "drops tokens; LagKV (Liang 2025): what stands out against the chunk after it"},
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

/* Least number of letters to insert, drop or change that makes b of a; beyond 31 letters no answer. */
static size_t distance(const char *a, const char *b)
{
    size_t row[33], n = strlen(a), m = strlen(b);
    if (n > 31 || m > 31)
        return SIZE_MAX;
    for (size_t x = 0; x <= m; x++)
        row[x] = x;
    for (size_t y = 1; y <= n; y++) {
        size_t corner = row[0];
        row[0] = y;
        for (size_t x = 1; x <= m; x++) {
            size_t change = corner + (a[y - 1] != b[x - 1]);
            size_t shift = (row[x] < row[x - 1] ? row[x] : row[x - 1]) + 1;
            corner = row[x];
            row[x] = change < shift ? change : shift;
        }
    }
    return row[m];
}

enum status presets_unknown(const char *name, struct err *e)
{
    const char *near = "adaptive, 8/4 or exact";
    size_t best = strlen(name) < 6 ? 2 : 4; /* what differs in more is something else */
    bool alike = false;
    for (int32_t i = 0; i < N_ROW; i++) {
        size_t d = distance(name, rows[i].name);
        if (d >= best || d >= strlen(name))
            continue;
        best = d;
        near = rows[i].name;
        alike = true;
    }
    return err_set(e, ERR_USAGE,
                   "KV preset '%s' is unknown; %s %s; `dogear presets` (in the chat /kv) lists all",
                   name, alike ? "you may mean" : "use", near);
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
