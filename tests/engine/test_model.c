/* Hyper-parameters, position encodings, the memory plan, and models that do not fit their own
 * description. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/plan.h"
#include "engine/policy.h"
#include "tests/engine/bed.h"
#include "tests/support/ggufw.h"
#include "tests/support/tinymodel.h"

/* Replaces a u32 or f32 metadata value of a file. */
static void patch(const char *path, const char *key, const void *value)
{
    static char data[16 << 20];
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    char *at = memmem(data, fread(data, 1, sizeof data, f), key, strlen(key));
    assert_non_null(at);
    at += strlen(key) + 4; /* after the type */
    fseek(f, at - data, SEEK_SET);
    assert_int_equal(fwrite(value, 4, 1, f), 1);
    fclose(f);
}

/* A reference file with one of its values replaced. */
static void patched(const char *dir, const char *name, const char *key, const void *value,
                    char path[1024])
{
    char command[2200], from[1024];
    snprintf(from, sizeof from, "%s/reference/%s.gguf", dir, name);
    snprintf(path, 1024, "/tmp/dogear-model-%d.gguf", (int)getpid());
    snprintf(command, sizeof command, "cp --no-preserve=mode '%s' '%s'", from, path);
    assert_int_equal(system(command), 0);
    patch(path, key, value);
}

static void open_model(const char *dir, const char *name, struct gguf **g, struct model **m)
{
    char path[1024];
    struct err e;
    snprintf(path, sizeof path, "%s/reference/%s.gguf", dir, name);
    bed_check(gguf_open(path, g, &e), &e);
    bed_check(model_read(*g, m, &e), &e);
}

static void model__read__takes_what_the_file_says(void **state)
{
    const char *dir = bed_data();
    struct gguf *g;
    struct model *m;
    open_model(dir, "gemma3-F16", &g, &m);
    assert_int_equal(m->p.arch, MODEL_GEMMA3);
    assert_int_equal(m->p.window, 24);
    for (int32_t i = 0; i < m->p.n_layer; i++) {
        assert_int_equal(m->layer[i].window, (i + 1) % 6 ? 24 : 0);
        assert_ptr_equal(m->layer[i].rope, (i + 1) % 6 ? &m->rope_local : &m->rope);
    }
    assert_true(m->p.rope_local.base == 10000.0f);
    assert_true(fabsf(m->p.embed_scale - sqrtf((float)m->p.n_embd)) < 1e-4f);
    assert_ptr_equal(m->output.t, m->embed.t);
    model_free(m);
    gguf_close(g);

    open_model(dir, "phi3-F16", &g, &m);
    assert_ptr_equal(m->layer[0].q.t, m->layer[0].v.t); /* one stored matrix */
    assert_int_equal(m->layer[0].v.row0 + m->layer[0].v.n_row, m->layer[0].v.t->dim[1]);
    assert_int_equal(m->layer[0].up.row0, m->p.n_ff);
    model_free(m);
    gguf_close(g);

    open_model(dir, "gemma2-F16", &g, &m);
    assert_true(m->p.attn_softcap == 50 && m->p.logit_softcap == 30);
    assert_int_equal(m->layer[0].window, 24);
    assert_int_equal(m->layer[1].window, 0);
    model_free(m);
    gguf_close(g);
}

/* One clear line, no model; removes the file. */
static void check_refused(const char *path, const char *key)
{
    struct gguf *g;
    struct model *m = NULL;
    struct err e;
    bed_check(gguf_open(path, &g, &e), &e);
    enum status s = model_read(g, &m, &e);
    if (s != ERR_FORMAT && s != ERR_UNSUPPORTED)
        fail_msg("%s gives status %d", key, s);
    assert_null(m);
    assert_null(strchr(e.text, '\n'));
    gguf_close(g);
    unlink(path);
}

static void model__read__refuses_numbers_that_do_not_fit(void **state)
{
    static const struct {
        const char *name, *key;
        uint32_t value;
    } bad[] = {
        {"llama-F16", "llama.block_count", 1000000},
        {"llama-F16", "llama.block_count", 0},
        {"llama-F16", "llama.block_count", 100},
        {"llama-F16", "llama.embedding_length", 64},
        {"llama-F16", "llama.embedding_length", 0xffffffff},
        {"llama-F16", "llama.feed_forward_length", 1},
        {"llama-F16", "llama.attention.head_count", 0},
        {"llama-F16", "llama.attention.head_count", 3},
        {"llama-F16", "llama.context_length", 0},
        {"llama-F16", "llama.rope.dimension_count", 100000},
        {"llama-F16", "llama.rope.dimension_count", 7},
        {"llama-F16", "llama.attention.layer_norm_rms_epsilon", 0x7fc00000}, /* NaN */
        {"gemma2-F16", "gemma2.attn_logit_softcapping", 0xff800000},         /* -inf */
    };
    const char *dir = bed_data();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[1024];
        patched(dir, bad[i].name, bad[i].key, &bad[i].value, path);
        check_refused(path, bad[i].key);
    }
}

static void model__read__refuses_parts_that_do_not_fit(void **state)
{
    static const struct {
        const char *name, *key;
        uint32_t value;
    } bad[] = {
        {"qwen3moe", "qwen3moe.expert_count", 0}, /* a dense model: its tensors are not there */
        {"qwen3moe", "qwen3moe.expert_count", 7},
        {"qwen3moe", "qwen3moe.expert_count", 1u << 30},
        {"qwen3moe", "qwen3moe.expert_used_count", 0},
        {"qwen3moe", "qwen3moe.expert_used_count", 9},
        {"qwen3moe", "qwen3moe.expert_feed_forward_length", 24},
        {"qwen3moe", "qwen3moe.expert_feed_forward_length", 48},
        {"gpt-oss", "gpt-oss.expert_count", 4},
        {"gpt-oss", "gpt-oss.expert_count", 0},
        {"glm4moe", "glm4moe.expert_gating_func", 4},
        {"glm4moe", "glm4moe.nextn_predict_layers", 0}, /* a layer without tensors */
        {"glm4moe", "glm4moe.nextn_predict_layers", 7},
        {"glm4moe", "glm4moe.expert_weights_scale", 0x7fc00000}, /* NaN */
        {"hunyuan-moe", "hunyuan-moe.expert_count", 0},
        {"granite", "granite.residual_scale", 0},
        {"granite", "granite.logit_scale", 0xff800000}, /* -inf */
        {"qwen35", "qwen35.ssm.state_size", 0},
        {"qwen35", "qwen35.ssm.state_size", 24},
        {"qwen35", "qwen35.ssm.state_size", 1u << 20},
        {"qwen35", "qwen35.ssm.time_step_rank", 3},
        {"qwen35", "qwen35.ssm.group_count", 0},
        {"qwen35", "qwen35.ssm.inner_size", 32},
        {"qwen35", "qwen35.ssm.conv_kernel", 1},
        {"qwen35", "qwen35.ssm.conv_kernel", 1u << 30},
        {"qwen35", "qwen35.full_attention_interval", 0},
        {"qwen35", "qwen35.full_attention_interval", 1}, /* layers without the tensors of attention */
        {"qwen35", "qwen35.full_attention_interval", 7}, /* no attention at all */
        {"lfm2", "lfm2.shortconv.l_cache", 9},
        {"lfm2", "lfm2.shortconv.l_cache", 2},
        {"lfm2", "lfm2.attention.head_count", 0},
        {"granitehybrid", "granitehybrid.ssm.state_size", 0},
        {"granitehybrid", "granitehybrid.ssm.state_size", 24},
        {"granitehybrid", "granitehybrid.ssm.state_size", 1u << 20},
        {"granitehybrid", "granitehybrid.ssm.time_step_rank", 0},
        {"granitehybrid", "granitehybrid.ssm.time_step_rank", 3},
        {"granitehybrid", "granitehybrid.ssm.time_step_rank", 16}, /* heads of 8 channels */
        {"granitehybrid", "granitehybrid.ssm.group_count", 0},
        {"granitehybrid", "granitehybrid.ssm.group_count", 3},
        {"granitehybrid", "granitehybrid.ssm.inner_size", 1u << 30},
        {"granitehybrid", "granitehybrid.ssm.conv_kernel", 9},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[1024];
        snprintf(path, sizeof path, "/tmp/dogear-model-%d.gguf", (int)getpid());
        tinymodel_write(tinymodel_find(bad[i].name), path, false);
        patch(path, bad[i].key, &bad[i].value);
        check_refused(path, bad[i].key);
    }
}

/* All tensors fit the numbers; only the kernels do not. */
static void model__read__refuses_heads_that_are_too_wide(void **state)
{
    enum { WIDTH = 32, HEAD = 2 * MODEL_HEAD_DIM_MAX, N_VOCAB = 288 };
    static const struct {
        const char *name;
        int32_t n_col, n_row;
    } tensors[] = {
        {"token_embd.weight", WIDTH, N_VOCAB},     {"output_norm.weight", WIDTH, 0},
        {"blk.0.attn_norm.weight", WIDTH, 0},      {"blk.0.ffn_norm.weight", WIDTH, 0},
        {"blk.0.attn_q.weight", WIDTH, HEAD},      {"blk.0.attn_k.weight", WIDTH, HEAD},
        {"blk.0.attn_v.weight", WIDTH, HEAD},      {"blk.0.attn_output.weight", HEAD, WIDTH},
        {"blk.0.ffn_gate.weight", WIDTH, WIDTH},   {"blk.0.ffn_up.weight", WIDTH, WIDTH},
        {"blk.0.ffn_down.weight", WIDTH, WIDTH},
    };
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {
        {"llama.context_length", 512},       {"llama.embedding_length", WIDTH},
        {"llama.block_count", 1},            {"llama.feed_forward_length", WIDTH},
        {"llama.attention.head_count", 1},   {"llama.attention.key_length", HEAD},
        {"llama.attention.value_length", HEAD},
    };
    static const float zeros[HEAD * N_VOCAB];
    char path[64];
    snprintf(path, sizeof path, "/tmp/dogear-model-%d.gguf", (int)getpid());
    struct ggufw *w = ggufw_open(path);
    ggufw_str(w, "general.architecture", "llama");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ggufw_u32(w, keys[i].key, keys[i].value);
    ggufw_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        ggufw_tensor(w, tensors[i].name, KERN_F32, tensors[i].n_col, tensors[i].n_row);
    ggufw_begin(w);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        int32_t n_row = tensors[i].n_row ? tensors[i].n_row : 1;
        ggufw_data(w, zeros, sizeof(float) * (size_t)tensors[i].n_col * (size_t)n_row);
    }
    ggufw_close(w);
    check_refused(path, "llama.attention.key_length");
}

/* Angles of the stretched encodings against their published definitions, written out here. */
static void model__rope__scales_as_published(void **state)
{
    const char *dir = bed_data();
    struct gguf *g;
    struct model *m;
    open_model(dir, "llama-F16", &g, &m);
    int32_t n = m->p.n_rot;
    double base = m->p.rope.base;
    for (int32_t i = 0; i < n / 2; i++)
        assert_true(fabs(m->rope.freq[i] / pow(base, -2.0 * i / n) - 1) < 1e-6);
    assert_true(m->rope.mscale == 1);

    m->p.rope.factor = 4; /* linear: every angle is a quarter */
    model_set_ctx(m, 512);
    for (int32_t i = 0; i < n / 2; i++)
        assert_true(fabs(m->rope.freq[i] * 4 / pow(base, -2.0 * i / n) - 1) < 1e-6);

    m->p.rope.yarn = true;
    m->p.n_ctx_orig = 4096;
    model_set_ctx(m, 16384);
    /* Channels that turn 32 times or more over 4096 positions keep their angle, those that turn
     * less than once are interpolated. */
    for (int32_t i = 0; i < n / 2; i++) {
        double plain = pow(base, -2.0 * i / n), turns = 4096 * plain / 6.283185307179586;
        double ratio = m->rope.freq[i] / plain;
        if (turns > 40)
            assert_true(fabs(ratio - 1) < 1e-6);
        else if (turns < 0.5)
            assert_true(fabs(ratio - 0.25) < 1e-6);
        else
            assert_true(ratio > 0.2499 && ratio < 1.0001);
    }
    assert_true(fabs(m->rope.mscale - (1 + 0.1 * log(4))) < 1e-6);
    model_free(m);
    gguf_close(g);

    /* Llama 3.1: the stored divisors, float by float. */
    open_model(dir, "llama31-F16", &g, &m);
    const struct gguf_tensor *t = gguf_tensor_find(g, "rope_freqs.weight");
    assert_non_null(t);
    for (int32_t i = 0; i < m->p.n_rot / 2; i++) {
        float d;
        memcpy(&d, (const char *)t->data + 4 * i, 4);
        double want = pow(m->p.rope.base, -2.0 * i / m->p.n_rot) / d;
        assert_true(fabs(m->rope.freq[i] / want - 1) < 1e-6);
    }
    model_free(m);
    gguf_close(g);
}

/* A file is called what it calls itself, unless no matrix is of that type. */
static void model__type__is_the_files_name_for_it(void **state)
{
    char path[1024];
    struct gguf *g;
    struct model *m;
    struct err e;
    const uint32_t q8_0 = 7;
    open_model(bed_data(), "llama-Q4_K_M", &g, &m);
    assert_string_equal(m->p.type, "Q4_K_M");
    model_free(m);
    gguf_close(g);
    patched(bed_data(), "llama-Q4_K_M", "general.file_type", &q8_0, path);
    bed_check(gguf_open(path, &g, &e), &e);
    bed_check(model_read(g, &m, &e), &e);
    assert_string_equal(m->p.type, "Q4_K");
    model_free(m);
    gguf_close(g);
    remove(path);
}

static void model__fingerprint__tells_models_apart(void **state)
{
    static const char *const names[] = {"llama-F16",   "llama-BF16", "llama-Q8_0",
                                        "llama31-F16", "qwen2-F16",  "phi3-F16"};
    const char *dir = bed_data();
    uint64_t seen[6];
    for (size_t i = 0; i < 6; i++) {
        struct gguf *g;
        struct model *m;
        open_model(dir, names[i], &g, &m);
        seen[i] = model_fingerprint(m);
        assert_true(seen[i] == model_fingerprint(m));
        m->p.rope.factor = 2;
        model_set_ctx(m, 512);
        assert_true(seen[i] != model_fingerprint(m));
        for (size_t j = 0; j < i; j++)
            assert_true(seen[i] != seen[j]);
        model_free(m);
        gguf_close(g);
    }
}

/* Where queries grow by the original context, it decides what is computed. */
static void model__fingerprint__tells_growing_queries_apart(void **state)
{
    uint64_t seen[2];
    for (uint32_t i = 0; i < 2; i++) {
        char path[1024];
        uint32_t n_ctx = 64 + i;
        struct gguf *g;
        struct model *m;
        struct err e;
        snprintf(path, sizeof path, "/tmp/dogear-model-%d.gguf", (int)getpid());
        tinymodel_write(tinymodel_find("mistral3"), path, false);
        patch(path, "mistral3.rope.scaling.original_context_length", &n_ctx);
        bed_check(gguf_open(path, &g, &e), &e);
        bed_check(model_read(g, &m, &e), &e);
        seen[i] = model_fingerprint(m);
        model_free(m);
        gguf_close(g);
        unlink(path);
    }
    assert_true(seen[0] != seen[1]);
}

static void plan__make__lowers_or_refuses(void **state)
{
    const char *dir = bed_data();
    struct kern *k = kern_open_cpu("ref", 1);
    struct gguf *g;
    struct model *m;
    struct plan p;
    struct err e;
    open_model(dir, "llama-F16", &g, &m);
    m->p.n_ctx_train = 1 << 24;
    uint64_t gib = (uint64_t)1 << 30;

    assert_int_equal(plan_make(m, k, presets_find("exact"), 0, 0, 4 * gib, &p, &e), OK);
    assert_true(p.n_chunk == PLAN_CHUNK);
    assert_true(p.lowered && p.n_ctx < 1 << 24 && p.n_ctx == p.n_ctx_max);
    assert_true(p.total <= 4 * gib);
    assert_true(p.kv_budget >= p.kv);

    /* What is said to be the largest fits, one block more does not. */
    int32_t most = p.n_ctx_max;
    assert_int_equal(plan_make(m, k, presets_find("exact"), most, 0, 4 * gib, &p, &e), OK);
    assert_false(p.lowered);
    assert_int_equal(plan_make(m, k, presets_find("exact"), most + 1, 0, 4 * gib, &p, &e),
                     ERR_MEMORY);
    char named[32];
    snprintf(named, sizeof named, "-c %d", most);
    assert_non_null(strstr(e.text, named));

    assert_int_equal(plan_make(m, k, presets_find("exact"), 0, 0, 1 << 20, &p, &e), ERR_MEMORY);
    assert_non_null(strstr(e.text, "does not fit"));
    assert_int_equal(plan_make(m, k, presets_find("exact"), 4096, 0, 64 * gib, &p, &e), OK);
    assert_int_equal(p.n_ctx, 4096);
    assert_true(p.kv_budget >= p.kv && p.kv_budget <= 4 * p.kv);
    /* Block scores of sparse attention and the cache's tables grow with the context and are counted. */
    const struct kv_shape shape = forward_kv_shape(&m->p);
    uint64_t scratch = p.scratch;
    assert_int_equal(plan_make(m, k, presets_find("exact"), 65536, 0, 64 * gib, &p, &e), OK);
    assert_int_equal(p.scratch - scratch,
                     policy_bytes(&m->p, presets_find("exact"), 65536, PLAN_CHUNK) -
                         policy_bytes(&m->p, presets_find("exact"), 4096, PLAN_CHUNK) +
                         kv_table_bytes(&shape, 65536) - kv_table_bytes(&shape, 4096));
    assert_true(p.scratch > scratch);
    assert_true(plan_available() > 0);

    /* A budget that holds the context only if little of it is read at once. */
    const struct preset *fixed = presets_find("4/4"), *adaptive = presets_find("adaptive");
    for (int32_t chunk = KERN_BLOCK_TOK; chunk <= PLAN_CHUNK; chunk *= 2) {
        uint64_t need = kv_most_bytes(&shape, fixed, 2048, chunk);
        assert_int_equal(plan_make(m, k, fixed, 2048, need, 64 * gib, &p, &e), OK);
        assert_int_equal(p.n_chunk, chunk);
        assert_true(p.kv <= need && p.n_ctx_max >= 2048);
    }
    uint64_t least = kv_most_bytes(&shape, fixed, 2048, KERN_BLOCK_TOK) - 1;
    assert_int_equal(plan_make(m, k, fixed, 2048, least, 64 * gib, &p, &e), ERR_MEMORY);
    /* Where the context is lowered in any case, speed is kept. */
    assert_int_equal(plan_make(m, k, fixed, 0, least, 64 * gib, &p, &e), OK);
    assert_true(p.lowered && p.n_chunk == PLAN_CHUNK);
    /* Where pages step down, a chunk's own rows take at most an eighth of the budget. */
    for (int32_t chunk = KERN_BLOCK_TOK; chunk <= PLAN_CHUNK; chunk *= 2) {
        uint64_t eighth = kv_most_bytes(&shape, adaptive, chunk + 2 * KERN_BLOCK_TOK, chunk);
        assert_int_equal(plan_make(m, k, adaptive, 512, 8 * eighth, 64 * gib, &p, &e), OK);
        assert_int_equal(p.n_chunk, chunk);
        assert_int_equal(plan_make(m, k, adaptive, 512, 8 * eighth - 1, 64 * gib, &p, &e), OK);
        assert_int_equal(p.n_chunk, chunk > KERN_BLOCK_TOK ? chunk / 2 : chunk);
    }
    /* A device reads more at once where nothing gives way for it. */
    k->device = true;
    assert_int_equal(plan_make(m, k, fixed, 4096, 0, 64 * gib, &p, &e), OK);
    assert_true(p.n_chunk == PLAN_CHUNK_DEVICE && p.n_chunk_room == PLAN_CHUNK_DEVICE);
    assert_int_equal(p.scratch, forward_bytes(&m->p, PLAN_CHUNK_DEVICE) +
                                    policy_bytes(&m->p, fixed, 4096, PLAN_CHUNK_DEVICE) +
                                    kv_table_bytes(&shape, 4096));
    uint64_t tight = kv_most_bytes(&shape, fixed, 4096, PLAN_CHUNK);
    assert_int_equal(plan_make(m, k, fixed, 4096, tight, 64 * gib, &p, &e), OK);
    assert_true(p.n_chunk == PLAN_CHUNK && p.n_chunk_room == PLAN_CHUNK && p.n_ctx == 4096);
    assert_int_equal(plan_make(m, k, fixed, 0, 0, 4 * gib, &p, &e), OK);
    assert_true(p.lowered && p.n_chunk == PLAN_CHUNK);
    k->host = k;
    model_place(m, 1); /* the others stay with the host */
    assert_int_equal(plan_make(m, k, fixed, 4096, 0, 64 * gib, &p, &e), OK);
    assert_true(p.n_chunk == PLAN_CHUNK && p.n_chunk_room == PLAN_CHUNK);
    k->host = NULL;
    model_free(m);
    gguf_close(g);
    kern_close(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(model__read__takes_what_the_file_says),
        cmocka_unit_test(model__read__refuses_numbers_that_do_not_fit),
        cmocka_unit_test(model__read__refuses_parts_that_do_not_fit),
        cmocka_unit_test(model__read__refuses_heads_that_are_too_wide),
        cmocka_unit_test(model__rope__scales_as_published),
        cmocka_unit_test(model__type__is_the_files_name_for_it),
        cmocka_unit_test(model__fingerprint__tells_models_apart),
        cmocka_unit_test(model__fingerprint__tells_growing_queries_apart),
        cmocka_unit_test(plan__make__lowers_or_refuses),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
