/* `dogear ask`: one turn. stdout carries the answer and nothing else, with --raw the whole
 * text. What the model thought before it is told on a terminal (stderr) only. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/chat.h"
#include "app/cli.h"
#include "engine/base/json.h"
#include "engine/base/str.h"
#include "engine/base/thought.h"
#include "engine/base/utf8.h"
#include "sessions/sessions.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* source: NULL = the command line, "-" = standard input, or a file. */
static enum status check_utf8(const char *source, const char *text, size_t len, struct err *e)
{
    size_t at = utf8_valid_len(text, len);
    if (at == len)
        return OK;
    return err_set(e, ERR_USAGE, "%s: byte %zu (0x%02X) is not UTF-8; convert it, for example with iconv -f latin1",
                   !source ? "the prompt" : strcmp(source, "-") ? source : "standard input", at + 1,
                   (unsigned char)text[at]);
}

/* -p, -f, the words and standard input, in this order, those that are given. */
static enum status gather(const struct options *o, struct str *prompt, struct err *e)
{
    if (o->prompt)
        str_adds(prompt, o->prompt);
    for (int i = 0; i < o->n_word; i++)
        str_addf(prompt, "%s%s", prompt->len ? " " : "", o->words[i]);
    TRY(check_utf8(NULL, str_c(prompt), prompt->len, e));
    const char *sources[2] = {o->file, isatty(STDIN_FILENO) ? NULL : "-"};
    for (int i = 0; i < 2; i++) {
        if (!sources[i])
            continue;
        char *text;
        size_t len;
        TRY(cli_read(sources[i], &text, &len, e));
        enum status st = check_utf8(sources[i], text, len, e);
        if (st != OK) {
            free(text);
            return st;
        }
        /* the newline that echo adds is not part of what was said */
        if (len && text[len - 1] == '\n')
            len--;
        if (len) {
            if (prompt->len)
                str_adds(prompt, "\n\n");
            str_add(prompt, text, len);
        }
        free(text);
    }
    if (prompt->len == 0 && !o->resume)
        return err_set(e, ERR_USAGE, "nothing to ask: give a prompt, -p, -f or standard input");
    return OK;
}

/* A text that is only continued has no thoughts. */
static bool continues(const struct options *o, struct engine *en)
{
    return o->raw || !engine_info(en)->chat_format[0];
}

/* The answer so far and where it and its thoughts are; false = it has not begun. */
static bool find_answer(const struct chat *c, bool plain, struct chat_message *ret,
                        struct thought *ret_thought)
{
    *ret = (struct chat_message){.text = ""};
    *ret_thought = (struct thought){0};
    if (chat_count(c) > 0)
        chat_get(c, chat_count(c) - 1, ret);
    if (!ret->role || strcmp(ret->role, "assistant"))
        return false;
    if (!plain)
        thought_split(ret->text, ret->len, ret->streaming, ret_thought);
    return true;
}

static void print_json(const struct chat *c, const struct options *o, struct engine *en,
                       const struct engine_event *d)
{
    struct chat_message m;
    struct thought t;
    bool answered = find_answer(c, continues(o, en), &m, &t);
    const struct engine_info *info = engine_info(en);
    json_t *j = json_object();
    json_object_set_new(j, "answer",
                        answered ? json_text(m.text + t.rest, m.len - t.rest) : json_string(""));
    json_object_set_new(j, "thinking", t.any ? json_text(m.text + t.off, t.len) : json_null());
    json_object_set_new(j, "conversation", o->no_save ? json_null() : json_count(chat_conversation(c)));
    json_object_set_new(j, "model", json_string(info->name));
    json_object_set_new(j, "kv", json_string(info->kv));
    json_object_set_new(j, "tokens_reused", json_count(d->n_reused));
    json_object_set_new(j, "tokens_read", json_count(d->n_read));
    json_object_set_new(j, "tokens_generated", json_count(d->n_generated));
    json_object_set_new(j, "ttft_ms", json_number(d->ttft_ms));
    json_object_set_new(j, "prefill_tps", json_number(d->prefill_tps));
    json_object_set_new(j, "decode_tps", json_number(d->decode_tps));
    json_object_set_new(j, "kv_bytes", json_count(d->kv_bytes));
    json_object_set_new(j, "f16_bytes", json_count(d->f16_bytes));
    json_object_set_new(j, "density", json_number(d->density));
    json_object_set_new(j, "retained_mass", json_number(d->retained_mass));
    json_object_set_new(j, "stop", json_string(engine_stop_name(d->stop)));
    json_object_set_new(j, "seed", json_integer((json_int_t)d->seed));
    json_print(j);
}

/* How much of an answer and of its thoughts was printed. */
struct shown {
    size_t answer, thought;
};

/* Prints what the answer grew by, its thoughts only where a person sees them. */
static void print_growth(const struct chat *c, bool plain, struct shown *shown)
{
    struct chat_message m;
    struct thought t;
    if (!find_answer(c, plain, &m, &t))
        return;
    if (t.len > shown->thought) {
        if (isatty(STDERR_FILENO)) {
            fputs(shown->thought ? "" : "thinking: ", stderr);
            cli_write_safe(stderr, m.text + t.off + shown->thought, t.len - shown->thought);
        }
        shown->thought = t.len;
    }
    const char *answer = m.text + t.rest;
    size_t n = m.len - t.rest;
    if (n <= shown->answer)
        return;
    if (shown->answer == 0 && shown->thought && isatty(STDERR_FILENO))
        fputs("\n\n", stderr);
    cli_print(answer + shown->answer, n - shown->answer);
    fflush(stdout); /* what fails is told in the end */
    shown->answer = n;
}

/* Without a prompt: the last question, when a crash, a cancel or a limit came before the end of its
 * answer. */
static enum status begin(struct chat *c, const struct str *prompt, struct err *e)
{
    struct chat_message m;
    if (prompt->len)
        return chat_send(c, str_c(prompt), prompt->len, e);
    if (chat_count(c) > 0) {
        chat_get(c, chat_count(c) - 1, &m);
        if (m.cut || !strcmp(m.role, "user"))
            return chat_regenerate(c, e);
    }
    return err_set(e, ERR_USAGE, "nothing to ask: no question was left without its answer; give a "
                                 "prompt, -p, -f or standard input");
}

/* A question that was refused stays nowhere: what was asked after it would be refused, too. */
static void take_back(struct chat *c, bool begun, struct sessions *store)
{
    struct err ignored;
    struct chat_message m;
    chat_get(c, chat_count(c) - 1, &m);
    if (strcmp(m.role, "user") != 0)
        return;
    if (begun)
        chat_undo(c, &ignored);
    else
        sessions_delete(store, chat_conversation(c), &ignored);
}

static int converse(struct chat *c, const struct options *o, struct engine *en, struct sessions *store,
                    const struct str *prompt)
{
    struct err e;
    bool plain = continues(o, en), begun = chat_conversation(c) != 0;
    if (begin(c, prompt, &e) != OK)
        return cli_fail(&e);
    /* a continued text is shown whole, like the peers' completion tools do */
    if (plain && !o->json) {
        cli_print(str_c(prompt), prompt->len);
        fflush(stdout);
    }
    struct shown shown = {0};
    bool stopping = false;
    for (;;) {
        struct chat_event ev;
        bool got = chat_next(c, 200, &ev);
        if ((interrupted || ferror(stdout)) && !stopping) { /* or nobody reads on */
            chat_cancel(c);
            stopping = true;
        }
        if (!got)
            continue;
        if (!o->json && !ferror(stdout))
            print_growth(c, plain, &shown);
        switch (ev.kind) {
        case CHAT_EV_CHANGED:
        case CHAT_EV_VERIFY:
        case CHAT_EV_VERIFIED:
            break;
        case CHAT_EV_NOTICE:
            fprintf(stderr, "dogear: %s\n", ev.text);
            break;
        case CHAT_EV_FAILED:
            if (!o->json && (shown.answer || shown.thought))
                putchar('\n');
            if (ev.err.code == ERR_USAGE && prompt->len)
                take_back(c, begun, store);
            return cli_fail(&ev.err);
        case CHAT_EV_DONE:
            if (o->json)
                print_json(c, o, en, &ev.done);
            else
                putchar('\n');
            if (shown.thought && !shown.answer && isatty(STDERR_FILENO))
                fputc('\n', stderr);
            return ferror(stdout) ? 1 : stopping ? 130 : 0;
        }
    }
}

int cmd_ask(struct options *o)
{
    struct err e;
    struct str prompt = {0};
    struct engine *en = NULL;
    struct sessions *store = NULL;
    struct chat *c = NULL;
    int rc = 1;
    if (gather(o, &prompt, &e) != OK || cli_store(o, &store, &e) != OK ||
        cli_engine(o, false, sessions_kv_io(store), NULL, &en, &e) != OK) {
        rc = cli_fail(&e);
        goto out;
    }
    if (engine_info(en)->notice[0])
        fprintf(stderr, "dogear: %s\n", engine_info(en)->notice);
    struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);

    c = chat_new(en, store);
    chat_set_sampling(c, &o->sampling, o->n_predict);
    chat_set_raw(c, o->raw);
    if (o->resume) {
        int64_t id = o->resume_id;
        struct sessions_row *rows = NULL;
        int32_t n = 0;
        enum status st = id ? OK : sessions_list(store, 1, &rows, &n, &e);
        if (n == 1)
            id = rows[0].id;
        sessions_rows_free(rows, n);
        if (st != OK || (id && chat_open(c, id, &e) != OK)) {
            rc = cli_fail(&e);
            goto out;
        }
    }
    if (o->system && (o->system_asked || chat_count(c) == 0) && chat_set_system(c, o->system, &e) != OK) {
        rc = cli_fail(&e);
        goto out;
    }
    rc = converse(c, o, en, store, &prompt);
out:
    chat_free(c);
    engine_close(en);
    str_fini(&prompt);
    return cli_store_close(store, rc);
}
