/* The terminal front-end: cells to the screen through ncursesw (as a writer of cells only), raw
 * bytes in through input.h. What is drawn takes exactly the columns the grid says on every
 * terminal: clusters that terminals disagree about are reduced to what they agree about.
 * Opened on the file descriptors 0 and 1; one per process; main thread only. */
#ifndef UI_TUI_H
#define UI_TUI_H

#include "ui/ui.h"

/* no_colour: NO_COLOR is set. mouse: report mouse events. Errors: not a terminal, unknown TERM. */
enum status tui_open(const struct theme *theme, bool no_colour, bool mouse, struct ui_front *ret,
                     struct err *e);

#endif
