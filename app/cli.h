/* The command line's subcommands: one table row each, one cmd_*.c file per group. */
#ifndef APP_CLI_H
#define APP_CLI_H

#include <stdio.h>

#include "app/options.h"
#include "engine/base/err.h"
#include "engine/engine.h"

struct loop_wake;
struct sessions;

struct cli_command {
    const char *name, *args;
    int n_word; /* most words after the name; -1 = any */
    const char *help;
    int (*run)(struct options *o); /* returns the exit status: 0, 1 failure, 2 usage */
};
extern const struct cli_command cli_commands[]; /* ends with a NULL name */
const struct cli_command *cli_command_find(const char *name); /* NULL when unknown */

/* "dogear: text" on stderr; returns 2 for ERR_USAGE, else 1. */
int cli_fail(const struct err *e);

/* The engine the options ask for. With wake (the terminal screen; else NULL) it wakes that loop, shows
 * load progress on stdout and stops loading at a signal; without, progress goes to stderr when that
 * is a terminal. */
enum status cli_engine(const struct options *o, bool vocab_only, const struct kv_io *kv_io,
                       struct loop_wake *wake, struct engine **ret, struct err *e);
/* The same with progress told to `progress` (0..1; returns false to stop), which may be NULL. */
enum status cli_engine_with(const struct options *o, bool vocab_only, const struct kv_io *kv_io,
                            struct loop_wake *wake, bool (*progress)(void *ctx, float done),
                            void *ctx, struct engine **ret, struct err *e);
/* The store with the budget asked for, or one in memory with --no-save. */
enum status cli_store(const struct options *o, struct sessions **ret, struct err *e);
/* The same without making a file, for what needs saved conversations: where nothing was ever saved
 * the store is empty and in memory; a missing --db is an error. */
enum status cli_store_saved(const struct options *o, struct sessions **ret, struct err *e);
/* Closes it after a program whose exit status is rc; NULL is fine. An answer that could not be stored
 * goes to a file beside it, or where that is impossible to stdout, and the status is 1. */
int cli_store_close(struct sessions *s, int rc);
/* words[i] as a conversation id. */
enum status cli_id(const struct options *o, int i, int64_t *ret, struct err *e);
/* A whole file, or standard input for "-" or NULL. malloc'ed, NUL-terminated. */
enum status cli_read(const char *path, char **ret, size_t *ret_len, struct err *e);

/* Text from models and stores on a terminal: control characters but \n and \t are dropped, also those
 * above ASCII, which some terminals obey; bytes that are no UTF-8 become U+FFFD. Whole code points. */
void cli_write_safe(FILE *f, const char *s, size_t len);
void cli_print_safe(const char *s, size_t len); /* on stdout */
/* The same where stdout is a terminal, elsewhere the bytes as they are. */
void cli_print(const char *s, size_t len);

int cmd_chat(struct options *o);
int cmd_desktop(struct options *o);
int cmd_ask(struct options *o);
int cmd_list(struct options *o);
int cmd_show(struct options *o);
int cmd_search(struct options *o);
int cmd_rename(struct options *o);
int cmd_rm(struct options *o);
int cmd_fork(struct options *o);
int cmd_pin(struct options *o);
int cmd_thin(struct options *o);
int cmd_export(struct options *o);
int cmd_import(struct options *o);
int cmd_models(struct options *o);
int cmd_presets(struct options *o);
int cmd_info(struct options *o);
int cmd_tokenize(struct options *o);
int cmd_detokenize(struct options *o);
int cmd_logits(struct options *o);
int cmd_perplexity(struct options *o);
int cmd_verify(struct options *o);
int cmd_eval(struct options *o);
int cmd_bench(struct options *o);
int cmd_doctor(struct options *o);

#endif
