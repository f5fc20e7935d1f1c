/* Colours by role, read from small text files (assets/themes): one line per role,
 *     role = FOREGROUND BACKGROUND [bold] [italic] [underline] [reverse] [strike]
 * with colours as #rrggbb, or `none` for the terminal's own. Unknown roles and colours are errors
 * that name the line, so that a typing mistake does not silently change nothing. The built-in
 * themes are those files, embedded. Knows no terminal: theme_nearest_256 and theme_nearest_8 are
 * for front-ends with fewer colours. Plain data, one thread. */
#ifndef UI_THEME_H
#define UI_THEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/err.h"

enum theme_role {
    ROLE_TEXT, /* must stay 0: blank cells have it */
    ROLE_DIM,
    ROLE_ACCENT,
    ROLE_TITLE,
    ROLE_BORDER,
    ROLE_USER, /* what the user wrote; its background shades the block */
    ROLE_USER_NAME,
    ROLE_ASSISTANT_NAME,
    ROLE_SYSTEM,
    ROLE_HEADING,
    ROLE_STRONG,
    ROLE_CODE, /* code blocks; its background shades the block */
    ROLE_CODE_BORDER,
    ROLE_CODE_KEYWORD,
    ROLE_CODE_STRING,
    ROLE_CODE_COMMENT,
    ROLE_INLINE_CODE,
    ROLE_QUOTE,
    ROLE_LINK,
    ROLE_BULLET,
    ROLE_THINK,
    ROLE_LIST,      /* conversation list and other panels */
    ROLE_LIST_OPEN, /* the conversation on the screen */
    ROLE_SELECTED,
    ROLE_BUTTON, /* what a click or Enter acts on */
    ROLE_MATCH,
    ROLE_PROMPT,
    ROLE_EDITOR,
    ROLE_HINT,
    ROLE_STATUS,
    ROLE_STATUS_VALUE,
    ROLE_STATUS_GOOD,
    ROLE_STATUS_WARN,
    ROLE_BAR,
    ROLE_BAR_EMPTY,
    ROLE_NOTICE,
    ROLE_ERROR,
    ROLE_POPUP,
    ROLE_KEY,
    ROLE_TIER_0, /* f16 ... disk, as stats_tier_name */
    ROLE_TIER_1,
    ROLE_TIER_2,
    ROLE_TIER_3,
    ROLE_TIER_4,
    ROLE_TIER_5,
    ROLE_TIER_6,
    ROLE_TIER_7,
    ROLE_COUNT
};

enum { THEME_NONE = -1 }; /* the terminal's own colour */

struct theme_style {
    int32_t fg, bg; /* 0xRRGGBB or THEME_NONE */
    uint8_t attr;   /* enum cell_attr */
};

struct theme {
    char name[32];
    bool dark;
    struct theme_style style[ROLE_COUNT];
};

/* A built-in name ("dark", "light", "mono") or the path of a .conf file. */
enum status theme_load(const char *name, struct theme *ret, struct err *e);
/* text: a NUL-terminated .conf; `from` names it in messages. Roles not mentioned stay plain. */
enum status theme_parse(const char *text, const char *from, struct theme *ret, struct err *e);
/* i-th built-in name, NULL past the end. */
const char *theme_builtin(int i);
/* Keeps attributes, takes away every colour (NO_COLOR); shaded blocks lose their shade. */
void theme_decolour(struct theme *t);
const char *theme_role_name(enum theme_role r);

int theme_nearest_256(int32_t rgb); /* 16..255, never the 16 a user may have redefined */
int theme_nearest_8(int32_t rgb);   /* 0..7 */

#endif
