// reads SECONDS: most of the time inside the kernel, in read(2) of /dev/zero, called without the C
// library, whose wrapper keeps no frame pointer.
#include "frame.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

static char buffer[1 << 20];

__attribute__((noinline)) void read_zeros(long file) {
#if defined(__x86_64__)
    long result = SYS_read;
    __asm__ volatile("syscall"
                     : "+a"(result)
                     : "D"(file), "S"(buffer), "d"(sizeof buffer)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = file;
    register char *x1 __asm__("x1") = buffer;
    register long x2 __asm__("x2") = sizeof buffer;
    register long x8 __asm__("x8") = SYS_read;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x1), "r"(x2), "r"(x8) : "memory");
#endif
    KEEP_FRAME;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int file = open("/dev/zero", O_RDONLY);
    struct timespec now;
    do {
        for (int i = 0; i < 10; i++)
            read_zeros(file);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}
