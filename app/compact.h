/* A conversation goes on in a shorter one: its system prompt, a summary that the model writes of its
 * beginning, and its last messages as they are. The summary is asked for in a fork that ends before
 * those, so that nothing of the conversation itself changes, and goes when it is written: what goes on is
 * a conversation of its own. Main thread only. */
#ifndef APP_COMPACT_H
#define APP_COMPACT_H

#include "app/chat.h"

struct compact;

/* Opens the fork in the chat and asks for the summary, as a turn like any other. n_ctx: of the model.
 * Kept as they are: the last whole exchanges that fill no more than a quarter of the context, nor more than
 * half of the conversation, but one at least. ERR_USAGE: there is no exchange before those, or no room to
 * summarise. When it fails the conversation is open as before. Both are borrowed. */
enum status compact_begin(struct chat *chat, struct sessions *store, int32_t n_ctx, struct compact **ret,
                          struct err *e);
int32_t compact_n_message(const struct compact *co); /* how many are summarised */
/* What asks for the summary: nobody wrote it. */
bool compact_is_question(const struct chat_message *m);
/* The turn ended, well or not: the shorter conversation is open, or, with a reason, the one before.
 * *ret_from: that one. Frees co. */
enum status compact_end(struct compact *co, bool well, int64_t *ret_from, struct err *e);
/* Deletes the fork; when it is the open one, the conversation before is opened. NULL is fine. Frees co. */
void compact_drop(struct compact *co);

#endif
