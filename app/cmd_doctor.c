/* `dogear doctor`: what this machine offers and whether the store is sound. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/cli.h"
#include "app/models.h"
#include "app/paths.h"
#include "engine/base/json.h"
#include "engine/engine.h"
#include "sessions/sessions.h"
#include "ui/format.h"

static int64_t mem_available_bytes(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[128];
    long long kb = -1;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb < 0 ? -1 : (int64_t)kb * 1024;
}

static void cpu_features(char *out, size_t size)
{
    out[0] = 0;
#if defined(__x86_64__)
    const char *kernels = engine_cpu_kernels();
    bool amx = kernels && !strcmp(kernels, "amx");
    snprintf(out, size, "%s%s%s%s%s%s", __builtin_cpu_supports("avx2") ? "avx2 " : "",
             __builtin_cpu_supports("avx512f") ? "avx512 " : "",
             __builtin_cpu_supports("avx512vnni") ? "vnni " : "",
             __builtin_cpu_supports("avx512bf16") ? "bf16 " : "",
             amx ? "amx " : "", /* that the system lets us use it is not the processor's to say */
             __builtin_cpu_supports("avx2") ? "" : "(reference kernels only)");
    size_t n = strlen(out);
    if (n && out[n - 1] == ' ')
        out[n - 1] = 0;
#else
    snprintf(out, size, "reference kernels only");
#endif
}

/* Known from before, or measured now when asked for. */
static enum status find_floor(const struct options *o, const char *model, struct engine_floor *ret,
                              struct err *e)
{
    char *dir = paths_cache("floors");
    enum status st = o->calibrate ? ERR_NOT_FOUND : engine_floor_known(model, dir, ret, e);
    free(dir);
    if (!o->calibrate)
        return st;
    struct options with = *o;
    struct engine *en = NULL;
    with.n_ctx = 512;
    st = cli_engine(&with, false, NULL, NULL, &en, e);
    if (st == OK)
        st = engine_calibrate(en, ret, e);
    engine_close(en);
    return st;
}

/* What to do about damaged text: SQLite's own tool reads what is left of the file. It is .dump, as
 * Debian's sqlite3 is built without .recover; what a dump leaves out is what marks a store. */
static void print_rescue(const char *path, const struct sessions_health *h, bool tried)
{
    printf("rescue       copy the store before anything else:\n"
           "               cp '%s' '%s.copy'\n",
           path, path);
    if (!tried)
        printf("             then try:\n"
               "               dogear doctor --repair --db '%s'\n",
               path);
    printf("             %s what can be read goes to a new store with:\n"
           "               (sqlite3 '%s.copy' .dump | sed 's/^ROLLBACK.*/COMMIT;/'\n"
           "               echo 'PRAGMA application_id=%d; PRAGMA user_version=%d;') | sqlite3 new.db\n"
           "               dogear doctor --repair --db new.db\n"
           "             then go on with --db new.db, or move it in place\n",
           tried ? "repairing was not enough;" : "if that is not enough,", path, h->application,
           h->schema);
}

int cmd_doctor(struct options *o)
{
    struct err e;
    struct sessions *store = NULL;
    struct sessions_health h = {0};
    char cpu[96];
    cpu_features(cpu, sizeof cpu);
    char gpu[256];
    bool have_gpu = engine_gpu_state(gpu, sizeof gpu);
    char *model = NULL;
    bool have_model = models_find(o->model, &model, &e) == OK;
    struct engine_floor floor;
    bool have_floor = have_model && find_floor(o, model, &floor, &e) == OK;
    if (o->calibrate && !have_floor) {
        free(model);
        return cli_fail(&e);
    }
    enum status st = cli_store_saved(o, &store, &e);
    if (st == OK)
        st = sessions_check(store, o->repair, &h, &e);
    struct sessions_budget budget = {0};
    struct err unkept;
    bool kept = st == OK && sessions_budget_get(store, &budget, &unkept) == OK;
    bool none = store && !strcmp(sessions_path(store), ":memory:");
    bool sound = st == OK && h.text_ok && h.kv_ok;
    if (o->json) {
        json_t *j = json_object();
        json_object_set_new(j, "version", json_string(DOGEAR_VERSION));
        json_object_set_new(j, "cpu", json_string(cpu));
        json_object_set_new(j, "gpu", have_gpu ? json_cstr(gpu) : json_null());
        json_object_set_new(j, "gpu_problem", have_gpu ? json_null() : json_cstr(gpu));
        json_object_set_new(j, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
        json_object_set_new(j, "memory_available", json_count(mem_available_bytes()));
        json_object_set_new(j, "model", have_model ? json_cstr(model) : json_null());
        json_object_set_new(j, "kv_floor", have_floor ? json_string(floor.format) : json_null());
        json_object_set_new(j, "kv_floor_kl", json_number(have_floor ? floor.kl : NAN));
        json_object_set_new(j, "kv_floor_n", json_count(have_floor ? floor.n : -1));
        json_object_set_new(j, "db", store && !none ? json_cstr(sessions_path(store)) : json_null());
        json_object_set_new(j, "ok", json_boolean(sound));
        json_object_set_new(j, "problem",
                            sound ? json_null() : json_cstr(st == OK ? h.detail : e.text));
        if (st == OK) {
            json_object_set_new(j, "schema", json_integer(h.schema));
            json_object_set_new(j, "conversations", json_count(h.n_conversation));
            json_object_set_new(j, "messages", json_count(h.n_message));
            json_object_set_new(j, "db_bytes", json_count(h.db_bytes));
            json_object_set_new(j, "kv_db_bytes", json_count(h.kv_db_bytes));
            json_object_set_new(j, "kv_budget", json_count(kept ? budget.limit_bytes : -1));
            json_object_set_new(j, "kv_budget_automatic",
                                kept ? json_boolean(budget.automatic) : json_null());
            json_object_set_new(j, "kv_used", json_count(kept ? budget.used_bytes : -1));
            json_object_set_new(j, "free_disk", json_count(h.free_disk_bytes));
        }
        json_print(j);
    } else {
        char a[FORMAT_SIZE], b[FORMAT_SIZE], c[FORMAT_SIZE];
        printf("dogear       %s\n", DOGEAR_VERSION);
        printf("cpu          %s, %ld cores\n", cpu, sysconf(_SC_NPROCESSORS_ONLN));
        printf("gpu          %s\n", gpu);
        printf("memory       %s available\n", format_bytes(a, mem_available_bytes()));
        printf("model        %s\n", have_model ? model : "none found: see `dogear models`");
        if (have_floor)
            printf("cache floor  %s, measured on this model: KL %.4f over %s tokens, limit %.2f\n",
                   floor.format, floor.kl, format_count(a, floor.n), floor.kl_limit);
        else
            printf("cache floor  -- (not measured yet: dogear doctor --calibrate)\n");
        if (store)
            printf("store        %s\n", none ? "-- (nothing is saved yet)" : sessions_path(store));
        if (st == OK && !none) {
            printf("             %s conversation%s", format_count(a, h.n_conversation),
                   h.n_conversation == 1 ? "" : "s");
            printf(", %s message%s, schema %d\n", format_count(a, h.n_message),
                   h.n_message == 1 ? "" : "s", h.schema);
            printf("             text %s, cache %s, %s free on the disk\n",
                   format_bytes(a, h.db_bytes), format_bytes(b, h.kv_db_bytes),
                   format_bytes(c, h.free_disk_bytes));
            if (kept)
                printf("             cache budget %s%s, %s used\n",
                       format_bytes(a, budget.limit_bytes),
                       budget.automatic ? " (automatic; --store-budget sets another)" : "",
                       format_bytes(b, budget.used_bytes));
            else
                printf("             cache budget -- (%s)\n", unkept.text);
            printf("check        text %s, cache %s\n", h.text_ok ? "ok" : "DAMAGED",
                   !h.kv_ok ? "DAMAGED (run dogear doctor --repair)" : kept ? "ok" : "--");
            if (h.detail[0])
                printf("             %s%s\n", sound ? "repaired: " : "", h.detail);
            if (!h.text_ok)
                print_rescue(sessions_path(store), &h, o->repair);
        }
    }
    if (st != OK && !o->json)
        fprintf(stderr, "dogear: %s\n", e.text);
    sessions_close(store);
    free(model);
    return sound ? 0 : 1;
}
