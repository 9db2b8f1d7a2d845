// shapes SHAPE [SECONDS]: stacks of several shapes, each with a leaf that is busy for 3 seconds of CPU
// time or that many; compiled without frame pointers.
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static volatile uint64_t sink;
static double seconds = 3;

__attribute__((noinline)) static void busy(double duration) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    double end = now.tv_sec + now.tv_nsec / 1e9 + duration;
    do {
        for (int i = 0; i < 100000; i++)
            sink = sink * 31 + i;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < end);
    sink++;
}

__attribute__((noinline)) static void descend(int depth) {
    if (depth == 0)
        busy(seconds);
    else
        descend(depth - 1);
    sink++;
}

__attribute__((noinline)) static void handler(int number) {
    busy(seconds);
    sink += number;
}

__attribute__((noinline)) static void signalled(void) {
    signal(SIGUSR1, handler);
    raise(SIGUSR1);
    sink++;
}

__attribute__((noinline)) static void variable(int size) {
    volatile char *space = alloca(size + sink % 7);
    space[size / 2] = 1;
    busy(seconds);
    sink += space[size / 2];
}

static int compare(const void *a, const void *b) {
    (void)a;
    (void)b;
    busy(seconds);
    return 0;
}

__attribute__((noinline)) static void sorted(void) {
    int numbers[2] = {2, 1};
    qsort(numbers, 2, sizeof *numbers, compare);
    sink += numbers[0];
}

static void *thread(void *argument) {
    busy(seconds);
    sink++;
    return argument;
}

__attribute__((noinline)) static void threaded(void) {
    pthread_t other;
    pthread_create(&other, NULL, thread, NULL);
    pthread_join(other, NULL);
    sink++;
}

int main(int argc, char **argv) {
    const char *shape = argc > 1 ? argv[1] : "";
    if (argc > 2)
        seconds = atof(argv[2]);
    if (strcmp(shape, "recursion") == 0)
        descend(1000);
    else if (strcmp(shape, "signal") == 0)
        signalled();
    else if (strcmp(shape, "alloca") == 0)
        variable(1000);
    else if (strcmp(shape, "callback") == 0)
        sorted();
    else if (strcmp(shape, "thread") == 0)
        threaded();
    else
        return 2;
    return sink == 1;
}
