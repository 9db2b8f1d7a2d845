// rounds: the same work over and over, of about a millisecond each; prints how often, each time.
#include <stdint.h>
#include <stdio.h>

__attribute__((noinline)) static uint64_t mixed(uint64_t state, int depth) {
    if (depth > 0)
        return mixed(state * 6364136223846793005u + 1442695040888963407u, depth - 1) ^ state;
    return state;
}

int main(void) {
    uint64_t sum = 1;
    for (unsigned long round = 1;; round++) {
        for (int step = 0; step < 25000; step++)
            sum ^= mixed(sum + step, 8);
        // The sum is used, so that the work is done.
        if (printf("%lu\n", round + (sum == 0)) < 0 || fflush(stdout))
            return 1;
    }
}
