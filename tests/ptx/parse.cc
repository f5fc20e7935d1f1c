/* PTX text to instructions. */
#include "tests/ptx/ptx.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ptx_die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("ptx: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

enum symbol_kind { A_REGISTER, A_SHARED, A_VARIABLE, A_LOCAL, A_PARAM };
struct symbol {
    uint8_t kind, width; /* of a register; 0 = predicate */
    uint64_t at;         /* A_VARIABLE: the host's address */
    uint32_t bytes;
};

struct parser {
    const char *at;
    ptx_module *m;
    std::vector<std::unordered_map<std::string, symbol>> scope;
    std::unordered_map<std::string, int32_t> label;
    struct jump {
        int32_t insn;
        std::string to;
        std::vector<std::string> args, results;
        std::vector<symbol> arg_at, result_at;
    };
    std::vector<jump> branches, calls;
    uint32_t registers, predicates, shared; /* so far; every function has its own */
};

static void skip_space(parser &p)
{
    for (;;) {
        p.at += strspn(p.at, " \t\r\n");
        if (p.at[0] == '/' && p.at[1] == '/')
            p.at += strcspn(p.at, "\n");
        else
            return;
    }
}

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '$' || c == '%' || c == '.';
}

static std::string word(parser &p)
{
    skip_space(p);
    const char *from = p.at;
    while (name_char(*p.at))
        p.at++;
    return std::string(from, p.at);
}

static bool take(parser &p, char c)
{
    skip_space(p);
    if (*p.at != c)
        return false;
    p.at++;
    return true;
}

static void need(parser &p, char c)
{
    if (!take(p, c))
        ptx_die("'%c' expected at: %.60s", c, p.at);
}

static symbol *find(parser &p, const std::string &name)
{
    for (size_t i = p.scope.size(); i-- > 0;) {
        auto it = p.scope[i].find(name);
        if (it != p.scope[i].end())
            return &it->second;
    }
    return nullptr;
}

static uint32_t type_bytes(const std::string &type)
{
    if (type == "pred")
        return 0;
    size_t digits = type.find_first_of("0123456789");
    uint32_t bits = digits == std::string::npos ? 0 : (uint32_t)atoi(type.c_str() + digits);
    if (type.size() > 4 && type.compare(type.size() - 2, 2, "x2") == 0)
        bits *= 2;
    if (bits == 0)
        ptx_die("unknown type %s", type.c_str());
    return bits / 8;
}

static uint32_t rounded(uint32_t at, uint32_t align)
{
    return (at + align - 1) / align * align;
}

/* ---- constants ---- */

static operand constant(parser &p, uint64_t value, uint32_t width)
{
    uint32_t at = rounded((uint32_t)p.m->constants.size(), 8);
    p.m->constants.resize(at + width * LANES);
    for (int i = 0; i < LANES; i++)
        memcpy(&p.m->constants[at + i * width], &value, width);
    return {at, CONSTANT, (uint8_t)width, false};
}

static bool number(const std::string &text, uint64_t *ret)
{
    const char *s = text.c_str();
    char *end;
    bool negative = *s == '-';
    s += negative;
    if (*s < '0' || *s > '9')
        return false;
    if (s[0] == '0' && (s[1] == 'f' || s[1] == 'd' || s[1] == 'F' || s[1] == 'D'))
        *ret = strtoull(s + 2, &end, 16);
    else
        *ret = strtoull(s, &end, 0);
    if (*end == 'U')
        end++;
    if (*end)
        ptx_die("not a number: %s", text.c_str());
    *ret = negative ? -*ret : *ret;
    return true;
}

/* ---- declarations ---- */

struct declaration {
    std::string space, type, name;
    uint32_t align, bytes, count; /* count: of %name<count> */
};

/* <count>; 0 = none stands there */
static uint32_t how_many(parser &p)
{
    if (!take(p, '<'))
        return 0;
    uint32_t n = (uint32_t)atoi(word(p).c_str());
    need(p, '>');
    return n;
}

/* What stands behind .space: [.align N] [.type] name [<count>] [[size]] */
static declaration declare(parser &p, const std::string &space)
{
    declaration d = {space, "", "", 0, 0, 0};
    std::string w;
    while ((w = word(p)) != "" && w[0] == '.') {
        if (w == ".align")
            d.align = (uint32_t)atoi(word(p).c_str());
        else if (w != ".visible" && w != ".ptr" && w != ".global")
            d.type = w.substr(1);
    }
    d.name = w;
    d.bytes = type_bytes(d.type);
    d.align = d.align ? d.align : d.bytes;
    d.count = how_many(p);
    if (take(p, '[')) {
        d.bytes *= (uint32_t)atoi(word(p).c_str());
        need(p, ']');
    }
    return d;
}

static void new_register(parser &p, const std::string &name, uint32_t bytes)
{
    symbol s = {A_REGISTER, 0, 0, 0};
    if (bytes == 0) {
        s.at = p.predicates++;
    } else {
        s.width = bytes == 8 ? 8 : 4;
        s.at = p.registers;
        p.registers += s.width * LANES;
    }
    p.scope.back()[name] = s;
}

static void variable(parser &p, const declaration &d)
{
    unsigned char *at = (unsigned char *)aligned_alloc(256, rounded(d.bytes ? d.bytes : 1, 256));
    memset(at, 0, d.bytes);
    if (take(p, '=')) {
        uint32_t each = type_bytes(d.type), n = 0;
        need(p, '{');
        do {
            uint64_t value;
            if (!number(word(p), &value) || (n + 1) * each > d.bytes)
                ptx_die("initial values of %s", d.name.c_str());
            memcpy(at + n++ * each, &value, each);
        } while (take(p, ','));
        need(p, '}');
    }
    memory_add(at, d.bytes);
    p.m->variables.push_back(at);
    p.scope.back()[d.name] = {A_VARIABLE, 0, (uint64_t)at, d.bytes};
}

static void declaration_statement(parser &p, const std::string &space)
{
    if (space == ".reg") {
        declaration d = declare(p, space);
        for (;;) {
            if (d.count == 0)
                new_register(p, d.name, d.bytes);
            for (uint32_t i = 0; i < d.count; i++)
                new_register(p, d.name + std::to_string(i), d.bytes);
            if (!take(p, ','))
                break;
            d.name = word(p);
            d.count = how_many(p);
        }
    } else if (space == ".shared") {
        declaration d = declare(p, space);
        if (d.bytes == 0) { /* what the launch brings */
            p.scope.back()[d.name] = {A_SHARED, 0, DYNAMIC_AT, 0};
        } else {
            uint32_t at = rounded(p.shared, d.align);
            p.shared = at + d.bytes;
            if (p.shared > DYNAMIC_AT)
                ptx_die("more than %d bytes of shared variables", DYNAMIC_AT - SHARED_AT);
            p.scope.back()[d.name] = {A_SHARED, 0, at, d.bytes};
        }
    } else if (space == ".local" || space == ".param") {
        declaration d = declare(p, space);
        uint32_t at = rounded(p.m->local_bytes, d.align < 8 ? 8 : d.align);
        p.m->local_bytes = at + d.bytes;
        p.scope.back()[d.name] = {A_LOCAL, 0, at, d.bytes};
    } else if (space == ".pragma") {
        p.at += strcspn(p.at, ";");
    } else if (space == ".global" || space == ".const") {
        variable(p, declare(p, space));
    } else {
        ptx_die("unknown declaration %s", space.c_str());
    }
    need(p, ';');
}

/* ---- operands ---- */

static operand of_symbol(const symbol &s)
{
    return {(uint32_t)s.at, (uint8_t)(s.width ? REGISTER : PREDICATE), s.width, false};
}

static const struct {
    const char *name;
    int at;
} special[] = {{"%tid.x", TID_X},       {"%tid.y", TID_Y},       {"%tid.z", TID_Z},
               {"%ntid.x", NTID_X},     {"%ntid.y", NTID_Y},     {"%ntid.z", NTID_Z},
               {"%ctaid.x", CTAID_X},   {"%ctaid.y", CTAID_Y},   {"%ctaid.z", CTAID_Z},
               {"%nctaid.x", NCTAID_X}, {"%nctaid.y", NCTAID_Y}, {"%nctaid.z", NCTAID_Z},
               {"%laneid", LANEID},     {"%warpid", WARPID}};

/* A register or a number; width as the instruction reads it, 1 = as it comes, 0 = a predicate. */
static operand value(parser &p, const std::string &text, uint32_t width)
{
    uint64_t n;
    if (text == "_")
        ptx_die("a result is left out where that is not known");
    if (number(text, &n))
        return constant(p, n, width == 1 ? 8 : width);
    for (auto &s : special)
        if (text == s.name)
            return {(uint32_t)s.at * 4 * LANES, REGISTER, 4, false};
    bool negated = text[0] == '!';
    symbol *s = find(p, negated ? text.substr(1) : text);
    if (!s || s->kind != A_REGISTER)
        ptx_die("unknown operand %s", text.c_str());
    if (width != 1 && s->width != width)
        ptx_die("%s has %d bytes where %u are read", text.c_str(), s->width, width);
    operand o = of_symbol(*s);
    o.negated = negated;
    return o;
}

/* The place of a symbol, as a base register (or the constant 0) and a distance from it. */
static operand place(parser &p, const std::string &name, int64_t *disp, uint8_t *ret_space)
{
    symbol *s = find(p, name);
    if (!s)
        ptx_die("unknown name %s", name.c_str());
    switch (s->kind) {
    case A_REGISTER:
        return of_symbol(*s);
    case A_LOCAL:
        *disp += (int64_t)s->at;
        *ret_space = LOCAL;
        return {LOCAL_BASE, REGISTER, 8, false};
    case A_PARAM:
        *disp += (int64_t)s->at;
        *ret_space = PARAM;
        return {PARAM_BASE, REGISTER, 8, false};
    default:
        *disp += (int64_t)s->at;
        return constant(p, 0, 8);
    }
}

/* Operands, split at commas outside of brackets. */
static std::vector<std::string> split(const std::string &text)
{
    std::vector<std::string> ret;
    std::string now;
    int depth = 0;
    for (char c : text) {
        depth += c == '{' || c == '[' || c == '(';
        depth -= c == '}' || c == ']' || c == ')';
        if (c == ' ' || c == '\t' || c == '\n' || c == '\r')
            continue;
        if (c == ',' && depth == 0) {
            ret.push_back(now);
            now.clear();
        } else {
            now += c;
        }
    }
    if (!now.empty())
        ret.push_back(now);
    return ret;
}

static std::vector<std::string> inside(const std::string &text)
{
    return split(text.substr(1, text.size() - 2));
}

/* [base+distance] */
static operand address(parser &p, const std::string &text, insn &i)
{
    std::string in = text.substr(1, text.size() - 2);
    size_t plus = in.find('+');
    if (plus != std::string::npos) {
        uint64_t d;
        if (!number(in.substr(plus + 1), &d))
            ptx_die("address %s", text.c_str());
        i.disp = (int64_t)d;
        in.resize(plus);
    }
    return place(p, in, &i.disp, &i.space);
}

/* ---- instructions ---- */

static bool starts(const std::string &s, const char *with)
{
    return s.compare(0, strlen(with), with) == 0;
}

static std::vector<std::string> parts(const std::string &name)
{
    std::vector<std::string> ret(1);
    for (char c : name) {
        if (c == '.')
            ret.emplace_back();
        else
            ret.back() += c;
    }
    return ret;
}

static void put(insn &i, operand o)
{
    if (i.n_operand == sizeof i.o / sizeof *i.o)
        ptx_die("%s has too many operands", i.name);
    i.o[i.n_operand++] = o;
}

/* ld, st, atom: space, type and vector from the name; operands: the address, then values. */
static void memory_insn(parser &p, insn &i, const std::string &name,
                        const std::vector<std::string> &arg)
{
    std::string type, plain = name.substr(0, name.find('.')), rest;
    i.n_vector = 1;
    for (auto &s : parts(name)) {
        if (s == "global" || s == "const")
            i.space = GLOBAL;
        else if (s == "shared")
            i.space = SHARED;
        else if (s == "local")
            i.space = LOCAL;
        else if (s == "param")
            i.space = PARAM;
        else if (s == "v2" || s == "v4")
            i.n_vector = (uint8_t)(s[1] - '0');
        else if (s == "add" || s == "max")
            rest = "." + s;
        type = s;
    }
    i.access_bytes = (uint8_t)type_bytes(type);
    i.is_signed = type[0] == 's';
    bool store = plain == "st";
    uint8_t space = i.space;
    put(i, address(p, arg[store ? 0 : 1], i));
    if (space == PARAM && i.space == PARAM && i.o[0].at != PARAM_BASE)
        i.space = GENERIC; /* by a register: of the kernel's parameters */
    std::string data = arg[store ? 1 : 0];
    uint32_t width = plain == "atom" ? 4 : 1;
    for (auto &v : data[0] == '{' ? inside(data) : std::vector<std::string>{data})
        put(i, value(p, v, width));
    if (plain == "atom")
        put(i, value(p, arg[2], width));
    i.run = ptx_meaning(plain == "atom" ? plain + rest + "." + type : plain).run;
}

static void move_insn(parser &p, insn &i, const std::string &name,
                      const std::vector<std::string> &arg)
{
    std::string type = name.substr(4);
    uint32_t bytes = type_bytes(type);
    symbol *from = find(p, arg[1]);
    if (type == "pred") {
        put(i, value(p, arg[0], 0));
        uint64_t n;
        if (number(arg[1], &n))
            put(i, {(uint32_t)n, CONSTANT, 0, false});
        else
            put(i, value(p, arg[1], 0));
        i.run = ptx_meaning("mov.pred").run;
    } else if (arg[0][0] == '{' || arg[1][0] == '{') {
        bool unpack = arg[0][0] == '{';
        std::vector<std::string> part = inside(arg[unpack ? 0 : 1]);
        put(i, value(p, arg[unpack ? 1 : 0], bytes == 8 ? 8 : 4));
        for (auto &v : part)
            put(i, value(p, v, bytes / part.size() == 8 ? 8 : 4));
        i.access_bytes = (uint8_t)(bytes / part.size());
        i.run = ptx_meaning(unpack ? "mov.unpack" : "mov.pack").run;
    } else if (from && from->kind != A_REGISTER) {
        put(i, value(p, arg[0], bytes == 8 ? 8 : 4));
        uint8_t space;
        put(i, place(p, arg[1], &i.disp, &space));
        i.run = ptx_meaning("mov.place").run;
    } else {
        uint32_t width = bytes == 8 ? 8 : 4;
        put(i, value(p, arg[0], width));
        put(i, value(p, arg[1], width));
        i.run = ptx_meaning(width == 8 ? "mov.8" : "mov.4").run;
    }
}

static void push_call(parser &p, insn &i, const std::string &text)
{
    /* [(results),] name [, (arguments)] */
    std::vector<std::string> arg = split(text);
    parser::jump j = {(int32_t)p.m->code.size(), "", {}, {}, {}, {}};
    size_t at = 0;
    if (arg[0][0] == '(')
        j.results = inside(arg[at++]);
    j.to = arg[at++];
    if (at < arg.size())
        j.args = inside(arg[at]);
    for (auto &s : j.args)
        j.arg_at.push_back(*find(p, s));
    for (auto &s : j.results)
        j.result_at.push_back(*find(p, s));
    i.kind = CALL;
    i.handed = new std::vector<handover>;
    p.m->code.push_back(i);
    insn after = {};
    after.name = "(results)";
    after.run = ptx_meaning("(results)").run;
    after.handed = new std::vector<handover>;
    p.m->code.push_back(after);
    p.calls.push_back(j);
}

/* Conversions may read less than a register has: a copy of its lower half. */
static operand lower_half(parser &p, operand wide)
{
    new_register(p, "(half)", 4);
    operand half = of_symbol(*find(p, "(half)"));
    insn i = {};
    i.name = "cvt.u32.u64";
    i.run = ptx_meaning(i.name).run;
    i.n_operand = 2;
    i.o[0] = half, i.o[1] = wide;
    p.m->code.push_back(i);
    return half;
}

static void instruction(parser &p, const std::string &first)
{
    insn i = {};
    std::string name = first;
    if (first == "") {
        need(p, '@');
        bool negated = take(p, '!');
        i.guard = value(p, word(p), 0);
        i.guard.negated = negated;
        i.guarded = true;
        name = word(p);
    }
    skip_space(p);
    size_t n = strcspn(p.at, ";");
    std::string text(p.at, n);
    p.at += n + 1;
    std::vector<std::string> arg = split(text);
    i.name = strdup(name.c_str());
    if (name == "bra" || name == "bra.uni") {
        i.kind = BRANCH;
        p.branches.push_back({(int32_t)p.m->code.size(), arg[0], {}, {}, {}, {}});
    } else if (starts(name, "call")) {
        push_call(p, i, text);
        return;
    } else if (name == "ret" || name == "ret.uni" || name == "exit") {
        i.kind = name == "exit" ? EXIT : RETURN;
    } else if (name == "bar.sync" || name == "barrier.sync" || name == "barrier.sync.aligned") {
        i.kind = BARRIER;
    } else if (starts(name, "ld.") || starts(name, "st.") || starts(name, "atom.")) {
        memory_insn(p, i, name, arg);
    } else if (starts(name, "mov.")) {
        move_insn(p, i, name, arg);
    } else {
        meaning what = ptx_meaning(name);
        i.run = what.run;
        if (starts(name, "shfl.sync") || starts(name, "bar.warp") || starts(name, "mma.sync") ||
            starts(name, "ldmatrix.sync"))
            i.kind = EXCHANGE;
        std::vector<std::string> flat;
        for (auto &a : arg) {
            size_t bar = a.find('|');
            if (a[0] == '{') {
                for (auto &v : inside(a))
                    flat.push_back(v);
            } else if (bar != std::string::npos) { /* the second result of a shuffle */
                flat.push_back(a.substr(0, bar));
                i.optional_used = true;
                flat.push_back(a.substr(bar + 1));
            } else {
                flat.push_back(a);
            }
        }
        if (!what.run)
            ptx_die("unknown instruction %s %s", name.c_str(), text.c_str());
        std::vector<uint8_t> width = what.width;
        if (starts(name, "shfl.sync") && !i.optional_used)
            width.erase(width.begin() + 1);
        if (flat.size() != width.size())
            ptx_die("%s with %zu operands, not %zu: %s", name.c_str(), flat.size(), width.size(),
                    text.c_str());
        for (size_t k = 0; k < flat.size(); k++) {
            if (flat[k][0] == '[')
                put(i, address(p, flat[k], i));
            else if (k == 1 && starts(name, "cvt.") && width[k] == 4 &&
                     value(p, flat[k], 1).width == 8)
                put(i, lower_half(p, value(p, flat[k], 8)));
            else
                put(i, value(p, flat[k], width[k]));
        }
    }
    if (i.kind != BRANCH && i.kind != RETURN && i.kind != EXIT && i.kind != BARRIER && !i.run)
        ptx_die("unknown instruction %s", name.c_str());
    p.m->code.push_back(i);
}

/* ---- functions ---- */

static std::vector<parameter> params(parser &p, bool entry, uint32_t *bytes)
{
    std::vector<parameter> ret;
    need(p, '(');
    while (!take(p, ')')) {
        if (word(p) != ".param")
            ptx_die("a parameter expected at %.40s", p.at);
        declaration d = declare(p, ".param");
        uint32_t *sum = entry ? bytes : &p.m->local_bytes;
        uint32_t at = rounded(*sum, entry ? d.align : 8);
        *sum = at + d.bytes;
        ret.push_back({at, d.bytes});
        p.scope.back()[d.name] = {(uint8_t)(entry ? A_PARAM : A_LOCAL), 0, at, d.bytes};
        take(p, ',');
    }
    return ret;
}

static void body(parser &p)
{
    int depth = 1;
    while (depth > 0) {
        skip_space(p);
        if (take(p, '{')) {
            p.scope.emplace_back();
            depth++;
        } else if (take(p, '}')) {
            p.scope.pop_back();
            depth--;
        } else if (*p.at == '@') {
            instruction(p, "");
        } else {
            std::string w = word(p);
            if (w == "" && !*p.at)
                ptx_die("the text ends within a function");
            if (take(p, ':'))
                p.label[w] = (int32_t)p.m->code.size();
            else if (w[0] == '.')
                declaration_statement(p, w);
            else if (w != "" || !take(p, ';'))
                instruction(p, w);
        }
    }
    for (auto &b : p.branches) {
        auto to = p.label.find(b.to);
        if (to == p.label.end())
            ptx_die("no label %s", b.to.c_str());
        p.m->code[(size_t)b.insn].target = to->second;
    }
    p.branches.clear();
    p.label.clear();
}

static void function_of(parser &p, bool entry)
{
    function f = {};
    f.entry = entry;
    p.scope.emplace_back(); /* of parameters */
    skip_space(p);
    if (*p.at == '(')
        f.result = params(p, entry, &f.param_bytes);
    f.name = word(p);
    skip_space(p);
    if (*p.at == '(')
        f.param = params(p, entry, &f.param_bytes);
    skip_space(p);
    while (*p.at == '.') {
        std::string w = word(p);
        if (w == ".maxntid")
            f.max_threads = (uint32_t)atoi(word(p).c_str());
        else if (w != ".noreturn" && w != ".minnctapersm")
            ptx_die("unknown directive %s of %s", w.c_str(), f.name.c_str());
        p.at += strcspn(p.at, ".{;"); /* further dimensions are 1 */
    }
    if (take(p, ';')) { /* told beforehand */
        p.scope.pop_back();
        return;
    }
    need(p, '{');
    p.scope.emplace_back();
    f.first = (int32_t)p.m->code.size();
    body(p);
    p.scope.pop_back();
    insn end = {};
    end.kind = entry ? EXIT : RETURN;
    end.name = "(end)";
    p.m->code.push_back(end);
    p.m->by_name[f.name] = (int)p.m->functions.size();
    p.m->functions.push_back(f);
    p.m->register_bytes = p.registers;
    p.m->n_predicate = p.predicates;
}

static void link_calls(parser &p)
{
    for (auto &c : p.calls) {
        auto it = p.m->by_name.find(c.to);
        if (it == p.m->by_name.end())
            ptx_die("no function %s", c.to.c_str());
        const function &f = p.m->functions[(size_t)it->second];
        insn &call = p.m->code[(size_t)c.insn], &after = p.m->code[(size_t)c.insn + 1];
        call.target = f.first;
        for (size_t k = 0; k < c.arg_at.size(); k++)
            call.handed->push_back({(uint32_t)c.arg_at[k].at, f.param[k].at, f.param[k].bytes});
        for (size_t k = 0; k < c.result_at.size(); k++)
            after.handed->push_back(
                {f.result[k].at, (uint32_t)c.result_at[k].at, f.result[k].bytes});
    }
}

ptx_module *ptx_parse(const char *text)
{
    parser p = {};
    p.at = text;
    p.m = new ptx_module();
    p.registers = FIRST_REGISTER;
    p.shared = SHARED_AT;
    p.scope.emplace_back();
    for (skip_space(p); *p.at; skip_space(p)) {
        std::string w = word(p);
        if (w == ".version" || w == ".target" || w == ".address_size")
            p.at += strcspn(p.at, "\n");
        else if (w == ".visible" || w == ".weak" || w == ".extern")
            continue;
        else if (w == ".entry" || w == ".func")
            function_of(p, w == ".entry");
        else if (w[0] == '.')
            declaration_statement(p, w);
        else
            ptx_die("at: %.60s", p.at);
    }
    link_calls(p);
    return p.m;
}
