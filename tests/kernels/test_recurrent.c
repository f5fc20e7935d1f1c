/* The ops of layers that keep a state, on every instruction set and on CUDA (CUDA_MODULE; else skipped),
 * against the plain ones over odd shapes; and that nothing depends on how rows are cut into calls, on the
 * number of threads or on where the state is written, to the bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"

/* A few products in float32, and a polynomial exp. */
#define TOLERANCE_CONV 4e-6
/* Parts of the largest number of a result. A state fades and is added to at each token, so that errors
 * do not pile up; 3e-6 was measured. */
#define TOLERANCE_DELTA 2e-5
/* The same of the selective state space; 6e-7 was measured. */
#define TOLERANCE_SCAN 5e-6

static uint32_t seed;

static float uniform(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

/* ---- memory of a backend ---- */

struct pile {
    struct kern *k;
    float *dev[16];
    int n;
};

static float *push(struct pile *p, const float *host, size_t n)
{
    float *dev = p->k->ops->alloc(p->k, n * sizeof *dev);
    assert_non_null(dev);
    p->k->ops->upload(p->k, dev, host, n * sizeof *dev);
    p->dev[p->n++] = dev;
    return dev;
}

static void drop_all(struct pile *p)
{
    while (p->n > 0)
        p->k->ops->free(p->k, p->dev[--p->n]);
}

static float *floats(size_t n, float size)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = size * (uniform() + uniform());
    return x;
}

/* ---- one case: rows in calls of `cut` at most, state from buffer to buffer or in place ---- */

struct conv_case {
    int32_t n_tok, n_chan, n_tap;
    bool silu;
    float *x, *weight, *before, *bias;
};

static void conv_run(struct kern *k, const struct conv_case *s, int32_t cut, bool in_place, float *out,
                     float *after)
{
    size_t n_state = (size_t)(s->n_tap - 1) * (size_t)s->n_chan, n = (size_t)s->n_tok * (size_t)s->n_chan;
    struct pile p = {.k = k};
    float *x = push(&p, s->x, n), *w = push(&p, s->weight, (size_t)s->n_tap * (size_t)s->n_chan);
    float *from = push(&p, s->before, n_state), *to = in_place ? from : push(&p, s->before, n_state);
    float *y = push(&p, s->x, n), *bias = s->bias ? push(&p, s->bias, (size_t)s->n_chan) : NULL;
    for (int32_t t = 0, now; t < s->n_tok; t += now) {
        now = s->n_tok - t < cut ? s->n_tok - t : cut;
        size_t at = (size_t)t * (size_t)s->n_chan;
        k->ops->conv(k, &(struct kern_conv){now, s->n_chan, s->n_tap, x + at, w, from, to, y + at, s->silu, bias});
        float *was = from;
        from = to;
        to = was;
    }
    k->ops->download(k, out, y, n * sizeof *out);
    k->ops->download(k, after, from, n_state * sizeof *after);
    drop_all(&p);
}

struct delta_case {
    int32_t n_tok, n_head, n_head_k, head_dim, stride;
    bool neighbours;
    float *mix, *alpha, *beta, *a, *dt, *before;
    float eps;
};

static void delta_run(struct kern *k, const void *of, int32_t cut, bool in_place, float *out, float *after)
{
    const struct delta_case *s = of;
    size_t d = (size_t)s->head_dim, n_state = (size_t)s->n_head * d * d, n_gate = (size_t)s->n_tok * (size_t)s->n_head;
    size_t key = (size_t)s->n_head_k * d;
    struct pile p = {.k = k};
    float *mix = push(&p, s->mix, (size_t)s->n_tok * (size_t)s->stride);
    float *alpha = push(&p, s->alpha, n_gate), *beta = push(&p, s->beta, n_gate);
    float *a = push(&p, s->a, (size_t)s->n_head), *dt = push(&p, s->dt, (size_t)s->n_head);
    float *from = push(&p, s->before, n_state), *to = in_place ? from : push(&p, s->before, n_state);
    memset(out, 0, n_gate * d * sizeof *out);
    float *y = push(&p, out, n_gate * d);
    for (int32_t t = 0, now; t < s->n_tok; t += now) {
        now = s->n_tok - t < cut ? s->n_tok - t : cut;
        float *row = mix + (size_t)t * (size_t)s->stride;
        size_t gate = (size_t)t * (size_t)s->n_head;
        k->ops->delta(k, &(struct kern_delta){
                             .n_tok = now, .n_head = s->n_head, .n_head_k = s->n_head_k,
                             .neighbours = s->neighbours, .head_dim = s->head_dim, .q = row, .k = row + key, .v = row + 2 * key,
                             .stride = s->stride, .alpha = alpha + gate, .beta = beta + gate, .a = a,
                             .dt = dt, .before = from, .after = to, .out = y + gate * d, .eps = s->eps});
        float *was = from;
        from = to;
        to = was;
    }
    k->ops->download(k, out, y, n_gate * d * sizeof *out);
    k->ops->download(k, after, from, n_state * sizeof *after);
    drop_all(&p);
}

struct scan_case {
    int32_t n_tok, n_head, n_group, n_state, head_dim, stride;
    float *mix, *dt, *a, *dt_bias, *d, *before;
};

static void scan_run(struct kern *k, const void *of, int32_t cut, bool in_place, float *out, float *after)
{
    const struct scan_case *s = of;
    size_t wide = (size_t)s->head_dim, n_gate = (size_t)s->n_tok * (size_t)s->n_head;
    size_t n_state = (size_t)s->n_head * (size_t)s->n_state * wide, n_head = (size_t)s->n_head;
    struct pile p = {.k = k};
    float *mix = push(&p, s->mix, (size_t)s->n_tok * (size_t)s->stride), *dt = push(&p, s->dt, n_gate);
    float *a = push(&p, s->a, n_head), *dt_bias = push(&p, s->dt_bias, n_head), *d = push(&p, s->d, n_head);
    float *from = push(&p, s->before, n_state), *to = in_place ? from : push(&p, s->before, n_state);
    memset(out, 0, n_gate * wide * sizeof *out);
    float *y = push(&p, out, n_gate * wide);
    for (int32_t t = 0, now; t < s->n_tok; t += now) {
        now = s->n_tok - t < cut ? s->n_tok - t : cut;
        float *row = mix + (size_t)t * (size_t)s->stride, *b = row + n_head * wide;
        size_t gate = (size_t)t * n_head;
        k->ops->scan(k, &(struct kern_scan){
                            .n_tok = now, .n_head = s->n_head, .n_group = s->n_group, .n_state = s->n_state,
                            .head_dim = s->head_dim, .x = row, .b = b, .c = b + s->n_group * s->n_state,
                            .stride = s->stride, .dt = dt + gate, .a = a, .dt_bias = dt_bias, .d = d,
                            .before = from, .after = to, .out = y + gate * wide});
        float *was = from;
        from = to;
        to = was;
    }
    k->ops->download(k, out, y, n_gate * wide * sizeof *out);
    k->ops->download(k, after, from, n_state * sizeof *after);
    drop_all(&p);
}

/* ---- comparing ---- */

static void assert_near(const float *got, const float *want, size_t n, double bound, const char *what)
{
    double most = 0, off = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(want[i]));
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(got[i]))
            fail_msg("%s: %g at %zu", what, (double)got[i], i);
        off = fmax(off, fabs((double)got[i] - want[i]));
    }
    if (off > bound * (most > 0 ? most : 1))
        fail_msg("%s: off by %.2g of %.2g", what, off, most);
}

static const struct {
    int32_t cut;
    bool in_place;
} ways[] = {{1000, false}, {1000, true}, {1, false}, {1, true}, {3, false}, {64, true}};
enum { N_WAY = sizeof ways / sizeof *ways };

/* Every way on k; `one` is the same backend with one thread, or NULL. */
static void check_conv(struct kern *k, struct kern *one, struct kern *ref, const struct conv_case *s)
{
    size_t n = (size_t)s->n_tok * (size_t)s->n_chan, n_state = (size_t)(s->n_tap - 1) * (size_t)s->n_chan;
    float *want = malloc(n * 4), *want_state = malloc(n_state * 4), *out = malloc(n * 4);
    float *state = malloc(n_state * 4), *first = malloc(n * 4);
    conv_run(ref, s, 1000, false, want, want_state);
    conv_run(k, s, 1000, false, first, state);
    assert_near(first, want, n, TOLERANCE_CONV, "conv");
    for (int i = 0; i < N_WAY + (one != NULL); i++) {
        conv_run(i < N_WAY ? k : one, s, ways[i % N_WAY].cut, ways[i % N_WAY].in_place, out, state);
        assert_memory_equal(out, first, n * 4);
        assert_memory_equal(state, want_state, n_state * 4); /* rows are only moved */
    }
    free(want);
    free(want_state);
    free(out);
    free(state);
    free(first);
}

/* An op over states: its n results and n_state numbers of states, as near to the reference as `bound`, and the same
 * to the bit in every way. */
struct state_op {
    const char *what;
    void (*run)(struct kern *k, const void *of, int32_t cut, bool in_place, float *out, float *after);
    const void *of;
    size_t n, n_state;
    double bound;
};

static void check_states(struct kern *k, struct kern *one, struct kern *ref, const struct state_op *op)
{
    size_t n = op->n, n_state = op->n_state;
    float *want = malloc(n * 4), *want_state = malloc(n_state * 4), *out = malloc(n * 4);
    float *state = malloc(n_state * 4), *first = malloc(n * 4), *first_state = malloc(n_state * 4);
    op->run(ref, op->of, 1000, false, want, want_state);
    op->run(k, op->of, 1000, false, first, first_state);
    assert_near(first, want, n, op->bound, op->what);
    assert_near(first_state, want_state, n_state, op->bound, op->what);
    for (int i = 0; i < N_WAY + (one != NULL); i++) {
        op->run(i < N_WAY ? k : one, op->of, ways[i % N_WAY].cut, ways[i % N_WAY].in_place, out, state);
        assert_memory_equal(out, first, n * 4);
        assert_memory_equal(state, first_state, n_state * 4);
    }
    free(want);
    free(want_state);
    free(out);
    free(state);
    free(first);
    free(first_state);
}

static void check_delta(struct kern *k, struct kern *one, struct kern *ref, const struct delta_case *s)
{
    size_t d = (size_t)s->head_dim, n_head = (size_t)s->n_head;
    check_states(k, one, ref,
                 &(struct state_op){"delta", delta_run, s, (size_t)s->n_tok * n_head * d, n_head * d * d,
                                    TOLERANCE_DELTA});
}

static void check_scan(struct kern *k, struct kern *one, struct kern *ref, const struct scan_case *s)
{
    size_t wide = (size_t)s->n_head * (size_t)s->head_dim;
    check_states(k, one, ref,
                 &(struct state_op){"scan", scan_run, s, (size_t)s->n_tok * wide, (size_t)s->n_state * wide,
                                    TOLERANCE_SCAN});
}

static void each_conv(struct kern *k, struct kern *one, struct kern *ref)
{
    static const int32_t chans[] = {1, 16, 67, 300}, toks[] = {1, 2, 5, 70};
    /* Of a device two numbers are enough: each call is slow there under a memory checker. */
    int32_t least = k->device ? 3 : 2, most = k->device ? 4 : KERN_CONV_TAPS;
    for (int32_t n_tap = least; n_tap <= most; n_tap += n_tap < 4 ? 1 : 4)
        for (size_t c = 0; c < sizeof chans / sizeof *chans; c++)
            for (size_t t = 0; t < sizeof toks / sizeof *toks; t++) {
                struct conv_case s = {toks[t], chans[c], n_tap, c % 2 == t % 2, NULL, NULL, NULL, NULL};
                s.x = floats((size_t)s.n_tok * (size_t)s.n_chan, 2);
                s.weight = floats((size_t)n_tap * (size_t)s.n_chan, 1);
                s.before = floats((size_t)(n_tap - 1) * (size_t)s.n_chan, 2);
                s.bias = t % 2 ? floats((size_t)s.n_chan, 1) : NULL;
                s.x[0] = 200; /* silu must not overflow */
                check_conv(k, one, ref, &s);
                free(s.x);
                free(s.weight);
                free(s.before);
                free(s.bias);
            }
}

/* size: of queries and keys; gate: of alpha and beta. */
static struct delta_case delta_new(int32_t n_tok, int32_t n_head, int32_t n_head_k, int32_t head_dim, float size,
                                   float gate)
{
    struct delta_case s = {n_tok, n_head, n_head_k, head_dim, (2 * n_head_k + n_head) * head_dim + 5};
    size_t d = (size_t)head_dim;
    s.eps = 1e-6f;
    s.mix = floats((size_t)n_tok * (size_t)s.stride, 1);
    for (int32_t t = 0; t < n_tok; t++)
        for (int32_t i = 0; i < 2 * n_head_k * head_dim; i++)
            s.mix[t * s.stride + i] *= size;
    s.alpha = floats((size_t)(n_tok * n_head), gate);
    s.beta = floats((size_t)(n_tok * n_head), gate);
    s.a = floats((size_t)n_head, 1);
    s.dt = floats((size_t)n_head, 1);
    for (int32_t h = 0; h < n_head; h++)
        s.a[h] = -0.05f - fabsf(s.a[h]); /* as in files: -exp of something */
    s.before = floats((size_t)n_head * d * d, 0.5f);
    return s;
}

static void delta_free(struct delta_case *s)
{
    float *all[] = {s->mix, s->alpha, s->beta, s->a, s->dt, s->before};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void each_delta(struct kern *k, struct kern *one, struct kern *ref)
{
    static const struct {
        int32_t n_tok, n_head, n_head_k, head_dim;
        float size, gate;
        bool neighbours;
    } cases[] = {
        {1, 1, 1, 16, 1, 1},   {2, 4, 2, 16, 1, 1},    {70, 2, 2, 32, 1, 1},     {5, 3, 1, 48, 3, 1},
        {130, 2, 1, 64, 1, 1}, {3, 2, 2, 80, 1, 1},    {66, 4, 2, 128, 1, 1},    {2, 2, 1, 256, 1, 1},
        {7, 2, 1, 64, 2e-4f, 1}, /* so short that eps tells */
        {7, 2, 2, 32, 0, 1},     /* of no length at all */
        {9, 4, 2, 32, 1, 80},    /* gates wide open and shut */
        {33, 6, 3, 32, 1, 1, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct delta_case s = delta_new(cases[i].n_tok, cases[i].n_head, cases[i].n_head_k, cases[i].head_dim,
                                        cases[i].size, cases[i].gate);
        s.neighbours = cases[i].neighbours;
        check_delta(k, one, ref, &s);
        delta_free(&s);
    }
}

static void each_scan(struct kern *k, struct kern *one, struct kern *ref)
{
    static const struct {
        int32_t n_tok, n_head, n_group, n_state, head_dim;
        float gate;
    } cases[] = {
        {1, 1, 1, 16, 16, 1},  {2, 4, 2, 32, 16, 1}, {70, 2, 1, 16, 48, 1}, {130, 3, 1, 128, 64, 1},
        {5, 6, 3, 48, 80, 1},  {3, 2, 1, 256, 32, 1}, {66, 2, 2, 112, 128, 1}, {2, 2, 1, 16, 256, 1},
        {9, 4, 2, 32, 32, 80}, /* steps of nothing, and so long that all is forgotten */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct scan_case s = {cases[i].n_tok, cases[i].n_head, cases[i].n_group, cases[i].n_state,
                              cases[i].head_dim};
        s.stride = 2 * s.n_group * s.n_state + s.n_head * s.head_dim + 5;
        s.mix = floats((size_t)s.n_tok * (size_t)s.stride, 1);
        s.dt = floats((size_t)(s.n_tok * s.n_head), cases[i].gate);
        s.a = floats((size_t)s.n_head, 1);
        s.dt_bias = floats((size_t)s.n_head, 1);
        s.d = floats((size_t)s.n_head, 1);
        for (int32_t h = 0; h < s.n_head; h++)
            s.a[h] = -0.05f - fabsf(s.a[h]); /* as in files: -exp of something */
        s.before = floats((size_t)s.n_head * (size_t)s.n_state * (size_t)s.head_dim, 0.5f);
        check_scan(k, one, ref, &s);
        float *all[] = {s.mix, s.dt, s.a, s.dt_bias, s.d, s.before};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++)
            free(all[j]);
    }
}

static void on_isa(const char *isa)
{
    struct kern *ref = kern_open_cpu("ref", 1), *k = kern_open_cpu(isa, 2), *one = kern_open_cpu(isa, 1);
    if (!k) {
        kern_close(ref);
        skip();
    }
    seed = 3;
    each_conv(k, one, ref);
    each_delta(k, one, ref);
    each_scan(k, one, ref);
    kern_close(k);
    kern_close(one);
    kern_close(ref);
}

static void recurrent__ref__however_rows_are_cut(void **state)
{
    on_isa("ref");
}

static void recurrent__avx2__agrees_with_ref(void **state)
{
    on_isa("avx2");
}

static void recurrent__avx512__agrees_with_ref(void **state)
{
    on_isa("avx512");
}

static void recurrent__cuda__agrees_with_ref(void **state)
{
    const char *module = getenv("CUDA_MODULE");
    char why[256];
    struct kern *k = module ? kern_open_cuda(module, 0, 1, why, sizeof why) : NULL;
    if (!k)
        skip();
    struct kern *ref = kern_open_cpu("ref", 1);
    seed = 3;
    each_conv(k, NULL, ref);
    each_delta(k, NULL, ref);
    each_scan(k, NULL, ref);
    kern_close(k);
    kern_close(ref);
}

/* The rule written out for one head of one channel pair that matters: what was stored under a key comes
 * back when that key is asked for, fades by the gate, and is replaced when the key comes again. */
static void recurrent__delta__remembers_and_replaces(void **state)
{
    enum { D = 16, TOKS = 3 };
    struct kern *k = kern_open_cpu(NULL, 1);
    static float mix[TOKS][3 * D], before[D * D], after[D * D], out[TOKS][D];
    static const float open = 40, a = -1, dt = 0;
    float alpha[TOKS] = {-40, -40, logf(expf(logf(2)) - 1)}, beta[TOKS] = {open, -open, open};
    for (int t = 0; t < TOKS; t++)
        mix[t][3] = mix[t][D + 3] = 5; /* the same question and the same key, of any length */
    mix[0][2 * D + 7] = 2;             /* stored */
    mix[1][2 * D + 7] = 9;             /* not stored: beta is shut */
    mix[2][2 * D + 7] = 6;             /* replaces; the state is halved before */
    k->ops->delta(k, &(struct kern_delta){.n_tok = TOKS, .n_head = 1, .n_head_k = 1, .head_dim = D,
                                          .q = mix[0], .k = mix[0] + D, .v = mix[0] + 2 * D, .stride = 3 * D,
                                          .alpha = alpha, .beta = beta, .a = &a, .dt = &dt, .before = before,
                                          .after = after, .out = out[0], .eps = 1e-6f});
    assert_true(fabsf(out[0][7] - 2 / 4.0f) < 1e-5f); /* q is times 1/sqrt(16) */
    assert_true(fabsf(out[1][7] - 2 / 4.0f) < 1e-5f);
    assert_true(fabsf(out[2][7] - 6 / 4.0f) < 1e-5f);
    assert_true(fabsf(after[3 * D + 7] - 6) < 1e-5f);
    kern_close(k);
}

/* The rule written out: what a token puts into a row of its head's state comes back when that row is asked
 * for, fades by the step, and heads of one group ask alike. */
static void recurrent__scan__writes_by_the_step_and_fades(void **state)
{
    enum { D = 16, N = 16, TOKS = 3, HEADS = 2, WIDTH = HEADS * D + 2 * N };
    struct kern *k = kern_open_cpu(NULL, 1);
    static float mix[TOKS][WIDTH], before[HEADS * N * D], after[HEADS * N * D], out[TOKS][HEADS * D];
    static const float a[HEADS] = {-1, -1}, bias[HEADS] = {0, 0}, d[HEADS] = {0, 10};
    float one = logf(expf(1) - 1), half = logf(expf(logf(2)) - 1); /* steps of 1 and of ln 2 */
    float dt[TOKS][HEADS] = {{one, one}, {-40, -40}, {half, half}};
    mix[0][7] = 2;               /* head 0 is told */
    mix[1][7] = mix[1][D] = 9;   /* a step of nothing: not stored; head 1 still says ten times x */
    mix[0][HEADS * D + 3] = 5;   /* into row 3, five times */
    mix[1][HEADS * D + 3] = 5;
    for (int t = 0; t < TOKS; t++)
        mix[t][HEADS * D + N + 3] = 1; /* asked for */
    k->ops->scan(k, &(struct kern_scan){.n_tok = TOKS, .n_head = HEADS, .n_group = 1, .n_state = N, .head_dim = D,
                                        .x = mix[0], .b = mix[0] + HEADS * D, .c = mix[0] + HEADS * D + N,
                                        .stride = WIDTH, .dt = dt[0], .a = a, .dt_bias = bias, .d = d,
                                        .before = before, .after = after, .out = out[0]});
    assert_true(fabsf(out[0][7] - 10) < 1e-5f);
    assert_true(fabsf(out[1][7] - 10) < 1e-5f);
    assert_true(fabsf(out[1][D] - 90) < 1e-5f);
    assert_true(fabsf(out[2][7] - 5) < 1e-5f);
    assert_true(fabsf(after[3 * D + 7] - 5) < 1e-5f);
    kern_close(k);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recurrent__ref__however_rows_are_cut),
        cmocka_unit_test(recurrent__avx2__agrees_with_ref),
        cmocka_unit_test(recurrent__avx512__agrees_with_ref),
        cmocka_unit_test(recurrent__cuda__agrees_with_ref),
        cmocka_unit_test(recurrent__delta__remembers_and_replaces),
        cmocka_unit_test(recurrent__scan__writes_by_the_step_and_fades),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (!getenv("CUDA_MODULE"))
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests_name("recurrent", tests, NULL, NULL);
}
