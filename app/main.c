#include <errno.h>
#include <locale.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "app/cli.h"
#include "app/options.h"

static int run(int argc, char **argv)
{
    /* `dogear [options]` and `dogear chat [options]` are the same */
    int at = options_command(argc, argv);
    const char *name = at ? argv[at] : "chat";
    if (!strncmp(argc > 1 ? argv[1] : "", "--completion-", 13)) {
        if (options_completion(argv[1] + 13))
            return 0;
        fprintf(stderr, "dogear: no completion for \"%s\"; bash, zsh and fish have one\n", argv[1] + 13);
        return 2;
    }
    if (argc == 2 && !strcmp(argv[1], "--man")) {
        options_man();
        return 0;
    }
    const struct cli_command *command = cli_command_find(name);
    if (!command && !strcmp(name, "help")) {
        options_help(argv[at + 1]);
        return 0;
    }
    if (!command) {
        fprintf(stderr, "dogear: unknown command \"%s\"; see dogear --help\n", name);
        return 2;
    }

    struct options o;
    struct err config, e;
    options_init(&o);
    int rc;
    /* What is wrong in the file is told later: --help and --version do not need it. */
    bool configured = options_config(&o, &config) == OK;
    bool parsed = options_parse(&o, name, argc, argv, at, &e) == OK;
    if (!parsed || (!configured && !o.help && !o.version)) {
        rc = cli_fail(configured ? &e : &config);
    } else if (o.help) {
        options_help(at ? name : NULL);
        rc = 0;
    } else if (o.version) {
        puts("dogear " DOGEAR_VERSION);
        rc = 0;
    } else {
        rc = command->run(&o);
    }
    options_fini(&o);
    return rc;
}

/* Whether all that was printed got out. A full disk is told here, once for all commands; a reader that
 * has gone (`dogear list | head`) knows. */
static bool printed(void)
{
    errno = 0;
    bool failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed && errno != EPIPE)
        fprintf(stderr, "dogear: standard output: %s\n", errno ? strerror(errno) : "writing failed");
    return !failed;
}

int main(int argc, char **argv)
{
    setlocale(LC_CTYPE, "");
    setlocale(LC_NUMERIC, "C");
    signal(SIGPIPE, SIG_IGN);
    /* One heap that grows by megabytes: those of threads grow by single pages, and a resumed chat is
     * tens of thousands of small allocations. */
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_TOP_PAD, 4 << 20);
    int rc = run(argc, argv);
    return printed() || rc ? rc : 1;
}
