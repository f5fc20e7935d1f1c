/* A look at a model file without loading it: container, metadata, tensors and memory plan. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/str.h"
#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/plan.h"
#include "engine/recurrent.h"
#include "engine/template.h"
#include "engine/tokenizer.h"

enum { FIRST_ELEMS = 8 }; /* of an array; vocabularies have 100,000 */

static const char *type_name(enum gguf_type t)
{
    static const char *const names[GGUF_TYPES] = {
        "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "array", "u64", "i64", "f64"};
    return names[t];
}

static json_t *elem_json(const struct gguf_kv *kv, uint64_t i)
{
    int64_t whole;
    float real;
    if (kv->elem == GGUF_F32 || kv->elem == GGUF_F64)
        return gguf_elem_f32(kv, i, &real) ? json_number(real) : json_null();
    if (!gguf_elem_i64(kv, i, &whole))
        return json_null();
    return kv->elem == GGUF_BOOL ? json_boolean(whole) : json_integer(whole);
}

static json_t *value_json(const struct gguf_kv *kv)
{
    struct gguf_iter it = gguf_iter(kv);
    struct gguf_str s;
    if (kv->type != GGUF_ARRAY)
        return gguf_next(&it, &s) ? json_text(s.s, s.len) : elem_json(kv, 0);
    json_t *first = json_array();
    for (uint64_t i = 0; i < kv->n && i < FIRST_ELEMS; i++)
        json_array_append_new(first, gguf_next(&it, &s) ? json_text(s.s, s.len) : elem_json(kv, i));
    json_t *j = json_object();
    json_object_set_new(j, "array_of", json_string(type_name(kv->elem)));
    json_object_set_new(j, "count", json_integer((json_int_t)kv->n));
    json_object_set_new(j, "first", first);
    return j;
}

static json_t *file_json(const struct gguf *g)
{
    json_t *j = json_object();
    json_object_set_new(j, "path", json_cstr(gguf_path(g)));
    json_object_set_new(j, "gguf_version", json_integer(gguf_version(g)));
    json_object_set_new(j, "parts", json_integer(gguf_n_part(g)));
    json_object_set_new(j, "bytes", json_integer(gguf_file_bytes(g)));
    json_object_set_new(j, "tensors", json_integer(gguf_n_tensor(g)));
    return j;
}

static json_t *model_json(const struct model *m)
{
    const struct model_params *p = &m->p;
    json_t *j = json_object();
    json_object_set_new(j, "name", json_cstr(p->name));
    json_object_set_new(j, "architecture", json_string(p->arch_name));
    json_object_set_new(j, "type", json_string(p->type));
    json_object_set_new(j, "parameters", json_integer(p->n_param));
    json_object_set_new(j, "context", json_integer(p->n_ctx_train));
    json_object_set_new(j, "vocabulary", json_integer(p->n_vocab));
    json_object_set_new(j, "layers", json_integer(p->n_layer));
    json_object_set_new(j, "attention_layers", json_integer(p->n_layer_attn));
    json_object_set_new(j, "state_bytes", json_integer(sizeof(float) * recurrent_state_floats(p) *
                                                       p->n_layer_state));
    json_object_set_new(j, "width", json_integer(p->n_embd));
    json_object_set_new(j, "feed_forward", json_integer(p->n_ff > 0 ? p->n_ff : p->n_ff_plain));
    json_object_set_new(j, "experts", p->n_expert ? json_integer(p->n_expert) : json_null());
    json_object_set_new(j, "experts_used", p->n_expert ? json_integer(p->n_expert_used) : json_null());
    json_object_set_new(j, "heads", json_integer(p->n_head));
    json_object_set_new(j, "kv_heads", json_integer(p->n_head_kv));
    json_object_set_new(j, "head_size", json_integer(p->head_dim));
    json_object_set_new(j, "sliding_kv_heads", json_integer(p->n_head_kv_local));
    json_object_set_new(j, "sliding_head_size", json_integer(p->head_dim_local));
    json_object_set_new(j, "cache_layers", json_integer(p->n_layer_kv));
    json_object_set_new(j, "sliding_window", p->window ? json_integer(p->window) : json_null());
    json_object_set_new(j, "rope_base", p->no_rope ? json_null() : json_number(p->rope.base));
    json_object_set_new(j, "tied_output", json_boolean(m->output.t == m->embed.t));
    return j;
}

static json_t *plan_json(const struct plan *p)
{
    json_t *j = json_object();
    json_object_set_new(j, "context", json_integer(p->n_ctx));
    json_object_set_new(j, "context_largest", json_integer(p->n_ctx_max));
    json_object_set_new(j, "weights_bytes",
                        json_integer((json_int_t)(p->weights_private + p->weights_mapped)));
    json_object_set_new(j, "weights_mapped_bytes", json_integer((json_int_t)p->weights_mapped));
    json_object_set_new(j, "scratch_bytes", json_integer((json_int_t)p->scratch));
    json_object_set_new(j, "kv_bytes", json_integer((json_int_t)p->kv));
    json_object_set_new(j, "kv_bytes_per_token", json_integer((json_int_t)p->kv_tok));
    json_object_set_new(j, "total_bytes", json_integer((json_int_t)p->total));
    json_object_set_new(j, "available_bytes", json_integer((json_int_t)p->available));
    return j;
}

static json_t *tensors_json(const struct gguf *g)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        json_t *shape = json_array(), *j = json_object();
        for (int32_t d = 0; d < t->n_dim; d++)
            json_array_append_new(shape, json_integer(t->dim[d]));
        json_object_set_new(j, "name", json_string(t->name));
        json_object_set_new(j, "type", json_string(kern_type_name(t->type)));
        json_object_set_new(j, "shape", shape);
        json_object_set_new(j, "bytes", json_integer((json_int_t)t->size_bytes));
        json_array_append_new(list, j);
    }
    return list;
}

/* Name of the chat format as the engine would recognise it; null = none, the text is continued. */
static enum status format_json(const struct gguf *g, json_t **ret, struct err *e)
{
    struct tokenizer *t = NULL;
    struct template *tp = NULL;
    enum status s = tokenizer_open(g, &t, e);
    if (s == OK)
        s = template_open(g, t, TEMPLATE_REASONING_AUTO, &tp, e);
    *ret = s == OK && template_name(tp)[0] ? json_string(template_name(tp)) : json_null();
    template_free(tp);
    tokenizer_free(t);
    return s;
}

enum status engine_inspect(const char *path, int32_t n_ctx, uint64_t kv_budget_bytes,
                           char **ret_json, struct err *e)
{
    struct gguf *g;
    struct model *m = NULL;
    struct plan plan;
    struct err why;
    TRY(gguf_open(path, &g, e));
    json_t *j = json_object(), *meta = json_object();
    json_object_set_new(j, "file", file_json(g));
    /* What cannot run can still be looked at: the reason stands beside what was read. */
    struct kern *k = kern_open_cpu(NULL, 1);
    enum status s = model_read(g, &m, &why);
    if (s == OK) {
        json_object_set_new(j, "model", model_json(m));
        s = k ? plan_make(m, k, presets_find(NULL), n_ctx, kv_budget_bytes, plan_available(), &plan,
                          &why)
              : err_set(&why, ERR_UNSUPPORTED, "the backend named by KERNELS is not available");
        if (s == OK)
            json_object_set_new(j, "plan", plan_json(&plan));
    }
    struct err other;
    json_t *format;
    enum status known = format_json(g, &format, &other);
    json_object_set_new(j, "chat_format", format);
    if (s == OK && known != OK) {
        s = known;
        why = other;
    }
    if (s != OK)
        json_object_set_new(j, "problem", json_cstr(why.text));
    for (int64_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        json_t *key = json_text(kv->key.s, kv->key.len);
        json_object_set_new(meta, json_string_value(key), value_json(kv));
        json_decref(key);
    }
    json_object_set_new(j, "metadata", meta);
    json_object_set_new(j, "tensors", tensors_json(g));
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(j);
    model_free(m);
    if (k)
        kern_close(k);
    gguf_close(g);
    if (!text)
        return err_set(e, ERR_INTERNAL, "%s: cannot be written as JSON", path);
    *ret_json = text;
    return OK;
}
