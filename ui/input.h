/* Bytes from a terminal to input events: UTF-8, control characters, CSI and SS3 keys with
 * modifiers (xterm, rxvt, linux, kitty's CSI u), bracketed paste, SGR mouse. Any bytes are safe;
 * sequences that mean nothing are swallowed whole so that they never end up in the text.
 *
 * A lone ESC is a key only when nothing follows it for a moment: the caller feeds bytes as they
 * come and calls input_flush when input_pending() is true and INPUT_ESC_MS have passed. */
#ifndef UI_INPUT_H
#define UI_INPUT_H

#include "ui/ui.h"

enum { INPUT_ESC_MS = 30, INPUT_PASTE_MAX = 16 * 1024 * 1024 };

struct input;

struct input *input_new(void);
void input_free(struct input *in);
void input_feed(struct input *in, const char *bytes, size_t n);
bool input_next(struct input *in, struct ui_event *ret); /* ret->text is then the caller's */
bool input_pending(const struct input *in);              /* an unfinished sequence is held back */
void input_flush(struct input *in);                      /* what is held back is complete */

#endif
