/* Theme files; see theme.h. */
#include "ui/theme.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ui/cells.h"
#include "ui/conf.h"

/* Made from assets/themes/ by the build. */
extern const char asset_theme_dark[], asset_theme_light[], asset_theme_mono[];

static const struct {
    const char *name, *text;
} builtins[] = {
    {"dark", asset_theme_dark},
    {"light", asset_theme_light},
    {"mono", asset_theme_mono},
};

static const char *const role_names[ROLE_COUNT] = {
    [ROLE_TEXT] = "text",
    [ROLE_DIM] = "dim",
    [ROLE_ACCENT] = "accent",
    [ROLE_TITLE] = "title",
    [ROLE_BORDER] = "border",
    [ROLE_USER] = "user",
    [ROLE_USER_NAME] = "user_name",
    [ROLE_ASSISTANT_NAME] = "assistant_name",
    [ROLE_SYSTEM] = "system",
    [ROLE_HEADING] = "heading",
    [ROLE_STRONG] = "strong",
    [ROLE_CODE] = "code",
    [ROLE_CODE_BORDER] = "code_border",
    [ROLE_CODE_KEYWORD] = "code_keyword",
    [ROLE_CODE_STRING] = "code_string",
    [ROLE_CODE_COMMENT] = "code_comment",
    [ROLE_INLINE_CODE] = "inline_code",
    [ROLE_QUOTE] = "quote",
    [ROLE_LINK] = "link",
    [ROLE_BULLET] = "bullet",
    [ROLE_THINK] = "think",
    [ROLE_LIST] = "list",
    [ROLE_LIST_OPEN] = "list_open",
    [ROLE_SELECTED] = "selected",
    [ROLE_BUTTON] = "button",
    [ROLE_MATCH] = "match",
    [ROLE_PROMPT] = "prompt",
    [ROLE_EDITOR] = "editor",
    [ROLE_HINT] = "hint",
    [ROLE_STATUS] = "status",
    [ROLE_STATUS_VALUE] = "status_value",
    [ROLE_STATUS_GOOD] = "status_good",
    [ROLE_STATUS_WARN] = "status_warn",
    [ROLE_BAR] = "bar",
    [ROLE_BAR_EMPTY] = "bar_empty",
    [ROLE_NOTICE] = "notice",
    [ROLE_ERROR] = "error",
    [ROLE_POPUP] = "popup",
    [ROLE_KEY] = "key",
    [ROLE_TIER_0] = "tier_f16",
    [ROLE_TIER_1] = "tier_8_8",
    [ROLE_TIER_2] = "tier_8_4",
    [ROLE_TIER_3] = "tier_6_4",
    [ROLE_TIER_4] = "tier_4_4",
    [ROLE_TIER_5] = "tier_4_2",
    [ROLE_TIER_6] = "tier_2_2",
    [ROLE_TIER_7] = "tier_disk",
};

const char *theme_role_name(enum theme_role r)
{
    return r < ROLE_COUNT ? role_names[r] : "";
}

const char *theme_builtin(int i)
{
    return i >= 0 && i < (int)(sizeof builtins / sizeof *builtins) ? builtins[i].name : NULL;
}

static bool parse_colour(const char *word, int32_t *ret)
{
    if (strcmp(word, "none") == 0) {
        *ret = THEME_NONE;
        return true;
    }
    if (word[0] != '#' || strlen(word) != 7 || strspn(word + 1, "0123456789abcdefABCDEF") != 6)
        return false;
    *ret = (int32_t)strtol(word + 1, NULL, 16);
    return true;
}

static bool parse_attr(const char *word, uint8_t *attr)
{
    static const struct {
        const char *name;
        uint8_t bit;
    } names[] = {{"bold", CELL_BOLD},
                 {"italic", CELL_ITALIC},
                 {"underline", CELL_UNDERLINE},
                 {"reverse", CELL_REVERSE},
                 {"strike", CELL_STRIKE}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(word, names[i].name) == 0) {
            *attr |= names[i].bit;
            return true;
        }
    return false;
}

static enum status parse_style(const struct conf_line *l, const char *from, struct theme_style *ret,
                               struct err *e)
{
    struct theme_style s = {THEME_NONE, THEME_NONE, 0};
    char value[256];
    snprintf(value, sizeof value, "%s", l->value);
    char *save = NULL;
    int i = 0;
    for (char *w = strtok_r(value, " \t", &save); w; w = strtok_r(NULL, " \t", &save), i++) {
        bool good = i == 0   ? parse_colour(w, &s.fg)
                    : i == 1 ? parse_colour(w, &s.bg)
                             : parse_attr(w, &s.attr);
        if (!good)
            return err_set(e, ERR_FORMAT, "%s line %d: \"%s\" is no %s; write %s", from, l->number,
                           w, i < 2 ? "colour" : "attribute",
                           i < 2 ? "#rrggbb or none"
                                 : "bold, italic, underline, reverse or strike");
    }
    if (i < 2)
        return err_set(e, ERR_FORMAT, "%s line %d: %s needs a foreground and a background colour",
                       from, l->number, l->key);
    *ret = s;
    return OK;
}

enum status theme_parse(const char *text, const char *from, struct theme *ret, struct err *e)
{
    struct theme t = {.dark = true};
    for (int i = 0; i < ROLE_COUNT; i++)
        t.style[i].fg = t.style[i].bg = THEME_NONE;
    snprintf(t.name, sizeof t.name, "%s", from);
    struct conf_line line;
    const char *at = text;
    int number = 0;
    while (conf_next(&at, &number, &line)) {
        if (line.section[0] || !line.key[0])
            return err_set(e, ERR_FORMAT, "%s line %d: expected `role = colours`", from, number);
        if (strcmp(line.key, "base") == 0) {
            t.dark = strcmp(line.value, "light") != 0;
            continue;
        }
        int role = 0;
        while (role < ROLE_COUNT && strcmp(line.key, role_names[role]) != 0)
            role++;
        if (role == ROLE_COUNT)
            return err_set(e, ERR_FORMAT,
                           "%s line %d: unknown role \"%s\"; dark.conf lists them all", from,
                           number, line.key);
        TRY(parse_style(&line, from, &t.style[role], e));
    }
    *ret = t;
    return OK;
}

enum status theme_load(const char *name, struct theme *ret, struct err *e)
{
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (strcmp(name, builtins[i].name) == 0)
            return theme_parse(builtins[i].text, name, ret, e);
    if (!strchr(name, '/') && !strchr(name, '.'))
        return err_set(
            e, ERR_NOT_FOUND,
            "no theme \"%s\"; there are dark, light and mono, or give the path of a .conf", name);
    char *text;
    TRY(conf_read(name, &text, e));
    const char *base = strrchr(name, '/');
    enum status s = theme_parse(text, base ? base + 1 : name, ret, e);
    free(text);
    return s;
}

void theme_decolour(struct theme *t)
{
    for (int i = 0; i < ROLE_COUNT; i++)
        t->style[i].fg = t->style[i].bg = THEME_NONE;
    /* What only colour told apart is told apart by attributes. */
    t->style[ROLE_SELECTED].attr |= CELL_REVERSE;
    t->style[ROLE_MATCH].attr |= CELL_UNDERLINE;
    t->style[ROLE_USER_NAME].attr |= CELL_BOLD;
    t->style[ROLE_ASSISTANT_NAME].attr |= CELL_BOLD;
    t->style[ROLE_HEADING].attr |= CELL_BOLD;
    t->style[ROLE_ERROR].attr |= CELL_BOLD;
    t->style[ROLE_LIST_OPEN].attr |= CELL_BOLD;
    t->style[ROLE_KEY].attr |= CELL_BOLD;
    for (int i = ROLE_STATUS; i <= ROLE_STATUS_WARN; i++)
        t->style[i].attr |= CELL_REVERSE;
    t->style[ROLE_STATUS_VALUE].attr |= CELL_BOLD;
}

static int cube_step(int v)
{
    return v < 48 ? 0 : v < 115 ? 1 : (v - 35) / 40;
}

static int distance(int r, int g, int b, int r2, int g2, int b2)
{
    return (r - r2) * (r - r2) + (g - g2) * (g - g2) + (b - b2) * (b - b2);
}

int theme_nearest_256(int32_t rgb)
{
    int r = rgb >> 16 & 255, g = rgb >> 8 & 255, b = rgb & 255;
    static const int level[6] = {0, 95, 135, 175, 215, 255};
    int cr = cube_step(r), cg = cube_step(g), cb = cube_step(b);
    int grey = (r + g + b) / 3, step = grey < 8 ? 0 : grey > 238 ? 23 : (grey - 3) / 10;
    int grey_level = 8 + 10 * step;
    if (distance(r, g, b, grey_level, grey_level, grey_level) <
        distance(r, g, b, level[cr], level[cg], level[cb]))
        return 232 + step;
    return 16 + 36 * cr + 6 * cg + cb;
}

int theme_nearest_8(int32_t rgb)
{
    enum { DARK = 80, GREY = 48 };
    int c[3] = {rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255}, min = 255, max = 0, ret = 0;
    for (int i = 0; i < 3; i++) {
        min = c[i] < min ? c[i] : min;
        max = c[i] > max ? c[i] : max;
    }
    if (max < DARK)
        return 0;
    if (max - min < GREY)
        return 7;
    /* By hue: a pastel and a deep tone are the same colour; orange is yellow, brown is red. */
    for (int i = 0; i < 3; i++)
        ret |= 100 * (c[i] - min) >= (max < 192 ? 60 : 50) * (max - min) ? 1 << i : 0;
    return ret;
}
