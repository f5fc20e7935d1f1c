#include "app/suite.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/str.h"

static char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return mem_strdup(s ? s : "");
}

static char **texts_of(const json_t *list, int *ret_n)
{
    size_t n = json_array_size(list);
    char **texts = mem_calloc(n, sizeof *texts);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        texts[i] = mem_strdup(s ? s : "");
    }
    *ret_n = (int)n;
    return texts;
}

static void read_item(const json_t *j, struct suite_item *item)
{
    item->id = text_of(j, "id");
    item->task = text_of(j, "task");
    item->position = text_of(j, "position");
    item->wording = text_of(j, "wording");
    item->n_tok = (int32_t)json_integer_value(json_object_get(j, "n_tok"));
    const json_t *context = json_object_get(j, "context");
    item->n_context = (int)json_array_size(context);
    item->context = mem_calloc((size_t)item->n_context, sizeof *item->context);
    for (int i = 0; i < item->n_context; i++) {
        const json_t *m = json_array_get(context, (size_t)i);
        item->context[i] = (struct suite_text){text_of(m, "role"), text_of(m, "content")};
    }
    const json_t *turns = json_object_get(j, "turns");
    item->n_turn = (int)json_array_size(turns);
    item->turns = mem_calloc((size_t)item->n_turn, sizeof *item->turns);
    for (int i = 0; i < item->n_turn; i++) {
        const json_t *t = json_array_get(turns, (size_t)i);
        struct suite_turn *turn = &item->turns[i];
        turn->question = text_of(t, "user");
        turn->expect = texts_of(json_object_get(t, "expect"), &turn->n_expect);
        turn->reject = texts_of(json_object_get(t, "reject"), &turn->n_reject);
    }
}

enum status suite_load(const char *path, int32_t n_tok_max, struct suite *ret, struct err *e)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return err_set(e, ERR_IO, "suite %s: %s", path, strerror(errno));
    struct suite s = {0};
    enum status st = OK;
    char *line = NULL;
    size_t cap = 0;
    for (int n = 1; st == OK && getline(&line, &cap, f) >= 0; n++) {
        json_error_t why;
        json_t *j = json_loads(line, 0, &why);
        if (!json_is_object(j)) {
            st = err_set(e, ERR_FORMAT, "suite %s, line %d: %s", path, n, j ? "no object" : why.text);
        } else if (n_tok_max <= 0 ||
                   json_integer_value(json_object_get(j, "n_tok")) <= n_tok_max) {
            s.items = mem_realloc(s.items, (size_t)(s.n_item + 1) * sizeof *s.items);
            s.items[s.n_item] = (struct suite_item){0};
            read_item(j, &s.items[s.n_item++]);
        }
        json_decref(j);
    }
    free(line);
    fclose(f);
    char n_tok[32];
    if (st == OK && s.n_item == 0)
        st = err_set(e, ERR_USAGE, "suite %s has no item of at most %s tokens", path,
                     err_count_text((uint64_t)n_tok_max, n_tok));
    if (st != OK)
        suite_free(&s);
    else
        *ret = s;
    return st;
}

static void texts_free(char **texts, int n)
{
    for (int i = 0; i < n; i++)
        free(texts[i]);
    free(texts);
}

void suite_free(struct suite *s)
{
    for (int i = 0; i < s->n_item; i++) {
        struct suite_item *item = &s->items[i];
        for (int k = 0; k < item->n_context; k++) {
            free(item->context[k].role);
            free(item->context[k].text);
        }
        for (int k = 0; k < item->n_turn; k++) {
            free(item->turns[k].question);
            texts_free(item->turns[k].expect, item->turns[k].n_expect);
            texts_free(item->turns[k].reject, item->turns[k].n_reject);
        }
        free(item->context);
        free(item->turns);
        free(item->id);
        free(item->task);
        free(item->position);
        free(item->wording);
    }
    free(s->items);
    *s = (struct suite){0};
}

/* " words in lower case ", one space between them and at both ends; bytes past ASCII are kept. */
static void normalise(const char *s, size_t len, struct str *out)
{
    str_addc(out, ' ');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (isalnum(c) || c >= 0x80)
            str_addc(out, (char)tolower(c));
        else if (out->data[out->len - 1] != ' ')
            str_addc(out, ' ');
    }
    if (out->data[out->len - 1] != ' ')
        str_addc(out, ' ');
}

static bool contains(const struct str *answer, const char *value)
{
    struct str v = {0};
    normalise(value, strlen(value), &v);
    bool found = v.len > 1 && strstr(str_c(answer), str_c(&v));
    str_fini(&v);
    return found;
}

bool suite_right(const struct suite_turn *t, const char *answer, size_t len)
{
    struct str a = {0};
    normalise(answer, len, &a);
    bool right = t->n_expect > 0;
    for (int i = 0; i < t->n_expect; i++)
        right = right && contains(&a, t->expect[i]);
    for (int i = 0; i < t->n_reject; i++)
        right = right && !contains(&a, t->reject[i]);
    str_fini(&a);
    return right;
}
