/* The state of the chat screen; seen only by app/screen*.c. */
#ifndef APP_SCREEN_STATE_H
#define APP_SCREEN_STATE_H

#include "app/chats.h"
#include "app/screen.h"
#include "engine/base/str.h"
#include "sessions/sessions.h"
#include "ui/dash.h"
#include "ui/history.h"
#include "ui/model.h"
#include "ui/view.h"

enum picker { PICK_PALETTE, PICK_SEARCH, PICK_HISTORY, PICK_LIST };
enum question { ASK_DELETE, ASK_THIN };
enum drag { DRAG_NONE, DRAG_CHAT, DRAG_EDITOR, DRAG_BAR };
/* What a notice speaks of; it goes with that, when its time is over, and when another chat is shown. */
enum notice_while { NOTICE_FREE, NOTICE_BUSY, NOTICE_SELECT, NOTICE_EDIT, NOTICE_DASH, NOTICE_QUIT };
enum { LIST_MAX = 500, PICK_MAX = 60 };

/* Rows with the strings they point to. */
struct rows {
    struct ui_row *row;
    char **strings; /* three per row: text, detail, snippet */
    int n, sel, scroll;
};

enum { UNDO_MAX = 32 };
struct dash_undo { /* how a setting was before it was changed */
    enum dash_item item;
    const char *name;
    double at_s, coverage;
    int64_t budget;
    char preset[24];
    bool pinned;
};

struct screen_dash {
    struct dash view;
    int64_t conversation; /* whose figures of turns these are */
    struct stats verified; /* the newest of them that was verified; fidelity_n -1 = none */
    int64_t disk_tier_bytes[STATS_TIERS];
    struct stats_map map;
    bool map_stale, map_waits, disk_stale, pinned;
    double map_asked_s, disk_s;
    char *page_text; /* of page page_of, as of the picture of page_at_s */
    int page_of;
    double page_at_s;
    struct dash_token *token;
    int token_cap;
    int64_t answer;                   /* message whose tokens they are */
    char *other[STATS_ALTERNATIVES];  /* of token other_of */
    int other_of;
    struct stats_trace trace;
    bool trace_waits;
    double trace_asked_s;  /* 0 = what is known is not of the cache as it is now */
    int32_t trace_pos;     /* asked for, on the path that ends with trace_answer */
    int64_t trace_answer;
    struct str path; /* text of the open path's tokens, of which there are n_path */
    uint32_t *path_at;
    int32_t *path_ids, n_path, path_cap;
    int64_t budget; /* asked for at budget_s; the engine's figure follows when it is idle */
    double budget_s;
    char preset[24]; /* chosen, not yet applied; "" = none */
    struct dash_undo undo[UNDO_MAX];
    int n_undo;
};

struct screen {
    struct ui_front *front;
    struct chats *chats;
    struct chat *chat; /* in view */
    struct sessions *store;
    struct engine *engine;
    struct compact *compact; /* the conversation is being summarised; or NULL */
    struct screen_options options;

    struct cells *cells;
    struct view_chat *view;
    struct theme theme;
    struct ui_model model; /* filled anew before every frame */
    struct shapes shapes;   /* graphics of the frame, for front-ends that show them */
    struct ui_message *messages;
    int32_t cap_message;

    struct editor *editor;
    char *stash;            /* what was in the editor before a message was put there to edit */
    int32_t edit_message;   /* that message, -1 = none */
    unsigned draft_version; /* of the text last kept as a draft */
    double draft_at_s;      /* when to keep it, 0 = nothing to do */

    struct rows list;
    bool list_stale;

    enum ui_focus focus;
    enum ui_popup popup;
    bool from_dash; /* the keys were the dashboard's when the popup came, and will be again */
    enum picker picker;
    struct rows picks;
    struct editor *input; /* of picker and input popup */
    struct str popup_title, popup_hint;
    char *popup_text;
    int help_scroll;
    enum question question;
    int64_t subject; /* conversation a popup is about */
    int32_t selected;

    struct str notice;
    bool notice_is_error;
    enum notice_while notice_while;
    double notice_until_s; /* 0 = none */
    double interrupt_s;    /* last Ctrl+C that found nothing to do */
    bool cancel_sent;
    double stats_s, poll_s, look_s, list_s; /* list_s: when the list was read */
    bool others_wrote; /* another program, to the store: what is shown may be old */
    struct history history;
    struct screen_dash dash;
    bool show_thinking, list_wanted, dash_wanted;
    bool dirty, done, mouse;
    struct str shot; /* picture to save after the next frame, "" = none */
    enum drag drag; /* what the held mouse button moves */
    int drag_chars; /* cells passed since it went down */
    char shown_title[256];
};


/* screen.c */
void notice_while(struct screen *sc, enum notice_while what); /* said of the notice that was just set */

/* screen_list.c */
void notice_pinned(struct screen *sc, bool pinned);
void rows_clear(struct rows *r);
void rows_add(struct rows *r, int64_t id, const char *text, const char *detail, const char *snippet,
              bool open, bool pinned);
void list_reload(struct screen *sc);
bool list_shown(const struct screen *sc); /* there is room for it beside the chat */
void list_fill(struct screen *sc); /* what the chats of its rows, and of the picker's, do at the moment */
bool list_act(struct screen *sc, enum keymap_action a);
void popup_open(struct screen *sc, enum ui_popup popup, const char *title, const char *hint);
void popup_close(struct screen *sc);
void picker_open(struct screen *sc, enum picker p, const char *text);
void picker_changed(struct screen *sc); /* the input line changed */
bool popup_event(struct screen *sc, const struct ui_event *ev);
void picker_choose(struct screen *sc); /* the selected row */
void rows_move(struct rows *r, int to);
void chat_shown(struct screen *sc); /* another conversation is in the chat */
void compact_leave(struct screen *sc); /* a summary that is being written is given up */
void select_start(struct screen *sc); /* screen.c: choosing a message */
void list_compacted(struct screen *sc, bool well); /* the turn that summarises ended */

/* screen_dash.c */
void dash_init(struct screen *sc);
void dash_fini(struct screen *sc);
void dash_opened(struct screen *sc);     /* another conversation or branch is on the screen */
void dash_turn_ended(struct screen *sc);
void dash_fill(struct screen *sc);
double dash_tick(struct screen *sc, double now_s); /* when it is needed again; 0 = no matter */
void dash_toggle(struct screen *sc);
bool dash_act(struct screen *sc, enum keymap_action a);
bool dash_press(struct screen *sc, int x, int y); /* false = nothing is there */
void dash_thin(struct screen *sc, int64_t conversation); /* was agreed to */

/* screen_window.c */
void mouse_event(struct screen *sc, const struct ui_event *ev);
/* A key that only a window has; false = it means what it means everywhere. Turns the paste key into
 * a paste event. */
bool window_key(struct screen *sc, struct ui_event *ev);
void screenshot_take(struct screen *sc);
bool selection_copy(struct screen *sc); /* false = nothing is selected */

/* screen_edit.c */
void editor_enter(struct screen *sc);
void editor_external(struct screen *sc);
/* As Ctrl+Z does, between two writes of the store; returns when the shell continues it. The terminal
 * is somebody else's. */
void screen_stop_program(struct screen *sc);
void history_load(struct screen *sc);
void draft_load(struct screen *sc);
void draft_save(struct screen *sc);
void edit_start(struct screen *sc, int32_t message);
void edit_cancel(struct screen *sc);
void copy_text(struct screen *sc, const char *text, size_t n, const char *what);
void copy_message(struct screen *sc, const struct chat_message *msg,
                  const char *what); /* of an answer what follows its thoughts */

#endif
