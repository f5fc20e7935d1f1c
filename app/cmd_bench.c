/* `dogear bench`: tokens per second, counted as llama-bench counts them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "app/cli.h"
#include "engine/base/json.h"
#include "ui/format.h"

enum { MAX_CASES = 32 };

static void report(const struct options *o, const struct engine_info *info, json_t *rows,
                   const struct engine_bench *b, const struct engine_bench_result *r)
{
    char test[32];
    snprintf(test, sizeof test, b->n_prompt ? "pp%d" : "tg%d", b->n_prompt ? b->n_prompt : b->n_gen);
    if (o->json) {
        json_t *j = json_object();
        json_object_set_new(j, "test", json_string(test));
        json_object_set_new(j, "depth", json_integer(b->depth));
        json_object_set_new(j, "kv", json_string(info->kv));
        json_object_set_new(j, "tps_median", json_number(r->tps_median));
        json_object_set_new(j, "tps_min", json_number(r->tps_min));
        json_object_set_new(j, "tps_max", json_number(r->tps_max));
        json_object_set_new(j, "gbps", json_number(r->gbps));
        json_object_set_new(j, "gops", json_number(r->gops));
        json_object_set_new(j, "seal_share", json_number(r->seal_share));
        json_object_set_new(j, "limit_fraction", json_number(r->limit_fraction));
        if (b->ops) {
            json_t *ops = json_object();
            for (int i = 0; i < r->n_op; i++)
                json_object_set_new(ops, r->op[i].name,
                                    json_pack("{s:f, s:I}", "s", r->op[i].s, "calls",
                                              (json_int_t)r->op[i].n));
            json_object_set_new(j, "ops", ops);
        }
        json_array_append_new(rows, j);
        return;
    }
    char depth[FORMAT_SIZE];
    printf("%-8s %8s  %-10s %10.2f %10.2f %10.2f", test, format_count(depth, b->depth), info->kv, r->tps_median, r->tps_min,
           r->tps_max);
    printf(isnan(r->gbps) ? "       --" : " %8.1f", r->gbps);
    printf(isnan(r->gops) ? "       --" : " %8.0f", r->gops);
    printf(isnan(r->seal_share) ? "      --" : " %6.1f%%", r->seal_share * 100);
    printf(isnan(r->limit_fraction) ? "      --\n" : " %6.0f%%\n", r->limit_fraction * 100);
    double all = 0;
    for (int i = 0; i < r->n_op; i++)
        all += r->op[i].s;
    for (int i = 0; i < r->n_op; i++)
        printf("    %-12s %6.1f%%  %9.1f us a call, %lld calls\n", r->op[i].name,
               100 * r->op[i].s / all, 1e6 * r->op[i].s / (double)r->op[i].n,
               (long long)r->op[i].n);
    fflush(stdout);
}

int cmd_bench(struct options *o)
{
    struct err e;
    struct engine *en = NULL;
    int32_t prompts[MAX_CASES], depths[MAX_CASES];
    int n_prompt = 0, n_depth = 0;
    int32_t n_gen = o->n_predict_set ? o->n_predict : 64;
    enum status st = options_list(o->prompts_n ? o->prompts_n : "512", prompts, MAX_CASES, &n_prompt, &e);
    if (st == OK)
        st = options_list(o->depths ? o->depths : "0", depths, MAX_CASES, &n_depth, &e);
    int32_t need = 0;
    for (int i = 0; st == OK && i < n_depth; i++) {
        for (int k = 0; k < n_prompt; k++)
            need = depths[i] + prompts[k] > need ? depths[i] + prompts[k] : need;
        need = depths[i] + n_gen > need ? depths[i] + n_gen : need;
    }
    if (st == OK) {
        struct options with = *o;
        if (with.n_ctx == 0)
            with.n_ctx = need + 64;
        st = cli_engine(&with, false, NULL, NULL, &en, &e);
    }
    if (st != OK)
        return cli_fail(&e);
    const struct engine_info *info = engine_info(en);
    json_t *rows = json_array();
    if (!o->json) {
        cli_print_safe(info->name, strlen(info->name));
        printf(", %s, %s\n%-8s %8s  %-10s %10s %10s %10s %8s %8s %7s %7s\n", info->type,
               info->backend, "test", "depth", "kv", "median t/s", "min", "max", "GB/s", "GOP/s", "sealing", "limit");
    }
    for (int d = 0; st == OK && d < n_depth; d++) {
        for (int i = 0; st == OK && i <= n_prompt; i++) {
            struct engine_bench b = {.depth = depths[d], .n_rep = o->n_rep, .ops = o->ops};
            if (i < n_prompt)
                b.n_prompt = prompts[i];
            else
                b.n_gen = n_gen;
            if (b.n_prompt <= 0 && b.n_gen <= 0)
                continue;
            struct engine_bench_result r;
            st = engine_bench(en, &b, &r, &e);
            if (st == OK)
                report(o, info, rows, &b, &r);
        }
    }
    if (o->json && st == OK)
        json_print(rows);
    else
        json_decref(rows);
    engine_close(en);
    return st == OK ? 0 : cli_fail(&e);
}
