/* Recognising chat templates: a table of formats with the marks by which their templates are known,
 * and the few things that differ within a family and are read out of the template's source: the
 * default system prompt, the head of an answer, whether texts are trimmed. */
#include "engine/template_impl.h"

#include <string.h>


enum { MARKS = 3 };

/* What differs within a family: changes tp->format and fills system_*. */
typedef void detail_fn(struct template *tp, const char *s, const char *end);
static detail_fn detail_chatml, detail_llama3, detail_mistral_v7, detail_llama2, detail_phi3,
    detail_deepseek_coder, detail_vicuna, detail_deepseek_r1, detail_monarch, detail_granite,
    detail_zephyr, detail_smollm3, detail_gpt_oss, detail_glm4, detail_glm45, detail_glm47, detail_ernie,
    detail_gemma4, detail_ling, detail_muse,
    detail_exaone, detail_kimi;

struct known {
    const char *all[MARKS]; /* every one of these occurs in the source */
    const char *none[MARKS];
    detail_fn *detail; /* NULL = nothing differs */
    struct format format;
};

/* The first match counts: special cases stand before their families. */
/* clang-format off: a table to be read, one line for each part */
static const struct known known[] = {
    {.all = {"<|im_start|>", "<|im_sep|>"},
     .format = {.name = "phi4",
                .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
                .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
                .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"}}},
    {.all = {"<|im_start|>", "Reasoning Mode: ", "## Custom Instructions"},
     .detail = detail_smollm3,
     .format = {.name = "smollm3",
                .system = {"<|im_start|>system\n", "\n\n<|im_end|>\n"},
                .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
                .flags = FORMAT_RTRIM_SYSTEM | FORMAT_TRIM_LINES}},
    {.all = {"<|im_start|>", "truncate_history_thinking", "<think></think>"},
     .format = {.name = "nemotron-3",
                .system = {"<|im_start|>system\n", "<|im_end|>\n"},
                .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                .assistant = {"<|im_start|>assistant\n<think></think>", "<|im_end|>\n"},
                .generate = "<|im_start|>assistant\n",
                .flags = FORMAT_HEAD_SOURCE | FORMAT_SYSTEM_ALWAYS | FORMAT_DROP_THOUGHT}},
    {.all = {"<SPECIAL_10>System", "<SPECIAL_11>User", "<SPECIAL_12>"},
     .format = {.name = "nemotron-2",
                .system = {"<SPECIAL_10>System\n", "\n\n"},
                .user = {"<SPECIAL_11>User\n", "\n"},
                .assistant = {"<SPECIAL_11>Assistant\n", "\n<SPECIAL_12>\n"},
                .flags = FORMAT_HEAD_SOURCE | FORMAT_SYSTEM_ALWAYS | FORMAT_DROP_THOUGHT |
                         FORMAT_TRIM | FORMAT_TRIM_REST}},
    {.all = {"<|im_start|>"},
     .detail = detail_chatml,
     .format = {.name = "chatml",
                .system = {"<|im_start|>system\n", "<|im_end|>\n"},
                .user = {"<|im_start|>user\n", "<|im_end|>\n"},
                .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
                .flags = FORMAT_HEAD_SOURCE}},
    {.all = {"<|start_header_id|>"},
     .detail = detail_llama3,
     .format = {.name = "llama3",
                .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
                .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
                .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
                .flags = FORMAT_TRIM}},
    {.all = {"<|start_of_role|>", "<|end_of_role|>"},
     .detail = detail_granite,
     .format = {.name = "granite",
                .system = {"<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"},
                .user = {"<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"},
                .assistant = {"<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>\n"}}},
    {.all = {"[SYSTEM_PROMPT]", "[INST]"},
     .detail = detail_mistral_v7,
     .format = {.name = "mistral-v7",
                .system = {"[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"},
                .user = {"[INST] ", "[/INST]"},
                .assistant = {" ", "\2"},
                .generate = "",
                .marks = {{"[THINK]", TEMPLATE_THINK}, {"[/THINK]", TEMPLATE_ANSWER}}}},
    {.all = {"[INST]", "<<SYS>>"},
     .detail = detail_llama2,
     .format = {.name = "llama2",
                .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
                .user = {"[INST] ", " [/INST]"},
                .assistant = {" ", " \2"},
                .generate = "",
                .flags = FORMAT_FOLD}},
    {.all = {"' [INST] '"},
     .format = {.name = "mistral-v1",
                .system = {"", "\n\n"},
                .user = {" [INST] ", " [/INST]"},
                .assistant = {" ", "\2"},
                .generate = "",
                .flags = FORMAT_FOLD}},
    {.all = {"\"[INST] \"", "[AVAILABLE_TOOLS]"},
     .format = {.name = "mistral-v3",
                .system = {"", "\n\n"},
                .user = {"[INST] ", "[/INST]"},
                .assistant = {" ", "\2"},
                .generate = "",
                .flags = FORMAT_FOLD | FORMAT_FOLD_LAST | FORMAT_TRIM_ANSWER}},
    {.all = {"\"[INST]\"", "[AVAILABLE_TOOLS]"},
     .format = {.name = "mistral-v3-tekken",
                .system = {"", "\n\n"},
                .user = {"[INST]", "[/INST]"},
                .assistant = {"", "\2"},
                .generate = "",
                .flags = FORMAT_FOLD | FORMAT_FOLD_LAST}},
    {.all = {"'[INST] '"},
     .format = {.name = "mistral",
                .system = {"", "\n"},
                .user = {"[INST] ", " [/INST]"},
                .assistant = {"", "\2"},
                .generate = "",
                .flags = FORMAT_FOLD}},
    {.all = {"[INST]", "[/INST]"}, /* whatever else writes Mistral's marks */
     .format = {.name = "mistral",
                .system = {"", "\n\n"},
                .user = {"[INST] ", " [/INST]"},
                .assistant = {" ", "\2"},
                .generate = "",
                .flags = FORMAT_FOLD}},
    {.all = {"<|turn>", "<turn|>"},
     .detail = detail_gemma4,
     .format = {.name = "gemma4",
                .system = {"<|turn>system\n", "<turn|>\n"},
                .user = {"<|turn>user\n", "<turn|>\n"},
                .assistant = {"<|turn>model\n", "<turn|>\n"},
                .marks = {{"<|channel>", TEMPLATE_THINK_NAMED}, {"<channel|>", TEMPLATE_ANSWER}},
                .flags =
                    FORMAT_HEAD_SOURCE | FORMAT_TRIM | FORMAT_DROP_THOUGHT | FORMAT_TRIM_REST}},
    {.all = {"<start_of_turn>"},
     .format = {.name = "gemma",
                .system = {"", "\n\n"},
                .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
                .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
                .flags = FORMAT_FOLD | FORMAT_TRIM}},
    {.all = {"<|start|>", "<|channel|>", "<|message|>"},
     .detail = detail_gpt_oss,
     .format = {.name = "gpt-oss",
                .head =
                    "<|start|>system<|message|>You are ChatGPT, a large language model trained by "
                    "OpenAI.\nKnowledge cutoff: 2024-06\nCurrent date: \3\n\nReasoning: "
                    "medium\n\n# Valid channels: analysis, commentary, final. Channel must be "
                    "included for every message.<|end|>",
                .system = {"<|start|>developer<|message|># Instructions\n\n", "\n\n<|end|>"},
                .user = {"<|start|>user<|message|>", "<|end|>"},
                .assistant = {"<|start|>assistant<|channel|>final<|message|>", "<|end|>"},
                .generate = "<|start|>assistant",
                .marks = {{"<|start|>", TEMPLATE_HEADER},
                          {"<|channel|>", TEMPLATE_HEADER},
                          {"<|message|>", TEMPLATE_BODY},
                          {"<|end|>", TEMPLATE_PART_END}},
                .parts = {"analysis", "final"},
                .flags = FORMAT_DROP_THOUGHT}},
    {.all = {"<|start|>", "<|message|>", "# Valid recipients: "},
     .detail = detail_muse,
     .format = {.name = "muse",
                .system = {"<|start|>system<|message|>", "<|eot|>"},
                .user = {"<|start|>user<|message|>", "<|eot|>"},
                .assistant = {"<|start|>assistant to=user<|message|>", "<|eot|>"},
                .generate = "<|start|>assistant",
                .marks = {{"<|start|>", TEMPLATE_HEADER},
                          {"<|message|>", TEMPLATE_BODY},
                          {"<|eom|>", TEMPLATE_PART_END}},
                .parts = {"self", "user"},
                .name_lead = " to=",
                .flags = FORMAT_DROP_THOUGHT}},
    {.all = {"<|end|>", "|>"},
     .none = {"<|start|>", "<|channel|>", "[BEGIN FINAL"},
     .detail = detail_phi3,
     .format = {.name = "phi3",
                .system = {"<|system|>\n", "<|end|>\n"},
                .user = {"<|user|>\n", "<|end|>\n"},
                .assistant = {"<|assistant|>\n", "<|end|>\n"}}},
    {.all = {"<|user|>", "<|assistant|>", "eos_token"},
     .none = {"[gMASK]", "<sop>", "<|end|>"},
     .detail = detail_zephyr,
     .format = {.name = "zephyr",
                .system = {"<|system|>\n", "\2\n"},
                .user = {"<|user|>\n", "\2\n"},
                .assistant = {"<|assistant|>\n", "\2\n"}}},
    {.all = {"[gMASK]<sop>", "{{ '</think>' }}"},
     .detail = detail_glm47,
     .format = {.name = "glm-4.7",
                .head = "[gMASK]<sop>",
                .system = {"<|system|>", ""},
                .user = {"<|user|>", ""},
                .assistant = {"<|assistant|></think>", ""},
                .generate = "<|assistant|><think>",
                .flags = FORMAT_DROP_THOUGHT | FORMAT_TRIM_ANSWER}},
    {.all = {"[gMASK]<sop>", "<think></think>"},
     .detail = detail_glm45,
     .format = {.name = "glm-4.5",
                .head = "[gMASK]<sop>",
                .system = {"<|system|>\n", ""},
                .user = {"<|user|>\n", ""},
                .assistant = {"<|assistant|>\n<think></think>\n", ""},
                .generate = "<|assistant|>",
                .flags = FORMAT_DROP_THOUGHT | FORMAT_TRIM_ANSWER}},
    {.all = {"[gMASK]<sop>"},
     .detail = detail_glm4,
     .format = {.name = "glm-4",
                .head = "[gMASK]<sop>",
                .system = {"<|system|>\n", ""},
                .user = {"<|user|>\n", ""},
                .assistant = {"<|assistant|>\n", ""}}},
    {.all = {"[|endofturn|]", "[|user|]\\n", "<think>"}, /* a Jinja string with its escape */
     .format = {.name = "exaone4",
                .system = {"[|system|]\n", "[|endofturn|]\n"},
                .user = {"[|user|]\n", "[|endofturn|]\n"},
                .assistant = {"[|assistant|]\n<think>\n\n</think>\n\n", "[|endofturn|]\n"},
                .flags = FORMAT_DROP_THOUGHT}},
    {.all = {"[|system|]", "[|endofturn|]", "[|assistant|]"},
     .detail = detail_exaone,
     .format = {.name = "exaone3",
                .system = {"[|system|]", "[|endofturn|]\n"},
                .user = {"[|user|]", "\n"},
                .assistant = {"[|assistant|]", "[|endofturn|]\n"},
                .flags = FORMAT_HEAD_SOURCE}},
    {.all = {"<｜hy_User｜>", "<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁3｜>"},
     .format = {.name = "hunyuan",
                .head = "<｜hy_begin▁of▁sentence｜>",
                .system = {"", "<｜hy_place▁holder▁no▁3｜>"},
                .user = {"<｜hy_User｜>", ""},
                .assistant = {"<｜hy_Assistant｜>", "<｜hy_place▁holder▁no▁2｜>"},
                .flags = FORMAT_DROP_THOUGHT}},
    {.all = {"<|extra_0|>", "<|extra_4|>", "<|eos|>"},
     .format = {.name = "hunyuan-moe",
                .head = "<|startoftext|>",
                .again = "<|startoftext|>",
                .system = {"", "<|extra_4|>"},
                .user = {"", "<|extra_0|>"},
                .assistant = {"", "<|eos|>"},
                .flags = FORMAT_DROP_THOUGHT}},
    {.all = {"<|begin_of_sentence|>", "\"User: \"", "\"Assistant: \""},
     .detail = detail_ernie,
     .format = {.name = "ernie",
                .head = "<|begin_of_sentence|>",
                .system = {"", "\n"},
                .user = {"User: ", "\n"},
                .assistant = {"Assistant: ", "<|end_of_sentence|>"}}},
    {.all = {"<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"},
     .none = {"<|START_RESPONSE|>", "Action:"},
     .format = {.name = "command-r",
                .system = {"<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                .user = {"<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                .assistant = {"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"},
                .flags = FORMAT_TRIM}},
    {.all = {"<role>SYSTEM</role>", "<role>HUMAN</role>", "<|role_end|>"},
     .none = {"preserved_thinking"},
     .detail = detail_ling,
     .format = {.name = "ling-2",
                .system = {"<role>SYSTEM</role>", "<|role_end|>"},
                .user = {"<role>HUMAN</role>", "<|role_end|>"},
                .assistant = {"<role>ASSISTANT</role>", "<|role_end|>"},
                .flags = FORMAT_HEAD_SOURCE | FORMAT_DROP_THOUGHT}},
    {.all = {"### Instruction:", "<|EOT|>"},
     .detail = detail_deepseek_coder,
     .format = {.name = "deepseek-coder",
                .system = {"", ""},
                .user = {"### Instruction:\n", "\n"},
                .assistant = {"### Response:\n", "\n<|EOT|>\n"}}},
    {.all = {"### Instruction:", "### Response:"},
     .format = {.name = "alpaca",
                .system = {"", "\n\n"},
                .user = {"### Instruction:\n", "\n\n"},
                .assistant = {"### Response:\n", "\n\n"},
                .stop = "### Instruction:"}},
    {.all = {"### User:", "### Assistant:"},
     .format = {.name = "solar",
                .system = {"### System:\n", "\n\n"},
                .user = {"### User:\n", "\n\n"},
                .assistant = {"### Assistant:\n", "\2\n\n"},
                .stop = "### User:"}},
    {.all = {"USER: ", "ASSISTANT:"},
     .detail = detail_vicuna,
     .format = {.name = "vicuna",
                .system = {"", "\n\n"},
                .user = {"USER: ", "\n"},
                .assistant = {"ASSISTANT: ", "</s>\n"},
                .generate = "ASSISTANT:",
                .stop = "USER:"}},
    {.all = {"GPT4 Correct "},
     .format = {.name = "openchat",
                .system = {"GPT4 Correct System: ", "<|end_of_turn|>"},
                .user = {"GPT4 Correct User: ", "<|end_of_turn|>"},
                .assistant = {"GPT4 Correct Assistant: ", "<|end_of_turn|>"},
                .generate = "GPT4 Correct Assistant:"}},
    {.all = {"<｜User｜>", "<｜Assistant｜>", "system_prompt"},
     .none = {"thinking is defined", "<think></think>"},
     .detail = detail_deepseek_r1,
     .format = {.name = "deepseek-r1",
                .system = {"", ""},
                .user = {"<｜User｜>", ""},
                .assistant = {"<｜Assistant｜>", "<｜end▁of▁sentence｜>"},
                .flags = FORMAT_HEAD_SOURCE | FORMAT_DROP_THOUGHT | FORMAT_SYSTEM_FIRST}},
    {.all = {"'User: '", "'Assistant: '", "eos_token"},
     .format = {.name = "deepseek-v2",
                .system = {"", "\n\n"},
                .user = {"User: ", "\n\n"},
                .assistant = {"Assistant: ", "\2"},
                .generate = "Assistant:"}},
    {.all = {"<|im_user|>", "<|im_middle|>"},
     .none = {"<think>"},
     .detail = detail_kimi,
     .format = {.name = "kimi-k2",
                .system = {"<|im_system|>system<|im_middle|>", "<|im_end|>"},
                .user = {"<|im_user|>user<|im_middle|>", "<|im_end|>"},
                .assistant = {"<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"}}},
    {.all = {"<|role_start|>", "<|role_end|>", "<|turn_end|>"},
     .format = {.name = "megrez",
                .system = {"<|role_start|>system<|role_end|>", "<|turn_end|>"},
                .user = {"<|role_start|>user<|role_end|>", "<|turn_end|>"},
                .assistant = {"<|role_start|>assistant<|role_end|>", "<|turn_end|>"}}},
    {.all = {"<用户>", "<AI>"},
     .format = {.name = "minicpm",
                .system = {"", ""},
                .user = {"<用户>", ""},
                .assistant = {"<AI>", ""},
                .stop = "<用户>",
                .flags = FORMAT_TRIM}},
    {.all = {"bos_token + message['role']", "eos_token"},
     .detail = detail_monarch,
     .format = {.name = "monarch",
                .system = {"\1system\n", "\2\n"},
                .user = {"\1user\n", "\2\n"},
                .assistant = {"\1assistant\n", "\2\n"}}},
};
/* clang-format on */

/* ---- reading a source ---- */

static const char *find(const char *s, const char *end, const char *what)
{
    return s && s < end ? memmem(s, (size_t)(end - s), what, strlen(what)) : NULL;
}

static const char *find_last(const char *s, const char *end, const char *what)
{
    const char *last = NULL;
    for (const char *p = s; (p = find(p, end, what)); p++)
        last = p;
    return last;
}

static bool at(const char *s, const char *end, const char *word)
{
    ptrdiff_t n = (ptrdiff_t)strlen(word);
    return end - s >= n && memcmp(s, word, (size_t)n) == 0;
}

static bool starts(const char *s, const char *end, const char *word)
{
    while (s < end && (*s == '-' || *s == ' ' || *s == '\n' || *s == '\t'))
        s++;
    return at(s, end, word);
}

/* Reads characters of a Jinja string from s until the quote, undoing escapes. Returns the position
 * of the quote, NULL when the string does not end. */
static const char *read_string(const char *s, const char *end, char quote, struct str *out)
{
    for (; s < end; s++) {
        if (*s == quote)
            return s;
        if (*s == '\\' && s + 1 < end) {
            s++;
            str_addc(out, *s == 'n' ? '\n' : *s == 't' ? '\t' : *s);
        } else {
            str_addc(out, *s);
        }
    }
    return NULL;
}

/* The default system prompt of a ChatML template: a text written out between the tokens. */
static bool default_between(const char *s, const char *end, struct str *out)
{
    static const char open[] = "<|im_start|>system";
    for (const char *p = s; (p = find(p, end, open)); p++) {
        const char *text = p + strlen(open);
        if (end - text > 2 && memcmp(text, "\\n", 2) == 0)
            text += 2;
        else if (text < end && *text == '\n')
            text++;
        else
            continue;
        const char *close = find(text, end, "<|im_end|>");
        /* A quote in between ends the string: no text stands there but code. */
        if (!close || close == text || memchr(text, '\'', (size_t)(close - text)) ||
            memchr(text, '"', (size_t)(close - text)))
            continue;
        str_clear(out);
        return read_string(text, close, '\0', out) == NULL && out->len > 0;
    }
    return false;
}

/* Reads strings and today's date joined by plus signs. Returns where the tag ends; NULL when
 * something else stands there, or nothing. */
static const char *read_sum(const struct template *tp, const char *p, const char *end,
                            struct str *out)
{
    static const char now[] = "strftime_now(", today[] = "today";
    str_clear(out);
    while (p && p < end) {
        if (*p == '\'' || *p == '"') {
            p = read_string(p + 1, end, *p, out);
            p = p ? p + 1 : NULL;
        } else if (tp->date.len && at(p, end, now)) {
            str_addc(out, '\3');
            p = find(p, end, ")");
            p = p ? p + 1 : NULL;
        } else if (tp->date.len && at(p, end, today)) {
            str_addc(out, '\3');
            p += strlen(today);
        } else if (starts(p, end, "%}")) {
            return out->len ? p : NULL;
        } else if (*p == ' ' || *p == '+') {
            p++;
        } else {
            return NULL;
        }
    }
    return NULL;
}

/* Reads a string until the quote or the end of the turn that it writes. */
static const char *read_turn(const char *s, const char *end, struct str *out)
{
    static const char close[] = "<|im_end|>";
    const char *after = read_string(s, end, '\'', out);
    const char *p = out->len ? memmem(out->data, out->len, close, strlen(close)) : NULL;
    if (p)
        str_cut(out, (size_t)(p - out->data), out->len);
    return after;
}

/* ... or of two strings, the second for chats without tools (OLMo 3). */
static bool default_parted(const char *s, const char *end, struct str *out)
{
    static const char open[] = "'<|im_start|>system";
    const char *p = find(s, end, open);
    str_clear(out);
    p = p ? read_string(p + strlen(open), end, '\'', out) : NULL;
    p = find(p, end, "{%");
    p = p && starts(p + 2, end, "if tools is none") ? find(p, end, "'") : NULL;
    if (p && read_turn(p + 1, end, out) && out->len && out->data[0] == '\n') {
        str_cut(out, 0, 1);
        return true;
    }
    str_clear(out);
    return false;
}

/* ... or set as a variable where no system message is found. Returns where that was done. */
static const char *read_variable(struct template *tp, const char *s, const char *end,
                                 const char *set)
{
    for (const char *p = s; (p = find(p, end, set)); p++) {
        const char *after = read_sum(tp, p + strlen(set), end, &tp->system_default);
        if (after)
            return after;
    }
    str_clear(&tp->system_default);
    return NULL;
}

/* How the template asks for the date to be written; stays empty when it does not. */
static void read_date(struct template *tp, const char *s, const char *end)
{
    enum { DATE_MAX = 64 };
    static const char now[] = "strftime_now(";
    const char *p = find(s, end, now);
    p = p ? p + strlen(now) : NULL;
    if (!p || p >= end || (*p != '\'' && *p != '"'))
        return;
    if (!read_string(p + 1, end, *p, &tp->date) || tp->date.len > DATE_MAX)
        str_clear(&tp->date);
}

/* What enable_thinking is: what was asked for, else what the template itself sets it to. */
enum thinking { THINKING_UNDEFINED, THINKING_ON, THINKING_OFF };

static enum thinking thinking_of(const struct template *tp, const char *source, const char *end)
{
    if (tp->reasoning != TEMPLATE_REASONING_AUTO)
        return tp->reasoning == TEMPLATE_REASONING_ON ? THINKING_ON : THINKING_OFF;
    static const char again[] = "set enable_thinking = enable_thinking";
    static const char off[] = "set enable_thinking = false", on[] = "set enable_thinking = true";
    const char *first = find(source, end, "%}"), *p = find(source, end, again);
    const char *close = find(p, end, "%}");
    /* Further down it is switched off for what a message says: only the first statement counts. */
    if (find(source, first, off))
        return THINKING_OFF;
    if (find(source, first, on))
        return THINKING_ON;
    if (find(p, close, "else false") || find(p, close, "else False") ||
        find(p, close, "default(false"))
        return THINKING_OFF;
    return p || find(source, end, on) ? THINKING_ON : THINKING_UNDEFINED;
}

/* Conditions that occur around the head of an answer. What is undefined counts as false. */
static bool condition(const char *s, const char *end, enum thinking thinking)
{
    if (find(s, end, "prev_message_type != ")) /* Gemma 4: whether a tool spoke last */
        return true;
    if (find(s, end, "enable_thinking is not defined") ||
        find(s, end, "enable_thinking is undefined"))
        return thinking != THINKING_OFF; /* "... or enable_thinking is true" follows */
    if (find(s, end, "enable_thinking is defined") &&
        (thinking == THINKING_UNDEFINED || !find(s, end, " and ")))
        return thinking != THINKING_UNDEFINED;
    if (find(s, end, "not enable_thinking"))
        return thinking != THINKING_ON;
    if (find(s, end, "enable_thinking is false") || find(s, end, "enable_thinking == false"))
        return thinking == THINKING_OFF;
    return find(s, end, "enable_thinking") && thinking == THINKING_ON;
}

/* Runs what the template does after its last `if add_generation_prompt`, as far as it is made of
 * strings and conditions. False when it is not. */
static bool answer_head(const struct template *tp, const char *source, const char *end, struct str *out)
{
    enum { DEPTH = 8 };
    bool on[DEPTH] = {true}, taken[DEPTH] = {true};
    enum thinking thinking = thinking_of(tp, source, end);
    int depth = 0;
    const char *s = find_last(source, end, "add_generation_prompt");
    s = find(s, end, "%}");
    str_clear(out);
    while (s && (s = find(s, end, "{"))) {
        const char *close;
        if (end - s < 2)
            break;
        if (s[1] == '{') {
            if (!(close = find(s, end, "}}")))
                return false;
            const char *p = s + 2;
            while (on[depth] && p < close) {
                char c = *p++;
                if (c == '\'' || c == '"') {
                    p = read_string(p, end, c, out);
                    if (!p)
                        return false;
                    p++;
                    if (p > close) /* braces inside the string */
                        close = find(p, end, "}}");
                    if (!close)
                        return false;
                } else if (c != ' ' && c != '-' && c != '+' && c != '~') {
                    return false;
                }
            }
            s = close + 2;
        } else if (s[1] == '%') {
            if (!(close = find(s, end, "%}")))
                return false;
            const char *p = s + 2;
            if (starts(p, close, "if")) {
                if (++depth == DEPTH)
                    return false;
                taken[depth] = on[depth - 1] && condition(p, close, thinking);
                on[depth] = taken[depth];
            } else if (starts(p, close, "else") || starts(p, close, "elif")) {
                if (depth == 0)
                    break;
                on[depth] = on[depth - 1] && !taken[depth] &&
                            (starts(p, close, "else") || condition(p, close, thinking));
                taken[depth] = taken[depth] || on[depth];
            } else if (starts(p, close, "endif")) {
                if (depth-- == 0)
                    break;
            } else {
                return false;
            }
            s = close + 2;
        } else {
            s++;
        }
    }
    return out->len > 0;
}

/* ---- the differences within families ---- */

static bool any(const char *s, const char *end, const char *const *marks)
{
    for (; *marks; marks++)
        if (find(s, end, *marks))
            return true;
    return false;
}

static bool trims(const char *s, const char *end)
{
    static const char *const marks[] = {
        "content'] | trim", "content\"] | trim", "content'].strip()",
        "content.strip()",  "content|trim",      "content | trim",
        "true)|trim",       "true) | trim",      NULL};
    return any(s, end, marks);
}

/* Qwen 3.8 asks for an effort in the system text, whatever else stands there. */
static void read_effort(struct template *tp, const char *s, const char *end)
{
    static const char level[] = "set resolved_reasoning_effort = reasoning_effort|default('";
    static const char text[] = "set reasoning_instructions = '";
    struct str is = {0}, name = {0};
    const char *p = find(s, end, level);
    if (p && thinking_of(tp, s, end) != THINKING_OFF &&
        read_string(p + strlen(level), end, '\'', &name)) {
        str_addf(&is, "resolved_reasoning_effort == '%s' %%}", str_c(&name));
        p = find(p, end, str_c(&is));
        p = find(p, end, "{%");
        p = p && starts(p + 2, end, text) ? find(p, end, text) : NULL;
        if (p && read_string(p + strlen(text), end, '\'', &tp->system_lead)) {
            str_adds(&tp->system_join, "\n\n");
            tp->format.flags |= FORMAT_SYSTEM_ALWAYS;
        } else {
            str_clear(&tp->system_lead);
        }
    }
    str_fini(&is);
    str_fini(&name);
}

static void detail_chatml(struct template *tp, const char *s, const char *end)
{
    struct format *f = &tp->format;
    if (!default_between(s, end, &tp->system_default) &&
        !default_parted(s, end, &tp->system_default))
        read_variable(tp, s, end, "set system_message = ");
    const char *p = find(s, end, "' You do not currently have access"); /* to functions: OLMo 3 */
    if (p)
        read_turn(p + 1, end, &tp->system_tail);
    if (find(s, end, "last_query_index"))
        f->flags |= FORMAT_DROP_THOUGHT;
    if (find(s, end, "'\\n<think>\\n' + reasoning_content"))
        f->flags |= FORMAT_THINK_LAST;
    if (find(s, end, "preserve_thinking is undefined or preserve_thinking is true"))
        f->flags |= FORMAT_THINK_EVERY | FORMAT_TRIM_REST; /* Qwen 3.8 */
    read_effort(tp, s, end);
    if (find(s, end, "split('</think>')[-1].lstrip"))
        f->flags |= FORMAT_DROP_THOUGHT;
    if (find(s, end, "split(\"</think>\")[-1] | trim")) { /* LFM 2.5 */
        f->flags |= FORMAT_DROP_THOUGHT | FORMAT_TRIM_REST;
        f->flags |= find(s, end, "last_assistant_index") ? FORMAT_KEEP_LAST : FORMAT_KEEP_ENDED;
    }
    if (find(s, end, "true)|trim"))
        f->flags |= FORMAT_TRIM;
    if (find(s, end, "content.lstrip() }}") || find(s, end, "content | trim('left')"))
        f->flags |= FORMAT_LTRIM_ANSWER;
}

static void detail_llama3(struct template *tp, const char *s, const char *end)
{
    if (!find(s, end, "Cutting Knowledge Date: December 2023") || !find(s, end, "date_string"))
        return;
    str_adds(&tp->system_lead, "Cutting Knowledge Date: December 2023\nToday Date: ");
    str_adds(&tp->system_lead, tp->date.len ? "\3\n\n" : "26 Jul 2024\n\n");
    tp->format.flags |= FORMAT_SYSTEM_ALWAYS;
}

static void detail_phi3(struct template *tp, const char *s, const char *end)
{
    struct format *f = &tp->format;
    /* These templates begin with bos only where they say so themselves. */
    if (!find(s, end, "{{ bos_token }}") && !find(s, end, "{{bos_token}}"))
        f->head = NULL;
    static const char *const lines[] = {"<|end|>\n'", "<|end|>\\n'", "'<|end|>' + '\n'",
                                        "'<|end|>' + '\\n'", NULL};
    if (!any(s, end, lines)) { /* Phi-4-mini writes no line ends */
        f->system[0] = "<|system|>";
        f->user[0] = "<|user|>";
        f->assistant[0] = "<|assistant|>";
        f->system[1] = f->user[1] = f->assistant[1] = "<|end|>";
    }
    if (find(s, end, "{% else %}{{ eos_token }}"))
        f->flags |= FORMAT_EOS_AT_END;
    /* A system text of its own, before that of the conversation. */
    static const char lead[] = "{{ '<|system|>";
    const char *p = find(s, end, lead);
    if (p && read_string(p + strlen(lead), end, '\'', &tp->system_lead) && tp->system_lead.len) {
        str_adds(&tp->system_join, " ");
        f->flags |= FORMAT_SYSTEM_ALWAYS;
    } else {
        str_clear(&tp->system_lead);
    }
}

static void detail_llama2(struct template *tp, const char *s, const char *end)
{
    struct format *f = &tp->format;
    read_variable(tp, s, end, "set system_message = ");
    if (find(s, end, "bos_token + '[INST]"))
        f->again = "\1";
    if (find(s, end, "idx > 1")) /* no bos of its own before the first question */
        f->head = NULL;
    if (trims(s, end))
        f->flags |= FORMAT_TRIM;
}

static void detail_mistral_v7(struct template *tp, const char *s, const char *end)
{
    struct format *f = &tp->format;
    read_variable(tp, s, end, "set default_system_message = ");
    if (find(s, end, "[THINK]"))
        f->flags |= FORMAT_DROP_THOUGHT;
    if (!find(s, end, "[INST] ")) { /* with the Tekken vocabulary no spaces are written */
        f->system[0] = "[SYSTEM_PROMPT]";
        f->user[0] = "[INST]";
        f->assistant[0] = "";
    }
}

/* Granite 3 makes its system text of two parts, the second for chats without tools; Granite 4.0
 * names it elsewhere; others have none. */
static void detail_granite(struct template *tp, const char *s, const char *end)
{
    static const char more[] = "set system_message = system_message + ";
    const char *p = read_variable(tp, s, end, "set system_message = ");
    if (!p) {
        read_variable(tp, s, end, "set g4_default_system_message = ");
        return;
    }
    p = find(p, end, "else %}");
    p = p ? find(p, find(p, end, "endif"), more) : NULL;
    struct str second = {0};
    if (p && read_sum(tp, p + strlen(more), end, &second))
        str_add(&tp->system_default, second.data, second.len);
    str_fini(&second);
}

/* OLMo and Tulu close nothing but answers with eos. */
static void detail_zephyr(struct template *tp, const char *s, const char *end)
{
    struct format *f = &tp->format;
    const char *p = find(s, end, "<|user|>"), *close = find(p, end, "}}");
    p = find(p, close, "content");
    if (!p || find(p, close, "eos_token") || find(p, close, "<"))
        return;
    f->name = "olmo";
    f->system[1] = f->user[1] = "\n";
    f->flags |= FORMAT_HEAD_SOURCE;
    if (starts(s, end, "{{ eos_token }}")) /* the first OLMo has no bos */
        f->head = "\2";
}

/* "/no_think" in a system text is left to the model. */
static void detail_smollm3(struct template *tp, const char *s, const char *end)
{
    static const char mode[] = "elif reasoning_mode == \"/think\"", other[] = "{%- else";
    bool off = thinking_of(tp, s, end) == THINKING_OFF;
    str_adds(&tp->system_lead, "## Metadata\n\nKnowledge Cutoff Date: June 2025\n");
    if (tp->date.len)
        str_adds(&tp->system_lead, "Today Date: \3\n");
    str_addf(&tp->system_lead, "Reasoning Mode: %s\n\n## Custom Instructions\n\n", off ? "/no_think" : "/think");
    if (off)
        tp->format.assistant[0] = tp->format.generate = "<|im_start|>assistant\n<think>\n\n</think>\n";
    const char *p = find(s, end, mode);
    if (p && off)
        p = find(p, end, other);
    p = p ? find(p + (off ? strlen(other) : strlen(mode)), end, "\"") : NULL;
    struct str *text = &tp->system_default;
    if (p && read_string(p + 1, end, '"', text))
        while (text->len && text->data[text->len - 1] == '\n')
            str_cut(text, text->len - 1, 1);
    /* The published template closes the turn only inside its last condition, which is about tools.
     */
    const char *loop = find(s, end, "for message in messages");
    const char *close = loop ? find_last(s, loop, "<|im_end|>") : NULL;
    close = find(close, loop, "endif");
    if (close && find(close + 1, loop, "endif"))
        tp->format.system[1] = "\n\n";
}

/* A draft of the format ends the developer's turn at once. It is harmony all the same. */
static void detail_gpt_oss(struct template *tp, const char *s, const char *end)
{
    if (!tp->date.len)
        str_adds(&tp->date, "%Y-%m-%d");
    const char *p = find(s, end, "developer_message }}");
    p = find(p, end, "{{");
    if (p && !starts(p + 2, end, "\"\\n\\n\""))
        tp->format.system[1] = "<|end|>";
}

/* Every system text ends with how much to think and for whom parts of an answer may be. */
static void detail_muse(struct template *tp, const char *s, const char *end)
{
    static const char cutoff[] = "knowledge_cutoff else '";
    struct str since = {0};
    const char *p = find(s, end, cutoff);
    if (!tp->date.len)
        str_adds(&tp->date, "%Y-%m-%d");
    str_adds(&tp->system_tail, "\n\nReasoning strength: high.\n\n# Valid recipients: \"self\", \"user\".");
    str_adds(&tp->system_default, "You are a helpful AI assistant.\n");
    if (p && read_string(p + strlen(cutoff), end, '\'', &since))
        str_addf(&tp->system_default, "Knowledge cutoff: %s.\n", str_c(&since));
    str_addf(&tp->system_default, "Current date: \3.%s", str_c(&tp->system_tail));
    str_fini(&since);
}

static void detail_vicuna(struct template *tp, const char *s, const char *end)
{
    if (find(s, end, "SYSTEM: ")) {
        tp->format.system[0] = "SYSTEM: ";
        tp->format.system[1] = "\n";
    }
}

static void detail_deepseek_coder(struct template *tp, const char *s, const char *end)
{
    static const char lead[] = "{{'You are";
    const char *p = find(s, end, lead);
    if (p)
        read_string(p + 3, end, '\'', &tp->system_default);
}

static void detail_deepseek_r1(struct template *tp, const char *s, const char *end)
{
    if (find(s, end, "'<｜User｜>' + message['content'] + '<｜end▁of▁sentence｜>"))
        tp->format.user[1] = "<｜end▁of▁sentence｜>";
}

static void detail_monarch(struct template *tp, const char *s, const char *end)
{
    (void)s, (void)end;
    tp->format.head = NULL;
}

static void detail_glm45(struct template *tp, const char *s, const char *end)
{
    if (thinking_of(tp, s, end) != THINKING_OFF)
        return;
    tp->format.user[1] = "/nothink";
    tp->format.generate = "<|assistant|>\n<think></think>";
}

static void detail_glm47(struct template *tp, const char *s, const char *end)
{
    if (thinking_of(tp, s, end) == THINKING_OFF)
        tp->format.generate = tp->format.assistant[0];
}

/* Those of April 2025 trim texts and forget thoughts; the Z1 think. */
static void detail_glm4(struct template *tp, const char *s, const char *end)
{
    const char *p = find_last(s, end, "add_generation_prompt");
    if (find(s, end, "split('</think>')"))
        tp->format.flags |= FORMAT_TRIM | FORMAT_DROP_THOUGHT;
    if (find(p, end, "<|assistant|>\n<think>"))
        tp->format.generate = "<|assistant|>\n<think>";
    else if (find(p, end, "<|assistant|>{%"))
        tp->format.generate = "<|assistant|>";
}

static void detail_ernie(struct template *tp, const char *s, const char *end)
{
    if (find(s, end, "message[\"content\"] + \" \"")) /* the first ones */
        tp->format.system[1] = tp->format.user[1] = " ";
}

/* It thinks where its first system turn says so. */
static void detail_gemma4(struct template *tp, const char *s, const char *end)
{
    const char *p = thinking_of(tp, s, end) == THINKING_ON ? find(s, end, "'<|think|>") : NULL;
    if (p && read_string(p + 1, end, '\'', &tp->system_lead))
        tp->format.flags |= FORMAT_SYSTEM_ALWAYS;
    else
        str_clear(&tp->system_lead);
}

static void detail_exaone(struct template *tp, const char *s, const char *end)
{
    if (find(s, end, "[|system|][|endofturn|]"))
        tp->format.flags |= FORMAT_SYSTEM_ALWAYS;
}

/* A system turn is written out where the chat has none. */
static void detail_kimi(struct template *tp, const char *s, const char *end)
{
    static const char open[] = "<|im_system|>system<|im_middle|>";
    const char *text = find(s, end, open), *close = find(text, end, "<|im_end|>");
    text = close ? text + strlen(open) : NULL;
    if (text && !memchr(text, '{', (size_t)(close - text)) && !memchr(text, '\'', (size_t)(close - text)))
        str_add(&tp->system_default, text, (size_t)(close - text));
}

/* Whether it thinks stands at the end of every system text. */
static void detail_ling(struct template *tp, const char *s, const char *end)
{
    static const char option[] = "set thinking_option = '";
    struct str is = {0};
    const char *p = find(s, end, option);
    if (!p || !read_string(p + strlen(option), end, '\'', &is))
        str_clear(&is);
    if (tp->reasoning != TEMPLATE_REASONING_AUTO) {
        str_clear(&is);
        str_adds(&is, tp->reasoning == TEMPLATE_REASONING_ON ? "on" : "off");
    }
    if (p) {
        str_addf(&tp->system_default, "detailed thinking %s", str_c(&is));
        str_addf(&tp->system_tail, "\ndetailed thinking %s", str_c(&is));
    }
    str_fini(&is);
}

bool format_recognise(const char *source, size_t len, struct template *tp)
{
    const char *end = source + len;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        bool match = true;
        for (int m = 0; m < MARKS && match; m++)
            match = (!known[i].all[m] || find(source, end, known[i].all[m])) &&
                    (!known[i].none[m] || !find(source, end, known[i].none[m]));
        if (!match)
            continue;
        tp->format = known[i].format;
        if (!tp->format.head && find(source, end, "bos_token"))
            tp->format.head = "\1";
        read_date(tp, source, end);
        if (known[i].detail)
            known[i].detail(tp, source, end);
        const struct format *f = &tp->format;
        const char *head = f->generate ? f->generate : f->assistant[0];
        if (!(f->flags & FORMAT_HEAD_SOURCE) || !answer_head(tp, source, end, &tp->generate) ||
            tp->generate.len < strlen(head) || memcmp(tp->generate.data, head, strlen(head)) != 0) {
            str_clear(&tp->generate);
            str_adds(&tp->generate, head);
        }
        return true;
    }
    return false;
}
