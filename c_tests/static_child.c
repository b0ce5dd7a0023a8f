// A statically linked program: no preload gets into it, but its mask is right from its start.
// case {vfork,posix_spawn,system} on all: child=pin parent=pin -> child=full parent=pin
// case exec on all: child=pin -> child=full
#include "ways.h"

int main(int argc, char **argv) {
    char path[4096];
    pin();
    snprintf(path, sizeof path, "%s-static", reporter());
    setenv("REPORTER", path, 1);
    if (!strcmp(argv[1], "system")) {
        if (system("report-static child")) return 1;
    } else {
        make_child(argv[1]);
    }
    show("parent");
}
