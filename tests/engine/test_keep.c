/* Timelines that leave memory and come back, through a store in memory: the answer goes on as if
 * nothing had happened; what is thinned, missing or damaged is read again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <dlfcn.h>

#include "engine/engine.h"
#include "engine/keep.h"
#include "engine/presets.h"
#include "tests/engine/bed.h"
#include "tests/support/tinymodel.h"

/* ---- a store ---- */

struct held {
    uint64_t fingerprint, hash;
    int32_t n_tok;
    struct kv_piece p;
};

static struct {
    struct held *held;
    int n;
    size_t put_bytes;
} store;

static void store_clear(void)
{
    for (int i = 0; i < store.n; i++)
        free((void *)store.held[i].p.data);
    free(store.held);
    memset(&store, 0, sizeof store);
}

static void store_remove(int i)
{
    free((void *)store.held[i].p.data);
    memmove(&store.held[i], &store.held[i + 1], (size_t)(store.n - i - 1) * sizeof *store.held);
    store.n--;
}

static void io_put(void *ctx, int64_t timeline, uint64_t fingerprint, int32_t n_tok, uint64_t hash,
                   const struct kv_piece *pieces, int n_piece)
{
    for (int i = 0; i < n_piece; i++) {
        assert_int_equal(n_tok, pieces[i].plane < 0 ? pieces[i].block : 64 * (pieces[i].block + 1));
        store.held = realloc(store.held, (size_t)(store.n + 1) * sizeof *store.held);
        struct held *h = &store.held[store.n++];
        *h = (struct held){fingerprint, hash, n_tok, pieces[i]};
        h->p.data = malloc(pieces[i].size_bytes);
        memcpy((void *)h->p.data, pieces[i].data, pieces[i].size_bytes);
        store.put_bytes += pieces[i].size_bytes;
    }
}

static bool holds(uint64_t fingerprint, uint64_t hash, int32_t n_tok, enum kv_io_kind kind)
{
    for (int i = 0; i < store.n; i++)
        if (store.held[i].fingerprint == fingerprint && store.held[i].hash == hash &&
            store.held[i].n_tok == n_tok && kv_io_kind(store.held[i].p.plane) == kind)
            return true;
    return false;
}

static void io_find(void *ctx, int64_t timeline, uint64_t fingerprint, const int32_t *ids,
                    int32_t n, struct kv_io_held *ret)
{
    uint64_t hash = KV_IO_HASH_EMPTY;
    bool going = true;
    *ret = (struct kv_io_held){0};
    for (int32_t i = 0; i < n; i++) {
        hash = kv_io_hash(hash, ids + i, 1);
        if ((i + 1) % 64 == 0 && going) {
            going = holds(fingerprint, hash, i + 1, KV_IO_PAGES);
            ret->n_block += going;
        }
        if (holds(fingerprint, hash, i + 1, KV_IO_ROWS))
            ret->n_rows = i + 1;
        if (holds(fingerprint, hash, i + 1, KV_IO_STATES))
            ret->n_state = i + 1;
    }
}

static int piece_order(const void *a, const void *b)
{
    const struct kv_piece *x = &((const struct held *)a)->p, *y = &((const struct held *)b)->p;
    return x->layer != y->layer ? x->layer - y->layer : x->plane - y->plane;
}

static int32_t io_load(void *ctx, int64_t timeline, uint64_t fingerprint, uint64_t hash,
                       int32_t n_tok, enum kv_io_kind kind,
                       bool (*visit)(void *visit_ctx, const struct kv_piece *piece),
                       void *visit_ctx)
{
    struct held found[512];
    int n = 0;
    for (int i = 0; i < store.n && n < 512; i++)
        if (store.held[i].fingerprint == fingerprint && store.held[i].hash == hash &&
            store.held[i].n_tok == n_tok && kv_io_kind(store.held[i].p.plane) == kind)
            found[n++] = store.held[i];
    qsort(found, (size_t)n, sizeof *found, piece_order);
    for (int i = 0; i < n; i++)
        if (!visit(visit_ctx, &found[i].p))
            break;
    return n ? 0 : -1;
}

/* ---- conversations ---- */

static struct engine *open_on(const char *backend, const char *kv)
{
    static const struct kv_io io = {NULL, io_put, io_find, io_load};
    const char *dir = getenv("DOGEAR_DATA");
    char path[1024];
    snprintf(path, sizeof path, "%s/_derived/TinyStories-656K-F16.rebuilt.gguf", dir ? dir : "");
    if (access(path, R_OK) != 0)
        skip();
    struct engine_params p = {.model_path = path,
                              .backend = backend,
                              .n_gpu_layer = -1,
                              .n_thread = 1,
                              .kv = kv,
                              .kv_io = &io};
    struct engine *en = NULL;
    struct err e;
    if (engine_open(&p, &en, &e) != OK)
        fail_msg("%s", e.text);
    return en;
}

static struct engine *open_model(const char *kv)
{
    return open_on("cpu", kv);
}

struct path { /* ids of a conversation so far */
    int64_t timeline; /* 0 = 7 */
    int32_t ids[1200];
    int32_t n, n_reused, n_read;
};

/* Adds a message and up to `n` generated tokens to the path; returns the turn's last event. */
static struct engine_event *turn_end(struct engine *en, struct path *path, const char *text,
                                     int32_t n)
{
    struct engine_message m = {"user", text, strlen(text)};
    struct engine_turn t = {.timeline = path->timeline ? path->timeline : 7,
                            .prefix = path->ids,
                            .n_prefix = path->n,
                            .messages = &m,
                            .n_message = 1,
                            .raw = true,
                            .n_predict = n};
    struct err e;
    uint64_t number;
    engine_sampling_default(&t.sampling);
    t.sampling.temp = 0;
    if (engine_submit(en, &t, &number, &e) != OK)
        fail_msg("%s", e.text);
    for (;;) {
        struct engine_event *ev = engine_wait(en, -1);
        assert_non_null(ev);
        if (ev->kind == ENGINE_EV_PROMPT || ev->kind == ENGINE_EV_TOKEN) {
            memcpy(path->ids + path->n, ev->ids, (size_t)ev->n_id * sizeof *ev->ids);
            path->n += ev->n_id;
        }
        if (ev->kind == ENGINE_EV_DONE || ev->kind == ENGINE_EV_FAILED)
            return ev;
        engine_event_free(ev);
    }
}

static void turn(struct engine *en, struct path *path, const char *text, int32_t n)
{
    struct engine_event *end = turn_end(en, path, text, n);
    if (end->kind == ENGINE_EV_FAILED)
        fail_msg("%s", end->err.text);
    path->n_reused = end->n_reused;
    path->n_read = end->n_read;
    engine_event_free(end);
}

static const char story[] =
    "Once upon a time there was a small dog who lived in a big house near the sea with a little "
    "girl named Lily. They played in the park and saw a big tree. The dog was happy and ran to the "
    "tree, but a bird was there. The bird said it was lost and could not find its mom. Lily and "
    "the dog wanted to help the bird. They went to the house and asked her mom. Her mom said they "
    "must look in the garden. They looked and looked and then they saw the other bird. It was "
    "sad, but when it saw the small bird it was very happy. They all went to the sea and played "
    "in the sand. The sun was warm and the water was blue. In the night they slept in the big "
    "house. The next day Lily woke up and the bird was not there. She was sad and the dog";
#define SECOND " went to the park and"

/* A first turn that reads n_byte bytes, about 6 a token, the story over and over. */
static void begin(struct engine *en, struct path *path, size_t n_byte)
{
    char text[4096];
    assert_true(n_byte < sizeof text);
    for (size_t i = 0; i < n_byte; i++)
        text[i] = story[i % (sizeof story - 1)];
    text[n_byte] = 0;
    turn(en, path, text, 12);
}

static void same_path(const struct path *a, const struct path *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->ids, b->ids, (size_t)a->n * sizeof *a->ids);
}

/* What they know beyond rows is not kept, so nothing is: within a process a chat goes on, opened
 * again it is read again. */
static void keep__published_methods__are_read_again(void **state)
{
    static const char *const presets[] = {"snapkv", "h2o", "streamingllm", "zipcache", "q8_0"};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        struct path path = {.n = 0};
        struct engine *en = open_model(presets[i]);
        assert_int_equal(engine_info(en)->kv_lossy, i < 3);
        assert_int_equal(engine_info(en)->kv_simulated, i >= 3);
        store_clear();
        begin(en, &path, 700);
        assert_int_equal(store.n, 0);
        struct path stay = path;
        turn(en, &stay, SECOND, 4);
        assert_true(stay.n_reused > path.n - 80);
        engine_close(en);
        en = open_model(presets[i]);
        int32_t had = path.n;
        turn(en, &path, SECOND, 4);
        assert_int_equal(path.n_reused, 0);
        assert_true(path.n_read > had);
        engine_close(en);
    }
}

static void keep__resume__says_the_same_as_never_having_left(void **state)
{
    static const char *const presets[] = {"exact", "8/8", "8/4", "4/4", "adaptive"};
    static const size_t lengths[] = {20, 300, 700, 1050, 1400, 2300};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        for (size_t j = 0; j < sizeof lengths / sizeof *lengths; j++) {
            struct path stay = {.n = 0}, leave = {.n = 0};
            struct engine *en = open_model(presets[i]);
            begin(en, &stay, lengths[j]);
            store_clear(); /* nothing of the first run may help the second */
            engine_close(en);
            en = open_model(presets[i]);
            store_clear();
            stay.n = 0;
            begin(en, &stay, lengths[j]);
            leave = stay;
            turn(en, &stay, SECOND, 40);
            engine_close(en);

            /* Only what was put in the first turn: redo it alone, then leave and come back. */
            store_clear();
            struct path again = {.n = 0};
            en = open_model(presets[i]);
            begin(en, &again, lengths[j]);
            same_path(&again, &leave);
            engine_close(en);
            en = open_model(presets[i]);
            turn(en, &leave, SECOND, 40);
            engine_close(en);
            if (leave.n_reused != stay.n_reused)
                fail_msg("%s, %d tokens: reused %d, not %d", presets[i], lengths[j], leave.n_reused,
                         stay.n_reused);
            same_path(&leave, &stay);
            print_message("# %s: %d of %d tokens taken up\n", presets[i], leave.n_reused, again.n);
        }
    store_clear();
}

static void keep__resume__reads_again_what_is_missing(void **state)
{
    struct path first = {.n = 0};
    struct engine *en = open_model("8/4");
    begin(en, &first, 2000);
    engine_close(en);
    /* Without the window: a little is read again. */
    for (int i = store.n - 1; i >= 0; i--)
        if (store.held[i].p.plane < 0)
            store_remove(i);
    struct path a = first;
    en = open_model("8/4");
    turn(en, &a, SECOND, 10);
    engine_close(en);
    print_message("# %d of %d reused without the window\n", a.n_reused, first.n);
    assert_true(a.n_reused >= 128 && a.n_reused % 64 == 0);

    /* Without a piece of block 1: everything from there on. */
    for (int i = store.n - 1; i >= 0; i--)
        if (store.held[i].p.plane < 0 || (store.held[i].p.block == 1 && store.held[i].p.layer == 0))
            store_remove(i);
    struct path b = first;
    en = open_model("8/4");
    turn(en, &b, SECOND, 10);
    engine_close(en);
    assert_true(b.n_reused <= 64);
    store_clear();
}

static void keep__resume__survives_damage(void **state)
{
    struct path first = {.n = 0};
    struct engine *en = open_model("8/8");
    begin(en, &first, 2000);
    engine_close(en);
    uint32_t x = 7;
    for (int round = 0; round < 60; round++) {
        /* The store's checksum would catch this; the engine must not crash even without it. */
        x = x * 1664525u + 1013904223u;
        struct held *h = &store.held[(x >> 8) % (uint32_t)store.n];
        size_t at = (x >> 4) % (round % 2 ? h->p.size_bytes : h->p.size_bytes < 64 ? 8 : 64);
        ((uint8_t *)h->p.data)[at] ^= (uint8_t)(1 + x % 255);
        if (round % 7 == 0 && h->p.size_bytes > 1)
            h->p.size_bytes--;
        struct path a = first;
        en = open_model("8/8");
        turn(en, &a, SECOND, 3);
        engine_close(en);
    }
    store_clear();
}

static void keep__resume__takes_thinned_pages(void **state)
{
    struct path first = {.n = 0};
    struct engine *en = open_model("adaptive");
    begin(en, &first, 2000);
    engine_close(en);
    for (int i = store.n - 1; i >= 0; i--)
        if (store.held[i].p.plane >= 3) /* 8/8 fades to 4/4 */
            store_remove(i);
    struct path a = first;
    en = open_model("adaptive");
    turn(en, &a, SECOND, 10);
    struct stats s;
    engine_stats(en, &s);
    engine_close(en);
    print_message("# %d of %d reused\n", a.n_reused, first.n);
    assert_true(a.n_reused > first.n - 2 && first.n > 192);
    assert_true(s.kv_chat_bytes < s.kv_f16_bytes);
    store_clear();
}

/* What does not fit as it was kept is not read again for that: other chats leave memory, then pages step
 * down as they come. */
static void keep__resume__makes_room(void **state)
{
    for (int full = 0; full < 2; full++) {
        struct path a = {.timeline = 7}, b = {.timeline = 8};
        struct stats s;
        struct engine *en = open_model("adaptive");
        begin(en, &a, 2400);
        engine_stats(en, &s);
        engine_close(en);
        en = open_model("adaptive");
        int64_t bytes = s.kv_chat_bytes;
        engine_set_kv_budget(en, (uint64_t)(bytes * (full ? 5 : 4) / (full ? 4 : 5)));
        if (full)
            begin(en, &b, 2000);
        int32_t had = a.n;
        turn(en, &a, SECOND, 4);
        engine_stats(en, &s);
        print_message("# %d of %d reused, in %lld bytes instead of %lld\n", a.n_reused, had,
                      (long long)s.kv_chat_bytes, (long long)bytes);
        assert_true(had > 320 && a.n_reused > had - 2);
        engine_close(en);
        store_clear();
    }
}

static void keep__put__writes_each_block_once(void **state)
{
    struct path a = {.n = 0};
    struct engine *en = open_model("4/4");
    begin(en, &a, 2000);
    size_t once = store.put_bytes;
    int n_before = store.n;
    for (int i = 0; i < 3; i++) { /* nothing new but windows */
        struct path b = a;
        turn(en, &b, "", 1);
    }
    int n_page = 0;
    for (int i = n_before; i < store.n; i++)
        n_page += store.held[i].p.plane >= 0;
    assert_int_equal(n_page, 0);
    assert_int_equal(store.n, n_before); /* the window waits until the timeline rests */
    assert_true(once > 0);
    engine_close(en);
    int n_window = 0;
    for (int i = 0; i < store.n; i++)
        n_window += store.held[i].p.plane == KV_IO_WINDOW;
    assert_true(n_window > 0);
    store_clear();
}

/* Rows of the window that were put from held[from] on, in tokens. */
static int32_t rows_put(int from, size_t row_bytes)
{
    size_t sum = 0;
    for (int i = from; i < store.n; i++)
        if (store.held[i].p.plane == KV_IO_WINDOW && store.held[i].p.layer == 0)
            sum += store.held[i].p.size_bytes;
    return (int32_t)(sum / row_bytes);
}

static void keep__rest__puts_only_rows_that_are_new(void **state)
{
    enum { TURNS = 4, ANSWER = 9 };
    struct path a = {.n = 0};
    struct engine *en = open_model("4/4");
    begin(en, &a, 1500);
    engine_close(en);
    size_t whole = 0; /* of KV_IO_ROWS_TOK tokens */
    for (int i = 0; i < store.n; i++)
        if (store.held[i].p.plane == KV_IO_WINDOW && store.held[i].p.size_bytes > whole)
            whole = store.held[i].p.size_bytes;
    assert_true(rows_put(0, whole / KV_IO_ROWS_TOK) > 64);
    for (int i = 0; i < TURNS; i++) {
        int n_before = store.n;
        int32_t n_tok = a.n;
        en = open_model("4/4");
        turn(en, &a, "", ANSWER);
        engine_close(en);
        assert_in_range(rows_put(n_before, whole / KV_IO_ROWS_TOK), 1,
                        a.n - n_tok + KV_IO_ROWS_TOK - 1);
    }
    store_clear();
}

/* A line that comes back to the end of a block has rows of that block alone, and may rest at once: a turn
 * that was stopped before it read anything. */
static bool frees_nothing(void *ctx, uint64_t need_bytes)
{
    return false;
}

static const struct keep_room no_room = {frees_nothing, NULL};

static void read_on(struct bed *b, struct kv_line *line, const int32_t *ids, int32_t n, bool one_by_one,
                    float ret[TINYMODEL_VOCAB])
{
    memcpy(ret, bed_read(b, line, ids, n, one_by_one), TINYMODEL_VOCAB * sizeof *ret);
}

static void rest_of(const char *model)
{
    static const char *const presets[] = {"exact", "8/8", "4/4", "adaptive"};
    enum { END = 5 * 64, MORE = 30 };
    int32_t ids[END + MORE];
    char path[64];
    for (int32_t i = 0; i < END + MORE; i++)
        ids[i] = i * 29 % TINYMODEL_VOCAB;
    snprintf(path, sizeof path, "/tmp/dogear-keep-%d.gguf", (int)getpid());
    tinymodel_write(tinymodel_find(model), path, false);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        static float want[TINYMODEL_VOCAB], got[TINYMODEL_VOCAB];
        const struct keep keep = {{NULL, io_put, io_find, io_load}, 11};
        struct kern *k = kern_open_cpu(NULL, 1);
        struct bed b;
        bed_open(&b, k, path, END);
        const struct kv_shape s = forward_kv_shape(&b.m->p);
        kv_line_free(b.line);
        kv_pool_free(b.pool);
        b.pool = kv_pool_new(k, &s, presets_find(presets[i]), 1u << 28);
        b.line = kv_line_new(b.pool, 1024);
        free(bed_logits(&b, ids, END, END));
        keep_state(&keep, 7, b.line);
        size_t had = store.put_bytes;
        read_on(&b, b.line, ids, END + MORE, false, want);
        kv_line_free(b.line);
        b.line = kv_line_new(b.pool, 1024);
        assert_int_equal(keep_load(&keep, 7, b.line, ids, END, &no_room), END);
        keep_state(&keep, 7, b.line);
        assert_int_equal(store.put_bytes, had); /* all of it is there */
        read_on(&b, b.line, ids, END + MORE, false, got);
        assert_memory_equal(got, want, sizeof want);
        keep_state(&keep, 7, b.line);
        assert_true(store.put_bytes > had);
        kv_line_free(b.line);
        b.line = kv_line_new(b.pool, 1024);
        assert_int_equal(keep_load(&keep, 7, b.line, ids, END + MORE, &no_room), END + MORE);
        /* Without rows: pages alone, and what is read goes on before them. */
        free(bed_logits(&b, ids, END + MORE, END));
        store_clear();
        keep_state(&keep, 7, b.line);
        had = store.put_bytes;
        kv_line_free(b.line);
        b.line = kv_line_new(b.pool, 1024);
        int32_t back = keep_load(&keep, 7, b.line, ids, END - 70, &no_room);
        assert_int_equal(back, i == 0 ? 3 * 64 : 2 * 64);
        keep_state(&keep, 7, b.line);
        assert_int_equal(store.put_bytes, had);
        bed_close(&b);
        kern_close(k);
        store_clear();
    }
    unlink(path);
}

static void keep__rest__of_a_line_that_just_came_back(void **state)
{
    rest_of("llama");
}

/* With layers whose heads differ, some of which read what others keep. */
static void keep__rest__of_layers_that_differ(void **state)
{
    rest_of("gemma4");
    rest_of("gemma4-moe");
}

/* Whose keys are values: pages and rows hold them once. */
static void keep__rest__of_latents(void **state)
{
    rest_of("deepseek2-dense");
    rest_of("minicpm3");
}

/* ---- layers that keep a state ---- */

static void remove_state(int32_t n_tok, int32_t layer)
{
    for (int i = store.n - 1; i >= 0; i--)
        if (store.held[i].p.plane == KV_IO_STATE && store.held[i].n_tok == n_tok &&
            store.held[i].p.layer == layer)
            store_remove(i);
}

static int32_t states_at(int32_t n_tok)
{
    int32_t n = 0;
    for (int i = 0; i < store.n; i++)
        n += store.held[i].p.plane == KV_IO_STATE && store.held[i].n_tok == n_tok;
    return n;
}

static struct kv_line *taken_up(const struct keep *keep, struct bed *b, const int32_t *ids, int32_t n,
                                int32_t want)
{
    struct kv_line *line = kv_line_new(b->pool, 4096);
    assert_int_equal(keep_load(keep, 7, line, ids, n, &no_room), want);
    assert_int_equal(kv_n_tok(line), want);
    return line;
}

static void keep_states(const char *model, const char *preset)
{
    enum { PROMPT = 300, END = 460, MORE = 20, LONG = 2500 };
    static int32_t ids[LONG];
    static float want[TINYMODEL_VOCAB], got[TINYMODEL_VOCAB];
    const struct keep keep = {{NULL, io_put, io_find, io_load}, 11};
    struct kern *k = kern_open_cpu(NULL, 1);
    struct bed b;
    char path[64];
    for (int32_t i = 0; i < LONG; i++)
        ids[i] = (i * 29 + i / 50) % TINYMODEL_VOCAB;
    snprintf(path, sizeof path, "/tmp/dogear-keep-%d.gguf", (int)getpid());
    tinymodel_write(tinymodel_find(model), path, false);
    bed_open(&b, k, path, LONG);
    unlink(path);
    const struct kv_shape s = forward_kv_shape(&b.m->p);
    kv_line_free(b.line);
    kv_pool_free(b.pool);
    b.pool = kv_pool_new(k, &s, presets_find(preset), 1u << 28);
    b.line = kv_line_new(b.pool, 4096);
    read_on(&b, b.line, ids, PROMPT, false, got);
    read_on(&b, b.line, ids, END, true, got);
    keep_state(&keep, 7, b.line);
    size_t had = store.put_bytes;
    keep_state(&keep, 7, b.line);
    assert_int_equal(store.put_bytes, had);
    assert_int_equal(states_at(END), s.n_state_layer);

    /* As if it had never left, and nothing of it is put again. */
    struct kv_line *line = taken_up(&keep, &b, ids, END + MORE, END);
    keep_state(&keep, 7, line);
    assert_int_equal(store.put_bytes, had);
    read_on(&b, b.line, ids, END + MORE, true, want);
    read_on(&b, line, ids, END + MORE, true, got);
    assert_memory_equal(got, want, sizeof want);
    kv_line_free(line);

    /* Its answer once more; and there, too, where the newest state has a hole. */
    line = taken_up(&keep, &b, ids, PROMPT, PROMPT / 64 * 64);
    read_on(&b, line, ids, PROMPT, false, got);
    if (strcmp(preset, "exact") == 0) {
        struct kv_line *fresh = kv_line_new(b.pool, 4096);
        read_on(&b, fresh, ids, PROMPT, false, want);
        assert_memory_equal(got, want, sizeof want);
        kv_line_free(fresh);
    }
    kv_line_free(line);
    remove_state(END, 1);
    kv_line_free(taken_up(&keep, &b, ids, END + MORE, PROMPT / 64 * 64));
    for (int32_t n = 0; n <= END; n++)
        remove_state(n, 0);
    kv_line_free(taken_up(&keep, &b, ids, END + MORE, 0));
    store_clear();

    /* While a long prompt is read, too: what a killed reading leaves. */
    kv_truncate(b.line, 0);
    for (int32_t n = 512; n < LONG; n += 512) {
        read_on(&b, b.line, ids, n, false, got);
        keep_blocks(&keep, 7, b.line);
    }
    assert_int_equal(states_at(1024), s.n_state_layer);
    assert_int_equal(states_at(1536), 0);
    assert_int_equal(states_at(2048), s.n_state_layer);
    int32_t n_page = strcmp(preset, "exact") == 0 ? 2048 : 2048 - 128; /* the last blocks are rows still */
    line = kv_line_new(b.pool, 4096);
    int32_t back = keep_load(&keep, 7, line, ids, LONG, &no_room);
    assert_int_equal(back, n_page == 2048 ? 2048 : 1024);
    kv_line_free(line);
    bed_close(&b);
    kern_close(k);
    store_clear();
}

static struct engine *open_states(const char *path, const char *kv)
{
    static const struct kv_io io = {NULL, io_put, io_find, io_load};
    struct engine_params p = {
        .model_path = path, .backend = "cpu", .n_gpu_layer = -1, .n_thread = 1, .kv = kv, .kv_io = &io};
    struct engine *en = NULL;
    struct err e;
    if (engine_open(&p, &en, &e) != OK)
        fail_msg("%s", e.text);
    return en;
}

/* The app's ways back: the last answer once more, the last question otherwise; with the engine as it is and
 * opened again. Under the exact preset the same answer comes. */
static void answers_again(const char *model)
{
    static const char *const presets[] = {"exact", "adaptive"};
    char path[64];
    snprintf(path, sizeof path, "/tmp/dogear-keep-%d.gguf", (int)getpid());
    tinymodel_write(tinymodel_find(model), path, false);
    for (int i = 0; i < 4; i++) {
        const char *kv = presets[i / 2];
        bool reopen = i % 2;
        struct path a = {.n = 0};
        struct engine *en = open_states(path, kv);
        turn(en, &a, story, 90);
        if (reopen) {
            engine_close(en);
            en = open_states(path, kv);
        }
        struct path again = {.n = 0};
        turn(en, &again, story, 90);
        assert_in_range(again.n_read, 1, 64);
        if (i < 2) {
            assert_int_equal(again.n, a.n);
            assert_memory_equal(again.ids, a.ids, (size_t)a.n * sizeof *a.ids);
        }
        /* A short question, answered at length twice. */
        struct path first = again;
        if (reopen) {
            engine_close(en);
            en = open_states(path, kv);
        }
        turn(en, &first, "?", 150);
        turn(en, &again, "?", 150);
        assert_in_range(again.n_read, 1, 64);
        assert_int_equal(again.n, first.n);
        engine_close(en);
        store_clear();
    }
    unlink(path);
}

static void keep__states__answers_again_read_little(void **state)
{
    answers_again("qwen35");
    answers_again("granitehybrid");
}

static void keep__states__come_back(void **state)
{
    static const char *const presets[] = {"exact", "8/8", "adaptive"};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        keep_states("qwen35moe", presets[i]);
        keep_states("lfm2", presets[i]);
        keep_states("falcon-h1", presets[i]);
        keep_states("nemotron_h", presets[i]);
    }
}

/* The shim's device fails in the middle of an answer: what was said stays, the turn and all that
 * follow tell why, and nothing that came from the device since is kept. */
static void keep__cuda__failed_device_keeps_nothing(void **state)
{
    static const char *const presets[] = {"exact", "8/8"};
    const char *module = getenv("CUDA_MODULE");
    void *lib = dlopen(module, RTLD_NOW | RTLD_LOCAL);
    int *waits_left = lib ? dlsym(lib, "shim_waits_left") : NULL;
    if (!waits_left)
        skip(); /* a device */
    setenv("DOGEAR_CUDA", module, 1);
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        struct path whole = {.n = 0}, a = {.n = 0};
        struct engine *en = open_on("cuda", presets[i]);
        begin(en, &whole, 1000);
        turn(en, &whole, SECOND, 8);
        engine_close(en);
        store_clear();
        en = open_on("cuda", presets[i]);
        begin(en, &a, 1000);
        int n_put = store.n, n = a.n;
        assert_true(n_put > 0);
        *waits_left = 5;
        struct engine_event *end = turn_end(en, &a, SECOND, 8);
        assert_int_equal(end->kind, ENGINE_EV_FAILED);
        assert_true(end->n_generated > 0 && a.n > n + end->n_generated && a.n < whole.n);
        assert_memory_equal(a.ids, whole.ids, (size_t)a.n * sizeof *a.ids);
        if (strncmp(end->err.text, "the GPU failed: unspecified launch failure", 42) != 0)
            fail_msg("%s", end->err.text);
        engine_event_free(end);
        end = turn_end(en, &a, SECOND, 8);
        assert_int_equal(end->kind, ENGINE_EV_FAILED);
        assert_int_equal(end->n_generated, 0);
        engine_event_free(end);
        engine_close(en);
        assert_int_equal(store.n, n_put);
        *waits_left = -1;
        store_clear();
    }
    dlclose(lib);
}

int main(int n_arg, char **arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keep__published_methods__are_read_again),
        cmocka_unit_test(keep__resume__says_the_same_as_never_having_left),
        cmocka_unit_test(keep__resume__reads_again_what_is_missing),
        cmocka_unit_test(keep__resume__survives_damage),
        cmocka_unit_test(keep__resume__takes_thinned_pages),
        cmocka_unit_test(keep__resume__makes_room),
        cmocka_unit_test(keep__put__writes_each_block_once),
        cmocka_unit_test(keep__rest__puts_only_rows_that_are_new),
        cmocka_unit_test(keep__rest__of_a_line_that_just_came_back),
        cmocka_unit_test(keep__rest__of_layers_that_differ),
        cmocka_unit_test(keep__rest__of_latents),
        cmocka_unit_test(keep__states__come_back),
        cmocka_unit_test(keep__states__answers_again_read_little),
        cmocka_unit_test(keep__cuda__failed_device_keeps_nothing),
    };
    if (n_arg > 1)
        cmocka_set_test_filter(arg[1]);
    if (!getenv("CUDA_MODULE"))
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests_name("keep", tests, NULL, NULL);
}
