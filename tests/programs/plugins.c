// plugins SECONDS LIBRARY…: loads each LIBRARY, runs it for so many seconds of CPU time under the
// thread name 1, 2 …, and unloads it. Prints the address of each one's function.
//
// `PATH=NEXT` puts NEXT in the place of PATH first, `memory:PATH` loads a copy in memory.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <unistd.h>

static void *load(char *library) {
    if (!strncmp(library, "memory:", 7)) {
        int from = open(library + 7, O_RDONLY | O_CLOEXEC);
        int to = memfd_create("in-memory", MFD_CLOEXEC);
        while (sendfile(to, from, NULL, 1 << 20) > 0) {
        }
        close(from);
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", to);
        void *handle = dlopen(path, RTLD_NOW);
        close(to);
        return handle;
    }
    char *next = strchr(library, '=');
    if (next) {
        *next++ = 0;
        if (rename(next, library)) {
            perror(next);
            return NULL;
        }
    }
    return dlopen(library, RTLD_NOW);
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    double seconds = atof(argv[1]);
    for (int i = 2; i < argc; i++) {
        void *handle = load(argv[i]);
        void (*run)(double) = handle ? (void (*)(double))dlsym(handle, "run") : NULL;
        if (!run) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        printf("%p\n", (void *)run);
        fflush(stdout);
        char name[16];
        snprintf(name, sizeof name, "%d", i - 1);
        prctl(PR_SET_NAME, name);
        run((i - 1) * seconds);
        // Between two of them, time is neither's.
        prctl(PR_SET_NAME, "between");
        if (dlclose(handle))
            return 1;
    }
}
