// pidfd_spawn() and pidfd_spawnp(), which glibc has from 2.39 on.
// case pidfd_spawn on all: returned=0 child=pin parent=pin -> returned=0 child=full parent=pin
// case pidfd_spawnp on all: returned=0 child=pin parent=pin -> returned=0 child=full parent=pin
#include "test.h"
#include <dlfcn.h>
#include <spawn.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

typedef int spawn_function(int *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                           char *const[], char *const[]);

int main(int argc, char **argv) {
    int pidfd;
    siginfo_t info;
    spawn_function *spawn = (spawn_function *)dlsym(RTLD_DEFAULT, argv[1]);
    need(spawn != NULL, "pidfd_spawn (2.39 and later have)");
    const char *path = strcmp(argv[1], "pidfd_spawn") ? "report" : reporter();
    pin();
    show_errno("returned", spawn(&pidfd, path, NULL, NULL, (char *[]){(char *)path, "child", NULL}, environ));
    waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED);
    show("parent");
}
