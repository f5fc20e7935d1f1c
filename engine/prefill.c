#include "engine/prefill.h"

#include <assert.h>

struct chunk {
    prefill_go_on go_on;
    void *ctx;
    int32_t n_done, n_now, n_total, n_layer;
};

static bool chunk_go_on(void *ctx, int32_t layer)
{
    struct chunk *c = ctx;
    double part = (double)layer / c->n_layer;
    return c->go_on(c->ctx, c->n_done + part * c->n_now, c->n_total);
}

enum status prefill_run(struct forward *f, struct kv_line *line, const int32_t *ids, int32_t n,
                        prefill_go_on go_on, void *ctx, const float **ret, struct err *e)
{
    assert(n > 0);
    struct chunk c = {go_on, ctx, 0, 0, n, forward_n_layer(f)};
    while (c.n_done < n) {
        /* Chunks end at block borders, so that blocks are complete as early as can be. */
        int32_t most = forward_n_chunk(f), over = kv_n_tok(line) % KERN_BLOCK_TOK;
        if (most >= KERN_BLOCK_TOK)
            most -= over;
        c.n_now = n - c.n_done < most ? n - c.n_done : most;
        bool last = c.n_done + c.n_now == n;
        TRY(kv_reserve(line, c.n_now, e));
        TRY(forward_run(f, line, ids + c.n_done, c.n_now, last && ret ? FORWARD_LAST : FORWARD_NONE,
                        go_on ? chunk_go_on : NULL, &c, e));
        c.n_done += c.n_now;
    }
    return ret ? forward_head(f, c.n_now - 1, 1, ret, e) : OK;
}
