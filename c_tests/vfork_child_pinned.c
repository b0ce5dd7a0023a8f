// A runtime sets a mask in a vfork child, which shares its parent's memory: the parent keeps its own pin, the same mask
// or another one, and its later children are repaired. The name is WAY:MASK:LATER, the last being the later child.
// case {vfork,clone}:{same,other}:{fork,vfork,system,pthread_create} on none: pinned=first parent=first child=first -> pinned=first parent=first child=full
// case {vfork,clone}:{same,other}:exec on none: pinned=first parent=first child=first -> pinned=first parent=first child=full
// env: KNLFIX_RUNTIMES=+libbinder
// link: -Wl,--no-as-needed @binder
#include "ways.h"

void bind_caller_to(int cpu);

static int child(void *cpu) {
    char *arguments[] = {"true", NULL};
    bind_caller_to((int)(intptr_t)cpu);
    execv("/bin/true", arguments);
    return 127;
}

int main(int argc, char **argv) {
    static char stack[64 * 1024] __attribute__((aligned(16)));
    char *way = strtok(argv[1], ":"), *mask = strtok(NULL, ":"), *later = strtok(NULL, ":");
    intptr_t cpu = strcmp(mask, "same") ? last_cpu() : first_cpu();
    pid_t pid;
    bind_caller_to(first_cpu());
    show("pinned");
    if (!strcmp(way, "vfork")) {
        if ((pid = vfork()) == 0) _exit(child((void *)cpu));
    } else {
        pid = clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, (void *)cpu);
    }
    if (wait_for(pid)) return 1;
    show("parent");
    make_child(later);
}
