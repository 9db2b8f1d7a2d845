// hangfs SOURCE MOUNTPOINT take|leave: a FUSE file system with the files of SOURCE, and no directories.
// At SIGUSR1 it stops to answer: what is asked from then on is taken from the kernel and never
// answered, or is not even taken. Prints a line when it is mounted, and another when it hangs.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static int device;
static const char *source;
static char *names[256];
static int count;
static volatile sig_atomic_t hangs;

static void on_signal(int number) { hangs = number; }

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void reply(uint64_t unique, int error, const void *data, size_t length) {
    static char buffer[(1 << 20) + 64];
    struct fuse_out_header *header = (void *)buffer;
    header->len = sizeof *header + length;
    header->error = -error;
    header->unique = unique;
    memcpy(header + 1, data, length);
    if (write(device, buffer, header->len) < 0 && errno != ENOENT) fail("write");
}

static const char *path(uint64_t node) {
    static char text[4096];
    if (node == FUSE_ROOT_ID) return source;
    snprintf(text, sizeof text, "%s/%s", source, names[node - 2]);
    return text;
}

static int attributes(uint64_t node, struct fuse_attr *attr) {
    struct stat stat;
    if (lstat(path(node), &stat)) return errno;
    memset(attr, 0, sizeof *attr);
    attr->ino = node;
    attr->size = stat.st_size;
    attr->blocks = stat.st_blocks;
    attr->mode = stat.st_mode;
    attr->nlink = 1;
    attr->uid = stat.st_uid;
    attr->blksize = 4096;
    return 0;
}

static uint64_t node_of(const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name)) return i + 2;
    if (count == 256) return 0;
    names[count++] = strdup(name);
    return count + 1;
}

static void answer(struct fuse_in_header *in) {
    const void *body = in + 1;
    int error;
    switch (in->opcode) {
    case FUSE_INIT: {
        struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096};
        return reply(in->unique, 0, &out, sizeof out);
    }
    case FUSE_LOOKUP: {
        struct fuse_entry_out out = {0};
        out.nodeid = node_of(body);
        error = out.nodeid ? attributes(out.nodeid, &out.attr) : ENFILE;
        return reply(in->unique, error, &out, error ? 0 : sizeof out);
    }
    case FUSE_GETATTR: {
        struct fuse_attr_out out = {0};
        error = attributes(in->nodeid, &out.attr);
        return reply(in->unique, error, &out, error ? 0 : sizeof out);
    }
    case FUSE_OPEN:
    case FUSE_OPENDIR: {
        struct fuse_open_out out = {0};
        return reply(in->unique, 0, &out, sizeof out);
    }
    case FUSE_READ: {
        static char data[1 << 20];
        const struct fuse_read_in *read = body;
        int file = open(path(in->nodeid), O_RDONLY);
        size_t size = read->size < sizeof data ? read->size : sizeof data;
        ssize_t length = pread(file, data, size, read->offset);
        close(file);
        return reply(in->unique, length < 0 ? EIO : 0, data, length < 0 ? 0 : length);
    }
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return;
    case FUSE_FLUSH:
    case FUSE_RELEASE:
    case FUSE_RELEASEDIR:
    case FUSE_ACCESS:
        return reply(in->unique, 0, "", 0);
    default:
        return reply(in->unique, ENOSYS, "", 0);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    source = argv[1];
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0) fail("/dev/fuse");
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("hangfs", argv[2], "fuse.hangfs", 0, options)) fail("mount");
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    puts("mounted");
    fflush(stdout);
    static char request[1 << 20];
    while (!hangs) {
        ssize_t length = read(device, request, sizeof request);
        if (length > 0) answer((void *)request);
        else if (errno == ENODEV) return 0;
    }
    puts("hangs");
    fflush(stdout);
    for (;;) {
        if (argv[3][0] == 'l') pause();
        else if (read(device, request, sizeof request) < 0 && errno == ENODEV) return 0;
    }
}
