/* The module with the desktop window (ui/window.h), loaded when one is wanted. */
#ifndef APP_WINDOW_H
#define APP_WINDOW_H

#include "ui/window.h"

/* As window_open. Errors also: this program was built without the window, SDL is not installed. */
enum status window_load(const struct window_options *o, struct ui_front *ret, struct err *e);

#endif
