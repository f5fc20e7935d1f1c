/* Several chats on one engine, which is scripted, and one store in memory: whose turn runs, who waits, what
 * belongs to whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/chats.h"
#include "sessions/sessions.h"

static const char script[] = "rate 0\n"
                             "echo\n"
                             "on slow\n"
                             "stat kl_measured 0.25\n"
                             "rate 20\n"
                             "say a b c d e f g h i j k l m n o p q r s t u v w x y z\n"
                             "on broken\n"
                             "fail the cache is full\n";

struct world {
    struct engine *en;
    struct sessions *store;
    struct chats *cs;
    struct err e;
};

static int set_up(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    char path[] = "/tmp/dogear-chats-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0 || write(fd, script, sizeof script - 1) < 0 || close(fd) != 0)
        return -1;
    struct engine_params p = {.fake_script = path};
    if (engine_open(&p, &w->en, &w->e) != OK || sessions_open(":memory:", &w->store, &w->e) != OK)
        return -1;
    unlink(path);
    w->cs = chats_new(w->en, w->store);
    *state = w;
    return 0;
}

static int tear_down(void **state)
{
    struct world *w = *state;
    chats_free(w->cs);
    engine_close(w->en);
    free(sessions_end(w->store));
    sessions_close(w->store);
    free(w);
    return 0;
}

#define CHECK_OK(expr)                                                                             \
    do {                                                                                           \
        if ((expr) != OK)                                                                          \
            fail_msg("%s: %s", #expr, w->e.text);                                                  \
    } while (0)

static struct chat *view(const struct world *w)
{
    return chats_view(w->cs);
}

static int64_t say(struct world *w, const char *text)
{
    CHECK_OK(chat_send(view(w), text, strlen(text), &w->e));
    return chat_conversation(view(w));
}

/* The next event of a kind, whose it is in *ret; those before it are passed over. */
static struct chat_event next(struct world *w, enum chat_event_kind kind, int64_t *ret)
{
    struct chat_event ev;
    struct chat *whose;
    for (int i = 0; i < 20000; i++) {
        while (chats_poll(w->cs, &whose, &ev))
            if (ev.kind == kind) {
                *ret = chat_conversation(whose);
                return ev;
            }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    fail_msg("no event of kind %d", (int)kind);
    return ev;
}

/* "role:text|..." of the path, as the store has it (stored) or as it is shown. */
static const char *path(struct world *w, int64_t conversation, bool stored)
{
    static char text[2][4096];
    char *out = text[stored];
    size_t at = 0;
    out[0] = '\0';
    if (stored) {
        struct sessions_message *m;
        int32_t n;
        CHECK_OK(sessions_path_load(w->store, conversation, &m, &n, &w->e));
        for (int32_t i = 0; i < n; i++)
            at += (size_t)snprintf(out + at, sizeof text[0] - at, "%s%s:%s", i ? "|" : "", m[i].role, m[i].text);
        sessions_messages_free(m, n);
        return out;
    }
    struct chat *c = chats_find(w->cs, conversation);
    for (int32_t i = 0; i < chat_count(c); i++) {
        struct chat_message m;
        chat_get(c, i, &m);
        at += (size_t)snprintf(out + at, sizeof text[0] - at, "%s%s:%s", i ? "|" : "", m.role, m.text);
    }
    return out;
}

#define ALPHABET "a b c d e f g h i j k l m n o p q r s t u v w x y z"

static void chats__leaving__the_answer_goes_on(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "slow one");
    next(w, CHAT_EV_CHANGED, &whose);
    assert_ptr_equal(chats_writing(w->cs), view(w));
    chats_start_new(w->cs);
    assert_int_equal(chat_conversation(view(w)), 0);
    assert_int_equal(chat_count(view(w)), 0);
    assert_false(chat_running(view(w)));
    assert_true(chats_busy(w->cs));
    assert_ptr_equal(chats_writing(w->cs), chats_find(w->cs, a));
    /* come back to in the middle, and left again */
    CHECK_OK(chats_open(w->cs, a, &w->e));
    assert_true(chat_running(view(w)));
    chats_start_new(w->cs);
    struct chat_event ev = next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, a);
    assert_int_equal(ev.done.stop, ENGINE_STOP_EOS);
    assert_int_equal(chat_count(view(w)), 0);
    assert_false(chats_busy(w->cs));
    assert_string_equal(path(w, a, true), "user:slow one|assistant:" ALPHABET);
    /* it is remembered until it is looked at, and no longer */
    assert_non_null(chats_find(w->cs, a));
    assert_ptr_not_equal(chats_find(w->cs, a), view(w));
    CHECK_OK(chats_open(w->cs, a, &w->e));
    assert_string_equal(path(w, a, false), "user:slow one|assistant:" ALPHABET);
    chats_start_new(w->cs);
    assert_null(chats_find(w->cs, a));
}

static void chats__waiting__first_come_first_served_and_stored_at_once(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "slow one"), order[3];
    next(w, CHAT_EV_CHANGED, &whose);
    chats_start_new(w->cs);
    int64_t b = say(w, "two");
    chats_start_new(w->cs);
    int64_t c = say(w, "three");
    CHECK_OK(chats_open(w->cs, b, &w->e)); /* looking at it makes nobody earlier */
    assert_true(chat_waiting(view(w)));
    assert_true(chat_waiting(chats_find(w->cs, c)));
    assert_int_equal(chat_send(view(w), "more", 4, &w->e), ERR_BUSY);
    assert_string_equal(path(w, b, true), "user:two");
    assert_string_equal(path(w, c, true), "user:three");
    for (int i = 0; i < 3; i++)
        next(w, CHAT_EV_DONE, &order[i]);
    assert_int_equal(order[0], a);
    assert_int_equal(order[1], b);
    assert_int_equal(order[2], c);
    assert_string_equal(path(w, b, true), "user:two|assistant:two");
    assert_string_equal(path(w, c, true), "user:three|assistant:three");
}

static void chats__cancel__each_its_own(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "slow one");
    next(w, CHAT_EV_CHANGED, &whose);
    chats_start_new(w->cs);
    int64_t b = say(w, "two");
    chat_cancel(view(w));
    struct chat_event ev = next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, b);
    assert_int_equal(ev.done.stop, ENGINE_STOP_CANCEL);
    assert_false(chat_running(view(w)));
    assert_true(chat_running(chats_find(w->cs, a)));
    assert_string_equal(path(w, b, true), "user:two");
    CHECK_OK(chat_regenerate(view(w), &w->e));
    assert_true(chat_waiting(view(w)));
    chat_cancel(chats_find(w->cs, a));
    ev = next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, a);
    assert_int_equal(ev.done.stop, ENGINE_STOP_CANCEL);
    ev = next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, b);
    assert_int_equal(ev.done.stop, ENGINE_STOP_EOS);
    assert_string_equal(path(w, b, true), "user:two|assistant:two");
}

static void chats__dropped__ends_its_turn_and_the_next_begins(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "slow one");
    next(w, CHAT_EV_CHANGED, &whose);
    chats_start_new(w->cs);
    int64_t b = say(w, "two");
    chats_drop(w->cs, a);
    CHECK_OK(sessions_delete(w->store, a, &w->e));
    assert_null(chats_find(w->cs, a));
    struct chat_event ev = next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, b);
    assert_int_equal(ev.done.stop, ENGINE_STOP_EOS);
    chats_drop(w->cs, b); /* in view: a new one takes its place */
    assert_int_equal(chat_conversation(view(w)), 0);
}

static void chats__failure__is_its_own(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "slow one");
    chats_start_new(w->cs);
    int64_t b = say(w, "broken");
    CHECK_OK(chats_open(w->cs, a, &w->e));
    struct chat_event ev = next(w, CHAT_EV_FAILED, &whose);
    assert_int_equal(whose, b);
    assert_string_equal(ev.err.text, "the cache is full");
    assert_string_equal(path(w, a, true), "user:slow one|assistant:" ALPHABET);
    assert_false(chats_busy(w->cs));
}

static void chats__quitting__keeps_what_has_come(void **state)
{
    struct world *w = *state;
    struct chat_message m;
    int64_t whose, a = say(w, "slow one");
    do
        next(w, CHAT_EV_CHANGED, &whose);
    while (chat_count(view(w)) < 2 || (chat_get(view(w), 1, &m), m.len < 6));
    char want[64];
    snprintf(want, sizeof want, "user:slow one|assistant:%s", m.text);
    chats_start_new(w->cs);
    int64_t b = say(w, "two");
    chats_free(w->cs);
    assert_string_equal(path(w, a, true), want);
    assert_string_equal(path(w, b, true), "user:two");
    w->cs = chats_new(w->en, w->store);
    CHECK_OK(chats_open(w->cs, a, &w->e));
    chat_get(view(w), 1, &m);
    assert_true(m.cut);
}

static void chats__settings__are_those_of_all(void **state)
{
    struct world *w = *state;
    struct engine_sampling s = *chat_sampling(view(w));
    int64_t a = say(w, "slow one");
    s.temp = 0.125f;
    chats_start_new(w->cs);
    chat_set_sampling(view(w), &s, 7);
    CHECK_OK(chat_set_system(view(w), "Terse.", &w->e));
    CHECK_OK(chats_open(w->cs, a, &w->e));
    assert_true(chat_sampling(view(w))->temp == 0.125f);
    assert_int_equal(chat_predict(view(w)), 7);
    chats_start_new(w->cs);
    assert_string_equal(chat_system(view(w)), "Terse.");
}

static void chats__open__fails_without_moving(void **state)
{
    struct world *w = *state;
    int64_t whose, a = say(w, "one");
    next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(chats_open(w->cs, 999, &w->e), ERR_NOT_FOUND);
    assert_int_equal(chat_conversation(view(w)), a);
    assert_int_equal(chat_count(view(w)), 2);
    assert_null(chats_find(w->cs, 999));
}

/* Verifying waits, too, and what it finds stays with the chat that it is about. */
static void chats__verify__waits_and_is_kept_where_it_belongs(void **state)
{
    struct world *w = *state;
    int64_t whose, b = say(w, "two");
    next(w, CHAT_EV_DONE, &whose);
    chats_start_new(w->cs);
    int64_t a = say(w, "slow one");
    next(w, CHAT_EV_CHANGED, &whose);
    CHECK_OK(chats_open(w->cs, b, &w->e));
    CHECK_OK(chat_verify(view(w), &w->e));
    assert_true(chat_verifying(view(w)) && chat_waiting(view(w)));
    chats_start_new(w->cs);
    next(w, CHAT_EV_DONE, &whose);
    assert_int_equal(whose, a);
    struct chat_event ev = next(w, CHAT_EV_VERIFIED, &whose);
    assert_int_equal(whose, b);
    assert_true(ev.done.fidelity.n > 0);
    struct sessions_turn *t;
    int32_t n;
    CHECK_OK(sessions_turns(w->store, b, &t, &n, &w->e));
    assert_int_equal(n, 1);
    assert_non_null(strstr(t[0].figures, "\"kl_measured\":0.25"));
    sessions_turns_free(t, n);
    CHECK_OK(sessions_turns(w->store, a, &t, &n, &w->e));
    assert_int_equal(n, 1);
    assert_non_null(strstr(t[0].figures, "\"fidelity_n\":null"));
    sessions_turns_free(t, n);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(chats__leaving__the_answer_goes_on),
        CASE(chats__waiting__first_come_first_served_and_stored_at_once),
        CASE(chats__cancel__each_its_own),
        CASE(chats__dropped__ends_its_turn_and_the_next_begins),
        CASE(chats__failure__is_its_own),
        CASE(chats__quitting__keeps_what_has_come),
        CASE(chats__settings__are_those_of_all),
        CASE(chats__open__fails_without_moving),
        CASE(chats__verify__waits_and_is_kept_where_it_belongs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
