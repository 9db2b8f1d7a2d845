// rounds COUNT: the same work COUNT times over, of some milliseconds each.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((noinline)) static uint64_t mixed(uint64_t state, int depth) {
    if (depth > 0)
        return mixed(state * 6364136223846793005u + 1442695040888963407u, depth - 1) ^ state;
    return state;
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 100;
    uint64_t sum = 1;
    for (int round = 0; round < count; round++)
        for (int step = 0; step < 200000; step++)
            sum ^= mixed(sum + step, 8);
    printf("%llu\n", (unsigned long long)sum);
}
