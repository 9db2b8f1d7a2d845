// mapped SECONDS FILE: runs a busy loop in a private mapping of FILE, so that a profiler finds
// samples in a file that may be no ELF file at all; in memory without a file if that is `-`.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
// loop: dec %rdi; jnz loop; ret
static const unsigned char code[] = {0x48, 0xff, 0xcf, 0x75, 0xfb, 0xc3};
#elif defined(__aarch64__)
// loop: subs x0, x0, #1; b.ne loop; ret
static const unsigned char code[] = {0x00, 0x04, 0x00, 0xf1, 0xe1, 0xff,
                                     0xff, 0x54, 0xc0, 0x03, 0x5f, 0xd6};
#endif

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    double seconds = atof(argv[1]);
    int flags = MAP_PRIVATE, file = -1;
    if (!strcmp(argv[2], "-"))
        flags |= MAP_ANONYMOUS;
    else if ((file = open(argv[2], O_RDONLY)) < 0) {
        perror(argv[2]);
        return 1;
    }
    unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, file, 0);
    if (page == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    memcpy(page + 512, code, sizeof code);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    __builtin___clear_cache((char *)page, (char *)page + 4096);
    void (*loop)(uint64_t) = (void (*)(uint64_t))(uintptr_t)(page + 512);
    struct timespec now;
    do {
        loop(1000000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}
