#include "kernels/cpu/isa.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum isa isa_best(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                  __builtin_cpu_supports("avx512vnni");
    if (avx2 && avx512)
        return ISA_AVX512;
    if (avx2)
        return ISA_AVX2;
#endif
    return ISA_REF;
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
