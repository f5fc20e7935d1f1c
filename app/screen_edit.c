/* What happens to typed text: sending, history, drafts, external editor, copying; see screen.h. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/export.h"
#include "app/screen_state.h"
#include "engine/base/mem.h"
#include "engine/base/thought.h"
#include "ui/text.h"

static const char draft_key[] = "draft";

/* ---- drafts ---- */

void draft_load(struct screen *sc)
{
    char *text = NULL;
    struct err e;
    if (sessions_setting(sc->store, draft_key, &text, &e) == OK && text && text[0]) {
        editor_set(sc->editor, text, strlen(text));
        screen_notice(sc, "what you had typed is still here");
    }
    free(text);
    sc->draft_version = editor_version(sc->editor);
}

void draft_save(struct screen *sc)
{
    /* While an old message is being edited, what was typed before it is the draft. */
    const char *text = sc->edit_message >= 0 && sc->stash ? sc->stash : editor_text(sc->editor);
    sc->draft_at_s = 0;
    sc->draft_version = editor_version(sc->editor);
    sessions_set_setting(sc->store, draft_key, text[0] ? text : NULL);
}

/* ---- history: one entry per line, line feeds and backslashes escaped ---- */

static void history_line(struct editor *ed, char *line)
{
    char *dst = line;
    for (const char *s = line; *s && *s != '\n'; s++) {
        if (*s == '\\' && s[1]) {
            s++;
            *dst++ = *s == 'n' ? '\n' : *s;
        } else {
            *dst++ = *s;
        }
    }
    editor_history_add(ed, line, (size_t)(dst - line));
}

void history_load(struct screen *sc)
{
    if (!sc->options.history_path)
        return;
    FILE *f = fopen(sc->options.history_path, "re");
    if (!f)
        return;
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, f) > 0)
        history_line(sc->editor, line);
    free(line);
    fclose(f);
}

static void make_folder(const char *path)
{
    char *dir = mem_strdup(path);
    for (char *p = dir + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            mkdir(dir, 0700);
            *p = '/';
        }
    free(dir);
}

static void history_append(struct screen *sc, const char *text, size_t n)
{
    enum { ENTRY_MAX = 64 * 1024 }; /* a pasted book is no history */
    editor_history_add(sc->editor, text, n);
    if (!sc->options.history_path || n > ENTRY_MAX)
        return;
    struct str s = {0};
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n' || text[i] == '\\')
            str_addc(&s, '\\');
        str_addc(&s, text[i] == '\n' ? 'n' : text[i]);
    }
    str_addc(&s, '\n');
    make_folder(sc->options.history_path);
    int fd = open(sc->options.history_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) {
        /* One write: two programs may append at once. A full disk costs the history, no more. */
        ssize_t k = write(fd, s.data, s.len);
        (void)k;
        close(fd);
    }
    str_fini(&s);
}

/* ---- sending ---- */

static bool is_blank(const char *s)
{
    return s[strspn(s, " \t\n")] == '\0';
}

void screen_send(struct screen *sc, const char *text, size_t n)
{
    struct err e;
    enum status s = sc->edit_message >= 0 ? chat_edit(sc->chat, sc->edit_message, text, n, &e)
                                          : chat_send(sc->chat, text, n, &e);
    if (s == ERR_BUSY) { /* the text stays where it is */
        screen_notice(sc, chat_waiting(sc->chat)
                              ? "your last question still waits; your text is kept (Esc takes the question back)"
                              : "still answering; your text is kept (Esc stops the answer)");
        notice_while(sc, NOTICE_BUSY);
        return;
    }
    if (s != OK) {
        screen_error(sc, &e);
        return;
    }
    sc->cancel_sent = false;
    history_append(sc, text, n);
    editor_set(sc->editor, "", 0);
    sc->edit_message = -1;
    if (sc->stash) { /* what was typed before an old message was edited comes back */
        editor_set(sc->editor, sc->stash, strlen(sc->stash));
        free(sc->stash);
        sc->stash = NULL;
    }
    draft_save(sc);
    view_chat_follow(sc->view);
    screen_refresh(sc);
}

void editor_enter(struct screen *sc)
{
    size_t n = editor_len(sc->editor);
    const char *text = editor_text(sc->editor);
    if (n > 0 && text[n - 1] == '\\' && editor_cursor(sc->editor) == n) {
        editor_act(sc->editor, ACT_BACKSPACE);
        editor_insert(sc->editor, "\n", 1);
        return;
    }
    if (is_blank(text))
        return;
    char *copy = mem_strndup(text, n);
    if (copy[0] == '/' && copy[1] != '/' && sc->edit_message < 0) {
        bool one_line = !strchr(copy, '\n');
        unsigned before = editor_version(sc->editor);
        if (!one_line) {
            screen_notice(sc, "a command is one line; // at the start sends a / as it is");
        } else if (commands_run(sc, copy)) {
            history_append(sc, copy, n);
            if (editor_version(sc->editor) == before) /* the command put nothing there itself */
                editor_set(sc->editor, "", 0);
        }
    } else {
        size_t skip = copy[0] == '/' && copy[1] == '/' ? 1 : 0;
        screen_send(sc, copy + skip, n - skip);
    }
    free(copy);
}

/* ---- editing an old message ---- */

void edit_start(struct screen *sc, int32_t message)
{
    struct chat_message msg;
    if (message < 0 || message >= chat_count(sc->chat))
        return;
    chat_get(sc->chat, message, &msg);
    if (strcmp(msg.role, "user") != 0) {
        screen_notice(sc, "only your own messages can be edited");
        return;
    }
    if (sc->edit_message < 0) {
        free(sc->stash);
        sc->stash = mem_strndup(editor_text(sc->editor), editor_len(sc->editor));
        if (sc->stash[0] == '/') /* the command that brought us here */
            sc->stash[0] = '\0';
    }
    editor_set(sc->editor, msg.text, msg.len);
    sc->edit_message = message;
    sc->focus = UI_FOCUS_EDITOR;
    view_chat_show(sc->view, message);
    screen_notice(sc, "Enter sends this as a new branch, Esc leaves it as it was");
    notice_while(sc, NOTICE_EDIT);
}

void edit_cancel(struct screen *sc)
{
    if (sc->edit_message < 0)
        return;
    sc->edit_message = -1;
    editor_set(sc->editor, sc->stash ? sc->stash : "", sc->stash ? strlen(sc->stash) : 0);
    free(sc->stash);
    sc->stash = NULL;
    sc->dirty = true;
}

void screen_edit_last(struct screen *sc)
{
    struct chat_message msg;
    for (int32_t i = chat_count(sc->chat) - 1; i >= 0; i--) {
        chat_get(sc->chat, i, &msg);
        if (strcmp(msg.role, "user") == 0) {
            edit_start(sc, i);
            return;
        }
    }
    screen_notice(sc, "there is no message of yours to edit");
}

/* ---- external editor ---- */

static bool write_all(int fd, const char *s, size_t n)
{
    while (n > 0) {
        ssize_t k = write(fd, s, n);
        if (k < 0 && errno != EINTR)
            return false;
        if (k > 0) {
            s += k;
            n -= (size_t)k;
        }
    }
    return true;
}

/* The loop sees to it as soon as the editor is gone. */
static bool asked_to_leave(void)
{
    sigset_t pending;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP));
}

static bool run_editor(struct screen *sc, const char *path)
{
    const char *editor = getenv("VISUAL");
    if (!editor || !editor[0])
        editor = getenv("EDITOR");
    if (!editor || !editor[0])
        editor = "vi";
    struct str command = {0};
    str_addf(&command, "%s \"$1\"", editor);
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        execl("/bin/sh", "sh", "-c", str_c(&command), "sh", path, (char *)NULL);
        _exit(127);
    }
    str_fini(&command);
    int status = -1;
    pid_t ended = 0;
    while (pid > 0 && (ended = waitpid(pid, &status, WNOHANG | WUNTRACED)) >= 0) {
        if (ended == pid && !WIFSTOPPED(status))
            break;
        /* Ctrl+Z there stops what the shell started, and that is us, too. */
        if (ended == pid)
            screen_stop_program(sc);
        if (asked_to_leave())
            kill(pid, SIGTERM);
        /* An answer that is being written goes on, and to the store, meanwhile. */
        struct pollfd p = {sc->options.wake_fd, POLLIN, 0};
        poll(&p, 1, 50);
        screen_engine(sc);
        struct timespec rest = {0, 20 * 1000 * 1000};
        nanosleep(&rest, NULL);
    }
    return ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* False when some of it cannot be had: the file is kept then. */
static bool read_back(struct screen *sc, const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct str s = {0};
    char buf[65536];
    ssize_t k = -1;
    while (fd >= 0 && (k = read(fd, buf, sizeof buf)) > 0 && s.len < EDITOR_TEXT_MAX)
        str_add(&s, buf, (size_t)k);
    if (fd >= 0)
        close(fd);
    bool good = k == 0;
    if (k < 0) {
        screen_notice(sc, "the edited text could not be read back: it stays in %s", path);
    } else if (k > 0) {
        screen_notice(sc, "the edited text is too long for a message: it stays in %s", path);
    } else {
        while (s.len > 0 && s.data[s.len - 1] == '\n') /* editors end the last line */
            str_cut(&s, s.len - 1, 1);
        editor_set(sc->editor, str_c(&s), s.len);
    }
    str_fini(&s);
    return good;
}

void editor_external(struct screen *sc)
{
    const char *tmp = getenv("TMPDIR");
    struct str path = {0};
    str_addf(&path, "%s/dogear-XXXXXX.md", tmp && tmp[0] == '/' ? tmp : "/tmp");
    int fd = mkstemps(path.data, 3);
    if (fd < 0 || !write_all(fd, editor_text(sc->editor), editor_len(sc->editor))) {
        screen_notice(sc, "cannot write %s: %s", path.data, strerror(errno));
        if (fd >= 0) {
            close(fd);
            unlink(path.data);
        }
        str_fini(&path);
        return;
    }
    close(fd);
    sc->front->suspend(sc->front->ctx);
    bool good = run_editor(sc, path.data);
    sc->front->resume(sc->front->ctx);
    cells_invalidate(sc->cells);
    bool keep = false;
    if (good || asked_to_leave()) /* when we ended the editor, what was saved in it counts */
        keep = !read_back(sc, path.data);
    else
        screen_notice(sc, "the editor failed; your text is unchanged (set $VISUAL or $EDITOR)");
    if (!keep)
        unlink(path.data);
    str_fini(&path);
    sc->dirty = true;
}

/* ---- out ---- */

void copy_text(struct screen *sc, const char *text, size_t n, const char *what)
{
    if (sc->front->copy(sc->front->ctx, text, n))
        screen_notice(sc, "copied %s", what);
    else
        screen_notice(sc, "%s is too long for the clipboard: use /export", what);
}

void copy_message(struct screen *sc, const struct chat_message *msg, const char *what)
{
    struct thought t = {0};
    if (strcmp(msg->role, "assistant") == 0)
        thought_split(msg->text, msg->len, msg->streaming, &t);
    if (t.any && t.rest == msg->len)
        screen_notice(sc, "there are only thoughts in %s yet; /export writes them", what);
    else
        copy_text(sc, msg->text + t.rest, msg->len - t.rest, what);
}

bool screen_copy(struct screen *sc, int number)
{
    if (number > 0) {
        size_t n;
        const char *code = view_chat_code(sc->view, number, &n);
        if (!code) {
            screen_notice(sc, "there is no code block %d here (%d on this branch)", number,
                          view_chat_code_count(sc->view));
            return false;
        }
        char what[32];
        snprintf(what, sizeof what, "code block %d", number);
        copy_text(sc, code, n, what);
        return true;
    }
    struct chat_message msg;
    for (int32_t i = chat_count(sc->chat) - 1; i >= 0; i--) {
        chat_get(sc->chat, i, &msg);
        if (strcmp(msg.role, "assistant") == 0) {
            copy_message(sc, &msg, "the last answer");
            return true;
        }
    }
    screen_notice(sc, "there is no answer to copy yet");
    return false;
}

/* The name of a new file from a title: letters and digits, the rest becomes one dash each. */
static void file_name(struct str *out, const char *title)
{
    for (const char *s = title; *s && out->len < 60; s++) {
        unsigned char c = (unsigned char)*s;
        bool keep = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (keep)
            str_addc(out, (char)c);
        else if (out->len > 0 && out->data[out->len - 1] != '-')
            str_addc(out, '-');
    }
    while (out->len > 0 && out->data[out->len - 1] == '-')
        str_cut(out, out->len - 1, 1);
    if (out->len == 0)
        str_adds(out, "conversation");
    export_name(out);
}

void screen_export(struct screen *sc, const char *path)
{
    struct str name = {0};
    struct err e;
    if (chat_count(sc->chat) == 0) {
        screen_notice(sc, "there is nothing to export yet");
        return;
    }
    if (path && path[0])
        str_adds(&name, path);
    else
        file_name(&name, chat_title(sc->chat));
    if (export_file(sc->store, chat_conversation(sc->chat), export_format(str_c(&name)), false,
                    str_c(&name), &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "written to %s", str_c(&name));
    str_fini(&name);
}
