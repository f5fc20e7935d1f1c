#include "app/cli.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/loop.h"
#include "app/models.h"
#include "app/paths.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "sessions/sessions.h"

const struct cli_command cli_commands[] = {
    {"chat", "", 0, "the terminal screen (what `dogear` alone does)", cmd_chat},
    {"desktop", "", 0, "the same in a window", cmd_desktop},
    {"ask", "[PROMPT]", -1, "one turn, the answer on stdout; standard input is added to the prompt", cmd_ask},
    {"list", "", 0, "saved conversations, newest first", cmd_list},
    {"show", "ID", 1, "the text of a conversation", cmd_show},
    {"search", "WORDS", -1, "full-text search over all conversations", cmd_search},
    {"rename", "ID TITLE", -1, "give a conversation another title", cmd_rename},
    {"rm", "ID...", -1, "delete conversations", cmd_rm},
    {"fork", "ID", 1, "a new conversation that goes on from where this one stands", cmd_fork},
    {"pin", "ID [off]", 2, "keep a conversation's cache from being thinned", cmd_pin},
    {"thin", "ID PRECISION", 2, "drop cache precision on disk: 8/8, 8/4, 6/4, 4/4, 4/2, 2/2 or none", cmd_thin},
    {"export", "ID|all", 1, "a conversation as Markdown, JSON or a file with its cache", cmd_export},
    {"import", "FILE", 1, "what export wrote with --format json or dogear, or a ChatGPT conversations.json", cmd_import},
    {"models", "", 0, "GGUF files found on this machine", cmd_models},
    {"presets", "", 0, "what --kv accepts; those that lose tokens for good are marked lossy", cmd_presets},
    {"info", "FILE", 1, "header, tensors and memory plan of a model file", cmd_info},
    {"tokenize", "[FILE|-]", 1, "token ids of a text", cmd_tokenize},
    {"detokenize", "[ID...]", -1, "text of token ids", cmd_detokenize},
    {"logits", "--tokens FILE --out FILE", 0, "teacher-forced logits, raw float32 [n_tok, n_vocab]", cmd_logits},
    {"perplexity", "FILE", 1, "teacher-forced negative log-likelihood of a text", cmd_perplexity},
    {"verify", "[ID]", 1, "what compression costs a conversation (the latest without ID), measured exactly", cmd_verify},
    {"eval", "--kv P[,P...]", 0, "each KV format against the exact one, on a text or a task suite", cmd_eval},
    {"bench", "", 0, "tokens per second of prefill and decode", cmd_bench},
    {"doctor", "", 0, "backends, folders, database check", cmd_doctor},
    {NULL, NULL, 0, NULL, NULL},
};

const struct cli_command *cli_command_find(const char *name)
{
    for (const struct cli_command *c = cli_commands; c->name; c++)
        if (!strcmp(c->name, name))
            return c;
    return NULL;
}

static char failure[sizeof((struct err *)0)->text]; /* told last */

int cli_fail(const struct err *e)
{
    snprintf(failure, sizeof failure, "%s", e->text);
    fputs("dogear: ", stderr);
    cli_write_safe(stderr, e->text, strlen(e->text)); /* it may name a model or quote a file */
    fputc('\n', stderr);
    return e->code == ERR_USAGE ? 2 : 1;
}

struct loading {
    FILE *out;
    const struct loop_wake *wake;
    int percent; /* shown last; -1 = nothing yet */
};

static bool show_progress(void *ctx, float done)
{
    struct loading *l = ctx;
    int percent = (int)(done * 100);
    if (percent != l->percent) {
        l->percent = percent;
        fprintf(l->out, percent < 100 ? "\rloading %3d %%" : "\r             \r", percent);
        fflush(l->out);
    }
    return !l->wake || !loop_wake_interrupted(l->wake);
}

enum status cli_engine(const struct options *o, bool vocab_only, const struct kv_io *kv_io,
                       struct loop_wake *wake, struct engine **ret, struct err *e)
{
    struct loading loading = {wake ? stdout : stderr, wake, -1};
    bool shown = wake || (isatty(STDERR_FILENO) && !vocab_only);
    enum status st = cli_engine_with(o, vocab_only, kv_io, wake, shown ? show_progress : NULL,
                                     &loading, ret, e);
    if (loading.percent >= 0 && loading.percent < 100)
        fprintf(loading.out, "\r             \r");
    return st;
}

enum status cli_engine_with(const struct options *o, bool vocab_only, const struct kv_io *kv_io,
                            struct loop_wake *wake, bool (*progress)(void *ctx, float done),
                            void *ctx, struct engine **ret, struct err *e)
{
    char *path = NULL;
    if (!o->fake)
        TRY(models_find(o->model, &path, e));
    char *floors = paths_cache("floors");
    struct engine_params p = {
        .model_path = path,
        .n_ctx = o->n_ctx,
        .n_thread = o->n_thread,
        .n_gpu_layer = o->n_gpu_layer,
        .backend = o->backend,
        .kv = o->kv,
        .kv_budget_bytes = o->kv_budget_bytes,
        .coverage = o->coverage,
        .reasoning = o->reasoning,
        .sparse_from = o->sparse_from,
        .vocab_only = vocab_only,
        .fake_script = o->fake,
        .kv_io = kv_io,
        .cache_dir = floors, /* of models, not of chats: with --no-save, too */
        .wake = wake ? loop_wake_fire : NULL,
        .wake_ctx = wake,
        .progress = progress,
        .progress_ctx = ctx,
    };
    enum status st = engine_open(&p, ret, e);
    free(floors);
    free(path);
    return st;
}

/* --store-budget: written only where it changes something, it may stand in the config file. */
static enum status set_budget(const struct options *o, struct sessions *s, struct err *e)
{
    struct sessions_budget b;
    if (o->no_save || o->store_budget_bytes == UINT64_MAX)
        return OK;
    int64_t want = (int64_t)o->store_budget_bytes;
    TRY(sessions_budget_get(s, &b, e));
    if (want ? !b.automatic && b.limit_bytes == want : b.automatic)
        return OK;
    return sessions_budget_set(s, want, e);
}

enum status cli_store(const struct options *o, struct sessions **ret, struct err *e)
{
    struct sessions *s;
    TRY(sessions_open(o->no_save ? ":memory:" : o->db, &s, e));
    enum status st = set_budget(o, s, e);
    if (st != OK)
        sessions_close(s);
    else
        *ret = s;
    return st;
}

enum status cli_store_saved(const struct options *o, struct sessions **ret, struct err *e)
{
    char *path;
    if (o->db)
        path = mem_strdup(o->db);
    else
        TRY(sessions_default_path(&path, e));
    bool missing = access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR);
    free(path);
    if (!missing || o->no_save || (!o->db && o->store_budget_bytes != UINT64_MAX))
        return cli_store(o, ret, e);
    if (o->db)
        return err_set(e, ERR_NOT_FOUND, "there is no store at %s: a chat or an import makes one",
                       o->db);
    return sessions_open(":memory:", ret, e);
}

/* A new file whose name begins so; NULL when it cannot be written. */
static char *rescue(const char *begin, const char *text)
{
    struct str path = {0};
    str_addf(&path, "%s-unsaved-XXXXXX.txt", begin);
    int fd = mkstemps(path.data, 4);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    bool ok = f && fputs(text, f) >= 0;
    if (f && fclose(f) != 0)
        ok = false;
    if (ok)
        return path.data;
    if (!f && fd >= 0)
        close(fd);
    if (fd >= 0)
        unlink(path.data);
    str_fini(&path);
    return NULL;
}

/* Says at a terminal what takes so long, if it does: hundreds of megabytes of cache need seconds. */
struct patience {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool done, running;
};

static void *run_out(void *ctx)
{
    struct patience *p = ctx;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 500 * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&p->lock);
    while (!p->done)
        if (pthread_cond_timedwait(&p->over, &p->lock, &until) == ETIMEDOUT)
            break;
    if (!p->done)
        fputs("dogear: saving the cache, so that the conversation opens at once next time ...\n",
              stderr);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void patience_begin(struct patience *p)
{
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->over, NULL);
    p->running = isatty(STDERR_FILENO) && pthread_create(&p->thread, NULL, run_out, p) == 0;
}

static void patience_end(struct patience *p)
{
    pthread_mutex_lock(&p->lock);
    p->done = true;
    pthread_cond_signal(&p->over);
    pthread_mutex_unlock(&p->lock);
    if (p->running)
        pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->over);
    pthread_mutex_destroy(&p->lock);
}

int cli_store_close(struct sessions *s, int rc)
{
    struct err e;
    /* told before the tries that follow; once, where it is what the command failed of */
    if (s && sessions_trouble(s, &e) && strcmp(e.text, failure) != 0)
        fprintf(stderr, "dogear: %s\n", e.text);
    struct patience patience = {0};
    patience_begin(&patience);
    char *lost = s ? sessions_end(s) : NULL;
    patience_end(&patience);
    char *store = lost ? mem_strdup(sessions_path(s)) : NULL;
    sessions_close(s); /* which gives back what its logs take: on a full disk room for the text */
    if (lost) {
        char *path = rescue(store, lost);
        if (!path)
            path = rescue("/tmp/dogear", lost);
        if (path)
            fprintf(stderr, "dogear: an answer could not be stored in %s; its text is in %s\n", store, path);
        else
            fprintf(stderr, "dogear: an answer could not be stored in %s; this is its text:\n", store);
        if (!path)
            cli_print_safe(lost, strlen(lost));
        free(path);
        free(lost);
        rc = 1;
    }
    free(store);
    return rc;
}

enum status cli_id(const struct options *o, int i, int64_t *ret, struct err *e)
{
    if (i >= o->n_word)
        return err_set(e, ERR_USAGE, "a conversation id is missing; see `dogear list`");
    char *end;
    errno = 0;
    long long v = strtoll(o->words[i], &end, 10);
    if (*end || end == o->words[i] || errno || v < 1)
        return err_set(e, ERR_USAGE, "\"%s\" is no conversation id; see `dogear list`", o->words[i]);
    *ret = v;
    return OK;
}

enum status cli_read(const char *path, char **ret, size_t *ret_len, struct err *e)
{
    bool from_stdin = !path || !strcmp(path, "-");
    FILE *f = from_stdin ? stdin : fopen(path, "rb");
    if (!f)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    struct str s = {0};
    char buf[65536];
    size_t n;
    while ((n = fread(buf, 1, sizeof buf, f)) > 0)
        str_add(&s, buf, n);
    bool failed = ferror(f);
    int reason = errno;
    if (!from_stdin)
        fclose(f);
    if (failed) {
        str_fini(&s);
        return err_set(e, ERR_IO, "%s: %s", from_stdin ? "standard input" : path, strerror(reason));
    }
    *ret_len = s.len;
    *ret = str_take(&s);
    return OK;
}

void cli_write_safe(FILE *f, const char *s, size_t len)
{
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        char buf[4];
        i += (size_t)utf8_decode(s + i, len - i, &cp);
        if (cp == '\n' || cp == '\t' || (cp >= 0x20 && cp < 0x7f) || cp >= 0xa0)
            fwrite(buf, 1, (size_t)utf8_encode(cp, buf), f);
    }
}

void cli_print_safe(const char *s, size_t len)
{
    cli_write_safe(stdout, s, len);
}

void cli_print(const char *s, size_t len)
{
    if (isatty(STDOUT_FILENO))
        cli_print_safe(s, len);
    else
        fwrite(s, 1, len, stdout);
}
