#include "app/chats.h"

#include <stdlib.h>

#include "engine/base/mem.h"

struct chats {
    struct engine *engine;
    struct sessions *store;
    struct chat **chat;
    int n;
    struct chat *view; /* one of them */
};

static struct chat *add(struct chats *cs)
{
    cs->chat = mem_realloc(cs->chat, ((size_t)cs->n + 1) * sizeof *cs->chat);
    return cs->chat[cs->n++] = chat_new(cs->engine, cs->store);
}

static void drop(struct chats *cs, struct chat *c)
{
    int i = 0;
    while (cs->chat[i] != c)
        i++;
    cs->chat[i] = cs->chat[--cs->n];
    chat_free(c);
}

struct chats *chats_new(struct engine *en, struct sessions *store)
{
    struct chats *cs = mem_calloc(1, sizeof *cs);
    cs->engine = en;
    cs->store = store;
    cs->view = add(cs);
    return cs;
}

void chats_free(struct chats *cs)
{
    if (!cs)
        return;
    while (cs->n)
        drop(cs, cs->chat[0]);
    free(cs->chat);
    free(cs);
}

struct chat *chats_view(const struct chats *cs)
{
    return cs->view;
}

struct chat *chats_find(const struct chats *cs, int64_t conversation)
{
    for (int i = 0; i < cs->n; i++)
        if (chat_conversation(cs->chat[i]) == conversation)
            return cs->chat[i];
    return NULL;
}

struct chat *chats_writing(const struct chats *cs)
{
    for (int i = 0; i < cs->n; i++)
        if (chat_running(cs->chat[i]) && !chat_waiting(cs->chat[i]))
            return cs->chat[i];
    return NULL;
}

bool chats_busy(const struct chats *cs)
{
    for (int i = 0; i < cs->n; i++)
        if (chat_running(cs->chat[i]))
            return true;
    return false;
}

static void show(struct chats *cs, struct chat *c)
{
    struct chat *before = cs->view;
    if (c == before)
        return;
    chat_set_like(c, before);
    cs->view = c;
    if (!chat_running(before))
        drop(cs, before);
}

enum status chats_open(struct chats *cs, int64_t conversation, struct err *e)
{
    struct chat *known = chats_find(cs, conversation), *c = known ? known : add(cs);
    /* What ended unseen is read again: another program may have written there since. */
    enum status st = chat_running(c) ? OK : chat_open(c, conversation, e);
    if (st == OK)
        show(cs, c);
    else if (c != cs->view)
        drop(cs, c);
    return st;
}

void chats_start_new(struct chats *cs)
{
    show(cs, add(cs));
}

void chats_drop(struct chats *cs, int64_t conversation)
{
    struct chat *c = chats_find(cs, conversation);
    if (c && c == cs->view)
        chat_start_new(c);
    else if (c)
        drop(cs, c);
}

/* Whose turn is the next. */
static struct chat *first_waiting(const struct chats *cs)
{
    struct chat *first = NULL;
    for (int i = 0; i < cs->n; i++)
        if (chat_waiting(cs->chat[i]) &&
            (!first || chat_asked_s(cs->chat[i]) < chat_asked_s(first)))
            first = cs->chat[i];
    return first;
}

bool chats_poll(struct chats *cs, struct chat **ret_whose, struct chat_event *ret)
{
    struct engine_event *ev;
    while ((ev = engine_poll(cs->engine))) {
        bool told = false;
        for (int i = 0; i < cs->n && !told; i++) {
            *ret_whose = cs->chat[i];
            told = chat_take(cs->chat[i], ev, ret);
        }
        engine_event_free(ev);
        if (told)
            return true;
    }
    for (int i = 0; i < cs->n; i++)
        chat_flush(cs->chat[i]);
    *ret_whose = first_waiting(cs);
    return *ret_whose && chat_begin(*ret_whose, ret);
}
