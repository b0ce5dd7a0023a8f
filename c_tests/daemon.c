// daemon(): the process that goes on is a child, so it is no longer the one the runtime pinned.
// case daemon on libgomp: child=pin -> child=full
// case daemon on llvm: child=full -> child=full
#include "test.h"

int main(void) {
    pin();
    if (daemon(1, 1)) return 1;
    show("child");
}
