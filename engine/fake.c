/* The scripted engine: a thread that plays back what a test wants to see on the screen.
 *
 * The script is a file, or "" for the default (it echoes the last message word by word). Lines:
 *   ctx N            context size shown (first lines only)
 *   rate MS          pause between words of `say` (default 2)
 *   on TEXT          the steps below answer messages that contain TEXT; before any `on`: all others
 *   prefill N MS     N prompt tokens in 8 progress events, MS in total
 *   say TEXT         streams TEXT (\n, \t and \\ are escapes, \xHH a raw byte)
 *   echo             streams the last message
 *   wait MS          pause
 *   notice TEXT      a notice event
 *   fail TEXT        ends the turn with an error
 *   stat NAME VALUE  sets a field of the stats snapshot from now on
 *   choice P         probability told of the tokens of `say` from now on; unknown before
 *   map L H B        a picture of L layers, H heads, B blocks in f16 whose mass is unknown
 *   page L H B K V MASS EK EV   one of its pages: bits, mass, errors; -1 for L, H or B = all
 *   trace ROWS W W ...   what any position looks at from now on: ROWS of it on f16 rows, and of as
 *                    many equal parts of what is before it as there are numbers, so much each to
 *                    another; unknown before
 *   agree KL N       what verifying finds of every position: KL, another choice at each N-th
 * Verifying takes 8 steps of `rate` times ten and finds what `stat` set.
 * Token ids are the bytes of the text plus 256 for the control tokens, so that detokenising what
 * was stored gives exactly what was shown. */
#include "engine/fake.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/queue.h"
#include "engine/base/str.h"
#include "engine/engine_impl.h"
#include "engine/template.h"

enum { ID_START = 256, ID_END = 257, N_VOCAB = 258 };

struct step {
    char *verb, *rest;
};

struct job {
    uint64_t turn;
    struct str last; /* text of the last message */
    int64_t timeline;
    int32_t n_prefix;
    struct str prompt;
    uint64_t seed;
    int32_t n_verify; /* > 0: engine_verify of so many ids */
};

struct fake {
    struct engine base;
    struct engine_info info;
    struct step *steps;
    int n_step;
    pthread_t thread;
    struct queue *commands; /* struct job; a job with turn 0 ends the thread */
    struct queue *events;
    atomic_bool cancel, busy;
    uint64_t n_turn;
    int32_t rate_ms;
    float choice_p;       /* NAN = unknown */
    pthread_mutex_t lock; /* protects stats, map, trace */
    struct stats stats;
    struct stats_map map;
    struct stats_trace trace;
    float trace_rows, part[16];
    int n_part; /* 0 = unknown */
    float agree_kl;
    int agree_every; /* 0 = unknown */
};

/* Sleeps in slices so that a cancel is felt at once; false when cancelled. */
static bool pause_ms(struct fake *f, int ms)
{
    for (double end = clock_s() + ms / 1000.0; clock_s() < end;) {
        if (atomic_load(&f->cancel))
            return false;
        double left = end - clock_s();
        struct timespec t = {0, (long)((left < 0.005 ? left : 0.005) * 1e9)};
        if (left > 0)
            nanosleep(&t, NULL);
    }
    return !atomic_load(&f->cancel);
}

static struct engine_event *event(struct job *j, enum engine_event_kind kind)
{
    struct engine_event *ev = mem_calloc(1, sizeof *ev);
    ev->kind = kind;
    ev->turn = j->turn;
    return ev;
}

static void set_ids(struct engine_event *ev, const char *bytes, size_t n)
{
    ev->ids = mem_alloc((n + 1) * sizeof *ev->ids);
    for (size_t i = 0; i < n; i++)
        ev->ids[i] = (unsigned char)bytes[i];
    ev->n_id = (int32_t)n;
}

static void with_stats(struct fake *f, void (*change)(struct stats *s, double x), double x)
{
    pthread_mutex_lock(&f->lock);
    change(&f->stats, x);
    f->stats.at_s = clock_s();
    pthread_mutex_unlock(&f->lock);
}

static void add_tokens(struct stats *s, double n)
{
    s->n_tok = (s->n_tok < 0 ? 0 : s->n_tok) + (int32_t)n;
}

static void set_phase(struct stats *s, double phase)
{
    s->phase = (enum stats_phase)phase;
}

static void set_timeline(struct stats *s, double timeline)
{
    s->timeline = (int64_t)timeline;
}

static void set_read(struct stats *s, double n)
{
    s->n_read = (int32_t)n;
}

static void set_reused(struct stats *s, double n)
{
    s->n_reused = s->n_tok = (int32_t)n;
}

static void set_tps(struct stats *s, double x)
{
    s->decode_tps = x;
}

static void set_ttft(struct stats *s, double x)
{
    s->ttft_s = x;
}

/* Streams text a word at a time; returns false when cancelled. */
static bool say(struct fake *f, struct job *j, const char *text, size_t len, int32_t *n_generated)
{
    for (size_t i = 0; i < len;) {
        size_t n = 1;
        while (i + n < len && text[i + n] != ' ' && text[i + n] != '\n')
            n++;
        if (!pause_ms(f, f->rate_ms))
            return false;
        struct engine_event *ev = event(j, ENGINE_EV_TOKEN);
        set_ids(ev, text + i, n);
        ev->text = mem_strndup(text + i, n);
        ev->len = n;
        if (!isnan(f->choice_p)) {
            ev->choice = mem_calloc(n, sizeof *ev->choice);
            for (size_t k = 0; k < n; k++)
                ev->choice[k] = (struct stats_choice){
                    .p = f->choice_p,
                    .id = {ev->ids[k], '?', -1, -1},
                    .id_p = {f->choice_p, 1 - f->choice_p, NAN, NAN},
                };
        }
        *n_generated += (int32_t)n;
        with_stats(f, add_tokens, (double)n);
        queue_push(f->events, ev);
        i += n;
    }
    return true;
}

static void unescape(const char *in, struct str *out)
{
    for (; *in; in++) {
        unsigned int byte;
        if (in[0] == '\\' && in[1] == 'n') {
            str_addc(out, '\n');
            in++;
        } else if (in[0] == '\\' && in[1] == 't') {
            str_addc(out, '\t');
            in++;
        } else if (in[0] == '\\' && in[1] == '\\') {
            str_addc(out, '\\');
            in++;
        } else if (in[0] == '\\' && in[1] == 'x' && sscanf(in + 2, "%2x", &byte) == 1) {
            str_addc(out, (char)byte);
            in += 3;
        } else {
            str_addc(out, *in);
        }
    }
}

static bool prefill(struct fake *f, struct job *j, int total, int ms)
{
    with_stats(f, set_phase, STATS_PREFILL);
    for (int i = 1; i <= 8; i++) {
        if (!pause_ms(f, ms / 8))
            return false;
        struct engine_event *ev = event(j, ENGINE_EV_PREFILL);
        ev->n_tok_done = total * i / 8;
        ev->n_tok_total = total;
        pthread_mutex_lock(&f->lock);
        f->stats.n_prefill_done = ev->n_tok_done;
        f->stats.n_prefill_total = total;
        f->stats.prefill_tps = ms > 0 ? total * 1000.0 / ms : NAN;
        f->stats.eta_s = (8 - i) * ms / 8000.0;
        pthread_mutex_unlock(&f->lock);
        queue_push(f->events, ev);
    }
    with_stats(f, set_phase, STATS_DECODE);
    return true;
}

static const struct {
    const char *name;
    size_t off;
    char type; /* d double, l int64, i int32 */
} stat_fields[] = {
    {"coverage", offsetof(struct stats, coverage), 'd'},
    {"density", offsetof(struct stats, density), 'd'},
    {"retained_mass", offsetof(struct stats, retained_mass), 'd'},
    {"mass_p5", offsetof(struct stats, mass_p5), 'd'},
    {"mass_worst", offsetof(struct stats, mass_worst), 'd'},
    {"worst_layer", offsetof(struct stats, worst_layer), 'i'},
    {"worst_head", offsetof(struct stats, worst_head), 'i'},
    {"output_error", offsetof(struct stats, output_error), 'd'},
    {"correction", offsetof(struct stats, correction), 'd'},
    {"gain_predicted", offsetof(struct stats, gain_predicted), 'd'},
    {"gain_measured", offsetof(struct stats, gain_measured), 'd'},
    {"decode_density", offsetof(struct stats, decode_density), 'd'},
    {"decode_mass", offsetof(struct stats, decode_mass), 'd'},
    {"harm_predicted", offsetof(struct stats, harm_predicted), 'd'},
    {"kl_measured", offsetof(struct stats, verified.kl), 'd'},
    {"top1_measured", offsetof(struct stats, verified.top1), 'd'},
    {"kl_rounding", offsetof(struct stats, verified.kl_rounding), 'd'},
    {"top1_rounding", offsetof(struct stats, verified.top1_rounding), 'd'},
    {"bytes_per_tok", offsetof(struct stats, bytes_per_tok), 'd'},
    {"kv_bytes", offsetof(struct stats, kv_bytes), 'l'},
    {"kv_chat_bytes", offsetof(struct stats, kv_chat_bytes), 'l'},
    {"kv_f16_bytes", offsetof(struct stats, kv_f16_bytes), 'l'},
    {"kv_budget_bytes", offsetof(struct stats, kv_budget_bytes), 'l'},
    {"rss_bytes", offsetof(struct stats, rss_bytes), 'l'},
    {"weights_bytes", offsetof(struct stats, weights_bytes), 'l'},
    {"kl_p99_measured", offsetof(struct stats, verified.kl_p99), 'd'},
    {"nll_difference", offsetof(struct stats, verified.nll_difference), 'd'},
    {"first_divergence", offsetof(struct stats, verified.first_divergence), 'i'},
    {"step_error", offsetof(struct stats, step_error), 'd'},
    {"harm_measured", offsetof(struct stats, harm_measured), 'd'},
    {"step_n", offsetof(struct stats, step_n), 'i'},
    {"step_at_s", offsetof(struct stats, step_at_s), 'd'},
    {"fidelity_n", offsetof(struct stats, verified.n), 'i'},
    {"fit_tok", offsetof(struct stats, fit_tok), 'i'},
    {"fit_floor_tok", offsetof(struct stats, fit_floor_tok), 'i'},
    {"ttft_s", offsetof(struct stats, ttft_s), 'd'},
    {"scratch_bytes", offsetof(struct stats, scratch_bytes), 'l'},
    {"vram_bytes", offsetof(struct stats, vram_bytes), 'l'},
};

/* A picture's tier from its bits, as the ladder names them. */
static uint8_t tier_of(int k, int v)
{
    char name[16];
    snprintf(name, sizeof name, "%d/%d", k, v);
    for (uint8_t i = 1; i < STATS_TIERS - 1; i++)
        if (strcmp(stats_tier_name[i], name) == 0)
            return i;
    return 0;
}

static void set_map(struct fake *f, const char *line)
{
    int l, h, b;
    if (sscanf(line, "%d %d %d", &l, &h, &b) != 3 || l < 1 || h < 1 || b < 0)
        return;
    pthread_mutex_lock(&f->lock);
    struct stats_map *m = &f->map;
    m->n_layer = l;
    m->n_block = b;
    m->n_tok = 64 * b;
    m->took_s = 0;
    m->first = mem_realloc(m->first, (size_t)(l + 1) * sizeof *m->first);
    for (int i = 0; i <= l; i++)
        m->first[i] = i * h;
    m->page = mem_realloc(m->page, (size_t)(l * h * b + 1) * sizeof *m->page);
    for (int i = 0; i < l * h * b; i++)
        m->page[i] = (struct stats_page){.bits_k = 16, .bits_v = 16, .mass = NAN};
    pthread_mutex_unlock(&f->lock);
}

static void set_page(struct fake *f, const char *line)
{
    int l, h, b, k, v;
    float mass, error_k, error_v;
    if (sscanf(line, "%d %d %d %d %d %f %f %f", &l, &h, &b, &k, &v, &mass, &error_k, &error_v) != 8)
        return;
    pthread_mutex_lock(&f->lock);
    struct stats_map *m = &f->map;
    int n_head = m->first ? m->first[1] : 1;
    for (int i = 0; i < stats_map_heads(m) * m->n_block; i++)
        if ((b < 0 || i % m->n_block == b) && (h < 0 || i / m->n_block % n_head == h) &&
            (l < 0 || i / m->n_block / n_head == l))
            m->page[i] =
                (struct stats_page){tier_of(k, v), (uint8_t)k, (uint8_t)v, error_k, error_v, mass};
    pthread_mutex_unlock(&f->lock);
}

static void set_trace(struct fake *f, const char *line)
{
    char *end;
    pthread_mutex_lock(&f->lock);
    f->trace_rows = strtof(line, &end);
    for (f->n_part = 0; *end && f->n_part < 16; f->n_part++)
        f->part[f->n_part] = strtof(end, &end);
    pthread_mutex_unlock(&f->lock);
}

static void set_stat(struct fake *f, const char *line)
{
    char name[64];
    double x;
    if (sscanf(line, "%63s %lf", name, &x) != 2)
        return;
    pthread_mutex_lock(&f->lock);
    int tier;
    if (sscanf(name, "tier%d", &tier) == 1 && tier >= 0 && tier < STATS_TIERS)
        f->stats.tier_bytes[tier] = (int64_t)x;
    for (size_t i = 0; i < sizeof stat_fields / sizeof *stat_fields; i++) {
        char *field = (char *)&f->stats + stat_fields[i].off;
        if (strcmp(name, stat_fields[i].name))
            continue;
        if (stat_fields[i].type == 'd')
            *(double *)field = x;
        else if (stat_fields[i].type == 'l')
            *(int64_t *)field = (int64_t)x;
        else
            *(int32_t *)field = (int32_t)x;
    }
    pthread_mutex_unlock(&f->lock);
}

/* The steps that answer this message: those after the first matching `on`, else the leading ones.
 */
static void select_steps(const struct fake *f, const struct job *j, int *ret_first, int *ret_end)
{
    int first = 0;
    for (int i = 0; i < f->n_step; i++)
        if (!strcmp(f->steps[i].verb, "on") && strstr(str_c(&j->last), f->steps[i].rest)) {
            first = i + 1;
            break;
        }
    int end = first;
    while (end < f->n_step && strcmp(f->steps[end].verb, "on"))
        end++;
    *ret_first = first;
    *ret_end = end;
}

/* The last event of a job. */
static void push_last(struct fake *f, struct engine_event *ev)
{
    ev->stats = mem_alloc(sizeof *ev->stats);
    pthread_mutex_lock(&f->lock);
    *ev->stats = f->stats;
    pthread_mutex_unlock(&f->lock);
    atomic_store(&f->busy, false);
    queue_push(f->events, ev);
}

static void play(struct fake *f, struct job *j)
{
    double start = clock_s();
    double first_token = NAN;
    int32_t n_generated = 0;
    struct engine_event *ev = event(j, ENGINE_EV_PROMPT);
    set_ids(ev, str_c(&j->prompt), j->prompt.len);
    int32_t n_read = ev->n_id;
    queue_push(f->events, ev);
    with_stats(f, set_reused, j->n_prefix);
    with_stats(f, set_read, n_read);
    with_stats(f, add_tokens, n_read);
    with_stats(f, set_phase, STATS_DECODE);
    with_stats(f, set_timeline, (double)j->timeline);

    bool going = true, failed = false;
    int first, end;
    select_steps(f, j, &first, &end);
    for (int i = first; i < end && going && !failed; i++) {
        const char *verb = f->steps[i].verb, *rest = f->steps[i].rest;
        struct str text = {0};
        int a = 0, b = 0;
        if (!strcmp(verb, "say") || !strcmp(verb, "echo")) {
            if (!strcmp(verb, "say"))
                unescape(rest, &text);
            else
                str_add(&text, str_c(&j->last), j->last.len);
            if (isnan(first_token)) {
                first_token = clock_s() - start;
                with_stats(f, set_ttft, first_token);
            }
            double t0 = clock_s();
            int32_t n0 = n_generated;
            going = say(f, j, str_c(&text), text.len, &n_generated);
            if (clock_s() > t0)
                with_stats(f, set_tps, (n_generated - n0) / (clock_s() - t0));
        } else if (!strcmp(verb, "rate")) {
            f->rate_ms = atoi(rest);
        } else if (!strcmp(verb, "wait")) {
            going = pause_ms(f, atoi(rest));
        } else if (!strcmp(verb, "prefill") && sscanf(rest, "%d %d", &a, &b) == 2) {
            going = prefill(f, j, a, b);
        } else if (!strcmp(verb, "stat")) {
            set_stat(f, rest);
        } else if (!strcmp(verb, "choice")) {
            f->choice_p = (float)atof(rest);
        } else if (!strcmp(verb, "map")) {
            set_map(f, rest);
        } else if (!strcmp(verb, "trace")) {
            set_trace(f, rest);
        } else if (!strcmp(verb, "agree") &&
                   sscanf(rest, "%f %d", &f->agree_kl, &f->agree_every) == 2) {
            /* taken */
        } else if (!strcmp(verb, "page")) {
            set_page(f, rest);
        } else if (!strcmp(verb, "notice")) {
            ev = event(j, ENGINE_EV_NOTICE);
            ev->text = mem_strdup(rest);
            ev->len = strlen(rest);
            queue_push(f->events, ev);
        } else if (!strcmp(verb, "fail")) {
            ev = event(j, ENGINE_EV_FAILED);
            err_set(&ev->err, ERR_INTERNAL, "%s", rest);
            failed = true;
        }
        str_fini(&text);
    }
    with_stats(f, set_phase, STATS_IDLE);
    if (!failed) {
        ev = event(j, ENGINE_EV_DONE);
        ev->stop = going ? ENGINE_STOP_EOS : ENGINE_STOP_CANCEL;
        if (going) {
            ev->ids = mem_alloc(sizeof *ev->ids);
            ev->ids[0] = ID_END;
            ev->n_id = 1;
        }
        ev->n_reused = j->n_prefix;
        ev->n_read = n_read;
        ev->n_generated = n_generated;
        ev->ttft_ms = first_token * 1000;
        ev->prefill_tps = ev->decode_tps = NAN;
        ev->density = ev->retained_mass = NAN;
        ev->kv_bytes = ev->f16_bytes = -1;
        ev->seed = j->seed;
    }
    push_last(f, ev);
}

static void verify(struct fake *f, struct job *j)
{
    struct engine_event *ev;
    int32_t done = 0;
    for (int i = 1; i <= 8 && pause_ms(f, 10 * f->rate_ms); i++) {
        done = (int32_t)((int64_t)j->n_verify * i / 8);
        pthread_mutex_lock(&f->lock);
        f->stats.phase = STATS_VERIFY;
        f->stats.n_verify_done = done;
        f->stats.n_verify_total = j->n_verify;
        pthread_mutex_unlock(&f->lock);
        ev = event(j, ENGINE_EV_VERIFY);
        ev->n_tok_done = done;
        ev->n_tok_total = j->n_verify;
        queue_push(f->events, ev);
    }
    ev = event(j, ENGINE_EV_VERIFIED);
    ev->stop = done == j->n_verify ? ENGINE_STOP_EOS : ENGINE_STOP_CANCEL;
    pthread_mutex_lock(&f->lock);
    struct stats *s = &f->stats;
    s->phase = STATS_IDLE;
    s->n_verify_done = s->n_verify_total = -1;
    if (done > 0) {
        s->timeline = j->timeline;
        s->verified.n = done;
        s->verified.at_s = clock_s();
    }
    ev->fidelity = (struct engine_fidelity){.n_tok = j->n_verify,
                                            .n = done,
                                            .first_divergence = s->verified.first_divergence,
                                            .kl_mean = s->verified.kl,
                                            .kl_p99 = s->verified.kl_p99,
                                            .top1 = s->verified.top1,
                                            .nll = s->verified.nll_difference,
                                            .nll_exact = 0,
                                            .kl_rounding = s->verified.kl_rounding,
                                            .top1_rounding = s->verified.top1_rounding,
                                            .n_rounding = done};
    pthread_mutex_unlock(&f->lock);
    if (f->agree_every > 0)
        ev->agree = mem_calloc((size_t)done + 1, sizeof *ev->agree);
    for (int32_t i = 0; ev->agree && i < done; i++)
        ev->agree[i] = (struct stats_agree){f->agree_kl, (i + 1) % f->agree_every != 0};
    push_last(f, ev);
}

static void job_free(void *p)
{
    struct job *j = p;
    str_fini(&j->last);
    str_fini(&j->prompt);
    free(j);
}

static void *run(void *arg)
{
    struct fake *f = arg;
    for (;;) {
        struct job *j = queue_wait(f->commands, -1);
        bool last = j->turn == 0;
        if (!last && j->n_verify)
            verify(f, j);
        else if (!last)
            play(f, j);
        job_free(j);
        if (last)
            return NULL;
    }
}

static void fake_close(struct engine *en)
{
    struct fake *f = (struct fake *)en;
    atomic_store(&f->cancel, true);
    queue_push(f->commands, mem_calloc(1, sizeof(struct job)));
    pthread_join(f->thread, NULL);
    queue_free(f->commands, job_free);
    queue_free(f->events, (void (*)(void *))engine_event_free);
    for (int i = 0; i < f->n_step; i++)
        free(f->steps[i].verb);
    free(f->steps);
    stats_map_free(&f->map);
    stats_trace_free(&f->trace);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static const struct engine_info *fake_info(const struct engine *en)
{
    return &((const struct fake *)en)->info;
}

static enum status fake_submit(struct engine *en, const struct engine_turn *t, uint64_t *ret_turn,
                               struct err *e)
{
    struct fake *f = (struct fake *)en;
    if (atomic_load(&f->busy))
        return err_set(e, ERR_BUSY, "still answering; wait or cancel first");
    struct job *j = mem_calloc(1, sizeof *j);
    j->turn = ++f->n_turn;
    j->timeline = t->timeline;
    j->n_prefix = t->n_prefix;
    j->seed = t->sampling.seed;
    for (int32_t i = 0; i < t->n_message; i++) {
        str_addf(&j->prompt, "%s: ", t->messages[i].role);
        str_add(&j->prompt, t->messages[i].text, t->messages[i].len);
        str_addc(&j->prompt, '\n');
        str_clear(&j->last);
        str_add(&j->last, t->messages[i].text, t->messages[i].len);
    }
    atomic_store(&f->cancel, false);
    atomic_store(&f->busy, true);
    *ret_turn = j->turn;
    queue_push(f->commands, j);
    return OK;
}

static enum status fake_verify(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                               uint64_t *ret_turn, struct err *e)
{
    struct fake *f = (struct fake *)en;
    (void)ids;
    if (atomic_load(&f->busy))
        return err_set(e, ERR_BUSY, "still answering; wait or cancel first");
    if (n < 1)
        return err_set(e, ERR_USAGE, "there is nothing to verify");
    struct job *j = mem_calloc(1, sizeof *j);
    j->turn = ++f->n_turn;
    j->timeline = timeline;
    j->n_verify = n;
    atomic_store(&f->cancel, false);
    atomic_store(&f->busy, true);
    *ret_turn = j->turn;
    queue_push(f->commands, j);
    return OK;
}

static void fake_cancel(struct engine *en)
{
    atomic_store(&((struct fake *)en)->cancel, true);
}

static bool fake_busy(const struct engine *en)
{
    return atomic_load(&((const struct fake *)en)->busy);
}

static struct engine_event *fake_wait(struct engine *en, int timeout_ms)
{
    struct fake *f = (struct fake *)en;
    return timeout_ms == 0 ? queue_pop(f->events) : queue_wait(f->events, timeout_ms);
}

static void fake_forget(struct engine *en, int64_t timeline)
{
    (void)en;
    (void)timeline;
}

static void fake_stats(struct engine *en, struct stats *ret)
{
    struct fake *f = (struct fake *)en;
    pthread_mutex_lock(&f->lock);
    *ret = f->stats;
    pthread_mutex_unlock(&f->lock);
}

static void set_coverage(struct stats *s, double coverage)
{
    s->coverage = coverage;
}

static void fake_set_coverage(struct engine *en, float coverage)
{
    with_stats((struct fake *)en, set_coverage, (double)coverage);
}

static enum status fake_set_reasoning(struct engine *en, const char *mode, struct err *e)
{
    enum template_reasoning reasoning;
    (void)en;
    return template_reasoning_find(mode, &reasoning, e);
}

static void set_budget(struct stats *s, double size_bytes)
{
    s->kv_budget_bytes = (int64_t)size_bytes;
}

static void fake_set_kv_budget(struct engine *en, uint64_t size_bytes)
{
    with_stats((struct fake *)en, set_budget, size_bytes ? (double)size_bytes : 1 << 30);
}

static const char *fake_kv_name(const struct engine *en, int i, const char **ret_what)
{
    static const char *const names[] = {"exact", "4/4", "adaptive"};
    (void)en;
    *ret_what = "as its name says";
    return i >= 0 && i < 3 ? names[i] : NULL;
}

static enum status fake_set_kv(struct engine *en, const char *preset, struct err *e)
{
    struct fake *f = (struct fake *)en;
    const char *what;
    for (int i = 0; fake_kv_name(en, i, &what); i++)
        if (strcmp(fake_kv_name(en, i, &what), preset) == 0) {
            pthread_mutex_lock(&f->lock);
            snprintf(f->stats.kv, sizeof f->stats.kv, "%s", preset);
            pthread_mutex_unlock(&f->lock);
            return OK;
        }
    return err_set(e, ERR_USAGE, "KV preset '%s' is unknown; use one of exact, 4/4, adaptive",
                   preset);
}

static void fake_map_ask(struct engine *en, int64_t timeline)
{
    struct fake *f = (struct fake *)en;
    pthread_mutex_lock(&f->lock);
    f->map.timeline = timeline;
    if (f->map.page)
        f->map.at_s = clock_s();
    pthread_mutex_unlock(&f->lock);
}

static bool fake_map(struct engine *en, struct stats_map *ret)
{
    struct fake *f = (struct fake *)en;
    pthread_mutex_lock(&f->lock);
    bool newer = stats_map_take(ret, &f->map);
    pthread_mutex_unlock(&f->lock);
    return newer;
}

static void fake_trace_ask(struct engine *en, int64_t timeline, const int32_t *ids, int32_t n,
                           int32_t pos)
{
    struct fake *f = (struct fake *)en;
    (void)ids;
    (void)n;
    pthread_mutex_lock(&f->lock);
    struct stats_trace *t = &f->trace;
    t->timeline = timeline;
    t->pos = pos;
    t->n = f->n_part ? pos + 1 : 0;
    t->on_rows = f->trace_rows;
    t->weight = mem_realloc(t->weight, ((size_t)t->n + 1) * sizeof *t->weight);
    float sum = 0;
    for (int32_t i = 0; i < t->n; i++)
        sum += f->part[(int64_t)i * f->n_part / t->n];
    for (int32_t i = 0; i < t->n; i++)
        t->weight[i] = f->part[(int64_t)i * f->n_part / t->n] / sum;
    t->took_s = 0;
    t->at_s = clock_s();
    pthread_mutex_unlock(&f->lock);
}

static bool fake_trace(struct engine *en, struct stats_trace *ret)
{
    struct fake *f = (struct fake *)en;
    pthread_mutex_lock(&f->lock);
    bool newer = stats_trace_take(ret, &f->trace);
    pthread_mutex_unlock(&f->lock);
    return newer;
}

static enum status fake_tokenize(struct engine *en, const char *text, size_t len,
                                 bool parse_special, bool add_bos, int32_t **ret_ids,
                                 int32_t *ret_n, struct err *e)
{
    (void)en;
    (void)parse_special;
    (void)add_bos;
    if (len > INT32_MAX / 8)
        return err_set(e, ERR_USAGE, "text of %zu bytes is too long", len);
    int32_t *ids = mem_alloc((len + 1) * sizeof *ids);
    for (size_t i = 0; i < len; i++)
        ids[i] = (unsigned char)text[i];
    *ret_ids = ids;
    *ret_n = (int32_t)len;
    return OK;
}

static enum status fake_detokenize(struct engine *en, const int32_t *ids, int32_t n, bool special,
                                   char **ret, size_t *ret_len, struct err *e)
{
    (void)en;
    struct str s = {0};
    for (int32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= N_VOCAB) {
            str_fini(&s);
            return err_set(e, ERR_USAGE, "token id %d is not in 0..%d", ids[i], N_VOCAB - 1);
        }
        if (ids[i] < 256)
            str_addc(&s, (char)ids[i]);
        else if (special)
            str_adds(&s, ids[i] == ID_START ? "<start>" : "<end>");
    }
    *ret_len = s.len;
    *ret = str_take(&s);
    return OK;
}

static enum status fake_logits(struct engine *en, const int32_t *ids, int32_t n,
                               bool (*row)(void *ctx, int32_t i, const float *logits), void *ctx,
                               struct err *e)
{
    (void)en;
    (void)ids;
    (void)n;
    (void)row;
    (void)ctx;
    return err_set(e, ERR_UNSUPPORTED, "the scripted engine has no logits");
}

static enum status fake_bench(struct engine *en, const struct engine_bench *b,
                              struct engine_bench_result *ret, struct err *e)
{
    (void)en;
    (void)b;
    (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "the scripted engine has no speed");
}

static enum status fake_attention(struct engine *en, const int32_t *ids, int32_t n,
                                  const char *const *presets, int32_t n_preset,
                                  struct engine_attention *ret, struct err *e)
{
    (void)en;
    (void)ids;
    (void)n;
    (void)presets;
    (void)n_preset;
    (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "the scripted engine has no attention");
}

static enum status fake_calibrate(struct engine *en, struct engine_floor *ret, struct err *e)
{
    (void)en;
    (void)ret;
    return err_set(e, ERR_UNSUPPORTED, "the scripted engine compresses nothing");
}

static enum status read_script(struct fake *f, const char *path, struct err *e)
{
    FILE *in = *path ? fopen(path, "r") : NULL;
    if (*path && !in)
        return err_set(e, ERR_IO, "script %s: %s", path, strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    while (in && getline(&line, &cap, in) >= 0) {
        line[strcspn(line, "\n")] = 0;
        if (!*line || *line == '#')
            continue;
        char *copy = mem_strdup(line);
        char *space = strchr(copy, ' ');
        if (space)
            *space = 0;
        struct step s = {copy, space ? space + 1 : copy + strlen(copy)};
        if (!strcmp(s.verb, "ctx"))
            f->info.n_ctx = f->stats.n_ctx = atoi(s.rest);
        f->steps = mem_realloc(f->steps, (size_t)(f->n_step + 1) * sizeof *f->steps);
        f->steps[f->n_step++] = s;
    }
    free(line);
    if (in)
        fclose(in);
    if (f->n_step == 0) {
        f->steps = mem_alloc(sizeof *f->steps);
        char *echo = mem_strdup("echo");
        f->steps[f->n_step++] = (struct step){echo, echo + 4};
    }
    return OK;
}

enum status fake_open(const struct engine_params *p, struct engine **ret, struct err *e)
{
    static const struct engine_vt vt = {
        .close = fake_close,
        .info = fake_info,
        .submit = fake_submit,
        .verify = fake_verify,
        .cancel = fake_cancel,
        .busy = fake_busy,
        .wait = fake_wait,
        .forget = fake_forget,
        .stats = fake_stats,
        .set_coverage = fake_set_coverage,
        .set_reasoning = fake_set_reasoning,
        .set_kv_budget = fake_set_kv_budget,
        .set_kv = fake_set_kv,
        .kv_name = fake_kv_name,
        .map_ask = fake_map_ask,
        .map = fake_map,
        .trace_ask = fake_trace_ask,
        .trace = fake_trace,
        .tokenize = fake_tokenize,
        .detokenize = fake_detokenize,
        .logits = fake_logits,
        .bench = fake_bench,
        .attention = fake_attention,
        .calibrate = fake_calibrate,
    };
    struct fake *f = mem_calloc(1, sizeof *f);
    f->base.vt = &vt;
    f->info = (struct engine_info){.name = "Fake",
                                   .fingerprint = N_VOCAB,
                                   .arch = "script",
                                   .type = "F32",
                                   .backend = "script",
                                   .kv = "exact",
                                   .chat_format = "plain",
                                   .n_ctx = 4096,
                                   .n_ctx_train = 4096,
                                   .n_vocab = N_VOCAB};
    f->rate_ms = 2;
    stats_init(&f->stats);
    f->stats.n_ctx = f->info.n_ctx;
    f->stats.n_tok = 0;
    f->stats.coverage = p->coverage > 0 ? (double)p->coverage : 1;
    snprintf(f->stats.kv, sizeof f->stats.kv, "exact");
    stats_map_init(&f->map);
    stats_trace_init(&f->trace);
    f->choice_p = NAN;
    enum status st = read_script(f, p->fake_script, e);
    if (st != OK) {
        free(f);
        return st;
    }
    pthread_mutex_init(&f->lock, NULL);
    f->commands = queue_new(NULL, NULL);
    f->events = queue_new(p->wake, p->wake_ctx);
    pthread_create(&f->thread, NULL, run, f);
    *ret = &f->base;
    return OK;
}
