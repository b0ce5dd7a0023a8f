// syscall(SYS_clone3): the kernel reads the arguments and finds the errors, nobody reads them before it. A struct of the
// first version may end where the memory ends.
// case all on none: low=EFAULT high=EFAULT unmapped=EFAULT cut=EFAULT empty=EINVAL short=EINVAL nothing=EINVAL huge=E2BIG edge=made -> low=EFAULT high=EFAULT unmapped=EFAULT cut=EFAULT empty=EINVAL short=EINVAL nothing=EINVAL huge=E2BIG edge=made
// case all on all: low=EFAULT high=EFAULT unmapped=EFAULT cut=EFAULT empty=EINVAL short=EINVAL nothing=EINVAL huge=E2BIG edge=made parent=pin -> low=EFAULT high=EFAULT unmapped=EFAULT cut=EFAULT empty=EINVAL short=EINVAL nothing=EINVAL huge=E2BIG edge=made parent=pin
#include "test.h"
#include <sys/mman.h>

enum { FIRST_VERSION = 64, THIS_VERSION = 88, PAGE = 4096 };

static void try(const char *label, long arguments, size_t size) {
    long pid = syscall(SYS_clone3, arguments, size);
    if (pid == 0) _exit(7);
    if (pid < 0) show_errno(label, errno);
    else show_text(label, WEXITSTATUS(wait_for((pid_t)pid)) == 7 ? "made" : "lost");
}

int main(void) {
#ifdef _OPENMP
    /* First: what the runtime and the library map would fill the hole. */
    pin();
#endif
    char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = page + PAGE;
    munmap(end, PAGE);
    uint64_t *edge = (uint64_t *)(end - FIRST_VERSION);
    edge[4] = SIGCHLD; /* exit_signal */
    try("low", 1, THIS_VERSION);
    try("high", -4096, THIS_VERSION);
    try("unmapped", (long)end, FIRST_VERSION);
    try("cut", (long)(end - 4), FIRST_VERSION);
    try("empty", -1, 0);
    try("short", (long)(end - 4), 4);
    try("nothing", 0, 0);
    try("huge", 1, 1 << 20);
    try("edge", (long)edge, FIRST_VERSION);
#ifdef _OPENMP
    show("parent");
#endif
}
