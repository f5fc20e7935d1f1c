/* Every variety of architecture on a small random model (tests/support/tinymodel.h): the loss on a
 * text and some logits beside what llama.cpp computes from the same file, on every instruction set,
 * and whatever the chunks are. `engine_test_archs write DIR` writes the models, plainly, since the
 * peer rounds what it multiplies with block types, and the text (ids.bin). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/experts.h"
#include "engine/policy.h"
#include "engine/presets.h"
#include "tests/engine/bed.h"
#include "tests/support/tinymodel.h"

/* Both compute in float32: what differs is the order of sums and the exponential. */
#define NLL_EXACT 2e-5
#define LOGIT_EXACT 1e-3
/* The peer takes GELU from a table of f16 values: 5e-5 and 0.004 were measured; in Gemma 4, which has more of
 * them and sharper attention, 7e-4 and 0.008 (with such a table here 2e-4 and 0.001). */
#define NLL_GELU 2e-4
#define NLL_GEMMA4 1e-3
#define LOGIT_GELU 2e-2
/* With f16 keys and values; now and then a router then chooses another expert. Measured: up to 0.012 and
 * 0.1. A part left out or in the wrong place moves both by more than 1. */
#define NLL_F16 2e-2
#define LOGIT_F16 2e-1
/* The same; MXFP4 goes through the matrix units as f16: 0.006 and 0.08 were measured. */
#define NLL_CUDA 2e-2
#define LOGIT_CUDA 1e-1
/* Tokens one by one, or a few: nothing becomes f16 but keys and values. MXFP4 is multiplied by inputs of
 * 15 bits there, of 8 bits on the CPU. */
#define LOGIT_FEW 1e-2
#define LOGIT_FEW_MXFP4 2e-1
/* Largest difference of a logit when the prompt is cut in other places, or only the last one is asked for. */
#define LOGIT_CHUNK 1e-3

enum { N_TOK = 200, N_LOGIT = 4, ALL_LAYERS = INT32_MAX, SOME_LAYERS = 3 };

static const int32_t logit_at[N_LOGIT] = {0, 97, 194, 287};

/* llama.cpp (August 2026), float32 cache, no flash attention: mean loss of tokens 1.., and the last
 * token's logits. */
static const struct peer {
    const char *name;
    double nll;
    float logit[N_LOGIT];
} peers[] = {
    {"llama", 9.657627, {-3.04886f, -2.02974f, -0.91760f, -1.48998f}},
    {"llama-moe", 8.762793, {-1.17887f, 1.25630f, -0.82038f, -3.75230f}},
    {"qwen3moe", 8.799570, {1.01476f, 0.23205f, 2.21572f, -2.05198f}},
    {"smollm3", 11.050860, {-5.37945f, 1.73549f, -2.60837f, -0.60896f}},
    {"granite", 5.721991, {0.41554f, 0.43906f, 0.25979f, 0.67836f}},
    {"granitemoe", 5.756333, {-0.11277f, 0.38274f, -0.63954f, 0.51544f}},
    {"olmo2", 8.467598, {4.78745f, -0.29842f, -2.99139f, 0.92104f}},
    {"olmo2-swa", 8.571255, {0.70926f, -3.52566f, -2.47068f, -0.01555f}},
    {"olmoe", 9.324675, {3.06846f, 2.08424f, 2.51074f, -0.28032f}},
    {"mistral3", 8.343461, {0.57108f, 0.96050f, -1.94579f, -0.17269f}},
    {"seed_oss", 8.643098, {-0.09446f, 1.13750f, 0.37530f, 0.71632f}},
    {"qwen2vl", 8.729908, {-0.49434f, -0.05114f, 0.37940f, 2.60749f}},
    {"qwen3vl", 9.354211, {-0.46296f, 1.47231f, 1.21950f, 3.60429f}},
    {"qwen3vlmoe", 9.236823, {1.64507f, -0.07902f, -0.77230f, 6.10142f}},
    {"gpt-oss", 9.447147, {-3.17865f, -1.20086f, 1.03503f, 1.44475f}},
    {"gemma", 12.010476, {-2.45972f, 4.73510f, -2.79529f, -6.55229f}},
    {"glm4", 8.665739, {1.81910f, -1.01731f, -3.23012f, -2.58367f}},
    {"glm4v", 8.945805, {-1.75371f, -0.37503f, -0.15658f, -0.76133f}},
    {"exaone4", 11.538485, {2.84282f, -1.52790f, -0.32843f, -4.10784f}},
    {"hunyuan-dense", 9.102015, {-2.26376f, 3.86142f, -2.67208f, 1.22525f}},
    {"ernie4_5", 11.580090, {1.24686f, 8.27554f, 0.39774f, 1.76271f}},
    {"qwen2moe", 8.893630, {-2.02992f, -3.67706f, -1.87064f, -0.66447f}},
    {"glm4moe", 9.222521, {0.56948f, 0.74634f, -0.02911f, -0.71819f}},
    {"hunyuan-moe", 8.763207, {-1.49432f, -0.76640f, -1.86249f, -7.94884f}},
    {"ernie4_5-moe", 10.261666, {-1.27081f, -3.56063f, 0.57558f, -3.05581f}},
    {"command-r", 6.076966, {-0.68998f, -0.33594f, -0.39842f, 1.34551f}},
    {"cohere2", 5.853385, {-1.24424f, 1.13570f, 0.25081f, -1.25419f}},
    {"qwen35", 10.441421, {-6.03349f, 8.20647f, -1.53039f, 3.13120f}},
    {"qwen35-mtp", 8.696223, {-3.23411f, -0.11968f, 4.57740f, -3.16237f}},
    {"qwen35moe", 9.161272, {-1.11673f, -0.62837f, -3.06001f, 3.13640f}},
    {"lfm2", 11.162441, {0.97171f, 0.70980f, 4.50608f, -0.90425f}},
    {"lfm2moe", 11.702611, {8.52969f, -1.83443f, 0.05751f, -1.50856f}},
    {"gemma4", 11.430802, {5.05337f, -5.43564f, -2.76897f, -0.59413f}},
    {"gemma4-moe", 10.842484, {-2.87080f, 3.42900f, -1.14584f, 2.95820f}},
    {"granitehybrid", 5.870761, {0.09489f, 0.51670f, -0.30104f, -0.41888f}},
    {"granitehybrid-moe", 5.801963, {-0.32705f, 0.50987f, 0.97425f, -0.81847f}},
    {"nemotron_h", 9.073430, {-3.94348f, 1.31869f, -0.65473f, -0.87010f}},
    {"nemotron_h_moe", 8.389219, {0.66869f, 1.18184f, -3.97763f, 0.42455f}},
    {"falcon-h1", 8.211074, {0.73102f, 2.04358f, 1.07653f, -0.35164f}},
    {"afmoe", 8.689397, {0.72635f, -2.20432f, -0.12581f, 0.18743f}},
    {"muse-glimmer", 6.600203, {-0.01385f, 0.20046f, 0.55438f, 0.42964f}},
    {"bailingmoe2", 9.298919, {-5.52061f, 3.53753f, -2.61427f, 4.55050f}},
    {"minicpm", 5.836115, {-0.09364f, 0.36005f, 0.10389f, 0.55775f}},
    {"mellum", 9.648110, {3.28590f, -0.18059f, -1.68678f, 5.50788f}},
    {"arcee", 9.256284, {1.74899f, -0.05962f, -0.30145f, 2.03665f}},
    {"internlm2", 8.351493, {5.25854f, 2.41690f, 0.69924f, 6.18193f}},
    {"qwen3next-old", 10.418548, {-5.37865f, 1.96984f, 0.27637f, -7.16196f}},
    {"qwen3next", 9.222364, {-0.13929f, -0.03757f, -1.88945f, -3.46694f}},
    {"exaone", 10.319629, {2.11894f, -3.08980f, -0.20910f, -2.85410f}},
    {"deepseek2", 8.735664, {2.03786f, -0.43922f, 5.28618f, 2.64227f}},
    {"deepseek2-q", 8.714784, {3.16043f, -2.30426f, 6.16072f, 1.93701f}},
    {"deepseek2-old", 9.257606, {1.10506f, -1.89521f, -0.23501f, -5.55126f}},
    {"deepseek2-dense", 11.839068, {4.34684f, -3.66142f, 1.41936f, 1.49930f}},
    {"mistral4", 8.421327, {1.73890f, -1.47187f, 1.51953f, -0.71507f}},
    {"minicpm3", 31.847442, {20.19819f, 26.58874f, -6.28444f, 5.37937f}},
};

static void make_text(int32_t ids[N_TOK])
{
    uint32_t state = 7;
    for (int32_t i = 0; i < N_TOK; i++) {
        state = state * 1664525u + 1013904223u;
        ids[i] = i > 8 && state >> 30 == 0 ? ids[i - 8] : (int32_t)(state >> 16) % TINYMODEL_VOCAB;
    }
}

static double loss(const float *logits, const int32_t *ids)
{
    double sum = 0;
    for (int32_t t = 0; t + 1 < N_TOK; t++) {
        const float *row = logits + (size_t)t * TINYMODEL_VOCAB;
        double top = row[0], z = 0;
        for (int32_t i = 1; i < TINYMODEL_VOCAB; i++)
            top = row[i] > top ? row[i] : top;
        for (int32_t i = 0; i < TINYMODEL_VOCAB; i++)
            z += exp(row[i] - top);
        sum += top + log(z) - row[ids[t + 1]];
    }
    return sum / (N_TOK - 1);
}

static const char *model_path(int i)
{
    static char path[256];
    const char *dir = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/dogear-archs-%d-%s.gguf", dir ? dir : "/tmp", (int)getpid(),
             tinymodel_name(i));
    tinymodel_write(i, path, false);
    return path;
}

/* Variety i, with n_layer layers of it on the device: whether the text's logits are the peer's. */
static bool is_peers(struct kern *k, int i, const char *path, int32_t n_layer, double nll_bound,
                     double logit_bound)
{
    const struct peer *p = &peers[i];
    int32_t ids[N_TOK];
    struct bed b;
    make_text(ids);
    bed_open_some(&b, k, path, N_TOK, n_layer);
    float *whole = bed_logits(&b, ids, N_TOK, N_TOK);
    float alone[TINYMODEL_VOCAB]; /* the last row, where no other is asked for */
    if (!k->device) {
        kv_truncate(b.line, 0);
        memcpy(alone, bed_read(&b, b.line, ids, N_TOK, false), sizeof alone);
    }
    float *parts = k->device ? NULL : bed_logits(&b, ids, N_TOK, 37);
    const float *last = whole + (size_t)(N_TOK - 1) * TINYMODEL_VOCAB;
    double nll = loss(whole, ids), off = 0, cut = 0;
    for (int j = 0; j < N_LOGIT; j++)
        off = fmax(off, fabs(last[logit_at[j]] - p->logit[j]));
    for (size_t j = 0; parts && j < (size_t)N_TOK * TINYMODEL_VOCAB; j++)
        cut = fmax(cut, fabs(whole[j] - parts[j]));
    for (size_t j = 0; parts && j < TINYMODEL_VOCAB; j++)
        cut = fmax(cut, fabs(last[j] - alone[j]));
    if (b.m->p.act == KERN_ACT_GELU_TANH) {
        nll_bound = fmax(nll_bound, b.m->p.arch == MODEL_GEMMA4 ? NLL_GEMMA4 : NLL_GELU);
        logit_bound = fmax(logit_bound, LOGIT_GELU);
    }
    bool ok = fabs(nll - p->nll) <= nll_bound && off <= logit_bound && cut <= LOGIT_CHUNK;
    print_message("# %s %-12s loss %.6f (peer %.6f), logits off by %.2g, by chunks %.2g%s\n",
                  k->name, p->name, nll, p->nll, off, cut, ok ? "" : "  <-- too far");
    free(whole);
    free(parts);
    bed_close(&b);
    return ok;
}

/* Its layers ask a device for what another variety's do: there the few tokens of the test after this one
 * are enough, and the whole text would take the shim minutes. */
static bool is_twin(const char *name)
{
    static const char *const twins[] = {"smollm3", "granite", "mistral3", "seed_oss", "qwen2vl", "qwen3vl",
                                        "qwen3vlmoe", "glm4v", "ernie4_5", "hunyuan-moe", "qwen35-mtp",
                                        "qwen35moe", "lfm2moe", "granitehybrid-moe", "nemotron_h_moe",
                                        "qwen3next-old", "minicpm", "internlm2",
                                        "exaone"};
    for (size_t i = 0; i < sizeof twins / sizeof *twins; i++)
        if (strcmp(name, twins[i]) == 0)
            return true;
    return false;
}

static void against_peer(const char *isa, double nll_bound, double logit_bound)
{
    struct kern *k = bed_kern(isa);
    int n_bad = 0;
    for (int i = 0; tinymodel_name(i); i++) {
        assert_string_equal(peers[i].name, tinymodel_name(i));
        if (k->device && is_twin(peers[i].name))
            continue;
        const char *path = model_path(i);
        n_bad += !is_peers(k, i, path, ALL_LAYERS, nll_bound, logit_bound);
        if (k->device && tinymodel_mixture(i))
            n_bad += !is_peers(k, i, path, SOME_LAYERS, nll_bound, logit_bound);
        remove(path);
    }
    kern_close(k);
    assert_int_equal(n_bad, 0);
}

static void archs__ref32__as_the_peer(void **state)
{
    against_peer("ref32", NLL_EXACT, LOGIT_EXACT);
}

static void archs__ref__as_the_peer(void **state)
{
    against_peer("ref", NLL_F16, LOGIT_F16);
}

static void archs__avx2__as_the_peer(void **state)
{
    against_peer("avx2", NLL_F16, LOGIT_F16);
}

static void archs__avx512__as_the_peer(void **state)
{
    against_peer("avx512", NLL_F16, LOGIT_F16);
}

static void archs__amx__as_the_peer(void **state)
{
    against_peer("amx", NLL_F16, LOGIT_F16);
}

static void archs__cuda__as_the_peer(void **state)
{
    against_peer("cuda", NLL_CUDA, LOGIT_CUDA);
}

enum { PROMPT = 12, ANSWER = 12, FEW = 4 };

/* A prompt, a few tokens at a time, then the likeliest token each time: the tokens and their logits. */
static void talk(struct kern *k, const char *path, int32_t n_layer, int32_t ids[PROMPT + ANSWER],
                 float logits[ANSWER][TINYMODEL_VOCAB])
{
    struct bed b;
    struct err e;
    bed_open_some(&b, k, path, PROMPT, n_layer);
    for (int32_t at = 0, n = FEW; at < PROMPT + ANSWER - 1; at += n) {
        const float *row;
        n = at < PROMPT ? FEW : 1;
        bed_check(kv_reserve(b.line, n, &e), &e);
        bed_check(forward_run(b.f, b.line, ids + at, n, FORWARD_ALL, NULL, NULL, &e), &e);
        bed_check(forward_head(b.f, n - 1, 1, &row, &e), &e);
        if (at + n < PROMPT)
            continue;
        memcpy(logits[at + n - PROMPT], row, sizeof *logits);
        for (int32_t i = ids[at + n] = 0; i < TINYMODEL_VOCAB; i++)
            if (row[i] > row[ids[at + n]])
                ids[at + n] = i;
    }
    bed_close(&b);
}

static void archs__cuda__mixtures_and_twins_say_what_the_cpu_says(void **state)
{
    static float want[ANSWER][TINYMODEL_VOCAB], got[ANSWER][TINYMODEL_VOCAB];
    static const int32_t n_layer[] = {ALL_LAYERS, SOME_LAYERS};
    struct kern *k = bed_kern("cuda"), *cpu = bed_kern(NULL);
    int32_t text[N_TOK], said[2][PROMPT + ANSWER];
    int n_bad = 0;
    make_text(text);
    for (int i = 0; tinymodel_name(i); i++) {
        bool mixture = tinymodel_mixture(i);
        if (!mixture && !is_twin(tinymodel_name(i)))
            continue;
        const char *path = model_path(i);
        memcpy(said[0], text, sizeof *said);
        memcpy(said[1], text, sizeof *said);
        talk(cpu, path, ALL_LAYERS, said[0], want);
        for (int j = 0; j < (mixture ? 2 : 1); j++) {
            double off = 0;
            talk(k, path, n_layer[j], said[1], got);
            for (int t = 0; t < ANSWER; t++)
                for (int v = 0; v < TINYMODEL_VOCAB; v++)
                    off = fmax(off, fabs(want[t][v] - got[t][v]));
            bool mxfp4 = strcmp(tinymodel_name(i), "gpt-oss") == 0;
            bool ok = memcmp(said[0], said[1], sizeof *said) == 0 &&
                      off <= (mxfp4 ? LOGIT_FEW_MXFP4 : LOGIT_FEW);
            n_bad += !ok;
            print_message("# %-12s %s layers: logits off by %.2g%s\n", tinymodel_name(i),
                          j ? "some" : "all", off, ok ? "" : "  <-- too far, or another text");
        }
        remove(path);
    }
    kern_close(k);
    kern_close(cpu);
    assert_int_equal(n_bad, 0);
}

/* Sparse attention that leaves nothing out is dense attention, with sinks too: they need to know what
 * was read. */
static void archs__sparse__sinks_take_of_what_was_read(void **state)
{
    enum { LONG = 1000 };
    struct kern *k = kern_open_cpu(NULL, 2);
    static int32_t ids[LONG];
    for (int32_t i = 0; i < LONG; i++)
        ids[i] = i * 37 % TINYMODEL_VOCAB;
    const char *path = model_path(tinymodel_find("gpt-oss"));
    struct bed b;
    struct stats st = {0};
    bed_open(&b, k, path, 512);
    float *dense = bed_logits(&b, ids, LONG, 512);
    struct policy *p = policy_new(k, &b.m->p, b.f, presets_find("minference"), 128);
    policy_begin(p, 0.95f, LONG);
    float *sparse = bed_logits(&b, ids, LONG, 512);
    policy_report(p, &st);
    assert_true(st.density > 0.999f); /* so short a text is listed, and read, as a whole */
    double off = 0;
    for (size_t i = 0; i < (size_t)LONG * TINYMODEL_VOCAB; i++)
        off = fmax(off, fabs(dense[i] - sparse[i]));
    print_message("# sparse: density %.3f, logits off by %.2g\n", (double)st.density, off);
    assert_true(off < 0.05);
    free(dense);
    free(sparse);
    policy_free(p);
    bed_close(&b);
    kern_close(k);
    remove(path);
}

static void experts__choose__greatest_first_and_weights_sum_to_one(void **state)
{
    const float logit[] = {1, 3, 2, 3, -1};
    int32_t e[3];
    float w[3];
    struct model_params p = {
        .n_expert = 5, .n_expert_used = 3, .expert_norm = true, .expert_scale = 1};
    experts_choose(&p, logit, NULL, e, w);
    assert_int_equal(e[0], 1); /* the lower number at a tie */
    assert_int_equal(e[1], 3);
    assert_int_equal(e[2], 2);
    assert_true(fabs(w[0] + w[1] + w[2] - 1) < 1e-6 && w[0] == w[1]);
    assert_true(fabs(w[2] / w[0] - exp(-1)) < 1e-6);
    double all = exp(-2) + 1 + exp(-1) + 1 + exp(-4);
    p.expert_norm = false;
    experts_choose(&p, logit, NULL, e, w);
    assert_true(fabs(w[0] - 1 / all) < 1e-6 && fabs(w[2] - exp(-1) / all) < 1e-6);
}

/* What is added for the choice is not in the weights. */
static void experts__choose__picks_by_more_than_the_weight(void **state)
{
    const float logit[] = {0, 2, -1, 1}, pick[] = {0, 0, 0.9f, 0};
    const struct model_params p = {.n_expert = 4,
                                   .n_expert_used = 2,
                                   .expert_sigmoid = true,
                                   .expert_norm = true,
                                   .expert_scale = 3};
    int32_t e[2];
    float w[2];
    experts_choose(&p, logit, pick, e, w);
    assert_int_equal(e[0], 2);
    assert_int_equal(e[1], 1);
    double a = 1 / (1 + exp(1)), b = 1 / (1 + exp(-2));
    assert_true(fabs(w[0] - 3 * a / (a + b)) < 1e-6 && fabs(w[1] - 3 * b / (a + b)) < 1e-6);
}

/* The best expert of all is alone in its group: another group's two best together are better. */
static void experts__choose__of_the_groups_whose_two_best_are_best(void **state)
{
    const float logit[] = {4, -9, 2, 2.5f, -9, -9, 2.2f, 2.1f}, pick[8] = {0};
    const struct model_params p = {.n_expert = 8, .n_expert_used = 3, .n_expert_group = 4, .n_group_used = 2,
                                   .expert_sigmoid = true, .expert_norm = true, .expert_scale = 1};
    int32_t e[3];
    float w[3];
    experts_choose(&p, logit, pick, e, w);
    assert_int_equal(e[0], 3);
    assert_int_equal(e[1], 6);
    assert_int_equal(e[2], 7);
    assert_true(fabs(w[0] + w[1] + w[2] - 1) < 1e-6);
    const float none[] = {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN};
    experts_choose(&p, none, NULL, e, w);
    for (int i = 0; i < 3; i++)
        assert_true(e[i] >= 0 && e[i] < 8 && (i == 0 || e[i] != e[i - 1]));
}

static void experts__choose__takes_different_ones_of_no_numbers(void **state)
{
    const float logit[] = {NAN, -INFINITY, NAN, INFINITY};
    int32_t e[4];
    float w[4];
    struct model_params p = {
        .n_expert = 4, .n_expert_used = 4, .expert_norm = true, .expert_scale = 1};
    experts_choose(&p, logit, NULL, e, w);
    int seen = 0;
    for (int i = 0; i < 4; i++) {
        assert_true(e[i] >= 0 && e[i] < 4);
        seen |= 1 << e[i];
    }
    assert_int_equal(seen, 15);
    assert_int_equal(e[0], 3);
}

/* A header in which one byte is another: refused in one line, or what is read computes without harm. */
static void archs__read__survives_other_headers(void **state)
{
    enum { HEADER = 12000, TRIES = 60, FEW = 3 };
    struct kern *k = kern_open_cpu("ref", 1);
    uint32_t random = 1;
    int n_refused = 0, n_computed = 0;
    for (int i = 0; tinymodel_name(i); i++) {
        const char *path = model_path(i);
        for (int t = 0; t < TRIES; t++) {
            struct bed b = {.k = k};
            struct err e = {0};
            random = random * 1664525u + 1013904223u;
            long at = (long)(random >> 8) % HEADER;
            random = random * 1664525u + 1013904223u;
            FILE *f = fopen(path, "r+b");
            fseek(f, at, SEEK_SET);
            int was = fgetc(f);
            fseek(f, at, SEEK_SET);
            fputc(was ^ 1 << (random >> 29), f);
            fclose(f);
            enum status s = gguf_open(path, &b.g, &e);
            if (s == OK)
                s = model_read(b.g, &b.m, &e);
            gguf_close(b.g);
            if (s == OK && b.m->p.n_ctx_train < 1 << 20 && b.m->p.n_vocab == TINYMODEL_VOCAB) {
                model_free(b.m);
                bed_open(&b, k, path, FEW);
                free(bed_logits(&b, (const int32_t[FEW]){1, 2, 3}, FEW, FEW));
                bed_close(&b);
                n_computed++;
            } else {
                assert_true(s == OK || (e.text[0] && !strchr(e.text, '\n')));
                model_free(b.m);
                n_refused++;
            }
            f = fopen(path, "r+b");
            fseek(f, at, SEEK_SET);
            fputc(was, f);
            fclose(f);
        }
        remove(path);
    }
    print_message("# %d refused, %d computed\n", n_refused, n_computed);
    assert_true(n_refused > 100 && n_computed > 100);
    kern_close(k);
}

static int write_files(const char *dir)
{
    char path[1024];
    int32_t ids[N_TOK];
    make_text(ids);
    for (int i = 0; tinymodel_name(i); i++) {
        snprintf(path, sizeof path, "%s/%s.gguf", dir, tinymodel_name(i));
        tinymodel_write(i, path, true);
    }
    snprintf(path, sizeof path, "%s/ids.bin", dir);
    FILE *f = fopen(path, "wb");
    return !f || fwrite(ids, sizeof ids, 1, f) != 1 || fclose(f);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "write") == 0)
        return write_files(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(archs__ref32__as_the_peer),
        cmocka_unit_test(archs__ref__as_the_peer),
        cmocka_unit_test(archs__avx2__as_the_peer),
        cmocka_unit_test(archs__avx512__as_the_peer),
        cmocka_unit_test(archs__amx__as_the_peer),
        cmocka_unit_test(archs__cuda__as_the_peer),
        cmocka_unit_test(archs__cuda__mixtures_and_twins_say_what_the_cpu_says),
        cmocka_unit_test(archs__sparse__sinks_take_of_what_was_read),
        cmocka_unit_test(archs__read__survives_other_headers),
        cmocka_unit_test(experts__choose__greatest_first_and_weights_sum_to_one),
        cmocka_unit_test(experts__choose__picks_by_more_than_the_weight),
        cmocka_unit_test(experts__choose__of_the_groups_whose_two_best_are_best),
        cmocka_unit_test(experts__choose__takes_different_ones_of_no_numbers),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    if (!getenv("CUDA_MODULE"))
        cmocka_set_skip_filter("*cuda*");
    return cmocka_run_group_tests_name("archs", tests, NULL, NULL);
}
