// The virtual machine's first process: profiles a program, sends the profile through the second
// serial line, tries what is not possible everywhere, and ends the machine. What it and rprofd print goes to the first.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
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

static void step_clock(time_t seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec += seconds;
    if (clock_settime(CLOCK_REALTIME, &now) != 0)
        perror("the clock");
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    if (file < 0 || write(file, text, strlen(text)) < 0)
        perror(path);
    close(file);
}

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

// Puts the clock forward and back, and has the machine sleep for three seconds, while a program uses
// eight seconds of a CPU.
static void disturb(void) {
    pid_t child = fork();
    if (child == 0) {
        execl("/shapes", "shapes", "recursion", "8", NULL);
        perror("/shapes");
        _exit(127);
    }
    sleep(1);
    step_clock(3600);
    sleep(2);
    step_clock(-7200);
    sleep(2);
    step_clock(3600);
    double before[] = {seconds_of(CLOCK_BOOTTIME), seconds_of(CLOCK_MONOTONIC)};
    // `vm_test/mod.rs` looks for it: what ends before the next line has not woken.
    printf("init: sleeps\n");
    put("/sys/class/rtc/rtc0/wakealarm", "+3");
    put("/sys/power/state", "mem");
    double slept = seconds_of(CLOCK_BOOTTIME) - before[0] -
                   (seconds_of(CLOCK_MONOTONIC) - before[1]);
    printf("init: slept %.1f s\n", slept);
    waitpid(child, NULL, 0);
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    printf("init: shapes used %.2f s\n", used.ru_utime.tv_sec + used.ru_stime.tv_sec +
                                              (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

// That, profiled in windows.
static void disturbed(void) {
    printf("init: disturbed\n");
    run((char *[]){"rprofd", "-v", "--window", "1s", "--unwind-cache", TABLES, "-o", "/tmp/disturbed",
                   "--", "/init", "disturb", NULL});
}

// The kernel keeps more from root from now on.
static void lock_down(const char *mode) {
    put("/sys/kernel/security/lockdown", mode);
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

int main(int count, char **arguments) {
    setvbuf(stdout, NULL, _IONBF, 0);
    if (count > 1 && strcmp(arguments[1], "disturb") == 0) {
        disturb();
        return 0;
    }
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
    disturbed();
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
