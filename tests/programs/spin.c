// spin THREADS SECONDS [STATUS]: that many busy threads; prints the CPU time that the kernel
// accounts to the process, in nanoseconds, and exits with STATUS.
#include "frame.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds;
static volatile uint64_t sinks[64 * 8];

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

__attribute__((noinline)) void spin_leaf(volatile uint64_t *sink) {
    for (uint64_t i = 0; i < 1000000; i++)
        *sink = *sink * 3 + i;
    KEEP_FRAME;
}

__attribute__((noinline)) void *spin_thread(void *sink) {
    double end = now(CLOCK_MONOTONIC) + seconds;
    while (now(CLOCK_MONOTONIC) < end)
        spin_leaf(sink);
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    seconds = argc > 2 ? atof(argv[2]) : 1;
    pthread_t ids[64];
    for (int i = 1; i < threads; i++)
        pthread_create(&ids[i], NULL, spin_thread, (void *)&sinks[i * 8]);
    spin_thread((void *)&sinks[0]);
    for (int i = 1; i < threads; i++)
        pthread_join(ids[i], NULL);
    printf("%.0f\n", now(CLOCK_PROCESS_CPUTIME_ID) * 1e9);
    return argc > 3 ? atoi(argv[3]) : 0;
}
