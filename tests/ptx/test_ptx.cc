/* That every fault that ptx.h names is found, and that what is right runs. */
#include "tests/ptx/ptx.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

/* A kernel of one parameter, %out, with 64 numbers; %t is the thread. */
static std::string kernel(const std::string &body)
{
    return ".version 9.0\n.target sm_90\n.address_size 64\n"
           ".visible .entry k(.param .u64 p)\n{\n"
           ".reg .pred %q; .reg .b32 %t, %r<8>; .reg .f32 %f<20>; .reg .b64 %out, %at, %a<4>;\n"
           ".shared .align 16 .b8 own[512];\n"
           "ld.param.u64 %out, [p]; cvta.to.global.u64 %out, %out; mov.u32 %t, %tid.x;\n"
           "mul.wide.u32 %at, %t, 4; add.s64 %at, %out, %at; mov.u32 %r0, own; shl.b32 %r1, %t, "
           "2;\n"
           "add.s32 %r1, %r0, %r1;\n" +
           body + "\nret;\n}\n";
}

static void run(const std::string &body, uint32_t n_block, uint32_t n_thread, uint32_t *out)
{
    ptx_module *m = ptx_parse(kernel(body).c_str());
    unsigned char param[8];
    memory_add(out, 64 * sizeof *out);
    memcpy(param, &out, sizeof param);
    ptx_run({m, &m->functions[0], {n_block, 1, 1}, {n_thread, 1, 1}, 0, param});
    memory_remove(out);
}

/* What it says before it ends the program; "" = it ran. */
static std::string said(const std::string &body, uint32_t n_block, uint32_t n_thread)
{
    int pipe_of[2];
    assert_int_equal(pipe(pipe_of), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        static uint32_t out[64];
        dup2(pipe_of[1], 2);
        signal(SIGABRT, SIG_DFL);
        run(body, n_block, n_thread, out);
        _exit(0);
    }
    close(pipe_of[1]);
    char text[512];
    size_t n = 0;
    for (ssize_t got; (got = read(pipe_of[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = 0;
    close(pipe_of[0]);
    int how;
    waitpid(child, &how, 0);
    assert_true(WIFSIGNALED(how) == (n > 0));
    return text;
}

static void expect(const char *what, const std::string &body, uint32_t n_block, uint32_t n_thread)
{
    std::string text = said(body, n_block, n_thread);
    if (*what ? text.find(what) == std::string::npos : !text.empty())
        fail_msg("expected \"%s\", got \"%s\"", what, text.c_str());
}

static void ptx__run__computes(void **)
{
    uint32_t out[64] = {0};
    /* lanes part and meet again; what the neighbour in shared memory wrote */
    run("setp.lt.u32 %q, %t, 7; mov.u32 %r2, 100; @%q bra SMALL; mov.u32 %r2, 1000; SMALL: add.s32 "
        "%r2, %r2, %t;"
        "st.shared.u32 [%r1], %r2; bar.sync 0; xor.b32 %r3, %t, 33; shl.b32 %r3, %r3, 2; add.s32 "
        "%r3, %r0, %r3;"
        "ld.shared.u32 %r4, [%r3]; st.global.u32 [%at], %r4;",
        1, 64, out);
    for (uint32_t t = 0; t < 64; t++)
        assert_int_equal(out[t], (t ^ 33) + ((t ^ 33) < 7 ? 100 : 1000));
    run("mov.u32 %r2, 5; shfl.sync.bfly.b32 %r3|%q, %t, %r2, 31, -1; cvt.rn.f32.u32 %f0, %r3;"
        "fma.rn.f32 %f0, %f0, 0f40000000, 0f3F800000; cvt.rzi.u32.f32 %r4, %f0; st.global.u32 "
        "[%at], %r4;",
        1, 64, out);
    for (uint32_t t = 0; t < 64; t++)
        assert_int_equal(out[t], (t ^ 5) * 2 + 1);
    run("shf.l.wrap.b32 %r2, 0xa5000000, %t, %t; shf.r.wrap.b32 %r3, 0xa5000000, %t, %t; sub.u32 %r2, "
        "%r2, %r3; st.global.u32 [%at], %r2;",
        1, 64, out);
    for (uint32_t t = 0; t < 64; t++) { /* the halves of both words moved; 32 is not at all */
        uint64_t both = (uint64_t)t << 32 | 0xa5000000;
        assert_int_equal(out[t], (uint32_t)(both << t % 32 >> 32) - (uint32_t)(both >> t % 32));
    }
}

static void ptx__memory__is_held_to_its_ends(void **)
{
    expect("", "st.global.u32 [%at], %t;", 1, 64);
    expect("lie in no memory", "st.global.u32 [%at+4], %t;", 1, 64);
    expect("lie in no memory", "ld.global.u32 %r2, [%at+-4];", 1, 64);
    expect("no multiple of 8", "ld.global.u64 %a0, [%at];", 1, 64);
    expect("of shared memory", "mov.u32 %r2, 8192; st.shared.u32 [%r2], %t;", 1, 64);
}

static void ptx__threads__that_race_are_found(void **)
{
    const std::string write = "add.s32 %r2, %t, 1; st.shared.u32 [%r1], %r2;",
                      read = "xor.b32 %r3, %t, ";
    const std::string rest =
        "; shl.b32 %r3, %r3, 2; add.s32 %r3, %r0, %r3; ld.shared.u32 %r4, [%r3];";
    expect("", write + "bar.sync 0;" + read + "32" + rest, 1, 64);
    expect("races with thread", write + read + "32" + rest, 1, 64);
    expect("", write + "bar.warp.sync -1;" + read + "1" + rest, 1, 64);
    expect("races with thread", write + "bar.warp.sync -1;" + read + "32" + rest, 1, 64);
    expect("races with thread", write + read + "1" + rest, 1, 64);
    expect("races with thread", "mov.u32 %r2, %ctaid.x; st.global.u32 [%at], %r2;", 2, 64);
}

static void ptx__barriers__need_everybody(void **)
{
    expect("", "bar.sync 0; setp.lt.u32 %q, %t, 32; @%q ret; bar.sync 0;", 1,
           64); /* the ended are not waited for */
    expect("do not come", "setp.lt.u32 %q, %t, 16; @%q bar.sync 0; bar.warp.sync -1;", 1, 32);
    expect("have ended", "setp.lt.u32 %q, %t, 5; @%q ret; bar.warp.sync -1;", 1, 32);
    expect("do not come",
           "setp.lt.u32 %q, %t, 5; @%q bra FEW; bar.warp.sync -1; bra END; FEW: bar.warp.sync -1; "
           "END:",
           1, 32);
    expect("not there",
           "setp.lt.u32 %q, %t, 16; @!%q bra OUT; shfl.sync.bfly.b32 %r3, %t, 16, 31, 65535; OUT:",
           1, 32);
}

static void ptx__text__that_is_unknown_is_named(void **)
{
    expect("unknown instruction frobnicate.u32", "frobnicate.u32 %r2, %t;", 1, 32);
    expect("unknown operand %x", "add.s32 %r2, %x, 1;", 1, 32);
    expect("has 4 bytes where 8 are read", "add.s64 %a0, %r2, 1;", 1, 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ptx__run__computes),
        cmocka_unit_test(ptx__memory__is_held_to_its_ends),
        cmocka_unit_test(ptx__threads__that_race_are_found),
        cmocka_unit_test(ptx__barriers__need_everybody),
        cmocka_unit_test(ptx__text__that_is_unknown_is_named),
    };
    setenv("PTX_RACE", "1", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
