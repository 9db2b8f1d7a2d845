// reuse COUNT PROGRAM_A PROGRAM_B ARG: starts COUNT processes, A and B in turn, two at a time.
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    int running = 0;
    for (long i = 0; i < atol(argv[1]); i++) {
        if (running == 2) {
            wait(NULL);
            running--;
        }
        char *arguments[] = {argv[2 + i % 2], argv[4], NULL};
        pid_t pid;
        // Without a free pid: try again.
        while (posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ)) {
            wait(NULL);
            running--;
        }
        running++;
    }
    while (wait(NULL) > 0)
        ;
}
