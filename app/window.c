/* Loads the desktop window; see window.h. */
#include "app/window.h"

#include <dlfcn.h>
#include <stdlib.h>

#include "app/paths.h"

enum status window_load(const struct window_options *o, struct ui_front *ret, struct err *e)
{
    char *path = paths_module("window");
    if (!path)
        return err_set(e, ERR_UNSUPPORTED,
                       "this program was built without the window: install libsdl2-dev, "
                       "libsdl2-ttf-dev, libfontconfig-dev and libpng-dev, then build again");
    /* Never unloaded: SDL leaves threads and handlers of other libraries behind. */
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    free(path);
    if (!module)
        return err_set(e, ERR_UNSUPPORTED,
                       "the window cannot be loaded: %s (Debian: libsdl2-2.0-0, "
                       "libsdl2-ttf-2.0-0)",
                       dlerror());
    window_open_fn *open;
    *(void **)&open = dlsym(module, "window_open"); /* as POSIX has it: C knows no such cast */
    if (!open)
        return err_set(e, ERR_UNSUPPORTED, "the window's module is of another version: %s",
                       dlerror());
    return open(o, ret, e);
}
