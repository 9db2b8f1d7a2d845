// shares SECONDS: four functions that take 40, 30, 20 and 10 % of the time. Turns are short, so that
// each function's share holds over any longer stretch.
#include "frame.h"

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;

#define BURN(name)                                          \
    __attribute__((noinline)) void name(uint64_t units) {   \
        for (uint64_t i = 0; i < units * 1000; i++)         \
            sink = sink * 6364136223846793005u + i;         \
        KEEP_FRAME;                                         \
    }

BURN(burn_40)
BURN(burn_30)
BURN(burn_20)
BURN(burn_10)

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        burn_40(40);
        burn_30(30);
        burn_20(20);
        burn_10(10);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
}
