/* The CUDA backend as a module: what the program looks for in the shared library it loads. */
#ifndef KERNELS_CUDA_MODULE_H
#define KERNELS_CUDA_MODULE_H

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Changes with anything that the two sides share: struct kern_ops above all. */
enum { CUDA_MODULE_ABI = 9 };

struct cuda_device {
    char name[128], pci[32]; /* pci: "0000:19:00.0" */
    int32_t capability;  /* x 10: 90 for 9.0 */
    int32_t n_sm;
    uint64_t total_bytes, free_bytes;
    int32_t driver, runtime; /* CUDA versions as 1000 * major + 10 * minor */
    bool gemm;               /* the library for products of many tokens is there */
};

struct cuda_module {
    int32_t abi; /* CUDA_MODULE_ABI */
    /* How many devices there are; 0 with a reason in why. */
    int32_t (*n_device)(char *why, size_t why_bytes);
    bool (*describe)(int32_t device, struct cuda_device *ret);
    /* NULL with one line in why: what is wrong, the value seen, what to try. */
    struct kern *(*open)(int32_t device, char *why, size_t why_bytes);
    /* Decode steps so far that were run as one graph, and as single launches; 0 when steps are not
     * noted (step.cu). */
    void (*steps)(struct kern *k, uint64_t *ret_replayed, uint64_t *ret_plain);
};

#define CUDA_MODULE_SYMBOL "kern_cuda_module"
extern const struct cuda_module kern_cuda_module;

#ifdef __cplusplus
}
#endif
#endif
