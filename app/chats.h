/* The chats of one screen: the one in view, those with a turn that runs or waits, and those in which one
 * ended that nobody has looked at yet; all on one engine and one store. Drains the engine and hands each
 * event to the chat whose turn it is. The engine runs one turn at a time: the others wait in the order in
 * which they were asked. Main thread only; never blocks on compute. */
#ifndef APP_CHATS_H
#define APP_CHATS_H

#include "app/chat.h"

struct chats;

struct chats *chats_new(struct engine *en, struct sessions *store); /* borrowed; a new chat is in view */
void chats_free(struct chats *cs); /* chat_free for each */

/* All pointers to chats are borrowed until the next call that is not const. */
struct chat *chats_view(const struct chats *cs);
/* Brings a conversation into view. A turn of the one before goes on. */
enum status chats_open(struct chats *cs, int64_t conversation, struct err *e);
void chats_start_new(struct chats *cs);
/* A conversation is about to be deleted: its turn ends; where it was in view a new one is. */
void chats_drop(struct chats *cs, int64_t conversation);

/* The chat that holds a conversation: in view, at work, or done and not looked at. NULL = none. */
struct chat *chats_find(const struct chats *cs, int64_t conversation);
struct chat *chats_writing(const struct chats *cs); /* whose turn the engine runs; NULL = none's */
bool chats_busy(const struct chats *cs);            /* a turn runs or waits */

/* Returns false when nothing is left. Call it when the wake callback fired, soon after a question, and
 * at least every second while busy (flushes what is being written to the store). */
bool chats_poll(struct chats *cs, struct chat **ret_whose, struct chat_event *ret);

#endif
