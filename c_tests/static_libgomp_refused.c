// libgomp linked into the executable refuses its pinning variable (with a complaint on stderr) and pins nothing: the
// first mask that the program sets is its user's. The name is WAY:VALUE.
// case {fork,vfork,system,pthread_create}:{yes,cpus,empty} on libgomp: start=full child=first parent=first -> start=full child=first parent=first
// case exec:{yes,cpus,empty} on libgomp: start=full child=first -> start=full child=first
// pinning: off
// env *:yes: OMP_PROC_BIND=yes
// env *:cpus: OMP_PLACES=cpus
// env *:empty: OMP_PROC_BIND=
// launcher: sh -c 'exec "$@" 2>/dev/null' sh
// link: -static-runtime
#include "ways.h"

int main(int argc, char **argv) {
    cpu_set_t set;
    pin();
    show("start");
    set_only(&set, first_cpu());
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    make_child(strtok(argv[1], ":"));
    show("parent");
}
