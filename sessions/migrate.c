/* Schema versions of dogear.db: a new file gets schema.sql; an older one is brought forward step by
 * step inside one transaction, so that a crash leaves it as it was. */
#include "sessions/store.h"

#include "sessions/schema_sql.h"

/* steps[i] takes version i + 1 to i + 2. The last version is steps + 1 and equals schema.sql. */
static const char *const steps[] = {
    /* 2: a chat may go on with another model, whose tokens are others */
    "ALTER TABLE message ADD COLUMN vocab INTEGER NOT NULL DEFAULT 0",
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
    char sql[128];
    sqlite3_snprintf(sizeof sql, sql, "PRAGMA application_id = %d; PRAGMA user_version = %d;",
                     STORE_APPLICATION_ID, (int)MIGRATE_VERSION);
    return db_exec(d, sql, e);
}

/* Inside the write transaction, so that two processes that open an old file agree. */
static enum status bring_forward(struct db *d, struct err *e)
{
    int64_t app, version, n_table;
    TRY(db_int(d, e, &app, "PRAGMA application_id", ""));
    TRY(db_int(d, e, &version, "PRAGMA user_version", ""));
    TRY(db_int(d, e, &n_table, "SELECT count(*) FROM sqlite_schema", ""));
    if (app == 0 && version == 0 && n_table == 0)
        return create(d, e);
    if (app != STORE_APPLICATION_ID || version < 1)
        return refuse_foreign(d, e);
    if (version > MIGRATE_VERSION)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s was written by a newer Dogear (schema %lld, this one knows %d): update",
                       db_path(d), (long long)version, (int)MIGRATE_VERSION);
    for (; version < MIGRATE_VERSION; version++) {
        char sql[64];
        sqlite3_snprintf(sizeof sql, sql, "PRAGMA user_version = %lld", (long long)version + 1);
        TRY(db_exec(d, steps[version - 1], e));
        TRY(db_exec(d, sql, e));
    }
    return OK;
}

enum status migrate_store(struct db *d, bool writable, struct err *e)
{
    int64_t app, version, n_table;
    TRY(db_int(d, e, &app, "PRAGMA application_id", ""));
    TRY(db_int(d, e, &version, "PRAGMA user_version", ""));
    TRY(db_int(d, e, &n_table, "SELECT count(*) FROM sqlite_schema", ""));
    if (app == STORE_APPLICATION_ID && version == MIGRATE_VERSION)
        return OK;
    if (app != STORE_APPLICATION_ID && (app != 0 || n_table > 0 || version != 0))
        return refuse_foreign(d, e);
    if (!writable && version <= MIGRATE_VERSION)
        return err_set(e, ERR_IO,
                       "%s has an old schema (%lld) and cannot be written: copy it elsewhere",
                       db_path(d), (long long)version);
    TRY(db_exec(d, "BEGIN IMMEDIATE", e));
    enum status st = bring_forward(d, e);
    struct err ignored;
    if (st == OK)
        st = db_exec(d, "COMMIT", e);
    if (st != OK && !sqlite3_get_autocommit(db_handle(d)))
        db_exec(d, "ROLLBACK", &ignored);
    return st;
}
