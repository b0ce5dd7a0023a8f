// What workers that start together are told: their part, once and for all.
// case together on llvm: first=whole+whole later=same+same -> first=less+less later=same+same
// case called on llvm: first=whole+whole later=same+same -> first=whole+whole later=same+same
// case library_off on llvm: first=whole+whole later=same+same -> first=whole+whole later=same+same
// case parent_asked on llvm: parent=whole first=whole+whole later=same+same -> parent=whole first=whole+whole later=same+same
// env library_off: KNLFIX_SHARING=off
// pinning: off
// link: -ldl
#include "kmpc.h"
#include <sys/mman.h>

void omp_set_num_threads(int);

/* All workers are there before the first asks, and the last has asked before the first ends. */
static void meet(int *arrived, int number) {
    __atomic_add_fetch(arrived, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(arrived, __ATOMIC_SEQ_CST) < number) usleep(1000);
}

int main(int argc, char **argv) {
    int *arrived = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t workers[2];
    be_a_job();
    if (!strcmp(argv[1], "parent_asked")) show_team("parent", max_threads());
    for (int i = 0; i < 2; i++) {
        if ((workers[i] = fork()) != 0) continue;
        meet(arrived, 2);
        if (!strcmp(argv[1], "called")) omp_set_num_threads(allowed_cpus());
        int max = max_threads();
        meet(arrived + 1, 2);
        show_team("first", max);
        show_text("later", max_threads() == max && explicit_team(3) == 3 && max_threads() == max ? "same" : "changed");
        meet(arrived + 2, 2);
        _exit(0);
    }
    for (int i = 0; i < 2; i++) wait_for(workers[i]);
}
