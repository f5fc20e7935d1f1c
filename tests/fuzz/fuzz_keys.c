/* Fuzz target: terminal bytes through the input decoder into the editor, drawn after every event.
 * The first bytes choose size and piece length; what follows is typed. Built with clang's
 * -fsanitize=fuzzer, or with fuzz/replay.c to run a stored corpus under any compiler. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "ui/editor.h"
#include "ui/input.h"
#include "ui/keymap.h"
#include "ui/markdown.h"
#include "ui/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct editor *ed)
{
    const char *s = editor_text(ed);
    size_t n = editor_len(ed), cur = editor_cursor(ed);
    if (strlen(s) != n || cur > n || text_snap(s, n, cur) != cur || !utf8_valid(s, n))
        abort();
    for (size_t i = 0; i < n; i++)
        if (((unsigned char)s[i] < 0x20 && s[i] != '\n' && s[i] != '\t') || s[i] == 0x7F)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    int cols = 1 + data[0] % 60, rows = 1 + data[1] % 12;
    size_t piece = 1 + data[2] % 16;
    struct input *in = input_new();
    struct editor *ed = editor_new();
    struct cells *c = cells_new(cols, rows);
    struct keymap *km = keymap_new();
    for (size_t i = 3; i < size; i += piece) {
        input_feed(in, (const char *)data + i, size - i < piece ? size - i : piece);
        if (data[i] & 1)
            input_flush(in);
        struct ui_event ev;
        while (input_next(in, &ev)) {
            if (ev.kind == UI_EV_PASTE) {
                editor_insert(ed, ev.text, ev.len);
                free(ev.text);
            } else if (ev.kind == UI_EV_KEY) {
                enum keymap_action a = keymap_find(km, KEYMAP_EDITOR, ev.key);
                char buf[4];
                if (a)
                    editor_act(ed, a);
                else if (ev.key.code < UI_KEY_ENTER)
                    editor_insert(ed, buf, (size_t)utf8_encode(ev.key.code, buf));
            } else if (ev.kind == UI_EV_MOUSE) {
                editor_place(ed, editor_at(ed, ev.x, ev.y));
            }
            check(ed);
        }
        cells_clear(c);
        editor_draw(ed, c, (struct rect){0, 0, cols, rows}, true);
    }
    /* What was typed is also what a model could have written. */
    struct markdown *m = markdown_new();
    size_t n = editor_len(ed);
    markdown_set(m, editor_text(ed), utf8_complete(editor_text(ed), n / 2), cols + 8, 0, true);
    markdown_set(m, editor_text(ed), n, cols + 8, 0, true);
    markdown_set(m, editor_text(ed), n, cols + 8, 0, false);
    markdown_free(m);
    keymap_free(km);
    cells_free(c);
    editor_free(ed);
    input_free(in);
    return 0;
}
