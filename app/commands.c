/* The slash commands; see commands.h. */
#include "app/commands.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "app/chat.h"
#include "app/figures.h"
#include "app/options.h"
#include "app/paths.h"
#include "app/screen.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/engine.h"
#include "sessions/sessions.h"
#include "ui/format.h"
#include "ui/keymap.h"
#include "ui/theme.h"

struct command {
    const char *name, *aliases; /* aliases: space separated, "" = none */
    void (*run)(struct screen *sc, const char *args);
    bool path; /* takes a file: ~/ is the home folder */
};

/* ---- handlers ---- */

static void cmd_help(struct screen *sc, const char *args)
{
    (void)args;
    screen_act(sc, ACT_HELP);
}

static void cmd_quit(struct screen *sc, const char *args)
{
    (void)args;
    screen_quit(sc);
}

static void cmd_new(struct screen *sc, const char *args)
{
    (void)args;
    screen_act(sc, ACT_NEW);
}

static void cmd_regen(struct screen *sc, const char *args)
{
    (void)args;
    screen_act(sc, ACT_REGENERATE);
}

static void cmd_undo(struct screen *sc, const char *args)
{
    struct err e;
    (void)args;
    if (chat_undo(screen_chat(sc), &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "one question back; nothing is deleted, /redo brings it back");
    screen_refresh(sc);
}

static void cmd_redo(struct screen *sc, const char *args)
{
    struct err e;
    (void)args;
    if (chat_redo(screen_chat(sc), &e) != OK)
        screen_error(sc, &e);
    screen_refresh(sc);
}

static void cmd_edit(struct screen *sc, const char *args)
{
    (void)args;
    screen_edit_last(sc);
}

static void cmd_fork(struct screen *sc, const char *args)
{
    struct chat *c = screen_chat(sc);
    struct err e;
    int64_t id;
    (void)args;
    if (chat_fork(c, chat_count(c) - 1, &id, &e) != OK) {
        screen_error(sc, &e);
        return;
    }
    screen_open(sc, id);
    screen_notice(sc, "a new conversation that shares everything up to here");
}

static void cmd_continue(struct screen *sc, const char *args)
{
    (void)args;
    screen_continue(sc);
}

static void cmd_compact(struct screen *sc, const char *args)
{
    (void)args;
    screen_compact(sc);
}

static void cmd_list(struct screen *sc, const char *args)
{
    (void)args;
    screen_pick(sc);
}

static void cmd_switch(struct screen *sc, const char *args)
{
    char *end;
    if (!args[0]) {
        screen_pick(sc);
        return;
    }
    long long id = strtoll(args, &end, 10);
    if (*end || id <= 0) {
        screen_search(sc, args);
        return;
    }
    screen_open(sc, id);
}

static void cmd_search(struct screen *sc, const char *args)
{
    screen_search(sc, args);
}

static void cmd_rename(struct screen *sc, const char *args)
{
    if (!args[0])
        screen_notice(sc, "write /rename and the new title");
    else
        screen_rename(sc, chat_conversation(screen_chat(sc)), args);
}

static void cmd_delete(struct screen *sc, const char *args)
{
    (void)args;
    screen_delete(sc, chat_conversation(screen_chat(sc)));
}

static void cmd_store_budget(struct screen *sc, const char *args)
{
    struct sessions *s = screen_store(sc);
    struct sessions_budget b;
    struct err e;
    uint64_t want = 0;
    enum status st = *args ? options_size(args, &want, &e) : OK;
    if (st == OK && *args)
        st = sessions_budget_set(s, (int64_t)want, &e);
    if (st == OK)
        st = sessions_budget_get(s, &b, &e);
    if (st != OK) {
        screen_error(sc, &e);
        return;
    }
    struct str text = {0};
    char limit[FORMAT_SIZE], used[FORMAT_SIZE];
    str_addf(&text, "caches on disk: %s of %s%s", format_bytes(used, b.used_bytes),
             format_bytes(limit, b.limit_bytes), b.automatic ? " (automatic)" : "");
    screen_notice(sc, str_c(&text));
    str_fini(&text);
}

static void cmd_pin(struct screen *sc, const char *args)
{
    (void)args;
    screen_pin(sc);
}

static void cmd_thin(struct screen *sc, const char *args)
{
    (void)args;
    screen_thin(sc);
}

static void cmd_budget(struct screen *sc, const char *args)
{
    uint64_t size_bytes;
    struct err e;
    char used[FORMAT_SIZE], budget[FORMAT_SIZE];
    const struct stats *st = screen_stats(sc);
    if (!args[0])
        screen_notice(sc, "the cache takes %s of %s; /budget SIZE changes that, 0 is automatic",
                      format_bytes(used, st->kv_bytes), format_bytes(budget, st->kv_budget_bytes));
    else if (options_size(args, &size_bytes, &e) != OK)
        screen_error(sc, &e);
    else
        screen_budget(sc, size_bytes);
}

static void cmd_reasoning(struct screen *sc, const char *args)
{
    struct err e;
    if (!args[0])
        screen_notice(sc, "write /reasoning and on, off or auto: whether the model thinks before it answers");
    else if (engine_set_reasoning(screen_engine_of(sc), args, &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "reasoning is %s from the next question on", args);
}

static void cmd_kv(struct screen *sc, const char *args)
{
    struct str s = {0};
    const char *what, *name;
    if (args[0]) {
        screen_kv(sc, args);
        return;
    }
    for (int i = 0; (name = engine_kv_name(screen_engine_of(sc), i, &what)); i++)
        str_addf(&s, "%-15s  %s\n", name, what);
    str_adds(&s, "\n/kv NAME changes it; the chat is taken from disk or read again.");
    screen_text(sc, "KV presets", str_take(&s));
}

static void cmd_system(struct screen *sc, const char *args)
{
    struct chat *c = screen_chat(sc);
    const char *now = chat_system(c), *text = strcmp(args, "\"\"") ? args : "";
    struct err e;
    if (args[0]) {
        bool begun = chat_count(c) > (now != NULL), same = strcmp(now ? now : "", text) == 0;
        if (chat_set_system(c, text, &e) != OK)
            screen_error(sc, &e);
        else if (same)
            screen_notice(sc, "this is the system prompt already: nothing changed");
        else
            screen_notice(sc, begun ? "another branch, with this system prompt: it is read with your next message"
                                    : "system prompt set for this conversation");
        screen_refresh(sc);
        return;
    }
    if (now)
        screen_text(sc, chat_count(c) > 0 ? "System prompt" : "System prompt, from the first message on",
                    mem_strdup(now));
    else
        screen_notice(sc, "no system prompt; /system TEXT sets one");
}

static void show_settings(struct screen *sc)
{
    struct str s = {0};
    const char *name, *help;
    char value[OPTIONS_VALUE];
    for (int i = 0; options_sampling(chat_sampling(screen_chat(sc)), i, &name, value, &help); i++)
        str_addf(&s, "%-14s %-6s %s\n", name, value, help);
    str_adds(&s, "\n/set NAME VALUE changes one, from the next answer on.");
    screen_text(sc, "Sampling", str_take(&s));
}

static void cmd_set(struct screen *sc, const char *args)
{
    char name[32];
    if (!args[0]) {
        show_settings(sc);
        return;
    }
    if (strncmp(args, "parameter ", 10) == 0) /* as ollama spells it */
        args += 10;
    size_t n = strcspn(args, " =");
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : (int)sizeof name - 1, args);
    for (char *p = name; *p; p++)
        if (*p == '_')
            *p = '-';
    const char *value = args + n + strspn(args + n, " =");
    if (strcmp(name, "system") == 0) {
        cmd_system(sc, value);
        return;
    }
    struct engine_sampling s = *chat_sampling(screen_chat(sc));
    struct err e;
    int i;
    enum status st = options_sampling_set(&s, name, value, &i, &e);
    if (st != OK) {
        screen_notice(sc, "%s%s", e.text, st == ERR_NOT_FOUND ? "; /set alone lists them" : "");
        return;
    }
    chat_set_sampling(screen_chat(sc), &s, chat_predict(screen_chat(sc)));
    const char *known, *help;
    char shown[OPTIONS_VALUE];
    if (options_sampling(&s, i, &known, shown, &help))
        screen_notice(sc, "%s is %s from the next answer on", known, shown);
}

static void cmd_model(struct screen *sc, const char *args)
{
    const struct engine_info *in = engine_info(screen_engine_of(sc));
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    struct str s = {0};
    long long id = chat_conversation(screen_chat(sc));
    if (args[0]) {
        char resume[32] = "";
        if (id > 0)
            snprintf(resume, sizeof resume, " -r %lld", id);
        screen_notice(sc, "the model is chosen at the start: dogear -m %s%s", args, resume);
        return;
    }
    str_addf(&s, "name          %s\narchitecture  %s, %s weights\n", in->name, in->arch, in->type);
    str_addf(&s, "parameters    %s, %s on disk\n", format_count(a, in->n_param),
             format_bytes(b, in->file_bytes));
    str_addf(&s, "context       %s tokens", format_count(a, in->n_ctx));
    str_addf(&s, " (trained with %s)\n", format_count(a, in->n_ctx_train));
    str_addf(&s, "layers        %d, ", (int)in->n_layer);
    if (in->n_layer_state > 0)
        str_addf(&s, "%d with a cache, %d with a state of fixed size, ", (int)in->n_layer_kv,
                 (int)in->n_layer_state);
    else if (in->n_layer_kv < in->n_layer)
        str_addf(&s, "%d with a cache (the others read it, too), ", (int)in->n_layer_kv);
    str_addf(&s, "%d heads (%d for keys and values) of %d", (int)in->n_head, (int)in->n_head_kv,
             (int)in->head_dim);
    if (in->n_head_kv_local != in->n_head_kv || in->head_dim_local != in->head_dim)
        str_addf(&s, ", where they slide (%d) of %d", (int)in->n_head_kv_local, (int)in->head_dim_local);
    str_addc(&s, '\n');
    str_addf(&s, "vocabulary    %s tokens\n", format_count(a, in->n_vocab));
    str_addf(&s, "chat format   %s\n", in->chat_format[0] ? in->chat_format : "none: plain text");
    const char *kv = screen_stats(sc)->kv[0] ? screen_stats(sc)->kv : in->kv;
    struct engine_preset p = {0};
    for (int32_t i = 0; engine_preset(i, &p) && strcmp(p.name, kv) != 0;)
        i++;
    str_addf(&s, "cache         %s%s\nruns on       %s", kv[0] ? kv : "--",
             p.lossy       ? " (lossy: tokens are dropped for good)"
             : p.simulated ? " (simulated: memory holds f16)"
                           : "",
             in->backend);
    if (in->notice[0])
        str_addf(&s, "\n\n%s", in->notice);
    if (in->demo)
        str_adds(&s, "\n\nThis is the small model that comes with Dogear. `dogear models` lists "
                     "others on this machine; -m chooses one.");
    screen_text(sc, "Model", str_take(&s));
}

static void cmd_context(struct screen *sc, const char *args)
{
    struct stats st = *screen_stats(sc);
    char a[FORMAT_SIZE], b[FORMAT_SIZE], c[FORMAT_SIZE];
    struct str s = {0};
    (void)args;
    double part = st.n_ctx > 0 && st.n_tok >= 0 ? (double)st.n_tok / st.n_ctx : NAN;
    str_addf(&s, "tokens held    %s of %s (%s)\n", format_count(a, st.n_tok),
             format_count(b, st.n_ctx), format_percent(c, part));
    str_addf(&s, "last prompt    %s reused, %s read\n", format_count(a, st.n_reused),
             format_count(b, st.n_read));
    str_addf(&s, "cache          %s (%s in f16)\n", format_bytes(a, st.kv_chat_bytes),
             format_bytes(b, st.kv_f16_bytes));
    str_addf(&s, "per token      %s\n",
             format_bytes(a, isfinite(st.bytes_per_tok) ? (int64_t)st.bytes_per_tok : -1));
    str_addf(&s, "messages       %s", format_count(a, chat_count(screen_chat(sc))));
    screen_text(sc, "Context", str_take(&s));
}

/* What sparse attention did in the last turn. */
static void add_sparse(struct str *s, const struct stats *st)
{
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    str_addf(s, "sparse prefill %s\n", st->sparse_reason ? st->sparse_reason : "--");
    str_addf(s, "  computed     %s of the prompt's attention\n", format_percent(a, st->density));
    str_addf(s, "  mass kept    %s on average, %s at the 5th percentile",
             format_permille(a, st->retained_mass), format_permille(b, st->mass_p5));
    str_addf(s, "\n  worst head   %s", format_permille(a, st->mass_worst));
    if (st->worst_layer >= 0)
        str_addf(s, ", layer %d, head %d", (int)st->worst_layer, (int)st->worst_head);
    str_addf(s, "\n  faster       %s times predicted, ", format_rate(a, st->gain_predicted));
    str_addf(s, "%s measured\n", format_rate(a, st->gain_measured));
    str_addf(s, "answer         read %s of the cache, ", format_percent(a, st->decode_density));
    str_addf(s, "%s of the mass kept\n", format_permille(a, st->decode_mass));
}

static void cmd_coverage(struct screen *sc, const char *args)
{
    char *end;
    double c = strtod(args, &end);
    if (!args[0]) {
        struct stats st = *screen_stats(sc);
        struct str s = {0};
        str_addf(&s, "coverage       %g%s\n", st.coverage, st.coverage >= 1 ? " (dense)" : "");
        add_sparse(&s, &st);
        str_adds(&s, "\n/coverage C changes it from the next answer on; 1 is dense.");
        screen_text(sc, "Coverage", str_take(&s));
        return;
    }
    if (*end || !(c >= (double)ENGINE_COVERAGE_MIN && c <= 1)) {
        screen_notice(sc, "/coverage takes a number from %g to 1 (1 = dense), not \"%.40s\"",
                      (double)ENGINE_COVERAGE_MIN, args);
        return;
    }
    screen_coverage(sc, c);
    screen_notice(sc, "coverage is %g%s from the next answer on", c, c >= 1 ? " (dense)" : "");
}

static void cmd_stats(struct screen *sc, const char *args)
{
    struct stats st = *screen_stats(sc);
    char a[FORMAT_SIZE], b[FORMAT_SIZE];
    struct str s = {0};
    if (args[0]) {
        struct err e;
        int64_t id = chat_conversation(screen_chat(sc));
        if (figures_write(screen_store(sc), id, &st, args, &e) != OK)
            screen_error(sc, &e);
        else
            screen_notice(sc, "written to %s", args);
        return;
    }
    str_addf(&s, "reading        %s tokens/s\nwriting        %s tokens/s\n",
             format_rate(a, st.prefill_tps), format_rate(b, st.decode_tps));
    str_addf(&s, "first token    %s\n", format_seconds(a, st.ttft_s));
    str_addf(&s, "written        %s tokens\n", format_count(a, st.n_generated));
    add_sparse(&s, &st);
    str_addf(&s, "\nweights        %s\nscratch        %s\n", format_bytes(a, st.weights_bytes),
             format_bytes(b, st.scratch_bytes));
    str_addf(&s, "cache          %s of %s\n", format_bytes(a, st.kv_bytes),
             format_bytes(b, st.kv_budget_bytes));
    str_addf(&s, "process        %s in memory", format_bytes(a, st.rss_bytes));
    if (st.vram_bytes >= 0)
        str_addf(&s, ", %s on the GPU", format_bytes(a, st.vram_bytes));
    screen_text(sc, "Figures", str_take(&s));
}

static void cmd_verify(struct screen *sc, const char *args)
{
    (void)args;
    screen_verify(sc);
}

void commands_verified(struct screen *sc, const struct engine_fidelity *f)
{
    char kl[FORMAT_SIZE], top[FORMAT_SIZE], n[FORMAT_SIZE], choice[96], alone[96] = "";
    char kl_alone[FORMAT_SIZE], top_alone[FORMAT_SIZE];
    if (f->n == 0) {
        screen_notice(sc, "verifying stopped before anything was compared");
        return;
    }
    if (f->first_divergence < 0)
        snprintf(choice, sizeof choice, "every first choice the same");
    else
        snprintf(choice, sizeof choice, "same first choice %s", format_permille(top, f->top1));
    if (isfinite(f->kl_rounding))
        snprintf(alone, sizeof alone, "; rounding alone: KL %s, %s", format_small(kl_alone, f->kl_rounding),
                 format_permille(top_alone, f->top1_rounding));
    screen_notice(sc, "verified %s tokens%s: KL %s, %s%s", format_count(n, f->n),
                  f->n < f->n_tok ? " (stopped)" : "", format_small(kl, f->kl_mean), choice, alone);
}

static void cmd_copy(struct screen *sc, const char *args)
{
    char *end;
    long n = strtol(args, &end, 10);
    if (args[0] && (*end || n < 1 || n > 1000000))
        screen_notice(sc, "/copy takes the number beside a code block, or nothing for the answer");
    else
        screen_copy(sc, (int)n);
}

static void cmd_export(struct screen *sc, const char *args)
{
    screen_export(sc, args);
}

static void cmd_save(struct screen *sc, const char *args)
{
    struct err e;
    if (args[0])
        screen_export(sc, args);
    else if (sessions_flush(screen_store(sc), &e) != OK)
        screen_error(sc, &e);
    else
        screen_notice(sc, "everything is saved as you type; /export writes a file");
}

static void cmd_theme(struct screen *sc, const char *args)
{
    if (args[0]) {
        screen_theme(sc, args);
        return;
    }
    struct str s = {0};
    for (int i = 0; theme_builtin(i); i++)
        str_addf(&s, "%s%s", i ? ", " : "", theme_builtin(i));
    screen_notice(sc, "/theme takes %s or the path of a .conf file", str_c(&s));
    str_fini(&s);
}

static void cmd_screenshot(struct screen *sc, const char *args)
{
    screen_screenshot(sc, args);
}

static void cmd_think(struct screen *sc, const char *args)
{
    (void)args;
    screen_act(sc, ACT_THINKING);
}

/* ---- the table: rows of help and of handlers in the same order ---- */

static const struct ui_command rows[] = {
    {"/help", "keys and commands"},
    {"/new", "new conversation; the old one stays saved"},
    {"/clear", "the same as /new: nothing is ever deleted by it"},
    {"/list", "the conversations"},
    {"/switch [ID or WORDS]", "open another; an answer goes on meanwhile"},
    {"/search WORDS", "search all conversations"},
    {"/rename TITLE", "give this conversation a title"},
    {"/pin", "pin or unpin this conversation"},
    {"/store-budget [SIZE]", "disk for the caches of all chats; 0 = automatic"},
    {"/thin", "make its cache on disk smaller (asks first)"},
    {"/budget [SIZE]", "memory for the cache, e.g. 512M; 0 = automatic"},
    {"/kv [NAME]", "show or change how the cache is kept"},
    {"/delete", "delete this conversation (asks first)"},
    {"/regen", "answer again; the old answer stays beside it"},
    {"/continue", "go on with an answer that was cut"},
    {"/edit", "edit your last message as a new branch"},
    {"/undo", "step back before the last question"},
    {"/redo", "forward again by one question"},
    {"/fork", "new conversation that shares this one so far"},
    {"/compact", "go on shorter: a summary and the last messages"},
    {"/system [TEXT]", "show or set the system prompt (\"\": none)"},
    {"/set [NAME VALUE]", "show or change sampling: temp, top-k, seed ..."},
    {"/model", "what is loaded"},
    {"/context", "how full the context is"},
    {"/stats [FILE]", "speed and memory; in FILE turn by turn"},
    {"/coverage [C]", "share of attention to keep; 1 = dense"},
    {"/verify", "measure exactly what compression costs here"},
    {"/think", "show or hide the model's thinking"},
    {"/reasoning on|off|auto", "whether the model thinks before it answers"},
    {"/copy [N]", "copy the last answer, or code block N"},
    {"/export [FILE]", "write it as Markdown (or .json, .dogear)"},
    {"/save [FILE]", "everything is saved anyway; with FILE as /export"},
    {"/theme NAME", "dark, light, mono or a file"},
    {"/screenshot [FILE]", "save a picture of the window as PNG"},
    {"/quit", "leave; also /exit and /bye"},
};

static const struct command commands[] = {
    {"/help", "/?", cmd_help},
    {"/new", "", cmd_new},
    {"/clear", "", cmd_new},
    {"/list", "/ls", cmd_list},
    {"/switch", "/resume /open", cmd_switch},
    {"/search", "/find", cmd_search},
    {"/rename", "/title", cmd_rename},
    {"/pin", "", cmd_pin},
    {"/store-budget", "", cmd_store_budget},
    {"/thin", "", cmd_thin},
    {"/budget", "", cmd_budget},
    {"/kv", "/preset", cmd_kv},
    {"/delete", "/rm", cmd_delete},
    {"/regen", "/regenerate /retry", cmd_regen},
    {"/continue", "/cont", cmd_continue},
    {"/edit", "", cmd_edit},
    {"/undo", "", cmd_undo},
    {"/redo", "", cmd_redo},
    {"/fork", "/branch", cmd_fork},
    {"/compact", "/summarize /summarise", cmd_compact},
    {"/system", "", cmd_system},
    {"/set", "/parameter", cmd_set},
    {"/model", "/info", cmd_model},
    {"/context", "/tokens /ctx", cmd_context},
    {"/stats", "", cmd_stats, .path = true},
    {"/coverage", "", cmd_coverage},
    {"/verify", "", cmd_verify},
    {"/think", "/nothink /thinking", cmd_think},
    {"/reasoning", "", cmd_reasoning},
    {"/copy", "", cmd_copy},
    {"/export", "", cmd_export, .path = true},
    {"/save", "", cmd_save, .path = true},
    {"/theme", "", cmd_theme, .path = true},
    {"/screenshot", "", cmd_screenshot, .path = true},
    {"/quit", "/exit /bye /q", cmd_quit},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };
_Static_assert(sizeof rows / sizeof *rows == COMMAND_COUNT, "every command has a row of help");

const struct ui_command *commands_list(int *ret_n)
{
    *ret_n = COMMAND_COUNT;
    return rows;
}

static bool has_alias(const char *aliases, const char *name, size_t n)
{
    for (const char *s = aliases; *s;) {
        size_t len = strcspn(s, " ");
        if (len == n && memcmp(s, name, n) == 0)
            return true;
        s += len + strspn(s + len, " ");
    }
    return false;
}

bool commands_run(struct screen *sc, const char *line)
{
    size_t n = strcspn(line, " ");
    const char *args = line + n + strspn(line + n, " ");
    char *trimmed = mem_strdup(args);
    size_t len = strlen(trimmed);
    while (len > 0 && trimmed[len - 1] == ' ')
        trimmed[--len] = '\0';
    int at = 0;
    while (at < COMMAND_COUNT &&
           !(strlen(commands[at].name) == n && strncmp(commands[at].name, line, n) == 0) &&
           !has_alias(commands[at].aliases, line, n))
        at++;
    if (at < COMMAND_COUNT && commands[at].path && strncmp(trimmed, "~/", 2) == 0) {
        char *full = paths_home(trimmed + 2);
        free(trimmed);
        trimmed = full;
    }
    bool alone = at < COMMAND_COUNT && !strchr(rows[at].usage, ' ') && commands[at].run != cmd_model; /* which says more */
    if (alone && trimmed[0])
        screen_notice(sc, "%s takes nothing behind it: nothing was done", rows[at].usage);
    else if (at < COMMAND_COUNT)
        commands[at].run(sc, trimmed);
    else
        screen_notice(sc, "there is no command %.*s; /help lists them, // sends it as text",
                      n < 30 ? (int)n : 30, line);
    free(trimmed);
    return at < COMMAND_COUNT;
}

const char *commands_complete(const char *text)
{
    static char buf[32];
    size_t n = strlen(text), common = 0;
    int hits = 0, last = 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *name = commands[i].name;
        if (strncmp(name, text, n) != 0)
            continue;
        if (hits++ == 0) {
            common = strlen(name);
        } else {
            size_t k = 0;
            while (k < common && name[k] == commands[last].name[k])
                k++;
            common = k;
        }
        last = i;
    }
    if (hits == 0 || (hits > 1 && common <= n))
        return NULL;
    bool takes = hits == 1 && strchr(rows[last].usage, ' ');
    snprintf(buf, sizeof buf, "%.*s%s", (int)common, commands[last].name, takes ? " " : "");
    return strcmp(buf, text) == 0 ? NULL : buf;
}
