#include "kernels/timed.h"

#include <string.h>
#include <time.h>

const char *timed_name(enum timed_op op)
{
    static const char *const names[TIMED_N] = {"embed", "matmul", "rmsnorm", "center", "rope",
                                               "kv_write", "attend", "score", "seal",
                                               "glu", "add", "scale", "sink", "take_rows", "add_rows", "softcap", "conv",
                                               "delta", "scan", "download"};
    return names[op];
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct kern_ops *begin(struct kern *k)
{
    k->times->own->sync(k);
    k->times->start_s = now_s();
    return k->times->own;
}

static void end(struct kern *k, enum timed_op op)
{
    k->times->own->sync(k);
    k->times->s[op] += now_s() - k->times->start_s;
    k->times->n[op]++;
}

/* An op with the same parameters as that of the table. */
#define TIMED(op, which, params, args)                                                             \
    static void timed_##op params                                                                  \
    {                                                                                              \
        begin(k)->op args;                                                                         \
        end(k, which);                                                                             \
    }

TIMED(embed, TIMED_EMBED,
      (struct kern * k, const struct kern_weight *w, const int32_t *ids, int32_t n_tok, float scale,
       float *dst),
      (k, w, ids, n_tok, scale, dst))
TIMED(matmul, TIMED_MATMUL,
      (struct kern * k, int n_mat, const struct kern_mat *mats, const float *x, int32_t x_stride,
       int32_t n_tok),
      (k, n_mat, mats, x, x_stride, n_tok))
TIMED(rmsnorm, TIMED_RMSNORM,
      (struct kern * k, float *dst, const float *x, const float *gain, int32_t n_row, int32_t n_col,
       int32_t stride, float eps),
      (k, dst, x, gain, n_row, n_col, stride, eps))
TIMED(center, TIMED_CENTER,
      (struct kern * k, float *dst, const float *x, int32_t n_row, int32_t n_col),
      (k, dst, x, n_row, n_col))
TIMED(rope, TIMED_ROPE,
      (struct kern * k, float *x, int32_t n_tok, int32_t n_head, int32_t head_dim, int32_t stride,
       int32_t pos0, const struct kern_rope *r),
      (k, x, n_tok, n_head, head_dim, stride, pos0, r))
TIMED(kv_write, TIMED_KV_WRITE,
      (struct kern * k, const struct kern_kv *kv, const float *key, const float *value,
       int32_t stride, int32_t n_tok, int32_t pos0),
      (k, kv, key, value, stride, n_tok, pos0))
TIMED(attend, TIMED_ATTEND, (struct kern * k, const struct kern_attn *a), (k, a))
TIMED(seal, TIMED_SEAL,
      (struct kern * k, const struct kern_seal *jobs, int32_t n, int32_t head_dim, int32_t bits_k,
       int32_t bits_v, uint32_t flags),
      (k, jobs, n, head_dim, bits_k, bits_v, flags))
TIMED(glu, TIMED_GLU,
      (struct kern * k, float *dst, int32_t dst_stride, const float *gate, const float *up,
       int32_t stride, int32_t n_tok, int32_t n, enum kern_act act),
      (k, dst, dst_stride, gate, up, stride, n_tok, n, act))
TIMED(add, TIMED_ADD, (struct kern * k, float *dst, const float *x, size_t n), (k, dst, x, n))
TIMED(sink, TIMED_SINK,
      (struct kern * k, float *out, const float *lse, const float *sink, int32_t n_tok,
       int32_t n_head, int32_t head_dim),
      (k, out, lse, sink, n_tok, n_head, head_dim))
TIMED(take_rows, TIMED_TAKE_ROWS,
      (struct kern * k, float *dst, const float *src, const int32_t *row, int32_t n, int32_t n_col),
      (k, dst, src, row, n, n_col))
TIMED(add_rows, TIMED_ADD_ROWS,
      (struct kern * k, float *dst, const float *src, const int32_t *row, const float *weight,
       int32_t n_tok, int32_t n_each, int32_t n_col),
      (k, dst, src, row, weight, n_tok, n_each, n_col))
TIMED(scale, TIMED_SCALE, (struct kern * k, float *x, size_t n, float by), (k, x, n, by))
TIMED(softcap, TIMED_SOFTCAP, (struct kern * k, float *x, size_t n, float cap), (k, x, n, cap))
TIMED(conv, TIMED_CONV, (struct kern * k, const struct kern_conv *c), (k, c))
TIMED(delta, TIMED_DELTA, (struct kern * k, const struct kern_delta *d), (k, d))
TIMED(scan, TIMED_SCAN, (struct kern * k, const struct kern_scan *s), (k, s))
TIMED(download, TIMED_DOWNLOAD,
      (struct kern * k, void *host, const void *dev, size_t size_bytes),
      (k, host, dev, size_bytes))

static bool timed_score(struct kern *k, const struct kern_score *s)
{
    bool ok = begin(k)->score(k, s);
    end(k, TIMED_SCORE);
    return ok;
}

void timed_begin(struct kern *k, struct kern_times *t)
{
    memset(t, 0, sizeof *t);
    t->own = k->ops;
    t->timed = *k->ops;
    t->timed.embed = timed_embed;
    t->timed.matmul = timed_matmul;
    t->timed.rmsnorm = timed_rmsnorm;
    t->timed.center = timed_center;
    t->timed.rope = timed_rope;
    t->timed.kv_write = timed_kv_write;
    t->timed.attend = timed_attend;
    t->timed.score = t->own->score ? timed_score : NULL;
    t->timed.seal = timed_seal;
    t->timed.glu = timed_glu;
    t->timed.add = timed_add;
    t->timed.sink = timed_sink;
    t->timed.take_rows = timed_take_rows;
    t->timed.add_rows = timed_add_rows;
    t->timed.scale = timed_scale;
    t->timed.softcap = timed_softcap;
    t->timed.conv = timed_conv;
    t->timed.delta = timed_delta;
    t->timed.scan = timed_scan;
    t->timed.download = timed_download;
    k->times = t;
    k->ops = &t->timed;
}

void timed_end(struct kern *k)
{
    k->ops = k->times->own;
    k->times = NULL;
}
