// Results and errno of the affinity calls are the kernel's, on a pinned thread and for odd sizes and pointers too.
// case all on all: different=0 get=ESRCH get_short=EINVAL set=EFAULT set_empty=EINVAL pthread_get_short=EINVAL pthread_set_empty=EINVAL tail=zero beyond=untouched errno=kept parent=pin -> different=0 get=ESRCH get_short=EINVAL set=EFAULT set_empty=EINVAL pthread_get_short=EINVAL pthread_set_empty=EINVAL tail=zero beyond=untouched errno=kept parent=pin
#include "test.h"

static int different;

/* The same call through libc's syscall() and behind its back. */
static void same(const char *what, long number, long pid, long length, void *mask) {
    errno = 0;
    long through = syscall(number, pid, length, mask), error = errno, truth = raw(number, pid, length, (long)mask);
    if (truth < 0 ? through != -1 || error != -truth : through != truth || error) {
        different++;
        dprintf(2, "%s: syscall() gave %ld (errno %ld), the kernel %ld\n", what, through, error, truth);
    }
}

int main(void) {
    static unsigned char large[1 << 20];
    cpu_set_t none, set;
    pin();
    CPU_ZERO(&none);

    for (long length = 0; length <= 40; length++) same("get, short", SYS_sched_getaffinity, 0, length, large);
    same("get, 128 bytes", SYS_sched_getaffinity, 0, 128, large);
    same("get, 1 MiB", SYS_sched_getaffinity, 0, sizeof large, large);
    same("get, odd size", SYS_sched_getaffinity, 0, 1023, large);
    same("get, NULL", SYS_sched_getaffinity, 0, 128, NULL);
    same("get, NULL, 1 MiB", SYS_sched_getaffinity, 0, sizeof large, NULL);
    same("get, bad address", SYS_sched_getaffinity, 0, 128, (void *)8);
    same("get, no such thread", SYS_sched_getaffinity, 999999999, 128, large);
    same("get, negative thread", SYS_sched_getaffinity, -1, 128, large);
    same("set, NULL", SYS_sched_setaffinity, 0, 128, NULL);
    same("set, bad address", SYS_sched_setaffinity, 0, 128, (void *)8);
    same("set, empty", SYS_sched_setaffinity, 0, sizeof none, &none);
    same("set, no bytes", SYS_sched_setaffinity, 0, 0, &none);
    same("set, no such thread", SYS_sched_setaffinity, 999999999, sizeof none, &none);
    show_number("different", different);

    show_errno("get", sched_getaffinity(999999999, sizeof set, &set) ? errno : 0);
    show_errno("get_short", sched_getaffinity(0, 4, &set) ? errno : 0);
    show_errno("set", sched_setaffinity(0, sizeof set, (cpu_set_t *)8) ? errno : 0);
    show_errno("set_empty", sched_setaffinity(0, sizeof none, &none) ? errno : 0);
    show_errno("pthread_get_short", pthread_getaffinity_np(pthread_self(), 4, &set));
    show_errno("pthread_set_empty", pthread_setaffinity_np(pthread_self(), sizeof none, &none));

    /* sched_getaffinity() clears what the kernel did not fill; the bare system call does not. */
    memset(large, 0xaa, sizeof large);
    sched_getaffinity(0, 8192, (cpu_set_t *)large);
    show_text("tail", large[8191] == 0 && large[8192] == 0xaa ? "zero" : "other");
    memset(large, 0xaa, sizeof large);
    long filled = syscall(SYS_sched_getaffinity, 0, 8192, large);
    show_text("beyond", filled > 0 && large[filled] == 0xaa && large[8191] == 0xaa ? "untouched" : "written");

    errno = ENOTTY;
    sched_getaffinity(0, sizeof set, &set);
    pthread_getaffinity_np(pthread_self(), 4, &set); /* fails, by its return value alone */
    syscall(SYS_gettid);
    show_text("errno", errno == ENOTTY ? "kept" : "changed");
    show("parent");
}
