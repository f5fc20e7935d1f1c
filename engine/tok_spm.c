/* SentencePiece BPE as the Llama family uses it: spaces become U+2581, neighbouring pieces are
 * merged in the order of the scores of what they make, and characters that no piece holds are
 * written as byte tokens. Gemma 4 differs in that a merge list says the order. Reference: Kudo and
 * Richardson 2018, and the SentencePiece sources for the order of merges. */
#include "engine/tok_impl.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

static const char mark[3] = {'\xe2', '\x96', '\x81'}; /* U+2581, stands for a space */

/* ---- where a text may be cut ----
 * Merging never crosses two neighbouring code points that stand side by side in no token. Cutting
 * there gives words (as a rule: before each U+2581), which can be cached, without changing any
 * result, whatever the vocabulary holds. */

static uint64_t pair_key(uint32_t a, uint32_t b)
{
    return ((uint64_t)a << 32 | b) + 1; /* 0 = free cell */
}

static uint32_t pair_slot(const struct tokenizer *t, uint64_t key)
{
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & t->pair_mask;
}

static bool pair_known(const struct tokenizer *t, uint32_t a, uint32_t b)
{
    uint64_t key = pair_key(a, b);
    for (uint32_t i = pair_slot(t, key); t->pairs[i]; i = (i + 1) & t->pair_mask)
        if (t->pairs[i] == key)
            return true;
    return false;
}

static void pair_insert(struct tokenizer *t, uint64_t key)
{
    uint32_t i = pair_slot(t, key);
    while (t->pairs[i])
        i = (i + 1) & t->pair_mask;
    t->pairs[i] = key;
}

static void pair_grow(struct tokenizer *t)
{
    uint64_t *old = t->pairs;
    uint32_t n_old = t->pair_mask + 1;
    t->pair_mask = n_old * 2 - 1;
    t->pairs = mem_calloc((size_t)n_old * 2, sizeof *t->pairs);
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i])
            pair_insert(t, old[i]);
    free(old);
}

void tok_spm_open(struct tokenizer *t)
{
    uint32_t n_pair = 0;
    t->pair_mask = (1u << 15) - 1;
    t->pairs = mem_calloc((size_t)t->pair_mask + 1, sizeof *t->pairs);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (t->flags[id] & (TOK_CONTROL | TOK_BYTE))
            continue;
        const char *s = t->text + t->texts[id].off;
        size_t n = t->texts[id].len, i = 0;
        uint32_t before = 0, cp;
        while (i < n) {
            int len = utf8_decode(s + i, n - i, &cp);
            /* Bytes that are not UTF-8 all look alike here, in vocabulary and text, which can only
             * keep more together. */
            if (i > 0 && !pair_known(t, before, cp)) {
                pair_insert(t, pair_key(before, cp));
                if (++n_pair > t->pair_mask / 2)
                    pair_grow(t);
            }
            before = cp;
            i += (size_t)len;
        }
    }
}

/* Larger scores first: maps a float to an integer that orders the other way round. */
static uint32_t score_order(float score)
{
    uint32_t u;
    memcpy(&u, &score, sizeof u);
    u = u & 0x80000000u ? ~u : u | 0x80000000u;
    return ~u;
}

static bool spm_pair(const struct tokenizer *t, const char *word, const struct tok_sym *l,
                     const struct tok_sym *r, uint32_t *ret_order, int32_t *ret_id)
{
    if (l->len + r->len > t->text_max)
        return false;
    int32_t id = tok_plain(t, word + l->off, l->len + r->len);
    if (id < 0)
        return false;
    *ret_order = score_order(t->scores[id]);
    *ret_id = id;
    return true;
}

static void emit(struct tok_job *j, const char *word, const struct tok_sym *s)
{
    const struct tokenizer *t = j->t;
    int32_t id = s->id >= 0 ? s->id : tok_plain(t, word + s->off, s->len);
    if (id >= 0) {
        tok_list_add(j->out, id);
        return;
    }
    for (uint32_t i = 0; i < s->len; i++) {
        int32_t byte = t->byte_id[(uint8_t)word[s->off + i]];
        if (byte >= 0) {
            tok_list_add(j->out, byte);
        } else if (t->ids.unk >= 0) { /* no byte fallback: the whole character is unknown */
            tok_list_add(j->out, t->ids.unk);
            break;
        }
    }
}

static void encode_word(struct tok_job *j, size_t off, size_t len)
{
    const char *base = j->norm.data, *word = base + off;
    uint64_t hash = 0;
    if (tok_cache_get(j, base, off, len, &hash))
        return;
    int32_t at = j->out->n;
    tok_job_symbols(j, len);
    int32_t n = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t k = (size_t)utf8_decode(word + i, len - i, &cp);
        int32_t id = j->t->ranked ? tok_plain(j->t, word + i, k) : TOK_ID_UNSET;
        j->syms[n] = (struct tok_sym){n - 1, n + 1, (uint32_t)i, (uint32_t)k, id};
        n++;
        i += k;
    }
    j->syms[n - 1].next = -1;
    j->n_sym = n;
    tok_merge_run(j, word, j->t->ranked ? tok_ranks_pair : spm_pair);
    for (int32_t i = 0; i >= 0; i = j->syms[i].next)
        emit(j, word, &j->syms[i]);
    tok_cache_put(j, hash, off, len, at);
}

void tok_spm_encode(struct tok_job *j, const char *s, size_t n, bool start)
{
    if (n == 0)
        return;
    size_t begin = j->norm.len;
    if (start && j->t->add_space)
        str_add(&j->norm, mark, sizeof mark);
    for (size_t i = 0; i < n;) {
        const char *space = memchr(s + i, ' ', n - i);
        size_t k = space ? (size_t)(space - (s + i)) : n - i;
        str_add(&j->norm, s + i, k);
        i += k;
        if (space) {
            str_add(&j->norm, mark, sizeof mark);
            i++;
        }
    }
    size_t end = j->norm.len, word = begin, i = begin;
    uint32_t before = 0, cp;
    while (i < end) {
        size_t k = (size_t)utf8_decode(j->norm.data + i, end - i, &cp);
        if (i > word && !pair_known(j->t, before, cp)) {
            encode_word(j, word, i - word);
            word = i;
        }
        before = cp;
        i += k;
    }
    encode_word(j, word, end - word);
}
