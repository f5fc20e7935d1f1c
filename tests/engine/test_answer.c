/* Answers of models that mark their thoughts with tokens, with a small vocabulary of our own: what
 * is shown, where an answer ends, and what a later turn reads of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "engine/answer.h"
#include "tests/engine/vocab.h"

/* The harmony format's marks, Mistral's, ChatML's, those of thoughts, Gemma 4's; after them every
 * byte. */
static const char *const controls[] = {
    "<|start|>",  "<|channel|>", "<|message|>",      "<|end|>",          "<|return|>",
    "<|call|>",   "[THINK]",     "[/THINK]",         "[INST]",           "[/INST]",
    "</s>",       "<s>",         "[SYSTEM_PROMPT]",  "[/SYSTEM_PROMPT]", "<|im_start|>",
    "<|im_end|>", "<think>",     "</think>",         "<|turn>",          "<turn|>",
    "<|channel>", "<channel|>",  "<|tool_response>", "<|eom|>",          "<|eot|>",
};
enum { N_CONTROL = sizeof controls / sizeof *controls, N_VOCAB = N_CONTROL + 256, EOS = 10 };

static const char harmony[] = "<|start|><|channel|><|message|>strftime_now(\"%Y-%m-%d\")";
static const char muse[] =
    "{{- bos_token -}}knowledge_cutoff else '2026-01-04'strftime_now('%Y-%m-%d')<|start|><|message|># Valid recipients: ";
static const char mistral[] =
    "{{ bos_token }}{%- set default_system_message = 'Use [THINK] and [/THINK].' %}"
    "[SYSTEM_PROMPT][/SYSTEM_PROMPT][INST][/INST][THINK][/THINK]";
static const char chatml[] =
    "{{ '<|im_start|>user\\n' }}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}split('</think>')[-1].lstrip";
static const char qwen35_small[] =
    "{{- '<|im_start|>user\\n' }}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is true %}{{- '<think>\\n' }}"
    "{%- else %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}";
static const char lfm25[] =
    "{{- bos_token -}}{{- \"<|im_start|>\" + message.role + \"\\n\" -}}last_user_index"
    "{%- set content = content.split(\"</think>\")[-1] | trim -%}"
    "{%- if add_generation_prompt -%}{{- \"<|im_start|>assistant\\n<think>\" -}}{%- endif -%}";
static const char gemma4[] =
    "{{- bos_token -}}{{- '<|turn>' + role + '\\n' }}{{- '<turn|>\\n' -}}"
    "{%- if add_generation_prompt -%}{{- '<|turn>model\\n' -}}"
    "{%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}"
    "{%- endif -%}{%- endif -%}";

struct model {
    struct gguf *g;
    struct tokenizer *t;
    struct template *tp;
};

/* Code point of a byte in the alphabet of byte-level BPE, as UTF-8. */
static void byte_name(int byte, int *next, char *out)
{
    int cp = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad) ? byte : (*next)++;
    if (cp < 0x80)
        snprintf(out, 4, "%c", cp);
    else
        snprintf(out, 4, "%c%c", 0xc0 | cp >> 6, 0x80 | (cp & 63));
}

static struct model model_open_as(const char *source)
{
    static const char *const no_merges[] = {"a b"};
    struct vocab_file f = {0};
    struct model m = {0};
    struct err e;
    char bytes[256][4];
    const char *names[N_VOCAB];
    int32_t types[N_VOCAB];
    int next = 0x100;
    for (int i = 0; i < N_VOCAB; i++) {
        types[i] = i < N_CONTROL ? 3 : 1;
        names[i] = i < N_CONTROL ? controls[i] : bytes[i - N_CONTROL];
        if (i >= N_CONTROL)
            byte_name(i - N_CONTROL, &next, bytes[i - N_CONTROL]);
    }
    vocab_str(&f, "tokenizer.ggml.model", "gpt2");
    vocab_str(&f, "tokenizer.ggml.pre", "gpt-4o");
    vocab_strs(&f, "tokenizer.ggml.tokens", names, N_VOCAB);
    vocab_i32s(&f, "tokenizer.ggml.token_type", types, N_VOCAB);
    vocab_strs(&f, "tokenizer.ggml.merges", no_merges, 1);
    vocab_u32(&f, "tokenizer.ggml.eos_token_id", EOS);
    m.g = vocab_open(&f, &e);
    if (!m.g || tokenizer_open(m.g, &m.t, &e) != OK ||
        template_recognise(source, strlen(source), "<s>", "</s>", m.t, TEMPLATE_REASONING_AUTO, &m.tp, &e) != OK)
        fail_msg("%s", e.text);
    template_set_today(m.tp, "2025-01-15");
    return m;
}

static void model_close(struct model *m)
{
    template_free(m->tp);
    tokenizer_free(m->t);
    gguf_close(m->g);
}

static void add_marked(const struct model *m, struct tok_list *ids, const char *text)
{
    struct err e;
    assert_int_equal(tokenizer_encode(m->t, text, strlen(text), true, false, ids, &e), OK);
}

static void add_turn(const struct model *m, struct tok_list *path, const char *system,
                     const char *answer, const char *question)
{
    struct engine_message all[3];
    int32_t n = 0;
    struct err e;
    struct tok_list more = {0};
    if (system)
        all[n++] = (struct engine_message){"system", system, strlen(system)};
    if (answer)
        all[n++] = (struct engine_message){"assistant", answer, strlen(answer)};
    all[n++] = (struct engine_message){"user", question, strlen(question)};
    assert_int_equal(template_render(m->tp, path->ids, path->n, all, n, false, &more, &e), OK);
    for (int32_t i = 0; i < more.n; i++)
        tok_list_add(path, more.ids[i]);
    tok_list_fini(&more);
}

static void assert_ids(const struct model *m, const struct tok_list *ids, const char *want)
{
    struct str text = {0};
    tokenizer_decode(m->t, ids->ids, ids->n, true, false, &text);
    if (!strstr(str_c(&text), want) || strcmp(strstr(str_c(&text), want) + strlen(want), "") != 0)
        fail_msg("'%s' does not end with '%s'", str_c(&text), want);
    str_fini(&text);
}

/* Feeds what a model writes after the path, up to where it stops, and compares the text. The ids
 * stay in the path, as in a chat. */
static void assert_shown(const struct model *m, struct tok_list *path, bool fresh,
                         const char *written, const char *want)
{
    struct tok_list ids = {0};
    struct str text = {0};
    struct answer a;
    answer_init(&a, m->tp, m->t, path->ids, path->n, fresh);
    add_marked(m, &ids, written);
    for (int32_t i = 0; i < ids.n && !answer_is_over(&a, ids.ids[i]); i++) {
        answer_push(&a, ids.ids[i], &text);
        tok_list_add(path, ids.ids[i]);
    }
    answer_flush(&a, &text);
    if (strcmp(str_c(&text), want) != 0)
        fail_msg("%s:\n got: %s\nwant: %s", written, str_c(&text), want);
    tok_list_fini(&ids);
    str_fini(&text);
}

#define ANALYSIS "<|channel|>analysis<|message|>"
#define AGAIN "<|end|><|start|>assistant"
#define FINAL "<|channel|>final<|message|>"

static void answer__push__shows_the_thoughts_of_harmony(void **state)
{
    (void)state;
    static const struct {
        const char *written, *want;
    } cases[] = {
        {ANALYSIS "Hm \xf0\x9f\x99\x82" AGAIN FINAL "4.<|return|>x",
         "<think>Hm \xf0\x9f\x99\x82</think>4."},
        {FINAL "4.<|return|>", "4."},
        {ANALYSIS "Hm", "<think>Hm"},
        {ANALYSIS "\xf0\x9f" AGAIN FINAL "4", "<think>\xef\xbf\xbd\xef\xbf\xbd</think>4"},
        {ANALYSIS "a" AGAIN ANALYSIS "b" AGAIN FINAL "c", "<think>a\n\nb</think>c"},
        {ANALYSIS "a" AGAIN "<|channel|>commentary<|message|>b" AGAIN FINAL "c",
         "<think>a</think>b\n\nc"},
        {ANALYSIS "a" AGAIN "<|channel|>commentary to=functions.find json<|message|>{}<|call|>x",
         "<think>a</think>{}"},
        {"<|message|>plain<|return|>", "plain"},
        {"no marks at all<|return|>", "no marks at all"},
        {ANALYSIS "a" AGAIN FINAL "4.<|end|><|start|>user<|message|>And?", "<think>a</think>4."},
        {"<|return|>", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = model_open_as(harmony);
        struct tok_list path = {0};
        assert_string_equal(template_name(m.tp), "gpt-oss");
        add_turn(&m, &path, "Count.", NULL, "2+2?");
        assert_shown(&m, &path, true, cases[i].written, cases[i].want);
        tok_list_fini(&path);
        model_close(&m);
    }
}

/* Muse Glimmer names for whom a part is, the first one's right after the head of an answer. */
static void answer__push__shows_the_thoughts_of_muse(void **state)
{
    (void)state;
#define NEXT "<|eom|><|start|>assistant"
    static const struct {
        const char *written, *want;
    } cases[] = {
        {" to=self<|message|>Hm." NEXT " to=user<|message|>4.<|eot|>x", "<think>Hm.</think>4."},
        {" to=user<|message|>4.<|eot|>", "4."},
        {" to=self<|message|>a" NEXT " to=self<|message|>b" NEXT " to=user<|message|>c<|eom|>x",
         "<think>a\n\nb</think>c"},
        {" to=clock.now<|message|>{}" NEXT " to=user<|message|>Noon.<|eot|>", "{}\n\nNoon."},
        {" too bad: no name<|eot|>", " too bad: no name"},
        {"<|message|>plain<|eot|>", "plain"},
        {"<|eot|>", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = model_open_as(muse);
        struct tok_list path = {0};
        assert_string_equal(template_name(m.tp), "muse");
        add_turn(&m, &path, "Count.", NULL, "2+2?");
        assert_ids(&m, &path,
                   "<s><|start|>system<|message|>Count.\n\nReasoning strength: high.\n\n"
                   "# Valid recipients: \"self\", \"user\".<|eot|><|start|>user<|message|>2+2?<|eot|>"
                   "<|start|>assistant");
        assert_shown(&m, &path, true, cases[i].written, cases[i].want);
        if (i == 0) { /* cut off, it goes on; the next turn follows what was written */
            assert_shown(&m, &path, false, "0", "0");
            add_turn(&m, &path, NULL, NULL, "Sure?");
            assert_ids(&m, &path, " to=user<|message|>4.0<|eot|><|start|>user<|message|>Sure?<|eot|><|start|>assistant");
        }
        tok_list_fini(&path);
        model_close(&m);
    }
    struct model m = model_open_as(muse);
    struct tok_list path = {0};
    add_turn(&m, &path, NULL, "<think>a</think>4.", "And?");
    assert_ids(&m, &path,
               "<s><|start|>system<|message|>You are a helpful AI assistant.\nKnowledge cutoff: 2026-01-04.\n"
               "Current date: 2025-01-15.\n\nReasoning strength: high.\n\n# Valid recipients: \"self\", \"user\"."
               "<|eot|><|start|>assistant to=user<|message|>4.<|eot|><|start|>user<|message|>And?<|eot|>"
               "<|start|>assistant");
    tok_list_fini(&path);
    model_close(&m);
#undef NEXT
}

/* What is fed of an old answer whose ids are not there. */
static void answer__text__only_the_thoughts_before_it_are_dropped(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *fed;
    } cases[] = {
        {"<think>a</think>4.", "4."},
        {"Write <think> and </think> tags.", "Write <think> and </think> tags."},
        {"<think>a</think>First. </think> is a tag.", "First. </think> is a tag."},
        {"<think>cut off", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = model_open_as(harmony);
        struct tok_list path = {0};
        struct str want = {0};
        add_turn(&m, &path, NULL, cases[i].answer, "And?");
        str_addf(&want, "<|start|>assistant" FINAL "%s<|end|><|start|>user<|message|>And?"
                        "<|end|><|start|>assistant", cases[i].fed);
        assert_ids(&m, &path, str_c(&want));
        str_fini(&want);
        tok_list_fini(&path);
        model_close(&m);
    }
}

static void answer__push__shows_the_thoughts_of_mistral(void **state)
{
    (void)state;
    struct model m = model_open_as(mistral);
    struct tok_list path = {0};
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_ids(&m, &path, "[/SYSTEM_PROMPT][INST]2+2?[/INST]");
    /* The template's own text has the tokens, not their names. */
    assert_int_equal(path.ids[path.n - 1], tokenizer_find(m.t, "[/INST]", 7));
    int32_t n = 0;
    for (int32_t i = 0; i < path.n; i++)
        n += template_mark(m.tp, path.ids[i]) != TEMPLATE_TEXT;
    assert_int_equal(n, 2);
    assert_shown(&m, &path, true, "[THINK]Hm.[/THINK]4.</s>", "<think>Hm.</think>4.");
    add_turn(&m, &path, NULL, NULL, "Sure?");
    assert_ids(&m, &path, "[INST]2+2?[/INST][THINK]Hm.[/THINK]4.</s>[INST]Sure?[/INST]");
    assert_shown(&m, &path, true, "Yes.</s>", "Yes.");
    tok_list_fini(&path);
    model_close(&m);
}

/* What the head of an answer began, the model does not write. */
static void answer__push__opens_thoughts_that_the_head_began(void **state)
{
    (void)state;
    struct model m = model_open_as(chatml);
    struct tok_list path = {0};
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_ids(&m, &path, "<|im_start|>assistant\n<think>\n");
    int32_t n = path.n;
    assert_shown(&m, &path, true, "Hm.</think>4.<|im_end|>", "<think>Hm.</think>4.");
    assert_shown(&m, &path, false, "00", "00");
    path.n = n; /* once more, with nothing to render */
    assert_shown(&m, &path, false, "Or 5?", "<think>Or 5?");
    tok_list_fini(&path);
    model_close(&m);
}

/* Heads of LFM 2.5 and of the small Qwen 3.5, and what the next turn follows: the thoughts as they
 * were written, bos once. */
static void answer__push__thoughts_of_lfm_and_qwen(void **state)
{
    (void)state;
    struct model m = model_open_as(lfm25);
    struct tok_list path = {0};
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_ids(&m, &path, "<s><|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n<think>");
    int32_t n = path.n;
    assert_shown(&m, &path, true, "Hm.</think>4.<|im_end|>", "<think>Hm.</think>4.");
    add_turn(&m, &path, NULL, NULL, "Sure?");
    assert_ids(&m, &path,
               "assistant\n<think>Hm.</think>4.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
               "<|im_start|>assistant\n<think>");
    assert_int_equal(path.ids[0], tokenizer_find(m.t, "<s>", 3));
    assert_int_equal(path.ids[n - 1], tokenizer_find(m.t, "<think>", 7));
    assert_shown(&m, &path, true, "Still", "<think>Still");
    assert_shown(&m, &path, false, ".</think>Yes.<|im_end|>", ".</think>Yes.");
    model_close(&m);

    m = model_open_as(qwen35_small);
    path.n = 0;
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_ids(&m, &path, "<|im_start|>assistant\n<think>\n\n</think>\n\n");
    assert_shown(&m, &path, true, "4.<|im_end|>", "4.");
    add_turn(&m, &path, NULL, NULL, "Sure?");
    assert_ids(&m, &path,
               "</think>\n\n4.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
               "<|im_start|>assistant\n<think>\n\n</think>\n\n");
    tok_list_fini(&path);
    model_close(&m);
}

/* Gemma 4 names its thoughts in a line of their own, which is not shown. */
static void answer__push__shows_the_thoughts_of_gemma4(void **state)
{
    (void)state;
#define THOUGHT "<|channel>thought\n"
    static const struct {
        const char *written, *want;
    } cases[] = {
        {"4.<turn|>x", "4."},
        {THOUGHT "Hm.\nSo.\n<channel|>4.<turn|>", "<think>Hm.\nSo.\n</think>4."},
        {THOUGHT "Hm", "<think>Hm"},
        {THOUGHT "<channel|>4", "<think></think>4"},
        {"<|channel>thought<channel|>4", "<think></think>4"},
        {THOUGHT "a<channel|>b" THOUGHT "c<channel|>d", "<think>a</think>b<think>c</think>d"},
        {"<channel|>4", "4"},
        {"call:find{}<|tool_response>x", "call:find{}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model m = model_open_as(gemma4);
        struct tok_list path = {0};
        add_turn(&m, &path, "Count.", NULL, "2+2?<turn|>");
        assert_ids(&m, &path,
                   "<|turn>system\nCount.<turn|>\n<|turn>user\n2+2?<turn|><turn|>\n<|turn>model\n"
                   "<|channel>thought\n<channel|>");
        assert_shown(&m, &path, true, cases[i].written, cases[i].want);
        tok_list_fini(&path);
        model_close(&m);
    }
    /* Cut off in the name and gone on with; what it wrote stays as it is for the next turn. */
    struct model m = model_open_as(gemma4);
    struct tok_list path = {0};
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_shown(&m, &path, false, "<|channel>thou", "<think>");
    assert_shown(&m, &path, false, "ght\nHm.<channel|>4.", "Hm.</think>4.");
    assert_shown(&m, &path, false, "0<turn|>", "0");
    add_turn(&m, &path, NULL, NULL, "Sure?");
    assert_ids(&m, &path,
               THOUGHT "Hm.<channel|>4.0<turn|>\n<|turn>user\nSure?<turn|>\n<|turn>model\n" THOUGHT
                       "<channel|>");
    assert_shown(&m, &path, true, "Yes.<turn|>", "Yes.");
    tok_list_fini(&path);
    model_close(&m);
#undef THOUGHT
}

/* The ids of an answer stay as the model wrote them; a text that comes from elsewhere goes in
 * without its thoughts. */
static void answer__path__keeps_thoughts_that_it_has(void **state)
{
    (void)state;
    struct model m = model_open_as(harmony);
    struct tok_list path = {0}, other = {0};
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_shown(&m, &path, true, ANALYSIS "Hm" AGAIN FINAL "4.<|return|>", "<think>Hm</think>4.");
    add_turn(&m, &path, NULL, NULL, "Sure?");
    assert_ids(&m, &path,
               ANALYSIS "Hm" AGAIN FINAL "4.<|end|><|start|>user<|message|>Sure?<|end|>"
                        "<|start|>assistant");
    assert_shown(&m, &path, true, ANALYSIS "Hm", "<think>Hm");
    assert_shown(&m, &path, false, "m" AGAIN FINAL "Yes", "m</think>Yes");
    add_turn(&m, &other, NULL, "<think>Hm</think>4.", "Sure?");
    assert_ids(&m, &other,
               "<|start|>assistant" FINAL "4.<|end|><|start|>user<|message|>Sure?<|end|>"
               "<|start|>assistant");
    model_close(&m);

    m = model_open_as(mistral);
    other.n = 0;
    add_turn(&m, &other, NULL, "<think>Hm</think>4.", "[THINK]");
    assert_ids(&m, &other, "[/SYSTEM_PROMPT]4.</s>[INST][THINK][/INST]");
    int32_t n = 0;
    for (int32_t i = 0; i < other.n; i++)
        n += template_mark(m.tp, other.ids[i]) != TEMPLATE_TEXT;
    assert_int_equal(n, 2); /* the template's own: a text makes no tokens */
    /* Cut off in its thoughts, an answer does not leave them open for the next. */
    path.n = 0;
    add_turn(&m, &path, NULL, NULL, "2+2?");
    assert_shown(&m, &path, true, "[THINK]Hm", "<think>Hm");
    add_turn(&m, &path, NULL, NULL, "So?");
    assert_shown(&m, &path, true, "4", "4");
    assert_shown(&m, &path, false, ".[THINK]", ".<think>");
    tok_list_fini(&path);
    tok_list_fini(&other);
    model_close(&m);
}

static void answer__stop__only_where_the_answer_ends(void **state)
{
    (void)state;
    struct model m = model_open_as(harmony);
    assert_false(template_is_stop(m.tp, tokenizer_find(m.t, "<|end|>", 7)));
    assert_true(template_is_stop(m.tp, tokenizer_find(m.t, "<|return|>", 10)));
    assert_true(template_is_stop(m.tp, tokenizer_find(m.t, "<|call|>", 8)));
    assert_int_equal(template_mark(m.tp, -1), TEMPLATE_TEXT);
    assert_int_equal(template_mark(m.tp, INT32_MAX), TEMPLATE_TEXT);
    model_close(&m);
    m = model_open_as(mistral);
    assert_true(template_is_stop(m.tp, tokenizer_find(m.t, "<|end|>", 7)));
    assert_true(template_is_stop(m.tp, EOS));
    /* Without a format the marks are control tokens like others. */
    struct tok_list ids = {0};
    struct str text = {0};
    struct answer a;
    add_marked(&m, &ids, "[THINK]Hm[/THINK]4");
    answer_init(&a, NULL, m.t, ids.ids, ids.n, false);
    for (int32_t i = 0; i < ids.n; i++)
        answer_push(&a, ids.ids[i], &text);
    assert_string_equal(str_c(&text), "Hm4");
    str_fini(&text);
    tok_list_fini(&ids);
    model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answer__push__shows_the_thoughts_of_harmony),
        cmocka_unit_test(answer__push__shows_the_thoughts_of_muse),
        cmocka_unit_test(answer__push__shows_the_thoughts_of_mistral),
        cmocka_unit_test(answer__text__only_the_thoughts_before_it_are_dropped),
        cmocka_unit_test(answer__push__opens_thoughts_that_the_head_began),
        cmocka_unit_test(answer__push__thoughts_of_lfm_and_qwen),
        cmocka_unit_test(answer__push__shows_the_thoughts_of_gemma4),
        cmocka_unit_test(answer__path__keeps_thoughts_that_it_has),
        cmocka_unit_test(answer__stop__only_where_the_answer_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
