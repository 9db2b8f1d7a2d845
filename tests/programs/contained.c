// contained SECONDS: busy in turns in a function and in code that it makes at run time, which it names
// in /tmp/perf-PID.map under the pid that it has in its own namespace. Prints that pid.
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

static volatile uint64_t sink;

__attribute__((noinline)) void burn_contained(uint64_t turns) {
    for (uint64_t i = 0; i < turns; i++)
        sink = sink * 3 + i;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    unsigned char *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return 1;
    memcpy(page, code, sizeof code);
    mprotect(page, 4096, PROT_READ | PROT_EXEC);
    __builtin___clear_cache((char *)page, (char *)page + 4096);
    void (*made)(uint64_t) = (void (*)(uint64_t))(uintptr_t)page;
    char name[64];
    snprintf(name, sizeof name, "/tmp/perf-%d.map", (int)getpid());
    FILE *map = fopen(name, "w");
    if (!map) {
        perror(name);
        return 1;
    }
    fprintf(map, "%lx 1000 made_contained\n", (unsigned long)page);
    fclose(map);
    printf("%d\n", (int)getpid());
    fflush(stdout);
    struct timespec now;
    do {
        burn_contained(1000000);
        made(3000000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}
