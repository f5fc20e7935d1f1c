/* The public calls: they forward to whichever engine stands behind the pointer. */
#include "engine/engine.h"

#include <stdlib.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "engine/engine_impl.h"
#include "engine/fake.h"
#include "engine/local.h"
#include "kernels/kernels.h"

enum status engine_open(const struct engine_params *p, struct engine **ret, struct err *e)
{
    return p->fake_script ? fake_open(p, ret, e) : local_open(p, ret, e);
}

void engine_close(struct engine *en)
{
    if (en)
        en->vt->close(en);
}

const struct engine_info *engine_info(const struct engine *en)
{
    return en->vt->info(en);
}

bool engine_preset(int32_t i, struct engine_preset *ret)
{
    const struct preset *p = presets_at(i);
    if (p)
        *ret = (struct engine_preset){p->name, p->what, preset_lossy(p), preset_simulated(p),
                                      p->adaptive};
    return p;
}

void engine_sampling_default(struct engine_sampling *s)
{
    *s = (struct engine_sampling){
        .temp = 0.8f,
        .top_k = 40,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = 1.0f,
        .repeat_last_n = 64,
        .seed = UINT64_MAX,
    };
}

const char *engine_stop_name(enum engine_stop s)
{
    static const char *const names[] = {
        [ENGINE_STOP_EOS] = "eos",
        [ENGINE_STOP_LENGTH] = "length",
        [ENGINE_STOP_CONTEXT] = "context",
        [ENGINE_STOP_CANCEL] = "cancel",
    };
    return names[s];
}

void engine_event_free(struct engine_event *ev)
{
    if (!ev)
        return;
    free(ev->text);
    free(ev->ids);
    free(ev->choice);
    free(ev->agree);
    free(ev->stats);
    free(ev);
}

enum status engine_submit(struct engine *en, const struct engine_turn *t, uint64_t *ret_turn,
                          struct err *e)
{
    return en->vt->submit(en, t, ret_turn, e);
}

enum status engine_verify(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                          uint64_t *ret_turn, struct err *e)
{
    return en->vt->verify(en, timeline, ids, n, ret_turn, e);
}

void engine_cancel(struct engine *en)
{
    en->vt->cancel(en);
}

bool engine_busy(const struct engine *en)
{
    return en->vt->busy(en);
}

struct engine_event *engine_poll(struct engine *en)
{
    return en->vt->wait(en, 0);
}

struct engine_event *engine_wait(struct engine *en, int timeout_ms)
{
    return en->vt->wait(en, timeout_ms);
}

void engine_forget(struct engine *en, int64_t timeline)
{
    en->vt->forget(en, timeline);
}

void engine_stats(struct engine *en, struct stats *ret)
{
    en->vt->stats(en, ret);
}

void engine_set_coverage(struct engine *en, float coverage)
{
    en->vt->set_coverage(en, coverage);
}

enum status engine_set_reasoning(struct engine *en, const char *mode, struct err *e)
{
    return en->vt->set_reasoning(en, mode, e);
}

void engine_set_kv_budget(struct engine *en, uint64_t size_bytes)
{
    en->vt->set_kv_budget(en, size_bytes);
}

enum status engine_set_kv(struct engine *en, const char *preset, struct err *e)
{
    return en->vt->set_kv(en, preset, e);
}

const char *engine_kv_name(const struct engine *en, int i, const char **ret_what)
{
    return en->vt->kv_name(en, i, ret_what);
}

void engine_map_ask(struct engine *en, int64_t timeline)
{
    en->vt->map_ask(en, timeline);
}

bool engine_map(struct engine *en, struct stats_map *ret)
{
    return en->vt->map(en, ret);
}

void engine_trace_ask(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                      int32_t pos)
{
    en->vt->trace_ask(en, timeline, ids, n, pos);
}

bool engine_trace(struct engine *en, struct stats_trace *ret)
{
    return en->vt->trace(en, ret);
}

enum status engine_tokenize(struct engine *en, const char *text, size_t len, bool parse_special,
                            bool add_bos, int32_t **ret_ids, int32_t *ret_n, struct err *e)
{
    return en->vt->tokenize(en, text, len, parse_special, add_bos, ret_ids, ret_n, e);
}

enum status engine_detokenize(struct engine *en, const int32_t *ids, int32_t n, bool special,
                              char **ret, size_t *ret_len, struct err *e)
{
    return en->vt->detokenize(en, ids, n, special, ret, ret_len, e);
}

char *engine_token_text(struct engine *en, int32_t id)
{
    struct str out = {0};
    struct err ignored;
    char *text;
    size_t n;
    if (engine_detokenize(en, &id, 1, true, &text, &n, &ignored) != OK)
        return mem_strdup("");
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = (size_t)utf8_decode(text + i, n - i, &cp);
        if (!text[i] || (len == 1 && (uint8_t)text[i] >= 0x80))
            str_addf(&out, "<0x%02X>", (unsigned)(uint8_t)text[i]);
        else
            str_add(&out, text + i, len);
        i += len;
    }
    free(text);
    return str_take(&out);
}

enum status engine_logits(struct engine *en, const int32_t *ids, int32_t n,
                          bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                          struct err *e)
{
    return en->vt->logits(en, ids, n, row, ctx, e);
}

enum status engine_bench(struct engine *en, const struct engine_bench *b,
                         struct engine_bench_result *ret, struct err *e)
{
    return en->vt->bench(en, b, ret, e);
}

enum status engine_attention(struct engine *en, const int32_t *ids, int32_t n,
                             const char *const *presets, int32_t n_preset,
                             struct engine_attention *ret, struct err *e)
{
    return en->vt->attention(en, ids, n, presets, n_preset, ret, e);
}

enum status engine_calibrate(struct engine *en, struct engine_floor *ret, struct err *e)
{
    return en->vt->calibrate(en, ret, e);
}

const char *engine_cpu_kernels(void)
{
    struct kern *k = kern_open_cpu(NULL, 1);
    const char *name = k ? k->name : NULL;
    if (k)
        kern_close(k);
    return name;
}

bool engine_gpu_state(char *line, size_t line_bytes)
{
    return kern_cuda_state(line, line_bytes);
}
