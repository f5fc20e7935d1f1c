/* Greedy pair merging, shared by both families: a heap of candidate pairs over a linked list of
 * symbols. n symbols cost O(n log n) whatever the text is. Also the cache of words met before, and
 * the merge lists by which most vocabularies order the pairs. */
#include "engine/tok_impl.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "engine/base/mem.h"
#include "engine/gguf.h"

enum { CACHE_WORD_MAX = 64 };

void tok_list_add(struct tok_list *l, int32_t id)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->ids = mem_realloc(l->ids, (size_t)l->cap * sizeof *l->ids);
    }
    l->ids[l->n++] = id;
}

void tok_list_fini(struct tok_list *l)
{
    free(l->ids);
    *l = (struct tok_list){0};
}

void tok_job_symbols(struct tok_job *j, size_t n)
{
    if (n <= j->sym_cap)
        return;
    j->sym_cap = n < 64 ? 64 : n;
    j->syms = mem_realloc(j->syms, j->sym_cap * sizeof *j->syms);
}

bool tok_cache_get(struct tok_job *j, const char *base, size_t off, size_t len, uint64_t *ret_hash)
{
    if (!j->cache || len > CACHE_WORD_MAX)
        return false;
    uint64_t h = XXH3_64bits(base + off, len);
    *ret_hash = h;
    const struct tok_cache_entry *c = &j->cache[h >> (64 - TOK_CACHE_BITS)];
    if (c->hash != h || c->len != len || memcmp(base + c->off, base + off, len) != 0)
        return false;
    for (int32_t i = 0; i < c->n; i++)
        tok_list_add(j->out, j->out->ids[c->at + i]);
    return true;
}

void tok_cache_put(struct tok_job *j, uint64_t hash, size_t off, size_t len, int32_t at)
{
    if (!j->cache || len > CACHE_WORD_MAX)
        return;
    j->cache[hash >> (64 - TOK_CACHE_BITS)] =
        (struct tok_cache_entry){hash, off, (uint32_t)len, at, j->out->n - at};
}

static void heap_push(struct tok_job *j, struct tok_cand c)
{
    if (j->n_heap == j->heap_cap) {
        j->heap_cap = j->heap_cap ? j->heap_cap * 2 : 64;
        j->heap = mem_realloc(j->heap, j->heap_cap * sizeof *j->heap);
    }
    size_t i = j->n_heap++;
    while (i > 0 && j->heap[(i - 1) / 2].key > c.key) {
        j->heap[i] = j->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    j->heap[i] = c;
}

static struct tok_cand heap_pop(struct tok_job *j)
{
    struct tok_cand top = j->heap[0], last = j->heap[--j->n_heap];
    size_t i = 0, n = j->n_heap;
    for (;;) {
        size_t k = 2 * i + 1;
        if (k >= n)
            break;
        if (k + 1 < n && j->heap[k + 1].key < j->heap[k].key)
            k++;
        if (j->heap[k].key >= last.key)
            break;
        j->heap[i] = j->heap[k];
        i = k;
    }
    if (n > 0)
        j->heap[i] = last;
    return top;
}

static void consider(struct tok_job *j, const char *word, tok_pair_fn pair, int32_t left,
                     int32_t right)
{
    if (left < 0 || right < 0)
        return;
    uint32_t order;
    int32_t id;
    const struct tok_sym *l = &j->syms[left], *r = &j->syms[right];
    if (pair(j->t, word, l, r, &order, &id))
        heap_push(j, (struct tok_cand){(uint64_t)order << 32 | (uint32_t)left, right,
                                       l->len + r->len, id});
}

void tok_merge_run(struct tok_job *j, const char *word, tok_pair_fn pair)
{
    j->n_heap = 0;
    for (int32_t i = 0; i + 1 < j->n_sym; i++)
        consider(j, word, pair, i, i + 1);
    while (j->n_heap > 0) {
        struct tok_cand c = heap_pop(j);
        int32_t left = (int32_t)(uint32_t)c.key;
        struct tok_sym *l = &j->syms[left], *r = &j->syms[c.right];
        /* A symbol never moves its beginning, so the same neighbours with the same length
         * together are the same two pieces of text. */
        if (l->len == 0 || r->len == 0 || l->next != c.right || l->len + r->len != c.len)
            continue;
        l->len += r->len;
        l->id = c.id;
        l->next = r->next;
        r->len = 0;
        if (r->next >= 0)
            j->syms[r->next].prev = left;
        consider(j, word, pair, l->prev, left);
        consider(j, word, pair, left, l->next);
    }
}

/* ---- merge list ---- */

static uint32_t merge_slot(const struct tokenizer *t, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & t->merge_mask;
}

static const struct tok_merge *merge_find(const struct tokenizer *t, int32_t left, int32_t right)
{
    uint32_t i = merge_slot(t, left, right);
    for (; t->merges[i].left >= 0; i = (i + 1) & t->merge_mask)
        if (t->merges[i].left == left && t->merges[i].right == right)
            return &t->merges[i];
    return NULL;
}

/* "left right", neither empty: the space to cut at is not the first byte. A merge that names or
 * makes no known token cannot be applied and is left out. */
static void merge_add(struct tokenizer *t, struct gguf_str m, int32_t rank, struct str *both)
{
    const char *space = m.len > 2 ? memchr(m.s + 1, ' ', m.len - 1) : NULL;
    if (!space)
        return;
    size_t n_left = (size_t)(space - m.s), n_right = m.len - n_left - 1;
    int32_t left = tok_plain(t, m.s, n_left), right = tok_plain(t, space + 1, n_right);
    str_clear(both);
    str_add(both, m.s, n_left);
    str_add(both, space + 1, n_right);
    int32_t id = tok_plain(t, both->data, both->len);
    if (left < 0 || right < 0 || id < 0 || merge_find(t, left, right))
        return;
    uint32_t i = merge_slot(t, left, right);
    while (t->merges[i].left >= 0)
        i = (i + 1) & t->merge_mask;
    t->merges[i] = (struct tok_merge){left, right, rank, id};
}

enum status tok_ranks_open(struct tokenizer *t, const struct gguf_kv *merges, struct err *e)
{
    uint64_t n_merge = merges->n;
    if (n_merge > INT32_MAX / 4)
        return err_set(e, ERR_FORMAT, "vocabulary: %llu merges, more than any model has",
                       (unsigned long long)n_merge);
    uint32_t n_cell = 64;
    while (n_cell < n_merge * 2)
        n_cell *= 2;
    t->merge_mask = n_cell - 1;
    t->merges = mem_alloc((size_t)n_cell * sizeof *t->merges);
    memset(t->merges, 0xff, (size_t)n_cell * sizeof *t->merges);
    struct str both = {0};
    struct gguf_iter it = gguf_iter(merges);
    struct gguf_str m;
    for (int32_t rank = 0; gguf_next(&it, &m); rank++)
        merge_add(t, m, rank, &both);
    str_fini(&both);
    return OK;
}

bool tok_ranks_pair(const struct tokenizer *t, const char *word, const struct tok_sym *l,
                    const struct tok_sym *r, uint32_t *ret_order, int32_t *ret_id)
{
    (void)word;
    if (l->id < 0 || r->id < 0)
        return false;
    const struct tok_merge *m = merge_find(t, l->id, r->id);
    if (!m)
        return false;
    *ret_order = (uint32_t)m->rank;
    *ret_id = m->id;
    return true;
}
