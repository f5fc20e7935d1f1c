/* Schema versions of dogear.db: a new file gets schema.sql; an older one is brought forward step by
 * step inside one transaction, so that a crash leaves it as it was. */
#include "sessions/store.h"

#include "sessions/schema_sql.h"

/* steps[i] takes version i + 1 to i + 2. The last version is steps + 1 and equals schema.sql. */
static const char *const steps[] = {
    /* 2: a chat may go on with another model, whose tokens are others */
    "ALTER TABLE message ADD COLUMN vocab INTEGER NOT NULL DEFAULT 0",
    /* 3: figures of turns */
    "CREATE TABLE turn (message INTEGER PRIMARY KEY REFERENCES message (id) ON DELETE CASCADE,"
    " at_ms INTEGER NOT NULL, figures TEXT NOT NULL, choices BLOB) STRICT",
};
enum { MIGRATE_VERSION = sizeof steps / sizeof *steps + 1 };

int32_t migrate_version(void)
{
    return MIGRATE_VERSION;
}

static enum status refuse_foreign(struct db *d, struct err *e)
{
    return err_set(e, ERR_FORMAT, "%s is a database of another program: choose another --db",
                   db_path(d));
}

static enum status create(struct db *d, struct err *e)
{
    TRY(db_exec(d, SCHEMA_SQL, e));
    return db_mark(d, STORE_APPLICATION_ID, MIGRATE_VERSION, e);
}

/* Inside the write transaction, so that two processes that open an old file agree. */
static enum status bring_forward(struct db *d, struct err *e)
{
    struct db_identity is;
    TRY(db_identify(d, &is, e));
    if (is.app == 0 && is.version == 0 && is.n_table == 0)
        return create(d, e);
    if (is.app != STORE_APPLICATION_ID || is.version < 1)
        return refuse_foreign(d, e);
    if (is.version > MIGRATE_VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s was written by a newer Dogear (schema %lld, this one knows %d): update",
                       db_path(d), (long long)is.version, (int)MIGRATE_VERSION);
    for (int64_t version = is.version; version < MIGRATE_VERSION; version++) {
        char sql[64];
        sqlite3_snprintf(sizeof sql, sql, "PRAGMA user_version = %lld", (long long)version + 1);
        TRY(db_exec(d, steps[version - 1], e));
        TRY(db_exec(d, sql, e));
    }
    return OK;
}

enum status migrate_store(struct db *d, bool writable, struct err *e)
{
    struct db_identity is;
    TRY(db_identify(d, &is, e));
    if (is.app == STORE_APPLICATION_ID && is.version == MIGRATE_VERSION)
        return OK;
    if (is.app != STORE_APPLICATION_ID && (is.app != 0 || is.n_table > 0 || is.version != 0))
        return refuse_foreign(d, e);
    if (!writable && is.version <= MIGRATE_VERSION)
        return err_set(e, ERR_IO,
                       "%s has an old schema (%lld) and cannot be written: copy it elsewhere",
                       db_path(d), (long long)is.version);
    TRY(db_exec(d, "BEGIN IMMEDIATE", e));
    return db_end(d, bring_forward(d, e), e);
}
