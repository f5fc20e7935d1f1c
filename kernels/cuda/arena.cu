/* Device memory. Small pieces (pages of the cache above all: thousands, of a few sizes) are cut
 * from slabs and kept on lists by size; large ones are the driver's, one by one. Everything runs on
 * one stream, so a freed piece may be handed out at once: what still reads it comes before what
 * writes it. With DOGEAR_CUDA_EXACT=1 all are the driver's: memory checkers see their ends. */
#include "kernels/cuda/backend.h"

enum { SMALL_MOST = 1 << 20 }; /* larger pieces are the driver's */
#define STEP ((size_t)256) /* sizes are multiples of it */
#define N_SIZE (SMALL_MOST / STEP + 1)
#define SLAB_BYTES ((size_t)32 << 20)

struct piece {
    unsigned char *dev;
    size_t size;
    struct piece *next; /* of the same bucket, or of the same size when free */
};

enum { N_BUCKET = 1 << 14 };

struct cuda_arena {
    size_t small_most;
    struct piece *used[N_BUCKET]; /* by address */
    struct piece *free[N_SIZE];   /* by size */
    unsigned char **slab;
    size_t n_slab, slab_cap;
    unsigned char *at, *end;      /* what is left of the newest slab */
    uint64_t held_bytes;          /* from the driver */
};

static size_t bucket_of(const void *dev)
{
    return (size_t)(((uintptr_t)dev / STEP * 0x9e3779b97f4a7c15u) >> 50);
}

static bool slab_new(struct kern_cuda *c, struct cuda_arena *a)
{
    void *dev;
    if (a->n_slab == a->slab_cap) {
        size_t cap = a->slab_cap ? 2 * a->slab_cap : 64;
        unsigned char **more = (unsigned char **)realloc(a->slab, cap * sizeof *more);
        if (!more)
            return false;
        a->slab = more;
        a->slab_cap = cap;
    }
    if (cudaMalloc(&dev, SLAB_BYTES) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    a->held_bytes += SLAB_BYTES;
    a->slab[a->n_slab++] = a->at = (unsigned char *)dev;
    a->end = a->at + SLAB_BYTES;
    return true;
}

static struct cuda_arena *arena_new(void)
{
    const char *exact = getenv("DOGEAR_CUDA_EXACT");
    struct cuda_arena *a = (struct cuda_arena *)calloc(1, sizeof *a);
    if (a)
        a->small_most = exact && strcmp(exact, "1") == 0 ? 0 : SMALL_MOST;
    return a;
}

void *arena_alloc(struct kern_cuda *c, size_t size_bytes)
{
    if (!c->arena)
        c->arena = arena_new();
    struct cuda_arena *a = c->arena;
    if (!a || size_bytes > SIZE_MAX - STEP)
        return NULL;
    size_t size = size_bytes == 0 ? STEP : (size_bytes + STEP - 1) / STEP * STEP;
    bool small = size <= a->small_most;
    struct piece *p = small ? a->free[size / STEP] : NULL;
    if (p) {
        a->free[size / STEP] = p->next;
    } else {
        p = (struct piece *)calloc(1, sizeof *p);
        if (!p)
            return NULL;
        p->size = size;
        void *dev = NULL;
        bool ok = true;
        if (!small) {
            /* the size asked for, so that a checker sees the end */
            ok = cudaMalloc(&dev, size_bytes ? size_bytes : 1) == cudaSuccess;
            if (ok)
                a->held_bytes += size;
            else
                cudaGetLastError(); /* told by the NULL */
            p->dev = (unsigned char *)dev;
        } else if ((size_t)(a->end - a->at) >= size || (ok = slab_new(c, a))) {
            p->dev = a->at;
            a->at += size;
        }
        if (!ok) {
            free(p);
            return NULL;
        }
    }
    size_t b = bucket_of(p->dev);
    p->next = a->used[b];
    a->used[b] = p;
    return p->dev;
}

void arena_free(struct kern_cuda *c, void *dev)
{
    struct cuda_arena *a = c->arena;
    if (!dev)
        return;
    struct piece **at = &a->used[bucket_of(dev)];
    while (*at && (*at)->dev != dev)
        at = &(*at)->next;
    struct piece *p = *at;
    if (!p)
        return;
    *at = p->next;
    if (p->size <= a->small_most) {
        p->next = a->free[p->size / STEP];
        a->free[p->size / STEP] = p;
    } else {
        cuda_stream(c); /* noted launches may use it */
        cudaFree(p->dev); /* waits until nothing uses it */
        a->held_bytes -= p->size;
        free(p);
    }
}

/* Those above small_most are given back to the driver, too. */
static void pieces_free(struct piece *p, size_t small_most)
{
    while (p) {
        struct piece *next = p->next;
        if (p->size > small_most)
            cudaFree(p->dev);
        free(p);
        p = next;
    }
}

uint64_t arena_bytes(const struct kern_cuda *c)
{
    return c->arena ? c->arena->held_bytes : 0;
}

void arena_close(struct kern_cuda *c)
{
    struct cuda_arena *a = c->arena;
    if (!a)
        return;
    for (size_t i = 0; i < N_BUCKET; i++)
        pieces_free(a->used[i], a->small_most);
    for (size_t i = 0; i < N_SIZE; i++)
        pieces_free(a->free[i], a->small_most);
    for (size_t i = 0; i < a->n_slab; i++)
        cudaFree(a->slab[i]);
    free(a->slab);
    free(a);
    c->arena = NULL;
}
