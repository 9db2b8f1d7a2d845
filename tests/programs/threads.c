// threads SECONDS: three threads, each busy in a function of its own under a name of its own; "late"
// takes its name half-way.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static double seconds;
static volatile uint64_t sinks[4 * 8];

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

#define BURN(name, index)                                                \
    __attribute__((noinline)) void name(double end) {                    \
        while (now() < end)                                              \
            for (uint64_t i = 0; i < 100000; i++)                        \
                sinks[index * 8] = sinks[index * 8] * 3 + i;             \
        __asm__ volatile("");                                            \
    }
BURN(burn_red, 0)
BURN(burn_green, 1)
BURN(burn_early, 2)
BURN(burn_late, 3)

static void *red(void *begin) {
    pthread_setname_np(pthread_self(), "red");
    burn_red(*(double *)begin + seconds);
    return NULL;
}

static void *green(void *begin) {
    pthread_setname_np(pthread_self(), "green");
    burn_green(*(double *)begin + seconds);
    return NULL;
}

static void *renamed(void *begin) {
    pthread_setname_np(pthread_self(), "early");
    burn_early(*(double *)begin + seconds / 2);
    pthread_setname_np(pthread_self(), "late");
    burn_late(*(double *)begin + seconds);
    return NULL;
}

int main(int argc, char **argv) {
    seconds = argc > 1 ? atof(argv[1]) : 1;
    double begin = now();
    void *(*bodies[])(void *) = {red, green, renamed};
    pthread_t ids[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&ids[i], NULL, bodies[i], &begin);
    for (int i = 0; i < 3; i++)
        pthread_join(ids[i], NULL);
}
