// A library that has MKL inside, under a name of its own, sets the mask that libgomp has pinned to once more (MKL counts
// cores): that is no user's choice. What the user sets after it is.
// case {fork,_Fork,vfork,posix_spawn,system,clone,pthread_create}:counted on libgomp: child=pin parent=pin -> child=full parent=pin
// case {fork,vfork,system,pthread_create}:user on libgomp: child=last parent=last -> child=last parent=last
// case {fork,vfork,system,pthread_create}:equal on libgomp: child=first parent=first -> child=first parent=first
// case exec:counted on libgomp: child=pin -> child=full
// link: -Wl,--no-as-needed @counts_cores
#include "ways.h"

void count_cores(int cpu);

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *then = strtok(NULL, ":");
    pin();
    count_cores(first_cpu());
    if (!strcmp(then, "user")) choose(0, last_cpu());
    if (!strcmp(then, "equal")) choose(0, first_cpu());
    make_child(way);
    show("parent");
}
