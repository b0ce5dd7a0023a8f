// A pinned OpenMP program on a node with hundreds of CPUs: children TEAM SMALL WAY...
// Runs a region of TEAM threads, then makes a child in each WAY of c_tests/ways.h, and prints "LABEL VALUE" lines:
//   team N of N        how many different CPUs the team's threads are pinned to, of how many threads
//   parent MASK        what the kernel has for the main thread after the region, and again at the end
//   counted N          how many CPUs an application counts that asks libc for the mask
//   small ERRNO        what libc says to a mask of SMALL bytes, too few for this node
//   child MASK         for each WAY in turn, from the kernel
#include "../../c_tests/ways.h"

static void show_team(int size) {
    static int place[MASK_BYTES * 8]; // per thread: its CPU, or -1 if it may run on several
    static char taken[MASK_BYTES * 8];
    int different = 0;
#pragma omp parallel num_threads(size)
    {
        unsigned char mask[MASK_BYTES] = {0};
        int *mine = &place[omp_get_thread_num()];
        raw(SYS_sched_getaffinity, 0, sizeof mask, (long)mask);
        *mine = -2;
        for (int cpu = 0; cpu < MASK_BYTES * 8; cpu++)
            if (in_mask(mask, cpu)) *mine = *mine == -2 ? cpu : -1;
    }
    for (int i = 0; i < size; i++)
        if (place[i] >= 0 && !taken[place[i]]) taken[place[i]] = 1, different++;
    dprintf(1, "team %d of %d\n", different, size);
}

int main(int argc, char **argv) {
    static cpu_set_t set[8]; // 8192 CPUs
    show_team(atoi(argv[1]));
    show("parent");
    show_number("counted", sched_getaffinity(0, sizeof set, set) ? -1 : CPU_COUNT_S(sizeof set, set));
    errno = 0;
    sched_getaffinity(0, (size_t)atoi(argv[2]), set);
    show_number("small", errno);
    for (int i = 3; i < argc; i++) make_child(argv[i]);
    show("parent");
}
