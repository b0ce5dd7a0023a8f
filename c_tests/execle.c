// execle().
// case vfork on all: child=pin parent=pin -> child=full parent=pin
// case in_place on all: child=pin -> child=full
// case failed on all: returned=-1 errno=ENOENT parent=pin -> returned=-1 errno=ENOENT parent=pin
#include "exec.h"

static int try_exec(const char *path) {
    return execle(path, path, "child", (char *)NULL, environ);
}
