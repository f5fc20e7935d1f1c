/* Slash commands: one table with name, arguments, help and handler. Completion, the help screen
 * and the palette are made from it. To add a command, add a row. Main thread only. */
#ifndef APP_COMMANDS_H
#define APP_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/engine.h"
#include "ui/model.h"

struct screen;

/* Runs a line that starts with `/`. False when there is no such command (a notice has been shown):
 * the text should stay in the editor. */
bool commands_run(struct screen *sc, const char *line);
/* Tells what /verify found. */
void commands_verified(struct screen *sc, const struct engine_fidelity *f);
/* Rows for help and palette; *ret_n of them. Constant. */
const struct ui_command *commands_list(int *ret_n);
/* Completes the command name at the start of `text`: returns the only name with that beginning
 * (e.g. "/rename "), or the longest common beginning; NULL when nothing can be added. */
const char *commands_complete(const char *text);

#endif
