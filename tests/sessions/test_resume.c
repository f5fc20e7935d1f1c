/* The real engine on a real store: random histories of turns, edits, forks, deletions, thinning and
 * budgets, lived twice. One life leaves and comes back wherever the dice say so (engine and store
 * are closed and opened again), the other only rests there and leaves nowhere but where thinning
 * has to take effect; both must give the same tokens in every turn. (Resting puts the newest rows
 * on disk, as leaving does: an edit finds them again, and rows are better than what is read again
 * over pages.) RESUME_HISTORIES sets how many (50); RESUME_SEED the first. */
#include "tests/sessions/store_test.h"

#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/engine.h"

enum { MAX_CHATS = 4, MAX_TURNS = 12, MAX_IDS = 1500, STEPS = 9, WORDS = 90 };

struct chat {
    int64_t id;
    bool alive;
    int32_t ids[MAX_IDS], n;
    int64_t message[MAX_TURNS]; /* and where each ends in ids */
    int32_t end[MAX_TURNS];
    int n_turn;
};

struct life {
    bool leaves, stops; /* stops: now and then a turn is begun for nothing */
    const char *kv;
    struct sessions *s;
    struct engine *en;
    struct chat c[MAX_CHATS];
    int n_chat;
    uint32_t rng, leave_rng;
    int32_t *out; /* tokens of all turns */
    int n_out, cap_out, n_left;
    int64_t n_reused, n_read;
};

static char *floors; /* the model's floor is measured once for all lives */

static int dice(uint32_t *rng, int n)
{
    *rng = *rng * 1664525u + 1013904223u;
    return (int)((uint64_t)(*rng >> 8) * (uint64_t)n >> 24);
}

static int below(struct life *w, int n)
{
    return dice(&w->rng, n);
}

static void come(struct life *w)
{
    CHECK_OK(sessions_open(store_file("dogear.db"), &w->s, &err_seen));
    struct engine_params p = {.model_path = getenv("DOGEAR_MEMO"),
                              .n_thread = 1,
                              .n_ctx = 2048,
                              .kv = w->kv,
                              .kv_budget_bytes = 256 << 20,
                              .kv_io = sessions_kv_io(w->s),
                              .cache_dir = floors};
    CHECK_OK(engine_open(&p, &w->en, &err_seen));
}

static void leave(struct life *w)
{
    engine_close(w->en);
    sessions_close(w->s);
}

static void note(struct life *w, const int32_t *ids, int32_t n)
{
    if (w->n_out + n > w->cap_out) {
        w->cap_out = 2 * (w->n_out + n);
        w->out = mem_realloc(w->out, (size_t)w->cap_out * sizeof *w->out);
    }
    memcpy(w->out + w->n_out, ids, (size_t)n * sizeof *ids);
    w->n_out += n;
}

/* Takes part in nothing: the engine puts what rests before it takes up another timeline. */
static void rest(struct life *w)
{
    struct engine_message m = {"user", "Hello", 5};
    struct engine_turn t = {.messages = &m, .n_message = 1, .raw = true, .n_predict = 1};
    uint64_t number;
    engine_sampling_default(&t.sampling);
    CHECK_OK(engine_submit(w->en, &t, &number, &err_seen));
    for (bool go = true; go;) {
        struct engine_event *ev = engine_wait(w->en, -1);
        assert_non_null(ev);
        assert_true(ev->kind != ENGINE_EV_FAILED);
        go = ev->kind != ENGINE_EV_DONE;
        engine_event_free(ev);
    }
}

static void turn(struct life *w, struct chat *c)
{
    static const char *const words[] = {"My",    "dog", "is",    "called", "Rex.", "What", "river",
                                        "Hello", "the", "house", "was",    "old.", "and",  "Tom"};
    char text[WORDS * 8] = "";
    uint64_t number;
    int n_word = 2 + below(w, WORDS - 2);
    for (int i = 0; i < n_word; i++) {
        strcat(text, words[below(w, 14)]);
        strcat(text, " ");
    }
    struct engine_message m = {"user", text, strlen(text)};
    struct engine_turn t = {.timeline = c->id,
                            .prefix = c->ids,
                            .n_prefix = c->n,
                            .messages = &m,
                            .n_message = 1,
                            .raw = true,
                            .n_predict = 3 + below(w, 20)};
    if (c->n_turn == MAX_TURNS || c->n + 400 > MAX_IDS)
        return;
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 0;
    int64_t parent = c->n_turn ? c->message[c->n_turn - 1] : 0;
    int32_t from = c->n;
    c->message[c->n_turn] = store_say(w->s, c->id, parent, "user", text);
    CHECK_OK(engine_submit(w->en, &t, &number, &err_seen));
    for (bool go = true; go;) {
        struct engine_event *ev = engine_wait(w->en, -1);
        assert_non_null(ev);
        if (ev->kind == ENGINE_EV_FAILED)
            fail_msg("%s", ev->err.text);
        if (ev->kind == ENGINE_EV_PROMPT || ev->kind == ENGINE_EV_TOKEN) {
            assert_true(c->n + ev->n_id <= MAX_IDS);
            memcpy(c->ids + c->n, ev->ids, (size_t)ev->n_id * sizeof *ev->ids);
            c->n += ev->n_id;
        }
        if (ev->kind == ENGINE_EV_DONE) {
            w->n_reused += ev->n_reused;
            w->n_read += ev->n_read;
            go = false;
        }
        engine_event_free(ev);
    }
    sessions_set_ids(w->s, c->message[c->n_turn], c->ids + from, c->n - from);
    c->end[c->n_turn++] = c->n;
    note(w, c->ids + from, c->n - from);
}

/* A turn, maybe after an edit, that is stopped soon: before it reads, while it does, or in its answer. */
static void stopped_turn(struct life *w, const struct chat *c)
{
    struct engine_message m = {"user", "And what did they find in the old house by the river?", 54};
    int at = dice(&w->leave_rng, c->n_turn + 1);
    struct engine_turn t = {.timeline = c->id,
                            .prefix = c->ids,
                            .n_prefix = at == c->n_turn ? c->n : c->end[at],
                            .messages = &m,
                            .n_message = dice(&w->leave_rng, 2),
                            .raw = true,
                            .n_predict = 40};
    uint64_t number;
    engine_sampling_default(&t.sampling);
    CHECK_OK(engine_submit(w->en, &t, &number, &err_seen));
    usleep((useconds_t)dice(&w->leave_rng, 3000));
    engine_cancel(w->en);
    for (bool go = true; go;) {
        struct engine_event *ev = engine_wait(w->en, -1);
        assert_non_null(ev);
        go = ev->kind != ENGINE_EV_DONE && ev->kind != ENGINE_EV_FAILED;
        engine_event_free(ev);
    }
}

static struct chat *fresh(struct life *w)
{
    if (w->n_chat == MAX_CHATS)
        return NULL;
    struct chat *c = &w->c[w->n_chat++];
    memset(c, 0, sizeof *c);
    c->alive = true;
    return c;
}

static struct chat *any(struct life *w)
{
    int pick[MAX_CHATS], n = 0;
    for (int i = 0; i < w->n_chat; i++)
        if (w->c[i].alive && w->c[i].n_turn)
            pick[n++] = i;
    return n ? &w->c[pick[below(w, n)]] : NULL;
}

/* What is dropped on disk counts once memory is empty. */
static void fade(struct life *w, struct chat *c)
{
    engine_close(w->en);
    if (below(w, 3)) {
        static const int32_t tiers[] = {2, 3, 4, 5, 6, 7};
        CHECK_OK(sessions_thin(w->s, c->id, tiers[below(w, 6)], NULL, &err_seen));
    } else { /* whatever the order, all but a pinned chat lose everything */
        CHECK_OK(sessions_pin(w->s, c->id, true, &err_seen));
        CHECK_OK(sessions_budget_set(w->s, 1, &err_seen));
        CHECK_OK(sessions_budget_set(w->s, 0, &err_seen));
        CHECK_OK(sessions_pin(w->s, c->id, false, &err_seen));
    }
    sessions_close(w->s);
    come(w);
}

static void step(struct life *w)
{
    int what = below(w, 12);
    struct chat *c = any(w), *other;
    if (!c || what == 0) {
        c = fresh(w);
        if (!c)
            return;
        CHECK_OK(sessions_create(w->s, "memo", &c->id, &err_seen));
        turn(w, c);
    } else if (what <= 6) {
        turn(w, c);
    } else if (what <= 8) { /* edit: another branch from somewhere on the path */
        c->n_turn = below(w, c->n_turn);
        c->n = c->n_turn ? c->end[c->n_turn - 1] : 0;
        turn(w, c);
    } else if (what == 9 && (other = fresh(w))) {
        *other = *c;
        CHECK_OK(sessions_fork(w->s, c->id, c->message[c->n_turn - 1], &other->id, &err_seen));
        turn(w, other);
    } else if (what == 10 && w->n_chat > 2) {
        CHECK_OK(sessions_delete(w->s, c->id, &err_seen));
        c->alive = false;
    } else if (what == 11) {
        fade(w, c);
        turn(w, c);
    }
}

static void live(struct life *w, bool leaves, bool stops, const char *kv, uint32_t seed)
{
    *w = (struct life){.leaves = leaves, .stops = stops, .kv = kv, .rng = seed, .leave_rng = seed * 7 + 1};
    store_dir_setup(NULL);
    come(w);
    for (int i = 0; i < STEPS; i++) {
        step(w);
        struct chat *c = w->stops ? any(w) : NULL;
        if (c)
            stopped_turn(w, c);
        if (dice(&w->leave_rng, 2) == 0)
            continue;
        w->n_left++;
        if (c && leaves) { /* comes back, begins and is stopped, leaves at once */
            leave(w);
            come(w);
            stopped_turn(w, c);
        }
        if (leaves) {
            leave(w);
            come(w);
        } else {
            rest(w);
        }
    }
    struct sessions_health h;
    CHECK_OK(sessions_check(w->s, false, &h, &err_seen));
    assert_string_equal(h.detail, "");
    leave(w);
    store_dir_teardown(NULL);
}

static void resume__any_history__says_the_same_as_never_having_left(void **state)
{
    static const char *const formats[] = {"exact", "8/4", "4/4", "adaptive"};
    const char *n = getenv("RESUME_HISTORIES"), *first = getenv("RESUME_SEED");
    int n_history = n ? atoi(n) : 50, n_left = 0, n_tok = 0;
    int64_t reused = 0, read_n = 0, stay_read = 0;
    if (!getenv("DOGEAR_MEMO") || access(getenv("DOGEAR_MEMO"), R_OK) != 0)
        skip();
    store_dir_setup(NULL);
    floors = mem_strdup(store_dir());
    struct life *stay = mem_calloc(1, sizeof *stay), *go = mem_calloc(1, sizeof *go);
    for (int i = 0; i < n_history; i++) {
        uint32_t seed = (uint32_t)(first ? atoi(first) : 1) + (uint32_t)i;
        live(stay, false, false, formats[(seed - 1) % 4], seed * 2654435761u);
        live(go, true, false, formats[(seed - 1) % 4], seed * 2654435761u);
        for (int k = 0; k < stay->n_out || k < go->n_out; k++)
            if (k >= stay->n_out || k >= go->n_out || stay->out[k] != go->out[k])
                fail_msg("seed %u, %s: token %d of %d (%d) differs", seed, formats[(seed - 1) % 4],
                         k, stay->n_out, go->n_out);
        n_left += go->n_left;
        n_tok += go->n_out;
        reused += go->n_reused;
        read_n += go->n_read;
        stay_read += stay->n_read;
        free(stay->out);
        free(go->out);
    }
    print_message("# %d histories, left %d times, %d tokens; reused %lld, read %lld (never leaving "
                  "%lld)\n",
                  n_history, n_left, n_tok, (long long)reused, (long long)read_n,
                  (long long)stay_read);
    store_remove(floors);
    free(floors);
    assert_true(n_left > n_history && reused > read_n / 4);
    free(stay);
    free(go);
}

/* Turns that are stopped may leave other rows behind, so another text is no fault; a crash or an unsound
 * store is. */
static void resume__stopped_turns__leave_all_sound(void **state)
{
    static const char *const formats[] = {"exact", "8/4", "4/4", "adaptive"};
    const char *n = getenv("RESUME_HISTORIES");
    if (!getenv("DOGEAR_MEMO") || access(getenv("DOGEAR_MEMO"), R_OK) != 0)
        skip();
    store_dir_setup(NULL);
    floors = mem_strdup(store_dir());
    struct life *w = mem_calloc(1, sizeof *w);
    for (int i = 0; i < (n ? atoi(n) : 24); i++) {
        live(w, true, true, formats[i % 4], (uint32_t)(i + 1) * 2246822519u);
        free(w->out);
    }
    store_remove(floors);
    free(floors);
    free(w);
}

int main(void)
{
    store_dir_in_memory();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resume__any_history__says_the_same_as_never_having_left),
        cmocka_unit_test(resume__stopped_turns__leave_all_sound),
    };
    return cmocka_run_group_tests_name("resume", tests, NULL, NULL);
}
