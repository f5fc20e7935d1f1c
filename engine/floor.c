#include "engine/floor.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/compare.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/forward.h"
#include "engine/presets.h"

enum {
    N_TOK = 320,    /* read; three pages are sealed */
    FIRST_TOK = 128 /* before this nothing is read from pages */
};

const char *const floor_names[FLOOR_RUNGS] = {"8/8", "8/4", "6/4", "4/4", "4/2", "2/2"};

/* Prose, a list, numbers and code, with names that come back. */
static const char text[] =
    "The ferry to Hallgrim left at seven, and Marta Quist was the last to board. She carried a "
    "green suitcase with a broken lock and two letters for her brother Jonas, who kept the "
    "lighthouse on the northern cape. The sea was calm. A man in a grey coat asked her whether "
    "the harbour master still lived at number 14, and she said that he had moved to number 41 in "
    "the spring.\n\nThings to remember:\n- the key hangs behind the clock\n- Jonas takes his "
    "coffee without milk\n- the boat back leaves on Thursday at 16:45\n\nOn the island the road "
    "divides at an old mill. The left way follows the shore; the right one climbs to the cape. "
    "Marta took the right one, because the letters were urgent, and because the suitcase was "
    "lighter than it looked. \"You are early,\" said Jonas when he opened. \"I thought that the "
    "ferry came on Friday.\" She gave him the letters and asked for the key. It hung behind the "
    "clock.\n\nint sum(const int *x, int n)\n{\n    int total = 0;\n    for (int i = 0; i < n; "
    "i++)\n        total += x[i];\n    return total;\n}\n\nThe tide table for that week gave 3.2 "
    "metres at noon, 0.7 at six, and 3.4 at midnight. Jonas wrote the numbers down twice, once in "
    "the book and once on the wall. When the man in the grey coat came up the road, the lamp was "
    "already lit, the coffee had no milk in it, and the green suitcase stood open on the table: "
    "there was nothing inside but a clock. What did Marta carry to the lighthouse, and who had "
    "moved to number 41?";

struct rows {
    const float *exact, *other;
    const int32_t *ids;
    int32_t n_vocab, at;
    struct compare_row row[FORWARD_HEAD_ROWS];
};

static void compare_part(void *ctx, int part, int n_part)
{
    struct rows *r = ctx;
    size_t at = (size_t)part * (size_t)r->n_vocab;
    r->row[part] = compare_logits(r->exact + at, r->other + at, r->n_vocab, -1);
}

struct reader {
    struct model *m;
    struct forward *exact, *other; /* each with the hidden rows of its last pass */
    int32_t ids[N_TOK];
    bool (*go_on)(void *ctx, int32_t layer);
    void *ctx;
};

static enum status read_with(struct reader *r, struct forward *f, const char *preset, struct err *e)
{
    const struct model_params *p = &r->m->p;
    const struct kv_shape shape = {p->n_layer, p->n_head_kv, p->head_dim};
    struct kv_pool *pool = kv_pool_new(r->m->kern, &shape, presets_find(preset), UINT64_MAX);
    struct kv_line *line = kv_line_new(pool, N_TOK);
    enum status s = kv_reserve(line, N_TOK, e);
    if (s == OK)
        s = forward_run(f, line, r->ids, N_TOK, FORWARD_ALL, r->go_on, r->ctx, e);
    kv_line_free(line);
    kv_pool_free(pool);
    return s;
}

static double mean_kl(struct reader *r)
{
    double sum = 0;
    for (int32_t at = FIRST_TOK; at < N_TOK; at += FORWARD_HEAD_ROWS) {
        struct rows w = {.ids = r->ids, .n_vocab = r->m->p.n_vocab, .at = at};
        w.exact = forward_head(r->exact, at, FORWARD_HEAD_ROWS);
        w.other = forward_head(r->other, at, FORWARD_HEAD_ROWS);
        kern_parallel(r->m->kern, FORWARD_HEAD_ROWS, compare_part, &w);
        for (int32_t i = 0; i < FORWARD_HEAD_ROWS; i++)
            sum += w.row[i].kl;
    }
    return sum / (N_TOK - FIRST_TOK);
}

static enum status measure(struct reader *r, double limit, struct floor *ret, struct err *e)
{
    struct floor f = {.rung = 0, .n = N_TOK - FIRST_TOK};
    for (int32_t i = 0; i < FLOOR_RUNGS; i++)
        f.kl[i] = NAN;
    TRY(read_with(r, r->exact, "exact", e));
    for (int32_t i = 0; i < FLOOR_RUNGS; i++) {
        TRY(read_with(r, r->other, floor_names[i], e));
        f.kl[i] = mean_kl(r);
        if (!(f.kl[i] <= limit))
            break;
        f.rung = i;
    }
    *ret = f;
    return OK;
}

enum status floor_measure(struct model *m, const struct tokenizer *t, double limit,
                          bool (*go_on)(void *ctx, int32_t layer), void *ctx, struct floor *ret,
                          struct err *e)
{
    struct reader r = {.m = m, .go_on = go_on, .ctx = ctx};
    struct tok_list list = {0};
    enum status s = tokenizer_encode(t, text, sizeof text - 1, false, true, &list, e);
    for (int32_t i = 0; i < N_TOK && s == OK && list.n > 0; i++)
        r.ids[i] = list.ids[i % list.n];
    tok_list_fini(&list);
    if (s == OK)
        s = forward_new(m, N_TOK, &r.exact, e);
    if (s == OK)
        s = forward_new(m, N_TOK, &r.other, e);
    if (s == OK)
        s = measure(&r, limit, ret, e);
    forward_free(r.exact);
    forward_free(r.other);
    return s;
}

/* ---- the file ---- */

#define FORMAT "dogear-floor 1 %016" PRIx64 " %d %d"

static char *file_name(const char *dir, uint64_t fingerprint)
{
    struct str s = {0};
    str_addf(&s, "%s/%016" PRIx64, dir, fingerprint);
    return str_take(&s);
}

bool floor_load(const char *dir, uint64_t fingerprint, struct floor *ret)
{
    char *name = file_name(dir, fingerprint), want[80], line[512];
    FILE *file = fopen(name, "re");
    struct floor f = {.rung = -1};
    bool good = file && fgets(line, sizeof line, file) && strchr(line, '\n');
    free(name);
    if (file)
        fclose(file);
    if (!good)
        return false;
    /* The head must be ours to the letter, then come as many numbers as there are rungs. */
    char *at = line;
    uint64_t seen;
    if (sscanf(line, "dogear-floor 1 %" SCNx64 " %d %d", &seen, &f.rung, &f.n) != 3 ||
        seen != fingerprint || f.rung < 0 || f.rung >= FLOOR_RUNGS || f.n < 1)
        return false;
    int n = snprintf(want, sizeof want, FORMAT, fingerprint, f.rung, f.n);
    if (strncmp(line, want, (size_t)n) != 0)
        return false;
    at += n;
    for (int32_t i = 0; i < FLOOR_RUNGS; i++) {
        char *end;
        f.kl[i] = strtod(at, &end);
        if (end == at || (i <= f.rung && !(f.kl[i] >= 0)))
            return false;
        at = end;
    }
    if (*at != '\n')
        return false;
    *ret = f;
    return true;
}

void floor_store(const char *dir, uint64_t fingerprint, const struct floor *f)
{
    char *name = file_name(dir, fingerprint);
    struct str fresh = {0};
    for (char *at = name + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            mkdir(name, 0700); /* most are there */
            *at = '/';
        }
    str_addf(&fresh, "%s.%ld", name, (long)getpid());
    FILE *file = fopen(str_c(&fresh), "wxe");
    if (file) {
        fprintf(file, FORMAT, fingerprint, f->rung, f->n);
        for (int32_t i = 0; i < FLOOR_RUNGS; i++)
            fprintf(file, " %.9g", f->kl[i]);
        bool good = fputc('\n', file) != EOF;
        if (fclose(file) != 0 || !good || rename(str_c(&fresh), name) != 0)
            unlink(str_c(&fresh));
    }
    str_fini(&fresh);
    free(name);
}
