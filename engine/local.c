#include "engine/local.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/room.h"
#include "kernels/page.h"

#define DEMO_PREFIX "Dogear" /* general.name of the bundled models begins with it */
enum { GPU_CTX_LEAST = 8192 }; /* layers leave the GPU before the context is shorter */
#define WALK_PERIOD_S 0.5    /* all pages are looked at no more often while an answer is written, */
#define WALK_SHARE 0.01      /* and never for more than this share of the time */

struct engine_event *local_event_new(uint64_t number, enum engine_event_kind kind)
{
    struct engine_event *ev = mem_calloc(1, sizeof *ev);
    ev->kind = kind;
    ev->turn = number;
    ev->ttft_ms = ev->prefill_tps = ev->decode_tps = ev->density = ev->retained_mass = NAN;
    ev->kv_bytes = ev->f16_bytes = -1;
    return ev;
}

static struct local *local_of(const struct engine *en)
{
    return (struct local *)en;
}

enum status local_check_ids(const struct local *l, const int32_t *ids, int32_t n, struct err *e)
{
    for (int32_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= l->info.n_vocab)
            return err_set(e, ERR_USAGE, "token %d at place %d is outside the vocabulary of %d",
                           ids[i], i, l->info.n_vocab);
    return OK;
}

struct kv_shape local_kv_shape(const struct local *l)
{
    return forward_kv_shape(&l->model->p);
}

struct engine_floor local_floor_info(const struct floor *f)
{
    struct engine_floor r = {.kl_limit = FLOOR_LIMIT, .n = f->n};
    snprintf(r.format, sizeof r.format, "%s", floor_names[f->rung]);
    r.kl = f->kl[f->rung];
    return r;
}

void local_walk(struct local *l, int64_t id, const struct kv_line *line, bool often)
{
    double start = clock_s();
    if (often && start - l->walked_s < fmax(WALK_PERIOD_S, l->walk_s / WALK_SHARE))
        return;
    pthread_mutex_lock(&l->lock);
    bool map = l->map_wanted && l->map_line == id;
    l->map_wanted &= !map;
    struct stats *s = &l->stats;
    s->harm_predicted = line && kv_seals(line) ? ledger_harm(line) : NAN;
    witness_report(l->witness, id, s);
    int64_t were[STATS_TIERS];
    memcpy(were, s->tier_bytes, sizeof were);
    if (line)
        ledger_tiers(line, s->tier_bytes);
    else
        memset(s->tier_bytes, 0, sizeof s->tier_bytes);
    if (stats_coarser(s->tier_bytes, were))
        stats_forget_verified(s);
    s->kv_bytes = (int64_t)kv_pool_bytes(l->pool);
    s->kv_budget_bytes = (int64_t)kv_pool_budget(l->pool);
    if (l->kern->ops->memory_used)
        s->vram_bytes = (int64_t)l->kern->ops->memory_used(l->kern);
    s->fit_tok = ledger_room(l->pool, line, l->plan.n_chunk);
    s->fit_floor_tok = ledger_room_floor(l->pool, line, l->plan.n_chunk);
    snprintf(s->kv, sizeof s->kv, "%s", l->preset->name);
    snprintf(s->kv_floor, sizeof s->kv_floor, "%s", ledger_floor_name(l->preset));
    if (map) {
        l->map.n_block = l->map.n_tok = 0;
        if (line)
            ledger_map(line, &l->map);
        l->map.timeline = id;
        l->map.at_s = clock_s();
        l->map.took_s = l->map.at_s - start;
    }
    pthread_mutex_unlock(&l->lock);
    l->walked_s = clock_s();
    l->walk_s = l->walked_s - start;
}

/* ---- opening ---- */

/* The memory plan on the backend at hand; with a lower floor where that helps. */
static enum status make_plan(struct local *l, struct err *e)
{
    struct kern *k = l->kern;
    const struct engine_params *p = &l->params;
    uint64_t left = k->ops->memory_free ? k->ops->memory_free(k) : plan_available();
    enum status s = plan_make(l->model, k, l->preset, p->n_ctx, p->kv_budget_bytes, left, &l->plan, e);
    while (s == ERR_MEMORY && room_ask_less(l))
        s = plan_make(l->model, k, l->preset, p->n_ctx, p->kv_budget_bytes, left, &l->plan, e);
    return s;
}

static enum status open_cpu(struct local *l, struct err *e)
{
    /* The plain kernels serve as the oracle: nothing is rounded then, keys and values included. */
    const char *name = getenv("KERNELS");
    bool oracle = name && strcmp(name, "ref") == 0 && preset_exact(l->preset);
    l->kern = kern_open_cpu(oracle ? "ref32" : NULL, l->params.n_thread);
    if (!l->kern) {
        return err_set(e, ERR_UNSUPPORTED,
                       "KERNELS=%s is not available on this machine; unset it "
                       "or use ref, avx2, avx512 or amx",
                       name ? name : "");
    }
    return make_plan(l, e);
}

/* As many layers on the device as were asked for; or as fit beside the context that was asked for
 * or, when none was, one of GPU_CTX_LEAST tokens. */
static enum status place_layers(struct local *l, struct err *e)
{
    const struct engine_params *p = &l->params;
    int32_t all = l->model->p.n_layer, n = p->n_gpu_layer;
    l->n_gpu_layer = n >= 0 && n < all ? n : all;
    if (n < 0) {
        uint64_t left = l->kern->ops->memory_free(l->kern);
        for (n = all; n > 0; n--) {
            struct err ignored;
            model_place(l->model, n);
            enum status s = plan_make(l->model, l->kern, l->preset, p->n_ctx, p->kv_budget_bytes,
                                      left, &l->plan, &ignored);
            if (s == OK && (!l->plan.lowered || l->plan.n_ctx >= GPU_CTX_LEAST)) {
                l->n_gpu_layer = n;
                return OK;
            }
        }
    }
    model_place(l->model, l->n_gpu_layer);
    return make_plan(l, e);
}

static enum status open_cuda(struct local *l, struct err *e)
{
    const struct model_params *p = &l->model->p;
    char why[256], need[32], have[32];
    const struct kv_shape shape = local_kv_shape(l);
    int32_t dim;
    if (!kv_can_seal(&shape, &dim))
        return err_set(e, ERR_UNSUPPORTED,
                       "the GPU kernels need heads of a multiple of 16 channels, at most %d; this "
                       "model has %d; use --backend cpu",
                       PAGE_HEAD_DIM_MAX, dim);
    l->kern = kern_open_cuda(NULL, 0, l->params.n_thread, why, sizeof why);
    if (!l->kern)
        return err_set(e, ERR_UNSUPPORTED, "%s", why);
    TRY(place_layers(l, e));
    if (l->plan.weights_kept > plan_available())
        return err_set(e, ERR_MEMORY,
                       "%d of %d layers on the GPU: the others need %s of memory, %s are free; use "
                       "a larger -ngl or take a smaller model",
                       l->n_gpu_layer, p->n_layer, err_size_text(l->plan.weights_kept, need),
                       err_size_text(plan_available(), have));
    return OK;
}

/* Opens where the model runs and plans its memory there. "auto" is the CPU until the device has
 * shown the same results. */
static enum status open_backend(struct local *l, struct err *e)
{
    const char *want = l->params.backend;
    bool automatic = !want || strcmp(want, "auto") == 0;
    bool cuda = !automatic && strcmp(want, "cuda") == 0;
    if (!automatic && !cuda && strcmp(want, "cpu") != 0)
        return err_set(e, ERR_USAGE, "backend '%s' is unknown; use auto, cpu or cuda", want);
    if (cuda && l->params.n_gpu_layer != 0)
        return open_cuda(l, e);
    return open_cpu(l, e);
}

/* Checks a preset by name for this model. */
static enum status find_preset(const struct kv_shape *shape, const char *name,
                               const struct preset **ret, struct err *e)
{
    const struct preset *p = presets_find(name);
    if (!p)
        return presets_unknown(name, e);
    int32_t dim;
    if (p->bits_k && !kv_can_seal(shape, &dim))
        return err_set(e, ERR_UNSUPPORTED,
                       "KV preset '%s' needs heads of a multiple of 16 channels, this model "
                       "has %d; use --kv exact",
                       name, dim);
    *ret = p;
    return OK;
}

/* What was asked for, or the default where this model and backend can do it. */
static enum status choose_preset(struct local *l, const struct kv_shape *shape, struct err *e)
{
    const struct engine_params *p = &l->params;
    const struct preset *exact = presets_find("exact");
    const char *kernels = getenv("KERNELS");
    l->preset_asked = p->kv != NULL;
    if (p->kv)
        TRY(find_preset(shape, p->kv, &l->preset, e));
    else
        l->preset = kv_can_seal(shape, NULL) ? presets_find(NULL) : exact;
    if (!p->kv && kernels && strcmp(kernels, "ref") == 0)
        l->preset = exact; /* the oracle */
    /* A budget that holds the whole context in f16 asks for no compression. */
    int32_t n_ctx = p->n_ctx > 0 ? p->n_ctx : l->model->p.n_ctx_train;
    if (l->preset->adaptive && kv_most_bytes(shape, exact, n_ctx, PLAN_CHUNK) <= p->kv_budget_bytes)
        l->preset = exact;
    return OK;
}

/* The longest context that the weights know, by training or by the stretching that the file names. */
static int32_t known_ctx(const struct model_params *p)
{
    double stretched = (double)p->rope.factor * p->n_ctx_orig;
    return stretched > p->n_ctx_train ? (int32_t)fmin(stretched, INT32_MAX) : p->n_ctx_train;
}

/* Whether reasoning can be switched on and off. */
static bool can_switch(const struct local *l)
{
    return !template_alike(l->templates[TEMPLATE_REASONING_ON], l->templates[TEMPLATE_REASONING_OFF]);
}

/* What the user should know before the first answer. */
static void fill_notice(const struct local *l, char *notice, size_t size)
{
    const struct model_params *p = &l->model->p;
    int32_t n_ctx = l->plan.n_ctx;
    size_t n = 0;
    char now[32], was[32];
    err_count_text((uint64_t)n_ctx, now);
    if (l->plan.lowered)
        n = (size_t)snprintf(notice, size, "context lowered from %s to %s tokens to fit %s",
                             err_count_text((uint64_t)p->n_ctx_train, was), now, l->plan.by_budget ? "the KV budget" : "memory");
    else if (n_ctx > known_ctx(p))
        n = (size_t)snprintf(notice, size,
                             "a context of %s tokens is more than the %s that the model was made for; "
                             "answers beyond them get worse",
                             now, err_count_text((uint64_t)known_ctx(p), was));
    if (n < size && l->template != l->templates[TEMPLATE_REASONING_AUTO] && !can_switch(l))
        n += (size_t)snprintf(notice + n, size - n, "%sthe model's chat format has no switch for reasoning",
                              n ? "; " : "");
    if (n < size && template_is_unknown(l->template))
        snprintf(notice + n, size - n,
                 "%sthe model's chat template is not one we know; the text is continued as it stands",
                 n ? "; " : "");
}

static void fill_info(struct local *l)
{
    struct engine_info *i = &l->info;
    i->file_bytes = gguf_file_bytes(l->gguf);
    i->n_vocab = tokenizer_n_vocab(l->tokenizer);
    snprintf(i->chat_format, sizeof i->chat_format, "%s", template_name(l->template));
    if (!l->model)
        return;
    const struct model_params *p = &l->model->p;
    snprintf(i->name, sizeof i->name, "%s", p->name);
    snprintf(i->arch, sizeof i->arch, "%s", p->arch_name);
    snprintf(i->type, sizeof i->type, "%s", p->type);
    i->demo = strncmp(p->name, DEMO_PREFIX, strlen(DEMO_PREFIX)) == 0;
    i->n_param = p->n_param;
    i->n_ctx_train = p->n_ctx_train;
    i->n_vocab = p->n_vocab;
    i->n_layer = p->n_layer;
    i->n_layer_state = p->n_layer_state;
    i->n_layer_kv = p->n_layer_kv;
    i->n_head = p->n_head;
    i->n_head_kv = p->n_head_kv;
    i->head_dim = p->head_dim;
    i->n_head_kv_local = p->n_head_kv_local;
    i->head_dim_local = p->head_dim_local;
    if (!l->kern)
        return;
    if (l->kern->device && l->n_gpu_layer < p->n_layer)
        snprintf(i->backend, sizeof i->backend, "%s, %d of %d layers", l->kern->name,
                 l->n_gpu_layer, p->n_layer);
    else if (l->kern->device)
        snprintf(i->backend, sizeof i->backend, "%s", l->kern->name);
    else
        snprintf(i->backend, sizeof i->backend, "cpu %s, %d thread%s", l->kern->name,
                 l->kern->n_thread, l->kern->n_thread == 1 ? "" : "s");
    snprintf(i->kv, sizeof i->kv, "%s", l->preset->name);
    i->kv_budget_least = (int64_t)plan_kv_least(l->model, l->preset, l->plan.n_chunk);
    i->kv_lossy = preset_lossy(l->preset);
    i->kv_simulated = preset_simulated(l->preset);
    i->n_ctx = l->plan.n_ctx;
    fill_notice(l, i->notice, sizeof i->notice);
    /* Not computed again: reading the file would bring back pages that loading has released. */
    i->fingerprint = l->floor_key;
}

float local_coverage(const struct local *l)
{
    float asked = atomic_load(&l->coverage_asked), own = atomic_load(&l->coverage_own);
    return own > 0 && asked > 0 ? asked : own > 0 ? own : 1;
}

static enum status local_set_reasoning(struct engine *en, const char *mode, struct err *e)
{
    struct local *l = local_of(en);
    enum template_reasoning reasoning;
    TRY(template_reasoning_find(mode, &reasoning, e));
    if (reasoning != TEMPLATE_REASONING_AUTO && !can_switch(l))
        return err_set(e, ERR_UNSUPPORTED, "the model's chat format has no switch for reasoning");
    l->template = l->templates[reasoning];
    return OK;
}

static void local_set_coverage(struct engine *en, float coverage)
{
    atomic_store(&local_of(en)->coverage_asked, coverage);
}

/* Eviction works on rows and tables in our own memory. */
static enum status check_backend(const struct local *l, const struct preset *p, struct err *e)
{
    return !preset_lossy(p) || !l->kern->device
               ? OK
               : err_set(e, ERR_UNSUPPORTED,
                         "KV preset '%s' runs on the CPU only; use --backend cpu", p->name);
}

void local_use_preset(struct local *l, const struct preset *p)
{
    /* What such a cache knows beyond its rows is not kept: it is read again. */
    bool kept = !preset_simulated(p) && !preset_lossy(p);
    l->preset = p;
    l->keep.io = kept ? l->io : (struct kv_io){0};
    l->keep.fingerprint = keep_fingerprint(l->info.fingerprint, p);
    int32_t most = kv_chunk(p);
    forward_set_chunk(l->forward, most && most < l->plan.n_chunk ? most : l->plan.n_chunk);
    policy_free(l->policy);
    l->policy = policy_new(l->kern, &l->model->p, l->forward, p, l->params.sparse_from);
    /* Block scores do not know of dropped tokens: what is left of them is read densely. */
    atomic_store(&l->coverage_own, preset_lossy(p) ? 0 : p->coverage > 0 ? p->coverage : 1);
}

static enum status open_parts(struct local *l, struct err *e)
{
    const struct engine_params *p = &l->params;
    if (!p->model_path || !*p->model_path)
        return err_set(e, ERR_USAGE, "no model given; use -m FILE.gguf");
    enum template_reasoning reasoning;
    TRY(template_reasoning_find(p->reasoning, &reasoning, e));
    TRY(gguf_open(p->model_path, &l->gguf, e));
    TRY(tokenizer_open(l->gguf, &l->tokenizer, e));
    for (int i = 0; i < TEMPLATE_REASONINGS; i++)
        TRY(template_open(l->gguf, l->tokenizer, (enum template_reasoning)i, &l->templates[i], e));
    l->template = l->templates[reasoning];
    if (p->vocab_only) {
        fill_info(l);
        return OK;
    }
    TRY(model_read(l->gguf, &l->model, e));
    if (tokenizer_n_vocab(l->tokenizer) > l->model->p.n_vocab)
        return err_set(e, ERR_FORMAT,
                       "%s: %d tokens in the vocabulary, but only %d rows of "
                       "embeddings",
                       p->model_path, tokenizer_n_vocab(l->tokenizer), l->model->p.n_vocab);
    const struct kv_shape shape = local_kv_shape(l);
    TRY(choose_preset(l, &shape, e));
    l->floor_key = model_fingerprint(l->model) ^ tokenizer_hash(l->tokenizer);
    if (l->cache_dir && floor_load(l->cache_dir, l->floor_key, &l->floor))
        room_use_floor(l);
    TRY(open_backend(l, e));
    TRY(check_backend(l, l->preset, e));
    model_set_ctx(l->model, l->plan.n_ctx);
    gguf_read_ahead(l->gguf);
    TRY(model_load(l->model, l->kern, p->progress, p->progress_ctx, e));
    TRY(forward_new(l->model, l->plan.n_chunk_room, &l->forward, e));
    fill_info(l);
    local_use_preset(l, l->preset);
    l->pool = room_pool(l, l->plan.kv_budget);
    l->lines = lines_new(l->pool, l->plan.n_ctx);
    l->witness = witness_new(l->kern, l->model->p.n_head, &shape);
    l->stats.n_ctx = l->plan.n_ctx;
    l->stats.weights_bytes = (int64_t)(l->plan.weights_private + l->plan.weights_mapped);
    l->stats.scratch_bytes = (int64_t)l->plan.scratch;
    atomic_store(&l->budget, kv_pool_budget(l->pool));
    local_walk(l, 0, NULL, false);
    return worker_start(l, e);
}

static void local_close(struct engine *en)
{
    struct local *l = local_of(en);
    worker_stop(l);
    lines_free(l->lines);
    kv_pool_free(l->pool);
    policy_free(l->policy);
    forward_free(l->forward);
    witness_free(l->witness);
    model_free(l->model);
    if (l->kern)
        kern_close(l->kern);
    for (int i = 0; i < TEMPLATE_REASONINGS; i++)
        template_free(l->templates[i]);
    tokenizer_free(l->tokenizer);
    gguf_close(l->gguf);
    queue_free(l->events, (void (*)(void *))engine_event_free);
    stats_map_free(&l->map);
    stats_trace_free(&l->trace);
    pthread_mutex_destroy(&l->lock);
    pthread_mutex_destroy(&l->compute);
    free(l->cache_dir);
    free(l);
}

/* ---- the rest of the table ---- */

static const struct engine_info *local_info(const struct engine *en)
{
    return &local_of(en)->info;
}

static enum status local_submit(struct engine *en, const struct engine_turn *t, uint64_t *ret_turn,
                                struct err *e)
{
    return worker_submit(local_of(en), t, ret_turn, e);
}

static enum status local_verify(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                                uint64_t *ret_turn, struct err *e)
{
    return worker_verify(local_of(en), timeline, ids, n, ret_turn, e);
}

static void local_cancel(struct engine *en)
{
    atomic_store(&local_of(en)->cancel, true);
}

static bool local_busy(const struct engine *en)
{
    return atomic_load(&local_of(en)->busy);
}

static struct engine_event *local_wait(struct engine *en, int timeout_ms)
{
    struct queue *q = local_of(en)->events;
    return timeout_ms == 0 ? queue_pop(q) : queue_wait(q, timeout_ms);
}

static void local_forget(struct engine *en, int64_t timeline)
{
    worker_forget(local_of(en), timeline);
}

static void local_stats(struct engine *en, struct stats *ret)
{
    struct local *l = local_of(en);
    pthread_mutex_lock(&l->lock);
    *ret = l->stats;
    pthread_mutex_unlock(&l->lock);
    ret->at_s = clock_s();
    ret->coverage = (double)local_coverage(l);
    long pages_all, pages;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%ld %ld", &pages_all, &pages) == 2)
            ret->rss_bytes = (int64_t)pages * sysconf(_SC_PAGESIZE);
        fclose(f);
    }
}

/* ---- the cache while it runs ---- */

static void local_set_kv_budget(struct engine *en, uint64_t size_bytes)
{
    struct local *l = local_of(en);
    atomic_store(&l->budget, size_bytes ? size_bytes : l->plan.kv_budget);
    worker_fit(l);
}

static enum status local_set_kv(struct engine *en, const char *preset, struct err *e)
{
    struct local *l = local_of(en);
    const struct preset *p = NULL;
    if (!l->model)
        return err_set(e, ERR_USAGE, "the model was opened for its vocabulary only");
    const struct kv_shape shape = local_kv_shape(l);
    TRY(find_preset(&shape, preset, &p, e));
    TRY(check_backend(l, p, e));
    return worker_set_preset(l, p, e);
}

static const char *local_kv_name(const struct engine *en, int i, const char **ret_what)
{
    const struct local *l = local_of(en);
    const struct kv_shape shape = l->model ? local_kv_shape(l) : (struct kv_shape){0};
    const struct preset *p = NULL, *found;
    struct err ignored;
    for (int j = 0; l->model && (p = presets_at(j)); j++)
        if (find_preset(&shape, p->name, &found, &ignored) == OK && check_backend(l, p, &ignored) == OK && i-- == 0)
            break;
    *ret_what = p ? p->what : "";
    return p ? p->name : NULL;
}

static void local_map_ask(struct engine *en, int64_t timeline)
{
    worker_map(local_of(en), timeline);
}

static bool local_map(struct engine *en, struct stats_map *ret)
{
    struct local *l = local_of(en);
    pthread_mutex_lock(&l->lock);
    bool newer = stats_map_take(ret, &l->map);
    pthread_mutex_unlock(&l->lock);
    return newer;
}

static void local_trace_ask(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                            int32_t pos)
{
    worker_trace(local_of(en), timeline, ids, n, pos);
}

static bool local_trace(struct engine *en, struct stats_trace *ret)
{
    struct local *l = local_of(en);
    pthread_mutex_lock(&l->lock);
    bool newer = stats_trace_take(ret, &l->trace);
    pthread_mutex_unlock(&l->lock);
    return newer;
}

static enum status local_tokenize(struct engine *en, const char *text, size_t len,
                                  bool parse_special, bool add_bos, int32_t **ret_ids,
                                  int32_t *ret_n, struct err *e)
{
    struct tok_list list = {0};
    enum status s =
        tokenizer_encode(local_of(en)->tokenizer, text, len, parse_special, add_bos, &list, e);
    if (s != OK) {
        tok_list_fini(&list);
        return s;
    }
    *ret_ids = list.ids ? list.ids : mem_alloc(sizeof *list.ids);
    *ret_n = list.n;
    return OK;
}

static enum status local_detokenize(struct engine *en, const int32_t *ids, int32_t n, bool special,
                                    char **ret, size_t *ret_len, struct err *e)
{
    struct str s = {0};
    TRY(local_check_ids(local_of(en), ids, n, e));
    tokenizer_decode(local_of(en)->tokenizer, ids, n, special, true, &s);
    *ret_len = s.len;
    *ret = str_take(&s);
    return OK;
}

enum status local_open(const struct engine_params *p, struct engine **ret, struct err *e)
{
    static const struct engine_vt vt = {
        .close = local_close,
        .info = local_info,
        .submit = local_submit,
        .verify = local_verify,
        .cancel = local_cancel,
        .busy = local_busy,
        .wait = local_wait,
        .forget = local_forget,
        .stats = local_stats,
        .set_coverage = local_set_coverage,
        .set_reasoning = local_set_reasoning,
        .set_kv_budget = local_set_kv_budget,
        .set_kv = local_set_kv,
        .kv_name = local_kv_name,
        .map_ask = local_map_ask,
        .map = local_map,
        .trace_ask = local_trace_ask,
        .trace = local_trace,
        .tokenize = local_tokenize,
        .detokenize = local_detokenize,
        .logits = measure_logits,
        .bench = measure_bench,
        .attention = measure_attention,
        .calibrate = measure_floor,
    };
    struct local *l = mem_calloc(1, sizeof *l);
    l->base.vt = &vt;
    l->params = *p;
    l->cache_dir = p->cache_dir ? mem_strdup(p->cache_dir) : NULL;
    if (p->kv_io)
        l->io = *p->kv_io;
    pthread_mutex_init(&l->compute, NULL);
    pthread_mutex_init(&l->lock, NULL);
    l->events = queue_new(p->wake, p->wake_ctx);
    atomic_init(&l->coverage_asked, p->coverage);
    atomic_init(&l->coverage_own, 1);
    stats_init(&l->stats);
    stats_map_init(&l->map);
    stats_trace_init(&l->trace);
    l->stats.phase = STATS_IDLE;
    enum status s = open_parts(l, e);
    l->params.model_path = l->params.kv = l->params.backend = l->params.cache_dir = NULL; /* the caller's */
    l->params.kv_io = NULL;
    if (s != OK) {
        local_close(&l->base);
        return s;
    }
    *ret = &l->base;
    return OK;
}
