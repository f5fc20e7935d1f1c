/* Screens: runs the real program with the fake engine on a pseudo-terminal, shows what it writes to
 * libvterm and checks what a person would see. One .scr file is one test; TAP out.
 *
 *   SIZE C R           size of the terminal (before START; default 80 24)
 *   ENV NAME=VALUE     environment; ENV NAME unsets
 *   ARGS ...           arguments, blank separated
 *   FAKE ... END       the fake engine's script (engine/fake.c)
 *   START              starts the program; again after it ended: the same home
 *   KEYS TEXT          types; \r \n \t \e \\ and \xHH are escapes
 *   RESIZE C R         SIGNAL TERM|HUP|INT      HANGUP (the terminal vanishes)
 *   ?has TEXT          waits until some row contains TEXT   ?not TEXT: until none does
 *   ?row N TEXT        waits until row N (negative: from the bottom) is TEXT
 *   ?cursor COL ROW    ?clip TEXT (last OSC 52)   ?exit STATUS   ?file PATH TEXT (below the home)
 *   ?style TEXT WORDS  the first cell of TEXT: bold italic underline reverse fg bg, or no- before
 * it DUMP               prints the screen as a comment All waiting polls with a deadline. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vterm.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"

enum { DEADLINE_MS = 20000 };

struct world {
    const char *program;
    char home[64];
    int cols, rows, master, status;
    pid_t pid;
    bool exited;
    VTerm *vt;
    VTermScreen *screen;
    struct str args, clip;
    char problem[2048];
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1000 + (double)t.tv_nsec / 1e6;
}

/* ---- the terminal ---- */

static int on_osc(const char *s, size_t n, void *user)
{
    struct world *w = user;
    if (n > 5 && memcmp(s, "52;c;", 5) == 0) {
        str_clear(&w->clip);
        unsigned v = 0;
        int bits = 0;
        for (size_t i = 5; i < n; i++) {
            static const char digits[] =
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            const char *p = strchr(digits, s[i]);
            if (!p || !s[i])
                break;
            v = v << 6 | (unsigned)(p - digits);
            bits += 6;
            if (bits >= 8) {
                bits -= 8;
                str_addc(&w->clip, (char)(v >> bits & 255));
            }
        }
    }
    return 1;
}

static void pump(struct world *w, int timeout_ms)
{
    struct pollfd p = {w->master, POLLIN, 0};
    if (w->master >= 0 && poll(&p, 1, timeout_ms) > 0) {
        char buf[16384];
        ssize_t n = read(w->master, buf, sizeof buf);
        if (n > 0)
            vterm_input_write(w->vt, buf, (size_t)n);
        else if (!w->exited)
            usleep(2000);
    } else if (w->master < 0) {
        usleep((useconds_t)timeout_ms * 1000);
    }
    int status;
    if (!w->exited && w->pid > 0 && waitpid(w->pid, &status, WNOHANG) == w->pid) {
        w->exited = true;
        w->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

static void row_text(struct world *w, int y, struct str *out)
{
    size_t start = out->len;
    for (int x = 0; x < w->cols; x++) {
        VTermScreenCell c;
        vterm_screen_get_cell(w->screen, (VTermPos){y, x}, &c);
        if (c.chars[0] == (uint32_t)-1)
            continue; /* right half */
        if (c.chars[0] == 0)
            str_addc(out, ' ');
        for (int i = 0; i < VTERM_MAX_CHARS_PER_CELL && c.chars[i]; i++) {
            char buf[4];
            str_add(out, buf, (size_t)utf8_encode(c.chars[i], buf));
        }
    }
    while (out->len > start && out->data[out->len - 1] == ' ')
        str_cut(out, out->len - 1, 1);
}

static void dump(struct world *w, FILE *f)
{
    for (int y = 0; y < w->rows; y++) {
        struct str s = {0};
        row_text(w, y, &s);
        fprintf(f, "# |%s\n", str_c(&s));
        str_fini(&s);
    }
}

/* Finds text; the column of its first cell. */
static bool find(struct world *w, const char *text, int *ret_x, int *ret_y)
{
    for (int y = 0; y < w->rows; y++) {
        struct str s = {0};
        row_text(w, y, &s);
        const char *p = strstr(str_c(&s), text);
        if (p && ret_x) {
            size_t off = (size_t)(p - s.data), at = 0;
            int x = 0;
            while (x < w->cols && at < off) {
                VTermScreenCell c;
                vterm_screen_get_cell(w->screen, (VTermPos){y, x}, &c);
                char buf[4];
                if (c.chars[0] == 0)
                    at++;
                for (int i = 0; i < VTERM_MAX_CHARS_PER_CELL && c.chars[i]; i++)
                    at += c.chars[0] == (uint32_t)-1 ? 0 : (size_t)utf8_encode(c.chars[i], buf);
                x += c.width > 0 ? c.width : 1;
            }
            *ret_x = x;
            *ret_y = y;
        }
        str_fini(&s);
        if (p)
            return true;
    }
    return false;
}

/* ---- the program ---- */

static void start(struct world *w)
{
    if (w->vt)
        vterm_free(w->vt);
    if (w->master >= 0)
        close(w->master);
    w->vt = vterm_new(w->rows, w->cols);
    vterm_set_utf8(w->vt, 1);
    w->screen = vterm_obtain_screen(w->vt);
    vterm_screen_enable_altscreen(w->screen, 1);
    static const VTermParserCallbacks fallbacks = {.osc = on_osc};
    vterm_screen_set_unrecognised_fallbacks(w->screen, &fallbacks, w);
    vterm_screen_reset(w->screen, 1);
    w->exited = false;
    struct winsize ws = {(unsigned short)w->rows, (unsigned short)w->cols, 0, 0};
    w->pid = forkpty(&w->master, NULL, NULL, &ws);
    if (w->pid == 0) {
        char *argv[64];
        int n = 0;
        argv[n++] = (char *)w->program;
        char *save = NULL;
        for (char *a = w->args.len ? strtok_r(w->args.data, " ", &save) : NULL; a && n < 60;
             a = strtok_r(NULL, " ", &save))
            argv[n++] = a;
        argv[n++] = (char *)"--fake";
        struct str fake = {0};
        str_addf(&fake, "%s/fake.txt", w->home);
        argv[n++] = fake.data;
        argv[n] = NULL;
        if (chdir(w->home) != 0)
            _exit(126);
        execv(w->program, argv);
        _exit(127);
    }
    fcntl(w->master, F_SETFL, O_NONBLOCK);
}

static void type(struct world *w, const char *s, size_t n)
{
    double end = now_ms() + DEADLINE_MS;
    while (n > 0 && w->master >= 0 && now_ms() < end) {
        ssize_t k = write(w->master, s, n);
        if (k > 0) {
            s += k;
            n -= (size_t)k;
        } else if (errno != EAGAIN && errno != EINTR) {
            return;
        }
        pump(w, 1);
    }
}

static void unescape(const char *s, struct str *out)
{
    for (; *s; s++) {
        if (*s != '\\' || !s[1]) {
            str_addc(out, *s);
            continue;
        }
        s++;
        if (*s == 'x' && isxdigit((unsigned char)s[1]) && isxdigit((unsigned char)s[2])) {
            char hex[3] = {s[1], s[2], 0};
            str_addc(out, (char)strtol(hex, NULL, 16));
            s += 2;
        } else {
            str_addc(out, *s == 'r'   ? '\r'
                          : *s == 'n' ? '\n'
                          : *s == 't' ? '\t'
                          : *s == 'e' ? 0x1B
                                      : *s);
        }
    }
}

/* ---- checks ---- */

static bool style_is(struct world *w, const char *args)
{
    char text[256], *words;
    snprintf(text, sizeof text, "%.255s", args);
    /* The words of style are the last ones: cut them off while they are known. */
    static const char *const known[] = {"bold", "italic", "underline", "reverse", "fg", "bg"};
    int x, y;
    bool all = true;
    struct {
        bool no;
        int what;
    } list[8];
    int n = 0;
    while ((words = strrchr(text, ' ')) && n < 8) {
        bool no = strncmp(words + 1, "no-", 3) == 0;
        int what = 0;
        while (what < 6 && strcmp(words + 1 + (no ? 3 : 0), known[what]) != 0)
            what++;
        if (what == 6)
            break;
        list[n].no = no;
        list[n++].what = what;
        *words = '\0';
    }
    if (!find(w, text, &x, &y))
        return false;
    VTermScreenCell c;
    vterm_screen_get_cell(w->screen, (VTermPos){y, x}, &c);
    for (int i = 0; i < n; i++) {
        bool is[] = {c.attrs.bold,
                     c.attrs.italic,
                     c.attrs.underline,
                     c.attrs.reverse,
                     !VTERM_COLOR_IS_DEFAULT_FG(&c.fg),
                     !VTERM_COLOR_IS_DEFAULT_BG(&c.bg)};
        all &= is[list[i].what] != list[i].no;
    }
    return all;
}

static bool file_has(struct world *w, const char *args)
{
    char path[512];
    size_t n = strcspn(args, " ");
    snprintf(path, sizeof path, "%s/%.*s", w->home, (int)n, args);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    static char buf[65536];
    size_t k = fread(buf, 1, sizeof buf - 1, f);
    buf[k] = '\0';
    fclose(f);
    struct str want = {0};
    unescape(args[n] ? args + n + 1 : "", &want);
    bool has = strstr(buf, str_c(&want)) != NULL;
    str_fini(&want);
    return has;
}

static bool holds(struct world *w, const char *check, const char *args)
{
    struct str s = {0}, want = {0};
    bool good = false;
    if (strcmp(check, "?has") == 0) {
        good = find(w, args, NULL, NULL);
    } else if (strcmp(check, "?not") == 0) {
        good = !find(w, args, NULL, NULL);
    } else if (strcmp(check, "?row") == 0) {
        char *rest;
        int y = (int)strtol(args, &rest, 10);
        row_text(w, y < 0 ? w->rows + y : y, &s);
        good = strcmp(str_c(&s), *rest ? rest + 1 : "") == 0;
    } else if (strcmp(check, "?cursor") == 0) {
        int x = -1, y = -1;
        VTermPos p;
        vterm_state_get_cursorpos(vterm_obtain_state(w->vt), &p);
        good = sscanf(args, "%d %d", &x, &y) == 2 && p.col == x && p.row == y;
    } else if (strcmp(check, "?clip") == 0) {
        unescape(args, &want);
        good = strcmp(str_c(&w->clip), str_c(&want)) == 0;
    } else if (strcmp(check, "?exit") == 0) {
        good = w->exited && w->status == atoi(args);
    } else if (strcmp(check, "?style") == 0) {
        good = style_is(w, args);
    } else if (strcmp(check, "?file") == 0) {
        good = file_has(w, args);
    } else {
        snprintf(w->problem, sizeof w->problem, "unknown check %.80s", check);
    }
    str_fini(&s);
    str_fini(&want);
    return good;
}

static bool wait_for(struct world *w, const char *check, const char *args)
{
    double end = now_ms() + DEADLINE_MS;
    bool ends = strcmp(check, "?exit") == 0;
    while (!holds(w, check, args)) {
        if (w->problem[0])
            return false;
        if (now_ms() > end || (w->exited && !ends && strcmp(check, "?file") != 0)) {
            pump(w, 20); /* what was written just before the end */
            if (holds(w, check, args))
                return true;
            snprintf(w->problem, sizeof w->problem, "%.20s %.800s%s", check, args,
                     w->exited ? " (the program has ended)" : "");
            return false;
        }
        pump(w, 20);
    }
    return true;
}

/* ---- scripts ---- */

static bool command(struct world *w, const char *verb, char *args)
{
    if (strcmp(verb, "SIZE") == 0) {
        return sscanf(args, "%d %d", &w->cols, &w->rows) == 2;
    } else if (strcmp(verb, "ENV") == 0) {
        char *eq = strchr(args, '=');
        if (!eq)
            return unsetenv(args) == 0;
        *eq = '\0';
        return setenv(args, eq + 1, 1) == 0;
    } else if (strcmp(verb, "ARGS") == 0) {
        str_clear(&w->args);
        str_adds(&w->args, args);
    } else if (strcmp(verb, "START") == 0) {
        start(w);
    } else if (strcmp(verb, "KEYS") == 0) {
        struct str s = {0};
        unescape(args, &s);
        type(w, str_c(&s), s.len);
        str_fini(&s);
    } else if (strcmp(verb, "RESIZE") == 0) {
        if (sscanf(args, "%d %d", &w->cols, &w->rows) != 2)
            return false;
        vterm_set_size(w->vt, w->rows, w->cols);
        struct winsize ws = {(unsigned short)w->rows, (unsigned short)w->cols, 0, 0};
        ioctl(w->master, TIOCSWINSZ, &ws);
    } else if (strcmp(verb, "SIGNAL") == 0) {
        kill(w->pid, strcmp(args, "HUP") == 0   ? SIGHUP
                     : strcmp(args, "INT") == 0 ? SIGINT
                                                : SIGTERM);
    } else if (strcmp(verb, "HANGUP") == 0) {
        close(w->master);
        w->master = -1;
    } else if (strcmp(verb, "DUMP") == 0) {
        dump(w, stdout);
    } else {
        return false;
    }
    return true;
}

static bool fake_script(struct world *w, FILE *f, int *line_number)
{
    char path[128], line[8192];
    snprintf(path, sizeof path, "%s/fake.txt", w->home);
    FILE *out = fopen(path, "w");
    while (out && fgets(line, sizeof line, f)) {
        ++*line_number;
        if (strcmp(line, "END\n") == 0)
            break;
        fputs(line, out);
    }
    return out && fclose(out) == 0;
}

static bool play(struct world *w, const char *path)
{
    FILE *f = fopen(path, "r");
    char line[8192];
    int number = 0;
    bool good = f != NULL;
    if (!f)
        snprintf(w->problem, sizeof w->problem, "cannot open the script");
    while (good && fgets(line, sizeof line, f)) {
        number++;
        line[strcspn(line, "\n")] = '\0';
        size_t n = strcspn(line, " ");
        char *args = line[n] ? line + n + 1 : line + n;
        line[n] = '\0';
        if (!line[0] || line[0] == '#')
            continue;
        if (strcmp(line, "FAKE") == 0)
            good = fake_script(w, f, &number);
        else if (line[0] == '?')
            good = wait_for(w, line, args);
        else
            good = command(w, line, args);
        if (!good) {
            char why[1024];
            snprintf(why, sizeof why, "%.800s", w->problem[0] ? w->problem : line);
            snprintf(w->problem, sizeof w->problem, "line %d: %s", number, why);
        }
    }
    if (f)
        fclose(f);
    return good;
}

static void prepare(struct world *w)
{
    static const char *const folders[] = {"data", "config", "state", "cache"};
    snprintf(w->home, sizeof w->home, "/tmp/dogear-screen-XXXXXX");
    if (!mkdtemp(w->home))
        exit(1);
    for (size_t i = 0; i < 4; i++) {
        char name[32], path[128];
        snprintf(name, sizeof name, "XDG_%s_HOME", folders[i]);
        for (char *p = name; *p; p++)
            *p = (char)toupper((unsigned char)*p);
        snprintf(path, sizeof path, "%s/%s", w->home, folders[i]);
        setenv(name, path, 1);
    }
    setenv("HOME", w->home, 1);
    setenv("TERM", "xterm-256color", 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("TZ", "UTC", 1);
    unsetenv("NO_COLOR");
    unsetenv("COLORTERM");
    unsetenv("VISUAL");
    unsetenv("EDITOR");
    char path[128];
    snprintf(path, sizeof path, "%s/fake.txt", w->home);
    FILE *f = fopen(path, "w");
    if (f)
        fclose(f);
}

static void clean_up(struct world *w)
{
    if (w->pid > 0 && !w->exited) {
        kill(w->pid, SIGKILL);
        waitpid(w->pid, NULL, 0);
    }
    if (w->master >= 0)
        close(w->master);
    if (w->vt)
        vterm_free(w->vt);
    struct str rm = {0};
    str_addf(&rm, "rm -rf %s", w->home);
    if (system(rm.data) != 0)
        printf("# could not remove %s\n", w->home);
    str_fini(&rm);
    str_fini(&w->args);
    str_fini(&w->clip);
}

int main(int argc, char **argv)
{
    const char *program = getenv("DOGEAR");
    int n_bad = 0;
    if (!program || argc < 2) {
        fprintf(stderr, "usage: DOGEAR=program %s SCRIPT...\n", argv[0]);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    printf("1..%d\n", argc - 1);
    for (int i = 1; i < argc; i++) {
        const char *base = strrchr(argv[i], '/');
        struct world w = {.program = program, .cols = 80, .rows = 24, .master = -1};
        prepare(&w);
        bool good = play(&w, argv[i]);
        printf("%sok %d - screen__%s\n", good ? "" : "not ", i, base ? base + 1 : argv[i]);
        if (!good) {
            n_bad++;
            printf("# %s\n", w.problem);
            if (w.vt)
                dump(&w, stdout);
        }
        clean_up(&w);
    }
    return n_bad > 0;
}
