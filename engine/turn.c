#include "engine/turn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/answer.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/prefill.h"
#include "engine/room.h"
#include "engine/sampler.h"

#define EVENT_PERIOD_S 0.1 /* progress and snapshots, at most this often */

/* ---- the copy of a turn ---- */

struct turn *turn_copy(const struct engine_turn *t, uint64_t number)
{
    struct turn *c = mem_calloc(1, sizeof *c);
    c->number = number;
    c->timeline = t->timeline;
    c->n_prefix = t->n_prefix > 0 ? t->n_prefix : 0;
    c->prefix = mem_calloc((size_t)c->n_prefix + 1, sizeof *c->prefix);
    if (c->n_prefix)
        memcpy(c->prefix, t->prefix, (size_t)c->n_prefix * sizeof *c->prefix);
    c->n_message = t->n_message > 0 ? t->n_message : 0;
    c->messages = mem_calloc((size_t)c->n_message + 1, sizeof *c->messages);
    for (int32_t i = 0; i < c->n_message; i++)
        c->messages[i] = (struct engine_message){
            .role = mem_strdup(t->messages[i].role ? t->messages[i].role : "user"),
            .text = mem_strndup(t->messages[i].text ? t->messages[i].text : "", t->messages[i].len),
            .len = t->messages[i].len,
        };
    c->raw = t->raw;
    c->sampling = t->sampling;
    c->n_predict = t->n_predict;
    return c;
}

void turn_free(struct turn *t)
{
    if (!t)
        return;
    for (int32_t i = 0; i < t->n_message; i++) {
        free((char *)t->messages[i].role);
        free((char *)t->messages[i].text);
    }
    free(t->messages);
    free(t->prefix);
    free(t);
}

/* ---- a running turn ---- */

struct run {
    struct local *l;
    const struct turn *t;
    struct kv_line *line;
    struct tok_list ids; /* the whole path: prefix, new messages, answer */
    int32_t n_prompt;    /* ids before the answer */
    int32_t n_reused, n_read, n_generated;
    int32_t n_read_before; /* read by earlier calls of prefill_run in this turn */
    double start_s, prefill_start_s, first_s, decode_end_s, told_s;
    double prefill_s; /* time spent reading */
    struct sampler *sampler;
    struct answer answer;
    struct str text;         /* decoded, not yet sent */
    struct tok_list pending; /* generated, not yet sent */
    struct stats_choice *choice; /* [pending.n] */
    int32_t choice_cap;
    enum engine_stop stop;
};

static void event_ids(struct engine_event *ev, const int32_t *ids, int32_t n)
{
    ev->ids = mem_alloc(((size_t)n + 1) * sizeof *ev->ids);
    if (n > 0)
        memcpy(ev->ids, ids, (size_t)n * sizeof *ev->ids);
    ev->n_id = n;
}

static bool cancelled(const struct run *r)
{
    return atomic_load(&r->l->cancel);
}

static double rate(int32_t n, double seconds)
{
    return n > 0 && seconds > 0 ? n / seconds : NAN;
}

/* Brings the snapshot up to date. */
static void tell_stats(struct run *r, enum stats_phase phase)
{
    struct local *l = r->l;
    double now = clock_s();
    pthread_mutex_lock(&l->lock);
    struct stats *s = &l->stats;
    s->phase = phase;
    if (s->timeline != r->t->timeline)
        stats_forget_chat(s);
    s->timeline = r->t->timeline;
    s->n_tok = kv_n_tok(r->line);
    s->n_reused = r->n_reused;
    s->n_read = r->n_read;
    s->n_prefill_done = r->n_read;
    s->n_prefill_total = r->n_prompt - r->n_reused;
    s->n_generated = r->n_generated;
    s->prefill_tps =
        rate(r->n_read, phase == STATS_PREFILL ? now - r->prefill_start_s : r->prefill_s);
    s->eta_s = phase == STATS_PREFILL ? (s->n_prefill_total - r->n_read) / s->prefill_tps : NAN;
    if (r->n_generated > 1)
        s->decode_tps =
            rate(r->n_generated - 1, (phase == STATS_DECODE ? now : r->decode_end_s) - r->first_s);
    s->ttft_s = r->first_s > 0 ? r->first_s - r->start_s : NAN;
    s->kv_bytes = (int64_t)kv_pool_bytes(l->pool);
    s->kv_chat_bytes = (int64_t)kv_line_bytes(r->line);
    s->kv_f16_bytes = kv_f16_bytes(r->line);
    policy_report(l->policy, s);
    s->bytes_per_tok = s->n_tok > 0 ? (double)s->kv_chat_bytes / s->n_tok : NAN;
    pthread_mutex_unlock(&l->lock);
    if (phase != STATS_PREFILL) /* its pages are being made */
        local_walk(l, r->t->timeline, r->line, phase != STATS_IDLE);
}

static bool prefill_tick(void *ctx, double n_done, int32_t n_total)
{
    struct run *r = ctx;
    double now = clock_s();
    keep_blocks(&r->l->keep, r->t->timeline, r->line); /* a killed prefill goes on where it was */
    if (now - r->told_s >= EVENT_PERIOD_S) {
        r->told_s = now;
        r->n_read = r->n_read_before + (int32_t)n_done;
        tell_stats(r, STATS_PREFILL);
        struct engine_event *ev = local_event_new(r->t->number, ENGINE_EV_PREFILL);
        ev->n_tok_done = r->n_read;
        ev->n_tok_total = r->n_prompt - r->n_reused;
        queue_push(r->l->events, ev);
    }
    return !cancelled(r);
}

/* Reads what the timeline does not hold yet; other timelines make room when it is needed. */
static enum status read_prompt(struct run *r, const float **logits, struct err *e)
{
    enum status s;
    r->prefill_start_s = r->told_s = clock_s();
    do {
        int32_t at = kv_n_tok(r->line);
        r->n_read_before = at - r->n_reused;
        s = prefill_run(r->l->forward, r->line, r->ids.ids + at, r->n_prompt - at, prefill_tick, r,
                        logits, e);
        int32_t left = r->n_prompt - kv_n_tok(r->line);
        int32_t most = forward_n_chunk(r->l->forward);
        if (s == ERR_MEMORY &&
            !room_make(r->l, r->t->timeline, r->line, left < most ? left : most))
            break;
    } while (s == ERR_MEMORY);
    r->n_read = kv_n_tok(r->line) - r->n_reused;
    r->prefill_s = clock_s() - r->prefill_start_s;
    return s;
}

/* ---- the answer ---- */

/* Bytes at the end of the text that may be the beginning of a stop text; *ret_cut: where a whole
 * one begins, or -1. */
static size_t held_back(const struct run *r, int64_t *ret_cut)
{
    const char *const *stops = template_stop_texts(r->l->template);
    const char *text = str_c(&r->text);
    size_t hold = 0;
    *ret_cut = -1;
    if (r->t->raw)
        return 0;
    for (; *stops; stops++) {
        size_t n = strlen(*stops);
        const char *at = strstr(text, *stops);
        if (at && (*ret_cut < 0 || at - text < *ret_cut))
            *ret_cut = at - text;
        for (size_t k = n - 1 < r->text.len ? n - 1 : r->text.len; k > hold; k--)
            if (memcmp(text + r->text.len - k, *stops, k) == 0)
                hold = k;
    }
    return hold;
}

/* Sends the text but for its last `hold` bytes. The ids go with the text they made: those that are
 * wholly held back wait. */
static void send_text(struct run *r, size_t hold)
{
    int32_t n = r->pending.n;
    size_t tail = 0; /* bytes made by the ids that wait */
    while (n > 0 && hold > 0) {
        size_t len;
        tokenizer_piece(r->l->tokenizer, r->pending.ids[n - 1], &len);
        if (tail + len > hold)
            break;
        tail += len;
        n--;
    }
    size_t len = r->text.len - hold;
    if (n == 0 && len == 0)
        return;
    struct engine_event *ev = local_event_new(r->t->number, ENGINE_EV_TOKEN);
    ev->text = mem_strndup(str_c(&r->text), len);
    ev->len = len;
    event_ids(ev, r->pending.ids, n);
    ev->choice = mem_alloc(((size_t)n + 1) * sizeof *ev->choice);
    if (n > 0)
        memcpy(ev->choice, r->choice, (size_t)n * sizeof *ev->choice);
    queue_push(r->l->events, ev);
    str_cut(&r->text, 0, len);
    size_t left = (size_t)(r->pending.n - n);
    if (left > 0) {
        memmove(r->pending.ids, r->pending.ids + n, left * sizeof(int32_t));
        memmove(r->choice, r->choice + n, left * sizeof *r->choice);
    }
    r->pending.n -= n;
}

/* Takes a generated token in; false when it ends the answer. */
static bool take_token(struct run *r, int32_t id, const float *logits)
{
    tok_list_add(&r->ids, id);
    tok_list_add(&r->pending, id);
    if (r->pending.n > r->choice_cap) {
        r->choice_cap = 2 * r->pending.n;
        r->choice = mem_realloc(r->choice, (size_t)r->choice_cap * sizeof *r->choice);
    }
    sampler_choice(logits, r->l->info.n_vocab, id, &r->choice[r->pending.n - 1]);
    answer_push(&r->answer, id, &r->text);
    int64_t cut;
    size_t hold = held_back(r, &cut);
    if (cut >= 0) {
        send_text(r, r->text.len - (size_t)cut);
        str_clear(&r->text);
        r->pending.n = 0;
        r->stop = ENGINE_STOP_EOS;
        return false;
    }
    send_text(r, hold);
    return true;
}

static enum status write_answer(struct run *r, const float *logits, struct err *e)
{
    struct local *l = r->l;
    r->stop = ENGINE_STOP_LENGTH;
    while (r->t->n_predict < 0 || r->n_generated < r->t->n_predict) {
        if (cancelled(r)) {
            r->stop = ENGINE_STOP_CANCEL;
            break;
        }
        int32_t id = sampler_pick(r->sampler, logits);
        if (id < 0)
            return err_set(e, ERR_INTERNAL,
                           "the model's logits are not finite: the file is damaged "
                           "or its type too coarse");
        if (r->first_s == 0)
            r->first_s = clock_s();
        if (template_is_stop(l->template, id) || answer_is_over(&r->answer, id)) {
            r->stop = ENGINE_STOP_EOS;
            break;
        }
        sampler_accept(r->sampler, id);
        r->n_generated++;
        if (!take_token(r, id, logits))
            break;
        double now = clock_s();
        if (now - r->told_s >= EVENT_PERIOD_S) {
            r->told_s = now;
            tell_stats(r, STATS_DECODE);
        }
        if (kv_n_tok(r->line) == l->plan.n_ctx) {
            r->stop = ENGINE_STOP_CONTEXT;
            break;
        }
        if (r->n_generated == r->t->n_predict)
            break;
        if (room_fit_budget(l))
            local_walk(l, r->t->timeline, r->line, false);
        TRY(room_reserve(l, r->t->timeline, r->line, 1, e));
        TRY(forward_step(l->forward, r->line, id, &logits, e));
        keep_blocks(&l->keep, r->t->timeline, r->line);
    }
    return OK;
}

/* ---- the whole ---- */

static enum status render(struct run *r, struct err *e)
{
    struct local *l = r->l;
    const struct turn *t = r->t;
    TRY(local_check_ids(l, t->prefix, t->n_prefix, e));
    struct tok_list fresh = {0};
    enum status s = template_render(l->template, t->prefix, t->n_prefix, t->messages, t->n_message,
                                    t->raw, &fresh, e);
    for (int32_t i = 0; i < t->n_prefix; i++)
        tok_list_add(&r->ids, t->prefix[i]);
    for (int32_t i = 0; s == OK && i < fresh.n; i++)
        tok_list_add(&r->ids, fresh.ids[i]);
    r->n_prompt = r->ids.n;
    if (s == OK && r->n_prompt == 0)
        s = err_set(e, ERR_USAGE, "there is nothing to answer: the prompt is empty");
    char a[32], b[32];
    if (s == OK && r->n_prompt > l->plan.n_ctx)
        s = err_set(e, ERR_USAGE,
                    "the conversation has %s tokens, but the context holds %s; raise "
                    "-c or begin a new conversation",
                    err_count_text((uint64_t)r->n_prompt, a), err_count_text((uint64_t)l->plan.n_ctx, b));
    if (s == OK) {
        struct engine_event *ev = local_event_new(r->t->number, ENGINE_EV_PROMPT);
        event_ids(ev, fresh.ids, fresh.n);
        queue_push(l->events, ev);
    }
    tok_list_fini(&fresh);
    return s;
}

static enum status run_turn(struct run *r, struct err *e)
{
    struct local *l = r->l;
    const struct turn *t = r->t;
    const float *logits;
    TRY(render(r, e));
    lines_keep(l->lines, &l->keep, t->timeline); /* any of them may have to leave memory */
    room_need_depths(l, r->n_prompt);
    r->line = lines_take(l->lines, t->timeline, r->ids.ids, r->n_prompt);
    room_load(l, t->timeline, r->line, r->ids.ids, r->n_prompt);
    if (kv_n_tok(r->line) == r->n_prompt) /* the logits after the last token are needed again */
        kv_truncate(r->line, r->n_prompt - 1);
    r->n_reused = kv_n_tok(r->line);
    policy_begin(l->policy, local_coverage(l), r->n_prompt);
    tell_stats(r, STATS_PREFILL);
    TRY(read_prompt(r, &logits, e));

    r->sampler = sampler_new(l->info.n_vocab, &t->sampling);
    int32_t back =
        r->n_prompt < t->sampling.repeat_last_n ? r->n_prompt : t->sampling.repeat_last_n;
    for (int32_t i = r->n_prompt - (back > 0 ? back : 0); i < r->n_prompt; i++)
        sampler_accept(r->sampler, r->ids.ids[i]);
    const struct template *tp = !t->raw && *template_name(l->template) ? l->template : NULL;
    answer_init(&r->answer, tp, l->tokenizer, r->ids.ids, r->n_prompt, tp && t->n_message > 0);
    r->told_s = 0;
    witness_begin(l->witness, t->timeline);
    forward_set_watch(l->forward, l->witness ? witness_look : NULL, l->witness);
    enum status s = write_answer(r, logits, e);
    forward_set_watch(l->forward, NULL, NULL);
    r->decode_end_s = clock_s();
    if (r->stop != ENGINE_STOP_EOS || r->pending.n || r->text.len) {
        answer_flush(&r->answer, &r->text);
        send_text(r, 0);
    }
    return s;
}

struct engine_event *turn_run(struct local *l, const struct turn *t)
{
    struct run r = {.l = l, .t = t, .start_s = clock_s(), .stop = ENGINE_STOP_CANCEL};
    struct err err;
    enum status s = run_turn(&r, &err);
    if (r.line) {
        ledger_decay(r.line);
        keep_blocks(&l->keep, t->timeline, r.line);
        tell_stats(&r, STATS_IDLE);
    }
    bool ok = s == OK || s == ERR_CANCELLED;
    struct engine_event *ev = local_event_new(r.t->number, ok ? ENGINE_EV_DONE : ENGINE_EV_FAILED);
    if (!ok)
        ev->err = err;
    if (s == ERR_CANCELLED)
        r.stop = ENGINE_STOP_CANCEL;
    ev->stop = r.stop;
    ev->n_reused = r.n_reused;
    ev->n_read = r.n_read;
    ev->n_generated = r.n_generated;
    ev->n_tok_done = r.n_read;
    ev->n_tok_total = r.n_prompt - r.n_reused;
    ev->ttft_ms = r.first_s > 0 ? 1e3 * (r.first_s - r.start_s) : NAN;
    ev->prefill_tps = rate(r.n_read, r.prefill_s);
    ev->decode_tps = rate(r.n_generated - 1, r.decode_end_s - r.first_s);
    if (r.line) {
        ev->density = l->stats.density; /* ours to write, so ours to read */
        ev->retained_mass = l->stats.retained_mass;
        ev->kv_bytes = (int64_t)kv_line_bytes(r.line);
        ev->f16_bytes = kv_f16_bytes(r.line);
    }
    ev->seed = r.sampler ? sampler_seed(r.sampler) : t->sampling.seed;
    sampler_free(r.sampler);
    tok_list_fini(&r.ids);
    tok_list_fini(&r.pending);
    free(r.choice);
    str_fini(&r.text);
    return ev;
}
