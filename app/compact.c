#include "app/compact.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/thought.h"
#include "sessions/sessions.h"

/* The summary gets an eighth of the context; the question takes up to so many tokens more. */
enum { SUMMARY_PART = 8, QUESTION_TOK = 128, KEPT_PART = 4 };

static const char question[] =
    "Summarise our conversation so far, in its language, so that we can go on with your summary in its "
    "place. Keep names, numbers, facts, decisions, what I asked you to do or to avoid, and what is still "
    "open. Answer with the summary alone.";
/* Begins the summary's part of the system prompt, and tells an earlier one. */
static const char heading[] = "Summary of the conversation before this point:";

/* Before the title, where lists that are narrow show it. */
static const char mark[] = "Compacted: ";

struct compact {
    struct chat *chat;
    struct sessions *store;
    int64_t from, fork; /* the conversation, and its fork in which the summary is written */
    int32_t n_predict; /* as it was set */
    int32_t n_message;
    char *title;
    char *system; /* without an earlier summary; "" = none */
    struct chat_message *kept; /* role, text, len and whose; we own the texts */
    int32_t n_kept;
};

static void compact_free(struct compact *co)
{
    for (int32_t i = 0; i < co->n_kept; i++)
        free((char *)co->kept[i].text);
    free(co->kept);
    free(co->title);
    free(co->system);
    free(co);
}

/* Tokens of each message. Those of messages that were rendered together stand with the last of them;
 * what was never read is taken to have a token for every two bytes. malloc'ed. */
static int32_t *count_tokens(const struct chat *chat, int32_t *ret_all)
{
    int32_t n = chat_count(chat);
    int32_t *tok = mem_calloc((size_t)n + 1, sizeof *tok);
    bool known = false;
    *ret_all = 0;
    for (int32_t i = n - 1; i >= 0; i--) {
        struct chat_message m;
        chat_get(chat, i, &m);
        known = known || m.n_tok >= 0;
        tok[i] = m.n_tok >= 0 ? m.n_tok : known ? 0 : (int32_t)(m.len / 2) + 8;
        *ret_all += tok[i];
    }
    return tok;
}

static bool is_user(const struct chat *chat, int32_t i)
{
    struct chat_message m;
    chat_get(chat, i, &m);
    return strcmp(m.role, "user") == 0;
}

/* The first message that is kept as it is; 0 = there is none that could be. */
static int32_t first_kept(const struct chat *chat, int32_t n_ctx)
{
    int32_t first = 0, n = chat_count(chat), all, best = 0;
    int32_t *tok = count_tokens(chat, &all);
    int32_t most = n_ctx / KEPT_PART < all / 2 ? n_ctx / KEPT_PART : all / 2;
    while (first < n && !is_user(chat, first))
        first++;
    for (int32_t i = n - 1, before = all; i > first; i--) {
        before -= tok[i];
        bool room = before + QUESTION_TOK + n_ctx / SUMMARY_PART <= n_ctx;
        if (!is_user(chat, i) || !room)
            continue;
        if (all - before > (best ? most : n_ctx / 2)) /* half: nothing much would be won beyond */
            break;
        best = i;
    }
    free(tok);
    return best;
}

static void keep(struct compact *co, int32_t first)
{
    struct chat_message m;
    int32_t n = chat_count(co->chat);
    chat_get(co->chat, 0, &m);
    co->system = mem_strdup(strcmp(m.role, "system") == 0 ? m.text : "");
    char *earlier = strstr(co->system, heading);
    if (earlier)
        *earlier = '\0';
    co->kept = mem_calloc((size_t)(n - first), sizeof *co->kept);
    for (int32_t i = first; i < n; i++) {
        chat_get(co->chat, i, &m);
        co->kept[co->n_kept++] = (struct chat_message){
            .role = strcmp(m.role, "user") == 0 ? "user" : "assistant", .text = mem_strndup(m.text, m.len),
            .len = m.len, .ours = m.ours};
    }
}

enum status compact_begin(struct chat *chat, struct sessions *store, int32_t n_ctx, struct compact **ret,
                          struct err *e)
{
    int32_t first = chat_running(chat) ? 0 : first_kept(chat, n_ctx);
    if (chat_running(chat))
        return err_set(e, ERR_BUSY, "still answering; wait, or stop it with Ctrl+C");
    if (first == 0)
        return err_set(e, ERR_USAGE,
                       "nothing to summarise: there must be an exchange before the last one, and the last "
                       "ones must leave half of the context free");
    struct compact *co = mem_calloc(1, sizeof *co);
    *co = (struct compact){.chat = chat, .store = store, .from = chat_conversation(chat),
                           .n_predict = chat_predict(chat), .n_message = first};
    co->title = mem_strdup(chat_title(chat));
    keep(co, first);
    enum status st = chat_fork(chat, first - 1, &co->fork, e);
    if (st != OK) {
        compact_free(co);
        return st;
    }
    st = chat_open(chat, co->fork, e);
    if (st == OK) {
        chat_set_sampling(chat, chat_sampling(chat), n_ctx / SUMMARY_PART);
        st = chat_send(chat, question, strlen(question), e);
    }
    if (st != OK) {
        compact_drop(co);
        return st;
    }
    *ret = co;
    return OK;
}

bool compact_is_question(const struct chat_message *m)
{
    return m->len == sizeof question - 1 && strcmp(m->role, "user") == 0 && memcmp(m->text, question, m->len) == 0;
}

int32_t compact_n_message(const struct compact *co)
{
    return co->n_message;
}

void compact_drop(struct compact *co)
{
    struct err ignored; /* a fork too many is no loss */
    if (!co)
        return;
    chat_set_sampling(co->chat, chat_sampling(co->chat), co->n_predict);
    if (chat_conversation(co->chat) != co->fork || chat_open(co->chat, co->from, &ignored) == OK)
        sessions_delete(co->store, co->fork, &ignored);
    compact_free(co);
}

/* The conversation that begins with the summary. */
static enum status write_new(struct compact *co, int64_t to, const char *summary, size_t len, struct err *e)
{
    struct str s = {0}, title = {0};
    size_t n = strlen(co->system);
    while (n > 0 && co->system[n - 1] == '\n')
        n--;
    str_add(&s, co->system, n);
    str_addf(&s, "%s%s\n", n ? "\n\n" : "", heading);
    str_add(&s, summary, len);
    str_addf(&title, "%s%s", strncmp(co->title, mark, strlen(mark)) ? mark : "", co->title);
    enum status st = chat_add_branch(co->store, to, str_c(&s), co->kept, co->n_kept, e);
    if (st == OK)
        st = sessions_rename(co->store, to, str_c(&title), e);
    str_fini(&s);
    str_fini(&title);
    return st == OK ? chat_open(co->chat, to, e) : st;
}

static enum status write_all(struct compact *co, struct err *e)
{
    struct chat_message m;
    struct thought t;
    struct err ignored;
    int64_t to;
    chat_get(co->chat, chat_count(co->chat) - 1, &m);
    thought_split(m.text, m.len, false, &t);
    const char *summary = m.text + t.rest;
    size_t n = m.len - t.rest;
    for (; n > 0 && strchr(" \t\r\n", *summary); n--)
        summary++;
    while (n > 0 && strchr(" \t\r\n", summary[n - 1]))
        n--;
    if (strcmp(m.role, "assistant") != 0 || n == 0)
        return err_set(e, ERR_USAGE, "the model wrote no summary; try /compact again");
    TRY(sessions_create(co->store, chat_model(co->chat), &to, e));
    enum status st = write_new(co, to, summary, n, e);
    sessions_delete(co->store, st == OK ? co->fork : to, &ignored);
    return st;
}

enum status compact_end(struct compact *co, bool well, int64_t *ret_from, struct err *e)
{
    *ret_from = co->from;
    enum status st = well ? write_all(co, e) : err_set(e, ERR_CANCELLED, "no summary: the conversation is as it was");
    if (st != OK) {
        compact_drop(co);
        return st;
    }
    chat_set_sampling(co->chat, chat_sampling(co->chat), co->n_predict);
    compact_free(co);
    return OK;
}
