/* The fibers of the shim: see shim.h. */
#include "kernels/cuda/shim.h"
#include "kernels/cuda/late.h"

#include <ucontext.h>

dim3 shim_grid, shim_block, shim_block_idx;
unsigned shim_tid;
unsigned char *shim_shared;
int shim_waits_left = -1;

enum { STACK_BYTES = 128 << 10, THREADS_MAX = 1024, WARPS_MAX = THREADS_MAX / 32 };
enum wait { RUNS, AT_WARP, AT_BLOCK, DONE };

/* ---- switching: a few instructions where we know them, else the C library's way ---- */

#if defined(__x86_64__)
struct place {
    void *sp;
};
extern "C" void shim_switch(void **save, void *to);
__asm__(".text\n.globl shim_switch\n.type shim_switch,@function\nshim_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size shim_switch,.-shim_switch\n");
static void place_go(place *from, place *to)
{
    shim_switch(&from->sp, to->sp);
}
static void place_make(place *p, unsigned char *stack, void (*entry)())
{
    void **sp = (void **)((uintptr_t)(stack + STACK_BYTES) & ~(uintptr_t)15);
    *--sp = nullptr; /* entry never returns; keeps the stack aligned as after a call */
    *--sp = (void *)entry;
    for (int i = 0; i < 6; i++)
        *--sp = nullptr;
    p->sp = sp;
}
#else
struct place {
    ucontext_t at;
};
static void place_go(place *from, place *to)
{
    swapcontext(&from->at, &to->at);
}
static void place_make(place *p, unsigned char *stack, void (*entry)())
{
    getcontext(&p->at);
    p->at.uc_stack.ss_sp = stack;
    p->at.uc_stack.ss_size = STACK_BYTES;
    p->at.uc_link = nullptr;
    makecontext(&p->at, entry, 0);
}
#endif

/* ---- one block ---- */

static place scheduler, fiber[THREADS_MAX];
static unsigned char *stack[THREADS_MAX];
static wait state[THREADS_MAX];
static uint64_t slots[WARPS_MAX][8 * 32];
static void (*entry_fn)(void *);
static void *entry_ctx;

static void die(const char *what)
{
    fprintf(stderr, "cuda shim: %s (block %u,%u,%u thread %u)\n", what, shim_block_idx.x,
            shim_block_idx.y, shim_block_idx.z, shim_tid);
    abort();
}

static void pause(wait how)
{
    state[shim_tid] = how;
    place_go(&fiber[shim_tid], &scheduler);
}

void shim_barrier()
{
    pause(AT_BLOCK);
}

void shim_warp_barrier()
{
    pause(AT_WARP);
}

uint64_t *shim_warp_slots()
{
    return slots[shim_tid / 32];
}

static void fiber_main()
{
    entry_fn(entry_ctx);
    pause(DONE);
    die("a finished thread ran again");
}

/* Runs the lanes of a warp until all of them wait for the block or are done. */
static void run_warp(unsigned warp, unsigned n_thread, bool turned)
{
    unsigned lane0 = warp * 32, n = n_thread - lane0 < 32 ? n_thread - lane0 : 32;
    for (;;) {
        unsigned n_warp = 0, n_other = 0;
        for (unsigned i = 0; i < n; i++) {
            unsigned tid = lane0 + (turned ? n - 1 - i : i);
            if (state[tid] == RUNS) {
                shim_tid = tid;
                place_go(&scheduler, &fiber[tid]);
            }
        }
        for (unsigned i = 0; i < n; i++) {
            n_warp += state[lane0 + i] == AT_WARP;
            n_other += state[lane0 + i] != AT_WARP;
        }
        if (n_warp == 0)
            return;
        if (n_other > 0)
            die("lanes of a warp wait in different places");
        for (unsigned i = 0; i < n; i++)
            state[lane0 + i] = RUNS;
    }
}

static void run_block(unsigned n_thread, bool turned)
{
    unsigned n_warp = (n_thread + 31) / 32;
    for (unsigned i = 0; i < n_thread; i++) {
        place_make(&fiber[i], stack[i], fiber_main);
        state[i] = RUNS;
    }
    for (;;) {
        unsigned n_block = 0;
        for (unsigned i = 0; i < n_warp; i++)
            run_warp(turned ? n_warp - 1 - i : i, n_thread, turned);
        for (unsigned i = 0; i < n_thread; i++)
            n_block += state[i] == AT_BLOCK;
        if (n_block == 0)
            return;
        if (n_block != n_thread)
            die("only part of the block reached a barrier");
        for (unsigned i = 0; i < n_thread; i++)
            state[i] = RUNS;
    }
}

void shim_run(dim3 grid, unsigned n_thread, size_t shared_bytes, void (*fn)(void *), void *ctx)
{
    static unsigned char *shared;
    static size_t shared_cap;
    const char *order = getenv("CUDA_SHIM_ORDER");
    bool turned = order && *order == '1';
    if (!shim_waits_left)
        return;
    if (n_thread == 0 || n_thread > THREADS_MAX || n_thread % 32 || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.y > 65535 || grid.z > 65535)
        die("a launch of this shape fails");
    for (unsigned i = 0; i < n_thread; i++)
        if (!stack[i])
            stack[i] = (unsigned char *)malloc(STACK_BYTES);
    if (shared_bytes > shared_cap) {
        free(shared);
        shared = (unsigned char *)aligned_alloc(64, (shared_bytes + 63) / 64 * 64);
        shared_cap = shared_bytes;
    }
    entry_fn = fn;
    entry_ctx = ctx;
    shim_grid = grid;
    shim_block = dim3(n_thread);
    shim_shared = shared;
    unsigned n = grid.x * grid.y * grid.z;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = turned ? n - 1 - i : i;
        shim_block_idx = dim3(at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y);
        if (shared_bytes)
            memset(shared, 0xff, shared_bytes);
        run_block(n_thread, turned);
    }
}

cudaError_t cudaMalloc(void **ret, size_t size)
{
    if (size > (size_t)64 << 30)
        return cudaErrorMemoryAllocation;
    size = (size + 255) / 256 * 256;
    *ret = aligned_alloc(256, size ? size : 256);
    if (!*ret)
        return cudaErrorMemoryAllocation;
    memset(*ret, 0xff, size < ((size_t)64 << 20) ? size : 0);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    free(p);
    return cudaSuccess;
}

/* ---- what comes back: see late.h ---- */

struct shim_event {
    cudaStream_t stream;
    uint64_t turn;
};

/* Nothing arrives once the device has failed. */
static cudaError_t arrive(cudaStream_t stream, uint64_t turn)
{
    shim_waits_left -= shim_waits_left > 0;
    late_arrive(stream, turn, shim_waits_left == 0);
    return shim_state();
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (!shim_waits_left)
        return shim_state();
    if (kind == cudaMemcpyDeviceToHost)
        late_add(stream, to, from, n, !stream);
    else
        memmove(to, from, n);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return arrive(stream, late_now());
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    return arrive(event->stream, event->turn);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    *event = {stream, late_now()};
    return shim_state();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *ret, unsigned)
{
    *ret = (cudaEvent_t)calloc(1, sizeof **ret);
    return *ret ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *ret, unsigned)
{
    *ret = malloc(1);
    return *ret ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}
