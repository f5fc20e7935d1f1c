/* Screen layout; see layout.h. */
#include "ui/layout.h"

#include <string.h>

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int clamp(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

void layout_compute(int cols, int rows, const struct layout_want *want, struct layout *ret)
{
    struct layout l;
    memset(&l, 0, sizeof l);
    if (cols < 1 || rows < 1) {
        *ret = l;
        return;
    }
    int x = 0, w = cols;
    /* From the bottom up, most needed first: the editor's row stays until the very end. */
    int h = rows;
    if (h >= 3)
        l.status = (struct rect){0, --h, cols, 1};
    if (want->list && cols >= LAYOUT_LIST_MIN_COLS) {
        int list_w = clamp(cols / 5, 24, 36);
        l.list = (struct rect){0, 0, list_w, h};
        l.list_border = (struct rect){list_w, 0, 1, h};
        x = list_w + 1;
        w -= list_w + 1;
    }
    if (want->dash && cols >= LAYOUT_DASH_MIN_COLS) {
        int dash_w = clamp(w * 2 / 5, 44, 72);
        l.dash = (struct rect){x + w - dash_w, 0, dash_w, h};
        l.dash_border = (struct rect){x + w - dash_w - 1, 0, 1, h};
        w -= dash_w + 1;
    }
    int editor_h = clamp(want->editor_rows, 1, rows / 3 > 0 ? rows / 3 : 1);
    editor_h = min_int(editor_h, h);
    h -= editor_h;
    int editor_y = h;
    if (h >= 3) {
        int rule_h = clamp(want->rule_rows, 1, h / 3);
        l.rule = (struct rect){x, h -= rule_h, w, rule_h};
    }
    int y = 0;
    if (h >= 6) {
        l.title = (struct rect){x, 0, w, 1};
        y = 1;
        h--;
    }
    l.chat = (struct rect){x, y, w, h};
    int margin = w >= 20 ? 1 : 0;
    int text_w = min_int(w - 2 * margin, LAYOUT_TEXT_MAX);
    int text_x = x + (w - text_w) / 2;
    l.text = (struct rect){text_x, y, text_w, h};
    int prompt_w = text_w >= 6 ? 2 : 0;
    l.prompt = (struct rect){text_x, editor_y, prompt_w, editor_h};
    l.editor = (struct rect){text_x + prompt_w, editor_y, text_w - prompt_w, editor_h};
    *ret = l;
}

struct rect layout_popup(struct rect in, int w, int h)
{
    w = clamp(w, 0, in.w >= 4 ? in.w - 2 : in.w);
    h = clamp(h, 0, in.h >= 4 ? in.h - 2 : in.h);
    return (struct rect){in.x + (in.w - w) / 2, in.y + (in.h - h) / 2, w, h};
}
