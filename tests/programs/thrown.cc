// Throws and catches, so that samples are in the C++ runtime's own unwinder; compiled without frame
// pointers.
#include "phases.h"
#include <ctime>

static volatile int sink;

struct Guard {
    ~Guard() { sink++; }
};

__attribute__((noinline)) static void throws(int depth) {
    Guard guard;
    if (depth == 0)
        throw 1;
    throws(depth - 1);
    sink++;
}

__attribute__((noinline)) static void catches() {
    try {
        throws(5);
    } catch (int) {
        sink++;
    }
    sink++;
}

__attribute__((noinline)) static void exceptions() {
    double end = clock() + SECONDS * CLOCKS_PER_SEC;
    while (clock() < end)
        for (int i = 0; i < 100; i++)
            catches();
    sink++;
}

int main() {
    phases(exceptions);
    return sink == 0;
}
