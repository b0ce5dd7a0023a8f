// fexecve(), which fails here for want of an open file.
// case vfork on all: child=pin parent=pin -> child=full parent=pin
// case in_place on all: child=pin -> child=full
// case failed on all: returned=-1 errno=EINVAL parent=pin -> returned=-1 errno=EINVAL parent=pin
#include "exec.h"

static int try_exec(const char *path) {
    return fexecve(open(path, O_RDONLY | O_CLOEXEC), (char *[]){(char *)path, "child", NULL}, environ);
}
