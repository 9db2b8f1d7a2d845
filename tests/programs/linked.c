// Calls a function of a shared library and nothing else, so that samples are in the procedure
// linkage table; compiled without frame pointers.
#include "phases.h"
#include <time.h>

void tiny(void);

__attribute__((noinline)) static void calls(void) {
    for (int i = 0; i < 1000000; i++)
        tiny();
}

__attribute__((noinline)) static void linked(void) {
    double end = clock() + SECONDS * CLOCKS_PER_SEC;
    while (clock() < end)
        calls();
    phases_done++;
}

int main(void) {
    phases(linked);
    return phases_done == 0;
}
