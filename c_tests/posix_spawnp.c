// posix_spawnp() of a bare name: libc does not reach it through posix_spawn.
// case plain on all: returned=0 child=pin parent=pin -> returned=0 child=full parent=pin
// case failed on all: returned=ENOENT parent=pin -> returned=ENOENT parent=pin
#include "test.h"
#include <spawn.h>

int main(int argc, char **argv) {
    pid_t pid;
    char *name = strcmp(argv[1], "failed") ? "report" : "no-such-program";
    pin();
    int error = posix_spawnp(&pid, name, NULL, NULL, (char *[]){name, "child", NULL}, environ);
    show_errno("returned", error);
    if (!error) wait_for(pid);
    show("parent");
}
