#include "engine/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/forward.h"
#include "engine/policy.h"

enum {
    MIN_CTX = 128,  /* a context shorter than this is of no use */
    OPEN_SHARE = 8, /* of a budget at most an eighth for rows that a chunk holds open while it is read:
                       pages step down for their sake, and stay so */
};
#define HEADROOM_MIN ((uint64_t)256 << 20) /* left to everybody else */

/* First number after `key` in a small file; false when there is none. */
static bool file_number(const char *path, const char *key, uint64_t *ret)
{
    char line[256];
    FILE *f = fopen(path, "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f))
        found = strncmp(line, key, strlen(key)) == 0 &&
                sscanf(line + strlen(key), "%" SCNu64, ret) == 1;
    if (f)
        fclose(f);
    return found;
}

uint64_t plan_available(void)
{
    uint64_t kib, limit, used;
    uint64_t avail = file_number("/proc/meminfo", "MemAvailable:", &kib) ? kib * 1024 : UINT64_MAX;
    if (file_number("/sys/fs/cgroup/memory.max", "", &limit) &&
        file_number("/sys/fs/cgroup/memory.current", "", &used)) {
        uint64_t left = limit > used ? limit - used : 0;
        avail = left < avail ? left : avail;
    }
    return avail;
}

uint64_t engine_memory(void)
{
    uint64_t kib, limit;
    uint64_t all = file_number("/proc/meminfo", "MemTotal:", &kib) ? kib * 1024 : UINT64_MAX;
    return file_number("/sys/fs/cgroup/memory.max", "", &limit) && limit < all ? limit : all;
}

/* The largest multiple of 64 tokens whose cache takes at most `room`, and together with its tables
 * and the block scores of sparse attention `left`. */
static int32_t most_tok(const struct model_params *p, const struct preset *preset, int32_t n_chunk,
                        uint64_t room, uint64_t left)
{
    const struct kv_shape s = forward_kv_shape(p);
    int32_t lo = 0, hi = INT32_MAX / KERN_BLOCK_TOK; /* lo fits, hi does not */
    while (hi - lo > 1) {
        int32_t mid = lo + (hi - lo) / 2;
        uint64_t kv = kv_most_bytes(&s, preset, mid * KERN_BLOCK_TOK, n_chunk);
        uint64_t beside = policy_bytes(p, preset, mid * KERN_BLOCK_TOK, n_chunk) +
                          kv_table_bytes(&s, mid * KERN_BLOCK_TOK);
        if (kv <= room && kv + beside <= left)
            lo = mid;
        else
            hi = mid;
    }
    return lo * KERN_BLOCK_TOK;
}

static uint64_t headroom(uint64_t available)
{
    uint64_t some = available / 25 > HEADROOM_MIN ? available / 25 : HEADROOM_MIN;
    return some < available / 4 ? some : available / 4;
}

uint64_t plan_kv_least(const struct model *m, const struct preset *preset, int32_t n_chunk)
{
    const struct kv_shape s = forward_kv_shape(&m->p);
    return kv_most_bytes(&s, preset, MIN_CTX, n_chunk);
}

/* Why p is no plan: the budget is too small, or memory, of which `left` is there for the cache. */
static enum status refuse(const struct model *m, const struct preset *preset, const struct plan *p,
                          uint64_t kv_budget, uint64_t left, struct err *e)
{
    uint64_t least = plan_kv_least(m, preset, p->n_chunk);
    uint64_t room = kv_budget && kv_budget < left ? kv_budget : left;
    char need[32], have[32], n_tok[32];
    if (p->n_ctx_max < MIN_CTX && room < least && least <= left)
        return err_set(e, ERR_MEMORY,
                       "a KV budget of %s is too small: the shortest context, %d tokens, takes "
                       "--kv-budget %" PRIu64 "K",
                       err_size_text(kv_budget, have), MIN_CTX, (least + 1023) / 1024);
    if (p->n_ctx_max < MIN_CTX)
        return err_set(e, ERR_MEMORY,
                       "%s does not fit: it needs %s for weights and scratch, %s "
                       "are free; close other programs or take a smaller model",
                       m->p.name, err_size_text(p->weights_private + p->weights_mapped +
                                                      forward_bytes(&m->p, p->n_chunk_room), need),
                       err_size_text(p->available, have));
    if (room < left && p->kv > room)
        return err_set(e, ERR_MEMORY,
                       "a context of %s tokens does not fit: its keys and values take %s more than "
                       "the KV budget of %s; the largest that fits is -c %d",
                       err_count_text((uint64_t)p->n_ctx, n_tok), err_size_text(p->kv - room, need), err_size_text(room, have),
                       p->n_ctx_max);
    return err_set(e, ERR_MEMORY,
                   "a context of %s tokens does not fit: it needs %s in all, %s are free; the "
                   "largest that fits is -c %d",
                   err_count_text((uint64_t)p->n_ctx, n_tok), err_size_text(p->total + headroom(p->available), need),
                   err_size_text(p->available, have), p->n_ctx_max);
}

/* With scratch for chunks of n_chunk tokens. */
static enum status plan_chunks(const struct model *m, struct kern *k, const struct preset *preset,
                               int32_t n_ctx, uint64_t kv_budget, uint64_t available,
                               int32_t n_chunk, struct plan *ret, struct err *e)
{
    const struct kv_shape s = forward_kv_shape(&m->p);
    struct plan p = {.available = available,
                     .kv_tok = kv_tok_bytes(&s),
                     .n_chunk = n_chunk,
                     .n_chunk_room = n_chunk};
    model_weight_bytes(m, k, &p.weights_private, &p.weights_mapped, &p.weights_kept);
    p.scratch = forward_bytes(&m->p, n_chunk);

    uint64_t fixed = p.weights_private + p.weights_mapped + p.scratch + headroom(available);
    uint64_t left = available > fixed ? available - fixed : 0;
    /* Largest context that fits, by whole blocks; a budget the user gave bounds it too. */
    uint64_t room = kv_budget && kv_budget < left ? kv_budget : left;
    p.n_ctx = n_ctx > 0 ? n_ctx : m->p.n_ctx_train;
    struct kv_shape pages = s; /* states do not step down */
    pages.n_state_layer = 0;
    while (preset->adaptive && p.n_chunk > KERN_BLOCK_TOK &&
           kv_most_bytes(&pages, preset, p.n_chunk + 2 * KERN_BLOCK_TOK, p.n_chunk) > room / OPEN_SHARE)
        p.n_chunk /= 2;
    p.n_ctx_max = most_tok(&m->p, preset, p.n_chunk, room, left);
    for (int32_t n = p.n_chunk / 2;
         preset->bits_k && n >= KERN_BLOCK_TOK && p.n_ctx > p.n_ctx_max; n /= 2) {
        int32_t most = most_tok(&m->p, preset, n, room, left);
        if (most >= p.n_ctx || (n_ctx > 0 && most > p.n_ctx_max)) {
            p.n_ctx_max = most;
            p.n_chunk = n;
        }
    }
    if (p.n_ctx > p.n_ctx_max && n_ctx <= 0 && p.n_ctx_max >= MIN_CTX) {
        p.n_ctx = p.n_ctx_max;
        p.lowered = true;
        p.by_budget = room < left &&
                      kv_most_bytes(&s, preset, p.n_ctx + KERN_BLOCK_TOK, p.n_chunk) > room;
    }
    p.kv = kv_most_bytes(&s, preset, p.n_ctx, p.n_chunk);
    p.scratch += policy_bytes(&m->p, preset, p.n_ctx, p.n_chunk) + kv_table_bytes(&s, p.n_ctx);
    p.total = p.weights_private + p.weights_mapped + p.scratch + p.kv;
    if (p.n_ctx > p.n_ctx_max)
        return refuse(m, preset, &p, kv_budget, left, e);
    /* Room for several conversations, but not all there is. */
    uint64_t spread = left / 2 > p.kv ? left / 2 : p.kv;
    p.kv_budget = kv_budget ? kv_budget : spread < 4 * p.kv ? spread : 4 * p.kv;
    if (p.kv_budget < p.kv)
        p.kv_budget = p.kv;
    *ret = p;
    return OK;
}

enum status plan_make(const struct model *m, struct kern *k, const struct preset *preset,
                      int32_t n_ctx, uint64_t kv_budget, uint64_t available, struct plan *ret,
                      struct err *e)
{
    struct plan p;
    if (k->device && !m->embed.kept &&
        plan_chunks(m, k, preset, n_ctx, kv_budget, available, PLAN_CHUNK_DEVICE, &p, e) == OK &&
        !p.lowered && p.n_chunk == PLAN_CHUNK_DEVICE) {
        *ret = p;
        return OK;
    }
    return plan_chunks(m, k, preset, n_ctx, kv_budget, available, PLAN_CHUNK, ret, e);
}
