// syscall() of anything else: six arguments in, result and errno out.
// case through on all: mmap=mapped futex=ETIMEDOUT unknown=ENOSYS close=EBADF pid=same errno=kept parent=pin -> mmap=mapped futex=ETIMEDOUT unknown=ENOSYS close=EBADF pid=same errno=kept parent=pin
#include "test.h"
#include <linux/futex.h>
#include <sys/mman.h>

int main(void) {
    char name[] = "/tmp/knlfix-test-XXXXXX";
    struct timespec now;
    int word = 5, file = mkstemp(name);
    pin();

    /* The fifth and sixth argument of mmap: the file and the place in it. */
    unlink(name);
    if (ftruncate(file, 8192) || pwrite(file, "second page", 12, 4096) != 12) return 1;
    char *page = (char *)syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_PRIVATE, file, 4096);
    show_text("mmap", page != MAP_FAILED && !strcmp(page, "second page") ? "mapped" : "wrong");

    /* The sixth of this futex call is the set of bits to wait for: 0 would be EINVAL. */
    clock_gettime(CLOCK_MONOTONIC, &now);
    show_errno("futex", syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 5, &now, NULL, 1) < 0 ? errno : 0);

    show_errno("unknown", syscall(-1) < 0 ? errno : 0);
    show_errno("close", syscall(SYS_close, -1) < 0 ? errno : 0);
    errno = ENOTTY;
    show_text("pid", syscall(SYS_getpid) == getpid() ? "same" : "other");
    show_text("errno", errno == ENOTTY ? "kept" : "changed");
    show("parent");
}
