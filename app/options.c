#include "app/options.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/cli.h"
#include "app/paths.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"

enum kind { FLAG, TEXT, INT, U64, FLOAT, SIZE, RESUME };

struct option {
    const char *short_name; /* with its dash; NULL = none */
    const char *long_name;  /* without dashes: also the key in the config file */
    enum kind kind;
    size_t off;
    const char *arg;  /* shown in help; NULL for flags */
    const char *help; /* NULL = hidden */
    double min, max;  /* of numbers */
};

#define OFF(field) offsetof(struct options, field)
#define ANY -INFINITY, INFINITY

static const struct option table[] = {
    {"-m", "model", TEXT, OFF(model), "FILE", "GGUF model: a path, or a name from `dogear models`", 0, 0},
    {"-c", "ctx-size", INT, OFF(n_ctx), "N", "context in tokens (0 = the model's own, as memory allows)", 0, 1 << 24},
    {"-t", "threads", INT, OFF(n_thread), "N", "CPU threads (0 = one per core)", 0, 1024},
    {"-ngl", "gpu-layers", INT, OFF(n_gpu_layer), "N", "layers whose weights lie on the GPU, with --backend cuda (-1 = all that fit)", -1, 1 << 16},
    {NULL, "backend", TEXT, OFF(backend), "NAME", "auto (the CPU), cpu or cuda", 0, 0},
    {"-s", "seed", U64, OFF(sampling.seed), "N", "random seed (-1 = random)", 0, 0},
    {NULL, "temp", FLOAT, OFF(sampling.temp), "T", "temperature (0 = greedy; default 0.8)", 0, 100},
    {NULL, "top-k", INT, OFF(sampling.top_k), "N", "keep the N likeliest tokens (0 = all; default 40)", -1, 1 << 24},
    {NULL, "top-p", FLOAT, OFF(sampling.top_p), "P", "keep tokens up to this total probability (default 0.95)", 0, 1},
    {NULL, "min-p", FLOAT, OFF(sampling.min_p), "P", "drop tokens below P times the likeliest (default 0.05)", 0, 1},
    {NULL, "repeat-penalty", FLOAT, OFF(sampling.repeat_penalty), "X", "penalise recent tokens (1 = off)", 0, 100},
    {NULL, "repeat-last-n", INT, OFF(sampling.repeat_last_n), "N", "how many tokens count as recent (default 64)", -1, 1 << 24},
    {"-n", "predict", INT, OFF(n_predict), "N", "most tokens to generate (-1 = until the model stops)", -1, 1 << 24},
    {"-p", "prompt", TEXT, OFF(prompt), "TEXT", "the prompt (bench: prompt lengths, e.g. 512,4096)", 0, 0},
    {"-f", "file", TEXT, OFF(file), "FILE", "read the prompt from a file", 0, 0},
    {"-sys", "system-prompt", TEXT, OFF(system), "TEXT", "system prompt of a new conversation", 0, 0},
    {NULL, "kv", TEXT, OFF(kv), "NAME", "KV cache format: exact, 8/8, 8/4, 4/4, adaptive, ...; `dogear presets` lists all, lossy ones marked", 0, 0},
    {NULL, "kv-budget", SIZE, OFF(kv_budget_bytes), "SIZE", "memory for KV, e.g. 2G (0 = automatic)", 0, 0},
    {NULL, "store-budget", SIZE, OFF(store_budget_bytes), "SIZE", "disk for the caches of all conversations, kept until changed (0 = automatic)", 0, 0},
    {NULL, "coverage", FLOAT, OFF(coverage), "C", "attention mass that sparse attention keeps, 0.7 to 1 (1 = dense, the default)", ENGINE_COVERAGE_MIN, 1},
    {NULL, "sparse-from", INT, OFF(sparse_from), "N", "measuring: sparse attention from N tokens on, even where it does not pay", 0, 1 << 30},
    {NULL, "db", TEXT, OFF(db), "FILE", "conversation store", 0, 0},
    {NULL, "no-save", FLAG, OFF(no_save), NULL, "leave nothing on disk", 0, 0},
    {"-r", "resume", RESUME, OFF(resume_id), "[ID]", "open a saved conversation (the latest without ID); ask without a prompt answers what was left open", 0, 0},
    {NULL, "raw", FLAG, OFF(raw), NULL, "ignore the chat template: continue the text", 0, 0},
    {NULL, "json", FLAG, OFF(json), NULL, "JSON on stdout", 0, 0},
    {NULL, "ids", FLAG, OFF(ids), NULL, "tokenize: ids only", 0, 0},
    {NULL, "special", FLAG, OFF(special), NULL, "tokenize: recognise control tokens in the text", 0, 0},
    {NULL, "tokens", TEXT, OFF(tokens), "FILE", "logits: int32 token ids", 0, 0},
    {NULL, "out", TEXT, OFF(out), "FILE", "logits, export: where to write", 0, 0},
    {NULL, "text", TEXT, OFF(text), "FILE", "eval: text to measure on", 0, 0},
    {NULL, "attention", FLAG, OFF(attention), NULL, "eval: what presets keep of attention itself, on --text", 0, 0},
    {NULL, "requests", FLAG, OFF(requests), NULL, "eval: every question of a suite anew, not in one chat", 0, 0},
    {NULL, "suite", TEXT, OFF(suite), "NAME", "eval: a task suite, e.g. recall", 0, 0},
    {"-d", "depth", TEXT, OFF(depths), "LIST", "bench: context depths, e.g. 0,4096", 0, 0},
    {NULL, "reps", INT, OFF(n_rep), "N", "bench: repetitions (also -r N)", 1, 1000},
    {NULL, "ops", FLAG, OFF(ops), NULL, "bench: time every operation by itself, too", 0, 0},
    {NULL, "format", TEXT, OFF(format), "NAME", "export: md, json, or dogear (one file, exact)", 0, 0},
    {NULL, "with-kv", FLAG, OFF(with_kv), NULL, "export: put the cache into the file too", 0, 0},
    {NULL, "repair", FLAG, OFF(repair), NULL, "doctor: drop damaged cache, rebuild the search index", 0, 0},
    {NULL, "calibrate", FLAG, OFF(calibrate), NULL, "doctor: measure how far the model's cache may be compressed", 0, 0},
    {"-y", "yes", FLAG, OFF(yes), NULL, "do not ask before deleting", 0, 0},
    {NULL, "theme", TEXT, OFF(theme), "NAME", "dark, light or mono", 0, 0},
    {NULL, "font", TEXT, OFF(font), "NAME", "desktop: font family (default: the desktop's monospace)", 0, 0},
    {NULL, "screenshot", TEXT, OFF(screenshot), "FILE", "desktop: save a PNG when all is drawn and answered, then leave", 0, 0},
    {NULL, "frame-log", TEXT, OFF(frame_log), "FILE", NULL, 0, 0},
    {NULL, "frame-text", TEXT, OFF(frame_text), "FILE", NULL, 0, 0},
    {NULL, "fake", TEXT, OFF(fake), "FILE", NULL, 0, 0},
    {"-h", "help", FLAG, OFF(help), NULL, "this text", 0, 0},
    {NULL, "version", FLAG, OFF(version), NULL, "version", 0, 0},
};
enum { N_OPTION = sizeof table / sizeof *table };

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
    if (isinf(t->max))
        return err_set(e, ERR_USAGE, "--%s: \"%s\" is no number", t->long_name, v);
    return err_set(e, ERR_USAGE, "--%s: \"%s\" is not a number from %.10g to %.10g", t->long_name, v,
                   t->min, t->max);
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
            return err_set(e, ERR_USAGE, "--%s: \"%s\" is no whole number", t->long_name, v);
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
        const struct option *t = NULL;
        for (int i = 0; i < N_OPTION; i++)
            if (strlen(table[i].long_name) == (size_t)(key_end - key) &&
                !strncmp(table[i].long_name, key, (size_t)(key_end - key)))
                t = &table[i];
        if (!eq || !t) {
            *key_end = 0;
            st = err_set(e, ERR_USAGE, "%s:%d: \"%s\" is no setting; write key = value, keys are the long options", path, n, key);
            break;
        }
        char *v = eq + 1 + strspn(eq + 1, " \t");
        char *v_end = v + strlen(v);
        while (v_end > v && isspace((unsigned char)v_end[-1]))
            *--v_end = 0;
        st = set_value(o, t, v, e);
        if (st != OK)
            err_prefix(e, "%s:%d", path, n);
    }
    free(line);
    fclose(f);
    free(path);
    return st;
}

static const struct option *find(const char *arg)
{
    for (int i = 0; i < N_OPTION; i++) {
        if (table[i].short_name && !strcmp(arg, table[i].short_name))
            return &table[i];
        if (!strncmp(arg, "--", 2) && !strcmp(arg + 2, table[i].long_name))
            return &table[i];
    }
    return NULL;
}

static bool is_id(const char *s)
{
    return *s && strspn(s, "0123456789") == strlen(s);
}

enum status options_parse(struct options *o, const char *command, int argc, char **argv, int first,
                          struct err *e)
{
    bool bench = !strcmp(command, "bench");
    bool only_words = false;
    o->words = mem_calloc((size_t)argc + 1, sizeof *o->words);
    for (int i = first; i < argc; i++) {
        char *arg = argv[i];
        if (only_words || arg[0] != '-' || !arg[1]) {
            o->words[o->n_word++] = arg;
            continue;
        }
        if (!strcmp(arg, "--")) {
            only_words = true;
            continue;
        }
        char *eq = !strncmp(arg, "--", 2) ? strchr(arg, '=') : NULL;
        char *name = eq ? mem_strndup(arg, (size_t)(eq - arg)) : mem_strdup(arg);
        const struct option *t = find(name);
        if (bench && !strcmp(name, "-r"))
            t = find("--reps");
        if (!t) {
            enum status st = err_set(e, ERR_USAGE, "unknown option %s; see dogear %s --help", name,
                                     command);
            free(name);
            return st;
        }
        free(name);
        if (t->kind == FLAG && !eq) {
            *(bool *)((char *)o + t->off) = true;
            continue;
        }
        const char *v = eq ? eq + 1 : i + 1 < argc ? argv[i + 1] : NULL;
        if (t->kind == RESUME && !eq && (!v || !is_id(v))) {
            o->resume = true;
            continue;
        }
        if (!v)
            return err_set(e, ERR_USAGE, "%s needs a value (%s)", arg, t->arg);
        if (!eq)
            i++;
        TRY(set_value(o, t, v, e));
    }
    if (bench) {
        o->prompts_n = o->prompt;
        o->prompt = NULL;
    }
    return OK;
}

void options_help(const char *command)
{
    const struct cli_command *c = command ? cli_command_find(command) : NULL;
    if (c) {
        printf("usage: dogear %s %s\n\n%s.\n\n", c->name, c->args, c->help);
    } else {
        printf("Dogear: local chat. Fold the corner of a conversation and come back to it.\n\n"
               "usage: dogear [command] [options]\n\nCommands:\n");
        for (c = cli_commands; c->name; c++) {
            char head[64];
            snprintf(head, sizeof head, "%s %s", c->name, c->args);
            if (strlen(head) > 26)
                printf("  %s\n  %-26s %s\n", head, "", c->help);
            else
                printf("  %-26s %s\n", head, c->help);
        }
        printf("\n");
    }
    printf("Options (llama.cpp's names, meanings and defaults where it has them):\n");
    for (int i = 0; i < N_OPTION; i++) {
        const struct option *t = &table[i];
        if (!t->help)
            continue;
        char head[64];
        snprintf(head, sizeof head, "%s%s--%s%s%s", t->short_name ? t->short_name : "",
                 t->short_name ? ", " : "", t->long_name, t->arg ? " " : "", t->arg ? t->arg : "");
        printf("  %-26s %s\n", head, t->help);
    }
    printf("\nSettings can be kept in %s/dogear/config as `long-option = value`.\n",
           "${XDG_CONFIG_HOME:-~/.config}");
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
               "  case $prev in -m|--model|-f|--file|--db|--out|--tokens|--text) COMPREPLY=($(compgen -f -- \"$cur\")); return;; esac\n"
               "  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n"
               "  elif ((COMP_CWORD == 1)); then COMPREPLY=($(compgen -W \"%s\" -- \"$cur\"))\n"
               "  else COMPREPLY=($(compgen -f -- \"$cur\")); fi\n}\ncomplete -o filenames -F _dogear dogear\n",
               str_c(&names) + 1, str_c(&commands));
    } else if (!strcmp(shell, "zsh")) {
        printf("#compdef dogear\n_dogear() {\n  if [[ $PREFIX == -* ]]; then compadd -- %s\n"
               "  elif ((CURRENT == 2)); then compadd -- %s\n  else _files; fi\n}\n"
               "compdef _dogear dogear\n",
               str_c(&names) + 1, str_c(&commands));
    } else if (!strcmp(shell, "fish")) {
        for (const struct cli_command *c = cli_commands; c->name; c++)
            printf("complete -c dogear -n __fish_use_subcommand -a %s -d '%s'\n", c->name, c->help);
        for (int i = 0; i < N_OPTION; i++)
            if (table[i].help)
                printf("complete -c dogear -l %s%s\n", table[i].long_name, table[i].arg ? " -r" : "");
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
