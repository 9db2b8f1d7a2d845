// inlines SECONDS: templates, and functions that are inlined into others.
#include "frame.h"

#include <cstdint>
#include <cstdlib>
#include <ctime>

namespace shapes {

static volatile std::uint64_t sink;

__attribute__((always_inline)) inline void innermost(std::uint64_t i) {
    sink = sink * 3 + i;
}

__attribute__((always_inline)) inline void middle(std::uint64_t count) {
    for (std::uint64_t i = 0; i < count; i++)
        innermost(i);
}

template <typename T, int N>
struct Burner {
    __attribute__((noinline)) void burn(T count) {
        middle(static_cast<std::uint64_t>(count) * N);
        KEEP_FRAME;
    }
};

}  // namespace shapes

int main(int argc, char **argv) {
    double seconds = argc > 1 ? std::atof(argv[1]) : 1;
    shapes::Burner<int, 3> burner;
    timespec now;
    do {
        burner.burn(100000);
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    } while (now.tv_sec + now.tv_nsec / 1e9 < seconds);
}
