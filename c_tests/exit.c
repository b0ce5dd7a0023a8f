// Children made while the process ends: by an atexit handler, and by a library's destructor, when LLVM 19 and Intel 2026
// have set the mask back to what it was at their start.
// case plain on libgomp: handler=pin at_end=pin late_system=pin late_fork=pin -> handler=full at_end=pin late_system=full late_fork=full
// case user on all: handler=last at_end=last|full late_system=@at_end late_fork=@at_end|full -> handler=last at_end=last|full late_system=last late_fork=last
// link: -Wl,--no-as-needed @late
#include "test.h"

static void handler(void) {
    if (system("report handler")) show_text("handler", "failed");
}

int main(int argc, char **argv) {
    pin();
    atexit(handler);
    if (!strcmp(argv[1], "user")) choose(0, last_cpu());
}
