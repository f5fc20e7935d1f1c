/* Instructions on the lanes of a warp, and the warps of a block. */
#include "tests/ptx/numbers.h"
#include "tests/ptx/ptx.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <bit>

struct block {
    const launch *l;
    u32 id[3], number, barriers;
    unsigned char *shared; /* SHARED_AT .. */
    u32 shared_end;
};

struct warp {
    unsigned char *base[2]; /* registers, constants */
    u32 *predicate;
    s32 pc[LANES];
    u32 alive, parked, at_block; /* parked: in an exchange that others have not reached */
    u32 carry, index, barriers;
    unsigned char *local;
    std::vector<s32> back[LANES]; /* where calls return to */
    struct block *b;
    counts *count; /* or NULL */
};

[[noreturn]] static void fault(const warp &w, const insn &i, int lane, const char *what)
{
    const launch &l = *w.b->l;
    ptx_die("%s: %s in %s, block %u,%u,%u thread %u (grid %u,%u,%u of %u threads)", i.name, what,
            l.f->name.c_str(), w.b->id[0], w.b->id[1], w.b->id[2], w.index * LANES + (u32)lane,
            l.grid[0], l.grid[1], l.grid[2], l.block[0]);
}

/* ---- values of a lane ---- */

static inline unsigned char *lanes(const warp &w, const operand &o)
{
    return w.base[o.kind] + o.at;
}

/* 16 bits lie in 32, zeros above. */
template <typename T> static inline T get(const unsigned char *at, int lane)
{
    T v;
    memcpy(&v, at + lane * (sizeof(T) == 8 ? 8 : 4), sizeof v);
    return v;
}

template <typename T> static inline void put(unsigned char *at, int lane, T v)
{
    if constexpr (sizeof(T) == 8 || sizeof(T) == 4) {
        memcpy(at + lane * (int)sizeof(T), &v, sizeof v);
    } else {
        u32 wide = 0;
        memcpy(&wide, &v, sizeof v);
        memcpy(at + lane * 4, &wide, 4);
    }
}

static inline u32 predicate_of(const warp &w, const operand &o)
{
    if (o.kind == CONSTANT)
        return o.at ? ~0u : 0;
    u32 v = w.predicate[o.at];
    return o.negated ? ~v : v;
}

static inline void predicate_put(warp &w, const operand &o, u32 mask, u32 bits)
{
    u32 &p = w.predicate[o.at];
    p = (p & ~mask) | (bits & mask);
}

#define EACH_LANE(mask)                                                                            \
    for (u32 left_ = (mask), lane_;                                                                \
         left_ && (lane_ = (u32)std::countr_zero(left_), left_ &= left_ - 1, true);)               \
        if (int lane = (int)lane_; true)

/* One result of up to three values. Every lane at once where all run: no bit to look at. */
template <auto F, typename D, typename... A, size_t... K>
static inline void map_lanes(warp &w, const insn &i, u32 mask, std::index_sequence<K...>)
{
    unsigned char *d = lanes(w, i.o[0]);
    const unsigned char *a[] = {lanes(w, i.o[K + 1])...};
    if (mask == ~0u) {
        for (int lane = 0; lane < LANES; lane++)
            put<D>(d, lane, F(get<A>(a[K], lane)...));
    } else {
        EACH_LANE(mask)
        put<D>(d, lane, F(get<A>(a[K], lane)...));
    }
}
template <auto F, typename D, typename... A> static void map(warp &w, const insn &i, u32 mask)
{
    map_lanes<F, D, A...>(w, i, mask, std::index_sequence_for<A...>());
}
template <typename T> constexpr u8 width_of = sizeof(T) == 8 ? 8 : 4;
template <auto F, typename D, typename... A> static meaning mapped()
{
    return {map<F, D, A...>, {width_of<D>, width_of<A>...}};
}

template <auto F, typename T> static void compare(warp &w, const insn &i, u32 mask)
{
    const unsigned char *a = lanes(w, i.o[1]), *b = lanes(w, i.o[2]);
    u32 bits = 0;
    for (int lane = 0; lane < LANES; lane++)
        bits |= (u32)F(get<T>(a, lane), get<T>(b, lane)) << lane;
    predicate_put(w, i.o[0], mask, bits);
}

template <typename T> static void select(warp &w, const insn &i, u32 mask)
{
    u32 p = predicate_of(w, i.o[3]);
    unsigned char *d = lanes(w, i.o[0]);
    const unsigned char *a = lanes(w, i.o[1]), *b = lanes(w, i.o[2]);
    EACH_LANE(mask)
    put<T>(d, lane, get<T>(p >> lane & 1 ? a : b, lane));
}

template <auto F> static void logic(warp &w, const insn &i, u32 mask)
{
    predicate_put(w, i.o[0], mask,
                  F(predicate_of(w, i.o[1]), predicate_of(w, i.o[i.n_operand - 1])));
}

/* With the carry of the lane. */
template <bool IN, bool OUT, int HIGH> static void multiply_carry(warp &w, const insn &i, u32 mask)
{
    unsigned char *d = lanes(w, i.o[0]);
    EACH_LANE(mask)
    {
        u64 p = (u64)get<u32>(lanes(w, i.o[1]), lane) * get<u32>(lanes(w, i.o[2]), lane);
        u64 sum = (u64)(u32)(HIGH ? p >> 32 : p) + get<u32>(lanes(w, i.o[3]), lane) +
                  (IN ? w.carry >> lane & 1 : 0);
        put<u32>(d, lane, (u32)sum);
        if (OUT)
            w.carry = (w.carry & ~(1u << lane)) | (u32)(sum >> 32 & 1) << lane;
    }
}
template <bool IN, bool OUT, bool MINUS> static void add_carry(warp &w, const insn &i, u32 mask)
{
    unsigned char *d = lanes(w, i.o[0]);
    EACH_LANE(mask)
    {
        u64 a = get<u32>(lanes(w, i.o[1]), lane), b = get<u32>(lanes(w, i.o[2]), lane),
            c = IN ? w.carry >> lane & 1 : 0;
        u64 sum = MINUS ? a - b - c : a + b + c;
        put<u32>(d, lane, (u32)sum);
        if (OUT)
            w.carry = (w.carry & ~(1u << lane)) | (u32)(sum >> 32 & 1) << lane;
    }
}

/* ---- memory ---- */

static toucher who(const warp &w, int lane)
{
    return {w.b->number, w.b->barriers, (u16)w.barriers, (u16)(w.index * LANES + (u32)lane)};
}

static bool races_sought(void)
{
    static const bool ret = getenv("PTX_RACE") && *getenv("PTX_RACE") == '1';
    return ret;
}

/* The host's address of these bytes, which the lane may touch. store: what is to be written. */
static unsigned char *touch(warp &w, const insn &i, int lane, u64 at, u32 bytes, const void *store)
{
    char text[160];
    int space = i.space;
    if (at % bytes) {
        snprintf(text, sizeof text, "address %#llx is no multiple of %u", (unsigned long long)at,
                 bytes);
        fault(w, i, lane, text);
    }
    u64 window = (u64)w.b->shared;
    if (space == GENERIC && at - window < SHARED_MOST + DYNAMIC_AT) {
        space = SHARED;
        at -= window;
    }
    if (space == SHARED) {
        if (at < SHARED_AT || at + bytes > w.b->shared_end) {
            snprintf(text, sizeof text, "%u bytes at %llu of shared memory, which has %u", bytes,
                     (unsigned long long)at - DYNAMIC_AT, w.b->shared_end - DYNAMIC_AT);
            fault(w, i, lane, text);
        }
        unsigned char *p = w.b->shared + at;
        if (races_sought()) {
            int other = race_touch_shared((u32)at, bytes, who(w, lane), store != nullptr);
            if (other >= 0 && !(store && memcmp(p, store, bytes) == 0)) {
                snprintf(text, sizeof text, "races with thread %d at %llu of shared memory", other,
                         (unsigned long long)at - DYNAMIC_AT);
                fault(w, i, lane, text);
            }
        }
        return p;
    }
    const launch &l = *w.b->l;
    const unsigned char *p = (const unsigned char *)at;
    u64 mine = (u64)w.local + (u64)lane * l.m->local_bytes;
    if (space == PARAM ||
        (space == GENERIC && at >= (u64)l.param && at + bytes <= (u64)l.param + l.f->param_bytes)) {
        if (at < (u64)l.param || at + bytes > (u64)l.param + l.f->param_bytes)
            fault(w, i, lane, "beyond the parameters");
        return (unsigned char *)p;
    }
    if (space == LOCAL || (space == GENERIC && at - mine < l.m->local_bytes)) {
        if (at < mine || at + bytes > mine + l.m->local_bytes)
            fault(w, i, lane, "beyond local memory");
        return (unsigned char *)p;
    }
    if (at < i.near_from || at + bytes > i.near_to) {
        if (!memory_find(at, bytes, &i.near_from, &i.near_to)) {
            i.near_from = i.near_to = 0;
            snprintf(text, sizeof text, "%u bytes at %#llx lie in no memory of the device", bytes,
                     (unsigned long long)at);
            fault(w, i, lane, text);
        }
    }
    if (races_sought()) {
        int other = race_touch(at, bytes, who(w, lane), store != nullptr);
        if (other >= 0 && !(store && memcmp(p, store, bytes) == 0)) {
            snprintf(text, sizeof text, "races with thread %d at %#llx", other,
                     (unsigned long long)at);
            fault(w, i, lane, text);
        }
    }
    return (unsigned char *)p;
}

static u64 address_of(const warp &w, const insn &i, const operand &o, int lane)
{
    const unsigned char *a = lanes(w, o);
    return (o.width == 8 ? get<u64>(a, lane) : (u64)get<u32>(a, lane)) + (u64)i.disp;
}

static void count(warp &w, const insn &i, u32 mask, const operand &address, u32 bytes)
{
    u64 at[LANES] = {0}, window = (u64)w.b->shared;
    EACH_LANE(mask)
    at[lane] = address_of(w, i, address, lane);
    bool shared = i.space == SHARED || (i.space == GENERIC && at[std::countr_zero(mask)] - window <
                                                                  SHARED_MOST + DYNAMIC_AT);
    if (i.space != PARAM && i.space != LOCAL)
        count_access(w.count, at, mask, bytes, shared);
}

static void load(warp &w, const insn &i, u32 mask)
{
    u32 n = i.access_bytes;
    if (w.count)
        count(w, i, mask, i.o[0], n * i.n_vector);
    EACH_LANE(mask)
    {
        const unsigned char *p =
            touch(w, i, lane, address_of(w, i, i.o[0], lane), n * i.n_vector, nullptr);
        for (int v = 0; v < i.n_vector; v++, p += n) {
            u64 bits = 0;
            memcpy(&bits, p, n);
            if (i.is_signed && n < 8)
                bits = (u64)((s64)(bits << (64 - 8 * n)) >> (64 - 8 * n));
            const operand &d = i.o[1 + v];
            if (d.width == 8)
                put<u64>(lanes(w, d), lane, bits);
            else
                put<u32>(lanes(w, d), lane, (u32)bits);
        }
    }
}

static void store(warp &w, const insn &i, u32 mask)
{
    u32 n = i.access_bytes;
    if (w.count)
        count(w, i, mask, i.o[0], n * i.n_vector);
    EACH_LANE(mask)
    {
        unsigned char bytes[32];
        for (int v = 0; v < i.n_vector; v++) {
            const operand &s = i.o[1 + v];
            memcpy(bytes + (u32)v * n, lanes(w, s) + lane * s.width, n);
        }
        unsigned char *p = touch(w, i, lane, address_of(w, i, i.o[0], lane), n * i.n_vector, bytes);
        memcpy(p, bytes, n * i.n_vector);
    }
}

template <auto F, typename T> static void atomic(warp &w, const insn &i, u32 mask)
{
    EACH_LANE(mask)
    {
        /* atomic ones do not race with each other; with others that is not looked for */
        u64 at = address_of(w, i, i.o[0], lane);
        if (at % sizeof(T) || !memory_find(at, sizeof(T), &i.near_from, &i.near_to))
            fault(w, i, lane, "outside of the device's memory, or not aligned");
        T was, now;
        memcpy(&was, (void *)at, sizeof was);
        now = F(was, get<T>(lanes(w, i.o[2]), lane));
        memcpy((void *)at, &now, sizeof now);
        put<T>(lanes(w, i.o[1]), lane, was);
    }
}

/* ---- moves ---- */

static void move_place(warp &w, const insn &i, u32 mask)
{
    EACH_LANE(mask)
    {
        u64 at = address_of(w, i, i.o[1], lane);
        if (i.o[0].width == 8)
            put<u64>(lanes(w, i.o[0]), lane, at);
        else
            put<u32>(lanes(w, i.o[0]), lane, (u32)at);
    }
}

static void move_unpack(warp &w, const insn &i, u32 mask)
{
    EACH_LANE(mask)
    {
        const operand &s = i.o[0];
        u64 bits = s.width == 8 ? get<u64>(lanes(w, s), lane) : get<u32>(lanes(w, s), lane);
        for (int k = 1; k < i.n_operand; k++) {
            u64 part = bits >> 8 * i.access_bytes * (k - 1);
            put<u32>(lanes(w, i.o[k]), lane, i.access_bytes == 2 ? (u32)part & 0xffff : (u32)part);
        }
    }
}

static void move_pack(warp &w, const insn &i, u32 mask)
{
    EACH_LANE(mask)
    {
        u64 bits = 0;
        for (int k = 1; k < i.n_operand; k++) {
            u64 part = get<u32>(lanes(w, i.o[k]), lane);
            bits |= (i.access_bytes == 2 ? part & 0xffff : part) << 8 * i.access_bytes * (k - 1);
        }
        if (i.o[0].width == 8)
            put<u64>(lanes(w, i.o[0]), lane, bits);
        else
            put<u32>(lanes(w, i.o[0]), lane, (u32)bits);
    }
}

static void move_predicate(warp &w, const insn &i, u32 mask)
{
    predicate_put(w, i.o[0], mask, predicate_of(w, i.o[1]));
}

template <bool TO_SHARED> static void convert_shared(warp &w, const insn &i, u32 mask)
{
    EACH_LANE(mask)
    {
        u64 a = get<u64>(lanes(w, i.o[1]), lane), window = (u64)w.b->shared;
        if (TO_SHARED && a - window >= SHARED_MOST + DYNAMIC_AT)
            fault(w, i, lane, "not an address of shared memory");
        put<u64>(lanes(w, i.o[0]), lane, TO_SHARED ? a - window : a + window);
    }
}

static void hand_over(warp &w, const std::vector<handover> &list, u32 mask)
{
    for (auto &h : list) {
        EACH_LANE(mask)
        {
            unsigned char *mine = w.local + (size_t)lane * w.b->l->m->local_bytes;
            memcpy(mine + h.to, mine + h.from, h.bytes);
        }
    }
}
static void results(warp &w, const insn &i, u32 mask)
{
    hand_over(w, *i.handed, mask);
}

/* ---- exchanges within a warp ---- */

enum { XOR, INDEX, UP, DOWN };
template <int HOW> static void shuffle(warp &w, const insn &i, u32 mask)
{
    int first = i.optional_used ? 2 : 1;
    u32 was[LANES], found = 0;
    memcpy(was, lanes(w, i.o[first]), sizeof was);
    EACH_LANE(mask)
    {
        u32 b = get<u32>(lanes(w, i.o[first + 1]), lane) & 31,
            c = get<u32>(lanes(w, i.o[first + 2]), lane);
        u32 segment = c >> 8 & 31, least = (u32)lane & segment, most = least | (c & 31 & ~segment),
            from = (u32)lane;
        bool ok = true;
        if (HOW == XOR)
            from = (u32)lane ^ b, ok = from <= most;
        else if (HOW == INDEX)
            from = least | (b & ~segment), ok = from <= most;
        else if (HOW == DOWN)
            from = (u32)lane + b, ok = from <= most;
        else
            ok = (s32)((u32)lane - b) >= (s32)most, from = (u32)lane - b;
        from = ok ? from : (u32)lane;
        if (!(mask >> from & 1))
            fault(w, i, lane, "takes the value of a lane that is not there");
        found |= (u32)ok << lane;
        put<u32>(lanes(w, i.o[0]), lane, was[from]);
    }
    if (i.optional_used)
        predicate_put(w, i.o[1], mask, found);
}

static void warp_barrier(warp &w, const insn &, u32)
{
    w.barriers++;
}

/* d [16][8] = a [16][K] b [K][8] + c; see port.h for who holds what. */
template <int K> static void mma(warp &w, const insn &i, u32 mask)
{
    enum { NA = K / 4, NB = K / 8 };
    if (mask != ~0u)
        fault(w, i, 0, "not by the whole warp");
    if (w.count)
        w.count->mma++;
    f32 a[16][K], b[K][8];
    for (int lane = 0; lane < LANES; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int r = 0; r < NA; r++) {
            u32 v = get<u32>(lanes(w, i.o[4 + r]), lane);
            a[g + r % 2 * 8][r / 2 * 8 + 2 * t] = half_value((u16)v);
            a[g + r % 2 * 8][r / 2 * 8 + 2 * t + 1] = half_value((u16)(v >> 16));
        }
        for (int r = 0; r < NB; r++) {
            u32 v = get<u32>(lanes(w, i.o[4 + NA + r]), lane);
            b[r * 8 + 2 * t][g] = half_value((u16)v);
            b[r * 8 + 2 * t + 1][g] = half_value((u16)(v >> 16));
        }
    }
    for (int r = 0; r < 4; r++) {
        f32 d[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
            f32 sum = 0;
            for (int k = 0; k < K; k++)
                sum += a[row][k] * b[k][column];
            d[lane] = get<f32>(lanes(w, i.o[4 + NA + NB + r]), lane) + sum;
        }
        memcpy(lanes(w, i.o[r]), d, sizeof d);
    }
}

/* Four 8x8 matrices of 16 bits, transposed. */
static void load_matrices(warp &w, const insn &i, u32 mask)
{
    if (mask != ~0u)
        fault(w, i, 0, "not by the whole warp");
    unsigned char *row[LANES];
    insn as = i;
    as.space = SHARED;
    if (w.count)
        count(w, as, mask, i.o[4], 16);
    for (int lane = 0; lane < LANES; lane++) {
        u64 at = address_of(w, i, i.o[4], lane);
        row[lane] = touch(w, as, lane, at, 16, nullptr);
    }
    for (int m = 0; m < 4; m++) {
        for (int lane = 0; lane < LANES; lane++) {
            int g = lane / 4, t = lane % 4;
            u16 low, high;
            memcpy(&low, row[8 * m + 2 * t] + 2 * g, 2);
            memcpy(&high, row[8 * m + 2 * t + 1] + 2 * g, 2);
            put<u32>(lanes(w, i.o[m]), lane, low | (u32)high << 16);
        }
    }
}

/* ---- the table ---- */

static std::unordered_map<std::string, meaning> table;

#define OP(name, D, expr, ...) table[name] = mapped < [](__VA_ARGS__) -> D { return (D)(expr); }
template <typename T> static void integer_ops(const std::string &t, const std::string &bits)
{
    typedef std::make_unsigned_t<T> U;
    typedef std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, u32>,
                               std::conditional_t<std::is_signed_v<T>, s64, u64>>
        wide;
    table["add." + t] = mapped<[](T a, T b) { return (T)((U)a + (U)b); }, T, T, T>();
    table["sub." + t] = mapped<[](T a, T b) { return (T)((U)a - (U)b); }, T, T, T>();
    table["neg." + t] = mapped<[](T a) { return (T)(0 - (U)a); }, T, T>();
    table["mul.lo." + t] = mapped<[](T a, T b) { return (T)((u64)a * (u64)b); }, T, T, T>();
    table["mad.lo." + t] =
        mapped<[](T a, T b, T c) { return (T)((u64)a * (u64)b + (u64)c); }, T, T, T, T>();
    table["div." + t] = mapped<divide<T>, T, T, T>();
    table["rem." + t] = mapped<remainder_of<T>, T, T, T>();
    table["min." + t] = mapped<[](T a, T b) { return std::min(a, b); }, T, T, T>();
    table["max." + t] = mapped<[](T a, T b) { return std::max(a, b); }, T, T, T>();
    table["shr." + t] = mapped<shift_right<T>, T, T, u32>();
    if constexpr (sizeof(T) < 8) {
        table["mul.wide." + t] =
            mapped<[](T a, T b) { return (wide)((wide)a * (wide)b); }, wide, T, T>();
        table["mad.wide." + t] =
            mapped<[](T a, T b, wide c) { return (wide)((wide)a * (wide)b + c); }, wide, T, T,
                   wide>();
        table["mul.hi." + t] =
            mapped<[](T a, T b) { return (T)((wide)a * (wide)b >> 8 * sizeof(T)); }, T, T, T>();
    }
    (void)bits;
}
template <typename T> static void bit_ops(const std::string &bits)
{
    table["and." + bits] = mapped<[](T a, T b) { return (T)(a & b); }, T, T, T>();
    table["or." + bits] = mapped<[](T a, T b) { return (T)(a | b); }, T, T, T>();
    table["xor." + bits] = mapped<[](T a, T b) { return (T)(a ^ b); }, T, T, T>();
    table["not." + bits] = mapped<[](T a) { return (T)~a; }, T, T>();
    table["shl." + bits] = mapped<shift_left<T>, T, T, u32>();
    table["clz." + bits] = mapped<[](T a) { return (u32)std::countl_zero(a); }, u32, T>();
    table["popc." + bits] = mapped<[](T a) { return (u32)std::popcount(a); }, u32, T>();
}
template <typename T> static void select_op(const std::string &t)
{
    table["selp." + t] = {select<T>, {width_of<T>, width_of<T>, width_of<T>, 0}};
}
template <typename T> static void compare_ops(const std::string &t)
{
    std::vector<u8> width = {0, width_of<T>, width_of<T>};
    table["setp.eq." + t] = {compare<[](T a, T b) { return a == b; }, T>, width};
    table["setp.ne." + t] = {compare<[](T a, T b) { return (a < b) | (a > b); }, T>, width};
    table["setp.lt." + t] = {compare<[](T a, T b) { return a < b; }, T>, width};
    table["setp.le." + t] = {compare<[](T a, T b) { return a <= b; }, T>, width};
    table["setp.gt." + t] = {compare<[](T a, T b) { return (a > b); }, T>, width};
    table["setp.ge." + t] = {compare<[](T a, T b) { return a >= b; }, T>, width};
    if constexpr (std::is_floating_point_v<T>) { /* true where one is not a number */
        table["setp.equ." + t] = {compare<[](T a, T b) { return !((a < b) | (a > b)); }, T>, width};
        table["setp.neu." + t] = {compare<[](T a, T b) { return a != b; }, T>, width};
        table["setp.ltu." + t] = {compare<[](T a, T b) { return !(a >= b); }, T>, width};
        table["setp.leu." + t] = {compare<[](T a, T b) { return !(a > b); }, T>, width};
        table["setp.gtu." + t] = {compare<[](T a, T b) { return !(a <= b); }, T>, width};
        table["setp.geu." + t] = {compare<[](T a, T b) { return !(a < b); }, T>, width};
        table["setp.nan." + t] = {compare<[](T a, T b) { return a != a || b != b; }, T>, width};
        table["setp.num." + t] = {compare<[](T a, T b) { return a == a && b == b; }, T>, width};
    }
}
template <typename T> static void float_ops(const std::string &t)
{
    for (std::string round : {"", ".rn"}) {
        table["add" + round + "." + t] = mapped<[](T a, T b) { return a + b; }, T, T, T>();
        table["sub" + round + "." + t] = mapped<[](T a, T b) { return a - b; }, T, T, T>();
        table["mul" + round + "." + t] = mapped<[](T a, T b) { return a * b; }, T, T, T>();
    }
    table["fma.rn." + t] =
        mapped<[](T a, T b, T c) { return (T)__builtin_fma(a, b, c); }, T, T, T, T>();
    table["div.rn." + t] = mapped<[](T a, T b) { return a / b; }, T, T, T>();
    table["rcp.rn." + t] = mapped<[](T a) { return 1 / a; }, T, T>();
    table["sqrt.rn." + t] = mapped<[](T a) { return (T)sqrt(a); }, T, T>();
    table["neg." + t] = mapped<[](T a) { return -a; }, T, T>();
    table["abs." + t] = mapped<[](T a) { return (T)fabs(a); }, T, T>();
    table["min." + t] = mapped<[](T a, T b) { return (T)fmin(a, b); }, T, T, T>();
    table["max." + t] = mapped<[](T a, T b) { return (T)fmax(a, b); }, T, T, T>();
    table["copysign." + t] = mapped<[](T a, T b) { return (T)copysign(b, a); }, T, T, T>();
}
template <typename D, typename S> static void convert_op(const std::string &d, const std::string &s)
{
    if constexpr (std::is_integral_v<D> && std::is_integral_v<S>) {
        table["cvt." + d + "." + s] = mapped<
            [](S a) {
                if constexpr (std::is_signed_v<D>) /* of 8 and 16 bits: the whole register is
                                                      written */
                    return (std::conditional_t<sizeof(D) < 4, s32, D>)(D)a;
                else
                    return (std::conditional_t<sizeof(D) < 4, u32, D>)(D)a;
            },
            std::conditional_t<std::is_signed_v<D>, std::conditional_t<sizeof(D) < 4, s32, D>,
                               std::conditional_t<sizeof(D) < 4, u32, D>>,
            S>();
    } else if constexpr (std::is_integral_v<S>) {
        table["cvt.rn." + d + "." + s] = mapped<[](S a) { return (D)a; }, D, S>();
    } else if constexpr (std::is_integral_v<D>) {
        table["cvt.rzi." + d + "." + s] =
            mapped<[](S a) { return to_int<D>(trunc((f64)a)); }, D, S>();
        table["cvt.rni." + d + "." + s] =
            mapped<[](S a) { return to_int<D>(nearbyint((f64)a)); }, D, S>();
        table["cvt.rmi." + d + "." + s] =
            mapped<[](S a) { return to_int<D>(floor((f64)a)); }, D, S>();
        table["cvt.rpi." + d + "." + s] =
            mapped<[](S a) { return to_int<D>(ceil((f64)a)); }, D, S>();
    }
}
template <typename D> static void convert_ops(const std::string &d)
{
    convert_op<D, u8>(d, "u8");
    convert_op<D, s8>(d, "s8");
    convert_op<D, u16>(d, "u16");
    convert_op<D, s16>(d, "s16");
    convert_op<D, u32>(d, "u32");
    convert_op<D, s32>(d, "s32");
    convert_op<D, u64>(d, "u64");
    convert_op<D, s64>(d, "s64");
    convert_op<D, f32>(d, "f32");
    convert_op<D, f64>(d, "f64");
}

static void fill_table(void)
{
    integer_ops<u16>("u16", "b16"), integer_ops<s16>("s16", "b16");
    integer_ops<u32>("u32", "b32"), integer_ops<s32>("s32", "b32");
    integer_ops<u64>("u64", "b64"), integer_ops<s64>("s64", "b64");
    bit_ops<u16>("b16"), bit_ops<u32>("b32"), bit_ops<u64>("b64");
    float_ops<f32>("f32"), float_ops<f64>("f64");
    compare_ops<u16>("u16"), compare_ops<s16>("s16"), compare_ops<u32>("u32"),
        compare_ops<s32>("s32");
    compare_ops<u64>("u64"), compare_ops<s64>("s64"), compare_ops<f32>("f32"),
        compare_ops<f64>("f64");
    compare_ops<u16>("b16"), compare_ops<u32>("b32"), compare_ops<u64>("b64");
    for (const char *t : {"b16", "u16", "s16"})
        select_op<u16>(t);
    for (const char *t : {"b32", "u32", "s32", "f32"})
        select_op<u32>(t);
    for (const char *t : {"b64", "u64", "s64", "f64"})
        select_op<u64>(t);
    convert_ops<u8>("u8"), convert_ops<s8>("s8"), convert_ops<u16>("u16"), convert_ops<s16>("s16");
    convert_ops<u32>("u32"), convert_ops<s32>("s32"), convert_ops<u64>("u64"),
        convert_ops<s64>("s64");
    convert_ops<f32>("f32"), convert_ops<f64>("f64");
    table["cvt.f64.f32"] = mapped<[](f32 a) { return (f64)a; }, f64, f32>();
    table["cvt.rn.f32.f64"] = mapped<[](f64 a) { return (f32)a; }, f32, f64>();
    table["cvt.rni.f32.f32"] = mapped<[](f32 a) { return nearbyintf(a); }, f32, f32>();
    table["cvt.rzi.f32.f32"] = mapped<[](f32 a) { return truncf(a); }, f32, f32>();
    table["cvt.rmi.f32.f32"] = mapped<[](f32 a) { return floorf(a); }, f32, f32>();
    table["cvt.sat.f32.f32"] =
        mapped<[](f32 a) { return (a > 0) ? fminf(a, 1) : 0.0f; }, f32, f32>();
    table["cvt.f32.f16"] = mapped<half_value, f32, u16>();
    table["cvt.rn.f16.f32"] = mapped<half_bits, u16, f32>();
    table["cvt.rn.f16x2.f32"] = mapped<half_pair, u32, f32, f32>();
    table["sub.f16x2"] = mapped<half2<[](f32 a, f32 b) { return a - b; }>, u32, u32, u32>();
    table["add.f16x2"] = mapped<half2<[](f32 a, f32 b) { return a + b; }>, u32, u32, u32>();
    table["mul.f16x2"] = mapped<half2<[](f32 a, f32 b) { return a * b; }>, u32, u32, u32>();
    table["fma.rm.f32"] = mapped<fma_down, f32, f32, f32, f32>();
    table["add.rz.f32"] = mapped<add_to_zero, f32, f32, f32>();
    table["ex2.approx.f32"] = mapped<[](f32 a) { return exp2f(a); }, f32, f32>();
    table["ex2.approx.ftz.f32"] = mapped<[](f32 a) { return flush(exp2f(flush(a))); }, f32, f32>();
    table["lg2.approx.f32"] = mapped<[](f32 a) { return log2f(a); }, f32, f32>();
    table["rcp.approx.ftz.f32"] = mapped<[](f32 a) { return flush(1 / flush(a)); }, f32, f32>();
    table["rsqrt.approx.f32"] = mapped<[](f32 a) { return 1 / sqrtf(a); }, f32, f32>();
    table["prmt.b32"] = mapped<byte_permute, u32, u32, u32, u32>();
    table["shf.l.wrap.b32"] = mapped<funnel_left, u32, u32, u32, u32>();
    table["shf.r.wrap.b32"] = mapped<funnel_right, u32, u32, u32, u32>();
    table["bfi.b32"] = mapped<bits_insert, u32, u32, u32, u32, u32>();
    table["dp4a.s32.s32"] = mapped<dot4, s32, u32, u32, s32>();
    table["dp2a.lo.s32.s32"] = mapped<dot2_low, s32, u32, u32, s32>();
    table["mad.lo.cc.u32"] = {multiply_carry<false, true, 0>, {4, 4, 4, 4}};
    table["madc.lo.cc.u32"] = {multiply_carry<true, true, 0>, {4, 4, 4, 4}};
    table["madc.hi.cc.u32"] = {multiply_carry<true, true, 1>, {4, 4, 4, 4}};
    table["madc.hi.u32"] = {multiply_carry<true, false, 1>, {4, 4, 4, 4}};
    table["add.cc.u32"] = {add_carry<false, true, false>, {4, 4, 4}};
    table["addc.cc.u32"] = {add_carry<true, true, false>, {4, 4, 4}};
    table["addc.u32"] = {add_carry<true, false, false>, {4, 4, 4}};
    table["sub.cc.u32"] = {add_carry<false, true, true>, {4, 4, 4}};
    table["subc.cc.u32"] = {add_carry<true, true, true>, {4, 4, 4}};
    table["subc.u32"] = {add_carry<true, false, true>, {4, 4, 4}};
    table["and.pred"] = {logic<[](u32 a, u32 b) { return a & b; }>, {0, 0, 0}};
    table["or.pred"] = {logic<[](u32 a, u32 b) { return a | b; }>, {0, 0, 0}};
    table["xor.pred"] = {logic<[](u32 a, u32 b) { return a ^ b; }>, {0, 0, 0}};
    table["not.pred"] = {logic<[](u32 a, u32) { return ~a; }>, {0, 0}};
    for (const char *name :
         {"cvta.to.global.u64", "cvta.to.local.u64", "cvta.local.u64", "cvta.global.u64"})
        table[name] = mapped<[](u64 a) { return a; }, u64, u64>();
    table["cvta.to.shared.u64"] = {convert_shared<true>, {8, 8}};
    table["cvta.shared.u64"] = {convert_shared<false>, {8, 8}};
    table["mov.4"] = mapped<[](u32 a) { return a; }, u32, u32>();
    table["mov.8"] = mapped<[](u64 a) { return a; }, u64, u64>();
    table["mov.pred"] = {move_predicate, {}};
    table["mov.place"] = {move_place, {}};
    table["mov.pack"] = {move_pack, {}};
    table["mov.unpack"] = {move_unpack, {}};
    table["ld"] = {load, {}};
    table["st"] = {store, {}};
    table["atom.max.u32"] = {atomic<[](u32 a, u32 b) { return std::max(a, b); }, u32>, {}};
    table["atom.add.f32"] = {atomic<[](f32 a, f32 b) { return a + b; }, f32>, {}};
    table["(results)"] = {results, {}};
    table["shfl.sync.bfly.b32"] = {shuffle<XOR>, {4, 0, 4, 4, 4, 4}};
    table["shfl.sync.idx.b32"] = {shuffle<INDEX>, {4, 0, 4, 4, 4, 4}};
    table["shfl.sync.up.b32"] = {shuffle<UP>, {4, 0, 4, 4, 4, 4}};
    table["shfl.sync.down.b32"] = {shuffle<DOWN>, {4, 0, 4, 4, 4, 4}};
    table["bar.warp.sync"] = {warp_barrier, {4}};
    table["mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"] = {mma<16>, std::vector<u8>(14, 4)};
    table["mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"] = {mma<8>, std::vector<u8>(11, 4)};
    table["ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16"] = {load_matrices,
                                                               std::vector<u8>(5, 4)};
}

meaning ptx_meaning(const std::string &name)
{
    if (table.empty())
        fill_table();
    auto it = table.find(name);
    return it == table.end() ? meaning{nullptr, {}} : it->second;
}

/* ---- a warp ---- */

static void at_lanes(warp &w, u32 mask, s32 pc)
{
    EACH_LANE(mask)
    w.pc[lane] = pc;
}

/* The lanes that an exchange names: by its last operand, all where there is none. */
static u32 named(const warp &w, const insn &i, u32 mask)
{
    bool by_mask = i.run != load_matrices && i.run != mma<16> && i.run != mma<8>;
    return by_mask ? get<u32>(lanes(w, i.o[i.n_operand - 1]), std::countr_zero(mask)) : ~0u;
}

/* Everybody who is to take part is there, or those who are wait. */
static void meet(warp &w, const insn &i, s32 pc, u32 mask)
{
    u32 who_comes = named(w, i, mask), here = mask;
    for (int lane = 0; lane < LANES; lane++)
        here |= (w.parked >> lane & 1 && w.pc[lane] == pc) ? 1u << lane : 0;
    if (who_comes & ~w.alive)
        fault(w, i, std::countr_zero(mask), "names lanes that have ended");
    if (mask & ~who_comes)
        fault(w, i, std::countr_zero(mask & ~who_comes), "does not name the lane itself");
    if (here & ~who_comes || (who_comes & ~here)) {
        w.parked |= mask;
        at_lanes(w, mask, pc);
        return;
    }
    w.parked &= ~here;
    i.run(w, i, here);
    at_lanes(w, here, pc + 1);
}

static void control(warp &w, const insn &i, s32 pc, u32 mask)
{
    switch (i.kind) {
    case CALL:
        hand_over(w, *i.handed, mask);
        EACH_LANE(mask)
        {
            w.back[lane].push_back(pc + 1);
            w.pc[lane] = i.target;
        }
        return;
    case RETURN:
        EACH_LANE(mask)
        {
            if (w.back[lane].empty()) {
                w.alive &= ~(1u << lane);
                continue;
            }
            w.pc[lane] = w.back[lane].back();
            w.back[lane].pop_back();
        }
        return;
    case EXIT:
        w.alive &= ~mask;
        return;
    case BARRIER:
        w.at_block |= mask;
        at_lanes(w, mask, pc + 1);
        return;
    default:
        meet(w, i, pc, mask);
    }
}

/* Until every lane has ended or waits. Those that are furthest behind run first, together. */
static void run_warp(warp &w)
{
    const insn *code = w.b->l->m->code.data();
    u32 ready;
    u64 n_insn = 0;
    while ((ready = w.alive & ~w.parked & ~w.at_block) != 0) {
        s32 pc = INT32_MAX, limit = INT32_MAX;
        EACH_LANE(ready)
        pc = std::min(pc, w.pc[lane]);
        u32 mask = 0;
        EACH_LANE(ready)
        {
            if (w.pc[lane] == pc)
                mask |= 1u << lane;
            else
                limit = std::min(limit, w.pc[lane]);
        }
        for (;;) {
            const insn &i = code[pc];
            n_insn++;
            u32 m = i.guarded ? mask & predicate_of(w, i.guard) : mask;
            if (i.kind == PLAIN) {
                if (m)
                    i.run(w, i, m);
                pc++;
            } else if (i.kind == BRANCH && (m == mask || m == 0)) {
                pc = m ? i.target : pc + 1;
            } else {
                at_lanes(w, mask & ~m, pc + 1);
                if (i.kind == BRANCH)
                    at_lanes(w, m, i.target);
                else if (m)
                    control(w, i, pc, m);
                break;
            }
            if (pc >= limit) {
                at_lanes(w, mask, pc);
                break;
            }
        }
    }
    if (w.count)
        w.count->insns += n_insn;
    if (w.alive & w.parked) {
        int lane = std::countr_zero(w.alive & w.parked);
        fault(w, code[w.pc[lane]], lane, "waits for lanes that do not come");
    }
}

/* ---- a block ---- */

static void set_special(warp &w, int which, u32 value)
{
    for (int lane = 0; lane < LANES; lane++)
        put<u32>(w.base[0] + which * 4 * LANES, lane, value);
}

static void begin_warp(warp &w, block &b, u32 index, u32 n_thread)
{
    const launch &l = *b.l;
    w.b = &b;
    w.index = index;
    w.count = counts_of(l.f);
    w.base[1] = const_cast<unsigned char *>(l.m->constants.data());
    u32 n = std::min(n_thread - index * LANES, (u32)LANES);
    w.alive = n == LANES ? ~0u : (1u << n) - 1;
    w.parked = w.at_block = w.barriers = w.carry = 0;
    for (int d = 0; d < 3; d++) {
        set_special(w, NTID_X + d, l.block[d]);
        set_special(w, CTAID_X + d, b.id[d]);
        set_special(w, NCTAID_X + d, l.grid[d]);
    }
    set_special(w, WARPID, index);
    for (int lane = 0; lane < LANES; lane++) {
        u32 t = index * LANES + (u32)lane;
        put<u32>(w.base[0] + TID_X * 4 * LANES, lane, t % l.block[0]);
        put<u32>(w.base[0] + TID_Y * 4 * LANES, lane, t / l.block[0] % l.block[1]);
        put<u32>(w.base[0] + TID_Z * 4 * LANES, lane, t / l.block[0] / l.block[1]);
        put<u32>(w.base[0] + LANEID * 4 * LANES, lane, (u32)lane);
        put<u64>(w.base[0] + PARAM_BASE, lane, (u64)l.param);
        put<u64>(w.base[0] + LOCAL_BASE, lane, (u64)(w.local + (size_t)lane * l.m->local_bytes));
        w.pc[lane] = l.f->first;
        w.back[lane].clear();
    }
}

static void run_block(block &b, std::vector<warp> &warps, u32 n_thread, bool turned)
{
    u32 n = (n_thread + LANES - 1) / LANES;
    for (u32 k = 0; k < n; k++)
        begin_warp(warps[k], b, k, n_thread);
    for (;;) {
        bool waits = false;
        for (u32 k = 0; k < n; k++)
            run_warp(warps[turned ? n - 1 - k : k]);
        for (u32 k = 0; k < n; k++)
            waits |= warps[k].at_block != 0;
        if (!waits)
            return; /* all have ended: who waits for something else does not come back from run_warp
                     */
        for (u32 k = 0; k < n; k++)
            warps[k].at_block = 0;
        b.barriers++;
    }
}

/* Memory of warps: grows with what is asked for, and stays. */
static std::vector<warp> &warps_for(const ptx_module *m, u32 n)
{
    static std::unordered_map<const ptx_module *, std::vector<warp>> of;
    std::vector<warp> &ws = of[m];
    while (ws.size() < n) {
        warp w = {};
        w.base[0] = (unsigned char *)aligned_alloc(64, (m->register_bytes + 63) / 64 * 64);
        w.predicate = (u32 *)calloc(m->n_predicate + 1, sizeof(u32));
        w.local =
            (unsigned char *)aligned_alloc(64, ((size_t)m->local_bytes * LANES + 64) / 64 * 64);
        memset(w.local, 0xff, (size_t)m->local_bytes * LANES);
        ws.push_back(w);
    }
    return ws;
}

void ptx_run(const launch &l)
{
    static u32 number;
    static unsigned char *shared;
    const char *order = getenv("PTX_ORDER");
    bool turned = order && *order == '1';
    u32 n_thread = l.block[0] * l.block[1] * l.block[2];
    std::vector<warp> &warps = warps_for(l.m, (n_thread + LANES - 1) / LANES);
    if (!shared)
        shared = (unsigned char *)aligned_alloc(1024, SHARED_MOST + DYNAMIC_AT);
    race_launch(number);
    u64 n = (u64)l.grid[0] * l.grid[1] * l.grid[2];
    if (counts *c = counts_of(l.f)) {
        c->launches++;
        c->blocks += n;
    }
    for (u64 k = 0; k < n; k++) {
        u64 at = turned ? n - 1 - k : k;
        block b = {&l,
                   {(u32)(at % l.grid[0]), (u32)(at / l.grid[0] % l.grid[1]),
                    (u32)(at / l.grid[0] / l.grid[1])},
                   number++,
                   0,
                   shared,
                   DYNAMIC_AT + l.shared_bytes};
        memset(shared, 0xff, b.shared_end);
        run_block(b, warps, n_thread, turned);
    }
}
