/* Sealing and stepping down on the device: one block of threads per head's 64 tokens, one thread per
 * group. The arithmetic is that of page_seal.h and page.c, line by line, so that the bytes are the
 * CPU's; this file is compiled without fused multiply-adds for that. */
#include "kernels/cuda/attn.cuh"
#include "kernels/cuda/backend.h"

#define SEAL_FN static __device__ __noinline__ /* one copy of each: half a minute less to compile */
#define SEAL_INLINE static __device__ __forceinline__
#ifdef CUDA_SHIM
#define SEAL_TABLE static const
#else
#define SEAL_TABLE static __device__ const
#endif
#define SEAL_GROUPS_ONLY
#define PAGE_ROTATE_FN SEAL_FN
#define kern_f16_to_f32 half_value
#define kern_f32_to_f16 half_of
#include "kernels/page_seal.h"
#undef kern_f16_to_f32
#undef kern_f32_to_f16

#include <assert.h>

enum { SEAL_THREADS = 128 };

struct seal_shape {
    int32_t head_dim, n_group, bits_k, bits_v;
    uint32_t flags, size_bytes;
    uint16_t plane_k[PAGE_PLANES], plane_v[PAGE_PLANES]; /* offsets of planes, in 64 bytes */
};

struct seal_job {
    const uint16_t *k, *v;
    uint8_t *to;
    int32_t n_skip;
};

/* Sums of one group: page_seal.h adds them up group by group, and so do we, in the same order. */
struct group_sums {
    double err[PAGE_DEPTHS], x_sq;
    int64_t n;
};

/* Planes of one tensor from its codes [row][lane] (keys: channel, token; values: token, channel):
 * the word of 16 rows for one lane. Line of (token tile, channel tile): page.h. */
SEAL_FN void pack_words(const uint8_t *codes, int32_t n_row, int32_t n_lane, bool value,
                        int32_t d, int32_t n_plane, const uint16_t *plane, uint8_t *page)
{
    for (int32_t i = (int32_t)threadIdx.x; i < n_row / 16 * n_lane; i += (int32_t)blockDim.x) {
        int32_t tile = i / n_lane, lane = i % n_lane;
        int32_t tt = value ? tile : lane / 16, ct = value ? lane / 16 : tile;
        uint32_t word[PAGE_PLANES] = {0, 0, 0, 0};
        for (int32_t r = 0; r < 16; r++) {
            uint32_t c = codes[(tile * 16 + r) * n_lane + lane];
            int32_t up = 2 * (r / 4) + 8 * (r % 4);
            word[0] |= (c >> 6) << up;
            word[1] |= (c >> 4 & 3) << up;
            word[2] |= (c >> 2 & 3) << up;
            word[3] |= (c & 3) << up;
        }
        int32_t at = tt * 4 * d + ct * 64 + lane % 16 * 4;
        for (int32_t p = 0; p < n_plane; p++)
            *(uint32_t *)(page + (size_t)plane[p] * 64 + at) = word[p];
    }
}

SEAL_FN void sums_add(struct totals *to, const struct group_sums *g, int32_t bits)
{
    for (int32_t i = 0; i < bits / 2; i++)
        to->err[i] += g->err[i];
    to->x_sq += g->x_sq;
    to->n += g->n;
}

SEAL_FN void group_seal_alone(struct group *g, int32_t bits, uint16_t *scale, uint16_t *lo,
                              struct group_sums *sums)
{
    struct totals t = {{0, 0, 0, 0}, 0, 0};
    group_seal(g, bits, scale, lo, &t);
    for (int32_t i = 0; i < PAGE_DEPTHS; i++)
        sums->err[i] = t.err[i];
    sums->x_sq = t.x_sq;
    sums->n = t.n;
}

static __global__ void __launch_bounds__(SEAL_THREADS)
    seal_pages(const struct seal_job *jobs, struct seal_shape s)
{
    DYNAMIC_SHARED(memory);
    struct group_sums *sums = (struct group_sums *)memory; /* [64][n_group], and as many as channels */
    uint8_t *codes = (uint8_t *)(sums + PAGE_TOK * s.n_group); /* [head_dim or 64][...] */
    const struct seal_job job = jobs[blockIdx.x];
    int32_t d = s.head_dim, n_group = s.n_group, tid = (int32_t)threadIdx.x;
    struct kern_page *p = (struct kern_page *)job.to;
    uint16_t *scale = (uint16_t *)(job.to + sizeof *p);
    for (int32_t i = tid; i < (int32_t)sizeof *p; i += SEAL_THREADS)
        job.to[i] = 0;
    __syncthreads();
    for (int32_t c = tid; c < d; c += SEAL_THREADS) {
        float x[PAGE_TOK];
        struct group g;
        half_to_float(job.k + (size_t)c * PAGE_TOK, x, PAGE_TOK);
        group_load(&g, x, PAGE_TOK, job.n_skip);
        group_seal_alone(&g, s.bits_k, &scale[c], &scale[d + c], &sums[c]);
        for (int32_t t = 0; t < PAGE_TOK; t++)
            codes[c * PAGE_TOK + t] = (uint8_t)g.codes[t];
    }
    __syncthreads();
    pack_words(codes, d, PAGE_TOK, false, d, s.bits_k / 2, s.plane_k, job.to);
    if (tid == 0) {
        struct totals tot = {{0, 0, 0, 0}, 0, 0};
        for (int32_t c = 0; c < d; c++)
            sums_add(&tot, &sums[c], s.bits_k);
        p->rms_k = totals_store(&tot, s.bits_k, p->err_k);
    }
    __syncthreads();
    uint16_t *scale_v = scale + 2 * d, *lo_v = scale_v + PAGE_TOK * n_group;
    for (int32_t i = tid; i < PAGE_TOK * n_group && s.bits_v > 0; i += SEAL_THREADS) {
        int32_t t = i % PAGE_TOK, at = i / PAGE_TOK, c0 = at * PAGE_GROUP;
        int32_t n = d - c0 < PAGE_GROUP ? d - c0 : PAGE_GROUP;
        float x[PAGE_HEAD_DIM_MAX]; /* a rotated row is whole for each of its groups */
        struct group g;
        half_to_float(job.v + (size_t)t * d, x, d);
        if (s.flags & PAGE_V_ROTATED)
            page_rotate_row(x, d);
        group_load(&g, x + c0, n, 0);
        group_seal_alone(&g, s.bits_v, &scale_v[i], &lo_v[i], &sums[t * n_group + at]);
        for (int32_t c = 0; c < n; c++)
            codes[t * d + c0 + c] = (uint8_t)g.codes[c];
    }
    __syncthreads();
    if (s.bits_v > 0)
        pack_words(codes, PAGE_TOK, d, true, d, s.bits_v / 2, s.plane_v, job.to);
    if (tid == 0) {
        struct totals tot = {{0, 0, 0, 0}, 0, 0};
        for (int32_t i = job.n_skip * n_group; i < PAGE_TOK * n_group && s.bits_v > 0; i++)
            sums_add(&tot, &sums[i], s.bits_v);
        if (s.bits_v > 0)
            p->rms_v = totals_store(&tot, s.bits_v, p->err_v);
        else
            p->rms_v = p->rms_k;
        for (int i = 0; i < PAGE_DEPTHS && s.bits_v == 0; i++)
            p->err_v[i] = p->err_k[i];
        p->magic = PAGE_MAGIC;
        p->version = PAGE_VERSION;
        p->flags = (uint16_t)(s.bits_v > 0 ? s.flags : 0);
        p->size_bytes = s.size_bytes;
        p->head_dim = (uint16_t)d;
        p->bits_k = (uint8_t)s.bits_k;
        p->bits_v = (uint8_t)s.bits_v;
        p->n_skip = (uint8_t)job.n_skip;
    }
}

/* Sealed pages lie one behind the other; each goes to its place. */
static __global__ void scatter_pages(const uint8_t *from, size_t size, uint8_t *const *to)
{
    const uint4 *src = (const uint4 *)(from + blockIdx.x * size);
    uint4 *dst = (uint4 *)to[blockIdx.x];
    for (size_t i = threadIdx.x; i < size / 16; i += blockDim.x)
        dst[i] = src[i];
}

/* ---- the way home ---- */

/* Pages leave on a stream of their own: while one lot travels and the host puts it where it belongs,
 * the next layers are computed and the other lot is filled. */
enum { LOTS = 2, LOT_PAGES = 512 };

struct lot {
    unsigned char *dev, *host; /* one page behind the other: CUDA_STAGING_BYTES; host: page-locked */
    cudaEvent_t sealed, home;
    struct kern_page *page[LOT_PAGES]; /* where they belong */
    int32_t n;                         /* on their way */
    size_t size;                       /* of each */
};

struct cuda_pages {
    cudaStream_t stream;
    struct lot lot[LOTS];
    int next;
};

struct cuda_pages *pages_open(struct kern_cuda *c)
{
    struct cuda_pages *p = (struct cuda_pages *)calloc(1, sizeof *p);
    bool ok = p && cudaStreamCreateWithFlags(&p->stream, cudaStreamNonBlocking) == cudaSuccess;
    for (int i = 0; ok && i < LOTS; i++) {
        struct lot *l = &p->lot[i];
        ok = (l->dev = (unsigned char *)arena_alloc(c, CUDA_STAGING_BYTES)) != NULL &&
             cudaMallocHost((void **)&l->host, CUDA_STAGING_BYTES) == cudaSuccess &&
             cudaEventCreateWithFlags(&l->sealed, cudaEventDisableTiming) == cudaSuccess &&
             cudaEventCreateWithFlags(&l->home, cudaEventDisableTiming) == cudaSuccess;
    }
    if (ok)
        return p;
    pages_close(p);
    return NULL;
}

void pages_close(struct cuda_pages *p)
{
    if (p && p->stream)
        cudaStreamSynchronize(p->stream); /* what nobody wants any more may be on its way */
    for (int i = 0; p && i < LOTS; i++) {
        struct lot *l = &p->lot[i];
        if (l->sealed)
            cudaEventDestroy(l->sealed);
        if (l->home)
            cudaEventDestroy(l->home);
        if (l->host)
            cudaFreeHost(l->host);
    }
    if (p && p->stream)
        cudaStreamDestroy(p->stream);
    free(p);
}

static void lot_collect(struct kern_cuda *c, struct lot *l)
{
    if (l->n > 0 && cuda_ok(c, cudaEventSynchronize(l->home)))
        for (int32_t i = 0; i < l->n; i++)
            memcpy(l->page[i], l->host + l->size * (size_t)i, l->size);
    l->n = 0;
}

void pages_collect(struct kern_cuda *c)
{
    for (int i = 0; i < LOTS; i++) /* the older one first: a page sealed twice is the later one */
        lot_collect(c, &c->pages->lot[(c->pages->next + i) % LOTS]);
}

static struct lot *lot_next(struct kern_cuda *c)
{
    struct lot *l = &c->pages->lot[c->pages->next];
    c->pages->next = (c->pages->next + 1) % LOTS;
    lot_collect(c, l);
    return l;
}

static void lot_send(struct kern_cuda *c, struct lot *l, int32_t n, size_t size)
{
    cudaStream_t stream = c->pages->stream;
    l->n = n;
    l->size = size;
    cuda_ok(c, cudaEventRecord(l->sealed, cuda_stream(c)));
    cuda_ok(c, cudaStreamWaitEvent(stream, l->sealed, 0));
    cuda_ok(c, cudaMemcpyAsync(l->host, l->dev, size * (size_t)n, cudaMemcpyDeviceToHost, stream));
    cuda_ok(c, cudaEventRecord(l->home, stream));
}

void cuda_seal(struct kern *k, const struct kern_seal *jobs, int32_t n, int32_t head_dim,
               int32_t bits_k, int32_t bits_v, uint32_t flags)
{
    struct kern_cuda *c = cuda_of(k);
    struct page_shape shape = {head_dim, bits_k, bits_v};
    size_t size = page_size(&shape);
    struct seal_shape s = {};
    assert(size > 0 && size % 16 == 0 && size <= CUDA_STAGING_BYTES);
    s.head_dim = head_dim;
    s.n_group = page_n_group(head_dim);
    s.bits_k = bits_k;
    s.bits_v = bits_v;
    s.flags = flags;
    s.size_bytes = (uint32_t)size;
    for (int32_t i = 0; i < PAGE_PLANES; i++) {
        s.plane_k[i] = (uint16_t)(page_plane_at(&shape, PAGE_K, i) / 64);
        s.plane_v[i] = (uint16_t)(page_plane_at(&shape, PAGE_V, i) / 64);
    }
    size_t shared = PAGE_TOK * (sizeof(struct group_sums) * (size_t)s.n_group + (size_t)head_dim);
    assert(shared <= c->shared_most);
    struct seal_job job[LOT_PAGES];
    uint8_t *to[LOT_PAGES];
    int32_t most = (int32_t)(CUDA_STAGING_BYTES / size);
    most = most < LOT_PAGES ? most : LOT_PAGES;
    for (int32_t at = 0; at < n; at += most) {
        int32_t now = n - at < most ? n - at : most;
        struct cuda_cut cut = cuda_cut_begin(c);
        void *dev_job = cuda_cut_take(&cut, sizeof job), *dev_to = cuda_cut_take(&cut, sizeof to);
        struct lot *lot = lot_next(c);
        assert(dev_job && dev_to);
        for (int32_t i = 0; i < now; i++) {
            job[i] = {jobs[at + i].k, jobs[at + i].v, lot->dev + size * (size_t)i, jobs[at + i].n_skip};
            to[i] = (uint8_t *)jobs[at + i].dev;
            lot->page[i] = jobs[at + i].page;
        }
        cuda_put(c, dev_job, job, sizeof *job * (size_t)now);
        cuda_put(c, dev_to, to, sizeof *to * (size_t)now);
        launch(seal_pages, dim3((unsigned)now), SEAL_THREADS, shared, c,
               (const struct seal_job *)dev_job, s);
        launch(scatter_pages, dim3((unsigned)now), 128, 0, c, (const uint8_t *)lot->dev, size,
               (uint8_t *const *)dev_to);
        lot_send(c, lot, now, size);
    }
}

/* ---- stepping down ---- */

/* Scale and offset of one group for its codes without their lowest bits: cut_refit of page.c. The
 * group is channel `fixed`, tokens [from, end) (keys), or token `fixed`, channels [from, end). */
SEAL_FN void group_cut(const kern_page *p, bool value, int32_t fixed, int32_t from, int32_t end,
                       int32_t drop, uint16_t *scale, uint16_t *lo)
{
    int32_t d = p->head_dim, n_plane = (value ? p->bits_v : p->bits_k) / PAGE_PLANE_BITS;
    const uint8_t *plane = page_plane_of(p, value, 0);
    int64_t n = end - from, c = 0, cut = 0, cut_cut = 0, c_cut = 0;
    int32_t next[PAGE_PLANES];
    for (int32_t i = 0; i < n_plane; i++)
        next[i] = (int32_t)(page_plane_of(p, value, i) - plane);
    for (int32_t x = from; x < end; x++) {
        int32_t t = value ? fixed : x, ch = value ? x : fixed;
        int32_t at = t / 16 * 4 * d + ch / 16 * 64;
        at += value ? ch % 16 * 4 + t % 4 : t % 16 * 4 + ch % 4;
        int32_t up = 2 * ((value ? t : ch) / 4 % 4), code = 0;
        for (int32_t i = 0; i < n_plane; i++)
            code = code << 2 | (plane[next[i] + at] >> up & 3);
        int32_t less = code >> drop;
        c += code;
        cut += less;
        cut_cut += less * less;
        c_cut += code * less;
    }
    double s0 = half_value(*scale), lo0 = half_value(*lo);
    int64_t var = n * cut_cut - cut * cut, cov = n * c_cut - c * cut;
    double s1 = var > 0 ? s0 * (double)cov / (double)var : s0 * (1 << drop);
    uint16_t half = half_finite(s1);
    double kept = half_value(half);
    *scale = half;
    *lo = half_finite(lo0 + (s0 * (double)c - kept * (double)cut) / (double)n);
}

struct demote_job {
    const uint8_t *from;
    uint8_t *to, *base; /* base: header, scales and offsets, for the host too */
    int32_t bits_k, bits_v;
};

/* Planes that stay lie where they lay. */
static __global__ void __launch_bounds__(SEAL_THREADS)
    demote_pages(const struct demote_job *jobs, int32_t base_bytes)
{
    const struct demote_job job = jobs[blockIdx.x];
    const kern_page *p = (const kern_page *)job.from;
    int32_t d = p->head_dim, n_group = (d + PAGE_GROUP - 1) / PAGE_GROUP, tid = (int32_t)threadIdx.x;
    int32_t drop_k = p->bits_k - job.bits_k, drop_v = p->bits_v - job.bits_v;
    int32_t skip = p->n_skip < PAGE_TOK ? p->n_skip : 0, n_v = PAGE_TOK * n_group;
    uint32_t size = (uint32_t)(base_bytes + 16 * d * ((job.bits_k + job.bits_v) / PAGE_PLANE_BITS));
    for (int32_t i = tid; i < base_bytes / 4; i += SEAL_THREADS)
        ((uint32_t *)job.base)[i] = ((const uint32_t *)job.from)[i];
    __syncthreads();
    uint16_t *scale_k = (uint16_t *)(job.base + sizeof *p), *scale_v = scale_k + 2 * d;
    for (int32_t c = tid; c < d && drop_k > 0; c += SEAL_THREADS)
        group_cut(p, false, c, skip, PAGE_TOK, drop_k, &scale_k[c], &scale_k[d + c]);
    for (int32_t i = tid; i < n_v && drop_v > 0; i += SEAL_THREADS) {
        int32_t c0 = i / PAGE_TOK * PAGE_GROUP;
        group_cut(p, true, i % PAGE_TOK, c0, c0 + PAGE_GROUP < d ? c0 + PAGE_GROUP : d, drop_v,
                  &scale_v[i], &scale_v[n_v + i]);
    }
    if (tid == 0) {
        kern_page *to = (kern_page *)job.base;
        to->bits_k = (uint8_t)job.bits_k;
        to->bits_v = (uint8_t)job.bits_v;
        to->size_bytes = size;
    }
    __syncthreads(); /* from may be to: all of it has been read */
    for (int32_t i = tid; i < base_bytes / 16; i += SEAL_THREADS)
        ((uint4 *)job.to)[i] = ((const uint4 *)job.base)[i];
    for (uint32_t i = (uint32_t)(base_bytes / 16 + tid); i < size / 16 && job.to != job.from; i += SEAL_THREADS)
        ((uint4 *)job.to)[i] = ((const uint4 *)job.from)[i];
}

/* Whether the planes that stay are the first ones of the page: all steps of the ladder. */
static bool planes_stay(const struct kern_page *page, int32_t bits_k, int32_t bits_v)
{
    struct page_shape from = page_shape_of(page), to = {from.head_dim, bits_k, bits_v};
    for (int32_t i = 0; i < bits_k / PAGE_PLANE_BITS; i++)
        if (page_plane_at(&from, PAGE_K, i) != page_plane_at(&to, PAGE_K, i))
            return false;
    for (int32_t i = 0; i < bits_v / PAGE_PLANE_BITS; i++)
        if (page_plane_at(&from, PAGE_V, i) != page_plane_at(&to, PAGE_V, i))
            return false;
    return true;
}

void cuda_demote(struct kern *k, const struct kern_demote *jobs, int32_t n)
{
    struct kern_cuda *c = cuda_of(k);
    enum { AT_ONCE = 512 };
    struct demote_job job[AT_ONCE];
    struct kern_page *page[AT_ONCE];
    for (int32_t at = 0; at < n;) {
        const struct page_shape first = page_shape_of(jobs[at].page); /* all alike but for their planes */
        size_t base = page_base_size(&first);
        struct cuda_cut cut = cuda_cut_begin(c);
        uint8_t *bases = (uint8_t *)cuda_cut_take(&cut, base * AT_ONCE);
        void *dev_job = cuda_cut_take(&cut, sizeof job);
        int32_t now = 0;
        assert(bases && dev_job && base * AT_ONCE <= CUDA_STAGING_BYTES);
        for (; at < n && now < AT_ONCE; at++) {
            const struct kern_demote *j = &jobs[at];
            if (!planes_stay(j->page, j->bits_k, j->bits_v)) {
                size_t size = page_demote(j->page, j->bits_k, j->bits_v);
                cuda_put(c, j->dev_to, j->page, size);
                continue;
            }
            page[now] = j->page;
            job[now] = {(const uint8_t *)j->dev, (uint8_t *)j->dev_to, bases + base * (size_t)now,
                        j->bits_k, j->bits_v};
            now++;
        }
        if (now == 0)
            continue;
        cuda_put(c, dev_job, job, sizeof *job * (size_t)now);
        launch(demote_pages, dim3((unsigned)now), SEAL_THREADS, 0, c,
               (const struct demote_job *)dev_job, (int32_t)base);
        cuda_ok(c, cudaMemcpyAsync(c->staging, bases, base * (size_t)now, cudaMemcpyDeviceToHost,
                                   cuda_stream(c)));
        cuda_ok(c, cudaStreamSynchronize(c->stream));
        for (int32_t i = 0; i < now; i++)
            if (c->error == cudaSuccess)
                memcpy(page[i], (uint8_t *)c->staging + base * (size_t)i, base);
            else /* the host's pages stay right whatever becomes of the device */
                page_demote(page[i], job[i].bits_k, job[i].bits_v);
    }
}
