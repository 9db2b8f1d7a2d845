// rename SECONDS COMM: busy under the name COMM, which may have any byte in it.
#include "burn.h"

#include <stdlib.h>
#include <sys/prctl.h>

BURN(burn_renamed)

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    prctl(PR_SET_NAME, argv[2]);
    burn_renamed(atof(argv[1]));
}
