/* `dogear` and `dogear chat`: the terminal. */
#include <stdio.h>
#include <unistd.h>

#include "app/chat.h"
#include "app/cli.h"
#include "app/loop.h"
#include "sessions/sessions.h"

static int run(struct options *o, struct loop_wake *wake)
{
    struct err e;
    struct sessions *store = NULL;
    struct engine *en = NULL;
    int rc;
    if (cli_store(o, &store, &e) != OK ||
        cli_engine(o, false, sessions_kv_io(store), wake, &en, &e) != OK) {
        rc = e.code == ERR_CANCELLED ? 130 : cli_fail(&e);
        goto out;
    }
    struct chat *c = chat_new(en, store);
    chat_set_sampling(c, &o->sampling, o->n_predict);
    chat_set_raw(c, o->raw);
    if (o->system)
        chat_set_system(c, o->system, &e);
    const struct engine_info *info = engine_info(en);
    struct loop_options lo = {
        .wake = wake,
        .engine = en,
        .theme = o->theme,
        .history_path = o->no_save ? "" : NULL, /* --no-save leaves nothing on disk */
        .prompt = o->prompt,
        .notice = info->notice,
        .open_id = o->resume_id,
        .pick = o->resume && o->resume_id == 0,
    };
    rc = loop_run(c, store, &lo);
    chat_free(c);
out:
    engine_close(en);
    sessions_close(store);
    return rc;
}

int cmd_chat(struct options *o)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
        fprintf(stderr, "dogear: the chat needs a terminal; use `dogear ask` in scripts\n");
        return 2;
    }
    struct err e;
    struct loop_wake wake;
    if (loop_wake_open(&wake, &e) != OK)
        return cli_fail(&e);
    int rc = run(o, &wake);
    loop_wake_close(&wake);
    return rc;
}
