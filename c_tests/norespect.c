// KMP_AFFINITY=norespect pins beyond the launcher's limit. A child may never leave it.
// launcher: taskset -c $LAST
// env: KMP_AFFINITY=norespect,compact,granularity=fine
// case {fork,forkpty} on libomp14,libomp19,iomp2018: child=full parent=pin -> child=last parent=pin
// case {fork,forkpty} on iomp2026: child=last parent=pin -> child=last parent=pin
// case {vfork,posix_spawn,system,pthread_create,_Fork} on llvm: child=pin parent=pin -> child=last parent=pin
#include "ways.h"

int main(int argc, char **argv) {
    pin();
    make_child(argv[1]);
    show("parent");
}
