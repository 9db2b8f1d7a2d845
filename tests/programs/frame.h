// GCC drops the frame pointer of a leaf function that has nothing on its stack, whatever it is told,
// and a walk along frame pointers then misses the caller. Reading the frame pointer keeps it.
#define KEEP_FRAME __asm__ volatile("" : : "r"(__builtin_frame_address(0)))
