// args_on_file FILE SECONDS: maps a file over a page of its arguments, without reading it, and is busy
// for so many seconds of CPU time. With `-` for FILE the page is one that userfaultfd never fills.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "burn.h"

BURN(burn_args)

int main(int argc, char **argv) {
    if (argc == 3) {
        // Once more, with a page that holds nothing but an argument.
        static char padding[3 * 4096];
        memset(padding, 'x', sizeof padding - 1);
        execl("/proc/self/exe", argv[0], argv[1], argv[2], padding, NULL);
        return 1;
    }
    double seconds = atof(argv[2]);
    uintptr_t page = ((uintptr_t)argv[0] & ~(uintptr_t)4095) + 4096;
    if (page < (uintptr_t)argv[3])
        return 1;
    int anonymous = !strcmp(argv[1], "-"), file = anonymous ? -1 : open(argv[1], O_RDONLY);
    int flags = MAP_PRIVATE | MAP_FIXED | (anonymous ? MAP_ANONYMOUS : 0);
    if (mmap((void *)page, 4096, PROT_READ, flags, file, 0) == MAP_FAILED)
        return 1;
    if (anonymous) {
        int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register range = {.range = {page, 4096}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &range)) {
            perror("userfaultfd");
            return 1;
        }
    }
    burn_args(seconds);
    _exit(0);
}
