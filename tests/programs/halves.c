// halves SECONDS: a thread that computes and sleeps by turns, while the first one waits for its end.
// Prints of that thread, in nanoseconds, for how long it slept by its own clock, and what the kernel
// counts: on a CPU (without what a hypervisor took of that), and waiting for one.
#define _GNU_SOURCE
#include "frame.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static double seconds;
static volatile uint64_t sink;

static double clock_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

__attribute__((noinline)) static void computes(void) {
    double end = clock_of(CLOCK_MONOTONIC) + 0.03;
    while (clock_of(CLOCK_MONOTONIC) < end)
        for (uint64_t i = 0; i < 10000; i++)
            sink = sink * 3 + i;
    KEEP_FRAME;
}

__attribute__((noinline)) static void sleeps(void) {
    usleep(50000);
    KEEP_FRAME;
}

static void *half(void *unused) {
    double end = clock_of(CLOCK_MONOTONIC) + seconds;
    double slept = 0;
    while (clock_of(CLOCK_MONOTONIC) < end) {
        computes();
        double begin = clock_of(CLOCK_MONOTONIC);
        sleeps();
        slept += clock_of(CLOCK_MONOTONIC) - begin;
    }
    printf("%.0f ", slept * 1e9);
    char path[64], text[128] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/schedstat", gettid());
    FILE *file = fopen(path, "r");
    if (file && fgets(text, sizeof text, file))
        fputs(text, stdout);
    return unused;
}

int main(int argc, char **argv) {
    seconds = argc > 1 ? atof(argv[1]) : 2;
    pthread_t thread;
    pthread_create(&thread, NULL, half, NULL);
    pthread_join(thread, NULL);
}
