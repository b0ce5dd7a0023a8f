// How long idle threads spin (the runtime's blocktime, 200 ms by default) beside another process that runs regions.
// case own on llvm: alone=200 crowded=200 again=200 -> alone=200 crowded=0 again=200
// case off on llvm: alone=200 crowded=200 again=200 -> alone=200 crowded=200 again=200
// case variable on llvm: alone=77 crowded=77 again=77 -> alone=77 crowded=77 again=77
// case default on llvm: alone=200 crowded=200 again=200 -> alone=200 crowded=200 again=200
// case called on llvm: alone=200 crowded=0 again=0 -> alone=200 crowded=0 again=0
// case explicit on llvm: alone=200 crowded=200 again=200 -> alone=200 crowded=0 again=200
// env off: KNLFIX_WAIT=off
// env variable: KMP_BLOCKTIME=77
// env default: KMP_BLOCKTIME=200
// pinning: off
// link: -ldl
#include "kmpc.h"

int kmp_get_blocktime(void);
void kmp_set_blocktime(int);

static int is_explicit;

static int blocktime_after_region(void) {
    if (is_explicit) explicit_team(2);
    else default_team();
    return kmp_get_blocktime();
}

int main(int argc, char **argv) {
    if (!strcmp(argv[1], "neighbour")) be_neighbour();
    be_a_job();
    is_explicit = !strcmp(argv[1], "explicit");
    int alone = blocktime_after_region();
    show_number("alone", alone);
    pid_t neighbour = start_neighbour();
    if (!strcmp(argv[1], "called")) kmp_set_blocktime(0);
    int crowded = blocktime_after_region();
    for (int i = 0; i < 50 && crowded == alone; i++) { /* so many regions are enough to see that nothing changes */
        usleep(1000);
        crowded = blocktime_after_region();
    }
    show_number("crowded", crowded);
    kill_neighbour(neighbour);
    show_number("again", until(blocktime_after_region, strcmp(argv[1], "called") ? alone : 0));
}
