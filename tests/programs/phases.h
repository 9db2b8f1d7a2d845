// Doing the same twice, the second time under the name "measured": by then what is needed to walk
// its stacks is there.
#include <sys/prctl.h>

// How long a phase takes.
#define SECONDS 2.0

static volatile int phases_done;

__attribute__((noinline)) static void phases(void (*work)(void)) {
    work();
    phases_done++;
    prctl(PR_SET_NAME, "measured");
    work();
    phases_done++;
}
