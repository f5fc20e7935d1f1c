/* Measures the store: KV written and read (MB/s), list and search over many chats. Built with the
 * tests, run by hand:  bench DIR [CHATS] [TOKENS_PER_CHAT] [DIVISOR]
 * CHATS 0 measures what an earlier run left; DIVISOR makes the pieces so many times smaller.
 * Shape: Llama-3.2-1B at 4/4 (16 layers, 8 KV heads of 64): 3 planes per layer and block. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/sessions.h"

enum { LAYERS = 16, PLANES = 3, MESSAGE_TOK = 256 };
static size_t plane_bytes[PLANES] = {20480, 8192, 8192};

static void must(enum status st, const struct err *e)
{
    if (st == OK)
        return;
    fprintf(stderr, "bench: %s\n", e->text);
    exit(1);
}

static uint64_t rng = 88172645463325252u;
static uint64_t next(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    return rng ^= rng << 17;
}

/* Codes of quantised Gaussians have less than full entropy: about 6 % at 2 bits per code. */
static void fill(unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char b = 0;
        for (int k = 0; k < 4; k++) {
            unsigned r = (unsigned)(next() >> 40) & 255;
            b |= (unsigned char)((r < 45 ? 0u : r < 128 ? 1u : r < 211 ? 2u : 3u) << (2 * k));
        }
        p[i] = b;
    }
}

static void say(struct sessions *s, int64_t id, int32_t n_tok, int64_t seed)
{
    static const char *const words[] = {"river",  "engine", "quiet",   "lantern",
                                        "orange", "paper",  "morning", "window",
                                        "number", "garden", "silver",  "cloud"};
    struct err e;
    int64_t parent = 0;
    for (int32_t at = 0, i = 0; at < n_tok; at += MESSAGE_TOK, i++) {
        char text[MESSAGE_TOK * 5];
        int32_t ids[MESSAGE_TOK];
        size_t len = 0;
        for (int k = 0; k < MESSAGE_TOK; k++)
            ids[k] = (int32_t)(next() % 128000);
        while (len + 20 < sizeof text)
            len +=
                (size_t)snprintf(text + len, 20, "%s%d ", words[next() % 12], (int)(next() % 50));
        if (i == 3)
            len += (size_t)snprintf(text + len, 20, "needle%lld", (long long)seed);
        must(sessions_add(s, id, parent, i % 2 ? "assistant" : "user", text, len, &parent, &e), &e);
        sessions_finish(s, parent, text, len, ids, MESSAGE_TOK, "eos");
    }
}

static size_t put_block(const struct kv_io *io, int64_t id, int32_t b, unsigned char *data)
{
    struct kv_piece p[LAYERS * PLANES];
    size_t off = next() % 4096, size = 0;
    for (int i = 0; i < LAYERS * PLANES; i++) {
        size_t n = plane_bytes[i % PLANES];
        p[i] = (struct kv_piece){i / PLANES, 0, b, i % PLANES, data + off, n};
        off += n;
        size += n;
    }
    io->put(io->ctx, id, 1, (b + 1) * 64, (uint64_t)id << 32 | (uint32_t)b, p, LAYERS * PLANES);
    return size;
}

static void put_chat(const struct kv_io *io, int64_t id, int32_t n_tok, unsigned char *data)
{
    for (int32_t b = 0; b < n_tok / 64; b++) {
        put_block(io, id, b, data);
        if (b % 64 == 63) { /* the disk is measured, not the queue */
            struct sessions_budget budget;
            struct err e;
            must(sessions_budget_get((struct sessions *)io->ctx, &budget, &e), &e);
        }
    }
}

/* Bytes this process has handed to the system for writing: WAL, journal, checkpoint and all. */
static double written_bytes(void)
{
    FILE *f = fopen("/proc/self/io", "r");
    char line[128];
    long long n = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "wchar: %lld", &n) == 1)
            break;
    if (f)
        fclose(f);
    return (double)n;
}

/* Turns of 200 tokens: each block is a commit of its own, as when the model is slow; the answer is
 * streamed once a second, 20 tokens at a time. */
static void measure_turns(struct sessions *s, int64_t id, int32_t n_tok, unsigned char *data)
{
    enum { TURNS = 32, TURN_TOK = 200 };
    const struct kv_io *io = sessions_kv_io(s);
    struct err e;
    char text[TURN_TOK * 5];
    int32_t ids[TURN_TOK] = {0};
    int64_t parent = 0, tiers[SESSIONS_TIERS];
    size_t raw = 0;
    double n_text = 0;
    memset(text, 'a', sizeof text);
    must(sessions_flush(s, &e), &e);
    double before = written_bytes();
    for (int32_t t = 0, from = n_tok / 64; t < TURNS; t++) {
        double at = written_bytes();
        must(sessions_add(s, id, parent, "user", text, 100, &parent, &e), &e);
        must(sessions_add(s, id, parent, "assistant", "", 0, &parent, &e), &e);
        for (int32_t k = 20; k <= TURN_TOK; k += 20) {
            sessions_stream(s, parent, text, (size_t)k * 5, ids, k);
            must(sessions_flush(s, &e), &e);
        }
        sessions_finish(s, parent, text, sizeof text, ids, TURN_TOK, "eos");
        must(sessions_flush(s, &e), &e);
        n_text += written_bytes() - at;
        for (int32_t b = from; (b + 1) * 64 <= n_tok + (t + 1) * TURN_TOK; b++, from++) {
            raw += put_block(io, id, b, data);
            must(sessions_kv_sizes(s, id, tiers, NULL, &e), &e); /* commits */
        }
    }
    double n = written_bytes() - before;
    printf("turns  %.0f kB written per 200 tokens (text %.0f), %.0f kB sealed: %.2f x\n",
           n / TURNS / 1e3, n_text / TURNS / 1e3, (double)raw / TURNS / 1e3, n / (double)raw);
}

static bool visit(void *ctx, const struct kv_piece *p)
{
    *(size_t *)ctx += p->size_bytes;
    return true;
}

static size_t read_chat(const struct kv_io *io, int64_t id, int32_t n_tok)
{
    size_t n = 0;
    for (int32_t b = 0; b < n_tok / 64; b++)
        io->load(io->ctx, id, 1, (uint64_t)id << 32 | (uint32_t)b, (b + 1) * 64, false, visit, &n);
    return n;
}

/* A fork of the whole conversation, until both files know of it. */
static double fork_ms(struct sessions *s, int64_t id)
{
    struct sessions_message *m;
    struct err e;
    int64_t copy, tiers[SESSIONS_TIERS];
    int32_t n;
    must(sessions_path_load(s, id, &m, &n, &e), &e);
    double t = clock_s();
    if (n)
        must(sessions_fork(s, id, m[n - 1].id, &copy, &e), &e);
    must(sessions_kv_sizes(s, id, tiers, NULL, &e), &e);
    t = clock_s() - t;
    sessions_messages_free(m, n);
    return t * 1e3;
}

static double ask(struct sessions *s, const char *query, int32_t *ret_n)
{
    struct sessions_row *rows;
    struct err e;
    double best = 1e9;
    for (int i = 0; i < 5; i++) {
        double t = clock_s();
        must(query ? sessions_search(s, query, 50, &rows, ret_n, &e)
                   : sessions_list(s, 0, &rows, ret_n, &e),
             &e);
        t = clock_s() - t;
        sessions_rows_free(rows, *ret_n);
        best = t < best ? t : best;
    }
    return best * 1e3;
}

int main(int argc, char **argv)
{
    if (argc < 2 || (argc > 4 && atoi(argv[4]) < 1)) {
        fprintf(stderr, "usage: bench DIR [CHATS] [TOKENS_PER_CHAT] [DIVISOR]\n");
        return 2;
    }
    int32_t n_chat = argc > 2 ? atoi(argv[2]) : 10, n_tok = argc > 3 ? atoi(argv[3]) : 8192, n;
    for (int i = 0; i < PLANES && argc > 4; i++)
        plane_bytes[i] /= (size_t)atoi(argv[4]);
    size_t per_block = LAYERS * (plane_bytes[0] + plane_bytes[1] + plane_bytes[2]);
    unsigned char *data = mem_alloc(per_block + 4096);
    char path[4096];
    struct sessions *s;
    struct err e;
    int64_t first = 0, last = 0;
    snprintf(path, sizeof path, "%s/bench.db", argv[1]);
    must(sessions_open(path, &s, &e), &e);
    const struct kv_io *io = sessions_kv_io(s);
    must(sessions_budget_set(s, INT64_C(1) << 40, &e), &e);
    fill(data, per_block + 4096);
    double t_put = 0, t = clock_s();
    for (int32_t i = 0; i < n_chat; i++) {
        must(sessions_create(s, "bench", &last, &e), &e);
        first = first ? first : last;
        say(s, last, n_tok, i);
        double t0 = clock_s();
        put_chat(io, last, n_tok, data);
        t_put += clock_s() - t0;
    }
    double raw = (double)per_block * (n_tok / 64) * n_chat;
    must(sessions_flush(s, &e), &e);
    if (n_chat)
        measure_turns(s, last, n_tok, data);
    first = first ? first : 1;
    printf("text   %d chats x %d tokens in %.2f s\n", n_chat, n_tok, clock_s() - t - t_put);
    printf("write  %.0f MB raw in %.2f s: %.0f MB/s\n", raw / 1e6, t_put, raw / 1e6 / t_put);
    sessions_close(s);
    struct stat sb;
    snprintf(path, sizeof path, "%s/bench-kv.db", argv[1]);
    stat(path, &sb);
    printf("file   %.0f MB, %.1f %% of raw\n", (double)sb.st_size / 1e6,
           (double)sb.st_size / raw * 100);
    snprintf(path, sizeof path, "%s/bench.db", argv[1]);
    t = clock_s();
    must(sessions_open(path, &s, &e), &e);
    printf("open   %.1f ms\n", (clock_s() - t) * 1e3);
    io = sessions_kv_io(s);
    for (int i = 0; i < 3; i++) {
        t = clock_s();
        size_t got = read_chat(io, first, n_tok);
        t = clock_s() - t;
        printf("read   %.0f MB in %.1f ms: %.0f MB/s\n", (double)got / 1e6, t * 1e3,
               (double)got / 1e6 / t);
    }
    printf("fork   %.1f ms\n", fork_ms(s, first));
    double ms = ask(s, NULL, &n);
    printf("list   %d rows in %.1f ms\n", n, ms);
    ms = ask(s, "needle7", &n);
    printf("search \"needle7\": %d rows in %.1f ms\n", n, ms);
    ms = ask(s, "river garden", &n);
    printf("search \"river garden\": %d rows in %.1f ms\n", n, ms);
    ms = ask(s, "l", &n);
    printf("search \"l\": %d rows in %.1f ms\n", n, ms);
    sessions_close(s);
    free(data);
    return 0;
}
