/* Commands on a model file: models, info, tokenize, detokenize, logits, perplexity. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/cli.h"
#include "app/models.h"
#include "app/paths.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "ui/format.h"

int cmd_models(struct options *o)
{
    struct models_entry *all;
    char size[FORMAT_SIZE];
    int n;
    models_scan(&all, &n);
    if (o->json) {
        json_t *list = json_array();
        for (int i = 0; i < n; i++) {
            json_t *j = json_object();
            json_object_set_new(j, "name", json_cstr(all[i].name));
            json_object_set_new(j, "path", json_cstr(all[i].path));
            json_object_set_new(j, "source", json_cstr(all[i].source));
            json_object_set_new(j, "bytes", json_count(all[i].size_bytes));
            json_array_append_new(list, j);
        }
        json_print(list);
    } else {
        for (int i = 0; i < n; i++) {
            printf("%-12s %12s  ", all[i].source, format_bytes(size, all[i].size_bytes));
            cli_print(all[i].name, strlen(all[i].name));
            printf("\n%*s", 27, "");
            cli_print(all[i].path, strlen(all[i].path));
            putchar('\n');
        }
        if (n == 0)
            fprintf(stderr, "dogear: no GGUF files found; put one into ~/.local/share/dogear/models\n");
    }
    models_free(all, n);
    return 0;
}

int cmd_presets(struct options *o)
{
    struct engine_preset p;
    json_t *list = json_array();
    for (int32_t i = 0; engine_preset(i, &p); i++) {
        const char *kind = p.lossy ? "lossy" : p.simulated ? "simulated" : "";
        if (o->json)
            json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:b}", "name", p.name, "what",
                                                  p.what, "lossy", p.lossy, "simulated",
                                                  p.simulated));
        else
            printf("%-15s %-10s %s\n", p.name, kind, p.what);
    }
    if (o->json) {
        json_print(list);
        return 0;
    }
    json_decref(list);
    printf("\nlossy: tokens are dropped for good. simulated: values as the method stores them, bytes\n"
           "by its formula; memory itself holds f16. Neither is kept on disk: opened again, such a\n"
           "chat is read again.\n");
    return 0;
}

/* Value at a path of two keys, NULL = there is none. */
static json_t *get(const json_t *j, const char *a, const char *b)
{
    return json_object_get(json_object_get(j, a), b);
}

static int64_t get_count(const json_t *j, const char *a, const char *b)
{
    json_t *v = get(j, a, b);
    return json_is_integer(v) ? json_integer_value(v) : -1;
}

/* A row of the summary; NULL = unknown. */
static void print_row(const char *name, const char *text)
{
    printf("%-15s ", name);
    cli_print_safe(text ? text : "--", text ? strlen(text) : 2);
    putchar('\n');
}

/* What a person wants to know before anything else. */
static void print_summary(const json_t *j)
{
    const char *arch = json_string_value(get(j, "metadata", "general.architecture"));
    const char *name = json_string_value(get(j, "model", "name"));
    const char *format = json_string_value(json_object_get(j, "chat_format"));
    const char *problem = json_string_value(json_object_get(j, "problem"));
    /* More than the model was trained with is no use to tell of unless it is asked for. */
    int64_t trained = get_count(j, "model", "context"), asked = get_count(j, "plan", "context"),
            n_tok = get_count(j, "plan", "context_largest"), most = asked > trained ? asked : trained;
    char buf[FORMAT_SIZE], fits[64 + FORMAT_SIZE];
    print_row("name", name ? name : json_string_value(get(j, "metadata", "general.name")));
    print_row("architecture", arch);
    print_row("parameters", format_count(buf, get_count(j, "model", "parameters")));
    print_row("quantisation", json_string_value(get(j, "model", "type")));
    print_row("size", format_bytes(buf, get_count(j, "file", "bytes")));
    print_row("chat format", format ? format
                             : get(j, "metadata", "tokenizer.chat_template")
                                 ? "not recognised: text is continued"
                                 : "none: text is continued");
    print_row("trained context", format_count(buf, trained));
    if (problem)
        snprintf(fits, sizeof fits, "no: ");
    else
        snprintf(fits, sizeof fits, "yes, up to %s tokens of context",
                 format_count(buf, n_tok < most ? n_tok : most));
    printf("%-15s %s", "fits", fits);
    cli_print_safe(problem ? problem : "", problem ? strlen(problem) : 0);
    putchar('\n');
}

/* One value of a section: sizes and counts for people, unless it is told as the file has it; long lists cut. */
static void print_value(const char *key, const json_t *v, bool as_it_is)
{
    size_t n = strlen(key);
    bool size = json_is_integer(v) && n >= 5 && (!strcmp(key + n - 5, "bytes") || strstr(key, "_bytes_"));
    bool count = json_is_integer(v) && !as_it_is;
    char buf[FORMAT_SIZE], *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    const char *shown = size             ? format_bytes(buf, json_integer_value(v))
                        : count          ? format_count(buf, json_integer_value(v))
                        : json_is_null(v) ? "--"
                                         : text;
    size_t len = strlen(shown);
    printf("  ");
    cli_print_safe(key, n);
    printf("%*s ", (int)(n < 42 ? 42 - n : 0), "");
    cli_print_safe(shown, utf8_complete(shown, len > 90 ? 90 : len));
    printf("%s\n", len > 90 ? "..." : "");
    free(text);
}

static void print_tensors(const json_t *list)
{
    size_t i;
    json_t *t;
    char buf[FORMAT_SIZE];
    printf("\ntensors (%zu)\n", json_array_size(list));
    json_array_foreach(list, i, t)
    {
        const char *name = json_string_value(json_object_get(t, "name"));
        char *shape = json_dumps(json_object_get(t, "shape"), JSON_COMPACT);
        printf("  ");
        cli_print_safe(name, strlen(name));
        printf(" %s %s %s\n", json_string_value(json_object_get(t, "type")), shape,
               format_bytes(buf, json_integer_value(json_object_get(t, "bytes"))));
        free(shape);
    }
}

static void print_info(json_t *j, bool tensors)
{
    const char *key, *k2;
    json_t *v, *v2;
    print_summary(j);
    json_object_foreach(j, key, v)
    {
        if (!json_is_object(v))
            continue;
        printf("\n%s\n", key);
        json_object_foreach(v, k2, v2) print_value(k2, v2, !strcmp(key, "metadata"));
    }
    if (tensors)
        print_tensors(json_object_get(j, "tensors"));
    else
        printf("\n%zu tensors: --tensors lists them\n", json_array_size(json_object_get(j, "tensors")));
}

int cmd_info(struct options *o)
{
    struct err e;
    char *path = NULL, *text = NULL;
    if (models_find(o->n_word ? o->words[0] : o->model, &path, &e) == OK &&
        engine_inspect(path, o->n_ctx, o->kv_budget_bytes, &text, &e) == OK) {
        json_t *j = json_loads(text, 0, NULL);
        struct engine_floor floor;
        char *dir = paths_cache("floors");
        bool known = engine_floor_known(path, dir, &floor, &e) == OK;
        free(dir);
        if (j && known)
            json_object_set_new(j, "cache_floor",
                                json_pack("{s:s, s:f, s:i}", "format", floor.format, "kl_mean",
                                          floor.kl, "positions", (int)floor.n));
        if (o->json && j) {
            json_print(j);
        } else if (!j) {
            puts(text);
        } else {
            print_info(j, o->tensors);
            json_decref(j);
        }
        free(text);
        free(path);
        return 0;
    }
    free(path);
    return cli_fail(&e);
}

int cmd_tokenize(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    char *text = NULL;
    size_t len = 0;
    int32_t *ids = NULL, n = 0;
    int rc = 0;
    enum status st = cli_engine(o, true, NULL, NULL, &en, &e);
    if (st == OK && o->prompt) {
        text = mem_strdup(o->prompt);
        len = strlen(text);
    } else if (st == OK) {
        st = cli_read(o->n_word ? o->words[0] : o->file, &text, &len, &e);
    }
    if (st == OK)
        st = engine_tokenize(en, text, len, o->special, o->special, &ids, &n, &e);
    if (st != OK) {
        rc = cli_fail(&e);
    } else if (o->json) {
        json_t *list = json_array();
        for (int32_t i = 0; i < n; i++)
            json_array_append_new(list, json_integer(ids[i]));
        json_print(list);
    } else {
        for (int32_t i = 0; i < n; i++) {
            if (o->ids) {
                printf("%d\n", ids[i]);
            } else {
                char *piece = engine_token_text(en, ids[i]);
                json_t *quoted = json_string(piece);
                char *shown = json_dumps(quoted, JSON_ENCODE_ANY);
                printf("%8d  ", ids[i]);
                json_puts(shown);
                free(shown);
                json_decref(quoted);
                free(piece);
            }
        }
    }
    free(ids);
    free(text);
    engine_close(en);
    return rc;
}

int cmd_detokenize(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    struct str all = {0};
    int32_t *ids = NULL, n = 0;
    int rc = 0;
    enum status st = OK;
    if (o->n_word == 0) {
        char *text;
        size_t len;
        st = cli_read(o->file, &text, &len, &e);
        if (st == OK) {
            str_add(&all, text, len);
            free(text);
        }
    }
    for (int i = 0; i < o->n_word; i++)
        str_addf(&all, "%s ", o->words[i]);
    const char *at = str_c(&all);
    while (st == OK && *(at += strspn(at, " ,\t\r\n[]"))) {
        char *end;
        errno = 0;
        long v = strtol(at, &end, 10);
        if (end == at || errno || v < 0 || v > INT32_MAX) {
            st = err_set(&e, ERR_USAGE, "\"%.20s\" is no token id", at);
            break;
        }
        ids = mem_realloc(ids, (size_t)(n + 1) * sizeof *ids);
        ids[n++] = (int32_t)v;
        at = end;
    }
    if (st == OK)
        st = cli_engine(o, true, NULL, NULL, &en, &e);
    char *text;
    size_t len;
    if (st == OK)
        st = engine_detokenize(en, ids, n, o->special, &text, &len, &e);
    if (st == OK) {
        cli_print(text, len);
        free(text);
    } else {
        rc = cli_fail(&e);
    }
    free(ids);
    str_fini(&all);
    engine_close(en);
    return rc;
}

static bool write_row(void *ctx, int32_t i, const float *logits)
{
    void **c = ctx;
    const struct engine_info *info = c[1];
    (void)i;
    return fwrite(logits, sizeof *logits, (size_t)info->n_vocab, c[0]) == (size_t)info->n_vocab;
}

int cmd_logits(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    char *data = NULL;
    size_t size = 0;
    FILE *out = NULL;
    enum status st = OK;
    if (!o->tokens || !o->out)
        st = err_set(&e, ERR_USAGE, "logits needs --tokens FILE and --out FILE");
    if (st == OK)
        st = cli_read(o->tokens, &data, &size, &e);
    if (st == OK && (size == 0 || size % 4))
        st = err_set(&e, ERR_FORMAT, "%s: %zu bytes are no list of int32 token ids", o->tokens, size);
    if (st == OK)
        st = cli_engine(o, false, NULL, NULL, &en, &e);
    if (st == OK && !(out = fopen(o->out, "wb")))
        st = err_set(&e, ERR_IO, "%s: %s", o->out, strerror(errno));
    if (st == OK) {
        int32_t *ids = mem_alloc(size);
        memcpy(ids, data, size);
        void *ctx[2] = {out, (void *)engine_info(en)};
        errno = 0;
        st = engine_logits(en, ids, (int32_t)(size / 4), write_row, ctx, &e);
        free(ids);
        bool failed = ferror(out) != 0;
        if (fclose(out))
            failed = true;
        if (failed)
            st = err_set(&e, ERR_IO, "%s: %s", o->out, strerror(errno));
    }
    free(data);
    engine_close(en);
    return st == OK ? 0 : cli_fail(&e);
}

struct nll {
    const int32_t *ids;
    int32_t n, first, n_vocab;
    double sum, sum2;
    int64_t count;
};

/* Logits of position i predict token i + 1. */
static bool add_nll(void *ctx, int32_t i, const float *logits)
{
    struct nll *p = ctx;
    if (i + 1 >= p->n || i < p->first)
        return true;
    float max = logits[0];
    for (int32_t v = 1; v < p->n_vocab; v++)
        if (logits[v] > max)
            max = logits[v];
    double total = 0;
    for (int32_t v = 0; v < p->n_vocab; v++)
        total += exp((double)logits[v] - max);
    double nll = log(total) + max - logits[p->ids[i + 1]];
    p->sum += nll;
    p->sum2 += nll * nll;
    p->count++;
    return true;
}

/* As the peers' tool defines it: the text is cut into windows of n_ctx tokens, each starting with
 * BOS where the model wants one, and the second half of each window is scored. A text shorter than
 * two windows is scored whole, from its first token on. */
int cmd_perplexity(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    char *text = NULL;
    size_t len = 0;
    int32_t *ids = NULL, n = 0;
    struct nll p = {0};
    int32_t n_ctx = o->n_ctx ? o->n_ctx : 512;
    enum status st = cli_read(o->n_word ? o->words[0] : o->file, &text, &len, &e);
    if (st == OK) {
        struct options with = *o;
        with.n_ctx = n_ctx;
        st = cli_engine(&with, false, NULL, NULL, &en, &e);
    }
    if (st == OK)
        st = engine_tokenize(en, text, len, false, true, &ids, &n, &e);
    if (st == OK && n < 2)
        st = err_set(&e, ERR_USAGE, "the text has %d tokens; at least two are needed", n);
    if (st == OK) {
        if (n_ctx > engine_info(en)->n_ctx)
            n_ctx = engine_info(en)->n_ctx;
        p.n_vocab = engine_info(en)->n_vocab;
        bool whole = n < 2 * n_ctx;
        int32_t window = whole && n < n_ctx ? n : n_ctx;
        int32_t *chunk = mem_alloc((size_t)window * sizeof *chunk);
        int32_t *bos = NULL, n_bos = 0;
        st = engine_tokenize(en, "", 0, false, true, &bos, &n_bos, &e);
        for (int32_t at = 0; st == OK && at + window <= n; at += window) {
            memcpy(chunk, ids + at, (size_t)window * sizeof *chunk);
            if (n_bos == 1)
                chunk[0] = bos[0];
            p.ids = chunk;
            p.n = window;
            p.first = whole ? 0 : window / 2;
            st = engine_logits(en, chunk, window, add_nll, &p, &e);
        }
        free(bos);
        free(chunk);
    }
    if (st == OK) {
        double mean = p.sum / (double)p.count;
        double spread = sqrt(fmax(0, p.sum2 / (double)p.count - mean * mean) / (double)p.count);
        if (o->json) {
            json_t *j = json_object();
            json_object_set_new(j, "nll", json_number(mean));
            json_object_set_new(j, "perplexity", json_number(exp(mean)));
            json_object_set_new(j, "nll_stderr", json_number(spread));
            json_object_set_new(j, "n_tok", json_integer(p.count));
            json_object_set_new(j, "n_ctx", json_integer(n_ctx));
            json_print(j);
        } else {
            char a[FORMAT_SIZE], b[FORMAT_SIZE];
            printf("perplexity %.4f +- %.4f  (mean NLL %.5f over %s tokens, context %s)\n",
                   exp(mean), exp(mean) * spread, mean, format_count(a, p.count), format_count(b, n_ctx));
        }
    }
    free(ids);
    free(text);
    engine_close(en);
    return st == OK ? 0 : cli_fail(&e);
}
