// deadlock: two threads that wait for each other's lock, one that waits for both to end, and one that
// computes.
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

static std::mutex first, second;
static std::uint64_t volatile sink;

__attribute__((noinline)) static void takes(std::mutex &one, std::mutex &other) {
    std::lock_guard<std::mutex> held(one);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    std::lock_guard<std::mutex> wanted(other);
}

__attribute__((noinline)) static void computes() {
    for (std::uint64_t n = 0;; n++)
        sink = sink * 3 + n;
}

int main() {
    std::thread left([] { takes(first, second); });
    std::thread right([] { takes(second, first); });
    std::thread busy(computes);
    left.join();
}
