// deep33 SECONDS: busy 33 frames deep, in functions that differ. The leaf keeps no frame pointer
// (gcc gives it no prologue), so a walk along frame pointers leaves out f1. -DOUTERMOST=f31 makes it
// one frame less.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) void f0(void) {
    for (uint64_t i = 0; i < 1000000; i++)
        sink = sink * 3 + i;
    __asm__ volatile("");
}
#define F(n, m)                                \
    __attribute__((noinline)) void f##n(void) { \
        f##m();                                \
        __asm__ volatile("");                  \
    }
F(1, 0) F(2, 1) F(3, 2) F(4, 3) F(5, 4) F(6, 5) F(7, 6) F(8, 7) F(9, 8) F(10, 9)
F(11, 10) F(12, 11) F(13, 12) F(14, 13) F(15, 14) F(16, 15) F(17, 16) F(18, 17) F(19, 18) F(20, 19)
F(21, 20) F(22, 21) F(23, 22) F(24, 23) F(25, 24) F(26, 25) F(27, 26) F(28, 27) F(29, 28) F(30, 29)
F(31, 30) F(32, 31)

#ifndef OUTERMOST
#define OUTERMOST f32
#endif

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        OUTERMOST();
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
}
