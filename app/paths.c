#include "app/paths.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/str.h"

static const char *home(void)
{
    const char *h = getenv("HOME");
    if (h && *h)
        return h;
    const struct passwd *pw = getpwuid(getuid());
    return pw && pw->pw_dir ? pw->pw_dir : "/tmp";
}

/* XDG says that relative values are invalid and must be ignored. */
static char *xdg(const char *variable, const char *fallback, const char *name)
{
    struct str s = {0};
    const char *base = getenv(variable);
    if (base && base[0] == '/')
        str_adds(&s, base);
    else
        str_addf(&s, "%s/%s", home(), fallback);
    str_addf(&s, "/dogear/%s", name);
    return str_take(&s);
}

char *paths_config(const char *name)
{
    return xdg("XDG_CONFIG_HOME", ".config", name);
}

char *paths_data(const char *name)
{
    return xdg("XDG_DATA_HOME", ".local/share", name);
}

char *paths_state(const char *name)
{
    return xdg("XDG_STATE_HOME", ".local/state", name);
}

char *paths_cache(const char *name)
{
    return xdg("XDG_CACHE_HOME", ".cache", name);
}

char *paths_home(const char *rel)
{
    struct str s = {0};
    str_addf(&s, "%s/%s", home(), rel);
    return str_take(&s);
}

/* The first that exists of rel in places, which are relative to the program's folder. */
static char *beside_program(const char *const *places, int n_place, const char *rel)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return NULL;
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = 0;
    for (int i = 0; i < n_place; i++) {
        struct str s = {0};
        str_addf(&s, "%s/%s/%s", exe, places[i], rel);
        char *path = access(str_c(&s), R_OK) == 0 ? realpath(str_c(&s), NULL) : NULL;
        str_fini(&s);
        if (path)
            return path;
    }
    return NULL;
}

char *paths_module(const char *name)
{
    /* build/app/dogear -> build/ui; bin/dogear -> lib/<machine>/dogear */
    static const char *const places[] = {"../ui", "../" DOGEAR_LIBDIR "/dogear"};
    struct str file = {0};
    str_addf(&file, "dogear-%s.so", name);
    char *path = beside_program(places, 2, str_c(&file));
    str_fini(&file);
    return path;
}

char *paths_asset(const char *rel)
{
    /* build/app/dogear -> the source tree; bin/dogear -> share/dogear */
    static const char *const places[] = {"../../assets", "../assets", "../share/dogear"};
    char *path = beside_program(places, 3, rel);
    if (path)
        return path;
    struct str s = {0};
    str_addf(&s, "%s/assets/%s", DOGEAR_SOURCE_DIR, rel);
    if (access(str_c(&s), R_OK) == 0)
        return str_take(&s);
    str_fini(&s);
    return NULL;
}
