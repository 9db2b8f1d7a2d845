// The virtual machine's first process: profiles a program, sends the profile through the second
// serial line, tries what is not possible everywhere, and ends the machine. What it and rprofd print goes to the first.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PROFILE "/tmp/all.pb.gz"
#define TABLES "/tmp/tables"

static void mounted(const char *type, const char *at) {
    mkdir(at, 0755);
    if (mount(type, at, type, 0, NULL) != 0)
        perror(at);
}

static void run(char *const arguments[]) {
    pid_t child = fork();
    if (child == 0) {
        execv("/rprofd", arguments);
        perror("/rprofd");
        _exit(127);
    }
    int status = -1;
    waitpid(child, &status, 0);
    printf("rprofd: status %#x\n", status);
}

// How many unwind tables are kept.
static int tables(void) {
    DIR *dir = opendir(TABLES);
    if (dir == NULL)
        return 0;
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void recursion(const char *output, const char *seconds) {
    run((char *[]){"rprofd", "-v", "--unwind-cache", TABLES, "-o", (char *)output, "--", "/shapes",
                   "recursion", (char *)seconds, NULL});
}

static void profile(void) {
    // Programs of their own: that they load and tell something is seen in what is printed.
    run((char *[]){"rprofd", "-v", "-k", "wall,block,mutex,threadcreate", "-o", "/tmp/waits", "--",
                   "/shapes", "thread", "2", NULL});
    run((char *[]){"rprofd", "-v", "-k", "goroutine", "-o", "/tmp/threads", "--pid", "1", NULL});
    // Unwind tables, of the program, libc and its loader, may take many seconds to be made here.
    // What is looked at closely finds them made.
    const char *const longer[] = {"4", "8", "16", "32"};
    for (int i = 0; i < 4 && tables() < 3; i++)
        recursion("/tmp/first.pb.gz", longer[i]);
    recursion(PROFILE, "8");
}

// What rprofd does, and what its doctor says, where the kernel is not as it is to be.
static void lacking(const char *what) {
    printf("init: %s\n", what);
    run((char *[]){"rprofd", "-o", "/tmp/lacking.pb.gz", "--", "/shapes", "recursion", "1", NULL});
    run((char *[]){"rprofd", "doctor", NULL});
}

// The kernel keeps more from root from now on.
static void lock_down(const char *mode) {
    int file = open("/sys/kernel/security/lockdown", O_WRONLY);
    if (file < 0 || write(file, mode, strlen(mode)) < 0)
        perror("/sys/kernel/security/lockdown");
    close(file);
    lacking(mode);
}

static void send_profile(void) {
    int file = open(PROFILE, O_RDONLY);
    int line = open("/dev/ttyS1", O_WRONLY | O_NOCTTY);
    struct termios settings;
    if (file < 0 || line < 0 || tcgetattr(line, &settings) != 0) {
        perror("sending " PROFILE);
        return;
    }
    cfmakeraw(&settings);
    tcsetattr(line, TCSANOW, &settings);
    char part[4096];
    ssize_t length;
    while ((length = read(file, part, sizeof part)) > 0)
        for (ssize_t sent = 0; sent < length;) {
            ssize_t count = write(line, part + sent, length - sent);
            if (count < 0) {
                perror("/dev/ttyS1");
                return;
            }
            sent += count;
        }
    tcdrain(line);
}

int main(void) {
    setvbuf(stdout, NULL, _IONBF, 0);
    // `vm_test/mod.rs` looks for it: what goes wrong before is the kernel's own boot.
    printf("init: started\n");
    mounted("proc", "/proc");
    mounted("sysfs", "/sys");
    mounted("devtmpfs", "/dev");
    mounted("tmpfs", "/tmp");
    mounted("tracefs", "/sys/kernel/tracing");
    setenv("PATH", "/", 1);
    profile();
    send_profile();
    mounted("tmpfs", "/sys/kernel/btf");
    lacking("without BTF");
    umount("/sys/kernel/btf");
    mounted("securityfs", "/sys/kernel/security");
    lock_down("integrity");
    lock_down("confidentiality");
    sync();
    // qemu ends at a reboot.
    reboot(RB_AUTOBOOT);
}
