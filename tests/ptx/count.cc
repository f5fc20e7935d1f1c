/* What kernels do, summed up: what NVIDIA's profiler would say of it. */
#include "tests/ptx/ptx.h"

#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <map>

static std::map<const function *, counts> of;

static void tell(void)
{
    fprintf(stderr, "%8s %8s %12s %10s %12s %7s %6s %8s  %s\n", "launches", "blocks", "warp insns",
            "mma", "sectors", "of used", "a req.", "passes", "kernel");
    for (auto &[f, c] : of)
        fprintf(stderr, "%8llu %8llu %12llu %10llu %12llu %6.0f%% %6.1f %8.2f  %s\n",
                (unsigned long long)c.launches, (unsigned long long)c.blocks,
                (unsigned long long)c.insns, (unsigned long long)c.mma,
                (unsigned long long)c.sectors, c.sectors ? 100.0 * c.bytes / (32.0 * c.sectors) : 0,
                c.requests ? (double)c.sectors / c.requests : 0,
                c.shared_requests ? (double)c.shared_passes / c.shared_requests : 0,
                f->name.c_str());
}

counts *counts_of(const function *f)
{
    static const bool asked =
        getenv("PTX_COUNT") && *getenv("PTX_COUNT") == '1' && atexit(tell) == 0;
    return asked ? &of[f] : nullptr;
}

/* Shared memory has 32 banks of 4 bytes; lanes with 8 or 16 bytes each go in halves or quarters. */
static uint32_t passes(const uint64_t *at, uint32_t mask, uint32_t bytes)
{
    uint32_t words = std::max(bytes / 4, 1u), group = LANES / words, ret = 0;
    for (uint32_t from = 0; from < LANES; from += group) {
        std::vector<uint64_t> seen;
        uint32_t in_bank[32] = {0};
        for (uint32_t lane = from; lane < from + group; lane++)
            for (uint32_t k = 0; k < words && (mask >> lane & 1); k++)
                seen.push_back(at[lane] / 4 + k);
        std::sort(seen.begin(), seen.end());
        seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
        for (uint64_t word : seen)
            in_bank[word % 32]++;
        ret += *std::max_element(in_bank, in_bank + 32);
    }
    return ret;
}

void count_access(counts *c, const uint64_t *at, uint32_t mask, uint32_t bytes, bool shared)
{
    if (shared) {
        c->shared_requests += std::max(bytes / 4, 1u);
        c->shared_passes += passes(at, mask, bytes);
        return;
    }
    std::vector<uint64_t> sector;
    for (int lane = 0; lane < LANES; lane++)
        if (mask >> lane & 1) {
            sector.push_back(at[lane] / 32);
            c->bytes += bytes;
        }
    std::sort(sector.begin(), sector.end());
    c->sectors += (uint64_t)(std::unique(sector.begin(), sector.end()) - sector.begin());
    c->requests++;
}
