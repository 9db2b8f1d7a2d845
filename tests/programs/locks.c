// locks: one thread holds a lock for 12 ms at a time, 40 times, and each time another waits for it.
// Prints for how long that waited, by its own clock, in nanoseconds. Beside them a thread waits for a
// futex that nobody wakes.
#define _GNU_SOURCE
#include "frame.h"
#include "clock.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TIMES 40

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int go[2], done[2];
static uint64_t waited;

static void tell(int pipe[2]) {
    if (write(pipe[1], "x", 1) != 1)
        abort();
}

static void hear(int pipe[2]) {
    char byte;
    if (read(pipe[0], &byte, 1) != 1)
        abort();
}

__attribute__((noinline)) static void holds(void) {
    pthread_mutex_lock(&lock);
    tell(go);
    pause_for(12000000);
    pthread_mutex_unlock(&lock);
    KEEP_FRAME;
}

__attribute__((noinline)) static void wants(void) {
    uint64_t begin = now();
    pthread_mutex_lock(&lock);
    waited += now() - begin;
    pthread_mutex_unlock(&lock);
    KEEP_FRAME;
}

static void *waiter(void *unused) {
    for (int n = 0; n < TIMES; n++) {
        hear(go);
        wants();
        tell(done);
    }
    return unused;
}

static void *alone(void *unused) {
    static int word;
    for (int n = 0; n < 10; n++) {
        struct timespec time = {0, 20000000};
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    }
    return unused;
}

int main(void) {
    pthread_t threads[2];
    if (pipe(go) || pipe(done))
        return 1;
    pthread_create(&threads[0], NULL, waiter, NULL);
    pthread_create(&threads[1], NULL, alone, NULL);
    for (int n = 0; n < TIMES; n++) {
        holds();
        hear(done);
    }
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    printf("%llu\n", (unsigned long long)waited);
}
