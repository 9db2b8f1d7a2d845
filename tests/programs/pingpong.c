// pingpong [SECONDS]: two threads on one CPU that hand a byte to and fro as fast as they can; prints
// each millisecond how often; or, at the end, how often they have waited.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long times;
static int there[2], back[2];

static void *tells(void *unused) {
    for (;;) {
        struct timespec time = {0, 1000000};
        nanosleep(&time, NULL);
        if (printf("%lu\n", times) < 0 || fflush(stdout))
            exit(1);
    }
    return unused;
}

__attribute__((noinline)) static void pass(int from, int to) {
    char byte;
    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
        exit(1);
}

static void *other(void *unused) {
    for (;;)
        pass(there[0], back[1]);
    return unused;
}

int main(int argc, char **argv) {
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    pthread_t thread;
    if (argc == 1)
        pthread_create(&thread, NULL, tells, NULL);
    if (pipe(there) || pipe(back) || sched_setaffinity(0, sizeof first, &first))
        return 1;
    pthread_create(&thread, NULL, other, NULL);
    if (write(there[1], "x", 1) != 1)
        return 1;
    time_t end = argc > 1 ? time(NULL) + atoi(argv[1]) : 0;
    for (; !end || time(NULL) < end; times++)
        pass(back[0], there[1]);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%ld\n", usage.ru_nvcsw);
}
