// exec MILLISECONDS PROGRAM ARGS…: busy that long, then becomes PROGRAM.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

__attribute__((noinline)) void burn_before_exec(double seconds) {
    struct timespec now;
    do {
        for (uint64_t i = 0; i < 20000; i++)
            sink = sink * 3 + i;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    burn_before_exec(atof(argv[1]) / 1e3);
    execv(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
