// An atfork handler of the program that binds every child. LLVM's handler overwrites it when it is registered later.
// case {fork,forkpty}:early on libgomp: child=last parent=pin -> child=last parent=pin
// case {fork,forkpty}:early on llvm: child=full parent=pin -> child=last parent=pin
// case {fork,forkpty}:late on all: child=last parent=pin -> child=last parent=pin
// case {fork,forkpty}:early_equal on libgomp: child=pin parent=pin -> child=pin parent=pin
// case {fork,forkpty}:early_equal on llvm: child=full parent=pin -> child=pin parent=pin
// case {fork,forkpty}:late_equal on all: child=pin parent=pin -> child=pin parent=pin
#include "ways.h"

static int cpu;
static void bind_child(void) { choose(0, cpu); }

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *when = strtok(NULL, ":");
    cpu = strstr(when, "equal") ? first_cpu() : last_cpu();
    if (!strncmp(when, "early", 5)) pthread_atfork(NULL, NULL, bind_child);
    pin();
    if (!strncmp(when, "late", 4)) pthread_atfork(NULL, NULL, bind_child);
    make_child(way);
    show("parent");
}
