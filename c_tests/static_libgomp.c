// libgomp linked into the executable: its pin is undone in children, and what the program itself sets is respected.
// case {fork,_Fork,vfork,posix_spawn,system,clone,pthread_create}:runtime on libgomp: child=pin parent=pin -> child=full parent=pin
// case exec:runtime on libgomp: child=pin -> child=full
// case {fork,vfork,system,pthread_create}:program on libgomp: child=last parent=last -> child=last parent=last
// case {fork,vfork,system,pthread_create}:program_equal on libgomp: child=first parent=first -> child=first parent=first
// case {fork,vfork,system,pthread_create}:program_pthread on libgomp: child=last parent=last -> child=last parent=last
// link: -static-runtime
#include "ways.h"

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *setter = strtok(NULL, ":");
    cpu_set_t set;
    pin();
    if (!strcmp(setter, "program")) choose(0, last_cpu());
    if (!strcmp(setter, "program_equal")) choose(0, first_cpu());
    if (!strcmp(setter, "program_pthread")) {
        set_only(&set, last_cpu());
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    make_child(way);
    show("parent");
}
