// exec MILLISECONDS PROGRAM ARGS…: busy that long, then becomes PROGRAM.
#include "burn.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

BURN(burn_before_exec)

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    burn_before_exec(atof(argv[1]) / 1e3);
    execv(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}
