// rename SECONDS COMM: busy under the name COMM, which may have any byte in it.
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) void burn_renamed(double seconds) {
    struct timespec now;
    do {
        for (uint64_t i = 0; i < 100000; i++)
            sink = sink * 3 + i;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
    __asm__ volatile("");
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    prctl(PR_SET_NAME, argv[2]);
    burn_renamed(atof(argv[1]));
}
