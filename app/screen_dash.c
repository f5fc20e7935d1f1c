/* The dashboard's side of the controller: what it shows beyond the engine's figures, its keys and
 * pointer, its controls and their undo; see screen.h. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/figures.h"
#include "app/options.h"
#include "app/screen_state.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine.h"
#include "ui/format.h"

static const double MAP_EVERY_S = 1, MAP_WAIT_S = 0.05, DISK_EVERY_S = 5, TRACE_WAIT_S = 0.03,
                    BUDGET_FRESH_S = 2;
enum { PAGE_TOK = 64, TOKEN_STEP = 10 };

/* ---- life ---- */

void dash_init(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    d->view.hit = mem_calloc(DASH_HITS, sizeof *d->view.hit);
    d->view.disk_chat_bytes = d->view.disk_used_bytes = d->view.disk_limit_bytes = -1;
    d->view.disk_at_s = d->view.turn_at_s = NAN;
    d->view.disk_shared = !sessions_kv_io(sc->store);
    stats_map_init(&d->map);
    stats_trace_init(&d->trace);
    dash_opened(sc);
}

static void tokens_clear(struct screen_dash *d)
{
    for (int i = 0; i < d->view.n_token; i++)
        free((char *)d->token[i].text);
    for (int i = 0; i < STATS_ALTERNATIVES; i++) {
        free(d->other[i]);
        d->other[i] = NULL;
    }
    d->view.n_token = 0;
    d->view.token_sel = 0;
    d->other_of = -1;
}

void dash_fini(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    tokens_clear(d);
    free(d->token);
    free(d->page_text);
    free(d->view.hit);
    free(d->path_at);
    free(d->path_ids);
    str_fini(&d->path);
    stats_map_free(&d->map);
    stats_trace_free(&d->trace);
}

/* ---- what there is to know ---- */

void dash_opened(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    int64_t id = chat_conversation(sc->chat);
    struct sessions_turn *t;
    struct err ignored;
    int32_t n;
    if (id != d->conversation) {
        d->conversation = id;
        d->view.turn_at_s = NAN;
        memset(d->disk_tier_bytes, 0, sizeof d->disk_tier_bytes);
    }
    d->map_stale = d->disk_stale = true;
    history_clear_turns(&sc->history);
    stats_init(&d->verified);
    if (!id || sessions_turns(sc->store, id, &t, &n, &ignored) != OK)
        return;
    for (int32_t i = 0; i < n; i++) {
        struct stats s;
        if (!figures_parse(t[i].figures, &s))
            continue;
        history_add_turn(&sc->history, &s);
        if (s.verified.n > 0)
            d->verified = s;
    }
    sessions_turns_free(t, n);
}

const struct stats *screen_stats(struct screen *sc)
{
    struct stats *s = &sc->model.stats;
    const struct stats *v = &sc->dash.verified;
    engine_stats(sc->engine, s);
    if (s->timeline != chat_conversation(sc->chat))
        stats_forget_chat(s);
    if (chats_writing(sc->chats) != sc->chat) { /* what the engine does, it does for another */
        s->phase = STATS_IDLE;
        s->n_verify_done = s->n_verify_total = -1;
    }
    int32_t n = chat_n_tok(sc->chat);
    if (s->n_tok <= 0 && n > 0) /* saved, but not in memory */
        s->n_tok = n;
    if (s->n_tok > n && !chat_running(sc->chat)) /* undone: the engine still holds what was there */
        s->n_tok = n > 0 || chat_count(sc->chat) == 0 ? n : -1; /* -1: a branch that was never read */
    /* The engine forgets when it ends or another chat is opened. What was found counts for a cache
     * that is kept in the same way, and as fine: on disk, too, while nothing of it is in memory. */
    const int64_t *tiers = s->kv_chat_bytes > 0 ? s->tier_bytes : sc->dash.disk_tier_bytes;
    if (v->verified.n < 0 || s->verified.n >= 0 || s->timeline != sc->dash.conversation ||
        strcmp(s->kv, v->kv) != 0 || stats_coarser(tiers, v->tier_bytes))
        return s;
    s->verified = v->verified;
    return s;
}

void dash_turn_ended(struct screen *sc)
{
    dash_opened(sc);
    sc->dash.view.turn_at_s = clock_s();
}

static void ask_disk(struct screen *sc, double now_s)
{
    struct screen_dash *d = &sc->dash;
    struct sessions_row row;
    struct sessions_budget b;
    struct err ignored;
    d->disk_stale = false;
    d->disk_s = now_s;
    d->pinned = false;
    d->view.disk_chat_bytes = d->conversation ? -1 : 0;
    if (d->conversation && sessions_get(sc->store, d->conversation, &row, &ignored) == OK) {
        d->view.disk_chat_bytes = row.kv_bytes;
        memcpy(d->disk_tier_bytes, row.tier_bytes, sizeof d->disk_tier_bytes);
        d->pinned = row.pinned;
        free(row.title);
        free(row.model);
        free(row.snippet);
    }
    if (!sessions_kv_settled(sc->store)) { /* asking would wait for the disk */
        d->disk_s += 1 - DISK_EVERY_S;
    } else if (sessions_budget_get(sc->store, &b, &ignored) == OK) {
        d->view.disk_used_bytes = b.used_bytes;
        d->view.disk_limit_bytes = b.limit_bytes;
        d->view.disk_at_s = now_s;
    }
}

/* Text of the path's tokens as far as ids go; what is there already is kept. */
static void know_path(struct screen *sc, const int32_t *ids, int32_t n)
{
    struct screen_dash *d = &sc->dash;
    struct err ignored;
    int32_t same = 0;
    while (same < n && same < d->n_path && ids[same] == d->path_ids[same])
        same++;
    if (n + 1 > d->path_cap) {
        d->path_cap = 2 * n + 2;
        d->path_at = mem_realloc(d->path_at, (size_t)d->path_cap * sizeof *d->path_at);
        d->path_ids = mem_realloc(d->path_ids, (size_t)d->path_cap * sizeof *d->path_ids);
    }
    d->path_at[0] = 0;
    d->path.len = d->path_at[same];
    for (int32_t i = same; i < n; i++) {
        char *text;
        size_t len;
        if (engine_detokenize(sc->engine, ids + i, 1, true, &text, &len, &ignored) == OK) {
            str_add(&d->path, text, len);
            free(text);
        }
        d->path_ids[i] = ids[i];
        d->path_at[i + 1] = (uint32_t)d->path.len;
    }
    d->n_path = n;
}

/* Asks what the model looked at when it chose the chosen token, once for each choice and state of
 * the cache, one question at a time. */
static void ask_trace(struct screen *sc, double now_s)
{
    struct screen_dash *d = &sc->dash;
    struct chat_answer a;
    struct chat_message msg;
    if (d->trace_waits && engine_trace(sc->engine, &d->trace)) {
        d->trace_waits = false;
        sc->dirty = true;
    }
    if (chats_busy(sc->chats)) { /* goes first, and changes the cache */
        d->trace_waits = false;
        d->trace_asked_s = 0;
        return;
    }
    bool shown = d->view.tab == DASH_ANSWER || d->view.token_shown;
    if (d->trace_waits || !shown || !chat_answer(sc->chat, &a))
        return;
    int32_t n, pos = a.first + d->view.token_sel - 1;
    chat_get(sc->chat, chat_count(sc->chat) - 1, &msg);
    if (d->trace_asked_s > 0 && pos == d->trace_pos && msg.id == d->trace_answer)
        return;
    int32_t *ids = chat_ids(sc->chat, &n);
    if (pos >= 0 && pos < n) {
        know_path(sc, ids, n);
        engine_trace(sc->engine, &d->trace); /* an answer that nobody waited for */
        engine_trace_ask(sc->engine, d->conversation, ids, n, pos);
        d->trace_pos = pos;
        d->trace_answer = msg.id;
        d->trace_asked_s = now_s;
        d->trace_waits = true;
    }
    free(ids);
}

double dash_tick(struct screen *sc, double now_s)
{
    struct screen_dash *d = &sc->dash;
    bool running = chat_running(sc->chat) && !chat_waiting(sc->chat);
    if (!sc->dash_wanted)
        return 0;
    ask_trace(sc, now_s);
    if (d->map_stale || (running && now_s - d->map_asked_s >= MAP_EVERY_S)) {
        engine_map_ask(sc->engine, d->conversation);
        d->map_stale = false;
        d->map_waits = true;
        d->map_asked_s = now_s;
    }
    if (d->map_waits && engine_map(sc->engine, &d->map)) {
        d->map_waits = false;
        screen_stats(sc);
        sc->dirty = true;
    }
    if (!running && (d->disk_stale || now_s - d->disk_s >= DISK_EVERY_S)) {
        ask_disk(sc, now_s);
        screen_stats(sc);   /* memory of the process */
        sc->dirty = true; /* ages move on, too */
    }
    if (d->trace_waits)
        return now_s + TRACE_WAIT_S;
    if (d->map_waits && now_s - d->map_asked_s < MAP_EVERY_S)
        return now_s + MAP_WAIT_S;
    return running ? 0 : d->disk_s + DISK_EVERY_S;
}

/* ---- filling ---- */

static const char *preset_shown(const struct screen *sc)
{
    return sc->dash.preset[0] ? sc->dash.preset : sc->model.stats.kv;
}

/* What was just asked for, until the engine had time to say so itself. */
static int64_t budget_shown(const struct screen *sc)
{
    bool fresh = sc->dash.budget > 0 && clock_s() - sc->dash.budget_s < BUDGET_FRESH_S;
    return fresh ? sc->dash.budget : sc->model.stats.kv_budget_bytes;
}

static void control(struct dash_control *c, const char *label, const char *value, const char *hint,
                    bool turns)
{
    c->label = label;
    c->turns = turns;
    snprintf(c->value, sizeof c->value, "%.*s", (int)sizeof c->value - 1, value);
    snprintf(c->hint, sizeof c->hint, "%.*s", (int)sizeof c->hint - 1, hint);
}

static void fill_controls(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    struct dash_control *c = d->view.control;
    const struct stats *s = &sc->model.stats;
    char a[FORMAT_SIZE], text[96];
    control(&c[DASH_BUDGET], "budget", format_bytes(a, budget_shown(sc)),
            "memory for the cache: what does not fit steps down at once, least harm first", true);
    snprintf(text, sizeof text, "%s%s", format_small(a, s->coverage),
             s->coverage >= 1 ? " (dense)" : "");
    control(&c[DASH_COVERAGE], "coverage", text,
            "attention mass that sparse attention keeps, from the next answer on", true);
    if (d->preset[0] && strcmp(d->preset, s->kv) != 0)
        snprintf(text, sizeof text, "Enter applies %s: the chat is taken from disk or read again",
                 d->preset);
    else
        snprintf(text, sizeof text, "how the cache is kept; a change needs Enter");
    control(&c[DASH_PRESET], "preset", preset_shown(sc)[0] ? preset_shown(sc) : "--", text, true);
    bool verifying = s->phase == STATS_VERIFY;
    if (verifying && s->n_verify_total > 0)
        snprintf(text, sizeof text, "%d%%", (int)(100.0 * s->n_verify_done / s->n_verify_total));
    control(&c[DASH_VERIFY], "verify", verifying ? text : "",
            verifying ? "Enter or Ctrl+C stops it; what was compared so far counts"
                      : "reads the chat again exactly and measures what compression costs",
            false);
    control(&c[DASH_PIN], "pinned", d->pinned ? "yes" : "no",
            "a pinned chat keeps its cache on disk when others are thinned", false);
    control(&c[DASH_THIN], "thin", "", "makes this chat's cache on disk smaller (asks first)",
            false);
    control(&c[DASH_UNDO], "undo", d->n_undo ? d->undo[d->n_undo - 1].name : "nothing",
            "takes the last change back; precision that went returns only by reading again", false);
}

/* Text of the chosen page, and again only when the choice or the path changed. */
static void fill_page(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    struct dash *v = &d->view;
    const struct stats_map *m = &d->map;
    v->map = isfinite(m->at_s) && m->timeline == d->conversation ? m : NULL;
    if (!v->map || m->n_block == 0)
        return;
    v->layer = v->layer < m->n_layer ? v->layer : m->n_layer - 1;
    v->page = v->page < m->n_block ? v->page : m->n_block - 1;
    if (d->page_of == v->page && d->page_at_s == m->at_s && d->page_text)
        return;
    struct err ignored;
    int32_t n, first = v->page * PAGE_TOK;
    int32_t *ids = chat_ids(sc->chat, &n);
    int32_t count = n - first < PAGE_TOK ? n - first : PAGE_TOK;
    free(d->page_text);
    d->page_text = NULL;
    v->page_text = NULL;
    if (count > 0 && engine_detokenize(sc->engine, ids + first, count, true, &d->page_text,
                                       &v->page_text_len, &ignored) == OK)
        v->page_text = d->page_text;
    d->page_of = v->page;
    d->page_at_s = m->at_s;
    free(ids);
}

static void fill_choice(struct screen *sc, const struct chat_answer *a, int sel)
{
    struct screen_dash *d = &sc->dash;
    d->other_of = sel;
    for (int k = 0; k < STATS_ALTERNATIVES; k++) {
        bool known = sel < a->n_choice && a->choice[sel].id[k] >= 0;
        free(d->other[k]);
        d->other[k] = known ? engine_token_text(sc->engine, a->choice[sel].id[k]) : NULL;
        d->token[sel].other[k] = d->other[k];
        d->token[sel].other_p[k] = sel < a->n_choice ? a->choice[sel].id_p[k] : NAN;
    }
}

static void fill_tokens(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    struct chat_message msg = {.id = 0};
    struct chat_answer a;
    bool known = chat_answer(sc->chat, &a);
    if (known)
        chat_get(sc->chat, chat_count(sc->chat) - 1, &msg);
    if (!known || msg.id != d->answer || a.n < d->view.n_token)
        tokens_clear(d);
    d->answer = msg.id;
    if (!known)
        return;
    if (a.n > d->token_cap) {
        d->token_cap = 2 * a.n;
        d->token = mem_realloc(d->token, (size_t)d->token_cap * sizeof *d->token);
    }
    for (int32_t i = d->view.n_token; i < a.n; i++) {
        char *text = engine_token_text(sc->engine, a.ids[i]);
        d->token[i] = (struct dash_token){.text = text, .len = strlen(text)};
    }
    for (int32_t i = 0; i < a.n; i++) {
        d->token[i].p = i < a.n_choice ? a.choice[i].p : NAN;
        d->token[i].kl = i < a.n_agree ? a.agree[i].kl : NAN;
        d->token[i].same = i < a.n_agree && a.agree[i].same;
    }
    d->view.token = d->token;
    d->view.n_token = a.n;
    int sel = d->view.token_sel = d->view.token_sel < a.n ? d->view.token_sel : a.n ? a.n - 1 : 0;
    if (a.n > 0 && d->other_of != sel)
        fill_choice(sc, &a, sel);
    bool traced = !d->trace_waits && d->trace.at_s >= d->trace_asked_s && d->trace_asked_s > 0 &&
                  d->trace.timeline == d->conversation && d->trace_answer == msg.id &&
                  d->trace.pos == a.first + sel - 1;
    d->view.trace = traced ? &d->trace : NULL;
    d->view.path_text = str_c(&d->path);
    d->view.path_at = d->path_at;
    d->view.n_path = d->n_path;
}

void dash_fill(struct screen *sc)
{
    sc->model.dash = &sc->dash.view;
    if (!sc->dash_wanted)
        return;
    sc->dash.view.focus = sc->focus == UI_FOCUS_DASH;
    fill_controls(sc);
    fill_page(sc);
    fill_tokens(sc);
}

/* ---- acting ---- */

static void remember(struct screen *sc, enum dash_item item, const char *name)
{
    struct screen_dash *d = &sc->dash;
    const struct stats *s = &sc->model.stats;
    if (d->n_undo > 0 && d->undo[d->n_undo - 1].item == item && item != DASH_PIN &&
        clock_s() - d->undo[d->n_undo - 1].at_s < 3) {
        d->undo[d->n_undo - 1].at_s = clock_s(); /* steps in a row are one change */
        return;
    }
    if (d->n_undo == UNDO_MAX)
        memmove(d->undo, d->undo + 1, (size_t)--d->n_undo * sizeof *d->undo);
    struct dash_undo *u = &d->undo[d->n_undo++];
    *u = (struct dash_undo){.item = item,
                            .name = name,
                            .at_s = clock_s(),
                            .budget = budget_shown(sc),
                            .coverage = s->coverage,
                            .pinned = d->pinned};
    snprintf(u->preset, sizeof u->preset, "%s", s->kv);
}

static void changed(struct screen *sc)
{
    sc->dash.map_stale = sc->dash.disk_stale = true;
    sc->dash.trace_asked_s = 0;
    sc->stats_s = 0;
    sc->dirty = true;
}

/* Several keys may come before the engine's next snapshot: each goes on from the one before. */
static void set_budget(struct screen *sc, uint64_t size_bytes)
{
    engine_set_kv_budget(sc->engine, size_bytes);
    sc->dash.budget = (int64_t)size_bytes;
    sc->dash.budget_s = clock_s();
}

static void set_coverage(struct screen *sc, double coverage)
{
    engine_set_coverage(sc->engine, (float)coverage);
    sc->model.stats.coverage = coverage;
}

void screen_budget(struct screen *sc, uint64_t size_bytes)
{
    char a[FORMAT_SIZE];
    struct err e;
    if (sc->model.stats.vram_bytes < 0 && options_fits_memory(size_bytes, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    int64_t least = engine_info(sc->engine)->kv_budget_least;
    if (size_bytes > 0 && (int64_t)size_bytes < least) {
        screen_notice(sc, "a budget of %s is too small: the least is /budget %" PRId64 "K",
                      format_bytes(a, (int64_t)size_bytes), (least + 1023) / 1024);
        return;
    }
    remember(sc, DASH_BUDGET, "budget");
    set_budget(sc, size_bytes);
    if (size_bytes)
        screen_notice(sc, "the cache may take %s of memory", format_bytes(a, (int64_t)size_bytes));
    else
        screen_notice(sc, "the cache's budget is as planned when the program started");
    changed(sc);
}

void screen_coverage(struct screen *sc, double coverage)
{
    remember(sc, DASH_COVERAGE, "coverage");
    set_coverage(sc, coverage);
    changed(sc);
}

void screen_kv(struct screen *sc, const char *preset)
{
    struct err e;
    char before[24];
    snprintf(before, sizeof before, "%s", sc->model.stats.kv);
    if (engine_set_kv(sc->engine, preset, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    remember(sc, DASH_PRESET, "preset");
    snprintf(sc->dash.undo[sc->dash.n_undo - 1].preset, sizeof before, "%s", before);
    sc->dash.preset[0] = '\0';
    screen_notice(sc, "preset %s%s", preset,
                  chat_count(sc->chat)
                      ? ": this chat is taken from disk or read again with the next message"
                      : "");
    changed(sc);
}

void screen_pin(struct screen *sc)
{
    struct err e;
    struct screen_dash *d = &sc->dash;
    int64_t id = chat_conversation(sc->chat);
    if (!id) {
        screen_notice(sc, "this conversation is not saved yet: send something first");
        return;
    }
    ask_disk(sc, clock_s());
    if (sessions_pin(sc->store, id, !d->pinned, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    remember(sc, DASH_PIN, d->pinned ? "unpin" : "pin");
    d->pinned = !d->pinned;
    notice_pinned(sc, d->pinned);
    screen_refresh(sc);
    changed(sc);
}

void screen_verify(struct screen *sc)
{
    struct err e;
    if (chat_verifying(sc->chat))
        chat_cancel(sc->chat);
    else if (chat_verify(sc->chat, &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "verifying: the conversation is read again exactly; Ctrl+C stops");
    sc->stats_s = 0;
}

void screen_thin(struct screen *sc)
{
    char a[FORMAT_SIZE], text[160];
    struct screen_dash *d = &sc->dash;
    if (d->view.disk_shared || !chat_conversation(sc->chat)) {
        screen_notice(sc, "nothing of this conversation is kept on disk");
        return;
    }
    ask_disk(sc, clock_s());
    if (d->view.disk_chat_bytes == 0) {
        screen_notice(sc, "nothing of this conversation is on disk yet but its text");
        return;
    }
    snprintf(text, sizeof text, "Thin this chat's %s on disk to 4/4? Text stays; this has no undo.",
             format_bytes(a, d->view.disk_chat_bytes));
    sc->question = ASK_THIN;
    sc->subject = chat_conversation(sc->chat);
    popup_open(sc, UI_POPUP_CONFIRM, text, "y thins   n or Esc keeps it");
}

void dash_thin(struct screen *sc, int64_t conversation)
{
    struct err e;
    int64_t freed = 0;
    char a[FORMAT_SIZE];
    if (sessions_thin(sc->store, conversation, 4, &freed, &e) != OK)
        screen_error(sc, &e);
    else if (freed == 0)
        screen_notice(sc, "nothing to free: what is left is as coarse, of the newest tokens, or shared with other chats");
    else
        screen_notice(sc, "%s of disk freed", format_bytes(a, freed));
    changed(sc);
}

static void undo(struct screen *sc)
{
    struct screen_dash *d = &sc->dash;
    if (d->n_undo == 0) {
        screen_notice(sc, "there is nothing to undo");
        return;
    }
    struct dash_undo u = d->undo[d->n_undo - 1];
    struct err e;
    if (u.item == DASH_BUDGET)
        set_budget(sc, (uint64_t)u.budget);
    else if (u.item == DASH_COVERAGE)
        set_coverage(sc, u.coverage);
    else if (u.item == DASH_PRESET && engine_set_kv(sc->engine, u.preset, &e) != OK) {
        screen_error(sc, &e);
        return;
    } else if (u.item == DASH_PIN &&
               sessions_pin(sc->store, chat_conversation(sc->chat), u.pinned, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    d->n_undo--;
    screen_notice(sc, "%s is back as it was", u.name);
    screen_refresh(sc);
    changed(sc);
}

/* 1, 1.5, 2, 3, 4, 6 ... MiB */
static uint64_t budget_step(int64_t now, int step)
{
    uint64_t at = 1 << 20, below = at;
    while ((int64_t)at <= now && at < (uint64_t)1 << 46) {
        if ((int64_t)at < now)
            below = at;
        at = at & (at - 1) ? at / 3 * 4 : at / 2 * 3;
    }
    return step > 0 ? at : below;
}

static void preset_step(struct screen *sc, int step)
{
    const char *what, *name;
    int n = 0, at = 0;
    for (; (name = engine_kv_name(sc->engine, n, &what)); n++)
        if (strcmp(name, preset_shown(sc)) == 0)
            at = n;
    if (n == 0)
        return;
    name = engine_kv_name(sc->engine, (at + step + n) % n, &what);
    snprintf(sc->dash.preset, sizeof sc->dash.preset, "%s", name);
    screen_notice(sc, "%s: %s; Enter applies it", name, what);
    notice_while(sc, NOTICE_DASH);
}

static void turn(struct screen *sc, int item, int step)
{
    const struct stats *s = &sc->model.stats;
    double c = s->coverage;
    switch (item) {
    case DASH_BUDGET:
        if (s->kv_budget_bytes > 0)
            screen_budget(sc, budget_step(budget_shown(sc), step));
        break;
    case DASH_COVERAGE:
        c = round(c * 100 + step) / 100;
        if (c >= (double)ENGINE_COVERAGE_MIN - 1e-6 && c <= 1)
            screen_coverage(sc, c);
        break;
    case DASH_PRESET:
        preset_step(sc, step);
        break;
    default: /* buttons lie side by side */
        sc->dash.view.item = (item + step + DASH_ITEMS) % DASH_ITEMS;
    }
}

static void enter(struct screen *sc, int item)
{
    switch (item) {
    case DASH_PRESET:
        if (sc->dash.preset[0] && strcmp(sc->dash.preset, sc->model.stats.kv) != 0)
            screen_kv(sc, sc->dash.preset);
        break;
    case DASH_VERIFY:
        screen_verify(sc);
        break;
    case DASH_PIN:
        screen_pin(sc);
        break;
    case DASH_THIN:
        screen_thin(sc);
        break;
    case DASH_UNDO:
        undo(sc);
        break;
    default:
        screen_notice(sc, "Left and Right change it");
        notice_while(sc, NOTICE_DASH);
    }
}

void dash_toggle(struct screen *sc)
{
    if (sc->dash_wanted && sc->focus == UI_FOCUS_DASH) {
        sc->dash_wanted = false;
        sc->focus = UI_FOCUS_EDITOR;
        return;
    }
    sc->dash_wanted = true;
    sc->focus = UI_FOCUS_DASH;
    sc->dash.map_stale = sc->dash.disk_stale = true;
    sc->stats_s = 0;
}

static void move(int *at, int step, int n)
{
    *at += step;
    *at = *at < 0 ? 0 : *at >= n ? (n > 0 ? n - 1 : 0) : *at;
}

static bool act_overview(struct screen *sc, enum keymap_action a)
{
    struct dash *v = &sc->dash.view;
    if (a == ACT_ITEM_UP || a == ACT_ITEM_DOWN)
        v->item = (v->item + (a == ACT_ITEM_UP ? DASH_ITEMS - 1 : 1)) % DASH_ITEMS;
    else if (a == ACT_LESS || a == ACT_MORE)
        turn(sc, v->item, a == ACT_MORE ? 1 : -1);
    else if (a == ACT_ITEM_OPEN)
        enter(sc, v->item);
    else
        return false;
    return true;
}

static bool act_map(struct dash *v, enum keymap_action a)
{
    int n_layer = v->map ? v->map->n_layer : 0, n_page = v->map ? v->map->n_block : 0;
    if (a == ACT_ITEM_UP || a == ACT_ITEM_DOWN)
        move(&v->layer, a == ACT_ITEM_UP ? -1 : 1, n_layer);
    else if (a == ACT_LESS || a == ACT_MORE)
        move(&v->page, a == ACT_LESS ? -1 : 1, n_page);
    else if (a == ACT_ITEM_FIRST || a == ACT_ITEM_LAST)
        v->page = a == ACT_ITEM_FIRST || n_page == 0 ? 0 : n_page - 1;
    else if (a == ACT_ITEM_OPEN)
        v->digits = !v->digits;
    else
        return false;
    return true;
}

static bool act_answer(struct dash *v, enum keymap_action a)
{
    if (a == ACT_LESS || a == ACT_MORE)
        move(&v->token_sel, a == ACT_LESS ? -1 : 1, v->n_token);
    else if (a == ACT_ITEM_UP || a == ACT_ITEM_DOWN)
        move(&v->token_sel, a == ACT_ITEM_UP ? -TOKEN_STEP : TOKEN_STEP, v->n_token);
    else if (a == ACT_ITEM_OPEN)
        v->by_agree = !v->by_agree;
    else if (a == ACT_ITEM_FIRST || a == ACT_ITEM_LAST)
        v->token_sel = a == ACT_ITEM_FIRST || v->n_token == 0 ? 0 : v->n_token - 1;
    else
        return false;
    return true;
}

bool dash_act(struct screen *sc, enum keymap_action a)
{
    struct dash *v = &sc->dash.view;
    sc->dirty = true;
    if (a == ACT_TAB_NEXT || a == ACT_TAB_PREV) {
        v->tab = (enum dash_tab)((v->tab + (a == ACT_TAB_NEXT ? 1 : DASH_TABS - 1)) % DASH_TABS);
        return true;
    }
    if (a == ACT_UNDO) {
        undo(sc);
        return true;
    }
    return v->tab == DASH_OVERVIEW ? act_overview(sc, a)
           : v->tab == DASH_MAP    ? act_map(v, a)
           : v->tab == DASH_ANSWER ? act_answer(v, a)
                                   : false;
}

bool dash_press(struct screen *sc, int x, int y)
{
    struct dash *v = &sc->dash.view;
    for (int i = 0; i < v->n_hit; i++) {
        const struct dash_hit *h = &v->hit[i];
        if (x < h->r.x || x >= h->r.x + h->r.w || y < h->r.y || y >= h->r.y + h->r.h)
            continue;
        sc->focus = UI_FOCUS_DASH;
        switch (h->part) {
        case DASH_HIT_TAB:
            v->tab = (enum dash_tab)h->a;
            break;
        case DASH_HIT_CONTROL:
            v->item = h->a;
            if (h->b)
                turn(sc, h->a, h->b);
            else if (!v->control[h->a].turns || h->a == DASH_PRESET)
                enter(sc, h->a);
            break;
        case DASH_HIT_MAP:
            v->layer = (int)((float)(y - h->r.y) * h->per_y);
            v->page = (int)((float)(x - h->r.x) * h->per_x);
            break;
        case DASH_HIT_TOKEN:
            v->token_sel = h->a;
            break;
        }
        return true;
    }
    return false;
}
