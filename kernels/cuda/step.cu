/* A decode step in one piece. Between two tokens of one 64-block the device is asked for exactly the
 * same: what differs, the token and its place in the block, lies in device memory. So the launches of
 * a step are noted, and when they are those of the step before, byte for byte, they are run as one
 * graph: hundreds of launches cost more than small models need for computing. Anything else that uses
 * the stream (cuda_stream) ends the step first: what was noted is run, and the rest goes as always.
 *
 * DOGEAR_CUDA_GRAPH=0 turns it off; a driver that makes no graph of a step has it launched as always.
 * Under the shim the launches of the step before are run again. */
#include "kernels/cuda/backend.h"

struct cuda_step {
    bool open, has_pos;
    int32_t id, pos0; /* of the token */
    int32_t *dev;     /* {id, place in its block} */
    struct launch_call *call, *old; /* noted now; of the step before */
    size_t n, n_old, cap, cap_old;
    bool no_graph; /* it could not be made */
#ifndef CUDA_SHIM
    cudaGraphExec_t graph; /* of old; or NULL */
#endif
    uint64_t n_replayed, n_plain;
};

struct cuda_step *step_open(struct kern_cuda *c)
{
    const char *set = getenv("DOGEAR_CUDA_GRAPH");
    if (set && strcmp(set, "0") == 0)
        return NULL;
    struct cuda_step *s = (struct cuda_step *)calloc(1, sizeof *s);
    if (s)
        s->dev = (int32_t *)arena_alloc(c, 2 * sizeof(int32_t));
    if (s && s->dev)
        return s;
    free(s);
    return NULL;
}

static void graph_drop(struct cuda_step *s)
{
#ifndef CUDA_SHIM
    if (s->graph)
        cudaGraphExecDestroy(s->graph);
    s->graph = NULL;
#endif
}

void step_close(struct cuda_step *s)
{
    if (!s)
        return;
    graph_drop(s);
    free(s->call);
    free(s->old);
    free(s);
}

void step_count(const struct kern_cuda *c, uint64_t *ret_replayed, uint64_t *ret_plain)
{
    *ret_replayed = c->step ? c->step->n_replayed : 0;
    *ret_plain = c->step ? c->step->n_plain : 0;
}

static void run_all(struct kern_cuda *c, const struct launch_call *call, size_t n)
{
    for (size_t i = 0; i < n; i++)
        call[i].run(&call[i], c->stream);
}

#ifdef CUDA_SHIM

static bool graph_run(struct kern_cuda *c, struct cuda_step *s)
{
    run_all(c, s->old, s->n_old);
    return true;
}

#else

static bool graph_make(struct kern_cuda *c, struct cuda_step *s)
{
    cudaGraph_t g = NULL;
    cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    if (e == cudaSuccess) {
        run_all(c, s->old, s->n_old);
        e = cudaStreamEndCapture(c->stream, &g);
    }
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&s->graph, g, 0);
    if (g)
        cudaGraphDestroy(g);
    if (e != cudaSuccess) {
        cudaGetLastError();
        s->graph = NULL;
        s->no_graph = true;
    }
    return e == cudaSuccess;
}

static bool graph_run(struct kern_cuda *c, struct cuda_step *s)
{
    return (s->graph || (!s->no_graph && graph_make(c, s))) &&
           cuda_ok(c, cudaGraphLaunch(s->graph, c->stream));
}

#endif

void step_end(struct kern_cuda *c)
{
    struct cuda_step *s = c->step;
    if (!s || !s->open)
        return;
    s->open = false;
    const int32_t state[2] = {s->id, s->pos0 % KERN_BLOCK_TOK};
    cuda_put(c, s->dev, state, sizeof state);
    bool same = s->n == s->n_old && memcmp(s->call, s->old, s->n * sizeof *s->call) == 0;
    if (same && graph_run(c, s)) {
        s->n_replayed++;
        return;
    }
    run_all(c, s->call, s->n);
    s->n_plain++;
    if (same)
        return;
    graph_drop(s);
    struct launch_call *was = s->old;
    size_t cap = s->cap_old;
    s->old = s->call;
    s->n_old = s->n;
    s->cap_old = s->cap;
    s->call = was;
    s->cap = cap;
}

const int32_t *step_begin(struct kern_cuda *c, int32_t id)
{
    struct cuda_step *s = c->step;
    step_end(c);
    if (!s)
        return NULL;
    s->open = true;
    s->has_pos = false;
    s->id = id;
    s->pos0 = 0;
    s->n = 0;
    return s->dev;
}

const int32_t *step_place(struct kern_cuda *c, int32_t n_tok, int32_t *pos0)
{
    struct cuda_step *s = c->step;
    if (!s || !s->open)
        return NULL;
    if (n_tok != 1 || (s->has_pos && s->pos0 != *pos0)) { /* not of this step */
        step_end(c);
        return NULL;
    }
    s->has_pos = true;
    s->pos0 = *pos0;
    *pos0 -= *pos0 % KERN_BLOCK_TOK;
    return s->dev + 1;
}

cudaStream_t cuda_stream(struct kern_cuda *c)
{
    step_end(c);
    return c->stream;
}

void cuda_call(struct kern_cuda *c, const struct launch_call *call)
{
    struct cuda_step *s = c->step;
    if (s && s->open && s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        struct launch_call *more = (struct launch_call *)realloc(s->call, cap * sizeof *more);
        if (more) {
            s->call = more;
            s->cap = cap;
        } else {
            step_end(c);
        }
    }
    if (s && s->open)
        memcpy(&s->call[s->n++], call, sizeof *call);
    else
        call->run(call, c->stream);
}
