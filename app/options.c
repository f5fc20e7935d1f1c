#include "app/options.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/paths.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/engine.h"
#include "ui/theme.h"

enum kind { FLAG, TEXT, INT, U64, FLOAT, SIZE, RESUME };

struct option {
    const char *short_name; /* with its dash; NULL = none */
    const char *long_name;  /* without dashes: also the key in the config file */
    enum kind kind;
    size_t off;
    const char *arg;  /* shown in help; NULL for flags */
    const char *help; /* NULL = hidden */
    double min, max;  /* of numbers */
    const char *where; /* the commands that it is for; NULL = all */
};

#define TALK "chat desktop ask"
#define RUNS TALK " logits perplexity verify eval bench"
#define LOADS RUNS " tokenize detokenize"
#define KEEPS TALK " list show search rename rm fork pin thin export import verify doctor"

#define OFF(field) offsetof(struct options, field)

static const struct option table[] = {
    {"-m", "model", TEXT, OFF(model), "FILE", "GGUF model: a path, or a name from `dogear models`", 0, 0, LOADS " info doctor"},
    {"-c", "ctx-size", INT, OFF(n_ctx), "N", "context in tokens (0 = the model's own, as memory allows)", 0, 1 << 24, RUNS " info"},
    {"-t", "threads", INT, OFF(n_thread), "N", "CPU threads (0 = one per core)", 0, 1024, RUNS " doctor"},
    {"-ngl", "gpu-layers", INT, OFF(n_gpu_layer), "N", "layers whose weights lie on the GPU, with --backend cuda (-1 = all that fit)", -1, 1 << 16, RUNS " doctor"},
    {NULL, "backend", TEXT, OFF(backend), "NAME", "auto (the CPU), cpu or cuda", 0, 0, RUNS " doctor"},
    {NULL, "temp", FLOAT, OFF(sampling.temp), "T", "temperature (0 = greedy; default 0.8)", 0, 100, TALK},
    {NULL, "top-k", INT, OFF(sampling.top_k), "N", "keep the N likeliest tokens (0 = all; default 40)", -1, 1 << 24, TALK},
    {NULL, "top-p", FLOAT, OFF(sampling.top_p), "P", "keep tokens up to this total probability (default 0.95)", 0, 1, TALK},
    {NULL, "min-p", FLOAT, OFF(sampling.min_p), "P", "drop tokens below P times the likeliest (default 0.05)", 0, 1, TALK},
    {NULL, "repeat-penalty", FLOAT, OFF(sampling.repeat_penalty), "X", "penalise recent tokens (1 = off, the default)", 0, 100, TALK},
    {NULL, "repeat-last-n", INT, OFF(sampling.repeat_last_n), "N", "how many tokens count as recent (default 64)", -1, 1 << 24, TALK},
    {"-s", "seed", U64, OFF(sampling.seed), "N", "random seed (-1 = random)", 0, 0, TALK},
    {"-n", "predict", INT, OFF(n_predict), "N", "most tokens to generate (-1 = until the model stops)", -1, 1 << 24, TALK " bench"},
    {"-p", "prompt", TEXT, OFF(prompt), "TEXT", "the prompt (bench: prompt lengths, e.g. 512,4096)", 0, 0, TALK " tokenize bench"},
    {"-f", "file", TEXT, OFF(file), "FILE", "read the prompt from a file", 0, 0, "ask tokenize detokenize perplexity"},
    {"-sys", "system-prompt", TEXT, OFF(system), "TEXT", "system prompt; of a begun conversation (-r ID) on a branch", 0, 0, TALK},
    {"-rea", "reasoning", TEXT, OFF(reasoning), "MODE", "whether the model thinks before it answers, where its chat format has a switch: on, off or auto (as it does unasked)", 0, 0, TALK},
    {NULL, "kv", TEXT, OFF(kv), "NAME", "KV cache format: exact, 8/8, 8/4, 4/4, adaptive, ...; `dogear presets` lists all, lossy ones marked", 0, 0, RUNS},
    {NULL, "kv-budget", SIZE, OFF(kv_budget_bytes), "SIZE", "memory for KV, e.g. 2G (0 = automatic)", 0, 0, RUNS " info"},
    {NULL, "store-budget", SIZE, OFF(store_budget_bytes), "SIZE", "disk for the caches of all conversations, kept until changed (0 = automatic)", 0, 0, KEEPS},
    {NULL, "coverage", FLOAT, OFF(coverage), "C", "attention mass that sparse attention keeps, 0.7 to 1 (1 = dense, the default)", ENGINE_COVERAGE_MIN, 1, RUNS},
    {NULL, "sparse-from", INT, OFF(sparse_from), "N", "measuring: sparse attention from N tokens on, even where it does not pay", 0, 1 << 30, RUNS},
    {NULL, "db", TEXT, OFF(db), "FILE", "conversation store", 0, 0, KEEPS},
    {NULL, "no-save", FLAG, OFF(no_save), NULL, "leave nothing on disk", 0, 0, KEEPS " logits perplexity eval bench"},
    {"-r", "resume", RESUME, OFF(resume_id), "[ID]", "go on with a saved conversation; without ID the chat shows the list, others take the latest; ask without a prompt answers what was left open", 0, 0, TALK " verify"},
    {NULL, "raw", FLAG, OFF(raw), NULL, "ignore the chat template: continue the text; ask prints it first", 0, 0, TALK},
    {NULL, "json", FLAG, OFF(json), NULL, "JSON on stdout", 0, 0, "ask list show search fork thin import models presets info tokenize perplexity verify eval bench doctor"},
    {NULL, "ids", FLAG, OFF(ids), NULL, "tokenize: ids only", 0, 0, "tokenize"},
    {NULL, "tensors", FLAG, OFF(tensors), NULL, "info: list the tensors, too", 0, 0, "info"},
    {NULL, "special", FLAG, OFF(special), NULL, "tokenize: recognise control tokens in the text", 0, 0, "tokenize detokenize"},
    {NULL, "tokens", TEXT, OFF(tokens), "FILE", "logits: int32 token ids", 0, 0, "logits"},
    {NULL, "out", TEXT, OFF(out), "FILE", "logits, export: where to write", 0, 0, "logits export"},
    {NULL, "text", TEXT, OFF(text), "FILE", "eval: text to measure on", 0, 0, "eval"},
    {NULL, "attention", FLAG, OFF(attention), NULL, "eval: what presets keep of attention itself, on --text", 0, 0, "eval"},
    {NULL, "requests", FLAG, OFF(requests), NULL, "eval: every question of a suite anew, not in one chat", 0, 0, "eval"},
    {NULL, "suite", TEXT, OFF(suite), "NAME", "eval: a task suite, e.g. recall", 0, 0, "eval"},
    {"-d", "depth", TEXT, OFF(depths), "LIST", "bench: context depths, e.g. 0,4096", 0, 0, "bench"},
    {NULL, "reps", INT, OFF(n_rep), "N", "bench: repetitions (also -r N)", 1, 1000, "bench"},
    {NULL, "ops", FLAG, OFF(ops), NULL, "bench: time every operation by itself, too", 0, 0, "bench"},
    {NULL, "format", TEXT, OFF(format), "NAME", "export: md, json, or dogear (one file, exact; import reads these two); default: by --out's ending, else md", 0, 0, "export"},
    {NULL, "with-kv", FLAG, OFF(with_kv), NULL, "export: put the cache into the file too", 0, 0, "export"},
    {NULL, "repair", FLAG, OFF(repair), NULL, "doctor: drop damaged cache, rebuild the search index", 0, 0, "doctor"},
    {NULL, "calibrate", FLAG, OFF(calibrate), NULL, "doctor: measure how far the model's cache may be compressed", 0, 0, "doctor"},
    {"-y", "yes", FLAG, OFF(yes), NULL, "do not ask before deleting", 0, 0, "rm"},
    {NULL, "theme", TEXT, OFF(theme), "NAME", "dark, light or mono", 0, 0, "chat desktop"},
    {NULL, "font", TEXT, OFF(font), "NAME", "desktop: font family (default: the desktop's monospace)", 0, 0, "desktop"},
    {NULL, "screenshot", TEXT, OFF(screenshot), "FILE", "desktop: save a PNG when all is drawn and answered, then leave", 0, 0, "desktop"},
    {NULL, "frame-log", TEXT, OFF(frame_log), "FILE", NULL, 0, 0, NULL},
    {NULL, "frame-text", TEXT, OFF(frame_text), "FILE", NULL, 0, 0, NULL},
    {NULL, "fake", TEXT, OFF(fake), "FILE", NULL, 0, 0, NULL},
    {"-h", "help", FLAG, OFF(help), NULL, "this text", 0, 0, NULL},
    {NULL, "version", FLAG, OFF(version), NULL, "version", 0, 0, NULL},
};
enum { N_OPTION = sizeof table / sizeof *table };

/* Other long names that llama.cpp takes. */
static const struct {
    const char *name, *option;
} aliases[] = {
    {"n-predict", "predict"},
    {"n-gpu-layers", "gpu-layers"},
    {"temperature", "temp"},
};

/* The option of a long name without dashes, n bytes of it. */
static const struct option *find_long(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strlen(aliases[i].name) == n && !strncmp(name, aliases[i].name, n))
            return find_long(aliases[i].option, strlen(aliases[i].option));
    for (int i = 0; i < N_OPTION; i++)
        if (strlen(table[i].long_name) == n && !strncmp(name, table[i].long_name, n))
            return &table[i];
    return NULL;
}

void options_init(struct options *o)
{
    *o = (struct options){
        .n_gpu_layer = -1, .n_predict = -1, .n_rep = 3, .store_budget_bytes = UINT64_MAX};
    engine_sampling_default(&o->sampling);
}

static char **text_at(struct options *o, const struct option *t)
{
    return (char **)((char *)o + t->off);
}

void options_fini(struct options *o)
{
    for (int i = 0; i < N_OPTION; i++)
        if (table[i].kind == TEXT)
            free(*text_at(o, &table[i]));
    free(o->prompts_n);
    free(o->words);
}

enum status options_fits_memory(uint64_t kv_budget_bytes, struct err *e)
{
    char want[32], have[32];
    if (kv_budget_bytes == 0 || kv_budget_bytes <= engine_memory())
        return OK;
    return err_set(e, ERR_USAGE, "a KV budget of %s: there are %s of memory; 0 = automatic",
                   err_size_text(kv_budget_bytes, want), err_size_text(engine_memory(), have));
}

enum status options_size(const char *s, uint64_t *ret, struct err *e)
{
    char *end;
    errno = 0;
    double x = strtod(s, &end);
    double unit = 1;
    switch (toupper((unsigned char)*end)) {
    case 'T':
        unit *= 1024; /* fall through */
    case 'G':
        unit *= 1024; /* fall through */
    case 'M':
        unit *= 1024; /* fall through */
    case 'K':
        unit *= 1024;
        end++;
        if (*end == 'i')
            end++;
        break;
    default:
        break;
    }
    if (*end == 'B' || *end == 'b')
        end++;
    if (end == s || *end || errno || !(x >= 0) || x * unit > 9e18)
        return err_set(e, ERR_USAGE, "\"%s\" is no size; write for example 512M or 1.5G", s);
    *ret = (uint64_t)(x * unit);
    return OK;
}

enum status options_list(const char *s, int32_t *ret, int max, int *ret_n, struct err *e)
{
    int n = 0;
    while (*s) {
        char *end;
        errno = 0;
        long v = strtol(s, &end, 10);
        if (end == s || errno || v < 0 || v > (1 << 24) || (*end && *end != ','))
            return err_set(e, ERR_USAGE, "\"%s\" is no list of numbers; write for example 512,4096", s);
        if (n == max)
            return err_set(e, ERR_USAGE, "at most %d numbers in a list", max);
        ret[n++] = (int32_t)v;
        s = *end ? end + 1 : end;
    }
    *ret_n = n;
    return OK;
}

static enum status number_error(const struct option *t, const char *v, struct err *e)
{
    int digits = t->kind == FLOAT ? FLT_DIG : DBL_DIG;
    return err_set(e, ERR_USAGE, "%s: \"%.40s\" is not a number from %.*g to %.*g", t->long_name, v,
                   digits, t->min, digits, t->max);
}

static enum status set_value(struct options *o, const struct option *t, const char *v, struct err *e)
{
    void *field = (char *)o + t->off;
    char *end;
    errno = 0;
    switch (t->kind) {
    case FLAG:
        if (strcmp(v, "true") && strcmp(v, "false"))
            return err_set(e, ERR_USAGE, "%s: \"%s\" is neither true nor false", t->long_name, v);
        *(bool *)field = v[0] == 't';
        return OK;
    case TEXT:
        free(*(char **)field);
        *(char **)field = mem_strdup(v);
        return OK;
    case INT: {
        long x = strtol(v, &end, 10);
        if (end == v || *end || errno || (double)x < t->min || (double)x > t->max)
            return number_error(t, v, e);
        *(int32_t *)field = (int32_t)x;
        if (t->off == OFF(n_predict))
            o->n_predict_set = true;
        return OK;
    }
    case U64: {
        long long x = strtoll(v, &end, 10);
        if (end == v || *end || errno)
            return err_set(e, ERR_USAGE, "%s: \"%.40s\" is no whole number", t->long_name, v);
        *(uint64_t *)field = (uint64_t)x; /* -1 = UINT64_MAX = random */
        return OK;
    }
    case FLOAT: {
        double x = strtod(v, &end);
        if (end == v || *end || errno || !(x >= t->min && x <= t->max))
            return number_error(t, v, e);
        *(float *)field = (float)x;
        return OK;
    }
    case SIZE:
        return options_size(v, (uint64_t *)field, e);
    case RESUME: {
        long long x = strtoll(v, &end, 10);
        if (end == v || *end || errno || x < 1)
            return err_set(e, ERR_USAGE, "--resume: \"%s\" is no conversation id; see `dogear list`", v);
        *(int64_t *)field = x;
        o->resume = true;
        return OK;
    }
    }
    return OK;
}

static bool is_sampling(const struct option *t)
{
    return t->off >= OFF(sampling) && t->off < OFF(sampling) + sizeof(struct engine_sampling);
}

bool options_sampling(const struct engine_sampling *s, int i, const char **ret_name,
                      char ret_value[OPTIONS_VALUE], const char **ret_help)
{
    const struct option *t = table;
    while (t < table + N_OPTION && (!is_sampling(t) || i-- > 0))
        t++;
    if (t == table + N_OPTION)
        return false;
    const void *field = (const char *)s + (t->off - OFF(sampling));
    if (t->kind == FLOAT)
        snprintf(ret_value, OPTIONS_VALUE, "%g", (double)*(const float *)field);
    else if (t->kind == INT)
        snprintf(ret_value, OPTIONS_VALUE, "%d", (int)*(const int32_t *)field);
    else
        snprintf(ret_value, OPTIONS_VALUE, "%lld", (long long)*(const uint64_t *)field);
    *ret_name = t->long_name;
    *ret_help = t->help;
    return true;
}

enum status options_sampling_set(struct engine_sampling *s, const char *name, const char *value,
                                 int *ret_i, struct err *e)
{
    const struct option *t = find_long(name, strlen(name));
    if (!t || !is_sampling(t))
        return err_set(e, ERR_NOT_FOUND, "there is no setting \"%.40s\"", name);
    struct options o = {.sampling = *s};
    TRY(set_value(&o, t, value, e));
    *s = o.sampling;
    *ret_i = 0;
    for (const struct option *before = table; before < t; before++)
        *ret_i += is_sampling(before);
    return OK;
}

/* A value as it stands in the config file, where no shell looks at it: without the quotes around it,
 * and ~/ of a path is the home folder. */
static enum status set_from_file(struct options *o, const struct option *t, char *v, struct err *e)
{
    size_t n = strlen(v);
    if (n > 1 && v[0] == '"' && strchr(v + 1, '"') == v + n - 1) {
        v[n - 1] = 0;
        v++;
    }
    bool is_path = t->kind == TEXT && (!strcmp(t->arg, "FILE") || !strcmp(t->long_name, "theme"));
    if (!is_path || strncmp(v, "~/", 2) != 0)
        return set_value(o, t, v, e);
    char *full = paths_home(v + 2);
    enum status st = set_value(o, t, full, e);
    free(full);
    return st;
}

enum status options_config(struct options *o, struct err *e)
{
    char *path = paths_config("config");
    FILE *f = fopen(path, "r");
    if (!f) {
        enum status st = OK;
        if (errno != ENOENT && errno != ENOTDIR)
            st = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        free(path);
        return st;
    }
    enum status st = OK;
    char *line = NULL;
    size_t cap = 0;
    for (int n = 1; st == OK && getline(&line, &cap, f) >= 0; n++) {
        char *key = line + strspn(line, " \t\r\n");
        if (!*key || *key == '#')
            continue;
        char *eq = strchr(key, '=');
        char *key_end = eq ? eq : key + strlen(key);
        while (key_end > key && isspace((unsigned char)key_end[-1]))
            key_end--;
        const struct option *t = find_long(key, (size_t)(key_end - key));
        if (!eq || !t) {
            *key_end = 0;
            st = err_set(e, ERR_USAGE, "%s:%d: \"%s\" is no setting; write key = value, keys are the long options", path, n, key);
            break;
        }
        char *v = eq + 1 + strspn(eq + 1, " \t");
        char *v_end = v + strlen(v);
        while (v_end > v && isspace((unsigned char)v_end[-1]))
            *--v_end = 0;
        st = set_from_file(o, t, v, e);
        if (st != OK)
            err_prefix(e, "%s:%d", path, n);
    }
    if (st == OK && ferror(f)) /* a folder opens, too */
        st = err_set(e, ERR_IO, "%s: %s; it should be a file of lines such as temp = 0.5", path,
                     strerror(errno));
    free(line);
    fclose(f);
    free(path);
    return st;
}

static bool is_id(const char *s)
{
    return *s && strspn(s, "0123456789") == strlen(s);
}

static bool is_word(const char *arg)
{
    return arg[0] != '-' || !arg[1];
}

static const struct option *find(const char *arg, size_t n)
{
    if (n > 2 && !strncmp(arg, "--", 2))
        return find_long(arg + 2, n - 2);
    for (int i = 0; i < N_OPTION; i++) {
        const char *s = table[i].short_name;
        if (s && strlen(s) == n && !strncmp(arg, s, n))
            return &table[i];
    }
    return NULL;
}

/* The option at argv[0] and its value, NULL where there is none. Returns how many arguments they
 * are. */
static int take(char **argv, bool bench, const struct option **ret, const char **ret_value)
{
    const char *eq = !strncmp(argv[0], "--", 2) ? strchr(argv[0], '=') : NULL;
    const struct option *t = find(argv[0], eq ? (size_t)(eq - argv[0]) : strlen(argv[0]));
    if (bench && !strcmp(argv[0], "-r"))
        t = find("--reps", 6);
    *ret = t;
    *ret_value = eq ? eq + 1 : NULL;
    if (!t || eq || t->kind == FLAG || !argv[1] || (t->kind == RESUME && !is_id(argv[1])))
        return 1;
    *ret_value = argv[1];
    return 2;
}

int options_command(int argc, char **argv)
{
    const struct option *t;
    const char *value;
    int i = 1;
    while (i < argc && !is_word(argv[i]) && strcmp(argv[i], "--") != 0) {
        i += take(argv + i, false, &t, &value);
        if (!t && i < argc && !cli_command_find(argv[i]))
            return 0; /* the value of an option that is another program's */
    }
    return i < argc && is_word(argv[i]) ? i : 0;
}

/* Whether a list of names with blanks between them has this one. */
static bool has_name(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (; *list; list += strspn(list, " ")) {
        size_t len = strcspn(list, " ");
        if (len == n && !strncmp(list, name, n))
            return true;
        list += len;
    }
    return false;
}

static bool goes_with(const struct option *t, const char *command)
{
    return !t->where || has_name(t->where, command);
}

enum status options_parse(struct options *o, const char *command, int argc, char **argv, int at,
                          struct err *e)
{
    bool bench = !strcmp(command, "bench");
    bool only_words = false;
    const char *saved_system = o->system;
    o->words = mem_calloc((size_t)argc + 1, sizeof *o->words);
    for (int i = 1, n; i < argc; i += n) {
        const struct option *t;
        const char *v;
        n = 1;
        if (i == at)
            continue;
        if (only_words || is_word(argv[i])) {
            o->words[o->n_word++] = argv[i];
            continue;
        }
        if (!strcmp(argv[i], "--")) {
            only_words = true;
            continue;
        }
        n = take(argv + i, bench, &t, &v);
        int len = (int)strcspn(argv[i], "=");
        if (!t)
            return err_set(e, ERR_USAGE, "unknown option %.*s; see dogear %s --help", len, argv[i],
                           command);
        if (!goes_with(t, command))
            return err_set(e, ERR_USAGE, "%.*s does not go with %s; see dogear %s --help", len,
                           argv[i], command, command);
        if (t->kind == FLAG && !v)
            *(bool *)((char *)o + t->off) = true;
        else if (t->kind == RESUME && !v)
            o->resume = true;
        else if (!v)
            return err_set(e, ERR_USAGE, "%s needs a value (%s)", argv[i], t->arg);
        else
            TRY(set_value(o, t, v, e));
    }
    o->system_asked = o->system != saved_system;
    int most = cli_command_find(command)->n_word;
    if (most >= 0 && o->n_word > most && !o->help && !o->version)
        return err_set(e, ERR_USAGE, "\"%s\" is one word too many; see dogear %s --help",
                       o->words[most], command);
    if (bench) {
        o->prompts_n = o->prompt;
        o->prompt = NULL;
    }
    bool device = o->backend && !strcmp(o->backend, "cuda"); /* the budget is of its memory */
    return device ? OK : options_fits_memory(o->kv_budget_bytes, e);
}

/* Columns of a line of help; in a pipe lines stay whole, for grep. */
static int line_width(void)
{
    struct winsize ws;
    if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) != 0)
        return INT_MAX;
    return ws.ws_col > 100 ? 100 : ws.ws_col;
}

/* A name and what is said of it, which goes on below itself. */
static void print_row(const char *head, const char *text, int width)
{
    enum { INDENT = 29, NARROWEST = INDENT + 20 };
    int at = printf("  %-26s ", head);
    if (at > INDENT)
        at = printf("\n%*s", INDENT, "") - 1;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (at > INDENT && width >= NARROWEST && at + 1 + n > width)
            at = printf("\n%*s", INDENT, "") - 1;
        at += printf("%s%.*s", at > INDENT ? " " : "", n, text);
        text += n + (text[n] == ' ');
    }
    putchar('\n');
}

void options_help(const char *command)
{
    const struct cli_command *c = command ? cli_command_find(command) : NULL;
    int width = line_width();
    command = c ? c->name : NULL;
    if (c) {
        printf("usage: dogear %s%s%s [options]\n\n%s.\n\n", c->name, *c->args ? " " : "", c->args,
               c->help);
    } else {
        printf("Dogear: local chat. Fold the corner of a conversation and come back to it.\n\n"
               "usage: dogear [command] [options]\n\nCommands:\n");
        for (c = cli_commands; c->name; c++) {
            char head[64];
            snprintf(head, sizeof head, "%s %s", c->name, c->args);
            print_row(head, c->help, width);
        }
        printf("\n");
    }
    printf("Options (llama.cpp's names, meanings and defaults where it has them):\n");
    for (int i = 0; i < N_OPTION; i++) {
        const struct option *t = &table[i];
        if (!t->help || (command && !goes_with(t, command)))
            continue;
        char head[64];
        snprintf(head, sizeof head, "%s%s--%s%s%s", t->short_name ? t->short_name : "",
                 t->short_name ? ", " : "", t->long_name, t->arg ? " " : "", t->arg ? t->arg : "");
        print_row(head, t->help, width);
    }
    printf("\nSettings can be kept in %s/dogear/config as `long-option = value`.\n",
           "${XDG_CONFIG_HOME:-~/.config}");
    if (!command)
        printf("dogear --man prints the manual page, dogear --completion-bash (-zsh, -fish) a script "
               "for that shell.\n");
}

/* The words that an option takes, with blanks between them; empty = anything. */
static void choices(const struct option *t, struct str *out)
{
    struct engine_preset preset;
    if (!strcmp(t->long_name, "kv"))
        for (int32_t i = 0; engine_preset(i, &preset); i++)
            str_addf(out, "%s%s", i ? " " : "", preset.name);
    else if (!strcmp(t->long_name, "theme"))
        for (int i = 0; theme_builtin(i); i++)
            str_addf(out, "%s%s", i ? " " : "", theme_builtin(i));
    else if (!strcmp(t->long_name, "backend"))
        str_adds(out, "auto cpu cuda");
    else if (!strcmp(t->long_name, "reasoning"))
        str_adds(out, "auto on off");
    else if (!strcmp(t->long_name, "format"))
        str_adds(out, "md json dogear");
}

/* A line for each option that takes one of some words: its name and they, between the three. */
static void print_choices(const char *before, const char *between, const char *behind)
{
    for (int i = 0; i < N_OPTION; i++) {
        struct str words = {0};
        choices(&table[i], &words);
        if (words.len)
            printf("%s%s%s%s%s\n", before, table[i].long_name, between, str_c(&words), behind);
        str_fini(&words);
    }
}

bool options_completion(const char *shell)
{
    struct str commands = {0}, names = {0};
    for (const struct cli_command *c = cli_commands; c->name; c++)
        str_addf(&commands, "%s%s", commands.len ? " " : "", c->name);
    for (int i = 0; i < N_OPTION; i++) {
        if (!table[i].help)
            continue;
        if (table[i].short_name)
            str_addf(&names, " %s", table[i].short_name);
        str_addf(&names, " --%s", table[i].long_name);
    }
    bool known = true;
    if (!strcmp(shell, "bash")) {
        printf("_dogear() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
               "  case $prev in\n");
        /* 8/4 is no file: its part before the slash belongs to it */
        print_choices("  --", ") compopt +o filenames; COMPREPLY=($(compgen -W \"",
                      "\" -- \"$cur\")); return;;");
        printf("  -m|--model|-f|--file|--db|--out|--tokens|--text) COMPREPLY=($(compgen -f -- \"$cur\")); return;; esac\n"
               "  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n"
               "  elif ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n"
               "  else COMPREPLY=($(compgen -f -- \"$cur\")); fi\n}\ncomplete -o filenames -F _dogear dogear\n",
               str_c(&names) + 1, str_c(&commands));
    } else if (!strcmp(shell, "zsh")) {
        printf("#compdef dogear\n_dogear() {\n  case $words[CURRENT-1] in\n");
        print_choices("  --", ") compadd -- ", "; return;;");
        printf("  esac\n  if [[ $PREFIX == -* ]]; then compadd -- %s\n"
               "  elif ((CURRENT == 2)); then compadd -- %s\n  else _files; fi\n}\n"
               "compdef _dogear dogear\n",
               str_c(&names) + 1, str_c(&commands));
    } else if (!strcmp(shell, "fish")) {
        for (const struct cli_command *c = cli_commands; c->name; c++)
            printf("complete -c dogear -n __fish_use_subcommand -a %s -d '%s'\n", c->name, c->help);
        for (int i = 0; i < N_OPTION; i++)
            if (table[i].help)
                printf("complete -c dogear -l %s%s\n", table[i].long_name, table[i].arg ? " -r" : "");
        print_choices("complete -c dogear -l ", " -x -a '", "'");
    } else {
        known = false;
    }
    str_fini(&commands);
    str_fini(&names);
    return known;
}

/* roff text: a backslash or a leading dot would be read as a command. */
static void print_roff(const char *s)
{
    for (; *s; s++) {
        if (*s == '\\' || *s == '-')
            putchar('\\');
        putchar(*s);
    }
}

void options_man(void)
{
    printf(".TH DOGEAR 1 \"\" \"dogear " DOGEAR_VERSION "\"\n.SH NAME\ndogear \\- local chat that keeps "
           "its place\n.SH SYNOPSIS\n.B dogear\n[\\fIcommand\\fR] [\\fIoptions\\fR]\n"
           ".SH DESCRIPTION\nChats with a GGUF model on this machine. Without a command the terminal "
           "screen opens. Every conversation is saved as it happens, with its compressed key/value "
           "cache, and opens again without being read again.\n.SH COMMANDS\n");
    for (const struct cli_command *c = cli_commands; c->name; c++) {
        printf(".TP\n.B %s\n", c->name);
        if (*c->args) {
            printf("Arguments: ");
            print_roff(c->args);
            printf(". ");
        }
        print_roff(c->help);
        printf(".\n");
    }
    printf(".SH OPTIONS\nNames, meanings and defaults are those of llama.cpp where it has them.\n");
    for (int i = 0; i < N_OPTION; i++) {
        const struct option *t = &table[i];
        if (!t->help)
            continue;
        printf(".TP\n.B ");
        if (t->short_name) {
            print_roff(t->short_name);
            printf(", ");
        }
        printf("\\-\\-");
        print_roff(t->long_name);
        if (t->arg) {
            printf(" ");
            print_roff(t->arg);
        }
        printf("\n");
        print_roff(t->help);
        printf("\n");
    }
    printf(".SH FILES\n.TP\n.I ~/.config/dogear/config\nSettings, one \\fIlong\\-option = value\\fR per line.\n"
           ".TP\n.I ~/.local/share/dogear/dogear.db\nConversations: text, token ids, branches.\n"
           ".TP\n.I ~/.local/share/dogear/dogear\\-kv.db\nTheir caches; may be deleted at any time.\n"
           ".SH ENVIRONMENT\n.TP\n.B NO_COLOR\nNo colours on the screen.\n.TP\n.B KERNELS\nForces an "
           "instruction set: ref, avx2, avx512 or amx.\n.TP\n.B VISUAL, EDITOR\nThe editor that Ctrl+G opens.\n"
           ".SH EXIT STATUS\n0 on success, 1 on failure, 2 for wrong usage, 130 when interrupted.\n");
}
