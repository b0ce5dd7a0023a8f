// execvp() of a bare name: libc tries the directories of PATH one after the other.
// case vfork on all: child=pin parent=pin -> child=full parent=pin
// case in_place on all: child=pin -> child=full
// case failed on all: returned=-1 errno=ENOENT parent=pin -> returned=-1 errno=ENOENT parent=pin
#include "exec.h"

static int try_exec(const char *path) {
    const char *name = strrchr(path, '/') + 1;
    return execvp(name, (char *[]){(char *)name, "child", NULL});
}
