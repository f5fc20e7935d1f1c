/* Figures as text; see figures.h. */
#include "app/figures.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/export.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "sessions/sessions.h"

static json_t *layers(const float *v, int32_t n)
{
    json_t *a = json_array();
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(a, json_number((double)v[i]));
    return a;
}

/* A time of CLOCK_MONOTONIC as milliseconds since 1970, and back: the first ends with the machine. */
static int64_t clock_lead_ms(void)
{
    struct timespec wall, mono;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    return ((int64_t)wall.tv_sec - mono.tv_sec) * 1000 + (wall.tv_nsec - mono.tv_nsec) / 1000000;
}

static json_t *figures_json(const struct stats *s)
{
    json_t *tiers = json_object();
    for (int i = 0; i < STATS_TIERS; i++)
        json_object_set_new(tiers, stats_tier_name[i], json_count(s->tier_bytes[i]));
    const struct {
        const char *name;
        json_t *value;
    } fields[] = {
        {"n_ctx", json_count(s->n_ctx)},
        {"n_tok", json_count(s->n_tok)},
        {"tokens_reused", json_count(s->n_reused)},
        {"tokens_read", json_count(s->n_read)},
        {"tokens_generated", json_count(s->n_generated)},
        {"prefill_tps", json_number(s->prefill_tps)},
        {"decode_tps", json_number(s->decode_tps)},
        {"ttft_s", json_number(s->ttft_s)},
        {"density", json_number(s->density)},
        {"retained_mass", json_number(s->retained_mass)},
        {"coverage", json_number(s->coverage)},
        {"sparse_reason", s->sparse_reason ? json_string(s->sparse_reason) : json_null()},
        {"mass_p5", json_number(s->mass_p5)},
        {"mass_worst", json_number(s->mass_worst)},
        {"worst_layer", json_count(s->worst_layer)},
        {"worst_head", json_count(s->worst_head)},
        {"output_error", json_number(s->output_error)},
        {"correction", json_number(s->correction)},
        {"gain_predicted", json_number(s->gain_predicted)},
        {"gain_measured", json_number(s->gain_measured)},
        {"decode_density", json_number(s->decode_density)},
        {"decode_mass", json_number(s->decode_mass)},
        {"weights_bytes", json_count(s->weights_bytes)},
        {"scratch_bytes", json_count(s->scratch_bytes)},
        {"kv_bytes", json_count(s->kv_bytes)},
        {"kv_chat_bytes", json_count(s->kv_chat_bytes)},
        {"kv_f16_bytes", json_count(s->kv_f16_bytes)},
        {"kv_budget_bytes", json_count(s->kv_budget_bytes)},
        {"fit_tokens", json_count(s->fit_tok)},
        {"fit_tokens_floor", json_count(s->fit_floor_tok)},
        {"kv", s->kv[0] ? json_string(s->kv) : json_null()},
        {"rss_bytes", json_count(s->rss_bytes)},
        {"vram_bytes", json_count(s->vram_bytes)},
        {"tier_bytes", tiers},
        {"layer_density", layers(s->layer_density, s->n_layer)},
        {"layer_mass", layers(s->layer_mass, s->n_layer)},
        {"bytes_per_token", json_number(s->bytes_per_tok)},
        {"harm_predicted", json_number(s->harm_predicted)},
        {"kl_measured", json_number(s->verified.kl)},
        {"top1_measured", json_number(s->verified.top1)},
        {"fidelity_n", json_count(s->verified.n)},
        {"fidelity_at_ms", isfinite(s->verified.at_s)
                               ? json_integer((int64_t)(s->verified.at_s * 1000) + clock_lead_ms())
                               : json_null()},
        {"kl_p99_measured", json_number(s->verified.kl_p99)},
        {"nll_difference", json_number(s->verified.nll_difference)},
        {"first_divergence", json_count(s->verified.first_divergence)},
        {"kl_rounding", json_number(s->verified.kl_rounding)},
        {"top1_rounding", json_number(s->verified.top1_rounding)},
        {"step_error", json_number(s->step_error)},
        {"harm_measured", json_number(s->harm_measured)},
        {"step_n", json_count(s->step_n)},
    };
    json_t *j = json_object();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        json_object_set_new(j, fields[i].name, fields[i].value);
    return j;
}

char *figures_text(const struct stats *s, const struct stats_agree *agree, int32_t n)
{
    json_t *j = figures_json(s);
    if (n > 0) {
        json_t *kl = json_array(), *same = json_array();
        for (int32_t i = 0; i < n; i++) {
            json_array_append_new(kl, json_number((double)agree[i].kl));
            json_array_append_new(same, json_boolean(agree[i].same));
        }
        json_object_set_new(j, "token_kl", kl);
        json_object_set_new(j, "token_same", same);
    }
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(j);
    return text ? text : mem_strdup("{}");
}

static double number(const json_t *j, const char *name)
{
    const json_t *v = json_object_get(j, name);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static int64_t whole(const json_t *j, const char *name)
{
    const json_t *v = json_object_get(j, name);
    return json_is_integer(v) ? json_integer_value(v) : -1;
}

bool figures_parse(const char *text, struct stats *ret)
{
    json_t *j = json_loads(text, 0, NULL);
    stats_init(ret);
    if (!json_is_object(j)) {
        json_decref(j);
        return false;
    }
    ret->n_tok = (int32_t)whole(j, "n_tok");
    ret->kv_chat_bytes = whole(j, "kv_chat_bytes");
    ret->decode_tps = number(j, "decode_tps");
    ret->prefill_tps = number(j, "prefill_tps");
    ret->ttft_s = number(j, "ttft_s");
    ret->harm_predicted = number(j, "harm_predicted");
    const json_t *tiers = json_object_get(j, "tier_bytes");
    for (int i = 0; i < STATS_TIERS; i++)
        ret->tier_bytes[i] = whole(tiers, stats_tier_name[i]);
    const char *kv = json_string_value(json_object_get(j, "kv"));
    snprintf(ret->kv, sizeof ret->kv, "%s", kv ? kv : "");
    ret->verified.kl = number(j, "kl_measured");
    ret->verified.top1 = number(j, "top1_measured");
    ret->verified.kl_p99 = number(j, "kl_p99_measured");
    ret->verified.nll_difference = number(j, "nll_difference");
    ret->verified.first_divergence = (int32_t)whole(j, "first_divergence");
    ret->verified.kl_rounding = number(j, "kl_rounding");
    ret->verified.top1_rounding = number(j, "top1_rounding");
    ret->verified.n = (int32_t)whole(j, "fidelity_n");
    ret->verified.at_s = (number(j, "fidelity_at_ms") - (double)clock_lead_ms()) / 1000;
    json_decref(j);
    return true;
}

struct stats_agree *figures_agree(const char *text, int32_t *ret_n)
{
    struct stats_agree *a = NULL;
    json_t *j = json_loads(text, 0, NULL);
    const json_t *kl = json_object_get(j, "token_kl"), *same = json_object_get(j, "token_same");
    size_t n = json_array_size(kl);
    if (n > 0 && n == json_array_size(same) && n <= INT32_MAX) {
        a = mem_alloc(n * sizeof *a);
        for (size_t i = 0; i < n; i++)
            a[i] = (struct stats_agree){(float)json_number_value(json_array_get(kl, i)),
                                        json_is_true(json_array_get(same, i))};
        *ret_n = (int32_t)n;
    }
    json_decref(j);
    return a;
}

/* ---- files ---- */

static void add_json(struct str *out, int64_t conversation, const struct stats *now,
                     const struct sessions_turn *t, int32_t n)
{
    json_t *j = figures_json(now), *turns = json_array();
    json_object_set_new(j, "conversation", json_integer(conversation));
    for (int32_t i = 0; i < n; i++) {
        json_t *one = json_loads(t[i].figures, 0, NULL);
        if (!json_is_object(one)) {
            json_decref(one);
            continue;
        }
        json_object_set_new(one, "message", json_integer(t[i].message));
        json_object_set_new(one, "at_ms", json_integer(t[i].at_ms));
        json_array_append_new(turns, one);
    }
    json_object_set_new(j, "turns", turns);
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(7)); /* some were floats */
    str_adds(out, text ? text : "{}");
    str_addc(out, '\n');
    free(text);
    json_decref(j);
}

/* Columns are the numbers and words of one turn, in the order of the JSON; an empty field is
 * unknown. */
static void add_csv(struct str *out, const struct sessions_turn *t, int32_t n)
{
    struct stats none;
    stats_init(&none);
    json_t *names = figures_json(&none);
    const char *key;
    json_t *value;
    str_adds(out, "message,at_ms");
    json_object_foreach(names, key, value) if (!json_is_object(value) && !json_is_array(value))
        str_addf(out, ",%s", key);
    str_addc(out, '\n');
    for (int32_t i = 0; i < n; i++) {
        json_t *one = json_loads(t[i].figures, 0, NULL);
        str_addf(out, "%lld,%lld", (long long)t[i].message, (long long)t[i].at_ms);
        json_object_foreach(names, key, value)
        {
            if (json_is_object(value) || json_is_array(value))
                continue;
            const json_t *v = json_object_get(one, key);
            if (json_is_integer(v))
                str_addf(out, ",%lld", (long long)json_integer_value(v));
            else if (json_is_real(v))
                str_addf(out, ",%.9g", json_real_value(v));
            else if (json_is_string(v))
                str_addf(out, ",\"%s\"", json_string_value(v));
            else
                str_addc(out, ',');
        }
        str_addc(out, '\n');
        json_decref(one);
    }
    json_decref(names);
}

enum status figures_write(struct sessions *store, int64_t conversation, const struct stats *now,
                          const char *path, struct err *e)
{
    struct sessions_turn *t = NULL;
    struct str text = {0};
    int32_t n = 0;
    if (conversation)
        TRY(sessions_turns(store, conversation, &t, &n, e));
    size_t len = strlen(path);
    if (len > 4 && strcmp(path + len - 4, ".csv") == 0)
        add_csv(&text, t, n);
    else
        add_json(&text, conversation, now, t, n);
    sessions_turns_free(t, n);
    enum status st = export_write(path, str_c(&text), text.len, e);
    str_fini(&text);
    return st;
}
