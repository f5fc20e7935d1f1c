/* Options: one table for the command line, the config file and the help text.
 *
 * Names, meanings and defaults follow llama.cpp where it has them. Values come from, later wins:
 * defaults, $XDG_CONFIG_HOME/dogear/config (key = value, # comments), the command line. */
#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/err.h"
#include "engine/engine.h"

enum { OPTIONS_VALUE = 32 }; /* bytes that hold any number as text */

struct options {
    char *model;         /* path or name; NULL = find one */
    char *db;            /* NULL = default place */
    char *prompt;        /* -p, or the positional words of `ask` */
    char *file;          /* -f */
    char *system;        /* -sys */
    bool system_asked;   /* on the command line: of a conversation that is resumed, too */
    char *out;           /* --out */
    char *tokens;        /* --tokens */
    char *text;          /* --text */
    char *suite;         /* --suite */
    char *prompts_n;     /* bench -p list */
    char *depths;        /* bench -d list */
    char *kv;            /* preset, or a comma list for eval and bench */
    char *backend;
    char *reasoning;     /* on, off or auto */
    char *theme;
    char *format;        /* export: md, json or dogear; NULL = by the name */
    char *fake;          /* hidden: script of the fake engine */
    char *font;          /* desktop: family */
    char *screenshot;    /* desktop: picture to save before leaving */
    char *frame_log;     /* hidden: file for the milliseconds of each frame */
    char *frame_text;    /* hidden: file that always holds the text of the last frame */
    int32_t n_ctx, n_thread, n_gpu_layer, n_predict, n_rep;
    bool n_predict_set;
    uint64_t kv_budget_bytes;
    uint64_t store_budget_bytes; /* UINT64_MAX = as it is */
    float coverage;
    int32_t sparse_from;
    bool attention, requests;
    struct engine_sampling sampling;
    bool json, no_save, ids, tensors, special, raw, resume, yes, help, version, repair, with_kv, calibrate, ops;
    int64_t resume_id;   /* 0 = the most recent */
    char **words;        /* positional arguments, borrowed from argv */
    int n_word;
};

void options_init(struct options *o);
void options_fini(struct options *o);

/* Reads the config file when there is one; a bad line is an error that names file and line. */
enum status options_config(struct options *o, struct err *e);
/* Where the command stands, options may come before it; 0 = none is named. */
int options_command(int argc, char **argv);
/* Parses all but argv[at], the command; what does not go with it is an error. bench gives -p, -n, -d,
 * -r llama-bench's meaning. */
enum status options_parse(struct options *o, const char *command, int argc, char **argv, int at,
                          struct err *e);

/* What the options of sampling say, for a chat that changes them: the i-th one's name, value and
 * help; false past the last. */
bool options_sampling(const struct engine_sampling *s, int i, const char **ret_name,
                      char ret_value[OPTIONS_VALUE], const char **ret_help);
/* Sets the one of that name, as on the command line, and returns which it is; ERR_NOT_FOUND when
 * there is none, ERR_USAGE when it takes no such value. */
enum status options_sampling_set(struct engine_sampling *s, const char *name, const char *value,
                                 int *ret_i, struct err *e);

/* "4096", "512K", "1.5G" (powers of 1024). */
enum status options_size(const char *s, uint64_t *ret, struct err *e);
/* ERR_USAGE for a KV budget that this machine has no memory for. */
enum status options_fits_memory(uint64_t kv_budget_bytes, struct err *e);
/* Comma list of non-negative integers; returns how many, at most max. */
enum status options_list(const char *s, int32_t *ret, int max, int *ret_n, struct err *e);

/* Usage on stdout: all commands, or one with the options that go with it. */
void options_help(const char *command);
/* Completion script of the shell ("bash", "zsh", "fish"); false when unknown. */
bool options_completion(const char *shell);
/* The manual page on stdout. */
void options_man(void);

#endif
