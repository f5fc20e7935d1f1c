#include "engine/room.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

static void tell_notice(struct local *l, const char *text)
{
    struct engine_event *ev = local_event_new(atomic_load(&l->n_turn), ENGINE_EV_NOTICE);
    ev->text = mem_strdup(text);
    ev->len = strlen(text);
    queue_push(l->events, ev);
}

static bool not_cancelled(void *ctx, int32_t layer)
{
    struct local *l = ctx;
    (void)layer;
    /* Until the next turn begins, `cancel` speaks of one that is over. */
    return !atomic_load(&l->closing) && !(atomic_load(&l->busy) && atomic_load(&l->cancel));
}

/* The floor says something about this preset. */
static bool wants_floor(const struct preset *p)
{
    return p->bits_k && (p->floor_k < 8 || p->floor_v < 8);
}

/* What is known of the layers, into a pool of the present preset. */
static void set_care(const struct local *l, struct kv_pool *pool)
{
    const struct kv_shape shape = local_kv_shape(l);
    int32_t n = shape.n_layer;
    struct kv_care *care = mem_calloc((size_t)n, sizeof *care);
    kv_care_usual(l->preset, n, care);
    if (l->floor.n > 0 && wants_floor(l->preset))
        floor_care(&l->floor, l->preset, &shape, care);
    for (int32_t i = 0; l->floor.n == 0 && l->floor_default && i < n; i++)
        care[i].soft = (struct kv_depth){l->floor_default->floor_k, l->floor_default->floor_v};
    kv_pool_set_care(pool, care);
    free(care);
}

void room_use_floor(struct local *l)
{
    if (l->floor.n == 0 || !wants_floor(l->preset))
        return;
    const struct preset *rung = presets_find(floor_names[l->floor.rung]);
    if (l->preset->adaptive && rung->bits_k <= l->preset->floor_k &&
        rung->bits_v <= l->preset->floor_v) {
        l->adapted = *l->preset;
        l->adapted.floor_k = rung->bits_k;
        l->adapted.floor_v = rung->bits_v;
        l->preset = &l->adapted;
    }
    if (l->pool)
        set_care(l, l->pool);
}

struct kv_pool *room_pool(const struct local *l, uint64_t budget_bytes)
{
    const struct kv_shape shape = local_kv_shape(l);
    struct kv_pool *pool = kv_pool_new(l->kern, &shape, l->preset, budget_bytes);
    set_care(l, pool);
    return pool;
}

bool room_ask_less(struct local *l)
{
    const struct engine_params *p = &l->params;
    int32_t step = kv_step((struct kv_depth){l->preset->floor_k, l->preset->floor_v});
    if (!l->preset->adaptive || p->n_ctx <= 0 || !p->kv_budget_bytes || step + 1 >= KV_STEPS)
        return false;
    if (l->floor.n == 0 && !l->floor_default) /* until it is measured the preset's own counts */
        l->floor_default = presets_find(l->preset->name);
    l->adapted = *l->preset;
    l->adapted.floor_k = kv_ladder[step + 1].bits_k;
    l->adapted.floor_v = kv_ladder[step + 1].bits_v;
    l->preset = &l->adapted;
    return true;
}

void room_need_depths(struct local *l, int32_t n_tok)
{
    if (!l->preset->adaptive && n_tok > 2 * KERN_BLOCK_TOK)
        room_need_floor(l);
}

void room_need_floor(struct local *l)
{
    struct err ignored; /* without a measured floor the preset's holds */
    if (!wants_floor(l->preset))
        return;
    if (l->floor.n == 0 && !l->floor_tried) {
        l->floor_tried = true;
        tell_notice(l, "measuring once how far this model's cache may be compressed");
        if (floor_measure(l->model, l->tokenizer, FLOOR_LIMIT, not_cancelled, l, &l->floor,
                          &ignored) == OK) {
            if (l->cache_dir)
                floor_store(l->cache_dir, l->floor_key, &l->floor);
        } else if (atomic_load(&l->cancel)) {
            l->floor_tried = false;
        }
    }
    room_use_floor(l);
}

static bool fit(struct local *l, uint64_t need_bytes)
{
    room_need_floor(l);
    bool fits = ledger_fit(l->pool, need_bytes);
    if (ledger_under_floor(l->pool) && !l->floor_told) {
        char text[200];
        snprintf(text, sizeof text,
                 "the KV budget is too small for this model's %s %s: the cache is compressed "
                 "further, answers may differ; /verify tells how much",
                 l->floor.n > 0 ? "measured floor" : "floor",
                 l->floor.n > 0 ? floor_names[l->floor.rung] : "4/4");
        tell_notice(l, text);
        l->floor_told = true;
    }
    return fits;
}

static bool make(struct local *l, int64_t id, uint64_t need_bytes)
{
    uint64_t before = kv_pool_bytes(l->pool);
    return lines_drop_oldest(l->lines, id) ||
           (fit(l, need_bytes) && kv_pool_bytes(l->pool) < before);
}

bool room_make(struct local *l, int64_t id, struct kv_line *line, int32_t n)
{
    return make(l, id, kv_reserve_bytes(line, n));
}

struct taker {
    struct local *l;
    int64_t id;
};

static bool make_for(void *ctx, uint64_t need_bytes)
{
    const struct taker *t = ctx;
    return make(t->l, t->id, need_bytes);
}

void room_load(struct local *l, int64_t id, struct kv_line *line, const int32_t *ids, int32_t n)
{
    struct taker t = {l, id};
    keep_load(&l->keep, id, line, ids, n, &(struct keep_room){make_for, &t});
}

enum status room_reserve(struct local *l, int64_t id, struct kv_line *line, int32_t n,
                         struct err *e)
{
    room_need_depths(l, kv_n_tok(line) + n);
    enum status s = kv_reserve(line, n, e);
    while (s == ERR_MEMORY && room_make(l, id, line, n))
        s = kv_reserve(line, n, e);
    return s;
}

bool room_fit_budget(struct local *l)
{
    uint64_t want = atomic_load(&l->budget);
    if (want == kv_pool_budget(l->pool) || l->budget_seen == want)
        return false;
    l->budget_seen = want; /* the pool may hold more than was asked for: at least one block */
    kv_pool_set_budget(l->pool, want);
    kv_pool_trim(l->pool);
    while (kv_pool_bytes(l->pool) > want && lines_drop_oldest(l->lines, l->stats.timeline))
        ;
    fit(l, 0);
    return true;
}
