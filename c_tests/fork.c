// fork(). LLVM's runtimes repair this one themselves, in an atfork handler.
// case fork on libgomp: child=pin parent=pin -> child=full parent=pin
// case fork on llvm: child=full parent=pin -> child=full parent=pin
// case alias on libgomp: child=pin parent=pin -> child=full parent=pin
// case alias on llvm: child=full parent=pin -> child=full parent=pin
// case kmp_init_at_fork_0 on llvm: child=pin parent=pin -> child=full parent=pin
// env kmp_init_at_fork_0: KMP_INIT_AT_FORK=FALSE
#include "test.h"

pid_t __fork(void);

int main(int argc, char **argv) {
    pin();
    pid_t pid = strcmp(argv[1], "alias") ? fork() : __fork();
    if (pid == 0) {
        show("child");
        _exit(0);
    }
    wait_for(pid);
    show("parent");
}
