#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "engine/base/mem.h"

enum {
    HISTORY_MAX = 16384, /* repeat_last_n = -1, or more than this */
    BUCKETS = 256,
};
/* Logits fall into buckets by their distance from the largest: the first 255 buckets cover 32
 * nats, the last one the rest, which is 1e-14 of the largest probability and less. */
static const float bucket_per_nat = 8.0f;

struct cand {
    float logit;
    int32_t id;
};

struct sampler {
    struct engine_sampling p;
    int32_t n_vocab;
    uint64_t rng[4];
    int32_t *history; /* ring of the last history_cap tokens */
    int32_t history_cap, n_history, history_at;
    uint32_t *seen; /* [n_vocab] round in which the token was penalised last */
    uint32_t round;
    float *work; /* [n_vocab] logits after the penalty */
    struct cand *cands;
};

/* ---- random numbers: xoshiro256** (Blackman and Vigna 2018), seeded by splitmix64 ---- */

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

static uint64_t rng_next(uint64_t s[4])
{
    uint64_t result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

static void rng_seed(uint64_t s[4], uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        s[i] = z ^ z >> 31;
    }
}

static double rng_unit(uint64_t s[4]) /* [0, 1) */
{
    return (double)(rng_next(s) >> 11) * 0x1p-53;
}

/* 32 bits: short enough to be typed again. */
static uint64_t seed_from_system(void)
{
    uint32_t seed;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = (uint32_t)time(NULL) ^ (uint32_t)clock();
    return seed;
}

/* ---- life ---- */

struct sampler *sampler_new(int32_t n_vocab, const struct engine_sampling *p)
{
    struct sampler *s = mem_calloc(1, sizeof *s);
    s->p = *p;
    s->n_vocab = n_vocab;
    if (s->p.seed == UINT64_MAX)
        s->p.seed = seed_from_system();
    rng_seed(s->rng, s->p.seed);
    s->history_cap =
        p->repeat_last_n < 0 || p->repeat_last_n > HISTORY_MAX ? HISTORY_MAX : p->repeat_last_n;
    s->history = mem_calloc((size_t)s->history_cap + 1, sizeof *s->history);
    s->seen = mem_calloc((size_t)n_vocab, sizeof *s->seen);
    s->work = mem_calloc((size_t)n_vocab, sizeof *s->work);
    s->cands = mem_calloc((size_t)n_vocab, sizeof *s->cands);
    return s;
}

void sampler_free(struct sampler *s)
{
    if (!s)
        return;
    free(s->history);
    free(s->seen);
    free(s->work);
    free(s->cands);
    free(s);
}

uint64_t sampler_seed(const struct sampler *s)
{
    return s->p.seed;
}

void sampler_accept(struct sampler *s, int32_t id)
{
    if (s->history_cap == 0 || id < 0 || id >= s->n_vocab)
        return;
    s->history[s->history_at] = id;
    s->history_at = (s->history_at + 1) % s->history_cap;
    if (s->n_history < s->history_cap)
        s->n_history++;
}

/* ---- picking ---- */

static const float *penalised(struct sampler *s, const float *logits)
{
    float penalty = s->p.repeat_penalty;
    if (!(penalty > 0) || penalty == 1.0f || s->n_history == 0)
        return logits;
    memcpy(s->work, logits, (size_t)s->n_vocab * sizeof *logits);
    if (++s->round == 0) { /* wrapped: forget old marks */
        memset(s->seen, 0, (size_t)s->n_vocab * sizeof *s->seen);
        s->round = 1;
    }
    for (int32_t i = 0; i < s->n_history; i++) {
        int32_t id = s->history[i];
        if (s->seen[id] == s->round)
            continue;
        s->seen[id] = s->round;
        /* Keskar et al. 2019, with the sign taken into account. */
        s->work[id] = s->work[id] > 0 ? s->work[id] / penalty : s->work[id] * penalty;
    }
    return s->work;
}

/* The first of the largest finite logits; -1 when there is none. */
static int32_t largest(const float *logits, int32_t n)
{
    int32_t best = -1;
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] > max && logits[i] < INFINITY) {
            max = logits[i];
            best = i;
        }
    }
    return best;
}

static int bucket_of(float max, float logit)
{
    float b = (max - logit) * bucket_per_nat;
    return b < BUCKETS - 1 ? (int)b : BUCKETS - 1;
}

static bool usable(float logit) /* not NaN, not infinite */
{
    return logit > -INFINITY && logit < INFINITY;
}

/* The last bucket that can hold a token that survives top-k and top-p. *ret_mass is the sum of
 * exp(logit - max) over all tokens where that is needed, else 0. */
static int last_bucket(const struct sampler *s, const float *logits, float max, int32_t k,
                       bool by_mass, double *ret_mass)
{
    int32_t count[BUCKETS] = {0};
    double mass[BUCKETS] = {0}, total = 0, sum = 0;
    for (int32_t i = 0; i < s->n_vocab; i++) {
        if (!usable(logits[i]))
            continue;
        int b = bucket_of(max, logits[i]);
        count[b]++;
        if (by_mass)
            mass[b] += expf(logits[i] - max);
    }
    for (int b = 0; b < BUCKETS; b++)
        total += mass[b];
    *ret_mass = total;
    int64_t n = 0;
    for (int b = 0; b < BUCKETS; b++) {
        n += count[b];
        sum += mass[b];
        if (n >= k || (by_mass && sum >= (double)s->p.top_p * total))
            return b;
    }
    return BUCKETS - 1;
}

static int by_logit(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Gathers what top-k and top-p leave, best first; returns how many. */
static int32_t select_best(struct sampler *s, const float *logits, float max)
{
    int32_t k = s->p.top_k > 0 && s->p.top_k < s->n_vocab ? s->p.top_k : s->n_vocab, n = 0;
    bool all = k == s->n_vocab, nucleus = s->p.top_p < 1.0f;
    double mass = 0;
    int last = BUCKETS - 1;
    if (!all || nucleus)
        last = last_bucket(s, logits, max, k, all && nucleus, &mass);
    /* min-p alone needs no order and no sums. */
    float floor = s->p.min_p > 0 ? max + logf(s->p.min_p) : -INFINITY;
    if (!all || nucleus)
        floor = -INFINITY;
    for (int32_t i = 0; i < s->n_vocab; i++)
        if (usable(logits[i]) && logits[i] >= floor && bucket_of(max, logits[i]) <= last)
            s->cands[n++] = (struct cand){logits[i], i};
    if (all && !nucleus)
        return n;
    qsort(s->cands, (size_t)n, sizeof *s->cands, by_logit);
    if (n > k)
        n = k;
    if (nucleus) {
        if (!all) {
            mass = 0;
            for (int32_t i = 0; i < n; i++)
                mass += expf(s->cands[i].logit - max);
        }
        double sum = 0;
        for (int32_t i = 0; i < n; i++) {
            sum += expf(s->cands[i].logit - max);
            if (sum >= (double)s->p.top_p * mass) {
                n = i + 1;
                break;
            }
        }
    }
    return n;
}

int32_t sampler_pick(struct sampler *s, const float *logits)
{
    logits = penalised(s, logits);
    int32_t best = largest(logits, s->n_vocab);
    if (best < 0 || !(s->p.temp > 0))
        return best;
    float max = logits[best];
    int32_t n = select_best(s, logits, max);
    float floor = s->p.min_p > 0 ? max + logf(s->p.min_p) : -INFINITY;
    double sum = 0;
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        float l = s->cands[i].logit;
        if (l < floor)
            continue;
        float weight = (float)exp((double)(l - max) / s->p.temp);
        sum += weight;
        s->cands[m++] = (struct cand){weight, s->cands[i].id};
    }
    double at = rng_unit(s->rng) * sum;
    for (int32_t i = 0; i < m; i++) {
        at -= s->cands[i].logit; /* by now its weight */
        if (at < 0)
            return s->cands[i].id;
    }
    return best; /* rounding left a little over */
}

/* ---- what is told ---- */

void sampler_choice(const float *logits, int32_t n_vocab, int32_t id, struct stats_choice *ret)
{
    enum { N = STATS_ALTERNATIVES };
    float best[N];
    for (int i = 0; i < N; i++) {
        best[i] = -INFINITY;
        ret->id[i] = -1;
    }
    for (int32_t t = 0; t < n_vocab; t++) {
        if (!(logits[t] > best[N - 1]))
            continue;
        int i = N - 1;
        for (; i > 0 && logits[t] > best[i - 1]; i--) {
            best[i] = best[i - 1];
            ret->id[i] = ret->id[i - 1];
        }
        best[i] = logits[t];
        ret->id[i] = t;
    }
    double sum = 0;
    for (int32_t t = 0; t < n_vocab; t++)
        if (logits[t] > best[0] - 25)
            sum += (double)expf(logits[t] - best[0]);
    for (int i = 0; i < N; i++)
        ret->id_p[i] = ret->id[i] < 0 ? NAN : (float)((double)expf(best[i] - best[0]) / sum);
    ret->p = (float)((double)expf(logits[id] - best[0]) / sum);
}
