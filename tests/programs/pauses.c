// pauses THREADS: so many threads that wait, and one that looks at the clock without end. Prints four
// times a second the longest time between two looks, in nanoseconds.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *waits(void *unused) {
    for (;;)
        pause();
    return unused;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    for (int n = 0; n < threads; n++) {
        pthread_t id;
        pthread_create(&id, NULL, waits, NULL);
    }
    for (uint64_t last = now_ns(), told = last, longest = 0;;) {
        uint64_t now = now_ns();
        if (now - last > longest)
            longest = now - last;
        last = now;
        if (now - told > 250000000) {
            printf("%llu\n", (unsigned long long)longest);
            fflush(stdout);
            told = last = now_ns();
            longest = 0;
        }
    }
}
