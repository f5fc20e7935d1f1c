/* `dogear eval`: what a KV format costs, against the exact cache.
 *
 * --text FILE: teacher-forced. The exact engine's logits go to a temporary file, each preset's are
 * compared with them row by row. --suite NAME: free-running answers to questions with known
 * answers, in one chat or (--requests) each from the context alone. --attention: what presets keep of
 * attention itself, layer by layer, without the model's answers. One engine is open at a time, so that a large model is never in memory twice. */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/paths.h"
#include "app/suite.h"
#include "engine/base/compare.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "ui/format.h"

#define ATTENTION_PRESETS                                                                          \
    "cap-99,cap-95,cap-90,loopserve,minference,flexprefill,sampleattention,xattention,a-shape,delta," \
    "progressive,quest,tidaldecode,hsa,rocketkv-mt,snapkv-turn"
enum { MAX_PRESETS = 64, MAX_ANSWER_TOK = 64, MAX_LENGTHS = 8 };

struct row {
    char preset[32];
    const char *suite;
    int32_t n_tok, n_question;
    bool lossy, simulated;
    double kl_mean, kl_p99, top1, nll, nll_exact, recall, bytes_per_token, decode_tps;
};

static struct row row_new(const char *preset, const char *suite)
{
    struct row r = {.suite = suite, .n_tok = -1, .n_question = -1, .kl_mean = NAN, .kl_p99 = NAN,
                    .top1 = NAN, .nll = NAN, .nll_exact = NAN, .recall = NAN,
                    .bytes_per_token = NAN, .decode_tps = NAN};
    snprintf(r.preset, sizeof r.preset, "%s", preset);
    return r;
}

/* The budget is for what can follow one; the others are what it is compared with. */
static bool follows_budget(const char *preset)
{
    struct engine_preset p;
    for (int32_t i = 0; engine_preset(i, &p); i++)
        if (strcmp(p.name, preset) == 0)
            return p.adaptive;
    return false;
}

static enum status open_preset(const struct options *o, const char *preset, int32_t n_ctx,
                               struct engine **ret, struct err *e)
{
    struct options with = *o;
    with.kv = (char *)preset;
    if (!follows_budget(preset))
        with.kv_budget_bytes = 0;
    with.n_ctx = n_ctx; /* 0 = the model's own: -c means something else here */
    return cli_engine(&with, false, NULL, NULL, ret, e);
}

/* ---- teacher-forced ---- */

struct comparing {
    const float *exact; /* [n, n_vocab] */
    const int32_t *ids;
    int32_t n, n_vocab;
    struct compare sum;
};

static bool compare_row(void *ctx, int32_t i, const float *logits)
{
    struct comparing *c = ctx;
    struct compare_row row =
        compare_logits(c->exact + (size_t)i * (size_t)c->n_vocab, logits, c->n_vocab,
                       i + 1 < c->n ? c->ids[i + 1] : -1);
    compare_add(&c->sum, &row);
    return true;
}

static bool keep_row(void *ctx, int32_t i, const float *logits)
{
    void **c = ctx;
    (void)i;
    size_t n = *(const size_t *)c[1];
    return fwrite(logits, sizeof *logits, n, c[0]) == n;
}

struct text_run {
    int32_t *ids;
    int32_t n, n_vocab;
    FILE *file;
    float *exact;
    size_t size_bytes;
};

static void text_close(struct text_run *t)
{
    if (t->exact)
        munmap(t->exact, t->size_bytes);
    if (t->file)
        fclose(t->file);
    free(t->ids);
}

/* Tokens of the text (at most n_ctx, default 2048) and the exact logits of each. */
static enum status text_open(const struct options *o, struct text_run *t, struct err *e)
{
    struct engine *en = NULL;
    char *text = NULL;
    size_t len;
    TRY(cli_read(o->text, &text, &len, e));
    int32_t limit = o->n_ctx ? o->n_ctx : 2048;
    enum status st = open_preset(o, "exact", limit, &en, e);
    if (st == OK)
        st = engine_tokenize(en, text, len, false, true, &t->ids, &t->n, e);
    free(text);
    if (st == OK) {
        if (t->n > engine_info(en)->n_ctx)
            t->n = engine_info(en)->n_ctx;
        t->n_vocab = engine_info(en)->n_vocab;
        size_t n_vocab = (size_t)t->n_vocab;
        t->size_bytes = (size_t)t->n * n_vocab * sizeof(float);
        t->file = tmpfile();
        void *ctx[2] = {t->file, &n_vocab};
        if (t->n < 2)
            st = err_set(e, ERR_USAGE, "%s: too short to measure on", o->text);
        else if (!t->file)
            st = err_set(e, ERR_IO, "temporary file: %s; set TMPDIR", strerror(errno));
        else
            st = engine_logits(en, t->ids, t->n, keep_row, ctx, e);
        if (st == OK && fflush(t->file))
            st = err_set(e, ERR_IO, "temporary file of %zu bytes: %s; set TMPDIR, or lower -c",
                         t->size_bytes, strerror(errno));
    }
    engine_close(en);
    if (st == OK) {
        void *map = mmap(NULL, t->size_bytes, PROT_READ, MAP_SHARED, fileno(t->file), 0);
        if (map == MAP_FAILED)
            st = err_set(e, ERR_MEMORY, "mapping %zu bytes: %s", t->size_bytes, strerror(errno));
        else
            t->exact = map;
    }
    return st;
}

static enum status text_measure(const struct options *o, const struct text_run *t,
                                const char *preset, struct row *ret, struct err *e)
{
    struct engine *en;
    TRY(open_preset(o, preset, t->n + 64, &en, e));
    struct comparing c = {
        .exact = t->exact, .ids = t->ids, .n = t->n, .n_vocab = t->n_vocab};
    enum status st = engine_logits(en, t->ids, t->n, compare_row, &c, e);
    if (st == OK) {
        *ret = row_new(preset, "text");
        ret->lossy = engine_info(en)->kv_lossy;
        ret->simulated = engine_info(en)->kv_simulated;
        ret->n_tok = t->n;
        ret->kl_mean = compare_kl_mean(&c.sum);
        ret->kl_p99 = compare_kl_p99(&c.sum);
        ret->top1 = compare_top1(&c.sum);
        ret->nll = compare_nll(&c.sum);
        ret->nll_exact = compare_nll_exact(&c.sum);
        struct stats s;
        engine_stats(en, &s);
        ret->bytes_per_token = s.bytes_per_tok;
    }
    compare_fini(&c.sum);
    engine_close(en);
    return st;
}

/* ---- free-running ---- */

struct tally {
    char name[32];
    int n, right;
};

struct breakdown {
    struct tally at[64];
    int n;
};

static void count(struct breakdown *b, const char *kind, const char *name, bool right)
{
    char full[32];
    snprintf(full, sizeof full, "%s %.20s", kind, name);
    int i = 0;
    while (i < b->n && strcmp(b->at[i].name, full))
        i++;
    if (i == (int)(sizeof b->at / sizeof *b->at))
        return;
    if (i == b->n)
        memcpy(b->at[b->n++].name, full, sizeof full);
    b->at[i].n++;
    b->at[i].right += right;
}

/* One question; what was fed and answered is appended to ids. */
static enum status ask(struct engine *en, const struct engine_message *messages, int n_message,
                       int32_t **ids, int32_t *n_id, struct str *answer,
                       struct engine_event *ret_done, struct err *e)
{
    struct engine_turn t = {.timeline = 1, .prefix = *ids, .n_prefix = *n_id, .messages = messages,
                            .n_message = n_message, .n_predict = MAX_ANSWER_TOK};
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 0;
    uint64_t turn;
    TRY(engine_submit(en, &t, &turn, e));
    for (;;) {
        struct engine_event *ev = engine_wait(en, -1);
        enum engine_event_kind kind = ev->kind;
        if (ev->ids) {
            *ids = mem_realloc(*ids, (size_t)(*n_id + ev->n_id + 1) * sizeof **ids);
            if (ev->n_id)
                memcpy(*ids + *n_id, ev->ids, (size_t)ev->n_id * sizeof **ids);
            *n_id += ev->n_id;
        }
        if (kind == ENGINE_EV_TOKEN || kind == ENGINE_EV_DONE)
            str_add(answer, ev->text ? ev->text : "", ev->len);
        *ret_done = *ev;
        engine_event_free(ev);
        if (kind == ENGINE_EV_FAILED) {
            *e = ret_done->err;
            return e->code;
        }
        if (kind == ENGINE_EV_DONE)
            return OK;
    }
}

struct sums {
    int32_t n_tok; /* length class */
    int n, right;
    double bytes, tok, decode_s;
    int64_t n_generated;
};

static enum status run_item(struct engine *en, const struct suite_item *item, bool requests,
                            struct sums *sums, struct breakdown *b, struct err *e)
{
    int n_message = item->n_context + 1;
    struct engine_message *messages = mem_calloc((size_t)n_message, sizeof *messages);
    for (int i = 0; i < item->n_context; i++)
        messages[i] = (struct engine_message){item->context[i].role, item->context[i].text,
                                              strlen(item->context[i].text)};
    int32_t *ids = NULL, n_id = 0;
    enum status st = OK;
    for (int k = 0; st == OK && k < item->n_turn; k++) {
        const struct suite_turn *turn = &item->turns[k];
        struct engine_message question = {"user", turn->question, strlen(turn->question)};
        messages[n_message - 1] = question;
        struct str answer = {0};
        struct engine_event done;
        if (requests) /* the timeline still holds the context */
            n_id = 0;
        st = k == 0 || requests ? ask(en, messages, n_message, &ids, &n_id, &answer, &done, e)
                    : ask(en, &question, 1, &ids, &n_id, &answer, &done, e);
        if (st == OK) {
            bool right = suite_right(turn, str_c(&answer), answer.len);
            char name[16];
            snprintf(name, sizeof name, "%d", k + 1);
            count(b, "turn", name, right);
            count(b, "task", item->task, right);
            count(b, "position", item->position, right);
            count(b, "wording", item->wording, right);
            sums->n++;
            sums->right += right;
            if (k == item->n_turn - 1 && done.kv_bytes >= 0) {
                sums->bytes += (double)done.kv_bytes;
                sums->tok += n_id;
            }
            if (done.decode_tps > 0) {
                sums->decode_s += done.n_generated / done.decode_tps;
                sums->n_generated += done.n_generated;
            }
        }
        str_fini(&answer);
    }
    engine_forget(en, 1);
    free(ids);
    free(messages);
    return st;
}

static struct row suite_row(const char *preset, const char *name, const struct engine_info *info,
                            const struct sums *s)
{
    struct row r = row_new(preset, name);
    r.lossy = info->kv_lossy;
    r.simulated = info->kv_simulated;
    r.n_tok = s->n_tok;
    r.n_question = s->n;
    r.recall = s->n ? (double)s->right / s->n : NAN;
    r.bytes_per_token = s->tok > 0 ? s->bytes / s->tok : NAN;
    /* A simulated format is not read as it would be stored, and dropped tokens still cost. */
    bool told = s->decode_s > 0 && !r.simulated && !r.lossy;
    r.decode_tps = told ? (double)s->n_generated / s->decode_s : NAN;
    return r;
}

static void show_row(const struct options *o, json_t *rows, const struct row *r,
                     const struct breakdown *b);

static enum status suite_measure(const struct options *o, const struct suite *s, const char *preset,
                                 json_t *rows, struct err *e)
{
    struct engine *en;
    int32_t n_ctx = 0; /* a budget is planned for what will be asked, not for the model's most */
    for (int i = 0; i < s->n_item && o->kv_budget_bytes && follows_budget(preset); i++) {
        int32_t n = s->items[i].n_tok + 2 * (s->items[i].n_turn + 1) * MAX_ANSWER_TOK;
        n_ctx = n > n_ctx ? n : n_ctx;
    }
    TRY(open_preset(o, preset, n_ctx, &en, e));
    struct sums lengths[MAX_LENGTHS] = {{0}}, all = {.n_tok = -1};
    struct breakdown parts = {0};
    int n_length = 0;
    struct engine_info info = *engine_info(en);
    enum status st = OK;
    for (int i = 0; st == OK && i < s->n_item; i++) {
        int k = 0;
        while (k < n_length && lengths[k].n_tok != s->items[i].n_tok)
            k++;
        if (k == MAX_LENGTHS)
            continue;
        if (k == n_length)
            lengths[n_length++].n_tok = s->items[i].n_tok;
        struct sums before = lengths[k];
        st = run_item(en, &s->items[i], o->requests, &lengths[k], &parts, e);
        all.n += lengths[k].n - before.n;
        all.right += lengths[k].right - before.right;
        all.bytes += lengths[k].bytes - before.bytes;
        all.tok += lengths[k].tok - before.tok;
        all.decode_s += lengths[k].decode_s - before.decode_s;
        all.n_generated += lengths[k].n_generated - before.n_generated;
    }
    engine_close(en);
    TRY(st);
    for (int k = 0; k < n_length; k++) {
        struct row r = suite_row(preset, o->suite, &info, &lengths[k]);
        show_row(o, rows, &r, NULL);
    }
    struct row r = suite_row(preset, o->suite, &info, &all);
    show_row(o, rows, &r, &parts);
    return OK;
}

/* ---- showing ---- */

static void cell(double x, const char *format)
{
    if (isnan(x))
        printf(" %9s", "--");
    else
        printf(format, x);
}

static void show_row(const struct options *o, json_t *rows, const struct row *r,
                     const struct breakdown *b)
{
    if (o->json) {
        json_t *j = json_object();
        json_object_set_new(j, "preset", json_string(r->preset));
        json_object_set_new(j, "suite", json_string(r->suite));
        json_object_set_new(j, "n_tok", json_count(r->n_tok));
        json_object_set_new(j, "n_question", json_count(r->n_question));
        json_object_set_new(j, "kl_mean", json_number(r->kl_mean));
        json_object_set_new(j, "kl_p99", json_number(r->kl_p99));
        json_object_set_new(j, "top1", json_number(r->top1));
        json_object_set_new(j, "nll", json_number(r->nll));
        json_object_set_new(j, "nll_exact", json_number(r->nll_exact));
        json_object_set_new(j, "recall", json_number(r->recall));
        json_object_set_new(j, "bytes_per_token", json_number(r->bytes_per_token));
        json_object_set_new(j, "decode_tps", json_number(r->decode_tps));
        json_object_set_new(j, "lossy", json_boolean(r->lossy));
        json_object_set_new(j, "simulated", json_boolean(r->simulated));
        json_t *parts = json_object();
        for (int i = 0; b && i < b->n; i++)
            json_object_set_new(parts, b->at[i].name,
                                json_pack("[i,i]", b->at[i].right, b->at[i].n));
        if (b)
            json_object_set_new(j, "breakdown", parts);
        else
            json_decref(parts);
        json_array_append_new(rows, j);
        return;
    }
    if (json_array_size(rows) == 0) {
        printf("%-14s %-8s %7s %9s %9s %9s %9s %9s %9s %9s %9s\n", "preset", "suite", "n_tok",
               "KL mean", "KL p99", "top-1", "NLL", "recall", "n", "B/token", "tok/s");
        json_array_append_new(rows, json_null()); /* the heading is out */
    }
    printf("%-14s %-8s", r->preset, r->suite);
    char count[FORMAT_SIZE];
    printf(" %7s", r->n_tok < 0 ? "all" : format_count(count, r->n_tok));
    cell(r->kl_mean, " %9.6f");
    cell(r->kl_p99, " %9.5f");
    cell(r->top1 * 100, " %8.2f%%");
    cell(r->nll, " %9.4f");
    cell(r->recall * 100, " %8.2f%%");
    printf(" %9s", format_count(count, r->n_question));
    printf(" %9s", format_rate(count, r->bytes_per_token));
    cell(r->decode_tps, " %9.1f");
    printf("%s\n", r->lossy ? "  lossy" : r->simulated ? "  simulated" : "");
    for (int i = 0; b && i < b->n; i++)
        printf("    %-30s %4d of %4d  %5.1f%%\n", b->at[i].name, b->at[i].right, b->at[i].n,
               100.0 * b->at[i].right / b->at[i].n);
    fflush(stdout);
}

/* ---- attention itself ---- */

static const struct {
    const char *name;
    size_t off;
} attention_figures[] = {
    {"prefill_density", offsetof(struct engine_attention, prefill_density)},
    {"prefill_mass", offsetof(struct engine_attention, prefill_mass)},
    {"prefill_mass_p5", offsetof(struct engine_attention, prefill_mass_p5)},
    {"prefill_error", offsetof(struct engine_attention, prefill_error)},
    {"decode_density", offsetof(struct engine_attention, decode_density)},
    {"decode_mass", offsetof(struct engine_attention, decode_mass)},
    {"decode_mass_p5", offsetof(struct engine_attention, decode_mass_p5)},
    {"decode_error", offsetof(struct engine_attention, decode_error)},
};
enum { N_ATTENTION = sizeof attention_figures / sizeof *attention_figures };

static enum status attention_measure(const struct options *o, char **presets, int n_preset,
                                     json_t *rows, struct err *e)
{
    struct engine *en = NULL;
    char *text = NULL;
    int32_t *ids = NULL, n = 0;
    size_t len;
    int32_t limit = o->n_ctx ? o->n_ctx : 4096;
    struct engine_attention found[MAX_PRESETS];
    TRY(cli_read(o->text, &text, &len, e));
    enum status st = open_preset(o, "exact", limit, &en, e);
    if (st == OK)
        st = engine_tokenize(en, text, len, false, true, &ids, &n, e);
    if (st == OK)
        st = engine_attention(en, ids, n < limit ? n : limit, (const char *const *)presets, n_preset,
                              found, e);
    for (int i = 0; st == OK && i < n_preset; i++) {
        json_t *j = json_pack("{s:s s:i}", "preset", presets[i], "n_tok", n < limit ? n : limit);
        if (!o->json && i == 0)
            printf("%-16s %35s | %35s\n%-16s %8s %8s %8s %8s | %8s %8s %8s %8s\n", "",
                   "reading a prompt", "answering", "preset", "density", "mass", "5th", "error",
                   "density", "mass", "5th", "error");
        if (!o->json)
            printf("%-16s", presets[i]);
        for (int f = 0; f < N_ATTENTION; f++) {
            const char *at = (const char *)&found[i] + attention_figures[f].off;
            double x = *(const double *)(const void *)at;
            json_object_set_new(j, attention_figures[f].name, json_number(x));
            if (!o->json && f == 4)
                printf(" |");
            if (!o->json && isnan(x))
                printf("       --");
            else if (!o->json)
                printf(" %8.4f", x);
        }
        if (!o->json)
            printf("\n");
        json_array_append_new(rows, j);
    }
    free(ids);
    free(text);
    engine_close(en);
    return st;
}

static enum status find_suite(const char *name, char **ret, struct err *e)
{
    if (access(name, R_OK) == 0) {
        *ret = mem_strdup(name);
        return OK;
    }
    struct str rel = {0};
    str_addf(&rel, "model/%s.jsonl", name);
    *ret = strchr(name, '/') ? NULL : paths_asset(str_c(&rel));
    str_fini(&rel);
    return *ret ? OK
                : err_set(e, ERR_NOT_FOUND, "no suite \"%s\"; \"recall\" comes with Dogear, or give a file", name);
}

int cmd_eval(struct options *o)
{
    struct err e;
    struct text_run text = {0};
    struct suite suite = {0};
    char *presets[MAX_PRESETS];
    int n_preset = 0;
    enum status st = OK;
    const char *usual = o->attention ? ATTENTION_PRESETS : "exact,8/8,8/4,4/4,adaptive";
    char *list = mem_strdup(o->kv ? o->kv : usual), *save = NULL;
    for (char *p = strtok_r(list, ",", &save); p && n_preset < MAX_PRESETS; p = strtok_r(NULL, ",", &save))
        presets[n_preset++] = p;
    if (o->attention && !o->text)
        st = err_set(&e, ERR_USAGE, "eval --attention needs --text FILE");
    else if (!o->text && !o->suite)
        st = err_set(&e, ERR_USAGE, "eval needs --text FILE or --suite NAME");
    if (st == OK && o->text && !o->attention)
        st = text_open(o, &text, &e);
    if (st == OK && o->suite) {
        char *path;
        st = find_suite(o->suite, &path, &e);
        if (st == OK) {
            st = suite_load(path, o->text ? 0 : o->n_ctx, &suite, &e);
            free(path);
        }
    }
    json_t *rows = json_array();
    if (st == OK && o->attention)
        st = attention_measure(o, presets, n_preset, rows, &e);
    for (int i = 0; st == OK && i < n_preset && !(o->attention && !o->suite); i++) {
        struct row r;
        if (o->text && !o->attention && (st = text_measure(o, &text, presets[i], &r, &e)) == OK)
            show_row(o, rows, &r, NULL);
        if (st == OK && o->suite)
            st = suite_measure(o, &suite, presets[i], rows, &e);
    }
    if (o->json && st == OK)
        json_print(rows);
    else
        json_decref(rows);
    suite_free(&suite);
    text_close(&text);
    free(list);
    return st == OK ? 0 : cli_fail(&e);
}
