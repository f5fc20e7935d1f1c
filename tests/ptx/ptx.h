/* The GPU's code without a GPU: runs the PTX that nvcc makes of our kernels on the CPU, one warp
 * after the other, and checks what NVIDIA's compute-sanitizer would. The shim (kernels/cuda/shim.h)
 * runs our sources; this runs what becomes of them: nvcc's arithmetic, its inline assembly, the
 * launches as the host code makes them. What is left for a GPU to show is the machine code that the
 * driver makes of PTX, and speed.
 *
 *   parse.cc     PTX text -> instructions
 *   run.cc       instructions on 32 lanes; blocks and their barriers
 *   memory.cc    who may touch which byte, and who has touched it last
 *   count.cc     what a kernel does: instructions, sectors of memory, passes of shared memory
 *   runtime.cc   the CUDA runtime that nvcc's objects are linked with, cuBLAS's product
 *
 * As PTX ISA 9.0 has it, as far as our kernels go: an instruction that is not known ends the
 * program with its name. So does every fault:
 *   - an access outside of what was allocated, or not aligned to its size,
 *   - two threads at one byte with no barrier between them, one of them writing what was not
 *     there (PTX_RACE=1),
 *   - a barrier or an exchange that some of the threads it names do not reach,
 *   - a launch that a device of the capability which the PTX is made for refuses.
 * PTX_ORDER=1 turns the order of warps and blocks round; new memory holds NaN. PTX_COUNT=1 tells at
 * the end what every kernel has done. One host thread. */
#ifndef TESTS_PTX_PTX_H
#define TESTS_PTX_PTX_H

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <unordered_map>
#include <vector>

enum { LANES = 32, BLOCK_THREADS = 1024 };
/* The window of shared memory: variables, then what a launch brings. */
enum {
    SHARED_AT = 1024,
    DYNAMIC_AT = 8192,
    SHARED_MOST = 227 << 10,
    SHARED_PLAIN = 48 << 10
}; /* most: of 9.0 */

/* Where an operand lies: 32 values of 4 bytes (16 and 32 bits) or 8, in the registers of the warp
 * or among the constants of the module; or a predicate, one bit a lane. */
enum operand_kind { REGISTER, CONSTANT, PREDICATE };
struct operand {
    uint32_t at;
    uint8_t kind, width; /* width 4 or 8 */
    bool negated;        /* of a predicate */
};

enum insn_kind { PLAIN, BRANCH, CALL, RETURN, EXIT, BARRIER, EXCHANGE };
enum space { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };

/* How a parameter goes from the caller's place in lane-local memory to the function's, or back. */
struct handover {
    uint32_t from, to, bytes;
};

struct warp;
struct insn {
    void (*run)(struct warp &w, const struct insn &i, uint32_t mask);
    uint8_t kind, n_operand, space, access_bytes, n_vector;
    bool is_signed, guarded,
        optional_used; /* guarded: by the predicate `guard`; is a second result wanted */
    operand guard, o[14];
    int64_t disp;                        /* of an address */
    int32_t target;                      /* of a branch or a call */
    std::vector<handover> *handed;       /* of a call: before; of what follows it: after */
    mutable uint64_t near_from, near_to; /* the allocation that was met last */
    const char *name;
};

struct parameter {
    uint32_t at, bytes; /* in the launch's buffer; of a function in lane-local memory */
};

struct function {
    std::string name;
    bool entry;
    int32_t first; /* instruction */
    std::vector<parameter> param, result;
    uint32_t param_bytes, max_threads; /* 0 = not said */
};

/* One translation unit. */
struct ptx_module {
    std::vector<insn> code;
    std::vector<function> functions;
    std::unordered_map<std::string, int> by_name;
    std::vector<unsigned char> constants;
    uint32_t register_bytes, n_predicate, local_bytes;
    std::vector<unsigned char *> variables;
};
/* Ends the program on what it does not know. */
ptx_module *ptx_parse(const char *text);

/* What an instruction's name stands for; width and number of its operands. NULL run = unknown. */
struct meaning {
    void (*run)(struct warp &, const struct insn &, uint32_t);
    std::vector<uint8_t> width; /* 0 = a predicate */
};
meaning ptx_meaning(const std::string &name);

/* Registers that every warp has: 32 lanes each. */
enum {
    TID_X,
    TID_Y,
    TID_Z,
    NTID_X,
    NTID_Y,
    NTID_Z,
    CTAID_X,
    CTAID_Y,
    CTAID_Z,
    NCTAID_X,
    NCTAID_Y,
    NCTAID_Z,
    LANEID,
    WARPID,
    N_SPECIAL
};
enum {
    PARAM_BASE = N_SPECIAL * 4 * LANES,
    LOCAL_BASE = PARAM_BASE + 8 * LANES,
    FIRST_REGISTER = LOCAL_BASE + 8 * LANES
};

struct launch {
    const ptx_module *m;
    const function *f;
    uint32_t grid[3], block[3];
    uint32_t shared_bytes; /* dynamic */
    const unsigned char *param;
};
void ptx_run(const launch &l);

/* ---- count.cc ---- */
/* What a kernel has done since the program began; NULL = nobody asked. */
struct counts {
    uint64_t launches, blocks, insns; /* insns: of warps */
    uint64_t mma;
    uint64_t requests, sectors, bytes;       /* global: of warps; of 32 bytes; asked for by lanes */
    uint64_t shared_requests, shared_passes; /* one pass of 32 banks each where none conflict */
};
counts *counts_of(const function *f);
void count_access(counts *c, const uint64_t *at, uint32_t mask, uint32_t bytes, bool shared);

/* ---- memory.cc ---- */
void memory_add(void *at, size_t bytes);
void memory_remove(void *at);
/* The allocation that holds these bytes; false = none does. */
bool memory_find(uint64_t at, uint64_t bytes, uint64_t *ret_from, uint64_t *ret_to);

/* Who touches a byte: block (a number that no other block of any launch has), the barriers that it
 * has passed, the warp's own ones, the thread. */
struct toucher {
    uint32_t block, barriers;
    uint16_t warp_barriers, thread;
};
void race_launch(uint32_t first_block);
/* The thread that touched one of these bytes at the same time, one of both writing; -1 = none. */
int race_touch(uint64_t at, uint32_t bytes, const toucher &who, bool write);
int race_touch_shared(uint32_t at, uint32_t bytes, const toucher &who, bool write);

[[noreturn]] void ptx_die(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
