// waits: a thread that waits in known ways, each 40 times for some 12 ms. Prints
// for each the function, what it waits for, how often, and for how long altogether, in nanoseconds.
#define _GNU_SOURCE
#include "frame.h"
#include "clock.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TIMES 40
#define LENGTH_NS 12000000

static int pipes[2], sockets[2], word;

__attribute__((noinline)) static void in_sleep(void) {
    pause_for(LENGTH_NS);
    KEEP_FRAME;
}

__attribute__((noinline)) static void in_poll(void) {
    poll(NULL, 0, LENGTH_NS / 1000000);
    KEEP_FRAME;
}

__attribute__((noinline)) static void in_pipe(void) {
    char byte;
    if (read(pipes[0], &byte, 1) != 1)
        abort();
    KEEP_FRAME;
}

__attribute__((noinline)) static void in_socket(void) {
    char byte;
    if (recv(sockets[0], &byte, 1, 0) != 1)
        abort();
    KEEP_FRAME;
}

__attribute__((noinline)) static void in_futex(void) {
    struct timespec time = {0, LENGTH_NS};
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0);
    KEEP_FRAME;
}

static pid_t child;

static void start_child(void) {
    child = fork();
    if (child == 0) {
        pause_for(LENGTH_NS);
        _exit(0);
    }
}

__attribute__((noinline)) static void in_child(void) {
    waitpid(child, NULL, 0);
    KEEP_FRAME;
}

static int wakes_pipe;

static void *waker(void *unused) {
    for (int n = 0; n < TIMES; n++) {
        pause_for(LENGTH_NS);
        if (write(wakes_pipe ? pipes[1] : sockets[1], "x", 1) != 1)
            abort();
    }
    return unused;
}

static void measure(const char *name, const char *reason, void (*wait_once)(void), int is_woken) {
    pthread_t thread;
    if (is_woken)
        pthread_create(&thread, NULL, waker, NULL);
    uint64_t sum = 0;
    for (int n = 0; n < TIMES; n++) {
        if (wait_once == in_child)
            start_child();
        uint64_t begin = now();
        wait_once();
        sum += now() - begin;
    }
    if (is_woken)
        pthread_join(thread, NULL);
    printf("%s %s %d %llu\n", name, reason, TIMES, (unsigned long long)sum);
}

int main(void) {
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
        return 1;
    measure("in_sleep", "sleep", in_sleep, 0);
    measure("in_poll", "poll", in_poll, 0);
    wakes_pipe = 1;
    measure("in_pipe", "pipe", in_pipe, 1);
    wakes_pipe = 0;
    measure("in_socket", "socket", in_socket, 1);
    measure("in_futex", "futex", in_futex, 0);
    measure("in_child", "child", in_child, 0);
}
