// forkpty(): libc calls its own fork inside, and atfork handlers run.
// case forkpty on libgomp: child=pin parent=pin -> child=full parent=pin
// case forkpty on llvm: child=full parent=pin -> child=full parent=pin
#include "test.h"
#include <pty.h>

int main(void) {
    int terminal, output = dup(1);
    pin();
    pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
    if (pid == 0) {
        dup2(output, 1);
        show("child");
        _exit(0);
    }
    wait_for(pid);
    show("parent");
}
