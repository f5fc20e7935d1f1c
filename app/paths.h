/* XDG folders. Returned strings are malloc'ed; nothing is created. */
#ifndef APP_PATHS_H
#define APP_PATHS_H

char *paths_config(const char *name); /* $XDG_CONFIG_HOME/dogear/name */
char *paths_data(const char *name);   /* $XDG_DATA_HOME/dogear/name */
char *paths_state(const char *name);  /* $XDG_STATE_HOME/dogear/name */
char *paths_cache(const char *name);  /* $XDG_CACHE_HOME/dogear/name */
char *paths_home(const char *rel);    /* ~/rel */
/* A file of assets/: beside the binary's source tree, or installed; NULL when absent. */
char *paths_asset(const char *rel);
/* The shared module dogear-NAME.so of this program; NULL when it was not built. */
char *paths_module(const char *name);

#endif
