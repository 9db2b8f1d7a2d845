// Code that is seldom sampled unless something calls nothing else, by the first argument; compiled
// without frame pointers. All is done twice: the second time with tables there.
#define _GNU_SOURCE
#include "phases.h"
#include <alloca.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static double now(void) { return seconds_of(CLOCK_MONOTONIC); }

// CPU time of this process: there are as many samples of a phase on a full machine.
static double used(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

__attribute__((noinline)) static void work(int rounds) {
    for (int i = 0; i < rounds; i++)
        sink = sink * 31 + i;
}

__attribute__((noinline)) static void busy(double seconds) {
    double end = used() + seconds;
    do
        work(100000);
    while (used() < end);
    sink++;
}

// Nearly all of the time is spent in the vDSO.
__attribute__((noinline)) static void clocks(void) {
    double end = used() + SECONDS;
    struct timespec time;
    do {
        for (int i = 0; i < 10000; i++)
            clock_gettime(CLOCK_MONOTONIC, &time);
    } while (used() < end);
    sink += time.tv_nsec;
}

// The child works on its parent's stack, in its parent's memory.
__attribute__((noinline)) static void vforked(void) {
    pid_t child = vfork();
    if (child == 0) {
        busy(SECONDS);
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    sink++;
}

// Two arrays of a length that changes, beside each other and beside `alloca`.
__attribute__((noinline)) static void arrays(void) {
    int size = 1000 + sink % 7;
    for (int round = 0; round < 30; round++) {
        volatile char one[size + round * 8];
        volatile long other[size / 2 + round % 3];
        volatile char *third = alloca(16 + round);
        one[size / 2] = other[size / 4] = third[round] = 1;
        busy(SECONDS / 30.0);
        sink += one[size / 2] + other[size / 4] + third[round];
    }
}

__attribute__((noinline)) static void vforks(void) {
    double end = used() + SECONDS;
    do {
        pid_t child = vfork();
        if (child == 0)
            _exit(0);
        int status;
        waitpid(child, &status, 0);
    } while (used() < end);
    sink++;
}

// Children that take much memory and give it back, at their end and for another program.
__attribute__((noinline)) static void released(void) {
    double end = now() + 2 * SECONDS;
    for (int round = 0; now() < end; round++) {
        pid_t child = fork();
        if (child == 0) {
            size_t size = 64 << 20;
            memset(malloc(size), 1, size);
            if (round % 2)
                execl("/proc/self/exe", "frames", NULL);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
    }
    sink += 2;
}

static void *outlives(void *argument) {
    sleep(5);
    busy(SECONDS);
    exit(0);
}

// Becomes another program, which is itself, `rounds` times.
__attribute__((noinline)) static void execs(int rounds) {
    char left[16];
    busy(SECONDS / 20);
    snprintf(left, sizeof left, "%d", rounds - 1);
    if (rounds > 0)
        execl("/proc/self/exe", "frames", "execs", left, NULL);
    sink += 2;
}

// The first thread ends, and the process goes on after a while.
__attribute__((noinline)) static void outlived(void) {
    pthread_t other;
    pthread_create(&other, NULL, outlives, NULL);
    pthread_exit(NULL);
}

static void *short_thread(void *argument) {
    work(20000);
    sink++;
    return argument;
}

__attribute__((noinline)) static void threads(void) {
    double end = used() + SECONDS;
    do {
        pthread_t other;
        pthread_create(&other, NULL, short_thread, NULL);
        pthread_join(other, NULL);
    } while (used() < end);
    sink++;
}

// Each register that a function has to save is saved and restored around almost nothing, so that
// most samples are in the midst of a prologue or an epilogue.
__attribute__((noinline)) static void saves(void) {
    __asm__ volatile("" ::: "rbx", "rbp", "r12", "r13", "r14", "r15");
}

__attribute__((noinline)) static void prologues(void) {
    double end = used() + SECONDS;
    do {
        for (int i = 0; i < 100000; i++)
            saves();
    } while (used() < end);
    sink++;
}

// A frame whose stack is aligned to more than the ABI asks for, and has no known size: the frame
// pointer is neither relative to the CFA nor is what it was saved at.
__attribute__((noinline)) static void realigned(int size) {
    volatile char aligned[64] __attribute__((aligned(64)));
    volatile char *space = alloca(size + sink % 7);
    aligned[1] = space[size / 2] = 1;
    busy(SECONDS);
    sink += aligned[1] + space[size / 2];
}

// Its caller is found by the frame pointer, which the frame above has saved.
__attribute__((noinline)) static void by_frame_pointer(void) {
    int size = 1000;
    volatile char *space = alloca(size + sink % 7);
    space[size / 2] = 1;
    realigned(size);
    sink += space[size / 2];
}

int main(int argc, char **argv) {
    const char *shape = argc > 1 ? argv[1] : "";
    if (strcmp(shape, "vdso") == 0)
        phases(clocks);
    else if (strcmp(shape, "vfork") == 0)
        phases(vforked);
    else if (strcmp(shape, "arrays") == 0)
        phases(arrays);
    else if (strcmp(shape, "threads") == 0)
        phases(threads);
    else if (strcmp(shape, "vforks") == 0)
        phases(vforks);
    else if (strcmp(shape, "execs") == 0)
        execs(atoi(argv[2]));
    else if (strcmp(shape, "outlived") == 0)
        outlived();
    else if (strcmp(shape, "released") == 0)
        released();
    else if (strcmp(shape, "prologues") == 0)
        phases(prologues);
    else if (strcmp(shape, "realigned") == 0)
        phases(by_frame_pointer);
    else
        return 2;
    return sink == 1;
}
