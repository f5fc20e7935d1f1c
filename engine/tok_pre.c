/* Pre-tokenizers of byte-level BPE: the patterns that models were trained with, by the name that
 * GGUF files give them (tokenizer.ggml.pre), run by PCRE2.
 *
 * A pre-tokenizer is a list of stages. Each stage cuts every piece of the stage before it into its
 * matches and what lies between them. Patterns are those of the models' tokenizer.json, changed
 * only where PCRE2 would need quadratic time or reads a construct differently. */
#include "engine/tok_impl.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

enum { STAGES = 6, JIT_STACK_MAX = 1 << 20 };

/* ---- patterns ---- */

#define ENGLISH "'(?:s|t|re|ve|m|ll|d)"
#define ENGLISH_ANY "'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define GPT2 ENGLISH "| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* Llama 3 and its descendants differ in how many digits go together. */
#define LLAMA3(digits)                                                                             \
    ENGLISH_ANY "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define QWEN35                                                                                     \
    ENGLISH_ANY "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}"                                    \
                "| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES

#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
/* Words that end where the case goes up. after: what may follow a word; digits as above. */
#define CASED(upper, lower, after)                                                                 \
    "[^\\r\\n\\p{L}\\p{N}]?" upper "*" lower "+" after "|[^\\r\\n\\p{L}\\p{N}]?" upper "+" lower   \
    "*" after
#define CASES(after, digits)                                                                       \
    CASED(UPPER, LOWER, after) "|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
/* Kimi's leave Chinese to words of its own: the script, not what else is written with it. */
#define NO_HAN(letter) "(?:(?!\\p{sc:Han})" letter ")"
#define KIMI                                                                                       \
    "\\p{sc:Han}+|" CASED(NO_HAN(UPPER), NO_HAN(LOWER), "(?:" ENGLISH_ANY ")?")                       \
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
/* Korean, punctuation of full width, Bopomofo, and Chinese with kana. */
#define YOUTU_WORDS                                                                                \
    "[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+"                                                    \
    "|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}\\x{FF1A}\\x{FF1B}\\x{FF0C}"   \
    "\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+"                               \
    "|[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"

#define DEEPSEEK3                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?"           \
    "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
#define HAN_KANA "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define CJK "[\\x{4E00}-\\x{9FA5}\\x{0800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"

/* Letters with case as DeepSeek LLM lists them: not quite \p{L&}. */
#define CASED_LETTERS                                                                              \
    "\\x{41}-\\x{5A}\\x{61}-\\x{7A}\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}"                          \
    "\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}"                          \
    "\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}"                           \
    "\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}"                 \
    "\\x{48A}-\\x{52F}\\x{531}-\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}"                     \
    "\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}"                 \
    "\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                 \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}"                  \
    "\\x{1F5D}\\x{1F5F}-\\x{1F7D}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}"                  \
    "\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}"                 \
    "\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                  \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212A}-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}"                           \
    "\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}"                            \
    "\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"                  \
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}"                 \
    "\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}"                 \
    "\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}"           \
    "\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"                              \
    "\\x{1E900}-\\x{1E943}"
#define WIDE_PUNCTUATION                                                                           \
    "!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}"
#define BLOOM " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{0964}\\x{06D4}\\x{060C})]+"

struct pattern {
    const char *names; /* separated by spaces */
    bool whole_words, add_bos;
    const char *stages[STAGES];
};

static const struct pattern patterns[] = {
    {"llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     true,
     true,
     {LLAMA3("\\p{N}{1,3}")}},
    {"dbrx smaug-bpe chatglm-bpe", false, false, {LLAMA3("\\p{N}{1,3}")}},
    {"glm4", true, false, {LLAMA3("\\p{N}{1,3}")}},
    {"qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez solar-open kormo grok-2 f2llmv2",
     false,
     false,
     {LLAMA3("\\p{N}")}},
    {"qwen35", false, false, {QWEN35}},
    {"minicpm5", true, false, {"\\p{N}{1,3}", LLAMA3("\\p{N}+")}},
    {"gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 mellum gigachat a.x-4.0 "
     "modern-bert roberta-bpe jina-es jina-de jina-v2-es jina-v2-de",
     false,
     false,
     {GPT2}},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
     false,
     false,
     {"\\p{N}", GPT2}},
    {"falcon", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"default", false, false, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    /* The look-behind keeps runs of spaces inside a text from being tried from each of them. */
    {"deepseek-llm",
     false,
     false,
     {"[\\r\\n]", "\\s?[" CASED_LETTERS "]+", "\\s?[" WIDE_PUNCTUATION "]+", "(?<!\\s)\\s+$", CJK,
      "\\p{N}+"}},
    {"deepseek-coder", false, false, {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", CJK, "\\p{N}"}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4",
     false,
     false,
     {"\\p{N}{1,3}", HAN_KANA, DEEPSEEK3}},
    {"tekken", true, true, {CASES("", "\\p{N}")}},
    {"gpt-4o llama4 kanana2 minimax-m2 talkie",
     false,
     false,
     {CASES("(?:" ENGLISH_ANY ")?", "\\p{N}{1,3}")}},
    {"kimi-k2", false, false, {KIMI}},
    {"youtu", true, false, {YOUTU_WORDS, CASES("(?:" ENGLISH_ANY ")?", "\\p{N}")}},
    {"bailingmoe bailingmoe2 llada-moe",
     false,
     false,
     {"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {"seed-coder",
     false,
     false,
     {ENGLISH_ANY "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
    {"poro-chat bloom gpt3-finnish", false, false, {BLOOM}},
    {"viking", false, false, {BLOOM, "\\p{N}"}},
};

/* ---- opening ---- */

struct tok_pre {
    int n_stage;
    bool jit;
    pcre2_code *stages[STAGES];
};

static bool in_list(const char *names, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = names; n > 0 && (p = strstr(p, name)); p += n)
        if ((p == names || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
            return true;
    return false;
}

enum status tok_pre_open(const char *name, struct tok_pre **ret, struct tok_pre_info *ret_info,
                         struct err *e)
{
    const struct pattern *found = NULL;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns && !found; i++)
        if (!strchr(name, ' ') && in_list(patterns[i].names, name))
            found = &patterns[i];
    if (!found)
        return err_set(e, ERR_UNSUPPORTED,
                       "vocabulary: the pre-tokenizer \"%.60s\" is not known to this version; "
                       "guessing would garble the text",
                       name);
    struct tok_pre *p = mem_calloc(1, sizeof *p);
    p->jit = true;
    for (; p->n_stage < STAGES && found->stages[p->n_stage]; p->n_stage++) {
        int code;
        PCRE2_SIZE at;
        pcre2_code *re =
            pcre2_compile((PCRE2_SPTR)found->stages[p->n_stage], PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
        if (!re) {
            err_set(e, ERR_INTERNAL, "pre-tokenizer \"%s\": pattern %d, error %d at %zu", name,
                    p->n_stage, code, (size_t)at);
            tok_pre_free(p);
            return ERR_INTERNAL;
        }
        p->stages[p->n_stage] = re;
        if (pcre2_jit_compile(re, PCRE2_JIT_COMPLETE) != 0)
            p->jit = false; /* the interpreter does the same, slower */
    }
    *ret = p;
    *ret_info = (struct tok_pre_info){found->whole_words, found->add_bos};
    return OK;
}

void tok_pre_free(struct tok_pre *p)
{
    if (!p)
        return;
    for (int i = 0; i < p->n_stage; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

/* ---- splitting ---- */

struct split {
    const struct tok_pre *p;
    const char *s;
    pcre2_match_data *match;
    pcre2_match_context *context;
    void (*word)(void *ctx, size_t off, size_t len);
    void *ctx;
    struct err *e;
};

static int match_next(const struct split *sp, int stage, const char *s, size_t n, size_t from)
{
    const pcre2_code *re = sp->p->stages[stage];
    if (sp->p->jit) {
        int rc = pcre2_jit_match(re, (PCRE2_SPTR)s, n, from, 0, sp->match, sp->context);
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT)
            return rc;
    }
    return pcre2_match(re, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, sp->match,
                       sp->context);
}

static enum status split_stage(const struct split *sp, int stage, size_t off, size_t len)
{
    if (len == 0)
        return OK;
    if (stage == sp->p->n_stage) {
        sp->word(sp->ctx, off, len);
        return OK;
    }
    const char *s = sp->s + off;
    size_t done = 0, from = 0;
    while (from < len) {
        int rc = match_next(sp, stage, s, len, from);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return err_set(sp->e, ERR_INTERNAL, "tokenizer: pattern matching failed (code %d)", rc);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(sp->match);
        size_t begin = at[0], end = at[1];
        if (end <= begin) { /* no pattern matches nothing; never loop should one do so */
            from = end + 1;
            continue;
        }
        TRY(split_stage(sp, stage + 1, off + done, begin - done));
        TRY(split_stage(sp, stage + 1, off + begin, end - begin));
        done = from = end;
    }
    return split_stage(sp, stage + 1, off + done, len - done);
}

enum status tok_pre_split(const struct tok_pre *p, struct tok_job *j, const char *s, size_t n,
                          void (*word)(void *ctx, size_t off, size_t len), void *ctx, struct err *e)
{
    if (!j->match) {
        j->match = pcre2_match_data_create(1, NULL);
        j->match_context = pcre2_match_context_create(NULL);
        if (!j->match || !j->match_context)
            return err_set(e, ERR_MEMORY, "tokenizer: no memory left for matching");
        if (p->jit) {
            j->jit_stack = pcre2_jit_stack_create(1 << 15, JIT_STACK_MAX, NULL);
            pcre2_jit_stack_assign(j->match_context, NULL, j->jit_stack);
        }
    }
    struct split sp = {p, s, j->match, j->match_context, word, ctx, e};
    /* The patterns are for UTF-8: bytes that are not are words of their own. */
    for (size_t i = 0; i < n;) {
        size_t begin = i;
        uint32_t cp;
        while (i < n) {
            int len = utf8_decode(s + i, n - i, &cp);
            if (len == 1 && (uint8_t)s[i] >= 0x80)
                break;
            i += (size_t)len;
        }
        TRY(split_stage(&sp, 0, begin, i - begin));
        begin = i;
        while (i < n && (uint8_t)s[i] >= 0x80 && utf8_decode(s + i, n - i, &cp) == 1)
            i++;
        if (i > begin)
            word(ctx, begin, i - begin);
    }
    return OK;
}

void tok_pre_job_fini(struct tok_job *j)
{
    pcre2_match_data_free(j->match);
    pcre2_match_context_free(j->match_context);
    pcre2_jit_stack_free(j->jit_stack);
}
