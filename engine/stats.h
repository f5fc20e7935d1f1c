/* A snapshot of everything the meters show: plain data, copied at most ten times a second.
 * Unknown numbers are NAN (doubles) or -1 (integers) and are shown as "--", never as 0. */
#ifndef ENGINE_STATS_H
#define ENGINE_STATS_H

#include <stdbool.h>
#include <stdint.h>

enum { STATS_TIERS = 8, STATS_LAYERS = 128 };

enum stats_phase { STATS_IDLE, STATS_PREFILL, STATS_DECODE, STATS_VERIFY };

/* A timeline's cache against the whole of it read again exactly (engine_verify). */
struct stats_verified {
    double kl, kl_p99;        /* of the next token, nats: mean, and what 99 % lie below */
    double top1;              /* share of equal likeliest tokens */
    double nll_difference;    /* compressed less exact, nats per token */
    int32_t first_divergence; /* position; -1 = none, or unknown (see n) */
    double kl_rounding, top1_rounding; /* what rounding alone makes of a hair's difference: engine.h */
    int32_t n;                /* positions measured; -1 = never */
    double at_s;              /* when */
};

struct stats {
    enum stats_phase phase;
    double at_s; /* CLOCK_MONOTONIC when the snapshot was taken */

    int64_t timeline;   /* that the figures of a chat are about; 0 = none yet */

    /* context of the current timeline */
    int32_t n_ctx;      /* tokens that may be held */
    int32_t n_tok;      /* tokens held now */

    /* last or current turn */
    int32_t n_reused, n_read;         /* prompt tokens taken from the cache / computed */
    int32_t n_prefill_done, n_prefill_total;
    int32_t n_generated;
    double prefill_tps, decode_tps;   /* tokens per second; current while running, else the last */
    double ttft_s;                    /* submit to first token */
    double eta_s;                     /* rest of the prefill */

    /* sparse attention of the last turn (sparse.h, select.h); shares are 0..1 */
    double coverage;                  /* asked for, from the next turn on; 1 = dense */
    const char *sparse_reason;        /* what was decided and why; static text, NULL = unknown */
    double density, retained_mass;    /* of the prompt: blocks read, mean softmax mass kept */
    double mass_p5, mass_worst;       /* mass kept: 5th percentile of rows, mean of the worst head */
    int32_t worst_layer, worst_head;
    double output_error;              /* relative, of audited rows, after correction */
    double correction;                /* its mean strength; 0 = none */
    double gain_predicted, gain_measured; /* time of attention, dense over sparse */
    double decode_density, decode_mass;   /* of the answer: blocks read, mass kept */

    /* the same of the prompt by layer; NAN = nothing was measured there */
    int32_t n_layer;
    float layer_density[STATS_LAYERS], layer_mass[STATS_LAYERS];

    /* memory, bytes */
    int64_t weights_bytes, scratch_bytes;
    int64_t kv_bytes;                 /* all timelines in memory */
    int64_t kv_chat_bytes;            /* this timeline, in whole blocks of 64 tokens */
    int64_t kv_f16_bytes;             /* what its blocks would take in f16 */
    int64_t kv_budget_bytes;
    int32_t fit_tok, fit_floor_tok;   /* tokens that the budget holds in all: at the precision its
                                         pages have now, and at the preset's floor */
    char kv[24];                      /* preset in force; "" = unknown */
    char kv_floor[8];                 /* its coarsest tier; "" = unknown */
    int64_t rss_bytes, vram_bytes;    /* of the process */
    int64_t tier_bytes[STATS_TIERS];  /* this timeline by tier; names in stats_tier_name */
    double bytes_per_tok;             /* effective, this timeline */

    /* Fidelity of compression for this timeline, obtained in three ways.
     * Predicted: the ledger's mass x error over all pages, after each turn. */
    double harm_predicted;
    /* Measured while decoding: now and then one layer also answers from exact rows that were kept
     * of some pages. Ages are seconds of CLOCK_MONOTONIC, as at_s. */
    double step_error;                /* relative error of the layer's answer from those pages */
    double harm_measured;             /* harm_predicted, corrected by measured / predicted there */
    int32_t step_n;                   /* answers compared */
    double step_at_s;
    struct stats_verified verified;
    int32_t n_verify_done, n_verify_total; /* while phase is STATS_VERIFY; else -1 */
};

/* Tier names, coarsest last: "f16", "8/8", "8/4", "6/4", "4/4", "4/2", "2/2", "disk". */
extern const char *const stats_tier_name[STATS_TIERS];

/* All fields unknown. */
void stats_init(struct stats *s);
/* Those about fidelity unknown: the cache is kept in another way. */
void stats_forget_fidelity(struct stats *s);
/* What a verification found unknown: the pages are no longer those that were measured. */
void stats_forget_verified(struct stats *s);
/* Whether a timeline's pages are coarser than they were, on average: what was measured of them then
 * holds no longer. Rows in f16 are finer than any page. */
bool stats_coarser(const int64_t tier_bytes[STATS_TIERS], const int64_t were[STATS_TIERS]);
/* All that are of one chat unknown: the figures become another's. */
void stats_forget_chat(struct stats *s);

/* One (layer, KV head) of a block of 64 tokens. */
struct stats_page {
    uint8_t tier;           /* index of stats_tier_name */
    uint8_t bits_k, bits_v; /* 16 = f16 rows */
    float error_k, error_v; /* rms(x - page) / rms(x) at this depth, measured when it was sealed;
                               0 for f16 rows, NAN = unknown */
    float mass;             /* share of the attention of the answers' tokens that fell on it, recent
                               turns weigh more; NAN = nothing was written since it was loaded */
};

/* A picture of a timeline's pages, taken on demand. first and page are owned: stats_map_free. */
struct stats_map {
    double at_s;       /* CLOCK_MONOTONIC; NAN = none was taken */
    double took_s;
    int64_t timeline;
    int32_t n_layer, n_block, n_tok;
    int32_t *first;          /* [n_layer + 1]: where each layer's heads of keys and values begin, and all end */
    struct stats_page *page; /* [heads of all layers][n_block] */
};
void stats_map_init(struct stats_map *m);
void stats_map_free(struct stats_map *m); /* leaves it empty */
/* Copies a newer picture; tells whether it was. */
bool stats_map_take(struct stats_map *ret, const struct stats_map *from);
int32_t stats_map_heads(const struct stats_map *m); /* of all layers */

/* What one position looked at: taken on demand, by computing its query again over the cache as it is
 * now (engine_trace_ask). */
struct stats_trace {
    double at_s;      /* CLOCK_MONOTONIC; NAN = none was taken */
    double took_s;
    int64_t timeline;
    int32_t pos;      /* whose query it is */
    int32_t n;        /* pos + 1; 0 = unknown: the cache does not hold what comes before it */
    float on_rows;    /* the part of all weights that fell on f16 rows; the rest fell on pages */
    float *weight;    /* [n] softmax weights of positions 0..pos, mean over all layers and heads: they
                         sum to 1. Owned: stats_trace_free. */
};
void stats_trace_init(struct stats_trace *t);
void stats_trace_free(struct stats_trace *t); /* leaves it empty */
/* Copies from into *ret when it is newer; false otherwise. */
bool stats_trace_take(struct stats_trace *ret, const struct stats_trace *from);

/* A position read exactly and over the cache (engine_verify): what it says of the next token. */
struct stats_agree {
    float kl;  /* KL(exact || compressed), nats */
    bool same; /* the likeliest token is the same */
};

/* What the model said when it chose a token: from its own distribution, before penalties,
 * temperature and cuts. */
enum { STATS_ALTERNATIVES = 4 };
struct stats_choice {
    float p;                           /* of the token chosen */
    int32_t id[STATS_ALTERNATIVES];    /* the most probable ones, best first; -1 = fewer */
    float id_p[STATS_ALTERNATIVES];
};

#endif
