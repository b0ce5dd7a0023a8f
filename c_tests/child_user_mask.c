// A child that chooses its own mask before its exec (preexec_fn, taskset's way): the choice holds, also when it equals
// the parent's pin. A vfork child may write nothing that its parent would see.
// case {vfork,fork,_Fork}:last on all: child=last parent=pin -> child=last parent=pin
// case {vfork,fork,_Fork}:equal on all: child=pin parent=pin -> child=pin parent=pin
// case vfork:last_then_another on all: child=last next=pin parent=pin -> child=last next=full parent=pin
#include "test.h"

int main(int argc, char **argv) {
    char *way = strtok(argv[1], ":"), *which = strtok(NULL, ":");
    need(strcmp(way, "_Fork") || _Fork != NULL, "_Fork (2.34 and later have)");
    pin();
    pid_t pid = !strcmp(way, "vfork") ? vfork() : !strcmp(way, "fork") ? fork() : _Fork();
    if (pid == 0) {
        choose(0, strcmp(which, "equal") ? last_cpu() : first_cpu());
        execl(reporter(), "report", "child", (char *)NULL);
        _exit(127);
    }
    wait_for(pid);
    if (!strcmp(which, "last_then_another")) { /* the choice was that child's, not ours */
        if ((pid = vfork()) == 0) {
            execl(reporter(), "report", "next", (char *)NULL);
            _exit(127);
        }
        wait_for(pid);
    }
    show("parent");
}
