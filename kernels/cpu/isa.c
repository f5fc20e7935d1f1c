#include "kernels/cpu/isa.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CPU_LEAF1_C, CPU_LEAF7_B, CPU_LEAF7_C, CPU_LEAF7_D, CPU_XCR0, CPU_WORDS };

/* Feature bits by the word they stand in; XCR0 says which registers the system saves. */
static const struct {
    enum isa isa;
    uint32_t bits[CPU_WORDS];
} needs[] = {
    /* FMA, OSXSAVE, AVX, F16C; AVX2; SSE and AVX state */
    {ISA_AVX2, {[CPU_LEAF1_C] = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29,
                [CPU_LEAF7_B] = 1u << 5,
                [CPU_XCR0] = 0x6}},
    /* AVX-512 F, DQ, BW, VL; VNNI; opmask and zmm state */
    {ISA_AVX512, {[CPU_LEAF7_B] = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31,
                  [CPU_LEAF7_C] = 1u << 11,
                  [CPU_XCR0] = 0xe6}},
    /* AMX-BF16, TILE, INT8; tile state */
    {ISA_AMX, {[CPU_LEAF7_D] = 1u << 22 | 1u << 24 | 1u << 25, [CPU_XCR0] = 0x60000}},
};

/* Linux saves the tile registers only of processes that have asked. */
static bool tiles_granted(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_TILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_TILEDATA) == 0;
}

static enum isa detect(void)
{
    uint32_t have[CPU_WORDS] = {0}, a, b, c, d;
    enum isa best = ISA_REF;
    if (!__get_cpuid(1, &a, &b, &have[CPU_LEAF1_C], &d))
        return best;
    if (have[CPU_LEAF1_C] >> 27 & 1)
        __asm__ volatile("xgetbv" : "=a"(have[CPU_XCR0]), "=d"(d) : "c"(0));
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        have[CPU_LEAF7_B] = b;
        have[CPU_LEAF7_C] = c;
        have[CPU_LEAF7_D] = d;
    }
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
        for (int w = 0; w < CPU_WORDS; w++)
            if ((have[w] & needs[i].bits[w]) != needs[i].bits[w])
                return best;
        if (needs[i].isa == ISA_AMX && !tiles_granted())
            return best;
        best = needs[i].isa;
    }
    return best;
}
#endif

enum isa isa_best(void)
{
    static atomic_int known = -1;
    int best = atomic_load_explicit(&known, memory_order_relaxed);
    if (best < 0) {
#if defined(__x86_64__)
        best = (int)detect();
#else
        best = ISA_REF;
#endif
        atomic_store_explicit(&known, best, memory_order_relaxed);
    }
    return (enum isa)best;
}

static bool read_line(const char *path, char *line, int size)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ok = fgets(line, size, f) != NULL;
    fclose(f);
    return ok;
}

/* True when an earlier processor of our mask sits on the same core: "0,64" or "0-1" lists them,
 * lowest first. */
static bool is_second_thread(int cpu, const cpu_set_t *ours)
{
    char path[96], line[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    if (!read_line(path, line, sizeof line))
        return false;
    for (char *s = line; *s && *s != '\n';) {
        char *end;
        long first = strtol(s, &end, 10), last = first;
        if (end == s)
            return false;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        for (long i = first; i <= last && i < cpu; i++)
            if (i >= 0 && i < CPU_SETSIZE && CPU_ISSET((int)i, ours))
                return true;
        s = *end == ',' ? end + 1 : end;
    }
    return false;
}

int32_t isa_cores(void)
{
    cpu_set_t ours;
    int32_t n = 0;
    if (sched_getaffinity(0, sizeof ours, &ours) != 0)
        return 1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &ours) && !is_second_thread(cpu, &ours))
            n++;
    char line[64];
    long quota, period;
    if (read_line("/sys/fs/cgroup/cpu.max", line, sizeof line) &&
        sscanf(line, "%ld %ld", &quota, &period) == 2 && period > 0) {
        int32_t limit = (int32_t)((quota + period - 1) / period);
        if (limit < n)
            n = limit;
    }
    return n > 0 ? n : 1;
}
