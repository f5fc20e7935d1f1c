/* The engine: one loaded model, many timelines, its own thread.
 *
 * Owns: the mapped model file, the device, every timeline's KV. Knows nothing of conversations,
 * SQL or screens. A timeline is named by a number of the caller's choice (the store's branch id);
 * the engine keeps recently used ones in memory within the KV budget and finds by itself how much
 * of a turn's tokens a timeline already holds.
 *
 * Threads: engine_open blocks (it may be run on any thread); engine_submit, engine_cancel,
 * engine_poll, engine_stats, engine_forget may be called from one controlling thread and never
 * block on compute. Calls marked "blocking" run on the caller's thread and must not be made while
 * a turn is running. Errors: enum status + struct err. Strings are UTF-8, length-delimited. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/base/kv_io.h"
#include "engine/stats.h"

struct engine;

struct engine_params {
    const char *model_path;  /* GGUF; the first part of a split file */
    int32_t n_ctx;           /* 0 = the model's own, lowered to what memory allows (with notice) */
    int32_t n_thread;        /* 0 = automatic */
    int32_t n_gpu_layer;     /* -1 = all that fit */
    const char *backend;     /* "auto", "cpu", "cuda"; NULL = auto */
    const char *kv;          /* preset name; NULL = the default */
    uint64_t kv_budget_bytes;/* 0 = automatic */
    float coverage;          /* 1 = dense; 0 = the preset's */
    const char *reasoning;   /* whether the model thinks before it answers, where its chat format has a switch:
                                "on", "off", "auto" (as it does unasked); NULL = auto */
    int32_t sparse_from;     /* for measuring: sparse attention from so many tokens on, even where
                                it does not pay; 0 = where it pays */
    bool vocab_only;         /* tokenizer only: no weights, no thread */
    const char *fake_script; /* not NULL: scripted engine for tests, see fake.c; model_path unused */
    const char *cache_dir;   /* for what can be measured again (floors); NULL = it is, each time */
    const struct kv_io *kv_io; /* NULL = KV is not kept on disk; copied */
    void (*wake)(void *ctx); /* called on the engine's thread when events wait; may be NULL */
    void *wake_ctx;
    /* Load progress 0..1 on the opening thread; returning false cancels. May be NULL. */
    bool (*progress)(void *ctx, float done);
    void *progress_ctx;
};

enum status engine_open(const struct engine_params *p, struct engine **ret, struct err *e);
void engine_close(struct engine *en); /* cancels, joins, frees; NULL is fine */

/* ---- what was loaded ---- */
struct engine_info {
    char name[128];         /* general.name or the file's stem */
    char arch[32];
    char type[32];          /* what the file calls itself, e.g. "Q4_K_M", else its dominant weight type */
    char backend[48];       /* "cpu avx512, 2 threads", "cuda, 3 of 16 layers" */
    char kv[32];            /* preset in force at first; stats.kv is that of now */
    int64_t kv_budget_least; /* bytes that the cache of the shortest context takes */
    bool kv_lossy;          /* the preset loses tokens for good */
    bool kv_simulated;      /* kv_bytes are those of the method's formula, memory holds f16 */
    char notice[256];       /* e.g. context lowered to fit; "" = none */
    char chat_format[32];   /* "chatml", "llama3", ...; "" = no template: plain continuation */
    int64_t n_param;
    int64_t file_bytes;
    int32_t n_ctx, n_ctx_train, n_vocab, n_layer, n_head, n_head_kv, head_dim;
    int32_t n_layer_kv, n_layer_state;       /* with a cache of their own, with a state of fixed size */
    int32_t n_head_kv_local, head_dim_local; /* of sliding layers */
    bool demo;              /* the bundled demonstration model */
    uint64_t fingerprint;   /* of everything that decides KV content */
};
const struct engine_info *engine_info(const struct engine *en); /* borrowed for its lifetime */

/* ---- what may be asked for ---- */
struct engine_preset {
    const char *name, *what; /* static */
    bool lossy, simulated;   /* as kv_lossy and kv_simulated above */
    bool adaptive;           /* follows the budget */
};
/* The i-th value of engine_params.kv; false behind the last. */
bool engine_preset(int32_t i, struct engine_preset *ret);

/* ---- turns ---- */
struct engine_sampling { /* llama.cpp's names, meanings and defaults */
    float temp;              /* 0.8; <= 0 = greedy */
    int32_t top_k;           /* 40; <= 0 = all */
    float top_p;             /* 0.95 */
    float min_p;             /* 0.05 */
    float repeat_penalty;    /* 1.0 = off */
    int32_t repeat_last_n;   /* 64 */
    uint64_t seed;           /* UINT64_MAX = random; the seed used is in the DONE event */
};
void engine_sampling_default(struct engine_sampling *s);

struct engine_message {
    const char *role; /* "system", "user", "assistant" */
    const char *text;
    size_t len;
};

/* One turn: the ids already fed on this path, exactly as fed, then new messages to render with the
 * model's template (never a re-rendering of history). All is copied by engine_submit. */
struct engine_turn {
    int64_t timeline;
    const int32_t *prefix;              /* token ids of the path so far; NULL when n_prefix = 0 */
    int32_t n_prefix;
    const struct engine_message *messages;
    int32_t n_message;                  /* 0 = go on generating after prefix */
    bool raw;                           /* no template: the texts are concatenated and continued */
    struct engine_sampling sampling;
    int32_t n_predict;                  /* most tokens to generate; -1 = until stop or context end */
};

enum engine_event_kind {
    ENGINE_EV_PROMPT,   /* ids: the rendered new messages + generation prompt, before computing */
    ENGINE_EV_PREFILL,  /* progress: done/total in n_tok_done, n_tok_total */
    ENGINE_EV_TOKEN,    /* ids: tokens generated; text: whole code points (may be empty) */
    ENGINE_EV_NOTICE,   /* text: one line for the user */
    ENGINE_EV_DONE,     /* the turn ended: figures below */
    ENGINE_EV_FAILED,   /* err; the timeline keeps what was computed */
    ENGINE_EV_VERIFY,   /* engine_verify's progress in n_tok_done, n_tok_total */
    ENGINE_EV_VERIFIED, /* engine_verify ended: fidelity */
};

/* What a timeline's cache, as it is now, costs against an uncompressed one: every position read
 * twice, teacher-forced. NAN while nothing was compared. */
struct engine_fidelity {
    int32_t n_tok;            /* tokens of the timeline */
    int32_t n;                /* positions compared; fewer than n_tok = cancelled */
    int32_t first_divergence; /* first position whose likeliest next token differs; -1 = none */
    double kl_mean, kl_p99;   /* KL(exact || compressed) of the next token, nats */
    double top1;              /* share of positions whose likeliest next token is the same */
    double nll, nll_exact;    /* of the text that stands there, nats per token */
    /* What any change, however small, does to this model: inputs that are rounded to 8 bits for quantised
     * weights are rounded otherwise, and that adds up. An uncompressed cache against another one whose
     * embeddings are larger by 2^-16 of themselves, over the first n_rounding positions. */
    double kl_rounding, top1_rounding;
    int32_t n_rounding;
};

enum engine_stop {
    ENGINE_STOP_EOS,     /* the model ended its message */
    ENGINE_STOP_LENGTH,  /* n_predict reached */
    ENGINE_STOP_CONTEXT, /* context full */
    ENGINE_STOP_CANCEL,
};
const char *engine_stop_name(enum engine_stop s); /* "eos", "length", "context", "cancel" */

struct engine_event {
    enum engine_event_kind kind;
    uint64_t turn;             /* number returned by engine_submit */
    char *text;                /* owned; NULL or NUL-terminated */
    size_t len;
    int32_t *ids;              /* owned */
    int32_t n_id;
    struct stats_choice *choice; /* TOKEN: [n_id], owned; NULL = unknown */
    int32_t n_tok_done, n_tok_total;
    /* DONE */
    enum engine_stop stop;
    int32_t n_reused, n_read, n_generated;
    double ttft_ms, prefill_tps, decode_tps; /* NAN = unknown */
    double density, retained_mass;           /* NAN = unknown */
    int64_t kv_bytes, f16_bytes;             /* of this timeline; -1 = unknown */
    uint64_t seed;
    struct err err;            /* FAILED */
    struct engine_fidelity fidelity; /* VERIFIED */
    struct stats_agree *agree;       /* VERIFIED: [fidelity.n], of positions 0.., owned */
    struct stats *stats;       /* DONE, FAILED, VERIFIED: the snapshot as the turn left it, owned; what is
                                * queued behind it may make the next one another timeline's */
};
void engine_event_free(struct engine_event *ev);

/* Queues a turn; returns ERR_BUSY while another runs (the typed text stays with the caller). */
enum status engine_submit(struct engine *en, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e);
/* Measures the timeline's fidelity as a job of its own: reads ids[0..n), the whole path as fed, with
 * an f16 cache and with the pages the timeline holds (in memory or kept; what it does not hold is
 * sealed as the preset says), attention dense in both. Events VERIFY, then VERIFIED (also after
 * engine_cancel) or FAILED, under the number returned; the stats snapshot shows both. Changes
 * nothing. ERR_BUSY while a turn runs, and a turn is refused while this runs. */
enum status engine_verify(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                          uint64_t *ret_turn, struct err *e);
void engine_cancel(struct engine *en);                 /* ends the running turn soon; never blocks */
bool engine_busy(const struct engine *en);
struct engine_event *engine_poll(struct engine *en);   /* NULL = none waiting; free it */
struct engine_event *engine_wait(struct engine *en, int timeout_ms); /* blocking variant for CLI */
void engine_forget(struct engine *en, int64_t timeline); /* drop its KV from memory */
void engine_stats(struct engine *en, struct stats *ret);
/* The attention mass that sparse attention keeps, ENGINE_COVERAGE_MIN..1, from the next turn on;
 * 1 = dense. Any time. */
#define ENGINE_COVERAGE_MIN 0.7f
void engine_set_coverage(struct engine *en, float coverage);
/* As engine_params.reasoning, from the next turn on. Any time. ERR_UNSUPPORTED where the chat format has no
 * switch. */
enum status engine_set_reasoning(struct engine *en, const char *mode, struct err *e);

/* ---- the cache while it runs ---- */
/* Bytes for the KV of all timelines in memory; 0 = as planned at opening. What does not fit steps
 * down at once (during an answer: before its next token), to the preset's floor at most: precision
 * that went comes back only by reading the text again (engine_forget). */
void engine_set_kv_budget(struct engine *en, uint64_t size_bytes);
/* Another preset: the timelines in memory are dropped and read again from ids (or from disk, where
 * they were kept in this form) when they are next needed. ERR_USAGE: unknown; ERR_UNSUPPORTED: not
 * for this model; ERR_BUSY: a turn runs. */
enum status engine_set_kv(struct engine *en, const char *preset, struct err *e);
/* i-th preset that may be set, NULL past the end; *ret_what: one line about it. */
const char *engine_kv_name(const struct engine *en, int i, const char **ret_what);

/* Asks for a picture of a timeline's pages; never blocks. It is taken between two tokens or when
 * the engine is idle, and no more often than costs a hundredth of one core. */
void engine_map_ask(struct engine *en, int64_t timeline);
/* Copies the newest picture into *ret when it is newer than ret->at_s (false otherwise). */
bool engine_map(struct engine *en, struct stats_map *ret);

/* Asks what position pos looked at; never blocks. ids[0..n), n > pos: the whole path as fed, copied.
 * When the engine is next idle the query is computed again, attention dense, over the rows and pages
 * that the timeline holds (a timeline that is not in memory is taken up from disk); up to 127 tokens
 * before it are read again for that, and nothing is changed. A turn that is submitted meanwhile goes
 * first: then there is no answer, ask again. */
void engine_trace_ask(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                      int32_t pos);
/* Copies the newest answer into *ret when it is newer than ret->at_s (false otherwise). */
bool engine_trace(struct engine *en, struct stats_trace *ret);

/* ---- tokens (any thread) ---- */
enum status engine_tokenize(struct engine *en, const char *text, size_t len, bool parse_special,
                            bool add_bos, int32_t **ret_ids, int32_t *ret_n, struct err *e);
/* Raw bytes of the tokens; special tokens are written as their text when special is true, else
 * left out. *ret is malloc'ed, NUL-terminated. */
enum status engine_detokenize(struct engine *en, const int32_t *ids, int32_t n, bool special,
                              char **ret, size_t *ret_len, struct err *e);

/* One token to look at, special or not, as valid UTF-8: bytes that are no whole character by themselves,
 * and NUL, as <0xE2>. malloc'ed; "" when there is no such token. */
char *engine_token_text(struct engine *en, int32_t id);

/* ---- measuring (blocking) ---- */
/* Teacher-forced logits: calls row(ctx, i, logits[n_vocab]) for each i in order. */
enum status engine_logits(struct engine *en, const int32_t *ids, int32_t n,
                          bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                          struct err *e);

struct engine_bench {
    int32_t n_prompt, n_gen, depth; /* as llama-bench: prefill n_prompt or generate n_gen at depth */
    int32_t n_rep;
    bool ops; /* and once more with every op timed by itself */
};
enum { ENGINE_BENCH_OPS = 20 };
struct engine_bench_result {
    double tps_median, tps_min, tps_max;
    double seal_share;            /* of the time, spent making pages; NAN = nothing is sealed, or beside the rest on a device */
    double gbps, gops;            /* bytes and operations moved per second, counted; NAN = unknown */
    double limit_fraction;        /* of the memory or int8 limit measured beside it, the nearer one */
    struct {
        const char *name; /* "matmul"; static text */
        double s;
        int64_t n; /* calls */
    } op[ENGINE_BENCH_OPS]; /* those that were called; all of one repetition */
    int32_t n_op;
};
enum status engine_bench(struct engine *en, const struct engine_bench *b,
                         struct engine_bench_result *ret, struct err *e);

/* What the ways of reading less of a preset keep of attention itself, on the queries, keys and
 * values of a text; over all full layers. NAN = the preset reads everything in that phase. */
struct engine_attention {
    double prefill_density, prefill_mass, prefill_mass_p5; /* blocks read; softmax mass kept */
    double prefill_error; /* of the outputs of the last rows against dense, relative */
    double decode_density, decode_mass, decode_mass_p5; /* the same, row by row after a prompt */
    double decode_error;
};
/* Reads ids densely and, beside it, by each preset in chunks of 512, the last of which tell the
 * error; the last 128 tokens are judged as an answer.
 * ret: [n_preset]. */
enum status engine_attention(struct engine *en, const int32_t *ids, int32_t n,
                             const char *const *presets, int32_t n_preset,
                             struct engine_attention *ret, struct err *e);

/* How far this model's cache may be compressed by `adaptive`: the coarsest format whose mean KL
 * divergence on a short text stays within a limit. Measured now, or taken from cache_dir. */
struct engine_floor {
    char format[8]; /* "8/8" ... "2/2" */
    double kl;      /* its mean, nats per token; above the limit when even 8/8 is */
    double kl_limit;
    int32_t n;      /* positions compared */
};
enum status engine_calibrate(struct engine *en, struct engine_floor *ret, struct err *e);
/* What cache_dir holds for the model at path, without loading it; ERR_NOT_FOUND = not measured. */
enum status engine_floor_known(const char *path, const char *cache_dir, struct engine_floor *ret,
                               struct err *e);

/* ---- looking at a file without loading it (blocking, no engine) ---- */
/* Header, metadata, tensors and memory plan as one JSON text (malloc'ed); false JSON is impossible:
 * bytes that are not UTF-8 are replaced. n_ctx 0 = the model's own, kv_budget_bytes 0 = automatic. */
enum status engine_inspect(const char *path, int32_t n_ctx, uint64_t kv_budget_bytes,
                           char **ret_json, struct err *e);

/* Name of the kernels that the CPU runs: "ref", "avx2", "avx512", "amx"; the environment's KERNELS
 * chooses. NULL = it names none that this machine has. Static. */
const char *engine_cpu_kernels(void);
/* Bytes that this machine has, or that its container may use; UINT64_MAX = unknown. */
uint64_t engine_memory(void);
/* One line about the GPU here: what it is, or why there is none. True when --backend cuda may work. */
bool engine_gpu_state(char *line, size_t line_bytes);

#endif
