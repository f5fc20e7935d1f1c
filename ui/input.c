/* Terminal input decoder; see input.h. */
#include "ui/input.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/base/utf8.h"

enum { PARAM_MAX = 8, SEQUENCE_MAX = 64 };

struct input {
    struct str buf; /* bytes not yet decoded */
    size_t at;      /* decoded so far */
    bool flush;     /* no more bytes belong to what is in buf */
    bool pasting;
    struct str paste;
};

struct input *input_new(void)
{
    return mem_calloc(1, sizeof(struct input));
}

void input_free(struct input *in)
{
    if (!in)
        return;
    str_fini(&in->buf);
    str_fini(&in->paste);
    free(in);
}

void input_feed(struct input *in, const char *bytes, size_t n)
{
    if (in->at > 0) {
        str_cut(&in->buf, 0, in->at);
        in->at = 0;
    }
    str_add(&in->buf, bytes, n);
    in->flush = false;
}

bool input_pending(const struct input *in)
{
    return in->at < in->buf.len && !in->flush && !in->pasting;
}

void input_flush(struct input *in)
{
    in->flush = true;
}

static bool key(struct ui_event *ret, uint32_t code, int mods)
{
    memset(ret, 0, sizeof *ret);
    ret->kind = UI_EV_KEY;
    ret->key.code = code;
    ret->key.mods = (uint8_t)mods;
    return true;
}

/* Key of a control byte, with the modifiers already known (Alt from a leading ESC). */
static bool control_key(struct ui_event *ret, unsigned char c, int mods)
{
    switch (c) {
    case '\r':
        return key(ret, UI_KEY_ENTER, mods);
    case '\t':
        return key(ret, UI_KEY_TAB, mods);
    case 0x08:
    case 0x7F:
        return key(ret, UI_KEY_BACKSPACE, mods);
    case 0x1B:
        return key(ret, UI_KEY_ESCAPE, mods);
    case 0x00:
        return key(ret, ' ', mods | UI_CTRL);
    case 0x1F:
        return key(ret, '_', mods | UI_CTRL); /* Ctrl+/ and Ctrl+_ */
    default:
        return key(ret, c < 0x1B ? (uint32_t)(c + 'a' - 1) : (uint32_t)(c + '@'), mods | UI_CTRL);
    }
}

/* xterm's modifier parameter: 1 + bits shift, alt, ctrl, (super or meta ignored). */
static int modifiers(long param)
{
    int bits = param > 1 && param < 256 ? (int)param - 1 : 0;
    return (bits & 1 ? UI_SHIFT : 0) | (bits & 2 ? UI_ALT : 0) | (bits & 4 ? UI_CTRL : 0);
}

static bool letter_key(struct ui_event *ret, unsigned char final, int mods)
{
    static const struct {
        char final;
        uint32_t code;
    } keys[] = {{'A', UI_KEY_UP},     {'B', UI_KEY_DOWN},   {'C', UI_KEY_RIGHT},
                {'D', UI_KEY_LEFT},   {'H', UI_KEY_HOME},   {'F', UI_KEY_END},
                {'P', UI_KEY_F1},     {'Q', UI_KEY_F1 + 1}, {'R', UI_KEY_F1 + 2},
                {'S', UI_KEY_F1 + 3}, {'M', UI_KEY_ENTER}};
    if (final == 'Z')
        return key(ret, UI_KEY_TAB, mods | UI_SHIFT);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].final == (char) final)
            return key(ret, keys[i].code, mods);
    return false;
}

static bool tilde_key(struct ui_event *ret, long number, int mods)
{
    static const struct {
        uint8_t number;
        uint32_t code;
    } keys[] = {
        {1, UI_KEY_HOME},    {2, UI_KEY_INSERT},    {3, UI_KEY_DELETE},   {4, UI_KEY_END},
        {5, UI_KEY_PAGE_UP}, {6, UI_KEY_PAGE_DOWN}, {7, UI_KEY_HOME},     {8, UI_KEY_END},
        {11, UI_KEY_F1},     {12, UI_KEY_F1 + 1},   {13, UI_KEY_F1 + 2},  {14, UI_KEY_F1 + 3},
        {15, UI_KEY_F1 + 4}, {17, UI_KEY_F1 + 5},   {18, UI_KEY_F1 + 6},  {19, UI_KEY_F1 + 7},
        {20, UI_KEY_F1 + 8}, {21, UI_KEY_F1 + 9},   {23, UI_KEY_F1 + 10}, {24, UI_KEY_F1 + 11}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (keys[i].number == number)
            return key(ret, keys[i].code, mods);
    return false;
}

/* A code point with modifiers, as CSI u and modifyOtherKeys report it. */
static bool point_key(struct ui_event *ret, long cp, int mods)
{
    if (cp <= 0 || cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000))
        return false;
    if (cp >= 57344 && cp <= 63743)
        return false; /* kitty's functional keys: modifiers alone, media keys */
    if (cp < 0x20 || cp == 0x7F)
        return control_key(ret, (unsigned char)cp, mods);
    if ((mods & UI_CTRL) && cp >= 'A' && cp <= 'Z')
        cp += 'a' - 'A';
    return key(ret, (uint32_t)cp, mods & ~UI_SHIFT);
}

static bool mouse(struct ui_event *ret, const long *param, int n_param, bool press)
{
    if (n_param < 3)
        return false;
    memset(ret, 0, sizeof *ret);
    ret->kind = UI_EV_MOUSE;
    ret->button = (int)(param[0] & 3);
    ret->x = (int)param[1] - 1;
    ret->y = (int)param[2] - 1;
    if (param[0] & 32)
        return false; /* motion */
    if (param[0] & 64) {
        ret->mouse = ret->button == 0 ? UI_MOUSE_WHEEL_UP : UI_MOUSE_WHEEL_DOWN;
        return press && ret->button < 2;
    }
    ret->mouse = press ? UI_MOUSE_PRESS : UI_MOUSE_RELEASE;
    return true;
}

/* Decodes the CSI sequence s[0..n) (after ESC [). Returns its length, 0 = incomplete; *ret_is tells
 * whether it is an event. */
static size_t csi(struct input *in, const char *s, size_t n, int alt, struct ui_event *ret,
                  bool *ret_is)
{
    long param[PARAM_MAX] = {0};
    int n_param = 0;
    char lead = 0;
    size_t i = 0;
    bool digits = false, sub = false; /* after ':' only the main value counts */
    *ret_is = false;
    if (n > 0 && s[0] == '[') { /* linux console: CSI [ A..E are F1..F5 */
        if (n < 2)
            return 0;
        *ret_is = s[1] >= 'A' && s[1] <= 'E' && key(ret, UI_KEY_F1 + (uint32_t)(s[1] - 'A'), alt);
        return 2;
    }
    if (n > 0 && s[0] >= '<' && s[0] <= '?')
        lead = s[i++];
    for (; i < n && i < SEQUENCE_MAX; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= '0' && c <= '9') {
            if (!sub && n_param < PARAM_MAX && param[n_param] < 1000000)
                param[n_param] = param[n_param] * 10 + (c - '0');
            digits = true;
        } else if (c == ';') {
            n_param += n_param < PARAM_MAX;
            sub = false;
            digits = true;
        } else if (c == ':') {
            sub = true;
        } else if (c >= 0x20 && c < 0x30) {
            continue;
        } else {
            break;
        }
    }
    if (i == n)
        return n >= SEQUENCE_MAX ? n : 0;
    unsigned char final = (unsigned char)s[i];
    if (final < 0x40 || final > 0x7E)
        return i; /* broken off by something else, which is decoded on its own */
    if (digits && n_param < PARAM_MAX)
        n_param++;
    int mods = alt | modifiers(n_param > 1 ? param[1] : 0);
    if (lead == '<' && (final == 'M' || final == 'm'))
        *ret_is = mouse(ret, param, n_param, final == 'M');
    else if (lead)
        *ret_is = false; /* replies to queries */
    else if (final == '~' && n_param > 0 && param[0] == 200)
        in->pasting = true;
    else if (final == '~' && n_param > 2 && param[0] == 27)
        *ret_is = point_key(ret, param[2], mods);
    else if (final == '~' && n_param > 0)
        *ret_is = tilde_key(ret, param[0], mods);
    else if ((final == '^' || final == '$' || final == '@') && n_param > 0) /* rxvt */
        *ret_is = tilde_key(ret, param[0],
                            alt | (final == '^'   ? UI_CTRL
                                   : final == '$' ? UI_SHIFT
                                                  : UI_CTRL | UI_SHIFT));
    else if (final == 'u' && n_param > 0)
        *ret_is = point_key(ret, param[0], mods);
    else if (final != 'M')
        *ret_is = letter_key(ret, final, mods);
    return i + 1;
}

/* Bytes of a string sequence (OSC, DCS, ...) after its introducer; 0 = incomplete. */
static size_t string_len(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\a')
            return i + 1;
        if (s[i] == 0x1B)
            return i + 1 < n && s[i + 1] == '\\' ? i + 2 : i + 1 < n ? i : 0;
    }
    return n > 4096 ? n : 0;
}

/* Decodes what starts with ESC at s. Returns bytes used, 0 = wait for more. */
static size_t escape(struct input *in, const char *s, size_t n, struct ui_event *ret, bool *ret_is)
{
    *ret_is = false;
    if (n == 1) {
        if (!in->flush)
            return 0;
        *ret_is = key(ret, UI_KEY_ESCAPE, 0);
        return 1;
    }
    unsigned char c = (unsigned char)s[1];
    size_t used = 0;
    if (c == '[') {
        used = csi(in, s + 2, n - 2, 0, ret, ret_is);
        if (used == 0 && in->flush) { /* nothing follows: Alt+[ */
            *ret_is = key(ret, '[', UI_ALT);
            return n == 2 ? 2 : n;
        }
        return used ? used + 2 : 0;
    }
    if (c == 'O') {
        if (n == 2) {
            *ret_is = in->flush && key(ret, 'O', UI_ALT);
            return in->flush ? 2 : 0;
        }
        *ret_is = letter_key(ret, (unsigned char)s[2], 0);
        if (!*ret_is && s[2] >= 'a' && s[2] <= 'd') /* rxvt: ctrl + arrow */
            *ret_is = letter_key(ret, (unsigned char)(s[2] - 'a' + 'A'), UI_CTRL);
        return *ret_is || ((unsigned char)s[2] >= 0x40 && (unsigned char)s[2] < 0x7F) ? 3 : 2;
    }
    if (c == ']' || c == 'P' || c == '_' || c == '^') {
        used = string_len(s + 2, n - 2);
        if (used == 0 && in->flush) {
            *ret_is = n == 2 && key(ret, c, UI_ALT);
            return n;
        }
        return used ? used + 2 : 0;
    }
    if (c == 0x1B) {
        if (n >= 3 && s[2] == '[') { /* rxvt: ESC before the sequence is Alt */
            used = csi(in, s + 3, n - 3, UI_ALT, ret, ret_is);
            if (used || !in->flush)
                return used ? used + 3 : 0;
        }
        if (n == 2 && !in->flush)
            return 0;
        *ret_is = key(ret, UI_KEY_ESCAPE, 0);
        return 1;
    }
    if (c < 0x20 || c == 0x7F) {
        *ret_is = control_key(ret, c, UI_ALT);
        return 2;
    }
    size_t whole = utf8_complete(s + 1, n - 1);
    if (whole == 0 && !in->flush && n < 6)
        return 0;
    uint32_t cp;
    int len = utf8_decode(s + 1, n - 1, &cp);
    *ret_is = cp != 0xFFFD && key(ret, cp, UI_ALT);
    return (size_t)len + 1;
}

/* Moves pasted bytes over; true when the paste ended. */
static bool paste_more(struct input *in, struct ui_event *ret)
{
    static const char end[] = "\x1b[201~";
    const char *s = in->buf.data + in->at;
    size_t n = in->buf.len - in->at;
    const char *stop = n >= 6 ? memmem(s, n, end, 6) : NULL;
    /* Without the end mark the last bytes may be its beginning and have to wait. */
    size_t take = stop ? (size_t)(stop - s) : n > 5 ? n - 5 : 0;
    size_t room = INPUT_PASTE_MAX - in->paste.len;
    str_add(&in->paste, s, take < room ? take : room);
    in->at += take + (stop ? 6 : 0);
    if (!stop)
        return false;
    in->pasting = false;
    memset(ret, 0, sizeof *ret);
    ret->kind = UI_EV_PASTE;
    ret->len = in->paste.len;
    ret->text = str_take(&in->paste);
    return true;
}

bool input_next(struct input *in, struct ui_event *ret)
{
    while (in->at < in->buf.len) {
        if (in->pasting) {
            if (paste_more(in, ret))
                return true;
            return false;
        }
        const char *s = in->buf.data + in->at;
        size_t n = in->buf.len - in->at;
        unsigned char c = (unsigned char)s[0];
        if (c == 0x1B) {
            bool is;
            size_t used = escape(in, s, n, ret, &is);
            if (used == 0)
                return false;
            in->at += used;
            if (is)
                return true;
            continue;
        }
        if (c < 0x20 || c == 0x7F) {
            in->at++;
            return control_key(ret, c, 0);
        }
        if (utf8_complete(s, n < 4 ? n : 4) == 0 && n < 4 && !in->flush)
            return false;
        uint32_t cp;
        in->at += (size_t)utf8_decode(s, n, &cp);
        if (cp >= 0x80 && cp < 0xA0)
            continue; /* C1 controls */
        return key(ret, cp, 0);
    }
    return false;
}
