/* What the device may touch, and who has. */
#include "tests/ptx/ptx.h"

#include <string.h>
#include <sys/mman.h>

#include <map>

/* Of each byte: who wrote it last, who read it last. */
struct marks {
    toucher wrote, read;
};
enum {
    NOBODY = 0xffff,
    SEVERAL = 0xfffe,
    OF_WARP = 0x8000
}; /* threads: OF_WARP | warp = several of that */

struct piece {
    uint64_t bytes;
    marks *seen; /* made when it is first asked for */
};
static std::map<uint64_t, piece> pieces;
static uint32_t launch_first;
static marks *shared_seen;

static marks *marks_new(uint64_t bytes)
{
    void *p = mmap(nullptr, bytes * sizeof(marks), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        ptx_die("no memory for the marks of %llu bytes", (unsigned long long)bytes);
    return (marks *)p;
}

void memory_add(void *at, size_t bytes)
{
    pieces[(uint64_t)at] = {bytes, nullptr};
}

void memory_remove(void *at)
{
    auto it = pieces.find((uint64_t)at);
    if (it == pieces.end())
        ptx_die("memory is freed that was not allocated");
    if (it->second.seen)
        munmap(it->second.seen, it->second.bytes * sizeof(marks));
    pieces.erase(it);
}

static std::map<uint64_t, piece>::iterator holder(uint64_t at, uint64_t bytes)
{
    auto it = pieces.upper_bound(at);
    if (it == pieces.begin())
        return pieces.end();
    --it;
    return at + bytes <= it->first + it->second.bytes ? it : pieces.end();
}

bool memory_find(uint64_t at, uint64_t bytes, uint64_t *ret_from, uint64_t *ret_to)
{
    auto it = holder(at, bytes);
    if (it == pieces.end())
        return false;
    *ret_from = it->first;
    *ret_to = it->first + it->second.bytes;
    return true;
}

void race_launch(uint32_t first_block)
{
    launch_first = first_block + 1; /* blocks are marked by their number + 1: 0 is nobody's */
}

static int warp_of(uint16_t thread)
{
    return thread == SEVERAL ? -1 : thread & OF_WARP ? thread & ~OF_WARP : thread / LANES;
}

/* Nothing orders the two. Of shared memory every block has its own. */
static bool at_once(const toucher &then, const toucher &now, bool shared)
{
    if (then.block < launch_first)
        return false;
    if (then.block != now.block)
        return !shared;
    if (then.thread == now.thread)
        return false;
    if (then.barriers != now.barriers)
        return false;
    return warp_of(then.thread) != warp_of(now.thread) || then.warp_barriers == now.warp_barriers;
}

static toucher joined(const toucher &then, const toucher &now)
{
    toucher ret = now;
    if (then.block != now.block || then.barriers != now.barriers || then.thread == now.thread)
        return ret;
    bool same_warp = warp_of(then.thread) == warp_of(now.thread);
    if (same_warp && then.warp_barriers != now.warp_barriers)
        return ret;
    ret.thread = same_warp ? (uint16_t)(OF_WARP | warp_of(now.thread)) : (uint16_t)SEVERAL;
    return ret;
}

static int touched(marks *m, uint32_t bytes, toucher who, bool write, bool shared)
{
    who.block++;
    int other = -1;
    for (uint32_t i = 0; i < bytes; i++) {
        if (at_once(m[i].wrote, who, shared))
            other = m[i].wrote.thread;
        if (write && at_once(m[i].read, who, shared))
            other = m[i].read.thread;
        if (write)
            m[i].wrote = who;
        else
            m[i].read = joined(m[i].read, who);
    }
    return other;
}

int race_touch(uint64_t at, uint32_t bytes, const toucher &who, bool write)
{
    auto it = holder(at, bytes);
    if (it == pieces.end())
        return -1;
    if (!it->second.seen)
        it->second.seen = marks_new(it->second.bytes);
    return touched(it->second.seen + (at - it->first), bytes, who, write, false);
}

int race_touch_shared(uint32_t at, uint32_t bytes, const toucher &who, bool write)
{
    if (!shared_seen)
        shared_seen = marks_new(SHARED_MOST + DYNAMIC_AT);
    return touched(shared_seen + at, bytes, who, write, true);
}
