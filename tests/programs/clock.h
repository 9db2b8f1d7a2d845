// Time in nanoseconds.
#include <stdint.h>
#include <time.h>

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void pause_for(uint64_t ns) {
    struct timespec time = {0, ns};
    nanosleep(&time, NULL);
}
