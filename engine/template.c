/* Rendering of messages in a recognised format, and the seams between what was fed and what is
 * new. */
#include "engine/template_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/gguf.h"

enum { SOURCE_MAX = 1 << 20 };

/* ---- life ---- */

/* The first control token in the text that ends an answer. */
static int32_t find_stop(const struct template *tp)
{
    struct err e;
    struct tok_list ids = {0};
    int32_t stop = -1;
    struct str text = {0};
    for (const char *p = tp->format.assistant[1]; p && *p; p++) {
        if (*p == '\2')
            str_add(&text, tp->eos.data, tp->eos.len);
        else
            str_addc(&text, *p);
    }
    if (tp->tokenizer && text.len &&
        tokenizer_encode(tp->tokenizer, text.data, text.len, true, false, &ids, &e) == OK)
        for (int32_t i = 0; i < ids.n && stop < 0; i++)
            if (tokenizer_is_control(tp->tokenizer, ids.ids[i]))
                stop = ids.ids[i];
    tok_list_fini(&ids);
    str_fini(&text);
    return stop;
}

static void find_marks(struct template *tp)
{
    for (int i = 0; i < FORMAT_MARKS; i++) {
        const char *name = tp->format.marks[i].token;
        tp->mark_ids[i] =
            name && tp->tokenizer ? tokenizer_find(tp->tokenizer, name, strlen(name)) : -1;
    }
}

enum status template_recognise(const char *source, size_t len, const char *bos, const char *eos,
                               const struct tokenizer *t, enum template_reasoning reasoning,
                               struct template **ret, struct err *e)
{
    if (len > SOURCE_MAX)
        return err_set(e, ERR_FORMAT, "chat template of %zu bytes; the file is damaged", len);
    struct template *tp = mem_calloc(1, sizeof *tp);
    tp->tokenizer = t;
    tp->reasoning = reasoning;
    tp->stop_id = -1;
    str_adds(&tp->bos, bos ? bos : "");
    str_adds(&tp->eos, eos ? eos : "");
    if (len > 0 && format_recognise(source, len, tp)) {
        tp->stop_texts[0] = tp->format.stop;
        tp->stop_id = find_stop(tp);
    } else {
        tp->format = (struct format){.name = "", .head = "", .again = ""};
        tp->unknown = len > 0;
    }
    find_marks(tp);
    *ret = tp;
    return OK;
}

enum status template_reasoning_find(const char *name, enum template_reasoning *ret, struct err *e)
{
    static const char *const names[TEMPLATE_REASONINGS] = {"auto", "on", "off"};
    int i = 0;
    while (name && i < TEMPLATE_REASONINGS && strcmp(name, names[i]) != 0)
        i++;
    *ret = (enum template_reasoning)i;
    return i < TEMPLATE_REASONINGS ? OK
                                   : err_set(e, ERR_USAGE, "reasoning '%s' is unknown; use on, off or auto", name);
}

static bool same(const struct str *a, const struct str *b)
{
    return strcmp(str_c(a), str_c(b)) == 0;
}

bool template_alike(const struct template *a, const struct template *b)
{
    return same(&a->generate, &b->generate) && same(&a->system_lead, &b->system_lead) &&
           same(&a->system_default, &b->system_default);
}

static void token_text(const struct tokenizer *t, int32_t id, struct str *out)
{
    size_t n;
    const char *s = tokenizer_piece(t, id, &n);
    if (s)
        str_add(out, s, n);
}

enum status template_open(const struct gguf *g, const struct tokenizer *t, enum template_reasoning reasoning,
                          struct template **ret, struct err *e)
{
    struct gguf_str source = {0};
    struct str bos = {0}, eos = {0};
    gguf_get_str(g, "tokenizer.chat_template", &source);
    token_text(t, tokenizer_special(t)->bos, &bos);
    token_text(t, tokenizer_special(t)->eos, &eos);
    enum status st = template_recognise(source.s ? source.s : "", source.len, str_c(&bos),
                                        str_c(&eos), t, reasoning, ret, e);
    str_fini(&bos);
    str_fini(&eos);
    return st;
}

void template_free(struct template *tp)
{
    if (!tp)
        return;
    str_fini(&tp->bos);
    str_fini(&tp->eos);
    str_fini(&tp->generate);
    str_fini(&tp->system_default);
    str_fini(&tp->system_lead);
    str_fini(&tp->system_join);
    str_fini(&tp->system_tail);
    str_fini(&tp->date);
    free(tp);
}

const char *template_name(const struct template *tp)
{
    return tp->format.name;
}

bool template_is_unknown(const struct template *tp)
{
    return tp->unknown;
}

void template_set_today(struct template *tp, const char *today)
{
    int *d = tp->today;
    if (!today || sscanf(today, "%4d-%2d-%2d", &d[0], &d[1], &d[2]) != 3 || d[1] < 1 || d[1] > 12)
        d[0] = 0;
}

bool template_is_stop(const struct template *tp, int32_t id)
{
    return id >= 0 && template_mark(tp, id) != TEMPLATE_PART_END &&
           (id == tp->stop_id || (tp->tokenizer && tokenizer_is_end(tp->tokenizer, id)));
}

enum template_mark template_mark(const struct template *tp, int32_t id)
{
    for (int i = 0; id >= 0 && i < FORMAT_MARKS; i++)
        if (tp->mark_ids[i] == id)
            return tp->format.marks[i].mark;
    return TEMPLATE_TEXT;
}

enum template_part template_part(const struct template *tp, const char *name, size_t n)
{
    const struct format *f = &tp->format;
    const char *end = name + n, *lead = f->name_lead ? memmem(name, n, f->name_lead, strlen(f->name_lead)) : NULL;
    if (lead)
        name = lead + strlen(f->name_lead);
    for (int i = 0; i < 2; i++) {
        size_t len = f->parts[i] ? strlen(f->parts[i]) : 0;
        if (len > 0 && (size_t)(end - name) >= len && memcmp(name, f->parts[i], len) == 0)
            return i == 0 ? TEMPLATE_PART_THOUGHTS : TEMPLATE_PART_LAST;
    }
    return TEMPLATE_PART_ANY;
}

const char *template_name_lead(const struct template *tp)
{
    return tp->format.name_lead;
}

const char *const *template_stop_texts(const struct template *tp)
{
    return tp->stop_texts;
}

/* ---- rendering ---- */

/* A text being written, with the parts that come from the format. */
struct render {
    const struct template *tp;
    struct str *out;
    struct tok_range *ranges;
    size_t n_range, cap;
};

static void mark(struct render *r, size_t begin)
{
    size_t end = r->out->len;
    if (begin == end)
        return;
    if (r->n_range && r->ranges[r->n_range - 1].end == begin) {
        r->ranges[r->n_range - 1].end = end;
        return;
    }
    if (r->n_range == r->cap) {
        r->cap = r->cap ? r->cap * 2 : 16;
        r->ranges = mem_realloc(r->ranges, r->cap * sizeof *r->ranges);
    }
    r->ranges[r->n_range++] = (struct tok_range){begin, end};
}

/* The parts of strftime that templates use, in English whatever the locale. */
static void put_date(struct render *r)
{
    static const char months[12][10] = {"January",   "February", "March",    "April",
                                        "May",       "June",     "July",     "August",
                                        "September", "October",  "November", "December"};
    int d[3] = {r->tp->today[0], r->tp->today[1], r->tp->today[2]};
    time_t now = time(NULL);
    struct tm tm;
    if (!d[0]) {
        if (!localtime_r(&now, &tm))
            return;
        d[0] = tm.tm_year + 1900;
        d[1] = tm.tm_mon + 1;
        d[2] = tm.tm_mday;
    }
    for (const char *p = str_c(&r->tp->date); *p; p++) {
        if (*p != '%' || !p[1] || !strchr("dmYbB", p[1]))
            str_addc(r->out, *p);
        else if (*++p == 'd' || *p == 'm')
            str_addf(r->out, "%02d", d[*p == 'd' ? 2 : 1]);
        else if (*p == 'Y')
            str_addf(r->out, "%d", d[0]);
        else
            str_addf(r->out, "%.*s", *p == 'b' ? 3 : 9, months[d[1] - 1]);
    }
}

static void put_format(struct render *r, const char *s)
{
    size_t begin = r->out->len;
    for (; s && *s; s++) {
        if (*s == '\1')
            str_add(r->out, r->tp->bos.data, r->tp->bos.len);
        else if (*s == '\2')
            str_add(r->out, r->tp->eos.data, r->tp->eos.len);
        else if (*s == '\3')
            put_date(r);
        else
            str_addc(r->out, *s);
    }
    mark(r, begin);
}

/* Bytes of the white-space character at s, 0 when there is none: what Python's strip() removes. */
static size_t space_at(const char *s, size_t n)
{
    unsigned char c = (unsigned char)s[0];
    if (c == ' ' || (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x1f))
        return 1;
    if (n >= 2 && c == 0xc2 && ((uint8_t)s[1] == 0x85 || (uint8_t)s[1] == 0xa0))
        return 2;
    if (n < 3 || (c != 0xe1 && c != 0xe2 && c != 0xe3))
        return 0;
    unsigned cp = (c & 15u) << 12 | ((uint8_t)s[1] & 63u) << 6 | ((uint8_t)s[2] & 63u);
    return cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
                   cp == 0x202f || cp == 0x205f || cp == 0x3000
               ? 3
               : 0;
}

struct slice {
    const char *s;
    size_t n;
};

static struct slice trim_left(struct slice t)
{
    for (size_t k; t.n && (k = space_at(t.s, t.n)) > 0; t.n -= k)
        t.s += k;
    return t;
}

static struct slice trim_right(struct slice t)
{
    for (size_t k = 1; t.n && k <= 3;) {
        if (k <= t.n && space_at(t.s + t.n - k, k) == k) {
            t.n -= k;
            k = 1;
        } else {
            k++;
        }
    }
    return t;
}

static struct slice trim_lines(struct slice t)
{
    while (t.n && t.s[0] == '\n') {
        t.s++;
        t.n--;
    }
    return t;
}

static void put_text(struct render *r, struct slice t, unsigned flags)
{
    if (flags & FORMAT_TRIM)
        t = trim_right(trim_left(t));
    str_add(r->out, t.s, t.n);
}

/* A system turn. given: NULL = the template's own text. */
static void put_system(struct render *r, const struct slice *given)
{
    const struct template *tp = r->tp;
    const struct format *f = &tp->format;
    put_format(r, f->system[0]);
    put_format(r, str_c(&tp->system_lead));
    if (given || tp->system_default.len)
        put_format(r, str_c(&tp->system_join));
    if (given)
        put_text(r, f->flags & FORMAT_RTRIM_SYSTEM ? trim_right(*given) : *given, f->flags);
    put_format(r, str_c(given ? &tp->system_tail : &tp->system_default));
    put_format(r, f->system[1]);
}

static const char *find_text(struct slice t, const char *what)
{
    return t.n ? memmem(t.s, t.n, what, strlen(what)) : NULL;
}

bool template_begins_thinking(const struct template *tp)
{
    static const char open[] = "<think>";
    struct slice head = trim_right((struct slice){tp->generate.data, tp->generate.len});
    return head.n >= strlen(open) &&
           memcmp(head.s + head.n - strlen(open), open, strlen(open)) == 0;
}

/* The last piece of an answer after its thoughts; *ret_thought is what stood before. */
static struct slice after_thought(struct slice t, struct slice *ret_thought)
{
    static const char close[] = "</think>";
    struct slice rest = t;
    *ret_thought = (struct slice){t.s, 0};
    for (const char *p; (p = find_text(rest, close));) {
        if (rest.s == t.s)
            ret_thought->n = (size_t)(p - t.s);
        rest.n -= (size_t)(p - rest.s) + strlen(close);
        rest.s = p + strlen(close);
    }
    return rest;
}

/* The same where thoughts are marked by tokens, and the template knows no tags: only those that
 * answer.h put before the answer; an answer may speak of the tags. */
static struct slice after_marked_thought(struct slice t)
{
    static const char open[] = "<think>", close[] = "</think>";
    if (t.n < strlen(open) || memcmp(t.s, open, strlen(open)) != 0)
        return t;
    const char *p = find_text(t, close), *end = t.s + t.n;
    p = p ? p + strlen(close) : end; /* cut off in its thoughts */
    return (struct slice){p, (size_t)(end - p)};
}

/* What an answer said before its end of thoughts, without the mark that begins them. */
static void put_thought(struct render *r, struct slice t)
{
    static const char open[] = "<think>";
    for (const char *p; (p = find_text(t, open));) {
        t.n -= (size_t)(p + strlen(open) - t.s);
        t.s = p + strlen(open);
    }
    t = r->tp->format.flags & FORMAT_TRIM ? trim_right(trim_left(t)) : trim_lines(t);
    while (t.n && t.s[t.n - 1] == '\n')
        t.n--;
    put_format(r, "<think>\n");
    str_add(r->out, t.s, t.n);
    put_format(r, "\n</think>\n\n");
}

/* ended: no question comes after the answer in this rendering; last: no answer does. */
static void put_answer(struct render *r, struct slice t, bool ended, bool last)
{
    const struct format *f = &r->tp->format;
    put_format(r, f->assistant[0]);
    struct slice thought = {0};
    if (f->flags & FORMAT_TRIM)
        t = trim_right(trim_left(t));
    bool keep = (f->flags & FORMAT_KEEP_ENDED && ended) || (f->flags & FORMAT_KEEP_LAST && last);
    if (f->flags & FORMAT_DROP_THOUGHT && !keep) {
        struct slice rest =
            f->marks[0].token ? after_marked_thought(t) : after_thought(t, &thought);
        bool show = f->flags & FORMAT_THINK_EVERY || (f->flags & FORMAT_THINK_LAST && ended);
        if (show)
            put_thought(r, thought);
        if (show || rest.n != t.n)
            t = f->flags & FORMAT_TRIM_REST ? trim_right(trim_left(rest)) : trim_lines(rest);
    }
    if (f->flags & FORMAT_TRIM_LINES)
        t = trim_lines(t);
    if (f->flags & FORMAT_LTRIM_ANSWER)
        t = trim_left(t);
    if (f->flags & FORMAT_TRIM_ANSWER)
        t = trim_right(trim_left(t));
    str_add(r->out, t.s, t.n);
    put_format(r, f->assistant[1]);
}

static void put_user(struct render *r, struct slice t, const struct slice *system, bool first)
{
    const struct format *f = &r->tp->format;
    if (!first)
        put_format(r, f->again);
    put_format(r, f->user[0]);
    if (system) {
        /* The system text and the user's are one text for what trims. */
        struct slice s =
            f->flags & FORMAT_TRIM && f->system[0][0] == '\0' ? trim_left(*system) : *system;
        put_format(r, f->system[0]);
        str_add(r->out, s.s, s.n);
        put_format(r, f->system[1]);
    }
    put_text(r, t, f->flags);
    put_format(r, f->user[1]);
}

enum role { ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_OTHER };

static enum role role_of(const struct engine_message *m)
{
    const char *role = m->role ? m->role : "";
    return strcmp(role, "system") == 0      ? ROLE_SYSTEM
           : strcmp(role, "user") == 0      ? ROLE_USER
           : strcmp(role, "assistant") == 0 ? ROLE_ASSISTANT
                                            : ROLE_OTHER;
}

static const char *text_of(const struct engine_message *m)
{
    return m->text ? m->text : "";
}

static int32_t last_with_role(const struct engine_message *m, int32_t n, enum role role)
{
    while (n > 0 && role_of(&m[n - 1]) != role)
        n--;
    return n - 1;
}

static enum status render_messages(struct render *r, bool first, const struct engine_message *m,
                                   int32_t n, bool generate, struct err *e)
{
    const struct template *tp = r->tp;
    const struct format *f = &tp->format;
    bool fold = f->flags & FORMAT_FOLD;
    struct slice system = {0};
    bool has_system = false, first_user = first;
    int32_t last_user = last_with_role(m, n, ROLE_USER);
    int32_t last_answer = last_with_role(m, n, ROLE_ASSISTANT);
    for (int32_t i = 0; i < n; i++)
        if (role_of(&m[i]) == ROLE_OTHER)
            return err_set(e, ERR_USAGE,
                           "message role \"%.40s\" is not known; use system, user or assistant",
                           m[i].role ? m[i].role : "");
    if (first)
        put_format(r, f->head);
    if (first && n > 0 && role_of(&m[0]) != ROLE_SYSTEM) {
        struct slice text = {tp->system_default.data, tp->system_default.len};
        if (fold && text.n) {
            system = text;
            has_system = true;
        } else if (text.n || f->flags & FORMAT_SYSTEM_ALWAYS) {
            put_system(r, NULL);
        }
    }
    if (f->flags & FORMAT_SYSTEM_FIRST)
        for (int32_t i = 0; i < n; i++)
            if (role_of(&m[i]) == ROLE_SYSTEM)
                put_system(r, &(struct slice){text_of(&m[i]), m[i].text ? m[i].len : 0});
    for (int32_t i = 0; i < n; i++) {
        struct slice text = {text_of(&m[i]), m[i].text ? m[i].len : 0};
        switch (role_of(&m[i])) {
        case ROLE_SYSTEM:
            if (f->flags & FORMAT_SYSTEM_FIRST)
                break;
            if (!fold) {
                put_system(r, &text);
                break;
            }
            system = text;
            has_system = true;
            break;
        case ROLE_USER: {
            bool here = has_system && (!(f->flags & FORMAT_FOLD_LAST) || i == last_user);
            put_user(r, text, here ? &system : NULL, first_user);
            has_system = has_system && !here;
            first_user = false;
            break;
        }
        default:
            put_answer(r, text, i > last_user, i == last_answer);
        }
    }
    if (has_system) /* a system text that no question follows must not get lost */
        put_user(r, (struct slice){"", 0}, &system, first_user);
    if (generate)
        put_format(r, str_c(&tp->generate));
    else if (f->flags & FORMAT_EOS_AT_END)
        put_format(r, "\2");
    return OK;
}

static void render_plain(struct render *r, const struct engine_message *m, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (m[i].text)
            str_add(r->out, m[i].text, m[i].len);
}

enum status template_text(const struct template *tp, bool first,
                          const struct engine_message *messages, int32_t n_message, bool generate,
                          struct str *out, struct tok_range **ret_ranges, size_t *ret_n_range,
                          struct err *e)
{
    struct render r = {.tp = tp, .out = out};
    enum status st = OK;
    if (tp->format.name[0])
        st = render_messages(&r, first, messages, n_message, generate, e);
    else
        render_plain(&r, messages, n_message);
    if (st == OK && ret_ranges) {
        *ret_ranges = r.ranges;
        *ret_n_range = r.n_range;
    } else {
        free(r.ranges);
    }
    return st;
}

/* ---- the seam ---- */

/* Whether the prefix ends with the ids of what was rendered. */
static enum status ends_with(const struct render *r, const int32_t *prefix, int32_t n_prefix,
                             bool *ret, struct err *e)
{
    struct tok_list ids = {0};
    enum status st = OK;
    if (r->out->len)
        st = tokenizer_encode_ranges(r->tp->tokenizer, r->out->data, r->out->len, r->ranges,
                                     r->n_range, false, prefix[n_prefix - 1], &ids, e);
    *ret = st == OK && ids.n > 0 && ids.n <= n_prefix &&
           memcmp(prefix + n_prefix - ids.n, ids.ids, (size_t)ids.n * sizeof *prefix) == 0;
    tok_list_fini(&ids);
    return st;
}

bool template_awaits_answer(const struct template *tp, const int32_t *ids, int32_t n)
{
    struct str text = {0};
    struct render r = {.tp = tp, .out = &text};
    struct err ignored;
    bool ends = false;
    put_format(&r, tp->format.user[1]);
    put_format(&r, str_c(&tp->generate));
    if (n > 0)
        ends_with(&r, ids, n, &ends, &ignored);
    free(r.ranges);
    str_fini(&text);
    return ends;
}

/* Writes what is missing of the end of the answer that the prefix ends with. */
static enum status close_answer(struct render *r, const int32_t *prefix, int32_t n_prefix,
                                struct err *e)
{
    const struct template *tp = r->tp;
    struct str whole = {0};
    struct render w = {.tp = tp, .out = &whole};
    bool closed;
    put_format(&w, tp->format.assistant[1]);
    enum status st = ends_with(&w, prefix, n_prefix, &closed, e);
    if (st == OK && whole.len && !closed) {
        size_t from = 0, n = 0;
        const char *stop = tp->stop_id >= 0 && prefix[n_prefix - 1] == tp->stop_id
                               ? tokenizer_piece(tp->tokenizer, tp->stop_id, &n)
                               : NULL;
        const char *at = stop ? memmem(whole.data, whole.len, stop, n) : NULL;
        if (at)
            from = (size_t)(at - whole.data) + n;
        size_t begin = r->out->len;
        str_add(r->out, whole.data + from, whole.len - from);
        mark(r, begin);
    }
    free(w.ranges);
    str_fini(&whole);
    return st;
}

enum status template_render(const struct template *tp, const int32_t *prefix, int32_t n_prefix,
                            const struct engine_message *messages, int32_t n_message, bool raw,
                            struct tok_list *out, struct err *e)
{
    if (n_message == 0)
        return OK;
    struct str text = {0};
    struct render r = {.tp = tp, .out = &text};
    enum status st = OK;
    if (raw || !tp->format.name[0]) {
        render_plain(&r, messages, n_message);
    } else {
        if (n_prefix > 0)
            st = close_answer(&r, prefix, n_prefix, e);
        if (st == OK)
            st = render_messages(&r, n_prefix == 0, messages, n_message, true, e);
    }
    if (st == OK)
        st = tokenizer_encode_ranges(tp->tokenizer, str_c(&text), text.len, r.ranges, r.n_range,
                                     n_prefix == 0, n_prefix > 0 ? prefix[n_prefix - 1] : -1, out,
                                     e);
    free(r.ranges);
    str_fini(&text);
    return st;
}
