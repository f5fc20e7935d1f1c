/* What stands behind the opaque struct engine: one dispatch table, so that the scripted engine of
 * the tests and the real one are the same thing to every caller. Seen only inside engine/.
 *
 * An implementation embeds `struct engine` as its first member and sets vt before it hands the
 * pointer out. engine.c forwards the public calls; the contracts are those of engine.h. No entry
 * may be NULL: an implementation that cannot do something returns ERR_UNSUPPORTED. */
#ifndef ENGINE_ENGINE_IMPL_H
#define ENGINE_ENGINE_IMPL_H

#include "engine/engine.h"

struct engine_vt {
    void (*close)(struct engine *en);
    const struct engine_info *(*info)(const struct engine *en);
    enum status (*submit)(struct engine *en, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e);
    enum status (*verify)(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                          uint64_t *ret_turn, struct err *e);
    void (*cancel)(struct engine *en);
    bool (*busy)(const struct engine *en);
    /* timeout_ms 0 = poll, -1 = for ever. */
    struct engine_event *(*wait)(struct engine *en, int timeout_ms);
    void (*forget)(struct engine *en, int64_t timeline);
    void (*stats)(struct engine *en, struct stats *ret);
    void (*set_coverage)(struct engine *en, float coverage);
    enum status (*set_reasoning)(struct engine *en, const char *mode, struct err *e);
    void (*set_kv_budget)(struct engine *en, uint64_t size_bytes);
    enum status (*set_kv)(struct engine *en, const char *preset, struct err *e);
    const char *(*kv_name)(const struct engine *en, int i, const char **ret_what);
    void (*map_ask)(struct engine *en, int64_t timeline);
    bool (*map)(struct engine *en, struct stats_map *ret);
    void (*trace_ask)(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                      int32_t pos);
    bool (*trace)(struct engine *en, struct stats_trace *ret);
    enum status (*tokenize)(struct engine *en, const char *text, size_t len, bool parse_special,
                            bool add_bos, int32_t **ret_ids, int32_t *ret_n, struct err *e);
    enum status (*detokenize)(struct engine *en, const int32_t *ids, int32_t n, bool special,
                              char **ret, size_t *ret_len, struct err *e);
    enum status (*logits)(struct engine *en, const int32_t *ids, int32_t n,
                          bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                          struct err *e);
    enum status (*bench)(struct engine *en, const struct engine_bench *b,
                         struct engine_bench_result *ret, struct err *e);
    enum status (*attention)(struct engine *en, const int32_t *ids, int32_t n,
                             const char *const *presets, int32_t n_preset,
                             struct engine_attention *ret, struct err *e);
    enum status (*calibrate)(struct engine *en, struct engine_floor *ret, struct err *e);
};

struct engine {
    const struct engine_vt *vt;
};

#endif
