// forks COUNT MILLISECONDS: starts COUNT children, two at a time, each busy for that much CPU time;
// prints the CPU time of all of them in nanoseconds.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

__attribute__((noinline)) void burn_in_child(double seconds) {
    struct timespec now;
    do {
        for (uint64_t i = 0; i < 20000; i++)
            sink = sink * 3 + i;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 100;
    double seconds = (argc > 2 ? atof(argv[2]) : 5) / 1e3;
    for (int started = 0; started < count; started++) {
        if (started >= 2)
            wait(NULL);
        if (fork() == 0) {
            burn_in_child(seconds);
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {
    }
    struct rusage use;
    getrusage(RUSAGE_CHILDREN, &use);
    printf("%ld\n", (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000000L +
                        (use.ru_utime.tv_usec + use.ru_stime.tv_usec) * 1000L);
}
