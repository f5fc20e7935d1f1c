/* `dogear verify`: what the cache of a saved conversation costs against an exact one. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "app/chat.h"
#include "app/cli.h"
#include "engine/base/json.h"
#include "sessions/sessions.h"
#include "ui/format.h"

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

static void print(const struct options *o, int64_t id, const char *kv,
                  const struct engine_fidelity *f)
{
    double nll = f->nll - f->nll_exact;
    if (o->json) {
        json_t *j = json_object();
        json_object_set_new(j, "conversation", json_count(id));
        json_object_set_new(j, "kv", json_string(kv));
        json_object_set_new(j, "n_tok", json_count(f->n_tok));
        json_object_set_new(j, "n", json_count(f->n));
        json_object_set_new(j, "kl_mean", json_number(f->kl_mean));
        json_object_set_new(j, "kl_p99", json_number(f->kl_p99));
        json_object_set_new(j, "top1", json_number(f->top1));
        json_object_set_new(j, "first_divergence", json_count(f->first_divergence));
        json_object_set_new(j, "nll", json_number(f->nll));
        json_object_set_new(j, "nll_exact", json_number(f->nll_exact));
        json_object_set_new(j, "kl_rounding", json_number(f->kl_rounding));
        json_object_set_new(j, "top1_rounding", json_number(f->top1_rounding));
        json_object_set_new(j, "n_rounding", json_count(f->n_rounding));
        json_print(j);
        return;
    }
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    printf("conversation      %lld, %s tokens, %s compared, cache %s\n", (long long)id,
           format_count(a, f->n_tok), format_count(b, f->n), kv);
    printf("KL                %.6f nats per token on average, 99 %% below %.5f\n", f->kl_mean,
           f->kl_p99);
    printf("same first choice %.2f %%\n", 100 * f->top1);
    if (f->first_divergence < 0)
        printf("first differs     nowhere\n");
    else
        printf("first differs     at token %s\n", format_count(a, f->first_divergence));
    if (!isnan(nll))
        printf("NLL               %.4f, exact %.4f, difference %+.5f\n", f->nll, f->nll_exact, nll);
    if (f->n_rounding > 0)
        printf("rounding alone    KL %.6f, same first choice %.2f %%: an exact cache, its input moved by 2^-16 "
               "(%s tokens)\n",
               f->kl_rounding, 100 * f->top1_rounding, format_count(a, f->n_rounding));
}

static int verify(struct chat *c, const struct options *o, struct engine *en)
{
    struct err e;
    bool bar = isatty(STDERR_FILENO), stopping = false;
    if (chat_verify(c, &e) != OK)
        return cli_fail(&e);
    for (;;) {
        struct chat_event ev;
        bool got = chat_next(c, 200, &ev);
        if (interrupted && !stopping) {
            chat_cancel(c);
            stopping = true;
        }
        if (!got)
            continue;
        if (bar && ev.kind == CHAT_EV_VERIFY)
            fprintf(stderr, "\rverifying %3d %%",
                    (int)(100.0 * ev.done.n_tok_done / ev.done.n_tok_total));
        if (ev.kind == CHAT_EV_NOTICE)
            fprintf(stderr, "dogear: %s\n", ev.text);
        if (bar && (ev.kind == CHAT_EV_VERIFIED || ev.kind == CHAT_EV_FAILED))
            fprintf(stderr, "\r               \r");
        if (ev.kind == CHAT_EV_FAILED)
            return cli_fail(&ev.err);
        if (ev.kind == CHAT_EV_VERIFIED) {
            if (ev.done.fidelity.n > 0 || o->json)
                print(o, chat_conversation(c), engine_info(en)->kv, &ev.done.fidelity);
            return stopping ? 130 : 0;
        }
    }
}

int cmd_verify(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    struct sessions *store = NULL;
    struct chat *c = NULL;
    struct sessions_row *rows = NULL;
    int32_t n = 0;
    int64_t id = 0;
    int rc = 1;
    enum status st = cli_store_saved(o, &store, &e);
    if (st == OK && o->n_word > 0)
        st = cli_id(o, 0, &id, &e);
    else if (st == OK && o->resume_id)
        id = o->resume_id;
    else if (st == OK && (st = sessions_list(store, 1, &rows, &n, &e)) == OK) {
        if (n == 1)
            id = rows[0].id;
        else
            st = err_set(&e, ERR_NOT_FOUND, "there is no conversation to verify yet");
        sessions_rows_free(rows, n);
    }
    if (st != OK || cli_engine(o, false, sessions_kv_io(store), NULL, &en, &e) != OK) {
        rc = cli_fail(&e);
        goto out;
    }
    struct sigaction act = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    c = chat_new(en, store);
    rc = chat_open(c, id, &e) == OK ? verify(c, o, en) : cli_fail(&e);
out:
    chat_free(c);
    engine_close(en);
    return cli_store_close(store, rc);
}
