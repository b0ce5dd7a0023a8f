// A runtime that gives its pin up again (omp_pause_resource_all; some do the same at exit) has not set a user mask. LLVM 14 keeps it.
// case {vfork,fork}:plain on libomp19,iomp2026: paused=full child=full -> paused=full child=full
// case {vfork,fork}:plain on libomp14: paused=pin child=pin -> paused=pin child=full
// case {vfork,fork}:then_user on libomp19,iomp2026: paused=full child=last -> paused=full child=last
// case {vfork,fork}:then_user on libomp14: paused=pin child=last -> paused=pin child=last
// case vfork:again on libomp19,iomp2026: paused=full again=narrow child=@again -> paused=full again=narrow child=full
// case vfork:again on libomp14: paused=pin again=narrow child=@again -> paused=pin again=narrow child=full
#include "ways.h"

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *then = strtok(NULL, ":");
    pin();
    if (omp_pause_resource_all(omp_pause_hard)) show_text("paused", "refused");
    show("paused");
    if (!strcmp(then, "then_user")) choose(0, last_cpu());
    if (!strcmp(then, "again")) {
#pragma omp parallel num_threads(2)
        sched_getcpu();
        show("again");
    }
    make_child(way);
}
