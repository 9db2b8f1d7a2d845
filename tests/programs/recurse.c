// recurse: 1,000 frames of one function, from a _start of its own; no C library whose code could
// lack frame pointers. Busy for some two seconds of two-gigahertz CPU.
#include "frame.h"

__asm__(".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
#if defined(__x86_64__)
        "xor %ebp, %ebp\n"
        "and $-16, %rsp\n"
        "call run\n"
        "mov $60, %eax\n"
        "xor %edi, %edi\n"
        "syscall\n"
#elif defined(__aarch64__)
        "mov x29, xzr\n"
        "mov x30, xzr\n"
        "bl run\n"
        "mov x8, #93\n"
        "mov x0, xzr\n"
        "svc #0\n"
#endif
        ".size _start, . - _start\n");

static volatile unsigned long sink;

__attribute__((noinline)) void bottom(void) {
    for (unsigned long i = 0; i < 2000000000; i++)
        sink = sink + i;
    KEEP_FRAME;
}

__attribute__((noinline)) void descend(int left) {
    if (left > 1)
        descend(left - 1);
    else
        bottom();
    __asm__ volatile("" : : "r"(left) : "memory");
}

void run(void) {
    descend(1000);
    __asm__ volatile("");
}
