// BURN(name): a function of that name, busy for so many seconds of the process's CPU time.
#include "frame.h"

#include <stdint.h>
#include <time.h>

static volatile uint64_t sink;

#define BURN(name)                                                \
    __attribute__((noinline)) void name(double seconds) {         \
        struct timespec now;                                      \
        do {                                                      \
            for (uint64_t i = 0; i < 20000; i++)                  \
                sink = sink * 3 + i;                              \
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);        \
        } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);       \
        KEEP_FRAME;                                               \
    }
