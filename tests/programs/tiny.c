// A shared library whose function does nothing: calling it is what takes time.
void tiny(void) {}
