/* Fading: the store's budget, thinning plane by plane, sizes by tier, giving space back. */
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "sessions/kvstore.h"

enum {
    THIN_DEEPEST = 7,       /* no KV at all */
    THIN_VACUUM_PAGES = 512, /* per step: 4 MiB, so that text never waits long */
    /* 32 MiB stay free for text, and so much gives way at once where there is nothing left: the text of years,
     * or text's WAL of a few MiB and what KV takes until the next look (8 MiB, and a state). */
    THIN_RESERVE_PAGES = 4096,
};
static const int64_t thin_budget_min_bytes = INT64_C(256) << 20;
static const int64_t thin_budget_max_bytes = INT64_C(16) << 30;
static const char thin_budget_key[] = "kv_store_budget";

/* ---- sizes ---- */

enum status thin_sizes(struct sessions *s, int64_t conversation, int64_t tiers[SESSIONS_TIERS],
                       int64_t *ret_state, struct err *e)
{
    sqlite3_stmt *q;
    bool row = false;
    struct kvstore *kv = s->kv;
    for (int i = 0; i < SESSIONS_TIERS; i++)
        tiers[i] = 0;
    int64_t ignored, *state = ret_state ? ret_state : &ignored;
    *state = 0;
    if (!kv)
        return OK;
    pthread_mutex_lock(&kv->r_lock);
    enum status st = OK;
    if (kv->r) {
        st = db_query(kv->r, e, &q,
                      "SELECT sum(t0 + iif(state = 2, 0, t7)), sum(t1), sum(t2), sum(t3), sum(t4), sum(t5), sum(t6),"
                      " sum(iif(state = 2, t7, 0))"
                      " FROM ref CROSS JOIN block ON block.id = ref.block WHERE ref.chat = ?",
                      "i", conversation);
        if (st == OK)
            st = db_next(kv->r, q, &row, e);
        for (int i = 0; st == OK && row && i < KV_IO_PLANES; i++)
            tiers[i] = sqlite3_column_int64(q, i);
        if (st == OK && row)
            *state = sqlite3_column_int64(q, KV_IO_PLANES);
        if (st == OK)
            db_done(q);
    }
    pthread_mutex_unlock(&kv->r_lock);
    /* A damaged KV file says nothing about the conversation: sizes are unknown, text is fine. */
    return st == ERR_FORMAT ? OK : st;
}

enum status sessions_kv_sizes(struct sessions *s, int64_t id, int64_t ret[SESSIONS_TIERS], int64_t *ret_state,
                              struct err *e)
{
    writer_drain(s, WRITER_KV);
    return thin_sizes(s, id, ret, ret_state, e);
}

static enum status used_bytes(struct db *d, int64_t *ret, struct err *e)
{
    int64_t n_page, n_free;
    TRY(db_int(d, e, &n_page, "PRAGMA page_count", ""));
    TRY(db_int(d, e, &n_free, "PRAGMA freelist_count", ""));
    *ret = (n_page - n_free) * KVSTORE_PAGE_BYTES;
    return OK;
}

/* ---- budget ---- */

static int64_t automatic_bytes(const struct kvstore *kv, int64_t used)
{
    struct statvfs v;
    if (statvfs(kv->path, &v) != 0)
        return thin_budget_min_bytes;
    int64_t b = ((int64_t)v.f_bavail * (int64_t)v.f_frsize + used) / 10;
    if (b < thin_budget_min_bytes)
        b = thin_budget_min_bytes;
    return b > thin_budget_max_bytes ? thin_budget_max_bytes : b;
}

/* d is a connection to dogear.db, k one to the KV file, both of the calling thread. */
static enum status budget(struct kvstore *kv, struct db *d, struct db *k,
                          struct sessions_budget *ret, struct err *e)
{
    int64_t set = 0;
    enum status st = db_int(d, e, &set, "SELECT CAST(value AS INTEGER) FROM setting WHERE key = ?",
                            "t", thin_budget_key);
    if (st != OK && st != ERR_NOT_FOUND)
        return st;
    TRY(used_bytes(k, &ret->used_bytes, e));
    ret->automatic_bytes = automatic_bytes(kv, ret->used_bytes);
    ret->automatic = set <= 0;
    ret->limit_bytes = set > 0 ? set : ret->automatic_bytes;
    return OK;
}

enum status sessions_budget_get(struct sessions *s, struct sessions_budget *ret, struct err *e)
{
    struct kvstore *kv = s->kv;
    if (!kv)
        return err_set(e, ERR_UNSUPPORTED, "this store keeps no KV");
    writer_drain(s, WRITER_KV);
    store_read_begin(s);
    pthread_mutex_lock(&kv->r_lock);
    enum status st = kv->r ? budget(kv, s->r, kv->r, ret, e)
                           : err_set(e, ERR_UNSUPPORTED, "this store keeps no KV");
    pthread_mutex_unlock(&kv->r_lock);
    store_read_end(s);
    return st;
}

/* Whether KV takes more than the budget, or of the file system's reserve. Store's thread. */
static enum status too_much(struct sessions *s, bool *ret, struct err *e)
{
    struct sessions_budget b;
    struct statvfs v;
    int64_t n_free;
    TRY(budget(s->kv, s->w, s->kv->w, &b, e));
    TRY(db_int(s->kv->w, e, &n_free, "PRAGMA freelist_count", ""));
    *ret = b.used_bytes > b.limit_bytes ||
           (statvfs(s->kv->path, &v) == 0 && (int64_t)(v.f_bavail * v.f_frsize / KVSTORE_PAGE_BYTES) + n_free <
                                                 THIN_RESERVE_PAGES);
    return OK;
}

/* ---- thinning (store's thread, KV lane) ---- */

/* Brings one block to what the least thinned of its chats still wants. */
static enum status thin_blocks(struct db *d, int64_t chat, struct err *e)
{
    struct {
        int64_t block, depth;
    } *todo = NULL;
    int32_t n = 0, cap = 0;
    sqlite3_stmt *q;
    bool row = true;
    /* finest: the finest tier with bytes; f16 pages (t0), rows and states (t7) go only with everything */
    TRY(db_query(d, e, &q,
                 "SELECT b.id, min(c.depth) AS want, CASE WHEN t1 THEN 1 WHEN t2 THEN 2"
                 " WHEN t3 THEN 3 WHEN t4 THEN 4 WHEN t5 THEN 5 ELSE 6 END AS finest"
                 " FROM ref mine CROSS JOIN block b ON b.id = mine.block"
                 " CROSS JOIN ref r ON r.block = b.id CROSS JOIN chat c ON c.id = r.chat"
                 " WHERE mine.chat = ? GROUP BY b.id HAVING want > finest",
                 "i", chat));
    enum status st;
    while ((st = db_next(d, q, &row, e)) == OK && row) {
        if (n == cap) {
            cap = cap ? cap * 2 : 64;
            todo = mem_realloc(todo, (size_t)cap * sizeof *todo);
        }
        todo[n].block = sqlite3_column_int64(q, 0);
        todo[n++].depth = sqlite3_column_int64(q, 1);
    }
    db_done(q);
    for (int32_t i = 0; i < n && st == OK; i++)
        st = kvstore_cut(d, todo[i].block, KV_IO_PLANES - 1 - (int32_t)todo[i].depth, e);
    free(todo);
    return st;
}

static enum status thin(struct db *d, int64_t chat, int64_t depth, struct err *e)
{
    TRY(db_do(d, e,
              "INSERT INTO chat (id, depth, used_ms) VALUES (?1, ?2, ?3)"
              " ON CONFLICT (id) DO UPDATE SET depth = max(depth, ?2)",
              "iii", chat, depth, clock_unix_ms()));
    /* Where the chat ended, if that was put or read last: it stays as long as the coarsest plane of the
     * pages, which are of no use without it. */
    TRY(kvstore_forget_states(d, chat, 1, e));
    return thin_blocks(d, chat, e);
}

static enum status run_thin(struct sessions *s, struct command *c, struct err *e)
{
    struct db *d = s->kv->w;
    int64_t before, after, one;
    enum status st =
        db_int(s->w, e, &one, "SELECT 1 FROM conversation WHERE id = ?", "i", c->conversation);
    if (st == ERR_NOT_FOUND) {
        c->ret = -1; /* told apart by the caller: this lane treats any failure as the batch's */
        return OK;
    }
    TRY(st);
    TRY(used_bytes(d, &before, e));
    TRY(thin(d, c->conversation, c->number, e));
    TRY(used_bytes(d, &after, e));
    c->ret = before > after ? before - after : 0;
    return OK;
}

enum status sessions_thin(struct sessions *s, int64_t id, int32_t depth, int64_t *ret_freed_bytes,
                          struct err *e)
{
    if (depth < 1 || depth > THIN_DEEPEST)
        return err_set(e, ERR_USAGE, "cannot thin to tier %d: use 1 (8/8) to 7 (nothing)", depth);
    if (!s->kv)
        return err_set(e, ERR_UNSUPPORTED, "this store keeps no KV");
    struct command c = {.lane = WRITER_KV, .run = run_thin, .conversation = id, .number = depth};
    TRY(writer_call(s, &c, e));
    if (c.ret < 0)
        return err_set(e, ERR_NOT_FOUND, "no conversation %lld: see `dogear list`", (long long)id);
    if (ret_freed_bytes)
        *ret_freed_bytes = c.ret;
    return OK;
}

/* ---- keeping the budget ---- */

static bool pinned(struct sessions *s, int64_t id)
{
    int64_t p = 0;
    struct err ignored;
    enum status st =
        db_int(s->w, &ignored, &p, "SELECT pinned FROM conversation WHERE id = ?", "i", id);
    return st == OK && p;
}

/* The chat to thin next: for the shallowest depth that some chat has not reached, the least
 * recently used one. The most recently used chat is the one being talked to: it goes last. */
static enum status next_victim(struct sessions *s, int64_t *ret_chat, int64_t *ret_depth,
                               struct err *e)
{
    sqlite3_stmt *q;
    bool row = true;
    *ret_chat = 0;
    TRY(db_query(s->kv->w, e, &q,
                 "SELECT c.id, c.depth FROM chat c WHERE c.depth < ?"
                 " AND EXISTS (SELECT 1 FROM ref WHERE ref.chat = c.id)"
                 " ORDER BY c.id = (SELECT id FROM chat ORDER BY used_ms DESC, id DESC LIMIT 1),"
                 " max(c.depth, 1), c.used_ms, c.id",
                 "i", (int64_t)THIN_DEEPEST));
    enum status st;
    while ((st = db_next(s->kv->w, q, &row, e)) == OK && row) {
        if (pinned(s, sqlite3_column_int64(q, 0)))
            continue;
        *ret_chat = sqlite3_column_int64(q, 0);
        int64_t depth = sqlite3_column_int64(q, 1);
        *ret_depth = depth < 2 ? 2 : depth + 1;
        break;
    }
    db_done(q);
    return st;
}

static enum status run_budget(struct sessions *s, struct command *c, struct err *e)
{
    for (;;) {
        int64_t chat, depth;
        bool over;
        TRY(too_much(s, &over, e));
        if (!over)
            return OK;
        TRY(next_victim(s, &chat, &depth, e));
        if (!chat)
            return OK; /* all that is left is pinned */
        TRY(thin(s->kv->w, chat, depth, e));
        if (c->number) /* posted: one at a time, so that text never waits long */
            return OK;
    }
}

static enum status vacuum(struct db *d, int n_page, struct err *e)
{
    char sql[64];
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA incremental_vacuum(%d)", n_page);
    return db_exec(d, sql, e);
}

static enum status run_vacuum(struct sessions *s, struct command *c, struct err *e)
{
    return vacuum(s->kv->w, THIN_VACUUM_PAGES, e);
}

enum status thin_yield(struct sessions *s, struct err *e)
{
    struct db *d = s->kv->w;
    int64_t n_free = 0, chat = 0, depth;
    /* There is no room for a journal; without one nothing may fail for a lock later. Text waits for this one. */
    sqlite3_busy_timeout(db_handle(d), DB_BUSY_MS);
    sqlite3_db_config(db_handle(d), SQLITE_DBCONFIG_DEFENSIVE, 0, (int *)NULL); /* would keep the journal */
    enum status st = db_exec(d, "PRAGMA journal_mode = OFF", e);
    sqlite3_db_config(db_handle(d), SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    TRY(st);
    TRY(db_exec(d, "BEGIN EXCLUSIVE", e));
    do {
        st = next_victim(s, &chat, &depth, e);
        if (st == OK && chat)
            st = thin(d, chat, depth, e);
        if (st == OK)
            st = db_int(d, e, &n_free, "PRAGMA freelist_count", "");
    } while (st == OK && chat && n_free < THIN_RESERVE_PAGES);
    if (st == OK)
        st = vacuum(d, THIN_RESERVE_PAGES, e);
    return db_end(d, st, e);
}

void thin_after_batch(struct sessions *s)
{
    struct err ignored;
    int64_t n_free = 0;
    bool over;
    struct db *d = kvstore_writer(s->kv);
    if (!d || too_much(s, &over, &ignored) != OK)
        return;
    if (over) {
        struct command c = {.lane = WRITER_KV, .run = run_budget, .chore = true, .number = 1};
        int64_t chat, depth;
        if (next_victim(s, &chat, &depth, &ignored) == OK && chat)
            writer_post(s, &c);
    }
    /* A few free pages are used again soon, and what an old state leaves is by the next one: given back,
     * it would have to be filled from the file's end first. More are given back, a step at a time. */
    if (db_int(d, &ignored, &n_free, "PRAGMA freelist_count", "") == OK &&
        n_free > THIN_VACUUM_PAGES + s->kv->n_free_kept && n_free != s->kv->n_free_seen) {
        s->kv->n_free_seen = n_free;
        struct command c = {.lane = WRITER_KV, .run = run_vacuum, .chore = true};
        writer_post(s, &c);
    }
}

static enum status run_budget_set(struct sessions *s, struct command *c, struct err *e)
{
    TRY(db_do(s->w, e,
              "INSERT INTO setting (key, value) VALUES (?1, CAST(?2 AS TEXT))"
              " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
              "ti", thin_budget_key, c->number));
    return OK;
}

enum status sessions_budget_set(struct sessions *s, int64_t limit_bytes, struct err *e)
{
    if (limit_bytes < 0)
        return err_set(e, ERR_USAGE, "a budget of %lld bytes is none: use 0 for automatic",
                       (long long)limit_bytes);
    if (!s->kv)
        return err_set(e, ERR_UNSUPPORTED, "this store keeps no KV");
    struct command c = {.run = run_budget_set, .number = limit_bytes};
    TRY(writer_call(s, &c, e));
    struct command apply = {.lane = WRITER_KV, .run = run_budget};
    return writer_call(s, &apply, e);
}
