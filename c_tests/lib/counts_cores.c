// A stand-in for a program or library with MKL linked in statically: MKL counts cores by setting the caller's mask behind
// libc's functions, after the runtime has pinned. Such a file is known by the names of MKL's variables in its text.
#include "test.h"

extern const char *const mkl_variables[];
const char *const mkl_variables[] = {"MKL_DYNAMIC", "MKL_NUM_THREADS"};

void count_cores(int cpu);
void count_cores(int cpu) {
    unsigned char mask[32] = {0};
    mask[cpu / 8] = (unsigned char)(1 << cpu % 8);
    for (int times = 0; times < 3; times++) syscall(SYS_sched_setaffinity, 0, sizeof mask, mask);
}
