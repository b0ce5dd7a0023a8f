/* forbid ERROR PROGRAM ARG...: runs the program under a filter that makes sched_setaffinity fail with ERROR. */
#include "inway.h"

int main(int argc, char **argv) {
    if (argc < 3) return 97;
    forbid(SYS_sched_setaffinity, atoi(argv[1]));
    execv(argv[2], argv + 2);
    return 98;
}
