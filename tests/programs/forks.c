// forks COUNT MILLISECONDS: starts COUNT children, two at a time, each busy for that much CPU time;
// prints the CPU time of all of them in nanoseconds.
#include "burn.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

BURN(burn_in_child)

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
