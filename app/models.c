#include "app/models.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/paths.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"

enum { MAX_DEPTH = 6, MAX_ENTRIES = 4096 };

struct list {
    struct models_entry *at;
    int n;
};

static char *join(const char *dir, const char *name)
{
    struct str s = {0};
    str_addf(&s, "%s/%s", dir, name);
    return str_take(&s);
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcasecmp(s + n - k, tail);
}

static void add(struct list *l, const char *path, const char *name, const char *source, int64_t size)
{
    if (l->n >= MAX_ENTRIES)
        return;
    for (int i = 0; i < l->n; i++)
        if (!strcmp(l->at[i].path, path))
            return;
    l->at = mem_realloc(l->at, (size_t)(l->n + 1) * sizeof *l->at);
    l->at[l->n++] = (struct models_entry){mem_strdup(path), mem_strdup(name), mem_strdup(source), size};
}

/* "-00002-of-00005.gguf": only the first part stands for the whole. Returns part and count. */
static bool split_part(const char *name, int *part, int *count, size_t *stem)
{
    size_t n = strlen(name);
    if (n < 20 || sscanf(name + n - 20, "-%5d-of-%5d.gguf", part, count) != 2)
        return false;
    *stem = n - 20;
    return *part >= 1 && *count >= 1 && *count <= 99999;
}

static int64_t whole_size(const char *path)
{
    struct stat st;
    int part, count;
    size_t stem;
    if (!split_part(path, &part, &count, &stem))
        return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
    int64_t total = 0;
    for (int i = 1; i <= count; i++) {
        struct str s = {0};
        str_add(&s, path, stem);
        str_addf(&s, "-%05d-of-%05d.gguf", i, count);
        if (stat(str_c(&s), &st) == 0)
            total += (int64_t)st.st_size;
        str_fini(&s);
    }
    return total;
}

static void scan(struct list *l, const char *dir, const char *source, int depth)
{
    DIR *d = depth > 0 ? opendir(dir) : NULL;
    if (!d)
        return;
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == '.')
            continue;
        char *path = join(dir, f->d_name);
        struct stat st;
        int part, count;
        size_t stem;
        if (stat(path, &st) != 0) {
            /* a dangling link in a cache: nothing to offer */
        } else if (S_ISDIR(st.st_mode)) {
            scan(l, path, source, depth - 1);
        } else if (S_ISREG(st.st_mode) && ends_with(f->d_name, ".gguf") &&
                   !strstr(f->d_name, "mmproj") &&
                   (!split_part(f->d_name, &part, &count, &stem) || part == 1)) {
            char *name = mem_strndup(f->d_name, strlen(f->d_name) - 5);
            add(l, path, name, source, whole_size(path));
            free(name);
        }
        free(path);
    }
    closedir(d);
}

/* Ollama keeps manifests/registry/namespace/model/tag; the layer of the model's media type names
 * the blob by its digest. */
static void ollama_manifest(struct list *l, const char *root, const char *file, const char *name)
{
    json_error_t ignored;
    json_t *j = json_load_file(file, JSON_REJECT_DUPLICATES, &ignored);
    json_t *layers = json_object_get(j, "layers");
    size_t i;
    json_t *layer;
    json_array_foreach(layers, i, layer)
    {
        const char *type = json_string_value(json_object_get(layer, "mediaType"));
        const char *digest = json_string_value(json_object_get(layer, "digest"));
        if (!type || !digest || strcmp(type, "application/vnd.ollama.image.model") ||
            strncmp(digest, "sha256:", 7) || strspn(digest + 7, "0123456789abcdef") != 64 ||
            digest[71])
            continue;
        struct str path = {0};
        str_addf(&path, "%s/blobs/sha256-%s", root, digest + 7);
        struct stat st;
        if (stat(str_c(&path), &st) == 0)
            add(l, str_c(&path), name, "ollama", (int64_t)st.st_size);
        str_fini(&path);
    }
    json_decref(j);
}

static void ollama_scan(struct list *l, const char *root, const char *dir, int level, const char *model)
{
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *f; (f = readdir(d));) {
        if (f->d_name[0] == '.')
            continue;
        char *path = join(dir, f->d_name);
        if (level < 3) {
            ollama_scan(l, root, path, level + 1, f->d_name);
        } else {
            struct str name = {0};
            str_addf(&name, "%s:%s", model, f->d_name);
            ollama_manifest(l, root, path, str_c(&name));
            str_fini(&name);
        }
        free(path);
    }
    closedir(d);
}

static void ollama(struct list *l, const char *root)
{
    char *manifests = join(root, "manifests");
    ollama_scan(l, root, manifests, 0, "");
    free(manifests);
}

static void scan_env(struct list *l, const char *variable, const char *below, const char *source)
{
    const char *v = getenv(variable);
    if (!v || v[0] != '/')
        return;
    char *dir = *below ? join(v, below) : mem_strdup(v);
    scan(l, dir, source, MAX_DEPTH);
    free(dir);
}

static void scan_home(struct list *l, const char *rel, const char *source)
{
    char *dir = paths_home(rel);
    scan(l, dir, source, MAX_DEPTH);
    free(dir);
}

static int by_source_and_name(const void *a, const void *b)
{
    const struct models_entry *x = a, *y = b;
    int c = strcmp(x->source, y->source);
    return c ? c : strcmp(x->name, y->name);
}

void models_scan(struct models_entry **ret, int *ret_n)
{
    struct list l = {0};
    char *own = paths_data("models");
    scan(&l, own, "dogear", MAX_DEPTH);
    free(own);
    scan_env(&l, "LLAMA_CACHE", "", "llama.cpp");
    scan_env(&l, "XDG_CACHE_HOME", "llama.cpp", "llama.cpp");
    scan_home(&l, ".cache/llama.cpp", "llama.cpp");
    scan_env(&l, "HF_HUB_CACHE", "", "huggingface");
    scan_env(&l, "HF_HOME", "hub", "huggingface");
    scan_home(&l, ".cache/huggingface/hub", "huggingface");
    scan_home(&l, ".lmstudio/models", "lm-studio");
    scan_home(&l, ".cache/lm-studio/models", "lm-studio");
    scan_home(&l, ".local/share/Jan/data/llamacpp/models", "jan");
    scan_home(&l, ".config/Jan/data/llamacpp/models", "jan");
    const char *om = getenv("OLLAMA_MODELS");
    if (om && om[0] == '/')
        ollama(&l, om);
    char *home = paths_home(".ollama/models");
    ollama(&l, home);
    free(home);
    ollama(&l, "/usr/share/ollama/.ollama/models");
    if (l.n)
        qsort(l.at, (size_t)l.n, sizeof *l.at, by_source_and_name);
    char *bundled = paths_asset("model/dogear-memo.gguf");
    if (bundled)
        add(&l, bundled, "dogear-memo", "bundled", whole_size(bundled));
    free(bundled);
    *ret = l.at;
    *ret_n = l.n;
}

void models_free(struct models_entry *entries, int n)
{
    for (int i = 0; i < n; i++) {
        free(entries[i].path);
        free(entries[i].name);
        free(entries[i].source);
    }
    free(entries);
}

static bool contains(const char *s, const char *part)
{
    size_t n = strlen(part);
    for (; *s; s++)
        if (!strncasecmp(s, part, n))
            return true;
    return n == 0;
}

enum status models_find(const char *wanted, char **ret, struct err *e)
{
    struct stat st;
    if (!wanted) {
        *ret = paths_asset("model/dogear-memo.gguf");
        return *ret ? OK
                    : err_set(e, ERR_NOT_FOUND, "the bundled model is not installed; name one with -m FILE, see `dogear models`");
    }
    if (stat(wanted, &st) == 0) {
        if (!S_ISREG(st.st_mode))
            return err_set(e, ERR_USAGE, "%s is no file; -m takes a GGUF file or a name from `dogear models`", wanted);
        *ret = mem_strdup(wanted);
        return OK;
    }
    if (strchr(wanted, '/') || ends_with(wanted, ".gguf"))
        return err_set(e, ERR_NOT_FOUND, "%s: %s; see `dogear models`", wanted, strerror(errno));
    struct models_entry *all;
    int n, hits = 0, exact = -1, first = -1;
    models_scan(&all, &n);
    struct str names = {0};
    for (int i = 0; i < n; i++) {
        if (!strcasecmp(all[i].name, wanted))
            exact = i;
        if (!contains(all[i].name, wanted))
            continue;
        first = hits++ ? first : i;
        if (hits <= 5)
            str_addf(&names, "%s%s", hits > 1 ? ", " : "", all[i].name);
    }
    enum status status = OK;
    if (exact >= 0 || hits == 1)
        *ret = mem_strdup(all[exact >= 0 ? exact : first].path);
    else if (hits == 0)
        status = err_set(e, ERR_NOT_FOUND, "no model named \"%s\" on this machine; see `dogear models`", wanted);
    else
        status = err_set(e, ERR_USAGE, "\"%s\" fits %d models (%s%s); name one of them", wanted, hits,
                         str_c(&names), hits > 5 ? ", ..." : "");
    str_fini(&names);
    models_free(all, n);
    return status;
}
