#include "app/chat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/figures.h"
#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "sessions/sessions.h"

enum { TITLE_BYTES = 60 };
static const double FLUSH_S = 0.7;

struct message {
    int64_t id;
    char role[16];
    struct str text;
    int32_t *ids; /* NULL = not known yet; see path_ids */
    int32_t n_id;
    bool ours; /* of this model, whether or not ids are known */
    bool cut;
    int32_t n_sibling, sibling;
};

struct chat {
    struct engine *engine;
    struct sessions *store;
    struct engine_sampling sampling;
    int32_t n_predict;
    bool raw;
    char *system;             /* for the next new conversation; NULL = none */

    int64_t conversation;     /* 0 = new */
    int64_t undone;           /* what was first before undoing emptied the path; 0 = it did not */
    char *title, *model; /* model: last used for it, as stored */
    struct message *messages; /* the open path */
    int32_t n_message;

    struct stats_choice *choice; /* of the first ids of the answer `choice_of` */
    int32_t n_choice;
    int64_t choice_of; /* message; 0 = none */
    struct stats_agree *agree; /* of the first ids of the answer `agree_of` */
    int32_t n_agree;
    int64_t agree_of; /* message; 0 = none */

    bool running;
    bool verifying; /* what runs is no turn */
    bool answering;           /* the last message is the answer being generated */
    uint64_t turn;            /* the engine's number; 0 = it waits */
    double asked_s;          /* when it began to wait */
    bool taken_back;          /* it need not wait any longer */
    double flushed_s;        /* when the streaming answer was last given to the store */
    bool unflushed;
};

static void message_fini(struct message *m)
{
    str_fini(&m->text);
    free(m->ids);
}

static void path_clear(struct chat *c)
{
    for (int32_t i = 0; i < c->n_message; i++)
        message_fini(&c->messages[i]);
    free(c->messages);
    c->messages = NULL;
    c->n_message = 0;
}

static void add_ids(struct message *m, const int32_t *ids, int32_t n)
{
    m->ids = mem_realloc(m->ids, (size_t)(m->n_id + n) * sizeof *m->ids);
    if (n)
        memcpy(m->ids + m->n_id, ids, (size_t)n * sizeof *ids);
    m->n_id += n;
}

static struct message *path_add(struct chat *c, int64_t id, const char *role, const char *text,
                                size_t len)
{
    c->messages = mem_realloc(c->messages, (size_t)(c->n_message + 1) * sizeof *c->messages);
    struct message *m = &c->messages[c->n_message++];
    *m = (struct message){.id = id, .n_sibling = 1};
    snprintf(m->role, sizeof m->role, "%s", role);
    str_add(&m->text, text, len);
    return m;
}

/* Token ids of the first n messages, as far as they are known. */
static int32_t count_ids(const struct chat *c, int32_t n)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += c->messages[i].n_id;
    return sum;
}

/* What the model, and verifying, said of the tokens of an answer from an earlier session. */
static void load_choices(struct chat *c)
{
    struct sessions_turn *t;
    struct err ignored;
    int32_t n;
    c->n_choice = 0;
    c->choice_of = 0;
    if (sessions_turns(c->store, c->conversation, &t, &n, &ignored) != OK)
        return;
    const struct sessions_turn *last = n ? &t[n - 1] : NULL;
    if (last && last->choices && last->choices_bytes % sizeof *c->choice == 0) {
        c->choice = mem_realloc(c->choice, last->choices_bytes);
        memcpy(c->choice, last->choices, last->choices_bytes);
        c->n_choice = (int32_t)(last->choices_bytes / sizeof *c->choice);
        c->choice_of = last->message;
    }
    free(c->agree);
    c->agree = last ? figures_agree(last->figures, &c->n_agree) : NULL;
    c->agree_of = c->agree ? last->message : 0;
    sessions_turns_free(t, n);
}

/* Reads the open branch from the store: after anything that may have changed the tree. */
static enum status path_reload(struct chat *c, struct err *e)
{
    struct sessions_message *rows;
    int32_t n;
    TRY(sessions_path_load(c->store, c->conversation, &rows, &n, e));
    path_clear(c);
    for (int32_t i = 0; i < n; i++) {
        struct message *m = path_add(c, rows[i].id, rows[i].role, rows[i].text, rows[i].len);
        if (rows[i].ids)
            add_ids(m, rows[i].ids, rows[i].n_id);
        bool answer = !strcmp(rows[i].role, "assistant");
        m->cut = answer && (!rows[i].done || (rows[i].stop[0] && strcmp(rows[i].stop, "eos") != 0)) &&
                 !sessions_writing_elsewhere(c->store, m->id);
        m->ours = rows[i].ours;
        m->n_sibling = rows[i].n_sibling;
        m->sibling = rows[i].sibling;
    }
    sessions_messages_free(rows, n);
    if (c->n_message && c->messages[c->n_message - 1].id != c->choice_of)
        load_choices(c);
    return OK;
}

struct chat *chat_new(struct engine *en, struct sessions *store)
{
    struct chat *c = mem_calloc(1, sizeof *c);
    c->engine = en;
    c->store = store;
    if (store)
        sessions_set_vocab(store, engine_info(en)->fingerprint);
    c->n_predict = -1;
    c->title = mem_strdup("");
    c->model = mem_strdup("");
    engine_sampling_default(&c->sampling);
    return c;
}

static void flush_answer(struct chat *c)
{
    if (!c->answering || !c->unflushed)
        return;
    struct message *m = &c->messages[c->n_message - 1];
    sessions_stream(c->store, m->id, str_c(&m->text), m->text.len, m->ids, m->n_id);
    c->flushed_s = clock_s();
    c->unflushed = false;
}

static void end_turn(struct chat *c)
{
    c->running = c->answering = c->unflushed = c->taken_back = false;
    c->turn = 0;
}

/* Ends the turn on our side. The engine may still send events of it: they are recognised by their
 * number and dropped. */
static void abandon(struct chat *c)
{
    if (c->turn)
        engine_cancel(c->engine);
    if (c->answering) {
        struct message *m = &c->messages[c->n_message - 1];
        sessions_finish(c->store, m->id, str_c(&m->text), m->text.len, m->ids, m->n_id, "cancel");
    }
    end_turn(c);
}

void chat_free(struct chat *c)
{
    if (!c)
        return;
    abandon(c);
    path_clear(c);
    free(c->choice);
    free(c->agree);
    free(c->title);
    free(c->model);
    free(c->system);
    free(c);
}

void chat_set_like(struct chat *c, const struct chat *from)
{
    chat_set_sampling(c, &from->sampling, from->n_predict);
    chat_set_raw(c, from->raw);
    free(c->system);
    c->system = from->system ? mem_strdup(from->system) : NULL;
}

void chat_set_sampling(struct chat *c, const struct engine_sampling *s, int32_t n_predict)
{
    c->sampling = *s;
    c->n_predict = n_predict;
}

const struct engine_sampling *chat_sampling(const struct chat *c)
{
    return &c->sampling;
}

int32_t chat_predict(const struct chat *c)
{
    return c->n_predict;
}

void chat_set_raw(struct chat *c, bool raw)
{
    c->raw = raw;
}

const char *chat_system(const struct chat *c)
{
    if (c->n_message == 0)
        return c->system;
    return strcmp(c->messages[0].role, "system") == 0 ? str_c(&c->messages[0].text) : NULL;
}

int32_t chat_count(const struct chat *c)
{
    return c->n_message;
}

void chat_get(const struct chat *c, int32_t i, struct chat_message *ret)
{
    const struct message *m = &c->messages[i];
    bool last = i == c->n_message - 1;
    *ret = (struct chat_message){
        .id = m->id,
        .role = m->role,
        .text = str_c(&m->text),
        .len = m->text.len,
        .streaming = last && c->answering,
        .ours = m->ours || m->ids,
        .cut = m->cut && !(last && c->answering),
        .n_sibling = m->n_sibling,
        .sibling = m->sibling,
        .n_tok = m->ids ? m->n_id : -1,
    };
}

bool chat_answer(const struct chat *c, struct chat_answer *ret)
{
    const struct message *m = c->n_message ? &c->messages[c->n_message - 1] : NULL;
    if (!m || strcmp(m->role, "assistant") != 0 || !m->ids)
        return false;
    *ret = (struct chat_answer){
        .ids = m->ids, .n = m->n_id, .first = count_ids(c, c->n_message - 1)};
    if (m->id == c->choice_of) {
        ret->choice = c->choice;
        ret->n_choice = c->n_choice < m->n_id ? c->n_choice : m->n_id;
    }
    if (m->id == c->agree_of) {
        ret->agree = c->agree;
        ret->n_agree = c->n_agree < m->n_id ? c->n_agree : m->n_id;
    }
    return true;
}

int64_t chat_conversation(const struct chat *c)
{
    return c->conversation;
}

const char *chat_title(const struct chat *c)
{
    return c->title;
}

const char *chat_model(const struct chat *c)
{
    return c->model;
}

bool chat_running(const struct chat *c)
{
    return c->running;
}

bool chat_waiting(const struct chat *c)
{
    return c->running && !c->turn;
}

double chat_asked_s(const struct chat *c)
{
    return c->taken_back ? 0 : c->asked_s;
}

bool chat_verifying(const struct chat *c)
{
    return c->running && c->verifying;
}

static void set_title(struct chat *c, const char *title)
{
    free(c->title);
    c->title = mem_strdup(title);
}

static void set_model(struct chat *c, const char *name)
{
    free(c->model);
    c->model = mem_strdup(name);
}

void chat_start_new(struct chat *c)
{
    abandon(c);
    path_clear(c);
    c->conversation = c->undone = 0;
    set_title(c, "");
}

enum status chat_open(struct chat *c, int64_t conversation, struct err *e)
{
    struct sessions_row row;
    TRY(sessions_get(c->store, conversation, &row, e));
    abandon(c);
    int64_t before = c->conversation;
    c->conversation = conversation;
    enum status st = path_reload(c, e);
    if (st == OK) {
        set_title(c, row.title);
        set_model(c, row.model);
    } else {
        c->conversation = before;
    }
    if (c->conversation != before)
        c->undone = 0;
    free(row.title);
    free(row.model);
    free(row.snippet);
    return st;
}

enum status chat_refresh(struct chat *c, struct err *e)
{
    return c->running || c->conversation == 0 ? OK : chat_open(c, c->conversation, e);
}

/* Token ids of the path, as fed. A message whose ids are unknown either is covered by a later
 * message (the ids that came back for a group rendered together are kept with its last one), or
 * stands at the end and has to be rendered: *ret_first_new is the first of those. */
static int32_t *path_ids(const struct chat *c, int32_t *ret_n, int32_t *ret_first_new)
{
    int32_t n = count_ids(c, c->n_message), first_new = 0;
    for (int32_t i = 0; i < c->n_message; i++)
        if (c->messages[i].ids)
            first_new = i + 1;
    int32_t *ids = mem_alloc(((size_t)n + 1) * sizeof *ids);
    int32_t at = 0;
    for (int32_t i = 0; i < first_new; i++) {
        const struct message *m = &c->messages[i];
        if (m->n_id)
            memcpy(ids + at, m->ids, (size_t)m->n_id * sizeof *ids);
        at += m->n_id;
    }
    *ret_n = n;
    *ret_first_new = first_new;
    return ids;
}

int32_t *chat_ids(const struct chat *c, int32_t *ret_n)
{
    int32_t first_new;
    return path_ids(c, ret_n, &first_new);
}

/* Has the open path answered, or verified, as soon as the engine is free: chat_begin. */
static void ask(struct chat *c, bool verifying)
{
    c->running = true;
    c->verifying = verifying;
    c->asked_s = clock_s();
}

static enum status begin_verify(struct chat *c, struct err *e)
{
    int32_t n, first_new;
    int32_t *ids = path_ids(c, &n, &first_new);
    enum status st = engine_verify(c->engine, c->conversation, ids, n, &c->turn, e);
    free(ids);
    return st;
}

static enum status begin_turn(struct chat *c, struct err *e)
{
    const char *model = engine_info(c->engine)->name;
    int32_t n_prefix, first_new;
    if (strcmp(c->model, model) != 0) {
        TRY(sessions_set_model(c->store, c->conversation, model, e));
        set_model(c, model);
    }
    int32_t *prefix = path_ids(c, &n_prefix, &first_new);
    int32_t n_new = c->n_message - first_new;
    struct engine_message *news = mem_calloc((size_t)n_new, sizeof *news);
    for (int32_t i = 0; i < n_new; i++) {
        const struct message *m = &c->messages[first_new + i];
        news[i] = (struct engine_message){m->role, str_c(&m->text), m->text.len};
    }
    struct engine_turn t = {
        .timeline = c->conversation,
        .prefix = prefix,
        .n_prefix = n_prefix,
        .messages = news,
        .n_message = n_new,
        .raw = c->raw || !engine_info(c->engine)->chat_format[0],
        .sampling = c->sampling,
        .n_predict = c->n_predict,
    };
    struct message *last = &c->messages[c->n_message - 1];
    bool more = strcmp(last->role, "assistant") == 0; /* chat_continue */
    enum status st = more && !sessions_writing_begin(c->store, last->id)
                         ? err_set(e, ERR_USAGE, "another window is writing this answer")
                         : engine_submit(c->engine, &t, &c->turn, e);
    free(news);
    free(prefix);
    if (st != OK && more)
        sessions_writing_end(c->store, last->id);
    if (st == OK && more) {
        c->answering = true;
        c->flushed_s = clock_s();
        if (c->choice_of != last->id) {
            c->choice_of = last->id;
            c->n_choice = 0;
        }
    }
    return st;
}

/* First line of the first question, cut at a word. */
static void make_title(struct chat *c, const char *text, size_t len)
{
    while (len && strchr(" \t\r\n", *text)) {
        text++;
        len--;
    }
    size_t n = 0;
    while (n < len && n < TITLE_BYTES && text[n] != '\n' && text[n] != '\r')
        n++;
    bool shortened = n < len && text[n] != '\n' && text[n] != '\r';
    n = utf8_complete(text, n);
    if (shortened)
        for (size_t k = n; k > TITLE_BYTES / 2; k--)
            if (text[k - 1] == ' ') {
                n = k - 1;
                break;
            }
    struct str s = {0};
    str_add(&s, text, n);
    if (shortened)
        str_adds(&s, "…");
    struct err ignored; /* a missing title is no reason to fail a turn */
    if (sessions_rename(c->store, c->conversation, str_c(&s), &ignored) == OK)
        set_title(c, str_c(&s));
    str_fini(&s);
}

static enum status refuse_busy(const struct chat *c, struct err *e)
{
    if (c->running)
        return err_set(e, ERR_BUSY, "still answering; wait, or stop it with Ctrl+C");
    return OK;
}

/* A question after the first n messages. What cannot fit, whatever the model's format adds, is
 * refused before it is stored: the conversation could not go on behind it. */
static enum status check_question(struct chat *c, int32_t n, const char *text, size_t len,
                                  struct err *e)
{
    int32_t n_ctx = engine_info(c->engine)->n_ctx, before = count_ids(c, n), n_tok, *ids;
    TRY(refuse_busy(c, e));
    if (!utf8_valid(text, len))
        return err_set(e, ERR_USAGE, "the message is not valid UTF-8");
    if (strspn(text, " \t\r\n") == len)
        return err_set(e, ERR_USAGE, "the message is empty; write something");
    if (n_ctx <= 0 || len < (size_t)n_ctx - (size_t)(before < n_ctx ? before : n_ctx))
        return OK; /* no token is shorter than a byte */
    TRY(engine_tokenize(c->engine, text, len, false, false, &ids, &n_tok, e));
    free(ids);
    char now[32], were[32], most[32];
    return before + n_tok < n_ctx
               ? OK
               : err_set(e, ERR_USAGE,
                         "the message has %s tokens and the conversation %s, but the context holds "
                         "%s; shorten it, raise -c, or go on after /compact",
                         err_count_text((uint64_t)n_tok, now), err_count_text((uint64_t)before, were),
                         err_count_text((uint64_t)n_ctx, most));
}

enum status chat_send(struct chat *c, const char *text, size_t len, struct err *e)
{
    TRY(check_question(c, c->n_message, text, len, e));
    int64_t parent = c->n_message ? c->messages[c->n_message - 1].id : 0, id[2] = {0};
    const char *model = engine_info(c->engine)->name, *system = parent ? NULL : c->system;
    if (c->conversation == 0) {
        TRY(sessions_begin(c->store, model, system, text, len, &c->conversation, id, e));
        set_model(c, model);
    } else {
        if (system)
            TRY(sessions_add(c->store, c->conversation, 0, "system", system, strlen(system), &id[0], e));
        TRY(sessions_add(c->store, c->conversation, system ? id[0] : parent, "user", text, len, &id[1], e));
    }
    if (system)
        path_add(c, id[0], "system", system, strlen(system));
    path_add(c, id[1], "user", text, len);
    if (!c->title[0])
        make_title(c, text, len);
    ask(c, false);
    return OK;
}

enum status chat_add_branch(struct sessions *store, int64_t conversation, const char *system,
                            const struct chat_message *messages, int32_t n, struct err *e)
{
    int64_t parent = 0, id;
    if (*system)
        TRY(sessions_add(store, conversation, 0, "system", system, strlen(system), &parent, e));
    for (int32_t i = 0; i < n; i++, parent = id) {
        const struct chat_message *m = &messages[i];
        TRY(sessions_add(store, conversation, parent, m->role, m->text, m->len, &id, e));
        if (strcmp(m->role, "assistant") != 0)
            continue;
        sessions_finish(store, id, m->text, m->len, NULL, 0, "eos");
        if (m->ours) /* and stays, though the ids of the copy are to be found anew */
            sessions_set_ids(store, id, NULL, 0);
    }
    return OK;
}

/* The open conversation on a branch with another system prompt. */
static enum status change_system(struct chat *c, const char *text, struct err *e)
{
    const char *now = chat_system(c);
    int32_t first = now != NULL, n = c->n_message - first;
    TRY(refuse_busy(c, e));
    if (strcmp(now ? now : "", text) == 0)
        return OK;
    if (n == 0 && !*text) { /* its questions were taken back: before the first message again */
        TRY(sessions_set_leaf(c->store, c->conversation, 0, true, e));
        return path_reload(c, e);
    }
    struct chat_message *rest = mem_calloc((size_t)n + 1, sizeof *rest);
    for (int32_t i = 0; i < n; i++)
        chat_get(c, first + i, &rest[i]);
    enum status st = chat_add_branch(c->store, c->conversation, text, rest, n, e);
    free(rest);
    if (st == OK)
        return path_reload(c, e);
    struct err ignored; /* half a branch stays beside the whole one */
    sessions_set_leaf(c->store, c->conversation, c->messages[c->n_message - 1].id, true, &ignored);
    return st;
}

enum status chat_set_system(struct chat *c, const char *text, struct err *e)
{
    if (c->n_message > 0)
        TRY(change_system(c, text, e));
    if (c->n_message > 0)
        return OK;
    free(c->system);
    c->system = *text ? mem_strdup(text) : NULL;
    return OK;
}

void chat_cancel(struct chat *c)
{
    if (c->turn)
        engine_cancel(c->engine);
    else
        c->taken_back = c->running;
}

enum status chat_regenerate(struct chat *c, struct err *e)
{
    TRY(refuse_busy(c, e));
    int32_t n = c->n_message;
    while (n > 0 && !strcmp(c->messages[n - 1].role, "assistant"))
        n--;
    if (n == 0)
        return err_set(e, ERR_USAGE, "there is no question to answer yet");
    TRY(sessions_set_leaf(c->store, c->conversation, c->messages[n - 1].id, true, e));
    TRY(path_reload(c, e));
    ask(c, false);
    return OK;
}

enum status chat_continue(struct chat *c, struct err *e)
{
    TRY(refuse_busy(c, e));
    if (c->n_message > 0) /* what another window wrote meanwhile */
        TRY(path_reload(c, e));
    struct message *m = c->n_message ? &c->messages[c->n_message - 1] : NULL;
    if (m && strcmp(m->role, "user") == 0)
        return err_set(e, ERR_USAGE, "this message has no answer yet; /regen has it answered");
    if (m && sessions_writing_elsewhere(c->store, m->id))
        return err_set(e, ERR_USAGE, "another window is writing this answer");
    if (!m || strcmp(m->role, "assistant") != 0 || !m->cut)
        return err_set(e, ERR_USAGE, "no answer was cut here; send a message to go on");
    if (!m->ids) /* read by another model, or never */
        return err_set(e, ERR_USAGE, "this model did not write that answer; /regen answers anew");
    if (count_ids(c, c->n_message) >= engine_info(c->engine)->n_ctx)
        return err_set(e, ERR_USAGE, "the context is full; /compact goes on with a summary, -c makes room");
    ask(c, false);
    return OK;
}

enum status chat_edit(struct chat *c, int32_t i, const char *text, size_t len, struct err *e)
{
    if (i < 0 || i >= c->n_message || strcmp(c->messages[i].role, "user"))
        return err_set(e, ERR_USAGE, "only your own messages can be edited");
    TRY(check_question(c, i, text, len, e));
    int64_t parent = i ? c->messages[i - 1].id : 0;
    int64_t id;
    TRY(sessions_add(c->store, c->conversation, parent, "user", text, len, &id, e));
    TRY(path_reload(c, e));
    ask(c, false);
    return OK;
}

enum status chat_undo(struct chat *c, struct err *e)
{
    TRY(refuse_busy(c, e));
    int32_t n = c->n_message;
    while (n > 0 && strcmp(c->messages[n - 1].role, "user"))
        n--;
    if (n == 0)
        return err_set(e, ERR_USAGE, "there is nothing to undo");
    int64_t leaf = n > 1 ? c->messages[n - 2].id : 0;
    TRY(sessions_set_leaf(c->store, c->conversation, leaf, true, e));
    c->undone = leaf ? 0 : c->messages[0].id;
    return path_reload(c, e);
}

enum status chat_redo(struct chat *c, struct err *e)
{
    TRY(refuse_busy(c, e));
    int32_t before = c->n_message, end = before + 1;
    int64_t from = before ? c->messages[before - 1].id : c->undone;
    if (from) {
        TRY(sessions_set_leaf(c->store, c->conversation, from, false, e));
        TRY(path_reload(c, e));
    }
    if (c->n_message <= before)
        return err_set(e, ERR_USAGE, "nothing was undone here; /undo takes a question back");
    while (end < c->n_message && strcmp(c->messages[end].role, "user"))
        end++;
    if (end == c->n_message)
        return OK;
    /* One question at a time, as undo took them. */
    TRY(sessions_set_leaf(c->store, c->conversation, c->messages[end - 1].id, true, e));
    return path_reload(c, e);
}

enum status chat_sibling(struct chat *c, int32_t i, int32_t step, struct err *e)
{
    TRY(refuse_busy(c, e));
    if (i < 0 || i >= c->n_message)
        return err_set(e, ERR_USAGE, "there is no message %d", i);
    int64_t other;
    TRY(sessions_sibling(c->store, c->conversation, c->messages[i].id, step, &other, e));
    if (other == 0)
        return err_set(e, ERR_USAGE, "there is no other branch on that side");
    TRY(sessions_set_leaf(c->store, c->conversation, other, false, e));
    return path_reload(c, e);
}

enum status chat_fork(struct chat *c, int32_t i, int64_t *ret_conversation, struct err *e)
{
    TRY(refuse_busy(c, e));
    if (i < 0 || i >= c->n_message)
        return err_set(e, ERR_USAGE, "there is no message to fork at");
    return sessions_fork(c->store, c->conversation, c->messages[i].id, ret_conversation, e);
}

enum status chat_rename(struct chat *c, const char *title, struct err *e)
{
    if (c->conversation == 0)
        return err_set(e, ERR_USAGE, "an empty conversation has no title yet; send a message first");
    TRY(sessions_rename(c->store, c->conversation, title, e));
    set_title(c, title);
    return OK;
}

int32_t chat_n_tok(const struct chat *c)
{
    return count_ids(c, c->n_message);
}

enum status chat_verify(struct chat *c, struct err *e)
{
    TRY(refuse_busy(c, e));
    ask(c, true);
    return OK;
}

/* The answer's row is made with its first token, so that a crash during prefill leaves the
 * question last, ready to be answered again. */
static enum status begin_answer(struct chat *c, struct err *e)
{
    int64_t id;
    TRY(sessions_add(c->store, c->conversation, c->messages[c->n_message - 1].id, "assistant", "", 0,
                     &id, e));
    path_add(c, id, "assistant", "", 0);
    c->n_choice = 0;
    c->choice_of = id;
    c->answering = true;
    c->flushed_s = clock_s();
    return OK;
}

static enum status take_tokens(struct chat *c, const struct engine_event *ev, struct err *e)
{
    if (!c->answering)
        TRY(begin_answer(c, e));
    struct message *m = &c->messages[c->n_message - 1];
    str_add(&m->text, ev->text ? ev->text : "", ev->len);
    if (ev->choice && c->n_choice == m->n_id) {
        size_t n = (size_t)(c->n_choice + ev->n_id);
        c->choice = mem_realloc(c->choice, (n + 1) * sizeof *c->choice);
        memcpy(c->choice + c->n_choice, ev->choice, (size_t)ev->n_id * sizeof *c->choice);
        c->n_choice = (int32_t)n;
    }
    add_ids(m, ev->ids, ev->n_id);
    c->unflushed = true;
    if (clock_s() - c->flushed_s >= FLUSH_S)
        flush_answer(c);
    return OK;
}

/* The figures of the turn stay with its answer. One that failed early left those of another chat. */
static void keep_figures(struct chat *c, int64_t message, const struct stats *s)
{
    if (s->timeline != c->conversation)
        return;
    char *text = figures_text(s, c->agree, message == c->agree_of ? c->n_agree : 0);
    size_t n = message == c->choice_of ? (size_t)c->n_choice : 0;
    sessions_turn_put(c->store, message, text, c->choice, n * sizeof *c->choice);
    free(text);
}

static void finish_answer(struct chat *c, const char *stop, const struct stats *s)
{
    if (c->answering) {
        struct message *m = &c->messages[c->n_message - 1];
        sessions_finish(c->store, m->id, str_c(&m->text), m->text.len, m->ids, m->n_id, stop);
        keep_figures(c, m->id, s);
        m->cut = strcmp(stop, "eos") != 0;
        /* sibling counts may have changed */
        struct err ignored;
        path_reload(c, &ignored);
    }
    end_turn(c);
}

/* Keeps what verifying found of the last answer's tokens; of the rest its figures tell. */
static void take_agreement(struct chat *c, const struct engine_event *ev)
{
    const struct message *last = &c->messages[c->n_message - 1];
    int32_t first = count_ids(c, c->n_message - 1);
    free(c->agree);
    c->agree = NULL;
    c->agree_of = 0;
    if (strcmp(last->role, "assistant") != 0)
        return;
    int32_t n = ev->fidelity.n - first + 1; /* a token is chosen at the position before it */
    n = n < last->n_id ? n : last->n_id;
    if (ev->agree && first > 0 && n > 0) {
        c->agree = mem_alloc((size_t)n * sizeof *c->agree);
        memcpy(c->agree, ev->agree + first - 1, (size_t)n * sizeof *c->agree);
        c->n_agree = n;
        c->agree_of = last->id;
    }
    keep_figures(c, last->id, ev->stats);
}

/* The event without what it owns. */
static struct engine_event figures_of(const struct engine_event *ev)
{
    struct engine_event copy = *ev;
    copy.text = NULL;
    copy.ids = NULL;
    copy.choice = NULL;
    copy.agree = NULL;
    copy.stats = NULL;
    return copy;
}

/* The answer cannot be stored: stop rather than show text that will be lost. What the engine still
 * sends of it is dropped, so that no answer is stored without its beginning. */
static void give_up(struct chat *c, const struct err *why, struct chat_event *ret)
{
    abandon(c);
    ret->kind = CHAT_EV_FAILED;
    ret->err = *why;
}

/* Turns one engine event into at most one chat event; false when there is nothing to tell. */
static bool translate(struct chat *c, struct engine_event *ev, struct chat_event *ret)
{
    struct err e;
    *ret = (struct chat_event){.kind = CHAT_EV_CHANGED};
    switch (ev->kind) {
    case ENGINE_EV_PROMPT: {
        struct message *m = &c->messages[c->n_message - 1];
        if (ev->n_id > 0 && !m->ids) {
            add_ids(m, ev->ids, ev->n_id);
            sessions_set_ids(c->store, m->id, m->ids, m->n_id);
        }
        return true;
    }
    case ENGINE_EV_PREFILL:
        return true;
    case ENGINE_EV_TOKEN:
        if (take_tokens(c, ev, &e) != OK)
            give_up(c, &e, ret);
        return true;
    case ENGINE_EV_NOTICE:
        ret->kind = CHAT_EV_NOTICE;
        snprintf(ret->text, sizeof ret->text, "%s", ev->text ? ev->text : "");
        return true;
    case ENGINE_EV_DONE:
        if ((ev->n_id > 0 || ev->len > 0) && take_tokens(c, ev, &e) != OK) {
            give_up(c, &e, ret);
            return true;
        }
        finish_answer(c, engine_stop_name(ev->stop), ev->stats);
        ret->kind = CHAT_EV_DONE;
        ret->done = figures_of(ev);
        return true;
    case ENGINE_EV_FAILED:
        finish_answer(c, "failed", ev->stats);
        ret->kind = CHAT_EV_FAILED;
        ret->err = ev->err;
        return true;
    case ENGINE_EV_VERIFY:
    case ENGINE_EV_VERIFIED:
        ret->kind = ev->kind == ENGINE_EV_VERIFY ? CHAT_EV_VERIFY : CHAT_EV_VERIFIED;
        ret->done = figures_of(ev);
        if (ev->kind == ENGINE_EV_VERIFIED) {
            end_turn(c);
            take_agreement(c, ev);
        }
        return true;
    }
    return false;
}

bool chat_take(struct chat *c, struct engine_event *ev, struct chat_event *ret)
{
    return c->turn && ev->turn == c->turn && translate(c, ev, ret);
}

bool chat_begin(struct chat *c, struct chat_event *ret)
{
    if (!chat_waiting(c) || (!c->taken_back && engine_busy(c->engine)))
        return false;
    *ret = (struct chat_event){.kind = CHAT_EV_FAILED};
    if (c->taken_back) {
        ret->kind = c->verifying ? CHAT_EV_VERIFIED : CHAT_EV_DONE;
        ret->done.stop = ENGINE_STOP_CANCEL;
    } else if ((c->verifying ? begin_verify : begin_turn)(c, &ret->err) == OK) {
        return false;
    }
    end_turn(c);
    return true;
}

void chat_flush(struct chat *c)
{
    if (c->unflushed && clock_s() - c->flushed_s >= FLUSH_S)
        flush_answer(c);
}

bool chat_next(struct chat *c, int timeout_ms, struct chat_event *ret)
{
    if (chat_begin(c, ret))
        return true;
    struct engine_event *ev = engine_wait(c->engine, timeout_ms);
    bool told = ev && chat_take(c, ev, ret);
    engine_event_free(ev);
    chat_flush(c);
    struct err trouble;
    if (!ev && sessions_trouble(c->store, &trouble)) {
        *ret = (struct chat_event){.kind = CHAT_EV_NOTICE};
        snprintf(ret->text, sizeof ret->text, "%s", trouble.text);
        return true;
    }
    return told;
}
