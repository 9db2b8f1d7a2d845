// short MILLISECONDS: busy that much CPU time, then ends. Compiled with -DID=n, so that each build
// has functions of its own.
#include "frame.h"

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define NAME2(name, id) name##id
#define NAME1(name, id) NAME2(name, id)
#define NAME(name) NAME1(name, ID)

static volatile uint64_t sink;

__attribute__((noinline)) void NAME(inner_)(void) {
    for (uint64_t i = 0; i < 20000; i++)
        sink = sink * 3 + i;
    KEEP_FRAME;
}

__attribute__((noinline)) void NAME(outer_)(void) {
    // So often that little of the time is spent beside it, in asking for the CPU time.
    for (int i = 0; i < 8; i++)
        NAME(inner_)();
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    double seconds = (argc > 1 ? atof(argv[1]) : 20) / 1e3;
    struct timespec now;
    do {
        NAME(outer_)();
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}
