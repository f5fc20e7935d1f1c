/* Vocabulary: reading it from GGUF, lookups, special tokens, and the frame of encoding. */
#include "engine/tok_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "engine/base/mem.h"
#include "engine/gguf.h"

enum {
    SPECIAL_MAX = 256,   /* longest name of a special token that is looked for in text */
    TEXT_MAX = 64 << 20, /* longest text for one call */
    CACHE_FROM = 512,    /* shorter texts do without the cache of words */
};

/* Token types of the specification. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

/* ---- maps ---- */

static uint64_t map_hash(const char *s, size_t n)
{
    return XXH3_64bits(s, n);
}

static void map_init(struct tok_map *m, int32_t n)
{
    uint32_t n_cell = 16;
    while (n_cell < (uint32_t)n * 2u)
        n_cell *= 2;
    m->mask = n_cell - 1;
    m->cells = mem_alloc((size_t)n_cell * sizeof *m->cells);
    memset(m->cells, 0xff, (size_t)n_cell * sizeof *m->cells);
}

static struct tok_cell *map_cell(const struct tokenizer *t, const struct tok_map *m, const char *s,
                                 size_t n)
{
    uint64_t h = map_hash(s, n);
    uint32_t tag = (uint32_t)(h >> 32), i = (uint32_t)h & m->mask;
    for (;; i = (i + 1) & m->mask) {
        struct tok_cell *c = &m->cells[i];
        if (c->id < 0) {
            c->tag = tag;
            return c;
        }
        const struct tok_slice *k = &t->texts[c->id];
        if (c->tag == tag && k->len == n && memcmp(t->text + k->off, s, n) == 0)
            return c;
    }
}

static int32_t map_find(const struct tokenizer *t, const struct tok_map *m, const char *s, size_t n)
{
    uint64_t h = map_hash(s, n);
    uint32_t tag = (uint32_t)(h >> 32), i = (uint32_t)h & m->mask;
    for (; m->cells[i].id >= 0; i = (i + 1) & m->mask) {
        if (m->cells[i].tag != tag)
            continue;
        const struct tok_slice *k = &t->texts[m->cells[i].id];
        if (k->len == n && memcmp(t->text + k->off, s, n) == 0)
            return m->cells[i].id;
    }
    return -1;
}

int32_t tok_plain(const struct tokenizer *t, const char *s, size_t n)
{
    return n > t->text_max ? -1 : map_find(t, &t->plain, s, n);
}

/* ---- what names tell ---- */

/* Ends of turns and texts by the names that models give them: conversions often forget to mark
 * them. */
static const char *const end_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|eot|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
};
/* Names of the ends of a turn among them, best first. */
static const char *const turn_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|eot|>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
};
static const char *const control_names[] = {
    "<s>",
    "<bos>",
    "<pad>",
    "<unk>",
    "<start_of_turn>",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[THINK]",
    "[/THINK]",
    "<|turn>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<tool_response|>",
};

/* Gemma 4 has HTML's tags among its words. */
static const char *const html_names[] = {"<s>", "</s>"};

/* The text of an answer tells its thoughts by these: they are shown, also where a file calls them
 * control tokens. */
static const char *const thought_names[] = {"<think>", "</think>"};

static bool is_named(const char *s, size_t n, const char *const *names, size_t n_name)
{
    for (size_t i = 0; i < n_name; i++)
        if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0)
            return true;
    return false;
}
#define IS_NAMED(s, n, names) is_named(s, n, names, sizeof(names) / sizeof *(names))

/* <|anything_like_this|>, also with the full-width bars of DeepSeek. */
static bool looks_like_control(const char *s, size_t n)
{
    static const char wide[3] = {'\xef', '\xbd', '\x9c'};
    if (n < 5 || s[0] != '<' || s[n - 1] != '>')
        return false;
    if (n >= 9 && memcmp(s + 1, wide, 3) == 0 && memcmp(s + n - 4, wide, 3) == 0)
        return true;
    if (s[1] != '|' || s[n - 2] != '|')
        return false;
    for (size_t i = 2; i < n - 2; i++)
        if (s[i] == ' ' || s[i] == '|' || s[i] == '<' || s[i] == '>')
            return false;
    return true;
}

/* ---- trie of special tokens ---- */

static int32_t node_new(struct tokenizer *t, uint8_t byte)
{
    if ((t->n_node & (t->n_node - 1)) == 0) /* grows at powers of two */
        t->nodes =
            mem_realloc(t->nodes, (size_t)(t->n_node ? t->n_node * 2 : 1) * sizeof *t->nodes);
    t->nodes[t->n_node] = (struct tok_node){0, 0, -1, byte};
    return t->n_node++;
}

static int32_t node_child(const struct tokenizer *t, int32_t node, uint8_t byte)
{
    int32_t c = t->nodes[node].child;
    while (c && t->nodes[c].byte != byte)
        c = t->nodes[c].sibling;
    return c;
}

static void trie_add(struct tokenizer *t, int32_t id)
{
    const char *s = t->text + t->texts[id].off;
    uint32_t n = t->texts[id].len;
    if (n == 0 || n > SPECIAL_MAX)
        return;
    uint8_t first = (uint8_t)s[0];
    if (!t->node_first[first])
        t->node_first[first] = node_new(t, first);
    int32_t at = t->node_first[first];
    for (uint32_t i = 1; i < n; i++) {
        int32_t c = node_child(t, at, (uint8_t)s[i]);
        if (!c) {
            c = node_new(t, (uint8_t)s[i]);
            t->nodes[c].sibling = t->nodes[at].child;
            t->nodes[at].child = c;
        }
        at = c;
    }
    t->nodes[at].id = id;
}

/* Longest special token at s; control tokens only when they end within n_control bytes. */
static int32_t trie_match(const struct tokenizer *t, const char *s, size_t n, size_t n_control)
{
    int32_t best = -1, at = t->node_first[(uint8_t)s[0]];
    for (size_t i = 1; at; i++) {
        int32_t id = t->nodes[at].id;
        if (id >= 0 && (i <= n_control || !(t->flags[id] & TOK_CONTROL)))
            best = id;
        if (i >= n)
            break;
        at = node_child(t, at, (uint8_t)s[i]);
    }
    return best;
}

/* ---- opening ---- */

static enum status read_texts(struct tokenizer *t, const struct gguf_kv *kv, struct err *e)
{
    struct gguf_iter it = gguf_iter(kv);
    struct gguf_str s;
    uint64_t total = 0;
    int32_t id = 0;
    while (gguf_next(&it, &s)) {
        total += s.len;
        id++;
    }
    if (id != t->n_vocab || total > UINT32_MAX / 2)
        return err_set(e, ERR_FORMAT,
                       "vocabulary: %d of %d tokens with %llu bytes of text can be read; the file "
                       "is damaged",
                       id, t->n_vocab, (unsigned long long)total);
    t->text = mem_alloc(total + 1);
    t->texts = mem_calloc((size_t)t->n_vocab, sizeof *t->texts);
    uint32_t off = 0;
    it = gguf_iter(kv);
    for (id = 0; gguf_next(&it, &s); id++) {
        if (s.len)
            memcpy(t->text + off, s.s, s.len);
        t->texts[id] = (struct tok_slice){off, (uint32_t)s.len};
        off += (uint32_t)s.len;
    }
    t->text[off] = '\0';
    t->hash = XXH3_64bits(t->text, off);
    return OK;
}

/* An array of numbers that must be as long as the token list when it is there. */
static enum status get_array(const struct gguf *g, const char *key, int32_t n,
                             const struct gguf_kv **ret, struct err *e)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv && (kv->type != GGUF_ARRAY || kv->elem == GGUF_STR || kv->n != (uint64_t)n))
        return err_set(e, ERR_FORMAT,
                       "vocabulary: %s has %llu entries for %d tokens; the file is damaged", key,
                       kv->type == GGUF_ARRAY ? (unsigned long long)kv->n : 1ull, n);
    *ret = kv;
    return OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* "<0x0A>" */
static int byte_token(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    int hi = hex_digit(s[3]), lo = hex_digit(s[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

static void flag_token(struct tokenizer *t, int32_t id, int64_t type)
{
    const char *s = t->text + t->texts[id].off;
    size_t n = t->texts[id].len;
    uint8_t f = 0;
    if (type == TYPE_CONTROL || type == TYPE_UNKNOWN)
        f = TOK_CONTROL;
    else if (type == TYPE_BYTE || (t->kind == TOK_SPM && byte_token(s, n) >= 0))
        f = TOK_BYTE;
    else if (type == TYPE_USER)
        f = TOK_USER;
    bool word = t->ranked && IS_NAMED(s, n, html_names), end = !word && IS_NAMED(s, n, end_names);
    /* A token that a format uses must not be within reach of plain text, whatever its type says. */
    if (!(f & TOK_BYTE) && !word &&
        (end || looks_like_control(s, n) || IS_NAMED(s, n, control_names)))
        f = TOK_CONTROL;
    if (f == TOK_CONTROL && IS_NAMED(s, n, thought_names))
        f = TOK_USER;
    t->flags[id] = f | (end && (f & TOK_CONTROL) ? TOK_END : 0);
}

static enum status read_types(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    const struct gguf_kv *types = NULL, *scores = NULL;
    TRY(get_array(g, "tokenizer.ggml.token_type", t->n_vocab, &types, e));
    TRY(get_array(g, "tokenizer.ggml.scores", t->n_vocab, &scores, e));
    if (t->kind == TOK_SPM && !t->ranked && !scores)
        return err_set(e, ERR_FORMAT,
                       "vocabulary: tokenizer.ggml.scores is missing, without it a \"llama\" "
                       "vocabulary cannot be used; convert the model again");
    t->flags = mem_calloc((size_t)t->n_vocab, 1);
    t->scores = mem_calloc((size_t)t->n_vocab, sizeof *t->scores);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        int64_t type = TYPE_NORMAL;
        gguf_elem_i64(types, (uint64_t)id, &type);
        flag_token(t, id, type);
        float score = 0;
        gguf_elem_f32(scores, (uint64_t)id, &score);
        t->scores[id] = isnan(score) ? -INFINITY : score;
    }
    t->hash ^= XXH3_64bits(t->flags, (size_t)t->n_vocab) * 3;
    t->hash ^= XXH3_64bits(t->scores, (size_t)t->n_vocab * sizeof *t->scores) * 5;
    return OK;
}

static int32_t read_id(const struct tokenizer *t, const struct gguf *g, const char *key,
                       int32_t otherwise)
{
    int64_t id = otherwise;
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv && kv->type != GGUF_ARRAY)
        gguf_elem_i64(kv, 0, &id);
    return id >= 0 && id < t->n_vocab ? (int32_t)id : -1;
}

static void read_ids(struct tokenizer *t, const struct gguf *g)
{
    bool spm = t->kind == TOK_SPM && !t->ranked;
    struct tokenizer_ids *ids = &t->ids;
    ids->bos = read_id(t, g, "tokenizer.ggml.bos_token_id", spm ? 1 : -1);
    ids->eos = read_id(t, g, "tokenizer.ggml.eos_token_id", spm ? 2 : -1);
    ids->unk = read_id(t, g, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1);
    ids->eot = read_id(t, g, "tokenizer.ggml.eot_token_id", -1);
    gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &ids->add_bos);
    gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &ids->add_eos);
    ids->add_bos = ids->bos >= 0 && (ids->add_bos || t->ranked); /* some files of Gemma 4 say no */
    if (ids->eos < 0)
        ids->add_eos = false;
    for (size_t i = 0; i < sizeof turn_names / sizeof *turn_names && ids->eot < 0; i++)
        ids->eot = map_find(t, &t->marked, turn_names[i], strlen(turn_names[i]));
    if (ids->eos >= 0)
        t->flags[ids->eos] |= TOK_END;
    if (ids->eot >= 0)
        t->flags[ids->eot] |= TOK_END;
    /* Some files name the end of text here: text that cannot be encoded must not turn into it. */
    if (ids->unk >= 0 && (ids->unk == ids->bos || (t->flags[ids->unk] & TOK_END)))
        ids->unk = -1;
    /* The end of a text in a file without token types: marked by its number alone. */
    if (!gguf_find(g, "tokenizer.ggml.token_type")) {
        int32_t marks[] = {ids->bos, ids->eos, ids->unk, ids->eot};
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
            if (marks[i] >= 0)
                t->flags[marks[i]] = (t->flags[marks[i]] & TOK_END) | TOK_CONTROL;
    }
}

/* Replaces U+2581 by a space. Returns the bytes written. */
static uint32_t spm_piece(const char *s, uint32_t n, char *out)
{
    uint32_t k = 0;
    for (uint32_t i = 0; i < n;) {
        if (n - i >= 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0) {
            out[k++] = ' ';
            i += 3;
        } else {
            out[k++] = s[i++];
        }
    }
    return k;
}

/* Raw bytes of every token: never longer than the text. */
static void make_pieces(struct tokenizer *t)
{
    uint32_t total = 0;
    for (int32_t id = 0; id < t->n_vocab; id++)
        total += t->texts[id].len;
    t->piece = mem_alloc((size_t)total + 1);
    t->pieces = mem_calloc((size_t)t->n_vocab, sizeof *t->pieces);
    uint32_t off = 0;
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const char *s = t->text + t->texts[id].off;
        uint32_t n = t->texts[id].len, k;
        char *out = t->piece + off;
        int byte = t->flags[id] & TOK_BYTE ? byte_token(s, n) : -1;
        int64_t decoded = -1;
        if (byte >= 0) {
            *out = (char)byte;
            t->byte_id[byte] = id;
            k = 1;
        } else if (t->kind == TOK_SPM && !(t->flags[id] & TOK_CONTROL)) {
            k = spm_piece(s, n, out);
        } else {
            if (t->kind == TOK_BPE && !(t->flags[id] & (TOK_CONTROL | TOK_USER)))
                decoded = tok_bpe_bytes(s, n, out);
            if (decoded < 0 && n)
                memcpy(out, s, n);
            k = decoded < 0 ? n : (uint32_t)decoded;
        }
        t->pieces[id] = (struct tok_slice){off, k};
        off += k;
    }
}

static void make_maps(struct tokenizer *t)
{
    int32_t n_plain = 0;
    for (int32_t id = 0; id < t->n_vocab; id++)
        n_plain += !(t->flags[id] & (TOK_CONTROL | TOK_BYTE));
    map_init(&t->plain, n_plain);
    map_init(&t->marked, t->n_vocab - n_plain);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const struct tok_slice *s = &t->texts[id];
        bool plain = !(t->flags[id] & (TOK_CONTROL | TOK_BYTE));
        if (s->len == 0)
            continue;
        if (plain && s->len > t->text_max)
            t->text_max = s->len;
        /* Of tokens with the same text the last one counts. */
        map_cell(t, plain ? &t->plain : &t->marked, t->text + s->off, s->len)->id = id;
    }
}

/* Phi-3's special tokens swallow the white space behind them, as its own tokenizer has it. */
static void mark_strip(struct tokenizer *t, const struct gguf *g)
{
    struct gguf_str arch;
    if (t->kind != TOK_SPM || !gguf_get_str(g, "general.architecture", &arch) || arch.len != 4 ||
        memcmp(arch.s, "phi3", 4) != 0)
        return;
    static const char *const keep[] = {"<unk>", "<s>", "<|endoftext|>"};
    for (int32_t id = 0; id < t->n_vocab; id++) {
        const struct tok_slice *s = &t->texts[id];
        if ((t->flags[id] & TOK_CONTROL) && !IS_NAMED(t->text + s->off, s->len, keep))
            t->flags[id] |= TOK_RSTRIP;
    }
}

static enum status open_into(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str model = {0}, pre = {0};
    if (!gguf_get_str(g, "tokenizer.ggml.model", &model))
        return err_set(e, ERR_FORMAT,
                       "vocabulary: tokenizer.ggml.model is missing; is this a language model?");
    t->ranked = model.len == 6 && memcmp(model.s, "gemma4", 6) == 0;
    if (t->ranked || (model.len == 5 && memcmp(model.s, "llama", 5) == 0))
        t->kind = TOK_SPM;
    else if (model.len == 4 && memcmp(model.s, "gpt2", 4) == 0)
        t->kind = TOK_BPE;
    else
        return err_set(e, ERR_UNSUPPORTED,
                       "vocabulary: tokenizer kind \"%.*s\" is not supported (llama, gpt2 and "
                       "gemma4 are)",
                       model.len > 40 ? 40 : (int)model.len, model.s);

    const struct gguf_kv *tokens = gguf_find(g, "tokenizer.ggml.tokens");
    if (!tokens || tokens->type != GGUF_ARRAY || tokens->elem != GGUF_STR || tokens->n == 0)
        return err_set(e, ERR_FORMAT, "vocabulary: tokenizer.ggml.tokens is missing or empty");
    if (tokens->n > 1 << 24)
        return err_set(e, ERR_FORMAT, "vocabulary: %llu tokens, more than any model has",
                       (unsigned long long)tokens->n);
    t->n_vocab = (int32_t)tokens->n;
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    TRY(read_texts(t, tokens, e));
    TRY(read_types(t, g, e));
    make_maps(t);
    make_pieces(t);

    if (t->kind == TOK_BPE || t->ranked) {
        const struct gguf_kv *merges = gguf_find(g, "tokenizer.ggml.merges");
        if (!merges || merges->type != GGUF_ARRAY || merges->elem != GGUF_STR)
            return err_set(e, ERR_FORMAT,
                           "vocabulary: tokenizer.ggml.merges is missing, without it a \"%s\" "
                           "vocabulary cannot be used; convert the model again",
                           t->ranked ? "gemma4" : "gpt2");
        TRY(tok_ranks_open(t, merges, e));
    }
    if (t->kind == TOK_SPM) {
        snprintf(t->name, sizeof t->name, t->ranked ? "spm gemma4" : "spm");
        t->add_space = !t->ranked;
        if (t->add_space)
            gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space);
        t->ids.add_bos = true;
        tok_spm_open(t);
    } else {
        char name[64] = "default";
        if (gguf_get_str(g, "tokenizer.ggml.pre", &pre))
            snprintf(name, sizeof name, "%.*s", pre.len > 60 ? 60 : (int)pre.len,
                     pre.s ? pre.s : "");
        snprintf(t->name, sizeof t->name, "bpe %.58s", name);
        TRY(tok_bpe_open(t, name, e));
    }
    read_ids(t, g);
    mark_strip(t, g);
    node_new(t, 0); /* number 0 means none */
    for (int32_t id = 0; id < t->n_vocab; id++)
        if (t->flags[id] & (TOK_CONTROL | TOK_USER))
            trie_add(t, id);
    return OK;
}

enum status tokenizer_open(const struct gguf *g, struct tokenizer **ret, struct err *e)
{
    struct tokenizer *t = mem_calloc(1, sizeof *t);
    t->ids = (struct tokenizer_ids){-1, -1, -1, -1, false, false};
    enum status st = open_into(t, g, e);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    *ret = t;
    return OK;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    free(t->text);
    free(t->texts);
    free(t->piece);
    free(t->pieces);
    free(t->flags);
    free(t->scores);
    free(t->plain.cells);
    free(t->marked.cells);
    free(t->nodes);
    free(t->pairs);
    free(t->merges);
    tok_pre_free(t->pre);
    free(t);
}

/* ---- questions ---- */

static bool known(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_vocab;
}

int32_t tokenizer_n_vocab(const struct tokenizer *t)
{
    return t->n_vocab;
}

const struct tokenizer_ids *tokenizer_special(const struct tokenizer *t)
{
    return &t->ids;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return known(t, id) && (t->flags[id] & TOK_END);
}

bool tokenizer_is_control(const struct tokenizer *t, int32_t id)
{
    return known(t, id) && (t->flags[id] & TOK_CONTROL);
}

int32_t tokenizer_find(const struct tokenizer *t, const char *s, size_t n)
{
    int32_t id = map_find(t, &t->marked, s, n);
    return id >= 0 ? id : tok_plain(t, s, n);
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *ret_len)
{
    if (!known(t, id)) {
        *ret_len = 0;
        return NULL;
    }
    *ret_len = t->pieces[id].len;
    return t->piece + t->pieces[id].off;
}

uint64_t tokenizer_hash(const struct tokenizer *t)
{
    return t->hash;
}

/* ---- encoding ---- */

static enum status encode_plain(struct tok_job *j, size_t begin, size_t end, bool start,
                                struct err *e)
{
    if (begin >= end)
        return OK;
    if (j->t->kind == TOK_BPE)
        return tok_bpe_encode(j, j->text + begin, end - begin, e);
    tok_spm_encode(j, j->text + begin, end - begin, start);
    return OK;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static enum status encode_text(struct tok_job *j, size_t n, const struct tok_range *ranges,
                               size_t n_range, bool start, struct err *e)
{
    const struct tokenizer *t = j->t;
    const char *s = j->text;
    size_t from = 0, range = 0, i = 0;
    /* start: nothing stands before the text at hand, or a special token does */
    while (i < n) {
        if (!t->node_first[(uint8_t)s[i]]) {
            i++;
            continue;
        }
        while (range < n_range && ranges[range].end <= i)
            range++;
        size_t n_control = 0;
        if (range < n_range && ranges[range].begin <= i)
            n_control = (ranges[range].end < n ? ranges[range].end : n) - i;
        int32_t id = trie_match(t, s + i, n - i, n_control);
        if (id < 0) {
            i++;
            continue;
        }
        TRY(encode_plain(j, from, i, start, e));
        tok_list_add(j->out, id);
        i += t->texts[id].len;
        while (t->flags[id] & TOK_RSTRIP && i < n && is_space(s[i]))
            i++;
        from = i;
        start = true;
    }
    return encode_plain(j, from, n, start, e);
}

enum status tokenizer_encode_ranges(const struct tokenizer *t, const char *s, size_t n,
                                    const struct tok_range *ranges, size_t n_range, bool bos,
                                    int32_t before, struct tok_list *out, struct err *e)
{
    if (n > TEXT_MAX)
        return err_set(e, ERR_UNSUPPORTED, "text of %zu bytes; at most %d go in at once", n,
                       TEXT_MAX);
    struct tok_job j = {.t = t, .text = n ? s : "", .out = out};
    if (n >= CACHE_FROM)
        j.cache = mem_calloc((size_t)1 << TOK_CACHE_BITS, sizeof *j.cache);
    int32_t first = out->n;
    bool with_bos = bos && t->ids.add_bos;
    if (with_bos)
        tok_list_add(out, t->ids.bos);
    bool start = before < 0 || tokenizer_is_control(t, before);
    enum status st = encode_text(&j, n, ranges, n_range, start, e);
    if (st == OK && with_bos && out->n > first + 1 && out->ids[first + 1] == t->ids.bos) {
        /* The text brought its own. */
        memmove(out->ids + first + 1, out->ids + first + 2,
                (size_t)(out->n - first - 2) * sizeof *out->ids);
        out->n--;
    }
    if (st != OK)
        out->n = first;
    free(j.cache);
    free(j.syms);
    free(j.heap);
    str_fini(&j.norm);
    tok_pre_job_fini(&j);
    return st;
}

enum status tokenizer_encode(const struct tokenizer *t, const char *s, size_t n, bool parse_special,
                             bool bos, struct tok_list *out, struct err *e)
{
    struct tok_range all = {0, n};
    TRY(tokenizer_encode_ranges(t, s, n, &all, parse_special ? 1 : 0, bos, -1, out, e));
    if (bos && t->ids.add_eos && (out->n == 0 || out->ids[out->n - 1] != t->ids.eos))
        tok_list_add(out, t->ids.eos);
    return OK;
}

/* ---- decoding ---- */

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, int32_t n, bool special,
                      bool start, struct str *out)
{
    bool first = start && t->kind == TOK_SPM && t->add_space;
    for (int32_t i = 0; i < n; i++) {
        size_t len;
        const char *s = tokenizer_piece(t, ids[i], &len);
        if (tokenizer_is_control(t, ids[i])) {
            if (special)
                str_add(out, s, len);
            continue;
        }
        if (!s || len == 0)
            continue;
        bool drop = first && s[0] == ' ' && !(t->flags[ids[i]] & TOK_USER);
        str_add(out, s + drop, len - drop);
        first = false;
    }
}
