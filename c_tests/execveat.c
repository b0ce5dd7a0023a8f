// execveat().
// case vfork on all: child=pin parent=pin -> child=full parent=pin
// case in_place on all: child=pin -> child=full
// case failed on all: returned=-1 errno=ENOENT parent=pin -> returned=-1 errno=ENOENT parent=pin
#include "exec.h"

static int try_exec(const char *path) {
    need(execveat != NULL, "execveat (2.34 and later have)");
    return execveat(AT_FDCWD, path, (char *[]){(char *)path, "child", NULL}, environ, 0);
}
