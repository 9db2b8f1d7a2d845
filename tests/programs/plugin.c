// A library to load at run time: compiled with -DNAME=…, its `run` calls a function of that name
// until the process has used so many seconds of CPU time.
#include "burn.h"

BURN(NAME)

void run(double until) {
    NAME(until);
    KEEP_FRAME;
}
