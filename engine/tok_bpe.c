/* Byte-level BPE (GPT-2 and most models since): a pre-tokenizer cuts the text into words, each word
 * starts as one symbol per byte, and neighbours are merged in the order of the merge list. Token
 * texts in the file use a printable alphabet of 256 characters for the bytes. Reference: Radford et
 * al. 2019. */
#include "engine/tok_impl.h"

#include "engine/base/utf8.h"

/* The alphabet: printable ASCII and Latin-1 stand for themselves, the other 68 bytes are numbered
 * upwards from U+0100. Returns the byte of a code point, -1 when it is not of the alphabet. */
static int alphabet_byte(uint32_t cp)
{
    if ((cp >= 0x21 && cp <= 0x7e) || (cp >= 0xa1 && cp <= 0xff && cp != 0xad))
        return (int)cp;
    if (cp >= 0x100 && cp < 0x100 + 33) /* 00..20 */
        return (int)(cp - 0x100);
    if (cp >= 0x121 && cp < 0x121 + 34) /* 7f..a0 */
        return (int)(cp - 0x121 + 0x7f);
    return cp == 0x143 ? 0xad : -1;
}

static uint32_t alphabet_char(int byte)
{
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad))
        return (uint32_t)byte;
    if (byte <= 0x20)
        return 0x100 + (uint32_t)byte;
    return byte == 0xad ? 0x143 : 0x121 + (uint32_t)byte - 0x7f;
}

int64_t tok_bpe_bytes(const char *text, size_t n, char *out)
{
    int64_t k = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += (size_t)utf8_decode(text + i, n - i, &cp);
        int byte = alphabet_byte(cp);
        if (byte < 0)
            return -1;
        out[k++] = (char)byte;
    }
    return k;
}

/* ---- opening ---- */

enum status tok_bpe_open(struct tokenizer *t, const char *pre, struct err *e)
{
    for (int b = 0; b < 256; b++) {
        char text[4];
        int n = utf8_encode(alphabet_char(b), text);
        t->byte_id[b] = tok_plain(t, text, (size_t)n);
    }
    struct tok_pre_info info;
    TRY(tok_pre_open(pre, &t->pre, &info, e));
    t->whole_words = info.whole_words;
    t->ids.add_bos = info.add_bos;
    return OK;
}

/* ---- encoding ---- */

/* The token whose text spells the word in the alphabet; -1 = none. */
static int32_t word_token(const struct tokenizer *t, const char *s, size_t n)
{
    char text[512];
    if (n * 2 > sizeof text)
        return -1;
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += (size_t)utf8_encode(alphabet_char((uint8_t)s[i]), text + k);
    return tok_plain(t, text, k);
}

struct words {
    struct tok_job *j;
    size_t begin; /* of the stretch of text in the whole */
};

static void encode_word(void *ctx, size_t off, size_t len)
{
    struct words *w = ctx;
    struct tok_job *j = w->j;
    const struct tokenizer *t = j->t;
    uint64_t hash = 0;
    off += w->begin;
    if (tok_cache_get(j, j->text, off, len, &hash))
        return;
    const char *word = j->text + off;
    int32_t at = j->out->n;
    int32_t whole = t->whole_words ? word_token(t, word, len) : -1;
    if (whole >= 0) {
        tok_list_add(j->out, whole);
        tok_cache_put(j, hash, off, len, at);
        return;
    }
    tok_job_symbols(j, len);
    for (size_t i = 0; i < len; i++)
        j->syms[i] = (struct tok_sym){(int32_t)i - 1, (int32_t)i + 1, (uint32_t)i, 1,
                                      t->byte_id[(uint8_t)word[i]]};
    j->syms[len - 1].next = -1;
    j->n_sym = (int32_t)len;
    tok_merge_run(j, word, tok_ranks_pair);
    for (int32_t i = 0; i >= 0; i = j->syms[i].next) {
        int32_t id = j->syms[i].id >= 0 ? j->syms[i].id : t->ids.unk;
        if (id >= 0) /* a vocabulary without this byte and without <unk> cannot say it */
            tok_list_add(j->out, id);
    }
    tok_cache_put(j, hash, off, len, at);
}

/* s lies inside j->text, so that equal words of the whole text are found in the cache. */
enum status tok_bpe_encode(struct tok_job *j, const char *s, size_t n, struct err *e)
{
    struct words w = {j, (size_t)(s - j->text)};
    return tok_pre_split(j->t->pre, j, s, n, encode_word, &w, e);
}
