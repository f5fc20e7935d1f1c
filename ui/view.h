/* The views: each draws a part of the model into a rectangle of cells and nothing else. */
#ifndef UI_VIEW_H
#define UI_VIEW_H

#include "ui/cells.h"
#include "ui/layout.h"
#include "ui/model.h"

/* ---- transcript: keeps rendered lines and the scroll position ---- */
struct view_chat;

struct view_chat *view_chat_new(void);
void view_chat_free(struct view_chat *v);
/* Brings the lines up to date with the model at this width; called by draw, and before asking. */
void view_chat_update(struct view_chat *v, const struct ui_model *m, int width);
void view_chat_draw(struct view_chat *v, const struct ui_model *m, struct cells *c,
                    struct rect chat, struct rect text);
void view_chat_scroll(struct view_chat *v, int n_line); /* negative = up */
void view_chat_page(struct view_chat *v, int n_page);
void view_chat_top(struct view_chat *v);
void view_chat_follow(struct view_chat *v);                /* go to the end and stay there */
void view_chat_show(struct view_chat *v, int32_t message); /* scroll until it is visible */
bool view_chat_following(const struct view_chat *v);
int view_chat_below(const struct view_chat *v); /* lines hidden under the bottom */
/* Message at a row of the drawn transcript, -1 = none; for the mouse. */
int32_t view_chat_at(const struct view_chat *v, int row);
/* ---- selecting text: columns and rows of the drawn text, outside it the nearest ---- */
/* Starts a selection; n_click 1 = from here, 2 = the word, 3 = the line. */
void view_chat_select(struct view_chat *v, int col, int row, int n_click);
void view_chat_select_to(struct view_chat *v, int col, int row);
void view_chat_select_clear(struct view_chat *v);
/* Appends what is selected, wrapped lines joined; false = nothing is. out may be NULL. */
bool view_chat_selection(const struct view_chat *v, struct str *out);
/* The drawn row is the name over a message. */
bool view_chat_is_name(const struct view_chat *v, int row);
/* Scrolls to a part (0..1) of the conversation. */
void view_chat_scroll_to(struct view_chat *v, double part);

/* Code block by the number shown (from 1), as it was written; NULL = there is none. */
const char *view_chat_code(const struct view_chat *v, int number, size_t *ret_len);
int view_chat_code_count(const struct view_chat *v);

/* ---- panels ---- */
void view_panels_list(const struct ui_model *m, struct cells *c, struct rect r, bool focus);
void view_panels_popup(const struct ui_model *m, struct cells *c, struct rect screen);
/* Row of the picker at a cell: -1 = none, -2 = outside the popup; for the mouse. */
int view_panels_at(const struct ui_model *m, struct rect screen, int x, int y);

/* ---- status line, prompt and rule ---- */
void view_status_draw(const struct ui_model *m, struct cells *c, struct rect r);
void view_status_rule(const struct ui_model *m, struct cells *c, struct rect r, struct rect text,
                      int n_below);
void view_status_editor(const struct ui_model *m, struct cells *c, const struct layout *l);

/* ---- dashboard ---- */
void view_dash_draw(const struct ui_model *m, struct cells *c, struct rect r);

/* ---- all of it ---- */
void view_draw(const struct ui_model *m, struct view_chat *v, struct cells *c);
/* The layout view_draw uses, for the mouse. */
void view_layout(const struct ui_model *m, const struct cells *c, struct layout *ret);

#endif
