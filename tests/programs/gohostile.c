// gohostile MODE: says that it is a Go program, and keeps what Go's runtime would so that whoever reads
// it is led astray: `cyclic` lists, `counts` of 2^60, pointers to `nowhere`, all `changing` all the
// time. Meanwhile it calls what it has in the place of the scheduler with whatever comes to mind.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// `cmd/go/internal/version`: what it was built with, as two strings with their lengths in front.
__attribute__((section(".go.buildinfo"), used, aligned(16)))
static const char build[] = "\xff Go buildinf:\x08\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                            "\x08go1.26.8\0";

#define VARIABLE(name) volatile uint64_t name __asm__("runtime." #name)
#define VARIABLES(name, count) volatile uint64_t name[count] __asm__("runtime." #name)

VARIABLE(mbuckets);
VARIABLE(bbuckets);
VARIABLE(xbuckets);
VARIABLE(mProfCycle);
VARIABLE(MemProfileRate) = 512 << 10;
VARIABLE(blockprofilerate);
VARIABLE(mutexprofilerate);
VARIABLES(ticks, 8);
VARIABLE(allgs);
VARIABLE(allglen);
VARIABLE(fingStatus);
VARIABLES(memstats, 4096);
VARIABLES(gcController, 64);

// Both begin as Go's compiler has it.
void park(void);
void ready(void);
__asm__(".text\n"
        ".globl runtime.gopark, runtime.ready, park, ready\n"
        ".type runtime.gopark, @function\n"
        "park: runtime.gopark: cmp 0x10(%r14), %rsp\n ret\n"
        ".size runtime.gopark, . - runtime.gopark\n"
        ".type runtime.ready, @function\n"
        "ready: runtime.ready: cmp 0x10(%r14), %rsp\n ret\n"
        ".size runtime.ready, . - runtime.ready\n");

// Buckets, goroutines and pointers to them, one in the other.
static volatile uint64_t memory[1 << 16];

static uint64_t number(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

// A word that may be anything, mostly something that looks right.
static uint64_t word(void) {
    switch (number() % 6) {
    case 0:
        return number();
    case 1:
        return number() % 64;
    case 2:
        return 1ul << 60;
    default:
        return (uint64_t)&memory[number() % (1 << 16)];
    }
}

static void bucket(int at, uint64_t next, uint64_t type, uint64_t frames) {
    uint64_t words[] = {0, next, type, 0, 64, frames};
    for (int n = 0; n < 6; n++)
        memory[at + n] = words[n];
}

static void *change(void *nothing) {
    (void)nothing;
    for (;;) {
        memory[number() % (1 << 16)] = word();
        if (number() % 1024 == 0) {
            allglen = word();
            mbuckets = word();
        }
    }
    return NULL;
}

static void call(void (*function)(void), uint64_t g) {
    register uint64_t r14 __asm__("r14") = g;
    uint64_t rax = word(), rbx = word(), rcx = number() % 64;
    __asm__ volatile("call *%[function]"
                     : "+a"(rax), "+b"(rbx), "+c"(rcx), "+r"(r14)
                     : [function] "r"(function)
                     : "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    uint64_t first = (uint64_t)&memory[0], second = (uint64_t)&memory[64];
    allgs = first;
    allglen = 64;
    mbuckets = bbuckets = xbuckets = first;
    if (strcmp(mode, "cyclic") == 0) {
        for (int type = 1; type <= 3; type++) {
            bucket(type * 128, (uint64_t)&memory[type * 128 + 64], type, 1);
            bucket(type * 128 + 64, (uint64_t)&memory[type * 128], type, 1);
        }
        mbuckets = (uint64_t)&memory[128];
        bbuckets = (uint64_t)&memory[256];
        xbuckets = (uint64_t)&memory[384];
        // Each goroutine is the list of them.
        for (int n = 0; n < 64; n++)
            memory[n] = first;
    } else if (strcmp(mode, "counts") == 0) {
        bucket(0, second, 1, 1ul << 60);
        bucket(64, first, 2, UINT64_MAX);
        allglen = 1ul << 60;
    } else if (strcmp(mode, "nowhere") == 0) {
        allgs = 0xdead0000;
        mbuckets = UINT64_MAX - 7;
        bbuckets = 8;
        xbuckets = 1ul << 63;
    } else {
        for (int n = 0; n < 1 << 16; n++)
            memory[n] = word();
        pthread_t thread;
        pthread_create(&thread, NULL, change, NULL);
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        // A goroutine that waits, and is to go on at once, or is another one.
        call(park, (uint64_t)&memory[number() % 60000]);
        call(ready, (uint64_t)&memory[number() % 60000]);
        usleep(500);
    }
}
