// pingpong: two processes on one CPU that hand a byte to and fro as fast as they can; prints each
// millisecond how often. Each time is two switches.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long times;

static void *tells(void *unused) {
    for (;;) {
        struct timespec time = {0, 1000000};
        nanosleep(&time, NULL);
        if (printf("%lu\n", times) < 0 || fflush(stdout))
            exit(1);
    }
    return unused;
}

static void pass(int from, int to) {
    char byte;
    if (read(from, &byte, 1) != 1 || write(to, &byte, 1) != 1)
        exit(1);
}

int main(void) {
    int there[2], back[2];
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    pthread_t thread;
    pthread_create(&thread, NULL, tells, NULL);
    if (pipe(there) || pipe(back) || sched_setaffinity(0, sizeof first, &first))
        return 1;
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pass(there[0], back[1]);
    }
    if (write(there[1], "x", 1) != 1)
        return 1;
    for (;; times++)
        pass(back[0], there[1]);
}
