/* Commands on saved conversations: they need the store only, no model. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/export.h"
#include "engine/base/json.h"
#include "engine/base/str.h"
#include "engine/base/thought.h"
#include "engine/stats.h"
#include "sessions/sessions.h"
#include "ui/format.h"

/* Runs a command on the store that `open` opens. */
static int with_opened(const struct options *o,
                       enum status (*open)(const struct options *, struct sessions **, struct err *),
                       enum status (*run)(const struct options *, struct sessions *, struct err *))
{
    struct err e;
    struct sessions *store = NULL;
    enum status st = open(o, &store, &e);
    if (st == OK)
        st = run(o, store, &e);
    int rc = st == OK ? 0 : cli_fail(&e);
    sessions_close(store);
    return rc;
}

/* Runs one of the commands below on the saved conversations. */
static int with_store(const struct options *o,
                      enum status (*run)(const struct options *, struct sessions *, struct err *))
{
    return with_opened(o, cli_store_saved, run);
}

static void format_time(int64_t t_ms, char out[20])
{
    time_t t = (time_t)(t_ms / 1000);
    struct tm tm;
    localtime_r(&t, &tm);
    strftime(out, 20, "%Y-%m-%d %H:%M", &tm);
}

static json_t *row_json(const struct sessions_row *r)
{
    json_t *tiers = json_object();
    for (int i = 0; i < SESSIONS_TIERS; i++)
        if (r->tier_bytes[i] > 0)
            json_object_set_new(tiers, stats_tier_name[i], json_integer(r->tier_bytes[i]));
    json_t *j = json_object();
    json_object_set_new(j, "id", json_integer(r->id));
    json_object_set_new(j, "title", json_cstr(r->title));
    json_object_set_new(j, "model", json_cstr(r->model));
    json_object_set_new(j, "created", json_integer(r->created_ms));
    json_object_set_new(j, "updated", json_integer(r->updated_ms));
    json_object_set_new(j, "messages", json_integer(r->n_message));
    json_object_set_new(j, "tokens", json_count(r->n_tok));
    json_object_set_new(j, "kv_bytes", json_count(r->kv_bytes));
    json_object_set_new(j, "tiers", tiers);
    json_object_set_new(j, "state_bytes", json_count(r->state_bytes));
    json_object_set_new(j, "pinned", json_boolean(r->pinned));
    if (r->snippet) {
        struct str plain = {0};
        for (const char *p = r->snippet; *p; p++)
            if (*p != 2 && *p != 3)
                str_addc(&plain, *p);
        json_object_set_new(j, "snippet", json_text(str_c(&plain), plain.len));
        json_object_set_new(j, "message", json_integer(r->message));
        str_fini(&plain);
    }
    return j;
}

static void format_part(const char *name, int64_t size_bytes, struct str *out)
{
    char size[FORMAT_SIZE];
    if (size_bytes > 0)
        str_addf(out, "%s%s %s", out->len ? ", " : "", name, format_bytes(size, size_bytes));
}

/* "8/4 1.20 MiB, f16 310 KiB, states 4.70 MiB": what is held at each precision, finest last. */
static void format_parts(const struct sessions_row *r, struct str *out)
{
    for (int i = SESSIONS_TIERS - 1; i >= 0; i--)
        format_part(stats_tier_name[i], r->tier_bytes[i], out);
    format_part("states", r->state_bytes, out);
    if (out->len == 0)
        str_addc(out, '-');
}

/* The match in bold on a terminal, plain elsewhere; always on one line. */
static void print_snippet(const char *s)
{
    bool bold = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");
    printf("       ");
    while (*s) {
        size_t n = strcspn(s, "\2\3\n\t");
        cli_print_safe(s, n);
        s += n;
        if (*s == 2 || *s == 3)
            fputs(!bold ? "" : *s == 2 ? "\033[1m" : "\033[0m", stdout);
        else if (*s)
            putchar(' ');
        s += *s != 0;
    }
    putchar('\n');
}

static void print_rows(const struct options *o, const struct sessions_row *rows, int32_t n,
                       const char *none)
{
    if (o->json) {
        json_t *list = json_array();
        for (int32_t i = 0; i < n; i++)
            json_array_append_new(list, row_json(&rows[i]));
        json_print(list);
        return;
    }
    if (n == 0) {
        fprintf(stderr, "dogear: %s\n", none);
        return;
    }
    printf("%5s  %-16s  %5s %9s %9s  %-25s   %s\n", "id", "last used", "msgs", "tokens", "cache",
           "by precision", "title");
    for (int32_t i = 0; i < n; i++) {
        char when[20], n_message[FORMAT_SIZE], n_tok[FORMAT_SIZE], size[FORMAT_SIZE];
        format_time(rows[i].updated_ms, when);
        struct str parts = {0};
        format_parts(&rows[i], &parts);
        printf("%5" PRId64 "  %s  %5s %9s %9s  %-25s %s ", rows[i].id, when, format_count(n_message, rows[i].n_message),
               format_count(n_tok, rows[i].n_tok), format_bytes(size, rows[i].kv_bytes), str_c(&parts),
               rows[i].pinned ? "*" : " ");
        str_fini(&parts);
        const char *title = rows[i].title[0] ? rows[i].title : "(untitled)";
        cli_print_safe(title, strcspn(title, "\n"));
        putchar('\n');
        if (rows[i].snippet)
            print_snippet(rows[i].snippet);
    }
}

static enum status run_list(const struct options *o, struct sessions *s, struct err *e)
{
    struct sessions_row *rows;
    int32_t n;
    TRY(sessions_list(s, 0, &rows, &n, e));
    print_rows(o, rows, n, "no conversation is saved yet");
    sessions_rows_free(rows, n);
    return OK;
}

int cmd_list(struct options *o)
{
    return with_store(o, run_list);
}

static enum status run_search(const struct options *o, struct sessions *s, struct err *e)
{
    struct str query = {0};
    for (int i = 0; i < o->n_word; i++)
        str_addf(&query, "%s%s", i ? " " : "", o->words[i]);
    struct sessions_row *rows;
    int32_t n;
    enum status st = query.len == 0
                         ? err_set(e, ERR_USAGE, "what to search for is missing: dogear search WORDS")
                         : sessions_search(s, str_c(&query), 50, &rows, &n, e);
    str_fini(&query);
    TRY(st);
    print_rows(o, rows, n, "nothing found");
    sessions_rows_free(rows, n);
    return OK;
}

int cmd_search(struct options *o)
{
    return with_store(o, run_search);
}

static void print_message(const struct sessions_message *m)
{
    struct str s = {0};
    if (!strcmp(m->role, "assistant"))
        thought_quote(m->text, m->len, &s);
    else
        str_add(&s, m->text, m->len);
    printf("\n[%s]\n", m->role);
    cli_print_safe(str_c(&s), s.len);
    printf("%s\n", m->done ? "" : " [cut short]");
    str_fini(&s);
}

static enum status run_show(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id;
    struct sessions_row row;
    TRY(cli_id(o, 0, &id, e));
    TRY(sessions_get(s, id, &row, e));
    struct sessions_message *m = NULL;
    int32_t n = 0;
    enum status st = sessions_path_load(s, id, &m, &n, e);
    if (st == OK && o->json) {
        json_t *j = row_json(&row);
        json_t *list = json_array();
        for (int32_t i = 0; i < n; i++) {
            json_t *item = json_object();
            json_object_set_new(item, "id", json_integer(m[i].id));
            json_object_set_new(item, "role", json_cstr(m[i].role));
            json_object_set_new(item, "text", json_text(m[i].text, m[i].len));
            json_object_set_new(item, "created", json_integer(m[i].created_ms));
            json_object_set_new(item, "tokens", m[i].ids ? json_integer(m[i].n_id) : json_null());
            json_object_set_new(item, "stop", m[i].stop[0] ? json_string(m[i].stop) : json_null());
            json_object_set_new(item, "complete", json_boolean(m[i].done));
            json_array_append_new(list, item);
        }
        json_object_set_new(j, "path", list);
        json_print(j);
    } else if (st == OK) {
        printf("# ");
        cli_print_safe(row.title, strcspn(row.title, "\n"));
        printf("\n");
        for (int32_t i = 0; i < n; i++)
            print_message(&m[i]);
    }
    sessions_messages_free(m, n);
    free(row.title);
    free(row.model);
    free(row.snippet);
    return st;
}

int cmd_show(struct options *o)
{
    return with_store(o, run_show);
}

static enum status run_rename(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id;
    TRY(cli_id(o, 0, &id, e));
    if (o->n_word < 2)
        return err_set(e, ERR_USAGE, "the new title is missing: dogear rename ID TITLE");
    struct str title = {0};
    for (int i = 1; i < o->n_word; i++)
        str_addf(&title, "%s%s", i > 1 ? " " : "", o->words[i]);
    enum status st = sessions_rename(s, id, str_c(&title), e);
    str_fini(&title);
    return st;
}

int cmd_rename(struct options *o)
{
    return with_store(o, run_rename);
}

static bool confirmed(const struct options *o, const char *title)
{
    char answer[16];
    if (o->yes)
        return true;
    fputs("delete \"", stderr);
    cli_write_safe(stderr, title, strlen(title));
    fputs("\"? [y/N] ", stderr);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static enum status run_rm(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id;
    TRY(cli_id(o, 0, &id, e));
    if (!o->yes && !isatty(STDIN_FILENO))
        return err_set(e, ERR_USAGE, "standard input is no terminal to ask on: -y deletes without asking");
    for (int i = 0; i < o->n_word; i++) {
        struct sessions_row row;
        TRY(cli_id(o, i, &id, e));
        TRY(sessions_get(s, id, &row, e));
        enum status st = confirmed(o, row.title) ? sessions_delete(s, id, e) : OK;
        free(row.title);
        free(row.model);
        free(row.snippet);
        TRY(st);
    }
    return OK;
}

int cmd_rm(struct options *o)
{
    return with_store(o, run_rm);
}

static enum status run_fork(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id, copy;
    TRY(cli_id(o, 0, &id, e));
    struct sessions_message *m;
    int32_t n;
    TRY(sessions_path_load(s, id, &m, &n, e));
    enum status st = n == 0 ? err_set(e, ERR_USAGE, "conversation %" PRId64 " is empty", id)
                            : sessions_fork(s, id, m[n - 1].id, &copy, e);
    sessions_messages_free(m, n);
    TRY(st);
    if (o->json)
        json_print(json_pack("{s:I}", "id", (json_int_t)copy));
    else
        printf("%" PRId64 "\n", copy);
    return OK;
}

int cmd_fork(struct options *o)
{
    return with_store(o, run_fork);
}

static enum status run_pin(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id;
    TRY(cli_id(o, 0, &id, e));
    bool off = o->n_word > 1 && !strcmp(o->words[1], "off");
    if (o->n_word > 1 && !off && strcmp(o->words[1], "on"))
        return err_set(e, ERR_USAGE, "\"%s\" is neither on nor off", o->words[1]);
    return sessions_pin(s, id, !off, e);
}

int cmd_pin(struct options *o)
{
    return with_store(o, run_pin);
}

/* "8/4", "4/4", ... or "none"; the tier names of stats.h. */
static enum status tier_of(const char *name, int32_t *ret, struct err *e)
{
    for (int32_t i = 1; i < STATS_TIERS - 1; i++)
        if (!strcmp(name, stats_tier_name[i])) {
            *ret = i;
            return OK;
        }
    if (!strcmp(name, "none")) {
        *ret = STATS_TIERS - 1;
        return OK;
    }
    return err_set(e, ERR_USAGE, "\"%s\" is no precision; use 8/8, 8/4, 6/4, 4/4, 4/2, 2/2 or none", name);
}

static enum status run_thin(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id, freed = 0;
    int32_t tier = 0;
    TRY(cli_id(o, 0, &id, e));
    if (o->n_word < 2)
        return err_set(e, ERR_USAGE, "the precision is missing: dogear thin ID 8/4|6/4|4/4|4/2|2/2|none");
    TRY(tier_of(o->words[1], &tier, e));
    TRY(sessions_thin(s, id, tier, &freed, e));
    if (o->json) {
        json_print(json_pack("{s:I}", "freed_bytes", (json_int_t)freed));
    } else {
        char size[FORMAT_SIZE];
        printf("%s of cache dropped%s; the text is untouched\n", format_bytes(size, freed),
               freed ? "" : ": what is left is as coarse, of the newest tokens, or read by other conversations, too");
    }
    return OK;
}

int cmd_thin(struct options *o)
{
    return with_store(o, run_thin);
}

static enum status run_export(const struct options *o, struct sessions *s, struct err *e)
{
    int64_t id = 0;
    if (o->n_word > 0 && strcmp(o->words[0], "all"))
        TRY(cli_id(o, 0, &id, e));
    else if (o->n_word == 0)
        return err_set(e, ERR_USAGE, "what to export is missing: dogear export ID or dogear export all");
    const char *format = o->format    ? o->format
                         : o->with_kv ? "dogear"
                                      : export_format(o->out);
    if (!strcmp(format, "dogear")) {
        if (!o->out || id == 0)
            return err_set(e, ERR_USAGE, "--format dogear writes one conversation to a new file: dogear export ID --out FILE");
        return export_file(s, id, format, o->with_kv, o->out, e);
    }
    if (strcmp(format, "md") && strcmp(format, "json"))
        return err_set(e, ERR_USAGE, "--format %s is unknown; use md, json or dogear", format);
    if (o->with_kv)
        return err_set(e, ERR_USAGE, "--with-kv goes with --format dogear");
    if (o->out)
        return export_file(s, id, format, false, o->out, e);
    char *text;
    size_t len;
    TRY(sessions_export(s, id, format[0] == 'm' ? SESSIONS_MARKDOWN : SESSIONS_JSON, &text, &len, e));
    cli_print(text, len);
    free(text);
    return OK;
}

int cmd_export(struct options *o)
{
    return with_store(o, run_export);
}

static enum status run_import(const struct options *o, struct sessions *s, struct err *e)
{
    if (o->n_word != 1)
        return err_set(e, ERR_USAGE, "one file at a time: dogear import FILE");
    struct sessions_imported r;
    TRY(sessions_import(s, o->words[0], &r, e));
    if (o->json)
        json_print(json_pack("{s:i,s:i,s:i,s:i,s:I}", "conversations", r.n_conversation, "messages",
                             r.n_message, "skipped", r.n_skipped, "kv_pieces", r.n_kv_piece,
                             "first_id", (json_int_t)r.first_id));
    else {
        char n_conversation[FORMAT_SIZE], n_message[FORMAT_SIZE];
        printf("%s conversation%s, %s message%s imported", format_count(n_conversation, r.n_conversation),
               r.n_conversation == 1 ? "" : "s", format_count(n_message, r.n_message), r.n_message == 1 ? "" : "s");
        if (r.n_conversation > 0)
            printf(" as %" PRId64, r.first_id);
        if (r.n_conversation > 1)
            printf(" to %" PRId64, r.first_id + r.n_conversation - 1);
        printf("%s\n", r.n_skipped ? "; messages of tools were left out" : "");
    }
    return OK;
}

int cmd_import(struct options *o)
{
    return with_opened(o, cli_store, run_import);
}
