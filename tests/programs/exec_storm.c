// exec_storm SECONDS PROGRAM ARGS…: starts PROGRAM again and again, and waits for it each time.
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    double seconds = atof(argv[1]);
    struct timespec begin, now;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    do {
        pid_t child = vfork();
        if (child == 0) {
            execv(argv[2], argv + 2);
            _exit(127);
        }
        waitpid(child, NULL, 0);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - begin.tv_sec + (now.tv_nsec - begin.tv_nsec) / 1e9 < seconds);
}
