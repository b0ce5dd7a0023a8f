// vfork(): the child's own mask before its exec, and the parent's stack after it.
// case before_exec on all: child=pin parent=pin -> child=full parent=pin
// case alias on all: child=pin parent=pin -> child=full parent=pin
// case stack on all: child=pin locals=intact parent=pin -> child=full locals=intact parent=pin
#include "test.h"

pid_t __vfork(void) __attribute__((returns_twice));

/* Overwrites the stack below its caller, where a careless vfork wrapper would have left its return address. */
static __attribute__((noinline)) void scribble(void) {
    volatile char junk[4096];
    for (size_t i = 0; i < sizeof junk; i++) junk[i] = 0x5a;
}

int main(int argc, char **argv) {
    volatile long before = 0x1122334455667788, after = 0x99aabbccddeeff;
    pin();
    pid_t pid = strcmp(argv[1], "alias") ? vfork() : __vfork();
    if (pid == 0) {
        show("child");
        scribble();
        _exit(7);
    }
    int status = wait_for(pid);
    if (!strcmp(argv[1], "stack"))
        show_text("locals", before == 0x1122334455667788 && after == 0x99aabbccddeeff && WEXITSTATUS(status) == 7
                                ? "intact" : "damaged");
    show("parent");
}
