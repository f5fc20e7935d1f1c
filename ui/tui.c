/* The terminal front-end; see tui.h. */
#include "ui/tui.h"

#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"
#include "ui/input.h"

enum { PAIR_MAX = 512 };

struct tui {
    SCREEN *screen;
    struct input *in;
    struct theme theme;
    int colours; /* of the terminal: 0, 8, 256, 1 << 24 */
    bool no_colour, mouse, utf8, kitty, closed, hung_up, resized, suspended;
    struct {
        int32_t fg, bg;
    } pairs[PAIR_MAX]; /* curses numbers, from 1 */
    int n_pair;
    double pending_since_s;
};

/* Control strings that curses knows nothing of. Errors mean that the terminal is gone, which the
 * next read tells. */
static void send(const char *s, size_t n)
{
    fflush(stdout);
    while (n > 0) {
        ssize_t k = write(STDOUT_FILENO, s, n);
        if (k < 0 && errno != EINTR && errno != EAGAIN)
            return;
        if (k > 0) {
            s += k;
            n -= (size_t)k;
        }
    }
}

static void sends(const char *s)
{
    send(s, strlen(s));
}

/* ---- colours ---- */

static int curses_colour(const struct tui *t, int32_t rgb)
{
    if (rgb == THEME_NONE || t->colours < 8)
        return -1;
    if (t->colours >= 1 << 24)
        return rgb < 8 ? 0 : rgb; /* direct-colour entries take 0..7 for the palette */
    return t->colours >= 256 ? theme_nearest_256(rgb) : theme_nearest_8(rgb);
}

static int pair_of(struct tui *t, int32_t fg, int32_t bg)
{
    if (fg < 0 && bg < 0)
        return 0;
    for (int i = 1; i <= t->n_pair; i++)
        if (t->pairs[i - 1].fg == fg && t->pairs[i - 1].bg == bg)
            return i;
    if (t->n_pair == PAIR_MAX)
        return 0;
    if (init_extended_pair(t->n_pair + 1, fg, bg) == ERR)
        return 0;
    t->pairs[t->n_pair].fg = fg;
    t->pairs[t->n_pair].bg = bg;
    return ++t->n_pair;
}

static void style_of(struct tui *t, const struct cell *c, attr_t *ret_attr, int *ret_pair)
{
    const struct theme_style *role = &t->theme.style[c->role < ROLE_COUNT ? c->role : 0];
    const struct theme_style *back = &t->theme.style[c->back < ROLE_COUNT ? c->back : 0];
    int32_t bg = role->bg != THEME_NONE ? role->bg : back->bg;
    int fg = curses_colour(t, role->fg), bg_colour = curses_colour(t, bg);
    if (t->colours == 8 && fg >= 0 && fg == bg_colour)
        fg = fg == 7 ? 0 : 7; /* eight colours may fold text and shade into one */
    if (t->colours == 8 && bg_colour < 0 && fg == (t->theme.dark ? 0 : 7))
        fg = 7 - fg; /* faint lines would be those of the screen */
    *ret_pair = pair_of(t, fg, bg_colour);
    uint8_t bits = c->attr | role->attr;
    attr_t a = A_NORMAL;
    a |= bits & CELL_BOLD ? A_BOLD : 0;
    a |= bits & CELL_ITALIC ? A_ITALIC : 0;
    a |= bits & CELL_UNDERLINE ? A_UNDERLINE : 0;
    a |= bits & CELL_REVERSE ? A_REVERSE : 0;
    *ret_attr = a;
}

/* ---- cells ---- */

/* Without UTF-8 only ASCII can be shown. */
static wchar_t plain_of(uint32_t cp)
{
    switch (cp) {
    case 0x2500:
        return L'-';
    case 0x2502:
    case 0x258C:
    case 0x258E:
    case 0x2503:
        return L'|';
    case 0x2026:
        return L'.';
    case 0x203A:
    case 0x25B8:
        return L'>';
    case 0x2022:
        return L'*';
    case 0x2588:
        return L'#';
    default:
        return cp < 0x80 ? (wchar_t)cp : L'?';
    }
}

static void put_wide(const wchar_t *chars, attr_t attr, int pair)
{
    cchar_t cc;
    if (setcchar(&cc, chars, attr, (short)0, &pair) != ERR)
        add_wch(&cc);
}

/* Writes one cell. A cluster becomes curses cells that every terminal gives the same width: a base
 * with its combining marks, then a second base if it has a column of its own (flags, spacing
 * marks), then spaces. Joiners, variation selectors and skin tones are left out, because whether
 * they merge is the terminal's choice and the row would shift. */
static void put_cell(struct tui *t, const struct cell *c)
{
    attr_t attr;
    int pair, used = 0, n = 0;
    wchar_t chars[CCHARW_MAX + 1] = {0};
    style_of(t, c, &attr, &pair);
    for (int off = 0; off < c->len;) {
        uint32_t cp;
        off += utf8_decode(c->text + off, (size_t)(c->len - off), &cp);
        if (!t->utf8)
            cp = (uint32_t)plain_of(cp);
        int w = wcwidth((wchar_t)cp);
        if (w < 0) { /* newer than this system's tables, or not assigned */
            cp = 0xFFFD;
            w = 1;
        }
        if (w == 0) {
            bool merges = cp == 0x200D || (cp >= 0xFE00 && cp <= 0xFE0F) || cp == 0x20E3 ||
                          (cp >= 0xE0000 && cp < 0xE0080);
            if (n == 0 && !merges)
                chars[n++] = L' ', used++;
            if (!merges && n < CCHARW_MAX)
                chars[n++] = (wchar_t)cp;
            continue;
        }
        if (used + w > c->width) {
            if (n > 0)
                continue;
            cp = '?'; /* the system takes two columns where the grid has one */
            w = 1;
        }
        if (n > 0) {
            chars[n] = 0;
            put_wide(chars, attr, pair);
            n = 0;
        }
        chars[n++] = (wchar_t)cp;
        used += w;
    }
    if (n > 0) {
        chars[n] = 0;
        put_wide(chars, attr, pair);
    }
    for (; used < c->width; used++)
        put_wide(L" ", attr, pair);
}

static void present(void *ctx, struct cells *c, const struct shapes *shapes)
{
    (void)shapes;
    struct tui *t = ctx;
    if (t->suspended || t->closed)
        return;
    int rows = cells_rows(c), cols = cells_cols(c), x, y;
    curs_set(0);
    for (y = 0; y < rows && y < LINES; y++) {
        int x0, x1;
        if (!cells_damage(c, y, &x0, &x1))
            continue;
        if (x0 > 0 && cells_at(c, x0, y)->width == 0)
            x0--;
        move(y, x0);
        for (x = x0; x <= x1 && x < cols; x++) {
            const struct cell *cell = cells_at(c, x, y);
            if (cell->width > 0)
                put_cell(t, cell);
        }
    }
    if (cells_cursor(c, &x, &y)) {
        move(y, x);
        curs_set(1);
    }
    refresh();
    cells_shown(c);
}

/* ---- input ---- */

static void front_wait(void *ctx, struct pollfd *fds, int n_fd, int timeout_ms)
{
    struct tui *t = ctx;
    struct pollfd all[8];
    if (n_fd > 7)
        n_fd = 7;
    memcpy(all + 1, fds, (size_t)n_fd * sizeof *fds);
    all[0] = (struct pollfd){.fd = t->closed || t->suspended ? -1 : STDIN_FILENO, .events = POLLIN};
    if (input_pending(t->in)) {
        int left_ms = (int)((t->pending_since_s - clock_s()) * 1000) + INPUT_ESC_MS;
        left_ms = left_ms < 0 ? 0 : left_ms;
        if (timeout_ms < 0 || left_ms < timeout_ms)
            timeout_ms = left_ms;
    }
    for (int i = 0; i < n_fd; i++)
        fds[i].revents = 0;
    if (poll(all, (nfds_t)n_fd + 1, timeout_ms) < 0)
        return;
    memcpy(fds, all + 1, (size_t)n_fd * sizeof *fds);
    if (all[0].revents & (POLLIN | POLLHUP | POLLERR)) {
        char buf[65536];
        ssize_t n = read(STDIN_FILENO, buf, sizeof buf);
        if (n > 0) {
            input_feed(t->in, buf, (size_t)n);
            t->pending_since_s = clock_s();
        } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
            t->closed = true;
        }
    }
    if (all[0].revents & POLLNVAL)
        t->closed = true;
}

static bool event(void *ctx, struct ui_event *ret)
{
    struct tui *t = ctx;
    if (t->resized) {
        t->resized = false;
        memset(ret, 0, sizeof *ret);
        ret->kind = UI_EV_RESIZE;
        return true;
    }
    if (input_next(t->in, ret))
        return true;
    if (input_pending(t->in) && clock_s() - t->pending_since_s >= INPUT_ESC_MS / 1000.0) {
        input_flush(t->in);
        if (input_next(t->in, ret))
            return true;
    }
    if (t->closed && !t->hung_up) {
        t->hung_up = true;
        memset(ret, 0, sizeof *ret);
        ret->kind = UI_EV_CLOSED;
        return true;
    }
    return false;
}

/* ---- modes of the terminal ---- */

static void modes_on(struct tui *t)
{
    sends("\x1b[?2004h");
    if (t->mouse)
        sends("\x1b[?1000h\x1b[?1006h");
    if (t->kitty)
        sends("\x1b[>1u");
}

static void modes_off(struct tui *t)
{
    if (t->kitty)
        sends("\x1b[<u");
    sends("\x1b[?1006l\x1b[?1000l\x1b[?2004l");
}

static void size(void *ctx, int *ret_cols, int *ret_rows)
{
    (void)ctx;
    struct winsize ws;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0 && ws.ws_row > 0) {
        *ret_cols = ws.ws_col;
        *ret_rows = ws.ws_row;
    } else {
        *ret_cols = COLS > 0 ? COLS : 80;
        *ret_rows = LINES > 0 ? LINES : 24;
    }
}

static void resized(void *ctx)
{
    struct tui *t = ctx;
    int cols, rows;
    size(t, &cols, &rows);
    resizeterm(rows, cols);
    clearok(curscr, TRUE);
    t->resized = true;
}

static void set_theme(void *ctx, const struct theme *theme)
{
    struct tui *t = ctx;
    t->theme = *theme;
    if (t->no_colour || t->colours < 8)
        theme_decolour(&t->theme);
}

static void suspend(void *ctx)
{
    struct tui *t = ctx;
    if (t->suspended)
        return;
    t->suspended = true;
    modes_off(t);
    endwin();
}

static void resume(void *ctx)
{
    struct tui *t = ctx;
    if (!t->suspended)
        return;
    t->suspended = false;
    refresh();
    modes_on(t);
    resized(t);
}

/* ---- clipboard and title ---- */

static bool copy(void *ctx, const char *text, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct str s = {0};
    if (n > 8 * 1024 * 1024)
        return false;
    str_adds(&s, "\x1b]52;c;");
    for (size_t i = 0; i < n; i += 3) {
        unsigned v = (unsigned)(unsigned char)text[i] << 16;
        if (i + 1 < n)
            v |= (unsigned)(unsigned char)text[i + 1] << 8;
        if (i + 2 < n)
            v |= (unsigned char)text[i + 2];
        char quad[4] = {digits[v >> 18], digits[v >> 12 & 63],
                        i + 1 < n ? digits[v >> 6 & 63] : '=', i + 2 < n ? digits[v & 63] : '='};
        str_add(&s, quad, 4);
    }
    str_adds(&s, "\a");
    (void)ctx;
    send(str_c(&s), s.len);
    str_fini(&s);
    return true;
}

static void title(void *ctx, const char *text)
{
    (void)ctx;
    const char *term = getenv("TERM");
    if (!term || strncmp(term, "linux", 5) == 0)
        return;
    struct str s = {0};
    str_adds(&s, "\x1b]2;");
    for (const char *p = text; *p; p++) /* a title can not hold control characters */
        str_addc(&s, (unsigned char)*p < 0x20 || *p == 0x7F ? ' ' : *p);
    str_adds(&s, "\x1b\\");
    send(str_c(&s), s.len);
    str_fini(&s);
}

static void set_mouse(void *ctx, bool on)
{
    struct tui *t = ctx;
    t->mouse = on;
    sends(on ? "\x1b[?1000h\x1b[?1006h" : "\x1b[?1006l\x1b[?1000l");
}

static void front_close(void *ctx)
{
    struct tui *t = ctx;
    if (!t->suspended) {
        modes_off(t);
        endwin();
    }
    delscreen(t->screen);
    input_free(t->in);
    free(t);
}

/* ---- opening ---- */

/* 24-bit colour needs a terminal description that says so; terminals that can do it announce it
 * in COLORTERM but mostly carry a 256-colour TERM. */
static SCREEN *open_screen(bool no_colour)
{
    const char *term = getenv("TERM"), *ct = getenv("COLORTERM");
    if (!no_colour && ct && (strcmp(ct, "truecolor") == 0 || strcmp(ct, "24bit") == 0) && term &&
        !strstr(term, "direct") && (strstr(term, "xterm") || strstr(term, "tmux"))) {
        SCREEN *s = newterm(strstr(term, "tmux") ? "tmux-direct" : "xterm-direct", stdout, stdin);
        if (s)
            return s;
    }
    return newterm(NULL, stdout, stdin);
}

enum status tui_open(const struct theme *theme, bool no_colour, bool mouse, struct ui_front *ret,
                     struct err *e)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return err_set(e, ERR_USAGE,
                       "standard input or output is no terminal; for scripts there "
                       "is `dogear ask`");
    const char *term = getenv("TERM");
    if (!term || !term[0] || strcmp(term, "dumb") == 0)
        return err_set(e, ERR_UNSUPPORTED,
                       "TERM is \"%s\": the terminal cannot move its cursor; "
                       "use `dogear ask` or set TERM",
                       term ? term : "");
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        setlocale(LC_CTYPE, "C.UTF-8"); /* no locale set up: nearly every terminal is UTF-8 today */
    set_escdelay(INPUT_ESC_MS);
    SCREEN *screen = open_screen(no_colour);
    if (!screen)
        return err_set(e, ERR_UNSUPPORTED,
                       "no description of the terminal type \"%s\"; set TERM "
                       "to one this system knows, e.g. xterm-256color",
                       term);
    struct tui *t = mem_calloc(1, sizeof *t);
    t->screen = screen;
    t->in = input_new();
    t->no_colour = no_colour;
    t->mouse = mouse;
    t->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
    const char *program = getenv("TERM_PROGRAM");
    t->kitty = strstr(term, "kitty") || strstr(term, "foot") || strstr(term, "ghostty") ||
               (program && (strcmp(program, "WezTerm") == 0 || strcmp(program, "ghostty") == 0));
    set_term(screen);
    raw();
    noecho();
    nonl();
    intrflush(stdscr, FALSE);
    if (has_colors() && start_color() != ERR) {
        use_default_colors();
        t->colours = COLORS >= 1 << 24 ? 1 << 24 : COLORS >= 256 ? 256 : COLORS >= 8 ? 8 : 0;
    }
    set_theme(t, theme);
    refresh();
    modes_on(t);
    *ret = (struct ui_front){t,     size,      front_wait, event,  present, set_theme,  copy,
                             title, set_mouse, suspend,    resume, resized, front_close};
    return OK;
}
