/* A library whose constructor takes its time: the loader holds its lock all the while. */
#include <unistd.h>

__attribute__((constructor)) static void slow(void) { usleep(2000); }
