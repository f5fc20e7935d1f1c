/* Chat formats of models that think: how an answer begins, what stays of old answers' thoughts, and the
 * switch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "engine/template.h"

/* What Qwen's templates have in common, in their words but without tools and pictures. */
#define QWEN_HEAD(condition, then, otherwise)                                                      \
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\n"                           \
    "{%- if " condition " %}{{- '" then "' }}{%- else %}{{- '" otherwise "' }}{%- endif %}\n"      \
    "{%- endif %}"
#define QWEN_SOURCE(last)                                                                          \
    "{{- '<|im_start|>system\\n' + content + '<|im_end|>\\n' }}"                                   \
    "{%- set ns = namespace(last_query_index=messages|length - 1) %}"                              \
    "{%- set content = render_content(message.content, true)|trim %}"                              \
    "{%- if " last " %}{{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content + " \
    "'\\n</think>\\n\\n' + content }}{%- endif %}{{- '<|im_end|>\\n' }}"
#define QWEN_OFF "<think>\\n\\n</think>\\n\\n"
#define QWEN_LAST "loop.index0 > ns.last_query_index"
#define QWEN36_LAST                                                                                \
    "(preserve_thinking is defined and preserve_thinking is true) or (" QWEN_LAST ")"
#define QWEN38_LAST "preserve_thinking is undefined or preserve_thinking is true or " QWEN_LAST
#define QWEN38_EFFORT                                                                              \
    "{%- if enable_thinking is undefined or enable_thinking is true %}"                            \
    "{%- set resolved_reasoning_effort = reasoning_effort|default('xhigh') %}"                     \
    "{%- if resolved_reasoning_effort == 'xhigh' %}"                                               \
    "{%- set reasoning_instructions = 'Take care.' %}"                                             \
    "{%- elif resolved_reasoning_effort == 'low' %}"                                               \
    "{%- set reasoning_instructions = 'Be quick.' %}{%- endif %}{%- endif %}"
#define IF_OFF "enable_thinking is defined and enable_thinking is false"
#define IF_ON "enable_thinking is defined and enable_thinking is true"
#define QWEN_THINKS QWEN_HEAD(IF_OFF, QWEN_OFF, "<think>\\n")
#define QWEN_RESTS QWEN_HEAD(IF_ON, "<think>\\n", QWEN_OFF)

#define LFM_START                                                                                  \
    "{{- bos_token -}}{{- \"<|im_start|>system\\n\" + ns.system_prompt + \"<|im_end|>\\n\" -}}"    \
    "{{- \"<|im_start|>\" + message[\"role\"] + \"\\n\" -}}"
#define LFM_END(head)                                                                              \
    "{{- content + \"<|im_end|>\\n\" -}}{%- if add_generation_prompt -%}\n    {{- \"" head         \
    "\" -}}\n{%- endif -%}"
#define LFM_DROP(unless)                                                                           \
    "{%- if not (keep or loop.index0 " unless ") -%}{%- if \"</think>\" in content -%}"            \
    "{%- set content = content.split(\"</think>\")[-1] | trim -%}{%- endif -%}{%- endif -%}"
#define ANSWERS "<|im_start|>assistant\\n"

/* Renderings of one conversation, checked against the published templates run by Jinja. */
static void template__text__models_that_think(void **state)
{
    (void)state;
#define OPEN "<|im_start|>assistant\n"
#define CLOSE "<|im_end|>\n"
#define ASKED(text) "<|im_start|>user\n" text CLOSE
    struct engine_message chat[] = {
        {"system", " Be kind.\n", 0},
        {"user", "Hi ", 0},
        {"assistant", "<think>\n hm\n</think>\n\n Hello ", 0},
        {"user", "Well?", 0},
        {"assistant", "<think>\nho\n</think>\n\nYes", 0},
        {"user", "Bye", 0},
    };
    for (size_t i = 0; i < sizeof chat / sizeof *chat; i++)
        chat[i].len = strlen(chat[i].text);
    static const struct {
        const char *source, *first, *later, *ended, *generate;
        bool thinking;
    } cases[] = {
        /* Qwen 3.5, large and small; 3.6 */
        {QWEN_SOURCE(QWEN_LAST) QWEN_THINKS, "<|im_start|>system\nBe kind." CLOSE ASKED("Hi"),
         OPEN " Hello" CLOSE ASKED("Well?") OPEN "Yes" CLOSE ASKED("Bye"),
         ASKED("Well?") OPEN "<think>\nho\n</think>\n\nYes" CLOSE, OPEN "<think>\n", true},
        {QWEN_SOURCE(QWEN_LAST) QWEN_RESTS, "<|im_start|>system\nBe kind." CLOSE ASKED("Hi"), NULL,
         NULL, OPEN "<think>\n\n</think>\n\n", false},
        {QWEN_SOURCE(QWEN36_LAST) QWEN_THINKS, NULL,
         OPEN " Hello" CLOSE ASKED("Well?") OPEN "Yes" CLOSE ASKED("Bye"), NULL, OPEN "<think>\n",
         true},
        /* Qwen 3.8 remembers all its thoughts */
        {QWEN38_EFFORT QWEN_SOURCE(QWEN38_LAST) QWEN_THINKS,
         "<|im_start|>system\nTake care.\n\nBe kind." CLOSE ASKED("Hi"),
         OPEN "<think>\nhm\n</think>\n\nHello" CLOSE ASKED("Well?") OPEN
         "<think>\nho\n</think>\n\nYes" CLOSE ASKED("Bye"),
         NULL, OPEN "<think>\n", true},
        /* LFM2 knows no thoughts; 2.5 forgets those of all answers but the last, or before the last
         * question, or begins each answer with them */
        {LFM_START LFM_END(ANSWERS), "<s><|im_start|>system\n Be kind.\n" CLOSE ASKED("Hi "),
         OPEN "<think>\n hm\n</think>\n\n Hello " CLOSE ASKED("Well?") OPEN
         "<think>\nho\n</think>\n\nYes" CLOSE ASKED("Bye"),
         NULL, OPEN, false},
        {LFM_START LFM_DROP("== ns.last_assistant_index") LFM_END(ANSWERS),
         "<s><|im_start|>system\n Be kind.\n" CLOSE ASKED("Hi "),
         OPEN "Hello" CLOSE ASKED("Well?") OPEN "<think>\nho\n</think>\n\nYes" CLOSE ASKED("Bye"),
         NULL, OPEN, false},
        {LFM_START LFM_DROP("> ns.last_user_index") LFM_END(ANSWERS), NULL,
         OPEN "Hello" CLOSE ASKED("Well?") OPEN "Yes" CLOSE ASKED("Bye"),
         ASKED("Well?") OPEN "<think>\nho\n</think>\n\nYes" CLOSE, OPEN, false},
        {LFM_START LFM_DROP("> ns.last_user_index") LFM_END(ANSWERS "<think>"), NULL, NULL, NULL,
         OPEN "<think>", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct template *tp;
        struct err e;
        const struct {
            int from, n;
            bool first, generate;
            const char *want, *tail;
        } parts[] = {
            {0, 2, true, true, cases[i].first, cases[i].generate},
            {2, 4, false, true, cases[i].later, cases[i].generate},
            {3, 2, false, false, cases[i].ended, ""},
        };
        const char *source = cases[i].source;
        assert_int_equal(template_recognise(source, strlen(source), "<s>", "</s>", NULL, TEMPLATE_REASONING_AUTO, &tp, &e),
                         OK);
        assert_string_equal(template_name(tp), "chatml");
        assert_int_equal(template_begins_thinking(tp), cases[i].thinking);
        for (int k = 0; k < 3; k++) {
            struct str out = {0}, want = {0};
            if (!parts[k].want)
                continue;
            str_addf(&want, "%s%s", parts[k].want, parts[k].tail);
            assert_int_equal(template_text(tp, parts[k].first, chat + parts[k].from, parts[k].n,
                                           parts[k].generate, &out, NULL, NULL, &e),
                             OK);
            if (strcmp(str_c(&out), str_c(&want)) != 0)
                fail_msg("case %zu, part %d:\n got: %s\nwant: %s", i, k, str_c(&out), str_c(&want));
            str_fini(&out);
            str_fini(&want);
        }
        template_free(tp);
    }
}

/* Every way in which a template says whether a model thinks where nobody asks it to. */
static void template__text__thinks_as_the_template_says(void **state)
{
    (void)state;
    static const struct {
        const char *source;
        bool thinking;
    } cases[] = {
        {QWEN_THINKS, true},
        {QWEN_RESTS, false},
        {QWEN_HEAD("enable_thinking is not defined or enable_thinking is true", "<think>\\n",
                   QWEN_OFF),
         true},
        {QWEN_HEAD("not enable_thinking", QWEN_OFF, "<think>\\n"), false},
        {QWEN_HEAD("force_thinking is defined and force_thinking is true", "<think>\\n", QWEN_OFF),
         false},
        {"{%- set enable_thinking = false -%}\n" QWEN_THINKS, false},
        {"{%- set enable_thinking = true -%}\n" QWEN_RESTS, true},
        {"{%- set enable_thinking = enable_thinking if enable_thinking is defined else true "
         "%}" QWEN_RESTS,
         true},
        {"{%- set enable_thinking = enable_thinking if enable_thinking is defined else false "
         "%}" QWEN_THINKS,
         false},
        {"{%- set enable_thinking = enable_thinking | default(false) %}" QWEN_THINKS, false},
        {"{%- if '/no_think' in text %}{%- set enable_thinking = false %}{%- endif %}" QWEN_THINKS,
         true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct template *tp;
        struct err e;
        struct str out = {0};
        const char *source = cases[i].source;
        assert_int_equal(template_recognise(source, strlen(source), "", "", NULL, TEMPLATE_REASONING_AUTO, &tp, &e), OK);
        assert_int_equal(template_text(tp, true, NULL, 0, true, &out, NULL, NULL, &e), OK);
        const char *want = cases[i].thinking ? OPEN "<think>\n" : OPEN "<think>\n\n</think>\n\n";
        if (strcmp(str_c(&out), want) != 0)
            fail_msg("%s:\n got: %s", source, str_c(&out));
        assert_int_equal(template_begins_thinking(tp), cases[i].thinking);
        str_fini(&out);
        template_free(tp);
    }
#undef OPEN
#undef CLOSE
#undef ASKED
}

/* Gemma 4, in the words of its templates: whether it thinks, and how that is said, which differs
 * with its sizes. Its thoughts are dropped. */
static void template__text__gemma4(void **state)
{
    (void)state;
#define GEMMA_START(think)                                                                         \
    "{%- if enable_thinking is defined and enable_thinking -%}{{- '<|think|>" think "' -}}"        \
    "{%- endif -%}{{- '<|turn>' + role + '\\n' }}{{- '<turn|>\\n' -}}{{- bos_token -}}"            \
    "{%- if add_generation_prompt -%}"                                                             \
    "{%- if ns.prev_message_type != 'tool_response' -%}{{- '<|turn>model\\n' -}}"
#define GEMMA_LARGE                                                                                \
    GEMMA_START("\\n")                                                                             \
    "{%- if not enable_thinking | default(false) -%}{{- '<|channel>thought\\n<channel|>' -}}"      \
    "{%- endif -%}{%- endif -%}{%- endif -%}"
#define GEMMA_SMALL GEMMA_START("\\n") "{%- endif -%}{%- endif -%}"
#define ON "{%- set enable_thinking = true -%}\n"
#define DEFAULT_OFF "{%- set enable_thinking = enable_thinking | default(false) -%}\n"
    static const struct engine_message chat[] = {
        {"system", " Be kind.\n", 10},
        {"user", "Hi <turn|>", 10},
        {"assistant", "\n<think>hm\n</think>\nWrite </think>.", 35},
        {"user", "Bye", 3},
    };
    static const struct {
        const char *source, *lead, *own, *head;
    } cases[] = {
        {GEMMA_LARGE, "", "", "<|channel>thought\n<channel|>"},
        {GEMMA_SMALL, "", "", ""},
        {DEFAULT_OFF GEMMA_SMALL, "", "", ""},
        {ON GEMMA_LARGE, "<|think|>\n", "<|turn>system\n<|think|>\n<turn|>\n", ""},
        {ON DEFAULT_OFF GEMMA_SMALL, "<|think|>\n", "<|turn>system\n<|think|>\n<turn|>\n", ""},
        {ON GEMMA_START(""), "<|think|>", "<|turn>system\n<|think|><turn|>\n", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct template *tp;
        struct err e;
        struct str out = {0}, want = {0};
        const char *source = cases[i].source;
        assert_int_equal(
            template_recognise(source, strlen(source), "<bos>", "<eos>", NULL, TEMPLATE_REASONING_AUTO, &tp, &e), OK);
        assert_string_equal(template_name(tp), "gemma4");
        assert_false(template_begins_thinking(tp));
        assert_int_equal(template_text(tp, true, chat, 4, true, &out, NULL, NULL, &e), OK);
        str_addf(&want,
                 "<bos><|turn>system\n%sBe kind.<turn|>\n<|turn>user\nHi <turn|><turn|>\n"
                 "<|turn>model\nWrite </think>.<turn|>\n<|turn>user\nBye<turn|>\n<|turn>model\n%s",
                 cases[i].lead, cases[i].head);
        assert_string_equal(str_c(&out), str_c(&want));
        str_clear(&out);
        str_clear(&want);
        assert_int_equal(template_text(tp, true, chat + 3, 1, false, &out, NULL, NULL, &e), OK);
        str_addf(&want, "<bos>%s<|turn>user\nBye<turn|>\n", cases[i].own);
        assert_string_equal(str_c(&out), str_c(&want));
        str_fini(&out);
        str_fini(&want);
        template_free(tp);
    }
#undef GEMMA_START
#undef GEMMA_LARGE
#undef GEMMA_SMALL
#undef ON
#undef DEFAULT_OFF
}

/* The switch, and formats without one. */
static void template__reasoning__as_asked(void **state)
{
#define CHATML(head)                                                                                   \
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"         \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}" head "{% endif %}"
    static const struct {
        const char *source, *text[3]; /* unasked, on, off */
        bool fixed;
    } cases[] = {
        /* Qwen3 */
        {CHATML("{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}"
                "{% endif %}"),
         {"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
          "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
         false},
        /* MiniCPM5 */
        {CHATML("{%- if enable_thinking is defined %}{%- if enable_thinking is false %}{{ '<think></think>' }}"
                "{%- elif enable_thinking is true %}{{ '<think>\\n' }}{%- endif %}{%- endif %}"),
         {"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
          "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n",
          "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think></think>"},
         false},
        {CHATML(""),
         {"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
          "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"},
         true},
        {"[gMASK]<sop>{{ '/nothink' }}<think></think>",
         {"[gMASK]<sop><|user|>\nHi<|assistant|>", "[gMASK]<sop><|user|>\nHi<|assistant|>",
          "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>"},
         false},
        {"[gMASK]<sop>{{ '</think>' }}",
         {"[gMASK]<sop><|user|>Hi<|assistant|><think>", "[gMASK]<sop><|user|>Hi<|assistant|><think>",
          "[gMASK]<sop><|user|>Hi<|assistant|></think>"},
         false},
        {"{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}<|im_start|>"
         "Reasoning Mode: ## Custom Instructions{%- elif reasoning_mode == \"/think\" -%}{{- \"Be thorough.\" -}}"
         "{%- else -%}{{- \"Be quick.\" -}}{%- endif -%}",
         {"<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: /think\n\n"
          "## Custom Instructions\n\nBe thorough.\n\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
          "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: /think\n\n"
          "## Custom Instructions\n\nBe thorough.\n\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
          "<|im_start|>system\n## Metadata\n\nKnowledge Cutoff Date: June 2025\nReasoning Mode: /no_think\n\n"
          "## Custom Instructions\n\nBe quick.\n\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
          "<think>\n\n</think>\n"},
         false},
        {"{% set thinking_option = 'on' %}<role>SYSTEM</role><role>HUMAN</role><|role_end|>",
         {"<role>SYSTEM</role>detailed thinking on<|role_end|><role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>",
          "<role>SYSTEM</role>detailed thinking on<|role_end|><role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>",
          "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>Hi<|role_end|>"
          "<role>ASSISTANT</role>"},
         false},
        {"{{ '<SPECIAL_10>System' '<SPECIAL_11>User' '<SPECIAL_12>' }}{%- if add_generation_prompt -%}"
         "{{ '<SPECIAL_11>Assistant\n' }}{%- if enable_thinking is false -%}{{ '<think></think>' }}{%- else -%}"
         "{{ '<think>\n' }}{%- endif -%}{%- endif -%}",
         {"<SPECIAL_10>System\n\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n<think>\n",
          "<SPECIAL_10>System\n\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n<think>\n",
          "<SPECIAL_10>System\n\n\n<SPECIAL_11>User\nHi\n<SPECIAL_11>Assistant\n<think></think>"},
         false},
    };
    const struct engine_message hi = {"user", "Hi", 2};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct template *of[TEMPLATE_REASONINGS];
        for (int mode = 0; mode < TEMPLATE_REASONINGS; mode++) {
            struct template *tp;
            struct err e;
            struct str out = {0};
            assert_int_equal(template_recognise(cases[i].source, strlen(cases[i].source), "", "", NULL,
                                                (enum template_reasoning)mode, &tp, &e),
                             OK);
            assert_int_equal(template_text(tp, true, &hi, 1, true, &out, NULL, NULL, &e), OK);
            assert_string_equal(str_c(&out), cases[i].text[mode]);
            str_fini(&out);
            of[mode] = tp;
        }
        assert_int_equal(template_alike(of[TEMPLATE_REASONING_ON], of[TEMPLATE_REASONING_OFF]), cases[i].fixed);
        for (int mode = 0; mode < TEMPLATE_REASONINGS; mode++)
            template_free(of[mode]);
    }
#undef CHATML
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(template__reasoning__as_asked),
        cmocka_unit_test(template__text__models_that_think),
        cmocka_unit_test(template__text__thinks_as_the_template_says),
        cmocka_unit_test(template__text__gemma4),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
