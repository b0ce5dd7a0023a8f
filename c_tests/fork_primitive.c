// _Fork(): the fork that runs no atfork handlers.
// case _Fork on all: child=pin parent=pin -> child=full parent=pin
#include "test.h"

int main(void) {
    need(_Fork != NULL, "_Fork (2.34 and later have)");
    pin();
    pid_t pid = _Fork();
    if (pid == 0) {
        show("child");
        _exit(0);
    }
    wait_for(pid);
    show("parent");
}
