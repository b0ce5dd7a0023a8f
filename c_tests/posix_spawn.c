// posix_spawn(), also with attributes and file actions.
// case plain on all: returned=0 child=pin parent=pin -> returned=0 child=full parent=pin
// case attributes on all: returned=0 child=pin parent=pin -> returned=0 child=full parent=pin
// case failed on all: returned=ENOENT parent=pin -> returned=ENOENT parent=pin
#include "test.h"
#include <spawn.h>

int main(int argc, char **argv) {
    pid_t pid;
    posix_spawnattr_t attributes, *with = NULL;
    posix_spawn_file_actions_t actions;
    const char *path = strcmp(argv[1], "failed") ? reporter() : "/nonexistent/program";
    pin();
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    if (!strcmp(argv[1], "attributes")) {
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
        with = &attributes;
    }
    int error = posix_spawn(&pid, path, with ? &actions : NULL, with, (char *[]){(char *)path, "child", NULL}, environ);
    show_errno("returned", error);
    if (!error) wait_for(pid);
    show("parent");
}
