// reads_disk FILE: reads from a disk, around the page cache. Prints how often the thread waited
// meanwhile, by the kernel's count, and for how long it had no CPU, in nanoseconds: that is for the disk
// alone, since no other program takes its CPU from it.
#define _GNU_SOURCE
#include "frame.h"
#include "clock.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PART (16 << 20)
#define PARTS 8
#define TIMES 5

__attribute__((noinline)) static void in_disk(int file, char *buffer, off_t at) {
    if (pread(file, buffer, PART, at) != PART)
        abort();
    KEEP_FRAME;
}

static uint64_t on_cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static long waits(void) {
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    char *buffer = aligned_alloc(4096, PART);
    memset(buffer, 7, PART);
    int file = open(arguments[1], O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0600);
    if (file < 0)
        return 3;
    for (int part = 0; part < PARTS; part++)
        if (pwrite(file, buffer, PART, (off_t)part * PART) != PART)
            return 4;
    fsync(file);
    if (sched_setscheduler(0, SCHED_FIFO, &(struct sched_param){.sched_priority = 1}) != 0)
        return 5;
    long waited = waits();
    uint64_t begin = now() - on_cpu();
    for (int n = 0; n < TIMES * PARTS; n++)
        in_disk(file, buffer, (off_t)(n % PARTS) * PART);
    uint64_t length = now() - on_cpu() - begin;
    printf("%ld %llu\n", waits() - waited, (unsigned long long)length);
    unlink(arguments[1]);
}
