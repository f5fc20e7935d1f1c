/* The input line: multi-line text with a grapheme-aware cursor, readline's editing operations, one
 * kill buffer, undo and redo, and a history of what was sent. Draws itself into cells. Everything
 * that comes in is cleaned (text_clean), so the text never holds control characters but line feeds
 * and tabs. Owns its text; knows no files: history is loaded and saved by the caller. One thread.
 */
#ifndef UI_EDITOR_H
#define UI_EDITOR_H

#include <stdbool.h>
#include <stddef.h>

#include "ui/cells.h"
#include "ui/keymap.h"

enum { EDITOR_TEXT_MAX = 16 * 1024 * 1024, EDITOR_HISTORY_MAX = 1000 };

struct editor;

struct editor *editor_new(void);
void editor_free(struct editor *ed);

const char *
editor_text(const struct editor *ed); /* NUL-terminated; borrowed until the next change */
size_t editor_len(const struct editor *ed);
size_t editor_cursor(const struct editor *ed); /* byte offset, always at a cluster boundary */
/* Counts up with every change of the text. */
unsigned editor_version(const struct editor *ed);

/* Replaces everything, cursor at the end; can be undone. */
void editor_set(struct editor *ed, const char *text, size_t n);
/* Types or pastes at the cursor. False, and nothing changed, when the text would grow past
 * EDITOR_TEXT_MAX. */
bool editor_insert(struct editor *ed, const char *text, size_t n);
/* Moves the cursor to the cluster boundary at or before off. */
void editor_place(struct editor *ed, size_t off);
/* ---- selection: typing replaces it, moving ends it ---- */
/* The same as editor_act for actions that move the cursor, taking the selection along. False = the
 * action is none of these, or the cursor is where it was. */
bool editor_extend(struct editor *ed, enum keymap_action a);
/* Selects from `from` (snapped) to `to`, where the cursor goes. */
void editor_select(struct editor *ed, size_t from, size_t to);
/* The word around off. */
void editor_select_word(struct editor *ed, size_t off);
/* False when nothing is selected. */
bool editor_selection(const struct editor *ed, size_t *ret_from, size_t *ret_to);
void editor_erase_selection(struct editor *ed);

/* Runs one of the editing actions (ACT_NEWLINE ... ACT_HISTORY_NEXT); false = the action is none of
 * these, or it had nothing to do. */
bool editor_act(struct editor *ed, enum keymap_action a);

/* ---- history: oldest first ---- */
void editor_history_add(struct editor *ed, const char *text, size_t n); /* repeats are dropped */
int editor_history_count(const struct editor *ed);
const char *editor_history_get(const struct editor *ed, int i);

/* ---- drawing ---- */
/* Rows the text takes at this width; the width is remembered for moving up and down. */
int editor_rows(struct editor *ed, int width);
/* Draws into r, scrolled so that the cursor is visible, and places the grid's cursor when `focus`.
 */
void editor_draw(struct editor *ed, struct cells *c, struct rect r, bool focus);
/* Offset of the text at a drawn position, for the mouse. */
size_t editor_at(struct editor *ed, int col, int row);

#endif
